//! The incremental reader in steps of any size, and random access, against the true plaintext:
//! what comes out before an error is its beginning, and all of it comes only if all is authentic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_core::Error;
use strongroom_core::engine::Engine;
use strongroom_core::envelope::{Header, open_header};
use strongroom_core::params::CHUNK_LEN;
use strongroom_core::stream::{Decryptor, RandomAccess, StreamKey};
use strongroom_fuzz::{ASSOCIATED_DATA, FIXTURES, Fixture, apply, edits, keys};

fn stream_key(fixture: &Fixture, engine: Engine) -> StreamKey {
    let (header, _) = Header::parse(fixture.message).expect("a whole envelope");
    open_header(&header, keys(), ASSOCIATED_DATA, engine)
        .expect("a fixture opens")
        .stream
}

fuzz_target!(|data: &[u8]| {
    let [number, count, rest @ ..] = data else {
        return;
    };
    let engine = Engine::ALL[usize::from(*number >> 7)];
    let fixture = &FIXTURES[1 + usize::from(*number & 0x7f) % (FIXTURES.len() - 1)];
    let (steps, script) = rest.split_at(rest.len().min(2 * usize::from(*count)));
    let steps: Vec<usize> = steps
        .chunks_exact(2)
        .map(|two| usize::from(u16::from_be_bytes([two[0], two[1]])))
        .collect();

    let plaintext = fixture.plaintext();
    let (header, true_chunks) = Header::split(fixture.message).expect("a whole envelope");
    let mut message = fixture.message.to_vec();
    apply(&edits(script), &mut message);
    // The chunks behind the fixture's own header, where the edits left it whole.
    let sealed = match Header::parse(&message) {
        Ok((theirs, end)) if theirs.prefix == header.prefix => &message[end..],
        _ => return,
    };

    let mut reader = Decryptor::new(stream_key(fixture, engine));
    let mut out = Vec::new();
    let mut left = sealed;
    let mut turns = steps.iter().copied().cycle().map(|step| step.max(1));
    let outcome = loop {
        if left.is_empty() {
            break reader.finalize(&mut out);
        }
        let step = turns.next().unwrap_or(usize::MAX).min(left.len());
        let (now, later) = left.split_at(step);
        left = later;
        let before = out.len();
        if let Err(error) = reader.update(now, &mut out) {
            // A reader that has failed only fails.
            let len = out.len();
            assert!(reader.update(later, &mut out).is_err() && out.len() == len);
            assert!(reader.finalize(&mut out).is_err() && out.len() == len);
            break Err(error);
        }
        assert!((out.len() - before) % CHUNK_LEN == 0);
        assert!(
            plaintext.starts_with(&out),
            "released before it was authentic"
        );
    };
    assert!(
        plaintext.starts_with(&out),
        "released before it was authentic"
    );
    match outcome {
        Ok(()) => assert!(out == plaintext && sealed == true_chunks),
        Err(Error::Decryption { index: None }) => assert!(sealed != true_chunks),
        Err(error) => panic!("{error:?}"),
    }

    let Ok(access) = RandomAccess::new(stream_key(fixture, engine), sealed.len() as u64) else {
        return;
    };
    for index in 0..access.chunks() {
        let (at, len) = access.chunk_at(index);
        let chunk = &sealed[at as usize..at as usize + len];
        let mut out = vec![0xa5; len - 16];
        let start = index as usize * CHUNK_LEN;
        match access.open(index, chunk, &mut out) {
            Ok(()) => assert_eq!(out, plaintext[start..start + out.len()]),
            Err(Error::Decryption { index: None }) => assert!(out.iter().all(|b| *b == 0)),
            Err(error) => panic!("{error:?}"),
        }
    }
});
