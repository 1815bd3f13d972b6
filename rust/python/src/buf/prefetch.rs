//! Hints to the processor about objects that are looked at soon.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

/// Fetches the head of the item at `index`, if there is one.
#[inline]
pub fn prefetch_list_item(list: &Bound<'_, PyList>, index: usize) {
    if index < list.len() {
        // SAFETY: a list, and an index that it has: the result is a borrowed reference, which lives
        // as long as the GIL is held and nothing is done to the list.
        prefetch(unsafe { ffi::PyList_GetItem(list.as_ptr(), index as ffi::Py_ssize_t) });
    }
}

/// The same for a tuple.
#[inline]
pub fn prefetch_tuple_item(tuple: &Bound<'_, PyTuple>, index: usize) {
    if index < tuple.len() {
        // SAFETY: as above.
        prefetch(unsafe { ffi::PyTuple_GetItem(tuple.as_ptr(), index as ffi::Py_ssize_t) });
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn prefetch(object: *mut ffi::PyObject) {
    use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch reads nothing that the program sees, and faults at no address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(object.cast()) };
}

#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn prefetch(_object: *mut ffi::PyObject) {}
