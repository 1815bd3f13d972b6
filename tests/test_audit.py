"""The audit log through its Python face."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import random
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import strongroom
from audit_help import KEY, log, names, nothing_enabled
from strongroom import CryptoAuditLogger, audit, errors

__all__ = ["log", "nothing_enabled"]


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
    )


class TestMethods:
    def test_each_method_seals_its_event(self, log: Path) -> None:
        calls = {
            "log_key_generation": (KEY, "AES-256-GCM", "data"),
            "log_key_rotation": (KEY, "1" * 32, "policy"),
            "log_decryption_failure": (KEY, "DecryptionError"),
            "log_key_activation": (KEY,),
            "log_key_retirement": (KEY, "old"),
            "log_key_suspension": (KEY,),
            "log_key_compromise": (KEY, "laptop lost"),
            "log_key_destruction": (KEY,),
            "log_key_wrapping": (KEY, "1" * 32),
            "log_key_unwrapping": (KEY, "1" * 32),
            "log_key_rewrapping": (KEY, "1" * 32),
            "log_key_export": (KEY,),
            "log_key_import": (KEY,),
            "log_store_opened": ("store", "file:"),
            "log_master_unreachable": ("aws-kms:", "TimeoutError"),
            "log_database_rotation_step": ("db", 3, 13, "locked"),
            "log_hsm_session": ("token",),
            "log_bulk_start": ("encrypt", 10),
            "log_bulk_end": ("encrypt", 10, 1),
        }
        with CryptoAuditLogger.open(log) as logger:
            methods = {name for name in dir(logger) if name.startswith("log_")}
            assert methods == set(calls)
            for name, arguments in calls.items():
                getattr(logger, name)(*arguments)
        found = list(audit.records(log))
        assert len(found) == len(calls) + 1
        assert [record.seq for record in found] == list(range(len(found)))
        assert all(record.name in audit.EVENTS for record in found)
        generated = found[1].event
        assert generated["key_id"] == KEY
        assert generated["purpose"] == "data"
        assert generated["actor"]["process"]["pid"] == os.getpid()
        assert found[3].failed
        assert audit.verify(log).covered == len(found)

    def test_a_logger_gets_what_was_sealed(self, log: Path, caplog) -> None:
        logger = logging.getLogger("crypto")
        with caplog.at_level(logging.INFO), CryptoAuditLogger(logger, log) as ours:
            ours.log_key_generation(KEY, "AES-256-GCM", "data")
            ours.log_key_rotation(KEY, "1" * 32, "policy")
            ours.log_decryption_failure(KEY, "DecryptionError")
        generated, rotated, failed = caplog.records
        assert (generated.getMessage(), generated.levelno) == ("crypto.key.generated", logging.INFO)
        assert generated.event_type == "key_generation"
        assert (generated.key_id, generated.algorithm, generated.purpose) == (
            KEY,
            "AES-256-GCM",
            "data",
        )
        assert generated.timestamp.endswith("Z")
        assert (rotated.getMessage(), rotated.levelno) == ("crypto.key.rotated", logging.INFO)
        assert (rotated.event_type, rotated.old_key_id, rotated.new_key_id, rotated.reason) == (
            "key_rotation",
            KEY,
            "1" * 32,
            "policy",
        )
        assert (failed.getMessage(), failed.levelno) == (
            "crypto.decryption.failed",
            logging.WARNING,
        )
        assert (failed.event_type, failed.key_id, failed.error_type) == (
            "decryption_failure",
            KEY,
            "DecryptionError",
        )
        assert not isinstance(ours, logging.Logger)
        # Sealed whatever logging does with it.
        logging.disable()
        try:
            with CryptoAuditLogger(logger, log) as ours:
                ours.log_key_destruction(KEY)
        finally:
            logging.disable(logging.NOTSET)
        assert names(log)[-1] == "key.destroyed"

    def test_without_a_path_it_logs_alone(self, tmp_path: Path, caplog) -> None:
        with caplog.at_level(logging.INFO):
            CryptoAuditLogger(logging.getLogger("crypto")).log_key_destruction(KEY)
        assert [record.getMessage() for record in caplog.records] == ["crypto.key.destroyed"]
        assert list(tmp_path.iterdir()) == []

    def test_it_is_closed_for_good(self, log: Path) -> None:
        logger = CryptoAuditLogger.open(log)
        logger.close()
        logger.close()
        with pytest.raises(errors.AuditError, match="closed"):
            logger.log_key_destruction(KEY)
        with pytest.raises(TypeError, match="pickled"):
            pickle.dumps(logger)


class TestWhatIsRecorded:
    def test_nothing_until_enabled_and_nothing_after(self, log: Path, tmp_path: Path) -> None:
        cipher = strongroom.SecureEncryption(strongroom.generate_key())
        cipher.encrypt(b"before")
        logger = audit.enable(log)
        message = cipher.encrypt(b"12345")
        cipher.encrypt(b"123")
        cipher.decrypt(message)
        with pytest.raises(errors.DecryptionError):
            cipher.decrypt(message[:-1] + bytes([message[-1] ^ 1]))
        audit.disable()
        cipher.encrypt(b"after")
        data = {
            (r.name, r.event["count"], r.event["bytes"])
            for r in audit.records(log)
            if r.event.get("key_id") == cipher.key_id
        }
        assert data == {
            ("data.encrypted", 2, 8),
            ("data.decrypted", 1, 5),
            ("decryption.failed", 1, 5),
        }
        failed = next(r for r in audit.records(log) if r.failed)
        assert failed.event["error_type"] == "DecryptionError"
        assert logger.path == str(log)

    def test_a_record_a_second(self, log: Path) -> None:
        audit.enable(log)
        cipher = strongroom.SecureEncryption(strongroom.generate_key())
        cipher.encrypt(b"x")
        deadline = time.monotonic() + 20
        while "data.encrypted" not in names(log):
            assert time.monotonic() < deadline
            threading.Event().wait(0.05)

    def test_a_record_each(self, log: Path) -> None:
        audit.enable(CryptoAuditLogger.open(log, data="each"))
        cipher = strongroom.SecureEncryption(strongroom.generate_key())
        for size in range(500):
            cipher.encrypt(bytes(size))
        audit.disable()
        sizes = [r.event["bytes"] for r in audit.records(log) if r.name == "data.encrypted"]
        assert sizes == list(range(500))
        audit.verify(log)

    def test_a_key_store_says_all_in_order(self, log: Path, tmp_path: Path) -> None:
        audit.enable(log)
        master = strongroom.FileMasterKey.create(str(tmp_path / "master"))
        with strongroom.KeyStore.create(f"sqlite:///{tmp_path}/keys.db", master) as store:
            first = store.get_current_key().id
            second = store.rotate(reason="due").id
            store.destroy_key(first, force=True)
        audit.disable()
        life = [
            (r.name, r.event.get("key_id"))
            for r in audit.records(log)
            if r.name.startswith(("key.", "keyset."))
        ]
        assert life == [
            ("keyset.created", None),
            ("key.generated", first),
            ("key.activated", first),
            ("key.generated", second),
            ("key.rotated", second),
            ("key.destroyed", first),
        ]

    def test_keys_that_a_master_wraps(self, log: Path, tmp_path: Path) -> None:
        master = strongroom.FileMasterKey.create(str(tmp_path / "master"))
        audit.enable(log)
        with strongroom.EnvelopeEncryption(master) as cipher:
            message = cipher.encrypt(b"x")
            cipher.decrypt(cipher.encrypt(b"y"))
        with strongroom.EnvelopeEncryption(master) as cipher:
            cipher.decrypt(message)
            cipher.decrypt(message)
        path, store = tmp_path / "plain", tmp_path / "keys.db"
        path.write_bytes(b"x")
        with strongroom.KeyStore.create(f"sqlite:///{store}", master) as keys:
            strongroom.encrypt_file(path, tmp_path / "sealed", keys)
            strongroom.files.add_slot(tmp_path / "sealed", keys, new_master=master)
        strongroom.verify_file(tmp_path / "sealed", master=master)
        said = [
            (r.name, r.event["key_id"], r.event["wrapping_key_id"])
            for r in audit.records(log)
            if r.name in ("key.wrapped", "key.unwrapped")
        ]
        assert [name for name, _, _ in said] == ["key.wrapped", "key.unwrapped"] * 2
        assert {wrapping for _, _, wrapping in said} == {master.key_id}
        assert said[0][1] == said[1][1] != said[2][1] == said[3][1]
        # No record, no key.
        kept = log.read_bytes()
        log.write_bytes(kept[:10])
        with strongroom.EnvelopeEncryption(master) as cipher:
            for use in (lambda: cipher.encrypt(b"x"), lambda: cipher.decrypt(message)):
                with pytest.raises(errors.AuditIntegrityError):
                    use()
        log.write_bytes(kept)

    def test_every_name_that_is_reported_is_known(self) -> None:
        source = Path(strongroom.__file__).parent
        reported = re.compile(r'(?:report|report_failure|say|tell)\(\s*"([a-z_]+[.][a-z_.]+)"')
        said = set()
        for path in source.rglob("*.py"):
            if path.parent.name != "audit":
                said |= set(reported.findall(path.read_text()))
        assert len(said) > 10
        assert said <= set(audit.EVENTS)

    def test_a_run_over_many_files(self, log: Path, tmp_path: Path) -> None:
        master = strongroom.FileMasterKey.create(str(tmp_path / "master"))
        tree = tmp_path / "tree"
        tree.mkdir()
        for number in range(3):
            (tree / f"secret name {number}").write_bytes(bytes(10))
        with strongroom.KeyStore.create(f"sqlite:///{tmp_path}/keys.db", master) as store:
            audit.enable(log)
            strongroom.bulk.encrypt_tree(tree, tmp_path / "out", store)
            strongroom.bulk.verify_tree(tree, store)
            with pytest.raises(FileNotFoundError):
                strongroom.bulk.verify_tree(tmp_path / "none", store)
            strongroom.bulk.rewrap_tree(tmp_path / "out", store, dry_run=True)
            audit.disable()
        said = [
            (r.name, r.event["operation"], r.event.get("count"), r.event.get("failed"))
            for r in audit.records(log)
            if r.name.startswith("bulk.")
        ]
        assert said == [
            ("bulk.started", "encrypt", None, None),
            ("bulk.ended", "encrypt", 3, 0),
            ("bulk.started", "verify", None, None),
            ("bulk.ended", "verify", 3, 3),
            ("bulk.started", "verify", None, None),
            ("bulk.ended", "verify", None, None),
        ]
        # No name of a file is in the log.
        assert b"secret name" not in log.read_bytes()
        data = [r.event for r in audit.records(log) if r.name == "data.encrypted"]
        assert sum(event["count"] for event in data) == 3

    def test_a_random_walk_through_the_life_of_keys(self, log: Path, tmp_path: Path) -> None:
        """Every change of a key's state is in the log exactly once, and in order."""
        seed = random.randrange(2**32)
        print("seed", seed)
        rng = random.Random(seed)
        audit.enable(log)
        master = strongroom.FileMasterKey.create(str(tmp_path / "master"))
        expected: list[tuple[str, str]] = []
        with strongroom.KeyStore.create(f"sqlite:///{tmp_path}/keys.db", master) as store:
            states: dict[str, str] = {}

            def follow() -> None:
                """Add what changed in the store, as the store shows it, to what is expected."""
                now = {key.id: key.state for key in store.list_keys("default")}
                for key_id, state in now.items():
                    if states.get(key_id) != state:
                        expected.append((key_id, state))
                states.clear()
                states.update(now)

            follow()
            calls = ("rotate", "new", "activate", "suspend", "resume", "retire", "compromise")
            for _ in range(120):
                call = rng.choice((*calls, "destroy"))
                key_id = rng.choice(list(states))
                with contextlib.suppress(errors.KeyStateError):
                    if call == "rotate":
                        store.rotate()
                    elif call == "new":
                        store.generate_new_key()
                    elif call == "compromise":
                        store.compromise_key(key_id, rotate=rng.random() < 0.5)
                    elif call == "destroy":
                        store.destroy_key(key_id, force=True)
                    else:
                        getattr(store, f"{call}_key")(key_id)
                follow()
        audit.disable()
        seen: dict[str, list[str]] = {}
        for record in audit.records(log):
            event = record.event
            if record.name == "key.rotated":
                seen.setdefault(event["old_key_id"], []).append("deactivated")
            # A key that is made and primary at once is two events and one change.
            if record.name.startswith("key.") and "state" in event:
                seen.setdefault(event["key_id"], []).append(event["state"])
        wanted: dict[str, list[str]] = {}
        for key_id, state in expected:
            wanted.setdefault(key_id, []).append(state)
        generated = [r.event["key_id"] for r in audit.records(log) if r.name == "key.generated"]
        assert sorted(generated) == sorted(wanted)
        assert {k: _without_first_twin(v) for k, v in seen.items()} == wanted
        assert len(expected) > 30

    # The thread that seals data once a second tells it too, if its second is over by then.
    @pytest.mark.filterwarnings("ignore:data operations are not recorded")
    def test_closed_means_no_record_no_operation(self, log: Path, tmp_path: Path) -> None:
        master = strongroom.FileMasterKey.create(str(tmp_path / "master"))
        store = strongroom.KeyStore.create(f"sqlite:///{tmp_path}/keys.db", master)
        before = store.get_current_key().id
        audit.enable(log)
        # Somebody cuts the log while it is open.
        os.truncate(log, 10)
        with pytest.raises(errors.AuditIntegrityError):
            store.rotate()
        assert store.get_current_key().id == before
        cipher = strongroom.SecureEncryption(strongroom.generate_key())
        cipher.decrypt(cipher.encrypt(b"data goes on"))
        with pytest.raises(errors.AuditIntegrityError):
            audit.disable()
        store.rotate()

    def test_open_goes_on_and_tells_later(self, log: Path) -> None:
        good = CryptoAuditLogger.open(log)
        kept = log.read_bytes()
        good.close()
        lenient = CryptoAuditLogger.open(log, policy="open")
        log.write_bytes(kept[:-5])
        for _ in range(2):
            with pytest.warns(RuntimeWarning, match="not recorded"):
                lenient.log_key_destruction(KEY)
        log.write_bytes(kept)
        lenient.log_key_export(KEY)
        lenient.close()
        assert names(log)[-2:] == ["log.gap", "key.exported"]
        gap = list(audit.records(log))[-2]
        assert gap.event["count"] == 2


def _without_first_twin(states: list[str]) -> list[str]:
    """What "generated" and "activated" say of a key that was made as the primary is one state."""
    return states[1:] if len(states) > 1 and states[0] == states[1] else states


class TestTurningOn:
    CODE = (
        "import strongroom as s\n"
        "c = s.SecureEncryption(s.generate_key())\n"
        "c.encrypt(b'x')\n"
        "print(c.key_id)"
    )

    def test_by_the_environment(self, log: Path) -> None:
        done = run(self.CODE, STRONGROOM_AUDIT=str(log))
        assert done.returncode == 0, done.stderr
        assert names(log) == ["log.opened", "data.encrypted"]
        assert list(audit.records(log))[1].event["key_id"] == done.stdout.strip()
        assert audit.verify(log).uncovered == 0

    def test_an_environment_that_can_not_be_followed(self, tmp_path: Path) -> None:
        done = run(self.CODE, STRONGROOM_AUDIT=str(tmp_path))
        assert done.returncode == 1
        assert "is a directory" in done.stderr

    def test_off_it_is_not_imported(self) -> None:
        code = self.CODE + "; import sys; print('strongroom.audit' in sys.modules)"
        assert run(code).stdout.split()[-1] == "False"

    def test_a_forked_child_records_its_own(self, log: Path) -> None:
        done = run(
            "import os, strongroom as s\n"
            f"log = s.audit.enable({str(log)!r})\n"
            "c = s.SecureEncryption(s.generate_key())\n"
            "for _ in range(3): c.encrypt(b'x')\n"
            "if (child := os.fork()) == 0:\n"
            "    d = s.SecureEncryption(s.generate_key())\n"
            "    d.encrypt(b'yy')\n"
            "    log.log_key_destruction('ab' * 16)\n"
            "    s.audit.disable()\n"
            "    os._exit(0)\n"
            "assert os.waitpid(child, 0)[1] == 0\n"
        )
        assert done.returncode == 0, done.stderr
        found = [
            (r.name, r.event.get("count"), r.event["actor"]["process"]["pid"])
            for r in audit.records(log)
        ]
        pids = {pid for _, _, pid in found}
        assert len(pids) == 2
        parent = found[0][2]
        assert [f[:2] for f in found if f[2] == parent] == [
            ("log.opened", None),
            ("data.encrypted", 3),
        ]
        assert sorted(f[:2] for f in found if f[2] != parent) == [
            ("data.encrypted", 1),
            ("key.destroyed", None),
        ]
        audit.verify(log)

    def test_a_worker_of_multiprocessing(self, log: Path) -> None:
        done = run(
            "import multiprocessing, strongroom as s\n"
            "def work(_):\n"
            "    s.SecureEncryption(s.generate_key()).encrypt(b'x')\n"
            f"s.audit.enable({str(log)!r})\n"
            "with multiprocessing.get_context('fork').Pool(2) as pool:\n"
            "    pool.map(work, range(8))\n"
            "    pool.close(); pool.join()\n"
        )
        assert done.returncode == 0, done.stderr
        counts = [r.event["count"] for r in audit.records(log) if r.name == "data.encrypted"]
        assert sum(counts) == 8


class TestSigners:
    def test_a_key_of_a_keyset(self, log: Path, tmp_path: Path) -> None:
        master = strongroom.FileMasterKey.create(str(tmp_path / "master"))
        with strongroom.KeyStore.create(f"sqlite:///{tmp_path}/keys.db", master) as store:
            store.create_keyset("audit", purpose="audit")
            signer = audit.KeysetSigner(store)
            with CryptoAuditLogger.open(log, signer=signer) as logger:
                logger.log_key_destruction(KEY)
                vkey = logger.vkey
            assert not log.with_name("audit.log.key").exists()
            assert audit.verify(log, vkey=vkey).own_key
            with pytest.raises(errors.AuditError, match="signer"):
                CryptoAuditLogger.open(log)
            with pytest.raises(errors.KeyStateError, match="purpose"):
                audit.KeysetSigner(store, "default")
            store.rotate("audit")
            with pytest.raises(errors.AuditIntegrityError, match="another signer"):
                CryptoAuditLogger.open(log, signer=audit.KeysetSigner(store))

    def test_cryptography_verifies_a_checkpoint(self, log: Path) -> None:
        from cryptography.hazmat.primitives.asymmetric import ed25519

        class Signer:
            def __init__(self) -> None:
                self.key = ed25519.Ed25519PrivateKey.generate()

            @property
            def public_key(self) -> bytes:
                return self.key.public_key().public_bytes_raw()

            def sign(self, message: bytes, /) -> bytes:
                return self.key.sign(message)

        with CryptoAuditLogger.open(log, signer=Signer()) as logger:
            logger.log_key_destruction(KEY)
        assert audit.verify(log).covered == 2

        class Broken(Signer):
            def sign(self, message: bytes, /) -> bytes:
                raise RuntimeError("token is gone")

        with pytest.raises(errors.AuditError, match="token is gone"):
            CryptoAuditLogger.open(log.with_name("other"), signer=Broken())

        class Interrupted(Signer):
            stops = False

            def sign(self, message: bytes, /) -> bytes:
                if self.stops:
                    raise KeyboardInterrupt
                return super().sign(message)

        another, signer = log.with_name("another"), Interrupted()
        with CryptoAuditLogger.open(another, signer=signer) as logger:
            signer.stops = True
            with pytest.raises(KeyboardInterrupt):
                logger.log_key_export(KEY)
            signer.stops = False
            logger.log_key_destruction(KEY)
        found = [record.name for record in audit.records(another)]
        assert found == ["log.opened", "key.destroyed"]
        assert audit.verify(another).covered == 2

    def test_anchors(self, log: Path, tmp_path: Path) -> None:
        kept: list[bytes] = []
        with CryptoAuditLogger.open(log, anchor=kept.append) as logger:
            logger.log_key_destruction(KEY)
        assert kept[-1] == log.with_name("audit.log.checkpoint").read_bytes()
        copy = tmp_path / "copy"
        with CryptoAuditLogger.open(log, anchor=["tee", str(copy)]) as logger:
            logger.log_key_destruction(KEY)
        assert copy.read_bytes() != kept[-1]
        audit.verify(log, checkpoints=[copy])
        with CryptoAuditLogger.open(log, anchor="exit 7") as logger:
            with pytest.warns(RuntimeWarning, match="not anchored"):
                logger.log_key_destruction(KEY)


class TestBadInput:
    def test_a_directory(self, tmp_path: Path) -> None:
        with pytest.raises(errors.AuditError, match="is a directory"):
            CryptoAuditLogger.open(tmp_path)
        with pytest.raises(errors.AuditError, match="is a directory"):
            audit.verify(tmp_path)

    def test_a_foreign_file(self, log: Path) -> None:
        log.write_text("2026-11-25 something else\n")
        with pytest.raises(errors.AuditError, match="no audit log"):
            CryptoAuditLogger.open(log)
        assert log.read_text() == "2026-11-25 something else\n"
        assert not log.with_name("audit.log.key").exists()
        with pytest.raises(errors.AuditError, match="vkey is missing"):
            audit.verify(log)

    def test_a_missing_one(self, log: Path) -> None:
        with pytest.raises(FileNotFoundError):
            audit.verify(log)
        with pytest.raises(errors.AuditError, match="No such file"):
            CryptoAuditLogger.open(log.parent / "none" / "log")

    def test_a_newer_version(self, log: Path) -> None:
        CryptoAuditLogger.open(log).close()
        checkpoint = log.with_name("audit.log.checkpoint")
        checkpoint.write_text(
            checkpoint.read_text().replace("strongroom.audit/", "strongroom.audit2/")
        )
        for use in (audit.verify, CryptoAuditLogger.open):
            with pytest.raises(errors.UnsupportedVersionError, match="newer version"):
                use(log)

    def test_a_wrong_public_key(self, log: Path) -> None:
        CryptoAuditLogger.open(log).close()
        with CryptoAuditLogger.open(log.with_name("other")) as other:
            vkey = other.vkey
        with pytest.raises(errors.AuditIntegrityError, match="another log or key"):
            audit.verify(log, vkey=vkey)
        for text in ("", "x", "a+b+c", f"{vkey}x"):
            with pytest.raises(errors.AuditError, match="no public key"):
                audit.verify(log, vkey=text)

    def test_checkpoints_that_do_not_fit(self, log: Path) -> None:
        checkpoint = log.with_name("audit.log.checkpoint")
        CryptoAuditLogger.open(log).close()
        kept = log.with_name("kept")
        with CryptoAuditLogger.open(log) as logger:
            logger.log_key_destruction(KEY)
        kept.write_bytes(checkpoint.read_bytes())
        CryptoAuditLogger.open(log.with_name("other")).close()
        with pytest.raises(errors.AuditIntegrityError, match="another log"):
            audit.verify(log, checkpoints=[log.with_name("other.checkpoint")])
        # The whole log replaced by an older one, with its own checkpoint: only the newer one tells.
        older = log.with_name("older")
        for suffix in ("", ".key", ".vkey", ".checkpoint", ".state"):
            older.with_name("older" + suffix).write_bytes(
                log.with_name("audit.log" + suffix).read_bytes()
            )
        with CryptoAuditLogger.open(log) as logger:
            logger.log_key_destruction(KEY)
        assert audit.verify(older).size == 2
        with pytest.raises(errors.AuditIntegrityError, match="cut off") as caught:
            audit.verify(older, checkpoints=[checkpoint])
        assert caught.value.sequence == 2
        audit.verify(log, checkpoints=[kept])
        checkpoint.unlink()
        with pytest.raises(errors.AuditError, match="checkpoint is missing"):
            audit.verify(log)
        with pytest.raises(errors.AuditError, match="no checkpoint"):
            CryptoAuditLogger.open(log)

    def test_read_only(self, log: Path) -> None:
        CryptoAuditLogger.open(log).close()
        code = (
            "import os, sys\nimport strongroom as s\ns.audit.verify, s.CryptoAuditLogger\n"
            "os.setuid(65534)\n"
            f"try: s.CryptoAuditLogger.open({str(log)!r})\n"
            "except s.AuditError as e: print(e)\n"
            f"print(s.audit.verify({str(log)!r}).size)\n"
        )
        for path in (log.parent, *log.parent.parents):
            if path.stat().st_uid == os.getuid() and path != Path("/"):
                path.chmod(path.stat().st_mode | 0o555)
        done = run(code)
        assert "Permission denied" in done.stdout, done

    def test_the_clock_is_set_back(self, log: Path, monkeypatch) -> None:
        from strongroom.audit import event

        with CryptoAuditLogger.open(log) as logger:
            logger.log_key_destruction("1" * 32)
            monkeypatch.setattr(event, "now", lambda: 1_000_000)
            logger.log_key_destruction("2" * 32)
        found = list(audit.records(log))
        assert found[2].time == "1970-01-01T00:00:01.000000Z" < found[1].time
        assert [r.seq for r in found] == [0, 1, 2]
        audit.verify(log)

    def test_text_that_can_not_be_encoded(self, log: Path) -> None:
        with CryptoAuditLogger.open(log) as logger:
            logger.event("key.exported", "success", {"reason": "file \udcff\x00\x7f \U0001f511"})
        assert list(audit.records(log))[1].event["reason"] == "file \\udcff\x00\x7f \U0001f511"
        audit.verify(log)

    def test_huge_fields_are_cut_and_say_so(self, log: Path) -> None:
        with CryptoAuditLogger.open(log) as logger:
            logger.event(
                "key.exported",
                "success",
                {"reason": "ü" * 100_000, "count": 2**60, "seconds": 0.5, "name": None},
            )
        event = list(audit.records(log))[1].event
        assert event["reason"] == "ü" * 512 + "... [cut: 200000 bytes]"
        assert (event["count"], event["seconds"]) == (str(2**60), "0.5")
        assert "name" not in event
        audit.verify(log)

    def test_fields_that_are_the_event_s_own(self, log: Path) -> None:
        with CryptoAuditLogger.open(log) as logger:
            for name in ("time", "actor", "no name", "über"):
                with pytest.raises(ValueError, match="field"):
                    logger.event("key.exported", "success", {name: "x"})
            logger.event("something.else", "success", {})
        assert list(audit.records(log))[1].event["activity_id"] == 99

    @pytest.mark.parametrize(
        "options",
        [{"policy": "none"}, {"data": "all"}, {"rotate_bytes": 0}],
    )
    def test_options(self, log: Path, options) -> None:
        with pytest.raises(ValueError, match="is"):
            CryptoAuditLogger.open(log, **options)
        with pytest.raises(ValueError, match="logger"):
            CryptoAuditLogger(None)
        with pytest.raises(ValueError, match="path"):
            CryptoAuditLogger(logging.getLogger("crypto"), data="each")


def test_a_damaged_log_is_continued_by_a_new_one(log: Path) -> None:
    with CryptoAuditLogger.open(log) as logger:
        logger.log_key_destruction(KEY)
    with pytest.raises(errors.AuditError, match="not damaged"):
        audit.open_next(log)
    log.write_bytes(log.read_bytes().replace(KEY.encode(), b"f" * 32))
    with pytest.raises(errors.AuditIntegrityError) as caught:
        audit.verify(log)
    assert caught.value.sequence == 1
    aside = audit.open_next(log)
    assert names(log) == ["log.opened", "log.continued"]
    told = list(audit.records(log))[1].event
    assert told["previous_log"] == Path(aside).name
    assert "record 1" in told["reason"]
    audit.verify(log)
    with pytest.raises(errors.AuditIntegrityError):
        audit.verify(aside)


def test_rotation(log: Path) -> None:
    with CryptoAuditLogger.open(log, rotate_bytes=2000) as logger:
        for _ in range(30):
            logger.log_key_destruction(KEY)
    found = audit.verify(log)
    assert found.files > 3
    records = list(audit.records(log))
    assert [r.seq for r in records] == list(range(found.size))
    assert {r.name for r in records} == {"log.opened", "log.rotated", "key.destroyed"}
    assert [r.seq for r in audit.records(log, start=20)] == list(range(20, found.size))
    # The newest file is no less than the others.
    log.unlink()
    with pytest.raises(FileNotFoundError):
        audit.verify(log)


def test_rotation_by_day(log: Path) -> None:
    with CryptoAuditLogger.open(log, rotate_daily=True) as logger:
        logger.log_key_destruction(KEY)
        assert audit.verify(log).files == 1
        yesterday = time.time() - 86_400
        os.utime(log, (yesterday, yesterday))
        logger.log_key_export(KEY)
        logger.log_key_export(KEY)
    assert audit.verify(log).files == 2
    assert names(log) == [
        "log.opened",
        "key.destroyed",
        "log.rotated",
        "key.exported",
        "key.exported",
    ]


def test_a_proof_without_what_closed_the_file_before(log: Path) -> None:
    with CryptoAuditLogger.open(log, rotate_bytes=2000) as logger:
        for _ in range(9):
            logger.log_key_destruction(KEY)
    audit.verify(log)
    for state in log.parent.glob("audit.log.0*.state"):
        state.unlink()
    for seq in range(audit.verify(log).size):
        assert json.loads(audit.prove_inclusion(log, seq)[1])["seq"] == seq


def test_a_checkpoint_after_a_thousand_data_records(log: Path) -> None:
    from strongroom.audit import event

    with CryptoAuditLogger.open(log) as logger:
        began = time.monotonic()
        made = event.build("data.encrypted", "success", {"count": 1})
        logger._seal([made] * 999, "kernel")
        found = audit.verify(log)
        assert found.uncovered == 999 or time.monotonic() - began >= 1
        logger._seal([made], "kernel")
        assert audit.verify(log).uncovered == 0


def test_older_copies_and_cuts_show_against_the_last_checkpoint(log: Path) -> None:
    """R18. Without it an older copy with its own checkpoint is whole, as the docs say."""
    checkpoint = log.with_name("audit.log.checkpoint")
    older = []
    with CryptoAuditLogger.open(log) as logger:
        for number in range(20):
            older.append((number + 1, log.stat().st_size, checkpoint.read_bytes()))
            logger.log_key_destruction(KEY)
    whole, last = log.read_bytes(), log.with_name("last")
    last.write_bytes(checkpoint.read_bytes())
    ends = [size for _, size, _ in older[1:]] + [len(whole)]
    for (records, size, note), end in zip(older, ends, strict=True):
        checkpoint.write_bytes(note)
        for cut in {size, size + 1, (size + end) // 2, end - 1}:
            log.write_bytes(whole[:cut])
            found = audit.verify(log, index=False)
            assert (found.size, found.torn) == (records, cut - size)
            with pytest.raises(errors.AuditIntegrityError) as caught:
                audit.verify(log, checkpoints=[last], index=False)
            assert caught.value.sequence == records


@pytest.mark.parametrize("count", [0, 1, 2, 3, 17, 29, 30, 31, 32, 100])
def test_the_last_records(tmp_path: Path, count: int) -> None:
    from strongroom.audit.records import last_records

    log = tmp_path / "log"
    with CryptoAuditLogger.open(log, rotate_bytes=3000) as logger:
        for number in range(25):
            logger.log_key_destruction(KEY, "x" * (number * 40))
    every = list(audit.records(log))
    assert last_records(log, count) == every[max(0, len(every) - count) :]


def test_events_are_as_the_schema_says(log: Path) -> None:
    schema = json.loads(Path(audit.__file__).with_name("event.schema.json").read_text())
    required = set(schema["required"])
    known = set(schema["properties"])
    with CryptoAuditLogger.open(log) as logger:
        for name in audit.EVENTS:
            logger.event(name, "success", {"key_id": KEY, "reason": "x", "count": 1})
    from strongroom.audit.catalogue import CLASSES, FIELDS

    for record in audit.records(log):
        event = record.event
        assert required <= set(event) <= known
        assert event["class_uid"] in CLASSES
        assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
        assert event["category_uid"] == 6
    assert known >= FIELDS
    assert set(schema["properties"]["metadata"]["properties"]["event_code"]["examples"]) == set(
        audit.EVENTS
    )
    assert len({(e.class_uid, e.activity_id) for e in audit.EVENTS.values()}) == len(audit.EVENTS)
