//! Every message byte, named once.
//!
//! The same byte means different messages in the two directions (`E` is Execute from a client and
//! ErrorResponse from a server), so each direction has its own enum and no other file spells bytes.

macro_rules! tags {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $byte:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "the names are those of the manual's message formats")]
        pub enum $name { $($variant = $byte),+ }

        impl $name {
            /// By its first byte. A `match` becomes a jump or a call, ten times a transaction; as with the limits.
            const BY_BYTE: [Option<Self>; 256] = {
                let mut tags = [None; 256];
                $(tags[$byte as usize] = Some(Self::$variant);)+
                tags
            };

            const LENGTH_LIMITS: [u32; 256] = {
                let mut limits = [0; 256];
                $(limits[$byte as usize] = Self::$variant.limit();)+
                limits
            };

            /// The largest length word that is believed.
            #[inline]
            pub fn length_limit(self) -> u32 {
                Self::LENGTH_LIMITS[usize::from(self as u8)]
            }

            /// The message with this first byte, if there is one in this direction.
            #[inline]
            pub fn from_byte(byte: u8) -> Option<Self> {
                Self::BY_BYTE[usize::from(byte)]
            }

            /// The first byte of the message on the wire.
            #[inline]
            pub fn byte(self) -> u8 {
                self as u8
            }
        }
    };
}

tags! {
    /// Messages that a frontend (a client) sends after its startup packet.
    FrontendTag {
        Bind = b'B',
        Close = b'C',
        CopyData = b'd',
        CopyDone = b'c',
        CopyFail = b'f',
        Describe = b'D',
        Execute = b'E',
        Flush = b'H',
        FunctionCall = b'F',
        Parse = b'P',
        Password = b'p',
        Query = b'Q',
        Sync = b'S',
        Terminate = b'X',
    }
}

tags! {
    /// Messages that a backend (a server) sends.
    BackendTag {
        Authentication = b'R',
        BackendKeyData = b'K',
        BindComplete = b'2',
        CloseComplete = b'3',
        CommandComplete = b'C',
        CopyBothResponse = b'W',
        CopyData = b'd',
        CopyDone = b'c',
        CopyInResponse = b'G',
        CopyOutResponse = b'H',
        DataRow = b'D',
        EmptyQueryResponse = b'I',
        ErrorResponse = b'E',
        FunctionCallResponse = b'V',
        NegotiateProtocolVersion = b'v',
        NoData = b'n',
        NoticeResponse = b'N',
        NotificationResponse = b'A',
        ParameterDescription = b't',
        ParameterStatus = b'S',
        ParseComplete = b'1',
        PortalSuspended = b's',
        ReadyForQuery = b'Z',
        RowDescription = b'T',
    }
}

/// PostgreSQL's `PQ_SMALL_MESSAGE_LIMIT`: what a server takes of messages that carry only names.
const SMALL_MESSAGE_LIMIT: u32 = 10_000;
/// PostgreSQL's `PQ_LARGE_MESSAGE_LIMIT` (`MaxAllocSize - 1`).
const LARGE_MESSAGE_LIMIT: u32 = 0x3fff_fffe;

impl FrontendTag {
    /// The largest length word that PostgreSQL itself accepts for this message
    /// (`SocketBackend` in its `tcop/postgres.c`); a longer one ends the connection.
    const fn limit(self) -> u32 {
        match self {
            Self::Query | Self::Parse | Self::Bind | Self::FunctionCall | Self::CopyData => {
                LARGE_MESSAGE_LIMIT
            }
            Self::Sync | Self::Flush | Self::Terminate | Self::CopyDone => 4,
            Self::Close | Self::CopyFail | Self::Describe | Self::Execute | Self::Password => {
                SMALL_MESSAGE_LIMIT
            }
        }
    }
}

impl BackendTag {
    /// The largest length word that is believed of a server: as in libpq (`VALID_LONG_MESSAGE_TYPE` in
    /// its `fe-protocol3.c`), and for ParameterDescription what 65,535 parameters take.
    const fn limit(self) -> u32 {
        match self {
            Self::CopyData
            | Self::DataRow
            | Self::ErrorResponse
            | Self::FunctionCallResponse
            | Self::NoticeResponse
            | Self::NotificationResponse
            | Self::RowDescription => BACKEND_LARGE_MESSAGE_LIMIT,
            Self::ParameterDescription => 4 + 2 + 4 * 65_535,
            _ => BACKEND_SMALL_MESSAGE_LIMIT,
        }
    }
}

/// A server's message may be as large as a palloc'd row and its framing.
const BACKEND_LARGE_MESSAGE_LIMIT: u32 = 0x7fff_ffff;
const BACKEND_SMALL_MESSAGE_LIMIT: u32 = 30_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_round_trip_in_both_directions() {
        for byte in 0..=u8::MAX {
            if let Some(tag) = FrontendTag::from_byte(byte) {
                assert_eq!(tag.byte(), byte);
            }
            if let Some(tag) = BackendTag::from_byte(byte) {
                assert_eq!(tag.byte(), byte);
            }
        }
        assert_eq!(FrontendTag::from_byte(b'E'), Some(FrontendTag::Execute));
        assert_eq!(BackendTag::from_byte(b'E'), Some(BackendTag::ErrorResponse));
        assert_eq!(FrontendTag::from_byte(b'Z'), None);
    }
}
