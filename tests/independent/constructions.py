"""The public constructions that the format is made of (FORMAT.md, "Constructions")."""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from .errors import DecryptionError, LimitError

KEY_LEN = 32
KEY_ID_LEN = 16
TAG_LEN = 16
COMMITMENT_LEN = 32
BOX_NONCE_LEN = 24
BOX_OVERHEAD = BOX_NONCE_LEN + TAG_LEN + COMMITMENT_LEN

SALT_LEN = 24
STREAM_HEADER_LEN = SALT_LEN + COMMITMENT_LEN
CHUNK_LEN = 16 * 1024
SEALED_CHUNK_LEN = CHUNK_LEN + TAG_LEN
MAX_CHUNKS = 2**38

MAX_ASSOCIATED_DATA = 2**16 - 1
MAX_PASSPHRASE = 4096


def xor(a: bytes, b: bytes) -> bytes:
    """Returns the bytewise exclusive or of two strings of one length."""
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def check_key(key: bytes) -> bytes:
    """Returns `key`; ValueError if it is not 32 bytes."""
    if len(key) != KEY_LEN:
        raise ValueError("a key is 32 bytes")
    return key


def check_associated_data(associated_data: bytes) -> bytes:
    """Returns `associated_data`; LimitError if it is over 65,535 bytes."""
    if len(associated_data) > MAX_ASSOCIATED_DATA:
        raise LimitError("associated data is at most 65,535 bytes")
    return associated_data


# --- Keys from keys ------------------------------------------------------------------------------


def derive(key: bytes, label: str, length: int = 32) -> bytes:
    """derive(K, label, n): the first n bytes of HMAC-SHA-512(K, "strongroom/2 " | label | 01)."""
    if not 0 < length <= hashlib.sha512().digest_size:
        raise ValueError("derive gives 1 to 64 bytes")
    info = b"strongroom/2 " + label.encode("ascii")
    return hmac.digest(check_key(key), info + b"\x01", "sha512")[:length]


def key_id(key: bytes) -> bytes:
    """The public name of a software key, 16 bytes."""
    return derive(key, "key id", KEY_ID_LEN)


def service_key_id(full_name: str) -> bytes:
    """The key id of a key that a service (KMS, Vault) holds."""
    return hashlib.sha256(full_name.encode("utf-8")).digest()[:KEY_ID_LEN]


def passphrase_bytes(passphrase: str | bytes) -> bytes:
    """Text as NFC, then UTF-8; bytes as they are; ValueError unless 1 to 4,096 bytes come out."""
    if isinstance(passphrase, str):
        passphrase = unicodedata.normalize("NFC", passphrase).encode("utf-8")
    if not 1 <= len(passphrase) <= MAX_PASSPHRASE:
        raise LimitError("a passphrase is 1 to 4,096 bytes")
    return passphrase


class Cost(NamedTuple):
    """The cost of Argon2id: memory in KiB, passes, lanes."""

    memory: int
    passes: int
    lanes: int


def argon2id(passphrase: str | bytes, cost: Cost, salt: bytes) -> bytes:
    """Argon2id, version 0x13, 32 bytes out, no secret, no associated data."""
    kdf = Argon2id(
        salt=salt,
        length=KEY_LEN,
        iterations=cost.passes,
        lanes=cost.lanes,
        memory_cost=cost.memory,
    )
    return kdf.derive(passphrase_bytes(passphrase))


# --- The box: KC-XAES-256-GCM --------------------------------------------------------------------


def aes_blocks(key: bytes, blocks: bytes) -> bytes:
    """AES-256 of each 16-byte block on its own."""
    encryptor = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()
    return encryptor.update(blocks) + encryptor.finalize()


def cmac_subkey(key: bytes) -> bytes:
    """K1 of SP 800-38B: the cipher of the zero block, doubled in GF(2^128)."""
    doubled = int.from_bytes(aes_blocks(key, bytes(16))) << 1
    if doubled >> 128:
        doubled ^= (1 << 128) | 0x87
    return doubled.to_bytes(16)


class BoxKeys(NamedTuple):
    """What KC-XAES makes from a key and a nonce."""

    k1: bytes
    gcm_key: bytes
    gcm_nonce: bytes
    x1: bytes
    commitment: bytes


def box_keys(key: bytes, nonce: bytes) -> BoxKeys:
    """Five AES calls: two make the GCM key, one X1, two the commitment."""
    if len(nonce) != BOX_NONCE_LEN:
        raise ValueError("the nonce of a box is 24 bytes")
    k1 = cmac_subkey(check_key(key))
    head, tail = nonce[:12], nonce[12:]
    gcm_key = aes_blocks(key, xor(b"\x00\x01X\x00" + head, k1) + xor(b"\x00\x02X\x00" + head, k1))
    x1 = aes_blocks(key, b"XCMT" + head)
    mask = xor(x1, k1)
    commitment = aes_blocks(
        key,
        xor(mask, tail + b"\x00\x01\x00\x01") + xor(mask, tail + b"\x00\x01\x00\x02"),
    )
    return BoxKeys(k1, gcm_key, tail, x1, commitment)


def kc_xaes_seal(key: bytes, nonce: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    """Ciphertext, tag, commitment."""
    keys = box_keys(key, nonce)
    sealed = AESGCM(keys.gcm_key).encrypt(keys.gcm_nonce, plaintext, associated_data)
    return sealed + keys.commitment


def kc_xaes_open(key: bytes, nonce: bytes, sealed: bytes, associated_data: bytes) -> bytes:
    """The plaintext; DecryptionError if the commitment or the tag is wrong."""
    if len(sealed) < TAG_LEN + COMMITMENT_LEN:
        raise DecryptionError
    body, commitment = sealed[:-COMMITMENT_LEN], sealed[-COMMITMENT_LEN:]
    keys = box_keys(key, nonce)
    if not hmac.compare_digest(keys.commitment, commitment):
        raise DecryptionError
    return gcm_open(keys.gcm_key, keys.gcm_nonce, body, associated_data)


def box_seal(key: bytes, nonce: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    """box(K, P, A) = nonce | ciphertext | tag | commitment."""
    return nonce + kc_xaes_seal(key, nonce, plaintext, associated_data)


def box_open(key: bytes, box: bytes, associated_data: bytes) -> bytes:
    """The P of box(K, P, A); DecryptionError."""
    return kc_xaes_open(key, box[:BOX_NONCE_LEN], box[BOX_NONCE_LEN:], associated_data)


def gcm_open(key: bytes, nonce: bytes, sealed: bytes, associated_data: bytes) -> bytes:
    """AES-256-GCM with a 16-byte tag at the end; DecryptionError."""
    if len(sealed) < TAG_LEN:
        raise DecryptionError
    try:
        return AESGCM(key).decrypt(nonce, sealed, associated_data)
    except InvalidTag:
        raise DecryptionError from None


# --- The chunks: Cobblestone-256 -----------------------------------------------------------------


class StreamKeys(NamedTuple):
    """What Cobblestone derives for one message."""

    key: bytes
    base_nonce: bytes
    commitment: bytes


def stream_keys(input_key: bytes, salt: bytes, context: bytes) -> StreamKeys:
    """HKDF-Expand with SHA-512 to 32 + 12 + 32 bytes, written out as its two HMAC calls."""
    if len(salt) != SALT_LEN:
        raise ValueError("a salt is 24 bytes")
    info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\x00" + salt + context
    first = hmac.digest(check_key(input_key), info + b"\x01", "sha512")
    second = hmac.digest(input_key, first + info + b"\x02", "sha512")
    okm = first + second
    return StreamKeys(okm[:32], okm[32:44], okm[44:76])


def chunk_nonce(base_nonce: bytes, index: int) -> bytes:
    """The base nonce, exclusive or the number of the chunk as 12 big-endian bytes."""
    if not 0 <= index < MAX_CHUNKS:
        raise LimitError("a message has at most 2^38 chunks")
    return xor(base_nonce, index.to_bytes(12))


def seal_chunks(keys: StreamKeys, plaintext: bytes) -> bytes:
    """Every chunk sealed; the last one is shorter than 16 KiB, perhaps empty."""
    aead = AESGCM(keys.key)
    return b"".join(
        aead.encrypt(
            chunk_nonce(keys.base_nonce, index),
            plaintext[index * CHUNK_LEN : (index + 1) * CHUNK_LEN],
            None,
        )
        for index in range(len(plaintext) // CHUNK_LEN + 1)
    )


def open_chunks(keys: StreamKeys, chunks: bytes) -> bytes:
    """The plaintext; DecryptionError. The length must have been checked by `chunks_length_ok`."""
    return b"".join(
        gcm_open(
            keys.key,
            chunk_nonce(keys.base_nonce, index),
            chunks[index * SEALED_CHUNK_LEN : (index + 1) * SEALED_CHUNK_LEN],
            b"",
        )
        for index in range(len(chunks) // SEALED_CHUNK_LEN + 1)
    )


def chunks_length_ok(length: int) -> bool:
    """Whether chunks can have this length: the last one is a tag at least, and never a full one."""
    return length % SEALED_CHUNK_LEN >= TAG_LEN


def cobblestone_seal(input_key: bytes, salt: bytes, plaintext: bytes, context: bytes) -> bytes:
    """Salt | commitment | chunks."""
    keys = stream_keys(input_key, salt, context)
    return salt + keys.commitment + seal_chunks(keys, plaintext)


def cobblestone_open(input_key: bytes, message: bytes, context: bytes) -> bytes:
    """The plaintext of a bare Cobblestone-256 message; DecryptionError for every fault."""
    header, chunks = message[:STREAM_HEADER_LEN], message[STREAM_HEADER_LEN:]
    if len(header) < STREAM_HEADER_LEN or not chunks_length_ok(len(chunks)):
        raise DecryptionError
    keys = stream_keys(input_key, header[:SALT_LEN], context)
    if not hmac.compare_digest(keys.commitment, header[SALT_LEN:]):
        raise DecryptionError
    return open_chunks(keys, chunks)
