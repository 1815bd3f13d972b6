//! The writer of a log: one append at a time under the log's lock, by any number of threads and
//! processes.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::BATCH_MAX;
pub use super::creation::set_damaged_aside;
use super::creation::{check_vkey, create, file_id, file_key, new_file, open_log};
pub use super::lock::Patience;
use super::note::{Checkpoint, PublicKey, Sign};
use super::paths::{self, beside, failed};
use super::place::{
    beginning, expect, fits, is_of_another_day, read_checkpoint, read_on, refuse, retry, set_aside,
};
use super::position::Position;
use super::record;
use super::scan::End;
use super::template::{Template, Values};
use crate::{Error, Result};

/// Records that may wait for a checkpoint, and how long.
const CHECKPOINT_RECORDS: u64 = 1000;
const CHECKPOINT_AGE: Duration = Duration::from_secs(1);

/// When a new file is begun.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rotation {
    /// A file that would be longer than this.
    pub bytes: Option<u64>,
    /// A record of another day (UTC) than the file's last one.
    pub daily: bool,
}

/// The events that the writer makes itself.
#[derive(Clone, Debug)]
pub struct OwnEvents {
    /// A log was made.
    pub opened: Template,
    /// A torn tail was set aside: bytes and sha256.
    pub recovered: Template,
    /// A new file was begun.
    pub rotated: Template,
}

/// How far an append goes before it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// On disk and covered by a checkpoint: an event in the life of a key.
    Checkpoint,
    /// On disk.
    Disk,
    /// With the kernel; the next checkpoint takes it to the disk.
    Kernel,
}

/// A log, open for writing.
pub struct Log {
    path: PathBuf,
    lock: Arc<File>,
    key: PublicKey,
    signer: Box<dyn Sign>,
    events: OwnEvents,
    rotation: Rotation,
    open: Option<Open>,
    covered: u64,
    covered_at: Instant,
    fresh: Option<Vec<u8>>,
    patience: Patience,
    /// Events of its own that are to be sealed before the next ones.
    unsaid: Vec<String>,
}

struct Open {
    file: File,
    id: (u64, u64),
    at: Position,
}

impl Log {
    /// Opens a log, or makes it: with a key of its own beside it unless `signer` is given.
    ///
    /// # Errors
    /// [`Error::AuditIntegrity`] for a log that was changed, or whose key is another;
    /// [`Error::UnsupportedVersion`]; [`Error::Audit`] for what is no log, or can't be written.
    pub fn open(
        path: &Path,
        signer: Option<Box<dyn Sign>>,
        events: OwnEvents,
        rotation: Rotation,
        mut patience: Patience,
    ) -> Result<Self> {
        if path.is_dir() {
            return Err(Error::Audit(format!(
                "{} is a directory: name a file in it",
                path.display()
            )));
        }
        let lock_path = beside(path, ".lock");
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|error| failed(&lock_path, "open", &error))?;
        let locked = patience.lock(&lock, path)?;
        let signer = match signer {
            Some(signer) => signer,
            None => Box::new(file_key(path)?),
        };
        let key = PublicKey::new(signer.public_key());
        check_vkey(path, &key)?;
        let created = create(path, &key, signer.as_ref())?;
        drop(locked);
        let mut log = Self {
            path: path.to_owned(),
            lock: Arc::new(lock),
            key,
            signer,
            events,
            rotation,
            open: None,
            covered: 0,
            covered_at: Instant::now(),
            fresh: None,
            patience,
            unsaid: Vec::new(),
        };
        if created {
            let event = log.events.opened.filled(&Values::of_now());
            log.append(&[event], Durability::Checkpoint)?;
        } else {
            log.append(&[] as &[&str], Durability::Kernel)?;
        }
        Ok(log)
    }

    /// The log's public key.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The descriptor of the lock's file. A forked child must put another file in its place: the lock
    /// is held for as long as anybody has this one open.
    #[must_use]
    pub fn lock_descriptor(&self) -> RawFd {
        self.lock.as_raw_fd()
    }

    /// Since when the next call has been waiting, for its turn in this process say: that counts too.
    pub fn waiting_since(&mut self, since: Instant) {
        self.patience.waiting_since(since);
    }

    /// The checkpoint that was written since the last call, for whoever anchors it elsewhere.
    pub fn take_checkpoint(&mut self) -> Option<Vec<u8>> {
        self.fresh.take()
    }

    /// Seals events, each a canonical JSON object, in their order; returns the number of the first.
    ///
    /// # Errors
    /// Nothing was appended, unless the disk failed after the checkpoint that covers it got its name:
    /// [`Error::AuditIntegrity`] for a log that was changed, [`Error::Audit`] for one that can't be
    /// written, [`Error::Invalid`] for an event that is none.
    pub fn append(&mut self, events: &[impl AsRef<str>], durability: Durability) -> Result<u64> {
        // The guard has its own hold on the lock's file while `self` is worked on: no second
        // descriptor, which a fork at this moment would leave locked in the child.
        let lock = Arc::clone(&self.lock);
        let locked = self.patience.lock(&lock, &self.path)?;
        let result = self.append_locked(events, durability);
        if result.is_err() {
            // Whatever is known of the file may be wrong now.
            self.open = None;
        }
        drop(locked);
        result
    }

    fn append_locked(&mut self, events: &[impl AsRef<str>], durability: Durability) -> Result<u64> {
        self.catch_up()?;
        if !events.is_empty() {
            self.rotate_if_due()?;
        }
        let before = self.at().clone();
        let own = self.unsaid.clone();
        let done = self.write_and_cover(events, durability);
        match done {
            Ok(()) => Ok(before.size() + own.len() as u64),
            Err(error) => {
                self.take_back(&before, own);
                Err(error)
            }
        }
    }

    fn write_and_cover(
        &mut self,
        events: &[impl AsRef<str>],
        durability: Durability,
    ) -> Result<()> {
        let mut rest = events;
        loop {
            let (batch, others) = rest.split_at(rest.len().min(BATCH_MAX));
            self.write(batch, durability)?;
            rest = others;
            if rest.is_empty() {
                break;
            }
        }
        let waiting = self.at().size() - self.covered;
        let is_due = waiting >= CHECKPOINT_RECORDS
            || (waiting > 0 && self.covered_at.elapsed() >= CHECKPOINT_AGE);
        if is_due || (waiting > 0 && durability == Durability::Checkpoint) {
            self.checkpoint()?;
        }
        Ok(())
    }

    /// Cuts off what was appended before something failed, so that whoever tries again does not say
    /// it twice. A checkpoint that is there all the same keeps it.
    fn take_back(&mut self, before: &Position, own: Vec<String>) {
        let covered = read_checkpoint(&self.path, &self.key).map(|(checkpoint, _)| checkpoint.size);
        if covered.is_ok_and(|size| size <= before.size())
            && let Some(open) = &self.open
        {
            // If that fails, records are there that nobody was told of, as after a crash.
            let _ = open.file.set_len(before.offset);
            self.unsaid = own;
        }
    }

    /// Writes a checkpoint if records wait for one.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn flush(&mut self) -> Result<()> {
        self.append(&[] as &[&str], Durability::Checkpoint)
            .map(drop)
    }

    fn at(&self) -> &Position {
        &self.open.as_ref().expect("caught up").at
    }

    /// Makes what is known of the file what is there: reads what others appended, sets a torn tail
    /// aside, which is to be said.
    fn catch_up(&mut self) -> Result<()> {
        let there = std::fs::metadata(&self.path).ok();
        let id = there.as_ref().map(|there| (there.dev(), there.ino()));
        let same = self.open.as_ref().is_some_and(|open| Some(open.id) == id);
        if !same {
            self.open = Some(self.load()?);
        }
        let open = self.open.as_mut().expect("loaded just now");
        let len = there.map_or(0, |there| there.len());
        if same && len == open.at.offset {
            return Ok(());
        }
        let (checkpoint, _) = read_checkpoint(&self.path, &self.key)?;
        let at = std::mem::take(&mut open.at);
        // Another writer covered what it appended.
        self.covered = checkpoint.size;
        let expected = [expect(&self.path, checkpoint)];
        let known = &expected[..usize::from(expected[0].size >= at.size())];
        let (at, end) = read_on(&open.file, &self.path, at, known)?;
        match end {
            End::Clean => {}
            End::Torn { len } => {
                let digest = set_aside(&open.file, &self.path, &at, len)?;
                let values = Values {
                    bytes: len,
                    sha256: &digest,
                    ..Values::of_now()
                };
                self.unsaid.push(self.events.recovered.filled(&values));
            }
            End::Damaged(damage) => return Err(refuse(&self.path, damage)),
        }
        open.at = at;
        Ok(())
    }

    /// Opens the file and finds a place in it that the checkpoint proves.
    fn load(&mut self) -> Result<Open> {
        let (checkpoint, note) = read_checkpoint(&self.path, &self.key)?;
        self.covered = checkpoint.size;
        let file = match open_log(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.begin_after_rotation(&checkpoint, &note)?
            }
            Err(error) => return Err(failed(&self.path, "open", &error)),
        };
        let id = file_id(&file, &self.path)?;
        let cached = Position::load(&beside(&self.path, ".state"));
        if let Some(at) = cached
            && at.size() == checkpoint.size
            && at.range.root() == checkpoint.root
            && fits(&file, &at)
        {
            return Ok(Open { file, id, at });
        }
        // Made anew from the beginning of this file; `catch_up` reads it and proves it.
        let at = beginning(&self.path, &self.key, checkpoint.size)?;
        Ok(Open { file, id, at })
    }

    /// A rotation that a crash ended between the two names: the old file is closed, the new one is
    /// not there yet.
    fn begin_after_rotation(&self, checkpoint: &Checkpoint, note: &[u8]) -> Result<File> {
        let newest = paths::all_rotated(&self.path)
            .map_err(|error| failed(&self.path, "look beside", &error))?
            .pop();
        let closed = match &newest {
            Some((_, path)) if path.exists() => paths::read(&beside(path, ".checkpoint"))?,
            _ => None,
        };
        if closed.as_deref() != Some(note) && checkpoint.size != 0 {
            return Err(Error::integrity(
                format!(
                    "{} is gone, and its checkpoint covers {} records",
                    self.path.display(),
                    checkpoint.size
                ),
                Some(0),
            ));
        }
        new_file(&self.path)
    }

    /// One write, taken back if it fails.
    fn write(&mut self, events: &[impl AsRef<str>], durability: Durability) -> Result<()> {
        let path = &self.path;
        let open = self.open.as_mut().expect("caught up");
        let mut at = open.at.clone();
        let mut lines = Vec::with_capacity(events.len() * 640);
        let own = std::mem::take(&mut self.unsaid);
        let own = own.iter().map(String::as_str);
        for event in own.chain(events.iter().map(AsRef::as_ref)) {
            at.last = record::seal(event, &at.last, at.size(), &mut lines)?;
            at.range.push(at.last);
        }
        if lines.is_empty() {
            return Ok(());
        }
        at.offset += lines.len() as u64;
        let mut file = &open.file;
        let written = match retry(|| file.write(&lines)) {
            // Less than all is a disk that is full, as an error would be.
            Ok(len) if len < lines.len() => Err(io::Error::from(io::ErrorKind::StorageFull)),
            Ok(_) if durability == Durability::Disk => file.sync_data(),
            // A checkpoint syncs the file before it covers what is in it.
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            // If that fails too, the next writer finds a torn tail, or records that nobody was told
            // of: both are what a crash leaves.
            let _ = file.set_len(open.at.offset);
            return Err(failed(path, "append to", &error));
        }
        open.at = at;
        Ok(())
    }

    /// Covers all records: only after they are on disk.
    fn checkpoint(&mut self) -> Result<()> {
        let open = self.open.as_ref().expect("caught up");
        open.file
            .sync_data()
            .map_err(|error| failed(&self.path, "sync", &error))?;
        let at = &open.at;
        let checkpoint = Checkpoint {
            origin: self.key.origin().to_owned(),
            size: at.size(),
            root: at.range.root(),
        };
        let note = checkpoint.seal(self.signer.as_ref())?;
        let to = beside(&self.path, ".checkpoint");
        paths::replace(&to, &note, 0o644, true).map_err(|error| failed(&to, "write", &error))?;
        self.covered = checkpoint.size;
        self.covered_at = Instant::now();
        self.fresh = Some(note);
        // A cache: without it the next writer reads the file from its beginning.
        let _ = paths::overwrite(
            &beside(&self.path, ".state"),
            at.to_text().as_bytes(),
            0o644,
        );
        Ok(())
    }

    fn rotate_if_due(&mut self) -> Result<()> {
        let open = self.open.as_ref().expect("caught up");
        let is_due = open.at.offset > 0
            && (self
                .rotation
                .bytes
                .is_some_and(|limit| open.at.offset >= limit)
                || (self.rotation.daily && is_of_another_day(&open.file)));
        if !is_due {
            return Ok(());
        }
        if !self.unsaid.is_empty() {
            self.write(&[] as &[&str], Durability::Disk)?;
        }
        self.checkpoint()?;
        let open = self.open.as_ref().expect("caught up");
        let closed = paths::rotated(&self.path, open.at.first);
        let keep = |suffix, content: &[u8]| {
            let path = beside(&closed, suffix);
            paths::replace(&path, content, 0o644, true)
                .map_err(|error| failed(&path, "write", &error))
        };
        let (_, note) = read_checkpoint(&self.path, &self.key)?;
        keep(".state", open.at.to_text().as_bytes())?;
        keep(".checkpoint", &note)?;
        std::fs::rename(&self.path, &closed)
            .and_then(|()| paths::sync_folder(&self.path))
            .map_err(|error| failed(&self.path, "rename", &error))?;
        let at = open.at.in_new_file();
        let file = new_file(&self.path)?;
        let id = file_id(&file, &self.path)?;
        let state = at.to_text();
        self.open = Some(Open { file, id, at });
        let _ = paths::overwrite(&beside(&self.path, ".state"), state.as_bytes(), 0o644);
        self.unsaid
            .push(self.events.rotated.filled(&Values::of_now()));
        Ok(())
    }
}
