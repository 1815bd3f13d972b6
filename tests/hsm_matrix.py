"""Faults of tokens: a normal use of one, with a CKR value given at each of its calls.

Run as a program, in which no module is loaded yet, with the shim's environment: it forks a child
for each point and prints what came of it, one JSON object a line. The tests look at that.

Usage: python hsm_matrix.py MODULE [POINT...]      POINT: code:call:forever, such as 179:12:0
Without points it prints the names of the calls of a normal use.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from hsm_help import LABEL, PIN, Shim
from strongroom import HSMKeyManager, MemoryLockedKey
from strongroom.errors import DecryptionError, StrongroomError

NORMAL = [b"first", b"second" * 100, b"", b"fourth"]


def use(path: str, data: str, master: str, key: MemoryLockedKey) -> None:
    """What a normal use does: open, find, encrypt, decrypt, wrap, unwrap, close."""
    with HSMKeyManager(path, token_label=LABEL, pin=PIN) as hsm:
        data_id, master_id = hsm.find(data), hsm.find(master)
        for plaintext in NORMAL:
            message = hsm.encrypt(data_id, plaintext, b"ad")
            if hsm.decrypt(data_id, message, b"ad") != plaintext:
                raise AssertionError("another plaintext")
        wrapped = hsm.wrap_key(master_id, key)
        with hsm.unwrap_key(master_id, wrapped, key.key_id) as back:
            if back.key_id != key.key_id:
                raise AssertionError("another key")


def waited() -> float:
    """Seconds that this process was ready to run and others had the processor."""
    with open("/proc/self/schedstat") as file:
        return int(file.read().split()[1]) / 1e9


def in_child(work) -> dict[str, Any]:
    """What `work` returns in a forked child, or how the child died."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            result = work()
        except BaseException as error:
            result = {"outcome": "crash", "text": f"{type(error).__name__}: {error}"}
        with os.fdopen(write, "w") as pipe:
            json.dump(result, pipe)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if status:
        return {"outcome": "died", "text": f"status {status}"}
    return json.loads(text)


def one(path: str, names: tuple[str, str], code: int, at: int, forever: bool) -> dict[str, Any]:
    shim = Shim()

    def attempt() -> dict[str, Any]:
        key = MemoryLockedKey.generate()
        shim.reset()
        shim.fault(code, at, forever=forever)
        began = time.perf_counter() - waited()
        try:
            use(path, *names, key)
            outcome, text = "right", ""
        except StrongroomError as error:
            # What needed a key never tells of a token's failure that the ciphertext is damaged.
            outcome, text = type(error).__name__, str(error)
            if isinstance(error, DecryptionError):
                outcome = "DecryptionError"
        seconds = time.perf_counter() - waited() - began
        logins = shim.calls.count("C_Login")
        shim.reset()
        # The token is back: the same process goes on.
        try:
            use(path, *names, key)
            again = "right"
        except StrongroomError as error:
            again = f"{type(error).__name__}: {error}"
        return {
            "outcome": outcome, "text": text, "seconds": seconds, "logins": logins, "again": again,
        }  # fmt: skip

    return in_child(attempt)


def main() -> None:
    path, *points = sys.argv[1:]

    def prepare() -> dict[str, Any]:
        made = []
        with HSMKeyManager(path, token_label=LABEL, pin=PIN) as hsm:
            for prefix in ("matrix-", "master:matrix-"):
                made.append(prefix + os.urandom(4).hex())
                hsm.generate_key(made[-1])
        return {"names": made}

    data, master = in_child(prepare)["names"]
    names = (data, master)

    def normal() -> dict[str, Any]:
        shim = Shim()
        shim.reset()
        use(path, *names, MemoryLockedKey.generate())
        return {"calls": shim.calls}

    calls = in_child(normal)["calls"]
    if not points:
        print(json.dumps(calls))
    for point in points:
        code, at, forever = map(int, point.split(":"))
        result = one(path, names, code, at, bool(forever))
        for _ in range(2):
            # Slow three times in a row is not the machine's doing.
            if result.get("seconds", 0) < 1:
                break
            result = one(path, names, code, at, bool(forever))
        print(json.dumps({"code": code, "at": at, "forever": forever, "call": calls[at - 1],
                          **result}), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
