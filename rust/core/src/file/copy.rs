//! One file to another: pieces are read, sealed or opened, and written at their final offset, by
//! the caller and the helpers of the pool, each with a pair of buffers of its own.

use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use zeroize::Zeroizing;

use super::place::Place;
use super::source::{Message, Source, open_message};
use super::target::{PRIVATE, Target, lock_shared, require_free};
use super::{Count, create};
use crate::envelope::{KeySource, NewSlot};
use crate::error::Result;
use crate::parallel::{self, Tick};
use crate::params::{
    CHUNK_LEN, FILE_BUFFERS_MAX, FILE_LONG_PIECE_CHUNKS, FILE_PIECE_CHUNKS, FILE_SHARED_MIN,
    FILE_WORKERS_MAX, PARALLEL_MIN, TAG_LEN, WIRE_CHUNK_LEN,
};
use crate::stream::StreamKey;

/// How long pieces are, and buffers of those that are under way: as many as threads have asked
/// for at once.
pub struct Ring {
    chunks: usize,
    free: Mutex<Vec<Buffers>>,
}

/// The two sides of a piece, each there once it is asked for.
pub struct Buffers {
    chunks: usize,
    plain: Zeroizing<Vec<u8>>,
    sealed: Vec<u8>,
}

impl Buffers {
    /// Room for the plaintext, wiped in the end, and for what is written of it; a header goes in front
    /// of that.
    pub fn both(&mut self) -> (&mut [u8], &mut Vec<u8>) {
        if self.plain.is_empty() {
            self.plain = Zeroizing::new(vec![0; self.chunks * CHUNK_LEN]);
        }
        self.sealed();
        (&mut self.plain, &mut self.sealed)
    }

    /// Room for what is written alone.
    pub fn sealed(&mut self) -> &mut Vec<u8> {
        if self.sealed.is_empty() {
            self.sealed = vec![0; self.chunks * WIRE_CHUNK_LEN];
        }
        &mut self.sealed
    }
}

impl Ring {
    /// For what is opened, and for short files.
    pub fn new() -> Self {
        Self {
            chunks: FILE_PIECE_CHUNKS,
            free: Mutex::new(Vec::new()),
        }
    }

    /// For sealed bytes that are written, of a file of about so many.
    pub fn for_sealing(len: u64) -> Self {
        let mut ring = Self::new();
        if len > FILE_SHARED_MIN {
            ring.chunks = FILE_LONG_PIECE_CHUNKS;
        }
        ring
    }

    /// Chunks of a piece.
    pub fn chunks(&self) -> usize {
        self.chunks
    }

    /// Plaintext bytes of a piece.
    pub fn plain_len(&self) -> usize {
        self.chunks * CHUNK_LEN
    }

    /// The same, sealed.
    pub fn sealed_len(&self) -> usize {
        self.chunks * WIRE_CHUNK_LEN
    }

    /// Lends a pair for one piece.
    pub fn with<R>(&self, work: impl FnOnce(&mut Buffers) -> Result<R>) -> Result<R> {
        let lent = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let mut buffers = lent.unwrap_or_else(|| Buffers {
            chunks: self.chunks,
            plain: Zeroizing::new(Vec::new()),
            sealed: Vec::new(),
        });
        let result = work(&mut buffers);
        self.free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(buffers);
        result
    }
}

/// Who does the pieces of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crew {
    /// The calling thread.
    Alone,
    /// The caller and helpers; at most so many, None for all.
    Pool(Option<usize>),
}

impl Crew {
    /// Does `work` for pieces 0 to `pieces` - 1, with buffers of `ring`.
    ///
    /// # Errors
    /// The first error; what `tick` returns.
    pub fn each(
        self,
        ring: &Ring,
        pieces: u64,
        work: impl Fn(u64) -> Result<u64> + Sync,
        tick: Tick<'_>,
    ) -> Result<()> {
        match self {
            Crew::Alone => {
                let mut done = 0;
                for piece in 0..pieces {
                    done += work(piece)?;
                    tick(done)?;
                }
                Ok(())
            }
            Crew::Pool(workers) => {
                let workers = if pieces * (ring.plain_len() as u64) < PARALLEL_MIN as u64 {
                    1
                } else {
                    let most = FILE_BUFFERS_MAX / (ring.plain_len() + ring.sealed_len());
                    let most = most.min(FILE_WORKERS_MAX);
                    workers.map_or(most, |workers| workers.min(most))
                };
                parallel::for_each(0..pieces, Some(workers), work, tick)
            }
        }
    }
}

/// Writes `header` and the chunks of all of `source`.
///
/// # Errors
/// `ESTALE` where the source changes; the system's error; what `tick` returns.
pub fn seal_all<D: AsFd + Sync>(
    source: &Source,
    target: &Target<D>,
    header: &[u8],
    key: &StreamKey,
    ring: &Ring,
    crew: Crew,
    tick: Tick<'_>,
) -> Result<()> {
    let len = source.len();
    let piece_len = ring.plain_len();
    let seal = |piece: u64| {
        ring.with(|buffers| {
            let at = piece * piece_len as u64;
            let count = usize::try_from(len - at).map_or(piece_len, |left| left.min(piece_len));
            let (plain, sealed) = buffers.both();
            let plain = &mut plain[..count];
            source.read_exact_at(plain, at)?;
            seal_piece(target, header, key, piece, plain, ring.chunks(), sealed)?;
            Ok(count as u64)
        })
    };
    // One more than whole pieces: the last chunk is short, and may be empty.
    crew.each(ring, len / piece_len as u64 + 1, seal, tick)?;
    source.check_unchanged()
}

/// Seals and writes a piece of `piece_chunks` chunks: the last one is the one that is shorter than
/// the others, and may be empty. The first one and the header go out in one write.
///
/// # Errors
/// The system's error; [`crate::Error::Limit`].
pub fn seal_piece<D: AsFd>(
    target: &Target<D>,
    header: &[u8],
    key: &StreamKey,
    piece: u64,
    plain: &[u8],
    piece_chunks: usize,
    out: &mut Vec<u8>,
) -> Result<()> {
    let chunks = (plain.len() / CHUNK_LEN + 1).min(piece_chunks);
    let front = if piece == 0 { header } else { &[] };
    let end = front.len() + plain.len() + chunks * TAG_LEN;
    if out.len() < end {
        out.resize(end, 0);
    }
    out[..front.len()].copy_from_slice(front);
    let first = piece * piece_chunks as u64;
    key.seal_run(first, plain, &mut out[front.len()..end])?;
    let start = if piece == 0 { 0 } else { header.len() as u64 };
    target.write_at(&out[..end], start + first * WIRE_CHUNK_LEN as u64)
}

/// Opens all chunks of a message, the last one first: it is not the last of a message that was
/// cut. What comes out goes to `take`, with its offset.
///
/// # Errors
/// [`crate::Error::Decryption`]; `ESTALE` where the source changes; what `take` and `tick` return.
pub fn open_all(
    source: &Source,
    message: &Message,
    ring: &Ring,
    crew: Crew,
    take: impl Fn(&[u8], u64) -> Result<()> + Sync,
    tick: Tick<'_>,
) -> Result<()> {
    let key = &message.opened.stream;
    let open = |buffers: &mut Buffers, first: u64, at: u64, count: usize| {
        let (plain, sealed) = buffers.both();
        let sealed = &mut sealed[..count];
        source.read_exact_at(sealed, message.start + at)?;
        let whole = count / WIRE_CHUNK_LEN;
        let len = count - (whole + usize::from(!count.is_multiple_of(WIRE_CHUNK_LEN))) * TAG_LEN;
        key.open_run(first, sealed, &mut plain[..len])?;
        Ok(len)
    };
    let piece_len = ring.sealed_len();
    let pieces = message.sealed.div_ceil(piece_len as u64);
    if pieces > 1 {
        let last = message.plaintext / CHUNK_LEN as u64;
        let at = last * WIRE_CHUNK_LEN as u64;
        let count = usize::try_from(message.sealed - at).expect("less than a chunk");
        ring.with(|buffers| open(buffers, last, at, count))
            .map_err(|error| source.explain(error))?;
    }
    let step = |piece: u64| {
        ring.with(|buffers| {
            let at = piece * piece_len as u64;
            let left = usize::try_from(message.sealed - at);
            let count = left.map_or(piece_len, |left| left.min(piece_len));
            let first = piece * ring.chunks() as u64;
            let len = open(buffers, first, at, count)?;
            take(&buffers.both().0[..len], first * CHUNK_LEN as u64)?;
            Ok(len as u64)
        })
    };
    crew.each(ring, pieces, step, tick)
        .map_err(|error| source.explain(error))?;
    source.check_len()
}

/// Encrypts a file.
///
/// # Errors
/// As [`Source::open`] and [`create`]; `EEXIST`, `EISDIR`, or [`super::Trouble::SameFile`] for the
/// target; `ESTALE` where the source changes; the system's error; what `tick` returns.
pub fn encrypt(
    from: Place<'_>,
    to: Place<'_>,
    slots: &[NewSlot<'_>],
    associated_data: &[u8],
    overwrite: bool,
    tick: Tick<'_>,
) -> Result<Count> {
    let source = Source::open(from)?;
    require_free(to, &source, overwrite)?;
    lock_shared(to.dir);
    let target = Target::create(to.dir, to.name, PRIVATE)?.expecting(source.len());
    let (header, key) = create(slots, associated_data)?;
    let bytes = header.to_bytes();
    seal_all(
        &source,
        &target,
        &bytes,
        &key,
        &Ring::for_sealing(source.len()),
        Crew::Pool(None),
        tick,
    )?;
    target.keep(source.stat(), true)?;
    target.finish(overwrite, source.len(), tick)?;
    Ok(Count {
        plaintext: source.len(),
        message: bytes.len() as u64
            + crate::stream::sealed_len(source.len()).expect("it was written"),
        key_id: header.first_key_id(),
    })
}

/// Decrypts a file. Its name is there once the last chunk is authenticated.
///
/// # Errors
/// As [`Source::open`] and [`open_message`]; [`crate::Error::Decryption`] for a chunk; as
/// [`encrypt`] for the target.
pub fn decrypt(
    from: Place<'_>,
    to: Place<'_>,
    keys: &dyn KeySource,
    associated_data: &[u8],
    overwrite: bool,
    tick: Tick<'_>,
) -> Result<Count> {
    let source = Source::open(from)?;
    require_free(to, &source, overwrite)?;
    let message = open_message(&source, keys, associated_data)?;
    lock_shared(to.dir);
    let target = Target::create(to.dir, to.name, PRIVATE)?.expecting(message.plaintext);
    let write = |plain: &[u8], at| target.write_at(plain, at);
    open_all(
        &source,
        &message,
        &Ring::new(),
        Crew::Pool(None),
        write,
        tick,
    )?;
    target.keep(source.stat(), true)?;
    target.finish(overwrite, message.plaintext, tick)?;
    Ok(count(&source, &message))
}

/// Authenticates all of a file and keeps nothing of it.
///
/// # Errors
/// As [`Source::open`] and [`open_message`]; [`crate::Error::Decryption`] for a chunk; what `tick`
/// returns.
pub fn verify(
    from: Place<'_>,
    keys: &dyn KeySource,
    associated_data: &[u8],
    tick: Tick<'_>,
) -> Result<Count> {
    let source = Source::open(from)?;
    let message = open_message(&source, keys, associated_data)?;
    open_all(
        &source,
        &message,
        &Ring::new(),
        Crew::Pool(None),
        |_, _| Ok(()),
        tick,
    )?;
    Ok(count(&source, &message))
}

/// What came of an opened message.
pub fn count(source: &Source, message: &Message) -> Count {
    Count {
        plaintext: message.plaintext,
        message: source.len(),
        key_id: message.opened.key_id,
    }
}
