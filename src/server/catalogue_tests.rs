use super::super::inquiry::tests::scripted;
use super::*;
use crate::protocol::encode::data_row;
use crate::sql::catalogue::{Catalogue, Declared};
use crate::sql::{Knowledge, Known};

fn answer(rows: &[[Option<&str>; 6]]) -> Vec<u8> {
    let mut out = Vec::new();
    for row in rows {
        data_row(&mut out, row.iter().map(|column| column.map(str::as_bytes)));
    }
    out.extend_from_slice(b"Z\0\0\0\x05I");
    out
}

#[tokio::test]
async fn rows_become_what_they_say() {
    let rows = [
        [Some("e"), None, None, Some("UTF8"), None, None],
        [
            Some("f"),
            Some("20000"),
            Some("public"),
            Some("bad"),
            Some("v"),
            None,
        ],
        [
            Some("f"),
            Some("20001"),
            Some("public"),
            Some("good"),
            Some("sq"),
            Some("SELECT 1"),
        ],
        [
            Some("f"),
            Some("20002"),
            Some("public"),
            Some("long"),
            Some("sq"),
            None,
        ],
        [
            Some("f"),
            Some("20003"),
            Some("public"),
            Some("defaulted"),
            Some("i"),
            None,
        ],
        [
            Some("mf"),
            Some("20003"),
            None,
            None,
            None,
            Some("f20000 o1 t2"),
        ],
        [
            Some("r"),
            Some("30000"),
            Some("public"),
            Some("v"),
            None,
            None,
        ],
        [
            Some("mr"),
            Some("30000"),
            None,
            None,
            None,
            Some("!({ROWMARKCLAUSE r5"),
        ],
    ];
    let (mut inquiry, _server) = scripted(&answer(&rows)).await;
    let survey = survey(&mut inquiry).await.unwrap();
    let catalogue = Catalogue::new(1, &survey, Declared::default());
    for (name, known) in [
        ("bad", Known::Volatile),
        ("good", Known::Safe),
        ("long", Known::Volatile),
        ("defaulted", Known::Volatile),
    ] {
        assert_eq!(catalogue.function(None, name.as_bytes()), known, "{name}");
    }
    assert!(catalogue.is_unsafe_name(Some(b"public"), b"v"));
}

#[tokio::test]
async fn what_is_not_understood_is_not_passed_over() {
    for row in [
        [Some("?"), Some("1"), None, None, None, None],
        [None; 6],
        [
            Some("f"),
            Some("x"),
            Some("public"),
            Some("bad"),
            Some("v"),
            None,
        ],
        [Some("mf"), Some("1"), None, None, None, Some("x5")],
        [Some("mf"), Some("1"), None, None, None, Some("f-5")],
        [
            Some("o"),
            Some("1"),
            None,
            Some("="),
            Some(""),
            Some("f1 t2"),
        ],
    ] {
        let (mut inquiry, _server) = scripted(&answer(&[row])).await;
        let survey = survey(&mut inquiry).await;
        assert!(matches!(survey, Err(SurveyError::Row(_))), "{row:?}");
    }
}

#[tokio::test]
async fn an_answer_without_end_is_a_survey_that_was_cut() {
    let (mut inquiry, _server) = scripted(b"D\x7f\xff\xff\xff").await;
    let survey = survey(&mut inquiry).await.unwrap();
    let catalogue = Catalogue::new(1, &survey, Declared::default());
    assert!(catalogue.distrust().is_some());
}
