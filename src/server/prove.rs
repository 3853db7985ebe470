//! Trying a set of settings on a server: is it accepted, and what does the server report then?
//!
//! The answer is what a client with these settings is told at login, in the server's own spelling.

use std::{future::poll_fn, io, sync::Arc, task::Poll, time::Duration};

use super::{Server, login::Parameters, recover::RecoverError};
use crate::{
    protocol::{BackendTag, backend, frame},
    session::{ServerFault, Settings, server_state::Cleanup},
};

/// Names and values of the parameters that a server reports.
type Reported = Vec<(Box<[u8]>, Box<[u8]>)>;

/// Bytes of an answer to a handful of SETs: far above what a server has to say to them.
const MAX_ANSWER: usize = 256 * 1024;

/// Gives the server the settings, and answers the parameters that it reports with them: those that it
/// told at its login, with what has changed.
///
/// # Errors
/// [`ServerFault::SettingsRefused`] with the server's own words when it refuses them; the server is
/// then in a failed transaction block.
///
/// # Cancel safety
/// None: the server must be discarded when the future is dropped.
pub async fn prove(
    server: &mut Server,
    settings: &Arc<Settings>,
    defaults: &Arc<Settings>,
    told: &Parameters,
    timeout: Duration,
) -> Result<Parameters, RecoverError> {
    let mut out = Vec::new();
    // By way of the defaults, so that every difference from them is reported.
    for wanted in [defaults, settings] {
        server.state.give_settings(wanted, &mut out);
    }
    let mut reported = told.to_vec();
    tokio::time::timeout(timeout, exchange(server, &out, &mut reported))
        .await
        .unwrap_or(Err(RecoverError::Timeout(timeout)))?;
    Ok(reported.into())
}

async fn exchange(
    server: &mut Server,
    out: &[u8],
    reported: &mut Reported,
) -> Result<(), RecoverError> {
    let mut buffer = vec![0; 4 * 1024];
    let mut unsent = out;
    let mut taken = 0;
    poll_fn(|cx| {
        server
            .send(cx, std::mem::take(&mut unsent))
            .map_err(RecoverError::Io)?;
        let flushed = server.poll_flush(cx).map_err(RecoverError::Io)?.is_ready();
        while !(flushed && server.state.cleanup() != Cleanup::Drain) {
            match server
                .stream
                .poll_read(cx, &mut buffer)
                .map_err(RecoverError::Io)?
            {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(0) => {
                    let error = io::ErrorKind::UnexpectedEof.into();
                    return Poll::Ready(Err(RecoverError::Io(error)));
                }
                Poll::Ready(size) => {
                    taken += size;
                    if taken > MAX_ANSWER {
                        return Poll::Ready(Err(RecoverError::TooMuch(MAX_ANSWER)));
                    }
                    server.received.extend_from_slice(&buffer[..size]);
                    take(server, reported)?;
                }
            }
        }
        Poll::Ready(Ok(()))
    })
    .await
}

fn take(server: &mut Server, reported: &mut Reported) -> Result<(), ServerFault> {
    let received = std::mem::take(&mut server.received);
    let mut at = 0;
    while let Some(frame) = frame::backend(&received[at..])? {
        if !frame.is_whole() {
            break;
        }
        match frame.tag {
            BackendTag::ParameterStatus => {
                let (name, value) = backend::parameter_status(frame.body())?;
                match reported.iter_mut().find(|(known, _)| **known == *name) {
                    Some((_, known)) => *known = value.into(),
                    None => reported.push((name.into(), value.into())),
                }
            }
            BackendTag::ErrorResponse => {
                return Err(ServerFault::SettingsRefused(frame.body().into()));
            }
            _ => {}
        }
        server.state.discard(frame.bytes)?;
        at += frame.size;
    }
    server.received = received[at..].to_vec();
    Ok(())
}
