//! What the client wishes for a statement: hints in comments, and pgweir's own settings.
//!
//! ```text
//! /* pgweir: primary */ SELECT …                      a route, alone
//! /* pgweir: route=replica, consistency=strong */     pairs, with commas or blanks between them
//! SELECT … /*pgweir_route='replica',action='show'*/   sqlcommenter: pairs among others, URL-encoded
//! SET pgweir.route = 'replica'                        the same names as settings
//! ```
//!
//! Only comments before the first and behind the last token count, so a hint is found without reading the statement. The
//! names are `route`, `consistency`, `key` and `token`. What a value may be is the router's business: this module hands
//! over bytes. Of a hint given twice the last one counts; what cannot be read is no hint, never an error.

use std::borrow::Cow;

use super::facts::{Detail, Parameter};
use super::{Facts, fold_name, plain_literal};

/// The wishes found in one text.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Hints<'a> {
    /// Where it should run: `primary`, `replica`, `auto`.
    pub route: Option<Cow<'a, [u8]>>,
    /// How fresh its answer must be: `eventual`, `session`, `strong`, `primary`.
    pub consistency: Option<Cow<'a, [u8]>>,
    /// With whom it shares freshness.
    pub key: Option<Cow<'a, [u8]>>,
    /// At least how fresh, as told by `SHOW pgweir.token` elsewhere.
    pub token: Option<Cow<'a, [u8]>>,
}

/// pgweir's own settings.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Own {
    /// `pgweir.route`
    Route,
    /// `pgweir.consistency`
    Consistency,
    /// `pgweir.key`
    Key,
    /// `pgweir.token`
    Token,
}

impl Own {
    const ALL: [(&'static str, Self); 4] = [
        ("route", Self::Route),
        ("consistency", Self::Consistency),
        ("key", Self::Key),
        ("token", Self::Token),
    ];

    /// How the names of all of them begin.
    pub const PREFIX: &'static [u8] = b"pgweir.";

    /// The words that it may have as its value; `None` if it may be anything.
    pub const fn words(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Route => Some(&["auto", "primary", "replica"]),
            Self::Consistency => Some(&["eventual", "session", "strong", "primary"]),
            Self::Key | Self::Token => None,
        }
    }

    fn named(name: &[u8]) -> Option<Self> {
        let found = Self::ALL
            .iter()
            .find(|(n, _)| n.as_bytes().eq_ignore_ascii_case(name));
        found.map(|(_, own)| *own)
    }

    /// The setting that a parameter of this name is, as in `pgweir.route`.
    pub fn parameter(name: &[u8]) -> Option<Self> {
        let (prefix, rest) = name.split_at_checked(Self::PREFIX.len())?;
        if prefix.eq_ignore_ascii_case(Self::PREFIX) {
            Self::named(rest)
        } else {
            None
        }
    }
}

/// A statement about one of pgweir's own settings, which no server needs to see.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OwnStatement<'a> {
    /// SET; `None` is DEFAULT.
    Set(Own, Option<Cow<'a, [u8]>>),
    /// RESET.
    Reset(Own),
    /// SHOW.
    Show(Own),
}

/// Is `text`, of which `facts` are known, a lone SET, RESET or SHOW of one of pgweir's own settings? The value of a SET is
/// one literal, word or number.
pub fn own_statement<'a>(text: &'a [u8], facts: &Facts) -> Option<OwnStatement<'a>> {
    let own = |parameter: Parameter| match parameter {
        Parameter::Named(_) => Own::parameter(&parameter.name(text)),
        _ => None,
    };
    match facts.detail {
        Detail::Set {
            parameter, value, ..
        } => {
            let own = own(parameter)?;
            let Some(value) = value else {
                return Some(OwnStatement::Set(own, None));
            };
            let written = value.of(text);
            let value = match plain_literal(written) {
                Some(literal) => Cow::Borrowed(literal),
                None => fold_name(written),
            };
            Some(OwnStatement::Set(own, Some(value)))
        }
        Detail::Reset { parameter } => own(parameter?).map(OwnStatement::Reset),
        Detail::Show { parameter } => own(parameter?).map(OwnStatement::Show),
        _ => None,
    }
}

/// The hints in the comments before and behind a text. Look only where [`Facts::comment`] is true.
pub fn hints(text: &[u8]) -> Hints<'_> {
    let mut hints = Hints::default();
    let mut rest = text.trim_ascii_start();
    while let Some((comment, behind)) = leading_comment(rest) {
        hints.read(comment);
        rest = behind.trim_ascii_start();
    }
    // Behind the statement: block comments only, since a line comment cannot be told from one inside a string.
    let end = rest.trim_ascii_end();
    let end = end.strip_suffix(b";").unwrap_or(end).trim_ascii_end();
    if let Some(comment) = trailing_comment(end) {
        hints.read(comment);
    }
    hints
}

/// The comment at the start of `text` and what follows it. A comment inside a comment ends the search.
fn leading_comment(text: &[u8]) -> Option<(&[u8], &[u8])> {
    if let Some(line) = text.strip_prefix(b"--") {
        let end = line
            .iter()
            .position(|b| matches!(b, b'\n' | b'\r'))
            .unwrap_or(line.len());
        return Some(line.split_at(end));
    }
    let inside = text.strip_prefix(b"/*")?;
    let end = inside.windows(2).position(|w| w == b"*/" || w == b"/*")?;
    inside[end..]
        .starts_with(b"*/")
        .then(|| (&inside[..end], &inside[end + 2..]))
}

/// The longest comment that a text can end with is looked for this far back, in bytes.
const TRAILING: usize = 1024;

/// The comment that `text` ends with. A text that PostgreSQL accepts cannot end in `*/` anywhere else: a string would end in
/// its quote.
fn trailing_comment(text: &[u8]) -> Option<&[u8]> {
    let inside = text.strip_suffix(b"*/")?;
    let inside = &inside[inside.len().saturating_sub(TRAILING)..];
    let start = inside.windows(2).rposition(|w| w == b"/*" || w == b"*/")?;
    inside[start..]
        .starts_with(b"/*")
        .then(|| &inside[start + 2..])
}

impl<'a> Hints<'a> {
    /// Nothing wished?
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn read(&mut self, comment: &'a [u8]) {
        let comment = comment.trim_ascii();
        let own = comment
            .get(..6)
            .is_some_and(|start| start.eq_ignore_ascii_case(b"pgweir"));
        match comment.get(6..).map(<[u8]>::trim_ascii_start) {
            Some([b':', wishes @ ..]) if own => self.read_wishes(wishes.trim_ascii()),
            _ => self.read_sqlcommenter(comment),
        }
    }

    /// `primary` or `route=primary, key=user-42`
    fn read_wishes(&mut self, wishes: &'a [u8]) {
        for wish in wishes.split(|b| *b == b',' || b.is_ascii_whitespace()) {
            match wish.iter().position(|b| *b == b'=') {
                Some(at) => {
                    let value = &wish[at + 1..];
                    let value = plain_literal(value).unwrap_or(value);
                    self.set(Own::named(&wish[..at]), Cow::Borrowed(value));
                }
                None if !wish.is_empty() => self.set(Some(Own::Route), Cow::Borrowed(wish)),
                None => {}
            }
        }
    }

    /// `key='value',key='value'`: the form of the sqlcommenter specification, names and values URL-encoded.
    fn read_sqlcommenter(&mut self, comment: &'a [u8]) {
        for pair in comment.split(|b| *b == b',') {
            let pair = pair.trim_ascii();
            let Some(at) = pair.iter().position(|b| *b == b'=') else {
                continue;
            };
            let Some(name) = pair[..at].strip_prefix(b"pgweir_") else {
                continue;
            };
            if let Some(value) = plain_literal(&pair[at + 1..]).and_then(url_decoded) {
                self.set(Own::named(name), value);
            }
        }
    }

    fn set(&mut self, own: Option<Own>, value: Cow<'a, [u8]>) {
        let place = match own {
            Some(Own::Route) => &mut self.route,
            Some(Own::Consistency) => &mut self.consistency,
            Some(Own::Key) => &mut self.key,
            Some(Own::Token) => &mut self.token,
            None => return,
        };
        *place = Some(value);
    }
}

/// Undoes `%41`; `None` where it is malformed.
fn url_decoded(value: &[u8]) -> Option<Cow<'_, [u8]>> {
    if !value.contains(&b'%') {
        return Some(Cow::Borrowed(value));
    }
    let mut decoded = Vec::with_capacity(value.len());
    let mut bytes = value.iter();
    while let Some(&byte) = bytes.next() {
        let byte = match byte {
            b'%' => {
                let digit = |b: &u8| char::from(*b).to_digit(16);
                let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        };
        decoded.push(byte);
    }
    Some(Cow::Owned(decoded))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{Env, classify};

    fn route(text: &str) -> Option<String> {
        let route = hints(text.as_bytes()).route?;
        Some(String::from_utf8(route.into_owned()).unwrap())
    }

    #[test]
    fn a_route_is_wished_before_or_behind_the_statement() {
        for text in [
            "/* pgweir: primary */ select 1",
            "/*pgweir:primary*/select 1",
            "-- pgweir: primary\nselect 1",
            " /* other */ -- more\n /* PgWeir: route=primary */ select 1",
            "select 1 /* pgweir: primary */",
            "select 1 /* pgweir: route='primary' */ ; ",
            "select 1 /*action='show',pgweir_route='primary',traceparent='00-1'*/",
            "/*pgweir_route='prim%61ry'*/ select 1",
            "/* pgweir: replica */ select 1 /* pgweir: primary */",
        ] {
            assert_eq!(route(text).as_deref(), Some("primary"), "{text}");
        }
    }

    #[test]
    fn what_is_no_comment_at_the_edge_is_no_hint() {
        for text in [
            "select 1",
            "select '/* pgweir: primary */'",
            "select /* pgweir: primary */ 1",
            "select 1 -- pgweir: primary",
            "/* pgweir */ select 1",
            "/* pgweir: */ select 1",
            "/* see pgweir: primary */ select 1",
            "/* pgweir: primary",
            "/* /* pgweir: primary */ */ select 1",
            "/*pgweir_route='%zz'*/ select 1",
            "/*pgweir_route=primary*/ select 1",
            "*/",
            "/*/",
        ] {
            assert_eq!(route(text), None, "{text}");
        }
    }

    #[test]
    fn several_wishes_stand_side_by_side() {
        let found = hints(b"/* pgweir: consistency=strong, token=abc= key=user-42 */ select 1");
        assert_eq!(found.consistency.as_deref(), Some(&b"strong"[..]));
        assert_eq!(found.token.as_deref(), Some(&b"abc="[..]));
        assert_eq!(found.key.as_deref(), Some(&b"user-42"[..]));
        assert_eq!(found.route, None);
        assert!(hints(b"select 1").is_empty());
    }

    #[test]
    fn own_settings_are_told_from_the_servers() {
        let own = |text: &str| {
            let facts = classify(text.as_bytes(), &Env::default());
            own_statement(text.as_bytes(), &facts).map(|found| format!("{found:?}"))
        };
        assert_eq!(
            own_statement(
                b"SET pgweir.route = 'replica';",
                &classify(b"SET pgweir.route = 'replica';", &Env::default())
            ),
            Some(OwnStatement::Set(
                Own::Route,
                Some(Cow::Borrowed(b"replica"))
            ))
        );
        assert_eq!(own("set pgweir.key to Default").unwrap(), "Set(Key, None)");
        assert_eq!(
            own("reset \"pgweir\".consistency").unwrap(),
            "Reset(Consistency)"
        );
        assert_eq!(own("SHOW Pgweir.Token").unwrap(), "Show(Token)");
        for text in [
            "set pgweir.other = 1",
            "show all",
            "set route = 'x'",
            "show pgweir.token; select 1",
            "select 1",
        ] {
            assert_eq!(own(text), None, "{text}");
        }
    }
}
