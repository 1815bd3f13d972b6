"""Found by every Python process of `make audited`, through PYTHONPATH: see witness.py."""

import os

if os.environ.get("WITNESS_FILE"):
    import witness

    witness.install()
