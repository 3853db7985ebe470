//! `auth_query` of a running pooler: whom it asks, and how many questions there are at a time.
#![expect(clippy::unwrap_used, reason = "a test panics")]

mod support;

use pgweir::sandbox::Cluster;
use support::{PgweirBuilder, eventually, raw::Raw};

/// Nobody listens there.
const NOWHERE: &str = "{ host = \"127.0.0.1\", port = 1 }";

fn cluster() -> Cluster {
    let cluster = support::start(Cluster::builder(support::binaries()));
    for sql in [
        "CREATE ROLE asker LOGIN CONNECTION LIMIT 2",
        "GRANT SELECT ON pg_authid TO asker",
        "CREATE ROLE alice LOGIN PASSWORD 'secret'",
    ] {
        cluster.primary().psql(sql).unwrap();
    }
    cluster
}

fn builder(servers: &str) -> PgweirBuilder {
    PgweirBuilder::without_servers()
        .pgweir("auth_type", "\"plain\"")
        .pgweir("auth_user", "\"asker\"")
        .extra("[users.postgres]\npassword = \"postgres\"")
        .extra(&format!("[databases.postgres]\nservers = [{servers}]"))
}

fn server(cluster: &Cluster) -> String {
    let port = cluster.primary().port();
    format!("{{ host = \"127.0.0.1\", port = {port} }}")
}

#[test]
fn a_server_that_is_down_leaves_the_question_to_the_next() {
    let cluster = cluster();
    let servers = format!("{NOWHERE}, {}", server(&cluster));
    let pgweir = builder(&servers).start();
    let login = |password| {
        let parameters = [("user", "alice"), ("password", password)];
        Raw::try_connect(pgweir.address(), 3 << 16, "postgres", &parameters)
    };
    login("secret").unwrap();
    let refused = login("guess").err().unwrap();
    assert!(refused.contains("28P01"), "{refused}");
}

#[test]
fn questions_take_no_more_connections_than_a_pool() {
    let cluster = cluster();
    let mut pooler = builder(&server(&cluster)).pool_size(2);
    pooler = pooler.pgweir(
        "auth_query",
        "\"SELECT rolname, rolpassword FROM pg_advisory_lock(42) LEFT JOIN pg_authid ON rolname = $1\"",
    );
    let pgweir = pooler.start();
    let primary = cluster.primary();
    let mut lock = Raw::connect(([127, 0, 0, 1], primary.port()).into(), "postgres");
    lock.run("SELECT pg_advisory_lock(42)");
    let console = |sql| {
        let password = [("password", "postgres")];
        let console = Raw::try_connect(pgweir.address(), 3 << 16, "pgbouncer", &password);
        console.unwrap().rows(sql)
    };
    let mut clients: Vec<_> = (0..8)
        .map(|number| Raw::enter_as(pgweir.address(), &format!("made_up_{number}"), "postgres"))
        .collect();
    eventually("all of them wait", || {
        let asked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'";
        console("SHOW LISTS").contains(&"login_clients|8".to_owned())
            && primary.psql(asked).unwrap() == "2"
    });
    // A connection that is closed still counts for a moment.
    primary
        .psql("ALTER ROLE asker CONNECTION LIMIT -1")
        .unwrap();
    lock.run("SELECT pg_advisory_unlock(42)");
    for client in &mut clients {
        // AuthenticationCleartextPassword, as for a user that exists.
        assert_eq!(client.next(), Some((b'R', vec![0, 0, 0, 3])));
    }
}
