//! The tables of `tests/statements`, on real servers: who has got each statement is in the servers' logs.
//!
//! Most of what the statements speak of does not exist, which a server says only when it has got them.

use std::{fs, path::Path, time::Duration};

use ::pgweir::{
    sandbox::{Node, Waited},
    sql::{Class, Env, classify},
};

use crate::{
    stage::{database, own, pooler},
    support::{
        eventually,
        raw::{Raw, copy_fail, query},
    },
};

struct Statement {
    place: String,
    target: String,
    text: String,
}

/// The lines of the tables: `target  reason  statement`, with indented lines behind it.
fn statements() -> Vec<Statement> {
    const TARGETS: [&str; 4] = ["replica", "primary", "session", "execute"];
    let mut statements: Vec<Statement> = Vec::new();
    let files = fs::read_dir(Path::new("tests/statements")).unwrap();
    for file in files.map(|entry| entry.unwrap().path()) {
        let text = fs::read_to_string(&file).unwrap();
        let mut is_open = false;
        for (number, line) in text.lines().enumerate() {
            if is_open && line.starts_with(' ') {
                let last = statements.last_mut().unwrap();
                last.text = format!("{}\n{}", last.text, line.trim_start());
                continue;
            }
            let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
            is_open = TARGETS.contains(&first);
            if is_open {
                let (_, text) = rest.trim_start().split_once(' ').unwrap();
                statements.push(Statement {
                    place: format!("{}:{}", file.display(), number + 1),
                    target: first.to_owned(),
                    text: text.trim_start().to_owned(),
                });
            }
        }
    }
    statements
}

/// Sends it in a session of its own, and answers whatever comes.
fn run(mut raw: Raw, text: &str) {
    raw.send(&query(text));
    loop {
        match raw.answer().as_str() {
            "G" => raw.send(&copy_fail("no data")),
            answer if answer.starts_with('Z') || answer == "closed" => break,
            _ => {}
        }
    }
    raw.terminate();
}

/// Whose statements a server has got, by the names of their sessions.
fn log_of(node: &Node) -> String {
    node.psql("SELECT 'the end of the log'").unwrap();
    let is_end = |line: &str| line.contains("the end of the log");
    let found = node.log().wait_for(0, Duration::from_secs(60), is_end);
    assert!(matches!(found, Waited::Line(_)), "{found:?}");
    node.log().text()
}

#[test]
fn every_statement_of_the_tables_goes_where_they_say() {
    let cluster = own(|builder| {
        let builder = builder.setting("log_statement", "all");
        builder.setting("log_line_prefix", "%a|")
    });
    let sql = "CREATE TABLE t (id int, a int, b text, c int[], j jsonb);
               CREATE TABLE users (id int, name text);
               CREATE SEQUENCE s;
               CREATE FUNCTION is_known() RETURNS text LANGUAGE sql STABLE
               AS $$ SELECT current_setting('test.server') $$;
               CREATE ROLE anybody LOGIN";
    let name = database(&cluster, sql);
    let pooler = pooler(&cluster, &name, |it| it);
    eventually("the catalogue was read", || {
        let mut raw = Raw::connect(pooler.address(), &name);
        raw.value("SELECT is_known()") != "primary"
    });

    let statements = statements();
    let env = Env {
        server_version: u16::try_from(cluster.binaries().version).unwrap(),
        ..Env::default()
    };
    let (mut sent, mut left_out) = (Vec::new(), 0);
    for (number, statement) in statements.iter().enumerate() {
        let class = classify(statement.text.as_bytes(), &env).class;
        let is_of_later_version = statement.target == "replica" && class != Class::Read;
        // A name with a quote in it may be any of those that the catalogue warns of.
        let is_any_name = statement.text.contains("\"\"");
        if is_of_later_version || is_any_name || statement.text.contains("PROGRAM") {
            left_out += 1;
            continue;
        }
        let session = format!("session {number} of it");
        let raw = Raw::connect_with(
            pooler.address(),
            &name,
            &[
                ("user", "anybody"),
                ("application_name", &session),
                ("options", "-c statement_timeout=5s"),
            ],
        );
        run(raw, &statement.text);
        sent.push((session, statement));
    }
    let on_primary = log_of(cluster.primary());
    let on_replicas = cluster.replicas().iter().map(log_of).collect::<String>();
    let mut wrong = Vec::new();
    for (session, statement) in &sent {
        let is_in = |log: &str| log.contains(&format!("{session}|"));
        let found = (is_in(&on_primary), is_in(&on_replicas));
        let is_right = match statement.target.as_str() {
            "replica" => found == (false, true),
            "primary" => found == (true, false),
            // What the pooler answers itself, no server gets.
            _ => !found.1,
        };
        if !is_right {
            let Statement {
                place,
                target,
                text,
            } = statement;
            wrong.push(format!(
                "{place}: {target}: (primary, replica) = {found:?}: {text}"
            ));
        }
    }
    println!("{} statements sent, {left_out} left out", sent.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(left_out * 20 < sent.len(), "too many were left out");
}
