//! Counts and lengths from Python, which may be any integer there.

use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;
use strongroom_core::Error;

use crate::errors::OrRaise;

/// A number of bytes or threads. One below zero is a ValueError, and one above all memory a
/// LimitError, which is a ValueError too: PyO3 has an OverflowError for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number(pub usize);

impl<'py> FromPyObject<'_, 'py> for Number {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let error = match object.extract::<usize>() {
            Ok(number) => return Ok(Self(number)),
            Err(error) => error,
        };
        let py = object.py();
        if !error.is_instance_of::<PyOverflowError>(py) {
            return Err(error);
        }
        if object.lt(0)? {
            return Err(PyValueError::new_err(format!(
                "{} is negative",
                object.repr()?
            )));
        }
        Err(Error::Limit(format!(
            "{} is larger than any memory",
            object.repr()?
        )))
        .or_raise(py)
    }
}
