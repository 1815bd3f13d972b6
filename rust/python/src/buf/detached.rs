//! Work without the GIL, and the way back to it while the work goes on.
//!
//! `Python::attach` finds this thread's state through the interpreter, which has none left to give
//! at its end: on Python 3.11 a daemon thread that asks for it then dies by a null pointer, and the
//! process with it. To take the GIL with a state that is known is safe at any time: at the end of
//! the interpreter it stops the thread for good.

#![allow(clippy::disallowed_methods, reason = "in place of these")]

use std::cell::Cell;
use std::ptr;

use pyo3::{Python, ffi};

thread_local! {
    /// This thread's state while it works without the GIL, else null.
    static STATE: Cell<*mut ffi::PyThreadState> = const { Cell::new(ptr::null_mut()) };
}

/// Runs `work` without the GIL, which it may take for a moment by [`attach`].
#[inline]
pub fn detach<R: Send>(py: Python<'_>, work: impl FnOnce() -> R + Send) -> R {
    // SAFETY: this thread has the GIL, so it has a state.
    let state = unsafe { ffi::PyThreadState_Get() };
    let _before = Before(STATE.replace(state));
    py.detach(work)
}

/// Runs `work` with the GIL, whether this thread has it already or [`detach`] gave it up.
///
/// At the end of the interpreter it does not return, on any thread but the one that ends it.
pub fn attach<R>(work: impl FnOnce(Python<'_>) -> R) -> R {
    let state = STATE.replace(ptr::null_mut());
    if state.is_null() {
        return Python::attach(work);
    }
    // SAFETY: the state of this very thread, which `detach` has put away and nobody taken since.
    unsafe { ffi::PyEval_RestoreThread(state) };
    let _away = Away(state);
    // SAFETY: this thread has the GIL, and the interpreter is one that gives it.
    unsafe { Python::attach_unchecked(work) }
}

struct Before(*mut ffi::PyThreadState);

impl Drop for Before {
    fn drop(&mut self) {
        STATE.set(self.0);
    }
}

struct Away(*mut ffi::PyThreadState);

impl Drop for Away {
    fn drop(&mut self) {
        // SAFETY: `attach` took the GIL, and what it ran has left things as they were.
        unsafe { ffi::PyEval_SaveThread() };
        STATE.set(self.0);
    }
}
