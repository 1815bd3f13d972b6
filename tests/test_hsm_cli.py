"""`strongroom hsm`, and a store whose master is in a token, by the command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cli_runner import Cli, Terminal
from hsm_help import LABEL, PIN, Backend, label
from hsm_help import backend as backend
from strongroom.cli import exitcodes


@pytest.fixture
def cli(backend: Backend, tmp_path: Path) -> Cli:
    cli = Cli(tmp_path)
    cli.env |= {**backend.environment, "STRONGROOM_PKCS11_LIB": backend.path}
    (tmp_path / "pin").write_text(PIN + "\n")
    return cli


WHERE = ("--token", LABEL, "--pin-file", "pin")


def test_tokens(cli: Cli, backend: Backend) -> None:
    found = cli.ok("hsm", "tokens", "--json").of_type("token")
    [token] = [token for token in found if token["label"] == LABEL]
    assert token["initialized"]
    assert LABEL in cli.ok("hsm", "tokens").text
    cli.env.pop("STRONGROOM_PKCS11_LIB")
    cli.fails(exitcodes.USAGE, "hsm", "tokens")
    assert LABEL in cli.ok("hsm", "tokens", "--module", backend.path).text
    cli.fails(exitcodes.MASTER_REFUSED, "hsm", "tokens", "--module", "/nowhere.so")


def test_the_life_of_a_key(cli: Cli) -> None:
    name = label()
    [first] = cli.ok("hsm", "new", name, *WHERE, "--json").of_type("token key")
    assert (first["key_version"], first["state"], first["purpose"]) == (1, "active", "data")
    cli.fails(exitcodes.MASTER_REFUSED, "hsm", "new", name, *WHERE)
    [second] = cli.ok("hsm", "rotate", name, *WHERE, "--json").of_type("token key")
    assert second["key_version"] == 2
    listed = cli.ok("hsm", "keys", "--label", name, *WHERE, "--json").of_type("token key")
    assert [key["state"] for key in listed] == ["deactivated", "active"]
    assert "version 3  active" in cli.ok("hsm", "rotate", name, *WHERE).text
    [key_id] = first["key_ids"]
    no = cli.fails(exitcodes.USAGE, "hsm", "destroy", key_id, *WHERE)
    assert "no terminal" in no.stderr
    assert "destroyed" in cli.ok("hsm", "destroy", key_id, "--yes", *WHERE).text
    cli.fails(exitcodes.NOT_FOUND, "hsm", "destroy", key_id, "--yes", *WHERE)
    cli.fails(exitcodes.USAGE, "hsm", "destroy", "xyz", "--yes", *WHERE)
    assert key_id not in cli.ok("hsm", "keys", *WHERE).text


def test_the_self_test(cli: Cli, backend: Backend) -> None:
    checks = cli.ok("hsm", "test", *WHERE, "--json").of_type("check")
    results = {check["check"]: check["result"] for check in checks}
    kwp, pad = ("no", "yes") if backend.name == "softhsm" else ("yes", "no")
    assert results == {
        "random numbers": "yes", "key for data": "yes", "rotation": "yes", "encryption": "yes",
        "tampering": "yes", "64 KiB": "yes", "key for wrapping": "yes", "AES_KEY_WRAP_KWP": kwp,
        "AES_KEY_WRAP_PAD": pad, "AES_KEY_WRAP": "yes",
    }  # fmt: skip
    assert "RFC 5649" in cli.ok("hsm", "test", *WHERE).text
    # Nothing of it is left.
    assert "strongroom-test-" not in cli.ok("hsm", "keys", *WHERE).text


def test_where_the_pin_comes_from(cli: Cli) -> None:
    read, write = os.pipe()
    os.write(write, PIN.encode() + b"\n")
    os.close(write)
    cli.ok("hsm", "keys", "--token", LABEL, "--pin-fd", read, pass_fds=(read,))
    os.close(read)
    cli.ok("hsm", "keys", "--token", LABEL, "--pin-command", "cat pin")
    cli.ok("hsm", "keys", "--uri", f"pkcs11:token={LABEL}?pin-source=file:{cli.folder}/pin")
    asked = cli.fails(exitcodes.USAGE, "hsm", "keys", "--token", LABEL)
    assert "--pin-file" in asked.stderr
    cli.fails(exitcodes.USAGE, "hsm", "keys", *WHERE, "--pin-command", "cat pin")
    with Terminal(cli, "hsm", "keys", "--token", LABEL) as terminal:
        terminal.expect(f"PIN of the token {LABEL}: ")
        assert not terminal.echoes()
        terminal.send(PIN + "\n")
        assert terminal.end() == 0
        assert PIN not in terminal.seen
    (cli.folder / "wrong").write_text("0000")
    refused = cli.fails(
        exitcodes.MASTER_REFUSED, "hsm", "keys", "--token", LABEL, "--pin-file", "wrong"
    )
    assert "PIN is wrong" in refused.stderr
    assert "0000" not in refused.stderr
    cli.ok("hsm", "keys", *WHERE)


def test_a_store_with_its_master_in_the_token(cli: Cli, backend: Backend) -> None:
    name = label("master:")
    absent = cli.fails(exitcodes.MASTER_REFUSED, "init", "--master", f"pkcs11:token={LABEL};"
                       f"object={name}?pin-source=file:{cli.folder}/pin")  # fmt: skip
    assert "no key with the label" in absent.stderr
    assert not cli.store.exists()
    cli.ok("hsm", "new", name, *WHERE)
    uri = backend.uri(name, cli.folder / "pin")
    cli.ok("init", "--master", uri, "--no-recovery")
    (cli.folder / "a").write_bytes(b"plaintext")
    cli.ok("encrypt", "a")
    cli.ok("hsm", "rotate", name, *WHERE)
    cli.ok("decrypt", "a.srm", "-o", "b")
    assert (cli.folder / "b").read_bytes() == b"plaintext"
    [before] = cli.ok("master", "list", "--json").of_type("master")
    assert before["master"] == uri
    cli.ok("master", "rotate", uri)
    [after] = cli.ok("master", "list", "--json").of_type("master")
    assert before["key_ids"] != after["key_ids"]
    cli.ok("hsm", "destroy", before["key_ids"][0], "--yes", *WHERE)
    cli.ok("decrypt", "a.srm", "-o", "c")
    cli.ok("master", "test", uri)


def test_the_pin_of_a_master_is_asked_for(cli: Cli) -> None:
    name = label("master:")
    cli.ok("hsm", "new", name, *WHERE)
    uri = f"pkcs11:token={LABEL};object={name}"
    cli.ok("init", "--master", uri, "--no-recovery", "--passphrase-file", "pin")
    cli.ok("keys", "list", "--passphrase-file", "pin")
    cli.fails(exitcodes.USAGE, "keys", "list")
    with Terminal(cli, "keys", "list") as terminal:
        terminal.expect(f"PIN of the token {LABEL}: ")
        terminal.send(PIN + "\n")
        assert terminal.end() == 0
