//! Memory of the arena, lent to Python through the buffer protocol.

use std::ffi::c_int;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use strongroom_core::secret::SharedBytes;

use crate::errors::OrRaise;

/// The owner of what a view shows. Views and their slices keep it, and with it the pages, alive.
#[pyclass(frozen, module = "strongroom._native", name = "_SecretMemory")]
pub struct SecretMemory {
    bytes: Arc<SharedBytes>,
    readonly: bool,
    exports: AtomicUsize,
}

impl SecretMemory {
    pub fn new(bytes: Arc<SharedBytes>, readonly: bool) -> Self {
        Self {
            bytes,
            readonly,
            exports: AtomicUsize::new(0),
        }
    }

    /// How many views, slices and arrays still use the memory. (A `memoryview` and its slices
    /// count once.)
    pub fn exports(&self) -> usize {
        self.exports.load(Ordering::Acquire)
    }
}

#[pymethods]
impl SecretMemory {
    /// # Safety
    ///
    /// Called by Python alone, with a view to fill in.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let this = slf.get();
        if this.readonly && flags & ffi::PyBUF_WRITABLE == ffi::PyBUF_WRITABLE {
            return Err(PyBufferError::new_err("this view of a key is read-only"));
        }
        let start = this.bytes.as_ptr().or_raise(slf.py())?;
        let len = ffi::Py_ssize_t::try_from(this.bytes.len())?;
        // SAFETY: Python gave a view to fill in. The memory lives as long as `bytes`, which lives
        // as long as `slf`, to which the view takes a reference. Python code that has the view
        // reads and writes it past the lock of `SharedBytes`, which lends out no references.
        let result = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_ptr(),
                start.cast(),
                len,
                c_int::from(this.readonly),
                flags,
            )
        };
        if result != 0 {
            return Err(PyErr::fetch(slf.py()));
        }
        this.exports.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// # Safety
    ///
    /// Called by Python alone, once for each view that `__getbuffer__` filled in.
    unsafe fn __releasebuffer__(&self, _view: *mut ffi::Py_buffer) {
        self.exports.fetch_sub(1, Ordering::AcqRel);
    }
}
