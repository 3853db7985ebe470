//! `pgweir demo` as a newcomer runs it: it serves, it tells, it ends, and leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod support;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use pgweir::{
    protocol::{
        encode,
        startup::{ProtocolVersion, startup_message},
    },
    sandbox::{ProcessLog, Waited},
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// A temporary directory that the account of PostgreSQL may write to as well.
fn temporary() -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    dir
}

fn demo(temporary: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgweir"));
    command
        .env("TMPDIR", temporary.path())
        .arg("demo")
        .args(arguments);
    if !arguments.contains(&"--pg-bin") {
        command.arg("--pg-bin").arg(support::binaries().dir);
    }
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Processes that were started with, or work in, a directory.
fn processes_in(dir: &Path) -> Vec<String> {
    let name = dir.to_str().unwrap();
    let uses = |process: &Path| {
        let cmdline = fs::read(process.join("cmdline")).unwrap_or_default();
        let cwd = fs::read_link(process.join("cwd")).unwrap_or_default();
        cmdline.escape_ascii().to_string().contains(name) || cwd.starts_with(dir)
    };
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|process| uses(process))
        .map(|process| process.display().to_string())
        .collect()
}

/// What is left in a temporary directory, but for the lock files of ports, which are kept.
fn left_in(temporary: &TempDir) -> Vec<String> {
    fs::read_dir(temporary.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "pgweir-ports")
        .collect()
}

fn assert_nothing_left(temporary: &TempDir) {
    assert_eq!(left_in(temporary), Vec::<String>::new());
    assert_eq!(processes_in(temporary.path()), Vec::<String>::new());
}

/// Where the demo says that it listens.
fn address(output: &str) -> SocketAddr {
    let line = output
        .lines()
        .find(|line| line.starts_with("pgweir listens on "));
    let word = line
        .and_then(|line| line.split_whitespace().nth(3))
        .unwrap();
    word.trim_end_matches(':').parse().unwrap()
}

/// The numbers of the table's lines, and the reasons behind them.
fn rows(output: &str) -> Vec<(Vec<f64>, String)> {
    let number = |word: &str| word.trim_end_matches('s').replace(',', "").parse().ok();
    let row = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let (numbers, why) = words.split_at_checked(COLUMNS)?;
        let numbers: Option<Vec<f64>> = numbers.iter().map(|word| number(word)).collect();
        Some((numbers?, why.join(" ")))
    };
    output.lines().filter_map(row).collect()
}

/// time, clients, waiting, servers, transactions, wait, writes, reads by the primary, by replicas, lag,
/// dirty, checked, stale, errors.
const COLUMNS: usize = 14;

#[test]
fn it_shows_clients_at_work_and_ends_by_itself() {
    let temporary = temporary();
    let arguments = ["--for", "3s", "--port", "0"];
    let Output {
        status,
        stdout,
        stderr,
    } = demo(&temporary, &arguments).output().unwrap();
    let (output, errors) = (text(&stdout), text(&stderr));
    assert!(status.success(), "{status}\n{output}\n{errors}");
    assert_eq!(errors, "");

    let address = address(&output);
    for line in [
        format!("  psql postgres://demo@{address}/demo"),
        format!("  DATABASE_URL=postgres://demo@{address}/demo"),
    ] {
        assert!(output.lines().any(|l| l == line), "no {line:?}:\n{output}");
    }
    let rows = rows(&output);
    assert!(rows.len() >= 2, "{output}");
    let (last, why) = &rows[rows.len() - 1];
    assert_eq!(last[1], 16.0, "clients\n{output}");
    assert!(last[3] > 4.0, "connections to the replicas, too\n{output}");
    assert!(last[4] > 0.0, "no transactions\n{output}");
    assert!(
        last[6] > 0.0 && last[8] > 0.0,
        "no writes, no reads by replicas\n{output}"
    );
    assert!(last[11] > 0.0, "no reads\n{output}");
    assert_eq!(&last[12..], [0.0, 0.0], "stale reads, errors\n{output}");
    assert!(why.contains("proved_read "), "{output}");
    assert!(output.lines().last().unwrap().starts_with("ended: "));

    assert_nothing_left(&temporary);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn replicas_that_lag_cost_no_read_its_truth() {
    let temporary = temporary();
    let arguments = ["--for", "4s", "--port", "0", "--replay-delay", "200ms"];
    let output = demo(&temporary, &arguments).output().unwrap();
    assert_eq!(text(&output.stderr), "");
    let output = text(&output.stdout);
    let rows = rows(&output);
    let (last, _) = &rows[rows.len() - 1];
    assert!(
        rows.iter().any(|(_, why)| why.contains("own_writes ")),
        "{output}"
    );
    assert!(
        last[9] > 0.0 && last[10] > 0.0,
        "lag, dirty sessions\n{output}"
    );
    assert_eq!(&last[12..], [0.0, 0.0], "stale reads, errors\n{output}");
}

/// A demo without `--for`.
struct Running {
    child: Child,
    output: Arc<ProcessLog>,
}

impl Running {
    fn start(temporary: &TempDir) -> Self {
        let mut child = demo(temporary, &["--port", "0", "--replicas", "1"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = ProcessLog::drain(child.stdout.take().unwrap());
        Self { child, output }
    }

    fn wait_for(&self, matches: impl Fn(&str) -> bool) {
        let found = self.output.wait_for(0, PATIENCE, matches);
        assert!(matches!(found, Waited::Line(_)), "{found:?}");
    }

    fn signal(&self, signal: &str) {
        let script = format!("kill -{signal} {}", self.child.id());
        let status = Command::new("sh").args(["-c", &script]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already where all went well.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A client that has a server and does not give it back.
fn open_transaction(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let parameters = [(&b"user"[..], &b"demo"[..]), (b"database", b"demo")];
    let mut request = startup_message(ProtocolVersion::V3_0, parameters);
    encode::query(&mut request, b"BEGIN");
    stream.write_all(&request).unwrap();
    let in_transaction = b"Z\0\0\0\x05T";
    let mut received = Vec::new();
    while !received.ends_with(in_transaction) {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        received.push(byte[0]);
    }
    stream
}

#[test]
fn a_signal_ends_it_and_nothing_is_left() {
    for signal in ["INT", "TERM", "QUIT"] {
        let temporary = temporary();
        let mut running = Running::start(&temporary);
        running.wait_for(|line| line.starts_with("   1s "));
        // A client in the middle of a transaction does not hold up the end.
        let address = address(&running.output.text());
        let mut client = open_transaction(address);
        running.signal(signal);
        let status = running.child.wait().unwrap();
        assert!(status.success(), "{signal}: {status}");
        running.wait_for(|line| line.starts_with("ended: "));
        let mut farewell = Vec::new();
        // Either way of ending is one; being left connected is not.
        drop(client.read_to_end(&mut farewell));
        assert_nothing_left(&temporary);
    }
}

#[test]
fn killed_at_any_time_it_leaves_nothing() {
    for moment in ["starting PostgreSQL ", "pgweir listens on "] {
        let temporary = temporary();
        let running = Running::start(&temporary);
        running.wait_for(|line| line.starts_with(moment));
        running.signal("KILL");
        support::eventually("everything is gone", || {
            left_in(&temporary).is_empty() && processes_in(temporary.path()).is_empty()
        });
    }
}

#[test]
fn a_port_in_use_is_told_before_anything_is_started() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let temporary = temporary();
    let output = demo(&temporary, &["--port", &port]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "");
    let errors = text(&output.stderr);
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(
        errors.contains(&port) && errors.contains("in use"),
        "{errors}"
    );
    assert_nothing_left(&temporary);
}

#[test]
fn without_postgresql_it_says_what_to_install() {
    let temporary = temporary();
    let arguments = ["--port", "0", "--pg-bin", "/nonexistent"];
    let output = demo(&temporary, &arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    assert!(errors.contains("apt-get install postgresql"), "{errors}");
    assert_nothing_left(&temporary);
}
