"""Standard streams that are closed, full or pipes that nobody reads, under each kind of command."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
from pathlib import Path

import pytest
from cli_runner import COMMAND, Cli
from strongroom import CryptoAuditLogger
from strongroom.cli import exitcodes

# What each prints on stdout; {log} is an audit log.
PRINTING = [
    "--version",
    "--help",
    "completion bash",
    "keys list",
    "keys due",
    "store check",
    "verify a.srm",
    "inspect a.srm",
    "rewrap a.srm",
    "doctor",
    "audit verify {log}",
    "audit tail {log}",
    "audit prove {log} 0",
    "keys rotate",
    "keys new",
]
JSON = ("keys list", "keys due", "verify a.srm", "doctor", "audit tail {log}", "keys rotate")


@pytest.fixture
def run(tmp_path: Path) -> Cli:
    run = Cli(tmp_path).init()
    # Unbuffered, the first line fails and not the last.
    run.env.pop("PYTHONUNBUFFERED", None)
    (tmp_path / "a").write_bytes(b"plain")
    run.ok("encrypt", "a")
    CryptoAuditLogger.open(tmp_path / "log").close()
    return run


def shell(run: Cli, arguments: str, redirection: str) -> subprocess.CompletedProcess[str]:
    command = f"{' '.join(COMMAND)} {arguments.format(log='log')} {redirection}"
    return subprocess.run(
        ["sh", "-c", command], env=run.env, cwd=run.folder, capture_output=True, text=True
    )


def test_each_of_these_prints_something(run: Cli) -> None:
    for arguments in PRINTING:
        if arguments != "keys due":
            assert run.ok(*arguments.format(log="log").split()).stdout, arguments


@pytest.mark.parametrize(
    ("redirection", "why"),
    [
        (">&-", "Bad file descriptor"),
        ("1</dev/null", "Bad file descriptor"),
        (">/dev/full", "No space left on device"),
    ],
)
def test_stdout_that_takes_nothing_is_a_failure(run: Cli, redirection: str, why: str) -> None:
    for arguments in PRINTING:
        for flag in ("", " --json"):
            if (flag and arguments not in JSON) or (not flag and arguments == "keys due"):
                continue
            done = shell(run, arguments + flag, redirection)
            told = [line for line in done.stderr.splitlines() if why in line]
            context = (arguments + flag, done.returncode, done.stderr)
            assert done.returncode == exitcodes.OTHER, context
            assert len(told) == 1, context
            assert told[0].startswith("strongroom: "), context
            assert "Traceback" not in done.stderr, context


def test_nobody_reads_and_nobody_is_told(run: Cli) -> None:
    for arguments in ("--version", "keys list", "keys list --json", "audit tail {log}", "doctor"):
        with run.start(*arguments.format(log="log").split()) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            said = process.stderr.read()
        assert process.returncode == exitcodes.OTHER, (arguments, said)
        assert b"Traceback" not in said
        assert b"Broken pipe" not in said


def test_the_first_failure_keeps_its_code(run: Cli) -> None:
    for redirection in ("", ">&-", ">/dev/full"):
        for arguments, code in (
            ("keys list --keyset none --json", exitcodes.NOT_FOUND),
            ("keys list --no-such-option --json", exitcodes.USAGE),
            ("verify missing --json", exitcodes.NOT_FOUND),
        ):
            done = shell(run, arguments, redirection)
            assert done.returncode == code, (arguments, redirection, done.stderr)
            assert "strongroom: " in done.stderr
            assert "Traceback" not in done.stderr
        # What the others had to say is lost, which is told.
        done = shell(run, "verify a.srm missing", redirection)
        assert done.returncode == exitcodes.SOME_FAILED
        assert ("standard output: " in done.stderr) == bool(redirection)


def test_what_was_done_is_done(run: Cli) -> None:
    before = run.current_key()
    done = shell(run, "keys rotate", ">/dev/full")
    assert (done.returncode, done.stderr) == (
        exitcodes.OTHER,
        "strongroom: standard output: No space left on device\n",
    )
    assert run.current_key() != before
    assert len(run.ok("keys", "list", "--json").of_type("key")) == 2


def test_stderr_that_takes_nothing_ends_no_command(run: Cli) -> None:
    for redirection in ("2>&-", "2>/dev/full", "<&-", "<&- 2>&-"):
        done = shell(run, "keys list --json", redirection)
        assert (done.returncode, done.stderr) == (0, ""), redirection
        assert json.loads(done.stdout.splitlines()[0])["type"] == "key"
        done = shell(run, "audit verify log", redirection)
        assert (done.returncode, "1 record" in done.stdout) == (0, True), redirection
        assert shell(run, "verify missing", redirection).returncode == exitcodes.NOT_FOUND
    assert shell(run, "keys list", "<&- >&- 2>&-").returncode == exitcodes.OTHER


@pytest.mark.parametrize(
    "arguments", ["decrypt - <&-", "decrypt a.srm -o - >&-", "encrypt a -o - >&-"]
)
def test_closed_streams_are_no_other_file(run: Cli, arguments: str) -> None:
    # The number of a closed descriptor must not be given to the store, or to a source.
    done = shell(run, arguments, "")
    assert done.returncode == exitcodes.OTHER
    assert "Bad file descriptor" in done.stderr
    # Not byte by byte: it counts what its keys are used for.
    store = run.store.read_bytes()
    assert b"plain" not in store
    assert b"SR\x02\x02" not in store
    with contextlib.closing(sqlite3.connect(run.store)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    run.ok("verify", "a.srm")
