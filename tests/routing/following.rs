//! What a session says of its routing holds for all that it sends behind that, also where it sends it at once or keeps its
//! server meanwhile.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use crate::{
    stage::{back_on_replicas, database, own, pooler, shared},
    support::{
        eventually,
        raw::{Raw, bind, execute, parse, query, sync},
        servers::{WHO, catch_up},
    },
};

const TABLE: &str = "CREATE TABLE t (id int)";

/// What the last of these units answers, all sent at once.
fn last_of(raw: &mut Raw, units: &[Vec<u8>]) -> String {
    raw.send(&units.concat());
    let answers: Vec<_> = units.iter().map(|_| raw.answers()).collect();
    let rows = answers.last().unwrap().iter();
    let mut rows = rows.filter_map(|answer| answer.strip_prefix("D "));
    rows.next_back()
        .unwrap_or_else(|| panic!("no row: {answers:?}"))
        .to_owned()
}

#[test]
fn a_comment_holds_for_a_read_behind_an_unanswered_one() {
    let cluster = shared();
    let name = database(cluster, TABLE);
    let pooler = pooler(cluster, &name, |it| it);
    for wish in ["primary", "consistency=primary", "token=x"] {
        let mut raw = Raw::connect(pooler.address(), &name);
        back_on_replicas(&mut raw);
        let wished = query(&format!("/* pgweir: {wish} */ {WHO}"));
        let who = last_of(&mut raw, &[query("SELECT 1"), wished]);
        assert_eq!(who, "primary", "{wish}");
    }
}

#[test]
fn a_setting_holds_for_what_is_sent_with_it() {
    let cluster = shared();
    let name = database(cluster, TABLE);
    let pooler = pooler(cluster, &name, |it| it);
    for set in [
        "SET pgweir.route = 'primary'",
        "SET pgweir.consistency = 'primary'",
        "SET pgweir.token = 'x'",
    ] {
        let mut raw = Raw::connect(pooler.address(), &name);
        back_on_replicas(&mut raw);
        let who = last_of(&mut raw, &[query(set), query(WHO)]);
        assert_eq!(who, "primary", "{set}");
        let mut raw = Raw::connect(pooler.address(), &name);
        back_on_replicas(&mut raw);
        let run = |sql: &str| [parse("", sql), bind("", &[]), execute()].concat();
        let batch = [run(set), run(WHO), sync()].concat();
        assert_eq!(last_of(&mut raw, &[batch]), "primary", "{set} in a batch");
    }
}

/// What one read need not see the next one may have to.
#[test]
fn a_read_behind_an_unanswered_one_is_as_fresh_as_it_wishes() {
    let cluster = own(|builder| builder);
    let name = database(&cluster, TABLE);
    let pooler = pooler(&cluster, &name, |it| it);
    let count = || query("SELECT count(*) FROM t");
    let mut raw = Raw::connect(pooler.address(), &name);
    pause(&cluster);
    raw.run("INSERT INTO t VALUES (1)");
    let eventual = query("/* pgweir: consistency=eventual */ SELECT count(*) FROM t");
    assert_eq!(last_of(&mut raw, &[eventual, count()]), "1");
    resume(&cluster);

    let mut strong = Raw::connect(pooler.address(), &name);
    strong.run("SET pgweir.consistency = 'strong'");
    back_on_replicas(&mut strong);
    pause(&cluster);
    strong.send(&query(&format!("{WHO}, pg_sleep(1)")));
    raw.run("INSERT INTO t VALUES (2)");
    strong.send(&count());
    strong.answers();
    let seen = strong.answers();
    assert!(seen.contains(&"D 2".to_owned()), "{seen:?}");
    resume(&cluster);
}

/// What others write while a read waits is none of its business: or it would wait for as long as they write.
#[test]
fn a_read_waits_for_what_was_written_before_it_only() {
    let cluster = own(|builder| builder);
    let name = database(&cluster, TABLE);
    let pooler = pooler(&cluster, &name, |it| {
        it.pool("consistency_scope", "\"database\"")
            .pool("on_lag", "\"wait\"")
            .pool("lag_wait_timeout", "\"10s\"")
    });
    // What was written a moment ago is not replayed yet, at any time.
    cluster.replicas().iter().for_each(|replica| {
        replica
            .set_replay_delay(Duration::from_millis(200))
            .unwrap();
    });
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            let mut writer = Raw::connect(pooler.address(), &name);
            let is_over = &is_over;
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    writer.run("INSERT INTO t VALUES (1)");
                }
            });
        }
        let mut reader = Raw::connect(pooler.address(), &name);
        let seen: Vec<_> = (0..5).map(|_| reader.value(WHO)).collect();
        let token = reader.query("SHOW pgweir.token");
        is_over.store(true, Ordering::Relaxed);
        assert!(seen.iter().all(|who| who != "primary"), "{seen:?}");
        assert!(token[1].starts_with("D 1."), "{token:?}");
    });
}

fn pause(cluster: &::pgweir::sandbox::Cluster) {
    let replicas = cluster.replicas().iter();
    replicas.for_each(|it| it.pause_replay().unwrap());
}

fn resume(cluster: &::pgweir::sandbox::Cluster) {
    let replicas = cluster.replicas().iter();
    replicas.for_each(|it| it.resume_replay().unwrap());
    catch_up(cluster);
}

/// A token tells of every write that its session would see.
#[test]
fn a_token_is_behind_whatever_was_written_before_it() {
    let cluster = own(|builder| builder);
    let name = database(&cluster, TABLE);
    let pooler = pooler(&cluster, &name, |it| {
        it.pool("consistency_scope", "\"user\"")
    });
    let show = || query("SHOW pgweir.token");
    let insert = || query("INSERT INTO t VALUES (1)");
    let mut written = 0;
    let mut check = |case: &str, token: &dyn Fn(&mut Raw) -> String| {
        let mut raw = Raw::connect(pooler.address(), &name);
        back_on_replicas(&mut raw);
        pause(&cluster);
        let token = token(&mut raw);
        written += 1;
        // Of another scope, so that it knows nothing but the token.
        let mut other = Raw::connect_with(pooler.address(), &name, &[("user", "other")]);
        other.run(&format!("SET pgweir.token = '{token}'"));
        let seen = other.value("SELECT count(*) FROM t");
        assert_eq!(seen, written.to_string(), "{case}: {token}");
        resume(&cluster);
    };
    cluster.primary().psql("CREATE ROLE other LOGIN").unwrap();
    let grant = "GRANT SELECT ON t TO other";
    cluster.primary().psql_in(&name, grant).unwrap();
    catch_up(&cluster);
    check("by itself", &|raw| {
        raw.run("INSERT INTO t VALUES (1)");
        raw.value("SHOW pgweir.token")
    });
    check("sent with the write", &|raw| {
        raw.value("SHOW pgweir.token");
        last_of(raw, &[insert(), show()])
    });
    check("of a write that it shares", &|raw| {
        raw.run("INSERT INTO t VALUES (1)");
        Raw::connect(pooler.address(), &name).value("SHOW pgweir.token")
    });
    check("of a session that keeps its server", &|raw| {
        raw.run("CREATE TEMP TABLE own (id int)");
        raw.value("SHOW pgweir.token");
        raw.run("INSERT INTO t VALUES (1)");
        raw.value("SHOW pgweir.token")
    });
}

/// A strong read in a read-only transaction sees what was written since that began.
#[test]
fn a_strong_read_is_strong_in_a_read_only_transaction() {
    let cluster = own(|builder| builder);
    let name = database(&cluster, TABLE);
    let pooler = pooler(&cluster, &name, |it| it.pool("consistency", "\"strong\""));
    let mut reader = Raw::connect(pooler.address(), &name);
    eventually("a replica serves", || reader.value(WHO) != "primary");
    for begin in [
        "BEGIN READ ONLY",
        "BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ",
    ] {
        reader.run("/* pgweir: primary */ SELECT 1");
        reader.run(begin);
        pause(&cluster);
        cluster
            .primary()
            .psql_in(&name, "INSERT INTO t VALUES (1)")
            .unwrap();
        let seen = reader.value("SELECT count(*) FROM t");
        let truth = cluster.primary().psql_in(&name, "SELECT count(*) FROM t");
        assert_eq!(seen, truth.unwrap().trim(), "{begin}");
        reader.run("COMMIT");
        resume(&cluster);
    }
}

#[test]
fn a_key_that_a_transaction_sets_shares_what_it_writes() {
    let cluster = own(|builder| builder);
    let name = database(&cluster, TABLE);
    let pooler = pooler(&cluster, &name, |it| {
        it.pool("consistency_scope", "\"key\"")
    });
    let cases = [
        ("a", "BEGIN", "SET pgweir.key = 'a'"),
        ("b", "BEGIN", "SET LOCAL pgweir.key = 'b'"),
        ("c", "BEGIN", "/* pgweir: key=c */ SELECT 1"),
        // Which keeps its server.
        (
            "d",
            "CREATE TEMP TABLE own (id int)",
            "SET pgweir.key = 'd'",
        ),
    ];
    for (written, (key, begin, set)) in cases.into_iter().enumerate() {
        let mut other = Raw::connect(pooler.address(), &name);
        other.run(&format!("SET pgweir.key = '{key}'"));
        back_on_replicas(&mut other);
        pause(&cluster);
        let mut raw = Raw::connect(pooler.address(), &name);
        raw.run(begin);
        raw.run(set);
        raw.run("INSERT INTO t VALUES (1)");
        if begin == "BEGIN" {
            raw.run("COMMIT");
        }
        let seen = other.value("SELECT count(*) FROM t");
        assert_eq!(seen, (written + 1).to_string(), "{set}");
        resume(&cluster);
    }
}

/// Nobody watches the servers any more when there is but one.
#[test]
fn a_session_goes_on_when_all_replicas_are_taken_out() {
    let cluster = own(|builder| builder);
    let name = database(&cluster, TABLE);
    let pooler = pooler(&cluster, &name, |it| {
        it.pool("query_wait_timeout", "\"20s\"")
    });
    let mut raw = Raw::connect(pooler.address(), &name);
    raw.run("SET pgweir.consistency = 'strong'");
    back_on_replicas(&mut raw);
    let replicas = cluster.replicas().iter().map(|it| it.port().to_string());
    let replicas: Vec<_> = replicas.collect();
    pooler.rewrite_config(|toml| {
        let is_replica = |line: &&str| replicas.iter().any(|port| line.contains(port));
        let kept = toml.lines().filter(|line| !is_replica(line));
        kept.collect::<Vec<_>>().join("\n")
    });
    let mut console = Raw::connect(pooler.address(), "pgbouncer");
    console.run("RELOAD");
    assert_eq!(raw.value(WHO), "primary");
    raw.run("INSERT INTO t VALUES (1)");
    assert_eq!(raw.value(&format!("{WHO}, count(*) FROM t")), "primary|1");
}
