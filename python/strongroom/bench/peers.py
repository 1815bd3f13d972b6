"""The peers, each by name: what must be installed for it and how one call of it is written."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from .measure import Contender

KEY_LEN: Final = 32
NONCE_LEN: Final = 12
TAG_LEN: Final = 16

# Encrypt and decrypt of the same data.
Pair = tuple[Contender, Contender]


@dataclass(frozen=True)
class Peer:
    """A library that encrypts a buffer.

    Attributes:
        name: As it stands in tables.
        package: The distribution that it comes from, for its version.
        module: What is imported to see whether it is there.
        make: Returns its encrypt and decrypt for some plaintext, without names and sizes.
        largest: Plaintexts of more bytes are not given to it: it would take the time of all.
    """

    name: str
    package: str
    module: str
    make: Callable[[bytes], Pair]
    largest: int = 1 << 62

    def missing(self) -> str | None:
        """Say why the peer can't take part, or None where it can."""
        try:
            importlib.import_module(self.module)
        except ImportError as error:
            return f"{self.package} is not installed or does not load ({error})"
        return None

    def contenders(self, data: bytes) -> Pair:
        """Return encrypt and decrypt of `data`."""
        pair = self.make(data)
        for contender in pair:
            contender.name = self.name
            contender.size = len(data)
        return pair


def _aesgcm(data: bytes) -> Pair:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher, nonce = AESGCM(os.urandom(KEY_LEN)), os.urandom(NONCE_LEN)
    message = cipher.encrypt(nonce, data, None)
    names = {
        "encrypt": cipher.encrypt,
        "decrypt": cipher.decrypt,
        "urandom": os.urandom,
        "data": data,
        "message": message,
        "nonce": nonce,
    }
    return (
        Contender("", "encrypt(urandom(12), data, None)", names),
        Contender("", "decrypt(nonce, message, None)", names),
    )


def _aesgcm_into(data: bytes) -> Pair:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher, nonce = AESGCM(os.urandom(KEY_LEN)), os.urandom(NONCE_LEN)
    message = cipher.encrypt(nonce, data, None)
    names = {
        "encrypt": cipher.encrypt_into,
        "decrypt": cipher.decrypt_into,
        "urandom": os.urandom,
        "data": data,
        "message": message,
        "nonce": nonce,
        "sealed": bytearray(len(data) + TAG_LEN),
        "opened": bytearray(len(data)),
    }
    return (
        Contender("", "encrypt(urandom(12), data, None, sealed)", names),
        Contender("", "decrypt(nonce, message, None, opened)", names),
    )


def _cobblestone(data: bytes) -> Pair:
    # The stubs of cryptography before 50 don't know it.
    module: Any = importlib.import_module("cryptography.cobblestone")

    key = os.urandom(KEY_LEN)
    encryptor = module.Cobblestone256Encryptor(key, b"")
    message = encryptor.update(data) + encryptor.finalize()
    names = {
        "Encryptor": module.Cobblestone256Encryptor,
        "Decryptor": module.Cobblestone256Decryptor,
        "key": key,
        "data": data,
        "message": message,
    }
    return (
        Contender("", "e = Encryptor(key, b''); e.update(data); e.finalize()", names),
        Contender("", "d = Decryptor(key, b''); d.update(message); d.finalize()", names),
    )


def _tink(data: bytes) -> Pair:
    tink: Any = importlib.import_module("tink")
    aead: Any = importlib.import_module("tink.aead")

    aead.register()
    primitive = tink.new_keyset_handle(aead.aead_key_templates.AES256_GCM).primitive(aead.Aead)
    names = {
        "encrypt": primitive.encrypt,
        "decrypt": primitive.decrypt,
        "data": data,
        "message": primitive.encrypt(data, b""),
    }
    return (
        Contender("", "encrypt(data, b'')", names),
        Contender("", "decrypt(message, b'')", names),
    )


def _rencrypt(data: bytes) -> Pair:
    rencrypt: Any = importlib.import_module("rencrypt")

    meta = rencrypt.CipherMeta.Ring(rencrypt.RingAlgorithm.Aes256Gcm)
    cipher = rencrypt.Cipher(meta, bytearray(os.urandom(KEY_LEN)))
    # It writes into a buffer of the caller's and adds tag and nonce.
    sealed = bytearray(len(data) + TAG_LEN + NONCE_LEN)
    length = cipher.seal_in_place_from(data, sealed)
    names = {
        "seal": cipher.seal_in_place_from,
        "open_": cipher.open_in_place_from,
        "data": data,
        "sealed": bytearray(sealed),
        "message": bytes(sealed[:length]),
        "opened": bytearray(len(sealed)),
    }
    return (
        Contender("", "seal(data, sealed)", names),
        Contender("", "open_(message, opened)", names),
    )


def _pynacl(data: bytes) -> Pair:
    secret: Any = importlib.import_module("nacl.secret")

    box = secret.SecretBox(os.urandom(KEY_LEN))
    names = {
        "encrypt": box.encrypt,
        "decrypt": box.decrypt,
        "data": data,
        "message": bytes(box.encrypt(data)),
    }
    return Contender("", "encrypt(data)", names), Contender("", "decrypt(message)", names)


def _fernet(data: bytes) -> Pair:
    from cryptography.fernet import Fernet

    fernet = Fernet(Fernet.generate_key())
    names = {
        "encrypt": fernet.encrypt,
        "decrypt": fernet.decrypt,
        "data": data,
        "message": fernet.encrypt(data),
    }
    return Contender("", "encrypt(data)", names), Contender("", "decrypt(message)", names)


def _pyrage(data: bytes) -> Pair:
    pyrage: Any = importlib.import_module("pyrage")

    identity = pyrage.x25519.Identity.generate()
    recipients = [identity.to_public()]
    names = {
        "encrypt": pyrage.encrypt,
        "decrypt": pyrage.decrypt,
        "recipients": recipients,
        "identities": [identity],
        "data": data,
        "message": pyrage.encrypt(data, recipients),
    }
    return (
        Contender("", "encrypt(data, recipients)", names),
        Contender("", "decrypt(message, identities)", names),
    )


def _aws(data: bytes) -> Pair:
    sdk: Any = importlib.import_module("aws_encryption_sdk")
    identifiers: Any = importlib.import_module("aws_encryption_sdk.identifiers")
    raw: Any = importlib.import_module("aws_encryption_sdk.key_providers.raw")
    wrapping: Any = importlib.import_module("aws_encryption_sdk.internal.crypto.wrapping_keys")

    wrapped = wrapping.WrappingKey(
        wrapping_algorithm=identifiers.WrappingAlgorithm.AES_256_GCM_IV12_TAG16_NO_PADDING,
        wrapping_key=os.urandom(KEY_LEN),
        wrapping_key_type=identifiers.EncryptionKeyType.SYMMETRIC,
    )

    class Provider(raw.RawMasterKeyProvider):  # type: ignore[misc]
        provider_id = "bench"

        def _get_raw_key(self, key_id: str) -> Any:  # noqa: ANN401
            return wrapped

    provider = Provider()
    provider.add_master_key("bench")
    client = sdk.EncryptionSDKClient(
        commitment_policy=identifiers.CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT
    )
    message, _ = client.encrypt(source=data, key_provider=provider)
    names = {
        "encrypt": client.encrypt,
        "decrypt": client.decrypt,
        "provider": provider,
        "data": data,
        "message": message,
    }
    return (
        Contender("", "encrypt(source=data, key_provider=provider)", names),
        Contender("", "decrypt(source=message, key_provider=provider)", names),
    )


AESGCM: Final = "AESGCM"
AESGCM_INTO: Final = "AESGCM into"
COBBLESTONE: Final = "Cobblestone-256"
TINK: Final = "Tink Aead"

PEERS: Final = (
    Peer(AESGCM, "cryptography", "cryptography.hazmat.primitives.ciphers.aead", _aesgcm),
    Peer(AESGCM_INTO, "cryptography", "cryptography.hazmat.primitives.ciphers.aead", _aesgcm_into),
    Peer(COBBLESTONE, "cryptography", "cryptography.cobblestone", _cobblestone),
    Peer(TINK, "tink", "tink.aead", _tink),
    Peer("rencrypt", "rencrypt", "rencrypt", _rencrypt),
    Peer("PyNaCl SecretBox", "PyNaCl", "nacl.secret", _pynacl),
    Peer("Fernet", "cryptography", "cryptography.fernet", _fernet, 1 << 24),
    Peer("pyrage", "pyrage", "pyrage", _pyrage, 1 << 26),
    Peer("aws-encryption-sdk", "aws-encryption-sdk", "aws_encryption_sdk", _aws, 1 << 24),
)


def present(wanted: list[str] | None = None) -> tuple[list[Peer], dict[str, str]]:
    """Return the peers that can take part, and for each of the others by name why it can't.

    Args:
        wanted: Names to look for, or None for all.
    """
    found, left_out = [], {}
    for peer in PEERS:
        if wanted is not None and peer.name not in wanted:
            continue
        why = peer.missing()
        if why is None:
            found.append(peer)
        else:
            left_out[peer.name] = why
    return found, left_out


def versions() -> dict[str, str | None]:
    """Return the version of each peer's distribution, None for what is not installed."""
    found: dict[str, str | None] = {}
    for package in sorted({peer.package for peer in PEERS}):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found
