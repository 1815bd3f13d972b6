//! The slots of a file that a keyset opens.

use crate::envelope::{Header, KeySource};
use crate::error::{Error, Result, hex};
use crate::keys::{BoxLabel, KeyId};
use crate::params::KEY_LEN;
use crate::secret::Secret;
use crate::slot::Content;

/// Which slots of the keyset open.
pub struct Found {
    /// What they hold.
    pub dek: Secret<[u8; KEY_LEN]>,
    /// Under the primary.
    pub current: Option<usize>,
    /// Under other keys, and further ones under the primary.
    pub old: Vec<usize>,
}

impl Found {
    /// Looks at all of them.
    ///
    /// # Errors
    /// [`Error::KeyNotFound`] without a slot of the keyset; [`Error::KeyState`] where its key may not
    /// be used and no other opens; [`Error::Decryption`] where none opens.
    pub fn search(header: &Header, keys: &dyn KeySource, primary: &KeyId) -> Result<Self> {
        let mut dek = None;
        let (mut current, mut old) = (None, Vec::new());
        let (mut seen, mut candidates, mut forbidden) = (Vec::new(), false, None);
        for (number, slot) in header.slots.iter().enumerate() {
            let Content::Keyset { key_id } = slot.content() else {
                continue;
            };
            seen.push(key_id);
            let material = match keys.keyset_key(&key_id) {
                Ok(Some(material)) => material,
                Ok(None) => continue,
                Err(error @ Error::KeyState { .. }) => {
                    forbidden = forbidden.or(Some(error));
                    continue;
                }
                Err(error) => return Err(error),
            };
            candidates = true;
            match slot.open(material.box_key(BoxLabel::Wrap)?, &header.prefix) {
                Ok(opened) => dek = Some(opened),
                Err(Error::Decryption { .. }) => continue,
                Err(error) => return Err(error),
            }
            if key_id == *primary && current.is_none() {
                current = Some(number);
            } else {
                old.push(number);
            }
        }
        match (dek, forbidden) {
            (Some(dek), _) => Ok(Self { dek, current, old }),
            (None, Some(forbidden)) => Err(forbidden),
            (None, None) if candidates => Err(Error::DECRYPTION),
            (None, None) => Err(not_found(&seen)),
        }
    }

    /// Whether a slot is among them.
    pub fn opened(&self, number: usize) -> bool {
        self.current == Some(number) || self.old.contains(&number)
    }
}

fn not_found(seen: &[KeyId]) -> Error {
    let listed: Vec<_> = seen.iter().map(|id| hex(id)).collect();
    Error::KeyNotFound {
        message: if listed.is_empty() {
            "this file has no slot of a keyset: there is nothing to rewrap".into()
        } else {
            format!(
                "no key of this file is here: it names {} (may be retired or destroyed, or of \
                 another keyset)",
                listed.join(", ")
            )
        },
        key_id: seen.first().copied(),
    }
}
