//! What files are opened with and written under: a keyset, a passphrase, or both.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use strongroom_core::envelope::{KeySource, NewSlot};
use strongroom_core::error::hex;
use strongroom_core::file::RewrapKeys;
use strongroom_core::keys::{KeyId, Material};
use strongroom_core::params::PASSPHRASE_SALT_LEN;
use strongroom_core::slot::PassphraseParams;
use strongroom_core::{Error, Result};

use crate::buf::detached::attach;
use crate::errors::{DecryptionError, OrRaise};
use crate::keyring::{Compromised, Keyring, KeyringSource};
use crate::secret::MemoryLockedKey;
use crate::tick::Ticker;

/// A keyring, a function that makes a passphrase's key, and the costs that new slots are given.
#[pyclass(frozen, module = "strongroom._native")]
pub struct FileKeys {
    keyring: Option<Py<Keyring>>,
    passphrase: Option<Py<PyAny>>,
    /// `master(wrapped, kek_id)` returns the KEK that a master unwraps, or None.
    master: Option<Py<PyAny>>,
    cost: Option<PassphraseParams>,
    allow_compromised: bool,
}

#[pymethods]
impl FileKeys {
    #[new]
    #[pyo3(signature = (keyring, passphrase=None, cost=None, *, allow_compromised=false, master=None))]
    fn new(
        py: Python<'_>,
        keyring: Option<Py<Keyring>>,
        passphrase: Option<Py<PyAny>>,
        cost: Option<(u32, u32, u8, [u8; PASSPHRASE_SALT_LEN])>,
        allow_compromised: bool,
        master: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        if keyring.is_none() && passphrase.is_none() && master.is_none() {
            return Err(PyValueError::new_err(
                "give a key store, a passphrase, or both",
            ));
        }
        let cost = cost.map(|(memory_kib, passes, lanes, salt)| PassphraseParams {
            memory_kib,
            passes,
            lanes,
            salt,
        });
        if let Some(cost) = &cost {
            cost.check().or_raise(py)?;
        }
        Ok(Self {
            keyring,
            passphrase,
            master,
            cost,
            allow_compromised,
        })
    }
}

/// The keys for the time of one call: each is asked for once.
pub struct Asked<'a> {
    keys: &'a FileKeys,
    compromised: Compromised,
    found: Mutex<HashMap<KeyId, Arc<Material>>>,
    raised: Mutex<Option<PyErr>>,
    /// The first exception of a master that could not be asked.
    refused: Mutex<Option<PyErr>>,
}

impl<'a> Asked<'a> {
    pub fn new(keys: &'a FileKeys) -> Self {
        Self {
            keys,
            compromised: keys.allow_compromised.into(),
            found: Mutex::new(HashMap::new()),
            raised: Mutex::new(None),
            refused: Mutex::new(None),
        }
    }

    pub fn for_rewrap(keys: &'a FileKeys) -> Self {
        Self {
            compromised: Compromised::ForRewrap,
            ..Self::new(keys)
        }
    }

    fn attach<T>(&self, ask: impl FnOnce(Python<'_>) -> PyResult<Result<T>>) -> Result<T> {
        attach(ask).unwrap_or_else(|error| {
            *self.raised.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            Err(Error::Interrupted)
        })
    }

    fn ask(
        &self,
        keyring: &Keyring,
        id: &KeyId,
        compromised: Compromised,
    ) -> Result<Option<Arc<Material>>> {
        let source = KeyringSource::new(keyring, compromised);
        match source.keyset_key(id) {
            Err(Error::Interrupted) => self.attach(|py| Err(source.to_py(py, Error::Interrupted))),
            other => other,
        }
    }

    /// The exception for an error of the work: the one that a key store or a tick raised, if it
    /// was that.
    pub fn take_raised(&self, ticker: Ticker<'_>, py: Python<'_>, error: Error) -> OrPyErr {
        let raised = self
            .raised
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let refused = self
            .refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match (error, raised) {
            (Error::Master(text), _) => {
                refused.map_or(OrPyErr::Core(Error::Master(text)), OrPyErr::Raised)
            }
            (Error::Interrupted, Some(raised)) => OrPyErr::Raised(raised),
            (Error::Interrupted, None) => {
                OrPyErr::Raised(ticker.into_py_err(py, Error::Interrupted))
            }
            (error, _) => OrPyErr::Core(match &self.keys.keyring {
                Some(keyring) => keyring.get().noted(error),
                None => error,
            }),
        }
    }

    /// The keys that a new message is written under; kept for [`Slots::each`].
    pub fn slots(&self) -> Result<Slots> {
        let primary = match &self.keys.keyring {
            Some(_) => Some(self.primary()?),
            None => None,
        };
        let passphrase = match self.keys.cost {
            Some(params) => Some((
                params,
                self.passphrase_key(&params)?.ok_or_else(|| {
                    Error::Invalid("a cost for a passphrase was given, and no passphrase".into())
                })?,
            )),
            None => None,
        };
        Ok(Slots {
            primary,
            passphrase,
        })
    }
}

/// An error of the core, or an exception that a callback raised.
pub enum OrPyErr {
    Core(Error),
    Raised(PyErr),
}

/// The keys of a new message's slots.
pub struct Slots {
    primary: Option<(KeyId, Arc<Material>)>,
    passphrase: Option<(PassphraseParams, Arc<Material>)>,
}

impl Slots {
    /// The keyset's key, where there is one.
    pub fn key_id(&self) -> Option<KeyId> {
        self.primary.as_ref().map(|(id, _)| *id)
    }

    /// The slots, the keyset's first.
    pub fn each(&self) -> Vec<NewSlot<'_>> {
        let primary = self
            .primary
            .as_ref()
            .map(|(id, key)| NewSlot::Keyset { id: *id, key });
        let passphrase = self
            .passphrase
            .as_ref()
            .map(|(params, key)| NewSlot::Passphrase {
                params: *params,
                key,
            });
        primary.into_iter().chain(passphrase).collect()
    }
}

impl KeySource for Asked<'_> {
    fn keyset_key(&self, id: &KeyId) -> Result<Option<Arc<Material>>> {
        let Some(keyring) = &self.keys.keyring else {
            return Ok(None);
        };
        let lock = || self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = lock().get(id) {
            return Ok(Some(Arc::clone(found)));
        }
        let found = self.ask(keyring.get(), id, self.compromised)?;
        if let Some(found) = &found {
            lock().insert(*id, Arc::clone(found));
        }
        Ok(found)
    }

    fn has_passphrase(&self) -> bool {
        self.keys.passphrase.is_some()
    }

    fn passphrase_key(&self, params: &PassphraseParams) -> Result<Option<Arc<Material>>> {
        let Some(passphrase) = &self.keys.passphrase else {
            return Ok(None);
        };
        self.attach(|py| {
            let salt = PyBytes::new(py, &params.salt);
            let key = passphrase.bind(py).call1((
                params.memory_kib,
                params.passes,
                params.lanes,
                salt,
            ))?;
            Ok(key.cast_into::<MemoryLockedKey>()?.get().handle.material())
        })
        .map(Some)
    }

    fn master_key(&self, kek_id: &KeyId, wrapped: &[u8]) -> Result<Option<Arc<Material>>> {
        let Some(master) = &self.keys.master else {
            return Ok(None);
        };
        self.attach(|py| {
            let asked = master
                .bind(py)
                .call1((PyBytes::new(py, wrapped), hex(kek_id)))
                .and_then(|key| {
                    let key: Option<Py<MemoryLockedKey>> = key.extract()?;
                    Ok(key)
                });
            match asked {
                Ok(key) => Ok(key.map(|key| key.get().handle.material()).transpose()),
                Err(error) if error.is_instance_of::<DecryptionError>(py) => {
                    Ok(Err(Error::DECRYPTION))
                }
                Err(error) if error.is_instance_of::<PyException>(py) => {
                    let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
                    refused.get_or_insert(error);
                    Ok(Err(Error::Master("the master refused".into())))
                }
                Err(error) => Err(error),
            }
        })
    }
}

impl RewrapKeys for Asked<'_> {
    fn primary(&self) -> Result<(KeyId, Arc<Material>)> {
        let Some(keyring) = &self.keys.keyring else {
            return Err(Error::Invalid("give a key store".into()));
        };
        self.attach(|py| {
            let (id, handle) = keyring.get().primary(py)?;
            Ok(handle.material().map(|material| (id, material)))
        })
    }

    fn is_compromised(&self, id: &KeyId) -> Result<bool> {
        let Some(keyring) = &self.keys.keyring else {
            return Ok(false);
        };
        match self.ask(keyring.get(), id, Compromised::Refused) {
            Err(Error::KeyState {
                state: "compromised",
                ..
            }) => Ok(true),
            other => other.map(|_| false),
        }
    }
}
