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

mod pgweir;
pub mod raw;
pub mod seats;
pub mod servers;
pub mod tls;
pub mod wire;

use std::{
    env,
    path::PathBuf,
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use ::pgweir::sandbox::{Binaries, Cluster};

pub use pgweir::{Pgweir, PgweirBuilder};

/// The PostgreSQL to test with: `PGWEIR_TEST_PGBIN`, or else what is installed.
pub fn binaries() -> Binaries {
    let dir = env::var_os("PGWEIR_TEST_PGBIN").map(PathBuf::from);
    Binaries::find(dir.as_deref()).unwrap_or_else(|e| panic!("{}", with_sources(&e)))
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
        .unwrap_or_else(|e| panic!("{}", with_sources(&e)))
}

/// Awaits a condition that has no event to wait for. Fails the test after a minute.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
