//! `SecureEncryption` and `ParallelEncryption`: records and envelopes under one key.

use std::sync::Arc;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use strongroom_core::engine::Engine;
use strongroom_core::envelope::{self, Header, KeySource, NewSlot};
use strongroom_core::error::hex;
use strongroom_core::keys::{BoxLabel, KeyHandle, KeyId, Material};
use strongroom_core::params::{DETACH_MIN, RECORD_OVERHEAD, SLOT_KEYSET_LEN};
use strongroom_core::{Error, Result, parallel, record, stream};

use crate::batch;
use crate::buf::{Input, Output, UnfilledBytes, new_bytes, refuse_overlap};
use crate::errors::OrRaise;
use crate::secret::key_argument;
use crate::tick::Ticker;

/// The associated data of a call: none means empty.
pub struct AssociatedData<'py>(Option<Input<'py>>);

impl<'py> AssociatedData<'py> {
    #[inline]
    pub fn new(object: Option<&Bound<'py, PyAny>>) -> PyResult<Self> {
        Ok(Self(
            object
                .map(|object| Input::new(object, "associated_data"))
                .transpose()?,
        ))
    }

    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], Input::as_slice)
    }
}

/// One record, into a new `bytes`.
#[inline]
pub fn seal_record<'py>(
    py: Python<'py>,
    key: &KeyHandle,
    associated_data: &[u8],
    plaintext: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    record::check_plaintext_len(plaintext.len()).or_raise(py)?;
    let mut out = UnfilledBytes::new(py, plaintext.len() + RECORD_OVERHEAD)?;
    seal_record_into(py, key, associated_data, plaintext, out.as_mut_slice())?;
    Ok(out.finish())
}

#[inline]
fn seal_record_into(
    py: Python<'_>,
    key: &KeyHandle,
    associated_data: &[u8],
    plaintext: &[u8],
    out: &mut [u8],
) -> PyResult<()> {
    let seal = |material: &Material, out: &mut [u8]| {
        let box_key = material.box_key(BoxLabel::Record)?;
        record::seal(box_key, &key.id(), associated_data, plaintext, out)
    };
    if plaintext.len() < DETACH_MIN {
        key.with(|material| seal(material, out)).or_raise(py)
    } else {
        let material = key.material().or_raise(py)?;
        py.detach(|| seal(&material, out)).or_raise(py)
    }
}

/// Opens a record whose structure was checked, with the key it names.
#[inline]
pub fn open_record<'py>(
    py: Python<'py>,
    key: &KeyHandle,
    associated_data: &[u8],
    message: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    let mut out = UnfilledBytes::new(py, message.len() - RECORD_OVERHEAD)?;
    open_record_into(py, key, associated_data, message, out.as_mut_slice())?;
    Ok(out.finish())
}

#[inline]
fn open_record_into(
    py: Python<'_>,
    key: &KeyHandle,
    associated_data: &[u8],
    message: &[u8],
    out: &mut [u8],
) -> PyResult<()> {
    let open = |material: &Material, out: &mut [u8]| {
        record::open(
            material.box_key(BoxLabel::Record)?,
            associated_data,
            message,
            out,
        )
    };
    if message.len() < DETACH_MIN {
        key.with(|material| open(material, out)).or_raise(py)
    } else {
        let material = key.material().or_raise(py)?;
        py.detach(|| open(&material, out)).or_raise(py)
    }
}

/// Bytes of an envelope with one keyset slot.
fn envelope_len(plaintext: u64) -> Result<u64> {
    let header = envelope::header_len(std::iter::once(SLOT_KEYSET_LEN)) as u64;
    stream::sealed_len(plaintext)
        .and_then(|sealed| sealed.checked_add(header))
        .filter(|len| i64::try_from(*len).is_ok())
        .ok_or_else(|| Error::Limit(format!("{plaintext} bytes are more than an envelope holds")))
}

/// An envelope under one keyset key, into `out` of the right length.
fn seal_envelope_into(
    py: Python<'_>,
    key: &KeyHandle,
    associated_data: &[u8],
    plaintext: &[u8],
    out: &mut [u8],
    workers: Option<usize>,
) -> PyResult<()> {
    let material = key.material().or_raise(py)?;
    let slot = NewSlot::Keyset {
        id: key.id(),
        key: &material,
    };
    let (header, stream) =
        envelope::create(&[slot], associated_data, Engine::for_streams()).or_raise(py)?;
    let header = header.to_bytes();
    let (head, body) = out.split_at_mut(header.len());
    head.copy_from_slice(&header);
    let mut ticker = Ticker::new();
    let sealed = detached_above(py, plaintext.len(), || {
        parallel::seal_message(stream, plaintext, body, workers, &mut |done| {
            ticker.tick(done)
        })
    });
    sealed.map_err(|error| ticker.into_py_err(py, error))
}

/// An envelope under one keyset key, into a new `bytes`.
pub fn seal_envelope<'py>(
    py: Python<'py>,
    key: &KeyHandle,
    associated_data: &[u8],
    plaintext: &[u8],
    workers: Option<usize>,
) -> PyResult<Bound<'py, PyBytes>> {
    record::check_associated_data(associated_data).or_raise(py)?;
    let len = envelope_len(plaintext.len() as u64).or_raise(py)? as usize;
    new_bytes(py, len, |out| {
        seal_envelope_into(py, key, associated_data, plaintext, out, workers)
    })
}

/// Opens a whole envelope into a new `bytes`.
pub fn open_envelope<'py>(
    py: Python<'py>,
    keys: &dyn KeySource,
    associated_data: &[u8],
    message: &[u8],
    workers: Option<usize>,
) -> PyResult<Bound<'py, PyBytes>> {
    let (header, sealed) = Header::split(message).or_raise(py)?;
    let len = stream::plaintext_len(sealed.len() as u64).or_raise(py)? as usize;
    // Before the output is allocated: a message that nobody can open costs no memory.
    let opened = envelope::open_header(&header, keys, associated_data, Engine::for_streams())
        .or_raise(py)?;
    new_bytes(py, len, |out| {
        open_chunks(py, &opened.stream, sealed, out, workers)
    })
}

fn open_chunks(
    py: Python<'_>,
    stream: &stream::StreamKey,
    sealed: &[u8],
    out: &mut [u8],
    workers: Option<usize>,
) -> PyResult<()> {
    let mut ticker = Ticker::new();
    let opened = detached_above(py, sealed.len(), || {
        parallel::open_message(stream, sealed, out, workers, &mut |done| ticker.tick(done))
    });
    opened.map_err(|error| ticker.into_py_err(py, error))
}

/// Runs `work` without the GIL where it is long enough for that to pay.
pub fn detached_above<R: Send>(py: Python<'_>, len: usize, work: impl FnOnce() -> R + Send) -> R {
    if len < DETACH_MIN {
        work()
    } else {
        py.detach(work)
    }
}

/// A source that has one key.
struct OneKey<'a>(&'a KeyHandle);

impl KeySource for OneKey<'_> {
    fn keyset_key(&self, id: &KeyId) -> Result<Option<Arc<Material>>> {
        if *id == self.0.id() {
            self.0.material().map(Some)
        } else {
            Ok(None)
        }
    }
}

/// The error for a message that names another key than the one at hand.
fn other_key(named: KeyId, ours: KeyId) -> Error {
    Error::KeyNotFound {
        message: format!(
            "the message names key {}, this object has key {} (the other may be retired or \
             destroyed)",
            hex(&named),
            hex(&ours)
        ),
        key_id: Some(named),
    }
}

/// Checks an output's size, before any work.
fn room(out: &mut Output, needed: usize) -> PyResult<&mut [u8]> {
    if out.len() < needed {
        return Err(PyValueError::new_err(format!(
            "out has {} bytes, {needed} are needed",
            out.len()
        )));
    }
    Ok(&mut out.as_mut_slice()[..needed])
}

/// Runs a decryption into the first `needed` bytes of `out`; on a failure all of `out` is zeros.
fn open_into(
    input: &[u8],
    out: &Bound<'_, PyAny>,
    needed: usize,
    open: impl FnOnce(&mut [u8]) -> PyResult<()>,
) -> PyResult<usize> {
    let mut out = Output::new(out, "out")?;
    refuse_overlap(input, out.as_mut_slice())?;
    let opened = open(room(&mut out, needed)?);
    if opened.is_err() {
        out.as_mut_slice().fill(0);
    }
    opened.map(|()| needed)
}

fn refuse_pickle(class: &str) -> PyResult<()> {
    Err(PyTypeError::new_err(format!(
        "a {class} can't be pickled or copied: open it again in the other process"
    )))
}

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
        self.check(message.as_slice()).or_raise(py)?;
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
        let needed = self.encrypted_size(py, data.as_slice().len())?;
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
        self.check(data).or_raise(py)?;
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
        size: usize,
        associated_data: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        batch::encrypt_packed(py, &self.key, data, size, associated_data)
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
        size: usize,
        associated_data: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        batch::decrypt_packed(py, &self.key, data, size, associated_data, |message| {
            self.check(message)
        })
    }

    /// Bytes of the record of a value of `n` bytes: `n` + 92.
    ///
    /// Raises:
    ///     LimitError: `n` is over 2^30.
    #[pyo3(signature = (n), text_signature = "($self, n)")]
    fn encrypted_size(&self, py: Python<'_>, n: usize) -> PyResult<usize> {
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
}

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
///     ValueError: `key` has another length, or `max_workers` is 0.
#[pyclass(frozen, module = "strongroom")]
pub struct ParallelEncryption {
    key: Arc<KeyHandle>,
    workers: Option<usize>,
}

#[pymethods]
impl ParallelEncryption {
    #[new]
    #[pyo3(signature = (key, max_workers=None))]
    fn new(key: &Bound<'_, PyAny>, max_workers: Option<usize>) -> PyResult<Self> {
        if max_workers == Some(0) {
            return Err(PyValueError::new_err(
                "max_workers is 0: give 1 or more, or None for all",
            ));
        }
        Ok(Self {
            key: key_argument(key)?,
            workers: max_workers,
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
        open_envelope(py, &keys, associated_data, message, self.workers)
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
        open_into(data, out, needed, |room| {
            let keys = OneKey(&self.key);
            let associated_data = associated_data.as_slice();
            let engine = Engine::for_streams();
            let opened =
                envelope::open_header(&header, &keys, associated_data, engine).or_raise(py)?;
            open_chunks(py, &opened.stream, sealed, room, self.workers)
        })
    }

    /// Bytes of the envelope of a value of `n` bytes: 184 more, and 16 for each chunk of 16 KiB.
    ///
    /// Raises:
    ///     LimitError: No envelope is that long.
    #[pyo3(signature = (n), text_signature = "($self, n)")]
    fn encrypted_size(&self, py: Python<'_>, n: u64) -> PyResult<u64> {
        envelope_len(n).or_raise(py)
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
