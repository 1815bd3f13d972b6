"""FORMAT.md can't rot: every example and every sum on the page is computed anew.

The values come from tests/independent; then the independent reader, and the package itself, read
the page's messages with nothing but what stands on the page.
"""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path

import pytest
from independent import constructions as c
from independent import examples, reader
from independent.examples import BLOCK, EXAMPLES, Block, Value, parse, refresh

PAGE = (Path(__file__).parent.parent / "rust" / "core" / "FORMAT.md").read_text()
BLOCKS: dict[str, Block] = {found[1]: parse(found[2]) for found in BLOCK.finditer(PAGE)}
SUMS = [
    line
    for block in re.findall(r"^```arithmetic\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


def hex_of(block: str, name: str) -> bytes:
    value = BLOCKS[block][name]
    assert isinstance(value, bytes)
    return value


def test_the_page_has_every_example_once() -> None:
    assert [found[1] for found in BLOCK.finditer(PAGE)] == list(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str) -> None:
    computed: dict[str, Value] = EXAMPLES[name]()
    assert list(BLOCKS[name]) == list(computed)
    for key, value in computed.items():
        assert BLOCKS[name][key] == value, key


def test_the_blocks_are_written_as_the_generator_writes_them() -> None:
    assert refresh(PAGE) == PAGE


@pytest.mark.parametrize("line", SUMS, ids=lambda line: line.partition(":")[0])
def test_sum(line: str) -> None:
    expression = line.partition(":")[2].strip()
    assert re.fullmatch(r"[0-9 +*/^()<=-]+", expression)
    terms = re.split(r"(<=|<|=)", expression.replace("^", "**"))
    values = [eval(term) for term in terms[::2]]  # only digits and operators get here
    for left, sign, right in zip(values, terms[1::2], values[1:], strict=False):
        if sign == "=":
            assert math.isclose(left, right, rel_tol=1e-12)
        else:
            assert left < right or (sign == "<=" and left == right)
    assert len(values) > 1


def test_there_are_sums() -> None:
    assert len(SUMS) > 20


def test_limits_of_the_reader_are_those_of_the_page() -> None:
    assert reader.MAX_RECORD_PLAINTEXT == 2**30
    assert 5 + reader.MAX_SLOTS * (3 + reader.MAX_SLOT_BODY) == 65_589
    assert c.BOX_OVERHEAD == 72
    assert reader.KEYSET_BODY_LEN == 120
    assert reader.PASSPHRASE_BODY_LEN == 129
    assert reader.MASTER_BODY_MIN == 122


# --- What stands on the page is enough to read it ------------------------------------------------


def test_record_reads() -> None:
    message, key = hex_of("record", "message"), hex_of("record", "key")
    assert reader.open_record(message, [key], hex_of("record", "AD")) == hex_of(
        "record", "plaintext"
    )


def test_envelope_reads() -> None:
    message, key = hex_of("envelope", "message"), hex_of("envelope", "key")
    plaintext = reader.open_envelope(message, keys=[key], associated_data=hex_of("envelope", "AD"))
    assert plaintext == hex_of("envelope", "plaintext")


def test_each_slot_opens_alone() -> None:
    message = hex_of("slots", "message")
    passphrase = BLOCKS["slots"]["passphrase"]
    assert isinstance(passphrase, str)
    master = hex_of("slots", "master")
    masters = {c.key_id(master): reader.software_master(master)}
    dek = hex_of("slots", "DEK")
    assert reader.open_dek(message, keys=[hex_of("slots", "key")]) == (0, dek)
    assert reader.open_dek(message, passphrase=passphrase) == (1, dek)
    assert reader.open_dek(message, passphrase=passphrase.replace("\u00eb", "e\u0308"))[0] == 1
    assert reader.open_dek(message, masters=masters) == (2, dek)
    assert reader.open_envelope(message, masters=masters) == b""


def test_rewrap_opens_after_every_write() -> None:
    message = bytearray(hex_of("slots", "message"))
    old, new = hex_of("slots", "key"), hex_of("rewrap", "new key")
    opened_by = []
    for number in range(1, 5):
        at = BLOCKS["rewrap"][f"write {number}: offset"]
        assert isinstance(at, int)
        written = hex_of("rewrap", f"write {number}: bytes")
        # A write that is torn anywhere leaves the old or the new slot whole.
        for cut in range(len(written) + 1):
            torn = message.copy()
            torn[at : at + cut] = written[:cut]
            assert reader.open_envelope(bytes(torn), keys=[old, new]) == b""
        message[at : at + len(written)] = written
        opened_by.append(
            "".join(
                name
                for name, key in (("o", old), ("n", new))
                if c.key_id(key)
                in reader.named_key_ids(reader.parse_envelope(bytes(message)).slots)
                and reader.open_envelope(bytes(message), keys=[key]) == b""
            )
        )
    assert opened_by == ["o", "on", "n", "n"]
    assert hashlib.sha256(message).digest() == hex_of("rewrap", "SHA-256 of the message then")


def test_token_message_reads() -> None:
    keys = {hex_of("token", "key id (CKA_ID)"): hex_of("token", "key in the token")}
    plaintext = reader.open_token_message(hex_of("token", "message"), keys, hex_of("token", "AD"))
    assert plaintext == hex_of("token", "plaintext")


def test_wrapped_keys_read() -> None:
    key = examples.KEY
    named = c.key_id(key)
    software = reader.software_master(hex_of("wrapped-00", "master"))
    token = reader.token_master(
        hex_of("wrapped-01", "key in the token"),
        hex_of("wrapped-01", "id of the wrapping key (CKA_ID)"),
    )
    full_name = BLOCKS["wrapped-04"]["full name"]
    passphrase = BLOCKS["wrapped-05"]["passphrase"]
    assert isinstance(full_name, str)
    assert isinstance(passphrase, str)
    calls = []

    def call(blob: bytes, context: str) -> bytes:
        calls.append((blob, context.encode()))
        return key

    assert software(hex_of("wrapped-00", "message"), named) == key
    assert token(hex_of("wrapped-01", "message"), named) == key
    assert token(hex_of("wrapped-02-03", "message, mechanism 02"), named) == key
    assert token(hex_of("wrapped-02-03", "message, mechanism 03"), named) == key
    assert reader.service_master(full_name, call)(hex_of("wrapped-04", "message"), named) == key
    assert calls == [(hex_of("wrapped-04", "blob"), hex_of("wrapped-04", "context"))]
    assert reader.passphrase_master(passphrase)(hex_of("wrapped-05", "message"), named) == key
