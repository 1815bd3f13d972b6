//! Key separation: HMAC-SHA-512 (RFC 2104, FIPS 180-4) as HKDF-Expand (RFC 5869 §2.3) with the
//! 32-byte key itself as PRK, no Extract, as c2sp.org/chunked-encryption does.

use hmac::digest::FixedOutput;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha512;
use zeroize::Zeroizing;

use crate::params::{KEY_ID_LEN, KEY_LEN};

/// Bytes of an HMAC-SHA-512.
pub const MAC_LEN: usize = 64;

/// Begins every label of the format.
const LABEL_PREFIX: &[u8] = b"strongroom/2 ";

/// HMAC-SHA-512 of the concatenated parts.
pub fn hmac_sha512(key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; MAC_LEN]> {
    let mut mac = Hmac::<Sha512>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    let mut out = Zeroizing::new([0; MAC_LEN]);
    mac.finalize_into((&mut *out).into());
    out
}

/// Whether `found` is how the HMAC-SHA-512 of the concatenated parts begins; the time that takes
/// does not depend on where they differ.
pub fn hmac_sha512_fits(key: &[u8], parts: &[&[u8]], found: &[u8]) -> bool {
    let mut mac = Hmac::<Sha512>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac.verify_truncated_left(found).is_ok()
}

/// `derive(K, label, N)` of FORMAT.md §2: the first N bytes of the one block of HKDF-Expand.
pub fn derive<const N: usize>(key: &[u8; KEY_LEN], label: &str) -> Zeroizing<[u8; N]> {
    const { assert!(N <= MAC_LEN) };
    let block = hmac_sha512(key, &[LABEL_PREFIX, label.as_bytes(), &[1]]);
    let mut out = Zeroizing::new([0; N]);
    out.copy_from_slice(&block[..N]);
    out
}

/// The public name of a software key.
pub fn key_id(key: &[u8; KEY_LEN]) -> [u8; KEY_ID_LEN] {
    *derive::<KEY_ID_LEN>(key, "key id")
}

/// HKDF-Expand of RFC 5869 with SHA-512 for outputs of up to 255 blocks; the PRK may be 32 bytes.
pub fn hkdf_expand_sha512(prk: &[u8], info: &[&[u8]], out: &mut [u8]) {
    assert!(out.len() <= 255 * MAC_LEN, "RFC 5869 ends at 255 blocks");
    let mut previous: Zeroizing<[u8; MAC_LEN]> = Zeroizing::new([0; MAC_LEN]);
    for (index, block) in out.chunks_mut(MAC_LEN).enumerate() {
        let counter = [u8::try_from(index + 1).expect("at most 255 blocks")];
        let mut parts: Vec<&[u8]> = Vec::with_capacity(info.len() + 2);
        if index > 0 {
            parts.push(&previous[..]);
        }
        parts.extend_from_slice(info);
        parts.push(&counter);
        let next = hmac_sha512(prk, &parts);
        block.copy_from_slice(&next[..block.len()]);
        previous = next;
    }
}
