"""R20, Tink's rotation matrix: what each state of a keyset opens, for every store and interface.

| written in, by | 1: old | 2: old, new added | 3: new | 4: old suspended |
|---|---|---|---|---|
| the old key | opens | opens | opens | no |
| the new key | no | opens | opens | opens |
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import strongroom
from cli_runner import Cli
from keystore_help import PLACES, Place
from strongroom import (
    EnvelopeEncryption,
    KeyNotFoundError,
    KeyStateError,
    KeyStore,
    VersionedEncryption,
)
from strongroom.keys.base import _SEEN

STATES = ("old", "old, new added", "new", "old suspended")
OPENS = {  # by the key that wrote: in which states
    "old": (True, True, True, False),
    "new": (False, True, True, True),
}


class Four:
    """One keyset in four states at once: four stores of one root."""

    def __init__(self, place: Place, kind: type[Place]) -> None:
        self.master = place.master
        self.urls = []
        with place.create() as store:
            old = store.get_current_key()
            for number in range(4):
                if number == 1:
                    new = store.generate_new_key()
                elif number == 2:
                    store.activate_key(new.id)
                elif number == 3:
                    store.suspend_key(old.id)
                store.backup(place.directory / f"{number}.backup")
                (place.directory / str(number)).mkdir()
                other = kind(place.directory / str(number))
                KeyStore.restore(place.directory / f"{number}.backup", other.url, self.master)
                self.urls.append(other.url)
            self.root = store._root_id

    def opened(self, number: int) -> KeyStore:
        _SEEN.forget(self.root)  # each is older or newer than the last
        return KeyStore.open(self.urls[number], self.master)


@pytest.fixture(scope="module", params=PLACES, ids=lambda kind: kind.kind)
def four(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Four:
    return Four(request.param(tmp_path_factory.mktemp("four")), request.param)


Write = Callable[[KeyStore, Path], object]
Read = Callable[[KeyStore, Path, object], object]


def _file_write(store: KeyStore, folder: Path) -> object:
    (folder / "plain").write_bytes(b"value")
    strongroom.encrypt_file(folder / "plain", folder / "sealed", store, overwrite=True)
    return (folder / "sealed").read_bytes()


def _file_read(store: KeyStore, folder: Path, message: object) -> object:
    assert isinstance(message, bytes)
    (folder / "sealed").write_bytes(message)
    strongroom.decrypt_file(folder / "sealed", folder / "opened", store, overwrite=True)
    return (folder / "opened").read_bytes()


LONG = bytes(70_000)
INTERFACES: dict[str, tuple[Write, Read]] = {
    "record": (
        lambda s, _: VersionedEncryption(s).encrypt(b"value"),
        lambda s, _, m: VersionedEncryption(s).decrypt(m),  # type: ignore[arg-type]
    ),
    "many": (
        lambda s, _: VersionedEncryption(s).encrypt_many([b"value"])[0],
        lambda s, _, m: VersionedEncryption(s).decrypt_many([m])[0],  # type: ignore[list-item]
    ),
    "envelope": (
        lambda s, _: VersionedEncryption(s).encrypt(LONG),
        lambda s, _, m: VersionedEncryption(s).decrypt(m),  # type: ignore[arg-type]
    ),
    "EnvelopeEncryption": (
        lambda s, _: EnvelopeEncryption(None, s).encrypt(b"value"),
        lambda s, _, m: EnvelopeEncryption(None, s).decrypt(m),  # type: ignore[arg-type]
    ),
    "file": (_file_write, _file_read),
}


@pytest.mark.parametrize("interface", INTERFACES)
def test_matrix(four: Four, tmp_path: Path, interface: str) -> None:
    write, read = INTERFACES[interface]
    messages = []
    for number in range(4):
        with four.opened(number) as store:
            messages.append(write(store, tmp_path))
    writers = ("old", "old", "new", "new")
    for number, state in enumerate(STATES):
        with four.opened(number) as store:
            for message, writer, written in zip(messages, writers, STATES, strict=True):
                what = f"written in {written!r}, opened in {state!r}"
                if OPENS[writer][number]:
                    assert read(store, tmp_path, message) in (b"value", LONG), what
                else:
                    with pytest.raises((KeyNotFoundError, KeyStateError)):
                        read(store, tmp_path, message)


@pytest.fixture
def cli(four: Four, tmp_path: Path) -> Cli:
    made = Cli(tmp_path)
    made.env["STRONGROOM_MASTER"] = four.master.uri
    return made


def test_matrix_on_the_command_line(four: Four, cli: Cli) -> None:
    (cli.folder / "plain").write_bytes(b"value")
    for number in range(4):
        cli.env["STRONGROOM_STORE"] = four.urls[number]
        cli.ok("encrypt", "plain", "-o", f"sealed{number}")
    for number in range(4):
        cli.env["STRONGROOM_STORE"] = four.urls[number]
        for written, writer in enumerate(("old", "old", "new", "new")):
            result = cli.run("decrypt", f"sealed{written}", "-o", "-")
            opens = OPENS[writer][number]
            assert (result.code == 0) == opens, (written, number, result.stderr)
            assert result.code in (0, 10, 15)
            assert result.stdout == (b"value" if opens else b"")
