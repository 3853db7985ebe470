use std::cell::Cell;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::*;
use crate::client::auth_query::AuthQueryFailure;
use crate::config::AuthQuery;
use crate::protocol::backend::ErrorFields;
use crate::protocol::{SqlState, frame, startup as packet};
use crate::server::Found;

const SCRAM: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

/// `alice` with a verifier of "pencil", `bob` with that password in plain, and one database, `app`.
pub(super) fn config(process: &str) -> Config {
    let text = format!(
        "[pgweir]\nadmin_users = [\"alice\"]\nstats_users = [\"bob\"]\n{process}\n\
         [databases.app]\nservers = [{{ host = \"127.0.0.1\", port = 5432 }}]\n\
         [users.alice]\npassword = \"{SCRAM}\"\n[users.bob]\npassword = \"pencil\"\n"
    );
    let parsed = Config::parse(&text, Path::new(""), &|_| None);
    parsed.unwrap_or_else(|error| panic!("{error:?}"))
}

fn tcp() -> Peer {
    Peer::Tcp("192.0.2.1:4711".parse().unwrap())
}

struct Surroundings {
    config: Config,
    peer: Peer,
    hba: Option<Rules>,
    ident: IdentMaps,
    derivations: Derivations,
    answers: AuthQueryCache,
    own_uid: u32,
}

impl Surroundings {
    fn new(process: &str) -> Self {
        Self {
            config: config(process),
            peer: tcp(),
            hba: None,
            ident: IdentMaps::default(),
            derivations: Derivations::new(10, 1, [0; 32]),
            answers: AuthQueryCache::default(),
            own_uid: 12345,
        }
    }

    fn context(&self) -> LoginContext<'_> {
        LoginContext {
            peer: self.peer,
            config: &self.config,
            hba: self.hba.as_ref(),
            ident: &self.ident,
            acceptor: None,
            mock_key: [3; 32],
            max_iterations: 10_000,
            derivations: &self.derivations,
            answers: &self.answers,
            secret_source: None,
            own_uid: self.own_uid,
        }
    }
}

/// Sends these bytes, and nothing more, and reads all that is answered.
async fn said(surroundings: &Surroundings, sent: &[u8]) -> (Result<Login, LoginError>, Vec<u8>) {
    said_in(&surroundings.context(), sent).await
}

async fn said_in(context: &LoginContext<'_>, sent: &[u8]) -> (Result<Login, LoginError>, Vec<u8>) {
    let (mut theirs, ours) = UnixStream::pair().unwrap();
    theirs.write_all(sent).await.unwrap();
    theirs.shutdown().await.unwrap();
    let outcome = login(ours.into(), context).await;
    let mut answer = Vec::new();
    let mut drop_first = Some(outcome);
    // What was let in holds the connection open; it has nothing more to say.
    if let Some(Err(_)) = &drop_first {
        theirs.read_to_end(&mut answer).await.unwrap();
    }
    (drop_first.take().unwrap(), answer)
}

fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    let parameters = parameters.iter();
    let parameters = parameters.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    packet::startup_message(ProtocolVersion::V3_0, parameters)
}

fn alice() -> Vec<u8> {
    startup(&[("user", "alice"), ("database", "app")])
}

/// The code and words of the error that ends `answer`.
fn refusal(mut answer: &[u8]) -> (SqlState, String) {
    loop {
        let message = frame::backend(answer).unwrap().expect("an ErrorResponse");
        if message.tag == crate::protocol::BackendTag::ErrorResponse {
            let fields = ErrorFields::read(message.body());
            assert_eq!(fields.severity, b"FATAL");
            assert_eq!(message.size, answer.len(), "nothing follows the last words");
            let text = String::from_utf8(fields.message.to_vec()).unwrap();
            return (fields.sqlstate.unwrap(), text);
        }
        answer = &answer[message.size..];
    }
}

async fn refused(surroundings: &Surroundings, sent: &[u8]) -> (SqlState, String) {
    let (outcome, answer) = said(surroundings, sent).await;
    let error = outcome.expect_err("let in");
    let (sqlstate, text) = refusal(&answer);
    assert_eq!(sqlstate, error.failure.sqlstate());
    (sqlstate, text)
}

const TRUST: &str = "auth_type = \"trust\"";

#[tokio::test]
async fn a_session_begins_with_what_its_startup_packet_says() {
    let surroundings = Surroundings::new(TRUST);
    let mut sent = startup(&[
        ("user", "alice"),
        ("database", "app"),
        ("application_name", "direct"),
        (
            "options",
            "-c geqo=off --application-name=by\\ options -csearch_path=a,b",
        ),
        ("DateStyle", "ISO, MDY"),
    ]);
    sent.extend_from_slice(b"Q\0\0\0\x0aearly");
    let (outcome, _) = said(&surroundings, &sent).await;
    let Ok(Login::Session(client, database)) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(
        (client.user.as_str(), database.name.as_str()),
        ("alice", "app")
    );
    assert_eq!(client.received, &b"Q\0\0\0\x0aearly"[..]);
    assert_eq!(client.owed, b"R\0\0\0\x08\0\0\0\0");
    let settings: Vec<_> = client.settings.iter().collect();
    let expected: [(&[u8], &[u8]); 4] = [
        (b"application_name", b"direct"),
        (b"datestyle", b"ISO, MDY"),
        (b"geqo", b"off"),
        (b"search_path", b"a,b"),
    ];
    assert_eq!(settings, expected);
    assert_eq!(client.replication, None);
}

#[tokio::test]
async fn requests_before_the_startup_packet_come_once_each() {
    const SSL: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
    const GSS: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 48];
    let surroundings = Surroundings::new(TRUST);
    let context = surroundings.context();
    // In their turn, each waiting for its answer.
    let (mut theirs, ours) = UnixStream::pair().unwrap();
    let client = async {
        for request in [GSS, SSL] {
            theirs.write_all(&request).await.unwrap();
            assert_eq!(theirs.read_u8().await.unwrap(), b'N');
        }
        theirs.write_all(&alice()).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(login(ours.into(), &context), client);
    assert!(matches!(outcome, Ok(Login::Session(..))), "{outcome:?}");

    for request in [SSL, GSS] {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        let client = async {
            theirs.write_all(&request).await.unwrap();
            assert_eq!(theirs.read_u8().await.unwrap(), b'N');
            theirs.write_all(&request).await.unwrap();
            let mut answer = Vec::new();
            theirs.read_to_end(&mut answer).await.unwrap();
            refusal(&answer)
        };
        let (outcome, (sqlstate, text)) = tokio::join!(login(ours.into(), &context), client);
        assert!(matches!(
            outcome.unwrap_err().failure,
            LoginFailure::Repeated(_)
        ));
        assert_eq!(sqlstate, SqlState::PROTOCOL_VIOLATION);
        assert!(text.ends_with("where none may come"), "{text}");

        // What follows in the same packet did not wait for the answer.
        let (sqlstate, text) = refused(&surroundings, &[&request[..], &alice()].concat()).await;
        assert_eq!(sqlstate, SqlState::PROTOCOL_VIOLATION);
        assert!(
            text.starts_with("received unencrypted data after"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_cancel_request_is_handed_on() {
    let surroundings = Surroundings::new(TRUST);
    for secret in [&b"abcd"[..], &[7; 32], &[7; 256]] {
        let (outcome, _) = said(&surroundings, &packet::cancel_request(-3, secret)).await;
        let Ok(Login::Cancel {
            process_id,
            secret: told,
            ..
        }) = outcome
        else {
            panic!("{outcome:?}");
        };
        assert_eq!((process_id, &told[..]), (-3, secret));
    }
    for bad in [&b""[..], b"abc", &[7; 257]] {
        let (sqlstate, _) = refused(&surroundings, &packet::cancel_request(-3, bad)).await;
        assert_eq!(sqlstate, SqlState::PROTOCOL_VIOLATION);
    }
}

#[tokio::test]
async fn garbage_gets_a_clear_error() {
    let surroundings = Surroundings::new(TRUST);
    for (sent, sqlstate, words) in [
        (
            &b"\0\0\0\0"[..],
            SqlState::PROTOCOL_VIOLATION,
            "invalid message length 0",
        ),
        (
            b"\0\0\0\x07abc",
            SqlState::PROTOCOL_VIOLATION,
            "invalid message length 7",
        ),
        (
            b"\0\0\x27\x11",
            SqlState::PROTOCOL_VIOLATION,
            "invalid message length 10001",
        ),
        (
            b"\x7f\xff\xff\xff",
            SqlState::PROTOCOL_VIOLATION,
            "invalid message length 2147483647",
        ),
        (
            b"GET / HTTP/1.1\r\n\r\n",
            SqlState::PROTOCOL_VIOLATION,
            "invalid message length",
        ),
        (
            b"\x16\x03\x01\x02\0\x01",
            SqlState::PROTOCOL_VIOLATION,
            "without TLS being configured",
        ),
        (
            b"\0\0\0\x08\0\x02\0\0",
            SqlState::FEATURE_NOT_SUPPORTED,
            "protocol 2.0",
        ),
        (
            b"\0\0\0\x08\0\x04\0\0",
            SqlState::FEATURE_NOT_SUPPORTED,
            "protocol 4.0",
        ),
        (
            b"\0\0\0\x08\0\x03\0\0",
            SqlState::PROTOCOL_VIOLATION,
            "malformed startup packet",
        ),
        (
            b"\0\0\0\x09\0\x03\0\0\0",
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            "no PostgreSQL user name",
        ),
        (
            b"\0\0\0\x0a\0\x03\0\0\0\0",
            SqlState::PROTOCOL_VIOLATION,
            "malformed startup packet",
        ),
        (
            b"\0\0\0\x0e\0\x03\0\0user\0x",
            SqlState::PROTOCOL_VIOLATION,
            "malformed startup packet",
        ),
        (
            b"\0\0\0\x10\0\x03\0\0user\0\xff\0\0",
            SqlState::PROTOCOL_VIOLATION,
            "\"user\" is not UTF-8",
        ),
        (
            b"\0\0\0\x10\0\x03\0\0us",
            SqlState::PROTOCOL_VIOLATION,
            "in the middle of a message",
        ),
    ] {
        let (code, text) = refused(&surroundings, sent).await;
        assert_eq!(code, sqlstate, "{sent:?}: {text}");
        assert!(text.contains(words), "{sent:?}: {text}");
    }
    let (outcome, answer) = said(&surroundings, b"").await;
    assert!(
        outcome.unwrap_err().failure.is_departure(),
        "a port scan is no error"
    );
    assert_eq!(answer, b"");
}

#[tokio::test]
async fn malformed_parameters_get_a_clear_error() {
    let surroundings = Surroundings::new(TRUST);
    for (name, value, sqlstate, words) in [
        (
            "options",
            "-c",
            SqlState::SYNTAX_ERROR,
            "lacks its name=value",
        ),
        ("options", "-cfoo", SqlState::SYNTAX_ERROR, "lacks a value"),
        (
            "options",
            "-c=",
            SqlState::UNDEFINED_OBJECT,
            "invalid parameter name \"\"",
        ),
        (
            "options",
            "--=",
            SqlState::UNDEFINED_OBJECT,
            "invalid parameter name \"\"",
        ),
        (
            "options",
            "-c =x",
            SqlState::UNDEFINED_OBJECT,
            "invalid parameter name \"\"",
        ),
        (
            "options",
            "-",
            SqlState::FEATURE_NOT_SUPPORTED,
            "\"-\" in the startup parameter",
        ),
        (
            "bad name",
            "x",
            SqlState::UNDEFINED_OBJECT,
            "parameter \"bad name\"",
        ),
        (
            "replication",
            "maybe",
            SqlState::INVALID_PARAMETER_VALUE,
            "\"replication\": \"maybe\"",
        ),
        (
            "replication",
            "o",
            SqlState::INVALID_PARAMETER_VALUE,
            "\"replication\": \"o\"",
        ),
    ] {
        let sent = startup(&[("user", "alice"), ("database", "app"), (name, value)]);
        let (code, text) = refused(&surroundings, &sent).await;
        assert_eq!(code, sqlstate, "{value}: {text}");
        assert!(text.contains(words), "{value}: {text}");
    }
    for (value, expected) in [
        ("true", Some(Replication::Physical)),
        ("On", Some(Replication::Physical)),
        ("1", Some(Replication::Physical)),
        ("database", Some(Replication::Logical)),
        ("off", None),
        ("n", None),
    ] {
        let sent = startup(&[
            ("user", "alice"),
            ("database", "app"),
            ("replication", value),
        ]);
        let (outcome, _) = said(&surroundings, &sent).await;
        let Ok(Login::Session(client, _)) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(client.replication, expected, "{value}");
    }
}

#[tokio::test]
async fn newer_clients_are_told_what_we_speak() {
    let surroundings = Surroundings::new(TRUST);
    let newer = ProtocolVersion {
        major: 3,
        minor: 9999,
    };
    let parameters: [(&[u8], &[u8]); 2] = [(b"user", b"alice"), (b"_pq_.wonder", b"1")];
    let database: [(&[u8], &[u8]); 1] = [(b"database", b"app")];
    let sent = packet::startup_message(newer, parameters.into_iter().chain(database));
    let Ok(Login::Session(client, _)) = said(&surroundings, &sent).await.0 else {
        panic!("refused");
    };
    assert_eq!(client.version, ProtocolVersion::V3_2);
    let expected = b"v\0\0\0\x18\0\x03\0\x02\0\0\0\x01_pq_.wonder\0R\0\0\0\x08\0\0\0\0";
    assert_eq!(client.owed, expected);

    let sent = packet::startup_message(ProtocolVersion::V3_2, [(&b"user"[..], &b"app"[..])]);
    let Ok(Login::Session(client, _)) = said(&surroundings, &sent).await.0 else {
        panic!("refused");
    };
    assert_eq!(client.version, ProtocolVersion::V3_2);
    assert_eq!(
        client.database, "app",
        "the user's name where none is given"
    );
    assert_eq!(client.owed, b"R\0\0\0\x08\0\0\0\0");
}

#[tokio::test]
async fn a_second_startup_packet_during_authentication_is_no_password() {
    // CVE-2026-107350, and CVE-2015-4054 the other way round.
    let surroundings = Surroundings::new("");
    let unknown = startup(&[("user", "nobody"), ("database", "nowhere")]);
    let (sqlstate, text) = refused(&surroundings, &[unknown, alice()].concat()).await;
    assert_eq!(sqlstate, SqlState::PROTOCOL_VIOLATION);
    assert_eq!(text, "unexpected message type 0x00");
    let (sqlstate, _) = refused(&surroundings, b"p\0\0\0\x05\0").await;
    assert_eq!(sqlstate, SqlState::PROTOCOL_VIOLATION);
    let query = [alice(), b"Q\0\0\0\x0dselect 1\0".to_vec()].concat();
    let (_, text) = refused(&surroundings, &query).await;
    assert_eq!(text, "unexpected message type 0x51");
    // psql asks its user for the password in between.
    let (outcome, _) = said(&surroundings, &[alice(), b"X\0\0\0\x04".to_vec()].concat()).await;
    assert!(outcome.unwrap_err().failure.is_departure());
}

#[tokio::test]
async fn who_is_not_known_learns_nothing() {
    for auth_type in ["plain", "md5", "scram-sha-256"] {
        let surroundings = Surroundings::new(&format!("auth_type = \"{auth_type}\""));
        let mut texts = Vec::new();
        for (user, database) in [
            ("carol", "app"),
            ("carol", "nowhere"),
            ("carol", "pgbouncer"),
        ] {
            let (mut theirs, ours) = UnixStream::pair().unwrap();
            let hello = startup(&[("user", user), ("database", database)]);
            theirs.write_all(&hello).await.unwrap();
            let wrong: &[&[u8]] = match auth_type {
                "plain" => &[b"p\0\0\0\x09nope\0"],
                _ => &[
                    b"p\0\0\0\x21SCRAM-SHA-256\0\0\0\0\x0bn,,n=,r=abc",
                    b"p\0\0\0\x08nope",
                ],
            };
            for message in wrong {
                theirs.write_all(message).await.unwrap();
            }
            theirs.shutdown().await.unwrap();
            let context = surroundings.context();
            let error = login(ours.into(), &context).await.unwrap_err();
            let mut answer = Vec::new();
            theirs.read_to_end(&mut answer).await.unwrap();
            texts.push((refusal(&answer), error.failure.sqlstate()));
        }
        assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
    }
}

#[tokio::test]
async fn databases_are_named_only_to_who_may_log_in() {
    let surroundings = Surroundings::new("auth_type = \"plain\"");
    let nowhere = startup(&[("user", "bob"), ("database", "nowhere")]);
    let right = [&nowhere[..], b"p\0\0\0\x0bpencil\0"].concat();
    let (sqlstate, text) = refused(&surroundings, &right).await;
    assert_eq!(
        (sqlstate, &text[..]),
        (
            SqlState::INVALID_CATALOG_NAME,
            "database \"nowhere\" does not exist"
        )
    );
    let wrong = [&nowhere[..], b"p\0\0\0\x0beraser\0"].concat();
    assert_eq!(
        refused(&surroundings, &wrong).await.0,
        SqlState::INVALID_PASSWORD
    );
}

#[tokio::test]
async fn the_console_is_for_its_users() {
    let surroundings = Surroundings::new(TRUST);
    for (user, expected) in [
        ("alice", Some(ConsoleRole::Admin)),
        ("bob", Some(ConsoleRole::Stats)),
        ("carol", None),
        ("pgbouncer", None),
    ] {
        for database in CONSOLE_DATABASES {
            let sent = startup(&[("user", user), ("database", database)]);
            let role = match said(&surroundings, &sent).await.0 {
                Ok(Login::Console(_, role)) => Some(role),
                Ok(other) => panic!("{other:?}"),
                Err(error) => {
                    assert_eq!(error.failure.sqlstate(), SqlState::INSUFFICIENT_PRIVILEGE);
                    None
                }
            };
            assert_eq!(role, expected, "{user}");
        }
    }
    // Our own user id over a Unix socket needs no password, under these names only.
    let mut surroundings = Surroundings::new("");
    let sent = startup(&[("user", "pgbouncer"), ("database", "pgbouncer")]);
    surroundings.peer = Peer::Unix { uid: 12345 };
    let outcome = said(&surroundings, &sent).await.0;
    assert!(
        matches!(outcome, Ok(Login::Console(_, ConsoleRole::Admin))),
        "{outcome:?}"
    );
    surroundings.peer = Peer::Unix { uid: 12346 };
    assert!(said(&surroundings, &sent).await.0.is_err());
}

#[tokio::test(start_paused = true)]
async fn half_a_message_and_silence_end_with_the_login_timeout() {
    let surroundings = Surroundings::new("client_login_timeout = \"7s\"");
    for sent in [&alice()[..5], &alice(), b"\x00"] {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        theirs.write_all(sent).await.unwrap();
        let context = surroundings.context();
        let error = login(ours.into(), &context).await.unwrap_err();
        assert!(matches!(error.failure, LoginFailure::Timeout(_)));
        let mut answer = Vec::new();
        theirs.read_to_end(&mut answer).await.unwrap();
        let expected = "login took longer than client_login_timeout, 7 s";
        assert_eq!(
            refusal(&answer),
            (SqlState::QUERY_CANCELED, expected.to_owned())
        );
    }
}

#[tokio::test]
async fn hba_rules_decide_in_their_order() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().display();
    let mut surroundings =
        Surroundings::new(&format!("auth_type = \"hba\"\nauth_hba_file = \"{path}\""));
    let no_rules = refused(&surroundings, &alice()).await;
    let expected = "no entry of auth_hba_file for host \"192.0.2.1\", user \"alice\", database \"app\", no encryption";
    assert_eq!(
        no_rules,
        (
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            expected.to_owned()
        )
    );
    let rules = "host app alice 192.0.2.0/24 trust\n\
                 host all bob all reject\n\
                 local all all peer map=m\n\
                 hostssl all all all cert\n";
    surroundings.hba = Some(Rules::parse(rules, &mut |_| Err(String::new())).unwrap());
    assert!(said(&surroundings, &alice()).await.0.is_ok());
    let bob = startup(&[("user", "bob"), ("database", "app")]);
    let (_, text) = refused(&surroundings, &bob).await;
    assert!(
        text.starts_with("auth_hba_file rejects, in line 2, host \"192.0.2.1\""),
        "{text}"
    );

    surroundings.peer = Peer::Unix { uid: 0 };
    surroundings.ident = IdentMaps::parse("m root bob").unwrap();
    let Ok(Login::Session(client, _)) = said(&surroundings, &bob).await.0 else {
        panic!("root is mapped to bob");
    };
    assert_eq!(client.method, Method::Peer);
    let (_, text) = refused(&surroundings, &alice()).await;
    assert_eq!(text, "peer authentication failed for user \"alice\"");
}

struct Source<'a> {
    asked: &'a Cell<u32>,
    answer: fn() -> Result<Found, AuthQueryFailure>,
}

impl SecretSource for Source<'_> {
    fn ask<'a>(
        &'a self,
        question: &'a AuthQuery,
        user: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Found, AuthQueryFailure>> + 'a>> {
        assert_eq!((question.user.as_str(), user), ("asker", "carol"));
        self.asked.set(self.asked.get() + 1);
        Box::pin(async { (self.answer)() })
    }
}

#[tokio::test(start_paused = true)]
async fn users_in_no_file_are_asked_for_once() {
    let surroundings = Surroundings::new("auth_type = \"plain\"\nauth_user = \"asker\"");
    let asked = Cell::new(0);
    let secret = || Ok(Found::Secret("pencil".to_owned().into()));
    let expired = || Ok(Found::NoPassword);
    let broken = || Err(AuthQueryFailure::NoDatabase("x".to_owned()));
    let attempt = async |answer: fn() -> Result<Found, AuthQueryFailure>, password: &[u8]| {
        let source = Source {
            asked: &asked,
            answer,
        };
        let context = LoginContext {
            secret_source: Some(&source),
            ..surroundings.context()
        };
        let hello = startup(&[("user", "carol"), ("database", "app")]);
        let length = u32::try_from(password.len() + 5).unwrap().to_be_bytes();
        let sent = [&hello[..], b"p", &length, password, b"\0"].concat();
        let outcome = said_in(&context, &sent).await.0;
        (
            outcome.map(drop).map_err(|error| error.failure.sqlstate()),
            asked.get(),
        )
    };
    let denied = Err(SqlState::INVALID_PASSWORD);
    assert_eq!(
        attempt(broken, b"pencil").await,
        (Err(SqlState::CONNECTION_FAILURE), 1)
    );
    assert_eq!(attempt(secret, b"pencil").await, (Ok(()), 2));
    assert_eq!(
        attempt(expired, b"pencil").await,
        (Ok(()), 2),
        "it is remembered"
    );
    // A wrong password on an old answer lets the next login ask again.
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(attempt(expired, b"eraser").await, (denied, 2));
    assert_eq!(
        attempt(expired, b"pencil").await,
        (denied, 3),
        "VALID UNTIL has passed"
    );
    tokio::time::advance(Duration::from_secs(6)).await;
    assert_eq!(attempt(secret, b"pencil").await, (Ok(()), 4));
}

#[tokio::test]
async fn errors_for_the_log_say_more_than_those_for_the_client() {
    let surroundings = Surroundings::new("auth_type = \"plain\"");
    let forged = startup(&[("user", "x\nINFO all is well"), ("database", "app")]);
    let error = said(&surroundings, &[&forged[..], b"p\0\0\0\x06y\0"].concat())
        .await
        .0;
    assert!(!error.unwrap_err().chain().contains('\n'));
    let hello = startup(&[("user", "carol"), ("database", "app")]);
    let sent = [&hello[..], b"p\0\0\0\x0bpencil\0"].concat();
    let (outcome, answer) = said(&surroundings, &sent).await;
    assert_eq!(
        refusal(&answer).1,
        "password authentication failed for user \"carol\""
    );
    assert_eq!(
        outcome.unwrap_err().chain(),
        "login failed: user \"carol\", database \"app\": password authentication failed for user \
         \"carol\" (no such user, or no secret is stored for it)"
    );
}
