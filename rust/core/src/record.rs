//! Kind 01, record: FORMAT.md §3.

use crate::engine::Engine;
use crate::error::{Error, Result, hex};
use crate::kc_xaes::{BoxKey, Subkeys};
use crate::keys::KeyId;
use crate::params::{
    ASSOCIATED_DATA_MAX, BOX_NONCE_LEN, KEY_ID_LEN, KIND_RECORD, MAGIC, PREAMBLE_LEN,
    RECORD_HEADER_LEN, RECORD_OVERHEAD, RECORD_PLAINTEXT_MAX,
};
use crate::random;
use crate::secret::{scrubbed, scrubbed_shallow};

/// Associated data up to this length is joined to the header on the stack.
const INLINE_AD: usize = 236;

/// The kind byte of a message of version 2.
///
/// # Errors
/// [`Error::Format`] for what is no Strongroom message, [`Error::UnsupportedVersion`] for one of
/// another version.
pub fn kind(message: &[u8]) -> Result<u8> {
    let Some(preamble) = message.first_chunk::<PREAMBLE_LEN>() else {
        return Err(Error::Format(format!(
            "not a Strongroom message: {} bytes, and the shortest begins with 4",
            message.len()
        )));
    };
    if preamble[..2] != MAGIC[..2] {
        return Err(Error::Format(format!(
            "not a Strongroom message: bytes 0 to 1 are {}, not 5352",
            hex(&preamble[..2])
        )));
    }
    if preamble[2] != MAGIC[2] {
        return Err(Error::UnsupportedVersion(format!(
            "byte 2: message version {} is not known here, this release reads version 2",
            preamble[2]
        )));
    }
    Ok(preamble[3])
}

/// The error for a kind that the caller can't take.
pub fn wrong_kind(kind: u8, wanted: &str) -> Error {
    if matches!(kind, 1..=4) {
        let name =
            ["record", "envelope", "message of a token", "wrapped key"][usize::from(kind) - 1];
        Error::Format(format!(
            "byte 3: the message is of kind {kind:02x} ({name}), not {wanted}"
        ))
    } else {
        Error::UnsupportedVersion(format!(
            "byte 3: message kind {kind:02x} is not known here, this release knows 01 to 04"
        ))
    }
}

/// Refuses associated data over the limit.
///
/// # Errors
/// [`Error::Limit`].
#[inline]
pub fn check_associated_data(associated_data: &[u8]) -> Result<()> {
    if associated_data.len() > ASSOCIATED_DATA_MAX {
        return Err(Error::Limit(format!(
            "associated_data has {} bytes, the limit is {ASSOCIATED_DATA_MAX}",
            associated_data.len()
        )));
    }
    Ok(())
}

/// Refuses a plaintext over the limit of a record.
///
/// # Errors
/// [`Error::Limit`].
#[inline]
pub fn check_plaintext_len(len: usize) -> Result<()> {
    if len > RECORD_PLAINTEXT_MAX {
        return Err(Error::Limit(format!(
            "a record holds at most 2^30 bytes and this value has {len}: use ParallelEncryption \
             or encrypt_file"
        )));
    }
    Ok(())
}

/// Refuses a length that no record has.
///
/// # Errors
/// [`Error::Format`].
#[inline]
pub fn check_len(len: u64) -> Result<()> {
    if len < RECORD_OVERHEAD as u64 {
        return Err(Error::Format(format!(
            "the record ends after {len} bytes, the shortest has {RECORD_OVERHEAD}"
        )));
    }
    let longest = (RECORD_OVERHEAD + RECORD_PLAINTEXT_MAX) as u64;
    if len > longest {
        return Err(Error::Format(format!(
            "the record has {len} bytes, the longest has {longest}"
        )));
    }
    Ok(())
}

/// Key id of a whole record, its structure checked.
///
/// # Errors
/// [`Error::Format`] or [`Error::UnsupportedVersion`].
#[inline]
pub fn parse(message: &[u8]) -> Result<KeyId> {
    let kind = kind(message)?;
    if kind != KIND_RECORD {
        return Err(wrong_kind(kind, "a record (01)"));
    }
    check_len(message.len() as u64)?;
    let id = &message[PREAMBLE_LEN..RECORD_HEADER_LEN];
    Ok(id.try_into().expect("20 - 4 is 16"))
}

/// Writes one record of `plaintext` into `out`, which is 92 bytes longer.
///
/// # Errors
/// [`Error::Limit`] for a length over the limits, [`Error::Os`] without randomness.
#[inline]
pub fn seal(
    key: &BoxKey,
    key_id: &KeyId,
    associated_data: &[u8],
    plaintext: &[u8],
    out: &mut [u8],
) -> Result<()> {
    wiped(plaintext.len(), || {
        seal_unwiped(key, key_id, associated_data, plaintext, out)
    })
}

/// [`seal`] inside of [`wiped`], for a caller that has more to do in there.
///
/// # Errors
/// As [`seal`].
#[inline]
pub fn seal_unwiped(
    key: &BoxKey,
    key_id: &KeyId,
    associated_data: &[u8],
    plaintext: &[u8],
    out: &mut [u8],
) -> Result<()> {
    check_plaintext_len(plaintext.len())?;
    check_associated_data(associated_data)?;
    key.spend(1)?;
    let nonce = random::nonce24()?;
    let engine = Engine::for_record(plaintext.len());
    let [subkeys] = key.subkeys([&nonce]);
    let subkeys = &subkeys;
    seal_with(
        engine,
        subkeys,
        key_id,
        &nonce,
        associated_data,
        plaintext,
        out,
    );
    Ok(())
}

/// [`seal`] with the subkeys of a nonce that was drawn; limits were checked.
#[inline]
pub(crate) fn seal_with(
    engine: Engine,
    subkeys: &Subkeys,
    key_id: &KeyId,
    nonce: &[u8; BOX_NONCE_LEN],
    associated_data: &[u8],
    plaintext: &[u8],
    out: &mut [u8],
) {
    let (header, sealed) = out.split_at_mut(RECORD_HEADER_LEN);
    header[..MAGIC.len()].copy_from_slice(&MAGIC);
    header[MAGIC.len()] = KIND_RECORD;
    header[PREAMBLE_LEN..].copy_from_slice(key_id);
    with_header(header, associated_data, |joined| {
        subkeys.seal_box(engine, nonce, joined, plaintext, sealed);
    });
}

/// Opens one whole record (checked by [`parse`]) into `out`, 92 bytes shorter.
///
/// # Errors
/// [`Error::Decryption`], [`Error::Limit`]; `out` is zeros then.
#[inline]
pub fn open(key: &BoxKey, associated_data: &[u8], message: &[u8], out: &mut [u8]) -> Result<()> {
    wiped(out.len(), || {
        open_unwiped(key, associated_data, message, out)
    })
}

/// [`open`] inside of [`wiped`], for a caller that has more to do in there.
///
/// # Errors
/// As [`open`].
#[inline]
pub fn open_unwiped(
    key: &BoxKey,
    associated_data: &[u8],
    message: &[u8],
    out: &mut [u8],
) -> Result<()> {
    let engine = Engine::for_record(out.len());
    open_with(engine, key, associated_data, message, out)
}

/// [`open`] before a batch's one wiping at its end.
///
/// # Errors
/// As [`open`].
#[inline]
pub fn open_in_batch(
    key: &BoxKey,
    associated_data: &[u8],
    message: &[u8],
    out: &mut [u8],
) -> Result<()> {
    let engine = Engine::for_batch(out.len());
    open_with(engine, key, associated_data, message, out)
}

#[inline]
fn open_with(
    engine: Engine,
    key: &BoxKey,
    associated_data: &[u8],
    message: &[u8],
    out: &mut [u8],
) -> Result<()> {
    check_associated_data(associated_data)?;
    let (header, sealed) = message.split_at(RECORD_HEADER_LEN);
    with_header(header, associated_data, |joined| {
        key.open_box(engine, joined, sealed, out)
    })
}

/// Runs `work` on a record of `len` bytes of plaintext, and wipes what it leaves on the stack: the
/// round keys of this key and of the record's.
///
/// A lock is best given back inside of it: the processor waits at each for the stores before it,
/// and the wiping is many.
#[inline]
pub fn wiped<R>(len: usize, work: impl FnOnce() -> R) -> R {
    match Engine::for_record(len) {
        // Its own copies are on the heap, and it wipes them.
        Engine::AwsLc => scrubbed_shallow(work),
        Engine::AesGcm => scrubbed(work),
    }
}

/// Calls `with` with header | associated data.
#[inline]
fn with_header<R>(header: &[u8], associated_data: &[u8], with: impl FnOnce(&[u8]) -> R) -> R {
    if associated_data.is_empty() {
        return with(header);
    }
    let len = header.len() + associated_data.len();
    if associated_data.len() <= INLINE_AD {
        let mut joined = [0; RECORD_HEADER_LEN + INLINE_AD];
        joined[..header.len()].copy_from_slice(header);
        joined[header.len()..len].copy_from_slice(associated_data);
        with(&joined[..len])
    } else {
        let mut joined = Vec::with_capacity(len);
        joined.extend_from_slice(header);
        joined.extend_from_slice(associated_data);
        with(&joined)
    }
}

const _: () = assert!(RECORD_HEADER_LEN == 20 && KEY_ID_LEN == 16);
