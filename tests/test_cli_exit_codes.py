"""Every exit code of the manual: by exception, and by the real command."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sqlite3
from pathlib import Path

import pytest
import strongroom
from cli_runner import Cli, imported
from strongroom import errors
from strongroom.cli import exitcodes
from strongroom.cli.exitcodes import CliError, code_of, sentence_of

MANUAL = Path(__file__).parents[1] / "docs" / "cli.md"


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    cli = Cli(tmp_path).init()
    (tmp_path / "plain").write_bytes(b"plaintext" * 10_000)
    cli.ok("encrypt", "plain")
    return cli


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CliError("x", 7), 7),
        (errors.StrongroomError("x"), 1),
        (errors.FormatError("x"), 16),
        (errors.UnsupportedVersionError("x"), 17),
        (errors.DecryptionError(), 13),
        (errors.LimitError("x"), 1),
        (errors.KeyNotFoundError("x", key_id="0" * 32), 10),
        (errors.KeyStateError("x", key_id="0" * 32, state="suspended"), 15),
        (errors.KeyStoreError("x"), 1),
        (errors.KeyStoreBusyError("x"), 11),
        (errors.MasterKeyError("x"), 12),
        (errors.MasterKeyError("x", retryable=True), 14),
        (errors.HSMError("x"), 12),
        (errors.HSMError("x", retryable=True), 14),
        (errors.RotationError("x"), 19),
        (errors.DatabaseRecoveryError("x"), 19),
        (errors.DatabaseBusyError("x"), 18),
        (errors.EncryptedDatabaseError("x"), 20),
        (errors.DatabaseCorruptError("x"), 20),
        (errors.DatabaseKeyError("x"), 20),
        (errors.NotADatabaseError("x"), 20),
        (errors.KeyRotatedError("x"), 20),
        (errors.AuditError("x"), 1),
        (errors.AuditIntegrityError("x"), 13),
        (FileNotFoundError(errno.ENOENT, "x", "y"), 10),
        (FileExistsError(errno.EEXIST, "x", "y"), 1),
        (PermissionError(errno.EACCES, "x", "y"), 1),
        (shutil.SameFileError("x"), 1),
        (ValueError("x"), 1),
        (MemoryError(), 1),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_every_exception_has_its_code(error: BaseException, code: int) -> None:
    assert code_of(error) == code
    assert sentence_of(error)


def test_no_exception_was_forgotten() -> None:
    here = Path(__file__).read_text()
    for name in errors.__all__:
        assert f"errors.{name}(" in here, name


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            FileNotFoundError(errno.ENOENT, os.strerror(2), "a\nb"),
            r"a\nb: No such file or directory",
        ),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (errors.KeyNotFoundError("no key 0"), "no key 0"),
        (errors.StrongroomError("a\x1b[2Jb"), r"a\x1b[2Jb"),
        (MemoryError(), "MemoryError"),
        (errors.DecryptionError(), errors.DecryptionError.TEXT),
    ],
)
def test_sentences(error: BaseException, sentence: str) -> None:
    assert sentence_of(error) == sentence


def test_the_manual_lists_the_codes() -> None:
    listed = {int(n) for n in re.findall(r"^\| (\d+) \|", MANUAL.read_text(), re.MULTILINE)}
    defined = {v for n, v in vars(exitcodes).items() if n.isupper() and isinstance(v, int)}
    assert listed == defined | {129, 143}


# -- by the real command ---------------------------------------------------------------------


def damaged(cli: Cli, change: object) -> Path:
    path = cli.folder / "damaged.srm"
    message = bytearray((cli.folder / "plain.srm").read_bytes())
    change(message)  # type: ignore[operator]
    path.write_bytes(message)
    return path


@pytest.mark.parametrize("command", ["decrypt", "verify", "rewrap"])
def test_13_16_17_by_what_is_damaged(cli: Cli, command: str) -> None:
    def body(message: bytearray) -> None:
        message[-1] ^= 1

    def version(message: bytearray) -> None:
        message[2] = 9

    def kind(message: bytearray) -> None:
        message[3] = 0x77

    def magic(message: bytearray) -> None:
        message[0] ^= 1

    def slots(message: bytearray) -> None:
        message[4] = 0

    def slot(message: bytearray) -> None:
        message[30] ^= 1

    def key_id(message: bytearray) -> None:
        message[8] ^= 1

    def cut(message: bytearray) -> None:
        del message[100:]

    codes = {
        body: exitcodes.NOT_AUTHENTIC,
        slot: exitcodes.NOT_AUTHENTIC,
        version: exitcodes.UNSUPPORTED_VERSION,
        kind: exitcodes.UNSUPPORTED_VERSION,
        magic: exitcodes.NOT_A_MESSAGE,
        slots: exitcodes.NOT_A_MESSAGE,
        cut: exitcodes.NOT_A_MESSAGE,
        key_id: exitcodes.NOT_FOUND,
    }
    if command == "rewrap":
        # Slots alone are looked at.
        del codes[body]
    for change, code in codes.items():
        path = damaged(cli, change)
        before = path.read_bytes()
        result = cli.fails(code, command, path)
        assert "damaged.srm" in result.stderr
        assert path.read_bytes() == before
        assert not (cli.folder / "damaged").exists()
        assert not cli.leftovers()


def test_an_empty_file_is_no_message(cli: Cli) -> None:
    (cli.folder / "empty.srm").write_bytes(b"")
    for command in ("decrypt", "verify", "rewrap", "inspect"):
        cli.fails(exitcodes.NOT_A_MESSAGE, command, "empty.srm")


def test_a_wild_cost_of_a_passphrase_is_refused_at_once(cli: Cli) -> None:
    (cli.folder / "phrase").write_text("x")
    phrase = ("-p", "--passphrase-file", "phrase")
    cli.ok("encrypt", "plain", "-f", *phrase)

    def memory(message: bytearray) -> None:
        message[8:12] = b"\xff" * 4

    result = cli.fails(exitcodes.OTHER, "verify", damaged(cli, memory), *phrase)
    assert "memory" in result.stderr.lower() or "KiB" in result.stderr


def test_15_key_states(cli: Cli) -> None:
    url = f"sqlite:///{cli.store}"
    old = cli.current_key()
    with strongroom.KeyStore.open(url, strongroom.FileMasterKey(cli.key_file)) as store:
        store.suspend_key(old, rotate=True)
    cli.fails(exitcodes.KEY_STATE, "decrypt", "plain.srm", "-o", "x")
    with strongroom.KeyStore.open(url, strongroom.FileMasterKey(cli.key_file)) as store:
        store.resume_key(old)
        store.suspend_key(store.get_current_key().id)
    cli.fails(exitcodes.KEY_STATE, "encrypt", "plain", "-o", "x")
    cli.fails(exitcodes.KEY_STATE, "keys", "destroy", old, "--yes", "--after", "0")
    assert not (cli.folder / "x").exists()


def test_a_compromised_key_means_encrypting_anew(cli: Cli) -> None:
    cli.ok("encrypt", "plain", "-f", "--associated-data", "name")
    url = f"sqlite:///{cli.store}"
    with strongroom.KeyStore.open(url, strongroom.FileMasterKey(cli.key_file)) as store:
        store.compromise_key(store.get_current_key().id, rotate=True)
    name = ("--associated-data", "name")
    refused = cli.fails(exitcodes.KEY_STATE, "verify", "plain.srm", *name)
    assert "--allow-compromised" in refused.stderr
    cli.fails(exitcodes.KEY_STATE, "decrypt", "plain.srm", "-o", "x", *name)
    cli.ok("verify", "plain.srm", "--allow-compromised", *name)
    cli.ok("decrypt", "plain.srm", "-o", "x", "--allow-compromised", *name)
    assert (cli.folder / "x").read_bytes() == (cli.folder / "plain").read_bytes()
    (cli.folder / "tree").mkdir()
    shutil.copy(cli.folder / "plain.srm", cli.folder / "tree")
    cli.fails(exitcodes.SOME_FAILED, "verify", "-r", "tree", *name)
    cli.ok("verify", "-r", "tree", "--allow-compromised", *name)
    cli.ok("decrypt", "-r", "tree", "-o", "back", "--allow-compromised", *name)
    salt = strongroom.inspect(cli.folder / "plain.srm").salt
    cli.fails(exitcodes.NOT_AUTHENTIC, "rewrap", "plain.srm")
    cli.ok("rewrap", "plain.srm", "--associated-data", "name")
    assert strongroom.inspect(cli.folder / "plain.srm").salt != salt
    cli.ok("verify", "plain.srm", "--associated-data", "name")


def test_11_busy_while_encrypting_is_no_matter(cli: Cli) -> None:
    blocker = sqlite3.connect(cli.store, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    try:
        cli.ok("encrypt", "plain", "-f")
    finally:
        blocker.close()


def test_decrypt_imports_no_more_than_it_needs(cli: Cli) -> None:
    (cli.folder / "small").write_bytes(b"small")
    cli.ok("encrypt", "small")
    found = imported(cli, "decrypt", "small.srm", "-f")
    assert {"click", "sqlite3", "strongroom.files"} <= found
    heavy = {"rich", "cryptography", "logging", "dataclasses", "json", "strongroom.audit"}
    assert not heavy & found
    # 149 as this was written; the bench has the time that they take.
    assert len(found) < 165
