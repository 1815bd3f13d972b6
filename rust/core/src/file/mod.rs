//! Files as envelopes: whole, in place, at random offsets, and many small ones at once.
//!
//! A source is a regular file that stays the same while it is read. A target has a temporary name
//! in its own directory until all of it is written and authenticated, and then gets its name in
//! one step. Names are looked up from directory descriptors and symbolic links are never followed,
//! so that whoever renames directories meanwhile can't lead a reader or a writer elsewhere.

mod batch;
mod copy;
mod flush;
mod found;
mod in_place;
mod place;
mod reader;
mod rewrap;
mod rewrap_group;
mod slots;
mod source;
mod sys;
mod target;
mod writer;

pub use batch::{Done, Folder, Job, Options, Work, run};
pub use copy::{decrypt, encrypt, verify};
pub use place::{Located, Place};
pub use reader::Reader;
pub use rewrap::{RewrapKeys, rewrap};
pub use slots::{Which, add_slot, remove_slots};
pub use source::{Source, open_message};
pub use sys::{Side, Trouble};
pub use target::{is_temporary, lock_shared, remove_stale};
pub use writer::Writer;

use crate::engine::Engine;
use crate::envelope::{self, Header, NewSlot};
use crate::error::Result;
use crate::keys::KeyId;
use crate::params::{SLOT_EMPTY, SLOT_KEYSET, SLOT_KEYSET_LEN};
use crate::stream::StreamKey;

/// What came of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Bytes of plaintext.
    pub plaintext: u64,
    /// Bytes of the message.
    pub message: u64,
    /// The key that opened it or that it was written under; None for a passphrase.
    pub key_id: Option<KeyId>,
}

/// A new message with the given slots and one empty slot behind them, into which a later rewrap
/// writes: as long as the slot of a keyset if there is one, since only those are rewrapped.
///
/// # Errors
/// As [`envelope::create`].
pub fn create(slots: &[NewSlot<'_>], associated_data: &[u8]) -> Result<(Header, StreamKey)> {
    let with_spare: Vec<_> = slots.iter().copied().chain([NewSlot::Spare]).collect();
    let (mut header, key) = envelope::create(&with_spare, associated_data, Engine::for_streams())?;
    if header.slots.iter().any(|slot| slot.kind == SLOT_KEYSET)
        && let Some(spare) = header.slots.last_mut()
        && spare.kind == SLOT_EMPTY
    {
        spare.body.truncate(SLOT_KEYSET_LEN);
    }
    Ok((header, key))
}
