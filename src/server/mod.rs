//! One connection to PostgreSQL: login, life, cancel, and cleaning up after a client that left.
//!
//! Knows its peer and what is in flight on it; does not know pools, clients or routing.

pub mod cancel;
pub mod catalogue;
pub mod connect;
pub mod connect_error;
pub mod connection;
pub mod credentials;
pub mod derivations;
pub mod inquiry;
pub mod login;
pub mod lookup;
pub mod observe;
pub mod prove;
pub mod recover;

pub use cancel::CancelTarget;
pub use connect_error::ConnectError;
pub use connection::{Server, ServerRecord, ServerState};
pub use derivations::Derivations;
pub use inquiry::{Inquiry, InquiryError};
pub use login::ServerLogin;
pub use lookup::{Found, LookupError};
