//! Many files in one call, and the directories that they are in.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};
use rustix::fs::{self, Mode, OFlags};
use rustix::io::retry_on_intr;
use strongroom_core::error::hex;
use strongroom_core::file::{self, Done, Job, Options, Place, Side, Work};
use strongroom_core::keys::KeyId;
use strongroom_core::{Error, Result};

use super::keys::{Asked, FileKeys};
use super::single::{detached, note, told};
use super::{raise, side};
use crate::buf::detached::detach;
use crate::cipher::AssociatedData;
use crate::errors::OrRaise;
use crate::tally::{self, Operation};
use crate::tick::Ticker;

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Folder>()?;
    m.add_function(wrap_pyfunction!(file_batch, m)?)?;
    m.add_function(wrap_pyfunction!(is_temporary_name, m)?)
}

/// A directory held open: what is done in it happens there, whatever becomes of its name.
#[pyclass(frozen, module = "strongroom._native")]
pub struct Folder {
    dir: Mutex<Option<Arc<OwnedFd>>>,
}

impl Folder {
    fn wrap(dir: rustix::io::Result<OwnedFd>) -> PyResult<Self> {
        let dir = dir.map_err(os_error)?;
        Ok(Self {
            dir: Mutex::new(Some(Arc::new(dir))),
        })
    }

    fn dir(&self) -> PyResult<Arc<OwnedFd>> {
        let dir = self.dir.lock().unwrap_or_else(PoisonError::into_inner);
        dir.clone()
            .ok_or_else(|| PyValueError::new_err("this directory was closed"))
    }
}

fn os_error(errno: rustix::io::Errno) -> PyErr {
    let text = std::io::Error::from(errno).to_string();
    let text = text
        .split(" (os error")
        .next()
        .unwrap_or_default()
        .to_owned();
    PyOSError::new_err((errno.raw_os_error(), text))
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

#[pymethods]
impl Folder {
    /// Opens a directory by its path; symbolic links are followed.
    #[new]
    fn new(path: PathBuf) -> PyResult<Self> {
        Self::wrap(retry_on_intr(|| {
            fs::openat(fs::CWD, &path, DIRECTORY, Mode::empty())
        }))
    }

    /// Opens a directory in this one; a symbolic link is none.
    fn child(&self, name: &[u8]) -> PyResult<Self> {
        if name.contains(&b'/') || name == b".." {
            return Err(PyValueError::new_err(
                "the name of a child is one component of a path",
            ));
        }
        let dir = self.dir()?;
        let flags = DIRECTORY | OFlags::NOFOLLOW;
        Self::wrap(retry_on_intr(|| {
            fs::openat(&dir, name, flags, Mode::empty())
        }))
    }

    /// The descriptor, for `dir_fd=`; it is this object's.
    fn fileno(&self) -> PyResult<i32> {
        Ok(self.dir()?.as_raw_fd())
    }

    /// Removes what writers that died have left here, unless a live one is here; returns how many
    /// files. Then marks the directory as one with a live writer, until it is closed.
    fn begin_writing(&self, py: Python<'_>) -> PyResult<usize> {
        let dir = self.dir()?;
        detach(py, || {
            let removed = file::remove_stale(&*dir)?;
            file::lock_shared(&*dir);
            Ok(removed)
        })
        .or_raise(py)
    }

    /// Closes it, once the call that is using it has ended. Twice is no error.
    fn close(&self) {
        self.dir
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

/// Whether a name is one of a file in the making.
#[pyfunction]
fn is_temporary_name(name: &[u8]) -> bool {
    file::is_temporary(name)
}

/// Source directory, name in it, target directory, name in it.
type JobArguments<'py> = (
    Bound<'py, Folder>,
    Bound<'py, PyBytes>,
    Bound<'py, Folder>,
    Bound<'py, PyBytes>,
);

struct OwnedJob {
    source: (Arc<OwnedFd>, CString),
    target: (Arc<OwnedFd>, CString),
}

impl OwnedJob {
    fn source(&self) -> Place<'_> {
        Place {
            dir: self.source.0.as_fd(),
            name: &self.source.1,
        }
    }
}

fn name(bytes: &Bound<'_, PyBytes>) -> PyResult<CString> {
    let bytes = bytes.as_bytes();
    if bytes.contains(&b'/') || matches!(bytes, b"" | b"." | b"..") {
        return Err(PyValueError::new_err(
            "the name of a file is one component of a path",
        ));
    }
    Ok(CString::new(bytes)?)
}

/// Does one thing to many files. For each: (plaintext bytes, message bytes, key id, whether it was
/// current), or (exception, whether it is about the target).
#[pyfunction]
#[pyo3(signature = (work, jobs, folders, keys, associated_data, *, overwrite=false, copy=false,
                    workers=None, progress=None))]
#[expect(
    clippy::too_many_arguments,
    reason = "keyword arguments of a function of Python's"
)]
fn file_batch<'py>(
    py: Python<'py>,
    work: &str,
    jobs: Vec<JobArguments<'py>>,
    folders: Vec<(Bound<'py, Folder>, Bound<'py, Folder>)>,
    keys: &Bound<'py, FileKeys>,
    associated_data: &Bound<'py, PyAny>,
    overwrite: bool,
    copy: bool,
    workers: Option<usize>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyList>> {
    let ad = AssociatedData::new(Some(associated_data))?;
    let jobs = jobs
        .iter()
        .map(|(from, source, to, target)| {
            Ok(OwnedJob {
                source: (from.get().dir()?, name(source)?),
                target: (to.get().dir()?, name(target)?),
            })
        })
        .collect::<PyResult<Vec<_>>>()?;
    let folders = folders
        .iter()
        .map(|(dir, like)| Ok((dir.get().dir()?, like.get().dir()?)))
        .collect::<PyResult<Vec<_>>>()?;
    let options = Options {
        associated_data: ad.as_slice(),
        overwrite,
        workers,
    };
    let asked = match work {
        "rewrap" => Asked::for_rewrap(keys.get()),
        _ => Asked::new(keys.get()),
    };
    let ticker = Ticker::with_progress(progress.as_ref(), None);
    let results = detached(py, &asked, ticker, (None, None), |ticker| {
        run(work, &jobs, &folders, &asked, options, copy, ticker)
    })?;
    let operation = match work {
        "encrypt" => Operation::Encrypt,
        "decrypt" => Operation::Decrypt,
        "verify" => Operation::Verify,
        _ => Operation::Rewrap,
    };
    to_list(py, operation, &jobs, results)
}

fn run(
    work: &str,
    jobs: &[OwnedJob],
    folders: &[(Arc<OwnedFd>, Arc<OwnedFd>)],
    asked: &Asked<'_>,
    options: Options<'_>,
    copy: bool,
    ticker: &mut Ticker<'_>,
) -> Result<Vec<Result<Done>>> {
    let jobs: Vec<_> = jobs
        .iter()
        .map(|job| Job {
            source: job.source(),
            target: Place {
                dir: job.target.0.as_fd(),
                name: &job.target.1,
            },
        })
        .collect();
    let folders: Vec<_> = folders
        .iter()
        .map(|(dir, like)| file::Folder {
            dir: dir.as_fd(),
            like: like.as_fd(),
        })
        .collect();
    let slots;
    let each;
    let work = match work {
        "encrypt" => {
            slots = asked.slots()?;
            each = slots.each();
            Work::Encrypt {
                slots: &each,
                keys: asked,
            }
        }
        "decrypt" => Work::Decrypt(asked),
        "verify" => Work::Verify(asked),
        "rewrap" => Work::Rewrap { keys: asked, copy },
        other => return Err(Error::Invalid(format!("{other:?} is no work on files"))),
    };
    file::run(&jobs, &folders, &work, options, &mut |done| {
        ticker.tick(done)
    })
}

fn to_list<'py>(
    py: Python<'py>,
    operation: Operation,
    jobs: &[OwnedJob],
    results: Vec<Result<Done>>,
) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    // Nearly always one key: its text is made once.
    let mut last: Option<(KeyId, Bound<'_, PyString>)> = None;
    for (job, result) in jobs.iter().zip(results) {
        match result {
            Ok(done) => {
                note(py, operation, &done.count);
                let key_id = done.count.key_id.map(|id| match &last {
                    Some((same, text)) if *same == id => text.clone(),
                    _ => {
                        let text = PyString::new(py, &hex(&id));
                        last = Some((id, text.clone()));
                        text
                    }
                });
                list.append((
                    done.count.plaintext,
                    done.count.message,
                    key_id,
                    done.current,
                ))?;
            }
            Err(error) => {
                let of_target = side(&error) == Some(Side::Target);
                let raised = raise(py, error, None, None);
                if tally::enabled() {
                    let (key, bytes) = match operation {
                        Operation::Encrypt => (None, 0),
                        _ => detach(py, || told(job.source())),
                    };
                    tally::note_enabled(py, operation, key, 1, bytes, Some(&raised));
                }
                list.append((raised.into_value(py), of_target))?;
            }
        }
    }
    Ok(list)
}
