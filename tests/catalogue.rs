//! The catalogue of a real database: what its own functions, views, operators, casts and relations make of a statement. What
//! counts as a read is run on a standby and must succeed there; what a standby would refuse or do wrong must count as a write.
#![expect(clippy::unwrap_used, reason = "a test panics")]

mod support;

use pgweir::{
    sandbox::Cluster,
    server::{
        Inquiry,
        catalogue::{fingerprint, survey},
    },
    sql::{
        Class, Env,
        catalogue::{Catalogue, Declared},
        classify,
    },
};

use support::login;

/// What a user's database may hold, from the plain to the devious.
const OBJECTS: &str = include_str!("catalogue/objects.sql");
/// `read|write  statement`, and prose.
const STATEMENTS: &str = include_str!("catalogue/statements.txt");

async fn inquiry(cluster: &Cluster, user: &str, database: &str) -> Inquiry {
    let login = login::trusted(login::unix(cluster.primary(), user, database));
    let settings = [("statement_timeout", "60s")];
    Inquiry::open(&login, "catalogue test", &settings)
        .await
        .unwrap()
}

fn is_read(catalogue: &Catalogue, version: u16, statement: &str) -> bool {
    let env = Env {
        server_version: version,
        knowledge: catalogue,
        ..Env::default()
    };
    classify(statement.as_bytes(), &env).class == Class::Read
}

/// (is it a read, the statement), of the table.
fn statements() -> Vec<(bool, String)> {
    let mut found: Vec<(bool, String)> = Vec::new();
    for line in STATEMENTS.lines() {
        match line.split_once(' ') {
            Some(("read", statement)) => found.push((true, statement.trim().to_owned())),
            Some(("write", statement)) => found.push((false, statement.trim().to_owned())),
            _ => {}
        }
    }
    found
}

#[tokio::test]
async fn every_statement_is_what_the_table_says_and_reads_run_on_a_standby() {
    let cluster = support::replicated_postgres();
    let primary = cluster.primary();
    primary.psql("CREATE DATABASE shop").unwrap();
    primary.psql("CREATE ROLE nobody LOGIN").unwrap();
    primary.psql_in("shop", OBJECTS).unwrap();
    let before = primary
        .psql_in("shop", "SELECT count(*) FROM journal")
        .unwrap();

    // Without any right of its own.
    let mut inquiry = inquiry(cluster, "nobody", "shop").await;
    let version = inquiry.major_version();
    let survey = survey(&mut inquiry).await.unwrap();
    let catalogue = Catalogue::new(1, &survey, Declared::default());
    assert_eq!(catalogue.distrust(), None);

    let replica = cluster.replica(0);
    replica.wait_caught_up(primary).unwrap();
    let statements = statements();
    assert!(statements.len() > 100, "the table was not read");
    let mut wrong = Vec::new();
    for (read, statement) in &statements {
        if is_read(&catalogue, version, statement) != *read {
            wrong.push(format!(
                "{statement}: should be {}",
                if *read { "a read" } else { "a write" }
            ));
        } else if *read && let Err(error) = replica.psql_in("shop", statement) {
            wrong.push(format!("{statement}: {error}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let after = primary
        .psql_in("shop", "SELECT count(*) FROM journal")
        .unwrap();
    assert_eq!(before, after);
}

#[tokio::test]
async fn a_fingerprint_tells_whether_anything_has_changed() {
    let cluster = support::replicated_postgres();
    let primary = cluster.primary();
    primary.psql("CREATE DATABASE changing").unwrap();
    let psql = |sql: &str| primary.psql_in("changing", sql).unwrap();
    psql(
        "CREATE TABLE t (id int); CREATE FUNCTION f() RETURNS int STABLE LANGUAGE sql AS 'SELECT 1'",
    );
    let mut inquiry = inquiry(cluster, "postgres", "changing").await;
    let mut last = fingerprint(&mut inquiry).await.unwrap();
    let first = survey(&mut inquiry).await.unwrap();
    // What happens all day long.
    psql("INSERT INTO t SELECT generate_series(1, 1000)");
    psql("VACUUM ANALYZE t");
    psql("CREATE TEMP TABLE x (id serial, name text)");
    assert_eq!(fingerprint(&mut inquiry).await.unwrap(), last);
    assert_eq!(survey(&mut inquiry).await.unwrap().digest(), first.digest());
    for change in [
        "ALTER FUNCTION f() VOLATILE",
        "ALTER FUNCTION f() STABLE",
        "CREATE VIEW v AS SELECT f()",
        "CREATE OR REPLACE VIEW v AS SELECT 1 AS f",
        "CREATE SCHEMA s",
        "ALTER VIEW v SET SCHEMA s",
        "ALTER SCHEMA s RENAME TO z",
        "ALTER TABLE t SET UNLOGGED",
        "CREATE SEQUENCE q",
        "CREATE DOMAIN d AS int",
        "ALTER DOMAIN d ADD CHECK (VALUE > f())",
        "CREATE POLICY p ON t USING (true)",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE t ADD COLUMN more d",
        "CREATE TYPE e AS ENUM ('a')",
        "CREATE FUNCTION to_e(int) RETURNS e LANGUAGE sql AS $$ SELECT 'a'::e $$",
        "CREATE CAST (int AS e) WITH FUNCTION to_e(int)",
        "ALTER FUNCTION pg_catalog.lower(text) VOLATILE",
        "DROP SCHEMA z CASCADE",
    ] {
        psql(change);
        let now = fingerprint(&mut inquiry).await.unwrap();
        assert_ne!(now, last, "{change}");
        last = now;
    }
    let survey = survey(&mut inquiry).await.unwrap();
    assert_ne!(survey.digest(), first.digest());
    let version = inquiry.major_version();
    let catalogue = Catalogue::new(1, &survey, Declared::default());
    assert!(
        !is_read(&catalogue, version, "SELECT lower('A')"),
        "it was altered"
    );
    assert!(is_read(&catalogue, version, "SELECT upper('A')"));
}
