//! The answer to `SHOW pgweir.token`: what a session has to see, for others to see as well.

use super::{Routing, wished};
use crate::{
    config::PoolSettings,
    route::{Freshness, Token},
    session::Session,
};

impl Routing {
    /// Makes the answer to `SHOW pgweir.token` what the session needs; `false` if that is not known yet.
    pub(super) fn tell_token(&mut self, session: &mut Session, settings: &PoolSettings) -> bool {
        let topology = &self.watch.topology;
        let Freshness { written, seen, .. } = self.freshness;
        let shared = self.shared_write(settings);
        let mut needed = written.max(seen).max(shared);
        // Others go on writing while it waits.
        let asked = self.waiting.map(|(_, asked)| asked);
        let asked = asked.unwrap_or_else(|| topology.polls.next());
        needed = needed.min(asked);
        let own = self.freshness.token;
        if own.is_some_and(|token| Some(token.history) != topology.history()) {
            // What it stands for only the primary has: whatever that holds by now.
            needed = asked;
        }
        let (Some(history), Some(position)) = (topology.history(), topology.position(needed))
        else {
            self.watch.want(needed.max(topology.polls.next()));
            return false;
        };
        let own = self
            .freshness
            .token
            .filter(|token| token.history == history);
        let position = own.map_or(position, |token| token.position.max(position));
        self.give_token(session, Token { history, position });
        true
    }

    /// Answers with this one.
    pub(super) fn give_token(&mut self, session: &mut Session, token: Token) {
        self.told = Some(token);
        session.insert_setting(wished::TOKEN, token.to_string().as_bytes());
    }
}
