//! pgweir: a PostgreSQL connection pooler and read/write router.
//!
//! This page is the map. Lower layers know nothing of upper ones; `tests/layering.rs` holds that.
//!
//! ```text
//! layer 6  app                      wiring: accept, reload, signals, shutdown, command line
//! layer 5  client   admin           one task per client: login and relay; the psql console
//! layer 4  pool                     server connections of one (database, user, host); fair waiting
//! layer 3  server                   one connection to PostgreSQL: login, cancel
//! layer 2  net   route              sockets and TLS; where a statement goes
//! layer 1  sql   auth   session     pure decisions: bytes and facts in, verdicts out
//! layer 0  protocol  config  stats  values: wire messages, settings, counters
//!          sandbox                  a throw-away PostgreSQL cluster for the demo and the tests
//! ```
#![warn(missing_docs)]

pub mod admin;
pub mod app;
pub mod auth;
pub mod client;
pub mod config;
pub mod net;
pub mod pool;
pub mod protocol;
pub mod route;
pub mod sandbox;
pub mod server;
pub mod session;
pub mod sql;
pub mod stats;
