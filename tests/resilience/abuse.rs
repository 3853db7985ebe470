//! Clients that break the protocol, at every point at which it can be broken.

use std::time::Duration;

use crate::{
    neighbour::Neighbour,
    support::{
        self, Pgweir,
        wire::{self, CANCEL_REQUEST, Fields, Wire},
    },
};

const SSL_REQUEST: i32 = 80_877_103;
const GSSENC_REQUEST: i32 = 80_877_104;

/// Message types of a client after its login.
const TAGS: &[u8] = b"BCcdDEfFHPpQSX";

/// Two servers, so that two clients who hold one each would stop all others.
fn pooler() -> Pgweir {
    Pgweir::builder(support::postgres())
        .pool_size(2)
        .pgweir("client_login_timeout", "\"1s\"")
        .pgweir("log_connections", "false")
        .pgweir("log_disconnections", "false")
        .start()
}

/// Sends `bytes` as the first thing on a connection, and answers what comes until the other side closes.
async fn greet_with(pooler: &Pgweir, bytes: &[u8]) -> Vec<String> {
    let mut client = Wire::dial(pooler.address()).await;
    client.send(bytes).await;
    client.answers().await
}

/// Sends `bytes` behind a login; what the client is told in its end, which must come.
async fn break_off(pooler: &Pgweir, bytes: &[u8]) -> Fields {
    let mut client = Wire::connect(pooler, "postgres").await;
    client.send(bytes).await;
    let told = client.error().await;
    assert_eq!(client.answer().await, "closed", "behind {told:?}");
    told
}

fn full_startup() -> Vec<u8> {
    wire::startup(&[("user", "postgres"), ("database", "postgres")])
}

#[tokio::test]
async fn whoever_cannot_say_hello_is_told_so_and_closed() {
    let pooler = pooler();
    let neighbour = Neighbour::of(&pooler);
    let startup = full_startup();
    let unterminated = &startup[..startup.len() - 1];
    let mut unterminated = unterminated.to_vec();
    unterminated[3] -= 1;
    let ssl = wire::request(SSL_REQUEST, &[]);
    let version = |major: i32, minor: i32| wire::request((major << 16) + minor, b"user\0x\0\0");
    for (what, bytes, code) in [
        (
            "another protocol",
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            "08P01",
        ),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), "08P01"),
        (
            "TLS without TLS",
            b"\x16\x03\x01\x02\x00\x01".to_vec(),
            "08P01",
        ),
        ("nothing but zeros", vec![0; 64], "08P01"),
        ("2 GB", vec![0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0], "08P01"),
        ("4 GB", vec![0xff; 8], "08P01"),
        ("length 3", vec![0, 0, 0, 3], "08P01"),
        ("length 4: no code", vec![0, 0, 0, 4], "08P01"),
        ("length 7: half a code", vec![0, 0, 0, 7, 0, 3, 0], "08P01"),
        ("10,001 bytes", vec![0, 0, 0x27, 0x11, 0, 3, 0, 0], "08P01"),
        ("no terminator", unterminated, "08P01"),
        (
            "a byte too many",
            wire::request(196_608, b"user\0x\0\0\0"),
            "08P01",
        ),
        (
            "no user",
            wire::request(196_608, b"database\0x\0\0"),
            "28000",
        ),
        (
            "an empty user",
            wire::request(196_608, b"user\0\0\0"),
            "28000",
        ),
        (
            "a user without value",
            wire::request(196_608, b"user\0"),
            "08P01",
        ),
        (
            "not UTF-8",
            wire::request(196_608, b"user\0\xff\0\0"),
            "08P01",
        ),
        (
            "no parameter name",
            wire::request(196_608, b"user\0x\0a b\0c\0\0"),
            "42704",
        ),
        ("protocol 2.0", version(2, 0), "0A000"),
        ("protocol 4.0", version(4, 0), "0A000"),
        (
            "bytes behind SSLRequest",
            [&ssl[..], &startup].concat(),
            "08P01",
        ),
        (
            "a long SSLRequest",
            wire::request(SSL_REQUEST, b"x"),
            "08P01",
        ),
        ("a message of a session", wire::query("SELECT 1"), "08P01"),
        (
            "half a startup message, then silence",
            startup[..20].to_vec(),
            "57014",
        ),
        ("half a length, then silence", vec![0, 0], "57014"),
        ("silence", vec![], "57014"),
    ] {
        assert_eq!(
            greet_with(&pooler, &bytes).await,
            [format!("E FATAL {code}"), "closed".to_owned()],
            "{what}"
        );
    }
    // Nobody is told about a cancel request.
    for key in [&b"\0\0\0\x01abcd"[..], &[0x7f; 260], &[], b"\0\0"] {
        let answers = greet_with(&pooler, &wire::request(CANCEL_REQUEST, key)).await;
        assert!(
            matches!(answers.last().map(String::as_str), Some("closed")),
            "{answers:?}"
        );
    }
    neighbour.bid_farewell();
}

#[tokio::test]
async fn encryption_is_asked_for_once_and_nothing_follows_the_question() {
    let pooler = pooler();
    let neighbour = Neighbour::of(&pooler);
    for (first, second, refused) in [
        (SSL_REQUEST, SSL_REQUEST, true),
        (GSSENC_REQUEST, GSSENC_REQUEST, true),
        (GSSENC_REQUEST, SSL_REQUEST, false),
        (SSL_REQUEST, GSSENC_REQUEST, false),
    ] {
        let mut client = Wire::dial(pooler.address()).await;
        client.send(&wire::request(first, &[])).await;
        assert_eq!(read_byte(&mut client).await, b'N');
        client.send(&wire::request(second, &[])).await;
        if refused {
            assert_eq!(client.answers().await, ["E FATAL 08P01", "closed"]);
            continue;
        }
        assert_eq!(read_byte(&mut client).await, b'N');
        client.send(&full_startup()).await;
        client.greeted().await.unwrap();
        assert_eq!(client.scalar("SELECT 'let in'").await, "let in");
    }
    neighbour.bid_farewell();
}

async fn read_byte(client: &mut Wire) -> u8 {
    use tokio::io::AsyncReadExt as _;
    wire::soon("an answer", client.reader.read_u8())
        .await
        .unwrap()
}

#[tokio::test]
async fn startup_options_of_every_malformed_kind_are_refused() {
    let pooler = pooler();
    let neighbour = Neighbour::of(&pooler);
    let long = "-c a=b ".repeat(9 * 1024 / 7);
    let words = "x ".repeat(4000);
    for (options, code) in [
        ("-c=", "42704"),
        ("--=", "42704"),
        ("-c =x", "42704"),
        ("-c", "42601"),
        ("-c ", "42601"),
        ("-c x", "42601"),
        ("-c x.y", "42601"),
        ("--", "0A000"),
        ("--x", "42601"),
        ("-", "0A000"),
        ("- - -", "0A000"),
        ("x", "0A000"),
        ("=", "0A000"),
        ("\\", "0A000"),
        ("-W 10", "0A000"),
        ("-c -c", "42601"),
        ("-c 1x=y", "42704"),
        ("-c a..b=1", "42704"),
        ("-c a\u{7f}b=c", "42704"),
        ("-c work_mem", "42601"),
        ("-c no_such_parameter=1", "42704"),
        ("-c work_mem=lots", "22023"),
        ("-c work_mem=-1", "22023"),
        ("-c ssl=on", "55P02"),
        ("-c statement_timeout=5; DROP TABLE pg_class", "0A000"),
        ("-c role=nobody_of_that_name", "22023"),
        (&words, "0A000"),
    ] {
        let parameters = [
            ("user", "postgres"),
            ("database", "postgres"),
            ("options", options),
        ];
        let refused = Wire::try_login(pooler.address(), &parameters).await.err();
        let refused = refused.unwrap_or_else(|| panic!("let in with {options:?}"));
        assert_eq!(
            (refused.code(), refused.severity()),
            (code, "FATAL"),
            "{options:?}: {refused:?}"
        );
    }
    // Nothing wrong with these.
    for (options, shown) in [
        ("", "4MB"),
        ("   ", "4MB"),
        ("-c work_mem=1MB", "1MB"),
        ("--work-mem=2MB", "2MB"),
        ("-cwork_mem=3MB", "3MB"),
    ] {
        let parameters = [
            ("user", "postgres"),
            ("database", "postgres"),
            ("options", options),
        ];
        let mut client = Wire::login(pooler.address(), &parameters).await;
        assert_eq!(client.scalar("SHOW work_mem").await, shown, "{options:?}");
    }
    // As long as a startup packet may be, and nothing that PostgreSQL would not take: "a" is no parameter of its.
    let parameters = [
        ("user", "postgres"),
        ("database", "postgres"),
        ("options", long.as_str()),
    ];
    let refused = Wire::try_login(pooler.address(), &parameters)
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code(), "42704", "{refused:?}");
    neighbour.bid_farewell();
}

#[tokio::test]
async fn what_is_no_message_ends_the_session_that_sent_it() {
    let pooler = pooler();
    let neighbour = Neighbour::of(&pooler);
    for tag in (0..=u8::MAX).filter(|tag| !TAGS.contains(tag)) {
        let told = break_off(&pooler, &wire::message(tag, b"x\0")).await;
        assert_eq!(
            (told.code(), told.severity()),
            ("08P01", "FATAL"),
            "{tag:#x}: {told:?}"
        );
    }
    for tag in TAGS {
        for length in [0_u32, 3, 0x7fff_ffff, 0xffff_ffff] {
            let bytes = [&[*tag][..], &length.to_be_bytes()].concat();
            let told = break_off(&pooler, &bytes).await;
            assert_eq!(
                (told.code(), told.severity()),
                ("08P01", "FATAL"),
                "{bytes:?}: {told:?}"
            );
        }
    }
    for (what, bytes) in [
        ("a second startup message", full_startup()),
        ("SSLRequest", wire::request(SSL_REQUEST, &[])),
        (
            "CancelRequest",
            wire::request(CANCEL_REQUEST, b"\0\0\0\x01abcd"),
        ),
        ("a password", wire::message(b'p', b"secret\0")),
        ("a megabyte of garbage", vec![b'!'; 1 << 20]),
        ("Query without NUL", wire::message(b'Q', b"SELECT 1")),
        ("an empty Query", wire::message(b'Q', b"")),
        (
            "Query with a NUL inside",
            wire::message(b'Q', b"SELECT 1\0; SELECT 2\0"),
        ),
        (
            "Query without NUL before another",
            [wire::message(b'Q', b"SELECT 1"), wire::query(" + 1")].concat(),
        ),
        (
            "Parse without NUL",
            [wire::message(b'P', b"name"), wire::sync()].concat(),
        ),
        (
            "Parse without types",
            [wire::message(b'P', b"\0SELECT 1\0"), wire::sync()].concat(),
        ),
        (
            "Parse with too many types",
            [wire::message(b'P', b"\0SELECT 1\0\xff\xff"), wire::sync()].concat(),
        ),
        (
            "Bind without NUL",
            [wire::message(b'B', b"portal"), wire::sync()].concat(),
        ),
        (
            "an empty Bind",
            [wire::message(b'B', b""), wire::sync()].concat(),
        ),
        (
            "Describe of nothing",
            [wire::message(b'D', b""), wire::sync()].concat(),
        ),
        (
            "Describe of what there is not",
            [wire::message(b'D', b"X\0"), wire::sync()].concat(),
        ),
        (
            "Close of nothing",
            [wire::message(b'C', b""), wire::sync()].concat(),
        ),
        (
            "Close without NUL",
            [wire::message(b'C', b"Sx"), wire::sync()].concat(),
        ),
        ("Sync with a body", wire::message(b'S', b"x")),
        (
            "a name longer than PostgreSQL takes",
            wire::describe_target(b'S', &"n".repeat(10_000)),
        ),
    ] {
        let told = break_off(&pooler, &bytes).await;
        assert_eq!(
            (told.code(), told.severity()),
            ("08P01", "FATAL"),
            "{what}: {told:?}"
        );
    }
    neighbour.bid_farewell();
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
async fn what_only_the_server_can_refuse_it_refuses_and_the_session_goes_on() {
    let pooler = pooler();
    let neighbour = Neighbour::of(&pooler);
    let mut client = Wire::connect(&pooler, "postgres").await;
    let parse = wire::parse("", "SELECT $1::int4");
    let counts = |body: &[u8]| {
        [
            parse.clone(),
            wire::message(b'B', body),
            wire::execute(),
            wire::sync(),
        ]
        .concat()
    };
    for (what, bytes, code) in [
        (
            "no parameter",
            [parse.clone(), wire::bind("", &[]), wire::sync()].concat(),
            "08P01",
        ),
        (
            "three parameters",
            [
                parse.clone(),
                wire::bind("", &[b"1", b"2", b"3"]),
                wire::sync(),
            ]
            .concat(),
            "08P01",
        ),
        (
            "65535 parameters and none there",
            counts(b"\0\0\0\0\xff\xff"),
            "08P01",
        ),
        ("no counts at all", counts(b"\0\0"), "08P01"),
        (
            "more formats than parameters",
            counts(b"\0\0\0\x05\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x011\0\0"),
            "08P01",
        ),
        (
            "a parameter longer than the message",
            counts(b"\0\0\0\0\0\x01\x7f\xff\xff\xff1\0\0"),
            "08P01",
        ),
        (
            "a parameter of length -2",
            counts(b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0"),
            "08P01",
        ),
        (
            "a format that there is not",
            counts(b"\0\0\0\x01\0\x09\0\x01\0\0\0\x011\0\0"),
            "22023",
        ),
        (
            "bytes behind the end",
            counts(b"\0\0\0\0\0\x01\0\0\0\x011\0\0xxx"),
            "08P01",
        ),
        (
            "Execute without NUL",
            [wire::message(b'E', b"x"), wire::sync()].concat(),
            "08P01",
        ),
        (
            "an empty Execute",
            [wire::message(b'E', b""), wire::sync()].concat(),
            "08P01",
        ),
        ("FunctionCall of nothing", wire::message(b'F', b""), "08P01"),
        (
            "a portal that there is not",
            [wire::message(b'E', b"none\0\0\0\0\0"), wire::sync()].concat(),
            "34000",
        ),
        (
            "a statement that there is not",
            [wire::bind("none", &[]), wire::sync()].concat(),
            "26000",
        ),
        (
            "a long name that there is not",
            [
                wire::describe_target(b'S', &"n".repeat(9_000)),
                wire::sync(),
            ]
            .concat(),
            "26000",
        ),
    ] {
        client.send(&bytes).await;
        let answers = client.answers().await;
        let expected = [format!("E ERROR {code}"), "Z I".to_owned()];
        let errors: Vec<_> = answers
            .iter()
            .filter(|answer| !answer.starts_with(['1', '2']))
            .collect();
        assert_eq!(errors, expected.iter().collect::<Vec<_>>(), "{what}");
        assert_eq!(client.scalar("SELECT 'goes on'").await, "goes on", "{what}");
    }
    neighbour.bid_farewell();
}

#[tokio::test]
async fn messages_that_mean_nothing_where_they_come_do_nothing() {
    let pooler = pooler();
    let neighbour = Neighbour::of(&pooler);
    let mut client = Wire::connect(&pooler, "postgres").await;
    let junk = [
        wire::copy_data(b"from nowhere"),
        wire::copy_done(),
        wire::message(b'f', b"failed before it began\0"),
        wire::copy_data(&[b'x'; 100_000]),
        wire::flush(),
    ]
    .concat();
    client.send(&junk).await;
    assert_eq!(client.scalar("SELECT 1").await, "1");
    client.send(&[wire::sync(), wire::sync()].concat()).await;
    assert_eq!(client.answers().await, ["Z I"]);
    assert_eq!(client.answers().await, ["Z I"]);
    // In a transaction, in a failed one, and while a server is at hand.
    for (sql, end) in [("BEGIN", "Z T"), ("SELECT 1/0", "Z E")] {
        assert_eq!(client.ask(sql).await.last().map(String::as_str), Some(end));
        client.send(&[&junk[..], &wire::sync()].concat()).await;
        assert_eq!(client.answers().await, [end]);
    }
    client
        .send(&[wire::query("ROLLBACK"), junk, wire::query("SELECT 2")].concat())
        .await;
    assert_eq!(client.answers().await, ["C ROLLBACK", "Z I"]);
    assert_eq!(client.answers().await, ["T", "D 2", "C SELECT 1", "Z I"]);
    neighbour.bid_farewell();
}

#[tokio::test]
async fn a_name_of_a_megabyte_is_a_name() {
    let pooler = pooler();
    let neighbour = Neighbour::of(&pooler);
    let name = "n".repeat(1 << 20);
    let mut client = Wire::connect(&pooler, "postgres").await;
    client
        .send(&[wire::parse(&name, "SELECT 'named'"), wire::sync()].concat())
        .await;
    assert_eq!(client.answers().await, ["1", "Z I"]);
    client
        .send(&[wire::bind(&name, &[]), wire::execute(), wire::sync()].concat())
        .await;
    let answers = client.answers().await;
    assert!(
        answers == ["2", "D named", "C SELECT 1", "Z I"] || answers == ["E FATAL 08P01", "closed"],
        "{answers:?}"
    );
    neighbour.bid_farewell();
}

#[tokio::test]
async fn whoever_leaves_in_the_middle_leaves_nothing_behind() {
    let pooler = Pgweir::builder(support::postgres()).pool_size(1).start();
    support::postgres()
        .primary()
        .psql("CREATE TABLE IF NOT EXISTS left_behind (n int)")
        .unwrap();
    let insert = "INSERT INTO left_behind VALUES (1)";
    let batch = [
        wire::parse("", insert),
        wire::bind("", &[]),
        wire::execute(),
    ]
    .concat();
    let half = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    for (what, bytes) in [
        (
            "Terminate in mid-batch",
            [&batch[..], &wire::terminate()].concat(),
        ),
        (
            "Terminate in a transaction",
            [wire::query("BEGIN"), wire::query(insert), wire::terminate()].concat(),
        ),
        (
            "Terminate in a failed one",
            [
                wire::query("BEGIN"),
                wire::query("SELECT 1/0"),
                wire::terminate(),
            ]
            .concat(),
        ),
        (
            "Terminate in mid-batch of a transaction",
            [wire::query("BEGIN"), batch.clone(), wire::terminate()].concat(),
        ),
        ("no Sync", batch.clone()),
        ("half a batch", half(&batch)),
        ("half a Query", half(&wire::query(insert))),
        (
            "half a Query in a transaction",
            [
                wire::query("BEGIN"),
                wire::query(insert),
                half(&wire::query(insert)),
            ]
            .concat(),
        ),
        (
            "half a long Query",
            half(&wire::query(&format!("{insert} --{}", "x".repeat(1 << 20)))),
        ),
        (
            "half a long Bind",
            half(
                &[
                    wire::parse("", "SELECT $1"),
                    wire::bind("", &[&[b'x'; 1 << 20]]),
                ]
                .concat(),
            ),
        ),
        (
            "COPY without an end",
            [
                wire::query("COPY left_behind FROM STDIN"),
                wire::copy_data(b"1\n"),
            ]
            .concat(),
        ),
        (
            "COPY in the middle of a line",
            [
                wire::query("COPY left_behind FROM STDIN"),
                half(&wire::copy_data(&[b'1'; 1 << 20])),
            ]
            .concat(),
        ),
        (
            "rows unread",
            wire::query("SELECT repeat('x', 1000) FROM generate_series(1, 100000)"),
        ),
        ("a sleep", wire::query("SELECT pg_sleep(600)")),
        (
            "garbage in a transaction",
            [wire::query("BEGIN"), wire::query(insert), vec![0]].concat(),
        ),
    ] {
        let mut client = Wire::connect(&pooler, "postgres").await;
        client.send(&bytes).await;
        drop(client);
        let mut next = Wire::connect(&pooler, "postgres").await;
        assert_eq!(
            next.ask("SELECT count(*) FROM left_behind").await,
            ["T", "D 0", "C SELECT 1", "Z I"],
            "{what}"
        );
    }
}

/// Nothing is closed for it: a client that says COPY and goes could have all servers closed so.
#[tokio::test]
async fn a_copy_whose_client_is_gone_is_ended() {
    let pooler = Pgweir::builder(support::postgres()).pool_size(1).start();
    let mut client = Wire::connect(&pooler, "postgres").await;
    client
        .ask("CREATE TABLE IF NOT EXISTS copied (n int)")
        .await;
    let pid = client.scalar("SELECT pg_backend_pid()").await;
    let copy = "COPY copied FROM STDIN";
    let batch = [wire::parse("", copy), wire::bind("", &[]), wire::execute()].concat();
    for (what, bytes) in [
        ("a goodbye", [wire::query(copy), wire::terminate()].concat()),
        ("no goodbye", wire::query(copy)),
        ("a batch", [&batch[..], &wire::flush()].concat()),
        (
            "a batch and a goodbye",
            [&batch[..], &wire::terminate()].concat(),
        ),
        ("a whole batch", [&batch[..], &wire::sync()].concat()),
    ] {
        client.send(&bytes).await;
        drop(client);
        client = Wire::connect(&pooler, "postgres").await;
        assert_eq!(
            client.scalar("SELECT pg_backend_pid()").await,
            pid,
            "{what}"
        );
    }
}

/// What a client may stop in the middle of without anybody noticing.
fn halves() -> Vec<(&'static str, Vec<u8>)> {
    let cut = |bytes: Vec<u8>, at: usize| bytes[..at].to_vec();
    let query = wire::query("SELECT 1");
    let parse = wire::parse("", "SELECT $1::text");
    let bind = wire::bind("", &[b"x"]);
    let whole = [&parse[..], &bind, &wire::execute()].concat();
    vec![
        ("a tag", vec![b'Q']),
        ("half a header", cut(query.clone(), 3)),
        ("a header", cut(query.clone(), 5)),
        ("half a Query", cut(query.clone(), 9)),
        ("half a Parse", cut(parse.clone(), 7)),
        (
            "half a Bind",
            cut([&parse[..], &bind].concat(), parse.len() + 8),
        ),
        ("a batch without Sync", whole.clone()),
        ("a batch and half a Sync", [&whole[..], b"S\0\0"].concat()),
        (
            "half a Query behind a whole one",
            [&query[..], &query[..9]].concat(),
        ),
        (
            "half a batch behind a whole one",
            [&whole[..], &wire::sync(), &whole[..12]].concat(),
        ),
        (
            "a batch without Sync behind a whole one",
            [&whole[..], &wire::sync(), &whole].concat(),
        ),
        (
            "a batch without Sync behind a Query",
            [&query[..], &whole].concat(),
        ),
        ("half a FunctionCall", wire::head(b'F', 100)),
        ("half a CopyData", wire::head(b'd', 1 << 20)),
        (
            "half a long Query",
            [wire::head(b'Q', 1 << 20), vec![b'x'; 32 * 1024]].concat(),
        ),
    ]
}

#[tokio::test]
async fn five_hundred_clients_in_the_middle_of_a_message_hold_no_server() {
    let pooler = pooler();
    let neighbour = Neighbour::of(&pooler);
    let halves = halves();
    let mut waiting = Vec::new();
    for (what, bytes) in halves.iter().cycle().take(500) {
        let mut client = Wire::connect(&pooler, "postgres").await;
        client.send(bytes).await;
        waiting.push((*what, client));
    }
    // Those that are served beside them need both servers.
    let mut clients = [
        Wire::connect(&pooler, "postgres").await,
        Wire::connect(&pooler, "postgres").await,
    ];
    for client in &mut clients {
        assert_eq!(client.ask("BEGIN").await, ["C BEGIN", "Z T"]);
    }
    for client in &mut clients {
        assert_eq!(client.ask("COMMIT").await, ["C COMMIT", "Z I"]);
    }
    for (what, client) in &mut waiting {
        if what.ends_with("whole one") || what.ends_with("behind a Query") {
            let answers = client.answers().await;
            assert_eq!(answers.last().map(String::as_str), Some("Z I"), "{what}");
        }
    }
    // Whoever finishes what it began is served.
    let batch = waiting
        .iter_mut()
        .find(|(what, _)| *what == "a batch without Sync behind a Query");
    let (_, client) = batch.unwrap();
    client.send(&wire::sync()).await;
    assert_eq!(
        client.answers().await,
        ["1", "2", "D x", "C SELECT 1", "Z I"]
    );
    neighbour.bid_farewell();
}

#[tokio::test]
async fn a_flood_of_requests_without_an_ear_for_the_answers_makes_nothing_larger() {
    const MOST: usize = 32 << 20;
    const GROWTH_KB: u64 = 10 * 1024;
    let pooler = pooler();
    let neighbour = Neighbour::of(&pooler);
    let parse_and_close = [wire::parse("s", "SELECT 1"), wire::close(b'S', "s")].concat();
    for (what, request) in [
        ("Sync", wire::sync()),
        ("Flush", wire::flush()),
        ("Close", wire::close(b'S', "none")),
        (
            "Close and Flush",
            [wire::close(b'S', "none"), wire::flush()].concat(),
        ),
        (
            "Close and Sync",
            [wire::close(b'S', "none"), wire::sync()].concat(),
        ),
        ("Parse and Close", parse_and_close.clone()),
        (
            "Parse, Close and Flush",
            [parse_and_close, wire::flush()].concat(),
        ),
        ("Describe", wire::describe_target(b'S', "")),
        ("Bind", wire::bind("", &[])),
        ("Execute", wire::execute()),
        ("Query", wire::query("SELECT 1")),
        ("an empty Query", wire::query("")),
        ("DEALLOCATE", wire::query("DEALLOCATE ALL")),
        (
            "a batch",
            [
                wire::parse("", "SELECT 1"),
                wire::bind("", &[]),
                wire::execute(),
                wire::sync(),
            ]
            .concat(),
        ),
        ("COPY data", wire::copy_data(b"x")),
        ("CopyDone", wire::copy_done()),
    ] {
        let mut client = Wire::connect_hard_of_hearing(&pooler, "postgres").await;
        let before = pooler.rss_kb();
        let some = request.repeat(64 * 1024 / request.len());
        let mut sent = 0;
        // Until nobody takes more for a moment.
        while sent < MOST && client.try_send(&some, Duration::from_secs(1)).await {
            sent += some.len();
        }
        let growth = pooler.rss_kb().saturating_sub(before);
        assert!(
            growth <= GROWTH_KB,
            "{what}: {sent} bytes were taken, and it has grown by {growth} KiB"
        );
        drop(client);
        let mut next = Wire::connect(&pooler, "postgres").await;
        assert_eq!(next.scalar("SELECT 'next'").await, "next", "{what}");
    }
    neighbour.bid_farewell();
}
