//! One watch for each database that has several servers, and the monitor that keeps it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64};

use hashbrown::HashMap;

use crate::{
    config::{Config, Database, Server},
    pool::Watch,
    route::{Host, Topology},
};

/// What is watched, by the name of the database.
#[derive(Debug, Default)]
pub struct Watches(Mutex<HashMap<Box<str>, Watched>>);

#[derive(Debug)]
struct Watched {
    servers: Vec<Server>,
    watch: Arc<Watch>,
}

impl Watches {
    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Watched>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of the database's servers; `None` where there is only one. `begin` starts a
    /// monitor for one that nobody has watched so far, or that has other servers now.
    pub fn of(
        &self,
        database: &Database,
        worlds: &Arc<AtomicU64>,
        begin: impl FnOnce(&Arc<Watch>),
    ) -> Option<Arc<Watch>> {
        let servers: Vec<Server> = database.hosts().cloned().collect();
        if servers.len() < 2 {
            return None;
        }
        let mut watches = self.lock();
        if let Some(watched) = watches.get(&*database.name)
            && watched.servers == servers
        {
            return Some(Arc::clone(&watched.watch));
        }
        let hosts = servers.iter().map(host).collect();
        let watch = Watch::new(Topology::new(hosts), Arc::clone(worlds));
        let watched = Watched {
            servers,
            watch: Arc::clone(&watch),
        };
        watches.insert((*database.name).into(), watched);
        drop(watches);
        begin(&watch);
        Some(watch)
    }

    /// Nothing is watched any more that the configuration does not have.
    pub fn forget_gone(&self, config: &Config) {
        self.lock()
            .retain(|name, _| config.database(name).is_some());
    }
}

fn host(server: &Server) -> Host {
    let name = server.to_string();
    Host::new(&name, server.role, server.weight, server.zone.as_deref())
}
