//! tokio-postgres: it pipelines whatever is asked for at the same time, speaks binary, and closes statements and
//! portals in the background.

use std::time::Duration;

use futures_util::{SinkExt as _, TryStreamExt as _, future::join_all, pin_mut};
use tokio::time::sleep;
use tokio_postgres::{
    Error,
    binary_copy::BinaryCopyInWriter,
    error::SqlState,
    types::{ToSql, Type},
};

use crate::{session::Session, subject::Subject};

const ROUNDS: usize = 30;

fn state(error: &Error) -> &SqlState {
    error
        .code()
        .unwrap_or_else(|| panic!("the server was expected to answer: {error:?}"))
}

#[tokio::test]
async fn pipelined_queries_are_answered_in_their_order_and_with_their_tags() {
    Subject::new()
        .together(async |number, url| {
            let session = Session::connect(url).await;
            let tagged = session
                .prepare("SELECT $1::text, g FROM generate_series(1, $2::int4) g")
                .await
                .unwrap();
            for round in 0..ROUNDS {
                let queries = (0..20_i32).map(|n| {
                    let (session, tagged) = (&session, &tagged);
                    async move {
                        let tag = format!("rust-{number}-{round}-{n}");
                        let rows = session.query(tagged, &[&tag, &n]).await.unwrap();
                        let found: Vec<_> = rows
                            .iter()
                            .map(|r| (r.get::<_, String>(0), r.get::<_, i32>(1)))
                            .collect();
                        let wanted: Vec<_> = (1..=n).map(|g| (tag.clone(), g)).collect();
                        assert_eq!(found, wanted);
                    }
                });
                join_all(queries).await;
            }
            session.close().await;
        })
        .await;
}

#[tokio::test]
async fn errors_in_a_pipeline_belong_to_their_own_query() {
    Subject::new()
        .together(async |number, url| {
            let session = Session::connect(url).await;
            let divide = session.prepare("SELECT $1::int4 / $2::int4").await.unwrap();
            for _ in 0..ROUNDS {
                let answers = join_all((0..30_i32).map(|n| {
                    let (session, divide) = (&session, &divide);
                    async move {
                        match n % 3 {
                            0 => {
                                session
                                    .query_one_scalar(divide, &[&(n * 100), &0_i32])
                                    .await
                            }
                            1 => session.query_one_scalar("SELEKT 1", &[]).await,
                            _ => {
                                session
                                    .query_one_scalar(divide, &[&(n * 100), &1_i32])
                                    .await
                            }
                        }
                    }
                }))
                .await;
                for (n, answer) in answers.into_iter().enumerate() {
                    let found: Result<i32, _> = answer.map_err(|e| state(&e).clone());
                    let wanted = match n % 3 {
                        0 => Err(SqlState::DIVISION_BY_ZERO),
                        1 => Err(SqlState::SYNTAX_ERROR),
                        _ => Ok(i32::try_from(n).unwrap() * 100),
                    };
                    assert_eq!(found, wanted, "query {n} of client {number}");
                }
            }
            session.close().await;
        })
        .await;
}

#[tokio::test]
async fn statements_are_closed_and_prepared_anew() {
    Subject::new()
        .together(async |number, url| {
            let session = Session::connect(url).await;
            for round in 0..ROUNDS {
                let sql = format!("SELECT $1::int4 + {}", number * 100 + round % 5);
                // Dropped at the end of the round: Close and Sync go out between other requests.
                let statement = session.prepare(&sql).await.unwrap();
                let twice = session.prepare(&sql).await.unwrap();
                for each in [&statement, &twice, &statement] {
                    let found: i32 = session.query_one_scalar(each, &[&1_i32]).await.unwrap();
                    assert_eq!(found, i32::try_from(number * 100 + round % 5 + 1).unwrap());
                }
            }
            session.close().await;
        })
        .await;
}

#[tokio::test]
async fn unnamed_statements_with_their_types() {
    Subject::new()
        .together(async |number, url| {
            let session = Session::connect(url).await;
            for n in 0..ROUNDS {
                let tag = format!("typed-{number}-{n}");
                let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&tag, Type::TEXT)];
                let row = session
                    .query_typed_one("SELECT $1", &parameters)
                    .await
                    .unwrap();
                assert_eq!(row.get::<_, String>(0), tag);
            }
            session.close().await;
        })
        .await;
}

#[tokio::test]
async fn transactions_savepoints_and_portals() {
    let subject = Subject::new();
    let setup = Session::connect(subject.url()).await;
    setup
        .batch_execute("CREATE TABLE rust_tx (client int4, n int4, UNIQUE (client, n))")
        .await
        .unwrap();
    subject
        .together(async |number, url| {
            let number = i32::try_from(number).unwrap();
            let mut session = Session::connect(url).await;
            let insert = session
                .prepare("INSERT INTO rust_tx VALUES ($1, $2)")
                .await
                .unwrap();
            for n in 0..5_i32 {
                let mut transaction = session.transaction().await.unwrap();
                transaction.execute(&insert, &[&number, &n]).await.unwrap();
                let savepoint = transaction.transaction().await.unwrap();
                let twice = savepoint
                    .execute(&insert, &[&number, &n])
                    .await
                    .unwrap_err();
                assert_eq!(state(&twice), &SqlState::UNIQUE_VIOLATION);
                let failed = savepoint.query("SELECT 1", &[]).await.unwrap_err();
                assert_eq!(state(&failed), &SqlState::IN_FAILED_SQL_TRANSACTION);
                savepoint.rollback().await.unwrap();

                let walk = transaction
                    .prepare("SELECT $1::int4 * 1000 + g FROM generate_series(1, 50) g")
                    .await
                    .unwrap();
                let portal = transaction.bind(&walk, &[&number]).await.unwrap();
                let mut found = Vec::new();
                loop {
                    let rows = transaction.query_portal(&portal, 7).await.unwrap();
                    if rows.is_empty() {
                        break;
                    }
                    found.extend(rows.iter().map(|row| row.get::<_, i32>(0)));
                }
                assert_eq!(
                    found,
                    (1..=50).map(|g| number * 1000 + g).collect::<Vec<_>>()
                );
                drop(portal);
                if n % 2 == 0 {
                    transaction.commit().await.unwrap();
                } else {
                    drop(transaction); // Rolls back in the background.
                }
            }
            let kept: i64 = session
                .query_one_scalar("SELECT count(*) FROM rust_tx WHERE client = $1", &[&number])
                .await
                .unwrap();
            assert_eq!(kept, 3);
            session.close().await;
        })
        .await;
    setup.batch_execute("DROP TABLE rust_tx").await.unwrap();
}

#[tokio::test]
async fn copy_in_and_out() {
    let subject = Subject::new();
    let setup = Session::connect(subject.url()).await;
    setup
        .batch_execute("CREATE TABLE rust_copy (tag text, n int4)")
        .await
        .unwrap();
    subject.together(async |number, url| {
        let session = Session::connect(url).await;
        let tag = format!("copy-{number}");
        let sink = session.copy_in("COPY rust_copy FROM STDIN").await.unwrap();
        pin_mut!(sink);
        let text: String = (0..1000).map(|n| format!("{tag}\t{n}\n")).collect();
        sink.send(bytes::Bytes::from(text.clone())).await.unwrap();
        assert_eq!(sink.finish().await.unwrap(), 1000);

        let sink = session
            .copy_in("COPY rust_copy FROM STDIN BINARY")
            .await
            .unwrap();
        let writer = BinaryCopyInWriter::new(sink, &[Type::TEXT, Type::INT4]);
        pin_mut!(writer);
        for n in 1000..2000_i32 {
            writer.as_mut().write(&[&tag, &n]).await.unwrap();
        }
        assert_eq!(writer.finish().await.unwrap(), 1000);

        let sql = format!(
            "COPY (SELECT * FROM rust_copy WHERE tag = '{tag}' AND n < 1000 ORDER BY n) TO STDOUT"
        );
        let stream = session.copy_out(&sql).await.unwrap();
        let found: Vec<u8> = stream
            .map_ok(|piece| piece.to_vec())
            .try_concat()
            .await
            .unwrap();
        assert!(
            found == text.as_bytes(),
            "other bytes came out than went in"
        );
        session.close().await;
    })
    .await;
    setup.batch_execute("DROP TABLE rust_copy").await.unwrap();
}

#[tokio::test]
async fn aborted_copies_leave_the_connection_usable() {
    let subject = Subject::new();
    let session = Session::connect(subject.url()).await;
    session
        .batch_execute("CREATE TABLE rust_abort (n int4)")
        .await
        .unwrap();
    let rows = "SELECT count(*) FROM rust_abort";
    for _ in 0..5 {
        {
            let sink = session.copy_in("COPY rust_abort FROM STDIN").await.unwrap();
            pin_mut!(sink);
            sink.send(bytes::Bytes::from_static(b"1\n2\n"))
                .await
                .unwrap();
            // Dropped unfinished: CopyFail.
        }
        assert_eq!(
            session.query_one_scalar::<i64, _>(rows, &[]).await.unwrap(),
            0
        );

        let sink = session.copy_in("COPY rust_abort FROM STDIN").await.unwrap();
        pin_mut!(sink);
        sink.send(bytes::Bytes::from_static(b"1\nnot a number\n"))
            .await
            .unwrap();
        let error = sink.finish().await.unwrap_err();
        assert_eq!(state(&error), &SqlState::INVALID_TEXT_REPRESENTATION);

        let lines = "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 20000)) TO STDOUT";
        {
            let stream = session.copy_out(lines).await.unwrap();
            pin_mut!(stream);
            assert!(stream.try_next().await.unwrap().is_some());
            // Abandoned: tokio-postgres drains the rest while the next query waits behind it.
        }
        assert_eq!(
            session.query_one_scalar::<i64, _>(rows, &[]).await.unwrap(),
            0
        );
    }
    session
        .batch_execute("DROP TABLE rust_abort")
        .await
        .unwrap();
    session.close().await;
}

#[tokio::test]
async fn a_cancel_stops_its_own_query_only() {
    let subject = Subject::new();
    let victim = Session::connect(subject.url()).await;
    let bystander = Session::connect(subject.url()).await;
    for n in 0..5_i32 {
        let cancel = async {
            sleep(Duration::from_millis(50)).await;
            victim.cancel().await;
        };
        let (stopped, calm, ()) = tokio::join!(
            victim.query("SELECT pg_sleep(60)", &[]),
            bystander.query_one_scalar::<String, _>("SELECT 'calm' FROM pg_sleep(0.2)", &[]),
            cancel
        );
        assert_eq!(state(&stopped.unwrap_err()), &SqlState::QUERY_CANCELED);
        assert_eq!(calm.unwrap(), "calm");
        victim.cancel().await; // Idle: stops nothing.
        assert_eq!(
            victim
                .query_one_scalar::<i32, _>("SELECT $1::int4", &[&n])
                .await
                .unwrap(),
            n
        );
    }
}

#[tokio::test]
async fn queries_that_nobody_waits_for() {
    Subject::new()
        .together(async |number, url| {
            let session = Session::connect(url).await;
            for n in 0..ROUNDS {
                // The request is out, its future is gone: the answer must go nowhere, and not to the next query.
                let abandoned =
                    session.simple_query("SELECT 'abandoned' FROM generate_series(1, 100)");
                drop(tokio::time::timeout(Duration::from_micros(50), abandoned).await);
                let tag = format!("{number}-{n}");
                assert_eq!(
                    session
                        .query_one_scalar::<String, _>("SELECT $1::text", &[&tag])
                        .await
                        .unwrap(),
                    tag
                );
            }
            session.vanish().await;
        })
        .await;
}

#[tokio::test]
async fn large_values_many_parameters_and_nulls() {
    let subject = Subject::new();
    let session = Session::connect(subject.url()).await;
    let text = "é8".repeat(3 << 20);
    assert!(
        session
            .query_one_scalar::<String, _>("SELECT $1::text", &[&text])
            .await
            .unwrap()
            == text
    );
    let bytes = vec![0xff_u8; 8 << 20];
    assert!(
        session
            .query_one_scalar::<Vec<u8>, _>("SELECT $1::bytea", &[&bytes])
            .await
            .unwrap()
            == bytes
    );

    let count = usize::from(u16::MAX);
    let marks: Vec<_> = (1..=count).map(|n| format!("${n}::int8")).collect();
    let values: Vec<i64> = (0..).take(count).collect();
    let parameters: Vec<&(dyn ToSql + Sync)> = values.iter().map(|v| v as _).collect();
    let sum = format!(
        "SELECT sum(v)::int8 FROM unnest(ARRAY[{}]) v",
        marks.join(",")
    );
    assert_eq!(
        session
            .query_one_scalar::<i64, _>(&sum, &parameters)
            .await
            .unwrap(),
        values.iter().sum::<i64>()
    );

    let row = session
        .query_one(
            "SELECT $1::text, $2::int4[], $3::float8, $4::text, $5::bool",
            &[
                &None::<String>,
                &vec![Some(1), None],
                &f64::NEG_INFINITY,
                &"\u{1f418}\u{202e}",
                &Some(true),
            ],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, Option<String>>(0), None);
    assert_eq!(row.get::<_, Vec<Option<i32>>>(1), [Some(1), None]);
    assert_eq!(row.get::<_, f64>(2), f64::NEG_INFINITY);
    assert_eq!(row.get::<_, String>(3), "\u{1f418}\u{202e}");
    assert_eq!(row.get::<_, Option<bool>>(4), Some(true));
    session.close().await;
}
