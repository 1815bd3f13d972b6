//! Randomness, all of it from the operating system: each time for keys, DEKs and salts; for the nonces
//! of records as the seeds of a generator (`drbg`) that fills a buffer once, which a fork wipes.
//!
//! A system call for 24 bytes costs 370 to 400 ns, one for 4 KiB about 10 us, which is 60 ns a nonce.
//! One for a seed and 4 KiB from it take 1.4 us: 8 ns a nonce.
#![forbid(unsafe_code)]

use zeroize::Zeroizing;

use crate::drbg::{CtrDrbg, SEED_LEN};
use crate::error::Error;
use crate::params::BOX_NONCE_LEN;
use crate::secret::NoncePage;

/// From this many nonces on, a seed of their own costs less than the buffer's lock.
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
    if NONCES.take(&mut nonce, expand)? == 0 {
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
        NONCES.take(out, expand)?
    } else {
        0
    };
    match out.get_mut(taken..) {
        Some(rest) if !rest.is_empty() => expand(rest.as_flattened_mut()),
        _ => Ok(()),
    }
}

/// Fills `out` from one seed of the operating system's, used for this alone.
fn expand(out: &mut [u8]) -> Result<(), Error> {
    let mut seed = Zeroizing::new([0; SEED_LEN]);
    fill(&mut *seed)?;
    CtrDrbg::generate_once(&seed, out);
    Ok(())
}

/// Empties the buffer, so that every later nonce comes from fresh randomness.
///
/// For machines that were restored from a snapshot: two that run on from the same one would hand
/// out the same buffered nonces.
pub fn reseed() {
    NONCES.clear();
}
