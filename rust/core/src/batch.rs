//! Many records at once: equal ones back to back in one buffer. Lists of records are made of the
//! same calls by the extension, which has to make their objects anyway.

use zeroize::Zeroizing;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::kc_xaes::{BoxKey, Subkeys};
use crate::keys::{BoxLabel, KeyId, Material};
use crate::parallel::{self, Tick, next_units, of_units};
use crate::params::{BOX_NONCE_LEN, RECORD_OVERHEAD};
use crate::pieces::pieces;
use crate::{random, record};

/// Records to a run: enough that one draw of nonces serves many.
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

/// Records whose subkeys are made together when they are sealed: 256 B take 378 ns where they took 404.
/// Opening gains nothing by it, it took longer.
const TOGETHER: usize = 8;

/// Seals a run of records. Lengths were checked.
///
/// # Errors
/// [`Error::Limit`] of the key, [`Error::Os`] without randomness.
pub fn seal_run<'a>(
    key: &BoxKey,
    key_id: &KeyId,
    mut items: impl ExactSizeIterator<Item = Item<'a>>,
) -> Result<()> {
    let seal = |item: Item<'_>, nonce: &[u8; BOX_NONCE_LEN], subkeys: &Subkeys| {
        let engine = Engine::for_batch(item.input.len());
        let (input, out) = (item.input, item.out);
        record::seal_with(
            engine,
            subkeys,
            key_id,
            nonce,
            item.associated_data,
            input,
            out,
        );
    };
    let mut nonces = [[0; BOX_NONCE_LEN]; PIECE_RECORDS];
    while items.len() > 0 {
        let drawn = items.len().min(PIECE_RECORDS);
        key.spend(drawn as u64)?;
        random::nonces(&mut nonces[..drawn])?;
        let (groups, rest) = nonces[..drawn].as_chunks::<TOGETHER>();
        for group in groups {
            let subkeys = key.subkeys(group.each_ref());
            for ((nonce, subkeys), item) in group.iter().zip(&subkeys).zip(&mut items) {
                seal(item, nonce, subkeys);
            }
        }
        for (nonce, item) in rest.iter().zip(&mut items) {
            let [subkeys] = key.subkeys([nonce]);
            seal(item, nonce, &subkeys);
        }
    }
    Ok(())
}

/// Opens a run of records, each under a key of its own, and seals them under `key`; one with an empty
/// `out` is only opened. Lengths were checked.
///
/// # Errors
/// As [`seal_run`]; [`Error::Decryption`] with the index of a bad record, [`Error::Forked`].
pub fn reseal_run<'a>(
    key: &BoxKey,
    key_id: &KeyId,
    items: Vec<(usize, &Material, Item<'a>)>,
) -> Result<()> {
    let len = |item: &Item<'_>| item.input.len() - RECORD_OVERHEAD;
    let mut plaintexts = Zeroizing::new(vec![0; items.iter().map(|(.., item)| len(item)).sum()]);
    let mut room = &mut plaintexts[..];
    let mut opened = Vec::with_capacity(items.len());
    for (index, from, item) in items {
        let plaintext = next_units(&mut room, len(&item), 1);
        from.box_key(BoxLabel::Record)
            .and_then(|from| {
                record::open_in_batch(from, item.associated_data, item.input, plaintext)
            })
            .map_err(|error| at_index(error, index))?;
        if !item.out.is_empty() {
            opened.push(Item {
                input: plaintext,
                ..item
            });
        }
    }
    seal_run(key, key_id, opened.into_iter())
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
    let workers = parallel::workers_for(plaintext.len(), None)?;
    let records = plaintext.len() / size;
    let mut room = out;
    let pieces = pieces(records, each, piece_records(size), workers).map(|piece| {
        let out = next_units(&mut room, piece.len(), each);
        (of_units(plaintext, &piece, size), out)
    });
    parallel::for_each(
        pieces,
        Some(workers),
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

/// Opens records of `size` plaintext bytes each, back to back. `check` is given each and its index
/// before it is opened, and looks at its structure.
///
/// # Errors
/// [`Error::Decryption`] with the index of a bad record, and what `check` returns, of the lowest
/// records that were seen; `out` is zeros then. What `tick` returns.
pub fn open_packed(
    key: &BoxKey,
    size: usize,
    associated_data: &[u8],
    messages: &[u8],
    check: impl Fn(usize, &[u8]) -> Result<()> + Sync,
    out: &mut [u8],
    tick: Tick<'_>,
) -> Result<()> {
    record::check_associated_data(associated_data)?;
    let each = size + RECORD_OVERHEAD;
    let records = messages.len() / each;
    let workers = parallel::workers_for(records * size, None)?;
    let mut room = &mut out[..];
    let pieces = pieces(records, size, piece_records(size), workers).map(|piece| {
        let out = next_units(&mut room, piece.len(), size);
        (piece.start, of_units(messages, &piece, each), out)
    });
    let opened = parallel::for_each(
        pieces,
        Some(workers),
        |(first, messages, out)| {
            let opened = out.len() as u64;
            let runs = messages
                .chunks(each * PIECE_RECORDS)
                .zip(out.chunks_mut(size * PIECE_RECORDS));
            for (run, (messages, out)) in runs.enumerate() {
                let first = first + run * PIECE_RECORDS;
                for (number, message) in messages.chunks_exact(each).enumerate() {
                    check(first + number, message)?;
                }
                let pairs = messages.chunks_exact(each).zip(out.chunks_exact_mut(size));
                for (number, (message, out)) in pairs.enumerate() {
                    record::open_in_batch(key, associated_data, message, out)
                        .map_err(|error| at_index(error, first + number))?;
                }
            }
            Ok(opened)
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

/// Records to a piece: about 64 KiB, and at least one.
fn piece_records(size: usize) -> usize {
    (crate::params::PIECE_LEN / (size + RECORD_OVERHEAD)).max(1)
}
