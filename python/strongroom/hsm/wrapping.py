"""Wrapping keys of ours in a token: kind 04 of FORMAT.md, mechanisms 01 to 03."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from strongroom.errors import HSMError
from strongroom.hsm import codes
from strongroom.hsm.codes import Fault
from strongroom.hsm.direct import NONCE_LEN, TAG_LEN
from strongroom.masters import wrapped

if TYPE_CHECKING:
    from strongroom.hsm.direct import Handle
    from strongroom.hsm.keys import TokenKey
    from strongroom.hsm.lane import Lane

__all__ = ["GCM", "KW", "KWP", "unwrap", "wrap"]

# Mechanism bytes of kind 04.
GCM = 1
KWP = 2
KW = 3
GCM_HEAD = wrapped.MAGIC + bytes((GCM,))
_KEY_LEN = 32
_KW_LEN = _KEY_LEN + 8
GCM_BLOB_LEN = NONCE_LEN + _KEY_LEN + TAG_LEN


def wrap(
    lane: Lane, master: tuple[Any, TokenKey, Handle], value: bytearray, ids: bytes
) -> tuple[int, bytes]:
    """Wrap 32 bytes, by the best way that the key and the token have.

    Args:
        lane: The session.
        master: The wrapping key: its object, what it is, and its handle.
        value: The key to wrap.
        ids: The wrapping key's id and the wrapped key's; bound by GCM alone.

    Returns:
        The mechanism's byte, and the blob.

    Raises:
        HSMError: The token has no way to.
        Fault: It failed.
    """
    key, info, handle = master
    if info.mechanism == "gcm":
        return GCM, lane.seal_key(handle, value, GCM_HEAD + ids)
    from strongroom.hsm import binding

    for byte, names in ((KWP, binding.KWP_NAMES), (KW, binding.KW_NAMES)):
        for name in names:
            try:
                blob = binding.wrap_value(lane.session, key, bytes(value), name)
            except Fault as fault:
                if fault.code not in codes.NO_SUCH_WAY:
                    raise
                continue
            # Another length is another algorithm under the same name.
            if len(blob) == _KW_LEN:
                return byte, blob
    raise HSMError("the token wraps keys neither by AES-GCM nor by AES-KWP nor by AES-KW")


def unwrap(key: Any, mechanism: int, blob: bytes) -> bytearray | None:  # noqa: ANN401
    """The inverse of `wrap` by KWP or KW; None where it does not authenticate.

    GCM's is `Lane.open`. That the key is the one of that id is for the caller to look at.

    Raises:
        HSMError: The token has no way to.
        Fault: It failed.
    """
    from strongroom.hsm import binding

    refused = False
    for name in binding.KWP_NAMES if mechanism == KWP else binding.KW_NAMES:
        try:
            return bytearray(binding.unwrap_value(key, blob, name))
        except Fault as fault:
            if fault.code in codes.NO_SUCH_WAY:
                continue
            if fault.code not in codes.NOT_AUTHENTIC:
                raise
            refused = True
    if refused:
        return None
    raise HSMError("the token does not unwrap in the way in which the key was wrapped")
