//! A file that is written under a temporary name and gets its own in one step.
//!
//! While a directory has temporary files of a live writer in it, that writer holds a shared lock
//! on the directory. So whoever gets the exclusive one knows that those which are there were left
//! by writers that died, and may remove them.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    self, AtFlags, FileType, FlockOperation, Mode, OFlags, Stat, Timespec, Timestamps,
};
use rustix::io::{Errno, retry_on_intr};

use super::flush::Flusher;
use super::place::Place;
use super::source::Source;
use super::sys::{On, Side, Sync, Syncer, Trouble, write_at};
use crate::error::{Error, Result, hex};
use crate::parallel::Tick;
use crate::params::FILE_FLUSH_STEP;
use crate::random;

const TEMPORARY_PREFIX: &[u8] = b".strongroom-";
const TEMPORARY_SUFFIX: &[u8] = b".tmp";
const TEMPORARY_RANDOM: usize = 8;

/// Mode of a file whose bytes must not be seen before they are authenticated, or at all.
pub const PRIVATE: Mode = Mode::from_raw_mode(0o600);
/// Mode of a new file that has no source to take one from, before the umask.
pub const DEFAULT: Mode = Mode::from_raw_mode(0o666);

/// Bits that are kept only where the owner is: set-user-id of another owner is another program.
const MODE_BITS: u32 = 0o777;
const ALL_MODE_BITS: u32 = 0o7777;

/// A file in the making. Dropped before [`Target::publish`], it is removed.
pub struct Target<D: AsFd> {
    dir: D,
    name: CString,
    temporary: CString,
    file: Option<OwnedFd>,
    flusher: Option<Flusher>,
    there: bool,
}

impl<D: AsFd> Target<D> {
    /// Creates the temporary file of the target `name`.
    ///
    /// # Errors
    /// The system's error.
    pub fn create(dir: D, name: &CStr, mode: Mode) -> Result<Self> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            let temporary = temporary_name()?;
            match retry_on_intr(|| fs::openat(&dir, &temporary, flags, mode)) {
                Err(Errno::EXIST) => {}
                other => {
                    let file = Some(other.on(Side::Target)?);
                    return Ok(Self {
                        dir,
                        name: name.to_owned(),
                        temporary,
                        file,
                        flusher: None,
                        there: true,
                    });
                }
            }
        }
    }

    /// Says how many bytes will be written: a long file is synced as it grows.
    pub fn expecting(mut self, len: u64) -> Self {
        if len >= 2 * FILE_FLUSH_STEP {
            self.becomes_long();
        }
        self
    }

    /// From now on the file is synced as it grows.
    pub fn becomes_long(&mut self) {
        self.flusher = Flusher::new(self.file());
    }

    /// Writes at an offset.
    ///
    /// # Errors
    /// The system's error.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        write_at(self.file(), bytes, offset).on(Side::Target)?;
        if let Some(flusher) = &self.flusher {
            flusher.wrote(bytes.len() as u64);
        }
        Ok(())
    }

    /// The open file.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file
            .as_ref()
            .expect("open until it is set aside")
            .as_fd()
    }

    /// Gives the file the mode of `like` and, if asked to, its mtime.
    ///
    /// # Errors
    /// The system's error.
    pub fn keep(&self, like: &Stat, mtime: bool) -> Result<()> {
        let own = fs::fstat(self.file()).on(Side::Target)?;
        let same_owner = (own.st_uid, own.st_gid) == (like.st_uid, like.st_gid);
        let bits = if same_owner { ALL_MODE_BITS } else { MODE_BITS };
        if own.st_mode & ALL_MODE_BITS != like.st_mode & bits {
            fs::fchmod(self.file(), Mode::from_raw_mode(like.st_mode & bits)).on(Side::Target)?;
        }
        if mtime {
            fs::futimens(self.file(), &mtime_of(like)).on(Side::Target)?;
        }
        Ok(())
    }

    /// Closes the file, to be published later: a group of files needs no descriptor each.
    ///
    /// # Errors
    /// As [`Flusher::finish`].
    pub fn set_aside(&mut self, tick: Tick<'_>) -> Result<()> {
        self.end_flushing(0, tick)?;
        self.file = None;
        Ok(())
    }

    fn end_flushing(&mut self, done: u64, tick: Tick<'_>) -> Result<()> {
        self.flusher
            .take()
            .map_or(Ok(()), |flusher| flusher.finish(done, tick))
    }

    /// Syncs the file, gives it its name and syncs the directory.
    ///
    /// # Errors
    /// `EEXIST` where the target has come into being and is not to be replaced; the system's
    /// error; what `tick` returns. Nothing is left under either name then, but for what stood
    /// under the target's name before and was replaced.
    pub fn finish(mut self, overwrite: bool, done: u64, tick: Tick<'_>) -> Result<()> {
        self.end_flushing(done, tick)?;
        let syncer = Syncer::new()?;
        syncer.sync(self.file(), Sync::One, done, tick)?;
        self.publish(overwrite)?;
        self.sync_name(&syncer, done, tick).inspect_err(|_| {
            if !overwrite {
                let _ = fs::unlinkat(&self.dir, &self.name, AtFlags::empty());
            }
        })
    }

    fn sync_name(&self, syncer: &Syncer, done: u64, tick: Tick<'_>) -> Result<()> {
        match syncer.sync(&self.dir, Sync::One, done, tick) {
            // A directory that may be written and not be read was opened without reading.
            Err(error) if super::sys::errno(&error) == Some(Errno::BADF) => {
                syncer.sync(self.file(), Sync::FileSystem, done, tick)
            }
            other => other,
        }
    }

    /// Gives the file its name, at once or not at all.
    ///
    /// # Errors
    /// As [`Target::finish`].
    pub fn publish(&mut self, overwrite: bool) -> Result<()> {
        let dir = self.dir.as_fd();
        let (old, new) = (&self.temporary, &self.name);
        if overwrite {
            retry_on_intr(|| fs::renameat(dir, old, dir, new)).on(Side::Target)?;
            self.there = false;
            return Ok(());
        }
        match rename_to_free(dir, old, new) {
            Ok(()) => self.there = false,
            // A link never replaces anything either. The temporary name goes when self does.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                match fs::linkat(dir, old, dir, new, AtFlags::empty()) {
                    Ok(()) => {}
                    // A file system with neither: look and rename is the best there is.
                    Err(Errno::PERM | Errno::NOTSUP | Errno::NOSYS) => {
                        if fs::statat(dir, new, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                            return Err(Errno::EXIST).on(Side::Target);
                        }
                        fs::renameat(dir, old, dir, new).on(Side::Target)?;
                        self.there = false;
                    }
                    Err(errno) => return Err(errno).on(Side::Target),
                }
            }
            Err(errno) => return Err(errno).on(Side::Target),
        }
        Ok(())
    }
}

impl<D: AsFd> Drop for Target<D> {
    fn drop(&mut self) {
        if self.there {
            let _ = fs::unlinkat(&self.dir, &self.temporary, AtFlags::empty());
        }
    }
}

#[cfg(target_os = "linux")]
fn rename_to_free(dir: BorrowedFd<'_>, old: &CStr, new: &CStr) -> rustix::io::Result<()> {
    retry_on_intr(|| fs::renameat_with(dir, old, dir, new, fs::RenameFlags::NOREPLACE))
}

#[cfg(not(target_os = "linux"))]
fn rename_to_free(_: BorrowedFd<'_>, _: &CStr, _: &CStr) -> rustix::io::Result<()> {
    Err(Errno::NOSYS)
}

/// Looks at what stands under the target's name before any work is done; what counts is the
/// rename at the end. Returns what is there, if it may be replaced or is not to be.
///
/// # Errors
/// [`Trouble::SameFile`] where it is the source; `EISDIR`; [`Error::Invalid`] for a device, a
/// FIFO or a socket; the system's error.
pub fn look(place: Place<'_>, source: &Source) -> Result<Option<Stat>> {
    let there = match fs::statat(place.dir, place.name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(None),
        other => other.on(Side::Target)?,
    };
    let same =
        |stat: &Stat| (stat.st_dev, stat.st_ino) == (source.stat().st_dev, source.stat().st_ino);
    match FileType::from_raw_mode(there.st_mode) {
        FileType::RegularFile if same(&there) => return Err(Trouble::SameFile.into()),
        FileType::RegularFile => {}
        FileType::Symlink => {
            // The link would be replaced and not what it points to; shutil refuses it too.
            if fs::statat(place.dir, place.name, AtFlags::empty()).is_ok_and(|stat| same(&stat)) {
                return Err(Trouble::SameFile.into());
            }
        }
        FileType::Directory => return Err(Errno::ISDIR).on(Side::Target),
        _ => {
            return Err(Error::Invalid(
                "the target is a device, a FIFO or a socket: only regular files are replaced"
                    .into(),
            ));
        }
    }
    Ok(Some(there))
}

/// [`look`], and `EEXIST` for what is not to be replaced.
///
/// # Errors
/// As said.
pub fn require_free(place: Place<'_>, source: &Source, overwrite: bool) -> Result<()> {
    match look(place, source)? {
        Some(_) if !overwrite => Err(Errno::EXIST).on(Side::Target),
        _ => Ok(()),
    }
}

/// The mtime of `like`, and the atime left alone.
pub fn mtime_of(like: &Stat) -> Timestamps {
    let nsec = |value| i64::try_from(value).unwrap_or(0);
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: fs::UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: like.st_mtime,
            tv_nsec: nsec(like.st_mtime_nsec),
        },
    }
}

/// Marks a directory as one in which a live writer has temporary files, for as long as the
/// descriptor is open. Where that can't be had, a tidier's exclusive lock is the likely reason and
/// short: the worst that can come of going on without is a rename that fails.
pub fn lock_shared(dir: impl AsFd) {
    for _ in 0..50 {
        match fs::flock(&dir, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(std::time::Duration::from_millis(2)),
            Err(Errno::INTR) => {}
            _ => return,
        }
    }
}

/// Removes temporary files of writers that died; returns how many. Does nothing while a live
/// writer is in the directory.
///
/// # Errors
/// The system's error where the directory can't be listed.
pub fn remove_stale(dir: impl AsFd) -> Result<usize> {
    // A description of its own: a lock belongs to it, and goes with it.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let own = retry_on_intr(|| fs::openat(&dir, c".", flags, Mode::empty())).on(Side::Target)?;
    if fs::flock(&own, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(0);
    }
    let mut removed = 0;
    for entry in fs::Dir::read_from(&own).on(Side::Target)? {
        let entry = entry.on(Side::Target)?;
        let name = entry.file_name();
        if !is_temporary(name.to_bytes()) {
            continue;
        }
        let regular = fs::statat(&own, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        if regular && fs::unlinkat(&own, name, AtFlags::empty()).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}

/// Whether a name is that of a file in the making.
pub fn is_temporary(name: &[u8]) -> bool {
    name.strip_prefix(TEMPORARY_PREFIX)
        .and_then(|rest| rest.strip_suffix(TEMPORARY_SUFFIX))
        .is_some_and(|middle| {
            middle.len() == 2 * TEMPORARY_RANDOM && middle.iter().all(u8::is_ascii_hexdigit)
        })
}

fn temporary_name() -> Result<CString> {
    let mut bytes = [0; TEMPORARY_RANDOM];
    random::fill(&mut bytes)?;
    let middle = hex(&bytes);
    let name = [TEMPORARY_PREFIX, middle.as_bytes(), TEMPORARY_SUFFIX].concat();
    Ok(CString::new(name).expect("no zero byte among them"))
}
