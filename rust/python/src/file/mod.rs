//! Files, for `strongroom.files` and `strongroom.bulk`.

mod batch;
mod handles;
mod keys;
mod single;
mod slots;
mod stream;

use std::path::Path;

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use strongroom_core::Error;
use strongroom_core::file::{Side, Trouble};

use crate::errors::to_py;

pyo3::import_exception!(shutil, SameFileError);

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<keys::FileKeys>()?;
    m.add_class::<handles::FileReader>()?;
    m.add_class::<handles::FileWriter>()?;
    m.add_class::<stream::StreamEncryptor>()?;
    m.add_class::<stream::StreamDecryptor>()?;
    single::register(m)?;
    slots::register(m)?;
    batch::register(m)
}

/// The side that an error of the core is about, where it is about one.
fn side(error: &Error) -> Option<Side> {
    match Trouble::of(error) {
        Some(Trouble::Os(side, _)) => Some(*side),
        _ => None,
    }
}

/// The exception for an error of the core's file module, with the name of the file that it is
/// about, where that is known.
fn raise(py: Python<'_>, error: Error, source: Option<&Path>, target: Option<&Path>) -> PyErr {
    match Trouble::of(&error) {
        Some(Trouble::Os(side, errno)) => {
            let number = errno.raw_os_error();
            let text = std::io::Error::from_raw_os_error(number).to_string();
            let text = text
                .split(" (os error")
                .next()
                .unwrap_or_default()
                .to_owned();
            let name = match side {
                Side::Source => source,
                Side::Target => target.or(source),
            };
            match name {
                Some(name) => PyOSError::new_err((number, text, name.as_os_str().to_owned())),
                None => PyOSError::new_err((number, text)),
            }
        }
        Some(Trouble::SameFile) => SameFileError::new_err(match (source, target) {
            (Some(source), Some(target)) => format!("{source:?} and {target:?} are the same file"),
            _ => Trouble::SameFile.to_string(),
        }),
        None => to_py(py, error),
    }
}
