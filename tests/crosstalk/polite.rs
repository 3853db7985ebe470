//! A client by tokio-postgres: it does what applications do, is sometimes in error, and sometimes dies.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt as _, TryStreamExt as _, future::join_all, pin_mut};
use tokio::time::{sleep, timeout};
use tokio_postgres::{
    AsyncMessage, Error, SimpleQueryMessage, Statement, error::SqlState, types::ToSql,
};

use crate::{
    session::Session,
    support::dice::Dice,
    world::{Fate, SCHEMAS, Settings, World, soon, tagged_rows},
};

struct Polite {
    world: Arc<World>,
    dice: Dice,
    tag: String,
    session: Session,
    settings: Settings,
    /// What RESET ALL and DISCARD ALL go back to.
    at_start: Settings,
    statement: Option<Statement>,
    entries: i32,
}

/// One connection, from its start to its end.
pub(crate) async fn live(world: Arc<World>, mut dice: Dice, tag: String) {
    let mut at_start = Settings::fresh();
    let mut options = String::new();
    if dice.once_in(3) {
        at_start.custom = format!("start-{tag}");
        options = format!("-c xt.tag={}", at_start.custom);
    }
    let connect = Session::connect_with(&world.url, |config| {
        config.application_name(&tag).options(options);
    });
    let session = soon("connecting", &tag, connect).await;
    let mut client = Polite {
        settings: at_start.clone(),
        at_start,
        statement: None,
        entries: 0,
        world,
        dice,
        tag: tag.clone(),
        session,
    };
    client.ask().await; // Nothing of a predecessor may show.
    for _ in 0..1 + client.dice.below(12) {
        if client.world.over() {
            break;
        }
        soon("an action", &tag, client.act()).await;
    }
    soon("leaving", &tag, client.leave()).await;
}

fn sql_state(error: &Error) -> &SqlState {
    error
        .code()
        .unwrap_or_else(|| panic!("the server was expected to answer: {error:?}"))
}

impl Polite {
    async fn act(&mut self) {
        match self.dice.below(16) {
            0 | 1 => self.ask().await,
            2 | 3 => self.ask_prepared().await,
            4 => self.pipeline_with_errors().await,
            5 | 6 => self.transaction().await,
            7 => self.change_settings().await,
            8 => self.cancel_own().await,
            9 => self.run_into_timeout().await,
            10 => self.copy().await,
            11 => self.ask_for_much().await,
            12 => self.notices().await,
            13 => self.hold_a_server().await,
            14 => self.start_over().await,
            _ => self.prepare_by_sql().await,
        }
        if self.dice.once_in(4) {
            sleep(Duration::from_millis(self.dice.below(20) as u64)).await;
        }
        self.ask().await;
    }

    /// Simple query: rows that name us, and our settings.
    async fn ask(&mut self) {
        self.world.count("simple query");
        let count = 1 + self.dice.below(20);
        let sql = tagged_rows(&format!("'{}'", self.tag), &count.to_string());
        let found = self.session.simple_query(&sql).await.unwrap();
        self.expect_rows(&simple_rows(&found), count, &self.tag.clone());
    }

    fn expect_rows(&self, found: &[String], count: usize, asked: &str) {
        let wanted = vec![self.settings.row(asked, &self.tag); count];
        assert_eq!(found, wanted, "rows of {}", self.tag);
        self.world.count_rows(count);
    }

    async fn ask_prepared(&mut self) {
        self.world.count("prepared pipeline");
        let statement = self.statement().await;
        let queries: Vec<_> = (0..1 + self.dice.below(8))
            .map(|n| (format!("{}:{n}", self.tag), 1 + self.dice.below(30)))
            .collect();
        let answers = join_all(queries.iter().map(async |(asked, count)| {
            let count = i32::try_from(*count).unwrap();
            self.session
                .query(&statement, &[asked, &count])
                .await
                .unwrap()
        }))
        .await;
        for ((asked, count), rows) in queries.iter().zip(answers) {
            let found: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            self.expect_rows(&found, *count, asked);
        }
        if self.dice.once_in(4) {
            self.statement = None; // Closed in the background.
        }
    }

    async fn statement(&mut self) -> Statement {
        if self.statement.is_none() {
            let sql = tagged_rows("$1::text", "$2::int4");
            self.statement = Some(self.session.prepare(&sql).await.unwrap());
        }
        self.statement.clone().expect("it was just prepared")
    }

    async fn pipeline_with_errors(&mut self) {
        self.world.count("pipeline with errors");
        let session = &self.session;
        let answers = join_all((0..9).map(async |n| {
            let asked = format!("{}:{n}", self.tag);
            match n % 3 {
                0 => {
                    session
                        .query_one_scalar::<String, _>("SELECT $1::text", &[&asked])
                        .await
                }
                1 => {
                    session
                        .query_one_scalar(
                            "SELECT $1::text || (1 / length($1))::text FROM nowhere",
                            &[&asked],
                        )
                        .await
                }
                _ => {
                    session
                        .query_one_scalar(
                            "SELECT $1::text || (1 / (length($1) - length($1)))::text",
                            &[&asked],
                        )
                        .await
                }
            }
        }))
        .await;
        for (n, answer) in answers.into_iter().enumerate() {
            let found = answer.map_err(|e| sql_state(&e).clone());
            let wanted = match n % 3 {
                0 => Ok(format!("{}:{n}", self.tag)),
                1 => Err(SqlState::UNDEFINED_TABLE),
                _ => Err(SqlState::DIVISION_BY_ZERO),
            };
            assert_eq!(found, wanted, "answer {n} of {}", self.tag);
        }
    }

    async fn execute(&self, sql: &str) {
        let done = self.session.batch_execute(sql).await;
        done.unwrap_or_else(|error| panic!("{}: {sql}: {error:?}", self.tag));
    }

    async fn refused(&self, sql: &str, wanted: &SqlState) {
        let error = self.session.batch_execute(sql).await.expect_err(sql);
        assert_eq!(sql_state(&error), wanted, "{}: {sql}", self.tag);
    }

    /// Writes and settings in a transaction, which ends one way or another.
    async fn transaction(&mut self) {
        self.world.count("transaction");
        let before = self.settings.clone();
        self.execute("BEGIN").await;
        let mut entries = vec![self.enter_one().await];
        self.set_one().await;
        self.ask().await;
        if self.dice.once_in(2) {
            let within = self.settings.clone();
            self.execute("SAVEPOINT here").await;
            let undone = self.enter_one().await;
            self.set_one().await;
            if self.dice.once_in(2) {
                self.refused("SELECT 1 / 0", &SqlState::DIVISION_BY_ZERO)
                    .await;
                self.refused("SELECT 1", &SqlState::IN_FAILED_SQL_TRANSACTION)
                    .await;
            }
            self.execute("ROLLBACK TO here").await;
            self.world.enter(&self.tag, &[undone], Fate::RolledBack);
            self.settings = within;
            self.ask().await;
            entries.push(self.enter_one().await);
        }
        match self.dice.below(4) {
            0 => {
                self.execute("ROLLBACK").await;
                self.world.enter(&self.tag, &entries, Fate::RolledBack);
                self.settings = before;
            }
            1 => {
                self.refused("SELECT 1 / 0", &SqlState::DIVISION_BY_ZERO)
                    .await;
                self.execute("COMMIT").await; // Which answers ROLLBACK.
                self.world.enter(&self.tag, &entries, Fate::RolledBack);
                self.settings = before;
            }
            _ => {
                self.execute("COMMIT").await;
                self.world.enter(&self.tag, &entries, Fate::Committed);
            }
        }
    }

    async fn enter_one(&mut self) -> i32 {
        self.entries += 1;
        let number = self.entries;
        self.world.enter(&self.tag, &[number], Fate::Unknown);
        let sql = "INSERT INTO public.ledger VALUES ($1, $2)";
        assert_eq!(
            self.session
                .execute(sql, &[&self.tag, &number])
                .await
                .unwrap(),
            1
        );
        number
    }

    async fn change_settings(&mut self) {
        self.world.count("SET outside a transaction");
        self.set_one().await;
        let number = self.enter_one().await;
        self.world.enter(&self.tag, &[number], Fate::Committed);
    }

    async fn set_one(&mut self) {
        match self.dice.below(4) {
            0 => {
                self.settings.custom = format!("{}/{}", self.tag, self.dice.below(1000));
                self.execute(&format!("SET xt.tag = '{}'", self.settings.custom))
                    .await;
            }
            1 => {
                self.settings.custom = format!("{}'\\{}", self.tag, self.dice.below(1000));
                let sql = "SELECT set_config('xt.tag', $1, false)";
                let set: String = self
                    .session
                    .query_one_scalar(sql, &[&self.settings.custom])
                    .await
                    .unwrap();
                assert_eq!(set, self.settings.custom);
            }
            2 => {
                let milliseconds = 80_001 + self.dice.below(900);
                self.settings.timeout = format!("{milliseconds}ms");
                self.execute(&format!("SET statement_timeout TO {milliseconds}"))
                    .await;
            }
            _ => {
                self.settings.schema = SCHEMAS[self.dice.below(SCHEMAS.len())];
                self.execute(&format!(
                    "SET SESSION search_path = {}",
                    self.settings.schema
                ))
                .await;
            }
        }
    }

    async fn cancel_own(&mut self) {
        self.world.count("cancel");
        let delay = Duration::from_micros(self.dice.below(12_000) as u64);
        let cancel = async {
            sleep(delay).await;
            self.session.cancel().await;
        };
        let sql = "SELECT $1::text FROM pg_sleep(0.006)";
        let parameters: [&(dyn ToSql + Sync); 1] = [&self.tag];
        let query = self.session.query_one_scalar::<String, _>(sql, &parameters);
        let (answer, ()) = tokio::join!(query, cancel);
        match answer {
            Ok(found) => assert_eq!(found, self.tag),
            Err(error) => assert_eq!(sql_state(&error), &SqlState::QUERY_CANCELED),
        }
    }

    async fn run_into_timeout(&mut self) {
        self.world.count("statement_timeout");
        let sql = "BEGIN; SET LOCAL statement_timeout = 10; SELECT pg_sleep(60)";
        self.refused(sql, &SqlState::QUERY_CANCELED).await;
        self.execute("ROLLBACK").await;
    }

    async fn copy(&mut self) {
        self.world.count("COPY");
        let numbers: Vec<i32> = (0..20).map(|n| self.entries + 1 + n).collect();
        self.entries += 20;
        self.world.enter(&self.tag, &numbers, Fate::Unknown);
        let fails = self.dice.once_in(3);
        let fate = {
            let sink = self
                .session
                .copy_in("COPY public.ledger FROM STDIN")
                .await
                .unwrap();
            pin_mut!(sink);
            for number in &numbers {
                sink.send(Bytes::from(format!("{}\t{number}\n", self.tag)))
                    .await
                    .unwrap();
            }
            if fails {
                sink.send(Bytes::from_static(b"nobody\tno number\n"))
                    .await
                    .unwrap();
            }
            if self.dice.once_in(3) {
                Fate::RolledBack // The sink is dropped unfinished: CopyFail.
            } else if fails {
                let error = sink.finish().await.unwrap_err();
                assert_eq!(sql_state(&error), &SqlState::INVALID_TEXT_REPRESENTATION);
                Fate::RolledBack
            } else {
                assert_eq!(sink.finish().await.unwrap(), 20);
                Fate::Committed
            }
        };
        let sql = format!(
            "COPY ({}) TO STDOUT",
            tagged_rows(&format!("'{}'", self.tag), "30")
        );
        let stream = self.session.copy_out(&sql).await.unwrap();
        let found: Vec<u8> = stream
            .map_ok(|piece| piece.to_vec())
            .try_concat()
            .await
            .unwrap();
        // COPY's text format doubles a backslash.
        let found = String::from_utf8(found).unwrap().replace("\\\\", "\\");
        self.expect_rows(
            &found.lines().map(str::to_owned).collect::<Vec<_>>(),
            30,
            &self.tag.clone(),
        );
        self.world.enter(&self.tag, &numbers, fate);
    }

    async fn ask_for_much(&mut self) {
        self.world.count("large rows");
        let count = 2_000 + self.dice.below(20_000);
        let sql = "SELECT repeat($1, $2) FROM generate_series(1, 3)";
        let rows = self
            .session
            .query(sql, &[&self.tag, &i32::try_from(count).unwrap()])
            .await
            .unwrap();
        let wanted = self.tag.repeat(count);
        let right = rows.iter().all(|row| row.get::<_, &str>(0) == wanted);
        assert!(
            right && rows.len() == 3,
            "large rows of {} are another's",
            self.tag
        );
        self.world.count_rows(3);
    }

    async fn notices(&mut self) {
        self.world.count("notices");
        self.session.messages();
        self.execute(&format!(
            "DO $$ BEGIN RAISE NOTICE 'to {}'; END $$",
            self.tag
        ))
        .await;
        let wanted = format!("to {}", self.tag);
        let heard = self.session.messages();
        let mine = |message: &AsyncMessage| matches!(message, AsyncMessage::Notice(n) if n.message() == wanted);
        assert!(heard.iter().any(mine), "{} heard {heard:?}", self.tag);
    }

    /// State that outlives transactions and holds a server; it ends with the session.
    async fn hold_a_server(&mut self) {
        let world = Arc::clone(&self.world);
        let Ok(_pin) = world.pins.try_acquire() else {
            return;
        };
        self.world.count("state that holds a server");
        let sql = format!(
            "CREATE TEMP TABLE mine AS SELECT '{tag}'::text AS owner; LISTEN chatter; \
             SELECT pg_advisory_lock(hashtext('{tag}')); DECLARE held CURSOR WITH HOLD FOR SELECT '{tag}'::text",
            tag = self.tag
        );
        self.execute(&sql).await;
        for _ in 0..3 {
            let owner: String = self
                .session
                .query_one_scalar("SELECT owner FROM mine", &[])
                .await
                .unwrap();
            assert_eq!(owner, self.tag);
            self.ask().await;
        }
        let held: String = self
            .session
            .query_one_scalar("FETCH held", &[])
            .await
            .unwrap();
        assert_eq!(held, self.tag);
        self.execute("DISCARD ALL").await;
        self.forget();
        self.refused("SELECT owner FROM mine", &SqlState::UNDEFINED_TABLE)
            .await;
    }

    async fn start_over(&mut self) {
        self.world.count("DISCARD ALL, RESET ALL, DEALLOCATE ALL");
        match self.dice.below(3) {
            0 => {
                self.execute("DISCARD ALL").await;
                self.forget();
            }
            1 => {
                self.execute("RESET ALL").await;
                self.settings = self.at_start.clone();
            }
            _ => {
                self.execute("DEALLOCATE ALL").await;
                self.statement = None;
            }
        }
    }

    /// The model of DISCARD ALL.
    fn forget(&mut self) {
        self.settings = self.at_start.clone();
        self.statement = None;
    }

    async fn prepare_by_sql(&mut self) {
        self.world.count("PREPARE at SQL level");
        self.execute(&format!(
            "PREPARE p (int) AS SELECT '{}' || $1::text",
            self.tag
        ))
        .await;
        for n in 0..3 {
            let found = self
                .session
                .simple_query(&format!("EXECUTE p({n})"))
                .await
                .unwrap();
            assert_eq!(simple_rows(&found), [format!("{}{n}", self.tag)]);
        }
        self.execute("DEALLOCATE p").await;
        self.refused("EXECUTE p(1)", &SqlState::INVALID_SQL_STATEMENT_NAME)
            .await;
    }

    /// Politely, or in the middle of something.
    async fn leave(mut self) {
        match self.dice.below(6) {
            0 | 1 => self.session.close().await,
            2 => self.session.vanish().await,
            3 => {
                self.world.count("gone in a transaction");
                self.execute("BEGIN; SET LOCAL xt.tag = 'abandoned'").await;
                let lost = self.enter_one().await;
                self.set_one().await;
                self.world.enter(&self.tag, &[lost], Fate::RolledBack);
                self.session.vanish().await;
            }
            4 => {
                self.world.count("gone in a query");
                let sql =
                    "SELECT repeat('abandoned', 100), pg_sleep(0.001) FROM generate_series(1, 20)";
                let wait = Duration::from_micros(self.dice.below(20_000) as u64);
                drop(timeout(wait, self.session.simple_query(sql)).await);
                self.session.vanish().await;
            }
            _ => {
                self.world.count("gone in a COPY");
                {
                    let sink = self
                        .session
                        .copy_in("COPY public.ledger FROM STDIN")
                        .await
                        .unwrap();
                    let mut sink = Box::pin(sink);
                    sink.send(Bytes::from_static(b"abandoned\t1\nabandoned\t"))
                        .await
                        .unwrap();
                    sink.flush().await.unwrap();
                    tokio::task::yield_now().await;
                    self.session.vanish().await; // Before the sink is dropped, which would end the COPY.
                }
            }
        }
    }
}

fn simple_rows(messages: &[SimpleQueryMessage]) -> Vec<String> {
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}
