"""The bare constructions, for interoperability and tests.

Nothing here chooses a nonce for you, carries a key id, or says what to do with the result. Use
`SecureEncryption`, `VersionedEncryption` or `encrypt_file` unless you have to speak to something
that speaks exactly these.

`key` is 32 bytes; every input is any C-contiguous buffer; `engine` is `"aes-gcm"`, `"aws-lc"` or
None for the one that this process uses for streams. One GCM call takes at most 2^31 - 1 bytes.

| function | construction | source |
|---|---|---|
| `aes_256_gcm_*` | AES-256-GCM, nonce of 12 bytes, tag of 16 | NIST SP 800-38D |
| `kc_xaes_256_gcm_*` | KC-XAES-256-GCM, nonce of 24 bytes | C2SP, ePrint 2025/758 |
| `cobblestone_256_*` | Cobblestone-256, random salt | C2SP |
| `hkdf_expand_sha512` | HKDF-Expand, PRK of any length | RFC 5869 |

C2SP's specifications are c2sp.org/XAES-256-GCM and c2sp.org/chunked-encryption.
"""

from __future__ import annotations

from strongroom._native import (
    aes_256_gcm_decrypt,
    aes_256_gcm_encrypt,
    cobblestone_256_decrypt,
    cobblestone_256_encrypt,
    hkdf_expand_sha512,
    kc_xaes_256_gcm_decrypt,
    kc_xaes_256_gcm_encrypt,
)

__all__ = [
    "aes_256_gcm_decrypt",
    "aes_256_gcm_encrypt",
    "cobblestone_256_decrypt",
    "cobblestone_256_encrypt",
    "hkdf_expand_sha512",
    "kc_xaes_256_gcm_decrypt",
    "kc_xaes_256_gcm_encrypt",
]
