"""The lock of an audit log: waited for so long and no longer, who holds it, and forks."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from audit_help import log
from cli_runner import COMMAND
from strongroom import CryptoAuditLogger, audit, errors

KEY = "00112233445566778899aabbccddeeff"
# nanosleep and clock_nanosleep, of x86-64 and of 64-bit ARM.
NANOSLEEP = ("35", "230", "101", "115")
HOLDER = (
    "import fcntl, sys\n"
    "file = open(sys.argv[1], 'r+')\n"
    "fcntl.flock(file, fcntl.LOCK_EX)\n"
    "print('held', flush=True)\n"
    "sys.stdin.read()\n"
)

__all__ = ["log"]


@contextlib.contextmanager
def held(log: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until its stdin is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, f"{log}.lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        assert process.stdin is not None
        process.stdin.close()


def wait_until_open(process: subprocess.Popen[bytes], path: str) -> None:
    """Wait until a process has a file open."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        with contextlib.suppress(FileNotFoundError):
            folder = f"/proc/{process.pid}/fd"
            if any(os.readlink(f"{folder}/{fd}") == path for fd in os.listdir(folder)):
                return
        time.sleep(0.01)
    raise AssertionError(f"{path} was not opened")


def test_the_wait_ends_and_says_who_holds_it(log: Path) -> None:
    logger = CryptoAuditLogger.open(log, lock_timeout=0.3)
    with held(log) as holder:
        began = time.monotonic()
        with pytest.raises(errors.AuditError) as caught:
            logger.log_key_destruction(KEY)
        assert 0.3 <= time.monotonic() - began < 10
        text = str(caught.value)
        assert f"can't lock {log}.lock within 0.3 s: process {holder.pid} (python" in text
        with pytest.raises(errors.AuditError, match=f"process {holder.pid} "):
            CryptoAuditLogger.open(log, lock_timeout=0)
    # Nothing is left of what was refused.
    logger.log_key_destruction(KEY)
    logger.close()
    assert [record.name for record in audit.records(log)] == ["log.opened", "key.destroyed"]


def test_this_process_itself_may_hold_it(log: Path) -> None:
    import fcntl

    logger = CryptoAuditLogger.open(log, lock_timeout=0.1)
    with open(f"{log}.lock", "r+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(errors.AuditError, match=rf"this process itself \({os.getpid()}\)"):
            logger.log_key_destruction(KEY)
    logger.close()


def test_threads_wait_together(log: Path) -> None:
    logger = CryptoAuditLogger.open(log, lock_timeout=1.0)
    refused: list[str] = []

    def write() -> None:
        with pytest.raises(errors.AuditError, match="can't lock"):
            logger.log_key_destruction(KEY)
        refused.append("")

    with held(log):
        began = time.monotonic()
        threads = [threading.Thread(target=write) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # Each by itself would be 6 seconds.
        assert time.monotonic() - began < 4
    assert len(refused) == 6
    logger.close()


def test_open_goes_on_without_the_lock(log: Path) -> None:
    with CryptoAuditLogger.open(log, policy="open", lock_timeout=0.1) as logger:
        with held(log), pytest.warns(RuntimeWarning, match="can't lock"):
            logger.log_key_destruction(KEY)
        logger.log_key_export(KEY)
    names = [record.name for record in audit.records(log)]
    assert names == ["log.opened", "log.gap", "key.exported"]


def test_a_reader_waits_and_ctrl_c_ends_it(log: Path) -> None:
    CryptoAuditLogger.open(log).close()
    for code in ("import strongroom, sys; strongroom.audit.verify(sys.argv[1])", None):
        command = [sys.executable, "-c", code] if code else [*COMMAND, "audit", "verify"]
        with held(log):
            process = subprocess.Popen(
                [*command, str(log)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            wait_until_open(process, f"{log}.lock")
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=20)
            assert process.returncode in (-signal.SIGINT, 130), stderr
            # A reader that is not interrupted goes on when it is free.
            process = subprocess.Popen(
                [*command, str(log)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            wait_until_open(process, f"{log}.lock")
        assert process.wait(timeout=30) == 0, process.communicate()
        process.communicate()


def test_ctrl_c_ends_a_writer_s_wait(log: Path) -> None:
    CryptoAuditLogger.open(log).close()
    code = (
        "import strongroom as s, sys\n"
        "log = s.CryptoAuditLogger.open(sys.argv[1])\n"
        "print('open', flush=True); sys.stdin.readline()\n"
        "try: log.log_key_destruction('0' * 32)\n"
        "except KeyboardInterrupt: print('interrupted', flush=True)\n"
        "sys.stdin.readline()\n"
        "log.log_key_destruction('1' * 32); log.close()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(log)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with held(log):
            process.stdin.write("\n")
            deadline = time.monotonic() + 20
            # It sleeps between two tries, which is where a signal finds it.
            while Path(f"/proc/{process.pid}/syscall").read_text().split()[0] not in NANOSLEEP:
                assert time.monotonic() < deadline
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "interrupted\n"
        process.stdin.write("\n")
        assert process.wait(timeout=30) == 0
    keys = [r.event.get("key_id") for r in audit.records(log)]
    assert keys == [None, "1" * 32]


def test_a_signal_handler_may_report_meanwhile(log: Path) -> None:
    """It is the thread that waits: to wait for itself would be for ever."""
    logger = CryptoAuditLogger.open(log)
    with held(log) as holder:

        def handler(*_: object) -> None:
            logger.log_key_export("1" * 32)
            with pytest.raises(errors.AuditError, match="already"):
                logger.flush()
            assert holder.stdin is not None
            holder.stdin.close()

        before = signal.signal(signal.SIGALRM, handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            logger.log_key_destruction(KEY)
        finally:
            signal.signal(signal.SIGALRM, before)
    logger.close()
    names = [record.name for record in audit.records(log)]
    assert names == ["log.opened", "key.destroyed", "key.exported"]
    assert audit.verify(log).uncovered == 0


def test_a_child_does_not_keep_the_lock_of_a_parent_that_died(log: Path) -> None:
    code = (
        "import fcntl, os, strongroom as s, sys\n"
        "log = s.CryptoAuditLogger.open(sys.argv[1])\n"
        "fcntl.flock(log._log().lock_descriptor, fcntl.LOCK_EX)\n"
        "if os.fork() == 0:\n"
        "    print('child', flush=True)\n"
        "    sys.stdin.read()\n"
        "    log.log_key_destruction('1' * 32)\n"
        "    log.close()\n"
        "os._exit(0)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(log)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "child\n"
        assert process.wait(timeout=30) == 0
        with CryptoAuditLogger.open(log, lock_timeout=5) as logger:
            logger.log_key_destruction("2" * 32)
        process.stdin.close()
        assert process.stdout.read() == ""
    keys = [r.event.get("key_id") for r in audit.records(log)]
    assert keys == [None, "2" * 32, "1" * 32]


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan")])
def test_a_timeout_is_a_number_of_seconds(log: Path, seconds: float) -> None:
    with pytest.raises(ValueError, match="lock_timeout"):
        CryptoAuditLogger.open(log, lock_timeout=seconds)
