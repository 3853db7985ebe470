//! What a peer answers to one round, in a form in which two peers can be compared.

use crate::support::wire::{Fields, Wire};

/// Answers, each in words, up to that of the empty query which ends a round.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Heard(pub(crate) Vec<String>);

impl Heard {
    /// All answers to a round that begins in this transaction status.
    pub(crate) async fn all(wire: &mut Wire, mut status: char) -> Self {
        let (mut all, mut since_ready) = (Vec::new(), Vec::new());
        let mut is_last = false;
        while let Some((kind, body)) = wire.read().await {
            is_last |= kind == b'I';
            since_ready.push(in_words(kind, &body));
            if kind != b'Z' {
                continue;
            }
            let before = std::mem::replace(&mut status, char::from(body[0]));
            // A server that lacks a statement cannot be given it in a failed transaction: that it can be described there,
            // or why it cannot be run, is not found out.
            if before == 'E' && status == 'E' {
                since_ready = vec![
                    "nothing in a failed transaction".to_owned(),
                    "Z E".to_owned(),
                ];
            }
            all.append(&mut since_ready);
            if is_last {
                return Self(all);
            }
        }
        all.append(&mut since_ready);
        all.push("closed".to_owned());
        Self(all)
    }

    /// Whether the connection is.
    pub(crate) fn is_over(&self) -> bool {
        self.0.last().is_some_and(|last| last == "closed")
    }

    /// The transaction status that the last ReadyForQuery tells.
    pub(crate) fn status(&self) -> char {
        let last = self.0.iter().rev().find(|it| it.starts_with("Z "));
        last.and_then(|it| it.chars().last()).unwrap_or('I')
    }
}

fn in_words(kind: u8, body: &[u8]) -> String {
    let details = match kind {
        // All that a client may act upon, and tell. Not the place in the text: in that of a PREPARE the name is another, and
        // longer.
        b'E' | b'N' => {
            let fields = Fields::read(body);
            ['S', 'C', 'M', 'D', 'H']
                .map(|it| fields.field(it).to_owned())
                .join(" | ")
        }
        b'T' => rows_in_words(body),
        // Without the process that sent it.
        b'A' => body[4..].escape_ascii().to_string(),
        _ => body.escape_ascii().to_string(),
    };
    format!("{} {details}", char::from(kind))
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
