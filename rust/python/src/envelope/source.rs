//! What an envelope is opened with: the keys of a keyset, and KEKs that a master unwraps.

use std::cell::Cell;
use std::sync::Arc;

use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use strongroom_core::envelope::{self, KeySource};
use strongroom_core::error::hex;
use strongroom_core::keys::{KeyId, Material};
use strongroom_core::{Error, Result};

use super::EnvelopeCipher;
use crate::errors::{DecryptionError, to_py};
use crate::keyring::KeyringSource;
use crate::secret::MemoryLockedKey;

/// The keys of a cipher for the time of one call with the GIL held.
pub struct Source<'a, 'py> {
    cipher: &'a Bound<'py, EnvelopeCipher>,
    keyring: Option<KeyringSource<'a>>,
    /// The first exception of a master, or the one that ended the opening.
    raised: Cell<Option<PyErr>>,
    ended: Cell<bool>,
}

impl<'a, 'py> Source<'a, 'py> {
    pub fn new(cipher: &'a Bound<'py, EnvelopeCipher>, allow_compromised: bool) -> Self {
        let keyring = cipher.get().keyring.as_ref();
        Self {
            cipher,
            keyring: keyring.map(|keyring| KeyringSource::new(keyring.get(), allow_compromised)),
            raised: Cell::new(None),
            ended: Cell::new(false),
        }
    }

    /// The exception for an error of the opening.
    pub fn to_py(&self, py: Python<'_>, error: Error) -> PyErr {
        match (error, self.raised.take()) {
            (Error::Master(_), Some(raised)) => raised,
            (Error::Interrupted, Some(raised)) if self.ended.get() => raised,
            (error, _) => match &self.keyring {
                Some(keyring) => keyring.to_py(py, error),
                None => to_py(py, error),
            },
        }
    }

    /// What an exception of the master means for the opening.
    fn refused(&self, error: PyErr) -> Error {
        let py = self.cipher.py();
        if error.is_instance_of::<DecryptionError>(py) {
            return Error::DECRYPTION;
        }
        if !error.is_instance_of::<PyException>(py) {
            self.raised.set(Some(error));
            self.ended.set(true);
            return Error::Interrupted;
        }
        let first = self.raised.take();
        self.raised.set(Some(first.unwrap_or(error)));
        Error::Master("the master refused or is out of reach".into())
    }
}

impl KeySource for Source<'_, '_> {
    fn keyset_key(&self, id: &KeyId) -> Result<Option<Arc<Material>>> {
        match &self.keyring {
            Some(keyring) => keyring.keyset_key(id),
            None => Ok(None),
        }
    }

    fn master_key(&self, kek_id: &KeyId, wrapped: &[u8]) -> Result<Option<Arc<Material>>> {
        let this = self.cipher.get();
        let Some(master) = &this.master else {
            return Ok(None);
        };
        let entry = envelope::kek_entry(kek_id, wrapped);
        let kept = this.cache().take_opened(&entry);
        if let Some(kek) = kept {
            return kek.key.material().map(Some);
        }
        let py = self.cipher.py();
        let wrapped = PyBytes::new(py, wrapped);
        let entry = PyBytes::new(py, &entry);
        let key: Option<Py<MemoryLockedKey>> = master
            .bind(py)
            .call_method1("unwrap", (self.cipher, wrapped, hex(kek_id), entry))
            .and_then(|key| key.extract().map_err(PyErr::from))
            .map_err(|error| self.refused(error))?;
        key.map(|key| key.get().handle.material()).transpose()
    }
}
