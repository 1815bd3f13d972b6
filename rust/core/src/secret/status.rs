//! What protects secrets in this process, what failed, and what is to happen then.

use std::env;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::map;
use super::process::ForkLocal;
use crate::error::Error;

/// Names the policy at start: `strict` or `warn`.
const POLICY_VARIABLE: &str = "STRONGROOM_MEMORY_POLICY";
/// Names the backend: `memfd_secret` or `mlock`; the best there is when unset.
const BACKEND_VARIABLE: &str = "STRONGROOM_MEMORY_BACKEND";

/// What to do when memory can't be locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Policy {
    /// Go on, warn once, and show it in [`status`].
    Warn = 1,
    /// Refuse, and say how to raise the limit.
    Strict = 2,
}

/// The kind of memory of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backend {
    None,
    MemfdSecret,
    Mlock,
    Unlocked,
}

/// A report on the memory for secrets.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MemoryStatus {
    /// `memfd_secret`, `mlock` (`VirtualLock` on Windows), or `none` when nothing could be locked:
    /// the kind of the last pages taken, of a trial page when there were none yet.
    pub backend: &'static str,
    /// What happens when locking fails.
    pub policy: Policy,
    /// Bytes in locked pages now.
    pub locked_bytes: usize,
    /// Bytes in pages that could not be locked, now.
    pub unlocked_bytes: usize,
    /// Secrets in all those pages.
    pub secrets: usize,
    /// How many bytes the process may lock (RLIMIT_MEMLOCK); None: no limit, or none is known.
    pub limit: Option<u64>,
    /// Whether the kernel wipes pages in a forked child; else children are told by process id.
    pub wipes_on_fork: bool,
    /// What failed and why, each once.
    pub failures: Vec<String>,
}

#[derive(Default)]
struct Counters {
    locked: AtomicUsize,
    unlocked: AtomicUsize,
    secrets: AtomicUsize,
    backend: AtomicU8,
    failures: Mutex<Vec<String>>,
    to_warn: AtomicBool,
    warned: AtomicBool,
}

static COUNTERS: ForkLocal<Counters> = ForkLocal::new(Counters::default);
/// 0 until it is set or first asked for.
static POLICY: AtomicU8 = AtomicU8::new(0);

/// How secrets are protected here; takes one page for a moment if no secret was made yet.
///
/// # Errors
///
/// `Error::Invalid` when an environment variable names no policy or backend.
pub fn status() -> Result<MemoryStatus, Error> {
    let policy = policy()?;
    let counters = COUNTERS.get();
    if counters.backend.load(Ordering::Relaxed) == 0 {
        let mut failures = Vec::new();
        let trial = map::Mapping::new(1, Policy::Warn, &mut failures);
        failed(failures);
        drop(trial?);
    }
    let failures = counters
        .failures
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    Ok(MemoryStatus {
        backend: match counters.backend.load(Ordering::Relaxed) {
            1 => "memfd_secret",
            2 if cfg!(windows) => "VirtualLock",
            2 => "mlock",
            _ => "none",
        },
        policy,
        locked_bytes: counters.locked.load(Ordering::Relaxed),
        unlocked_bytes: counters.unlocked.load(Ordering::Relaxed),
        secrets: counters.secrets.load(Ordering::Relaxed),
        limit: map::lock_limit(),
        wipes_on_fork: !map::fork_is_seen_by_pid_alone(),
        failures,
    })
}

/// Sets what happens from now on when memory can't be locked.
pub fn set_policy(policy: Policy) {
    POLICY.store(policy as u8, Ordering::Relaxed);
}

/// The text of the one warning that memory could not be locked, the first time it is asked for
/// after that happened; costs one load from memory otherwise.
#[must_use]
pub fn take_warning() -> Option<String> {
    let counters = COUNTERS.get_if_made()?;
    if !counters.to_warn.load(Ordering::Relaxed) || counters.warned.swap(true, Ordering::Relaxed) {
        return None;
    }
    counters.to_warn.store(false, Ordering::Relaxed);
    let failures = counters
        .failures
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    failures.last().map(|last| how_to_lock(last))
}

pub(super) fn policy() -> Result<Policy, Error> {
    match POLICY.load(Ordering::Relaxed) {
        1 => return Ok(Policy::Warn),
        2 => return Ok(Policy::Strict),
        _ => {}
    }
    let policy = match env::var_os(POLICY_VARIABLE) {
        None => Policy::Warn,
        Some(value) if value == "warn" => Policy::Warn,
        Some(value) if value == "strict" => Policy::Strict,
        // A misspelt "strict" must not weaken anything.
        Some(_) => {
            return Err(Error::Invalid(format!(
                "{POLICY_VARIABLE} is neither strict nor warn"
            )));
        }
    };
    let _ = POLICY.compare_exchange(0, policy as u8, Ordering::Relaxed, Ordering::Relaxed);
    Ok(policy)
}

pub(super) fn wanted_backend() -> Result<Backend, Error> {
    // No OnceLock: a child that another thread forks in the middle of one would wait for ever.
    static WANTED: AtomicU8 = AtomicU8::new(0);
    for known in [Backend::MemfdSecret, Backend::Mlock] {
        if WANTED.load(Ordering::Relaxed) == known as u8 {
            return Ok(known);
        }
    }
    let wanted = match env::var_os(BACKEND_VARIABLE) {
        None if cfg!(target_os = "linux") => Backend::MemfdSecret,
        Some(value) if value == "memfd_secret" => Backend::MemfdSecret,
        None => Backend::Mlock,
        Some(value) if value == "mlock" => Backend::Mlock,
        Some(_) => {
            return Err(Error::Invalid(format!(
                "{BACKEND_VARIABLE} is neither memfd_secret nor mlock"
            )));
        }
    };
    WANTED.store(wanted as u8, Ordering::Relaxed);
    Ok(wanted)
}

/// Notes what failed, each text once.
pub(super) fn failed(new: Vec<String>) {
    if new.is_empty() {
        return;
    }
    let mut failures = COUNTERS
        .get()
        .failures
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    for text in new {
        // The newest is last: the warning speaks of that one.
        failures.retain(|known| *known != text);
        failures.push(text);
    }
}

pub(super) fn how_to_lock(failure: &str) -> String {
    let limit = map::lock_limit().map_or_else(String::new, |limit| {
        format!("; the limit RLIMIT_MEMLOCK is {limit} bytes")
    });
    format!(
        "memory for secrets could not be locked ({failure}{limit}): it may be swapped to disk; \
         raise the limit (ulimit -l, LimitMEMLOCK= of systemd, --ulimit memlock= of a container) \
         or give the process CAP_IPC_LOCK"
    )
}

pub(super) fn mapped(backend: Backend, len: usize) {
    let counters = COUNTERS.get();
    counters.backend.store(backend as u8, Ordering::Relaxed);
    if backend == Backend::Unlocked {
        counters.unlocked.fetch_add(len, Ordering::Relaxed);
    } else {
        counters.locked.fetch_add(len, Ordering::Relaxed);
    }
}

pub(super) fn unmapped(backend: Backend, len: usize) {
    let counters = COUNTERS.get();
    let count = if backend == Backend::Unlocked {
        &counters.unlocked
    } else {
        &counters.locked
    };
    count.fetch_sub(len, Ordering::Relaxed);
}

pub(super) fn allocated(locked: bool) {
    let counters = COUNTERS.get();
    counters.secrets.fetch_add(1, Ordering::Relaxed);
    if !locked {
        counters.to_warn.store(true, Ordering::Relaxed);
    }
}

pub(super) fn freed() {
    COUNTERS.get().secrets.fetch_sub(1, Ordering::Relaxed);
}
