use super::*;
use crate::auth::scram::ScramError;
use crate::auth::server_exchange::{Channel, ServerExchange, ServerExchangeSetup, ServerStep};
use crate::protocol::SqlState;
use proptest::prelude::*;

const LIMIT: u32 = 10_000;

fn setup(method: PasswordMethod, secrets: Vec<Secret>) -> ClientExchangeSetup {
    ClientExchangeSetup {
        method,
        user: "alice".to_owned(),
        secrets: secrets.into(),
        mock: MockSecret::new([3; 32], 16),
        tls_end_point: None,
        entropy: Entropy([9; 32]),
        max_iterations: LIMIT,
    }
}

fn plain(password: &str) -> Secret {
    Secret::Plain(password.into())
}

fn md5(password: &str) -> Secret {
    Secret::Md5(Md5Hash::of("alice", password.as_bytes()))
}

fn scram(password: &str, salt: &[u8]) -> Secret {
    let request = KdfRequest::new("alice", password.into(), salt, 8, LIMIT).unwrap();
    Secret::Scram(request.run().verifier(salt, 8))
}

/// Drives both of our own machines against each other and returns the client leg's last step.
fn converse(setup: ClientExchangeSetup, credentials: Credentials, channel: Channel) -> Step {
    let mut peer = ServerExchange::new(ServerExchangeSetup {
        user: "alice".to_owned(),
        credentials,
        channel,
        entropy: Entropy([5; 32]),
        max_iterations: LIMIT,
    });
    let mut exchange = ClientExchange::new(setup);
    let mut step = exchange.start();
    loop {
        step = match step {
            Step::Send(request) => {
                let answer = answer(&mut peer, &request).expect("the peer can answer");
                exchange.on_message(&answer)
            }
            Step::NeedKdf(request) => exchange.on_keys(&request.run()),
            Step::Done {
                last: Some(last),
                proved,
            } => {
                // The peer must believe us before it takes AuthenticationOk.
                assert!(answer(&mut peer, &last).is_none());
                let ok = peer.on_authentication(&[0; 4]).unwrap();
                assert!(matches!(ok, ServerStep::Authenticated));
                return Step::Done {
                    last: Some(last),
                    proved,
                };
            }
            Step::Done { .. } | Step::Denied(_) => return step,
        };
    }
}

fn answer(peer: &mut ServerExchange, request: &AuthenticationRequest) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    request.encode(&mut message);
    let mut step = peer
        .on_authentication(&message[5..])
        .expect("a fair request");
    loop {
        step = match step {
            ServerStep::Send(body) => return Some(body),
            ServerStep::NeedKdf(request) => peer.on_keys(&request.run()).unwrap(),
            ServerStep::Wait => return None,
            ServerStep::Authenticated => panic!("not yet"),
        };
    }
}

fn password(password: &str) -> Credentials {
    Credentials::Password(password.into())
}

fn cause(step: &Step) -> Cause {
    match step {
        Step::Denied(Denied::Password { cause, .. }) => *cause,
        other => panic!("not a refused password: {other:?}"),
    }
}

#[test]
fn every_method_takes_every_secret_it_can_check() {
    use PasswordMethod::{Md5, Plain, ScramSha256};
    for (method, secret) in [
        (Plain, plain("pencil")),
        (Plain, md5("pencil")),
        (Plain, scram("pencil", b"salt")),
        (Md5, plain("pencil")),
        (Md5, md5("pencil")),
        (Md5, scram("pencil", b"salt")),
        (ScramSha256, plain("pencil")),
        (ScramSha256, scram("pencil", b"salt")),
    ] {
        let run = |credentials| {
            converse(
                setup(method, vec![secret.clone()]),
                credentials,
                Channel::Open,
            )
        };
        let name = format!("{method:?} {secret:?}");
        assert!(
            matches!(run(password("pencil")), Step::Done { .. }),
            "{name}"
        );
        assert_eq!(
            cause(&run(password("eraser"))),
            Cause::WrongPassword,
            "{name}"
        );
    }
    let step = converse(
        setup(ScramSha256, vec![md5("pencil")]),
        password("pencil"),
        Channel::Open,
    );
    assert_eq!(cause(&step), Cause::NoUsableSecret);
}

#[test]
fn several_passwords_are_valid_at_once() {
    use PasswordMethod::{Md5, Plain, ScramSha256};
    let rotations = [
        vec![plain("old"), plain("new")],
        vec![scram("old", b"salt"), scram("new", b"salt")],
        vec![plain("old"), scram("new", b"salt")],
        vec![scram("old", b"salt"), plain("new")],
    ];
    for secrets in rotations {
        for method in [Plain, ScramSha256] {
            for good in ["old", "new"] {
                let step = converse(
                    setup(method, secrets.clone()),
                    password(good),
                    Channel::Open,
                );
                assert!(matches!(step, Step::Done { .. }), "{method:?} {good}");
            }
            let step = converse(
                setup(method, secrets.clone()),
                password("bad"),
                Channel::Open,
            );
            assert_eq!(cause(&step), Cause::WrongPassword);
        }
    }
    for good in ["old", "new"] {
        let secrets = vec![md5("old"), plain("new")];
        let step = converse(setup(Md5, secrets), password(good), Channel::Open);
        assert!(matches!(step, Step::Done { .. }));
    }
}

#[test]
fn a_scram_login_yields_keys_that_log_in_elsewhere() {
    let secret = || vec![scram("pencil", b"salt")];
    let scram_setup = |secrets| setup(PasswordMethod::ScramSha256, secrets);
    let Step::Done {
        proved: proved @ Credentials::Scram(_),
        ..
    } = converse(scram_setup(secret()), password("pencil"), Channel::Open)
    else {
        panic!("no keys");
    };
    let step = converse(scram_setup(secret()), proved.clone(), Channel::Open);
    assert!(matches!(step, Step::Done { .. }), "pass-through");
    let Credentials::Scram(keys) = proved else {
        unreachable!()
    };
    let matches = |secret| match secret {
        Secret::Scram(verifier) => keys.match_verifier(&verifier),
        _ => unreachable!(),
    };
    assert!(matches(scram("pencil", b"salt")));
    assert!(
        !matches(scram("changed", b"salt")),
        "a changed password is noticed"
    );
    assert!(!matches(scram("pencil", b"another salt")));
}

#[test]
fn what_was_proved_serves_the_server_leg() {
    use PasswordMethod::{Md5, Plain, ScramSha256};
    let proved = |method, secret| match converse(
        setup(method, vec![secret]),
        password("pencil"),
        Channel::Open,
    ) {
        Step::Done { proved, .. } => proved,
        step => panic!("{step:?}"),
    };
    for (method, secret) in [
        (Plain, scram("pencil", b"salt")),
        (Plain, md5("pencil")),
        (Md5, plain("pencil")),
        (ScramSha256, plain("pencil")),
    ] {
        let Credentials::Password(known) = proved(method, secret) else {
            panic!("{method:?}");
        };
        assert!(known.matches(b"pencil"));
    }
    assert!(matches!(proved(Md5, md5("pencil")), Credentials::Md5(_)));
}

#[test]
fn channel_binding_is_used_when_both_can_and_a_removed_offer_is_found_out() {
    let bound = |hash: &[u8]| ClientExchangeSetup {
        tls_end_point: Some(hash.to_vec()),
        ..setup(PasswordMethod::ScramSha256, vec![scram("pencil", b"salt")])
    };
    let tls = |hash: &[u8]| Channel::Tls {
        end_point: Some(hash.to_vec()),
    };
    let mut exchange = ClientExchange::new(bound(b"hash"));
    let Step::Send(AuthenticationRequest::Sasl(offered)) = exchange.start() else {
        panic!("no offer");
    };
    assert_eq!(
        offered,
        [Mechanism::ScramSha256Plus, Mechanism::ScramSha256]
    );

    let step = converse(bound(b"hash"), password("pencil"), tls(b"hash"));
    assert!(matches!(step, Step::Done { .. }));
    let step = converse(bound(b"hash"), password("pencil"), tls(b"mitm"));
    assert!(
        matches!(
            &step,
            Step::Denied(Denied::Scram(ScramError::ChannelBinding))
        ),
        "{step:?}"
    );

    // The peer saw a list without -PLUS, although we offered it.
    let mut exchange = ClientExchange::new(bound(b"hash"));
    exchange.start();
    let step = exchange.on_message(b"SCRAM-SHA-256\0\0\0\0\x0by,,n=,r=abc");
    let Step::Denied(denied) = step else {
        panic!("{step:?}")
    };
    assert_eq!(denied, Denied::Scram(ScramError::Downgrade));
    assert_eq!(
        denied.sqlstate(),
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION
    );
}

#[test]
fn an_unknown_user_cannot_be_told_from_a_known_one() {
    for method in [
        PasswordMethod::Plain,
        PasswordMethod::Md5,
        PasswordMethod::ScramSha256,
    ] {
        let transcript = |secrets: Vec<Secret>| {
            let mut seen = Vec::new();
            let mut exchange = ClientExchange::new(setup(method, secrets));
            let mut peer = ServerExchange::new(ServerExchangeSetup {
                user: "alice".to_owned(),
                credentials: password("guess"),
                channel: Channel::Open,
                entropy: Entropy([5; 32]),
                max_iterations: LIMIT,
            });
            let mut step = exchange.start();
            loop {
                step = match step {
                    Step::Send(request) => {
                        seen.push(request.clone());
                        let answer = answer(&mut peer, &request).unwrap();
                        exchange.on_message(&answer)
                    }
                    Step::NeedKdf(request) => exchange.on_keys(&request.run()),
                    Step::Denied(denied) => return (seen, denied.to_string(), denied.sqlstate()),
                    step @ Step::Done { .. } => panic!("{step:?}"),
                };
            }
        };
        let unknown = transcript(Vec::new());
        assert_eq!(
            unknown.1,
            "password authentication failed for user \"alice\""
        );
        assert_eq!(unknown.2, SqlState::INVALID_PASSWORD);
        if method == PasswordMethod::ScramSha256 {
            // The made-up salt is the one that a plain password of the same name gets.
            assert_eq!(unknown, transcript(vec![plain("pencil")]));
        }
        let mock = MockSecret::new([3; 32], 16);
        let known = KdfRequest::new("alice", "pencil".into(), &mock.salt("alice"), 16, LIMIT)
            .unwrap()
            .run()
            .verifier(&mock.salt("alice"), 16);
        assert_eq!(
            unknown,
            transcript(vec![Secret::Scram(known)]),
            "{method:?}"
        );
    }
}

#[test]
fn a_mock_verifier_lets_nobody_in_even_with_the_mock_itself() {
    let mut exchange = ClientExchange::new(setup(PasswordMethod::ScramSha256, Vec::new()));
    exchange.start();
    let step = exchange.on_message(b"SCRAM-SHA-256\0\0\0\0\x0bn,,n=,r=abc");
    assert!(matches!(
        step,
        Step::Send(AuthenticationRequest::SaslContinue(_))
    ));
    let nonce = format!("abc{}", Entropy([9; 32]).nonce());
    let message = format!("c=biws,r={nonce},p={}=", "A".repeat(43));
    assert_eq!(
        cause(&exchange.on_message(message.as_bytes())),
        Cause::NoSecret
    );
    // Over is over.
    let step = exchange.on_message(message.as_bytes());
    assert!(matches!(step, Step::Denied(Denied::Malformed(_))));
}

#[test]
fn malformed_password_messages() {
    let first = |method, secrets: Vec<Secret>, body: &[u8]| {
        let mut exchange = ClientExchange::new(setup(method, secrets));
        exchange.start();
        match exchange.on_message(body) {
            Step::Denied(denied) => denied,
            step => panic!("{step:?}"),
        }
    };
    for body in [&b""[..], b"pencil", b"pen\0cil\0"] {
        for method in [PasswordMethod::Plain, PasswordMethod::Md5] {
            let denied = first(method, vec![plain("pencil")], body);
            assert_eq!(denied.sqlstate(), SqlState::PROTOCOL_VIOLATION, "{body:?}");
        }
    }
    let denied = first(PasswordMethod::Plain, vec![plain("x")], b"\0");
    assert!(matches!(
        denied,
        Denied::Password {
            cause: Cause::EmptyPassword,
            ..
        }
    ));
    for body in [
        &b""[..],
        b"SCRAM-SHA-256",
        b"SCRAM-SHA-256\0",
        b"SCRAM-SHA-256\0\0\0\0",
        b"SCRAM-SHA-256\0\0\0\0\x0cn,,n=,r=abc",
        b"SCRAM-SHA-256\0\0\0\0\x0an,,n=,r=abc",
        b"SCRAM-SHA-256\0\x7f\xff\xff\xffn,,n=,r=abc",
        b"SCRAM-SHA-256\0\xff\xff\xff\xfen,,n=,r=abc",
        b"SCRAM-SHA-256\0\xff\xff\xff\xffn,,n=,r=abc",
        b"SCRAM-SHA-256-PLUS\0\0\0\0\x0bn,,n=,r=abc",
        b"GSSAPI\0\0\0\0\x0bn,,n=,r=abc",
    ] {
        let denied = first(PasswordMethod::ScramSha256, vec![plain("pencil")], body);
        assert_eq!(denied.sqlstate(), SqlState::PROTOCOL_VIOLATION, "{body:?}");
    }
}

#[test]
fn a_mechanism_without_a_response_is_answered_with_an_empty_challenge() {
    let mut exchange = ClientExchange::new(setup(PasswordMethod::ScramSha256, vec![plain("p")]));
    exchange.start();
    let step = exchange.on_message(b"SCRAM-SHA-256\0\xff\xff\xff\xff");
    assert!(
        matches!(&step, Step::Send(AuthenticationRequest::SaslContinue(data)) if data.is_empty())
    );
    let step = exchange.on_message(b"n,,n=,r=abc");
    assert!(
        matches!(&step, Step::Send(AuthenticationRequest::SaslContinue(data)) if data.starts_with(b"r=abc"))
    );
}

#[test]
fn a_verifier_beyond_the_limit_is_never_derived() {
    let mut verifier = MockSecret::new([1; 32], 1).verifier("alice");
    verifier.iterations = LIMIT + 1;
    let mut exchange =
        ClientExchange::new(setup(PasswordMethod::Plain, vec![Secret::Scram(verifier)]));
    exchange.start();
    let step = exchange.on_message(b"pencil\0");
    assert!(matches!(cause(&step), Cause::Iterations(_)));
}

#[test]
fn derivations_can_be_run_ahead() {
    let mock = MockSecret::new([3; 32], 16);
    let secrets = [plain("pencil"), md5("x")];
    let mut cache = crate::auth::SaltedKeyCache::new(10, [0; 32]);
    for request in derivations_ahead("alice", &secrets, &mock, LIMIT) {
        cache.insert(&request, request.run());
    }
    assert_eq!(cache.len(), 1);
    let step = {
        let mut exchange =
            ClientExchange::new(setup(PasswordMethod::ScramSha256, secrets.to_vec()));
        exchange.start();
        exchange.on_message(b"SCRAM-SHA-256\0\0\0\0\x0bn,,n=,r=abc");
        let nonce = format!("abc{}", Entropy([9; 32]).nonce());
        let message = format!("c=biws,r={nonce},p={}=", "A".repeat(43));
        exchange.on_message(message.as_bytes())
    };
    let Step::NeedKdf(request) = step else {
        panic!("{step:?}")
    };
    assert!(cache.lookup(&request).is_some());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..4),
        method in prop::sample::select(vec![PasswordMethod::Plain, PasswordMethod::Md5, PasswordMethod::ScramSha256]),
        prefix: bool,
    ) {
        let mut exchange = ClientExchange::new(setup(method, vec![scram("pencil", b"salt")]));
        exchange.start();
        for message in messages {
            let mut body = Vec::new();
            if prefix { body.extend_from_slice(b"SCRAM-SHA-256\0") }
            body.extend_from_slice(&message);
            let step = exchange.on_message(&body);
            let done = matches!(step, Step::Done { .. });
            prop_assert!(!done);
        }
    }
}
