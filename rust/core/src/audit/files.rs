//! All files of a log as one: which there are, what the oldest begins after, and where a record is.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::LINE_MAX;
use super::lock::{Locked, PATIENCE, Sharing, Wait};
use super::note::{Checkpoint, PublicKey};
use super::paths::{self, beside, failed};
use super::place::{closed_files, closing, expect, first_number, read_checkpoint};
use super::position::Position;
use super::record;
use super::scan::Expected;
use crate::{Error, Result};

/// One file of a log.
#[derive(Debug)]
pub struct Piece {
    /// Its path.
    pub path: PathBuf,
    /// Number of its first record.
    pub first: u64,
    /// Bytes of it that count.
    pub len: u64,
    file: File,
}

/// A log as it stood at one moment.
#[derive(Debug)]
pub struct Files {
    /// Its files, the oldest first.
    pub pieces: Vec<Piece>,
    /// The place before the first record that is there.
    pub start: Position,
    /// Its key.
    pub key: PublicKey,
    /// The newest checkpoint and its bytes; None where it is missing.
    pub newest: Option<(Checkpoint, Vec<u8>)>,
    /// What must hold, in the order of sizes: closing checkpoints, the newest one.
    pub expected: Vec<Expected>,
}

impl Files {
    /// Looks at a log between two appends. `vkey` is its public key as the caller knows it; None
    /// takes the one beside the log. `need_checkpoint` is false for callers that have one. `tick` is
    /// called while a writer has the log's lock.
    ///
    /// # Errors
    /// [`Error::Audit`] where files are missing, [`Error::AuditIntegrity`] where a checkpoint is not
    /// this key's.
    pub fn open(
        path: &Path,
        vkey: Option<&str>,
        need_checkpoint: bool,
        tick: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Self> {
        if path.is_dir() {
            return Err(Error::Audit(format!(
                "{} is a directory: name the log's file",
                path.display()
            )));
        }
        match File::open(path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A rotation goes on, or was stopped by a crash, between its two names.
                if closed_files(path).map_or(true, |closed| closed.is_empty()) {
                    return Err(Error::Os(error));
                }
            }
            Err(error) => return Err(failed(path, "read", &error)),
        }
        let vkey = match vkey {
            Some(text) => text.to_owned(),
            None => {
                let vkey_path = beside(path, ".vkey");
                let text = paths::read(&vkey_path)?.ok_or_else(|| {
                    Error::Audit(format!(
                        "{} is missing: it is no audit log, or give its public key",
                        vkey_path.display()
                    ))
                })?;
                String::from_utf8_lossy(&text).into_owned()
            }
        };
        let key = PublicKey::parse(&vkey)?;
        // Without the lock's file (a copy of a log) there are no writers either.
        let lock = File::open(beside(path, ".lock")).ok();
        let mut wait = Wait {
            since: Instant::now(),
            longest: PATIENCE,
            tick: &mut || tick(0),
        };
        let _locked = match &lock {
            Some(lock) => Some(Locked::wait(lock, path, Sharing::Shared, &mut wait)?),
            None => None,
        };
        Self::look(path, key, need_checkpoint)
    }

    fn look(path: &Path, key: PublicKey, need_checkpoint: bool) -> Result<Self> {
        let newest = match read_checkpoint(path, &key) {
            Ok(newest) => Some(newest),
            Err(Error::Audit(_)) if !need_checkpoint => None,
            Err(error) => return Err(error),
        };
        let rotated = closed_files(path)?;
        let mut start = Position::default();
        let mut pieces = Vec::new();
        let mut expected = Vec::new();
        for (first, rotated) in rotated {
            let closed = closing(&rotated, &key)?;
            match File::open(&rotated) {
                Ok(file) => {
                    if let Some(at) = closed {
                        expected.push(Expected {
                            size: at.size(),
                            root: at.range.root(),
                            name: format!("closing checkpoint of {}", rotated.display()),
                            hint: Some((at.last, at.range)),
                        });
                    }
                    pieces.push(Piece::new(rotated, first, file)?);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let at = closed.filter(|_| pieces.is_empty()).ok_or_else(|| {
                        Error::integrity(format!("{} is missing", rotated.display()), Some(first))
                    })?;
                    start = at.in_new_file();
                }
                Err(error) => return Err(failed(&rotated, "read", &error)),
            }
        }
        // By its first line, since what closed the file before it may be missing.
        let first = first_number(path)
            .unwrap_or_else(|| expected.last().map_or(start.first, |last| last.size));
        match File::open(path) {
            Ok(file) => pieces.push(Piece::new(path.to_owned(), first, file)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Under the lock: a crash stopped the rotation, and the next writer makes the new
                // file. It is gone if there were records in it.
                let covered = newest.as_ref().map_or(first, |(newest, _)| newest.size);
                if pieces.is_empty() || covered != first {
                    return Err(Error::Os(error));
                }
            }
            Err(error) => return Err(failed(path, "read", &error)),
        }
        if let Some((checkpoint, _)) = &newest {
            expected.push(expect(path, checkpoint.clone()));
        }
        Ok(Self {
            pieces,
            start,
            key,
            newest,
            expected,
        })
    }

    /// The line of a record and its place: file and offset.
    ///
    /// # Errors
    /// [`Error::Audit`] where it is not found.
    pub fn find(&self, seq: u64) -> Result<(usize, u64, Vec<u8>)> {
        let missing = || Error::Audit(format!("record {seq} is in no file that is here"));
        let number = self
            .pieces
            .iter()
            .rposition(|piece| piece.first <= seq)
            .ok_or_else(missing)?;
        let piece = &self.pieces[number];
        let (offset, line) = piece
            .find(seq)
            .map_err(|error| failed(&piece.path, "read", &error))?
            .ok_or_else(missing)?;
        Ok((number, offset, line))
    }
}

impl Piece {
    fn new(path: PathBuf, first: u64, file: File) -> Result<Self> {
        let metadata = file
            .metadata()
            .map_err(|error| failed(&path, "look at", &error))?;
        Ok(Self {
            len: metadata.len(),
            path,
            first,
            file,
        })
    }

    /// Its bytes from an offset on, for whoever reads them all.
    pub fn reader(&self, offset: u64) -> impl BufRead {
        self.reader_by(1 << 20, offset)
    }

    fn reader_by(&self, capacity: usize, offset: u64) -> impl BufRead {
        let at = At {
            file: &self.file,
            offset,
        };
        BufReader::with_capacity(capacity, at.take(self.len.saturating_sub(offset)))
    }

    /// Looks for a record by halves: lines are in order.
    fn find(&self, seq: u64) -> io::Result<Option<(u64, Vec<u8>)>> {
        let (mut low, mut high) = (0, self.len);
        while high - low > 4 * LINE_MAX as u64 {
            let middle = low + (high - low) / 2;
            match self.line_after(middle)? {
                Some((offset, found)) if found <= seq => low = offset,
                // A damaged region ends the search by halves on this side.
                _ => high = middle,
            }
        }
        let mut offset = low;
        let mut reader = self.reader_by(LINE_MAX, low);
        let mut line = Vec::new();
        loop {
            line.clear();
            if Read::take(&mut reader, LINE_MAX as u64).read_until(b'\n', &mut line)? == 0 {
                return Ok(None);
            }
            let len = line.len() as u64;
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            if record::parse(text).is_ok_and(|record| record.seq == seq) {
                return Ok(Some((offset, text.to_vec())));
            }
            offset += len;
        }
    }

    /// The first whole line that begins behind an offset, and its number.
    fn line_after(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        let mut reader = self.reader_by(LOOK, offset);
        let mut line = Vec::new();
        let skipped = Read::take(&mut reader, LINE_MAX as u64).read_until(b'\n', &mut line)?;
        line.clear();
        Read::take(&mut reader, LINE_MAX as u64).read_until(b'\n', &mut line)?;
        Ok(line
            .strip_suffix(b"\n")
            .and_then(|text| record::parse(text).ok())
            .map(|record| (offset + skipped as u64, record.seq)))
    }
}

/// Bytes read at once to find one line: the end of one and the next, most of the time. A search in a
/// log of many gigabytes must not read megabytes.
const LOOK: usize = 4096;

/// A file read at its own offset, whoever else reads it.
struct At<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}
