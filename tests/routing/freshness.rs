//! What a session has written it reads, at once and everywhere; and it goes back to the replicas soon.

use std::{
    env, thread,
    time::{Duration, Instant},
};

use ::pgweir::sandbox::Cluster;

use crate::{
    stage::{back_on_replicas, console, database, own, pooler, shared},
    support::{
        eventually,
        raw::{Raw, bind, execute, parse, query, sync},
        servers::{WHO, catch_up},
    },
};

const CLIENTS: usize = 10;
const ROUNDS: usize = 5_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Simple,
    Extended,
    Prepared,
}

const TABLE: &str = "CREATE TABLE t (id bigint PRIMARY KEY)";
const INSERT: &str = "INSERT INTO t VALUES ($1)";
const SELECT: &str = "SELECT count(*) FROM t WHERE id = $1";

/// One client that inserts rows and looks for each at once; how many it did not find.
fn stale_reads(mut raw: Raw, way: Way, ids: impl Iterator<Item = usize>) -> usize {
    if way == Way::Prepared {
        raw.ask(&[parse("insert", INSERT), parse("select", SELECT), sync()]);
    }
    let mut run = |name: &str, sql: &str, id: &str| {
        let unit = match way {
            Way::Simple => vec![query(&sql.replace("$1", id))],
            Way::Extended => vec![parse("", sql), bind("", &[id]), execute(), sync()],
            Way::Prepared => vec![bind(name, &[id]), execute(), sync()],
        };
        raw.ask(&unit)
    };
    ids.filter(|id| {
        let id = id.to_string();
        let answers = run("insert", INSERT, &id);
        assert!(answers.contains(&"C INSERT 0 1".to_owned()), "{answers:?}");
        let answers = run("select", SELECT, &id);
        let is_found = answers.contains(&"D 1".to_owned());
        assert!(
            is_found || answers.contains(&"D 0".to_owned()),
            "{answers:?}"
        );
        !is_found
    })
    .count()
}

fn all_stale_reads(cluster: &Cluster, consistency: &str, rounds: usize) -> usize {
    let name = database(cluster, TABLE);
    cluster.replicas().iter().for_each(|replica| {
        replica
            .set_replay_delay(Duration::from_millis(200))
            .unwrap();
    });
    let quoted = format!("\"{consistency}\"");
    let pooler = pooler(cluster, &name, |it| it.pool("consistency", &quoted));
    let mut stale = 0;
    for (turn, way) in [Way::Simple, Way::Extended, Way::Prepared]
        .into_iter()
        .enumerate()
    {
        let found: usize = thread::scope(|scope| {
            let clients = (0..CLIENTS).map(|client| {
                let raw = Raw::connect(pooler.address(), &name);
                let first = (turn * CLIENTS + client) * rounds;
                let ids = first..first + rounds / CLIENTS;
                scope.spawn(move || stale_reads(raw, way, ids))
            });
            let clients: Vec<_> = clients.collect();
            clients
                .into_iter()
                .map(|client| client.join().unwrap())
                .sum()
        });
        println!("{found} of {rounds} reads by {way:?} were stale ({consistency})");
        stale += found;
    }
    stale
}

#[test]
fn a_row_is_found_at_once_though_replicas_are_late() {
    let cluster = own(|builder| builder);
    assert_eq!(all_stale_reads(&cluster, "session", ROUNDS), 0);
    // The same is stale when nobody promises anything else.
    assert!(all_stale_reads(&cluster, "eventual", 100) > 100);
}

/// 90 reads for 10 writes, by 32 clients that pause in between as users do. Without pauses the servers of
/// the test would take all processors from each other, and replay would wait for its turn.
#[test]
fn replicas_serve_the_reads_of_a_mixed_load() {
    const CLIENTS: usize = 32;
    const TURNS: usize = 100;
    const PAUSE: Duration = Duration::from_millis(30);
    let cluster = shared();
    let sql = "CREATE TABLE accounts (id int PRIMARY KEY, balance int);
               INSERT INTO accounts SELECT id, 0 FROM generate_series(0, 31) AS id";
    let name = database(cluster, sql);
    let pooler = pooler(cluster, &name, |it| it);
    let on_replicas: usize = thread::scope(|scope| {
        let clients = (0..CLIENTS).map(|id| {
            let mut raw = Raw::connect(pooler.address(), &name);
            scope.spawn(move || {
                let write = format!("UPDATE accounts SET balance = balance + 1 WHERE id = {id}");
                let read = format!("{WHO}, balance FROM accounts WHERE id = {id}");
                let (mut balance, mut on_replicas) = (0, 0);
                for turn in 0..TURNS {
                    thread::sleep(PAUSE);
                    if (turn + id) % 10 == 0 {
                        raw.run(&write);
                        balance += 1;
                        continue;
                    }
                    let row = raw.value(&read);
                    let (server, found) = row.split_once('|').unwrap();
                    assert_eq!(found, balance.to_string(), "on {server}");
                    on_replicas += usize::from(server != "primary");
                }
                on_replicas
            })
        });
        let clients: Vec<_> = clients.collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .sum()
    });
    let reads = CLIENTS * TURNS * 9 / 10;
    println!("{on_replicas} of {reads} reads on replicas");
    println!("{:#?}", console(&pooler, "SHOW ROUTES"));
    assert!(on_replicas * 100 >= reads * 85, "{on_replicas} of {reads}");
}

/// How long it takes until a replica serves a session that has just written, again and again.
#[test]
fn the_pin_of_a_write_ends() {
    let is_long = env::var_os("CONSISTENCY_SECONDS").is_some();
    let rounds = if is_long { 5_000 } else { 500 };
    let cluster = own(|builder| builder);
    let name = database(&cluster, "CREATE TABLE t (id int, filler text)");
    let pooler = pooler(&cluster, &name, |it| it);
    let mut raw = Raw::connect(pooler.address(), &name);
    // Until the catalogue was read, reads on the primary count as writes.
    raw.run("INSERT INTO t VALUES (0)");
    back_on_replicas(&mut raw);
    let mut time_of = |sql: &str| {
        raw.run(sql);
        let begin = Instant::now();
        while raw.value(WHO) == "primary" {
            assert!(
                begin.elapsed() < Duration::from_secs(20),
                "hangs after {sql}"
            );
        }
        begin.elapsed()
    };
    // Records of all lengths, so that some end where a page does.
    let insert = |round| format!("INSERT INTO t VALUES ({round}, repeat('x', {round} % 97))");
    let times = (0..rounds).map(|round| time_of(&insert(round))).collect();
    println!("a replica serves again {}", distribution(times));
    // Behind which nothing is written, so that the WAL ends behind the head of a page.
    let switches = (0..rounds / 50).map(|_| time_of("SELECT pg_switch_wal()"));
    let times = switches.collect();
    println!("after the end of a segment {}", distribution(times));
}

fn distribution(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    let [half, most, nearly, all] = [50, 95, 99, 100].map(at);
    format!("after {half:?} (half), {most:?} (95 %), {nearly:?} (99 %), {all:?} (all)")
}

/// A session that has not written is served by a replica that is behind, whatever others write.
#[test]
fn only_who_has_written_pays_for_it() {
    let cluster = own(|builder| builder);
    let name = database(&cluster, TABLE);
    let pooler = pooler(&cluster, &name, |it| it);
    let [mut writer, mut reader] = [(); 2].map(|()| Raw::connect(pooler.address(), &name));
    cluster
        .replicas()
        .iter()
        .for_each(|it| it.pause_replay().unwrap());
    for id in 0..50 {
        writer.run(&format!("INSERT INTO t VALUES ({id})"));
        let seen = writer.value(&format!("{WHO}, count(*) FROM t"));
        assert_eq!(seen, format!("primary|{}", id + 1));
        let seen = reader.value(&format!("{WHO}, count(*) FROM t"));
        assert!(
            seen.starts_with("replica") && seen.ends_with("|0"),
            "{seen}"
        );
    }
    cluster
        .replicas()
        .iter()
        .for_each(|it| it.resume_replay().unwrap());
    catch_up(&cluster);
    let deadline = Instant::now() + Duration::from_secs(30);
    while writer.value(WHO) == "primary" {
        assert!(Instant::now() < deadline, "it stays on the primary");
    }
    assert_eq!(writer.value("SELECT count(*) FROM t"), "50");
}

/// With `on_lag = "wait"` a read waits for its replica, and is not sent to the primary.
#[test]
fn a_read_waits_for_a_replica_where_it_is_told_to() {
    let cluster = own(|builder| builder);
    let name = database(&cluster, TABLE);
    let pooler = pooler(&cluster, &name, |it| {
        it.pool("on_lag", "\"wait\"")
            .pool("lag_wait_timeout", "\"60s\"")
    });
    let mut writer = Raw::connect(pooler.address(), &name);
    cluster
        .replicas()
        .iter()
        .for_each(|it| it.pause_replay().unwrap());
    writer.run("INSERT INTO t VALUES (1)");
    let mut bystander = Raw::connect(pooler.address(), &name);
    thread::scope(|scope| {
        let read = scope.spawn(|| writer.value(&format!("{WHO}, count(*) FROM t")));
        // Others go on meanwhile.
        for _ in 0..100 {
            let seen = bystander.value(&format!("{WHO}, count(*) FROM t"));
            assert!(
                seen.starts_with("replica") && seen.ends_with("|0"),
                "{seen}"
            );
        }
        assert!(!read.is_finished(), "it has not waited");
        cluster.replica(1).resume_replay().unwrap();
        assert_eq!(read.join().unwrap(), "replica1|1");
    });
}

/// A strong read sees what was written past the pooler, of which nobody has told it.
#[test]
fn a_strong_read_sees_what_others_wrote_by_another_way() {
    let cluster = own(|builder| builder);
    let name = database(&cluster, TABLE);
    let pooler = pooler(&cluster, &name, |it| it.pool("consistency", "\"strong\""));
    let mut reader = Raw::connect(pooler.address(), &name);
    for id in 0..20 {
        let count = format!("{WHO}, count(*) FROM t");
        // A replica has come to all that is known of the primary, and goes no further.
        eventually("a replica serves", || {
            !reader.value(&count).starts_with("primary")
        });
        cluster
            .replicas()
            .iter()
            .for_each(|it| it.pause_replay().unwrap());
        let write = format!("INSERT INTO t VALUES ({id})");
        cluster.primary().psql_in(&name, &write).unwrap();
        assert_eq!(reader.value(&count), format!("primary|{}", id + 1));
        cluster
            .replicas()
            .iter()
            .for_each(|it| it.resume_replay().unwrap());
        catch_up(&cluster);
    }
}
