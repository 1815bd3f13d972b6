"""The importer of python-pkcs11: its calls, with its exceptions turned into CKR values.

What is worked around here was measured with 0.10.1, SoftHSM 2.6.1 and kryoptic 1.5.4; each place
says what happens without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

from strongroom.errors import HSMError
from strongroom.hsm import codes
from strongroom.hsm.codes import Fault
from strongroom.hsm.direct import Functions

try:
    import pkcs11
    from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass, PKCS11Error, TokenFlag
    from pkcs11 import _pkcs11 as _cython
except ImportError:
    raise HSMError(
        "PKCS#11 needs the package python-pkcs11: pip install 'strongroom[hsm]'"
    ) from None


def _private_parts() -> tuple[dict[str, Any], Any, Any]:
    """Return what its documentation does not promise, so that a later version may not have it.

    pyproject.toml holds python-pkcs11 to one minor version for it. What each is for stands where
    it is used. The package's stubs don't tell of these.
    """
    try:
        lib, search = vars(_cython)["lib"], vars(_cython)["SearchIter"]
        _ = lib.initialize, lib.finalize, lib.initialized, search._finalize
        return pkcs11._loaded, lib, search
    except (AttributeError, KeyError) as missing:
        raise HSMError(
            "this version of python-pkcs11 is not one that Strongroom knows (it has no "
            f"{str(missing)[:60]}): pip install 'strongroom[hsm]'"
        ) from None


_loaded, _native_lib, _SearchIter = _private_parts()

__all__ = ["Library", "Slot", "fault_of"]

# python-pkcs11 has a class for most CKR values, and a sentence for the rest.
_NAMES = {
    "AnotherUserAlreadyLoggedIn": 0x104, "ArgumentsBad": 0x07, "AttributeReadOnly": 0x10,
    "AttributeSensitive": 0x11, "AttributeTypeInvalid": 0x12, "AttributeValueInvalid": 0x13,
    "DataInvalid": 0x20, "DataLenRange": 0x21, "DeviceError": 0x30, "DeviceMemory": 0x31,
    "DeviceRemoved": 0x32, "DomainParamsInvalid": 0x130, "EncryptedDataInvalid": 0x40,
    "EncryptedDataLenRange": 0x41, "ExceededMaxIterations": 0x1B5, "FunctionCancelled": 0x50,
    "FunctionFailed": 0x06, "FunctionNotSupported": 0x54, "FunctionRejected": 0x200,
    "GeneralError": 0x05, "HostMemory": 0x02, "KeyHandleInvalid": 0x60, "KeyIndigestible": 0x67,
    "KeyNeeded": 0x66, "KeyNotNeeded": 0x64, "KeyNotWrappable": 0x69, "KeySizeRange": 0x62,
    "KeyTypeInconsistent": 0x63, "KeyUnextractable": 0x6A, "MechanismInvalid": 0x70,
    "MechanismParamInvalid": 0x71, "ObjectHandleInvalid": 0x82, "OperationActive": 0x90,
    "OperationNotInitialized": 0x91, "PinExpired": 0xA3, "PinIncorrect": 0xA0,
    "PinInvalid": 0xA1, "PinLenRange": 0xA2, "PinLocked": 0xA4, "PinTooWeak": 0x1B9,
    "RandomNoRNG": 0x121, "RandomSeedNotSupported": 0x120, "SessionClosed": 0xB0,
    "SessionCount": 0xB1, "SessionExists": 0xB6, "SessionHandleInvalid": 0xB3,
    "SessionReadOnly": 0xB5, "SessionReadOnlyExists": 0xB7, "SessionReadWriteSOExists": 0xB8,
    "SlotIDInvalid": 0x03, "TemplateIncomplete": 0xD0, "TemplateInconsistent": 0xD1,
    "TokenNotPresent": 0xE0, "TokenNotRecognised": 0xE1, "TokenWriteProtected": 0xE2,
    "UnwrappingKeyHandleInvalid": 0xF0, "UnwrappingKeySizeRange": 0xF1,
    "UnwrappingKeyTypeInconsistent": 0xF2, "UserAlreadyLoggedIn": 0x100,
    "UserNotLoggedIn": 0x101, "UserPinNotInitialized": 0x102, "UserTooManyTypes": 0x105,
    "WrappedKeyInvalid": 0x110, "WrappedKeyLenRange": 0x112, "WrappingKeyHandleInvalid": 0x113,
    "WrappingKeySizeRange": 0x114, "WrappingKeyTypeInconsistent": 0x115,
}  # fmt: skip
_SENTENCES = {
    "Buffer was too small": 0x150,
    "Initialisation error (already": 0x191,
    "Initialisation error (not": 0x190,
    "Parallel not supported": 0xB4,
    "User type invalid": 0x103,
}
# What the dynamic loader says after it begins with the path again.
_LOADING = re.compile("^OS exception while loading .*?: (?=/)")
_UNMAPPED = re.compile(r"Unmapped error code (0x[0-9a-fA-F]+)")


_FIND_AT_ONCE = 64


def fault_of(error: BaseException) -> Fault:
    """Return what an exception of python-pkcs11 means.

    The one that came first counts: leaving a search that failed fails too, and hides the cause.
    """
    first = error
    while isinstance(first.__context__, PKCS11Error):
        first = first.__context__
    code = _NAMES.get(type(first).__name__)
    text = _LOADING.sub("", str(first))
    if code is None:
        unmapped = _UNMAPPED.match(text)
        if unmapped:
            code = int(unmapped[1], 16)
        else:
            code = next((c for s, c in _SENTENCES.items() if text.startswith(s)), codes.UNKNOWN)
    return Fault(code, text)


class Slot(NamedTuple):
    """A slot with a token in it, as the module describes them."""

    slot_id: int
    label: str
    serial: str
    manufacturer: str
    model: str
    initialized: bool
    login_required: bool
    has_rng: bool
    pin_pad: bool
    pin_locked: bool
    token: Any


class Library:
    """A module that was loaded and initialised."""

    def __init__(self, path: str) -> None:
        """Load and initialise it.

        Raises:
            Fault: It is no PKCS#11 library, or does not let itself be initialised.
        """
        self.path = path
        already = _loaded.get(path)
        # Whoever in this process initialised the module may finalise it, and nobody else.
        self.ours = already is None or not already.initialized
        try:
            self._lib = pkcs11.lib(path)
        except PKCS11Error as error:
            fault = fault_of(error)
            if fault.code != codes.CRYPTOKI_ALREADY_INITIALIZED:
                raise fault from None
            # Another binding in this process did it. The constructor has no way around
            # C_Initialize; without it the object works, and does not finalise.
            self.ours = False
            self._lib = _native_lib.__new__(_native_lib, path)
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise Fault(codes.UNKNOWN, str(error)) from None
        self.functions = Functions(path)

    def reinitialize(self) -> None:
        """C_Finalize and C_Initialize, of a module that is ours. All sessions are gone then."""
        # It may not be initialised any more: that is what this is for.
        with suppress(PKCS11Error):
            self._lib.finalize()
        self._initialize()

    def initialize_in_child(self) -> None:
        """C_Initialize in a forked child, as PKCS#11 asks for, and as modules differ in.

        One that doesn't notice the fork says that it is initialised already: it works with the
        parent's sessions, so it is finalised first.
        """
        _inherited.append(self._lib)  # Its destructor would finalise the module under the new one.
        self._lib = _native_lib.__new__(_native_lib, self.path)
        try:
            self._lib.initialize()
        except PKCS11Error as error:
            fault = fault_of(error)
            if fault.code != codes.CRYPTOKI_ALREADY_INITIALIZED:
                raise fault from None
            if self.ours:
                self._lib = _inherited.pop()
                self.reinitialize()
        else:
            self.ours = True
        _loaded[self.path] = self._lib

    def _initialize(self) -> None:
        try:
            self._lib.initialize()
        except PKCS11Error as error:
            fault = fault_of(error)
            if fault.code != codes.CRYPTOKI_ALREADY_INITIALIZED:
                raise fault from None
            self.ours = False

    def slots(self) -> list[Slot]:
        """List the slots with a token.

        Raises:
            Fault: The module failed.
        """
        found = []
        try:
            for slot in self._lib.get_slots():
                try:
                    token = slot.get_token()
                except PKCS11Error as error:
                    fault = fault_of(error)
                    if fault.code in (codes.TOKEN_NOT_PRESENT, codes.TOKEN_NOT_RECOGNIZED):
                        continue
                    raise fault from None
                found.append(_slot(slot, token))
        except PKCS11Error as error:
            raise fault_of(error) from None
        return found


# Libraries as they were when this process was forked: kept, for their destructors to stay away.
_inherited: list[Any] = []


def _slot(slot: Any, token: Any) -> Slot:  # noqa: ANN401 - classes of Cython
    flags = token.flags
    return Slot(
        slot_id=slot.slot_id,
        label=token.label,
        serial=token.serial.decode("utf-8", "replace").strip("\0 "),
        manufacturer=token.manufacturer_id.strip("\0 "),
        model=token.model.strip("\0 "),
        initialized=bool(flags & TokenFlag.TOKEN_INITIALIZED),
        login_required=bool(flags & TokenFlag.LOGIN_REQUIRED),
        has_rng=bool(flags & TokenFlag.RNG),
        pin_pad=bool(flags & TokenFlag.PROTECTED_AUTHENTICATION_PATH),
        pin_locked=bool(flags & TokenFlag.USER_PIN_LOCKED),
        token=token,
    )


def open_session(slot: Slot, *, write: bool) -> Any:  # noqa: ANN401
    """Open a session, without a login."""
    try:
        return slot.token.open(rw=write)
    except PKCS11Error as error:
        raise fault_of(error) from None


def random_bytes(session: Any, count: int) -> bytes:  # noqa: ANN401
    """Draw from the token's generator."""
    try:
        data: bytes = session.generate_random(8 * count)
    except PKCS11Error as error:
        raise fault_of(error) from None
    return data


def find_keys(
    session: Any,  # noqa: ANN401
    *,
    key_id: bytes | None = None,
    label: str | None = None,
    kind: str = "SECRET_KEY",
) -> list[Any]:
    """List the keys of a class with this CKA_ID, or label, or all of them."""
    template: dict[Attribute, Any] = {Attribute.CLASS: ObjectClass[kind]}
    if key_id is not None:
        template[Attribute.ID] = key_id
    if label is not None:
        template[Attribute.LABEL] = label
    # Not session.get_objects(): where C_FindObjectsInit fails, it leaves an iterator behind whose
    # destructor raises, which Python prints. Its _finalize ends that here.
    search = _SearchIter(session, template, _FIND_AT_ONCE)
    try:
        with search:
            return [key for batch in search for key in batch]
    except PKCS11Error as error:
        fault = fault_of(error)
    with suppress(PKCS11Error):
        search._finalize()
    raise fault


def check_token(slot: Slot) -> None:
    """Ask for the token's description, which fails if the token is gone."""
    try:
        slot.token.slot.get_token()
    except PKCS11Error as error:
        raise fault_of(error) from None


# Attributes of a key that say what it is, in the order of keys.Attributes.
_WANTED: tuple[Attribute, ...] = (
    Attribute.ID, Attribute.LABEL, Attribute.KEY_TYPE, Attribute.VALUE_LEN,
    Attribute.ENCRYPT, Attribute.DECRYPT, Attribute.WRAP, Attribute.UNWRAP,
    Attribute.SENSITIVE, Attribute.EXTRACTABLE,
    Attribute.ALWAYS_SENSITIVE, Attribute.NEVER_EXTRACTABLE, Attribute.LOCAL,
)  # fmt: skip
_AES = KeyType.AES


def read_attributes(key: Any) -> list[Any]:  # noqa: ANN401
    """Read what says what a key is; None where the token does not tell."""
    found = _attributes_at_once(key)
    if found is None:
        found = {}
        for name in _WANTED:
            try:
                found[name] = key[name]
            except PKCS11Error as error:
                fault = fault_of(error)
                if fault.code in codes.RECOVERABLE:
                    raise fault from None
    values = [found.get(name) for name in _WANTED]
    values[2] = None if values[2] is None else values[2] == _AES
    return values


def _attributes_at_once(key: Any) -> dict[Any, Any] | None:  # noqa: ANN401
    try:
        found: dict[Any, Any] = key.get_attributes(_WANTED)
    except PKCS11Error as error:
        fault = fault_of(error)
        if fault.code in codes.RECOVERABLE:
            raise fault from None
        return None  # Some tokens refuse the whole list for one attribute that they don't have.
    return found


def generate_aes_256(session: Any, key_id: bytes, label: str, *, wrapping: bool) -> Any:  # noqa: ANN401
    """Make a key in the token that may decrypt (or unwrap), and not yet encrypt (or wrap)."""
    template = {
        Attribute.CLASS: ObjectClass.SECRET_KEY,
        Attribute.PRIVATE: True,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: False,
        Attribute.MODIFIABLE: True,
        Attribute.ENCRYPT: False,
        Attribute.DECRYPT: not wrapping,
        Attribute.WRAP: False,
        Attribute.UNWRAP: wrapping,
        Attribute.SIGN: False,
        Attribute.VERIFY: False,
        Attribute.DERIVE: False,
    }
    try:
        return session.generate_key(
            KeyType.AES, 256, id=key_id, label=label, store=True, capabilities=0, template=template
        )
    except PKCS11Error as error:
        raise fault_of(error) from None


def allow(key: Any, *, wrapping: bool, allowed: bool) -> None:  # noqa: ANN401
    """Let a key encrypt (or wrap), or forbid it."""
    try:
        key[Attribute.WRAP if wrapping else Attribute.ENCRYPT] = allowed
    except PKCS11Error as error:
        raise fault_of(error) from None


def destroy(key: Any) -> None:  # noqa: ANN401
    """Destroy an object of the token."""
    try:
        key.destroy()
    except PKCS11Error as error:
        raise fault_of(error) from None


# SoftHSM's AES_KEY_WRAP_PAD is RFC 5649, elsewhere it may be PKCS#7 padding and RFC 3394: what
# comes out has another length then.
KWP_NAMES = ("AES_KEY_WRAP_KWP", "AES_KEY_WRAP_PAD")
KW_NAMES = ("AES_KEY_WRAP",)


def wrap_value(session: Any, key: Any, value: bytes, mechanism: str) -> bytes:  # noqa: ANN401
    """Wrap 32 bytes that are not in the token: by C_WrapKey, over a session object of them."""
    try:
        made = session.create_object(
            {
                Attribute.CLASS: ObjectClass.SECRET_KEY,
                Attribute.KEY_TYPE: KeyType.GENERIC_SECRET,
                Attribute.TOKEN: False,
                Attribute.PRIVATE: True,
                Attribute.SENSITIVE: False,
                Attribute.EXTRACTABLE: True,
                Attribute.VALUE: value,
            }
        )
        try:
            wrapped: bytes = key.wrap_key(made, mechanism=Mechanism[mechanism])
        finally:
            made.destroy()
    except PKCS11Error as error:
        raise fault_of(error) from None
    except AttributeError:
        raise Fault(codes.KEY_FUNCTION_NOT_PERMITTED) from None
    return wrapped


def unwrap_value(key: Any, wrapped: bytes, mechanism: str) -> bytes:  # noqa: ANN401
    """The inverse of `wrap_value`."""
    try:
        made = key.unwrap_key(
            ObjectClass.SECRET_KEY,
            KeyType.GENERIC_SECRET,
            wrapped,
            mechanism=Mechanism[mechanism],
            capabilities=0,
            template={
                Attribute.TOKEN: False,
                Attribute.PRIVATE: True,
                Attribute.SENSITIVE: False,
                Attribute.EXTRACTABLE: True,
            },
        )
        try:
            value: bytes = made[Attribute.VALUE]
        finally:
            made.destroy()
    except PKCS11Error as error:
        raise fault_of(error) from None
    except AttributeError:
        raise Fault(codes.KEY_FUNCTION_NOT_PERMITTED) from None
    return value


def mechanisms(slot: Slot) -> set[str]:
    """Names of the mechanisms that the token lists. The list is true; its flags may not be."""
    try:
        listed: Iterable[Any] = slot.token.slot.get_mechanisms()
    except PKCS11Error as error:
        raise fault_of(error) from None
    return {m.name for m in listed if isinstance(m, Mechanism)}
