//! `pgweir explain`, by running it: each statement of the tables in bulk, and whatever else a program or a
//! person may give it.
#![expect(clippy::unwrap_used, reason = "a test panics")]

#[path = "statements/table.rs"]
mod table;

mod support;

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Output, Stdio},
    thread,
};

use serde_json::{Value, json};

fn explain() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgweir"));
    command.arg("explain");
    command
}

/// Writes `input` and reads what comes, both at once.
fn run(command: &mut Command, input: Vec<u8>) -> Output {
    let command = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    output
}

fn in_bulk(input: Vec<u8>) -> Vec<Value> {
    let output = run(explain().args(["--json", "--server-version", "18"]), input);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stderr, b"");
    let lines = str::from_utf8(&output.stdout).unwrap().lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// What is told of a statement that the table has at this place.
fn expected(target: &str, reason: &str) -> Value {
    let (class, target) = match target {
        "replica" => ("read", "replica"),
        "any" => ("empty", "replica"),
        "begin" if reason == "read_only_transaction" => ("begin", "replica"),
        "begin" => ("begin", "primary"),
        "control" => ("transaction", "primary"),
        "setting" => ("set", "replica"),
        "isolation" => ("set", "primary"),
        "session" => ("session", "primary"),
        "execute" => ("execute", "primary"),
        _ => ("write", "primary"),
    };
    json!({ "class": class, "target": target, "reason": reason })
}

#[test]
fn each_statement_of_the_tables_is_explained_as_they_say() {
    let cases = table::cases();
    let lines = cases.iter().map(|case| format!("{}\n", json!(case.text)));
    let explained = in_bulk(lines.collect::<String>().into_bytes());
    assert_eq!(explained.len(), cases.len());
    let mut wrong = Vec::new();
    for (case, mut found) in cases.iter().zip(explained) {
        let found = found.as_object_mut().unwrap();
        let evidence = found.remove("evidence").unwrap();
        let is_there = case.text.contains(evidence.as_str().unwrap());
        // The tables know nothing of what is unknown, and of how a transaction is routed.
        if found["class"] == "unknown" {
            found["class"] = json!("write");
        }
        let is_read_only = case.target == "begin" && case.text.contains("READ ONLY");
        let reason = if is_read_only {
            "read_only_transaction"
        } else {
            &case.reason
        };
        if !is_there || json!(found) != expected(&case.target, reason) {
            wrong.push(format!("{}: {}\n  is {found:?}", case.place, case.text));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_bad_line_costs_itself_only() {
    let mut input = Vec::new();
    let bad: [&[u8]; 9] = [
        b"SELECT 1",
        b"",
        b"{\"text\": \"SELECT 1\"}",
        b"null",
        b"\"SELECT 1",
        b"\"SELECT 1\" \"SELECT 2\"",
        b"\"\\ud800\"",
        b"\"\xff\"",
        b"\"SELECT 1\\u0000; DELETE FROM t\"",
    ];
    for line in bad {
        input.extend_from_slice(line);
        input.extend_from_slice(b"\n\"SELECT 'r\\u00e9sum\\u00e9' AS \\\"h\xc3\xa9\\\"\"\r\n");
    }
    input.extend_from_slice(b"\"SELECT caf\xc3\xa9()\"");
    let explained = in_bulk(input);
    assert_eq!(explained.len(), 2 * bad.len() + 1);
    for (line, pair) in bad.iter().zip(explained.chunks(2)) {
        let line = line.escape_ascii();
        assert!(pair[0]["error"].is_string(), "{line}: {}", pair[0]);
        assert_eq!(pair[0].as_object().unwrap().len(), 1, "{line}");
        assert_eq!(pair[1]["target"], "replica", "{line}");
    }
    let last = json!({
        "class": "write", "target": "primary", "reason": "unknown_function", "evidence": "café",
    });
    assert_eq!(explained[2 * bad.len()], last);
}

/// A program may ask and wait, line by line.
#[test]
fn each_line_is_answered_before_the_next_one_is_sent() {
    let mut command = explain();
    let command = command.arg("--json").stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    for (text, target) in [
        ("TABLE t", "replica"),
        ("nonsense", "primary"),
        ("SELECT 1", "replica"),
    ] {
        writeln!(stdin, "{}", json!(text)).unwrap();
        let answer: Value = serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap();
        assert_eq!(answer["target"], target, "{text}");
    }
    drop(stdin);
    assert!(answers.next().is_none());
    assert!(child.wait().unwrap().success());
}

#[test]
fn one_statement_is_explained_to_people() {
    let told = |statement: &str| {
        let output = run(explain().arg(statement), Vec::new());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(
        told("SELECT nextval('orders_id_seq')"),
        "class     write\n\
         target    primary\n\
         reason    sequence_function\n\
         evidence  nextval\n"
    );
    assert_eq!(
        told("-- pgweir: primary\nSELECT 1"),
        "class     read\ntarget    primary\nreason    hint\n"
    );
}

#[test]
fn what_to_explain_must_be_said_once() {
    for arguments in [
        &[][..],
        &["--json", "SELECT 1"],
        &["SELECT 1", "SELECT 2"],
        &["--database", "shop", "SELECT 1"],
    ] {
        let output = run(explain().args(arguments), Vec::new());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
    }
}

// ── With a configuration ─────────────────────────────────────────────────────────────────────

/// A database with a function that writes, one that does not, and a view of each.
fn make_shop() {
    let node = support::postgres().primary();
    node.psql("CREATE DATABASE shop").unwrap();
    let objects = "
        CREATE TABLE orders (id int);
        CREATE FUNCTION book() RETURNS int VOLATILE LANGUAGE sql
            AS 'INSERT INTO orders VALUES (1) RETURNING id';
        CREATE FUNCTION booked() RETURNS bigint STABLE LANGUAGE sql AS 'SELECT count(*) FROM orders';
        CREATE FUNCTION audit() RETURNS int STABLE LANGUAGE sql AS 'SELECT 1';
        CREATE VIEW booking AS SELECT book();
        CREATE VIEW bookings AS SELECT booked();";
    node.psql_in("shop", objects).unwrap();
}

struct Configured {
    dir: tempfile::TempDir,
}

impl Configured {
    fn new(toml: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("pooler.toml"), toml).unwrap();
        Self { dir }
    }

    fn explain(&self, arguments: &[&str]) -> Output {
        let mut command = explain();
        let command = command
            .arg("--config")
            .arg(self.dir.path().join("pooler.toml"));
        run(command.args(arguments), Vec::new())
    }

    /// Target and reason.
    fn told(&self, arguments: &[&str]) -> String {
        let output = self.explain(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let word = |name| {
            text.lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap()
        };
        format!("{} {}", word("target    "), word("reason    "))
    }

    fn failure(&self, arguments: &[&str]) -> String {
        let output = self.explain(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        assert_eq!(output.stdout, b"");
        String::from_utf8(output.stderr).unwrap()
    }
}

#[test]
fn the_catalogue_of_the_configured_database_counts() {
    make_shop();
    let node = support::postgres().primary();
    let port = node.port();
    let configured = Configured::new(&format!(
        r#"
        [pool]
        write_functions = ["audit"]
        [databases.shop]
        user = "postgres"
        servers = [
            {{ host = "127.0.0.1", port = 1, role = "replica" }},
            {{ host = "127.0.0.1", port = {port}, role = "primary" }},
        ]
        [databases.other]
        dbname = "shop"
        route = "primary"
        servers = [
            {{ host = "127.0.0.1", port = 1, role = "auto" }},
            {{ host = "127.0.0.1", port = {port}, role = "auto" }},
        ]
        [databases.nowhere]
        user = "postgres"
        servers = [{{ host = "127.0.0.1", port = 1, role = "primary" }}]
        "#
    ));
    let shop = |statement| configured.told(&["--database", "shop", statement]);
    assert_eq!(shop("SELECT booked()"), "replica proved_read");
    assert_eq!(shop("SELECT book()"), "primary catalogue_function");
    assert_eq!(shop("SELECT audit()"), "primary catalogue_function");
    assert_eq!(shop("TABLE bookings"), "replica proved_read");
    assert_eq!(shop("TABLE booking"), "primary catalogue_object");
    assert_eq!(shop("SELECT gone()"), "primary unknown_function");

    let other = [
        "--database",
        "other",
        "--user",
        "postgres",
        "SELECT booked()",
    ];
    assert_eq!(configured.told(&other), "primary route_setting");

    let why = |arguments| configured.failure(arguments);
    assert!(why(&["SELECT 1"]).contains("--database NAME"));
    assert!(why(&["--database", "none", "SELECT 1"]).contains("no database \"none\""));
    assert!(why(&["--database", "other", "SELECT 1"]).contains("--user NAME"));
    let nowhere = why(&["--database", "nowhere", "SELECT 1"]);
    assert!(
        nowhere.contains("127.0.0.1:1") && nowhere.contains("refused"),
        "{nowhere}"
    );
}
