//! The throw-away cluster itself, against real PostgreSQL: what the other tests stand on.

mod support;

use std::{fs, path::Path, process::Command, time::Duration};

use pgweir::{
    config::Config,
    sandbox::{Cluster, ClusterBuilder, SandboxError, StopMode},
};

fn builder() -> ClusterBuilder {
    Cluster::builder(support::binaries()).cached_template()
}

fn alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn replicas_stream_and_nothing_is_left_behind() {
    let cluster = builder().replicas(2).start().unwrap();
    let primary = cluster.primary();
    primary
        .psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS id")
        .unwrap();
    for replica in cluster.replicas() {
        replica.wait_caught_up(primary).unwrap();
        assert_eq!(replica.psql("SELECT count(*) FROM t").unwrap(), "1000");
        assert_eq!(replica.psql("SELECT pg_is_in_recovery()").unwrap(), "t");
    }
    let pids: Vec<u32> = cluster.nodes().iter().filter_map(|n| n.pid()).collect();
    assert_eq!(pids.len(), 3);
    let dir = cluster.dir().to_owned();
    drop(cluster);
    assert!(pids.iter().all(|pid| !alive(*pid)), "a server is left");
    assert!(!dir.exists(), "{} is left", dir.display());
}

#[test]
fn replay_can_be_delayed_and_paused() {
    let cluster = builder()
        .replicas(1)
        .replay_delay(Duration::from_secs(3600))
        .start()
        .unwrap();
    let (primary, replica) = (cluster.primary(), cluster.replica(0));
    let seen = || replica.psql("SELECT to_regclass('t') IS NOT NULL").unwrap();

    primary.psql("CREATE TABLE t ()").unwrap();
    let lsn = primary.psql("SELECT pg_current_wal_flush_lsn()").unwrap();
    let received = format!("pg_last_wal_receive_lsn() >= '{lsn}'");
    replica.wait_until(&received).unwrap();
    assert_eq!(seen(), "f", "the delay does not delay");

    replica.set_replay_delay(Duration::ZERO).unwrap();
    replica.wait_caught_up(primary).unwrap();
    assert_eq!(seen(), "t");

    replica.pause_replay().unwrap();
    primary.psql("DROP TABLE t").unwrap();
    let lsn = primary.psql("SELECT pg_current_wal_flush_lsn()").unwrap();
    let received = format!("pg_last_wal_receive_lsn() >= '{lsn}'");
    replica.wait_until(&received).unwrap();
    assert_eq!(seen(), "t", "the pause does not pause");

    replica.resume_replay().unwrap();
    replica.wait_caught_up(primary).unwrap();
    assert_eq!(seen(), "f");
}

#[test]
fn a_node_survives_stop_kill_and_crash_on_the_same_port() {
    let cluster = builder().start().unwrap();
    let node = cluster.primary();
    node.psql("CREATE TABLE t AS SELECT 1 AS id").unwrap();
    let port = node.port();

    for mode in [StopMode::Smart, StopMode::Fast, StopMode::Immediate] {
        node.stop(mode).unwrap();
        assert_eq!(node.pid(), None);
        assert!(node.psql("SELECT 1").is_err(), "{mode:?} did not stop it");
        node.start().unwrap();
    }
    node.kill9().unwrap();
    node.start().unwrap();
    assert_eq!(node.psql("SELECT id FROM t").unwrap(), "1");
    assert_eq!(node.port(), port);
}

#[test]
fn a_killed_backend_disconnects_everybody() {
    let cluster = builder().start().unwrap();
    let node = cluster.primary();
    std::thread::scope(|scope| {
        let victim = scope.spawn(|| node.psql("SELECT pg_sleep(60)"));
        let query = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%sleep(60)' \
                     AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
        node.wait_until(&format!("EXISTS ({query})")).unwrap();
        let pid = node.psql(query).unwrap().parse().unwrap();
        let mark = node.log().mark();
        node.kill_backend(pid).unwrap();
        let error = victim.join().unwrap().unwrap_err().to_string();
        assert!(error.contains("server closed the connection"), "{error}");
        let ready = node.log().wait_for(mark, Duration::from_secs(60), |l| {
            l.contains("ready to accept")
        });
        assert!(format!("{ready:?}").starts_with("Line"), "{ready:?}");
    });
    assert_eq!(node.psql("SELECT 1").unwrap(), "1");
}

#[test]
fn promotion_and_following() {
    let mut cluster = builder().replicas(2).start().unwrap();
    cluster.primary().psql("CREATE TABLE t (id int)").unwrap();
    cluster
        .replica(0)
        .wait_caught_up(cluster.primary())
        .unwrap();
    cluster.primary().stop(StopMode::Fast).unwrap();
    let (new, other) = (cluster.replica(0), cluster.replica(1));
    new.promote().unwrap();
    new.psql("INSERT INTO t VALUES (1)").unwrap();
    other.follow(new).unwrap();
    other.wait_caught_up(new).unwrap();
    assert_eq!(other.psql("SELECT id FROM t").unwrap(), "1");

    cluster.add_replica(1).unwrap();
    let late = cluster.replica(2);
    late.wait_caught_up(cluster.replica(0)).unwrap();
    assert_eq!(late.psql("SELECT id FROM t").unwrap(), "1");
}

#[test]
fn authentication_rules_are_obeyed() {
    let cluster = builder()
        .hba("host all all 127.0.0.1/32 scram-sha-256")
        .start()
        .unwrap();
    let node = cluster.primary();
    node.psql("CREATE ROLE alice LOGIN PASSWORD 'secret'")
        .unwrap();
    let login = |password: &str| {
        Command::new(cluster.binaries().client_program("psql").unwrap())
            .args(["-Xc", "SELECT 1", &node.url("alice", "postgres")])
            .env("PGPASSWORD", password)
            .output()
            .unwrap()
            .status
            .success()
    };
    assert!(login("secret"));
    assert!(!login("wrong"));
}

#[test]
fn a_server_that_cannot_start_says_why_and_leaves_nothing() {
    let error = builder().setting("shared_buffers", "nonsense").start();
    let Err(SandboxError::Ended { log, .. }) = error else {
        panic!("{error:?}");
    };
    assert!(log.contains("shared_buffers"), "{log}");
}

#[test]
fn a_failing_statement_is_an_error_with_the_servers_words() {
    let error = support::postgres()
        .primary()
        .psql("SELECT nope")
        .unwrap_err();
    assert!(
        error.to_string().contains("\"nope\" does not exist"),
        "{error}"
    );
}

#[test]
fn the_generated_configuration_is_one_that_pgweir_reads() {
    let tls = support::tls::Authority::new().server(&["127.0.0.1"]);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("crt"), tls.certificate).unwrap();
    fs::write(dir.path().join("key"), tls.key).unwrap();
    let toml = support::PgweirBuilder::without_servers()
        .server_at("127.0.0.1", 5432, "primary")
        .server_at("127.0.0.1", 5433, "replica")
        .pool_mode("transaction")
        .pool_size(3)
        .pool_size(5)
        .pgweir("client_tls_sslmode", "\"allow\"")
        .pgweir("client_tls_cert_file", "\"crt\"")
        .pgweir("client_tls_key_file", "\"key\"")
        .extra("[users.alice]\npassword = \"secret\"")
        .toml();
    let config = Config::parse(&toml, dir.path(), &|_| None);
    let config = config.unwrap_or_else(|e| panic!("{e}\n{toml}"));
    let database = config.database("anything").unwrap();
    let pool = config.pool(&database, "alice");
    assert_eq!(pool.pool_size, 5);
}

/// Not a test of its own: the child of the next one, which kills it.
#[test]
#[ignore = "run by servers_die_with_a_killed_process"]
fn child_that_hangs() {
    let cluster = builder().replicas(1).start().unwrap();
    let pids: Vec<u32> = cluster.nodes().iter().filter_map(|n| n.pid()).collect();
    let report = format!("{} {} {}", cluster.dir().display(), pids[0], pids[1]);
    let file = std::env::var_os("SANDBOX_REPORT").unwrap();
    let unfinished = Path::new(&file).with_extension("new");
    fs::write(&unfinished, report).unwrap();
    fs::rename(&unfinished, &file).unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn servers_die_with_a_killed_process() {
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "child_that_hangs"])
        .env("SANDBOX_REPORT", &report)
        .spawn()
        .unwrap();
    support::eventually("the child has started its cluster", || report.exists());
    child.kill().unwrap();
    child.wait().unwrap();

    let report = fs::read_to_string(&report).unwrap();
    let mut words = report.split(' ');
    let cluster_dir = words.next().unwrap();
    let pids: Vec<u32> = words.map(|w| w.parse().unwrap()).collect();
    assert_eq!(pids.len(), 2);
    support::eventually("servers and files are gone", || {
        pids.iter().all(|pid| !alive(*pid)) && !Path::new(cluster_dir).exists()
    });
}
