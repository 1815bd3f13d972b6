"""Rewrapping: in place and anew, and that old or new key opens the file whatever happens."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import strongroom
from file_help import child_environment, leftovers, open_store, run_python, seeded, store, work
from strongroom import DecryptionError, FormatError, KeyNotFoundError, KeyStateError

__all__ = ["store", "work"]

SLOT = 120


def make(store, path: Path, data: bytes = b"data" * 1000, **settings: Any) -> None:
    plain = path.with_suffix(".plain")
    plain.write_bytes(data)
    strongroom.encrypt_file(plain, path, store, overwrite=True, **settings)
    plain.unlink()


def slots(path: Path) -> list[tuple[str, int, str | None]]:
    return [(slot.kind, slot.length, slot.key_id) for slot in strongroom.inspect(path).slots]


@pytest.mark.parametrize("copy", [False, True])
def test_rewrap(store, work, copy):
    path = work / "sealed"
    make(store, path)
    path.chmod(0o640)
    os.utime(path, ns=(1, 1))
    first = store.get_current_key().id
    assert slots(path) == [("keyset", SLOT, first), ("empty", SLOT, None)]
    before = path.read_bytes()
    assert strongroom.rewrap_file(path, store, copy=copy) is False
    assert path.read_bytes() == before
    assert path.stat().st_mtime_ns == 1

    inode = path.stat().st_ino
    keys = [first]
    for _ in range(3):
        keys.append(store.rotate().id)
        assert strongroom.rewrap_file(path, store, copy=copy) is True
        assert sorted(slots(path)) == [("empty", SLOT, None), ("keyset", SLOT, keys[-1])]
        assert strongroom.verify_file(path, store).key_id == keys[-1]
        assert strongroom.rewrap_file(path, store, copy=copy) is False
    assert (path.stat().st_ino == inode) is not copy
    # The chunks are the same, and nothing of the old slots is left.
    after = path.read_bytes()
    assert after[-4000:] == before[-4000:]
    assert before[24:100] not in after
    assert path.stat().st_mode & 0o777 == 0o640
    assert path.stat().st_mtime_ns != 1, "a backup would miss the new slot"
    for key in keys[:-1]:
        store.destroy_key(key, force=True)
    assert strongroom.verify_file(path, store) == 4000
    assert os.listdir(work) == ["sealed"]


def test_without_room_the_file_is_written_anew(store, work):
    path = work / "sealed"
    data = os.urandom(100_000)
    path.write_bytes(strongroom.VersionedEncryption(store).encrypt(data))
    assert [kind for kind, _, _ in slots(path)] == ["keyset"]
    inode = path.stat().st_ino
    new = store.rotate().id
    assert strongroom.rewrap_file(path, store) is True
    assert slots(path) == [("keyset", SLOT, new), ("empty", SLOT, None)]
    assert path.stat().st_ino != inode
    inode = path.stat().st_ino
    store.rotate()
    assert strongroom.rewrap_file(path, store) is True
    assert path.stat().st_ino == inode, "there is room now"
    with strongroom.open(path, "rb", store) as file:
        assert file.read() == data


def test_a_passphrase_stays(store, work):
    path = work / "sealed"
    make(store, path, passphrase="secret")
    new = store.rotate().id
    assert strongroom.rewrap_file(path, store) is True
    kinds = [kind for kind, _, _ in slots(path)]
    assert kinds == ["empty", "passphrase", "keyset"]
    assert strongroom.verify_file(path, passphrase="secret") == 4000
    assert strongroom.verify_file(path, store).key_id == new


def test_what_can_not_be_rewrapped(store, work):
    path = work / "sealed"
    store.create_keyset("other")
    make(store, path)
    store.rotate()
    whole = path.read_bytes()
    with pytest.raises(KeyNotFoundError):
        strongroom.rewrap_file(path, store, keyset="other")
    with pytest.raises(ValueError, match="name one"):
        strongroom.rewrap_file(path, store, keyset=None)
    assert path.read_bytes() == whole
    for bad in (b"", whole[:100], b"not a message", whole[:-4016]):
        path.write_bytes(bad)
        with pytest.raises(FormatError):
            strongroom.rewrap_file(path, store)
        assert path.read_bytes() == bad
    make(store, path, passphrase="secret")
    only = work / "only"
    (work / "plain").write_bytes(b"x")
    strongroom.encrypt_file(work / "plain", only, passphrase="secret")
    with pytest.raises(KeyNotFoundError, match="no slot of a keyset"):
        strongroom.rewrap_file(only, store)


def test_a_transplanted_slot_is_refused_and_nothing_is_emptied(store, work):
    one, two = work / "one", work / "two"
    make(store, one)
    make(store, two)
    slot = strongroom.inspect(one).slots[0]
    place = slice(slot.offset, slot.offset + 3 + slot.length)
    damaged = bytearray(one.read_bytes())
    damaged[place] = two.read_bytes()[place]
    one.write_bytes(damaged)
    store.rotate()
    with pytest.raises(DecryptionError):
        strongroom.rewrap_file(one, store)
    assert one.read_bytes() == damaged
    # Beside the true slot it is left alone, for it does not open.
    header = strongroom.inspect(two)
    message = bytearray(two.read_bytes())
    spare = header.slots[1]
    dead = bytes([1, 0, 120]) + message[8:24] + os.urandom(104)
    message[4] = 3
    message[spare.offset + 3 + spare.length : spare.offset + 3 + spare.length] = dead
    two.write_bytes(message)
    assert strongroom.rewrap_file(two, store) is True
    assert two.read_bytes().count(dead[3:]) == 1
    assert strongroom.verify_file(two, store) == 4000


# --- A compromised key.


def test_a_compromised_key_means_a_new_dek(store, work):
    path = work / "sealed"
    data = seeded().randbytes(3_000_000)
    make(store, path, data, associated_data=b"ad")
    before = strongroom.inspect(path)
    old = store.get_current_key().id
    new = store.rotate().id
    store.compromise_key(old)
    with pytest.raises(DecryptionError):
        strongroom.rewrap_file(path, store)  # Its associated data is needed now.
    assert strongroom.inspect(path) == before
    assert strongroom.rewrap_file(path, store, associated_data=b"ad") is True
    after = strongroom.inspect(path)
    assert after.salt != before.salt
    assert slots(path) == [("keyset", SLOT, new), ("empty", SLOT, None)]
    with strongroom.open(path, "rb", store, associated_data=b"ad") as file:
        assert file.read() == data
    assert strongroom.rewrap_file(path, store) is False


def test_a_compromised_key_and_a_passphrase(store, work):
    path = work / "sealed"
    make(store, path, passphrase="secret")
    old = store.get_current_key().id
    store.rotate()
    store.compromise_key(old)
    before = path.read_bytes()
    for wrong in (None, "other"):
        with pytest.raises(KeyNotFoundError, match="passphrase"):
            strongroom.rewrap_file(path, store, passphrase=wrong)
    assert path.read_bytes() == before
    assert strongroom.rewrap_file(path, store, passphrase="secret") is True
    assert strongroom.verify_file(path, passphrase="secret") == 4000
    assert strongroom.verify_file(path, store) == 4000
    assert os.listdir(work) == ["sealed"]


def test_a_suspended_key(store, work):
    path = work / "sealed"
    make(store, path)
    old = store.get_current_key().id
    store.rotate()
    store.suspend_key(old)
    with pytest.raises(KeyStateError):
        strongroom.rewrap_file(path, store)
    store.resume_key(old)
    assert strongroom.rewrap_file(path, store) is True


# --- Crashes.

_REWRAP = """
import sys, strongroom
from file_help import open_store
with open_store(sys.argv[1]) as store:
    store.get_current_key()
    for path in sys.argv[2:]:
        strongroom.rewrap_file(path, store)
"""


def strace(log: Path, *options: str, code: str = _REWRAP, arguments: list[object]) -> int:
    command = ["strace", "-f", "-o", log, *options, sys.executable, "-c", code]
    environment = child_environment()
    child = subprocess.run(
        [*map(str, command), *map(str, arguments)],
        env=environment,
        capture_output=True,
        check=False,
    )
    return child.returncode


def file_calls(log: Path, path: Path) -> list[tuple[str, int, bytes]]:
    """Writes to the file (offset, bytes) and syncs, in their order."""
    calls: list[tuple[str, int, bytes]] = []
    for line in log.read_text().splitlines():
        if f"<{path}>" not in line:
            continue
        if "pwrite64(" in line:
            # strace splits a call in two where another thread makes one meanwhile.
            match = re.search(r'pwrite64\(\d+<.*?>, "((?:\\x..)*)", \d+, (\d+)(?:\)| <unf)', line)
            assert match, line
            data = bytes.fromhex(match[1].replace("\\x", ""))
            calls.append(("write", int(match[2]), data))
        elif "sync" in line:
            calls.append(("sync", 0, b""))
    return calls


def test_every_crash_and_every_torn_write(store, work, tmp_path):
    """What the disk can hold at any moment, from the calls that were made: old or new opens it.

    Between two syncs each write may be there, not there, or there in part: its beginning, its end,
    or with garbage inside its range.
    """
    rng = seeded()
    path = work / "sealed"
    make(store, path)
    old = store.get_current_key().id
    before = path.read_bytes()
    new = store.rotate().id
    log = tmp_path / "log"
    trace = ("-y", "-x", "-s", "9999", "-e", "trace=pwrite64,fsync,fdatasync,syncfs")
    assert strace(log, *trace, arguments=[tmp_path / "keys", path]) == 0
    calls = file_calls(log, path)
    assert [name for name, _, _ in calls] == ["write", "sync"] * 4, calls

    durable = bytearray(before)
    opened: set[str | None] = set()
    again = 0
    for _, offset, data in calls[::2]:
        kept = bytes(durable[offset : offset + len(data)])
        torn = [data[:cut] + kept[cut:] for cut in range(len(data) + 1)]
        torn += [kept[:cut] + data[cut:] for cut in range(len(data) + 1)]
        garbage = []
        for _ in range(20):
            low = rng.randrange(len(data) + 1)
            high = rng.randrange(low, len(data) + 1)
            garbage.append(data[:low] + rng.randbytes(high - low) + data[high:])
        for number, state in enumerate(torn + garbage):
            crashed = bytearray(durable)
            crashed[offset : offset + len(data)] = state
            path.write_bytes(crashed)
            opened.add(strongroom.verify_file(path, store).key_id)
            if number % 9 != 0:
                continue
            again += 1
            strongroom.rewrap_file(path, store)
            assert strongroom.verify_file(path, store).key_id == new
            if number < len(torn):
                # Done again, it ends as if nothing had happened. (Garbage in place of a kind byte
                # is a slot of a kind that is not known, which is not ours to empty.)
                assert sorted(slots(path)) == [("empty", SLOT, None), ("keyset", SLOT, new)]
                spare = next(slot for slot in strongroom.inspect(path).slots if not slot.key_id)
                body = path.read_bytes()[spare.offset + 3 : spare.offset + 3 + SLOT]
                assert body == bytes(SLOT)
        durable[offset : offset + len(data)] = data
    assert opened == {old, new}
    assert again > 20
    # Count, lengths, prefix and chunks were never written.
    assert durable[5 + 2 * (3 + SLOT) :] == before[5 + 2 * (3 + SLOT) :]
    assert durable[4] == before[4]


@pytest.mark.parametrize("call", ["pwrite64", "fsync"])
@pytest.mark.parametrize("copy", [False, True])
def test_killed_and_done_again(store, work, tmp_path, call, copy):
    paths = [work / f"sealed{number}" for number in range(8)]
    for path in paths:
        make(store, path)
    store.rotate()
    code = _REWRAP.replace("path, store)", f"path, store, copy={copy})")
    for when in range(1, 6 if call == "pwrite64" else 2):
        path = paths[when]
        # Only calls on this file count: the key store has its own.
        options = ["-e", f"trace={call}", "-P", path, "-P", work, "-y"]
        options += ["-e", f"inject={call}:signal=KILL:when={when}"]
        strace(tmp_path / "log", *options, code=code, arguments=[tmp_path / "keys", path])
        assert strongroom.verify_file(path, store) == 4000
        strongroom.rewrap_file(path, store, copy=copy)
        assert strongroom.verify_file(path, store).key_id == store.get_current_key().id


@pytest.mark.parametrize("call", ["pwrite64", "fsync"])
def test_a_disk_that_fails(store, work, tmp_path, call):
    path = work / "sealed"
    code = _REWRAP.replace(
        "        strongroom.rewrap_file(path, store)",
        "        try:\n            strongroom.rewrap_file(path, store)\n"
        "        except OSError as error:\n            sys.exit(error.errno)",
    )
    for when in (1, 2, 3, 4) if call == "pwrite64" else (1,):
        make(store, path)
        store.rotate()
        options = ["-e", f"trace={call}", "-P", path]
        options += ["-e", f"inject={call}:error=EIO:when={when}"]
        arguments: list[object] = [tmp_path / "keys", path]
        assert strace(tmp_path / "log", *options, code=code, arguments=arguments) == errno.EIO
        assert strongroom.verify_file(path, store) == 4000
        assert strongroom.rewrap_file(path, store) is (when < 4)


# --- Others at the same time.

_MANY = """
import sys, strongroom
from file_help import open_store
with open_store(sys.argv[1]) as store:
    print("ready", flush=True)
    for _ in range(int(sys.argv[3])):
        key = store.rotate().id
        strongroom.rewrap_file(sys.argv[2], store)
"""


def test_rewraps_and_readers_at_once(store, work, tmp_path):
    path = work / "sealed"
    data = os.urandom(50_000)
    make(store, path, data)
    rewrappers = [run_python(_MANY, tmp_path / "keys", path, 25) for _ in range(3)]
    for child in rewrappers:
        assert child.stdout.readline() == "ready\n"
    reads = 0
    with open_store(tmp_path / "keys") as own:
        while any(child.poll() is None for child in rewrappers) or reads < 10:
            with strongroom.open(path, "rb", own) as file:
                assert file.read() == data
            reads += 1
    for child in rewrappers:
        _, err = child.communicate()
        assert child.returncode == 0, err
    store.refresh()
    strongroom.rewrap_file(path, store)
    assert [kind for kind, _, _ in sorted(slots(path))] == ["empty", "keyset"]
    print(f"{reads} reads")


def test_the_lock_is_waited_for(store, work):
    path = work / "sealed"
    make(store, path)
    store.rotate()
    with path.open("rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        done = threading.Event()

        def rewrap() -> None:
            strongroom.rewrap_file(path, store)
            done.set()

        thread = threading.Thread(target=rewrap)
        before = path.read_bytes()
        thread.start()
        assert not done.wait(0.3)
        assert path.read_bytes() == before
        fcntl.flock(holder, fcntl.LOCK_UN)
        assert done.wait(30)
        thread.join()


def test_ctrl_c_ends_the_wait_for_the_lock(store, work, tmp_path):
    path = work / "sealed"
    make(store, path)
    store.rotate()
    # What loads late has loaded by then: Python swallows an interrupt in an import's callback.
    ready = "    strongroom.rewrap_file\n    print('ready', flush=True)\n"
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        + _REWRAP.replace("    for path", f"{ready}    for path")
    )
    with path.open("rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        child = run_python(code, tmp_path / "keys", path)
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=30)
    assert "KeyboardInterrupt" in err
    assert not leftovers(work)


def test_a_file_that_was_replaced_while_its_lock_was_waited_for(store, work):
    """The one that has the name now is rewrapped, not the one that had it."""
    path = work / "sealed"
    make(store, path)
    make(store, work / "new", b"other" * 100)
    store.rotate()
    with path.open("rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        old = path.read_bytes()
        thread = threading.Thread(target=strongroom.rewrap_file, args=(path, store))
        thread.start()
        os.replace(work / "new", path)
        fcntl.flock(holder, fcntl.LOCK_UN)
        thread.join(30)
        holder.seek(0)
        assert holder.read() == old
    assert strongroom.verify_file(path, store) == 500
    assert strongroom.verify_file(path, store).key_id == store.get_current_key().id
