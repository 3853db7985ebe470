//! A console for unit tests: real pools that have no server, real clients that have no socket.

use std::{
    future::poll_fn, os::unix::net::UnixListener, path::Path, sync::Arc, task::Waker,
    time::Duration,
};

use bytes::BytesMut;
use tempfile::TempDir;
use tokio::{
    net::UnixStream,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::task::TaskTracker;

use super::{Console, ConsoleContext, ConsoleLogin, ConsoleParts, ControlRequest, serve};
use crate::{
    config::{Config, Role},
    net::{Address, Resolver, Stream},
    pool::{
        ClientRecord, Clients, Pool, PoolName, Pools, Servers, Shared, Watch,
        clients::{ClientKey, NewClient, Origin},
    },
    protocol::{BackendTag, backend, backend::ErrorFields, encode, frame},
    route::{Host, HostState, Lsn, Topology},
    server::ServerLogin,
};

/// One configured database of another name on its server, users with and without sizes of their own.
const CONFIG: &str = r#"
    [databases.app]
    servers = [
      { host = "10.0.0.1", port = 5433, role = "primary" },
      { host = "10.0.0.2", role = "replica" },
    ]
    dbname = "app_production"
    pool_mode = "session"
    max_db_connections = 50
    [databases."*"]
    servers = [{ host = "/run/postgresql" }]
    [users.alice]
    password = "secret"
    pool_size = 7
    [users.bob]
    password = "secret"
"#;

pub(super) struct TestConsole {
    pub(super) console: Arc<Console>,
    pub(super) requests: mpsc::UnboundedReceiver<ControlRequest>,
    _config: watch::Sender<Arc<Config>>,
}

impl TestConsole {
    pub(super) fn new() -> Self {
        Self::configured(CONFIG)
    }

    pub(super) fn configured(toml: &str) -> Self {
        let config = Config::parse(toml, Path::new(""), &|_| None).expect("it is valid");
        let (config, configs) = watch::channel(Arc::new(config));
        let (control, requests) = mpsc::unbounded_channel();
        let process = &config.borrow().process.clone();
        let console = Console::new(ConsoleParts {
            pools: Arc::new(Pools::new(Arc::new(Shared::new(
                TaskTracker::new(),
                Arc::default(),
            )))),
            clients: Arc::new(Clients::new([7; 32], 0)),
            resolver: Arc::new(Resolver::new(process.dns_max_ttl, process.dns_nxdomain_ttl)),
            login_clients: Arc::default(),
            config: configs,
            control,
        });
        Self {
            console: Arc::new(console),
            requests,
            _config: config,
        }
    }

    pub(super) fn pool(&self, database: &str, user: &str) -> Arc<Pool> {
        self.pool_at(database, user, ServerLogin::nowhere())
    }

    /// A pool with one connection in the making, until the server is dropped.
    pub(super) fn busy_pool(&self, database: &str, user: &str) -> SilentServer {
        let directory = tempfile::tempdir().expect("the temporary directory is writable");
        let socket = directory.path().join(".s.PGSQL.1");
        let listener = UnixListener::bind(socket).expect("a fresh directory");
        let mut login = ServerLogin::clone(&ServerLogin::nowhere());
        login.target.timeout = Duration::from_secs(600);
        login.target.address = Address::Unix {
            directory: directory.path().to_owned(),
            port: 1,
        };
        let pool = self.pool_at(database, user, Arc::new(login));
        pool.wait(&Arc::default(), Waker::noop(), tokio::time::Instant::now());
        assert_eq!(pool.view().connecting, 1);
        SilentServer {
            _listener: listener,
            _directory: directory,
        }
    }

    /// The servers of a database that has several: a primary `p` and two replicas, `a` and `b`, that have
    /// replayed all; poll 1 found the primary at 0/64.
    pub(super) fn watched(&self, database: &str, user: &str) -> Arc<Watch> {
        let name = PoolName {
            database: database.into(),
            user: user.into(),
        };
        let hosts = [
            ("p", Role::Primary, HostState::Primary),
            ("a", Role::Replica, HostState::Replica),
            ("b", Role::Replica, HostState::Replica),
        ];
        let hosts = hosts.map(|(name, role, state)| {
            let host = Host::new(name, role, 1, None);
            host.set_state(state);
            host.set_timeline(1);
            host.set_replayed(Lsn(100));
            host
        });
        let watch = Watch::new(Topology::new(hosts.into()), Arc::default());
        let polls = &watch.topology.polls;
        polls.answer(polls.send(), Lsn(100));
        let servers = || Servers {
            settings: Arc::clone(&self.console.config().defaults),
            logins: vec![ServerLogin::nowhere(); 3],
            watch: Some(Arc::clone(&watch)),
        };
        self.console.pools.cluster(&name, servers);
        watch
    }

    fn pool_at(&self, database: &str, user: &str, login: Arc<ServerLogin>) -> Arc<Pool> {
        let name = PoolName {
            database: database.into(),
            user: user.into(),
        };
        let settings = Arc::clone(&self.console.config().defaults);
        let servers = || Servers::one(settings, login);
        Arc::clone(self.console.pools.cluster(&name, servers).hosts().home())
    }

    pub(super) fn client(&self, database: &str, user: &str) -> (Arc<ClientRecord>, ClientKey) {
        self.console.clients.enter(NewClient {
            replication: None,
            secret_length: 4,
            pool: self.pool(database, user),
            origin: Origin::Tcp {
                peer: ([10, 1, 2, 3], 40_000).into(),
                local: ([10, 0, 0, 9], 6432).into(),
            },
            tls: "TLSv1.3/TLS_AES_256_GCM_SHA384".into(),
            application_name: "shop".into(),
            connected_at_unix: 1_785_490_245,
        })
    }

    /// A connection as this user; its welcome has been read.
    pub(super) async fn connect(&self, user: &str) -> Peer {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        let context = ConsoleContext {
            console: Arc::clone(&self.console),
            login: ConsoleLogin {
                user: user.into(),
                role: match user {
                    "root" => super::Role::Admin,
                    _ => super::Role::Stats,
                },
                origin: Origin::Unix,
                tls: "".into(),
                application_name: "psql".into(),
            },
        };
        let owed = b"R\0\0\0\x08\0\0\0\0".to_vec();
        let served = serve(theirs.into(), owed, BytesMut::new(), context);
        let mut peer = Peer {
            stream: ours.into(),
            received: Vec::new(),
            served: tokio::task::spawn_local(served),
            key: (0, Vec::new()),
        };
        for message in peer.until_ready().await {
            if let Reply::Other(BackendTag::BackendKeyData, body) = message {
                let (process_id, secret) = body.split_first_chunk().expect("a key");
                peer.key = (i32::from_be_bytes(*process_id), secret.to_vec());
            }
        }
        peer
    }
}

/// A server that lets clients connect and never says anything.
pub(super) struct SilentServer {
    _listener: UnixListener,
    _directory: TempDir,
}

/// The other end of a console connection.
pub(super) struct Peer {
    stream: Stream,
    received: Vec<u8>,
    /// The connection's task.
    pub(super) served: JoinHandle<std::io::Result<()>>,
    /// Its cancel key.
    pub(super) key: (i32, Vec<u8>),
}

/// A message of the console, as far as tests look into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Error(String, String),
    Notice(String),
    Row(Vec<Option<String>>),
    Complete(String),
    Ready,
    Other(BackendTag, Vec<u8>),
}

impl Reply {
    pub(super) fn error(sqlstate: &str, message: &str) -> Self {
        Self::Error(sqlstate.to_owned(), message.to_owned())
    }

    pub(super) fn complete(tag: &str) -> Self {
        Self::Complete(tag.to_owned())
    }

    pub(super) fn empty(tag: BackendTag) -> Self {
        Self::Other(tag, Vec::new())
    }

    fn read(tag: BackendTag, body: &[u8]) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        match tag {
            BackendTag::ErrorResponse => {
                let fields = ErrorFields::read(body);
                let sqlstate = fields.sqlstate.expect("each has one").to_string();
                Self::Error(sqlstate, text(fields.message))
            }
            BackendTag::NoticeResponse => Self::Notice(text(ErrorFields::read(body).message)),
            BackendTag::CommandComplete => Self::Complete(text(&body[..body.len() - 1])),
            BackendTag::DataRow => {
                let fields = backend::data_row(body).expect("well-formed");
                Self::Row(fields.into_iter().map(|f| f.map(text)).collect())
            }
            BackendTag::ReadyForQuery => {
                assert_eq!(body, b"I");
                Self::Ready
            }
            tag => Self::Other(tag, body.to_vec()),
        }
    }
}

impl Peer {
    pub(super) async fn send(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let sent = poll_fn(|cx| self.stream.poll_write(cx, bytes)).await;
            bytes = &bytes[sent.expect("the console is there")..];
        }
    }

    /// Closes this end, and gives the task that served it.
    pub(super) fn close(self) -> JoinHandle<std::io::Result<()>> {
        self.served
    }

    /// Sends a simple query.
    pub(super) async fn ask(&mut self, text: &str) {
        let mut out = Vec::new();
        encode::query(&mut out, text.as_bytes());
        self.send(&out).await;
    }

    /// `None` when the console has closed the connection.
    pub(super) async fn next(&mut self) -> Option<Reply> {
        loop {
            if let Some(frame) = frame::backend(&self.received).expect("valid")
                && frame.is_whole()
            {
                let reply = Reply::read(frame.tag, frame.body());
                let size = frame.size;
                self.received.drain(..size);
                return Some(reply);
            }
            let mut chunk = [0; 4096];
            match poll_fn(|cx| self.stream.poll_read(cx, &mut chunk)).await {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.received.extend_from_slice(&chunk[..count]),
            }
        }
    }

    /// Everything up to ReadyForQuery, without it.
    pub(super) async fn until_ready(&mut self) -> Vec<Reply> {
        let mut replies = Vec::new();
        loop {
            match self.next().await.expect("the console is there") {
                Reply::Ready => return replies,
                reply => replies.push(reply),
            }
        }
    }

    /// Runs a simple query.
    pub(super) async fn query(&mut self, text: &str) -> Vec<Reply> {
        self.ask(text).await;
        self.until_ready().await
    }

    /// The rows of a query, NULL as `-`.
    pub(super) async fn rows(&mut self, text: &str) -> Vec<Vec<String>> {
        let replies = self.query(text).await;
        let is_complete = matches!(replies.last(), Some(Reply::Complete(_)));
        assert!(is_complete, "{text}: {replies:?}");
        let shown = |field: Option<String>| field.unwrap_or_else(|| "-".to_owned());
        let rows = replies.into_iter().filter_map(|reply| match reply {
            Reply::Row(fields) => Some(fields.into_iter().map(shown).collect()),
            _ => None,
        });
        rows.collect()
    }

    /// Rows of a query with fields joined by `|`, as `psql -At` prints them.
    pub(super) async fn lines(&mut self, text: &str) -> Vec<String> {
        let rows = self.rows(text).await;
        rows.iter().map(|row| row.join("|")).collect()
    }
}

/// Runs a test on one thread, as a worker does.
pub(super) fn on_a_worker(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

/// Lets the other tasks go on until the condition holds; fails the test if it never does.
pub(super) async fn eventually(mut condition: impl FnMut() -> bool) {
    let patience = Duration::from_secs(60);
    let holds = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    let outcome = tokio::time::timeout(patience, holds).await;
    outcome.expect("the condition holds within a minute");
}
