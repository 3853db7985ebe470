//! PgBouncer as a child process, set up like pgweir.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use pgweir::sandbox::{Cluster, ProcessLog, Waited};

use crate::{rig::Auth, support::tls::Identity};

/// Prepared statements in transaction mode came with 1.21.
pub(crate) const HAS_PREPARED: (u32, u32) = (1, 21);

/// What a PgBouncer is to be like.
pub(crate) struct PgBouncerSpec<'a> {
    pub(crate) program: PathBuf,
    pub(crate) pool_size: usize,
    pub(crate) auth: Auth,
    /// Names, and secrets as in `pg_authid`.
    pub(crate) users: [(&'static str, &'a str); 2],
    pub(crate) identity: &'a Identity,
}

/// A running PgBouncer, killed on drop.
pub(crate) struct PgBouncer {
    child: Child,
    port: u16,
    version: (u32, u32),
}

impl PgBouncer {
    pub(crate) fn start(spec: &PgBouncerSpec<'_>, cluster: &Cluster) -> Result<Self> {
        // It refuses to run as root; the owner of the cluster is an ordinary user.
        let owner = fs::metadata(cluster.dir())?;
        let port = free_port()?;
        let version = version(&spec.program)?;
        let config = spec.write(cluster, port, version)?;
        let mut command = Command::new(&spec.program);
        if fs::metadata("/proc/self")?.uid() == 0 {
            command.uid(owner.uid()).gid(owner.gid());
        }
        let mut child = command
            .arg(config)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("running {}", spec.program.display()))?;
        let stderr = child.stderr.take().context("stderr is a pipe")?;
        let log = ProcessLog::drain(stderr);
        let started = Self {
            child,
            port,
            version,
        };
        match log.wait_for(0, Duration::from_secs(30), |l| l.contains("process up")) {
            Waited::Line(_) => Ok(started),
            _ => bail!("it does not start:\n{}", log.text()),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Major and minor, as in 1.18.
    pub(crate) fn version(&self) -> (u32, u32) {
        self.version
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl PgBouncerSpec<'_> {
    fn write(&self, cluster: &Cluster, port: u16, version: (u32, u32)) -> Result<PathBuf> {
        let dir = cluster.dir().join(format!("pgbouncer-{port}"));
        let owner = fs::metadata(cluster.dir())?;
        fs::create_dir(&dir)?;
        let write = |name: &str, contents: &str| -> Result<PathBuf> {
            let path = dir.join(name);
            fs::write(&path, contents)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            chown(&path, Some(owner.uid()), Some(owner.gid()))?;
            Ok(path)
        };
        let users: Vec<String> = self
            .users
            .iter()
            .map(|(name, secret)| format!("\"{name}\" \"{secret}\"\n"))
            .collect();
        let users = write("userlist.txt", &users.concat())?;
        let certificate = write("server.crt", &self.identity.certificate)?;
        let key = write("server.key", &self.identity.key)?;
        let auth_type = match self.auth {
            Auth::Trust => "trust",
            Auth::Scram => "scram-sha-256",
        };
        let prepared = if version >= HAS_PREPARED {
            "max_prepared_statements = 200"
        } else {
            ""
        };
        let config = format!(
            "[databases]
* = host=127.0.0.1 port={server_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = {auth_type}
auth_file = {users}
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = 10000
server_tls_sslmode = disable
client_tls_sslmode = allow
client_tls_cert_file = {certificate}
client_tls_key_file = {key}
log_connections = 0
log_disconnections = 0
log_stats = 0
{prepared}
",
            server_port = cluster.primary().port(),
            users = users.display(),
            pool_size = self.pool_size,
            certificate = certificate.display(),
            key = key.display(),
        );
        let path = write("pgbouncer.ini", &config)?;
        chown(&dir, Some(owner.uid()), Some(owner.gid()))?;
        Ok(path)
    }
}

fn version(program: &Path) -> Result<(u32, u32)> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .with_context(|| format!("running {}", program.display()))?;
    let text = String::from_utf8(output.stdout)?;
    let number = text.strip_prefix("PgBouncer ").unwrap_or_default();
    let mut parts = number.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => bail!("{text:?} names no version"),
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}
