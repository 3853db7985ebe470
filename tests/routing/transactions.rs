//! Transactions stay where they began, and pipelines keep their order.

use crate::{
    stage::{back_on_replicas, database, is_primary, is_replica, pooler, shared, who},
    support::raw::{Raw, bind, execute, parse, query, sync},
};

const TABLE: &str = "CREATE TABLE t (id int)";

#[test]
fn a_read_only_transaction_stays_on_one_replica() {
    let cluster = shared();
    let name = database(cluster, TABLE);
    let pooler = pooler(cluster, &name, |it| it);
    let mut raw = Raw::connect(pooler.address(), &name);
    for begin in [
        "BEGIN READ ONLY",
        "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
        "START TRANSACTION READ ONLY",
    ] {
        for _ in 0..4 {
            raw.run(begin);
            let servers = who(&mut raw, "", 10);
            assert!(
                is_replica(&servers) && servers.len() == 1,
                "{begin}: {servers:?}"
            );
            raw.run("COMMIT");
        }
    }
    raw.run("BEGIN READ ONLY");
    assert_eq!(raw.error("INSERT INTO t VALUES (1)"), "25006");
    raw.run("ROLLBACK");
    // What would exclude nobody, and what would keep the session where it cannot write.
    for text in [
        "SELECT pg_advisory_lock(1)",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
    ] {
        back_on_replicas(&mut raw);
        raw.run("BEGIN READ ONLY");
        assert_eq!(raw.error(text), "25006", "{text}");
        assert!(
            raw.last_error.contains("on a replica"),
            "{}",
            raw.last_error
        );
        raw.run("ROLLBACK");
    }
    raw.run("BEGIN READ ONLY; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT");
    raw.run("INSERT INTO t VALUES (0)");
    raw.run("CLOSE c");
    back_on_replicas(&mut raw);

    raw.run("SET default_transaction_read_only = on");
    raw.run("BEGIN");
    let servers = who(&mut raw, "", 10);
    assert!(is_replica(&servers) && servers.len() == 1, "{servers:?}");
    raw.run("COMMIT");
    raw.run("BEGIN READ WRITE");
    raw.run("INSERT INTO t VALUES (1)");
    assert!(is_primary(&who(&mut raw, "", 10)));
    raw.run("COMMIT");
}

#[test]
fn any_other_transaction_stays_on_the_primary() {
    let cluster = shared();
    let name = database(cluster, TABLE);
    let pooler = pooler(cluster, &name, |it| it);
    let mut raw = Raw::connect(pooler.address(), &name);
    for begin in [
        "BEGIN",
        "START TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE",
        "BEGIN; SET TRANSACTION READ ONLY",
        "BEGIN READ ONLY; SELECT 1",
        "BEGIN READ WRITE",
    ] {
        raw.run(begin);
        let servers = who(&mut raw, "", 5);
        assert!(is_primary(&servers), "{begin}: {servers:?}");
        raw.run("COMMIT");
        back_on_replicas(&mut raw);
    }
}

/// A standby refuses everything while it is to be serializable, also the question what was set.
#[test]
fn a_serializable_session_is_at_home_on_the_primary() {
    let cluster = shared();
    let name = database(cluster, TABLE);
    let pooler = pooler(cluster, &name, |it| it);
    let works = |raw: &mut Raw| {
        assert!(is_primary(&who(raw, "", 5)));
        raw.run("BEGIN READ ONLY");
        assert!(is_primary(&who(raw, "", 5)));
        raw.run("COMMIT");
        raw.run("INSERT INTO t VALUES (1)");
    };
    let mut raw = Raw::connect(pooler.address(), &name);
    for (set, reset) in [
        (
            "SET default_transaction_isolation = serializable",
            "RESET default_transaction_isolation",
        ),
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED",
        ),
        (
            "SET work_mem = '1MB'; SET default_transaction_isolation TO 'Serializable'",
            "RESET ALL",
        ),
    ] {
        back_on_replicas(&mut raw);
        raw.run(set);
        works(&mut raw);
        raw.run(reset);
    }
    back_on_replicas(&mut raw);
    let options = [("options", "-c default_transaction_isolation=SERIALIZABLE")];
    let mut born = Raw::connect_with(pooler.address(), &name, &options);
    works(&mut born);
    born.run("SET default_transaction_isolation = 'read committed'");
    back_on_replicas(&mut born);
    born.run("RESET ALL");
    works(&mut born);
}

/// Units of all kinds, sent at once: the answers come in their order, and each read shows all writes
/// before it.
#[test]
fn a_pipeline_reads_its_own_writes_in_order() {
    const UNITS: usize = 60;
    let cluster = shared();
    let name = database(cluster, TABLE);
    let pooler = pooler(cluster, &name, |it| it);
    let mut raw = Raw::connect(pooler.address(), &name);
    let statement = |sql: &str| [parse("", sql), bind("", &[]), execute(), sync()].concat();
    for turn in 0..10 {
        let mut all = Vec::new();
        for unit in 0..UNITS {
            let id = turn * UNITS + unit;
            let write = format!("INSERT INTO t VALUES ({id})");
            let read = "SELECT count(*) FROM t";
            if unit % 2 == 0 {
                all.extend(query(&write));
                all.extend(statement(read));
            } else {
                all.extend(statement(&write));
                all.extend(query(read));
            }
            // Reads behind each other, of which all but the first may be on a replica.
            all.extend((0..unit % 4).flat_map(|_| query(read)));
        }
        raw.send(&all);
        for unit in 0..UNITS {
            let written = raw.answers();
            assert!(written.contains(&"C INSERT 0 1".to_owned()), "{written:?}");
            let count = format!("D {}", turn * UNITS + unit + 1);
            for _ in 0..=unit % 4 {
                let read = raw.answers();
                assert!(read.contains(&count), "{count}: {read:?}");
            }
        }
    }
}

/// Of a batch up to its Sync, all is one transaction on one server.
#[test]
fn a_batch_goes_where_the_most_demanding_of_its_statements_has_to_go() {
    let cluster = shared();
    let name = database(cluster, TABLE);
    let pooler = pooler(cluster, &name, |it| it);
    let mut raw = Raw::connect(pooler.address(), &name);
    let who = crate::support::servers::WHO;
    let batch = |texts: &[&str]| {
        let statements = texts
            .iter()
            .flat_map(|sql| [parse("", sql), bind("", &[]), execute()]);
        let mut batch: Vec<_> = statements.collect();
        batch.push(sync());
        batch
    };
    let rows = |answers: &[String]| {
        let rows = answers.iter().filter_map(|it| it.strip_prefix("D "));
        rows.map(str::to_owned)
            .collect::<std::collections::BTreeSet<_>>()
    };
    let reads = raw.ask(&batch(&[who, who, who]));
    assert!(
        is_replica(&rows(&reads)) && rows(&reads).len() == 1,
        "{reads:?}"
    );
    let mixed = raw.ask(&batch(&[who, "INSERT INTO t VALUES (1)", who]));
    assert!(is_primary(&rows(&mixed)), "{mixed:?}");
    let mixed = raw.rows(&format!("{who}; INSERT INTO t VALUES (2); {who}"));
    assert_eq!(mixed, ["primary", "primary"]);
}
