//! PostgreSQL's own regression SQL against the classifier: forty thousand statements that nobody wrote with a router in
//! mind, judged by libpg_query and by a real standby.
//!
//! Needs what `tests/regress/fetch.sh` fetches and prepares, so it runs only when asked for: `make check-regress`.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test panics")]

mod support;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use pgweir::{
    sandbox::{Cluster, Node},
    sql::{Class, Detail, Env, Facts, classify},
};
use serde::Deserialize;
use tokio_postgres::{Client, Error, NoTls, SimpleQueryMessage};

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

/// What a text alone cannot show, so that a standby does refuse it: the safety net's business.
const BEYOND_THE_TEXT: &[(&str, &str)] = &[
    (
        "my_locks",
        "a view over pg_current_xact_id(): the catalogue knows",
    ),
    (
        "current_schema()",
        "search_path begins with pg_temp: that SET is reported as an effect, and pins",
    ),
];

/// The two sessions that play a file of the suite: all of it on the primary, its reads on the standby.
struct Pair {
    primary: Client,
    standby: Client,
    /// The primary wrote since the standby was last known to have caught up.
    behind: bool,
}

#[derive(Default)]
struct Tally {
    run: u32,
    failed: u32,
    refused: Vec<String>,
}

#[tokio::test]
#[ignore = "needs the regression SQL: make check-regress"]
async fn a_standby_refuses_none_of_the_reads() {
    let cluster = support::start(Cluster::builder(support::binaries()).replicas(1));
    let suite = prepared().join("regress");
    set_up(&cluster, &suite);
    let schedule = fs::read_to_string(suite.join("parallel_schedule")).unwrap();
    let files = schedule
        .lines()
        .filter_map(|line| line.strip_prefix("test:"))
        .flat_map(str::split_whitespace);
    let statements = statements();
    let mut tally = Tally::default();
    for name in files {
        let file = format!("{name}.sql");
        let mut pair = Pair::connect(&cluster).await;
        for statement in statements.iter().filter(|s| s.file == file) {
            if pair.primary.is_closed() || pair.standby.is_closed() {
                pair = Pair::connect(&cluster).await;
            }
            pair.play(statement, &mut tally).await;
        }
    }
    let Tally {
        run,
        failed,
        refused,
    } = tally;
    println!("{run} reads on a standby, {failed} of them errors of their own");
    assert!(
        run > 10_000 && failed < run / 4,
        "{failed} of {run} failed: the suite was not played"
    );
    assert!(
        refused.is_empty(),
        "{} refused:\n{}",
        refused.len(),
        refused.join("\n")
    );
}

/// What the suite expects to exist is made by its own first script, which only psql can run.
fn set_up(cluster: &Cluster, suite: &Path) {
    let node = cluster.primary();
    node.psql("CREATE DATABASE regression TEMPLATE template0")
        .unwrap();
    let output = Command::new(cluster.binaries().client_program("psql").unwrap())
        .args(["-Xq", "-U", "postgres", "-d", "regression"])
        .args(["-p", &node.port().to_string(), "-h"])
        .arg(node.socket_dir())
        .arg("-f")
        .arg(suite.join("sql/test_setup.sql"))
        .env("PG_ABS_SRCDIR", suite)
        .env("PG_LIBDIR", suite)
        .env("PG_DLSUFFIX", ".so")
        .output()
        .unwrap();
    assert!(output.status.success());
}

impl Pair {
    async fn connect(cluster: &Cluster) -> Self {
        Self {
            primary: connect(cluster.primary()).await,
            standby: connect(cluster.replica(0)).await,
            behind: true,
        }
    }

    async fn play(&mut self, statement: &Statement, tally: &mut Tally) {
        let facts = look(statement);
        if facts.detail == Detail::CopyIn {
            // The data were left out with psql's other lines.
            return;
        }
        match facts.class {
            Class::Read => {
                self.catch_up().await;
                let answer = run(&self.standby, &statement.text).await;
                tally.note(statement, answer);
            }
            Class::Set => {
                run(&self.primary, &statement.text).await.ok();
                run(&self.standby, &statement.text).await.ok();
            }
            _ => {
                run(&self.primary, &statement.text).await.ok();
                self.behind = true;
            }
        }
    }

    async fn catch_up(&mut self) {
        if !self.behind || self.primary.is_closed() {
            return;
        }
        let Ok(lsn) = ask(&self.primary, "SELECT pg_current_wal_flush_lsn()").await else {
            // In a failed transaction nothing more becomes visible.
            return;
        };
        let caught_up = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
        while ask(&self.standby, &caught_up)
            .await
            .is_ok_and(|answer| answer != "t")
        {
            tokio::task::yield_now().await;
        }
        self.behind = false;
    }
}

impl Tally {
    fn note(&mut self, statement: &Statement, answer: Result<(), Error>) {
        self.run += 1;
        let Err(error) = answer else { return };
        self.failed += 1;
        if let Some(error) = error.as_db_error() {
            let recovery =
                error.message().contains("recovery") || error.message().contains("read-only");
            let known = BEYOND_THE_TEXT
                .iter()
                .any(|(part, _why)| statement.text.contains(part));
            if (error.code().code() == "25006" || recovery) && !known {
                self.refused.push(format!(
                    "{}:{}: {}\n  {error}",
                    statement.file, statement.line, statement.text
                ));
            }
        }
    }
}

async fn run(client: &Client, text: &str) -> Result<(), Error> {
    client.batch_execute(text).await
}

/// The first column of the first row.
async fn ask(client: &Client, text: &str) -> Result<String, Error> {
    let answers = client.simple_query(text).await?;
    let row = answers.iter().find_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(row.unwrap_or_default().to_owned())
}

async fn connect(node: &Node) -> Client {
    let config = format!(
        "host={} port={} user=postgres dbname=regression options='-c statement_timeout=10s'",
        node.socket_dir().display(),
        node.port()
    );
    let (client, connection) = tokio_postgres::connect(&config, NoTls).await.unwrap();
    #[expect(
        clippy::disallowed_methods,
        reason = "a driver's connection, which ends with its client"
    )]
    tokio::spawn(connection);
    client
}
