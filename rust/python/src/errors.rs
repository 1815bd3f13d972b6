//! The core's errors as the exceptions of `strongroom.errors`.

use pyo3::exceptions::{PyKeyboardInterrupt, PyMemoryError, PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::IntoPyDict;
use pyo3::{PyErr, PyResult, Python};
use strongroom_core::error::hex;
use strongroom_core::{Error, Result};

pyo3::import_exception!(strongroom.errors, AuditError);
pyo3::import_exception!(strongroom.errors, AuditIntegrityError);
pyo3::import_exception!(strongroom.errors, DecryptionError);
pyo3::import_exception!(strongroom.errors, FormatError);
pyo3::import_exception!(strongroom.errors, KeyNotFoundError);
pyo3::import_exception!(strongroom.errors, KeyStateError);
pyo3::import_exception!(strongroom.errors, KeyStoreError);
pyo3::import_exception!(strongroom.errors, LimitError);
pyo3::import_exception!(strongroom.errors, MasterKeyError);
pyo3::import_exception!(strongroom.errors, UnsupportedVersionError);

/// The exception for one of the core's errors.
pub fn to_py(py: Python<'_>, error: Error) -> PyErr {
    let made = match error {
        Error::Format(text) => return FormatError::new_err(text),
        Error::UnsupportedVersion(text) => return UnsupportedVersionError::new_err(text),
        Error::Limit(text) => return LimitError::new_err(text),
        Error::Master(text) => return MasterKeyError::new_err(text),
        Error::Invalid(text) => return PyValueError::new_err(text),
        Error::Memory(text) => return PyMemoryError::new_err(text),
        Error::Audit(text) => return AuditError::new_err(text),
        Error::AuditIntegrity { message, sequence } => py.get_type::<AuditIntegrityError>().call(
            (message,),
            [("sequence", sequence)].into_py_dict(py).ok().as_ref(),
        ),
        Error::Os(error) => return os_error(error),
        Error::Interrupted => return PyKeyboardInterrupt::new_err(()),
        Error::Forked => {
            let text = Error::Forked.to_string();
            build(
                py,
                py.get_type::<KeyStateError>(),
                &text,
                [("state", Some("forked".into()))],
            )
        }
        Error::Decryption { index } => {
            let text = Error::DECRYPTION.to_string();
            py.get_type::<DecryptionError>()
                .call((text,), [("index", index)].into_py_dict(py).ok().as_ref())
        }
        Error::KeyNotFound { message, key_id } => build(
            py,
            py.get_type::<KeyNotFoundError>(),
            &message,
            [("key_id", key_id.map(|id| hex(&id)))],
        ),
        Error::KeyState {
            message,
            key_id,
            state,
        } => build(
            py,
            py.get_type::<KeyStateError>(),
            &message,
            [
                ("key_id", key_id.map(|id| hex(&id))),
                ("state", Some(state.to_owned())),
            ],
        ),
    };
    made.map_or_else(|error| error, PyErr::from_value)
}

fn build<'py, const N: usize>(
    py: Python<'py>,
    class: Bound<'py, pyo3::types::PyType>,
    message: &str,
    attributes: [(&str, Option<String>); N],
) -> PyResult<Bound<'py, PyAny>> {
    class.call((message,), Some(&attributes.into_py_dict(py)?))
}

fn os_error(error: std::io::Error) -> PyErr {
    match error.raw_os_error() {
        // From the number Python makes the right subclass.
        Some(number) => {
            let text = error.to_string();
            let text = text
                .split(" (os error")
                .next()
                .unwrap_or_default()
                .to_owned();
            PyOSError::new_err((number, text))
        }
        None => error.into(),
    }
}

/// Turns a core result into Python's.
pub trait OrRaise<T> {
    /// The value, or the exception.
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> OrRaise<T> for Result<T> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| to_py(py, error))
    }
}
