"""`strongroom master` and the second master of `strongroom init`."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cli_runner import Cli, Terminal
from strongroom import FileMasterKey, KeyStore, MasterKeyError, PassphraseMasterKey
from strongroom.audit.catalogue import EVENTS
from strongroom.audit.records import fields_of, records
from strongroom.cli import exitcodes
from vault_server import TOKEN, Vault, vault

__all__ = ["vault"]

FIRST, SECOND = "correct horse battery", "staple of another kind"


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    cli = Cli(tmp_path)
    (tmp_path / "first").write_text(FIRST + "\n")
    (tmp_path / "second").write_text(SECOND + "\n")
    return cli


def masters(cli: Cli, *options: str) -> dict[str, bool]:
    found = cli.ok("master", "list", "--json", *options).of_type("master")
    return {m["master"]: m["recovery"] for m in found}


def test_init_asks_for_a_second_one(cli: Cli) -> None:
    with Terminal(cli, "init", "--master", f"file:{cli.key_file}") as terminal:
        terminal.expect("Recovery passphrase")
        terminal.send(SECOND + "\n")
        terminal.expect("again: ")
        terminal.send(SECOND + "\n")
        assert terminal.end() == 0
    assert masters(cli) == {f"file:{cli.key_file}": False, "passphrase:": True}
    # The everyday one is taken though there are two; the second opens when that one is gone.
    cli.key_file.unlink()
    cli.fails(exitcodes.NOT_FOUND, "keys", "list")
    recovering = ("--master", "passphrase:", "--passphrase-file", "second")
    assert masters(cli, *recovering)["passphrase:"]


def test_init_warns_without_one(cli: Cli) -> None:
    assert "no second master" in cli.ok("init", "--master", f"file:{cli.key_file}").stderr
    other = cli.ok("init", "--store", "2.db", "--master", "file:2.key", "--no-recovery").stderr
    assert "no second master" not in other
    with Terminal(cli, "init", "--store", "3.db", "--master", "file:3.key") as terminal:
        terminal.expect("Recovery passphrase")
        terminal.send("\n")
        assert terminal.end() == 0
        assert "no second master" in terminal.seen
    with Terminal(cli, "init", "--store", "4.db", "--master", "file:4.key") as terminal:
        terminal.expect("Recovery passphrase")
        terminal.send(SECOND + "\n")
        terminal.expect("again: ")
        terminal.send("something else\n")
        assert terminal.end() == exitcodes.USAGE
    assert not (cli.folder / "4.db").exists()
    assert not (cli.folder / "4.key").exists()
    cli.ok("init", "--store", "5.db", "--master", "file:5.key", "--recovery", "file:6.key")
    assert masters(cli, "--store", "5.db") == {
        f"file:{cli.folder}/5.key": False,
        f"file:{cli.folder}/6.key": True,
    }
    cli.fails(exitcodes.USAGE, "init", "--no-recovery", "--recovery", "file:x", "--store", "7.db")


def test_add_and_remove(cli: Cli) -> None:
    cli.init()
    first = f"file:{cli.key_file}"
    cli.fails(exitcodes.OTHER, "master", "remove", first, "--yes")
    cli.ok("master", "add", "file:second.key")
    cli.ok("master", "add", "--recovery", "passphrase:", "--new-passphrase-file", "second")
    second = f"file:{cli.folder}/second.key"
    assert masters(cli) == {first: False, second: False, "passphrase:": True}
    assert "already" in cli.fails(exitcodes.OTHER, "master", "add", "file:second.key").stderr
    cli.fails(exitcodes.USAGE, "master", "remove", "file:second.key")
    assert "old copy" in cli.ok("master", "remove", "file:second.key", "--yes").stderr
    with pytest.raises(MasterKeyError):
        KeyStore.open(f"sqlite:///{cli.store}", FileMasterKey(cli.folder / "second.key"))
    cli.fails(exitcodes.NOT_FOUND, "master", "remove", "file:second.key", "--yes")
    # By the other one's passphrase, and by id.
    recovering = ("--master", "passphrase:", "--passphrase-file", "second")
    key_id = FileMasterKey(cli.key_file).key_id
    cli.ok("master", "remove", key_id, "--yes", *recovering)
    assert masters(cli, *recovering) == {"passphrase:": True}
    last = cli.fails(exitcodes.OTHER, "master", "remove", "passphrase:", "--yes", *recovering)
    assert "last master" in last.stderr


def test_two_of_one_uri_are_told_apart_by_id(cli: Cli) -> None:
    cli.init()
    for name in ("first", "second"):
        cli.ok("master", "add", "passphrase:", "--new-passphrase-file", name)
    said = cli.fails(exitcodes.USAGE, "master", "remove", "passphrase:", "--yes").stderr
    ids = [m.key_id for m in KeyStore.masters_of(f"sqlite:///{cli.store}") if "pass" in m.uri]
    assert len(ids) == 2
    assert all(key_id in said for key_id in ids)
    cli.ok("master", "remove", ids[0], "--yes")
    for name in ("first", "second"):
        tested = cli.run("master", "test", "passphrase:", "--passphrase-file", name)
        assert tested.code == (exitcodes.MASTER_REFUSED if name == "first" else exitcodes.OK)


def test_test_changes_nothing(cli: Cli) -> None:
    cli.init()
    cli.ok("master", "add", "--recovery", "passphrase:", "--new-passphrase-file", "second")
    FileMasterKey.create(cli.folder / "wrong.key")
    before = hashlib.sha256(cli.store.read_bytes()).digest()
    [found] = cli.ok("master", "test", f"file:{cli.key_file}", "--json").objects
    assert (found["master"], found["recovery"]) == (f"file:{cli.key_file}", False)
    shown = cli.ok("master", "test", "passphrase:", "--passphrase-file", "second")
    assert "(recovery)" in shown.text
    cli.fails(exitcodes.MASTER_REFUSED, "master", "test", "file:wrong.key")
    cli.fails(
        exitcodes.MASTER_REFUSED, "master", "test", "passphrase:", "--passphrase-file", "first"
    )
    cli.fails(exitcodes.NOT_FOUND, "master", "test", "file:nothing.key")
    cli.fails(exitcodes.USAGE, "master", "test", "file:a", "--master", "file:b")
    assert not (cli.folder / "nothing.key").exists()
    assert hashlib.sha256(cli.store.read_bytes()).digest() == before


def test_a_test_is_an_event_and_loud_by_a_recovery_master(cli: Cli) -> None:
    cli.init()
    for name in ("first", "second"):
        cli.ok("master", "add", "--recovery", "passphrase:", "--new-passphrase-file", name)
    ids = [m.key_id for m in KeyStore.masters_of(f"sqlite:///{cli.store}") if m.recovery]
    log = cli.folder / "audit.log"

    def told(*words: str) -> list[tuple[str, str, object]]:
        seen = len(list(records(log))) if log.exists() else 0
        cli.run("master", "test", *words, "--audit", str(log))
        new = list(records(log))[seen:]
        found = [(r.name, fields_of(r.event)) for r in new]
        return [
            (name, f["key_id"], f.get("recovery"))
            for name, f in found
            if name.startswith(("master.", "store.")) and f.get("key_id")
        ]

    everyday = FileMasterKey(cli.key_file).key_id
    assert told(f"file:{cli.key_file}") == [
        ("store.opened", everyday, False),
        ("master.tested", everyday, False),
    ]
    # Two of one URI: the one that opened it is named, and each use cries out.
    named = []
    for name in ("first", "second"):
        events = told("passphrase:", "--passphrase-file", name)
        assert [e[0] for e in events] == ["master.recovery_used", "store.opened", "master.tested"]
        assert len({e[1] for e in events}) == 1
        assert {e[2] for e in events} == {True}
        named.append(events[0][1])
    assert sorted(named) == sorted(ids)
    (cli.folder / "wrong").write_text("wrong")
    told("passphrase:", "--passphrase-file", "wrong")
    last = list(records(log))
    assert [r.name for r in last if r.failed] == ["master.refused"]
    assert [r.name for r in last].count("master.tested") == 3
    top = max(event.severity_id for event in EVENTS.values())
    severity = {r.name: r.event["severity_id"] for r in last}
    assert severity["master.recovery_used"] == top
    assert severity["master.tested"] < top


def test_rotate_to_another(cli: Cli) -> None:
    cli.init()
    cli.ok("encrypt", "first", "-o", "first.srm")
    old = FileMasterKey(cli.key_file)
    cli.fails(exitcodes.USAGE, "master", "rotate", f"file:{cli.key_file}")
    cli.ok("master", "rotate", f"file:{cli.key_file}", "--to", "file:new.key")
    assert masters(cli) == {f"file:{cli.folder}/new.key": False}
    with pytest.raises(MasterKeyError):
        KeyStore.open(f"sqlite:///{cli.store}", old)
    assert cli.ok("decrypt", "first.srm", "-o", "-").stdout == FIRST.encode() + b"\n"
    to = ("--to", "passphrase:", "--new-passphrase-file", "first")
    cli.ok("master", "rotate", "file:new.key", *to)
    opening = ("--passphrase-file", "first")
    cli.ok("master", "rotate", "passphrase:", "--new-passphrase-file", "second", *opening)
    cli.fails(exitcodes.MASTER_REFUSED, "master", "list", *opening)
    assert masters(cli, "--passphrase-file", "second") == {"passphrase:": False}
    with KeyStore.open(f"sqlite:///{cli.store}", PassphraseMasterKey(SECOND)) as store:
        store.check()


def test_a_service_from_init_to_rotate(cli: Cli, vault: Vault) -> None:
    cli.env |= {"VAULT_ADDR": vault.address, "VAULT_TOKEN": TOKEN}
    uri = "vault:transit/keys/main"
    cli.ok("init", "--master", uri)
    cli.ok("encrypt", "first", "-o", "first.srm")
    vault.make("main")
    vault.calls.clear()
    cli.ok("master", "rotate", uri)
    # Opened, rewrapped inside, and what came out tried.
    assert vault.calls == ["decrypt", "rewrap", "decrypt"]
    assert b"vault:v2:" in cli.store.read_bytes()
    assert cli.ok("decrypt", "first.srm", "-o", "-").stdout == FIRST.encode() + b"\n"
    vault.instead = lambda call: call.answer(503, {"errors": ["sealed"]})
    cli.fails(exitcodes.UNREACHABLE, "keys", "list")
    vault.instead = lambda call: call.answer(403, {"errors": ["permission denied"]})
    said = cli.fails(exitcodes.MASTER_REFUSED, "master", "test", uri).stderr
    assert TOKEN not in said


def test_the_name_of_no_master(cli: Cli) -> None:
    cli.init()
    for bad in ("nothing", "vault:x", "awskms:///", "keyring:", "pass:" + SECOND):
        said = cli.fails(exitcodes.USAGE, "master", "add", bad).stderr
        assert SECOND not in said
