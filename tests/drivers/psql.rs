//! psql: libpq's simple protocol, COPY both ways, a cancel by Ctrl-C, and the commands that people type.

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
};

use crate::{subject::Subject, support};

fn psql(subject: &Subject) -> Command {
    let mut command = Command::new(support::binaries().client_program("psql").unwrap());
    command.args(["-X", "-q", "-A", "-t", "-d", subject.url()]);
    command
}

/// Runs `input` as a script and hands back what was printed on both outputs.
fn script(command: &mut Command, input: &str) -> (String, String, Output) {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr), output)
}

#[test]
fn a_script_of_many_kinds() {
    let subject = Subject::new();
    let input = r"
        CREATE TABLE psql_items (n int PRIMARY KEY, t text);
        BEGIN; INSERT INTO psql_items VALUES (1, 'one'); ROLLBACK;
        INSERT INTO psql_items SELECT g, 'item ' || g FROM generate_series(1, 1000) g;
        SELECT count(*) FROM psql_items;
        SELECT 'a', NULL, 'é' \gdesc
        \set FETCH_COUNT 100
        SELECT sum(n) FROM (SELECT n FROM psql_items) s;
        SELECT n FROM psql_items WHERE n % 250 = 0 ORDER BY n;
        \unset FETCH_COUNT
        SELECT 1/0;
        \echo :LAST_ERROR_SQLSTATE
        SET search_path TO pg_catalog;
        SHOW search_path;
        SELECT 2 \; SELECT 3;
        DROP TABLE public.psql_items;
    ";
    let (told, complaints, output) = script(&mut psql(&subject), input);
    assert_eq!(
        told,
        "1000\n?column?|text\n?column?|text\n?column?|text\n500500\n250\n500\n750\n1000\n22012\npg_catalog\n2\n3\n",
        "{complaints}"
    );
    assert!(complaints.contains("division by zero"), "{complaints}");
    assert!(output.status.success());
}

#[test]
fn copy_both_ways() {
    let subject = Subject::new();
    let lines: String = (0..20_000).map(|n| format!("{n}\tline {n} é\n")).collect();
    let input = format!(
        "CREATE TABLE psql_copy (n int, t text);\nCOPY psql_copy FROM STDIN;\n{lines}\\.\n\
         COPY psql_copy FROM STDIN;\nnot a number\tx\n1\ty\n\\.\n\
         SELECT count(*) FROM psql_copy;\nCOPY (SELECT * FROM psql_copy ORDER BY n) TO STDOUT;\n\
         DROP TABLE psql_copy;\nSELECT 'done';\n"
    );
    let (told, complaints, _) = script(&mut psql(&subject), &input);
    assert!(
        told == format!("20000\n{lines}done\n"),
        "{} bytes came: {complaints}",
        told.len()
    );
    assert!(
        complaints.contains("invalid input syntax for type integer"),
        "{complaints}"
    );
}

#[test]
fn ctrl_c_cancels_the_query_and_not_the_session() {
    let subject = Subject::new();
    let primary = support::postgres().primary();
    let mark = format!("ctrl-c {}", subject.url());
    let mut command = psql(&subject);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "SELECT pg_sleep(600) /* {mark} */;").unwrap();
    let running = format!(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%{mark}%' AND pid <> pg_backend_pid())"
    );
    support::eventually("the query runs", || primary.psql(&running).unwrap() == "t");
    let interrupted = Command::new("sh")
        .args(["-c", &format!("kill -INT {}", child.id())])
        .status()
        .unwrap();
    assert!(interrupted.success());
    // psql gives up its whole input upon Ctrl-C when that is not a terminal; its status tells which error it was.
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let complaints = String::from_utf8(output.stderr).unwrap();
    assert!(
        complaints.contains("canceling statement due to user request"),
        "{complaints}"
    );
    let (told, ..) = script(&mut psql(&subject), "SELECT 'alive';");
    assert_eq!(told, "alive\n");
}

#[test]
fn what_people_type() {
    let subject = Subject::new();
    // `\l` of a psql before 17, which may be the only one here, asks for a column that PostgreSQL 17 has renamed.
    let list = if support::binaries().version < 17 {
        r"\l postgres"
    } else {
        ""
    };
    let input = r"
        \dt no_such_table
        \df pg_catalog.now
        \d pg_class
        \dn+
        \du
        \conninfo
        \c -
        SELECT 'still here';
    ";
    let input = format!("{list}{input}");
    let (told, complaints, output) =
        script(psql(&subject).arg("-v").arg("ON_ERROR_STOP=1"), &input);
    assert!(output.status.success(), "{told}{complaints}");
    assert!(told.ends_with("still here\n"), "{told}{complaints}");
}
