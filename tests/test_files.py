"""Files: there and back, what is kept, what is refused, and that nothing is left behind."""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import strongroom
from file_help import LENGTHS, LONG, PIECE, leftovers, run_python, seeded, small_disk, store, work
from strongroom import DecryptionError, FormatError, KeyNotFoundError, KeyStateError, KeyStore
from strongroom.files import ByteCount, decrypt_stream, encrypt_stream

__all__ = ["store", "work"]


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


# --- There and back.


@pytest.mark.parametrize("length", LENGTHS)
def test_there_and_back(store, work, length):
    data = seeded().randbytes(length)
    plain, sealed, back = work / "plain", work / "sealed", work / "back"
    plain.write_bytes(data)
    primary = store.get_current_key().id

    counts = [
        strongroom.encrypt_file(plain, sealed, store, associated_data=b"ad"),
        strongroom.verify_file(sealed, store, associated_data=b"ad"),
        strongroom.decrypt_file(sealed, back, store, associated_data=b"ad"),
    ]
    assert back.read_bytes() == data
    for count in counts:
        assert isinstance(count, ByteCount)
        assert (count, count.keyset, count.key_id) == (length, "default", primary)
    info = strongroom.inspect(sealed)
    assert info.plaintext_length == length
    assert info.length == sealed.stat().st_size
    # One slot in use, and one as long for the next rewrap in place.
    assert [(slot.kind, slot.length) for slot in info.slots] == [("keyset", 120), ("empty", 120)]
    assert names(work) == ["back", "plain", "sealed"]


def test_a_file_and_a_message_in_memory_are_one_format(store, work):
    data = seeded().randbytes(200_000)
    (work / "plain").write_bytes(data)
    strongroom.encrypt_file(work / "plain", work / "sealed", store)
    cipher = strongroom.VersionedEncryption(store)
    assert cipher.decrypt((work / "sealed").read_bytes()) == data
    (work / "message").write_bytes(cipher.encrypt(data))
    strongroom.decrypt_file(work / "message", work / "back", store)
    assert (work / "back").read_bytes() == data


def test_mode_and_mtime_are_kept(store, work):
    plain, sealed, back = work / "plain", work / "sealed", work / "back"
    plain.write_bytes(b"x" * 1000)
    for mode in (0o644, 0o400, 0o751, 0o000):
        plain.chmod(mode)
        os.utime(plain, ns=(1, 1_234_567_890_123_456_789))
        strongroom.encrypt_file(plain, sealed, store, overwrite=True)
        strongroom.decrypt_file(sealed, back, store, overwrite=True)
        for path in (sealed, back):
            state = path.stat()
            assert stat.S_IMODE(state.st_mode) == mode
            assert state.st_mtime_ns == 1_234_567_890_123_456_789


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_set_user_id_of_another_owner_is_not_kept(store, work):
    plain = work / "plain"
    plain.write_bytes(b"#!/bin/sh\n")
    os.chown(plain, 1234, 1234)
    plain.chmod(0o6755)
    strongroom.encrypt_file(plain, work / "sealed", store)
    assert stat.S_IMODE((work / "sealed").stat().st_mode) == 0o755
    os.chown(plain, 0, 0)
    plain.chmod(0o6755)
    strongroom.encrypt_file(plain, work / "own", store)
    assert stat.S_IMODE((work / "own").stat().st_mode) == 0o6755


@pytest.mark.parametrize("name", ["-x", "new\nline", "ü", os.fsdecode(b"\xff\xfe"), "y" * 255])
def test_names(store, work, name):
    (work / "plain").write_bytes(b"data")
    strongroom.encrypt_file(work / "plain", work / name, store)
    strongroom.decrypt_file(os.fsencode(work / name), work / "back", store)
    assert (work / "back").read_bytes() == b"data"


def test_names_without_a_directory(store, work, monkeypatch):
    monkeypatch.chdir(work)
    Path("plain").write_bytes(b"data")
    strongroom.encrypt_file("plain", "sealed", store)
    strongroom.decrypt_file("./sealed", b"back", store)
    assert Path("back").read_bytes() == b"data"


# --- Keys.


def test_passphrase(store, work):
    (work / "plain").write_bytes(b"data" * 100)
    strongroom.encrypt_file(work / "plain", work / "one", passphrase="Grüße")
    strongroom.encrypt_file(work / "plain", work / "both", store, passphrase="Grüße")
    for name in ("one", "both"):
        # Another spelling of the same text: NFC makes them one.
        count = strongroom.verify_file(work / name, passphrase="Gru\u0308ße")
        assert (count, count.keyset, count.key_id) == (400, None, None)
    assert strongroom.verify_file(work / "both", store).keyset == "default"
    with pytest.raises(DecryptionError):
        strongroom.verify_file(work / "one", passphrase="Grüsse")
    with pytest.raises(KeyNotFoundError, match="passphrase"):
        strongroom.verify_file(work / "one", store)
    kinds = [(slot.kind, slot.length) for slot in strongroom.inspect(work / "both").slots]
    assert kinds == [("keyset", 120), ("passphrase", 129), ("empty", 120)]
    slot = strongroom.inspect(work / "one").slots[0]
    assert (slot.memory_kib, slot.passes, slot.lanes) == (65_536, 3, 4)


def test_keysets_are_apart_unless_all_are_searched(store, work):
    store.create_keyset("tenant")
    (work / "plain").write_bytes(b"data")
    strongroom.encrypt_file(work / "plain", work / "sealed", store, keyset="tenant")
    with pytest.raises(KeyNotFoundError):
        strongroom.verify_file(work / "sealed", store)
    count = strongroom.verify_file(work / "sealed", store, keyset=None)
    assert count.keyset == "tenant"
    assert count.key_id == store.get_current_key("tenant").id
    with pytest.raises(KeyNotFoundError, match="nobody"):
        strongroom.encrypt_file(work / "plain", work / "other", store, keyset="nobody")
    with pytest.raises(ValueError, match="name one"):
        strongroom.encrypt_file(work / "plain", work / "other", store, keyset=None)
    assert names(work) == ["plain", "sealed"]


def test_no_key_at_all(work):
    (work / "plain").write_bytes(b"data")
    with pytest.raises(ValueError, match="passphrase"):
        strongroom.encrypt_file(work / "plain", work / "sealed")


def test_states_of_the_key(store, work):
    (work / "plain").write_bytes(b"data")
    strongroom.encrypt_file(work / "plain", work / "sealed", store)
    old = store.get_current_key().id
    store.rotate()
    assert strongroom.verify_file(work / "sealed", store) == 4
    store.compromise_key(old)
    with pytest.raises(KeyStateError):
        strongroom.decrypt_file(work / "sealed", work / "back", store)
    assert strongroom.verify_file(work / "sealed", store, allow_compromised=True) == 4
    store.destroy_key(old, force=True)
    with pytest.raises(KeyNotFoundError, match="destroyed"):
        strongroom.decrypt_file(work / "sealed", work / "back", store)
    assert names(work) == ["plain", "sealed"]


def test_wrong_associated_data(store, work):
    (work / "plain").write_bytes(b"data")
    strongroom.encrypt_file(work / "plain", work / "sealed", store, associated_data=b"a")
    with pytest.raises(DecryptionError):
        strongroom.decrypt_file(work / "sealed", work / "back", store, associated_data=b"b")
    assert names(work) == ["plain", "sealed"]


# --- What is refused. Nothing is left in any of it.


def test_targets_that_are_there(store, work):
    (work / "plain").write_bytes(b"data")
    (work / "there").write_bytes(b"old")
    (work / "dangling").symlink_to("nowhere")
    (work / "directory").mkdir()
    before = names(work)
    for name in ("there", "dangling"):
        with pytest.raises(FileExistsError) as caught:
            strongroom.encrypt_file(work / "plain", work / name, store)
        assert caught.value.filename == str(work / name)
    for overwrite in (False, True):
        with pytest.raises(IsADirectoryError):
            strongroom.encrypt_file(work / "plain", work / "directory", store, overwrite=overwrite)
    assert (work / "there").read_bytes() == b"old"
    assert names(work) == before
    strongroom.encrypt_file(work / "plain", work / "there", store, overwrite=True)
    assert strongroom.verify_file(work / "there", store) == 4


def test_a_target_that_is_a_link_is_replaced_and_not_followed(store, work):
    (work / "plain").write_bytes(b"data")
    (work / "outside").write_bytes(b"precious")
    (work / "link").symlink_to("outside")
    strongroom.encrypt_file(work / "plain", work / "link", store, overwrite=True)
    assert not (work / "link").is_symlink()
    assert (work / "outside").read_bytes() == b"precious"


def test_same_file(store, work):
    plain = work / "plain"
    plain.write_bytes(b"data")
    os.link(plain, work / "hard")
    (work / "soft").symlink_to("plain")
    before = names(work)
    for name in ("plain", "hard", "soft", "../work/plain"):
        for overwrite in (False, True):
            with pytest.raises(shutil.SameFileError):
                strongroom.encrypt_file(plain, work / name, store, overwrite=overwrite)
    assert plain.read_bytes() == b"data"
    assert names(work) == before


def test_sources_that_are_no_regular_file(store, work):
    os.mkfifo(work / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    here = os.open(".", os.O_RDONLY)
    os.chdir(work)
    listener.bind("socket")
    os.fchdir(here)
    os.close(here)
    (work / "plain").write_bytes(b"data")
    (work / "link").symlink_to("plain")
    before = names(work)
    sources = ["/dev/null", work / "fifo", work / "socket", work / "link"]
    calls = [
        lambda source: strongroom.encrypt_file(source, work / "out", store),
        lambda source: strongroom.decrypt_file(source, work / "out", store),
        lambda source: strongroom.verify_file(source, store),
        lambda source: strongroom.rewrap_file(source, store),
        lambda source: strongroom.open(source, "rb", store),
    ]
    for call in calls:
        for source in sources:
            # A reader that opened the FIFO would wait here for a writer, for ever.
            with pytest.raises(ValueError, match=r"device|FIFO|socket|link"):
                call(source)
        with pytest.raises(IsADirectoryError):
            call(work)
        with pytest.raises(FileNotFoundError) as caught:
            call(work / "nothing")
        assert caught.value.filename == str(work / "nothing")
    listener.close()
    assert names(work) == before


def test_targets_that_can_not_be(store, work):
    (work / "plain").write_bytes(b"data")
    for target, error in [
        (work / "no" / "such", FileNotFoundError),
        (work / "plain" / "x", NotADirectoryError),
        (work / ("y" * 256), OSError),
        (f"{work}/", IsADirectoryError),
        (".", IsADirectoryError),
        ("", FileNotFoundError),
    ]:
        with pytest.raises(error):
            strongroom.encrypt_file(work / "plain", target, store)
    with pytest.raises(ValueError, match=r"zero byte|null"):
        strongroom.encrypt_file(work / "plain", "a\0b", store)
    os.mkfifo(work / "fifo")
    with pytest.raises(ValueError, match="FIFO"):
        strongroom.encrypt_file(work / "plain", work / "fifo", store, overwrite=True)
    assert names(work) == ["fifo", "plain"]


# Long enough for one thread that progress is told of, every 50 ms, before the end; sparse.
LONG_SOURCE = 1 << 29


@pytest.fixture
def long_file(work):
    strongroom.set_num_threads(1)
    with (work / "plain").open("wb") as file:
        file.truncate(LONG_SOURCE)
    yield work / "plain"
    strongroom.set_num_threads(None)


@pytest.mark.parametrize("change", ["append", "truncate", "touch", "rewrite"])
def test_a_source_that_changes_while_it_is_read(store, work, long_file, change):
    plain = long_file

    def meanwhile(done: int, _: int | None) -> None:
        if 0 < done < LONG_SOURCE and not changed:
            changed.append(done)
            with plain.open("r+b") as file:
                if change == "append":
                    file.seek(0, io.SEEK_END)
                    file.write(b"more")
                elif change == "truncate":
                    file.truncate(10)
                elif change == "rewrite":
                    file.write(b"other")
            if change == "touch":
                os.utime(plain)

    # A call may end before its first tick is due: then nothing was changed, and it is done again.
    changed: list[int] = []
    for _ in range(50):
        try:
            strongroom.encrypt_file(plain, work / "sealed", store, progress=meanwhile)
        except OSError as error:
            refused = error
            break
        assert not changed, f"a source that changed after {changed} bytes was taken"
        (work / "sealed").unlink()
    else:
        pytest.fail("no call was slow enough")
    assert (refused.errno, refused.filename) == (errno.ESTALE, str(plain))
    assert names(work) == ["plain"]


@pytest.mark.usefixtures("long_file")
def test_an_exception_in_progress_stops_the_call(store, work):

    def stop(done: int, total: int | None) -> None:
        seen.append((done, total))
        raise LookupError("enough")

    seen: list[tuple[int, int | None]] = []
    for _ in range(50):
        try:
            strongroom.encrypt_file(work / "plain", work / "sealed", store, progress=stop)
        except LookupError:
            break
        (work / "sealed").unlink()
    assert seen
    assert seen[0][1] == LONG_SOURCE
    assert names(work) == ["plain"]


_INTERRUPTED = """
import sys, signal, strongroom
from file_help import open_store
signal.signal(signal.SIGINT, signal.default_int_handler)
with open_store(sys.argv[1]) as store:
    source, target = sys.argv[2:4]
    print("ready", flush=True)
    try:
        while True:
            strongroom.encrypt_file(source, target, store, overwrite=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def test_ctrl_c(store, work, tmp_path):
    (work / "plain").write_bytes(bytes(200 << 20))
    (work / "sealed").write_bytes(b"old")
    child = run_python(_INTERRUPTED, tmp_path / "keys", work / "plain", work / "sealed")
    assert child.stdout.readline() == "ready\n"
    while not leftovers(work):  # It is at work: its temporary file is there.
        assert child.poll() is None
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert out == "interrupted\n", err
    assert names(work) == ["plain", "sealed"]


# --- What is damaged.


def test_no_cut_or_longer_file_gives_anything(store, work):
    rng = seeded()
    sealed, back = work / "sealed", work / "back"
    (work / "plain").write_bytes(rng.randbytes(3 * PIECE + 5))
    strongroom.encrypt_file(work / "plain", sealed, store)
    whole = sealed.read_bytes()
    header = len(whole) - (3 * PIECE + 5) - 25 * 16
    bounds = [header + 16_400 * n + d for n in range(25) for d in (-17, -1, 0, 1, 16, 17)]
    lengths = [*range(0, header + 20, 7), *bounds, len(whole) - 1]
    for length in lengths:
        if not 0 <= length < len(whole):
            continue
        sealed.write_bytes(whole[:length])
        for call in (
            lambda: strongroom.decrypt_file(sealed, back, store),
            lambda: strongroom.verify_file(sealed, store),
            lambda: strongroom.open(sealed, "rb", store),
        ):
            with pytest.raises((FormatError, DecryptionError)):
                call()
    for more in (b"\0", bytes(16), bytes(17), whole[header : header + 16_400], whole):
        sealed.write_bytes(whole + more)
        with pytest.raises((FormatError, DecryptionError)):
            strongroom.decrypt_file(sealed, back, store)
    assert names(work) == ["plain", "sealed"]


def test_no_changed_byte_gives_anything(store, work):
    rng = seeded()
    sealed, back = work / "sealed", work / "back"
    (work / "plain").write_bytes(rng.randbytes(2 * PIECE))
    strongroom.encrypt_file(work / "plain", sealed, store)
    whole = sealed.read_bytes()
    header = strongroom.inspect(sealed)
    spare = header.slots[1]
    ignored = range(spare.offset, spare.offset + 3 + spare.length)
    for _ in range(200):
        at = rng.choice((rng.randrange(400), rng.randrange(len(whole)), len(whole) - 1))
        if at in ignored and at not in range(spare.offset + 1, spare.offset + 3):
            continue
        damaged = bytearray(whole)
        damaged[at] ^= 1 << rng.randrange(8)
        sealed.write_bytes(damaged)
        with pytest.raises((FormatError, DecryptionError, KeyNotFoundError)):
            strongroom.decrypt_file(sealed, back, store)
    assert names(work) == ["plain", "sealed"]


def test_a_full_disk(store, tmp_path):
    with small_disk(tmp_path / "disk", "8m") as disk:
        (disk / "plain").write_bytes(bytes(5 << 20))
        for source, size in ((disk / "plain", 5 << 20), (tmp_path / "big", 200 << 20)):
            if not source.exists():
                source.write_bytes(bytes(size))
            with pytest.raises(OSError, match="No space") as caught:
                strongroom.encrypt_file(source, disk / "sealed", store)
            assert caught.value.errno == errno.ENOSPC
            assert caught.value.filename == str(disk / "sealed")
            assert names(disk) == ["plain"]
        writer = strongroom.open(disk / "written", "wb", store)
        with pytest.raises(OSError, match="No space"):
            writer.write(bytes(100 << 20))
        with pytest.raises(ValueError, match="earlier write"):
            writer.write(b"more")
        with pytest.raises(ValueError, match="earlier write"):
            writer.close()
        assert names(disk) == ["plain"]


_ENCRYPT = "strongroom.encrypt_file(plain, sealed, passphrase='x', overwrite=True)"
_WRITE = """
with strongroom.open(sealed, "wb", passphrase="x") as file:
    file.write(open(plain, "rb").read())
"""
_FAILING_DISK = """
import sys, strongroom
work, plain, sealed = sys.argv[1:]
try:
    exec(work)
except OSError as error:
    print(error.errno)
"""


@pytest.mark.parametrize("when", ["1", "1+"])
@pytest.mark.parametrize("call", ["pwrite64", "fdatasync", "fsync", "renameat"])
@pytest.mark.parametrize("how", [_ENCRYPT, _WRITE], ids=["encrypt", "write"])
def test_a_disk_that_fails(work, how, call, when):
    # Long enough to be synced while it is written, which is when fdatasync is called.
    (work / "plain").write_bytes(bytes(160 << 20))
    (work / "sealed").write_bytes(b"old")
    child = subprocess.run(
        [
            *("strace", "-f", "-o", "/dev/null", "-e", f"inject={call}:error=EIO:when={when}"),
            *(sys.executable, "-c", _FAILING_DISK, how, work / "plain", work / "sealed"),
        ],
        capture_output=True,
        check=False,
        text=True,
    )
    assert child.stdout == f"{errno.EIO}\n", child.stderr
    assert names(work) == ["plain", "sealed"]
    assert (work / "sealed").read_bytes() == b"old"


# --- Streams.


class Pipe(io.RawIOBase):
    """A raw stream that gives and takes little at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self.data, self.step, self.out = memoryview(data), step, bytearray()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self.data[: self.step]
        self.data = self.data[self.step :]
        return bytes(data)

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        taken = bytes(data)[: self.step]
        self.out += taken
        return len(taken)


@pytest.mark.parametrize("length", LENGTHS)
def test_streams_there_and_back(store, work, length):
    rng = seeded()
    data = rng.randbytes(length)
    there = Pipe(data, rng.randrange(1000, 70_000))
    count = encrypt_stream(there, there, store, associated_data=b"ad")
    assert (count, count.keyset) == (length, "default")
    back = Pipe(bytes(there.out), rng.randrange(1000, 70_000))
    count = decrypt_stream(back, back, store, associated_data=b"ad")
    assert (count, count.keyset) == (length, "default")
    assert back.out == data
    (work / "sealed").write_bytes(there.out)
    assert strongroom.verify_file(work / "sealed", store, associated_data=b"ad") == length


def test_a_stream_gives_a_true_beginning_and_then_the_error(store):
    rng = seeded()
    data = rng.randbytes(5 * 16_384 + 77)
    sealed = io.BytesIO()
    encrypt_stream(io.BytesIO(data), sealed, store)
    message = sealed.getvalue()
    for _ in range(60):
        damaged = bytearray(message)
        if rng.random() < 0.5:
            del damaged[rng.randrange(len(message)) :]
        else:
            damaged[rng.randrange(320, len(message))] ^= 0x10
        out = io.BytesIO()
        with pytest.raises((DecryptionError, FormatError)):
            decrypt_stream(Pipe(bytes(damaged), rng.randrange(1, 40_000)), out, store)
        got = out.getvalue()
        assert data.startswith(got)
        assert len(got) % 16_384 == 0


def test_stream_passphrase_and_errors(store):
    sealed = io.BytesIO()
    encrypt_stream(io.BytesIO(b"data"), sealed, passphrase=b"secret")
    out = io.BytesIO()
    assert decrypt_stream(io.BytesIO(sealed.getvalue()), out, passphrase=b"secret") == 4
    assert out.getvalue() == b"data"
    for bad in (b"", b"SR", b"\x53\x52\x02\x02", b"no message at all", sealed.getvalue()[:100]):
        with pytest.raises((FormatError, KeyNotFoundError)):
            decrypt_stream(io.BytesIO(bad), io.BytesIO(), store)


# --- Memory and threads.

_PEAK = """
import sys, resource, strongroom
from file_help import open_store
with open_store(sys.argv[1]) as store:
    strongroom.encrypt_file(sys.argv[2], sys.argv[3] + ".warm", store)
    source, target = sys.argv[4], sys.argv[3]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    strongroom.encrypt_file(source, target, store)
    strongroom.verify_file(target, store)
    strongroom.decrypt_file(target, target + ".back", store)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_peak_memory(store, work, tmp_path):
    with (work / "sparse").open("wb") as file:
        file.truncate((8 << 30) if LONG else (256 << 20))
    (work / "small").write_bytes(b"x")
    child = run_python(_PEAK, tmp_path / "keys", work / "small", work / "sealed", work / "sparse")
    out, err = child.communicate(timeout=600)
    assert child.returncode == 0, err
    assert int(out) < 32 << 10, f"{out} KiB more than before"


def test_many_threads(store, work):
    rng = seeded()
    contents = [rng.randbytes(rng.randrange(700_000)) for _ in range(12)]
    failures: list[BaseException] = []

    def one(number: int) -> None:
        try:
            plain, sealed, back = (work / f"{kind}{number}" for kind in "psb")
            plain.write_bytes(contents[number])
            strongroom.encrypt_file(plain, sealed, store)
            strongroom.decrypt_file(sealed, back, store)
            assert back.read_bytes() == contents[number]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert not leftovers(work)


def test_in_a_forked_child(store, work, tmp_path):
    (work / "plain").write_bytes(bytes(2 << 20))
    strongroom.encrypt_file(work / "plain", work / "sealed", store)
    pid = os.fork()
    if pid == 0:
        try:
            from file_help import open_store

            with open_store(tmp_path / "keys") as own:
                strongroom.decrypt_file(work / "sealed", work / "back", own)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    assert (work / "back").read_bytes() == bytes(2 << 20)


def test_a_closed_store(store: KeyStore, work):
    (work / "plain").write_bytes(b"data")
    store.close()
    with pytest.raises(strongroom.KeyStoreError):
        strongroom.encrypt_file(work / "plain", work / "sealed", store)
    assert names(work) == ["plain"]
