//! What is wrong with a configuration, where, and what to write instead.
//!
//! Knows no keys. Invariants: no message holds a secret (a value is quoted only where its key is no
//! secret, and never the line it stands on), and each problem is one line.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

/// Why a configuration cannot be used. `Display` is one line per problem.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file itself cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    Read {
        /// The configuration file.
        path: PathBuf,
        /// What the operating system said.
        reason: io::Error,
    },
    /// The file can be read but not used; at least one problem.
    #[error("{}", lines(.0))]
    Invalid(Vec<Problem>),
    /// A `--primary`, `--replica` or `--listen` argument cannot be used.
    #[error("{argument}: {why}")]
    Argument {
        /// The argument's name, such as `--replica`.
        argument: &'static str,
        /// What is wrong with it; never the URL itself, which may hold a password.
        why: String,
    },
}

/// An error of any module and what is behind it, in one line: what a log, and a client, is told of it.
pub fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// One thing wrong in a file.
#[derive(Debug)]
pub struct Problem {
    /// Where.
    pub at: Location,
    /// What.
    pub fault: Fault,
}

/// A place in a file; line and column count from 1, the column in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The file, if the text came from one.
    pub file: Option<PathBuf>,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
}

/// The kinds of problem. `key` is the whole path, such as `databases.app.servers[1].port`.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Not TOML.
    #[error("{0}")]
    Syntax(String),
    /// A key that this place does not have.
    #[error("unknown key `{key}`{}", told(.hint))]
    UnknownKey {
        /// The key as written.
        key: String,
        /// What to write instead.
        hint: Option<String>,
    },
    /// A value that the key cannot have.
    #[error("`{key}` cannot be {found}: write {allowed}{}", told(.hint))]
    Value {
        /// The key.
        key: String,
        /// The value, or only its type if it is a secret.
        found: String,
        /// What the key can be.
        allowed: String,
        /// The nearest allowed value.
        hint: Option<String>,
    },
    /// `${NAME}` without such a variable.
    #[error("`{key}` needs the environment variable {variable}, which is not set")]
    Environment {
        /// The key.
        key: String,
        /// The variable.
        variable: String,
    },
    /// A file that a key names cannot be used.
    #[error("`{key}` names {}: {reason}", path.display())]
    File {
        /// The key.
        key: String,
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: io::Error,
    },
    /// Settings that do not go together.
    #[error("`{key}` {why}")]
    Contradiction {
        /// The key at which it shows.
        key: String,
        /// What it contradicts, and what to do.
        why: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.at, self.fault)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(out, "{}:{}:{}", file.display(), self.line, self.column),
            None => write!(out, "line {}, column {}", self.line, self.column),
        }
    }
}

impl Location {
    /// The place of byte `offset` of `text`.
    pub(crate) fn of(file: Option<&Path>, text: &str, offset: usize) -> Self {
        let mut offset = offset.min(text.len());
        while !text.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &text[..offset];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            file: file.map(Path::to_path_buf),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

/// No key is as long, in bytes; the search for a near word takes its square.
const LONGEST_WORD: usize = 64;

/// The candidate that `word` most likely meant, if any is near enough to be no guess.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    if word.len() > LONGEST_WORD {
        return None;
    }
    let close = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&word.to_lowercase(), candidate),
                candidate,
            )
        })
        .filter(|(distance, _)| *distance <= close)
        .min()
        .map(|(_, candidate)| candidate)
}

fn told(hint: &Option<String>) -> String {
    hint.as_ref()
        .map_or_else(String::new, |hint| format!("; {hint}"))
}

fn lines(problems: &[Problem]) -> String {
    let lines: Vec<_> = problems.iter().map(Problem::to_string).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters() {
        let text = "ä = 1\nöö = 2\n";
        assert_eq!(Location::of(None, text, 0).to_string(), "line 1, column 1");
        let at = Location::of(Some(Path::new("f.toml")), text, text.find('2').unwrap());
        assert_eq!(at.to_string(), "f.toml:2:6");
        assert_eq!(Location::of(None, text, 1_000).line, 3);
        assert_eq!(Location::of(None, text, 1).column, 1);
    }

    #[test]
    fn only_near_words_are_suggested() {
        let keys = ["pool_mode", "pool_size", "listen_port"];
        assert_eq!(nearest("pool_mod", keys), Some("pool_mode"));
        assert_eq!(nearest("Pool_Mode", keys), Some("pool_mode"));
        assert_eq!(nearest("lsiten_port", keys), Some("listen_port"));
        assert_eq!(nearest("workers", keys), None);
    }
}
