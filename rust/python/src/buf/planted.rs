//! A read past the end of the heap, in builds for AddressSanitizer alone (scripts/asan.sh): a run
//! that does not find it would find nothing.

use pyo3::prelude::*;

/// Reads the byte behind `length` bytes of the heap.
#[pyfunction]
pub fn _planted_overrun(length: usize) -> u8 {
    let bytes = vec![1_u8; length].into_boxed_slice();
    let start = std::hint::black_box(bytes.as_ptr());
    // SAFETY: none. It is what the sanitizer has to stop.
    unsafe { start.add(length).read_volatile() }
}
