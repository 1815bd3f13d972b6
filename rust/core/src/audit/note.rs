//! Checkpoints (c2sp.org/tlog-checkpoint) as signed notes (c2sp.org/signed-note) with one Ed25519
//! signature.
//!
//! Ed25519 and SHA-256 are AWS-LC's and the `sha2` crate's, which the core has anyway. The log's own
//! private key lies in a file beside it, so its copy in AWS-LC's ordinary memory gives nothing away
//! that the file does not; keys of a store or an HSM sign behind [`Sign`], where they live.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::base64;
use super::tree::Hash;
use crate::error::hex;
use crate::{Error, Result};

/// Bytes of a public key, and of the seed that a private one is.
pub const KEY_LEN: usize = 32;
/// Bytes of a signature.
pub const SIGNATURE_LEN: usize = 64;

/// What every origin of a log of this version begins with.
const ORIGIN: &str = "strongroom.audit/";
/// And one of any version.
const ANY_ORIGIN: &str = "strongroom.audit";
/// The signature type of Ed25519 (signed-note, "Signature types").
const ED25519_TYPE: u8 = 1;
const PRIVATE: &str = "PRIVATE+KEY+";
/// A checkpoint has a few hundred bytes, with signatures of witnesses some more.
const NOTE_MAX: usize = 64 * 1024;

/// Whoever signs checkpoints.
pub trait Sign: Send {
    /// Its public key.
    fn public_key(&self) -> [u8; KEY_LEN];

    /// An Ed25519 signature.
    ///
    /// # Errors
    /// Whatever keeps it from signing.
    fn sign(&self, message: &[u8]) -> Result<[u8; SIGNATURE_LEN]>;
}

/// A private key that lies in a file.
pub struct FileKey(Ed25519KeyPair);

impl FileKey {
    /// The key of a seed.
    ///
    /// # Errors
    /// [`Error::Invalid`] if AWS-LC refuses it.
    pub fn from_seed(seed: &[u8; KEY_LEN]) -> Result<Self> {
        Ed25519KeyPair::from_seed_unchecked(seed)
            .map(Self)
            .map_err(|_| Error::Invalid("no Ed25519 key can be made of this seed".into()))
    }

    /// A new key and the text of its file.
    ///
    /// # Errors
    /// [`Error::Os`] without randomness.
    pub fn generate() -> Result<(Self, Zeroizing<String>)> {
        let mut seed = Zeroizing::new([0; KEY_LEN]);
        getrandom::fill(&mut *seed).map_err(|error| Error::Os(error.into()))?;
        let key = Self::from_seed(&seed)?;
        let public = PublicKey::new(key.public_key());
        let mut data = Zeroizing::new(vec![ED25519_TYPE]);
        data.extend_from_slice(&*seed);
        let data = Zeroizing::new(base64::encode(&data));
        let text = format!(
            "{PRIVATE}{}+{}+{}\n",
            public.origin(),
            hex(&public.hash()),
            *data
        );
        Ok((key, Zeroizing::new(text)))
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// [`Error::Audit`] for what is no private key of a log.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = || Error::Audit("the log's .key file holds no private key of a log".into());
        let text = text.trim_end().strip_prefix(PRIVATE).ok_or_else(bad)?;
        let data = text.splitn(3, '+').nth(2).ok_or_else(bad)?;
        let data = Zeroizing::new(base64::decode(data.as_bytes()).ok_or_else(bad)?);
        let (kind, seed) = data.split_first().ok_or_else(bad)?;
        let seed: &[u8; KEY_LEN] = seed.try_into().map_err(|_| bad())?;
        if *kind != ED25519_TYPE {
            return Err(bad());
        }
        Self::from_seed(seed)
    }
}

impl Sign for FileKey {
    fn public_key(&self) -> [u8; KEY_LEN] {
        let mut key = [0; KEY_LEN];
        key.copy_from_slice(self.0.public_key().as_ref());
        key
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; SIGNATURE_LEN]> {
        let mut signature = [0; SIGNATURE_LEN];
        signature.copy_from_slice(self.0.sign(message).as_ref());
        Ok(signature)
    }
}

/// The public key of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    name: String,
    key: [u8; KEY_LEN],
}

impl PublicKey {
    /// The key with the name that this library gives it.
    #[must_use]
    pub fn new(key: [u8; KEY_LEN]) -> Self {
        let name = format!("{ORIGIN}{}", hex(&key[..8]));
        Self { name, key }
    }

    /// Reads `name+hash+key` of a signed note's verifier key.
    ///
    /// # Errors
    /// [`Error::Audit`] for what is none.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |what: &str| Error::Audit(format!("no public key of a log: {what}"));
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(hash), Some(data)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(bad("not of the form name+hash+key"));
        };
        let data = base64::decode(data.as_bytes()).ok_or_else(|| bad("the key is not base64"))?;
        let key = match data.split_first() {
            Some((&ED25519_TYPE, key)) => key.try_into().ok(),
            _ => None,
        };
        let key = key.ok_or_else(|| bad("not an Ed25519 key"))?;
        let name = name.to_owned();
        if name.is_empty() || name.chars().any(char::is_whitespace) {
            return Err(bad("the name is empty or has spaces"));
        }
        let read = Self { name, key };
        if hex(&read.hash()) != hash {
            return Err(bad("its hash does not fit"));
        }
        Ok(read)
    }

    /// The origin line of the log's checkpoints, and the key's name.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.name
    }

    /// The verifier key as text.
    #[must_use]
    pub fn vkey(&self) -> String {
        let mut data = vec![ED25519_TYPE];
        data.extend_from_slice(&self.key);
        let data = base64::encode(&data);
        format!("{}+{}+{data}", self.name, hex(&self.hash()))
    }

    fn hash(&self) -> [u8; 4] {
        let mut digest = Sha256::new_with_prefix(self.name.as_bytes());
        digest.update([b'\n', ED25519_TYPE]);
        digest.update(self.key);
        let mut hash = [0; 4];
        hash.copy_from_slice(&digest.finalize()[..4]);
        hash
    }

    /// Reads a checkpoint that this key signed.
    ///
    /// # Errors
    /// [`Error::AuditIntegrity`] for one with a bad signature or of another log;
    /// [`Error::UnsupportedVersion`] for one of a newer format; [`Error::Audit`] for what is none.
    pub fn open(&self, note: &[u8]) -> Result<Checkpoint> {
        let (checkpoint, text, signatures) = split(note)?;
        if checkpoint.origin != self.name {
            return Err(Error::integrity(
                format!(
                    "the checkpoint is of another log or key: its origin is {}, not {}",
                    checkpoint.origin, self.name
                ),
                None,
            ));
        }
        for line in signatures.lines() {
            let signature = line
                .strip_prefix("— ")
                .and_then(|line| line.strip_prefix(self.name.as_str()))
                .and_then(|line| line.strip_prefix(' '))
                .and_then(|data| base64::decode(data.as_bytes()));
            let Some(signature) = signature else { continue };
            if let Some((hash, signature)) = signature.split_first_chunk::<4>()
                && *hash == self.hash()
            {
                return UnparsedPublicKey::new(&ED25519, &self.key)
                    .verify(text.as_bytes(), signature)
                    .map(|()| checkpoint)
                    .map_err(|_| {
                        Error::integrity("the checkpoint's signature does not verify", None)
                    });
            }
        }
        Err(Error::integrity(
            "the checkpoint has no signature of this key",
            None,
        ))
    }
}

/// What a checkpoint says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name.
    pub origin: String,
    /// Records since the first one ever.
    pub size: u64,
    /// Root of the tree over them.
    pub root: Hash,
}

impl Checkpoint {
    /// Reads a checkpoint without looking at its signatures.
    ///
    /// # Errors
    /// [`Error::UnsupportedVersion`], [`Error::Audit`].
    pub fn unverified(note: &[u8]) -> Result<Self> {
        split(note).map(|(checkpoint, _, _)| checkpoint)
    }

    /// The signed note.
    ///
    /// # Errors
    /// Those of the signer.
    pub fn seal(&self, signer: &dyn Sign) -> Result<Vec<u8>> {
        let key = PublicKey::new(signer.public_key());
        let text = format!(
            "{}\n{}\n{}\n",
            self.origin,
            self.size,
            base64::encode(&self.root)
        );
        let mut data = key.hash().to_vec();
        data.extend_from_slice(&signer.sign(text.as_bytes())?);
        let data = base64::encode(&data);
        Ok(format!("{text}\n— {} {data}\n", key.origin()).into_bytes())
    }
}

/// A note's checkpoint, its signed text, and its signature lines.
fn split(note: &[u8]) -> Result<(Checkpoint, &str, &str)> {
    let bad = |what: &str| Error::Audit(format!("no checkpoint: {what}"));
    if note.len() > NOTE_MAX {
        return Err(bad("too long"));
    }
    let note = std::str::from_utf8(note).map_err(|_| bad("not UTF-8"))?;
    let end = note.rfind("\n\n").ok_or_else(|| bad("no signatures"))? + 1;
    let (text, signatures) = (&note[..end], &note[end + 1..]);
    let mut lines = text.lines();
    let origin = lines.next().unwrap_or_default();
    if !origin.starts_with(ORIGIN) && origin.starts_with(ANY_ORIGIN) {
        return Err(Error::UnsupportedVersion(format!(
            "the log is of a newer version than this release knows: its origin is {origin}"
        )));
    }
    let size = lines.next().unwrap_or_default();
    let root = lines.next().unwrap_or_default();
    let parsed: u64 = size.parse().map_err(|_| bad("the size is no number"))?;
    if parsed.to_string() != size {
        return Err(bad("the size is no canonical number"));
    }
    let root = base64::decode_hash(root.as_bytes()).ok_or_else(|| bad("the root is no hash"))?;
    let checkpoint = Checkpoint {
        origin: origin.to_owned(),
        size: parsed,
        root,
    };
    Ok((checkpoint, text, signatures))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> (PublicKey, Checkpoint, Vec<u8>) {
        let (key, text) = FileKey::generate().expect("randomness");
        let again = FileKey::parse(&text).expect("its own");
        assert_eq!(again.public_key(), key.public_key());
        let public = PublicKey::new(key.public_key());
        let checkpoint = Checkpoint {
            origin: public.origin().to_owned(),
            size: 12,
            root: [7; 32],
        };
        let note = checkpoint.seal(&key).expect("signed");
        (public, checkpoint, note)
    }

    #[test]
    fn there_and_back() {
        let (public, checkpoint, note) = sealed();
        assert_eq!(public.open(&note).expect("its own"), checkpoint);
        assert_eq!(PublicKey::parse(&public.vkey()).expect("its own"), public);
        let (other, _, _) = sealed();
        assert!(matches!(
            other.open(&note),
            Err(Error::AuditIntegrity { .. })
        ));
    }

    #[test]
    fn every_bit_counts() {
        let (public, checkpoint, note) = sealed();
        for index in 0..note.len() * 8 {
            let mut changed = note.clone();
            changed[index / 8] ^= 1 << (index % 8);
            match public.open(&changed) {
                Err(_) => {}
                // A signature line that is garbled in its last newline alone.
                Ok(opened) => assert_eq!((opened, index / 8), (checkpoint.clone(), note.len() - 1)),
            }
        }
    }

    #[test]
    fn a_newer_format_says_so() {
        let newer = b"strongroom.audit2/0011\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n\xe2\x80\x94 x AAAA\n";
        assert!(matches!(
            Checkpoint::unverified(newer),
            Err(Error::UnsupportedVersion(_))
        ));
    }
}
