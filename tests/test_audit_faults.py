"""The audit log under crashes, full disks and many processes, and as others see it.

faults.md R17 is `rust/core/tests/audit.rs`: every bit, record and cut. Here are R18's replaced log
(test_audit.py), R19, and the independent verifier.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from independent import tlog
from strongroom import CryptoAuditLogger, audit, errors

KEY = "00112233445566778899aabbccddeeff"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


def vkey_of(log: Path) -> str:
    return log.with_name(log.name + ".vkey").read_text().strip()


def checkpoint_of(log: Path) -> bytes:
    return log.with_name(log.name + ".checkpoint").read_bytes()


def fill(log: Path, count: int, **options) -> None:
    with CryptoAuditLogger.open(log, **options) as logger:
        made = [{"key_id": KEY, "count": number} for number in range(count)]
        from strongroom.audit import event

        logger._seal([event.build("key.wrapped", "success", f) for f in made], "checkpoint")


# --- Seen by others.


def test_the_independent_verifier_agrees(log: Path) -> None:
    sizes = (1, 2, 3, 7, 64, 300)
    notes = []
    for size in sizes:
        fill(log, size, rotate_bytes=20_000)
        notes.append(checkpoint_of(log))
    vkey = vkey_of(log)
    size, covered, torn = tlog.verify(log, vkey, notes)
    found = audit.verify(log)
    assert (size, covered, torn) == (found.size, found.covered, b"")
    assert found.files > 1
    for seq in (0, 1, 2, 17, 255, 256, size - 1):
        proof, line = audit.prove_inclusion(log, seq)
        assert tlog.check_inclusion(proof, line, vkey) == seq
        with pytest.raises(tlog.Bad):
            tlog.check_inclusion(proof, line[:-1] + b" ", vkey)
        with pytest.raises(tlog.Bad):
            tlog.check_inclusion(proof.replace(b"index ", b"index 1"), line, vkey)
    for text in notes:
        proof = audit.prove_consistency(log, text)
        tlog.check_consistency(proof, text, vkey)
        if proof.count(b"\n", 0, proof.index(b"\n\n")) > 1:
            cut = re.sub(rb"\n[^\n]+\n\n", b"\n\n", proof, count=1)
            with pytest.raises(tlog.Bad):
                tlog.check_consistency(cut, text, vkey)
    # The tiles, whole and partial, against the definition of the tree.
    leaves = [tlog.leaf(record.line) for record in audit.records(log)]
    folder = log.with_name(log.name + ".tiles")
    assert tlog.tile(folder, 0, 0) == leaves[:256]
    assert tlog.tile(folder, 0, 1, size - 256) == leaves[256:]
    assert tlog.tile(folder, 1, 0, 1) == [tlog.mth(leaves[:256])]


def test_both_verifiers_refuse_the_same(log: Path) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    fill(log, 19)
    good, vkey = log.read_bytes(), vkey_of(log)
    lines = good.splitlines(keepends=True)
    for _ in range(300):
        what = rng.randrange(5)
        bad = list(lines)
        a, b = rng.sample(range(20), 2)
        if what == 0:
            changed = bytearray(good)
            changed[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
            bad = [bytes(changed)]
        elif what == 1:
            del bad[a]
        elif what == 2:
            bad.insert(b, bad[a])
        elif what == 3:
            bad[a], bad[b] = bad[b], bad[a]
        else:
            bad = [good[: rng.randrange(len(good))]]
        log.write_bytes(b"".join(bad))
        with pytest.raises(errors.AuditIntegrityError):
            audit.verify(log)
        with pytest.raises(tlog.Bad):
            tlog.verify(log, vkey)


def test_a_torn_tail_is_torn_to_both(log: Path) -> None:
    fill(log, 5)
    good, vkey = log.read_bytes(), vkey_of(log)
    line = good.splitlines(keepends=True)[-1]
    for end in range(1, len(line)):
        log.write_bytes(good + line[:end])
        assert audit.verify(log, index=False).torn == end
        assert tlog.verify(log, vkey)[2] == line[:end]
    # The next writer sets it aside and says so.
    with CryptoAuditLogger.open(log):
        pass
    assert log.with_name("audit.log.torn-6").read_bytes() == line[:end]
    recovered = list(audit.records(log))[-1]
    assert recovered.name == "log.recovered"
    assert recovered.event["bytes"] == end
    assert tlog.verify(log, vkey)[0] == 7


def test_a_tail_that_was_set_aside_before_is_kept(log: Path) -> None:
    fill(log, 5)
    good = log.read_bytes()
    aside = [log.with_name(f"audit.log.torn-6{more}") for more in ("", ".2", ".3")]
    # By writers that died before they had cut it off; this one does so twice, of the same tail.
    aside[0].write_bytes(b"another")
    for tail in (b'{"event": 1', b'{"event": 1', b'{"event": 2'):
        log.write_bytes(good + tail)
        for more in (".checkpoint", ".state"):
            kept = log.with_name(f"audit.log{more}.kept")
            there = log.with_name(f"audit.log{more}")
            if kept.exists():
                there.write_bytes(kept.read_bytes())
            kept.write_bytes(there.read_bytes())
        with CryptoAuditLogger.open(log):
            pass
    found = [path.read_bytes() for path in aside]
    assert found == [b"another", b'{"event": 1', b'{"event": 2']


# --- Many at once.


def test_four_processes_a_thousand_records_each(log: Path) -> None:
    CryptoAuditLogger.open(log).close()
    code = (
        "import sys, strongroom as s\n"
        "with s.CryptoAuditLogger.open(sys.argv[1]) as log:\n"
        "    from strongroom.audit import event\n"
        "    for n in range(1000):\n"
        "        said = {'key_id': sys.argv[2], 'count': n}\n"
        "        made = event.build('key.wrapped', 'success', said)\n"
        "        log._seal([made], 'disk')\n"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", code, str(log), f"{number:032x}"])
        for number in range(4)
    ]
    assert [child.wait(timeout=300) for child in children] == [0] * 4
    found = audit.verify(log)
    assert (found.size, found.uncovered, found.torn) == (4001, 0, 0)
    of_key: dict[str, list[int]] = {}
    for record in list(audit.records(log))[1:]:
        of_key.setdefault(record.event["key_id"], []).append(record.event["count"])
    assert of_key == {f"{number:032x}": list(range(1000)) for number in range(4)}


def test_threads_of_one_process(log: Path) -> None:
    with CryptoAuditLogger.open(log) as logger:

        def write() -> None:
            for _ in range(25):
                logger.log_key_destruction(KEY)

        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert audit.verify(log).size == 101


def test_four_that_make_the_same_log(log: Path) -> None:
    code = (
        "import sys, strongroom as s\n"
        "with s.CryptoAuditLogger.open(sys.argv[1]) as log: log.log_key_destruction('0' * 32)\n"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(log)]) for _ in range(4)]
    assert [child.wait(timeout=120) for child in children] == [0] * 4
    names = [record.name for record in audit.records(log)]
    assert sorted(names) == ["key.destroyed"] * 4 + ["log.opened"]
    audit.verify(log)


# --- Crashes. The child prints each record that was acknowledged.

CHILD = """
import sys, strongroom as s
from strongroom.audit import event
with s.CryptoAuditLogger.open(sys.argv[1], rotate_bytes=int(sys.argv[2])) as log:
    for n in range(6):
        try:
            log.event('key.wrapped', 'success', {'key_id': sys.argv[3], 'count': n})
            print(n, flush=True)
        except s.AuditError as error:
            print('refused', flush=True)
"""
CALLS = ("write", "fdatasync", "fsync", "rename", "ftruncate", "openat", "flock")


def child(log: Path, *options: object, run: str, rotate: int = 1500) -> tuple[int, list[str]]:
    command = ["strace", "-f", "-o", os.devnull, *options] if options else []
    done = subprocess.run(
        [*map(str, command), sys.executable, "-c", CHILD, str(log), str(rotate), run],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout.split()


def check_after(log: Path, acknowledged: dict[str, list[int]]) -> None:
    """No acknowledged record is lost, and the log goes on."""
    if log.with_name("audit.log.checkpoint").exists() and log.exists():
        audit.verify(log, index=False)
    code, said = child(log, run="after")
    assert (code, said) == (0, [str(n) for n in range(6)])
    found = audit.verify(log, index=False)
    assert (found.torn, found.uncovered) == (0, 0)
    seen: dict[str, list[int]] = {}
    for record in audit.records(log):
        if record.name == "key.wrapped":
            seen.setdefault(record.event["key_id"], []).append(record.event["count"])
    assert seen["after"] == list(range(6))
    for run, counts in acknowledged.items():
        assert [n for n in seen.get(run, []) if n in counts] == counts, (run, counts, seen)


def crash(tmp_path: Path, call: str, when: int, fault: str) -> bool:
    """Run once with a fault at one call; False once there are no more such calls."""
    log = tmp_path / f"{call}-{when}-{fault.partition('=')[2].replace('+', '')}" / "audit.log"
    log.parent.mkdir()
    paths = []
    for suffix in (
        "",
        ".checkpoint",
        ".checkpoint.new",
        ".state",
        ".state.new",
        ".key",
        ".key.new",
    ):
        paths += ["-P", f"{log}{suffix}"]
    for suffix in (".vkey.new", ".lock"):
        paths += ["-P", f"{log}{suffix}"]
    paths += ["-P", str(log.parent)]
    options = [*paths, "-e", f"trace={call}", "-e", f"inject={call}:{fault}:when={when}"]
    code, said = child(log, *options, run="first")
    hit = code != 0 or "refused" in said
    check_after(log, {"first": [int(word) for word in said if word.isdigit()]})
    return hit


SAMPLES = [
    ("write", "signal=KILL"),
    ("fdatasync", "signal=KILL"),
    ("fsync", "signal=KILL"),
    ("rename", "signal=KILL"),
    ("write", "error=ENOSPC"),
    ("fdatasync", "error=EIO"),
    ("fsync", "error=EIO"),
    ("rename", "error=EIO"),
]


@pytest.mark.parametrize(("call", "fault"), SAMPLES)
def test_killed_or_failed_at_a_call(tmp_path: Path, call: str, fault: str) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    for when in random.Random(seed).sample(range(1, 25), 2):
        crash(tmp_path, call, when, fault)


@pytest.mark.sweep
@pytest.mark.parametrize(("call", "fault"), SAMPLES)
def test_killed_or_failed_at_every_call(tmp_path: Path, call: str, fault: str) -> None:
    hits = misses = when = 0
    # A failure in writing the cache is none of the log's, so some of the calls fail and nothing
    # shows; after the last of them none does.
    while misses < 8:
        when += 1
        if crash(tmp_path, call, when, fault):
            hits, misses = hits + 1, 0
        else:
            misses += 1
    assert hits >= 4


def test_a_full_disk(log: Path) -> None:
    """RLIMIT_FSIZE cuts a write in the middle, as a disk that fills up does."""
    fill(log, 3)
    size = log.stat().st_size
    code = (
        "import resource, signal, sys, strongroom as s\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "log = s.CryptoAuditLogger.open(sys.argv[1])\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size} + 100, resource.RLIM_INFINITY))\n"
        "try: log.log_key_destruction('0' * 32)\n"
        "except s.AuditError as error: print(error)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size} + 5000, resource.RLIM_INFINITY))\n"
        "log.log_key_destruction('1' * 32)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(log)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "can't append" in done.stdout
    assert list(audit.records(log))[-1].event["key_id"] == "1" * 32
    assert audit.verify(log).size == 5


def test_data_goes_on_while_the_disk_is_full(log: Path, tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys, warnings, strongroom as s\n"
        "warnings.simplefilter('ignore')\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "log = s.audit.enable(sys.argv[1])\n"
        "c = s.SecureEncryption(s.generate_key())\n"
        "import os\n"
        "size = os.stat(sys.argv[1]).st_size\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))\n"
        "for _ in range(3): c.encrypt(b'x')\n"
        "try: log.flush()\n"
        "except s.AuditError: print('full')\n"
        "for _ in range(4): c.encrypt(b'x')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (size + 9000, resource.RLIM_INFINITY))\n"
        "s.audit.disable()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(log)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "full\n"), done.stderr
    counts = [r.event["count"] for r in audit.records(log) if r.name == "data.encrypted"]
    assert sum(counts) == 7


# --- The whole library.


@pytest.mark.sweep
def test_the_tests_of_key_stores_with_the_log_on(log: Path) -> None:
    """Those tests pass, and their log tells a possible life of each key, each step once."""
    tests = Path(__file__).parent
    names = ("keystore", "keystore_states", "keystore_processes", "masters", "envelope", "files")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        # That one counts on commits that are quick.
        + ["-k", "not threads_share_a_store and not postgresql"]
        + [str(tests / f"test_{name}.py") for name in names],
        env={**os.environ, "STRONGROOM_AUDIT": str(log)},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    found = audit.verify(log)
    assert found.uncovered == 0
    assert found.size > 500
    lives: dict[str, list[str]] = {}
    uncertain: set[str] = set()
    for record in audit.records(log):
        if not record.name.startswith("key.") or record.name in (
            "key.limit",
            "key.compromised_use",
        ):
            continue
        event = record.event
        if record.failed:
            # Taken back, or not known to have been committed.
            uncertain.add(event.get("key_id", ""))
        if record.name == "key.rotated":
            lives.setdefault(event["old_key_id"], []).append("key.retired")
        lives.setdefault(event.get("key_id", ""), []).append(record.name)
    certain = {key: life for key, life in lives.items() if key not in uncertain}
    assert len(certain) > 100
    for key, life in certain.items():
        assert life.count("key.generated") == 1, (key, life)
        assert life[0] == "key.generated", (key, life)
        assert life.count("key.destroyed") <= 1, (key, life)
        assert "key.destroyed" not in life[:-1], (key, life)
        for one, two in itertools.pairwise(life):
            assert one != two, (key, life)


# --- Bounds.


def test_memory_does_not_grow_with_the_log(log: Path) -> None:
    fill(log, 60_000)
    with log.open("ab") as file:
        # One line of 40 MiB that never ends.
        file.write(b'{"event":{"a":"' + b"x" * (40 << 20))
    code = (
        "import sys, resource, strongroom as s\n"
        "s.audit.verify\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "found = s.audit.verify(sys.argv[1])\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "print(found.size, found.torn > 40 << 20, grown)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(log)], capture_output=True, text=True, timeout=120
    )
    size, torn, grown = done.stdout.split()
    assert (size, torn) == ("60001", "True"), done.stderr
    assert int(grown) < 16 * 1024


def test_the_report_stands_alone(log: Path) -> None:
    from html.parser import HTMLParser

    from strongroom.audit.report import write_report

    with CryptoAuditLogger.open(log) as logger:
        logger.log_key_generation(KEY, "AES-256-GCM", "data")
        logger.log_key_activation(KEY)
        logger.log_decryption_failure(KEY, "<script>alert(1)</script>")
        logger.log_key_compromise(KEY, 'a "reason" & <b>more</b>')
    page = log.with_name("report.html")
    written = write_report(log, page)
    assert written == (5, 1, True)
    text = page.read_text()
    tags: set[str] = set()
    attributes: list[tuple[str, str | None]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, found: list[tuple[str, str | None]]) -> None:
            tags.add(tag)
            attributes.extend(found)

    Reader().feed(text)
    assert not tags & {"script", "link", "img", "iframe", "object", "b-script", "form"}
    assert not {name for name, _ in attributes} & {"src", "href", "onclick", "onload", "action"}
    assert "http" not in text.replace("http-equiv", "")
    assert "<script>" not in text
    assert "prefers-color-scheme:dark" in text
    assert "The log is whole" in text
    assert "compromised" in text
    log.write_bytes(log.read_bytes().replace(b"AES-256-GCM", b"AES-128-GCM"))
    assert not write_report(log, page).whole
    assert "The log was changed" in page.read_text()
