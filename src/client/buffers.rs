//! The buffers that all clients of one worker share, so that an idle client owns none.
//!
//! Each is borrowed only inside of one poll, and never across another client's.

use std::cell::RefCell;

/// Bytes taken by one read. Larger than a Unix socket's default buffer is filled by one write, small
/// enough to stay in a core's second-level cache.
const READ_SIZE: usize = 64 * 1024;

/// Shared scratch space.
#[derive(Debug)]
pub struct Buffers {
    /// What was just read.
    pub read: RefCell<Box<[u8]>>,
    /// What is put together from pieces.
    pub composed: RefCell<Vec<u8>>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self {
            read: RefCell::new(vec![0; READ_SIZE].into()),
            composed: RefCell::new(Vec::with_capacity(READ_SIZE)),
        }
    }
}
