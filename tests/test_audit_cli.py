"""`strongroom audit` and --audit, by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runner import Cli
from strongroom import CryptoAuditLogger, audit

KEY = "00112233445566778899aabbccddeeff"


@pytest.fixture
def run(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "audit.log"
    with CryptoAuditLogger.open(path) as logger:
        logger.log_key_generation(KEY, "AES-256-GCM", "data")
        logger.log_decryption_failure(KEY, "DecryptionError")
        logger.log_key_destruction("ff" * 16)
    return path


def test_verify(run: Cli, log: Path) -> None:
    done = run.ok("audit", "verify", str(log))
    assert "4 records in 1 file" in done.text
    assert "beside the log" in done.stderr
    vkey = log.with_name("audit.log.vkey")
    assert "beside the log" not in run.ok("audit", "verify", str(log), "--vkey", str(vkey)).stderr
    text = vkey.read_text().strip()
    summary = run.ok("audit", "verify", str(log), "--vkey", text, "--json").objects[-1]
    assert (summary["records"], summary["covered"], summary["own_key"]) == (4, 4, True)
    assert any("kept elsewhere" in limit for limit in summary["limits"])


def test_verify_of_a_changed_log_exits_13(run: Cli, log: Path) -> None:
    log.write_bytes(log.read_bytes().replace(b"AES-256-GCM", b"AES-128-GCM"))
    done = run.run("audit", "verify", str(log))
    assert done.code == 13
    assert "record 1 was changed" in done.stderr
    found = run.run("audit", "verify", str(log), "--json").objects[-1]
    assert (found["error"], found["code"]) == ("AuditIntegrityError", 13)
    # Nothing is appended to it.
    log.write_bytes(log.read_bytes()[:100])
    done = run.run("init", "--audit", str(log))
    assert done.code == 13
    assert "open-next" in done.stderr
    done = run.ok("audit", "open-next", str(log))
    assert "damaged-1" in done.text
    run.ok("audit", "verify", str(log))
    assert run.run("audit", "open-next", str(log)).code == 1


def test_verify_of_a_torn_log_exits_0(run: Cli, log: Path) -> None:
    with log.open("ab") as file:
        file.write(b'{"event":{"half')
    done = run.ok("audit", "verify", str(log))
    assert "torn: the last 15 bytes" in done.text


@pytest.mark.parametrize("gone", [".checkpoint", ".vkey", ""])
def test_verify_without_one_of_its_files(run: Cli, log: Path, gone: str) -> None:
    log.with_name(f"audit.log{gone}").unlink()
    assert run.run("audit", "verify", str(log)).code == (1 if gone else 10)


def test_verify_against_another_s_checkpoint(run: Cli, log: Path) -> None:
    CryptoAuditLogger.open(log.with_name("other")).close()
    other = log.with_name("other.checkpoint")
    done = run.run("audit", "verify", str(log), "--checkpoint", str(other))
    assert done.code == 13
    assert "another log" in done.stderr
    assert run.run("audit", "verify", str(log), "--vkey", "nonsense").code == 1


def test_tail_and_query(run: Cli, log: Path) -> None:
    assert run.ok("audit", "tail", str(log), "-n", "2").text.count("\n") == 3
    everything = run.ok("audit", "query", str(log), "--json").of_type("event")
    assert [found["sequence"] for found in everything] == [0, 1, 2, 3]

    def found(*words: str) -> list[int]:
        return [e["sequence"] for e in run.ok("audit", "query", str(log), "--json", *words).objects]

    assert found("--key", KEY[:6]) == [1, 2]
    assert found("--outcome", "failure") == [2]
    assert found("--event", "key") == [1, 3]
    assert found("--event", "key.generated") == [1]
    assert found("--since", "1h") == [0, 1, 2, 3]
    assert found("--until", "2020-01-01") == []
    assert found("--since", "2020-01-01T00:00+02:00", "--key", "ff") == [3]
    assert run.run("audit", "query", str(log), "--since", "yesterday").code == 2
    table = run.ok("audit", "query", str(log), "--key", KEY).text
    assert "error_type=DecryptionError" in table


def test_prove(run: Cli, log: Path, tmp_path: Path) -> None:
    done = run.ok("audit", "prove", str(log), "2")
    assert done.text.startswith("c2sp.org/tlog-proof@v1\nindex 2\n")
    assert '"seq":2}' in done.stderr
    target = tmp_path / "two.tlog-proof"
    run.ok("audit", "prove", str(log), "2", "-o", str(target))
    assert target.read_text() == done.text
    (item,) = run.ok("audit", "prove", str(log), "1", "--json").objects
    assert json.loads(item["record"])["seq"] == 1
    older = tmp_path / "older"
    older.write_bytes(log.with_name("audit.log.checkpoint").read_bytes())
    with CryptoAuditLogger.open(log) as logger:
        logger.log_key_destruction(KEY)
    done = run.ok("audit", "prove", str(log), "--since-checkpoint", str(older))
    assert done.text.startswith("old 4\n")
    assert run.run("audit", "prove", str(log), "99").code == 10
    assert run.run("audit", "prove", str(log)).code == 2


def test_report(run: Cli, log: Path) -> None:
    done = run.ok("audit", "report", str(log))
    assert "4 records of 2 keys" in done.text
    page = log.with_name("audit.log.html").read_text()
    assert page.startswith("<!doctype html>")
    assert KEY in page
    log.write_bytes(log.read_bytes().replace(b"AES-256-GCM", b"AES-128-GCM"))
    (item,) = run.run("audit", "report", str(log), "-o", "page.html", "--json").objects
    assert (item["target"], item["records"]) == ("page.html", 4)
    assert "The log was changed" in (run.folder / "page.html").read_text()


def test_audit_is_an_option_of_every_command(run: Cli, tmp_path: Path) -> None:
    log = tmp_path / "log"
    run.init()
    run.ok("keys", "rotate", "--audit", str(log))
    (tmp_path / "plain").write_bytes(b"12345")
    run.ok("encrypt", "plain", "-o", "sealed", "--audit", str(log))
    run.env["STRONGROOM_AUDIT"] = str(log)
    run.ok("decrypt", "sealed", "-o", "again")
    names = [record.name for record in audit.records(log)]
    assert "key.rotated" in names
    assert names.count("store.opened") >= 2
    data = [r.event for r in audit.records(log) if r.name.startswith("data.")]
    assert [(e["operation"], e["count"], e["bytes"]) for e in data] == [
        ("encrypt", 1, 5),
        ("decrypt", 1, 5),
    ]
    assert audit.verify(log).uncovered == 0
    # The log of the commands about logs is the one that they are about.
    size = audit.verify(log).size
    run.ok("audit", "verify")
    run.ok("audit", "tail")
    run.ok("doctor")
    assert audit.verify(log).size == size
    # No record, no operation.
    log.write_bytes(log.read_bytes()[:50])
    assert run.run("keys", "rotate").code == 13
