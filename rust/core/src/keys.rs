//! A software key: 32 bytes in the arena, its id, and the box keys derived from it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::kc_xaes::BoxKey;
use crate::kdf;
use crate::params::{KEY_ID_LEN, KEY_LEN};
use crate::secret::{self, Secret, SharedBytes, scrubbed};

/// A key's public name.
pub type KeyId = [u8; KEY_ID_LEN];

/// What a box key is derived for: the labels of FORMAT.md §2 that name boxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoxLabel {
    /// Records.
    Record,
    /// DEKs in slots.
    Wrap,
    /// Keys under a software master or a root key.
    Master,
    /// Whatever Argon2id's output opens.
    Passphrase,
}

impl BoxLabel {
    const COUNT: usize = 4;

    /// The label as bytes of the derivation.
    pub fn name(self) -> &'static str {
        match self {
            BoxLabel::Record => "record",
            BoxLabel::Wrap => "wrap",
            BoxLabel::Master => "master",
            BoxLabel::Passphrase => "passphrase",
        }
    }

    /// The label of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [
            BoxLabel::Record,
            BoxLabel::Wrap,
            BoxLabel::Master,
            BoxLabel::Passphrase,
        ]
        .into_iter()
        .find(|label| label.name() == name)
    }
}

/// The bytes of a key, and what is derived from them at first use. Wiped when the last user of it
/// is done.
pub struct Material {
    key: Secret<[u8; KEY_LEN]>,
    boxes: [OnceLock<Secret<BoxKey>>; BoxLabel::COUNT],
}

impl Material {
    fn new(key: Secret<[u8; KEY_LEN]>) -> Self {
        Self {
            key,
            boxes: [const { OnceLock::new() }; BoxLabel::COUNT],
        }
    }

    /// The key's bytes.
    ///
    /// # Errors
    /// [`Error::Forked`] in a child of the process that holds it.
    pub fn expose(&self) -> Result<&[u8; KEY_LEN]> {
        self.key.expose()
    }

    /// Whether the key's pages are locked into RAM.
    pub fn is_locked(&self) -> bool {
        self.key.is_locked()
    }

    /// The box key of a label.
    ///
    /// # Errors
    /// [`Error::Forked`]; [`Error::Memory`] where no locked memory is left and the policy is strict.
    #[inline]
    pub fn box_key(&self, label: BoxLabel) -> Result<&BoxKey> {
        let cell = &self.boxes[label as usize];
        if let Some(ready) = cell.get() {
            return ready.expose();
        }
        let made = scrubbed(|| {
            let key = self.key.expose()?;
            Secret::make(|| BoxKey::new(&kdf::derive::<KEY_LEN>(key, label.name())))
        })?;
        // Two threads may both have made it; one is kept and the other wiped.
        let _ = cell.set(made);
        cell.get()
            .expect("set just above, by this thread or another")
            .expose()
    }

    /// The first `N` bytes that a label derives.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn derive<const N: usize>(&self, label: &str) -> Result<Zeroizing<[u8; N]>> {
        scrubbed(|| Ok(kdf::derive::<N>(self.key.expose()?, label)))
    }
}

/// A key as the rest of the library holds it: shared, and destroyed once for all its holders.
pub struct KeyHandle {
    id: KeyId,
    generation: u64,
    material: RwLock<Option<Arc<Material>>>,
    /// A copy of the key for views that Python code has, which `destroy` wipes under their hands;
    /// the material itself must not change while a call uses it.
    shown: Mutex<Option<Arc<SharedBytes>>>,
}

impl KeyHandle {
    /// A new random key.
    ///
    /// # Errors
    /// [`Error::Os`] without randomness, [`Error::Memory`] without locked memory.
    pub fn generate() -> Result<Self> {
        Self::from_secret(Secret::<[u8; KEY_LEN]>::generate()?)
    }

    /// A copy of the caller's key.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn from_bytes(key: &[u8; KEY_LEN]) -> Result<Self> {
        Self::from_secret(Secret::copy_from(key)?)
    }

    /// A key that is in the arena already.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn from_secret(key: Secret<[u8; KEY_LEN]>) -> Result<Self> {
        let id = scrubbed(|| key.expose().map(kdf::key_id))?;
        Ok(Self {
            id,
            generation: secret::generation(),
            material: RwLock::new(Some(Arc::new(Material::new(key)))),
            shown: Mutex::new(None),
        })
    }

    /// The key's public name; it stays known after [`KeyHandle::destroy`].
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The key's material, kept alive by the result.
    ///
    /// # Errors
    /// [`Error::KeyState`] once destroyed, [`Error::Forked`] in a child.
    pub fn material(&self) -> Result<Arc<Material>> {
        self.with(|material| Ok(Arc::clone(material)))
    }

    /// Runs `use_it` with the material; [`KeyHandle::destroy`] waits for its end, so it must be
    /// short and must not wait for anything.
    ///
    /// # Errors
    /// As [`KeyHandle::material`], and what `use_it` returns.
    #[inline]
    pub fn with<R>(&self, use_it: impl FnOnce(&Arc<Material>) -> Result<R>) -> Result<R> {
        // Before the lock: in a child it may be held by a thread that does not exist there.
        if self.generation != secret::generation() {
            return Err(Error::Forked);
        }
        let material = self.material.read().unwrap_or_else(PoisonError::into_inner);
        match &*material {
            Some(material) => use_it(material),
            None => Err(Error::KeyState {
                message: "this key was destroyed: its material is gone from memory".into(),
                key_id: Some(self.id),
                state: "destroyed",
            }),
        }
    }

    /// A copy of the key in the arena, the same one each time, for code that isn't Rust to read.
    ///
    /// # Errors
    /// As [`KeyHandle::material`]; [`Error::Memory`].
    pub fn shown(&self) -> Result<Arc<SharedBytes>> {
        // Before the lock, as in `with`.
        if self.generation != secret::generation() {
            return Err(Error::Forked);
        }
        // Before the material: a `destroy` that comes now finds the copy.
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let material = self.material()?;
        if let Some(bytes) = &*shown {
            return Ok(Arc::clone(bytes));
        }
        let bytes = Arc::new(SharedBytes::new(KEY_LEN)?);
        bytes.write(0, material.expose()?)?;
        *shown = Some(Arc::clone(&bytes));
        Ok(bytes)
    }

    /// Wipes the material as soon as the calls that are using it have ended, and the copy that is
    /// shown at once. Twice is no error.
    pub fn destroy(&self) {
        if self.generation != secret::generation() {
            return;
        }
        self.material
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let shown = self
            .shown
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(bytes) = shown {
            bytes.wipe();
        }
    }

    /// Whether the material is gone (or was never this process's).
    pub fn is_destroyed(&self) -> bool {
        self.generation != secret::generation()
            || self
                .material
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .is_none()
    }
}

impl std::fmt::Debug for KeyHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyHandle({})", crate::error::hex(&self.id))
    }
}
