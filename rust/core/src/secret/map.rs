//! Pages for secrets, between guard pages, in the best kind of memory that the system gives.
//!
//! | | `memfd_secret` | `mlock` |
//! |---|---|---|
//! | swapped | never | never, if locking worked |
//! | read by other processes, `/proc/PID/mem`, debuggers | no, the kernel neither | with ptrace rights |
//! | in core dumps | no | no (`MADV_DONTDUMP`) |
//! | in a forked child | not mapped (`MADV_DONTFORK`) | zeros (`MADV_WIPEONFORK`) |
//!
//! A shared mapping, such as that of a memfd, can't be wiped on fork: the kernel says EINVAL.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::scrub;
use super::status::{self, Backend, Policy};
use crate::error::Error;

mod hole;
#[cfg(target_os = "linux")]
#[path = "map/linux.rs"]
mod system;
#[cfg(all(unix, not(target_os = "linux")))]
#[path = "map/macos.rs"]
mod system;
#[cfg(windows)]
#[path = "map/windows.rs"]
mod system;
#[cfg(unix)]
mod unix;

pub(super) use system::{at_fork_in_child, lock_limit, page_size};

/// Writable zeroed pages with an inaccessible page at either end.
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
    backend: Backend,
    hole: Option<&'static hole::Hole>,
}

// SAFETY: a mapping is memory that belongs to its owner alone, whichever thread that is on.
unsafe impl Send for Mapping {}
// SAFETY: `&Mapping` gives out numbers only.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Pages for at least `len` bytes, more than 0.
    ///
    /// Where they can't be locked, the result is memory that isn't if `policy` is to warn. What
    /// failed on the way is added to `failures`.
    ///
    /// # Errors
    ///
    /// `Error::Memory` when no memory is to be had or, under the strict policy, locked.
    pub(super) fn new(
        len: usize,
        policy: Policy,
        failures: &mut Vec<String>,
    ) -> Result<Self, Error> {
        let page = page_size();
        let refused =
            |error: io::Error| Error::Memory(format!("no memory of {len} bytes: {error}"));
        let whole = len
            .checked_next_multiple_of(page)
            .filter(|&whole| whole < isize::MAX as usize - 2 * page)
            .ok_or_else(|| refused(io::ErrorKind::OutOfMemory.into()))?;
        let mut backend = status::wanted_backend()?;
        let mapping = Self::reserve(whole).map_err(refused)?;
        if backend == Backend::MemfdSecret {
            match system::map_secret(mapping.start, whole) {
                Ok(()) => return Ok(mapping.ready(backend)),
                Err(error) => failures.push(format!("memfd_secret: {error}")),
            }
            backend = Backend::Mlock;
        }
        system::map_private(mapping.start, whole).map_err(refused)?;
        for (what, result) in system::keep_private(mapping.start, whole) {
            if let Err(error) = result {
                failures.push(format!("{what}: {error}"));
            }
        }
        if let Err(error) = system::lock(mapping.start, whole) {
            let failure = format!("{}: {error}", system::LOCK);
            if policy == Policy::Strict {
                let text = status::how_to_lock(&failure);
                failures.push(failure);
                return Err(Error::Memory(text));
            }
            failures.push(failure);
            backend = Backend::Unlocked;
        }
        Ok(mapping.ready(backend))
    }

    fn reserve(len: usize) -> io::Result<Self> {
        let page = page_size();
        let outer = system::reserve(len + 2 * page)?;
        // SAFETY: inside the reservation, which is `len` and two pages long.
        let start = unsafe { outer.add(page) };
        Ok(Self {
            start,
            len,
            backend: Backend::None,
            hole: None,
        })
    }

    fn ready(mut self, backend: Backend) -> Self {
        self.backend = backend;
        if backend == Backend::MemfdSecret {
            self.hole = Some(hole::add(self.start, self.len));
        }
        status::mapped(backend, self.len);
        self
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Usable bytes: whole pages.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_locked(&self) -> bool {
        matches!(self.backend, Backend::MemfdSecret | Backend::Mlock)
    }
}

impl Drop for Mapping {
    /// Zeroes and unmaps. Never runs in a child of the process that mapped it: the owner sees to it.
    fn drop(&mut self) {
        let page = page_size();
        if self.backend != Backend::None {
            // SAFETY: writable pages of this mapping, which nobody uses any more.
            unsafe { scrub::zero(self.start.as_ptr(), self.len) };
            status::unmapped(self.backend, self.len);
        }
        if let Some(hole) = self.hole {
            // Before the pages go: a fork in between must not close a hole that others have filled.
            hole::remove(hole);
        }
        // SAFETY: the reservation began a page before `start`.
        let outer = unsafe { self.start.sub(page) };
        system::unmap(outer, self.len + 2 * page);
    }
}

/// Whether pages can't be wiped on fork, so that a child is known by its process id alone.
#[inline]
pub(super) fn fork_is_seen_by_pid_alone() -> bool {
    BY_PID.load(Ordering::Relaxed)
}

/// Whether the process id is another than at the last call.
pub(super) fn process_changed() -> bool {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let id = std::process::id();
    LAST.swap(id, Ordering::AcqRel) != id
}

static BY_PID: AtomicBool = AtomicBool::new(false);

/// A page of zeros that a forked child finds zeroed, kept for ever. It is locked where that works,
/// and left out of core dumps.
pub(super) fn wipe_on_fork_page() -> io::Result<NonNull<u8>> {
    let len = page_size();
    let start = system::reserve(len)?;
    system::map_private(start, len)?;
    if system::wipe_on_fork(start, len).is_err() {
        BY_PID.store(true, Ordering::Release);
    }
    // A page that is not locked holds random bytes that become public, and a number.
    let _ = system::lock(start, len);
    system::keep_out_of_dumps(start, len);
    Ok(start)
}
