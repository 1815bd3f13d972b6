//! CTR_DRBG of NIST SP 800-90A Rev. 1 (§10.2.1) with AES-256 and no derivation function, for the
//! nonces of records alone.
//!
//! 4 KiB from the operating system cost 10 us, a seed of 48 bytes and 4 KiB of this 1 us. A generator
//! lives for one filling of a buffer: a new seed each time, so that nothing of it is left to fork, to
//! snapshot or to share between threads.
#![forbid(unsafe_code)]

use aes::Aes256Enc;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use zeroize::{Zeroize, Zeroizing};

use crate::params::{BLOCK_LEN, KEY_LEN};

/// Bytes of a seed, the standard's seedlen: a key and a counter block, all of it full entropy.
pub const SEED_LEN: usize = KEY_LEN + BLOCK_LEN;
/// Bytes of one request, at most: 2^19 bits, table 3 of the standard.
pub const REQUEST_MAX: usize = 1 << 16;

/// A generator: its key and its counter V.
pub struct CtrDrbg {
    aes: Aes256Enc,
    v: u128,
}

impl Drop for CtrDrbg {
    fn drop(&mut self) {
        // The schedule wipes itself (`aes` with its `zeroize` feature).
        self.v.zeroize();
    }
}

impl CtrDrbg {
    /// CTR_DRBG_Instantiate, §10.2.1.3.1, without personalization string.
    pub fn new(entropy: &[u8; SEED_LEN]) -> Self {
        let mut made = Self {
            aes: Aes256Enc::new(&[0; KEY_LEN].into()),
            v: 0,
        };
        made.update(entropy);
        made
    }

    /// CTR_DRBG_Reseed, §10.2.1.4.1, without additional input.
    pub fn reseed(&mut self, entropy: &[u8; SEED_LEN]) {
        self.update(entropy);
    }

    /// CTR_DRBG_Generate, §10.2.1.5.1, without additional input: at most [`REQUEST_MAX`] bytes.
    pub fn generate(&mut self, out: &mut [u8]) {
        debug_assert!(out.len() <= REQUEST_MAX);
        self.blocks(out);
        self.update(&[0; SEED_LEN]);
    }

    /// The first request of a generator that is thrown away with it, and so needs no new key.
    pub fn generate_once(entropy: &[u8; SEED_LEN], out: &mut [u8]) {
        debug_assert!(out.len() <= REQUEST_MAX);
        Self::new(entropy).blocks(out);
    }

    /// CTR_DRBG_Update, §10.2.1.2.
    fn update(&mut self, provided: &[u8; SEED_LEN]) {
        let mut seed = Zeroizing::new([0; SEED_LEN]);
        self.blocks(&mut *seed);
        for (byte, given) in seed.iter_mut().zip(provided) {
            *byte ^= given;
        }
        let (key, v) = seed.split_first_chunk().expect("48 is 32 and 16");
        self.aes = Aes256Enc::new(<&[u8; KEY_LEN]>::into(key));
        self.v = u128::from_be_bytes(*v.first_chunk().expect("48 is 32 and 16"));
    }

    fn blocks(&mut self, out: &mut [u8]) {
        let (blocks, tail) = aes::Block::slice_as_chunks_mut(out);
        for block in &mut *blocks {
            *block = self.next();
        }
        self.aes.encrypt_blocks(blocks);
        if !tail.is_empty() {
            let mut block = self.next();
            self.aes.encrypt_block(&mut block);
            tail.copy_from_slice(&block[..tail.len()]);
        }
    }

    fn next(&mut self) -> aes::Block {
        self.v = self.v.wrapping_add(1);
        self.v.to_be_bytes().into()
    }
}
