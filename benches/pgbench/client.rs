//! A small blocking client: logs in, stays, reads a COPY. It costs little enough not to be what is
//! measured, and derives a SCRAM key once a run.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result, bail, ensure};
use bytes::BytesMut;
use pgweir::auth::{
    KdfRequest, Password, SaltedKeys,
    scram_client::{Binding, ClientFirst},
};
use postgres_protocol::message::frontend;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    client::Resumption,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

/// Who logs in, where, and how.
pub(crate) struct Login {
    pub(crate) port: u16,
    pub(crate) user: &'static str,
    pub(crate) database: &'static str,
    pub(crate) scram: Option<Scram>,
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

/// A password, and the keys derived from it for the salt that the server named.
pub(crate) struct Scram {
    password: Password,
    keys: Mutex<Option<(Vec<u8>, Arc<SaltedKeys>)>>,
    nonce: AtomicU64,
}

/// A session after its login. Closed without a word on drop.
pub(crate) struct Session {
    stream: BufReader<Stream>,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

const MAX_ITERATIONS: u32 = 100_000;

impl Login {
    /// Logs in and returns at ReadyForQuery.
    pub(crate) fn connect(&self) -> Result<Session> {
        let mut out = BytesMut::new();
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        socket.set_nodelay(true)?;
        let stream = match &self.tls {
            None => Stream::Plain(socket),
            Some(config) => {
                frontend::ssl_request(&mut out);
                socket.write_all(&out)?;
                let mut answer = [0];
                socket.read_exact(&mut answer)?;
                ensure!(answer == *b"S", "TLS is refused");
                let name = ServerName::try_from("127.0.0.1")?;
                let tls = ClientConnection::new(Arc::clone(config), name)?;
                Stream::Tls(Box::new(StreamOwned::new(tls, socket)))
            }
        };
        let mut session = Session {
            stream: BufReader::with_capacity(1024, stream),
        };
        out.clear();
        let parameters = [("user", self.user), ("database", self.database)];
        frontend::startup_message(parameters, &mut out)?;
        session.send(&out)?;
        loop {
            match session.receive()? {
                (b'R', body) => self.authenticate(&mut session, &body)?,
                (b'Z', _) => return Ok(session),
                (b'E', body) => bail!("{}", body.escape_ascii()),
                _ => {}
            }
        }
    }

    fn authenticate(&self, session: &mut Session, request: &[u8]) -> Result<()> {
        match request {
            [0, 0, 0, 0] => Ok(()),
            [0, 0, 0, 10, ..] => {
                let scram = self.scram.as_ref().context("it asks for a password")?;
                scram.exchange(session)
            }
            other => bail!("unexpected authentication request {other:?}"),
        }
    }
}

impl Scram {
    pub(crate) fn new(password: &str) -> Self {
        Self {
            password: Password::new(password.as_bytes()),
            keys: Mutex::default(),
            nonce: AtomicU64::new(0),
        }
    }

    /// From AuthenticationSASL to AuthenticationSASLFinal.
    fn exchange(&self, session: &mut Session) -> Result<()> {
        let mut out = BytesMut::new();
        let nonce = format!("bench{:020}", self.nonce.fetch_add(1, Ordering::Relaxed));
        let (first, _, message) = ClientFirst::new(Binding::Impossible, nonce);
        frontend::sasl_initial_response("SCRAM-SHA-256", &message, &mut out)?;
        session.send(&out)?;
        let server_first = first.server_first(&session.receive_sasl(11)?, MAX_ITERATIONS)?;
        let keys = self.keys(server_first.salt(), server_first.iterations())?;
        let (awaiting, message) = server_first.prove(&keys);
        out.clear();
        frontend::sasl_response(&message, &mut out)?;
        session.send(&out)?;
        awaiting.verify(&session.receive_sasl(12)?)?;
        Ok(())
    }

    fn keys(&self, salt: &[u8], iterations: u32) -> Result<Arc<SaltedKeys>> {
        let mut known = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known_salt, keys)) = &*known
            && known_salt == salt
        {
            return Ok(Arc::clone(keys));
        }
        let password = self.password.clone();
        let request = KdfRequest::new("", password, salt, iterations, MAX_ITERATIONS)?;
        let keys = Arc::new(request.run());
        *known = Some((salt.to_owned(), Arc::clone(&keys)));
        Ok(keys)
    }
}

impl Session {
    /// Runs a `COPY … TO STDOUT` to its end and returns the bytes of its rows.
    pub(crate) fn copy_out(self, sql: &str) -> Result<u64> {
        let mut out = BytesMut::new();
        frontend::query(sql, &mut out)?;
        let mut session = Self {
            stream: BufReader::with_capacity(256 * 1024, self.stream.into_inner()),
        };
        session.send(&out)?;
        let mut bytes = 0;
        loop {
            let (tag, length) = session.receive_header()?;
            match tag {
                b'd' => {
                    bytes += length as u64;
                    session.skip(length)?;
                }
                b'Z' => return Ok(bytes),
                b'E' => {
                    let mut body = vec![0; length];
                    session.stream.read_exact(&mut body)?;
                    bail!("{}", body.escape_ascii());
                }
                _ => session.skip(length)?,
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let stream = self.stream.get_mut();
        stream.write_all(bytes)?;
        stream.flush()
    }

    fn receive(&mut self) -> Result<(u8, Vec<u8>)> {
        let (tag, length) = self.receive_header()?;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok((tag, body))
    }

    /// The data of an Authentication message of this kind.
    fn receive_sasl(&mut self, kind: u8) -> Result<Vec<u8>> {
        match self.receive()? {
            (b'R', mut body) if body.starts_with(&[0, 0, 0, kind]) => Ok(body.split_off(4)),
            (_, body) => bail!("{}", body.escape_ascii()),
        }
    }

    fn receive_header(&mut self) -> Result<(u8, usize)> {
        let mut header = [0; 5];
        self.stream.read_exact(&mut header)?;
        let [tag, length @ ..] = header;
        let length = u32::from_be_bytes(length).checked_sub(4);
        Ok((tag, length.context("a length below 4")? as usize))
    }

    fn skip(&mut self, mut length: usize) -> Result<()> {
        while length > 0 {
            let available = self.stream.fill_buf()?.len();
            ensure!(available > 0, "the connection ended");
            let skipped = available.min(length);
            self.stream.consume(skipped);
            length -= skipped;
        }
        Ok(())
    }
}

/// A TLS client that trusts one authority and resumes no session, as libpq does not.
pub(crate) fn tls_client(authority: &str) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}
