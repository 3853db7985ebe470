//! Any conversation through the session: whatever either side says, and in whatever pieces, nothing
//! panics, every round makes progress or waits, and only a clean server is given back.
#![no_main]

use std::sync::Arc;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use pgweir::{
    protocol::encode::Report,
    protocol::{SqlState, encode},
    session::{Interners, Mode, Outbox, Plan, Release, ServerState, Session, Settings},
};

#[derive(Arbitrary, Debug)]
enum Op {
    Client(Frontend),
    Server(Backend),
    Garbage { from_client: bool, bytes: Vec<u8> },
    LoseServer,
}

#[derive(Arbitrary, Debug)]
enum Frontend {
    Query(Text),
    Parse { name: u8, text: Text },
    Bind { portal: u8, statement: u8 },
    Simple { tag: u8, body: Vec<u8> },
    Sync,
}

#[derive(Arbitrary, Debug)]
struct Backend {
    tag: u8,
    body: Vec<u8>,
    status: u8,
}

#[derive(Arbitrary, Debug)]
enum Text {
    Known(u8),
    Any(Vec<u8>),
}

const TEXTS: [&[u8]; 12] = [
    b"SELECT 1",
    b"BEGIN",
    b"COMMIT",
    b"SET a.b = 'c'",
    b"PREPARE a AS SELECT 1",
    b"EXECUTE a",
    b"DEALLOCATE ALL",
    b"DISCARD ALL",
    b"LISTEN x",
    b"COPY t FROM STDIN",
    b"SELECT currval('s')",
    b"SELECT f()",
];
const NAMES: [&[u8]; 4] = [b"", b"a", b"b", b"pgweir_1"];
const FRONTEND_TAGS: &[u8] = b"CDEHFdcfX";
const BACKEND_TAGS: &[u8] = b"23CEGHWIDNSTZ1ntsAVcd";

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    let length = u32::try_from(body.len() + 4).expect("small");
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn pick<'a>(from: &[&'a [u8]], index: u8) -> &'a [u8] {
    from[usize::from(index) % from.len()]
}

impl Text {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Known(index) => pick(&TEXTS, *index).to_vec(),
            Self::Any(bytes) => bytes.iter().copied().filter(|byte| *byte != 0).collect(),
        }
    }
}

impl Frontend {
    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Query(text) => encode::query(&mut out, &text.bytes()),
            Self::Parse { name, text } => {
                encode::parse(&mut out, pick(&NAMES, *name), &text.bytes(), &[0, 0]);
            }
            Self::Bind { portal, statement } => {
                let (portal, statement) = (pick(&NAMES, *portal), pick(&NAMES, *statement));
                encode::bind_head(&mut out, portal, statement, 6);
                out.extend_from_slice(&[0; 6]);
            }
            Self::Simple { tag, body } => {
                let tag = FRONTEND_TAGS[usize::from(*tag) % FRONTEND_TAGS.len()];
                out = message(tag, body);
            }
            Self::Sync => encode::sync(&mut out),
        }
        out
    }
}

impl Backend {
    fn bytes(&self) -> Vec<u8> {
        let tag = BACKEND_TAGS[usize::from(self.tag) % BACKEND_TAGS.len()];
        match tag {
            b'Z' => message(tag, &[b"ITE"[usize::from(self.status) % 3]]),
            _ => message(tag, &self.body),
        }
    }
}

struct Bench {
    session: Session,
    server: Option<ServerState>,
    defaults: Arc<Settings>,
    from_client: Vec<u8>,
    from_server: Vec<u8>,
}

impl Bench {
    /// Takes what the client has sent; `false` ends the conversation.
    fn on_client(&mut self) -> bool {
        let mut answers = Vec::new();
        if self.server.is_none() {
            match self.session.plan(&self.from_client, u32::MAX, &mut answers) {
                Err(_) | Ok(Plan::Terminate) => return false,
                Ok(Plan::Wait(done)) => {
                    self.from_client.drain(..done);
                    return true;
                }
                Ok(Plan::NeedServer(done)) => {
                    self.from_client.drain(..done);
                    let server = ServerState::new(b"postgres", Arc::clone(&self.defaults), 2);
                    self.server = Some(server);
                }
            }
        }
        let Some(server) = &mut self.server else {
            return true;
        };
        let mut scratch = Vec::new();
        let mut out = Outbox::new(&self.from_client, &mut scratch);
        if server.is_clean() {
            self.session.attach(server, &mut out);
        }
        let taken = self.session.on_client_bytes(
            &self.from_client,
            u32::MAX,
            server,
            &mut out,
            &mut answers,
        );
        drop(out.finish().len());
        match taken {
            Ok(taken) if !taken.terminate => {
                assert!(taken.consumed <= self.from_client.len());
                self.from_client.drain(..taken.consumed);
            }
            _ => return false,
        }
        self.give_back();
        true
    }

    fn on_server(&mut self) -> bool {
        let Some(server) = &mut self.server else {
            self.from_server.clear();
            return true;
        };
        let (mut scratch, mut to_server) = (Vec::new(), Vec::new());
        let mut out = Outbox::new(&self.from_server, &mut scratch);
        let taken =
            self.session
                .on_server_bytes(&self.from_server, server, &mut out, &mut to_server);
        drop(out.finish().len());
        match taken {
            Ok(done) => {
                assert!(done <= self.from_server.len());
                self.from_server.drain(..done);
                self.give_back();
                true
            }
            Err(_) => self.lose_server(),
        }
    }

    fn give_back(&mut self) {
        let Some(server) = &self.server else { return };
        if self.session.release(server) == Release::Return {
            assert!(server.is_clean());
            self.server = None;
            self.from_server.clear();
        }
    }

    fn lose_server(&mut self) -> bool {
        let Some(mut server) = self.server.take() else {
            return true;
        };
        self.from_server.clear();
        let report = Report {
            severity: encode::Severity::Error,
            sqlstate: SqlState::CONNECTION_FAILURE,
            message: "gone",
            detail: "",
            hint: "",
        };
        let mut answers = Vec::new();
        let damage = self
            .session
            .on_server_lost(&mut server, &report, &mut answers);
        damage == pgweir::session::Damage::Statement
    }
}

fuzz_target!(|ops: Vec<Op>| {
    let defaults = Arc::new(Settings::default());
    let interners = Arc::new(Interners::default());
    let mut bench = Bench {
        session: Session::new(1, Mode::Transaction, interners, Arc::clone(&defaults)),
        server: None,
        defaults,
        from_client: Vec::new(),
        from_server: Vec::new(),
    };
    for op in ops {
        let goes_on = match op {
            Op::Client(message) => {
                bench.from_client.extend_from_slice(&message.bytes());
                bench.on_client()
            }
            Op::Server(message) => {
                bench.from_server.extend_from_slice(&message.bytes());
                bench.on_server()
            }
            Op::Garbage {
                from_client: true,
                bytes,
            } => {
                bench.from_client.extend_from_slice(&bytes);
                bench.on_client()
            }
            Op::Garbage {
                from_client: false,
                bytes,
            } => {
                bench.from_server.extend_from_slice(&bytes);
                bench.on_server()
            }
            Op::LoseServer => bench.lose_server(),
        };
        if !goes_on {
            return;
        }
    }
});
