//! Servers that keep their WAL positions to themselves, as some managed services do: how fresh a replica is
//! cannot be known there, so it is a matter of time, or of the primary.

use std::net::SocketAddr;

use crate::{
    stage::{console, database, is_primary, is_replica, shared, who},
    support::{Pgweir, eventually, raw::Raw, servers::WHO},
};

const USER: &str = "shop";

/// A pooler whose monitor is a user that may not ask where the WAL ends, and the name of its database.
fn pooler(settings: &[(&str, &str)]) -> (Pgweir, String) {
    let cluster = shared();
    let role = format!(
        "DO $$ BEGIN CREATE ROLE {USER} LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
    );
    cluster.primary().psql(&role).unwrap();
    let sql = format!(
        "CREATE TABLE t (id bigint PRIMARY KEY); GRANT ALL ON t TO {USER};
         REVOKE EXECUTE ON FUNCTION pg_current_wal_insert_lsn() FROM PUBLIC"
    );
    let name = database(cluster, &sql);
    let mut builder = Pgweir::builder(cluster).pool("slow_start", "0");
    for (key, value) in settings {
        builder = builder.pool(key, value);
    }
    let pooler = builder.start();
    // The first who comes is the one as whom the monitor looks. Who comes so early that it reads on the
    // primary stays there.
    eventually("a replica serves", || {
        connect(pooler.address(), &name).value(WHO) != "primary"
    });
    eventually("all are known", || {
        let lines = console(&pooler, "SHOW REPLICAS");
        !lines.iter().any(|line| line.contains("|unknown|"))
    });
    let primary = format!(":{}", cluster.primary().port());
    let lines = console(&pooler, "SHOW REPLICAS");
    for columns in lines.iter().map(|line| line.split('|').collect::<Vec<_>>()) {
        let is_primary = columns[1].ends_with(&primary);
        assert_eq!(columns[3], ["replica", "primary"][usize::from(is_primary)]);
        assert_eq!(columns[6], "NULL", "a position is known: {lines:#?}");
    }
    (pooler, name)
}

fn connect(pooler: SocketAddr, database: &str) -> Raw {
    Raw::connect_with(pooler, database, &[("user", USER)])
}

/// What the session sees of the one row that it writes, and where.
fn seen_after(raw: &mut Raw, id: usize) -> String {
    raw.run(&format!("INSERT INTO t VALUES ({id})"));
    raw.value(&format!("{WHO}, count(*) FROM t WHERE id = {id}"))
}

#[test]
fn who_has_written_stays_on_the_primary_for_that_time() {
    let (pooler, name) = pooler(&[("pin_after_write", "\"1h\"")]);
    let [mut writer, mut reader] = [(); 2].map(|()| connect(pooler.address(), &name));
    for id in 0..50 {
        assert_eq!(seen_after(&mut writer, id), "primary|1");
        assert_ne!(reader.value(WHO), "primary");
    }
    assert!(is_primary(&who(&mut writer, "", 50)));
    let routes = console(&pooler, "SHOW ROUTES");
    let is_told = |it: &String| it.contains("|primary|pin_after_write|");
    assert!(routes.iter().any(is_told), "{routes:#?}");
}

#[test]
fn who_has_written_goes_back_to_the_replicas_after_that_time() {
    let (pooler, name) = pooler(&[("pin_after_write", "\"300ms\"")]);
    let mut writer = connect(pooler.address(), &name);
    for id in 0..3 {
        writer.run(&format!("INSERT INTO t VALUES ({id})"));
        eventually("a replica serves", || writer.value(WHO) != "primary");
        assert!(is_replica(&who(&mut writer, "", 50)));
    }
}

#[test]
fn without_such_a_time_who_has_written_stays_for_good() {
    let (pooler, name) = pooler(&[]);
    let [mut writer, mut reader] = [(); 2].map(|()| connect(pooler.address(), &name));
    for id in 0..20 {
        assert_eq!(seen_after(&mut writer, id), "primary|1");
        assert_ne!(reader.value(WHO), "primary");
    }
    assert!(is_primary(&who(&mut writer, "", 200)));
    assert!(is_replica(&who(&mut reader, "", 50)));
}

/// Where nobody can tell how fresh a replica is, the primary is fresh.
#[test]
fn a_strong_read_goes_to_the_primary() {
    let (pooler, name) = pooler(&[("pin_after_write", "\"1ms\"")]);
    let mut raw = connect(pooler.address(), &name);
    let strong = "/* pgweir: consistency=strong */ ";
    assert!(is_primary(&who(&mut raw, strong, 20)));
    raw.run("SET pgweir.consistency = 'strong'");
    assert!(is_primary(&who(&mut raw, "", 20)));
    raw.run("SET pgweir.consistency = 'eventual'");
    assert!(is_replica(&who(&mut raw, "", 20)));
}
