//! AES-256-GCM (NIST SP 800-38D), two implementations behind one trait.
//!
//! Nonces are 12 bytes, tags 16; nothing else can be expressed. Both directions work out of place,
//! so that a large output is touched once.

use std::sync::OnceLock;

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::aead::{AeadInOut, KeyInit};
use aws_lc_rs::aead as aws;

use crate::error::{Error, Result};
use crate::params::{GCM_NONCE_LEN, KEY_LEN, SMALL_BATCH_MAX, SMALL_RECORD_MAX, TAG_LEN};

/// One AES-256-GCM implementation with a key set up.
pub trait Aead {
    /// Encrypts `plaintext` into `ciphertext` (of the same length) and returns the tag.
    fn seal(
        &self,
        nonce: &[u8; GCM_NONCE_LEN],
        associated_data: &[u8],
        plaintext: &[u8],
        ciphertext: &mut [u8],
    ) -> [u8; TAG_LEN];

    /// Decrypts `ciphertext` into `plaintext` (of the same length).
    ///
    /// # Errors
    /// [`Error::Decryption`] when the tag does not match; `plaintext` is zeros then.
    fn open(
        &self,
        nonce: &[u8; GCM_NONCE_LEN],
        associated_data: &[u8],
        ciphertext: &[u8],
        tag: &[u8; TAG_LEN],
        plaintext: &mut [u8],
    ) -> Result<()>;
}

/// The implementations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The `aes-gcm` crate: pure Rust.
    AesGcm,
    /// The `aws-lc-rs` crate: assembly.
    AwsLc,
}

/// What runs, and whether the environment said so.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// Engine of streams and of records above [`Choice::small_record_max`].
    pub engine: Engine,
    /// Records of fewer bytes go to [`Engine::AesGcm`].
    pub small_record_max: usize,
    /// The same for records of a batch.
    pub small_batch_max: usize,
    /// Forced by `STRONGROOM_ENGINE`.
    pub forced: bool,
}

impl Engine {
    /// Both, for tests and benches.
    pub const ALL: [Engine; 2] = [Engine::AesGcm, Engine::AwsLc];

    /// The name in `STRONGROOM_ENGINE`.
    pub fn name(self) -> &'static str {
        match self {
            Engine::AesGcm => "aes-gcm",
            Engine::AwsLc => "aws-lc",
        }
    }

    /// The engine of that name.
    ///
    /// # Errors
    /// [`Error::Invalid`] that lists the names.
    pub fn from_name(name: &str) -> Result<Self> {
        Engine::ALL
            .into_iter()
            .find(|engine| engine.name() == name)
            .ok_or_else(|| {
                Error::Invalid(format!(
                    "unknown engine {name:?}: use \"aes-gcm\" or \"aws-lc\""
                ))
            })
    }

    /// The engine for a stream or another long use of one key.
    pub fn for_streams() -> Self {
        choice().engine
    }

    /// The engine for one record of `len` bytes, key set-up included.
    #[inline]
    pub fn for_record(len: usize) -> Self {
        let choice = choice();
        if len < choice.small_record_max {
            Engine::AesGcm
        } else {
            choice.engine
        }
    }

    /// The same for one of a batch, where the stack is wiped once for many.
    #[inline]
    pub fn for_batch(len: usize) -> Self {
        let choice = choice();
        if len < choice.small_batch_max {
            Engine::AesGcm
        } else {
            choice.engine
        }
    }
}

/// Reads `STRONGROOM_ENGINE`; to be called once at load so that a wrong value is an error there.
///
/// # Errors
/// [`Error::Invalid`] for a name that is none.
pub fn init() -> Result<()> {
    match std::env::var("STRONGROOM_ENGINE") {
        Ok(name) if !name.is_empty() => {
            Engine::from_name(&name)
                .map_err(|error| Error::Invalid(format!("STRONGROOM_ENGINE: {error}")))?;
        }
        _ => {}
    }
    choice();
    Ok(())
}

/// The choice that holds in this process.
#[inline]
pub fn choice() -> &'static Choice {
    static CHOICE: OnceLock<Choice> = OnceLock::new();
    CHOICE.get_or_init(|| {
        let forced = std::env::var("STRONGROOM_ENGINE")
            .ok()
            .and_then(|name| Engine::from_name(&name).ok());
        match forced {
            Some(engine) => Choice {
                engine,
                small_record_max: 0,
                small_batch_max: 0,
                forced: true,
            },
            // aws-lc is the faster one for streams wherever it was measured; for small records
            // params.rs says where aes-gcm's cheaper key set-up wins, and that it needs AES
            // instructions.
            None => Choice {
                engine: Engine::AwsLc,
                small_record_max: if has("aes") { SMALL_RECORD_MAX } else { 0 },
                small_batch_max: if has("aes") && has("vaes") && !has("avx512f") {
                    SMALL_BATCH_MAX
                } else {
                    0
                },
                forced: false,
            },
        }
    })
}

/// Names of the CPU features that matter here, in a fixed order, with whether this CPU has each.
pub fn cpu_features() -> Vec<(&'static str, bool)> {
    #[cfg(target_arch = "x86_64")]
    {
        vec![
            ("aes", is_x86_feature_detected!("aes")),
            ("pclmulqdq", is_x86_feature_detected!("pclmulqdq")),
            ("avx2", is_x86_feature_detected!("avx2")),
            ("vaes", is_x86_feature_detected!("vaes")),
            ("vpclmulqdq", is_x86_feature_detected!("vpclmulqdq")),
            ("avx512f", is_x86_feature_detected!("avx512f")),
        ]
    }
    #[cfg(target_arch = "aarch64")]
    {
        vec![
            ("aes", std::arch::is_aarch64_feature_detected!("aes")),
            ("pmull", std::arch::is_aarch64_feature_detected!("pmull")),
        ]
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        Vec::new()
    }
}

fn has(feature: &str) -> bool {
    cpu_features()
        .iter()
        .any(|(name, has)| *name == feature && *has)
}

/// An AES-256-GCM key set up for one of the engines.
// Boxing the larger one would cost an allocation for every record.
#[allow(clippy::large_enum_variant)]
pub enum GcmKey {
    /// `aes-gcm`.
    AesGcm(AesGcmKey),
    /// `aws-lc-rs`.
    AwsLc(AwsLcKey),
}

impl GcmKey {
    /// Sets a key up. The schedule is wiped when the value is dropped.
    #[inline]
    pub fn new(engine: Engine, key: &[u8; KEY_LEN]) -> Self {
        match engine {
            Engine::AesGcm => GcmKey::AesGcm(AesGcmKey::new(key)),
            Engine::AwsLc => GcmKey::AwsLc(AwsLcKey::new(key)),
        }
    }
}

impl Aead for GcmKey {
    #[inline]
    fn seal(
        &self,
        nonce: &[u8; GCM_NONCE_LEN],
        associated_data: &[u8],
        plaintext: &[u8],
        ciphertext: &mut [u8],
    ) -> [u8; TAG_LEN] {
        match self {
            GcmKey::AesGcm(key) => key.seal(nonce, associated_data, plaintext, ciphertext),
            GcmKey::AwsLc(key) => key.seal(nonce, associated_data, plaintext, ciphertext),
        }
    }

    #[inline]
    fn open(
        &self,
        nonce: &[u8; GCM_NONCE_LEN],
        associated_data: &[u8],
        ciphertext: &[u8],
        tag: &[u8; TAG_LEN],
        plaintext: &mut [u8],
    ) -> Result<()> {
        match self {
            GcmKey::AesGcm(key) => key.open(nonce, associated_data, ciphertext, tag, plaintext),
            GcmKey::AwsLc(key) => key.open(nonce, associated_data, ciphertext, tag, plaintext),
        }
    }
}

/// [`Engine::AesGcm`].
pub struct AesGcmKey(EncryptOnly);

/// GCM only ever encrypts with AES: a decryption schedule would cost a third of the key set-up.
type EncryptOnly = aes_gcm::AesGcm<aes::Aes256Enc, aes_gcm::aead::consts::U12>;

impl AesGcmKey {
    fn new(key: &[u8; KEY_LEN]) -> Self {
        Self(EncryptOnly::new(key.into()))
    }
}

impl Aead for AesGcmKey {
    #[inline]
    fn seal(
        &self,
        nonce: &[u8; GCM_NONCE_LEN],
        associated_data: &[u8],
        plaintext: &[u8],
        ciphertext: &mut [u8],
    ) -> [u8; TAG_LEN] {
        let buffer = InOutBuf::new(plaintext, ciphertext).expect("callers give equal lengths");
        self.0
            .encrypt_inout_detached(nonce.into(), associated_data, buffer)
            .expect("callers keep to the format's limits, far below GCM's 2^36 - 32")
            .into()
    }

    #[inline]
    fn open(
        &self,
        nonce: &[u8; GCM_NONCE_LEN],
        associated_data: &[u8],
        ciphertext: &[u8],
        tag: &[u8; TAG_LEN],
        plaintext: &mut [u8],
    ) -> Result<()> {
        let buffer = InOutBuf::new(ciphertext, plaintext).expect("callers give equal lengths");
        let opened =
            self.0
                .decrypt_inout_detached(nonce.into(), associated_data, buffer, tag.into());
        if opened.is_err() {
            plaintext.fill(0);
            return Err(Error::DECRYPTION);
        }
        Ok(())
    }
}

/// [`Engine::AwsLc`].
pub struct AwsLcKey(aws::LessSafeKey);

impl AwsLcKey {
    fn new(key: &[u8; KEY_LEN]) -> Self {
        let key = aws::UnboundKey::new(&aws::AES_256_GCM, key)
            .expect("a 32-byte key is the only thing that AES_256_GCM asks for");
        Self(aws::LessSafeKey::new(key))
    }
}

impl Aead for AwsLcKey {
    #[inline]
    fn seal(
        &self,
        nonce: &[u8; GCM_NONCE_LEN],
        associated_data: &[u8],
        plaintext: &[u8],
        ciphertext: &mut [u8],
    ) -> [u8; TAG_LEN] {
        let mut tag = [0; TAG_LEN];
        self.0
            .seal_out_of_place_scatter(
                aws::Nonce::assume_unique_for_key(*nonce),
                aws::Aad::from(associated_data),
                plaintext,
                ciphertext,
                &[],
                &mut tag,
            )
            .expect("callers give equal lengths, far below GCM's 2^36 - 32");
        tag
    }

    #[inline]
    fn open(
        &self,
        nonce: &[u8; GCM_NONCE_LEN],
        associated_data: &[u8],
        ciphertext: &[u8],
        tag: &[u8; TAG_LEN],
        plaintext: &mut [u8],
    ) -> Result<()> {
        let opened = self.0.open_separate_gather(
            aws::Nonce::assume_unique_for_key(*nonce),
            aws::Aad::from(associated_data),
            ciphertext,
            tag,
            plaintext,
        );
        if opened.is_err() {
            plaintext.fill(0);
            return Err(Error::DECRYPTION);
        }
        Ok(())
    }
}
