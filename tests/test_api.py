"""The everyday API: names, round trips, keys, limits, outputs into buffers, what may not be done.

Buffers of every type are in test_api_buffers.py, batches in test_api_batches.py, keysets in
test_api_versioned.py, threads, signals and processes in test_api_process.py.
"""

from __future__ import annotations

import array
import copy
import json
import mmap
import os
import pickle
import subprocess
import sys
import tempfile

import pytest
import strongroom
from strongroom import (
    DecryptionError,
    FormatError,
    KeyNotFoundError,
    KeyStateError,
    LimitError,
    MemoryLockedKey,
    ParallelEncryption,
    SecureEncryption,
    UnsupportedVersionError,
    generate_key,
)

RECORD_OVERHEAD = 92
CHUNK = 16_384
LENGTHS = [0, 1, 31, 191, 192, 193, 4096, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 70_000, 1 << 20]
LARGE_LENGTHS = [*LENGTHS, (1 << 20) + 1, 3_000_000, 8 << 20]

PUBLIC = [
    "generate_key",
    "SecureEncryption",
    "ParallelEncryption",
    "CHUNK_SIZE",
    "VersionedEncryption",
    "EncryptedPayload",
    "encrypt_file",
    "decrypt_file",
    "verify_file",
    "rewrap_file",
    "open",
    "inspect",
    "KeyStore",
    "Key",
    "Policy",
    "MasterKeyProvider",
    "FileMasterKey",
    "PassphraseMasterKey",
    "hazmat",
    "set_num_threads",
    "reseed",
    "MemoryLockedKey",
    "MessageInfo",
    "StrongroomError",
    "FormatError",
    "UnsupportedVersionError",
    "DecryptionError",
    "LimitError",
    "KeyNotFoundError",
    "KeyStateError",
    "KeyStoreError",
    "KeyStoreBusyError",
    "MasterKeyError",
    "HSMError",
    "RotationError",
    "AuditError",
    "AuditIntegrityError",
    "__version__",
]


def python(program: str, **environment: str) -> str:
    """Run a program in a fresh interpreter and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def secure():
    return SecureEncryption(generate_key())


@pytest.fixture
def parallel():
    return ParallelEncryption(generate_key())


# Names


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name(name):
    assert getattr(strongroom, name) is not None
    assert name in strongroom.__all__
    assert name in dir(strongroom)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        strongroom.nonsense  # noqa: B018


def test_import_is_light():
    # sqlite3 costs 5 ms, click 30, rich 52, cryptography 17, dataclasses 16, logging 14, typing 10.
    heavy = [
        "typing",
        "click",
        "rich",
        "sqlite3",
        "cryptography",
        "dataclasses",
        "logging",
        "numpy",
    ]
    program = f"""
import sys
before = set(sys.modules)
import strongroom
print(*(name for name in {heavy} if name in sys.modules and name not in before))
strongroom.SecureEncryption(strongroom.generate_key()).encrypt(b"")
print(*(name for name in {heavy} if name in sys.modules and name not in before))
"""
    assert python(program).split() == []


def test_exceptions_are_what_callers_catch():
    tree = {
        "FormatError": (strongroom.StrongroomError, ValueError),
        "UnsupportedVersionError": (FormatError,),
        "DecryptionError": (strongroom.StrongroomError,),
        "LimitError": (strongroom.StrongroomError, ValueError),
        "KeyNotFoundError": (strongroom.StrongroomError, KeyError),
        "KeyStateError": (strongroom.StrongroomError,),
        "KeyStoreBusyError": (strongroom.KeyStoreError,),
        "AuditIntegrityError": (strongroom.AuditError,),
    }
    for name, bases in tree.items():
        assert issubclass(getattr(strongroom, name), bases), name
    assert not issubclass(DecryptionError, ValueError)


# Round trips


def test_generated_keys_differ():
    keys = {generate_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(type(key) is bytes and len(key) == 32 for key in keys)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("associated_data", [b"", b"row 7", bytes(65_535)], ids=len)
def test_record(secure, length, associated_data):
    plaintext = bytes(i & 0xFF for i in range(length))
    message = secure.encrypt(plaintext, associated_data)
    assert type(message) is bytes
    assert len(message) == secure.encrypted_size(length) == length + RECORD_OVERHEAD
    assert message[:4] == b"SR\x02\x01"
    assert message[4:20].hex() == secure.key_id
    assert secure.decrypt(message, associated_data) == plaintext
    assert secure.decrypt(message, associated_data=associated_data) == plaintext
    with pytest.raises(DecryptionError):
        secure.decrypt(message, associated_data[:-1] + b"x")


@pytest.mark.parametrize("length", LARGE_LENGTHS)
def test_envelope(parallel, length):
    plaintext = bytes(range(256)) * (length // 256 + 1)
    plaintext = plaintext[:length]
    message = parallel.encrypt_large(plaintext, b"context")
    assert type(message) is bytes
    header = 5 + 3 + 120 + 56
    assert len(message) == header + length + 16 * (length // CHUNK + 1)
    assert len(message) == parallel.encrypted_size(length)
    assert parallel.plaintext_size(message) == length
    assert message[:4] == b"SR\x02\x02"
    assert parallel.decrypt_large(message, b"context") == plaintext
    with pytest.raises(DecryptionError):
        parallel.decrypt_large(message)


def test_same_plaintext_is_another_message_each_time(secure, parallel):
    assert len({secure.encrypt(b"same") for _ in range(1000)}) == 1000
    assert len({parallel.encrypt_large(b"same") for _ in range(100)}) == 100


def test_no_associated_data_is_empty_associated_data(secure, parallel):
    assert secure.decrypt(secure.encrypt(b"x", None), b"") == b"x"
    assert secure.decrypt(secure.encrypt(b"x", b""), None) == b"x"
    assert parallel.decrypt_large(parallel.encrypt_large(b"x", None), b"") == b"x"


def test_record_of_the_largest_size(secure):
    # Untouched anonymous memory: the input costs nothing, the outputs 1 GiB each.
    with mmap.mmap(-1, (1 << 30) + 1) as zeros:
        with memoryview(zeros) as view, view[:-1] as most:
            message = secure.encrypt(most)
            assert len(message) == (1 << 30) + RECORD_OVERHEAD
            out = bytearray(1 << 30)
            assert secure.decrypt_into(message, out) == 1 << 30
            assert out == most
        with pytest.raises(LimitError, match=r"2\^30"):
            secure.encrypt(zeros)
        with pytest.raises(LimitError):
            secure.encrypt_many([b"", zeros])
    with pytest.raises(LimitError):
        secure.encrypted_size((1 << 30) + 1)
    with pytest.raises(FormatError):
        secure.decrypt(message + b"\x00")


def test_associated_data_of_the_largest_size(secure, parallel):
    most = bytes(65_535)
    assert secure.decrypt(secure.encrypt(b"x", most), most) == b"x"
    assert parallel.decrypt_large(parallel.encrypt_large(b"x", most), most) == b"x"
    more = bytes(65_536)
    record, envelope = secure.encrypt(b"x"), parallel.encrypt_large(b"x")
    for call in (
        lambda: secure.encrypt(b"x", more),
        lambda: secure.decrypt(record, more),
        lambda: secure.encrypt_many([b"x"], more),
        lambda: secure.encrypt_many([b"x"], [more]),
        lambda: secure.encrypt_packed(b"x", 1, more),
        lambda: secure.encrypt_into(b"x", bytearray(100), more),
        lambda: parallel.encrypt_large(b"x", more),
        lambda: parallel.decrypt_large(envelope, more),
        lambda: parallel.encrypt_large_into(b"x", bytearray(300), more),
    ):
        with pytest.raises(LimitError, match=r"65535|65,535"):
            call()


@pytest.mark.parametrize("n", [-1, 1 << 64, 1 << 200])
def test_sizes_out_of_range(secure, parallel, n):
    for call in (secure.encrypted_size, parallel.encrypted_size):
        with pytest.raises(ValueError, match="negative" if n < 0 else "larger|holds|limit"):
            call(n)
    for call in (secure.encrypt_packed, secure.decrypt_packed):
        with pytest.raises(ValueError, match="negative" if n < 0 else "larger"):
            call(b"", n)
    with pytest.raises(ValueError, match="negative" if n < 0 else "larger"):
        strongroom.set_num_threads(n)


def test_the_longest_envelope_has_2_to_the_38_chunks(parallel):
    # The last one is shorter than 16 KiB.
    longest = 2**38 * 2**14 - 1
    assert parallel.encrypted_size(longest) == 184 + longest + 2**38 * 16
    with pytest.raises(LimitError):
        parallel.encrypted_size(longest + 1)


def test_engines_read_each_other():
    program = """
import json, os, strongroom
key = bytes(range(32))
secure, parallel = strongroom.SecureEncryption(key), strongroom.ParallelEncryption(key)
lengths = [0, 1, 200, 20000, 2_000_000]
path = os.environ["MESSAGES"]
if os.environ["DO"] == "write":
    made = [[secure.encrypt(bytes(n), b"a").hex(), parallel.encrypt_large(bytes(n), b"a").hex()]
            for n in lengths]
    json.dump(made, open(path, "w"))
else:
    for n, (record, envelope) in zip(lengths, json.load(open(path)), strict=True):
        assert secure.decrypt(bytes.fromhex(record), b"a") == bytes(n)
        assert parallel.decrypt_large(bytes.fromhex(envelope), b"a") == bytes(n)
print(strongroom._native.engine_status()["engine"])
"""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        for writer, reader in (("aes-gcm", "aws-lc"), ("aws-lc", "aes-gcm")):
            common = {"MESSAGES": file.name}
            assert python(program, STRONGROOM_ENGINE=writer, DO="write", **common).strip() == writer
            assert python(program, STRONGROOM_ENGINE=reader, DO="read", **common).strip() == reader


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("STRONGROOM_ENGINE", "openssl"),
        ("STRONGROOM_THREADS", "0"),
        ("STRONGROOM_THREADS", "many"),
        ("STRONGROOM_THREADS", "-1"),
        ("STRONGROOM_THREADS", "100000"),
    ],
)
def test_wrong_environment_is_an_error_that_names_it(variable, value):
    program = f"""
try:
    import strongroom
    strongroom.generate_key()
except (ValueError, ImportError) as error:
    assert {variable!r} in str(error) and {value!r} in str(error), error
else:
    raise SystemExit("no error")
"""
    python(program, **{variable: value})


# Keys


@pytest.mark.parametrize("cls", [SecureEncryption, ParallelEncryption])
def test_key_of_any_buffer(cls):
    key = generate_key()
    ids = {
        cls(key).key_id,
        cls(bytearray(key)).key_id,
        cls(memoryview(key)).key_id,
        cls(array.array("Q", key)).key_id,
        cls(MemoryLockedKey(key)).key_id,
    }
    assert len(ids) == 1
    (key_id,) = ids
    assert len(key_id) == 32
    assert key_id == key_id.lower() == bytes.fromhex(key_id).hex()


@pytest.mark.parametrize("cls", [SecureEncryption, ParallelEncryption])
@pytest.mark.parametrize("length", [0, 1, 16, 24, 31, 33, 64])
def test_key_of_another_length(cls, length):
    with pytest.raises(ValueError, match="32"):
        cls(bytes(length))


@pytest.mark.parametrize("cls", [SecureEncryption, ParallelEncryption])
@pytest.mark.parametrize("key", [None, 7, "k" * 32, ["k"] * 32, object()])
def test_key_of_another_type(cls, key):
    with pytest.raises(TypeError):
        cls(key)


def test_message_of_another_key(secure, parallel):
    other, other_parallel = SecureEncryption(generate_key()), ParallelEncryption(generate_key())
    record = other.encrypt(b"x")
    envelope = other_parallel.encrypt_large(b"x")
    for call, key_id in (
        (lambda: secure.decrypt(record), other.key_id),
        (lambda: secure.decrypt_many([record]), other.key_id),
        (lambda: secure.decrypt_packed(record, 1), other.key_id),
        (lambda: secure.decrypt_into(record, bytearray(1)), other.key_id),
        (lambda: parallel.decrypt_large(envelope), other_parallel.key_id),
        (lambda: parallel.decrypt_large_into(envelope, bytearray(1)), other_parallel.key_id),
    ):
        with pytest.raises(KeyNotFoundError, match="may be retired or destroyed") as caught:
            call()
        assert isinstance(caught.value, KeyError)
        assert caught.value.key_id == key_id
        assert key_id in str(caught.value)
        assert not str(caught.value).startswith(("'", '"'))


def test_same_key_id_another_key_is_a_decryption_error(secure):
    # The id is public and unauthenticated until the box opens: planted, it must not help.
    other = SecureEncryption(generate_key())
    message = bytearray(other.encrypt(b"x"))
    message[4:20] = bytes.fromhex(secure.key_id)
    with pytest.raises(DecryptionError):
        secure.decrypt(message)


def test_destroyed_key():
    key = MemoryLockedKey.generate()
    secure, parallel = SecureEncryption(key), ParallelEncryption(key)
    record, envelope = secure.encrypt(b"x"), parallel.encrypt_large(b"x")
    key.destroy()
    for call in (
        lambda: secure.encrypt(b"x"),
        lambda: secure.decrypt(record),
        lambda: secure.encrypt_many([b"x"]),
        lambda: secure.encrypt_packed(b"x", 1),
        lambda: parallel.encrypt_large(b"x"),
        lambda: parallel.decrypt_large(envelope),
    ):
        with pytest.raises(KeyStateError) as caught:
            call()
        assert caught.value.state == "destroyed"


# What is not a message


def test_wrong_kinds_and_versions(secure, parallel):
    record, envelope = secure.encrypt(b"x" * 200), parallel.encrypt_large(b"x" * 200)
    with pytest.raises(FormatError, match="envelope"):
        secure.decrypt(envelope)
    with pytest.raises(FormatError, match="record"):
        parallel.decrypt_large(record)
    for version in set(range(256)) - {2}:
        for message, call in ((record, secure.decrypt), (envelope, parallel.decrypt_large)):
            changed = bytearray(message)
            changed[2] = version
            with pytest.raises(UnsupportedVersionError, match=str(version)):
                call(changed)
    for kind in set(range(256)) - {1, 2, 3, 4}:
        changed = bytearray(record)
        changed[3] = kind
        with pytest.raises(UnsupportedVersionError):
            secure.decrypt(changed)
    for text in (b"", b"S", b"SR", b"SR\x02", b"PK\x03\x04" * 50, b"gAAAAA" * 50):
        with pytest.raises(FormatError):
            secure.decrypt(text)
        with pytest.raises(FormatError):
            parallel.decrypt_large(text)


# Output into buffers


@pytest.mark.parametrize("length", [0, 1, 200, CHUNK, 40_000, 1_000_000])
@pytest.mark.parametrize("extra", [0, 1, 1000])
def test_into(secure, parallel, length, extra):
    plaintext = bytes(i % 251 for i in range(length))
    for encrypt, decrypt, size in (
        (secure.encrypt_into, secure.decrypt_into, secure.encrypted_size(length)),
        (parallel.encrypt_large_into, parallel.decrypt_large_into, parallel.encrypted_size(length)),
    ):
        message = bytearray(b"\xee" * (size + extra))
        assert encrypt(plaintext, message, b"a") == size
        assert message[size:] == b"\xee" * extra
        out = bytearray(b"\xee" * (length + extra))
        assert decrypt(memoryview(message)[:size], out, b"a") == length
        assert out[:length] == plaintext
        assert out[length:] == b"\xee" * extra


@pytest.mark.parametrize("length", [1, 200, 40_000, 1_000_000])
def test_into_a_buffer_that_is_too_small(secure, parallel, length):
    plaintext = bytes(length)
    record, envelope = secure.encrypt(plaintext), parallel.encrypt_large(plaintext)
    for call, source, needed in (
        (secure.encrypt_into, plaintext, len(record)),
        (secure.decrypt_into, record, length),
        (parallel.encrypt_large_into, plaintext, len(envelope)),
        (parallel.decrypt_large_into, envelope, length),
    ):
        out = bytearray(b"\xee" * (needed - 1))
        with pytest.raises(ValueError, match=str(needed)):
            call(source, out)
        assert out == b"\xee" * (needed - 1), "touched before the sizes were checked"


@pytest.mark.parametrize("length", [1, 200, 40_000, 1_000_000])
def test_after_a_failed_decryption_the_output_is_zeros(secure, parallel, length):
    plaintext = b"\x55" * length
    record, envelope = secure.encrypt(plaintext), parallel.encrypt_large(plaintext)
    for call, message in ((secure.decrypt_into, record), (parallel.decrypt_large_into, envelope)):
        for position in (len(message) - 1, len(message) // 2, len(message) - length):
            changed = bytearray(message)
            changed[position] ^= 1
            out = bytearray(b"\xee" * (length + 10))
            with pytest.raises(DecryptionError):
                call(changed, out)
            assert out == bytes(length + 10)
        out = bytearray(b"\xee" * (length + 10))
        with pytest.raises(DecryptionError):
            call(message, out, b"other associated data")
        assert out == bytes(length + 10)


def test_into_a_buffer_that_overlaps(secure, parallel):
    for encrypt, decrypt in (
        (secure.encrypt_into, secure.decrypt_into),
        (parallel.encrypt_large_into, parallel.decrypt_large_into),
    ):
        memory = bytearray(4000)
        view = memoryview(memory)
        for source, out in (
            (view[:1000], view[:2000]),
            (view[:1000], view[999:]),
            (view[1999:2999], view[:2000]),
            (view[500:600], view),
        ):
            with pytest.raises(ValueError, match="overlap"):
                encrypt(source, out)
        assert memory == bytes(4000)
        # Side by side is no overlap.
        size = encrypt(view[:1000], view[1000:])
        message = view[1000 : 1000 + size]
        assert decrypt(message, view[:1000]) == 1000
        with pytest.raises(ValueError, match="overlap"):
            decrypt(message, view[1000 + size - 1 :])


def test_into_what_can_not_be_written(secure, parallel):
    for call in (secure.encrypt_into, parallel.encrypt_large_into):
        for out in (bytes(300), memoryview(bytes(300))):
            with pytest.raises(BufferError, match="read-only"):
                call(b"x", out)
        with pytest.raises(TypeError):
            call(b"x", [0] * 300)


# Handles


@pytest.mark.parametrize("cls", [SecureEncryption, ParallelEncryption, MemoryLockedKey])
def test_does_not_pickle_or_copy(cls):
    handle = cls(generate_key())
    for call in (
        lambda: pickle.dumps(handle),
        lambda: pickle.dumps(handle, protocol=0),
        lambda: copy.copy(handle),
        lambda: copy.deepcopy(handle),
        lambda: json.dumps(handle),
    ):
        with pytest.raises(TypeError):
            call()


@pytest.mark.parametrize("cls", [SecureEncryption, ParallelEncryption])
def test_pickling_says_to_open_it_again(cls):
    with pytest.raises(TypeError, match="open it again"):
        pickle.dumps(cls(generate_key()))


@pytest.mark.parametrize("cls", [SecureEncryption, ParallelEncryption, MemoryLockedKey])
def test_prints_its_key_id_and_nothing_of_the_key(cls):
    key = generate_key()
    handle = cls(key)
    for text in (repr(handle), str(handle), f"{handle}", ascii(handle)):
        assert handle.key_id in text
        assert key.hex() not in text.lower()
        assert repr(key)[2:-1] not in text
    assert not hasattr(handle, "__dict__")


def test_texts_of_errors_hold_no_key_and_no_plaintext(secure):
    key = generate_key()
    secure = SecureEncryption(key)
    plaintext = b"a plaintext that is nowhere else"
    message = bytearray(secure.encrypt(plaintext))
    message[-1] ^= 1
    with pytest.raises(DecryptionError) as caught:
        secure.decrypt(message)
    text = repr(caught.value) + str(caught.value) + repr(caught.value.__cause__)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert key.hex() not in text
    assert "nowhere else" not in text


def test_one_text_for_all_that_needed_the_key(secure, parallel):
    record = secure.encrypt(b"x" * 100)
    texts = set()
    for position in range(20, len(record)):
        changed = bytearray(record)
        changed[position] ^= 0x80
        with pytest.raises(DecryptionError) as caught:
            secure.decrypt(changed)
        texts.add(str(caught.value))
    with pytest.raises(DecryptionError) as caught:
        secure.decrypt(record, b"other")
    texts.add(str(caught.value))
    envelope = bytearray(parallel.encrypt_large(b"x" * 100))
    envelope[-1] ^= 1
    with pytest.raises(DecryptionError) as caught:
        parallel.decrypt_large(envelope)
    texts.add(str(caught.value))
    assert len(texts) == 1


@pytest.mark.parametrize("cls", [SecureEncryption, ParallelEncryption])
def test_classes_are_final_and_frozen(cls):
    handle = cls(generate_key())
    with pytest.raises(AttributeError):
        handle.key_id = "0" * 32
    with pytest.raises(AttributeError):
        handle.anything = 1
    with pytest.raises(TypeError):
        type("Sub", (cls,), {})


@pytest.mark.parametrize("workers", [1, 2, 3, 64])
def test_max_workers(workers):
    parallel = ParallelEncryption(generate_key(), max_workers=workers)
    data = bytes(3_000_000)
    assert parallel.decrypt_large(parallel.encrypt_large(data)) == data


def test_max_workers_out_of_range():
    with pytest.raises(ValueError, match="max_workers"):
        ParallelEncryption(generate_key(), max_workers=0)
    with pytest.raises(ValueError, match="negative"):
        ParallelEncryption(generate_key(), max_workers=-1)


def test_number_of_threads():
    default = strongroom.num_threads()
    assert default >= 1
    try:
        for threads in (1, 2, 5, 1):
            strongroom.set_num_threads(threads)
            assert strongroom.num_threads() == threads
            parallel = ParallelEncryption(generate_key())
            assert parallel.decrypt_large(parallel.encrypt_large(bytes(2_000_000))) == bytes(
                2_000_000
            )
        for wrong in (0, 1 << 40):
            with pytest.raises(ValueError, match="threads"):
                strongroom.set_num_threads(wrong)
    finally:
        strongroom.set_num_threads(None)
    assert strongroom.num_threads() == default
    assert strongroom.CHUNK_SIZE == 64 * 1024


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (b"SR\x02\x04\xff" + bytes(17), UnsupportedVersionError),
        (b"SR\x02\x04\x00" + bytes(17), FormatError),
        (b"SR\x02\x04\x01" + bytes(16 + 61), FormatError),
        (b"SR\x02\x04\x04" + bytes(16), FormatError),
        (b"SR\x02\x04\x04" + bytes(16 + 2049), FormatError),
        (b"SR\x02\x03" + bytes(65_585 - 4), FormatError),
        (b"SR\x02\x03" + bytes(47 - 4), FormatError),
        (b"SR\x02\x01" + bytes(91 - 4), FormatError),
    ],
)
def test_inspect_is_as_strict_as_a_reader(message, error):
    with pytest.raises(error):
        strongroom.inspect(message)
