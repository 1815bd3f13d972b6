//! Slots added to a file and taken away: FORMAT.md §4.3, *In place*, with the same order of writes.

use super::in_place::InPlace;
use super::place::Place;
use super::rewrap::Locked;
use crate::envelope::{self, KeySource, NewSlot};
use crate::error::{Error, Result, hex};
use crate::keys::{BoxLabel, KeyId};
use crate::parallel::Tick;
use crate::params::{SLOT_EMPTY, SLOTS_MAX};
use crate::slot::{Content, Slot};

/// Which slots of a file are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those under this keyset key or KEK.
    Key(KeyId),
    /// Those of passphrases, all of them.
    Passphrases,
}

impl Which {
    fn is(self, slot: &Slot) -> bool {
        match (self, slot.content()) {
            (Which::Key(id), Content::Keyset { key_id }) => id == key_id,
            (Which::Key(id), Content::Master { kek_id, .. }) => id == kek_id,
            (Which::Passphrases, Content::Passphrase(_)) => true,
            _ => false,
        }
    }
}

/// Lets one more key open a file that `keys` open. False where a slot of a keyset key is there.
///
/// # Errors
/// As [`Locked::wait`] and [`envelope::unwrap_dek`]; [`Error::Limit`] where the file has 16 slots
/// and none of them is empty.
pub fn add_slot(
    place: Place<'_>,
    keys: &dyn KeySource,
    new: &NewSlot<'_>,
    copy: bool,
    tick: Tick<'_>,
) -> Result<bool> {
    let locked = Locked::wait(place, tick)?;
    let header = &locked.header;
    let opened = envelope::unwrap_dek(header, keys)?;
    if let NewSlot::Keyset { id, key } = new {
        let wrap = key.box_key(BoxLabel::Wrap)?;
        let opens =
            |slot: &Slot| Which::Key(*id).is(slot) && slot.open(wrap, &header.prefix).is_ok();
        if header.slots.iter().any(opens) {
            return Ok(false);
        }
    }
    let Some(body) = new.body(opened.dek.expose()?, &header.prefix)? else {
        return Err(Error::Invalid("an empty slot opens nothing".into()));
    };
    let empty = |slot: &&Slot| slot.kind == SLOT_EMPTY && slot.body.len() == body.len();
    if let Some(slot) = header.slots.iter().find(empty)
        && !copy
    {
        let writes = InPlace {
            new: Some((slot.offset as u64, new.kind(), body)),
            old: Vec::new(),
            remains: Vec::new(),
        };
        writes.write(locked.file(), tick)?;
        return Ok(true);
    }
    let mut header = header.clone();
    if header.slots.len() == SLOTS_MAX {
        let Some(at) = header.slots.iter().position(|s| s.kind == SLOT_EMPTY) else {
            return Err(Error::Limit(format!(
                "the file has {SLOTS_MAX} slots already, the most that there can be"
            )));
        };
        header.slots.remove(at);
    }
    header.slots.push(Slot {
        offset: 0,
        kind: new.kind(),
        body,
    });
    locked.write_anew(place, &header, tick)?;
    Ok(true)
}

/// Takes slots away from a file that `keys` open without them. Returns how many there were.
///
/// # Errors
/// As [`Locked::wait`]; [`Error::KeyNotFound`] where no slot is meant; and as
/// [`envelope::unwrap_dek`] where no other slot opens: the file is left as it was.
pub fn remove_slots(
    place: Place<'_>,
    keys: &dyn KeySource,
    which: Which,
    copy: bool,
    tick: Tick<'_>,
) -> Result<usize> {
    let locked = Locked::wait(place, tick)?;
    let meant: Vec<_> = (0..locked.header.slots.len())
        .filter(|number| which.is(&locked.header.slots[*number]))
        .collect();
    if meant.is_empty() {
        return Err(match which {
            Which::Key(id) => Error::KeyNotFound {
                message: format!("no slot of the file is of key {}", hex(&id)),
                key_id: Some(id),
            },
            Which::Passphrases => Error::KeyNotFound {
                message: "no slot of the file is of a passphrase".into(),
                key_id: None,
            },
        });
    }
    let mut left = locked.header.clone();
    for number in &meant {
        let slot = &mut left.slots[*number];
        slot.kind = SLOT_EMPTY;
        slot.body.fill(0);
    }
    envelope::unwrap_dek(&left, keys)?;
    if copy {
        locked.write_anew(place, &left, tick)?;
    } else {
        let old = meant.iter().map(|number| {
            let slot = &locked.header.slots[*number];
            (slot.offset as u64, slot.body.len())
        });
        let writes = InPlace {
            new: None,
            old: old.collect(),
            remains: Vec::new(),
        };
        writes.write(locked.file(), tick)?;
    }
    Ok(meant.len())
}
