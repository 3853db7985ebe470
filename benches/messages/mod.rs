//! The messages of one transaction of `pgbench -S`, as libpq sends them and PostgreSQL answers.

use bytes::BytesMut;
use pgweir::protocol::{
    FrontendTag,
    backend::TransactionStatus,
    encode::{self, Column},
    frame,
};
use postgres_protocol::{IsNull, message::frontend};

const PREPARED: &str = "P_0";
const INT4: u32 = 23;

/// Query, with a literal of its own.
pub(crate) fn simple(account: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let text = format!("SELECT abalance FROM pgbench_accounts WHERE aid = {account};");
    encode::query(&mut out, text.as_bytes());
    out
}

/// Parse of the unnamed statement, Bind, Describe, Execute, Sync.
pub(crate) fn extended(account: u32) -> Vec<u8> {
    [parse(""), run("", account)].concat()
}

/// Parse of the statement that [`prepared`] runs, Sync.
pub(crate) fn prepare() -> Vec<u8> {
    let mut out = parse(PREPARED);
    encode::sync(&mut out);
    out
}

/// Bind of a prepared statement, Describe, Execute, Sync.
pub(crate) fn prepared(account: u32) -> Vec<u8> {
    run(PREPARED, account)
}

/// What PostgreSQL answers.
pub(crate) fn reply(request: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = request;
    while let Ok(Some(frame)) = frame::frontend(rest, u32::MAX) {
        match frame.tag {
            FrontendTag::Query => {
                describe(&mut out);
                execute(&mut out);
                encode::ready_for_query(&mut out, TransactionStatus::Idle);
            }
            FrontendTag::Parse => encode::parse_complete(&mut out),
            FrontendTag::Bind => encode::bind_complete(&mut out),
            FrontendTag::Describe => describe(&mut out),
            FrontendTag::Execute => execute(&mut out),
            FrontendTag::Sync => encode::ready_for_query(&mut out, TransactionStatus::Idle),
            other => unreachable!("none of these requests has a {other:?}"),
        }
        rest = &rest[frame.size..];
    }
    out
}

fn parse(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let text = b"SELECT abalance FROM pgbench_accounts WHERE aid = $1;";
    encode::parse(&mut out, name.as_bytes(), text, &[0, 0]);
    out
}

fn run(statement: &str, account: u32) -> Vec<u8> {
    let mut out = BytesMut::new();
    let value = |value: u32, out: &mut BytesMut| {
        out.extend_from_slice(value.to_string().as_bytes());
        Ok(IsNull::No)
    };
    frontend::bind("", statement, [0], [account], value, [0], &mut out)
        .unwrap_or_else(|_| unreachable!("the names have no NUL"));
    frontend::describe(b'P', "", &mut out).expect("the name has no NUL");
    frontend::execute("", 0, &mut out).expect("the name has no NUL");
    frontend::sync(&mut out);
    out.to_vec()
}

fn describe(out: &mut Vec<u8>) {
    let column = Column {
        name: "abalance",
        type_oid: INT4,
        type_size: 4,
        binary: false,
    };
    encode::row_description(out, &[column]);
}

fn execute(out: &mut Vec<u8>) {
    encode::data_row(out, [Some(b"-4711".as_slice())].into_iter());
    encode::command_complete(out, "SELECT 1");
}
