use super::*;

fn hosts(url: &str) -> Vec<String> {
    let read = parse(url).unwrap_or_else(|why| panic!("{url}: {why}"));
    read.hosts
        .iter()
        .map(|(host, port)| format!("{host} {port}"))
        .collect()
}

fn config(primary: &str, replicas: &[&str], listen: Option<&str>) -> Result<Config, String> {
    let replicas: Vec<_> = replicas.iter().map(|url| (*url).to_owned()).collect();
    Config::from_urls(primary, &replicas, listen).map_err(|error| error.to_string())
}

#[test]
fn urls_are_read_as_libpq_reads_them() {
    assert_eq!(hosts("postgres://h"), ["h 5432"]);
    assert_eq!(hosts("postgresql://u:p@h:5433/db"), ["h 5433"]);
    assert_eq!(
        hosts("postgres://a:1,b,[::1]:3/db"),
        ["a 1", "b 5432", "::1 3"]
    );
    assert_eq!(hosts("postgres://%2Frun%2Fpg/db"), ["/run/pg 5432"]);
    assert_eq!(
        hosts("postgres:///db?host=/run/pg&port=5433"),
        ["/run/pg 5433"]
    );
    assert_eq!(hosts("postgres://"), ["localhost 5432"]);
    let read = parse("postgres://a%40b:p%3A%2F@w@h/d%20b?sslmode=require").unwrap();
    assert_eq!(read.user.as_deref(), Some("a@b"));
    assert_eq!(read.password.unwrap().expose(), "p:/@w");
    assert_eq!(read.dbname.as_deref(), Some("d b"));
}

#[test]
fn what_cannot_be_read_is_refused_without_showing_it() {
    let wrong = [
        "mysql://u:hunter2@h/db",
        "hunter2",
        "postgres://u:hunter2@h:x/db",
        "postgres://u:hunter2@h:0/db",
        "postgres://u:hunter2%4@h/db",
        "postgres://u:hunter2%zz@h/db",
        "postgres://u:hunter2%ff@h/db",
        "postgres://u:hunter2@h/db?sslmod=require",
        "postgres://u:hunter2@h/db?sslmode=maybe",
        "postgres://u:hunter2@h/db?sslmode",
        "postgres://u:hunter2@h/pgbouncer",
        "postgres://:hunter2@h/db",
        "postgres://u:hunter2@a b/db",
        "postgres://u:hunter2@h,h/db",
        "postgres://u:hunter2@h/db?connect_timeout=x",
        "postgres://u:hunter2@h/db?sslrootcert=/nowhere/ca.pem",
    ];
    for url in wrong {
        let why = config(url, &[], None).expect_err(url);
        assert!(why.starts_with("--primary: "), "{url}: {why}");
        assert!(!why.contains("hunter2"), "{why}");
    }
}

#[test]
fn the_urls_user_is_the_user_and_the_administrator() {
    let config = config(
        "postgres://app:pw@db1/shop?application_name=x&sslmode=require",
        &["postgres://db2", "postgres://app:pw@db3:5433/shop"],
        None,
    )
    .unwrap();
    assert_eq!(config.process.auth_type, AuthType::ScramSha256);
    assert_eq!(config.process.admin_users, ["app"]);
    assert_eq!(config.process.server_tls.sslmode, SslMode::Require);
    assert_eq!(config.user("app").unwrap().passwords, [Secret::new("pw")]);
    let shop = config.database("shop").unwrap();
    let servers: Vec<_> = shop
        .servers
        .iter()
        .map(|s| format!("{s} {}", s.role))
        .collect();
    assert_eq!(
        servers,
        ["db1:5432 primary", "db2:5432 replica", "db3:5433 replica"]
    );
    assert!(!shop.is_fallback && config.database("other").unwrap().is_fallback);
    assert_eq!(
        config.warnings,
        ["the parameter application_name of the URL has no effect in pgweir"]
    );
}

#[test]
fn several_hosts_find_their_primary_themselves() {
    let config = config("postgres://u:p@a,b/db", &[], None).unwrap();
    let db = config.database("db").unwrap();
    assert!(db.servers.iter().all(|server| server.role == Role::Auto));
}

#[test]
fn without_a_password_only_this_machine_is_served() {
    let open = config("postgres://h/db", &[], None).unwrap();
    assert_eq!(open.process.auth_type, AuthType::Trust);
    assert!(open.users().next().is_none());
    for listen in ["localhost:1", "[::1]:1", "127.0.0.2", ":7000", "7000"] {
        config("postgres://u@h/db", &[], Some(listen)).expect(listen);
    }
    for listen in [
        "*:6432",
        "0.0.0.0:6432",
        "10.1.1.1",
        "[::]:6432",
        "db.example:1",
    ] {
        let why = config("postgres://u@h/db", &[], Some(listen)).expect_err(listen);
        assert!(why.contains("has no password"), "{why}");
        config("postgres://u:p@h/db", &[], Some(listen)).expect(listen);
    }
}

#[test]
fn listen_takes_every_usual_form() {
    let cases = [
        ("0.0.0.0:7000", "0.0.0.0", 7000),
        ("*:0", "*", 0),
        (":7000", "127.0.0.1", 7000),
        ("7000", "127.0.0.1", 7000),
        ("::1", "::1", 6432),
        ("[::1]:7000", "::1", 7000),
        ("[::1]", "::1", 6432),
        ("localhost", "localhost", 6432),
    ];
    for (text, address, port) in cases {
        let process = config("postgres://u:p@h/db", &[], Some(text))
            .expect(text)
            .process;
        assert_eq!(
            (process.listen_addr, process.listen_port),
            (vec![address.to_owned()], port)
        );
    }
    for text in ["h:x", "h:65536", "[::1", "[x]:1", "a:b:1", "[::1]7"] {
        let why = config("postgres://u:p@h/db", &[], Some(text)).expect_err(text);
        assert!(why.starts_with("--listen: "), "{why}");
    }
}

#[test]
fn a_replica_is_the_same_database_under_the_same_login() {
    let wrong = [
        ("postgres://other:p@h2/db", "another user"),
        ("postgres://u:x@h2/db", "another password"),
        ("postgres://u:p@h2/db2", "another database"),
        ("postgres://u:p@h2/db?sslmode=require", "another sslmode"),
    ];
    for (url, want) in wrong {
        let why = config("postgres://u:p@h/db", &[url], None).expect_err(url);
        assert!(
            why.starts_with("--replica: ") && why.contains(want),
            "{why}"
        );
    }
    assert!(
        config("postgres://u:p@h/db", &["postgres://h"], None).is_err(),
        "the same server"
    );
}
