use super::*;
use crate::auth::MockSecret;
use crate::auth::scram;
use proptest::prelude::*;

fn exchange(credentials: Credentials, channel: Channel) -> ServerExchange {
    ServerExchange::new(ServerExchangeSetup {
        user: "alice".to_owned(),
        credentials,
        channel,
        entropy: Entropy([5; 32]),
        max_iterations: 4096,
    })
}

fn password() -> Credentials {
    Credentials::Password("pencil".into())
}

const OK: &[u8] = &[0, 0, 0, 0];
const CLEARTEXT: &[u8] = &[0, 0, 0, 3];
const MD5: &[u8] = b"\0\0\0\x05salt";
const SASL: &[u8] = b"\0\0\0\x0aSCRAM-SHA-256\0\0";
const SASL_BOTH: &[u8] = b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";

fn sent(step: Result<ServerStep>) -> Vec<u8> {
    match step {
        Ok(ServerStep::Send(body)) => body,
        other => panic!("{other:?}"),
    }
}

#[test]
fn simple_methods() {
    let mut trust = exchange(Credentials::None, Channel::Open);
    assert!(matches!(
        trust.on_authentication(OK),
        Ok(ServerStep::Authenticated)
    ));

    let mut cleartext = exchange(password(), Channel::Open);
    assert_eq!(sent(cleartext.on_authentication(CLEARTEXT)), b"pencil\0");
    assert!(matches!(
        cleartext.on_authentication(OK),
        Ok(ServerStep::Authenticated)
    ));

    let expected = Md5Hash::of("alice", b"pencil").answer(*b"salt");
    for credentials in [
        password(),
        Credentials::Md5(Md5Hash::of("alice", b"pencil")),
    ] {
        let body = sent(exchange(credentials, Channel::Downgraded).on_authentication(MD5));
        assert_eq!(body.strip_suffix(b"\0"), Some(&expected[..]));
    }
}

#[test]
fn a_password_goes_out_in_clear_only_where_nobody_could_have_removed_tls() {
    let run = |channel| exchange(password(), channel).on_authentication(CLEARTEXT);
    assert!(matches!(run(Channel::Open), Ok(ServerStep::Send(_))));
    assert!(matches!(
        run(Channel::Tls { end_point: None }),
        Ok(ServerStep::Send(_))
    ));
    assert!(matches!(
        run(Channel::Downgraded),
        Err(ServerExchangeError::CleartextRefused)
    ));
}

#[test]
fn what_cannot_be_answered_says_so() {
    let md5 = || Credentials::Md5(Md5Hash::of("alice", b"pencil"));
    for (credentials, request, message) in [
        (
            Credentials::None,
            CLEARTEXT,
            "a cleartext password; no password of this user",
        ),
        (
            Credentials::None,
            SASL,
            "SCRAM-SHA-256; no password of this user",
        ),
        (md5(), SASL, "SCRAM-SHA-256; an md5 hash"),
        (md5(), CLEARTEXT, "a cleartext password; an md5 hash"),
        (password(), &[0, 0, 0, 7], "method GSSAPI"),
        (password(), &[0, 0, 0, 9], "method SSPI"),
        (password(), &[0, 0, 0, 99], "its code is unknown"),
        (password(), &[0, 0, 0], "shorter than its code"),
        (password(), b"\0\0\0\x05sal", "not 4 bytes"),
        (password(), b"\0\0\0\x0aSCRAM-SHA-256\0", "unterminated"),
        (
            password(),
            b"\0\0\0\x0aOAUTHBEARER\0\0",
            "SASL without SCRAM-SHA-256",
        ),
    ] {
        let error = exchange(credentials, Channel::Open)
            .on_authentication(request)
            .unwrap_err()
            .to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn the_mechanism_fits_the_channel() {
    let selected = |channel, request| {
        let body = sent(exchange(password(), channel).on_authentication(request));
        let end = body.iter().position(|b| *b == 0).unwrap();
        let flag = body[end + 5];
        (
            String::from_utf8(body[..end].to_vec()).unwrap(),
            char::from(flag),
        )
    };
    let tls = || Channel::Tls {
        end_point: Some(b"hash".to_vec()),
    };
    let plain = "SCRAM-SHA-256".to_owned();
    assert_eq!(
        selected(tls(), SASL_BOTH),
        ("SCRAM-SHA-256-PLUS".to_owned(), 'p')
    );
    assert_eq!(selected(tls(), SASL), (plain.clone(), 'y'));
    assert_eq!(
        selected(Channel::Tls { end_point: None }, SASL_BOTH),
        (plain.clone(), 'n')
    );
    assert_eq!(selected(Channel::Open, SASL_BOTH), (plain, 'n'));
}

/// A fair server's answers to our messages, up to its final message.
fn scram_to_the_end(exchange: &mut ServerExchange) -> Vec<u8> {
    let body = sent(exchange.on_authentication(SASL));
    let first = &body["SCRAM-SHA-256".len() + 5..];
    let (server, message) =
        scram::server_first(Mechanism::ScramSha256, None, first, (b"salt", 8), "server").unwrap();
    let message = [b"\0\0\0\x0b", &message[..]].concat();
    let Ok(ServerStep::NeedKdf(request)) = exchange.on_authentication(&message) else {
        panic!("no derivation");
    };
    let keys = request.run();
    let proof = server.client_final(&sent(exchange.on_keys(&keys))).unwrap();
    let keys = proof.check(&keys.verifier(b"salt", 8)).unwrap();
    [b"\0\0\0\x0c", &proof.server_final(&keys)[..]].concat()
}

#[test]
fn ok_counts_only_after_the_servers_own_proof() {
    let mut fair = exchange(password(), Channel::Open);
    let last = scram_to_the_end(&mut fair);
    assert!(matches!(
        fair.on_authentication(&last),
        Ok(ServerStep::Wait)
    ));
    assert!(matches!(
        fair.on_authentication(OK),
        Ok(ServerStep::Authenticated)
    ));

    let mut hasty = exchange(password(), Channel::Open);
    scram_to_the_end(&mut hasty);
    assert!(matches!(
        hasty.on_authentication(OK),
        Err(ServerExchangeError::OutOfOrder(_))
    ));

    let mut after_first = exchange(password(), Channel::Open);
    sent(after_first.on_authentication(SASL));
    assert!(matches!(
        after_first.on_authentication(OK),
        Err(ServerExchangeError::OutOfOrder(_))
    ));
}

#[test]
fn one_try_only() {
    for second in [CLEARTEXT, MD5, SASL] {
        let mut exchange = exchange(password(), Channel::Open);
        sent(exchange.on_authentication(CLEARTEXT));
        let step = exchange.on_authentication(second);
        assert!(matches!(step, Err(ServerExchangeError::OutOfOrder(_))));
    }
}

#[test]
fn the_iterations_of_a_hostile_server_are_bounded() {
    let mut victim = exchange(password(), Channel::Open);
    let body = sent(victim.on_authentication(SASL));
    let first = &body["SCRAM-SHA-256".len() + 5..];
    let (_, message) = scram::server_first(
        Mechanism::ScramSha256,
        None,
        first,
        (b"salt", u32::MAX),
        "server",
    )
    .unwrap();
    let step = victim.on_authentication(&[b"\0\0\0\x0b", &message[..]].concat());
    assert!(matches!(
        step,
        Err(ServerExchangeError::Scram(ScramClientError::Iterations(_)))
    ));
}

#[test]
fn pass_through_needs_the_identical_secret() {
    let verifier = MockSecret::new([1; 32], 8).verifier("alice");
    let keys = KdfRequest::new("alice", "pencil".into(), b"salt", 8, 8)
        .unwrap()
        .run();
    let keys = ScramKeys {
        keys,
        salt: b"salt"[..].into(),
        iterations: 8,
    };
    let mut leg = exchange(Credentials::Scram(keys), Channel::Open);
    let body = sent(leg.on_authentication(SASL));
    let first = &body["SCRAM-SHA-256".len() + 5..];
    let challenge = (verifier.salt(), verifier.iterations());
    let (_, message) =
        scram::server_first(Mechanism::ScramSha256, None, first, challenge, "server").unwrap();
    let step = leg.on_authentication(&[b"\0\0\0\x0b", &message[..]].concat());
    assert!(matches!(step, Err(ServerExchangeError::VerifierDiffers)));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(messages in prop::collection::vec((0u8..14, prop::collection::vec(any::<u8>(), 0..60)), 1..5)) {
        let mut exchange = exchange(password(), Channel::Open);
        for (code, data) in messages {
            let mut body = vec![0, 0, 0, code];
            body.extend_from_slice(&data);
            drop(exchange.on_authentication(&body));
            drop(exchange.on_authentication(&data));
        }
    }
}
