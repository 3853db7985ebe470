//! A TCP port that nobody else takes while the node that owns it is down.
//!
//! Ports lie below the ephemeral ranges of Linux (32768 and up) and macOS (49152 and up), or an
//! outgoing connection could sit on a stopped node's port. A lock file a port keeps the sandboxes
//! of other processes away.

use std::{
    env,
    fs::{self, File, OpenOptions, Permissions},
    hash::{BuildHasher, RandomState},
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
};

use super::SandboxError;

const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;
const ATTEMPTS: u16 = 500;

#[derive(Debug)]
pub(super) struct Port {
    pub(super) number: u16,
    /// Locked for as long as this lives.
    _lock: File,
}

impl Port {
    /// A free port, ours until dropped.
    pub(super) fn reserve() -> Result<Self, SandboxError> {
        let dir = env::temp_dir().join("pgweir-ports");
        fs::create_dir_all(&dir).map_err(SandboxError::io("create", &dir))?;
        // Other users of the machine take part in the locking too; not being allowed to is no harm.
        drop(fs::set_permissions(&dir, Permissions::from_mode(0o1777)));
        let start = random() % u64::from(COUNT);
        for attempt in 0..ATTEMPTS {
            let offset = (start + u64::from(attempt) * 7) % u64::from(COUNT);
            let number = FIRST + u16::try_from(offset).unwrap_or(0);
            let path = dir.join(number.to_string());
            let Ok(lock) = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o666)
                .open(&path)
            else {
                continue;
            };
            if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self {
                    number,
                    _lock: lock,
                });
            }
        }
        Err(SandboxError::NoPort)
    }
}

/// A number that differs from call to call and from process to process.
pub(super) fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_reserved_port_is_not_given_twice() {
        let ports: Vec<_> = (0..50).map(|_| Port::reserve().unwrap()).collect();
        let numbers: HashSet<_> = ports.iter().map(|p| p.number).collect();
        assert_eq!(numbers.len(), ports.len());
    }
}
