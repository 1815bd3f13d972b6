//! Opening an envelope's header: FORMAT.md §4, *Opening*.

use crate::engine::Engine;
use crate::envelope::{Header, KeySource, PREAMBLE};
use crate::error::{Error, Result, hex};
use crate::keys::{BoxLabel, KeyId};
use crate::params::KEY_LEN;
use crate::record::check_associated_data;
use crate::secret::Secret;
use crate::slot::{Content, PassphraseParams};
use crate::stream::StreamKey;

/// What opened a message.
pub struct Opened {
    /// The key of its chunks.
    pub stream: StreamKey,
    /// The DEK, for rewrapping.
    pub dek: Secret<[u8; KEY_LEN]>,
    /// Which slot it was.
    pub slot: usize,
    /// The keyset key or KEK, where one opened it.
    pub key_id: Option<KeyId>,
}

/// Opens a header: FORMAT.md §4, *Opening*.
///
/// # Errors
/// [`Error::KeyNotFound`] without a candidate; [`Error::Decryption`] where no candidate opens;
/// before that [`Error::Master`] where a master could not be asked for one, and
/// [`Error::KeyState`] where a key that is there may not be used; [`Error::Limit`] for passphrase
/// costs out of bounds.
pub fn open_header(
    header: &Header,
    keys: &dyn KeySource,
    associated_data: &[u8],
    engine: Engine,
) -> Result<Opened> {
    check_associated_data(associated_data)?;
    let context: [&[u8]; 2] = [&PREAMBLE, associated_data];
    let (unwrapped, stream) = first_candidate(header, keys, |dek| {
        StreamKey::open(engine, dek.expose()?, &header.prefix, &context)
    })?;
    Ok(Opened {
        stream,
        dek: unwrapped.dek,
        slot: unwrapped.slot,
        key_id: unwrapped.key_id,
    })
}

/// What opened a message's slots, without a look at its data.
pub struct Unwrapped {
    /// The DEK.
    pub dek: Secret<[u8; KEY_LEN]>,
    /// Which slot it was.
    pub slot: usize,
    /// The keyset key or KEK, where one opened it.
    pub key_id: Option<KeyId>,
}

/// Opens a slot for rewrapping, without the associated data: the slot itself is bound to salt and
/// commitment, so its DEK is this message's.
///
/// # Errors
/// As [`open_header`].
pub fn unwrap_dek(header: &Header, keys: &dyn KeySource) -> Result<Unwrapped> {
    first_candidate(header, keys, |_| Ok(())).map(|(unwrapped, ())| unwrapped)
}

/// The first slot that opens to a DEK which `accept` takes; slots that don't are passed over.
fn first_candidate<T>(
    header: &Header,
    keys: &dyn KeySource,
    accept: impl Fn(&Secret<[u8; KEY_LEN]>) -> Result<T>,
) -> Result<(Unwrapped, T)> {
    if keys.has_passphrase() {
        let params: Vec<_> = header
            .slots
            .iter()
            .filter_map(|slot| match slot.content() {
                Content::Passphrase(params) => Some(params),
                _ => None,
            })
            .collect();
        PassphraseParams::check_all(params.iter())?;
    }
    let mut candidates = false;
    let (mut unasked, mut forbidden) = (None, None);
    for (number, slot) in header.slots.iter().enumerate() {
        let (found, label, key_id) = match slot.content() {
            Content::Keyset { key_id } => (keys.keyset_key(&key_id), BoxLabel::Wrap, Some(key_id)),
            Content::Passphrase(params) if keys.has_passphrase() => {
                (keys.passphrase_key(&params), BoxLabel::Passphrase, None)
            }
            Content::Master { kek_id, wrapped } => (
                keys.master_key(&kek_id, wrapped),
                BoxLabel::Wrap,
                Some(kek_id),
            ),
            _ => continue,
        };
        let material = match found {
            Ok(Some(material)) => material,
            Ok(None) => continue,
            Err(error @ Error::Master(_)) => {
                unasked = unasked.or(Some(error));
                continue;
            }
            Err(error @ Error::KeyState { .. }) => {
                forbidden = forbidden.or(Some(error));
                continue;
            }
            Err(Error::Decryption { .. }) => {
                candidates = true;
                continue;
            }
            Err(error) => return Err(error),
        };
        candidates = true;
        let dek = match slot.open(material.box_key(label)?, &header.prefix) {
            Ok(dek) => dek,
            Err(Error::Decryption { .. }) => continue,
            Err(error) => return Err(error),
        };
        if let Ok(accepted) = accept(&dek) {
            let slot = number;
            return Ok((Unwrapped { dek, slot, key_id }, accepted));
        }
    }
    Err(match unasked.or(forbidden) {
        Some(error) => error,
        None if candidates => Error::DECRYPTION,
        None => not_found(header),
    })
}

fn not_found(header: &Header) -> Error {
    let ids = header.key_ids();
    let listed: Vec<_> = ids.iter().map(|id| hex(id)).collect();
    let passphrases = header
        .slots
        .iter()
        .any(|slot| matches!(slot.content(), Content::Passphrase(_)));
    let message = match (listed.is_empty(), passphrases) {
        (false, false) => format!(
            "no key of this message is here: it names {} (may be retired or destroyed, or of \
             another keyset)",
            listed.join(", ")
        ),
        (false, true) => format!(
            "no key of this message is here: it names {} (may be retired or destroyed, or of \
             another keyset); it also opens with a passphrase, and none was given",
            listed.join(", ")
        ),
        (true, true) => "this message opens with a passphrase, and none was given".into(),
        (true, false) => "this message has no slot that a key could open".into(),
    };
    Error::KeyNotFound {
        message,
        key_id: ids.first().copied(),
    }
}
