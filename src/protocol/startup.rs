//! The packets before the first tagged message: StartupMessage, SSLRequest, GSSENCRequest,
//! CancelRequest (manual, "Message Formats").
//!
//! They have a length word and a code but no tag. Which of them may come when is not known here.

use super::read::{Malformed, Reader};

/// PostgreSQL's `MAX_STARTUP_PACKET_LENGTH`.
pub const MAX_STARTUP_PACKET_LENGTH: u32 = 10_000;

const CANCEL_REQUEST: i32 = (1234 << 16) | 5678;
const SSL_REQUEST: i32 = (1234 << 16) | 5679;
const GSSENC_REQUEST: i32 = (1234 << 16) | 5680;

/// A protocol version, major and minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProtocolVersion {
    /// 3 for every server since PostgreSQL 7.4.
    pub major: u16,
    /// 0, or 2 since PostgreSQL 18.
    pub minor: u16,
}

impl ProtocolVersion {
    /// The version of PostgreSQL 7.4 to 17.
    pub const V3_0: Self = Self { major: 3, minor: 0 };
    /// The version that PostgreSQL 18 brought: longer cancel keys.
    pub const V3_2: Self = Self { major: 3, minor: 2 };

    /// As in the code word of a StartupMessage.
    pub fn code(self) -> i32 {
        i32::from(self.major) << 16 | i32::from(self.minor)
    }
}

/// The parameter `replication`: a session that speaks the replication protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    /// `true`: of the whole cluster, connected to no database.
    Physical,
    /// `database`: of one database.
    Logical,
}

impl Replication {
    /// The parameter's value for the server.
    pub fn value(self) -> &'static str {
        match self {
            Self::Physical => "true",
            Self::Logical => "database",
        }
    }

    /// As `SHOW CLIENTS` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Physical => "physical",
            Self::Logical => "logical",
        }
    }
}

/// Names and values of a StartupMessage.
pub type Parameters<'a> = Vec<(&'a [u8], &'a [u8])>;

/// A packet that a connection may begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartupPacket<'a> {
    /// A session is asked for.
    Startup {
        /// The version asked for.
        version: ProtocolVersion,
        /// Names and values in the order sent, encoding unknown.
        parameters: Parameters<'a>,
    },
    /// TLS is asked for.
    SslRequest,
    /// GSSAPI encryption is asked for.
    GssEncRequest,
    /// A running query is to be cancelled.
    CancelRequest {
        /// The process id that BackendKeyData told.
        process_id: i32,
        /// The secret that BackendKeyData told: 4 bytes in protocol 3.0, up to 256 in 3.2.
        secret: &'a [u8],
    },
}

impl<'a> StartupPacket<'a> {
    /// Reads the packet behind its length word.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        match reader.i32()? {
            CANCEL_REQUEST => {
                let process_id = reader.i32()?;
                let secret = reader.rest();
                if !(4..=256).contains(&secret.len()) {
                    return Err(Malformed::UndefinedValue("secret key"));
                }
                Ok(Self::CancelRequest { process_id, secret })
            }
            SSL_REQUEST => reader.end().map(|()| Self::SslRequest),
            GSSENC_REQUEST => reader.end().map(|()| Self::GssEncRequest),
            code => {
                let [a, b, c, d] = code.to_be_bytes();
                let version = ProtocolVersion {
                    major: u16::from_be_bytes([a, b]),
                    minor: u16::from_be_bytes([c, d]),
                };
                if version.major != 3 {
                    // Another major version may have another layout; its caller refuses it by number.
                    return Ok(Self::Startup {
                        version,
                        parameters: Vec::new(),
                    });
                }
                Ok(Self::Startup {
                    version,
                    parameters: parameters(reader)?,
                })
            }
        }
    }
}

fn parameters(mut reader: Reader<'_>) -> Result<Parameters<'_>, Malformed> {
    let mut parameters = Vec::new();
    loop {
        let name = reader.cstr()?;
        if name.is_empty() {
            reader.end()?;
            return Ok(parameters);
        }
        parameters.push((name, reader.cstr()?));
    }
}

/// An SSLRequest as it goes over the wire.
pub fn ssl_request() -> [u8; 8] {
    let mut packet = [0, 0, 0, 8, 0, 0, 0, 0];
    packet[4..].copy_from_slice(&SSL_REQUEST.to_be_bytes());
    packet
}

/// A CancelRequest as it goes over the wire; `secret` as BackendKeyData told it.
pub fn cancel_request(process_id: i32, secret: &[u8]) -> Vec<u8> {
    let length = u32::try_from(12 + secret.len()).expect("a secret key has at most 256 bytes");
    let mut packet = Vec::with_capacity(12 + secret.len());
    packet.extend_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(&CANCEL_REQUEST.to_be_bytes());
    packet.extend_from_slice(&process_id.to_be_bytes());
    packet.extend_from_slice(secret);
    packet
}

/// A StartupMessage as it goes over the wire. Names and values must hold no NUL.
pub fn startup_message<'a>(
    version: ProtocolVersion,
    parameters: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) -> Vec<u8> {
    let mut packet = vec![0; 4];
    packet.extend_from_slice(&version.code().to_be_bytes());
    for (name, value) in parameters {
        for string in [name, value] {
            packet.extend_from_slice(string);
            packet.push(0);
        }
    }
    packet.push(0);
    let length = u32::try_from(packet.len()).expect("startup parameters are small");
    packet[..4].copy_from_slice(&length.to_be_bytes());
    packet
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn packets_round_trip() {
        let sent = startup_message(ProtocolVersion::V3_2, [(&b"user"[..], &b"bob"[..])]);
        assert_eq!(
            StartupPacket::read(&sent[4..]),
            Ok(StartupPacket::Startup {
                version: ProtocolVersion::V3_2,
                parameters: vec![(b"user", b"bob")],
            })
        );
        assert_eq!(
            StartupPacket::read(&ssl_request()[4..]),
            Ok(StartupPacket::SslRequest)
        );
        let cancel = cancel_request(-7, b"abcd");
        assert_eq!(
            StartupPacket::read(&cancel[4..]),
            Ok(StartupPacket::CancelRequest {
                process_id: -7,
                secret: b"abcd"
            })
        );
    }

    #[test]
    fn unterminated_and_overlong_packets_are_malformed() {
        let sent = startup_message(ProtocolVersion::V3_0, [(&b"user"[..], &b"bob"[..])]);
        for end in 8..sent.len() {
            assert!(StartupPacket::read(&sent[4..end]).is_err(), "cut at {end}");
        }
        let mut longer = sent;
        longer.push(b'x');
        assert_eq!(
            StartupPacket::read(&longer[4..]),
            Err(Malformed::TrailingBytes)
        );
        assert!(StartupPacket::read(&cancel_request(1, &[7; 257])[4..]).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            drop(StartupPacket::read(&bytes));
        }
    }
}
