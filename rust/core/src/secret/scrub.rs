//! Overwriting memory in a way that the compiler can't leave out.

use std::hint::black_box;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{Ordering, compiler_fence};

/// Stack that key set-up may have used below its caller: an AES-256 key schedule for both
/// directions is 1 KiB at most, an HMAC-SHA-512 state below 2 KiB.
const SCRUB_LEN: usize = 8 << 10;

/// Overwrites the 8 KiB of stack below the caller's frame, where functions that have returned may
/// have left secrets in their variables and spilled registers, and the vector registers.
///
/// Call it after work on keys, from the function that called that work.
#[inline(never)]
pub fn scrub_stack() {
    let mut area = MaybeUninit::<[u64; SCRUB_LEN / 8]>::uninit();
    let first = area.as_mut_ptr().cast::<u64>();
    for i in 0..SCRUB_LEN / 8 {
        // SAFETY: `i` is inside `area`.
        unsafe { first.add(i).write_volatile(0) };
    }
    black_box(first);
    clear_vector_registers();
}

/// Zeroes `len` bytes at `start`.
///
/// # Safety
///
/// They are writable memory of the caller's, without references to it.
pub(super) unsafe fn zero(start: *mut u8, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { ptr::write_bytes(start, 0, len) };
    // The pointer escapes into a place the compiler knows nothing about, so the bytes may be read.
    black_box(start);
    compiler_fence(Ordering::SeqCst);
}

#[cfg(target_arch = "x86_64")]
fn clear_vector_registers() {
    // Loads of 32 bytes leave keys in them, and signal frames and core dumps save them.
    if std::is_x86_feature_detected!("avx") {
        // SAFETY: the CPU has AVX.
        unsafe { vzeroall() };
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
fn vzeroall() {
    core::arch::x86_64::_mm256_zeroall();
}

#[cfg(not(target_arch = "x86_64"))]
fn clear_vector_registers() {}
