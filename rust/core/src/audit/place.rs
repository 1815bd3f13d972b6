//! Where a writer goes on: the newest checkpoint, the place that it proves, and what follows that.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use super::LINE_MAX;
use super::note::{Checkpoint, PublicKey};
use super::paths::{self, beside, failed};
use super::position::Position;
use super::scan::{Damage, End, Expected, Scan};
use super::template::{day, now};
use super::tree::leaf_hash;
use crate::error::hex;
use crate::{Error, Result};

/// The newest checkpoint and its bytes.
pub fn read_checkpoint(path: &Path, key: &PublicKey) -> Result<(Checkpoint, Vec<u8>)> {
    let checkpoint_path = beside(path, ".checkpoint");
    let note = paths::read(&checkpoint_path)?.ok_or_else(|| {
        Error::Audit(format!(
            "{} is missing: a log without its checkpoint proves nothing",
            checkpoint_path.display()
        ))
    })?;
    Ok((key.open(&note)?, note))
}

/// The newest checkpoint as something that must hold, with what the state file says of it.
pub fn expect(path: &Path, checkpoint: Checkpoint) -> Expected {
    let hint = Position::load(&beside(path, ".state")).map(|at| (at.last, at.range));
    Expected {
        size: checkpoint.size,
        root: checkpoint.root,
        name: "checkpoint".into(),
        hint,
    }
}

/// The rotated files, but for one that a crash kept from being renamed: it has its closing
/// checkpoint already, and the log's newest file is still it.
pub fn closed_files(path: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut rotated =
        paths::all_rotated(path).map_err(|error| failed(path, "look beside", &error))?;
    if let Some((first, newest)) = rotated.last()
        && !newest.exists()
        && first_number(path) == Some(*first)
    {
        rotated.pop();
    }
    Ok(rotated)
}

/// The number of a file's first record.
pub fn first_number(path: &Path) -> Option<u64> {
    let mut line = Vec::new();
    let mut start = BufReader::new(File::open(path).ok()?.take(LINE_MAX as u64));
    start.read_until(b'\n', &mut line).ok()?;
    let record = super::record::parse(line.strip_suffix(b"\n")?).ok()?;
    Some(record.seq)
}

/// The beginning of the newest file, by what the file before it was closed with.
pub fn beginning(path: &Path, key: &PublicKey, size: u64) -> Result<Position> {
    let rotated = closed_files(path)?;
    let Some((_, newest)) = rotated.last() else {
        return Ok(Position::default());
    };
    closing(newest, key)?
        .filter(|at| at.size() <= size)
        .map(|at| at.in_new_file())
        .ok_or_else(|| {
            Error::integrity(
                format!(
                    "the .checkpoint or .state that closed {} is missing or not its own",
                    newest.display()
                ),
                None,
            )
        })
}

/// What a rotated file was closed with; None if that is not there or does not hold.
pub fn closing(path: &Path, key: &PublicKey) -> Result<Option<Position>> {
    let Some(note) = paths::read(&beside(path, ".checkpoint"))? else {
        return Ok(None);
    };
    let checkpoint = key.open(&note)?;
    Ok(Position::load(&beside(path, ".state"))
        .filter(|at| at.size() == checkpoint.size && at.range.root() == checkpoint.root))
}

/// Whether the line before a place is the one that it says.
pub fn fits(file: &File, at: &Position) -> bool {
    if at.offset == 0 {
        return at.first == at.size();
    }
    let len = at.offset.min(LINE_MAX as u64 + 1);
    let mut tail = vec![0; len as usize];
    if file.read_exact_at(&mut tail, at.offset - len).is_err() {
        return false;
    }
    let Some(line) = tail.strip_suffix(b"\n") else {
        return false;
    };
    let start = line
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(0, |before| before + 1);
    leaf_hash(&line[start..]) == at.last
}

pub fn read_on(
    file: &File,
    path: &Path,
    at: Position,
    expected: &[Expected],
) -> Result<(Position, End)> {
    let fail = |error: io::Error| failed(path, "read", &error);
    let len = file.metadata().map_err(fail)?.len();
    if len < at.offset {
        // Shorter than what was read of it: it was cut. The state's place is behind its end.
        let beginning = Damage {
            sequence: at.size(),
            text: format!("the file was cut to {len} bytes"),
        };
        return Ok((at, End::Damaged(beginning)));
    }
    let mut from = file;
    from.seek(SeekFrom::Start(at.offset)).map_err(fail)?;
    let mut reader = BufReader::with_capacity(1 << 16, from);
    let mut nobody = |_: u8, _: &[u8; 32]| {};
    let mut scan = Scan::new(at, expected, &mut nobody);
    let end = scan
        .read(&mut reader, true, &mut |_| Ok(()))
        .map_err(fail)?;
    let end = match (end, scan.finish()) {
        (End::Damaged(damage), _) | (_, Some(damage)) => return Err(refuse(path, damage)),
        (end, None) => end,
    };
    Ok((scan.into_position(), end))
}

/// Moves the torn tail to a file of its own; returns its digest.
pub fn set_aside(file: &File, path: &Path, at: &Position, len: u64) -> Result<String> {
    let fail = |error: io::Error| failed(path, "read", &error);
    let mut tail = file;
    tail.seek(SeekFrom::Start(at.offset)).map_err(fail)?;
    let digest = copied(Read::take(tail, len), &mut io::sink()).map_err(fail)?;
    let to = free_name(path, at.size(), &digest)?;
    tail.seek(SeekFrom::Start(at.offset)).map_err(fail)?;
    let fail = |error: io::Error| failed(&to, "write", &error);
    let mut copy = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&to)
        .map_err(fail)?;
    copied(Read::take(tail, len), &mut copy).map_err(fail)?;
    copy.sync_all().map_err(fail)?;
    paths::sync_folder(path).map_err(fail)?;
    file.set_len(at.offset)
        .and_then(|()| file.sync_all())
        .map_err(|error| failed(path, "truncate", &error))?;
    Ok(digest)
}

/// The first of `.torn-N`, `.torn-N.2`, ... that is free, or has this tail already: who set it aside
/// may have died before it was cut off.
fn free_name(path: &Path, size: u64, digest: &str) -> Result<PathBuf> {
    let mut number = 1;
    loop {
        let more = if number > 1 {
            format!(".{number}")
        } else {
            String::new()
        };
        let to = beside(path, &format!(".torn-{size}{more}"));
        let there = match File::open(&to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(to),
            there => there.and_then(|there| copied(there, &mut io::sink())),
        };
        if there.map_err(|error| failed(&to, "read", &error))? == digest {
            return Ok(to);
        }
        number += 1;
    }
}

/// Copies, and returns the digest of what was copied.
fn copied(mut from: impl Read, to: &mut impl Write) -> io::Result<String> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = retry(|| from.read(&mut buffer))?;
        if read == 0 {
            return Ok(hex(&digest.finalize()));
        }
        digest.update(&buffer[..read]);
        to.write_all(&buffer[..read])?;
    }
}

pub fn refuse(path: &Path, damage: Damage) -> Error {
    Error::integrity(
        format!(
            "{}: {}; nothing is appended to a damaged log (strongroom audit open-next begins a new \
             one)",
            path.display(),
            damage.text
        ),
        Some(damage.sequence),
    )
}

/// Calls again what a signal interrupted.
///
/// # Errors
/// Those of the call.
pub fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Whether a file was last written on another day than today, by UTC.
pub fn is_of_another_day(file: &File) -> bool {
    let modified = file.metadata().and_then(|metadata| metadata.modified());
    let last = modified
        .ok()
        .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    last.is_some_and(|since| since.as_secs() / 86_400 != day(now()))
}
