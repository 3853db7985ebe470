//! One task per client: its login, and the relay between it and its server.

pub mod auth_query;
pub mod buffers;
pub mod error;
pub mod login;
pub mod relay;
pub mod routing;
mod time_limits;
pub mod tunnel;
pub mod welcome;
