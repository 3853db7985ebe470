//! The end of a cluster, also when this process is killed.
//!
//! A shell waits on a pipe whose other end only we hold. When it closes, by drop or by our death of
//! whatever cause, the shell stops the servers and removes the directory. It is the only place
//! where that is done. It runs as the cluster's account, so it cannot harm anybody else's process.
//!
//! Invariant: a process id is withdrawn before the process is reaped; until then its number cannot
//! be given to another process, so the shell never signals a stranger.

use std::{
    io::Write,
    path::Path,
    process::{Child, ChildStdin, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{SandboxError, account::Account};

/// SIGQUIT is PostgreSQL's immediate shutdown, which also frees its shared memory; SIGCONT is for
/// servers that a test has frozen. After 15 s, what is left is killed.
const SCRIPT: &str = r#"
pids=
while read -r act pid; do
    kept=
    for p in $pids; do [ "$p" = "$pid" ] || kept="$kept $p"; done
    pids=$kept
    [ "$act" = "-" ] || pids="$pids $pid"
done
for p in $pids; do kill -QUIT "$p"; kill -CONT "$p"; done
polls=0
for p in $pids; do
    while kill -0 "$p" && [ $polls -lt 1000 ]; do
        polls=$((polls + 1))
        [ $polls -lt 750 ] || kill -KILL "$p"
        sleep 0.02
    done
done
rm -rf -- "$1"
"#;

#[derive(Debug)]
pub(super) struct Watchdog {
    shell: Mutex<Option<(Child, ChildStdin)>>,
}

impl Watchdog {
    /// Watches over `dir`, which must belong to `account`.
    pub(super) fn start(account: Account, dir: &Path) -> Result<Self, SandboxError> {
        let spawn_error = |source| SandboxError::Spawn {
            program: "sh".to_owned(),
            source,
        };
        let mut child = account
            .command("sh")
            .args(["-c", SCRIPT, "pgweir-watchdog"])
            .arg(dir)
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(spawn_error)?;
        let pipe = child.stdin.take().expect("stdin was asked to be a pipe");
        Ok(Self {
            shell: Mutex::new(Some((child, pipe))),
        })
    }

    /// From now on the process `pid` ends with us.
    pub(super) fn adopt(&self, pid: u32) {
        self.tell('+', pid);
    }

    /// The process `pid` has ended and is about to be reaped.
    pub(super) fn forget(&self, pid: u32) {
        self.tell('-', pid);
    }

    /// Ends every process adopted, and the directory. `reap` must wait for those that are ours:
    /// an unreaped child still looks alive to the shell.
    pub(super) fn fire(&self, reap: impl FnOnce()) {
        let Some((mut child, pipe)) = self.lock().take() else {
            return;
        };
        drop(pipe);
        reap();
        // The directory is gone once the shell has ended; a failure has nobody left to hear it.
        drop(child.wait());
    }

    fn tell(&self, act: char, pid: u32) {
        if let Some((_, pipe)) = self.lock().as_mut() {
            // The shell reads until the pipe closes. Were it killed, our own drop still stops all.
            drop(writeln!(pipe, "{act} {pid}"));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Child, ChildStdin)>> {
        self.shell.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watchdog {
    /// For a cluster that did not come to be: it has no servers of ours left to reap.
    fn drop(&mut self) {
        self.fire(|| ());
    }
}
