//! Records and envelopes from Python's buffers into Python's buffers.

use std::sync::Arc;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use strongroom_core::engine::Engine;
use strongroom_core::envelope::{self, Header, KeySource, NewSlot};
use strongroom_core::error::hex;
use strongroom_core::keys::{BoxLabel, KeyHandle, KeyId, Material};
use strongroom_core::params::{DETACH_MIN, RECORD_OVERHEAD, SLOT_KEYSET_LEN};
use strongroom_core::stream::{self, StreamKey};
use strongroom_core::{Error, Result, parallel, record};

use crate::buf::detached::detach;
use crate::buf::{Input, Output, UnfilledBytes, new_bytes, refuse_overlap};
use crate::errors::OrRaise;
use crate::tally::{self, Operation};
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
pub fn seal_record_into(
    py: Python<'_>,
    key: &KeyHandle,
    associated_data: &[u8],
    plaintext: &[u8],
    out: &mut [u8],
) -> PyResult<()> {
    let seal = |material: &Material, out: &mut [u8]| {
        let box_key = material.box_key(BoxLabel::Record)?;
        record::seal_unwiped(box_key, &key.id(), associated_data, plaintext, out)
    };
    let len = plaintext.len();
    let sealed = if len < DETACH_MIN {
        record::wiped(len, || key.with(|material| seal(material, out))).or_raise(py)
    } else {
        let material = key.material().or_raise(py)?;
        touch(py, out)?;
        detach(py, || record::wiped(len, || seal(&material, out))).or_raise(py)
    };
    tally::note(
        py,
        Operation::Encrypt,
        Some(key.id()),
        plaintext.len(),
        &sealed,
    );
    sealed
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
pub fn open_record_into(
    py: Python<'_>,
    key: &KeyHandle,
    associated_data: &[u8],
    message: &[u8],
    out: &mut [u8],
) -> PyResult<()> {
    let open = |material: &Material, out: &mut [u8]| {
        record::open_unwiped(
            material.box_key(BoxLabel::Record)?,
            associated_data,
            message,
            out,
        )
    };
    let len = out.len();
    let opened = if message.len() < DETACH_MIN {
        record::wiped(len, || key.with(|material| open(material, out))).or_raise(py)
    } else {
        let material = key.material().or_raise(py)?;
        touch(py, out)?;
        detach(py, || record::wiped(len, || open(&material, out))).or_raise(py)
    };
    tally::note(py, Operation::Decrypt, Some(key.id()), len, &opened);
    opened
}

/// Touches a long output's pages, on all cores and where a signal is seen: a record is one AEAD
/// call, which nothing can stop, and page faults would be most of its time.
fn touch(py: Python<'_>, out: &mut [u8]) -> PyResult<()> {
    if out.len() < TOUCH_MIN {
        return Ok(());
    }
    let mut ticker = Ticker::new();
    let touched = detach(py, || {
        parallel::for_each(
            out.chunks_mut(TOUCH_PIECE),
            None,
            |piece| {
                piece.iter_mut().step_by(PAGE).for_each(|byte| *byte = 0);
                Ok(piece.len() as u64)
            },
            &mut |done| ticker.tick(done),
        )
    });
    touched.map_err(|error| ticker.into_py_err(py, error))
}

/// Outputs from this length on are touched first.
const TOUCH_MIN: usize = 32 << 20;
/// What one worker touches at a time: a huge page.
const TOUCH_PIECE: usize = 2 << 20;
/// The smallest page that there is.
const PAGE: usize = 4096;

/// Bytes of an envelope with one keyset slot.
pub fn envelope_len(plaintext: u64) -> Result<u64> {
    let header = envelope::header_len(std::iter::once(SLOT_KEYSET_LEN)) as u64;
    stream::sealed_len(plaintext)
        .map(|sealed| header + sealed)
        .ok_or_else(|| Error::Limit(format!("{plaintext} bytes are more than an envelope holds")))
}

/// An envelope under one keyset key, into `out` of the right length.
pub fn seal_envelope_into(
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
    let sealed = seal_chunks(py, stream, plaintext, body, workers);
    tally::note(
        py,
        Operation::Encrypt,
        Some(key.id()),
        plaintext.len(),
        &sealed,
    );
    sealed
}

pub fn seal_chunks(
    py: Python<'_>,
    stream: StreamKey,
    plaintext: &[u8],
    out: &mut [u8],
    workers: Option<usize>,
) -> PyResult<()> {
    let mut ticker = Ticker::new();
    let sealed = detached_above(py, plaintext.len(), || {
        parallel::seal_message(stream, plaintext, out, workers, &mut |done| {
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

/// Opens a whole envelope into a new `bytes`; `raise` makes the exception of an error that came from
/// the keys.
pub fn open_envelope<'py>(
    py: Python<'py>,
    keys: &dyn KeySource,
    associated_data: &[u8],
    message: &[u8],
    workers: Option<usize>,
    raise: impl FnOnce(Error) -> PyErr,
) -> PyResult<Bound<'py, PyBytes>> {
    let (header, sealed) = Header::split(message).or_raise(py)?;
    let len = stream::plaintext_len(sealed.len() as u64).or_raise(py)? as usize;
    // Before the output is allocated: a message that nobody can open costs no memory.
    let opened = envelope::open_header(&header, keys, associated_data, Engine::for_streams())
        .map_err(raise)
        .inspect_err(|error| {
            let named = header.first_key_id();
            tally::refused(py, Operation::Decrypt, named, len, error);
        })?;
    let result = new_bytes(py, len, |out| {
        open_chunks(py, &opened.stream, sealed, out, workers)
    });
    tally::note(py, Operation::Decrypt, opened.key_id, len, &result);
    result
}

pub fn open_chunks(
    py: Python<'_>,
    stream: &StreamKey,
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
        detach(py, work)
    }
}

/// A new `bytes` with a copy of `data`.
pub fn copied<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    new_bytes(py, data.len(), |out| {
        detached_above(py, data.len(), || out.copy_from_slice(data));
        Ok(())
    })
}

/// A source that has one key.
pub struct OneKey<'a>(pub &'a KeyHandle);

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
pub fn other_key(named: KeyId, ours: KeyId) -> Error {
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
pub fn room(out: &mut Output, needed: usize) -> PyResult<&mut [u8]> {
    if out.len() < needed {
        return Err(PyValueError::new_err(format!(
            "out has {} bytes, {needed} are needed",
            out.len()
        )));
    }
    Ok(&mut out.as_mut_slice()[..needed])
}

/// Runs a decryption into the first `needed` bytes of `out`; on a failure all of `out` is zeros.
pub fn open_into(
    input: &[u8],
    out: &Bound<'_, PyAny>,
    needed: usize,
    open: impl FnOnce(&mut [u8]) -> PyResult<()>,
) -> PyResult<usize> {
    let py = out.py();
    let mut out = Output::new(out, "out")?;
    refuse_overlap(input, out.as_mut_slice())?;
    let opened = open(room(&mut out, needed)?);
    if opened.is_err() {
        let all = out.as_mut_slice();
        detached_above(py, all.len(), || all.fill(0));
    }
    opened.map(|()| needed)
}

/// Says why an object does not leave this process.
pub fn refuse_pickle(class: &str) -> PyResult<()> {
    Err(PyTypeError::new_err(format!(
        "a {class} can't be pickled or copied: open it again in the other process"
    )))
}
