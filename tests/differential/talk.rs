//! Rounds of a conversation: bytes that are sent in one go, with an empty query behind them, whose answer ends the round.

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

pub(crate) struct Talk {
    words: Words,
    /// The transaction status in which the last round ended.
    pub(crate) status: char,
}

impl Talk {
    pub(crate) fn new(words: Words) -> Self {
        Self { words, status: 'I' }
    }

    pub(crate) fn greeting(&self) -> Vec<u8> {
        ended(query(&self.words.reset()))
    }

    pub(crate) fn hear(&mut self, heard: &Heard) {
        self.status = heard.status();
    }

    pub(crate) fn round(&mut self, dice: &mut Dice) -> Vec<u8> {
        ended(match dice.below(10) {
            0..=3 => self.queries(dice),
            4 => self.copy_in(dice),
            5 => function_call(dice),
            _ => self.pipeline(dice),
        })
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

    /// COPY FROM STDIN with its data, that may be wrong, and its end.
    fn copy_in(&self, dice: &mut Dice) -> Vec<u8> {
        let text = format!("COPY c{}.t FROM STDIN", self.words.client);
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
        data.extend(match dice.below(3) {
            0 => message(b'f', b"changed my mind\0"),
            _ => copy_done(),
        });
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
            said.extend(sync());
            if dice.once_in(6) {
                said.extend(query(&self.words.statement(Way::Bound, dice, self.status)));
            }
        }
        said
    }

    fn step(&self, dice: &mut Dice, said: &mut Vec<u8>) {
        let name = *dice.pick(&NAMES);
        let portal = if dice.once_in(4) { "q" } else { "" };
        match dice.below(12) {
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

fn ended(said: Vec<u8>) -> Vec<u8> {
    [said, sync(), query("")].concat()
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
