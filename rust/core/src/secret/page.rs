//! A page of random bytes that are given out once: wiped in a child by the kernel, together with
//! the count of those left and the lock.

use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use super::map;
use super::scrub;
use crate::error::Error;

/// The page is 4 KiB on most systems; what a larger one has besides stays unused.
const POOL_LEN: usize = 4096 - 16;
/// A pause of some tens of nanoseconds each: longer than a take, shorter than a refill.
const SPINS: usize = 64;

#[repr(C)]
struct Pool {
    /// 1 while a thread is inside; 0 in a child, whatever the parent's threads were doing.
    lock: AtomicU32,
    /// Items left; 0 in a child.
    left: AtomicU32,
    unused: [u32; 2],
    bytes: [u8; POOL_LEN],
}

/// Random items of `N` bytes from a buffer of at most 4 KiB, each given out once and erased then.
///
/// Where pages can't be wiped on fork it holds nothing and gives nothing.
pub struct NoncePage<const N: usize> {
    pool: AtomicPtr<Pool>,
}

impl<const N: usize> NoncePage<N> {
    const ITEMS: usize = POOL_LEN / N;

    /// An empty page, taken from the system at first use.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "for statics only")]
    pub const fn new() -> Self {
        Self {
            pool: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Writes an item each to `out` and returns how many of them it wrote: fewer when other threads
    /// are busy with the page or a refill failed, and none when it can't be used at all.
    ///
    /// # Errors
    ///
    /// Those of `fill`, which is asked for random bytes when the page is empty.
    pub fn take(
        &self,
        out: &mut [[u8; N]],
        fill: impl Fn(&mut [u8]) -> Result<(), Error>,
    ) -> Result<usize, Error> {
        let Some(pool) = self.pool() else {
            return Ok(0);
        };
        // SAFETY: made by `pool`, never unmapped. Of its fields, `lock` and `left` are atomic and
        // the rest is touched by the holder of the lock alone.
        let (lock, left_cell) = unsafe { (&(*pool.as_ptr()).lock, &(*pool.as_ptr()).left) };
        if !acquire(lock) {
            return Ok(0);
        }
        // SAFETY: an address inside the page.
        let bytes = unsafe { &raw mut (*pool.as_ptr()).bytes }.cast::<u8>();
        for (taken, item) in out.iter_mut().enumerate() {
            let mut left = left_cell.load(Ordering::Relaxed) as usize;
            if left == 0 {
                // SAFETY: the lock is held, so nobody else has these bytes.
                let all = unsafe { std::slice::from_raw_parts_mut(bytes, Self::ITEMS * N) };
                if let Err(error) = fill(all) {
                    lock.store(0, Ordering::Release);
                    return if taken > 0 { Ok(taken) } else { Err(error) };
                }
                left = Self::ITEMS;
            }
            left -= 1;
            left_cell.store(left as u32, Ordering::Relaxed);
            // SAFETY: `left` is below ITEMS, so that it is inside `bytes`; the lock is held.
            unsafe {
                let place = bytes.add(left * N);
                place.copy_to_nonoverlapping(item.as_mut_ptr(), N);
                scrub::zero(place, N);
            }
        }
        // A fork by a signal handler of this very thread wipes the page in the child while this
        // function goes on in both: then the lock is found open, and nothing that was taken counts.
        // (Nobody else opens it, so that a load and a store do.)
        if lock.load(Ordering::Relaxed) != 1 {
            // What this function wrote after the page was wiped says that more is left, and a
            // child that was forked during `fill` may hold what its parent holds.
            left_cell.store(0, Ordering::Relaxed);
            return Ok(0);
        }
        lock.store(0, Ordering::Release);
        Ok(out.len())
    }

    /// Erases what is left, so that the next item comes from fresh randomness.
    pub fn clear(&self) {
        let pool = self.pool.load(Ordering::Acquire);
        let Some(pool) = NonNull::new(pool) else {
            return;
        };
        // SAFETY: as in `take`.
        let (lock, left) = unsafe { (&(*pool.as_ptr()).lock, &(*pool.as_ptr()).left) };
        // Unlike `take` it has no other way to go. The holder is in a short loop, at most in a
        // call to the operating system, and after a fork the lock is open.
        while !acquire(lock) {
            std::thread::yield_now();
        }
        left.store(0, Ordering::Relaxed);
        // SAFETY: the lock is held, so nobody else touches the bytes.
        unsafe { scrub::zero((&raw mut (*pool.as_ptr()).bytes).cast(), POOL_LEN) };
        lock.store(0, Ordering::Release);
    }

    fn pool(&self) -> Option<NonNull<Pool>> {
        let pool = self.pool.load(Ordering::Acquire);
        if pool.is_null() {
            self.make()
        } else {
            NonNull::new(pool)
        }
    }

    #[cold]
    fn make(&self) -> Option<NonNull<Pool>> {
        let fresh = map::wipe_on_fork_page().ok()?.cast::<Pool>();
        if map::fork_is_seen_by_pid_alone() {
            // The page is left. Without wiping, a child would repeat what its parent gives out.
            return None;
        }
        let exchanged = self.pool.compare_exchange(
            ptr::null_mut(),
            fresh.as_ptr(),
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        // A page that lost the race is left: it happens once in a process.
        exchanged.map_or_else(NonNull::new, |_| Some(fresh))
    }
}

fn acquire(lock: &AtomicU32) -> bool {
    for _ in 0..SPINS {
        if lock
            .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
        {
            return true;
        }
        std::hint::spin_loop();
    }
    false
}

const _: () = assert!(size_of::<Pool>() == 4096, "the pool fills one page");
