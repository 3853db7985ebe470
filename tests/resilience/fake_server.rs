//! A server that follows a script instead of the protocol.

use std::{cell::RefCell, collections::VecDeque, rc::Rc};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::support::wire::{cstr, message};

const CANCEL_REQUEST: [u8; 4] = 80_877_102_i32.to_be_bytes();

/// What a connection does, from its startup packet to its end.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// What it sends to the startup packet.
    pub(crate) greeting: Vec<u8>,
    /// What it sends when something has been asked.
    pub(crate) reply: Vec<u8>,
    pub(crate) then: Then,
}

/// What comes behind a reply.
#[derive(Clone, Debug)]
pub(crate) enum Then {
    /// The next question.
    Listen,
    /// The end of the connection.
    Close,
    /// This, over and over again until nobody takes it.
    Flood(Vec<u8>),
}

/// A listener on a port of its own; ends with the test's runtime.
pub(crate) struct FakeServer {
    pub(crate) port: u16,
    scripts: Rc<RefCell<VecDeque<Script>>>,
    accepting: JoinHandle<()>,
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Script {
    /// A server that lets everybody in and answers each question by the same row.
    pub(crate) fn well_behaved() -> Self {
        Self {
            greeting: greeting(),
            reply: reply(),
            then: Then::Listen,
        }
    }

    /// Well-behaved but for this reply and what comes behind it.
    pub(crate) fn replying(reply: impl Into<Vec<u8>>, then: Then) -> Self {
        Self {
            reply: reply.into(),
            then,
            ..Self::well_behaved()
        }
    }

    /// Says this to the startup packet, and nothing else.
    pub(crate) fn greeting(greeting: impl Into<Vec<u8>>) -> Self {
        Self {
            greeting: greeting.into(),
            reply: Vec::new(),
            then: Then::Close,
        }
    }
}

impl FakeServer {
    /// Listens; must be called within a `LocalSet`.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let scripts: Rc<RefCell<VecDeque<Script>>> = Rc::default();
        let next = Rc::clone(&scripts);
        let accepting = tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let scripts = Rc::clone(&next);
                tokio::task::spawn_local(async move {
                    // It ends when the other side has had enough.
                    drop(play(stream, &scripts).await);
                });
            }
        });
        Self {
            port,
            scripts,
            accepting,
        }
    }

    /// The next connection follows this script; those behind the last script are well-behaved.
    pub(crate) fn next(&self, script: Script) {
        self.scripts.borrow_mut().push_back(script);
    }

    /// Scripts that no connection has followed yet.
    pub(crate) fn unplayed(&self) -> usize {
        self.scripts.borrow().len()
    }
}

async fn play(mut stream: TcpStream, scripts: &RefCell<VecDeque<Script>>) -> std::io::Result<()> {
    let length = stream.read_u32().await?;
    let mut packet = vec![0; length as usize - 4];
    stream.read_exact(&mut packet).await?;
    if packet.starts_with(&CANCEL_REQUEST) {
        return Ok(());
    }
    let script = scripts.borrow_mut().pop_front();
    let script = script.unwrap_or_else(Script::well_behaved);
    stream.write_all(&script.greeting).await?;
    if script.reply.is_empty() && matches!(script.then, Then::Close) {
        return Ok(());
    }
    loop {
        let kind = stream.read_u8().await?;
        let length = stream.read_u32().await?;
        let mut body = vec![0; length as usize - 4];
        stream.read_exact(&mut body).await?;
        match kind {
            b'X' => return Ok(()),
            b'Q' | b'S' => stream.write_all(&script.reply).await?,
            _ => continue,
        }
        match &script.then {
            Then::Listen => {}
            Then::Close => return Ok(()),
            Then::Flood(bytes) => loop {
                stream.write_all(bytes).await?;
            },
        }
    }
}

/// Up to the first ReadyForQuery.
pub(crate) fn greeting() -> Vec<u8> {
    [
        message(b'R', &[0; 4]),
        parameter_status("server_version", "15.0"),
        parameter_status("client_encoding", "UTF8"),
        message(b'K', b"\0\0\0\x07abcd"),
        ready(),
    ]
    .concat()
}

/// One row to a simple query.
pub(crate) fn reply() -> Vec<u8> {
    [row_description(), row(b"fake"), complete(), ready()].concat()
}

pub(crate) fn parameter_status(name: &str, value: &str) -> Vec<u8> {
    message(b'S', &[cstr(name), cstr(value)].concat())
}

pub(crate) fn row_description() -> Vec<u8> {
    let column = [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 25, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0,
    ];
    message(b'T', &[&[0, 1][..], &cstr("c"), &column].concat())
}

/// A DataRow of one column.
pub(crate) fn row(value: &[u8]) -> Vec<u8> {
    let length = u32::try_from(value.len()).unwrap().to_be_bytes();
    message(b'D', &[&[0, 1][..], &length, value].concat())
}

pub(crate) fn complete() -> Vec<u8> {
    message(b'C', &cstr("SELECT 1"))
}

pub(crate) fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

/// An ErrorResponse or NoticeResponse of these fields.
pub(crate) fn report(kind: u8, fields: &[&str]) -> Vec<u8> {
    let mut body: Vec<u8> = fields.iter().flat_map(|field| cstr(field)).collect();
    body.push(0);
    message(kind, &body)
}
