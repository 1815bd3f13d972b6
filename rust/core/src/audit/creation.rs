//! A log's files as they are made, and refused where they are somebody else's.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use zeroize::Zeroizing;

use super::lock::{Locked, PATIENCE, Sharing, Wait};
use super::note::{Checkpoint, FileKey, PublicKey, Sign};
use super::paths::{self, beside, failed};
use super::tree::empty_root;
use crate::{Error, Result};

/// The key beside the log, made if there is neither it nor a log.
pub fn file_key(path: &Path) -> Result<FileKey> {
    let key_path = beside(path, ".key");
    if let Some(text) = paths::read(&key_path)? {
        let text = Zeroizing::new(text);
        let text = std::str::from_utf8(&text).unwrap_or_default();
        return FileKey::parse(text);
    }
    if beside(path, ".checkpoint").exists() {
        return Err(Error::Audit(format!(
            "{} is not there: give the signer that the log was made with",
            key_path.display()
        )));
    }
    refuse_foreign(path)?;
    let (key, text) = FileKey::generate()?;
    paths::replace(&key_path, text.as_bytes(), 0o600, true)
        .map_err(|error| failed(&key_path, "write", &error))?;
    Ok(key)
}

/// Refuses to make a log of a file that is there already.
pub fn refuse_foreign(path: &Path) -> Result<()> {
    match std::fs::metadata(path) {
        Ok(_) => Err(Error::Audit(format!(
            "{} is there and has no checkpoint: it is no audit log, or its .checkpoint was removed",
            path.display()
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(path, "open", &error)),
    }
}

pub fn check_vkey(path: &Path, key: &PublicKey) -> Result<()> {
    let vkey_path = beside(path, ".vkey");
    match paths::read(&vkey_path)? {
        Some(text) if text.trim_ascii_end() == key.vkey().as_bytes() => Ok(()),
        Some(_) => Err(Error::integrity(
            format!(
                "the log's key is not the one of {}: it was made with another signer",
                vkey_path.display()
            ),
            None,
        )),
        None => {
            let text = format!("{}\n", key.vkey());
            paths::replace(&vkey_path, text.as_bytes(), 0o644, true)
                .map_err(|error| failed(&vkey_path, "write", &error))
        }
    }
}

/// Makes checkpoint and file of a new log, or what of them a crash left out; false for a log that is
/// there.
pub fn create(path: &Path, key: &PublicKey, signer: &dyn Sign) -> Result<bool> {
    let checkpoint_path = beside(path, ".checkpoint");
    match paths::read(&checkpoint_path)? {
        None => {
            refuse_foreign(path)?;
            let checkpoint = Checkpoint {
                origin: key.origin().to_owned(),
                size: 0,
                root: empty_root(),
            };
            paths::replace(&checkpoint_path, &checkpoint.seal(signer)?, 0o644, true)
                .map_err(|error| failed(&checkpoint_path, "write", &error))?;
        }
        Some(note) => {
            if key.open(&note)?.size != 0 || path.exists() {
                return Ok(false);
            }
        }
    }
    new_file(path)?;
    Ok(true)
}

pub fn new_file(path: &Path) -> Result<File> {
    let made = OpenOptions::new()
        .read(true)
        .append(true)
        .create_new(true)
        .mode(0o640)
        .open(path);
    let file = made.map_err(|error| failed(path, "make", &error))?;
    paths::sync_folder(path).map_err(|error| failed(path, "make", &error))?;
    Ok(file)
}

pub fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).open(path)
}

pub fn file_id(file: &File, path: &Path) -> Result<(u64, u64)> {
    let metadata = file
        .metadata()
        .map_err(|error| failed(path, "look at", &error))?;
    if !metadata.is_file() {
        return Err(Error::Audit(format!(
            "{} is no regular file",
            path.display()
        )));
    }
    Ok((metadata.dev(), metadata.ino()))
}

/// Gives all files of a log other names, so that a new one can begin in its place; returns the new
/// name of its newest file. The lock's file stays.
///
/// # Errors
/// [`Error::Audit`].
pub fn set_damaged_aside(path: &Path) -> Result<PathBuf> {
    let fail = |error: io::Error| failed(path, "set aside", &error);
    let lock = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(beside(path, ".lock"))
        .map_err(fail)?;
    let mut wait = Wait {
        since: Instant::now(),
        longest: PATIENCE,
        tick: &mut || Ok(()),
    };
    let _locked = Locked::wait(&lock, path, Sharing::Exclusive, &mut wait)?;
    let aside = (1..)
        .map(|number: u64| beside(path, &format!(".damaged-{number}")))
        .find(|aside| !beside(aside, ".checkpoint").exists())
        .expect("some number is free");
    let rotated = paths::all_rotated(path).map_err(fail)?;
    let numbers = rotated.iter().flat_map(|(first, _)| {
        ["", ".checkpoint", ".state"].map(|end| format!(".{first:015}{end}"))
    });
    // The checkpoint is the last: until then it is the old log, whose file is gone.
    let suffixes =
        numbers.chain(["", ".tiles", ".state", ".key", ".vkey", ".checkpoint"].map(str::to_owned));
    for suffix in suffixes {
        match std::fs::rename(beside(path, &suffix), beside(&aside, &suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
            _ => {}
        }
    }
    paths::sync_folder(path).map_err(fail)?;
    Ok(aside)
}
