//! Files without Python: there and back across the bounds of chunks and pieces, groups, the reader
//! and the writer, and what happens to names. Everything that needs processes, signals or a store
//! is tested from Python.

use std::ffi::CString;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use strongroom_core::envelope::{KeySource, NewSlot};
use strongroom_core::file::{
    self, Job, Located, Options, Place, Reader, RewrapKeys, Side, Trouble, Work, Writer,
};
use strongroom_core::keys::{KeyHandle, KeyId, Material};
use strongroom_core::params::{
    CHUNK_LEN, FILE_LONG_PIECE_CHUNKS, FILE_PIECE_CHUNKS, FILE_SHARED_MIN,
};
use strongroom_core::{Error, Result};

const PIECE: usize = FILE_PIECE_CHUNKS * CHUNK_LEN;
/// The longest file whose pieces are short.
const SHORT_MAX: usize = FILE_SHARED_MIN as usize;
const LONG_PIECE: usize = FILE_LONG_PIECE_CHUNKS * CHUNK_LEN;
const LENGTHS: [usize; 14] = [
    0,
    1,
    CHUNK_LEN - 1,
    CHUNK_LEN,
    CHUNK_LEN + 1,
    PIECE - 1,
    PIECE,
    PIECE + 1,
    3 * PIECE,
    10 * PIECE + 12_345,
    SHORT_MAX,
    SHORT_MAX + 1,
    10 * LONG_PIECE,
    10 * LONG_PIECE + CHUNK_LEN + 1,
];

/// Keys, the last of them the primary.
struct Keys(Vec<KeyHandle>);

impl Keys {
    fn new() -> Self {
        Self(vec![KeyHandle::generate().expect("randomness")])
    }

    fn rotate(&mut self) {
        self.0.push(KeyHandle::generate().expect("randomness"));
    }
}

impl KeySource for Keys {
    fn keyset_key(&self, id: &KeyId) -> Result<Option<Arc<Material>>> {
        let found = self.0.iter().find(|key| key.id() == *id);
        found.map(KeyHandle::material).transpose()
    }
}

impl RewrapKeys for Keys {
    fn primary(&self) -> Result<(KeyId, Arc<Material>)> {
        let key = self.0.last().expect("made with one");
        Ok((key.id(), key.material()?))
    }

    fn is_compromised(&self, _: &KeyId) -> Result<bool> {
        Ok(false)
    }
}

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("strongroom-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a new directory");
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("listed");
        let name = |entry: std::io::Result<fs::DirEntry>| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("text")
        };
        let mut names: Vec<_> = entries.map(name).collect();
        names.sort();
        names
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251) as u8).collect()
}

fn slot<'a>(id: KeyId, key: &'a Material) -> [NewSlot<'a>; 1] {
    [NewSlot::Keyset { id, key }]
}

fn encrypt(keys: &Keys, from: &Path, to: &Path, overwrite: bool) -> Result<file::Count> {
    let (id, key) = keys.primary()?;
    let from = Located::new(from, Side::Source)?;
    let to = Located::new(to, Side::Target)?;
    file::encrypt(
        from.place(),
        to.place(),
        &slot(id, &key),
        b"ad",
        overwrite,
        &mut |_| Ok(()),
    )
}

fn decrypt(keys: &Keys, from: &Path, to: &Path) -> Result<file::Count> {
    let from = Located::new(from, Side::Source)?;
    let to = Located::new(to, Side::Target)?;
    file::decrypt(
        from.place(),
        to.place(),
        keys,
        b"ad",
        false,
        &mut |_| Ok(()),
    )
}

fn errno(result: Result<file::Count>) -> Option<i32> {
    match Trouble::of(&result.expect_err("an error")) {
        Some(Trouble::Os(_, errno)) => Some(errno.raw_os_error()),
        _ => None,
    }
}

#[test]
fn there_and_back() {
    let (keys, directory) = (Keys::new(), Directory::new());
    for len in LENGTHS {
        let [plain, sealed, back] = ["plain", "sealed", "back"].map(|name| directory.path(name));
        fs::write(&plain, bytes(len)).expect("written");
        fs::set_permissions(&plain, fs::Permissions::from_mode(0o640)).expect("set");
        let count = encrypt(&keys, &plain, &sealed, false).expect("encrypted");
        assert_eq!(
            (count.plaintext, count.key_id),
            (len as u64, Some(keys.0[0].id()))
        );
        assert_eq!(count.message, fs::metadata(&sealed).expect("there").len());
        let opened = decrypt(&keys, &sealed, &back).expect("decrypted");
        assert_eq!(opened, count);
        assert_eq!(fs::read(&back).expect("read"), bytes(len));
        for path in [&sealed, &back] {
            let (now, then) = (
                fs::metadata(path).expect("there"),
                fs::metadata(&plain).expect("there"),
            );
            assert_eq!(now.mode(), then.mode());
            assert_eq!(
                (now.mtime(), now.mtime_nsec()),
                (then.mtime(), then.mtime_nsec())
            );
        }
        let reader = Located::new(&sealed, Side::Source).expect("located");
        let reader = Reader::open(reader.place(), &keys, b"ad").expect("opened");
        for (at, count) in [
            (0, len),
            (len / 3, len),
            (len.saturating_sub(1), 5),
            (len, 1),
        ] {
            let mut out = vec![0; count];
            let read = reader
                .read_at(at as u64, &mut out, &mut |_| Ok(()))
                .expect("read");
            assert_eq!(out[..read], bytes(len)[at..len.min(at + count)]);
        }
        for path in [plain, sealed, back] {
            fs::remove_file(path).expect("removed");
        }
    }
    assert!(directory.names().is_empty());
}

#[test]
fn a_writer_and_one_that_is_dropped() {
    let (keys, directory) = (Keys::new(), Directory::new());
    let (id, key) = keys.primary().expect("there");
    for len in LENGTHS {
        let sealed = directory.path("sealed");
        let begin = |overwrite| {
            let located = Located::new(&sealed, Side::Target).expect("located");
            Writer::create(located, &slot(id, &key), b"ad", overwrite)
        };
        let mut writer = begin(false).expect("begun");
        for part in bytes(len).chunks(7777) {
            writer.write(part, &mut |_| Ok(())).expect("written");
        }
        assert!(!sealed.exists());
        assert_eq!(
            writer.finish(&mut |_| Ok(())).expect("finished"),
            len as u64
        );
        drop(begin(true).expect("begun"));
        assert!(begin(false).is_err());
        decrypt(&keys, &sealed, &directory.path("back")).expect("decrypted");
        assert_eq!(fs::read(directory.path("back")).expect("read"), bytes(len));
        fs::remove_file(directory.path("back")).expect("removed");
        fs::remove_file(sealed).expect("removed");
    }
    assert!(directory.names().is_empty());
}

#[test]
fn names_that_are_taken() {
    let (keys, directory) = (Keys::new(), Directory::new());
    let [plain, there] = ["plain", "there"].map(|name| directory.path(name));
    fs::write(&plain, b"data").expect("written");
    fs::write(&there, b"old").expect("written");
    assert_eq!(errno(encrypt(&keys, &plain, &there, false)), Some(17));
    assert_eq!(
        errno(encrypt(&keys, &plain, &directory.path("no/such"), false)),
        Some(2)
    );
    assert_eq!(errno(encrypt(&keys, &directory.0, &there, false)), Some(21));
    let same = encrypt(&keys, &plain, &plain, true).expect_err("an error");
    assert!(matches!(Trouble::of(&same), Some(Trouble::SameFile)));
    assert_eq!(fs::read(&there).expect("read"), b"old");
    encrypt(&keys, &plain, &there, true).expect("encrypted");
    assert_eq!(directory.names(), ["plain", "there"]);
}

#[test]
fn a_tick_that_stops_leaves_nothing() {
    let (keys, directory) = (Keys::new(), Directory::new());
    fs::write(directory.path("plain"), bytes(10 * PIECE)).expect("written");
    let (id, key) = keys.primary().expect("there");
    let from = Located::new(&directory.path("plain"), Side::Source).expect("located");
    let to = Located::new(&directory.path("sealed"), Side::Target).expect("located");
    // The caller ticks after each piece that it does, and helpers may have done them all.
    for _ in 0..100 {
        let stop = &mut |_| Err(Error::Interrupted);
        let slots = slot(id, &key);
        match file::encrypt(from.place(), to.place(), &slots, b"", true, stop) {
            Err(Error::Interrupted) => break,
            other => other.expect("no other error"),
        };
        fs::remove_file(directory.path("sealed")).expect("removed");
    }
    assert_eq!(directory.names(), ["plain"]);
}

#[test]
fn a_group() {
    let (mut keys, directory) = (Keys::new(), Directory::new());
    let folder = fs::File::open(&directory.0).expect("opened");
    let dir = folder.as_fd();
    let names: Vec<[CString; 3]> = (0..LENGTHS.len())
        .map(|number| {
            ["plain", "sealed", "back"]
                .map(|kind| CString::new(format!("{kind}{number}")).expect("text"))
        })
        .collect();
    for (number, len) in LENGTHS.iter().enumerate() {
        fs::write(directory.path(&format!("plain{number}")), bytes(*len)).expect("written");
    }
    let jobs = |from: usize, to: usize| -> Vec<Job<'_>> {
        let place = |name| Place { dir, name };
        names
            .iter()
            .map(|names| Job {
                source: place(&names[from]),
                target: place(&names[to]),
            })
            .collect()
    };
    let options = Options {
        associated_data: b"ad",
        ..Options::default()
    };
    let run = |jobs: &[Job<'_>], work: &Work<'_>| -> Vec<(u64, bool)> {
        file::run(jobs, &[], work, options, &mut |_| Ok(()))
            .expect("a group")
            .into_iter()
            .map(|done| {
                done.map(|done| (done.count.plaintext, done.current))
                    .expect("done")
            })
            .collect()
    };
    let expect = |current| -> Vec<(u64, bool)> {
        LENGTHS.iter().map(|len| (*len as u64, current)).collect()
    };
    {
        let (id, key) = keys.primary().expect("there");
        let slots = slot(id, &key);
        let work = Work::Encrypt {
            slots: &slots,
            keys: &keys,
        };
        assert_eq!(run(&jobs(0, 1), &work), expect(false));
        assert_eq!(run(&jobs(0, 1), &work), expect(true));
    }
    assert_eq!(run(&jobs(1, 1), &Work::Verify(&keys)), expect(false));
    keys.rotate();
    for copy in [false, true] {
        keys.rotate();
        let work = Work::Rewrap { keys: &keys, copy };
        assert_eq!(run(&jobs(1, 1), &work), expect(false));
        assert_eq!(run(&jobs(1, 1), &work), expect(true));
    }
    // Now the last key alone opens them.
    keys.0.drain(..keys.0.len() - 1);
    assert_eq!(run(&jobs(1, 2), &Work::Decrypt(&keys)), expect(false));
    assert_eq!(run(&jobs(1, 2), &Work::Decrypt(&keys)), expect(true));
    for (number, len) in LENGTHS.iter().enumerate() {
        let back = fs::read(directory.path(&format!("back{number}"))).expect("read");
        assert_eq!(back, bytes(*len));
    }
    assert_eq!(directory.names().len(), 3 * LENGTHS.len());
}

#[test]
fn stale_files_go_only_without_a_live_writer() {
    let directory = Directory::new();
    let stale = directory.path(".strongroom-0123456789abcdef.tmp");
    for name in [
        ".strongroom-0123456789abcdef.tmp",
        ".strongroom-xyz.tmp",
        "file.tmp",
    ] {
        fs::write(directory.path(name), b"").expect("written");
    }
    let folder = fs::File::open(&directory.0).expect("opened");
    let live = fs::File::open(&directory.0).expect("opened");
    file::lock_shared(&live);
    assert_eq!(file::remove_stale(&folder).expect("looked"), 0);
    assert!(stale.exists());
    drop(live);
    assert_eq!(file::remove_stale(&folder).expect("looked"), 1);
    assert_eq!(directory.names(), [".strongroom-xyz.tmp", "file.tmp"]);
}
