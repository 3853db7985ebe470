//! Routing before a real primary and its replicas: where statements go, that sessions see what they
//! wrote, what becomes of reads when servers fail, and that the pin of a write ends.
//!
//! Every server knows its name, and a read tells it: so what is counted here was counted by the servers.

#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test panics and prints, and real servers keep real time"
)]

#[path = "../support/mod.rs"]
mod support;

mod cascade;
mod faults;
mod following;
mod freshness;
mod hidden;
mod hints;
mod rerun;
mod stage;
mod statements;
mod transactions;
