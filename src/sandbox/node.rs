//! One PostgreSQL server of a cluster, and what a test does to it.
//!
//! Knows its own files and process; of other nodes only how to stream from one. All methods take
//! `&self`: tests on many threads share a cluster.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use super::{
    Binaries, ProcessLog, SandboxError,
    account::{Account, run, text},
    configure::{NodeSpec, configure},
    log::Waited,
    port::Port,
    watchdog::Watchdog,
};

/// No act of a healthy server takes near as long: a bound against hanging for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the nodes of a cluster have in common.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) binaries: Binaries,
    pub(super) psql: Option<PathBuf>,
    pub(super) account: Account,
    pub(super) dir: PathBuf,
    pub(super) watchdog: Watchdog,
}

impl Site {
    pub(super) fn socket_dir(&self) -> PathBuf {
        self.dir.join("sockets")
    }
}

/// How to stop a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Waits until all clients have left.
    Smart,
    /// Disconnects the clients and shuts down cleanly.
    Fast,
    /// Aborts; the next start recovers from a crash.
    Immediate,
}

/// One PostgreSQL server: the primary or a replica.
#[derive(Debug)]
pub struct Node {
    name: String,
    port: Port,
    data_dir: PathBuf,
    site: Arc<Site>,
    process: Mutex<Process>,
}

#[derive(Debug, Default)]
struct Process {
    child: Option<Child>,
    /// Of the latest run.
    log: Arc<ProcessLog>,
}

impl Node {
    /// Starts a server on `data_dir`, a fresh copy of the template; a replica is streaming when
    /// this returns.
    pub(super) fn launch(
        site: &Arc<Site>,
        data_dir: &Path,
        spec: &NodeSpec<'_>,
    ) -> Result<Self, SandboxError> {
        configure(site, data_dir, spec)?;
        let mut attempts = 5;
        loop {
            let node = Self {
                name: spec.name.clone(),
                port: Port::reserve()?,
                data_dir: data_dir.to_owned(),
                site: Arc::clone(site),
                process: Mutex::default(),
            };
            match node.start() {
                // Somebody who does not take part in our locking was faster.
                Err(SandboxError::Ended { log, .. })
                    if attempts > 0 && log.contains("Address already in use") =>
                {
                    attempts -= 1;
                }
                Err(e) => return Err(e),
                Ok(()) => {
                    if spec.upstream.is_some() {
                        node.wait_for_log(0, "stream", |l| l.contains("started streaming WAL"))?;
                    }
                    return Ok(node);
                }
            }
        }
    }

    /// `primary`, `replica0`, `replica1` …; a replica's `application_name` at its upstream.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The TCP port on 127.0.0.1, which is also the number of the Unix socket.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number
    }

    /// The directory of the Unix socket.
    #[must_use]
    pub fn socket_dir(&self) -> PathBuf {
        self.site.socket_dir()
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// A URL over TCP, without a password.
    #[must_use]
    pub fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port())
    }

    /// The postmaster's process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.lock().child.as_ref().map(Child::id)
    }

    /// The log of the latest run.
    #[must_use]
    pub fn log(&self) -> Arc<ProcessLog> {
        Arc::clone(&self.lock().log)
    }

    /// Runs `sql` as `postgres` in the database `postgres`; see [`Self::psql_in`].
    ///
    /// # Errors
    ///
    /// [`SandboxError::Failed`] with the server's message at the first statement that fails.
    pub fn psql(&self, sql: &str) -> Result<String, SandboxError> {
        self.psql_in("postgres", sql)
    }

    /// Runs `sql`, as `postgres`, statement by statement through `psql`, and returns the rows
    /// (columns separated by `|`) without the last newline.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Failed`] with the server's message at the first statement that fails.
    pub fn psql_in(&self, database: &str, sql: &str) -> Result<String, SandboxError> {
        let psql = self.site.psql.as_ref().ok_or(SandboxError::NoPsql)?;
        let mut command = self.site.account.command(psql);
        command
            .args([
                "-XAtq",
                "-v",
                "ON_ERROR_STOP=1",
                "-U",
                "postgres",
                "-d",
                database,
            ])
            .args(["-p", &self.port().to_string(), "-h"])
            .arg(self.socket_dir());
        let output = run_with_input(&mut command, sql.as_bytes())?;
        Ok(output.trim_end_matches('\n').to_owned())
    }

    /// Starts the server again on the same port and data, and waits until it accepts connections.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Ended`] or [`SandboxError::TimedOut`], with the end of the server's log.
    pub fn start(&self) -> Result<(), SandboxError> {
        let mut process = self.lock();
        if process.child.is_some() {
            return Ok(());
        }
        let program = self.site.binaries.program("postgres");
        let mut child = self
            .site
            .account
            .command(&program)
            .arg("-D")
            .arg(&self.data_dir)
            .args(["-p", &self.port().to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| SandboxError::Spawn {
                program: program.display().to_string(),
                source,
            })?;
        self.site.watchdog.adopt(child.id());
        let stderr = child.stderr.take().expect("stderr was asked to be a pipe");
        process.log = ProcessLog::drain(stderr);
        process.child = Some(child);
        drop(process);

        let ready = self.wait_for_log(0, "become ready", |l| l.contains("ready to accept"));
        if matches!(ready, Err(SandboxError::Ended { .. })) {
            self.reap();
        }
        ready
    }

    /// Stops the server and waits for its end. Does nothing when it is stopped.
    ///
    /// # Errors
    ///
    /// [`SandboxError::TimedOut`]; the server is still there then.
    pub fn stop(&self, mode: StopMode) -> Result<(), SandboxError> {
        let Some(pid) = self.pid() else {
            return Ok(());
        };
        let signal = match mode {
            StopMode::Smart => "TERM",
            StopMode::Fast => "INT",
            StopMode::Immediate => "QUIT",
        };
        self.signal(signal, pid)?;
        self.wait_end()
    }

    /// Kills the postmaster and all its processes with SIGKILL, as a power failure would.
    ///
    /// # Errors
    ///
    /// [`SandboxError::TimedOut`] when a process does not end.
    pub fn kill9(&self) -> Result<(), SandboxError> {
        let Some(pid) = self.pid() else {
            return Ok(());
        };
        let children = children_of(pid);
        self.signal("KILL", pid)?;
        for child in children {
            // They notice the postmaster's death by themselves, but some only when they next wake
            // up, and until then the data directory is in use. Gone already is as good.
            drop(self.signal("KILL", child));
        }
        self.wait_end()
    }

    /// Stops (fast) and starts the server.
    ///
    /// # Errors
    ///
    /// Those of [`Self::stop`] and [`Self::start`].
    pub fn restart(&self) -> Result<(), SandboxError> {
        self.stop(StopMode::Fast)?;
        self.start()
    }

    /// Kills one backend with SIGKILL; the server then disconnects everybody and recovers.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Failed`] when there is no such process.
    pub fn kill_backend(&self, pid: u32) -> Result<(), SandboxError> {
        self.signal("KILL", pid)
    }

    /// Sends a signal (`"STOP"`, `"CONT"`, `"TERM"` …) to the postmaster or one of its backends.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Failed`] when there is no such process.
    pub fn signal(&self, signal: &str, pid: u32) -> Result<(), SandboxError> {
        let script = format!("kill -{signal} {pid}");
        run(self.site.account.command("sh").args(["-c", &script])).map(drop)
    }

    /// Makes this replica a primary, on a new timeline.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Failed`] when it is no replica.
    pub fn promote(&self) -> Result<(), SandboxError> {
        self.psql("SELECT pg_promote(true, 60)").map(drop)
    }

    /// Stops applying WAL; what arrives is kept. Returns when replay has really stopped.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Failed`] when this is no replica.
    pub fn pause_replay(&self) -> Result<(), SandboxError> {
        self.psql("SELECT pg_wal_replay_pause()")?;
        // A replica that waits in recovery_min_apply_delay pauses only with its next record.
        self.wait_until("pg_get_wal_replay_pause_state() <> 'not paused'")
    }

    /// Goes on applying WAL.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Failed`] when this is no replica.
    pub fn resume_replay(&self) -> Result<(), SandboxError> {
        self.psql("SELECT pg_wal_replay_resume()").map(drop)
    }

    /// Applies each commit only when it is `delay` old.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Failed`] with the server's message.
    pub fn set_replay_delay(&self, delay: Duration) -> Result<(), SandboxError> {
        let ms = delay.as_millis();
        self.alter_system(&format!("recovery_min_apply_delay = '{ms}ms'"))
    }

    /// Waits until this replica has applied everything that `primary` has written so far.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Failed`] when it has not within a minute.
    pub fn wait_caught_up(&self, primary: &Self) -> Result<(), SandboxError> {
        // A commit of our own brings everything before it to disk, so that the flush position,
        // unlike the insert position, is one that replay can reach.
        let lsn = primary.psql(
            "SET synchronous_commit = local;
             DO $$ BEGIN PERFORM pg_logical_emit_message(true, 'sandbox', ''); END $$;
             SELECT pg_current_wal_flush_lsn();",
        )?;
        self.wait_until(&format!("pg_last_wal_replay_lsn() >= '{lsn}'"))
    }

    /// Makes this replica stream from another primary, as after a promotion.
    ///
    /// # Errors
    ///
    /// [`SandboxError::TimedOut`] when streaming does not start.
    pub fn follow(&self, primary: &Self) -> Result<(), SandboxError> {
        let mark = self.log().mark();
        let conninfo = primary.conninfo_for(&self.name).replace('\'', "''");
        self.alter_system(&format!("primary_conninfo = '{conninfo}'"))?;
        self.wait_for_log(mark, "stream", |l| l.contains("started streaming WAL"))
    }

    /// Changes a setting that needs no restart.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Failed`] with the server's message.
    pub fn alter_system(&self, assignment: &str) -> Result<(), SandboxError> {
        let sql = format!("ALTER SYSTEM SET {assignment}; SELECT pg_reload_conf();");
        self.psql(&sql).map(drop)
    }

    /// Waits, within the server, until `condition` holds; it may look at `pg_stat_activity`.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Failed`] when it does not within a minute.
    pub fn wait_until(&self, condition: &str) -> Result<(), SandboxError> {
        let timeout = PATIENCE.as_millis();
        self.psql(&format!(
            "SET statement_timeout = {timeout};
             DO $$ BEGIN
                 WHILE ({condition}) IS NOT TRUE LOOP
                     PERFORM pg_sleep(0.002), pg_stat_clear_snapshot();
                 END LOOP;
             END $$;"
        ))
        .map(drop)
    }

    /// Waits until the postmaster has ended and reaps it. The caller has arranged for its end.
    pub(super) fn reap(&self) {
        let mut process = self.lock();
        if let Some(child) = process.child.as_mut() {
            self.site.watchdog.forget(child.id());
            // It is our child and not yet reaped: waiting for it cannot fail.
            drop(child.wait());
            process.child = None;
        }
    }

    fn wait_end(&self) -> Result<(), SandboxError> {
        // All processes of the server hold the pipe, not only the postmaster.
        if !self.log().wait_end(PATIENCE) {
            return Err(self.timed_out("end"));
        }
        self.reap();
        Ok(())
    }

    fn wait_for_log(
        &self,
        mark: usize,
        act: &'static str,
        matches: impl Fn(&str) -> bool,
    ) -> Result<(), SandboxError> {
        match self.log().wait_for(mark, PATIENCE, matches) {
            Waited::Line(_) => Ok(()),
            Waited::Ended => Err(SandboxError::Ended {
                node: self.name.clone(),
                log: self.log().tail(20),
            }),
            Waited::TimedOut => Err(self.timed_out(act)),
        }
    }

    fn timed_out(&self, act: &'static str) -> SandboxError {
        SandboxError::TimedOut {
            node: self.name.clone(),
            act,
            log: self.log().tail(20),
        }
    }

    /// How a replica of that name connects to stream from this node.
    pub(super) fn conninfo_for(&self, application_name: &str) -> String {
        format!(
            "host='{}' port={} user=postgres application_name={application_name}",
            self.socket_dir().display(),
            self.port()
        )
    }

    fn lock(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Node {
    /// A cluster reaps its nodes before it drops them; this is for one that never became part of a
    /// cluster because its start failed.
    fn drop(&mut self) {
        if let Some(child) = self.lock().child.as_mut() {
            // Already ended is as good.
            drop(child.kill());
        }
        self.reap();
    }
}

/// The processes whose parent is `pid`; none where there is no `/proc`.
fn children_of(pid: u32) -> Vec<u32> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    // proc(5): "pid (comm) state ppid …", where comm may hold anything.
    let parent = |child: u32| -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
        let (_, after_comm) = stat.rsplit_once(')')?;
        after_comm.split_whitespace().nth(1)?.parse().ok()
    };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|child| parent(*child) == Some(pid))
        .collect()
}

/// Runs `command` with `input` as its standard input.
fn run_with_input(command: &mut Command, input: &[u8]) -> Result<String, SandboxError> {
    let program = Path::new(command.get_program()).display().to_string();
    let spawn_error = |source| SandboxError::Spawn {
        program: program.clone(),
        source,
    };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(spawn_error)?;
    let mut stdin = child.stdin.take().expect("stdin was asked to be a pipe");
    let output = thread::scope(|scope| {
        scope.spawn(move || {
            // It may end at an error before it has read all; its status tells.
            drop(stdin.write_all(input));
        });
        child.wait_with_output()
    })
    .map_err(spawn_error)?;
    if output.status.success() {
        return Ok(text(output.stdout));
    }
    Err(SandboxError::Failed {
        program,
        stderr: text(output.stderr),
    })
}
