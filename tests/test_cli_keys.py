"""`strongroom init`, `keys`, `doctor`: stores, masters and the life of a key."""

from __future__ import annotations

import re
import shutil
import sqlite3
import stat
from pathlib import Path

import pytest
from cli_runner import Cli, Result, Terminal
from strongroom import KeyStore, PassphraseMasterKey
from strongroom.cli import exitcodes

PHRASE = "correct horse battery staple"
KEY_ID = re.compile(r"\b[0-9a-f]{32}\b")


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


def one_id(result: Result) -> str:
    [key_id] = KEY_ID.findall(result.text)
    return str(key_id)


def states(cli: Cli) -> dict[str, str]:
    return {k["key_ids"][0]: k["state"] for k in cli.ok("keys", "list", "--json").of_type("key")}


# -- init ------------------------------------------------------------------------------------


def test_init_makes_store_and_key_file(cli: Cli) -> None:
    result = cli.ok("init", "--master", f"file:{cli.key_file}")
    assert stat.S_IMODE(cli.key_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(cli.store.stat().st_mode) == 0o600
    assert result.stderr.count("lost") >= 1
    assert result.stderr.count("\n") == 1, "it is said once"
    assert str(cli.key_file) in result.stderr
    assert states(cli) == {one_id(result): "active"}


def test_init_in_json(cli: Cli) -> None:
    key, summary = cli.ok("init", "--master", f"file:{cli.key_file}", "--json").objects
    assert (key["type"], key["state"], key["keyset"]) == ("key", "active", "default")
    assert summary["master"] == f"file:{cli.key_file}"
    assert summary["store"] == f"sqlite:///{cli.store}"


def test_default_store_is_xdg(cli: Cli) -> None:
    del cli.env["STRONGROOM_STORE"]
    cli.init()
    store = cli.folder / "data" / "strongroom" / "keys.db"
    assert store.exists()
    assert stat.S_IMODE(store.parent.stat().st_mode) == 0o700
    # A variable that is no absolute path counts as unset.
    cli.env["XDG_DATA_HOME"] = "relative"
    cli.key_file.unlink()
    cli.init()
    assert (cli.folder / ".local/share/strongroom/keys.db").exists()
    assert not (cli.folder / "relative").exists()


def test_option_comes_before_environment(cli: Cli) -> None:
    cli.init()
    cli.ok("init", "--store", "other.db", "--master", "file:other.key")
    assert one_id(cli.ok("keys", "list", "--store", "other.db")) not in states(cli)
    assert "sqlite:///other.db" in cli.ok("doctor", "--store", "sqlite:///other.db").text


def test_init_uses_a_key_file_that_is_there(cli: Cli) -> None:
    cli.init()
    before = cli.key_file.read_bytes()
    said = cli.ok("init", "--store", "2.db", "--master", f"file:{cli.key_file}").stderr
    assert "was there and is used" in said
    assert cli.key_file.read_bytes() == before


@pytest.mark.parametrize("there", [b"something", b""])
def test_init_changes_nothing_that_is_there(cli: Cli, there: bytes) -> None:
    cli.store.write_bytes(there)
    cli.fails(exitcodes.OTHER, "init", "--master", f"file:{cli.key_file}")
    assert cli.store.read_bytes() == there
    assert not cli.key_file.exists()


def test_init_that_fails_leaves_nothing(cli: Cli) -> None:
    no_folder = cli.folder / "no" / "folder" / "keys.db"
    cli.fails(exitcodes.NOT_FOUND, "init", "--store", no_folder, "--master", f"file:{cli.key_file}")
    cli.fails(exitcodes.NOT_FOUND, "init", "--master", f"file:{no_folder}")
    (cli.folder / "not a key").write_text("something else")
    cli.fails(exitcodes.MASTER_REFUSED, "init", "--master", "file:not a key")
    cli.fails(exitcodes.USAGE, "init", "--master", "unknown:thing")
    cli.fails(exitcodes.USAGE, "init", "--store", "mysql://x", "--master", f"file:{cli.key_file}")
    assert [p.name for p in cli.folder.iterdir()] == ["not a key"]


def test_init_with_a_passphrase(cli: Cli) -> None:
    with Terminal(cli, "init") as terminal:
        terminal.expect("Passphrase of the key store: ")
        terminal.send(PHRASE + "\n")
        terminal.expect("Passphrase of the key store again: ")
        terminal.send(PHRASE + "\n")
        terminal.expect("Recovery passphrase")
        terminal.send("\n")
        assert terminal.end() == 0
        assert "lost" in terminal.seen
    with KeyStore.open(f"sqlite:///{cli.store}", PassphraseMasterKey(PHRASE)) as store:
        key_id = store.get_current_key().id
    with Terminal(cli, "keys", "rotate") as terminal:
        terminal.expect("Passphrase of the key store: ")
        terminal.send(PHRASE + "\n")
        assert terminal.end() == 0
    (cli.folder / "phrase").write_text(PHRASE + "\n")
    listed = cli.ok("keys", "list", "--passphrase-file", "phrase").text
    assert key_id in listed
    refused = cli.fails(exitcodes.MASTER_REFUSED, "keys", "list", "--passphrase-command", "echo no")
    assert PHRASE not in refused.stderr
    assert "no\n" not in refused.stderr
    cli.fails(exitcodes.USAGE, "keys", "list")


# -- the life of a key -----------------------------------------------------------------------


def test_new_activate_rotate_retire_destroy(cli: Cli) -> None:
    cli.init()
    [first] = states(cli)
    new = one_id(cli.ok("keys", "new"))
    assert states(cli) == {first: "active", new: "pre-active"}
    cli.ok("keys", "activate", new)
    assert states(cli) == {first: "deactivated", new: "active"}
    third = one_id(cli.ok("keys", "rotate"))
    assert states(cli) == {first: "deactivated", new: "deactivated", third: "active"}
    for words in (["retire"], ["destroy", "--yes"], ["destroy", "--yes", "--force"]):
        refused = cli.fails(exitcodes.KEY_STATE, "keys", words[0], third, *words[1:])
        assert third in refused.stderr
    said = cli.ok("keys", "destroy", new, "--yes", "--force").stderr
    assert "backups" in said
    assert states(cli)[new] == "destroyed"
    # Retired just now: another process may still encrypt under its cached copy.
    fourth = one_id(cli.ok("keys", "rotate"))
    assert states(cli)[third] == "deactivated"
    cli.fails(exitcodes.KEY_STATE, "keys", "destroy", third, "--yes", "--after", "0")
    assert states(cli)[fourth] == "active"


def test_keysets(cli: Cli) -> None:
    cli.init()
    cli.fails(exitcodes.NOT_FOUND, "keys", "new", "--keyset", "tenant")
    cli.fails(exitcodes.NOT_FOUND, "keys", "rotate", "--keyset", "tenant")
    cli.fails(exitcodes.NOT_FOUND, "keys", "list", "--keyset", "tenant")
    first = one_id(cli.ok("keys", "new", "--keyset", "tenant", "--create"))
    assert cli.current_key("tenant") == first
    cli.fails(exitcodes.OTHER, "keys", "new", "--keyset", "tenant", "--create")
    second = one_id(cli.ok("keys", "rotate", "--keyset", "tenant"))
    assert cli.current_key("tenant") == second
    assert len(states(cli)) == 3
    assert len(cli.ok("keys", "list", "--keyset", "tenant", "--json").objects) == 2


def test_list_is_columns_for_programs_and_a_table_on_a_terminal(cli: Cli) -> None:
    cli.init()
    [key_id] = states(cli)
    heading, row = cli.ok("keys", "list").text.splitlines()
    assert heading.split()[0] == "KEY"
    assert row.split()[:4] == [key_id, "default", "active", "1"]
    assert "\x1b" not in row
    with Terminal(cli, "keys", "list") as terminal:
        assert terminal.end() == 0
        assert key_id in terminal.seen
        assert "\x1b[" in terminal.seen
    cli.env["NO_COLOR"] = "1"
    with Terminal(cli, "keys", "list") as terminal:
        assert terminal.end() == 0
        assert key_id in terminal.seen
        assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", terminal.seen)


@pytest.mark.parametrize("key_id", ["0" * 32, "x", "", "ü", "'; --"])
def test_a_key_that_is_none(cli: Cli, key_id: str) -> None:
    cli.init()
    for words in (["retire"], ["activate"], ["destroy", "--yes"]):
        cli.fails(exitcodes.NOT_FOUND, "keys", *words, "--", key_id)


def test_destroy_asks(cli: Cli) -> None:
    cli.init()
    [first] = states(cli)
    cli.ok("keys", "rotate")
    result = cli.fails(exitcodes.USAGE, "keys", "destroy", first, "--force")
    assert "--yes" in result.stderr
    for answer, code, state in (
        ("n\n", exitcodes.OTHER, "deactivated"),
        ("\n", exitcodes.OTHER, "deactivated"),
        ("\x04", exitcodes.OTHER, "deactivated"),
        ("\x03", exitcodes.INTERRUPTED, "deactivated"),
        ("y\n", exitcodes.OK, "destroyed"),
    ):
        with Terminal(cli, "keys", "destroy", first, "--force") as terminal:
            terminal.expect("[y/N]: ")
            terminal.send(answer)
            assert terminal.end() == code, answer
        assert states(cli)[first] == state


# -- stores and masters that don't open ------------------------------------------------------


def test_no_store(cli: Cli) -> None:
    for words in (["keys", "list"], ["keys", "rotate"], ["encrypt", "a", "b"]):
        (cli.folder / "keys.db").unlink(missing_ok=True)
        result = cli.fails(exitcodes.NOT_FOUND, *words)
        assert result.stderr.startswith("strongroom: no key store at")
        assert "strongroom init" in result.stderr
        assert not cli.store.exists()


@pytest.mark.parametrize("text", [b"", b"not a database", b"x" * 10_000])
def test_what_is_no_store(cli: Cli, text: bytes) -> None:
    cli.store.write_bytes(text)
    cli.fails(exitcodes.OTHER, "keys", "list")
    assert cli.store.read_bytes() == text


def test_another_database(cli: Cli) -> None:
    with sqlite3.connect(cli.store) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    cli.fails(exitcodes.OTHER, "keys", "list")


def test_wrong_master(cli: Cli) -> None:
    cli.init()
    cli.ok("init", "--store", "other.db", "--master", "file:other.key")
    cli.fails(exitcodes.MASTER_REFUSED, "keys", "list", "--master", "file:other.key")
    cli.env["STRONGROOM_MASTER"] = f"file:{cli.folder / 'other.key'}"
    cli.fails(exitcodes.MASTER_REFUSED, "keys", "list")
    cli.ok("keys", "list", "--master", f"file:{cli.key_file}")


def test_key_file_gone_or_open_to_others(cli: Cli) -> None:
    cli.init()
    cli.key_file.chmod(0o644)
    said = cli.fails(exitcodes.MASTER_REFUSED, "keys", "list").stderr
    assert "644" in said or "mode" in said
    key = cli.key_file.read_text().split()[1]
    assert key not in said
    cli.key_file.unlink()
    cli.fails(exitcodes.NOT_FOUND, "keys", "list")


def test_moved_key_file_is_named(cli: Cli) -> None:
    cli.init()
    moved = cli.folder / "moved.key"
    shutil.move(cli.key_file, moved)
    cli.ok("keys", "list", "--master", f"file:{moved}")


def test_busy_store(cli: Cli) -> None:
    cli.init()
    blocker = sqlite3.connect(cli.store, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    try:
        cli.fails(exitcodes.STORE_BUSY, "keys", "rotate")
        cli.ok("keys", "list")
    finally:
        blocker.close()
    cli.ok("keys", "rotate")


def test_edited_store(cli: Cli) -> None:
    cli.init()
    with sqlite3.connect(cli.store) as connection:
        connection.execute("UPDATE strongroom_keys SET state = 'deactivated'")
    connection.close()
    cli.fails(exitcodes.OTHER, "keys", "list")


def test_nothing_secret_is_shown(cli: Cli) -> None:
    """Not with --debug either, and not to who may list the processes."""
    cli.init()
    material = cli.key_file.read_text().split()[1]
    for words in (["keys", "list"], ["keys", "rotate"], ["doctor"], ["keys", "retire", "x"]):
        result = cli.run(*words, "--debug")
        assert material not in result.text + result.stderr


# -- doctor ----------------------------------------------------------------------------------


def test_doctor(cli: Cli) -> None:
    cli.init()
    [found] = cli.ok("doctor", "--json").objects
    assert found["status"] == "ok"
    assert found["store"]["status"] == "ok"
    assert found["store"]["keysets"] == 1
    assert found["engine"] in ("aes-gcm", "aws-lc")
    assert found["threads"] >= 1
    assert set(found["versions"]) == {"sqlite", "cryptography", "click", "rich"}
    text = cli.ok("doctor").text
    for word in ("engine", "threads", "memory", "store", "python", "cpu features"):
        assert re.search(f"^{word}", text, re.MULTILINE), word


@pytest.mark.parametrize("engine", ["aes-gcm", "aws-lc"])
def test_doctor_shows_the_engine_that_was_forced(cli: Cli, engine: str) -> None:
    cli.env["STRONGROOM_ENGINE"] = engine
    [found] = cli.run("doctor", "--json").objects
    assert (found["engine"], found["engine_forced"]) == (engine, True)


def test_doctor_shows_threads(cli: Cli) -> None:
    cli.env["STRONGROOM_THREADS"] = "3"
    assert cli.run("doctor", "--json").objects[0]["threads"] == 3


def test_doctor_and_the_store(cli: Cli) -> None:
    # Named and not there: a failure. The default, never made: none.
    [found] = cli.run("doctor", "--json").objects
    assert (found["status"], found["store"]["code"]) == ("failed", exitcodes.NOT_FOUND)
    assert cli.run("doctor").code == exitcodes.NOT_FOUND
    del cli.env["STRONGROOM_STORE"]
    [found] = cli.ok("doctor", "--json").objects
    assert found["store"]["status"] == "absent"
    # One that needs a passphrase is not opened, and nobody is asked.
    cli.env["STRONGROOM_STORE"] = str(cli.store)
    (cli.folder / "phrase").write_text(PHRASE)
    cli.ok("init", "--passphrase-file", "phrase")
    [found] = cli.ok("doctor", "--json").objects
    assert found["store"]["status"] == "not opened"
    [found] = cli.ok("doctor", "--json", "--passphrase-file", "phrase").objects
    assert found["store"]["status"] == "ok"


def test_stdout_holds_json_alone_whatever_happens(cli: Cli) -> None:
    cli.init()
    for words in (
        ["keys", "list"],
        ["keys", "rotate"],
        ["keys", "new"],
        ["keys", "retire", "0"],
        ["keys", "destroy", "0", "--yes"],
        ["keys", "list", "--keyset", "none"],
        ["doctor"],
        ["init", "--master", "file:x"],
    ):
        result = cli.run(*words, "--json")
        assert result.objects, words
        assert (result.code == 0) == (result.objects[-1]["type"] != "error"), words
        if result.code:
            assert result.objects[-1]["code"] == result.code
