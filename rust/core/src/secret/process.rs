//! Which process this is: memory that a fork empties tells a child from its parent without a
//! system call.

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use super::map;

/// The generation, in a page of its own that the kernel zeroes in a forked child.
static CURRENT: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());

/// The last generation given in this process or, where it has none yet, in its parent: never
/// wiped, so that a child's is always another than those of all its ancestors.
static LAST: AtomicU64 = AtomicU64::new(0);

/// A number that differs between a process and each of its ancestors by `fork`; never 0.
///
/// It costs two loads from memory. (Two children of one parent may have the same: nothing that one
/// of them made can be in the other.)
#[inline]
#[must_use]
pub fn generation() -> u64 {
    let cell = CURRENT.load(Ordering::Acquire);
    if !cell.is_null() {
        // SAFETY: the page was made for this and is never unmapped.
        let generation = unsafe { &*cell }.load(Ordering::Relaxed);
        if generation != 0 && !map::fork_is_seen_by_pid_alone() {
            return generation;
        }
    }
    find_out()
}

#[cold]
fn find_out() -> u64 {
    let mut cell = CURRENT.load(Ordering::Acquire);
    if cell.is_null() {
        // A page that can't be had at this point leaves nothing to go on with, as for any
        // allocation of a few bytes.
        let fresh = map::wipe_on_fork_page()
            .expect("one page of memory")
            .cast::<AtomicU64>();
        cell = match CURRENT.compare_exchange(
            ptr::null_mut(),
            fresh.as_ptr(),
            Ordering::AcqRel,
            Ordering::Acquire,
        ) {
            Ok(_) => {
                map::at_fork_in_child(forget);
                fresh.as_ptr()
            }
            // Another thread was first. The page is left: it happens once in a process.
            Err(theirs) => theirs,
        };
    }
    // SAFETY: as in `generation`.
    let current = unsafe { &*cell };
    if map::fork_is_seen_by_pid_alone() && map::process_changed() {
        current.store(0, Ordering::Release);
    }
    let seen = current.load(Ordering::Acquire);
    if seen != 0 {
        return seen;
    }
    let next = LAST.fetch_add(1, Ordering::AcqRel) + 1;
    match current.compare_exchange(0, next, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => next,
        Err(theirs) => theirs,
    }
}

/// In a child, right after the fork: for systems that can't wipe a page by themselves.
extern "C" fn forget() {
    let cell = CURRENT.load(Ordering::Relaxed);
    if !cell.is_null() {
        // SAFETY: as in `generation`.
        unsafe { &*cell }.store(0, Ordering::Relaxed);
    }
}

/// A `static` of which each process has its own value, made at first use.
///
/// After a fork the child makes itself a new one. The parent's stays in the child's memory, never
/// dropped and never locked: a mutex in it may have been held by a thread that the child lacks.
pub struct ForkLocal<T: 'static> {
    init: fn() -> T,
    current: AtomicPtr<Owned<T>>,
}

struct Owned<T> {
    generation: u64,
    value: T,
}

impl<T: Send + Sync + 'static> ForkLocal<T> {
    /// A cell whose value is made by `init`, which may run twice at once where two threads are
    /// the first to use it; one of the two results is then dropped.
    #[must_use]
    pub const fn new(init: fn() -> T) -> Self {
        Self {
            init,
            current: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// This process's value.
    #[inline]
    pub fn get(&'static self) -> &'static T {
        let generation = generation();
        let current = self.current.load(Ordering::Acquire);
        if !current.is_null() {
            // SAFETY: a published value is never freed, in this process or a child.
            let owned = unsafe { &*current };
            if owned.generation == generation {
                return &owned.value;
            }
        }
        self.make(current, generation)
    }

    /// This process's value if it has been made already; nothing is made.
    #[inline]
    pub fn get_if_made(&'static self) -> Option<&'static T> {
        let current = self.current.load(Ordering::Acquire);
        if current.is_null() {
            return None;
        }
        // SAFETY: as in `get`.
        let owned = unsafe { &*current };
        (owned.generation == generation()).then_some(&owned.value)
    }

    #[cold]
    fn make(&'static self, stale: *mut Owned<T>, generation: u64) -> &'static T {
        let fresh = Box::into_raw(Box::new(Owned {
            generation,
            value: (self.init)(),
        }));
        match self
            .current
            .compare_exchange(stale, fresh, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => {
                // SAFETY: just made, published, and never freed from here on.
                &unsafe { &*fresh }.value
            }
            Err(theirs) => {
                // SAFETY: `fresh` was not published; `theirs` was, by a thread of this process
                // (a fork copies only the calling thread, so no other process writes here).
                unsafe {
                    drop(Box::from_raw(fresh));
                    &(*theirs).value
                }
            }
        }
    }
}
