//! Boxes around keys: edited slot bodies, wrapped keys and costs. A box opens only unchanged, in its
//! own message, under its own label; costs that pass are within their bounds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_core::Error;
use strongroom_core::engine::Engine;
use strongroom_core::envelope::Header;
use strongroom_core::keys::BoxLabel;
use strongroom_core::params::{KEY_BOX_LEN, KEY_LEN, WRAPPED_HEADER_LEN};
use strongroom_core::slot::{Content, PassphraseParams, Slot};
use strongroom_fuzz::{FIXTURES, WRAPPED, apply, edits, keys};

const LABELS: [BoxLabel; 4] = [
    BoxLabel::Record,
    BoxLabel::Wrap,
    BoxLabel::Master,
    BoxLabel::Passphrase,
];

/// A wrapped key of kind 04, mechanism 00, under the master.
fn wrapped(script: &[u8]) {
    let mut edited = WRAPPED.to_vec();
    apply(&edits(script), &mut edited);
    let keys = keys();
    let Some((header, sealed)) = edited.split_at_checked(WRAPPED_HEADER_LEN) else {
        return;
    };
    if sealed.len() != KEY_BOX_LEN {
        return;
    }
    let bound = [header, &keys.kek.id()[..]].concat();
    let material = keys.master.material().expect("the master is here");
    for engine in Engine::ALL {
        for label in LABELS {
            let mut out = [0xa5; KEY_LEN];
            let key = material.box_key(label).expect("memory");
            match key.open_box(engine, &bound, sealed, &mut out) {
                Ok(()) => assert!(edited == WRAPPED && label == BoxLabel::Master),
                Err(Error::Decryption { index: None }) => {
                    assert_eq!(out, [0; KEY_LEN], "bytes after a failure");
                    assert!(edited != WRAPPED || label != BoxLabel::Master);
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}

/// A slot of a message, its kind and body edited, opened in each message by each key.
fn slot(number: usize, script: &[u8]) {
    let headers: Vec<_> = FIXTURES[1..]
        .iter()
        .map(|fixture| Header::parse(fixture.message).expect("whole").0)
        .collect();
    let all: Vec<(usize, &Slot)> = headers
        .iter()
        .enumerate()
        .flat_map(|(message, header)| header.slots.iter().map(move |slot| (message, slot)))
        .collect();
    let (own, original) = all[number % all.len()];
    let mut bytes = vec![original.kind];
    bytes.extend_from_slice(&original.body);
    apply(&edits(script), &mut bytes);
    let Some((&kind, body)) = bytes.split_first() else {
        return;
    };
    let edited = Slot {
        offset: 0,
        kind,
        body: body.to_vec(),
    };
    if let Content::Master { wrapped, .. } = edited.content() {
        assert_eq!(wrapped.len(), edited.body.len() - 16 - 2 - KEY_BOX_LEN);
    }
    if let Content::Passphrase(params) = edited.content() {
        assert_eq!(params.to_bytes(), body[..25]);
        if PassphraseParams::check_all([&params].into_iter()).is_ok() {
            let cost = u64::from(params.memory_kib) * u64::from(params.passes);
            assert!(params.memory_kib <= 1 << 20 && params.passes <= 16 && cost <= 1 << 22);
            assert!((1..=16).contains(&params.lanes));
            assert!(params.memory_kib >= 8 * u32::from(params.lanes));
        }
    }
    let keys = keys();
    for (message, header) in headers.iter().enumerate() {
        for handle in [&keys.key, &keys.kek, &keys.passphrase, &keys.master] {
            let material = handle.material().expect("the key is here");
            for label in LABELS {
                let key = material.box_key(label).expect("memory");
                match edited.open(key, &header.prefix) {
                    Ok(_) => assert!(
                        message == own && kind == original.kind && edited.body == original.body
                    ),
                    Err(Error::Decryption { index: None }) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&number, script)) = data.split_first() else {
        return;
    };
    if number == 0 {
        wrapped(script);
    } else {
        slot(usize::from(number) - 1, script);
    }
});
