//! Overwriting memory in a way that the compiler can't leave out.

use std::hint::black_box;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{Ordering, compiler_fence};

/// Stack of key set-up, of HMAC-SHA-512 and of a whole envelope's header: schedules of 240 to 1,000
/// bytes in several frames, and SHA-512 states.
const DEEP: usize = 16 << 10;

/// Stack of one record with `aws-lc`, twice what the scan of the stack (tests/test_memory_scan.py)
/// shows as needed in a release build. Builds with less optimisation have larger frames.
const SHALLOW: usize = if cfg!(debug_assertions) {
    DEEP
} else {
    2 << 10
};

/// Runs `work` in frames of their own, and overwrites them when it is done, and the vector
/// registers: compilers leave round keys and other copies of secrets in both.
///
/// For work on keys. What `work` returns is not overwritten.
#[inline]
pub fn scrubbed<R>(work: impl FnOnce() -> R) -> R {
    let result = in_own_frame(work);
    clear_below::<DEEP>();
    result
}

/// [`scrubbed`] at the price of some 25 ns, for work that takes less than 2 KiB of stack.
#[inline]
pub fn scrubbed_shallow<R>(work: impl FnOnce() -> R) -> R {
    let result = in_own_frame(work);
    clear_below::<SHALLOW>();
    result
}

#[inline(never)]
fn in_own_frame<R>(work: impl FnOnce() -> R) -> R {
    work()
}

/// Overwrites `LEN` bytes of stack below the caller's frame.
#[inline(never)]
fn clear_below<const LEN: usize>() {
    // First: a call below may save them on the stack, beyond the bytes that are overwritten.
    clear_registers();
    clear_vector_registers();
    let mut area = MaybeUninit::<[u8; LEN]>::uninit();
    // SAFETY: `area` is LEN bytes of this function's.
    unsafe { zero(area.as_mut_ptr().cast(), LEN) };
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

/// Halves of keys stay in the registers that a function need not restore.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn clear_registers() {
    // SAFETY: the registers are named as written, and nothing else changes but the flags.
    unsafe {
        core::arch::asm!(
            "xor eax, eax",
            "xor ecx, ecx",
            "xor edx, edx",
            "xor esi, esi",
            "xor edi, edi",
            "xor r8d, r8d",
            "xor r9d, r9d",
            "xor r10d, r10d",
            "xor r11d, r11d",
            out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            options(nomem, nostack),
        );
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn clear_registers() {}

/// Round keys stay in these registers, from where signal frames, core dumps and the dynamic linker
/// write them to memory.
#[cfg(target_arch = "x86_64")]
#[inline]
fn clear_vector_registers() {
    if std::is_x86_feature_detected!("avx512f") {
        // SAFETY: the CPU has AVX-512F, and with it AVX.
        unsafe { clear_32_registers() };
    } else if std::is_x86_feature_detected!("avx") {
        // SAFETY: the CPU has AVX.
        unsafe { clear_16_registers() };
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
fn clear_16_registers() {
    core::arch::x86_64::_mm256_zeroall();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn clear_32_registers() {
    // SAFETY: the registers are named as written, and nothing else changes. VZEROALL clears the
    // first sixteen only.
    unsafe {
        core::arch::asm!(
            "vpxord zmm16, zmm16, zmm16",
            "vpxord zmm17, zmm17, zmm17",
            "vpxord zmm18, zmm18, zmm18",
            "vpxord zmm19, zmm19, zmm19",
            "vpxord zmm20, zmm20, zmm20",
            "vpxord zmm21, zmm21, zmm21",
            "vpxord zmm22, zmm22, zmm22",
            "vpxord zmm23, zmm23, zmm23",
            "vpxord zmm24, zmm24, zmm24",
            "vpxord zmm25, zmm25, zmm25",
            "vpxord zmm26, zmm26, zmm26",
            "vpxord zmm27, zmm27, zmm27",
            "vpxord zmm28, zmm28, zmm28",
            "vpxord zmm29, zmm29, zmm29",
            "vpxord zmm30, zmm30, zmm30",
            "vpxord zmm31, zmm31, zmm31",
            out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _,
            out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _,
            out("zmm24") _, out("zmm25") _, out("zmm26") _, out("zmm27") _,
            out("zmm28") _, out("zmm29") _, out("zmm30") _, out("zmm31") _,
            options(nomem, nostack, preserves_flags),
        );
    }
    core::arch::x86_64::_mm256_zeroall();
}

#[cfg(not(target_arch = "x86_64"))]
fn clear_vector_registers() {}
