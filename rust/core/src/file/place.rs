//! A name in an open directory.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use super::sys::{On, Side};
use crate::error::{Error, Result};

/// A name in a directory that is held open: what happens to the directory's own name meanwhile
/// changes nothing.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The directory.
    pub dir: BorrowedFd<'a>,
    /// One component of a path, no slash in it.
    pub name: &'a CStr,
}

/// The directory of a path, opened, and the last name of the path.
#[derive(Debug)]
pub struct Located {
    dir: OwnedFd,
    name: CString,
}

impl Located {
    /// Opens the directory that `path` stands in. Symbolic links on the way there are followed.
    ///
    /// # Errors
    /// The system's error; `EISDIR` for a path that can only be a directory; [`Error::Invalid`]
    /// for a zero byte.
    pub fn new(path: &Path, side: Side) -> Result<Self> {
        let bytes = path.as_os_str().as_bytes();
        let at = bytes
            .iter()
            .rposition(|&byte| byte == b'/')
            .map_or(0, |at| at + 1);
        let (parent, name) = bytes.split_at(at);
        if matches!(name, b"" | b"." | b"..") {
            // Whether it is there decides which error is the true one.
            fs::statat(fs::CWD, path, AtFlags::empty()).on(side)?;
            return Err(Errno::ISDIR).on(side);
        }
        let name = CString::new(name)
            .map_err(|_| Error::Invalid("a path can't have a zero byte in it".into()))?;
        let parent = if parent.is_empty() { b"." } else { parent };
        Ok(Self {
            dir: open_dir(parent, side)?,
            name,
        })
    }

    /// The place, borrowed.
    pub fn place(&self) -> Place<'_> {
        Place {
            dir: self.dir.as_fd(),
            name: &self.name,
        }
    }

    /// Directory and name.
    pub fn into_parts(self) -> (OwnedFd, CString) {
        (self.dir, self.name)
    }
}

fn open_dir(path: &[u8], side: Side) -> Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |more| retry_on_intr(|| fs::openat(fs::CWD, path, flags | more, Mode::empty()));
    match open(OFlags::RDONLY) {
        // A directory may let pass without letting its names be listed.
        #[cfg(target_os = "linux")]
        Err(Errno::ACCESS) => open(OFlags::PATH),
        other => other,
    }
    .on(side)
}
