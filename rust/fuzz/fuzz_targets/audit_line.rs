//! Any bytes as a line, a log, a checkpoint or a public key of an audit log: nothing panics, and
//! what parses is written back as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_core::audit::base64;
use strongroom_core::audit::note::{Checkpoint, PublicKey};
use strongroom_core::audit::position::Position;
use strongroom_core::audit::record;
use strongroom_core::audit::scan::{End, Scan};

fuzz_target!(|data: &[u8]| {
    if let Ok(parsed) = record::parse(data) {
        let mut again = Vec::new();
        record::seal(parsed.event, &parsed.prev, parsed.seq, &mut again).expect("canonical");
        assert_eq!(again.strip_suffix(b"\n"), Some(data));
    }
    let mut leaves = 0u64;
    let mut nodes = |level: u8, _: &[u8; 32]| leaves += u64::from(level == 0);
    let mut scan = Scan::new(Position::default(), &[], &mut nodes);
    let mut rest = data;
    let end = scan
        .read(&mut rest, true, &mut |_| Ok(()))
        .expect("memory can be read");
    match end {
        End::Clean | End::Torn { .. } => {
            assert!(scan.finish().is_none());
            let at = scan.into_position();
            let torn = match end {
                End::Torn { len } => len,
                _ => 0,
            };
            assert_eq!(at.offset + torn, data.len() as u64);
            assert_eq!(at.size(), leaves);
            assert_eq!(Position::parse(at.to_text().as_bytes()), Some(at));
        }
        End::Damaged(damage) => assert!(damage.sequence <= data.len() as u64),
    }
    if let Some(at) = Position::parse(data) {
        assert!(at.first <= at.size());
    }
    if let Some(bytes) = base64::decode(data) {
        assert_eq!(base64::encode(&bytes).as_bytes(), data);
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(key) = PublicKey::parse(text)
    {
        assert_eq!(key.vkey(), text.trim());
    }
    let _ = Checkpoint::unverified(data);
});
