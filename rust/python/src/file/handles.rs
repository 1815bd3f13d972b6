//! An encrypted file held open, for reading or for writing.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use strongroom_core::error::hex;
use strongroom_core::file::{Located, Reader, Side, Writer};
use strongroom_core::keys::KeyId;

use super::keys::{Asked, FileKeys};
use super::raise;
use super::single::{detached, refused};
use crate::buf::detached::detach;
use crate::buf::{Input, Output, new_bytes};
use crate::cipher::AssociatedData;
use crate::tally::{self, Operation};
use crate::tick::Ticker;

/// Reads at any offset, from any thread.
#[pyclass(frozen, module = "strongroom._native")]
pub struct FileReader {
    path: PathBuf,
    reader: RwLock<Option<Arc<Reader>>>,
    size: u64,
    key: Option<KeyId>,
    key_id: Option<String>,
}

impl FileReader {
    fn reader(&self) -> PyResult<Arc<Reader>> {
        let reader = self.reader.read().unwrap_or_else(PoisonError::into_inner);
        reader.clone().ok_or_else(closed)
    }

    fn fill(
        &self,
        py: Python<'_>,
        reader: &Reader,
        offset: u64,
        out: &mut [u8],
    ) -> PyResult<usize> {
        let mut ticker = Ticker::new();
        detach(py, || {
            reader.read_at(offset, out, &mut |done| ticker.tick(done))
        })
        .map_err(|error| match error {
            strongroom_core::Error::Interrupted => ticker.into_py_err(py, error),
            error => raise(py, error, Some(&self.path), None),
        })
        .inspect(|read| self.count(py, 0, *read as u64, None))
        .inspect_err(|error| self.count(py, 1, 0, Some(error)))
    }

    /// The message counts when it is opened, its bytes as they are read.
    fn count(&self, py: Python<'_>, messages: u64, bytes: u64, error: Option<&PyErr>) {
        if tally::enabled() {
            tally::note_enabled(py, Operation::Decrypt, self.key, messages, bytes, error);
        }
    }
}

fn closed() -> PyErr {
    PyValueError::new_err("I/O operation on closed file")
}

#[pymethods]
impl FileReader {
    #[new]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        keys: &Bound<'_, FileKeys>,
        associated_data: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let ad = AssociatedData::new(Some(associated_data))?;
        let ad = ad.as_slice();
        let asked = Asked::new(keys.get());
        let reader = detached(py, &asked, Ticker::new(), (Some(&path), None), |_| {
            Reader::open(Located::new(&path, Side::Source)?.place(), &asked, ad)
        })
        .inspect_err(|error| refused(py, Operation::Decrypt, &path, error))?;
        let opened = Self {
            path,
            size: reader.len(),
            key: reader.key_id(),
            key_id: reader.key_id().map(|id| hex(&id)),
            reader: RwLock::new(Some(Arc::new(reader))),
        };
        opened.count(py, 1, 0, None);
        Ok(opened)
    }

    /// Bytes of plaintext.
    #[getter]
    fn size(&self) -> u64 {
        self.size
    }

    /// The key that opened it, or None for a passphrase.
    #[getter]
    fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// At most `count` bytes from `offset` on.
    fn read<'py>(&self, py: Python<'py>, offset: u64, count: u64) -> PyResult<Bound<'py, PyBytes>> {
        let reader = self.reader()?;
        let count = count.min(self.size.saturating_sub(offset));
        let count = usize::try_from(count)
            .map_err(|_| pyo3::exceptions::PyOverflowError::new_err("more than memory"))?;
        new_bytes(py, count, |out| {
            self.fill(py, &reader, offset, out).map(drop)
        })
    }

    /// Fills a buffer from `offset` on; returns how much of it.
    fn readinto(&self, py: Python<'_>, offset: u64, buffer: &Bound<'_, PyAny>) -> PyResult<usize> {
        let reader = self.reader()?;
        let mut out = Output::new(buffer, "buffer")?;
        self.fill(py, &reader, offset, out.as_mut_slice())
    }

    /// Closes the file as soon as the reads that are under way have ended.
    fn close(&self) {
        self.reader
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

/// Writes one message from its beginning to its end.
#[pyclass(frozen, module = "strongroom._native")]
pub struct FileWriter {
    path: PathBuf,
    writer: Mutex<Option<Writer>>,
    key: Option<KeyId>,
    taken: AtomicU64,
}

impl FileWriter {
    /// Takes the writer out for a call; a second call at the same time finds none.
    fn take(&self) -> PyResult<Writer> {
        self.writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .ok_or_else(closed)
    }
}

#[pymethods]
impl FileWriter {
    #[new]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        keys: &Bound<'_, FileKeys>,
        associated_data: &Bound<'_, PyAny>,
        overwrite: bool,
    ) -> PyResult<Self> {
        let ad = AssociatedData::new(Some(associated_data))?;
        let ad = ad.as_slice();
        let asked = Asked::new(keys.get());
        let (writer, key) = detached(py, &asked, Ticker::new(), (None, Some(&path)), |_| {
            let located = Located::new(&path, Side::Target)?;
            let slots = asked.slots()?;
            let writer = Writer::create(located, &slots.each(), ad, overwrite)?;
            Ok((writer, slots.key_id()))
        })?;
        Ok(Self {
            path,
            writer: Mutex::new(Some(writer)),
            key,
            taken: AtomicU64::new(0),
        })
    }

    /// Takes plaintext. After an exception the file can only be discarded.
    fn write(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<usize> {
        let input = Input::new(data, "data")?;
        let data = input.as_slice();
        let mut writer = self.take()?;
        let mut ticker = Ticker::new();
        let written = detach(py, || writer.write(data, &mut |done| ticker.tick(done)));
        *self.writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(writer);
        match written {
            Ok(()) => {
                self.taken.fetch_add(data.len() as u64, Ordering::Relaxed);
                Ok(data.len())
            }
            Err(error @ strongroom_core::Error::Interrupted) => Err(ticker.into_py_err(py, error)),
            Err(error) => Err(raise(py, error, None, Some(&self.path))),
        }
    }

    /// Makes the file durable and gives it its name.
    fn finish(&self, py: Python<'_>) -> PyResult<u64> {
        let writer = self.take()?;
        let mut ticker = Ticker::new();
        detach(py, || writer.finish(&mut |done| ticker.tick(done)))
            .map_err(|error| match error {
                strongroom_core::Error::Interrupted => ticker.into_py_err(py, error),
                error => raise(py, error, None, Some(&self.path)),
            })
            .inspect(|_| {
                if tally::enabled() {
                    let taken = self.taken.load(Ordering::Relaxed);
                    tally::note_enabled(py, Operation::Encrypt, self.key, 1, taken, None);
                }
            })
    }

    /// Removes what was written. Twice is no error.
    fn discard(&self) {
        drop(
            self.writer
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
    }
}
