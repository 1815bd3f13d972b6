//! Equal records back to back in one buffer.

use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use strongroom_core::keys::{BoxLabel, KeyHandle, KeyId};
use strongroom_core::params::RECORD_OVERHEAD;
use strongroom_core::{Error, batch, parallel, record};

use crate::batch::locate;
use crate::buf::{Input, new_bytes};
use crate::cipher::{AssociatedData, detached_above};
use crate::errors::OrRaise;
use crate::number::Number;
use crate::tally::{self, Operation};
use crate::tick::Ticker;

fn check_size(size: usize) -> PyResult<()> {
    if size == 0 {
        return Err(PyValueError::new_err(
            "size is 0: a packed record has 1 byte or more",
        ));
    }
    Ok(())
}

/// Equal records, back to back.
pub fn encrypt_packed<'py>(
    py: Python<'py>,
    key: &KeyHandle,
    data: &Bound<'py, PyAny>,
    size: Number,
    associated_data: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyBytes>> {
    let Number(size) = size;
    let data = Input::new(data, "data")?;
    let data = data.as_slice();
    let associated_data = AssociatedData::new(associated_data)?;
    let associated_data = associated_data.as_slice();
    check_size(size)?;
    record::check_plaintext_len(size).or_raise(py)?;
    record::check_associated_data(associated_data).or_raise(py)?;
    if !data.len().is_multiple_of(size) {
        return Err(PyValueError::new_err(format!(
            "data has {} bytes, no multiple of size ({size})",
            data.len()
        )));
    }
    let material = key.material().or_raise(py)?;
    let len = batch::packed_len(data.len() / size, size).or_raise(py)?;
    let sealed = new_bytes(py, len, |out| {
        let mut ticker = Ticker::new();
        let sealed = detached_above(py, data.len(), || {
            let box_key = material.box_key(BoxLabel::Record)?;
            let tick: parallel::Tick<'_> = &mut |done| ticker.tick(done);
            batch::seal_packed(box_key, &key.id(), size, associated_data, data, out, tick)
        });
        sealed.map_err(|error| ticker.into_py_err(py, error))
    });
    note(
        py,
        Operation::Encrypt,
        Some(key.id()),
        data.len(),
        size,
        &sealed,
    );
    sealed
}

/// The plaintexts of equal records, back to back, all under `key`.
pub fn decrypt_packed<'py>(
    py: Python<'py>,
    key: &KeyHandle,
    data: &Bound<'py, PyAny>,
    size: Number,
    associated_data: Option<&Bound<'py, PyAny>>,
    check: impl Fn(&[u8]) -> Result<(), Error> + Sync,
) -> PyResult<Bound<'py, PyBytes>> {
    let Number(size) = size;
    let data = Input::new(data, "data")?;
    let data = data.as_slice();
    let associated_data = AssociatedData::new(associated_data)?;
    let associated_data = associated_data.as_slice();
    check_size(size)?;
    let each = batch::packed_len(1, size).or_raise(py)?;
    if !data.len().is_multiple_of(each) {
        return Err(Error::Format(format!(
            "data has {} bytes, no multiple of a packed record's {each} (size {size} and {RECORD_OVERHEAD})",
            data.len()
        )))
        .or_raise(py);
    }
    let material = key.material().or_raise(py)?;
    let len = data.len() / each * size;
    let first_bad = AtomicUsize::new(usize::MAX);
    let check = |index: usize, message: &[u8]| {
        check(message).inspect_err(|_| {
            first_bad.fetch_min(index, Ordering::Relaxed);
        })
    };
    let mut named = Some(key.id());
    let opened = new_bytes(py, len, |out| {
        let mut ticker = Ticker::new();
        let opened = detached_above(py, data.len(), || {
            let box_key = material.box_key(BoxLabel::Record)?;
            let tick: parallel::Tick<'_> = &mut |done| ticker.tick(done);
            batch::open_packed(box_key, size, associated_data, data, check, out, tick)
        });
        opened.map_err(|error| {
            let index = first_bad.load(Ordering::Relaxed);
            match (&error, data.chunks_exact(each).nth(index)) {
                (Error::Decryption { .. } | Error::Interrupted, _) | (_, None) => {
                    ticker.into_py_err(py, error)
                }
                (_, Some(message)) => {
                    named = tally::named(message);
                    locate(py, crate::errors::to_py(py, error), index)
                }
            }
        })
    });
    note(py, Operation::Decrypt, named, len, size, &opened);
    opened
}

/// Counts all records, or the one that failed.
fn note<T>(
    py: Python<'_>,
    operation: Operation,
    key: Option<KeyId>,
    bytes: usize,
    size: usize,
    result: &PyResult<T>,
) {
    if tally::enabled() {
        let error = result.as_ref().err();
        let (messages, bytes) = match error {
            None => (bytes / size, bytes),
            Some(_) => (1, size),
        };
        tally::note_enabled(py, operation, key, messages as u64, bytes as u64, error);
    }
}
