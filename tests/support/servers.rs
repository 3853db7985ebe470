//! Servers that say which one they are, so that a test sees who has answered. Asking does not decide who
//! is asked: to the pooler it is a setting like any other.

use std::net::SocketAddr;

use ::pgweir::sandbox::{Cluster, Node};

use super::{eventually, raw::Raw};

/// Asks the name of the server that answers.
pub const WHO: &str = "SELECT current_setting('test.server')";

/// Tells each server its name, which is that of its node: `primary`, `replica0` …
pub fn name_servers(cluster: &Cluster) {
    for node in cluster.nodes() {
        let name = node.name();
        // What is no setting yet cannot be altered, and a SET makes it one for the session.
        let sql = format!(
            "SET test.server = ''; ALTER SYSTEM SET test.server = '{name}'; SELECT pg_reload_conf();"
        );
        node.psql(&sql).expect("postgres may do this");
        let known = "SELECT current_setting('test.server', true)";
        eventually("the server knows its name", || {
            node.psql(known).is_ok_and(|found| found == name)
        });
    }
    catch_up(cluster);
}

/// Waits until all replicas have replayed what the primary has written.
pub fn catch_up(cluster: &Cluster) {
    let caught_up = |replica: &Node| replica.wait_caught_up(cluster.primary());
    cluster
        .replicas()
        .iter()
        .for_each(|replica| caught_up(replica).expect("it streams"));
}

/// Waits until the pooler lets writes through.
pub fn await_writes(pooler: SocketAddr, database: &str) {
    eventually("writes flow", || {
        let mut raw = Raw::connect(pooler, database);
        let answers = raw.query("UPDATE pg_class SET relname = relname WHERE false");
        answers == ["C UPDATE 0", "Z I"]
    });
}

/// Waits until writes go to the primary, and reads to a replica.
pub fn await_service(pooler: SocketAddr, database: &str) {
    await_writes(pooler, database);
    eventually("a replica serves", || {
        let mut raw = Raw::connect(pooler, database);
        raw.query(WHO)
            .iter()
            .any(|answer| answer.starts_with("D replica"))
    });
}
