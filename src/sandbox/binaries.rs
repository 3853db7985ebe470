//! Where the local PostgreSQL binaries are.
//!
//! Looks at directories; knows nothing of clusters.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::SandboxError;

/// Directories that packagers use; a `*` stands for one version. Debian's and Ubuntu's, the
/// PostgreSQL project's RPMs, Homebrew on both architectures, Postgres.app.
const KNOWN_PLACES: &[(&str, &str, &str)] = &[
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/opt/homebrew/opt", "postgresql", "bin"),
    ("/usr/local/opt", "postgresql", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// A directory of PostgreSQL server binaries.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// The directory that holds `initdb` and `postgres`.
    pub dir: PathBuf,
    /// The major version, as in 15.
    pub version: u32,
    /// What `postgres --version` printed: tells two builds of one major version apart.
    pub(super) full_version: String,
}

impl Binaries {
    /// The binaries in `explicit`, or else the first on `PATH`, or else the newest installed in a
    /// place that packagers use.
    ///
    /// # Errors
    ///
    /// [`SandboxError::NoBinaries`], which says what to install.
    pub fn find(explicit: Option<&Path>) -> Result<Self, SandboxError> {
        if let Some(dir) = explicit {
            return Self::at(dir).ok_or_else(|| SandboxError::NoBinaries {
                looked_in: vec![dir.to_owned()],
            });
        }
        // PATH says where programs are; it is no setting of ours.
        let on_path = env::var_os("PATH").unwrap_or_default();
        if let Some(found) = env::split_paths(&on_path).find_map(|dir| Self::at(&dir)) {
            return Ok(found);
        }
        known_places()
            .iter()
            .filter_map(|dir| Self::at(dir))
            .max_by_key(|found| found.version)
            .ok_or_else(|| SandboxError::NoBinaries {
                looked_in: vec!["PATH".into(), "/usr/lib/postgresql".into()],
            })
    }

    /// The path of one program of this installation, which may not exist.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// `psql` of this installation, or else of the newest other one: server-only builds lack it.
    /// A bare `psql` is the last resort: Debian's is a script that costs more than the query.
    ///
    /// # Errors
    ///
    /// [`SandboxError::NoPsql`].
    pub fn client_program(&self, name: &str) -> Result<PathBuf, SandboxError> {
        let own = self.program(name);
        if own.is_file() {
            return Ok(own);
        }
        let mut others: Vec<_> = known_places()
            .iter()
            .filter_map(|dir| Self::at(dir))
            .filter(|found| found.program(name).is_file())
            .collect();
        others.sort_by_key(|found| found.version);
        if let Some(newest) = others.pop() {
            return Ok(newest.program(name));
        }
        let on_path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&on_path)
            .map(|dir| dir.join(name))
            .find(|path| path.is_file())
            .ok_or(SandboxError::NoPsql)
    }

    fn at(dir: &Path) -> Option<Self> {
        // Links on PATH lead to the directory where the other programs are.
        let initdb = fs::canonicalize(dir.join("initdb")).ok()?;
        let dir = initdb.parent()?;
        let output = Command::new(dir.join("postgres"))
            .arg("--version")
            .output()
            .ok()?;
        let full_version = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        Some(Self {
            dir: dir.to_owned(),
            version: major_version(&full_version)?,
            full_version,
        })
    }
}

fn known_places() -> Vec<PathBuf> {
    let mut places = Vec::new();
    for (parent, prefix, child) in KNOWN_PLACES {
        let Ok(entries) = fs::read_dir(parent) else {
            continue;
        };
        for entry in entries.flatten() {
            if entry
                .file_name()
                .to_str()
                .is_some_and(|n| n.starts_with(prefix))
            {
                places.push(entry.path().join(child));
            }
        }
    }
    places
}

/// `postgres (PostgreSQL) 15.18 (Debian …)` → 15; also `18beta1`, `17devel`.
fn major_version(printed: &str) -> Option<u32> {
    let number = printed
        .split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let end = number
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(number.len());
    number[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn major_version_of_releases_and_previews() {
        for (printed, version) in [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", 15),
            ("postgres (PostgreSQL) 18beta1", 18),
            ("postgres (PostgreSQL) 17devel", 17),
        ] {
            assert_eq!(major_version(printed), Some(version), "{printed}");
        }
        assert_eq!(major_version("postgres"), None);
    }

    #[test]
    fn missing_binaries_name_what_to_install() {
        let error = Binaries::find(Some(Path::new("/nonexistent"))).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("/nonexistent"), "{said}");
        assert!(said.contains("apt-get install postgresql"), "{said}");
    }
}
