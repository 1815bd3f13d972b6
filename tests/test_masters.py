"""Master keys: in a file, by passphrase, and by URI."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import stat
import threading
from pathlib import Path

import pytest
from strongroom import (
    DecryptionError,
    FileMasterKey,
    FormatError,
    LimitError,
    MasterKeyError,
    MasterKeyProvider,
    MemoryLockedKey,
    PassphraseMasterKey,
    SecureBuffer,
    UnsupportedVersionError,
)
from strongroom.masters import open_master, passphrase, wrapped
from strongroom.masters.passphrase import Cost

PREFIX = b"strongroom-master-key-1 "
GOOD = PREFIX + b"0123456789abcdef" * 4 + b"\n"


@pytest.fixture
def key() -> MemoryLockedKey:
    return MemoryLockedKey.generate()


@pytest.fixture(params=["file", "passphrase"])
def master(request: pytest.FixtureRequest, tmp_path: Path) -> MasterKeyProvider:
    if request.param == "file":
        return FileMasterKey.create(tmp_path / "master.key")
    return PassphraseMasterKey("correct horse")


def _write(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def test_the_protocol(master: MasterKeyProvider, key: MemoryLockedKey) -> None:
    assert isinstance(master, MasterKeyProvider)
    assert len(bytes.fromhex(master.key_id)) == 16
    blob = master.wrap(key, key.key_id)
    assert type(blob) is bytes
    opened = master.unwrap(blob, key.key_id)
    assert isinstance(opened, MemoryLockedKey)
    assert opened.get() == key.get()
    assert blob != master.wrap(key, key.key_id)
    for other in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            other(master)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_wrapped_and_left_alone(master: MasterKeyProvider, kind: type) -> None:
    material = os.urandom(32)
    given = kind(material)
    blob = master.wrap(given, "00" * 16)
    assert bytes(given) == material
    assert master.unwrap(blob, "00" * 16).get() == material  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="32"):
        master.wrap(b"x" * 31, "00" * 16)  # type: ignore[arg-type]


def test_every_changed_bit_is_refused(master: MasterKeyProvider, key: MemoryLockedKey) -> None:
    blob = master.wrap(key, key.key_id)
    # A passphrase's cost and salt cost a run of Argon2id each to refuse: two of them will do.
    start = wrapped.CLEAR_LENGTH if isinstance(master, PassphraseMasterKey) else 0
    for position in [*range(8 * start, 8 * len(blob)), *([8 * 9, 8 * 24] if start else [])]:
        changed = bytearray(blob)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(DecryptionError):
            master.unwrap(bytes(changed), key.key_id)
    for length in range(0, len(blob), 7):
        with pytest.raises((DecryptionError, FormatError)):
            master.unwrap(blob[:length], key.key_id)
    with pytest.raises((DecryptionError, FormatError)):
        master.unwrap(blob + b"\0", key.key_id)
    with pytest.raises(DecryptionError):
        master.unwrap(blob, "00" * 16)


def test_kind_04(master: MasterKeyProvider, key: MemoryLockedKey) -> None:
    data = wrapped.wrap_with(master, key)
    mechanism = 5 if isinstance(master, PassphraseMasterKey) else 0
    assert data[:5] == b"SR\x02\x04" + bytes([mechanism])
    assert data[5:21].hex() == master.key_id
    assert len(data) == 21 + (129 if mechanism else 104)
    assert wrapped.parse(data) == (mechanism, master.key_id, data[21:])
    assert wrapped.unwrap_with(master, data, key.key_id).get() == key.get()


def test_kind_04_of_another_key(tmp_path: Path, key: MemoryLockedKey) -> None:
    master = FileMasterKey.create(tmp_path / "a")
    data = wrapped.wrap_with(master, key)
    with pytest.raises(DecryptionError):
        wrapped.unwrap_with(master, data, "00" * 16)
    # A key that was wrapped under an id that isn't its own: every master is checked for it.
    lie = "00" * 16
    blob = master.wrap(key, lie)
    with pytest.raises(MasterKeyError, match="another key"):
        wrapped.unwrap_with(master, data[:21] + blob, lie)
    with pytest.raises(MasterKeyError, match="wrong master"):
        wrapped.unwrap_with(FileMasterKey.create(tmp_path / "b"), data, key.key_id)
    with pytest.raises(MasterKeyError, match="not wrapped by a master like"):
        wrapped.unwrap_with(PassphraseMasterKey("x"), data, key.key_id)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", FormatError),
        (b"SR\x02\x04" + bytes(17), FormatError),
        (b"SX\x02\x04" + bytes(121), FormatError),
        (b"SR\x01\x04" + bytes(121), UnsupportedVersionError),
        (b"SR\x03\x04" + bytes(121), UnsupportedVersionError),
        (b"SR\x02\x01" + bytes(121), UnsupportedVersionError),
        (b"SR\x02\x04\x06" + bytes(120), UnsupportedVersionError),
        (b"SR\x02\x04\xff" + bytes(120), UnsupportedVersionError),
        (b"SR\x02\x04\x00" + bytes(119), FormatError),
        (b"SR\x02\x04\x00" + bytes(121), FormatError),
        (b"SR\x02\x04\x01" + bytes(16 + 61), FormatError),
        (b"SR\x02\x04\x04" + bytes(16 + 2049), FormatError),
        (b"SR\x02\x04\x05" + bytes(16 + 128), FormatError),
    ],
)
def test_what_is_no_wrapped_key(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        wrapped.parse(data)
    assert type(caught.value) is error


# Key files


def test_key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0)
    try:
        master = FileMasterKey.create(tmp_path / "master.key")
    finally:
        os.umask(before)
    path = tmp_path / "master.key"
    line = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert line.startswith(PREFIX)
    assert line.endswith(b"\n")
    material = bytes.fromhex(line.removeprefix(PREFIX).decode())
    assert len(material) == 32
    assert master.key_id == MemoryLockedKey(material).key_id
    assert (master.uri, master.path) == (f"file:{path}", str(path))
    monkeypatch.chdir(tmp_path)
    for again in (FileMasterKey("master.key"), open_master(master.uri), FileMasterKey(path)):
        assert (again.key_id, again.uri) == (master.key_id, master.uri)
    assert material.hex() not in repr(master)


def test_key_file_is_not_overwritten(tmp_path: Path) -> None:
    path = _write(tmp_path / "k", b"something")
    with pytest.raises(FileExistsError):
        FileMasterKey.create(path)
    assert path.read_bytes() == b"something"
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        FileMasterKey.create(link)
    with pytest.raises(FileNotFoundError):
        FileMasterKey.create(tmp_path / "none" / "k")


@pytest.mark.parametrize(
    "data", [GOOD, GOOD[:-1], PREFIX + b"0123456789ABCDEF" * 4 + b"\n"], ids=["", "no end", "upper"]
)
def test_key_files_that_are_read(tmp_path: Path, data: bytes) -> None:
    expected = MemoryLockedKey(bytes.fromhex("0123456789abcdef" * 4)).key_id
    assert FileMasterKey(_write(tmp_path / "k", data)).key_id == expected
    (tmp_path / "link").symlink_to("k")
    assert FileMasterKey(tmp_path / "link").key_id == expected
    (tmp_path / "k").chmod(0o400)
    assert FileMasterKey(tmp_path / "k").key_id == expected


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        GOOD[:-2],
        GOOD + b"\n",
        GOOD + GOOD,
        b" " + GOOD,
        GOOD[:-1] + b" \n",
        GOOD[:-1] + b"\r\n",
        GOOD[:-1] + b"0\n",
        GOOD.replace(b"key-1", b"key-2"),
        GOOD.replace(b" ", b"\t"),
        GOOD.replace(b"a", b"g", 5),
        PREFIX + b"0123456789abcde\xff" * 4 + b"\n",
        PREFIX + b"0x" + b"0" * 62 + b"\n",
        bytes(32),
        bytes(range(0x80, 0xA0)),
        b"0123456789abcdef" * 4 + b"\n",
    ],
)
def test_key_files_that_are_none(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(MasterKeyError, match="not a master key") as caught:
        FileMasterKey(_write(tmp_path / "k", data))
    assert not caught.value.retryable
    assert "0123" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o601, 0o620, 0o602, 0o644, 0o666, 0o677])
def test_a_loose_mode(tmp_path: Path, mode: int) -> None:
    with pytest.raises(MasterKeyError, match=f"mode {mode:04o}.*chmod 600"):
        FileMasterKey(_write(tmp_path / "k", GOOD, mode))


def test_another_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path / "k", GOOD)
    if os.getuid() == 0:
        os.chown(path, 65534, 65534)
    else:
        # Who isn't root can't give a file away: let the process be someone else.
        monkeypatch.setattr(os, "geteuid", lambda: 65533)
    with pytest.raises(MasterKeyError, match="belongs to user"):
        FileMasterKey(path)


def test_no_regular_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileMasterKey(tmp_path / "none")
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/null")):
        with pytest.raises(MasterKeyError, match="not a regular file"):
            FileMasterKey(path)
    with pytest.raises(TypeError):
        FileMasterKey(b"bytes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="UTF-8"):
        FileMasterKey(tmp_path / "\udcff")


# Passphrases


def test_the_passphrase_s_key_is_argon2id_s(key: MemoryLockedKey) -> None:
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    master = PassphraseMasterKey("p\u0061\u030a", memory_kib=70_000, passes=3, lanes=5)
    blob = master.wrap(key, key.key_id)
    assert blob[:9] == (70_000).to_bytes(4, "big") + (3).to_bytes(4, "big") + b"\x05"
    derived = Argon2id(salt=blob[9:25], length=32, iterations=3, lanes=5, memory_cost=70_000)
    # NFC joins the letter and its ring.
    material = derived.derive("p\u00e5".encode())
    assert MemoryLockedKey(material).key_id == master.key_id


def test_text_and_bytes_of_one_passphrase(key: MemoryLockedKey) -> None:
    blob = PassphraseMasterKey("å").wrap(key, key.key_id)
    for same in ("a\u030a", "å".encode(), bytearray("å".encode()), memoryview("å".encode())):
        assert PassphraseMasterKey(same).unwrap(blob, key.key_id).get() == key.get()
    with pytest.raises(DecryptionError):
        PassphraseMasterKey("a").unwrap(blob, key.key_id)


def test_a_caller_s_passphrase_is_copied() -> None:
    given = bytearray(b"correct horse")
    master = PassphraseMasterKey(given)
    given[:] = bytes(13)
    assert master._passphrase.read() == b"correct horse"


@pytest.mark.parametrize("given", ["", b"", "x" * 4097, "ä" * 2049, b"x" * 4097, "\ud800"])
def test_passphrases_that_are_none(given: str | bytes) -> None:
    with pytest.raises(ValueError, match="passphrase") as caught:
        PassphraseMasterKey(given)
    assert "xxx" not in str(caught.value)


@pytest.mark.parametrize("given", [None, 5, ["x"]])
def test_no_passphrase_at_all(given: object) -> None:
    with pytest.raises(TypeError, match="str or bytes"):
        PassphraseMasterKey(given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "cost",
    [
        {"memory_kib": 65_535},
        {"passes": 2},
        {"lanes": 3},
        {"memory_kib": 2**20 + 1},
        {"passes": 17},
        {"lanes": 17},
        {"memory_kib": 2**20, "passes": 5},
        {"memory_kib": 0},
        {"lanes": -1},
    ],
)
def test_costs_that_are_not_written(cost: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="passphrase"):
        PassphraseMasterKey("x", **cost)


@pytest.mark.parametrize(
    ("memory_kib", "passes", "lanes"),
    [
        (8, 1, 0),
        (8 * 17, 1, 17),
        (8, 0, 1),
        (8, 17, 1),
        (7, 1, 1),
        (127, 1, 16),
        (2**20 + 1, 1, 1),
        (2**32 - 1, 1, 1),
        (2**20, 5, 1),
        (2**20, 2**32 - 1, 1),
    ],
)
def test_costs_that_are_not_read(
    key: MemoryLockedKey, memory_kib: int, passes: int, lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hash_nothing(*_: object) -> None:
        raise AssertionError("hashed")

    monkeypatch.setattr(passphrase, "_derive", hash_nothing)
    clear = memory_kib.to_bytes(4, "big") + passes.to_bytes(4, "big") + bytes([lanes]) + bytes(16)
    master = PassphraseMasterKey("x")
    with pytest.raises(LimitError):
        master.unwrap(clear + bytes(104), key.key_id)
    with pytest.raises(LimitError):
        master.identify(clear + bytes(104))


@pytest.mark.parametrize(("memory_kib", "passes", "lanes"), [(8, 1, 1), (128, 16, 16)])
def test_small_costs_are_read(
    key: MemoryLockedKey, memory_kib: int, passes: int, lanes: int
) -> None:
    master = PassphraseMasterKey("x")
    master._own = Cost(memory_kib, passes, lanes, os.urandom(16))
    blob = master.wrap(key, key.key_id)
    assert PassphraseMasterKey("x").unwrap(blob, key.key_id).get() == key.get()


def test_the_largest_costs_are_within_the_limits() -> None:
    Cost(2**20, 4, 16, bytes(16)).check()
    Cost(2**18, 16, 1, bytes(16)).check()


def test_argon2id_runs_once_a_salt(key: MemoryLockedKey, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Cost] = []
    derive = passphrase._derive

    def counted(phrase: SecureBuffer, cost: Cost) -> MemoryLockedKey:
        runs.append(cost)
        return derive(phrase, cost)

    monkeypatch.setattr(passphrase, "_derive", counted)
    blob = PassphraseMasterKey("x").wrap(key, key.key_id)
    assert len(runs) == 1
    runs.clear()
    master = PassphraseMasterKey("x")
    threads = [threading.Thread(target=master.unwrap, args=(blob, key.key_id)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # What it wraps next goes under the salt that is there.
    assert master.wrap(key, key.key_id)[:25] == blob[:25]
    assert master.key_id == master.identify(blob)
    assert len(runs) == 1


def test_a_passphrase_in_a_forked_child_is_closed_without_waiting(key: MemoryLockedKey) -> None:
    master = PassphraseMasterKey("correct horse")
    # As if another thread were in Argon2id when the process forks.
    with master._lock:
        child = os.fork()
        if child == 0:
            try:
                signal.alarm(10)
                with pytest.raises(MasterKeyError, match="forked"):
                    master.wrap(key, key.key_id)
                master.close()
                os._exit(7)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert len(master.wrap(key, key.key_id)) == 129


def test_a_closed_passphrase(key: MemoryLockedKey) -> None:
    master = PassphraseMasterKey("correct horse")
    blob = master.wrap(key, key.key_id)
    kept = master._passphrase
    master.close()
    master.close()
    assert kept.closed
    for call in (
        lambda: master.key_id,
        lambda: master.wrap(key, key.key_id),
        lambda: master.unwrap(blob, key.key_id),
    ):
        with pytest.raises(MasterKeyError, match="closed"):
            call()
    assert "horse" not in repr(master)


# URIs


def test_open_master(tmp_path: Path, key: MemoryLockedKey) -> None:
    made = FileMasterKey.create(tmp_path / "k")
    assert open_master(made.uri).key_id == made.key_id
    phrase = open_master("passphrase:", passphrase="x")
    blob = phrase.wrap(key, key.key_id)
    assert open_master(phrase.uri, passphrase=b"x").unwrap(blob, key.key_id)


@pytest.mark.parametrize(
    "uri", ["", "file", "file:", "passphrase", "passphrase:secret", "/a/b", "http://secret", "x:y"]
)
def test_uris_that_are_none(uri: str) -> None:
    with pytest.raises(ValueError, match="no master") as caught:
        open_master(uri, passphrase="hidden")
    # Someone may write a passphrase there.
    assert "secret" not in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_secrets_that_do_not_fit(tmp_path: Path) -> None:
    made = FileMasterKey.create(tmp_path / "k")
    with pytest.raises(TypeError, match="needs passphrase="):
        open_master("passphrase:")
    with pytest.raises(TypeError, match="no use for passphrase="):
        open_master(made.uri, passphrase="x")
    with pytest.raises(TypeError, match="no use for pin="):
        open_master("passphrase:", passphrase="x", pin="1")
    with pytest.raises(TypeError):
        open_master(None)  # type: ignore[arg-type]
