//! Linux: `memfd_secret(2)` from 5.14 on, else private memory with `mlock` and `madvise`.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr::NonNull;

use super::unix;
pub(super) use super::unix::{LOCK, lock, map_private, reserve, unmap};
pub(in crate::secret) use super::unix::{at_fork_in_child, lock_limit, page_size};

/// Pages that the kernel takes out of its own map of memory, over a part of a reservation. They
/// count as locked.
pub(super) fn map_secret(start: NonNull<u8>, len: usize) -> io::Result<()> {
    let file = memfd_secret()?;
    file.set_len(len as u64)?;
    let flags = libc::MAP_SHARED | libc::MAP_FIXED;
    // SAFETY: replaces pages of a reservation of ours, which nobody uses yet.
    let got = unsafe {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        libc::mmap(
            start.as_ptr().cast(),
            len,
            access,
            flags,
            file.as_raw_fd(),
            0,
        )
    };
    unix::mapped(got)?;
    // Shared with children otherwise, who would change the parent's secrets by freeing theirs.
    advise(start, len, libc::MADV_DONTFORK)?;
    keep_out_of_dumps(start, len);
    for offset in (0..len).step_by(page_size()) {
        // The kernel gives the page now rather than at some later write.
        // SAFETY: inside the pages just mapped.
        unsafe { start.add(offset).write_volatile(0) };
    }
    Ok(())
}

/// Keeps private pages from core dumps and from children; what failed is for `status`.
pub(super) fn keep_private(start: NonNull<u8>, len: usize) -> [(&'static str, io::Result<()>); 2] {
    let dump = advise(start, len, libc::MADV_DONTDUMP);
    let mut fork = wipe_on_fork(start, len);
    if fork.is_err() {
        // Not there at all is as good as zeros, for memory that only its handles use.
        fork = advise(start, len, libc::MADV_DONTFORK);
    }
    [("MADV_DONTDUMP", dump), ("MADV_WIPEONFORK", fork)]
}

pub(super) fn wipe_on_fork(start: NonNull<u8>, len: usize) -> io::Result<()> {
    advise(start, len, libc::MADV_WIPEONFORK)
}

pub(super) fn keep_out_of_dumps(start: NonNull<u8>, len: usize) {
    let _ = advise(start, len, libc::MADV_DONTDUMP);
}

/// Makes a range that a fork left unmapped inaccessible, if nothing is there yet.
pub(super) fn close_hole(start: usize, len: usize) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_NORESERVE;
    // SAFETY: with NOREPLACE it changes no mapping that is there; a kernel too old to know the
    // flag maps elsewhere, which does no harm.
    unsafe {
        let at = std::ptr::without_provenance_mut(start);
        libc::mmap(
            at,
            len,
            libc::PROT_NONE,
            flags | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        )
    };
}

fn advise(start: NonNull<u8>, len: usize, advice: libc::c_int) -> io::Result<()> {
    // SAFETY: pages of ours, and advice that changes no byte in this process.
    unix::done(unsafe { libc::madvise(start.as_ptr().cast(), len, advice) })
}

#[cfg(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
))]
fn memfd_secret() -> io::Result<File> {
    // SAFETY: takes flags only.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a file descriptor that the kernel has just given us.
    Ok(unsafe { File::from_raw_fd(fd as libc::c_int) })
}

#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
)))]
fn memfd_secret() -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}
