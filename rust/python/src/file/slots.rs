//! Slots added to files and taken away.

use std::path::PathBuf;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use strongroom_core::envelope::NewSlot;
use strongroom_core::file::{self, Located, Side, Which};
use strongroom_core::params::PASSPHRASE_SALT_LEN;
use strongroom_core::slot::PassphraseParams;

use super::keys::{Asked, FileKeys};
use super::single::detached;
use crate::errors::OrRaise;
use crate::keyring::{Keyring, parse_id};
use crate::secret::MemoryLockedKey;
use crate::tick::Ticker;

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(file_slot_add, m)?)?;
    m.add_function(wrap_pyfunction!(file_slot_remove, m)?)
}

/// Argon2id's output and what it was made with.
type Passphrase = (
    Py<MemoryLockedKey>,
    (u32, u32, u8, [u8; PASSPHRASE_SALT_LEN]),
);

/// Adds one slot to a file: of a keyring's primary, of a passphrase, or of a KEK and its wrapping.
/// False where the keyring's is there.
#[pyfunction]
#[pyo3(signature = (path, keys, *, keyring=None, passphrase=None, kek=None, copy=false))]
fn file_slot_add(
    py: Python<'_>,
    path: PathBuf,
    keys: &Bound<'_, FileKeys>,
    keyring: Option<&Bound<'_, Keyring>>,
    passphrase: Option<Passphrase>,
    kek: Option<(Py<MemoryLockedKey>, Vec<u8>)>,
    copy: bool,
) -> PyResult<bool> {
    let primary = keyring
        .map(|keyring| keyring.get().primary(py))
        .transpose()?;
    let handle = match (&primary, &passphrase, &kek) {
        (Some((_, key)), None, None) => key,
        (None, Some((key, _)), None) | (None, None, Some((key, _))) => &key.get().handle,
        _ => return Err(PyValueError::new_err("one slot is added at a time")),
    };
    let material = handle.material().or_raise(py)?;
    let new = match (&passphrase, &kek) {
        (Some((_, (memory_kib, passes, lanes, salt))), _) => NewSlot::Passphrase {
            params: PassphraseParams {
                memory_kib: *memory_kib,
                passes: *passes,
                lanes: *lanes,
                salt: *salt,
            },
            key: &material,
        },
        (None, Some((_, wrapped))) => NewSlot::Master {
            kek_id: handle.id(),
            wrapped,
            key: &material,
        },
        (None, None) => NewSlot::Keyset {
            id: handle.id(),
            key: &material,
        },
    };
    let asked = Asked::new(keys.get());
    detached(py, &asked, Ticker::new(), (Some(&path), None), |ticker| {
        let at = Located::new(&path, Side::Source)?;
        file::add_slot(at.place(), &asked, &new, copy, &mut |done| {
            ticker.tick(done)
        })
    })
}

/// Takes away the slots of a key id, or of passphrases; returns how many there were.
#[pyfunction]
#[pyo3(signature = (path, keys, key_id, copy=false))]
fn file_slot_remove(
    py: Python<'_>,
    path: PathBuf,
    keys: &Bound<'_, FileKeys>,
    key_id: Option<&str>,
    copy: bool,
) -> PyResult<usize> {
    let which = match key_id {
        Some(id) => Which::Key(parse_id(id)?),
        None => Which::Passphrases,
    };
    let asked = Asked::new(keys.get());
    detached(py, &asked, Ticker::new(), (Some(&path), None), |ticker| {
        let at = Located::new(&path, Side::Source)?;
        file::remove_slots(at.place(), &asked, which, copy, &mut |done| {
            ticker.tick(done)
        })
    })
}
