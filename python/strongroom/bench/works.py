"""Jobs that run inside one process: records, buffers, batches, keysets."""

from __future__ import annotations

import os
import tempfile
import threading
from typing import Any, Final

import strongroom

from .measure import Contender, Pace, interleave
from .peers import AESGCM, TINK, present

RECORD: Final = "strongroom record"
RECORD_INTO: Final = "strongroom record into"
ENVELOPE: Final = "strongroom envelope"
ENVELOPE_INTO: Final = "strongroom envelope into"
MANY: Final = "strongroom many"
PACKED: Final = "strongroom packed"
VERSIONED: Final = "strongroom versioned"
GET_KEY: Final = "strongroom get_key"
ONE_THREAD: Final = "control: AESGCM into, one thread"
TWO_THREADS: Final = "control: AESGCM into, two threads"

# Below this size nobody would take an envelope, and above the record's limit there is none.
ENVELOPE_MIN: Final = 4096
# From here on, the work is shared out over two cores and has the control beside it.
CONTROL_MIN: Final = 1 << 20
# Calls that one thread of the control makes in an operation, so that starting a thread is nothing.
CONTROL_BYTES: Final = 64 << 20

Groups = dict[str, dict[str, Any]]


def buffers(size: int, peers: list[str] | None, pace: Pace) -> dict[str, Any]:
    """Time one call on one buffer of `size` bytes: ours and the peers', both ways.

    Returns:
        `groups` by name ("encrypt 64 B") and `left_out`, the peers that could not take part.
    """
    data = os.urandom(size)
    pairs = ours(data)
    found, left_out = present(peers)
    for peer in found:
        if size > peer.largest:
            left_out[f"{peer.name} above {human(peer.largest)}"] = "it would take too long"
        else:
            pairs.append(peer.contenders(data))
    groups = {}
    for i, work in enumerate(("encrypt", "decrypt")):
        contenders = [pair[i] for pair in pairs]
        if size >= CONTROL_MIN:
            contenders += control(size)
        groups[f"{work} {human(size)}"] = interleave(contenders, pace)
    return {"groups": groups, "left_out": left_out}


def batches(count: int, size: int, peers: list[str] | None, pace: Pace) -> dict[str, Any]:
    """Time `count` records of `size` bytes: our batch calls and loops over the peers'."""
    encrypt, decrypt, left_out = batch(count, size, peers)
    label = f"{count:,} x {human(size)}"
    beside = control(CONTROL_BYTES)
    return {
        "groups": {
            f"encrypt_many {label}": interleave([*encrypt, *beside], pace),
            f"decrypt_many {label}": interleave([*decrypt, *beside], pace),
        },
        "left_out": left_out,
    }


def batch(
    count: int, size: int, peers: list[str] | None
) -> tuple[list[Contender], list[Contender], dict[str, str]]:
    """Return who encrypts and who decrypts `count` records, and who can't take part and why."""
    values = [os.urandom(size) for _ in range(count)]
    joined = b"".join(values)
    total = count * size
    ours = strongroom.SecureEncryption(strongroom.generate_key())
    names: dict[str, Any] = {
        "many": ours.encrypt_many,
        "open_many": ours.decrypt_many,
        "packed": ours.encrypt_packed,
        "open_packed": ours.decrypt_packed,
        "values": values,
        "joined": joined,
        "sealed": ours.encrypt_many(values),
        "packed_message": ours.encrypt_packed(joined, size),
        "size": size,
    }
    encrypt = [
        Contender(MANY, "many(values)", names, total),
        Contender(PACKED, "packed(joined, size)", names, total),
    ]
    decrypt = [
        Contender(MANY, "open_many(sealed)", names, total),
        Contender(PACKED, "open_packed(packed_message, size)", names, total),
    ]
    wanted = [name for name in (AESGCM, TINK) if peers is None or name in peers]
    found, left_out = present(wanted)
    for peer in found:
        both = _aesgcm_loops(values) if peer.name == AESGCM else _tink_loops(values)
        for kind, (stmt, loop_names) in zip((encrypt, decrypt), both, strict=True):
            kind.append(Contender(f"loop over {peer.name}", stmt, loop_names, total))
    return encrypt, decrypt, left_out


def keysets(size: int, pace: Pace) -> dict[str, Any]:
    """Time calls under a warm keyset beside those under one bare key, and the look-up of a key."""
    data = os.urandom(size)
    with tempfile.TemporaryDirectory() as folder:
        master = strongroom.FileMasterKey.create(os.path.join(folder, "master.key"))
        with strongroom.KeyStore.create(f"sqlite:///{folder}/keys.db", master) as store:
            bare = strongroom.SecureEncryption(strongroom.generate_key())
            cipher = strongroom.VersionedEncryption(store)
            both = {"data": data, "get": store.get_key, "id": store.get_current_key().id}
            ours = {"encrypt": bare.encrypt, "decrypt": bare.decrypt, **both}
            theirs = {"encrypt": cipher.encrypt, "decrypt": cipher.decrypt, **both}
            ours["message"], theirs["message"] = bare.encrypt(data), cipher.encrypt(data)
            groups = {
                f"keyset {work} {human(size)}": interleave(
                    [
                        Contender(RECORD, f"{work}({argument})", ours, size),
                        Contender(VERSIONED, f"{work}({argument})", theirs, size),
                    ],
                    pace,
                )
                for work, argument in (("encrypt", "data"), ("decrypt", "message"))
            }
            groups["get_key"] = interleave([Contender(GET_KEY, "get(id)", both)], pace)
    return {"groups": groups, "left_out": {}}


def human(size: int) -> str:
    """Return a size in binary units, without a fraction: 65536 is "64 KiB"."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024 or size % 1024:
            return f"{size} {unit}"
        size //= 1024
    return f"{size} GiB"


def ours(data: bytes) -> list[tuple[Contender, Contender]]:
    """Return encrypt and decrypt of `data` by each of our ways that suits its size."""
    size = len(data)
    record = strongroom.SecureEncryption(strongroom.generate_key())
    pairs = [
        _pair(RECORD, record.encrypt, record.decrypt, data),
        _pair_into(
            RECORD_INTO,
            record.encrypt_into,
            record.decrypt_into,
            data,
            bytearray(record.encrypted_size(size)),
        ),
    ]
    if size >= ENVELOPE_MIN:
        envelope = strongroom.ParallelEncryption(strongroom.generate_key())
        pairs += [
            _pair(ENVELOPE, envelope.encrypt_large, envelope.decrypt_large, data),
            _pair_into(
                ENVELOPE_INTO,
                envelope.encrypt_large_into,
                envelope.decrypt_large_into,
                data,
                bytearray(envelope.encrypted_size(size)),
            ),
        ]
    return pairs


def _pair(name: str, encrypt: Any, decrypt: Any, data: bytes) -> tuple[Contender, Contender]:  # noqa: ANN401
    names = {"encrypt": encrypt, "decrypt": decrypt, "data": data, "message": encrypt(data)}
    return (
        Contender(name, "encrypt(data)", names, len(data)),
        Contender(name, "decrypt(message)", names, len(data)),
    )


def _pair_into(
    name: str,
    encrypt: Any,  # noqa: ANN401
    decrypt: Any,  # noqa: ANN401
    data: bytes,
    sealed: bytearray,
) -> tuple[Contender, Contender]:
    encrypt(data, sealed)
    names = {
        "encrypt": encrypt,
        "decrypt": decrypt,
        "data": data,
        "sealed": sealed,
        "message": bytes(sealed),
        "opened": bytearray(len(data)),
    }
    return (
        Contender(name, "encrypt(data, sealed)", names, len(data)),
        Contender(name, "decrypt(message, opened)", names, len(data)),
    )


def _aesgcm_loops(values: list[bytes]) -> list[tuple[str, dict[str, Any]]]:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM as Cipher

    cipher, nonce = Cipher(os.urandom(32)), os.urandom(12)
    names = {
        "encrypt": cipher.encrypt,
        "decrypt": cipher.decrypt,
        "urandom": os.urandom,
        "nonce": nonce,
        "values": values,
        "sealed": [cipher.encrypt(nonce, value, None) for value in values],
    }
    return [
        ("[encrypt(urandom(12), value, None) for value in values]", names),
        ("[decrypt(nonce, message, None) for message in sealed]", names),
    ]


def _tink_loops(values: list[bytes]) -> list[tuple[str, dict[str, Any]]]:
    from importlib import import_module

    tink: Any = import_module("tink")
    aead: Any = import_module("tink.aead")
    aead.register()
    primitive = tink.new_keyset_handle(aead.aead_key_templates.AES256_GCM).primitive(aead.Aead)
    names = {
        "encrypt": primitive.encrypt,
        "decrypt": primitive.decrypt,
        "values": values,
        "sealed": [primitive.encrypt(value, b"") for value in values],
    }
    return [
        ("[encrypt(value, b'') for value in values]", names),
        ("[decrypt(message, b'') for message in sealed]", names),
    ]


def control(size: int) -> list[Contender]:
    """What two cores give at this moment, to a peer that drops the GIL: two threads beside one."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM as Cipher

    calls = range(max(1, CONTROL_BYTES // size))

    def worker() -> Any:  # noqa: ANN401
        encrypt, nonce = Cipher(os.urandom(32)).encrypt_into, os.urandom(12)
        data, out = bytes(size), bytearray(size + 16)

        def work() -> None:
            for _ in calls:
                encrypt(nonce, data, None, out)

        return work

    workers = [worker(), worker()]

    def two() -> None:
        other = threading.Thread(target=workers[1])
        other.start()
        workers[0]()
        other.join()

    total = size * len(calls)
    return [
        Contender(ONE_THREAD, "one()", {"one": workers[0]}, total),
        Contender(TWO_THREADS, "two()", {"two": two}, 2 * total),
    ]
