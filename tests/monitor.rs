//! The monitor of a database before a real primary and its replicas: what it finds, when it looks, and
//! that what it says is true.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test panics, and real servers keep real time"
)]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Wake, Waker},
    thread::{self, JoinHandle},
    time::Duration,
};

use pgweir::{
    config::{Config, PoolSettings, Role},
    pool::{
        Watch,
        monitor::{self, Plan},
    },
    route::{Host, HostId, HostState, Lsn, Poll, Topology},
    sandbox::{Cluster, Node, StopMode},
    server::{
        ServerLogin,
        observe::{Observer, Sight},
    },
};
use support::{eventually, login, raw::Raw};
use tokio::sync::watch;

/// Nothing is looked at but on demand.
const ON_DEMAND: &str = "health_check_interval = \"1h\"\nhealth_check_timeout = \"1h\"";
/// What happens is noticed soon.
const BRISK: &str = "health_check_interval = \"100ms\"\nslow_start = 0";

/// A cluster with a monitor of its own.
struct Stage {
    cluster: Cluster,
    watch: Arc<Watch>,
    plan: watch::Sender<Arc<Plan>>,
    thread: JoinHandle<()>,
}

fn settings(text: &str) -> Arc<PoolSettings> {
    let toml = format!(
        "[pgweir]\nauth_type = \"trust\"\n[pool]\n{text}\n[databases.d]\nservers = [{{ host = \"h\" }}]\n"
    );
    let config = Config::parse(&toml, std::path::Path::new("/"), &|_| None).unwrap();
    config.database("d").unwrap().settings.clone()
}

fn login(node: &Node, user: &str) -> Arc<ServerLogin> {
    Arc::new(login::trusted(login::unix(node, user, "postgres")))
}

impl Stage {
    /// A primary and two replicas, with these roles and settings.
    fn new(roles: [Role; 3], text: &str) -> Self {
        let builder = Cluster::builder(support::binaries()).replicas(2);
        Self::on(support::start(builder), roles, text)
    }

    fn on(cluster: Cluster, roles: [Role; 3], text: &str) -> Self {
        let hosts = cluster.nodes().iter().zip(roles);
        let hosts = hosts.map(|(node, role)| Host::new(node.name(), role, 1, None));
        let watch = Watch::new(Topology::new(hosts.collect()), Arc::default());
        let logins = cluster.nodes().iter().map(|node| login(node, "postgres"));
        let settings = settings(text);
        let (plan, plans) = watch::channel(Arc::new(Plan {
            logins: logins.collect(),
            settings,
        }));
        let watched = Arc::clone(&watch);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(monitor::run("d".into(), watched, plans));
        });
        Self {
            cluster,
            watch,
            plan,
            thread,
        }
    }

    fn configured(text: &str) -> Self {
        let stage = Self::new([Role::Primary, Role::Replica, Role::Replica], text);
        stage.settle();
        stage
    }

    /// All have been seen, and all have replayed what the first poll found.
    fn settle(&self) {
        self.await_states([HostState::Primary, HostState::Replica, HostState::Replica]);
        eventually("the first poll", || self.topology().polls.last_done() > 0);
        let target = self.newest();
        eventually("all have replayed", || {
            self.replayed(1) >= target && self.replayed(2) >= target
        });
    }

    fn topology(&self) -> &Topology {
        &self.watch.topology
    }

    fn state(&self, host: HostId) -> HostState {
        self.topology().hosts()[host].state()
    }

    fn replayed(&self, host: HostId) -> Lsn {
        self.topology().hosts()[host].replayed()
    }

    fn newest(&self) -> Lsn {
        let polls = &self.topology().polls;
        polls.position(polls.last_done()).unwrap()
    }

    fn await_states(&self, states: [HostState; 3]) {
        let now = || [0, 1, 2].map(|host| self.state(host));
        eventually(&format!("{states:?}"), || now() == states);
    }

    /// As a session that has just been answered: where the primary is at least.
    fn position(&self) -> Lsn {
        let poll = self.topology().polls.next();
        self.await_position(poll)
    }

    fn await_position(&self, poll: Poll) -> Lsn {
        self.watch.want(poll);
        let found = || self.topology().position(poll);
        eventually("a position", || found().is_some());
        found().unwrap()
    }

    fn write(&self) {
        let sql = "CREATE TABLE IF NOT EXISTS t (id int); INSERT INTO t VALUES (1)";
        self.cluster.primary().psql(sql).unwrap();
    }

    /// The process on `node` that serves the monitor.
    fn backend(node: &Node) -> u32 {
        let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgweir monitor' \
                   AND query NOT LIKE '%pg_depend%' ORDER BY backend_start LIMIT 1";
        node.psql(sql).unwrap().parse().unwrap()
    }

    fn stop(self) -> Cluster {
        drop(self.plan);
        self.thread.join().unwrap();
        self.cluster
    }
}

#[test]
fn positions_are_asked_for_on_demand_only() {
    let stage = Stage::configured(ON_DEMAND);
    let polls = &stage.topology().polls;
    let first = polls.next();
    let before = stage.newest();
    (0..5).for_each(|_| stage.write());
    assert_eq!(polls.next(), first, "nobody has asked");

    let position = stage.position();
    assert!(position > before, "{position} is no later than {before}");
    eventually("the replicas have replayed", || {
        stage.replayed(1) >= position && stage.replayed(2) >= position
    });
    let next = polls.next();
    assert_eq!(next, first + 1, "one poll is enough for one who asks");
    (0..5).for_each(|_| stage.write());
    assert_eq!(polls.next(), next, "nobody has asked again");
    stage.stop();
}

#[test]
fn a_wait_ends_where_the_wal_ends_with_its_page() {
    let stage = Stage::configured(ON_DEMAND);
    let primary = stage.cluster.primary();
    let insert = || {
        primary
            .psql("SELECT pg_current_wal_insert_lsn() - '0/0'")
            .unwrap()
    };
    let mut is_tried = false;
    while !is_tried {
        stage.write();
        primary.psql("SELECT pg_switch_wal()").unwrap();
        let before: u64 = insert().parse().unwrap();
        let position = stage.position();
        // Nothing but silence proves that the wait ends by itself.
        if insert().parse() == Ok(before) && before % 8192 == 40 {
            assert_eq!(position.0, before - 40);
            eventually("the replicas are there", || {
                stage.replayed(1) >= position && stage.replayed(2) >= position
            });
            is_tried = insert().parse() == Ok(before);
        }
    }
    stage.stop();
}

#[test]
fn a_paused_replica_falls_behind_alone() {
    let stage = Stage::configured(&format!("{ON_DEMAND}\nmax_lag_bytes = \"1MB\""));
    let paused = stage.cluster.replica(0);
    paused.pause_replay().unwrap();
    stage.write();
    let position = stage.position();
    eventually("the other one has replayed", || {
        stage.replayed(2) >= position
    });
    assert!(stage.replayed(1) < position);

    let primary = stage.cluster.primary();
    let much = "INSERT INTO t SELECT generate_series(1, 100000)";
    primary.psql(much).unwrap();
    let position = stage.position();
    stage.await_states([HostState::Primary, HostState::Lagging, HostState::Replica]);
    let (bytes, _) = stage.topology().hosts()[1].lag();
    assert!(bytes > 1 << 20, "{bytes}");

    paused.resume_replay().unwrap();
    stage.await_states([HostState::Primary, HostState::Replica, HostState::Replica]);
    eventually("it has replayed all", || stage.replayed(1) >= position);
    assert_eq!(stage.topology().hosts()[1].lag(), (0, 0));
    stage.stop();
}

#[test]
fn a_replica_that_has_not_replayed_for_long_lags() {
    let text = "health_check_interval = \"50ms\"\nmax_lag = \"300ms\"";
    let stage = Stage::configured(text);
    // Nothing is written, so nothing is old.
    stage.cluster.replica(1).pause_replay().unwrap();
    stage.cluster.replica(0).pause_replay().unwrap();
    stage.cluster.replica(0).resume_replay().unwrap();
    assert_ne!(stage.state(2), HostState::Lagging);
    stage.write();
    stage.await_states([HostState::Primary, HostState::Replica, HostState::Lagging]);
    let (_, micros) = stage.topology().hosts()[2].lag();
    assert!(micros > 300_000, "{micros}");
    stage.cluster.replica(1).resume_replay().unwrap();
    stage.await_states([HostState::Primary, HostState::Replica, HostState::Replica]);
    stage.stop();
}

#[test]
fn a_replica_that_dies_is_down_and_comes_back() {
    let stage = Stage::configured(ON_DEMAND);
    let replica = stage.cluster.replica(0);
    let host = &stage.topology().hosts()[1];
    let incarnation = host.incarnation();
    // Not at the next look, which is in an hour.
    replica.kill9().unwrap();
    stage.await_states([HostState::Primary, HostState::Down, HostState::Replica]);
    assert!(host.incarnation() > incarnation);
    assert_eq!(host.replayed(), Lsn(0));

    stage.write();
    let position = stage.position();
    eventually("the other one goes on", || stage.replayed(2) >= position);

    replica.start().unwrap();
    stage.await_states([HostState::Primary, HostState::Replica, HostState::Replica]);
    assert!(host.share() < 1000, "its caches are cold");
    eventually("it has replayed", || stage.replayed(1) >= position);
    stage.stop();
}

#[test]
fn a_promoted_replica_takes_over_and_the_old_primary_is_fenced() {
    let stage = Stage::new([Role::Auto; 3], BRISK);
    stage.settle();
    let topology = stage.topology();
    assert_eq!(topology.primary(), Some(0));
    let (history, old) = (topology.history().unwrap(), topology.polls.last_done());
    stage.write();
    stage.position();

    stage.cluster.primary().kill9().unwrap();
    eventually("nobody takes writes", || topology.primary().is_none());
    stage.await_states([HostState::Down, HostState::Replica, HostState::Replica]);

    let promoted = stage.cluster.replica(0);
    promoted.promote().unwrap();
    eventually("the new primary", || topology.primary() == Some(1));
    let new = topology.history().unwrap();
    assert_eq!(
        (new.system, new.timeline),
        (history.system, history.timeline + 1)
    );
    // Still on the old timeline.
    stage.await_states([HostState::Down, HostState::Primary, HostState::Foreign]);
    promoted.psql("INSERT INTO t VALUES (2)").unwrap();
    let position = stage.position();
    assert_eq!(
        stage.await_position(old),
        stage.await_position(topology.polls.last_done().min(1)),
        "what was found before the promotion counts no more"
    );
    stage.cluster.replica(1).follow(promoted).unwrap();
    stage.await_states([HostState::Down, HostState::Primary, HostState::Replica]);
    eventually("it follows", || stage.replayed(2) >= position);

    stage.cluster.primary().start().unwrap();
    stage.await_states([HostState::Fenced, HostState::Primary, HostState::Replica]);
    assert_eq!(topology.primary(), Some(1));
    // Not even when it is alone.
    promoted.kill9().unwrap();
    eventually("nobody takes writes", || topology.primary().is_none());
    stage.await_states([HostState::Fenced, HostState::Down, HostState::Replica]);
    stage.stop();
}

#[test]
fn a_configured_primary_is_asked_even_when_it_is_down() {
    let stage = Stage::configured(BRISK);
    let topology = stage.topology();
    let old = topology.history().unwrap();
    let primary = stage.cluster.primary();
    primary.stop(StopMode::Immediate).unwrap();
    stage.await_states([HostState::Down, HostState::Replica, HostState::Replica]);
    assert_eq!(topology.primary(), Some(0));
    primary.start().unwrap();
    stage.await_states([HostState::Primary, HostState::Replica, HostState::Replica]);
    eventually("another history", || {
        topology.history().unwrap().started > old.started
    });
    stage.write();
    let position = stage.position();
    eventually("all go on", || {
        stage.replayed(1) >= position && stage.replayed(2) >= position
    });
    stage.stop();
}

#[test]
fn a_write_is_found_on_every_replica_that_is_said_to_have_it() {
    let builder = Cluster::builder(support::binaries())
        .replicas(2)
        .setting("wal_writer_delay", "10ms");
    let roles = [Role::Primary, Role::Replica, Role::Replica];
    let stage = Stage::on(support::start(builder), roles, ON_DEMAND);
    stage.settle();
    let address = |node: &Node| ([127, 0, 0, 1], node.port()).into();
    let [mut primary, mut one, mut other] =
        [0, 1, 2].map(|host| Raw::connect(address(&stage.cluster.nodes()[host]), "postgres"));
    primary.run("CREATE TABLE rounds (id int)");
    let mut id = 0;
    for commit in ["on", "off"] {
        primary.run(&format!("SET synchronous_commit = {commit}"));
        for _ in 0..300 {
            id += 1;
            primary.run(&format!("INSERT INTO rounds VALUES ({id})"));
            let poll = stage.topology().polls.next();
            stage.watch.want(poll);
            let mut left = vec![(1, &mut one), (2, &mut other)];
            while !left.is_empty() {
                let position = stage.topology().position(poll);
                left.retain_mut(|(host, client)| {
                    let is_there = position.is_some_and(|at| stage.replayed(*host) >= at);
                    if is_there {
                        let seen = client.value("SELECT max(id) FROM rounds");
                        assert_eq!(seen, id.to_string(), "synchronous_commit = {commit}");
                    }
                    !is_there
                });
                thread::yield_now();
            }
        }
    }
    stage.stop();
}

#[test]
fn a_hanging_replica_delays_nobody_and_is_down_in_the_end() {
    let text = "health_check_interval = \"1h\"\nhealth_check_timeout = \"2s\"";
    let stage = Stage::configured(text);
    let replica = stage.cluster.replica(0);
    let backend = Stage::backend(replica);
    replica.signal("STOP", backend).unwrap();
    stage.write();
    let position = stage.position();
    eventually("the other one goes on", || stage.replayed(2) >= position);
    for _ in 0..5 {
        stage.position();
    }
    assert!(stage.replayed(1) < position);
    // Another connection is answered at once.
    eventually("a new connection", || stage.replayed(1) >= position);
    assert_ne!(Stage::backend(replica), 0);
    replica.signal("CONT", backend).unwrap();
    stage.stop();
}

/// Counts how often it is woken.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn who_waits_is_woken_though_the_primary_hangs() {
    let stage = Stage::configured(ON_DEMAND);
    let primary = stage.cluster.primary();
    let backend = Stage::backend(primary);
    primary.signal("STOP", backend).unwrap();
    stage.watch.want(stage.topology().polls.next());
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    for time in 1..5 {
        stage.watch.wait(&waker);
        eventually("a wake-up", || count.0.load(Ordering::SeqCst) >= time);
    }
    primary.signal("CONT", backend).unwrap();
    stage.stop();
}

#[test]
fn a_replica_that_keeps_failing_is_left_out_for_a_time() {
    let text =
        format!("{BRISK}\nejection_time = \"3s\"\nejection_failures = 3").replace("100ms", "30s");
    let stage = Stage::configured(&text);
    let replica = stage.cluster.replica(1);
    for _ in 0..3 {
        eventually("it is back", || stage.state(2) == HostState::Replica);
        let before = stage.topology().hosts()[2].incarnation();
        let backend = Stage::backend(replica);
        replica
            .psql(&format!("SELECT pg_terminate_backend({backend})"))
            .unwrap();
        eventually("the loss is noticed", || {
            stage.topology().hosts()[2].incarnation() > before
        });
    }
    eventually("it is left out", || stage.state(2) == HostState::Ejected);
    eventually("it may try again", || stage.state(2) == HostState::Replica);
    stage.stop();
}

#[test]
fn the_last_replica_is_not_left_out_where_the_primary_serves_no_reads() {
    let text = "health_check_interval = \"30s\"\nejection_failures = 1\nejection_time = \"1h\"\n\
                primary_reads = \"never\"\nslow_start = 0";
    let stage = Stage::configured(text);
    stage.watch.doubt(1);
    eventually("it is left out", || stage.state(1) == HostState::Ejected);
    stage.watch.doubt(2);
    // The one that is left out for the shorter time, both being bad.
    stage.await_states([HostState::Primary, HostState::Replica, HostState::Ejected]);
    stage.stop();
}

#[test]
fn a_doubted_replica_is_looked_at_before_it_serves() {
    let stage = Stage::configured(ON_DEMAND);
    let host = &stage.topology().hosts()[1];
    let incarnation = host.incarnation();
    stage.watch.doubt(1);
    eventually("it is looked at", || {
        host.state() == HostState::Replica && host.replayed() >= stage.newest()
    });
    assert_eq!(host.incarnation(), incarnation + 1);
    stage.stop();
}

#[test]
fn a_replica_that_takes_writes_is_fenced() {
    let stage = Stage::configured(BRISK);
    stage.cluster.replica(0).promote().unwrap();
    stage.await_states([HostState::Primary, HostState::Fenced, HostState::Replica]);
    assert_eq!(stage.topology().primary(), Some(0));
    stage.stop();
}

#[test]
fn the_catalogue_is_read_again_after_the_schema_was_changed() {
    let stage = Stage::configured(ON_DEMAND);
    eventually("the catalogue", || stage.watch.world().is_some());
    let first = stage.watch.generation();
    let primary = stage.cluster.primary();
    primary
        .psql("CREATE FUNCTION f() RETURNS int LANGUAGE sql VOLATILE AS 'SELECT 1'")
        .unwrap();
    assert_eq!(stage.watch.generation(), first);
    stage.watch.on_schema_change();
    eventually("the new catalogue", || stage.watch.generation() > first);
    stage.stop();
}

#[test]
fn a_reload_counts_at_once_and_the_end_leaves_nothing_behind() {
    let stage = Stage::configured(ON_DEMAND);
    stage.cluster.replica(0).pause_replay().unwrap();
    stage.write();
    stage.position();
    let text = format!("{ON_DEMAND}\nmax_lag_bytes = 1");
    let logins = stage.plan.borrow().logins.clone();
    let settings = settings(&text);
    stage
        .plan
        .send(Arc::new(Plan { logins, settings }))
        .unwrap();
    stage.await_states([HostState::Primary, HostState::Lagging, HostState::Replica]);
    let cluster = stage.stop();
    for node in cluster.nodes() {
        node.wait_until(
            "NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'pgweir monitor')",
        )
        .unwrap();
    }
}

#[test]
fn an_ordinary_user_sees_everything() {
    let cluster = support::replicated_postgres();
    let (primary, replica) = (cluster.primary(), cluster.replica(0));
    primary.psql("CREATE ROLE nobody LOGIN").unwrap();
    replica.wait_caught_up(primary).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let look = |node: &Node| -> Sight {
        let login = login(node, "nobody");
        let (mut observer, sight) = runtime.block_on(Observer::open(&login)).unwrap();
        let position = runtime.block_on(observer.position()).unwrap();
        assert!(position.lsn >= sight.position.lsn, "{position:?} {sight:?}");
        assert_eq!(position.in_recovery, sight.identity.in_recovery);
        sight
    };
    let (first, second) = (look(primary), look(replica));
    assert_eq!(first.identity.timeline, Some(1));
    assert_eq!(second.identity.timeline, Some(1));
    assert!(first.identity.system.is_some());
    assert_eq!(first.identity.system, second.identity.system);
    assert!(!first.identity.in_recovery && second.identity.in_recovery);
    assert_eq!(
        (first.identity.wal_page, first.identity.wal_page),
        (8192, 8192)
    );
    assert_eq!(first.identity.version / 10000, cluster.binaries().version);
    let since_1970 = "SELECT (extract(epoch FROM pg_postmaster_start_time() - '2000-01-01 00:00:00+00') * 1000000)::bigint";
    assert_eq!(
        primary.psql(since_1970).unwrap(),
        first.identity.started.to_string()
    );
    assert_eq!(first.delay, None);
    assert_eq!(second.delay, Some(Duration::ZERO));
}
