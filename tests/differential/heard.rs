//! What a peer answers, in a form in which two peers can be compared.

use std::time::Duration;

use tokio::time::timeout;

use crate::{
    support::wire::{Fields, Wire},
    talk::Until,
};

/// Answers, each in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard(pub(crate) Vec<String>);

/// What a peer says when it says nothing.
const HANGS: &str = "nothing more, and waits";
const CLOSED: &str = "closed";

impl Heard {
    /// What comes before the first ReadyForQuery: the parameters, in the order of their names.
    pub(crate) async fn greeting(&mut self, wire: &mut Wire, patience: Duration) {
        self.hear(wire, Until::Any(b"ZE"), patience).await;
        // The key is a secret, and only PostgreSQL 18 tells why it is longer.
        self.0.retain(|it| !it.starts_with('K'));
        self.0.sort();
    }

    /// Adds all answers up to the one that is waited for, or to the end of the connection.
    pub(crate) async fn hear(&mut self, wire: &mut Wire, until: Until, patience: Duration) {
        if until == Until::Any(b"") {
            return;
        }
        let answers = async {
            let mut last = [0; 4];
            loop {
                let Some((kind, body)) = wire.read().await else {
                    self.0.push(CLOSED.to_owned());
                    return;
                };
                self.0.push(in_words(kind, &body));
                // These come at any time.
                if !matches!(kind, b'A' | b'N' | b'S') {
                    last = [last[1], last[2], last[3], kind];
                }
                if until.is_it(last) {
                    return;
                }
            }
        };
        if timeout(patience, answers).await.is_err() {
            self.0.push(HANGS.to_owned());
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.last().is_some_and(|last| last == CLOSED)
    }

    pub(crate) fn hangs(&self) -> bool {
        self.0.last().is_some_and(|last| last == HANGS)
    }

    /// Whether an error was the last.
    pub(crate) fn has_failed(&self) -> bool {
        self.0.last().is_some_and(|last| last.starts_with("E "))
    }

    /// Whether PostgreSQL itself gave up: then the pooler says so in its own words, and may go on with another server.
    pub(crate) fn is_fatal(&self) -> bool {
        self.0.iter().any(|it| it.starts_with("E FATAL"))
    }

    /// The transaction status that the last ReadyForQuery tells.
    pub(crate) fn status(&self) -> char {
        let last = self.0.iter().rev().find(|it| it.starts_with("Z "));
        last.and_then(|it| it.chars().last()).unwrap_or('I')
    }

    /// Whether a client that is told this in a transaction of that status has been told the same, or, from where it was
    /// refused, cannot be compared any more.
    pub(crate) fn is_as_good_as(&self, alone: &Self, mut status: char) -> bool {
        let mut ours = self.0.split_inclusive(|it| it.starts_with("Z "));
        for theirs in alone.0.split_inclusive(|it| it.starts_with("Z ")) {
            let Some(ours) = ours.next() else {
                return false;
            };
            if ours != theirs {
                return status == 'E' && is_refused_earlier(ours, theirs);
            }
            let then = theirs.last().and_then(|it| it.chars().last());
            status = then.unwrap_or(status);
        }
        ours.next().is_none()
    }
}

/// A server that lacks a statement cannot be given it in a failed transaction: so it cannot be described there, nor is
/// found out what is wrong with a Bind of it (docs/session-state.md, "What is not covered").
fn is_refused_earlier(ours: &[String], theirs: &[String]) -> bool {
    let [told @ .., error, _ready] = ours else {
        return false;
    };
    error.starts_with("E ERROR | 25P02") && theirs.starts_with(told) && theirs.len() > told.len()
}

fn in_words(kind: u8, body: &[u8]) -> String {
    let details = match kind {
        // All that a client may act upon, and tell. Not the place in the text: in that of a PREPARE the name is another, and
        // longer.
        b'E' | b'N' => {
            let fields = Fields::read(body);
            ['S', 'C', 'M', 'D', 'H', 'W', 's', 't', 'c', 'n']
                .map(|it| without_schema(fields.field(it)))
                .join(" | ")
        }
        b'T' => rows_in_words(body),
        // Without the process that sent it.
        b'A' => body[4..].escape_ascii().to_string(),
        _ => body.escape_ascii().to_string(),
    };
    format!("{} {details}", char::from(kind))
}

/// PL/pgSQL tells a function's name as `search_path` had it when the function was first called in the server's session.
fn without_schema(field: &str) -> String {
    const FUNCTION: &str = "PL/pgSQL function ";
    let mut pieces = field.split(FUNCTION);
    let mut words = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (name, rest) = piece.split_at(piece.find('(').unwrap_or(0));
        words.extend([FUNCTION, name.rsplit('.').next().unwrap_or(name), rest]);
    }
    words
}

/// Without what numbers the objects of a database.
fn rows_in_words(body: &[u8]) -> String {
    let mut words = Vec::new();
    let mut rest = &body[2..];
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        let (name, behind) = rest.split_at(end);
        let (column, behind) = behind[1..].split_at(18);
        words.push(format!(
            "{}: {}",
            name.escape_ascii(),
            column[4..].escape_ascii()
        ));
        rest = behind;
    }
    words.join(", ")
}
