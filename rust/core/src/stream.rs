//! Cobblestone-256 of c2sp.org/chunked-encryption: SHA-512, AES-256-GCM, 16 KiB chunks, a prefix
//! of 56 bytes. The last chunk is always shorter than 16 KiB and may be empty.
//!
//! Sealing and opening one chunk keep no state, so any thread may do any chunk; what makes a
//! message is that each index is sealed once, by the one writer that owns the [`StreamKey`].

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::engine::{Aead, Engine, GcmKey};
use crate::error::{Error, Result};
use crate::kdf;
use crate::params::{
    CHUNK_LEN, CHUNKS_MAX, COMMITMENT_LEN, GCM_NONCE_LEN, KEY_LEN, SALT_LEN, STREAM_PREFIX_LEN,
    TAG_LEN, WIRE_CHUNK_LEN,
};
use crate::random;
pub use crate::random_access::RandomAccess;
use crate::secret::{Secret, scrubbed};

/// HKDF's info of Cobblestone-256 up to the salt.
const INFO: &[u8] = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0";

/// Key and base nonce of one message. Not `Clone`: it serves one writer, once.
pub struct StreamKey {
    gcm: Secret<GcmKey>,
    base_nonce: [u8; GCM_NONCE_LEN],
}

/// What a message begins with: salt and commitment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// 24 bytes, random for each message.
    pub salt: [u8; SALT_LEN],
    /// 32 bytes that commit to input key, salt and context.
    pub commitment: [u8; COMMITMENT_LEN],
}

impl Prefix {
    /// Salt and commitment as they are written.
    pub fn to_bytes(&self) -> [u8; STREAM_PREFIX_LEN] {
        let mut bytes = [0; STREAM_PREFIX_LEN];
        bytes[..SALT_LEN].copy_from_slice(&self.salt);
        bytes[SALT_LEN..].copy_from_slice(&self.commitment);
        bytes
    }

    /// The prefix that `bytes` are.
    pub fn from_bytes(bytes: &[u8; STREAM_PREFIX_LEN]) -> Self {
        let (salt, commitment) = bytes.split_first_chunk().expect("56 is 24 and 32");
        Self {
            salt: *salt,
            commitment: *commitment.first_chunk().expect("56 is 24 and 32"),
        }
    }
}

impl StreamKey {
    /// A new message under `input_key`: a random salt, and what is derived with it.
    ///
    /// # Errors
    /// [`Error::Os`] without randomness.
    pub fn create(
        engine: Engine,
        input_key: &[u8; KEY_LEN],
        context: &[&[u8]],
    ) -> Result<(Self, Prefix)> {
        let mut salt = [0; SALT_LEN];
        random::fill(&mut salt)?;
        let (key, commitment) = scrubbed(|| Self::derive(engine, input_key, &salt, context))?;
        Ok((key, Prefix { salt, commitment }))
    }

    /// The key of the message that begins with `prefix`.
    ///
    /// # Errors
    /// [`Error::Decryption`] when the commitment is another one.
    pub fn open(
        engine: Engine,
        input_key: &[u8; KEY_LEN],
        prefix: &Prefix,
        context: &[&[u8]],
    ) -> Result<Self> {
        let (key, commitment) =
            scrubbed(|| Self::derive(engine, input_key, &prefix.salt, context))?;
        if bool::from(commitment[..].ct_eq(&prefix.commitment[..])) {
            Ok(key)
        } else {
            Err(Error::DECRYPTION)
        }
    }

    fn derive(
        engine: Engine,
        input_key: &[u8; KEY_LEN],
        salt: &[u8; SALT_LEN],
        context: &[&[u8]],
    ) -> Result<(Self, [u8; COMMITMENT_LEN])> {
        let mut info = Vec::with_capacity(2 + context.len());
        info.extend_from_slice(&[INFO, &salt[..]]);
        info.extend_from_slice(context);
        let mut derived = Zeroizing::new([0; KEY_LEN + GCM_NONCE_LEN + COMMITMENT_LEN]);
        kdf::hkdf_expand_sha512(input_key, &info, &mut derived[..]);

        let (key, rest) = derived.split_first_chunk().expect("76 is 32, 12 and 32");
        let (base_nonce, commitment) = rest.split_first_chunk().expect("76 is 32, 12 and 32");
        let stream = Self {
            gcm: Secret::make(|| GcmKey::new(engine, key))?,
            base_nonce: *base_nonce,
        };
        Ok((
            stream,
            *commitment.first_chunk().expect("76 is 32, 12 and 32"),
        ))
    }

    /// Seals chunk `index`; `out` is 16 bytes longer than `plaintext`.
    ///
    /// The caller seals each index once, full chunks first and one short chunk last.
    ///
    /// # Errors
    /// [`Error::Limit`] at index 2^38.
    #[inline]
    pub fn seal_chunk(&self, index: u64, plaintext: &[u8], out: &mut [u8]) -> Result<()> {
        let nonce = self.nonce(index)?;
        let (ciphertext, tag) = out.split_at_mut(plaintext.len());
        tag.copy_from_slice(&self.gcm.expose()?.seal(&nonce, &[], plaintext, ciphertext));
        Ok(())
    }

    /// Opens chunk `index`; `out` is 16 bytes shorter than `sealed`.
    ///
    /// # Errors
    /// [`Error::Decryption`] (`out` is zeros then); [`Error::Limit`] at index 2^38.
    #[inline]
    pub fn open_chunk(&self, index: u64, sealed: &[u8], out: &mut [u8]) -> Result<()> {
        let nonce = self.nonce(index)?;
        let (ciphertext, tag) = sealed
            .split_last_chunk::<TAG_LEN>()
            .ok_or(Error::DECRYPTION)?;
        self.gcm.expose()?.open(&nonce, &[], ciphertext, tag, out)
    }

    /// Seals the chunks of `plaintext` from chunk `first` on. All are full but, if `plaintext` is
    /// the end of the message, the last one.
    ///
    /// # Errors
    /// As [`StreamKey::seal_chunk`].
    pub fn seal_run(&self, first: u64, plaintext: &[u8], out: &mut [u8]) -> Result<()> {
        for (number, sealed) in out.chunks_mut(WIRE_CHUNK_LEN).enumerate() {
            let start = number * CHUNK_LEN;
            let chunk = &plaintext[start..plaintext.len().min(start + CHUNK_LEN)];
            self.seal_chunk(first + number as u64, chunk, sealed)?;
        }
        Ok(())
    }

    /// Opens the chunks of `sealed` from chunk `first` on.
    ///
    /// # Errors
    /// As [`StreamKey::open_chunk`]; chunks before the bad one are in `out` then.
    pub fn open_run(&self, first: u64, sealed: &[u8], out: &mut [u8]) -> Result<()> {
        for (number, chunk) in sealed.chunks(WIRE_CHUNK_LEN).enumerate() {
            let start = number * CHUNK_LEN;
            let end = start + chunk.len().checked_sub(TAG_LEN).ok_or(Error::DECRYPTION)?;
            self.open_chunk(first + number as u64, chunk, &mut out[start..end])?;
        }
        Ok(())
    }

    #[inline]
    fn nonce(&self, index: u64) -> Result<[u8; GCM_NONCE_LEN]> {
        if index >= CHUNKS_MAX {
            return Err(Error::Limit(
                "the message has 2^38 chunks, the most that it may have".into(),
            ));
        }
        let mut nonce = self.base_nonce;
        for (byte, counter) in nonce[GCM_NONCE_LEN - 8..]
            .iter_mut()
            .zip(index.to_be_bytes())
        {
            *byte ^= counter;
        }
        Ok(nonce)
    }
}

/// Bytes of the chunks of a message of `len` bytes, without its prefix; None where it would have
/// more than 2^38 of them.
pub fn sealed_len(len: u64) -> Option<u64> {
    let chunks = len / CHUNK_LEN as u64 + 1;
    (chunks <= CHUNKS_MAX).then(|| len + chunks * TAG_LEN as u64)
}

/// Plaintext bytes of the message whose chunks take `sealed` bytes.
///
/// # Errors
/// [`Error::Format`] where no message has that length.
pub fn plaintext_len(sealed: u64) -> Result<u64> {
    let last = sealed % WIRE_CHUNK_LEN as u64;
    if last < TAG_LEN as u64 {
        return Err(Error::Format(format!(
            "the message is cut short or has bytes behind its end: its chunks take {sealed} bytes, \
             {last} more than whole chunks of {WIRE_CHUNK_LEN}, and the last one has {TAG_LEN} to {}",
            WIRE_CHUNK_LEN - 1
        )));
    }
    let chunks = sealed / WIRE_CHUNK_LEN as u64 + 1;
    if chunks > CHUNKS_MAX {
        return Err(Error::Format(format!(
            "the message has {chunks} chunks, the limit is 2^38"
        )));
    }
    Ok(sealed - chunks * TAG_LEN as u64)
}

/// Writes one message piece by piece.
pub struct Encryptor {
    key: StreamKey,
    next: u64,
    pending: Zeroizing<Vec<u8>>,
}

impl Encryptor {
    /// A writer that owns the key of its message.
    pub fn new(key: StreamKey) -> Self {
        Self {
            key,
            next: 0,
            pending: Zeroizing::new(Vec::with_capacity(CHUNK_LEN)),
        }
    }

    /// Takes plaintext; appends the chunks that are full by now to `out`.
    ///
    /// # Errors
    /// [`Error::Limit`] past 2^38 chunks; the writer is not to be used afterwards.
    pub fn update(&mut self, mut data: &[u8], out: &mut Vec<u8>) -> Result<()> {
        if !self.pending.is_empty() {
            let (head, rest) = data.split_at(data.len().min(CHUNK_LEN - self.pending.len()));
            self.pending.extend_from_slice(head);
            data = rest;
            if self.pending.len() < CHUNK_LEN {
                return Ok(());
            }
            append(out, WIRE_CHUNK_LEN, |room| {
                self.key.seal_chunk(self.next, &self.pending, room)
            })?;
            self.next += 1;
            self.pending.clear();
        }
        let full = data.len() / CHUNK_LEN;
        let (run, rest) = data.split_at(full * CHUNK_LEN);
        append(out, full * WIRE_CHUNK_LEN, |room| {
            self.key.seal_run(self.next, run, room)
        })?;
        self.next += full as u64;
        self.pending.extend_from_slice(rest);
        Ok(())
    }

    /// Appends the last chunk, shorter than the others, to `out`.
    ///
    /// # Errors
    /// [`Error::Limit`] past 2^38 chunks.
    pub fn finalize(self, out: &mut Vec<u8>) -> Result<()> {
        append(out, self.pending.len() + TAG_LEN, |room| {
            self.key.seal_chunk(self.next, &self.pending, room)
        })
    }
}

/// Reads one message piece by piece; plaintext comes out chunk by chunk, each authenticated.
/// Until [`Decryptor::finalize`] has returned, the message may still turn out to be cut.
pub struct Decryptor {
    key: StreamKey,
    next: u64,
    pending: Vec<u8>,
    failed: bool,
}

impl Decryptor {
    /// A reader of the message that `key` was opened for.
    pub fn new(key: StreamKey) -> Self {
        Self {
            key,
            next: 0,
            pending: Vec::with_capacity(WIRE_CHUNK_LEN),
            failed: false,
        }
    }

    /// Takes sealed bytes; appends the plaintext of the chunks that are whole by now to `out`.
    ///
    /// # Errors
    /// [`Error::Decryption`] for a chunk that does not authenticate, and for every call after it.
    pub fn update(&mut self, mut data: &[u8], out: &mut Vec<u8>) -> Result<()> {
        if self.failed {
            return Err(Error::DECRYPTION);
        }
        self.failed = true;
        if !self.pending.is_empty() {
            let (head, rest) = data.split_at(data.len().min(WIRE_CHUNK_LEN - self.pending.len()));
            self.pending.extend_from_slice(head);
            data = rest;
            if self.pending.len() < WIRE_CHUNK_LEN {
                self.failed = false;
                return Ok(());
            }
            append(out, CHUNK_LEN, |room| {
                self.key.open_chunk(self.next, &self.pending, room)
            })?;
            self.next += 1;
            self.pending.clear();
        }
        let (run, rest) = data.split_at(data.len() / WIRE_CHUNK_LEN * WIRE_CHUNK_LEN);
        for chunk in run.chunks(WIRE_CHUNK_LEN) {
            append(out, CHUNK_LEN, |room| {
                self.key.open_chunk(self.next, chunk, room)
            })?;
            self.next += 1;
        }
        self.pending.extend_from_slice(rest);
        self.failed = false;
        Ok(())
    }

    /// Opens the last chunk.
    ///
    /// # Errors
    /// [`Error::Decryption`] where the message is cut, or failed before.
    pub fn finalize(self, out: &mut Vec<u8>) -> Result<()> {
        let len = self
            .pending
            .len()
            .checked_sub(TAG_LEN)
            .ok_or(Error::DECRYPTION)?;
        if self.failed {
            return Err(Error::DECRYPTION);
        }
        append(out, len, |room| {
            self.key.open_chunk(self.next, &self.pending, room)
        })
    }
}

/// Grows `out` by what `fill` writes; on an error `out` is what it was.
fn append(out: &mut Vec<u8>, len: usize, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<()> {
    let start = out.len();
    out.resize(start + len, 0);
    fill(&mut out[start..]).inspect_err(|_| out.truncate(start))
}

/// A whole message: prefix and chunks, on the calling thread.
///
/// # Errors
/// [`Error::Limit`], [`Error::Os`].
pub fn encrypt(
    engine: Engine,
    input_key: &[u8; KEY_LEN],
    context: &[u8],
    plaintext: &[u8],
) -> Result<Vec<u8>> {
    let (key, prefix) = StreamKey::create(engine, input_key, &[context])?;
    let mut out = Vec::with_capacity(STREAM_PREFIX_LEN + plaintext.len() + plaintext.len() / 1000);
    out.extend_from_slice(&prefix.to_bytes());
    let mut writer = Encryptor::new(key);
    writer.update(plaintext, &mut out)?;
    writer.finalize(&mut out)?;
    Ok(out)
}

/// The plaintext of a whole message.
///
/// # Errors
/// [`Error::Format`] for a length that no message has, [`Error::Decryption`].
pub fn decrypt(
    engine: Engine,
    input_key: &[u8; KEY_LEN],
    context: &[u8],
    message: &[u8],
) -> Result<Vec<u8>> {
    let (prefix, sealed) = split(message)?;
    let key = StreamKey::open(engine, input_key, &prefix, &[context])?;
    let mut out = Zeroizing::new(Vec::with_capacity(sealed.len()));
    let mut reader = Decryptor::new(key);
    reader.update(sealed, &mut out)?;
    reader.finalize(&mut out)?;
    Ok(std::mem::take(&mut *out))
}

/// Prefix and chunks of a whole message, its length checked.
///
/// # Errors
/// [`Error::Format`].
pub fn split(message: &[u8]) -> Result<(Prefix, &[u8])> {
    let Some((prefix, sealed)) = message.split_first_chunk() else {
        return Err(Error::Format(format!(
            "the message ends after {} bytes, its prefix alone has {STREAM_PREFIX_LEN}",
            message.len()
        )));
    };
    plaintext_len(sealed.len() as u64)?;
    Ok((Prefix::from_bytes(prefix), sealed))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Python can't reach the end of the counter: that would take 4 PiB.
    #[test]
    fn the_last_chunk_is_sealed_and_the_next_refused() {
        for engine in Engine::ALL {
            let (key, _) = StreamKey::create(engine, &[7; KEY_LEN], &[]).expect("a key");
            let mut out = [0; TAG_LEN + 1];
            key.seal_chunk(CHUNKS_MAX - 1, b"x", &mut out)
                .expect("chunk 2^38 - 1");
            let mut back = [0];
            key.open_chunk(CHUNKS_MAX - 1, &out, &mut back)
                .expect("the same");
            assert_eq!(back, *b"x");

            let mut out = [0; TAG_LEN];
            for index in [CHUNKS_MAX, u64::MAX] {
                let refused = key.seal_chunk(index, b"", &mut out);
                assert!(matches!(refused, Err(Error::Limit(_))));
                let refused = key.open_chunk(index, &out, &mut []);
                assert!(matches!(refused, Err(Error::Limit(_))));
            }
            assert_eq!(out, [0; TAG_LEN], "nothing was written");

            let mut writer = Encryptor {
                key,
                next: CHUNKS_MAX,
                pending: Zeroizing::default(),
            };
            let mut out = Vec::new();
            assert!(matches!(
                writer.update(&[0; CHUNK_LEN], &mut out),
                Err(Error::Limit(_))
            ));
            assert!(matches!(writer.finalize(&mut out), Err(Error::Limit(_))));
            assert!(out.is_empty());
        }
    }

    #[test]
    fn every_index_has_its_own_nonce() {
        let (key, _) = StreamKey::create(Engine::AesGcm, &[7; KEY_LEN], &[]).expect("a key");
        let indexes = [0, 1, 255, 256, 65_535, 65_536, 1 << 32, CHUNKS_MAX - 1];
        let mut seen: Vec<_> = indexes
            .iter()
            .map(|index| key.nonce(*index).expect("in bounds"))
            .collect();
        assert_eq!(seen[0], key.base_nonce, "chunk 0 has the base nonce itself");
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), indexes.len());
    }
}
