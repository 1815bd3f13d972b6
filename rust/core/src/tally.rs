//! What was done with each key: monotone totals of messages and bytes since the process began, for
//! the audit log and for the usage figures of a key store. Off, and one relaxed load, until somebody
//! asks for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::Error;
use crate::keys::KeyId;
use crate::secret::ForkLocal;

/// What was done with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Sealed.
    Encrypt,
    /// Opened.
    Decrypt,
    /// Brought under another key without touching its data.
    Rewrap,
    /// Authenticated, and its plaintext dropped.
    Verify,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Encrypt, Self::Decrypt, Self::Rewrap, Self::Verify];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Encrypt => "encrypt",
            Operation::Decrypt => "decrypt",
            Operation::Rewrap => "rewrap",
            Operation::Verify => "verify",
        }
    }
}

/// How it ended: well, or with which exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was done.
    Success,
    /// Wrong key or damaged message.
    Decryption,
    /// No such key here.
    KeyNotFound,
    /// The key's state forbade it.
    KeyState,
    /// No whole message.
    Format,
    /// Too long, or the key is used up.
    Limit,
    /// Anything else: the store, the master, the system.
    Other,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Success,
        Self::Decryption,
        Self::KeyNotFound,
        Self::KeyState,
        Self::Format,
        Self::Limit,
        Self::Other,
    ];

    /// "success", or the class of the exception.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Success => "success",
            Outcome::Decryption => "DecryptionError",
            Outcome::KeyNotFound => "KeyNotFoundError",
            Outcome::KeyState => "KeyStateError",
            Outcome::Format => "FormatError",
            Outcome::Limit => "LimitError",
            Outcome::Other => "other",
        }
    }
}

impl From<&Error> for Outcome {
    fn from(error: &Error) -> Self {
        match error {
            Error::Decryption { .. } => Outcome::Decryption,
            Error::KeyNotFound { .. } => Outcome::KeyNotFound,
            Error::KeyState { .. } | Error::Forked => Outcome::KeyState,
            Error::Format(_) | Error::UnsupportedVersion(_) => Outcome::Format,
            Error::Limit(_) => Outcome::Limit,
            _ => Outcome::Other,
        }
    }
}

/// What is added up apart from all else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// The key, where one is known.
    pub key: Option<KeyId>,
    /// What was done.
    pub operation: Operation,
    /// How it ended.
    pub outcome: Outcome,
}

/// What was counted of one kind since the process began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Total {
    /// Messages.
    pub messages: u64,
    /// Bytes of plaintext.
    pub bytes: u64,
    /// First time, in microseconds since 1970.
    pub first: u64,
    /// Last time.
    pub last: u64,
}

/// One call, where a record for each is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Each {
    /// Key, operation and outcome.
    pub kind: Kind,
    /// Messages of the call.
    pub messages: u64,
    /// Bytes of plaintext.
    pub bytes: u64,
    /// When it ended, in microseconds since 1970.
    pub time: u64,
}

const TOTALS: u8 = 1;
const EACH: u8 = 2;
const USAGE: u8 = 4;
const INTERVAL: u8 = 8;

static WANTED: AtomicU8 = AtomicU8::new(0);

/// Kinds that are kept apart. Whoever sends messages that name keys at random fills no memory: what
/// comes above counts under no key.
const MAX_KINDS: usize = 65_536;

/// Calls that wait for their record: 64 bytes each, so 16 MiB.
const MAX_EACH: usize = 1 << 18;

#[derive(Default)]
struct Tally {
    totals: HashMap<Kind, Total>,
    /// What was added since [`take`].
    interval: HashMap<Kind, Total>,
    each: Vec<Each>,
    /// Calls that found the queue full: they are in the totals alone.
    unrecorded: u64,
}

/// The tally, and what wakes whoever waits for calls.
type Shared = (Mutex<Tally>, Condvar);

// A forked child starts with nothing: what its parent counted, the parent tells.
static TALLY: ForkLocal<Shared> = ForkLocal::new(|| (Mutex::new(Tally::default()), Condvar::new()));

fn tally() -> MutexGuard<'static, Tally> {
    TALLY.get().0.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether anything is to be counted.
#[inline]
#[must_use]
pub fn enabled() -> bool {
    WANTED.load(Ordering::Relaxed) != 0
}

/// Counts from now on, or no more. What was counted stays.
pub fn enable(on: bool) {
    set(TOTALS, on);
}

/// Counts from now on, for as long as the process lives: the usage figures of key stores.
pub fn enable_usage() {
    set(USAGE, true);
}

/// Adds up for [`take`] too, or no more.
pub fn enable_interval(on: bool) {
    set(INTERVAL, on);
}

/// Keeps each call too, for [`drain`], or no more.
pub fn enable_each(on: bool) {
    set(EACH, on);
}

fn set(bit: u8, on: bool) {
    if on {
        WANTED.fetch_or(bit, Ordering::Relaxed);
    } else {
        WANTED.fetch_and(!bit, Ordering::Relaxed);
    }
}

/// Counts a call.
pub fn count(kind: Kind, messages: u64, bytes: u64) {
    let time = crate::audit::template::now();
    let mut tally = tally();
    let wanted = WANTED.load(Ordering::Relaxed);
    if wanted & EACH != 0 {
        if tally.each.len() < MAX_EACH {
            tally.each.push(Each {
                kind,
                messages,
                bytes,
                time,
            });
            if tally.each.len() == 1 {
                TALLY.get().1.notify_one();
            }
        } else {
            tally.unrecorded += messages;
        }
    }
    let more = Total {
        messages,
        bytes,
        first: time,
        last: time,
    };
    add(&mut tally.totals, kind, more);
    if wanted & INTERVAL != 0 {
        add(&mut tally.interval, kind, more);
    }
}

fn add(totals: &mut HashMap<Kind, Total>, kind: Kind, more: Total) {
    let kind = if totals.len() < MAX_KINDS || totals.contains_key(&kind) {
        kind
    } else {
        Kind { key: None, ..kind }
    };
    let total = totals.entry(kind).or_insert(Total {
        messages: 0,
        bytes: 0,
        ..more
    });
    total.messages += more.messages;
    total.bytes += more.bytes;
    // The clock may be set back.
    total.first = total.first.min(more.first);
    total.last = total.last.max(more.last);
}

/// Takes what was added since the last call, by the time of its first message.
#[must_use]
pub fn take() -> Vec<(Kind, Total)> {
    let mut taken: Vec<_> = std::mem::take(&mut tally().interval).into_iter().collect();
    taken.sort_by_key(|(_, total)| total.first);
    taken
}

/// Puts back what was taken and could not be recorded.
pub fn give_back(taken: Vec<(Kind, Total)>) {
    let mut tally = tally();
    for (kind, total) in taken {
        add(&mut tally.interval, kind, total);
    }
}

/// All totals, in no order.
#[must_use]
pub fn snapshot() -> Vec<(Kind, Total)> {
    tally()
        .totals
        .iter()
        .map(|(kind, total)| (*kind, *total))
        .collect()
}

/// Waits until a call is there to be drained, or so long; whether one is.
#[must_use]
pub fn wait(longest: Duration) -> bool {
    let (mutex, woken) = TALLY.get();
    let tally = mutex.lock().unwrap_or_else(PoisonError::into_inner);
    let (tally, _) = woken
        .wait_timeout_while(tally, longest, |tally| tally.each.is_empty())
        .unwrap_or_else(PoisonError::into_inner);
    !tally.each.is_empty()
}

/// Takes the calls that wait, in their order, and how many found no room since the last time.
#[must_use]
pub fn drain() -> (Vec<Each>, u64) {
    let mut tally = tally();
    let room = tally.each.len().min(1 << 14);
    let each = std::mem::replace(&mut tally.each, Vec::with_capacity(room));
    (each, std::mem::take(&mut tally.unrecorded))
}

/// Puts back what was drained and could not be recorded, before what came since.
pub fn put_back(mut waiting: Vec<Each>, unrecorded: u64) {
    let mut tally = tally();
    tally.unrecorded += unrecorded;
    let came = std::mem::take(&mut tally.each);
    let room = MAX_EACH.saturating_sub(waiting.len());
    tally.unrecorded += came
        .iter()
        .skip(room)
        .map(|each| each.messages)
        .sum::<u64>();
    waiting.extend(came.into_iter().take(room));
    tally.each = waiting;
}
