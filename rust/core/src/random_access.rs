//! Any chunk of a stream, in any order.

use crate::error::Result;
use crate::params::{CHUNK_LEN, TAG_LEN, WIRE_CHUNK_LEN};
use crate::stream::{StreamKey, plaintext_len};

/// Random access to the chunks of a message whose sealed bytes are read by the caller.
///
/// What is the last chunk follows from the length, which the caller must take from the message
/// itself; a cut one fails because its last chunk is not sealed as one of that length.
pub struct RandomAccess {
    key: StreamKey,
    /// Plaintext bytes of the message.
    pub len: u64,
}

impl RandomAccess {
    /// A reader of a message whose chunks take `sealed` bytes.
    ///
    /// # Errors
    /// [`crate::Error::Format`] for a length that no message has.
    pub fn new(key: StreamKey, sealed: u64) -> Result<Self> {
        Ok(Self {
            key,
            len: plaintext_len(sealed)?,
        })
    }

    /// Number of chunks.
    pub fn chunks(&self) -> u64 {
        self.len / CHUNK_LEN as u64 + 1
    }

    /// Where chunk `index` stands among the sealed bytes: offset and length.
    pub fn chunk_at(&self, index: u64) -> (u64, usize) {
        let len = if index + 1 < self.chunks() {
            CHUNK_LEN
        } else {
            (self.len % CHUNK_LEN as u64) as usize
        };
        (index * WIRE_CHUNK_LEN as u64, len + TAG_LEN)
    }

    /// Opens chunks from `first` on.
    ///
    /// # Errors
    /// [`crate::Error::Decryption`].
    pub fn open(&self, first: u64, sealed: &[u8], out: &mut [u8]) -> Result<()> {
        self.key
            .open_run(first, sealed, out)
            .inspect_err(|_| out.fill(0))
    }
}
