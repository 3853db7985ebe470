//! Clients and servers that break, lie, hang and die, and limits that are reached: each costs whom it concerns a clear error,
//! and nobody else notices.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test stops at what it did not expect"
)]

#[path = "../support/mod.rs"]
mod support;

mod abuse;
mod console;
mod crowd;
mod fairness;
mod fake_server;
mod faults;
mod hostile_server;
mod large;
mod limits;
mod neighbour;
mod startup;
