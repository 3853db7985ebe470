//! What the tests of the pure session share: messages as text.
#![allow(
    clippy::allow_attributes,
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its own part of this module"
)]

pub mod notation;
