//! A pooler with two servers, and somebody who decides which of them a client gets.
//!
//! Two connections take turns in holding the server that is not to be given out, so that a client can
//! be moved from one server to the other between any two of its transactions.

use std::sync::atomic::{AtomicU32, Ordering};

use ::pgweir::sandbox::Node;

use super::{Pgweir, PgweirBuilder, postgres, raw::Raw};

/// A pooler with two servers, in transaction mode, before a database of its own.
pub struct Seats {
    pub pooler: Pgweir,
    /// The database that the pooler's clients use.
    pub database: String,
    holders: [Raw; 2],
    /// The server that each holder takes in turn.
    pids: [u32; 2],
    free: usize,
}

/// A new database in the shared cluster.
pub fn database() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("it_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let sql = format!("CREATE DATABASE {name}");
    postgres()
        .primary()
        .psql(&sql)
        .expect("postgres may do this");
    name
}

impl Seats {
    pub fn new() -> Self {
        Self::with(|builder| builder)
    }

    /// With more settings.
    pub fn with(configure: impl FnOnce(PgweirBuilder) -> PgweirBuilder) -> Self {
        Self::before(database(), configure)
    }

    /// The same database behind a new pooler: for when one of the servers was replaced.
    pub fn again(self) -> Self {
        Self::before(self.database, |builder| builder)
    }

    fn before(database: String, configure: impl FnOnce(PgweirBuilder) -> PgweirBuilder) -> Self {
        let builder = Pgweir::builder(postgres())
            .pgweir("workers", "1")
            .pool_size(2);
        let pooler = configure(builder).start();
        let address = pooler.address();
        let mut holders = [
            Raw::connect(address, &database),
            Raw::connect(address, &database),
        ];
        let mut hold = |holder: usize| {
            holders[holder].run("BEGIN");
            holders[holder].pid()
        };
        let pids = [hold(0), hold(1)];
        assert_ne!(pids[0], pids[1]);
        holders[0].run("COMMIT");
        Self {
            pooler,
            database,
            holders,
            pids,
            free: 0,
        }
    }

    /// Gives the other server out from now on. The one that was given out must be idle.
    pub fn switch(&mut self) {
        let (from, to) = (self.free, 1 - self.free);
        self.holders[from].run("BEGIN");
        assert_eq!(
            self.holders[from].pid(),
            self.pids[from],
            "the only idle one"
        );
        self.holders[to].run("COMMIT");
        self.free = to;
    }

    /// Waits until the server of a client that has just left is free again.
    pub fn settle(&mut self) {
        let mut next = self.client();
        assert_eq!(next.pid(), self.pids[self.free]);
        next.terminate();
    }

    /// Lets both servers be given out from now on.
    pub fn release_all(&mut self) {
        self.holders[1 - self.free].run("COMMIT");
    }

    /// The process of the server that is given out.
    pub fn pid(&self) -> u32 {
        self.pids[self.free]
    }

    /// A client of this database.
    pub fn client(&self) -> Raw {
        self.client_with(&[])
    }

    pub fn client_with(&self, parameters: &[(&str, &str)]) -> Raw {
        Raw::connect_with(self.pooler.address(), &self.database, parameters)
    }

    /// Whether `client`, which is idle, keeps its server beyond the transaction.
    ///
    /// The server that was given back last is given out first, so the next client gets the one of
    /// `client` unless that is kept.
    pub fn is_pinned(&mut self, client: &mut Raw) -> bool {
        let held = 1 - self.free;
        self.holders[held].run("COMMIT");
        let server = client.pid();
        let mut next = self.client();
        let is_pinned = next.pid() != server;
        next.terminate();
        self.holders[held].run("BEGIN");
        self.pids[held] = self.holders[held].pid();
        if !is_pinned {
            self.holders[self.free].run("BEGIN");
            self.pids[self.free] = self.holders[self.free].pid();
            self.holders[self.free].run("COMMIT");
        }
        is_pinned
    }

    /// The reasons for which clients keep their servers, by the console.
    pub fn pins(&self) -> Vec<String> {
        let mut console = Raw::connect(self.pooler.address(), "pgbouncer");
        let rows = console.rows("SHOW PINS");
        let reason = |row: &String| row.rsplit('|').next().map(str::to_owned);
        rows.iter().filter_map(reason).collect()
    }

    /// PostgreSQL itself.
    pub fn primary(&self) -> &'static Node {
        postgres().primary()
    }

    /// Runs SQL in the database, past the pooler.
    pub fn direct(&self, sql: &str) -> String {
        let outcome = self.primary().psql_in(&self.database, sql);
        outcome.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }
}
