//! The extension module `strongroom._native`: converts, detaches, calls the core, wraps.
#![deny(unsafe_code)]

mod audit;
mod batch;
#[allow(unsafe_code)]
mod buf;
mod cipher;
mod envelope;
mod errors;
mod file;
mod hazmat;
mod keyring;
mod keyset_cipher;
mod message;
mod number;
mod packed;
mod parallel_encryption;
mod pool;
mod secret;
mod secure_buffer;
mod secure_encryption;
mod share;
mod tally;
mod tick;
mod values;
mod views;
mod wrapped;

use pyo3::prelude::*;

#[pymodule]
fn _native(m: &Bound<'_, PyModule>) -> PyResult<()> {
    use errors::OrRaise;
    let py = m.py();
    strongroom_core::engine::init().or_raise(py)?;
    strongroom_core::parallel::init().or_raise(py)?;
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add_class::<secure_encryption::SecureEncryption>()?;
    m.add_class::<parallel_encryption::ParallelEncryption>()?;
    m.add_class::<keyring::Keyring>()?;
    m.add_class::<keyset_cipher::KeysetCipher>()?;
    m.add_class::<envelope::EnvelopeCipher>()?;
    audit::register(m)?;
    file::register(m)?;
    hazmat::register(m)?;
    message::register(m)?;
    pool::register(m)?;
    secret::register(m)?;
    tally::register(m)?;
    wrapped::register(m)?;
    // PyO3 lists all that was added; nobody imports * from here, and the stub would repeat it.
    m.dict().del_item("__all__")
}
