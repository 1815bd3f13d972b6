//! Windows: `VirtualAlloc` and `VirtualLock`. There is no fork; crash dumps of the whole memory
//! (`MiniDumpWithFullMemory`) hold these pages.
//!
//! Never compiled or run on such a system by those who wrote it.

use std::ffi::c_void;
use std::io;
use std::ptr::{self, NonNull};

/// The call that locks pages, as it is named to users.
pub(super) const LOCK: &str = "VirtualLock";

const MEM_COMMIT: u32 = 0x1000;
const MEM_RESERVE: u32 = 0x2000;
const MEM_RELEASE: u32 = 0x8000;
const PAGE_NOACCESS: u32 = 0x01;
const PAGE_READWRITE: u32 = 0x04;

#[link(name = "kernel32")]
unsafe extern "system" {
    fn VirtualAlloc(at: *mut c_void, len: usize, kind: u32, protect: u32) -> *mut c_void;
    fn VirtualLock(at: *mut c_void, len: usize) -> i32;
    fn VirtualFree(at: *mut c_void, len: usize, kind: u32) -> i32;
}

/// Bytes a page, on every Windows there is for x86-64 and ARM64.
pub(in crate::secret) fn page_size() -> usize {
    4096
}

pub(super) fn reserve(len: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a new reservation at an address of the system's choice touches no other.
    let start = unsafe { VirtualAlloc(ptr::null_mut(), len, MEM_RESERVE, PAGE_NOACCESS) };
    NonNull::new(start.cast()).ok_or_else(io::Error::last_os_error)
}

pub(super) fn map_private(start: NonNull<u8>, len: usize) -> io::Result<()> {
    // SAFETY: pages of a reservation of ours.
    let got = unsafe { VirtualAlloc(start.as_ptr().cast(), len, MEM_COMMIT, PAGE_READWRITE) };
    if got.is_null() {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

pub(super) fn lock(start: NonNull<u8>, len: usize) -> io::Result<()> {
    // SAFETY: committed pages of ours.
    let result = unsafe { VirtualLock(start.as_ptr().cast(), len) };
    if result == 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

pub(super) fn unmap(start: NonNull<u8>, _: usize) {
    // SAFETY: the start of a reservation of ours, which nobody uses any more. Length 0: all of it.
    let result = unsafe { VirtualFree(start.as_ptr().cast(), 0, MEM_RELEASE) };
    debug_assert_ne!(result, 0);
}

pub(super) fn map_secret(_: NonNull<u8>, _: usize) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn keep_private(_: NonNull<u8>, _: usize) -> [(&'static str, io::Result<()>); 0] {
    []
}

/// Without fork every page does that.
pub(super) fn wipe_on_fork(_: NonNull<u8>, _: usize) -> io::Result<()> {
    Ok(())
}

pub(super) fn keep_out_of_dumps(_: NonNull<u8>, _: usize) {}

pub(super) fn close_hole(_: usize, _: usize) {}

pub(in crate::secret) fn at_fork_in_child(_: extern "C" fn()) {}

/// The working set's minimum, less some pages: Windows has no other limit, and no way to ask.
pub(in crate::secret) fn lock_limit() -> Option<u64> {
    None
}
