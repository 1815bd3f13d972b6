"""Key commitment, nonces and salts that never repeat, forks, and lengths that lie."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from bad_input import DECRYPTION_TEXT, Decrypt, bits_of, flip_each, refusal
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from independent import constructions as c
from independent import multikey, reader, writer
from strongroom import DecryptionError, KeyStateError, ParallelEncryption, SecureEncryption, _native

AD = b"table:users/42"
HERE = Path(__file__).parent


def bound_to_ad(decrypt: Callable[..., bytes]) -> Decrypt:
    return lambda message: decrypt(message, AD)


# --- F9: key commitment --------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 16, 64])
def test_record_opens_under_one_key_only(count: int) -> None:
    keys = [os.urandom(32) for _ in range(count)]
    nonce = os.urandom(24)
    made = [c.box_keys(c.derive(key, "record"), nonce) for key in keys]
    bound = [writer.RECORD_PREFIX + c.key_id(key) + AD for key in keys]
    targets = [
        multikey.Target(box.gcm_key, box.gcm_nonce, data)
        for box, data in zip(made, bound, strict=True)
    ]
    sealed = multikey.ciphertext(targets, 16 * count + 32)
    keyring = keyring_of(keys)
    for key, box, data in zip(keys, made, bound, strict=True):
        # Without the commitment each of them would open.
        AESGCM(box.gcm_key).decrypt(box.gcm_nonce, sealed, data)
        message = writer.RECORD_PREFIX + c.key_id(key) + nonce + sealed + made[0].commitment
        for decrypt in (SecureEncryption(key).decrypt, _native.KeysetCipher(keyring).decrypt):
            if key == keys[0]:
                assert len(decrypt(message, AD)) == 16 * count + 32
            else:
                error = refusal(bound_to_ad(decrypt), message)
                assert type(error) is DecryptionError


@pytest.mark.parametrize("count", [2, 16, 64])
def test_envelope_opens_under_one_dek_only(count: int) -> None:
    keys = [os.urandom(32) for _ in range(count)]
    deks = [os.urandom(32) for _ in range(count)]
    salt = os.urandom(24)
    made = [c.stream_keys(dek, salt, writer.ENVELOPE_PREFIX + AD) for dek in deks]
    targets = [multikey.Target(stream.key, stream.base_nonce, b"") for stream in made]
    sealed = multikey.ciphertext(targets, 16 * count + 32)
    slots = []
    for key, dek, stream in zip(keys, deks, made, strict=True):
        AESGCM(stream.key).decrypt(stream.base_nonce, sealed, None)
        # Whoever holds all the keys binds each DEK to the message as it is.
        target = writer.Target(dek, salt, made[0].commitment)
        kind, body = writer.keyset_slot(key, nonce=os.urandom(24))(target)
        slots.append(bytes([kind]) + len(body).to_bytes(2) + body)
    tail = salt + made[0].commitment + sealed
    for first in range(0, count, 16):
        group = slots[first : first + 16]
        message = writer.ENVELOPE_PREFIX + bytes([len(group)]) + b"".join(group) + tail
        for key in keys[first : first + 16]:
            decrypt = ParallelEncryption(key).decrypt_large
            if key == keys[0]:
                assert len(decrypt(message, AD)) == 16 * count + 32
            else:
                error = refusal(bound_to_ad(decrypt), message)
                assert type(error) is DecryptionError


@pytest.mark.parametrize("label", ["master", "passphrase", "wrap"])
def test_wrapped_key_opens_under_one_master_only(label: str) -> None:
    # 32 bytes are two blocks, so two masters: one equation each.
    masters = [os.urandom(32) for _ in range(2)]
    nonce, bound = os.urandom(24), os.urandom(37)
    made = [c.box_keys(c.derive(master, label), nonce) for master in masters]
    sealed = multikey.ciphertext(
        [multikey.Target(box.gcm_key, box.gcm_nonce, bound) for box in made], 32
    )
    for master, box in zip(masters, made, strict=True):
        plaintext = AESGCM(box.gcm_key).decrypt(box.gcm_nonce, sealed, bound)
        handle = _native.MemoryLockedKey(master)
        blob = nonce + sealed + made[0].commitment
        if master == masters[0]:
            opened = _native.open_key(handle, label, blob, bound)
            assert bytes(opened.get()) == plaintext
        else:
            with pytest.raises(DecryptionError):
                _native.open_key(handle, label, blob, bound)


# --- Wrapped keys --------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["master", "passphrase", "wrap"])
def test_boxes_around_keys(label: str) -> None:
    wrapping, key, bound = os.urandom(32), os.urandom(32), os.urandom(37)
    handle, inner = _native.MemoryLockedKey(wrapping), _native.MemoryLockedKey(key)
    box = _native.seal_key(handle, label, inner, bound)
    assert len(box) == 104
    assert c.box_open(c.derive(wrapping, label), box, bound) == key
    ours = c.box_seal(c.derive(wrapping, label), os.urandom(24), key, bound)
    assert bytes(_native.open_key(handle, label, ours, bound).get()) == key

    def open_it(box: bytes | bytearray | memoryview, data: bytes = bound) -> bytes:
        return bytes(_native.open_key(handle, label, bytes(box), data).get())

    for changed in flip_each(box, bits_of(0, len(box))):
        assert type(refusal(open_it, changed)) is DecryptionError
    for length in range(len(box)):
        refusal(open_it, box[:length])
    refusal(open_it, box + b"\x00")
    for data in (b"", bound[:-1], bound + b"\x00"):
        refusal(partial(open_it, data=data), box)
    for other in {"master", "passphrase", "wrap"} - {label}:
        with pytest.raises(DecryptionError, match=DECRYPTION_TEXT):
            _native.open_key(handle, other, box, bound)


@pytest.mark.parametrize("label", ["store mac", "digest"])
def test_macs(label: str) -> None:
    key, data = os.urandom(32), os.urandom(57)
    handle = _native.MemoryLockedKey(key)
    made = hmac.digest(c.derive(key, label), data, "sha512")
    assert _native.mac(handle, label, data) == made
    for length in range(66):
        found = (made + b"\x00\x00")[:length]
        assert _native.mac_fits(handle, label, data, found) is (length in (32, 64))
    for length in (32, 64):
        for changed in flip_each(made[:length], bits_of(0, length)):
            assert not _native.mac_fits(handle, label, data, changed)
    assert not _native.mac_fits(handle, label, data + b"\x00", made)
    assert not _native.mac_fits(_native.MemoryLockedKey(os.urandom(32)), label, data, made)
    with pytest.raises(ValueError, match="no MACs are made under the label"):
        _native.mac_fits(handle, "master", data, made)
    handle.destroy()
    with pytest.raises(KeyStateError, match="destroyed"):
        _native.mac_fits(handle, label, data, made)


def test_digests() -> None:
    for length in [*range(300), 1 << 20]:
        data = os.urandom(length)
        assert _native.sha256(data) == hashlib.sha256(data).digest()
        assert _native.sha512(bytearray(data)) == hashlib.sha512(data).digest()
    with pytest.raises(TypeError):
        _native.sha256("text")  # type: ignore[arg-type]  # the wrong type is what is tried


# --- F11: nothing repeats ------------------------------------------------------------------------


def count_distinct(rows: np.ndarray) -> int:
    """How many of the rows differ."""
    return len(np.unique(np.ascontiguousarray(rows).view(f"V{rows.shape[1]}")))


def test_a_million_nonces_are_distinct() -> None:
    count, length = 1_000_000, 1 + 92
    packed = SecureEncryption(os.urandom(32)).encrypt_packed(bytes(count), 1)
    rows = np.frombuffer(packed, np.uint8).reshape(count, length)
    assert count_distinct(rows[:, 20:44]) == count
    # Each half alone: 12 random bytes among 10^6 repeat with 2^-57.
    assert count_distinct(rows[:, 20:32]) == count
    assert count_distinct(rows[:, 32:44]) == count


def test_salts_and_slot_nonces_are_distinct() -> None:
    cipher = ParallelEncryption(os.urandom(32))
    messages = [cipher.encrypt_large(b"") for _ in range(20_000)]
    rows = np.frombuffer(b"".join(messages), np.uint8).reshape(len(messages), -1)
    at = 5 + 3 + 16
    assert count_distinct(rows[:, at : at + 24]) == len(messages)
    assert count_distinct(rows[:, 128 : 128 + 24]) == len(messages)
    assert count_distinct(rows[:, 152 : 152 + 32]) == len(messages)


def test_nonces_of_threads_are_distinct() -> None:
    cipher = SecureEncryption(os.urandom(32))
    found: list[bytes] = []

    def work() -> None:
        found.extend(cipher.encrypt(b"")[20:44] for _ in range(5000))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == len(found) == 40_000


def in_children(count: int, work: Callable[[], bytes], tmp_path: Path) -> list[bytes]:
    """What `work` gives in each of `count` children forked together."""
    pids = []
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                (tmp_path / str(number)).write_bytes(work())
                status = 0
            finally:
                os._exit(status)
        pids.append(pid)
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0
    return [(tmp_path / str(number)).read_bytes() for number in range(count)]


def test_forked_children_repeat_nothing(tmp_path: Path) -> None:
    key = os.urandom(32)
    records, envelopes = SecureEncryption(key), ParallelEncryption(key)
    # The parent has used the generator, so there is something to inherit.
    parent = b"".join(records.encrypt(b"")[20:44] for _ in range(10))
    salt_at = 5 + 3 + 120

    def work() -> bytes:
        # Objects opened before the fork are not inherited: the child makes its own.
        records, envelopes = SecureEncryption(key), ParallelEncryption(key)
        nonces = b"".join(records.encrypt(b"")[20:44] for _ in range(1000))
        salts = b"".join(envelopes.encrypt_large(b"")[salt_at : salt_at + 24] for _ in range(200))
        return nonces + salts

    everything = [parent, *in_children(8, work, tmp_path)]
    parent_again = b"".join(records.encrypt(b"")[20:44] for _ in range(1000))
    assert envelopes.decrypt_large(envelopes.encrypt_large(b"x")) == b"x"
    joined = b"".join([*everything, parent_again])
    rows = {joined[at : at + 24] for at in range(0, len(joined), 24)}
    assert len(rows) == len(joined) // 24 == 10 + 8 * 1200 + 1000


def test_forked_child_encrypts_large_data(tmp_path: Path) -> None:
    key, plaintext = os.urandom(32), os.urandom(3_000_000)
    cipher = ParallelEncryption(key)
    cipher.encrypt_large(plaintext)  # the parent's pool is up
    for message in in_children(
        3, lambda: ParallelEncryption(key).encrypt_large(plaintext), tmp_path
    ):
        assert cipher.decrypt_large(message) == plaintext


# --- F13: lengths that lie -----------------------------------------------------------------------

# The peak of the resident set, from now on. (ru_maxrss would begin with the parent's.)
PEAK = """
def peak(begin=False):
    if begin:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
"""
CHILD = (
    PEAK
    + """
import json, mmap, pathlib, resource, sys, time
import strongroom
from strongroom import ParallelEncryption, SecureEncryption

folder = pathlib.Path(sys.argv[1])
wanted = sys.argv[2]
key = (folder / "key").read_bytes()
ciphers = {"r": SecureEncryption(key).decrypt, "e": ParallelEncryption(key).decrypt_large}
ciphers["p"] = lambda path: strongroom.decrypt_file(path, folder / "out", None, passphrase="x")
# What is loaded and made at first use is not what is measured.
for kind in wanted:
    try:
        ciphers[kind](folder / "key" if kind == "p" else b"")
    except strongroom.FormatError:
        pass
big = mmap.mmap(-1, 2**30 + 93)
big[:4] = b"SR\\x02\\x01"
for line in open("/proc/self/status"):
    if line.startswith("VmSize"):
        now = int(line.split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (now + 2**28, now + 2**28))

for path in [*sorted(folder.glob(f"[{wanted}]-*")), *([None] if "r" in wanted else [])]:
    kind, name = path.name.split("-", 1) if path else ("r", "longer than a record can be")
    message = big if path is None else path if kind == "p" else path.read_bytes()
    before, times, error = peak(begin=True), [], None
    for _ in range(3):
        start = time.perf_counter()
        try:
            ciphers[kind](message)
        except Exception as caught:
            error = caught
        times.append(time.perf_counter() - start)
    print(json.dumps([name, type(error).__name__, min(times), peak() - before]))
"""
)


def cases() -> dict[str, tuple[bytes, set[str]]]:
    """Messages whose fields lie, by the kind of reader and a name; what refuses them."""
    key = CASE_KEY
    good = writer.write_envelope(
        b"mine",
        [writer.keyset_slot(key, nonce=os.urandom(24))],
        dek=os.urandom(32),
        salt=os.urandom(24),
    )
    found: dict[str, tuple[bytes, set[str]]] = {}
    for count in (0, 16, 17, 255):
        found[f"e-count {count}"] = (good[:4] + bytes([count]) + good[5:], {"FormatError"})
    for length in (0, 1, 4095, 4096, 4097, 0x7FFF, 0x8000, 0xFFFF):
        lied = good[:6] + length.to_bytes(2) + good[8:]
        found[f"e-slot length {length}"] = (lied, {"FormatError", "KeyNotFoundError"})
    tail = good[128:]
    for wrapped in (0, 1, 0x7FFF, 0xFFFF):
        body = c.key_id(key) + wrapped.to_bytes(2) + os.urandom(229)
        slot = b"\x03" + len(body).to_bytes(2) + body
        found[f"e-w {wrapped}"] = (good[:4] + b"\x01" + slot + tail, {"KeyNotFoundError"})
    for value in (0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1):
        for what, clear in {
            "memory": value.to_bytes(4) + (3).to_bytes(4) + b"\x04",
            "passes": (65536).to_bytes(4) + value.to_bytes(4) + b"\x04",
            "both": value.to_bytes(4) * 2 + b"\xff",
        }.items():
            slot = b"\x02" + (129).to_bytes(2) + clear + os.urandom(16 + 104)
            message = good[:4] + b"\x01" + slot + tail
            costs_little = what == "memory" and value == 2**16
            if not costs_little and (what, value) != ("passes", 1):
                found[f"p-{what} {value}"] = (message, {"LimitError"})
    # Each is within its bounds, their sum is not.
    clear = (2**20).to_bytes(4) + (1).to_bytes(4) + b"\x01"
    slot = b"\x02" + (129).to_bytes(2) + clear + os.urandom(16 + 104)
    found["p-sum"] = (good[:4] + b"\x05" + slot * 5 + tail, {"LimitError"})
    found["r-shortest"] = (bytes.fromhex("53520201") + c.key_id(key), {"FormatError"})
    return found


CASE_KEY = os.urandom(32)


@pytest.mark.parametrize("wanted", ["re", "p"])
def test_lengths_that_lie_cost_nothing(tmp_path: Path, wanted: str) -> None:
    expected = {}
    for name, (message, errors) in cases().items():
        kind, what = name.split("-", 1)
        if kind in wanted:
            (tmp_path / name).write_bytes(message)
            expected[what] = errors
    if "r" in wanted:
        expected["longer than a record can be"] = {"FormatError"}
    (tmp_path / "key").write_bytes(CASE_KEY)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path), wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert {name for name, *_ in results} == set(expected)
    for name, error, seconds, growth in results:
        assert error in expected[name], name
        assert seconds < 0.05, name
        assert growth < 16 * 2**20, name
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["slot", "last chunk"])
def test_memory_of_a_refusal_is_bounded(tmp_path: Path, place: str) -> None:
    # The peak of a process only grows: a child of its own holds the message and nothing else.
    length = 64 * 2**20
    key = os.urandom(32)
    message = bytearray(ParallelEncryption(key).encrypt_large(bytes(length)))
    message[40 if place == "slot" else -1] ^= 1
    (tmp_path / "message").write_bytes(message)
    (tmp_path / "key").write_bytes(key)
    script = (
        PEAK
        + """
import pathlib, sys
from strongroom import DecryptionError, ParallelEncryption
folder = pathlib.Path(sys.argv[1])
cipher = ParallelEncryption((folder / "key").read_bytes(), max_workers=2)
cipher.decrypt_large(cipher.encrypt_large(bytes(2**20)))
message = (folder / "message").read_bytes()
before = peak(begin=True)
try:
    cipher.decrypt_large(message)
except DecryptionError:
    print(peak() - before)
"""
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    growth = int(done.stdout)
    # A slot that does not open is refused before there is any output; else the check is seen to
    # measure something: the whole output was there.
    assert place == "slot" or growth > length // 2
    assert growth <= (0 if place == "slot" else length) + 2**20


def keyring_of(keys: list[bytes]) -> _native.Keyring:
    """A keyset of these keys, the first one its primary."""
    ids = [c.key_id(key).hex() for key in keys]
    contents: list[tuple[str, str, str, _native.MemoryLockedKey | None, str]] = [
        (
            name,
            "active" if number == 0 else "deactivated",
            "default",
            _native.MemoryLockedKey(key),
            "",
        )
        for number, (name, key) in enumerate(zip(ids, keys, strict=True))
    ]
    return _native.Keyring(lambda _missing: (ids[0], contents, 300.0, ""))


def test_all_keys_of_a_keyset_are_loaded_and_one_is_used() -> None:
    keys = [os.urandom(32) for _ in range(64)]
    cipher = _native.KeysetCipher(keyring_of(keys))
    for key in keys:
        record = writer.write_record(key, b"value", AD, nonce=os.urandom(24))
        assert cipher.decrypt(record, AD) == b"value"
        # Named as another key's: no other key is tried.
        other = keys[(keys.index(key) + 1) % len(keys)]
        renamed = record[:4] + c.key_id(other) + record[20:]
        assert type(refusal(lambda m: cipher.decrypt(m, AD), renamed)) is DecryptionError
    written = cipher.encrypt(b"value", AD)
    assert reader.open_record(written, keys, AD) == b"value"
    assert written[4:20] == c.key_id(keys[0])
