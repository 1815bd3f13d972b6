"""`strongroom encrypt`, `decrypt`, `verify`, `rewrap`, `inspect`: names, trees, pipes, JSON."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
import strongroom
from cli_runner import Cli, Terminal
from strongroom.cli import exitcodes

PLAIN = bytes(range(256)) * 1000  # more than one chunk, and no whole number of them
CHUNK = 16_384


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    cli = Cli(tmp_path).init()
    (tmp_path / "plain").write_bytes(PLAIN)
    return cli


@pytest.fixture
def tree(cli: Cli) -> Path:
    """A directory with all that a tree may hold and a command should take."""
    root = cli.folder / "tree"
    for name in ("a", "sub/b", "sub/deep/c", "-dash", "new\nline", "plain.srm"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 5000)
    Path(os.fsdecode(os.fsencode(root) + b"/not \xff utf-8")).write_bytes(b"bytes")
    (root / "nothing").write_bytes(b"")
    (root / "empty folder").mkdir()
    (root / "link").symlink_to("a")
    (root / "dangling").symlink_to("/nonexistent")
    return root


def contents(root: Path) -> dict[str, bytes | str | None]:
    """Every entry below a directory: bytes of a file, target of a link, else None."""
    found: dict[str, bytes | str | None] = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.mknod(path, stat.S_IFSOCK | 0o600)])
def test_a_pipe_never_replaces_what_is_no_file(cli: Cli, make: Callable[[Path], None]) -> None:
    target = cli.folder / "node"
    make(target)
    before = target.lstat()
    result = cli.run("encrypt", "-", "-o", target, "--force", input=PLAIN)
    assert result.code == exitcodes.OTHER
    assert "only regular files are replaced" in result.stderr
    assert (target.lstat().st_ino, target.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert cli.leftovers() == []


# -- single files ----------------------------------------------------------------------------


def test_beside_the_source(cli: Cli) -> None:
    result = cli.ok("encrypt", "plain")
    assert (result.stdout, result.stderr) == (b"", "")
    assert (cli.folder / "plain").read_bytes() == PLAIN, "the source stays"
    (cli.folder / "plain").unlink()
    result = cli.ok("decrypt", "plain.srm")
    assert (result.stdout, result.stderr) == (b"", "")
    assert (cli.folder / "plain").read_bytes() == PLAIN
    assert (cli.folder / "plain.srm").exists()
    assert not cli.leftovers()


def test_output_names(cli: Cli) -> None:
    cli.ok("encrypt", "plain", "-o", "x")
    cli.fails(exitcodes.USAGE, "decrypt", "x")
    cli.ok("decrypt", "x", "-o", "y")
    assert (cli.folder / "y").read_bytes() == PLAIN
    cli.ok("encrypt", "plain", "--suffix", ".sealed")
    cli.ok("decrypt", "plain.sealed", "--suffix", ".sealed", "-o", "z")
    assert (cli.folder / "z").read_bytes() == PLAIN


def test_several_files(cli: Cli) -> None:
    (cli.folder / "two").write_bytes(b"2")
    result = cli.ok("encrypt", "plain", "two")
    assert "2 files encrypted" in result.stderr
    (cli.folder / "out").mkdir()
    cli.ok("decrypt", "plain.srm", "two.srm", "-o", "out")
    assert contents(cli.folder / "out") == {"plain": PLAIN, "two": b"2"}
    assert cli.ok("encrypt", "plain", "two", "-q", "--force").stderr == ""


def test_one_of_several_fails(cli: Cli) -> None:
    (cli.folder / "two").write_bytes(b"2")
    result = cli.fails(exitcodes.SOME_FAILED, "encrypt", "plain", "not-there", "two", "-q")
    assert result.stderr.count("\n") == 1
    assert "not-there" in result.stderr
    assert (cli.folder / "plain.srm").exists()
    assert (cli.folder / "two.srm").exists()


def test_nothing_is_replaced_without_force(cli: Cli) -> None:
    (cli.folder / "plain.srm").write_bytes(b"mine")
    result = cli.fails(exitcodes.OTHER, "encrypt", "plain")
    assert "plain.srm" in result.stderr
    assert (cli.folder / "plain.srm").read_bytes() == b"mine"
    cli.fails(exitcodes.OTHER, "encrypt", "-", "-o", "plain.srm", input=b"x")
    assert (cli.folder / "plain.srm").read_bytes() == b"mine"
    cli.ok("encrypt", "plain", "--force")
    cli.fails(exitcodes.OTHER, "decrypt", "plain.srm")
    (cli.folder / "plain").write_bytes(b"other")
    cli.ok("decrypt", "plain.srm", "-f")
    assert (cli.folder / "plain").read_bytes() == PLAIN
    assert not cli.leftovers()


def test_sources_that_are_no_files(cli: Cli) -> None:
    (cli.folder / "folder").mkdir()
    (cli.folder / "link").symlink_to("plain")
    os.mkfifo(cli.folder / "fifo")
    for name, code in (
        ("not-there", exitcodes.NOT_FOUND),
        ("folder", exitcodes.OTHER),
        ("link", exitcodes.OTHER),
        ("fifo", exitcodes.OTHER),
        ("/dev/null", exitcodes.OTHER),
    ):
        result = cli.fails(code, "encrypt", name, "-o", "out")
        assert name in result.stderr
        assert not (cli.folder / "out").exists()
    cli.fails(exitcodes.OTHER, "encrypt", "plain", "-o", "plain", "--force")
    assert (cli.folder / "plain").read_bytes() == PLAIN
    cli.fails(exitcodes.OTHER, "encrypt", "plain", "-o", "folder", "--force")
    cli.fails(exitcodes.NOT_FOUND, "encrypt", "plain", "-o", "no/such/folder")


def test_odd_names(cli: Cli) -> None:
    for name in (b"-rf", b"--json", b"new\nline", b"\xff\xfe", "Grüße".encode(), b"a b"):
        path = os.path.join(os.fsencode(cli.folder), name)
        with open(path, "wb") as file:
            file.write(name)
        cli.ok("encrypt", "--", name)
        os.unlink(path)
        cli.ok("decrypt", "--", name + b".srm")
        with open(path, "rb") as file:
            assert file.read() == name


def test_associated_data(cli: Cli) -> None:
    data = "Ünïcode".encode()
    (cli.folder / "data").write_bytes(data)
    cli.ok("encrypt", "plain", "--associated-data-file", "data")
    cli.fails(exitcodes.NOT_AUTHENTIC, "decrypt", "plain.srm", "-o", "x")
    cli.fails(exitcodes.NOT_AUTHENTIC, "decrypt", "plain.srm", "-o", "x", "--associated-data", "y")
    assert not (cli.folder / "x").exists()
    cli.ok("decrypt", "plain.srm", "-o", "x", "--associated-data", data)
    cli.ok("verify", "plain.srm", "--associated-data", data)
    # Every byte of the file counts, its last newline too.
    (cli.folder / "data").write_bytes(data + b"\n")
    cli.fails(exitcodes.NOT_AUTHENTIC, "verify", "plain.srm", "--associated-data-file", "data")
    (cli.folder / "data").write_bytes(b"x" * 65_535)
    cli.ok("encrypt", "plain", "-f", "--associated-data-file", "data")
    (cli.folder / "data").write_bytes(b"x" * 65_536)
    cli.fails(exitcodes.USAGE, "verify", "plain.srm", "--associated-data-file", "data")
    cli.fails(exitcodes.NOT_FOUND, "verify", "plain.srm", "--associated-data-file", "none")


def test_keyset_is_looked_at_alone(cli: Cli) -> None:
    cli.ok("keys", "new", "--create", "--keyset", "tenant")
    cli.ok("encrypt", "plain", "--keyset", "tenant")
    cli.fails(exitcodes.NOT_FOUND, "decrypt", "plain.srm", "-o", "x")
    cli.fails(exitcodes.NOT_FOUND, "decrypt", "plain.srm", "-o", "x", "--keyset", "none")
    cli.ok("decrypt", "plain.srm", "-o", "x", "--keyset", "tenant")


def test_passphrase_and_store_in_one_message(cli: Cli) -> None:
    """-p alone is a passphrase alone; a keyset that is named beside it opens the message too."""
    (cli.folder / "phrase").write_text("open sesame\n")
    phrase = ("--passphrase-file", "phrase")
    cli.ok("encrypt", "plain", "-p", *phrase, "-o", "alone")
    cli.ok("encrypt", "plain", "-p", *phrase, "--keyset", "default", "-o", "both")
    assert strongroom.inspect(cli.folder / "alone").key_ids == ()
    assert strongroom.inspect(cli.folder / "both").key_ids == (cli.current_key(),)
    for words in (["both"], ["both", "-p", *phrase], ["alone", *phrase]):
        cli.ok("decrypt", *words, "-o", "out", "-f")
        assert (cli.folder / "out").read_bytes() == PLAIN
    cli.store.unlink()
    cli.ok("verify", "both", "-p", *phrase)
    cli.ok("verify", "alone", *phrase)
    cli.fails(exitcodes.NOT_FOUND, "verify", "both")
    # A file without a passphrase in it is not opened by one.
    cli.init()
    cli.ok("encrypt", "plain")
    cli.fails(exitcodes.NOT_FOUND, "verify", "plain.srm", "-p", *phrase)


# -- pipes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 1_000_000])
def test_pipes(cli: Cli, size: int) -> None:
    plain = (PLAIN * 4)[:size]
    message = cli.ok("encrypt", "-", input=plain).stdout
    assert cli.ok("decrypt", "-", input=message).stdout == plain
    assert cli.ok("decrypt", "-", "-o", "-", input=message).stdout == plain
    cli.ok("decrypt", "-", "-o", "file", input=message)
    assert (cli.folder / "file").read_bytes() == plain
    assert cli.ok("verify", "-", input=message).text == "-: ok\n"
    cli.ok("encrypt", "-", "-o", "file.srm", input=plain)
    assert cli.ok("decrypt", "file.srm", "-o", "-").stdout == plain
    assert cli.ok("decrypt", "-", input=cli.ok("encrypt", "file", "-o", "-").stdout).stdout == plain
    assert not cli.leftovers()


def test_pipe_to_pipe(cli: Cli) -> None:
    with (
        cli.start("encrypt", "-", stdin=subprocess.PIPE) as sealing,
        cli.start("decrypt", "-", stdin=sealing.stdout) as opening,
    ):
        assert sealing.stdin is not None
        assert sealing.stdout is not None
        assert opening.stdout is not None
        sealing.stdout.close()
        sealing.stdin.write(PLAIN)
        sealing.stdin.close()
        assert opening.stdout.read() == PLAIN
    assert (sealing.returncode, opening.returncode) == (0, 0)


def test_each_chunk_comes_once_it_is_authentic(cli: Cli) -> None:
    """The reader has the plaintext of the first half while the second is still to be sent."""
    message = cli.ok("encrypt", "-", input=PLAIN * 40).stdout
    half = len(message) // 2
    seen = threading.Event()
    with cli.start("decrypt", "-", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def feed(pipe: IO[bytes]) -> None:
            pipe.write(message[:half])
            pipe.flush()
            seen.wait()
            pipe.write(message[half:])
            pipe.close()

        feeder = threading.Thread(target=feed, args=(process.stdin,))
        feeder.start()
        first = process.stdout.read(len(PLAIN) * 8)
        seen.set()
        assert first + process.stdout.read() == PLAIN * 40
        feeder.join()
    assert process.returncode == 0


@pytest.mark.parametrize("what", ["cut", "flipped", "longer"])
def test_damage_on_a_pipe_is_13_and_told(cli: Cli, what: str) -> None:
    message = bytearray(cli.ok("encrypt", "-", input=PLAIN * 4).stdout)
    if what == "cut":
        del message[-20_000:]
    elif what == "flipped":
        message[-1] ^= 1
    else:
        message += b"\0"
    result = cli.fails(exitcodes.NOT_AUTHENTIC, "decrypt", "-", input=bytes(message))
    assert "incomplete" in result.stderr
    assert (PLAIN * 4).startswith(result.stdout), "what came is true"
    assert len(result.stdout) < len(PLAIN * 4)
    result = cli.fails(exitcodes.NOT_AUTHENTIC, "decrypt", "-", "-o", "x", input=bytes(message))
    assert not (cli.folder / "x").exists()
    assert not cli.leftovers()


def test_reader_who_leaves(cli: Cli) -> None:
    (cli.folder / "big").write_bytes(PLAIN * 20)
    cli.ok("encrypt", "big")
    with cli.start("decrypt", "big.srm", "-o", "-") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == exitcodes.OTHER


def test_full_disk_under_stdout(cli: Cli) -> None:
    cli.ok("encrypt", "plain")
    with open("/dev/full", "wb") as full:
        result = cli.run("decrypt", "plain.srm", "-o", "-", stdout=full)
    assert result.code == exitcodes.OTHER
    assert "No space left" in result.stderr
    assert "incomplete" in result.stderr


def test_json_and_data_do_not_mix(cli: Cli) -> None:
    for words in (["encrypt", "-"], ["encrypt", "plain", "-o", "-"], ["decrypt", "-"]):
        result = cli.fails(exitcodes.USAGE, *words, "--json", input=b"")
        assert result.objects[0]["code"] == exitcodes.USAGE


# -- trees -----------------------------------------------------------------------------------


def test_tree_there_and_back(cli: Cli, tree: Path) -> None:
    before = contents(tree)
    result = cli.ok("encrypt", "-r", "tree", "-o", "sealed")
    assert f"{sum(isinstance(v, bytes) for v in before.values())} files encrypted" in result.stderr
    assert result.stdout == b""
    sealed = contents(cli.folder / "sealed")
    assert set(sealed) == {n + ".srm" if isinstance(v, bytes) else n for n, v in before.items()}
    cli.ok("verify", "-r", "sealed")
    cli.ok("keys", "rotate")
    cli.ok("rewrap", "-r", "sealed")
    new = cli.current_key()
    for name, value in sealed.items():
        if isinstance(value, bytes):
            assert strongroom.inspect(cli.folder / "sealed" / name).key_ids == (new,)
    cli.ok("decrypt", "-r", "sealed", "-o", "back")
    assert contents(cli.folder / "back") == before
    assert contents(tree) == before
    assert not cli.leftovers()


def test_target_that_is_there_maps_alike(cli: Cli, tree: Path) -> None:
    (cli.folder / "sealed").mkdir()
    cli.ok("encrypt", "-r", "tree", "-o", "sealed")
    assert (cli.folder / "sealed" / "a.srm").exists()
    assert (cli.folder / "sealed" / "sub" / "deep" / "c.srm").exists()


def test_several_sources_keep_their_names(cli: Cli, tree: Path) -> None:
    (cli.folder / "other").mkdir()
    (cli.folder / "other" / "x").write_bytes(b"x")
    cli.ok("encrypt", "-r", "tree", "other/", "plain", "-o", "sealed")
    for name in ("tree/a.srm", "tree/sub/b.srm", "other/x.srm", "plain.srm"):
        assert (cli.folder / "sealed" / name).exists(), name


def test_what_is_left_out_is_3(cli: Cli, tree: Path) -> None:
    os.mkfifo(tree / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(tree)  # The name of a socket is at most 107 bytes.
        try:
            listener.bind("socket")
        finally:
            os.chdir(here)
        result = cli.fails(exitcodes.SOME_FAILED, "encrypt", "-r", "tree", "-o", "sealed", "--json")
    skipped = {Path(o["path"]).name for o in result.objects if o["status"] == "skipped"}
    assert skipped == {"fifo", "socket"}
    assert result.objects[-1]["counts"]["skipped"] == 2
    assert "fifo: skipped: " in result.stderr
    (cli.folder / "sealed" / "no suffix").write_bytes(b"x")
    result = cli.fails(exitcodes.SOME_FAILED, "decrypt", "-r", "sealed", "-o", "back")
    assert "no suffix" in result.stderr
    assert contents(cli.folder / "back").keys() == contents(tree).keys() - {"fifo", "socket"}


def test_a_damaged_file_in_a_tree_is_3(cli: Cli, tree: Path) -> None:
    cli.ok("encrypt", "-r", "tree", "-o", "sealed")
    victim = cli.folder / "sealed" / "a.srm"
    message = bytearray(victim.read_bytes())
    message[-1] ^= 1
    victim.write_bytes(message)
    for words in (["verify", "-r", "sealed"], ["decrypt", "-r", "sealed", "-o", "back"]):
        result = cli.fails(exitcodes.SOME_FAILED, *words, "--json")
        [failed] = [o for o in result.objects if o["status"] == "failed" and o["type"] == "item"]
        assert (failed["error"], failed["code"]) == ("DecryptionError", 13)
        assert failed["path"].endswith("a.srm")
    assert contents(cli.folder / "back").keys() == contents(tree).keys() - {"a"}


def test_run_again_replaces_nothing(cli: Cli, tree: Path) -> None:
    cli.ok("encrypt", "-r", "tree", "-o", "sealed")
    before = contents(cli.folder / "sealed")
    again = cli.ok("encrypt", "-r", "tree", "-o", "sealed", "--json").objects[-1]
    assert again["counts"]["ok"] == 0
    assert again["counts"]["current"] > 0
    assert contents(cli.folder / "sealed") == before
    (cli.folder / "sealed" / "a.srm").write_bytes(b"mine")
    cli.fails(exitcodes.SOME_FAILED, "encrypt", "-r", "tree", "-o", "sealed")
    assert (cli.folder / "sealed" / "a.srm").read_bytes() == b"mine"
    cli.ok("encrypt", "-r", "tree", "-o", "sealed", "--force")
    assert contents(cli.folder / "sealed") != before


def test_tree_that_is_not_there(cli: Cli) -> None:
    cli.fails(exitcodes.NOT_FOUND, "encrypt", "-r", "no-such-tree", "-o", "sealed")
    assert not (cli.folder / "sealed").exists()


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_jobs(cli: Cli, tree: Path, jobs: str) -> None:
    cli.ok("encrypt", "-r", "tree", "-o", "sealed", "-j", jobs)
    cli.ok("decrypt", "-r", "sealed", "-o", "back", "-j", jobs)
    assert contents(cli.folder / "back") == contents(tree)


# -- verify, rewrap, inspect, dry run ----------------------------------------------------------


def test_verify_says_ok(cli: Cli) -> None:
    cli.ok("encrypt", "plain")
    before = contents(cli.folder)
    assert cli.ok("verify", "plain.srm").text == "plain.srm: ok\n"
    assert cli.ok("verify", "plain.srm", "-q").text == ""
    after = contents(cli.folder)
    # The store counts what its keys were used for.
    assert before.pop("keys.db") != after.pop("keys.db")
    assert after == before


def test_rewrap_in_place(cli: Cli) -> None:
    cli.ok("encrypt", "plain")
    path = cli.folder / "plain.srm"
    before = path.read_bytes()
    assert cli.ok("rewrap", "plain.srm").text == "plain.srm: current already\n"
    assert path.read_bytes() == before
    cli.ok("keys", "rotate")
    inode = path.stat().st_ino
    assert cli.ok("rewrap", "plain.srm").text == "plain.srm: rewrapped\n"
    assert path.stat().st_ino == inode
    assert path.read_bytes()[-len(PLAIN) :] == before[-len(PLAIN) :]
    [item, summary] = cli.ok("rewrap", "plain.srm", "--json").objects
    assert item["status"] == "current"
    assert summary["counts"] == {"ok": 0, "current": 1, "skipped": 0, "failed": 0}
    cli.ok("keys", "rotate")
    cli.ok("rewrap", "plain.srm", "--copy")
    assert path.stat().st_ino != inode
    assert strongroom.inspect(path).key_ids == (cli.current_key(),)
    cli.ok("decrypt", "plain.srm", "-f")


def test_destroyed_key(cli: Cli) -> None:
    cli.ok("encrypt", "plain")
    key = cli.current_key()
    cli.ok("keys", "rotate")
    cli.ok("verify", "plain.srm")
    cli.ok("keys", "destroy", key, "--yes", "--force")
    result = cli.fails(exitcodes.NOT_FOUND, "verify", "plain.srm")
    assert key in result.stderr or "destroyed" in result.stderr
    cli.fails(exitcodes.NOT_FOUND, "rewrap", "plain.srm")


def test_inspect(cli: Cli) -> None:
    cli.ok("encrypt", "plain")
    text = cli.ok("inspect", "plain.srm").text
    assert "envelope, version 2" in text
    assert cli.current_key() in text
    [item] = cli.ok("inspect", "plain.srm", "--json").objects
    info = strongroom.inspect(cli.folder / "plain.srm")
    assert (item["kind"], item["version"]) == ("envelope", 2)
    assert item["plaintext_length"] == len(PLAIN)
    assert item["length"] == (cli.folder / "plain.srm").stat().st_size
    assert item["salt"] == info.salt.hex()  # type: ignore[union-attr]
    assert [slot["kind"] for slot in item["slots"]] == ["keyset", "empty"]
    message = (cli.folder / "plain.srm").read_bytes()
    [piped] = cli.ok("inspect", "-", "--json", input=message).objects
    assert {**piped, "path": None} == {**item, "path": None}


def test_inspect_needs_no_store(cli: Cli) -> None:
    (cli.folder / "phrase").write_text("x")
    cli.ok("encrypt", "plain", "-p", "--passphrase-file", "phrase")
    cli.store.unlink()
    cli.key_file.unlink()
    text = cli.ok("inspect", "plain.srm").text
    assert re.search(r"slot 1: passphrase, Argon2id with \d+ KiB, \d+ passes, \d+ lanes", text)


def test_inspect_of_a_record(cli: Cli) -> None:
    key = strongroom.generate_key()
    cipher = strongroom.SecureEncryption(key)
    (cli.folder / "record").write_bytes(cipher.encrypt(b"x"))
    assert f"key {cipher.key_id}" in cli.ok("inspect", "record").text
    [item] = cli.ok("inspect", "record", "--json").objects
    assert (item["kind"], item["plaintext_length"], item["slots"]) == ("record", 1, [])


def test_inspect_several(cli: Cli) -> None:
    cli.ok("encrypt", "plain")
    result = cli.fails(exitcodes.SOME_FAILED, "inspect", "plain.srm", "plain", "none", "--json")
    assert [o["status"] for o in result.objects] == ["ok", "failed", "failed"]
    assert [o.get("code") for o in result.objects] == [None, 16, 10]


def test_dry_run_does_nothing(cli: Cli, tree: Path) -> None:
    before = contents(cli.folder)
    assert cli.ok("encrypt", "plain", "--dry-run").text == "plain -> plain.srm\n"
    result = cli.ok("encrypt", "-r", "tree", "-o", "sealed", "--dry-run")
    assert "tree/sub/b -> sealed/sub/b.srm\n" in result.text
    assert contents(cli.folder) == before
    cli.ok("encrypt", "plain")
    cli.ok("encrypt", "-r", "tree", "-o", "sealed")
    before = contents(cli.folder)
    cli.ok("decrypt", "-r", "sealed", "-o", "back", "--dry-run")
    cli.fails(exitcodes.OTHER, "decrypt", "plain.srm", "--dry-run")
    cli.fails(exitcodes.NOT_FOUND, "decrypt", "none.srm", "--dry-run")
    cli.fails(exitcodes.NOT_A_MESSAGE, "decrypt", "plain", "-o", "x", "--dry-run")
    assert cli.ok("rewrap", "plain.srm", "--dry-run").text == "plain.srm: current already\n"
    cli.ok("keys", "rotate")
    assert cli.ok("rewrap", "plain.srm", "--dry-run").text == "plain.srm: would be rewrapped\n"
    objects = cli.ok("rewrap", "-r", "sealed", "--dry-run", "--json").objects
    assert {o["status"] for o in objects if o["type"] == "item"} == {"planned"}
    assert objects[-1]["dry_run"] is True
    after = contents(cli.folder)
    assert {n: v for n, v in after.items() if n != "keys.db"} == {
        n: v for n, v in before.items() if n != "keys.db"
    }


# -- JSON ------------------------------------------------------------------------------------


def test_json_of_files(cli: Cli) -> None:
    item, summary = cli.ok("encrypt", "plain", "--json").objects
    size = (cli.folder / "plain.srm").stat().st_size
    assert item == {
        "type": "item",
        "path": "plain",
        "target": "plain.srm",
        "status": "ok",
        "bytes_in": len(PLAIN),
        "bytes_out": size,
        "key_ids": [cli.current_key()],
        "kind": "envelope",
        "version": 2,
    }
    assert (summary["type"], summary["command"], summary["status"]) == ("summary", "encrypt", "ok")
    assert (summary["bytes_in"], summary["bytes_out"]) == (len(PLAIN), size)
    item, _ = cli.ok("decrypt", "plain.srm", "-f", "--json").objects
    assert (item["bytes_in"], item["bytes_out"]) == (size, len(PLAIN))
    assert (item["path"], item["target"]) == ("plain.srm", "plain")
    item, _ = cli.ok("verify", "plain.srm", "--json").objects
    assert (item["bytes_in"], item["bytes_out"]) == (size, len(PLAIN))


def test_json_of_trees(cli: Cli, tree: Path) -> None:
    objects = cli.ok("encrypt", "-r", "tree", "-o", "sealed", "--json").objects
    items = [o for o in objects if o["type"] == "item" and o["status"] == "ok"]
    files = [p for p in tree.rglob("*") if p.is_file() and not p.is_symlink()]
    assert len(items) == len(files) == objects[-1]["counts"]["ok"]
    assert {o["version"] for o in items} == {2}
    assert {o["kind"] for o in items} == {"envelope"}
    assert {tuple(o["key_ids"]) for o in items} == {(cli.current_key(),)}
    [odd] = [o for o in items if "path_base64" in o]
    assert "\ufffd" in odd["path"]
    assert sum(o["bytes_in"] for o in items) == objects[-1]["bytes_in"]
    assert objects[-1]["bytes_in"] == sum(p.stat().st_size for p in files)
    sealed = [p for p in (cli.folder / "sealed").rglob("*") if p.is_file() and not p.is_symlink()]
    assert objects[-1]["bytes_out"] == sum(p.stat().st_size for p in sealed)


def test_terminal_sequences_in_names_are_not_obeyed(cli: Cli) -> None:
    name = "\x1b[31mred"
    (cli.folder / name).write_bytes(b"x")
    result = cli.fails(exitcodes.NOT_A_MESSAGE, "verify", name)
    assert "\x1b" not in result.stderr
    with Terminal(cli, "encrypt", name, "--dry-run") as terminal:
        assert terminal.end() == 0
        assert "\x1b" not in terminal.seen
        assert r"\x1b[31mred.srm" in terminal.seen


def test_modes_of_what_comes_from_pipes(cli: Cli) -> None:
    cli.ok("encrypt", "-", "-o", "x.srm", input=b"x", umask=0o027)
    assert stat.S_IMODE((cli.folder / "x.srm").stat().st_mode) == 0o640
