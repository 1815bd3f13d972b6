//! Unwrapped KEKs, each for a time and a number of uses.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use strongroom_core::keys::{KeyHandle, KeyId};
use strongroom_core::{envelope, secret};

/// KEKs kept at a time: every writer has one of its own, and each takes some hundred bytes of
/// locked memory, of which a process may have no more than 64 KiB.
const CACHE_MAX: usize = 128;

/// A KEK with what it stands for in an envelope.
pub struct Kek {
    pub id: KeyId,
    pub wrapped: Vec<u8>,
    pub key: Arc<KeyHandle>,
    expires: Instant,
    uses_left: AtomicU64,
}

impl Kek {
    /// A KEK of which one use is counted already.
    pub fn new(key: &Arc<KeyHandle>, wrapped: &[u8], lifetime: Duration, uses: u64) -> Self {
        Self {
            id: key.id(),
            wrapped: wrapped.to_vec(),
            key: Arc::clone(key),
            expires: Instant::now() + lifetime,
            uses_left: AtomicU64::new(uses.saturating_sub(1)),
        }
    }

    /// Counts a use; false where none is left.
    fn take(&self) -> bool {
        Instant::now() < self.expires
            && self
                .uses_left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(1)
                })
                .is_ok()
    }
}

/// By [`envelope::kek_entry`]; `writing` is the one that new messages are written under.
#[derive(Default)]
pub struct Cache {
    generation: u64,
    pub closed: bool,
    pub writing: Option<Arc<Kek>>,
    opened: HashMap<[u8; 32], Arc<Kek>>,
}

impl Cache {
    pub fn clear(&mut self) {
        self.writing = None;
        self.opened.clear();
    }

    /// Empties it in a forked child.
    pub fn of_this_process(&mut self) {
        let generation = secret::generation();
        if self.generation != generation {
            self.generation = generation;
            self.clear();
        }
    }

    /// The KEK for writing, and a use of it.
    pub fn take_writing(&mut self) -> Option<Arc<Kek>> {
        match self.writing.take_if(|kek| !kek.take()) {
            Some(_) => None,
            None => self.writing.clone(),
        }
    }

    /// The KEK of an entry, and a use of it.
    pub fn take_opened(&mut self, entry: &[u8; 32]) -> Option<Arc<Kek>> {
        let kek = self.opened.get(entry)?;
        if kek.take() {
            return Some(Arc::clone(kek));
        }
        self.opened.remove(entry);
        None
    }

    /// Keeps a KEK; where the cache is full, what expires first goes.
    pub fn keep(&mut self, kek: &Arc<Kek>) {
        if self.closed {
            return;
        }
        if self.opened.len() >= CACHE_MAX {
            let now = Instant::now();
            self.opened.retain(|_, kek| now < kek.expires);
            let first = self.opened.iter().min_by_key(|(_, kek)| kek.expires);
            if let Some((entry, _)) = first
                && self.opened.len() >= CACHE_MAX
            {
                let entry = *entry;
                self.opened.remove(&entry);
            }
        }
        let entry = envelope::kek_entry(&kek.id, &kek.wrapped);
        self.opened.insert(entry, Arc::clone(kek));
    }
}
