//! The GIL shared with other threads by a call that needs it most of the time.

use std::thread;
use std::time::{Duration, Instant};

use pyo3::Python;

use crate::buf::detached::detach;

/// The time after which other threads get a chance.
const KEPT_MAX: Duration = Duration::from_millis(4);

/// How long the GIL must be free to be a chance: a thread that waits for it has to wake up first. One
/// that finds it taken again begins to wait anew, and it only insists after five milliseconds in which
/// nothing happened (`take_gil` in CPython's ceval_gil): frequent and short releases alone would keep it
/// out for good. One of some 300 such chances was missed.
const CHANCE: Duration = Duration::from_micros(100);

/// When other threads had a chance last.
pub struct Share(Instant);

impl Share {
    /// For a call that begins.
    pub fn new() -> Self {
        Self(Instant::now())
    }

    /// Runs `work` without the GIL, and stays away from it longer if others are due a chance and
    /// that was none.
    pub fn release<R: Send>(&mut self, py: Python<'_>, work: impl FnOnce() -> R + Send) -> R {
        let due = self.0.elapsed() >= KEPT_MAX;
        let free = Instant::now();
        let result = detach(py, || {
            let result = work();
            if due && free.elapsed() < CHANCE {
                thread::sleep(CHANCE);
            }
            result
        });
        if free.elapsed() >= CHANCE {
            self.0 = Instant::now();
        }
        result
    }
}
