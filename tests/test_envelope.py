"""EnvelopeEncryption: master, KEK, DEK; its cache; its slots."""

from __future__ import annotations

import copy
import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from strongroom import (
    DecryptionError,
    EnvelopeEncryption,
    FileMasterKey,
    FormatError,
    KeyNotFoundError,
    KeyStateError,
    KeyStore,
    LimitError,
    MasterKeyError,
    MemoryLockedKey,
    PassphraseMasterKey,
    VersionedEncryption,
    inspect,
)

SIZES = [0, 1, 100, 16_383, 16_384, 16_385, 65_537, 1_000_000]


class Counting:
    """A file's master whose calls are counted, and which can be told to fail."""

    mechanism = FileMasterKey.mechanism

    def __init__(self, real: FileMasterKey) -> None:
        self.real = real
        self.calls: list[str] = []
        self.fail: BaseException | None = None

    @property
    def key_id(self) -> str:
        return self.real.key_id

    @property
    def uri(self) -> str:
        return self.real.uri

    def wrap(self, key: MemoryLockedKey, context: str) -> bytes:
        self.calls.append("wrap")
        if self.fail is not None:
            raise self.fail
        return self.real.wrap(key, context)

    def unwrap(self, blob: bytes, context: str) -> MemoryLockedKey:
        self.calls.append("unwrap")
        if self.fail is not None:
            raise self.fail
        return self.real.unwrap(blob, context)


@pytest.fixture
def master(tmp_path: Path) -> Counting:
    return Counting(FileMasterKey.create(tmp_path / "master.key"))


@pytest.fixture
def other(tmp_path: Path) -> Counting:
    return Counting(FileMasterKey.create(tmp_path / "other.key"))


@pytest.fixture
def store(tmp_path: Path, master: Counting) -> Iterator[KeyStore]:
    with KeyStore.create(f"sqlite:///{tmp_path / 'keys.db'}", master) as store:
        master.calls.clear()
        yield store


def kek_of(message: bytes) -> str:
    [key_id] = inspect(message).key_ids
    return key_id


def body_of(message: bytes) -> bytes:
    """Salt, commitment and chunks."""
    info = inspect(message)
    return message[info.slots[-1].offset + 3 + info.slots[-1].length :]


@pytest.mark.parametrize("size", SIZES)
def test_there_and_back(master: Counting, size: int) -> None:
    plaintext = os.urandom(size)
    with EnvelopeEncryption(master) as envelopes:
        message = envelopes.encrypt(bytearray(plaintext), b"context")
        assert envelopes.decrypt(memoryview(message), b"context") == plaintext
        [slot] = inspect(message).slots
        assert (slot.kind, inspect(message).plaintext_length) == ("master", size)
        with pytest.raises(DecryptionError):
            envelopes.decrypt(message, b"other")
    with EnvelopeEncryption(master.real) as another:
        assert another.decrypt(message, b"context") == plaintext


def test_ten_thousand_values_cost_one_call(master: Counting) -> None:
    with EnvelopeEncryption(master) as envelopes:
        messages = [envelopes.encrypt(b"%d" % n) for n in range(10_000)]
        assert master.calls == ["wrap"]
        assert len({kek_of(message) for message in messages}) == 1
        assert len({inspect(message).salt for message in messages}) == 10_000
        # What this object wrote it opens without a call; another one takes one for all of them.
        assert [envelopes.decrypt(m) for m in messages[:100]] == [b"%d" % n for n in range(100)]
        assert master.calls == ["wrap"]
    with EnvelopeEncryption(master) as another:
        assert [another.decrypt(m) for m in messages] == [b"%d" % n for n in range(10_000)]
    assert master.calls == ["wrap", "unwrap"]


def test_threads_share_one_call(master: Counting) -> None:
    with EnvelopeEncryption(master) as envelopes:
        ready = threading.Barrier(8)
        messages: list[bytes] = []

        def write() -> None:
            ready.wait()
            messages.extend(envelopes.encrypt(b"value") for _ in range(50))

        def read(into: EnvelopeEncryption) -> None:
            ready.wait()
            for message in messages:
                assert into.decrypt(message) == b"value"

        run_all([write] * 8)
        assert master.calls == ["wrap"]
        with EnvelopeEncryption(master) as another:
            run_all([lambda: read(another)] * 8)
        assert master.calls == ["wrap", "unwrap"]


def run_all(works: list) -> None:
    failed: list[BaseException] = []

    def guarded(work) -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed


def test_uses_and_time_end(master: Counting) -> None:
    with EnvelopeEncryption(master, cache_uses=3) as envelopes:
        keks = [kek_of(envelopes.encrypt(b"")) for _ in range(7)]
        assert [keks.count(kek) for kek in dict.fromkeys(keks)] == [3, 3, 1]
        assert master.calls == ["wrap"] * 3
    master.calls.clear()
    with EnvelopeEncryption(master, cache_uses=3) as envelopes:
        message = EnvelopeEncryption(master).encrypt(b"")
        for _ in range(7):
            envelopes.decrypt(message)
        assert master.calls == ["wrap"] + ["unwrap"] * 3
    master.calls.clear()
    with EnvelopeEncryption(master, cache_seconds=0) as envelopes:
        for _ in range(3):
            envelopes.decrypt(envelopes.encrypt(b""))
        assert master.calls == ["wrap", "unwrap"] * 3
    for bad in ({"cache_seconds": -1}, {"cache_seconds": 86_401}, {"cache_uses": 0}):
        with pytest.raises(ValueError, match="cache_"):
            EnvelopeEncryption(master, **bad)  # type: ignore[arg-type]


def test_a_warm_cache_opens_nothing_that_a_cold_one_would_not(master: Counting) -> None:
    with EnvelopeEncryption(master) as envelopes:
        message = envelopes.encrypt(b"value")
        [slot] = inspect(message).slots
        start = slot.offset + 3
        # Every byte that is authenticated with the KEK, and the box around the DEK behind it.
        for at in range(start, start + slot.length):
            changed = bytearray(message)
            changed[at] ^= 1
            with pytest.raises((DecryptionError, KeyNotFoundError)):
                envelopes.decrypt(changed)
        assert envelopes.decrypt(message) == b"value"


def test_forget_and_close(master: Counting) -> None:
    envelopes = EnvelopeEncryption(master)
    message = envelopes.encrypt(b"value")
    envelopes.forget()
    assert envelopes.decrypt(message) == b"value"
    assert kek_of(envelopes.encrypt(b"")) != kek_of(message)
    assert master.calls == ["wrap", "unwrap", "wrap"]
    envelopes.close()
    envelopes.close()
    for use in (
        lambda: envelopes.encrypt(b""),
        lambda: envelopes.decrypt(message),
        lambda: envelopes.rewrap(message),
        lambda: envelopes.reencrypt(message),
    ):
        with pytest.raises(KeyStateError, match="closed"):
            use()
    assert len(master.calls) == 3


def test_a_forked_child_has_none_of_it(master: Counting) -> None:
    with EnvelopeEncryption(master) as envelopes:
        message = envelopes.encrypt(b"value")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                try:
                    envelopes.decrypt(message)
                except MasterKeyError as error:
                    # The cache is empty, so the master is asked, and that one is the parent's.
                    code = 0 if "fork" in str(error) and master.calls[1:] == ["unwrap"] else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert envelopes.decrypt(message) == b"value"
        assert master.calls == ["wrap"]


def test_a_child_with_a_master_of_its_own_works(master: Counting, tmp_path: Path) -> None:
    with EnvelopeEncryption(master) as envelopes:
        message = envelopes.encrypt(b"value")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                master.real = FileMasterKey(tmp_path / "master.key")
                mine = envelopes.encrypt(b"mine")
                if envelopes.decrypt(message) == b"value" and envelopes.decrypt(mine) == b"mine":
                    code = 0 if kek_of(mine) != kek_of(message) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_rewrap_keeps_the_body(master: Counting, other: Counting) -> None:
    with EnvelopeEncryption(master) as envelopes:
        message = envelopes.encrypt(b"x" * 100_000, b"context")
        rewrapped = envelopes.rewrap(message)
        assert kek_of(rewrapped) != kek_of(message)
        assert body_of(rewrapped) == body_of(message)
        assert envelopes.decrypt(rewrapped, b"context") == b"x" * 100_000
        # Again: a KEK other than the one it is under, each time.
        assert kek_of(envelopes.rewrap(rewrapped)) != kek_of(rewrapped)
        many = [envelopes.encrypt(b"%d" % n) for n in range(100)]
        before = master.calls.count("wrap")
        assert len({kek_of(envelopes.rewrap(m)) for m in many}) == 1
        assert master.calls.count("wrap") == before + 1
        # The slot is bound to its message: its body in another one opens nothing.
        planted = bytearray(many[0])
        [slot] = inspect(many[0]).slots
        end = slot.offset + 3 + slot.length
        planted[slot.offset : end] = many[1][slot.offset : end]
        with pytest.raises(DecryptionError):
            envelopes.rewrap(planted)
    with EnvelopeEncryption(other) as another, pytest.raises(KeyNotFoundError) as caught:
        another.rewrap(rewrapped)
    assert caught.value.key_id == kek_of(rewrapped)
    assert other.calls == [], "a master is not asked for what it did not wrap"


def test_reencrypt_has_a_new_dek(master: Counting) -> None:
    with EnvelopeEncryption(master) as envelopes:
        message = envelopes.encrypt(b"value", b"context")
        anew = envelopes.reencrypt(message, b"context")
        assert body_of(anew) != body_of(message)
        assert inspect(anew).salt != inspect(message).salt
        assert envelopes.decrypt(anew, b"context") == b"value"
        with pytest.raises(DecryptionError):
            envelopes.reencrypt(message)


def test_with_a_store(store: KeyStore, master: Counting) -> None:
    with EnvelopeEncryption(master, store) as envelopes:
        message = envelopes.encrypt(b"small", b"context")
        [slot] = inspect(message).slots
        assert (slot.kind, slot.key_id) == ("keyset", store.get_current_key().id)
        assert envelopes.decrypt(message, b"context") == b"small"
        assert VersionedEncryption(store).decrypt(message, b"context") == b"small"
        assert envelopes.rewrap(message) is message
        store.rotate()
        rewrapped = envelopes.rewrap(bytearray(message))
        assert kek_of(rewrapped) == store.get_current_key().id
        assert body_of(rewrapped) == body_of(message)
        assert envelopes.decrypt(rewrapped, b"context") == b"small"
    assert master.calls == [], "the store was open: no call to the master"


def test_from_a_masters_kek_to_a_keyset(store: KeyStore, master: Counting) -> None:
    with EnvelopeEncryption(master) as alone:
        message = alone.encrypt(b"value")
    with EnvelopeEncryption(None, store) as without, pytest.raises(KeyNotFoundError):
        without.decrypt(message)
    with EnvelopeEncryption(master, store) as envelopes:
        assert envelopes.decrypt(message) == b"value"
        moved = envelopes.rewrap(message)
        assert inspect(moved).slots[0].kind == "keyset"
    with EnvelopeEncryption(None, store) as without:
        assert without.decrypt(moved) == b"value"
    assert "master" in repr(envelopes)


def test_a_change_of_state_is_seen_at_once(store: KeyStore, master: Counting) -> None:
    with EnvelopeEncryption(master, store) as envelopes:
        message = envelopes.encrypt(b"value")
        key_id = kek_of(message)
        store.rotate()
        assert envelopes.decrypt(message) == b"value"
        store.compromise_key(key_id, reason="test")
        for use in (envelopes.decrypt, envelopes.rewrap, envelopes.reencrypt):
            with pytest.raises(KeyStateError) as caught:
                use(message)
            assert caught.value.state == "compromised"
        assert envelopes.decrypt(message, allow_compromised=True) == b"value"
        anew = envelopes.reencrypt(message, allow_compromised=True)
        assert kek_of(anew) == store.get_current_key().id
        store.destroy_key(key_id, force=True)
        with pytest.raises(KeyNotFoundError):
            envelopes.decrypt(message, allow_compromised=True)


def with_slots(message: bytes, slots: list[bytes]) -> bytes:
    return message[:4] + bytes([len(slots)]) + b"".join(slots) + body_of(message)


def slot_of(message: bytes) -> bytes:
    [slot] = inspect(message).slots
    return message[slot.offset : slot.offset + 3 + slot.length]


def two_slots(message: bytes, first: EnvelopeEncryption, second: EnvelopeEncryption) -> bytes:
    """A message that opens with either; `second` has a store and the first one's master."""
    return with_slots(message, [slot_of(message), slot_of(second.rewrap(message))])


def test_a_master_out_of_reach_does_not_end_the_opening(store: KeyStore, master: Counting) -> None:
    with EnvelopeEncryption(master) as alone, EnvelopeEncryption(master, store) as both:
        first = alone.encrypt(b"value", b"context")
        message = two_slots(first, alone, both)
    master.fail = MasterKeyError("gone", retryable=True)
    with EnvelopeEncryption(master, store) as both:
        # The keyset's slot opens, whatever the master says.
        assert both.decrypt(message, b"context") == b"value"
        with pytest.raises(DecryptionError):
            both.decrypt(message[:-1] + bytes([message[-1] ^ 1]), b"context")
        with pytest.raises(MasterKeyError, match="gone") as caught:
            both.decrypt(first, b"context")
        assert caught.value.retryable
        master.fail = DecryptionError()
        with pytest.raises(DecryptionError):
            both.decrypt(first, b"context")
        master.fail = RuntimeError("a provider's own bug")
        with pytest.raises(MasterKeyError, match="RuntimeError"):
            both.decrypt(first, b"context")
        # But what is no Exception ends everything.
        master.fail = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            both.decrypt(message, b"context")
        master.fail = None
        assert both.decrypt(first, b"context") == b"value"


def test_a_closed_store_is_said_as_such(store: KeyStore, master: Counting) -> None:
    envelopes = EnvelopeEncryption(master, store)
    message = envelopes.encrypt(b"value")
    large = VersionedEncryption(store).encrypt(bytes(100_000))
    versioned = VersionedEncryption(store)
    store.close()
    for use in (
        lambda: envelopes.decrypt(message),
        lambda: envelopes.encrypt(b""),
        lambda: versioned.decrypt(large),
    ):
        with pytest.raises(Exception, match="closed") as caught:
            use()
        assert type(caught.value).__name__ == "KeyStoreError"


def test_a_master_that_gives_another_key(master: Counting, other: Counting) -> None:
    with EnvelopeEncryption(master) as envelopes:
        message = envelopes.encrypt(b"value")
    wrong = MemoryLockedKey.generate()
    master.unwrap = lambda blob, context: wrong  # type: ignore[method-assign]
    with EnvelopeEncryption(master) as envelopes:
        with pytest.raises(MasterKeyError, match="another key"):
            envelopes.decrypt(message)
        master.unwrap = lambda blob, context: b"short"  # type: ignore[method-assign,assignment,return-value]
        with pytest.raises(MasterKeyError, match="32 bytes"):
            envelopes.decrypt(message)
    master.wrap = lambda key, context: b""  # type: ignore[method-assign]
    with EnvelopeEncryption(master) as envelopes, pytest.raises(MasterKeyError, match="blob"):
        envelopes.encrypt(b"value")


def test_arguments(master: Counting, store: KeyStore) -> None:
    with pytest.raises(TypeError, match="master, a key store"):
        EnvelopeEncryption(None)
    with pytest.raises(TypeError, match="needs key_id"):
        EnvelopeEncryption(object())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="passphrase"):
        EnvelopeEncryption(PassphraseMasterKey("correct horse"))
    with pytest.raises(KeyNotFoundError):
        EnvelopeEncryption(master, store, "nothing")
    with pytest.raises(TypeError):
        EnvelopeEncryption(master, store, None)  # type: ignore[arg-type]
    store.create_keyset("names", purpose="names")
    with pytest.raises(KeyStateError):
        EnvelopeEncryption(master, store, "names")
    with EnvelopeEncryption(master, store) as envelopes:
        with pytest.raises(LimitError):
            envelopes.encrypt(b"", bytes(65_536))
        with pytest.raises(TypeError):
            envelopes.encrypt("text")  # type: ignore[arg-type]
        for bad in (b"", b"SR", VersionedEncryption(store).encrypt(b"a record")):
            for use in (envelopes.decrypt, envelopes.rewrap, envelopes.reencrypt):
                with pytest.raises(FormatError):
                    use(bad)
        for broken in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError):
                broken(envelopes)
