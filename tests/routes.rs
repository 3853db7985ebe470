//! What the console tells of a database with several servers: that EXPLAIN ROUTE says what happens then,
//! that the tables show what happened, and that commands reach every server.
#![allow(
    clippy::allow_attributes,
    clippy::disallowed_methods,
    clippy::panic,
    reason = "a test panics, and its clients' tasks end with it"
)]

mod support;

use std::collections::BTreeMap;

use ::pgweir::sandbox::Cluster;
use support::{Pgweir, eventually, raw::Raw, replicated_postgres, start};

/// A pooler before a primary and two replicas, which have been seen and read.
struct Stage {
    pooler: Pgweir,
    console: Raw,
}

impl Stage {
    fn new(cluster: &Cluster) -> Self {
        Self::with(cluster, |builder| builder)
    }

    fn with(
        cluster: &Cluster,
        configure: impl FnOnce(support::PgweirBuilder) -> support::PgweirBuilder,
    ) -> Self {
        let builder = Pgweir::builder(cluster).pool("health_check_interval", "\"100ms\"");
        let pooler = configure(builder).start();
        let console = Raw::connect(pooler.address(), "pgweir");
        let mut stage = Self { pooler, console };
        // Servers are watched from when the first client comes.
        stage.client().run("SELECT 1");
        eventually("its servers are seen", || {
            let states = stage.column("SHOW REPLICAS", 3);
            states == ["primary", "replica", "replica"]
        });
        eventually("its catalogue is read", || {
            stage.told("SELECT 1", "catalogue") != "not read yet"
        });
        stage
    }

    fn client(&self) -> Raw {
        Raw::connect(self.pooler.address(), "postgres")
    }

    fn rows(&mut self, command: &str) -> Vec<Vec<String>> {
        let rows = self.console.rows(command);
        let fields = |row: &String| row.split('|').map(str::to_owned).collect();
        rows.iter().map(fields).collect()
    }

    fn column(&mut self, command: &str, at: usize) -> Vec<String> {
        let rows = self.rows(command).into_iter();
        rows.map(|row| row[at].clone()).collect()
    }

    /// What EXPLAIN ROUTE tells of one item.
    fn told(&mut self, statement: &str, item: &str) -> String {
        let rows = self.rows(&format!("EXPLAIN ROUTE FOR postgres {statement}"));
        let row = rows.iter().find(|row| row[0] == item);
        row.unwrap_or_else(|| panic!("no {item}: {rows:?}"))[1].clone()
    }

    /// How often units went where and why.
    fn routes(&mut self) -> BTreeMap<String, u64> {
        let rows = self.rows("SHOW ROUTES").into_iter();
        let count = |row: Vec<String>| {
            let count = row[3].parse().expect("a number");
            (format!("{} {}", row[1], row[2]), count)
        };
        rows.map(count).collect()
    }

    /// The pins of sessions of `postgres`, as "pin reasons".
    fn pins(&mut self) -> Vec<String> {
        let rows = self.rows("SHOW PINS").into_iter();
        rows.map(|row| format!("{} {}", row[3], row[6])).collect()
    }
}

/// Statements of every kind, what they are counted as when a new session runs them, and why.
const STATEMENTS: [(&str, &str); 15] = [
    ("SELECT 1", "replica proved_read"),
    ("SELECT ';' /* ; */; TABLE pg_class;", "replica proved_read"),
    ("SHOW port", "primary server_local"),
    ("SET work_mem = '1MB'", "replica setting"),
    ("/* nothing */ ;", "replica no_statement"),
    ("SELECT pg_is_in_recovery()", "primary server_local"),
    ("SELECT nobodys_function()", "primary unknown_function"),
    ("BEGIN READ ONLY", "replica read_only_transaction"),
    ("BEGIN", "primary transaction_control"),
    ("CREATE TABLE \"a'b\" (i int)", "primary data_definition"),
    ("DROP TABLE \"a'b\"", "primary data_definition"),
    ("SELECT 'x", "primary unterminated"),
    ("/* pgweir: primary */ SELECT 1", "primary hint"),
    ("SELECT 1 /*pgweir_route='replica'*/", "replica hint"),
    (
        "/* pgweir: consistency=primary */ SELECT 1",
        "primary consistency_primary",
    ),
];

#[test]
fn what_is_explained_is_what_happens() {
    let mut stage = Stage::new(replicated_postgres());
    for (statement, expected) in STATEMENTS {
        let target = stage.told(statement, "target");
        let reason = stage.told(statement, "reason");
        assert_eq!(format!("{target} {reason}"), expected, "{statement}");
        let before = stage.routes();
        // Whether it succeeds is not the question.
        stage.client().query(statement);
        let mut after = stage.routes();
        for (route, count) in before {
            *after.get_mut(&route).expect("counts stay") -= count;
        }
        after.retain(|_, count| *count > 0);
        let counted: Vec<_> = after.into_iter().collect();
        assert_eq!(counted, [(expected.to_owned(), 1)], "{statement}");
    }
}

#[tokio::test]
async fn a_driver_explains_in_the_extended_protocol() {
    let stage = Stage::new(replicated_postgres());
    let url = stage.pooler.url("postgres", "pgbouncer");
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
        .await
        .expect("it lets us in");
    tokio::task::spawn(connection);
    let text = "EXPLAIN ROUTE FOR postgres SELECT 'a;''b', nextval('\"s\"') -- end";
    let rows = client.query(text, &[]).await.expect("it runs");
    let told: BTreeMap<&str, &str> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!((told["class"], told["target"]), ("write", "primary"));
    assert_eq!(
        (told["reason"], told["evidence"]),
        ("sequence_function", "nextval")
    );
    let rows = client.query("SHOW REPLICAS", &[]).await.expect("it runs");
    assert_eq!(rows.len(), 3);
    assert!(rows[0].get::<_, i64>("timeline") >= 1);
    let error = client
        .query("EXPLAIN ROUTE FOR nobody SELECT 1", &[])
        .await
        .map(|rows| rows.len());
    // `*` serves every name.
    assert!(error.is_ok(), "{error:?}");
}

#[test]
fn a_session_is_dirty_until_a_replica_has_replayed_its_writes() {
    let cluster = start(Cluster::builder(support::binaries()).replicas(2));
    let mut stage = Stage::new(&cluster);
    let mut writer = stage.client();
    writer.run("CREATE TABLE written (i int)");
    eventually("it is clean", || stage.pins().is_empty());
    for replica in cluster.replicas() {
        replica.pause_replay().expect("it is a standby");
    }
    writer.run("INSERT INTO written VALUES (1)");
    assert_eq!(stage.pins(), ["primary own_writes"]);
    // One that holds its server as well, and writes without giving it back.
    let mut holder = stage.client();
    holder.run("LISTEN c");
    holder.run("INSERT INTO written VALUES (2)");
    let pins = ["primary own_writes", "server listen", "primary own_writes"];
    assert_eq!(stage.pins(), pins);
    let ages = stage.column("SHOW PINS", 5);
    assert!(
        ages.iter()
            .all(|age| age.parse::<u64>().is_ok_and(|age| age < 60_000)),
        "{ages:?}"
    );
    eventually("the lag is seen", || {
        let lags = stage.column("SHOW REPLICAS", 4);
        lags[0] == "0" && lags[1] != "0" && lags[2] != "0"
    });
    let before = stage.routes().remove("primary own_writes").unwrap_or(0);
    assert_eq!(writer.value("SELECT count(*) FROM written"), "2");
    assert_eq!(stage.routes()["primary own_writes"], before + 1);
    // Who has written nothing may read from a replica.
    assert_eq!(stage.told("SELECT 1", "target"), "replica");
    for replica in cluster.replicas() {
        replica.resume_replay().expect("it is a standby");
    }
    eventually("what they wrote is replayed", || {
        stage.pins() == ["server listen"]
    });
}

/// The field of the row of `postgres` in SHOW POOLS.
fn pool(stage: &mut Stage, at: usize) -> String {
    let rows = stage.rows("SHOW POOLS");
    let row = rows
        .iter()
        .find(|row| row[..2] == ["postgres", "postgres"])
        .unwrap_or_else(|| panic!("no such pool: {rows:?}"));
    row[at].clone()
}

#[test]
fn tables_and_commands_of_pgbouncers_reach_every_server() {
    let cluster = replicated_postgres();
    let mut stage = Stage::with(cluster, |it| it.pool("load_balance", "\"round_robin\""));
    let mut clients: Vec<_> = (0..4).map(|_| stage.client()).collect();
    let mut expected: Vec<_> = cluster
        .nodes()
        .iter()
        .map(|it| it.port().to_string())
        .collect();
    // A reader on each replica, a writer on the primary; one has none.
    let mut held = Vec::new();
    for (client, begin) in clients
        .iter_mut()
        .zip(["BEGIN", "BEGIN READ ONLY", "BEGIN READ ONLY"])
    {
        client.run(begin);
        held.push(client.value("SHOW port"));
    }
    held[1..].sort();
    expected[1..].sort();
    assert_eq!(held, expected, "one on each server");
    let (active, waiting, in_use) = (2, 3, 6);
    assert_eq!(pool(&mut stage, active), "4");
    assert_eq!(pool(&mut stage, waiting), "0");
    assert_eq!(pool(&mut stage, in_use), "3");
    assert_eq!(stage.rows("SHOW POOLS").len(), 2, "with the console's own");
    assert!(
        stage
            .rows("SHOW LISTS")
            .contains(&vec!["pools".into(), "2".into()])
    );
    let servers = stage.rows("SHOW SERVERS");
    let mut of_active: Vec<_> = servers
        .iter()
        .filter(|row| row[4] == "active")
        .map(|row| row[6].clone())
        .collect();
    of_active.sort();
    expected.sort();
    assert_eq!(of_active, expected, "the port of each");
    let total = servers.len().to_string();
    assert_eq!(stage.column("SHOW DATABASES", 12)[0], total);

    stage.console.run("RECONNECT postgres");
    let superseded = stage.column("SHOW SERVERS", 13);
    let count = superseded.iter().filter(|it| *it == "1").count();
    assert_eq!(count, 3, "those that are held: {superseded:?}");
    for client in &mut clients[..3] {
        client.run("COMMIT");
    }
    stage.console.run("WAIT_CLOSE postgres");
    assert!(!stage.column("SHOW SERVERS", 13).contains(&"1".to_owned()));

    stage.console.run("PAUSE postgres");
    assert_eq!(stage.rows("SHOW SERVERS").len(), 0, "none to any server");
    // A read and a write wait alike.
    for (client, text) in clients
        .iter_mut()
        .zip(["SELECT 'read'", "/* pgweir: primary */ SELECT 'write'"])
    {
        client.send(&support::raw::query(text));
    }
    eventually("they wait", || pool(&mut stage, waiting) == "2");
    stage.console.run("RESUME postgres");
    assert_eq!(clients[0].answers()[1], "D read");
    assert_eq!(clients[1].answers()[1], "D write");

    // KILL ends them wherever they are.
    clients[0].run("BEGIN READ ONLY");
    clients[1].run("BEGIN");
    stage.console.run("KILL postgres");
    for client in &mut clients {
        client.send(&support::raw::query("SELECT 1"));
        let answers = client.answers();
        assert_eq!(answers.last().map(String::as_str), Some("closed"));
    }
    stage.console.run("RESUME postgres");
    stage.client().run("SELECT 1");
}

#[test]
fn who_waits_for_a_replica_counts_as_being_at_work_there() {
    let mut stage = Stage::with(replicated_postgres(), |it| {
        it.pool("default_pool_size", "1")
            .pool("load_balance", "\"least_connections\"")
    });
    let reads_before: u64 = reads(&mut stage);
    // Each replica's only connection is taken.
    let mut holders: Vec<_> = (0..2).map(|_| stage.client()).collect();
    for holder in &mut holders {
        holder.run("BEGIN READ ONLY");
    }
    let mut waiting: Vec<_> = (0..8)
        .map(|_| {
            // Among equals clients take turns by their numbers: these would all begin with the same one.
            let _other = stage.client();
            stage.client()
        })
        .collect();
    let select = support::raw::query("SELECT 1");
    for (count, client) in (1..).zip(&mut waiting) {
        client.send(&select);
        eventually("it waits", || pool(&mut stage, 3) == count.to_string());
    }
    let active = |stage: &mut Stage| stage.column("SHOW REPLICAS", 8);
    assert_eq!(active(&mut stage), ["0", "5", "5"]);
    // Who does not wait any more does not count, nor was it served.
    drop(waiting.pop());
    eventually("it is gone", || pool(&mut stage, 3) == "7");
    for holder in &mut holders {
        holder.run("COMMIT");
    }
    for client in &mut waiting {
        assert_eq!(client.answers()[1], "D 1");
    }
    eventually("all are through", || active(&mut stage) == ["0", "0", "0"]);
    assert_eq!(reads(&mut stage) - reads_before, 2 + 7);
}

/// What all servers have served of reads.
fn reads(stage: &mut Stage) -> u64 {
    let counts = stage.column("SHOW REPLICAS", 10).into_iter();
    counts
        .map(|count| count.parse::<u64>().expect("a number"))
        .sum()
}

#[test]
fn a_reload_that_changes_the_servers_keeps_what_sessions_wish() {
    let mut stage = Stage::new(replicated_postgres());
    let mut client = stage.client();
    // Of no history that is known: only the primary will do.
    client.run("SET pgweir.token = '1.1.1.1.1'");
    client.run("SELECT 1");
    assert_eq!(stage.routes()["primary token"], 1);
    stage.pooler.rewrite_config(|toml| {
        toml.replace("role = \"replica\"", "role = \"replica\", weight = 7")
    });
    stage.console.run("RELOAD");
    assert_eq!(stage.column("SHOW REPLICAS", 13), ["1", "7", "7"]);
    eventually("its servers are seen", || {
        stage.column("SHOW REPLICAS", 3) == ["primary", "replica", "replica"]
    });
    // What it may have written before means nothing to those who watch now, but for a moment.
    client.run("SELECT 1");
    eventually("its writes are replayed", || stage.pins().is_empty());
    let before = stage.routes().remove("primary token").unwrap_or(0);
    client.run("SELECT 1");
    let routes = stage.routes();
    assert_eq!(
        routes.get("primary token"),
        Some(&(before + 1)),
        "{routes:?}"
    );
}
