"""The independent implementation itself against third-party vectors; the package isn't imported."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import zlib
from pathlib import Path
from typing import Any

import pytest
from cryptography import cobblestone
from cryptography.hazmat.primitives import cmac, hashes
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from independent import constructions as c
from independent.errors import DecryptionError, LimitError

VECTORS = Path(__file__).parent / "vectors"
LENGTHS = [0, 1, 16383, 16384, 16385, 32767, 32768, 32769, 200_000]


def wycheproof(name: str) -> Any:
    return json.loads((VECTORS / "wycheproof" / name).read_text())


def xaes_seal(key: bytes, nonce: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    return c.kc_xaes_seal(key, nonce, plaintext, associated_data)[: -c.COMMITMENT_LEN]


def test_xaes_vectors() -> None:
    nonce = b"ABCDEFGHIJKLMNOPQRSTUVWX"
    for byte, k1, kx, associated_data, sealed in [
        (
            1,
            "e531954aca063d5b8d9c47a47d4cc6f0",
            "c8612c9ed53fe43e8e005b828a1631a0bbcb6ab2f46514ec4f439fcfd0fa969b",
            b"",
            "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271",
        ),
        (
            3,
            "23810ec50edb99f374409466ed1f4b7b",
            "e9c621d4cdd9b11b00a6427ad7e559aeedd66b3857646677748f8ca796cb3fd8",
            b"c2sp.org/XAES-256-GCM",
            "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d",
        ),
    ]:
        key = bytes([byte]) * 32
        spec = (VECTORS / "c2sp" / "XAES-256-GCM.md").read_text()
        assert k1 in spec
        assert kx in spec
        assert sealed in spec
        keys = c.box_keys(key, nonce)
        assert keys.k1.hex() == k1
        assert keys.gcm_key.hex() == kx
        assert xaes_seal(key, nonce, b"XAES-256-GCM", associated_data).hex() == sealed


def test_xaes_accumulated_10_000() -> None:
    # SHAKE-128 with an empty input is the random source; a second one hashes the ciphertexts.
    # 10,000 cases read at most 10,000 x (32 + 24 + 1 + 255 + 1 + 255) bytes.
    source = memoryview(hashlib.shake_128().digest(10_000 * (32 + 24 + 2 * 256)))
    assert source[:16].hex() == "7f9c2ba4e88f827d616045507605853e"
    at = 0

    def take(length: int) -> bytes:
        nonlocal at
        at += length
        return bytes(source[at - length : at])

    accumulated = hashlib.shake_128()
    for _ in range(10_000):
        key, nonce = take(32), take(24)
        plaintext = take(take(1)[0])
        associated_data = take(take(1)[0])
        accumulated.update(xaes_seal(key, nonce, plaintext, associated_data))
    expected = "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939"
    assert expected in (VECTORS / "c2sp" / "XAES-256-GCM.md").read_text()
    assert accumulated.hexdigest(32) == expected


def test_kc_xaes_vectors() -> None:
    text = (VECTORS / "kc-xaes" / "xaes_256_gcm_kc_tests.txt").read_text()
    cases = re.findall(
        r"KEY: (\w+)\nNONCE: (\w+)\nIN: (\w+)\nAD: ?(\w*)\nCT: (\w+)\nTAG: (\w+)", text
    )
    assert len(cases) == 3
    for case in cases:
        key, nonce, plaintext, associated_data, ciphertext, tag = map(bytes.fromhex, case)
        sealed = c.kc_xaes_seal(key, nonce, plaintext, associated_data)
        assert sealed == ciphertext + tag
        assert c.kc_xaes_open(key, nonce, sealed, associated_data) == plaintext
        for position in range(len(sealed)):
            changed = bytearray(sealed)
            changed[position] ^= 1
            with pytest.raises(DecryptionError):
                c.kc_xaes_open(key, nonce, bytes(changed), associated_data)


def test_commitment_is_the_cmac_that_it_is_said_to_be() -> None:
    # X1 and the last block are CMAC of "XCMT" | N | 00 01 00 0i: a two-block message.
    key, nonce = os.urandom(32), os.urandom(24)
    expected = b""
    for i in (1, 2):
        mac = cmac.CMAC(algorithms.AES256(key))
        mac.update(b"XCMT" + nonce + bytes([0, 1, 0, i]))
        expected += mac.finalize()
    assert c.box_keys(key, nonce).commitment == expected


def test_cobblestone_wycheproof() -> None:
    data = wycheproof("c2sp_chunked_encryption_aes_256_gcm_test.json")
    seen = {"valid": 0, "invalid": 0}
    for test in (test for group in data["testGroups"] for test in group["tests"]):
        key, context = bytes.fromhex(test["key"]), bytes.fromhex(test["ctx"])
        message = zlib.decompress(bytes.fromhex(test["ct"]))
        seen[test["result"]] += 1
        if test["result"] == "invalid":
            with pytest.raises((DecryptionError, ValueError)):
                c.cobblestone_open(key, message, context)
            continue
        keys = c.stream_keys(key, message[:24], context)
        assert keys.key.hex() == test["aeadKey"]
        assert keys.base_nonce.hex() == test["baseNonce"]
        plaintext = c.cobblestone_open(key, message, context)
        assert len(plaintext) == test["msgLength"]
        assert hashlib.sha512(plaintext).hexdigest() == test["msgSha512"]
        assert c.cobblestone_seal(key, message[:24], plaintext, context) == message
    assert sum(seen.values()) == data["numberOfTests"] == 13
    assert min(seen.values()) > 0


@pytest.mark.parametrize("length", LENGTHS)
def test_cobblestone_both_ways(length: int) -> None:
    key, context, plaintext = os.urandom(32), os.urandom(40), os.urandom(length)
    encryptor = cobblestone.Cobblestone256Encryptor(key, context)
    message = encryptor.update(plaintext) + encryptor.finalize()
    assert c.cobblestone_open(key, message, context) == plaintext
    decryptor = cobblestone.Cobblestone256Decryptor(key, context)
    ours = c.cobblestone_seal(key, os.urandom(24), plaintext, context)
    assert decryptor.update(ours) + decryptor.finalize() == plaintext


def test_stream_keys_are_hkdf_expand() -> None:
    key, salt, context = os.urandom(32), os.urandom(24), os.urandom(65_535)
    info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\x00" + salt + context
    okm = HKDFExpand(hashes.SHA512(), 76, info).derive(key)
    assert b"".join(c.stream_keys(key, salt, context)) == okm


def test_derive_is_hkdf_expand() -> None:
    key = os.urandom(32)
    for label, length in [("key id", 16), ("record", 32), ("names", 64)]:
        okm = HKDFExpand(hashes.SHA512(), length, b"strongroom/2 " + label.encode()).derive(key)
        assert c.derive(key, label, length) == okm


def test_hmac_sha512_wycheproof() -> None:
    # derive() is one HMAC call with a 32-byte key: check the HMAC under it with other keys too.
    count = 0
    for group in wycheproof("hmac_sha512_test.json")["testGroups"]:
        for test in group["tests"]:
            key, message = bytes.fromhex(test["key"]), bytes.fromhex(test["msg"])
            tag = hmac.digest(key, message, "sha512")[: group["tagSize"] // 8]
            assert (tag.hex() == test["tag"]) == (test["result"] == "valid")
            count += 1
    assert count == 174


def test_argon2id_vectors() -> None:
    # Of the six cases one is like ours: 32 bytes out, a passphrase, no secret, no data.
    text = (VECTORS / "kdf" / "argon2id.txt").read_text()
    used = 0
    for block in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^(\w+) = (\w+)$", block, re.MULTILINE))
        if "secret" in fields or "pass" not in fields or fields["length"] != "32":
            continue
        cost = c.Cost(int(fields["memcost"]), int(fields["iter"]), int(fields["lanes"]))
        output = c.argon2id(bytes.fromhex(fields["pass"]), cost, bytes.fromhex(fields["salt"]))
        assert output.hex() == fields["output"]
        used += 1
    assert used == 1


def test_chunk_counter_ends() -> None:
    base = os.urandom(12)
    assert c.chunk_nonce(base, 0) == base
    assert c.chunk_nonce(base, 2**38 - 1) == c.xor(base, bytes(7) + b"\x3f\xff\xff\xff\xff")
    for index in (-1, 2**38, 2**40):
        with pytest.raises(LimitError):
            c.chunk_nonce(base, index)


def test_passphrase_is_normalised() -> None:
    assert c.passphrase_bytes("e\u0301") == b"\xc3\xa9"
    assert c.passphrase_bytes(b"e\xcc\x81") == b"e\xcc\x81"
    for wrong in ("", b"", "x" * 4097, "\u00e9" * 2049):
        with pytest.raises(ValueError, match="4,096"):
            c.passphrase_bytes(wrong)
