//! What is measured: PostgreSQL, and each pooler before it, with equal settings.

use std::{env, path::PathBuf};

use anyhow::{Context, Result};

use crate::{
    pgbouncer::{PgBouncer, PgBouncerSpec},
    support::{
        self, Pgweir, PgweirBuilder,
        tls::{Authority, Identity},
    },
};
use pgweir::sandbox::{Cluster, Node};

/// The database that pgbench has filled.
pub(crate) const DATABASE: &str = "bench";
/// [`DATABASE`], as the poolers know it a second time: with `on_lag = "wait"`.
pub(crate) const PATIENT: &str = "patient";
/// [`DATABASE`], as a pooler knows it a second time: on the other replica.
const OTHER_HALF: &str = "other_half";
/// The database that PostgreSQL itself asks for a password for: poolers connect to the other one.
const SCRAM_DATABASE: &str = "bench_scram";
/// Who logs in with a password.
pub(crate) const SCRAM_USER: &str = "scram";
pub(crate) const SCRAM_PASSWORD: &str = "a password of some length";
pub(crate) const USER: &str = "postgres";

/// pgbench's scale: a million rows, all in memory.
const SCALE: &str = "10";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    Direct,
    Pgweir,
    PgBouncer,
    /// pgweir with a primary and its replicas. Compared with pgweir without, not with the others.
    Routed,
    /// pgweir without routing, and yet before the replicas: half of the clients ask for one, half for the other.
    ByHand,
}

impl Subject {
    /// How many there are.
    pub(crate) const COUNT: usize = 5;

    /// Those that stand beside each other in the main table.
    pub(crate) const ALL: [Self; 3] = [Self::Direct, Self::Pgweir, Self::PgBouncer];

    /// Those of the table of routing.
    pub(crate) const OF_ROUTING: [Self; 3] = [Self::Pgweir, Self::ByHand, Self::Routed];

    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name {
            "direct" => Some(Self::Direct),
            "pgweir" => Some(Self::Pgweir),
            "pgbouncer" => Some(Self::PgBouncer),
            _ => None,
        }
    }
}

/// How clients log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Auth {
    Trust,
    Scram,
}

/// Where to connect, and the process to watch; PostgreSQL has none of interest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Endpoint {
    pub(crate) port: u16,
    pub(crate) pid: Option<u32>,
    pub(crate) database: &'static str,
    /// What half of the clients ask for instead, in a process of their own.
    pub(crate) half: Option<&'static str>,
}

/// PostgreSQL and the poolers of one run.
pub(crate) struct Rig {
    pub(crate) cluster: Cluster,
    pub(crate) authority: Authority,
    pub(crate) subjects: Vec<Subject>,
    pub(crate) pgbouncer_version: Option<(u32, u32)>,
    server_identity: Identity,
    scram_secret: String,
    pool_size: usize,
    trust: Poolers,
}

#[derive(Default)]
struct Poolers {
    pgweir: Option<Pgweir>,
    pgbouncer: Option<PgBouncer>,
    routed: Option<Pgweir>,
    by_hand: Option<Pgweir>,
}

impl Rig {
    pub(crate) fn start(pool_size: usize, subjects: &[Subject], replicas: usize) -> Result<Self> {
        let authority = Authority::new();
        let identity = authority.server(&["127.0.0.1"]);
        let cluster = support::start(
            Cluster::builder(support::binaries())
                .replicas(replicas)
                .setting("shared_buffers", "256MB")
                .setting("ssl", "on")
                .file("server.crt", identity.certificate.as_str())
                .file("server.key", identity.key.as_str())
                .hba(&format!(
                    "host {SCRAM_DATABASE} all 127.0.0.1/32 scram-sha-256"
                ))
                .hba("host all all 127.0.0.1/32 trust"),
        );
        let primary = cluster.primary();
        primary.psql(&format!(
            "CREATE DATABASE {DATABASE}; CREATE DATABASE {SCRAM_DATABASE};
             CREATE ROLE {SCRAM_USER} LOGIN PASSWORD '{SCRAM_PASSWORD}';"
        ))?;
        let scram_secret = primary.psql(&format!(
            "SELECT rolpassword FROM pg_authid WHERE rolname = '{SCRAM_USER}'"
        ))?;
        let mut rig = Self {
            cluster,
            authority,
            subjects: subjects.to_vec(),
            pgbouncer_version: None,
            server_identity: identity,
            scram_secret,
            pool_size,
            trust: Poolers::default(),
        };
        rig.trust = rig.poolers(Auth::Trust, subjects)?;
        rig.pgbouncer_version = rig.trust.pgbouncer.as_ref().map(PgBouncer::version);
        eprintln!("filling the database");
        crate::load::initialise(&rig, SCALE)?;
        for replica in rig.cluster.replicas() {
            replica.wait_caught_up(rig.cluster.primary())?;
        }
        Ok(rig)
    }

    /// Where `subject` is reached without a password.
    pub(crate) fn endpoint(&self, subject: Subject) -> Endpoint {
        self.trust.endpoint(subject, &self.cluster, DATABASE)
    }

    /// Runs `measure` on newly started poolers, the first of `subjects` first.
    pub(crate) fn with_fresh_poolers(
        &self,
        auth: Auth,
        mut measure: impl FnMut(Subject, Endpoint) -> Result<()>,
    ) -> Result<()> {
        let poolers = self.poolers(auth, &self.subjects)?;
        let database = match auth {
            Auth::Trust => DATABASE,
            Auth::Scram => SCRAM_DATABASE,
        };
        self.subjects
            .iter()
            .try_for_each(|s| measure(*s, poolers.endpoint(*s, &self.cluster, database)))
    }

    /// Runs `measure` on newly started poolers: without routing, with reads divided by hand, and with routing.
    pub(crate) fn with_and_without_routing<T>(
        &self,
        measure: impl FnOnce([(Subject, Endpoint); 3]) -> Result<T>,
    ) -> Result<T> {
        let poolers = self.poolers(Auth::Trust, &Subject::OF_ROUTING)?;
        measure(Subject::OF_ROUTING.map(|subject| {
            let half = match subject {
                Subject::ByHand => OTHER_HALF,
                _ => DATABASE,
            };
            let endpoint = poolers.endpoint(subject, &self.cluster, DATABASE);
            let half = Some(half);
            (subject, Endpoint { half, ..endpoint })
        }))
    }

    /// How often pgbench's main table was looked into on all replicas, once nobody is connected there:
    /// a backend may keep its counts to itself until it ends.
    pub(crate) fn lookups_on_replicas(&self) -> Result<u64> {
        let mut lookups = 0;
        for replica in self.cluster.replicas() {
            replica.wait_until(&format!(
                "NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = '{DATABASE}')"
            ))?;
            let sql = "SELECT idx_scan FROM pg_stat_user_tables WHERE relname = 'pgbench_accounts'";
            lookups += replica.psql_in(DATABASE, sql)?.parse::<u64>()?;
        }
        Ok(lookups)
    }

    fn poolers(&self, auth: Auth, subjects: &[Subject]) -> Result<Poolers> {
        let wanted = |subject| subjects.contains(&subject);
        let mut poolers = Poolers::default();
        if wanted(Subject::Pgweir) {
            let builder = PgweirBuilder::without_servers();
            let alone = builder.server(self.cluster.primary(), "primary");
            poolers.pgweir = Some(self.pgweir(alone.pool_size(self.pool_size), auth)?);
        }
        // Every replica has a pool of its own: together they are to run as many reads at once.
        let replicas = self.cluster.replicas();
        let size = self.pool_size.div_ceil(replicas.len().max(1));
        if wanted(Subject::Routed) {
            let all = Pgweir::builder(&self.cluster).pool_size(size);
            let patient = known_as(PATIENT, self.cluster.nodes(), "on_lag = \"wait\"");
            poolers.routed = Some(self.pgweir(all.extra(&patient), auth)?);
        }
        if wanted(Subject::ByHand) {
            let (first, others) = replicas.split_first().context("there are replicas")?;
            let one = PgweirBuilder::without_servers().server(first, "auto");
            let one = one.pool_size(size).extra(&known_as(OTHER_HALF, others, ""));
            poolers.by_hand = Some(self.pgweir(one, auth)?);
        }
        if wanted(Subject::PgBouncer) {
            let program = env::var_os("PGBOUNCER").filter(|path| !path.is_empty());
            let program = program.map_or_else(|| PathBuf::from("pgbouncer"), PathBuf::from);
            let spec = PgBouncerSpec {
                program,
                pool_size: self.pool_size,
                auth,
                users: [(USER, ""), (SCRAM_USER, &self.scram_secret)],
                identity: &self.server_identity,
            };
            let started = PgBouncer::start(&spec, &self.cluster);
            poolers.pgbouncer = Some(started.context("starting PgBouncer")?);
        }
        Ok(poolers)
    }

    fn pgweir(&self, builder: PgweirBuilder, auth: Auth) -> Result<Pgweir> {
        let path = |name: &str, contents: &str| -> Result<String> {
            let path = self.cluster.dir().join(name);
            std::fs::write(&path, contents)?;
            Ok(format!("{:?}", path.display().to_string()))
        };
        let auth_type = match auth {
            Auth::Trust => "\"trust\"",
            Auth::Scram => "\"scram-sha-256\"",
        };
        Ok(builder
            .pool_mode("transaction")
            .pgweir("auth_type", auth_type)
            // The servers offer TLS, for the clients that log in directly; between pooler and server
            // nobody uses it here.
            .pgweir("server_tls_sslmode", "\"disable\"")
            .pgweir("client_tls_sslmode", "\"allow\"")
            .pgweir(
                "client_tls_cert_file",
                &path("pgweir.crt", &self.server_identity.certificate)?,
            )
            .pgweir(
                "client_tls_key_file",
                &path("pgweir.key", &self.server_identity.key)?,
            )
            .extra(&format!(
                "[users.{SCRAM_USER}]\npassword = \"{}\"",
                self.scram_secret
            ))
            .start())
    }
}

/// [`DATABASE`] under another name, on these servers and with this setting.
fn known_as(name: &str, nodes: &[Node], setting: &str) -> String {
    let server = |node: &Node| format!("{{ host = \"127.0.0.1\", port = {} }}", node.port());
    let servers: Vec<_> = nodes.iter().map(server).collect();
    let servers = servers.join(", ");
    format!("[databases.{name}]\ndbname = \"{DATABASE}\"\nservers = [{servers}]\n{setting}\n")
}

impl Poolers {
    fn endpoint(&self, subject: Subject, cluster: &Cluster, direct: &'static str) -> Endpoint {
        let ours = |pooler: &Option<Pgweir>| {
            let pooler = pooler.as_ref().expect("it is among the subjects");
            (pooler.port(), Some(pooler.pid()), DATABASE)
        };
        let (port, pid, database) = match subject {
            Subject::Direct => (cluster.primary().port(), None, direct),
            Subject::Pgweir => ours(&self.pgweir),
            Subject::Routed => ours(&self.routed),
            Subject::ByHand => ours(&self.by_hand),
            Subject::PgBouncer => {
                let pooler = self.pgbouncer.as_ref().expect("it is among the subjects");
                (pooler.port(), Some(pooler.pid()), DATABASE)
            }
        };
        Endpoint {
            port,
            pid,
            database,
            half: None,
        }
    }
}
