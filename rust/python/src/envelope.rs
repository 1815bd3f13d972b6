//! `EnvelopeCipher`, the native half of `EnvelopeEncryption`: envelopes under KEKs that a master
//! wraps, or under the keys of a keyset; and the cache of unwrapped KEKs.

mod cache;
mod source;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use strongroom_core::engine::Engine;
use strongroom_core::envelope::{self, Header, NewSlot};
use strongroom_core::keys::{KeyHandle, KeyId, Material};
use strongroom_core::record::check_associated_data;
use strongroom_core::slot::Content;
use strongroom_core::{Error, parallel, stream};

use self::cache::{Cache, Kek};
use self::source::Source;
use crate::buf::{Input, new_bytes};
use crate::cipher::{AssociatedData, copied, detached_above, open_envelope};
use crate::errors::OrRaise;
use crate::keyring::Keyring;
use crate::secret::MemoryLockedKey;
use crate::tally::{self, Operation};
use crate::tick::Ticker;

/// Encrypts envelopes under KEKs.
#[pyclass(frozen, subclass, module = "strongroom._native")]
pub struct EnvelopeCipher {
    keyring: Option<Py<Keyring>>,
    /// The Python half: `make(cipher)` and `unwrap(cipher, wrapped, kek_id, entry)`.
    master: Option<Py<PyAny>>,
    lifetime: Duration,
    uses: u64,
    // Only ever taken by threads that hold the GIL and not kept over a call into Python, so never
    // held while the process forks.
    cache: Mutex<Cache>,
}

#[pymethods]
impl EnvelopeCipher {
    #[new]
    #[pyo3(signature = (keyring, master, seconds, uses))]
    fn new(
        keyring: Option<Py<Keyring>>,
        master: Option<Py<PyAny>>,
        seconds: f64,
        uses: u64,
    ) -> PyResult<Self> {
        let lifetime = Duration::try_from_secs_f64(seconds)
            .map_err(|_| pyo3::exceptions::PyValueError::new_err("seconds must be 0 or more"))?;
        Ok(Self {
            keyring,
            master,
            lifetime,
            uses,
            cache: Mutex::default(),
        })
    }

    /// Encrypts one value as an envelope.
    ///
    /// Args:
    ///     plaintext: Any C-contiguous buffer.
    ///     associated_data: 0 to 65,535 bytes that are authenticated and not stored.
    ///
    /// Returns:
    ///     The envelope.
    ///
    /// Raises:
    ///     MasterKeyError: A new KEK was due, and the master refused or is out of reach.
    ///     KeyStateError: The keyset has no primary key, or this object was closed.
    ///     KeyStoreError: The store is closed, or can't be read.
    ///     LimitError: `associated_data` is too long.
    ///     TypeError, BufferError: An argument is no C-contiguous buffer; a str has to be encoded first.
    #[pyo3(signature = (plaintext, associated_data=None), text_signature = "($self, plaintext, associated_data=b\"\")")]
    fn encrypt<'py>(
        slf: &Bound<'py, Self>,
        plaintext: &Bound<'py, PyAny>,
        associated_data: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let plaintext = Input::new(plaintext, "plaintext")?;
        let associated_data = AssociatedData::new(associated_data)?;
        seal(slf, plaintext.as_slice(), associated_data.as_slice())
    }

    /// Decrypts one envelope.
    ///
    /// Args:
    ///     data: A whole envelope.
    ///     associated_data: What it was encrypted with.
    ///     allow_compromised: Also under a compromised key of the keyset.
    ///
    /// Returns:
    ///     The plaintext; all of it was authenticated before any of it is returned.
    ///
    /// Raises:
    ///     KeyNotFoundError: No slot is of this master or keyset.
    ///     MasterKeyError: The master refused or is out of reach, and no other slot opens.
    ///     KeyStateError: The key is suspended, or compromised and not allowed; or this object was
    ///         closed.
    ///     DecryptionError: Wrong associated data or damaged bytes.
    ///     FormatError: `data` is no whole envelope.
    ///     UnsupportedVersionError: A version or kind that is not known here.
    ///     KeyStoreError: The store is closed, or can't be read.
    #[pyo3(signature = (data, associated_data=None, *, allow_compromised=false), text_signature = "($self, data, associated_data=b\"\", *, allow_compromised=False)")]
    fn decrypt<'py>(
        slf: &Bound<'py, Self>,
        data: &Bound<'py, PyAny>,
        associated_data: Option<&Bound<'py, PyAny>>,
        allow_compromised: bool,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let data = Input::new(data, "data")?;
        let associated_data = AssociatedData::new(associated_data)?;
        open(
            slf,
            data.as_slice(),
            associated_data.as_slice(),
            allow_compromised,
        )
    }

    /// Puts an envelope under another KEK; its DEK, and all behind its slots, stay as they are.
    ///
    /// The KEK is the keyset's primary key, or without a store one that the present master wraps
    /// and that the envelope was not under before. Rewrapping is not revoking: whoever once opened
    /// the old slot has the DEK, and only `reencrypt` ends that, for the new copy.
    ///
    /// Args:
    ///     data: A whole envelope. Its chunks are not looked at.
    ///
    /// Returns:
    ///     The new envelope; `data` itself where it is under the primary key already.
    ///
    /// Raises:
    ///     KeyNotFoundError, MasterKeyError, DecryptionError, FormatError: As `decrypt`.
    ///     KeyStateError: As `decrypt`; a compromised key takes `reencrypt`.
    #[pyo3(signature = (data), text_signature = "($self, data)")]
    fn rewrap<'py>(
        slf: &Bound<'py, Self>,
        data: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let py = slf.py();
        let this = slf.get();
        let input = Input::new(data, "data")?;
        let (header, sealed) = Header::split(input.as_slice()).or_raise(py)?;
        this.check_open(py)?;
        let source = Source::new(slf, false);
        let bytes = stream::plaintext_len(sealed.len() as u64).unwrap_or(0) as usize;
        let opened = envelope::unwrap_dek(&header, &source)
            .map_err(|error| source.to_py(py, error))
            .inspect_err(|error| {
                let named = header.first_key_id();
                tally::refused(py, Operation::Rewrap, named, bytes, error);
            })?;
        let old = match header.slots[opened.slot].content() {
            Content::Master { .. } => opened.key_id,
            _ => None,
        };
        let new = Under::choose(slf, old.as_ref())?;
        if old.is_none() && new.keyset_key() == opened.key_id.as_ref() {
            return match data.cast_exact::<PyBytes>() {
                Ok(bytes) => Ok(bytes.clone()),
                Err(_) => copied(py, input.as_slice()),
            };
        }
        let material = new.key().material().or_raise(py)?;
        let dek = opened.dek.expose().or_raise(py)?;
        let header = envelope::replace_slot(&header, opened.slot, dek, &new.slot(&material))
            .or_raise(py)?
            .to_bytes();
        let rewrapped = new_bytes(py, header.len() + sealed.len(), |out| {
            let (head, body) = out.split_at_mut(header.len());
            head.copy_from_slice(&header);
            detached_above(py, sealed.len(), || body.copy_from_slice(sealed));
            Ok(())
        });
        let key = new.key().id();
        tally::note(py, Operation::Rewrap, Some(key), bytes, &rewrapped);
        rewrapped
    }

    /// Encrypts an envelope anew, with a new DEK.
    ///
    /// Args:
    ///     data: A whole envelope.
    ///     associated_data: What it was encrypted with, and is again.
    ///     allow_compromised: Also from a compromised key of the keyset.
    ///
    /// Returns:
    ///     The new envelope, with one slot.
    ///
    /// Raises:
    ///     KeyNotFoundError, MasterKeyError, DecryptionError, FormatError, KeyStateError: As `decrypt`.
    #[pyo3(signature = (data, associated_data=None, *, allow_compromised=false), text_signature = "($self, data, associated_data=b\"\", *, allow_compromised=False)")]
    fn reencrypt<'py>(
        slf: &Bound<'py, Self>,
        data: &Bound<'py, PyAny>,
        associated_data: Option<&Bound<'py, PyAny>>,
        allow_compromised: bool,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let data = Input::new(data, "data")?;
        let associated_data = AssociatedData::new(associated_data)?;
        let associated_data = associated_data.as_slice();
        let plaintext = open(slf, data.as_slice(), associated_data, allow_compromised)?;
        seal(slf, plaintext.as_bytes(), associated_data)
    }

    /// Forgets the unwrapped KEKs: the next uses ask the master again.
    #[pyo3(text_signature = "($self)")]
    fn forget(&self) {
        self.cache().clear();
    }

    /// Wipes the unwrapped KEKs; each further use raises KeyStateError. Twice is no error.
    #[pyo3(text_signature = "($self)")]
    fn close(&self) {
        let mut cache = self.cache();
        cache.closed = true;
        cache.clear();
    }

    /// The KEK that new messages are written under and its wrapping, if there is one with a use
    /// left, which is counted.
    fn _writing(&self, py: Python<'_>) -> Option<(Py<MemoryLockedKey>, Py<PyBytes>)> {
        let kek = self.cache().take_writing()?;
        let key = Py::new(py, MemoryLockedKey::of(Arc::clone(&kek.key))).ok()?;
        Some((key, PyBytes::new(py, &kek.wrapped).unbind()))
    }

    /// Keeps a KEK that new messages are to be written under; one use is counted.
    fn _write_under(&self, key: &Bound<'_, MemoryLockedKey>, wrapped: &[u8]) {
        let kek = self.kek(key.get(), wrapped);
        let mut cache = self.cache();
        cache.keep(&kek);
        cache.writing = Some(kek);
    }

    /// A KEK that is kept under this entry and has a use left, which is counted.
    fn _opened(&self, py: Python<'_>, entry: [u8; 32]) -> PyResult<Option<Py<MemoryLockedKey>>> {
        self.cache()
            .take_opened(&entry)
            .map(|kek| Py::new(py, MemoryLockedKey::of(Arc::clone(&kek.key))))
            .transpose()
    }

    /// Keeps an unwrapped KEK; one use is counted.
    fn _keep(&self, key: &Bound<'_, MemoryLockedKey>, wrapped: &[u8]) {
        let kek = self.kek(key.get(), wrapped);
        self.cache().keep(&kek);
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "an EnvelopeEncryption can't be pickled or copied: make it again in the other process",
        ))
    }
}

impl EnvelopeCipher {
    /// The cache, empty in a forked child.
    fn cache(&self) -> MutexGuard<'_, Cache> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.of_this_process();
        cache
    }

    fn check_open(&self, py: Python<'_>) -> PyResult<()> {
        if !self.cache().closed {
            return Ok(());
        }
        Err(Error::KeyState {
            message: "this EnvelopeEncryption was closed: make another one".into(),
            key_id: None,
            state: "closed",
        })
        .or_raise(py)
    }

    fn kek(&self, key: &MemoryLockedKey, wrapped: &[u8]) -> Arc<Kek> {
        Arc::new(Kek::new(&key.handle, wrapped, self.lifetime, self.uses))
    }
}

/// What a message is written under.
enum Under {
    Keyset(KeyId, Arc<KeyHandle>),
    Kek(Arc<Kek>),
}

impl Under {
    /// The keyset's primary, or without a store a KEK other than `not`.
    fn choose(slf: &Bound<'_, EnvelopeCipher>, not: Option<&KeyId>) -> PyResult<Self> {
        let py = slf.py();
        let this = slf.get();
        if let Some(keyring) = &this.keyring {
            let (id, key) = keyring.get().primary(py)?;
            return Ok(Under::Keyset(id, key));
        }
        let writing = this.cache().take_writing();
        if let Some(kek) = writing {
            if not != Some(&kek.id) {
                return Ok(Under::Kek(kek));
            }
            let mut cache = this.cache();
            cache.writing.take_if(|writing| not == Some(&writing.id));
        }
        let master = this.master.as_ref().expect("a store, a master, or both");
        let (key, wrapped): (Py<MemoryLockedKey>, Bound<'_, PyBytes>) =
            master.bind(py).call_method1("make", (slf,))?.extract()?;
        Ok(Under::Kek(this.kek(key.get(), wrapped.as_bytes())))
    }

    fn key(&self) -> &KeyHandle {
        match self {
            Under::Keyset(_, key) => key,
            Under::Kek(kek) => &kek.key,
        }
    }

    fn keyset_key(&self) -> Option<&KeyId> {
        match self {
            Under::Keyset(id, _) => Some(id),
            Under::Kek(_) => None,
        }
    }

    fn slot<'a>(&'a self, material: &'a Material) -> NewSlot<'a> {
        match self {
            Under::Keyset(id, _) => NewSlot::Keyset {
                id: *id,
                key: material,
            },
            Under::Kek(kek) => NewSlot::Master {
                kek_id: kek.id,
                wrapped: &kek.wrapped,
                key: material,
            },
        }
    }
}

fn seal<'py>(
    slf: &Bound<'py, EnvelopeCipher>,
    plaintext: &[u8],
    associated_data: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    let py = slf.py();
    check_associated_data(associated_data).or_raise(py)?;
    let Some(sealed) = stream::sealed_len(plaintext.len() as u64) else {
        let text = format!("{} bytes are more than an envelope holds", plaintext.len());
        return Err(Error::Limit(text)).or_raise(py);
    };
    slf.get().check_open(py)?;
    let under = Under::choose(slf, None)?;
    let material = under.key().material().or_raise(py)?;
    let (header, key) = envelope::create(
        &[under.slot(&material)],
        associated_data,
        Engine::for_streams(),
    )
    .or_raise(py)?;
    let header = header.to_bytes();
    let Ok(len) = usize::try_from(header.len() as u64 + sealed) else {
        return Err(Error::Memory("the envelope is larger than memory".into())).or_raise(py);
    };
    let sealed = new_bytes(py, len, |out| {
        let (head, body) = out.split_at_mut(header.len());
        head.copy_from_slice(&header);
        let mut ticker = Ticker::new();
        detached_above(py, plaintext.len(), || {
            parallel::seal_message(key, plaintext, body, None, &mut |done| ticker.tick(done))
        })
        .map_err(|error| ticker.into_py_err(py, error))
    });
    tally::note(
        py,
        Operation::Encrypt,
        Some(under.key().id()),
        plaintext.len(),
        &sealed,
    );
    sealed
}

fn open<'py>(
    slf: &Bound<'py, EnvelopeCipher>,
    message: &[u8],
    associated_data: &[u8],
    allow_compromised: bool,
) -> PyResult<Bound<'py, PyBytes>> {
    let py = slf.py();
    slf.get().check_open(py)?;
    let source = Source::new(slf, allow_compromised);
    let raise = |error| source.to_py(py, error);
    open_envelope(py, &source, associated_data, message, None, raise)
}
