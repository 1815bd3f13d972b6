"""`strongroom decrypt` and `verify` of records in files and pipes."""

from __future__ import annotations

from pathlib import Path

import pytest
import strongroom
from cli_runner import Cli
from strongroom.cli import exitcodes
from strongroom.files import decrypt_stream

LONGEST = 65_536


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path).init()


def record(cli: Cli, value: bytes, associated_data: bytes = b"", keyset: str = "default") -> bytes:
    master = strongroom.FileMasterKey(str(cli.key_file))
    with strongroom.KeyStore.open(f"sqlite:///{cli.store}", master) as store:
        if keyset not in store.keysets():
            store.create_keyset(keyset)
        message = strongroom.VersionedEncryption(store, keyset).encrypt(value, associated_data)
    assert strongroom.inspect(message).kind == "record"
    return message


@pytest.mark.parametrize("size", [0, 1, LONGEST])
def test_a_record_in_a_file_and_in_a_pipe(cli: Cli, size: int) -> None:
    value = bytes(size)
    message = record(cli, value)
    (cli.folder / "value.srm").write_bytes(message)
    assert cli.ok("verify", "value.srm").text == "value.srm: ok\n"
    assert cli.ok("verify", "-", input=message).text == "-: ok\n"
    cli.ok("decrypt", "value.srm")
    assert (cli.folder / "value").read_bytes() == value
    assert cli.ok("decrypt", "-", input=message).stdout == value
    [item] = cli.ok("decrypt", "value.srm", "-o", "other", "--json").of_type("item")
    assert (item["kind"], item["bytes_out"]) == ("record", size)
    assert item["key_ids"] == [cli.current_key()]
    assert not cli.leftovers()


def test_what_else_a_record_gets(cli: Cli) -> None:
    message = record(cli, b"value", b"row 7")
    (cli.folder / "value.srm").write_bytes(message)
    cli.fails(exitcodes.NOT_AUTHENTIC, "decrypt", "value.srm")
    assert not (cli.folder / "value").exists()
    cli.ok("decrypt", "value.srm", "--associated-data", "row 7")
    cli.fails(exitcodes.OTHER, "decrypt", "value.srm", "--associated-data", "row 7")
    (cli.folder / "value.srm").write_bytes(record(cli, b"value", keyset="another"))
    cli.fails(exitcodes.NOT_FOUND, "verify", "value.srm")
    cli.ok("verify", "value.srm", "--keyset", "another")
    (cli.folder / "phrase").write_text("x")
    phrase = ("-p", "--passphrase-file", "phrase")
    cli.fails(exitcodes.NOT_FOUND, "decrypt", "value.srm", "-o", "x", *phrase)
    assert not cli.leftovers()


@pytest.mark.parametrize("cut", [1, 3, 4, 20, 91])
def test_a_record_that_was_cut(cli: Cli, cut: int) -> None:
    (cli.folder / "cut.srm").write_bytes(record(cli, b"")[:cut])
    cli.fails(exitcodes.NOT_A_MESSAGE, "decrypt", "cut.srm")
    cli.fails(exitcodes.NOT_A_MESSAGE, "decrypt", "-", input=record(cli, b"")[:cut])
    assert not (cli.folder / "cut").exists()


def test_a_record_that_no_keyset_key_wrote(cli: Cli) -> None:
    message = strongroom.SecureEncryption(strongroom.generate_key()).encrypt(bytes(LONGEST + 1))
    result = cli.run("decrypt", "-", input=message)
    assert result.code != 0
    assert "SecureEncryption" in result.stderr


class Trickle:
    """Gives one byte at a time."""

    def __init__(self, data: bytes) -> None:
        self._data = [data[i : i + 1] for i in range(len(data))]

    def read(self, _: int) -> bytes:
        return self._data.pop(0) if self._data else b""


def test_a_record_that_trickles_in(cli: Cli, tmp_path: Path) -> None:
    message = record(cli, b"value")
    master = strongroom.FileMasterKey(str(cli.key_file))
    with (
        strongroom.KeyStore.open(f"sqlite:///{cli.store}", master) as store,
        (tmp_path / "out").open("wb", buffering=0) as out,
    ):
        for keyset in ("default", None):
            count = decrypt_stream(Trickle(message), out, store, keyset=keyset)
            assert (count, count.keyset) == (5, "default")
    assert (tmp_path / "out").read_bytes() == b"value" * 2
