//! What a session wishes of its routing: by its settings (`pgweir.route`, `.consistency`, `.key`, `.token`)
//! and by a statement's comments.

use std::sync::Arc;

use crate::{
    config::{Consistency, ConsistencyScope, PoolSettings, RouteTo},
    pool::{Watch, watch::SharedWrite},
    route::{Freshness, Token, Wishes},
    session::{Settings, unit::Hints},
};

/// The setting that a session's token is told, and set, by.
pub(super) const TOKEN: &[u8] = b"pgweir.token";

/// What the settings of a session wish, kept as long as the settings stay the same.
#[derive(Debug)]
pub(super) struct Wished {
    /// Of these settings.
    pub(super) of: Arc<Settings>,
    pub(super) route: RouteTo,
    pub(super) consistency: Consistency,
    pub(super) shared: Option<Arc<SharedWrite>>,
}

impl Wished {
    /// What these settings wish, and where they are silent what the configuration says.
    pub(super) fn read(of: &Arc<Settings>, settings: &PoolSettings, watch: &Watch) -> Self {
        let word = |name: &[u8]| of.value(name).and_then(|value| str::from_utf8(value).ok());
        let route = word(b"pgweir.route").and_then(RouteTo::from_word);
        let consistency = word(b"pgweir.consistency").and_then(Consistency::from_word);
        let key = of.value(b"pgweir.key").filter(|key| !key.is_empty());
        let is_by_key = settings.consistency_scope == ConsistencyScope::Key;
        Self {
            of: Arc::clone(of),
            route: route.unwrap_or(settings.route),
            consistency: consistency.unwrap_or(settings.consistency),
            shared: key.filter(|_| is_by_key).map(|key| watch.shared(key)),
        }
    }
}

/// The token that a session was told to be as fresh as.
pub(super) fn own_token(settings: &Settings) -> Option<Token> {
    let token = settings.value(TOKEN);
    token.filter(|token| !token.is_empty()).map(Token::read)
}

pub(super) fn read_hints(hints: &Hints, wishes: &mut Wishes, freshness: &mut Freshness) {
    wishes.hint(hints.route.as_deref(), hints.consistency.as_deref());
    if let Some(token) = &hints.token {
        let token = Token::read(token);
        let own = freshness.token;
        freshness.token = Some(own.map_or(token, |own| own.joined(token)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::hint::Own;

    #[test]
    fn a_session_may_set_what_the_configuration_may_say() {
        assert_eq!(Own::Route.words(), Some(RouteTo::WORDS));
        assert_eq!(Own::Consistency.words(), Some(Consistency::WORDS));
    }
}
