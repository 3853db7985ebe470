//! What settings mean together: contradictions are refused, doubtful choices are told.
//!
//! Knows the meaning of settings, not their text. Reads the files that settings name, to see that they
//! are there and to notice at a reload that their content changed.

use std::{
    collections::HashSet,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use sha2::{Digest as _, Sha256};

use super::{
    database::{Database, MAX_SERVERS, User},
    error::Fault,
    file::Draft,
    pool_settings::PoolSettings,
    process::Process,
    secret::{self, PasswordForm},
    types::{AuthType, Role, SslMode, SslNegotiation},
};

/// The largest message PostgreSQL's protocol can have: a signed 32-bit length.
const LARGEST_PACKET: u64 = 2_147_483_647;

/// Longer than any network is waited for; a number copied from PgBouncer is longer still.
const LONGEST_USER_TIMEOUT: Duration = Duration::from_secs(3_600);

/// The result of [`check`].
#[derive(Default)]
pub(crate) struct Findings {
    /// What must be changed: the key's whole path, and why.
    pub(crate) faults: Vec<(String, Fault)>,
    /// What may be meant but should be known.
    pub(crate) warnings: Vec<String>,
    /// What the TLS files hold.
    pub(crate) tls: TlsContents,
}

/// Digests of the files that TLS settings name, for each leg.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsContents {
    pub(crate) client: [u8; 32],
    pub(crate) server: [u8; 32],
}

/// Looks at everything together.
pub(crate) fn check(draft: &Draft) -> Findings {
    let mut findings = Findings::default();
    findings.listeners(&draft.process);
    findings.process(&draft.process);
    findings.tls(&draft.process);
    findings.authentication(draft);
    findings.pool("pool", &draft.pool);
    for (name, database) in &draft.databases {
        findings.servers(&format!("databases.{name}.servers"), database);
        findings.database(&format!("databases.{name}"), database, &draft.pool);
    }
    for (name, user) in draft
        .users
        .iter()
        .filter(|(_, user)| !user.overrides.is_empty())
    {
        findings.pool(&format!("users.{name}"), &user.overrides.over(&draft.pool));
    }
    if draft.databases.is_empty() {
        findings
            .warnings
            .push("no database is configured: only the console answers".to_owned());
    }
    if draft.process.peer_id == 0 && !draft.peers.is_empty() {
        findings.fault(
            "peers",
            "need `peer_id` in [pgweir], the number of this process",
        );
    }
    if draft.process.peer_id > MAX_PEER_ID {
        let why = format!("must be at most {MAX_PEER_ID}");
        findings.fault("pgweir.peer_id", why);
    }
    if draft.process.peer_id > 0 && draft.process.max_client_conn > MAX_CLIENTS_BESIDE_PEERS {
        let why = format!("must be at most {MAX_CLIENTS_BESIDE_PEERS} with `peer_id`");
        findings.fault("pgweir.max_client_conn", why);
    }
    findings
}

/// The highest `peer_id`: it is a part of the cancel keys, see `pool::clients`.
pub const MAX_PEER_ID: u16 = 16_383;
/// Their numbers are that much fewer.
const MAX_CLIENTS_BESIDE_PEERS: usize = 100_000;

impl Findings {
    fn fault(&mut self, key: &str, why: impl Into<String>) {
        let fault = Fault::Contradiction {
            key: key.to_owned(),
            why: why.into(),
        };
        self.faults.push((key.to_owned(), fault));
    }

    fn listeners(&mut self, process: &Process) {
        let addresses = &process.listen_addr;
        if addresses.is_empty() && process.unix_socket_dir.is_none() {
            self.fault(
                "pgweir.listen_addr",
                "is empty and there is no `unix_socket_dir`: nothing would listen",
            );
        }
        let mut seen = HashSet::new();
        for address in addresses {
            if address != "*" && address.contains(|c: char| c.is_whitespace() || c == '/') {
                self.fault(
                    "pgweir.listen_addr",
                    format!("has \"{address}\", which is no address"),
                );
            }
            let same = address
                .parse::<IpAddr>()
                .map_or_else(|_| address.clone(), |ip| ip.to_string());
            if !seen.insert(same) {
                self.fault("pgweir.listen_addr", format!("has {address} twice"));
            }
        }
        if addresses.len() > 1 && addresses.iter().any(|address| address == "*") {
            self.fault(
                "pgweir.listen_addr",
                "has \"*\", which is every address, beside others",
            );
        }
        if let Some(directory) = &process.unix_socket_dir {
            self.socket_directory(directory);
        }
    }

    fn socket_directory(&mut self, directory: &Path) {
        use std::os::unix::fs::PermissionsExt as _;
        if directory.to_string_lossy().starts_with('@') {
            return;
        }
        match fs::metadata(directory) {
            Ok(found) if !found.is_dir() => {
                let reason = io::Error::from(io::ErrorKind::NotADirectory);
                self.file("pgweir.unix_socket_dir", directory, reason);
            }
            Ok(found) if found.permissions().mode() & 0o002 != 0 => self.warnings.push(format!(
                "every local user may write to unix_socket_dir {}, and so put a socket of his own there while pgweir is down",
                directory.display()
            )),
            Ok(_) => {}
            Err(reason) => self.file("pgweir.unix_socket_dir", directory, reason),
        }
    }

    fn process(&mut self, process: &Process) {
        if process.max_client_conn == 0 {
            self.fault("pgweir.max_client_conn", "must be at least 1");
        }
        if process.listen_backlog == 0 {
            self.fault("pgweir.listen_backlog", "must be at least 1");
        }
        if process.workers > 1024 {
            self.fault("pgweir.workers", "is at most 1024");
        }
        if !(16_384..=LARGEST_PACKET).contains(&process.max_packet_size) {
            self.fault(
                "pgweir.max_packet_size",
                "must be from 16kB to 2147483647 bytes",
            );
        }
        if process.scram_iterations == 0 {
            self.fault(
                "pgweir.scram_iterations",
                "must be at least 1; 4096 is PostgreSQL's default",
            );
        }
        if process
            .tcp_user_timeout
            .is_some_and(|timeout| timeout > LONGEST_USER_TIMEOUT)
        {
            let why =
                "is longer than an hour; PgBouncer counts milliseconds here, so write the unit";
            self.fault("pgweir.tcp_user_timeout", why);
        }
        self.positive(
            "pgweir",
            &[
                ("stats_period", process.stats_period),
                ("auth_query_timeout", process.auth_query_timeout),
                ("shutdown_cancel_timeout", process.shutdown_cancel_timeout),
            ],
        );
    }

    fn positive(&mut self, path: &str, durations: &[(&str, Duration)]) {
        for (name, duration) in durations {
            if duration.is_zero() {
                self.fault(&format!("{path}.{name}"), "must be longer than 0");
            }
        }
    }

    fn tls(&mut self, process: &Process) {
        let client = &process.client_tls;
        self.key_pair(
            "client_tls",
            client.key_file.as_ref(),
            client.cert_file.as_ref(),
        );
        if client.sslmode != SslMode::Disable && client.key_file.is_none() {
            self.fault(
                "pgweir.client_tls_sslmode",
                "needs client_tls_key_file and client_tls_cert_file",
            );
        }
        let asks = matches!(client.sslmode, SslMode::VerifyCa | SslMode::VerifyFull);
        if asks && client.ca_file.is_none() {
            self.fault(
                "pgweir.client_tls_sslmode",
                "needs client_tls_ca_file to check certificates with",
            );
        }
        let server = &process.server_tls;
        if server.negotiation == SslNegotiation::Direct && server.sslmode < SslMode::Require {
            // As in libpq: who begins with TLS cannot fall back to doing without.
            self.fault(
                "pgweir.server_tls_negotiation",
                "is \"direct\" and needs server_tls_sslmode = \"require\" or more".to_owned(),
            );
        }
        self.key_pair(
            "server_tls",
            server.key_file.as_ref(),
            server.cert_file.as_ref(),
        );
        self.tls.client = self.contents(
            "client_tls",
            [
                client.key_file.as_ref(),
                client.cert_file.as_ref(),
                client.ca_file.as_ref(),
            ],
        );
        self.tls.server = self.contents(
            "server_tls",
            [
                server.key_file.as_ref(),
                server.cert_file.as_ref(),
                server.ca_file.as_ref(),
            ],
        );
    }

    fn key_pair(&mut self, leg: &str, key: Option<&PathBuf>, certificate: Option<&PathBuf>) {
        if key.is_some() != certificate.is_some() {
            let (has, lacks) = if key.is_some() {
                ("key", "cert")
            } else {
                ("cert", "key")
            };
            self.fault(
                &format!("pgweir.{leg}_{has}_file"),
                format!("needs {leg}_{lacks}_file too"),
            );
        }
    }

    /// A digest over the key, certificate and CA file of one leg.
    fn contents(&mut self, leg: &str, files: [Option<&PathBuf>; 3]) -> [u8; 32] {
        let mut digest = Sha256::new();
        for (path, which) in files.into_iter().zip(["key", "cert", "ca"]) {
            let Some(path) = path else { continue };
            match secret::regular(path).and_then(|_| fs::read(path)) {
                Ok(content) => {
                    digest.update(which);
                    digest.update(Sha256::digest(&content));
                }
                Err(reason) => self.file(&format!("pgweir.{leg}_{which}_file"), path, reason),
            }
        }
        if let Some(key) = files[0]
            && secret::is_world_readable(key)
        {
            let key = key.display();
            self.warnings.push(format!(
                "{key} is a private key and every local user may read it"
            ));
        }
        digest.finalize().into()
    }

    fn file(&mut self, key: &str, path: &Path, reason: io::Error) {
        let fault = Fault::File {
            key: key.to_owned(),
            path: path.to_path_buf(),
            reason,
        };
        self.faults.push((key.to_owned(), fault));
    }

    fn authentication(&mut self, draft: &Draft) {
        let process = &draft.process;
        let files = [
            ("pgweir.auth_hba_file", &process.auth_hba_file),
            ("pgweir.auth_ident_file", &process.auth_ident_file),
        ];
        for (key, path) in files {
            if let Some(path) = path
                && let Err(reason) = secret::regular(path)
            {
                self.file(key, path, reason);
            }
        }
        match process.auth_type {
            AuthType::Hba if process.auth_hba_file.is_none() => {
                self.fault("pgweir.auth_type", "is \"hba\" and needs auth_hba_file");
            }
            AuthType::Cert if process.client_tls.sslmode != SslMode::VerifyFull => {
                self.fault("pgweir.auth_type", "is \"cert\" and needs client_tls_sslmode = \"verify-full\"");
            }
            AuthType::Trust if listens_beyond_loopback(process) => self.warnings.push(
                "auth_type is \"trust\" and listen_addr is open to the network: whoever reaches it is let in".to_owned(),
            ),
            AuthType::Plain if listens_beyond_loopback(process) && !requires_tls(process) => {
                self.warnings.push(
                    "auth_type is \"plain\" without client_tls_sslmode = \"require\": passwords cross the network in clear".to_owned(),
                );
            }
            _ => {}
        }
        for user in draft.users.values() {
            self.password_forms(process.auth_type, user);
        }
        for (database, path) in std::iter::once((process.auth_dbname.as_ref(), "pgweir".to_owned()))
            .chain(
                draft
                    .databases
                    .values()
                    .map(|d| (d.auth.dbname.as_ref(), format!("databases.{}", d.name))),
            )
        {
            if let Some(name) = database
                && !draft.databases.contains_key(name)
                && !draft.databases.contains_key(super::file::FALLBACK)
            {
                self.fault(
                    &format!("{path}.auth_dbname"),
                    format!("names \"{name}\", which is not among [databases]"),
                );
            }
        }
    }

    /// An MD5 verifier cannot serve SCRAM, nor a SCRAM secret an exchange in clear towards servers.
    fn password_forms(&mut self, auth_type: AuthType, user: &User) {
        let is_md5 = user
            .passwords
            .iter()
            .any(|password| password.form() == PasswordForm::Md5);
        if auth_type == AuthType::ScramSha256 && is_md5 {
            self.warnings.push(format!(
                "users.{} has an md5 password, which cannot be used with auth_type \"scram-sha-256\"",
                user.name
            ));
        }
    }

    fn pool(&mut self, path: &str, pool: &PoolSettings) {
        if let Some(limit) = pool.max_db_connections
            && limit < pool.pool_size
        {
            self.warnings.push(format!(
                "{path}: max_db_connections = {limit} keeps a pool from ever having its {} connections",
                pool.pool_size
            ));
        }
        if pool.pool_size == 0 {
            self.fault(&format!("{path}.default_pool_size"), "must be at least 1");
        }
        if pool.min_pool_size > pool.pool_size {
            let why = format!(
                "is {}, more than the {} connections of the pool",
                pool.min_pool_size, pool.pool_size
            );
            self.fault(&format!("{path}.min_pool_size"), why);
        }
        if pool.max_prepared_statements == 0 {
            self.fault(
                &format!("{path}.max_prepared_statements"),
                "must be at least 1: they are always tracked",
            );
        }
        if pool.server_connect_concurrency == 0 {
            self.fault(
                &format!("{path}.server_connect_concurrency"),
                "must be at least 1",
            );
        }
        if pool.ejection_failures == 0 {
            self.fault(&format!("{path}.ejection_failures"), "must be at least 1");
        }
        self.positive(
            path,
            &[
                ("server_connect_timeout", pool.server_connect_timeout),
                ("server_recovery_timeout", pool.server_recovery_timeout),
                ("health_check_interval", pool.health_check_interval),
                ("health_check_timeout", pool.health_check_timeout),
                ("catalog_refresh_interval", pool.catalog_refresh_interval),
            ],
        );
        if pool.server_reset_query_always && pool.server_reset_query.is_none() {
            self.fault(
                &format!("{path}.server_reset_query_always"),
                "needs a server_reset_query",
            );
        }
        if let Some(both) = pool
            .read_only_functions
            .iter()
            .find(|name| pool.write_functions.contains(name))
        {
            let why = format!("has {both}, which write_functions has too");
            self.fault(&format!("{path}.read_only_functions"), why);
        }
    }

    fn servers(&mut self, key: &str, database: &Database) {
        let servers = &database.servers;
        let primaries = servers
            .iter()
            .filter(|server| server.role == Role::Primary)
            .count();
        let has_auto = servers.iter().any(|server| server.role == Role::Auto);
        if servers.is_empty() {
            self.fault(key, "is empty");
        } else if primaries == 0 && !has_auto {
            self.fault(
                key,
                "has replicas only: one must be role = \"primary\" or \"auto\"",
            );
        }
        if primaries > 1 {
            self.fault(
                key,
                "has several primaries; with role = \"auto\" the real one is found",
            );
        }
        if servers.len() > MAX_SERVERS {
            let count = servers.len();
            self.fault(key, format!("has {count} servers; at most {MAX_SERVERS}"));
        }
        let mut seen = HashSet::new();
        for (index, server) in servers.iter().enumerate() {
            if !seen.insert((&server.host, server.port)) {
                self.fault(&format!("{key}[{index}]"), format!("repeats {server}"));
            }
        }
    }

    fn database(&mut self, path: &str, database: &Database, defaults: &PoolSettings) {
        if database.password.is_some() && database.user.is_none() {
            self.fault(
                &format!("{path}.password"),
                "needs `user`: whose password is it?",
            );
        }
        if database.overrides.is_empty() {
            return;
        }
        let pool = database.overrides.over(defaults);
        self.pool(path, &pool);
    }
}

fn requires_tls(process: &Process) -> bool {
    matches!(
        process.client_tls.sslmode,
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull
    )
}

/// Whether anyone but this machine can reach a listener.
pub(crate) fn listens_beyond_loopback(process: &Process) -> bool {
    process
        .listen_addr
        .iter()
        .any(|address| match address.parse::<IpAddr>() {
            Ok(address) => !address.is_loopback(),
            Err(_) => address != "localhost",
        })
}
