//! Proofs from the index: inclusion as c2sp.org/tlog-proof, consistency in the form in which
//! c2sp.org/tlog-witness asks a witness for it. Each is checked before it is given out.

use std::io;
use std::path::Path;

use super::base64;
use super::files::Files;
use super::note::PublicKey;
use super::paths::{self, beside};
use super::position::Position;
use super::scan::{End, Scan};
use super::tiles::{Builder, Reader, checkpoint_path};
use super::tree::{Hash, Range, consistency, inclusion, leaf_hash, root_of_inclusion, subtree};
use super::verify::{Known, verify_files};
use crate::{Error, Result};

/// A proof and the record that it is of.
#[derive(Clone, Debug)]
pub struct Inclusion {
    /// The proof: index, hashes, checkpoint.
    pub proof: Vec<u8>,
    /// The record's line.
    pub line: Vec<u8>,
}

/// How far an index goes, by the checkpoint in it.
pub(super) fn indexed(folder: &Path, key: &PublicKey) -> Option<(u64, Hash)> {
    let note = paths::read(&checkpoint_path(folder)).ok()??;
    let checkpoint = key.open(&note).ok()?;
    Some((checkpoint.size, checkpoint.root))
}

type Tick<'a> = &'a mut dyn FnMut(u64) -> Result<()>;

/// Proves that a record is in the log that the newest checkpoint covers.
///
/// # Errors
/// [`Error::Invalid`] for a record that no checkpoint covers yet, [`Error::AuditIntegrity`] where
/// the record or the tree is not the checkpoint's, [`Error::Audit`].
pub fn prove_inclusion(
    path: &Path,
    vkey: Option<&str>,
    seq: u64,
    tick: Tick<'_>,
) -> Result<Inclusion> {
    let log = Indexed::open(path, vkey, tick)?;
    if seq >= log.size {
        return Err(Error::Invalid(format!(
            "the newest checkpoint covers {} records, not yet record {seq}",
            log.size
        )));
    }
    let (proof, leaf) = log.with_nodes(path, tick, |nodes| {
        let leaf = super::tree::Nodes::node(nodes, 0, seq)?;
        let proof = inclusion(nodes, seq, log.size)?;
        let root = root_of_inclusion(&proof, seq, log.size, &leaf);
        Ok((root == Some(log.root)).then_some((proof, leaf)))
    })?;
    let (_, _, line) = log.files.find(seq)?;
    if leaf_hash(&line) != leaf {
        return Err(Error::integrity(
            format!("record {seq} was changed: it is not the one that the checkpoint covers"),
            Some(seq),
        ));
    }
    let mut text = format!("c2sp.org/tlog-proof@v1\nindex {seq}\n").into_bytes();
    log.append(&mut text, &proof);
    Ok(Inclusion { proof: text, line })
}

/// Proves that the log of an older checkpoint is the beginning of the newest one's.
///
/// # Errors
/// [`Error::AuditIntegrity`] where it is not, or the older checkpoint is not this log's;
/// [`Error::Audit`].
pub fn prove_consistency(
    path: &Path,
    vkey: Option<&str>,
    older: &[u8],
    tick: Tick<'_>,
) -> Result<Vec<u8>> {
    let log = Indexed::open(path, vkey, tick)?;
    let older = log.files.key.open(older)?;
    if older.size > log.size {
        return Err(Error::integrity(
            format!(
                "the log was cut: its newest checkpoint covers {} records, the other one {}",
                log.size, older.size
            ),
            Some(log.size),
        ));
    }
    let (proof, old_root) = log.with_nodes(path, tick, |nodes| {
        let whole = subtree(nodes, 0, log.size)?;
        if whole != log.root {
            return Ok(None);
        }
        let proof = consistency(nodes, older.size, log.size)?;
        Ok(Some((proof, subtree(nodes, 0, older.size)?)))
    })?;
    if old_root != older.root {
        return Err(Error::integrity(
            format!(
                "the log's first {} records are not those that the other checkpoint covers",
                older.size
            ),
            None,
        ));
    }
    let mut text = format!("old {}\n", older.size).into_bytes();
    log.append(&mut text, &proof);
    Ok(text)
}

/// A log with what its newest checkpoint says.
struct Indexed {
    files: Files,
    size: u64,
    root: Hash,
    note: Vec<u8>,
}

impl Indexed {
    fn open(path: &Path, vkey: Option<&str>, tick: Tick<'_>) -> Result<Self> {
        let mut files = Files::open(path, vkey, true, tick)?;
        let (checkpoint, note) = files.newest.take().expect("asked for");
        files.newest = Some((checkpoint.clone(), note.clone()));
        Ok(Self {
            files,
            size: checkpoint.size,
            root: checkpoint.root,
            note,
        })
    }

    /// Hashes, a line each, an empty line, the checkpoint.
    fn append(&self, text: &mut Vec<u8>, proof: &[Hash]) {
        for hash in proof {
            text.extend_from_slice(base64::encode(hash).as_bytes());
            text.push(b'\n');
        }
        text.push(b'\n');
        text.extend_from_slice(&self.note);
    }

    /// Runs `prove` on the index, which is extended or, where it does not hold, made anew.
    fn with_nodes<T>(
        &self,
        path: &Path,
        tick: Tick<'_>,
        prove: impl Fn(&mut Reader) -> io::Result<Option<T>>,
    ) -> Result<T> {
        let folder = beside(path, ".tiles");
        let there = indexed(&folder, &self.files.key);
        let is_current = there == Some((self.size, self.root))
            || there.is_some_and(|(size, _)| {
                size < self.size && self.extend(&folder, size).unwrap_or(false)
            });
        if is_current && let Ok(Some(proof)) = prove(&mut Reader::new(&folder, self.size)) {
            return Ok(proof);
        }
        // Nothing in it can be relied on.
        let _ = std::fs::remove_dir_all(&folder);
        let report = verify_files(path, &self.files, Known::default(), true, tick)?.check()?;
        if !report.indexed {
            return Err(Error::Audit(if report.first > 0 {
                format!(
                    "the index {} is missing, and the records before {} that it is made of were \
                     pruned",
                    folder.display(),
                    report.first
                )
            } else {
                format!("can't write the index {}", folder.display())
            }));
        }
        prove(&mut Reader::new(&folder, self.size))
            .map_err(|error| paths::failed(&folder, "read", &error))?
            .ok_or_else(|| Error::integrity("the tree is not the checkpoint's", None))
    }

    /// Adds the records behind an index of `size` leaves to it.
    fn extend(&self, folder: &Path, size: u64) -> Result<bool> {
        let fail = |error: io::Error| paths::failed(folder, "read", &error);
        let range = edge(&mut Reader::new(folder, size), size).map_err(fail)?;
        let Some((last, number, offset)) = self.place_before(size)? else {
            return Ok(false);
        };
        let mut builder = Builder::resume(folder, size, self.size).map_err(fail)?;
        let mut nodes = |level: u8, hash: &Hash| builder.node(level, hash);
        let at = Position {
            first: self.files.pieces[number].first,
            offset,
            last,
            range,
        };
        let mut scan = Scan::new(at, &self.files.expected, &mut nodes);
        let count = self.files.pieces.len();
        for (index, piece) in self.files.pieces.iter().enumerate().skip(number) {
            let from = if index == number {
                offset
            } else {
                scan.next_file();
                0
            };
            let end = scan
                .read(&mut piece.reader(from), index + 1 == count, &mut |_| Ok(()))
                .map_err(fail)?;
            if let End::Damaged(_) = end {
                return Ok(false);
            }
        }
        if scan.finish().is_some() {
            return Ok(false);
        }
        drop(scan);
        builder.finish(&self.note).map_err(fail)?;
        Ok(true)
    }

    /// Hash of the record before the `size`th, file and offset behind it.
    fn place_before(&self, size: u64) -> Result<Option<(Hash, usize, u64)>> {
        if size == 0 {
            return Ok(None);
        }
        let (number, offset, line) = self.files.find(size - 1)?;
        let behind = offset + line.len() as u64 + 1;
        Ok(Some((leaf_hash(&line), number, behind)))
    }
}

/// The edge of a tree from its index.
fn edge(nodes: &mut Reader, size: u64) -> io::Result<Range> {
    let mut hashes = Vec::new();
    let (mut low, mut rest) = (0, size);
    while rest > 0 {
        let count = 1 << rest.ilog2();
        hashes.push(subtree(nodes, low, low + count)?);
        low += count;
        rest -= count;
    }
    Range::from_parts(size, hashes).ok_or_else(|| io::Error::other("an edge of another size"))
}
