"""The calls that carry secrets, or that each message makes, straight into the module.

python-pkcs11 takes a PIN as `str` and gives back an unwrapped key as `bytes`, neither of which can
be wiped; it loses the session whose login was refused, and leaves one open that it could not log
out; and for each message it asks for the length of the output first and makes some ten objects. So
these few calls go to the functions that python-pkcs11 calls, with memory of ours. All else is its.

Types and the order of the functions are those of PKCS#11 2.40, pkcs11t.h and pkcs11f.h.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from typing import TypeVar

from strongroom.errors import HSMError
from strongroom.hsm import codes
from strongroom.hsm.codes import Fault
from strongroom.hsm.message import MAX_ASSOCIATED_DATA, MAX_PLAINTEXT

__all__ = ["NONCE_LEN", "TAG_LEN", "Functions", "Gcm", "Handle"]

T = TypeVar("T")

NONCE_LEN = 12
TAG_LEN = 16

Handle = ctypes.c_ulong
_ULONG = ctypes.c_ulong
_POINTER = ctypes.c_void_p
_POINTER_LEN = ctypes.sizeof(_POINTER)
# CK_FUNCTION_LIST: a version of two bytes, then a pointer to each function in this order.
_FIRST_FUNCTION = _POINTER_LEN
_CLOSE_SESSION, _LOGIN, _LOGOUT = 13, 18, 19
_ENCRYPT_INIT, _ENCRYPT, _DECRYPT_INIT, _DECRYPT = 29, 30, 33, 34
_GENERATE_RANDOM = 64

_CKU_USER = 1
_CKM_AES_GCM = 0x1087

# CK_MECHANISM: mechanism, pParameter, ulParameterLen.
_MECHANISM = struct.Struct("@LPL")
# CK_GCM_PARAMS (with ulIvBits, as the header has it, if not the text): pIv, ulIvLen, ulIvBits,
# pAAD, ulAADLen, ulTagBits.
_GCM_PARAMS = struct.Struct("@PLLPLL")

# The 21 bytes of a wrapped key and a key id are less than the 20 of a message and a caller's data.
_MOST_ASSOCIATED_DATA = 20 + MAX_ASSOCIATED_DATA
# The longest message, and what a token wants besides that decrypts by whole blocks.
_ROOM = MAX_PLAINTEXT + TAG_LEN + 64
_KEY_LEN = 32
_NO_KEY = bytes(_KEY_LEN)
_NO_NONCE = bytes(NONCE_LEN)
_NO_GCM = "the token's AES-GCM gave another number of bytes than it takes"


class Functions:
    """The functions of a module that is loaded, each of which returns a CKR value."""

    def __init__(self, path: str) -> None:
        """Ask the module for them.

        Raises:
            Fault: It has none.
        """
        try:
            # Never unloaded.
            library = ctypes.CDLL(path)
            ask = library.C_GetFunctionList
        except (OSError, AttributeError) as error:
            raise Fault(codes.UNKNOWN, str(error)) from None
        ask.argtypes, ask.restype = (_POINTER,), _ULONG
        table = ctypes.c_void_p()
        code = ask(ctypes.byref(table))
        if code or table.value is None:
            raise Fault(code or codes.FUNCTION_NOT_SUPPORTED)
        self._table = (_POINTER * (_GENERATE_RANDOM + 1)).from_address(
            table.value + _FIRST_FUNCTION
        )
        self.encrypt_init = self._function(_ENCRYPT_INIT)
        self.encrypt = self._function(_ENCRYPT)
        self.decrypt_init = self._function(_DECRYPT_INIT)
        self.decrypt = self._function(_DECRYPT)
        self.generate_random = self._function(_GENERATE_RANDOM)
        self._login = self._function(_LOGIN)
        self._logout = self._function(_LOGOUT)
        self._close_session = self._function(_CLOSE_SESSION)

    def _function(self, number: int) -> Callable[..., int]:
        # Without types of arguments, which would be looked up for each of them in each call: who
        # calls passes objects of ctypes and `bytes`, and never an `int`, which would be a C int.
        address = self._table[number]
        if address is None:
            return lambda *_: codes.FUNCTION_NOT_SUPPORTED
        function: Callable[..., int] = ctypes.CFUNCTYPE(_ULONG)(address)
        return function

    def login(self, session: int, pin: bytearray | None) -> int:
        """Log in; None: by the token's pin pad."""
        if pin is None:
            return self._login(_ULONG(session), _ULONG(_CKU_USER), _POINTER(), _ULONG(0))
        data = (ctypes.c_char * len(pin)).from_buffer(pin)
        return self._login(_ULONG(session), _ULONG(_CKU_USER), ctypes.byref(data), _ULONG(len(pin)))

    def logout(self, session: int) -> int:
        """Log out."""
        return self._logout(_ULONG(session))

    def close_session(self, session: int) -> int:
        """Close a session."""
        return self._close_session(_ULONG(session))


class Gcm:
    """AES-256-GCM by one session after another, in memory that stays where it is.

    A token that makes its own nonce writes it there: in the `bytes` that python-pkcs11 takes it
    would change a constant.
    """

    def __init__(self) -> None:
        """Take the memory; `use` gives it a session."""
        # The nonce, and right behind it what the token makes of the data.
        self._memory, at = _memory(NONCE_LEN + _ROOM)
        self._nonce_at, self._out_at = _POINTER(at), _POINTER(at + NONCE_LEN)
        self._nonce_len = _ULONG(NONCE_LEN)
        self._bound, self._bound_at = _memory(_MOST_ASSOCIATED_DATA)
        self._key, at = _memory(_KEY_LEN)
        self._key_at = _POINTER(at)
        self._parameters, parameters_at = _memory(_GCM_PARAMS.size)
        self._packed: dict[int, bytes] = {}
        mechanism, at = _memory(_MECHANISM.size)
        self._mechanism_at = _POINTER(at)
        _MECHANISM.pack_into(mechanism, 0, _CKM_AES_GCM, parameters_at, _GCM_PARAMS.size)
        self._mechanism = mechanism
        self._length = _ULONG()
        self._length_at = ctypes.byref(self._length)
        self._data_len = _ULONG()
        self._given = b""
        self._has_rng = False
        self._session = _ULONG()
        self._encrypt_init: Callable[..., int]
        self._encrypt: Callable[..., int]
        self._decrypt_init: Callable[..., int]
        self._decrypt: Callable[..., int]
        self._random: Callable[..., int]

    def use(self, functions: Functions, session: int, *, has_rng: bool) -> None:
        """Take a session.

        Args:
            functions: Those of its module.
            session: Its handle.
            has_rng: Whether the token says that it has a random number generator.
        """
        self._session, self._has_rng = _ULONG(session), has_rng
        self._encrypt_init, self._encrypt = functions.encrypt_init, functions.encrypt
        self._decrypt_init, self._decrypt = functions.decrypt_init, functions.decrypt
        self._random = functions.generate_random

    @property
    def nonce_changed(self) -> bool:
        """Whether the token put a nonce of its own in the place of the one that it was given."""
        return bytes(self._memory[:NONCE_LEN]) != self._given

    def seal(self, key: Handle, plaintext: bytes, bound: bytes) -> bytes:
        """Encrypt with a key of this handle: the nonce that was used, ciphertext and tag.

        Raises:
            Fault: The token refused or failed.
            HSMError: What it gave is no AES-GCM.
        """
        return self._seal(key, plaintext, len(plaintext), bound)

    def seal_key(self, key: Handle, value: bytearray, bound: bytes) -> bytes:
        """Encrypt 32 bytes that are a key; the copy that is made of them is wiped."""
        self._key[:] = value
        try:
            return self._seal(key, self._key_at, _KEY_LEN, bound)
        finally:
            self._key[:] = _NO_KEY

    def open(
        self,
        key: Handle,
        nonce: bytes,
        sealed: bytes,
        bound: bytes,
        take: Callable[[memoryview], T],
    ) -> T:
        """Decrypt, and hand a view of the plaintext to `take`, which copies it; then it is wiped.

        Raises:
            Fault: It does not authenticate, or the token refused or failed.
            HSMError: What it gave is no AES-GCM.
        """
        memory, length = self._memory, len(sealed)
        memory[:NONCE_LEN] = nonce
        self._bound[: len(bound)] = bound
        self._parameters[:] = self._packed.get(len(bound)) or self._pack(len(bound))
        session = self._session
        try:
            code = self._decrypt_init(session, self._mechanism_at, key)
            if not code:
                self._length.value = _ROOM
                self._data_len.value = length
                code = self._decrypt(session, sealed, self._data_len, self._out_at, self._length_at)
            if code:
                raise Fault(code)
            if self._length.value != length - TAG_LEN:
                raise HSMError(_NO_GCM)
            return take(memory[NONCE_LEN : NONCE_LEN + length - TAG_LEN])
        finally:
            memory[NONCE_LEN : NONCE_LEN + length] = bytes(length)

    def _seal(self, key: Handle, data: bytes | ctypes.c_void_p, length: int, bound: bytes) -> bytes:
        self._draw()
        self._bound[: len(bound)] = bound
        # All of them each time: whatever a token did to them.
        self._parameters[:] = self._packed.get(len(bound)) or self._pack(len(bound))
        session = self._session
        code = self._encrypt_init(session, self._mechanism_at, key)
        if not code:
            self._length.value = _ROOM
            self._data_len.value = length
            code = self._encrypt(session, data, self._data_len, self._out_at, self._length_at)
        if code:
            raise Fault(code)
        length += TAG_LEN
        if self._length.value != length:
            raise HSMError(_NO_GCM)
        return self._memory[: NONCE_LEN + length].tobytes()

    def _pack(self, length: int) -> bytes:
        packed = _GCM_PARAMS.pack(
            self._nonce_at.value, NONCE_LEN, 8 * NONCE_LEN, self._bound_at, length, 8 * TAG_LEN
        )
        # Those of one length at a time: it seldom changes.
        self._packed = {length: packed}
        return packed

    def _draw(self) -> None:
        """Draw a nonce: from the token's generator, else from the system's.

        One at a time. What lay in a buffer would be used twice by a machine that was restored
        twice from one snapshot; the generator of a device is outside of that.
        """
        memory = self._memory
        if self._has_rng:
            memory[:NONCE_LEN] = _NO_NONCE
            code = self._random(self._session, self._nonce_at, self._nonce_len)
            if not code:
                drawn = memory[:NONCE_LEN].tobytes()
                # A generator that gives the same bytes again would be the end of GCM.
                if drawn != self._given and drawn != _NO_NONCE:
                    self._given = drawn
                    return
            elif code not in (codes.RANDOM_NO_RNG, codes.FUNCTION_NOT_SUPPORTED):
                raise Fault(code)
            self._has_rng = False  # The flag was wrong.
        memory[:NONCE_LEN] = self._given = os.urandom(NONCE_LEN)


def _memory(length: int) -> tuple[memoryview, int]:
    """Take memory, and say where it is.

    Bytes that are written to a part of a `bytearray` become a `bytearray` first; to a view, not.
    """
    memory = bytearray(length)
    return memoryview(memory), ctypes.addressof((ctypes.c_char * length).from_buffer(memory))
