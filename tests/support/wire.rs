//! A client that speaks the protocol byte by byte: it can stop in the middle of a message, send what no driver would, read
//! as slowly as it likes, and sees each message that comes.
//!
//! Messages are as in the PostgreSQL manual, "Message Formats"; only trust authentication is known. Whatever it waits for,
//! it waits for half a minute at most.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use super::Pgweir;

const PATIENCE: Duration = Duration::from_secs(30);
const PROTOCOL_3_0: i32 = 196_608;
pub const CANCEL_REQUEST: i32 = 80_877_102;

pub struct Wire {
    pub reader: BufReader<OwnedReadHalf>,
    pub writer: OwnedWriteHalf,
    /// Process and secret of BackendKeyData.
    pub key: Vec<u8>,
}

/// The fields of an ErrorResponse or NoticeResponse, by their letter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(pub BTreeMap<char, String>);

/// A message as it came: its type and its body.
pub type Message = (u8, Vec<u8>);

/// Awaits what must not hang.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, future).await {
        Ok(done) => done,
        Err(_) => panic!("hangs: {what}"),
    }
}

impl Wire {
    /// A TCP connection on which nothing was said yet.
    pub async fn dial(address: SocketAddr) -> Self {
        let stream = soon("connecting", TcpStream::connect(address)).await;
        Self::over(stream.expect("somebody listens"))
    }

    fn over(stream: TcpStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self {
            reader: BufReader::new(reader),
            writer,
            key: Vec::new(),
        }
    }

    /// Connects and logs in, with next to no room in the kernel for what is not read.
    pub async fn connect_hard_of_hearing(pooler: &Pgweir, database: &str) -> Self {
        let socket = TcpSocket::new_v4().expect("IPv4");
        socket.set_recv_buffer_size(4096).expect("a small one");
        let stream = soon("connecting", socket.connect(pooler.address())).await;
        let mut wire = Self::over(stream.expect("somebody listens"));
        let parameters = [("user", "postgres"), ("database", database)];
        wire.send(&startup(&parameters)).await;
        wire.greeted().await.expect("everybody is let in");
        wire
    }

    /// Connects and logs in as `postgres`.
    pub async fn connect(pooler: &Pgweir, database: &str) -> Self {
        Self::login(
            pooler.address(),
            &[("user", "postgres"), ("database", database)],
        )
        .await
    }

    /// An administrator at the console.
    pub async fn console(pooler: &Pgweir) -> Self {
        Self::connect(pooler, "pgbouncer").await
    }

    /// Connects and logs in as this user.
    pub async fn login_to(pooler: &Pgweir, user: &str, database: &str) -> Self {
        Self::login(pooler.address(), &[("user", user), ("database", database)]).await
    }

    /// Asks for what this client waits for to be cancelled; returns when that has been done.
    pub async fn cancel(&self, pooler: &Pgweir) {
        let mut canceller = Self::dial(pooler.address()).await;
        canceller.send(&request(CANCEL_REQUEST, &self.key)).await;
        assert_eq!(
            canceller.read().await,
            None,
            "nothing is said to a cancel request"
        );
    }

    /// Connects and logs in with these startup parameters.
    pub async fn login(address: SocketAddr, parameters: &[(&str, &str)]) -> Self {
        match Self::try_login(address, parameters).await {
            Ok(wire) => wire,
            Err(refusal) => panic!("cannot log in: {refusal:?}"),
        }
    }

    /// Connects and logs in, or is told why not.
    pub async fn try_login(
        address: SocketAddr,
        parameters: &[(&str, &str)],
    ) -> Result<Self, Fields> {
        let mut wire = Self::dial(address).await;
        wire.send(&startup(parameters)).await;
        wire.greeted().await.map(|()| wire)
    }

    /// Reads up to the first ReadyForQuery.
    pub async fn greeted(&mut self) -> Result<(), Fields> {
        loop {
            match self.read().await {
                Some((b'R', body)) => assert_eq!(body, [0; 4], "AuthenticationOk"),
                Some((b'K', body)) => self.key = body,
                Some((b'S', _)) => {}
                Some((b'Z', _)) => return Ok(()),
                Some((b'E', body)) => {
                    let refusal = Fields::read(&body);
                    assert_eq!(self.read().await, None, "closed behind {refusal:?}");
                    return Err(refusal);
                }
                other => panic!("instead of a greeting: {other:?}"),
            }
        }
    }

    /// Sends all of it, however long the other side takes. A failure shows at the next read.
    pub async fn send(&mut self, bytes: &[u8]) {
        drop(soon("sending", self.writer.write_all(bytes)).await);
    }

    /// Sends all of it, if that is taken within the time.
    pub async fn try_send(&mut self, bytes: &[u8], limit: Duration) -> bool {
        let sent = timeout(limit, self.writer.write_all(bytes)).await;
        matches!(sent, Ok(Ok(())))
    }

    /// No more will be sent.
    pub async fn finish_sending(&mut self) {
        drop(self.writer.shutdown().await);
    }

    /// The next message; `None` once the other side has closed, even in the middle of one.
    pub async fn read(&mut self) -> Option<Message> {
        let (kind, length) = self.read_header().await?;
        let mut body = vec![0; length];
        soon("the rest of a message", self.reader.read_exact(&mut body))
            .await
            .ok()?;
        Some((kind, body))
    }

    /// The type of the next message and the length of its body, which is left to be read.
    pub async fn read_header(&mut self) -> Option<(u8, usize)> {
        soon("a message", async {
            let kind = self.reader.read_u8().await.ok()?;
            let length = self.reader.read_i32().await.ok()?;
            Some((kind, usize::try_from(length).ok()?.checked_sub(4)?))
        })
        .await
    }

    /// The next message but for those that may come at any time, in the words of [`describe`].
    pub async fn answer(&mut self) -> String {
        loop {
            match self.read().await {
                Some((b'S' | b'N' | b'A', _)) => {}
                Some((kind, body)) => return describe(kind, &body),
                None => return "closed".to_owned(),
            }
        }
    }

    /// All answers up to ReadyForQuery or the end.
    pub async fn answers(&mut self) -> Vec<String> {
        let mut answers = Vec::new();
        loop {
            let answer = self.answer().await;
            let is_last = answer.starts_with('Z') || answer == "closed";
            answers.push(answer);
            if is_last {
                return answers;
            }
        }
    }

    /// Sends a simple query and reads its answers.
    pub async fn ask(&mut self, sql: &str) -> Vec<String> {
        self.send(&query(sql)).await;
        self.answers().await
    }

    /// The one row of one column that a query must yield.
    pub async fn scalar(&mut self, sql: &str) -> String {
        self.scalar_then(sql, "Z I").await
    }

    /// The same inside a transaction.
    pub async fn scalar_in_transaction(&mut self, sql: &str) -> String {
        self.scalar_then(sql, "Z T").await
    }

    async fn scalar_then(&mut self, sql: &str, then: &str) -> String {
        let answers = self.ask(sql).await;
        match answers.as_slice() {
            [_, row, _, ready] if row.starts_with("D ") && ready == then => row[2..].to_owned(),
            _ => panic!("{sql}: {answers:?}"),
        }
    }

    /// The error that a query must end with; what comes behind it is left to be read.
    pub async fn refusal(&mut self, sql: &str) -> Fields {
        self.send(&query(sql)).await;
        self.error().await
    }

    /// The error that must come next, but for rows and for what may come at any time.
    pub async fn error(&mut self) -> Fields {
        loop {
            match self.read().await {
                Some((b'S' | b'N' | b'A' | b'T' | b'D', _)) => {}
                Some((b'E', body)) => return Fields::read(&body),
                other => panic!("instead of an error: {other:?}"),
            }
        }
    }

    /// The error that must come behind whatever else comes.
    pub async fn batch_error(&mut self) -> Fields {
        loop {
            match self.read().await {
                Some((b'E', body)) => return Fields::read(&body),
                Some((b'Z', _)) | None => panic!("no error"),
                Some(_) => {}
            }
        }
    }

    /// The rows of a query as name-value pairs: for the console.
    pub async fn table(&mut self, sql: &str) -> Vec<BTreeMap<String, String>> {
        self.send(&query(sql)).await;
        let (mut names, mut rows) = (Vec::new(), Vec::new());
        loop {
            match self.read().await {
                Some((b'T', body)) => names = column_names(&body),
                Some((b'D', body)) => {
                    rows.push(names.iter().cloned().zip(columns(&body)).collect())
                }
                Some((b'Z', _)) => return rows,
                Some((b'C' | b'N', _)) => {}
                other => panic!("{sql}: {other:?}"),
            }
        }
    }
}

impl Fields {
    pub fn read(body: &[u8]) -> Self {
        let fields = body.split(|byte| *byte == 0).filter_map(|field| {
            let (kind, value) = field.split_first()?;
            Some((char::from(*kind), text(value)))
        });
        Self(fields.collect())
    }

    pub fn field(&self, kind: char) -> &str {
        self.0.get(&kind).map_or("", String::as_str)
    }

    pub fn code(&self) -> &str {
        self.field('C')
    }

    pub fn severity(&self) -> &str {
        self.field('S')
    }

    /// Message, detail and hint.
    pub fn words(&self) -> String {
        ['M', 'D', 'H'].map(|kind| self.field(kind)).join(" | ")
    }
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string().replace("\\\"", "\"")
}

fn column_names(body: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = &body[2..];
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        names.push(text(&rest[..end]));
        rest = &rest[end + 1 + 18..];
    }
    names
}

fn columns(body: &[u8]) -> Vec<String> {
    let mut columns = Vec::new();
    let mut rest = &body[2..];
    while let Some((length, behind)) = rest.split_first_chunk() {
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        columns.push(text(&behind[..length]));
        rest = &behind[length..];
    }
    columns
}

/// A message in a few words: its type, and what a client would look at.
pub fn describe(kind: u8, body: &[u8]) -> String {
    let details = match kind {
        b'C' => text(&body[..body.len() - 1]),
        b'D' => columns(body).join("|"),
        b'E' => {
            let fields = Fields::read(body);
            format!("{} {}", fields.severity(), fields.code())
        }
        b'Z' => text(body),
        _ => String::new(),
    };
    format!("{} {details}", char::from(kind))
        .trim_end()
        .to_owned()
}

/// StartupMessage of protocol 3.0.
pub fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = PROTOCOL_3_0.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend(cstr(name));
        body.extend(cstr(value));
    }
    body.push(0);
    [&length(body.len())[..], &body].concat()
}

/// A packet without a tag: a request code and what follows it.
pub fn request(code: i32, rest: &[u8]) -> Vec<u8> {
    [&length(rest.len() + 4)[..], &code.to_be_bytes(), rest].concat()
}

/// A message: its type and its body.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &length(body.len()), body].concat()
}

/// The head of a message whose body has `size` bytes.
pub fn head(kind: u8, size: usize) -> Vec<u8> {
    [&[kind][..], &length(size)].concat()
}

fn length(size: usize) -> [u8; 4] {
    u32::try_from(size + 4).expect("below 4 GB").to_be_bytes()
}

pub fn cstr(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &cstr(sql))
}

pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', &[cstr(name), cstr(sql), vec![0, 0]].concat())
}

/// To the unnamed portal, all in text format.
pub fn bind(statement: &str, parameters: &[&[u8]]) -> Vec<u8> {
    let mut body = [vec![0], cstr(statement), vec![0, 0]].concat();
    body.extend(u16::try_from(parameters.len()).expect("few").to_be_bytes());
    for parameter in parameters {
        body.extend(u32::try_from(parameter.len()).expect("small").to_be_bytes());
        body.extend(*parameter);
    }
    body.extend([0, 0]);
    message(b'B', &body)
}

/// `target` is `S` for a statement, `P` for a portal.
pub fn describe_target(target: u8, name: &str) -> Vec<u8> {
    message(b'D', &[&[target][..], &cstr(name)].concat())
}

/// `target` as for [`describe_target`].
pub fn close(target: u8, name: &str) -> Vec<u8> {
    message(b'C', &[&[target][..], &cstr(name)].concat())
}

/// Of the unnamed portal, all rows.
pub fn execute() -> Vec<u8> {
    message(b'E', &[0; 5])
}

pub fn sync() -> Vec<u8> {
    message(b'S', &[])
}

pub fn flush() -> Vec<u8> {
    message(b'H', &[])
}

pub fn copy_data(data: &[u8]) -> Vec<u8> {
    message(b'd', data)
}

pub fn copy_done() -> Vec<u8> {
    message(b'c', &[])
}

pub fn terminate() -> Vec<u8> {
    message(b'X', &[])
}
