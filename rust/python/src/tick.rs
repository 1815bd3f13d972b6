//! Signals and progress while the GIL is released.

use std::time::{Duration, Instant};

use pyo3::prelude::*;
use strongroom_core::Error;

use crate::buf::detached::attach;

/// At most so often are signals looked at and progress told.
const INTERVAL: Duration = Duration::from_millis(50);

/// Called between pieces of work by the thread that called in, without the GIL.
pub struct Ticker<'a> {
    last: Instant,
    progress: Option<&'a Py<PyAny>>,
    total: Option<u64>,
    raised: Option<PyErr>,
}

impl<'a> Ticker<'a> {
    /// For a call without progress.
    pub fn new() -> Self {
        Self::with_progress(None, None)
    }

    /// Tells `progress(done, total)` as it goes.
    pub fn with_progress(progress: Option<&'a Py<PyAny>>, total: Option<u64>) -> Self {
        Self {
            last: Instant::now(),
            progress,
            total,
            raised: None,
        }
    }

    /// One look, if it is time for one. An exception stops the work with `Interrupted`.
    pub fn tick(&mut self, done: u64) -> Result<(), Error> {
        if self.last.elapsed() < INTERVAL {
            return Ok(());
        }
        self.last = Instant::now();
        let looked = attach(|py| {
            py.check_signals()?;
            match self.progress {
                Some(progress) => progress.call1(py, (done, self.total)).map(|_| ()),
                None => Ok(()),
            }
        });
        looked.map_err(|error| {
            self.raised = Some(error);
            Error::Interrupted
        })
    }

    /// The exception for an error of the work: the one that a tick raised, if it was that.
    pub fn into_py_err(self, py: Python<'_>, error: Error) -> PyErr {
        match (error, self.raised) {
            (Error::Interrupted, Some(raised)) => raised,
            (error, _) => crate::errors::to_py(py, error),
        }
    }
}
