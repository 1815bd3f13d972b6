//! `MemoryLockedKey`: a key that stays in the core.

use std::sync::Arc;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyByteArray;
use strongroom_core::error::hex;
use strongroom_core::keys::KeyHandle;
use strongroom_core::params::KEY_LEN;
use zeroize::Zeroize;

use crate::buf::{Input, Output};
use crate::errors::OrRaise;

/// A key of 32 bytes in locked memory.
#[pyclass(frozen, module = "strongroom")]
pub struct MemoryLockedKey {
    pub handle: Arc<KeyHandle>,
}

impl MemoryLockedKey {
    pub fn wrap(handle: KeyHandle) -> Self {
        Self {
            handle: Arc::new(handle),
        }
    }
}

/// The key of an argument: a `MemoryLockedKey`, shared, or any buffer of 32 bytes, copied.
pub fn key_argument(key: &Bound<'_, PyAny>) -> PyResult<Arc<KeyHandle>> {
    if let Ok(key) = key.cast::<MemoryLockedKey>() {
        return Ok(Arc::clone(&key.get().handle));
    }
    let input = Input::new(key, "key")?;
    let bytes: &[u8; KEY_LEN] = input.as_slice().try_into().map_err(|_| {
        PyValueError::new_err(format!(
            "key has {} bytes, a key has 32: generate_key() makes one",
            input.as_slice().len()
        ))
    })?;
    Ok(Arc::new(KeyHandle::from_bytes(bytes).or_raise(key.py())?))
}

#[pymethods]
impl MemoryLockedKey {
    #[new]
    fn new(key: &Bound<'_, PyAny>) -> PyResult<Self> {
        let handle = key_argument(key)?;
        if key.is_instance_of::<PyByteArray>() {
            Output::new(key, "key")?.as_mut_slice().zeroize();
        }
        Ok(Self { handle })
    }

    /// A new random key, from the operating system.
    #[staticmethod]
    fn generate(py: Python<'_>) -> PyResult<Self> {
        Ok(Self::wrap(KeyHandle::generate().or_raise(py)?))
    }

    /// The key's public name, 32 hex digits.
    #[getter]
    fn key_id(&self) -> String {
        hex(&self.handle.id())
    }

    /// Whether `destroy()` was called.
    #[getter]
    fn destroyed(&self) -> bool {
        self.handle.is_destroyed()
    }

    /// The key as a fresh `bytearray`, which the caller wipes.
    fn get<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyByteArray>> {
        let material = self.handle.material().or_raise(py)?;
        let key = material.expose().or_raise(py)?;
        PyByteArray::new_with(py, KEY_LEN, |out| {
            out.copy_from_slice(key);
            Ok(())
        })
    }

    /// Wipes the key, for every object that holds it.
    fn destroy(&self, py: Python<'_>) {
        // A call that is using the key may need the GIL to end.
        py.detach(|| self.handle.destroy());
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, pyo3::types::PyTuple>) {
        self.destroy(py);
    }

    fn __repr__(&self) -> String {
        let state = if self.handle.is_destroyed() {
            ", destroyed"
        } else {
            ""
        };
        format!("<MemoryLockedKey {}{state}>", self.key_id())
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "a MemoryLockedKey can't be pickled or copied: it stays in this process",
        ))
    }
}
