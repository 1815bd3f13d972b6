//! A list of a length that is known, filled little by little.

use pyo3::prelude::*;
use pyo3::types::PyList;
use pyo3::{PyResult, Python, ffi};

/// A list that nobody but us can reach before it is whole.
///
/// One that grows moves its pointers now and then, 30 MiB of them near the end of four million, with
/// the GIL held.
pub struct UnfilledList<'py> {
    list: Bound<'py, PyList>,
    filled: usize,
}

impl<'py> UnfilledList<'py> {
    /// Room for `len` objects, of which no page is touched yet where they are many.
    pub fn new(py: Python<'py>, len: usize) -> PyResult<Self> {
        let signed = ffi::Py_ssize_t::try_from(len)
            .map_err(|_| pyo3::exceptions::PyOverflowError::new_err("list too long"))?;
        // SAFETY: the result is a new reference or null with an exception set, as
        // `from_owned_ptr_or_err` expects. Its items are null, which its own code stands (repr,
        // deallocation) and Python code that indexes it would not: taken off the garbage collector's
        // lists, the only way to an object that nobody holds, it can't be found.
        let list = unsafe {
            let object = Bound::from_owned_ptr_or_err(py, ffi::PyList_New(signed))?;
            ffi::PyObject_GC_UnTrack(object.as_ptr().cast());
            object.cast_into_unchecked::<PyList>()
        };
        Ok(Self { list, filled: 0 })
    }

    /// Puts `object` after those that are there.
    ///
    /// # Errors
    /// `IndexError` where the list is full.
    #[inline]
    pub fn push<T>(&mut self, object: Bound<'py, T>) -> PyResult<()> {
        // SAFETY: a list that is ours alone, so that its null items may be set; the reference to
        // `object` becomes the list's, in case of an error too. The index is checked by it.
        let set = unsafe {
            ffi::PyList_SetItem(
                self.list.as_ptr(),
                self.filled as ffi::Py_ssize_t,
                object.into_ptr(),
            )
        };
        if set != 0 {
            return Err(PyErr::fetch(self.list.py()));
        }
        self.filled += 1;
        Ok(())
    }

    /// The list, whole.
    ///
    /// # Panics
    /// If objects are missing: a list with null items must not get out.
    pub fn finish(self) -> Bound<'py, PyList> {
        assert_eq!(self.filled, self.list.len(), "a list lacks items");
        // SAFETY: every item is set, so the collector may visit them; it was taken off its lists by
        // `new`, and put back here alone, which consumes `self`.
        unsafe { ffi::PyObject_GC_Track(self.list.as_ptr().cast()) };
        self.list
    }
}
