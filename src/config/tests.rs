//! The configuration as a whole: what a file means, and what is said when it is wrong.

use std::time::Duration;

use super::*;

const APP: &str = r#"
[databases.app]
servers = [{ host = "10.0.0.1", port = 5433, role = "primary" }, { host = "/run/pg", role = "replica" }]
"#;

fn environment(name: &str) -> Option<String> {
    (name == "APP_PASSWORD").then(|| "s3cret-of-env".to_owned())
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/nowhere"), &environment)
}

fn good(text: &str) -> Config {
    parse(text).unwrap_or_else(|error| panic!("{text}\n{error}"))
}

fn refused(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

#[test]
fn an_empty_file_has_the_defaults() {
    let config = good("");
    assert_eq!(config.process, Process::default());
    assert_eq!(*config.defaults, PoolSettings::default());
    assert_eq!(config.process.listen_addr, ["127.0.0.1"]);
    assert_eq!(config.process.auth_type, AuthType::ScramSha256);
    assert_eq!(
        config.defaults.query_wait_timeout,
        Some(Duration::from_secs(120))
    );
    assert_eq!(config.defaults.query_timeout, None);
    assert_eq!(
        config.defaults.server_reset_query.as_deref(),
        Some("DISCARD ALL")
    );
    assert_eq!(
        config.warnings.len(),
        1,
        "no database: {:?}",
        config.warnings
    );
}

#[test]
fn the_most_specific_setting_wins() {
    let config = good(
        r#"
        [pool]
        default_pool_size = 30
        query_timeout = "10s"
        [databases.app]
        servers = [{ host = "a" }]
        pool_size = 7
        pool_mode = "session"
        [databases."*"]
        servers = [{ host = "b" }]
        [users.alice]
        pool_size = 3
        query_timeout = 0
        "#,
    );
    let app = config.database("app").unwrap();
    assert_eq!(config.pool(&app, "bob").pool_size, 7);
    assert_eq!(
        config.pool(&app, "bob").query_timeout,
        Some(Duration::from_secs(10))
    );
    let alice = config.pool(&app, "alice");
    assert_eq!((alice.pool_size, alice.pool_mode), (3, PoolMode::Session));
    assert_eq!(alice.query_timeout, None);
    let other = config.database("other").unwrap();
    assert_eq!(
        (other.name.as_str(), other.server_dbname()),
        ("other", "other")
    );
    assert_eq!(config.pool(&other, "bob").pool_size, 30);
    assert!(Arc::ptr_eq(&config.pool(&other, "bob"), &config.defaults));
}

#[test]
fn names_no_database_can_have_are_nobodys() {
    let config = good("[databases.\"*\"]\nservers = [{ host = \"a\" }]");
    for name in ["", "*", "pgbouncer", "pgweir", &"x".repeat(64)] {
        assert!(config.database(name).is_none(), "{name}");
    }
    assert!(config.database(&"x".repeat(63)).is_some());
    assert!(good(APP).database("other").is_none());
}

#[test]
fn servers_are_typed() {
    let config = good(APP);
    let app = config.database("app").unwrap();
    assert_eq!(app.servers[0].host, Host::Tcp("10.0.0.1".to_owned()));
    assert_eq!(app.servers[1].host, Host::Unix("/run/pg".into()));
    assert_eq!(app.servers[1].port, 5432);
    assert_eq!(app.primary().unwrap().to_string(), "10.0.0.1:5433");
    let config = good("[[databases.x.servers]]\nhost = \"[::1]\"\nweight = 0\nzone = \"a\"");
    let server = config.database("x").unwrap().servers[0].clone();
    assert_eq!(
        (server.to_string().as_str(), server.role),
        ("[::1]:5432", Role::Auto)
    );
}

#[test]
fn a_limit_that_does_not_fit_a_smaller_pool_is_cut() {
    let config = good(&format!(
        "[pool]\nmin_pool_size = 8\n{APP}[users.a]\npool_size = 2\nmin_pool_size = 0"
    ));
    let app = config.database("app").unwrap();
    assert_eq!(config.pool(&app, "a").min_pool_size, 0);
    let config = good(&format!("{APP}min_pool_size = 8\n[users.a]\npool_size = 2"));
    let app = config.database("app").unwrap();
    assert_eq!(config.pool(&app, "a").min_pool_size, 2);
}

/// Each text is refused with a message that contains the second part.
fn each_says(cases: &[(&str, &str)]) {
    for (text, want) in cases {
        let error = refused(text);
        assert!(
            error.contains(want),
            "{text}\n  said: {error}\n  not:  {want}"
        );
    }
}

#[test]
fn problems_say_where_what_and_what_instead() {
    let cases = [
        (
            "[pool]\npool_mod = 1",
            "line 2, column 1: unknown key `pool.pool_mod`; did you mean `pool_mode`?",
        ),
        (
            "[pool]\nlisten_port = 1",
            "unknown key `pool.listen_port`; it belongs in [pgweir]",
        ),
        ("[pgweir]\nlogfile = \"x\"", "logs go to stderr"),
        (
            "[pgwier]\n",
            "line 1, column 2: unknown key `pgwier`; did you mean [pgweir]?",
        ),
        ("pool_mode = \"session\"", "it belongs in [pool]"),
        (
            "[users.a]\nmax_db_connections = 1",
            "it belongs in [pool] or [databases.NAME]",
        ),
        ("[databases.a]\nhost = \"x\"", "write servers = [{"),
        (
            "[pool]\npool_mode = \"trans\"",
            "line 2, column 13: `pool.pool_mode` cannot be \"trans\": write \"session\", \"transaction\", \"statement\"",
        ),
        (
            "[pool]\npool_mode = \"sesion\"",
            "did you mean \"session\"?",
        ),
        (
            "[pool]\nquery_timeout = \"1 fortnight\"",
            "write a duration such as",
        ),
        (
            "[pool]\ndefault_pool_size = 0",
            "line 2, column 1: `pool.default_pool_size` must be at least 1",
        ),
        (
            "[pool]\npool_size = 1\ndefault_pool_size = 2",
            "same key; keep one",
        ),
        (
            "[users.a]\nmax_prepared_statements = 0",
            "`users.a.max_prepared_statements` must be at least 1",
        ),
        ("[pool]\nmin_pool_size = 21", "more than the 20 connections"),
        ("[pool]\nx = ", "line 2, column 5: "),
        (
            "[pgweir]\nlisten_addr = [\"::1\", \"0:0:0:0:0:0:0:1\"]",
            "has 0:0:0:0:0:0:0:1 twice",
        ),
        ("[pgweir]\nlisten_addr = [\"*\", \"::1\"]", "beside others"),
        ("[pgweir]\nlisten_addr = []", "nothing would listen"),
        ("[pgweir]\nauth_type = \"hba\"", "needs auth_hba_file"),
        ("[pgweir]\nauth_type = \"cert\"", "verify-full"),
        (
            "[pgweir]\nclient_tls_sslmode = \"require\"",
            "needs client_tls_key_file",
        ),
        (
            "[pgweir]\nserver_tls_negotiation = \"direct\"",
            "needs server_tls_sslmode = \"require\"",
        ),
        (
            "[pgweir]\nserver_tls_ca_file = \"ca.pem\"",
            "names /nowhere/ca.pem: ",
        ),
        (
            "[pgweir]\nauth_file = \"users.txt\"",
            "names /nowhere/users.txt: ",
        ),
    ];
    each_says(&cases);
}

#[test]
fn problems_of_databases_and_users_say_the_same() {
    let cases = [
        (
            "[databases.a]\nservers = []",
            "`databases.a.servers` is empty",
        ),
        ("[databases.a]\n", "has no servers"),
        (
            "[databases.a]\nservers = [{ host = \"h\", role = \"replica\" }]",
            "has replicas only",
        ),
        (
            "[databases.a]\nservers = [{ host = \"h\" }, { host = \"h\" }]",
            "`databases.a.servers[1]` repeats h:5432",
        ),
        (
            "[databases.a]\nservers = [{ host = \"h:1\" }]",
            "the port is a key of its own",
        ),
        (
            "[databases.a]\nservers = [{ host = \"h\", port = 0 }]",
            "a port from 1 to 65535",
        ),
        (
            "[databases.a]\nservers = [{ port = 1 }]",
            "`databases.a.servers[0]` has no host",
        ),
        (
            "[databases.pgbouncer]\nservers = [{ host = \"h\" }]",
            "the name of the console",
        ),
        (
            "[databases.\"\"]\nservers = [{ host = \"h\" }]",
            "1 to 63 bytes",
        ),
        (
            "[users.a]\npassword = \"${NOT_SET}\"",
            "environment variable NOT_SET",
        ),
        (
            "[users.a]\npassword_file = \"pw\"",
            "`users.a.password_file` names /nowhere/pw: ",
        ),
        (
            "[users.a]\npassword = \"x\"\npasswords = [\"y\"]",
            "keep one",
        ),
        ("[users.a]\npassword = \"\"", "is empty"),
        ("[peers.x]\nhost = \"h\"", "must be a number"),
        ("[peers.1]\nhost = \"h\"", "need `peer_id`"),
        ("[pool]\npool_mode.x = 1", "cannot be a table"),
        ("pool = 1", "`pool` cannot be 1: write a table"),
    ];
    each_says(&cases);
}

#[test]
fn all_problems_are_told_at_once_in_order() {
    let error = refused("[users.x]\nfoo = 1\n[pool]\npool_mode = 1\n[pgweir]\nlisten_port = -1\n");
    let lines: Vec<_> = error.lines().collect();
    assert_eq!(lines.len(), 3, "{error}");
    assert!(
        lines[0].starts_with("line 2,") && lines[2].starts_with("line 6,"),
        "{error}"
    );
}

#[test]
fn no_message_and_no_row_shows_a_secret() {
    let secrets = "[users.a]\npassword = \"hunter2\"\n[databases.d]\nservers = [{ host = \"h\" }]\n\
                   user = \"u\"\npassword = \"${APP_PASSWORD}\"\n";
    let config = good(secrets);
    let told = format!("{config:?} {:?}", config.settings());
    assert!(
        !told.contains("hunter2") && !told.contains("s3cret-of-env"),
        "{told}"
    );
    for broken in [
        "[users.a]\npassword = 12345678\n",
        "[users.a]\npasswords = \"hunter2\"\n",
        "[users.a]\npassword = hunter2\n",
        "[users.a]\npassword = \"hunter2\n",
        "[users.a]\npassword = [\"hunter2\"]\n",
    ] {
        let error = refused(broken);
        assert!(
            !error.contains("hunter2") && !error.contains("12345678"),
            "{error}"
        );
    }
}

#[test]
fn passwords_come_from_text_environment_and_files() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("pw"), "from file\n").unwrap();
    fs::write(
        dir.path().join("users"),
        "\"a\" \"old\"\n\"z\" \"listed\"\n",
    )
    .unwrap();
    let text = "[pgweir]\nauth_file = \"users\"\n[users.a]\npassword_file = \"pw\"\n\
                [users.b]\npasswords = [\"new\", \"${APP_PASSWORD}\"]\n[users.c]\npool_size = 1\n";
    let config = Config::parse(text, dir.path(), &environment).unwrap();
    let passwords = |name: &str| -> Vec<String> {
        let user = config.user(name).unwrap();
        user.passwords
            .iter()
            .map(|secret| secret.expose().to_owned())
            .collect()
    };
    assert_eq!(passwords("a"), ["from file"]);
    assert_eq!(passwords("b"), ["new", "s3cret-of-env"]);
    assert_eq!(passwords("c"), [""; 0]);
    assert_eq!(passwords("z"), ["listed"]);
    assert!(config.user("nobody").is_none());
}

#[test]
fn a_secret_that_everyone_can_read_is_told() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pooler.toml");
    fs::write(&file, format!("{APP}[users.a]\npassword = \"x\"\n")).unwrap();
    let warned = |mode| {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        Config::load(&file)
            .unwrap()
            .warnings
            .iter()
            .any(|told| told.contains("every local user"))
    };
    assert!(warned(0o644));
    assert!(!warned(0o640));
}

#[test]
fn show_config_speaks_pgbouncers_language() {
    let config = good(
        "[pgweir]\nmax_client_conn = 500\n[pool]\nquery_wait_timeout = \"1m\"\nmax_user_connections = 9",
    );
    let rows = config.settings();
    let row = |key: &str| rows.iter().find(|row| row.key == key).unwrap();
    assert_eq!(
        (
            row("max_client_conn").value.as_str(),
            row("max_client_conn").changeable
        ),
        ("500", true)
    );
    assert_eq!(
        (
            row("query_wait_timeout").value.as_str(),
            row("query_wait_timeout").default.as_str()
        ),
        ("60", "120")
    );
    assert_eq!(row("max_user_connections").value, "9");
    assert_eq!(row("log_stats").value, "1");
    assert!(!row("listen_port").changeable);
    assert!(rows.is_sorted_by(|a, b| a.key < b.key), "sorted and unique");
}

#[test]
fn auth_query_is_resolved_per_database() {
    let config = good(&format!(
        "[pgweir]\nauth_user = \"asker\"\n{APP}auth_query = \"SELECT 1\"\n[databases.b]\nservers = [{{ host = \"x\" }}]\nauth_dbname = \"app\"\n"
    ));
    let asked = config.auth_query(&config.database("app").unwrap()).unwrap();
    assert_eq!(
        (
            asked.user.as_str(),
            asked.query.as_str(),
            asked.dbname.as_str()
        ),
        ("asker", "SELECT 1", "app")
    );
    let asked = config.auth_query(&config.database("b").unwrap()).unwrap();
    assert_eq!(
        (asked.query, asked.dbname.as_str()),
        (Process::default().auth_query, "app")
    );
    let config = good(APP);
    assert_eq!(config.auth_query(&config.database("app").unwrap()), None);
}

#[test]
fn every_key_outside_the_two_tables_is_read_where_it_is_listed() {
    let server = "servers = [{ host = \"h\" }]";
    for key in Config::keys() {
        let (name, value) = (key.name, key.default);
        let text = match key.section {
            Section::Database if name == "servers" => format!("[databases.d]\n{name} = {value}"),
            Section::Database => {
                let user = if name.starts_with("password") {
                    "user = \"u\"\n"
                } else {
                    ""
                };
                format!("[databases.\"*\"]\n{server}\n{user}{name} = {value}")
            }
            Section::Server if name == "host" => continue,
            Section::Server => {
                format!("[databases.d]\nservers = [{{ host = \"h\", {name} = {value} }}]")
            }
            Section::User => format!("[users.u]\n{name} = {value}"),
            Section::Peer if name == "host" => continue,
            Section::Peer => {
                format!("[pgweir]\npeer_id = 1\n[peers.2]\nhost = \"h\"\n{name} = {value}")
            }
            Section::Process | Section::Pool => continue,
        };
        let environment = |_: &str| Some("x".to_owned());
        match Config::parse(&text, Path::new("/nowhere"), &environment) {
            Ok(_) => {}
            Err(error) => {
                let error = error.to_string();
                let only_missing = name == "password_file" && error.contains("No such file");
                assert!(only_missing, "{text}\n{error}");
            }
        }
    }
}

#[test]
fn a_key_is_refused_where_it_has_no_meaning() {
    for key in Config::keys().filter(|key| key.section == Section::Pool) {
        let (name, value) = (key.name, key.default);
        for (section, table) in [
            (
                Section::Database,
                "[databases.d]\nservers = [{ host = \"h\" }]",
            ),
            (Section::User, "[users.u]"),
        ] {
            let text = format!("{table}\n{name} = {value}");
            assert_eq!(parse(&text).is_ok(), key.allowed_in(section), "{text}");
        }
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(at in 0_usize..12_000, len in 0_usize..40, junk in ".{0,12}") {
        let mut text: String = Config::example().replace("\n#", "\n");
        let floor = |text: &str, mut at: usize| {
            at = at.min(text.len());
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let start = floor(&text, at);
        let end = floor(&text, start + len);
        text.replace_range(start..end, &junk);
        for text in [&text, &junk] {
            if let Err(error) = parse(text) {
                proptest::prop_assert!(!error.to_string().is_empty());
            }
        }
    }
}
