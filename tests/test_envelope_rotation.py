"""R12: a keyset is rotated and its envelopes rewrapped, killed anywhere: every DEK has a KEK."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import strongroom
from keystore_help import seeded
from strongroom import EnvelopeEncryption, FileMasterKey, KeyStore

WORK = """
import sys
from pathlib import Path
import strongroom
from strongroom import FileMasterKey, KeyStore
folder = Path(sys.argv[1])
with KeyStore.open(f"sqlite:///{folder}/keys.db", FileMasterKey(folder / "master.key")) as store:
    if sys.argv[2] == "rotate":
        store.rotate()
    print("rotated", flush=True)
    for path in sorted((folder / "files").iterdir()):
        print(path.name, strongroom.rewrap_file(path, store), flush=True)
"""


class Files:
    """A store and many files under its first key."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.count = count
        master = FileMasterKey.create(folder / "master.key")
        self.store = KeyStore.create(f"sqlite:///{folder}/keys.db", master)
        (folder / "files").mkdir()
        for number in range(count):
            (folder / "plain").write_bytes(b"%d" % number)
            path = folder / "files" / f"{number:04}"
            strongroom.encrypt_file(folder / "plain", path, self.store)

    def run(self, what: str, lines: int | None = None) -> list[str]:
        """Rewrap all files in a process of its own, killed after so many lines, or never."""
        command = [sys.executable, "-c", WORK, str(self.folder), what]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            if lines is None:
                said = child.stdout.read().splitlines()
                assert child.wait() == 0
                return said
            said = [child.stdout.readline().strip() for _ in range(lines)]
            child.kill()
            return said + child.stdout.read().splitlines()

    def all_open(self) -> dict[str | None, int]:
        """Look that every file opens; how many by which key."""
        self.store.refresh()
        found: dict[str | None, int] = {}
        for number, path in enumerate(sorted((self.folder / "files").iterdir())):
            strongroom.decrypt_file(path, self.folder / "again", self.store, overwrite=True)
            assert (self.folder / "again").read_bytes() == b"%d" % number
            key_id = strongroom.verify_file(path, self.store).key_id
            found[key_id] = found.get(key_id, 0) + 1
        assert sum(found.values()) == self.count
        return found


@pytest.fixture
def made(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Files]:
    files = Files(tmp_path, getattr(request, "param", 40))
    yield files
    files.store.close()


def _interrupted(files: Files, kills: int, generator: random.Random) -> None:
    first = files.store.get_current_key().id
    # At once after the new KEK was stored, and then further and further on.
    files.run("rotate", 1)
    new = files.store
    new.refresh()
    assert len(new.list_keys()) == 2
    for _ in range(kills):
        files.run("go on", generator.randrange(1, files.count))
        assert files.all_open().keys() <= {first, new.get_current_key().id}
    said = files.run("go on")
    assert len(said) == files.count + 1
    assert files.all_open() == {new.get_current_key().id: files.count}
    # Done again, it changes nothing.
    before = {path.name: path.read_bytes() for path in (files.folder / "files").iterdir()}
    assert {line.split()[1] for line in files.run("go on")[1:]} == {"False"}
    assert {path.name: path.read_bytes() for path in (files.folder / "files").iterdir()} == before
    # Nothing needs the old KEK any more.
    new.destroy_key(first, force=True)
    files.all_open()


def test_killed_while_rewrapping(made: Files) -> None:
    _interrupted(made, 3, seeded())


@pytest.mark.sweep
@pytest.mark.parametrize("made", [1000], indirect=True)
def test_killed_while_rewrapping_a_thousand(made: Files) -> None:
    _interrupted(made, 50, seeded())


def test_messages_in_a_database_of_the_caller_s(tmp_path: Path) -> None:
    """Values instead of files: after each step of a rotation every one of them opens."""
    master = FileMasterKey.create(tmp_path / "master.key")
    with KeyStore.create(f"sqlite:///{tmp_path}/keys.db", master) as store:
        envelopes = EnvelopeEncryption(None, store)
        messages = [envelopes.encrypt(b"%d" % number) for number in range(1000)]
        store.rotate()
        for number in range(1000):
            messages[number] = envelopes.rewrap(messages[number])
            if number % 100 == 0:
                assert [envelopes.decrypt(m) for m in messages] == [b"%d" % n for n in range(1000)]
        assert [envelopes.rewrap(message) for message in messages] == messages
