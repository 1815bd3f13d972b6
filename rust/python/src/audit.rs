//! The audit log, for `strongroom.audit`.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use strongroom_core::audit::base64;
use strongroom_core::audit::data::{self, Templates};
use strongroom_core::audit::files::Files;
use strongroom_core::audit::lock::Patience;
use strongroom_core::audit::log::{Durability, Log, OwnEvents, Rotation, set_damaged_aside};
use strongroom_core::audit::note::{FileKey, KEY_LEN, PublicKey, SIGNATURE_LEN, Sign};
use strongroom_core::audit::prove::{prove_consistency, prove_inclusion};
use strongroom_core::audit::template::Template;
use strongroom_core::audit::verify::{Known, verify};
use strongroom_core::{Error, Result};

use crate::buf::detached::{attach, detach};
use crate::errors::{OrRaise, to_py};
use crate::secret::MemoryLockedKey;
use crate::tick::Ticker;

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<AuditLog>()?;
    m.add_function(wrap_pyfunction!(audit_verify, m)?)?;
    m.add_function(wrap_pyfunction!(audit_prove, m)?)?;
    m.add_function(wrap_pyfunction!(audit_prove_consistency, m)?)?;
    m.add_function(wrap_pyfunction!(audit_checkpoint, m)?)?;
    m.add_function(wrap_pyfunction!(audit_files, m)?)?;
    m.add_function(wrap_pyfunction!(audit_set_aside, m)?)?;
    m.add_function(wrap_pyfunction!(audit_public_key, m)?)?;
    m.add_function(wrap_pyfunction!(audit_sign, m)?)
}

/// The label under which a key of purpose "audit" gives its Ed25519 seed (FORMAT.md §2).
const LABEL: &str = "audit";

fn keyset_key(key: &MemoryLockedKey) -> Result<FileKey> {
    let material = key.handle.material()?;
    FileKey::from_seed(&*material.derive::<KEY_LEN>(LABEL)?)
}

/// The Ed25519 public key of a key with the purpose "audit".
#[pyfunction]
fn audit_public_key<'py>(
    py: Python<'py>,
    key: &Bound<'py, MemoryLockedKey>,
) -> PyResult<Bound<'py, PyBytes>> {
    let key = keyset_key(key.get()).or_raise(py)?;
    Ok(PyBytes::new(py, &key.public_key()))
}

/// An Ed25519 signature by a key with the purpose "audit".
#[pyfunction]
fn audit_sign<'py>(
    py: Python<'py>,
    key: &Bound<'py, MemoryLockedKey>,
    message: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    let signature = keyset_key(key.get())
        .and_then(|key| key.sign(message))
        .or_raise(py)?;
    Ok(PyBytes::new(py, &signature))
}

/// A signer that is Python's: `sign(message)` returns 64 bytes.
struct Signer {
    key: [u8; KEY_LEN],
    sign: Py<PyAny>,
    raised: Raised,
}

impl Sign for Signer {
    fn public_key(&self) -> [u8; KEY_LEN] {
        self.key
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; SIGNATURE_LEN]> {
        attach(|py| {
            let signed = self.sign.bind(py).call1((PyBytes::new(py, message),));
            signed
                .and_then(|signature| signature.extract::<[u8; SIGNATURE_LEN]>())
                .map_err(|error| {
                    if error.is_instance_of::<PyException>(py) {
                        Error::Audit(format!("the checkpoint could not be signed: {error}"))
                    } else {
                        self.raised.keep(error)
                    }
                })
        })
    }
}

/// The exception of a signal that came while a log's lock was waited for, or a signature.
#[derive(Clone, Default)]
struct Raised(Arc<Mutex<Option<PyErr>>>);

impl Raised {
    fn patience(&self, seconds: f64) -> Patience {
        let raised = self.clone();
        let mut last = Instant::now();
        let longest = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        let tick = move || {
            if last.elapsed() < SIGNALS {
                return Ok(());
            }
            last = Instant::now();
            attach(|py| py.check_signals()).map_err(|error| raised.keep(error))
        };
        Patience::new(longest, Box::new(tick))
    }

    fn keep(&self, error: PyErr) -> Error {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        Error::Interrupted
    }

    fn to_py_err(&self, py: Python<'_>, error: Error) -> PyErr {
        // Another thread's error leaves it there.
        let raised = match error {
            Error::Interrupted => {
                let mut there = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                there.take()
            }
            _ => None,
        };
        raised.unwrap_or_else(|| to_py(py, error))
    }
}

/// At most so often are signals looked at.
const SIGNALS: Duration = Duration::from_millis(50);

/// A log that is open for writing. All of it is this process's: a forked child opens its own.
#[pyclass(frozen, module = "strongroom._native")]
pub struct AuditLog {
    log: Mutex<Log>,
    raised: Raised,
    templates: Templates,
    vkey: String,
    lock_descriptor: i32,
}

impl AuditLog {
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut Log) -> Result<T> + Send,
    ) -> PyResult<(T, Option<Py<PyBytes>>)> {
        let done = detach(py, || {
            // Threads of this process wait for each other, and then for other processes.
            let since = Instant::now();
            let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
            log.waiting_since(since);
            work(&mut log).map(|done| (done, log.take_checkpoint()))
        });
        let (done, checkpoint) = done.map_err(|error| self.raised.to_py_err(py, error))?;
        Ok((
            done,
            checkpoint.map(|note| PyBytes::new(py, &note).unbind()),
        ))
    }
}

#[pymethods]
impl AuditLog {
    /// `events` are the log's own: opened, recovered, rotated. `data(operation, outcome, has_key)`
    /// returns the event of a data operation, or None. `lock_seconds` is how long the log's lock is
    /// waited for.
    #[new]
    #[pyo3(signature = (path, events, data, signer=None, *, lock_seconds, rotate_bytes=None, rotate_daily=false))]
    #[expect(
        clippy::too_many_arguments,
        reason = "keyword arguments of a function of Python's"
    )]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        events: (String, String, String),
        data: &Bound<'_, PyAny>,
        signer: Option<([u8; KEY_LEN], Py<PyAny>)>,
        lock_seconds: f64,
        rotate_bytes: Option<u64>,
        rotate_daily: bool,
    ) -> PyResult<Self> {
        let events = OwnEvents {
            opened: Template::new(&events.0).or_raise(py)?,
            recovered: Template::new(&events.1).or_raise(py)?,
            rotated: Template::new(&events.2).or_raise(py)?,
        };
        let templates = Templates::new(|operation, outcome, has_key| {
            data.call1((operation, outcome, has_key))
                .and_then(|text| text.extract())
                .unwrap_or_default()
        })
        .or_raise(py)?;
        let raised = Raised::default();
        let signer = signer.map(|(key, sign)| {
            let raised = raised.clone();
            Box::new(Signer { key, sign, raised }) as Box<dyn Sign>
        });
        let rotation = Rotation {
            bytes: rotate_bytes,
            daily: rotate_daily,
        };
        let patience = raised.patience(lock_seconds);
        let log = detach(py, || Log::open(&path, signer, events, rotation, patience))
            .map_err(|error| raised.to_py_err(py, error))?;
        Ok(Self {
            vkey: log.key().vkey(),
            lock_descriptor: log.lock_descriptor(),
            log: Mutex::new(log),
            raised,
            templates,
        })
    }

    /// The public key in signed-note form.
    #[getter]
    fn vkey(&self) -> &str {
        &self.vkey
    }

    /// The descriptor of the lock's file, in whose place a forked child puts another.
    #[getter]
    fn lock_descriptor(&self) -> i32 {
        self.lock_descriptor
    }

    /// Seals events, each a canonical JSON object; returns the first one's number, and the
    /// checkpoint if one was written.
    fn append(
        &self,
        py: Python<'_>,
        events: Vec<String>,
        durability: &str,
    ) -> PyResult<(u64, Option<Py<PyBytes>>)> {
        let durability = match durability {
            "checkpoint" => Durability::Checkpoint,
            "disk" => Durability::Disk,
            "kernel" => Durability::Kernel,
            _ => return Err(PyValueError::new_err("no such durability")),
        };
        self.with(py, |log| log.append(&events, durability))
    }

    /// Covers with a checkpoint what none covers yet.
    fn flush(&self, py: Python<'_>) -> PyResult<Option<Py<PyBytes>>> {
        Ok(self.with(py, Log::flush)?.1)
    }

    /// Seals the data operations that wait. Returns how many were sealed and, if `wanted`, their
    /// events; how many had found no room to wait in; the checkpoint if one was written.
    fn pump(&self, py: Python<'_>, wanted: bool) -> PyResult<Pumped> {
        let ((events, unrecorded), checkpoint) =
            self.with(py, |log| data::seal_waiting(log, &self.templates))?;
        let count = events.len();
        let events = if wanted { events } else { Vec::new() };
        Ok((count, events, unrecorded, checkpoint))
    }
}

/// How many, their events, how many that found no room, a checkpoint.
type Pumped = (usize, Vec<String>, u64, Option<Py<PyBytes>>);

/// Verifies a log: see `strongroom.audit.verify`.
#[pyfunction]
#[pyo3(signature = (path, vkey=None, checkpoints=Vec::new(), *, index=false, progress=None))]
fn audit_verify<'py>(
    py: Python<'py>,
    path: PathBuf,
    vkey: Option<String>,
    checkpoints: Vec<(String, Vec<u8>)>,
    index: bool,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let mut ticker = Ticker::with_progress(progress.as_ref(), None);
    let began = Instant::now();
    let report = detach(py, || {
        let known = Known {
            vkey: vkey.as_deref(),
            checkpoints: &checkpoints,
        };
        verify(&path, known, index, &mut |done| ticker.tick(done))
    })
    .map_err(|error| ticker.into_py_err(py, error))?;
    let found = PyDict::new(py);
    found.set_item("first", report.first)?;
    found.set_item("size", report.size)?;
    found.set_item("covered", report.covered)?;
    found.set_item("bytes", report.bytes)?;
    found.set_item("files", report.files)?;
    found.set_item("torn", report.torn)?;
    found.set_item("unchecked", report.unchecked)?;
    found.set_item("indexed", report.indexed)?;
    found.set_item("seconds", began.elapsed().as_secs_f64())?;
    let damage = report.damage.map(|damage| (damage.sequence, damage.text));
    found.set_item("damage", damage)?;
    Ok(found)
}

/// Inclusion proof and line of a record.
#[pyfunction]
#[pyo3(signature = (path, seq, vkey=None, *, progress=None))]
fn audit_prove<'py>(
    py: Python<'py>,
    path: PathBuf,
    seq: u64,
    vkey: Option<String>,
    progress: Option<Py<PyAny>>,
) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
    let mut ticker = Ticker::with_progress(progress.as_ref(), None);
    let proof = detach(py, || {
        prove_inclusion(&path, vkey.as_deref(), seq, &mut |done| ticker.tick(done))
    })
    .map_err(|error| ticker.into_py_err(py, error))?;
    Ok((
        PyBytes::new(py, &proof.proof),
        PyBytes::new(py, &proof.line),
    ))
}

/// Consistency proof from an older checkpoint to the newest one.
#[pyfunction]
#[pyo3(signature = (path, older, vkey=None, *, progress=None))]
fn audit_prove_consistency<'py>(
    py: Python<'py>,
    path: PathBuf,
    older: Vec<u8>,
    vkey: Option<String>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyBytes>> {
    let mut ticker = Ticker::with_progress(progress.as_ref(), None);
    let proof = detach(py, || {
        prove_consistency(&path, vkey.as_deref(), &older, &mut |done| {
            ticker.tick(done)
        })
    })
    .map_err(|error| ticker.into_py_err(py, error))?;
    Ok(PyBytes::new(py, &proof))
}

/// Origin, size and root of a checkpoint that the key signed.
#[pyfunction]
fn audit_checkpoint(py: Python<'_>, note: &[u8], vkey: &str) -> PyResult<(String, u64, String)> {
    let checkpoint = PublicKey::parse(vkey)
        .and_then(|key| key.open(note))
        .or_raise(py)?;
    let root = base64::encode(&checkpoint.root);
    Ok((checkpoint.origin, checkpoint.size, root))
}

/// The log's files, the oldest first: path, number of the first record, bytes.
#[pyfunction]
#[pyo3(signature = (path, vkey=None))]
fn audit_files(
    py: Python<'_>,
    path: PathBuf,
    vkey: Option<String>,
) -> PyResult<Vec<(std::ffi::OsString, u64, u64)>> {
    let mut ticker = Ticker::new();
    let files = detach(py, || {
        Files::open(&path, vkey.as_deref(), true, &mut |done| ticker.tick(done))
    })
    .map_err(|error| ticker.into_py_err(py, error))?;
    Ok(files
        .pieces
        .into_iter()
        .map(|piece| (piece.path.into_os_string(), piece.first, piece.len))
        .collect())
}

/// Renames all files of a damaged log, its key too; returns the new name of its newest file.
#[pyfunction]
fn audit_set_aside(py: Python<'_>, path: PathBuf) -> PyResult<std::ffi::OsString> {
    detach(py, || set_damaged_aside(&path))
        .map(PathBuf::into_os_string)
        .or_raise(py)
}
