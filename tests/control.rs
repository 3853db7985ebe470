//! Signals and reloads on a pooler at work: how it ends, what it reads again, how it pauses.

#![expect(clippy::panic, reason = "a test stops at what it did not expect")]

mod support;

use std::{fs, net::TcpStream, time::Duration};

use pgweir::sandbox::Waited;
use support::{
    Pgweir, PgweirBuilder, eventually, postgres,
    raw::{Raw, bind, execute, flush, parse, query, sync},
    seats::database,
};

const PATIENCE: Duration = Duration::from_secs(60);

struct Rig {
    pooler: Pgweir,
    database: String,
}

impl Rig {
    fn new() -> Self {
        Self::with(|builder| builder)
    }

    fn with(configure: impl FnOnce(PgweirBuilder) -> PgweirBuilder) -> Self {
        let builder = Pgweir::builder(postgres()).pgweir("workers", "1");
        Self {
            pooler: configure(builder.pool_size(2)).start(),
            database: database(),
        }
    }

    fn client(&self) -> Raw {
        Raw::connect(self.pooler.address(), &self.database)
    }

    /// Sends a signal, and waits until the log says that it was heard.
    fn signal(&self, signal: &str, sign: &str) -> String {
        let log = self.pooler.log();
        let mark = log.mark();
        self.pooler.signal(signal);
        match log.wait_for(mark, PATIENCE, |line| line.contains(sign)) {
            Waited::Line(line) => line,
            other => panic!("{signal}: {other:?}"),
        }
    }

    fn reload(&self, change: impl FnOnce(String) -> String) {
        self.pooler.rewrite_config(change);
        self.signal("HUP", "configuration reloaded");
    }

    fn console(&self, sql: &str) -> Vec<String> {
        Raw::connect(self.pooler.address(), "pgbouncer").rows(sql)
    }

    /// Waits until so many clients are in the queue.
    fn wait_queue(&self, count: usize) {
        eventually("clients are in the queue", || {
            let clients = self.console("SHOW CLIENTS");
            clients
                .iter()
                .filter(|row| row.contains("|waiting|"))
                .count()
                == count
        });
    }

    fn servers(&self) -> String {
        let count = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND backend_type = 'client backend'",
            self.database
        );
        postgres()
            .primary()
            .psql(&count)
            .expect("postgres may do this")
    }
}

/// The last two of some answers.
fn last(answers: &[String]) -> [&str; 2] {
    match answers {
        [.., before, last] => [before, last],
        _ => panic!("too few answers: {answers:?}"),
    }
}

const GONE: [&str; 2] = ["E 57P01", "closed"];

#[test]
fn sigterm_ends_each_client_at_its_transaction_boundary() {
    let mut rig = Rig::new();
    let mut idle = rig.client();
    idle.run("SELECT 1");
    let mut in_transaction = rig.client();
    in_transaction.run("BEGIN");
    in_transaction.run("CREATE TABLE t (a int)");
    let mut running = rig.client();
    running.send(&[query("SELECT pg_sleep(0.5)"), query("SELECT 'second'")].concat());
    let mut queued = rig.client();
    queued.send(&query("SELECT 'queued'"));
    rig.wait_queue(1);
    rig.signal("TERM", "shutting down");
    assert_eq!(last(&idle.answers()), GONE);
    // What was asked before the signal is answered.
    assert_eq!(last(&running.answers()), ["C SELECT 1", "Z I"]);
    assert_eq!(running.answers()[1], "D second");
    assert_eq!(last(&running.answers()), GONE);
    assert_eq!(queued.answers()[1], "D queued");
    assert_eq!(last(&queued.answers()), GONE);
    // A transaction goes on to its end.
    in_transaction.run("INSERT INTO t VALUES (1)");
    assert_eq!(in_transaction.query("COMMIT"), ["C COMMIT", "Z I"]);
    assert_eq!(last(&in_transaction.answers()), GONE);
    assert!(
        in_transaction.last_error.contains("shutting down"),
        "{}",
        in_transaction.last_error
    );
    let status = rig.pooler.wait_exit();
    assert!(status.success(), "{status}");
    let count = postgres()
        .primary()
        .psql_in(&rig.database, "SELECT count(*) FROM t");
    assert_eq!(count.expect("it was committed"), "1");
    eventually("its servers are closed", || rig.servers() == "0");
}

#[test]
fn sigterm_waits_for_a_batch_and_for_what_is_pinned_only_to_their_transaction() {
    let mut rig = Rig::new();
    let mut batch = rig.client();
    batch.send(&[parse("", "SELECT 1"), bind("", &[]), flush()].concat());
    assert_eq!([batch.answer(), batch.answer()], ["1", "2"]);
    let mut pinned = rig.client();
    pinned.run("LISTEN it");
    rig.signal("TERM", "shutting down");
    assert_eq!(last(&pinned.answers()), GONE);
    assert_eq!(
        batch.ask(&[execute(), sync()]),
        ["D 1", "C SELECT 1", "Z I"]
    );
    assert_eq!(last(&batch.answers()), GONE);
    assert!(rig.pooler.wait_exit().success());
}

#[test]
fn nobody_is_let_in_during_a_shutdown() {
    let mut rig = Rig::new();
    let mut in_transaction = rig.client();
    in_transaction.run("BEGIN");
    let address = rig.pooler.address();
    rig.signal("TERM", "shutting down");
    eventually("nobody listens", || TcpStream::connect(address).is_err());
    in_transaction.run("COMMIT");
    assert!(rig.pooler.wait_exit().success());
}

#[test]
fn a_transaction_that_does_not_end_is_cancelled_in_the_end() {
    let mut rig = Rig::with(|builder| {
        builder
            .pgweir("shutdown_timeout", "\"1s\"")
            .pgweir("shutdown_cancel_timeout", "\"1s\"")
            // As often as the statistics are taken, the time must not begin anew.
            .pgweir("stats_period", "\"500ms\"")
    });
    let mut running = rig.client();
    running.run("BEGIN");
    running.send(&query("SELECT pg_sleep(600)"));
    let mut idle = rig.client();
    idle.run("BEGIN");
    rig.signal("TERM", "shutting down");
    assert_eq!(running.answers()[1..], ["E 57014", "Z E"]);
    assert!(rig.pooler.wait_exit().success());
    eventually("its servers are closed", || rig.servers() == "0");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    for signals in [
        ["TERM", "TERM"],
        ["TERM", "INT"],
        ["INT", "TERM"],
        ["INT", "INT"],
    ] {
        let mut rig = Rig::new();
        let mut client = rig.client();
        client.run("BEGIN");
        rig.signal(signals[0], "shutting down");
        rig.signal(signals[1], "at once");
        rig.pooler.wait_exit();
        eventually("its servers are closed", || rig.servers() == "0");
    }
    let mut rig = Rig::new();
    let mut client = rig.client();
    client.run("BEGIN");
    rig.signal("QUIT", "at once");
    rig.pooler.wait_exit();
    assert!(client.answers().contains(&"closed".to_owned()));
}

#[test]
fn sigint_waits_for_the_servers() {
    let mut rig = Rig::new();
    let mut idle = rig.client();
    idle.run("SELECT 1");
    let mut first = rig.client();
    first.run("BEGIN");
    let mut second = rig.client();
    second.run("BEGIN");
    let mut queued = rig.client();
    queued.send(&query("SELECT 'queued'"));
    rig.wait_queue(1);
    rig.signal("INT", "shutting down");
    // Nobody gets a server any more.
    assert_eq!(queued.answers(), ["E 57P01", "Z I"]);
    assert_eq!(idle.query("SELECT 2"), ["E 57P01", "Z I"]);
    // Who has one keeps it to the end of the transaction.
    assert_eq!(first.value("SELECT 3"), "3");
    assert_eq!(first.query("COMMIT"), ["C COMMIT", "Z I"]);
    assert_eq!(second.value("SELECT 4"), "4");
    assert_eq!(second.query("COMMIT"), ["C COMMIT", "Z I"]);
    assert!(rig.pooler.wait_exit().success());
    for mut client in [idle, first, second, queued] {
        assert!(client.answers().ends_with(&["closed".to_owned()]));
    }
}

#[test]
fn a_reload_changes_limits_without_a_word_to_the_clients() {
    let rig = Rig::with(|builder| builder.pool_size(1));
    let mut clients = [rig.client(), rig.client(), rig.client()];
    clients[0].run("BEGIN");
    clients[0].run("SET LOCAL work_mem = '5MB'");
    clients[1].send(&query("SELECT 'one'"));
    rig.wait_queue(1);
    let size = |from: &'static str, to: &'static str| move |toml: String| toml.replace(from, to);
    rig.reload(size("default_pool_size = 1", "default_pool_size = 2"));
    // There is room now, also for who waits already.
    assert_eq!(clients[1].answers()[1], "D one");
    assert_eq!(clients[2].value("SELECT 'two'"), "two");
    assert_eq!(clients[0].value("SHOW work_mem"), "5MB");
    clients[0].run("COMMIT");
    // And less again: the surplus is closed as it comes back.
    clients[0].run("BEGIN");
    clients[1].run("BEGIN");
    assert_eq!(rig.servers(), "2");
    rig.reload(size("default_pool_size = 2", "default_pool_size = 1"));
    clients[0].run("COMMIT");
    clients[1].run("COMMIT");
    eventually("the surplus is closed", || rig.servers() == "1");
    for client in &mut clients {
        assert_eq!(client.value("SELECT 3"), "3");
    }
}

#[test]
fn a_reload_reaches_the_time_limits_of_who_is_connected() {
    let rig = Rig::new();
    let mut in_transaction = rig.client();
    in_transaction.run("BEGIN");
    let mut waiting = rig.client();
    rig.pooler.signal("USR1");
    eventually("it is paused", || {
        waiting.send(&query("SELECT 1"));
        rig.console("SHOW CLIENTS")
            .iter()
            .any(|row| row.contains("|waiting|"))
    });
    let limits = "default_pool_size = 2\nquery_wait_timeout = \"500ms\"\nidle_transaction_timeout = \"500ms\"";
    rig.reload(|toml| toml.replace("default_pool_size = 2", limits));
    eventually("it is told", || waiting.answer() == "E 53300");
    // And what holds it.
    assert!(
        waiting.last_error.contains("RESUME"),
        "{}",
        waiting.last_error
    );
    assert_eq!(in_transaction.answers(), ["E 25P03", "closed"]);
}

#[test]
fn a_reload_changes_databases_and_passwords() {
    let port = postgres().primary().port();
    let database = database();
    let pooler = PgweirBuilder::without_servers()
        .pgweir("auth_type", "\"plain\"")
        .extra(&format!(
            "[databases.stays]\nservers = [{{ host = \"127.0.0.1\", port = {port} }}]\ndbname = \"{database}\"\n\
             [databases.old]\nservers = [{{ host = \"127.0.0.1\", port = {port} }}]\ndbname = \"postgres\"\n\
             [users.postgres]\npassword = \"before\""
        ))
        .start();
    let rig = Rig { pooler, database };
    let connect = |database: &str, password: &str| {
        Raw::connect_by_password(rig.pooler.address(), database, password)
    };
    let refused = |database: &str, password: &str| connect(database, password).err();
    let mut stays = connect("stays", "before").expect("its password");
    let mut idle = connect("old", "before").expect("its password");
    let mut inside = connect("old", "before").expect("its password");
    inside.run("BEGIN");
    stays.run("BEGIN");
    assert!(refused("new", "before").is_some_and(|error| error.contains("new")));
    rig.reload(|toml| {
        toml.replace("[databases.old]", "[databases.new]")
            .replace("before", "after")
    });
    // Who is there stays, whatever the password.
    assert_eq!(stays.query("COMMIT"), ["C COMMIT", "Z I"]);
    assert_eq!(stays.value("SELECT 1"), "1");
    assert!(refused("stays", "before").is_some_and(|error| error.starts_with("28P01")));
    let mut new = connect("new", "after").expect("the new password");
    assert_eq!(new.value("SELECT current_database()"), "postgres");
    // Who uses a database that is gone is told so.
    assert!(refused("old", "after").is_some_and(|error| error.contains("old")));
    for client in [&mut idle, &mut inside] {
        assert_eq!(last(&client.answers()), GONE, "{}", client.last_error);
    }
}

#[test]
fn a_bad_file_changes_nothing_and_says_where() {
    let rig = Rig::new();
    let mut client = rig.client();
    client.run("BEGIN");
    let path = rig.pooler.dir().join("pooler.toml");
    let good = fs::read_to_string(&path).expect("it was started with it");
    for (wrong, told) in [
        (
            good.replace(
                "default_pool_size = 2",
                "default_pool_size = 3\npool_siez = 4",
            ),
            "pool_siez",
        ),
        (
            good.replace("default_pool_size = 2", "default_pool_size = \"many\""),
            "default_pool_size",
        ),
        (good.replace("[pool]", "[pool"), "pooler.toml"),
        // There is none at all.
        (String::new(), "pooler.toml"),
    ] {
        match wrong.as_str() {
            "" => fs::remove_file(&path).expect("the directory is ours"),
            wrong => fs::write(&path, wrong).expect("the directory is ours"),
        }
        let line = rig.signal("HUP", "configuration not reloaded");
        assert!(
            line.contains(told) && line.contains("pooler.toml"),
            "{line}"
        );
        assert_eq!(client.value("SELECT 1"), "1");
        assert_eq!(rig.client().value("SELECT 2"), "2");
        let config = rig.console("SHOW CONFIG").join("\n");
        assert!(config.contains("default_pool_size|2|"), "{config}");
    }
    let better = good.replace("default_pool_size = 2", "default_pool_size = 3");
    fs::write(&path, better).expect("the directory is ours");
    rig.signal("HUP", "configuration reloaded");
    assert!(
        rig.console("SHOW CONFIG")
            .join("\n")
            .contains("default_pool_size|3|")
    );
    client.run("COMMIT");
}

#[test]
fn a_pause_lets_transactions_end_and_holds_the_next() {
    let rig = Rig::new();
    let mut busy = rig.client();
    busy.run("BEGIN");
    let mut idle = rig.client();
    idle.run("SELECT 1");
    rig.pooler.signal("USR1");
    eventually("it is paused", || {
        let databases = rig.console("SHOW DATABASES");
        let own = format!("{}|", rig.database);
        // Its columns end with paused and disabled.
        databases
            .iter()
            .any(|row| row.starts_with(&own) && row.ends_with("|1|0"))
    });
    idle.send(&query("SELECT 'later'"));
    let mut comes = rig.client();
    comes.send(&[parse("", "SELECT 'too'"), bind("", &[]), execute(), sync()].concat());
    rig.wait_queue(2);
    assert_eq!(busy.value("SELECT 2"), "2");
    assert_eq!(busy.query("COMMIT"), ["C COMMIT", "Z I"]);
    eventually("the servers are closed", || rig.servers() == "0");
    // One who waits may go, or be cancelled.
    idle.cancel();
    assert_eq!(idle.answers(), ["E 57014", "Z I"]);
    idle.send(&query("SELECT 'later'"));
    rig.wait_queue(2);
    rig.pooler.signal("USR2");
    assert_eq!(idle.answers()[1], "D later");
    assert_eq!(comes.answers()[2], "D too");
    assert_eq!(busy.value("SELECT 3"), "3");
}

#[test]
fn sigterm_during_a_pause_lets_nobody_wait_for_its_end() {
    let mut rig = Rig::new();
    let mut waiting = rig.client();
    waiting.run("SELECT 1");
    rig.console("PAUSE");
    waiting.send(&query("SELECT 'never'"));
    let mut entering = Raw::enter(rig.pooler.address(), "not_yet_served");
    rig.wait_queue(2);
    rig.signal("TERM", "shutting down");
    assert_eq!(waiting.answers(), ["E 57P01", "Z I"]);
    assert_eq!(last(&waiting.answers()), GONE);
    assert_eq!(last(&entering.answers()), GONE);
    assert!(rig.pooler.wait_exit().success());
}

#[test]
fn who_leaves_or_is_killed_before_it_is_served_gives_up_its_place() {
    let rig = Rig::with(|builder| builder.pgweir("max_client_conn", "2"));
    rig.console("PAUSE");
    let enter = || Raw::enter(rig.pooler.address(), &rig.database);
    // Impatient: each of them comes again, and the last one finds a place.
    for _ in 0..3 {
        let impatient = [enter(), enter()];
        rig.wait_queue(2);
        impatient.into_iter().for_each(Raw::vanish);
        rig.wait_queue(0);
    }
    let mut patient = [enter(), enter()];
    rig.wait_queue(2);
    let id = rig.console("SHOW CLIENTS").concat();
    let id = id.split('|').nth(20).expect("SHOW CLIENTS has 21 columns");
    let id: String = id.chars().take_while(char::is_ascii_digit).collect();
    rig.console(&format!("KILL_CLIENT {id}"));
    rig.wait_queue(1);
    rig.console("RESUME");
    let mut last_words = patient.each_mut().map(|client| client.answers());
    last_words.sort_unstable();
    assert_eq!(last(&last_words[0]), GONE);
    assert_eq!(last_words[1].last().map(String::as_str), Some("Z I"));
}
