"""PKCS#11 URIs: RFC 7512, as far as a token and a secret key need them."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

__all__ = ["Pkcs11Uri"]

# RFC 7512, section 2.3: what may stand in a value without being escaped.
_PATH_SAFE = ":[]@!$'()*+,=&"
_QUERY_SAFE = ":[]@!$'()*+,=/?|"
_VALUE = re.compile(r"(?:[A-Za-z0-9._~:\[\]@!$'()*+,=&/?|-]|%[0-9A-Fa-f]{2})*")
_TEXTS = {
    "token": "token",
    "manufacturer": "manufacturer",
    "model": "model",
    "serial": "serial",
    "object": "object",
}
# Of the path: about the library and the slot, which say the same of each token, and `type`.
_OTHER = {"library-manufacturer", "library-version", "library-description", "slot-manufacturer"}
_OTHER |= {"slot-description"}


class Pkcs11Uri(NamedTuple):
    """The parts of a PKCS#11 URI; None where it doesn't name one.

    Attributes:
        token: Label of the token.
        manufacturer: The token's manufacturer.
        model: The token's model.
        serial: The token's serial number.
        slot_id: Number of the slot.
        object: Label of the key.
        id: CKA_ID of the key.
        module_path: Path of the module.
        module_name: Name of the module, without "lib" and ".so".
        pin_source: Where the PIN is: `file:PATH`, a path, or `|COMMAND`.
    """

    token: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    serial: str | None = None
    slot_id: int | None = None
    object: str | None = None
    id: bytes | None = None
    module_path: str | None = None
    module_name: str | None = None
    pin_source: str | None = None

    @classmethod
    def parse(cls, uri: str) -> Pkcs11Uri:
        """Take a URI apart.

        Raises:
            TypeError: It is no str.
            ValueError: It is no PKCS#11 URI, names something twice, or holds a PIN.
        """
        if not isinstance(uri, str):
            raise TypeError(f"a PKCS#11 URI must be str, not {type(uri).__name__}")
        scheme, colon, rest = uri.partition(":")
        if scheme.lower() != "pkcs11" or not colon:
            raise ValueError("a PKCS#11 URI begins with pkcs11:")
        path, _, query = rest.partition("?")
        found: dict[str, str | int | bytes] = {}
        for name, value in _attributes(path, ";"):
            if name in _TEXTS:
                _add(found, _TEXTS[name], _text(name, value))
            elif name == "id":
                _add(found, "id", unquote_to_bytes(value))
            elif name == "slot-id":
                if not re.fullmatch(r"[0-9]{1,20}", value):
                    raise ValueError("slot-id of a PKCS#11 URI is a number")
                _add(found, "slot_id", int(value))
            elif name == "type":
                if value != "secret-key":
                    raise ValueError("type of a PKCS#11 URI must be secret-key here")
            elif name not in _OTHER:
                # RFC 7512: what isn't understood in the path narrows the choice, so no match.
                raise ValueError(f"a PKCS#11 URI has no attribute {name[:20]!r} that is known here")
        for name, value in _attributes(query, "&"):
            if name == "pin-value":
                # The store keeps the URI, and so do shells and lists of processes.
                raise ValueError("a PIN does not belong into a URI: use pin-source=file:PATH")
            if name in ("module-path", "module-name", "pin-source"):
                _add(found, name.replace("-", "_"), _text(name, value))
        return cls(**found)  # type: ignore[arg-type]

    def __str__(self) -> str:
        """Return the URI, in one form for each meaning."""
        path = [
            f"{name}={quote(value, safe=_PATH_SAFE)}"
            for name, value in (
                ("token", self.token),
                ("manufacturer", self.manufacturer),
                ("model", self.model),
                ("serial", self.serial),
            )
            if value is not None
        ]
        if self.slot_id is not None:
            path.append(f"slot-id={self.slot_id}")
        if self.object is not None:
            path.append(f"object={quote(self.object, safe=_PATH_SAFE)}")
        if self.id is not None:
            path.append("id=" + "".join(f"%{byte:02X}" for byte in self.id))
        query = [
            f"{name}={quote(value, safe=_QUERY_SAFE)}"
            for name, value in (
                ("module-path", self.module_path),
                ("module-name", self.module_name),
                ("pin-source", self.pin_source),
            )
            if value is not None
        ]
        return "pkcs11:" + ";".join(path) + ("?" + "&".join(query) if query else "")


def _attributes(text: str, separator: str) -> list[tuple[str, str]]:
    pairs = []
    for part in filter(None, text.split(separator)):
        name, equals, value = part.partition("=")
        if not equals or not _VALUE.fullmatch(value):
            # The part is not shown: it may be a PIN that was mistyped.
            raise ValueError("a PKCS#11 URI is made of name=value, with % before two hex digits")
        pairs.append((name, value))
    return pairs


def _text(name: str, value: str) -> str:
    try:
        text = unquote_to_bytes(value).decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{name} of a PKCS#11 URI is not UTF-8") from None
    if "\0" in text:
        raise ValueError(f"{name} of a PKCS#11 URI has a zero byte")
    return text


def _add(found: dict[str, str | int | bytes], name: str, value: str | int | bytes) -> None:
    if name in found:
        raise ValueError(f"a PKCS#11 URI names {name.replace('_', '-')} once")
    found[name] = value
