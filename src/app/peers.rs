//! Cancel requests for clients of other processes behind the same address (`[peers]`).
//!
//! A client's cancel key says which process it is of; what it asks of another one is passed on, once: a request that has been
//! passed on carries a mark, so that processes that contradict each other do not play ball with it.

use std::sync::Arc;

use super::{MAX_ITERATIONS, Pooler, address, tcp_options};
use crate::{
    auth::Credentials,
    config::{SslMode, describe},
    pool::clients::peer_of,
    protocol::startup::ProtocolVersion,
    server::{ServerLogin, cancel::CancelTarget, connect::ConnectTarget},
};

/// Behind the secret of a request that was passed on. Secrets are 4 or 32 bytes long.
const MARK: u8 = b'p';

/// The secret as the client sent it, and whether a peer has passed the request on.
pub(super) fn unmarked(secret: &[u8]) -> (&[u8], bool) {
    match secret {
        [own @ .., MARK] if own.len() % 4 == 0 => (own, true),
        own => (own, false),
    }
}

/// Passes a request on to the process that knows its client, if that is a peer, and waits until it has been carried out.
pub(super) async fn pass_on(pooler: &Pooler, process_id: i32, secret: &[u8]) {
    let config = pooler.config();
    let id = peer_of(process_id);
    let peer = config.peers().find(|peer| Some(peer.id) == id);
    let Some(peer) = peer.filter(|peer| peer.id != config.process.peer_id) else {
        tracing::debug!("cancel request with an unknown key");
        return;
    };
    let limit = config.process.cancel_wait_timeout;
    let target = ConnectTarget {
        address: address(&peer.host, peer.port),
        at: None,
        user: String::new(),
        database: String::new(),
        parameters: Vec::new(),
        // As libpq sends them.
        sslmode: SslMode::Disable,
        connector: None,
        tcp: tcp_options(&config),
        protocol: ProtocolVersion::V3_0,
        timeout: limit.unwrap_or(config.defaults.server_connect_timeout),
        max_iterations: MAX_ITERATIONS,
    };
    let login = ServerLogin {
        target,
        credentials: Credentials::None,
        resolver: Arc::clone(&pooler.resolver),
        derivations: Arc::clone(&pooler.derivations),
        cancel_timeout: limit,
        max_prepared_statements: 0,
        connect_query: None,
    };
    let request = CancelTarget {
        login: Arc::new(login),
        at: None,
        process_id,
        secret: [secret, &[MARK]].concat().into(),
    };
    if let Err(error) = request.cancel().await {
        let reason = describe(&error);
        tracing::warn!(peer = peer.id, reason, "cancel request not passed on");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_passed_on_once() {
        for own in [&[1, 2, 3, MARK][..], &[MARK; 32]] {
            assert_eq!(unmarked(own), (own, false));
            let passed_on = [own, &[MARK]].concat();
            assert_eq!(unmarked(&passed_on), (own, true));
        }
    }
}
