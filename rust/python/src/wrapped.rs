//! Boxes around keys, derivations, MACs and digests for the key store, whose keys stay in the core.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};
use strongroom_core::Error;
use strongroom_core::engine::Engine;
use strongroom_core::hash;
use strongroom_core::kdf::{self, MAC_LEN};
use strongroom_core::keys::{BoxLabel, KeyHandle};
use strongroom_core::params::{KEY_BOX_LEN, KEY_LEN};
use strongroom_core::secret::{Secret, scrubbed};
use zeroize::Zeroizing;

use crate::buf::{Input, new_bytes};
use crate::errors::OrRaise;
use crate::secret::MemoryLockedKey;

/// Bytes of a MAC in a row of a key store.
const SHORT_MAC_LEN: usize = 32;

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(seal_key, m)?)?;
    m.add_function(wrap_pyfunction!(open_key, m)?)?;
    m.add_function(wrap_pyfunction!(derive, m)?)?;
    m.add_function(wrap_pyfunction!(mac, m)?)?;
    m.add_function(wrap_pyfunction!(mac_fits, m)?)?;
    m.add_function(wrap_pyfunction!(sha256, m)?)?;
    m.add_function(wrap_pyfunction!(sha512, m)?)
}

fn label(name: &str) -> PyResult<BoxLabel> {
    match BoxLabel::from_name(name) {
        Some(BoxLabel::Record) | None => Err(PyValueError::new_err(format!(
            "no keys are boxed under the label {name:?}: \"master\", \"passphrase\" or \"wrap\""
        ))),
        Some(label) => Ok(label),
    }
}

/// `box(derive(wrapping, label), key, associated_data)`, 104 bytes.
#[pyfunction]
fn seal_key<'py>(
    wrapping: &Bound<'py, MemoryLockedKey>,
    label: &str,
    key: &Bound<'py, MemoryLockedKey>,
    associated_data: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyBytes>> {
    let py = wrapping.py();
    let label = self::label(label)?;
    let associated_data = Input::new(associated_data, "associated_data")?;
    let wrapping = wrapping.get().handle.material().or_raise(py)?;
    let key = key.get().handle.material().or_raise(py)?;
    new_bytes(py, KEY_BOX_LEN, |out| {
        let box_key = wrapping.box_key(label).or_raise(py)?;
        let key = key.expose().or_raise(py)?;
        let engine = Engine::for_record(KEY_LEN);
        scrubbed(|| box_key.seal_box(engine, associated_data.as_slice(), key, out)).or_raise(py)
    })
}

/// Opens what `seal_key` made.
#[pyfunction]
#[pyo3(signature = (wrapping, label, r#box, associated_data))]
fn open_key(
    wrapping: &Bound<'_, MemoryLockedKey>,
    label: &str,
    r#box: &Bound<'_, PyAny>,
    associated_data: &Bound<'_, PyAny>,
) -> PyResult<MemoryLockedKey> {
    let py = wrapping.py();
    let label = self::label(label)?;
    let sealed = Input::new(r#box, "box")?;
    let sealed = sealed.as_slice();
    let associated_data = Input::new(associated_data, "associated_data")?;
    if sealed.len() != KEY_BOX_LEN {
        return Err(Error::Format(format!(
            "the box around a key has {KEY_BOX_LEN} bytes, not {}",
            sealed.len()
        )))
        .or_raise(py);
    }
    let wrapping = wrapping.get().handle.material().or_raise(py)?;
    let box_key = wrapping.box_key(label).or_raise(py)?;
    let mut opened = Ok(());
    let key = Secret::<[u8; KEY_LEN]>::new_with(|out| {
        let engine = Engine::for_record(KEY_LEN);
        opened = scrubbed(|| box_key.open_box(engine, associated_data.as_slice(), sealed, out));
    })
    .or_raise(py)?;
    opened.or_raise(py)?;
    Ok(MemoryLockedKey::wrap(
        KeyHandle::from_secret(key).or_raise(py)?,
    ))
}

/// The first `length` bytes that a purpose's label derives, for the caller to wipe.
#[pyfunction]
#[pyo3(signature = (key, label, length=32))]
fn derive<'py>(
    key: &Bound<'py, MemoryLockedKey>,
    label: &str,
    length: usize,
) -> PyResult<Bound<'py, PyByteArray>> {
    let py = key.py();
    if !matches!(label, "database" | "names" | "audit") {
        return Err(PyValueError::new_err(format!(
            "nothing is derived under the label {label:?}: \"database\", \"names\" or \"audit\""
        )));
    }
    if !(1..=MAC_LEN).contains(&length) {
        return Err(PyValueError::new_err(format!(
            "length is {length}: 1 to 64 bytes are derived"
        )));
    }
    let material = key.get().handle.material().or_raise(py)?;
    let derived = material.derive::<MAC_LEN>(label).or_raise(py)?;
    PyByteArray::new_with(py, length, |out| {
        out.copy_from_slice(&derived[..length]);
        Ok(())
    })
}

/// HMAC-SHA-512 of `data` under `derive(key, label)`, 64 bytes.
#[pyfunction]
fn mac<'py>(
    key: &Bound<'py, MemoryLockedKey>,
    label: &str,
    data: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyBytes>> {
    let mac_key = mac_key(key, label)?;
    let data = Input::new(data, "data")?;
    let made = scrubbed(|| kdf::hmac_sha512(&mac_key[..], &[data.as_slice()]));
    Ok(PyBytes::new(key.py(), &made[..]))
}

/// Whether `found`, 32 or 64 bytes, is how `mac(key, label, data)` begins.
#[pyfunction]
fn mac_fits(
    key: &Bound<'_, MemoryLockedKey>,
    label: &str,
    data: &Bound<'_, PyAny>,
    found: &Bound<'_, PyAny>,
) -> PyResult<bool> {
    let mac_key = mac_key(key, label)?;
    let data = Input::new(data, "data")?;
    let found = Input::new(found, "found")?;
    let found = found.as_slice();
    // A shorter one is guessed sooner, and an empty one is how any begins.
    Ok(matches!(found.len(), SHORT_MAC_LEN | MAC_LEN)
        && scrubbed(|| kdf::hmac_sha512_fits(&mac_key[..], &[data.as_slice()], found)))
}

fn mac_key(key: &Bound<'_, MemoryLockedKey>, label: &str) -> PyResult<Zeroizing<[u8; KEY_LEN]>> {
    let py = key.py();
    if !matches!(label, "store mac" | "digest") {
        return Err(PyValueError::new_err(format!(
            "no MACs are made under the label {label:?}: \"store mac\" or \"digest\""
        )));
    }
    let material = key.get().handle.material().or_raise(py)?;
    material.derive::<KEY_LEN>(label).or_raise(py)
}

/// SHA-256 (FIPS 180-4). Python's hashlib loads OpenSSL, which costs a command that opens a key
/// store more than all it hashes.
#[pyfunction]
fn sha256<'py>(data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let digest = hash::sha256(Input::new(data, "data")?.as_slice());
    Ok(PyBytes::new(data.py(), &digest))
}

/// SHA-512 (FIPS 180-4), for the same reason.
#[pyfunction]
fn sha512<'py>(data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let digest = hash::sha512(Input::new(data, "data")?.as_slice());
    Ok(PyBytes::new(data.py(), &digest))
}
