//! The four writes of a rewrap, or another change of slots, in place: FORMAT.md §4, *Rewrapping*.

use std::os::fd::AsFd;

use super::sys::{On, Side, Sync, Syncer, write_at};
use crate::error::Result;
use crate::parallel::Tick;
use crate::params::{SLOT_EMPTY, SLOT_HEADER_LEN};

/// The writes of a rewrap in place. Counts and lengths are never written.
pub struct InPlace {
    /// The empty slot that is filled: its offset, its kind from then on, and the new body.
    pub new: Option<(u64, u8, Vec<u8>)>,
    /// The slots that are emptied: offset and length of the body.
    pub old: Vec<(u64, usize)>,
    /// The same, for slots whose kind says empty already and whose body was not wiped.
    pub remains: Vec<(u64, usize)>,
}

/// Steps of [`InPlace::stage`], each to be durable before the next.
pub const STAGES: usize = 4;

impl InPlace {
    /// One step; whether it wrote anything.
    ///
    /// # Errors
    /// The system's error.
    pub fn stage(&self, number: usize, file: impl AsFd) -> Result<bool> {
        const BODY: u64 = SLOT_HEADER_LEN as u64;
        let write = |bytes: &[u8], at| write_at(&file, bytes, at).on(Side::Source);
        match (number, &self.new) {
            (0, Some((at, _, body))) => write(body, at + BODY)?,
            (1, Some((at, kind, _))) => write(&[*kind], *at)?,
            (2, _) if !self.old.is_empty() => {
                for (at, _) in &self.old {
                    write(&[SLOT_EMPTY], *at)?;
                }
            }
            (3, _) => {
                for (at, len) in self.old.iter().chain(&self.remains) {
                    write(&vec![0; *len], at + BODY)?;
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// All steps of one file, a sync after each.
    ///
    /// # Errors
    /// The system's error; what `tick` returns.
    pub fn write(&self, file: impl AsFd, tick: Tick<'_>) -> Result<()> {
        let syncer = Syncer::new()?;
        for number in 0..STAGES {
            if self.stage(number, &file)? {
                syncer.sync(&file, Sync::One, 0, tick)?;
            }
        }
        Ok(())
    }

    /// Whether the file opens with other keys afterwards.
    pub fn changes_key(&self) -> bool {
        self.new.is_some() || !self.old.is_empty()
    }
}
