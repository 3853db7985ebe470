//! Tables as the console sends them: columns with a type, and rows of values.
//!
//! Knows the wire encodings of the few types that the console's columns have, and no table.

use std::borrow::Cow;

use crate::protocol::encode;

/// Type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `text`.
    Text,
    /// `int4`; what does not fit is shown as the largest that does.
    Int4,
    /// `int8`, in the same way.
    Int8,
    /// `numeric`, always a whole number.
    Numeric,
}

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column {
    /// Its name.
    pub(super) name: &'static str,
    /// Its type.
    pub(super) kind: Kind,
}

/// Columns in the short form of PgBouncer's `pktbuf_write_RowDescription`: a name with the letter of
/// its type.
pub(super) const fn s(name: &'static str) -> Column {
    let kind = Kind::Text;
    Column { name, kind }
}

/// An `int4` column.
pub(super) const fn i(name: &'static str) -> Column {
    let kind = Kind::Int4;
    Column { name, kind }
}

/// An `int8` column.
pub(super) const fn q(name: &'static str) -> Column {
    let kind = Kind::Int8;
    Column { name, kind }
}

/// A `numeric` column.
pub(super) const fn n(name: &'static str) -> Column {
    let kind = Kind::Numeric;
    Column { name, kind }
}

/// A field of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// NULL.
    Null,
    /// Of a text column.
    Text(Cow<'static, str>),
    /// Of any other.
    Number(u64),
}

/// A row.
pub(super) type Row = Vec<Value>;

/// The rows of a table, made as they are sent.
pub(super) type Rows = Box<dyn Iterator<Item = Row> + Send>;

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl From<&Box<str>> for Value {
    fn from(text: &Box<str>) -> Self {
        Self::from(text.to_string())
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Number(flag.into())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Number(u64::try_from(number).unwrap_or(u64::MAX))
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl Kind {
    /// OID and size, as in `pg_type`.
    fn oid_and_size(self) -> (u32, i16) {
        match self {
            Self::Text => (25, -1),
            Self::Int4 => (23, 4),
            Self::Int8 => (20, 8),
            Self::Numeric => (1700, -1),
        }
    }

    /// The largest number it shows.
    fn most(self) -> u64 {
        match self {
            Self::Int4 => i32::MAX.unsigned_abs().into(),
            Self::Int8 => i64::MAX.unsigned_abs(),
            Self::Text | Self::Numeric => u64::MAX,
        }
    }

    /// A number as its `send` function writes it.
    fn binary(self, number: u64) -> Vec<u8> {
        match self {
            Self::Text => number.to_string().into_bytes(),
            Self::Int4 => u32::try_from(number)
                .unwrap_or(u32::MAX)
                .to_be_bytes()
                .into(),
            Self::Int8 => number.to_be_bytes().into(),
            Self::Numeric => binary_numeric(number),
        }
    }
}

/// `numeric_send`: number of digits to the base 10,000, weight of the first, sign, scale, the digits;
/// zeros at the end are left out.
fn binary_numeric(number: u64) -> Vec<u8> {
    let mut digits = Vec::new();
    let mut rest = number;
    while rest > 0 {
        digits.push(u16::try_from(rest % 10_000).expect("a remainder of 10,000"));
        rest /= 10_000;
    }
    let weight = u16::try_from(digits.len().saturating_sub(1)).expect("a u64 has five such digits");
    let zeros = digits.iter().take_while(|digit| **digit == 0).count();
    let digits = &digits[zeros..];
    let count = u16::try_from(digits.len()).expect("a u64 has five such digits");
    [count, weight, 0, 0]
        .iter()
        .chain(digits.iter().rev())
        .flat_map(|word| word.to_be_bytes())
        .collect()
}

/// Which columns are sent in binary: what a Bind message asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Formats {
    /// All alike.
    All {
        /// Whether in binary.
        binary: bool,
    },
    /// Each column its own.
    Each(Box<[bool]>),
}

impl Formats {
    /// Text, as in the simple protocol.
    pub(super) const TEXT: Self = Self::All { binary: false };

    fn is_binary(&self, column: usize) -> bool {
        match self {
            Self::All { binary } => *binary,
            Self::Each(each) => each.get(column).copied().unwrap_or(false),
        }
    }
}

/// RowDescription.
pub(super) fn header(out: &mut Vec<u8>, columns: &[Column], formats: &Formats) {
    let columns: Vec<_> = columns
        .iter()
        .enumerate()
        .map(|(at, column)| {
            let (type_oid, type_size) = column.kind.oid_and_size();
            encode::Column {
                name: column.name,
                type_oid,
                type_size,
                binary: formats.is_binary(at),
            }
        })
        .collect();
    encode::row_description(out, &columns);
}

/// DataRow.
pub(super) fn row(out: &mut Vec<u8>, columns: &[Column], row: &[Value], formats: &Formats) {
    debug_assert_eq!(columns.len(), row.len(), "a value for each column");
    let fields: Vec<Option<Cow<'_, [u8]>>> = columns
        .iter()
        .zip(row)
        .enumerate()
        .map(|(at, (column, value))| match value {
            Value::Null => None,
            Value::Text(text) => Some(Cow::Borrowed(text.as_bytes())),
            Value::Number(number) => {
                let number = *number.min(&column.kind.most());
                Some(Cow::Owned(if formats.is_binary(at) {
                    column.kind.binary(number)
                } else {
                    number.to_string().into_bytes()
                }))
            }
        })
        .collect();
    encode::data_row(out, fields.iter().map(Option::as_deref));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{backend, frame};

    const COLUMNS: [Column; 4] = [s("a"), i("b"), q("c"), n("d")];

    fn fields(row: &[Value], formats: &Formats) -> Vec<Option<Vec<u8>>> {
        let mut out = Vec::new();
        super::row(&mut out, &COLUMNS, row, formats);
        let frame = frame::backend(&out).expect("valid").expect("whole");
        let fields = backend::data_row(frame.body()).expect("well-formed");
        fields.into_iter().map(|f| f.map(<[u8]>::to_vec)).collect()
    }

    fn text(fields: &[Option<Vec<u8>>]) -> Vec<Option<&str>> {
        let text = |bytes| str::from_utf8(bytes).expect("ASCII");
        fields.iter().map(|f| f.as_deref().map(text)).collect()
    }

    #[test]
    fn values_as_text() {
        let row = ["x".into(), 7u64.into(), Value::Null, u64::MAX.into()];
        assert_eq!(
            text(&fields(&row, &Formats::TEXT)),
            [Some("x"), Some("7"), None, Some("18446744073709551615")]
        );
        let large = ["".into(), u64::MAX.into(), u64::MAX.into(), 0u64.into()];
        assert_eq!(
            text(&fields(&large, &Formats::TEXT)),
            [
                Some(""),
                Some("2147483647"),
                Some("9223372036854775807"),
                Some("0")
            ],
            "a driver must not fail on a number that its type cannot hold"
        );
    }

    #[test]
    fn values_in_binary_where_that_is_asked_for() {
        let row = ["x".into(), 7u64.into(), 8u64.into(), 9u64.into()];
        let each = Formats::Each([false, true, false, true].into());
        let numeric = vec![0, 1, 0, 0, 0, 0, 0, 0, 0, 9];
        assert_eq!(
            fields(&row, &each),
            [
                Some(b"x".into()),
                Some(vec![0, 0, 0, 7]),
                Some(b"8".into()),
                Some(numeric.clone())
            ]
        );
        assert_eq!(
            fields(&row, &Formats::All { binary: true }),
            [
                Some(b"x".into()),
                Some(vec![0, 0, 0, 7]),
                Some(vec![0, 0, 0, 0, 0, 0, 0, 8]),
                Some(numeric)
            ]
        );
    }

    #[test]
    fn binary_numerics_have_digits_to_the_base_ten_thousand() {
        let words = |words: &[u16]| {
            words
                .iter()
                .flat_map(|w| w.to_be_bytes())
                .collect::<Vec<_>>()
        };
        // As `select numeric_send(N)` answers.
        for (number, expected) in [
            (0, &[0, 0, 0, 0][..]),
            (10_000, &[1, 1, 0, 0, 1]),
            (12_345_678, &[2, 1, 0, 0, 1234, 5678]),
            (120_000_000_005, &[3, 2, 0, 0, 1200, 0, 5]),
            (u64::MAX, &[5, 4, 0, 0, 1844, 6744, 737, 955, 1615]),
        ] {
            assert_eq!(binary_numeric(number), words(expected), "{number}");
        }
    }
}
