//! The limit on open files, of which every client and every server takes one.
//!
//! Most systems start a process with a soft limit of 1024, for the sake of programs that use select(2), and let it
//! raise that to the hard one. This one does not use select.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// Files that are neither clients nor servers: listeners, epoll, logs, cancel requests, DNS.
const OTHERS: u64 = 100;

/// Raises the limit as far as it is needed and allowed; says so when that is not far enough.
pub(super) fn allow(config: &Config) {
    let clients = config.process.max_client_conn as u64;
    let wanted = clients.saturating_add(OTHERS);
    let before = getrlimit(Resource::Nofile);
    // `None` is no limit.
    let Some(soft) = before.current else { return };
    // Servers are not known in advance; the hard limit is there to be used.
    let raised = Rlimit {
        current: before.maximum,
        maximum: before.maximum,
    };
    let allowed = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => before.maximum.unwrap_or(u64::MAX),
        Err(error) => {
            tracing::warn!(%error, "cannot raise the limit on open files");
            soft
        }
    };
    if allowed < wanted {
        tracing::warn!(
            "max_client_conn is {clients} and the limit on open files {allowed}: some of the clients will have to wait; \
             raise it (ulimit -n, LimitNOFILE)"
        );
    }
}
