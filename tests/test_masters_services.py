"""Masters that others keep: AWS KMS (a moto server), Vault (a stub of its API), the keychain."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import os
import pickle
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from strongroom import (
    AwsKmsMasterKey,
    DecryptionError,
    EnvelopeEncryption,
    FileMasterKey,
    KeyringMasterKey,
    KeyStore,
    MasterKeyError,
    MasterKeyProvider,
    MemoryLockedKey,
    VaultTransitMasterKey,
)
from strongroom.masters import open_master, wrapped
from vault_server import TOKEN, Handler, Vault, vault

__all__ = ["vault"]

ACCOUNT = "123456789012"


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture
def aws(moto: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A KMS client; boto3's configuration is the environment's."""
    import boto3

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", TOKEN)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    return boto3.session.Session().client("kms", endpoint_url=moto)


def vault_master(vault: Vault, name: str = "main", **options: Any) -> VaultTransitMasterKey:
    options = {"address": vault.address, "token": TOKEN, "timeout": 5.0, **options}
    return VaultTransitMasterKey(f"transit/keys/{name}", **options)


@pytest.fixture(params=["vault", "aws"])
def master(request: pytest.FixtureRequest) -> MasterKeyProvider:
    if request.param == "vault":
        return vault_master(request.getfixturevalue("vault"))
    made = request.getfixturevalue("aws").create_key()
    return AwsKmsMasterKey(made["KeyMetadata"]["Arn"])


@pytest.fixture
def key() -> MemoryLockedKey:
    return MemoryLockedKey.generate()


def no_secret(error: BaseException, key: MemoryLockedKey) -> None:
    """Neither the error nor what it came from shows the token or the key."""
    seen: BaseException | None = error
    while seen is not None:
        material = bytes(key.get())
        for secret in (TOKEN, material.hex(), base64.b64encode(material).decode(), repr(material)):
            assert secret not in str(seen) + repr(seen)
        assert seen.__cause__ is None
        seen = None if seen.__suppress_context__ else seen.__context__


# -- what all of them do ---------------------------------------------------------------------


def test_the_protocol(master: Any, key: MemoryLockedKey) -> None:
    assert isinstance(master, MasterKeyProvider)
    full_name = master.uri.removeprefix("vault:").removeprefix("awskms:///")
    assert master.key_id == hashlib.sha256(full_name.encode()).digest()[:16].hex()
    data = wrapped.wrap_with(master, key)
    assert wrapped.parse(data)[:2] == (wrapped.SERVICE, master.key_id)
    assert wrapped.unwrap_with(master, data, key.key_id).get() == key.get()
    again = wrapped.rewrap_with(master, data, key)
    assert again != data
    assert wrapped.unwrap_with(master, again, key.key_id).get() == key.get()
    for broken in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            broken(master)
    assert TOKEN not in repr(master) + master.uri


def test_the_context_is_bound(master: Any, key: MemoryLockedKey) -> None:
    blob = master.wrap(key, key.key_id)
    for use in (master.unwrap, master.rewrap):
        with pytest.raises(DecryptionError):
            use(blob, "00" * 16)
        changed = bytearray(blob)
        changed[-9] ^= 1
        with pytest.raises((DecryptionError, MasterKeyError)):
            use(bytes(changed), key.key_id)
        with pytest.raises((DecryptionError, MasterKeyError)):
            use(b"\xff\xfenonsense", key.key_id)


def test_a_store_and_envelopes(master: Any, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'keys.db'}"
    with KeyStore.create(url, master):
        pass
    with KeyStore.open(url, master) as store, EnvelopeEncryption(master, store) as envelopes:
        message = envelopes.encrypt(b"value")
        assert envelopes.decrypt(message) == b"value"
    with EnvelopeEncryption(master) as envelopes:
        message = envelopes.encrypt(b"value")
    with EnvelopeEncryption(master) as another:
        assert another.decrypt(message) == b"value"


def test_a_forked_child_has_connections_of_its_own(master: Any, key: MemoryLockedKey) -> None:
    blob = master.wrap(key, key.key_id)
    material = bytes(key.get())
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if bytes(master.unwrap(blob, key_id_of(blob, material))) == material else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert master.unwrap(blob, key.key_id) == material


def key_id_of(_: bytes, material: bytes) -> str:
    return MemoryLockedKey(material).key_id


def test_the_other_masters_key(master: Any, key: MemoryLockedKey, tmp_path: Path) -> None:
    data = wrapped.wrap_with(master, key)
    other = FileMasterKey.create(tmp_path / "other.key")
    with pytest.raises(MasterKeyError, match="not wrapped by a master like"):
        wrapped.unwrap_with(other, data, key.key_id)
    with KeyStore.create(f"sqlite:///{tmp_path / 'keys.db'}", other) as store:
        # Two masters of one store, and the root that both give is one.
        store.add_master(master)
        assert {m.uri for m in store.masters()} == {other.uri, master.uri}
    with KeyStore.open(f"sqlite:///{tmp_path / 'keys.db'}", master) as store:
        store.check()


# -- Vault -----------------------------------------------------------------------------------


def test_vault_of_another_name_or_server(vault: Vault, key: MemoryLockedKey) -> None:
    vault.make("other")
    data = wrapped.wrap_with(vault_master(vault), key)
    with pytest.raises(MasterKeyError, match="wrong master") as caught:
        wrapped.unwrap_with(vault_master(vault, "other"), data, key.key_id)
    assert not caught.value.retryable
    vault.keys["main"] = [secrets.token_bytes(32)]
    with pytest.raises(DecryptionError):
        wrapped.unwrap_with(vault_master(vault), data, key.key_id)
    with pytest.raises(MasterKeyError) as caught:
        wrapped.wrap_with(vault_master(vault, "nothing"), key)
    assert not caught.value.retryable


def test_vault_without_derivation_is_told_apart_by_key_id(
    vault: Vault, key: MemoryLockedKey
) -> None:
    vault.make("plain", derived=False)
    master = vault_master(vault, "plain")
    with MemoryLockedKey.generate() as another:
        blob = master.wrap(another, another.key_id)
    data = wrapped.header(wrapped.SERVICE, master.key_id) + blob
    with pytest.raises(MasterKeyError, match="another key"):
        wrapped.unwrap_with(master, data, key.key_id)


def test_vault_rewraps_inside(vault: Vault, key: MemoryLockedKey, tmp_path: Path) -> None:
    master = vault_master(vault)
    blob = master.wrap(key, key.key_id)
    vault.make("main")
    vault.calls.clear()
    again = master.rewrap(blob, key.key_id)
    assert vault.calls == ["rewrap"], "the key did not come out"
    assert (blob[:9], again[:9]) == (b"vault:v1:", b"vault:v2:")
    assert master.unwrap(again, key.key_id) == bytes(key.get())


def test_vault_wrong_token_and_none(
    vault: Vault, key: MemoryLockedKey, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(MasterKeyError, match="no right") as caught:
        vault_master(vault, token="hvs.wrong").wrap(key, key.key_id)
    assert not caught.value.retryable
    assert vault.calls == ["encrypt"], "what can't succeed is not tried again"
    monkeypatch.delenv("VAULT_TOKEN", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(MasterKeyError, match="VAULT_TOKEN"):
        vault_master(vault, token=None).wrap(key, key.key_id)
    monkeypatch.setenv("VAULT_ADDR", vault.address)
    monkeypatch.setenv("VAULT_TOKEN", TOKEN)
    master = open_master("vault:transit/keys/main")
    assert master.unwrap(master.wrap(key, key.key_id), key.key_id) == bytes(key.get())


@pytest.mark.parametrize(
    ("status", "retryable", "calls"),
    [
        (400, False, 1),
        (404, False, 1),
        (412, True, 3),
        (429, True, 3),
        (500, True, 3),
        (503, True, 3),
    ],
)
def test_vault_failures(
    vault: Vault, key: MemoryLockedKey, status: int, retryable: bool, calls: int
) -> None:
    material = base64.b64encode(key.get()).decode()
    said = {"errors": [f"secret {TOKEN} {material}"]}
    vault.instead = lambda call: call.answer(status, said, **{"Retry-After": "3600"})
    with pytest.raises(MasterKeyError) as caught:
        vault_master(vault).wrap(key, key.key_id)
    assert caught.value.retryable is retryable
    assert len(vault.calls) == calls
    no_secret(caught.value, key)


def test_vault_recovers_by_itself(vault: Vault, key: MemoryLockedKey) -> None:
    def once(call: Handler) -> None:
        vault.instead = None
        call.answer(503, {"errors": ["Vault is sealed"]})

    master = vault_master(vault)
    blob = master.wrap(key, key.key_id)
    vault.instead = once
    assert master.unwrap(blob, key.key_id) == bytes(key.get())
    assert vault.calls == ["encrypt", "decrypt", "decrypt"]


@pytest.mark.parametrize(
    "garbage",
    [
        b"not json",
        b"[]",
        b"null",
        b'{"data": null}',
        b'{"data": {}}',
        b'{"data": {"ciphertext": 5, "plaintext": 5}}',
        b'{"data": {"ciphertext": "v1", "plaintext": "%%%"}}',
        b'{"data": {"ciphertext": "", "plaintext": "AA=="}}',
        b"\xff\xfe\x00",
    ],
)
def test_vault_garbage(vault: Vault, key: MemoryLockedKey, garbage: bytes) -> None:
    master = vault_master(vault)
    data = wrapped.wrap_with(master, key)
    vault.instead = lambda call: call.answer(200, garbage)
    for use in (
        lambda: wrapped.wrap_with(master, key),
        lambda: wrapped.unwrap_with(master, data, key.key_id),
        lambda: wrapped.rewrap_with(master, data, key),
    ):
        with pytest.raises(MasterKeyError) as caught:
            use()
        assert not caught.value.retryable
        no_secret(caught.value, key)


def test_vault_sends_elsewhere(vault: Vault, key: MemoryLockedKey) -> None:
    vault.instead = lambda call: call.answer(307, b"", Location="http://127.0.0.1:1/v1/x")
    with pytest.raises(MasterKeyError, match="elsewhere"):
        vault_master(vault).wrap(key, key.key_id)
    assert vault.calls == ["encrypt"], "nothing was sent on"


def test_vault_too_slow_and_gone(vault: Vault, key: MemoryLockedKey) -> None:
    done = threading.Event()
    vault.instead = lambda call: done.wait(20) and None  # type: ignore[assignment]
    with pytest.raises(MasterKeyError, match="out of reach") as caught:
        vault_master(vault, timeout=0.1).wrap(key, key.key_id)
    assert caught.value.retryable
    assert len(vault.calls) == 3
    no_secret(caught.value, key)
    done.set()
    with pytest.raises(MasterKeyError, match="out of reach") as caught:
        vault_master(vault, address=f"http://127.0.0.1:{free_port()}").wrap(key, key.key_id)
    assert caught.value.retryable
    no_secret(caught.value, key)


def test_vault_names_and_addresses() -> None:
    for bad in ("keys/main", "transit/main", "transit/keys/", "transit/keys/a/b", "t/keys/a b", ""):
        with pytest.raises(ValueError, match="MOUNT/keys/NAME"):
            VaultTransitMasterKey(bad)
    assert VaultTransitMasterKey("a/b/keys/c").uri == "vault:a/b/keys/c"
    with pytest.raises(MasterKeyError, match="https"):
        VaultTransitMasterKey("transit/keys/main", address="http://vault.example:8200")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


# -- AWS KMS ---------------------------------------------------------------------------------


def test_aws_alias_is_its_key(aws: Any, key: MemoryLockedKey) -> None:
    arn = aws.create_key()["KeyMetadata"]["Arn"]
    alias = f"alias/test-{secrets.token_hex(4)}"
    aws.create_alias(AliasName=alias, TargetKeyId=arn)
    by_alias = open_master(f"awskms:///{alias}")
    data = wrapped.wrap_with(by_alias, key)
    assert by_alias.uri == f"awskms:///{arn}", "what a store keeps names the key itself"
    assert by_alias.key_id == AwsKmsMasterKey(arn).key_id
    assert wrapped.unwrap_with(AwsKmsMasterKey(arn), data, key.key_id).get() == key.get()
    aws.update_alias(AliasName=alias, TargetKeyId=aws.create_key()["KeyMetadata"]["Arn"])
    with pytest.raises(MasterKeyError, match="wrong master"):
        wrapped.unwrap_with(open_master(f"awskms:///{alias}"), data, key.key_id)


def test_aws_wrong_key_and_none(aws: Any, key: MemoryLockedKey) -> None:
    first, second = (aws.create_key()["KeyMetadata"]["Arn"] for _ in range(2))
    blob = AwsKmsMasterKey(first).wrap(key, key.key_id)
    with pytest.raises((DecryptionError, MasterKeyError)):
        AwsKmsMasterKey(second).unwrap(blob, key.key_id)
    nothing = AwsKmsMasterKey(first[:-12] + "0" * 12)
    with pytest.raises(MasterKeyError, match="no such key") as caught:
        nothing.wrap(key, key.key_id)
    assert not caught.value.retryable
    with pytest.raises(MasterKeyError, match="no such key"):
        _ = AwsKmsMasterKey("alias/nothing").key_id


def test_aws_without_credentials_or_region(
    aws: Any, key: MemoryLockedKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    arn = aws.create_key()["KeyMetadata"]["Arn"]
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert AwsKmsMasterKey(arn).wrap(key, key.key_id), "the ARN names the region"
    with pytest.raises(MasterKeyError, match="region"):
        AwsKmsMasterKey("alias/main").wrap(key, key.key_id)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(MasterKeyError, match="no AWS credentials") as caught:
        AwsKmsMasterKey(arn).wrap(key, key.key_id)
    assert not caught.value.retryable


class Kms(ThreadingHTTPServer):
    """A server that answers every call with one status and body."""

    daemon_threads = True

    def __init__(self, status: int, body: bytes) -> None:
        self.status, self.body, self.calls = status, body, 0
        super().__init__(("127.0.0.1", 0), KmsHandler)


class KmsHandler(BaseHTTPRequestHandler):
    server: Kms

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.calls += 1
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        pass


ARN = f"arn:aws:kms:eu-central-1:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        (400, "AccessDeniedException", False),
        (400, "DisabledException", False),
        (400, "KMSInvalidStateException", False),
        (400, "UnrecognizedClientException", False),
        (400, "ThrottlingException", True),
        (400, "LimitExceededException", True),
        (500, "KMSInternalException", True),
        (500, "KeyUnavailableException", True),
        (500, "DependencyTimeoutException", True),
        (502, "", True),
    ],
)
def test_aws_failures(
    aws: Any, key: MemoryLockedKey, status: int, code: str, retryable: bool
) -> None:
    said = {"__type": code, "message": f"secret {TOKEN}"}
    with Kms(status, json.dumps(said).encode()) as kms:
        error = aws_error(kms, key)
    assert error.retryable is retryable
    assert code in str(error)
    # A throttled client waits between attempts; it is botocore that does.
    assert kms.calls == (3 if retryable else 1)


def aws_error(kms: Kms, key: MemoryLockedKey) -> MasterKeyError:
    thread = threading.Thread(target=kms.serve_forever, args=(0.01,))
    thread.start()
    try:
        address = f"http://127.0.0.1:{kms.server_address[1]}"
        with pytest.raises(MasterKeyError) as caught:
            AwsKmsMasterKey(ARN, endpoint_url=address).wrap(key, key.key_id)
        no_secret(caught.value, key)
        return caught.value
    finally:
        kms.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "body", [b"", b"not json", b"[]", b"{}", b'{"CiphertextBlob": 5}', b'{"CiphertextBlob": ""}']
)
def test_aws_garbage(aws: Any, key: MemoryLockedKey, body: bytes) -> None:
    with Kms(200, body) as kms:
        assert not aws_error(kms, key).retryable


def test_aws_too_slow_and_gone(aws: Any, key: MemoryLockedKey) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(MasterKeyError, match="out of reach") as caught:
            AwsKmsMasterKey(ARN, endpoint_url=address, timeout=0.1).wrap(key, key.key_id)
    assert caught.value.retryable
    no_secret(caught.value, key)
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(MasterKeyError, match="out of reach") as caught:
        AwsKmsMasterKey(ARN, endpoint_url=address).wrap(key, key.key_id)
    assert caught.value.retryable


# -- the keychain ----------------------------------------------------------------------------


def in_session(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program beside a gnome-keyring of its own that is unlocked."""
    script = (
        "printf 'the login password' | "
        "gnome-keyring-daemon --unlock --components=secrets >/dev/null"
        f' && exec "{sys.executable}" -c "$PROGRAM"'
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith(("DBUS_", "XDG_", "PYTHON_KEY"))}
    env |= {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder), "PROGRAM": program}
    return subprocess.run(
        ["dbus-run-session", "--", "sh", "-c", script],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_keychain_of_a_session(tmp_path: Path) -> None:
    done = in_session(
        """
import keyring
from strongroom import KeyringMasterKey, KeyStore, MasterKeyError, MemoryLockedKey
from strongroom.masters import create_master, open_master

try:
    open_master("keyring:strongroom/main")
except MasterKeyError as error:
    assert "holds no keyring:strongroom/main" in str(error), error
master, made = create_master("keyring:strongroom/main")
assert made and master.mechanism == 0 and len(master.key_id) == 32
same, made = create_master("keyring:strongroom/main")
assert not made and same.key_id == master.key_id
try:
    KeyringMasterKey.create("strongroom", "main")
    raise SystemExit("it was made twice")
except FileExistsError:
    pass
with MemoryLockedKey.generate() as key:
    blob = master.wrap(key, key.key_id)
    assert open_master("keyring:strongroom/main").unwrap(blob, key.key_id).get() == key.get()
with KeyStore.create("sqlite:///keys.db", master):
    pass
with KeyStore.open("sqlite:///keys.db", open_master("keyring:strongroom/main")) as store:
    assert store.masters()[0].uri == "keyring:strongroom/main"
keyring.set_password("strongroom", "garbage", "strongroom-master-key-1 xyz")
try:
    open_master("keyring:strongroom/garbage")
except MasterKeyError as error:
    assert "not a master key" in str(error) and "xyz" not in str(error), error
other = KeyringMasterKey.create("strongroom", "other")
try:
    KeyStore.open("sqlite:///keys.db", other)
except MasterKeyError as error:
    assert "wrong master" in str(error) and not error.retryable
print("all of it")
""",
        tmp_path,
    )
    assert done.stdout == "all of it\n", done.stderr


@pytest.mark.parametrize(
    ("backend", "text"),
    [
        ("keyring.backends.fail.Keyring", "no keychain"),
        ("keyring.backends.null.Keyring", "loses what it is given"),
    ],
)
def test_backends_that_keep_nothing(
    backend: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with using(backend, monkeypatch):
        for make in (KeyringMasterKey, KeyringMasterKey.create):
            with pytest.raises(MasterKeyError, match=text) as caught:
                make("strongroom", "main")
            assert not caught.value.retryable


class using:
    def __init__(self, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        import keyring
        from keyring import core

        self._before = keyring.get_keyring()
        if isinstance(backend, str):
            backend = core.load_keyring(backend)
        self._backend = backend

    def __enter__(self) -> None:
        import keyring

        keyring.set_keyring(self._backend)

    def __exit__(self, *_: object) -> None:
        import keyring

        keyring.set_keyring(self._before)


def test_a_keychain_that_hangs_is_locked_or_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    from keyring.backend import KeyringBackend
    from keyring.errors import KeyringLocked, PasswordSetError

    released = threading.Event()

    class Backend(KeyringBackend):
        priority = 1
        works: Callable[[], str | None]

        def get_password(self, service: str, username: str) -> str | None:
            return self.works()

        def set_password(self, service: str, username: str, password: str) -> None:
            if service == "refused":
                raise PasswordSetError(password)

        def delete_password(self, service: str, username: str) -> None:
            raise NotImplementedError

    def hang() -> str | None:
        released.wait(20)
        return None

    def locked() -> str | None:
        raise KeyringLocked("the secret is " + TOKEN)

    def gone() -> str | None:
        raise ConnectionRefusedError(TOKEN)

    backend = Backend()
    with using(backend, monkeypatch):
        for works, text, retryable in (
            (hang, "no answer within", True),
            (locked, "locked", True),
            (gone, "out of reach", True),
            (lambda: None, "holds no", False),
            (lambda: "garbage", "not a master key", False),
        ):
            backend.works = works
            with pytest.raises(MasterKeyError, match=text) as caught:
                KeyringMasterKey("strongroom", "main", timeout=0.2)
            assert caught.value.retryable is retryable
            assert TOKEN not in str(caught.value)
        released.set()
        backend.works = lambda: None
        with pytest.raises(MasterKeyError, match="holds no"):
            KeyringMasterKey.create("strongroom", "main")
        with pytest.raises(MasterKeyError, match="refused") as caught:
            KeyringMasterKey.create("refused", "main")
        assert "strongroom-master-key" not in str(caught.value)


# -- packages that are not there -------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "module", "extra"),
    [
        ("awskms:///alias/main", "boto3", "aws"),
        ("vault:transit/keys/main", "hvac", "vault"),
        ("keyring:strongroom/main", "keyring", "keyring"),
    ],
)
def test_a_missing_extra_is_one_sentence(
    uri: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MasterKeyError) as caught:
        open_master(uri)
    assert f"pip install 'strongroom[{extra}]'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not caught.value.retryable


def test_providers_come_in_late() -> None:
    program = (
        "import sys, strongroom, strongroom.masters as m; strongroom.EnvelopeEncryption; "
        "m.FileMasterKey, m.AwsKmsMasterKey, m.VaultTransitMasterKey, m.KeyringMasterKey; "
        "late = {'boto3', 'botocore', 'hvac', 'requests', 'keyring'}; "
        "print(sorted(late & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
