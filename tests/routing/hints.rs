//! Who says where a statement goes, and how fresh it is: comments, settings, the configuration.

use std::collections::BTreeSet;

use crate::{
    stage::{
        back_on_replicas, console, database, is_primary, is_replica, own, pooler, shared, who,
    },
    support::{PgweirBuilder, eventually, raw::Raw, servers::WHO},
};

const TABLE: &str = "CREATE TABLE t (id int)";

#[test]
fn comments_and_settings_say_where() {
    let cluster = shared();
    let name = database(cluster, TABLE);
    let pooler = pooler(cluster, &name, |it| it);
    let mut raw = Raw::connect(pooler.address(), &name);

    assert!(is_replica(&who(&mut raw, "", 10)));
    for comment in [
        "/* pgweir: primary */ ",
        "/* pgweir: route=primary */ ",
        "-- pgweir: primary\n",
        "/* pgweir: consistency=primary */ ",
        "/*pgweir_route='primary',action='show'*/ ",
    ] {
        assert!(is_primary(&who(&mut raw, comment, 5)), "{comment}");
    }
    let behind = format!("{WHO} /*controller='users',pgweir_route='primary'*/");
    assert_eq!(raw.value(&behind), "primary");
    // Only for its statement.
    back_on_replicas(&mut raw);
    assert!(is_replica(&who(&mut raw, "", 10)));

    raw.run("SET pgweir.route = 'primary'");
    assert!(is_primary(&who(&mut raw, "", 5)));
    eventually("a comment overrides a setting", || {
        is_replica(&who(&mut raw, "/* pgweir: auto */ ", 5))
    });
    assert_eq!(raw.value("SHOW pgweir.route"), "primary");
    raw.run("RESET pgweir.route");
    back_on_replicas(&mut raw);

    raw.run("SET pgweir.consistency = 'primary'");
    assert!(is_primary(&who(&mut raw, "", 5)));
    raw.run("SET pgweir.consistency TO DEFAULT");
    back_on_replicas(&mut raw);

    raw.run("BEGIN");
    raw.run("SET LOCAL pgweir.route = 'replica'");
    raw.run("INSERT INTO t VALUES (1)");
    raw.run("COMMIT");
    assert_eq!(
        raw.value("/* pgweir: primary */ SELECT count(*) FROM t"),
        "1"
    );
}

#[test]
fn the_startup_packet_says_where() {
    let cluster = shared();
    let name = database(cluster, TABLE);
    let pooler = pooler(cluster, &name, |it| it);
    let with = |parameter| Raw::connect_with(pooler.address(), &name, &[parameter]);
    for parameter in [
        ("options", "-c pgweir.route=primary"),
        ("options", "-c pgweir.consistency=primary"),
        ("pgweir.route", "primary"),
    ] {
        let mut raw = with(parameter);
        assert!(is_primary(&who(&mut raw, "", 5)), "{parameter:?}");
        raw.run("RESET ALL");
        assert!(is_primary(&who(&mut raw, "", 5)), "{parameter:?}");
    }
    let mut raw = with(("options", "-c pgweir.route=replica"));
    assert!(is_replica(&who(&mut raw, "", 5)));
    assert_eq!(raw.error("INSERT INTO t VALUES (1)"), "25006");
}

/// What is told to go to a replica goes there, whatever it is; the replica refuses what it cannot do.
#[test]
fn a_statement_is_told_to_go_to_a_replica() {
    let cluster = shared();
    let function = "CREATE FUNCTION f() RETURNS text LANGUAGE sql VOLATILE \
                    AS $$ SELECT current_setting('test.server') $$";
    let name = database(cluster, &format!("{TABLE}; {function}"));
    let pooler = pooler(cluster, &name, |it| it);
    let mut raw = Raw::connect(pooler.address(), &name);
    assert_eq!(raw.value("SELECT f()"), "primary");
    assert_ne!(raw.value("/* pgweir: replica */ SELECT f()"), "primary");
    assert_eq!(
        raw.error("/* pgweir: replica */ INSERT INTO t VALUES (1)"),
        "25006"
    );
    assert_eq!(
        raw.value("/* pgweir: primary */ SELECT count(*) FROM t"),
        "0"
    );
}

#[test]
fn databases_and_users_have_settings_of_their_own() {
    let cluster = shared();
    let name = database(cluster, TABLE);
    cluster.primary().psql("CREATE ROLE carol LOGIN").unwrap();
    let servers: Vec<_> = cluster
        .nodes()
        .iter()
        .map(|node| format!("{{ host = \"127.0.0.1\", port = {} }}", node.port()))
        .collect();
    let servers = servers.join(", ");
    let database = |key: &str, settings: &str| {
        format!("[databases.{key}]\ndbname = \"{name}\"\nservers = [{servers}]\n{settings}\n")
    };
    let toml = [
        database("to_primary", "route = \"primary\""),
        database("fresh", "consistency = \"primary\""),
        database("shadowed", "shadow = true"),
        database(
            "both",
            "primary_reads = \"always\"\nload_balance = \"round_robin\"",
        ),
        "[users.carol]\nroute = \"primary\"\n".to_owned(),
    ];
    let pooler = pooler(cluster, &name, |it| it.extra(&toml.concat()));
    let to = |database: &str| Raw::connect(pooler.address(), database);

    assert!(is_primary(&who(&mut to("to_primary"), "", 10)));
    eventually("a comment overrides the configuration", || {
        is_replica(&who(&mut to("to_primary"), "/* pgweir: auto */ ", 10))
    });
    assert!(is_primary(&who(&mut to("fresh"), "", 10)));
    let mut carol = Raw::connect_with(pooler.address(), &name, &[("user", "carol")]);
    assert!(is_primary(&who(&mut carol, "", 10)));
    carol.run("SET pgweir.route = auto");
    back_on_replicas(&mut carol);
    // Each session stays where its first read went, so none has to wait for what it has seen.
    let mut served = BTreeSet::new();
    eventually("all three servers serve", || {
        let servers = who(&mut to("both"), "", 10);
        served.extend(servers);
        served.len() == 3
    });

    eventually("the servers are seen", || {
        let mut shadowed = to("shadowed");
        assert!(is_primary(&who(&mut shadowed, "", 10)));
        let routes = console(&pooler, "SHOW ROUTES");
        let is_counted = |line: &String| line.starts_with("shadowed|replica|proved_read|");
        routes.iter().any(is_counted)
    });
}

#[test]
fn where_the_primary_serves_no_reads_they_fail_without_replicas() {
    let cluster = own(|builder| builder);
    let name = database(&cluster, TABLE);
    let never = |it: PgweirBuilder| {
        it.pool("primary_reads", "\"never\"")
            .pool("query_wait_timeout", "\"20s\"")
    };
    let pooler = pooler(&cluster, &name, never);
    let mut raw = Raw::connect(pooler.address(), &name);
    raw.run("INSERT INTO t VALUES (1)");
    for replica in cluster.replicas() {
        replica.kill9().unwrap();
    }
    let code = raw.error("SELECT count(*) FROM t");
    assert_eq!(code, "57P03", "{}", raw.last_error);
    raw.run("INSERT INTO t VALUES (2)");
    assert_eq!(
        raw.value("/* pgweir: primary */ SELECT count(*) FROM t"),
        "2"
    );
}
