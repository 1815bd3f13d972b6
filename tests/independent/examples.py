"""The worked examples of FORMAT.md, computed from fixed inputs, and the blocks that show them.

`python -m independent.examples ../rust/core/FORMAT.md`, run in tests/, writes the page's blocks
anew; tests/test_format_examples.py fails while the page and this module differ.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import sys
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from . import constructions as c
from . import reader, writer

Value = bytes | str | int
Block = dict[str, Value]

BLOCK = re.compile(r"^```example (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEX_WIDTH = 64


def run(start: int, length: int) -> bytes:
    """`length` bytes that count up from `start`: inputs that are seen to be made up."""
    return bytes((start + i) % 256 for i in range(length))


KEY = run(0x00, 32)
OTHER_KEY = run(0x20, 32)
KEK = run(0x40, 32)
MASTER = run(0x60, 32)
TOKEN_KEY = run(0x80, 32)
CKA_ID = run(0xC0, 16)
SERVICE = "awskms:///arn:aws:kms:eu-west-1:111122223333:key/5f0e9b1c"
PASSPHRASE = "Zo\u00eb's passphrase"
COST = c.Cost(65536, 3, 4)
ASSOCIATED_DATA = b"invoices/2041"
PLAINTEXT = b"Pay to the bearer."


def _box(block: Block, key: bytes, nonce: bytes, plaintext: bytes, bound: bytes) -> bytes:
    """Adds the values of a box to `block`; the box."""
    keys = c.box_keys(key, nonce)
    sealed = AESGCM(keys.gcm_key).encrypt(keys.gcm_nonce, plaintext, bound)
    block |= {
        "K1": keys.k1,
        "Kx": keys.gcm_key,
        "GCM nonce": keys.gcm_nonce,
        "A": bound,
        "ciphertext": sealed[:-16],
        "tag": sealed[-16:],
        "X1": keys.x1,
        "commitment": keys.commitment,
    }
    return nonce + sealed + keys.commitment


def derivation() -> Block:
    """Section 2.1."""
    message = b"strongroom/2 key id\x01"
    output = hmac.digest(KEY, message, "sha512")
    return {"K": KEY, "HMAC message": message, "HMAC output": output, "key id": c.key_id(KEY)}


def box() -> Block:
    """Section 2.3, every AES call."""
    key, nonce = c.derive(KEY, "record"), run(0xA0, 24)
    keys = c.box_keys(key, nonce)
    mask = c.xor(keys.x1, keys.k1)
    bound = b"any"
    return {
        "K": key,
        "N": nonce,
        "E(0)": c.aes_blocks(key, bytes(16)),
        "K1": keys.k1,
        "input of Kx, first": c.xor(b"\x00\x01X\x00" + nonce[:12], keys.k1),
        "input of Kx, second": c.xor(b"\x00\x02X\x00" + nonce[:12], keys.k1),
        "Kx": keys.gcm_key,
        "input of X1": b"XCMT" + nonce[:12],
        "X1": keys.x1,
        "input of commitment, first": c.xor(mask, nonce[12:] + b"\x00\x01\x00\x01"),
        "input of commitment, second": c.xor(mask, nonce[12:] + b"\x00\x01\x00\x02"),
        "commitment": keys.commitment,
        "GCM nonce": keys.gcm_nonce,
        "A": bound,
        "P": b"",
        "tag": AESGCM(keys.gcm_key).encrypt(keys.gcm_nonce, b"", bound),
        "box": c.box_seal(key, nonce, b"", bound),
    }


def record() -> Block:
    """Kind 01."""
    nonce = run(0xA0, 24)
    bound = writer.RECORD_PREFIX + c.key_id(KEY) + ASSOCIATED_DATA
    block: Block = {
        "key": KEY,
        "plaintext": PLAINTEXT,
        "AD": ASSOCIATED_DATA,
        "nonce": nonce,
        "key id": c.key_id(KEY),
        "box key": c.derive(KEY, "record"),
    }
    _box(block, c.derive(KEY, "record"), nonce, PLAINTEXT, bound)
    block["message"] = writer.write_record(KEY, PLAINTEXT, ASSOCIATED_DATA, nonce=nonce)
    return block


def _stream(block: Block, dek: bytes, salt: bytes, associated_data: bytes) -> c.StreamKeys:
    context = writer.ENVELOPE_PREFIX + associated_data
    info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\x00" + salt + context
    first = hmac.digest(dek, info + b"\x01", "sha512")
    second = hmac.digest(dek, first + info + b"\x02", "sha512")
    keys = c.stream_keys(dek, salt, context)
    block |= {
        "AD": associated_data,
        "DEK": dek,
        "salt": salt,
        "info": info,
        "T1": first,
        "T2": second,
        "chunk key": keys.key,
        "base nonce": keys.base_nonce,
        "stream commitment": keys.commitment,
    }
    return keys


ENVELOPE_DEK, ENVELOPE_SALT, ENVELOPE_NONCE = run(0x11, 32), run(0x31, 24), run(0x51, 24)
FILE_DEK, FILE_SALT = run(0x12, 32), run(0x32, 24)
FILE_NONCES = run(0x52, 24), run(0x72, 24), run(0x92, 24)
ARGON2_SALT = run(0xD0, 16)
KEK_NONCE = run(0xB2, 24)
REWRAP_NONCE = run(0xD2, 24)


def envelope() -> Block:
    """Kind 02, a value in memory: one slot of kind 01."""
    block: Block = {"key": KEY, "plaintext": PLAINTEXT}
    keys = _stream(block, ENVELOPE_DEK, ENVELOPE_SALT, ASSOCIATED_DATA)
    clear, wrap_key = c.key_id(KEY), c.derive(KEY, "wrap")
    bound = writer.ENVELOPE_PREFIX + b"\x01" + clear + ENVELOPE_SALT + keys.commitment
    block |= {"clear": clear, "wrap key": wrap_key, "nonce": ENVELOPE_NONCE}
    body = clear + _box(block, wrap_key, ENVELOPE_NONCE, ENVELOPE_DEK, bound)
    block |= {
        "slot": b"\x01" + len(body).to_bytes(2) + body,
        "nonce of chunk 0": c.chunk_nonce(keys.base_nonce, 0),
        "chunk 0": c.seal_chunks(keys, PLAINTEXT),
        "message": writer.write_envelope(
            PLAINTEXT,
            [writer.keyset_slot(KEY, nonce=ENVELOPE_NONCE)],
            ASSOCIATED_DATA,
            dek=ENVELOPE_DEK,
            salt=ENVELOPE_SALT,
        ),
    }
    return block


def file_message() -> bytes:
    """The envelope of the `slots` example: kinds 01, 02, 03, 00."""
    slots = [
        writer.keyset_slot(KEY, nonce=FILE_NONCES[0]),
        writer.passphrase_slot(PASSPHRASE, COST, salt=ARGON2_SALT, nonce=FILE_NONCES[1]),
        writer.master_slot(
            KEK, writer.wrap_software(MASTER, KEK, nonce=KEK_NONCE), nonce=FILE_NONCES[2]
        ),
        writer.empty_slot(reader.KEYSET_BODY_LEN),
    ]
    return writer.write_envelope(b"", slots, dek=FILE_DEK, salt=FILE_SALT)


def slots() -> Block:
    """Kind 02 with a slot of each kind, of an empty plaintext without associated data."""
    block: Block = {"key": KEY, "passphrase": PASSPHRASE, "master": MASTER, "KEK": KEK}
    keys = _stream(block, FILE_DEK, FILE_SALT, b"")
    argon2 = c.argon2id(PASSPHRASE, COST, ARGON2_SALT)
    wrapped = writer.wrap_software(MASTER, KEK, nonce=KEK_NONCE)
    passphrase_clear = writer.passphrase_clear(COST, ARGON2_SALT)
    master_clear = c.key_id(KEK) + len(wrapped).to_bytes(2) + wrapped
    block |= {
        "passphrase, NFC, UTF-8": c.passphrase_bytes(PASSPHRASE),
        "Argon2id salt": ARGON2_SALT,
        "Argon2id output": argon2,
        "KEK, wrapped by the master": wrapped,
    }
    for number, (clear, wrap_key) in enumerate(
        (
            (c.key_id(KEY), c.derive(KEY, "wrap")),
            (passphrase_clear, c.derive(argon2, "passphrase")),
            (master_clear, c.derive(KEK, "wrap")),
        )
    ):
        part: Block = {"clear": clear, "wrap key": wrap_key, "nonce": FILE_NONCES[number]}
        kind = bytes([number + 1])
        bound = writer.ENVELOPE_PREFIX + kind + clear + FILE_SALT + keys.commitment
        body = clear + _box(part, wrap_key, FILE_NONCES[number], FILE_DEK, bound)
        part["slot"] = kind + len(body).to_bytes(2) + body
        block |= {f"{number}: {name}": value for name, value in part.items()}
    block["3: slot"] = b"\x00" + (120).to_bytes(2) + bytes(120)
    block["chunk 0"] = c.seal_chunks(keys, b"")
    block["message"] = file_message()
    return block


def rewrap_writes() -> list[tuple[int, bytes]]:
    """The four writes that rewrap the `slots` example from KEY to OTHER_KEY: offset, bytes."""
    parsed = reader.parse_envelope(file_message())
    old, spare = parsed.slots[0], parsed.slots[3]
    target = writer.Target(FILE_DEK, parsed.salt, parsed.commitment)
    kind, body = writer.keyset_slot(OTHER_KEY, nonce=REWRAP_NONCE)(target)
    return [
        (spare.at + 3, body),
        (spare.at, bytes([kind])),
        (old.at, b"\x00"),
        (old.at + 3, bytes(len(old.body))),
    ]


def rewrap() -> Block:
    """The same envelope rewrapped in place."""
    message = bytearray(file_message())
    block: Block = {"new key": OTHER_KEY, "nonce": REWRAP_NONCE}
    for number, (at, written) in enumerate(rewrap_writes(), start=1):
        message[at : at + len(written)] = written
        block[f"write {number}: offset"] = at
        block[f"write {number}: bytes"] = written
    block["SHA-256 of the message then"] = hashlib.sha256(message).digest()
    return block


def two_chunks() -> Block:
    """A plaintext of exactly one full chunk: 16,384 bytes 00."""
    block: Block = {"key": KEY}
    keys = _stream(block, run(0x13, 32), run(0x33, 24), b"")
    sealed = c.seal_chunks(keys, bytes(c.CHUNK_LEN))
    message = writer.write_envelope(
        bytes(c.CHUNK_LEN),
        [writer.keyset_slot(KEY, nonce=run(0x53, 24))],
        dek=run(0x13, 32),
        salt=run(0x33, 24),
    )
    block |= {
        "nonce of the slot's box": run(0x53, 24),
        "nonce of chunk 0": c.chunk_nonce(keys.base_nonce, 0),
        "chunk 0, first 16 bytes": sealed[:16],
        "chunk 0, tag": sealed[c.CHUNK_LEN : c.SEALED_CHUNK_LEN],
        "nonce of chunk 1": c.chunk_nonce(keys.base_nonce, 1),
        "chunk 1": sealed[c.SEALED_CHUNK_LEN :],
        "length of the message": len(message),
        "SHA-256 of the message": hashlib.sha256(message).digest(),
    }
    return block


def token() -> Block:
    """Kind 03."""
    nonce = run(0xE0, 12)
    message = writer.write_token_message(TOKEN_KEY, CKA_ID, PLAINTEXT, ASSOCIATED_DATA, nonce=nonce)
    return {
        "key in the token": TOKEN_KEY,
        "key id (CKA_ID)": CKA_ID,
        "plaintext": PLAINTEXT,
        "AD": ASSOCIATED_DATA,
        "nonce": nonce,
        "A": writer.TOKEN_PREFIX + CKA_ID + ASSOCIATED_DATA,
        "ciphertext": message[32:-16],
        "tag": message[-16:],
        "message": message,
    }


def wrapped_00() -> Block:
    """Kind 04, mechanism 00."""
    bound = writer.wrapped_header(0, c.key_id(MASTER)) + c.key_id(KEY)
    block: Block = {
        "master": MASTER,
        "key": KEY,
        "nonce": KEK_NONCE,
        "id of the wrapping key": c.key_id(MASTER),
        "key id": c.key_id(KEY),
        "box key": c.derive(MASTER, "master"),
    }
    _box(block, c.derive(MASTER, "master"), KEK_NONCE, KEY, bound)
    block["message"] = writer.wrap_software(MASTER, KEY, nonce=KEK_NONCE)
    return block


def wrapped_01() -> Block:
    """Kind 04, mechanism 01."""
    nonce = run(0xF0, 12)
    message = writer.wrap_token_gcm(TOKEN_KEY, CKA_ID, KEY, nonce=nonce)
    return {
        "key in the token": TOKEN_KEY,
        "id of the wrapping key (CKA_ID)": CKA_ID,
        "key": KEY,
        "nonce": nonce,
        "A": writer.wrapped_header(1, CKA_ID) + c.key_id(KEY),
        "wrapped": message[33:65],
        "tag": message[65:],
        "message": message,
    }


def wrapped_02_03() -> Block:
    """Kind 04, mechanisms 02 and 03."""
    return {
        "key in the token": TOKEN_KEY,
        "id of the wrapping key (CKA_ID)": CKA_ID,
        "key": KEY,
        "message, mechanism 02": writer.wrap_token_kwp(TOKEN_KEY, CKA_ID, KEY),
        "message, mechanism 03": writer.wrap_token_kw(TOKEN_KEY, CKA_ID, KEY),
    }


SERVICE_BLOB = b"as the service gave it"


def wrapped_04() -> Block:
    """Kind 04, mechanism 04: the blob stands for whatever a service gives."""
    return {
        "full name": SERVICE,
        "id of the wrapping key": c.service_key_id(SERVICE),
        "key": KEY,
        "context": c.key_id(KEY).hex().encode(),
        "blob": SERVICE_BLOB,
        "message": writer.wrap_service(SERVICE, lambda _key, _context: SERVICE_BLOB, KEY),
    }


def wrapped_05() -> Block:
    """Kind 04, mechanism 05."""
    argon2 = c.argon2id(PASSPHRASE, COST, ARGON2_SALT)
    clear = writer.passphrase_clear(COST, ARGON2_SALT)
    bound = writer.wrapped_header(5, c.key_id(argon2)) + clear + c.key_id(KEY)
    block: Block = {
        "passphrase": PASSPHRASE,
        "key": KEY,
        "clear": clear,
        "nonce": KEK_NONCE,
        "Argon2id output": argon2,
        "id of the wrapping key": c.key_id(argon2),
        "key id": c.key_id(KEY),
        "box key": c.derive(argon2, "passphrase"),
    }
    _box(block, c.derive(argon2, "passphrase"), KEK_NONCE, KEY, bound)
    block["message"] = writer.wrap_passphrase(
        PASSPHRASE, COST, KEY, salt=ARGON2_SALT, nonce=KEK_NONCE
    )
    return block


EXAMPLES: dict[str, Callable[[], Block]] = {
    "derive": derivation,
    "box": box,
    "record": record,
    "envelope": envelope,
    "slots": slots,
    "rewrap": rewrap,
    "two-chunks": two_chunks,
    "token": token,
    "wrapped-00": wrapped_00,
    "wrapped-01": wrapped_01,
    "wrapped-02-03": wrapped_02_03,
    "wrapped-04": wrapped_04,
    "wrapped-05": wrapped_05,
}


def render(block: Block) -> str:
    """The lines of a block: `name = value`; a value is hex, text in quotes, or a whole number."""
    lines = []
    for name, value in block.items():
        if isinstance(value, int):
            lines.append(f"{name} = {value:,} (decimal)")
        elif isinstance(value, str):
            lines.append(f'{name} = "{value}"')
        else:
            digits = value.hex()
            rows = [digits[i : i + _HEX_WIDTH] for i in range(0, len(digits), _HEX_WIDTH)]
            if len(rows) <= 1:
                lines.append(f"{name} = {digits or '(empty)'}")
            else:
                lines += [f"{name} =", *(f"  {row}" for row in rows)]
    return "".join(f"{line}\n" for line in lines)


def parse(text: str) -> Block:
    """The inverse of `render`."""
    block: Block = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("  "):
            before = block[name]
            assert isinstance(before, bytes)
            block[name] = before + bytes.fromhex(line)
            continue
        name, _, value = line.partition(" =")
        value = value.strip()
        if value.startswith('"'):
            block[name] = value.strip('"')
        elif value.endswith("(decimal)"):
            block[name] = int(value.split()[0].replace(",", ""))
        else:
            block[name] = bytes.fromhex(value) if value != "(empty)" else b""
    return block


def refresh(page: str) -> str:
    """The page with every example block written anew."""
    return BLOCK.sub(
        lambda found: f"```example {found[1]}\n{render(EXAMPLES[found[1]]())}```", page
    )


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(refresh(path.read_text()))
