//! The configuration files of one node.
//!
//! Writes into a data directory whose server does not run.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use super::{Node, SandboxError, node::Site};

/// What a node is to be, beside its data directory.
pub(super) struct NodeSpec<'a> {
    pub(super) name: String,
    pub(super) settings: &'a [(String, String)],
    pub(super) hba: &'a [String],
    pub(super) files: &'a [(String, Vec<u8>)],
    /// The node to stream from, if this is a replica.
    pub(super) upstream: Option<&'a Node>,
}

/// Writes the configuration files of a node.
pub(super) fn configure(
    site: &Site,
    data_dir: &Path,
    spec: &NodeSpec<'_>,
) -> Result<(), SandboxError> {
    let conf = data_dir.join("postgresql.conf");
    let mut text = fs::read_to_string(&conf).map_err(SandboxError::io("read", &conf))?;
    let mut set = |name: &str, value: &str| {
        // Of two lines for one setting the later wins.
        text.push_str(&format!("\n{name} = '{}'\n", value.replace('\'', "''")));
    };
    set(
        "unix_socket_directories",
        &site.socket_dir().display().to_string(),
    );
    for (name, value) in spec.settings {
        set(name, value);
    }
    if let Some(upstream) = spec.upstream {
        set("primary_conninfo", &upstream.conninfo_for(&spec.name));
        write_file(site, &data_dir.join("standby.signal"), b"")?;
    }
    write_file(site, &conf, text.as_bytes())?;

    // The sandbox itself, and the replicas, always come in.
    let mut hba = "local all postgres trust\nlocal replication postgres trust\n".to_owned();
    for line in spec.hba {
        hba.push_str(line);
        hba.push('\n');
    }
    write_file(site, &data_dir.join("pg_hba.conf"), hba.as_bytes())?;
    for (name, contents) in spec.files {
        write_file(site, &data_dir.join(name), contents)?;
    }
    Ok(())
}

/// PostgreSQL refuses key files that others may read.
fn write_file(site: &Site, path: &Path, contents: &[u8]) -> Result<(), SandboxError> {
    let write = || {
        fs::write(path, contents)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        site.account.give(path)
    };
    write().map_err(SandboxError::io("write", path))
}
