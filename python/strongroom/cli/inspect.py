"""`strongroom inspect`: what a message shows to everybody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from strongroom.cli import exitcodes, options
from strongroom.cli.output import Output, human_bytes, printable
from strongroom.cli.streams import open_source
from strongroom.cli.targets import PIPE, check_sources

if TYPE_CHECKING:
    from strongroom._inspect import MessageInfo, SlotInfo

# A longer message on a pipe is not held in memory just to tell its length.
_MAX_PIPED: Final = 1 << 26


@click.command()
@click.argument("sources", metavar="FILE...", nargs=-1, required=True, type=options.PATH)
@click.option("-r", "--recursive", is_flag=True, help="Show the messages in whole directories.")
@options.unaudited
@click.pass_obj
def inspect(out: Output, /, sources: tuple[str, ...], recursive: bool) -> int:
    """Show what each FILE says without a key: kind, version, lengths, key ids and slots.

    Nothing of it is authenticated: whoever can write the file can write this. With -r what is no
    message is left out.
    """
    check_sources(sources, recursive=recursive)
    failed = False
    if recursive:
        from strongroom.cli.found import messages_in

        for source in sources:
            for path, info in messages_in(source):
                if info is None:
                    failed = True
                    out.failure(OSError(5, "can't be read", path), type_="item", path=path)
                else:
                    _print(out, path, info)
        return exitcodes.SOME_FAILED if failed else exitcodes.OK
    for source in sources:
        try:
            info = _inspect(source)
        except Exception as error:
            if len(sources) == 1:
                return out.failure(error, path=source)
            failed = True
            out.failure(error, type_="item", path=source)
        else:
            _print(out, source, info)
    return exitcodes.SOME_FAILED if failed else exitcodes.OK


def _inspect(source: str) -> MessageInfo:
    from strongroom import _inspect as messages

    if source != PIPE:
        return messages.inspect(source)
    message = bytearray()
    with open_source(source) as stream:
        while block := stream.read(1 << 20):
            message += block
            if len(message) > _MAX_PIPED:
                raise exitcodes.CliError(
                    f"more than {human_bytes(_MAX_PIPED)} on stdin; inspect a file instead"
                )
    return messages.inspect(message)


def _print(out: Output, source: str, info: MessageInfo) -> None:
    out.record(
        "item",
        path=source,
        status="ok",
        key_ids=list(info.key_ids),
        kind=info.kind,
        version=info.version,
        length=info.length,
        plaintext_length=info.plaintext_length,
        salt=None if info.salt is None else info.salt.hex(),
        mechanism=info.mechanism,
        slots=[_slot_fields(slot) for slot in info.slots],
    )
    plaintext = info.plaintext_length
    holds = "" if plaintext is None else f", {human_bytes(plaintext)} of plaintext"
    out.line(
        f"{printable(source)}: {info.kind}, version {info.version}, "
        f"{human_bytes(info.length)}{holds}"
    )
    if info.slots:
        for number, slot in enumerate(info.slots, 1):
            out.line(f"  slot {number}: {_slot_words(slot)}")
    else:
        for key_id in info.key_ids:
            out.line(f"  key {key_id}")


def _slot_fields(slot: SlotInfo) -> dict[str, object]:
    fields = ("kind", "offset", "length", "key_id", "memory_kib", "passes", "lanes")
    return {name: getattr(slot, name) for name in fields if getattr(slot, name) is not None}


def _slot_words(slot: SlotInfo) -> str:
    if slot.key_id is not None:
        return f"{slot.kind} key {slot.key_id}"
    if slot.memory_kib is not None:
        return (
            f"{slot.kind}, Argon2id with {slot.memory_kib} KiB, "
            f"{slot.passes} passes, {slot.lanes} lanes"
        )
    return slot.kind
