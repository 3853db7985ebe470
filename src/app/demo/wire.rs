//! A client of its own for the demo: blocking, one simple query at a time, trusted without a password.
//!
//! Knows the protocol and a TCP socket; does not know the pooler, which it meets as any client does.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use crate::protocol::{
    BackendTag, Frame, FrameError, Malformed, SqlState,
    backend::{self, ErrorFields},
    encode, frame,
    startup::{ProtocolVersion, startup_message},
};

/// One read; the demo's answers are far shorter.
const READ_SIZE: usize = 4096;

/// The body of AuthenticationOk.
const AUTHENTICATION_OK: [u8; 4] = [0; 4];

/// A query was not answered with rows.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// The connection cannot be made, or broke.
    #[error("connection lost")]
    Io(#[from] io::Error),
    /// The answer is no message.
    #[error("invalid answer")]
    Frame(#[from] FrameError),
    /// The answer does not have the shape its tag promises.
    #[error("malformed answer")]
    Malformed(#[from] Malformed),
    /// Who we are is to be proved; the demo has no password.
    #[error("a password is asked for")]
    PasswordWanted,
    /// The server, or the pooler, refused.
    #[error("{message}{}", .sqlstate.map(|code| format!(" ({code})")).unwrap_or_default())]
    Refused {
        /// The code, when it is well-formed.
        sqlstate: Option<SqlState>,
        /// The first line of the error.
        message: String,
    },
}

/// A connection that is ready for a query.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    /// Bytes of messages that have not been looked at.
    received: Vec<u8>,
}

impl Connection {
    /// Connects and logs in.
    pub(super) fn open(address: SocketAddr, user: &str, database: &str) -> Result<Self, WireError> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let parameters = [
            (&b"user"[..], user.as_bytes()),
            (b"database", database.as_bytes()),
            (b"application_name", b"pgweir demo"),
        ];
        stream.write_all(&startup_message(ProtocolVersion::V3_0, parameters))?;
        let mut connection = Self {
            stream,
            received: Vec::new(),
        };
        connection.until_ready()?;
        Ok(connection)
    }

    /// Runs `text`; answers the first column of every row, NULL as an empty string.
    pub(super) fn query(&mut self, text: &str) -> Result<Vec<Vec<u8>>, WireError> {
        let mut message = Vec::new();
        encode::query(&mut message, text.as_bytes());
        self.stream.write_all(&message)?;
        self.until_ready()
    }

    /// Reads to the next ReadyForQuery; an error on the way is the answer.
    fn until_ready(&mut self) -> Result<Vec<Vec<u8>>, WireError> {
        let mut rows = Vec::new();
        let mut refusal = None;
        loop {
            let mut done = 0;
            while let Some(message) = whole(&self.received[done..])? {
                done += message.size;
                match message.tag {
                    BackendTag::Authentication if message.body() != AUTHENTICATION_OK => {
                        return Err(WireError::PasswordWanted);
                    }
                    BackendTag::DataRow => {
                        let columns = backend::data_row(message.body())?;
                        let first = columns.first().copied().flatten();
                        rows.push(first.unwrap_or_default().to_vec());
                    }
                    BackendTag::ErrorResponse => {
                        refusal = Some(refused(&ErrorFields::read(message.body())));
                    }
                    BackendTag::ReadyForQuery => {
                        self.received.drain(..done);
                        return refusal.map_or(Ok(rows), Err);
                    }
                    _ => {}
                }
            }
            self.received.drain(..done);
            let mut chunk = [0; READ_SIZE];
            match self.stream.read(&mut chunk)? {
                // What it said before it left is why it left.
                0 => {
                    return Err(refusal
                        .unwrap_or_else(|| WireError::Io(io::ErrorKind::UnexpectedEof.into())));
                }
                size => self.received.extend_from_slice(&chunk[..size]),
            }
        }
    }
}

impl Drop for Connection {
    /// Says goodbye; that it may already be gone is no harm.
    fn drop(&mut self) {
        let mut message = Vec::new();
        encode::terminate(&mut message);
        drop(self.stream.write_all(&message));
    }
}

fn whole(bytes: &[u8]) -> Result<Option<Frame<'_, BackendTag>>, FrameError> {
    Ok(frame::backend(bytes)?.filter(Frame::is_whole))
}

fn refused(fields: &ErrorFields<'_>) -> WireError {
    WireError::Refused {
        sqlstate: fields.sqlstate,
        message: match str::from_utf8(fields.message) {
            Ok(text) => text.to_owned(),
            Err(_) => fields.message.escape_ascii().to_string(),
        },
    }
}
