//! The lock of a log: flock on the file `LOG.lock`, which is never deleted. It is waited for only so
//! long, and whoever has waited in vain is told who has it.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock, major, minor};
use rustix::io::{Errno, retry_on_intr};

use super::paths::{beside, failed};
use crate::{Error, Result};

/// How long the lock is waited for where nobody says otherwise. Who has it reads or writes once; only
/// a log whose `.state` was lost is read from the beginning of its newest file under it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Between two tries: flock can wait for ever or not at all. They begin short, as what is waited for
/// most is one append.
const SHORTEST_PAUSE: Duration = Duration::from_micros(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(5);

/// Who else may have the lock at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Nobody: a writer.
    Exclusive,
    /// Other readers.
    Shared,
}

/// What is looked at while the lock is waited for.
pub type OnWait = Box<dyn FnMut() -> Result<()> + Send>;

/// How long the lock of a log is waited for.
pub struct Patience {
    /// The longest time.
    pub longest: Duration,
    /// Called now and then meanwhile; an error of it ends the wait.
    pub tick: OnWait,
    /// Since when the next call has been waiting already, for something else.
    since: Option<Instant>,
}

impl Patience {
    /// So long and no longer.
    #[must_use]
    pub fn new(longest: Duration, tick: OnWait) -> Self {
        Self {
            longest,
            tick,
            since: None,
        }
    }

    /// Counts from then on, at the next call.
    pub(super) fn waiting_since(&mut self, since: Instant) {
        self.since = Some(since);
    }

    /// Takes the lock of the log at `log`.
    pub(super) fn lock<'a>(&mut self, file: &'a File, log: &Path) -> Result<Locked<'a>> {
        let mut wait = Wait {
            since: self.since.take().unwrap_or_else(Instant::now),
            longest: self.longest,
            tick: &mut *self.tick,
        };
        Locked::wait(file, log, Sharing::Exclusive, &mut wait)
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self::new(PATIENCE, Box::new(|| Ok(())))
    }
}

/// A wait with an end.
pub struct Wait<'a> {
    /// Since when.
    pub since: Instant,
    /// How long.
    pub longest: Duration,
    /// Called between two tries; an error of it ends the wait.
    pub tick: &'a mut dyn FnMut() -> Result<()>,
}

/// The lock, for as long as this lives.
pub struct Locked<'a>(&'a File);

impl<'a> Locked<'a> {
    /// Takes the lock of the log at `log`, whose lock file `file` is.
    ///
    /// # Errors
    /// [`Error::Audit`] when the time is up, with the file and, where /proc tells, who holds it; what
    /// `tick` returns.
    pub fn wait(file: &'a File, log: &Path, sharing: Sharing, wait: &mut Wait<'_>) -> Result<Self> {
        let operation = match sharing {
            Sharing::Exclusive => FlockOperation::NonBlockingLockExclusive,
            Sharing::Shared => FlockOperation::NonBlockingLockShared,
        };
        let mut pause = SHORTEST_PAUSE;
        loop {
            match retry_on_intr(|| flock(file, operation)) {
                Ok(()) => return Ok(Self(file)),
                Err(Errno::WOULDBLOCK) => {}
                Err(error) => return Err(failed(&beside(log, ".lock"), "lock", &error.into())),
            }
            (wait.tick)()?;
            let left = wait.longest.saturating_sub(wait.since.elapsed());
            if left.is_zero() {
                return Err(given_up(file, log, wait.longest));
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // It is given up with the descriptor at the latest.
        let _ = flock(self.0, FlockOperation::Unlock);
    }
}

fn given_up(file: &File, log: &Path, longest: Duration) -> Error {
    let who = match holders(file).as_slice() {
        [] => "another process has it (/proc does not tell which)".to_owned(),
        all => {
            let named: Vec<_> = all.iter().map(|&pid| named(pid)).collect();
            format!("{} has it", named.join(" and "))
        }
    };
    Error::Audit(format!(
        "can't lock {} within {} s: {who}; end that process or let it finish, and try again",
        beside(log, ".lock").display(),
        longest.as_secs_f64(),
    ))
}

fn named(pid: u32) -> String {
    if pid == std::process::id() {
        return format!("this process itself ({pid})");
    }
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("process {pid} ({})", name.trim_end().escape_debug()),
        Err(_) => format!("process {pid}"),
    }
}

/// Who took the lock, as far as /proc tells: `NR: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE 0 EOF`.
fn holders(file: &File) -> Vec<u32> {
    let (Ok(there), Ok(text)) = (file.metadata(), fs::read_to_string("/proc/locks")) else {
        return Vec::new();
    };
    let (device, inode) = (there.dev(), there.ino());
    let shown = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    let number = format!(":{inode}");
    let mut found: Vec<u32> = text
        .lines()
        .filter_map(|line| {
            // Who waits has an arrow in the second place.
            let fields: Vec<_> = line.split_whitespace().collect();
            let [_, "FLOCK", _, _, pid, place, ..] = fields[..] else {
                return None;
            };
            let pid = pid.parse().ok()?;
            // Some file systems show another device here than stat does: there a look at what the
            // process has open decides.
            let is_this =
                place == shown || (place.ends_with(&number) && has_open(pid, (device, inode)));
            is_this.then_some(pid)
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn has_open(pid: u32, id: (u64, u64)) -> bool {
    fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|all| {
        all.flatten()
            .filter_map(|entry| fs::metadata(entry.path()).ok())
            .any(|there| (there.dev(), there.ino()) == id)
    })
}
