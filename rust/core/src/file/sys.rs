//! System calls, each tried again when a signal cuts it short, and their errors with the side on
//! which they happened.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use rustix::fs;
use rustix::io::{Errno, retry_on_intr};

use crate::error::{Error, Result};
use crate::parallel::Tick;

/// How long a wait for the disk goes on between two looks for signals.
const LOOK: Duration = Duration::from_millis(20);

/// Which of a call's two files an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The file that is read, or rewrapped in place.
    Source,
    /// The file that is written.
    Target,
}

/// What an [`Error::Os`] of this module holds.
#[derive(Debug)]
pub enum Trouble {
    /// A system call failed.
    Os(Side, Errno),
    /// Source and target are one file.
    SameFile,
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::Os(Side::Source, errno) => write!(f, "source: {errno}"),
            Trouble::Os(Side::Target, errno) => write!(f, "target: {errno}"),
            Trouble::SameFile => f.write_str("source and target are the same file"),
        }
    }
}

impl std::error::Error for Trouble {}

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Self {
        let kind = match trouble {
            Trouble::Os(_, errno) => errno.kind(),
            Trouble::SameFile => io::ErrorKind::InvalidInput,
        };
        Error::Os(io::Error::new(kind, trouble))
    }
}

impl Trouble {
    /// The trouble that an error is, where it is one.
    pub fn of(error: &Error) -> Option<&Trouble> {
        match error {
            Error::Os(error) => error.get_ref()?.downcast_ref(),
            _ => None,
        }
    }
}

/// A result of a system call as one of this module.
pub trait On<T> {
    /// Says on which side it was.
    fn on(self, side: Side) -> Result<T>;
}

impl<T> On<T> for rustix::io::Result<T> {
    fn on(self, side: Side) -> Result<T> {
        self.map_err(|errno| Trouble::Os(side, errno).into())
    }
}

/// The error number of a system call that failed here.
pub fn errno(error: &Error) -> Option<Errno> {
    match Trouble::of(error) {
        Some(Trouble::Os(_, errno)) => Some(*errno),
        _ => None,
    }
}

/// Reads until `buffer` is full or the file ends.
pub fn read_at(fd: impl AsFd, buffer: &mut [u8], offset: u64) -> rustix::io::Result<usize> {
    let fd = fd.as_fd();
    let mut done = 0;
    while done < buffer.len() {
        match retry_on_intr(|| rustix::io::pread(fd, &mut buffer[done..], offset + done as u64))? {
            0 => break,
            count => done += count,
        }
    }
    Ok(done)
}

/// Writes all of `bytes`.
pub fn write_at(fd: impl AsFd, mut bytes: &[u8], mut offset: u64) -> rustix::io::Result<()> {
    let fd = fd.as_fd();
    while !bytes.is_empty() {
        match retry_on_intr(|| rustix::io::pwrite(fd, bytes, offset))? {
            // POSIX allows no such answer to a write of some bytes; don't turn for ever.
            0 => return Err(Errno::IO),
            count => {
                bytes = &bytes[count..];
                offset += count as u64;
            }
        }
    }
    Ok(())
}

/// What is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// One file, or the names in one directory.
    One,
    /// All of the file system that the descriptor is on.
    FileSystem,
}

/// Waits until the disk has it. The wait is on another thread: the kernel lets no signal end it,
/// and the caller's tick does.
///
/// # Errors
/// The system's error; what `tick` returns.
pub fn sync(fd: impl AsFd, what: Sync, done: u64, tick: Tick<'_>) -> Result<()> {
    Syncer::new()?.sync(fd, what, done, tick)
}

/// The other thread, for several of them: to start one takes as long as a fast disk.
pub struct Syncer {
    ask: Sender<(OwnedFd, Sync)>,
    answer: Receiver<rustix::io::Result<()>>,
}

impl Syncer {
    /// Starts it; it ends with this value, or after the sync that nobody waits for any more.
    ///
    /// # Errors
    /// The system's error.
    pub fn new() -> Result<Self> {
        let (ask, asked) = mpsc::channel::<(OwnedFd, Sync)>();
        let (sender, answer) = mpsc::channel();
        std::thread::Builder::new()
            .name("strongroom-sync".into())
            .spawn(move || {
                while let Ok((fd, what)) = asked.recv() {
                    let synced = retry_on_intr(|| sync_now(&fd, what));
                    drop(fd);
                    if sender.send(synced).is_err() {
                        break;
                    }
                }
            })
            .map_err(Error::Os)?;
        Ok(Self { ask, answer })
    }

    /// As [`sync`]. Nothing is asked again after an interruption: the answer would be to what was
    /// asked before.
    ///
    /// # Errors
    /// The system's error; what `tick` returns.
    pub fn sync(&self, fd: impl AsFd, what: Sync, done: u64, tick: Tick<'_>) -> Result<()> {
        let fd = rustix::io::fcntl_dupfd_cloexec(fd, 0).on(Side::Target)?;
        self.ask
            .send((fd, what))
            .map_err(|_| Errno::IO)
            .on(Side::Target)?;
        await_answer(&self.answer, done, tick)
    }
}

/// Waits for what another thread sends, looking for signals.
///
/// # Errors
/// What it sends; what `tick` returns.
pub fn await_answer(
    answer: &Receiver<rustix::io::Result<()>>,
    done: u64,
    tick: Tick<'_>,
) -> Result<()> {
    loop {
        match answer.recv_timeout(LOOK) {
            Ok(result) => return result.on(Side::Target),
            Err(RecvTimeoutError::Timeout) => tick(done)?,
            Err(RecvTimeoutError::Disconnected) => return Err(Errno::IO).on(Side::Target),
        }
    }
}

#[cfg(target_os = "linux")]
fn sync_now(fd: &OwnedFd, what: Sync) -> rustix::io::Result<()> {
    match what {
        Sync::One => fs::fsync(fd),
        Sync::FileSystem => fs::syncfs(fd),
    }
}

#[cfg(not(target_os = "linux"))]
fn sync_now(fd: &OwnedFd, what: Sync) -> rustix::io::Result<()> {
    if what == Sync::FileSystem {
        fs::sync();
    }
    fs::fsync(fd)
}

/// Takes the exclusive lock of a file. While others hold it, looks for signals.
///
/// # Errors
/// The system's error; what `tick` returns.
pub fn lock_exclusive(fd: impl AsFd, tick: Tick<'_>) -> Result<()> {
    loop {
        match fs::flock(&fd, fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOOK / 2),
            Err(errno) => return Err(errno).on(Side::Source),
        }
        tick(0)?;
    }
}
