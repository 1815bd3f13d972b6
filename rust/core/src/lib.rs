//! The cryptographic core of Strongroom: records, envelopes and streams of AES-256-GCM, and the
//! memory that their keys live in. No Python in here; the format is `FORMAT.md`.
#![deny(missing_docs)]
#![deny(unsafe_code)]

pub mod audit;
pub mod batch;
pub mod drbg;
pub mod engine;
pub mod envelope;
pub mod error;
pub mod file;
pub mod hash;
pub mod kc_xaes;
pub mod kdf;
pub mod keys;
mod opening;
pub mod parallel;
pub mod params;
mod pieces;
pub mod random;
mod random_access;
pub mod record;
#[allow(unsafe_code)]
pub mod secret;
pub mod slot;
mod source;
pub mod stream;
pub mod tally;
pub mod wrapped;

pub use error::{Error, Result};
