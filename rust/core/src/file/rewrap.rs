//! Another key over the same DEK: design of FORMAT.md §4, *Rewrapping*. Only slots are touched,
//! but for a file whose old key is compromised: that one gets a new DEK.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{self, AtFlags, OFlags};
use rustix::io::Errno;

use super::copy::{Crew, Ring, open_all, seal_piece};
use super::found::Found;
use super::in_place::InPlace;
use super::place::Place;
use super::source::{Source, open_message};
use super::sys::{On, Side, lock_exclusive};
use super::target::{PRIVATE, Target, lock_shared};
use super::{Count, create};
use crate::envelope::{Header, KeySource, NewSlot};
use crate::error::{Error, Result, hex};
use crate::keys::{BoxLabel, KeyId, Material};
use crate::parallel::Tick;
use crate::params::{SLOT_EMPTY, SLOT_KEYSET, SLOT_KEYSET_LEN, SLOTS_MAX};
use crate::slot::{Content, PassphraseParams, Slot};
use crate::stream;

/// The keys of the keyset that a file is rewrapped within.
pub trait RewrapKeys: KeySource + std::marker::Sync {
    /// Its primary.
    ///
    /// # Errors
    /// Whatever the key store raises.
    fn primary(&self) -> Result<(KeyId, Arc<Material>)>;

    /// Whether what the key opened must be encrypted anew.
    ///
    /// # Errors
    /// Whatever the key store raises.
    fn is_compromised(&self, id: &KeyId) -> Result<bool>;
}

/// What a rewrap has to do to a file whose lock is held.
pub enum Plan {
    /// Nothing.
    Current,
    /// Change slots in place.
    InPlace(InPlace),
    /// Write these slots and the same chunks to a new file.
    Anew(Header),
    /// Encrypt under a new DEK.
    Reencrypt,
}

/// A file whose lock is held.
pub struct Locked {
    source: Source,
    pub(super) header: Header,
    start: u64,
}

impl Locked {
    /// Opens a file for rewrapping and waits for its lock.
    ///
    /// # Errors
    /// As [`Source::open`] and [`Source::header`]; what `tick` returns.
    pub fn wait(place: Place<'_>, tick: Tick<'_>) -> Result<Self> {
        loop {
            let source = Source::open_with(place, OFlags::RDWR)?;
            lock_exclusive(&source, tick)?;
            if let Some(locked) = Self::settle(place, source)? {
                return Ok(locked);
            }
        }
    }

    /// The same without waiting: None while someone else has the lock.
    ///
    /// # Errors
    /// As [`Locked::wait`].
    pub fn at_once(place: Place<'_>) -> Result<Option<Self>> {
        let source = Source::open_with(place, OFlags::RDWR)?;
        match fs::flock(&source, fs::FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(None),
            other => {
                other.on(Side::Source)?;
                Self::settle(place, source)
            }
        }
    }

    /// What is read only now counts: a rewrap may have ended between open and lock, and one that
    /// wrote anew has left this file without its name.
    fn settle(place: Place<'_>, source: Source) -> Result<Option<Self>> {
        let named =
            fs::statat(place.dir, place.name, AtFlags::SYMLINK_NOFOLLOW).on(Side::Source)?;
        let own = source.stat();
        if (named.st_dev, named.st_ino) != (own.st_dev, own.st_ino) {
            return Ok(None);
        }
        let source = source.seen_now()?;
        let (header, start) = source.header()?;
        stream::plaintext_len(source.len().saturating_sub(start))?;
        Ok(Some(Self {
            source,
            header,
            start,
        }))
    }

    /// The locked file.
    pub fn file(&self) -> &Source {
        &self.source
    }

    /// Its lengths.
    pub fn count(&self) -> Count {
        let sealed = self.source.len() - self.start;
        Count {
            plaintext: stream::plaintext_len(sealed).expect("checked when it was locked"),
            message: self.source.len(),
            key_id: None,
        }
    }

    /// What there is to do.
    ///
    /// # Errors
    /// [`Error::KeyNotFound`] without a slot of this keyset, [`Error::Decryption`] where none of
    /// them opens, and whatever the keys say.
    pub fn plan(&self, keys: &dyn RewrapKeys, copy: bool) -> Result<Plan> {
        let (primary, material) = keys.primary()?;
        let found = Found::search(&self.header, keys, &primary)?;
        for number in &found.old {
            if let Content::Keyset { key_id } = self.header.slots[*number].content()
                && keys.is_compromised(&key_id)?
            {
                return Ok(Plan::Reencrypt);
            }
        }
        if found.current.is_some() && found.old.is_empty() {
            let remains: Vec<_> = self.remains().collect();
            // An earlier run has ended between two of its writes: nothing opens by what it left.
            if remains.is_empty() || copy {
                return Ok(Plan::Current);
            }
            return Ok(Plan::InPlace(InPlace {
                new: None,
                old: Vec::new(),
                remains,
            }));
        }
        let new = NewSlot::Keyset {
            id: primary,
            key: &material,
        };
        let body = match found.current {
            Some(_) => None,
            None => new.body(found.dek.expose()?, &self.header.prefix)?,
        };
        let place = |slot: &Slot| (slot.offset as u64, slot.body.len());
        let old = || {
            found
                .old
                .iter()
                .map(|number| place(&self.header.slots[*number]))
        };
        let empty = self.fitting_empty();
        match (copy, body) {
            (false, None) => Ok(Plan::InPlace(InPlace {
                new: None,
                old: old().collect(),
                remains: Vec::new(),
            })),
            (false, Some(body)) if empty.is_some() => Ok(Plan::InPlace(InPlace {
                new: empty.map(|slot| (slot.offset as u64, SLOT_KEYSET, body)),
                old: old().collect(),
                remains: Vec::new(),
            })),
            (_, body) => Ok(Plan::Anew(self.anew(&found.old, body))),
        }
    }

    fn fitting_empty(&self) -> Option<&Slot> {
        let fits = |slot: &&Slot| slot.kind == SLOT_EMPTY && slot.body.len() == SLOT_KEYSET_LEN;
        self.header.slots.iter().find(fits)
    }

    fn remains(&self) -> impl Iterator<Item = (u64, usize)> {
        let left = |slot: &&Slot| slot.kind == SLOT_EMPTY && slot.body.iter().any(|&b| b != 0);
        self.header
            .slots
            .iter()
            .filter(left)
            .map(|slot| (slot.offset as u64, slot.body.len()))
    }

    /// The slots of a file that is written anew: the first old one gives its place to the new
    /// body, the others are emptied, and there is room for the next rewrap.
    fn anew(&self, old: &[usize], mut body: Option<Vec<u8>>) -> Header {
        let mut header = self.header.clone();
        for number in old {
            let slot = &mut header.slots[*number];
            match body.take() {
                Some(body) => slot.body = body,
                None => {
                    slot.kind = SLOT_EMPTY;
                    slot.body.fill(0);
                }
            }
        }
        for slot in header
            .slots
            .iter_mut()
            .filter(|slot| slot.kind == SLOT_EMPTY)
        {
            slot.body.fill(0);
        }
        let spare = |slot: &Slot| slot.kind == SLOT_EMPTY && slot.body.len() == SLOT_KEYSET_LEN;
        if !header.slots.iter().any(spare) && header.slots.len() < SLOTS_MAX {
            let body = vec![0; SLOT_KEYSET_LEN];
            header.slots.push(Slot {
                offset: 0,
                kind: SLOT_EMPTY,
                body,
            });
        }
        header
    }

    /// Writes `header` and the chunks as they are to a new file and gives it the name.
    ///
    /// # Errors
    /// The system's error, `ESTALE` where someone has written without asking for the lock; what
    /// `tick` returns.
    pub fn write_anew(&self, place: Place<'_>, header: &Header, tick: Tick<'_>) -> Result<()> {
        lock_shared(place.dir);
        let target = Target::create(place.dir, place.name, PRIVATE)?.expecting(self.source.len());
        let header = header.to_bytes();
        target.write_at(&header, 0)?;
        let sealed = self.source.len() - self.start;
        let ring = Ring::for_sealing(sealed);
        let piece_len = ring.sealed_len();
        let copy = |piece: u64| {
            ring.with(|buffers| {
                let at = piece * piece_len as u64;
                let left = usize::try_from(sealed - at);
                let count = left.map_or(piece_len, |left| left.min(piece_len));
                let bytes = &mut buffers.sealed()[..count];
                self.source.read_exact_at(bytes, self.start + at)?;
                target.write_at(bytes, header.len() as u64 + at)?;
                Ok(count as u64)
            })
        };
        Crew::Pool(None).each(&ring, sealed.div_ceil(piece_len as u64), copy, tick)?;
        self.source.check_unchanged()?;
        self.take_the_name(target, sealed, tick)
    }

    /// Encrypts under a new DEK and gives the new file the name.
    ///
    /// # Errors
    /// As [`open_message`], with the associated data that the chunks were written with;
    /// [`Error::KeyNotFound`] where someone who can open the file now could not afterwards.
    pub fn reencrypt(
        &self,
        place: Place<'_>,
        keys: &dyn RewrapKeys,
        associated_data: &[u8],
        tick: Tick<'_>,
    ) -> Result<()> {
        let (primary, material) = keys.primary()?;
        let found = Found::search(&self.header, keys, &primary)?;
        let passphrases = self.passphrase_slots(keys, &found)?;
        let mut slots = vec![NewSlot::Keyset {
            id: primary,
            key: &material,
        }];
        for (params, key) in &passphrases {
            slots.push(NewSlot::Passphrase {
                params: *params,
                key,
            });
        }
        let message = open_message(&self.source, keys, associated_data)?;
        lock_shared(place.dir);
        let target = Target::create(place.dir, place.name, PRIVATE)?.expecting(self.source.len());
        let (header, key) = create(&slots, associated_data)?;
        let header = header.to_bytes();
        let len = message.plaintext;
        let (ring, sealing) = (Ring::for_sealing(len), Ring::for_sealing(len));
        let chunks = ring.chunks();
        let reseal = |plain: &[u8], at: u64| {
            let piece = at / ring.plain_len() as u64;
            sealing.with(|buffers| {
                let out = buffers.sealed();
                seal_piece(&target, &header, &key, piece, plain, chunks, out)
            })
        };
        open_all(
            &self.source,
            &message,
            &ring,
            Crew::Pool(None),
            reseal,
            tick,
        )?;
        self.take_the_name(target, message.plaintext, tick)
    }

    fn take_the_name<D: AsFd>(&self, target: Target<D>, done: u64, tick: Tick<'_>) -> Result<()> {
        let own = self.source.stat();
        // Whoever may rewrap a file of another owner does not want to become its owner; only the
        // superuser can help it.
        let (uid, gid) = (fs::Uid::from_raw(own.st_uid), fs::Gid::from_raw(own.st_gid));
        let _ = fs::fchown(target.file(), Some(uid), Some(gid));
        // The mtime is new: backups must see the new slot.
        target.keep(own, false)?;
        target.finish(true, done, tick)
    }

    /// The passphrase slots with their keys; refuses slots that a new DEK could not be put into.
    fn passphrase_slots(
        &self,
        keys: &dyn RewrapKeys,
        found: &Found,
    ) -> Result<Vec<(PassphraseParams, Arc<Material>)>> {
        let mut kept = Vec::new();
        for (number, slot) in self.header.slots.iter().enumerate() {
            let who = match slot.content() {
                Content::Empty => continue,
                Content::Keyset { .. } if found.opened(number) => continue,
                Content::Passphrase(params) => {
                    PassphraseParams::check_all([params].iter())?;
                    match keys.passphrase_key(&params)? {
                        Some(key)
                            if slot
                                .open(key.box_key(BoxLabel::Passphrase)?, &self.header.prefix)
                                .is_ok() =>
                        {
                            kept.push((params, key));
                            continue;
                        }
                        _ => "a passphrase".to_owned(),
                    }
                }
                Content::Keyset { key_id } | Content::Master { kek_id: key_id, .. } => {
                    format!("key {}", hex(&key_id))
                }
                Content::Other => format!("a slot of kind {:02x}", slot.kind),
            };
            return Err(Error::KeyNotFound {
                message: format!(
                    "the key of this file is compromised and it must be encrypted anew, but it \
                     also opens with {who}, which is not here and would not open it any more"
                ),
                key_id: None,
            });
        }
        Ok(kept)
    }
}

/// Puts a file under the primary key of its keyset. False where it was already.
///
/// # Errors
/// As [`Source::open`]; [`Error::Format`]; [`Error::KeyNotFound`] where no slot is of this keyset, or
/// where someone who can open the file now could not after it is encrypted anew;
/// [`Error::Decryption`] where no slot opens; the system's error; what `tick` returns.
pub fn rewrap(
    place: Place<'_>,
    keys: &dyn RewrapKeys,
    associated_data: &[u8],
    copy: bool,
    tick: Tick<'_>,
) -> Result<bool> {
    let locked = Locked::wait(place, tick)?;
    match locked.plan(keys, copy)? {
        Plan::Current => return Ok(false),
        Plan::InPlace(writes) => {
            writes.write(locked.file(), tick)?;
            return Ok(writes.changes_key());
        }
        Plan::Anew(header) => locked.write_anew(place, &header, tick)?,
        Plan::Reencrypt => locked.reencrypt(place, keys, associated_data, tick)?,
    }
    Ok(true)
}
