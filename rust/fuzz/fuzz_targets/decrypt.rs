//! Edited messages, opened whole: either an error and zeros, or the true plaintext of a message
//! whose prefix and chunks are untouched. Both engines say the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_core::engine::Engine;
use strongroom_core::envelope::{Header, open_header};
use strongroom_core::keys::BoxLabel;
use strongroom_core::params::RECORD_OVERHEAD;
use strongroom_core::{Error, Result, parallel, record, stream};
use strongroom_fuzz::{ASSOCIATED_DATA, FIXTURES, apply, edits, keys, unchanged};

fn open_envelope(message: &[u8], engine: Engine) -> Result<Vec<u8>> {
    let (header, sealed) = Header::split(message)?;
    let opened = open_header(&header, keys(), ASSOCIATED_DATA, engine)?;
    let len = stream::plaintext_len(sealed.len() as u64)?;
    let mut out = vec![0xa5; len as usize];
    let result = parallel::open_message(&opened.stream, sealed, &mut out, Some(1), &mut |_| Ok(()));
    if let Err(error) = result {
        assert!(
            out.iter().all(|byte| *byte == 0),
            "plaintext after a failure"
        );
        return Err(error);
    }
    let fixture = unchanged(&header, sealed).expect("only what is untouched opens");
    assert_eq!(out, fixture.plaintext());
    Ok(out)
}

fn open_record(message: &[u8]) -> Result<()> {
    let id = record::parse(message)?;
    let keys = keys();
    let material = keys.key.material()?;
    let mut out = vec![0xa5; message.len() - RECORD_OVERHEAD];
    let key = material.box_key(BoxLabel::Record)?;
    if let Err(error) = record::open(key, ASSOCIATED_DATA, message, &mut out) {
        assert!(
            out.iter().all(|byte| *byte == 0),
            "plaintext after a failure"
        );
        return Err(error);
    }
    assert_eq!(id, keys.key.id());
    assert_eq!(message, FIXTURES[0].message, "only what is untouched opens");
    assert_eq!(out, FIXTURES[0].plaintext());
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let Some((&number, script)) = data.split_first() else {
        return;
    };
    let fixture = &FIXTURES[usize::from(number) % FIXTURES.len()];
    let mut message = fixture.message.to_vec();
    apply(&edits(script), &mut message);

    let recorded = open_record(&message);
    let results = Engine::ALL.map(|engine| open_envelope(&message, engine));
    for result in results
        .iter()
        .filter_map(|result| result.as_ref().err())
        .chain(recorded.as_ref().err())
    {
        assert!(
            matches!(
                result,
                Error::Format(_)
                    | Error::UnsupportedVersion(_)
                    | Error::Decryption { index: None }
                    | Error::Limit(_)
                    | Error::KeyNotFound { .. }
            ),
            "{result:?}"
        );
    }
    match &results {
        [Ok(one), Ok(other)] => assert_eq!(one, other),
        [Err(one), Err(other)] => assert_eq!(one.to_string(), other.to_string()),
        _ => panic!("the engines differ"),
    }
    if message == fixture.message {
        assert!(
            recorded.is_ok() || results[0].is_ok(),
            "a fixture must open"
        );
    }
});
