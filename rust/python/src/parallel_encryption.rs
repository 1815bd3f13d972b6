//! `ParallelEncryption`: envelopes under one key.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use strongroom_core::engine::Engine;
use strongroom_core::envelope::{self, Header};
use strongroom_core::error::hex;
use strongroom_core::keys::KeyHandle;
use strongroom_core::stream;

use crate::buf::{Input, Output, refuse_overlap};
use crate::cipher::{
    AssociatedData, OneKey, envelope_len, open_chunks, open_envelope, open_into, refuse_pickle,
    room, seal_envelope, seal_envelope_into,
};
use crate::errors::{OrRaise, to_py};
use crate::number::Number;
use crate::secret::key_argument;
use crate::tally::{self, Operation};

/// Encrypts large values as envelopes under one key, on all cores.
///
/// An envelope's data is a Cobblestone-256 message (c2sp.org/chunked-encryption) under a key of its
/// own, the DEK, which a slot holds wrapped under `key`. Safe to share between threads; not
/// picklable.
///
/// Args:
///     key: As for `SecureEncryption`.
///     max_workers: The most threads that a call uses, the caller included; None for as many as
///         `set_num_threads` says.
///
/// Raises:
///     ValueError: `key` has another length, or `max_workers` is less than 1.
#[pyclass(frozen, module = "strongroom")]
pub struct ParallelEncryption {
    key: Arc<KeyHandle>,
    workers: Option<usize>,
}

#[pymethods]
impl ParallelEncryption {
    #[new]
    #[pyo3(signature = (key, max_workers=None))]
    fn new(key: &Bound<'_, PyAny>, max_workers: Option<Number>) -> PyResult<Self> {
        let workers = max_workers.map(|Number(workers)| workers);
        if workers == Some(0) {
            return Err(PyValueError::new_err(
                "max_workers is 0: give 1 or more, or None for all",
            ));
        }
        Ok(Self {
            key: key_argument(key)?,
            workers,
        })
    }

    /// Id of the key, 32 hex digits.
    #[getter]
    fn key_id(&self) -> String {
        hex(&self.key.id())
    }

    /// Encrypts one value as an envelope.
    ///
    /// Args:
    ///     data: The plaintext, any C-contiguous buffer.
    ///     associated_data: 0 to 65,535 bytes that are authenticated and not stored.
    ///
    /// Returns:
    ///     The envelope, `encrypted_size(len(data))` bytes.
    ///
    /// Raises:
    ///     LimitError: `associated_data` is too long.
    ///     KeyStateError: The key was destroyed, or belongs to the process that forked this one.
    ///     TypeError: An argument is no buffer; a str has to be encoded first.
    ///     BufferError: A buffer is not C-contiguous.
    #[pyo3(signature = (data, associated_data=None), text_signature = "($self, data, associated_data=b\"\")")]
    fn encrypt_large<'py>(
        &self,
        py: Python<'py>,
        data: &Bound<'py, PyAny>,
        associated_data: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let data = Input::new(data, "data")?;
        let associated_data = AssociatedData::new(associated_data)?;
        let (associated_data, data) = (associated_data.as_slice(), data.as_slice());
        seal_envelope(py, &self.key, associated_data, data, self.workers)
    }

    /// Decrypts one envelope.
    ///
    /// Args:
    ///     message: A whole envelope, any C-contiguous buffer.
    ///     associated_data: What it was encrypted with.
    ///
    /// Returns:
    ///     The plaintext; all of it was authenticated before any of it is returned.
    ///
    /// Raises:
    ///     FormatError: `message` is no whole envelope.
    ///     UnsupportedVersionError: A version or kind that is not known here.
    ///     KeyNotFoundError: No slot names this key.
    ///     DecryptionError: Wrong associated data or damaged bytes.
    ///     KeyStateError: The key was destroyed, or belongs to the process that forked this one.
    #[pyo3(signature = (message, associated_data=None), text_signature = "($self, message, associated_data=b\"\")")]
    fn decrypt_large<'py>(
        &self,
        py: Python<'py>,
        message: &Bound<'py, PyAny>,
        associated_data: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let message = Input::new(message, "message")?;
        let associated_data = AssociatedData::new(associated_data)?;
        let keys = OneKey(&self.key);
        let (associated_data, message) = (associated_data.as_slice(), message.as_slice());
        let raise = |error| to_py(py, error);
        open_envelope(py, &keys, associated_data, message, self.workers, raise)
    }

    /// `encrypt_large` into a buffer of the caller's.
    ///
    /// Args:
    ///     data: The plaintext.
    ///     out: A writable buffer of at least `encrypted_size(len(data))` bytes, apart from `data`.
    ///     associated_data: As for `encrypt_large`.
    ///
    /// Returns:
    ///     How many bytes were written, from the start of `out`.
    ///
    /// Raises:
    ///     ValueError: `out` is too short or overlaps `data`; nothing was written.
    ///     BufferError: `out` is read-only.
    #[pyo3(signature = (data, out, associated_data=None), text_signature = "($self, data, out, associated_data=b\"\")")]
    fn encrypt_large_into<'py>(
        &self,
        py: Python<'py>,
        data: &Bound<'py, PyAny>,
        out: &Bound<'py, PyAny>,
        associated_data: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<usize> {
        let data = Input::new(data, "data")?;
        let data = data.as_slice();
        let associated_data = AssociatedData::new(associated_data)?;
        let needed = envelope_len(data.len() as u64).or_raise(py)? as usize;
        let mut out = Output::new(out, "out")?;
        refuse_overlap(data, out.as_mut_slice())?;
        let room = room(&mut out, needed)?;
        let associated_data = associated_data.as_slice();
        seal_envelope_into(py, &self.key, associated_data, data, room, self.workers)?;
        Ok(needed)
    }

    /// `decrypt_large` into a buffer of the caller's.
    ///
    /// Args:
    ///     data: A whole envelope.
    ///     out: A writable buffer of at least `plaintext_size(data)` bytes, apart from `data`.
    ///     associated_data: As for `decrypt_large`.
    ///
    /// Returns:
    ///     How many bytes were written, from the start of `out`. When it raises a DecryptionError, all of
    ///     `out` is zeros.
    ///
    /// Raises:
    ///     ValueError: `out` is too short or overlaps `data`.
    ///     FormatError, KeyNotFoundError, DecryptionError: As `decrypt_large`.
    #[pyo3(signature = (data, out, associated_data=None), text_signature = "($self, data, out, associated_data=b\"\")")]
    fn decrypt_large_into<'py>(
        &self,
        py: Python<'py>,
        data: &Bound<'py, PyAny>,
        out: &Bound<'py, PyAny>,
        associated_data: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<usize> {
        let data = Input::new(data, "data")?;
        let data = data.as_slice();
        let associated_data = AssociatedData::new(associated_data)?;
        let (header, sealed) = Header::split(data).or_raise(py)?;
        let needed = stream::plaintext_len(sealed.len() as u64).or_raise(py)? as usize;
        let opened = open_into(data, out, needed, |room| {
            let keys = OneKey(&self.key);
            let associated_data = associated_data.as_slice();
            let engine = Engine::for_streams();
            let opened =
                envelope::open_header(&header, &keys, associated_data, engine).or_raise(py)?;
            open_chunks(py, &opened.stream, sealed, room, self.workers)
        });
        tally::note(py, Operation::Decrypt, Some(self.key.id()), needed, &opened);
        opened
    }

    /// Bytes of the envelope of a value of `n` bytes: 184 more, and 16 for each chunk of 16 KiB.
    ///
    /// Raises:
    ///     LimitError: No envelope is that long.
    #[pyo3(signature = (n), text_signature = "($self, n)")]
    fn encrypted_size(&self, py: Python<'_>, n: Number) -> PyResult<u64> {
        envelope_len(n.0 as u64).or_raise(py)
    }

    /// Plaintext bytes of a whole envelope, from its length alone: nothing is authenticated.
    ///
    /// Raises:
    ///     FormatError: `message` is no whole envelope.
    #[pyo3(signature = (message), text_signature = "($self, message)")]
    fn plaintext_size(&self, py: Python<'_>, message: &Bound<'_, PyAny>) -> PyResult<u64> {
        let message = Input::new(message, "message")?;
        let (_, sealed) = Header::split(message.as_slice()).or_raise(py)?;
        stream::plaintext_len(sealed.len() as u64).or_raise(py)
    }

    fn __repr__(&self) -> String {
        format!("<ParallelEncryption under key {}>", hex(&self.key.id()))
    }

    fn __reduce__(&self) -> PyResult<()> {
        refuse_pickle("ParallelEncryption")
    }
}
