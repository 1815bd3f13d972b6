//! Randomness, all of it from the operating system: each time for keys, DEKs and salts, through a
//! buffer that a fork wipes for the nonces of records.
//!
//! A system call for 24 bytes costs 370 to 400 ns, one for 4 KiB about 10 us: 60 ns a nonce.
#![forbid(unsafe_code)]

use crate::error::Error;
use crate::params::BOX_NONCE_LEN;
use crate::secret::NoncePage;

/// From this many nonces on, a system call of their own costs less than the buffer's lock.
const BATCH_MIN: usize = 64;

static NONCES: NoncePage<BOX_NONCE_LEN> = NoncePage::new();

/// Fills `out` from the operating system's generator.
///
/// # Errors
///
/// `Error::Os` when the system has no randomness to give.
pub fn fill(out: &mut [u8]) -> Result<(), Error> {
    getrandom::fill(out).map_err(|error| Error::Os(error.into()))
}

/// A random nonce that no process has seen before; from a buffer, so cheap.
///
/// # Errors
///
/// As for [`fill`].
#[inline]
pub fn nonce24() -> Result<[u8; BOX_NONCE_LEN], Error> {
    let mut nonce = [[0; BOX_NONCE_LEN]];
    if NONCES.take(&mut nonce, fill)? == 0 {
        fill(&mut nonce[0])?;
    }
    Ok(nonce[0])
}

/// Random nonces for a batch.
///
/// # Errors
///
/// As for [`fill`]; `out` is not to be used then.
pub fn nonces(out: &mut [[u8; BOX_NONCE_LEN]]) -> Result<(), Error> {
    let taken = if out.len() < BATCH_MIN {
        NONCES.take(out, fill)?
    } else {
        0
    };
    match out.get_mut(taken..) {
        Some(rest) if !rest.is_empty() => fill(rest.as_flattened_mut()),
        _ => Ok(()),
    }
}

/// Empties the buffer, so that every later nonce comes from fresh randomness.
///
/// For machines that were restored from a snapshot: two that run on from the same one would hand
/// out the same buffered nonces.
pub fn reseed() {
    NONCES.clear();
}
