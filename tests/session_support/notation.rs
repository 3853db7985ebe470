//! Messages as one line of text each, and back.
//!
//! The name is that of the manual, then the fields: `Parse s1 "select $1" 23`, `ReadyForQuery T`,
//! `ErrorResponse 42601 "syntax error"`. A word needs no quotes; `NULL` is no value; `"x"*70000` is a
//! long string, `"a""b"` one of pieces. Escapes are those of Rust byte strings.

use std::fmt::Write;

use pgweir::protocol::{
    BackendTag as B, Frame, FrontendTag as F, backend, frame, frontend, read::Reader,
};

/// A field: `None` is NULL.
type Field = Option<Vec<u8>>;

fn fields(line: &str) -> Vec<Field> {
    let mut fields = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        let (field, behind) = if rest.starts_with('"') {
            let (string, behind) = quoted(rest);
            (Some(string), behind)
        } else {
            let (word, behind) = rest.split_at(rest.find(' ').unwrap_or(rest.len()));
            ((word != "NULL").then(|| word.as_bytes().to_vec()), behind)
        };
        fields.push(field);
        rest = behind.trim_start();
    }
    fields
}

/// A string and what is behind it: pieces in quotes, each perhaps repeated.
fn quoted(mut rest: &str) -> (Vec<u8>, &str) {
    let mut string = Vec::new();
    while let Some(quoted) = rest.strip_prefix('"') {
        let (piece, behind) = unquote(quoted);
        rest = behind;
        let mut times = 1;
        if let Some(count) = rest.strip_prefix('*') {
            let end = count
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(count.len());
            times = count[..end].parse().expect("a count behind *");
            rest = &count[end..];
        }
        string.extend(piece.repeat(times));
    }
    (string, rest)
}

fn unquote(quoted: &str) -> (Vec<u8>, &str) {
    let mut string = Vec::new();
    let mut bytes = quoted.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return (string, &quoted[at + 1..]),
            b'\\' => match bytes.next().expect("an escape is two bytes").1 {
                b'n' => string.push(b'\n'),
                b't' => string.push(b'\t'),
                b'0' => string.push(0),
                b'x' => {
                    let (start, _) = bytes.next().expect("two digits");
                    bytes.next();
                    let digits = &quoted[start..start + 2];
                    string.push(u8::from_str_radix(digits, 16).expect("hexadecimal digits"));
                }
                other => string.push(other),
            },
            other => string.push(other),
        }
    }
    panic!("a string does not end: {quoted}");
}

fn quote(out: &mut String, field: Option<&[u8]>) {
    let Some(bytes) = field else {
        out.push_str(" NULL");
        return;
    };
    let is_word = !bytes.is_empty()
        && bytes != b"NULL"
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"_.".contains(b));
    out.push(' ');
    if is_word && bytes.len() <= 40 {
        return out.push_str(&bytes.escape_ascii().to_string());
    }
    // A long run of one byte is not written out.
    let mut rest = bytes;
    let mut plain = bytes;
    while let Some(byte) = rest.first() {
        let run = rest.iter().take_while(|other| *other == byte).count();
        if run > 300 {
            let before = &plain[..plain.len() - rest.len()];
            let _ = write!(out, "{}{}*{run}", in_quotes(before), in_quotes(&rest[..1]));
            plain = &rest[run..];
        }
        rest = &rest[run..];
    }
    if !plain.is_empty() || bytes.is_empty() {
        out.push_str(&in_quotes_always(plain));
    }
}

fn in_quotes(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return String::new();
    }
    in_quotes_always(bytes)
}

fn in_quotes_always(bytes: &[u8]) -> String {
    format!(
        "\"{}\"",
        bytes.escape_ascii().to_string().replace("\\'", "'")
    )
}

/// Appends a message: its tag byte, its length, its body.
fn put(out: &mut Vec<u8>, tag: u8, body: &[u8]) {
    out.push(tag);
    let length = u32::try_from(body.len() + 4).expect("small");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(body);
}

fn cstr(out: &mut Vec<u8>, string: &[u8]) {
    out.extend_from_slice(string);
    out.push(0);
}

fn number(field: &Field) -> u32 {
    let digits = String::from_utf8(field.clone().expect("a number")).expect("digits");
    digits.parse().expect("a number")
}

fn counted(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&u16::try_from(count).expect("few").to_be_bytes());
}

fn values(out: &mut Vec<u8>, values: &[Field]) {
    counted(out, values.len());
    for value in values {
        match value {
            None => out.extend_from_slice(&(-1i32).to_be_bytes()),
            Some(value) => {
                out.extend_from_slice(&u32::try_from(value.len()).expect("small").to_be_bytes());
                out.extend_from_slice(value);
            }
        }
    }
}

/// The bytes of a client's message.
pub fn frontend_message(line: &str) -> Vec<u8> {
    let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
    let fields = fields(rest);
    let text = |at: usize| fields.get(at).cloned().flatten().unwrap_or_default();
    let mut body = Vec::new();
    let tag = match name {
        "Raw" => return text(0),
        "Query" => {
            cstr(&mut body, &text(0));
            F::Query
        }
        "Parse" => {
            cstr(&mut body, &text(0));
            cstr(&mut body, &text(1));
            let types = fields.get(2..).unwrap_or_default();
            counted(&mut body, types.len());
            for oid in types {
                body.extend_from_slice(&number(oid).to_be_bytes());
            }
            F::Parse
        }
        "Bind" => {
            cstr(&mut body, &text(0));
            cstr(&mut body, &text(1));
            body.extend_from_slice(&[0, 0]);
            values(&mut body, fields.get(2..).unwrap_or_default());
            body.extend_from_slice(&[0, 0]);
            F::Bind
        }
        "Describe" | "Close" => {
            body.extend_from_slice(&text(0));
            cstr(&mut body, &text(1));
            if name == "Close" {
                F::Close
            } else {
                F::Describe
            }
        }
        "Execute" => {
            cstr(&mut body, &text(0));
            let rows = fields.get(1).map_or(0, number);
            body.extend_from_slice(&rows.to_be_bytes());
            F::Execute
        }
        "CopyData" => {
            body = text(0);
            F::CopyData
        }
        "CopyFail" => {
            cstr(&mut body, &text(0));
            F::CopyFail
        }
        "FunctionCall" => {
            body.extend_from_slice(&number(&fields[0]).to_be_bytes());
            body.extend_from_slice(&[0, 0]);
            values(&mut body, &fields[1..]);
            body.extend_from_slice(&[0, 0]);
            F::FunctionCall
        }
        "Password" => {
            cstr(&mut body, &text(0));
            F::Password
        }
        "CopyDone" => F::CopyDone,
        "Flush" => F::Flush,
        "Sync" => F::Sync,
        "Terminate" => F::Terminate,
        other => panic!("no message of a client's is called {other}"),
    };
    let mut out = Vec::new();
    put(&mut out, tag.byte(), &body);
    out
}

/// The bytes of a server's message.
pub fn backend_message(line: &str) -> Vec<u8> {
    let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
    let fields = fields(rest);
    let text = |at: usize| fields.get(at).cloned().flatten().unwrap_or_default();
    let mut body = Vec::new();
    let tag = match name {
        "Raw" => return text(0),
        "ReadyForQuery" => {
            body = text(0);
            B::ReadyForQuery
        }
        "CommandComplete" => {
            cstr(&mut body, &text(0));
            B::CommandComplete
        }
        "RowDescription" => {
            counted(&mut body, fields.len());
            for column in &fields {
                cstr(&mut body, column.as_deref().unwrap_or_default());
                body.extend_from_slice(&[0; 18]);
            }
            B::RowDescription
        }
        "DataRow" => {
            values(&mut body, &fields);
            B::DataRow
        }
        "ParameterDescription" => {
            counted(&mut body, fields.len());
            for oid in &fields {
                body.extend_from_slice(&number(oid).to_be_bytes());
            }
            B::ParameterDescription
        }
        "ErrorResponse" | "NoticeResponse" => {
            let is_loud = [&b"FATAL"[..], b"PANIC"].contains(&&*text(0));
            let (severity, code, message) = match is_loud {
                true => (text(0), text(1), text(2)),
                false if name == "ErrorResponse" => (b"ERROR".to_vec(), text(0), text(1)),
                false => (b"NOTICE".to_vec(), b"00000".to_vec(), text(0)),
            };
            for (kind, value) in [
                (b'S', &severity),
                (b'V', &severity),
                (b'C', &code),
                (b'M', &message),
            ] {
                body.push(kind);
                cstr(&mut body, value);
            }
            body.push(0);
            if name == "ErrorResponse" {
                B::ErrorResponse
            } else {
                B::NoticeResponse
            }
        }
        "NotificationResponse" => {
            body.extend_from_slice(&7u32.to_be_bytes());
            cstr(&mut body, &text(0));
            cstr(&mut body, &text(1));
            B::NotificationResponse
        }
        "ParameterStatus" => {
            cstr(&mut body, &text(0));
            cstr(&mut body, &text(1));
            B::ParameterStatus
        }
        "CopyInResponse" | "CopyOutResponse" | "CopyBothResponse" => {
            body.extend_from_slice(&[0, 0, 0]);
            match name {
                "CopyInResponse" => B::CopyInResponse,
                "CopyOutResponse" => B::CopyOutResponse,
                _ => B::CopyBothResponse,
            }
        }
        "CopyData" => {
            body = text(0);
            B::CopyData
        }
        "FunctionCallResponse" => {
            body.extend_from_slice(&(-1i32).to_be_bytes());
            B::FunctionCallResponse
        }
        "BindComplete" => B::BindComplete,
        "CloseComplete" => B::CloseComplete,
        "CopyDone" => B::CopyDone,
        "EmptyQueryResponse" => B::EmptyQueryResponse,
        "NoData" => B::NoData,
        "ParseComplete" => B::ParseComplete,
        "PortalSuspended" => B::PortalSuspended,
        other => panic!("no message of a server's is called {other}"),
    };
    let mut out = Vec::new();
    put(&mut out, tag.byte(), &body);
    out
}

/// How the text of a probe begins.
const PROBE: &[u8] = b"SELECT 's', name::pg_catalog.text";

fn query_line(line: &mut String, text: &[u8]) {
    if !text.starts_with(PROBE) {
        return quote(line, Some(text));
    }
    // Only the settings that it asks for by name are of interest.
    line.clear();
    line.push_str("Probe");
    let text = text.escape_ascii().to_string().replace("\\'", "'");
    for part in text.split("c FROM pg_catalog.current_setting('").skip(1) {
        line.push(' ');
        line.push_str(part.split('\'').next().unwrap_or_default());
    }
    if text.ends_with("RESET ALL") {
        line.push_str(" and RESET ALL");
    }
}

fn frontend_line(frame: &Frame<'_, F>) -> String {
    let mut line = format!("{:?}", frame.tag);
    let body = frame.body();
    let mut reader = Reader::new(body);
    match frame.tag {
        F::Query => query_line(&mut line, frontend::query(body).expect("a Query")),
        F::Parse => {
            let parse = frontend::Parse::read(body).expect("a Parse");
            quote(&mut line, Some(parse.name));
            quote(&mut line, Some(parse.text));
            for oid in parse.types[2..].chunks(4) {
                let oid = u32::from_be_bytes(oid.try_into().expect("four bytes"));
                let _ = write!(line, " {oid}");
            }
        }
        F::Bind => {
            let bind = frontend::Bind::read(body).expect("a Bind");
            quote(&mut line, Some(bind.portal));
            quote(&mut line, Some(bind.statement));
            for value in backend::data_row(&bind.rest[2..bind.rest.len() - 2]).expect("values") {
                quote(&mut line, value);
            }
        }
        F::Describe | F::Close => {
            let (kind, name) = body.split_at(1);
            let _ = write!(line, " {}", kind.escape_ascii());
            quote(&mut line, Some(&name[..name.len() - 1]));
        }
        F::Execute => {
            quote(&mut line, Some(reader.cstr().expect("a portal")));
            match reader.i32().expect("a count") {
                0 => {}
                rows => {
                    let _ = write!(line, " {rows}");
                }
            }
        }
        F::CopyData => quote(&mut line, Some(body)),
        F::CopyFail => quote(&mut line, Some(reader.cstr().expect("a reason"))),
        F::FunctionCall => {
            let _ = write!(line, " {}", reader.i32().expect("an OID"));
        }
        F::CopyDone | F::Flush | F::Sync | F::Terminate | F::Password => {}
    }
    line
}

fn backend_line(frame: &Frame<'_, B>) -> String {
    let mut line = format!("{:?}", frame.tag);
    let body = frame.body();
    let mut reader = Reader::new(body);
    match frame.tag {
        B::ReadyForQuery | B::CopyData => quote(&mut line, Some(body)),
        B::CommandComplete => quote(&mut line, Some(reader.cstr().expect("a tag"))),
        B::RowDescription => {
            for _ in 0..reader.u16().expect("a count") {
                quote(&mut line, Some(reader.cstr().expect("a name")));
                reader.bytes(18).expect("the rest of a column");
            }
        }
        B::DataRow => {
            for value in backend::data_row(body).expect("a DataRow") {
                quote(&mut line, value);
            }
        }
        B::ParameterDescription => {
            for _ in 0..reader.u16().expect("a count") {
                let _ = write!(line, " {}", reader.i32().expect("an OID"));
            }
        }
        B::ErrorResponse | B::NoticeResponse => {
            let fields = backend::ErrorFields::read(body);
            if [&b"FATAL"[..], b"PANIC"].contains(&fields.severity) {
                quote(&mut line, Some(fields.severity));
            }
            if frame.tag == B::ErrorResponse {
                let _ = write!(line, " {}", fields.sqlstate.expect("a SQLSTATE"));
            }
            quote(&mut line, Some(fields.message));
        }
        B::NotificationResponse => {
            reader.i32().expect("a process id");
            quote(&mut line, Some(reader.cstr().expect("a channel")));
            quote(&mut line, Some(reader.cstr().expect("a payload")));
        }
        B::ParameterStatus => {
            quote(&mut line, Some(reader.cstr().expect("a name")));
            quote(&mut line, Some(reader.cstr().expect("a value")));
        }
        _ => {}
    }
    line
}

/// Messages that go to one peer, as they arrive there in any pieces.
#[derive(Debug, Default)]
pub struct Stream {
    bytes: Vec<u8>,
}

impl Stream {
    /// Adds what was sent.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// How many bytes of a message have arrived whose end has not.
    pub fn partial(&self) -> usize {
        self.bytes.len()
    }

    /// The whole messages of a client's that have arrived.
    pub fn frontend_lines(&mut self) -> Vec<String> {
        self.frontend(frontend_line)
    }

    /// The whole messages of a server's that have arrived.
    pub fn backend_lines(&mut self) -> Vec<String> {
        self.backend(backend_line)
    }

    /// Takes the whole messages of a client's.
    pub fn frontend<T>(&mut self, mut take: impl FnMut(&Frame<'_, F>) -> T) -> Vec<T> {
        let mut taken = Vec::new();
        let mut at = 0;
        while let Some(frame) = frame::frontend(&self.bytes[at..], u32::MAX).expect("frames") {
            if !frame.is_whole() {
                break;
            }
            taken.push(take(&frame));
            at += frame.size;
        }
        self.bytes.drain(..at);
        taken
    }

    /// Takes the whole messages of a server's.
    pub fn backend<T>(&mut self, mut take: impl FnMut(&Frame<'_, B>) -> T) -> Vec<T> {
        let mut taken = Vec::new();
        let mut at = 0;
        while let Some(frame) = frame::backend(&self.bytes[at..]).expect("frames") {
            if !frame.is_whole() {
                break;
            }
            taken.push(take(&frame));
            at += frame.size;
        }
        self.bytes.drain(..at);
        taken
    }
}
