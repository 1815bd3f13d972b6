//! The disk at work while a long file is written.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, PoisonError};

use rustix::fs;
use rustix::io::retry_on_intr;

use super::sys::await_answer;
use crate::error::Result;
use crate::parallel::Tick;
use crate::params::FILE_FLUSH_STEP;

/// A thread that syncs what was written so far, again and again, so that little is left for the
/// sync at the end.
pub struct Flusher {
    written: AtomicU64,
    next: AtomicU64,
    wake: Sender<()>,
    // A lock only for the sake of sharing the struct: one thread ever takes it, in the end.
    answer: Mutex<Receiver<rustix::io::Result<()>>>,
}

impl Flusher {
    /// None without a thread: then the sync at the end does it all.
    pub fn new(fd: impl AsFd) -> Option<Self> {
        let fd = rustix::io::fcntl_dupfd_cloexec(fd, 0).ok()?;
        let (wake, woken) = mpsc::channel();
        let (sender, answer) = mpsc::channel();
        let work = move || {
            let mut result = Ok(());
            while result.is_ok() && woken.recv().is_ok() {
                result = retry_on_intr(|| fs::fdatasync(&fd));
            }
            let _ = sender.send(result);
        };
        std::thread::Builder::new()
            .name("strongroom-flush".into())
            .spawn(work)
            .ok()?;
        let next = AtomicU64::new(FILE_FLUSH_STEP);
        Some(Self {
            written: AtomicU64::new(0),
            next,
            wake,
            answer: Mutex::new(answer),
        })
    }

    /// So many more bytes were written.
    pub fn wrote(&self, count: u64) {
        let written = self.written.fetch_add(count, Ordering::Relaxed) + count;
        let next = self.next.load(Ordering::Relaxed);
        let reached = written >= next
            && self
                .next
                .compare_exchange(
                    next,
                    written + FILE_FLUSH_STEP,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_ok();
        if reached {
            let _ = self.wake.send(());
        }
    }

    /// Ends the thread.
    ///
    /// # Errors
    /// What went wrong on the disk so far: the kernel tells it once, and the sync at the end would
    /// not hear of it. What `tick` returns.
    pub fn finish(self, done: u64, tick: Tick<'_>) -> Result<()> {
        drop(self.wake);
        let answer = self
            .answer
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        await_answer(&answer, done, tick)
    }
}
