//! Real drivers and real tools through the pooler, with more clients than it has servers.
//!
//! Each check passes against PostgreSQL alone as well (`PGWEIR_TEST_DIRECT=1` runs them so): what fails through the
//! pooler only, the pooler has broken.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test panics")]

#[path = "../support/mod.rs"]
mod support;

mod pgbench;
mod psql;
mod scripts;
mod session;
mod subject;
mod tokio_postgres_checks;
mod tokio_postgres_state;
