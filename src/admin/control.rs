//! Commands that change something.
//!
//! A command that waits (PAUSE, WAIT_CLOSE, RELOAD …) is a future that may be dropped: a cancel
//! request or a client that leaves drops it, and a PAUSE that was not answered yet is undone. Which
//! database a name means is asked of the configuration, so that `"*"` counts.

use std::{future::pending, time::Duration};

use tokio::sync::oneshot;

use super::{
    Console, ControlRequest,
    command::{Control, ShutdownMode},
    refusal::Refusal,
    show,
};
use crate::{
    pool::{Pools, Signal},
    protocol::SqlState,
};

/// How often it is looked whether what is waited for has come.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The command was executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Done {
    /// For CommandComplete.
    pub(super) tag: String,
    /// What else the operator should know.
    pub(super) notices: Vec<String>,
}

impl From<&str> for Done {
    fn from(tag: &str) -> Self {
        Self {
            tag: tag.to_owned(),
            notices: Vec::new(),
        }
    }
}

/// Runs a command of this module. `user` is who asks, for the log.
///
/// # Cancel safety
/// May be dropped at any time; see above.
pub(super) async fn run(console: &Console, user: &str, command: &Control) -> Result<Done, Refusal> {
    tracing::info!(user, ?command, "console command");
    let pools = &*console.pools;
    match command {
        Control::Pause(database) => pause(console, database.as_deref()).await,
        Control::Resume(None) if pools.resume(None) => Ok("RESUME".into()),
        Control::Resume(None) => Err(Refusal::new("pooler is not paused/suspended")),
        Control::Resume(Some(database)) => {
            if pools.resume(Some(database)) {
                return Ok("RESUME".into());
            }
            known(console, "resume", Some(database))?;
            Err(Refusal::new(format!("database {database} is not paused")))
        }
        Control::Kill(database) => kill(console, database.as_deref()),
        Control::Reconnect(database) => {
            known(console, "reconnect", database.as_deref())?;
            pools.reconnect(database.as_deref());
            Ok("RECONNECT".into())
        }
        Control::WaitClose(database) => {
            known(console, "wait in", database.as_deref())?;
            until(|| !has_superseded(pools, database.as_deref())).await;
            Ok("WAIT_CLOSE".into())
        }
        Control::Disable(database) => {
            known(console, "disable", Some(database))?;
            pools.set_disabled(database, true);
            Ok("DISABLE".into())
        }
        Control::Enable(database) => {
            known(console, "enable", Some(database))?;
            pools.set_disabled(database, false);
            Ok("ENABLE".into())
        }
        Control::KillClient(id) => kill_client(console, *id),
        Control::Suspend => Err(Refusal::coded(
            SqlState::FEATURE_NOT_SUPPORTED,
            "SUSPEND is not supported",
        )
        .with_detail("PAUSE holds clients and closes server connections; so_reuseport lets a new process take over.")),
        Control::Reload => reload(console).await,
        Control::Set { key, value } => set(console, key, value).await,
        Control::Shutdown(mode) => {
            request(console, ControlRequest::Shutdown(*mode))?;
            if *mode == ShutdownMode::Immediate {
                // The answer is that the connection ends.
                return pending().await;
            }
            Ok("SHUTDOWN".into())
        }
    }
}

/// Refuses databases that do not exist, and the console's own.
fn known(console: &Console, verb: &str, database: Option<&str>) -> Result<(), Refusal> {
    let Some(name) = database else { return Ok(()) };
    if super::is_console(name) {
        return Err(Refusal::new(format!("cannot {verb} admin db: {name}")));
    }
    if console.config().database(name).is_none() && console.pools.of(Some(name)).is_empty() {
        return Err(Refusal::new(format!("no such database: {name}")));
    }
    Ok(())
}

async fn until(mut condition: impl FnMut() -> bool) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        look.tick().await;
        if condition() {
            return;
        }
    }
}

/// A PAUSE that is undone unless it is answered.
struct Unanswered<'a> {
    pools: &'a Pools,
    database: Option<&'a str>,
    undo: bool,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if self.undo {
            self.pools.undo_pause(self.database);
        }
    }
}

async fn pause(console: &Console, database: Option<&str>) -> Result<Done, Refusal> {
    let pools = &*console.pools;
    refuse_if_all_paused(pools)?;
    known(console, "pause", database)?;
    let mut pausing = Unanswered {
        pools,
        database,
        // Who asks again for what holds already does not undo it by going away.
        undo: !pools.is_paused(database),
    };
    pools.pause(database);
    until(|| !pools.is_paused(database) || !pools.has_servers(database)).await;
    pausing.undo = false;
    if !pools.is_paused(database) {
        return Err(Refusal::new("PAUSE was ended by RESUME"));
    }
    Ok("PAUSE".into())
}

fn refuse_if_all_paused(pools: &Pools) -> Result<(), Refusal> {
    if pools.is_paused(None) {
        return Err(Refusal::new("already suspended/paused"));
    }
    Ok(())
}

fn kill(console: &Console, database: Option<&str>) -> Result<Done, Refusal> {
    refuse_if_all_paused(&console.pools)?;
    known(console, "kill", database)?;
    console.pools.pause(database);
    for client in console.clients.all() {
        if database.is_none_or(|name| *client.pool.name.database == *name) {
            client.signal(Signal::Kill);
        }
    }
    Ok("KILL".into())
}

fn kill_client(console: &Console, id: u64) -> Result<Done, Refusal> {
    let is_meant = |other: u64| show::shown_id(other) == id;
    if let Some(client) = console.clients.all().iter().find(|c| is_meant(c.id)) {
        client.signal(Signal::Kill);
    } else if let Some(session) = console.sessions.all().iter().find(|s| is_meant(s.id)) {
        session.kill();
    } else {
        return Err(Refusal::new("client not found"));
    }
    Ok("KILL_CLIENT".into())
}

fn has_superseded(pools: &Pools, database: Option<&str>) -> bool {
    pools.of(database).iter().any(|pool| {
        let servers = pool.view().servers;
        servers.iter().any(|server| server.is_close_needed())
    })
}

async fn reload(console: &Console) -> Result<Done, Refusal> {
    let (reply, answer) = oneshot::channel();
    request(console, ControlRequest::Reload(reply))?;
    match answered(answer).await? {
        Ok(notices) => Ok(Done {
            notices,
            ..Done::from("RELOAD")
        }),
        Err(reason) => {
            let message = "RELOAD failed, see logs for additional details";
            Err(Refusal::coded(SqlState::CONFIG_FILE_ERROR, message).with_detail(reason))
        }
    }
}

async fn set(console: &Console, key: &str, value: &str) -> Result<Done, Refusal> {
    let (reply, answer) = oneshot::channel();
    let (key, value) = (key.to_owned(), value.to_owned());
    let tag = format!("SET {key}={value}");
    request(console, ControlRequest::Set { key, value, reply })?;
    match answered(answer).await? {
        Ok(notices) => Ok(Done { tag, notices }),
        Err(reason) => Err(Refusal::new("SET failed").with_detail(reason)),
    }
}

fn request(console: &Console, request: ControlRequest) -> Result<(), Refusal> {
    console.control.send(request).map_err(|_| shutting_down())
}

async fn answered<T>(answer: oneshot::Receiver<T>) -> Result<T, Refusal> {
    answer.await.map_err(|_| shutting_down())
}

fn shutting_down() -> Refusal {
    Refusal::new("pooler is shutting down")
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
