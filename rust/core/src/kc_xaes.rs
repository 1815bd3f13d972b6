//! KC-XAES-256-GCM: XAES-256-GCM (c2sp.org/XAES-256-GCM) with the CMAC key commitment of ePrint
//! 2025/758, and the box of FORMAT.md §2 made of it.
//!
//! Five AES-256 calls under the key K give the GCM key and the commitment. Committed to are key
//! and nonce, not the associated data.

use std::sync::atomic::{AtomicU64, Ordering};

use aes::Aes256Enc;
use aes::cipher::{
    BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt, BlockSizeUser, KeyInit,
};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::engine::{Aead, Engine, GcmKey};
use crate::error::{Error, Result};
use crate::params::{
    BLOCK_LEN, BOX_NONCE_LEN, BOX_OVERHEAD, BOXES_MAX, COMMITMENT_LEN, GCM_NONCE_LEN, KEY_LEN,
    TAG_LEN,
};
use crate::random;

type Block = [u8; BLOCK_LEN];

/// Bytes of the nonce that go into the key; the rest is GCM's nonce.
const DERIVING_LEN: usize = BOX_NONCE_LEN - GCM_NONCE_LEN;

/// A key K of KC-XAES-256-GCM: its AES schedule and its CMAC subkey, made once.
///
/// The first 32 bytes of the schedule are the key itself: keep it in a [`crate::secret::Secret`].
pub struct BoxKey {
    aes: Aes256Enc,
    k1: Block,
    sealed: AtomicU64,
}

impl Drop for BoxKey {
    fn drop(&mut self) {
        // The schedule wipes itself (`aes` with its `zeroize` feature).
        self.k1.zeroize();
    }
}

impl BoxKey {
    /// Sets K up. K1 is the CMAC subkey of NIST SP 800-38B §6.1.
    pub fn new(key: &[u8; KEY_LEN]) -> Self {
        let aes = Aes256Enc::new(key.into());
        let mut block = aes::Block::default();
        aes.encrypt_block(&mut block);
        let l = u128::from_be_bytes(block.into());
        block.as_mut_slice().zeroize();
        // Doubling in GF(2^128), without a branch on the secret bit.
        let k1 = (l << 1) ^ (0x87 & (l >> 127).wrapping_neg());
        Self {
            aes,
            k1: k1.to_be_bytes(),
            sealed: AtomicU64::new(0),
        }
    }

    /// Counts `boxes` more under this key, as this process has seen it.
    ///
    /// # Errors
    /// [`Error::Limit`] at 2^45, with nothing sealed.
    #[inline]
    pub fn spend(&self, boxes: u64) -> Result<()> {
        let before = self.sealed.fetch_add(boxes, Ordering::Relaxed);
        if before > BOXES_MAX.saturating_sub(boxes) {
            self.sealed.store(BOXES_MAX, Ordering::Relaxed);
            return Err(Error::Limit(
                "this key has sealed 2^45 records, the limit of the format: rotate it".into(),
            ));
        }
        Ok(())
    }

    /// What each nonce makes of this key. Those of several nonces take less time together, since
    /// none waits for another.
    #[inline]
    pub(crate) fn subkeys<const N: usize>(
        &self,
        nonces: [&[u8; BOX_NONCE_LEN]; N],
    ) -> [Subkeys; N] {
        let mut made = std::array::from_fn(|_| Subkeys::zero());
        self.aes.encrypt_with_backend(Derivation {
            k1: &self.k1,
            nonces,
            made: &mut made,
        });
        made
    }

    /// Encrypts: `out` becomes ciphertext, tag and commitment, 48 bytes more than `plaintext`.
    #[inline]
    pub fn seal(
        &self,
        engine: Engine,
        nonce: &[u8; BOX_NONCE_LEN],
        associated_data: &[u8],
        plaintext: &[u8],
        out: &mut [u8],
    ) {
        let [subkeys] = self.subkeys([nonce]);
        subkeys.seal(engine, nonce, associated_data, plaintext, out);
    }

    /// Decrypts what [`BoxKey::seal`] made into `out`, 48 bytes shorter.
    ///
    /// # Errors
    /// [`Error::Decryption`]; `out` is zeros then.
    #[inline]
    pub fn open(
        &self,
        engine: Engine,
        nonce: &[u8; BOX_NONCE_LEN],
        associated_data: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<()> {
        let [subkeys] = self.subkeys([nonce]);
        subkeys.open(engine, nonce, associated_data, sealed, out)
    }

    /// `box(K, plaintext, associated_data)` with a fresh random nonce; `out` is 72 bytes longer.
    ///
    /// # Errors
    /// [`Error::Os`] where the system has no randomness to give.
    pub fn seal_box(
        &self,
        engine: Engine,
        associated_data: &[u8],
        plaintext: &[u8],
        out: &mut [u8],
    ) -> Result<()> {
        self.spend(1)?;
        let nonce = random::nonce24()?;
        let [subkeys] = self.subkeys([&nonce]);
        subkeys.seal_box(engine, &nonce, associated_data, plaintext, out);
        Ok(())
    }

    /// Opens a box into `out`, 72 bytes shorter.
    ///
    /// # Errors
    /// [`Error::Decryption`] for anything else than what [`BoxKey::seal_box`] made; `out` is
    /// zeros then.
    #[inline]
    pub fn open_box(
        &self,
        engine: Engine,
        associated_data: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<()> {
        debug_assert_eq!(sealed.len(), out.len() + BOX_OVERHEAD);
        let (nonce, sealed) = sealed
            .split_first_chunk::<BOX_NONCE_LEN>()
            .ok_or(Error::DECRYPTION)?;
        self.open(engine, nonce, associated_data, sealed, out)
    }
}

/// What one nonce makes of a key: the key of its one GCM message, Kx, and the commitment.
pub(crate) struct Subkeys {
    key: Zeroizing<[u8; KEY_LEN]>,
    commitment: [u8; COMMITMENT_LEN],
}

impl Subkeys {
    fn zero() -> Self {
        Self {
            key: Zeroizing::new([0; KEY_LEN]),
            commitment: [0; COMMITMENT_LEN],
        }
    }

    /// [`BoxKey::seal`] under the nonce that made these.
    #[inline]
    fn seal(
        &self,
        engine: Engine,
        nonce: &[u8; BOX_NONCE_LEN],
        associated_data: &[u8],
        plaintext: &[u8],
        out: &mut [u8],
    ) {
        let (ciphertext, rest) = out.split_at_mut(plaintext.len());
        let (_, gcm_nonce) = split_nonce(nonce);
        let gcm = GcmKey::new(engine, &self.key);
        let tag = gcm.seal(gcm_nonce, associated_data, plaintext, ciphertext);
        rest[..TAG_LEN].copy_from_slice(&tag);
        rest[TAG_LEN..].copy_from_slice(&self.commitment);
    }

    /// [`BoxKey::open`] under the nonce that made these.
    ///
    /// # Errors
    /// [`Error::Decryption`]; `out` is zeros then.
    #[inline]
    fn open(
        &self,
        engine: Engine,
        nonce: &[u8; BOX_NONCE_LEN],
        associated_data: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<()> {
        let (ciphertext, rest) = sealed.split_at(out.len());
        let (tag, claimed) = rest
            .split_first_chunk::<TAG_LEN>()
            .ok_or(Error::DECRYPTION)?;
        // First, and in constant time: a ciphertext that opens under two keys ends here.
        if !same_commitment(&self.commitment, claimed) {
            out.fill(0);
            return Err(Error::DECRYPTION);
        }
        let (_, gcm_nonce) = split_nonce(nonce);
        GcmKey::new(engine, &self.key).open(gcm_nonce, associated_data, ciphertext, tag, out)
    }

    /// The box under the nonce that made these; `out` is 72 bytes longer.
    #[inline]
    pub(crate) fn seal_box(
        &self,
        engine: Engine,
        nonce: &[u8; BOX_NONCE_LEN],
        associated_data: &[u8],
        plaintext: &[u8],
        out: &mut [u8],
    ) {
        let (head, rest) = out.split_at_mut(BOX_NONCE_LEN);
        head.copy_from_slice(nonce);
        self.seal(engine, nonce, associated_data, plaintext, rest);
    }
}

/// The five calls of each nonce, for the `aes` crate to run in one function of the processor's best
/// instructions: a call of its own for each would set that up again, and its code for many blocks
/// copies all round keys first.
struct Derivation<'a, const N: usize> {
    k1: &'a Block,
    nonces: [&'a [u8; BOX_NONCE_LEN]; N],
    made: &'a mut [Subkeys; N],
}

impl<const N: usize> BlockSizeUser for Derivation<'_, N> {
    type BlockSize = aes::cipher::consts::U16;
}

impl<const N: usize> BlockCipherEncClosure for Derivation<'_, N> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = Self::BlockSize>>(self, backend: &B) {
        let encrypt = |input: &Block, out: &mut [u8]| {
            let out: &mut Block = out.try_into().expect("a block's length");
            backend.encrypt_block((<&aes::Block>::from(input), out.into()).into());
        };
        let k1 = self.k1;
        let mut x = [[0; BLOCK_LEN]; N];
        // None waits for another: the processor works on several at once, then on the last two of each.
        for ((nonce, made), x) in self.nonces.iter().zip(&mut *self.made).zip(&mut x) {
            let (deriving, _) = split_nonce(nonce);
            let (low, high) = made.key.split_at_mut(BLOCK_LEN);
            encrypt(&xor(&join([0x00, 0x01, b'X', 0x00], deriving), k1), low);
            encrypt(&xor(&join([0x00, 0x02, b'X', 0x00], deriving), k1), high);
            encrypt(&join(*b"XCMT", deriving), x);
        }
        for ((nonce, made), x) in self.nonces.iter().zip(self.made).zip(&x) {
            let (_, gcm_nonce) = split_nonce(nonce);
            let x = xor(x, k1);
            let (low, high) = made.commitment.split_at_mut(BLOCK_LEN);
            encrypt(&xor(&x, &append(gcm_nonce, [0x00, 0x01, 0x00, 0x01])), low);
            encrypt(&xor(&x, &append(gcm_nonce, [0x00, 0x01, 0x00, 0x02])), high);
        }
    }
}

fn split_nonce(nonce: &[u8; BOX_NONCE_LEN]) -> (&[u8; DERIVING_LEN], &[u8; GCM_NONCE_LEN]) {
    let (deriving, rest) = nonce.split_first_chunk().expect("24 is 12 and 12");
    (deriving, rest.first_chunk().expect("24 is 12 and 12"))
}

fn join(head: [u8; 4], tail: &[u8; 12]) -> Block {
    let mut block = [0; BLOCK_LEN];
    block[..4].copy_from_slice(&head);
    block[4..].copy_from_slice(tail);
    block
}

fn append(head: &[u8; 12], tail: [u8; 4]) -> Block {
    let mut block = [0; BLOCK_LEN];
    block[..12].copy_from_slice(head);
    block[12..].copy_from_slice(&tail);
    block
}

/// Constant-time equality by words: by bytes it costs more than what it compares.
fn same_commitment(ours: &[u8; COMMITMENT_LEN], claimed: &[u8]) -> bool {
    let words = |bytes: &[u8]| {
        let (low, high) = bytes.split_first_chunk::<BLOCK_LEN>()?;
        let high: &[u8; BLOCK_LEN] = high.try_into().ok()?;
        Some((u128::from_ne_bytes(*low), u128::from_ne_bytes(*high)))
    };
    match (words(ours), words(claimed)) {
        (Some(a), Some(b)) => bool::from(a.0.ct_eq(&b.0) & a.1.ct_eq(&b.1)),
        _ => false,
    }
}

fn xor(a: &Block, b: &Block) -> Block {
    (u128::from_ne_bytes(*a) ^ u128::from_ne_bytes(*b)).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_box_is_sealed_and_the_next_refused() {
        let key = BoxKey::new(&[7; KEY_LEN]);
        key.sealed.store(BOXES_MAX - 1, Ordering::Relaxed);
        let mut out = [0; BOX_OVERHEAD];
        key.seal_box(Engine::AesGcm, b"", b"", &mut out)
            .expect("number 2^45");
        for _ in 0..2 {
            let mut out = [0; BOX_OVERHEAD];
            let refused = key.seal_box(Engine::AesGcm, b"", b"", &mut out);
            assert!(matches!(refused, Err(Error::Limit(_))));
            assert_eq!(out, [0; BOX_OVERHEAD]);
        }
        assert!(matches!(key.spend(u64::MAX / 4), Err(Error::Limit(_))));
    }
}
