//! `KeysetCipher`, the native half of `VersionedEncryption`.

use std::sync::Arc;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use strongroom_core::engine::Engine;
use strongroom_core::envelope::{self, Header, NewSlot};
use strongroom_core::keys::{KeyHandle, KeyId};
use strongroom_core::params::{
    KIND_ENVELOPE, KIND_RECORD, RECORD_OVERHEAD, STREAM_PREFIX_LEN, VERSIONED_RECORD_MAX,
};
use strongroom_core::record::{self, kind, wrong_kind};
use strongroom_core::stream;

use crate::batch;
use crate::buf::{Input, new_bytes};
use crate::cipher::{
    AssociatedData, copied, open_envelope, open_record, seal_envelope, seal_record,
};
use crate::errors::OrRaise;
use crate::keyring::{Compromised, Keyring, KeyringSource, State};
use crate::tally::{self, Operation};

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
            allow_compromised.into(),
        )
    }

    /// Brings a message under the keyset's primary key.
    ///
    /// An envelope is rewrapped: its slot is replaced and its data stays as it is. A record is encrypted
    /// anew. Both are encrypted anew if their key is compromised, since whoever has it may have the
    /// DEK: whatever they wrote under it is under the new key then, as authentic as the rest.
    ///
    /// Args:
    ///     data: A whole record or envelope.
    ///     associated_data: What it was encrypted with.
    ///     reencrypt: Encrypt an envelope anew as well, with a new DEK, also when it is current.
    ///
    /// Returns:
    ///     The new message; `data` itself, authenticated, where it is current.
    ///
    /// Raises:
    ///     KeyNotFoundError, KeyStateError, DecryptionError, FormatError: As `decrypt`.
    #[pyo3(signature = (data, associated_data=None, *, reencrypt=false), text_signature = "($self, data, associated_data=b\"\", *, reencrypt=False)")]
    fn rotate_encryption<'py>(
        &self,
        py: Python<'py>,
        data: &Bound<'py, PyAny>,
        associated_data: Option<&Bound<'py, PyAny>>,
        reencrypt: bool,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let data = Input::new(data, "data")?;
        let associated_data = AssociatedData::new(associated_data)?;
        let primary = self.keyring.get().primary(py)?;
        self.rotate(py, &primary, &data, associated_data.as_slice(), reencrypt)
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
            self.open(py, message, associated_data, allow_compromised.into())
                .map(batch::Way::Done)
        })
    }

    /// `rotate_encryption` for many messages, in their order and on all cores: all or none.
    ///
    /// Raises:
    ///     DecryptionError: A message does not authenticate; `index` says which.
    #[pyo3(signature = (messages, associated_data=None, *, reencrypt=false), text_signature = "($self, messages, associated_data=None, *, reencrypt=False)")]
    fn rotate_many<'py>(
        &self,
        py: Python<'py>,
        messages: &Bound<'py, PyAny>,
        associated_data: Option<&Bound<'py, PyAny>>,
        reencrypt: bool,
    ) -> PyResult<Bound<'py, PyList>> {
        let keyring = self.keyring.get();
        let primary = keyring.primary(py)?;
        batch::rotate_many(
            py,
            &primary.1,
            messages,
            associated_data,
            |message, associated_data| {
                if kind(message.as_slice()).or_raise(py)? != KIND_RECORD {
                    return self
                        .rotate(py, &primary, message, associated_data, reencrypt)
                        .map(batch::Way::Done);
                }
                let id = record::parse(message.as_slice()).or_raise(py)?;
                let key = keyring.opening_key(py, &id, Compromised::ForRewrap)?;
                let material = key.material().or_raise(py)?;
                Ok(if id == primary.0 && !reencrypt {
                    batch::Way::Current(material, unchanged(py, message)?)
                } else {
                    batch::Way::Record(material)
                })
            },
        )
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
        compromised: Compromised,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let keyring = self.keyring.get();
        match kind(message).or_raise(py)? {
            KIND_RECORD => {
                let id = record::parse(message).or_raise(py)?;
                let key = keyring
                    .opening_key(py, &id, compromised)
                    .inspect_err(|error| {
                        let len = message.len() - RECORD_OVERHEAD;
                        tally::refused(py, Operation::Decrypt, Some(id), len, error);
                    })?;
                open_record(py, &key, associated_data, message)
            }
            KIND_ENVELOPE => {
                let source = KeyringSource::new(keyring, compromised);
                let raise = |error| source.to_py(py, error);
                open_envelope(py, &source, associated_data, message, None, raise)
            }
            other => Err(wrong_kind(other, "a record (01) or an envelope (02)")).or_raise(py),
        }
    }

    fn rotate<'py>(
        &self,
        py: Python<'py>,
        (primary_id, primary): &(KeyId, Arc<KeyHandle>),
        data: &Input<'py>,
        associated_data: &[u8],
        reencrypt: bool,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let message = data.as_slice();
        let keyring = self.keyring.get();
        let open = || self.open(py, message, associated_data, Compromised::ForRewrap);
        let anew = || seal(py, primary, associated_data, open()?.as_bytes());
        if kind(message).or_raise(py)? != KIND_ENVELOPE {
            if record::parse(message).or_raise(py)? != *primary_id || reencrypt {
                return anew();
            }
            // Also an unchanged record is authenticated: what is returned opens.
            open()?;
            return unchanged(py, data);
        }
        let (header, sealed) = Header::split(message).or_raise(py)?;
        let bytes = stream::plaintext_len(sealed.len() as u64).unwrap_or(0) as usize;
        let source = KeyringSource::new(keyring, Compromised::ForRewrap);
        let opened =
            envelope::open_header(&header, &source, associated_data, Engine::for_streams())
                .map_err(|error| source.to_py(py, error))
                .inspect_err(|error| {
                    let named = header.first_key_id();
                    tally::refused(py, Operation::Rewrap, named, bytes, error);
                })?;
        let old = opened
            .key_id
            .map(|id| keyring.entry(py, &id))
            .transpose()?
            .flatten();
        if reencrypt || old.is_some_and(|entry| entry.state == State::Compromised) {
            return anew();
        }
        if opened.key_id == Some(*primary_id) {
            return unchanged(py, data);
        }
        let material = primary.material().or_raise(py)?;
        let slot = NewSlot::Keyset {
            id: *primary_id,
            key: &material,
        };
        let dek = opened.dek.expose().or_raise(py)?;
        let header = envelope::replace_slot(&header, opened.slot, dek, &slot).or_raise(py)?;
        let header = header.to_bytes();
        debug_assert!(header.len() > STREAM_PREFIX_LEN);
        let rewrapped = new_bytes(py, header.len() + sealed.len(), |out| {
            let (head, body) = out.split_at_mut(header.len());
            head.copy_from_slice(&header);
            crate::cipher::detached_above(py, sealed.len(), || body.copy_from_slice(sealed));
            Ok(())
        });
        tally::note(py, Operation::Rewrap, Some(*primary_id), bytes, &rewrapped);
        rewrapped
    }
}

/// The message that was given.
fn unchanged<'py>(py: Python<'py>, data: &Input<'py>) -> PyResult<Bound<'py, PyBytes>> {
    match data.bytes() {
        Some(bytes) => Ok(bytes.clone()),
        None => copied(py, data.as_slice()),
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
