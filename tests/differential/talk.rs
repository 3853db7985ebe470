//! Rounds of a conversation: bytes that are sent in one go or in several, and what is waited for behind each.

use crate::{
    heard::Heard,
    support::{
        dice::Dice,
        wire::{close, copy_data, copy_done, describe_target, flush, message, parse, query, sync},
    },
    words::{Way, Words},
};

/// Of statements and of portals.
const NAMES: [&str; 4] = ["", "a", "b", "c"];

/// What is sent before an answer is awaited.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) bytes: Vec<u8>,
    pub(crate) until: Until,
    /// Where it is cut into two writes.
    pub(crate) cut: Option<usize>,
}

/// What is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// The answers to a Sync and an empty Query, which end a round and stand nowhere else behind another Sync.
    End,
    /// One of these types.
    Any(&'static [u8]),
}

impl Until {
    /// Whether these types were the last.
    pub(crate) fn is_it(self, last: [u8; 4]) -> bool {
        match self {
            Self::End => last == *b"ZZIZ",
            Self::Any(types) => types.contains(&last[3]),
        }
    }
}

pub(crate) struct Talk {
    words: Words,
    /// Whether a batch is a transaction block from its second statement on, as since PostgreSQL 18: then it shows that
    /// others' sequence values are discarded in it (docs/session-state.md), so nobody asks for any; and a Query stands
    /// in no batch, where it would leave that block open.
    has_batch_blocks: bool,
    /// The transaction status in which the last round ended.
    pub(crate) status: char,
}

impl Talk {
    pub(crate) fn new(words: Words, has_batch_blocks: bool) -> Self {
        Self {
            words,
            has_batch_blocks,
            status: 'I',
        }
    }

    pub(crate) fn greeting(&self) -> Vec<Step> {
        vec![ended(query(&self.words.reset()))]
    }

    pub(crate) fn hear(&mut self, heard: &Heard) {
        self.status = heard.status();
    }

    pub(crate) fn round(&mut self, dice: &mut Dice) -> Vec<Step> {
        let said = match dice.below(15) {
            0..=3 => self.queries(dice),
            4 => self.copy_in(dice),
            5 => function_call(dice),
            6 => return self.patient(dice),
            7 => return self.patient_copy(dice),
            8 => self.story(dice),
            _ => self.pipeline(dice),
        };
        let mut step = ended(said);
        if dice.once_in(4) {
            step.cut = Some(1 + dice.below(step.bytes.len() - 1));
        }
        vec![step]
    }

    /// One message or two, and their answer, before the next.
    fn patient(&self, dice: &mut Dice) -> Vec<Step> {
        let name = *dice.pick(&NAMES);
        let text = self.words.parametrized(dice);
        let parameters = [["3", "three"], ["7", "2020-01-02"], ["x", "y"]];
        let parameters = *dice.pick(&parameters);
        let mut steps = vec![step(
            &[
                close(b'S', name),
                named(name, &text),
                describe_target(b'S', name),
                flush(),
            ],
            b"TnE",
        )];
        if dice.once_in(3) {
            // Between transactions the server may go to somebody else here.
            steps.push(step(&[sync()], b"Z"));
        }
        if dice.once_in(2) {
            steps.push(step(&[bind("q", name, &parameters, dice), flush()], b"2E"));
        } else {
            steps.push(step(&[bind("q", name, &parameters, dice)], b""));
        }
        for _ in 0..1 + dice.below(3) {
            steps.push(step(
                &[execute("q", *dice.pick(&[0, 1, 2])), flush()],
                b"CsE",
            ));
        }
        steps.push(ended(Vec::new()));
        steps
    }

    /// COPY FROM STDIN whose data is sent when it is asked for.
    fn patient_copy(&self, dice: &mut Dice) -> Vec<Step> {
        let text = format!("COPY c{}.t FROM STDIN", self.words.client);
        let text = match dice.below(4) {
            0 => format!("SELECT 1; {text}"),
            1 => format!("{text}; SELECT 2"),
            _ => text,
        };
        let simple = dice.once_in(2);
        let begin = if simple {
            step(&[query(&text)], b"GZ")
        } else {
            step(
                &[
                    parse("", &text),
                    bind("", "", &[], dice),
                    execute("", 0),
                    flush(),
                ],
                b"GE",
            )
        };
        let mut end = self.copy_data(dice);
        if !simple {
            end.extend([sync(), close(b'S', "")].concat());
        }
        vec![begin, ended(end)]
    }

    /// What only makes sense together, and begins outside of a transaction.
    fn story(&self, dice: &mut Dice) -> Vec<u8> {
        let c = self.words.client;
        if self.status != 'I' {
            return self.pipeline(dice);
        }
        match dice.below(8) {
            // In the transaction that has used the sequence: only there they answer (docs/session-state.md).
            0 | 1 if self.has_batch_blocks => query("SELECT 1"),
            0 => query(&format!(
                "BEGIN; SELECT nextval('c{c}.s'); SELECT currval('c{c}.s'), lastval(); COMMIT"
            )),
            1 => [
                query("BEGIN"),
                query(&format!("SELECT setval('c{c}.s', nextval('c{c}.s') + 3)")),
                parse("", &format!("SELECT currval('c{c}.s')")),
                bind("", "", &[], dice),
                execute("", 0),
                sync(),
                query("END"),
            ]
            .concat(),
            // Longer than what is looked into, and than what is held: nothing that it sets would be known
            // (docs/session-state.md).
            5 => {
                let text = format!("SELECT length('{}')", "x".repeat(70_000));
                if dice.once_in(2) {
                    return query(&text);
                }
                [parse("", &text), bind("", "", &[], dice), execute("", 0), sync()].concat()
            }
            6 => {
                let name = *dice.pick(&NAMES);
                [
                    close(*dice.pick(b"SP"), name),
                    parse("", &format!("VACUUM c{c}.t")),
                    bind("", "", &[], dice),
                    execute("", 0),
                    sync(),
                ]
                .concat()
            }
            2 => [query("SELECT setseed(0.25)"), query("SELECT random()")].concat(),
            // A portal outlives the Sync, and a Query, in its transaction.
            3 => [
                query("BEGIN"),
                parse("", "SELECT n, repeat('r', n) FROM generate_series(1, 9) n"),
                bind("q", "", &[], dice),
                execute("q", 2),
                sync(),
                query(&self.words.read(dice)),
                execute("q", 3),
                describe_target(b'P', "q"),
                sync(),
                query("FETCH 1 FROM q"),
                query("COMMIT"),
            ]
            .concat(),
            4 => [
                query(&format!(
                    "COPY c{c}.t FROM STDIN; SELECT count(*) FROM c{c}.t; COPY c{c}.t (a) FROM STDIN"
                )),
                copy_data(b"50\tfirst\n"),
                copy_done(),
                copy_data(b"51\n"),
                copy_done(),
            ]
            .concat(),
            _ => [query("SELECT 1"), query("")].concat(),
        }
    }

    /// One Query or several, of one statement or several.
    fn queries(&self, dice: &mut Dice) -> Vec<u8> {
        let mut said = Vec::new();
        for _ in 0..1 + dice.below(3) {
            let mut way = Way::Alone;
            if dice.once_in(4) {
                way = Way::Joined;
            }
            let mut text = self.words.statement(way, dice, self.status);
            while way == Way::Joined && !dice.once_in(3) {
                text += ";";
                text += &self.words.statement(way, dice, self.status);
            }
            said.extend(query(&text));
        }
        said
    }

    fn copy_data(&self, dice: &mut Dice) -> Vec<u8> {
        let mut data = Vec::new();
        for _ in 0..dice.below(3) {
            let line = *dice.pick(&[
                "30\tthirty\n",
                "31\t\\N\n",
                "1\ttwice\n",
                "x\ty\n",
                "32\n",
                "33\tcut",
            ]);
            data.extend(copy_data(line.as_bytes()));
        }
        if dice.once_in(8) {
            let wide = format!("60\t{}\n", "w".repeat(90_000));
            data.extend(copy_data(wide.as_bytes()));
        }
        data.extend(match dice.below(3) {
            0 => message(b'f', b"changed my mind\0"),
            _ => copy_done(),
        });
        data
    }

    /// COPY FROM STDIN with its data, that may be wrong, and its end.
    fn copy_in(&self, dice: &mut Dice) -> Vec<u8> {
        let text = format!("COPY c{}.t FROM STDIN", self.words.client);
        let data = self.copy_data(dice);
        if dice.once_in(2) {
            return [query(&text), data].concat();
        }
        // Without a name, and closed: bound again without data it would end the connection.
        [
            parse("", &text),
            bind("", "", &[], dice),
            execute("", 0),
            data,
            sync(),
            close(b'S', ""),
        ]
        .concat()
    }

    /// Batches of the extended protocol that do not wait for each other.
    fn pipeline(&self, dice: &mut Dice) -> Vec<u8> {
        let mut said = Vec::new();
        for _ in 0..1 + dice.below(3) {
            for _ in 0..1 + dice.below(3) {
                self.step(dice, &mut said);
            }
            let is_left_open = dice.once_in(12) && !self.has_batch_blocks;
            if !is_left_open {
                said.extend(sync());
            }
            if dice.once_in(6) {
                said.extend(query(&self.words.statement(Way::Bound, dice, self.status)));
            }
        }
        said
    }

    fn step(&self, dice: &mut Dice, said: &mut Vec<u8>) {
        let name = *dice.pick(&NAMES);
        let portal = if dice.once_in(4) { "q" } else { "" };
        match dice.below(15) {
            12 => {
                let few: [&[&str]; 3] = [&[], &["1"], &["1", "2", "3"]];
                said.extend(bind(portal, name, few[dice.below(3)], dice));
            }
            13 => {
                // Of what may not be there; what is there was bound in this batch, or PostgreSQL 15 may crash.
                said.extend(close(b'P', portal));
                said.extend(execute(portal, 0));
            }
            14 => {
                let mut body =
                    format!("{name}\0SELECT $1, $2 /* typed {name} */\0\0\x02").into_bytes();
                for kind in [23_u32, *dice.pick(&[25, 0, 1082, 99_999])] {
                    body.extend(kind.to_be_bytes());
                }
                said.extend(message(b'P', &body));
            }
            0..=3 => self.run(name, portal, dice, said),
            4..=6 => {
                let parameters = [["3", "three"], ["7", "2020-01-02"], ["x", "y"]];
                let parameters = *dice.pick(&parameters);
                if !dice.once_in(3) {
                    said.extend(close(b'S', name));
                    said.extend(named(name, &self.words.parametrized(dice)));
                }
                said.extend(bind(portal, name, &parameters, dice));
                self.look(name, portal, dice, said);
                said.extend(execute(portal, *dice.pick(&[0, 0, 1, 3])));
            }
            7 => said.extend(named(
                name,
                &self.words.statement(Way::Bound, dice, self.status),
            )),
            8 => said.extend(close(*dice.pick(b"SP"), name)),
            9 | 10 => said.extend(flush()),
            _ => self.look(name, portal, dice, said),
        }
    }

    /// A statement from its text to its rows.
    fn run(&self, name: &str, portal: &str, dice: &mut Dice, said: &mut Vec<u8>) {
        if !name.is_empty() && !dice.once_in(4) {
            said.extend(close(b'S', name));
        }
        said.extend(named(
            name,
            &self.words.statement(Way::Bound, dice, self.status),
        ));
        if dice.once_in(3) {
            said.extend(sync());
        }
        said.extend(bind(portal, name, &[], dice));
        self.look(name, portal, dice, said);
        // Only of what this batch has bound: PostgreSQL 15 crashes when a failed transaction is to go on with an earlier portal.
        let max_rows = *dice.pick(&[0, 0, 2]);
        said.extend(execute(portal, max_rows));
        if max_rows > 0 && dice.once_in(2) {
            said.extend(execute(portal, 0));
        }
    }

    fn look(&self, name: &str, portal: &str, dice: &mut Dice, said: &mut Vec<u8>) {
        match dice.below(4) {
            0 => said.extend(describe_target(b'S', name)),
            1 | 2 => said.extend(describe_target(b'P', portal)),
            _ => {}
        }
    }
}

fn ended(said: Vec<u8>) -> Step {
    Step {
        bytes: [said, sync(), sync(), query("")].concat(),
        until: Until::End,
        cut: None,
    }
}

fn step(said: &[Vec<u8>], until: &'static [u8]) -> Step {
    Step {
        bytes: said.concat(),
        until: Until::Any(until),
        cut: None,
    }
}

/// No two names for one text: where a client has that, an error may tell the other name.
fn named(name: &str, text: &str) -> Vec<u8> {
    parse(name, &format!("{text} /* {name} */"))
}

fn bind(portal: &str, statement: &str, parameters: &[&str], dice: &mut Dice) -> Vec<u8> {
    let mut body = [portal.as_bytes(), &[0], statement.as_bytes(), &[0, 0, 0]].concat();
    body.extend(u16::try_from(parameters.len()).unwrap().to_be_bytes());
    for parameter in parameters {
        body.extend(u32::try_from(parameter.len()).unwrap().to_be_bytes());
        body.extend(parameter.as_bytes());
    }
    // All columns in text, or all in binary.
    body.extend([0, 1, 0, u8::from(dice.once_in(6))]);
    message(b'B', &body)
}

fn execute(portal: &str, max_rows: i32) -> Vec<u8> {
    message(
        b'E',
        &[portal.as_bytes(), &[0], &max_rows.to_be_bytes()].concat(),
    )
}

/// Of `int4pl` (177), `int4div` (154), or one that is not there.
fn function_call(dice: &mut Dice) -> Vec<u8> {
    let function: i32 = *dice.pick(&[177, 154, 99_999]);
    let mut body = [&function.to_be_bytes()[..], &[0, 0, 0, 2]].concat();
    for number in [
        7,
        *dice.pick(&["0", "3"]).as_bytes().first().unwrap() - b'0',
    ] {
        body.extend([0, 0, 0, 1, b'0' + number]);
    }
    body.extend([0, 0]);
    message(b'F', &body)
}
