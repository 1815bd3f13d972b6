"""Third-party vectors through `strongroom.hazmat`, on both engines.

tests/vectors/INDEX.md names the origin of each file. Each vector that can be reached through the
bare constructions is run; what other lengths of key, nonce or tag the files hold must be refused.
"""

from __future__ import annotations

import gzip
import hashlib
import hmac
import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import cobblestone
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from strongroom import DecryptionError, hazmat

VECTORS = Path(__file__).parent / "vectors"
ENGINES = ("aes-gcm", "aws-lc")
LENGTHS = [0, 1, 15, 16, 17, 16383, 16384, 16385, 32767, 32768, 32769, 200_000, 1 << 20]

engines = pytest.mark.parametrize("engine", ENGINES)


class Gcm(NamedTuple):
    """One AES-GCM case; `result` is valid or invalid."""

    key: bytes
    nonce: bytes
    associated_data: bytes
    plaintext: bytes
    ciphertext: bytes
    tag: bytes
    result: str


def gcm(*fields: Any) -> Gcm:
    return Gcm(*fields)


def wycheproof(name: str) -> tuple[dict[str, Any], list[tuple[dict[str, Any], dict[str, Any]]]]:
    data = json.loads((VECTORS / "wycheproof" / name).read_text())
    cases = [(group, test) for group in data["testGroups"] for test in group["tests"]]
    assert len(cases) == data["numberOfTests"]
    return data, cases


def nist_json() -> list[Gcm]:
    data = json.loads((VECTORS / "nist-cavp" / "gcmEncryptExtIV256_iv96_tag128.json").read_text())
    fields = ("key", "iv", "aad", "pt", "ct", "tag")
    return [gcm(*(bytes.fromhex(c[f]) for f in fields), c["result"]) for c in data["cases"]]


def nist_whole() -> Iterator[tuple[int, int, Gcm]]:
    """Bits of IV and tag, and the case, of NIST's whole file."""
    text = gzip.decompress(
        (VECTORS / "nist-cavp" / "gcmEncryptExtIV256.rsp.gz").read_bytes()
    ).decode()
    sizes: dict[str, int] = {}
    case: dict[str, bytes] = {}
    for line in text.splitlines():
        if size := re.fullmatch(r"\[(\w+) = (\d+)\]", line):
            sizes[size[1]] = int(size[2])
        elif field := re.fullmatch(r"(\w+) = ?(\w*)", line):
            if field[1] == "Count":
                case = {}
            else:
                case[field[1]] = bytes.fromhex(field[2])
            if field[1] == "Tag":
                parts = [case[name] for name in ("Key", "IV", "AAD", "PT", "CT", "Tag")]
                yield sizes["IVlen"], sizes["Taglen"], gcm(*parts, "valid")


def check_gcm(case: Gcm, engine: str) -> None:
    sealed = case.ciphertext + case.tag
    common: dict[str, Any] = {"associated_data": case.associated_data, "engine": engine}
    if case.result == "valid":
        assert hazmat.aes_256_gcm_encrypt(case.key, case.nonce, case.plaintext, **common) == sealed
        assert hazmat.aes_256_gcm_decrypt(case.key, case.nonce, sealed, **common) == case.plaintext
    else:
        with pytest.raises(DecryptionError):
            hazmat.aes_256_gcm_decrypt(case.key, case.nonce, sealed, **common)


@engines
def test_nist_cavp_256_96_128(engine):
    cases = nist_json()
    assert len(cases) == 375
    for case in cases:
        check_gcm(case, engine)


@engines
def test_nist_cavp_whole_file(engine):
    reached = refused = 0
    for iv_bits, tag_bits, case in nist_whole():
        if iv_bits != 96:
            with pytest.raises(ValueError, match="nonce"):
                hazmat.aes_256_gcm_encrypt(
                    case.key, case.nonce, case.plaintext, case.associated_data, engine=engine
                )
            refused += 1
        elif tag_bits != 128:
            # A shorter tag is the start of the whole one and must not pass for it.
            whole = hazmat.aes_256_gcm_encrypt(
                case.key, case.nonce, case.plaintext, case.associated_data, engine=engine
            )
            assert whole.startswith(case.ciphertext + case.tag)
            with pytest.raises((DecryptionError, ValueError)):
                hazmat.aes_256_gcm_decrypt(
                    case.key,
                    case.nonce,
                    case.ciphertext + case.tag,
                    case.associated_data,
                    engine=engine,
                )
            refused += 1
        else:
            check_gcm(case, engine)
            reached += 1
    # Lengths of IV: 8, 96 and 1024 bits; the first and the last are refused.
    assert (reached, refused) == (375, 7_500)


@engines
def test_wycheproof_aes_gcm(engine):
    _, cases = wycheproof("aes_gcm_test.json")
    reached = refused = 0
    for group, test in cases:
        fields = ("key", "iv", "aad", "msg", "ct", "tag")
        case = Gcm(*(bytes.fromhex(test[name]) for name in fields), test["result"])
        if group["tagSize"] == 128 and len(case.key) == 32 and len(case.nonce) == 12:
            check_gcm(case, engine)
            reached += 1
            continue
        with pytest.raises((ValueError, DecryptionError)):
            hazmat.aes_256_gcm_decrypt(
                case.key,
                case.nonce,
                case.ciphertext + case.tag,
                case.associated_data,
                engine=engine,
            )
        refused += 1
    assert reached == 66
    assert reached + refused == 316


@pytest.mark.parametrize("length", LENGTHS)
def test_aes_gcm_both_engines_and_cryptography(length):
    key, nonce, data, plaintext = map(os.urandom, (32, 12, 33, length))
    sealed = {
        hazmat.aes_256_gcm_encrypt(key, nonce, plaintext, data, engine=engine)
        for engine in (*ENGINES, None)
    }
    assert sealed == {AESGCM(key).encrypt(nonce, plaintext, data)}
    for engine in (*ENGINES, None):
        opened = hazmat.aes_256_gcm_decrypt(key, nonce, *sealed, data, engine=engine)
        assert opened == plaintext


@engines
def test_commitment_collisions_open_under_several_keys_as_bare_gcm_only(engine):
    # Bare GCM opens each of them under every key: what the commitments are for.
    data = json.loads((VECTORS / "commitment" / "gcm_multikey_collisions.json").read_text())
    assert len(data["cases"]) == 2
    for case in data["cases"]:
        nonce, associated_data, ciphertext, tag = (
            bytes.fromhex(case[name]) for name in ("nonce", "aad", "ciphertext", "tag")
        )
        for key, digest in zip(case["keys"], case["plaintext_sha256"], strict=True):
            plaintext = hazmat.aes_256_gcm_decrypt(
                bytes.fromhex(key), nonce, ciphertext + tag, associated_data, engine=engine
            )
            assert hashlib.sha256(plaintext).hexdigest() == digest


# KC-XAES and XAES


@engines
def test_kc_xaes_vectors(engine):
    text = (VECTORS / "kc-xaes" / "xaes_256_gcm_kc_tests.txt").read_text()
    cases = re.findall(
        r"KEY: (\w+)\nNONCE: (\w+)\nIN: (\w+)\nAD: ?(\w*)\nCT: (\w+)\nTAG: (\w+)", text
    )
    assert len(cases) == 3
    for case in cases:
        key, nonce, plaintext, data, ciphertext, tag = map(bytes.fromhex, case)
        sealed = hazmat.kc_xaes_256_gcm_encrypt(key, nonce, plaintext, data, engine=engine)
        assert sealed == ciphertext + tag
        assert hazmat.kc_xaes_256_gcm_decrypt(key, nonce, sealed, data, engine=engine) == plaintext
        for bit in range(len(sealed) * 8):
            changed = bytearray(sealed)
            changed[bit // 8] ^= 1 << bit % 8
            with pytest.raises(DecryptionError):
                hazmat.kc_xaes_256_gcm_decrypt(key, nonce, changed, data, engine=engine)


def xaes(key: bytes, nonce: bytes, plaintext: bytes, data: bytes, engine: Any) -> bytes:
    """XAES-256-GCM is KC-XAES-256-GCM without its last 32 bytes, the commitment."""
    return hazmat.kc_xaes_256_gcm_encrypt(key, nonce, plaintext, data, engine=engine)[:-32]


@engines
def test_xaes_vectors_of_the_specification(engine):
    text = (VECTORS / "c2sp" / "XAES-256-GCM.md").read_text()
    nonce = b"ABCDEFGHIJKLMNOPQRSTUVWX"
    for byte, data, expected in [
        (1, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
        (
            3,
            b"c2sp.org/XAES-256-GCM",
            "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d",
        ),
    ]:
        assert expected in text
        assert xaes(bytes([byte]) * 32, nonce, b"XAES-256-GCM", data, engine).hex() == expected


@engines
def test_xaes_accumulated_10_000(engine):
    # SHAKE-128 of nothing is the random source, another one takes the ciphertexts. Each case reads
    # at most 32 + 24 + 1 + 255 + 1 + 255 bytes.
    source = hashlib.shake_128().digest(10_000 * (32 + 24 + 2 * 256))
    at = 0

    def take(length: int) -> bytes:
        nonlocal at
        at += length
        return source[at - length : at]

    accumulated = hashlib.shake_128()
    for _ in range(10_000):
        key, nonce = take(32), take(24)
        plaintext = take(take(1)[0])
        data = take(take(1)[0])
        accumulated.update(xaes(key, nonce, plaintext, data, engine))
    expected = "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939"
    assert expected in (VECTORS / "c2sp" / "XAES-256-GCM.md").read_text()
    assert accumulated.hexdigest(32) == expected


# Cobblestone-256


@engines
def test_cobblestone_wycheproof(engine):
    _, cases = wycheproof("c2sp_chunked_encryption_aes_256_gcm_test.json")
    assert len(cases) == 13
    seen = {"valid": 0, "invalid": 0}
    for _, test in cases:
        key, context = bytes.fromhex(test["key"]), bytes.fromhex(test["ctx"])
        message = zlib.decompress(bytes.fromhex(test["ct"]))
        seen[test["result"]] += 1
        if test["result"] == "invalid":
            expected = (
                ValueError if "InvalidKeySize" in test["flags"] else (DecryptionError, ValueError)
            )
            with pytest.raises(expected):
                hazmat.cobblestone_256_decrypt(key, message, context, engine=engine)
            continue
        plaintext = hazmat.cobblestone_256_decrypt(key, message, context, engine=engine)
        assert len(plaintext) == test["msgLength"]
        assert hashlib.sha512(plaintext).hexdigest() == test["msgSha512"]
        again = hazmat.cobblestone_256_encrypt(key, plaintext, context, engine=engine)
        assert len(again) == len(message)
        assert again[:24] != message[:24]
    assert min(seen.values()) > 0


@engines
@pytest.mark.parametrize("length", [*LENGTHS, 8 << 20, (8 << 20) + 1])
def test_cobblestone_both_ways_against_cryptography(length, engine):
    key, context, plaintext = os.urandom(32), os.urandom(40), os.urandom(length)
    ours = hazmat.cobblestone_256_encrypt(key, plaintext, context, engine=engine)
    theirs = cobblestone.Cobblestone256Encryptor(key, context)
    message = theirs.update(plaintext) + theirs.finalize()
    assert len(ours) == len(message)
    assert hazmat.cobblestone_256_decrypt(key, message, context, engine=engine) == plaintext
    decryptor = cobblestone.Cobblestone256Decryptor(key, context)
    assert decryptor.update(ours) + decryptor.finalize() == plaintext
    other = ENGINES[1 - ENGINES.index(engine)]
    assert hazmat.cobblestone_256_decrypt(key, ours, context, engine=other) == plaintext


# Arguments


@engines
@pytest.mark.parametrize("length", [0, 8, 11, 13, 16, 24])
def test_gcm_takes_nonces_of_12_bytes_only(length, engine):
    with pytest.raises(ValueError, match="nonce"):
        hazmat.aes_256_gcm_encrypt(bytes(32), bytes(length), b"", engine=engine)
    with pytest.raises(ValueError, match="nonce"):
        hazmat.aes_256_gcm_decrypt(bytes(32), bytes(length), bytes(16), engine=engine)


@engines
@pytest.mark.parametrize("length", [0, 12, 23, 25, 192])
def test_kc_xaes_takes_nonces_of_24_bytes_only(length, engine):
    with pytest.raises(ValueError, match="nonce"):
        hazmat.kc_xaes_256_gcm_encrypt(bytes(32), bytes(length), b"", engine=engine)
    with pytest.raises(ValueError, match="nonce"):
        hazmat.kc_xaes_256_gcm_decrypt(bytes(32), bytes(length), bytes(48), engine=engine)


@engines
@pytest.mark.parametrize("length", [0, 1, 16, 24, 31, 33, 64])
def test_keys_have_32_bytes(length, engine):
    key = bytes(length)
    for call in (
        lambda: hazmat.aes_256_gcm_encrypt(key, bytes(12), b"", engine=engine),
        lambda: hazmat.aes_256_gcm_decrypt(key, bytes(12), bytes(16), engine=engine),
        lambda: hazmat.kc_xaes_256_gcm_encrypt(key, bytes(24), b"", engine=engine),
        lambda: hazmat.kc_xaes_256_gcm_decrypt(key, bytes(24), bytes(48), engine=engine),
        lambda: hazmat.cobblestone_256_encrypt(key, b"", engine=engine),
        lambda: hazmat.cobblestone_256_decrypt(key, bytes(72), engine=engine),
    ):
        with pytest.raises(ValueError, match="32"):
            call()


@engines
def test_every_shorter_input_is_refused(engine):
    key, nonce12, nonce24 = bytes(32), bytes(12), bytes(24)
    gcm = hazmat.aes_256_gcm_encrypt(key, nonce12, b"plaintext", engine=engine)
    kc = hazmat.kc_xaes_256_gcm_encrypt(key, nonce24, b"plaintext", engine=engine)
    stream = hazmat.cobblestone_256_encrypt(key, b"plaintext", engine=engine)
    for cut in range(len(gcm)):
        with pytest.raises((DecryptionError, ValueError)):
            hazmat.aes_256_gcm_decrypt(key, nonce12, gcm[:cut], engine=engine)
    for cut in range(len(kc)):
        with pytest.raises((DecryptionError, ValueError)):
            hazmat.kc_xaes_256_gcm_decrypt(key, nonce24, kc[:cut], engine=engine)
    for cut in range(len(stream)):
        with pytest.raises((DecryptionError, ValueError)):
            hazmat.cobblestone_256_decrypt(key, stream[:cut], engine=engine)


def test_an_unknown_engine_is_named():
    with pytest.raises(ValueError, match="aes-gcm"):
        hazmat.aes_256_gcm_encrypt(bytes(32), bytes(12), b"", engine="openssl")


# HKDF-Expand


def test_hkdf_sha512_wycheproof():
    # Extract is one HMAC, made here; what the package has is Expand.
    _, cases = wycheproof("hkdf_sha512_test.json")
    seen = {"valid": 0, "invalid": 0}
    for _, test in cases:
        ikm, salt, info = (bytes.fromhex(test[name]) for name in ("ikm", "salt", "info"))
        prk = hmac.digest(salt or bytes(64), ikm, "sha512")
        seen[test["result"]] += 1
        if test["result"] == "invalid":
            assert test["size"] > 255 * 64
            with pytest.raises(ValueError, match="255"):
                hazmat.hkdf_expand_sha512(prk, info, test["size"])
        else:
            assert hazmat.hkdf_expand_sha512(prk, info, test["size"]).hex() == test["okm"]
    assert sum(seen.values()) == 83
    assert min(seen.values()) > 0


@pytest.mark.parametrize("length", [1, 16, 32, 63, 64, 65, 76, 255 * 64])
def test_hkdf_with_a_prk_of_32_bytes_against_cryptography(length):
    key, info = os.urandom(32), os.urandom(65_535)
    expected = HKDFExpand(hashes.SHA512(), length, info).derive(key)
    assert hazmat.hkdf_expand_sha512(key, info, length) == expected
