//! A cluster whose servers know their names, and poolers before it.

use std::{
    collections::BTreeSet,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use ::pgweir::sandbox::{Cluster, ClusterBuilder};

use crate::support::{
    self, Pgweir, PgweirBuilder, eventually,
    raw::Raw,
    servers::{WHO, await_service, catch_up, name_servers},
};

/// A primary and two replicas that all tests share: do not stop them or change their replay.
pub(crate) fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| own(|builder| builder))
}

/// A cluster of one's own.
pub(crate) fn own(configure: impl FnOnce(ClusterBuilder) -> ClusterBuilder) -> Cluster {
    let builder = Cluster::builder(support::binaries()).replicas(2);
    let cluster = support::start(configure(builder));
    name_servers(&cluster);
    cluster
}

/// A database of one's own, with what this SQL makes in it, on all servers.
pub(crate) fn database(cluster: &Cluster, sql: &str) -> String {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let name = format!("routing_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let primary = cluster.primary();
    primary.psql(&format!("CREATE DATABASE {name}")).unwrap();
    primary.psql_in(&name, sql).unwrap();
    catch_up(cluster);
    name
}

/// A pooler that serves the database: what is noticed is noticed soon, and what is back serves at once.
pub(crate) fn pooler(
    cluster: &Cluster,
    database: &str,
    configure: impl FnOnce(PgweirBuilder) -> PgweirBuilder,
) -> Pgweir {
    let builder = Pgweir::builder(cluster)
        .pool("slow_start", "0")
        .pool("health_check_interval", "\"200ms\"");
    let pooler = configure(builder).start();
    await_service(pooler.address(), database);
    pooler
}

/// As [`pooler`], with servers of which each is what it is found to be.
pub(crate) fn pooler_by_observation(
    cluster: &Cluster,
    database: &str,
    configure: impl FnOnce(PgweirBuilder) -> PgweirBuilder,
) -> Pgweir {
    let mut builder = PgweirBuilder::without_servers()
        .pool("slow_start", "0")
        .pool("health_check_interval", "\"200ms\"");
    for node in cluster.nodes() {
        builder = builder.server(node, "auto");
    }
    let pooler = configure(builder).start();
    await_service(pooler.address(), database);
    pooler
}

/// Who answers, when asked so often.
pub(crate) fn who(raw: &mut Raw, prefix: &str, times: usize) -> BTreeSet<String> {
    let sql = format!("{prefix}{WHO}");
    (0..times).map(|_| raw.value(&sql)).collect()
}

/// Waits until a replica serves the session again: after a write, or a read on the primary.
pub(crate) fn back_on_replicas(raw: &mut Raw) {
    eventually("a replica serves again", || raw.value(WHO) != "primary");
}

pub(crate) fn is_primary(servers: &BTreeSet<String>) -> bool {
    servers.iter().all(|server| server == "primary")
}

pub(crate) fn is_replica(servers: &BTreeSet<String>) -> bool {
    servers.iter().all(|server| server != "primary")
}

/// Rows of a console table, as lines of columns.
pub(crate) fn console(pooler: &Pgweir, sql: &str) -> Vec<String> {
    Raw::connect(pooler.address(), "pgbouncer").rows(sql)
}
