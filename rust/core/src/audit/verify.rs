//! The verification of a whole log, in memory that does not grow with it.

use std::io;
use std::path::Path;

use super::files::Files;
use super::paths::beside;
use super::scan::{Damage, End, Expected, Scan};
use super::tiles::Builder;
use crate::{Error, Result};

/// What the caller knows from elsewhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'a> {
    /// The log's public key.
    pub vkey: Option<&'a str>,
    /// Checkpoints of it, and names for messages.
    pub checkpoints: &'a [(String, Vec<u8>)],
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Number of the first record that is there: more than 0 where old files were pruned.
    pub first: u64,
    /// Records since the first one ever, up to the last good one.
    pub size: u64,
    /// Records that some checkpoint covers.
    pub covered: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Files read.
    pub files: u64,
    /// Bytes of a torn tail.
    pub torn: u64,
    /// The first thing that is wrong.
    pub damage: Option<Damage>,
    /// Checkpoints of the caller's that lie before the first record that is there.
    pub unchecked: Vec<String>,
    /// Whether the index was written.
    pub indexed: bool,
}

/// Verifies a log and, with `index`, builds its tiles on the way.
///
/// # Errors
/// [`Error::Audit`] where files are missing or can't be read; [`Error::AuditIntegrity`] for a
/// checkpoint that is not the log's; what `tick` returns.
pub fn verify(
    path: &Path,
    known: Known<'_>,
    index: bool,
    tick: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Report> {
    let files = Files::open(path, known.vkey, known.checkpoints.is_empty(), tick)?;
    verify_files(path, &files, known, index, tick)
}

pub(super) fn verify_files(
    path: &Path,
    files: &Files,
    known: Known<'_>,
    index: bool,
    tick: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Report> {
    let mut report = Report {
        first: files.start.size(),
        ..Report::default()
    };
    let mut expected = files.expected.clone();
    for (name, note) in known.checkpoints {
        let checkpoint = files.key.open(note)?;
        if checkpoint.size < report.first {
            report.unchecked.push(name.clone());
            continue;
        }
        expected.push(Expected {
            size: checkpoint.size,
            root: checkpoint.root,
            name: format!("checkpoint {name}"),
            hint: None,
        });
    }
    expected.sort_by_key(|root| root.size);
    report.covered = expected.last().map_or(0, |root| root.size);

    let newest = files.newest.as_ref().filter(|_| index && report.first == 0);
    let mut builder = newest.map(|(checkpoint, _)| {
        let folder = beside(path, ".tiles");
        let indexed = super::prove::indexed(&folder, &files.key).map_or(0, |(size, _)| size);
        Builder::new(&folder, indexed, checkpoint.size)
    });
    let mut nodes = |level: u8, hash: &[u8; 32]| {
        if let Some(builder) = &mut builder {
            builder.node(level, hash);
        }
    };
    let mut scan = Scan::new(files.start.clone(), &expected, &mut nodes);
    let mut stopped = None;
    let last = files.pieces.len() - 1;
    for (number, piece) in files.pieces.iter().enumerate() {
        if number > 0 {
            scan.next_file();
        }
        report.files += 1;
        report.bytes += piece.len;
        let end = scan.read(&mut piece.reader(0), number == last, &mut |done| {
            tick(done).map_err(|error| {
                stopped = Some(error);
                io::Error::other("stopped")
            })
        });
        match end {
            Ok(End::Clean) => {}
            Ok(End::Torn { len }) => report.torn = len,
            Ok(End::Damaged(damage)) => {
                report.size = damage.sequence;
                report.damage = Some(damage);
                return Ok(report);
            }
            Err(error) => {
                return Err(
                    stopped.unwrap_or_else(|| super::paths::failed(&piece.path, "read", &error))
                );
            }
        }
    }
    report.damage = scan.finish();
    report.size = scan.into_position().size();
    if report.damage.is_none()
        && let (Some(builder), Some((_, note))) = (builder, newest)
    {
        // The index is a convenience: a read-only place for it is no failure of the log.
        report.indexed = builder.finish(note).is_ok();
    }
    Ok(report)
}

impl Report {
    /// The damage as an error.
    ///
    /// # Errors
    /// [`Error::AuditIntegrity`] if there is some.
    pub fn check(self) -> Result<Self> {
        match self.damage {
            Some(damage) => Err(Error::integrity(damage.text, Some(damage.sequence))),
            None => Ok(self),
        }
    }
}
