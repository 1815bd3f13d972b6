"""Other processes, other threads, dead rotations: nobody loses a row, nobody sees a wrong one."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from database_help import MODES, Vault, opens, pages_under, vault
from database_processes import ENVIRONMENT, Other, other
from database_rotations import Stopped, die_after, steps
from keystore_help import seeded
from sqlcipher3 import dbapi2
from strongroom import (
    DatabaseBusyError,
    DatabaseKeyRotation,
    EncryptedDatabase,
    RotationError,
)
from strongroom.keys import base

__all__ = ["vault"]


@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize("what", ["reading", "in a write"])
def test_another_process_in_a_transaction(vault: Vault, mode: str, what: str) -> None:
    vault.fill(mode)
    (key_id, _), *_ = vault.key_states()
    with other(vault, what) as process:
        with pytest.raises(DatabaseBusyError, match=f"pid {process.process.pid}"):
            vault.rotate(busy_timeout=0.3)
        assert vault.live_keys() == [key_id]
        rows = 200 + (what == "in a write")
        assert process.end() == [f"rows {rows}"]
    vault.rotate()
    assert vault.count() == rows


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_another_process_idle(vault: Vault, mode: str) -> None:
    vault.fill(mode)
    with other(vault, "idle") as process:
        if mode == "wal":
            with pytest.raises(DatabaseBusyError, match=f"pid {process.process.pid}"):
                vault.rotate(busy_timeout=0.3)
            assert process.end() == ["rows 200"]
        else:
            vault.rotate()
            (said,) = process.end()
            assert said.startswith("KeyRotatedError")
    assert vault.count() == 200


@pytest.mark.parametrize("runs", [2, pytest.param(50, marks=pytest.mark.sweep)])
def test_another_process_writes_and_a_bystander_opens_and_closes(vault: Vault, runs: int) -> None:
    """Any close() of the file in the rotating process would drop SQLite's locks there."""
    vault.fill()
    stop = threading.Event()

    def open_and_close() -> None:
        while not stop.wait(0.001):
            vault.path.open("rb").close()

    def use_stdlib() -> None:
        while not stop.wait(0.001):
            with (
                contextlib.suppress(sqlite3.Error),
                contextlib.closing(sqlite3.connect(vault.path)) as connection,
            ):
                connection.execute("SELECT 1 FROM sqlite_master").fetchall()

    threads = [threading.Thread(target=work) for work in (open_and_close, use_stdlib)]
    for thread in threads:
        thread.start()
    try:
        with other(vault, "writing") as process:
            for _ in range(3):
                assert process.line().startswith("row")
            for _ in range(runs):
                vault.rotate()
            said = process.end()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert said[-1] == "end"
    written = int(said[-2].split()[1]) + 1
    assert written > 3
    with contextlib.closing(vault.database.connect()) as connection:
        found = connection.execute("SELECT data FROM rows WHERE id > 200 ORDER BY id").fetchall()
    # The last may have been committed and not been said.
    assert [data for (data,) in found][:written] == [b"other %d" % i for i in range(written)]
    assert len(found) <= written + 1
    assert len(vault.live_keys()) == 1


@pytest.mark.parametrize("count", [3, pytest.param(13, marks=pytest.mark.sweep)])
@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_connecting_at_every_step(vault: Vault, mode: str, count: int) -> None:
    vault.fill(mode)
    for step in sorted(seeded().sample(range(1, 14), count)):
        rotation = Stopped(vault.path, vault.store)
        rotation.start(step)
        try:
            intent = Path(f"{vault.path}.srm.rotate")
            there = intent.read_bytes() if intent.exists() else None
            said = Other(vault, "connect").end()
            assert len(said) == 1
            assert said[0].startswith("DatabaseBusyError"), (step, said)
            assert (intent.read_bytes() if intent.exists() else None) == there
        finally:
            rotation.go.set()
            rotation.thread.join()
        (report,) = rotation.outcome
        assert vault.key_states()[-1] == (report.new_key_id, "active")
        assert Other(vault, "connect").end() == ["rows 200"]


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_connecting_waits_for_a_rotation(vault: Vault, mode: str) -> None:
    vault.fill(mode)
    rotation = Stopped(vault.path, vault.store)
    rotation.start(8)
    connecting = Other(vault, "connect patiently")
    assert connecting.line() == "connecting"
    assert rotation.outcome == []
    rotation.go.set()
    assert connecting.end() == ["rows 200"]
    rotation.thread.join()
    assert rotation.outcome[0].old_key_id == vault.key_states()[0][0]


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_left_under_the_old_key_after_a_death(
    vault: Vault, mode: str, tmp_path: Path
) -> None:
    vault.fill(mode, rows=40)
    (key_id, _), *_ = vault.key_states()
    secret = bytes(vault.secret(key_id))
    salt = vault.path.read_bytes()[:16]
    assert sum(pages_under(f.read_bytes(), secret, salt) for f in vault.files()) > 3
    step = seeded().randint(7, 12)
    print(f"step {step}")
    die_after(vault, step)
    assert vault.rotation().recover().found in ("new", "leftovers")
    for file in vault.files():
        assert pages_under(file.read_bytes(), secret, salt) == 0, (step, file)
    assert not opens(vault.path, bytearray(secret))
    assert vault.count() == 40


def test_the_page_scan_finds_old_pages(vault: Vault) -> None:
    """The control: a persistent journal keeps every old page."""
    vault.fill("persist", rows=40)
    (key_id, _), *_ = vault.key_states()
    secret, salt = bytes(vault.secret(key_id)), vault.path.read_bytes()[:16]
    with contextlib.closing(vault.database.connect(isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = PERSIST").fetchone()
        dbapi2.Connection.reset_key(connection, b"x'" + b"11" * 32 + b"'")
    journal = Path(f"{vault.path}-journal")
    assert pages_under(journal.read_bytes(), secret, salt) > 3


@pytest.mark.parametrize("step", steps(range(1, 14), 5, 7, 9, 12))
def test_the_intent_deleted(vault: Vault, step: int) -> None:
    vault.fill("wal+frames" if step % 2 else "delete")
    die_after(vault, step)
    Path(f"{vault.path}.srm.rotate").unlink(missing_ok=True)
    assert vault.count() == 200
    vault.rotation().recover()
    assert len(vault.live_keys()) == 1
    states = dict(vault.key_states())
    assert states[vault.live_keys()[0]] == "active"
    assert vault.rotation().recover().found == "nothing"
    assert vault.beside() <= {"-wal", "-shm", "-journal"}
    vault.rotate()
    assert vault.count() == 200


@pytest.mark.parametrize("step", steps(range(2, 13), 5, 6, 8, 12))
def test_the_store_put_back(vault: Vault, step: int) -> None:
    """From before the new key was made: the intent has it."""
    vault.fill()
    vault.store._database.erase()
    keys = vault.directory / "keys.db"
    before = keys.read_bytes()
    die_after(vault, step)
    vault.store.close()
    for stale in vault.directory.glob("keys.db-*"):
        stale.unlink()
    keys.write_bytes(before)
    base._SEEN.forget(vault.store._root_id)
    with vault.open():
        if step < 12:
            assert vault.count() == 200
            vault.rotation().recover()
            assert len(vault.live_keys()) == 1
            assert dict(vault.key_states())[vault.live_keys()[0]] == "active"
            vault.rotate()
            assert vault.count() == 200
        else:
            # The rotation was over, and its key is nowhere: said, and nothing is touched.
            data = vault.path.read_bytes()
            with pytest.raises(Exception, match=r"damaged|no key of keyset"):
                vault.database.connect()
            assert vault.path.read_bytes() == data


def test_an_edited_intent(vault: Vault) -> None:
    vault.fill()
    die_after(vault, 8)
    intent = Path(f"{vault.path}.srm.rotate")
    right = intent.read_bytes()
    intent.write_bytes(right.replace(b'"rows": 200', b'"rows": 201'))
    before = {f: f.read_bytes() for f in vault.files()}
    for act in (vault.database.connect, vault.rotate, vault.rotation().recover):
        with pytest.raises(RotationError, match="nothing was touched"):
            act()
    assert {f: f.read_bytes() for f in vault.files()} == before
    intent.write_bytes(right)
    assert vault.rotation().recover().found == "new"
    assert vault.count() == 200


def test_another_databases_intent(vault: Vault, tmp_path: Path) -> None:
    vault.fill()
    vault.store.create_keyset("other", purpose="database")
    path = tmp_path / "other.db"
    EncryptedDatabase(path, vault.store, keyset="other").connect().close()
    die_after(vault, 8)
    Path(f"{path}.srm.rotate").write_bytes(Path(f"{vault.path}.srm.rotate").read_bytes())
    before = path.read_bytes()
    with pytest.raises(RotationError, match="another database's"):
        DatabaseKeyRotation(path, vault.store, keyset="other").recover()
    assert path.read_bytes() == before
    assert vault.rotation().recover().found == "new"


@pytest.mark.parametrize("damage", ["first page", "first page, no backup", "later page", "backup"])
def test_a_file_that_neither_key_opens(vault: Vault, damage: str) -> None:
    vault.fill()
    (old, _), *_ = vault.key_states()
    die_after(vault, 8)
    backup = Path(f"{vault.path}.srm.backup")
    at = 4096 + 200 if damage == "later page" else 200
    for path in (vault.path, backup) if damage == "backup" else (vault.path,):
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)
    if damage == "first page, no backup":
        backup.unlink()
    before = {f: f.read_bytes() for f in vault.files()}
    if damage == "first page":
        assert vault.rotation().recover() == ("restored", old, str(vault.path))
        assert vault.count() == 200
        assert vault.live_keys() == [old]
        return
    for _ in range(2):
        with pytest.raises(RotationError, match="Nothing was written") as caught:
            vault.rotation().recover()
        assert old in str(caught.value)
    after = {f: f.read_bytes() for f in vault.files()}
    assert after == before


def test_rows_written_after_the_rotator_died(vault: Vault) -> None:
    """Connections that were open go on under the old key; the figures are not compared then."""
    vault.fill()
    open_before = vault.database.connect(isolation_level=None)
    die_after(vault, 6)
    open_before.execute("INSERT INTO rows (data) VALUES (1)")
    open_before.close()
    assert vault.rotation().recover().found == "old"
    assert vault.count() == 201


def test_killed_parents_children_die(vault: Vault, tmp_path: Path) -> None:
    vault.fill()
    code = (
        "import sys, os, signal\n"
        "from pathlib import Path\n"
        "from database_help import Vault\n"
        "from strongroom import DatabaseKeyRotation\n"
        "class R(DatabaseKeyRotation):\n"
        "    def _after(self, course, number):\n"
        "        if number == 7:\n"
        "            print('seven', flush=True)\n"
        "            signal.pause()\n"
        "vault = Vault(Path(sys.argv[1]))\n"
        "vault.open()\n"
        "R(vault.path, vault.store).rotate_key()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(vault.directory)],
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "seven\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    # The lock is free only when both are gone; connect() waits for that, and recovers.
    assert vault.count() == 200
    assert len(vault.live_keys()) == 1


def test_two_rotations_with_a_store_in_postgresql(tmp_path: Path) -> None:
    from postgres_help import server

    vault = Vault(tmp_path / "v", url=server().new_database())
    with vault.create():
        vault.fill()
        processes = [Other(vault, "rotate patiently") for _ in range(3)]
        said = [process.end() for process in processes]
        states = vault.key_states()
        assert [state for _, state in states] == ["deactivated"] * 3 + ["active"]
        # One after the other: each began with the key that another had made.
        assert sorted(said) == sorted([f"rotated from {key_id}"] for key_id, _ in states[:3])
        assert vault.count() == 200


@pytest.mark.parametrize("rounds", [2, pytest.param(40, marks=pytest.mark.sweep)])
def test_two_databases_of_one_store_killed_at_random(vault: Vault, rounds: int) -> None:
    random = seeded()
    names = ("one", "two")
    for name in names:
        vault.store.create_keyset(name, purpose="database")
        database = EncryptedDatabase(vault.directory / name, vault.store, keyset=name)
        with contextlib.closing(database.connect(isolation_level=None)) as connection:
            connection.execute("CREATE TABLE t (a)")
            connection.executemany("INSERT INTO t VALUES (?)", [(i,) for i in range(50)])
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from database_help import Vault\n"
        "from strongroom import DatabaseKeyRotation\n"
        "class Telling(DatabaseKeyRotation):\n"
        "    def _after(self, course, number):\n"
        "        super()._after(course, number)\n"
        "        print(number, flush=True)\n"
        "vault = Vault(Path(sys.argv[1]))\n"
        "vault.open()\n"
        "rotation = Telling(vault.directory / sys.argv[2], vault.store, keyset=sys.argv[2])\n"
        "while True:\n"
        "    rotation.rotate_key()\n"
    )
    recovered = []
    for _ in range(rounds):
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(vault.directory), name],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=ENVIRONMENT,
            )
            for name in names
        ]
        for process in processes:
            assert process.stdout is not None
            # So many steps, of two rotations or so, and then in the middle of what comes.
            for _ in range(random.randint(1, 26)):
                assert process.stdout.readline()
            process.kill()
            process.communicate()
        for name in names:
            rotation = DatabaseKeyRotation(vault.directory / name, vault.store, keyset=name)
            recovered.append(rotation.recover().found)
            states = [key.state for key in vault.store.list_keys(name)]
            assert states.count("active") == 1
            assert "pre-active" not in states
            database = EncryptedDatabase(vault.directory / name, vault.store, keyset=name)
            with contextlib.closing(database.connect()) as connection:
                assert connection.execute("SELECT count(*) FROM t").fetchone() == (50,)
    print(dict(Counter(recovered)))
    if rounds > 10:
        # Most moments lie inside a rotation: else nothing was tried.
        assert sum(found != "nothing" for found in recovered) >= rounds // 2
        assert {"old", "new"} <= set(recovered)
