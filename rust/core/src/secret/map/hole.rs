//! What a child must close: address ranges that are mapped in the parent and not in the child, where
//! an unrelated later mapping would answer to a stale view of a secret.

use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::system;
use crate::secret::process::ForkLocal;

pub(super) struct Hole {
    start: AtomicUsize,
    len: AtomicUsize,
    next: *const Hole,
}

// SAFETY: `next` is set once, before the hole is published, to a hole that is never freed.
unsafe impl Send for Hole {}
// SAFETY: as above; the rest is atomic.
unsafe impl Sync for Hole {}

/// All holes there ever were, linked; the unused ones have length 0.
static ALL: AtomicPtr<Hole> = AtomicPtr::new(ptr::null_mut());
static UNUSED: ForkLocal<Mutex<Vec<&'static Hole>>> = ForkLocal::new(|| Mutex::new(Vec::new()));

pub(super) fn add(start: NonNull<u8>, len: usize) -> &'static Hole {
    // No Once: a child that another thread forks in the middle of one would wait for ever.
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    if !REGISTERED.swap(true, Ordering::AcqRel) {
        system::at_fork_in_child(close_all);
    }
    let unused = UNUSED
        .get()
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .pop();
    if let Some(hole) = unused {
        hole.start.store(start.as_ptr().addr(), Ordering::Relaxed);
        hole.len.store(len, Ordering::Release);
        return hole;
    }
    let hole = Box::leak(Box::new(Hole {
        start: AtomicUsize::new(start.as_ptr().addr()),
        len: AtomicUsize::new(len),
        next: ALL.load(Ordering::Acquire),
    }));
    while let Err(first) = ALL.compare_exchange(
        hole.next.cast_mut(),
        hole,
        Ordering::AcqRel,
        Ordering::Acquire,
    ) {
        hole.next = first;
    }
    hole
}

pub(super) fn remove(hole: &'static Hole) {
    hole.len.store(0, Ordering::Release);
    UNUSED
        .get()
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(hole);
}

/// Runs in a child right after the fork: no allocation, no lock.
extern "C" fn close_all() {
    let mut next: *const Hole = ALL.load(Ordering::Acquire);
    // SAFETY: holes are never freed.
    while let Some(hole) = unsafe { next.as_ref() } {
        let len = hole.len.load(Ordering::Acquire);
        if len != 0 {
            system::close_hole(hole.start.load(Ordering::Relaxed), len);
        }
        next = hole.next;
    }
}
