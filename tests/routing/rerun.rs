//! The safety net: a read that its replica refuses or cancels is run again elsewhere, if nothing of its
//! answer has reached the client.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use ::pgweir::sandbox::Node;

use crate::{
    stage::{back_on_replicas, console, database, own, pooler, shared},
    support::{
        Pgweir, PgweirBuilder, eventually,
        raw::{Raw, bind, execute, parse, query, sync},
        servers::{await_service, catch_up},
    },
};

/// A pooler that has read the catalogue and does not read it again, before a database to which something
/// is added then: the pooler knows nothing of it.
fn ignorant(add: &str) -> (Pgweir, Raw, String) {
    let cluster = shared();
    let known = "CREATE FUNCTION is_known() RETURNS text LANGUAGE sql STABLE \
                 AS $$ SELECT current_setting('test.server') $$";
    let name = database(cluster, known);
    let pooler = pooler(cluster, &name, |it| {
        it.pool("catalog_refresh_interval", "\"1h\"")
    });
    let mut raw = Raw::connect(pooler.address(), &name);
    eventually("the catalogue was read", || {
        raw.value("SELECT is_known()") != "primary"
    });
    cluster
        .primary()
        .psql_in(&name, &format!("{WRITES} {add}"))
        .unwrap();
    catch_up(cluster);
    let raw = Raw::connect(pooler.address(), &name);
    (pooler, raw, name)
}

fn reruns(pooler: &Pgweir, database: &str) -> u64 {
    let routes = console(pooler, "SHOW ROUTES");
    let prefix = format!("{database}|primary|rerun|");
    let mut counts = routes.iter().filter_map(|line| line.strip_prefix(&prefix));
    counts.next().map_or(0, |count| count.parse().unwrap())
}

const WRITES: &str = "CREATE TABLE calls (id int);
    CREATE FUNCTION note() RETURNS int LANGUAGE plpgsql VOLATILE AS $$
    BEGIN INSERT INTO calls VALUES (1); RETURN 1; END $$;";

/// Views that write, of which the pooler's catalogue knows nothing yet: nobody has told it.
#[test]
fn a_read_that_a_replica_refuses_is_run_on_the_primary() {
    let views = (0..4).map(|n| format!("CREATE VIEW v{n} AS SELECT note() AS called;"));
    let (pooler, mut raw, name) = ignorant(&views.collect::<String>());
    for _ in 0..2 {
        back_on_replicas(&mut raw);
        assert_eq!(raw.value("SELECT * FROM v0"), "1");
    }
    let extended = |sql: &str| [parse("", sql), bind("", &[]), execute(), sync()];
    for _ in 0..2 {
        back_on_replicas(&mut raw);
        let answers = raw.ask(&extended("SELECT * FROM v1"));
        assert_eq!(answers, ["1", "2", "D 1", "C SELECT 1", "Z I"]);
    }
    raw.ask(&[parse("p", "SELECT * FROM v2"), sync()]);
    for _ in 0..3 {
        back_on_replicas(&mut raw);
        let answers = raw.ask(&[bind("p", &[]), execute(), sync()]);
        assert_eq!(answers, ["2", "D 1", "C SELECT 1", "Z I"]);
    }
    // Each text is refused once.
    assert_eq!(reruns(&pooler, &name), 3);
    // A session sees what its reads have written.
    assert_eq!(raw.value("SELECT count(*) FROM calls"), "7");

    // Unless it was told to go there.
    assert_eq!(raw.error("/* pgweir: replica */ SELECT * FROM v3"), "25006");
    // In a transaction, it is the client's affair.
    raw.run("BEGIN READ ONLY");
    assert_eq!(raw.error("SELECT * FROM v3"), "25006");
    raw.run("ROLLBACK");
    assert_eq!(
        raw.value("/* pgweir: primary */ SELECT count(*) FROM calls"),
        "7"
    );
}

/// Once rows have reached the client, running it again would show them twice.
#[test]
fn nothing_is_run_again_once_a_row_was_forwarded() {
    let view = "CREATE VIEW late AS SELECT id, CASE WHEN id = 90 THEN note() END AS called
                FROM generate_series(1, 100) AS id";
    let (pooler, mut raw, name) = ignorant(view);
    let answers = raw.query("SELECT * FROM late");
    let rows = answers.iter().filter(|it| it.starts_with("D ")).count();
    assert_eq!(rows, 89, "{answers:?}");
    assert_eq!(answers[answers.len() - 2..], ["E 25006", "Z I"]);
    assert_eq!(reruns(&pooler, &name), 0);
    assert_eq!(
        raw.value("/* pgweir: primary */ SELECT count(*) FROM calls"),
        "0"
    );
}

/// A replica that must replay what a query of its own stands in the way of cancels the query.
#[test]
fn a_read_that_a_conflict_cancels_is_run_again() {
    let cluster = own(|builder| {
        let builder = builder.setting("max_standby_streaming_delay", "0");
        builder.setting("hot_standby_feedback", "off")
    });
    let name = database(
        &cluster,
        "CREATE TABLE t AS SELECT generate_series(1, 1000) AS id",
    );
    let pooler = pooler(&cluster, &name, |it| it);
    let conflicts = || {
        let sql = format!("SELECT conflicts FROM pg_stat_database WHERE datname = '{name}'");
        let counts = cluster.replicas().iter().map(|it| it.psql(&sql).unwrap());
        counts
            .map(|count| count.parse::<u64>().unwrap())
            .sum::<u64>()
    };
    let is_running = "EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'SELECT sum%' AND \
                      backend_type = 'client backend' AND state = 'active')";
    let read_beside_a_vacuum = || {
        thread::scope(|scope| {
            let read = scope.spawn(|| {
                let mut raw = Raw::connect(pooler.address(), &name);
                raw.value("SELECT sum(id) FROM t, pg_sleep(3) WHERE t.id <= 10")
            });
            let runs_on = |replica: &Node| {
                let answer = replica.psql(&format!("SELECT {is_running}"));
                answer.unwrap() == "t"
            };
            eventually("it runs on a replica", || {
                cluster.replicas().iter().any(runs_on)
            });
            let sql = "UPDATE t SET id = id WHERE id > 500; VACUUM t";
            cluster.primary().psql_in(&name, sql).unwrap();
            assert_eq!(read.join().unwrap(), "55");
        })
    };
    // A VACUUM leaves in place what an older snapshot on the primary may see: then there is no conflict.
    eventually("a replica has counted a conflict", || {
        read_beside_a_vacuum();
        conflicts() > 0
    });
}

/// Passes connections on to `upstream`. One that is answered by a line with `marker` is held until told to
/// go on, and then reset behind its answer.
fn resetting(upstream: u16, marker: &'static [u8]) -> (u16, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let ((held, is_held), (go, may_go)) = (mpsc::channel(), mpsc::channel::<()>());
    let may_go = Arc::new(Mutex::new(may_go));
    thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut server) = (
                client.unwrap(),
                TcpStream::connect(("127.0.0.1", upstream)).unwrap(),
            );
            let (mut asked, mut asks) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || drop(io::copy(&mut asked, &mut asks)));
            let (held, may_go) = (held.clone(), Arc::clone(&may_go));
            thread::spawn(move || {
                let mut buffer = [0; 8192];
                while let Ok(size @ 1..) = server.read(&mut buffer) {
                    let answer = &buffer[..size];
                    let is_last = answer.windows(marker.len()).any(|it| it == marker);
                    if is_last {
                        held.send(()).unwrap();
                        may_go.lock().unwrap().recv().unwrap();
                    }
                    if client.write_all(answer).is_err() || is_last {
                        break;
                    }
                }
                let now = Some(Duration::ZERO);
                drop(socket2::SockRef::from(&client).set_linger(now));
                drop(client.shutdown(Shutdown::Both));
            });
        }
    });
    (port, is_held, go)
}

#[test]
fn a_read_that_finds_its_connection_reset_is_run_elsewhere() {
    let cluster = shared();
    let name = database(cluster, "");
    let (port, is_held, go) = resetting(cluster.replica(0).port(), b"the last");
    let pooler = PgweirBuilder::without_servers()
        .server(cluster.primary(), "primary")
        .server_at("127.0.0.1", port, "replica")
        .pool("slow_start", "0")
        .pool_size(1)
        .start();
    await_service(pooler.address(), &name);
    let mut first = Raw::connect(pooler.address(), &name);
    let mut second = Raw::connect(pooler.address(), &name);
    back_on_replicas(&mut first);
    back_on_replicas(&mut second);
    // The primary has a connection to spare.
    Raw::connect(pooler.address(), &name).run("CREATE TABLE t ()");
    first.send(&query("SELECT 'the ' || 'last'"));
    is_held.recv().unwrap();
    second.send(&query("SELECT 'not lost'"));
    eventually("it waits for the connection", || {
        let pools = console(&pooler, "SHOW POOLS");
        pools
            .iter()
            .any(|line| line.starts_with(&format!("{name}|postgres|1|1|")))
    });
    // The answer and the reset are there at once.
    pooler.signal("STOP");
    go.send(()).unwrap();
    thread::sleep(Duration::from_millis(200));
    pooler.signal("CONT");
    for (raw, row) in [(&mut first, "D the last"), (&mut second, "D not lost")] {
        let answers = raw.answers();
        assert!(answers.iter().any(|it| it == row), "{answers:?}");
    }
}
