//! Asking a database for the secrets of its users, on connections that no client's settings reach.

use std::{future::Future, pin::Pin, sync::Arc};

use super::Pooler;
use crate::{
    auth::Credentials,
    client::auth_query::{AuthQueryFailure, SecretSource},
    config::AuthQuery,
    server::{Inquiry, lookup},
};

/// Asks by a new connection for every question: answers are cached, so questions are rare.
#[derive(Debug)]
pub struct Asker(pub Arc<Pooler>);

impl SecretSource for Asker {
    fn ask<'a>(
        &'a self,
        question: &'a AuthQuery,
        user: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<lookup::Found, AuthQueryFailure>> + 'a>> {
        Box::pin(self.ask_once(question, user))
    }
}

impl Asker {
    async fn ask_once(
        &self,
        question: &AuthQuery,
        user: &str,
    ) -> Result<lookup::Found, AuthQueryFailure> {
        let config = self.0.config();
        let database = config
            .database(&question.dbname)
            .ok_or_else(|| AuthQueryFailure::NoDatabase(question.dbname.clone()))?;
        let settings = config.pool(&database, &question.user);
        let mut login = self.0.server_login(
            &config,
            (&database, &database.servers[0]),
            &question.user,
            &Credentials::None,
            &settings,
        );
        login.target.user.clone_from(&question.user);
        let mut inquiry = Inquiry::open(&login, "pgweir auth_query", &[])
            .await
            .map_err(AuthQueryFailure::Connect)?;
        lookup::look_up(&mut inquiry, &question.query, user)
            .await
            .map_err(AuthQueryFailure::Lookup)
    }
}
