"""What HSMKeyManager and Pkcs11MasterKey refuse, each on both tokens, and what is said then."""

from __future__ import annotations

import pickle
import secrets
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
from hsm_help import LABEL, PIN, SOFTHSM, Backend, Bare, Tokens, label
from hsm_help import backend as backend
from hsm_help import bare as bare
from hsm_help import hsm as hsm
from strongroom import HSMKeyManager, MemoryLockedKey, Pkcs11MasterKey
from strongroom.errors import HSMError, KeyNotFoundError, KeyStateError, MasterKeyError
from strongroom.hsm import Pkcs11Uri, pins
from strongroom.hsm.keys import new_id
from strongroom.masters import open_master

# --- The module and the token ------------------------------------------------------------------


def test_no_such_library() -> None:
    with pytest.raises(HSMError, match=r"^/nowhere/lib\.so: .*No such file"):
        HSMKeyManager("/nowhere/lib.so", pin=PIN)


def test_not_a_pkcs11_library() -> None:
    import _ctypes

    for path in (_ctypes.__file__, __file__):
        with pytest.raises(HSMError, match=r"C_GetFunctionList|invalid ELF"):
            HSMKeyManager(path, pin=PIN)


def test_no_library_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STRONGROOM_PKCS11_LIB", raising=False)
    with pytest.raises(HSMError, match="STRONGROOM_PKCS11_LIB"):
        HSMKeyManager(pin=PIN)


@pytest.mark.parametrize("path", [b"x", 5, "", "a\0b"])
def test_a_path_that_is_none(path: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        HSMKeyManager(path, pin=PIN)


def test_no_such_slot(backend: Backend) -> None:
    with pytest.raises(HSMError, match="slot 999"):
        HSMKeyManager(backend.path, 999, PIN)


def test_no_such_token(backend: Backend) -> None:
    with pytest.raises(HSMError, match="'another'"):
        backend.open(token_label="another")


@pytest.mark.parametrize("slot", [-1, True, "1", 1.0])
def test_a_slot_that_is_none(backend: Backend, slot: Any) -> None:
    with pytest.raises(ValueError, match="slot"):
        HSMKeyManager(backend.path, slot, PIN)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_that_is_none(backend: Backend, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        backend.open(timeout=timeout)


def test_an_uninitialised_token(tmp_path: Path) -> None:
    own = Backend("softhsm")
    own.environment = Tokens(tmp_path).environment
    program = """
from strongroom.hsm.module import list_slots
for slot in list_slots(path, 5):
    if not slot.initialized:
        try: HSMKeyManager(path, slot.slot_id, PIN)
        except HSMError as error: print(error)
"""
    assert "not initialised" in own.python(program)


def test_several_tokens(tmp_path: Path) -> None:
    own = Backend("softhsm")
    tokens = Tokens(tmp_path)
    tokens.init_softhsm("second")
    own.environment = tokens.environment
    program = """
try: HSMKeyManager(path, pin=PIN)
except HSMError as error: print(error)
HSMKeyManager(path, pin=PIN, token_label="second").close()
"""
    said = own.python(program)
    assert "'second'" in said
    assert LABEL in said


def test_a_token_that_came_later(tmp_path: Path) -> None:
    own = Backend("softhsm")
    tokens = Tokens(tmp_path)
    own.environment = tokens.environment
    program = """
import subprocess
open_manager().close()
subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
HSMKeyManager(path, pin=PIN, token_label="later").close()
print("there")
"""
    command = ("softhsm2-util", "--init-token", "--free", "--label", "later", "--so-pin", PIN)
    assert own.python(program, *command, "--pin", PIN) == "there\n"


# --- The PIN -----------------------------------------------------------------------------------


def test_a_wrong_pin_is_sent_once(backend: Backend) -> None:
    wrong = secrets.token_hex(4)
    with pytest.raises(HSMError, match="PIN is wrong") as caught:
        backend.open(pin=wrong)
    assert caught.value.code == 0xA0
    assert wrong not in str(caught.value)
    with pytest.raises(HSMError, match="refused this PIN before") as again:
        backend.open(pin=wrong)
    assert again.value.code is None
    backend.open().close()


@pytest.mark.parametrize("pin", [5, True, 1.5, [PIN], memoryview(b"1")])
def test_a_pin_of_the_wrong_type(backend: Backend, pin: Any) -> None:
    with pytest.raises(TypeError, match="PIN"):
        backend.open(pin=pin)
    with pytest.raises(TypeError, match="PIN"):
        backend.open(pin=lambda: pin)


@pytest.mark.parametrize("pin", ["", b"", b"\xff\xfe", "1" * 256])
def test_a_pin_that_is_none(backend: Backend, pin: Any) -> None:
    with pytest.raises(ValueError, match="PIN"):
        backend.open(pin=pin)


@pytest.mark.parametrize("pin", ["secret\ud800", b"secret\xff"])
def test_a_pin_that_is_no_text_is_not_shown(backend: Backend, pin: Any) -> None:
    # What a codec could not encode stands in its exception.
    for given in (pin, lambda: pin):
        with pytest.raises(ValueError, match="UTF-8") as caught:
            backend.open(pin=given)
        error: BaseException | None = caught.value
        while error is not None:
            assert "secret" not in repr(error)
            error = error.__context__


@pytest.mark.parametrize(
    "pin", [PIN, PIN.encode(), bytearray(PIN.encode()), lambda: PIN], ids=lambda p: type(p).__name__
)
def test_pins_of_each_kind(backend: Backend, pin: Any) -> None:
    with backend.open(pin=pin) as manager:
        assert manager.token_label == LABEL


def test_no_pin(backend: Backend) -> None:
    with pytest.raises(HSMError, match="needs a PIN"):
        backend.open(pin=None)


def test_a_second_manager_with_another_pin(backend: Backend, hsm: HSMKeyManager) -> None:
    key_id = hsm.generate_key(label())
    for pin in ("0000", PIN + "0", PIN[:-1]):
        with pytest.raises(HSMError, match="another PIN"):
            backend.open(pin=pin)
    with pytest.raises(HSMError, match="another PIN"):
        backend.open(pin=None)
    with backend.open() as second:
        message = second.encrypt(key_id, b"shared")
    assert hsm.decrypt(key_id, message) == b"shared"


def test_the_last_one_logs_out(backend: Backend) -> None:
    program = """
from strongroom.hsm.module import get_module
one, two = open_manager(), open_manager()
assert len(get_module(path).tokens) == 1
one.close(); one.close()
two.list_keys()
two.close()
assert not get_module(path).tokens
try: HSMKeyManager(path, pin="0000", token_label=LABEL)
except HSMError as error: assert error.code == 0xa0
else: raise AssertionError
"""
    backend.python(program)


@pytest.mark.parametrize("newline", ["", "\n", "\r\n"])
def test_pin_sources(backend: Backend, tmp_path: Path, newline: str) -> None:
    file = tmp_path / "a pin"
    file.write_bytes((PIN + newline).encode())
    quoted = str(file).replace(" ", "%20")
    for source in (f"file:{quoted}", f"file://{quoted}", quoted, f"%7Ccat%20'{quoted}'"):
        uri = f"pkcs11:token={LABEL}?pin-source={source}"
        HSMKeyManager(backend.path, uri=uri).close()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("file:/nowhere/pin", "No such file"),
        ("|false", "exit status 1"),
        ("|/nowhere/command", "can't be run"),
        ("|", "can't be run"),
    ],
)
def test_pin_sources_that_fail(backend: Backend, source: str, said: str) -> None:
    with pytest.raises(HSMError, match=said):
        HSMKeyManager(backend.path, uri=f"pkcs11:token={LABEL}?pin-source={source}")


def test_copies_of_a_pin_are_wiped(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[bytearray] = []

    def kept(call: Any) -> Any:
        def work(*arguments: Any) -> bytearray:
            copies.append(call(*arguments))
            return copies[-1]

        return work

    monkeypatch.setattr(pins, "pin_bytes", kept(pins.pin_bytes))
    monkeypatch.setattr(pins.HeldPin, "read", kept(pins.HeldPin.read))
    with backend.open() as hsm:
        with backend.open(), pytest.raises(HSMError, match="another PIN"):
            backend.open(pin="another")
        assert hsm._token is not None
        before = len(copies)
        # The session is lost, and the PIN that is kept opens another.
        hsm._module.close_session(hsm._token._session, log_out=True)
        hsm.list_keys()
        assert len(copies) == before + 1
    for pin in 2 * ["refused-" + secrets.token_hex(4)]:
        with pytest.raises(HSMError, match=r"wrong|refused"):
            backend.open(pin=pin)
    assert len(copies) > 10
    assert not any(any(copy) for copy in copies)


def test_the_pin_shows_nowhere(backend: Backend, hsm: HSMKeyManager) -> None:
    assert hsm._token is not None
    shown = [repr(hsm), repr(vars(hsm)), repr(vars(hsm._token)), repr(hsm._token._pin)]
    for call in (pickle.dumps, lambda x: backend.open(pin="wrong-" + PIN)):
        with pytest.raises((TypeError, HSMError)) as caught:
            call(hsm)
        shown.append("".join(traceback.format_exception(caught.value)))
    assert not [text for text in shown if PIN in text]


# --- Keys under the label --------------------------------------------------------------------


BAD_KEYS: dict[str, tuple[dict[str, Any], str]] = {
    "extractable": ({"EXTRACTABLE": True}, "taken out"),
    "not sensitive": ({"SENSITIVE": False}, "taken out"),
    "wraps and decrypts": ({"WRAP": True}, "wrap and decrypt"),
    "AES-128": ({"bits": 128}, "not an AES-256"),
    "does not decrypt": ({"DECRYPT": False}, "may not decrypt"),
    "wraps for data": ({"DECRYPT": False, "ENCRYPT": False, "UNWRAP": True}, "for wrapping"),
}


@pytest.mark.parametrize("kind", BAD_KEYS)
def test_a_key_that_is_not_fit(hsm: HSMKeyManager, bare: Bare, kind: str) -> None:
    attributes, said = BAD_KEYS[kind]
    name, key_id = label(), new_id(1)
    key = bare.make(name, key_id, **attributes)
    try:
        for call in (
            lambda: hsm.find(name),
            lambda: hsm.encrypt(key_id.hex(), b"x"),
            lambda: hsm.decrypt(key_id.hex(), b"SR\x02\x03" + key_id + bytes(28)),
            lambda: hsm.rotate(name),
            lambda: hsm.generate_key(name),
        ):
            with pytest.raises(HSMError, match=said):
                call()
        (listed,) = hsm.list_keys(name)
        assert said in str(listed.problem)
    finally:
        key.destroy()


def test_a_key_of_another_type(hsm: HSMKeyManager, bare: Bare) -> None:
    name = label()
    a = bare.p.Attribute
    key = bare.session.create_object(
        {
            a.CLASS: bare.p.ObjectClass.SECRET_KEY, a.KEY_TYPE: bare.p.KeyType.GENERIC_SECRET,
            a.TOKEN: True, a.PRIVATE: True, a.SENSITIVE: True, a.EXTRACTABLE: False,
            a.LABEL: name, a.ID: new_id(1), a.VALUE: bytes(32), a.DECRYPT: True, a.WRAP: False,
        }
    )  # fmt: skip
    with pytest.raises(HSMError, match="not an AES-256"):
        hsm.find(name)
    key.destroy()


@pytest.mark.parametrize("key_id", [b"", b"1", bytes(16), bytes(17)], ids=repr)
def test_a_key_with_another_kind_of_id(hsm: HSMKeyManager, bare: Bare, key_id: bytes) -> None:
    name = label()
    key = bare.make(name, key_id)
    with pytest.raises(HSMError, match="not made by Strongroom"):
        hsm.find(name)
    key.destroy()


def test_the_same_id_twice(hsm: HSMKeyManager, bare: Bare) -> None:
    key_id = new_id(1)
    made = [bare.make(label(), key_id) for _ in range(2)]
    with pytest.raises(HSMError, match="2 keys"):
        hsm.encrypt(key_id.hex(), b"x")
    with pytest.raises(HSMError, match="2 keys"):
        hsm.destroy_key(key_id.hex())
    made[0].destroy()
    assert hsm.encrypt(key_id.hex(), b"x")


def test_the_same_version_twice(hsm: HSMKeyManager, bare: Bare) -> None:
    name = label()
    key_id = hsm.generate_key(name)
    other = new_id(1)
    bare.make(name, other)
    for call in (hsm.find, hsm.rotate, hsm.generate_key):
        with pytest.raises(HSMError, match="more than one key of version 1") as caught:
            call(name)
        assert key_id in str(caught.value)
        assert other.hex() in str(caught.value)
    assert len(hsm.list_keys(name)) == 2


def test_the_same_version_twice_of_which_one_may_encrypt(hsm: HSMKeyManager, bare: Bare) -> None:
    # What is left when one of two that rotate at once is killed: there is one answer.
    name = label()
    key_id = hsm.generate_key(name)
    bare.make(name, new_id(1), ENCRYPT=False)
    assert hsm.find(name) == key_id
    assert hsm.rotate(name)[:8] == "00000002"


def test_no_key_of_the_label(hsm: HSMKeyManager) -> None:
    with pytest.raises(KeyNotFoundError, match="no key with the label"):
        hsm.find(label())
    with pytest.raises(KeyNotFoundError):
        hsm.rotate(label())


def test_a_label_whose_keys_may_not_encrypt(hsm: HSMKeyManager, bare: Bare) -> None:
    name = label()
    bare.make(name, new_id(3), ENCRYPT=False)
    with pytest.raises(KeyStateError, match="rotate"):
        hsm.find(name)
    assert hsm.rotate(name)[:8] == "00000004"


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 256, 5, None, b"label"])
def test_labels_that_are_none(hsm: HSMKeyManager, name: Any) -> None:
    for call in (hsm.generate_key, hsm.rotate, hsm.find):
        with pytest.raises((TypeError, ValueError), match="label"):
            call(name)


@pytest.mark.parametrize("key_id", ["", "00" * 15, "AA" * 16, "zz" * 16, 5, None, bytes(16)])
def test_key_ids_that_are_none(hsm: HSMKeyManager, key_id: Any) -> None:
    for call in (hsm.destroy_key, hsm.get_key, lambda i: hsm.encrypt(i, b"")):
        with pytest.raises((TypeError, ValueError), match="key id"):
            call(key_id)


@pytest.mark.parametrize(
    "key_id",
    ["", "00" * 15, "00" * 17, "AA" * 16, "zz" * 16, "00 " * 10 + "00", 5, None, bytes(16)],
)
def test_ids_of_wrapped_keys_that_are_none(hsm: HSMKeyManager, key_id: Any) -> None:
    master = hsm.generate_key(label("master:"))
    wrapped = hsm.wrap_key(master, MemoryLockedKey.generate())
    with pytest.raises((TypeError, ValueError), match="key id"):
        hsm.unwrap_key(master, wrapped, key_id)


@pytest.mark.parametrize("plaintext", ["text", None, 5, [1]])
def test_what_is_no_buffer(hsm: HSMKeyManager, plaintext: Any) -> None:
    key_id = hsm.generate_key(label())
    with pytest.raises(TypeError, match="plaintext"):
        hsm.encrypt(key_id, plaintext)
    with pytest.raises(TypeError, match="associated_data"):
        hsm.encrypt(key_id, b"", plaintext)
    with pytest.raises(TypeError, match="message"):
        hsm.decrypt(key_id, plaintext)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_keys_to_wrap_of_another_length(hsm: HSMKeyManager, length: int) -> None:
    master = hsm.generate_key(label("master:"))
    with pytest.raises(ValueError, match="32"):
        hsm.wrap_key(master, bytes(length))
    material = bytearray(secrets.token_bytes(32))
    kept = bytes(material)
    assert hsm.wrap_key(master, material)
    assert bytes(material) == kept


# --- URIs --------------------------------------------------------------------------------------


GOOD_URIS = [
    "pkcs11:",
    "pkcs11:token=A%20b;object=master:x",
    "pkcs11:token=%C3%A4;serial=1234;model=m;manufacturer=n;slot-id=7;id=%00%FF",
    "pkcs11:object=a&b;type=secret-key?module-path=/usr/lib/x.so&pin-source=file:/etc/pin",
    "pkcs11:library-version=3?module-name=softhsm2&x-vendor=1",
]
BAD_URIS = [
    "", "pkcs11", "http://x", "pkcs11:token", "pkcs11:token=a;token=b", "pkcs11:token=%zz",
    "pkcs11:token=%FF", "pkcs11:token=a%00", "pkcs11:slot-id=x", "pkcs11:unknown=1",
    "pkcs11:type=private", "pkcs11:token=a b", "pkcs11:?pin-source=a&pin-source=b",
]  # fmt: skip


@pytest.mark.parametrize("uri", GOOD_URIS)
def test_uris(uri: str) -> None:
    parts = Pkcs11Uri.parse(uri)
    assert Pkcs11Uri.parse(str(parts)) == parts


@pytest.mark.parametrize("uri", BAD_URIS)
def test_uris_that_are_none(uri: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of many texts
        Pkcs11Uri.parse(uri)


def test_a_uri_with_a_pin_is_refused_and_not_shown() -> None:
    for uri in ("pkcs11:token=a?pin-value=secret-1", "pkcs11:token=a;object=secret 1"):
        with pytest.raises(ValueError, match=r"PKCS#11 URI|PIN") as caught:
            open_master(uri)
        assert "secret" not in str(caught.value)


def test_masters_that_are_none(backend: Backend, hsm: HSMKeyManager, tmp_path: Path) -> None:
    data, master = label(), label("master:")
    hsm.generate_key(data)
    hsm.generate_key(master)
    with pytest.raises(ValueError, match="names a key"):
        Pkcs11MasterKey(f"pkcs11:token={LABEL}", pin=PIN)
    with pytest.raises(KeyStateError, match="for data"):
        Pkcs11MasterKey(backend.uri(data, tmp_path / "pin"))
    with pytest.raises(MasterKeyError, match="no key with the label"):
        Pkcs11MasterKey(backend.uri("master:nowhere", tmp_path / "pin"))
    with pytest.raises(MasterKeyError, match="has not a token"):
        Pkcs11MasterKey("pkcs11:token=nowhere;object=x", pin=PIN, pkcs11_lib=backend.path)
    with pytest.raises(MasterKeyError, match="another PIN"):
        Pkcs11MasterKey(f"pkcs11:token={LABEL};object={master}", pin="1", pkcs11_lib=backend.path)
    with pytest.raises(TypeError, match="no use for passphrase"):
        open_master(backend.uri(master, tmp_path / "pin"), passphrase="x")
    with (
        Pkcs11MasterKey(backend.uri(master, tmp_path / "pin")) as opened,
        pytest.raises(TypeError, match="pickled"),
    ):
        pickle.dumps(opened)


def test_a_master_by_its_id(backend: Backend, hsm: HSMKeyManager, tmp_path: Path) -> None:
    name = label("master:")
    first = hsm.generate_key(name)
    percent = "".join(f"%{b:02x}" for b in bytes.fromhex(first))
    (tmp_path / "pin").write_text(PIN)
    where = f"?module-path={backend.path}&pin-source={tmp_path}/pin"
    with Pkcs11MasterKey(f"pkcs11:token={LABEL};id={percent}{where}") as master:
        assert master.key_id == first
    with pytest.raises(MasterKeyError, match="is not 'other'"):
        Pkcs11MasterKey(f"pkcs11:token={LABEL};id={percent};object=other{where}")
    with pytest.raises(ValueError, match="16 bytes"):
        Pkcs11MasterKey(f"pkcs11:token={LABEL};id=%00{where}")
    hsm.rotate(name)
    with pytest.raises(KeyStateError, match="later version"):
        Pkcs11MasterKey(f"pkcs11:token={LABEL};id={percent}{where}")


def test_a_damaged_blob_and_another_master(
    backend: Backend, hsm: HSMKeyManager, tmp_path: Path
) -> None:
    from strongroom.errors import DecryptionError
    from strongroom.masters import wrapped

    ours, theirs = label("master:"), label("master:")
    hsm.generate_key(ours)
    hsm.generate_key(theirs)
    one = Pkcs11MasterKey(backend.uri(ours, tmp_path / "pin"))
    other = Pkcs11MasterKey(backend.uri(theirs, tmp_path / "pin"))
    with one, other, MemoryLockedKey.generate() as key:
        data = wrapped.wrap_with(one, key)
        assert wrapped.unwrap_with(one, data, key.key_id).key_id == key.key_id
        with pytest.raises(MasterKeyError, match="wrong master"):
            wrapped.unwrap_with(other, data, key.key_id)
        with pytest.raises(DecryptionError):
            wrapped.unwrap_with(one, data[:-1] + bytes([data[-1] ^ 1]), key.key_id)
        assert wrapped.wrapped_by(other, 1, one.key_id) is None
        assert wrapped.wrapped_by(one, 4, one.key_id) is None


# --- Other code in the process ---------------------------------------------------------------


ALREADY: dict[str, str] = {
    "python-pkcs11": "import pkcs11\nother = pkcs11.lib(os.path.realpath(path))\n",
    "another binding": (
        "import ctypes\nlibrary = ctypes.CDLL(os.path.realpath(path))\n"
        "functions = ctypes.c_void_p()\n"
        "assert library.C_GetFunctionList(ctypes.byref(functions)) == 0\n"
        # version [2 bytes, padded], then C_Initialize and C_Finalize.
        "table = ctypes.cast(functions, ctypes.POINTER(ctypes.c_void_p))\n"
        "call = ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)\n"
        "assert call(table[1])(None) == 0\n"
    ),
}


@pytest.mark.parametrize("other", ALREADY)
def test_the_module_is_initialised_already(backend: Backend, other: str) -> None:
    program = (
        ALREADY[other]
        + """
from strongroom.hsm.module import get_module
with open_manager() as hsm:
    key_id = hsm.generate_key(arguments[0])
    assert hsm.decrypt(key_id, hsm.encrypt(key_id, b"x")) == b"x"
    module = get_module(path)
    assert not module.library().ours
    # It is not ours to finalise, whatever happens.
    assert not module.reinitialize()
"""
    )
    if other == "another binding":
        program += "assert call(table[2])(None) == 0\n"
    else:
        program += "assert other.initialized and other.get_slots()\n"
    backend.python(program, label())


def test_other_code_is_logged_in(backend: Backend) -> None:
    # The token does not look at our PIN then, so it is neither kept nor compared with.
    program = """
import pkcs11
found = [slot.get_token() for slot in pkcs11.lib(os.path.realpath(path)).get_slots()]
session = next(token for token in found if token.label == LABEL).open(rw=True, user_pin=PIN)
with open_manager(pin="not the PIN") as one, open_manager() as two:
    key_id = one.generate_key(arguments[0])
    assert two.decrypt(key_id, one.encrypt(key_id, b"x")) == b"x"
    (token,) = one._module.tokens.values()
    assert token._pin is None
session.generate_random(8)
"""
    backend.python(program, label())


def test_without_python_pkcs11(tmp_path: Path) -> None:
    (tmp_path / "pkcs11.py").write_text("raise ImportError('not here')\n")
    program = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
import strongroom
from strongroom import HSMKeyManager, Pkcs11MasterKey
for call in (lambda: HSMKeyManager({SOFTHSM!r}, pin="1"),
             lambda: Pkcs11MasterKey("pkcs11:object=x?module-path={SOFTHSM}", pin="1")):
    try: call()
    except (strongroom.HSMError, strongroom.MasterKeyError) as error: print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.count("pip install 'strongroom[hsm]'") == 2, done.stderr


@pytest.mark.parametrize(
    "change",
    ["del pkcs11._loaded", "del _pkcs11.lib", "del _pkcs11.SearchIter",
     "_pkcs11.SearchIter = type('SearchIter', (), {})"],
)  # fmt: skip
def test_another_python_pkcs11(change: str) -> None:
    program = f"""
import pkcs11; from pkcs11 import _pkcs11; {change}
import strongroom
try: strongroom.HSMKeyManager({SOFTHSM!r}, pin="1")
except strongroom.HSMError as error: print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "this version of python-pkcs11" in done.stdout, done.stderr
    assert "pip install 'strongroom[hsm]'" in done.stdout


def test_the_package_has_two_importers_of_pkcs11() -> None:
    import strongroom

    root = Path(strongroom.__file__).parent
    pattern = ("import pkcs11", "from pkcs11")
    found = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if any(line.strip().startswith(pattern) for line in path.read_text().splitlines())
    ]
    # The bench measures against it.
    assert sorted(found) == ["bench/tokens.py", "hsm/binding.py", "hsm/ed25519.py"]


def test_importing_the_package_does_not_import_pkcs11() -> None:
    program = (
        "import sys, strongroom.hsm, strongroom.masters.pkcs11; print('pkcs11' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n"
