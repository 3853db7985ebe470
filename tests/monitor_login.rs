//! As whom the monitor of a running pooler logs in.
#![expect(clippy::unwrap_used, reason = "a test panics")]

mod support;

use pgweir::sandbox::Cluster;
use support::{
    Pgweir, eventually,
    raw::{Raw, query},
    replicated_postgres,
};

fn watchers(cluster: &Cluster) -> String {
    let who =
        "SELECT DISTINCT usename FROM pg_stat_activity WHERE application_name = 'pgweir monitor'";
    cluster.replica(0).psql(who).unwrap()
}

#[test]
fn a_first_user_whom_no_server_knows_is_nobody_elses_loss() {
    let pgweir = Pgweir::builder(replicated_postgres()).start();
    let unknown = [("user", "nobody_knows")];
    let refused = Raw::try_connect(pgweir.address(), 3 << 16, "postgres", &unknown);
    assert!(refused.is_err());
    let mut client = Raw::connect(pgweir.address(), "postgres");
    assert_eq!(
        client.query("CREATE TEMP TABLE t (a int)").pop().unwrap(),
        "Z I"
    );
    eventually("a replica is seen", || {
        let mut console = Raw::connect(pgweir.address(), "pgbouncer");
        let replicas = console.rows("SHOW REPLICAS");
        replicas.iter().any(|row| row.contains("|replica|replica|"))
    });
}

#[test]
fn monitor_user_watches_whoever_comes() {
    let cluster = support::start(Cluster::builder(support::binaries()).replicas(1));
    let role = "CREATE ROLE watcher LOGIN; CREATE ROLE other LOGIN";
    cluster.primary().psql(role).unwrap();
    support::servers::catch_up(&cluster);
    let pgweir = Pgweir::builder(&cluster)
        .pgweir("monitor_user", "\"watcher\"")
        .start();
    let mut client = Raw::connect(pgweir.address(), "postgres");
    client.send(&query("SELECT 1"));
    assert_eq!(client.answers()[1], "D 1");
    eventually("it watches", || watchers(&cluster) == "watcher");
}
