//! A primary and its replicas, from one template, in one temporary directory.

use std::{
    env,
    fs::{self, DirBuilder, Permissions, set_permissions},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use super::{
    Binaries, Node, SandboxError, account::Account, configure::NodeSpec, node::Site, port::random,
    template, watchdog::Watchdog,
};

/// For every node, before the caller's own. No durability: the data is thrown away. WAL is kept
/// back to the template's checkpoint, from which new replicas start.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("max_connections", "200"),
    ("shared_buffers", "32MB"),
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("wal_level", "replica"),
    ("max_wal_senders", "10"),
    ("max_wal_size", "2GB"),
    ("wal_keep_size", "4GB"),
    ("wal_retrieve_retry_interval", "100ms"),
    ("max_prepared_transactions", "20"),
    ("log_checkpoints", "off"),
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
];

/// A running cluster. Dropping it, and the end of this process in any way, stops the servers and
/// removes their files.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    site: Arc<Site>,
    template: PathBuf,
    plan: ClusterBuilder,
}

/// What a cluster is to be like.
#[derive(Debug, Clone)]
pub struct ClusterBuilder {
    binaries: Binaries,
    replicas: usize,
    replay_delay: Duration,
    settings: Vec<(String, String)>,
    hba: Vec<String>,
    files: Vec<(String, Vec<u8>)>,
    cached_template: bool,
}

impl Cluster {
    /// A lone primary that trusts everybody on this machine, unless told otherwise.
    #[must_use]
    pub fn builder(binaries: Binaries) -> ClusterBuilder {
        let settings = SETTINGS.iter();
        ClusterBuilder {
            binaries,
            replicas: 0,
            replay_delay: Duration::ZERO,
            settings: settings
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            hba: Vec::new(),
            files: Vec::new(),
            cached_template: false,
        }
    }

    /// The node that was the primary at the start.
    #[must_use]
    pub fn primary(&self) -> &Node {
        &self.nodes[0]
    }

    /// The `index`th replica, counted from 0.
    ///
    /// # Panics
    ///
    /// When there are not as many.
    #[must_use]
    pub fn replica(&self, index: usize) -> &Node {
        &self.nodes[index + 1]
    }

    /// The replicas.
    #[must_use]
    pub fn replicas(&self) -> &[Node] {
        &self.nodes[1..]
    }

    /// All nodes, the primary first.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The temporary directory that holds everything, and is removed with the cluster.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.site.dir
    }

    /// The binaries in use.
    #[must_use]
    pub fn binaries(&self) -> &Binaries {
        &self.site.binaries
    }

    /// Adds a replica that streams from the node with the index `upstream` in [`Self::nodes`].
    ///
    /// # Errors
    ///
    /// As for [`ClusterBuilder::start`].
    pub fn add_replica(&mut self, upstream: usize) -> Result<&Node, SandboxError> {
        let name = format!("replica{}", self.nodes.len() - 1);
        let data_dir = self.site.dir.join(&name);
        template::copy(self.site.account, &self.template, &data_dir)?;
        let node = self
            .plan
            .launch(&self.site, name, Some(&self.nodes[upstream]))?;
        self.nodes.push(node);
        Ok(&self.nodes[self.nodes.len() - 1])
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.site
            .watchdog
            .fire(|| self.nodes.iter().for_each(Node::reap));
        // The shell has emptied it, but may not be allowed to take it out of a directory of ours.
        drop(fs::remove_dir(&self.site.dir));
    }
}

impl ClusterBuilder {
    /// How many streaming replicas; none by default.
    #[must_use]
    pub fn replicas(mut self, count: usize) -> Self {
        self.replicas = count;
        self
    }

    /// `recovery_min_apply_delay` of the replicas.
    #[must_use]
    pub fn replay_delay(mut self, delay: Duration) -> Self {
        self.replay_delay = delay;
        self
    }

    /// A line of `postgresql.conf` for every node. The later of two for one setting wins.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A line of `pg_hba.conf`. Without any, everybody on this machine is trusted; `postgres` over
    /// the Unix socket always is.
    #[must_use]
    pub fn hba(mut self, line: &str) -> Self {
        self.hba.push(line.to_owned());
        self
    }

    /// A file in every data directory, readable by the server only: a certificate, a key.
    #[must_use]
    pub fn file(mut self, name: &str, contents: impl Into<Vec<u8>>) -> Self {
        self.files.push((name.to_owned(), contents.into()));
        self
    }

    /// Shares the result of `initdb` with other clusters, also of other processes; it stays in the
    /// temporary directory for the next run.
    #[must_use]
    pub fn cached_template(mut self) -> Self {
        self.cached_template = true;
        self
    }

    /// Starts the cluster: all nodes accept connections, and all replicas stream.
    ///
    /// # Errors
    ///
    /// Any [`SandboxError`]; whatever had been started is gone then.
    pub fn start(mut self) -> Result<Cluster, SandboxError> {
        if self.hba.is_empty() {
            self.hba = vec![
                "local all all trust".to_owned(),
                "host all all 127.0.0.1/32 trust".to_owned(),
            ];
        }
        let site = Arc::new(self.prepare_site()?);
        let template = if self.cached_template {
            template::cached(&site.binaries, site.account)?
        } else {
            let dir = site.dir.join("template");
            template::initialise(&site.binaries, site.account, &dir)?;
            dir
        };
        let mut cluster = Cluster {
            nodes: Vec::new(),
            site,
            template,
            plan: self,
        };
        cluster.launch_all()?;
        Ok(cluster)
    }

    fn prepare_site(&self) -> Result<Site, SandboxError> {
        let account = Account::detect()?;
        // Others must get at the socket; the data directories are private.
        let make = |path: &Path| {
            DirBuilder::new().mode(0o755).create(path)?;
            set_permissions(path, Permissions::from_mode(0o755))?;
            account.give(path)
        };
        let dir = env::temp_dir().join(format!("pgweir-{:016x}", random()));
        make(&dir).map_err(SandboxError::io("create", &dir))?;
        let site = Site {
            binaries: self.binaries.clone(),
            psql: self.binaries.client_program("psql").ok(),
            account,
            watchdog: Watchdog::start(account, &dir)?,
            dir,
        };
        let sockets = site.socket_dir();
        make(&sockets).map_err(SandboxError::io("create", &sockets))?;
        Ok(site)
    }

    /// Starts a node on its copy of the template.
    fn launch(
        &self,
        site: &Arc<Site>,
        name: String,
        upstream: Option<&Node>,
    ) -> Result<Node, SandboxError> {
        let data_dir = site.dir.join(&name);
        let mut settings = self.settings.clone();
        if upstream.is_some() && !self.replay_delay.is_zero() {
            let delay = format!("{}ms", self.replay_delay.as_millis());
            settings.push(("recovery_min_apply_delay".to_owned(), delay));
        }
        let spec = NodeSpec {
            name,
            settings: &settings,
            hba: &self.hba,
            files: &self.files,
            upstream,
        };
        Node::launch(site, &data_dir, &spec)
    }
}

impl Cluster {
    /// Copies in parallel; the primary first, for its port is in the replicas' configuration.
    fn launch_all(&mut self) -> Result<(), SandboxError> {
        let Self {
            nodes,
            site,
            template,
            plan,
        } = self;
        let (site, template, plan) = (&*site, &*template, &*plan);
        let names: Vec<_> = (0..plan.replicas).map(|i| format!("replica{i}")).collect();
        let copy = |name: &str| template::copy(site.account, template, &site.dir.join(name));
        thread::scope(|scope| {
            let copies: Vec<_> = names.iter().map(|n| scope.spawn(|| copy(n))).collect();
            copy("primary")?;
            nodes.push(plan.launch(site, "primary".to_owned(), None)?);
            copies.into_iter().try_for_each(join)
        })?;
        let primary = &nodes[0];
        let replicas: Vec<_> = thread::scope(|scope| {
            let launches: Vec<_> = names
                .into_iter()
                .map(|name| scope.spawn(|| plan.launch(site, name, Some(primary))))
                .collect();
            launches.into_iter().map(join).collect()
        });
        let mut failed = Ok(());
        for launched in replicas {
            match launched {
                Ok(node) => nodes.push(node),
                // The others still belong to the cluster, whose drop ends them.
                Err(e) => failed = Err(e),
            }
        }
        failed
    }
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}
