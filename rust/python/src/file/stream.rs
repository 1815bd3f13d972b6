//! Messages as they pass by, for pipes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use strongroom_core::engine::Engine;
use strongroom_core::envelope::{Extent, Header, open_header};
use strongroom_core::error::hex;
use strongroom_core::file::create;
use strongroom_core::stream::{Decryptor, Encryptor};
use strongroom_core::{Error, Result};

use super::keys::{Asked, FileKeys};
use super::single::detached;
use crate::buf::Input;
use crate::buf::detached::detach;
use crate::cipher::{AssociatedData, copied, detached_above};
use crate::errors::{OrRaise, to_py};
use crate::keyring::parse_id;
use crate::tally::{self, Operation};
use crate::tick::Ticker;

fn finished() -> PyErr {
    PyValueError::new_err("this stream is finished, or has failed")
}

/// Encrypts what passes by. What comes out is the message, in order.
#[pyclass(frozen, module = "strongroom._native")]
pub struct StreamEncryptor {
    state: Mutex<Option<(Encryptor, Vec<u8>)>>,
    taken: AtomicU64,
    #[pyo3(get)]
    key_id: Option<String>,
}

impl StreamEncryptor {
    fn lock(&self) -> MutexGuard<'_, Option<(Encryptor, Vec<u8>)>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl StreamEncryptor {
    #[new]
    fn new(
        py: Python<'_>,
        keys: &Bound<'_, FileKeys>,
        associated_data: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let ad = AssociatedData::new(Some(associated_data))?;
        let ad = ad.as_slice();
        let asked = Asked::new(keys.get());
        let (header, key) = detached(py, &asked, Ticker::new(), (None, None), |_| {
            create(&asked.slots()?.each(), ad)
        })?;
        Ok(Self {
            state: Mutex::new(Some((Encryptor::new(key), header.to_bytes()))),
            taken: AtomicU64::new(0),
            key_id: header.first_key_id().map(|id| hex(&id)),
        })
    }

    /// Takes plaintext, returns the bytes of the message that are settled by now.
    fn update<'py>(
        &self,
        py: Python<'py>,
        data: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let data = Input::new(data, "data")?;
        let data = data.as_slice();
        // Taken out: whoever drops the GIL must hold no lock that another thread waits for with it.
        let taken = self.lock().take();
        let (mut encryptor, mut out) = taken.ok_or_else(finished)?;
        detach(py, || encryptor.update(data, &mut out)).or_raise(py)?;
        let bytes = copied(py, &out)?;
        if out.capacity() <= KEPT_MAX {
            out.clear();
        } else {
            release(py, std::mem::take(&mut out));
        }
        *self.lock() = Some((encryptor, out));
        self.taken.fetch_add(data.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }

    /// Returns the end of the message.
    fn finalize<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let taken = self.lock().take();
        let (encryptor, mut out) = taken.ok_or_else(finished)?;
        encryptor.finalize(&mut out).or_raise(py)?;
        let taken = self.taken.load(Ordering::Relaxed);
        note(py, Operation::Encrypt, self.key_id.as_deref(), taken, None);
        Ok(PyBytes::new(py, &out))
    }
}

/// A buffer of more is not kept for the next piece.
const KEPT_MAX: usize = 16 << 20;

/// Gives a buffer back; a large one takes the system its time.
fn release(py: Python<'_>, buffer: Vec<u8>) {
    detached_above(py, buffer.capacity(), move || drop(buffer));
}

/// Counts one message.
fn note(
    py: Python<'_>,
    operation: Operation,
    key: Option<&str>,
    bytes: u64,
    error: Option<&PyErr>,
) {
    if tally::enabled() {
        let key = key.and_then(|key| parse_id(key).ok());
        tally::note_enabled(py, operation, key, 1, bytes, error);
    }
}

enum Decrypting {
    /// The header is not all here.
    Head(Vec<u8>),
    Body(Box<Decryptor>),
    Failed(PyErr),
    Done,
}

/// Decrypts what passes by. What comes out is authenticated; that it is all of the message is
/// known once `finalize` has returned.
#[pyclass(frozen, module = "strongroom._native")]
pub struct StreamDecryptor {
    keys: Py<FileKeys>,
    associated_data: Vec<u8>,
    state: Mutex<Decrypting>,
    key_id: Mutex<Option<String>>,
    /// The first key that the header names, whether it opened or not.
    named: Mutex<Option<String>>,
    given: AtomicU64,
}

impl StreamDecryptor {
    fn lock(&self) -> MutexGuard<'_, Decrypting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step(
        &self,
        py: Python<'_>,
        state: Decrypting,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Decrypting {
        match state {
            Decrypting::Head(mut head) => {
                head.extend_from_slice(data);
                match self.open(py, &head) {
                    Ok(Some((decryptor, end))) => Self::body(py, decryptor, &head[end..], out),
                    Ok(None) => Decrypting::Head(head),
                    Err(error) => Decrypting::Failed(error),
                }
            }
            Decrypting::Body(decryptor) => Self::body(py, decryptor, data, out),
            other => other,
        }
    }

    fn note(&self, py: Python<'_>, error: Option<&PyErr>) {
        let key = self
            .key_id()
            .or_else(|| self.named.lock().ok().and_then(|named| named.clone()));
        let given = self.given.load(Ordering::Relaxed);
        note(py, Operation::Decrypt, key.as_deref(), given, error);
    }

    fn body(
        py: Python<'_>,
        mut decryptor: Box<Decryptor>,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Decrypting {
        match detach(py, || decryptor.update(data, out)) {
            Ok(()) => Decrypting::Body(decryptor),
            Err(error) => Decrypting::Failed(to_py(py, error)),
        }
    }

    fn open(&self, py: Python<'_>, head: &[u8]) -> PyResult<Option<(Box<Decryptor>, usize)>> {
        let Extent::Complete(end) = Header::extent(head).or_raise(py)? else {
            return Ok(None);
        };
        let (header, _) = Header::parse(head).or_raise(py)?;
        *self.named.lock().unwrap_or_else(PoisonError::into_inner) =
            header.first_key_id().map(|id| hex(&id));
        let asked = Asked::new(self.keys.get());
        let opened = detached(py, &asked, Ticker::new(), (None, None), |_| {
            open_header(
                &header,
                &asked,
                &self.associated_data,
                Engine::for_streams(),
            )
        })?;
        *self.key_id.lock().unwrap_or_else(PoisonError::into_inner) =
            opened.key_id.map(|id| hex(&id));
        Ok(Some((Box::new(Decryptor::new(opened.stream)), end)))
    }
}

#[pymethods]
impl StreamDecryptor {
    #[new]
    fn new(keys: Py<FileKeys>, associated_data: &Bound<'_, PyAny>) -> PyResult<Self> {
        let ad = AssociatedData::new(Some(associated_data))?;
        Ok(Self {
            keys,
            associated_data: ad.as_slice().to_vec(),
            state: Mutex::new(Decrypting::Head(Vec::new())),
            key_id: Mutex::new(None),
            named: Mutex::new(None),
            given: AtomicU64::new(0),
        })
    }

    /// The key that opened it, once the header has passed; None for a passphrase.
    #[getter]
    fn key_id(&self) -> Option<String> {
        self.key_id
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether a call has failed: `finalize` raises what it was, and so does `update`.
    #[getter]
    fn failed(&self) -> bool {
        matches!(*self.lock(), Decrypting::Failed(_))
    }

    /// Takes bytes of the message, returns the plaintext that is authenticated by now. Where that
    /// fails it returns what came before, and from then on raises.
    fn update<'py>(
        &self,
        py: Python<'py>,
        data: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let data = Input::new(data, "data")?;
        let mut state = self.lock();
        match &*state {
            Decrypting::Failed(error) => return Err(error.clone_ref(py)),
            Decrypting::Done => return Err(finished()),
            _ => {}
        }
        let taken = std::mem::replace(&mut *state, Decrypting::Done);
        drop(state);
        let mut out = Vec::new();
        let next = self.step(py, taken, data.as_slice(), &mut out);
        self.given.fetch_add(out.len() as u64, Ordering::Relaxed);
        if let Decrypting::Failed(error) = &next {
            self.note(py, Some(error));
        }
        *self.lock() = next;
        let bytes = copied(py, &out)?;
        release(py, out);
        Ok(bytes)
    }

    /// Returns the end of the plaintext: the message is all there.
    fn finalize<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let mut state = self.lock();
        let mut out = Vec::new();
        let ended: Result<()> = match std::mem::replace(&mut *state, Decrypting::Done) {
            Decrypting::Body(decryptor) => decryptor.finalize(&mut out),
            Decrypting::Head(head) => match Header::parse(&head) {
                // A whole header with nothing behind it.
                Ok(_) => Err(Error::Format("the message ends with its header".into())),
                Err(error) => Err(error),
            },
            Decrypting::Failed(error) => {
                *state = Decrypting::Failed(error.clone_ref(py));
                return Err(error);
            }
            Decrypting::Done => return Err(finished()),
        };
        if let Err(error) = ended {
            let error = to_py(py, error);
            self.note(py, Some(&error));
            *state = Decrypting::Failed(error.clone_ref(py));
            return Err(error);
        }
        self.given.fetch_add(out.len() as u64, Ordering::Relaxed);
        self.note(py, None);
        Ok(PyBytes::new(py, &out))
    }
}
