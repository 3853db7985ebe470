//! How commands are asked for and answered: both protocols, on the wire.

use super::{
    super::test_console::{Peer, Reply, TestConsole, on_a_worker},
    *,
};
use crate::protocol::BackendTag;

/// A message with a tag; `body` as on the wire.
fn message(tag: FrontendTag, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("small");
    [&[tag.byte()], &length.to_be_bytes()[..], body].concat()
}

fn parse(name: &str, text: &str) -> Vec<u8> {
    let body = format!("{name}\0{text}\0\0\0");
    message(FrontendTag::Parse, body.as_bytes())
}

/// A Bind of the unnamed portal with these result formats and no parameters.
fn bind(statement: &str, formats: &[u16]) -> Vec<u8> {
    let count = u16::try_from(formats.len()).expect("few");
    let words = [&[0, 0, count], formats].concat();
    let words = words.iter().flat_map(|word| word.to_be_bytes());
    let body: Vec<u8> = format!("\0{statement}\0").bytes().chain(words).collect();
    message(FrontendTag::Bind, &body)
}

fn describe(target: &str) -> Vec<u8> {
    message(FrontendTag::Describe, format!("{target}\0").as_bytes())
}

fn execute(rows: u32) -> Vec<u8> {
    message(
        FrontendTag::Execute,
        &[&[0], &rows.to_be_bytes()[..]].concat(),
    )
}

fn sync() -> Vec<u8> {
    message(FrontendTag::Sync, &[])
}

async fn send(peer: &mut Peer, messages: &[Vec<u8>]) -> Vec<Reply> {
    peer.send(&messages.concat()).await;
    peer.until_ready().await
}

/// Tags of what cannot be compared as a whole.
fn tags(replies: &[Reply]) -> Vec<BackendTag> {
    let tag = |reply: &Reply| match reply {
        Reply::Error(..) => BackendTag::ErrorResponse,
        Reply::Notice(_) => BackendTag::NoticeResponse,
        Reply::Row(_) => BackendTag::DataRow,
        Reply::Complete(_) => BackendTag::CommandComplete,
        Reply::Ready => BackendTag::ReadyForQuery,
        Reply::Other(tag, _) => *tag,
    };
    replies.iter().map(tag).collect()
}

#[test]
fn the_welcome_is_pgbouncers() {
    let mut out = Vec::new();
    on_a_worker(async {
        let test = TestConsole::new();
        let psql = test.connect("root").await;
        assert!(
            psql.key.0 < 0 && psql.key.1.len() == 4,
            "never the key of a client"
        );
        let record = &test.console.sessions.all()[0];
        greet(&mut out, record);
        assert!(out.ends_with(b"Z\0\0\0\x05I"));
    });
    let expected = b"S\0\0\0\x22server_version\x001.25.2/bouncer\0\
        S\0\0\0\x19client_encoding\0UTF8\0S\0\0\0\x19server_encoding\0UTF8\0\
        S\0\0\0\x12DateStyle\0ISO\0S\0\0\0\x11TimeZone\0GMT\0\
        S\0\0\0\x23standard_conforming_strings\0on\0S\0\0\0\x14is_superuser\0on\0K";
    let welcome = &out[..expected.len()];
    assert_eq!(
        welcome.escape_ascii().to_string(),
        expected.escape_ascii().to_string()
    );
}

#[test]
fn unknown_commands_have_the_code_that_tools_know_a_console_by() {
    on_a_worker(async {
        let test = TestConsole::new();
        let mut psql = test.connect("monitor").await;
        for text in [
            "SELECT 1",
            "SELECT version()",
            "SHOW FDS",
            "SHOW x",
            "nonsense",
        ] {
            let expected = format!("invalid command '{text}', use SHOW HELP;");
            assert_eq!(psql.query(text).await, [Reply::error("08P01", &expected)]);
        }
    });
}

#[test]
fn what_drivers_send_by_habit_is_accepted() {
    on_a_worker(async {
        let test = TestConsole::new();
        let mut psql = test.connect("monitor").await;
        for text in ["", ";", "-- ping", "/* ping */ ;"] {
            let empty = Reply::empty(BackendTag::EmptyQueryResponse);
            assert_eq!(psql.query(text).await, [empty], "{text}");
        }
        for text in [
            "SET extra_float_digits = 3",
            "SET client_encoding TO 'UTF8'",
        ] {
            let expected = [
                Reply::Notice("SET ignored".to_owned()),
                Reply::complete("SET"),
            ];
            assert_eq!(psql.query(text).await, expected);
        }
        for (text, tag) in [
            ("BEGIN", "BEGIN"),
            ("COMMIT", "COMMIT"),
            ("ABORT;", "ROLLBACK"),
        ] {
            assert_eq!(psql.query(text).await, [Reply::complete(tag)]);
        }
    });
}

#[test]
fn help_is_a_notice() {
    on_a_worker(async {
        let test = TestConsole::new();
        let mut psql = test.connect("monitor").await;
        let expected = [
            Reply::Notice("Console usage".to_owned()),
            Reply::complete("SHOW"),
        ];
        assert_eq!(psql.query("SHOW HELP").await, expected);
    });
    for view in show::VIEWS.iter().filter(|view| view.columns.len() > 1) {
        assert!(
            show::HELP.contains(&view.name.to_uppercase()),
            "{}",
            view.name
        );
    }
}

#[test]
fn the_extended_protocol_answers_what_the_simple_one_does() {
    on_a_worker(async {
        let test = TestConsole::new();
        let mut psql = test.connect("monitor").await;
        let simple = psql.query("SHOW STATE").await;
        let extended = [
            parse("", "SHOW STATE"),
            bind("", &[]),
            describe("P"),
            execute(0),
            sync(),
        ];
        let replies = send(&mut psql, &extended).await;
        let complete = [BackendTag::ParseComplete, BackendTag::BindComplete];
        assert_eq!(replies[..2], complete.map(Reply::empty));
        assert_eq!(replies[2..], simple);
        // As pgx, tokio-postgres and JDBC do it: prepared and described first, bound later.
        let prepared = send(
            &mut psql,
            &[parse("s1", "SHOW STATE"), describe("Ss1"), sync()],
        )
        .await;
        assert_eq!(
            prepared[1],
            Reply::Other(BackendTag::ParameterDescription, vec![0, 0])
        );
        assert_eq!(prepared[2], simple[0]);
        for _ in 0..2 {
            let replies = send(&mut psql, &[bind("s1", &[0]), execute(0), sync()]).await;
            assert_eq!(replies[1..], simple[1..]);
        }
        let reply = send(&mut psql, &[parse("s1", "SHOW STATE"), sync()]).await;
        let exists = "prepared statement \"s1\" already exists";
        assert_eq!(reply, [Reply::error("42P05", exists)]);
        let close = message(FrontendTag::Close, b"Ss1\0");
        let replies = send(&mut psql, &[close, bind("s1", &[]), sync()]).await;
        let gone = Reply::error("26000", "prepared statement \"s1\" does not exist");
        assert_eq!(replies, [Reply::empty(BackendTag::CloseComplete), gone]);
    });
}

#[test]
fn commands_without_a_result_and_empty_ones_in_the_extended_protocol() {
    on_a_worker(async {
        let test = TestConsole::new();
        let mut psql = test.connect("root").await;
        let run = |text| {
            [
                parse("", text),
                bind("", &[1]),
                describe("P"),
                execute(0),
                sync(),
            ]
        };
        let replies = send(&mut psql, &run("PAUSE")).await;
        assert_eq!(
            replies[2..],
            [Reply::empty(BackendTag::NoData), Reply::complete("PAUSE")]
        );
        assert!(test.console.pools.is_paused(None));
        let replies = send(&mut psql, &run("RESUME")).await;
        assert_eq!(replies[3], Reply::complete("RESUME"));
        let replies = send(&mut psql, &run("-- ping")).await;
        assert_eq!(replies[3], Reply::empty(BackendTag::EmptyQueryResponse));
    });
}

#[test]
fn results_are_binary_where_bind_asks_for_it() {
    on_a_worker(async {
        let test = TestConsole::new();
        let mut psql = test.connect("monitor").await;
        let run = |formats: &[u16]| {
            [
                parse("", "SHOW LISTS"),
                bind("", formats),
                describe("P"),
                execute(1),
                sync(),
            ]
        };
        let replies = send(&mut psql, &run(&[1])).await;
        let Reply::Other(BackendTag::RowDescription, columns) = &replies[2] else {
            panic!("{replies:?}")
        };
        assert!(
            columns.ends_with(&[0, 4, 0xff, 0xff, 0xff, 0xff, 0, 1]),
            "int4 in binary"
        );
        let two = Reply::Row(vec![
            Some("databases".to_owned()),
            Some("\0\0\0\x02".to_owned()),
        ]);
        assert_eq!(replies[3], two);
        let replies = send(&mut psql, &run(&[1, 0])).await;
        let two = Reply::Row(vec![Some("databases".to_owned()), Some("2".to_owned())]);
        assert_eq!(replies[3], two);
        for formats in [&[0, 0, 0][..], &[2]] {
            let replies = send(&mut psql, &run(formats)).await;
            let last = [BackendTag::ParseComplete, BackendTag::ErrorResponse];
            assert_eq!(tags(&replies), last, "{formats:?}");
        }
    });
}

#[test]
fn a_portal_gives_its_rows_in_parts() {
    on_a_worker(async {
        let test = TestConsole::new();
        let mut psql = test.connect("monitor").await;
        let head = [parse("", "SHOW STATE"), bind("", &[])];
        let tail = [execute(2), execute(2), execute(2), sync()];
        let replies = send(&mut psql, &[&head[..], &tail].concat()).await;
        use BackendTag::{CommandComplete, DataRow, ErrorResponse, PortalSuspended};
        assert_eq!(
            tags(&replies)[2..],
            [
                DataRow,
                DataRow,
                PortalSuspended,
                DataRow,
                CommandComplete,
                ErrorResponse
            ]
        );
        let replies = send(&mut psql, &[execute(0), sync()]).await;
        assert_eq!(
            replies,
            [Reply::error("34000", "portal \"\" does not exist")]
        );
    });
}

#[test]
fn an_error_voids_everything_up_to_sync() {
    on_a_worker(async {
        let test = TestConsole::new();
        let mut psql = test.connect("root").await;
        let voided = [
            parse("", "SELECT 1"),
            bind("", &[]),
            execute(0),
            message(FrontendTag::Query, b"PAUSE\0"),
            sync(),
        ];
        let replies = send(&mut psql, &voided).await;
        let unknown = "invalid command 'SELECT 1', use SHOW HELP;";
        assert_eq!(replies, [Reply::error("08P01", unknown)]);
        assert!(!test.console.pools.is_paused(None));
        assert_eq!(psql.lines("SHOW datestyle").await, ["ISO"]);
    });
}

#[test]
fn parameters_are_refused() {
    on_a_worker(async {
        let test = TestConsole::new();
        let mut psql = test.connect("root").await;
        let with_one = message(FrontendTag::Bind, b"\0\0\0\0\0\x01\0\0\0\x01x\0\0");
        let replies = send(&mut psql, &[parse("", "SHOW STATE"), with_one, sync()]).await;
        let refused = Reply::error("08P01", "console commands take no parameters");
        assert_eq!(replies[1], refused);
    });
}

#[test]
fn a_client_cannot_make_the_console_grow() {
    on_a_worker(async {
        let test = TestConsole::new();
        let mut psql = test.connect("monitor").await;
        let many: Vec<_> = (0..200)
            .map(|n| parse(&format!("s{n}"), "SHOW STATE"))
            .collect();
        let replies = send(&mut psql, &[many.concat(), sync()]).await;
        assert!(matches!(replies.last(), Some(Reply::Error(state, _)) if state == "54000"));
        let long = parse(&"n".repeat(1000), "SHOW STATE");
        let replies = send(&mut psql, &[long, sync()]).await;
        assert!(matches!(&replies[..], [Reply::Error(state, _)] if state == "54000"));
        // The header is refused; the body is never waited for.
        psql.send(b"Q\0\x02\0\0SHOW").await;
        assert!(matches!(psql.next().await, Some(Reply::Error(state, _)) if state == "08P01"));
        assert_eq!(psql.next().await, None);
    });
}

#[test]
fn malformed_messages_cost_their_sender_an_error() {
    on_a_worker(async {
        let test = TestConsole::new();
        for (bytes, closes) in [
            (message(FrontendTag::Query, b"SHOW STATE"), false),
            (message(FrontendTag::Query, b"SHOW\0STATE\0"), false),
            (message(FrontendTag::Query, b"SHOW \xff\0"), false),
            (message(FrontendTag::FunctionCall, b"\0\0\0\x01"), false),
            ([message(FrontendTag::Parse, b""), sync()].concat(), false),
            ([message(FrontendTag::Bind, b"\0"), sync()].concat(), false),
            (
                [message(FrontendTag::Execute, b"\0\0"), sync()].concat(),
                false,
            ),
            (
                [message(FrontendTag::Describe, b"X\0"), sync()].concat(),
                false,
            ),
            (
                [message(FrontendTag::Password, b"x\0"), sync()].concat(),
                false,
            ),
            (b"!\0\0\0\x04".to_vec(), true),
            (b"Q\0\0\0\x03".to_vec(), true),
        ] {
            let mut psql = test.connect("monitor").await;
            psql.send(&bytes).await;
            let reply = psql.next().await;
            assert!(
                matches!(&reply, Some(Reply::Error(state, _)) if state == "08P01"),
                "{reply:?} to {}",
                bytes.escape_ascii()
            );
            if closes {
                assert_eq!(psql.next().await, None);
            } else {
                assert_eq!(psql.next().await, Some(Reply::Ready));
                assert_eq!(psql.lines("SHOW datestyle").await, ["ISO"]);
            }
        }
    });
}

#[test]
fn a_long_table_is_made_as_it_is_read() {
    on_a_worker(async {
        let test = TestConsole::new();
        let clients: Vec<_> = (0..5000).map(|_| test.client("app", "alice")).collect();
        let mut psql = test.connect("monitor").await;
        psql.ask("SHOW CLIENTS").await;
        psql.next().await.expect("the header");
        // Far behind what the socket holds: its row cannot have been made yet.
        let (last, _) = clients.last().expect("5000 of them");
        last.set_state(crate::pool::ClientState::Waiting);
        let replies = psql.until_ready().await;
        let Reply::Row(row) = &replies[clients.len() - 1] else {
            panic!("not a row")
        };
        assert_eq!(row[4].as_deref(), Some("waiting"));
    });
}

#[test]
fn a_long_table_is_sent_in_parts_and_a_reader_that_left_ends_it() {
    on_a_worker(async {
        let test = TestConsole::new();
        let clients: Vec<_> = (0..5000).map(|_| test.client("app", "alice")).collect();
        let mut psql = test.connect("monitor").await;
        assert_eq!(psql.rows("SHOW CLIENTS").await.len(), clients.len() + 1);
        psql.ask("SHOW CLIENTS").await;
        let first = psql.next().await;
        assert!(matches!(
            first,
            Some(Reply::Other(BackendTag::RowDescription, _))
        ));
        let served = psql.close();
        assert!(
            served.await.expect("no panic").is_err(),
            "the rest was not sent"
        );
        assert_eq!(test.console.sessions.count(), 0);
    });
}

#[test]
fn pipelined_commands_are_answered_in_order() {
    on_a_worker(async {
        let test = TestConsole::new();
        let mut psql = test.connect("root").await;
        let commands = ["SHOW datestyle", "PAUSE", "SHOW STATE", "RESUME"];
        for text in commands {
            psql.ask(text).await;
        }
        let mut seen = Vec::new();
        for _ in commands {
            seen.extend(psql.until_ready().await.pop());
        }
        let expected = ["SHOW", "PAUSE", "SHOW", "RESUME"].map(Reply::complete);
        assert_eq!(seen, expected);
        psql.send(&message(FrontendTag::Terminate, &[])).await;
        assert_eq!(psql.next().await, None);
    });
}
