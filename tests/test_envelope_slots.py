"""Several slots on one file: added, removed, by many at once, and killed in between."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_runner import Cli
from strongroom import (
    DecryptionError,
    FileMasterKey,
    KeyNotFoundError,
    KeyStore,
    LimitError,
    MasterKeyError,
    decrypt_file,
    encrypt_file,
    inspect,
    rewrap_file,
    verify_file,
)
from strongroom.cli import exitcodes
from strongroom.files import add_slot, remove_slots, rewrap_master_slots

TEXT = os.urandom(100_000)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KeyStore]:
    master = FileMasterKey.create(tmp_path / "master.key")
    with KeyStore.create(f"sqlite:///{tmp_path / 'keys.db'}", master) as store:
        store.create_keyset("other")
        yield store


@pytest.fixture
def file(store: KeyStore, tmp_path: Path) -> Path:
    (tmp_path / "plain").write_bytes(TEXT)
    encrypt_file(tmp_path / "plain", tmp_path / "file.srm", store, associated_data=b"context")
    return tmp_path / "file.srm"


@pytest.fixture
def other(tmp_path: Path) -> FileMasterKey:
    return FileMasterKey.create(tmp_path / "other.key")


def kinds(path: Path) -> list[str]:
    return [slot.kind for slot in inspect(path).slots]


def body(path: Path) -> bytes:
    data = path.read_bytes()
    last = inspect(data).slots[-1]
    return data[last.offset + 3 + last.length :]


def opens(path: Path, *arguments: object, **options: object) -> bool:
    target = path.with_name("opened")
    options = {"associated_data": b"context", "overwrite": True, **options}
    decrypt_file(path, target, *arguments, **options)  # type: ignore[arg-type]
    return target.read_bytes() == TEXT


def test_each_slot_alone_opens(store: KeyStore, file: Path, other: FileMasterKey) -> None:
    before = body(file)
    assert add_slot(file, store, new_keyset="other")
    assert kinds(file) == ["keyset", "keyset"], "the empty slot was filled"
    assert not add_slot(file, store, new_keyset="other")
    assert add_slot(file, store, new_master=other)
    assert add_slot(file, master=other, new_passphrase="correct horse")
    assert kinds(file) == ["keyset", "keyset", "master", "passphrase"]
    assert body(file) == before
    count = verify_file(file, store, associated_data=b"context", master=other)
    assert count.keyset == "default"
    for arguments, options in (
        ((store,), {}),
        ((store,), {"keyset": "other"}),
        ((), {"master": other}),
        ((), {"passphrase": "correct horse"}),
    ):
        assert opens(file, *arguments, **options)
    with pytest.raises(DecryptionError):
        opens(file, master=other, associated_data=b"another")
    # One by one they go; what opens the file is never the last to.
    assert remove_slots(file, store, key_id=store.get_current_key("other").id) == 1
    with pytest.raises(KeyNotFoundError):
        opens(file, store, keyset="other")
    assert remove_slots(file, passphrase="correct horse", key_id=store.get_current_key().id) == 1
    assert remove_slots(file, master=other, key_id=None) == 1
    assert kinds(file) == ["empty", "empty", "master", "empty"]
    assert opens(file, master=other)
    [kek] = [slot.key_id for slot in inspect(file).slots if slot.kind == "master"]
    whole = file.read_bytes()
    with pytest.raises(KeyNotFoundError):
        remove_slots(file, master=other, key_id=kek)
    assert file.read_bytes() == whole
    # Emptied bodies are wiped, and filled again.
    slots = inspect(file).slots
    assert all(
        not any(whole[slot.offset : slot.offset + 1] + whole[slot.offset + 3 :][: slot.length])
        for slot in slots
        if slot.kind == "empty"
    )
    assert add_slot(file, store, master=other, new_keyset="default")
    assert kinds(file) == ["keyset", "empty", "master", "empty"]
    store.rotate()
    assert rewrap_file(file, store)
    assert opens(file, store)
    assert opens(file, master=other)
    assert body(file) == before


def test_what_is_refused(store: KeyStore, file: Path, other: FileMasterKey, tmp_path: Path) -> None:
    whole = file.read_bytes()
    for bad in ({}, {"new_keyset": "other", "new_passphrase": "x"}):
        with pytest.raises(ValueError, match="one of new_keyset"):
            add_slot(file, store, **bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="give a key store"):
        add_slot(file, new_passphrase="x")
    with pytest.raises(KeyNotFoundError):
        add_slot(file, store, new_keyset="nothing")
    with pytest.raises(KeyNotFoundError):
        add_slot(file, store, keyset="other", new_passphrase="x")
    with pytest.raises(KeyNotFoundError, match="no slot"):
        remove_slots(file, store, key_id="00" * 16)
    with pytest.raises(KeyNotFoundError, match="passphrase"):
        remove_slots(file, store, key_id=None)
    with pytest.raises(KeyNotFoundError):
        remove_slots(file, store, key_id=store.get_current_key().id)
    assert file.read_bytes() == whole
    for _ in range(15):
        assert add_slot(file, store, new_master=other)
    assert len(kinds(file)) == 16
    assert "empty" not in kinds(file)
    with pytest.raises(LimitError):
        add_slot(file, store, new_master=other)
    assert opens(file, store)


def test_a_master_out_of_reach(store: KeyStore, file: Path, other: FileMasterKey) -> None:
    class Gone:
        key_id, uri, mechanism = other.key_id, other.uri, other.mechanism
        wrap = other.wrap

        def unwrap(self, blob: bytes, context: str) -> bytes:
            raise MasterKeyError("gone", retryable=True)

    add_slot(file, store, new_master=other)
    assert opens(file, store, master=Gone())
    remove_slots(file, master=other, key_id=store.get_current_key().id)
    with pytest.raises(MasterKeyError, match="gone"):
        opens(file, store, master=Gone())


WORK = """
import sys
from strongroom import FileMasterKey, KeyStore, rewrap_file
from strongroom.files import add_slot, remove_slots, rewrap_master_slots
folder, number = sys.argv[1], int(sys.argv[2])
store = KeyStore.open(f"sqlite:///{folder}/keys.db", FileMasterKey(f"{folder}/master.key"))
mine = f"keyset {number}"
store.create_keyset(mine)
for _ in range(10):
    add_slot(f"{folder}/file.srm", store, new_keyset=mine)
    store.rotate(mine)
    rewrap_file(f"{folder}/file.srm", store, keyset=mine)
    if number % 2:
        remove_slots(f"{folder}/file.srm", store, key_id=store.get_current_key(mine).id)
"""


def test_eight_processes_on_one_file(store: KeyStore, file: Path, tmp_path: Path) -> None:
    workers = [
        subprocess.Popen([sys.executable, "-c", WORK, str(tmp_path), str(number)])
        for number in range(8)
    ]
    assert [worker.wait(120) for worker in workers] == [0] * 8
    store.refresh()
    assert opens(file, store)
    for number in range(8):
        if number % 2:
            with pytest.raises(KeyNotFoundError):
                opens(file, store, keyset=f"keyset {number}")
        else:
            assert opens(file, store, keyset=f"keyset {number}")


KILLED = """
import sys
from strongroom import FileMasterKey, KeyStore
from strongroom.files import add_slot, remove_slots, rewrap_master_slots
folder, work = sys.argv[1:]
master = FileMasterKey(f"{folder}/master.key")
store = KeyStore.open(f"sqlite:///{folder}/keys.db", master, read_only=True)
file = f"{folder}/file.srm"
if work == "add":
    add_slot(file, store, new_keyset="other")
else:
    remove_slots(file, store, key_id=store.get_current_key("other").id)
"""


@pytest.mark.parametrize("work", ["add", "remove"])
def test_killed_between_the_writes(store: KeyStore, file: Path, tmp_path: Path, work: str) -> None:
    if work == "remove":
        add_slot(file, store, new_keyset="other")
    start = file.read_bytes()
    states = set()
    # Each fsync is its own thread's first.
    for call, moments in (("pwrite64", (1, 2)), ("fsync", (1,))):
        for when in moments:
            file.write_bytes(start)
            killed = subprocess.run(
                [
                    *("strace", "-f", "-o", os.devnull, "-e", f"trace={call}"),
                    *("-e", f"inject={call}:signal=KILL:when={when}"),
                    *(sys.executable, "-c", KILLED, str(tmp_path), work),
                ],
                capture_output=True,
                timeout=60,
                check=False,
            )
            assert killed.returncode != 0, "it was not killed"
            states.add(file.read_bytes())
            assert opens(file, store)
            # Done again, it comes to its end, whatever was left.
            if work == "add":
                add_slot(file, store, new_keyset="other")
                assert opens(file, store, keyset="other")
            else:
                # None is left where the kill came after its kind byte.
                with contextlib.suppress(KeyNotFoundError):
                    remove_slots(file, store, key_id=store.get_current_key("other").id)
                with pytest.raises(KeyNotFoundError):
                    opens(file, store, keyset="other")
            assert opens(file, store)
    assert len(states) > 1, "the kills came at different moments"


def test_by_the_command_line(tmp_path: Path) -> None:
    cli = Cli(tmp_path).init()
    FileMasterKey.create(tmp_path / "other.key")
    (tmp_path / "plain").write_bytes(TEXT)
    (tmp_path / "phrase").write_text("correct horse\n")
    cli.ok("encrypt", "plain", "-o", "file.srm")
    cli.ok("keys", "new", "--keyset", "other", "--create")
    cli.ok("slots", "add", "file.srm", "--for-keyset", "other")
    [again] = cli.ok("slots", "add", "file.srm", "--for-keyset", "other", "--json").objects
    assert again["status"] == "current"
    cli.ok("slots", "add", "file.srm", "--for-master", "file:other.key")
    by_master = ("--no-store", "--with-master", "file:other.key")
    cli.ok("slots", "add", "file.srm", "--for-passphrase-file", "phrase", *by_master)
    assert kinds(tmp_path / "file.srm") == ["keyset", "keyset", "master", "passphrase"]
    assert cli.ok("decrypt", "file.srm", "--keyset", "other", "-o", "-").stdout == TEXT
    cli.ok("slots", "remove", "file.srm", "--key", cli.current_key("other"))
    cli.ok("slots", "remove", "file.srm", "--key", cli.current_key(), *by_master)
    cli.fails(exitcodes.NOT_FOUND, "decrypt", "file.srm", "-o", "-")
    with_phrase = ("--no-store", "--with-passphrase-file", "phrase")
    cli.fails(exitcodes.NOT_FOUND, "slots", "remove", "file.srm", "--key", "0" * 32, *with_phrase)
    cli.ok("slots", "remove", "file.srm", "--passphrases", *by_master)
    cli.fails(exitcodes.USAGE, "slots", "add", "file.srm")
    cli.fails(exitcodes.USAGE, "slots", "remove", "file.srm")
    cli.fails(exitcodes.NOT_FOUND, "slots", "add", "nothing.srm", "--for-keyset", "other")


def test_a_new_kek_in_place_of_a_master_s(
    store: KeyStore, file: Path, other: FileMasterKey, tmp_path: Path
) -> None:
    before = body(file)
    third = FileMasterKey.create(tmp_path / "third.key")
    with pytest.raises(KeyNotFoundError, match="no slot of the master"):
        rewrap_master_slots(file, other)
    assert add_slot(file, store, new_master=other)
    assert add_slot(file, store, new_master=third)
    keks = {slot.key_id for slot in inspect(file).slots if slot.kind == "master"}
    assert rewrap_master_slots(file, other) == 1
    again = {slot.key_id for slot in inspect(file).slots if slot.kind == "master"}
    assert len(keks & again) == 1, "the third's is left alone"
    assert opens(file, master=other)
    assert opens(file, master=third)
    # To another master: the old one opens it no more.
    assert rewrap_master_slots(file, third, new_master=other) == 1
    assert opens(file, master=other)
    with pytest.raises(KeyNotFoundError):
        opens(file, master=third)
    assert opens(file, store)
    # As after a crash between the two steps: all of the old ones go.
    assert add_slot(file, store, new_master=third)
    assert rewrap_master_slots(file, other, new_master=third) == 2
    assert kinds(file).count("master") == 2
    assert body(file) == before


def test_masters_of_files_on_the_command_line(tmp_path: Path) -> None:
    cli = Cli(tmp_path).init()
    for name in ("other", "third"):
        FileMasterKey.create(tmp_path / f"{name}.key")
    (tmp_path / "plain").write_bytes(TEXT)
    cli.ok("encrypt", "plain", "-o", "file.srm")
    cli.ok("slots", "add", "file.srm", "--for-master", "file:other.key")
    cli.store.unlink()  # the file lives with nothing but its master
    with_other = ("--with-master", "file:other.key")
    cli.ok("decrypt", "file.srm", "-o", "again", *with_other)
    assert (tmp_path / "again").read_bytes() == TEXT
    cli.ok("verify", "file.srm", *with_other)
    said = cli.ok("slots", "rewrap", "file.srm", *with_other, "--to-master", "file:third.key")
    assert "1 slot replaced" in said.text
    cli.fails(exitcodes.NOT_FOUND, "decrypt", "file.srm", "-o", "x", *with_other)
    cli.ok("verify", "file.srm", "--with-master", "file:third.key")
    cli.fails(exitcodes.USAGE, "decrypt", "file.srm", "-o", "-", *with_other)
    cli.fails(exitcodes.USAGE, "verify", "-", *with_other)
    cli.fails(exitcodes.USAGE, "verify", "-r", ".", *with_other)
    cli.fails(exitcodes.NOT_FOUND, "verify", "file.srm", "--with-master", "file:none.key")
