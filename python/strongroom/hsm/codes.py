"""What PKCS#11 answers: CKR values, what each means to a person, and what can be done about it.

Names and numbers are those of PKCS#11 2.40, section 3 of the base specification.
"""

from __future__ import annotations

from strongroom.errors import HSMError

__all__ = ["Fault", "hsm_error"]

OK = 0x00
HOST_MEMORY = 0x02
SLOT_ID_INVALID = 0x03
GENERAL_ERROR = 0x05
FUNCTION_FAILED = 0x06
DEVICE_ERROR = 0x30
DEVICE_MEMORY = 0x31
DEVICE_REMOVED = 0x32
ENCRYPTED_DATA_INVALID = 0x40
ENCRYPTED_DATA_LEN_RANGE = 0x41
FUNCTION_CANCELED = 0x50
FUNCTION_NOT_SUPPORTED = 0x54
KEY_HANDLE_INVALID = 0x60
KEY_FUNCTION_NOT_PERMITTED = 0x68
MECHANISM_INVALID = 0x70
MECHANISM_PARAM_INVALID = 0x71
OBJECT_HANDLE_INVALID = 0x82
OPERATION_ACTIVE = 0x90
OPERATION_NOT_INITIALIZED = 0x91
SESSION_CLOSED = 0xB0
SESSION_COUNT = 0xB1
SESSION_HANDLE_INVALID = 0xB3
SESSION_READ_ONLY = 0xB5
TOKEN_NOT_PRESENT = 0xE0
TOKEN_NOT_RECOGNIZED = 0xE1
TOKEN_WRITE_PROTECTED = 0xE2
USER_ALREADY_LOGGED_IN = 0x100
USER_NOT_LOGGED_IN = 0x101
RANDOM_NO_RNG = 0x121
WRAPPED_KEY_INVALID = 0x110
WRAPPED_KEY_LEN_RANGE = 0x112
CRYPTOKI_NOT_INITIALIZED = 0x190
CRYPTOKI_ALREADY_INITIALIZED = 0x191
UNKNOWN = -1
"""No CKR value: python-pkcs11 itself failed."""

# The token said no to this PIN or to this user, and would count another try.
PIN_REFUSED = {
    0xA0: "the PIN is wrong",
    0xA1: "the PIN has characters that the token does not take",
    0xA2: "the PIN is too short or too long for the token",
    0xA3: "the PIN has expired and must be changed",
    0xA4: "the PIN is locked after too many wrong tries: the security officer has to set a new one",
    0x102: "the token has no user PIN yet: its security officer has to set one",
}

# A new session, a new login, and the key looked up again may help.
RECOVERABLE = frozenset(
    {
        HOST_MEMORY,
        SLOT_ID_INVALID,
        GENERAL_ERROR,
        FUNCTION_FAILED,
        DEVICE_ERROR,
        DEVICE_MEMORY,
        DEVICE_REMOVED,
        FUNCTION_CANCELED,
        KEY_HANDLE_INVALID,
        OBJECT_HANDLE_INVALID,
        OPERATION_ACTIVE,
        OPERATION_NOT_INITIALIZED,
        SESSION_CLOSED,
        SESSION_COUNT,
        SESSION_HANDLE_INVALID,
        TOKEN_NOT_PRESENT,
        TOKEN_NOT_RECOGNIZED,
        USER_NOT_LOGGED_IN,
        CRYPTOKI_NOT_INITIALIZED,
    }
)

# What a token may say of a ciphertext or a wrapped key that does not authenticate. SoftHSM says
# GENERAL_ERROR, and a token that has lost its mind says so at the next call too.
NOT_AUTHENTIC = frozenset(
    {
        GENERAL_ERROR,
        ENCRYPTED_DATA_INVALID,
        ENCRYPTED_DATA_LEN_RANGE,
        WRAPPED_KEY_INVALID,
        WRAPPED_KEY_LEN_RANGE,
    }
)

# The mechanism is not to be had in this way, whatever the token's list and flags say.
NO_SUCH_WAY = frozenset(
    {
        FUNCTION_NOT_SUPPORTED,
        KEY_FUNCTION_NOT_PERMITTED,
        MECHANISM_INVALID,
        MECHANISM_PARAM_INVALID,
        0x62,  # KEY_SIZE_RANGE
        0x63,  # KEY_TYPE_INCONSISTENT
    }
)

_MEANING = {
    HOST_MEMORY: "the module has no memory left",
    SLOT_ID_INVALID: "there is no such slot",
    GENERAL_ERROR: "the token failed without saying why",
    FUNCTION_FAILED: "the token failed without saying why",
    0x07: "the module found an argument wrong",
    0x13: "the token does not take a value that a key was to have",
    DEVICE_ERROR: "the device failed",
    DEVICE_MEMORY: "the device has no memory left",
    DEVICE_REMOVED: "the device was removed",
    ENCRYPTED_DATA_INVALID: "the token finds the ciphertext invalid",
    FUNCTION_NOT_SUPPORTED: "the module does not have this function",
    KEY_HANDLE_INVALID: "the key is not where it was",
    KEY_FUNCTION_NOT_PERMITTED: "the key may not be used for this",
    0x62: "the token does not take keys of this size",
    0x6A: "the key can't leave the token",
    MECHANISM_INVALID: "the token does not have this mechanism",
    MECHANISM_PARAM_INVALID: "the token does not take the mechanism's parameter",
    OBJECT_HANDLE_INVALID: "the object is not where it was",
    OPERATION_ACTIVE: "another operation of the session did not end",
    SESSION_CLOSED: "the session was closed",
    SESSION_COUNT: "the token has no session left",
    SESSION_HANDLE_INVALID: "the session is gone",
    SESSION_READ_ONLY: "the session may not write",
    0xD0: "the token wants more attributes for a key",
    0xD1: "the token does not take these attributes together",
    TOKEN_NOT_PRESENT: "there is no token in the slot",
    TOKEN_NOT_RECOGNIZED: "what is in the slot is no token that the module knows",
    TOKEN_WRITE_PROTECTED: "the token is write-protected",
    USER_ALREADY_LOGGED_IN: "somebody is logged in already",
    USER_NOT_LOGGED_IN: "nobody is logged in",
    0x104: "somebody else is logged in (the security officer?)",
    RANDOM_NO_RNG: "the token has no random number generator",
    CRYPTOKI_NOT_INITIALIZED: "the module is not initialised",
    CRYPTOKI_ALREADY_INITIALIZED: "the module is initialised already",
} | PIN_REFUSED


class Fault(Exception):
    """A call into the module failed.

    Attributes:
        code: Its CKR value, or UNKNOWN.
        text: What the loader or python-pkcs11 said, where there is no CKR value.
    """

    def __init__(self, code: int, text: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.text = text


def hsm_error(fault: Fault, what: str) -> HSMError:
    """Return the error for a fault that nothing helped against.

    Args:
        fault: What the module said.
        what: What it was asked, for the beginning of the sentence: "token 'main'".
    """
    if fault.code == UNKNOWN:
        return HSMError(f"{what}: {fault.text or 'python-pkcs11 failed'}")
    meaning = _MEANING.get(fault.code, "the module refused")
    return HSMError(
        f"{what}: {meaning} (CKR 0x{fault.code:X})",
        code=fault.code,
        retryable=fault.code in RECOVERABLE,
    )
