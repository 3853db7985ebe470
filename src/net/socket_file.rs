//! The file of a Unix listening socket: made with the wanted rights, protected from a second process, removed at the end.
//!
//! ```text
//! lock .s.PGSQL.<port>.lock ──taken──▶ in use
//!        │ free
//! knock at .s.PGSQL.<port> ──answered──▶ in use (a PostgreSQL, which does not lock)
//!        │ refused: its owner is dead
//! remove, bind, set mode and group, listen
//! ```
//!
//! The lock is the kernel's, so it ends with its process however that ends; the file's text is PostgreSQL's, which reads it
//! to tell who is there.

use std::{
    fs::{self, File, Permissions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use socket2::{Domain, Socket, Type};
use thiserror::Error;

use super::connect::unix_address;

/// Where and how a Unix socket is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixOptions {
    /// `unix_socket_dir`; in the abstract namespace, without a file, when it begins with `@`.
    pub directory: PathBuf,
    /// `unix_socket_mode`: permission bits.
    pub mode: u32,
    /// `unix_socket_group`: a name of `/etc/group`, or a number.
    pub group: Option<String>,
}

/// Why there is no socket file.
#[derive(Debug, Error)]
pub enum SocketFileError {
    /// Another process serves it.
    #[error("it is in use by {}", owner.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}")))]
    InUse {
        /// Who, as far as the lock file tells.
        owner: Option<u32>,
    },
    /// Something else has that name; it is not removed.
    #[error("there is a file of that name that is not a socket")]
    NotASocket,
    /// The lock file beside it.
    #[error("cannot write lock file \"{}\"", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// `unix_socket_group`.
    #[error("there is no group \"{0}\"")]
    NoGroup(String),
    /// The left-over of a dead process.
    #[error("cannot remove the socket file of a dead process")]
    Replace(#[source] io::Error),
    /// Directory missing, name too long, no rights …
    #[error("cannot create it")]
    Bind(#[source] io::Error),
    /// Mode or group.
    #[error("cannot set its permissions")]
    Permissions(#[source] io::Error),
}

/// Owns the name; dropping it removes the file, unless it has become another's.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device_and_inode: (u64, u64),
    lock_path: PathBuf,
    /// Released when dropped, after the removal.
    _lock: File,
}

impl SocketFile {
    /// A bound socket that does not listen yet, so that nobody gets in before the permissions are set.
    pub(super) fn bind(
        path: &Path,
        port: u16,
        options: &UnixOptions,
    ) -> Result<(Socket, Option<Self>), SocketFileError> {
        let socket =
            Socket::new(Domain::UNIX, Type::STREAM, None).map_err(SocketFileError::Bind)?;
        let address = unix_address(path).map_err(SocketFileError::Bind)?;
        if options.directory.as_os_str().as_encoded_bytes().first() == Some(&b'@') {
            return match socket.bind(&address) {
                Ok(()) => Ok((socket, None)),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    Err(SocketFileError::InUse { owner: None })
                }
                Err(error) => Err(SocketFileError::Bind(error)),
            };
        }
        let group = options.group.as_deref().map(group_id).transpose()?;
        let (lock_path, mut lock) = lock(path)?;
        clear_way(path, &mut lock)?;
        socket.bind(&address).map_err(SocketFileError::Bind)?;
        let made = fs::symlink_metadata(path).map_err(SocketFileError::Bind)?;
        let file = Self {
            path: path.to_owned(),
            device_and_inode: (made.dev(), made.ino()),
            lock_path,
            _lock: sign(lock, port, options).map_err(|source| SocketFileError::Lock {
                path: path.to_owned(),
                source,
            })?,
        };
        fs::set_permissions(path, Permissions::from_mode(options.mode))
            .and_then(|()| match group {
                Some(group) => chown(path, None, Some(group)),
                None => Ok(()),
            })
            .map_err(SocketFileError::Permissions)?;
        Ok((socket, Some(file)))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|now| (now.dev(), now.ino()) == self.device_and_inode);
        if is_ours {
            // A left-over is no harm: the next to come finds it dead.
            drop(fs::remove_file(&self.path));
            drop(fs::remove_file(&self.lock_path));
        }
    }
}

/// Takes the lock file, or says who has it.
fn lock(socket: &Path) -> Result<(PathBuf, File), SocketFileError> {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    match try_lock(&path) {
        Ok(Some(lock)) => Ok((path, lock)),
        Ok(None) => Err(SocketFileError::InUse {
            owner: File::open(&path).ok().and_then(|mut lock| owner(&mut lock)),
        }),
        Err(source) => Err(SocketFileError::Lock { path, source }),
    }
}

fn try_lock(path: &Path) -> io::Result<Option<File>> {
    loop {
        let lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // The one who held it may have removed the file since it was opened here.
        let held = lock.metadata()?;
        match fs::metadata(path) {
            Ok(now) if (now.dev(), now.ino()) == (held.dev(), held.ino()) => return Ok(Some(lock)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

/// Removes the socket file of a dead process.
fn clear_way(path: &Path, lock: &mut File) -> Result<(), SocketFileError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(SocketFileError::Replace(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(SocketFileError::NotASocket),
        Ok(_) => {}
    }
    match knock(path) {
        // A full backlog is an answer too.
        Ok(()) => Err(SocketFileError::InUse { owner: owner(lock) }),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(SocketFileError::InUse { owner: owner(lock) })
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(SocketFileError::Replace)
        }
        Err(error) => Err(SocketFileError::Replace(error)),
    }
}

fn knock(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&unix_address(path)?)
}

/// The process id in the first line, as PostgreSQL writes it (negative for a stand-alone backend).
fn owner(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.rewind().ok()?;
    lock.take(64).read_to_string(&mut text).ok()?;
    let first = text.lines().next()?;
    first.trim().trim_start_matches('-').parse().ok()
}

/// Writes what PostgreSQL's `miscadmin.h` lists for `postmaster.pid`: process, data directory, start time, port, socket
/// directory. We have no data directory and no use for the time.
fn sign(mut lock: File, port: u16, options: &UnixOptions) -> io::Result<File> {
    lock.set_len(0)?;
    lock.rewind()?;
    let directory = options.directory.display();
    write!(lock, "{}\n\n\n{port}\n{directory}\n", std::process::id())?;
    Ok(lock)
}

fn group_id(group: &str) -> Result<u32, SocketFileError> {
    if let Ok(id) = group.parse() {
        return Ok(id);
    }
    fs::read("/etc/group")
        .ok()
        .and_then(|table| {
            table.split(|byte| *byte == b'\n').find_map(|line| {
                let mut fields = line.split(|byte| *byte == b':');
                let named = fields.next()? == group.as_bytes();
                let id = std::str::from_utf8(fields.nth(1)?).ok()?.parse().ok()?;
                named.then_some(id)
            })
        })
        .ok_or_else(|| SocketFileError::NoGroup(group.to_owned()))
}
