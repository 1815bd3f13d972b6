//! `MemoryLockedKey`: a key that stays in the core. And what protects secrets in memory.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use pyo3::exceptions::{PyRuntimeWarning, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyMemoryView, PyTuple};
use strongroom_core::error::hex;
use strongroom_core::keys::KeyHandle;
use strongroom_core::params::KEY_LEN;
use strongroom_core::secret::{self, ForkLocal, Policy, SharedBytes};
use zeroize::Zeroize;

use crate::buf::detached::detach;
use crate::buf::exit::at_end_of_interpreter;
use crate::buf::{Input, Output};
use crate::errors::OrRaise;
use crate::secure_buffer::{SecureBuffer, unless_raising};
use crate::views::Views;

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<MemoryLockedKey>()?;
    m.add_class::<SecureBuffer>()?;
    m.add_class::<MemoryStatus>()?;
    m.add_function(wrap_pyfunction!(memory_status, m)?)?;
    m.add_function(wrap_pyfunction!(set_memory_policy, m)?)?;
    #[cfg(strongroom_asan)]
    m.add_function(wrap_pyfunction!(crate::buf::planted::_planted_overrun, m)?)?;
    at_end_of_interpreter(end_all);
    Ok(())
}

/// What Python objects have, to be wiped at the end of the interpreter.
static LIVE: ForkLocal<Mutex<Live>> = ForkLocal::new(|| Mutex::new(Live::default()));

#[derive(Default)]
struct Live {
    secrets: Vec<Weak<dyn AtEnd>>,
    /// At this length the list is cleaned of those that are gone.
    full: usize,
}

/// What happens at the end of the interpreter to a secret that is still there.
pub trait AtEnd: Send + Sync {
    fn end(&self);
}

impl AtEnd for KeyHandle {
    fn end(&self) {
        self.destroy();
    }
}

impl AtEnd for SharedBytes {
    fn end(&self) {
        self.wipe();
    }
}

/// A secret that is wiped at the end of the interpreter, if not before.
pub fn share<T: AtEnd + 'static>(secret: T) -> Arc<T> {
    let secret = Arc::new(secret);
    let mut live = LIVE.get().lock().unwrap_or_else(PoisonError::into_inner);
    if live.secrets.len() >= live.full {
        live.secrets.retain(|secret| secret.strong_count() > 0);
        live.full = 64 + 2 * live.secrets.len();
    }
    let weak: Weak<T> = Arc::downgrade(&secret);
    live.secrets.push(weak);
    secret
}

extern "C" fn end_all() {
    let Some(live) = LIVE.get_if_made() else {
        return;
    };
    let secrets = std::mem::take(&mut live.lock().unwrap_or_else(PoisonError::into_inner).secrets);
    for secret in secrets {
        if let Some(secret) = secret.upgrade() {
            secret.end();
        }
    }
}

/// Warns, once in a process, if memory for secrets could not be locked.
#[inline]
pub fn warn_once(py: Python<'_>) -> PyResult<()> {
    let Some(text) = secret::take_warning() else {
        return Ok(());
    };
    let text = std::ffi::CString::new(text)?;
    PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), &text, 1)
}

/// A key of 32 bytes in locked memory.
#[pyclass(frozen, weakref, module = "strongroom")]
pub struct MemoryLockedKey {
    pub handle: Arc<KeyHandle>,
    views: Views,
}

impl MemoryLockedKey {
    pub fn wrap(handle: KeyHandle) -> Self {
        Self::of(share(handle))
    }

    /// One more name for a key: it is destroyed for all of them at once.
    pub fn of(handle: Arc<KeyHandle>) -> Self {
        Self {
            handle,
            views: Views::default(),
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
    let handle = KeyHandle::from_bytes(bytes).or_raise(key.py())?;
    warn_once(key.py())?;
    Ok(share(handle))
}

#[pymethods]
impl MemoryLockedKey {
    #[new]
    fn new(key: &Bound<'_, PyAny>) -> PyResult<Self> {
        let handle = key_argument(key)?;
        if key.is_instance_of::<PyByteArray>() {
            Output::new(key, "key")?.as_mut_slice().zeroize();
        }
        Ok(Self::of(handle))
    }

    /// A new random key, from the operating system.
    #[staticmethod]
    fn generate(py: Python<'_>) -> PyResult<Self> {
        let handle = KeyHandle::generate().or_raise(py)?;
        warn_once(py)?;
        Ok(Self::wrap(handle))
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

    /// Whether the key's pages are locked into RAM.
    #[getter]
    fn locked(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.handle.material().or_raise(py)?.is_locked())
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

    /// A read-only view of the key in locked memory, wiped by `destroy()`.
    fn view<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyMemoryView>> {
        let bytes = self.handle.shown().or_raise(py)?;
        self.views.give(py, bytes, true)
    }

    /// Wipes the key, for every object that holds it, and releases this object's views.
    fn destroy(&self, py: Python<'_>) -> PyResult<()> {
        // A call that is using the key may need the GIL to end.
        detach(py, || self.handle.destroy());
        self.views.take_back(py)
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    #[pyo3(signature = (*exception))]
    fn __exit__(&self, py: Python<'_>, exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        unless_raising(self.destroy(py), exception)
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

/// What protects secrets in this process.
#[pyclass(frozen, get_all, module = "strongroom")]
pub struct MemoryStatus {
    backend: &'static str,
    policy: &'static str,
    locked_bytes: usize,
    unlocked_bytes: usize,
    secrets: usize,
    limit: Option<u64>,
    wipes_on_fork: bool,
    failures: Vec<String>,
}

#[pymethods]
impl MemoryStatus {
    fn __repr__(&self) -> String {
        let limit = self
            .limit
            .map_or_else(|| "None".into(), |limit| limit.to_string());
        format!(
            "MemoryStatus(backend={:?}, policy={:?}, locked_bytes={}, unlocked_bytes={}, \
             secrets={}, limit={limit}, wipes_on_fork={}, failures={:?})",
            self.backend,
            self.policy,
            self.locked_bytes,
            self.unlocked_bytes,
            self.secrets,
            if self.wipes_on_fork { "True" } else { "False" },
            self.failures,
        )
    }
}

fn policy_name(policy: Policy) -> &'static str {
    match policy {
        Policy::Warn => "warn",
        Policy::Strict => "strict",
    }
}

/// What protects secrets here, and what failed.
#[pyfunction]
fn memory_status(py: Python<'_>) -> PyResult<MemoryStatus> {
    let status = secret::status().or_raise(py)?;
    warn_once(py)?;
    Ok(MemoryStatus {
        backend: status.backend,
        policy: policy_name(status.policy),
        locked_bytes: status.locked_bytes,
        unlocked_bytes: status.unlocked_bytes,
        secrets: status.secrets,
        limit: status.limit,
        wipes_on_fork: status.wipes_on_fork,
        failures: status.failures,
    })
}

/// Sets what happens when memory for secrets can't be locked: "warn" or "strict".
#[pyfunction]
#[pyo3(signature = (policy, /))]
fn set_memory_policy(policy: &str) -> PyResult<()> {
    secret::set_policy(match policy {
        "warn" => Policy::Warn,
        "strict" => Policy::Strict,
        _ => {
            return Err(PyValueError::new_err(format!(
                "{policy:?} is no policy: \"warn\" or \"strict\""
            )));
        }
    });
    Ok(())
}
