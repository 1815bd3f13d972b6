//! Where the keys come from that may open an envelope.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::keys::{KeyId, Material};
use crate::slot::PassphraseParams;

/// What a message may be opened with. Each answer is for one candidate, asked for in slot order.
pub trait KeySource {
    /// The key of the keyset that the caller named, None where it has none of that id.
    ///
    /// # Errors
    /// [`crate::Error::KeyState`] for a key that is there and may not be used.
    fn keyset_key(&self, id: &KeyId) -> Result<Option<Arc<Material>>>;

    /// Whether a passphrase was given: only then are the costs of its slots looked at.
    fn has_passphrase(&self) -> bool {
        false
    }

    /// Argon2id's output for the passphrase that was given; the parameters were checked.
    ///
    /// # Errors
    /// Whatever the caller's function raises.
    fn passphrase_key(&self, _params: &PassphraseParams) -> Result<Option<Arc<Material>>> {
        Ok(None)
    }

    /// The KEK that a master which was given unwraps.
    ///
    /// # Errors
    /// [`crate::Error::Decryption`] where it does not unwrap, [`crate::Error::Master`] where it
    /// can't be asked or refuses: with both, further slots are tried. What else is returned ends
    /// the opening.
    fn master_key(&self, _kek_id: &KeyId, _wrapped: &[u8]) -> Result<Option<Arc<Material>>> {
        Ok(None)
    }
}

/// Where a cache keeps an unwrapped KEK: SHA-256 over all bytes that were authenticated when it was
/// unwrapped. The wrapping key's id is among them, in the wrapped key's header.
pub fn kek_entry(kek_id: &KeyId, wrapped: &[u8]) -> [u8; 32] {
    // The id has one length, so the join has one reading.
    Sha256::new()
        .chain_update(kek_id)
        .chain_update(wrapped)
        .finalize()
        .into()
}
