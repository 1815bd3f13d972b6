"""`strongroom store`, `keys due|stats|policy|suspend|...`: a store's life on the command line."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from cli_runner import Cli
from strongroom import FileMasterKey, KeyStore
from strongroom.cli import exitcodes


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path).init()


def key(cli: Cli, key_id: str) -> dict[str, object]:
    [found] = [
        k for k in cli.ok("keys", "list", "--json").of_type("key") if k["key_ids"] == [key_id]
    ]
    return found


def test_states(cli: Cli) -> None:
    first = cli.current_key()
    assert "suspended" in cli.ok("keys", "suspend", first, "--reason", "asked to").text
    assert key(cli, first)["reason"] == "asked to"
    assert "active" in cli.ok("keys", "resume", first).text
    cli.ok("keys", "compromise", first, "--rotate")
    assert key(cli, first)["state"] == "compromised"
    second = cli.current_key()
    assert second != first
    [told] = cli.ok("keys", "suspend", second, "--json").of_type("key")
    assert told["state"] == "suspended"


def test_rotation_of_many_machines(cli: Cli) -> None:
    first = cli.current_key()
    cli.ok("keys", "rotate", "--expected", first, "--reason", "yearly")
    second = cli.current_key()
    assert key(cli, second)["reason"] == "yearly"
    cli.ok("keys", "rotate", "--expected", first)
    assert cli.current_key() == second
    cli.ok("keys", "rotate", "--if-due")
    assert cli.current_key() == second
    assert "nothing is due" in cli.ok("keys", "rotate", "--due").stderr
    cli.fails(exitcodes.USAGE, "keys", "rotate", "--due", "--if-due")


def test_one_that_can_not_be_rotated_does_not_stop_the_others(cli: Cli) -> None:
    cli.ok("keys", "new", "--create", "--keyset", "a", "--purpose", "database")
    cli.ok("keys", "new", "--create", "--keyset", "z")
    for name in ("a", "z"):
        cli.ok("keys", "policy", "--keyset", name, "--originator", "1s")
    with KeyStore.open(f"sqlite:///{cli.store}", FileMasterKey(cli.key_file)) as store:
        store._bind_database("a", "00" * 16, "{}")
        first = store.get_current_key("z").id
        while len(store.due().rotate) < 2:
            pass  # a second may not be over yet
    done = cli.fails(exitcodes.SOME_FAILED, "keys", "rotate", "--due", "--json")
    assert "db rotate" in done.stderr
    [failed] = done.of_type("item")
    assert (failed["status"], failed["error"]) == ("failed", "KeyStateError")
    assert cli.current_key("z") != first
    # By name, alone, it is the command that fails.
    cli.fails(exitcodes.KEY_STATE, "keys", "rotate", "--keyset", "a")


def test_policy_and_due(cli: Cli) -> None:
    assert "no policy" in cli.ok("keys", "policy").text
    cli.ok("keys", "policy", "--originator", "90d", "--recipient", "52w", "--enforce")
    assert cli.ok("keys", "policy").text == (
        "default: a primary for 90 days, enforced; re-encryption after 364 days\n"
    )
    [found] = cli.ok("keys", "policy", "--promote", "after-backup", "--json").of_type("policy")
    assert found["policy"] == {
        "originator_seconds": None,
        "recipient_seconds": None,
        "enforce": False,
        "promote": "after-backup",
    }
    cli.fails(exitcodes.USAGE, "keys", "policy", "--enforce")
    cli.fails(exitcodes.USAGE, "keys", "policy", "--originator", "soon")
    cli.ok("keys", "policy", "--none")
    cli.ok("keys", "policy", "--originator", "1s")
    first = cli.current_key()
    cli.ok("store", "backup", cli.folder / "b1.db")
    while cli.current_key() == first:
        cli.ok("keys", "rotate", "--due")  # a second may not be over yet
    second = cli.current_key()
    cli.ok("keys", "policy", "--none")
    [due] = cli.ok("keys", "due", "--json").of_type("key")
    assert (due["key_ids"], due["due"]) == ([second], ["back up"])
    assert "back up" in cli.ok("keys", "due").text
    cli.ok("store", "backup", cli.folder / "b2.db")
    assert "nothing is due" in cli.ok("keys", "due").stderr


def test_the_whole_inventory(cli: Cli) -> None:
    first = cli.current_key()
    (cli.folder / "plain").write_bytes(bytes(1000))
    cli.ok("encrypt", "plain")
    cli.ok("decrypt", "plain.srm", "-o", "again")
    [made] = cli.ok("store", "backup", cli.folder / "b.db", "--json").of_type("backup")
    found = key(cli, first)
    assert found["purpose"] == "data"
    assert found["state"] == "active"
    assert found["generation"] == 1
    assert found["due"] == []
    assert found["policy"] == {
        "originator_seconds": None,
        "recipient_seconds": None,
        "enforce": False,
        "promote": "",
    }
    assert (found["backup"], found["backup_name"]) == (made["backup"], "b.db")
    for name in ("since", "created", "activated"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", str(found[name]))
    assert found["deactivated"] is None
    assert found["destroy_after"] is None


def test_stats_and_metrics(cli: Cli) -> None:
    cli.ok("keys", "rotate")
    [found] = cli.ok("keys", "stats", "--json").of_type("stats")
    assert found["figures"]["keys_active"] == 1
    assert found["figures"]["keys_deactivated"] == 1
    assert found["figures"]["not_backed_up"] == 1
    assert found["figures"]["master_calls"] == 1
    assert "keys active" in cli.ok("keys", "stats").text
    text = cli.ok("keys", "stats", "--metrics").text
    # The grammar of the text format: comments, or a name with labels and a number.
    line = re.compile(
        r"# (HELP|TYPE) [a-z_]+ .+"
        r'|[a-z_]+(\{[a-z_]+="[^"\\\n]*"\})? -?[0-9.]+(e[-+]?[0-9]+)?'
    )
    assert all(line.fullmatch(one) for one in text.splitlines())
    assert 'strongroom_keys{state="active"} 1' in text.splitlines()
    assert "strongroom_master_calls_total 1" in text.splitlines()
    names = [one.split()[2] for one in text.splitlines() if one.startswith("# TYPE")]
    assert len(names) == len(set(names))


def test_destroy_waits(cli: Cli) -> None:
    first = cli.current_key()
    cli.fails(exitcodes.KEY_STATE, "keys", "destroy", first)
    cli.ok("keys", "rotate")
    said = cli.ok("keys", "destroy", first, "--reason", "tenant left")
    assert "undestroy" in said.stderr
    found = key(cli, first)
    assert (found["state"], found["reason"]) == ("deactivated", "tenant left")
    assert found["destroy_after"] is not None
    assert "nothing is due" in cli.ok("keys", "destroy", "--due").stderr
    cli.ok("keys", "undestroy", first)
    assert key(cli, first)["destroy_after"] is None
    cli.ok("keys", "destroy", first, "--after", "30d")
    cli.fails(exitcodes.USAGE, "keys", "destroy", first, "--after", "30d", "--force")
    cli.fails(exitcodes.USAGE, "keys", "destroy")
    cli.fails(exitcodes.USAGE, "keys", "destroy", first, "--due")
    cli.fails(exitcodes.USAGE, "keys", "destroy", first, "--after", "-1")
    cli.ok("keys", "destroy", first, "--force", "--yes")
    assert key(cli, first)["state"] == "destroyed"
    assert key(cli, first)["destroy_after"] is None
    cli.fails(exitcodes.KEY_STATE, "keys", "undestroy", first)


def test_what_is_due_and_may_not_be_destroyed_yet(cli: Cli) -> None:
    """Its time is over; that it was the primary a moment ago is another matter."""
    first = cli.current_key()
    cli.ok("keys", "rotate")
    cli.ok("keys", "destroy", first, "--after", "1s")
    while "destroy" not in (due := cli.ok("keys", "due", "--json").of_type("key"))[0]["due"]:
        assert due
    result = cli.run("keys", "destroy", "--due", "--json")
    assert result.code == exitcodes.SOME_FAILED
    [failed] = result.of_type("item")
    assert failed["code"] == exitcodes.KEY_STATE
    assert key(cli, first)["state"] == "deactivated"


def test_destroy_a_keyset(cli: Cli) -> None:
    cli.ok("keys", "new", "--keyset", "tenant", "--create", "--purpose", "names")
    cli.ok("keys", "rotate", "--keyset", "tenant")
    cli.fails(exitcodes.USAGE, "keys", "destroy-keyset", "tenant")
    gone = cli.ok("keys", "destroy-keyset", "tenant", "--yes", "--json").of_type("key")
    assert [k["state"] for k in gone] == ["destroyed"] * 2
    assert {k["purpose"] for k in gone} == {"names"}
    cli.fails(exitcodes.NOT_FOUND, "keys", "destroy-keyset", "other", "--yes")
    cli.fails(exitcodes.USAGE, "keys", "new", "--purpose", "names")


def test_backup_check_restore(cli: Cli) -> None:
    (cli.folder / "plain").write_bytes(b"value")
    cli.ok("encrypt", "plain")
    assert "no backup" in cli.ok("store", "backup").stderr
    backup = cli.folder / "b.db"
    [made] = cli.ok("store", "backup", backup, "--json").of_type("backup")
    cli.fails(exitcodes.OTHER, "store", "backup", backup)
    assert made["backup"] in cli.ok("store", "backup").text
    [checked] = cli.ok("store", "check", "--json").of_type("summary")
    assert checked["generation"] == made["generation"]
    cli.fails(exitcodes.OTHER, "store", "check", "--generation", checked["generation"] + 1)
    # The store is lost.
    for name in ("keys.db", "keys.db-wal", "keys.db-shm"):
        (cli.folder / name).unlink(missing_ok=True)
    [result] = cli.ok("store", "restore", backup, "--json").of_type("summary")
    assert (result["keys"], result["lost"]) == (1, [])
    cli.ok("decrypt", "plain.srm", "-o", "again")
    assert (cli.folder / "again").read_bytes() == b"value"
    cli.fails(exitcodes.OTHER, "store", "restore", backup)
    cli.fails(exitcodes.NOT_FOUND, "store", "restore", cli.folder / "none.db")
    backup.write_bytes(b"no store")
    cli.store.unlink()
    cli.fails(exitcodes.OTHER, "store", "restore", backup)
    assert not cli.store.exists()


def test_check_finds_damage(cli: Cli) -> None:
    import sqlite3

    with sqlite3.connect(cli.store) as connection:
        connection.execute("UPDATE strongroom_keys SET reason = 'x'")
    connection.close()
    assert "damaged" in cli.fails(exitcodes.OTHER, "store", "check").stderr


def test_migrate_has_nothing_to_do(cli: Cli) -> None:
    [found] = cli.ok("store", "migrate", "--json").of_type("summary")
    assert found["status"] == "current"
    assert not list(cli.folder.glob("*.schema-*"))


def test_doctor_tells_of_keys_in_no_backup(cli: Cli) -> None:
    [found] = cli.ok("doctor", "--json").of_type("doctor")
    assert found["store"]["not_backed_up"] == 1
    assert "1 active key in no backup" in cli.ok("doctor").text
    cli.ok("store", "backup", cli.folder / "b.db")
    [found] = cli.ok("doctor", "--json").of_type("doctor")
    assert found["store"]["not_backed_up"] == 0


def test_a_store_moved_to_another_machine(cli: Cli, tmp_path: Path) -> None:
    """A backup is a store: it is read where it lies, with the master at hand."""
    (cli.folder / "plain").write_bytes(b"value")
    cli.ok("encrypt", "plain")
    cli.ok("store", "backup", cli.folder / "b.db")
    away = tmp_path / "away"
    away.mkdir()
    shutil.copy(cli.folder / "b.db", away)
    cli.ok("decrypt", "plain.srm", "-o", "again", "--store", away / "b.db")
    assert (cli.folder / "again").read_bytes() == b"value"


def test_restored_with_the_audit_log(cli: Cli) -> None:
    """What a process of its own sealed in the log is brought into the restored store."""
    log = cli.folder / "audit.log"
    cli.env["STRONGROOM_AUDIT"] = str(log)
    old = cli.current_key()
    backup = cli.folder / "b.db"
    cli.ok("store", "backup", backup)
    cli.ok("keys", "rotate")
    lost = cli.current_key()
    cli.ok("keys", "destroy", old, "--force", "--yes")
    for name in ("keys.db", "keys.db-wal", "keys.db-shm"):
        (cli.folder / name).unlink(missing_ok=True)
    [result] = cli.ok("store", "restore", backup, "--audit-log", log, "--json").of_type("summary")
    assert (result["lost"], result["destroyed"], result["rotated"]) == ([lost], [old], ["default"])
    assert key(cli, old)["state"] == "destroyed"
    assert cli.current_key() not in (old, lost)
    cli.ok("audit", "verify", log)
    # A log that was changed says nothing.
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 1
    log.write_bytes(data)
    cli.store.unlink()
    del cli.env["STRONGROOM_AUDIT"]
    cli.fails(exitcodes.NOT_AUTHENTIC, "store", "restore", backup, "--audit-log", log)
    assert not cli.store.exists()


def test_an_older_copy_is_seen_by_the_audit_log(cli: Cli) -> None:
    log = cli.folder / "audit.log"
    cli.env["STRONGROOM_AUDIT"] = str(log)
    cli.ok("keys", "new", "--keyset", "before", "--create")
    older = cli.store.read_bytes()
    cli.ok("store", "check", "--audit-log", log)
    cli.ok("keys", "rotate")
    cli.ok("store", "check", "--audit-log", log)
    newer = cli.store.read_bytes()
    cli.store.write_bytes(older)
    cli.ok("store", "check")  # by itself it is sound
    said = cli.fails(exitcodes.OTHER, "store", "check", "--audit-log", log).stderr
    assert "older than it was" in said
    cli.store.write_bytes(newer)
    cli.ok("keys", "new", "--keyset", "after", "--create")
    cli.store.write_bytes(newer)
    said = cli.fails(exitcodes.OTHER, "store", "check", "--audit-log", log).stderr
    assert "'after'" in said


def test_files_keep_their_keys(cli: Cli) -> None:
    first = cli.current_key()
    tree = cli.folder / "tree"
    (tree / "inside").mkdir(parents=True)
    for name in ("a", "inside/b"):
        (tree / name).write_bytes(b"value")
        cli.ok("encrypt", tree / name)
    (tree / "link").symlink_to(cli.folder)
    shown = cli.ok("inspect", "-r", tree, "--json").of_type("item")
    assert [item["path"] for item in shown] == [str(tree / "a.srm"), str(tree / "inside/b.srm")]
    cli.ok("keys", "rotate")
    [noted] = cli.ok("keys", "register", tree, "--json").of_type("key")
    assert (noted["key_ids"], noted["files"]) == ([first], 2)
    said = cli.fails(exitcodes.KEY_STATE, "keys", "destroy", first).stderr
    assert f"files in {tree}" in said
    # One file still names it.
    cli.ok("rewrap", tree / "a.srm")
    cli.ok("keys", "register", tree)
    cli.fails(exitcodes.KEY_STATE, "keys", "destroy", first)
    cli.ok("rewrap", tree / "inside/b.srm")
    cli.ok("keys", "register", tree)
    cli.ok("keys", "destroy", first)
    cli.fails(exitcodes.NOT_FOUND, "keys", "register", cli.folder / "none")
    cli.fails(exitcodes.NOT_FOUND, "inspect", "-r", cli.folder / "none")
