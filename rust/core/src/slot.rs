//! The slots of an envelope: FORMAT.md §4.

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::kc_xaes::BoxKey;
use crate::keys::KeyId;
use crate::params::{
    ARGON2_COST_MAX, ARGON2_LANES_MAX, ARGON2_MEMORY_MAX_KIB, ARGON2_PASSES_MAX, KEY_BOX_LEN,
    KEY_ID_LEN, KEY_LEN, KIND_ENVELOPE, MAGIC, PASSPHRASE_CLEAR_LEN, PASSPHRASE_SALT_LEN,
    SLOT_EMPTY, SLOT_HEADER_LEN, SLOT_KEYSET, SLOT_KEYSET_LEN, SLOT_MASTER, SLOT_MASTER_FIXED_LEN,
    SLOT_PASSPHRASE, SLOT_PASSPHRASE_LEN,
};
use crate::secret::{Secret, scrubbed};
use crate::stream::Prefix;
use crate::wrapped::{MECHANISM_PASSPHRASE, WrappedKey};

/// One slot as it stands in a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Where its kind byte stands in the message.
    pub offset: usize,
    /// The kind byte.
    pub kind: u8,
    /// What is behind kind and length.
    pub body: Vec<u8>,
}

/// What a slot's body says without a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// Kind 00.
    Empty,
    /// Kind 01.
    Keyset {
        /// The key that opens it.
        key_id: KeyId,
    },
    /// Kind 02.
    Passphrase(PassphraseParams),
    /// Kind 03.
    Master {
        /// The KEK's key id.
        kek_id: KeyId,
        /// The KEK as a wrapped key, kind 04.
        wrapped: &'a [u8],
    },
    /// A kind that is not known here, or one with another length than it has.
    Other,
}

/// The costs and the salt of a passphrase slot, as written: not checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassphraseParams {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u8,
    /// Salt.
    pub salt: [u8; PASSPHRASE_SALT_LEN],
}

impl PassphraseParams {
    /// As they stand in a slot and in a wrapped key.
    pub fn to_bytes(&self) -> [u8; PASSPHRASE_CLEAR_LEN] {
        let mut bytes = [0; PASSPHRASE_CLEAR_LEN];
        bytes[..4].copy_from_slice(&self.memory_kib.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.passes.to_be_bytes());
        bytes[8] = self.lanes;
        bytes[9..].copy_from_slice(&self.salt);
        bytes
    }

    /// The parameters that `bytes` are.
    pub fn from_bytes(bytes: &[u8; PASSPHRASE_CLEAR_LEN]) -> Self {
        let word =
            |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        Self {
            memory_kib: word(0),
            passes: word(4),
            lanes: bytes[8],
            salt: bytes[9..].try_into().expect("25 - 9 is 16"),
        }
    }

    /// Refuses costs out of bounds, before anything is hashed.
    ///
    /// # Errors
    /// [`Error::Limit`].
    pub fn check(&self) -> Result<()> {
        let lanes = u32::from(self.lanes);
        let refuse = |what: &str, got: u32, from: u32, to: u32| {
            Err(Error::Limit(format!(
                "Argon2id {what} of {got} is out of bounds: {from} to {to} are read"
            )))
        };
        if !(1..=ARGON2_LANES_MAX).contains(&lanes) {
            return refuse("lanes", lanes, 1, ARGON2_LANES_MAX);
        }
        if !(1..=ARGON2_PASSES_MAX).contains(&self.passes) {
            return refuse("passes", self.passes, 1, ARGON2_PASSES_MAX);
        }
        if !(8 * lanes..=ARGON2_MEMORY_MAX_KIB).contains(&self.memory_kib) {
            return refuse(
                "memory in KiB",
                self.memory_kib,
                8 * lanes,
                ARGON2_MEMORY_MAX_KIB,
            );
        }
        Ok(())
    }

    /// [`PassphraseParams::check`] for all slots of a message, and the sum of their costs.
    ///
    /// # Errors
    /// [`Error::Limit`].
    pub fn check_all<'a>(all: impl Iterator<Item = &'a PassphraseParams>) -> Result<()> {
        let mut cost: u64 = 0;
        for params in all {
            params.check()?;
            cost += u64::from(params.memory_kib) * u64::from(params.passes);
        }
        if cost > ARGON2_COST_MAX {
            return Err(Error::Limit(format!(
                "the passphrase slots ask for {cost} KiB x passes of Argon2id, the limit is 2^22"
            )));
        }
        Ok(())
    }
}

impl Slot {
    /// Bytes that the slot takes in the header.
    pub fn len(&self) -> usize {
        SLOT_HEADER_LEN + self.body.len()
    }

    /// Whether the slot has no body.
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// What the body says.
    pub fn content(&self) -> Content<'_> {
        let body = &self.body[..];
        match self.kind {
            SLOT_EMPTY => Content::Empty,
            SLOT_KEYSET if body.len() == SLOT_KEYSET_LEN => Content::Keyset {
                key_id: *body.first_chunk().expect("120 is more than 16"),
            },
            SLOT_PASSPHRASE if body.len() == SLOT_PASSPHRASE_LEN => {
                let clear = body.first_chunk().expect("129 is more than 25");
                Content::Passphrase(PassphraseParams::from_bytes(clear))
            }
            SLOT_MASTER if body.len() > SLOT_MASTER_FIXED_LEN => {
                let wrapped = &body[KEY_ID_LEN + 2..body.len() - KEY_BOX_LEN];
                let stated = u16::from_be_bytes([body[KEY_ID_LEN], body[KEY_ID_LEN + 1]]);
                let allowed = usize::from(stated) == wrapped.len()
                    && WrappedKey::parse(wrapped)
                        .is_ok_and(|wrapped| wrapped.mechanism != MECHANISM_PASSPHRASE);
                if !allowed {
                    return Content::Other;
                }
                Content::Master {
                    kek_id: *body.first_chunk().expect("more than 122"),
                    wrapped,
                }
            }
            _ => Content::Other,
        }
    }

    /// `clear` and box of a body that has a box.
    fn parts(&self) -> Option<(&[u8], &[u8])> {
        let at = self.body.len().checked_sub(KEY_BOX_LEN)?;
        Some(self.body.split_at(at))
    }

    /// The DEK, if `wrap_key` opens this body as one of the message with `prefix`.
    ///
    /// # Errors
    /// [`Error::Decryption`] where it does not; [`Error::Memory`].
    pub fn open(&self, wrap_key: &BoxKey, prefix: &Prefix) -> Result<Secret<[u8; KEY_LEN]>> {
        let (clear, sealed) = self.parts().ok_or(Error::DECRYPTION)?;
        let mut opened = Err(Error::DECRYPTION);
        let dek = Secret::<[u8; KEY_LEN]>::new_with(|dek| {
            let associated_data = binding(self.kind, clear, prefix);
            let engine = Engine::for_record(KEY_LEN);
            opened = scrubbed(|| wrap_key.open_box(engine, &associated_data, sealed, dek));
        })?;
        opened.map(|()| dek)
    }
}

/// A body for `dek` in the message with `prefix`: `clear | box(wrap key, DEK, A)`.
///
/// # Errors
/// [`Error::Limit`] of the wrap key, [`Error::Os`] without randomness.
pub fn seal_body(
    kind: u8,
    clear: &[u8],
    wrap_key: &BoxKey,
    dek: &[u8; KEY_LEN],
    prefix: &Prefix,
) -> Result<Vec<u8>> {
    let mut body = vec![0; clear.len() + KEY_BOX_LEN];
    body[..clear.len()].copy_from_slice(clear);
    let engine = Engine::for_record(KEY_LEN);
    let associated_data = binding(kind, clear, prefix);
    scrubbed(|| wrap_key.seal_box(engine, &associated_data, dek, &mut body[clear.len()..]))?;
    Ok(body)
}

/// A of FORMAT.md §4: what ties a body to its message and to its own clear part.
fn binding(kind: u8, clear: &[u8], prefix: &Prefix) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(5 + clear.len() + 56);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&[KIND_ENVELOPE, kind]);
    bytes.extend_from_slice(clear);
    bytes.extend_from_slice(&prefix.salt);
    bytes.extend_from_slice(&prefix.commitment);
    bytes
}
