//! A client's place in the queue for a server.
//!
//! A ticket is made once per client and used again for every wait. It is in at most one queue. Who
//! takes it out of the queue owes it an outcome: a server or an error.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
};

use super::CheckoutError;
use crate::server::Server;

/// A place in a queue.
#[derive(Debug, Default)]
pub struct Ticket(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    Waiting(Waker),
    Served(Box<Server>),
    Failed(Arc<CheckoutError>),
}

impl Ticket {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a wait.
    pub(super) fn wait(&self, waker: Waker) {
        *self.lock() = State::Waiting(waker);
    }

    /// Whom to wake to have the client look around, if it is waiting.
    pub(super) fn waker(&self) -> Option<Waker> {
        match &*self.lock() {
            State::Waiting(waker) => Some(waker.clone()),
            State::Idle | State::Served(_) | State::Failed(_) => None,
        }
    }

    /// Gives the server to the client, if it is still waiting; answers whom to wake.
    pub(super) fn serve(&self, server: Box<Server>) -> Result<Waker, Box<Server>> {
        let mut state = self.lock();
        match std::mem::take(&mut *state) {
            State::Waiting(waker) => {
                *state = State::Served(server);
                Ok(waker)
            }
            other => {
                *state = other;
                Err(server)
            }
        }
    }

    /// Ends the wait with an error; answers whom to wake.
    pub(super) fn fail(&self, error: Arc<CheckoutError>) -> Option<Waker> {
        let mut state = self.lock();
        match std::mem::take(&mut *state) {
            State::Waiting(waker) => {
                *state = State::Failed(error);
                Some(waker)
            }
            other => {
                *state = other;
                None
            }
        }
    }

    /// Ends the wait from the client's side; a server that was given in the meantime is answered.
    pub(super) fn give_up(&self) -> Option<Box<Server>> {
        match std::mem::take(&mut *self.lock()) {
            State::Served(server) => Some(server),
            _ => None,
        }
    }

    /// The outcome of the wait.
    pub(super) fn outcome(&self, waker: &Waker) -> Poll<Result<Box<Server>, Arc<CheckoutError>>> {
        let mut state = self.lock();
        match std::mem::take(&mut *state) {
            State::Served(server) => Poll::Ready(Ok(server)),
            State::Failed(error) => Poll::Ready(Err(error)),
            State::Waiting(mut registered) => {
                registered.clone_from(waker);
                *state = State::Waiting(registered);
                Poll::Pending
            }
            State::Idle => Poll::Pending,
        }
    }
}
