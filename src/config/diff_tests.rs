use super::*;

const BASE: &str = r#"
[databases.app]
servers = [{ host = "a", role = "primary" }]
[databases.other]
servers = [{ host = "b" }]
[users.alice]
password = "one"
"#;

fn config(text: &str) -> Config {
    Config::parse(text, Path::new("/"), &|_| None).unwrap_or_else(|error| panic!("{text}\n{error}"))
}

fn changes(old: &str, new: &str) -> Changes {
    config(new).replacing(&config(old)).1
}

#[test]
fn the_same_file_changes_nothing() {
    let commented = format!("# a comment\n{BASE}");
    assert!(changes(BASE, &commented).is_empty());
}

#[test]
fn what_needs_a_restart_keeps_its_running_value() {
    let running = config(BASE);
    let loaded = config(&format!(
        "[pgweir]\nlisten_port = 7000\nmax_client_conn = 5\n{BASE}"
    ));
    let (next, changes) = loaded.replacing(&running);
    assert_eq!(next.process.listen_port, 6432);
    assert_eq!(next.process.max_client_conn, 5);
    let pending: Vec<_> = changes.pending_restart().map(|change| change.key).collect();
    assert_eq!(pending, ["listen_port"]);
    assert_eq!(
        changes.describe(),
        [
            "listen_port: \"6432\" becomes \"7000\" after a restart",
            "max_client_conn: \"10000\" becomes \"5\"",
        ]
    );
}

#[test]
fn each_database_and_user_is_told_by_what_it_needs() {
    let changed = |login, servers, settings| DatabaseChange::Changed {
        login,
        servers,
        settings,
    };
    let edits = [
        ("host = \"a\"", "host = \"z\"", changed(false, true, false)),
        (
            "host = \"b\" }]",
            "host = \"b\" }]\ndbname = \"x\"",
            changed(true, false, false),
        ),
        (
            "host = \"b\" }]",
            "host = \"b\" }]\npool_size = 3",
            changed(false, false, true),
        ),
        (
            "host = \"b\" }]",
            "host = \"b\" }]\nauth_user = \"x\"",
            changed(false, false, true),
        ),
        (
            "[databases.other]",
            "[databases.new]",
            DatabaseChange::Added,
        ),
        (
            "[databases.other]",
            "[databases.new]",
            DatabaseChange::Removed,
        ),
    ];
    for (from, to, want) in edits {
        let found = changes(BASE, &BASE.replace(from, to));
        assert!(
            found.databases.values().any(|change| *change == want),
            "{to}: {found:?}"
        );
        assert!(
            found.users.is_empty() && found.settings.is_empty(),
            "{to}: {found:?}"
        );
    }
    let found = changes(BASE, &BASE.replace("one", "two"));
    let passwords = UserChange::Changed {
        passwords: true,
        settings: false,
    };
    assert_eq!(found.users.get("alice"), Some(&passwords));
    assert_eq!(found.describe(), ["user alice: passwords changed"]);
    assert!(found.databases.is_empty());
}

#[test]
fn a_new_default_reaches_the_databases_that_use_it() {
    let found = changes(BASE, &format!("[pool]\nquery_timeout = 9\n{BASE}"));
    assert_eq!(found.databases.len(), 2);
    assert_eq!(found.settings.len(), 1);
}

#[test]
fn a_certificate_with_new_content_is_a_change() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    let load = |content: &str| {
        std::fs::write(&file, content).unwrap();
        let text = format!("[pgweir]\nserver_tls_ca_file = \"ca.pem\"\n{BASE}");
        Config::parse(&text, dir.path(), &|_| None).unwrap()
    };
    let running = load("one");
    let (_, same) = load("one").replacing(&running);
    assert!(same.is_empty());
    let (_, found) = load("two").replacing(&running);
    assert!(found.server_tls && !found.client_tls && found.settings.is_empty());
}

#[test]
fn set_changes_one_setting_and_checks_it_with_the_others() {
    let running = config(BASE);
    let app = |config: &Config| config.database("app").unwrap();
    let next = running.with_setting("pool_size", "7").unwrap();
    assert_eq!(next.pool(&app(&next), "alice").pool_size, 7);
    let next = running
        .with_setting("query_wait_timeout", "1500ms")
        .unwrap();
    assert_eq!(next.defaults.query_wait_timeout.unwrap().as_millis(), 1500);
    assert_eq!(running.pool(&app(&running), "alice").pool_size, 20);
    let refused = [
        ("listen_port", "1", "restart only"),
        (
            "query_wait_timout",
            "1",
            "did you mean `query_wait_timeout`?",
        ),
        ("pool_mode", "often", "cannot be \"often\""),
        ("min_pool_size", "30", "more than the 20"),
        ("auth_file", "${HOME}", "HOME"),
        ("client_tls_sslmode", "require", "needs client_tls_key_file"),
    ];
    for (key, value, want) in refused {
        let error = running.with_setting(key, value).unwrap_err().to_string();
        assert!(error.contains(want), "{key}: {error}");
    }
}
