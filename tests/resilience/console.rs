//! What the console shows, awaited.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::sleep;

use crate::support::{
    Pgweir,
    wire::{Wire, soon},
};

/// An administrator who watches one pool.
pub(crate) struct Watch {
    console: Wire,
    database: String,
    user: String,
}

impl Watch {
    /// Watches the pool of `postgres` in the database.
    pub(crate) async fn of(pooler: &Pgweir, database: &str) -> Self {
        Self {
            console: Wire::console(pooler).await,
            database: database.to_owned(),
            user: "postgres".to_owned(),
        }
    }

    /// Watches the pool of another user.
    pub(crate) fn of_user(self, user: &str) -> Self {
        Self {
            user: user.to_owned(),
            ..self
        }
    }

    /// A column of SHOW POOLS; 0 for a pool that is not there.
    pub(crate) async fn pool(&mut self, column: &str) -> u64 {
        let rows = self.console.table("SHOW POOLS").await;
        let row = rows.iter().find(|row| self.is_watched(row));
        row.map_or(0, |row| row[column].parse().unwrap())
    }

    /// The connections of the pool to the server.
    pub(crate) async fn servers(&mut self) -> Vec<BTreeMap<String, String>> {
        let mut rows = self.console.table("SHOW SERVERS").await;
        rows.retain(|row| self.is_watched(row));
        rows
    }

    fn is_watched(&self, row: &BTreeMap<String, String>) -> bool {
        row["database"] == self.database && row["user"] == self.user
    }

    /// Waits until a column of SHOW POOLS has this value.
    pub(crate) async fn until(&mut self, column: &str, value: u64) {
        let reached = async {
            while self.pool(column).await != value {
                sleep(Duration::from_millis(2)).await;
            }
        };
        soon(&format!("{column} becomes {value}"), reached).await;
    }

    /// Waits until the pool has so many connections, whatever they do.
    pub(crate) async fn until_servers(&mut self, count: usize) {
        let reached = async {
            while self.servers().await.len() != count {
                sleep(Duration::from_millis(2)).await;
            }
        };
        soon(&format!("{count} servers"), reached).await;
    }
}
