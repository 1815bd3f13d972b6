"""Keys in a token: what makes one fit for use, their versions, and which is a label's primary."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from strongroom.errors import HSMError, KeyNotFoundError, KeyStateError

if TYPE_CHECKING:
    from collections.abc import Callable

    from strongroom.hsm.lane import Lane

__all__ = [
    "MASTER_PREFIX",
    "TokenKey",
    "check_label",
    "make_key",
    "new_id",
    "primary_of",
    "versions",
]

MASTER_PREFIX = "master:"
"""A label that begins so names a master; any other one names keys for data."""

_ID_LEN = 16
_VERSION_LEN = 4
_MAX_VERSION = 2**32 - 1
# A token may cut a label off; SoftHSM and kryoptic take any length.
_MAX_LABEL = 255


class TokenKey(NamedTuple):
    """What a token says of a key in it.

    Attributes:
        id: Its id, CKA_ID as 32 hex digits.
        label: Its label.
        version: 1 for the first key of a label.
        purpose: "data" or "master".
        mechanism: "gcm", or "wrap" for a master of a token without AES-GCM.
        active: Whether it may encrypt (wrap), as a label's primary does. Any key decrypts.
        problem: Why it must not be used, or None.
    """

    id: str
    label: str
    version: int
    purpose: str
    mechanism: str
    active: bool
    problem: str | None


def check_label(label: object) -> str:
    """Return a label.

    Raises:
        TypeError: It is no str.
        ValueError: It is empty, too long, or has a zero byte.
    """
    if not isinstance(label, str):
        raise TypeError(f"a label is str, not {type(label).__name__}")
    if not label or "\0" in label or len(label.encode("utf-8", "replace")) > _MAX_LABEL:
        raise ValueError(f"a label has 1 to {_MAX_LABEL} bytes, and no zero among them")
    return label


def new_id(version: int) -> bytes:
    """Return a CKA_ID: version [4] | 12 random bytes."""
    return version.to_bytes(_VERSION_LEN) + os.urandom(_ID_LEN - _VERSION_LEN)


def read_key(key: Any) -> TokenKey:  # noqa: ANN401 - python-pkcs11's
    """Read what a key is, and find what is wrong with it.

    Raises:
        Fault: The module failed.
    """
    from strongroom.hsm.binding import read_attributes

    (key_id, label, aes, length, encrypt, decrypt, wrap, unwrap,
     sensitive, extractable, *_) = read_attributes(key)  # fmt: skip
    key_id, label = bytes(key_id or b""), label or ""
    wrapping = bool(unwrap) and not decrypt
    problem = None
    if len(key_id) != _ID_LEN or not int.from_bytes(key_id[:_VERSION_LEN]):
        problem = "its CKA_ID is not a version and 12 random bytes: it was not made by Strongroom"
    elif not aes or (length is not None and length != 32):
        problem = "it is not an AES-256 key"
    elif extractable is not False or sensitive is not True:
        problem = "it can be taken out of the token"
    elif wrap and decrypt:
        problem = "it may wrap and decrypt: whoever uses it could take other keys out of the token"
    elif not decrypt and not unwrap:
        problem = "it may not decrypt"
    elif wrapping and not label.startswith(MASTER_PREFIX):
        problem = "it is for wrapping, and its label is not one of a master"
    return TokenKey(
        id=key_id.hex(),
        label=label,
        version=int.from_bytes(key_id[:_VERSION_LEN]) if len(key_id) == _ID_LEN else 0,
        purpose="master" if label.startswith(MASTER_PREFIX) else "data",
        mechanism="wrap" if wrapping else "gcm",
        active=bool(wrap if wrapping else encrypt),
        problem=problem,
    )


def check_use(key: TokenKey, purpose: str, *, writing: bool) -> None:
    """Look whether a key may be used so.

    Raises:
        HSMError: Its attributes make it unfit.
        KeyStateError: It is of the other purpose, or may not encrypt any more.
    """
    if key.problem is None and key.purpose == purpose and (key.active or not writing):
        return
    if key.problem is not None:
        raise HSMError(f"the key {key.id or key.label!r} of the token is refused: {key.problem}")
    if key.purpose != purpose:
        what = "for data" if key.purpose == "data" else "a master"
        raise KeyStateError(
            f"the token's key {key.id} ({key.label!r}) is {what}: a label that begins with "
            f"{MASTER_PREFIX!r} names a master, any other one keys for data",
            key_id=key.id,
        )
    raise KeyStateError(
        f"the token's key {key.id} may not encrypt any more: a later version of "
        f"{key.label!r} took its place",
        key_id=key.id,
        state="deactivated",
    )


def versions(lane: Lane, label: str) -> list[tuple[Any, TokenKey]]:
    """List the keys of a label, the newest first, as the token has them now.

    Raises:
        HSMError: One of them must not be used, or two that may encrypt are of one version.
        Fault: The module failed.
    """
    found = [(key, read_key(key)) for key in lane.find(label=label)]
    for _, info in found:
        if info.problem is not None:
            raise HSMError(f"a key with the label {label!r} is refused: {info.problem}")
    found.sort(key=lambda pair: (pair[1].version, pair[1].active, pair[1].id), reverse=True)
    # Two of one version are an error, but for one pair, which crashes of our own make: of two
    # processes that rotate at once one sees the other's key and takes its own back; killed before
    # that, it leaves a key of the same version that was never let to encrypt. That one is no
    # primary whatever comes, so it must not keep the label from its use.
    for (_, one), (_, other) in itertools.pairwise(found):
        if one.version == other.version and one.active and other.active:
            same = ", ".join(i.id for _, i in found if i.version == one.version and i.active)
            raise HSMError(
                f"the label {label!r} has more than one key of version {one.version}: {same}; "
                "destroy the ones that wrote nothing (strongroom hsm destroy ID)"
            )
    return found


def primary_of(found: list[tuple[Any, TokenKey]], label: str) -> tuple[Any, TokenKey]:
    """Return the highest version that may encrypt.

    Raises:
        KeyNotFoundError: There is no key of that label.
        KeyStateError: None of them may encrypt.
    """
    if not found:
        raise KeyNotFoundError(f"the token has no key with the label {label!r}")
    for pair in found:
        if pair[1].active:
            return pair
    raise KeyStateError(
        f"no key with the label {label!r} may encrypt: rotate it", state="deactivated"
    )


class Making:
    """The making of one key, whose steps may be done again after a session was lost.

    Attributes:
        key_id: The key's id.
        label: Its label.
        wrapping: Whether it only wraps.
        enabled: Whether it was tried to let it encrypt: it may be in use from then on.
    """

    def __init__(self, key_id: bytes, label: str) -> None:
        """Nothing is made yet."""
        self.key_id = key_id
        self.label = label
        self.wrapping = False
        self.enabled = False

    def make(self, lane: Lane, before: Callable[[], None]) -> str:
        """Make the key and let it encrypt.

        Args:
            lane: The session.
            before: Called when it is made, before it may encrypt.

        Returns:
            Its id.

        Raises:
            HSMError: The token made another key, or another process made one of this version at
                the same time; ours is destroyed.
            Fault: The module failed.
        """
        from strongroom.hsm import binding

        key = make_key(lane, self.key_id, self.label, wrapping=self.wrapping)
        # Whoever makes one at the same time sees this one, or is seen: it was there before we look.
        self._look_for_another(lane, enabled=False)
        before()
        self.enabled = True
        binding.allow(key, wrapping=self.wrapping, allowed=True)
        if not lane.look_up(self.key_id.hex())[1].active:
            raise HSMError(
                f"the token does not let the key {self.key_id.hex()} be used for encryption"
            )
        try:
            self._look_for_another(lane, enabled=True)
        except HSMError:
            # Nobody has used it: `find` gives neither of the two.
            binding.destroy(key)
            raise
        return self.key_id.hex()

    def _look_for_another(self, lane: Lane, *, enabled: bool) -> None:
        for found in lane.find(label=self.label):
            info = read_key(found)
            if (
                info.id[: 2 * _VERSION_LEN] == self.key_id[:_VERSION_LEN].hex()
                and info.id != self.key_id.hex()
                and (info.active or not enabled)
            ):
                raise HSMError(
                    f"another key of version {info.version} of {self.label!r} is being made at "
                    f"the same time, or was left over: {info.id}",
                    retryable=True,
                )

    def undo(self, lane: Lane) -> None:
        """Destroy the key, if it is there and was never let to encrypt."""
        from strongroom.hsm import binding

        if not self.enabled:
            for key in lane.find(key_id=self.key_id):
                binding.destroy(key)


def make_key(lane: Lane, key_id: bytes, label: str, *, wrapping: bool) -> Any:  # noqa: ANN401
    """Make a key that may not encrypt yet, or find it where the answer to that was lost.

    Raises:
        HSMError: The token made another key than it was asked for; it is destroyed.
        Fault: The module failed.
    """
    from strongroom.hsm import binding

    made = lane.find(key_id=key_id)
    key = (
        made[0]
        if made
        else binding.generate_aes_256(lane.session, key_id, label, wrapping=wrapping)
    )
    attributes = binding.read_attributes(key)
    sensitive, extractable, always, never, local = attributes[-5:]
    info = read_key(key)
    wrong = [
        name
        for name, value, wanted in (
            ("CKA_SENSITIVE", sensitive, True),
            ("CKA_EXTRACTABLE", extractable, False),
            ("CKA_ALWAYS_SENSITIVE", always, True),
            ("CKA_NEVER_EXTRACTABLE", never, True),
            ("CKA_LOCAL", local, True),
        )
        if value is not wanted
    ]
    if not wrong and info.problem is None and (info.id, info.label) == (key_id.hex(), label):
        return key
    binding.destroy(key)
    told = f"{', '.join(wrong)} read otherwise" if wrong else info.problem or "it is another one"
    raise HSMError(f"the token made another key than it was asked for, now destroyed: {told}")
