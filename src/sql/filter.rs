//! Which names can be none that is watched for: one bit for a name as it is written, before it is folded or looked up.
//!
//! Every identifier of every statement is asked about, and nearly none is watched for. Names in a catalogue come in families
//! (`orders_id_seq`), hence the first and the last letter.

/// See the module. Empty at first.
#[derive(Clone, Debug)]
pub struct NameFilter {
    bits: Box<[u64; WORDS]>,
    beyond_ascii: bool,
}

const WORDS: usize = 64;

impl Default for NameFilter {
    fn default() -> Self {
        Self {
            bits: Box::new([0; WORDS]),
            beyond_ascii: false,
        }
    }
}

impl NameFilter {
    /// Every name may be watched for.
    pub fn everything() -> Self {
        Self {
            bits: Box::new([u64::MAX; WORDS]),
            beyond_ascii: true,
        }
    }

    /// Adds a name as the catalogue spells it.
    pub fn add(&mut self, name: &[u8]) {
        let (word, bit) = place(name);
        self.bits[word] |= 1 << bit;
        self.beyond_ascii |= !name.is_ascii();
    }

    /// May this be a name that was added? `written` is without quotes, in any case if it had none.
    #[inline]
    pub fn may_hold(&self, written: &[u8]) -> bool {
        let (word, bit) = place(written);
        // A doubled quote and a name that is cut off are spelled otherwise than they are written.
        self.bits[word] >> bit & 1 == 1
            || written.len() > super::MAX_NAME
            || written.contains(&b'"')
            || (self.beyond_ascii && !written.is_ascii())
    }

    /// Was a name added that is not ASCII?
    pub fn has_names_beyond_ascii(&self) -> bool {
        self.beyond_ascii
    }
}

/// The same for a letter in upper and lower case.
#[inline]
fn place(name: &[u8]) -> (usize, u32) {
    let end = |byte: Option<&u8>| usize::from(byte.map_or(0, |byte| byte & 0x1f));
    let (first, last) = (end(name.first()), end(name.last()));
    let bit = name.len() & 3 | (last << 2 | first << 7);
    #[expect(clippy::cast_possible_truncation, reason = "below 64")]
    (bit / 64, (bit % 64) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_never_missed() {
        let mut filter = NameFilter::default();
        for written in ["orders", "", "Orders", "\u{e9}"] {
            assert!(!filter.may_hold(written.as_bytes()));
        }
        filter.add(b"orders");
        filter.add(b"line items");
        filter.add("t\u{e9}".as_bytes());
        for written in ["orders", "ORDERS", "OrderS", "line items", "t\u{e9}"] {
            assert!(filter.may_hold(written.as_bytes()), "{written}");
        }
        // Spelled otherwise than written.
        assert!(filter.may_hold(b"a\"\"b") && filter.may_hold(&[b'a'; 64]));
        assert!(filter.may_hold(b"\xe9t"), "a name in some other encoding");
        for written in ["order", "customers", "id", ""] {
            assert!(!filter.may_hold(written.as_bytes()), "{written}");
        }
        assert!(NameFilter::everything().may_hold(b"anything"));
    }
}
