//! PgBouncer's ini files: sections, `key = value` lines, `%include`, and connection strings.
//!
//! Knows syntax only. Reads includes from the directory of the including file. Invariant: includes
//! nest at most [`DEEPEST`], so a file that includes itself ends.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// How deep `%include` may nest, as in PgBouncer.
const DEEPEST: usize = 10;

/// One `key = value` line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The section, in lower case.
    pub(crate) section: String,
    pub(crate) key: String,
    pub(crate) value: String,
    /// `file:line`, for messages.
    pub(crate) at: String,
}

/// Why an ini file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum IniError {
    /// The file, or one it includes.
    #[error("cannot read {}: {reason}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the operating system said.
        reason: io::Error,
    },
    /// A line that is none of an ini file.
    #[error("{at}: {why}")]
    Syntax {
        /// `file:line`.
        at: String,
        /// What was expected.
        why: &'static str,
    },
}

/// Reads a file and what it includes, in order.
pub(crate) fn read(path: &Path) -> Result<Vec<Entry>, IniError> {
    let mut entries = Vec::new();
    let mut section = String::new();
    read_into(path, 0, &mut section, &mut entries)?;
    Ok(entries)
}

fn read_into(
    path: &Path,
    depth: usize,
    section: &mut String,
    entries: &mut Vec<Entry>,
) -> Result<(), IniError> {
    let text = fs::read_to_string(path).map_err(|reason| IniError::Read {
        path: path.to_path_buf(),
        reason,
    })?;
    for (number, line) in text.lines().enumerate() {
        let at = format!("{}:{}", path.display(), number + 1);
        let wrong = |why| IniError::Syntax {
            at: at.clone(),
            why,
        };
        let line = line.trim();
        if line.is_empty() || line.starts_with([';', '#']) {
            continue;
        }
        if let Some(included) = line.strip_prefix("%include") {
            if depth == DEEPEST {
                return Err(wrong("%include nests too deep"));
            }
            let included = path
                .parent()
                .unwrap_or_else(|| Path::new(""))
                .join(included.trim());
            read_into(&included, depth + 1, section, entries)?;
        } else if let Some(name) = line.strip_prefix('[') {
            let name = name
                .strip_suffix(']')
                .ok_or_else(|| wrong("a section needs its ]"))?;
            *section = name.trim().to_lowercase();
        } else {
            let (key, rest) = key(line).ok_or_else(|| wrong("expected key = value"))?;
            let value = rest.trim_start().strip_prefix('=');
            let value = value.ok_or_else(|| wrong("expected key = value"))?.trim();
            let section = section.clone();
            entries.push(Entry {
                section,
                key,
                value: value.to_owned(),
                at,
            });
        }
    }
    Ok(())
}

/// A key at the beginning of a line, in double quotes if it has unusual characters.
fn key(line: &str) -> Option<(String, &str)> {
    if let Some(rest) = line.strip_prefix('"') {
        return unquoted(rest, '"');
    }
    let end = line.find(|c: char| c == '=' || c.is_whitespace())?;
    (end > 0).then(|| (line[..end].to_owned(), &line[end..]))
}

/// The rest of a quoted text, in which a doubled quote is one.
fn unquoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once(quote)?;
        out.push_str(before);
        match after.strip_prefix(quote) {
            Some(more) => {
                out.push(quote);
                rest = more;
            }
            None => return Some((out, after)),
        }
    }
}

/// Reads a connection string, `name=value name='quoted value' …`.
pub(crate) fn connection_string(text: &str) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_whitespace())?;
        let (name, after) = rest.split_at(end);
        let after = after.trim_start().strip_prefix('=')?.trim_start();
        let (value, after) = match after.strip_prefix('\'') {
            Some(quoted) => unquoted(quoted, '\'')?,
            None => {
                let end = after.find(char::is_whitespace).unwrap_or(after.len());
                (after[..end].to_owned(), &after[end..])
            }
        };
        if name.is_empty() {
            return None;
        }
        pairs.push((name.to_lowercase(), value));
        rest = after.trim_start();
    }
    Some(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sections_quotes_comments_and_includes() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("more.ini"), "b=2\n[users]\n").unwrap();
        let main = dir.path().join("main.ini");
        fs::write(
            &main,
            "; c\n[Databases]\n\"a\"\"b\" = x = 'y'\n%include more.ini\nu =\n",
        )
        .unwrap();
        let entries = read(&main).unwrap();
        let entries: Vec<_> = entries
            .iter()
            .map(|e| (e.section.as_str(), e.key.as_str(), e.value.as_str()))
            .collect();
        assert_eq!(
            entries,
            [
                ("databases", "a\"b", "x = 'y'"),
                ("databases", "b", "2"),
                ("users", "u", "")
            ]
        );
    }

    #[test]
    fn refuses_what_is_no_ini_file() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("main.ini");
        for text in [
            "[a",
            "key",
            "= value",
            "\"a = 1",
            "%include main.ini",
            "%include none.ini",
        ] {
            fs::write(&main, text).unwrap();
            assert!(read(&main).is_err(), "{text}");
        }
    }

    #[test]
    fn connection_strings_have_quotes_and_spaces() {
        let pairs = connection_string(" host=a  Port = 5433 password='it''s a' dbname=''").unwrap();
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(
            pairs,
            [
                ("host", "a"),
                ("port", "5433"),
                ("password", "it's a"),
                ("dbname", "")
            ]
        );
        assert_eq!(connection_string("  "), Some(Vec::new()));
        for text in ["host", "=a", "host='a", "a b=c"] {
            assert_eq!(connection_string(text), None, "{text}");
        }
    }
}
