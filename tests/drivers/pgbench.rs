//! pgbench, which ends with a status and counts what failed: sixteen clients through a pool of four.

use std::process::Command;

use crate::{subject::Subject, support};

const PROTOCOLS: [&str; 3] = ["simple", "extended", "prepared"];

fn pgbench() -> Command {
    Command::new(support::binaries().client_program("pgbench").unwrap())
}

/// A pooler whose database has the tables of pgbench, made past the pooler.
fn subject() -> Subject {
    let subject = Subject::new();
    let output = pgbench()
        .args(["-i", "-q", "-s", "2", subject.direct_url()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", output.stderr.escape_ascii());
    subject
}

fn runs(subject: &Subject, arguments: &[&str]) {
    let mut command = pgbench();
    command
        .args(["-n", "-c", "16", "-j", "2", "-T", "2"])
        .args(arguments)
        .arg(subject.url());
    let output = command.output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let complaints = String::from_utf8(output.stderr).unwrap();
    let failed =
        |line: &str| line.starts_with("number of failed transactions") && !line.contains(": 0 ");
    assert!(
        output.status.success()
            && !told.lines().any(failed)
            && !told.contains("processed: 0\n")
            && !complaints.contains("error"),
        "{command:?} ended with {}\n{told}\n{complaints}",
        output.status
    );
}

#[test]
fn select_only() {
    let subject = subject();
    for protocol in PROTOCOLS {
        runs(&subject, &["-S", "-M", protocol]);
    }
}

#[test]
fn select_only_with_a_connection_for_each_transaction() {
    let subject = subject();
    for protocol in PROTOCOLS {
        runs(&subject, &["-S", "-C", "-M", protocol]);
    }
}

#[test]
fn like_tpc_b() {
    let subject = subject();
    for protocol in PROTOCOLS {
        runs(&subject, &["-M", protocol]);
    }
    runs(&subject, &["-C", "-M", "prepared"]);
    let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history) \
                AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(delta) FROM pgbench_history)";
    let balanced = Command::new(support::binaries().client_program("psql").unwrap())
        .args(["-X", "-A", "-t", "-c", sums, subject.direct_url()])
        .output()
        .unwrap();
    assert_eq!(balanced.stdout, b"t\n", "a transfer was lost or doubled");
}

#[test]
fn pipelines() {
    let subject = subject();
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("pipeline.sql");
    let text = "\\set a random(1, 200000)\n\\startpipeline\nSELECT abalance FROM pgbench_accounts WHERE aid = :a;\nBEGIN;\n\
                SELECT 1;\nSELECT :a::int + 1;\nCOMMIT;\nSELECT count(*) FROM pgbench_branches;\n\\endpipeline\n";
    std::fs::write(&script, text).unwrap();
    for protocol in ["extended", "prepared"] {
        runs(&subject, &["-f", script.to_str().unwrap(), "-M", protocol]);
    }
}
