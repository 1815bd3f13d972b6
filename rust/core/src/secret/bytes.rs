//! Secrets of a length known only when the program runs.

use std::fmt;
use std::slice;
use std::sync::{Mutex, PoisonError};

use super::arena::Allocation;
use super::scrub;
use crate::error::Error;

/// The longest secret, 1 GiB: all of it is taken from RAM at once, and for good while it lives.
const LEN_MAX: usize = 1 << 30;

/// A fixed number of bytes in the arena; zeroed when dropped. Neither `Clone` nor printable.
pub struct SecretBytes {
    allocation: Allocation,
}

impl SecretBytes {
    /// `len` zero bytes, at least 1.
    ///
    /// # Errors
    ///
    /// `Error::Invalid` for 0; `Error::Limit` above 1 GiB; `Error::Memory` when no memory is to be had or, under the strict
    /// policy, locked.
    pub fn new(len: usize) -> Result<Self, Error> {
        if len == 0 {
            return Err(Error::Invalid("a secret has at least 1 byte".into()));
        }
        if len > LEN_MAX {
            return Err(Error::Limit(format!(
                "a secret has at most {LEN_MAX} bytes, not {len}"
            )));
        }
        Ok(Self {
            allocation: Allocation::new(len, 1)?,
        })
    }

    /// A copy of `bytes`, which stay the caller's to wipe.
    ///
    /// # Errors
    ///
    /// As for [`SecretBytes::new`].
    pub fn copy_from(bytes: &[u8]) -> Result<Self, Error> {
        let mut secret = Self::new(bytes.len())?;
        secret.expose_mut()?.copy_from_slice(bytes);
        Ok(secret)
    }

    /// The bytes.
    ///
    /// # Errors
    ///
    /// `Error::Forked` in a child of the process that made them.
    pub fn expose(&self) -> Result<&[u8], Error> {
        self.check()?;
        // SAFETY: made in this process, so it is mapped, and lent out as long as `self` is.
        Ok(unsafe { slice::from_raw_parts(self.allocation.as_ptr(), self.allocation.len()) })
    }

    /// The bytes, to be written.
    ///
    /// # Errors
    ///
    /// As for [`SecretBytes::expose`].
    pub fn expose_mut(&mut self) -> Result<&mut [u8], Error> {
        self.check()?;
        // SAFETY: as in `expose`, and nobody else has it while `self` is borrowed mutably.
        Ok(unsafe { slice::from_raw_parts_mut(self.allocation.as_ptr(), self.allocation.len()) })
    }

    /// The number of bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.allocation.len()
    }

    /// Whether its pages are locked into RAM.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.allocation.is_locked()
    }

    fn check(&self) -> Result<(), Error> {
        if self.allocation.is_foreign() {
            Err(Error::Forked)
        } else {
            Ok(())
        }
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(..)")
    }
}

/// Bytes in the arena that are read and written by copying, from any thread, whole: a reader sees
/// a write of another thread entirely or not at all.
///
/// Its address can be lent to code that isn't Rust, such as a view that Python holds, which then
/// reads and writes past the lock; hence no method here lends out a reference.
pub struct SharedBytes {
    allocation: Allocation,
    lock: Mutex<()>,
}

impl SharedBytes {
    /// `len` zero bytes, at least 1.
    ///
    /// # Errors
    ///
    /// As for [`SecretBytes::new`].
    pub fn new(len: usize) -> Result<Self, Error> {
        let bytes = SecretBytes::new(len)?;
        Ok(Self {
            allocation: bytes.allocation,
            lock: Mutex::new(()),
        })
    }

    /// Copies `data` to `offset`.
    ///
    /// # Errors
    ///
    /// `Error::Invalid` where it would pass the end, and nothing is written; `Error::Forked` in a
    /// child of the process that made the bytes.
    pub fn write(&self, offset: usize, data: &[u8]) -> Result<(), Error> {
        self.check(offset, data.len())?;
        self.locked(|start| {
            // SAFETY: the range was checked; `data` may be a view of these very bytes.
            unsafe { start.add(offset).copy_from(data.as_ptr(), data.len()) };
        });
        Ok(())
    }

    /// Copies from `offset` to the whole of `out`.
    ///
    /// # Errors
    ///
    /// As for [`SharedBytes::write`].
    pub fn read(&self, offset: usize, out: &mut [u8]) -> Result<(), Error> {
        self.check(offset, out.len())?;
        self.locked(|start| {
            // SAFETY: the range was checked; `out` may be a view of these very bytes.
            unsafe { start.add(offset).copy_to(out.as_mut_ptr(), out.len()) };
        });
        Ok(())
    }

    /// Zeroes all of it. In a forked child, where there is nothing left to zero, it does nothing.
    pub fn wipe(&self) {
        if !self.allocation.is_foreign() {
            let len = self.allocation.len();
            self.locked(|start| {
                // SAFETY: the whole allocation, of which there are no references.
                unsafe { scrub::zero(start, len) };
            });
        }
    }

    /// The address, good as long as `self` lives.
    ///
    /// # Errors
    ///
    /// `Error::Forked` in a child of the process that made the bytes.
    pub fn as_ptr(&self) -> Result<*mut u8, Error> {
        self.check(0, 0)?;
        Ok(self.allocation.as_ptr())
    }

    /// The number of bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.allocation.len()
    }

    /// Whether its pages are locked into RAM.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.allocation.is_locked()
    }

    /// Whether `len` bytes at `offset` are inside, and this is the process that made them.
    ///
    /// # Errors
    ///
    /// As for [`SharedBytes::write`].
    pub fn check(&self, offset: usize, len: usize) -> Result<(), Error> {
        if self.allocation.is_foreign() {
            return Err(Error::Forked);
        }
        match offset.checked_add(len) {
            Some(end) if end <= self.allocation.len() => Ok(()),
            _ => Err(Error::Invalid(format!(
                "{len} bytes at offset {offset} pass the end of a buffer of {} bytes",
                self.allocation.len()
            ))),
        }
    }

    fn locked(&self, work: impl FnOnce(*mut u8)) {
        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        work(self.allocation.as_ptr());
    }
}

impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedBytes(..)")
    }
}
