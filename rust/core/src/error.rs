//! What can go wrong, in the classes that a caller can act on.

use crate::params::KEY_ID_LEN;

/// The core's errors. The extension module turns each into one exception class.
#[derive(Debug)]
pub enum Error {
    /// The bytes are not a whole message; visible without a key.
    Format(String),
    /// A message of a version or kind that this release does not know.
    UnsupportedVersion(String),
    /// Whatever needed a key and failed. One fixed text, no cause.
    Decryption {
        /// The first bad record of a batch.
        index: Option<usize>,
    },
    /// A limit of the format.
    Limit(String),
    /// No key of these ids is here.
    KeyNotFound {
        /// What to tell.
        message: String,
        /// The id looked for, where it is one.
        key_id: Option<[u8; KEY_ID_LEN]>,
    },
    /// The state of the key forbids it.
    KeyState {
        /// What to tell.
        message: String,
        /// The key.
        key_id: Option<[u8; KEY_ID_LEN]>,
        /// Its state.
        state: &'static str,
    },
    /// A master that could not be asked or refused; whoever asked it has the cause.
    Master(String),
    /// An argument of a wrong length or value.
    Invalid(String),
    /// Memory could not be had or locked.
    Memory(String),
    /// The secret belongs to the process that forked this one.
    Forked,
    /// An operating system call failed.
    Os(std::io::Error),
    /// The caller's progress or signal check asked to stop.
    Interrupted,
    /// The audit log could not be written or read.
    Audit(String),
    /// The audit log was changed.
    AuditIntegrity {
        /// What to tell.
        message: String,
        /// The first bad record, where it can be named.
        sequence: Option<u64>,
    },
}

/// Result with the core's error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The failure that tells nothing.
    pub const DECRYPTION: Error = Error::Decryption { index: None };

    /// An audit log that was changed.
    pub fn integrity(message: impl Into<String>, sequence: Option<u64>) -> Self {
        Error::AuditIntegrity {
            message: message.into(),
            sequence,
        }
    }

    /// A format error with its text.
    pub fn format(text: impl Into<String>) -> Self {
        Error::Format(text.into())
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Format(text)
            | Error::UnsupportedVersion(text)
            | Error::Limit(text)
            | Error::Master(text)
            | Error::Invalid(text)
            | Error::Memory(text)
            | Error::Audit(text) => f.write_str(text),
            Error::Decryption { .. } => {
                f.write_str("decryption failed: wrong key, wrong associated data, or damaged message")
            }
            Error::KeyNotFound { message, .. }
            | Error::KeyState { message, .. }
            | Error::AuditIntegrity { message, .. } => f.write_str(message),
            Error::Forked => f.write_str(
                "this key was opened before fork() and is not inherited: open it again in this process",
            ),
            Error::Os(error) => error.fmt(f),
            Error::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Error::Os(error)
    }
}

/// A key id as it is shown: 32 lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a String never fails");
            text
        })
}
