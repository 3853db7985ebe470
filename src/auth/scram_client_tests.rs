use super::*;
use crate::auth::kdf::KdfRequest;
use crate::auth::scram;
use proptest::prelude::*;

const SERVER_FIRST: &str =
    "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

/// The state behind the first message of RFC 7677's example, which names a user where we do not.
fn client_first() -> ClientFirst {
    ClientFirst {
        bare: "n=user,r=rOprNGfwEbeRWgbNEkqO".to_owned(),
        nonce: "rOprNGfwEbeRWgbNEkqO".to_owned(),
        binding: STANDARD.encode("n,,"),
    }
}

fn keys(first: &ServerFirst) -> SaltedKeys {
    KdfRequest::new(
        "user",
        "pencil".into(),
        first.salt(),
        first.iterations(),
        4096,
    )
    .unwrap()
    .run()
}

#[test]
fn the_example_of_rfc_7677() {
    let first = client_first()
        .server_first(SERVER_FIRST.as_bytes(), 4096)
        .unwrap();
    let keys = keys(&first);
    let (awaiting, message) = first.prove(&keys);
    assert_eq!(std::str::from_utf8(&message), Ok(CLIENT_FINAL));
    awaiting.verify(SERVER_FINAL.as_bytes()).unwrap();
}

#[test]
fn both_sides_agree_with_and_without_channel_binding() {
    let hash = [7; 32];
    for (binding, offered) in [
        (Binding::Impossible, None),
        (Binding::NotOffered, None),
        (Binding::Impossible, Some(&hash[..])),
        (Binding::EndPoint(&hash), Some(&hash[..])),
    ] {
        let (client, mechanism, message) = ClientFirst::new(binding, "client".to_owned());
        let (server, message) =
            scram::server_first(mechanism, offered, &message, (b"salt", 2), "server").unwrap();
        let first = client.server_first(&message, 4096).unwrap();
        let keys = keys(&first);
        let (client, message) = first.prove(&keys);
        let proof = server.client_final(&message).unwrap();
        let proved = proof
            .check(&keys.verifier(b"salt", 2))
            .expect("the same password");
        client.verify(&proof.server_final(&proved)).unwrap();
    }
}

#[test]
fn a_hostile_server_costs_nothing() {
    let first = |message: &str, limit| {
        client_first()
            .server_first(message.as_bytes(), limit)
            .map(|first| first.iterations())
    };
    assert_eq!(first(SERVER_FIRST, 4096), Ok(4096));
    assert_eq!(
        first(SERVER_FIRST, 4095),
        Err(TooManyIterations {
            asked: 4096,
            limit: 4095
        }
        .into())
    );
    let malformed = |message: &str| match first(message, 4096) {
        Err(ScramClientError::Malformed(why)) => why,
        other => panic!("{message}: {other:?}"),
    };
    for count in ["4294967296", "-1", "+1", "0", "", "1e3", " 1"] {
        assert_eq!(
            malformed(&SERVER_FIRST.replace("4096", count)),
            "the iteration count is not a number"
        );
    }
    assert_eq!(
        malformed(&SERVER_FIRST[..20]),
        "the nonce does not continue ours"
    );
    assert_eq!(
        malformed("r=rOprNGfwEbeRWgbNEkqO,s=W22Z,i=1"),
        "the nonce does not continue ours"
    );
    assert_eq!(
        malformed(&SERVER_FIRST.replace("r=rO", "r=RO")),
        "the nonce does not continue ours"
    );
    assert_eq!(
        malformed(&SERVER_FIRST.replace("r=rO", &format!("r=rO{}", "x".repeat(300)))),
        "the nonce is too long or has unprintable characters"
    );
    assert_eq!(malformed(&"x".repeat(2000)), "the message is too long");
    assert_eq!(
        malformed(&SERVER_FIRST.replace("W22Z", "W2*Z")),
        "the salt is not base64 of 1 to 128 bytes"
    );
    assert_eq!(
        malformed(&format!("{SERVER_FIRST},i=1")),
        "an attribute is repeated or out of place"
    );
    assert!(first(&format!("{SERVER_FIRST},x=future"), 4096).is_ok());
}

#[test]
fn a_server_that_does_not_know_the_secret_is_not_believed() {
    let verify = |message: &str| {
        let first = client_first()
            .server_first(SERVER_FIRST.as_bytes(), 4096)
            .unwrap();
        let keys = keys(&first);
        first.prove(&keys).0.verify(message.as_bytes())
    };
    assert_eq!(verify(SERVER_FINAL), Ok(()));
    assert_eq!(
        verify(&SERVER_FINAL.replace("6rri", "6rrj")),
        Err(ScramClientError::WrongSignature)
    );
    assert_eq!(
        verify("e=other-error\r\n"),
        Err(ScramClientError::Refused("other-error".to_owned()))
    );
    for bad in ["", "v=", "v=AAAA", "x=1", "v"] {
        assert!(
            matches!(verify(bad), Err(ScramClientError::Malformed(_))),
            "{bad}"
        );
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(message: Vec<u8>, at in 0..SERVER_FIRST.len(), byte: u8) {
        drop(client_first().server_first(&message, 4096));
        let mut near = SERVER_FIRST.as_bytes().to_vec();
        near[at] = byte;
        drop(client_first().server_first(&near, 4096));
        let awaiting = AwaitingServerFinal { signature: [0; 32] };
        drop(awaiting.verify(&message));
    }
}
