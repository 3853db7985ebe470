//! Servers that break the protocol, at every point at which it can be broken.

use std::time::Duration;

use tokio::{io::AsyncReadExt as _, task::LocalSet};

use crate::{
    fake_server::{self as fake, FakeServer, Script, Then},
    support::{
        Pgweir, PgweirBuilder,
        wire::{self, Fields, Wire, soon},
    },
};

const MEGABYTE: usize = 1 << 20;
/// What a pooler may grow by, whatever a server sends.
const GROWTH_KB: u64 = 8 * 1024;

fn before(server: &FakeServer) -> PgweirBuilder {
    PgweirBuilder::without_servers()
        .server_at("127.0.0.1", server.port, "primary")
        .pgweir("server_tls_sslmode", "\"disable\"")
        .pool_size(1)
        .pool("server_login_retry", "\"1ms\"")
        .pool("server_connect_timeout", "\"400ms\"")
        .pool("server_recovery_timeout", "\"300ms\"")
}

/// Runs a test that has a server of its own in front of it.
async fn with_server(test: impl AsyncFnOnce(&FakeServer, &Pgweir)) {
    let set = LocalSet::new();
    let run = async {
        let server = FakeServer::start().await;
        let pooler = before(&server).start();
        test(&server, &pooler).await;
        still_works(&pooler).await;
    };
    set.run_until(run).await;
}

async fn client(pooler: &Pgweir) -> Wire {
    Wire::connect(pooler, "postgres").await
}

/// The pool serves whoever comes next, at the latest when it tries again to connect.
async fn still_works(pooler: &Pgweir) {
    let parameters = [("user", "postgres"), ("database", "postgres")];
    let mut client = soon("a login", async {
        loop {
            if let Ok(client) = Wire::try_login(pooler.address(), &parameters).await {
                return client;
            }
        }
    })
    .await;
    assert_eq!(client.scalar("SELECT 'anything'").await, "fake");
    let mut console = Wire::console(pooler).await;
    let pools = console.table("SHOW POOLS").await;
    let pool = pools
        .iter()
        .find(|pool| pool["database"] == "postgres")
        .unwrap();
    let servers: Vec<_> = [
        "cl_waiting",
        "sv_active",
        "sv_idle",
        "sv_tested",
        "sv_login",
    ]
    .iter()
    .map(|column| pool[*column].as_str())
    .collect();
    assert_eq!(servers, ["0", "0", "1", "0", "0"]);
}

#[tokio::test]
async fn a_server_that_dies_between_any_two_bytes_of_a_reply() {
    with_server(async |server, pooler| {
        let reply = fake::reply();
        let row_starts = fake::row_description().len();
        let row_ends = row_starts + fake::row(b"fake").len();
        let mut first = client(pooler).await;
        // The one that the login has made.
        assert_eq!(first.scalar("SELECT 1").await, "fake");
        let mut console = Wire::console(pooler).await;
        assert_eq!(console.ask("RECONNECT").await, ["C RECONNECT", "Z I"]);
        for cut in 0..reply.len() {
            server.next(Script::replying(&reply[..cut], Then::Close));
            let mut client = client(pooler).await;
            client.send(&wire::query("SELECT 1")).await;
            let answers = client.answers().await;
            assert_eq!(server.unplayed(), 0, "cut at {cut}");
            if answers == ["T", "closed"] {
                assert!(
                    (row_starts + 5..row_ends).contains(&cut),
                    "closed, cut at {cut}"
                );
                continue;
            }
            let (whole, told) = answers.split_at(answers.len() - 2);
            assert_eq!(told, ["E ERROR 08006", "Z I"], "cut at {cut}: {answers:?}");
            assert!(
                ["T", "D fake", "C SELECT 1"].starts_with(&to_strs(whole)),
                "{answers:?}"
            );
            assert_eq!(client.scalar("SELECT 1").await, "fake", "cut at {cut}");
            assert_eq!(console.ask("RECONNECT").await, ["C RECONNECT", "Z I"]);
        }
    })
    .await;
}

fn to_strs(strings: &[String]) -> Vec<&str> {
    strings.iter().map(String::as_str).collect()
}

#[tokio::test]
async fn a_server_that_dies_between_any_two_bytes_of_its_greeting() {
    with_server(async |server, pooler| {
        let greeting = fake::greeting();
        for cut in 0..greeting.len() {
            let told = refused(server, pooler, Script::greeting(&greeting[..cut])).await;
            assert_eq!(
                (told.code(), told.severity()),
                ("57P03", "FATAL"),
                "cut at {cut}: {told:?}"
            );
            assert!(
                told.words().contains(&format!("127.0.0.1:{}", server.port)),
                "{told:?}"
            );
        }
    })
    .await;
}

/// What a client is told in whose stead the pooler meets a server that greets like this.
async fn refused(server: &FakeServer, pooler: &Pgweir, script: Script) -> Fields {
    server.next(script);
    // While the pooler waits to try again, it tells about the time before.
    let told = async {
        loop {
            let parameters = [("user", "postgres"), ("database", "postgres")];
            let told = Wire::try_login(pooler.address(), &parameters).await.err();
            if server.unplayed() == 0 {
                return told.unwrap_or_else(|| panic!("let in"));
            }
        }
    };
    soon("a refusal", told).await
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
async fn greetings_that_are_none() {
    with_server(async |server, pooler| {
        let ok = wire::message(b'R', &[0; 4]);
        let status = fake::parameter_status("a", "b");
        for (what, greeting, code) in [
            (
                "another protocol",
                b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
                "57P03",
            ),
            ("zeros", vec![0; 100], "57P03"),
            ("a length of 3", b"R\0\0\0\x03".to_vec(), "57P03"),
            (
                "a length of 2 GB",
                b"R\x7f\xff\xff\xff\0\0\0\0".to_vec(),
                "57P03",
            ),
            (
                "a method that there is not",
                wire::message(b'R', &[0, 0, 0, 99]),
                "57P03",
            ),
            (
                "a password is asked for and there is none",
                wire::message(b'R', &[0, 0, 0, 3]),
                "57P03",
            ),
            (
                "half an authentication",
                wire::message(b'R', &[0, 0]),
                "57P03",
            ),
            ("a row", fake::row(b"x"), "57P03"),
            ("ready before anybody was let in", fake::ready(), "57P03"),
            (
                "ready in a transaction",
                [ok.clone(), wire::message(b'Z', b"T")].concat(),
                "57P03",
            ),
            (
                "a broken parameter",
                [ok.clone(), wire::message(b'S', b"a")].concat(),
                "57P03",
            ),
            (
                "a broken key",
                [ok.clone(), wire::message(b'K', b"\0")].concat(),
                "57P03",
            ),
            (
                "parameters without an end",
                [ok.clone(), status.repeat(MEGABYTE)].concat(),
                "57P03",
            ),
            (
                "notices without an end",
                fake::report(b'N', &["SNOTICE", "C00000", "Mx"]).repeat(MEGABYTE / 4),
                "57P03",
            ),
            (
                "an error",
                fake::report(b'E', &["SFATAL", "C53300", "Msorry"]),
                "53300",
            ),
            (
                "an error without SQLSTATE",
                fake::report(b'E', &["SFATAL", "Msorry"]),
                "08001",
            ),
            (
                "an error with a wrong SQLSTATE",
                fake::report(b'E', &["SFATAL", "Cwrong!", "Msorry"]),
                "08001",
            ),
            (
                "an error without anything",
                fake::report(b'E', &[]),
                "08001",
            ),
            ("an empty error", wire::message(b'E', b""), "08001"),
        ] {
            let told = refused(server, pooler, Script::greeting(greeting)).await;
            assert_eq!(
                (told.code(), told.severity()),
                (code, "FATAL"),
                "{what}: {told:?}"
            );
            assert!(!told.field('M').is_empty(), "{what}: {told:?}");
            assert!(
                told.words().contains(&format!("127.0.0.1:{}", server.port)),
                "{what}: {told:?}"
            );
        }
        // Silence: server_connect_timeout.
        let silence = Script {
            greeting: ok,
            ..Script::well_behaved()
        };
        let told = refused(server, pooler, silence).await;
        assert_eq!(told.code(), "57P03", "{told:?}");
        assert!(told.words().contains("server_connect_timeout"), "{told:?}");
    })
    .await;
}

#[tokio::test]
async fn replies_that_are_none() {
    with_server(async |server, pooler| {
        let zeros = Then::Flood(vec![0; 64 * 1024]);
        let lie = |kind: u8| [&[kind][..], &[0x7f, 0xff, 0xff, 0xff]].concat();
        let mut first = client(pooler).await;
        assert_eq!(first.scalar("SELECT 1").await, "fake");
        let before = pooler.rss_kb();
        let mut console = Wire::console(pooler).await;
        for (what, reply, then) in [
            (
                "another protocol",
                b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
                Then::Listen,
            ),
            ("zeros", vec![0; 100], zeros.clone()),
            ("a length of 3", b"T\0\0\0\x03".to_vec(), Then::Listen),
            (
                "a length of 4 GB",
                b"T\xff\xff\xff\xff".to_vec(),
                Then::Listen,
            ),
            ("completed by 2 GB", lie(b'C'), zeros.clone()),
            ("ready by 2 GB", lie(b'Z'), zeros.clone()),
            ("a parameter of 2 GB", lie(b'S'), zeros.clone()),
            (
                "an unknown message",
                wire::message(b'q', b"x"),
                Then::Listen,
            ),
            (
                "ready for what there is not",
                [
                    fake::row_description(),
                    fake::complete(),
                    wire::message(b'Z', b"X"),
                ]
                .concat(),
                Then::Listen,
            ),
            ("ready for nothing", wire::message(b'Z', b""), Then::Listen),
            (
                "an answer to what was not asked",
                wire::message(b'1', b""),
                Then::Listen,
            ),
            ("a greeting", fake::greeting(), Then::Listen),
            (
                "another version",
                wire::message(b'v', &[0; 8]),
                Then::Listen,
            ),
            (
                "a broken parameter",
                wire::message(b'S', b"a"),
                Then::Listen,
            ),
            (
                "completed by nothing",
                wire::message(b'C', b""),
                Then::Listen,
            ),
        ] {
            assert_eq!(console.ask("RECONNECT").await, ["C RECONNECT", "Z I"]);
            server.next(Script::replying(reply, then));
            let mut client = client(pooler).await;
            let answers = client.ask("SELECT 1").await;
            assert_eq!(server.unplayed(), 0, "{what}");
            let told: Vec<_> = answers
                .iter()
                .filter(|answer| !["T", "C SELECT 1"].contains(&answer.as_str()))
                .collect();
            assert_eq!(told, ["E ERROR 08P01", "Z I"], "{what}");
            assert_eq!(client.scalar("SELECT 1").await, "fake", "{what}");
        }
        let growth = pooler.peak_rss_kb().saturating_sub(before);
        assert!(growth <= GROWTH_KB, "the pooler has grown by {growth} KiB");
    })
    .await;
}

#[tokio::test]
async fn errors_that_lack_what_an_error_has() {
    with_server(async |server, pooler| {
        let mut first = client(pooler).await;
        assert_eq!(first.scalar("SELECT 1").await, "fake");
        let mut console = Wire::console(pooler).await;
        let ready = fake::ready();
        for (what, error, expected) in [
            (
                "without SQLSTATE",
                fake::report(b'E', &["SERROR", "Msorry"]),
                "E ERROR",
            ),
            ("without anything", fake::report(b'E', &[]), "E"),
            (
                "of one field without an end",
                wire::message(b'E', b"SERROR"),
                "E ERROR",
            ),
            (
                "fatal, without SQLSTATE",
                fake::report(b'E', &["SFATAL", "Msorry"]),
                "E ERROR 08006",
            ),
            (
                "fatal, without a message",
                fake::report(b'E', &["SFATAL", "C57P01"]),
                "E ERROR 57P01",
            ),
            (
                "panic",
                fake::report(b'E', &["SPANIC", "VPANIC", "CXX000", "Mthe end"]),
                "E ERROR XX000",
            ),
        ] {
            assert_eq!(console.ask("RECONNECT").await, ["C RECONNECT", "Z I"]);
            server.next(Script::replying(
                [error, ready.clone()].concat(),
                Then::Listen,
            ));
            let mut client = client(pooler).await;
            assert_eq!(client.ask("SELECT 1").await, [expected, "Z I"], "{what}");
            assert_eq!(server.unplayed(), 0, "{what}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_comes_out_of_turn_reaches_nobody_else() {
    with_server(async |server, pooler| {
        let mut first = client(pooler).await;
        assert_eq!(first.scalar("SELECT 1").await, "fake");
        let mut console = Wire::console(pooler).await;
        let good = fake::reply();
        let notice = fake::report(b'N', &["SNOTICE", "C00000", "Mhello"]);
        for (what, behind, then) in [
            ("ready again", fake::ready(), Then::Listen),
            ("another answer", good.clone(), Then::Listen),
            ("half an answer", good[..20].to_vec(), Then::Listen),
            ("a row", fake::row(b"of somebody else"), Then::Listen),
            (
                "an error",
                fake::report(b'E', &["SERROR", "CXX000", "Mtoo late"]),
                Then::Listen,
            ),
            (
                "a farewell",
                fake::report(b'E', &["SFATAL", "C57P01", "Mbye"]),
                Then::Close,
            ),
            ("many notices", notice.repeat(500), Then::Listen),
            ("garbage", vec![0; 10], Then::Listen),
        ] {
            assert_eq!(console.ask("RECONNECT").await, ["C RECONNECT", "Z I"]);
            server.next(Script::replying([&good[..], &behind].concat(), then));
            let mut client = client(pooler).await;
            let whole = ["T", "D fake", "C SELECT 1", "Z I"];
            assert_eq!(client.ask("SELECT 1").await, whole, "{what}");
            assert_eq!(server.unplayed(), 0, "{what}");
            let mut next = self::client(pooler).await;
            assert_eq!(next.ask("SELECT 2").await, whole, "{what}");
            assert_eq!(client.ask("SELECT 3").await, whole, "{what}");
        }
        // An early ReadyForQuery is believed; the answer that comes behind it is nobody's.
        assert_eq!(console.ask("RECONNECT").await, ["C RECONNECT", "Z I"]);
        server.next(Script::replying(
            [fake::ready(), good].concat(),
            Then::Listen,
        ));
        let mut client = client(pooler).await;
        assert_eq!(client.ask("SELECT 1").await, ["Z I"]);
        assert_eq!(client.scalar("SELECT 1").await, "fake");
    })
    .await;
}

#[tokio::test]
async fn floods_make_the_pooler_no_larger() {
    with_server(async |server, pooler| {
        let mut first = client(pooler).await;
        assert_eq!(first.scalar("SELECT 1").await, "fake");
        let before = pooler.rss_kb();
        let mut console = Wire::console(pooler).await;
        let many = |make: &dyn Fn(usize) -> Vec<u8>| (0..2000).flat_map(make).collect::<Vec<_>>();
        let value = "x".repeat(100);
        for (what, flood) in [
            ("rows", fake::row(&[b'x'; 1000]).repeat(50)),
            (
                "notices",
                fake::report(b'N', &["SNOTICE", "C00000", &format!("M{value}")]).repeat(50),
            ),
            (
                "parameters",
                many(&|n| fake::parameter_status(&format!("parameter_{n}"), &value)),
            ),
            (
                "notifications",
                wire::message(b'A', b"\0\0\0\x01channel\0payload\0").repeat(50),
            ),
            (
                "results",
                [fake::row_description(), fake::row(b"x"), fake::complete()]
                    .concat()
                    .repeat(50),
            ),
            (
                "one row that never ends",
                [&b"D\x7f\xff\xff\xff"[..], &[0; 64 * 1024]].concat(),
            ),
        ] {
            assert_eq!(console.ask("RECONNECT").await, ["C RECONNECT", "Z I"]);
            server.next(Script::replying(Vec::new(), Then::Flood(flood)));
            let mut client = client(pooler).await;
            client.send(&wire::query("SELECT 1")).await;
            let mut taken = vec![0; MEGABYTE];
            for _ in 0..16 {
                soon(what, client.reader.read_exact(&mut taken))
                    .await
                    .unwrap();
            }
            assert_eq!(server.unplayed(), 0, "{what}");
            drop(client);
            let mut next = self::client(pooler).await;
            assert_eq!(next.scalar("SELECT 1").await, "fake", "behind {what}");
        }
        let growth = pooler.peak_rss_kb().saturating_sub(before);
        assert!(growth <= GROWTH_KB, "the pooler has grown by {growth} KiB");
    })
    .await;
}

#[tokio::test]
async fn a_server_that_says_nothing_at_all_is_given_up() {
    let set = LocalSet::new();
    let run = async {
        let server = FakeServer::start().await;
        let pooler = before(&server).pool("query_timeout", "\"300ms\"").start();
        let mut first = client(&pooler).await;
        assert_eq!(first.scalar("SELECT 1").await, "fake");
        let mut console = Wire::console(&pooler).await;
        assert_eq!(console.ask("RECONNECT").await, ["C RECONNECT", "Z I"]);
        server.next(Script::replying(Vec::new(), Then::Listen));
        let mut client = client(&pooler).await;
        let told = client.refusal("SELECT 1").await;
        assert_eq!(
            (told.code(), told.severity()),
            ("57014", "FATAL"),
            "{told:?}"
        );
        assert!(told.words().contains("query_timeout"), "{told:?}");
        assert_eq!(client.answer().await, "closed");
        soon("the pool is free again", async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            still_works(&pooler).await;
        })
        .await;
    };
    set.run_until(run).await;
}
