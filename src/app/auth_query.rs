//! Asking a database for the secrets of its users, on connections that no client's settings reach.
//!
//! Whoever can reach the pooler can make up names and so make it ask: the connections for questions are bounded like those of
//! a pool. Who asks beyond that waits, within `auth_query_timeout`.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use hashbrown::HashMap;
use tokio::sync::Semaphore;

use super::{Pooler, own_identity};
use crate::{
    client::auth_query::{AuthQueryFailure, SecretSource},
    config::{AuthQuery, Database, Server},
    route::HostState,
    server::{Inquiry, ServerLogin, lookup},
};

/// Asks by a new connection for every question: answers are cached, so questions are rare.
#[derive(Debug)]
pub struct Asker(pub Arc<Pooler>);

/// How many connections for questions there may be: by the servers that are asked, not by the database's name, which clients
/// of `"*"` make up. Holds an entry for each list of servers that was configured.
#[derive(Debug, Default)]
pub struct Places(Mutex<HashMap<Vec<Server>, Room>>);

/// As many permits as `most`.
#[derive(Debug, Clone)]
struct Room {
    most: usize,
    places: Arc<Semaphore>,
}

impl Places {
    /// The places of those who ask these servers; `most` is the `default_pool_size` of who asks.
    fn of(&self, servers: &[Server], most: usize) -> Arc<Semaphore> {
        let mut rooms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Room {
            most,
            places: Arc::new(Semaphore::new(most)),
        };
        let room = rooms.entry(servers.to_vec()).or_insert_with(new);
        if room.most != most {
            *room = new();
        }
        Arc::clone(&room.places)
    }
}

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
        let most = config.pool(&database, &question.user).pool_size;
        let places = self.0.asking.of(&database.servers, most.max(1));
        let _place = places.acquire().await.expect("it is never closed");
        let mut inquiry = self.open(&database, &question.user).await?;
        lookup::look_up(&mut inquiry, &question.query, user)
            .await
            .map_err(AuthQueryFailure::Lookup)
    }

    /// A connection to the first of the servers that can be had: any of them knows the users.
    async fn open(&self, database: &Database, user: &str) -> Result<Inquiry, AuthQueryFailure> {
        let logins = self.logins(database, user);
        let mut first_failure = None;
        for login in &logins {
            match Inquiry::open(login, "pgweir auth_query", &[]).await {
                Ok(inquiry) => return Ok(inquiry),
                Err(error) => first_failure = first_failure.or(Some(error)),
            }
        }
        Err(AuthQueryFailure::Connect(
            first_failure.expect("a database has servers"),
        ))
    }

    /// How each server is logged in to, those that are known to be there first. None takes so long that there is no time for
    /// the others.
    fn logins(&self, database: &Database, user: &str) -> Vec<ServerLogin> {
        let config = self.0.config();
        let settings = config.pool(database, user);
        let share = u32::try_from(database.servers.len()).unwrap_or(u32::MAX);
        let limit = config.process.auth_query_timeout / share.max(1);
        let watch = self.0.watches.known(&database.name);
        let is_doubtful = |host: usize| {
            let hosts = watch.as_ref().map(|watch| watch.topology.hosts());
            let state = hosts.and_then(|hosts| hosts.get(host)).map(|it| it.state());
            state.is_some_and(|state| matches!(state, HostState::Unknown | HostState::Down))
        };
        let mut hosts: Vec<_> = database.hosts().enumerate().collect();
        hosts.sort_by_key(|(host, _)| is_doubtful(*host));
        let login = |server| {
            let to = (database, server);
            let identity = own_identity(&config, user);
            let mut login = self.0.server_login(&config, to, identity, &settings);
            login.target.timeout = login.target.timeout.min(limit);
            login
        };
        hosts.into_iter().map(|(_, server)| login(server)).collect()
    }
}
