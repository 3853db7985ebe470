//! A client by bytes: random pipelines whose every answer is foretold, cut anywhere, and sometimes left half sent.

use std::{collections::HashMap, sync::Arc};

use crate::{
    support::dice::Dice,
    wire::{self, Wire},
    world::{Settings, World, soon, tagged_rows},
};

/// All clients use these names, for texts that differ.
const NAMES: [&str; 4] = ["", "a", "b", "c"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Text {
    /// Rows that name who asked and show the settings.
    Tagged,
    /// One row; the text itself names the client.
    Own,
    /// Fails in Execute.
    Fails,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Transaction {
    None,
    Open,
    Failed,
}

/// What the server knows of this session, as PostgreSQL's manual has it: by this the answers are foretold.
#[expect(
    clippy::struct_excessive_bools,
    reason = "what is known, each by itself"
)]
struct Model {
    tag: String,
    statements: HashMap<&'static str, Text>,
    transaction: Transaction,
    /// An error came: everything is skipped until Sync.
    skipping: bool,
    /// Something has been executed behind the last Sync.
    executed: bool,
    /// Since PostgreSQL 18 a Query that follows an Execute leaves its transaction open until the Sync.
    queries_join_batches: bool,
}

/// Bytes to send, and the answers that must come before more is sent.
#[derive(Default)]
struct Exchange {
    bytes: Vec<u8>,
    answers: Vec<String>,
}

/// One connection, from its start to its end.
pub(crate) async fn live(world: Arc<World>, mut dice: Dice, tag: String) {
    let mut wire = soon("connecting", &tag, Wire::connect(&world, &tag)).await;
    // A key that differs in one bit is nobody's key.
    let mut forged = wire.key.clone();
    *forged.last_mut().expect("BackendKeyData has a secret") ^= 1;
    world.bury(forged);

    let mut model = Model {
        tag: tag.clone(),
        statements: HashMap::new(),
        transaction: Transaction::None,
        skipping: false,
        executed: false,
        queries_join_batches: world.server_version >= 18,
    };
    for _ in 0..1 + dice.below(15) {
        if world.over() {
            break;
        }
        world.count("raw pipeline");
        let exchanges = model.pipeline(&mut dice);
        if dice.once_in(12) {
            world.count("gone in a pipeline");
            let last = &exchanges[0].bytes;
            wire.send_in_pieces(&last[..dice.below(last.len())], &mut dice)
                .await;
            world.bury(wire.key.clone());
            return;
        }
        for exchange in exchanges {
            soon(
                "an exchange",
                &tag,
                carry_out(&world, &mut wire, &exchange, &mut dice),
            )
            .await;
        }
        if dice.once_in(8) && model.transaction == Transaction::None {
            soon("a failed COPY", &tag, stray_copy(&world, &mut wire)).await;
            model.statements.remove("");
        }
    }
    world.bury(wire.key.clone());
    if dice.once_in(2) {
        wire.send(&wire::terminate()).await;
        assert_eq!(
            soon("leaving", &tag, wire.hang_up()).await,
            [""; 0],
            "after Terminate of {tag}"
        );
    }
}

async fn carry_out(world: &World, wire: &mut Wire, exchange: &Exchange, dice: &mut Dice) {
    wire.send_in_pieces(&exchange.bytes, dice).await;
    let mut found = Vec::new();
    for _ in &exchange.answers {
        found.push(wire.answer().await);
        if found.last().is_some_and(|answer| answer == "closed") {
            break;
        }
    }
    assert_eq!(
        found,
        exchange.answers,
        "answers to {}",
        exchange.bytes.escape_ascii()
    );
    world.count_rows(
        found
            .iter()
            .filter(|answer| answer.starts_with("D "))
            .count(),
    );
}

/// COPY that fails before it begins, by a client that sends its data all the same, as some drivers do: PostgreSQL
/// ignores the data, and answers each of the two Syncs.
async fn stray_copy(world: &World, wire: &mut Wire) {
    world.count("stray COPY data");
    let requests = [
        wire::parse("", "COPY nowhere FROM STDIN"),
        wire::bind("", &[]),
        wire::execute(0),
        wire::sync(),
        wire::copy_data(b"1\n"),
        wire::copy_fail(),
        wire::sync(),
        wire::close_statement(""),
        wire::sync(),
    ];
    wire.send(&requests.concat()).await;
    for wanted in ["1", "2", "E 42P01", "Z I", "Z I", "3", "Z I"] {
        assert_eq!(
            wire.answer().await,
            wanted,
            "a COPY that fails before it begins"
        );
    }
}

impl Model {
    /// A few requests and a Sync; each Flush may be waited for.
    fn pipeline(&mut self, dice: &mut Dice) -> Vec<Exchange> {
        let mut exchanges = vec![Exchange::default()];
        for _ in 0..1 + dice.below(8) {
            let exchange = exchanges.last_mut().expect("it is never empty");
            match dice.below(10) {
                0 | 1 => self.parse(dice, exchange),
                2..=5 => self.run(dice, exchange),
                6 => self.look(dice, exchange),
                7 => self.query(dice, exchange),
                8 => self.sync(exchange),
                _ => {
                    exchange.bytes.extend(wire::flush());
                    exchanges.push(Exchange::default());
                }
            }
        }
        let exchange = exchanges.last_mut().expect("it is never empty");
        self.sync(exchange);
        self.end_or_begin(dice, exchange);
        exchanges.retain(|exchange| !exchange.bytes.is_empty());
        exchanges
    }

    fn sync(&mut self, exchange: &mut Exchange) {
        exchange.bytes.extend(wire::sync());
        self.skipping = false;
        self.executed = false;
        exchange.answers.push(self.ready());
    }

    fn ready(&self) -> String {
        match self.transaction {
            Transaction::None => "Z I",
            Transaction::Open => "Z T",
            Transaction::Failed => "Z E",
        }
        .to_owned()
    }

    /// The answer to a request that fails.
    fn fail(&mut self, code: &str, exchange: &mut Exchange) {
        exchange.answers.push(format!("E {code}"));
        if self.transaction == Transaction::Open {
            self.transaction = Transaction::Failed;
        }
    }

    fn fail_and_skip(&mut self, code: &str, exchange: &mut Exchange) {
        self.fail(code, exchange);
        self.skipping = true;
    }

    fn sql(&self, text: Text) -> String {
        match text {
            Text::Tagged => tagged_rows("$1::text", "$2::int4"),
            Text::Own => format!("SELECT $1::text || '/{}' || $2::int4", self.tag),
            // random() keeps the planner from finding out: then it would fail in Bind already.
            Text::Fails => {
                "SELECT $1::text || (1 / (random() * 0 * $2::int4)::int4)::text".to_owned()
            }
        }
    }

    fn parse(&mut self, dice: &mut Dice, exchange: &mut Exchange) {
        let name = *dice.pick(&NAMES);
        let text = *dice.pick(&[
            Text::Tagged,
            Text::Tagged,
            Text::Own,
            Text::Own,
            Text::Fails,
        ]);
        let broken = dice.once_in(8);
        let sql = if broken {
            "SELEKT $1, $2".to_owned()
        } else {
            self.sql(text)
        };
        exchange.bytes.extend(wire::parse(name, &sql));
        if self.skipping {
            return;
        }
        if name.is_empty() {
            self.statements.remove(name); // Whether or not the new one is good.
        }
        if broken {
            self.fail_and_skip("42601", exchange);
        } else if self.transaction == Transaction::Failed {
            self.fail_and_skip("25P02", exchange);
        } else if self.statements.contains_key(name) {
            self.fail_and_skip("42P05", exchange);
        } else {
            exchange.answers.push("1".to_owned());
            self.statements.insert(name, text);
        }
    }

    /// Bind, perhaps Describe, and Execute in one go or in pieces.
    fn run(&mut self, dice: &mut Dice, exchange: &mut Exchange) {
        let name = *dice.pick(&NAMES);
        let asked = format!("{}:{}", self.tag, dice.below(1000));
        let count = dice.below(12);
        let describes = dice.once_in(3);
        let limit = if dice.once_in(3) {
            1 + dice.below(6)
        } else {
            0
        };
        exchange
            .bytes
            .extend(wire::bind(name, &[&asked, &count.to_string()]));
        if describes {
            exchange.bytes.extend(wire::describe_target(b'P', ""));
        }
        exchange
            .bytes
            .extend(wire::execute(i32::try_from(limit).unwrap()));
        if limit > 0 {
            exchange.bytes.extend(wire::execute(0));
        }
        if self.skipping {
            return;
        }
        let Some(text) = self.statements.get(name).copied() else {
            return self.fail_and_skip("26000", exchange);
        };
        if self.transaction == Transaction::Failed {
            return self.fail_and_skip("25P02", exchange);
        }
        exchange.answers.push("2".to_owned());
        if describes {
            exchange.answers.push("T 1".to_owned());
        }
        let rows = match text {
            Text::Tagged => vec![Settings::fresh().row(&asked, &self.tag); count],
            Text::Own => vec![format!("{asked}/{}{count}", self.tag)],
            Text::Fails => return self.fail_and_skip("22012", exchange),
        };
        self.executed = true;
        // A limit that is reached suspends the portal, even at its last row.
        let first = if limit == 0 || rows.len() < limit {
            rows.len()
        } else {
            limit
        };
        let row = |row: &String| format!("D {row}");
        exchange.answers.extend(rows[..first].iter().map(row));
        if limit == 0 {
            exchange.answers.push(format!("C SELECT {first}"));
            return;
        }
        if first < limit {
            exchange.answers.push(format!("C SELECT {first}"));
        } else {
            exchange.answers.push("s".to_owned());
        }
        exchange.answers.extend(rows[first..].iter().map(row));
        exchange
            .answers
            .push(format!("C SELECT {}", rows.len() - first));
    }

    /// Describe or Close of a statement.
    fn look(&mut self, dice: &mut Dice, exchange: &mut Exchange) {
        let name = *dice.pick(&NAMES);
        if dice.once_in(2) {
            exchange.bytes.extend(wire::close_statement(name));
            if !self.skipping {
                self.statements.remove(name);
                exchange.answers.push("3".to_owned());
            }
            return;
        }
        exchange.bytes.extend(wire::describe_target(b'S', name));
        if self.skipping {
            return;
        }
        if !self.statements.contains_key(name) {
            self.fail_and_skip("26000", exchange);
        } else if self.transaction == Transaction::Failed {
            self.fail_and_skip("25P02", exchange);
        } else {
            exchange
                .answers
                .extend(["t 2".to_owned(), "T 1".to_owned()]);
        }
    }

    fn query(&mut self, dice: &mut Dice, exchange: &mut Exchange) {
        let fails = dice.once_in(4);
        let asked = format!("{}:{}", self.tag, dice.below(1000));
        let count = dice.below(12);
        let sql = match fails {
            true => "SELECT 1 / 0".to_owned(),
            false => tagged_rows(&format!("'{asked}'"), &count.to_string()),
        };
        exchange.bytes.extend(wire::query(&sql));
        if self.skipping {
            return;
        }
        self.statements.remove(""); // A simple query replaces the unnamed statement.
        if self.transaction == Transaction::Failed {
            self.fail("25P02", exchange);
        } else if fails {
            self.fail("22012", exchange);
            self.executed = false;
        } else {
            exchange.answers.push("T 1".to_owned());
            let row = format!("D {}", Settings::fresh().row(&asked, &self.tag));
            exchange.answers.extend(std::iter::repeat_n(row, count));
            exchange.answers.push(format!("C SELECT {count}"));
        }
        if self.transaction == Transaction::None && self.executed && self.queries_join_batches {
            return exchange.answers.push("Z T".to_owned());
        }
        exchange.answers.push(self.ready());
    }

    /// After a Sync: now and then a transaction begins, and each one ends at some time.
    fn end_or_begin(&mut self, dice: &mut Dice, exchange: &mut Exchange) {
        let (sql, tag, next) = match self.transaction {
            Transaction::None if dice.once_in(3) => ("BEGIN", "BEGIN", Transaction::Open),
            Transaction::Open if dice.once_in(2) => ("COMMIT", "COMMIT", Transaction::None),
            Transaction::Failed if dice.once_in(2) => ("COMMIT", "ROLLBACK", Transaction::None),
            Transaction::Failed => ("ROLLBACK", "ROLLBACK", Transaction::None),
            Transaction::None | Transaction::Open => return,
        };
        exchange.bytes.extend(wire::query(sql));
        self.statements.remove("");
        self.transaction = next;
        exchange.answers.extend([format!("C {tag}"), self.ready()]);
    }
}
