//! A client by bytes: it sends messages in any order, cut anywhere, and sees each message that comes.
//!
//! Messages are as in the PostgreSQL manual, "Message Formats". Answers are told in words, one line a
//! message: its type byte, then what a client would look at (`D 1|x`, `C SELECT 1`, `E 42P01`, `Z I`).
//! Only trust and plain passwords are known. Blocking; whatever does not come within a minute fails the test.

use std::{
    collections::BTreeMap,
    io::{BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use super::wire::cstr;
pub use super::wire::{
    close, copy_data, copy_done, describe_target, execute, flush, message, parse, query, sync,
    terminate,
};

/// Protocol 3.0, whose cancel keys have four bytes.
pub const PROTOCOL_3_0: i32 = 0x3_0000;
/// Protocol 3.2, whose cancel keys are longer.
pub const PROTOCOL_3_2: i32 = 0x3_0002;
const CANCEL_REQUEST: i32 = 80_877_102;
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection that has logged in.
pub struct Raw {
    address: SocketAddr,
    reader: BufReader<TcpStream>,
    writer: TcpStream,
    /// The body of BackendKeyData: process and secret.
    pub key: Vec<u8>,
    /// What ParameterStatus last said of each parameter.
    pub parameters: BTreeMap<String, String>,
    /// `name=value` of each ParameterStatus since the login.
    pub reports: Vec<String>,
    /// `channel payload` of each NotificationResponse.
    pub notifications: Vec<String>,
    /// Code and message of each NoticeResponse.
    pub notices: Vec<String>,
    /// Code, message, detail and hint of the last ErrorResponse, joined.
    pub last_error: String,
    /// The body of NegotiateProtocolVersion, where one came.
    pub negotiated: Option<Vec<u8>>,
}

/// A message without its header.
type Message = (u8, Vec<u8>);

impl Raw {
    /// Logs in as `postgres`.
    pub fn connect(address: SocketAddr, database: &str) -> Self {
        Self::connect_with(address, database, &[])
    }

    /// Logs in as `postgres`, unless `parameters` say otherwise.
    pub fn connect_with(address: SocketAddr, database: &str, parameters: &[(&str, &str)]) -> Self {
        Self::try_connect(address, PROTOCOL_3_0, database, parameters)
            .unwrap_or_else(|refused| panic!("cannot log in: {refused}"))
    }

    /// Logs in; the error that came instead is handed back.
    pub fn try_connect(
        address: SocketAddr,
        protocol: i32,
        database: &str,
        parameters: &[(&str, &str)],
    ) -> Result<Self, String> {
        let mut raw = Self::dial(address);
        let mut startup = BTreeMap::from([("user", "postgres"), ("database", database)]);
        startup.extend(parameters.iter().copied());
        let password = startup.remove("password").unwrap_or_default();
        raw.send(&startup_message(protocol, startup));
        loop {
            match raw.next() {
                Some((b'R', body)) if body == [0; 4] => {}
                Some((b'R', body)) if body == [0, 0, 0, 3] => {
                    raw.send(&message(b'p', &cstr(password)));
                }
                Some((b'K', body)) => raw.key = body,
                Some((b'Z', _)) => break,
                Some((b'E', _)) => return Err(raw.last_error),
                Some((b'v', body)) => raw.negotiated = Some(body),
                Some((b'S' | b'N', _)) => {}
                other => panic!("not expected in a login: {other:?}"),
            }
        }
        raw.reports.clear();
        Ok(raw)
    }

    /// Logs in as `postgres` with a password that is asked for in plain text.
    pub fn connect_by_password(
        address: SocketAddr,
        database: &str,
        password: &str,
    ) -> Result<Self, String> {
        let parameters = [("password", password)];
        Self::try_connect(address, PROTOCOL_3_0, database, &parameters)
    }

    /// A connection on which nothing has been said.
    pub fn dial(address: SocketAddr) -> Self {
        let writer = TcpStream::connect(address).expect("somebody listens");
        writer
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| writer.set_nodelay(true))
            .expect("the socket is open");
        Self {
            address,
            reader: BufReader::new(writer.try_clone().expect("the socket is open")),
            writer,
            key: Vec::new(),
            parameters: BTreeMap::new(),
            reports: Vec::new(),
            notifications: Vec::new(),
            notices: Vec::new(),
            last_error: String::new(),
            negotiated: None,
        }
    }

    /// Begins to log in as `postgres`, and waits for nothing.
    pub fn enter(address: SocketAddr, database: &str) -> Self {
        Self::enter_as(address, "postgres", database)
    }

    /// Begins to log in, and waits for nothing.
    pub fn enter_as(address: SocketAddr, user: &str, database: &str) -> Self {
        let mut raw = Self::dial(address);
        let parameters = [("user", user), ("database", database)];
        raw.send(&startup_message(PROTOCOL_3_0, parameters));
        raw
    }

    /// Sends bytes as they are. A failure shows at the next read.
    pub fn send(&mut self, bytes: &[u8]) {
        drop(self.writer.write_all(bytes));
    }

    /// The next message; `None` once the other side has closed.
    pub fn next(&mut self) -> Option<Message> {
        let mut header = [0; 5];
        self.read(&mut header)?;
        let [kind, length @ ..] = header;
        let length = usize::try_from(i32::from_be_bytes(length)).expect("a length");
        let mut body = vec![0; length - 4];
        self.read(&mut body)?;
        match kind {
            b'S' => {
                let mut words = strings(&body);
                let (name, value) = (words.remove(0), words.remove(0));
                self.reports.push(format!("{name}={value}"));
                self.parameters.insert(name, value);
            }
            b'A' => self.notifications.push(strings(&body[4..]).join(" ")),
            b'N' => self.notices.push(error_words(&body)),
            b'E' => self.last_error = error_words(&body),
            _ => {}
        }
        Some((kind, body))
    }

    fn read(&mut self, into: &mut [u8]) -> Option<()> {
        match self.reader.read_exact(into) {
            Ok(()) => Some(()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("nothing came within {PATIENCE:?}")
            }
            Err(_) => None,
        }
    }

    /// The next message but for those that may come at any time, in words.
    pub fn answer(&mut self) -> String {
        loop {
            match self.next() {
                Some((b'S' | b'N' | b'A', _)) => {}
                Some((kind, body)) => return describe(kind, &body),
                None => return "closed".to_owned(),
            }
        }
    }

    /// Messages up to the next ReadyForQuery, or the end.
    pub fn answers(&mut self) -> Vec<String> {
        let mut answers = Vec::new();
        loop {
            let answer = self.answer();
            let is_last = answer.starts_with('Z') || answer == "closed";
            answers.push(answer);
            if is_last {
                return answers;
            }
        }
    }

    /// Sends messages, and reads to the next ReadyForQuery.
    pub fn ask(&mut self, messages: &[Vec<u8>]) -> Vec<String> {
        self.send(&messages.concat());
        self.answers()
    }

    /// Runs a simple query.
    pub fn query(&mut self, sql: &str) -> Vec<String> {
        self.ask(&[query(sql)])
    }

    /// Runs a simple query that must succeed; answers its rows.
    pub fn rows(&mut self, sql: &str) -> Vec<String> {
        let answers = self.query(sql);
        let failed = answers.iter().any(|a| a.starts_with('E') || a == "closed");
        assert!(!failed, "{sql}: {answers:?} {}", self.last_error);
        answers
            .iter()
            .filter_map(|answer| Some(answer.strip_prefix("D ")?.to_owned()))
            .collect()
    }

    /// Runs a simple query that must succeed.
    pub fn run(&mut self, sql: &str) {
        self.rows(sql);
    }

    /// The only value that a simple query answers.
    pub fn value(&mut self, sql: &str) -> String {
        let rows = self.rows(sql);
        assert_eq!(rows.len(), 1, "{sql}: {rows:?}");
        rows.concat()
    }

    /// The SQLSTATE with which a simple query fails.
    pub fn error(&mut self, sql: &str) -> String {
        let answers = self.query(sql);
        let error = answers.iter().find_map(|answer| answer.strip_prefix("E "));
        error
            .unwrap_or_else(|| panic!("{sql} was expected to fail: {answers:?}"))
            .to_owned()
    }

    /// The process of the server.
    pub fn pid(&mut self) -> u32 {
        let pid = self.value("SELECT pg_catalog.pg_backend_pid()");
        pid.parse().expect("a number")
    }

    /// The next notification, from those that have come or else as it comes.
    pub fn notification(&mut self) -> String {
        while self.notifications.is_empty() {
            match self.next() {
                Some((b'A' | b'S' | b'N', _)) => {}
                other => panic!("a notification was awaited: {other:?}"),
            }
        }
        self.notifications.remove(0)
    }

    /// Cancels what this connection runs, from a connection of its own that is awaited.
    pub fn cancel(&self) {
        cancel(self.address, &self.key);
    }

    /// Says goodbye, and waits until the other side has closed.
    pub fn terminate(mut self) {
        self.send(&terminate());
        assert_eq!(self.answer(), "closed");
    }

    /// Closes without a goodbye.
    pub fn vanish(self) {
        drop(self.writer.shutdown(Shutdown::Both));
    }

    /// Closes the sending side only.
    pub fn hang_up(&self) {
        drop(self.writer.shutdown(Shutdown::Write));
    }
}

/// A CancelRequest with any key, awaited to its end.
pub fn cancel(address: SocketAddr, key: &[u8]) {
    let mut raw = Raw::dial(address);
    let length = i32::try_from(8 + key.len()).expect("keys are short");
    raw.send(
        &[
            &length.to_be_bytes()[..],
            &CANCEL_REQUEST.to_be_bytes(),
            key,
        ]
        .concat(),
    );
    // Nothing is answered, but to what is no cancel request at all.
    while raw.next().is_some() {}
}

fn startup_message<'a>(
    protocol: i32,
    parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Vec<u8> {
    let mut body = protocol.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
    }
    body.push(0);
    let length = i32::try_from(body.len() + 4).expect("it is short");
    [&length.to_be_bytes()[..], &body].concat()
}

/// A message in words.
fn describe(kind: u8, body: &[u8]) -> String {
    let details = match kind {
        b'C' => strings(body).concat(),
        b'D' => return format!("D {}", columns(body).join("|")),
        b'E' => {
            let words = error_words(body);
            words.split(' ').next().unwrap_or_default().to_owned()
        }
        b't' => i16::from_be_bytes([body[0], body[1]]).to_string(),
        b'T' => column_names(body).join("|"),
        b'Z' => text(body),
        b'd' => text(body).trim_end().to_owned(),
        _ => String::new(),
    };
    format!("{} {details}", kind as char).trim_end().to_owned()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap_or_else(|_| bytes.escape_ascii().to_string())
}

/// Zero-terminated strings, one behind the other.
fn strings(bytes: &[u8]) -> Vec<String> {
    let mut strings: Vec<_> = bytes.split(|byte| *byte == 0).map(text).collect();
    strings.pop();
    strings
}

/// Code, message, detail and hint.
fn error_words(body: &[u8]) -> String {
    let fields = strings(body);
    let field = |kind: char| fields.iter().find_map(|field| field.strip_prefix(kind));
    let words = ['C', 'M', 'D', 'H'].into_iter().filter_map(field);
    words.collect::<Vec<_>>().join(" ")
}

fn columns(body: &[u8]) -> Vec<String> {
    let mut rest = &body[2..];
    let mut columns = Vec::new();
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(i32::from_be_bytes(*length));
        let (column, behind) = behind.split_at(length.unwrap_or(0));
        columns.push(length.map_or_else(|_| "NULL".to_owned(), |_| text(column)));
        rest = behind;
    }
    columns
}

fn column_names(body: &[u8]) -> Vec<String> {
    let mut rest = &body[2..];
    let mut names = Vec::new();
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        names.push(text(&rest[..end]));
        rest = &rest[end + 19..];
    }
    names
}

/// With the OIDs of parameter types.
pub fn parse_typed(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let mut body = [cstr(name), cstr(sql)].concat();
    body.extend(i16::try_from(types.len()).expect("few").to_be_bytes());
    body.extend(types.iter().flat_map(|oid| oid.to_be_bytes()));
    message(b'P', &body)
}

/// To the unnamed portal, all in text format.
pub fn bind(statement: &str, parameters: &[&str]) -> Vec<u8> {
    bind_portal("", statement, parameters)
}

/// All in text format.
pub fn bind_portal(portal: &str, statement: &str, parameters: &[&str]) -> Vec<u8> {
    let mut body = [cstr(portal), cstr(statement), vec![0, 0]].concat();
    body.extend(i16::try_from(parameters.len()).expect("few").to_be_bytes());
    for parameter in parameters {
        body.extend(i32::try_from(parameter.len()).expect("short").to_be_bytes());
        body.extend(parameter.as_bytes());
    }
    body.extend([0, 0]);
    message(b'B', &body)
}

pub fn describe_statement(name: &str) -> Vec<u8> {
    describe_target(b'S', name)
}

pub fn describe_portal(name: &str) -> Vec<u8> {
    describe_target(b'P', name)
}

/// `max_rows` of 0 for all.
pub fn execute_portal(portal: &str, max_rows: i32) -> Vec<u8> {
    message(b'E', &[&cstr(portal)[..], &max_rows.to_be_bytes()].concat())
}

pub fn copy_fail(reason: &str) -> Vec<u8> {
    message(b'f', &cstr(reason))
}
