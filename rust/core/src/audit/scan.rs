//! Reading on from a place in a log, record by record, and saying what ends the good ones.

use std::io::{self, BufRead, Read};

use super::LINE_MAX;
use super::position::Position;
use super::record::{self, Record};
use super::tree::{Hash, Range, leaf_hash};

/// A root that must hold at a size.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Records.
    pub size: u64,
    /// Root of the tree over them.
    pub root: Hash,
    /// Whose checkpoint says so, for messages.
    pub name: String,
    /// What a cache says of this place, if there is one: helps to find what was changed, proves
    /// nothing.
    pub hint: Option<(Hash, Range)>,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Number of the first bad record, as far as can be known.
    pub sequence: u64,
    /// What is wrong with it.
    pub text: String,
}

/// What the good records end with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The end of the file.
    Clean,
    /// Bytes that a writer left that died: no record, and behind all that a checkpoint covers.
    Torn {
        /// Bytes to the end of the file.
        len: u64,
    },
    /// Something that no writer leaves.
    Damaged(Damage),
}

/// Reads one log, through all its files.
pub struct Scan<'a> {
    /// The place reached. Its range lacks the last record until the file's end: see `pending`.
    at: Position,
    /// The last record's hash, once a next one has confirmed it or the file has ended it is added to
    /// the tree.
    pending: Option<Hash>,
    expected: &'a [Expected],
    checked: usize,
    /// Told of the nodes of the tree as they are complete.
    nodes: &'a mut dyn FnMut(u8, &Hash),
    line: Vec<u8>,
}

impl<'a> Scan<'a> {
    /// Starts at a place; `expected` in the order of sizes.
    pub fn new(
        at: Position,
        expected: &'a [Expected],
        nodes: &'a mut dyn FnMut(u8, &Hash),
    ) -> Self {
        let checked = expected
            .iter()
            .take_while(|root| root.size < at.size())
            .count();
        Self {
            at,
            pending: None,
            expected,
            checked,
            nodes,
            line: Vec::with_capacity(4096),
        }
    }

    /// Records before the place reached.
    fn size(&self) -> u64 {
        self.at.size() + u64::from(self.pending.is_some())
    }

    /// The size that some checkpoint covers.
    fn covered(&self) -> u64 {
        self.expected.last().map_or(0, |root| root.size)
    }

    /// The place reached, all records before it in its tree.
    #[must_use]
    pub fn into_position(self) -> Position {
        debug_assert!(self.pending.is_none(), "read to the end of a file");
        self.at
    }

    /// Goes on in another file, of which it is the beginning.
    pub fn next_file(&mut self) {
        self.at = self.at.in_new_file();
    }

    /// Reads a file from the place reached to its end. `is_last` is whether more records could have
    /// followed in it: only there is a torn tail what it is.
    ///
    /// `tick` is called with the bytes read, now and then.
    ///
    /// # Errors
    /// The file can't be read, or `tick` asks to stop.
    pub fn read(
        &mut self,
        file: &mut dyn BufRead,
        is_last: bool,
        tick: &mut dyn FnMut(u64) -> io::Result<()>,
    ) -> io::Result<End> {
        let mut since_tick = 0u64;
        loop {
            let whole = self.next_line(file)?;
            let len = self.line.len() as u64;
            if !whole && len == 0 {
                return Ok(self.settle().map_or(End::Clean, End::Damaged));
            }
            let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
            let reason = match record::parse(line) {
                Ok(record) if whole => {
                    let hash = leaf_hash(line);
                    if let Some(damage) = Self::follows(&self.at, self.pending, &record) {
                        return self.blame(damage, record.prev, hash, file);
                    }
                    if let Some(damage) = self.settle() {
                        return Ok(End::Damaged(damage));
                    }
                    self.pending = Some(hash);
                    self.at.last = hash;
                    self.at.offset += len;
                    since_tick += len;
                    if since_tick >= TICK_BYTES {
                        tick(since_tick)?;
                        since_tick = 0;
                    }
                    continue;
                }
                Ok(_) => "without its newline",
                Err(reason) => reason,
            };
            if let Some(damage) = self.settle() {
                return Ok(End::Damaged(damage));
            }
            return self.tail(file, is_last, reason);
        }
    }

    /// Reads a line, its newline included, or what is there of it; false at the end of the file or
    /// of what a line may have.
    fn next_line(&mut self, file: &mut dyn BufRead) -> io::Result<bool> {
        self.line.clear();
        let mut limited = Read::take(file, LINE_MAX as u64);
        limited.read_until(b'\n', &mut self.line)?;
        Ok(self.line.ends_with(b"\n"))
    }

    fn follows(at: &Position, pending: Option<Hash>, record: &Record<'_>) -> Option<Follows> {
        let sequence = at.size() + u64::from(pending.is_some());
        if record.seq != sequence {
            return Some(Follows::Number(record.seq));
        }
        (record.prev != at.last).then_some(Follows::Prev)
    }

    /// Adds the last record to the tree, and compares the root where a checkpoint says one.
    fn settle(&mut self) -> Option<Damage> {
        let all = self.expected;
        let is_due = all
            .get(self.checked)
            .is_some_and(|expected| expected.size == self.size());
        let mut before = None;
        if let Some(hash) = self.pending.take() {
            before = is_due.then(|| self.at.range.clone());
            self.at.range.push_with(hash, &mut *self.nodes);
        }
        while let Some(expected) = all.get(self.checked)
            && expected.size == self.at.size()
        {
            if self.at.range.root() != expected.root {
                return Some(self.differs(expected, before));
            }
            self.checked += 1;
        }
        None
    }

    /// Says where the tree differs from a checkpoint's although each line fits the one before.
    fn differs(&self, expected: &Expected, before_last: Option<Range>) -> Damage {
        let size = expected.size;
        let mut first = 0;
        if let Some((last, range)) = &expected.hint
            && range.size() == size
            && range.root() == expected.root
        {
            first = self.at.range.first_difference(range).unwrap_or(0);
            // Was it the last record alone? Then all before it, and the hash that the cache has for
            // it, make the root, which proves it.
            if let Some(mut range) = before_last {
                range.push(*last);
                if range.root() == expected.root {
                    first = size - 1;
                }
            }
        }
        let place = if first + 1 == size {
            format!("record {first} is not the one")
        } else {
            format!("some record from {first} on is not the one")
        };
        Damage {
            sequence: first,
            text: format!("{place} that the {} of size {size} covers", expected.name),
        }
    }

    /// A record that parses and does not follow the one before: which of the two was changed?
    fn blame(
        &mut self,
        why: Follows,
        prev: Hash,
        hash: Hash,
        file: &mut dyn BufRead,
    ) -> io::Result<End> {
        let sequence = self.size();
        let number = match why {
            Follows::Number(found) => {
                if let Some(damage) = self.settle() {
                    return Ok(End::Damaged(damage));
                }
                return Ok(End::Damaged(Damage {
                    sequence,
                    text: format!("record {sequence} is not there: one with seq {found} is"),
                }));
            }
            Follows::Prev => sequence,
        };
        let before = self.at.range.clone();
        // The line behind it knows this one's hash; if it knows it as it is, the one before it was
        // changed. Without such a line a checkpoint's root can tell.
        let confirmed = self.next_line(file)?
            && record::parse(self.line.strip_suffix(b"\n").unwrap_or(&self.line))
                .is_ok_and(|next| next.prev == hash);
        let proven = || {
            let mut range = before.clone();
            range.push(prev);
            range.push(hash);
            self.expected
                .iter()
                .any(|expected| expected.size == range.size() && expected.root == range.root())
        };
        let sequence = if self.pending.is_some() && (confirmed || proven()) {
            number - 1
        } else {
            number
        };
        Ok(End::Damaged(Damage {
            sequence,
            text: format!("record {sequence} was changed: its hash is not what the next one says"),
        }))
    }

    /// What follows the last good line: torn, or damage?
    fn tail(&mut self, file: &mut dyn BufRead, is_last: bool, reason: &str) -> io::Result<End> {
        let sequence = self.size();
        let damaged = |text: String| Ok(End::Damaged(Damage { sequence, text }));
        if sequence < self.covered() || !is_last {
            return damaged(format!("record {sequence} is damaged: {reason}"));
        }
        let mut len = self.line.len() as u64;
        let mut whole = self.line.ends_with(b"\n");
        loop {
            // A piece of a line that is too long to be a record does not end one either.
            let starts = whole;
            whole = self.next_line(file)?;
            if self.line.is_empty() {
                return Ok(End::Torn { len });
            }
            len += self.line.len() as u64;
            let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
            if starts && whole && record::parse(line).is_ok() {
                return damaged(format!(
                    "record {sequence} is damaged: {reason}, and records follow it"
                ));
            }
        }
    }

    /// Checks at the end of all files that no checkpoint covers more than is there.
    pub fn finish(&self) -> Option<Damage> {
        let expected = self.expected.get(self.checked)?;
        let size = self.at.size();
        Some(Damage {
            sequence: size,
            text: format!(
                "the log ends after {size} records, and the {} covers {}: {} were cut off",
                expected.name,
                expected.size,
                expected.size - size
            ),
        })
    }
}

/// How a record does not follow the one before.
enum Follows {
    Number(u64),
    Prev,
}

/// Bytes between two chances to stop.
const TICK_BYTES: u64 = 4 << 20;
