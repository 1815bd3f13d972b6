//! Running something when the interpreter is gone.

use std::ffi::c_int;

use pyo3::ffi;

/// Has `run` called once at the end of the interpreter: after the exit handlers of Python code, of
/// which some may still encrypt, and after its modules have been taken down. It must not use Python.
pub fn at_end_of_interpreter(run: extern "C" fn()) -> bool {
    // SAFETY: the function lives as long as the extension, which is never unloaded.
    let result: c_int = unsafe { ffi::Py_AtExit(Some(run)) };
    // The interpreter has room for 32 such functions.
    result == 0
}
