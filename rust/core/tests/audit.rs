//! Logs on disk: written, verified, changed in every way, and cross-checked with the crates
//! `signed_note` and `tlog_tiles`, which share nothing with this one.

use std::fs;
use std::path::{Path, PathBuf};

use signed_note::{Note, StandardVerifier, VerifierList};
use strongroom_core::Error;
use strongroom_core::audit::base64;
use strongroom_core::audit::log::{Durability, Log, OwnEvents, Patience, Rotation};
use strongroom_core::audit::prove::{prove_consistency, prove_inclusion};
use strongroom_core::audit::template::Template;
use strongroom_core::audit::tree::leaf_hash;
use strongroom_core::audit::verify::{Known, Report, verify};
use tlog_tiles::{Checkpoint, Hash, HashReader, check_record, check_tree};

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let mut name = [0; 8];
        getrandom::fill(&mut name).expect("randomness");
        let path = std::env::temp_dir().join(format!("audit-{:016x}", u64::from_ne_bytes(name)));
        fs::create_dir(&path).expect("a fresh name");
        Self(path)
    }

    fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        self.0.join(format!("log{suffix}"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn open(path: &Path, rotation: Rotation) -> Result<Log, Error> {
    let event = |name: &str| {
        Template::new(&format!("{{\"n\":\"{name}\",\"t\":\u{1}time\u{1}}}")).expect("a template")
    };
    let events = OwnEvents {
        opened: event("opened"),
        recovered: Template::new("{\"bytes\":\u{1}bytes\u{1},\"n\":\"recovered\"}").expect("one"),
        rotated: event("rotated"),
    };
    Log::open(path, None, events, rotation, Patience::default())
}

fn write(path: &Path, count: u64) {
    let mut log = open(path, Rotation::default()).expect("opens");
    for number in 0..count {
        log.append(&[format!("{{\"n\":{number}}}")], Durability::Kernel)
            .expect("appends");
    }
    log.flush().expect("flushes");
}

fn check(path: &Path) -> Result<Report, Error> {
    verify(path, Known::default(), false, &mut |_| Ok(())).and_then(Report::check)
}

fn sequence(path: &Path) -> Option<u64> {
    match check(path) {
        Err(Error::AuditIntegrity { sequence, .. }) => sequence,
        other => panic!("not found: {other:?}"),
    }
}

#[test]
fn written_and_verified() {
    let folder = Folder::new();
    write(&folder.log(), 300);
    write(&folder.log(), 10);
    let report = check(&folder.log()).expect("whole");
    assert_eq!((report.size, report.covered, report.torn), (311, 311, 0));
}

#[test]
fn every_bit_of_twenty_records() {
    let folder = Folder::new();
    write(&folder.log(), 19);
    let good = fs::read(folder.log()).expect("there");
    let kept = ["", ".checkpoint", ".state"]
        .map(|suffix| (suffix, fs::read(folder.beside(suffix)).expect("there")));
    let mut record = 0;
    for index in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[index] ^= 1 << bit;
            fs::write(folder.log(), &bad).expect("written");
            assert_eq!(
                sequence(&folder.log()),
                Some(record),
                "byte {index} bit {bit}"
            );
        }
        record += u64::from(good[index] == b'\n');
    }
    // A writer reads the log's end alone; whatever it appends, the change stays seen.
    for index in (0..good.len()).step_by(97) {
        let mut bad = good.clone();
        bad[index] ^= 1;
        fs::write(folder.log(), &bad).expect("written");
        if let Ok(mut log) = open(&folder.log(), Rotation::default()) {
            log.append(&["{}"], Durability::Checkpoint)
                .expect("appends");
        }
        assert!(check(&folder.log()).is_err(), "byte {index}");
        for (suffix, content) in &kept {
            fs::write(folder.beside(suffix), content).expect("written");
        }
    }
    // Without the cache the last record can't be told from one before it, and nothing is missed.
    fs::remove_file(folder.beside(".state")).expect("there");
    for index in 0..good.len() {
        let mut bad = good.clone();
        bad[index] ^= 1;
        fs::write(folder.log(), &bad).expect("written");
        sequence(&folder.log());
    }
}

#[test]
fn records_removed_doubled_swapped_moved_in_and_cut() {
    let folder = Folder::new();
    write(&folder.log(), 19);
    let other = Folder::new();
    write(&other.log(), 19);
    let lines = |path: &Path| -> Vec<Vec<u8>> {
        let content = fs::read(path).expect("there");
        content
            .split_inclusive(|&byte| byte == b'\n')
            .map(<[u8]>::to_vec)
            .collect()
    };
    let good = lines(&folder.log());
    let foreign = lines(&other.log());
    assert_eq!(good.len(), 20);
    let found = |changed: &[Vec<u8>]| {
        fs::write(folder.log(), changed.concat()).expect("written");
        sequence(&folder.log())
    };
    for index in 0..20 {
        let at = index as u64;
        let mut removed = good.clone();
        removed.remove(index);
        assert_eq!(found(&removed), Some(at), "removed {index}");
        let mut doubled = good.clone();
        doubled.insert(index, good[index].clone());
        assert_eq!(found(&doubled), Some(at + 1), "doubled {index}");
        for with in index + 1..20 {
            let mut swapped = good.clone();
            swapped.swap(index, with);
            assert_eq!(found(&swapped), Some(at), "swapped {index} and {with}");
        }
        let mut moved = good.clone();
        moved[index].clone_from(&foreign[index]);
        assert_eq!(found(&moved), Some(at), "moved in {index}");
        let mut inserted = good.clone();
        inserted.insert(index, foreign[index].clone());
        assert!(found(&inserted).is_some_and(|found| found.abs_diff(at) <= 1));
        // A cut at the record and inside it, all of it covered by the checkpoint.
        assert_eq!(found(&good[..index]), Some(at), "cut at {index}");
        let whole = good.concat();
        let start = good[..index].concat().len();
        for inside in start + 1..start + good[index].len() {
            fs::write(folder.log(), &whole[..inside]).expect("written");
            assert_eq!(sequence(&folder.log()), Some(at), "cut in {index}");
        }
    }
    // All of it another log's, with its own checkpoint: another key.
    for suffix in ["", ".checkpoint", ".state"] {
        fs::copy(other.beside(suffix), folder.beside(suffix)).expect("copied");
    }
    assert!(matches!(
        check(&folder.log()),
        Err(Error::AuditIntegrity { .. })
    ));
}

#[test]
fn a_torn_tail_is_torn_and_set_aside() {
    let folder = Folder::new();
    write(&folder.log(), 9);
    let covered = fs::read(folder.log()).expect("there");
    let line = b"{\"event\":{\"n\":9},\"prev\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\",\"seq\":10}";
    for (number, torn) in [
        &line[..1],
        &line[..40],
        &line[..],
        b"\0\0\0\n\0\0",
        b"x\n\n\n",
        &[b'z'; 200_000],
    ]
    .into_iter()
    .enumerate()
    {
        fs::write(folder.log(), [&covered[..], torn].concat()).expect("written");
        let report = check(&folder.log()).expect("no damage");
        assert_eq!((report.size, report.torn), (10, torn.len() as u64));
        drop(open(&folder.log(), Rotation::default()).expect("recovers"));
        let name = match number {
            0 => ".torn-10".to_owned(),
            _ => format!(".torn-10.{}", number + 1),
        };
        assert_eq!(fs::read(folder.beside(&name)).expect("there"), torn);
        let content = fs::read_to_string(folder.log()).expect("text");
        let last = content.lines().last().expect("a line");
        assert!(
            last.starts_with(&format!(
                "{{\"event\":{{\"bytes\":{},\"n\":\"recovered\"}}",
                torn.len()
            )),
            "{last}"
        );
        assert_eq!(check(&folder.log()).expect("whole").size, 11);
        // Back to where it was.
        fs::write(folder.log(), &covered).expect("written");
    }
    // A record that parses behind the tear is no tear.
    let mut behind = covered.clone();
    behind.extend_from_slice(b"x\n");
    behind.extend_from_slice(line);
    behind.push(b'\n');
    fs::write(folder.log(), &behind).expect("written");
    assert_eq!(sequence(&folder.log()), Some(10));
    assert!(open(&folder.log(), Rotation::default()).is_err());
}

#[test]
fn without_its_cache_it_is_made_anew() {
    let folder = Folder::new();
    write(&folder.log(), 20);
    for content in [
        None,
        Some("nonsense"),
        Some("strongroom.audit state 1\n21 0 5\n"),
    ] {
        match content {
            None => fs::remove_file(folder.beside(".state")).expect("there"),
            Some(text) => fs::write(folder.beside(".state"), text).expect("written"),
        }
        write(&folder.log(), 1);
        check(&folder.log()).expect("whole");
    }
}

#[test]
fn rotated_by_size_and_pruned() {
    let folder = Folder::new();
    let rotation = Rotation {
        bytes: Some(1000),
        daily: false,
    };
    let mut log = open(&folder.log(), rotation).expect("opens");
    let mut second = open(&folder.log(), rotation).expect("opens");
    for number in 0..60 {
        let writer = if number % 3 == 0 {
            &mut second
        } else {
            &mut log
        };
        writer
            .append(&[format!("{{\"n\":{number}}}")], Durability::Kernel)
            .expect("appends");
    }
    log.flush().expect("flushes");
    let report = check(&folder.log()).expect("whole");
    assert!(report.files > 4, "{report:?}");
    let size = report.size;
    // A pruned file: its closing checkpoint is what the rest begins after.
    fs::remove_file(folder.beside(".000000000000000")).expect("there");
    let report = check(&folder.log()).expect("whole");
    assert_eq!(report.size, size);
    assert!(report.first > 0);
    // One from the middle is missed.
    let mut names: Vec<_> = fs::read_dir(&folder.0)
        .expect("there")
        .map(|entry| entry.expect("there").path())
        .filter(|path| path.extension().is_some_and(|end| end.len() == 15))
        .collect();
    names.sort();
    fs::remove_file(&names[1]).expect("there");
    assert!(check(&folder.log()).is_err());
}

#[test]
fn a_crash_between_the_names_of_a_rotation() {
    let folder = Folder::new();
    let rotation = Rotation {
        bytes: Some(1),
        daily: false,
    };
    let mut log = open(&folder.log(), rotation).expect("opens");
    log.append(&["{}"], Durability::Checkpoint)
        .expect("appends");
    drop(log);
    // As if the second rotation had been stopped right after its rename.
    let first = fs::read_to_string(folder.beside(".state")).expect("there");
    let first: u64 = first
        .lines()
        .nth(1)
        .expect("numbers")
        .split(' ')
        .nth(1)
        .expect("first")
        .parse()
        .expect("a number");
    let closed = folder.beside(&format!(".{first:015}"));
    for suffix in ["", ".checkpoint", ".state"] {
        let mut to = closed.clone().into_os_string();
        to.push(suffix);
        fs::copy(folder.beside(suffix), to).expect("copied");
    }
    fs::remove_file(folder.log()).expect("there");
    let mut log = open(&folder.log(), Rotation::default()).expect("goes on");
    log.append(&["{}"], Durability::Checkpoint)
        .expect("appends");
    check(&folder.log()).expect("whole");
    // Gone for no such reason, it is damage.
    fs::remove_file(folder.log()).expect("there");
    assert!(open(&folder.log(), Rotation::default()).is_err());
}

/// The tree as `tlog_tiles` builds it: its own stored hashes.
struct Stored(Vec<Hash>);

impl HashReader for Stored {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, tlog_tiles::Error> {
        Ok(indexes
            .iter()
            .map(|&index| self.0[index as usize])
            .collect())
    }
}

#[test]
fn other_implementations_accept_it() {
    let folder = Folder::new();
    let mut older = Vec::new();
    let vkey = {
        let log = open(&folder.log(), Rotation::default()).expect("opens");
        log.key().vkey()
    };
    for count in [0, 1, 2, 5, 255, 256, 300] {
        write(&folder.log(), count);
        older.push(fs::read(folder.beside(".checkpoint")).expect("there"));
    }
    let verifier = StandardVerifier::new(&vkey).expect("a verifier key");
    let opened = |note: &[u8]| -> Checkpoint {
        let note = Note::from_bytes(note).expect("a note");
        let verifiers =
            VerifierList::new(vec![Box::new(StandardVerifier::new(&vkey).expect("one"))]);
        let (verified, _) = note.verify(&verifiers).expect("signed");
        assert_eq!(verified.len(), 1);
        Checkpoint::from_bytes(note.text()).expect("a checkpoint")
    };
    let _ = verifier;
    let newest = opened(older.last().expect("some"));

    // Its root from the lines, by the other crate.
    let content = fs::read(folder.log()).expect("there");
    let lines: Vec<_> = content
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .collect();
    assert_eq!(newest.size(), lines.len() as u64);
    let mut stored = Stored(Vec::new());
    for (number, line) in lines.iter().enumerate() {
        let hashes = tlog_tiles::stored_hashes(number as u64, line, &stored).expect("hashes");
        stored.0.extend(hashes);
    }
    let root = tlog_tiles::tree_hash(newest.size(), &stored).expect("a root");
    assert_eq!(&root, newest.hash());

    let hashes = |proof: &[u8], skip: usize| -> Vec<Hash> {
        let text = std::str::from_utf8(proof).expect("text");
        text.lines()
            .skip(skip)
            .take_while(|line| !line.is_empty())
            .map(|line| Hash(base64::decode_hash(line.as_bytes()).expect("a hash")))
            .collect()
    };
    for seq in [0, 1, 2, 100, 255, 256, 511, newest.size() - 1] {
        let made = prove_inclusion(&folder.log(), None, seq, &mut |_| Ok(())).expect("a proof");
        assert_eq!(made.line, lines[seq as usize]);
        let proof = hashes(&made.proof, 2);
        let leaf = tlog_tiles::record_hash(&made.line);
        assert_eq!(leaf.0, leaf_hash(&made.line));
        check_record(&proof, newest.size(), root, seq, leaf).expect("included");
        assert!(check_record(&proof, newest.size(), root, seq ^ 1, leaf).is_err());
    }
    for note in &older {
        let old = opened(note);
        let made = prove_consistency(&folder.log(), None, note, &mut |_| Ok(())).expect("a proof");
        let proof = hashes(&made, 1);
        check_tree(&proof, newest.size(), root, old.size(), *old.hash()).expect("consistent");
    }

    // The tiles are where tlog-tiles has them, and hold the same hashes.
    for tile in tlog_tiles::Tile::new_tiles(8, 0, newest.size()) {
        let path = tile.path();
        let path = path.strip_prefix("tile/8/").unwrap_or(&path).to_owned();
        let Ok(found) = fs::read(folder.beside(".tiles").join("tile").join(&path)) else {
            // Only the widest of a tile is kept.
            assert!(tile.width() < 256, "{path}");
            continue;
        };
        assert_eq!(found, tile.read_data(&stored).expect("hashes"), "{path}");
    }
}

#[test]
fn proofs_survive_a_growing_log_and_a_spoilt_index() {
    let folder = Folder::new();
    for step in 0..6 {
        write(&folder.log(), 100);
        let size = check(&folder.log()).expect("whole").size;
        for seq in [0, size / 2, size - 1] {
            prove_inclusion(&folder.log(), None, seq, &mut |_| Ok(())).expect("a proof");
        }
        if step == 3 {
            let tile = folder.beside(".tiles").join("tile/0/000");
            let mut hashes = fs::read(&tile).expect("a full tile");
            hashes[40] ^= 1;
            fs::write(&tile, hashes).expect("written");
        }
    }
    let spoilt = Folder::new();
    write(&spoilt.log(), 10);
    prove_inclusion(&spoilt.log(), None, 3, &mut |_| Ok(())).expect("a proof");
    let content = fs::read_to_string(spoilt.log()).expect("text");
    fs::write(spoilt.log(), content.replace("{\"n\":2}", "{\"n\":7}")).expect("written");
    assert!(matches!(
        prove_inclusion(&spoilt.log(), None, 3, &mut |_| Ok(())),
        Err(Error::AuditIntegrity {
            sequence: Some(3),
            ..
        })
    ));
}
