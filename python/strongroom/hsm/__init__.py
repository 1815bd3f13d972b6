"""Keys in hardware security modules, through PKCS#11. Needs the extra `hsm`.

`binding.py` and `ed25519.py` alone import python-pkcs11, and are imported at the first use.
"""

from __future__ import annotations

from strongroom.hsm.keys import MASTER_PREFIX, TokenKey
from strongroom.hsm.manager import HSMKeyManager
from strongroom.hsm.uri import Pkcs11Uri

__all__ = ["MASTER_PREFIX", "HSMKeyManager", "Pkcs11Uri", "TokenKey"]
