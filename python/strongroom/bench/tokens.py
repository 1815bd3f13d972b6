"""Jobs on a token: SoftHSM in a folder of its own, through us and through python-pkcs11 alone."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from typing import Any, Final

import strongroom

from .measure import Contender, Pace, interleave

SOFTHSM: Final = "/usr/lib/softhsm/libsofthsm2.so"
OURS: Final = "strongroom HSMKeyManager"
BARE: Final = "python-pkcs11 alone"
LOCKED: Final = "python-pkcs11 alone, one lock"
SIZE: Final = 1024
THREADS: Final = 8
# Calls of each thread in an operation, so that starting threads is nothing.
CALLS: Final = 250
_LABEL: Final = "bench"
_PIN: Final = "12345678"
_DATA: Final = b"customer/42"


def jobs(scale: Any, folder: str) -> list[Any]:  # noqa: ANN401 - runner's, which imports this
    """Return the job."""
    from .runner import DEFAULT, Job

    pace = {
        "slice_seconds": scale.slice_seconds,
        "budget_seconds": scale.budget_seconds,
        "rounds_min": scale.rounds_min,
        "rounds_max": scale.rounds_max,
    }
    return [Job("token", DEFAULT, "tokens", "token", {"folder": folder, "pace": pace})]


def rows(make: Any, document: Any) -> None:  # noqa: ANN401 - targets.Rows
    """Add the rows."""
    make.speed("encryption of 1 KiB in SoftHSM", "token encrypt 1 KiB", OURS, BARE, 0.9)
    make.speed("wrapping a key in SoftHSM", "token wrap", OURS, BARE, 0.9)
    make.speed("unwrapping a key in SoftHSM", "token unwrap", OURS, BARE, 0.9)
    group = f"token encrypt 1 KiB, {THREADS} threads"
    make.speed(f"encryption of 1 KiB in SoftHSM, {THREADS} threads", group, OURS, LOCKED, 0.9)


def token(folder: str, pace: Pace) -> dict[str, Any]:
    """Time encryption, wrapping and unwrapping, on one thread and on eight."""
    missing = _missing()
    if missing is not None:
        return {"groups": {}, "left_out": {BARE: missing}}
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        _make_token(directory)
        with strongroom.HSMKeyManager(SOFTHSM, token_label=_LABEL, pin=_PIN) as hsm:
            return {"groups": _groups(hsm, pace), "left_out": {}}


def _missing() -> str | None:
    if importlib.util.find_spec("pkcs11") is None:
        return "python-pkcs11 isn't installed"
    if shutil.which("softhsm2-util") is None or not os.path.exists(SOFTHSM):
        return "SoftHSM isn't installed"
    return None


def _make_token(directory: str) -> None:
    os.mkdir(os.path.join(directory, "tokens"))
    config = os.path.join(directory, "softhsm2.conf")
    with open(config, "w") as file:
        file.write(f"directories.tokendir = {directory}/tokens\nlog.level = ERROR\n")
    os.environ["SOFTHSM2_CONF"] = config
    command = ["softhsm2-util", "--init-token", "--free", "--label", _LABEL]
    command += ["--so-pin", _PIN, "--pin", _PIN]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603


def _groups(hsm: strongroom.HSMKeyManager, pace: Pace) -> dict[str, Any]:
    import pkcs11

    data_id, master_id = hsm.generate_key("data"), hsm.generate_key("master:bench")
    library: Any = pkcs11.lib(os.path.realpath(SOFTHSM))
    # The library has logged in, for the whole process.
    session = library.get_token(token_label=_LABEL).open(rw=True)
    found = pkcs11.Attribute.ID
    (data_key,) = session.get_objects({found: bytes.fromhex(data_id)})
    (master,) = session.get_objects({found: bytes.fromhex(master_id)})
    key = strongroom.MemoryLockedKey.generate()
    value = bytes(key.get())
    plaintext = os.urandom(SIZE)
    wrapped = hsm.wrap_key(master_id, key)
    names: dict[str, Any] = {
        "ours": hsm.encrypt, "wrap": hsm.wrap_key, "unwrap": hsm.unwrap_key, "id": data_id,
        "master_id": master_id, "wrapped": wrapped, "key": key, "key_id": key.key_id,
        "plaintext": plaintext, "bound": _DATA, "encrypt": data_key.encrypt,
        "seal": master.encrypt, "open": master.decrypt, "value": value,
        "random": session.generate_random, "Params": pkcs11.GCMParams,
        "GCM": pkcs11.Mechanism.AES_GCM,
    }  # fmt: skip
    bound = wrapped[:21] + bytes.fromhex(key.key_id)
    names |= {"nonce": wrapped[21:33], "sealed": wrapped[33:], "key_bound": bound}
    # The same work as ours: the nonce comes from the token.
    bare = (
        "nonce = random(96)\n"
        "nonce + {call}({data}, mechanism=GCM, mechanism_param=Params(nonce, {bound}, 128))"
    )
    encrypt = bare.format(call="encrypt", data="plaintext", bound="bound")
    seal = bare.format(call="seal", data="value", bound="key_bound")
    opened = "open(sealed, mechanism=GCM, mechanism_param=Params(nonce, key_bound, 128))"
    return {
        "token encrypt 1 KiB": interleave(
            [
                Contender(OURS, "ours(id, plaintext, bound)", names, SIZE),
                Contender(BARE, encrypt, names, SIZE),
            ],
            pace,
        ),
        "token wrap": interleave(
            [Contender(OURS, "wrap(master_id, key)", names), Contender(BARE, seal, names)], pace
        ),
        "token unwrap": interleave(
            [
                Contender(OURS, "unwrap(master_id, wrapped, key_id)", names),
                Contender(BARE, opened, names),
            ],
            pace,
        ),
        f"token encrypt 1 KiB, {THREADS} threads": _threads(names, pace),
    }


def _threads(names: dict[str, Any], pace: Pace) -> dict[str, dict[str, Any]]:
    lock = threading.Lock()
    encrypt, params, gcm = names["encrypt"], names["Params"], names["GCM"]
    random = names["random"]
    ours, key_id, plaintext = names["ours"], names["id"], names["plaintext"]

    def bare() -> None:
        for _ in range(CALLS):
            with lock:
                nonce = random(96)
                encrypt(plaintext, mechanism=gcm, mechanism_param=params(nonce, _DATA, 128))

    def library() -> None:
        for _ in range(CALLS):
            ours(key_id, plaintext, _DATA)

    def together(work: Callable[[], None]) -> None:
        every = [threading.Thread(target=work) for _ in range(THREADS)]
        for thread in every:
            thread.start()
        for thread in every:
            thread.join()

    size = SIZE * THREADS * CALLS
    names = {"together": together, "bare": bare, "library": library}
    return interleave(
        [
            Contender(OURS, "together(library)", names, size),
            Contender(LOCKED, "together(bare)", names, size),
        ],
        pace,
    )
