//! Memory for secrets: locked, left out of core dumps, not inherited by a fork, zeroed when freed.
//!
//! Everything in the library that is or contains a key lives here. One arena a process hands out
//! slots in pages of `memfd_secret(2)` where the kernel has it, and of `mlock`ed private memory
//! elsewhere (see `map`):
//!
//! ```text
//!  guard | block of one size class                        | block ...      | guard
//!  ----- | secret,canary | secret,canary | zeros (free) ... | secret, canary | -----
//! ```
//!
//! A secret that is too large for a shared block has pages of its own and ends at the guard page:
//!
//! ```text
//!  guard | canary          | secret | guard
//! ```
//!
//! A handle remembers the generation (`generation`) of the process that made it, and refuses to
//! touch its memory in any other: pages of `memfd_secret` are not mapped in a forked child.
//!
//! All `unsafe` code of this crate is in this module.

mod arena;
mod bytes;
mod map;
mod page;
mod process;
mod scrub;
mod slab;
mod status;

use std::fmt;
use std::marker::PhantomData;
use std::mem;

use arena::Allocation;

use crate::error::Error;

pub use bytes::{SecretBytes, SharedBytes};
pub use page::NoncePage;
pub use process::{ForkLocal, generation};
pub use scrub::{scrubbed, scrubbed_shallow};
pub use status::{MemoryStatus, Policy, set_policy, status, take_warning};

/// One value of `T` in the arena; dropped in place, then its memory is zeroed.
///
/// `T` must not own memory elsewhere that holds the secret (no `Vec`, no `Box`): only its own bytes
/// are protected. It is neither `Clone` nor printable.
pub struct Secret<T> {
    allocation: Allocation,
    marker: PhantomData<T>,
}

// SAFETY: a `Secret` owns its `T` as a `Box` does; the arena behind it is behind a mutex.
unsafe impl<T: Send> Send for Secret<T> {}
// SAFETY: a shared `Secret` gives out `&T` alone.
unsafe impl<T: Sync> Sync for Secret<T> {}

impl<T> Secret<T> {
    /// Moves `value` into the arena. A copy of it may stay on the caller's stack: see [`scrubbed`].
    ///
    /// # Errors
    ///
    /// `Error::Memory` when no memory is to be had or, under the strict policy, locked.
    pub fn new(value: T) -> Result<Self, Error> {
        Self::make(move || value)
    }

    /// Runs `make` and keeps its result, which the compiler builds in the arena where it can.
    /// Copies may stay on the stack: see [`scrubbed`].
    ///
    /// # Errors
    ///
    /// As for [`Secret::new`]; `make` has not run then.
    pub fn make(make: impl FnOnce() -> T) -> Result<Self, Error> {
        let allocation = Allocation::new(mem::size_of::<T>(), mem::align_of::<T>())?;
        // SAFETY: the allocation is fresh, of T's size and alignment, and nobody else's.
        unsafe { allocation.as_ptr().cast::<T>().write(make()) };
        Ok(Self {
            allocation,
            marker: PhantomData,
        })
    }

    /// The value.
    ///
    /// # Errors
    ///
    /// `Error::Forked` in a child of the process that made it; its memory is not touched.
    #[inline]
    pub fn expose(&self) -> Result<&T, Error> {
        if self.allocation.is_foreign() {
            return Err(Error::Forked);
        }
        // SAFETY: made in this process, so it is mapped; it has held a T since construction, which
        // is lent out for as long as `self` is.
        Ok(unsafe { &*self.allocation.as_ptr().cast::<T>() })
    }

    /// Whether its pages are locked into RAM.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.allocation.is_locked()
    }
}

impl<const N: usize> Secret<[u8; N]> {
    /// `N` bytes from the operating system, straight into the arena.
    ///
    /// # Errors
    ///
    /// As for [`Secret::new`]; `Error::Os` when the system has no randomness to give.
    pub fn generate() -> Result<Self, Error> {
        Self::try_new_with(|slot| crate::random::fill(slot))
    }

    /// A copy of `bytes`, which stay the caller's to wipe.
    ///
    /// # Errors
    ///
    /// As for [`Secret::new`].
    pub fn copy_from(bytes: &[u8; N]) -> Result<Self, Error> {
        Self::new_with(|slot| slot.copy_from_slice(bytes))
    }

    /// `N` zero bytes in the arena, filled by `fill`.
    ///
    /// # Errors
    ///
    /// As for [`Secret::new`]; `fill` has not run then.
    pub fn new_with(fill: impl FnOnce(&mut [u8; N])) -> Result<Self, Error> {
        Self::try_new_with(|slot| {
            fill(slot);
            Ok(())
        })
    }

    /// As [`Secret::new_with`], for a `fill` that can fail.
    ///
    /// # Errors
    ///
    /// As for [`Secret::new`], and those of `fill`: what it had written is zeroed.
    pub fn try_new_with(
        fill: impl FnOnce(&mut [u8; N]) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let allocation = Allocation::new(N, 1)?;
        // SAFETY: the allocation is fresh, N zero bytes, and nobody else's.
        fill(unsafe { &mut *allocation.as_ptr().cast::<[u8; N]>() })?;
        Ok(Self {
            allocation,
            marker: PhantomData,
        })
    }
}

impl<T> Drop for Secret<T> {
    fn drop(&mut self) {
        if mem::needs_drop::<T>() && !self.allocation.is_foreign() {
            // SAFETY: it holds a T, which is not used after this; the allocation, which is zeroed
            // and freed next, is mapped since it is of this process.
            unsafe { self.allocation.as_ptr().cast::<T>().drop_in_place() };
        }
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
