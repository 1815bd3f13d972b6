//! What was done with each key, told to the core's tally. See `strongroom_core::tally`.

use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use strongroom_core::error::hex;
use strongroom_core::keys::KeyId;
use strongroom_core::record;
use strongroom_core::tally::{self, Kind, Total};

pub use strongroom_core::tally::{Operation, Outcome, enabled};

use crate::buf::detached::detach;
use crate::errors::{DecryptionError, FormatError, KeyNotFoundError, KeyStateError, LimitError};
use crate::keyring::parse_id;

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(tally_enable, m)?)?;
    m.add_function(wrap_pyfunction!(tally_enable_usage, m)?)?;
    m.add_function(wrap_pyfunction!(tally_gather, m)?)?;
    m.add_function(wrap_pyfunction!(tally_count, m)?)?;
    m.add_function(wrap_pyfunction!(tally_take, m)?)?;
    m.add_function(wrap_pyfunction!(tally_give_back, m)?)?;
    m.add_function(wrap_pyfunction!(tally_wait, m)?)?;
    m.add_function(wrap_pyfunction!(tally_snapshot, m)?)
}

/// Counts from now on, or no more; what was counted stays.
#[pyfunction]
fn tally_enable(on: bool) {
    tally::enable(on);
}

/// Counts from now on, whatever `tally_enable` says: key stores keep usage figures.
#[pyfunction]
fn tally_enable_usage() {
    tally::enable_usage();
}

/// Key id (None where it isn't known), operation, outcome ("success" or the exception's class),
/// messages, bytes of plaintext, first and last time in microseconds since 1970.
type Row = (
    Option<String>,
    &'static str,
    &'static str,
    u64,
    u64,
    u64,
    u64,
);

/// The totals of each key, operation and outcome since the process began, in no order.
#[pyfunction]
fn tally_snapshot() -> Vec<Row> {
    rows(tally::snapshot())
}

fn rows(totals: Vec<(Kind, Total)>) -> Vec<Row> {
    totals
        .into_iter()
        .map(|(kind, total)| {
            (
                kind.key.map(|id| hex(&id)),
                kind.operation.name(),
                kind.outcome.name(),
                total.messages,
                total.bytes,
                total.first,
                total.last,
            )
        })
        .collect()
}

/// Gathers for `tally_take` or, with `each`, for `AuditLog.pump`.
#[pyfunction]
fn tally_gather(totals: bool, each: bool) {
    tally::enable_interval(totals);
    tally::enable_each(each);
}

/// Counts what Python code does with a key.
#[pyfunction]
fn tally_count(
    operation: &str,
    key_id: Option<&str>,
    outcome: &str,
    messages: u64,
    bytes: u64,
) -> PyResult<()> {
    if enabled() {
        tally::count(kind(key_id, operation, outcome)?, messages, bytes);
    }
    Ok(())
}

fn kind(key_id: Option<&str>, operation: &str, outcome: &str) -> PyResult<Kind> {
    let operation = Operation::ALL
        .into_iter()
        .find(|known| known.name() == operation)
        .ok_or_else(|| PyValueError::new_err(format!("no operation {operation:?}")))?;
    let outcome = Outcome::ALL
        .into_iter()
        .find(|known| known.name() == outcome)
        .unwrap_or(Outcome::Other);
    Ok(Kind {
        key: key_id.map(parse_id).transpose()?,
        operation,
        outcome,
    })
}

/// Waits until a call is there for `AuditLog.pump`, or so many seconds, and a moment more for others;
/// whether one is.
#[pyfunction]
fn tally_wait(py: Python<'_>, seconds: f64) -> bool {
    let longest = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO);
    detach(py, || {
        let there = tally::wait(longest);
        if there {
            std::thread::sleep(GATHER);
        }
        there
    })
}

/// Calls gather for so long before they are sealed together: 5 ms are promised.
const GATHER: Duration = Duration::from_millis(2);

/// Takes what was counted since the last call.
#[pyfunction]
fn tally_take() -> Vec<Row> {
    rows(tally::take())
}

/// What `tally_take` returned, as Python gives it back.
type OwnedRow = (Option<String>, String, String, u64, u64, u64, u64);

/// Puts back what could not be recorded.
#[pyfunction]
fn tally_give_back(rows: Vec<OwnedRow>) -> PyResult<()> {
    let totals = rows
        .into_iter()
        .map(|(key, operation, outcome, messages, bytes, first, last)| {
            let total = Total {
                messages,
                bytes,
                first,
                last,
            };
            Ok((kind(key.as_deref(), &operation, &outcome)?, total))
        })
        .collect::<PyResult<Vec<_>>>()?;
    tally::give_back(totals);
    Ok(())
}

/// Counts one message, whatever became of it.
#[inline]
pub fn note<T>(
    py: Python<'_>,
    operation: Operation,
    key: Option<KeyId>,
    bytes: usize,
    result: &PyResult<T>,
) {
    if enabled() {
        note_enabled(py, operation, key, 1, bytes as u64, result.as_ref().err());
    }
}

/// Counts one message that could not be worked on.
pub fn refused(
    py: Python<'_>,
    operation: Operation,
    key: Option<KeyId>,
    bytes: usize,
    error: &PyErr,
) {
    if enabled() {
        note_enabled(py, operation, key, 1, bytes as u64, Some(error));
    }
}

/// Counts messages; `error` is None where all went well.
#[cold]
pub fn note_enabled(
    py: Python<'_>,
    operation: Operation,
    key: Option<KeyId>,
    messages: u64,
    bytes: u64,
    error: Option<&PyErr>,
) {
    let outcome = error.map_or(Outcome::Success, |error| outcome_of(py, error));
    tally::count(
        Kind {
            key,
            operation,
            outcome,
        },
        messages,
        bytes,
    );
}

/// The key that a record names, if it is one.
pub fn named(message: &[u8]) -> Option<KeyId> {
    record::parse(message).ok()
}

fn outcome_of(py: Python<'_>, error: &PyErr) -> Outcome {
    if error.is_instance_of::<DecryptionError>(py) {
        Outcome::Decryption
    } else if error.is_instance_of::<KeyNotFoundError>(py) {
        Outcome::KeyNotFound
    } else if error.is_instance_of::<KeyStateError>(py) {
        Outcome::KeyState
    } else if error.is_instance_of::<FormatError>(py) {
        Outcome::Format
    } else if error.is_instance_of::<LimitError>(py) {
        Outcome::Limit
    } else {
        Outcome::Other
    }
}
