//! The cluster, the pooler before it, and what happens to them while the cast is at work.

use std::{
    sync::{Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use ::pgweir::sandbox::{Cluster, Node, StopMode};

use crate::{
    check::Ledger,
    script::{DATABASES, cast, schema},
    session::play,
    support::{self, Pgweir, PgweirBuilder, dice::Dice, raw::Raw, servers},
    world::{World, lock},
};

/// One stage at a time: several would only wait for each other.
static TURN: Mutex<()> = Mutex::new(());

pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    pub(crate) pooler: Pgweir,
    pub(crate) world: World,
    _turn: MutexGuard<'static, ()>,
}

impl Stage {
    /// A primary and two replicas that replay at once. A pooler that keeps its promises, unless it is
    /// told not to; then nobody asks it to either.
    pub(crate) fn new(is_honest: bool) -> Self {
        let turn = lock(&TURN);
        let cluster = support::start(Cluster::builder(support::binaries()).replicas(2));
        let cast = cast();
        let keys = crate::script::SHARED_KEYS + cast.len();
        cluster.primary().psql(&schema(keys)).unwrap();
        servers::name_servers(&cluster);
        let pooler = pooler(&cluster, is_honest).start();
        let primary = ([127, 0, 0, 1], cluster.primary().port()).into();
        let world = World::new(pooler.address(), primary, cast, is_honest);
        let stage = Self {
            cluster,
            pooler,
            world,
            _turn: turn,
        };
        for (database, _) in DATABASES {
            servers::await_service(stage.pooler.address(), database);
        }
        stage
    }

    /// Runs `events` while the cast plays.
    pub(crate) fn perform(&self, seed: u64, events: impl FnOnce()) {
        thread::scope(|scope| {
            for slot in 0..self.world.cast.len() {
                let mut dice = Dice::new(seed, slot as u64);
                scope.spawn(move || play(&self.world, slot, &mut dice));
            }
            let ends = Ends(&self.world);
            events();
            drop(ends);
        });
    }

    /// What the ledger of this server says.
    pub(crate) fn ledger(node: &Node) -> Ledger {
        let sql = "SELECT session, number, count(*) FROM ledger GROUP BY 1, 2";
        let found = node.psql(sql).unwrap();
        let lines = found.lines().map(|line| {
            let numbers = line
                .split('|')
                .map(|number| number.parse().expect("a number"));
            let numbers: Vec<usize> = numbers.collect();
            let short = |number: usize| u32::try_from(number).expect("few writes");
            ((numbers[0], short(numbers[1])), short(numbers[2]))
        });
        lines.collect()
    }

    pub(crate) fn delay_replay(&self, delays: [u64; 2]) {
        for (replica, delay) in self.cluster.replicas().iter().zip(delays) {
            let delay = Duration::from_millis(delay);
            replica.set_replay_delay(delay).unwrap();
        }
    }

    /// The primary hands over to the first replica, in good order: all that it has acknowledged is there.
    pub(crate) fn switch_over(&self) {
        self.world.send_direct_writers_away();
        self.cluster.primary().stop(StopMode::Fast).unwrap();
        self.promote(0);
    }

    /// The primary dies, and the replica that has got more of it takes over.
    pub(crate) fn fail_over(&self) -> usize {
        self.world.send_direct_writers_away();
        let from = self.world.begin_crash();
        self.cluster.primary().kill9().unwrap();
        let received = self.cluster.replicas().iter().map(|replica| {
            let is_alone =
                "NOT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')";
            replica.wait_until(is_alone).unwrap();
            let is_replayed = "pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn()";
            replica.wait_until(is_replayed).unwrap();
            let position = "SELECT pg_last_wal_replay_lsn() - '0/0'";
            replica.psql(position).unwrap().parse::<u64>().unwrap()
        });
        let received: Vec<u64> = received.collect();
        let better = usize::from(received[1] > received[0]);
        let values = Self::values(self.cluster.replica(better));
        self.world.end_crash(from, values, false);
        self.promote(better);
        better
    }

    fn promote(&self, index: usize) {
        let promoted = self.cluster.replica(index);
        self.world.promote(index + 1);
        promoted.promote().unwrap();
        // Of what was decided on the old primary, and not received, the locks would stay for ever. Who has yet to
        // decide is told that there is nothing.
        let left = promoted.psql("SELECT gid FROM pg_prepared_xacts").unwrap();
        for gid in left.lines() {
            let undone = promoted.psql(&format!("ROLLBACK PREPARED '{gid}'"));
            if let Err(error) = undone {
                assert!(error.to_string().contains("does not exist"), "{error}");
            }
        }
        self.cluster.replica(1 - index).follow(promoted).unwrap();
    }

    /// The primary dies and comes back. Nobody writes before it was looked at.
    pub(crate) fn crash_and_recover(&self) {
        self.world.send_direct_writers_away();
        let from = self.world.begin_crash();
        let mut console = Raw::connect(self.pooler.address(), "pgbouncer");
        self.cluster.primary().kill9().unwrap();
        console.run("PAUSE");
        self.cluster.primary().start().unwrap();
        let values = Self::values(self.cluster.primary());
        self.world.end_crash(from, values, true);
        console.run("RESUME");
    }

    fn values(node: &Node) -> Box<[u32]> {
        let values = node
            .psql("SELECT value FROM registers ORDER BY key")
            .unwrap();
        let values = values.lines().map(|line| line.parse().expect("a number"));
        values.collect()
    }

    /// Until the pooler lets a write through.
    pub(crate) fn await_writes(&self) {
        servers::await_writes(self.pooler.address(), DATABASES[0].0);
    }
}

/// Ends the play, also when its events have panicked.
struct Ends<'a>(&'a World);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn pooler(cluster: &Cluster, is_honest: bool) -> PgweirBuilder {
    let mut builder = PgweirBuilder::without_servers()
        .pool_size(5)
        .pool("slow_start", "0")
        .pool("health_check_interval", "\"200ms\"");
    let servers: Vec<_> = cluster
        .nodes()
        .iter()
        .map(|node| {
            format!(
                "  {{ host = \"127.0.0.1\", port = {}, role = \"auto\" }},",
                node.port()
            )
        })
        .collect();
    for (name, settings) in DATABASES {
        let settings = if is_honest {
            settings
        } else {
            "consistency = \"eventual\""
        };
        builder = builder.extra(&format!(
            "[databases.{name}]\ndbname = \"postgres\"\nservers = [\n{}\n]\n{settings}",
            servers.join("\n")
        ));
    }
    builder
}

/// Lets the cast play for this time.
pub(crate) fn load(time: Duration) {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        thread::sleep(left.max(Duration::from_millis(1)));
    }
}
