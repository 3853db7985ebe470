//! Clients, few servers and the pure session between them, driven turn by turn.
//!
//! Does what the relay and the pool do, without sockets and without a clock: bytes arrive in any
//! pieces, servers answer when they are told to, and when a server is given back the naive PostgreSQL
//! behind it says whether that was right.

use std::{collections::BTreeMap, sync::Arc};

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

use super::{
    model::{Backend, Database},
    notation::{Stream, frontend_message},
};

/// Messages that a client sends in one go, and whether it then waits for all that it is owed.
#[derive(Clone, Debug)]
pub struct Burst {
    /// One message a line.
    pub lines: Vec<String>,
    /// Whether nothing more is sent before they are answered.
    pub waits: bool,
}

fn bytes(lines: &[String]) -> Vec<u8> {
    lines
        .iter()
        .flat_map(|line| frontend_message(line))
        .collect()
}

// ── A PostgreSQL of one's own ────────────────────────────────────────────────────────────────────

/// What a client is answered that has a PostgreSQL of its own; and how many answers there are after
/// each burst.
pub fn answers_of_its_own(program: &[Burst]) -> (Vec<String>, Vec<usize>) {
    let mut backend = Backend::new(Database::default(), &[]);
    let mut stream = Stream::default();
    let (mut lines, mut counts) = (Vec::new(), Vec::new());
    for burst in program {
        backend.receive(&bytes(&burst.lines), usize::MAX);
        stream.push(&backend.sent());
        lines.extend(stream.backend_lines());
        counts.push(lines.len());
    }
    (lines, counts)
}

// ── A pool of few ────────────────────────────────────────────────────────────────────────────────

/// A server connection.
#[derive(Debug)]
struct Server {
    backend: Backend,
    state: ServerState,
    unread: Vec<u8>,
    has_client: bool,
}

/// A client's connection.
#[derive(Debug)]
pub struct Client {
    session: Session,
    /// What it sends.
    pub program: Vec<Burst>,
    /// How many answers there are to each burst and those before it.
    answers: Vec<usize>,
    next_burst: usize,
    /// Sent, but not arrived.
    in_flight: Vec<u8>,
    kept: Vec<u8>,
    server: Option<usize>,
    wants_server: bool,
    greeted: bool,
    stream: Stream,
    /// What it was answered.
    pub lines: Vec<String>,
    /// It has left, or its session was ended.
    pub is_gone: bool,
    /// Whether it ever had to wait for what an earlier batch may take back.
    pub has_stalled: bool,
}

/// Some clients and some servers.
#[derive(Debug)]
pub struct Pool {
    interners: Arc<Interners>,
    database: Database,
    limit: usize,
    servers: Vec<Server>,
    /// The clients.
    pub clients: Vec<Client>,
    /// All that was sent to servers.
    pub sent: Vec<u8>,
    /// Clients count only the ends of rounds, not every answer.
    pub waits_for_rounds: bool,
}

/// What is done next, if it can be.
#[derive(Clone, Copy, Debug)]
pub enum Turn {
    /// A client sends, or a server answers, so much.
    Go {
        /// Which one of all.
        who: usize,
        /// How much.
        amount: usize,
    },
    /// A server's connection breaks.
    Break(usize),
    /// A client is gone.
    Leave(usize),
}

/// How many turns there may be after the last one that was planned.
const PATIENCE: usize = 10_000;

impl Pool {
    /// Clients with these programs, and so many servers that hold so many statements.
    pub fn new(
        programs: &[Vec<Burst>],
        answers: Vec<Vec<usize>>,
        servers: usize,
        limit: usize,
    ) -> Self {
        let interners: Arc<Interners> = Arc::default();
        let defaults = interners.settings.intern(Settings::default());
        let clients = programs.iter().zip(answers).enumerate();
        let clients = clients.map(|(id, (program, answers))| Client {
            session: Session::new(
                id as u64,
                Mode::Transaction,
                Arc::clone(&interners),
                Arc::clone(&defaults),
            ),
            program: own_table(program, id),
            answers,
            next_burst: 0,
            in_flight: Vec::new(),
            kept: Vec::new(),
            server: None,
            wants_server: false,
            greeted: false,
            stream: Stream::default(),
            lines: Vec::new(),
            is_gone: false,
            has_stalled: false,
        });
        let mut pool = Self {
            clients: clients.collect(),
            interners,
            database: Database::default(),
            limit,
            servers: Vec::new(),
            sent: Vec::new(),
            waits_for_rounds: false,
        };
        pool.servers = (0..servers).map(|_| pool.connect()).collect();
        pool
    }

    fn connect(&self) -> Server {
        Server {
            backend: Backend::new(Arc::clone(&self.database), &[]),
            state: ServerState::new(b"app", self.defaults(), self.limit),
            unread: Vec::new(),
            has_client: false,
        }
    }

    fn defaults(&self) -> Arc<Settings> {
        self.interners.settings.intern(Settings::default())
    }

    /// Plays the turns, and then goes on until nothing moves.
    pub fn play(&mut self, turns: &[Turn]) {
        for turn in turns {
            self.take_turn(*turn);
        }
        let everybody = self.clients.len() + self.servers.len();
        let amount = usize::MAX;
        let mut left = PATIENCE;
        while (0..everybody).any(|who| self.take_turn(Turn::Go { who, amount })) {
            left -= 1;
            assert!(left > 0, "all are busy, and nobody gets any further");
        }
    }

    /// Plays the first client's program on the first server: all that the client sends before it
    /// waits arrives, in pieces of these sizes, before the server does anything; and all that the
    /// server answers arrives, in such pieces, before the client goes on.
    pub fn play_in_step(&mut self, sizes: &[usize]) {
        let mut sizes = sizes.iter().copied().cycle();
        let mut next = || sizes.next().unwrap_or(usize::MAX).max(1);
        loop {
            let mut progress = false;
            while self.client_turn(0, next()) {
                progress = true;
            }
            let server = &mut self.servers[0];
            server.backend.receive(b"", usize::MAX);
            let said = server.backend.sent();
            let mut rest = &said[..];
            while !rest.is_empty() && self.clients[0].server.is_some() {
                progress = true;
                let (piece, behind) = rest.split_at(next().min(rest.len()));
                self.on_server_bytes(0, 0, piece);
                rest = behind;
            }
            if !progress {
                return;
            }
        }
    }

    fn take_turn(&mut self, turn: Turn) -> bool {
        match turn {
            Turn::Go { who, amount } => {
                let who = who % (self.clients.len() + self.servers.len());
                match who.checked_sub(self.clients.len()) {
                    None => self.client_turn(who, amount),
                    Some(server) => self.server_turn(server, amount),
                }
            }
            Turn::Break(server) => self.break_server(server % self.servers.len()),
            Turn::Leave(client) => self.leave(client % self.clients.len()),
        }
    }

    fn client_turn(&mut self, id: usize, amount: usize) -> bool {
        let mut progress = false;
        let client = &mut self.clients[id];
        if client.is_gone {
            return false;
        }
        if client.in_flight.is_empty() && client.next_burst < client.program.len() {
            let waits = client.next_burst > 0 && client.program[client.next_burst - 1].waits;
            let count = if self.waits_for_rounds {
                client.rounds()
            } else {
                client.lines.len()
            };
            if !waits || count >= client.answers[client.next_burst - 1] {
                client.in_flight = bytes(&client.program[client.next_burst].lines);
                client.next_burst += 1;
                progress = true;
            }
        }
        if client.wants_server {
            return self.attach(id) || progress;
        }
        let server = client.server.map(|at| &self.servers[at].state);
        if client.session.can_resume(server) {
            self.take_kept(id);
            return true;
        }
        if client.session.is_stalled() || client.in_flight.is_empty() {
            return progress;
        }
        let size = amount.min(client.in_flight.len());
        let arrived: Vec<u8> = client.in_flight.drain(..size).collect();
        client.kept.extend(arrived);
        self.take_kept(id);
        true
    }

    fn attach(&mut self, id: usize) -> bool {
        let Some(free) = self.servers.iter().position(|server| !server.has_client) else {
            return false;
        };
        self.servers[free].has_client = true;
        let client = &mut self.clients[id];
        client.wants_server = false;
        client.server = Some(free);
        client.greeted = false;
        self.take_kept(id);
        true
    }

    fn take_kept(&mut self, id: usize) {
        loop {
            let client = &mut self.clients[id];
            let Some(server) = client.server else {
                let mut answers = Vec::new();
                let plan = client.session.plan(&client.kept, 1 << 30, &mut answers);
                client.stream.push(&answers);
                client.lines.extend(client.stream.backend_lines());
                match plan.expect("no violation") {
                    Plan::Wait(done) => {
                        client.kept.drain(..done);
                    }
                    Plan::Terminate => panic!("nobody leaves"),
                    Plan::NeedServer(done) => {
                        client.kept.drain(..done);
                        client.wants_server = true;
                    }
                }
                return;
            };
            let server = &mut self.servers[server];
            let (mut scratch, mut answers) = (Vec::new(), Vec::new());
            let mut out = Outbox::new(&client.kept, &mut scratch);
            if !client.greeted {
                client.greeted = true;
                client.session.attach(&mut server.state, &mut out);
            }
            let taken = client
                .session
                .on_client_bytes(
                    &client.kept,
                    1 << 30,
                    &mut server.state,
                    &mut out,
                    &mut answers,
                )
                .expect("no violation");
            let sent = out.finish();
            self.sent.extend_from_slice(sent);
            server.backend.receive(sent, 0);
            client.kept.drain(..taken.consumed);
            client.stream.push(&answers);
            client.has_stalled |= client.session.is_stalled();
            self.release(id);
            let client = &self.clients[id];
            if client.server.is_some() || client.kept.is_empty() {
                return;
            }
        }
    }

    fn server_turn(&mut self, id: usize, amount: usize) -> bool {
        let Some(owner) = self
            .clients
            .iter()
            .position(|client| client.server == Some(id))
        else {
            return false;
        };
        let server = &mut self.servers[id];
        server.backend.receive(b"", amount.div_ceil(20));
        let said = server.backend.sent();
        // What is said arrives in pieces.
        let mut progress = false;
        for piece in said.chunks(amount.clamp(1, 1 << 20)) {
            progress = true;
            if self.clients[owner].server == Some(id) {
                self.on_server_bytes(owner, id, piece);
            } else {
                panic!("server {id} said more after it was released");
            }
        }
        progress
    }

    fn on_server_bytes(&mut self, owner: usize, id: usize, piece: &[u8]) {
        let (client, server) = (&mut self.clients[owner], &mut self.servers[id]);
        let mut data = std::mem::take(&mut server.unread);
        data.extend_from_slice(piece);
        let (mut scratch, mut to_server) = (Vec::new(), Vec::new());
        let mut out = Outbox::new(&data, &mut scratch);
        let done = client
            .session
            .on_server_bytes(&data, &mut server.state, &mut out, &mut to_server)
            .expect("the server does nothing wrong");
        client.stream.push(out.finish());
        client.lines.extend(client.stream.backend_lines());
        server.unread = data[done..].to_vec();
        self.sent.extend_from_slice(&to_server);
        server.backend.receive(&to_server, 0);
        self.release(owner);
        let client = &self.clients[owner];
        let server = client.server.map(|id| &self.servers[id].state);
        if client.session.can_resume(server) {
            self.take_kept(owner);
        }
    }

    fn release(&mut self, id: usize) {
        let client = &mut self.clients[id];
        client.lines.extend(client.stream.backend_lines());
        let Some(at) = client.server else { return };
        let server = &self.servers[at];
        if client.session.release(&server.state) == Release::Keep || !server.unread.is_empty() {
            return;
        }
        client.server = None;
        self.take_back(at);
    }

    /// A server goes back to the pool: it has to be clean in truth, and to have the settings that it
    /// is believed to have.
    fn take_back(&mut self, at: usize) {
        let server = &mut self.servers[at];
        // Nothing is owed, but a Flush may be unread.
        server.backend.receive(b"", usize::MAX);
        assert_eq!(server.backend.uncleanness(), None, "server {at}");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("ASCII");
        let believed = server.state.settings.iter();
        let believed = believed.map(|(name, value)| (text(name), text(value)));
        let believed: BTreeMap<String, String> = believed.collect();
        let mut settings = server.backend.settings().clone();
        // Nobody can know of it. It must not be seen by others, which is for the answers to show.
        settings.remove("app.hidden");
        assert_eq!(settings, believed, "settings of server {at}");
        server.has_client = false;
    }

    /// The connection to a server breaks.
    fn break_server(&mut self, at: usize) -> bool {
        let fresh = self.connect();
        let mut broken = std::mem::replace(&mut self.servers[at], fresh);
        let Some(owner) = self
            .clients
            .iter()
            .position(|client| client.server == Some(at))
        else {
            return true;
        };
        let client = &mut self.clients[owner];
        client.server = None;
        let report = Report {
            severity: Severity::Error,
            sqlstate: SqlState::CONNECTION_FAILURE,
            message: "server lost",
            detail: "",
            hint: "",
        };
        let mut answers = Vec::new();
        let damage = client
            .session
            .on_server_lost(&mut broken.state, &report, &mut answers);
        client.stream.push(&answers);
        client.lines.extend(client.stream.backend_lines());
        client.is_gone = damage == Damage::Session;
        if client.session.can_resume(None) && !client.is_gone {
            self.take_kept(owner);
        }
        true
    }

    /// A client is gone, and its server is made usable again as far as possible.
    fn leave(&mut self, id: usize) -> bool {
        let client = &mut self.clients[id];
        client.is_gone = true;
        client.wants_server = false;
        let Some(at) = client.server.take() else {
            return false;
        };
        if client.session.is_mid_message() {
            self.servers[at] = self.connect();
            return true;
        }
        let has_state = client.session.has_unproved_state();
        let defaults = self.defaults();
        let server = &mut self.servers[at];
        let mut to_server = Vec::new();
        if server.state.cleanup() == Cleanup::Drain {
            server.state.interrupt(&mut to_server);
        }
        server.backend.receive(&to_server, usize::MAX);
        server.backend.cancel();
        server.drain();
        if server.state.cleanup() == Cleanup::Rollback {
            server.run(b"rollback");
        }
        if has_state && server.state.cleanup() == Cleanup::Done {
            server.run(b"DISCARD ALL");
            server.state.on_discard_all(defaults);
        }
        if server.state.cleanup() == Cleanup::Done && server.unread.is_empty() {
            self.take_back(at);
        } else {
            self.servers[at] = self.connect();
        }
        true
    }
}

impl Server {
    fn drain(&mut self) {
        let mut data = std::mem::take(&mut self.unread);
        data.extend(self.backend.sent());
        let done = self.state.discard(&data).expect("nothing wrong");
        self.unread = data[done..].to_vec();
    }

    fn run(&mut self, text: &[u8]) {
        let mut to_server = Vec::new();
        self.state.ask(text, &mut to_server);
        self.backend.receive(&to_server, usize::MAX);
        self.drain();
    }
}

/// The program with a table that no other client writes to.
fn own_table(program: &[Burst], id: usize) -> Vec<Burst> {
    let own = |line: &String| {
        line.replace("into t ", &format!("into t{id} "))
            .replace("from t\"", &format!("from t{id}\""))
            .replace("copy t ", &format!("copy t{id} "))
    };
    let own = |burst: &Burst| Burst {
        lines: burst.lines.iter().map(own).collect(),
        waits: burst.waits,
    };
    program.iter().map(own).collect()
}

impl Client {
    /// How many rounds it was told the end of.
    pub fn rounds(&self) -> usize {
        let ready = |line: &&String| line.starts_with("ReadyForQuery");
        self.lines.iter().filter(ready).count()
    }

    /// Whether it has a server.
    pub fn has_server(&self) -> bool {
        self.server.is_some()
    }
}
