//! The shape of a text: what is left of it when it does not matter which numbers it holds.
//!
//! Clients that write their values into the text send a new text each time, but few shapes. The digits of a
//! number become one `0`; everything else stays as it is, names and parameters with their digits. So a shape
//! is cut into tokens as its text is, and is classified the same as long as nothing asks what a number is: that
//! holds for queries and for what changes rows, not for other statements (`EXPLAIN (ANALYZE 0)`).

use super::lexer::{CLASS, DIGIT, DOLLAR, WORD};

/// Writes the shape of `text` into `shape`. Answers false when it has none, or none that is worth remembering:
/// for statements of another kind, and where there are strings, which are values too, or comments.
#[inline]
pub fn shape(text: &[u8], shape: &mut Vec<u8>) -> bool {
    if !is_about_rows(text) {
        return false;
    }
    shape.clear();
    let (mut at, mut copied) = (0, 0);
    while let Some(&byte) = text.get(at) {
        let rest = &text[at + 1..];
        at += 1 + match CLASS[usize::from(byte)] {
            WORD => length_of(rest, |it| CLASS[usize::from(it)] >= WORD),
            DIGIT => {
                shape.extend_from_slice(&text[copied..at]);
                shape.push(b'0');
                let more = length_of(rest, |it| it.is_ascii_digit());
                copied = at + 1 + more;
                more
            }
            // A parameter; anything else begins a string.
            DOLLAR => match length_of(rest, |it| it.is_ascii_digit()) {
                0 => return false,
                digits => digits,
            },
            _ => match (byte, rest.first()) {
                (b'"', _) => 1 + length_of(rest, |it| it != b'"'),
                (b'\'', _) | (b'-', Some(b'-')) | (b'/', Some(b'*')) => return false,
                _ => 0,
            },
        };
    }
    shape.extend_from_slice(text.get(copied..).unwrap_or_default());
    at == text.len()
}

#[inline]
fn length_of(bytes: &[u8], is: impl Fn(u8) -> bool) -> usize {
    let end = bytes.iter().position(|byte| !is(*byte));
    end.unwrap_or(bytes.len())
}

fn is_about_rows(text: &[u8]) -> bool {
    text.first_chunk::<6>().is_some_and(|word| {
        let kinds = [b"select", b"insert", b"update", b"delete"];
        kinds.iter().any(|kind| word.eq_ignore_ascii_case(*kind))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sql::{Detail, Env, classify};

    const PIECES: &[&str] = &[
        "1",
        "12",
        "7.25",
        ".5",
        "1e5",
        "e",
        "0x1F",
        "1_000",
        "a",
        "t2",
        "_",
        "$",
        "$1",
        " ",
        " ",
        " ",
        "\n",
        ".",
        "-",
        "+",
        "*",
        "/",
        "\"",
        "\"q 1\"",
        "'",
        "'s 1'",
        "E'",
        "\\",
        "(",
        ")",
        "[",
        "]",
        ",",
        ";",
        ":",
        "::",
        "=",
        "|",
        "é",
        "from",
        "into",
        "for update",
        "for share",
        "as",
        "with",
        "insert into t",
        "delete from t",
        "limit 3",
        "nextval",
        "set_config",
        "lower",
        "lo_open",
        "lo_open(1, 262144)",
        "pg_sleep(1)",
        "explain (analyze 1)",
        "returning",
        "u&",
        "operator(+)",
    ];

    proptest! {
        /// Whatever is said of a shape holds for its texts.
        #[test]
        fn a_text_is_what_its_shape_is(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..12)) {
            let text = format!("select {}", pieces.concat());
            let mut out = Vec::new();
            if shape(text.as_bytes(), &mut out) {
                let [text, shape] = [text.as_bytes(), &out].map(|text| {
                    let facts = classify(text, &Env::default());
                    let is_of_shape = facts.statements == 1 && facts.detail == Detail::None;
                    let more = (facts.class, facts.reason, facts.effects, facts.comment);
                    (is_of_shape, is_of_shape.then_some(more))
                });
                prop_assert_eq!(text, shape);
            }
        }
    }

    fn of(text: &str) -> Option<String> {
        let mut out = b"left over".to_vec();
        shape(text.as_bytes(), &mut out).then(|| String::from_utf8(out).unwrap())
    }

    #[test]
    fn numbers_do_not_matter_and_all_else_does() {
        for (text, wanted) in [
            ("SELECT 1", "SELECT 0"),
            (
                "select a1 from t2 where b=12345;",
                "select a1 from t2 where b=0;",
            ),
            (
                "update t set a = a - 17.25e+10",
                "update t set a = a - 0.0e+0",
            ),
            (
                "select $12, t$1, 3abc, 0x1F, 1_000",
                "select $12, t$1, 0abc, 0x1F, 0_000",
            ),
            (
                "delete from \"t 1\" where c = 22",
                "delete from \"t 1\" where c = 0",
            ),
            ("select \"a\"\"7\", a[44]", "select \"a\"\"7\", a[0]"),
        ] {
            assert_eq!(of(text).as_deref(), Some(wanted));
        }
    }

    #[test]
    fn some_texts_have_none() {
        for text in [
            "",
            "EXPLAIN (ANALYZE 0) DELETE FROM t",
            "select 'a'",
            "select 1 -- 2",
            "select /* 1 */ 2",
            "select $$1$$",
            "select $a$1$a$",
            "select 1 as \"unterminated",
            "select 1 $",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
