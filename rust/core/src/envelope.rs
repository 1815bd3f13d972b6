//! Kind 02, envelope: FORMAT.md §4. A header of slots in front of a Cobblestone-256 message.

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::keys::{BoxLabel, KeyId, Material};
pub use crate::opening::{Opened, Unwrapped, open_header, unwrap_dek};
use crate::params::{
    ENVELOPE_FIXED_LEN, ENVELOPE_HEADER_MAX, KEY_LEN, KIND_ENVELOPE, MAGIC, PREAMBLE_LEN,
    SLOT_BODY_MAX, SLOT_EMPTY, SLOT_HEADER_LEN, SLOT_KEYSET, SLOT_MASTER, SLOT_PASSPHRASE,
    SLOTS_MAX, STREAM_PREFIX_LEN, TAG_LEN,
};
use crate::record::{check_associated_data, kind, wrong_kind};
use crate::secret::Secret;
use crate::slot::{Content, PassphraseParams, Slot, seal_body};
pub use crate::source::{KeySource, kek_entry};
use crate::stream::{self, Prefix, StreamKey};

pub(crate) const PREAMBLE: [u8; PREAMBLE_LEN] = [MAGIC[0], MAGIC[1], MAGIC[2], KIND_ENVELOPE];

/// Slots and prefix of an envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The slots in their order.
    pub slots: Vec<Slot>,
    /// Salt and commitment behind them.
    pub prefix: Prefix,
}

/// How far a header goes, as far as its first bytes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The header, prefix included, ends here.
    Complete(usize),
    /// At least so many bytes of the message are needed to tell more.
    AtLeast(usize),
}

impl Header {
    /// Where the header ends: slots and the 56 bytes of the prefix.
    ///
    /// # Errors
    /// [`Error::Format`], [`Error::UnsupportedVersion`] for bytes that no header begins with.
    pub fn extent(bytes: &[u8]) -> Result<Extent> {
        if bytes.len() < PREAMBLE_LEN && MAGIC.starts_with(&bytes[..bytes.len().min(MAGIC.len())]) {
            return Ok(Extent::AtLeast(ENVELOPE_FIXED_LEN));
        }
        let kind = kind(bytes)?;
        if kind != KIND_ENVELOPE {
            return Err(wrong_kind(kind, "an envelope (02)"));
        }
        let Some(&count) = bytes.get(PREAMBLE_LEN) else {
            return Ok(Extent::AtLeast(ENVELOPE_FIXED_LEN));
        };
        if !(1..=SLOTS_MAX).contains(&usize::from(count)) {
            return Err(Error::Format(format!(
                "byte 4: {count} slots, and 1 to 16 are allowed"
            )));
        }
        let mut at = ENVELOPE_FIXED_LEN;
        for number in 0..usize::from(count) {
            let Some(head) = bytes.get(at..at + SLOT_HEADER_LEN) else {
                let rest = (usize::from(count) - number) * SLOT_HEADER_LEN;
                return Ok(Extent::AtLeast(at + rest + STREAM_PREFIX_LEN));
            };
            let len = usize::from(u16::from_be_bytes([head[1], head[2]]));
            if len > SLOT_BODY_MAX {
                return Err(Error::Format(format!(
                    "bytes {} to {}: slot {number} says that it has {len} bytes, the limit is 4096",
                    at + 1,
                    at + 2
                )));
            }
            at += SLOT_HEADER_LEN + len;
        }
        let end = at + STREAM_PREFIX_LEN;
        Ok(if bytes.len() < end {
            Extent::AtLeast(end)
        } else {
            Extent::Complete(end)
        })
    }

    /// The header that `bytes` begin with, and where it ends.
    ///
    /// # Errors
    /// [`Error::Format`] also where the bytes end first.
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize)> {
        let end = match Self::extent(bytes)? {
            Extent::Complete(end) => end,
            Extent::AtLeast(needed) => {
                return Err(Error::Format(format!(
                    "the envelope ends after {} bytes, its header has at least {needed}",
                    bytes.len()
                )));
            }
        };
        let mut slots = Vec::with_capacity(usize::from(bytes[PREAMBLE_LEN]));
        let mut at = ENVELOPE_FIXED_LEN;
        while at < end - STREAM_PREFIX_LEN {
            let len = usize::from(u16::from_be_bytes([bytes[at + 1], bytes[at + 2]]));
            let body = at + SLOT_HEADER_LEN;
            slots.push(Slot {
                offset: at,
                kind: bytes[at],
                body: bytes[body..body + len].to_vec(),
            });
            at = body + len;
        }
        let prefix = bytes[end - STREAM_PREFIX_LEN..end]
            .first_chunk()
            .expect("56 bytes");
        Ok((
            Self {
                slots,
                prefix: Prefix::from_bytes(prefix),
            },
            end,
        ))
    }

    /// Header and chunks of a whole message.
    ///
    /// # Errors
    /// [`Error::Format`].
    pub fn split(message: &[u8]) -> Result<(Self, &[u8])> {
        let (header, end) = Self::parse(message)?;
        let sealed = &message[end..];
        stream::plaintext_len(sealed.len() as u64)?;
        Ok((header, sealed))
    }

    /// The header as it is written.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len());
        bytes.extend_from_slice(&PREAMBLE);
        bytes.push(u8::try_from(self.slots.len()).expect("at most 16 slots"));
        for slot in &self.slots {
            bytes.push(slot.kind);
            let len = u16::try_from(slot.body.len()).expect("at most 4096 bytes");
            bytes.extend_from_slice(&len.to_be_bytes());
            bytes.extend_from_slice(&slot.body);
        }
        bytes.extend_from_slice(&self.prefix.to_bytes());
        bytes
    }

    /// Bytes of the header, prefix included.
    pub fn len(&self) -> usize {
        header_len(self.slots.iter().map(|slot| slot.body.len()))
    }

    /// Never: a header has a slot.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Ids of the keys that the slots name, in their order.
    pub fn key_ids(&self) -> Vec<KeyId> {
        self.named().collect()
    }

    /// The first of them.
    pub fn first_key_id(&self) -> Option<KeyId> {
        self.named().next()
    }

    fn named(&self) -> impl Iterator<Item = KeyId> {
        self.slots.iter().filter_map(|slot| match slot.content() {
            Content::Keyset { key_id } => Some(key_id),
            Content::Master { kek_id, .. } => Some(kek_id),
            _ => None,
        })
    }
}

/// Bytes of a header whose slots have bodies of these lengths.
pub fn header_len(bodies: impl Iterator<Item = usize>) -> usize {
    ENVELOPE_FIXED_LEN + bodies.map(|len| SLOT_HEADER_LEN + len).sum::<usize>() + STREAM_PREFIX_LEN
}

/// A slot to be written.
#[derive(Clone, Copy)]
pub enum NewSlot<'a> {
    /// Zeros, as long as the used slot that is not a passphrase's: room for a rewrap in place.
    Spare,
    /// Under a key of a keyset.
    Keyset {
        /// Its id.
        id: KeyId,
        /// Its material.
        key: &'a Material,
    },
    /// Under Argon2id's output.
    Passphrase {
        /// Costs and salt that made it.
        params: PassphraseParams,
        /// The output.
        key: &'a Material,
    },
    /// Under a KEK that travels along.
    Master {
        /// The KEK's key id.
        kek_id: KeyId,
        /// The KEK as a wrapped key, kind 04.
        wrapped: &'a [u8],
        /// The KEK.
        key: &'a Material,
    },
}

impl NewSlot<'_> {
    /// Its kind byte.
    pub fn kind(&self) -> u8 {
        match self {
            NewSlot::Spare => SLOT_EMPTY,
            NewSlot::Keyset { .. } => SLOT_KEYSET,
            NewSlot::Passphrase { .. } => SLOT_PASSPHRASE,
            NewSlot::Master { .. } => SLOT_MASTER,
        }
    }

    /// The slot's body for `dek`; None for a spare one.
    ///
    /// # Errors
    /// As [`seal_body`].
    pub fn body(&self, dek: &[u8; KEY_LEN], prefix: &Prefix) -> Result<Option<Vec<u8>>> {
        let (clear, key, label) = match self {
            NewSlot::Spare => return Ok(None),
            NewSlot::Keyset { id, key } => (id.to_vec(), key, BoxLabel::Wrap),
            NewSlot::Passphrase { params, key } => {
                (params.to_bytes().to_vec(), key, BoxLabel::Passphrase)
            }
            NewSlot::Master {
                kek_id,
                wrapped,
                key,
            } => {
                let mut clear = kek_id.to_vec();
                let len = u16::try_from(wrapped.len())
                    .map_err(|_| Error::Invalid("a wrapped key has at most 2,069 bytes".into()))?;
                clear.extend_from_slice(&len.to_be_bytes());
                clear.extend_from_slice(wrapped);
                (clear, key, BoxLabel::Wrap)
            }
        };
        seal_body(self.kind(), &clear, key.box_key(label)?, dek, prefix).map(Some)
    }
}

/// A new message: its header and the key of its chunks, which serves this one writer.
///
/// # Errors
/// [`Error::Limit`] for associated data over the limit, [`Error::Invalid`] for no slot or more
/// than 16, [`Error::Os`] without randomness.
pub fn create(
    slots: &[NewSlot<'_>],
    associated_data: &[u8],
    engine: Engine,
) -> Result<(Header, StreamKey)> {
    check_associated_data(associated_data)?;
    if slots.is_empty() || slots.len() > SLOTS_MAX {
        return Err(Error::Invalid(format!(
            "an envelope has 1 to 16 slots, not {}",
            slots.len()
        )));
    }
    let dek = Secret::<[u8; KEY_LEN]>::generate()?;
    let context: [&[u8]; 2] = [&PREAMBLE, associated_data];
    let (stream, prefix) = StreamKey::create(engine, dek.expose()?, &context)?;
    let bodies = slots
        .iter()
        .map(|slot| slot.body(dek.expose()?, &prefix))
        .collect::<Result<Vec<_>>>()?;
    // As long as the slot that a rewrap replaces, and it replaces no passphrase's while it has
    // another; `min_by_key` gives the first of equals.
    let spare = slots
        .iter()
        .zip(&bodies)
        .filter_map(|(slot, body)| body.as_ref().map(|body| (slot.kind(), body.len())))
        .min_by_key(|(kind, _)| *kind == SLOT_PASSPHRASE)
        .map_or(0, |(_, len)| len);
    let mut at = ENVELOPE_FIXED_LEN;
    let slots = slots
        .iter()
        .zip(bodies)
        .map(|(slot, body)| {
            let body = body.unwrap_or_else(|| vec![0; spare]);
            let slot = Slot {
                offset: at,
                kind: slot.kind(),
                body,
            };
            at += slot.len();
            slot
        })
        .collect();
    Ok((Header { slots, prefix }, stream))
}

/// The header with slot `number` replaced by `new`, for a message that is written anew.
///
/// # Errors
/// As [`NewSlot::body`].
pub fn replace_slot(
    header: &Header,
    number: usize,
    dek: &[u8; KEY_LEN],
    new: &NewSlot<'_>,
) -> Result<Header> {
    let mut header = header.clone();
    if let Some(body) = new.body(dek, &header.prefix)? {
        header.slots[number].kind = new.kind();
        header.slots[number].body = body;
    }
    let mut at = ENVELOPE_FIXED_LEN;
    for slot in &mut header.slots {
        slot.offset = at;
        at += slot.len();
    }
    Ok(header)
}

const _: () = assert!(ENVELOPE_HEADER_MAX == 65_589 && TAG_LEN == 16);
