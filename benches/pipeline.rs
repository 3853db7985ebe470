//! What the session costs: whole transactions through it without sockets, the same with routing, the routing alone,
//! and a row that comes in pieces.
#![allow(
    missing_docs,
    reason = "criterion's macros make undocumented functions"
)]

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pgweir::{
    config::{Consistency, LoadBalance, OnLag, PrimaryReads, Role, RouteTo},
    protocol::{backend::TransactionStatus, encode},
    route::{
        self, Chance, Decision, Freshness, Host, HostState, Need, Patience, Policy, Question,
        Topology, Verdict, Wishes,
    },
    session::{
        Interners, Kind, Mode, Outbox, Place, Plan, Release, ServerState, Session, Settings, Texts,
    },
};

mod messages;

type Request = fn(u32) -> Vec<u8>;

const PROTOCOLS: [(&str, Request); 3] = [
    ("simple", messages::simple),
    ("extended", messages::extended),
    ("prepared", messages::prepared),
];

/// Requests of which each has a literal of its own.
const REQUESTS: u32 = 64;

/// A client's session and a server.
struct Peers {
    session: Session,
    server: ServerState,
    composed: Vec<u8>,
    answers: Vec<u8>,
}

impl Peers {
    /// With all that the requests need, and what the server answers each.
    fn ready_for(request: &[u8]) -> (Self, Vec<u8>) {
        let interners: Arc<Interners> = Arc::default();
        let settings = interners.settings.intern(Settings::default());
        let session = Session::new(1, Mode::Transaction, interners, Arc::clone(&settings));
        let mut peers = Self {
            session: session.sharing(Texts::of_worker()),
            server: ServerState::new(b"postgres", settings, 200),
            composed: Vec::new(),
            answers: Vec::new(),
        };
        let mut reply = Vec::new();
        // The second time the server has what is prepared.
        for request in [&messages::prepare(), request, request] {
            reply = messages::reply(peers.send(request));
            peers.receive(&reply);
        }
        (peers, reply)
    }

    /// What reaches the server.
    fn send<'a>(&'a mut self, request: &'a [u8]) -> &'a [u8] {
        let Self {
            session,
            server,
            composed,
            answers,
        } = self;
        let plan = session.plan(request, u32::MAX, answers);
        assert_eq!(plan, Ok(Plan::NeedServer(0)));
        let mut out = Outbox::new(request, composed);
        session.attach(server, &mut out);
        let taken = session.on_client_bytes(request, u32::MAX, server, &mut out, answers);
        assert!(taken.is_ok_and(|taken| taken.consumed == request.len()));
        out.finish()
    }

    /// What reaches the client.
    fn read<'a>(&'a mut self, piece: &'a [u8]) -> &'a [u8] {
        let Self {
            session,
            server,
            composed,
            answers,
        } = self;
        let mut out = Outbox::new(piece, composed);
        let taken = session.on_server_bytes(piece, server, &mut out, answers);
        assert!(taken.is_ok_and(|taken| taken == piece.len()));
        out.finish()
    }

    /// All of the reply.
    fn receive(&mut self, reply: &[u8]) {
        black_box(self.read(reply));
        assert_eq!(self.session.release(&self.server), Release::Return);
    }
}

/// What a database with two replicas adds to a session.
struct Routing {
    topology: Topology,
    freshness: Freshness,
    turn: u64,
}

impl Routing {
    fn new() -> Self {
        let roles = [Role::Primary, Role::Replica, Role::Replica];
        let hosts = roles.map(|role| Host::new("localhost", role, 1, None));
        let topology = Topology::new(hosts.into());
        let states = [HostState::Primary, HostState::Replica, HostState::Replica];
        for (host, state) in topology.hosts().iter().zip(states) {
            host.set_state(state);
        }
        Self {
            topology,
            freshness: Freshness::default(),
            turn: 0,
        }
    }

    fn decide(&mut self, session: &Session, request: &[u8]) -> Decision {
        let unit = session.unit(request);
        assert_eq!(unit.kind, Kind::Read);
        self.turn += 1;
        let question = Question {
            need: Need::Read,
            wishes: Wishes {
                route: RouteTo::Auto,
                consistency: Consistency::Session,
                by_comment: false,
            },
            freshness: &self.freshness,
            shared: 0,
            asked: self.topology.polls.next(),
            is_pinned: false,
            avoid: None,
            patience: Patience::Moment,
        };
        let policy = Policy {
            on_lag: OnLag::Primary,
            load_balance: LoadBalance::LeastConnections,
            primary_reads: PrimaryReads::Fallback,
            zone: None,
        };
        let chance = Chance {
            turn: self.turn,
            dice: self.turn.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            client: 1,
        };
        match route::decide(&question, &policy, &self.topology, chance) {
            Verdict::Go(decision) => decision,
            verdict => unreachable!("the replicas are up: {verdict:?}"),
        }
    }

    /// A whole transaction that is put at stake on a replica.
    fn run(&mut self, peers: &mut Peers, request: &[u8], reply: &[u8]) {
        let decision = self.decide(&peers.session, request);
        peers.session.set_place(Place::Replica);
        peers.server.stake.begin(request);
        let host = &self.topology.hosts()[decision.host];
        host.begin(true);
        black_box(peers.send(request));
        peers.receive(reply);
        host.end();
        self.freshness.on_read(&decision, &self.topology);
    }
}

fn transactions(c: &mut Criterion) {
    for (name, request) in PROTOCOLS {
        let mut group = c.benchmark_group(name);
        let requests: Vec<Vec<u8>> = (10_000..10_000 + REQUESTS).map(request).collect();
        let mut requests = requests.iter().cycle();
        let mut next = || requests.next().expect("a cycle has no end");
        let (mut peers, reply) = Peers::ready_for(next());
        group.bench_function("transaction", |b| {
            b.iter(|| {
                black_box(peers.send(next()));
                peers.receive(&reply);
            });
        });
        let mut routing = Routing::new();
        group.bench_function("transaction, routed", |b| {
            b.iter(|| routing.run(&mut peers, next(), &reply));
        });
        group.bench_function("where it goes", |b| {
            b.iter(|| routing.decide(&peers.session, next()));
        });
        group.finish();
    }
}

fn large_row(c: &mut Criterion) {
    const SIZE: usize = 16 << 20;
    const READ: usize = 64 * 1024;
    let request = messages::simple(1);
    let mut reply = Vec::new();
    encode::data_row(&mut reply, [Some(vec![b'x'; SIZE].as_slice())].into_iter());
    encode::command_complete(&mut reply, "SELECT 1");
    encode::ready_for_query(&mut reply, TransactionStatus::Idle);
    let (mut peers, _) = Peers::ready_for(&request);
    let mut group = c.benchmark_group("rows");
    group.throughput(Throughput::Bytes(reply.len() as u64));
    group.bench_function("one of 16 MiB in reads of 64 KiB", |b| {
        b.iter(|| {
            black_box(peers.send(&request));
            for piece in reply.chunks(READ) {
                black_box(peers.read(piece));
            }
        });
    });
    group.finish();
}

criterion_group!(benches, transactions, large_row);
criterion_main!(benches);
