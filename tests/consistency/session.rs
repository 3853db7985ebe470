//! One of the cast: it connects, writes, reads at once, says what it saw, and begins anew.

use std::net::SocketAddr;

use crate::{
    history::{Consistency, Event, Fate, Key, Read, SessionId, TokenId, What, Write},
    script::{Part, READ, SHARED_KEYS, write},
    support::{
        dice::Dice,
        raw::{Raw, bind, copy_data, copy_done, execute, parse, query, sync},
    },
    world::{SERVERS, World, lock},
};

/// The connection is gone.
struct Gone;

/// One connection.
#[expect(
    clippy::struct_excessive_bools,
    reason = "what was done, each by itself"
)]
struct Session<'a> {
    world: &'a World,
    part: &'a Part,
    raw: Raw,
    dice: &'a mut Dice,
    id: SessionId,
    /// The counter that nobody else writes.
    own_key: Key,
    own: &'a mut Own,
    events: Vec<Event>,
    writes: u32,
    /// Whether its writes are on disk when they are acknowledged.
    is_durable: bool,
    /// In front of each read.
    hint: &'static str,
    /// A token that goes into a comment of the next read.
    token: Option<(String, TokenId)>,
    is_read_prepared: bool,
    is_write_prepared: bool,
}

/// What one of the cast remembers from connection to connection.
#[derive(Default)]
struct Own {
    /// The counter that nobody else writes, if that is certain.
    value: Option<u32>,
    /// How often a crash had begun or ended when that was certain.
    era: usize,
    /// A prepared transaction that may have been left behind.
    prepared: Option<String>,
}

/// Plays a part until the end.
pub(crate) fn play(world: &World, slot: usize, dice: &mut Dice) {
    let mut own = Own {
        value: Some(0),
        ..Own::default()
    };
    let part = &world.cast[slot];
    while world.needs(part) {
        Session::live(world, slot, dice, &mut own);
    }
    world.leave(part);
}

fn strength(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::Eventual => "eventual",
        Consistency::Session => "session",
        Consistency::Strong => "strong",
    }
}

impl<'a> Session<'a> {
    fn live(world: &'a World, slot: usize, dice: &'a mut Dice, own: &'a mut Own) {
        let part = &world.cast[slot];
        let mut options = Vec::new();
        let mut hint = "";
        let mut commands = Vec::new();
        if part.database.is_some() && world.is_honest {
            if let Some(key) = part.key {
                let set = (
                    format!("-c pgweir.key={key}"),
                    format!("SET pgweir.key = '{key}'"),
                );
                if dice.once_in(2) {
                    options.push(set.0)
                } else {
                    commands.push(set.1)
                }
            }
            if part.consistency == Consistency::Strong {
                match dice.below(3) {
                    0 => options.push("-c pgweir.consistency=strong".to_owned()),
                    1 => commands.push("SET pgweir.consistency TO strong".to_owned()),
                    _ => hint = "/* pgweir: consistency=strong */ ",
                }
            }
        }
        let is_durable = !dice.once_in(3);
        if !is_durable {
            commands.push("SET synchronous_commit = off".to_owned());
        }
        let taken = lock(&world.token).clone().filter(|_| part.takes_tokens);
        let mut in_comment = None;
        if let Some((token, id)) = &taken {
            match dice.below(3) {
                _ if !world.is_honest => {}
                0 => options.push(format!("-c pgweir.token={token}")),
                1 => commands.push(format!("SET pgweir.token = '{token}'")),
                _ => in_comment = Some((token.clone(), *id)),
            }
        }
        let (address, database) = match part.database {
            Some(database) => (world.pooler, database),
            None => (world.primary, "postgres"),
        };
        let raw = connect(address, database, part.user, &options.join(" "));
        let mut session = Self {
            world,
            part,
            raw,
            id: world.next_session(),
            own_key: SHARED_KEYS + slot,
            own,
            events: Vec::new(),
            writes: 0,
            is_durable,
            hint,
            token: None,
            is_read_prepared: false,
            is_write_prepared: false,
            dice,
        };
        for command in commands {
            let answers = session.ask("setting", &[query(&command)]);
            if !answers.as_deref().is_ok_and(succeeded) {
                // It would be judged by what it has not asked for.
                return;
            }
        }
        if let Some((_, id)) = taken.filter(|_| in_comment.is_none()) {
            let began = world.clock.tick();
            session.note(began, "token", What::Takes(id));
        }
        session.token = in_comment;
        let most = if part.takes_tokens { 8 } else { 60 };
        let steps = 2 + session.dice.below(most);
        for number in 0..steps {
            if !world.needs(part) {
                break;
            }
            // What a token is for is the first read: what the session writes promises more than it.
            let done = if number == 0 && part.takes_tokens {
                session.read()
            } else {
                session.step()
            };
            if done.is_err() {
                break;
            }
        }
        world.record(session.events);
    }

    fn step(&mut self) -> Result<(), Gone> {
        if let Some(name) = self.own.prepared.take() {
            return self.clear_up(name);
        }
        if self.part.database.is_none() {
            return self.write_simply();
        }
        if self.dice.once_in(3) {
            return self.read();
        }
        match self.dice.below(14) {
            0 | 1 => self.write_simply()?,
            2 => self.write_extended()?,
            3 => self.write_prepared()?,
            4 => self.write_by_execute()?,
            5 => self.write_by_function()?,
            6 => self.write_in_a_transaction()?,
            7 => self.write_and_roll_back()?,
            8 => self.write_in_two_phases()?,
            9 => self.write_by_copy()?,
            10 => self.write_and_fail_behind_the_commit()?,
            11 => self.write_and_read_in_a_pipeline()?,
            12 => self.write_and_read_in_a_batch()?,
            _ => self.write_by_a_block()?,
        }
        self.read()?;
        if self.dice.once_in(8) {
            self.hand_out_a_token()?;
        }
        Ok(())
    }

    // ── Messages ─────────────────────────────────────────────────────────────────────────────

    /// The answers of one unit.
    fn answers(&mut self, how: &'static str) -> Result<Vec<String>, Gone> {
        let answers = self.raw.answers();
        if let Some(error) = answers.iter().find(|it| it.starts_with("E ")) {
            let words = &self.raw.last_error;
            if !words.contains("behind the commit") {
                self.world.count(format!("trouble: {how} {error} {words}"));
            }
        }
        if answers.last().is_none_or(|last| last == "closed") {
            self.world.count(format!("trouble: {how} closed"));
            return Err(Gone);
        }
        Ok(answers)
    }

    fn ask(&mut self, how: &'static str, messages: &[Vec<u8>]) -> Result<Vec<String>, Gone> {
        self.raw.send(&messages.concat());
        self.answers(how)
    }

    fn note(&mut self, began: u64, how: &'static str, what: What) {
        self.world.count(how);
        let ended = self.world.clock.tick();
        self.events.push(Event {
            session: self.id,
            group: self.part.group,
            began,
            ended,
            how,
            what,
        });
    }

    // ── Reads ────────────────────────────────────────────────────────────────────────────────

    /// Reads once or twice, in any way.
    fn read(&mut self) -> Result<(), Gone> {
        let mut consistency = self.part.consistency;
        let mut hint = self.hint.to_owned();
        if consistency == Consistency::Session && self.dice.once_in(20) {
            consistency = Consistency::Eventual;
            hint = format!("/* pgweir: consistency={} */ ", strength(consistency));
        }
        let token = self.token.take();
        if let Some((token, _)) = &token {
            hint = format!("/* pgweir: token={token} */ ");
        }
        let asks = Asks {
            consistency,
            token: token.map(|(_, id)| id),
        };
        let is_special = hint != self.hint;
        let sql = format!("{hint}{READ}");
        match self.dice.below(8) {
            0 | 1 => self.read_by(&asks, "simple read", &[vec![query(&sql)]]),
            2 => self.read_by(&asks, "extended read", &[extended("", &sql)]),
            3 if !is_special => {
                if !self.is_read_prepared {
                    self.is_read_prepared = self.prepare("r", &sql)?;
                    return Ok(());
                }
                let messages = vec![bind("r", &[]), execute(), sync()];
                self.read_by(&asks, "prepared read", &[messages])
            }
            4 if !is_special => self.read_by_execute(&asks, &sql),
            5 => self.read_by(&asks, "COPY TO", &[vec![query(&copy_out(&sql, &hint))]]),
            6 => {
                let unit = || extended("", &sql);
                self.read_by(&asks, "reads in a pipeline", &[unit(), unit(), unit()])
            }
            7 if !is_special => self.read_in_a_transaction(&asks),
            _ => self.read_by(&asks, "simple read", &[vec![query(&sql)]]),
        }
    }

    /// Prepares a statement; says whether that was done.
    fn prepare(&mut self, name: &str, sql: &str) -> Result<bool, Gone> {
        let answers = self.ask("Parse", &[parse(name, sql), sync()])?;
        Ok(succeeded(&answers))
    }

    /// Sends all units at once; each must answer one state.
    fn read_by(
        &mut self,
        asks: &Asks,
        how: &'static str,
        units: &[Vec<Vec<u8>>],
    ) -> Result<(), Gone> {
        let began = self.world.clock.tick();
        self.raw.send(&units.concat().concat());
        for _ in units {
            let answers = self.answers(how)?;
            if let Some(state) = states(&answers).next() {
                self.note_read(began, how, asks, state);
            }
        }
        Ok(())
    }

    fn read_by_execute(&mut self, asks: &Asks, sql: &str) -> Result<(), Gone> {
        let answers = self.ask("PREPARE", &[query(&format!("PREPARE e AS {sql}"))])?;
        if !succeeded(&answers) {
            return Ok(());
        }
        self.read_by(
            asks,
            "EXECUTE of a read",
            &[vec![query(&format!("{}EXECUTE e", self.hint))]],
        )?;
        self.ask("DEALLOCATE", &[query("DEALLOCATE e")])?;
        Ok(())
    }

    /// All of it on one server.
    fn read_in_a_transaction(&mut self, asks: &Asks) -> Result<(), Gone> {
        let how = "read-only transaction";
        let began = self.world.clock.tick();
        let begin = format!("{}BEGIN READ ONLY", self.hint);
        let mut answers = self.ask(how, &[query(&begin)])?;
        let mut servers = Vec::new();
        for _ in 0..2 {
            if answers.last().is_none_or(|last| last != "Z T") {
                break;
            }
            answers = self.ask(how, &[query(READ)])?;
            if let Some(state) = states(&answers).next() {
                servers.push(state.0);
                self.note_read(began, how, asks, state);
            }
        }
        self.ask(how, &[query("COMMIT")])?;
        assert!(
            servers.windows(2).all(|two| two[0] == two[1]),
            "{servers:?}"
        );
        Ok(())
    }

    fn note_read(
        &mut self,
        began: u64,
        how: &'static str,
        asks: &Asks,
        state: (usize, Box<[u32]>),
    ) {
        let (server, values) = state;
        self.world.count(format!("on {}: {how}", SERVERS[server]));
        let read = Read {
            values,
            server,
            consistency: asks.consistency,
            token: asks.token,
        };
        self.note(began, how, What::Read(read));
    }

    fn hand_out_a_token(&mut self) -> Result<(), Gone> {
        let how = "SHOW pgweir.token";
        let began = self.world.clock.tick();
        let answers = self.ask(how, &[query(how)])?;
        if let Some(token) = answers.iter().find_map(|it| it.strip_prefix("D ")) {
            assert!(!token.is_empty(), "{answers:?}");
            let id = self.world.next_token();
            self.note(began, how, What::Gives(id));
            *lock(&self.world.token) = Some((token.to_owned(), id));
        }
        Ok(())
    }

    // ── Writes ───────────────────────────────────────────────────────────────────────────────

    /// The next write: of a counter that everybody writes, or of the one that nobody else does.
    fn begin_write(&mut self) -> (Write, u64) {
        let is_own = self.dice.once_in(2);
        let key = if is_own {
            self.own_key
        } else {
            self.dice.below(SHARED_KEYS)
        };
        self.begin_write_of(key)
    }

    /// For writes that do not say what they did.
    fn begin_own_write(&mut self) -> (Write, u64) {
        self.begin_write_of(self.own_key)
    }

    fn begin_write_of(&mut self, key: Key) -> (Write, u64) {
        self.writes += 1;
        let is_own = key == self.own_key;
        let era = self.world.era();
        if is_own && std::mem::replace(&mut self.own.era, era) != era {
            self.own.value = None;
        }
        let write = Write {
            key,
            number: self.writes,
            value: self.own.value.map(|value| value + 1).filter(|_| is_own),
            is_durable: self.is_durable,
            fate: Fate::Unknown,
        };
        (write, self.world.clock.tick())
    }

    fn sql(&self, it: &Write) -> String {
        write(
            &self.id.to_string(),
            &it.number.to_string(),
            &it.key.to_string(),
        )
    }

    fn call(&self, function: &str, it: &Write) -> String {
        format!("{function}({}, {}, {})", it.key, self.id, it.number)
    }

    /// What became of it.
    fn end_write(&mut self, (mut write, began): (Write, u64), how: &'static str, fate: Fate) {
        write.fate = fate;
        if write.key == self.own_key {
            self.own.value = match fate {
                Fate::Acknowledged => write.value,
                Fate::RolledBack => self.own.value,
                Fate::Unknown => None,
            };
        }
        self.note(began, how, What::Write(write));
    }

    /// A write whose answers tell the new value.
    fn end_telling_write(
        &mut self,
        (mut write, began): (Write, u64),
        how: &'static str,
        answers: Result<Vec<String>, Gone>,
    ) -> Result<(), Gone> {
        let value = answers.as_deref().ok().and_then(result);
        let is_done = answers.as_deref().is_ok_and(succeeded) && value.is_some();
        if is_done {
            write.value = value;
        }
        let fate = if is_done {
            Fate::Acknowledged
        } else {
            Fate::Unknown
        };
        self.end_write((write, began), how, fate);
        answers.map(drop)
    }

    fn end_silent_write(
        &mut self,
        write: (Write, u64),
        how: &'static str,
        answers: Result<Vec<String>, Gone>,
    ) -> Result<(), Gone> {
        let is_done = answers.as_deref().is_ok_and(succeeded);
        let fate = if is_done {
            Fate::Acknowledged
        } else {
            Fate::Unknown
        };
        self.end_write(write, how, fate);
        answers.map(drop)
    }

    fn write_simply(&mut self) -> Result<(), Gone> {
        let write = self.begin_write();
        let answers = self.ask("simple write", &[query(&self.sql(&write.0))]);
        self.end_telling_write(write, "simple write", answers)
    }

    fn parameters(&self, it: &Write) -> [String; 3] {
        [
            self.id.to_string(),
            it.number.to_string(),
            it.key.to_string(),
        ]
    }

    fn write_with(
        &mut self,
        how: &'static str,
        write: (Write, u64),
        statement: &str,
        mut messages: Vec<Vec<u8>>,
    ) -> Result<(), Gone> {
        let parameters = self.parameters(&write.0);
        let parameters: Vec<&str> = parameters.iter().map(String::as_str).collect();
        messages.extend([bind(statement, &parameters), execute(), sync()]);
        let answers = self.ask(how, &messages);
        self.end_telling_write(write, how, answers)
    }

    fn write_extended(&mut self) -> Result<(), Gone> {
        let it = self.begin_write();
        let messages = vec![parse("", &write("$1", "$2", "$3"))];
        self.write_with("extended write", it, "", messages)
    }

    fn write_prepared(&mut self) -> Result<(), Gone> {
        if !self.is_write_prepared {
            self.is_write_prepared = self.prepare("w", &write("$1", "$2", "$3"))?;
            return Ok(());
        }
        let it = self.begin_write();
        self.write_with("prepared write", it, "w", Vec::new())
    }

    fn write_by_execute(&mut self) -> Result<(), Gone> {
        let sql = format!("PREPARE x (int, int, int) AS {}", write("$1", "$2", "$3"));
        let answers = self.ask("PREPARE", &[query(&sql)])?;
        if !succeeded(&answers) {
            return Ok(());
        }
        let it = self.begin_write();
        let execute = format!("EXECUTE x({})", self.parameters(&it.0).join(", "));
        let answers = self.ask("EXECUTE of a write", &[query(&execute)]);
        self.end_telling_write(it, "EXECUTE of a write", answers)?;
        self.ask("DEALLOCATE", &[query("DEALLOCATE x")]).map(drop)
    }

    fn write_by_function(&mut self) -> Result<(), Gone> {
        let write = self.begin_write();
        let sql = format!("SELECT {}", self.call("bump", &write.0));
        let answers = self.ask("function that writes", &[query(&sql)]);
        self.end_telling_write(write, "function that writes", answers)
    }

    fn write_by_a_block(&mut self) -> Result<(), Gone> {
        let write = self.begin_own_write();
        let sql = format!(
            "DO $$ BEGIN PERFORM {}; END $$",
            self.call("bump", &write.0)
        );
        let answers = self.ask("DO", &[query(&sql)]);
        self.end_silent_write(write, "DO", answers)
    }

    fn write_in_a_transaction(&mut self) -> Result<(), Gone> {
        let how = "transaction";
        let (mut write, began) = self.begin_write();
        let texts = ["BEGIN".to_owned(), self.sql(&write), READ.to_owned()];
        for text in texts {
            let answers = self.ask(how, &[query(&text)]);
            if !answers.as_deref().is_ok_and(is_in_transaction) {
                self.end_write((write, began), how, Fate::Unknown);
                answers?;
                return self.ask(how, &[query("ROLLBACK")]).map(drop);
            }
            let answers = answers?;
            if text == READ {
                let (_, values) = states(&answers).next().expect("a state");
                assert_eq!(Some(values[write.key]), write.value, "its own write");
            } else {
                write.value = result(&answers).or(write.value);
            }
        }
        let answers = self.ask(how, &[query("COMMIT")]);
        self.end_silent_write((write, began), how, answers)
    }

    fn write_and_roll_back(&mut self) -> Result<(), Gone> {
        let how = "transaction that is rolled back";
        let (write, began) = self.begin_write();
        let sql = self.sql(&write);
        for text in ["BEGIN", &sql] {
            let answers = self.ask(how, &[query(text)]);
            if !answers.as_deref().is_ok_and(is_in_transaction) {
                self.end_write((write, began), how, Fate::Unknown);
                answers?;
                return self.ask(how, &[query("ROLLBACK")]).map(drop);
            }
        }
        let answers = self.ask(how, &[query("ROLLBACK")]);
        // However it ends: it was not committed.
        self.end_write((write, began), how, Fate::RolledBack);
        answers.map(drop)
    }

    fn write_in_two_phases(&mut self) -> Result<(), Gone> {
        let how = "two phases";
        let write = self.begin_own_write();
        let name = format!("t{}.{}", self.id, write.0.number);
        let sql = self.sql(&write.0);
        let prepare = format!("PREPARE TRANSACTION '{name}'");
        let is_prepared = ["BEGIN", &sql, &prepare].iter().all(|text| {
            let answers = self.ask(how, &[query(text)]);
            answers.as_deref().is_ok_and(succeeded)
        });
        let is_committed = is_prepared && self.dice.below(4) > 0;
        let end = if is_committed { "COMMIT" } else { "ROLLBACK" };
        let answers = if is_prepared {
            self.ask(how, &[query(&format!("{end} PREPARED '{name}'"))])
        } else {
            Err(Gone)
        };
        let fate = match (answers.as_deref().is_ok_and(succeeded), is_committed) {
            (true, true) => Fate::Acknowledged,
            (true, false) => Fate::RolledBack,
            (false, _) => {
                self.own.prepared = Some(name);
                Fate::Unknown
            }
        };
        self.end_write(write, how, fate);
        answers.map(drop)
    }

    /// A prepared transaction that was left behind would hold its counter for ever.
    fn clear_up(&mut self, name: String) -> Result<(), Gone> {
        let sql = format!("ROLLBACK PREPARED '{name}'");
        let answers = self.ask("clearing up", &[query(&sql)]);
        let is_gone = |answer: &String| answer == "C ROLLBACK PREPARED" || answer == "E 42704";
        if !answers.as_deref().is_ok_and(|it| it.iter().any(is_gone)) {
            self.own.prepared = Some(name);
        }
        answers.map(drop)
    }

    fn write_by_copy(&mut self) -> Result<(), Gone> {
        let how = "COPY FROM";
        let write = self.begin_own_write();
        self.raw.send(&query("COPY bumps FROM STDIN"));
        let first = self.raw.answer();
        let answers = if first == "G" {
            let line = format!("{}\t{}\t{}\n", write.0.key, self.id, write.0.number);
            self.ask(how, &[copy_data(line.as_bytes()), copy_done()])
        } else if first == "closed" {
            Err(Gone)
        } else {
            let rest = self.answers(how);
            rest.map(|rest| [vec![first], rest].concat())
        };
        self.end_silent_write(write, how, answers)
    }

    fn write_and_fail_behind_the_commit(&mut self) -> Result<(), Gone> {
        let how = "CALL that fails behind its COMMIT";
        let write = self.begin_own_write();
        let sql = format!("CALL {}", self.call("bump_and_fail", &write.0));
        let answers = self.ask(how, &[query(&sql)]);
        let is_as_planned = self.raw.last_error.contains("behind the commit");
        let is_done = is_as_planned && answers.is_ok();
        self.raw.last_error.clear();
        let fate = if is_done {
            Fate::Acknowledged
        } else {
            Fate::Unknown
        };
        self.end_write(write, how, fate);
        answers.map(drop)
    }

    /// Two units, sent at once.
    fn write_and_read_in_a_pipeline(&mut self) -> Result<(), Gone> {
        let how = "write and read in a pipeline";
        let write = self.begin_write();
        let (began, text) = (write.1, self.sql(&write.0));
        let read = format!("{}{READ}", self.hint);
        let units = [extended("", &text), extended("", &read)];
        self.raw.send(&units.concat().concat());
        let answers = self.answers(how);
        self.end_telling_write(write, how, answers)?;
        let answers = self.answers(how)?;
        if let Some(state) = states(&answers).next() {
            self.note_read(began, how, &self.asks(), state);
        }
        Ok(())
    }

    /// One unit: statements up to one Sync, or of one Query.
    fn write_and_read_in_a_batch(&mut self) -> Result<(), Gone> {
        let how = "write and read in a batch";
        let write = self.begin_write();
        let (began, text) = (write.1, self.sql(&write.0));
        let answers = if self.dice.once_in(2) {
            self.ask(how, &[query(&format!("{text}; {READ}"))])
        } else {
            let mut messages = extended("", &text);
            messages.pop();
            messages.extend(extended("", READ));
            self.ask(how, &messages)
        };
        let state = answers.as_deref().ok().filter(|it| succeeded(it));
        let state = state.and_then(|it| states(it).next());
        self.end_telling_write(write, how, answers)?;
        if let Some(state) = state {
            self.note_read(began, how, &self.asks(), state);
        }
        Ok(())
    }

    fn asks(&self) -> Asks {
        Asks {
            consistency: self.part.consistency,
            token: None,
        }
    }
}

/// What a read asks for.
struct Asks {
    consistency: Consistency,
    token: Option<TokenId>,
}

fn connect(address: SocketAddr, database: &str, user: &str, options: &str) -> Raw {
    let parameters = [("user", user), ("options", options)];
    let count = if options.is_empty() { 1 } else { 2 };
    Raw::connect_with(address, database, &parameters[..count])
}

fn extended(name: &str, sql: &str) -> Vec<Vec<u8>> {
    vec![parse(name, sql), bind(name, &[]), execute(), sync()]
}

/// The hint is in front of the statement, not inside of it.
fn copy_out(sql: &str, hint: &str) -> String {
    let sql = sql.strip_prefix(hint).unwrap_or(sql);
    format!("{hint}COPY ({sql}) TO STDOUT")
}

fn succeeded(answers: &[String]) -> bool {
    !answers.iter().any(|it| it.starts_with("E "))
}

fn is_in_transaction(answers: &[String]) -> bool {
    answers.last().is_some_and(|last| last == "Z T")
}

/// The first row that is one number.
fn result(answers: &[String]) -> Option<u32> {
    let rows = answers.iter().filter_map(|it| it.strip_prefix("D "));
    rows.filter_map(|row| row.parse().ok()).next()
}

/// The rows that [`READ`] answers, also by COPY.
fn states(answers: &[String]) -> impl Iterator<Item = (usize, Box<[u32]>)> {
    answers.iter().filter_map(|answer| {
        let row = answer
            .strip_prefix("D ")
            .or_else(|| answer.strip_prefix("d "))?;
        let (server, values) = row.split_once(['|', '\t'])?;
        let server = SERVERS.iter().position(|name| *name == server)?;
        let values = values.trim_matches(['{', '}']).split(',');
        let values: Option<Vec<u32>> = values.map(|value| value.parse().ok()).collect();
        Some((server, values?.into()))
    })
}
