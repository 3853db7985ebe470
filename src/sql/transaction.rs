//! Transaction control in every spelling (the manual's BEGIN, START TRANSACTION, COMMIT, END, ROLLBACK, ABORT, SAVEPOINT,
//! RELEASE, PREPARE TRANSACTION, SET TRANSACTION).
//!
//! A router sends `BEGIN READ ONLY` to a replica, so a statement counts as transaction control only if it was
//! understood to its last word; anything else is unknown.

use super::effects::Effects;
use super::facts::{Class, Isolation, Reason, TxControl, TxModes};
use super::lexer::Kind;
use super::statement::Scanner;
use super::words::Kw;

impl Scanner<'_> {
    pub(super) fn control(&mut self, class: Class, control: TxControl) {
        self.set(class, Reason::TransactionControl);
        self.facts.effects |= Effects::TRANSACTION;
        self.facts.transaction = Some(control);
    }

    /// At BEGIN, START, COMMIT, END, ROLLBACK, ABORT, SAVEPOINT or RELEASE.
    pub(super) fn transaction(&mut self) {
        let first = self.token.kw;
        self.advance();
        match first {
            Kw::Begin => {
                let _ = self.take(Kw::Work) || self.take(Kw::Transaction);
                let modes = self.transaction_modes();
                self.control(Class::Begin, TxControl::Begin(modes));
            }
            Kw::Start => {
                if !self.take(Kw::Transaction) {
                    return self.give_up();
                }
                let modes = self.transaction_modes();
                self.control(Class::Begin, TxControl::Begin(modes));
            }
            Kw::Savepoint => {
                let Some(name) = self.take_name() else {
                    return self.give_up();
                };
                self.control(Class::Transaction, TxControl::Savepoint { name });
            }
            Kw::Release => {
                let Some(name) = self.savepoint_name() else {
                    return self.give_up();
                };
                self.control(Class::Transaction, TxControl::Release { name });
            }
            Kw::Commit | Kw::Rollback if self.take(Kw::Prepared) => {
                return self.global_transaction(if first == Kw::Commit {
                    TxControl::CommitPrepared
                } else {
                    TxControl::RollbackPrepared
                });
            }
            _ => self.transaction_end(matches!(first, Kw::Commit | Kw::End)),
        }
        self.finish();
    }

    fn transaction_end(&mut self, commit: bool) {
        let _ = self.take(Kw::Work) || self.take(Kw::Transaction);
        if !commit && self.take(Kw::To) {
            let Some(name) = self.savepoint_name() else {
                return self.give_up();
            };
            return self.control(Class::Transaction, TxControl::RollbackTo { name });
        }
        let mut chain = false;
        if self.take(Kw::And) {
            chain = !self.take(Kw::No);
            if !self.take(Kw::Chain) {
                return self.give_up();
            }
        }
        let control = if commit {
            TxControl::Commit { chain }
        } else {
            TxControl::Rollback { chain }
        };
        self.control(Class::Transaction, control);
    }

    /// `[SAVEPOINT] name`, where the name itself may be the word savepoint.
    fn savepoint_name(&mut self) -> Option<super::Span> {
        let keyword = self.token.is(Kw::Savepoint);
        let first = self.take_name()?;
        if keyword {
            self.take_name().or(Some(first))
        } else {
            Some(first)
        }
    }

    /// At the global identifier of PREPARE TRANSACTION, COMMIT PREPARED or ROLLBACK PREPARED.
    pub(super) fn global_transaction(&mut self, control: TxControl) {
        if self.token.kind != Kind::String {
            return self.give_up();
        }
        self.advance();
        self.control(Class::Transaction, control);
        self.finish();
    }

    /// As many modes as there are, with or without commas between them.
    pub(super) fn transaction_modes(&mut self) -> TxModes {
        let mut modes = TxModes::default();
        loop {
            match self.token.kw {
                Kw::Isolation => {
                    self.advance();
                    let isolation = self.take(Kw::Level).then(|| self.isolation_level());
                    modes.isolation = isolation.flatten().or(modes.isolation);
                }
                Kw::Read => {
                    self.advance();
                    match self.token.kw {
                        Kw::Only => modes.read_only = Some(true),
                        Kw::Write => modes.read_only = Some(false),
                        _ => return modes,
                    }
                    self.advance();
                }
                Kw::Deferrable => {
                    self.advance();
                    modes.deferrable = Some(true);
                }
                Kw::Not => {
                    self.advance();
                    if !self.take(Kw::Deferrable) {
                        return modes;
                    }
                    modes.deferrable = Some(false);
                }
                _ if self.token.kind == Kind::Comma => self.advance(),
                _ => return modes,
            }
        }
    }

    fn isolation_level(&mut self) -> Option<Isolation> {
        let first = self.token.kw;
        self.advance();
        let second = self.token.kw;
        let level = match (first, second) {
            (Kw::Serializable, _) => return Some(Isolation::Serializable),
            (Kw::Repeatable, Kw::Read) => Isolation::RepeatableRead,
            (Kw::Read, Kw::Committed) => Isolation::ReadCommitted,
            (Kw::Read, Kw::Uncommitted) => Isolation::ReadUncommitted,
            _ => return None,
        };
        self.advance();
        Some(level)
    }

    pub(super) fn give_up(&mut self) {
        self.unknown(Reason::Malformed);
        self.skip();
    }
}
