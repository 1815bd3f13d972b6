//! Python's buffers as slices and back: all the unsafe code of this crate.
//!
//! A held buffer keeps its memory in place (a `bytearray` can't be resized meanwhile), but does
//! not keep other threads from writing to it. What they write while a call runs is garbage in,
//! garbage out; memory safety does not depend on it.

pub mod detached;
pub mod exit;
pub mod export;
pub mod list;
#[cfg(strongroom_asan)]
pub mod planted;
pub mod prefetch;

use std::ops::Range;

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView, PyString};
use pyo3::{PyResult, Python, ffi};
use strongroom_core::params::HUGE_PAGE;

/// Outputs of at least this size get huge pages before their first touch: page faults on 4 KiB
/// pages cost more than sealing what goes into them.
const HUGE_MIN: usize = 4 * HUGE_PAGE;

/// Bytes lent by a Python object for the time of a call.
pub enum Input<'py> {
    /// The common case, without the cost of the buffer protocol.
    Bytes(Lent<'py>),
    /// Any other C-contiguous buffer.
    Buffer(PyUntypedBuffer),
}

/// A `bytes` object and where its bytes are: it is asked once, since in a long list it is in no cache
/// any more the next time.
pub struct Lent<'py> {
    object: Bound<'py, PyBytes>,
    start: *const u8,
    len: usize,
}

impl<'py> Input<'py> {
    /// Borrows `object`; `name` is the argument's, for the error.
    #[inline]
    pub fn new(object: &Bound<'py, PyAny>, name: &str) -> PyResult<Self> {
        match object.cast_exact::<PyBytes>() {
            Ok(bytes) => {
                let memory = bytes.as_bytes();
                Ok(Input::Bytes(Lent {
                    start: memory.as_ptr(),
                    len: memory.len(),
                    object: bytes.clone(),
                }))
            }
            Err(_) => buffer(object, name).map(Input::Buffer),
        }
    }

    /// The object, if it is a `bytes`.
    pub fn bytes(&self) -> Option<&Bound<'py, PyBytes>> {
        match self {
            Input::Bytes(lent) => Some(&lent.object),
            Input::Buffer(_) => None,
        }
    }

    /// The bytes, for as long as the object is borrowed.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            // SAFETY: `as_bytes` of the object gave these; it never changes or moves, and `self`
            // keeps it alive.
            Input::Bytes(lent) => unsafe { std::slice::from_raw_parts(lent.start, lent.len) },
            Input::Buffer(buffer) => {
                let len = buffer.len_bytes();
                if len == 0 {
                    return &[];
                }
                // SAFETY: the exporter guarantees `len` readable bytes at `buf_ptr` until the
                // buffer is released, which the borrow of `self` outlasts, and `buffer()` has
                // checked that they are C-contiguous. Other threads may write to them: there is
                // no way to keep them from it; see the head of this file.
                unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast::<u8>(), len) }
            }
        }
    }
}

/// A writable buffer lent for the time of a call.
pub struct Output(PyUntypedBuffer);

impl Output {
    /// Borrows `object` for writing.
    pub fn new(object: &Bound<'_, PyAny>, name: &str) -> PyResult<Self> {
        let buffer = buffer(object, name)?;
        if buffer.readonly() {
            return Err(PyBufferError::new_err(format!(
                "{name} is read-only: give a writable buffer, a bytearray or a memoryview of one"
            )));
        }
        Ok(Self(buffer))
    }

    /// Bytes of the buffer.
    pub fn len(&self) -> usize {
        self.0.len_bytes()
    }

    /// The bytes, mutably.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        let len = self.0.len_bytes();
        if len == 0 {
            return &mut [];
        }
        // SAFETY: as for `Input::as_slice`; the exporter said that the buffer is writable, and
        // `&mut self` keeps this the only slice that we make of it. Overlap with an input of the
        // same call is refused by `refuse_overlap`.
        unsafe { std::slice::from_raw_parts_mut(self.0.buf_ptr().cast::<u8>(), len) }
    }
}

/// Refuses an output that shares memory with an input.
pub fn refuse_overlap(input: &[u8], output: &mut [u8]) -> PyResult<()> {
    let range = |slice: &[u8]| -> Range<usize> {
        let start = slice.as_ptr() as usize;
        start..start + slice.len()
    };
    let (a, b) = (range(input), range(output));
    if a.start < b.end && b.start < a.end {
        return Err(PyValueError::new_err(
            "out overlaps the input: give another buffer",
        ));
    }
    Ok(())
}

fn buffer(object: &Bound<'_, PyAny>, name: &str) -> PyResult<PyUntypedBuffer> {
    if object.is_instance_of::<PyString>() {
        return Err(PyTypeError::new_err(format!(
            "{name} is a str: encode it first, as in {name}.encode()"
        )));
    }
    let buffer = match PyUntypedBuffer::get(object).or_else(|error| {
        // Some exporters (ctypes) leave the strides out, which PyO3 refuses; a memoryview of them fills
        // them in. One value without dimensions has no shape either; as bytes it has one. Of which kind
        // the error is would be slow to ask: PyO3 gives the GIL up to make it.
        let Ok(view) = PyMemoryView::from(object) else {
            return Err(error);
        };
        PyUntypedBuffer::get(view.as_any()).or_else(|_| {
            let bytes = view.call_method1(intern!(object.py(), "cast"), ("B",))?;
            PyUntypedBuffer::get(&bytes)
        })
    }) {
        Ok(buffer) => buffer,
        Err(error) if error.is_instance_of::<PyTypeError>(object.py()) => {
            return Err(PyTypeError::new_err(format!(
                "{name} must be bytes or another buffer, not {}",
                object.get_type().name()?
            )));
        }
        Err(error) => return Err(error),
    };
    if !buffer.is_c_contiguous() {
        return Err(PyBufferError::new_err(format!(
            "{name} is not C-contiguous: copy it first, as in bytes({name})"
        )));
    }
    Ok(buffer)
}

/// A new `bytes` of `len` bytes that `fill` writes, all of them; it may release the GIL.
#[inline]
pub fn new_bytes<'py>(
    py: Python<'py>,
    len: usize,
    fill: impl FnOnce(&mut [u8]) -> PyResult<()>,
) -> PyResult<Bound<'py, PyBytes>> {
    let mut bytes = UnfilledBytes::new(py, len)?;
    fill(bytes.as_mut_slice())?;
    Ok(bytes.finish())
}

/// A `bytes` object that nobody but us has a reference to yet.
pub struct UnfilledBytes<'py> {
    object: Bound<'py, PyBytes>,
    start: *mut u8,
    len: usize,
}

impl<'py> UnfilledBytes<'py> {
    /// Allocates, without zeroing: `PyBytes::new_with` would touch every page first, on one thread.
    #[inline]
    pub fn new(py: Python<'py>, len: usize) -> PyResult<Self> {
        let signed = ffi::Py_ssize_t::try_from(len)
            .map_err(|_| pyo3::exceptions::PyOverflowError::new_err("output too long"))?;
        // SAFETY: a null pointer asks for an uninitialised object of that length; the result is a
        // new reference or null with an exception set, as `from_owned_ptr_or_err` expects, and the
        // second call takes any `bytes`.
        let (object, start) = unsafe {
            let pointer = ffi::PyBytes_FromStringAndSize(std::ptr::null(), signed);
            let object =
                Bound::from_owned_ptr_or_err(py, pointer)?.cast_into_unchecked::<PyBytes>();
            (object, ffi::PyBytes_AsString(pointer).cast::<u8>())
        };
        let mut made = Self { object, start, len };
        if len >= HUGE_MIN {
            advise_huge_pages(made.as_mut_slice());
        }
        Ok(made)
    }

    /// Its memory. All of it is to be written before [`UnfilledBytes::finish`].
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the object is new and `self` has the only reference to it, so nobody reads or
        // writes it; it has `len` bytes at `start`. They come from malloc, so they have some value
        // as far as the compiler can know; nobody reads them before they are written. (An empty
        // one is the interpreter's shared singleton, of which this takes no byte.)
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }

    /// The object, filled.
    #[inline]
    pub fn finish(self) -> Bound<'py, PyBytes> {
        self.object
    }
}

/// Asks for huge pages inside `memory`; a refusal changes nothing but the speed.
#[cfg(target_os = "linux")]
fn advise_huge_pages(memory: &mut [u8]) {
    let start = memory.as_mut_ptr() as usize;
    let first = start.next_multiple_of(HUGE_PAGE);
    let end = (start + memory.len()) / HUGE_PAGE * HUGE_PAGE;
    if first < end {
        // SAFETY: the range lies inside `memory`, which is ours; MADV_HUGEPAGE changes how it is
        // backed and not what it holds.
        let _ = unsafe {
            rustix::mm::madvise(
                memory.as_mut_ptr().add(first - start).cast(),
                end - first,
                rustix::mm::Advice::LinuxHugepage,
            )
        };
    }
}

#[cfg(not(target_os = "linux"))]
fn advise_huge_pages(_memory: &mut [u8]) {}
