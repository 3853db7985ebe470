//! What the tests of the pure session share: messages as text, and a naive PostgreSQL.
#![allow(
    clippy::allow_attributes,
    clippy::panic,
    clippy::struct_excessive_bools,
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its own part of this module, and a test panics"
)]

pub mod model;
pub mod notation;
pub mod pool;
