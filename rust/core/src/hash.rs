//! SHA-256 and SHA-512 (FIPS 180-4) of what is not secret.

use sha2::{Digest, Sha256, Sha512};

/// SHA-256.
pub fn sha256(data: &[u8]) -> [u8; 32] {
    Sha256::digest(data).into()
}

/// SHA-512.
pub fn sha512(data: &[u8]) -> [u8; 64] {
    Sha512::digest(data).into()
}
