"""docs/recovery.md, followed to the letter: its commands, on stores that were lost."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from cli_runner import Cli
from strongroom.cli import exitcodes

PAGE = Path(__file__).parents[1] / "docs" / "recovery.md"


def commands(section: str) -> list[list[str]]:
    blocks = re.findall(rf"```sh {section}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert blocks, section
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def follow(cli: Cli, section: str) -> None:
    for name, *words in commands(section):
        if name == "mv":
            shutil.move(cli.folder / words[0], cli.folder / words[1])
            # And what SQLite left beside it.
            for suffix in ("-wal", "-shm"):
                (cli.folder / f"{words[0]}{suffix}").unlink(missing_ok=True)
        else:
            assert name == "strongroom"
            cli.ok(*words)


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """A store with something encrypted under it, and what the page asks for beforehand."""
    made = Cli(tmp_path).init()
    (tmp_path / "recovery.txt").write_text("correct horse battery staple")
    (tmp_path / "plain").write_bytes(b"value")
    made.ok("encrypt", "plain")
    follow(made, "before")
    return made


def reads(cli: Cli, *options: object) -> bool:
    (cli.folder / "again").unlink(missing_ok=True)
    return cli.run("decrypt", "plain.srm", "-o", "again", *options).code == 0


def test_every_block_is_followed() -> None:
    sections = set(re.findall(r"```sh ([\w-]+)", PAGE.read_text()))
    assert sections == {"before", "store-lost", "master-lost", "only-master-lost"}
    assert "```\n\n```" not in PAGE.read_text()


def test_the_store_is_lost(cli: Cli) -> None:
    cli.store.write_bytes(cli.store.read_bytes()[:5000])
    assert not reads(cli)
    follow(cli, "store-lost")
    assert reads(cli)
    assert (cli.folder / "keys.db.lost").stat().st_size == 5000


def test_the_store_is_lost_with_a_key_that_no_backup_holds(cli: Cli) -> None:
    cli.ok("keys", "rotate")
    cli.ok("encrypt", "plain", "-o", "later.srm")
    follow(cli, "store-lost")
    assert reads(cli)
    cli.fails(exitcodes.NOT_FOUND, "decrypt", "later.srm", "-o", "x")


def test_a_policy_closes_that_gap(cli: Cli) -> None:
    cli.ok("keys", "policy", "--promote", "after-backup")
    cli.ok("keys", "rotate")
    cli.ok("encrypt", "plain", "-o", "later.srm")
    follow(cli, "store-lost")
    cli.ok("decrypt", "later.srm", "-o", "x")


def test_a_master_is_lost(cli: Cli) -> None:
    cli.key_file.unlink()
    assert not reads(cli)
    follow(cli, "master-lost")
    assert reads(cli)
    cli.ok("encrypt", "plain", "-o", "later.srm")
    # The backup of before opens by the recovery master, and no longer by the one that was lost.
    assert reads(
        cli, "--store", "backup.db", "--master", "passphrase:", "--passphrase-file", "recovery.txt"
    )


def test_the_only_master_is_lost(tmp_path: Path) -> None:
    cli = Cli(tmp_path).init()
    (tmp_path / "plain").write_bytes(b"value")
    cli.ok("encrypt", "plain")
    cli.key_file.unlink()
    follow(cli, "only-master-lost")
    # There is a new store; what was written under the old one is gone.
    cli.fails(exitcodes.NOT_FOUND, "decrypt", "plain.srm", "-o", "x")
    cli.fails(exitcodes.NOT_FOUND, "decrypt", "plain.srm", "-o", "x", "--store", "new.db")
    cli.fails(exitcodes.MASTER_REFUSED, "keys", "list", "--master", "file:new.key")
    cli.ok("keys", "list", "--store", "new.db")
