"""Ctrl-C and its like in the middle of the work, and the progress bar that is seen meanwhile."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
from pathlib import Path

import pytest
from cli_runner import Cli, Terminal, wait_until
from strongroom.cli import exitcodes

MIB = 1 << 20
SIGNALS = [
    (signal.SIGINT, exitcodes.INTERRUPTED),
    (signal.SIGTERM, 128 + signal.SIGTERM),
    (signal.SIGHUP, 128 + signal.SIGHUP),
]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path).init()


def sparse(path: Path, size: int) -> Path:
    """A file that takes long to read and no room."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


def entries(cli: Cli) -> set[Path]:
    """What is in the directory, without the key store, whose -wal comes and goes."""
    return {path for path in cli.folder.rglob("*") if not path.name.startswith("keys.db")}


def interrupted(cli: Cli, number: signal.Signals, *words: object, **settings: object) -> int:
    """Start a command, and send it a signal when it has made a file that was not there.

    Returns:
        The exit code; nothing of what it made is left.
    """
    before = entries(cli)
    with cli.start(*words, **settings) as process:
        wait_until(lambda: entries(cli) != before, process)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert b"Traceback" not in stderr
    assert stderr.endswith(b"strongroom: interrupted\n")
    assert entries(cli) == before
    return process.returncode


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_encrypting_a_big_file(cli: Cli, number: signal.Signals, code: int) -> None:
    sparse(cli.folder / "big", 8192 * MIB)
    assert interrupted(cli, number, "encrypt", "big") == code


def test_decrypting_a_big_file(cli: Cli) -> None:
    sparse(cli.folder / "big", 768 * MIB)
    cli.ok("encrypt", "big")
    (cli.folder / "big").unlink()
    assert interrupted(cli, signal.SIGINT, "decrypt", "big.srm") == exitcodes.INTERRUPTED
    (cli.folder / "big.srm").unlink()


def test_a_tree(cli: Cli) -> None:
    root = cli.folder / "tree"
    root.mkdir()
    for number in range(50):
        (root / f"small {number}").write_bytes(b"x")
    sparse(root / "big", 8192 * MIB)
    (cli.folder / "sealed").mkdir()
    with cli.start("encrypt", "-r", "tree", "-o", "sealed") as process:
        wait_until(lambda: any((cli.folder / "sealed").iterdir()), process)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == exitcodes.INTERRUPTED
    # What has its name is whole, and a second run goes on from there.
    done = [path for path in (cli.folder / "sealed").iterdir() if path.suffix == ".srm"]
    assert done == list((cli.folder / "sealed").iterdir())
    assert not (cli.folder / "sealed" / "big.srm").exists()
    if done:
        cli.ok("verify", *done)


def test_stdin_to_a_file(cli: Cli) -> None:
    read, write = os.pipe()
    os.write(write, b"some data")
    code = interrupted(cli, signal.SIGINT, "encrypt", "-", "-o", "out.srm", stdin=read)
    os.close(read)
    os.close(write)
    assert code == exitcodes.INTERRUPTED


def test_to_a_reader_who_waits(cli: Cli) -> None:
    """It hangs in a write to a full pipe when the signal comes."""
    sparse(cli.folder / "big", 64 * MIB)
    cli.ok("encrypt", "big")
    with cli.start("decrypt", "big.srm", "-o", "-") as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"\0"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == exitcodes.INTERRUPTED
        assert process.stderr is not None
        said = process.stderr.read()
    assert b"incomplete" in said
    assert said.endswith(b"strongroom: interrupted\n")


def test_in_json(cli: Cli) -> None:
    sparse(cli.folder / "big", 8192 * MIB)
    before = entries(cli)
    with cli.start("encrypt", "big", "--json") as process:
        wait_until(lambda: entries(cli) != before, process)
        process.send_signal(signal.SIGINT)
        stdout, _ = process.communicate(timeout=60)
    assert process.returncode == exitcodes.INTERRUPTED
    assert b'"code": 130' in stdout
    assert stdout.count(b"\n") == 1


def test_ignored_signals_stay_ignored(cli: Cli) -> None:
    """nohup."""
    sparse(cli.folder / "big", 256 * MIB)

    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    before = entries(cli)
    with cli.start("encrypt", "big", preexec_fn=ignore) as process:
        wait_until(lambda: entries(cli) != before, process)
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=60)
    assert process.returncode == 0


# -- progress --------------------------------------------------------------------------------


def feed_until(terminal: Terminal, pipe: int, text: str) -> None:
    """Give the command more to do until the terminal shows a text."""
    block = bytes(64 * 1024)
    os.set_blocking(pipe, False)
    while text not in terminal.seen:
        readable, writable, _ = select.select([terminal.fileno()], [pipe], [], 60)
        assert readable or writable, terminal.seen
        if readable:
            assert terminal.read_some(), f"{text!r} never came: {terminal.seen!r}"
        elif writable:
            os.write(pipe, block)


@pytest.mark.parametrize("colour", [True, False])
def test_bar_on_a_terminal(cli: Cli, colour: bool) -> None:
    if not colour:
        cli.env["NO_COLOR"] = "1"
    read, write = os.pipe()
    with Terminal(
        cli, "encrypt", "-", "-o", "out.srm", stdin=read, stdout=subprocess.DEVNULL
    ) as terminal:
        os.close(read)
        feed_until(terminal, write, "MB/s")
        os.close(write)
        assert terminal.end() == 0
        shown = terminal.seen
    assert "encrypting" in shown
    coloured = re.search(r"\x1b\[[0-9;]*3[0-9][0-9;]*m", shown) is not None
    assert coloured == colour
    assert (cli.folder / "out.srm").stat().st_size > 0


@pytest.mark.parametrize("where", ["quiet", "pipe"])
def test_no_bar_elsewhere(cli: Cli, where: str) -> None:
    sparse(cli.folder / "big", 1024 * MIB)
    if where == "pipe":
        said = cli.ok("encrypt", "big").stderr
    else:
        with Terminal(cli, "encrypt", "big", "-q") as terminal:
            assert terminal.end() == 0
            said = terminal.seen
    (cli.folder / "big.srm").unlink()
    assert said == ""


@pytest.mark.parametrize("killed", [False, True])
def test_a_tree_beside_tidies_up_after_the_dead_alone(cli: Cli, killed: bool) -> None:
    (cli.folder / "tree").mkdir()
    (cli.folder / "tree" / "x").write_bytes(b"x")
    (cli.folder / "sealed").mkdir()
    before = entries(cli)
    with cli.start("encrypt", "-", "-o", "sealed/out", stdin=subprocess.PIPE) as process:
        wait_until(lambda: entries(cli) != before, process)
        [temporary] = entries(cli) - before
        assert temporary.stat().st_mode & 0o777 == 0o600
        if killed:
            process.kill()
            process.wait()
        # The lock comes before the file.
        cli.ok("encrypt", "-r", "tree", "-o", "sealed")
        assert temporary.exists() != killed
        process.communicate(b"data")
    assert (cli.folder / "sealed" / "out").exists() != killed
    assert not temporary.exists()
