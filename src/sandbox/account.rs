//! The OS account that PostgreSQL runs as. PostgreSQL refuses to run as root.
//!
//! Invariant: every program that touches a data directory is started through
//! [`Account::command`], so that files and processes have one owner.

use std::{
    env,
    ffi::OsStr,
    io,
    os::unix::{fs::chown, process::CommandExt},
    path::Path,
    process::{Command, Output, Stdio},
};

use super::SandboxError;

/// Tried in this order when we are root.
const UNPRIVILEGED: &[&str] = &["postgres", "nobody"];

#[derive(Debug, Clone, Copy)]
pub(super) struct Account {
    pub(super) uid: u32,
    /// The group to change to; none when we already are this account.
    become_gid: Option<u32>,
}

impl Account {
    /// Ourselves, or an unprivileged account when we are root.
    pub(super) fn detect() -> Result<Self, SandboxError> {
        let own = id(&["-u"])?;
        if own != Some(0) {
            return Ok(Self {
                uid: own.ok_or(SandboxError::NoAccount)?,
                become_gid: None,
            });
        }
        for name in UNPRIVILEGED {
            if let (Some(uid), Some(gid)) = (id(&["-u", name])?, id(&["-g", name])?) {
                return Ok(Self {
                    uid,
                    become_gid: Some(gid),
                });
            }
        }
        Err(SandboxError::NoAccount)
    }

    /// `program`, to be run as this account, away from our working directory (which the account may
    /// not read), out of our process group (Ctrl-C is for us to handle), and without libpq's
    /// environment.
    pub(super) fn command(self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir("/")
            .process_group(0)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(|n| n.starts_with("PG")) {
                command.env_remove(name);
            }
        }
        if let Some(gid) = self.become_gid {
            // As root, this also drops the supplementary groups.
            command.uid(self.uid).gid(gid);
        }
        command
    }

    /// Gives `path` to this account.
    pub(super) fn give(self, path: &Path) -> io::Result<()> {
        match self.become_gid {
            Some(gid) => chown(path, Some(self.uid), Some(gid)),
            None => Ok(()),
        }
    }
}

/// Runs `command` to its end.
pub(super) fn run(command: &mut Command) -> Result<Output, SandboxError> {
    let program = || Path::new(command.get_program()).display().to_string();
    let program = program();
    let output = command
        .stderr(Stdio::piped())
        .output()
        .map_err(|source| SandboxError::Spawn {
            program: program.clone(),
            source,
        })?;
    if output.status.success() {
        return Ok(output);
    }
    Err(SandboxError::Failed {
        program,
        stderr: text(output.stderr),
    })
}

/// What a program printed, for people to read: what is no UTF-8 is escaped.
pub(super) fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|e| e.into_bytes().escape_ascii().to_string())
}

fn id(arguments: &[&str]) -> Result<Option<u32>, SandboxError> {
    let output = Command::new("id")
        .args(arguments)
        .stderr(Stdio::null())
        .output()
        .map_err(|source| SandboxError::Spawn {
            program: "id".to_owned(),
            source,
        })?;
    Ok(text(output.stdout).trim().parse().ok())
}
