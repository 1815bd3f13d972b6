//! Threads, engines and randomness of this process.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use strongroom_core::{engine, parallel, params, random, secret};

use crate::buf::new_bytes;
use crate::errors::OrRaise;
use crate::number::Number;

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(generate_key, m)?)?;
    m.add_function(wrap_pyfunction!(set_num_threads, m)?)?;
    m.add_function(wrap_pyfunction!(num_threads, m)?)?;
    m.add_function(wrap_pyfunction!(reseed, m)?)?;
    m.add_function(wrap_pyfunction!(process_generation, m)?)?;
    m.add_function(wrap_pyfunction!(engine_status, m)?)?;
    m.add_function(wrap_pyfunction!(build_profile, m)?)?;
    m.add("CHUNK_SIZE", params::PIECE_LEN)
}

/// A new key: 32 random bytes from the operating system.
#[pyfunction]
fn generate_key(py: Python<'_>) -> PyResult<Bound<'_, PyBytes>> {
    new_bytes(py, params::KEY_LEN, |out| random::fill(out).or_raise(py))
}

/// Sets how many threads a large call uses, the caller included.
///
/// Args:
///     threads: 1 to 1,024, or None for the CPUs that the process may use, quotas included.
///
/// Raises:
///     ValueError: Out of these bounds.
#[pyfunction]
#[pyo3(signature = (threads))]
fn set_num_threads(py: Python<'_>, threads: Option<Number>) -> PyResult<()> {
    parallel::set_num_threads(threads.map(|Number(threads)| threads)).or_raise(py)
}

/// How many threads a large call uses, the caller included.
#[pyfunction]
fn num_threads() -> usize {
    parallel::num_threads()
}

/// Empties the buffer that nonces come from, so that later ones come from fresh randomness.
///
/// To be called after a virtual machine or a process was restored from a snapshot: two that run on
/// from the same one would otherwise hand out the same buffered nonces, up to 170 of them.
#[pyfunction]
fn reseed() {
    random::reseed();
}

/// A number that differs in a forked child.
#[pyfunction]
fn process_generation() -> u64 {
    secret::generation()
}

/// The engine of this process and the CPU features that matter to it.
#[pyfunction]
fn engine_status(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let choice = engine::choice();
    let status = PyDict::new(py);
    status.set_item("engine", choice.engine.name())?;
    status.set_item("forced", choice.forced)?;
    status.set_item("small_record_max", choice.small_record_max)?;
    status.set_item("small_batch_max", choice.small_batch_max)?;
    let features = PyDict::new(py);
    for (name, has) in engine::cpu_features() {
        features.set_item(name, has)?;
    }
    status.set_item("cpu_features", features)?;
    Ok(status)
}

/// The cargo profile of this extension: "release" for what is handed out and what figures count of.
#[pyfunction]
fn build_profile() -> &'static str {
    env!("STRONGROOM_PROFILE")
}
