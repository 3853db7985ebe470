//! Borrowed views of the backend messages that the pooler looks into.
//!
//! A server is not trusted either: an ErrorResponse without a SQLSTATE or a ReadyForQuery with an
//! unknown status is an answer of its own, never a panic.

use super::{
    read::{Malformed, Reader},
    sqlstate::SqlState,
};

/// The transaction status that ReadyForQuery tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum TransactionStatus {
    /// Not in a transaction block.
    #[default]
    Idle = b'I',
    /// In a transaction block.
    InTransaction = b'T',
    /// In a failed transaction block: everything is refused until it ends.
    Failed = b'E',
}

/// The status in a ReadyForQuery body.
#[inline]
pub fn ready_for_query(body: &[u8]) -> Result<TransactionStatus, Malformed> {
    match body {
        [b'I'] => Ok(TransactionStatus::Idle),
        [b'T'] => Ok(TransactionStatus::InTransaction),
        [b'E'] => Ok(TransactionStatus::Failed),
        _ => Err(Malformed::UndefinedValue("transaction status")),
    }
}

/// Name and value in a ParameterStatus body.
pub fn parameter_status(body: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let mut reader = Reader::new(body);
    let pair = (reader.cstr()?, reader.cstr()?);
    reader.end()?;
    Ok(pair)
}

/// Process id and secret in a BackendKeyData body: 4 bytes in protocol 3.0, up to 256 in 3.2.
pub fn backend_key_data(body: &[u8]) -> Result<(i32, &[u8]), Malformed> {
    let mut reader = Reader::new(body);
    let process_id = reader.i32()?;
    let secret = reader.rest();
    if !(4..=256).contains(&secret.len()) {
        return Err(Malformed::UndefinedValue("secret key"));
    }
    Ok((process_id, secret))
}

/// The tag in a CommandComplete body, such as `INSERT 0 1`.
#[inline]
pub fn command_complete(body: &[u8]) -> Result<&[u8], Malformed> {
    Reader::new(body).cstr()
}

/// The fields of an ErrorResponse or NoticeResponse that the pooler looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ErrorFields<'a> {
    /// Field `C`, when it is a well-formed code.
    pub sqlstate: Option<SqlState>,
    /// Field `V` (never localized), or `S` from servers before 9.6.
    pub severity: &'a [u8],
    /// Field `M`.
    pub message: &'a [u8],
    /// Field `R`: the routine in PostgreSQL's source; never localized.
    pub routine: &'a [u8],
}

impl<'a> ErrorFields<'a> {
    /// Reads the fields of a body, as far as they are well-formed.
    pub fn read(body: &'a [u8]) -> Self {
        let mut fields = Self::default();
        let mut reader = Reader::new(body);
        while let Ok(kind @ 1..) = reader.u8() {
            let Ok(value) = reader.cstr() else { break };
            match kind {
                b'C' => fields.sqlstate = SqlState::from_bytes(value),
                b'M' => fields.message = value,
                b'R' => fields.routine = value,
                b'V' => fields.severity = value,
                b'S' if fields.severity.is_empty() => fields.severity = value,
                _ => {}
            }
        }
        fields
    }
}

/// The column values of a DataRow body; `None` is NULL.
pub fn data_row(body: &[u8]) -> Result<Vec<Option<&[u8]>>, Malformed> {
    let mut reader = Reader::new(body);
    let count = reader.u16()?;
    let mut columns = Vec::new();
    for _ in 0..count {
        let length = reader.i32()?;
        columns.push(match usize::try_from(length) {
            Ok(length) => Some(reader.bytes(length)?),
            Err(_) if length == -1 => None,
            Err(_) => return Err(Malformed::UndefinedValue("column length")),
        });
    }
    reader.end()?;
    Ok(columns)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn errors_are_read_as_far_as_they_are_well_formed() {
        let fields = ErrorFields::read(b"SFEHLER\0VERROR\0C42P01\0Mno such table\0\0");
        assert_eq!(fields.sqlstate, SqlState::from_bytes(b"42P01"));
        assert_eq!(fields.severity, b"ERROR");
        assert_eq!(fields.message, b"no such table");
        assert_eq!(ErrorFields::read(b""), ErrorFields::default());
        assert_eq!(ErrorFields::read(b"C4\0Mx").sqlstate, None);
    }

    #[test]
    fn rows_and_statuses() {
        assert_eq!(
            data_row(b"\0\x02\0\0\0\x01a\xff\xff\xff\xff"),
            Ok(vec![Some(&b"a"[..]), None])
        );
        assert_eq!(data_row(b"\0\x01\0\0\0\x09a"), Err(Malformed::Truncated));
        assert_eq!(ready_for_query(b"T"), Ok(TransactionStatus::InTransaction));
        assert!(ready_for_query(b"X").is_err());
        assert!(ready_for_query(b"").is_err());
        assert_eq!(parameter_status(b"a\0b\0"), Ok((&b"a"[..], &b"b"[..])));
        assert_eq!(backend_key_data(b"\0\0\0\x01abcd"), Ok((1, &b"abcd"[..])));
        assert!(backend_key_data(b"\0\0\0\x01ab").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_view_panic(bytes: Vec<u8>) {
            let _ = ready_for_query(&bytes);
            let _ = parameter_status(&bytes);
            let _ = backend_key_data(&bytes);
            let _ = command_complete(&bytes);
            let _ = ErrorFields::read(&bytes);
            drop(data_row(&bytes));
        }
    }
}
