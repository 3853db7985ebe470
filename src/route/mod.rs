//! Which server a unit of work goes to: facts about the servers, what a session must be able to see, and
//! the decision.
//!
//! ```text
//! lsn        a position in the WAL                 freshness  what a session wrote and has seen
//! polls      the primary's position, by number     decide     unit, wishes, freshness, topology → host
//! topology   what each server was seen to be       balance    which of several
//! token      freshness that travels                reason     why, by name
//!                                                  candidates what keeps which host from a unit
//! ```
//!
//! Pure: no socket, no clock, no chance of its own. The monitor (in `pool`) writes the facts, a client's
//! relay asks for decisions.

pub mod balance;
pub mod candidates;
pub mod decide;
pub mod freshness;
pub mod lsn;
pub mod polls;
pub mod reason;
pub mod token;
pub mod topology;

pub use balance::Chance;
pub use candidates::{Candidacy, candidates};
pub use decide::{Decision, MAX_HOSTS, Need, Patience, Policy, Question, Verdict, Wishes, decide};
pub use freshness::{Freshness, Visit};
pub use lsn::Lsn;
pub use polls::{Poll, Polls};
pub use reason::Reason;
pub use token::{History, Token};
pub use topology::{Host, HostId, HostState, Topology};

#[cfg(test)]
mod simulation_tests;
