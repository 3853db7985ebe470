//! A cleanly stopped, freshly initialised data directory, of which every node is a copy.
//!
//! `initdb` takes the better part of a second, so the tests share its result: one directory per
//! account, build of PostgreSQL and set of options, under the temporary directory, made once under
//! a file lock.

use std::{
    env,
    fs::{self, DirBuilder, File},
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use super::{
    Binaries, SandboxError,
    account::{Account, run},
};

/// The superuser is always `postgres`, trusted; `pg_hba.conf` is written per node.
const INITDB: &[&str] = &[
    "--username=postgres",
    "--auth=trust",
    "--no-locale",
    "--encoding=UTF8",
    "--no-sync",
    "--no-instructions",
];

/// `initdb` into `dir`, which does not exist yet.
pub(super) fn initialise(
    binaries: &Binaries,
    account: Account,
    dir: &Path,
) -> Result<(), SandboxError> {
    let mut command = account.command(binaries.program("initdb"));
    run(command.args(INITDB).arg("--pgdata").arg(dir)).map(drop)
}

/// The shared template of these binaries; made when it is not there yet.
pub(super) fn cached(binaries: &Binaries, account: Account) -> Result<PathBuf, SandboxError> {
    let cache = env::temp_dir().join(format!("pgweir-templates-{}", account.uid));
    private_dir(&cache, account)?;
    let mut key = DefaultHasher::new();
    (INITDB, &binaries.full_version, &binaries.dir).hash(&mut key);
    let name = format!("{}-{:016x}", binaries.version, key.finish());
    let template = cache.join(&name);

    let lock_path = cache.join(format!("{name}.lock"));
    let lock = File::create(&lock_path).map_err(SandboxError::io("create", &lock_path))?;
    lock.lock().map_err(SandboxError::io("lock", &lock_path))?;
    // The system may have emptied an old temporary directory file by file.
    if template.join("PG_VERSION").is_file() && template.join("global/pg_control").is_file() {
        return Ok(template);
    }
    let unfinished = cache.join(format!("{name}.new"));
    for leftover in [&template, &unfinished] {
        if leftover.exists() {
            fs::remove_dir_all(leftover).map_err(SandboxError::io("remove", leftover))?;
        }
    }
    initialise(binaries, account, &unfinished)?;
    fs::rename(&unfinished, &template).map_err(SandboxError::io("rename", &unfinished))?;
    Ok(template)
}

/// Copies `template` to `dir`, which does not exist yet.
pub(super) fn copy(account: Account, template: &Path, dir: &Path) -> Result<(), SandboxError> {
    run(account.command("cp").arg("-Rp").arg(template).arg(dir)).map(drop)
}

/// Makes `dir` for `account` alone, or checks that it is so already: the path can be guessed, and
/// everybody may write to the directory it is in.
fn private_dir(dir: &Path, account: Account) -> Result<(), SandboxError> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => account.give(dir).map_err(SandboxError::io("chown", dir)),
        Err(_) => {
            let found = fs::symlink_metadata(dir).map_err(SandboxError::io("create", dir))?;
            // Root's for a moment when another process is just making it.
            if found.is_dir() && (found.uid() == account.uid || found.uid() == 0) {
                return Ok(());
            }
            Err(SandboxError::io("use", dir)(std::io::Error::other(
                "it belongs to somebody else",
            )))
        }
    }
}
