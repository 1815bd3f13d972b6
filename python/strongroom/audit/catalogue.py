"""The events that an audit log knows: the names that the library reports, and what each means.

`_events.report` takes these names and no others while a log is open, so that a word misspelt in a
call is found by the first test that reaches it. The command line shows the texts, the published
schema (`event.schema.json`) has the fields.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CLASSES", "EVENTS", "FIELDS", "OPERATIONS", "Event"]

INFO = 1
LOW = 2
MEDIUM = 3
HIGH = 4
CRITICAL = 5


class Event(NamedTuple):
    """What is known of an event by its name.

    Attributes:
        class_uid: The class, one of `CLASSES`.
        activity_id: Its number within the class, which never changes.
        severity_id: OCSF's, 1 (informational) to 5 (critical), of a success.
        text: What happened, for people.
    """

    class_uid: int
    activity_id: int
    severity_id: int
    text: str


# OCSF numbers a class of an extension as extension, category, class; 999 is the extension for
# private use and 6 the category "Application Activity".
KEY, DATA, STORE, DATABASE, HSM, LOG = range(99906001, 99906007)

CLASSES = {
    KEY: "Key Activity",
    DATA: "Data Encryption Activity",
    STORE: "Key Store Activity",
    DATABASE: "Database Rotation Activity",
    HSM: "HSM Activity",
    LOG: "Audit Log Activity",
}

EVENTS = {
    # The life of a key. "imported" and "exported" mean a key that leaves or enters the store.
    "key.generated": Event(KEY, 1, INFO, "key made"),
    "key.activated": Event(KEY, 2, INFO, "key made the primary"),
    "key.rotated": Event(KEY, 3, INFO, "a new primary key in place of the old one"),
    "key.retired": Event(KEY, 4, INFO, "key decrypts only"),
    "key.suspended": Event(KEY, 5, MEDIUM, "key suspended"),
    "key.resumed": Event(KEY, 6, INFO, "suspended key in use again"),
    "key.compromised": Event(KEY, 7, HIGH, "key marked as compromised"),
    "key.destroyed": Event(KEY, 8, MEDIUM, "key destroyed"),
    "key.wrapped": Event(KEY, 9, INFO, "key wrapped"),
    "key.unwrapped": Event(KEY, 10, INFO, "key unwrapped"),
    "key.rewrapped": Event(KEY, 11, INFO, "key wrapped anew under another key"),
    "key.exported": Event(KEY, 12, MEDIUM, "key taken out of the store"),
    "key.imported": Event(KEY, 13, INFO, "key taken into the store"),
    "key.compromised_use": Event(KEY, 14, HIGH, "compromised key used, as allowed by the caller"),
    "key.limit": Event(KEY, 15, MEDIUM, "key near or at its limit of messages"),
    "key.destruction_scheduled": Event(KEY, 16, MEDIUM, "key to be destroyed after a time"),
    "key.destruction_cancelled": Event(KEY, 17, INFO, "key not to be destroyed after all"),
    "keyset.created": Event(KEY, 20, INFO, "keyset made"),
    "keyset.destroyed": Event(KEY, 21, MEDIUM, "all keys of a keyset destroyed"),
    "keyset.policy": Event(KEY, 22, INFO, "policy of a keyset changed"),
    "keyset.registered": Event(KEY, 23, INFO, "a user of a key registered with the store"),
    "keyset.unregistered": Event(KEY, 24, INFO, "a user of a key removed from the store"),
    # Data. One record of these says what a second's calls add up to, or one each on request.
    "data.encrypted": Event(DATA, 1, INFO, "data encrypted"),
    "data.decrypted": Event(DATA, 2, INFO, "data decrypted"),
    "data.rewrapped": Event(DATA, 3, INFO, "messages brought under another key"),
    "data.verified": Event(DATA, 4, INFO, "messages authenticated"),
    "decryption.failed": Event(DATA, 5, MEDIUM, "a message did not open"),
    "encryption.failed": Event(DATA, 6, LOW, "data could not be encrypted"),
    "bulk.started": Event(DATA, 7, INFO, "a run over many files or objects began"),
    "bulk.ended": Event(DATA, 8, INFO, "a run over many files or objects ended"),
    # Stores and masters.
    "store.created": Event(STORE, 1, INFO, "key store made"),
    "store.opened": Event(STORE, 2, INFO, "key store opened"),
    "store.migrated": Event(STORE, 3, INFO, "key store brought to a new version"),
    "store.backup": Event(STORE, 4, INFO, "backup of a key store made"),
    "store.restored": Event(STORE, 5, HIGH, "key store restored from a backup"),
    "store.damaged": Event(STORE, 6, CRITICAL, "key store found changed or damaged"),
    "store.erased": Event(STORE, 7, INFO, "erased rows overwritten in the key store's file"),
    "master.added": Event(STORE, 10, MEDIUM, "a master key opens the store from now on"),
    "master.removed": Event(STORE, 11, MEDIUM, "a master key opens the store no more"),
    "master.rotated": Event(STORE, 12, INFO, "master key replaced"),
    "master.unreachable": Event(STORE, 13, HIGH, "master key out of reach"),
    "master.refused": Event(STORE, 14, HIGH, "master key refused"),
    "master.tested": Event(STORE, 15, INFO, "master key tried"),
    "master.recovery_used": Event(STORE, 16, CRITICAL, "store opened with its recovery master"),
    "root.rotated": Event(STORE, 17, MEDIUM, "root key of the store replaced"),
    # Databases.
    "database.created": Event(DATABASE, 1, INFO, "encrypted database made"),
    "database.rotation.step": Event(DATABASE, 2, INFO, "a step of a database's rotation done"),
    "database.rotated": Event(DATABASE, 3, INFO, "database under a new key"),
    "database.recovered": Event(DATABASE, 4, MEDIUM, "an interrupted rotation settled"),
    "database.rotation.failed": Event(DATABASE, 5, HIGH, "a database's rotation did not end"),
    "database.registered": Event(DATABASE, 6, INFO, "database bound to a key"),
    "database.restored": Event(DATABASE, 7, MEDIUM, "database restored from a copy"),
    "database.opened": Event(DATABASE, 8, INFO, "encrypted database opened"),
    # Hardware security modules.
    "hsm.session.opened": Event(HSM, 1, INFO, "session with a token opened"),
    "hsm.session.closed": Event(HSM, 2, INFO, "session with a token closed"),
    "hsm.session.lost": Event(HSM, 3, MEDIUM, "session with a token lost and opened anew"),
    "hsm.login.refused": Event(HSM, 4, HIGH, "token refused the PIN"),
    "hsm.unreachable": Event(HSM, 5, HIGH, "token out of reach"),
    "hsm.key.generated": Event(HSM, 6, INFO, "key made in a token"),
    "hsm.key.destroyed": Event(HSM, 7, MEDIUM, "key destroyed in a token"),
    "hsm.key.rotated": Event(HSM, 8, INFO, "a new key of a token in place of the old one"),
    "hsm.key.wrapped": Event(HSM, 9, INFO, "key wrapped by a token"),
    "hsm.key.unwrapped": Event(HSM, 10, INFO, "key unwrapped by a token"),
    "hsm.key.imported": Event(HSM, 11, MEDIUM, "key brought into a token"),
    "hsm.key.state": Event(HSM, 12, INFO, "state of a token's key changed"),
    # The log itself.
    "log.opened": Event(LOG, 1, INFO, "audit log made"),
    "log.recovered": Event(LOG, 2, MEDIUM, "a torn tail of the audit log set aside"),
    "log.continued": Event(LOG, 3, CRITICAL, "a new audit log in place of a damaged one"),
    "log.rotated": Event(LOG, 4, INFO, "a new file of the audit log begun"),
    "log.gap": Event(LOG, 5, HIGH, "events could not be recorded for a while"),
}

# What `_events.count` and the core's tally count, and the event that says it.
OPERATIONS = {
    "encrypt": "data.encrypted",
    "decrypt": "data.decrypted",
    "rewrap": "data.rewrapped",
    "verify": "data.verified",
}

# The fields that a report may have beside its name and outcome. Associated data, paths and other
# names that may be personal go in as HMACs (`KeyStore` has the key for that), never in clear.
FIELDS = frozenset(
    {
        "algorithm",
        "allowed",  # what the caller had to allow
        "bytes",
        "checkpoint",
        "count",
        "database",  # HMAC or the registered name of a database
        "detail",  # a sentence; never a secret
        "error_type",  # class name of the exception
        "first_time",
        "generation",
        "key_id",
        "keyset",
        "label",
        "last_time",
        "master",  # URI without secrets
        "mechanism",
        "new_key_id",
        "object",  # HMAC of a path or name
        "old_key_id",
        "operation",
        "previous_log",
        "purpose",
        "reason",
        "recovery",
        "seconds",
        "sha256",
        "slot",
        "state",
        "step",
        "steps",
        "store",
        "token",
        "wrapping_key_id",
    }
)
