//! What the integration tests share: a PostgreSQL cluster and the pooler as a child process.
//!
//! Missing PostgreSQL fails the test, with the sentence that says what to install.
#![allow(
    clippy::allow_attributes,
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each test binary uses its own part of this module"
)]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test panics and prints, its cluster is shared by all tests of a binary, and real \
              servers keep real time"
)]

pub mod dice;
pub mod login;
mod pgweir;
pub mod raw;
pub mod seats;
pub mod servers;
pub mod tls;
pub mod wire;

use std::{
    env,
    io::{self, Write as _},
    path::PathBuf,
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use ::pgweir::{
    config::describe,
    sandbox::{Binaries, Cluster},
};

pub use pgweir::{Pgweir, PgweirBuilder};

/// The PostgreSQL to test with: `PGWEIR_TEST_PGBIN`, or else what is installed. Where
/// `PGWEIR_TEST_REQUIRE` names a major version, as `make test-matrix` does, it must be that one.
pub fn binaries() -> Binaries {
    let dir = env::var_os("PGWEIR_TEST_PGBIN").map(PathBuf::from);
    let found = Binaries::find(dir.as_deref()).unwrap_or_else(|e| panic!("{}", describe(&e)));
    if let Ok(required) = env::var("PGWEIR_TEST_REQUIRE") {
        assert_eq!(found.version.to_string(), required, "PGWEIR_TEST_REQUIRE");
    }
    found
}

/// Whether the PostgreSQL to test with is of this major version, or a newer one. If not, the test
/// says so, past the harness that would keep it to itself.
pub fn since(version: u32, what: &str) -> bool {
    let found = binaries().version;
    let is_there = found >= version;
    if !is_there {
        let line = format!(
            "SKIPPED: {what} needs PostgreSQL {version}, this is {found} (make test-matrix has it)\n"
        );
        io::stderr()
            .write_all(line.as_bytes())
            .expect("somebody reads what tests print");
    }
    is_there
}

/// A lone primary that all tests of this binary share: make your own roles, tables and databases,
/// and do not stop it.
pub fn postgres() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| start(Cluster::builder(binaries())))
}

/// A primary and two streaming replicas that all tests of this binary share; do not stop them or
/// change their replay.
pub fn replicated_postgres() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| start(Cluster::builder(binaries()).replicas(2)))
}

/// Starts a cluster from the shared template.
pub fn start(builder: ::pgweir::sandbox::ClusterBuilder) -> Cluster {
    builder
        .cached_template()
        .start()
        .unwrap_or_else(|e| panic!("{}", describe(&e)))
}

/// Awaits a condition that has no event to wait for. Fails the test after a minute.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
