//! What the fuzz targets share: fixed messages, the keys that open them, and scripts of edits.
//!
//! An input is a script: the number of a fixture, then edits of five bytes each. So an input of any
//! bytes means something, small changes of it are small changes of the message, and what is
//! edited is a message that opens: the fuzzer need not find AES-GCM's tags by itself.

use std::sync::{Arc, OnceLock};

use strongroom_core::Result;
use strongroom_core::envelope::{Header, KeySource};
use strongroom_core::keys::{KeyHandle, KeyId, Material};
use strongroom_core::params::{SLOT_HEADER_LEN, STREAM_PREFIX_LEN, WIRE_CHUNK_LEN};
use strongroom_core::slot::PassphraseParams;

/// What all fixtures are bound to; fixtures/make.py has the same.
pub const ASSOCIATED_DATA: &[u8] = b"fuzz";

/// The wrapped key: kind 04, mechanism 00, the KEK under the master.
pub const WRAPPED: &[u8] = include_bytes!("../fixtures/wrapped.bin");

/// A message of fixtures/make.py.
pub struct Fixture {
    /// The whole message.
    pub message: &'static [u8],
    /// Bytes of its plaintext.
    pub len: usize,
}

/// The record, then the envelopes.
pub const FIXTURES: [Fixture; 6] = [
    Fixture {
        message: include_bytes!("../fixtures/record.bin"),
        len: 100,
    },
    Fixture {
        message: include_bytes!("../fixtures/small.bin"),
        len: 100,
    },
    Fixture {
        message: include_bytes!("../fixtures/large.bin"),
        len: 40_000,
    },
    OTHER,
    Fixture {
        message: include_bytes!("../fixtures/slots.bin"),
        len: 20,
    },
    Fixture {
        message: include_bytes!("../fixtures/full.bin"),
        len: 16_384,
    },
];

/// What edits splice in: another message of the same key.
pub const OTHER: Fixture = Fixture {
    message: include_bytes!("../fixtures/other.bin"),
    len: 40_000,
};

impl Fixture {
    /// The plaintext, by the rule of fixtures/make.py.
    pub fn plaintext(&self) -> Vec<u8> {
        (0..self.len).map(|i| (i * 31 + (i >> 8)) as u8).collect()
    }
}

/// Keyset key, KEK, Argon2id's output and master of fixtures/make.py.
pub struct Keys {
    /// The key of the keyset.
    pub key: KeyHandle,
    /// What the master slot's wrapped key is.
    pub kek: KeyHandle,
    /// What the passphrase slot's Argon2id gives.
    pub passphrase: KeyHandle,
    /// What wraps the KEK.
    pub master: KeyHandle,
}

/// The same for the whole run.
pub fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| {
        let key = |first: u8| {
            let bytes = std::array::from_fn(|i| first + i as u8);
            KeyHandle::from_bytes(&bytes).expect("32 bytes of memory")
        };
        Keys {
            key: key(0),
            kek: key(32),
            passphrase: key(64),
            master: key(96),
        }
    })
}

impl KeySource for Keys {
    fn keyset_key(&self, id: &KeyId) -> Result<Option<Arc<Material>>> {
        (*id == self.key.id())
            .then(|| self.key.material())
            .transpose()
    }

    fn has_passphrase(&self) -> bool {
        true
    }

    fn passphrase_key(&self, params: &PassphraseParams) -> Result<Option<Arc<Material>>> {
        // Whoever would hash now must have been kept within the bounds.
        params.check().expect("costs are checked before this call");
        self.passphrase.material().map(Some)
    }

    fn master_key(&self, kek_id: &KeyId, wrapped: &[u8]) -> Result<Option<Arc<Material>>> {
        (*kek_id == self.kek.id() && wrapped == WRAPPED)
            .then(|| self.kek.material())
            .transpose()
    }
}

/// One change of a message.
#[derive(Clone, Copy, Debug)]
pub struct Edit {
    op: u8,
    at: usize,
    arg: usize,
}

/// The edits that the bytes of an input stand for.
pub fn edits(data: &[u8]) -> Vec<Edit> {
    data.chunks_exact(5)
        .take(32)
        .map(|bytes| Edit {
            op: bytes[0] % 12,
            at: usize::from(u16::from_be_bytes([bytes[1], bytes[2]])),
            arg: usize::from(u16::from_be_bytes([bytes[3], bytes[4]])),
        })
        .collect()
}

/// Applies edits in their order. Positions wrap round, so that each edit does something.
pub fn apply(edits: &[Edit], message: &mut Vec<u8>) {
    for edit in edits {
        if message.is_empty() {
            return;
        }
        let Edit { op, at, arg } = *edit;
        let byte = at % message.len();
        match op {
            0 => message[byte] ^= (arg as u8).max(1),
            1 => message.truncate(byte),
            2 => message.insert(byte, arg as u8),
            3 => drop(message.remove(byte)),
            4 => message[byte] = arg as u8,
            5 => message.extend_from_slice(&OTHER.message[..arg % OTHER.message.len()]),
            6 => slots(message, |slots| {
                let (one, other) = (at % slots.len(), arg % slots.len());
                slots.swap(one, other);
            }),
            7 => slots(message, |slots| {
                slots.insert(at % (slots.len() + 1), other_slot(arg));
            }),
            8 => chunks(message, |chunks| {
                let (one, other) = (at % chunks.len(), arg % chunks.len());
                chunks.swap(one, other);
            }),
            9 => chunks(message, |chunks| {
                let copy = chunks[arg % chunks.len()].clone();
                chunks.insert(at % (chunks.len() + 1), copy);
            }),
            10 => chunks(message, |chunks| drop(chunks.remove(at % chunks.len()))),
            _ => chunks(message, |chunks| {
                let (_, sealed) = Header::split(OTHER.message).expect("a whole envelope");
                let other: Vec<_> = sealed.chunks(WIRE_CHUNK_LEN).collect();
                let number = at % chunks.len();
                chunks[number] = other[arg % other.len()].to_vec();
            }),
        }
    }
}

fn other_slot(number: usize) -> Vec<u8> {
    let (header, _) = Header::parse(OTHER.message).expect("a whole envelope");
    let slot = &header.slots[number % header.slots.len()];
    OTHER.message[slot.offset..slot.offset + slot.len()].to_vec()
}

/// Takes the slots of a message out, whole, and puts back what `edit` leaves.
fn slots(message: &mut Vec<u8>, edit: impl FnOnce(&mut Vec<Vec<u8>>)) {
    let Ok((header, end)) = Header::parse(message) else {
        return;
    };
    let mut slots: Vec<_> = header
        .slots
        .iter()
        .map(|slot| message[slot.offset..slot.offset + SLOT_HEADER_LEN + slot.body.len()].to_vec())
        .collect();
    edit(&mut slots);
    let mut edited = message[..4].to_vec();
    edited.push(slots.len() as u8);
    edited.extend(slots.concat());
    edited.extend_from_slice(&message[end - STREAM_PREFIX_LEN..]);
    *message = edited;
}

/// Takes the chunks of a message out and puts back what `edit` leaves.
fn chunks(message: &mut Vec<u8>, edit: impl FnOnce(&mut Vec<Vec<u8>>)) {
    let Ok((_, end)) = Header::parse(message) else {
        return;
    };
    let mut chunks: Vec<_> = message[end..]
        .chunks(WIRE_CHUNK_LEN)
        .map(<[u8]>::to_vec)
        .collect();
    if chunks.is_empty() {
        return;
    }
    edit(&mut chunks);
    message.truncate(end);
    message.extend(chunks.concat());
}

/// The fixture whose prefix and chunks these are, bit by bit: the only ones that may open.
pub fn unchanged(header: &Header, sealed: &[u8]) -> Option<&'static Fixture> {
    FIXTURES[1..].iter().find(|fixture| {
        let (theirs, chunks) = Header::split(fixture.message).expect("a whole envelope");
        theirs.prefix == header.prefix && chunks == sealed
    })
}
