//! One file at a time.

use std::path::{Path, PathBuf};

use pyo3::prelude::*;
use strongroom_core::Result;
use strongroom_core::error::hex;
use strongroom_core::file::{self, Count, Located, Place, RewrapKeys, Side, Source};
use strongroom_core::keys::KeyId;
use strongroom_core::stream;

use super::keys::{Asked, FileKeys, OrPyErr};
use super::raise;
use crate::buf::detached::detach;
use crate::cipher::AssociatedData;
use crate::tally::{self, Operation};
use crate::tick::Ticker;

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(file_encrypt, m)?)?;
    m.add_function(wrap_pyfunction!(file_decrypt, m)?)?;
    m.add_function(wrap_pyfunction!(file_verify, m)?)?;
    m.add_function(wrap_pyfunction!(file_rewrap, m)?)
}

/// Plaintext bytes, message bytes, key id.
pub type Counted = (u64, u64, Option<String>);

fn counted(py: Python<'_>, operation: Operation, count: Count) -> Counted {
    note(py, operation, &count);
    (
        count.plaintext,
        count.message,
        count.key_id.map(|id| hex(&id)),
    )
}

/// Tells the tally of one file that is done.
pub fn note(py: Python<'_>, operation: Operation, count: &Count) {
    if tally::enabled() {
        tally::note_enabled(py, operation, count.key_id, 1, count.plaintext, None);
    }
}

/// What a file says of itself without a key: the one that it names first, and its bytes of plaintext.
/// For the tally of one that did not open; nothing where it can't be read or is no message.
pub fn told(place: Place<'_>) -> (Option<KeyId>, u64) {
    let read = || -> Result<_> {
        let source = Source::open(place)?;
        let (header, start) = source.header()?;
        let sealed = source.len().saturating_sub(start);
        let key = header.first_key_id();
        Ok((key, stream::plaintext_len(sealed).unwrap_or(0)))
    };
    read().unwrap_or_default()
}

fn told_at(py: Python<'_>, path: &Path) -> (Option<KeyId>, u64) {
    detach(py, || {
        Located::new(path, Side::Source).map_or((None, 0), |located| told(located.place()))
    })
}

/// Tells the tally of one file that failed.
pub fn refused(py: Python<'_>, operation: Operation, source: &Path, error: &PyErr) {
    if tally::enabled() {
        let (key, bytes) = told_at(py, source);
        tally::note_enabled(py, operation, key, 1, bytes, Some(error));
    }
}

/// Runs `work` without the GIL, and makes of its error the exception.
pub fn detached<T: Send>(
    py: Python<'_>,
    asked: &Asked<'_>,
    mut ticker: Ticker<'_>,
    names: (Option<&Path>, Option<&Path>),
    work: impl FnOnce(&mut Ticker<'_>) -> Result<T> + Send,
) -> PyResult<T> {
    detach(py, || work(&mut ticker)).map_err(|error| match asked.take_raised(ticker, py, error) {
        OrPyErr::Core(error) => raise(py, error, names.0, names.1),
        OrPyErr::Raised(error) => error,
    })
}

#[pyfunction]
#[pyo3(signature = (source, target, keys, associated_data, overwrite=false, progress=None))]
fn file_encrypt(
    py: Python<'_>,
    source: PathBuf,
    target: PathBuf,
    keys: &Bound<'_, FileKeys>,
    associated_data: &Bound<'_, PyAny>,
    overwrite: bool,
    progress: Option<Py<PyAny>>,
) -> PyResult<Counted> {
    let ad = AssociatedData::new(Some(associated_data))?;
    let ad = ad.as_slice();
    let asked = Asked::new(keys.get());
    let total = progress
        .as_ref()
        .and_then(|_| Some(std::fs::metadata(&source).ok()?.len()));
    let ticker = Ticker::with_progress(progress.as_ref(), total);
    detached(
        py,
        &asked,
        ticker,
        (Some(&source), Some(&target)),
        |ticker| {
            let from = Located::new(&source, Side::Source)?;
            let to = Located::new(&target, Side::Target)?;
            let slots = asked.slots()?;
            let tick = &mut |done| ticker.tick(done);
            file::encrypt(from.place(), to.place(), &slots.each(), ad, overwrite, tick)
        },
    )
    .map(|count| counted(py, Operation::Encrypt, count))
    .inspect_err(|error| {
        if tally::enabled() {
            let key = asked.primary().ok().map(|(id, _)| id);
            let bytes = std::fs::metadata(&source).map_or(0, |source| source.len());
            tally::note_enabled(py, Operation::Encrypt, key, 1, bytes, Some(error));
        }
    })
}

#[pyfunction]
#[pyo3(signature = (source, target, keys, associated_data, overwrite=false, progress=None))]
fn file_decrypt(
    py: Python<'_>,
    source: PathBuf,
    target: PathBuf,
    keys: &Bound<'_, FileKeys>,
    associated_data: &Bound<'_, PyAny>,
    overwrite: bool,
    progress: Option<Py<PyAny>>,
) -> PyResult<Counted> {
    let ad = AssociatedData::new(Some(associated_data))?;
    let ad = ad.as_slice();
    let asked = Asked::new(keys.get());
    let total = progress.as_ref().and_then(|_| plaintext_len(&source));
    let ticker = Ticker::with_progress(progress.as_ref(), total);
    detached(
        py,
        &asked,
        ticker,
        (Some(&source), Some(&target)),
        |ticker| {
            let from = Located::new(&source, Side::Source)?;
            let to = Located::new(&target, Side::Target)?;
            let tick = &mut |done| ticker.tick(done);
            file::decrypt(from.place(), to.place(), &asked, ad, overwrite, tick)
        },
    )
    .map(|count| counted(py, Operation::Decrypt, count))
    .inspect_err(|error| refused(py, Operation::Decrypt, &source, error))
}

#[pyfunction]
#[pyo3(signature = (source, keys, associated_data, progress=None))]
fn file_verify(
    py: Python<'_>,
    source: PathBuf,
    keys: &Bound<'_, FileKeys>,
    associated_data: &Bound<'_, PyAny>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Counted> {
    let ad = AssociatedData::new(Some(associated_data))?;
    let ad = ad.as_slice();
    let asked = Asked::new(keys.get());
    let total = progress.as_ref().and_then(|_| plaintext_len(&source));
    let ticker = Ticker::with_progress(progress.as_ref(), total);
    detached(py, &asked, ticker, (Some(&source), None), |ticker| {
        let from = Located::new(&source, Side::Source)?;
        file::verify(from.place(), &asked, ad, &mut |done| ticker.tick(done))
    })
    .map(|count| counted(py, Operation::Verify, count))
    .inspect_err(|error| refused(py, Operation::Verify, &source, error))
}

#[pyfunction]
#[pyo3(signature = (path, keys, associated_data, copy=false, progress=None))]
fn file_rewrap(
    py: Python<'_>,
    path: PathBuf,
    keys: &Bound<'_, FileKeys>,
    associated_data: &Bound<'_, PyAny>,
    copy: bool,
    progress: Option<Py<PyAny>>,
) -> PyResult<bool> {
    let ad = AssociatedData::new(Some(associated_data))?;
    let ad = ad.as_slice();
    let asked = Asked::for_rewrap(keys.get());
    let ticker = Ticker::with_progress(progress.as_ref(), None);
    detached(py, &asked, ticker, (Some(&path), None), |ticker| {
        let at = Located::new(&path, Side::Source)?;
        file::rewrap(at.place(), &asked, ad, copy, &mut |done| ticker.tick(done))
    })
    .inspect(|_| {
        if tally::enabled() {
            let key = asked.primary().ok().map(|(id, _)| id);
            let (_, bytes) = told_at(py, &path);
            tally::note_enabled(py, Operation::Rewrap, key, 1, bytes, None);
        }
    })
    .inspect_err(|error| refused(py, Operation::Rewrap, &path, error))
}

/// For progress alone: what the work itself goes by, it reads itself.
fn plaintext_len(path: &Path) -> Option<u64> {
    let located = Located::new(path, Side::Source).ok()?;
    let source = Source::open(located.place()).ok()?;
    let (_, start) = source.header().ok()?;
    stream::plaintext_len(source.len().checked_sub(start)?).ok()
}
