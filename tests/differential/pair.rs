//! The same conversation with two peers, and the shortest one in which they differ.

use std::{net::SocketAddr, time::Duration};

use tokio::time::sleep;

use crate::{
    DATABASES,
    heard::Heard,
    support::wire::{Wire, startup, terminate},
    talk::Step,
};

/// PostgreSQL alone, and the pooler.
pub(crate) type Peers = [SocketAddr; 2];

/// With PostgreSQL, and with the pooler: longer than others keep their servers.
const PATIENCE: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(25)];
/// Where the shortest conversation is looked for.
const LITTLE_PATIENCE: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(3)];

pub(crate) struct Pair {
    wires: [Wire; 2],
    /// What each has answered to the last round.
    pub(crate) heard: [Heard; 2],
    patience: [Duration; 2],
}

impl Pair {
    pub(crate) async fn login(peers: Peers, settings: &[(&'static str, String)]) -> Self {
        let mut wires = [Wire::dial(peers[0]).await, Wire::dial(peers[1]).await];
        for (wire, database) in wires.iter_mut().zip(DATABASES) {
            let mut parameters = vec![("user", "postgres"), ("database", database)];
            parameters.extend(settings.iter().map(|(name, value)| (*name, value.as_str())));
            wire.send(&startup(&parameters)).await;
        }
        Self {
            wires,
            heard: Default::default(),
            patience: PATIENCE,
        }
    }

    /// How the greetings differ, if they do.
    pub(crate) async fn greetings(&mut self) -> Option<String> {
        let peers = self.wires.iter_mut().zip(&mut self.heard);
        for ((wire, heard), patience) in peers.zip(self.patience) {
            heard.greeting(wire, patience).await;
        }
        (self.heard[0] != self.heard[1]).then(|| self.differences())
    }

    /// Says one round to both, and answers how they differ, if they do.
    pub(crate) async fn speak(&mut self, round: &[Step], status: char) -> Option<String> {
        self.heard = Default::default();
        for (number, step) in round.iter().enumerate() {
            // What is ignored up to the Sync is not answered.
            if self.heard[0].has_failed() && number + 1 < round.len() {
                continue;
            }
            let peers = self.wires.iter_mut().zip(&mut self.heard);
            for ((wire, heard), patience) in peers.zip(self.patience) {
                let (first, second) = step.bytes.split_at(step.cut.unwrap_or(0));
                wire.send(first).await;
                if step.cut.is_some() {
                    // There is no event to await: all that matters is that the other side may have read the first part.
                    sleep(Duration::from_millis(1)).await;
                }
                wire.send(second).await;
                heard.hear(wire, step.until, patience).await;
                // Nothing is compared with that: not even asked.
                if heard.hangs() || heard.is_fatal() {
                    break;
                }
            }
            if self.is_cut_short() {
                break;
            }
        }
        let [alone, pooled] = &self.heard;
        let comparable = !alone.is_fatal() && !alone.hangs();
        let differs = comparable && !pooled.is_as_good_as(alone, status);
        // Whatever PostgreSQL says, the pooler has to say something.
        (differs || pooled.hangs()).then(|| self.differences())
    }

    /// Whether, behind a round, there is nothing more to say, or to compare.
    pub(crate) fn is_over(&self) -> bool {
        let [alone, pooled] = &self.heard;
        alone != pooled || self.is_cut_short()
    }

    /// Whether one of them says nothing more.
    fn is_cut_short(&self) -> bool {
        self.heard
            .iter()
            .any(|it| it.is_closed() || it.is_fatal() || it.hangs())
    }

    /// Ends both, perhaps without a word.
    pub(crate) async fn part(self, rudely: bool) {
        for mut wire in self.wires {
            if rudely {
                wire.finish_sending().await;
            } else {
                wire.send(&terminate()).await;
            }
            while wire.read().await.is_some() {}
        }
    }

    fn differences(&self) -> String {
        let [alone, pooled] = &self.heard;
        let same = alone.0.iter().zip(&pooled.0).take_while(|(a, b)| a == b);
        let same = same.count();
        let tail = |heard: &Heard| {
            let tail = heard.0[same..].iter().take(8);
            let tail = tail.map(|it| format!("    {it:.300}\n"));
            tail.collect::<String>()
        };
        let before = Heard(alone.0[same.saturating_sub(4)..same].to_vec());
        let before: String = before
            .0
            .iter()
            .map(|it| format!("    {it:.300}\n"))
            .collect();
        format!(
            "both\n{before}PostgreSQL alone\n{}through the pooler\n{}",
            tail(alone),
            tail(pooled)
        )
    }
}

/// A shorter conversation in which they still differ, if one is found.
pub(crate) async fn shrink(
    peers: Peers,
    settings: &[(&'static str, String)],
    mut said: Vec<Vec<Step>>,
    mut difference: String,
) -> (Vec<Vec<Step>>, String) {
    let mut tries = 0;
    if replay(peers, settings, &said, 5).await.is_none() {
        return (said, format!("{difference}It does not happen again."));
    }
    let mut size = said.len();
    while size > 0 {
        let mut at = 1;
        while at < said.len() && tries < 400 {
            tries += 1;
            let mut shorter = said.clone();
            drop(shorter.drain(at..(at + size).min(said.len())));
            match replay(peers, settings, &shorter, 2).await {
                Some(found) => (said, difference) = (shorter, found),
                None => at += size,
            }
        }
        size /= 2;
    }
    for round in 1..said.len() {
        for step in 0..said[round].len() {
            let mut index = 0;
            loop {
                let mut messages = messages(&said[round][step].bytes);
                // Without those that end a round.
                if index + 3 >= messages.len() || tries >= 800 {
                    break;
                }
                tries += 1;
                messages.remove(index);
                let mut shorter = said.clone();
                shorter[round][step].bytes = messages.concat();
                shorter[round][step].cut = None;
                match replay(peers, settings, &shorter, 2).await {
                    Some(found) => (said, difference) = (shorter, found),
                    None => index += 1,
                }
            }
        }
    }
    (said, difference)
}

/// How they differ, in one of so many repetitions.
async fn replay(
    peers: Peers,
    settings: &[(&'static str, String)],
    said: &[Vec<Step>],
    times: usize,
) -> Option<String> {
    for _ in 0..times {
        let mut pair = Pair::login(peers, settings).await;
        pair.patience = LITTLE_PATIENCE;
        let mut difference = pair.greetings().await;
        let mut status = 'I';
        for round in said {
            if difference.is_some() || pair.is_over() {
                break;
            }
            difference = pair.speak(round, status).await;
            status = pair.heard[0].status();
        }
        if difference.is_some() {
            return difference;
        }
        pair.part(false).await;
    }
    None
}

fn messages(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let Some(length) = bytes.get(1..5) {
        let length = u32::from_be_bytes(length.try_into().unwrap());
        let (message, rest) = bytes.split_at(1 + usize::try_from(length).unwrap());
        messages.push(message.to_vec());
        bytes = rest;
    }
    messages
}

/// What was said, one message a line.
pub(crate) fn in_words(said: &[Vec<Step>]) -> String {
    let mut words = String::new();
    for (number, round) in said.iter().enumerate() {
        for step in round {
            words += &format!(
                "round {number}, until {:?}, cut at {:?}\n",
                step.until, step.cut
            );
            for message in messages(&step.bytes) {
                let body = message[5..].escape_ascii().to_string();
                words += &format!("    {} {body:.300}\n", char::from(message[0]));
            }
        }
    }
    words
}
