//! Why a sandbox could not be built or driven.

use std::{io, path::PathBuf};

/// Why a sandbox could not be built or driven.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// No directory with `initdb` and `postgres` was found.
    #[error(
        "no PostgreSQL server binaries (initdb, postgres) in {}: install them with \
         `apt-get install postgresql` (Debian, Ubuntu), `dnf install postgresql-server` (Fedora) \
         or `brew install postgresql` (macOS)",
        if .looked_in.is_empty() { "any known place".to_owned() } else { list(.looked_in) }
    )]
    NoBinaries {
        /// The directories that were searched.
        looked_in: Vec<PathBuf>,
    },
    /// `psql` was needed and is nowhere.
    #[error("psql was not found: install it with `apt-get install postgresql-client`")]
    NoPsql,
    /// We are root, and there is no other account to run PostgreSQL as.
    #[error("PostgreSQL does not run as root, and there is neither a user `postgres` nor `nobody`")]
    NoAccount,
    /// A helper program could not be started at all.
    #[error("cannot run {program}")]
    Spawn {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A helper program ended with a failure.
    #[error("{program} failed: {stderr}")]
    Failed {
        /// The program.
        program: String,
        /// What it said.
        stderr: String,
    },
    /// A file operation failed.
    #[error("cannot {act} {}", .path.display())]
    Io {
        /// What was attempted.
        act: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No free port was found.
    #[error("no free TCP port was found")]
    NoPort,
    /// A server ended when it should have become ready.
    #[error("PostgreSQL ({node}) ended while it was starting:\n{log}")]
    Ended {
        /// The node.
        node: String,
        /// The end of its log.
        log: String,
    },
    /// A server did not do in time what was asked of it.
    #[error("PostgreSQL ({node}) did not {act} in time:\n{log}")]
    TimedOut {
        /// The node.
        node: String,
        /// What was expected.
        act: &'static str,
        /// The end of its log.
        log: String,
    },
    /// The node is stopped, and the act needs it running.
    #[error("PostgreSQL ({node}) is not running")]
    NotRunning {
        /// The node.
        node: String,
    },
}

impl SandboxError {
    pub(super) fn io(
        act: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { act, path, source }
    }
}

fn list(paths: &[PathBuf]) -> String {
    let names: Vec<_> = paths.iter().map(|p| p.display().to_string()).collect();
    names.join(", ")
}
