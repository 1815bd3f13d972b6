//! What Linux and the other Unixes do in the same way.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The call that locks pages, as it is named to users.
pub(super) const LOCK: &str = "mlock";

/// Bytes a page.
pub(in crate::secret) fn page_size() -> usize {
    static SIZE: AtomicUsize = AtomicUsize::new(0);
    let known = SIZE.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    // SAFETY: asks for a number.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let size = usize::try_from(size).unwrap_or(4096).max(4096);
    SIZE.store(size, Ordering::Relaxed);
    size
}

/// Inaccessible address space.
pub(super) fn reserve(len: usize) -> io::Result<NonNull<u8>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice touches no other.
    let start = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
    mapped(start)
}

/// Private writable pages over a part of a reservation.
pub(super) fn map_private(start: NonNull<u8>, len: usize) -> io::Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_FIXED;
    // SAFETY: replaces pages of a reservation of ours, which nobody uses yet.
    let got = unsafe {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        libc::mmap(start.as_ptr().cast(), len, access, flags, -1, 0)
    };
    mapped(got).map(drop)
}

pub(super) fn lock(start: NonNull<u8>, len: usize) -> io::Result<()> {
    // SAFETY: pages of ours; locking changes no byte.
    done(unsafe { libc::mlock(start.as_ptr().cast(), len) })
}

pub(super) fn unmap(start: NonNull<u8>, len: usize) {
    // SAFETY: a whole reservation of ours, which nobody uses any more.
    let result = unsafe { libc::munmap(start.as_ptr().cast(), len) };
    debug_assert_eq!(result, 0);
}

/// Has `run` called in every child right after `fork`.
pub(in crate::secret) fn at_fork_in_child(run: extern "C" fn()) {
    // SAFETY: `run` is async-signal-safe, as its callers say, and is never unloaded. Where the
    // registration fails, the wiped page still tells a child.
    unsafe { libc::pthread_atfork(None, None, Some(run)) };
}

/// How many bytes the process may lock, or None: no limit.
pub(in crate::secret) fn lock_limit() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: fills the structure that it is given.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    (result == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

pub(super) fn mapped(start: *mut libc::c_void) -> io::Result<NonNull<u8>> {
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(start.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

pub(super) fn done(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
