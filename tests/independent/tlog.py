"""Verifies an audit log from its specifications alone.

RFC 8785, RFC 6962, c2sp.org/tlog-checkpoint, signed-note, tlog-proof, tlog-tiles, tlog-witness, and
the layout in docs/audit.md. Written for clarity, not for speed: the tree is the recursive one
of RFC 6962 section 2.1.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


class Bad(Exception):
    """The log, a checkpoint or a proof does not hold.

    Attributes:
        seq: The number of the first bad record, where one can be named.
    """

    def __init__(self, text: str, seq: int | None = None) -> None:
        super().__init__(text)
        self.seq = seq


class Checkpoint(NamedTuple):
    origin: str
    size: int
    root: bytes


def leaf(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def mth(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962 §2.1, over leaf hashes."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return node(mth(leaves[:k]), mth(leaves[k:]))


def jcs(value: object) -> str:
    """RFC 8785 for what an event may hold: ASCII names, integers, text."""
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, int):
        if abs(value) > 2**53 - 1:
            raise Bad("an integer that not every reader keeps")
        return str(value)
    if isinstance(value, str):
        out = []
        short = {8: "b", 9: "t", 10: "n", 12: "f", 13: "r", 34: '"', 92: "\\"}
        for char in value:
            code = ord(char)
            if code in short:
                out.append("\\" + short[code])
            elif code < 32:
                out.append(f"\\u{code:04x}")
            else:
                out.append(char)
        return '"' + "".join(out) + '"'
    if isinstance(value, list):
        return "[" + ",".join(map(jcs, value)) + "]"
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return "{" + ",".join(f"{jcs(name)}:{jcs(value[name])}" for name in names) + "}"
    raise Bad(f"{type(value).__name__} has no place in an event")


def note(text: bytes, vkey: str) -> Checkpoint:
    """c2sp.org/signed-note and tlog-checkpoint."""
    name, key_hash, data = vkey.split("+", 2)
    raw = base64.b64decode(data, validate=True)
    if raw[0] != 1 or len(raw) != 33:
        raise Bad("not an Ed25519 verifier key")
    expected = hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4]
    if expected.hex() != key_hash:
        raise Bad("the key's hash")
    end = text.rindex(b"\n\n") + 1
    body, signatures = text[:end], text[end + 1 :].decode()
    for line in signatures.splitlines():
        dash, signer, blob = line.split(" ")
        if dash != "\u2014":
            raise Bad("a signature line")
        signature = base64.b64decode(blob, validate=True)
        if signer == name and signature[:4] == expected:
            try:
                Ed25519PublicKey.from_public_bytes(raw[1:]).verify(signature[4:], body)
            except InvalidSignature:
                raise Bad("the signature") from None
            break
    else:
        raise Bad("no signature of this key")
    origin, size, root = body.decode().splitlines()[:3]
    if origin != name or origin != f"strongroom.audit/{raw[1:9].hex()}":
        raise Bad("the origin")
    if str(int(size)) != size:
        raise Bad("the size")
    return Checkpoint(origin, int(size), base64.b64decode(root, validate=True))


def files(log: Path) -> list[Path]:
    """The rotated files, which are named by the number of their first record, and the newest."""
    rotated = [p for p in log.parent.glob(f"{log.name}.*") if p.name[len(log.name) + 1 :].isdigit()]
    return [*sorted(rotated), log]


def verify(log: Path, vkey: str, checkpoints: Sequence[bytes] = ()) -> tuple[int, int, bytes]:
    """Return records, records under a checkpoint, and a torn tail; raise Bad for all else."""
    known = [note(text, vkey) for text in checkpoints]
    newest = log.with_name(log.name + ".checkpoint")
    if not newest.exists():
        raise Bad("no checkpoint")
    known.append(note(newest.read_bytes(), vkey))
    known += [
        note(path.with_name(path.name + ".checkpoint").read_bytes(), vkey)
        for path in files(log)[:-1]
    ]
    covered = max(checkpoint.size for checkpoint in known)
    whole = b"".join(path.read_bytes() for path in files(log))
    leaves: list[bytes] = []
    previous = bytes(32)
    rest = whole
    problem = ""
    while rest:
        line, newline, after = rest.partition(b"\n")
        problem = _record(line, len(leaves), previous) if newline else "no newline"
        if problem:
            break
        previous = leaf(line)
        leaves.append(previous)
        rest = after
    if rest:
        torn = len(leaves) >= covered and not any(_parses(line) for line in rest.split(b"\n")[:-1])
        if not torn:
            raise Bad(problem, len(leaves))
    for checkpoint in known:
        if checkpoint.size > len(leaves):
            raise Bad("records are missing", len(leaves))
        if mth(leaves[: checkpoint.size]) != checkpoint.root:
            raise Bad("the root")
    return len(leaves), covered, rest


def _record(line: bytes, seq: int, previous: bytes) -> str:
    if not _parses(line):
        return "no canonical record"
    value = json.loads(line)
    if value["seq"] != seq:
        return "the number"
    if value["prev"] != base64.b64encode(previous).decode():
        return "the hash of the line before"
    return ""


def _parses(line: bytes) -> bool:
    try:
        value = json.loads(line.decode())
        return (
            isinstance(value, dict)
            and set(value) == {"event", "prev", "seq"}
            and isinstance(value["event"], dict)
            and isinstance(value["seq"], int)
            and len(base64.b64decode(value["prev"], validate=True)) == 32
            and jcs(value) == line.decode()
        )
    except (ValueError, Bad, TypeError, RecursionError):
        return False


def check_inclusion(proof: bytes, line: bytes, vkey: str) -> int:
    """c2sp.org/tlog-proof: return the record's number."""
    head, _, checkpoint_text = proof.partition(b"\n\n")
    magic, index_line, *hashes = head.decode().splitlines()
    if magic != "c2sp.org/tlog-proof@v1" or not index_line.startswith("index "):
        raise Bad("the proof's head")
    index = int(index_line.removeprefix("index "))
    checkpoint = note(checkpoint_text, vkey)
    if index >= checkpoint.size:
        raise Bad("the record is behind the checkpoint", index)
    path = [base64.b64decode(text, validate=True) for text in hashes]
    if _root(path, index, checkpoint.size, leaf(line)) != checkpoint.root:
        raise Bad("the record is not included", index)
    return index


def _root(path: list[bytes], index: int, size: int, hashed: bytes) -> bytes:
    """The root by RFC 6962 §2.1.1 read backwards: from the top down."""
    if size == 1:
        if path:
            raise Bad("the proof's length")
        return hashed
    if not path:
        raise Bad("the proof's length")
    k = 1
    while k * 2 < size:
        k *= 2
    if index < k:
        return node(_root(path[:-1], index, k, hashed), path[-1])
    return node(path[-1], _root(path[:-1], index - k, size - k, hashed))


def check_consistency(proof: bytes, old: bytes, vkey: str) -> None:
    """What c2sp.org/tlog-witness takes: RFC 6962 §2.1.2."""
    head, _, checkpoint_text = proof.partition(b"\n\n")
    first, *hashes = head.decode().splitlines()
    older, newer = note(old, vkey), note(checkpoint_text, vkey)
    if first != f"old {older.size}":
        raise Bad("the proof's head")
    path = [base64.b64decode(text, validate=True) for text in hashes]
    if older.size in (0, newer.size):
        if path or (older.size and older.root != newer.root):
            raise Bad("the proof's length")
        return
    if _roots(path, older.size, newer.size, older.root) != (older.root, newer.root):
        raise Bad("not consistent")


def _roots(path: list[bytes], m: int, n: int, known: bytes | None) -> tuple[bytes, bytes]:
    """Old and new root of SUBPROOF(m, D[n], b) of RFC 6962 §2.1.2; `known` stands for b."""
    if m == n:
        if known is not None:
            if path:
                raise Bad("the proof's length")
            return known, known
        if len(path) != 1:
            raise Bad("the proof's length")
        return path[0], path[0]
    if not path:
        raise Bad("the proof's length")
    k = 1
    while k * 2 < n:
        k *= 2
    if m <= k:
        old, new = _roots(path[:-1], m, k, known)
        return old, node(new, path[-1])
    old, new = _roots(path[:-1], m - k, n - k, None)
    return node(path[-1], old), node(path[-1], new)


def tile(folder: Path, level: int, index: int, width: int = 256) -> list[bytes]:
    """c2sp.org/tlog-tiles: the hashes of a tile."""
    parts = [f"{index % 1000:03}"]
    while index >= 1000:
        index //= 1000
        parts.insert(0, f"x{index % 1000:03}")
    path = folder / "tile" / str(level) / "/".join(parts)
    if width < 256:
        path = path.with_name(path.name + ".p") / str(width)
    data = path.read_bytes()
    if len(data) != 32 * width:
        raise Bad("the tile's width")
    return [data[at : at + 32] for at in range(0, len(data), 32)]
