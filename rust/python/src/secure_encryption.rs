//! `SecureEncryption`: records under one key.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use strongroom_core::error::hex;
use strongroom_core::keys::KeyHandle;
use strongroom_core::params::RECORD_OVERHEAD;
use strongroom_core::{Result, record};

use crate::batch;
use crate::buf::{Input, Output, refuse_overlap};
use crate::cipher::{
    AssociatedData, open_into, open_record, open_record_into, other_key, refuse_pickle, room,
    seal_record, seal_record_into,
};
use crate::errors::OrRaise;
use crate::number::Number;
use crate::packed;
use crate::secret::key_argument;
use crate::tally::{self, Operation};

/// Encrypts values as records under one key.
///
/// A record is 92 bytes longer than its value and needs nothing else to be stored: it carries the
/// key's id, its own random nonce, the tag and a commitment to the key. The construction is
/// KC-XAES-256-GCM (c2sp.org/XAES-256-GCM with the commitment of ePrint 2025/758), so that 2^45
/// records may be written under one key. Safe to share between threads; not picklable.
///
/// Args:
///     key: Any buffer of 32 random bytes (`generate_key()`), which is copied to locked memory, or
///         a `MemoryLockedKey`, which is shared: after its `destroy()` each use raises
///         KeyStateError.
///
/// Raises:
///     ValueError: `key` has another length.
///
/// Example:
///     >>> cipher = SecureEncryption(generate_key())
///     >>> cipher.decrypt(cipher.encrypt(b"value", b"row 42"), b"row 42")
///     b'value'
#[pyclass(frozen, module = "strongroom")]
pub struct SecureEncryption {
    key: Arc<KeyHandle>,
}

#[pymethods]
impl SecureEncryption {
    #[new]
    fn new(key: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Self {
            key: key_argument(key)?,
        })
    }

    /// Id of the key, 32 hex digits.
    #[getter]
    fn key_id(&self) -> String {
        hex(&self.key.id())
    }

    /// Encrypts one value as a record.
    ///
    /// Args:
    ///     plaintext: 0 to 2^30 bytes, any C-contiguous buffer.
    ///     associated_data: 0 to 65,535 bytes that are authenticated and not stored.
    ///
    /// Returns:
    ///     The record: 92 bytes longer than `plaintext`, with key id, nonce, tag and commitment.
    ///
    /// Raises:
    ///     LimitError: `plaintext` or `associated_data` is too long, or the key has sealed 2^45 records.
    ///     KeyStateError: The key was destroyed, or belongs to the process that forked this one.
    ///     TypeError: An argument is no buffer; a str has to be encoded first.
    ///     BufferError: A buffer is not C-contiguous.
    #[pyo3(signature = (plaintext, associated_data=None), text_signature = "($self, plaintext, associated_data=b\"\")")]
    fn encrypt<'py>(
        &self,
        py: Python<'py>,
        plaintext: &Bound<'py, PyAny>,
        associated_data: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let plaintext = Input::new(plaintext, "plaintext")?;
        let associated_data = AssociatedData::new(associated_data)?;
        seal_record(
            py,
            &self.key,
            associated_data.as_slice(),
            plaintext.as_slice(),
        )
    }

    /// Decrypts one record.
    ///
    /// Args:
    ///     message: A whole record, any C-contiguous buffer.
    ///     associated_data: What it was encrypted with.
    ///
    /// Returns:
    ///     The plaintext, authenticated.
    ///
    /// Raises:
    ///     FormatError: `message` is no whole record.
    ///     UnsupportedVersionError: A version or kind that is not known here.
    ///     KeyNotFoundError: The record names another key.
    ///     DecryptionError: Wrong associated data or damaged bytes.
    ///     KeyStateError: The key was destroyed, or belongs to the process that forked this one.
    #[pyo3(signature = (message, associated_data=None), text_signature = "($self, message, associated_data=b\"\")")]
    fn decrypt<'py>(
        &self,
        py: Python<'py>,
        message: &Bound<'py, PyAny>,
        associated_data: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let message = Input::new(message, "message")?;
        let associated_data = AssociatedData::new(associated_data)?;
        self.check_one(py, message.as_slice())?;
        open_record(
            py,
            &self.key,
            associated_data.as_slice(),
            message.as_slice(),
        )
    }

    /// `encrypt` into a buffer of the caller's.
    ///
    /// Args:
    ///     data: The plaintext.
    ///     out: A writable buffer of at least `encrypted_size(len(data))` bytes, apart from `data`.
    ///     associated_data: As for `encrypt`.
    ///
    /// Returns:
    ///     How many bytes were written, from the start of `out`.
    ///
    /// Raises:
    ///     ValueError: `out` is too short or overlaps `data`; nothing was written.
    ///     BufferError: `out` is read-only.
    #[pyo3(signature = (data, out, associated_data=None), text_signature = "($self, data, out, associated_data=b\"\")")]
    fn encrypt_into<'py>(
        &self,
        py: Python<'py>,
        data: &Bound<'py, PyAny>,
        out: &Bound<'py, PyAny>,
        associated_data: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<usize> {
        let data = Input::new(data, "data")?;
        let associated_data = AssociatedData::new(associated_data)?;
        let needed = self.encrypted_size(py, Number(data.as_slice().len()))?;
        let mut out = Output::new(out, "out")?;
        refuse_overlap(data.as_slice(), out.as_mut_slice())?;
        let room = room(&mut out, needed)?;
        seal_record_into(
            py,
            &self.key,
            associated_data.as_slice(),
            data.as_slice(),
            room,
        )?;
        Ok(needed)
    }

    /// `decrypt` into a buffer of the caller's.
    ///
    /// Args:
    ///     data: A whole record.
    ///     out: A writable buffer of at least `len(data) - 92` bytes, apart from `data`.
    ///     associated_data: As for `decrypt`.
    ///
    /// Returns:
    ///     How many bytes were written, from the start of `out`. When it raises a DecryptionError, all of
    ///     `out` is zeros.
    ///
    /// Raises:
    ///     ValueError: `out` is too short or overlaps `data`.
    ///     FormatError, KeyNotFoundError, DecryptionError: As `decrypt`.
    #[pyo3(signature = (data, out, associated_data=None), text_signature = "($self, data, out, associated_data=b\"\")")]
    fn decrypt_into<'py>(
        &self,
        py: Python<'py>,
        data: &Bound<'py, PyAny>,
        out: &Bound<'py, PyAny>,
        associated_data: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<usize> {
        let data = Input::new(data, "data")?;
        let data = data.as_slice();
        let associated_data = AssociatedData::new(associated_data)?;
        self.check_one(py, data)?;
        open_into(data, out, data.len() - RECORD_OVERHEAD, |room| {
            open_record_into(py, &self.key, associated_data.as_slice(), data, room)
        })
    }

    /// Encrypts many values, on all cores where that pays.
    ///
    /// Args:
    ///     plaintexts: A list, tuple or other iterable of buffers.
    ///     associated_data: None, one buffer for all, or a list or tuple with one for each.
    ///
    /// Returns:
    ///     A list of records, in the order of `plaintexts`.
    ///
    /// Raises:
    ///     ValueError: `associated_data` has another length than `plaintexts`.
    ///     LimitError, TypeError, BufferError, KeyStateError: As `encrypt`.
    #[pyo3(signature = (plaintexts, associated_data=None), text_signature = "($self, plaintexts, associated_data=None)")]
    fn encrypt_many<'py>(
        &self,
        py: Python<'py>,
        plaintexts: &Bound<'py, PyAny>,
        associated_data: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyList>> {
        batch::encrypt_many(py, &self.key, usize::MAX, plaintexts, associated_data)
    }

    /// Decrypts many records, all of them or none.
    ///
    /// Args:
    ///     messages: A list, tuple or other iterable of records.
    ///     associated_data: None, one buffer for all, or a list or tuple with one for each.
    ///
    /// Returns:
    ///     A list of plaintexts, in the order of `messages`.
    ///
    /// Raises:
    ///     DecryptionError: A record does not authenticate; `index` says which is the first.
    ///     FormatError, KeyNotFoundError: As `decrypt`; a note says which record it was.
    ///     ValueError: `associated_data` has another length than `messages`.
    #[pyo3(signature = (messages, associated_data=None), text_signature = "($self, messages, associated_data=None)")]
    fn decrypt_many<'py>(
        &self,
        py: Python<'py>,
        messages: &Bound<'py, PyAny>,
        associated_data: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let material = self.key.material().or_raise(py)?;
        batch::decrypt_many(py, messages, associated_data, |message, _| {
            self.check(message).or_raise(py)?;
            Ok(batch::Way::Record(Arc::clone(&material)))
        })
    }

    /// Encrypts equal values that stand back to back in one buffer.
    ///
    /// Args:
    ///     data: The plaintexts, a multiple of `size` bytes: a column, say.
    ///     size: Bytes of each, 1 to 2^30.
    ///     associated_data: One for all.
    ///
    /// Returns:
    ///     Records of `size` + 92 bytes each, back to back; each is one that `decrypt` takes.
    ///
    /// Raises:
    ///     ValueError: `size` is 0 or does not divide the length of `data`.
    ///     LimitError: As `encrypt`.
    #[pyo3(signature = (data, size, associated_data=None), text_signature = "($self, data, size, associated_data=b\"\")")]
    fn encrypt_packed<'py>(
        &self,
        py: Python<'py>,
        data: &Bound<'py, PyAny>,
        size: Number,
        associated_data: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        packed::encrypt_packed(py, &self.key, data, size, associated_data)
    }

    /// Decrypts what `encrypt_packed` made, all of it or nothing.
    ///
    /// Args:
    ///     data: Records of `size` + 92 bytes each, back to back.
    ///     size: Plaintext bytes of each.
    ///     associated_data: One for all.
    ///
    /// Returns:
    ///     The plaintexts, back to back.
    ///
    /// Raises:
    ///     DecryptionError: A record does not authenticate; `index` says which is the first.
    ///     FormatError: The length is no multiple of a record's, or a record is none.
    ///     KeyNotFoundError: A record names another key.
    #[pyo3(signature = (data, size, associated_data=None), text_signature = "($self, data, size, associated_data=b\"\")")]
    fn decrypt_packed<'py>(
        &self,
        py: Python<'py>,
        data: &Bound<'py, PyAny>,
        size: Number,
        associated_data: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        packed::decrypt_packed(py, &self.key, data, size, associated_data, |message| {
            self.check(message)
        })
    }

    /// Bytes of the record of a value of `n` bytes: `n` + 92.
    ///
    /// Raises:
    ///     LimitError: `n` is over 2^30.
    #[pyo3(signature = (n), text_signature = "($self, n)")]
    fn encrypted_size(&self, py: Python<'_>, n: Number) -> PyResult<usize> {
        let Number(n) = n;
        record::check_plaintext_len(n).or_raise(py)?;
        Ok(n + RECORD_OVERHEAD)
    }

    fn __repr__(&self) -> String {
        format!("<SecureEncryption under key {}>", hex(&self.key.id()))
    }

    fn __reduce__(&self) -> PyResult<()> {
        refuse_pickle("SecureEncryption")
    }
}

impl SecureEncryption {
    /// Checks structure and key id of a record.
    #[inline]
    fn check(&self, message: &[u8]) -> Result<()> {
        let named = record::parse(message)?;
        if named == self.key.id() {
            Ok(())
        } else {
            Err(other_key(named, self.key.id()))
        }
    }

    #[inline]
    fn check_one(&self, py: Python<'_>, message: &[u8]) -> PyResult<()> {
        self.check(message).or_raise(py).inspect_err(|error| {
            let len = message.len().saturating_sub(RECORD_OVERHEAD);
            tally::refused(py, Operation::Decrypt, tally::named(message), len, error);
        })
    }
}
