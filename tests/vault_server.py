"""A server with the API of Vault's transit engine, and no Vault behind it."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

TOKEN = "hvs.the-token-that-no-text-may-show"


class Vault(ThreadingHTTPServer):
    """Vault's transit engine as its HTTP API documentation describes it.

    https://developer.hashicorp.com/vault/api-docs/secret/transit: POST /v1/transit/encrypt/:name,
    decrypt and rewrap, with `plaintext`, `ciphertext` and `context` in base64, ciphertexts as
    vault:vN:..., failures as {"errors": [...]}. `context` is bound for a derived key alone.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.keys: dict[str, list[bytes]] = {}
        self.derived: set[str] = set()
        self.calls: list[str] = []
        # Answers a call itself, as a broken or busy server would.
        self.instead: Callable[[Handler], None] | None = None
        self.address = f"http://127.0.0.1:{self.server_address[1]}"

    def make(self, name: str, *, derived: bool = True) -> None:
        self.keys.setdefault(name, []).append(secrets.token_bytes(32))
        if derived:
            self.derived.add(name)

    def encrypt(self, name: str, plaintext: bytes, context: bytes) -> str:
        version = len(self.keys[name])
        nonce = secrets.token_bytes(12)
        sealed = self._cipher(name, version, context).encrypt(nonce, plaintext, None)
        return f"vault:v{version}:{base64.b64encode(nonce + sealed).decode()}"

    def decrypt(self, name: str, ciphertext: str, context: bytes) -> bytes:
        _, version, data = ciphertext.split(":")
        raw = base64.b64decode(data)
        return self._cipher(name, int(version[1:]), context).decrypt(raw[:12], raw[12:], None)

    def _cipher(self, name: str, version: int, context: bytes) -> AESGCM:
        key = self.keys[name][version - 1]
        if name in self.derived:
            key = hashlib.sha256(key + context).digest()
        return AESGCM(key)


class Handler(BaseHTTPRequestHandler):
    server: Vault

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        _, version, mount, operation, name = self.path.split("/")
        assert (version, mount) == ("v1", "transit")
        self.server.calls.append(operation)
        if self.server.instead is not None:
            self.server.instead(self)
            return
        if self.headers["X-Vault-Token"] != TOKEN:
            self.answer(403, {"errors": ["permission denied"]})
            return
        if name not in self.server.keys:
            self.answer(400, {"errors": ["encryption key not found"]})
            return
        fields = json.loads(body)
        context = base64.b64decode(fields["context"])
        try:
            if operation == "encrypt":
                plaintext = base64.b64decode(fields["plaintext"])
                data = {"ciphertext": self.server.encrypt(name, plaintext, context)}
            else:
                plaintext = self.server.decrypt(name, fields["ciphertext"], context)
                data = {"plaintext": base64.b64encode(plaintext).decode()}
                if operation == "rewrap":
                    data = {"ciphertext": self.server.encrypt(name, plaintext, context)}
        except (InvalidTag, ValueError, IndexError):
            self.answer(400, {"errors": ["cipher: message authentication failed"]})
            return
        self.answer(200, {"data": data})

    do_PUT = do_POST

    def answer(self, status: int, body: object, **headers: str) -> None:
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **headers}
        self.send_response(status)
        for name, value in {"Content-Length": str(len(text)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def vault() -> Iterator[Vault]:
    with Vault() as server:
        server.make("main")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
