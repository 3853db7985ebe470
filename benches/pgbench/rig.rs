//! What is measured: PostgreSQL, and each pooler before it, with equal settings.

use std::{env, path::PathBuf};

use anyhow::{Context, Result};

use crate::{
    pgbouncer::{PgBouncer, PgBouncerSpec},
    support::{
        self, Pgweir,
        tls::{Authority, Identity},
    },
};
use pgweir::sandbox::Cluster;

/// The database that pgbench has filled.
pub(crate) const DATABASE: &str = "bench";
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
}

impl Subject {
    pub(crate) const ALL: [Self; 3] = [Self::Direct, Self::Pgweir, Self::PgBouncer];

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
}

impl Rig {
    pub(crate) fn start(pool_size: usize, subjects: &[Subject]) -> Result<Self> {
        let authority = Authority::new();
        let identity = authority.server(&["127.0.0.1"]);
        let cluster = support::start(
            Cluster::builder(support::binaries())
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
        rig.trust = rig.poolers(Auth::Trust)?;
        rig.pgbouncer_version = rig.trust.pgbouncer.as_ref().map(PgBouncer::version);
        eprintln!("filling the database");
        crate::load::initialise(&rig, SCALE)?;
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
        let poolers = self.poolers(auth)?;
        let database = match auth {
            Auth::Trust => DATABASE,
            Auth::Scram => SCRAM_DATABASE,
        };
        self.subjects
            .iter()
            .try_for_each(|s| measure(*s, poolers.endpoint(*s, &self.cluster, database)))
    }

    fn poolers(&self, auth: Auth) -> Result<Poolers> {
        let wanted = |subject| self.subjects.contains(&subject);
        let mut poolers = Poolers::default();
        if wanted(Subject::Pgweir) {
            poolers.pgweir = Some(self.pgweir(auth)?);
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

    fn pgweir(&self, auth: Auth) -> Result<Pgweir> {
        let path = |name: &str, contents: &str| -> Result<String> {
            let path = self.cluster.dir().join(name);
            std::fs::write(&path, contents)?;
            Ok(format!("{:?}", path.display().to_string()))
        };
        let auth_type = match auth {
            Auth::Trust => "\"trust\"",
            Auth::Scram => "\"scram-sha-256\"",
        };
        Ok(Pgweir::builder(&self.cluster)
            .pool_mode("transaction")
            .pool_size(self.pool_size)
            .pgweir("auth_type", auth_type)
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

impl Poolers {
    fn endpoint(&self, subject: Subject, cluster: &Cluster, direct: &'static str) -> Endpoint {
        let (port, pid, database) = match subject {
            Subject::Direct => (cluster.primary().port(), None, direct),
            Subject::Pgweir => {
                let pooler = self.pgweir.as_ref().expect("it is among the subjects");
                (pooler.port(), Some(pooler.pid()), DATABASE)
            }
            Subject::PgBouncer => {
                let pooler = self.pgbouncer.as_ref().expect("it is among the subjects");
                (pooler.port(), Some(pooler.pid()), DATABASE)
            }
        };
        Endpoint {
            port,
            pid,
            database,
        }
    }
}
