//! The names of a log's files, and files that change as a whole.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::{Error, Result};

/// The log's file name with something behind it.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// The name of a file that was rotated away: with the number of its first record.
pub fn rotated(path: &Path, first: u64) -> PathBuf {
    beside(path, &format!(".{first:015}"))
}

/// The rotated files that are there, or whose closing checkpoint is, with the numbers of their
/// first records, in order.
pub fn all_rotated(path: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let name = path.file_name().unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for entry in fs::read_dir(folder(path))? {
        let entry = entry?.file_name();
        let bytes = entry.as_encoded_bytes();
        let number = bytes
            .strip_prefix(name.as_encoded_bytes())
            .and_then(|rest| rest.strip_prefix(b"."))
            .map(|rest| rest.strip_suffix(b".checkpoint").unwrap_or(rest))
            .filter(|digits| digits.len() == 15 && digits.iter().all(u8::is_ascii_digit))
            .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        if let Some(number) = number {
            found.push((number, rotated(path, number)));
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// The directory of a file.
pub fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes names in the file's directory durable.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder(path))?.sync_all()
}

/// Writes a file as a whole: it has its old content or the new one at every moment, and with `sync`
/// the new one for good when this returns.
pub fn replace(path: &Path, content: &[u8], mode: u32, sync: bool) -> io::Result<()> {
    let temporary = beside(path, ".new");
    // What a writer that died has left: only the holder of the log's lock comes here.
    let _ = fs::remove_file(&temporary);
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(content)?;
        if sync {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)
    })();
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    if sync {
        sync_folder(path)?;
    }
    Ok(())
}

/// Writes over a file whose content is proved each time that it is read: a crash may leave neither the
/// old one nor the new one. (A new file under its name would be safer and costs 0.2 ms: ext4 writes
/// it out before the rename.)
pub fn overwrite(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(mode)
        // What somebody put in its place is not followed, and a pipe not waited for.
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32)
        .open(path)?;
    file.write_all_at(content, 0)?;
    file.set_len(content.len() as u64)
}

/// Reads a small file; None if there is none.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path, "read", &error)),
    }
}

/// The error for a call on one of the log's files.
pub fn failed(path: &Path, what: &str, error: &io::Error) -> Error {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    Error::Audit(format!("can't {what} {}: {text}", path.display()))
}
