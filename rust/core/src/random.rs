//! Randomness (placeholder: the operating system each time).
use crate::error::Error;
use crate::params::BOX_NONCE_LEN;

/// Fills from the operating system.
pub fn fill(out: &mut [u8]) -> Result<(), Error> {
    getrandom::fill(out).map_err(|error| Error::Os(error.into()))
}

/// A fresh nonce of a box.
pub fn nonce24() -> Result<[u8; BOX_NONCE_LEN], Error> {
    let mut nonce = [0; BOX_NONCE_LEN];
    fill(&mut nonce)?;
    Ok(nonce)
}

/// Fresh nonces for a batch.
pub fn nonces(out: &mut [[u8; BOX_NONCE_LEN]]) -> Result<(), Error> {
    fill(out.as_flattened_mut())
}

/// Empties the buffer.
pub fn reseed() {}
