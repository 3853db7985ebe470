//! tokio-postgres: state of a session that must be there in its later transactions, and nowhere else.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Row, error::SqlState};

use crate::{
    session::Session,
    subject::{CLIENTS, Subject},
};

async fn show(session: &Session, setting: &str) -> String {
    let sql = "SELECT coalesce(current_setting($1, true), '')";
    session.query_one_scalar(sql, &[&setting]).await.unwrap()
}

async fn code(session: &Session, sql: &str) -> SqlState {
    let error = session
        .batch_execute(sql)
        .await
        .expect_err("it was expected to fail");
    error
        .code()
        .unwrap_or_else(|| panic!("the server was expected to answer: {error:?}"))
        .clone()
}

#[tokio::test]
async fn settings_follow_their_client_and_no_other() {
    let subject = Subject::new();
    subject
        .together(async |number, url| {
            let name = format!("app {number}");
            let session = Session::connect_with(url, |config| {
                config
                    .application_name(&name)
                    .options(format!("-c drv.start=s{number}"));
            })
            .await;
            session
                .batch_execute(&format!(
                    "SET drv.own = 'v{number}'; SET work_mem = '{}kB'",
                    1000 + number
                ))
                .await
                .unwrap();
            for round in 0..20 {
                assert_eq!(show(&session, "application_name").await, name);
                assert_eq!(show(&session, "drv.start").await, format!("s{number}"));
                assert_eq!(show(&session, "drv.own").await, format!("v{number}"));
                assert_eq!(
                    show(&session, "work_mem").await,
                    format!("{}kB", 1000 + number)
                );
                if round % 4 == 0 {
                    session
                        .batch_execute(
                            "BEGIN; SET drv.own = 'undone'; SAVEPOINT a; SET drv.own = 'too'",
                        )
                        .await
                        .unwrap();
                    assert_eq!(show(&session, "drv.own").await, "too");
                    session.batch_execute("ROLLBACK TO a").await.unwrap();
                    assert_eq!(show(&session, "drv.own").await, "undone");
                    session.batch_execute("ROLLBACK").await.unwrap();
                }
                if round % 4 == 1 {
                    assert_eq!(
                        code(&session, "BEGIN; SET drv.own = 'undone'; SELECT 1/0").await,
                        SqlState::DIVISION_BY_ZERO
                    );
                    session.batch_execute("COMMIT").await.unwrap(); // Which answers ROLLBACK.
                }
            }
            session.batch_execute("RESET ALL").await.unwrap();
            assert_eq!(show(&session, "drv.own").await, "");
            assert_eq!(show(&session, "drv.start").await, format!("s{number}"));
            session.close().await;
        })
        .await;
    let fresh = Session::connect(subject.url()).await;
    assert_eq!(
        show(&fresh, "drv.own").await + &show(&fresh, "drv.start").await,
        ""
    );
}

#[tokio::test]
async fn a_setting_decides_what_a_prepared_statement_means() {
    let subject = Subject::new();
    let setup = Session::connect(subject.url()).await;
    let schemas: String = (0..CLIENTS)
        .map(|n| format!("CREATE SCHEMA rust_{n}; CREATE TABLE rust_{n}.who AS SELECT {n} AS me;"))
        .collect();
    setup.batch_execute(&schemas).await.unwrap();
    subject
        .together(async |number, url| {
            let session = Session::connect(url).await;
            session
                .batch_execute(&format!("SET search_path TO rust_{number}"))
                .await
                .unwrap();
            let who = session.prepare("SELECT me FROM who").await.unwrap();
            for _ in 0..20 {
                let me: i32 = session.query_one_scalar(&who, &[]).await.unwrap();
                assert_eq!(usize::try_from(me).unwrap(), number);
            }
            // The statement is planned anew under the other path, as PostgreSQL does it.
            let other = (number + 1) % CLIENTS;
            session
                .batch_execute(&format!("SET search_path TO rust_{other}"))
                .await
                .unwrap();
            let me: i32 = session.query_one_scalar(&who, &[]).await.unwrap();
            assert_eq!(usize::try_from(me).unwrap(), other);
            session.close().await;
        })
        .await;
    let schemas: String = (0..CLIENTS)
        .map(|n| format!("DROP SCHEMA rust_{n} CASCADE;"))
        .collect();
    setup.batch_execute(&schemas).await.unwrap();
}

#[tokio::test]
async fn notifications_arrive_without_a_query() {
    let subject = Subject::new();
    let listener = Session::connect(subject.url()).await;
    let sender = Session::connect(subject.url()).await;
    listener.batch_execute("LISTEN rust_channel").await.unwrap();
    for n in 0..5 {
        sender
            .batch_execute(&format!("NOTIFY rust_channel, 'hello {n}'"))
            .await
            .unwrap();
        let heard = timeout(Duration::from_secs(30), async {
            loop {
                if let Some(message) = listener.messages().pop() {
                    return message;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        match heard.await.expect("the notification did not arrive") {
            AsyncMessage::Notification(heard) => assert_eq!(heard.payload(), format!("hello {n}")),
            other => panic!("a notification was expected: {other:?}"),
        }
    }
    assert!(sender.messages().is_empty());
}

#[tokio::test]
async fn what_holds_a_server_is_seen_by_its_client_only() {
    let subject = Subject::new();
    let mine = Session::connect(subject.url()).await;
    let other = Session::connect(subject.url()).await;
    let make = "CREATE TEMP TABLE rust_scratch AS SELECT 'mine'::text AS owner;
                SELECT pg_advisory_lock(7275737);
                DECLARE rust_held CURSOR WITH HOLD FOR SELECT g FROM generate_series(1, 10) g";
    mine.batch_execute(make).await.unwrap();
    for n in 1..=5_i32 {
        assert_eq!(
            mine.query_one_scalar::<String, _>("SELECT owner FROM rust_scratch", &[])
                .await
                .unwrap(),
            "mine"
        );
        assert_eq!(
            mine.query_one_scalar::<i32, _>("FETCH rust_held", &[])
                .await
                .unwrap(),
            n
        );
        assert_eq!(
            code(&other, "SELECT owner FROM rust_scratch").await,
            SqlState::UNDEFINED_TABLE
        );
        assert_eq!(
            code(&other, "FETCH rust_held").await,
            SqlState::INVALID_CURSOR_NAME
        );
        let free = "SELECT pg_try_advisory_lock(7275737)";
        assert!(!other.query_one_scalar::<bool, _>(free, &[]).await.unwrap());
    }
    mine.vanish().await;
    other
        .batch_execute("SELECT pg_advisory_lock(7275737)")
        .await
        .unwrap(); // Waits until the lock of the gone is gone.
    assert_eq!(
        code(&other, "SELECT owner FROM rust_scratch").await,
        SqlState::UNDEFINED_TABLE
    );
    other.close().await;
}

#[tokio::test]
async fn a_table_that_changes_under_a_prepared_statement() {
    let subject = Subject::new();
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Session::connect(subject.url()).await);
    }
    clients[0]
        .batch_execute("CREATE TABLE rust_shape (a int4); INSERT INTO rust_shape VALUES (1)")
        .await
        .unwrap();
    let sql = "SELECT s.* FROM rust_shape s";
    let everywhere = async |sql| {
        for done in join_all(clients.iter().map(|client| client.batch_execute(sql))).await {
            done.unwrap();
        }
    };
    for n in 0..3 {
        // As many as there are servers: each has one, and all of these have the statement then.
        everywhere("BEGIN").await;
        let statements = join_all(clients.iter().map(|c| c.prepare(sql))).await;
        let statements: Vec<_> = statements.into_iter().map(Result::unwrap).collect();
        // What was prepared after ALTER TABLE has the new shape on whichever server, although its text is an old one.
        let pairs = || clients.iter().zip(&statements);
        for rows in join_all(pairs().map(|(client, statement)| client.query(statement, &[]))).await
        {
            assert_eq!(
                rows.unwrap().iter().map(Row::len).collect::<Vec<_>>(),
                [n + 1]
            );
        }
        everywhere("COMMIT").await;
        clients[0]
            .batch_execute(&format!("ALTER TABLE rust_shape ADD COLUMN c{n} int4"))
            .await
            .unwrap();
        // tokio-postgres reads rows by the description it had: an error it must be, not a row of another shape.
        for rows in join_all(pairs().map(|(client, statement)| client.query(statement, &[]))).await
        {
            let error = rows.expect_err("a row whose shape the client cannot know");
            assert_eq!(
                error.code(),
                Some(&SqlState::FEATURE_NOT_SUPPORTED),
                "{error:?}"
            );
        }
    }
    clients[0]
        .batch_execute("DROP TABLE rust_shape")
        .await
        .unwrap();
}

#[tokio::test]
async fn notices_reach_the_client_that_caused_them() {
    let subject = Subject::new();
    subject
        .together(async |number, url| {
            let session = Session::connect(url).await;
            for n in 0..20 {
                session
                    .batch_execute(&format!(
                        "DO $$ BEGIN RAISE NOTICE 'from {number} {n}'; END $$"
                    ))
                    .await
                    .unwrap();
                let heard: Vec<_> = session.messages().into_iter().map(notice).collect();
                assert_eq!(heard, [format!("from {number} {n}")]);
            }
            session.close().await;
        })
        .await;
}

fn notice(message: AsyncMessage) -> String {
    match message {
        AsyncMessage::Notice(notice) => notice.message().to_owned(),
        other => panic!("a notice was expected: {other:?}"),
    }
}
