"""Batches of records: lists and packed buffers."""

from __future__ import annotations

import gc
import os
import threading

import pytest
from strongroom import (
    DecryptionError,
    FormatError,
    LimitError,
    SecureEncryption,
    UnsupportedVersionError,
    generate_key,
)

# Around the sizes of a piece (128 records) and of a block (2,048).
COUNTS = [0, 1, 2, 127, 128, 129, 2047, 2048, 2049, 4096, 20_000]
OVERHEAD = 92


@pytest.fixture
def secure():
    return SecureEncryption(generate_key())


@pytest.mark.parametrize("count", COUNTS)
def test_many(secure, count):
    plaintexts = [number.to_bytes(8) * (number % 50) for number in range(count)]
    messages = secure.encrypt_many(plaintexts)
    assert type(messages) is list
    assert [len(message) for message in messages] == [len(p) + OVERHEAD for p in plaintexts]
    assert secure.decrypt_many(messages) == plaintexts
    # Each is a record of its own.
    for number in {0, count // 2, count - 1} & set(range(count)):
        assert secure.decrypt(messages[number]) == plaintexts[number]
    assert len({message[20:44] for message in messages}) == count
    assert secure.decrypt_many([secure.encrypt(p) for p in plaintexts[:300]]) == plaintexts[:300]


def test_nobody_finds_a_list_that_is_not_whole(secure):
    # It has null pointers for items: another thread that found one would end the process.
    count = 300_007
    plaintexts = (b"",) * count
    stop, looks, found = threading.Event(), 0, 0

    def look() -> None:
        nonlocal looks, found
        while not stop.is_set():
            lists = [each for each in gc.get_objects() if type(each) is list]
            found += sum(len(each) == count for each in lists)
            looks += 1

    thread = threading.Thread(target=look)
    thread.start()
    messages = secure.encrypt_many(plaintexts)
    stop.set()
    thread.join()
    assert looks > 3
    assert found == 0
    # Afterwards it is a list like any other, which the collector knows.
    assert gc.is_tracked(messages)
    assert len(messages) == count


@pytest.mark.parametrize("length", [300_000, 5_000_000])
def test_many_large_ones(secure, length):
    plaintexts = [os.urandom(length), b"", os.urandom(1), os.urandom(length)]
    assert secure.decrypt_many(secure.encrypt_many(plaintexts)) == plaintexts


@pytest.mark.parametrize("kind", [list, tuple, iter])
def test_many_of_any_iterable(secure, kind):
    plaintexts = [b"a", b"b", b"c"]
    messages = secure.encrypt_many(kind(plaintexts))
    assert secure.decrypt_many(kind(messages)) == plaintexts
    assert secure.decrypt_many(message for message in messages) == plaintexts


def test_associated_data_of_a_batch(secure):
    plaintexts = [b"a", b"b", b"c"]
    for each, singles in (
        (None, [b"", b"", b""]),
        (b"same", [b"same"] * 3),
        (bytearray(b"same"), [b"same"] * 3),
        ([b"1", b"", b"3"], [b"1", b"", b"3"]),
        ((b"1", bytearray(b"2"), memoryview(b"3")), [b"1", b"2", b"3"]),
    ):
        messages = secure.encrypt_many(plaintexts, each)
        assert secure.decrypt_many(messages, each) == plaintexts
        assert secure.decrypt_many(messages, singles) == plaintexts
        for message, plaintext, single in zip(messages, plaintexts, singles, strict=True):
            assert secure.decrypt(message, single) == plaintext
        with pytest.raises(DecryptionError) as caught:
            secure.decrypt_many(messages, b"another")
        assert caught.value.index == 0
        with pytest.raises(DecryptionError) as caught:
            secure.decrypt_many(messages, [singles[0], singles[1], b"another"])
        assert caught.value.index == 2


@pytest.mark.parametrize("each", [[], [b"1"], [b"1"] * 4, (b"1",) * 2])
def test_associated_data_of_another_count(secure, each):
    messages = secure.encrypt_many([b"a", b"b", b"c"])
    with pytest.raises(ValueError, match="associated_data"):
        secure.encrypt_many([b"a", b"b", b"c"], each)
    with pytest.raises(ValueError, match="associated_data"):
        secure.decrypt_many(messages, each)


@pytest.mark.parametrize("wrong", [b"bytes", "text", None, 7, bytearray(3), memoryview(b"abc")])
def test_a_batch_is_no_buffer(secure, wrong):
    # A buffer is iterable too, as numbers, and never what was meant.
    with pytest.raises(TypeError):
        secure.encrypt_many(wrong)
    with pytest.raises(TypeError):
        secure.decrypt_many(wrong)


@pytest.mark.parametrize("count", [1, 129, 5000])
def test_a_bad_record_is_named_and_nothing_returned(secure, count):
    messages = secure.encrypt_many([b"row"] * count)
    for index in {0, 1, count // 2, count - 1} & set(range(count)):
        for position in (20, 44, 47, 63, -1):
            changed = bytearray(messages[index])
            changed[position] ^= 1
            batch = [*messages[:index], changed, *messages[index + 1 :]]
            with pytest.raises(DecryptionError) as caught:
                secure.decrypt_many(batch)
            assert caught.value.index == index


def test_the_first_bad_record_is_the_one_named(secure):
    messages = [bytearray(message) for message in secure.encrypt_many([b"row" * 99] * 6000)]
    for index in (5999, 3000, 700, 701):
        messages[index][-1] ^= 1
    # Pieces are opened by several threads: it is the first by position all the same.
    for _ in range(20):
        with pytest.raises(DecryptionError) as caught:
            secure.decrypt_many(messages)
        assert caught.value.index == 700


def test_a_bad_format_in_a_batch_says_where(secure):
    messages = secure.encrypt_many([b"row"] * 5)
    for wrong, error in (
        (b"", FormatError),
        (messages[0][:91], FormatError),
        (b"SR\x07" + messages[0][3:], UnsupportedVersionError),
    ):
        with pytest.raises(error) as caught:
            secure.decrypt_many([*messages[:3], wrong])
        assert any("3" in note for note in caught.value.__notes__)


def test_an_exception_of_the_iterable_comes_through(secure):
    def values():
        yield b"a"
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        secure.encrypt_many(values())


# Packed


@pytest.mark.parametrize("size", [1, 8, 16, 192, 193, 1000, 16_384])
@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, 1000])
def test_packed(secure, size, count):
    data = os.urandom(size * count)
    packed = secure.encrypt_packed(data, size, b"column")
    assert type(packed) is bytes
    assert len(packed) == count * (size + OVERHEAD)
    assert secure.decrypt_packed(packed, size, b"column") == data
    # Each is a record of its own, with a nonce of its own.
    step = size + OVERHEAD
    records = [packed[at : at + step] for at in range(0, len(packed), step)]
    assert len({record[20:44] for record in records}) == count
    assert b"".join(secure.decrypt_many(records, b"column")) == data
    again = b"".join(
        secure.encrypt_many([data[at : at + size] for at in range(0, len(data), size)])
    )
    assert secure.decrypt_packed(again, size) == data


def test_packed_large(secure):
    data = os.urandom(8_000_000)
    assert secure.decrypt_packed(secure.encrypt_packed(data, 16), 16) == data


@pytest.mark.parametrize("size", [3, 7, 11, 101])
def test_packed_of_no_multiple(secure, size):
    with pytest.raises(ValueError, match="multiple"):
        secure.encrypt_packed(bytes(100), size)
    with pytest.raises(FormatError, match="multiple"):
        secure.decrypt_packed(bytes(100), size)


def test_packed_sizes_out_of_range(secure):
    for size in (0, -1, 1 << 80):
        for call in (secure.encrypt_packed, secure.decrypt_packed):
            with pytest.raises((ValueError, OverflowError)):
                call(b"", size)
    with pytest.raises(LimitError):
        secure.encrypt_packed(b"", (1 << 30) + 1)


@pytest.mark.parametrize("index", [0, 1, 500, 999])
def test_packed_with_a_bad_record(secure, index):
    packed = bytearray(secure.encrypt_packed(bytes(16_000), 16))
    at = index * (16 + OVERHEAD)
    for position in (20, 44, 60, 76, 107):
        changed = bytearray(packed)
        changed[at + position] ^= 1
        with pytest.raises(DecryptionError) as caught:
            secure.decrypt_packed(changed, 16)
        assert caught.value.index == index
    # Two records changed places: authentic each, and no fault that a key can show.
    step = 16 + OVERHEAD
    swapped = packed[step : 2 * step] + packed[:step] + packed[2 * step :]
    assert secure.decrypt_packed(swapped, 16) == bytes(16_000)


def test_packed_of_another_size(secure):
    packed = secure.encrypt_packed(bytes(1600), 16)
    # 100 records of 108 bytes are 54 of 200: the wrong cut does not open.
    with pytest.raises((DecryptionError, FormatError)):
        secure.decrypt_packed(packed, 200 - OVERHEAD)
