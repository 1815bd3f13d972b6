"""Buffers of every type, as plaintext, message, associated data and output."""

from __future__ import annotations

import array
import ctypes
import mmap

import numpy as np
import pytest
from strongroom import ParallelEncryption, SecureEncryption, generate_key

LENGTHS = [0, 8, 4096, 1 << 20]


def mapped(data: bytes) -> mmap.mmap | bytes:
    if not data:
        return b""  # A mapping of nothing is an error of mmap itself.
    memory = mmap.mmap(-1, len(data))
    memory[:] = data
    return memory


# From bytes of a multiple of 8, an object with the same bytes.
BUFFERS = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "memoryview of a part": lambda data: memoryview(b"xyz" + data + b"xyz")[3 : 3 + len(data)],
    "memoryview of doubles": lambda data: memoryview(array.array("d", data)),
    "memoryview in two dimensions": lambda data: (
        memoryview(data).cast("B", (len(data) // 8, 8)) if data else memoryview(data)
    ),
    "array of bytes": lambda data: array.array("B", data),
    "array of ints": lambda data: array.array("q", data),
    "array of doubles": lambda data: array.array("d", data),
    "mmap": mapped,
    "ctypes": lambda data: (ctypes.c_uint16 * (len(data) // 2)).from_buffer_copy(data),
    "numpy uint8": lambda data: np.frombuffer(data, np.uint8),
    "numpy float64": lambda data: np.frombuffer(data, np.float64),
    "numpy bool": lambda data: np.frombuffer(data, np.bool_),
    "numpy complex": lambda data: np.frombuffer(data + data[:8], np.complex64)[: len(data) // 8],
    "numpy in two dimensions": lambda data: np.frombuffer(data, np.uint16).reshape(-1, 4),
    "numpy structured": lambda data: np.frombuffer(data, [("a", "<u4"), ("b", "<f4")]),
    "numpy big-endian": lambda data: np.frombuffer(data, ">i8"),
}

buffers = pytest.mark.parametrize("make", BUFFERS.values(), ids=BUFFERS)


def content(length: int) -> bytes:
    return bytes((i * 7 + (i >> 8)) & 0xFF for i in range(length))


class SubBytes(bytes):
    """A subclass: its bytes are taken, whatever else it says."""

    def __len__(self):
        return 3

    def __bytes__(self):
        return b"another"


@buffers
@pytest.mark.parametrize("length", LENGTHS)
def test_input(make, length):
    data = content(length)
    associated_data = content(min(length, 65_528))
    secure, parallel = SecureEncryption(generate_key()), ParallelEncryption(generate_key())
    record = secure.encrypt(make(data), make(associated_data))
    assert secure.decrypt(record, associated_data) == data
    envelope = parallel.encrypt_large(make(data), make(associated_data))
    assert parallel.decrypt_large(envelope, associated_data) == data


@buffers
@pytest.mark.parametrize("length", LENGTHS)
def test_message(make, length):
    # Lengths of messages that are a multiple of 8: 92 + 4, and 184 + 16 a chunk.
    data = content(length + 4)
    secure, parallel = SecureEncryption(generate_key()), ParallelEncryption(generate_key())
    record = make(secure.encrypt(data))
    for opened in (
        secure.decrypt(record),
        secure.decrypt_many([record])[0],
        secure.decrypt_packed(record, len(data)),
    ):
        assert type(opened) is bytes
        assert opened == data
    data = content(length)
    envelope = parallel.encrypt_large(data)
    assert parallel.plaintext_size(make(envelope)) == length
    assert parallel.decrypt_large(make(envelope)) == data


@buffers
def test_batches(make):
    data = content(800)
    secure = SecureEncryption(generate_key())
    messages = secure.encrypt_many([make(data)] * 3, [make(data), b"", make(b"")])
    assert secure.decrypt_many(messages, (data, b"", b"")) == [data] * 3
    packed = secure.encrypt_packed(make(data), 16, make(data))
    assert secure.decrypt_packed(make(packed), 16, data) == data


@pytest.mark.parametrize("name", [name for name in BUFFERS if name != "bytes"])
@pytest.mark.parametrize("length", LENGTHS)
def test_output(name, length):
    # Outputs are made of fresh writable memory with the same type.
    data = content(length)
    secure, parallel = SecureEncryption(generate_key()), ParallelEncryption(generate_key())
    for encrypt, decrypt, size in (
        (secure.encrypt_into, secure.decrypt_into, secure.encrypted_size(length)),
        (parallel.encrypt_large_into, parallel.decrypt_large_into, parallel.encrypted_size(length)),
    ):
        room = bytearray(-(-size // 16) * 16)
        out = writable(name, room)
        assert encrypt(data, out) == size
        message = memoryview(out).cast("B")[:size] if name != "numpy structured" else None
        message = bytes(message) if message is not None else out.tobytes()[:size]
        back = writable(name, bytearray(max(length, 16)))
        assert decrypt(message, back) == length
        assert bytes(memoryview(back).tobytes())[:length] == data


def writable(name: str, room: bytearray):
    view = memoryview(room)
    if name == "bytearray" or name.startswith("memoryview of a part"):
        return view
    if name.startswith("array"):
        return array.array({"bytes": "B", "ints": "q", "doubles": "d"}[name.split()[-1]], room)
    if name == "mmap":
        return mmap.mmap(-1, len(room))
    if name == "ctypes":
        return (ctypes.c_uint16 * (len(room) // 2)).from_buffer(room)
    types = {"float64": "f8", "bool": "?", "complex": "c8", "structured": "<u4,<f4"}
    if name.startswith("numpy"):
        made = np.frombuffer(room, types.get(name.split()[1], "u1"))
        return made.reshape(-1, 2) if "dimensions" in name else made
    if "doubles" in name:
        return view.cast("d")
    return view.cast("B", (len(room) // 8, 8)) if "dimensions" in name else view


def test_subclass_of_bytes():
    secure = SecureEncryption(generate_key())
    assert secure.decrypt(secure.encrypt(SubBytes(b"its own"))) == b"its own"


@pytest.mark.parametrize(
    "strided",
    [
        memoryview(bytes(100))[::2],
        memoryview(bytes(100))[::-1],
        np.zeros(100)[::2],
        np.zeros((4, 6)).T,
        np.zeros((4, 6), order="F"),
        np.zeros((4, 6))[:, :3],
        np.broadcast_to(np.zeros(1), 50),
    ],
    ids=["step", "reversed", "numpy step", "transposed", "fortran", "columns", "broadcast"],
)
def test_not_contiguous(strided):
    secure, parallel = SecureEncryption(generate_key()), ParallelEncryption(generate_key())
    for call in (
        lambda: secure.encrypt(strided),
        lambda: secure.decrypt(strided),
        lambda: secure.encrypt(b"", strided),
        lambda: secure.encrypt_many([strided]),
        lambda: secure.encrypt_many([b""], [strided]),
        lambda: secure.decrypt_many([strided]),
        lambda: secure.encrypt_packed(strided, 1),
        lambda: secure.encrypt_into(strided, bytearray(1000)),
        lambda: parallel.encrypt_large(strided),
        lambda: parallel.decrypt_large(strided),
        lambda: parallel.plaintext_size(strided),
    ):
        with pytest.raises(BufferError, match="contiguous"):
            call()


def test_not_contiguous_output():
    secure = SecureEncryption(generate_key())
    with pytest.raises(BufferError, match="contiguous"):
        secure.encrypt_into(b"x", memoryview(bytearray(1000))[::2])
    with pytest.raises(BufferError, match="contiguous"):
        secure.encrypt_into(b"x", np.zeros((20, 20), np.uint8, order="F")[:, 1:])


@pytest.mark.parametrize("wrong", ["text", "", None, 7, 1.5, ["list"], {"a": 1}, object()])
def test_no_buffer(wrong):
    secure, parallel = SecureEncryption(generate_key()), ParallelEncryption(generate_key())
    for call in (
        lambda: secure.encrypt(wrong),
        lambda: secure.decrypt(wrong),
        lambda: secure.encrypt_many([b"", wrong]),
        lambda: secure.decrypt_many([wrong]),
        lambda: secure.encrypt_packed(wrong, 1),
        lambda: secure.encrypt_into(wrong, bytearray(200)),
        lambda: secure.encrypt_into(b"", wrong),
        lambda: secure.decrypt_into(secure.encrypt(b""), wrong),
        lambda: parallel.encrypt_large(wrong),
        lambda: parallel.decrypt_large(wrong),
        lambda: parallel.encrypt_large_into(wrong, bytearray(200)),
    ):
        with pytest.raises(TypeError) as caught:
            call()
        if isinstance(wrong, str):
            assert "encode" in str(caught.value)
    if wrong is not None:
        with pytest.raises(TypeError):
            secure.encrypt(b"", wrong)


@pytest.mark.parametrize("value", [ctypes.c_double(1.5), np.array(1.5), np.float64(1.5)])
def test_one_value_without_dimensions(value):
    secure = SecureEncryption(generate_key())
    message = secure.encrypt(value, value)
    assert secure.decrypt(message, bytes(memoryview(value).cast("B"))) == bytes(value)
    if not isinstance(value, np.float64):  # which can't be written to
        ctypes.memset(
            value.ctypes.data if isinstance(value, np.ndarray) else ctypes.byref(value), 0, 8
        )
        assert secure.decrypt_into(message, value, ctypes.c_double(1.5)) == 8
        assert bytes(value) == bytes(ctypes.c_double(1.5))


def test_text_as_associated_data_says_to_encode_it():
    secure = SecureEncryption(generate_key())
    with pytest.raises(TypeError, match=r"associated_data.*encode"):
        secure.encrypt(b"", "text")


def test_a_buffer_is_let_go_after_the_call():
    secure = SecureEncryption(generate_key())
    data, out = bytearray(100_000), bytearray(200_000)
    secure.encrypt(data, data[:100])
    secure.encrypt_into(data, out)
    with pytest.raises(ValueError, match="needed"):
        secure.encrypt_into(data, bytearray(1))
    # A bytearray whose buffer is still held can't be resized.
    data.extend(b"x")
    out.extend(b"x")


def test_released_and_closed_buffers():
    secure = SecureEncryption(generate_key())
    view = memoryview(b"x")
    view.release()
    with pytest.raises(ValueError, match="released"):
        secure.encrypt(view)
    closed = mmap.mmap(-1, 100)
    closed.close()
    with pytest.raises(ValueError, match="closed"):
        secure.encrypt(closed)
