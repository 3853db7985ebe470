//! Whole messages, for the handshake phases only: startup, authentication, the server's greeting.
//!
//! Knows where a message ends and nothing of what it means. Memory grows with what has arrived, never by what a length
//! word promises, and no further than the caller's limit plus one read. The hot path does not come here: it takes over
//! the stream together with whatever was read too much.
//!
//! # Cancel safety
//!
//! A read that is dropped has lost nothing: bytes stay here until a whole message is handed out. A write that is dropped
//! may have sent a part; the connection is then good for closing only.

use std::{future::poll_fn, io, task::Poll};

use bytes::{Buf, BytesMut};
use thiserror::Error;

use super::{
    Acceptor, Connector, HandshakeError, Stream, accept_direct_tls, accept_tls, connect_direct_tls,
    connect_tls,
};

/// First byte of a TLS ClientHello: direct TLS instead of a startup packet.
pub const TLS_HANDSHAKE: u8 = 0x16;

/// The length word counts itself.
const LENGTH: usize = 4;
/// Bytes asked for in one read.
const CHUNK: usize = 4096;

/// A connection in its handshake phase.
#[derive(Debug)]
pub struct Framed {
    stream: Stream,
    received: BytesMut,
}

/// One message with a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its first byte.
    pub tag: u8,
    /// What follows the length word.
    pub body: BytesMut,
}

/// Why there is no message.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The peer closed the connection between two messages.
    #[error("the connection was closed")]
    Closed,
    /// The peer closed the connection within a message.
    #[error("the connection was closed in the middle of a message")]
    Cut,
    /// A length word that cannot be, or that is above the limit.
    #[error("invalid message length {length} (limit {limit})")]
    Length {
        /// As the peer sent it.
        length: u32,
        /// The most that is taken here.
        limit: u32,
    },
    /// A message that has no place here.
    #[error("unexpected message type {tag:#04x}")]
    Unexpected {
        /// Its first byte.
        tag: u8,
    },
    /// The socket, or TLS, failed.
    #[error("cannot receive")]
    Io(#[source] io::Error),
}

impl Framed {
    /// Begins with a connection of which nothing was read yet.
    #[must_use]
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            received: BytesMut::new(),
        }
    }

    /// The connection, and what was read of it but not handed out.
    #[must_use]
    pub fn into_parts(self) -> (Stream, BytesMut) {
        (self.stream, self.received)
    }

    /// The connection, to ask it who is there.
    #[must_use]
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Waits for a first byte and leaves it there: [`TLS_HANDSHAKE`], or the beginning of a startup packet.
    pub async fn first_byte(&mut self) -> Result<u8, ReadError> {
        self.fill_to(1).await?;
        Ok(self.received[0])
    }

    /// Reads a packet without a tag (manual, "Message Formats": StartupMessage, SSLRequest, CancelRequest …) and
    /// returns what follows its length word: at least the four bytes of its code.
    pub async fn read_startup(&mut self, limit: u32) -> Result<BytesMut, ReadError> {
        self.fill_to(LENGTH).await?;
        let length = self.received.as_ref().get_u32();
        let size = checked(length, 8, limit)?;
        self.fill_to(size).await?;
        let mut packet = self.received.split_to(size);
        packet.advance(LENGTH);
        Ok(packet)
    }

    /// Reads a message with a tag. `limit` names the largest length word of each tag that may come here, and `None` for
    /// one that may not: it is refused before its body is waited for.
    pub async fn read_message(
        &mut self,
        limit: impl Fn(u8) -> Option<u32>,
    ) -> Result<Message, ReadError> {
        self.fill_to(1).await?;
        let tag = self.received[0];
        let limit = limit(tag).ok_or(ReadError::Unexpected { tag })?;
        self.fill_to(1 + LENGTH).await?;
        let length = (&self.received[1..]).get_u32();
        let size = 1 + checked(length, 4, limit)?;
        self.fill_to(size).await?;
        let mut body = self.received.split_to(size);
        body.advance(1 + LENGTH);
        Ok(Message { tag, body })
    }

    /// Reads the one byte that answers an SSLRequest, and not a byte more: what follows belongs to TLS.
    pub async fn read_answer(&mut self) -> Result<u8, ReadError> {
        if !self.received.is_empty() {
            return Ok(self.received.get_u8());
        }
        let mut answer = [0];
        match poll_fn(|cx| self.stream.poll_read(cx, &mut answer)).await {
            Ok(0) => Err(ReadError::Closed),
            Ok(_) => Ok(answer[0]),
            Err(error) => Err(ReadError::Io(error)),
        }
    }

    /// Sends all of `bytes`, also through TLS.
    pub async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = poll_fn(|cx| self.stream.poll_write(cx, bytes)).await?;
            if sent == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes.advance(sent);
        }
        poll_fn(|cx| self.stream.poll_flush(cx)).await
    }

    /// Sends close_notify and FIN.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.stream.poll_shutdown(cx)).await
    }

    /// After `S` was sent for an SSLRequest; refused when the client had sent anything behind the request.
    pub async fn accept_tls(self, acceptor: &Acceptor) -> Result<Self, HandshakeError> {
        accept_tls(self.stream, &self.received, acceptor)
            .await
            .map(Self::new)
    }

    /// After a first byte of [`TLS_HANDSHAKE`].
    pub async fn accept_direct_tls(self, acceptor: &Acceptor) -> Result<Self, HandshakeError> {
        accept_direct_tls(self.stream, &self.received, acceptor)
            .await
            .map(Self::new)
    }

    /// After the server answered `S`.
    pub async fn connect_tls(
        self,
        connector: &Connector,
        host: &str,
    ) -> Result<Self, HandshakeError> {
        if !self.received.is_empty() {
            return Err(HandshakeError::PlaintextAfterRequest);
        }
        connect_tls(self.stream, connector, host)
            .await
            .map(Self::new)
    }

    /// As the first thing on a connection.
    pub async fn connect_direct_tls(
        self,
        connector: &Connector,
        host: &str,
    ) -> Result<Self, HandshakeError> {
        connect_direct_tls(self.stream, connector, host)
            .await
            .map(Self::new)
    }

    async fn fill_to(&mut self, count: usize) -> Result<(), ReadError> {
        while self.received.len() < count {
            match self.receive().await {
                Ok(0) if self.received.is_empty() => return Err(ReadError::Closed),
                Ok(0) => return Err(ReadError::Cut),
                Ok(_) => {}
                Err(error) => return Err(ReadError::Io(error)),
            }
        }
        Ok(())
    }

    /// The chunk lives within the poll, so the future that waits here is small.
    async fn receive(&mut self) -> io::Result<usize> {
        poll_fn(|cx| {
            let mut chunk = [0; CHUNK];
            let read = self.stream.poll_read(cx, &mut chunk);
            if let Poll::Ready(Ok(count)) = read {
                self.received.extend_from_slice(&chunk[..count]);
            }
            read
        })
        .await
    }
}

fn checked(length: u32, least: u32, limit: u32) -> Result<usize, ReadError> {
    match usize::try_from(length) {
        Ok(size) if (least..=limit).contains(&length) => Ok(size),
        _ => Err(ReadError::Length { length, limit }),
    }
}

#[cfg(test)]
#[path = "framed_tests.rs"]
mod tests;
