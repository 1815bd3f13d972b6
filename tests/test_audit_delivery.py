"""What goes wrong beside the sealing of events, and that nothing is lost or told twice by it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import strongroom
from audit_help import KEY, log, names, nothing_enabled
from strongroom import CryptoAuditLogger, audit, errors

__all__ = ["log", "nothing_enabled"]


def counted(log: Path, name: str = "data.encrypted") -> int:
    return sum(r.event["count"] for r in audit.records(log) if r.name == name)


THREAD = """
import os, sys, threading, time, strongroom as s
path, data = sys.argv[1:]
told = []
heard = threading.Event()
def hook(arguments):
    told.append((arguments.exc_type.__name__, str(arguments.exc_value)))
    heard.set()
threading.excepthook = hook
log = s.audit.enable(s.CryptoAuditLogger.open(path, data=data))
cipher = s.SecureEncryption(s.generate_key())
whole = open(path, 'rb').read()
os.truncate(path, 10)
cipher.encrypt(b'x')
assert heard.wait(30), 'not told'
assert told[0][0] == 'RuntimeWarning' and 'not recorded at present' in told[0][1], told
assert log._thread.is_alive()
open(path, 'wb').write(whole)
cipher.encrypt(b'x')
deadline = time.monotonic() + 30
while not any(r.name == 'data.encrypted' for r in s.audit.records(path)):
    assert time.monotonic() < deadline, 'the thread does not go on'
    time.sleep(0.05)
assert log._thread.is_alive()
s.audit.disable()
log.close()
assert len(told) == 1, told
"""


@pytest.mark.parametrize("data", ["totals", "each"])
def test_a_warning_that_is_an_error_does_not_end_the_thread(log: Path, data: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", THREAD, str(log), data],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert counted(log) == 2
    audit.verify(log)


def test_a_checkpoint_that_waits_is_written_without_more_data(log: Path) -> None:
    code = (
        "import sys, time, strongroom as s\n"
        "log = s.audit.enable(s.CryptoAuditLogger.open(sys.argv[1], data='each'))\n"
        "s.SecureEncryption(s.generate_key()).encrypt(b'x')\n"
        "deadline = time.monotonic() + 30\n"
        "while True:\n"
        "    found = s.audit.verify(sys.argv[1])\n"
        "    if found.size == 2 == found.covered: break\n"
        "    assert time.monotonic() < deadline, found\n"
        "    time.sleep(0.05)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(log)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# The thread that seals data tells it too, if its second is over by then.
@pytest.mark.filterwarnings("ignore:data operations are not recorded")
@pytest.mark.parametrize("data", ["totals", "each"])
def test_what_can_not_be_covered_is_not_said_twice(
    log: Path, data: Literal["totals", "each"]
) -> None:
    """Its checkpoint fails after the records are written: they are taken back."""
    audit.enable(CryptoAuditLogger.open(log, data=data))
    logger = audit._enabled
    assert logger is not None
    blocked = Path(f"{log}.checkpoint.new")
    blocked.mkdir()
    cipher = strongroom.SecureEncryption(strongroom.generate_key())
    for _ in range(3):
        cipher.encrypt(b"x")
    for _ in range(2):
        with pytest.raises(errors.AuditError, match=r"can't write .*checkpoint"):
            logger.log_key_destruction(KEY)
        with pytest.raises(errors.AuditError, match=r"can't write .*checkpoint"):
            logger.flush()
    blocked.rmdir()
    logger.log_key_destruction(KEY)
    audit.disable()
    logger.close()
    assert counted(log) == 3
    assert names(log).count("key.destroyed") == 1
    assert audit.verify(log).uncovered == 0


def test_a_batch_that_fails_in_the_middle_is_not_sealed_twice(log: Path) -> None:
    code = (
        "import os, resource, signal, sys, warnings, strongroom as s\n"
        "warnings.simplefilter('ignore')\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "log = s.CryptoAuditLogger.open(sys.argv[1], data='each')\n"
        "log._start_thread = lambda: None\n"
        "s.audit.enable(log)\n"
        "c = s.SecureEncryption(s.generate_key())\n"
        "for _ in range(10_000): c.encrypt(b'x')\n"
        "size = os.stat(sys.argv[1]).st_size\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (size + 4_000_000, resource.RLIM_INFINITY))\n"
        "try: log.flush()\n"
        "except s.AuditError: print('full')\n"
        "sealed = s.audit.verify(sys.argv[1]).size\n"
        "assert 2 < sealed < 10_000, sealed\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))\n"
        "s.audit.disable()\n"
        "log.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(log)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "full\n"), done.stderr
    assert counted(log) == 10_000
    assert audit.verify(log).size == 10_001


def test_a_tail_that_was_set_aside_is_told_later_if_not_at_once(log: Path) -> None:
    with CryptoAuditLogger.open(log) as logger:
        with log.open("ab") as file:
            file.write(b"torn")
        blocked = Path(f"{log}.checkpoint.new")
        blocked.mkdir()
        with pytest.raises(errors.AuditError, match="checkpoint"):
            logger.log_key_destruction(KEY)
        blocked.rmdir()
        logger.log_key_destruction(KEY)
    assert names(log) == ["log.opened", "log.recovered", "key.destroyed"]
    assert audit.verify(log).torn == 0


class Refusing(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        raise ValueError("a filter that fails")


def test_a_filter_that_raises_ends_no_operation(log: Path) -> None:
    logger = logging.getLogger("crypto.refusing")
    refusing = Refusing()
    logger.addFilter(refusing)
    try:
        with CryptoAuditLogger(logger, log) as ours:
            with pytest.warns(RuntimeWarning, match="could not be logged: a filter"):
                ours.log_key_destruction(KEY)
    finally:
        logger.removeFilter(refusing)
    assert names(log) == ["log.opened", "key.destroyed"]


def test_a_warning_is_told_of_the_caller(log: Path) -> None:
    with CryptoAuditLogger.open(log, policy="open") as logger:
        whole = log.read_bytes()
        os.truncate(log, 10)
        with pytest.warns(RuntimeWarning, match="not recorded") as caught:
            logger.log_key_destruction(KEY)
        log.write_bytes(whole)
    assert caught[0].filename == __file__


def test_a_newer_release_s_log_is_not_written(log: Path) -> None:
    """Also while it is open: what can't be sealed is the policy's matter then."""
    logger = CryptoAuditLogger.open(log, policy="open")
    checkpoint = Path(f"{log}.checkpoint")
    kept = checkpoint.read_text()
    checkpoint.write_text(kept.replace("strongroom.audit/", "strongroom.audit2/"))
    log.write_bytes(log.read_bytes() + b"x")
    with pytest.warns(RuntimeWarning, match="newer version"):
        logger.log_key_destruction(KEY)
    checkpoint.write_text(kept)
    logger.log_key_export(KEY)
    logger.close()
    assert names(log) == ["log.opened", "log.recovered", "log.gap", "key.exported"]
