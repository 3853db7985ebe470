//! A bounded reader over one message body.
//!
//! Knows nothing of which message it reads. It never reads past the body it was given, never
//! allocates, and answers [`Malformed`] instead of panicking.

use memchr::memchr;

/// A message body that does not have the shape its tag promises (SQLSTATE 08P01).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A string without its terminating NUL.
    #[error("string without a terminator")]
    UnterminatedString,
    /// The body ends before the field does.
    #[error("message is shorter than its fields")]
    Truncated,
    /// Bytes are left over behind the last field.
    #[error("message is longer than its fields")]
    TrailingBytes,
    /// A field has a value that the protocol does not define.
    #[error("field \"{0}\" has an undefined value")]
    UndefinedValue(&'static str),
}

/// A cursor over a message body.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the start of `body` (the bytes behind the length word).
    #[inline]
    pub fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    /// What has not been read yet.
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// One byte.
    #[inline]
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        let (&first, rest) = self.rest.split_first().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(first)
    }

    /// A 16-bit count, as the protocol's Int16.
    #[inline]
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(u16::from_be_bytes(*bytes))
    }

    /// A 32-bit number, as the protocol's Int32.
    #[inline]
    pub fn i32(&mut self) -> Result<i32, Malformed> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(i32::from_be_bytes(*bytes))
    }

    /// A NUL-terminated string, without its NUL, in whatever encoding the peer uses.
    #[inline]
    pub fn cstr(&mut self) -> Result<&'a [u8], Malformed> {
        let end = self
            .rest
            .iter()
            .position(|&b| b == 0)
            .ok_or(Malformed::UnterminatedString)?;
        Ok(self.until(end))
    }

    /// The same for one that may be long: a name's end is found faster without a call.
    #[inline]
    pub fn long_cstr(&mut self) -> Result<&'a [u8], Malformed> {
        let end = memchr(0, self.rest).ok_or(Malformed::UnterminatedString)?;
        Ok(self.until(end))
    }

    /// What is before the byte at `end`, which is done with too.
    #[inline]
    fn until(&mut self, end: usize) -> &'a [u8] {
        let (string, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        string
    }

    /// The next `count` bytes.
    #[inline]
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// Checks that nothing is left.
    pub fn end(self) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Malformed::TrailingBytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_in_order_and_never_past_the_end() {
        let mut reader = Reader::new(b"name\0\0\x02\0\0\0\x07Sxy");
        assert_eq!(reader.cstr(), Ok(&b"name"[..]));
        assert_eq!(reader.u16(), Ok(2));
        assert_eq!(reader.i32(), Ok(7));
        assert_eq!(reader.u8(), Ok(b'S'));
        assert_eq!(reader.bytes(3), Err(Malformed::Truncated));
        assert_eq!(reader.bytes(2), Ok(&b"xy"[..]));
        assert_eq!(reader.u8(), Err(Malformed::Truncated));
        assert_eq!(reader.end(), Ok(()));
    }

    #[test]
    fn a_string_needs_its_terminator_inside_the_body() {
        assert_eq!(
            Reader::new(b"select 1").cstr(),
            Err(Malformed::UnterminatedString)
        );
        assert_eq!(Reader::new(b"").cstr(), Err(Malformed::UnterminatedString));
    }
}
