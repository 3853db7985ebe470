//! Values that must not be seen: passwords and stored password verifiers.
//!
//! Knows nothing of how a password is checked. Invariants: a [`Secret`] shows itself neither by
//! `Debug` nor by any console row, and compares in constant time.

use std::{fmt, fs, io, path::Path, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use subtle::ConstantTimeEq as _;

/// A file that holds one secret may be this long, in bytes; a longer one is a mistake.
const LONGEST_SECRET: u64 = 64 << 10;

/// The same for a file of many users.
pub(crate) const LONGEST_USERLIST: u64 = 64 << 20;

/// A password or a stored form of one. Shown as `[hidden]`; read with [`Secret::expose`].
#[derive(Clone)]
pub struct Secret(Arc<str>);

/// In which of PostgreSQL's stored forms a password is (manual section 54.8, `pg_authid`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PasswordForm {
    /// The password itself.
    Plain,
    /// `md5` and 32 hexadecimal digits.
    Md5,
    /// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
    ScramSha256,
}

impl Secret {
    /// Hides `text`.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The secret itself. Never log it, never put it into an error.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Which stored form this password has. Whatever is not exactly a stored form is a plain
    /// password, as in PostgreSQL.
    pub fn form(&self) -> PasswordForm {
        let is_md5 = |text: &str| {
            text.strip_prefix("md5")
                .is_some_and(|hex| hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
        };
        if is_md5(&self.0) {
            PasswordForm::Md5
        } else if is_scram(&self.0) {
            PasswordForm::ScramSha256
        } else {
            PasswordForm::Plain
        }
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("[hidden]")
    }
}

/// Reads a secret from a file: its text without the final line end.
pub(crate) fn read_file(path: &Path) -> io::Result<String> {
    let text = read_text(path, LONGEST_SECRET)?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

/// Reads a text of at most `longest` bytes. Only regular files, so that a device or a pipe cannot
/// stall a reload.
pub(crate) fn read_text(path: &Path, longest: u64) -> io::Result<String> {
    let length = regular(path)?;
    if length > longest {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "too long for what it should hold",
        ));
    }
    fs::read_to_string(path)
}

/// The length of a regular file, in bytes; anything else is an error.
pub(crate) fn regular(path: &Path) -> io::Result<u64> {
    let found = fs::metadata(path)?;
    if found.is_file() {
        return Ok(found.len());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        "not a regular file",
    ))
}

/// Whether every user of the machine may read the file.
pub(crate) fn is_world_readable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o004 != 0)
}

/// Replaces `${NAME}` by the variable, `${NAME:-text}` by `text` where it is unset or empty, and
/// `$${` by `${`. Any other `$` stands for itself, so stored SCRAM secrets need no care.
///
/// # Errors
/// The name of the first variable that is not set.
pub(crate) fn expand(
    text: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = &from[2..];
            continue;
        }
        out.push_str(before);
        let Some(end) = from.find('}') else {
            rest = from;
            break;
        };
        let inside = &from[2..end];
        let (name, fallback) = match inside.split_once(":-") {
            Some((name, fallback)) => (name, Some(fallback)),
            None => (inside, None),
        };
        match (variable(name), fallback) {
            (Some(value), None) => out.push_str(&value),
            (Some(value), Some(_)) if !value.is_empty() => out.push_str(&value),
            (_, Some(fallback)) => out.push_str(fallback),
            (None, None) => return Err(name.to_owned()),
        }
        rest = &from[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

fn is_scram(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("SCRAM-SHA-256$") else {
        return false;
    };
    let Some((head, keys)) = rest.split_once('$') else {
        return false;
    };
    let (Some((iterations, salt)), Some((stored, server))) =
        (head.split_once(':'), keys.split_once(':'))
    else {
        return false;
    };
    let is_key = |text: &str| BASE64.decode(text).is_ok_and(|bytes| bytes.len() == 32);
    iterations.parse::<u32>().is_ok_and(|count| count > 0)
        && BASE64.decode(salt).is_ok_and(|bytes| !bytes.is_empty())
        && is_key(stored)
        && is_key(server)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        match name {
            "PW" => Some("hunter2".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn secrets_hide_themselves() {
        let secret = Secret::new("hunter2");
        assert!(!format!("{secret:?}").contains("hunter2"));
        assert_eq!(secret, Secret::new("hunter2"));
        assert_ne!(secret, Secret::new("hunter"));
    }

    #[test]
    fn variables_are_replaced() {
        let cases = [
            ("a${PW}b${PW}", Ok("ahunter2bhunter2")),
            ("$${PW}", Ok("${PW}")),
            ("SCRAM-SHA-256$4096:x$y:z", Ok("SCRAM-SHA-256$4096:x$y:z")),
            ("${NO:-x}${EMPTY:-y}${EMPTY}", Ok("xy")),
            ("${unclosed", Ok("${unclosed")),
            ("${NO}", Err("NO")),
        ];
        for (text, want) in cases {
            let got = expand(text, &environment);
            assert_eq!(
                got,
                want.map(str::to_owned).map_err(str::to_owned),
                "{text}"
            );
        }
    }

    #[test]
    fn stored_forms_are_told_apart_as_postgresql_does() {
        let key = BASE64.encode([7; 32]);
        let scram = format!("SCRAM-SHA-256$4096:c2FsdA==${key}:{key}");
        let forms = [
            ("md5", PasswordForm::Plain),
            ("md5d41d8cd98f00b204e9800998ecf8427e", PasswordForm::Md5),
            ("md5z41d8cd98f00b204e9800998ecf8427e", PasswordForm::Plain),
            (
                "SCRAM-SHA-256$4096:c2FsdA==$short:short",
                PasswordForm::Plain,
            ),
            (&scram, PasswordForm::ScramSha256),
        ];
        for (text, form) in forms {
            assert_eq!(Secret::new(text).form(), form, "{text}");
        }
    }

    #[test]
    fn a_secret_file_loses_one_line_end_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pw");
        fs::write(&path, " a b \r\n").unwrap();
        assert_eq!(read_file(&path).unwrap(), " a b ");
        fs::write(&path, "x\n\n").unwrap();
        assert_eq!(read_file(&path).unwrap(), "x\n");
        assert!(read_file(dir.path()).is_err());
        assert!(read_file(Path::new("/dev/null")).is_err());
    }
}
