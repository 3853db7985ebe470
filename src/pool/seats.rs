//! How many clients there are: of the process, of each database and of each user.
//!
//! A client takes its seat before its login waits for anything, and keeps it to its end: no rush of
//! logins gets past a limit. Knows nothing of what the clients do.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;

use super::Pool;

/// All seats of the process.
#[derive(Debug, Default)]
pub struct Seats(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    databases: HashMap<Box<str>, usize>,
    users: HashMap<Box<str>, usize>,
}

/// How many there may be.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    /// `max_client_conn`.
    pub all: usize,
    /// `max_db_client_connections`.
    pub database: Option<usize>,
    /// `max_user_client_connections`.
    pub user: Option<usize>,
}

/// There are as many as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// The setting that decides it.
    pub setting: &'static str,
    /// Its value.
    pub most: usize,
}

/// One client's seat, until it is dropped.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    pool: Arc<Pool>,
}

impl Seats {
    /// Takes a seat for a client of this pool.
    pub fn take(self: &Arc<Self>, pool: &Arc<Pool>, most: Most) -> Result<Seat, Full> {
        let (database, user) = (&pool.name.database, &pool.name.user);
        let mut taken = self.lock();
        let of = |counts: &HashMap<Box<str>, usize>, name: &str| counts.get(name).copied();
        for (setting, count, most) in [
            ("max_client_conn", Some(taken.all), Some(most.all)),
            (
                "max_db_client_connections",
                of(&taken.databases, database),
                most.database,
            ),
            (
                "max_user_client_connections",
                of(&taken.users, user),
                most.user,
            ),
        ] {
            if let Some(most) = most
                && count.unwrap_or(0) >= most
            {
                return Err(Full { setting, most });
            }
        }
        taken.all += 1;
        *taken.databases.entry(database.clone()).or_default() += 1;
        *taken.users.entry(user.clone()).or_default() += 1;
        drop(taken);
        Ok(Seat {
            seats: Arc::clone(self),
            pool: Arc::clone(pool),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let name = &self.pool.name;
        let mut taken = self.seats.lock();
        taken.all -= 1;
        give_back(&mut taken.databases, &name.database);
        give_back(&mut taken.users, &name.user);
    }
}

/// Names that clients make up do not stay.
fn give_back(counts: &mut HashMap<Box<str>, usize>, name: &str) {
    if let Some(count) = counts.get_mut(name) {
        *count -= 1;
        if *count == 0 {
            counts.remove(name);
        }
    }
}
