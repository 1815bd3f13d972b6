//! `Keyring`, the keys of one keyset as the core sees them, and `KeysetCipher`, the native half of
//! `VersionedEncryption`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use strongroom_core::engine::Engine;
use strongroom_core::envelope::{self, Header, KeySource, NewSlot};
use strongroom_core::error::hex;
use strongroom_core::keys::{KeyHandle, KeyId, Material};
use strongroom_core::params::{
    KIND_ENVELOPE, KIND_RECORD, STREAM_PREFIX_LEN, VERSIONED_RECORD_MAX,
};
use strongroom_core::record::{kind, wrong_kind};
use strongroom_core::{Error, Result, record, secret};

use crate::batch;
use crate::buf::{Input, new_bytes};
use crate::cipher::{AssociatedData, open_envelope, open_record, seal_envelope, seal_record};
use crate::errors::{KeyStoreError, OrRaise, to_py};
use crate::secret::MemoryLockedKey;

/// What a reload returns: primary id, (id, state, keyset, key) each, seconds it may be kept.
type Reloaded = (
    Option<String>,
    Vec<(String, String, String, Option<Py<MemoryLockedKey>>)>,
    f64,
);

/// A key with its state.
pub struct Entry {
    id: KeyId,
    state: State,
    keyset: String,
    key: Option<Arc<KeyHandle>>,
}

/// States of NIST SP 800-57 part 1.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
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
    fn for_opening(&self, allow_compromised: bool) -> Result<Option<&Arc<KeyHandle>>> {
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
            State::Compromised if !allow_compromised => refuse(
                format!(
                    "key {} is compromised: decrypt with allow_compromised=True",
                    hex(&self.id)
                ),
                "compromised",
            ),
            _ => Ok(self.key.as_ref()),
        }
    }
}

/// One loaded state of the keyset.
struct Contents {
    generation: u64,
    expires: Instant,
    primary: Option<Arc<Entry>>,
    keys: HashMap<KeyId, Arc<Entry>>,
}

/// The keys of one keyset, loaded when they are needed.
#[pyclass(frozen, module = "strongroom._native")]
pub struct Keyring {
    reload: Py<PyAny>,
    // Only ever taken by threads that hold the GIL, so never held while the process forks.
    contents: RwLock<Option<Arc<Contents>>>,
    closed: AtomicBool,
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
        let reloaded = self.reload.bind(py).call1((missing.map(|id| hex(id)),))?;
        let (primary, rows, seconds): Reloaded = reloaded.extract()?;
        let primary = primary.map(|id| parse_id(&id)).transpose()?;
        let mut keys = HashMap::with_capacity(rows.len());
        for (id, state, keyset, key) in rows {
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
                }),
            );
        }
        let contents = Arc::new(Contents {
            generation: secret::generation(),
            expires: Instant::now()
                + Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO),
            primary: primary.and_then(|id| keys.get(&id).cloned()),
            keys,
        });
        let mut cell = self
            .contents
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *cell = Some(Arc::clone(&contents));
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
            message: "the keyset has no primary key: rotate it, or activate a key".into(),
            key_id: None,
            state: "none",
        })
        .or_raise(py)
    }

    /// The entry of an id; an unknown one is looked up again at once.
    fn entry(&self, py: Python<'_>, id: &KeyId) -> PyResult<Option<Arc<Entry>>> {
        let contents = self.loaded(py)?;
        if let Some(entry) = contents.keys.get(id) {
            return Ok(Some(Arc::clone(entry)));
        }
        Ok(self.load(py, Some(id))?.keys.get(id).cloned())
    }

    /// The handle of an id for opening a record.
    fn opening_key(
        &self,
        py: Python<'_>,
        id: &KeyId,
        allow_compromised: bool,
    ) -> PyResult<Arc<KeyHandle>> {
        let key = match self.entry(py, id)? {
            Some(entry) => entry.for_opening(allow_compromised).or_raise(py)?.cloned(),
            None => None,
        };
        key.map_or_else(
            || {
                Err(Error::KeyNotFound {
                    message: format!(
                        "no key {} in this keyset: it may be retired or destroyed, or of another \
                         keyset",
                        hex(id)
                    ),
                    key_id: Some(*id),
                })
                .or_raise(py)
            },
            Ok,
        )
    }
}

fn parse_id(text: &str) -> PyResult<KeyId> {
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
        }
    }

    /// Forgets what was loaded.
    fn invalidate(&self) {
        self.contents
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
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
    allow_compromised: bool,
    raised: std::sync::Mutex<Option<PyErr>>,
}

impl<'a> KeyringSource<'a> {
    pub fn new(keyring: &'a Keyring, allow_compromised: bool) -> Self {
        Self {
            keyring,
            allow_compromised,
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
            (error, _) => to_py(py, error),
        }
    }
}

impl KeySource for KeyringSource<'_> {
    fn keyset_key(&self, id: &KeyId) -> Result<Option<Arc<Material>>> {
        let entry = Python::attach(|py| self.keyring.entry(py, id)).map_err(|error| {
            *self.raised.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            Error::Interrupted
        })?;
        match entry {
            Some(entry) => entry
                .for_opening(self.allow_compromised)?
                .map(|key| key.material())
                .transpose(),
            None => Ok(None),
        }
    }
}

/// Encrypts under a keyset's primary key, decrypts under any of its keys.
#[pyclass(frozen, subclass, module = "strongroom._native")]
pub struct KeysetCipher {
    keyring: Py<Keyring>,
}

#[pymethods]
impl KeysetCipher {
    #[new]
    #[pyo3(signature = (keyring))]
    fn new(keyring: Py<Keyring>) -> Self {
        Self { keyring }
    }

    /// Encrypts one value under the keyset's primary key.
    ///
    /// Args:
    ///     plaintext: Any C-contiguous buffer; up to 65,536 bytes become a record, more an envelope.
    ///     associated_data: 0 to 65,535 bytes that are authenticated and not stored.
    ///
    /// Returns:
    ///     The message.
    ///
    /// Raises:
    ///     KeyStateError: The keyset has no primary key.
    ///     KeyStoreError: The store is closed, or can't be read.
    ///     LimitError: `associated_data` is too long.
    ///     TypeError, BufferError: An argument is no C-contiguous buffer; a str has to be encoded first.
    #[pyo3(signature = (plaintext, associated_data=None), text_signature = "($self, plaintext, associated_data=b\"\")")]
    fn encrypt<'py>(
        &self,
        py: Python<'py>,
        plaintext: &Bound<'py, PyAny>,
        associated_data: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let plaintext = Input::new(plaintext, "plaintext")?;
        let associated_data = AssociatedData::new(associated_data)?;
        let (_, key) = self.keyring.get().primary(py)?;
        seal(py, &key, associated_data.as_slice(), plaintext.as_slice())
    }

    /// Decrypts one message under the key of this keyset that it names.
    ///
    /// Args:
    ///     data: A whole record or envelope.
    ///     associated_data: What it was encrypted with.
    ///     allow_compromised: Also under a compromised key.
    ///
    /// Returns:
    ///     The plaintext, authenticated.
    ///
    /// Raises:
    ///     KeyNotFoundError: This keyset has no such key: it may be retired or destroyed, or of another.
    ///     KeyStateError: The key is suspended, or compromised and not allowed.
    ///     DecryptionError: Wrong associated data or damaged bytes.
    ///     FormatError: `data` is no whole message.
    ///     UnsupportedVersionError: A version or kind that is not known here.
    ///     KeyStoreError: The store is closed, or can't be read.
    #[pyo3(signature = (data, associated_data=None, *, allow_compromised=false), text_signature = "($self, data, associated_data=b\"\", *, allow_compromised=False)")]
    fn decrypt<'py>(
        &self,
        py: Python<'py>,
        data: &Bound<'py, PyAny>,
        associated_data: Option<&Bound<'py, PyAny>>,
        allow_compromised: bool,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let data = Input::new(data, "data")?;
        let associated_data = AssociatedData::new(associated_data)?;
        self.open(
            py,
            data.as_slice(),
            associated_data.as_slice(),
            allow_compromised,
        )
    }

    /// Brings a message under the keyset's primary key.
    ///
    /// An envelope is rewrapped: its slot is replaced and its data stays as it is. A record is encrypted
    /// anew. Both are encrypted anew if their key is compromised, since whoever has it may have the DEK.
    ///
    /// Args:
    ///     data: A whole record or envelope.
    ///     associated_data: What it was encrypted with.
    ///     reencrypt: Encrypt an envelope anew as well, with a new DEK, also when it is current.
    ///     allow_compromised: Also from a compromised key.
    ///
    /// Returns:
    ///     The new message; `data` itself, authenticated, where it is current.
    ///
    /// Raises:
    ///     KeyNotFoundError, KeyStateError, DecryptionError, FormatError: As `decrypt`.
    #[pyo3(signature = (data, associated_data=None, *, reencrypt=false, allow_compromised=false), text_signature = "($self, data, associated_data=b\"\", *, reencrypt=False, allow_compromised=False)")]
    fn rotate_encryption<'py>(
        &self,
        py: Python<'py>,
        data: &Bound<'py, PyAny>,
        associated_data: Option<&Bound<'py, PyAny>>,
        reencrypt: bool,
        allow_compromised: bool,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let associated_data = AssociatedData::new(associated_data)?;
        self.rotate(
            py,
            data,
            associated_data.as_slice(),
            reencrypt,
            allow_compromised,
        )
    }

    /// `encrypt` for many values: see `SecureEncryption.encrypt_many`.
    #[pyo3(signature = (plaintexts, associated_data=None), text_signature = "($self, plaintexts, associated_data=None)")]
    fn encrypt_many<'py>(
        &self,
        py: Python<'py>,
        plaintexts: &Bound<'py, PyAny>,
        associated_data: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let (_, key) = self.keyring.get().primary(py)?;
        batch::encrypt_many(py, &key, VERSIONED_RECORD_MAX, plaintexts, associated_data)
    }

    /// `decrypt` for many messages, all or none: see `SecureEncryption.decrypt_many`.
    #[pyo3(signature = (messages, associated_data=None, *, allow_compromised=false), text_signature = "($self, messages, associated_data=None, *, allow_compromised=False)")]
    fn decrypt_many<'py>(
        &self,
        py: Python<'py>,
        messages: &Bound<'py, PyAny>,
        associated_data: Option<&Bound<'py, PyAny>>,
        allow_compromised: bool,
    ) -> PyResult<Bound<'py, PyList>> {
        batch::decrypt_many(py, messages, associated_data, |message, associated_data| {
            if kind(message).or_raise(py)? == KIND_RECORD {
                let id = record::parse(message).or_raise(py)?;
                let key = self.keyring.get().opening_key(py, &id, allow_compromised)?;
                return Ok(batch::Way::Record(key.material().or_raise(py)?));
            }
            self.open(py, message, associated_data, allow_compromised)
                .map(batch::Way::Done)
        })
    }

    /// `rotate_encryption` for many messages, in their order.
    ///
    /// Raises:
    ///     DecryptionError: A message does not authenticate; `index` says which.
    #[pyo3(signature = (messages, associated_data=None, *, reencrypt=false, allow_compromised=false), text_signature = "($self, messages, associated_data=None, *, reencrypt=False, allow_compromised=False)")]
    fn rotate_many<'py>(
        &self,
        py: Python<'py>,
        messages: &Bound<'py, PyAny>,
        associated_data: Option<&Bound<'py, PyAny>>,
        reencrypt: bool,
        allow_compromised: bool,
    ) -> PyResult<Bound<'py, PyList>> {
        batch::map_many(messages, associated_data, |message, associated_data| {
            self.rotate(py, message, associated_data, reencrypt, allow_compromised)
        })
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "a VersionedEncryption can't be pickled or copied: open the store in the other process",
        ))
    }
}

impl KeysetCipher {
    fn open<'py>(
        &self,
        py: Python<'py>,
        message: &[u8],
        associated_data: &[u8],
        allow_compromised: bool,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let keyring = self.keyring.get();
        match kind(message).or_raise(py)? {
            KIND_RECORD => {
                let id = record::parse(message).or_raise(py)?;
                let key = keyring.opening_key(py, &id, allow_compromised)?;
                open_record(py, &key, associated_data, message)
            }
            KIND_ENVELOPE => {
                let source = KeyringSource::new(keyring, allow_compromised);
                open_envelope(py, &source, associated_data, message, None)
            }
            other => Err(wrong_kind(other, "a record (01) or an envelope (02)")).or_raise(py),
        }
    }

    fn rotate<'py>(
        &self,
        py: Python<'py>,
        data: &Bound<'py, PyAny>,
        associated_data: &[u8],
        reencrypt: bool,
        allow_compromised: bool,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let input = Input::new(data, "data")?;
        let message = input.as_slice();
        let keyring = self.keyring.get();
        let (primary_id, primary) = keyring.primary(py)?;
        let anew = || {
            let plaintext = self.open(py, message, associated_data, allow_compromised)?;
            seal(py, &primary, associated_data, plaintext.as_bytes())
        };
        let unchanged = || match data.cast_exact::<PyBytes>() {
            Ok(bytes) => bytes.clone(),
            Err(_) => PyBytes::new(py, message),
        };
        if kind(message).or_raise(py)? != KIND_ENVELOPE {
            // Also an unchanged record is authenticated: what is returned opens.
            let id = record::parse(message).or_raise(py)?;
            let rotated = anew()?;
            return Ok(if id == primary_id && !reencrypt {
                unchanged()
            } else {
                rotated
            });
        }
        let (header, sealed) = Header::split(message).or_raise(py)?;
        let source = KeyringSource::new(keyring, allow_compromised);
        let opened =
            envelope::open_header(&header, &source, associated_data, Engine::for_streams())
                .map_err(|error| source.to_py(py, error))?;
        let old = opened
            .key_id
            .map(|id| keyring.entry(py, &id))
            .transpose()?
            .flatten();
        if reencrypt || old.is_some_and(|entry| entry.state == State::Compromised) {
            return anew();
        }
        if opened.key_id == Some(primary_id) {
            return Ok(unchanged());
        }
        let material = primary.material().or_raise(py)?;
        let slot = NewSlot::Keyset {
            id: primary_id,
            key: &material,
        };
        let dek = opened.dek.expose().or_raise(py)?;
        let header = envelope::replace_slot(&header, opened.slot, dek, &slot).or_raise(py)?;
        let header = header.to_bytes();
        debug_assert!(header.len() > STREAM_PREFIX_LEN);
        new_bytes(py, header.len() + sealed.len(), |out| {
            let (head, body) = out.split_at_mut(header.len());
            head.copy_from_slice(&header);
            crate::cipher::detached_above(py, sealed.len(), || body.copy_from_slice(sealed));
            Ok(())
        })
    }
}

/// A record up to 64 KiB, an envelope above.
fn seal<'py>(
    py: Python<'py>,
    key: &KeyHandle,
    associated_data: &[u8],
    plaintext: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    if plaintext.len() <= VERSIONED_RECORD_MAX {
        seal_record(py, key, associated_data, plaintext)
    } else {
        seal_envelope(py, key, associated_data, plaintext, None)
    }
}
