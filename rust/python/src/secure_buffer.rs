//! `SecureBuffer`: bytes in locked memory that Python code fills and reads.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyMemoryView, PyTuple};
use strongroom_core::Error;
use strongroom_core::secret::SharedBytes;

use crate::buf::Input;
use crate::cipher::detached_above;
use crate::errors::OrRaise;
use crate::secret::{share, warn_once};
use crate::views::Views;

const OPEN: u8 = 0;
/// Wiped, and nothing written since.
const CLEARED: u8 = 1;

/// A fixed number of bytes in locked memory, zeros at first.
#[pyclass(frozen, weakref, module = "strongroom")]
pub struct SecureBuffer {
    size: usize,
    state: AtomicU8,
    /// None once closed.
    bytes: Mutex<Option<Arc<SharedBytes>>>,
    views: Views,
}

impl SecureBuffer {
    fn open(&self) -> PyResult<Arc<SharedBytes>> {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        bytes
            .clone()
            .ok_or_else(|| PyValueError::new_err("this SecureBuffer is closed: its bytes are gone"))
    }
}

/// A length or an offset, which Python may give as any integer.
fn index(value: &Bound<'_, PyAny>, name: &str) -> PyResult<usize> {
    if let Ok(value) = value.extract::<usize>() {
        return Ok(value);
    }
    if value.lt(0)? {
        return Err(PyValueError::new_err(format!("{name} is negative")));
    }
    // Not an integer at all: this raises the TypeError.
    value.call_method0("__index__").map_err(|_| {
        PyTypeError::new_err(format!("{name} must be an int, not {}", type_name(value)))
    })?;
    Err(Error::Limit(format!("{name} is larger than any memory"))).or_raise(value.py())
}

fn type_name(value: &Bound<'_, PyAny>) -> String {
    value
        .get_type()
        .name()
        .map_or_else(|_| "this".into(), |name| name.to_string())
}

#[pymethods]
impl SecureBuffer {
    #[new]
    fn new(py: Python<'_>, size: &Bound<'_, PyAny>) -> PyResult<Self> {
        let size = index(size, "size")?;
        // Taking pages from the system and locking them takes a while for large buffers.
        let bytes = detached_above(py, size, || SharedBytes::new(size)).or_raise(py)?;
        warn_once(py)?;
        Ok(Self {
            size,
            state: AtomicU8::new(OPEN),
            bytes: Mutex::new(Some(share(bytes))),
            views: Views::default(),
        })
    }

    /// Copies `data` to `offset` and returns its length.
    #[pyo3(signature = (data, offset=None))]
    fn write(
        &self,
        py: Python<'_>,
        data: &Bound<'_, PyAny>,
        offset: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<usize> {
        let data = Input::new(data, "data")?;
        let data = data.as_slice();
        let offset = offset.map_or(Ok(0), |offset| index(offset, "offset"))?;
        let bytes = self.open()?;
        detached_above(py, self.size, || bytes.write(offset, data)).or_raise(py)?;
        self.state.store(OPEN, Ordering::Relaxed);
        Ok(data.len())
    }

    /// A copy of `length` bytes from `offset`, to the end by default, for the caller to wipe.
    #[pyo3(signature = (length=None, offset=None))]
    fn read<'py>(
        &self,
        py: Python<'py>,
        length: Option<&Bound<'py, PyAny>>,
        offset: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyByteArray>> {
        let offset = offset.map_or(Ok(0), |offset| index(offset, "offset"))?;
        let length = match length {
            Some(length) => index(length, "length")?,
            None => self.size.saturating_sub(offset),
        };
        let bytes = self.open()?;
        if self.state.load(Ordering::Relaxed) == CLEARED {
            return Err(PyValueError::new_err(
                "this SecureBuffer was cleared, and nothing was written since",
            ));
        }
        bytes.check(offset, length).or_raise(py)?;
        PyByteArray::new_with(py, length, |out| {
            detached_above(py, self.size, || bytes.read(offset, out)).or_raise(py)
        })
    }

    /// Zeroes all of it at once; what was read or copied elsewhere stays.
    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        let bytes = self.open()?;
        bytes.check(0, 0).or_raise(py)?;
        self.state.store(CLEARED, Ordering::Relaxed);
        detached_above(py, self.size, || bytes.wipe());
        Ok(())
    }

    /// A writable view of the bytes themselves.
    fn view<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyMemoryView>> {
        let bytes = self.open()?;
        let view = self.views.give(py, bytes, false)?;
        self.state.store(OPEN, Ordering::Relaxed);
        Ok(view)
    }

    /// Zeroes it, gives its memory back and releases its views. Twice is no error.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let bytes = self
            .bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(bytes) = bytes {
            detached_above(py, self.size, || bytes.wipe());
        }
        self.views.take_back(py)
    }

    /// Whether the pages are locked into RAM.
    #[getter]
    fn locked(&self) -> PyResult<bool> {
        Ok(self.open()?.is_locked())
    }

    /// Whether `close()` was called or a `with` statement has ended.
    #[getter]
    fn closed(&self) -> bool {
        self.open().is_err()
    }

    fn __len__(&self) -> usize {
        self.size
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyResult<PyRef<'_, Self>> {
        slf.open()?;
        Ok(slf)
    }

    #[pyo3(signature = (*exception))]
    fn __exit__(&self, py: Python<'_>, exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        unless_raising(self.close(py), exception)
    }

    fn __repr__(&self) -> String {
        let state = match self.open() {
            Err(_) => "closed",
            Ok(bytes) if bytes.is_locked() => "locked",
            Ok(_) => "not locked",
        };
        format!("<SecureBuffer of {} bytes, {state}>", self.size)
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "a SecureBuffer can't be pickled or copied: its bytes stay in this process",
        ))
    }
}

/// The end of a `with` statement: a failure to release views doesn't hide the exception that ended
/// it, it is noted there.
pub fn unless_raising(result: PyResult<()>, exception: &Bound<'_, PyTuple>) -> PyResult<()> {
    let Err(error) = result else { return Ok(()) };
    match exception.get_item(1) {
        Ok(raised) if !raised.is_none() => {
            let note = error.value(exception.py()).str()?;
            raised.call_method1("add_note", (note,)).map(drop)
        }
        _ => Err(error),
    }
}
