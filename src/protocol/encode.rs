//! Messages that the pooler originates, appended to a buffer.
//!
//! A message is a tag, a length and a body, and every one that we originate is a few strings and
//! integers; they are written here from bytes, because names and error texts may be in any encoding
//! (docs/adr/0002). Strings are cut at an embedded NUL: it could otherwise end a field early and
//! forge the next one.

use super::{
    backend::TransactionStatus,
    sqlstate::SqlState,
    startup::ProtocolVersion,
    tag::{BackendTag, FrontendTag},
};

/// Appends one message: the tag, the length of what `body` appends, and that.
fn message(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = u32::try_from(out.len() - start).expect("originated messages are far below 4 GB");
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

fn cstr(out: &mut Vec<u8>, string: &[u8]) {
    let end = string.iter().position(|&b| b == 0).unwrap_or(string.len());
    out.extend_from_slice(&string[..end]);
    out.push(0);
}

fn count(out: &mut Vec<u8>, count: usize) {
    let count = u16::try_from(count).expect("at most 65535 fields, as in the protocol");
    out.extend_from_slice(&count.to_be_bytes());
}

// ── Frontend messages ────────────────────────────────────────────────────────────────────────

/// Query.
pub fn query(out: &mut Vec<u8>, text: &[u8]) {
    message(out, FrontendTag::Query.byte(), |out| cstr(out, text));
}

/// Parse; `types` as in the message: a 16-bit count and that many OIDs.
pub fn parse(out: &mut Vec<u8>, name: &[u8], text: &[u8], types: &[u8]) {
    message(out, FrontendTag::Parse.byte(), |out| {
        cstr(out, name);
        cstr(out, text);
        out.extend_from_slice(types);
    });
}

/// Close of a prepared statement.
pub fn close_statement(out: &mut Vec<u8>, name: &[u8]) {
    message(out, FrontendTag::Close.byte(), |out| {
        out.push(b'S');
        cstr(out, name);
    });
}

/// Describe of a prepared statement.
pub fn describe_statement(out: &mut Vec<u8>, name: &[u8]) {
    message(out, FrontendTag::Describe.byte(), |out| {
        out.push(b'S');
        cstr(out, name);
    });
}

/// The beginning of a Bind message whose body has `rest` more bytes behind the two names; they are
/// appended by the caller as they arrive.
pub fn bind_head(out: &mut Vec<u8>, portal: &[u8], statement: &[u8], rest: usize) {
    let start = out.len();
    message(out, FrontendTag::Bind.byte(), |out| {
        cstr(out, portal);
        cstr(out, statement);
    });
    let length = u32::try_from(out.len() - start - 1 + rest).expect("bounded by the framer");
    out[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
}

/// Close, Parse, Bind, Execute and Close that run `text` inside the current batch, leaving the unnamed
/// statement and portal alone. `name` is that of a statement and of a portal, and free to be used.
pub fn run_in_batch(out: &mut Vec<u8>, name: &[u8], text: &[u8]) {
    // It is still there if an earlier run was cut short by an error.
    close_statement(out, name);
    parse(out, name, text, &[0, 0]);
    // No parameter formats, no parameters, no result formats.
    bind_head(out, name, name, 6);
    out.extend_from_slice(&[0; 6]);
    message(out, FrontendTag::Execute.byte(), |out| {
        cstr(out, name);
        out.extend_from_slice(&[0; 4]);
    });
    // Closing a statement does not close its portal (measured on PostgreSQL 15), and within a
    // transaction block the next run could not open it again.
    message(out, FrontendTag::Close.byte(), |out| {
        out.push(b'P');
        cstr(out, name);
    });
}

/// Flush.
pub fn flush(out: &mut Vec<u8>) {
    message(out, FrontendTag::Flush.byte(), |_| {});
}

/// Sync.
pub fn sync(out: &mut Vec<u8>) {
    message(out, FrontendTag::Sync.byte(), |_| {});
}

/// Terminate.
pub fn terminate(out: &mut Vec<u8>) {
    message(out, FrontendTag::Terminate.byte(), |_| {});
}

/// CopyFail.
pub fn copy_fail(out: &mut Vec<u8>, reason: &[u8]) {
    message(out, FrontendTag::CopyFail.byte(), |out| cstr(out, reason));
}

/// PasswordMessage, SASLInitialResponse or SASLResponse: all share one tag.
pub fn password(out: &mut Vec<u8>, body: &[u8]) {
    message(out, FrontendTag::Password.byte(), |out| {
        out.extend_from_slice(body)
    });
}

// ── Backend messages ─────────────────────────────────────────────────────────────────────────

/// A request for, or the result of, authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// AuthenticationOk.
    Ok,
    /// AuthenticationCleartextPassword.
    CleartextPassword,
    /// AuthenticationMD5Password with its salt.
    Md5Password([u8; 4]),
    /// AuthenticationSASL with the mechanisms offered.
    Sasl(&'a [&'a str]),
    /// AuthenticationSASLContinue.
    SaslContinue(&'a [u8]),
    /// AuthenticationSASLFinal.
    SaslFinal(&'a [u8]),
}

/// One of the Authentication messages.
pub fn authentication(out: &mut Vec<u8>, request: Authentication<'_>) {
    message(out, BackendTag::Authentication.byte(), |out| {
        let mut kind = |kind: u32| out.extend_from_slice(&kind.to_be_bytes());
        match request {
            Authentication::Ok => kind(0),
            Authentication::CleartextPassword => kind(3),
            Authentication::Md5Password(salt) => {
                kind(5);
                out.extend_from_slice(&salt);
            }
            Authentication::Sasl(mechanisms) => {
                kind(10);
                for mechanism in mechanisms {
                    cstr(out, mechanism.as_bytes());
                }
                out.push(0);
            }
            Authentication::SaslContinue(data) => {
                kind(11);
                out.extend_from_slice(data);
            }
            Authentication::SaslFinal(data) => {
                kind(12);
                out.extend_from_slice(data);
            }
        }
    });
}

/// ParameterStatus.
pub fn parameter_status(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    message(out, BackendTag::ParameterStatus.byte(), |out| {
        cstr(out, name);
        cstr(out, value);
    });
}

/// BackendKeyData.
pub fn backend_key_data(out: &mut Vec<u8>, process_id: i32, secret: &[u8]) {
    message(out, BackendTag::BackendKeyData.byte(), |out| {
        out.extend_from_slice(&process_id.to_be_bytes());
        out.extend_from_slice(secret);
    });
}

/// NegotiateProtocolVersion: the newest version we speak, and the options we do not know. The
/// version is sent whole, as PostgreSQL 18 does.
pub fn negotiate_protocol_version(out: &mut Vec<u8>, newest: ProtocolVersion, unknown: &[&[u8]]) {
    message(out, BackendTag::NegotiateProtocolVersion.byte(), |out| {
        out.extend_from_slice(&newest.code().to_be_bytes());
        let options = u32::try_from(unknown.len()).expect("a startup packet is small");
        out.extend_from_slice(&options.to_be_bytes());
        for option in unknown {
            cstr(out, option);
        }
    });
}

/// ReadyForQuery.
pub fn ready_for_query(out: &mut Vec<u8>, status: TransactionStatus) {
    message(out, BackendTag::ReadyForQuery.byte(), |out| {
        out.push(status as u8)
    });
}

/// ParseComplete.
pub fn parse_complete(out: &mut Vec<u8>) {
    message(out, BackendTag::ParseComplete.byte(), |_| {});
}

/// CloseComplete.
pub fn close_complete(out: &mut Vec<u8>) {
    message(out, BackendTag::CloseComplete.byte(), |_| {});
}

/// CommandComplete with its tag.
pub fn command_complete(out: &mut Vec<u8>, tag: &str) {
    message(out, BackendTag::CommandComplete.byte(), |out| {
        cstr(out, tag.as_bytes())
    });
}

/// PortalSuspended.
pub fn portal_suspended(out: &mut Vec<u8>) {
    message(out, BackendTag::PortalSuspended.byte(), |_| {});
}

/// EmptyQueryResponse.
pub fn empty_query_response(out: &mut Vec<u8>) {
    message(out, BackendTag::EmptyQueryResponse.byte(), |_| {});
}

/// NoData.
pub fn no_data(out: &mut Vec<u8>) {
    message(out, BackendTag::NoData.byte(), |_| {});
}

/// BindComplete.
pub fn bind_complete(out: &mut Vec<u8>) {
    message(out, BackendTag::BindComplete.byte(), |_| {});
}

/// ParameterDescription of the given type OIDs.
pub fn parameter_description(out: &mut Vec<u8>, types: &[u32]) {
    message(out, BackendTag::ParameterDescription.byte(), |out| {
        count(out, types.len());
        for oid in types {
            out.extend_from_slice(&oid.to_be_bytes());
        }
    });
}

/// A column of a result that we originate, never of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column<'a> {
    /// The column's name.
    pub name: &'a str,
    /// OID of its type.
    pub type_oid: u32,
    /// The type's size in bytes; negative when it varies.
    pub type_size: i16,
    /// Whether its values are sent in binary; else as text.
    pub binary: bool,
}

/// RowDescription.
pub fn row_description(out: &mut Vec<u8>, columns: &[Column<'_>]) {
    message(out, BackendTag::RowDescription.byte(), |out| {
        count(out, columns.len());
        for column in columns {
            cstr(out, column.name.as_bytes());
            out.extend_from_slice(&0u32.to_be_bytes()); // table OID
            out.extend_from_slice(&0u16.to_be_bytes()); // attribute number
            out.extend_from_slice(&column.type_oid.to_be_bytes());
            out.extend_from_slice(&column.type_size.to_be_bytes());
            out.extend_from_slice(&(-1i32).to_be_bytes()); // type modifier
            out.extend_from_slice(&u16::from(column.binary).to_be_bytes()); // format
        }
    });
}

/// DataRow; `None` is NULL.
pub fn data_row<'a>(out: &mut Vec<u8>, columns: impl ExactSizeIterator<Item = Option<&'a [u8]>>) {
    message(out, BackendTag::DataRow.byte(), |out| {
        count(out, columns.len());
        for column in columns {
            match column {
                None => out.extend_from_slice(&(-1i32).to_be_bytes()),
                Some(value) => {
                    let length = u32::try_from(value.len()).expect("console values are small");
                    out.extend_from_slice(&length.to_be_bytes());
                    out.extend_from_slice(value);
                }
            }
        }
    });
}

/// How loud an ErrorResponse or NoticeResponse is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed.
    Error,
    /// The session is over.
    Fatal,
    /// Nothing failed.
    Notice,
    /// Nothing failed, but something will.
    Warning,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Notice => "NOTICE",
            Self::Warning => "WARNING",
        }
    }
}

/// The text of an ErrorResponse or NoticeResponse that the pooler originates.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// How loud.
    pub severity: Severity,
    /// What class of thing happened.
    pub sqlstate: SqlState,
    /// What happened, in one sentence without a full stop.
    pub message: &'a str,
    /// On which leg, at which host, with which values; empty for none.
    pub detail: &'a str,
    /// Which setting decides it, or what to do; empty for none.
    pub hint: &'a str,
}

/// ErrorResponse or, by its severity, NoticeResponse.
pub fn report(out: &mut Vec<u8>, report: &Report<'_>) {
    let tag = match report.severity {
        Severity::Error | Severity::Fatal => BackendTag::ErrorResponse,
        Severity::Notice | Severity::Warning => BackendTag::NoticeResponse,
    };
    let severity = report.severity.as_str();
    message(out, tag.byte(), |out| {
        for (kind, value) in [
            (b'S', severity),
            (b'V', severity),
            (b'C', report.sqlstate.as_str()),
            (b'M', report.message),
            (b'D', report.detail),
            (b'H', report.hint),
        ] {
            if !value.is_empty() {
                out.push(kind);
                cstr(out, value.as_bytes());
            }
        }
        out.push(0);
    });
}

/// ErrorResponse with a body that was received.
pub fn raw_error(out: &mut Vec<u8>, body: &[u8]) {
    message(out, BackendTag::ErrorResponse.byte(), |out| {
        out.extend_from_slice(body)
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{backend, frame, frontend};

    #[test]
    fn originated_messages_are_read_back_by_our_own_reader() {
        let mut out = Vec::new();
        parse(&mut out, b"s", b"select $1", b"\0\x01\0\0\0\x17");
        let frame = frame::frontend(&out, u32::MAX)
            .expect("valid")
            .expect("whole");
        assert!(frame.is_whole());
        let parsed = frontend::Parse::read(frame.body()).expect("well-formed");
        assert_eq!((parsed.name, parsed.text), (&b"s"[..], &b"select $1"[..]));

        out.clear();
        let row = [Some(&b"a"[..]), None];
        data_row(&mut out, row.iter().copied());
        let frame = frame::backend(&out).expect("valid").expect("whole");
        assert_eq!(backend::data_row(frame.body()), Ok(row.to_vec()));
    }

    #[test]
    fn a_nul_inside_a_string_cannot_forge_a_field() {
        let mut out = Vec::new();
        report(
            &mut out,
            &Report {
                severity: Severity::Error,
                sqlstate: SqlState::PROTOCOL_VIOLATION,
                message: "bad\0C00000",
                detail: "",
                hint: "",
            },
        );
        let frame = frame::backend(&out).expect("valid").expect("whole");
        let fields = backend::ErrorFields::read(frame.body());
        assert_eq!(fields.sqlstate, Some(SqlState::PROTOCOL_VIOLATION));
        assert_eq!(fields.message, b"bad");
    }

    #[test]
    fn a_bind_head_counts_the_bytes_that_follow() {
        let mut out = Vec::new();
        bind_head(&mut out, b"", b"st", 4);
        out.extend_from_slice(&[0; 4]);
        let frame = frame::frontend(&out, u32::MAX)
            .expect("valid")
            .expect("whole");
        assert_eq!((frame.size, frame.is_whole()), (out.len(), true));
        let bind = frontend::Bind::read(frame.body()).expect("well-formed");
        assert_eq!((bind.statement, bind.rest), (&b"st"[..], &[0; 4][..]));
    }
}
