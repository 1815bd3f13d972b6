"""What only a shim in front of SoftHSM shows: refused PINs, odd tokens, answers that are lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bad_input import seeded
from hsm_help import PIN, SHIM, SOFTHSM, Backend, Tokens, label, shimmed

# --- PINs: H1, H2 --------------------------------------------------------------------------------


def test_a_wrong_pin_is_sent_once() -> None:
    said = shimmed("""
for _ in range(5):
    try: open_manager(pin="0000")
    except HSMError as error: print(error.code)
assert shim.calls.count("C_Login") == 1, shim.calls
# The session of a login that was refused is closed.
assert shim.calls[shim.calls.index("C_Login") + 1] == "C_CloseSession"
assert shim.calls.count("C_OpenSession") == shim.calls.count("C_CloseSession") == 1
with open_manager() as hsm: hsm.list_keys()
assert shim.calls.count("C_Login") == 2
""")
    assert said.split() == ["160", "None", "None", "None", "None"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (0xA0, "wrong"), (0xA1, "characters"), (0xA2, "too short or too long"), (0xA3, "expired"),
        (0xA4, "locked"), (0x102, "no user PIN"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("forever", [0, 1])
def test_a_refusal_is_named_and_not_repeated(code: int, said: str, forever: int) -> None:
    text = shimmed(
        """
code, forever = map(int, arguments)
shim.fault(code, function="C_Login", forever=bool(forever))
for _ in range(3):
    try: open_manager()
    except HSMError as error: print(error)
assert shim.calls.count("C_Login") == 1
""",
        code,
        forever,
    )
    assert said in text.splitlines()[0]
    assert text.count("refused this PIN before") == 2


def test_an_accepted_pin_is_sent_once_a_recovery() -> None:
    shimmed(
        """
with open_manager() as hsm:
    key_id = hsm.generate_key(arguments[0])
    assert shim.calls.count("C_Login") == 1
    for number in range(1, 6):
        shim.fault(0xb3, function="C_Encrypt")
        assert hsm.decrypt(key_id, hsm.encrypt(key_id, b"x")) == b"x"
        assert shim.calls.count("C_Login") == 1 + number
    # And never again once it is refused: the token's PIN was changed.
    shim.reset()
    shim.fault(0xa0, function="C_Login", forever=True)
    from strongroom.hsm.module import get_module
    (token,) = get_module(path).tokens.values()
    token._session_epoch = None
    token._lane.forget()
    for _ in range(3):
        try: hsm.encrypt(key_id, b"x")
        except HSMError as error: print(error.code)
    assert shim.calls.count("C_Login") == 1
""",
        label(),
    )


def test_no_session_stays_open() -> None:
    # Whatever the token says when it is to log out, and when others in the process are logged in.
    shimmed("""
import pkcs11
for code in (0x101, 0xb3, 0x05, 0x06):
    shim.reset()
    shim.fault(code, function="C_Logout", forever=True)
    open_manager().close()
    assert shim.calls[-2:] == ["C_Logout", "C_CloseSession"], shim.calls
shim.reset()
found = [slot.get_token() for slot in pkcs11.lib(path).get_slots()]
token = next(token for token in found if token.label == LABEL)
with token.open(rw=True, user_pin=PIN) as session:
    shim.reset()
    for _ in range(5): open_manager().close()
    assert shim.calls.count("C_OpenSession") == shim.calls.count("C_CloseSession") == 5
    assert "C_Logout" not in shim.calls
""")


# --- Odd tokens ------------------------------------------------------------------------------


def test_a_token_that_makes_its_own_nonces() -> None:
    shimmed(
        """
shim.set("own_nonce")
with open_manager() as hsm:
    data, master = hsm.generate_key(arguments[0]), hsm.generate_key("master:" + arguments[0])
    seen = set()
    for number in range(200):
        message = hsm.encrypt(data, b"plaintext", b"ad")
        assert message[20:32] == shim.last_nonce
        seen.add(message[20:32])
        assert hsm.decrypt(data, message, b"ad") == b"plaintext"
    assert len(seen) == 200
    key = MemoryLockedKey.generate()
    wrapped = hsm.wrap_key(master, key)
    assert wrapped[21:33] == shim.last_nonce
    assert hsm.unwrap_key(master, wrapped, key.key_id).key_id == key.key_id
    details = {check.name: check.detail for check in hsm.self_test()}
    assert "the token makes the nonces" in details["encryption"]
""",
        label(),
    )


def test_our_nonces_are_what_the_token_uses() -> None:
    shimmed(
        """
with open_manager() as hsm:
    key_id = hsm.generate_key(arguments[0])
    for _ in range(100):
        assert hsm.encrypt(key_id, b"x")[20:32] == shim.last_nonce
    # Each comes from the token when it is used: none lies in a buffer that a snapshot would copy.
    assert shim.calls.count("C_GenerateRandom") == 100
""",
        label(),
    )


def test_keys_of_ours_make_no_object_and_one_call() -> None:
    shimmed(
        """
with open_manager() as hsm:
    data, master = hsm.generate_key(arguments[0]), hsm.generate_key("master:" + arguments[0])
    key = MemoryLockedKey.generate()
    hsm.unwrap_key(master, hsm.wrap_key(master, key), key.key_id)
    hsm.decrypt(data, hsm.encrypt(data, b"x"))
    shim.reset()
    hsm.unwrap_key(master, hsm.wrap_key(master, key), key.key_id)
    hsm.decrypt(data, hsm.encrypt(data, b"x"))
    assert shim.calls == 2 * ["C_GenerateRandom", "C_EncryptInit", "C_Encrypt", "C_DecryptInit",
                              "C_Decrypt"], shim.calls
""",
        label(),
    )


@pytest.mark.parametrize("byte", [0, 7])
def test_a_generator_that_repeats_itself(byte: int) -> None:
    shimmed(
        """
shim.set("stuck_rng", 256 + int(arguments[1]))
with open_manager() as hsm:
    key_id = hsm.generate_key(arguments[0])
    nonces = {hsm.encrypt(key_id, b"x")[20:32] for _ in range(200)}
    assert len(nonces) == 200 and bytes(12) not in nonces
    assert shim.calls.count("C_GenerateRandom") <= 2
    results = {check.name: check.result for check in hsm.self_test()}
    assert results["random numbers"] == "failed" and results["encryption"] == "yes"
""",
        label(),
        byte,
    )


def test_a_token_whose_output_has_another_length() -> None:
    shimmed(
        """
with open_manager() as hsm:
    key_id = hsm.generate_key(arguments[0])
    message = hsm.encrypt(key_id, b"x")
    for name, call in (("short_seal", lambda: hsm.encrypt(key_id, b"x")),
                       ("short_open", lambda: hsm.decrypt(key_id, message))):
        shim.set(name)
        try: call()
        except HSMError as error: assert "another number of bytes" in str(error), error
        else: raise AssertionError(name)
        shim.set(name, 0)
    assert hsm.decrypt(key_id, message) == b"x"
""",
        label(),
    )


def test_a_token_without_a_generator() -> None:
    shimmed(
        """
shim.set("no_rng")
with open_manager() as hsm:
    key_id = hsm.generate_key(arguments[0])
    assert len({hsm.encrypt(key_id, b"x")[20:32] for _ in range(200)}) == 200
    assert shim.calls.count("C_GenerateRandom") == 1
    results = {check.name: check.result for check in hsm.self_test()}
    assert results["random numbers"] == "no" and results["encryption"] == "yes"
""",
        label(),
    )


@pytest.mark.parametrize("way", ["AES-KWP", "AES-KW"])
def test_a_token_without_gcm(way: str, tmp_path: Path) -> None:
    text = shimmed(
        """
from strongroom.hsm import binding
from independent import reader
name, way, folder = arguments
shim.set("no_gcm")
if way == "AES-KW":
    binding.KWP_NAMES = ("AES_KEY_WRAP_KWP",)  # Which SoftHSM does not have.
with open_manager() as hsm:
    master = hsm.generate_key(name)
    (key,) = hsm.list_keys(name)
    assert key.mechanism == "wrap" and key.active, key
    wanted = MemoryLockedKey.generate()
    wrapped = hsm.wrap_key(master, wanted)
    print(wrapped[4], len(wrapped))
    assert hsm.unwrap_key(master, wrapped, wanted.key_id).key_id == wanted.key_id
    for bit in range(8 * 21, 8 * len(wrapped)):
        changed = bytearray(wrapped); changed[bit // 8] ^= 1 << bit % 8
        try: hsm.unwrap_key(master, changed, wanted.key_id)
        except DecryptionError: pass
        else: raise AssertionError(bit)
    # Nothing binds the context but the id that is derived from the key.
    try: hsm.unwrap_key(master, wrapped, "00" * 16)
    except DecryptionError: pass
    else: raise AssertionError
    try: hsm.encrypt(master, b"x")
    except KeyStateError: pass
    else: raise AssertionError
    older = master
    master = hsm.rotate(name)
    assert hsm.find(name) == master
    assert hsm.unwrap_key(master, wrapped, wanted.key_id).key_id == wanted.key_id
    # By the same algorithm elsewhere.
    import pkcs11, secrets
    from pkcs11 import Attribute as A
    value, known = secrets.token_bytes(32), bytes.fromhex("00000001") + secrets.token_bytes(12)
    found = [slot.get_token() for slot in pkcs11.lib(os.path.realpath(path)).get_slots()]
    session = next(token for token in found if token.label == LABEL).open(rw=True)
    session.create_object({A.CLASS: pkcs11.ObjectClass.SECRET_KEY, A.KEY_TYPE: pkcs11.KeyType.AES,
        A.TOKEN: True, A.PRIVATE: True, A.SENSITIVE: True, A.EXTRACTABLE: False, A.ENCRYPT: False,
        A.DECRYPT: False, A.WRAP: True, A.UNWRAP: True, A.ID: known, A.VALUE: value,
        A.LABEL: "master:known-" + name})
    wrapped = hsm.wrap_key(known.hex(), wanted)
    opened = reader.token_master(value, known)(wrapped, bytes.fromhex(wanted.key_id))
    assert opened == bytes(wanted.get())
    uri = f"pkcs11:token={LABEL};object={name}?module-path={path}"
    url = f"sqlite:///{folder}/keys.db"
    with Pkcs11MasterKey(uri, pin=PIN) as provider, KeyStore.create(url, provider) as store:
        print(provider.mechanism, store.masters()[0].mechanism)
    hsm.rotate(name)
    with Pkcs11MasterKey(uri, pin=PIN) as provider, KeyStore.open(url, provider) as store:
        store.get_current_key()
""",
        label("master:"),
        way,
        tmp_path,
    )
    byte = 2 if way == "AES-KWP" else 3
    assert text.split() == [str(byte), "61", str(byte), str(byte)]


def test_a_token_that_makes_extractable_keys() -> None:
    text = shimmed(
        """
with open_manager() as hsm:
    shim.set("lie_extractable")
    for name in arguments:
        try: hsm.generate_key(name)
        except HSMError as error: print(error)
        assert hsm.list_keys(name) == []
    assert shim.calls.count("C_DestroyObject") == 2
    shim.set("lie_extractable", 0)
    first = hsm.generate_key(arguments[0])
    shim.set("lie_extractable")
    try: hsm.rotate(arguments[0])
    except HSMError as error: print(error)
    assert hsm.find(arguments[0]) == first and len(hsm.list_keys(arguments[0])) == 1
""",
        label(),
        label("master:"),
    )
    assert text.count("CKA_EXTRACTABLE") == 3
    assert text.count("now destroyed") == 3


# --- Answers that are lost --------------------------------------------------------------------


LOST_ANSWERS = """
import json
from strongroom.errors import StrongroomError
name = arguments[0]
points = [tuple(p) for p in json.loads(arguments[1])]
def life(hsm, label):
    first = hsm.generate_key(label)
    message = hsm.encrypt(first, b"first")
    second = hsm.rotate(label)
    assert hsm.decrypt(second, message) == b"first"
    hsm.destroy_key(first)
    return second
with open_manager() as hsm:
    shim.reset()
    life(hsm, name)
    calls = shim.calls
if not points:
    print(json.dumps(calls)); sys.exit()
for code, at, after in points:
    child = os.fork()
    if child == 0:
        label = f"{name}-{code}-{at}-{after}"
        with HSMKeyManager(path, token_label=LABEL, pin=lambda: PIN) as hsm:
            hsm.list_keys()
            shim.reset()
            shim.fault(code, at, after=bool(after))
            try:
                assert life(hsm, label) == hsm.find(label)
            except BaseException as error:
                print(code, at, after, calls[at - 1], repr(error), flush=True)
            shim.reset()
            left = hsm.list_keys(label)
            if [key.version for key in left] != [2] or not left[0].active:
                print(code, at, after, calls[at - 1], left, flush=True)
            # SoftHSM reads all that is there whenever it is initialised.
            for key in left: hsm.destroy_key(key.id)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""
LOST_CODES = [0xB3, 0x30, 0x82, 0x190]


def lost_answers(points: list[tuple[int, int, int]]) -> str:
    return shimmed(LOST_ANSWERS, label("lost"), json.dumps(points))


def every_lost_answer() -> list[tuple[int, int, int]]:
    calls = json.loads(lost_answers([]))
    return [
        (code, at, after)
        for code in LOST_CODES
        for at in range(1, len(calls) + 1)
        for after in (0, 1)
    ]


def test_a_life_of_keys_with_a_lost_answer() -> None:
    assert lost_answers(seeded().sample(every_lost_answer(), 40)) == ""


@pytest.mark.sweep
def test_every_lost_answer() -> None:
    points = every_lost_answer()
    # A few in each process, which must end in time also on a machine that is busy.
    for at in range(0, len(points), 20):
        assert lost_answers(points[at : at + 20]) == ""


# --- Killed while it rotates: H9 ----------------------------------------------------------------


KILLED = """
import json
name, points = arguments[0], json.loads(arguments[1])
with open_manager() as hsm:
    first, master = hsm.generate_key(name), hsm.generate_key("master:" + name)
    key = MemoryLockedKey.generate()
    message, wrapped = hsm.encrypt(first, b"x"), hsm.wrap_key(master, key)
    shim.reset()
    hsm.rotate(name); hsm.rotate("master:" + name)
    count = len(shim.calls)
if not points:
    print(count); sys.exit()
for at in points:
    child = os.fork()
    if child == 0:
        with HSMKeyManager(path, token_label=LABEL, pin=lambda: PIN) as hsm:
            hsm.list_keys()
            shim.reset()
            shim.set("kill_at", at)
            hsm.rotate(name); hsm.rotate("master:" + name)
        os._exit(0)
    killed = os.waitpid(child, 0)[1] == 9
    with open_manager() as hsm:
        for label in (name, "master:" + name):
            primary = hsm.find(label)
            active = [k for k in hsm.list_keys(label) if k.active]
            assert max(active, key=lambda k: k.version).id == primary, (at, active)
        assert hsm.decrypt(hsm.find(name), message) == b"x"
        assert hsm.encrypt(hsm.find(name), b"y")
        back = hsm.unwrap_key(hsm.find("master:" + name), wrapped, key.key_id)
        assert back.key_id == key.key_id
    print(at, int(killed))
"""


def killed(points: list[int]) -> list[list[str]]:
    return [line.split() for line in shimmed(KILLED, label(), json.dumps(points)).splitlines()]


def test_killed_while_it_rotates() -> None:
    count = int(killed([])[0][0])
    points = seeded().sample(range(1, count + 1), 12)
    assert sum(int(found[1]) for found in killed(points)) > 6


@pytest.mark.sweep
def test_killed_at_each_call_of_a_rotation() -> None:
    count = int(killed([])[0][0])
    points = list(range(1, count + 1))
    for at in range(0, count, 20):
        assert len(killed(points[at : at + 20])) == len(points[at : at + 20])


# --- Out of reach: H4, H5, timeouts -------------------------------------------------------------


def test_the_token_goes_and_comes_back(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path)
    own = Backend("softhsm")
    own.environment = tokens.environment
    own.python(
        """
tokens = arguments[0]
with open_manager() as hsm:
    key_id = hsm.generate_key("key")
    message = hsm.encrypt(key_id, b"x")
    for _ in range(3):
        # A key that was used, and one that was not yet.
        other = hsm.generate_key(f"other-{_}")
        os.rename(tokens, tokens + ".away")
        for call in (lambda: hsm.encrypt(other, b"y"), lambda: hsm.encrypt(key_id, b"y"),
                     lambda: hsm.decrypt(key_id, message), lambda: hsm.find("other-0")):
            began = time.perf_counter()
            try: call()
            except HSMError as error: pass
            else: raise AssertionError
            assert time.perf_counter() - began < 1
        os.rename(tokens + ".away", tokens)
        assert hsm.decrypt(key_id, message) == b"x"
        assert hsm.decrypt(key_id, hsm.encrypt(key_id, b"y")) == b"y"
        assert hsm.encrypt(other, b"y")
""",
        tmp_path / "softhsm",
    )


@pytest.mark.parametrize("code", [0xB1, 0x02, 0x05])
def test_no_session_to_be_had(code: int) -> None:
    text = shimmed(
        """
code = int(arguments[0])
with open_manager() as hsm:
    key_id = hsm.generate_key(arguments[1])
    shim.reset()
    shim.fault(0xb3, function="C_Encrypt", forever=True)
    try: hsm.encrypt(key_id, b"x")
    except HSMError as error: print(error.retryable)
    shim.reset()
    shim.fault(code, function="C_OpenSession", forever=True)
    try: hsm.encrypt(key_id, b"x")
    except HSMError as error: print(error.code, error.retryable)
    # Nothing that was opened stays open.
    shim.reset()
    assert hsm.encrypt(key_id, b"x")
    assert shim.calls.count("C_OpenSession") == 1
""",
        code,
        label(),
    )
    assert text.split() == ["True", str(code), "True"]


def test_waiting_for_a_token_ends() -> None:
    shimmed(
        """
shim.set("stall_ms", 1500)
with open_manager(timeout=0.2) as hsm:
    key_id = hsm.generate_key(arguments[0])
    inside = threading.Thread(target=hsm.encrypt, args=(key_id, b"x"))
    shim.reset()
    inside.start()
    while "C_Encrypt" not in shim.calls: os.sched_yield()
    began = time.perf_counter()
    try: hsm.list_keys()
    except HSMError as error: assert error.retryable and "busy" in str(error), error
    else: raise AssertionError
    assert 0.15 < time.perf_counter() - began < 1
    inside.join()
    shim.set("stall_ms", 0)
    assert hsm.list_keys()
""",
        label(),
    )


def test_a_signal_handler_does_not_share_the_nonce() -> None:
    shimmed(
        """
import signal
with open_manager() as hsm:
    key_id = hsm.generate_key(arguments[0])
    refused, nonces = [], []
    def handler(*_):
        try: nonces.append(hsm.encrypt(key_id, b"from the handler")[20:32])
        except HSMError as error: refused.append(error)
        signal.setitimer(signal.ITIMER_REAL, 0.0003)
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0003)
    while len(refused) < 100:
        nonces.append(hsm.encrypt(key_id, b"x")[20:32])
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    assert len(set(nonces)) == len(nonces)
    assert refused and "signal handler" in str(refused[0])
""",
        label(),
    )


def test_the_shim_is_in_front_of_softhsm() -> None:
    assert SHIM.exists()
    assert Path(SOFTHSM).exists()
    assert PIN
