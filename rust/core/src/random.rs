//! Randomness: from the operating system each time for keys and salts, from a buffer that a fork
//! wipes for the nonces of records.
//!
//! Linux's `getrandom` makes 4 KiB in 10 us, 60 ns a nonce. So the buffer is filled with the
//! AES-256-CTR key stream (NIST SP 800-38A) of a 32-byte seed that comes from the system for this
//! one fill and is wiped after it: no state is kept from one fill to the next, and whoever gets hold
//! of the process learns no nonce that was given out before (Bernstein's "fast-key-erasure random
//! number generator").
#![forbid(unsafe_code)]

use aes::Aes256Enc;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use zeroize::Zeroizing;

use crate::error::Error;
use crate::params::BOX_NONCE_LEN;
use crate::secret::NoncePage;

/// From this many nonces on, a seed of its own costs less than the buffer's lock.
const BATCH_MIN: usize = 64;

const SEED_LEN: usize = 32;
const BLOCK_LEN: usize = 16;

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
    if NONCES.take(&mut nonce, fill_public)? == 0 {
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
        NONCES.take(out, fill_public)?
    } else {
        0
    };
    match out.get_mut(taken..) {
        Some(rest) if !rest.is_empty() => fill_public(rest.as_flattened_mut()),
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

/// Fills `out` from a fresh seed of the system's. For values that will be public.
fn fill_public(out: &mut [u8]) -> Result<(), Error> {
    let mut seed = Zeroizing::new([0; SEED_LEN]);
    fill(&mut seed[..])?;
    expand(&seed, out);
    Ok(())
}

/// The first bytes of the AES-256-CTR key stream of `seed`, counted from 0.
fn expand(seed: &[u8; SEED_LEN], out: &mut [u8]) {
    let cipher = Aes256Enc::new(seed.into());
    let (blocks, rest) = out.as_chunks_mut::<BLOCK_LEN>();
    for (counter, block) in (0_u128..).zip(blocks.iter_mut()) {
        *block = counter.to_be_bytes();
    }
    let mut last = (blocks.len() as u128).to_be_bytes().into();
    cipher.encrypt_blocks(aes::Block::cast_slice_from_core_mut(blocks));
    if !rest.is_empty() {
        cipher.encrypt_block(&mut last);
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::cipher::{AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
    use aws_lc_rs::iv::FixedLength;

    use super::*;

    #[test]
    fn the_expansion_is_the_other_engines_key_stream() {
        for len in [0, 1, 15, 16, 17, 24, 4080, 100_000] {
            let seed = [len as u8 ^ 0x5a; SEED_LEN];
            let mut ours = vec![0xff; len];
            expand(&seed, &mut ours);
            let key = UnboundCipherKey::new(&AES_256, &seed).expect("32 bytes");
            let mut theirs = vec![0; len];
            EncryptingKey::ctr(key)
                .expect("a key")
                .less_safe_encrypt(
                    &mut theirs,
                    EncryptionContext::Iv128(FixedLength::from([0; BLOCK_LEN])),
                )
                .expect("a short message");
            assert_eq!(ours, theirs);
        }
    }
}
