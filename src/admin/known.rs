//! What is known of a database's servers, as the console finds it.

use std::sync::Arc;

use super::Console;
use crate::{
    config::Database,
    pool::{Cluster, Watch},
    route::{Host, Topology},
};

/// What is known of a database's servers.
#[derive(Debug)]
pub(super) enum Known {
    /// What has been found out.
    Watched(Arc<Watch>),
    /// What the configuration says: there is only one, or no client has come yet.
    Configured(Topology),
}

impl Known {
    /// Of this database.
    pub(super) fn of(console: &Console, database: &Database) -> Self {
        let clusters = clusters_of(console, &database.name);
        let watch = clusters.iter().find_map(|it| it.hosts().watch.clone());
        watch.map_or_else(
            || Self::Configured(Topology::new(database.hosts().map(Host::of).collect())),
            Self::Watched,
        )
    }

    /// The servers.
    pub(super) fn topology(&self) -> &Topology {
        match self {
            Self::Watched(watch) => &watch.topology,
            Self::Configured(topology) => topology,
        }
    }

    /// What has been found out, if anything.
    pub(super) fn watch(&self) -> Option<&Arc<Watch>> {
        match self {
            Self::Watched(watch) => Some(watch),
            Self::Configured(_) => None,
        }
    }
}

/// What the users of a database have of its servers.
pub(super) fn clusters_of(console: &Console, database: &str) -> Vec<Arc<Cluster>> {
    let mut clusters = console.pools.clusters();
    clusters.retain(|cluster| *cluster.name.database == *database);
    clusters
}
