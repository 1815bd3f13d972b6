//! The audit log: sealed lines, the tree over them, checkpoints, and their verification. The format
//! is docs/audit.md; the tree is RFC 6962's, a checkpoint is c2sp.org/tlog-checkpoint in a
//! c2sp.org/signed-note.

pub mod base64;
mod creation;
pub mod data;
pub mod files;
pub mod json;
pub mod lock;
pub mod log;
pub mod note;
mod paths;
mod place;
pub mod position;
pub mod prove;
pub mod record;
pub mod scan;
pub mod template;
pub mod tiles;
pub mod tree;
pub mod verify;

/// The longest line, its newline included: so a reader needs no more memory, whatever a file holds.
pub const LINE_MAX: usize = 64 * 1024;

/// Records that one call may seal: what a reader of the log waits for under the lock.
pub const BATCH_MAX: usize = 1 << 16;
