//! A client that speaks the protocol byte by byte: it can stop in the middle of a message, pipeline anything, and sees
//! each message that comes.
//!
//! Messages are as in the PostgreSQL manual, "Message Formats"; only trust authentication is known.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::sleep,
};

pub(crate) use crate::support::wire::{
    copy_data, describe_target, flush, parse, query, sync, terminate,
};
use crate::{
    support::{dice::Dice, wire as support},
    world::World,
};

pub(crate) struct Wire {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    /// Process and secret of BackendKeyData.
    pub(crate) key: Vec<u8>,
}

pub(crate) async fn dial(world: &World) -> TcpStream {
    TcpStream::connect(world.address).await.unwrap()
}

/// CancelRequest on a connection of its own, until the other side has closed it.
pub(crate) async fn cancel(world: &World, key: &[u8]) {
    let request = support::request(support::CANCEL_REQUEST, key);
    let mut stream = dial(world).await;
    // It may be closed without an answer, or reset.
    drop(stream.write_all(&request).await);
    drop(stream.read_to_end(&mut Vec::new()).await);
}

pub(crate) fn startup(world: &World, tag: &str) -> Vec<u8> {
    support::startup(&[
        ("user", "postgres"),
        ("database", &world.database),
        ("application_name", tag),
    ])
}

impl Wire {
    /// Connects and logs in.
    pub(crate) async fn connect(world: &World, tag: &str) -> Self {
        let (reader, writer) = dial(world).await.into_split();
        let mut wire = Self {
            reader: BufReader::new(reader),
            writer,
            key: Vec::new(),
        };
        wire.send(&startup(world, tag)).await;
        loop {
            let (kind, body) = wire.read().await.expect("an answer to the startup message");
            match kind {
                b'R' => assert_eq!(body, [0; 4], "AuthenticationOk"),
                b'K' => wire.key = body,
                b'S' => {}
                b'Z' => return wire,
                _ => panic!("{tag} cannot log in: {}", describe(kind, &body)),
            }
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        // A failure shows at the next read.
        drop(self.writer.write_all(bytes).await);
    }

    /// Sends `bytes` in pieces that end anywhere, with pauses in the middle of messages.
    pub(crate) async fn send_in_pieces(&mut self, bytes: &[u8], dice: &mut Dice) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let length = match dice.below(4) {
                0 => 1 + dice.below(rest.len().min(7)),
                1 => 1 + dice.below(rest.len()),
                _ => rest.len(),
            };
            let (piece, behind) = rest.split_at(length);
            self.send(piece).await;
            rest = behind;
            if !rest.is_empty() {
                sleep(Duration::from_millis(dice.below(8) as u64)).await;
            }
        }
    }

    /// The next message; `None` once the other side has closed.
    pub(crate) async fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        let kind = self.reader.read_u8().await.ok()?;
        let length = self.reader.read_i32().await.ok()?;
        let length = usize::try_from(length).ok()?.checked_sub(4)?;
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body).await.ok()?;
        Some((kind, body))
    }

    /// The next message but for those that may come at any time, in the words of [`describe`].
    pub(crate) async fn answer(&mut self) -> String {
        loop {
            match self.read().await {
                Some((b'S' | b'N' | b'A', _)) => {}
                Some((kind, body)) => return describe(kind, &body),
                None => return "closed".to_owned(),
            }
        }
    }

    /// Sends no more, and reads until the other side has closed; what came is handed back.
    pub(crate) async fn hang_up(mut self) -> Vec<String> {
        drop(self.writer.shutdown().await);
        let mut heard = Vec::new();
        while let Some((kind, body)) = self.read().await {
            heard.push(describe(kind, &body));
        }
        heard
    }
}

/// A message in a few words: its type, and what a client would look at.
pub(crate) fn describe(kind: u8, body: &[u8]) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("the tests ask for UTF-8");
    let details = match kind {
        b'C' => text(&body[..body.len() - 1]),
        b'D' => text(&body[6..]), // One column, never NULL.
        b'E' => {
            let fields = body.split(|byte| *byte == 0);
            let code = fields
                .filter(|field| field.first() == Some(&b'C'))
                .map(|field| text(&field[1..]));
            code.take(1).collect()
        }
        b'T' | b't' => i16::from_be_bytes([body[0], body[1]]).to_string(),
        b'Z' => text(body),
        _ => String::new(),
    };
    format!("{} {details}", kind as char).trim_end().to_owned()
}

/// To the unnamed portal, all in text format.
pub(crate) fn bind(statement: &str, parameters: &[&str]) -> Vec<u8> {
    let parameters: Vec<_> = parameters.iter().map(|it| it.as_bytes()).collect();
    support::bind(statement, &parameters)
}

pub(crate) fn close_statement(name: &str) -> Vec<u8> {
    support::close(b'S', name)
}

/// Of the unnamed portal.
pub(crate) fn execute(max_rows: i32) -> Vec<u8> {
    support::message(b'E', &[&[0][..], &max_rows.to_be_bytes()].concat())
}

pub(crate) fn copy_fail() -> Vec<u8> {
    support::message(b'f', b"enough\0")
}
