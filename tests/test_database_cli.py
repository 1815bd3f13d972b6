"""`strongroom db`."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
from cli_runner import Cli
from strongroom import DatabaseKeyRotation, EncryptedDatabase, FileMasterKey, KeyStore


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    cli = Cli(tmp_path).init()
    with _store(cli) as store:
        for name in ("a", "b"):
            store.create_keyset(f"database/{name}", purpose="database")
            database = EncryptedDatabase(tmp_path / f"{name}.db", store, keyset=f"database/{name}")
            with contextlib.closing(database.connect(isolation_level=None)) as connection:
                connection.execute("CREATE TABLE t (a)")
                connection.execute("INSERT INTO t VALUES (1)")
    return cli


def _store(cli: Cli) -> KeyStore:
    return KeyStore.open(f"sqlite:///{cli.store}", FileMasterKey(cli.key_file))


def test_one(cli: Cli) -> None:
    (done,) = cli.ok("db", "rotate", "a.db", "--keyset", "database/a", "--json").objects
    assert (done["type"], done["status"], done["rows"]) == ("database", "ok", 1)
    (found,) = cli.ok("db", "status", "a.db", "--keyset", "database/a", "--json").objects
    assert (found["state"], found["key_ids"]) == ("ok", done["key_ids"])
    assert found["free"] > found["needed"] > 0
    (again,) = cli.ok("db", "recover", "a.db", "--keyset", "database/a", "--json").objects
    assert (again["status"], again["recovered"]) == ("current", "nothing")
    assert "not due" in cli.ok("db", "rotate", "a.db", "--keyset", "database/a", "--if-due").text
    assert "whole" in cli.ok("db", "verify", "a.db", "--keyset", "database/a").text


def test_many_each_on_its_own(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "c.db").write_bytes(b"")
    run = cli.run("db", "rotate", "*.db", "--keyset", "database/{stem}", "--json")
    assert run.code == 3
    assert [(o["type"], o["path"], o["status"]) for o in run.objects] == [
        ("database", "a.db", "ok"),
        ("database", "b.db", "ok"),
        ("item", "c.db", "failed"),
        ("item", "keys.db", "failed"),
    ]
    (tmp_path / "list").write_text("a.db\nb.db\n\n")
    run = cli.ok("db", "verify", "--list", "list", "--keyset", "database/{stem}", "--json")
    assert [o["path"] for o in run.objects] == ["a.db", "b.db"]
    assert cli.run("db", "rotate", "a.db", "b.db").code == 2
    assert cli.run("db", "rotate").code == 2
    assert cli.run("db", "rotate", "none*.db").code == 10


def test_a_link_is_told(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to("a.db")
    run = cli.ok("db", "rotate", "link.db", "--keyset", "database/a")
    assert f"link.db -> {tmp_path}/a.db" in run.text


def test_exit_codes(cli: Cli, tmp_path: Path) -> None:
    assert cli.run("db", "rotate", "none.db", "--keyset", "database/a").code == 10
    assert cli.run("db", "rotate", "a.db", "--keyset", "none").code == 10
    assert cli.run("db", "verify", "a.db", "--keyset", "database/b").code == 20
    with _store(cli) as store:
        database = EncryptedDatabase(tmp_path / "a.db", store, keyset="database/a")
        with contextlib.closing(database.connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            arguments = ("rotate", "a.db", "--keyset", "database/a", "--busy-timeout", "0.1")
            assert cli.run("db", *arguments).code == 18
    Path(tmp_path / "a.db.srm.rotate").write_text("{}")
    assert cli.run("db", "rotate", "a.db", "--keyset", "database/a").code == 19
    run = cli.run("db", "status", "a.db", "--keyset", "database/a", "--json")
    assert (run.code, run.objects[0]["state"]) == (1, "recover")


def test_what_is_due_is_left_to_db_rotate(cli: Cli) -> None:
    with _store(cli) as store:
        # The keys of two days ago.
        clock = store._clock
        store._clock = lambda: clock() - 2 * 86_400 * 10**9
        DatabaseKeyRotation(cli.folder / "a.db", store, keyset="database/a").rotate_key()
        store.create_keyset("old")
    for name in ("database/a", "old"):
        cli.ok("keys", "policy", "--keyset", name, "--originator", "1d")
    states = _states(cli)
    run = cli.fails(3, "keys", "rotate", "--due", "--json")
    assert "`strongroom db rotate`" in run.stderr
    assert [o["keyset"] for o in run.of_type("key")] == ["old"]
    assert _states(cli) == states
    refused = cli.fails(15, "keys", "rotate", "--keyset", "database/a")
    assert "strongroom db rotate" in refused.stderr
    assert cli.ok("keys", "due", "--json").objects
    (done,) = cli.ok("db", "rotate", "a.db", "--keyset", "database/a", "--if-due", "--json").objects
    assert done["status"] == "ok"


def _states(cli: Cli) -> list[str]:
    with _store(cli) as store:
        return [key.state for key in store.list_keys("database/a")]


def test_adopt(cli: Cli, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "plain.db")) as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.execute("INSERT INTO t VALUES (1), (2)")
        connection.commit()
    assert cli.run("db", "rotate", "plain.db", "--keyset", "p").code == 10
    (done,) = cli.ok("db", "adopt", "plain.db", "--keyset", "p", "--create", "--json").objects
    assert (done["rows"], done["keyset"]) == (2, "p")
    cli.ok("db", "rotate", "plain.db", "--keyset", "p")
    assert cli.run("db", "adopt", "plain.db", "--keyset", "p").code == 20
