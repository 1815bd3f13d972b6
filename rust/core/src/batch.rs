//! Many records at once: equal ones back to back in one buffer. Lists of records are made of the
//! same calls by the extension, which has to make their objects anyway.

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::kc_xaes::BoxKey;
use crate::keys::KeyId;
use crate::parallel::{self, Tick};
use crate::params::{BOX_NONCE_LEN, PARALLEL_MIN, RECORD_OVERHEAD};
use crate::{random, record};

/// Records to a piece of work: enough that one draw of nonces serves many.
pub const PIECE_RECORDS: usize = 128;

/// One record of a batch: plaintext or message, its associated data, and where the result goes.
pub struct Item<'a> {
    /// What is read.
    pub input: &'a [u8],
    /// Its associated data.
    pub associated_data: &'a [u8],
    /// What is written, 92 bytes longer or shorter.
    pub out: &'a mut [u8],
}

/// Seals a run of records under nonces of one draw. Lengths were checked.
///
/// # Errors
/// [`Error::Limit`] of the key, [`Error::Os`] without randomness.
pub fn seal_run<'a>(
    key: &BoxKey,
    key_id: &KeyId,
    items: impl ExactSizeIterator<Item = Item<'a>>,
) -> Result<()> {
    let mut nonces = [[0; BOX_NONCE_LEN]; PIECE_RECORDS];
    let mut drawn = 0;
    let mut left = items.len();
    for (number, item) in items.enumerate() {
        let at = number % PIECE_RECORDS;
        if at == 0 {
            drawn = left.min(PIECE_RECORDS);
            key.spend(drawn as u64)?;
            random::nonces(&mut nonces[..drawn])?;
        }
        debug_assert!(at < drawn);
        left -= 1;
        record::seal_with(
            Engine::for_batch(item.input.len()),
            key,
            key_id,
            &nonces[at],
            item.associated_data,
            item.input,
            item.out,
        );
    }
    Ok(())
}

/// Bytes of `count` records of `size` bytes each, packed.
///
/// # Errors
/// [`Error::Limit`] where that is no length of memory.
pub fn packed_len(count: usize, size: usize) -> Result<usize> {
    size.checked_add(RECORD_OVERHEAD)
        .and_then(|each| each.checked_mul(count))
        .filter(|len| isize::try_from(*len).is_ok())
        .ok_or_else(|| Error::Limit("the packed records would be longer than memory".into()))
}

/// Seals `plaintext` as records of `size` bytes each, back to back.
///
/// # Errors
/// As [`seal_run`]; what `tick` returns.
pub fn seal_packed(
    key: &BoxKey,
    key_id: &KeyId,
    size: usize,
    associated_data: &[u8],
    plaintext: &[u8],
    out: &mut [u8],
    tick: Tick<'_>,
) -> Result<()> {
    record::check_plaintext_len(size)?;
    record::check_associated_data(associated_data)?;
    let each = size + RECORD_OVERHEAD;
    let pieces = plaintext
        .chunks(size * piece_records(size))
        .zip(out.chunks_mut(each * piece_records(size)));
    parallel::for_each(
        pieces,
        workers(plaintext.len()),
        |(plaintext, out)| {
            let items = plaintext
                .chunks_exact(size)
                .zip(out.chunks_exact_mut(each))
                .map(|(input, out)| Item {
                    input,
                    associated_data,
                    out,
                });
            seal_run(key, key_id, items)?;
            Ok(plaintext.len() as u64)
        },
        tick,
    )
}

/// Opens records of `size` plaintext bytes each, back to back; their structure was checked.
///
/// # Errors
/// [`Error::Decryption`] with the index of a bad record (the lowest of those that were seen);
/// `out` is zeros then. What `tick` returns.
pub fn open_packed(
    key: &BoxKey,
    size: usize,
    associated_data: &[u8],
    messages: &[u8],
    out: &mut [u8],
    tick: Tick<'_>,
) -> Result<()> {
    record::check_associated_data(associated_data)?;
    let each = size + RECORD_OVERHEAD;
    let records = piece_records(size);
    let pieces = messages
        .chunks(each * records)
        .zip(out.chunks_mut(size * records))
        .enumerate();
    let opened = parallel::for_each(
        pieces,
        workers(out_len(messages.len(), each, size)),
        |(piece, (messages, out))| {
            let pairs = messages.chunks_exact(each).zip(out.chunks_exact_mut(size));
            for (number, (message, out)) in pairs.enumerate() {
                record::open_in_batch(key, associated_data, message, out)
                    .map_err(|error| at_index(error, piece * records + number))?;
            }
            Ok(out.len() as u64)
        },
        tick,
    );
    if opened.is_err() {
        out.fill(0);
    }
    opened
}

/// Names the record that failed.
pub fn at_index(error: Error, index: usize) -> Error {
    match error {
        Error::Decryption { .. } => Error::Decryption { index: Some(index) },
        other => other,
    }
}

fn out_len(messages: usize, each: usize, size: usize) -> usize {
    messages / each * size
}

/// Records to a piece: about 64 KiB, and at least one.
fn piece_records(size: usize) -> usize {
    (crate::params::PIECE_LEN / (size + RECORD_OVERHEAD)).max(1)
}

fn workers(len: usize) -> Option<usize> {
    if len < PARALLEL_MIN { Some(1) } else { None }
}
