//! A console connection from its welcome to its end: simple and extended query.
//!
//! Knows how commands are asked for and answered, not what they do. The extended protocol (manual,
//! "Extended Query") is served whole but for parameters: statements, portals, binary results, a row
//! limit, errors that void what follows up to Sync.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

use bytes::BytesMut;
use hashbrown::HashMap;

use super::{
    Console, ConsoleContext, SERVER_VERSION, SessionRecord,
    command::{self, Command, Control, ExplainRoute},
    connection::{Connection, Lost, Message},
    control::{self, Done},
    explain,
    refusal::Refusal,
    show::{self, View},
    table::{self, Column, Formats, Rows},
};
use crate::{
    net::Stream,
    protocol::{
        FrontendTag, Malformed, SqlState,
        backend::TransactionStatus,
        encode::{self, Report, Severity},
        frontend::{self, Bind, Parse, Target},
        read::Reader,
    },
    server::connection::unix_now,
};

/// Named statements, and portals, that a connection may have.
const MOST_NAMES: usize = 100;
/// How long such a name may be, in bytes.
const LONGEST_NAME: usize = 128;
/// Rows are sent when so many bytes of them have been made.
const FLUSH_AT: usize = 16 << 10;

/// What a text means here.
#[derive(Clone, Debug)]
enum Plan {
    /// Nothing to do.
    Empty,
    /// A table.
    View(&'static View),
    /// EXPLAIN ROUTE.
    Explain(Arc<ExplainRoute>),
    /// SHOW HELP.
    Help,
    /// Accepted and ignored, with this tag.
    Ignored(&'static str),
    /// Something to change.
    Control(Control),
}

/// What executing a portal has come to.
enum Progress {
    /// It has not begun.
    Ready,
    /// These rows are left.
    Rows(std::iter::Peekable<Rows>),
    /// Nothing is left.
    Done,
}

struct Portal {
    plan: Plan,
    formats: Formats,
    progress: Progress,
}

/// Why the connection cannot go on, or only the command.
enum Failure {
    Refused(Refusal),
    Lost(Lost),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Self {
        Self::Refused(Refusal::new(malformed.to_string()))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Lost(Lost::Io(error))
    }
}

struct Session<'a> {
    console: &'a Console,
    record: &'a SessionRecord,
    connection: Connection,
    statements: HashMap<Box<[u8]>, Plan>,
    portals: HashMap<Box<[u8]>, Portal>,
    /// Whether messages are skipped up to the next Sync.
    skipping: bool,
}

/// Serves a connection to its end.
pub(super) async fn serve(
    stream: Stream,
    owed: Vec<u8>,
    received: BytesMut,
    context: ConsoleContext,
) -> io::Result<()> {
    let console = &*context.console;
    let id = console.clients.new_id();
    let entered = console
        .sessions
        .enter(context.login, id, unix_now())
        .map_err(io::Error::other)?;
    let record = &*entered.record;
    let mut out = owed;
    greet(&mut out, record);
    let mut session = Session {
        console,
        record,
        connection: Connection::new(stream, received, out),
        statements: HashMap::new(),
        portals: HashMap::new(),
        skipping: false,
    };
    let lost = tokio::select! {
        biased;
        () = record.killed.cancelled() => None,
        lost = session.run() => Some(lost),
    };
    let Some(lost) = lost else {
        let reason = "terminating connection due to administrator command";
        Refusal::coded(SqlState::ADMIN_SHUTDOWN, reason).farewell(&mut session.connection.out);
        return session.connection.try_flush().await;
    };
    match lost {
        Lost::Closed => Ok(()),
        Lost::Io(error) => Err(error),
        Lost::Frame(error) => {
            Refusal::new(error.to_string()).farewell(&mut session.connection.out);
            session.connection.try_flush().await
        }
    }
}

fn greet(out: &mut Vec<u8>, record: &SessionRecord) {
    for (name, value) in [
        ("server_version", SERVER_VERSION),
        ("client_encoding", "UTF8"),
        ("server_encoding", "UTF8"),
        ("DateStyle", "ISO"),
        ("TimeZone", "GMT"),
        ("standard_conforming_strings", "on"),
        ("is_superuser", "on"),
    ] {
        encode::parameter_status(out, name.as_bytes(), value.as_bytes());
    }
    encode::backend_key_data(out, record.process_id, &record.secret);
    encode::ready_for_query(out, TransactionStatus::Idle);
}

impl Session<'_> {
    async fn run(&mut self) -> Lost {
        loop {
            let message = match self.connection.message().await {
                Ok(message) if message.tag == FrontendTag::Terminate => return Lost::Closed,
                Ok(message) => message,
                Err(lost) => return lost,
            };
            if self.skipping && message.tag != FrontendTag::Sync {
                continue;
            }
            let is_query = message.tag == FrontendTag::Query;
            match self.handle(message).await {
                Ok(()) => {}
                Err(Failure::Refused(refusal)) => {
                    refusal.report(&mut self.connection.out);
                    self.skipping = !is_query;
                }
                Err(Failure::Lost(lost)) => return lost,
            }
            if is_query {
                self.ready();
            }
        }
    }

    async fn handle(&mut self, Message { tag, body }: Message) -> Result<(), Failure> {
        let body = &*body;
        match tag {
            FrontendTag::Query => self.query(body).await?,
            FrontendTag::Parse => self.parse(body)?,
            FrontendTag::Bind => self.bind(body)?,
            FrontendTag::Describe => self.describe(body)?,
            FrontendTag::Execute => self.execute(body).await?,
            FrontendTag::Close => self.close(body)?,
            FrontendTag::Flush => self.connection.flush().await?,
            FrontendTag::Sync => {
                self.skipping = false;
                self.portals.clear();
                self.ready();
            }
            // Outside of a COPY they mean nothing, as in PostgreSQL.
            FrontendTag::CopyData | FrontendTag::CopyDone | FrontendTag::CopyFail => {}
            FrontendTag::FunctionCall => {
                // Like Query it is answered with ReadyForQuery of its own.
                Refusal::new("the console has no functions").report(&mut self.connection.out);
                self.ready();
            }
            FrontendTag::Password | FrontendTag::Terminate => {
                return Err(Refusal::new("unexpected message").into());
            }
        }
        Ok(())
    }

    fn ready(&mut self) {
        encode::ready_for_query(&mut self.connection.out, TransactionStatus::Idle);
    }

    /// What a text means, if this user may have it.
    fn plan(&self, text: &[u8]) -> Result<Plan, Refusal> {
        let text = str::from_utf8(text).map_err(|_| Refusal::new("command is not in UTF-8"))?;
        let command = command::parse(text)?;
        if !self.record.login.role.may(&command) {
            return Err(Refusal::new("admin access needed"));
        }
        Ok(match command {
            Command::Empty => Plan::Empty,
            Command::Transaction(tag) => Plan::Ignored(tag),
            Command::IgnoredSet => Plan::Ignored("SET"),
            Command::Control(control) => Plan::Control(control),
            Command::Explain(asked) => Plan::Explain(Arc::new(asked)),
            Command::Show(what) if what == "help" => Plan::Help,
            Command::Show(what) => {
                Plan::View(show::view(&what).ok_or_else(|| Refusal::unknown(text))?)
            }
        })
    }

    // ── Simple query ─────────────────────────────────────────────────────────────────────────

    async fn query(&mut self, body: &[u8]) -> Result<(), Failure> {
        let plan = self.plan(frontend::query(body)?)?;
        let mut portal = Portal::new(plan, Formats::TEXT);
        self.begin(&mut portal)?;
        if let Some(columns) = portal.plan.columns() {
            table::header(&mut self.connection.out, columns, &Formats::TEXT);
        }
        self.run_portal(&mut portal, usize::MAX).await
    }

    // ── Extended query ───────────────────────────────────────────────────────────────────────

    fn parse(&mut self, body: &[u8]) -> Result<(), Failure> {
        let Parse { name, text, .. } = Parse::read(body)?;
        let plan = self.plan(text)?;
        if !name.is_empty() && self.statements.contains_key(name) {
            let message = format!(
                "prepared statement \"{}\" already exists",
                name.escape_ascii()
            );
            return Err(Refusal::coded(SqlState::DUPLICATE_PREPARED_STATEMENT, message).into());
        }
        room_for(name, self.statements.len())?;
        self.statements.insert(name.into(), plan);
        encode::parse_complete(&mut self.connection.out);
        Ok(())
    }

    fn bind(&mut self, body: &[u8]) -> Result<(), Failure> {
        let bind = Bind::read(body)?;
        let plan = self.statement(bind.statement)?.clone();
        let formats = formats(bind.rest, plan.columns().map_or(0, <[_]>::len))?;
        room_for(bind.portal, self.portals.len())?;
        self.portals
            .insert(bind.portal.into(), Portal::new(plan, formats));
        encode::bind_complete(&mut self.connection.out);
        Ok(())
    }

    fn describe(&mut self, body: &[u8]) -> Result<(), Failure> {
        let (columns, formats) = match Target::read(body)? {
            Target::Statement(name) => {
                let columns = self.statement(name)?.columns();
                encode::parameter_description(&mut self.connection.out, &[]);
                (columns, &Formats::TEXT)
            }
            Target::Portal(name) => {
                let portal = self.portals.get(name).ok_or_else(|| no_portal(name))?;
                (portal.plan.columns(), &portal.formats)
            }
        };
        match columns {
            Some(columns) => table::header(&mut self.connection.out, columns, formats),
            None => encode::no_data(&mut self.connection.out),
        }
        Ok(())
    }

    async fn execute(&mut self, body: &[u8]) -> Result<(), Failure> {
        let mut reader = Reader::new(body);
        let name = reader.cstr()?;
        // 0 is all of them, and so is what is negative.
        let limit = match usize::try_from(reader.i32()?) {
            Ok(0) | Err(_) => usize::MAX,
            Ok(limit) => limit,
        };
        reader.end()?;
        let (name, mut portal) = self
            .portals
            .remove_entry(name)
            .ok_or_else(|| no_portal(name))?;
        let outcome = self.run_portal(&mut portal, limit).await;
        self.portals.insert(name, portal);
        outcome
    }

    fn close(&mut self, body: &[u8]) -> Result<(), Failure> {
        match Target::read(body)? {
            Target::Statement(name) => {
                self.statements.remove(name);
            }
            Target::Portal(name) => {
                self.portals.remove(name);
            }
        }
        encode::close_complete(&mut self.connection.out);
        Ok(())
    }

    fn statement(&self, name: &[u8]) -> Result<&Plan, Refusal> {
        self.statements.get(name).ok_or_else(|| {
            let message = format!(
                "prepared statement \"{}\" does not exist",
                name.escape_ascii()
            );
            Refusal::coded(SqlState::INVALID_SQL_STATEMENT_NAME, message)
        })
    }

    // ── Execution ────────────────────────────────────────────────────────────────────────────

    /// Executes a portal, or goes on with it, for at most `limit` rows.
    async fn run_portal(&mut self, portal: &mut Portal, limit: usize) -> Result<(), Failure> {
        self.begin(portal)?;
        match std::mem::replace(&mut portal.progress, Progress::Done) {
            Progress::Rows(rows) => {
                let rows = self.rows(rows, portal, limit).await?;
                portal.progress = rows.map_or(Progress::Done, Progress::Rows);
                Ok(())
            }
            Progress::Ready => self.run_plan(&portal.plan).await,
            Progress::Done => {
                let message = "portal cannot be run any more";
                Err(Refusal::coded(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message).into())
            }
        }
    }

    /// Makes the rows of a portal, if it has any and has not been begun.
    fn begin(&self, portal: &mut Portal) -> Result<(), Refusal> {
        if !matches!(portal.progress, Progress::Ready) || portal.plan.columns().is_none() {
            return Ok(());
        }
        self.count();
        let rows = match &portal.plan {
            Plan::View(view) => (view.rows)(self.console),
            Plan::Explain(asked) => explain::rows(self.console, asked)?,
            _ => return Ok(()),
        };
        portal.progress = Progress::Rows(rows.peekable());
        Ok(())
    }

    /// Sends at most `limit` rows, and what ends them; gives back the rest if there is any.
    async fn rows(
        &mut self,
        mut rows: std::iter::Peekable<Rows>,
        portal: &Portal,
        limit: usize,
    ) -> Result<Option<std::iter::Peekable<Rows>>, Failure> {
        let (columns, formats) = (portal.plan.columns().unwrap_or_default(), &portal.formats);
        for row in rows.by_ref().take(limit) {
            table::row(&mut self.connection.out, columns, &row, formats);
            if self.connection.out.len() >= FLUSH_AT {
                self.connection.flush().await?;
            }
        }
        if rows.peek().is_some() {
            encode::portal_suspended(&mut self.connection.out);
            return Ok(Some(rows));
        }
        let tag = match portal.plan {
            Plan::Explain(_) => "EXPLAIN",
            _ => "SHOW",
        };
        encode::command_complete(&mut self.connection.out, tag);
        Ok(None)
    }

    async fn run_plan(&mut self, plan: &Plan) -> Result<(), Failure> {
        match plan {
            Plan::Empty => encode::empty_query_response(&mut self.connection.out),
            Plan::Help => {
                self.notice("Console usage", show::HELP);
                encode::command_complete(&mut self.connection.out, "SHOW");
            }
            Plan::Ignored(tag) => {
                if *tag == "SET" {
                    self.notice("SET ignored", "");
                }
                encode::command_complete(&mut self.connection.out, tag);
            }
            Plan::Control(control) => {
                self.count();
                let done = self.control(control).await?;
                for notice in &done.notices {
                    self.notice(notice, "");
                }
                encode::command_complete(&mut self.connection.out, &done.tag);
            }
            Plan::View(_) | Plan::Explain(_) => {}
        }
        Ok(())
    }

    /// Runs a command that may wait: until it is done, cancelled, or nobody is there to be answered.
    async fn control(&mut self, control: &Control) -> Result<Done, Failure> {
        // What is answered already should not wait for this.
        self.connection.flush().await?;
        let canceled = self.record.canceled.notified();
        let user = &self.record.login.user;
        tokio::select! {
            biased;
            outcome = control::run(self.console, user, control) => Ok(outcome?),
            () = canceled => Err(Refusal::canceled().into()),
            lost = self.connection.left() => Err(Failure::Lost(lost)),
        }
    }

    fn notice(&mut self, message: &str, detail: &str) {
        let report = Report {
            severity: Severity::Notice,
            sqlstate: SqlState::SUCCESSFUL_COMPLETION,
            message,
            detail,
            hint: "",
        };
        encode::report(&mut self.connection.out, &report);
    }

    fn count(&self) {
        let stats = &self.console.sessions.stats;
        stats.query_count.add(1);
        stats.xact_count.add(1);
        self.record
            .requested_at_unix
            .store(unix_now(), Ordering::Relaxed);
    }
}

impl Plan {
    /// The columns of its result, if it has one.
    fn columns(&self) -> Option<&'static [Column]> {
        match self {
            Self::View(view) => Some(view.columns),
            Self::Explain(_) => Some(explain::COLUMNS),
            Self::Empty | Self::Help | Self::Ignored(_) | Self::Control(_) => None,
        }
    }
}

impl Portal {
    fn new(plan: Plan, formats: Formats) -> Self {
        Self {
            plan,
            formats,
            progress: Progress::Ready,
        }
    }
}

fn no_portal(name: &[u8]) -> Refusal {
    let message = format!("portal \"{}\" does not exist", name.escape_ascii());
    Refusal::coded(SqlState::INVALID_CURSOR_NAME, message)
}

/// Refuses a name that is too long, and one more than there may be.
fn room_for(name: &[u8], present: usize) -> Result<(), Refusal> {
    if name.len() > LONGEST_NAME || present > MOST_NAMES {
        let message = "too many, or too long, names of statements or portals in the console";
        return Err(Refusal::coded(SqlState::PROGRAM_LIMIT_EXCEEDED, message));
    }
    Ok(())
}

/// The result formats of a Bind message from what follows its names, for a result of `columns`.
fn formats(rest: &[u8], columns: usize) -> Result<Formats, Failure> {
    let mut reader = Reader::new(rest);
    for _ in 0..reader.u16()? {
        reader.u16()?;
    }
    if reader.u16()? != 0 {
        return Err(Refusal::new("console commands take no parameters").into());
    }
    let count = reader.u16()?;
    let codes = (0..count)
        .map(|_| match reader.u16()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::UndefinedValue("result format")),
        })
        .collect::<Result<Box<[bool]>, _>>()?;
    reader.end()?;
    match &*codes {
        [] => Ok(Formats::TEXT),
        [binary] => Ok(Formats::All { binary: *binary }),
        each if each.len() == columns => Ok(Formats::Each(codes)),
        _ => Err(Malformed::UndefinedValue("number of result formats").into()),
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
