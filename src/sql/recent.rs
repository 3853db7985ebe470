//! The texts that were looked at last, by which most texts are found without being cut into tokens, or hashed.
//!
//! A text has one slot, by how it begins; whoever comes later takes it. What a slot says holds for its text, and, where it
//! was found by the [shape](super::shape()), for any text that differs in nothing but its numbers. It knows of a cached answer
//! what [`Cache`](super::cache::Cache) does, and nothing of when it ceases to hold: then all is forgotten.

use super::{
    Facts,
    lexer::{CLASS, WORD},
};

const SLOTS: usize = 64;

/// Longer texts are left to the cache.
const MAX_TEXT: usize = 1024;

/// By so many bytes of its beginning a text is given its slot.
const HEAD: usize = 24;

/// See the module. Takes no memory before the first text.
#[derive(Default)]
pub struct Recent {
    slots: Vec<Slot>,
}

#[derive(Clone, Default)]
struct Slot {
    text: Vec<u8>,
    world: u64,
    facts: Option<Facts>,
    has_shape: bool,
}

impl Recent {
    /// What was found about `text`, or one of its shape, in that world.
    #[inline]
    pub fn find(&mut self, text: &[u8], world: u64) -> Option<Facts> {
        let slot = self.slots.get_mut(slot_of(text))?;
        if slot.world != world {
            return None;
        }
        if *slot.text != *text {
            let is_of_shape = slot.has_shape && differs_in_numbers(&slot.text, text);
            if !is_of_shape || text.len() > MAX_TEXT {
                return None;
            }
            // Whoever routes looks at it twice.
            slot.set_text(text);
        }
        slot.facts
    }

    /// Keeps what was found about `text`; with `has_shape`, what was found about all texts of its shape.
    pub fn keep(&mut self, text: &[u8], world: u64, facts: Facts, has_shape: bool) {
        if text.len() > MAX_TEXT {
            return;
        }
        self.slots.resize_with(SLOTS, Slot::default);
        if let Some(slot) = self.slots.get_mut(slot_of(text)) {
            slot.set_text(text);
            slot.world = world;
            slot.facts = Some(facts);
            // In a quoted name a digit is no number.
            slot.has_shape = has_shape && !text.contains(&b'"');
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.slots.clear();
    }
}

impl Slot {
    fn set_text(&mut self, text: &[u8]) {
        self.text.clear();
        self.text.extend_from_slice(text);
    }
}

fn slot_of(text: &[u8]) -> usize {
    let mut head = [0; HEAD];
    let size = text.len().min(HEAD);
    head[..size].copy_from_slice(&text[..size]);
    let (words, _) = head.as_chunks::<8>();
    let mixed = words.iter().fold(0_u64, |mixed, word| {
        (mixed ^ u64::from_le_bytes(*word))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
    });
    usize::from(mixed.to_be_bytes()[0]) % SLOTS
}

/// Whether the texts are the same but for the digits of numbers. `known` has a shape, and no quoted names.
fn differs_in_numbers(known: &[u8], text: &[u8]) -> bool {
    let (mut known, mut text) = (known, text);
    loop {
        let same = length_in_common(known, text);
        if same == known.len() && same == text.len() {
            return true;
        }
        // Where they part there must be a number in both, which may have begun before.
        let begins = same - digits(known[..same].iter().rev());
        let is_number = known[..begins]
            .last()
            .is_some_and(|before| CLASS[usize::from(*before)] < WORD);
        let ends = [known, text].map(|it| begins + digits(it[begins..].iter()));
        if !is_number || ends.contains(&begins) {
            return false;
        }
        (known, text) = (&known[ends[0]..], &text[ends[1]..]);
    }
}

fn digits<'a>(bytes: impl Iterator<Item = &'a u8>) -> usize {
    bytes.take_while(|byte| byte.is_ascii_digit()).count()
}

/// How many bytes they begin with are the same.
#[inline]
fn length_in_common(a: &[u8], b: &[u8]) -> usize {
    let ((words, _), (others, _)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut same = 0;
    for (a, b) in words.iter().zip(others) {
        let differs = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        if differs != 0 {
            return same + differs.trailing_zeros() as usize / 8;
        }
        same += 8;
    }
    let rest = a[same..].iter().zip(&b[same..]);
    same + rest.take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sql::{Env, classify, shape};

    #[test]
    fn only_numbers_may_differ() {
        for (known, text, wanted) in [
            ("select 1", "select 1", true),
            ("select 1", "select 22", true),
            ("select 22", "select 1", true),
            ("select 12", "select 134", true),
            ("select 12 + 3", "select 1 + 456", true),
            ("select 1.5", "select 22.75", true),
            ("select a[1], 3abc", "select a[20], 4abc", true),
            ("select 1", "select 1 ", false),
            ("select 1", "select 1a", false),
            ("select 1", "select ", false),
            ("select 1", "select a", false),
            ("select a", "select 1", false),
            ("select a1", "select a2", false),
            ("select a1", "select a12", false),
            ("select $1", "select $2", false),
            ("select $1", "select $12", false),
            ("select a$1", "select a$2", false),
            ("select é1", "select é2", false),
            ("select 1_0", "select 1_1", false),
            ("select 0x1", "select 0x2", false),
            ("select 1 + 2", "select 2 - 2", false),
            ("select 1", "delect 1", false),
        ] {
            let is_known = differs_in_numbers(known.as_bytes(), text.as_bytes());
            assert_eq!(is_known, wanted, "{known} | {text}");
        }
    }

    proptest! {
        /// What is said of one text is never said of one of another shape.
        #[test]
        fn texts_that_differ_in_numbers_have_one_shape(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    ["1", "2"], ["12", "7"], ["3", "30000000000"], ["a", "a"], ["a1", "a2"], [" ", " "], ["$1", "$2"],
                    ["$", "$"], [".", "."], ["+", "+"], ["e5", "e6"], ["_", "_"], ["é", "é"], [" from t ", " from t "],
                    ["1", "x"], ["", "4"], ["(", "("],
                ]),
                0..12,
            ),
            chosen in any::<u16>(),
        ) {
            let text = |chosen: u16| {
                let pieces = pieces.iter().enumerate();
                let chosen = pieces.map(|(at, both)| both[usize::from(chosen >> at & 1)]);
                format!("select {}", chosen.collect::<String>()).into_bytes()
            };
            let texts = [text(0), text(chosen)];
            let shapes = texts.each_ref().map(|text| {
                let mut out = Vec::new();
                shape(text, &mut out).then_some(out)
            });
            if shapes[0].is_some() && differs_in_numbers(&texts[0], &texts[1]) {
                prop_assert_eq!(&shapes[0], &shapes[1]);
            }
        }
    }

    #[test]
    fn an_answer_holds_for_its_world_its_text_or_its_shape() {
        let mut recent = Recent::default();
        let facts = classify(b"select 1", &Env::default());
        assert_eq!(recent.find(b"select 1", 7), None);
        recent.keep(b"select 1", 7, facts, true);
        assert_eq!(recent.find(b"select 1", 7), Some(facts));
        assert_eq!(recent.find(b"select 2", 8), None, "another world");
        let about = |number: &str| format!("select a from accounts where b = {number}");
        recent.keep(about("1").as_bytes(), 7, facts, true);
        for number in ["345", "6", "345"] {
            assert_eq!(recent.find(about(number).as_bytes(), 7), Some(facts));
        }
        let long = about(&"9".repeat(MAX_TEXT));
        assert_eq!(recent.find(long.as_bytes(), 7), None, "too long");
        recent.keep(b"select 1", 7, facts, false);
        assert_eq!(recent.find(b"select 1", 7), Some(facts));
        assert_eq!(recent.find(b"select 2", 7), None, "no shape");
        let quoted = b"select a from \"t 1\" where b = 1";
        recent.keep(quoted, 7, facts, true);
        assert_eq!(recent.find(quoted, 7), Some(facts));
        assert_eq!(
            recent.find(b"select a from \"t 2\" where b = 1", 7),
            None,
            "another name"
        );
        let long = [b' '; MAX_TEXT + 1];
        recent.keep(&long, 7, facts, false);
        assert_eq!(recent.find(&long, 7), None);
        recent.clear();
        assert_eq!(recent.find(quoted, 7), None);
    }

    #[test]
    fn texts_that_write_numbers_share_a_slot() {
        let [a, b] = [12, 98765].map(|number| {
            let text = format!("SELECT abalance FROM pgbench_accounts WHERE aid = {number};");
            slot_of(text.as_bytes())
        });
        assert_eq!(a, b);
    }
}
