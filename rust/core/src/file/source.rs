//! A file that is read, and is to stay what it was while it is.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::{Errno, retry_on_intr};

use super::place::Place;
use super::sys::{On, Side, read_at};
use crate::engine::Engine;
use crate::envelope::{self, Extent, Header, KeySource, Opened};
use crate::error::{Error, Result};
use crate::params::ENVELOPE_FIXED_LEN;
use crate::stream;

/// The first read of a header: the slots of a file that this library wrote fit several times.
const FIRST_READ: usize = 1024;

/// A regular file, open for reading, and what it was when it was opened.
#[derive(Debug)]
pub struct Source {
    file: OwnedFd,
    stat: Stat,
}

impl Source {
    /// Opens a regular file; a symbolic link is none, and neither is anything that opening could
    /// hang on or have an effect on.
    ///
    /// # Errors
    /// The system's error; `EISDIR` for a directory; [`Error::Invalid`] for what is neither.
    pub fn open(place: Place<'_>) -> Result<Self> {
        Self::open_with(place, OFlags::RDONLY)
    }

    /// [`Source::open`] with another access mode.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub fn open_with(place: Place<'_>, access: OFlags) -> Result<Self> {
        let named =
            fs::statat(place.dir, place.name, AtFlags::SYMLINK_NOFOLLOW).on(Side::Source)?;
        require_regular(&named)?;
        // It may be another one by now: that is what the flags and the second look are for.
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let file = retry_on_intr(|| fs::openat(place.dir, place.name, flags, Mode::empty()));
        let file = match file {
            Err(Errno::LOOP) => return Err(not_regular(FileType::Symlink)),
            other => other.on(Side::Source)?,
        };
        let stat = fs::fstat(&file).on(Side::Source)?;
        require_regular(&stat)?;
        Ok(Self { file, stat })
    }

    /// The same file, as it is now.
    ///
    /// # Errors
    /// The system's error.
    pub fn seen_now(mut self) -> Result<Self> {
        self.stat = fs::fstat(&self.file).on(Side::Source)?;
        Ok(self)
    }

    /// Bytes it had when it was opened.
    pub fn len(&self) -> u64 {
        self.stat.st_size.unsigned_abs()
    }

    /// Whether it had none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What it was when it was opened.
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// Fills `buffer`.
    ///
    /// # Errors
    /// The system's error; `ESTALE` where the file ends first, since its length was known.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        if read_at(&self.file, buffer, offset).on(Side::Source)? < buffer.len() {
            return Err(Errno::STALE).on(Side::Source);
        }
        Ok(())
    }

    /// Whether size, mtime and ctime are what they were.
    ///
    /// # Errors
    /// The system's error; `ESTALE` where they are not.
    pub fn check_unchanged(&self) -> Result<()> {
        let now = fs::fstat(&self.file).on(Side::Source)?;
        let key = |stat: &Stat| {
            (
                stat.st_size,
                stat.st_mtime,
                stat.st_mtime_nsec,
                stat.st_ctime,
                stat.st_ctime_nsec,
            )
        };
        if key(&now) != key(&self.stat) {
            return Err(Errno::STALE).on(Side::Source);
        }
        Ok(())
    }

    /// Whether the length is what it was. For a message that is enough: whatever else changes it
    /// does not authenticate, or is a rewrap, which readers need not mind.
    ///
    /// # Errors
    /// As [`Source::check_unchanged`].
    pub fn check_len(&self) -> Result<()> {
        if fs::fstat(&self.file).on(Side::Source)?.st_size != self.stat.st_size {
            return Err(Errno::STALE).on(Side::Source);
        }
        Ok(())
    }

    /// `ESTALE` in place of a failure to authenticate, where the file has been changed meanwhile.
    pub fn explain(&self, error: Error) -> Error {
        match error {
            Error::Decryption { .. } => self.check_unchanged().err().unwrap_or(error),
            other => other,
        }
    }

    /// Slots and prefix, and where they end.
    ///
    /// # Errors
    /// As [`Header::parse`]; the system's error.
    pub fn header(&self) -> Result<(Header, u64)> {
        let mut bytes = vec![0; FIRST_READ.max(ENVELOPE_FIXED_LEN)];
        loop {
            let count = read_at(&self.file, &mut bytes, 0).on(Side::Source)?;
            match Header::extent(&bytes[..count])? {
                Extent::AtLeast(needed) if count == bytes.len() && needed > count => {
                    bytes.resize(needed, 0);
                }
                _ => {
                    let (header, end) = Header::parse(&bytes[..count])?;
                    return Ok((header, end as u64));
                }
            }
        }
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A message in a file, opened.
pub struct Message {
    /// What opened it.
    pub opened: Opened,
    /// Where its chunks begin.
    pub start: u64,
    /// Bytes of its chunks.
    pub sealed: u64,
    /// Bytes of its plaintext, as its length says.
    pub plaintext: u64,
}

/// Opens the header of a file. Where nothing opens, the slots are read once more: a rewrap may
/// have been half way between two of them.
///
/// # Errors
/// As [`envelope::open_header`]; [`Error::Format`] for a length that no message has.
pub fn open_message(
    source: &Source,
    keys: &dyn KeySource,
    associated_data: &[u8],
) -> Result<Message> {
    let (mut header, start) = source.header()?;
    let sealed = source.len().saturating_sub(start);
    let plaintext = stream::plaintext_len(sealed)?;
    let engine = Engine::for_streams();
    let opened = match envelope::open_header(&header, keys, associated_data, engine) {
        Err(error @ (Error::Decryption { .. } | Error::KeyNotFound { .. })) => {
            let (again, end) = source.header()?;
            if again == header || end != start {
                return Err(error);
            }
            header = again;
            envelope::open_header(&header, keys, associated_data, engine)
        }
        other => other,
    }?;
    Ok(Message {
        opened,
        start,
        sealed,
        plaintext,
    })
}

fn require_regular(stat: &Stat) -> Result<()> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(Errno::ISDIR).on(Side::Source),
        other => Err(not_regular(other)),
    }
}

fn not_regular(file_type: FileType) -> Error {
    let name = match file_type {
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "no regular file",
    };
    Error::Invalid(format!("the source is {name}: only regular files are read"))
}
