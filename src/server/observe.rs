//! What a server is, asked of itself: its role, whose data it holds, how far it has come.
//!
//! Everything here is readable by an ordinary user on PostgreSQL 14 to 18. Knows nothing of the other
//! servers, nor of what follows from an answer.
//!
//! Invariant: a [`Position`] says whether it was found in recovery by the very query that found it, so
//! an insert position is never taken for a replayed one while a standby is being promoted.

use std::time::Duration;

use super::{
    ConnectError, ServerLogin,
    inquiry::{Inquiry, InquiryError, Prepared, Row, Rows},
};

/// As which the servers see these connections.
pub const APPLICATION_NAME: &str = "pgweir monitor";

/// No answer here comes near it.
const LONGEST_ANSWER: u32 = 30_000;

/// Asked all the time, so as short as can be. The inner query is a fence: its one volatile function is
/// called once, before the position is looked up.
const POSITION: &str = "
    SELECT r,
        CASE WHEN r THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END - '0/0'
    FROM (SELECT pg_is_in_recovery() AS r OFFSET 0) s";

/// The timeline of a primary stands in the name of the file that it writes to: `pg_control_checkpoint()`
/// shows the old one for a while after a promotion. A standby does not say what it replays; the newest
/// of three is what it has certainly come to, and `received_tli` can be read by members of
/// `pg_read_all_stats` only. Without it, a standby is on the new timeline for us at its next
/// restartpoint.
const IDENTITY: &str = "
    SELECT r,
        CASE WHEN r THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END - '0/0',
        (SELECT system_identifier FROM pg_control_system()),
        CASE WHEN r
            THEN greatest(
                (SELECT timeline_id FROM pg_control_checkpoint()),
                (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
                (SELECT max(received_tli) FROM pg_stat_wal_receiver))
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint
        END,
        (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint - 946684800000000,
        current_setting('server_version_num'),
        current_setting('wal_block_size'),
        CASE WHEN r AND pg_last_wal_receive_lsn() <= pg_last_wal_replay_lsn() THEN 0
             WHEN r THEN (extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())
                          * 1000000)::bigint
        END
    FROM (SELECT pg_is_in_recovery() AS r OFFSET 0) s";

/// Of a service that keeps its WAL to itself.
const ROLE_ONLY: &str = "
    SELECT pg_is_in_recovery(), NULL, NULL, NULL,
        (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint - 946684800000000,
        current_setting('server_version_num'), NULL, NULL";

/// What a server is. It stays that until it restarts or is promoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// A standby, not a primary.
    pub in_recovery: bool,
    /// The system identifier; `None` where the server keeps it to itself.
    pub system: Option<u64>,
    /// The timeline that it writes, or is certain to have replayed to; `None` likewise.
    pub timeline: Option<u32>,
    /// When the postmaster was started, in microseconds since 2000.
    pub started: u64,
    /// `server_version_num`, as in 150018.
    pub version: u32,
    /// Bytes of a WAL page.
    pub wal_page: u32,
}

/// How far a server has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Whether it was in recovery when the position was looked up.
    pub in_recovery: bool,
    /// In recovery, the end of what is replayed; else the position at which it will insert next, as the
    /// server says it. In bytes of WAL; `None` when it has none or does not tell.
    pub lsn: Option<u64>,
}

/// All that is asked at a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// What it is.
    pub identity: Identity,
    /// How far it has come.
    pub position: Position,
    /// By its own clocks, the age of what a standby shows: zero when it has replayed all that it has
    /// received. `None` for a primary, and when it cannot tell.
    pub delay: Option<Duration>,
}

/// Why a server was not observed.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No answer.
    #[error("it does not answer")]
    Ask(#[from] InquiryError),
    /// No connection, or no answer, in time.
    #[error("no answer within {0:?} (health_check_timeout)")]
    Timeout(Duration),
    /// Another login is configured.
    #[error("it is to be reached otherwise from now on")]
    OtherLogin,
    /// An answer that cannot be read.
    #[error("it tells something else than asked: {0}")]
    Answer(&'static str),
}

/// A connection for observing one server.
#[derive(Debug)]
pub struct Observer {
    inquiry: Inquiry,
    position: Option<Prepared>,
}

impl Observer {
    /// Connects, and takes a first look.
    ///
    /// # Cancel safety
    /// Dropping it closes the connection.
    pub async fn open(login: &ServerLogin) -> Result<(Self, Sight), ObserveError> {
        let inquiry = Inquiry::open(login, APPLICATION_NAME, &[]).await?;
        let mut observer = Self {
            inquiry,
            position: None,
        };
        // Between two looks the connection is idle, which is nobody's neglect. Not at startup: a server
        // that does not know the setting would refuse the login.
        let own = "SET idle_session_timeout = 0";
        forgive(observer.inquiry.ask(own, LONGEST_ANSWER).await)?;
        let sight = observer.look().await?;
        if sight.position.lsn.is_some() {
            let prepared = observer.inquiry.prepare("position", POSITION).await;
            observer.position = forgive(prepared)?;
        }
        Ok((observer, sight))
    }

    /// Asks what the server is and how far it has come.
    ///
    /// # Cancel safety
    /// Dropped half-way, the connection is good for closing only, and says so.
    pub async fn look(&mut self) -> Result<Sight, ObserveError> {
        let rows = match self.inquiry.ask(IDENTITY, LONGEST_ANSWER).await {
            Err(InquiryError::Refused(refusal)) => {
                tracing::debug!(%refusal, "server does not tell its position");
                self.inquiry.ask(ROLE_ONLY, LONGEST_ANSWER).await?
            }
            answer => answer?,
        };
        sight(only(&rows)?)
    }

    /// Asks how far the server has come: one write, one read.
    ///
    /// # Cancel safety
    /// As [`Self::look`].
    pub async fn position(&mut self) -> Result<Position, ObserveError> {
        let Some(question) = &self.position else {
            return Ok(self.look().await?.position);
        };
        let rows = match self.inquiry.ask_prepared(question, LONGEST_ANSWER).await {
            // A conflict with recovery may hit any query on a standby. Not twice in a row.
            Err(InquiryError::Refused(_)) => {
                self.inquiry.ask_prepared(question, LONGEST_ANSWER).await?
            }
            answer => answer?,
        };
        position(only(&rows)?)
    }

    /// Waits until the connection breaks while nothing is asked: the server was stopped, or died.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    pub async fn broken(&mut self) -> ObserveError {
        self.inquiry.broken().await.into()
    }
}

/// A refusal is as good as no answer.
fn forgive<T>(answer: Result<T, InquiryError>) -> Result<Option<T>, InquiryError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(InquiryError::Refused(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn only(rows: &Rows) -> Result<Row<'_>, ObserveError> {
    match (rows.len(), rows.at(0)) {
        (1, Some(row)) => Ok(row),
        _ => Err(ObserveError::Answer("one row")),
    }
}

fn position(row: Row<'_>) -> Result<Position, ObserveError> {
    let in_recovery = match row.text(0) {
        Some("t") => true,
        Some("f") => false,
        _ => return Err(ObserveError::Answer("pg_is_in_recovery()")),
    };
    let lsn = number(row, 1, "the position in the WAL")?;
    Ok(Position { in_recovery, lsn })
}

fn sight(row: Row<'_>) -> Result<Sight, ObserveError> {
    let position = position(row)?;
    let identity = Identity {
        in_recovery: position.in_recovery,
        system: number(row, 2, "system_identifier")?,
        timeline: number(row, 3, "the timeline")?,
        started: number(row, 4, "pg_postmaster_start_time()")?
            .ok_or(ObserveError::Answer("pg_postmaster_start_time()"))?,
        version: number(row, 5, "server_version_num")?.unwrap_or(0),
        wal_page: number(row, 6, "wal_block_size")?.unwrap_or(0),
    };
    // Clocks differ: a primary whose clock is ahead makes it negative.
    let delay = number::<i64>(row, 7, "the delay of replay")?;
    let delay = delay.map(|micros| Duration::from_micros(u64::try_from(micros).unwrap_or(0)));
    Ok(Sight {
        identity,
        position,
        delay,
    })
}

fn number<T: std::str::FromStr>(
    row: Row<'_>,
    column: usize,
    what: &'static str,
) -> Result<Option<T>, ObserveError> {
    let text = row.text(column).filter(|text| !text.is_empty());
    let number = text.map(str::parse).transpose();
    number.map_err(|_| ObserveError::Answer(what))
}
