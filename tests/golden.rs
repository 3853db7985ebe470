//! Golden transcripts: what the pure session does with a conversation, one behaviour a file.
//!
//! A file under `tests/golden/` is a conversation. What is said is written by hand:
//!
//! ```text
//! # a comment
//! C> Query "select 1"            a message of the client's
//! S< ReadyForQuery I             a message of the server's
//! @ client 2                     another client speaks from here on
//! ```
//!
//! and what the session does with it stands below: what goes to either peer, and what becomes of the
//! server.
//!
//! ```text
//! -> server: Query "select 1"
//! -> client: ReadyForQuery I
//! == server 1 released
//! ```
//!
//! Messages of one side that follow each other arrive in one piece. `BLESS=1 cargo test --test golden`
//! writes what happens into the files; look at the difference before you commit it.
//!
//! Directives: `mode transaction|session|statement`, `statements N` (`max_prepared_statements`),
//! `startup name=value …` (of the next new client), `client N`, `server N` (that the next client gets; 0: none is free),
//! `byte by byte` (from here on), `next` (ends a piece), `server lost SQLSTATE "message"`,
//! `no server SQLSTATE "message"`, `client gone`.

#![expect(clippy::panic, reason = "a test panics")]

mod session_support;

use std::{collections::BTreeMap, env, fmt::Write, fs, path::Path, sync::Arc};

use pgweir::{
    protocol::{
        SqlState,
        encode::{Report, Severity},
    },
    session::{
        Damage, Interners, Mode, Outbox, Plan, Release, ServerState, Session, Settings,
        server_state::Cleanup,
    },
};
use session_support::notation::{self, Stream};

#[derive(Debug)]
struct Client {
    session: Session,
    kept: Vec<u8>,
    server: Option<usize>,
    greeted: bool,
}

/// Drives sessions as the relay does, without sockets.
struct Stage {
    interners: Arc<Interners>,
    mode: Mode,
    statements: usize,
    startup: Settings,
    clients: BTreeMap<usize, Client>,
    servers: BTreeMap<usize, ServerState>,
    /// What a server said that was not a whole message.
    unread: Vec<u8>,
    client: usize,
    next_server: usize,
    byte_by_byte: bool,
    to_client: Stream,
    to_server: Stream,
    log: String,
}

impl Stage {
    fn new() -> Self {
        Self {
            interners: Arc::default(),
            mode: Mode::Transaction,
            statements: 100,
            startup: Settings::default(),
            clients: BTreeMap::new(),
            servers: BTreeMap::new(),
            unread: Vec::new(),
            client: 1,
            next_server: 1,
            byte_by_byte: false,
            to_client: Stream::default(),
            to_server: Stream::default(),
            log: String::new(),
        }
    }

    fn say(&mut self, what: &str) {
        self.flush();
        assert!(self.log.len() < 1 << 20, "it says without end: {what}");
        let _ = writeln!(self.log, "== {what}");
    }

    /// Writes down what has gone out so far.
    fn flush(&mut self) {
        for line in self.to_server.frontend_lines() {
            let _ = writeln!(self.log, "-> server: {line}");
        }
        for line in self.to_client.backend_lines() {
            let _ = writeln!(self.log, "-> client: {line}");
        }
    }

    fn take_client(&mut self) -> Client {
        let startup = std::mem::take(&mut self.startup);
        self.clients.remove(&self.client).unwrap_or_else(|| Client {
            session: Session::new(
                self.client as u64,
                self.mode,
                Arc::clone(&self.interners),
                self.interners.settings.intern(startup),
            ),
            kept: Vec::new(),
            server: None,
            greeted: false,
        })
    }

    fn pieces<'a>(&self, data: &'a [u8]) -> Vec<&'a [u8]> {
        let size = if self.byte_by_byte {
            1
        } else {
            data.len().max(1)
        };
        data.chunks(size).collect()
    }

    fn client_says(&mut self, data: &[u8]) {
        for piece in self.pieces(data) {
            let mut client = self.take_client();
            client.kept.extend_from_slice(piece);
            self.take_kept(&mut client);
            while client
                .session
                .can_resume(client.server.and_then(|id| self.servers.get(&id)))
            {
                self.take_kept(&mut client);
            }
            self.clients.insert(self.client, client);
        }
        self.flush();
    }

    /// What [`Client::kept`] holds goes as far as it can.
    fn take_kept(&mut self, client: &mut Client) {
        loop {
            let mut answers = Vec::new();
            if client.server.is_none() {
                let plan = client.session.plan(&client.kept, 1 << 30, &mut answers);
                self.to_client.push(&answers);
                match plan {
                    Ok(Plan::Wait(done)) => {
                        client.kept.drain(..done);
                        return;
                    }
                    Ok(Plan::Terminate) => return self.say("client has left"),
                    Err(violation) => return self.say(&format!("violation: {violation}")),
                    Ok(Plan::NeedServer(done)) => {
                        client.kept.drain(..done);
                        if self.next_server == 0 {
                            return self.say("server wanted");
                        }
                        client.server = Some(self.next_server);
                        client.greeted = false;
                        self.say(&format!("server {} attached", self.next_server));
                    }
                }
            }
            if !self.forward(client) || client.server.is_some() || client.kept.is_empty() {
                return;
            }
        }
    }

    /// Answers whether the client is still there.
    fn forward(&mut self, client: &mut Client) -> bool {
        let mut server = self.take_server(client);
        let (mut scratch, mut answers) = (Vec::new(), Vec::new());
        let mut out = Outbox::new(&client.kept, &mut scratch);
        if !client.greeted {
            client.greeted = true;
            client.session.attach(&mut server, &mut out);
        }
        let taken = client.session.on_client_bytes(
            &client.kept,
            1 << 30,
            &mut server,
            &mut out,
            &mut answers,
        );
        self.to_server.push(out.finish());
        self.to_client.push(&answers);
        let is_there = match taken {
            Ok(taken) => {
                client.kept.drain(..taken.consumed);
                if taken.terminate {
                    self.say("client has left");
                }
                !taken.terminate
            }
            Err(violation) => {
                self.say(&format!("violation: {violation}"));
                false
            }
        };
        if client.session.is_stalled() {
            self.say("client waits");
        }
        self.put_server(client, server);
        is_there
    }

    fn take_server(&mut self, client: &Client) -> ServerState {
        let id = client.server.expect("the client has a server");
        let defaults = self.interners.settings.intern(Settings::default());
        self.servers
            .remove(&id)
            .unwrap_or_else(|| ServerState::new(b"app", defaults, self.statements))
    }

    /// Puts the server down, and takes it away from the client if it is through with it.
    fn put_server(&mut self, client: &mut Client, server: ServerState) {
        let Some(id) = client.server else { return };
        if client.session.release(&server) == Release::Return && self.unread.is_empty() {
            assert!(server.is_clean(), "released while unclean");
            client.server = None;
            self.say(&format!("server {id} released"));
        }
        self.servers.insert(id, server);
    }

    fn server_says(&mut self, data: &[u8]) {
        for piece in self.pieces(data) {
            let mut client = self.take_client();
            if client.server.is_some() {
                self.take_server_bytes(&mut client, piece);
            } else {
                self.say("no server is attached");
            }
            self.clients.insert(self.client, client);
        }
        self.flush();
    }

    fn take_server_bytes(&mut self, client: &mut Client, piece: &[u8]) {
        let mut data = std::mem::take(&mut self.unread);
        data.extend_from_slice(piece);
        let mut server = self.take_server(client);
        let (mut scratch, mut to_server) = (Vec::new(), Vec::new());
        let mut out = Outbox::new(&data, &mut scratch);
        let taken = client
            .session
            .on_server_bytes(&data, &mut server, &mut out, &mut to_server);
        self.to_client.push(out.finish());
        match taken {
            Ok(done) => {
                self.unread = data[done..].to_vec();
                self.to_server.push(&to_server);
                let pins = client.session.pins();
                self.put_server(client, server);
                if !pins.is_empty() && client.server.is_some() {
                    let reasons: Vec<_> = pins.iter().map(|reason| reason.as_str()).collect();
                    self.say(&format!("pinned: {}", reasons.join(", ")));
                }
            }
            Err(fault) => {
                self.say(&format!("fault: {fault}"));
                self.lose(client, server, SqlState::CONNECTION_FAILURE, "server lost");
            }
        }
        let server = client.server.and_then(|id| self.servers.get(&id));
        if client.session.can_resume(server) {
            self.take_kept(client);
        }
    }

    fn lose(&mut self, client: &mut Client, mut server: ServerState, code: SqlState, text: &str) {
        self.flush();
        self.unread.clear();
        client.server = None;
        let mut answers = Vec::new();
        let report = report(code, text);
        let damage = client
            .session
            .on_server_lost(&mut server, &report, &mut answers);
        self.to_client.push(&answers);
        self.say(match damage {
            Damage::Statement => "server gone, session goes on",
            Damage::Session => "server gone, session over",
        });
    }

    fn directive(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match (word, rest) {
            ("mode", mode) => {
                self.mode = match mode {
                    "session" => Mode::Session,
                    "statement" => Mode::Statement,
                    _ => Mode::Transaction,
                }
            }
            ("statements", count) => self.statements = count.parse().expect("a count"),
            ("startup", pairs) => {
                let pairs = pairs.split(' ').filter_map(|pair| pair.split_once('='));
                self.startup = pairs.collect();
            }
            ("client", "gone") => self.client_gone(),
            ("client", id) => self.client = id.parse().expect("a number"),
            ("byte", _) => self.byte_by_byte = true,
            ("next", _) => {}
            ("server", lost) if lost.starts_with("lost ") => {
                let (code, text) = reported(&lost[5..]);
                let mut client = self.take_client();
                let server = self.take_server(&client);
                self.lose(&mut client, server, code, text);
                if client.session.can_resume(None) {
                    self.take_kept(&mut client);
                }
                self.clients.insert(self.client, client);
            }
            ("server", id) => self.next_server = id.parse().expect("a number"),
            ("no", refused) => {
                let (code, text) = reported(refused.trim_start_matches("server "));
                let mut client = self.take_client();
                let mut answers = Vec::new();
                let done = client
                    .session
                    .refuse(&client.kept, 1 << 30, &report(code, text), &mut answers)
                    .expect("no violation");
                client.kept.drain(..done);
                self.to_client.push(&answers);
                self.clients.insert(self.client, client);
            }
            _ => panic!("no directive: {line}"),
        }
        self.flush();
    }

    /// The client's connection is gone: its server is cleaned as far as bytes can do it.
    fn client_gone(&mut self) {
        let client = self.take_client();
        let mut server = self.take_server(&client);
        let id = client.server.expect("it has a server");
        if client.session.has_unproved_state() {
            self.say("session state is left");
        }
        let mut to_server = Vec::new();
        if server.cleanup() == Cleanup::Drain {
            server.interrupt(&mut to_server);
        }
        self.to_server.push(&to_server);
        self.say(&format!("server {id}: {:?}", server.cleanup()));
        self.servers.insert(id, server);
    }

    /// What a server says that has no client any more.
    fn stray_server_says(&mut self, data: &[u8]) {
        let (&id, server) = self.servers.iter_mut().next().expect("a server");
        let said = match server.discard(data) {
            Ok(_) => format!("server {id}: {:?}", server.cleanup()),
            Err(fault) => format!("fault: {fault}"),
        };
        self.say(&said);
    }

    fn play(&mut self, text: &str) -> String {
        let mut side = ' ';
        let mut piece = Vec::new();
        for line in text.lines().chain([""]) {
            if line.starts_with("->") || line.starts_with("==") {
                continue;
            }
            let now = line.chars().next().unwrap_or(' ');
            if now != side {
                match side {
                    'C' => self.client_says(&std::mem::take(&mut piece)),
                    'S' if self.clients.contains_key(&self.client) => {
                        self.server_says(&std::mem::take(&mut piece));
                    }
                    'S' => self.stray_server_says(&std::mem::take(&mut piece)),
                    _ => {}
                }
            }
            side = now;
            let _ = writeln!(self.log, "{line}");
            match line.get(..2) {
                Some("C>") => piece.extend(notation::frontend_message(line[2..].trim())),
                Some("S<") => piece.extend(notation::backend_message(line[2..].trim())),
                Some("@ ") => self.directive(&line[2..]),
                Some("# ") | None => {}
                Some(_) => panic!("not a line of a transcript: {line}"),
            }
        }
        self.log.truncate(self.log.trim_end().len());
        self.log.push('\n');
        for (what, stream) in [("client", &self.to_client), ("server", &self.to_server)] {
            if stream.partial() > 0 {
                let _ = writeln!(
                    self.log,
                    "== {} bytes of a message to the {what}",
                    stream.partial()
                );
            }
        }
        let mut log = self.log.trim_end().to_owned();
        log.push('\n');
        log
    }
}

fn reported(line: &str) -> (SqlState, &str) {
    let (code, text) = line.split_once(' ').expect("a SQLSTATE and a message");
    let code = SqlState::from_bytes(code.as_bytes()).expect("a SQLSTATE");
    (code, text.trim_matches('"'))
}

fn report(sqlstate: SqlState, message: &str) -> Report<'_> {
    Report {
        severity: Severity::Error,
        sqlstate,
        message,
        detail: "",
        hint: "",
    }
}

#[test]
fn transcripts_are_as_written() {
    let mut wrong = Vec::new();
    let mut count = 0;
    let entries = fs::read_dir(Path::new("tests/golden")).expect("tests/golden is there");
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("readable").path())
        .collect();
    paths.sort();
    for path in paths {
        let written = fs::read_to_string(&path).expect("readable");
        let played = Stage::new().play(&written);
        count += 1;
        if played == written {
            continue;
        }
        if env::var_os("BLESS").is_some() {
            fs::write(&path, played).expect("writable");
        } else {
            wrong.push(format!(
                "{}:\n{}",
                path.display(),
                difference(&written, &played)
            ));
        }
    }
    assert!(count >= 30, "only {count} transcripts were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The first lines that differ, with what is before them.
fn difference(written: &str, played: &str) -> String {
    let same = written
        .lines()
        .zip(played.lines())
        .take_while(|(a, b)| a == b)
        .count();
    let lines = |text: &str, mark: char| {
        let from = same.saturating_sub(2);
        let lines = text.lines().enumerate().skip(from).take(8);
        lines.fold(String::new(), |mut all, (at, line)| {
            let mark = if at < same { ' ' } else { mark };
            let _ = writeln!(all, "{mark} {line}");
            all
        })
    };
    format!(
        "written:\n{}played:\n{}",
        lines(written, '-'),
        lines(played, '+')
    )
}
