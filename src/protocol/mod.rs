//! The wire, as in the PostgreSQL manual, "Frontend/Backend Protocol".
//!
//! What is decoded here is what the pooler must look into; everything else is a frame that is
//! forwarded unchanged. Knows nothing of sockets, sessions or pools. Nothing here trusts a length
//! that it has not compared with the bytes at hand, and nothing here panics on any input.

pub mod backend;
pub mod encode;
pub mod frame;
pub mod frontend;
pub mod read;
pub mod sqlstate;
pub mod startup;
pub mod tag;

pub use frame::{Frame, FrameError};
pub use read::Malformed;
pub use sqlstate::SqlState;
pub use tag::{BackendTag, FrontendTag};
