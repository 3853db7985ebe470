//! The pooler under test, as a child process with a generated configuration.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use ::pgweir::sandbox::{Cluster, Node, ProcessLog, Waited};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// A running pooler. Killed on drop; its log is printed when the test fails, which it does when the
/// pooler has panicked.
pub struct Pgweir {
    child: Child,
    log: Arc<ProcessLog>,
    address: Option<SocketAddr>,
    dir: TempDir,
}

/// What the pooler's configuration is to be. By default: every database goes to the given nodes,
/// on a free port of 127.0.0.1, everybody trusted, `alice` and `postgres` administrators.
pub struct PgweirBuilder {
    process: Vec<String>,
    pool: Vec<String>,
    servers: Vec<String>,
    extra: String,
    arguments: Vec<String>,
    wrapper: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Pgweir {
    /// A pooler before the primary of `cluster`, and before its replicas when it has any.
    pub fn builder(cluster: &Cluster) -> PgweirBuilder {
        let builder = PgweirBuilder::without_servers().server(cluster.primary(), "primary");
        cluster
            .replicas()
            .iter()
            .fold(builder, |builder, node| builder.server(node, "replica"))
    }

    /// The first TCP address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address.expect("start() waited for it")
    }

    pub fn port(&self) -> u16 {
        self.address().port()
    }

    /// A URL through the pooler.
    pub fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its log so far.
    pub fn log(&self) -> Arc<ProcessLog> {
        Arc::clone(&self.log)
    }

    /// The directory of its configuration file, `pooler.toml`; for sockets and key files too.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Replaces the configuration file; `signal("HUP")` or RELOAD makes it read.
    pub fn rewrite_config(&self, change: impl FnOnce(String) -> String) {
        let path = self.dir.path().join("pooler.toml");
        let old = fs::read_to_string(&path).expect("we wrote it");
        fs::write(&path, change(old)).expect("the directory is ours");
    }

    /// Sends a signal: `"TERM"`, `"INT"`, `"HUP"` …
    pub fn signal(&self, signal: &str) {
        let script = format!("kill -{signal} {}", self.pid());
        let status = Command::new("sh").args(["-c", &script]).status();
        assert!(status.is_ok_and(|s| s.success()), "cannot signal {signal}");
    }

    /// Waits for its end, for at most a minute.
    pub fn wait_exit(&mut self) -> ExitStatus {
        assert!(
            self.log.wait_end(PATIENCE),
            "the pooler has not ended:\n{}",
            self.log.tail(50)
        );
        self.child.wait().expect("it is our child")
    }

    /// Resident memory in KiB.
    pub fn rss_kb(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most resident memory that it ever had, in KiB.
    pub fn peak_rss_kb(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// How many files and sockets it has open.
    pub fn descriptors(&self) -> usize {
        let open = fs::read_dir(format!("/proc/{}/fd", self.pid()));
        open.expect("the pooler runs").count()
    }

    fn status(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = fs::read_to_string(path).expect("the pooler runs");
        let line = status.lines().find(|l| l.starts_with(field));
        line.and_then(|l| l.split_whitespace().nth(1)?.parse().ok())
            .expect("the kernel prints such fields as N kB")
    }
}

impl Drop for Pgweir {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
        self.log.wait_end(PATIENCE);
        let log = self.log.text();
        if thread::panicking() {
            eprintln!("--- log of pgweir ---\n{log}\n---");
        } else {
            assert!(!log.contains("panicked at"), "pgweir has panicked:\n{log}");
        }
    }
}

impl PgweirBuilder {
    /// A pooler that knows no server yet.
    pub fn without_servers() -> Self {
        Self {
            process: vec![
                "listen_addr = \"127.0.0.1\"".to_owned(),
                "listen_port = 0".to_owned(),
            ],
            pool: Vec::new(),
            servers: Vec::new(),
            extra: String::new(),
            arguments: Vec::new(),
            wrapper: Vec::new(),
            environment: Vec::new(),
        }
        .pgweir("auth_type", "\"trust\"")
        .pgweir("admin_users", "[\"alice\", \"postgres\"]")
    }

    /// A server of the database `*`, over TCP.
    pub fn server(self, node: &Node, role: &str) -> Self {
        self.server_at("127.0.0.1", node.port(), role)
    }

    /// A server of the database `*` that may be anything.
    pub fn server_at(mut self, host: &str, port: u16, role: &str) -> Self {
        self.servers.push(format!(
            "  {{ host = \"{host}\", port = {port}, role = \"{role}\" }},"
        ));
        self
    }

    /// A key of `[pgweir]`; `value` is TOML. Replaces an earlier one.
    pub fn pgweir(mut self, key: &str, value: &str) -> Self {
        put(&mut self.process, key, value);
        self
    }

    /// A key of `[pool]`; `value` is TOML. Replaces an earlier one.
    pub fn pool(mut self, key: &str, value: &str) -> Self {
        put(&mut self.pool, key, value);
        self
    }

    pub fn pool_size(self, size: usize) -> Self {
        self.pool("default_pool_size", &size.to_string())
    }

    pub fn pool_mode(self, mode: &str) -> Self {
        self.pool("pool_mode", &format!("\"{mode}\""))
    }

    /// More TOML after all else: further tables such as `[users.alice]`.
    pub fn extra(mut self, toml: &str) -> Self {
        self.extra.push_str(toml);
        self.extra.push('\n');
        self
    }

    /// A further command-line argument.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// A command that becomes the pooler, such as prlimit with its arguments.
    pub fn wrapped_in(mut self, command: &[&str]) -> Self {
        self.wrapper = command.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// An environment variable of the pooler.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The configuration file.
    pub fn toml(&self) -> String {
        let mut toml = String::new();
        let mut table = |name: &str, lines: &[String]| {
            if !lines.is_empty() {
                writeln!(toml, "[{name}]\n{}\n", lines.join("\n")).expect("a String takes all");
            }
        };
        table("pgweir", &self.process);
        table("pool", &self.pool);
        if !self.servers.is_empty() {
            let servers = format!("servers = [\n{}\n]", self.servers.join("\n"));
            table("databases.\"*\"", &[servers]);
        }
        toml + &self.extra
    }

    /// Starts the pooler and waits until it accepts clients.
    pub fn start(self) -> Pgweir {
        let mut pooler = self.spawn();
        let listening = |line: &str| listening_on(line).is_some();
        match pooler.log.wait_for(0, PATIENCE, listening) {
            Waited::Line(line) => pooler.address = listening_on(&line),
            other => panic!("it does not listen ({other:?}): {}", pooler.log.tail(50)),
        }
        pooler
    }

    /// Starts the pooler without waiting for anything: for configurations that must fail.
    pub fn spawn(&self) -> Pgweir {
        let dir = tempfile::tempdir().expect("the temporary directory is writable");
        let config = dir.path().join("pooler.toml");
        fs::write(&config, self.toml()).expect("the directory is ours");
        let words = self.wrapper.iter().map(String::as_str);
        let mut words = words.chain([env!("CARGO_BIN_EXE_pgweir")]);
        let mut child = Command::new(words.next().expect("the pooler at least"))
            .args(words)
            .arg("--config")
            .arg(&config)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("cargo has built the binary");
        let stderr = child.stderr.take().expect("stderr was asked to be a pipe");
        Pgweir {
            child,
            log: ProcessLog::drain(stderr),
            address: None,
            dir,
        }
    }
}

fn put(lines: &mut Vec<String>, key: &str, value: &str) {
    let prefix = format!("{key} = ");
    lines.retain(|line| !line.starts_with(&prefix));
    lines.push(prefix + value);
}

/// The address in a line like `… INFO pgweir: listening on 127.0.0.1:6432`.
fn listening_on(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("listening on ")?;
    rest.split_whitespace().next()?.parse().ok()
}
