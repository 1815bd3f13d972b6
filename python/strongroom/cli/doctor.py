"""`strongroom doctor`: what this installation runs on, and whether its store opens."""

from __future__ import annotations

import os
import sys
from typing import Any, Final

import click

import strongroom
from strongroom.cli import exitcodes, options
from strongroom.cli.exitcodes import code_of, sentence_of
from strongroom.cli.output import Output, plural, printable
from strongroom.cli.passphrase import PassphraseSource
from strongroom.cli.store import PASSPHRASE, kept_master, open_store, store_path, store_url

# The attributes of memory_status() that are shown, in this order.
_MEMORY: Final = (
    "backend",
    "policy",
    "locked_bytes",
    "unlocked_bytes",
    "secrets",
    "limit",
    "wipes_on_fork",
    "failures",
)


@click.command()
@options.passphrase_sources
@options.store
@options.unaudited
@click.pass_obj
def doctor(
    out: Output,
    /,
    store: str | None,
    master: str | None,
    passphrase_source: PassphraseSource,
) -> int:
    """Show engine, CPU features, threads, protection of memory, versions and the key store.

    The exit code is that of the store's failure if it does not open. A default store that was
    never made is no failure.
    """
    from strongroom import _native
    from strongroom.parallel import num_threads
    from strongroom.secure import MemoryLockedKey, memory_status

    engine = _native.engine_status()
    features = [name for name, has in engine["cpu_features"].items() if has]
    # Before the first secret there is no page to tell of.
    with MemoryLockedKey.generate():
        status = memory_status()
    memory = {name: getattr(status, name) for name in _MEMORY}
    checked = _check_store(store, master, passphrase_source)
    versions = _versions()
    code: int = checked.get("code", exitcodes.OK)
    out.record(
        "doctor",
        status="failed" if code else "ok",
        version=strongroom.__version__,
        engine=engine["engine"],
        engine_forced=engine["forced"],
        cpu_features=features,
        threads=num_threads(),
        memory=memory,
        store=checked,
        versions=versions,
        python=sys.version.split()[0],
        platform=_platform(),
    )
    forced = ", forced by STRONGROOM_ENGINE" if engine["forced"] else ""
    rows = [
        ("strongroom", strongroom.__version__),
        ("python", f"{sys.version.split()[0]}, {_platform()}"),
        ("engine", engine["engine"] + forced),
        ("cpu features", " ".join(features) or "none that matter"),
        ("threads", str(num_threads())),
        *((f"memory {name.replace('_', ' ')}", _shown(value)) for name, value in memory.items()),
        ("store", _store_words(checked)),
        *versions.items(),
    ]
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        out.line(f"{name.ljust(width)}  {printable(text)}")
    return code


def _check_store(named: str | None, master: str | None, source: PassphraseSource) -> dict[str, Any]:
    url = store_url(named)
    found: dict[str, Any] = {
        "url": url,
        "status": "ok",
        "message": None,
        "keysets": None,
        "not_backed_up": None,
    }
    path = store_path(url)
    if named is None and path is not None and not os.path.lexists(path):
        return {**found, "status": "absent", "message": "`strongroom init` makes one"}
    try:
        # A check-up asks no questions.
        if not source and (master or kept_master(url)) == PASSPHRASE:
            return {**found, "status": "not opened", "message": "it needs a passphrase"}
        with open_store(named, master, source) as key_store:
            figures = key_store.stats()
            found["keysets"] = figures["keysets"]
            found["not_backed_up"] = figures["not_backed_up"]
    except Exception as error:
        found |= {"status": "failed", "message": sentence_of(error), "code": code_of(error)}
    return found


def _store_words(found: dict[str, Any]) -> str:
    words = f"{found['url']}: {found['status']}"
    if found["keysets"] is not None:
        words += f", {plural(found['keysets'], 'keyset')}"
    if found["not_backed_up"]:
        words += f", {plural(found['not_backed_up'], 'active key')} in no backup"
    return words if found["message"] is None else f"{words}: {found['message']}"


def _versions() -> dict[str, str]:
    import sqlite3
    from importlib.metadata import PackageNotFoundError, version

    found = {"sqlite": sqlite3.sqlite_version}
    for package in ("cryptography", "click", "rich"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _platform() -> str:
    system = os.uname()
    return f"{system.sysname} {system.release} {system.machine}"


def _shown(value: object) -> str:
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "; ".join(value) if isinstance(value, list) else str(value)
