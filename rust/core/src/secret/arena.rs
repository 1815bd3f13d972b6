//! The arena: slots in shared pages for small secrets, own pages for large ones.

use std::ptr::{self, NonNull};
use std::slice;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::map::{Mapping, page_size};
use super::process::{ForkLocal, generation};
use super::scrub;
use super::slab::{BLOCK, CANARY_LEN, Place, SMALL_MAX, Slabs, class_of};
use super::status::{self, Policy};
use crate::error::Error;

/// Regions grow from here, doubling with the arena, as far as the limit on locked memory lets them.
const REGION_MIN: usize = 4 * BLOCK;
const REGION_MAX: usize = 64 * BLOCK;

static ARENA: ForkLocal<Mutex<Arena>> = ForkLocal::new(|| Mutex::new(Arena::new()));

/// Memory of one secret: zeros at first, checked and zeroed at the end.
pub(super) struct Allocation {
    start: NonNull<u8>,
    len: usize,
    generation: u64,
    locked: bool,
    home: Home,
}

enum Home {
    Shared(Place),
    /// Own pages. None only while the allocation is dropped.
    Own(Option<Box<Mapping>>),
}

// SAFETY: an allocation is memory that belongs to its owner alone, whichever thread that is on.
unsafe impl Send for Allocation {}
// SAFETY: `&Allocation` gives out numbers and an address only.
unsafe impl Sync for Allocation {}

impl Allocation {
    /// `len` zero bytes at a multiple of `align`.
    ///
    /// # Errors
    ///
    /// `Error::Memory` when no memory is to be had or, under the strict policy, locked.
    pub(super) fn new(len: usize, align: usize) -> Result<Self, Error> {
        let generation = generation();
        let allocation = match class_of(len, align) {
            Some(class) => lock(&ARENA).allocate(class, len, generation)?,
            None => Self::with_own_pages(len, align, generation)?,
        };
        status::allocated(allocation.locked);
        Ok(allocation)
    }

    fn with_own_pages(len: usize, align: usize, generation: u64) -> Result<Self, Error> {
        assert!(
            align <= page_size(),
            "no type is aligned to more than a page"
        );
        let aligned = len
            .checked_next_multiple_of(align)
            .ok_or_else(|| Error::Memory(format!("no memory of {len} bytes")))?;
        let mut failures = Vec::new();
        let mapping = Mapping::new(aligned, status::policy()?, &mut failures);
        status::failed(failures);
        let mapping = mapping?;
        let canary = lock(&ARENA).canary;
        // SAFETY: `aligned` is at most the mapping's length.
        let start = unsafe { mapping.start().add(mapping.len() - aligned) };
        let (before, behind) = (mapping.len() - aligned, aligned - len);
        // SAFETY: the bytes before and behind the secret inside its mapping, which is fresh.
        unsafe {
            write_canary(mapping.start(), before, &canary);
            write_canary(start.add(len), behind, &canary);
        }
        let locked = mapping.is_locked();
        Ok(Self {
            start,
            len,
            generation,
            locked,
            home: Home::Own(Some(Box::new(mapping))),
        })
    }

    /// Whether another process made it, so that nothing may touch it.
    #[inline]
    pub(super) fn is_foreign(&self) -> bool {
        self.generation != generation()
    }

    #[inline]
    pub(super) fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_locked(&self) -> bool {
        self.locked
    }

    /// Looks at what surrounds the secret; its mapping is zeroed when it goes.
    fn check_own(&self, mapping: &Mapping, canary: &[u8; CANARY_LEN]) {
        let before = self.as_ptr().addr() - mapping.start().as_ptr().addr();
        let behind = mapping.len() - before - self.len;
        // SAFETY: all inside the mapping, which is this allocation's alone.
        let intact = unsafe {
            canary_is_intact(mapping.start(), before, canary)
                && canary_is_intact(self.start.add(self.len), behind, canary)
        };
        if !intact {
            overwritten("a secret with pages of its own", self.len);
        }
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if self.is_foreign() {
            // Not mapped here, or zeros since the fork: there is nothing to wipe. The bookkeeping
            // is the parent's, too.
            if let Home::Own(mapping) = &mut self.home {
                std::mem::forget(mapping.take());
            }
            return;
        }
        match &mut self.home {
            Home::Shared(place) => {
                let place = *place;
                lock(&ARENA).release(place, self.start, self.len);
            }
            Home::Own(mapping) => {
                if let Some(mapping) = mapping.take() {
                    let canary = lock(&ARENA).canary;
                    self.check_own(&mapping, &canary);
                }
            }
        }
        status::freed();
    }
}

struct Arena {
    slabs: Slabs,
    regions: Vec<Option<Mapping>>,
    /// Blocks in all regions.
    blocks: usize,
    /// Random, so that data which is copied over it can't match it.
    canary: [u8; CANARY_LEN],
}

impl Arena {
    fn new() -> Self {
        let mut canary = [0; CANARY_LEN];
        if crate::random::fill(&mut canary).is_err() {
            canary = *b"\xdbstrongroom\xdb\xdb\xdb\xdb\xdb";
        }
        Self {
            slabs: Slabs::default(),
            regions: Vec::new(),
            blocks: 0,
            canary,
        }
    }

    fn allocate(&mut self, class: usize, len: usize, generation: u64) -> Result<Allocation, Error> {
        let place = match self.slabs.allocate(class) {
            Some(place) => place,
            None => {
                self.grow()?;
                self.slabs.allocate(class).expect("a fresh region has room")
            }
        };
        let (region, offset, slot_len) = self.slabs.locate(place);
        let mapping = self.regions[region]
            .as_ref()
            .expect("a slot's region is mapped");
        // SAFETY: the slot is inside its region's mapping.
        let start = unsafe { mapping.start().add(offset) };
        // SAFETY: the slot was free, so nobody else uses it.
        unsafe {
            if !is_zero(start, slot_len) {
                overwritten("free memory of the arena", slot_len);
            }
            write_canary(start.add(len), slot_len - len, &self.canary);
        }
        let locked = mapping.is_locked();
        Ok(Allocation {
            start,
            len,
            generation,
            locked,
            home: Home::Shared(place),
        })
    }

    fn release(&mut self, place: Place, start: NonNull<u8>, len: usize) {
        let (_, _, slot_len) = self.slabs.locate(place);
        // SAFETY: the slot is in use by the allocation that is being dropped.
        unsafe {
            if !canary_is_intact(start.add(len), slot_len - len, &self.canary) {
                overwritten("a secret that shares a page", len);
            }
            scrub::zero(start.as_ptr(), slot_len);
        }
        let Some(region) = self.slabs.free(place) else {
            return;
        };
        let locked = self.regions[region]
            .as_ref()
            .is_some_and(Mapping::is_locked);
        let count = self.slabs.region_blocks(region);
        // One empty region is kept, so that a program which makes and drops one secret at a time
        // doesn't map pages each time. Memory that could not be locked is given back at once.
        if !locked || self.slabs.free_blocks() > count {
            self.slabs.remove_region(region);
            self.blocks -= count;
            self.regions[region] = None;
        }
    }

    fn grow(&mut self) -> Result<(), Error> {
        let policy = status::policy()?;
        let smallest = page_size().max(BLOCK);
        let most = (self.blocks * BLOCK)
            .next_power_of_two()
            .clamp(REGION_MIN, REGION_MAX);
        let mut len = most.max(smallest);
        let mut failures = Vec::new();
        // A limit that the next region would pass may still have room for a smaller one.
        let mapping = loop {
            match Mapping::new(len, Policy::Strict, &mut failures) {
                Err(Error::Memory(_)) if len > smallest => {
                    failures.clear();
                    len /= 2;
                }
                Err(Error::Memory(_)) if policy == Policy::Warn => {
                    failures.clear();
                    break Mapping::new(most.max(smallest), policy, &mut failures);
                }
                result => break result,
            }
        };
        status::failed(failures);
        let mapping = mapping?;
        let count = mapping.len() / BLOCK;
        let id = self.slabs.add_region(count);
        if id == self.regions.len() {
            self.regions.push(None);
        }
        self.regions[id] = Some(mapping);
        self.blocks += count;
        Ok(())
    }
}

fn lock(arena: &'static ForkLocal<Mutex<Arena>>) -> MutexGuard<'static, Arena> {
    // Nothing in the arena panics half way but on a broken invariant of its own.
    arena.get().lock().unwrap_or_else(PoisonError::into_inner)
}

/// # Safety
///
/// `len` bytes at `start` are writable memory of the caller's.
unsafe fn write_canary(start: NonNull<u8>, len: usize, canary: &[u8; CANARY_LEN]) {
    let mut at = start.as_ptr();
    let mut left = len;
    while left > 0 {
        let count = left.min(CANARY_LEN);
        // SAFETY: `count` is within what is left.
        unsafe {
            ptr::copy_nonoverlapping(canary.as_ptr(), at, count);
            at = at.add(count);
        }
        left -= count;
    }
}

/// # Safety
///
/// `len` bytes at `start` are readable memory of the caller's.
unsafe fn canary_is_intact(start: NonNull<u8>, len: usize, canary: &[u8; CANARY_LEN]) -> bool {
    // SAFETY: the caller's promise.
    let bytes = unsafe { slice::from_raw_parts(start.as_ptr(), len) };
    bytes
        .chunks(CANARY_LEN)
        .all(|chunk| chunk == &canary[..chunk.len()])
}

/// # Safety
///
/// As for `canary_is_intact`; `start` is a multiple of 16, `len` too.
unsafe fn is_zero(start: NonNull<u8>, len: usize) -> bool {
    // SAFETY: the caller's promise.
    let words = unsafe { slice::from_raw_parts(start.as_ptr().cast::<u128>(), len / 16) };
    words.iter().fold(0, |all, word| all | word) == 0
}

/// Something wrote where it had no business to: what it wrote over can't be trusted any more.
#[cold]
fn overwritten(what: &str, len: usize) -> ! {
    eprintln!("strongroom: {what} ({len} bytes) was overwritten from outside; aborting");
    std::process::abort();
}

const _: () = assert!(SMALL_MAX >= 1024, "an AES-256 key schedule shares pages");
