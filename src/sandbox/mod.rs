//! A throw-away PostgreSQL cluster from the local binaries: a primary and streaming replicas.
//!
//! `pgweir demo` and the integration tests use it. It knows nothing of the pooler: only processes,
//! files and ports.
//!
//! ```text
//! Binaries::find ─▶ Cluster::builder ─▶ initdb (or the cached template)
//!                                          │ cp, one copy a node
//!                                          ▼
//!                                   primary ◀─ streaming ─ replica 0, replica 1 …
//! ```
//!
//! A replica is a copy of the same cleanly stopped template as the primary: same system identifier,
//! same first checkpoint. It streams everything since, so no base backup is needed, and the
//! binaries need no `pg_basebackup`.
//!
//! Invariants:
//! * Nothing outlives the [`Cluster`]: not the servers, not the directory, even when this process
//!   is killed (`watchdog`).
//! * PostgreSQL never runs as root (`account`).
//! * Readiness is read from the server's own log, never guessed by waiting (`log`).

mod account;
mod binaries;
mod cluster;
mod configure;
mod error;
mod log;
mod node;
mod port;
mod template;
mod watchdog;

pub use binaries::Binaries;
pub use cluster::{Cluster, ClusterBuilder};
pub use error::SandboxError;
pub use log::{ProcessLog, Waited};
pub use node::{Node, StopMode};
