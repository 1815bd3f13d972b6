"""What an audit log hears of a token, and that what can't be sealed does not take place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hsm_help import PIN, Backend, label
from hsm_help import backend as backend
from hsm_help import softhsm as softhsm
from strongroom import HSMKeyManager, MemoryLockedKey, _events
from strongroom.audit.catalogue import EVENTS, FIELDS
from strongroom.errors import AuditError, HSMError


class Log:
    """A sink that knows the catalogue, and that may be full."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, dict[str, Any]]] = []
        self.full = ""

    def event(self, name: str, outcome: str, fields: dict[str, Any]) -> None:
        assert name in EVENTS
        assert set(fields) <= FIELDS, set(fields) - FIELDS
        assert PIN not in str(fields)
        if name == self.full:
            raise AuditError("the log is full")
        self.heard.append((name, outcome, fields))

    def count(self, *_: object) -> None:
        pass

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self.heard]


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    before = _events.set_sink(log)
    yield log
    _events.set_sink(before)


def test_a_life(backend: Backend, log: Log) -> None:
    name = label("master:")
    with backend.open() as hsm, MemoryLockedKey.generate() as key:
        first = hsm.generate_key(name)
        wrapped = hsm.wrap_key(first, key)
        second = hsm.rotate(name)
        hsm.unwrap_key(second, wrapped, key.key_id).destroy()
        hsm.destroy_key(first)
    assert log.names == [
        "hsm.session.opened", "hsm.key.generated", "hsm.key.wrapped", "hsm.key.rotated",
        "hsm.key.unwrapped", "hsm.key.destroyed", "hsm.session.closed",
    ]  # fmt: skip
    fields = {name: fields for name, _, fields in log.heard}
    assert fields["hsm.key.generated"]["key_id"] == first
    assert fields["hsm.key.rotated"]["old_key_id"] == first
    assert fields["hsm.key.rotated"]["new_key_id"] == second
    assert fields["hsm.key.wrapped"] == {
        "key_id": key.key_id, "wrapping_key_id": first, "mechanism": 1,
    }  # fmt: skip


def test_a_refused_pin(backend: Backend, log: Log) -> None:
    with pytest.raises(HSMError):
        backend.open(pin="a wrong one")
    assert [(name, outcome) for name, outcome, _ in log.heard] == [("hsm.login.refused", "failure")]


def test_what_can_not_be_sealed_does_not_take_place(backend: Backend, log: Log) -> None:
    name = label()
    log.full = "hsm.session.opened"
    with pytest.raises(AuditError):
        backend.open()
    log.full = ""
    with pytest.raises(HSMError, match=r"another PIN|wrong"):
        backend.open(pin="not this").close()
    with backend.open() as hsm:
        log.full = "hsm.key.generated"
        with pytest.raises(AuditError):
            hsm.generate_key(name)
        assert hsm.list_keys(name) == []
        log.full = ""
        first = hsm.generate_key(name)
        log.full = "hsm.key.rotated"
        with pytest.raises(AuditError):
            hsm.rotate(name)
        assert [key.id for key in hsm.list_keys(name)] == [first]
        assert hsm.find(name) == first
        log.full = "hsm.key.destroyed"
        with pytest.raises(AuditError):
            hsm.destroy_key(first)
        assert hsm.find(name) == first


def test_no_log_no_cost(softhsm: Backend) -> None:
    assert _events.set_sink(None) is None
    with softhsm.open() as hsm:
        assert isinstance(hsm, HSMKeyManager)
