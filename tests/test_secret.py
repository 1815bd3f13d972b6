"""SecureBuffer, MemoryLockedKey and secure_key_context: what they do and what they refuse."""

from __future__ import annotations

import array
import base64
import copy
import ctypes
import gc
import json
import logging
import pickle
import sys
import threading
import traceback
import weakref
from types import FrameType
from typing import Any

import numpy as np
import pytest
import strongroom
from strongroom import (
    DecryptionError,
    KeyStateError,
    LimitError,
    MemoryLockedKey,
    SecureBuffer,
    SecureEncryption,
    memory_status,
    secure_key_context,
)

# Limits, locks and times of the whole process, and of the machine.
pytestmark = pytest.mark.alone

KEY = bytes(range(100, 132))


# SecureBuffer


@pytest.mark.parametrize("size", [1, 31, 32, 33, 2032, 2033, 4096, 4097, 100_000])
def test_buffer_gives_back_what_was_written(size):
    data = bytes(i * 7 & 0xFF for i in range(size))
    with SecureBuffer(size) as buffer:
        assert len(buffer) == size
        assert buffer.read() == bytes(size)
        assert buffer.write(data) == size
        copy_ = buffer.read()
        assert type(copy_) is bytearray
        assert copy_ == data
        assert buffer.read(offset=size - 1) == data[-1:]
        assert buffer.read(0, size) == b""
        assert buffer.read(1, 0) == data[:1]
    assert buffer.closed


def test_buffer_takes_any_buffer():
    buffer = SecureBuffer(16)
    for data in (b"ab", bytearray(b"ab"), memoryview(b"ab"), array.array("B", b"ab")):
        assert buffer.write(data, 3) == 2
        assert buffer.read(2, 3) == b"ab"
    assert buffer.write(array.array("d", [1.5, 2.5])) == 16
    assert buffer.read() == array.array("d", [1.5, 2.5]).tobytes()
    assert buffer.write(b"") == 0
    assert buffer.write(b"", 16) == 0


def test_buffer_may_be_written_from_its_own_view():
    buffer = SecureBuffer(8)
    buffer.write(b"12345678")
    buffer.write(buffer.view()[:6], 2)
    assert buffer.read() == b"12123456"


@pytest.mark.parametrize(
    ("size", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (-(2**80), ValueError),
        (2**30 + 1, LimitError),
        (2**63 - 1, LimitError),
        (2**64 - 1, LimitError),
        (2**64, LimitError),
        (2**200, LimitError),
        ("1", TypeError),
        (1.5, TypeError),
        (None, TypeError),
        (b"1", TypeError),
    ],
)
def test_buffer_refuses_sizes(size, error):
    with pytest.raises(error):
        SecureBuffer(size)


@pytest.mark.parametrize(
    ("data", "offset", "error"),
    [
        (b"12345678901", 0, ValueError),
        (b"1", 10, ValueError),
        (b"", 11, ValueError),
        (b"12", 9, ValueError),
        (b"1", -1, ValueError),
        (b"1", 2**64 - 1, ValueError),
        (b"1", 2**70, ValueError),
        ("1", 0, TypeError),
        (1, 0, TypeError),
        (None, 0, TypeError),
        (b"1", "0", TypeError),
        (b"1", 0.0, TypeError),
        (memoryview(b"123456")[::2], 0, BufferError),
    ],
)
def test_buffer_refuses_writes(data, offset, error):
    buffer = SecureBuffer(10)
    buffer.write(b"0123456789")
    with pytest.raises(error):
        buffer.write(data, offset)
    assert buffer.read() == b"0123456789"


@pytest.mark.parametrize(
    ("length", "offset", "error"),
    [
        (11, 0, ValueError),
        (1, 10, ValueError),
        (None, 11, ValueError),
        (-1, 0, ValueError),
        (1, -1, ValueError),
        (2**64 - 1, 2, ValueError),
        (2**70, 0, ValueError),
        ("1", 0, TypeError),
        (1.0, 0, TypeError),
    ],
)
def test_buffer_refuses_reads(length, offset, error):
    with pytest.raises(error):
        SecureBuffer(10).read(length, offset)


def test_cleared_buffer_is_not_read_before_it_is_written():
    buffer = SecureBuffer(10)
    buffer.write(b"0123456789")
    view = buffer.view()
    buffer.clear()
    assert bytes(view) == bytes(10)
    with pytest.raises(ValueError, match="cleared"):
        buffer.read()
    buffer.write(b"1", 9)
    assert buffer.read() == bytes(9) + b"1"


def test_closed_buffer_only_raises():
    buffer = SecureBuffer(10)
    buffer.close()
    buffer.close()
    for use in (
        buffer.read,
        buffer.clear,
        buffer.view,
        buffer.__enter__,
        lambda: buffer.write(b"1"),
        lambda: buffer.locked,
    ):
        with pytest.raises(ValueError, match="closed"):
            use()
    assert len(buffer) == 10
    assert "closed" in repr(buffer)


def test_buffer_is_wiped_when_the_body_raises():
    buffer = SecureBuffer(10)
    buffer.write(b"0123456789")
    view = buffer.view()
    with pytest.raises(ZeroDivisionError), buffer:
        1 / 0  # noqa: B018
    assert buffer.closed
    with pytest.raises(ValueError, match="released"):
        view[0]


# Views


def test_view_is_the_memory_itself():
    with SecureBuffer(10) as buffer:
        view = buffer.view()
        assert (view.format, view.itemsize, view.readonly, len(view)) == ("B", 1, False, 10)
        view[2:5] = b"abc"
        assert buffer.read(5) == b"\0\0abc"
        buffer.write(b"xyz")
        assert bytes(view[:5]) == b"xyzbc"
    with pytest.raises(ValueError, match="released"):
        view[0]
    with pytest.raises(ValueError, match="released"):
        len(view)


def test_file_is_read_straight_into_the_buffer(tmp_path):
    (tmp_path / "f").write_bytes(b"secret")
    with SecureBuffer(6) as buffer, (tmp_path / "f").open("rb", buffering=0) as file:
        with buffer.view() as view:
            assert file.readinto(view) == 6
        assert buffer.read() == b"secret"


@pytest.mark.parametrize(
    "make",
    [
        lambda view: view[2:6],
        lambda view: memoryview(view),
        lambda view: np.frombuffer(view, dtype=np.uint8)[2:6],
        lambda view: np.frombuffer(view, dtype=np.uint8).data,
        lambda view: (view[1:], view[2:], view.cast("H")),
    ],
    ids=["slice", "memoryview", "numpy", "memoryview of numpy", "several"],
)
@pytest.mark.parametrize("of_a_key", [False, True])
def test_what_was_made_of_a_view_shows_zeros(make, of_a_key):
    gc.collect()  # What other tests have left must not go between the two counts.
    before = memory_status().secrets
    owner: Any = MemoryLockedKey(KEY) if of_a_key else SecureBuffer(32)
    if not of_a_key:
        owner.write(KEY)
    owner.__enter__()
    made = make(owner.view())
    parts = made if isinstance(made, tuple) else (made,)
    assert any(any(bytes(part)) for part in parts)
    with pytest.raises(BufferError, match="wiped"):
        owner.__exit__(None, None, None)
    for part in parts:
        assert not any(bytes(part))
    del owner
    gc.collect()
    for part in parts:
        assert not any(bytes(part))
    # The memory is given back when the last of them goes.
    assert memory_status().secrets > before
    del made, parts, part
    gc.collect()
    assert memory_status().secrets == before


def test_kept_view_does_not_hide_the_exception():
    buffer = SecureBuffer(4)
    buffer.write(b"1234")
    kept = buffer.view()[:]
    with pytest.raises(ZeroDivisionError) as caught, buffer:
        1 / 0  # noqa: B018
    assert bytes(kept) == bytes(4)
    assert "wiped" in caught.value.__notes__[0]


def test_released_views_are_no_reason_to_complain():
    with SecureBuffer(4) as buffer:
        for _ in range(1000):
            buffer.view().release()
            buffer.view()
        with buffer.view() as view:
            part = view[1:]
            part.release()


def test_view_keeps_the_memory_of_a_dropped_buffer():
    buffer = SecureBuffer(4)
    buffer.write(b"1234")
    view = buffer.view()
    del buffer
    gc.collect()
    assert bytes(view) == b"1234"


def test_key_view_is_read_only():
    key = MemoryLockedKey(KEY)
    view = key.view()
    assert view.readonly
    assert bytes(view) == KEY
    with pytest.raises(TypeError):
        view[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        np.frombuffer(view, dtype=np.uint8).setflags(write=True)
    with pytest.raises((TypeError, BufferError)):
        ctypes.c_char.from_buffer(view)
    key.destroy()
    with pytest.raises(ValueError, match="released"):
        view[0]


# MemoryLockedKey


def test_key_comes_back_as_a_fresh_bytearray():
    key = MemoryLockedKey(KEY)
    first, second = key.get(), key.get()
    assert first == second == KEY
    first[:] = bytes(32)
    assert key.get() == KEY
    assert type(first) is bytearray


def test_bytearray_is_wiped_and_bytes_are_not():
    mutable = bytearray(KEY)
    constant = bytes(bytearray(KEY))
    assert MemoryLockedKey(mutable).get() == KEY
    assert mutable == bytes(32)
    assert MemoryLockedKey(constant).get() == KEY
    assert constant == KEY


def test_refused_bytearray_is_not_wiped():
    key = bytearray(KEY + b"1")
    with pytest.raises(ValueError, match="33"):
        MemoryLockedKey(key)
    assert key == KEY + b"1"


@pytest.mark.parametrize("length", [0, 1, 16, 31, 33, 64])
def test_key_of_another_length(length):
    for use in (MemoryLockedKey, lambda key: secure_key_context(key).__enter__()):
        with pytest.raises(ValueError, match="32"):
            use(bytes(length))


@pytest.mark.parametrize("wrong", ["x" * 32, 32, None, [1] * 32])
def test_key_of_another_type(wrong):
    for use in (MemoryLockedKey, lambda key: secure_key_context(key).__enter__()):
        with pytest.raises(TypeError):
            use(wrong)


def test_destroyed_key_only_raises():
    key = MemoryLockedKey.generate()
    cipher = SecureEncryption(key)
    message = cipher.encrypt(b"x")
    key.destroy()
    key.destroy()
    assert key.destroyed
    for use in (
        key.get,
        key.view,
        lambda: key.locked,
        lambda: cipher.encrypt(b"x"),
        lambda: cipher.decrypt(message),
        lambda: SecureEncryption(key).encrypt(b"x"),
        lambda: secure_key_context(key).__enter__(),
    ):
        with pytest.raises(KeyStateError):
            use()


def test_key_is_destroyed_by_its_with_statement():
    with MemoryLockedKey(KEY) as key:
        assert key.get() == KEY
    assert key.destroyed
    with pytest.raises(ZeroDivisionError), MemoryLockedKey(KEY) as key:
        1 / 0  # noqa: B018
    assert key.destroyed


def test_destroying_a_key_wipes_the_view_that_another_object_gave():
    first = MemoryLockedKey(KEY)
    second = MemoryLockedKey(first)
    view = second.view()
    first.destroy()
    assert bytes(view) == bytes(32)
    assert second.destroyed


# secure_key_context


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, np.frombuffer, MemoryLockedKey])
def test_context_lends_a_view(kind):
    key = np.frombuffer(KEY, np.uint8) if kind is np.frombuffer else kind(KEY)
    with secure_key_context(key) as view:
        assert bytes(view) == KEY
        assert view.readonly
        if kind is bytearray:
            assert key == bytes(32)
    with pytest.raises(ValueError, match="released"):
        view[0]
    if kind is MemoryLockedKey:
        assert key.get() == KEY


def test_context_wipes_when_the_body_raises():
    with pytest.raises(ZeroDivisionError), secure_key_context(KEY) as view:
        1 / 0  # noqa: B018
    with pytest.raises(ValueError, match="released"):
        view[0]


def test_context_with_a_slice_alive():
    with pytest.raises(BufferError, match="wiped"), secure_key_context(KEY) as view:
        part = view[4:8]
    assert bytes(part) == bytes(4)


def test_context_is_entered_once():
    context = secure_key_context(KEY)
    with context:
        pass
    with pytest.raises(ValueError, match="once"):
        context.__enter__()


# What must not leak


def _objects():
    buffer = SecureBuffer(32)
    buffer.write(KEY)
    return [buffer, MemoryLockedKey(KEY), SecureEncryption(MemoryLockedKey(KEY)), memory_status()]


def _shows_key(text):
    shown = text.encode() if isinstance(text, str) else text
    forms = (
        KEY,
        KEY.hex().encode(),
        KEY.hex(" ").encode(),
        repr(KEY).encode(),
        str(list(KEY)).encode(),
        base64.b64encode(KEY),
        base64.urlsafe_b64encode(KEY),
        base64.b85encode(KEY),
    )
    return any(form[:40] in shown for form in forms)


@pytest.mark.parametrize("index", range(4))
def test_nothing_prints_the_key(index, caplog):
    thing = _objects()[index]
    texts = [repr(thing), str(thing), f"{thing}", f"{thing!r:>100}", ascii(thing), repr([thing])]
    logging.getLogger().warning("%s %r", thing, thing)
    texts.append(caplog.text)
    try:
        raise RuntimeError(thing)
    except RuntimeError as error:
        trace = traceback.TracebackException.from_exception(error, capture_locals=True)
        texts.append("".join(trace.format()))
    texts += [repr(getattr(thing, name, None)) for name in dir(thing) if name != "get"]
    for text in texts:
        assert not _shows_key(text)
    assert not hasattr(thing, "__dict__")
    with pytest.raises(TypeError):
        vars(thing)
    with pytest.raises(TypeError):
        json.dumps(thing)


@pytest.mark.parametrize("index", range(3))
def test_nothing_is_pickled_or_copied(index):
    thing = _objects()[index]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError):
            pickle.dumps(thing, protocol)
    with pytest.raises(TypeError):
        copy.copy(thing)
    with pytest.raises(TypeError):
        copy.deepcopy(thing)
    with pytest.raises(TypeError):
        bytes(thing)


def test_collector_finds_no_key():
    # A key that is made inside: the one copy that Python has is `raw`.
    key = MemoryLockedKey.generate()
    raw = key.get()
    buffer = SecureBuffer(32)
    buffer.write(raw)
    cipher = SecureEncryption(key)
    kept = [cipher, secure_key_context(key), cipher.encrypt(b"x"), buffer.view()]
    shown = (raw.hex().encode(), base64.b64encode(raw))
    gc.collect()
    seen = 0
    for found in gc.get_objects():
        for referred in (found, *gc.get_referents(found)):
            # By identity: other tests' objects compare in their own ways.
            if referred is raw or any(referred is text for text in shown):
                continue
            if isinstance(referred, str):
                referred = referred.encode(errors="replace")
            if isinstance(referred, (bytes, bytearray)):
                seen += 1
                assert raw not in referred
                assert not any(text in referred for text in shown)
    assert seen > 1000
    assert len(kept) == 4


def test_no_frame_shows_a_key():
    # A tracer and a profiler see each Python frame's variables and each value that is returned.
    key = MemoryLockedKey(KEY)
    buffer = SecureBuffer(32)
    buffer.write(KEY)
    texts: list[str] = []

    def look(frame: FrameType, event: str, argument: object) -> Any:
        if "strongroom" in frame.f_code.co_filename:
            texts.append(f"{event} {argument!r} {frame.f_locals!r}")
        return look

    sys.settrace(look)
    sys.setprofile(look)
    try:
        with secure_key_context(key) as view:
            SecureEncryption(view).encrypt(b"x")
        cipher = SecureEncryption(key)
        message = cipher.encrypt(b"x")
        with pytest.raises(DecryptionError):
            cipher.decrypt(message, b"other")
        strongroom.ParallelEncryption(key).encrypt_large(b"x")
        with pytest.raises(ZeroDivisionError), secure_key_context(key):
            1 / 0  # noqa: B018
    finally:
        sys.settrace(None)
        sys.setprofile(None)
    assert any("secure_key_context" in text for text in texts)
    assert not [text for text in texts if _shows_key(text)]


def test_exceptions_hold_no_key():
    key = MemoryLockedKey(KEY)
    message = SecureEncryption(key).encrypt(b"plain")
    errors = []
    for use in (
        lambda: SecureEncryption(key).decrypt(message[:-1] + b"\0"),
        lambda: MemoryLockedKey(KEY + b"1"),
        lambda: SecureBuffer(1).write(KEY),
    ):
        with pytest.raises((strongroom.StrongroomError, ValueError)) as caught:
            use()
        errors.append(caught.value)
    for error in errors:
        text = "".join(traceback.format_exception(error))
        assert not _shows_key(text)
        assert not _shows_key(repr(vars(error)))


# Threads


def test_clear_under_concurrent_use_is_never_torn():
    buffer = SecureBuffer(100_000)
    values = [bytes([i]) * 100_000 for i in range(1, 4)]
    stop = threading.Event()
    torn = []

    def write(value):
        while not stop.is_set():
            buffer.write(value)

    def clear():
        while not stop.is_set():
            buffer.clear()

    def read():
        for _ in range(300):
            try:
                got = buffer.read()
            except ValueError:
                continue
            if got.count(got[0]) != len(got):
                torn.append(got[:8])
        stop.set()

    threads = [threading.Thread(target=write, args=(value,)) for value in values]
    threads += [threading.Thread(target=clear), threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not torn


def test_destroy_under_concurrent_use():
    # Either the right result or KeyStateError: nothing is sealed under a key that is half wiped.
    for _ in range(20):
        key = MemoryLockedKey(KEY)
        cipher = SecureEncryption(key)
        done: list[bytes] = []

        def work(cipher=cipher, done=done):
            try:
                while True:
                    done.append(cipher.encrypt(b"x" * 10_000))
            except KeyStateError:
                pass

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        while len(done) < 20:
            pass
        key.destroy()
        for thread in threads:
            thread.join()
        other = SecureEncryption(KEY)
        assert all(other.decrypt(message) == b"x" * 10_000 for message in done)


def test_objects_can_be_referred_to_weakly():
    for make in (lambda: SecureBuffer(1), MemoryLockedKey.generate):
        thing = make()
        reference = weakref.ref(thing)
        del thing
        gc.collect()
        assert reference() is None


# The status


def test_status_counts():
    before = memory_status()
    buffers = [SecureBuffer(10_000) for _ in range(10)]
    during = memory_status()
    assert during.secrets == before.secrets + 10
    assert during.locked_bytes + during.unlocked_bytes >= 120_000
    del buffers
    after = memory_status()
    assert after.secrets == before.secrets
    assert after.locked_bytes == before.locked_bytes
    assert after.backend in ("memfd_secret", "mlock", "none")
    assert after.policy == "warn"
    assert after.limit is None or after.limit >= 0
    assert after.backend in repr(after)


def test_policy_names():
    wrong: Any
    for wrong in ("", "Strict", "none"):
        with pytest.raises(ValueError, match="warn"):
            strongroom.set_memory_policy(wrong)
    strongroom.set_memory_policy("strict")
    assert memory_status().policy == "strict"
    strongroom.set_memory_policy("warn")
    assert memory_status().policy == "warn"
