"""Keys in hardware security modules, through PKCS#11. Needs the extra `hsm`.

`binding.py` is the only importer of python-pkcs11, and is itself imported at the first use.
"""

from __future__ import annotations

from strongroom.hsm.keys import MASTER_PREFIX, TokenKey
from strongroom.hsm.manager import HSMKeyManager
from strongroom.hsm.uri import Pkcs11Uri

__all__ = ["MASTER_PREFIX", "HSMKeyManager", "Pkcs11Uri", "TokenKey"]
