//! Any bytes as the header of an envelope: nothing panics, what parses is written back as it was,
//! every prefix says truly how much more is needed, and what opens is a fixture.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_core::engine::Engine;
use strongroom_core::envelope::{Extent, Header, open_header};
use strongroom_core::params::ENVELOPE_HEADER_MAX;
use strongroom_core::{Error, record};
use strongroom_fuzz::{ASSOCIATED_DATA, FIXTURES, keys};

fuzz_target!(|data: &[u8]| {
    let _ = record::parse(data);
    let whole = Header::parse(data);
    match Header::extent(data) {
        Ok(Extent::Complete(end)) => {
            assert!(end <= ENVELOPE_HEADER_MAX + 56 && end <= data.len());
            // A reader that asks for what it is told to read ends at the same place.
            let mut have = 0;
            loop {
                match Header::extent(&data[..have]).expect("what is whole begins well") {
                    Extent::AtLeast(needed) => {
                        assert!(needed > have && needed <= end);
                        have = needed;
                    }
                    Extent::Complete(found) => {
                        assert_eq!(found, end);
                        break;
                    }
                }
            }
        }
        Ok(Extent::AtLeast(needed)) => {
            assert!(needed > data.len());
            assert!(matches!(whole, Err(Error::Format(_))));
        }
        Err(Error::Format(_) | Error::UnsupportedVersion(_)) => assert!(whole.is_err()),
        Err(error) => panic!("{error:?}"),
    }
    let Ok((header, end)) = whole else {
        return;
    };
    assert_eq!(header.to_bytes(), &data[..end]);
    assert_eq!(header.len(), end);
    assert!(header.key_ids().len() <= header.slots.len());
    match open_header(&header, keys(), ASSOCIATED_DATA, Engine::AesGcm) {
        Ok(opened) => {
            let known = FIXTURES[1..].iter().any(|fixture| {
                Header::parse(fixture.message).expect("whole").0.prefix == header.prefix
            });
            assert!(known && opened.slot < header.slots.len());
        }
        Err(Error::KeyNotFound { .. } | Error::Decryption { .. } | Error::Limit(_)) => {}
        Err(error) => panic!("{error:?}"),
    }
});
