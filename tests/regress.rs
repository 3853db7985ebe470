//! PostgreSQL's own regression SQL against the classifier: forty thousand statements that nobody wrote with a router in
//! mind, judged by libpg_query and by a real standby.
//!
//! Needs what `tests/regress/fetch.sh` fetches and prepares, so it runs only when asked for: `make check-regress`.

mod support;

use std::{collections::BTreeMap, env, fs, path::PathBuf, process::Command, time::Duration};

use pgweir::{
    sandbox::{Cluster, Node},
    sql::{Class, Env, Facts, classify},
};
use serde::Deserialize;

/// A statement and what libpg_query makes of it: see `tests/regress/extract.py`.
#[derive(Deserialize)]
struct Statement {
    file: String,
    line: u32,
    text: String,
    kind: String,
    functions: Vec<(Option<String>, String)>,
}

/// Kept from replicas on purpose, though the catalogue does not call them volatile.
const ON_PURPOSE: &[&str] = &[
    "server_local",
    "transaction_id",
    "sql_in_string",
    "temporary_relation",
];

/// Volatile, and harmless all the same.
const HARMLESS: &[&str] = &[
    "clock_timestamp",
    "current_query",
    "gen_random_uuid",
    "pg_database_size",
    "pg_indexes_size",
    "pg_partition_ancestors",
    "pg_partition_tree",
    "pg_relation_size",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "pg_table_size",
    "pg_tablespace_size",
    "pg_total_relation_size",
    "random",
    "timeofday",
];

fn prepared() -> PathBuf {
    let dir =
        env::var_os("PGWEIR_REGRESS").expect("PGWEIR_REGRESS must name what fetch.sh prepared");
    PathBuf::from(dir)
}

fn statements() -> Vec<Statement> {
    let text = fs::read_to_string(prepared().join("statements.jsonl")).unwrap();
    let statements: Vec<Statement> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert!(
        statements.len() > 30_000,
        "only {} statements",
        statements.len()
    );
    statements
}

fn look(statement: &Statement) -> Facts {
    let env = Env {
        server_version: 15,
        ..Env::default()
    };
    classify(statement.text.as_bytes(), &env)
}

/// Built-in functions with a variant that is volatile, and all others.
fn volatility(node: &Node) -> BTreeMap<String, bool> {
    let rows = node
        .psql(
            "SELECT proname, bool_or(provolatile = 'v') FROM pg_proc \
             WHERE pronamespace = 'pg_catalog'::regnamespace GROUP BY 1",
        )
        .unwrap();
    rows.lines()
        .map(|row| row.split_once('|').unwrap())
        .map(|(name, volatile)| (name.to_owned(), volatile == "t"))
        .collect()
}

#[test]
#[ignore = "needs the regression SQL: make check-regress"]
fn libpg_query_finds_no_write_among_the_reads() {
    let functions = volatility(support::postgres().primary());
    let harmless = |(schema, name): &(Option<String>, String)| {
        schema.as_deref().is_none_or(|s| s == "pg_catalog")
            && functions
                .get(name)
                .is_some_and(|volatile| !volatile || HARMLESS.contains(&&**name))
    };
    let (mut wrong, mut reads, mut needless) = (Vec::new(), 0_usize, BTreeMap::new());
    for statement in statements() {
        let facts = look(&statement);
        let is_read =
            matches!(&*statement.kind, "read" | "show") && statement.functions.iter().all(harmless);
        match (facts.class, is_read) {
            (Class::Read, true) => reads += 1,
            (Class::Read, false) => {
                wrong.push(format!(
                    "{}:{}: {}",
                    statement.file, statement.line, statement.text
                ));
            }
            (_, true) if !ON_PURPOSE.contains(&facts.reason.code()) => {
                let evidence = facts.evidence.of(statement.text.as_bytes()).escape_ascii();
                *needless
                    .entry(format!("{} {evidence}", facts.reason.code()))
                    .or_insert(0_usize) += 1;
            }
            _ => {}
        }
    }
    let lost: usize = needless.values().sum();
    let share = 100.0 * lost as f64 / (reads + lost) as f64;
    println!(
        "{reads} proved reads; {lost} needlessly on the primary ({share:.2} %): {needless:#?}"
    );
    assert!(
        wrong.is_empty(),
        "writes classed as reads:\n{}",
        wrong.join("\n")
    );
    assert!(
        share < 0.5,
        "{share:.2} % of the plain reads are kept from replicas without need"
    );
}

/// Makes the regression database as far as plain psql can: tests that need the C library of the suite fail, and their
/// objects are missing later.
fn run_suite(cluster: &Cluster) {
    let suite = prepared().join("regress");
    let schedule = fs::read_to_string(suite.join("parallel_schedule")).unwrap();
    let node = cluster.primary();
    node.psql("CREATE DATABASE regression TEMPLATE template0")
        .unwrap();
    let psql = cluster.binaries().client_program("psql").unwrap();
    let names = schedule
        .lines()
        .filter_map(|line| line.strip_prefix("test:"))
        .flat_map(str::split_whitespace);
    for name in names {
        let output = Command::new(&psql)
            .args([
                "-Xqa",
                "-U",
                "postgres",
                "-d",
                "regression",
                "-p",
                &node.port().to_string(),
                "-h",
            ])
            .arg(node.socket_dir())
            .arg("-f")
            .arg(suite.join("sql").join(format!("{name}.sql")))
            .env("PG_ABS_SRCDIR", &suite)
            .env("PG_ABS_BUILDDIR", &suite)
            .env("PG_LIBDIR", &suite)
            .env("PG_DLSUFFIX", ".so")
            .env(
                "PGOPTIONS",
                "-c statement_timeout=20s -c intervalstyle=postgres_verbose",
            )
            .output()
            .unwrap();
        assert!(output.status.code().is_some(), "psql was killed in {name}");
    }
}

#[tokio::test]
#[ignore = "needs the regression SQL: make check-regress"]
async fn a_standby_refuses_none_of_the_reads() {
    let cluster = support::start(Cluster::builder(support::binaries()).replicas(1));
    run_suite(&cluster);
    let replica = cluster.replica(0);
    replica.wait_caught_up(cluster.primary()).unwrap();

    let (mut run, mut failed, mut refused) = (0, 0, Vec::new());
    let mut client = None;
    for statement in statements().iter().filter(|s| look(s).class == Class::Read) {
        let session = match client.take() {
            Some(session) => session,
            None => connect(replica).await,
        };
        let answer = tokio::time::timeout(
            Duration::from_secs(30),
            session.batch_execute(&statement.text),
        )
        .await;
        run += 1;
        let Ok(answer) = answer else { continue };
        match answer.as_ref().map_err(|e| e.as_db_error()) {
            Ok(()) => client = Some(session),
            Err(Some(error)) => {
                failed += 1;
                let recovery =
                    error.message().contains("recovery") || error.message().contains("read-only");
                if error.code().code() == "25006" || recovery {
                    refused.push(format!(
                        "{}:{}: {}\n  {error}",
                        statement.file, statement.line, statement.text
                    ));
                }
                client = Some(session);
            }
            Err(None) => {}
        }
    }
    println!("{run} reads on a standby, {failed} of them errors of their own");
    assert!(
        run > 10_000 && failed < run / 4,
        "{failed} of {run} failed: the database is not what it should be"
    );
    assert!(
        refused.is_empty(),
        "{} refused:\n{}",
        refused.len(),
        refused.join("\n")
    );
}

async fn connect(node: &Node) -> tokio_postgres::Client {
    let config = format!(
        "host={} port={} user=postgres dbname=regression options='-c statement_timeout=10s'",
        node.socket_dir().display(),
        node.port()
    );
    let (client, connection) = tokio_postgres::connect(&config, tokio_postgres::NoTls)
        .await
        .unwrap();
    #[expect(
        clippy::disallowed_methods,
        reason = "a driver's connection, which ends with its client"
    )]
    tokio::spawn(connection);
    client
}
