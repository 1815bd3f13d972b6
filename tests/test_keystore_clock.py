"""R11: clocks set wrong. Decrypting depends on none; keys are in order by their numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from keystore_help import PLACES, Place, seeded
from strongroom import EnvelopeEncryption, KeyStore, VersionedEncryption
from strongroom.keys import Policy

LIBRARY = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
SHIFTS = {
    "ten years back": "-3650d",
    "a hundred years on": "+36500d",
    "2038": "@2038-01-19 03:14:05",
    "2106": "@2106-02-07 06:28:14",
    "before 1970": "@1969-12-31 23:59:00",
}

WORK = """
import sys, time
from pathlib import Path
from strongroom import FileMasterKey, KeyStore, VersionedEncryption, EnvelopeEncryption
url, key_file, folder = sys.argv[1:]
folder = Path(folder)
with KeyStore.open(url, FileMasterKey(key_file)) as store:
    cipher, envelopes = VersionedEncryption(store), EnvelopeEncryption(None, store)
    for name in sorted(folder.glob("record*")):
        assert cipher.decrypt(name.read_bytes()) == b"value"
    for name in sorted(folder.glob("envelope*")):
        assert envelopes.decrypt(name.read_bytes()) == b"value"
    number = len(list(folder.glob("record*")))
    key = store.rotate()
    waiting = store.generate_new_key()
    store.activate_key(waiting.id)
    (folder / f"record{number}").write_bytes(cipher.encrypt(b"value"))
    (folder / f"envelope{number}").write_bytes(envelopes.encrypt(b"value"))
    old = [k for k in store.list_keys() if k.state == "deactivated"][0]
    store.suspend_key(old.id)
    store.resume_key(old.id)
    spare = store.generate_new_key()
    store.schedule_destruction(spare.id)
    store.due(), store.stats(), store.metrics(), store.backups()
    store.check()
    assert store.get_current_key().id == waiting.id
    print(time.strftime("%Y", time.gmtime()), repr(store.get_current_key().since))
"""


def _run(place: Place, folder: Path, shift: str | None) -> str:
    environment = dict(os.environ)
    if shift is not None:
        assert LIBRARY.exists(), "the Debian package faketime is missing"
        environment |= {"LD_PRELOAD": str(LIBRARY), "FAKETIME": shift, "TZ": "UTC"}
    command = [sys.executable, "-c", WORK, place.url, str(place.master.path), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", PLACES, ids=lambda kind: kind.kind)
def test_clocks_set_wrong(kind: type[Place], tmp_path: Path) -> None:
    """Each process has its own idea of the time, and reads what the others wrote."""
    place = kind(tmp_path)
    place.create().close()
    folder = tmp_path / "messages"
    folder.mkdir()
    generator = seeded()
    shifts = list(SHIFTS.values())
    generator.shuffle(shifts)
    said = [_run(place, folder, shift) for shift in (None, *shifts, None)]
    years = {one.split()[0] for one in said}
    assert {"2038", "2106", "1969"} <= years, "the clock was not set"
    with place.open() as store:
        keys = [key for key in store.list_keys() if key.state != "pre-active"]
        assert [key.generation for key in keys] == sorted(key.generation for key in keys)
        assert keys[-1] == store.get_current_key()
        cipher, envelopes = VersionedEncryption(store), EnvelopeEncryption(None, store)
        for number in range(len(said)):
            assert cipher.decrypt((folder / f"record{number}").read_bytes()) == b"value"
            assert envelopes.decrypt((folder / f"envelope{number}").read_bytes()) == b"value"


STEP = """
import sys
from pathlib import Path
from strongroom import FileMasterKey, KeyStateError, KeyStore, VersionedEncryption
from strongroom.keys import Policy
url, key_file, clock = sys.argv[1:]
def now(when):
    Path(clock).write_text(when)
now("@2026-06-01 00:00:00")
with KeyStore.open(url, FileMasterKey(key_file)) as store:
    cipher = VersionedEncryption(store)
    store.set_policy("default", Policy(originator_seconds=86_400, enforce=True))
    store.rotate()
    message = cipher.encrypt(b"value")
    waiting = store.generate_new_key()
    # Back in the middle of a rotation.
    now("@2016-01-01 00:00:00")
    store.activate_key(waiting.id)
    assert store.get_current_key().id == waiting.id
    assert cipher.decrypt(message) == b"value"
    assert cipher.decrypt(cipher.encrypt(b"value")) == b"value"
    # Its time is over by whatever the clock says; reading goes on.
    now("@2036-01-01 00:00:00")
    store.refresh()
    try:
        cipher.encrypt(b"value")
    except KeyStateError as error:
        print(error)
    assert cipher.decrypt(message) == b"value"
    assert store.due().rotate == ["default"]
    store.rotate(if_due=True)
    cipher.encrypt(b"value")
    # And back again: made in the future is no reason not to encrypt.
    now("@2016-01-01 00:00:00")
    store.refresh()
    assert cipher.decrypt(cipher.encrypt(b"value")) == b"value"
    assert [k.generation for k in store.list_keys()] == [1, 2, 3, 4]
"""


@pytest.mark.parametrize("kind", PLACES, ids=lambda kind: kind.kind)
def test_the_clock_steps_in_the_middle_of_a_rotation(kind: type[Place], tmp_path: Path) -> None:
    place = kind(tmp_path)
    place.create().close()
    clock = tmp_path / "clock"
    clock.write_text("@2026-06-01 00:00:00")
    environment = {
        **os.environ,
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "TZ": "UTC",
    }
    command = [sys.executable, "-c", STEP, place.url, str(place.master.path), str(clock)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "policy" in done.stdout
    assert "rotate" in done.stdout


def test_the_policy_is_of_the_store_s_clock(tmp_path: Path) -> None:
    """Control: with the clock as it is, nothing of this is due."""
    place = Place(tmp_path)
    with place.create() as store:
        store.set_policy("default", Policy(originator_seconds=86_400, enforce=True))
        assert store.due().rotate == []
        VersionedEncryption(store).encrypt(b"value")
    with KeyStore.open(place.url, place.master) as store:
        assert len(store.list_keys()) == 1
