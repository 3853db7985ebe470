use super::*;
use crate::protocol::startup::ProtocolVersion;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// The server's side of a session, which has said all that it will say.
pub(in crate::server) struct Scripted(UnixStream);

impl Scripted {
    /// All that it was asked; the session must have been dropped.
    pub(in crate::server) async fn heard(mut self) -> Vec<u8> {
        let mut heard = Vec::new();
        self.0.read_to_end(&mut heard).await.unwrap();
        heard
    }
}

/// A session whose server says `answer` and then closes.
pub(in crate::server) async fn scripted(answer: &[u8]) -> (Inquiry, Scripted) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let inquiry = Inquiry::new(Connected {
        stream: ours.into(),
        address: None,
        received: BytesMut::new(),
        version: ProtocolVersion::V3_0,
        parameters: vec![(b"in_hot_standby".to_vec(), b"on".to_vec())],
        key: None,
    });
    theirs.write_all(answer).await.unwrap();
    theirs.shutdown().await.unwrap();
    (inquiry, Scripted(theirs))
}

fn row(columns: &[Option<&[u8]>]) -> Vec<u8> {
    let mut out = Vec::new();
    crate::protocol::encode::data_row(&mut out, columns.iter().copied());
    out
}

const READY: &[u8] = b"Z\0\0\0\x05I";
const REFUSED: &[u8] = b"E\0\0\0\x12C42501\0Mnope\0\0Z\0\0\0\x05I";
const LIMIT: u32 = 1000;

fn texts(rows: &Rows) -> Vec<Vec<Option<&str>>> {
    let mut all = Vec::new();
    for row in rows.iter() {
        all.push((0..row.columns()).map(|column| row.text(column)).collect());
    }
    all
}

#[tokio::test]
async fn answers_belong_to_their_questions_and_a_refusal_harms_nothing() {
    let first = row(&[Some(b"a"), None]);
    let second = row(&[Some(b""), Some(b"b")]);
    let described = b"T\0\0\0\x06\0\0".to_vec();
    let reported = b"S\0\0\0\x17in_hot_standby\0off\0";
    let last = row(&[Some(b"\xff")]);
    let answer = [
        &described,
        &first[..],
        &second,
        READY,
        REFUSED,
        reported,
        &last,
        READY,
    ];
    let (mut inquiry, server) = scripted(&answer.concat()).await;
    assert_eq!(inquiry.parameter("in_hot_standby"), Some(&b"on"[..]));

    let rows = inquiry.ask("one", LIMIT).await.unwrap();
    let expected = [vec![Some("a"), None], vec![Some(""), Some("b")]];
    assert_eq!((rows.len(), texts(&rows)), (2, expected.to_vec()));
    assert_eq!(format!("{rows:?}"), "Rows(2 rows of 2 columns)");

    let refused = inquiry.ask("two", LIMIT).await;
    assert!(matches!(refused, Err(InquiryError::Refused(refusal)) if refusal.text == "nope"));

    let rows = inquiry.ask("three", LIMIT).await.unwrap();
    let only = rows.at(0).unwrap();
    assert_eq!((only.bytes(0), only.text(0)), (Some(&b"\xff"[..]), None));
    assert_eq!((only.bytes(1), rows.at(1).is_none()), (None, true));
    assert_eq!(inquiry.parameter("in_hot_standby"), Some(&b"off"[..]));

    drop(inquiry);
    let heard = server.heard().await;
    let asked: &[u8] = b"Q\0\0\0\x08one\0Q\0\0\0\x08two\0Q\0\0\0\x0athree\0";
    assert_eq!(
        heard.escape_ascii().to_string(),
        asked.escape_ascii().to_string()
    );
}

#[tokio::test]
async fn what_is_prepared_is_asked_again_without_its_text() {
    let answer = row(&[Some(b"0/1")]);
    let script = [READY, &answer, READY, &answer, READY].concat();
    let (mut inquiry, server) = scripted(&script).await;
    let question = inquiry.prepare("poll", "select lsn").await.unwrap();
    for _ in 0..2 {
        let rows = inquiry.ask_prepared(&question, LIMIT).await.unwrap();
        assert_eq!(texts(&rows), [[Some("0/1")]]);
    }
    drop(inquiry);
    let heard = server.heard().await.escape_ascii().to_string();
    assert_eq!(heard.matches("select lsn").count(), 1, "{heard}");
    assert_eq!(heard.matches("poll").count(), 3, "{heard}");
    assert_eq!(heard.matches("S\\x00\\x00\\x00\\x04").count(), 3, "{heard}");
}

#[tokio::test]
async fn a_broken_or_endless_answer_ends_the_session() {
    let huge = [&b"D\x7f\xff\xff\xff"[..], &[0; 64]].concat();
    let endless = b"N\0\0\0\x04".repeat(250);
    let uneven = [row(&[None]), row(&[None, None]), READY.to_vec()].concat();
    let too_much = |error: &ConnectFailure| matches!(error, ConnectFailure::TooMuch { .. });
    for (answer, is_too_much) in [
        (&huge[..], true),
        (&endless, true),
        (&uneven, false),
        (b"D\0\0\0\x03", false),
        (b"D\0\0\0\x06\0\x09Z\0\0\0\x05I", false),
        (b"G\0\0\0\x07\0\0\0", false),
        // A transaction that stays open is no answer to a question.
        (b"Z\0\0\0\x05T", false),
        (b"1\0\0\0\x04", false),
        (b"", false),
    ] {
        let (mut inquiry, server) = scripted(answer).await;
        match inquiry.ask("one", LIMIT).await {
            Err(InquiryError::Broken(failure)) => {
                assert_eq!(too_much(&failure), is_too_much, "{failure:?}");
            }
            other => panic!("{answer:?}: {other:?}"),
        }
        let after = inquiry.ask("two", LIMIT).await;
        assert!(matches!(after, Err(InquiryError::Abandoned)), "{after:?}");
        drop(inquiry);
        assert!(!server.heard().await.ends_with(b"two\0"));
    }
}

/// What comes for a question that nobody waits for any more is not taken for the next one's answer.
#[tokio::test]
async fn a_question_that_was_dropped_ends_the_session() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut inquiry = Inquiry::new(Connected {
        stream: ours.into(),
        address: None,
        received: BytesMut::new(),
        version: ProtocolVersion::V3_0,
        parameters: Vec::new(),
        key: None,
    });
    {
        let mut asking = std::pin::pin!(inquiry.ask("one", LIMIT));
        let polled =
            std::future::poll_fn(|cx| std::task::Poll::Ready(asking.as_mut().poll(cx).is_ready()));
        assert!(!polled.await);
    }
    theirs.write_all(READY).await.unwrap();
    let after = inquiry.ask("two", LIMIT).await;
    assert!(matches!(after, Err(InquiryError::Abandoned)), "{after:?}");
}

#[tokio::test]
async fn questions_hold_no_nul() {
    let (mut inquiry, _server) = scripted(READY).await;
    let nul = inquiry.ask("a\0b", LIMIT).await;
    assert!(matches!(nul, Err(InquiryError::Nul)));
    let nul = inquiry.ask_about("a", "b", LIMIT).await;
    assert!(nul.is_ok(), "the session was not touched: {nul:?}");
}

#[tokio::test]
async fn a_connection_that_breaks_unasked_is_noticed() {
    let reported = b"S\0\0\0\x17in_hot_standby\0off\0";
    let (mut inquiry, _server) = scripted(reported).await;
    assert!(matches!(inquiry.broken().await, InquiryError::Broken(_)));
    assert_eq!(inquiry.parameter("in_hot_standby"), Some(&b"off"[..]));
    let after = inquiry.ask("one", LIMIT).await;
    assert!(matches!(after, Err(InquiryError::Abandoned)));

    let goodbye = &REFUSED[..REFUSED.len() - READY.len()];
    let (mut inquiry, _server) = scripted(goodbye).await;
    assert!(
        matches!(inquiry.broken().await, InquiryError::Refused(refusal) if refusal.text == "nope")
    );
    let after = inquiry.ask("one", LIMIT).await;
    assert!(matches!(after, Err(InquiryError::Abandoned)));

    let (mut inquiry, _server) = scripted(&row(&[Some(b"unasked")])).await;
    assert!(matches!(inquiry.broken().await, InquiryError::Broken(_)));
}
