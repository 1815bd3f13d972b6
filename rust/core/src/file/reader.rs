//! Reading an encrypted file at any offset.

use std::sync::{Mutex, TryLockError};

use zeroize::Zeroizing;

use super::place::Place;
use super::source::{Source, open_message};
use crate::envelope::KeySource;
use crate::error::Result;
use crate::keys::KeyId;
use crate::parallel::{self, Tick};
use crate::params::{CHUNK_LEN, FILE_PIECE_CHUNKS, FILE_WORKERS_MAX, PARALLEL_MIN, WIRE_CHUNK_LEN};
use crate::stream::RandomAccess;

/// Plaintext bytes that a worker opens at a time.
const PIECE: usize = FILE_PIECE_CHUNKS * CHUNK_LEN;

/// An encrypted file, open for reading: whole when it was opened, and of the length that its last
/// chunk says.
pub struct Reader {
    source: Source,
    access: RandomAccess,
    start: u64,
    key_id: Option<KeyId>,
    last: Mutex<Chunk>,
}

/// The chunk that was read last: small reads one behind the other open each chunk once.
struct Chunk {
    index: Option<u64>,
    sealed: Vec<u8>,
    plain: Zeroizing<Vec<u8>>,
    len: usize,
}

impl Chunk {
    fn new() -> Self {
        Self {
            index: None,
            sealed: vec![0; WIRE_CHUNK_LEN],
            plain: Zeroizing::new(vec![0; CHUNK_LEN]),
            len: 0,
        }
    }
}

impl Reader {
    /// Opens a file and authenticates its last chunk: a file that was cut fails here.
    ///
    /// # Errors
    /// As [`Source::open`] and [`open_message`].
    pub fn open(place: Place<'_>, keys: &dyn KeySource, associated_data: &[u8]) -> Result<Self> {
        let source = Source::open(place)?;
        let message = open_message(&source, keys, associated_data)?;
        let reader = Self {
            access: RandomAccess::new(message.opened.stream, message.sealed)?,
            start: message.start,
            key_id: message.opened.key_id,
            last: Mutex::new(Chunk::new()),
            source,
        };
        let mut chunk = Chunk::new();
        reader.load(&mut chunk, reader.access.chunks() - 1)?;
        Ok(reader)
    }

    /// Bytes of plaintext.
    pub fn len(&self) -> u64 {
        self.access.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The key that opened it; None for a passphrase.
    pub fn key_id(&self) -> Option<KeyId> {
        self.key_id
    }

    /// Reads from `offset` on until `out` is full or the file ends; returns how much.
    ///
    /// # Errors
    /// [`crate::Error::Decryption`]; `ESTALE` where the file has become shorter; the system's
    /// error; what `tick` returns. `out` is zeros then.
    pub fn read_at(&self, offset: u64, out: &mut [u8], tick: Tick<'_>) -> Result<usize> {
        let left = self.len().saturating_sub(offset);
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(out.len());
        if count == 0 {
            return Ok(0);
        }
        self.fill(offset, &mut out[..count], tick)
            .inspect_err(|_| out[..count].fill(0))?;
        Ok(count)
    }

    fn fill(&self, offset: u64, out: &mut [u8], tick: Tick<'_>) -> Result<()> {
        // Up to the first chunk boundary, whole chunks, and the rest.
        let inside = (offset % CHUNK_LEN as u64) as usize;
        let head = if inside == 0 {
            0
        } else {
            (CHUNK_LEN - inside).min(out.len())
        };
        let (head, rest) = out.split_at_mut(head);
        let first = offset.div_ceil(CHUNK_LEN as u64);
        let (whole, tail) = rest.split_at_mut(rest.len() / CHUNK_LEN * CHUNK_LEN);
        if !head.is_empty() {
            self.part(offset / CHUNK_LEN as u64, inside, head)?;
        }
        if !whole.is_empty() {
            self.whole(first, whole, tick)?;
        }
        if !tail.is_empty() {
            self.part(first + (rest_chunks(whole.len())), 0, tail)?;
        }
        Ok(())
    }

    /// A part of one chunk, through the chunk that is kept if nobody else is using it.
    fn part(&self, index: u64, at: usize, out: &mut [u8]) -> Result<()> {
        let copy = |chunk: &mut Chunk, out: &mut [u8]| {
            if chunk.index != Some(index) {
                self.load(chunk, index)?;
            }
            out.copy_from_slice(&chunk.plain[..chunk.len][at..at + out.len()]);
            Ok(())
        };
        match self.last.try_lock() {
            Ok(mut chunk) => copy(&mut chunk, out),
            Err(TryLockError::Poisoned(chunk)) => copy(&mut chunk.into_inner(), out),
            Err(TryLockError::WouldBlock) => copy(&mut Chunk::new(), out),
        }
    }

    fn load(&self, chunk: &mut Chunk, index: u64) -> Result<()> {
        let (at, count) = self.access.chunk_at(index);
        chunk.index = None;
        let sealed = &mut chunk.sealed[..count];
        self.source.read_exact_at(sealed, self.start + at)?;
        chunk.len = count - crate::params::TAG_LEN;
        self.access
            .open(index, sealed, &mut chunk.plain[..chunk.len])?;
        chunk.index = Some(index);
        Ok(())
    }

    /// Whole chunks, opened where they are wanted.
    fn whole(&self, first: u64, out: &mut [u8], tick: Tick<'_>) -> Result<()> {
        let workers = if out.len() < PARALLEL_MIN {
            1
        } else {
            FILE_WORKERS_MAX
        };
        let pieces = out.chunks_mut(PIECE).enumerate();
        let open = |(number, out): (usize, &mut [u8])| {
            let first = first + (number * FILE_PIECE_CHUNKS) as u64;
            let mut sealed = vec![0; out.len() / CHUNK_LEN * WIRE_CHUNK_LEN];
            self.source
                .read_exact_at(&mut sealed, self.start + self.access.chunk_at(first).0)?;
            self.access.open(first, &sealed, out)?;
            Ok(out.len() as u64)
        };
        if workers == 1 {
            return pieces.map(open).try_for_each(|done| done.map(drop));
        }
        parallel::for_each(pieces, Some(workers), open, tick)
    }
}

fn rest_chunks(len: usize) -> u64 {
    (len / CHUNK_LEN) as u64
}
