"""Checkpoints that are signed in a token. What signs without one is in test_audit.py."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from audit_help import KEY, log, names, nothing_enabled
from hsm_help import Backend, label
from hsm_help import backend as backend
from hsm_help import softhsm as softhsm
from independent import tlog
from strongroom import CryptoAuditLogger, audit, errors
from strongroom.hsm.token import POOL

__all__ = ["log", "nothing_enabled"]


def test_a_key_in_a_token_signs(backend: Backend, log: Path) -> None:
    name = label("audit")
    with backend.open() as hsm:
        if backend.name == "kryoptic":
            # Built without it, as many tokens are: it is said, and what to do instead.
            with pytest.raises(errors.HSMError, match="key of a keyset instead"):
                audit.HSMSigner.generate(hsm, name)
            return
        signer = audit.HSMSigner.generate(hsm, name)
        with CryptoAuditLogger.open(log, signer=signer) as logger:
            logger.log_key_destruction(KEY)
            vkey = logger.vkey
        assert vkey is not None
        assert not Path(f"{log}.key").exists()
        assert audit.verify(log, vkey=vkey).covered == 2
        assert tlog.verify(log, vkey)[0] == 2
        # Found again, and by another manager.
        with backend.open() as other:
            again = audit.HSMSigner(other, name)
            assert again.public_key == signer.public_key
            with CryptoAuditLogger.open(log, signer=again) as logger:
                logger.log_key_destruction(KEY)
        with pytest.raises(errors.AuditError, match="give the signer"):
            CryptoAuditLogger.open(log)
        other_key = audit.HSMSigner.generate(hsm, label("audit"))
        with pytest.raises(errors.AuditIntegrityError, match="another signer"):
            CryptoAuditLogger.open(log, signer=other_key)
        with pytest.raises(errors.HSMError, match="there is a signing key"):
            audit.HSMSigner.generate(hsm, name)
        with pytest.raises(errors.KeyNotFoundError, match="no signing key"):
            audit.HSMSigner(hsm, label("none"))
    assert audit.verify(log, vkey=vkey).covered == 3


def test_the_key_does_not_leave_the_token(softhsm: Backend) -> None:
    from pkcs11 import Attribute, AttributeSensitive

    name = label("audit")
    with softhsm.open() as hsm:
        audit.HSMSigner.generate(hsm, name)
        from strongroom.hsm import binding

        [key] = hsm._run(
            lambda lane: binding.find_keys(lane.session, label=name, kind="PRIVATE_KEY")
        )
        assert key[Attribute.SENSITIVE]
        assert not key[Attribute.EXTRACTABLE]
        with pytest.raises(AttributeSensitive):
            key[Attribute.VALUE]


def test_operations_of_the_same_token_are_recorded(softhsm: Backend, log: Path) -> None:
    """They report from within, where the token is busy with them."""
    cards = label("cards")
    with softhsm.open() as hsm:
        signer = audit.HSMSigner.generate(hsm, label("audit"))
        with CryptoAuditLogger.open(log, signer=signer) as logger:
            audit.enable(logger)
            first = hsm.generate_key(cards)
            second = hsm.rotate(cards)
            hsm.destroy_key(first)
            audit.HSMSigner.generate(hsm, label("audit"))
            audit.disable()
    assert names(log) == [
        "log.opened",
        "hsm.key.generated",
        "hsm.key.rotated",
        "hsm.key.destroyed",
        "hsm.key.generated",
    ]
    assert list(audit.records(log))[2].event["new_key_id"] == second
    assert audit.verify(log).uncovered == 0


def test_a_session_that_is_lost_while_it_signs(softhsm: Backend, log: Path) -> None:
    with softhsm.open() as hsm:
        signer = audit.HSMSigner.generate(hsm, label("audit"))
        with CryptoAuditLogger.open(log, signer=signer) as logger:
            audit.enable(logger)
            hsm._run(lambda lane: hsm._module.close_session(lane.session))
            logger.log_key_destruction(KEY)
            audit.disable()
    assert names(log) == ["log.opened", "key.destroyed", "hsm.session.opened", "hsm.session.lost"]
    assert audit.verify(log).uncovered == 0


def test_a_session_that_is_lost_while_it_signs_aside(softhsm: Backend, log: Path) -> None:
    """In the middle of another operation, with the session that is for this."""
    with softhsm.open() as hsm:
        signer = audit.HSMSigner.generate(hsm, label("audit"))
        token = hsm._open_token()
        with CryptoAuditLogger.open(log, signer=signer) as logger:

            def work(lane) -> None:
                logger.log_key_export(KEY)
                token.module.close_session(token._aside.session)
                logger.log_key_destruction(KEY)

            hsm._run(work, reports=True)
    assert names(log) == ["log.opened", "key.exported", "key.destroyed"]
    assert audit.verify(log).uncovered == 0


@pytest.mark.parametrize("thread_safe", [False, True])
def test_threads_that_make_keys_and_threads_that_report(
    softhsm: Backend, log: Path, thread_safe: bool
) -> None:
    """None waits for another that waits for it: that would be the token's timeout."""
    failed: list[BaseException] = []
    with softhsm.open(timeout=20, thread_safe=thread_safe) as hsm:
        signer = audit.HSMSigner.generate(hsm, label("audit"))
        with CryptoAuditLogger.open(log, signer=signer) as logger:
            audit.enable(logger)

            def make() -> None:
                for _ in range(2):
                    hsm.destroy_key(hsm.generate_key(label("cards")))

            def report() -> None:
                for _ in range(20):
                    logger.log_key_export(KEY)

            def guarded(work) -> None:
                try:
                    work()
                except BaseException as error:
                    failed.append(error)

            # More of them than a pool has sessions.
            work = (*(make,) * (POOL + 1), *(report,) * 2)
            threads = [threading.Thread(target=guarded, args=(w,)) for w in work]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            audit.disable()
    assert failed == []
    found = names(log)
    assert found.count("hsm.key.generated") == found.count("hsm.key.destroyed") == 2 * (POOL + 1)
    assert found.count("key.exported") == 40


def test_a_token_that_is_closed_ends_the_operation(softhsm: Backend, log: Path) -> None:
    hsm = softhsm.open()
    signer = audit.HSMSigner.generate(hsm, label("audit"))
    logger = CryptoAuditLogger.open(log, signer=signer)
    hsm.close()
    with pytest.raises(errors.AuditError, match="closed"):
        logger.log_key_destruction(KEY)
    logger.close()
    assert names(log) == ["log.opened"]


def test_a_forked_child_signs_too(softhsm: Backend, log: Path) -> None:
    softhsm.python(
        """
from strongroom import audit
hsm = HSMKeyManager(path, token_label=LABEL, pin=lambda: PIN)
signer = audit.HSMSigner.generate(hsm, os.urandom(8).hex())
log = CryptoAuditLogger.open(arguments[0], signer=signer)
audit.enable(log)
if (child := os.fork()) == 0:
    log.log_key_destruction("1" * 32)
    audit.disable()
    log.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
log.log_key_destruction("2" * 32)
audit.disable()
log.close()
hsm.close()
""",
        log,
    )
    found = names(log)
    assert found.count("key.destroyed") == 2
    assert "hsm.session.opened" in found
    assert audit.verify(log).uncovered == 0


def test_a_signer_that_signs_wrongly_makes_no_log(softhsm: Backend, log: Path) -> None:
    with softhsm.open() as hsm:
        signer = audit.HSMSigner.generate(hsm, label("audit"))
        other = audit.HSMSigner.generate(hsm, label("audit"))
        signer._key = signer._key._replace(public_key=other.public_key)
        with pytest.raises(errors.AuditError, match="does not verify"):
            CryptoAuditLogger.open(log, signer=signer)
    assert not log.exists()
