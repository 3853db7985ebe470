use std::time::Duration;

use super::*;
use crate::config::{Host, Role, SslMode};

fn import(files: &[(&str, &str)]) -> (Imported, Config) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let imported = import_pgbouncer(&dir.path().join("pgbouncer.ini")).unwrap();
    let config = Config::parse(&imported.toml, dir.path(), &|_| None);
    let config = config.unwrap_or_else(|error| panic!("{}\n{error}", imported.toml));
    (imported, config)
}

const INI: &str = r#"
;; a usual file
[databases]
app = host=10.0.0.1 port=5433 dbname=app_prod pool_size=7 user=app password='it''s ${x}' connect_query='SELECT 1'
local =
"we""ird" = host=h pool_mode=session reserve_pool=3
* = host=fallback.example
[users]
alice = pool_mode=session max_user_connections=5 query_timeout=9
[peers]
2 = host=10.0.1.2 port=6433 pool_size=3
[pgbouncer]
peer_id = 1
%include pool.ini
listen_addr = *
listen_port = 6433
unix_socket_dir =
auth_type = scram-sha-256
auth_file = userlist.txt
admin_users = root, admin
logfile = /var/log/pgbouncer.log
ignore_startup_parameters = extra_float_digits, search_path
server_check_query = <empty>
server_tls_sslmode = require
server_tls_protocols = tlsv1.1,tlsv1.2
tcp_user_timeout = 30000
log_connections = 0
so_reuseport = yes
"#;

const POOL_INI: &str = "pool_mode = transaction\ndefault_pool_size = 15\nquery_wait_timeout = 30\nserver_lifetime = 0\n";

const USERLIST: &str = r#""alice" "md5d41d8cd98f00b204e9800998ecf8427e"
"b""o" "p$${w"
"#;

fn installation() -> (Imported, Config) {
    import(&[
        ("pgbouncer.ini", INI),
        ("pool.ini", POOL_INI),
        ("userlist.txt", USERLIST),
    ])
}

#[test]
fn the_process_comes_over() {
    let (_, config) = installation();
    let process = &config.process;
    assert_eq!(
        (process.listen_addr.as_slice(), process.listen_port),
        (&["*".to_owned()][..], 6433)
    );
    assert_eq!(process.unix_socket_dir, None);
    assert_eq!(process.admin_users, ["root", "admin"]);
    assert_eq!(process.tcp_user_timeout, Some(Duration::from_secs(30)));
    assert_eq!(process.server_tls.sslmode, SslMode::Require);
    assert!(!process.log_connections && process.so_reuseport);
    assert!(process.server_tls.protocols.v1_2 && !process.server_tls.protocols.v1_3);
    assert_eq!(process.max_client_conn, 100, "PgBouncer's default");
    assert_eq!(config.peers().next().unwrap().port, 6433);
}

#[test]
fn the_pools_come_over() {
    let (_, config) = installation();
    assert_eq!(config.defaults.pool_size, 15);
    assert_eq!(
        config.defaults.query_wait_timeout,
        Some(Duration::from_secs(30))
    );
    assert_eq!(config.defaults.server_lifetime, Duration::ZERO);
    assert_eq!(config.defaults.server_check_query.as_deref(), Some(";"));
    assert_eq!(
        config.defaults.ignore_startup_parameters,
        ["extra_float_digits", "search_path"]
    );
}

#[test]
fn the_databases_come_over() {
    let (_, config) = installation();
    let app = config.database("app").unwrap();
    assert_eq!(app.servers[0].to_string(), "10.0.0.1:5433");
    assert_eq!(app.server_dbname(), "app_prod");
    assert_eq!(app.password.as_ref().unwrap().expose(), "it's ${x}");
    assert_eq!(
        (app.settings.pool_size, app.connect_query.as_deref()),
        (7, Some("SELECT 1"))
    );
    assert_eq!(
        config.database("local").unwrap().servers[0].host,
        Host::Unix("/tmp".into())
    );
    let weird = config.database("we\"ird").unwrap().settings.clone();
    assert_eq!(
        (weird.pool_mode, weird.reserve_pool_size),
        (PoolMode::Session, 3)
    );
    assert_eq!(config.database("any").unwrap().servers[0].role, Role::Auto);
}

#[test]
fn the_users_come_over_with_their_passwords() {
    let (imported, config) = installation();
    let alice = config.user("alice").unwrap();
    assert_eq!(
        alice.passwords[0].expose(),
        "md5d41d8cd98f00b204e9800998ecf8427e"
    );
    assert_eq!(alice.overrides.max_user_connections, Some(Some(5)));
    assert_eq!(config.user("b\"o").unwrap().passwords[0].expose(), "p$${w");
    let told = imported.warnings.join("\n");
    for what in [
        "logfile has no equivalent",
        "tlsv1.1 of server_tls_protocols",
        "pool_size of a peer",
    ] {
        assert!(told.contains(what), "{what} not in\n{told}");
    }
    assert!(!told.contains("it's"), "{told}");
}

#[test]
fn what_the_file_leaves_out_stays_as_in_pgbouncer() {
    let (imported, config) = import(&[("pgbouncer.ini", "[databases]\na = host=h\n")]);
    assert_eq!(config.process.listen_addr, [""; 0]);
    assert_eq!(
        config.process.unix_socket_dir.as_deref(),
        Some(Path::new("/tmp"))
    );
    assert_eq!(config.process.auth_type, AuthType::Md5);
    assert_eq!(config.defaults.pool_mode, PoolMode::Session);
    assert_eq!(
        imported.warnings.len(),
        1,
        "/tmp is open to all: {:?}",
        imported.warnings
    );
}

#[test]
fn what_has_no_equivalent_is_told() {
    let ini = "[databases]\npgbouncer = host=h\na = host=h,i timezone=UTC nonsense=1\nb = host\n\
               [pgbouncer]\nauth_type = pam\nno_such_key = 1\nauth_file = gone.txt\nworkers = 3\n\
               suspend_timeout = 10\nmax_prepared_statements = 0\n[x]\ny=z=1\n";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pgbouncer.ini");
    fs::write(&path, ini).unwrap();
    let told = import_pgbouncer(&path).unwrap().warnings.join("\n");
    let wanted = [
        ":2: pgbouncer is the name of the console",
        ":3: timezone of a database has no equivalent",
        ":3: nonsense has no equivalent",
        ":3: a has several hosts",
        ":4: b is no list",
        ":6: pam is an auth_type without an equivalent",
        ":7: no_such_key is no setting",
        "gone.txt could not be read",
        ":9: workers is no setting",
        ":10: suspend_timeout has no equivalent: there is no SUSPEND",
        ":11: max_prepared_statements = 0 has no equivalent",
        ":13: x is a section",
        "the result needs your hand: ",
    ];
    for want in wanted {
        assert!(told.contains(want), "{want} not in\n{told}");
    }
    assert!(!told.contains("must be at least"), "{told}");
}
