//! Writing an encrypted file piece by piece, for whoever has no file to encrypt.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use rustix::fs::{self, AtFlags, FileType, Stat};
use rustix::io::Errno;

use super::create;
use super::place::Located;
use super::sys::{On, Side};
use super::target::{DEFAULT, Target, lock_shared};
use crate::envelope::NewSlot;
use crate::error::{Error, Result};
use crate::keys::KeyId;
use crate::parallel::Tick;
use crate::params::{CHUNK_LEN, FILE_FLUSH_STEP};
use crate::stream::Encryptor;

/// Sealed bytes that are gathered before they are written.
const GATHER: usize = 16 * CHUNK_LEN;

/// A file in the making. It appears under its name with [`Writer::finish`]; dropped before, it
/// is gone.
pub struct Writer {
    target: Target<OwnedFd>,
    encryptor: Encryptor,
    overwrite: bool,
    // The mode that a replaced file had is kept.
    replaced: Option<Stat>,
    offset: u64,
    plaintext: u64,
    pending: Vec<u8>,
    failed: bool,
    key_id: Option<KeyId>,
}

impl Writer {
    /// Begins a file.
    ///
    /// # Errors
    /// `EEXIST`, `EISDIR`, the system's error; [`Error::Invalid`] for a device, FIFO or socket; as
    /// [`create`].
    pub fn create(
        located: Located,
        slots: &[NewSlot<'_>],
        associated_data: &[u8],
        overwrite: bool,
    ) -> Result<Self> {
        let (dir, name) = located.into_parts();
        let replaced = look(&dir, &name, overwrite)?;
        lock_shared(&dir);
        let target = Target::create(dir, &name, DEFAULT)?;
        let (header, key) = create(slots, associated_data)?;
        Ok(Self {
            target,
            encryptor: Encryptor::new(key),
            overwrite,
            replaced,
            offset: 0,
            plaintext: 0,
            pending: header.to_bytes(),
            failed: false,
            key_id: header.first_key_id(),
        })
    }

    /// Bytes of plaintext so far.
    pub fn len(&self) -> u64 {
        self.plaintext
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.plaintext == 0
    }

    /// The key of the first slot that names one.
    pub fn key_id(&self) -> Option<KeyId> {
        self.key_id
    }

    /// Takes plaintext.
    ///
    /// # Errors
    /// The system's error; what `tick` returns. The file can only be given up then.
    pub fn write(&mut self, data: &[u8], tick: Tick<'_>) -> Result<()> {
        if self.failed {
            return Err(Error::Invalid(
                "an earlier write to this file has failed".into(),
            ));
        }
        self.failed = true;
        for (number, piece) in data.chunks(GATHER).enumerate() {
            self.encryptor.update(piece, &mut self.pending)?;
            if self.pending.len() >= GATHER {
                self.flush()?;
            }
            tick((number * GATHER + piece.len()) as u64)?;
        }
        self.plaintext += data.len() as u64;
        self.failed = false;
        Ok(())
    }

    /// Writes the last chunk, makes it all durable and gives the file its name.
    ///
    /// # Errors
    /// `EEXIST` where the name has come into use; the system's error; what `tick` returns. The file
    /// is gone then.
    pub fn finish(mut self, tick: Tick<'_>) -> Result<u64> {
        if self.failed {
            return Err(Error::Invalid(
                "an earlier write to this file has failed".into(),
            ));
        }
        let encryptor = self.encryptor;
        encryptor.finalize(&mut self.pending)?;
        self.target.write_at(&self.pending, self.offset)?;
        if let Some(replaced) = &self.replaced {
            self.target.keep(replaced, false)?;
        }
        self.target.finish(self.overwrite, self.plaintext, tick)?;
        Ok(self.plaintext)
    }

    fn flush(&mut self) -> Result<()> {
        self.target.write_at(&self.pending, self.offset)?;
        let before = self.offset / FILE_FLUSH_STEP;
        self.offset += self.pending.len() as u64;
        if before == 0 && self.offset >= FILE_FLUSH_STEP {
            self.target.becomes_long();
        }
        self.pending.clear();
        Ok(())
    }
}

fn look(dir: &OwnedFd, name: &CString, overwrite: bool) -> Result<Option<Stat>> {
    let there = match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(None),
        other => other.on(Side::Target)?,
    };
    match FileType::from_raw_mode(there.st_mode) {
        FileType::Directory => Err(Errno::ISDIR).on(Side::Target),
        FileType::RegularFile | FileType::Symlink if !overwrite => {
            Err(Errno::EXIST).on(Side::Target)
        }
        FileType::RegularFile => Ok(Some(there)),
        FileType::Symlink => Ok(None),
        _ => Err(Error::Invalid(
            "the target is a device, a FIFO or a socket: only regular files are replaced".into(),
        )),
    }
}
