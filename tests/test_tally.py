"""What is counted of the use of keys, in a process of its own: the totals are the process's."""

import subprocess
import sys


def run(code: str) -> None:
    program = (
        "import os, strongroom as s\n"
        "from strongroom import _native\n"
        "def totals():\n"
        "    return {t[:3]: t[3:5] for t in _native.tally_snapshot()}\n" + code
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_off_counts_nothing() -> None:
    run(
        "c = s.SecureEncryption(s.generate_key())\n"
        "c.decrypt(c.encrypt(b'x'))\n"
        "assert _native.tally_snapshot() == []\n"
        "_native.tally_enable(True); c.encrypt(b'x')\n"
        "_native.tally_enable(False); c.encrypt(b'x')\n"
        "assert totals() == {(c.key_id, 'encrypt', 'success'): (1, 1)}, totals()\n"
    )


def test_every_way_of_a_record() -> None:
    run(
        """
_native.tally_enable(True)
c = s.SecureEncryption(s.generate_key()); k = c.key_id
a = c.encrypt(b'12345')
c.encrypt_into(b'123', bytearray(200)); c.decrypt(a); c.decrypt_into(a, bytearray(5))
many = c.encrypt_many([b'1', b'22', b'333']); c.decrypt_many(many)
packed = c.encrypt_packed(b'abcdef', 2); c.decrypt_packed(packed, 2)
assert totals() == {
    (k, 'encrypt', 'success'): (1 + 1 + 3 + 3, 5 + 3 + 6 + 6),
    (k, 'decrypt', 'success'): (1 + 1 + 3 + 3, 5 + 5 + 6 + 6),
}, totals()
bad = a[:-1] + bytes([a[-1] ^ 1])
for call in (
    lambda: c.decrypt(bad),
    lambda: c.decrypt_many([a, bad]),
    lambda: c.decrypt_into(bad, bytearray(5)),
):
    try: call()
    except s.DecryptionError: pass
    else: raise SystemExit('opened')
assert totals()[k, 'decrypt', 'DecryptionError'][0] == 3, totals()
assert totals()[k, 'decrypt', 'success'][0] == 8
other = s.SecureEncryption(s.generate_key())
try: other.decrypt(a)
except s.KeyNotFoundError: pass
assert totals()[k, 'decrypt', 'KeyNotFoundError'] == (1, 5)
"""
    )


def test_envelopes_stores_and_files(tmp_path) -> None:
    run(
        f"""
os.chdir({str(tmp_path)!r})
_native.tally_enable(True)
p = s.ParallelEncryption(s.generate_key())
big = bytes(100_000)
message = p.encrypt_large(big); p.decrypt_large(message)
p.decrypt_large_into(message, bytearray(100_000))
assert totals()[p.key_id, 'encrypt', 'success'] == (1, 100_000), totals()
assert totals()[p.key_id, 'decrypt', 'success'] == (2, 200_000), totals()
s.FileMasterKey.create('m.key')
with s.KeyStore.create('sqlite:///keys.db', s.FileMasterKey('m.key')) as store:
    v = s.VersionedEncryption(store)
    small, large = v.encrypt(b'abc'), v.encrypt(big)
    v.decrypt(small); v.decrypt(large)
    open('plain', 'wb').write(big)
    s.encrypt_file('plain', 'sealed', store); s.decrypt_file('sealed', 'again', store)
    s.verify_file('sealed', store)
    with s.open('other', 'wb', store) as f: f.write(big)
    with s.open('other', 'rb', store) as f: assert f.read() == big
    got = totals()
    (k,) = {{key for key, _, _ in got}} - {{p.key_id}}
    assert got[k, 'encrypt', 'success'] == (4, 3 + 300_000), got
    assert got[k, 'decrypt', 'success'] == (4, 3 + 300_000), got
    assert got[k, 'verify', 'success'] == (1, 100_000), got
    new = store.rotate().id
    v.rotate_encryption(large)
    s.rewrap_file('sealed', store)
    assert totals()[new, 'rewrap', 'success'] == (2, 200_000), totals()
    try: v.decrypt(small[:4] + bytes(16) + small[20:])
    except s.KeyNotFoundError: pass
    assert totals()['00' * 16, 'decrypt', 'KeyNotFoundError'] == (1, 3), totals()
"""
    )


def test_rotating_many_counts_what_was_opened_and_what_was_sealed(tmp_path) -> None:
    run(
        f"""
os.chdir({str(tmp_path)!r})
s.FileMasterKey.create('m.key')
with s.KeyStore.create('sqlite:///keys.db', s.FileMasterKey('m.key')) as store:
    v = s.VersionedEncryption(store)
    old = store.get_current_key().id
    messages = v.encrypt_many([b'abc'] * 500 + [bytes(100_000)])
    new = store.rotate().id
    current = v.encrypt_many([b'abcd'] * 50)
    v.rotate_many(messages + current)
    assert totals() == {{
        (old, 'encrypt', 'success'): (501, 101_500),
        (old, 'decrypt', 'success'): (500, 1500),
        (new, 'decrypt', 'success'): (50, 200),
        (new, 'encrypt', 'success'): (50 + 500, 200 + 1500),
        (new, 'rewrap', 'success'): (1, 100_000),
    }}, totals()
    # One that fails is counted once, whatever it is.
    for bad, operation in ((messages[0], 'decrypt'), (messages[-1], 'rewrap')):
        wrong = dict(associated_data=b'other')
        try: v.rotate_many([bad], **wrong)
        except s.DecryptionError: pass
        else: raise SystemExit('opened')
        assert totals()[old, operation, 'DecryptionError'][0] == 1, totals()
    try: v.decrypt_many([messages[-1]], associated_data=b'other')
    except s.DecryptionError: pass
    failed = [(*kind, count) for kind, (count, _) in totals().items() if kind[2] != 'success']
    assert sorted(failed) == sorted([
        (old, 'decrypt', 'DecryptionError', 2), (old, 'rewrap', 'DecryptionError', 1)
    ]), failed
"""
    )


def test_a_file_that_fails_says_which_key_and_how_much(tmp_path) -> None:
    run(
        f"""
import io
os.chdir({str(tmp_path)!r})
big = bytes(100_000)
s.FileMasterKey.create('m.key')
store = s.KeyStore.create('sqlite:///keys.db', s.FileMasterKey('m.key'))
other = s.KeyStore.create('sqlite:///other.db', s.FileMasterKey('m.key'))
k = store.get_current_key().id
os.mkdir('tree')
open('plain', 'wb').write(big)
s.encrypt_file('plain', 'tree/sealed', store)
v = s.VersionedEncryption(store)
large = v.encrypt(big)
def fails(error, call):
    _native.tally_enable(True)
    try: call()
    except error: pass
    else: raise SystemExit('it did not fail')
    finally: _native.tally_enable(False)
wrong = dict(associated_data=b'other')
fails(s.DecryptionError, lambda: s.decrypt_file('tree/sealed', 'x', store, **wrong))
fails(s.DecryptionError, lambda: s.open('tree/sealed', 'rb', store, **wrong))
assert totals()[k, 'decrypt', 'DecryptionError'] == (2, 200_000), totals()
fails(s.DecryptionError, lambda: s.verify_file('tree/sealed', store, **wrong))
assert totals()[k, 'verify', 'DecryptionError'] == (1, 100_000), totals()
sealed = open('tree/sealed', 'rb').read()
fails(s.DecryptionError,
      lambda: s.files.decrypt_stream(io.BytesIO(sealed), io.BytesIO(), store, **wrong))
assert totals()[k, 'decrypt', 'DecryptionError'] == (3, 200_000), totals()
fails(s.KeyNotFoundError, lambda: s.rewrap_file('tree/sealed', other))
fails(s.KeyNotFoundError, lambda: s.VersionedEncryption(other).rotate_encryption(large))
assert totals()[k, 'rewrap', 'KeyNotFoundError'] == (2, 200_000), totals()
fails(FileExistsError, lambda: s.encrypt_file('plain', 'tree/sealed', store))
assert totals()[k, 'encrypt', 'other'] == (1, 100_000), totals()
_native.tally_enable(True)
assert s.bulk.verify_tree('tree', other).failed
assert totals()[k, 'verify', 'KeyNotFoundError'] == (1, 100_000), totals()
fails(FileNotFoundError, lambda: s.verify_file('none', store))
assert totals()[None, 'verify', 'other'] == (1, 0), totals()
"""
    )


def test_a_forked_child_starts_with_nothing() -> None:
    run(
        """
_native.tally_enable(True)
c = s.SecureEncryption(s.generate_key()); c.encrypt(b'x')
if (child := os.fork()) == 0:
    fresh = s.SecureEncryption(s.generate_key()); fresh.encrypt(b'x')
    os._exit(0 if totals() == {(fresh.key_id, 'encrypt', 'success'): (1, 1)} else 1)
assert os.waitpid(child, 0)[1] == 0
assert totals() == {(c.key_id, 'encrypt', 'success'): (1, 1)}
"""
    )
