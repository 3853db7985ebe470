//! Messages of a console's client in, bytes out.
//!
//! Knows where a message ends and nothing of what it means. Buffers are bounded: a message by
//! [`LONGEST_MESSAGE`], output by whoever calls [`Connection::flush`] in time; an idle connection has
//! none.

use std::{
    future::{pending, poll_fn},
    io,
    task::Poll,
};

use bytes::{Buf, BytesMut};

use crate::{
    net::Stream,
    protocol::{
        FrameError, FrontendTag,
        frame::{self, HEADER},
    },
};

/// The longest message, by its length word: far above any console command.
pub(super) const LONGEST_MESSAGE: u32 = 64 << 10;
/// Bytes asked for in one read.
const CHUNK: usize = 4096;

/// One console connection's socket and buffers.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Stream,
    received: BytesMut,
    /// What is to be sent.
    pub(super) out: Vec<u8>,
    /// How much of `out` has been sent.
    sent: usize,
}

/// A message of the client.
#[derive(Debug)]
pub(super) struct Message {
    /// Which.
    pub(super) tag: FrontendTag,
    /// What follows the length word.
    pub(super) body: BytesMut,
}

/// Why there is no further message.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    /// The client has left.
    #[error("the client has closed the connection")]
    Closed,
    /// The socket failed.
    #[error("the connection to the client broke")]
    Io(#[from] io::Error),
    /// What came is no message.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

impl Connection {
    /// A connection of which `received` has been read already, and to which `out` is owed.
    pub(super) fn new(stream: Stream, received: BytesMut, out: Vec<u8>) -> Self {
        Self {
            stream,
            received,
            out,
            sent: 0,
        }
    }

    /// The next message; sends what is to be sent before it waits for one.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub(super) async fn message(&mut self) -> Result<Message, Lost> {
        loop {
            if let Some(message) = self.cut()? {
                return Ok(message);
            }
            self.flush().await?;
            if self.received.is_empty() {
                self.received = BytesMut::new();
            }
            if self.receive().await? == 0 {
                return Err(Lost::Closed);
            }
        }
    }

    fn cut(&mut self) -> Result<Option<Message>, FrameError> {
        let Some(frame) = frame::frontend(&self.received, LONGEST_MESSAGE)? else {
            return Ok(None);
        };
        if !frame.is_whole() {
            return Ok(None);
        }
        let (tag, size) = (frame.tag, frame.size);
        let mut body = self.received.split_to(size);
        body.advance(HEADER);
        Ok(Some(Message { tag, body }))
    }

    /// Sends all of `out`.
    ///
    /// # Cancel safety
    /// May be dropped at any time: what was not sent is kept.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        while self.sent < self.out.len() {
            let sent = poll_fn(|cx| self.stream.poll_write(cx, &self.out[self.sent..])).await?;
            if sent == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.sent += sent;
        }
        self.out = Vec::new();
        self.sent = 0;
        poll_fn(|cx| self.stream.poll_flush(cx)).await
    }

    /// Sends what the socket takes at once: for last words, which nobody should wait for.
    pub(super) async fn try_flush(&mut self) -> io::Result<()> {
        tokio::select! {
            biased;
            sent = self.flush() => sent,
            () = std::future::ready(()) => Ok(()),
        }
    }

    /// Waits until the client has left. Its further messages are kept, up to one of the longest; what
    /// it does behind that is not seen.
    ///
    /// # Cancel safety
    /// May be dropped at any time: nothing that was read is lost.
    pub(super) async fn left(&mut self) -> Lost {
        while self.received.len() < LONGEST_MESSAGE as usize {
            match self.receive().await {
                Ok(0) => return Lost::Closed,
                Ok(_) => {}
                Err(error) => return Lost::Io(error),
            }
        }
        pending().await
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
