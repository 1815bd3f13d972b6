"""A master key in the transit secrets engine of HashiCorp Vault or OpenBao."""

from __future__ import annotations

import base64
import binascii
import os
import re
import threading
from typing import Any
from urllib.parse import urlsplit

from strongroom import _native
from strongroom.errors import DecryptionError, MasterKeyError
from strongroom.masters.service import (
    ATTEMPTS,
    CONNECT_SECONDS,
    READ_SECONDS,
    ServiceMaster,
    load,
    service_key_id,
)

__all__ = ["VaultTransitMasterKey"]

_PATH = re.compile(r"(?P<mount>[\w.-]+(?:/[\w.-]+)*?)/keys/(?P<name>[\w.-]+)", re.ASCII)
_CIPHERTEXT = re.compile(r"vault:v[0-9]{1,9}:[A-Za-z0-9+/=]+")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
# What Vault says, with status 400, of a ciphertext that does not authenticate or is none.
_NOT_AUTHENTIC = ("message authentication failed", "invalid ciphertext", "decrypt ciphertext")
_DISALLOWED = ("disallowed by policy", "too old")
_MEANING = {
    400: "Vault refused the request (is there such a key, and one for encryption?)",
    401: "the token is refused",
    403: "this token has no right to do that",
    404: "there is no such key or path",
    405: "this path does not support it",
    412: "this node has not seen the last write yet",
    429: "Vault is throttling this client",
    473: "this node is a standby",
    500: "Vault failed",
    501: "Vault is not initialised",
    502: "Vault's proxy does not reach it",
    503: "Vault is sealed or down for maintenance",
}
_RETRYABLE = frozenset({412, 429, 473, 500, 502, 503, 504})


class VaultTransitMasterKey(ServiceMaster):
    """A key of Vault's transit engine. Needs the extra `vault`.

    Address, token, namespace and certificates are those of the environment (VAULT_ADDR,
    VAULT_TOKEN or ~/.vault-token, VAULT_NAMESPACE, VAULT_CACERT). An address without TLS is refused
    but on loopback: what is wrapped would pass in the clear. The client gives up after 3 attempts
    of at most 10 seconds.

    The wrapped key's id is given as `context`, which Vault binds if the key was made with
    `derived=true`; `associated_data` would bind it with every key, but then Vault could not rewrap.
    With other keys the id of what comes out tells keys apart.

    Policies: `update` on MOUNT/encrypt/NAME and MOUNT/decrypt/NAME, and on MOUNT/rewrap/NAME for
    `master rotate`. With `create` on encrypt, Vault makes a key that is not there.

    Attributes:
        uri: `vault:MOUNT/keys/NAME`.
    """

    def __init__(
        self,
        path: str,
        *,
        address: str | None = None,
        token: str | None = None,
        namespace: str | None = None,
        timeout: float = READ_SECONDS,
    ) -> None:
        """Name a key; nothing is called yet.

        Args:
            path: `MOUNT/keys/NAME`, such as `transit/keys/strongroom`.
            address: Vault's address; None for VAULT_ADDR.
            token: The token; None for the environment's at each new connection.
            namespace: The namespace; None for VAULT_NAMESPACE.
            timeout: Seconds that one attempt waits for an answer.

        Raises:
            MasterKeyError: hvac isn't installed, or the address is one without TLS.
            ValueError: The path is none.
        """
        found = _PATH.fullmatch(path) if isinstance(path, str) else None
        if found is None:
            raise ValueError("a key of Vault is named MOUNT/keys/NAME, such as transit/keys/main")
        self.uri = f"vault:{path}"
        self._key_id = service_key_id(path)
        self._mount, self._name = found["mount"], found["name"]
        self._token = token
        self._namespace = namespace or os.environ.get("VAULT_NAMESPACE") or None
        self._address = address or os.environ.get("VAULT_ADDR") or "https://127.0.0.1:8200"
        self._timeout = timeout
        parts = urlsplit(self._address)
        if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
            raise MasterKeyError(
                "the address of Vault must be https: keys would pass over the network in the clear"
            )
        self._hvac = load("hvac", "vault", "a master key in Vault")
        self._local = threading.local()

    @property
    def key_id(self) -> str:
        """SHA-256(the path, `MOUNT/keys/NAME`)[:16] in hex."""
        return self._key_id

    def wrap(self, key: _native.MemoryLockedKey, context: str) -> bytes:
        """Encrypt a key under the newest version of Vault's.

        Raises:
            MasterKeyError: Vault refused, is out of reach, or gave something that is no answer.
        """
        material = key.get()
        try:
            plaintext = base64.b64encode(material).decode()
        finally:
            material[:] = bytes(len(material))
        return self._ciphertext("encrypt_data", plaintext=plaintext, context=_encoded(context))

    def unwrap(self, blob: bytes, context: str) -> bytes:
        """Decrypt what `wrap` gave.

        Raises:
            DecryptionError: The blob or the context was changed, or another key wrapped it.
            MasterKeyError: Vault refused, is out of reach, or gave something that is no answer.
        """
        ciphertext = _text(blob)
        answer = self._call("decrypt_data", ciphertext=ciphertext, context=_encoded(context))
        plaintext = answer.get("plaintext")
        try:
            if isinstance(plaintext, str):
                return base64.b64decode(plaintext, validate=True)
        except (binascii.Error, ValueError):
            pass
        raise self._no_answer()

    def rewrap(self, blob: bytes, context: str) -> bytes:
        """Bring what `wrap` gave under the newest version of Vault's key; it never leaves Vault.

        Raises:
            DecryptionError, MasterKeyError: As `unwrap`.
        """
        return self._ciphertext("rewrap_data", ciphertext=_text(blob), context=_encoded(context))

    def _ciphertext(self, operation: str, **arguments: str) -> bytes:
        ciphertext = self._call(operation, **arguments).get("ciphertext")
        if not isinstance(ciphertext, str) or not _CIPHERTEXT.fullmatch(ciphertext):
            raise self._no_answer()
        return ciphertext.encode()

    def _client(self) -> Any:  # noqa: ANN401 - hvac has no types
        # One for each thread: the sessions of requests are not made to be shared.
        process = _native.process_generation()
        made = getattr(self._local, "made", None)
        if made is None or made[0] != process:
            from requests.adapters import HTTPAdapter
            from urllib3.util import Retry

            retry = Retry(
                total=ATTEMPTS - 1,
                # Each of our calls may be made twice.
                allowed_methods=None,
                status_forcelist=sorted(_RETRYABLE),
                backoff_factor=0.1,
                # A server would say for how long this process hangs.
                respect_retry_after_header=False,
                raise_on_status=False,
            )
            client = self._hvac.Client(
                url=self._address,
                token=self._token,
                namespace=self._namespace,
                timeout=(min(CONNECT_SECONDS, self._timeout), self._timeout),
                # It would send token and key on to wherever it is told.
                allow_redirects=False,
            )
            # Not a session of ours: that one's settings would win over VAULT_CACERT.
            client.session.mount("https://", HTTPAdapter(max_retries=retry))
            client.session.mount("http://", HTTPAdapter(max_retries=retry))
            if not client.token:
                raise MasterKeyError("there is no token for Vault: set VAULT_TOKEN")
            self._local.made = made = process, client
        return made[1]

    def _call(self, operation: str, **arguments: str) -> dict[str, Any]:
        from hvac.exceptions import VaultError
        from requests import exceptions

        client = self._client()
        try:
            answer = getattr(client.secrets.transit, operation)(
                name=self._name, mount_point=self._mount, **arguments
            )
        except VaultError as error:
            raise self._refused(error) from None
        except exceptions.SSLError:
            raise MasterKeyError(f"{self.uri}: Vault's certificate is refused") from None
        except (exceptions.ConnectionError, exceptions.Timeout) as error:
            raise MasterKeyError(
                f"{self.uri}: Vault is out of reach ({type(error).__name__})", retryable=True
            ) from None
        except exceptions.RequestException as error:
            raise MasterKeyError(
                f"{self.uri}: the call to Vault failed ({type(error).__name__})"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise self._no_answer() from None
        if not isinstance(answer, dict):
            status = getattr(answer, "status_code", 0)
            if 300 <= status < 400:
                raise MasterKeyError(
                    f"{self.uri}: Vault sends this client elsewhere (is the node a standby?): "
                    "set VAULT_ADDR to the active node or the cluster's address"
                )
            raise self._no_answer()
        data = answer.get("data")
        if not isinstance(data, dict):
            raise self._no_answer()
        return data

    def _refused(self, error: Any) -> MasterKeyError | DecryptionError:  # noqa: ANN401
        # hvac parses the body only under one exact content type.
        said = str(error.errors or error.text)
        status = _STATUS.get(type(error).__name__, 0)
        if status == 400 and any(part in said for part in _NOT_AUTHENTIC):
            return DecryptionError()
        if status == 400 and any(part in said for part in _DISALLOWED):
            meaning = "the version of the key that wrapped this may not decrypt any more"
            return MasterKeyError(f"{self.uri}: {meaning}")
        # Not what it said: a server that is not Vault could repeat what it was sent.
        meaning = _MEANING.get(status, "Vault refused")
        retryable = status in _RETRYABLE or (status == 0 and "UnexpectedError" in repr(type(error)))
        return MasterKeyError(f"{self.uri}: {meaning}", retryable=retryable)

    def _no_answer(self) -> MasterKeyError:
        return MasterKeyError(f"{self.uri}: what came back is no answer of Vault")

    def __repr__(self) -> str:
        """Show what it is, and nothing secret."""
        return f"<VaultTransitMasterKey {self.uri}>"


_STATUS = {
    "InvalidRequest": 400,
    "Unauthorized": 401,
    "Forbidden": 403,
    "InvalidPath": 404,
    "UnsupportedOperation": 405,
    "PreconditionFailed": 412,
    "RateLimitExceeded": 429,
    "InternalServerError": 500,
    "VaultNotInitialized": 501,
    "BadGateway": 502,
    "VaultDown": 503,
}


def _encoded(context: str) -> str:
    return base64.b64encode(context.encode()).decode()


def _text(blob: bytes) -> str:
    try:
        ciphertext = bytes(blob).decode("ascii")
    except UnicodeDecodeError:
        raise DecryptionError from None
    if not _CIPHERTEXT.fullmatch(ciphertext):
        raise DecryptionError
    return ciphertext
