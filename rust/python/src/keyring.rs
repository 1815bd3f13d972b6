//! `Keyring`: the keys of one keyset as the core sees them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use strongroom_core::envelope::KeySource;
use strongroom_core::error::hex;
use strongroom_core::keys::{KeyHandle, KeyId, Material};
use strongroom_core::{Error, Result, secret};

use crate::buf::detached::attach;
use crate::errors::{KeyStoreError, OrRaise, to_py};
use crate::secret::MemoryLockedKey;

/// What a reload returns: primary id, (id, state, keyset, key, note) each, seconds it may be kept,
/// and why there is no primary.
type Reloaded = (Option<String>, Vec<Row>, f64, String);
type Row = (String, String, String, Option<Py<MemoryLockedKey>>, String);

/// A key with its state.
pub struct Entry {
    id: KeyId,
    pub state: State,
    keyset: String,
    key: Option<Arc<KeyHandle>>,
    /// What a refusal adds, such as "destroyed on 2026-01-31".
    note: String,
}

/// Whether a compromised key opens what it wrote.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Compromised {
    Refused,
    /// The caller said so: each use is an event for the audit log.
    Allowed,
    /// To bring a message under another key, which is what ends such uses.
    ForRewrap,
}

impl From<bool> for Compromised {
    fn from(allowed: bool) -> Self {
        if allowed {
            Self::Allowed
        } else {
            Self::Refused
        }
    }
}

/// States of NIST SP 800-57 part 1.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum State {
    PreActive,
    Active,
    Suspended,
    Deactivated,
    Compromised,
    Destroyed,
}

impl State {
    fn from_name(name: &str) -> PyResult<Self> {
        Ok(match name {
            "pre-active" => State::PreActive,
            "active" => State::Active,
            "suspended" => State::Suspended,
            "deactivated" => State::Deactivated,
            "compromised" => State::Compromised,
            "destroyed" => State::Destroyed,
            _ => {
                return Err(PyValueError::new_err(format!(
                    "{name:?} is no state of a key"
                )));
            }
        })
    }
}

impl Entry {
    /// The key, where its state lets it open what it wrote.
    fn for_opening(&self, compromised: Compromised) -> Result<Option<&Arc<KeyHandle>>> {
        let refuse = |message: String, state| {
            Err(Error::KeyState {
                message,
                key_id: Some(self.id),
                state,
            })
        };
        match self.state {
            State::Destroyed => Ok(None),
            State::Suspended => refuse(
                format!(
                    "key {} is suspended: resume it to decrypt with it",
                    hex(&self.id)
                ),
                "suspended",
            ),
            State::Compromised if compromised == Compromised::Refused => refuse(
                format!(
                    "key {} is compromised: decrypt with allow_compromised=True",
                    hex(&self.id)
                ),
                "compromised",
            ),
            _ => Ok(self.key.as_ref()),
        }
    }

    /// Reports the use of a compromised key that the caller allowed; an event that can't be
    /// sealed is raised, and ends the use.
    fn report(&self, py: Python<'_>, compromised: Compromised) -> PyResult<()> {
        if self.state != State::Compromised || compromised != Compromised::Allowed {
            return Ok(());
        }
        let fields = PyDict::new(py);
        fields.set_item("key_id", hex(&self.id))?;
        fields.set_item("keyset", &self.keyset)?;
        fields.set_item("operation", "decrypt")?;
        fields.set_item("allowed", "allow_compromised")?;
        py.import("strongroom._events")?.call_method(
            "report",
            ("key.compromised_use",),
            Some(&fields),
        )?;
        Ok(())
    }
}

/// One loaded state of the keyset.
struct Contents {
    generation: u64,
    ticket: u64,
    expires: Instant,
    primary: Option<Arc<Entry>>,
    why: String,
    keys: HashMap<KeyId, Arc<Entry>>,
}

/// The keys of one keyset, loaded when they are needed.
#[pyclass(frozen, module = "strongroom._native")]
pub struct Keyring {
    reload: Py<PyAny>,
    // Only ever taken by threads that hold the GIL, so never held while the process forks.
    contents: RwLock<Option<Arc<Contents>>>,
    closed: AtomicBool,
    // Loads are numbered as they begin; one that began before the floor was raised is not kept.
    tickets: AtomicU64,
    floor: AtomicU64,
}

impl Keyring {
    fn loaded(&self, py: Python<'_>) -> PyResult<Arc<Contents>> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(KeyStoreError::new_err(
                "the key store is closed: open it again",
            ));
        }
        let contents = self.contents.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(contents) = &*contents
            && contents.generation == secret::generation()
            && Instant::now() < contents.expires
        {
            return Ok(Arc::clone(contents));
        }
        drop(contents);
        self.load(py, None)
    }

    fn load(&self, py: Python<'_>, missing: Option<&KeyId>) -> PyResult<Arc<Contents>> {
        // Both before the store is read: what another thread changes meanwhile is newer.
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let began = Instant::now();
        let reloaded = self.reload.bind(py).call1((missing.map(|id| hex(id)),))?;
        let (primary, rows, seconds, why): Reloaded = reloaded.extract()?;
        let primary = primary.map(|id| parse_id(&id)).transpose()?;
        let mut keys = HashMap::with_capacity(rows.len());
        for (id, state, keyset, key, note) in rows {
            let id = parse_id(&id)?;
            let state = State::from_name(&state)?;
            let key = key.map(|key| Arc::clone(&key.get().handle));
            keys.insert(
                id,
                Arc::new(Entry {
                    id,
                    state,
                    keyset,
                    key,
                    note,
                }),
            );
        }
        let contents = Arc::new(Contents {
            generation: secret::generation(),
            ticket,
            expires: began + Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO),
            primary: primary.and_then(|id| keys.get(&id).cloned()),
            why,
            keys,
        });
        let mut cell = self
            .contents
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let newer = cell
            .as_ref()
            .is_some_and(|kept| kept.generation == contents.generation && kept.ticket > ticket);
        if ticket >= self.floor.load(Ordering::Relaxed) && !newer {
            *cell = Some(Arc::clone(&contents));
        }
        Ok(contents)
    }

    /// The primary key's entry and handle.
    pub fn primary(&self, py: Python<'_>) -> PyResult<(KeyId, Arc<KeyHandle>)> {
        let contents = self.loaded(py)?;
        if let Some(entry) = &contents.primary
            && entry.state == State::Active
            && let Some(key) = &entry.key
        {
            return Ok((entry.id, Arc::clone(key)));
        }
        Err(Error::KeyState {
            message: contents.why.clone(),
            key_id: None,
            state: "none",
        })
        .or_raise(py)
    }

    /// The entry of an id; an unknown one is looked up again at once.
    pub fn entry(&self, py: Python<'_>, id: &KeyId) -> PyResult<Option<Arc<Entry>>> {
        let contents = self.loaded(py)?;
        if let Some(entry) = contents.keys.get(id) {
            return Ok(Some(Arc::clone(entry)));
        }
        Ok(self.load(py, Some(id))?.keys.get(id).cloned())
    }

    /// The handle of an id for opening a record.
    pub fn opening_key(
        &self,
        py: Python<'_>,
        id: &KeyId,
        compromised: impl Into<Compromised>,
    ) -> PyResult<Arc<KeyHandle>> {
        let compromised = compromised.into();
        let entry = self.entry(py, id)?;
        if let Some(entry) = &entry
            && let Some(key) = entry.for_opening(compromised).or_raise(py)?
        {
            entry.report(py, compromised)?;
            return Ok(Arc::clone(key));
        }
        let error = Error::KeyNotFound {
            message: format!(
                "no key {} in this keyset: it may be retired or destroyed, or of another keyset",
                hex(id)
            ),
            key_id: Some(*id),
        };
        Err(self.noted(error)).or_raise(py)
    }

    /// An error that names keys which are not here, with what is known of those that were.
    pub fn noted(&self, error: Error) -> Error {
        let Error::KeyNotFound {
            mut message,
            key_id,
        } = error
        else {
            return error;
        };
        let contents = self.contents.read().unwrap_or_else(PoisonError::into_inner);
        let mut notes: Vec<_> = contents
            .iter()
            .flat_map(|contents| contents.keys.values())
            .filter(|entry| entry.state == State::Destroyed && message.contains(&hex(&entry.id)))
            .map(|entry| format!("; {} was {}", hex(&entry.id), entry.note))
            .collect();
        drop(contents);
        notes.sort();
        message.push_str(&notes.concat());
        Error::KeyNotFound { message, key_id }
    }
}

/// The id that 32 hex digits are.
pub fn parse_id(text: &str) -> PyResult<KeyId> {
    let bad = || PyValueError::new_err(format!("{text:?} is no key id: 32 hex digits"));
    let mut id = KeyId::default();
    if text.len() != 2 * id.len() || !text.is_ascii() {
        return Err(bad());
    }
    for (number, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * number..2 * number + 2], 16).map_err(|_| bad())?;
    }
    Ok(id)
}

#[pymethods]
impl Keyring {
    #[new]
    fn new(reload: Py<PyAny>) -> Self {
        Self {
            reload,
            contents: RwLock::new(None),
            closed: AtomicBool::new(false),
            tickets: AtomicU64::new(0),
            floor: AtomicU64::new(0),
        }
    }

    /// Forgets what was loaded, and what is being loaded at this moment.
    fn invalidate(&self) {
        let mut cell = self
            .contents
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let floor = self.tickets.load(Ordering::Relaxed);
        self.floor.store(floor, Ordering::Relaxed);
        cell.take();
    }

    /// Forgets what was loaded, for good.
    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.invalidate();
    }

    /// State and keyset of a key, or None.
    fn lookup(&self, py: Python<'_>, key_id: &str) -> PyResult<Option<String>> {
        Ok(self
            .entry(py, &parse_id(key_id)?)?
            .map(|entry| entry.keyset.clone()))
    }

    /// The primary key's id.
    #[getter]
    fn primary_id(&self, py: Python<'_>) -> PyResult<String> {
        Ok(hex(&self.primary(py)?.0))
    }

    fn __repr__(&self) -> &'static str {
        "<Keyring>"
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "a Keyring can't be pickled: open the store in the other process",
        ))
    }
}

/// A keyring as a source of keys for envelopes. Takes the GIL for what is not loaded.
pub struct KeyringSource<'a> {
    keyring: &'a Keyring,
    compromised: Compromised,
    raised: std::sync::Mutex<Option<PyErr>>,
}

impl<'a> KeyringSource<'a> {
    pub fn new(keyring: &'a Keyring, compromised: impl Into<Compromised>) -> Self {
        Self {
            keyring,
            compromised: compromised.into(),
            raised: std::sync::Mutex::new(None),
        }
    }

    /// The exception for an error of the work: the one that a reload raised, if it was that.
    pub fn to_py(&self, py: Python<'_>, error: Error) -> PyErr {
        let raised = self
            .raised
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match (error, raised) {
            (Error::Interrupted, Some(raised)) => raised,
            (error, _) => to_py(py, self.keyring.noted(error)),
        }
    }

    fn attach<T>(&self, call: impl FnOnce(Python<'_>) -> PyResult<T>) -> Result<T> {
        attach(call).map_err(|error| {
            *self.raised.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            Error::Interrupted
        })
    }
}

impl KeySource for KeyringSource<'_> {
    fn keyset_key(&self, id: &KeyId) -> Result<Option<Arc<Material>>> {
        let Some(entry) = self.attach(|py| self.keyring.entry(py, id))? else {
            return Ok(None);
        };
        let Some(key) = entry.for_opening(self.compromised)? else {
            return Ok(None);
        };
        let material = key.material()?;
        if entry.state == State::Compromised {
            self.attach(|py| entry.report(py, self.compromised))?;
        }
        Ok(Some(material))
    }
}
