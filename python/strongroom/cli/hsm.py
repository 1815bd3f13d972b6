"""`strongroom hsm`: tokens, keys, new, rotate, destroy, test."""

# ruff: noqa: ANN401  (click calls with keywords of many types)

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from strongroom.cli import exitcodes, options
from strongroom.cli.exitcodes import CliError
from strongroom.cli.output import Output, printable
from strongroom.cli.passphrase import PassphraseSource
from strongroom.cli.terminal import ask_yes, on_terminal

if TYPE_CHECKING:
    from strongroom.hsm import HSMKeyManager, TokenKey

F = TypeVar("F", bound=Callable[..., Any])

_WAIT_SECONDS = 30.0


@click.group()
def hsm() -> None:
    """List tokens and their keys, make, rotate and destroy keys, test a token (PKCS#11)."""


def _module(command: F) -> F:
    return click.option(
        "--module",
        metavar="PATH",
        envvar="STRONGROOM_PKCS11_LIB",
        help="The token's PKCS#11 library.",
    )(command)


def _token(command: F) -> F:
    """Add what names a token and its PIN; the command gets one `opened`, called to open it."""

    @functools.wraps(command)
    def collected(
        *args: Any,
        module: str | None,
        slot: int | None,
        token: str | None,
        uri: str | None,
        pin_file: str | None,
        pin_command: str | None,
        pin_fd: int | None,
        **kwargs: Any,
    ) -> Any:
        source = PassphraseSource(pin_file, pin_command, pin_fd)
        if sum(value is not None for value in source) > 1:
            raise click.UsageError("--pin-file, --pin-command and --pin-fd exclude each other")
        return command(
            *args, opened=functools.partial(_open, module, slot, token, uri, source), **kwargs
        )

    wrapped: Any = collected
    for option in (
        click.option(
            "--pin-fd",
            metavar="N",
            type=click.IntRange(min=0),
            help="Read the PIN from this descriptor, to its end.",
        ),
        click.option(
            "--pin-command", metavar="COMMAND", help="Take the PIN from what this command prints."
        ),
        click.option(
            "--pin-file", metavar="PATH", type=options.PATH, help="Take the PIN from this file."
        ),
        click.option("--uri", metavar="URI", help="A PKCS#11 URI that names the token."),
        click.option("--slot", metavar="N", type=click.IntRange(min=0), help="The token's slot."),
        click.option("--token", metavar="LABEL", help="The token's label."),
    ):
        wrapped = option(wrapped)
    result: F = _module(wrapped)
    return result


def _open(
    module: str | None,
    slot: int | None,
    token: str | None,
    uri: str | None,
    source: PassphraseSource,
) -> HSMKeyManager:
    from strongroom.hsm import HSMKeyManager, Pkcs11Uri

    def ask() -> str | bytes:
        if not source and not on_terminal():
            raise CliError(
                "a PIN is needed and there is no terminal to ask on; "
                "give --pin-file, --pin-command or --pin-fd",
                exitcodes.USAGE,
            )
        return source.get(f"PIN of the token {printable(token or '')}".rstrip())

    try:
        named = uri is not None and Pkcs11Uri.parse(uri).pin_source is not None
        return HSMKeyManager(
            module, slot, None if named and not source else ask, token_label=token, uri=uri
        )
    except ValueError as error:
        raise CliError(str(error), exitcodes.USAGE) from None


@hsm.command()
@_module
@options.common
@click.pass_obj
def tokens(out: Output, module: str | None) -> int:
    """List the tokens of a module. No PIN is needed."""
    if module is None:
        raise click.UsageError("--module PATH names the PKCS#11 library")
    from strongroom.hsm.module import list_slots

    found = list_slots(module, _WAIT_SECONDS)
    for slot in found:
        out.record(
            "token",
            status="ok",
            slot=slot.slot_id,
            label=slot.label,
            serial=slot.serial,
            manufacturer=slot.manufacturer,
            model=slot.model,
            initialized=slot.initialized,
            pin_locked=slot.pin_locked,
        )
    out.table(
        ("SLOT", "LABEL", "SERIAL", "MODEL", "STATE"),
        [
            (
                str(slot.slot_id),
                printable(slot.label),
                printable(slot.serial),
                printable(slot.model),
                _state(slot.initialized, slot.pin_locked),
            )
            for slot in found
        ],
    )
    return exitcodes.OK


@hsm.command()
@click.option("--label", metavar="LABEL", help="The keys of this label [default: all].")
@_token
@options.common
@click.pass_obj
def keys(out: Output, opened: Callable[[], HSMKeyManager], label: str | None) -> int:
    """List the secret keys in a token."""
    with opened() as manager:
        found = manager.list_keys(label)
    for key in found:
        _record(out, key)
    out.table(
        ("KEY ID", "LABEL", "VERSION", "PURPOSE", "STATE"),
        [
            (
                key.id or "-",
                printable(key.label),
                str(key.version or "-"),
                key.purpose,
                f"refused: {key.problem}" if key.problem else _active(key),
            )
            for key in found
        ],
    )
    return exitcodes.OK


@hsm.command()
@click.argument("label", metavar="LABEL")
@_token
@options.common
@click.pass_obj
def new(out: Output, opened: Callable[[], HSMKeyManager], label: str) -> int:
    """Make the first key of a label; one that begins with "master:" is a master."""
    with opened() as manager:
        return _show(out, manager, manager.generate_key(label))


@hsm.command()
@click.argument("label", metavar="LABEL")
@_token
@options.common
@click.pass_obj
def rotate(out: Output, opened: Callable[[], HSMKeyManager], label: str) -> int:
    """Make the next key of a label; the older ones decrypt only from then on."""
    with opened() as manager:
        return _show(out, manager, manager.rotate(label))


@hsm.command()
@click.argument("key_id", metavar="KEYID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_token
@options.common
@click.pass_obj
def destroy(out: Output, opened: Callable[[], HSMKeyManager], key_id: str, yes: bool) -> int:
    """Destroy a key in the token: what it encrypted or wrapped is lost with it, for ever."""
    with opened() as manager:
        try:
            key = manager.get_key(key_id)
        except ValueError as error:
            raise CliError(str(error), exitcodes.USAGE) from None
        if not yes and not ask_yes(f"Destroy the key {key.id} ({printable(key.label)})?"):
            raise CliError("nothing was changed")
        manager.destroy_key(key_id)
    _record(out, key, destroyed=True)
    out.line(f"{key.id}  {printable(key.label)}  destroyed")
    return exitcodes.OK


@hsm.command()
@_token
@options.common
@click.pass_obj
def test(out: Output, opened: Callable[[], HSMKeyManager]) -> int:
    """Try what a token can do, with two keys that are destroyed again."""
    with opened() as manager:
        checks = manager.self_test()
    for check in checks:
        out.record(
            "check",
            status="failed" if check.result == "failed" else "ok",
            check=check.name,
            result=check.result,
            detail=check.detail,
        )
    out.table(
        ("WHAT", "RESULT", "DETAIL"),
        [(check.name, check.result, printable(check.detail)) for check in checks],
    )
    usable = {check.name: check.result for check in checks}
    works = usable.get("tampering") == "yes" or "yes" in (
        usable.get(name) for name in ("AES_KEY_WRAP_KWP", "AES_KEY_WRAP_PAD", "AES_KEY_WRAP")
    )
    if "failed" in usable.values() or not works:
        out.warn("this token is not to be used as it is")
        return exitcodes.OTHER
    return exitcodes.OK


def _show(out: Output, manager: HSMKeyManager, key_id: str) -> int:
    key = manager.get_key(key_id)
    _record(out, key)
    out.line(f"{key.id}  {printable(key.label)}  version {key.version}  {_active(key)}")
    return exitcodes.OK


def _record(out: Output, key: TokenKey, *, destroyed: bool = False) -> None:
    out.record(
        "token key",
        status="ok",
        key_ids=[key.id] if len(key.id) == 32 else [],
        label=key.label,
        key_version=key.version,
        purpose=key.purpose,
        state="destroyed" if destroyed else _active(key),
        problem=key.problem,
    )


def _active(key: TokenKey) -> str:
    return "active" if key.active else "deactivated"


def _state(initialized: bool, pin_locked: bool) -> str:
    if not initialized:
        return "not initialised"
    return "PIN locked" if pin_locked else "ready"
