//! What is told of statements, before servers that are what the test says.

use super::{
    super::test_console::{Peer, Reply, TestConsole, on_a_worker},
    *,
};
use crate::{
    route::{History, HostState, Lsn},
    sql::{Knowledge, Known as KnownFunction},
};

/// What is told of one item.
fn told<'r>(rows: &'r [Vec<String>], item: &str) -> &'r [String] {
    let row = rows.iter().find(|row| row[0] == item);
    &row.unwrap_or_else(|| panic!("no {item}: {rows:?}"))[1..]
}

async fn decided(psql: &mut Peer, statement: &str) -> String {
    let rows = psql.rows(&format!("EXPLAIN ROUTE {statement}")).await;
    let value = |item| &told(&rows, item)[0];
    format!("{} {} {}", value("class"), value("target"), value("reason"))
}

fn console() -> TestConsole {
    TestConsole::configured(
        r#"
        [databases.app]
        servers = [
          { host = "h1", role = "primary" }, { host = "h2", role = "replica" }, { host = "h3", role = "replica" },
        ]
        [users.shy]
        route = "primary"
        [users.eager]
        on_lag = "wait"
        [users.own]
        pool_mode = "session"
        [users.open]
        consistency_scope = "database"
    "#,
    )
}

#[test]
fn a_statement_goes_where_a_new_session_would_send_it() {
    on_a_worker(async {
        let test = console();
        let _watch = test.watched("app", "alice");
        let mut psql = test.connect("monitor").await;
        for (statement, expected) in [
            ("SELECT 1", "read replica proved_read"),
            (
                "SELECT ';'; -- two\n; TABLE \"a\"\"b\";",
                "read replica proved_read",
            ),
            ("INSERT INTO t VALUES (1)", "write primary data_modifying"),
            ("SELECT 1; DELETE FROM t", "write primary data_modifying"),
            ("SET work_mem = '1MB'", "set replica setting"),
            ("BEGIN READ ONLY", "begin replica read_only_transaction"),
            ("BEGIN", "begin primary transaction_control"),
            ("SELECT 'x", "unknown primary unterminated"),
            ("/* pgweir: primary */ SELECT 1", "read primary hint"),
            (
                "DELETE FROM t /*pgweir_route='replica'*/",
                "write replica hint",
            ),
            (
                "/* pgweir: consistency=primary */ SELECT 1",
                "read primary consistency_primary",
            ),
            (
                "/* pgweir: consistency=eventual */ SELECT 1",
                "read replica proved_read",
            ),
            (
                "/* pgweir: consistency=strong */ SELECT 1",
                "read wait strong",
            ),
            (
                "/* pgweir: token=1.1.1.1.1 */ SELECT 1",
                "read primary token",
            ),
            ("SELECT shop.own()", "write primary unknown_function"),
            (";", "empty replica no_statement"),
            ("FOR app AS shy SELECT 1", "read primary route_setting"),
            ("FOR app AS own SELECT 1", "read primary session_mode"),
            (
                "FOR app AS eager /* pgweir: token=1.1.1.1.1 */ SELECT 1",
                "read wait token",
            ),
        ] {
            assert_eq!(decided(&mut psql, statement).await, expected, "{statement}");
        }
    });
}

#[test]
fn the_facts_behind_a_decision_are_told() {
    on_a_worker(async {
        let test = console();
        let watch = test.watched("app", "alice");
        let [_, a, b] = watch.topology.hosts() else {
            panic!("three hosts")
        };
        let mut psql = test.connect("monitor").await;
        let rows = psql.rows("EXPLAIN ROUTE SELECT 1").await;
        let lines: Vec<_> = rows.iter().map(|row| row.join("|")).collect();
        assert_eq!(
            lines,
            [
                "database|app|",
                "class|read|",
                "target|replica|a, or another of 2: least_connections",
                "reason|proved_read|Every statement is a proved read.",
                "evidence||",
                "route|auto|",
                "consistency|session|",
                "freshness|any|a new session has written and read nothing",
                "catalogue|not read yet|a function that is not built in counts as a write",
                "primary|p|primary_reads = fallback; primary, was at 0/64 at poll 1",
                "replica|a|eligible; replica, replayed 0/64, 0 bytes and 0 ms behind",
                "replica|b|eligible; replica, replayed 0/64, 0 bytes and 0 ms behind",
            ]
        );
        a.set_state(HostState::Lagging);
        a.set_lag(36, 1_234_567);
        b.set_state(HostState::Down);
        let rows = psql.rows("EXPLAIN ROUTE SELECT 1").await;
        assert_eq!(told(&rows, "target"), ["primary", "p"]);
        assert_eq!(told(&rows, "reason")[0], "no_replica");
        let a = "not eligible: lagging; lagging, replayed 0/64, 36 bytes and 1234 ms behind";
        assert_eq!(told(&rows, "replica"), ["a", a]);
        let rows = psql
            .rows("EXPLAIN ROUTE SELECT 1, nextval('s') FROM t")
            .await;
        assert_eq!(
            told(&rows, "evidence"),
            ["nextval", "from byte 10 of the statement"]
        );
        let why = &told(&rows, "replica")[1];
        assert!(
            why.starts_with("not eligible: sequence_function; "),
            "{why}"
        );
        let why = &told(&rows, "primary")[1];
        assert!(why.starts_with("eligible; "), "{why}");
    });
}

#[test]
fn what_others_wrote_counts_where_it_is_shared() {
    on_a_worker(async {
        let test = console();
        let watch = test.watched("app", "alice");
        let poll = watch.topology.polls.next();
        watch.written.on_write(poll);
        watch.shared(b"user-42").on_write(poll);
        let mut psql = test.connect("root").await;
        for (statement, expected) in [
            ("SELECT 1", "read replica proved_read"),
            ("FOR app AS open SELECT 1", "read wait own_writes"),
            ("/* pgweir: key=user-42 */ SELECT 1", "read wait own_writes"),
            (
                "/* pgweir: key=user-43 */ SELECT 1",
                "read replica proved_read",
            ),
        ] {
            assert_eq!(decided(&mut psql, statement).await, expected, "{statement}");
        }
        watch
            .topology
            .polls
            .answer(watch.topology.polls.send(), Lsn(0x80));
        let rows = psql.rows("EXPLAIN ROUTE FOR app AS open SELECT 1").await;
        let about = "others have written (consistency_scope = database)";
        assert_eq!(told(&rows, "freshness"), ["0/80", about]);
        assert_eq!(told(&rows, "user"), ["open", "its settings count"]);
    });
}

#[test]
fn a_token_is_compared_with_what_replicas_have_replayed() {
    let history = History {
        system: 0xa,
        timeline: 1,
        started: 0xb,
    };
    on_a_worker(async {
        let test = console();
        let watch = test.watched("app", "alice");
        watch.topology.set_history(history);
        watch
            .topology
            .polls
            .answer(watch.topology.polls.send(), Lsn(100));
        let mut psql = test.connect("root").await;
        for (position, expected) in [
            ("64", "read replica proved_read"),
            ("65", "read primary token"),
        ] {
            let statement = format!("/* pgweir: token=1.a.1.b.{position} */ SELECT 1");
            assert_eq!(decided(&mut psql, &statement).await, expected);
        }
    });
}

/// Knows one function.
struct Shop;

impl Knowledge for Shop {
    fn function(&self, _schema: Option<&[u8]>, name: &[u8]) -> KnownFunction {
        match name {
            b"own" => KnownFunction::Safe,
            _ => KnownFunction::Nothing,
        }
    }
}

#[test]
fn the_catalogue_counts_as_soon_as_it_was_read() {
    on_a_worker(async {
        let test = console();
        let watch = test.watched("app", "alice");
        watch.set_knowledge(Arc::new(Shop));
        let mut psql = test.connect("root").await;
        let found = decided(&mut psql, "SELECT shop.own()").await;
        assert_eq!(found, "read replica proved_read");
        let rows = psql.rows("EXPLAIN ROUTE SELECT 1").await;
        assert_eq!(told(&rows, "catalogue"), ["generation 1", ""]);
    });
}

#[test]
fn without_a_server_that_may_serve_it_is_told_what_happens_then() {
    on_a_worker(async {
        let test = console();
        let watch = test.watched("app", "alice");
        let mut psql = test.connect("root").await;
        watch.topology.set_primary(None);
        assert_eq!(
            decided(&mut psql, "DELETE FROM t").await,
            "write none data_modifying"
        );
        for host in watch.topology.hosts() {
            host.set_state(HostState::Down);
        }
        assert_eq!(
            decided(&mut psql, "/* pgweir: replica */ SELECT 1").await,
            "read none no_replica"
        );
    });
}

#[test]
fn databases_are_found_without_clients_and_told_apart() {
    on_a_worker(async {
        let test = TestConsole::new();
        let mut psql = test.connect("root").await;
        let rows = psql.rows("EXPLAIN ROUTE SELECT 1").await;
        let about = "its servers are watched from when its first client comes";
        assert_eq!(told(&rows, "database"), ["app", about]);
        assert_eq!(told(&rows, "target"), ["primary", "10.0.0.1:5433"]);
        let rows = psql.rows("EXPLAIN ROUTE FOR shop SELECT 1").await;
        let about = "it has one server: there is nothing to choose";
        assert_eq!(told(&rows, "database"), ["shop", about], "by \"*\"");
        for (text, why) in [
            (
                "EXPLAIN ROUTE FOR pgbouncer SELECT 1",
                "cannot explain admin db: pgbouncer",
            ),
            ("EXPLAIN ROUTE FOR \"*\" SELECT 1", "no such database: *"),
        ] {
            assert_eq!(psql.query(text).await, [Reply::error("08P01", why)]);
        }
        let _other = test.client("other", "bob");
        let [Reply::Error(_, why)] = &psql.query("EXPLAIN ROUTE SELECT 1").await[..] else {
            panic!("it cannot know which")
        };
        assert_eq!(why, "which database? EXPLAIN ROUTE FOR database statement");
    });
}
