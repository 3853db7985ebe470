use super::*;
use crate::auth::kdf::KdfRequest;
use proptest::prelude::*;

const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";
const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const SERVER_FIRST: &str =
    "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

fn salt() -> Vec<u8> {
    STANDARD.decode(SALT).unwrap()
}

fn verifier(password: &str) -> ScramVerifier {
    KdfRequest::new("user", password.into(), &salt(), 4096, 4096)
        .unwrap()
        .run()
        .verifier(&salt(), 4096)
}

fn first(
    mechanism: Mechanism,
    end_point: Option<&[u8]>,
    message: &str,
) -> Result<(AwaitingFinal, Vec<u8>), ScramError> {
    server_first(
        mechanism,
        end_point,
        message.as_bytes(),
        (&salt(), 4096),
        SERVER_NONCE,
    )
}

fn awaiting() -> AwaitingFinal {
    first(Mechanism::ScramSha256, None, CLIENT_FIRST).unwrap().0
}

#[test]
fn the_example_of_rfc_7677() {
    let (scram, answer) = first(Mechanism::ScramSha256, None, CLIENT_FIRST).unwrap();
    assert_eq!(std::str::from_utf8(&answer), Ok(SERVER_FIRST));
    let proof = scram.client_final(CLIENT_FINAL.as_bytes()).unwrap();
    assert!(proof.check(&verifier("eraser")).is_none());
    let keys = proof
        .check(&verifier("pencil"))
        .expect("the right password");
    assert_eq!(
        std::str::from_utf8(&proof.server_final(&keys)),
        Ok(SERVER_FINAL)
    );
    assert!(
        verifier("pencil").accepts(&keys),
        "the client key is recovered from the proof"
    );
}

#[test]
fn malformed_first_messages() {
    use ScramError::{ChannelBinding, Malformed, Unsupported};
    let error = |message: &str| first(Mechanism::ScramSha256, None, message).unwrap_err();
    for (message, expected) in [
        ("", Malformed("the message is empty")),
        ("n", Malformed("the GS2 header is incomplete")),
        ("n,", Malformed("the GS2 header is incomplete")),
        ("x,,n=,r=abc", Malformed("unknown channel-binding flag")),
        (
            "n,b,n=,r=abc",
            Malformed("unexpected text in the GS2 header"),
        ),
        ("n,,", Malformed("an attribute name must be a letter")),
        ("n,,n", Malformed("an attribute lacks its \"=\"")),
        ("n,,n=", Malformed("the nonce is missing")),
        ("n,,r=abc", Malformed("the user name is missing")),
        ("n,,r=abc,n=", Malformed("the user name is missing")),
        ("n,,n=,n=,r=abc", Malformed("the nonce is missing")),
        (
            "n,,n=,r=",
            Malformed("the nonce has unprintable characters"),
        ),
        (
            "n,,n=,r=a b",
            Malformed("the nonce has unprintable characters"),
        ),
        (
            "n,,n=,r=ä",
            Malformed("the nonce has unprintable characters"),
        ),
        (
            "n,,n=,r=abc,r=abd",
            Malformed("an attribute is repeated or out of place"),
        ),
        (
            "n,,n=,r=abc,m=x",
            Malformed("an attribute is repeated or out of place"),
        ),
        (
            "n,,n=,r=abc,",
            Malformed("an attribute name must be a letter"),
        ),
        (
            "n,,n=,r=abc\0",
            Malformed("the message contains a zero byte"),
        ),
        (
            "n,,m=x,n=,r=abc",
            Unsupported("a mandatory SCRAM extension"),
        ),
        (
            "n,a=root,n=,r=abc",
            Unsupported("a SCRAM authorization identity"),
        ),
        (
            "p=tls-unique,,n=,r=abc",
            Unsupported("this SCRAM channel-binding type"),
        ),
        ("p=tls-server-end-point,,n=,r=abc", ChannelBinding),
    ] {
        assert_eq!(error(message), expected, "{message}");
    }
    assert!(first(Mechanism::ScramSha256, None, "n,,n=,r=abc,x=future").is_ok());
    let long = format!("n,,n=,r={}", "a".repeat(MAX_SASL_MESSAGE));
    assert_eq!(error(&long), Malformed("the message is too long"));
}

#[test]
fn malformed_final_messages() {
    let error = |message: &str| {
        awaiting()
            .client_final(message.as_bytes())
            .expect_err(message)
    };
    let malformed = |message: &str| match error(message) {
        ScramError::Malformed(why) => why,
        other => panic!("{message}: {other}"),
    };
    let (without_proof, proof) = CLIENT_FINAL.rsplit_once(",p=").unwrap();
    // CVE-2026-19888: each attribute missing.
    assert_eq!(malformed(without_proof), "the proof is missing");
    assert_eq!(malformed(""), "the message is empty");
    assert_eq!(malformed(&format!("p={proof}")), "the proof is missing");
    assert_eq!(
        malformed(&format!("c=biws,p={proof}")),
        "the nonce is missing"
    );
    assert_eq!(
        malformed(&format!("{},p={proof}", &without_proof[7..])),
        "the channel binding is missing"
    );
    assert_eq!(
        malformed(&format!("{without_proof},c=biws,p={proof}")),
        "an attribute is repeated or out of place"
    );
    assert_eq!(
        malformed(&format!("{without_proof},p={proof},p={proof}")),
        "an attribute is repeated or out of place"
    );
    for bad in [
        "",
        "AAAA",
        "****",
        &proof[1..],
        &format!("{proof},x=1"),
        &format!("{proof}\0"),
    ] {
        malformed(&format!("{without_proof},p={bad}"));
    }
    assert_eq!(
        malformed(&CLIENT_FINAL.replace("hNlF$k0", "hNlF$k1")),
        "the nonce is not the one of this exchange"
    );
    assert_eq!(
        malformed(&CLIENT_FINAL.replace("hNlF$k0", "hNlF$k")),
        "the nonce is not the one of this exchange"
    );
    assert_eq!(
        error(&CLIENT_FINAL.replace("biws", "eSws")),
        ScramError::ChannelBinding
    );
}

#[test]
fn channel_binding_must_be_consistent() {
    use Mechanism::{ScramSha256, ScramSha256Plus};
    let plus = "p=tls-server-end-point,,n=,r=abc";
    let hash = Some(&b"hash"[..]);
    let denied = |mechanism, end_point, message| first(mechanism, end_point, message).unwrap_err();
    assert_eq!(
        denied(ScramSha256, hash, "y,,n=,r=abc"),
        ScramError::Downgrade
    );
    assert_eq!(
        denied(ScramSha256Plus, hash, "y,,n=,r=abc"),
        ScramError::ChannelBinding
    );
    assert_eq!(
        denied(ScramSha256Plus, hash, "n,,n=,r=abc"),
        ScramError::ChannelBinding
    );
    assert_eq!(denied(ScramSha256, hash, plus), ScramError::ChannelBinding);
    assert_eq!(
        denied(ScramSha256Plus, None, plus),
        ScramError::ChannelBinding
    );
    assert!(first(ScramSha256, None, "y,,n=,r=abc").is_ok());
    assert!(first(ScramSha256, hash, "n,,n=,r=abc").is_ok());

    // Another certificate's hash, as somebody in the middle would present.
    let (scram, _) = first(ScramSha256Plus, hash, plus).unwrap();
    let binding = STANDARD.encode("p=tls-server-end-point,,HASH");
    let proof = STANDARD.encode([0; 32]);
    let message = format!("c={binding},r=abc{SERVER_NONCE},p={proof}");
    assert_eq!(
        scram.client_final(message.as_bytes()).unwrap_err(),
        ScramError::ChannelBinding
    );
}

#[test]
fn mock_salts_are_stable_and_look_like_any() {
    let mock = MockSecret::new([1; 32], 4096);
    assert_eq!(mock.salt("alice"), mock.salt("alice"));
    assert_ne!(mock.salt("alice"), mock.salt("bob"));
    assert_ne!(
        mock.salt("alice"),
        MockSecret::new([2; 32], 4096).salt("alice")
    );
    assert_eq!(mock.verifier("alice").salt(), mock.salt("alice"));
    assert_eq!(format!("{mock:?}"), "MockSecret(..)");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(message: Vec<u8>) {
        drop(server_first(Mechanism::ScramSha256, None, &message, (b"salt", 1), "nonce"));
        drop(awaiting().client_final(&message));
    }

    #[test]
    fn nothing_near_a_message_makes_it_panic_or_pass(
        at in 0..CLIENT_FINAL.len(), byte: u8, cut: bool
    ) {
        let mut message = CLIENT_FINAL.as_bytes().to_vec();
        if cut { message.truncate(at) } else { message[at] = byte }
        prop_assume!(message != CLIENT_FINAL.as_bytes());
        if let Ok(proof) = awaiting().client_final(&message) {
            prop_assert!(proof.check(&verifier("pencil")).is_none());
        }
        let mut message = CLIENT_FIRST.as_bytes().to_vec();
        let at = at % message.len();
        if cut { message.truncate(at) } else { message[at] = byte }
        drop(server_first(Mechanism::ScramSha256, None, &message, (b"salt", 1), "nonce"));
    }
}
