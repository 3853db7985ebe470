//! PgBouncer's `auth_file`: lines of `"user" "secret"`.
//!
//! Knows no file system. The grammar is that of PgBouncer's manual, "Authentication File Format": both fields in double quotes, `""`
//! for a quote, the rest of the line ignored, `;` (and here `#`) for comments.

use super::secret::{BadSecret, Secret};
use std::fmt;

/// One line.
#[derive(Clone)]
pub struct Entry {
    /// The user's name.
    pub user: String,
    /// The secret; `None` for `""`, with which nobody logs in by password.
    pub secret: Option<Secret>,
    /// The secret's own text, for a file that is to be converted.
    text: String,
}

impl Entry {
    /// The second field as it stands in the file.
    pub fn reveal(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Why the file is refused, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct UserlistError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong.
    pub problem: UserlistProblem,
}

/// What can be wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UserlistProblem {
    /// Not two quoted strings.
    #[error("expected \"user\" \"secret\", both in double quotes")]
    Shape,
    /// An empty name.
    #[error("the user name is empty")]
    NoName,
    /// The second field is no secret.
    #[error(transparent)]
    Secret(#[from] BadSecret),
}

/// Reads the file, in its order; a user named twice appears twice (the later one counts in PgBouncer).
pub fn parse(text: &str) -> Result<Vec<Entry>, UserlistError> {
    let mut entries = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start_matches('\u{feff}').trim();
        if line.is_empty() || line.starts_with([';', '#']) {
            continue;
        }
        let entry = parse_line(line).map_err(|problem| UserlistError {
            line: index + 1,
            problem,
        })?;
        entries.push(entry);
    }
    Ok(entries)
}

fn parse_line(line: &str) -> Result<Entry, UserlistProblem> {
    let (user, rest) = quoted(line).ok_or(UserlistProblem::Shape)?;
    let (text, _ignored) = quoted(rest.trim_start()).ok_or(UserlistProblem::Shape)?;
    if user.is_empty() {
        return Err(UserlistProblem::NoName);
    }
    let secret = match text.is_empty() {
        true => None,
        false => Some(Secret::parse(&text)?),
    };
    Ok(Entry { user, secret, text })
}

/// The string in double quotes that `text` starts with, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('"')?;
    let mut value = String::new();
    loop {
        let (part, after) = rest.split_once('"')?;
        value.push_str(part);
        match after.strip_prefix('"') {
            Some(after) => {
                value.push('"');
                rest = after;
            }
            None => return Some((value, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_quotes_and_comments() {
        let entries = parse(
            "; comment\n\n\"alice\" \"pen\"\"cil\" anything\n# more\n\t\"b\"\"ob\"\t\"md5a6343a68d964ca596d9752250d54bb8a\"\r\n\"carol\" \"\"\n",
        )
        .unwrap();
        let users: Vec<&str> = entries.iter().map(|e| e.user.as_str()).collect();
        assert_eq!(users, ["alice", "b\"ob", "carol"]);
        assert_eq!(entries[0].reveal(), "pen\"cil");
        assert!(matches!(&entries[0].secret, Some(Secret::Plain(p)) if p.matches(b"pen\"cil")));
        assert!(matches!(entries[1].secret, Some(Secret::Md5(_))));
        assert!(entries[2].secret.is_none());
        assert!(!format!("{entries:?}").contains("cil"));
    }

    #[test]
    fn errors_name_the_line() {
        let at = |text: &str| parse(text).unwrap_err();
        assert_eq!(at("\"a\" \"b\"\nalice secret").line, 2);
        assert_eq!(at("\"a").problem, UserlistProblem::Shape);
        assert_eq!(at("\"a\"").problem, UserlistProblem::Shape);
        assert_eq!(at("\"\" \"x\"").problem, UserlistProblem::NoName);
        assert_eq!(
            at("\n\"a\" \"SCRAM-SHA-256$x\"").to_string(),
            format!("line 2: {}", BadSecret::Scram)
        );
    }

    proptest! {
        #[test]
        fn quoting_round_trips(user in "[^\r\n\0]{1,20}", secret in "[a-z\" ;#]{1,20}") {
            let line = format!("\"{}\" \"{}\"", user.replace('"', "\"\""), secret.replace('"', "\"\""));
            let entries = parse(&line).unwrap();
            prop_assert_eq!(&entries[0].user, &user);
            prop_assert_eq!(entries[0].reveal(), &secret);
        }

        #[test]
        fn never_panics(text in ".{0,200}") {
            drop(parse(&text));
        }
    }
}
