//! What goes to one peer out of one read.
//!
//! Mostly that is one run of the bytes just read, and then nothing is copied: the run is written from
//! the read buffer itself. Only when bytes of our own come between are runs and own bytes composed in
//! a scratch buffer, so that everything still leaves in one write.

use std::ops::Range;

/// Collects bytes for one peer; `input` is what was just read from the other one.
#[derive(Debug)]
pub struct Outbox<'a> {
    input: &'a [u8],
    run: Range<usize>,
    composed: &'a mut Vec<u8>,
}

impl<'a> Outbox<'a> {
    /// An empty outbox. `composed` is scratch space and is cleared.
    pub fn new(input: &'a [u8], composed: &'a mut Vec<u8>) -> Self {
        composed.clear();
        Self {
            input,
            run: 0..0,
            composed,
        }
    }

    /// Forwards a range of the input, behind everything so far.
    #[inline]
    pub fn forward(&mut self, range: Range<usize>) {
        if self.run.end == range.start {
            self.run.end = range.end;
        } else {
            self.settle();
            self.run = range;
        }
    }

    /// Where to append bytes of our own, behind everything so far.
    pub fn own(&mut self) -> &mut Vec<u8> {
        self.settle();
        self.composed
    }

    /// Whether nothing is to be sent.
    pub fn is_empty(&self) -> bool {
        self.run.is_empty() && self.composed.is_empty()
    }

    /// All of it, in order.
    #[inline]
    pub fn finish(mut self) -> &'a [u8] {
        if self.composed.is_empty() {
            &self.input[self.run]
        } else {
            self.settle();
            self.composed
        }
    }

    fn settle(&mut self) {
        self.composed
            .extend_from_slice(&self.input[self.run.clone()]);
        self.run = 0..0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unbroken_run_is_not_copied() {
        let input = b"one two three".to_vec();
        let mut scratch = Vec::new();
        let mut outbox = Outbox::new(&input, &mut scratch);
        outbox.forward(0..4);
        outbox.forward(4..8);
        let sent = outbox.finish();
        assert_eq!(sent, b"one two ");
        assert!(std::ptr::eq(sent.as_ptr(), input.as_ptr()));
    }

    #[test]
    fn own_bytes_keep_their_place_between_runs() {
        let mut scratch = b"left over".to_vec();
        let mut outbox = Outbox::new(b"one two three", &mut scratch);
        outbox.forward(4..8);
        outbox.own().extend_from_slice(b"AND ");
        outbox.forward(8..13);
        assert_eq!(outbox.finish(), b"two AND three");
    }

    #[test]
    fn a_gap_in_the_input_is_left_out() {
        let mut scratch = Vec::new();
        let mut outbox = Outbox::new(b"one two three", &mut scratch);
        outbox.forward(0..4);
        outbox.forward(8..13);
        assert_eq!(outbox.finish(), b"one three");
    }
}
