//! macOS and other Unixes: private memory with `mlock`, not inherited by children.
//!
//! Never compiled or run on such a system by those who wrote it.

use std::io;
use std::ptr::NonNull;

use super::unix;
pub(super) use super::unix::{LOCK, lock, map_private, reserve, unmap};
pub(in crate::secret) use super::unix::{at_fork_in_child, lock_limit, page_size};

pub(super) fn map_secret(_: NonNull<u8>, _: usize) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Keeps private pages from children. macOS has no advice to keep pages out of core dumps, which
/// are off by default there.
#[cfg(target_os = "macos")]
pub(super) fn keep_private(start: NonNull<u8>, len: usize) -> [(&'static str, io::Result<()>); 1] {
    // <mach/vm_inherit.h>
    const VM_INHERIT_NONE: libc::c_int = 2;
    unsafe extern "C" {
        fn minherit(start: *mut libc::c_void, len: usize, inherit: libc::c_int) -> libc::c_int;
    }
    // SAFETY: pages of ours; what a child inherits changes no byte here.
    let fork = unix::done(unsafe { minherit(start.as_ptr().cast(), len, VM_INHERIT_NONE) });
    [("VM_INHERIT_NONE", fork)]
}

#[cfg(not(target_os = "macos"))]
pub(super) fn keep_private(_: NonNull<u8>, _: usize) -> [(&'static str, io::Result<()>); 1] {
    [("inheritance", Err(io::ErrorKind::Unsupported.into()))]
}

/// There is nothing like it: children are told by the fork handler and by the process id.
pub(super) fn wipe_on_fork(_: NonNull<u8>, _: usize) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn keep_out_of_dumps(_: NonNull<u8>, _: usize) {}

pub(super) fn close_hole(_: usize, _: usize) {}
