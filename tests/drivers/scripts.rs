//! psycopg, asyncpg, node-postgres and JDBC: each a program of its own, run as a child.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
};

use crate::subject::Subject;

/// Where scripts/ensure-drivers.sh puts the drivers: beside the directory that Cargo names for tests.
fn installed() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("drivers")
}

fn present(path: PathBuf) -> PathBuf {
    assert!(
        path.exists(),
        "{} is missing: `make test` sets the drivers up, and so does scripts/ensure-drivers.sh",
        path.display()
    );
    path
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/drivers")
        .join(name)
}

fn python(script: &str) -> Command {
    let mut command = Command::new(present(installed().join("venv/bin/python")));
    command
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .arg(source(script));
    command
}

/// Runs the program to its end. It has a watchdog of its own, and says how many checks have passed.
fn passes(command: &mut Command, subject: &Subject) {
    let output = match command.arg(subject.url()).output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => panic!(
            "{} is not installed: `make test` installs it, and so does scripts/ensure-drivers.sh",
            command.get_program().display()
        ),
        Err(error) => panic!("cannot run {command:?}: {error}"),
    };
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && told.contains("checks passed"),
        "{command:?} ended with {}\n{told}\n{}",
        output.status,
        String::from_utf8(output.stderr).unwrap()
    );
}

#[test]
fn psycopg() {
    passes(&mut python("psycopg_test.py"), &Subject::new());
}

#[test]
fn psycopg_with_few_statements_a_server() {
    let subject = Subject::with(|pooler| pooler.pool("max_prepared_statements", "3"));
    passes(&mut python("psycopg_test.py"), &subject);
}

#[test]
fn asyncpg() {
    passes(&mut python("asyncpg_test.py"), &Subject::new());
}

#[test]
fn asyncpg_on_two_workers() {
    let subject = Subject::with(|pooler| pooler.pgweir("workers", "2"));
    passes(&mut python("asyncpg_test.py"), &subject);
}

#[test]
fn node_postgres() {
    let modules = present(installed().join("node/node_modules"));
    let mut command = Command::new("node");
    command
        .env("NODE_PATH", modules)
        .arg(source("node_postgres_test.js"));
    passes(&mut command, &Subject::new());
}

#[test]
fn jdbc() {
    let mut command = Command::new("java");
    command
        .arg("-cp")
        .arg(present("/usr/share/java/postgresql.jar".into()))
        .arg(source("JdbcTest.java"));
    passes(&mut command, &Subject::new());
}
