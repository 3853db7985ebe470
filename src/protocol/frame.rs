//! Bytes to frames: where one message ends and the next begins.
//!
//! A frame is a tag, a length and as much of the body as has arrived. The length word counts itself
//! (manual, "Message Formats"), is checked before it is used, and never leads to an allocation here.
//! Frames are cut from whatever buffer the caller holds; nothing is copied.

use super::tag::{BackendTag, FrontendTag};

/// Tag byte and length word.
pub const HEADER: usize = 5;

/// A frame whose header cannot be believed; the stream behind it cannot be trusted (08P01).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A byte that starts no message in this direction.
    #[error("invalid message type 0x{0:02x}")]
    UnknownTag(u8),
    /// A length word that is impossible, or above what this message may have.
    #[error("invalid length {length} of message \"{}\" (at most {limit})", char::from(*tag))]
    Length {
        /// First byte of the message.
        tag: u8,
        /// The length word as sent.
        length: u32,
        /// The largest that is accepted.
        limit: u32,
    },
    /// A message that could be, and is longer than the operator wants.
    #[error("message \"{}\" of {size} bytes is longer than max_packet_size allows ({limit})", char::from(*tag))]
    TooLong {
        /// First byte of the message.
        tag: u8,
        /// The length word as sent.
        size: u32,
        /// `max_packet_size`.
        limit: u32,
    },
}

/// One message, or the beginning of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a, T> {
    /// Which message.
    pub tag: T,
    /// The bytes of this message at hand, header included: all of it when [`Frame::is_whole`].
    pub bytes: &'a [u8],
    /// Its full size on the wire, header included.
    pub size: usize,
}

impl<'a, T> Frame<'a, T> {
    /// What is at hand of the body (behind tag and length).
    #[inline]
    pub fn body(&self) -> &'a [u8] {
        &self.bytes[HEADER..]
    }

    /// Whether all of the message is at hand.
    #[inline]
    pub fn is_whole(&self) -> bool {
        self.bytes.len() == self.size
    }
}

/// The frame at the start of a client's `bytes`; `None` when not even its header is there.
/// `max_packet_size` bounds the length word below PostgreSQL's own limit.
#[inline]
pub fn frontend(
    bytes: &[u8],
    max_packet_size: u32,
) -> Result<Option<Frame<'_, FrontendTag>>, FrameError> {
    let Some((&first, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let tag = FrontendTag::from_byte(first).ok_or(FrameError::UnknownTag(first))?;
    let Some(length) = rest.first_chunk() else {
        return Ok(None);
    };
    let limits = (tag.length_limit(), max_packet_size);
    cut(bytes, tag, u32::from_be_bytes(*length), limits).map(Some)
}

/// The message at the start of `bytes`, whosever they are: its first byte, its body, and what comes behind it.
/// `None` if not all of it is there. Whether there may be one of that tag and length is for [`frontend`] and
/// [`backend`] to say.
#[inline]
pub fn whole(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[first, length @ ..], behind) = bytes.split_first_chunk::<HEADER>()?;
    let length = u32::from_be_bytes(length).checked_sub(4)?;
    let (body, behind) = behind.split_at_checked(length as usize)?;
    Some((first, body, behind))
}

/// The frame at the start of a server's `bytes`; `None` when not even its header is there.
#[inline]
pub fn backend(bytes: &[u8]) -> Result<Option<Frame<'_, BackendTag>>, FrameError> {
    backend_within(bytes, u32::MAX)
}

/// The same with a bound of the operator's own.
#[inline]
pub fn backend_within(
    bytes: &[u8],
    max_packet_size: u32,
) -> Result<Option<Frame<'_, BackendTag>>, FrameError> {
    let Some((&first, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let tag = BackendTag::from_byte(first).ok_or(FrameError::UnknownTag(first))?;
    let Some(length) = rest.first_chunk() else {
        return Ok(None);
    };
    let limits = (tag.length_limit(), max_packet_size);
    cut(bytes, tag, u32::from_be_bytes(*length), limits).map(Some)
}

/// How many of a server's `bytes` are whole messages that rows consist of, one behind the other: DataRow, CopyData,
/// and `with_description` RowDescription. What is behind them, and whether it is a message at all, is for
/// [`backend_within`] to say.
#[inline]
pub fn rows(bytes: &[u8], with_description: bool, max_packet_size: u32) -> usize {
    const DATA_ROW: u8 = BackendTag::DataRow as u8;
    const COPY_DATA: u8 = BackendTag::CopyData as u8;
    const ROW_DESCRIPTION: u8 = BackendTag::RowDescription as u8;
    let lengths = 4..=BackendTag::DataRow
        .length_limit()
        .min(max_packet_size.max(4));
    let mut at = 0;
    while let Some(&[first, length @ ..]) = bytes[at..].first_chunk::<HEADER>() {
        let length = u32::from_be_bytes(length);
        let end = at + 1 + length as usize;
        let is_row = match first {
            DATA_ROW | COPY_DATA => true,
            ROW_DESCRIPTION => with_description,
            _ => false,
        };
        if !is_row || !lengths.contains(&length) || end > bytes.len() {
            break;
        }
        at = end;
    }
    at
}

/// `limits` are the protocol's and the operator's.
#[inline]
fn cut<T>(
    bytes: &[u8],
    tag: T,
    length: u32,
    limits: (u32, u32),
) -> Result<Frame<'_, T>, FrameError> {
    let (limit, max_packet_size) = limits;
    if !(4..=limit.min(max_packet_size.max(4))).contains(&length) {
        return Err(refused(bytes[0], length, limits));
    }
    let size = length as usize + 1;
    Ok(Frame {
        tag,
        bytes: &bytes[..bytes.len().min(size)],
        size,
    })
}

#[cold]
fn refused(tag: u8, length: u32, (limit, max_packet_size): (u32, u32)) -> FrameError {
    if (4..=limit).contains(&length) {
        return FrameError::TooLong {
            tag,
            size: length,
            limit: max_packet_size,
        };
    }
    FrameError::Length { tag, length, limit }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn query(text: &[u8]) -> Vec<u8> {
        let mut bytes = vec![FrontendTag::Query.byte()];
        bytes.extend_from_slice(&u32::try_from(text.len() + 5).expect("small").to_be_bytes());
        bytes.extend_from_slice(text);
        bytes.push(0);
        bytes
    }

    #[test]
    fn a_header_that_has_not_arrived_is_no_frame() {
        let bytes = query(b"select 1");
        for cut in 0..HEADER {
            assert_eq!(frontend(&bytes[..cut], u32::MAX), Ok(None));
        }
        let frame = frontend(&bytes[..7], u32::MAX)
            .expect("valid")
            .expect("header is there");
        assert!(!frame.is_whole());
        assert_eq!((frame.size, frame.body()), (bytes.len(), &b"se"[..]));
    }

    #[test]
    fn only_what_is_there_is_whole() {
        let bytes = [query(b"select 1"), query(b"")].concat();
        let first = query(b"select 1").len();
        for cut in 0..first {
            assert_eq!(whole(&bytes[..cut]), None);
        }
        let behind = &bytes[first..];
        assert_eq!(whole(&bytes), Some((b'Q', &b"select 1\0"[..], behind)));
        assert_eq!(whole(b"Q\0\0\0\x03"), None);
        assert_eq!(whole(b"Q\xff\xff\xff\xff"), None);
    }

    #[test]
    fn lying_lengths_are_refused_before_anything_is_read() {
        for (bytes, length, limit) in [
            (&b"Q\0\0\0\x03"[..], 3, 0x3fff_fffe),
            (b"Q\x7f\xff\xff\xff", 0x7fff_ffff, 0x3fff_fffe),
            (b"Q\xff\xff\xff\xff", u32::MAX, 0x3fff_fffe),
            (b"S\0\0\0\x05", 5, 4),
            (b"E\0\x01\0\0", 0x1_0000, 10_000),
        ] {
            let tag = bytes[0];
            let expected = Err(FrameError::Length { tag, length, limit });
            assert_eq!(frontend(bytes, u32::MAX), expected);
        }
        let too_long = |tag| FrameError::TooLong {
            tag,
            size: 4096,
            limit: 1024,
        };
        assert_eq!(frontend(b"Q\0\0\x10\0", 1024), Err(too_long(b'Q')));
        assert_eq!(backend_within(b"D\0\0\x10\0", 1024), Err(too_long(b'D')));
        assert!(backend(b"D\0\0\x10\0").is_ok());
        assert_eq!(frontend(b"!", u32::MAX), Err(FrameError::UnknownTag(b'!')));
    }

    proptest! {
        #[test]
        fn rows_are_messages_that_would_have_been_cut_one_by_one(
            sizes in prop::collection::vec((prop::sample::select(b"TDDDDCd".to_vec()), 0_u32..40), 0..12),
            with_description in any::<bool>(),
            max_packet_size in 0_u32..48,
            lost in 0_usize..50,
        ) {
            let mut bytes = Vec::new();
            for (tag, length) in sizes {
                bytes.push(tag);
                bytes.extend_from_slice(&length.to_be_bytes());
                bytes.resize(bytes.len() + (length as usize).saturating_sub(4), 7);
            }
            bytes.truncate(bytes.len().saturating_sub(lost));
            let mut at = 0;
            while let Ok(Some(frame)) = backend_within(&bytes[at..], max_packet_size)
                && match frame.tag {
                    BackendTag::DataRow | BackendTag::CopyData => true,
                    tag => tag == BackendTag::RowDescription && with_description,
                }
                && frame.is_whole()
            {
                at += frame.size;
            }
            prop_assert_eq!(rows(&bytes, with_description, max_packet_size), at);
        }

        #[test]
        fn any_split_of_a_stream_yields_the_same_frames(
            texts in prop::collection::vec(prop::collection::vec(1u8.., 0..40), 1..10),
            chunk in 1usize..50,
        ) {
            let stream: Vec<u8> = texts.iter().flat_map(|t| query(t)).collect();
            let mut held = Vec::new();
            let mut seen = Vec::new();
            for piece in stream.chunks(chunk) {
                held.extend_from_slice(piece);
                while let Some(frame) = frontend(&held, u32::MAX).expect("valid") {
                    if !frame.is_whole() { break }
                    let body = frame.body();
                    seen.push(body[..body.len() - 1].to_vec());
                    let size = frame.size;
                    held.drain(..size);
                }
            }
            prop_assert!(held.is_empty());
            prop_assert_eq!(seen, texts);
        }

        #[test]
        fn no_bytes_make_the_framer_panic(bytes: Vec<u8>, cap: u32) {
            let _ = frontend(&bytes, cap);
            let _ = backend(&bytes);
        }
    }
}
