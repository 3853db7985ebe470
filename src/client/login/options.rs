//! The startup parameter `options`: command-line switches of a backend, of which a pooler can honour settings only.
//!
//! As PostgreSQL reads it (manual, "Connection Control Functions", `options`): words are separated by blanks, a backslash takes
//! the next character as it is; `-c name=value`, `-cname=value` and `--name=value` set a parameter, in whose name `-` stands
//! for `_`. Every word either yields a setting or ends the reading with an error, so no text can hold the reader.

/// A name and its value.
pub(crate) type Setting = (Vec<u8>, Vec<u8>);

/// What is wrong with the text; the offending word is the client's own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// `-c` at the end.
    #[error("option \"-c\" in the startup parameter \"options\" lacks its name=value")]
    NoArgument,
    /// `-c name`, `--name`.
    #[error("option \"{0}\" in the startup parameter \"options\" lacks a value: write name=value")]
    NoValue(String),
    /// `-c =x`, `-c 1x=y`, `--a b=c` …
    #[error("invalid parameter name \"{0}\" in the startup parameter \"options\"")]
    Name(String),
    /// `-W 10`, `-`, `x`.
    #[error(
        "\"{0}\" in the startup parameter \"options\" is not supported: only -c name=value and --name=value are"
    )]
    Switch(String),
}

/// The settings in their order; a later one of the same name counts.
pub(crate) fn parse(options: &[u8]) -> Result<Vec<Setting>, OptionsError> {
    let mut settings = Vec::new();
    let mut words = words(options).into_iter();
    while let Some(word) = words.next() {
        let assignment = match word.as_slice() {
            b"-c" => words.next().ok_or(OptionsError::NoArgument)?,
            [b'-', b'c', rest @ ..] => rest.to_vec(),
            [b'-', b'-', rest @ ..] if !rest.is_empty() => rest.to_vec(),
            _ => return Err(OptionsError::Switch(shown(&word))),
        };
        settings.push(setting(&assignment)?);
    }
    Ok(settings)
}

fn setting(assignment: &[u8]) -> Result<Setting, OptionsError> {
    let equals = assignment.iter().position(|b| *b == b'=');
    let Some(equals) = equals else {
        return Err(OptionsError::NoValue(shown(assignment)));
    };
    let name: Vec<u8> = assignment[..equals]
        .iter()
        .map(|b| if *b == b'-' { b'_' } else { *b })
        .collect();
    if !is_name(&name) {
        return Err(OptionsError::Name(shown(&assignment[..equals])));
    }
    Ok((name, assignment[equals + 1..].to_vec()))
}

/// Whether PostgreSQL could have a parameter of that name (`valid_custom_variable_name` in its `guc.c`): identifiers, with dots
/// between them.
pub(crate) fn is_name(name: &[u8]) -> bool {
    name.split(|b| *b == b'.').all(|part| {
        part.first()
            .is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_' || !b.is_ascii())
            && part
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$') || !b.is_ascii())
    })
}

fn words(options: &[u8]) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut bytes = options.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => words.extend(word.take()),
            b'\\' => {
                // A backslash at the very end stands for nothing.
                word.get_or_insert_default().extend(bytes.next());
            }
            _ => word.get_or_insert_default().push(*byte),
        }
    }
    words.extend(word);
    words
}

fn shown(word: &[u8]) -> String {
    word.escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(options: &str) -> Vec<(String, String)> {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let settings =
            parse(options.as_bytes()).unwrap_or_else(|error| panic!("{options}: {error}"));
        settings
            .into_iter()
            .map(|(name, value)| (text(name), text(value)))
            .collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn what_postgresql_understands() {
        for (options, expected) in [
            ("", &[][..]),
            (" \t\n ", &[]),
            ("-c a=b", &[("a", "b")]),
            ("-ca=b", &[("a", "b")]),
            ("--a=b", &[("a", "b")]),
            ("-c a=", &[("a", "")]),
            ("-c a=b=c", &[("a", "b=c")]),
            ("--statement-timeout=5", &[("statement_timeout", "5")]),
            ("-c search_path=a\\ b,\\\\c", &[("search_path", "a b,\\c")]),
            ("  -c  x.y=1   --z=2 ", &[("x.y", "1"), ("z", "2")]),
            ("-c a=1 -c a=2", &[("a", "1"), ("a", "2")]),
            ("-c a=b\\", &[("a", "b")]),
            (
                "-c geqo=off\t-c\njit=off",
                &[("geqo", "off"), ("jit", "off")],
            ),
        ] {
            assert_eq!(parsed(options), pairs(expected), "{options}");
        }
    }

    #[test]
    fn every_malformed_kind_is_an_error_of_its_own() {
        use OptionsError::{Name, NoArgument, NoValue, Switch};
        let own = str::to_owned;
        for (options, expected) in [
            ("-c", NoArgument),
            ("-c a=b -c", NoArgument),
            ("-c foo", NoValue(own("foo"))),
            ("-cfoo", NoValue(own("foo"))),
            ("--foo", NoValue(own("foo"))),
            ("-c \\", NoValue(own(""))),
            ("-c=", Name(own(""))),
            ("-c =", Name(own(""))),
            ("-c =x", Name(own(""))),
            ("--=", Name(own(""))),
            ("--=x", Name(own(""))),
            ("-c 1a=b", Name(own("1a"))),
            ("-c a..b=c", Name(own("a..b"))),
            ("-c .=c", Name(own("."))),
            ("-c a;drop=b", Name(own("a;drop"))),
            ("-c a\\ b=c", Name(own("a b"))),
            ("-c a\\'=c", Name(own("a\\'"))),
            ("-", Switch(own("-"))),
            ("--", Switch(own("--"))),
            ("a=b", Switch(own("a=b"))),
            ("-c a=b c", Switch(own("c"))),
            ("-W 10", Switch(own("-W"))),
            ("-C x", Switch(own("-C"))),
            ("\\", Switch(own(""))),
        ] {
            assert_eq!(parse(options.as_bytes()), Err(expected), "{options}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_hold_the_reader(options in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(parse(&options));
        }

        #[test]
        fn near_misses_too(options in "[-c= \\\\a.]{0,24}") {
            drop(parse(options.as_bytes()));
        }

        #[test]
        fn every_value_can_be_written(value in prop::collection::vec(1u8.., 0..30)) {
            let mut options = b"-c a=".to_vec();
            for byte in &value {
                options.extend_from_slice(&[b'\\', *byte]);
            }
            prop_assert_eq!(parse(&options), Ok(vec![(b"a".to_vec(), value)]));
        }
    }
}
