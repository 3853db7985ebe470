//! A naive PostgreSQL: one backend that does what the manual says, message by message.
//!
//! It knows a handful of statements, enough to have transactions, settings, prepared statements,
//! portals, COPY and session state, and what matters here: what a message does, when it is ignored,
//! what it is answered with, and when the answer leaves the server. Checked against PostgreSQL 15 by
//! hand; it errs on the side of being dumb.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::{Arc, Mutex},
};

use pgweir::protocol::{
    FrontendTag as F,
    backend::TransactionStatus,
    encode::{self, Report, Severity},
    frame,
    frontend::{Bind, Parse, Target, query},
    read::Reader,
    sqlstate::SqlState,
};

use super::notation::backend_message;

/// Committed rows by table.
pub type Database = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

/// What a transaction can undo.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Undoable {
    settings: BTreeMap<String, String>,
    rows: Vec<(String, String)>,
}

/// A statement that failed.
#[derive(Debug)]
struct Failure(&'static str, String);

/// What a statement answered, before its CommandComplete.
#[derive(Debug)]
enum Outcome {
    Rows(Vec<String>),
    Probed(Vec<[String; 3]>),
    Done(String),
    CopyIn,
    CopyOut(Vec<String>),
    Empty,
}

#[derive(Debug)]
struct Copy {
    table: String,
    data: Vec<u8>,
    is_extended: bool,
    /// Statements of the Query that are still to run.
    rest: Vec<String>,
}

/// One backend process.
#[derive(Debug)]
pub struct Backend {
    database: Database,
    /// Settings it started with: what RESET goes back to.
    defaults: BTreeMap<String, String>,
    state: Undoable,
    /// As it was when the transaction began.
    before: Option<Undoable>,
    block: TransactionStatus,
    reported: BTreeMap<&'static str, String>,
    /// Settings that end with the transaction.
    local: BTreeMap<String, Option<String>>,
    statements: BTreeMap<Vec<u8>, String>,
    unnamed: Option<String>,
    portals: BTreeMap<Vec<u8>, String>,
    pub channels: BTreeSet<String>,
    pub locks: usize,
    ignoring: bool,
    copy: Option<Copy>,
    input: Vec<u8>,
    output: Vec<u8>,
    flushed: usize,
    /// The connection is at its end.
    pub is_dead: bool,
}

/// Size of what does not fit in any buffer of the pooler's.
const WIDE: usize = 70_000;

/// Settings that are reported when they change.
const REPORTED: [&str; 1] = ["application_name"];

impl Backend {
    /// A backend with a session that starts with `defaults`.
    pub fn new(database: Database, defaults: &[(&str, &str)]) -> Self {
        let defaults: BTreeMap<_, _> = defaults
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect();
        Self {
            database,
            state: Undoable {
                settings: defaults.clone(),
                rows: Vec::new(),
            },
            reported: REPORTED
                .iter()
                .filter_map(|name| Some((*name, defaults.get(*name)?.clone())))
                .collect(),
            defaults,
            before: None,
            block: TransactionStatus::Idle,
            local: BTreeMap::new(),
            statements: BTreeMap::new(),
            unnamed: None,
            portals: BTreeMap::new(),
            channels: BTreeSet::new(),
            locks: 0,
            ignoring: false,
            copy: None,
            input: Vec::new(),
            output: Vec::new(),
            flushed: 0,
            is_dead: false,
        }
    }

    /// Takes bytes that have arrived, and handles at most `limit` messages.
    pub fn receive(&mut self, bytes: &[u8], limit: usize) {
        self.input.extend_from_slice(bytes);
        let input = mem::take(&mut self.input);
        let mut at = 0;
        for _ in 0..limit {
            let Some(frame) = frame::frontend(&input[at..], u32::MAX).expect("a message") else {
                break;
            };
            if !frame.is_whole() || self.is_dead {
                break;
            }
            at += frame.size;
            self.on_message(frame.tag, frame.body());
        }
        self.input = input[at..].to_vec();
    }

    /// Takes what has left the backend.
    pub fn sent(&mut self) -> Vec<u8> {
        self.output.drain(..mem::take(&mut self.flushed)).collect()
    }

    /// A cancel request: what waits for data stops waiting.
    pub fn cancel(&mut self) {
        if let Some(copy) = self.copy.take() {
            self.end_copy(copy, Err(Failure("57014", "canceled".into())));
            self.receive(b"", usize::MAX);
        }
    }

    /// Why another client must not be given this backend, if it must not.
    pub fn uncleanness(&self) -> Option<&'static str> {
        let checks = [
            (self.is_dead, "it is dead"),
            (
                self.block != TransactionStatus::Idle,
                "it is in a transaction block",
            ),
            (self.before.is_some(), "it is in the middle of a batch"),
            (self.ignoring, "it ignores until Sync"),
            (self.copy.is_some(), "it takes COPY data"),
            (!self.output.is_empty(), "it still has something to say"),
            (!self.input.is_empty(), "it still has something to do"),
            (!self.channels.is_empty(), "it listens"),
            (self.locks > 0, "it holds advisory locks"),
        ];
        let foreign = |name: &Vec<u8>| !name.starts_with(b"pgweir_");
        if self.statements.keys().any(foreign) {
            return Some("it has a statement under a client's name");
        }
        checks.iter().find(|(is, _)| *is).map(|(_, why)| *why)
    }

    /// The settings that differ from those of a fresh connection.
    pub fn settings(&self) -> &BTreeMap<String, String> {
        &self.state.settings
    }

    fn say(&mut self, line: &str) {
        self.output.extend(backend_message(line));
    }

    fn flush(&mut self) {
        self.flushed = self.output.len();
    }

    fn ready(&mut self) {
        self.report_settings();
        encode::ready_for_query(&mut self.output, self.block);
        self.flush();
    }

    fn on_message(&mut self, tag: F, body: &[u8]) {
        if self.copy.is_some() {
            return self.on_copy_message(tag, body);
        }
        if self.ignoring && !matches!(tag, F::Sync | F::Terminate) {
            return;
        }
        let done = match tag {
            F::Query => {
                self.unnamed = None;
                let text = text(query(body).expect("a Query"));
                let statements = text.split(';').map(|one| one.trim().to_owned());
                let statements: Vec<_> = statements.filter(|one| !one.is_empty()).collect();
                return self.run_query(statements, true);
            }
            F::FunctionCall => {
                self.begin();
                self.fail(&Failure("42883", "no such function".into()));
                return self.ready();
            }
            F::Sync => {
                self.ignoring = false;
                self.end_implicit();
                return self.ready();
            }
            F::Flush => return self.flush(),
            F::Parse => self.on_parse(&Parse::read(body).expect("a Parse")),
            F::Bind => self.on_bind(&Bind::read(body).expect("a Bind")),
            F::Describe => self.on_describe(&Target::read(body).expect("a Describe")),
            F::Close => {
                match Target::read(body).expect("a Close") {
                    Target::Statement(b"") => self.unnamed = None,
                    Target::Statement(name) => drop(self.statements.remove(name)),
                    Target::Portal(name) => drop(self.portals.remove(name)),
                }
                self.say("CloseComplete");
                Ok(())
            }
            F::Execute => self.on_execute(body),
            F::CopyData | F::CopyDone | F::CopyFail => Ok(()),
            F::Terminate | F::Password => {
                self.is_dead = true;
                Ok(())
            }
        };
        if let Err(failure) = done {
            self.fail(&failure);
            self.ignoring = true;
        }
    }

    // ── Transactions ─────────────────────────────────────────────────────────────────────────

    fn begin(&mut self) {
        if self.before.is_none() {
            self.before = Some(self.state.clone());
        }
    }

    fn commit(&mut self) {
        self.before = None;
        for (name, value) in mem::take(&mut self.local) {
            self.put_setting(&name, value);
        }
        let mut database = self.database.lock().expect("one thread");
        for (table, row) in self.state.rows.drain(..) {
            database.entry(table).or_default().push(row);
        }
        drop(database);
        self.portals.clear();
    }

    fn roll_back(&mut self) {
        if let Some(before) = self.before.take() {
            let names: BTreeSet<_> = self
                .state
                .settings
                .keys()
                .chain(before.settings.keys())
                .cloned()
                .collect();
            for name in names {
                self.put_setting(&name, before.settings.get(&name).cloned());
            }
            self.state = before;
        }
        self.local.clear();
        self.portals.clear();
    }

    fn end_implicit(&mut self) {
        if self.block == TransactionStatus::Idle {
            self.commit();
        }
    }

    fn fail(&mut self, Failure(code, message): &Failure) {
        if self.block == TransactionStatus::Idle {
            self.roll_back();
        } else {
            self.block = TransactionStatus::Failed;
        }
        encode::report(
            &mut self.output,
            &Report {
                severity: Severity::Error,
                sqlstate: SqlState::from_bytes(code.as_bytes()).expect("a SQLSTATE"),
                message,
                detail: "",
                hint: "",
            },
        );
        self.flush();
    }

    fn put_setting(&mut self, name: &str, value: Option<String>) {
        let default = self.defaults.get(name).cloned();
        let value = value.or(default);
        match value {
            Some(value) => self.state.settings.insert(name.into(), value),
            None => self.state.settings.remove(name),
        };
    }

    /// What has changed is told before the next ReadyForQuery, as since PostgreSQL 14.
    fn report_settings(&mut self) {
        for name in REPORTED {
            let value = self.state.settings.get(name).cloned().unwrap_or_default();
            if self
                .reported
                .insert(name, value.clone())
                .unwrap_or_default()
                != value
            {
                encode::parameter_status(&mut self.output, name.as_bytes(), value.as_bytes());
            }
        }
    }

    // ── Simple queries ───────────────────────────────────────────────────────────────────────

    fn run_query(&mut self, mut statements: Vec<String>, is_first: bool) {
        if statements.is_empty() && is_first {
            self.say("EmptyQueryResponse");
        }
        statements.reverse();
        while let Some(statement) = statements.pop() {
            self.begin();
            match self.run(&statement) {
                Ok(Outcome::CopyIn) => {
                    statements.reverse();
                    return self.begin_copy(&statement, false, statements);
                }
                Ok(outcome) => self.answer(outcome, &statement, true),
                Err(failure) => {
                    self.fail(&failure);
                    break;
                }
            }
        }
        self.end_implicit();
        self.ready();
    }

    fn answer(&mut self, outcome: Outcome, statement: &str, describe: bool) {
        match outcome {
            Outcome::Rows(rows) => {
                if describe {
                    self.say("RowDescription c");
                }
                for row in &rows {
                    encode::data_row(&mut self.output, [Some(row.as_bytes())].into_iter());
                }
                let tag = format!("SELECT {}", rows.len());
                encode::command_complete(&mut self.output, &tag);
            }
            Outcome::Probed(rows) => {
                self.say("RowDescription k n v");
                for row in &rows {
                    let columns = row.iter().map(|column| Some(column.as_bytes()));
                    encode::data_row(&mut self.output, columns);
                }
                encode::command_complete(&mut self.output, &format!("SELECT {}", rows.len()));
            }
            Outcome::Done(tag) => encode::command_complete(&mut self.output, &tag),
            Outcome::CopyOut(rows) => {
                self.say("CopyOutResponse");
                for row in &rows {
                    self.say(&format!("CopyData \"{row}\\n\""));
                }
                self.say("CopyDone");
                encode::command_complete(&mut self.output, &format!("COPY {}", rows.len()));
            }
            Outcome::Empty => self.say("EmptyQueryResponse"),
            Outcome::CopyIn => unreachable!("handled by the caller: {statement}"),
        }
    }

    // ── COPY ─────────────────────────────────────────────────────────────────────────────────

    fn begin_copy(&mut self, statement: &str, is_extended: bool, rest: Vec<String>) {
        self.say("CopyInResponse");
        self.flush();
        let table = statement.split(' ').nth(1).unwrap_or_default().to_owned();
        let copy = Copy {
            table,
            data: Vec::new(),
            is_extended,
            rest,
        };
        if copy.table == "denied" {
            // A trigger that fails before any data was read.
            return self.end_copy(copy, Err(Failure("P0001", "denied".into())));
        }
        self.copy = Some(copy);
    }

    fn on_copy_message(&mut self, tag: F, body: &[u8]) {
        let Some(mut copy) = self.copy.take() else {
            return;
        };
        match tag {
            F::CopyData => {
                copy.data.extend_from_slice(body);
                if copy.data.contains(&b'!') {
                    let failure = Failure("22P02", "bad row".into());
                    return self.end_copy(copy, Err(failure));
                }
                self.copy = Some(copy);
            }
            F::Sync | F::Flush => self.copy = Some(copy),
            F::CopyDone => self.end_copy(copy, Ok(())),
            F::CopyFail => {
                self.end_copy(copy, Err(Failure("57014", "COPY from stdin failed".into())));
            }
            _ => {
                self.fail(&Failure("08P01", "unexpected message during COPY".into()));
                self.say("ErrorResponse FATAL 08P01 \"protocol synchronization was lost\"");
                self.flush();
                self.is_dead = true;
            }
        }
    }

    fn end_copy(&mut self, copy: Copy, result: Result<(), Failure>) {
        match result {
            Ok(()) => {
                let rows = text(&copy.data);
                let count = rows.lines().count();
                for row in rows.lines() {
                    self.state.rows.push((copy.table.clone(), row.to_owned()));
                }
                encode::command_complete(&mut self.output, &format!("COPY {count}"));
                if !copy.is_extended {
                    self.run_query(copy.rest, false);
                }
            }
            Err(failure) => {
                self.fail(&failure);
                if copy.is_extended {
                    self.ignoring = true;
                } else {
                    self.ready();
                }
            }
        }
    }

    // ── Extended queries ─────────────────────────────────────────────────────────────────────

    fn on_parse(&mut self, parse: &Parse<'_>) -> Result<(), Failure> {
        if parse.name.is_empty() {
            self.unnamed = None;
        }
        self.begin();
        let statement = text(parse.text).trim().to_owned();
        self.check(&statement)?;
        if parse.name.is_empty() {
            self.unnamed = Some(statement);
        } else {
            let name = text(parse.name);
            if self.statements.contains_key(parse.name) {
                return Err(Failure(
                    "42P05",
                    format!("statement \"{name}\" already exists"),
                ));
            }
            self.statements.insert(parse.name.into(), statement);
        }
        self.say("ParseComplete");
        Ok(())
    }

    fn statement(&self, name: &[u8]) -> Result<String, Failure> {
        let statement = match name {
            b"" => self.unnamed.as_ref(),
            name => self.statements.get(name),
        };
        let missing = || {
            Failure(
                "26000",
                format!("statement \"{}\" does not exist", text(name)),
            )
        };
        statement.cloned().ok_or_else(missing)
    }

    fn on_bind(&mut self, bind: &Bind<'_>) -> Result<(), Failure> {
        let statement = self.statement(bind.statement)?;
        self.begin();
        self.refuse_if_failed(&statement)?;
        if !bind.portal.is_empty() && self.portals.contains_key(bind.portal) {
            return Err(Failure("42P03", "cursor already exists".into()));
        }
        self.portals.insert(bind.portal.into(), statement);
        self.say("BindComplete");
        Ok(())
    }

    fn on_describe(&mut self, target: &Target<'_>) -> Result<(), Failure> {
        self.begin();
        let statement = match target {
            Target::Statement(name) => {
                let statement = self.statement(name)?;
                // PostgreSQL still describes a statement without rows; through a pool it may have to
                // be prepared first, and is refused.
                self.refuse_if_failed(&statement)?;
                self.say("ParameterDescription");
                statement
            }
            Target::Portal(name) => self.portal(name)?,
        };
        if returns_rows(&statement) {
            self.refuse_if_failed(&statement)?;
            self.say("RowDescription c");
        } else {
            self.say("NoData");
        }
        Ok(())
    }

    fn portal(&self, name: &[u8]) -> Result<String, Failure> {
        let missing = || Failure("34000", format!("portal \"{}\" does not exist", text(name)));
        self.portals.get(name).cloned().ok_or_else(missing)
    }

    fn on_execute(&mut self, body: &[u8]) -> Result<(), Failure> {
        let name = Reader::new(body).cstr().expect("an Execute");
        let statement = self.portal(name)?;
        self.begin();
        self.refuse_if_failed(&statement)?;
        if !returns_rows(&statement) && !statement.is_empty() {
            // It can be run once only.
            self.portals.insert(name.into(), "used".into());
        }
        if statement == "used" {
            return Err(Failure("55000", "portal cannot be run".into()));
        }
        match self.run(&statement)? {
            Outcome::CopyIn => self.begin_copy(&statement, true, Vec::new()),
            outcome => self.answer(outcome, &statement, false),
        }
        Ok(())
    }

    // ── Statements ───────────────────────────────────────────────────────────────────────────

    fn refuse_if_failed(&self, statement: &str) -> Result<(), Failure> {
        let ends = ["commit", "rollback", ""].contains(&statement);
        if self.block == TransactionStatus::Failed && !ends {
            return Err(Failure("25P02", "transaction is aborted".into()));
        }
        Ok(())
    }

    /// What is found out before a statement is run.
    fn check(&self, statement: &str) -> Result<(), Failure> {
        if statement.contains("syntax") {
            return Err(Failure("42601", "syntax error".into()));
        }
        self.refuse_if_failed(statement)?;
        if statement.contains("missing") {
            return Err(Failure("42P01", "relation does not exist".into()));
        }
        Ok(())
    }

    fn run(&mut self, statement: &str) -> Result<Outcome, Failure> {
        self.check(statement)?;
        let done = |tag: &str| Ok(Outcome::Done(tag.into()));
        let words: Vec<&str> = statement
            .split([' ', '='])
            .filter(|w| !w.is_empty())
            .collect();
        match words[..] {
            [] => Ok(Outcome::Empty),
            ["begin" | "BEGIN"] => {
                if self.block == TransactionStatus::Idle {
                    self.block = TransactionStatus::InTransaction;
                }
                done("BEGIN")
            }
            ["commit" | "COMMIT"] if self.block != TransactionStatus::Failed => {
                self.block = TransactionStatus::Idle;
                self.commit();
                done("COMMIT")
            }
            ["commit" | "rollback"] => {
                self.block = TransactionStatus::Idle;
                self.roll_back();
                done("ROLLBACK")
            }
            ["select", "wide_error"] => Err(Failure("22012", "e".repeat(WIDE))),
            ["select", "wide"] => Ok(Outcome::Rows(vec!["w".repeat(WIDE)])),
            ["select", "1/0"] => Err(Failure("22012", "division by zero".into())),
            ["select", call] if call.starts_with("pg_advisory_") => {
                self.locks = match call {
                    "pg_advisory_lock(1)" => self.locks + 1,
                    _ => self.locks.saturating_sub(1),
                };
                Ok(Outcome::Rows(vec![String::new()]))
            }
            ["select", "hide()"] => {
                self.put_setting("app.hidden", Some("secret".into()));
                Ok(Outcome::Rows(vec![String::new()]))
            }
            ["select", "forget()"] => {
                self.statements.clear();
                Ok(Outcome::Rows(vec![String::new()]))
            }
            ["select", value] => Ok(Outcome::Rows(vec![value.into()])),
            ["select", "count", "from", table] => {
                let database = self.database.lock().expect("one thread");
                let committed = database.get(table).map_or(0, Vec::len);
                let own = self.state.rows.iter().filter(|(of, _)| of == table).count();
                Ok(Outcome::Rows(vec![(committed + own).to_string()]))
            }
            ["insert", "into", table, "values", row] => {
                self.state.rows.push((table.into(), row.into()));
                done("INSERT 0 1")
            }
            ["copy", _, "from", "stdin"] => Ok(Outcome::CopyIn),
            ["copy", "(select", value, "to", "stdout"] => {
                Ok(Outcome::CopyOut(vec![value.trim_end_matches(')').into()]))
            }
            ["set" | "SET", "local" | "LOCAL", name, value] => {
                let before = self.state.settings.get(name).cloned();
                if self.block != TransactionStatus::Idle {
                    self.local.entry(name.into()).or_insert(before);
                    self.put_setting(name, Some(value.trim_matches('\'').into()));
                }
                done("SET")
            }
            ["set", name, value] => {
                self.local.remove(name);
                self.put_setting(name, Some(value.trim_matches('\'').into()));
                done("SET")
            }
            ["reset", "all"] | ["RESET", "ALL"] => {
                self.reset_all();
                done("RESET")
            }
            ["reset" | "RESET", name] => {
                let name = name.replace('"', "");
                self.local.remove(&name);
                self.put_setting(&name, None);
                done("RESET")
            }
            ["show", name] => {
                let value = self.state.settings.get(name).cloned();
                Ok(Outcome::Rows(vec![value.unwrap_or_default()]))
            }
            ["listen", channel] => {
                self.channels.insert(channel.into());
                done("LISTEN")
            }
            ["unlisten", "*"] => {
                self.channels.clear();
                done("UNLISTEN")
            }
            ["DISCARD", "SEQUENCES"] => done("DISCARD SEQUENCES"),
            _ => self.run_named(statement, &words),
        }
    }

    fn run_named(&mut self, statement: &str, words: &[&str]) -> Result<Outcome, Failure> {
        let done = |tag: &str| Ok(Outcome::Done(tag.into()));
        match *words {
            ["prepare", name, "as", ..] => {
                let body = statement.split_once(" as ").expect("a body").1;
                if self.statements.contains_key(name.as_bytes()) {
                    return Err(Failure(
                        "42P05",
                        format!("statement \"{name}\" already exists"),
                    ));
                }
                self.statements.insert(name.into(), body.into());
                done("PREPARE")
            }
            ["execute", ..] => {
                let name = statement["execute ".len()..].trim_matches('"');
                let body = self.statement(name.as_bytes())?;
                self.run(&body)
            }
            ["deallocate", "all"] => {
                self.statements.clear();
                done("DEALLOCATE ALL")
            }
            ["deallocate", ..] => {
                let name = statement["deallocate ".len()..].trim_matches('"');
                self.statement(name.as_bytes())?;
                self.statements.remove(name.as_bytes());
                done("DEALLOCATE")
            }
            ["discard" | "DISCARD", "all" | "ALL"] => {
                if self.block != TransactionStatus::Idle {
                    return Err(Failure(
                        "25001",
                        "cannot run inside a transaction block".into(),
                    ));
                }
                self.statements.clear();
                self.portals.clear();
                self.channels.clear();
                self.locks = 0;
                self.reset_all();
                done("DISCARD ALL")
            }
            _ if statement.starts_with("SELECT 's', name") => {
                Ok(Outcome::Probed(self.probe(statement)))
            }
            _ => self.run_configuration(statement),
        }
    }

    /// What the pooler asks for at the end of a transaction: custom settings are told by name only.
    fn probe(&self, text: &str) -> Vec<[String; 3]> {
        let asked = |name: &str| text.contains(&format!("current_setting('{name}', true)"));
        let mut rows = Vec::new();
        for (name, value) in &self.state.settings {
            if !name.contains('.') || (asked(name) && !value.is_empty()) {
                rows.push(["s".into(), name.clone(), value.clone()]);
            }
        }
        let mut found = |kind: &str, is: bool| {
            if is {
                rows.push([kind.into(), String::new(), String::new()]);
            }
        };
        found("l", self.locks > 0);
        found("n", !self.channels.is_empty());
        let is_foreign = |name: &&Vec<u8>| !name.starts_with(b"pgweir_");
        found("p", self.statements.keys().any(|name| is_foreign(&name)));
        rows
    }

    fn reset_all(&mut self) {
        let names: Vec<_> = self.state.settings.keys().cloned().collect();
        for name in names {
            self.put_setting(&name, None);
        }
    }

    /// `SELECT pg_catalog.set_config('name','value',false)`.
    fn run_configuration(&mut self, statement: &str) -> Result<Outcome, Failure> {
        let arguments = statement
            .strip_prefix("SELECT pg_catalog.set_config(")
            .and_then(|rest| rest.strip_suffix(",false)"))
            .unwrap_or_else(|| panic!("the model does not know: {statement}"));
        let (name, value) = arguments.split_once(',').expect("two arguments");
        let (name, value) = (name.trim_matches('\''), value.trim_matches('\''));
        if value == "refused" {
            return Err(Failure("22023", "invalid value".into()));
        }
        self.put_setting(name, Some(value.into()));
        Ok(Outcome::Rows(vec![value.into()]))
    }
}

fn returns_rows(statement: &str) -> bool {
    ["select", "show", "execute"]
        .iter()
        .any(|word| statement.starts_with(word))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("the tests speak ASCII")
}
