//! The GIL shared with other threads by a call that needs it most of the time.

use std::thread;
use std::time::{Duration, Instant};

use pyo3::Python;

use crate::buf::detached::detach;

/// The time after which the GIL is released. Who asked for it long enough gets it then, however short
/// the release is: CPython makes the one who releases wait for the switch.
const HELD_MAX: Duration = Duration::from_millis(1);

/// The time after which others get a chance without that.
const KEPT_MAX: Duration = Duration::from_millis(4);

/// How long the GIL must be free to be a chance: a thread that waits for it has to wake up first. One
/// that finds it taken again begins to wait anew, and it only insists after five milliseconds in which
/// nothing happened (`take_gil` in CPython's ceval_gil): frequent and short releases alone would keep it
/// out for good. One of some 300 such chances was missed.
const CHANCE: Duration = Duration::from_micros(100);

/// What other threads had of the GIL.
pub struct Share {
    released: Instant,
    chance: Instant,
}

impl Share {
    /// For a call that begins.
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            released: now,
            chance: now,
        }
    }

    /// Gives them what they are due.
    pub fn offer(&mut self, py: Python<'_>) {
        if self.chance.elapsed() >= KEPT_MAX {
            detach(py, || thread::sleep(CHANCE));
            *self = Self::new();
        } else if self.released.elapsed() >= HELD_MAX {
            detach(py, || {});
            self.released = Instant::now();
        }
    }

    /// The same after the GIL was free for as long as `free`, which may have been a chance.
    pub fn offer_after(&mut self, py: Python<'_>, free: Duration) {
        if free >= CHANCE {
            *self = Self::new();
        } else {
            self.offer(py);
        }
    }
}
