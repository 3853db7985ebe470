//! The record machine of TLS: rustls' unbuffered interface, turned into "open all that is there, seal this".
//!
//! Works on memory alone; `tls_session` moves the bytes.

use std::ops::Deref;

use rustls::{
    CommonState,
    client::{ClientConnectionData, UnbufferedClientConnection},
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{
        ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
    },
};

/// Plaintext of one record (RFC 8446, section 5.1), and more than any cipher suite adds to it.
pub(super) const RECORD: usize = 16 * 1024;
pub(super) const RECORD_OVERHEAD: usize = 64;
/// Least that is read at a time: a record header and what a short handshake message needs.
pub(super) const MIN_READ: usize = 1024;

pub(super) enum Side {
    /// We are the TLS client: the server leg.
    Client(UnbufferedClientConnection),
    /// We are the TLS server: the client leg.
    Server(UnbufferedServerConnection),
}

/// Where opened records go: the caller's buffer first.
pub(super) struct Sink<'a> {
    pub(super) buf: &'a mut [u8],
    pub(super) filled: usize,
    pub(super) overflow: &'a mut Pending,
}

/// What is to be sealed once the handshake permits.
#[derive(Clone, Copy)]
pub(super) enum Seal<'a> {
    Nothing,
    Data(&'a [u8]),
    CloseNotify,
}

/// Bytes on their way, taken from the front; holds no memory when there are none.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) bytes: Vec<u8>,
    taken: usize,
}

impl Side {
    /// Opens what is complete of `sealed_in` into `sink`, writes what that calls for and `seal` to `out`, and leaves the
    /// beginning of the next record in `sealed_in`. `Ok(true)` when the peer has sent close_notify.
    pub(super) fn advance(
        &mut self,
        sealed_in: &mut Vec<u8>,
        sink: &mut Sink<'_>,
        out: &mut Pending,
        seal: Seal<'_>,
    ) -> Result<bool, rustls::Error> {
        match self {
            Self::Client(side) => advance(side, sealed_in, sink, out, seal),
            Self::Server(side) => advance(side, sealed_in, sink, out, seal),
        }
    }
}

fn advance<R: Records>(
    side: &mut R,
    sealed_in: &mut Vec<u8>,
    sink: &mut Sink<'_>,
    out: &mut Pending,
    seal: Seal<'_>,
) -> Result<bool, rustls::Error> {
    let mut done = 0;
    let result = run(side, sealed_in, &mut done, sink, out, seal);
    keep_from(sealed_in, done);
    if result.is_err() {
        append_alert(side, out);
    }
    result
}

/// Runs the record machine until it wants bytes from the peer; `done` counts what it no longer needs of `sealed_in`.
fn run<R: Records>(
    side: &mut R,
    sealed_in: &mut [u8],
    done: &mut usize,
    sink: &mut Sink<'_>,
    out: &mut Pending,
    seal: Seal<'_>,
) -> Result<bool, rustls::Error> {
    let mut ended = false;
    loop {
        let UnbufferedStatus { discard, state } = side.process(&mut sealed_in[*done..]);
        *done += discard;
        match state? {
            ConnectionState::ReadTraffic(mut records) => {
                while let Some(record) = records.next_record() {
                    let record = record?;
                    *done += record.discard;
                    sink.take(record.payload);
                }
            }
            ConnectionState::EncodeTlsData(record) => out.append_record(record)?,
            // `sealed_out` keeps the order, so these bytes are as good as sent.
            ConnectionState::TransmitTlsData(record) => record.done(),
            ConnectionState::PeerClosed => ended = true,
            ConnectionState::WriteTraffic(traffic) => {
                out.seal(traffic, seal)?;
                return Ok(ended);
            }
            ConnectionState::Closed | ConnectionState::BlockedHandshake => {
                return match seal {
                    Seal::Data(_) => Err(rustls::Error::General("written after the end".into())),
                    Seal::Nothing | Seal::CloseNotify => Ok(ended),
                };
            }
            _ => return Err(rustls::Error::General("unexpected early data".into())),
        }
    }
}

/// After an error rustls has an alert to send, which tells the peer what was wrong.
fn append_alert<R: Records>(side: &mut R, out: &mut Pending) {
    while side.wants_write() {
        let UnbufferedStatus {
            state: Ok(ConnectionState::EncodeTlsData(alert)),
            ..
        } = side.process(&mut [])
        else {
            return;
        };
        if out.append_record(alert).is_err() {
            return;
        }
    }
}

/// Drops the first `start` bytes, and the capacity with them: a peer that sends half a record and falls silent holds
/// no more memory than it has sent.
fn keep_from(bytes: &mut Vec<u8>, start: usize) {
    if start >= bytes.len() {
        *bytes = Vec::new();
    } else if start > 0 || bytes.capacity() > 2 * bytes.len() + MIN_READ {
        *bytes = bytes[start..].to_vec();
    }
}

/// The two halves of rustls differ only in their type.
trait Records: Deref<Target: Deref<Target = CommonState>> {
    type Data;

    fn process<'c, 'i>(&'c mut self, sealed: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Records for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, sealed: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(sealed)
    }
}

impl Records for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, sealed: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(sealed)
    }
}

impl Deref for Side {
    type Target = CommonState;

    fn deref(&self) -> &CommonState {
        match self {
            Self::Client(side) => side,
            Self::Server(side) => side,
        }
    }
}

impl Sink<'_> {
    fn take(&mut self, plaintext: &[u8]) {
        let room = self.buf.len() - self.filled;
        let (fits, rest) = plaintext.split_at(plaintext.len().min(room));
        self.buf[self.filled..self.filled + fits.len()].copy_from_slice(fits);
        self.filled += fits.len();
        self.overflow.bytes.extend_from_slice(rest);
    }
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.taken += count;
        if self.taken == self.bytes.len() {
            *self = Self::default();
        }
    }

    pub(super) fn take_into(&mut self, buf: &mut [u8]) -> usize {
        let count = self.rest().len().min(buf.len());
        buf[..count].copy_from_slice(&self.rest()[..count]);
        self.consume(count);
        count
    }

    fn append_record<D>(&mut self, mut record: EncodeTlsData<'_, D>) -> Result<(), rustls::Error> {
        let at = self.bytes.len();
        let mut written = record.encode(&mut self.bytes[at..]);
        if let Err(EncodeError::InsufficientSize(size)) = written {
            self.bytes.resize(at + size.required_size, 0);
            written = record.encode(&mut self.bytes[at..]);
        }
        written
            .map(drop)
            .map_err(|error| rustls::Error::General(error.to_string()))
    }

    /// `data` as records; tried twice, because what rustls adds (a key update) is only known to itself.
    fn seal<D>(
        &mut self,
        mut traffic: WriteTraffic<'_, D>,
        seal: Seal<'_>,
    ) -> Result<(), rustls::Error> {
        let guess = match seal {
            Seal::Nothing | Seal::Data([]) => return Ok(()),
            Seal::Data(data) => data.len() + (data.len() / RECORD + 1) * RECORD_OVERHEAD,
            Seal::CloseNotify => RECORD_OVERHEAD,
        };
        let at = self.bytes.len();
        self.bytes.resize(at + guess, 0);
        let mut encrypt = |room: &mut [u8]| match seal {
            Seal::Nothing => Ok(0),
            Seal::Data(data) => traffic.encrypt(data, room),
            Seal::CloseNotify => traffic.queue_close_notify(room),
        };
        let mut written = encrypt(&mut self.bytes[at..]);
        if let Err(EncryptError::InsufficientSize(size)) = written {
            self.bytes.resize(at + size.required_size, 0);
            written = encrypt(&mut self.bytes[at..]);
        }
        self.bytes
            .truncate(at + written.as_ref().copied().unwrap_or(0));
        written
            .map(drop)
            .map_err(|error| rustls::Error::General(error.to_string()))
    }
}
