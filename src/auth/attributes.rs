//! Bounded reader of SCRAM's attribute lists, `a=value,b=value` (RFC 5802 section 5.1 and 7).
//!
//! Knows no attribute's meaning. Every call either consumes input or fails, so no message can hold a reader.

/// A message that is not what the grammar allows. The text names the place, and carries nothing of the peer's.
pub(crate) type Malformed = &'static str;

/// What is left of a message.
pub(crate) struct Attributes<'a> {
    rest: Option<&'a str>,
}

impl<'a> Attributes<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { rest: Some(text) }
    }

    /// The value of the next attribute, which must have this name; `missing` describes it otherwise.
    pub(crate) fn expect(&mut self, name: char, missing: Malformed) -> Result<&'a str, Malformed> {
        match self.next()? {
            Some((found, value)) if found == name => Ok(value),
            _ => Err(missing),
        }
    }

    /// The next attribute, or `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<(char, &'a str)>, Malformed> {
        let Some(rest) = self.rest.take() else {
            return Ok(None);
        };
        let (attribute, rest) = match rest.split_once(',') {
            Some((attribute, rest)) => (attribute, Some(rest)),
            None => (rest, None),
        };
        self.rest = rest;
        let mut chars = attribute.chars();
        let name = chars
            .next()
            .filter(char::is_ascii_alphabetic)
            .ok_or("an attribute name must be a letter")?;
        let value = chars
            .as_str()
            .strip_prefix('=')
            .ok_or("an attribute lacks its \"=\"")?;
        Ok(Some((name, value)))
    }
}

/// The message as text without NUL, at most `limit` bytes, not empty.
pub(crate) fn text(message: &[u8], limit: usize) -> Result<&str, Malformed> {
    if message.is_empty() {
        return Err("the message is empty");
    }
    if message.len() > limit {
        return Err("the message is too long");
    }
    if message.contains(&0) {
        return Err("the message contains a zero byte");
    }
    std::str::from_utf8(message).map_err(|_| "the message is not UTF-8")
}

/// Whether `nonce` is a non-empty sequence of RFC 5802's `printable` (no comma).
pub(crate) fn is_nonce(nonce: &str) -> bool {
    !nonce.is_empty() && nonce.bytes().all(|b| matches!(b, 0x21..=0x7e) && b != b',')
}
