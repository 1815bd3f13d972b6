//! A place between two records, with all that is needed to go on from there; and its cache on disk.

use std::path::Path;

use super::base64;
use super::paths;
use super::record::NO_PREV;
use super::tree::{Hash, Range};

const HEAD: &str = "strongroom.audit state 1";

/// A place between two records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Number of the first record of the file at hand.
    pub first: u64,
    /// Bytes of the file before this place.
    pub offset: u64,
    /// Leaf hash of the record before this place.
    pub last: Hash,
    /// The tree over all records before this place.
    pub range: Range,
}

impl Default for Position {
    fn default() -> Self {
        Self {
            first: 0,
            offset: 0,
            last: NO_PREV,
            range: Range::default(),
        }
    }
}

impl Position {
    /// Number of the next record.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.range.size()
    }

    /// This place as the beginning of the next file.
    #[must_use]
    pub fn in_new_file(&self) -> Self {
        Self {
            first: self.size(),
            offset: 0,
            ..self.clone()
        }
    }

    /// Reads a state file. What it says is a claim, until a checkpoint's root proves it.
    #[must_use]
    pub fn load(path: &Path) -> Option<Self> {
        Self::parse(&paths::read(path).ok()??)
    }

    /// Reads a state file's content.
    #[must_use]
    pub fn parse(content: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(content).ok()?;
        let mut lines = text.lines();
        if lines.next()? != HEAD {
            return None;
        }
        let numbers: Vec<u64> = lines
            .next()?
            .split(' ')
            .map(|word| word.parse().ok())
            .collect::<Option<_>>()?;
        let [size, first, offset] = numbers[..] else {
            return None;
        };
        let last = base64::decode_hash(lines.next()?.as_bytes())?;
        let hashes = lines
            .map(|line| base64::decode_hash(line.as_bytes()))
            .collect::<Option<Vec<_>>>()?;
        let range = Range::from_parts(size, hashes)?;
        (first <= size).then_some(Self {
            first,
            offset,
            last,
            range,
        })
    }

    /// The text of a state file.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!("{HEAD}\n{} {} {}\n", self.size(), self.first, self.offset);
        for hash in std::iter::once(&self.last).chain(self.range.hashes()) {
            text.push_str(&base64::encode(hash));
            text.push('\n');
        }
        text
    }
}
