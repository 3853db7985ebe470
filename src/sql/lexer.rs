//! Bytes → tokens, by the rules of PostgreSQL's `src/backend/parser/scan.l` (versions 14 to 18).
//!
//! Does not know what a statement is. Where versions cut differently (`1_000`, `0x1F`, `1and`) it cuts so that no
//! keyword of any version is hidden inside a number.
//!
//! Invariants: each byte is looked at a bounded number of times (the blanks after a string once more, for string
//! continuation; a `$` that starts no dollar quote once more), there is no recursion and no allocation, and every
//! token but the last is at least one byte long.

use super::facts::{Reason, Span};
use super::words::{self, Category, Kw};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// An unquoted identifier or keyword.
    Word,
    /// `"…"`
    Quoted,
    /// `U&"…"`, whose real name is hidden by escapes.
    QuotedUnicode,
    /// Every kind of string: `'…'`, `E'…'`, `U&'…'`, `B'…'`, `X'…'`, `$tag$…$tag$`, continued over lines.
    String,
    Number,
    /// `$1`
    Param,
    Operator,
    Open,
    Close,
    Bracket,
    CloseBracket,
    Comma,
    Dot,
    Semicolon,
    /// `::`
    Cast,
    Colon,
    /// The end of the text, or of the part of it that can be understood: see [`Lexer::fault`].
    End,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) kw: Kw,
    pub(super) category: Category,
    pub(super) span: Span,
}

impl Token {
    pub(super) fn is(&self, kw: Kw) -> bool {
        self.kw == kw
    }

    /// Can it be a name by its form (any word, or a quoted one)?
    pub(super) fn is_name(&self) -> bool {
        matches!(self.kind, Kind::Word | Kind::Quoted | Kind::QuotedUnicode)
    }
}

#[derive(Clone)]
pub(super) struct Lexer<'a> {
    text: &'a [u8],
    pos: usize,
    backslash_escapes: bool,
    /// Up to here every byte is a sign by itself: see [`Self::operator`].
    signs_until: usize,
    /// Why the scan ended before the text did.
    pub(super) fault: Option<Reason>,
    /// A comment was skipped (hints live in comments).
    pub(super) comment: bool,
    /// Bytes looked at, by this lexer and all its clones.
    #[cfg(test)]
    pub(super) work: std::rc::Rc<std::cell::Cell<usize>>,
}

impl<'a> Lexer<'a> {
    /// `text` must be shorter than 4 GiB. `backslash_escapes`: `standard_conforming_strings` is off.
    pub(super) fn new(text: &'a [u8], backslash_escapes: bool) -> Self {
        debug_assert!(u32::try_from(text.len()).is_ok());
        Self {
            text,
            pos: 0,
            backslash_escapes,
            signs_until: 0,
            fault: None,
            comment: false,
            #[cfg(test)]
            work: std::rc::Rc::default(),
        }
    }

    #[inline]
    pub(super) fn next(&mut self) -> Token {
        #[cfg(test)]
        let before = self.pos;
        let token = self.cut();
        #[cfg(test)]
        self.work.set(self.work.get() + self.pos - before + 1);
        token
    }

    #[inline]
    fn cut(&mut self) -> Token {
        self.skip_blanks();
        let start = self.pos;
        let Some(&byte) = self.text.get(start) else {
            return self.token(Kind::End, start);
        };
        match CLASS[usize::from(byte)] {
            WORD => self.word(start, byte),
            DIGIT => {
                self.number();
                self.token(Kind::Number, start)
            }
            OPERATOR => self.operator(start),
            _ => self.other(start, byte),
        }
    }

    #[inline]
    fn token(&self, kind: Kind, start: usize) -> Token {
        Token {
            kind,
            kw: Kw::Other,
            category: Category::Name,
            span: Span::new(start, self.pos),
        }
    }

    /// Ends the scan here: the rest cannot be cut into tokens with certainty.
    #[cold]
    fn broken(&mut self, reason: Reason, start: usize) -> Token {
        self.fault = Some(reason);
        let span = Span::new(start, self.text.len());
        self.pos = self.text.len();
        Token {
            span,
            ..self.token(Kind::End, start)
        }
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.text.get(self.pos + ahead).copied().unwrap_or(0)
    }

    #[inline]
    fn skip_blanks(&mut self) {
        while let Some(&byte) = self.text.get(self.pos) {
            match CLASS[usize::from(byte)] {
                BLANK => self.pos += 1,
                OPERATOR if byte == b'-' && self.peek(1) == b'-' => {
                    self.comment = true;
                    self.skip_line();
                }
                OPERATOR if byte == b'/' && self.peek(1) == b'*' => {
                    self.comment = true;
                    if !self.skip_comment() {
                        return;
                    }
                }
                _ => return,
            }
        }
    }

    fn skip_line(&mut self) {
        let rest = &self.text[self.pos..];
        let end = rest.iter().position(|b| matches!(b, b'\n' | b'\r'));
        self.pos += end.unwrap_or(rest.len());
    }

    /// Skips a block comment, which nest. Unterminated: notes the fault and stops at the end.
    fn skip_comment(&mut self) -> bool {
        let start = self.pos;
        let mut depth = 0_usize;
        while let Some(&byte) = self.text.get(self.pos) {
            match (byte, self.peek(1)) {
                (b'/', b'*') => {
                    depth += 1;
                    self.pos += 2;
                }
                (b'*', b'/') => {
                    depth -= 1;
                    self.pos += 2;
                    if depth == 0 {
                        return true;
                    }
                }
                _ => self.pos += 1,
            }
        }
        self.broken(Reason::Unterminated, start);
        false
    }

    #[inline]
    fn word(&mut self, start: usize, first: u8) -> Token {
        let rest = &self.text[start..];
        let end = rest
            .iter()
            .position(|byte| CLASS[usize::from(*byte)] < WORD);
        let length = end.unwrap_or(rest.len());
        self.pos = start + length;
        if self.text.get(self.pos) == Some(&b'\'') && self.pos == start + 1 {
            match first | 0x20 {
                b'e' => return self.string(start, 1, true),
                b'b' | b'x' => return self.string(start, 1, false),
                b'n' => return self.plain_string(start, 1),
                _ => {}
            }
        }
        if first | 0x20 == b'u' && self.pos == start + 1 && self.peek(0) == b'&' {
            match self.peek(1) {
                b'\'' => return self.string(start, 2, false),
                b'"' => {
                    self.pos += 1;
                    return self.quoted(start, Kind::QuotedUnicode);
                }
                _ => {}
            }
        }
        let (kw, category) = words::keyword(rest, length);
        Token {
            kw,
            category,
            ..self.token(Kind::Word, start)
        }
    }

    /// Digits, a point, digits, an exponent; `1..2` is two numbers and `1e` a number and a word, as in scan.l.
    fn number(&mut self) {
        self.digits();
        if self.peek(0) == b'.' && self.peek(1) != b'.' {
            self.pos += 1;
            self.digits();
        }
        let sign = usize::from(matches!(self.peek(1), b'+' | b'-'));
        if self.peek(0) | 0x20 == b'e' && self.peek(1 + sign).is_ascii_digit() {
            self.pos += 1 + sign;
            self.digits();
        }
    }

    fn digits(&mut self) {
        while self.peek(0).is_ascii_digit()
            || (self.peek(0) == b'_' && self.peek(1).is_ascii_digit())
        {
            self.pos += 1;
        }
    }

    /// A run of operator characters, cut where a comment starts inside it. Signs at its end are no part of it (`a=-1`), unless
    /// it holds a character that SQL has no operators of its own with.
    fn operator(&mut self, start: usize) -> Token {
        if start < self.signs_until {
            self.pos += 1;
            return self.token(Kind::Operator, start);
        }
        while let Some(&byte) = self.text.get(self.pos)
            && CLASS[usize::from(byte)] == OPERATOR
        {
            if matches!((byte, self.peek(1)), (b'-', b'-') | (b'/', b'*')) {
                break;
            }
            self.pos += 1;
        }
        let run = &self.text[start..self.pos];
        if let [_, .., b'+' | b'-'] = run
            && !run.iter().any(|byte| b"~!@#^&|`?%".contains(byte))
        {
            let signs = run.iter().rev().take_while(|b| matches!(b, b'+' | b'-'));
            let length = run.len() - signs.count();
            self.signs_until = self.pos;
            self.pos = start + length.max(1);
        }
        self.token(Kind::Operator, start)
    }

    fn other(&mut self, start: usize, byte: u8) -> Token {
        let kind = match byte {
            b'\'' => return self.plain_string(start, 0),
            b'"' => return self.quoted(start, Kind::Quoted),
            b'$' => return self.dollar(start),
            b'.' if self.peek(1).is_ascii_digit() => {
                self.number();
                return self.token(Kind::Number, start);
            }
            b':' if self.peek(1) == b':' => {
                self.pos += 2;
                return self.token(Kind::Cast, start);
            }
            b'(' => Kind::Open,
            b')' => Kind::Close,
            b'[' => Kind::Bracket,
            b']' => Kind::CloseBracket,
            b',' => Kind::Comma,
            b'.' => Kind::Dot,
            b';' => Kind::Semicolon,
            b':' => Kind::Colon,
            _ => return self.broken(Reason::Malformed, start),
        };
        self.pos += 1;
        self.token(kind, start)
    }

    /// A string whose end depends on `standard_conforming_strings` if it holds a backslash.
    fn plain_string(&mut self, start: usize, prefix: usize) -> Token {
        let token = self.string(start, prefix, self.backslash_escapes);
        if self.backslash_escapes && self.text[start..self.pos].contains(&b'\\') {
            return self.broken(Reason::BackslashInString, start);
        }
        token
    }

    /// A quoted string whose opening quote is `prefix` bytes after `start`, with its continuations on later lines.
    fn string(&mut self, start: usize, prefix: usize, escapes: bool) -> Token {
        self.pos = start + prefix + 1;
        loop {
            let rest = &self.text[self.pos..];
            let Some(at) = rest
                .iter()
                .position(|&b| b == b'\'' || (escapes && b == b'\\'))
            else {
                return self.broken(Reason::Unterminated, start);
            };
            self.pos += at + 1;
            if rest[at] == b'\\' || self.peek(0) == b'\'' {
                if self.pos == self.text.len() {
                    return self.broken(Reason::Unterminated, start);
                }
                self.pos += 1;
                continue;
            }
            match self.continuation() {
                Some(inside) => self.pos = inside,
                None => return self.token(Kind::String, start),
            }
        }
    }

    /// Only blanks and line comments, at least one newline, then a quote: the string goes on behind that quote.
    fn continuation(&self) -> Option<usize> {
        let mut pos = self.pos;
        let mut newline = false;
        loop {
            match *self.text.get(pos)? {
                b'\n' | b'\r' => newline = true,
                b' ' | b'\t' | b'\x0b' | b'\x0c' => {}
                b'-' if self.text.get(pos + 1) == Some(&b'-') => {
                    pos += self.text[pos..]
                        .iter()
                        .position(|b| matches!(b, b'\n' | b'\r'))?;
                    continue;
                }
                b'\'' if newline => return Some(pos + 1),
                _ => return None,
            }
            pos += 1;
        }
    }

    fn quoted(&mut self, start: usize, kind: Kind) -> Token {
        self.pos += 1;
        loop {
            let rest = &self.text[self.pos..];
            let Some(at) = rest.iter().position(|&b| b == b'"') else {
                return self.broken(Reason::Unterminated, start);
            };
            self.pos += at + 1;
            if self.peek(0) != b'"' {
                return self.token(kind, start);
            }
            self.pos += 1;
        }
    }

    fn dollar(&mut self, start: usize) -> Token {
        self.pos += 1;
        if self.peek(0).is_ascii_digit() {
            while self.peek(0).is_ascii_digit() {
                self.pos += 1;
            }
            return self.token(Kind::Param, start);
        }
        if CLASS[usize::from(self.peek(0))] == WORD {
            while CLASS[usize::from(self.peek(0))] >= WORD && self.peek(0) != b'$' {
                self.pos += 1;
            }
        }
        if self.peek(0) != b'$' {
            return self.broken(Reason::Malformed, start);
        }
        self.pos += 1;
        let delimiter = &self.text[start..self.pos];
        // A tag holds no `$`, so a failed comparison never has to be taken back: linear.
        loop {
            let rest = &self.text[self.pos..];
            let Some(at) = rest.iter().position(|&b| b == b'$') else {
                return self.broken(Reason::Unterminated, start);
            };
            if rest[at..].starts_with(delimiter) {
                self.pos += at + delimiter.len();
                return self.token(Kind::String, start);
            }
            self.pos += at + 1;
        }
    }
}

// Classes of bytes. Those that go on with a word are `>= WORD`.
const OTHER: u8 = 0;
const BLANK: u8 = 1;
const OPERATOR: u8 = 2;
pub(super) const WORD: u8 = 3;
pub(super) const DIGIT: u8 = 4;
pub(super) const DOLLAR: u8 = 5;

pub(super) static CLASS: [u8; 256] = {
    let mut class = [OTHER; 256];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let b = byte as u8;
        class[byte] = match b {
            b' ' | b'\t' | b'\n' | b'\r' | b'\x0b' | b'\x0c' => BLANK,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80..=0xff => WORD,
            b'0'..=b'9' => DIGIT,
            b'$' => DOLLAR,
            b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'+' | b'-' | b'*'
            | b'/' | b'%' | b'<' | b'>' | b'=' => OPERATOR,
            _ => OTHER,
        };
        byte += 1;
    }
    class
};
