//! Kind 04, wrapped key: FORMAT.md §6. Its outer form; what is inside a blob is its master's.

use crate::error::{Error, Result};
use crate::keys::KeyId;
use crate::params::{
    GCM_NONCE_LEN, KEY_BOX_LEN, KEY_LEN, KIND_WRAPPED_KEY, PASSPHRASE_CLEAR_LEN, PREAMBLE_LEN,
    TAG_LEN, WRAPPED_HEADER_LEN,
};
use crate::record::{kind, wrong_kind};

/// What AES-KW and AES-KWP add to a key: one semiblock (RFC 3394, RFC 5649).
const KEY_WRAP_LEN: usize = KEY_LEN + 8;
/// The longest blob of a service.
const SERVICE_BLOB_MAX: usize = 2048;
/// The mechanism that a slot's KEK may not be wrapped by.
pub const MECHANISM_PASSPHRASE: u8 = 0x05;

/// A wrapped key as far as it shows without the wrapping key.
#[derive(Debug, PartialEq, Eq)]
pub struct WrappedKey<'a> {
    /// Mechanism byte, 00 to 05.
    pub mechanism: u8,
    /// Id of the wrapping key.
    pub wrapping_id: KeyId,
    /// What the mechanism made.
    pub blob: &'a [u8],
}

impl<'a> WrappedKey<'a> {
    /// Takes a whole wrapped key apart.
    ///
    /// # Errors
    /// [`Error::Format`] for another kind or length, [`Error::UnsupportedVersion`] for a version or
    /// mechanism that is not known here.
    pub fn parse(message: &'a [u8]) -> Result<Self> {
        let kind = kind(message)?;
        if kind != KIND_WRAPPED_KEY {
            return Err(wrong_kind(kind, "a wrapped key (04)"));
        }
        let Some((header, blob)) = message.split_first_chunk::<WRAPPED_HEADER_LEN>() else {
            return Err(Error::Format(format!(
                "the wrapped key ends after {} bytes, its header has {WRAPPED_HEADER_LEN}",
                message.len()
            )));
        };
        let mechanism = header[PREAMBLE_LEN];
        let lengths = match mechanism {
            0x00 => KEY_BOX_LEN..=KEY_BOX_LEN,
            0x01 => {
                let len = GCM_NONCE_LEN + KEY_LEN + TAG_LEN;
                len..=len
            }
            0x02 | 0x03 => KEY_WRAP_LEN..=KEY_WRAP_LEN,
            0x04 => 1..=SERVICE_BLOB_MAX,
            MECHANISM_PASSPHRASE => {
                let len = PASSPHRASE_CLEAR_LEN + KEY_BOX_LEN;
                len..=len
            }
            _ => {
                return Err(Error::UnsupportedVersion(format!(
                    "byte 4: wrapping mechanism {mechanism:02x} is not known here, this release \
                     knows 00 to 05"
                )));
            }
        };
        if !lengths.contains(&blob.len()) {
            return Err(Error::Format(format!(
                "a blob of mechanism {mechanism:02x} has {} to {} bytes, this one has {}",
                lengths.start(),
                lengths.end(),
                blob.len()
            )));
        }
        let wrapping_id = header[PREAMBLE_LEN + 1..]
            .first_chunk()
            .expect("21 - 5 is 16");
        Ok(Self {
            mechanism,
            wrapping_id: *wrapping_id,
            blob,
        })
    }
}
