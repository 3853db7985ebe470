use super::*;
use crate::server::inquiry::tests::scripted;

async fn asked(answer: &[u8]) -> (Result<Found, LookupError>, Vec<u8>) {
    let (mut inquiry, server) = scripted(answer).await;
    let found = look_up(&mut inquiry, "select $1", "alice").await;
    drop(inquiry);
    (found, server.heard().await)
}

fn row(columns: &[Option<&[u8]>]) -> Vec<u8> {
    let mut out = b"1\0\0\0\x042\0\0\0\x04".to_vec();
    crate::protocol::encode::data_row(&mut out, columns.iter().copied());
    out
}

const READY: &[u8] = b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I";

#[tokio::test]
async fn the_name_is_a_parameter() {
    let (found, question) = asked(READY).await;
    assert_eq!(found.unwrap(), Found::NoSuchUser);
    let text = question.escape_ascii().to_string();
    assert!(
        text.starts_with("P\\x00\\x00\\x00\\x11\\x00select $1\\x00"),
        "{text}"
    );
    assert!(text.contains("\\x00\\x00\\x00\\x05alice"), "{text}");
    assert!(text.ends_with("S\\x00\\x00\\x00\\x04"), "{text}");
}

#[tokio::test]
async fn rows_are_believed_only_for_the_user_that_was_asked_for() {
    let answer = |columns: &[Option<&[u8]>]| [&row(columns), READY].concat();
    let found = |answer: Vec<u8>| async move { asked(&answer).await.0 };
    let secret = Found::Secret("md5x".to_owned().into());
    let good = answer(&[Some(b"alice"), Some(b"md5x")]);
    assert_eq!(found(good).await.unwrap(), secret);
    assert_eq!(
        found(answer(&[Some(b"alice"), None])).await.unwrap(),
        Found::NoPassword
    );
    assert_eq!(
        found(answer(&[None, None])).await.unwrap(),
        Found::NoSuchUser
    );
    for shape in [
        answer(&[Some(b"bob"), Some(b"md5x")]),
        answer(&[Some(b"alice")]),
        answer(&[Some(b"alice"), Some(b"\xff")]),
        [
            row(&[Some(b"alice"), None]),
            row(&[Some(b"alice"), None]),
            READY.to_vec(),
        ]
        .concat(),
    ] {
        assert!(matches!(found(shape).await, Err(LookupError::Shape(_))));
    }
    assert!(!format!("{secret:?}").contains("md5"));
}

#[tokio::test]
async fn errors_are_told() {
    let refused = asked(b"E\0\0\0\x12C42501\0Mnope\0\0Z\0\0\0\x05I").await.0;
    let Err(LookupError::Inquiry(InquiryError::Refused(refusal))) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(refusal.text, "nope");
}
