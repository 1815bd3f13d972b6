"""The pages that secrets live in: guards, canaries, limits, forks, core dumps, other processes."""

from __future__ import annotations

import ctypes
import errno
import gc
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import strongroom
from memory_scanner import Target, patterns
from strongroom import (
    KeyStateError,
    MemoryLockedKey,
    SecureBuffer,
    SecureEncryption,
    memory_status,
)

# Limits, locks and times of the whole process, and of the machine.
pytestmark = pytest.mark.alone

BACKENDS = ("memfd_secret", "mlock")
HEAD = """
import ctypes, os, sys, warnings
from strongroom import KeyStateError, MemoryLockedKey, SecureBuffer, SecureEncryption, memory_status

def address(buffer):
    view = buffer.view()
    return ctypes.addressof(ctypes.c_char.from_buffer(view))

def flip(where):
    # Another value for certain: a canary is random.
    ctypes.memset(where, ctypes.string_at(where, 1)[0] ^ 0x55, 1)

def locked():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmLck"))
"""


def run(code, *arguments, **environment):
    """Runs Python code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", HEAD + textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
    )


# Guard pages and canaries


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [1, 31, 32, 33, 48, 100, 1000, 2032, 5000, 8191])
def test_overrun_that_stays_in_the_page_is_found_when_freed(size, backend):
    where = -1 if size > 2032 else size
    code = """
        size, where = map(int, sys.argv[1:])
        buffer = SecureBuffer(size)
        start = address(buffer)
        flip(start + where)
        print("written", flush=True)
        buffer.close()
        del buffer
        print("freed")
    """
    done = run(code, size, where, STRONGROOM_MEMORY_BACKEND=backend)
    assert done.stdout == "written\n"
    assert done.returncode == -signal.SIGABRT
    assert "overwritten" in done.stderr


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("size", "where"), [(8192, 8192), (8192, -1), (5000, 5000), (2033, 2033)])
@pytest.mark.parametrize("access", ["read", "write"])
def test_guard_page_ends_the_process(size, where, access, backend):
    code = """
        size, where = map(int, sys.argv[1:3])
        buffer = SecureBuffer(size)
        start = address(buffer)
        ctypes.memset(start, 0, size)
        print("inside", flush=True)
        if sys.argv[3] == "read":
            ctypes.string_at(start + where, 1)
        else:
            ctypes.memset(start + where, 1, 1)
        print("outside")
    """
    done = run(code, size, where, access, STRONGROOM_MEMORY_BACKEND=backend)
    assert done.stdout == "inside\n"
    assert done.returncode == -signal.SIGSEGV


@pytest.mark.parametrize("backend", BACKENDS)
def test_write_before_a_small_secret_is_found(backend):
    # The byte in front belongs to the canary of the neighbour in front.
    code = """
        near = sorted([SecureBuffer(32) for _ in range(2)], key=address)
        start = address(near[1])
        assert start - address(near[0]) == 48
        flip(start - 1)
        print("written", flush=True)
        near.pop().close()
        print("freed the one behind", flush=True)
        near.pop().close()
        print("freed")
    """
    done = run(code, STRONGROOM_MEMORY_BACKEND=backend)
    assert done.stdout == "written\nfreed the one behind\n"
    assert done.returncode == -signal.SIGABRT
    assert "overwritten" in done.stderr


def test_write_after_free_is_found():
    code = """
        kept = SecureBuffer(32)
        buffer = SecureBuffer(32)
        start = address(buffer)
        buffer.close()
        del buffer
        ctypes.memset(start + 3, 1, 1)
        print("written", flush=True)
        more = [SecureBuffer(32) for _ in range(200)]
        print("not seen")
    """
    done = run(code)
    assert done.stdout == "written\n"
    assert done.returncode == -signal.SIGABRT


def test_intact_buffers_end_well():
    code = """
        for size in (1, 32, 48, 2032, 2033, 4096, 5000):
            buffer = SecureBuffer(size)
            ctypes.memset(address(buffer), 0x55, size)
            buffer.close()
        print("end")
    """
    done = run(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


# What other processes see


def _read_memory(pid, address, length):
    libc = ctypes.CDLL(None, use_errno=True)
    out = ctypes.create_string_buffer(length)

    class Span(ctypes.Structure):
        _fields_ = (("start", ctypes.c_void_p), ("length", ctypes.c_size_t))

    ours = Span(ctypes.addressof(out), length)
    theirs = Span(address, length)
    libc.process_vm_readv.restype = ctypes.c_ssize_t
    got = libc.process_vm_readv(pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)
    return out.raw if got == length else ctypes.get_errno()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [32, 8192])
def test_reading_from_another_process(backend, size):
    code = """
        buffer = SecureBuffer(int(sys.argv[1]))
        buffer.write(bytes(range(32)))
        print(address(buffer), flush=True)
        sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + textwrap.dedent(code), str(size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"STRONGROOM_MEMORY_BACKEND": backend},
    )
    with process:
        assert process.stdout is not None
        got = _read_memory(process.pid, int(process.stdout.readline()), 32)
        process.communicate(b"")
    # The control is the backend from which it can be read.
    assert got == (errno.EFAULT if backend == "memfd_secret" else bytes(range(32)))


# Core dumps


def _dump_by_gdb(pid, folder):
    done = subprocess.run(
        ["gdb", "-nx", "-batch", "-p", str(pid), "-ex", f"generate-core-file {folder}/core.gdb"],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"DEBUGINFOD_URLS": ""},
        check=False,
    )
    assert "Saved corefile" in done.stdout, done.stdout + done.stderr


def _dump_by_kernel(pid, _):
    os.kill(pid, signal.SIGABRT)
    os.waitpid(pid, 0)


@pytest.mark.parametrize("dump", [_dump_by_gdb, _dump_by_kernel], ids=["gdb", "kernel"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("scenario", "checkpoint"),
    [
        ("control", "alive"),
        ("keys", "alive"),
        ("keys", "records"),
        ("keys", "envelopes"),
        ("record", "large encrypted"),
        ("contexts", "alive"),
    ],
)
def test_core_dump_holds_no_key(tmp_path, dump, backend, scenario, checkpoint, monkeypatch):
    key = os.urandom(32)
    (tmp_path / "key").write_bytes(key)
    monkeypatch.chdir(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        with Target(scenario, tmp_path, STRONGROOM_MEMORY_BACKEND=backend) as target:
            # Dump file-backed and shared memory too.
            Path(f"/proc/{target.pid}/coredump_filter").write_text("0x7f")
            target.run_to(checkpoint)
            dump(target.pid, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
    (core,) = tmp_path.glob("core*")
    data = core.read_bytes()
    found = {what for what, pattern in patterns("key", key).items() if pattern in data}
    if scenario == "control":
        assert found == {"key", "key, first half", "key, second half"}
    else:
        assert not found


# Limits


LIMITED = """
    limit = int(sys.argv[1])
    if len(sys.argv) == 2:
        import resource
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
        # PR_CAPBSET_DROP of CAP_IPC_LOCK, which passes over the limit; it takes effect with exec.
        ctypes.CDLL(None).prctl(24, 14, 0, 0, 0)
        os.execv(sys.executable, [*sys.orig_argv, "again"])
    with open("/proc/self/status") as status:
        have = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff"))
    assert not have & 1 << 14
"""


def run_limited(limit, code, **environment):
    return run(textwrap.dedent(LIMITED) + textwrap.dedent(code), limit, **environment)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [32, 100_000])
def test_no_limit_left_and_warn(backend, size):
    code = f"""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                buffer = SecureBuffer({size})
                key = MemoryLockedKey.generate()
                assert SecureEncryption(key).decrypt(SecureEncryption(key).encrypt(b"x")) == b"x"
        assert [w.category for w in caught] == [RuntimeWarning], caught
        for word in ("RLIMIT_MEMLOCK", "0 bytes", "ulimit -l", "CAP_IPC_LOCK"):
            assert word in str(caught[0].message), caught[0].message
        assert not buffer.locked and not key.locked and "not locked" in repr(buffer)
        status = memory_status()
        assert status.backend == "none" and status.limit == 0 and status.policy == "warn"
        assert status.locked_bytes == 0 and status.unlocked_bytes > 0
        assert any("mlock" in failure for failure in status.failures), status
        del buffer, key
        assert memory_status().unlocked_bytes == 0
        print("end")
    """
    done = run_limited(0, code, STRONGROOM_MEMORY_BACKEND=backend)
    assert (done.stdout, done.stderr) == ("end\n", "")


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_limit_left_and_strict(backend):
    code = """
        for use in (lambda: SecureBuffer(32), lambda: SecureBuffer(100_000),
                    MemoryLockedKey.generate, lambda: MemoryLockedKey(bytes(32)),
                    lambda: SecureEncryption(bytes(32))):
            try:
                use()
            except MemoryError as error:
                for word in ("RLIMIT_MEMLOCK", "0 bytes", "ulimit -l", "CAP_IPC_LOCK"):
                    assert word in str(error), error
            else:
                raise AssertionError("not refused")
        assert memory_status().secrets == 0
        print("end")
    """
    done = run_limited(
        0, code, STRONGROOM_MEMORY_BACKEND=backend, STRONGROOM_MEMORY_POLICY="strict"
    )
    assert (done.stdout, done.stderr) == ("end\n", "")


@pytest.mark.parametrize("backend", BACKENDS)
def test_small_limit_is_used_up_and_given_back(backend):
    code = """
        MemoryLockedKey.generate()
        start = locked()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            keys = [MemoryLockedKey.generate() for _ in range(10_000)]
        assert len(caught) == 1
        status = memory_status()
        assert 32 * 1024 <= locked() <= limit
        assert status.unlocked_bytes > 0
        assert keys[0].locked and not keys[-1].locked
        assert len({key.key_id for key in keys}) == 10_000
        del keys
        assert locked() <= start, (locked(), start)
        assert memory_status().unlocked_bytes == 0
        print("end")
    """
    done = run_limited(64 << 10, code, STRONGROOM_MEMORY_BACKEND=backend)
    assert (done.stdout, done.stderr) == ("end\n", "")


@pytest.mark.parametrize("backend", BACKENDS)
def test_usual_limit_holds_many_keys(backend):
    code = """
        warnings.simplefilter("error")
        keys = [MemoryLockedKey.generate() for _ in range(10_000)]
        assert all(key.locked for key in keys)
        peak = locked()
        assert peak < 1 << 20, peak
        # Allocations and frees in an order that leaves holes, 100,000 in all.
        for turn in range(27):
            for i in range(turn % 3, 10_000, 3):
                keys[i] = None
            keys = [key or MemoryLockedKey.generate() for key in keys]
            assert all(key.locked for key in keys)
            sizes = [SecureBuffer(1 + (turn * 7919 + i * 104_729) % 2500) for i in range(100)]
            del sizes[::2], sizes
        assert locked() <= 2 * peak, (locked(), peak)
        del keys
        assert memory_status().secrets == 0
        assert locked() < 400_000, locked()
        print("end")
    """
    done = run_limited(8 << 20, code, STRONGROOM_MEMORY_BACKEND=backend)
    assert (done.stdout, done.stderr) == ("end\n", "")


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_address_space_left(backend):
    code = """
        import resource
        kept = SecureBuffer(32)
        kept.write(b"kept")
        resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))
        for _ in range(100):
            try:
                SecureBuffer(1 << 30)
            except MemoryError as error:
                assert "1073741824 bytes" in str(error), error
            else:
                raise AssertionError("not refused")
        assert memory_status().secrets == 1 and bytes(kept.read(4)) == b"kept"
        print("end")
    """
    done = run(code, STRONGROOM_MEMORY_BACKEND=backend)
    assert (done.stdout, done.stderr) == ("end\n", "")


# Numbers of mlock, mlock2 and memfd_secret on x86-64, and what seccomp_data begins with.
REFUSED = """
    import struct
    numbers = (149, 325, 447)
    load, equal, give = 0x20, 0x15, 0x06
    filter_ = struct.pack("=HBBI", load, 0, 0, 0)
    for left, number in zip(range(len(numbers), 0, -1), numbers, strict=True):
        filter_ += struct.pack("=HBBI", equal, left, 0, number)
    # SECCOMP_RET_ALLOW, then SECCOMP_RET_ERRNO with EPERM.
    filter_ += struct.pack("=HBBI", give, 0, 0, 0x7FFF0000)
    filter_ += struct.pack("=HBBI", give, 0, 0, 0x00050001)
    kept = ctypes.create_string_buffer(filter_)

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    program = Program(len(filter_) // 8, ctypes.addressof(kept))
    prctl = ctypes.CDLL(None).prctl
    # PR_SET_NO_NEW_PRIVS, and PR_SET_SECCOMP with SECCOMP_MODE_FILTER.
    assert prctl(38, 1, 0, 0, 0) == 0 and prctl(22, 2, ctypes.byref(program)) == 0
"""


@pytest.mark.parametrize("policy", ["warn", "strict"])
def test_seccomp_that_refuses_to_lock(policy):
    code = """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                kept = [SecureBuffer(32), SecureBuffer(100_000), MemoryLockedKey.generate()]
            except MemoryError as error:
                assert "mlock" in str(error) and "not permitted" in str(error), error
                kept = []
        status = memory_status()
        assert status.backend == "none" and status.locked_bytes == 0, status
        for call in ("memfd_secret", "mlock"):
            assert any(call in text and "not permitted" in text for text in status.failures)
        print(status.policy, [str(w.message).count("(mlock:") for w in caught], len(kept))
    """
    done = run(textwrap.dedent(REFUSED) + textwrap.dedent(code), STRONGROOM_MEMORY_POLICY=policy)
    assert done.stderr == ""
    assert done.stdout == ("warn [1] 3\n" if policy == "warn" else "strict [] 0\n")


def test_doctor_shows_what_could_not_be_locked():
    code = """
        import json
        from strongroom.cli import main
        sys.argv[1:] = ["doctor", "--json"]
        sys.exit(main())
    """
    done = run_limited(0, code, STRONGROOM_MEMORY_BACKEND="mlock")
    (shown,) = [json.loads(line) for line in done.stdout.splitlines()]
    memory = shown["memory"]
    assert (memory["backend"], memory["policy"], memory["limit"]) == ("none", "warn", 0)
    assert memory["unlocked_bytes"] > 0
    assert any("mlock" in failure for failure in memory["failures"])
    assert "RLIMIT_MEMLOCK" in done.stderr


@pytest.mark.parametrize("variable", ["STRONGROOM_MEMORY_POLICY", "STRONGROOM_MEMORY_BACKEND"])
def test_misspelt_variable_is_an_error(variable):
    done = run("SecureBuffer(1)", **{variable: "Strict"})
    assert done.returncode == 1
    assert f"ValueError: {variable}" in done.stderr


def test_page_stays_locked_when_a_neighbour_goes():
    code = """
        first, second = SecureBuffer(32), SecureBuffer(32)
        near = address(second)
        assert abs(near - address(first)) < 4096
        del first
        with open("/proc/self/smaps") as smaps:
            inside = False
            for line in smaps:
                head = line.split()[0]
                if "-" in head:
                    start, end = (int(part, 16) for part in head.split("-"))
                    inside = start <= near < end
                elif inside and head == "VmFlags:":
                    print("lo" in line.split(), "dd" in line.split())
    """
    for backend in BACKENDS:
        assert run(code, STRONGROOM_MEMORY_BACKEND=backend).stdout == "True True\n"


# Forks


def in_child(work):
    """Runs `work` in a forked child: what it returned, or the signal that ended it."""
    inside, outside = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(outside, work().encode())
        except BaseException as error:
            os.write(outside, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(outside)
    with os.fdopen(inside) as pipe:
        told = pipe.read()
    _, status = os.waitpid(pid, 0)
    return told if os.WIFEXITED(status) else -os.WTERMSIG(status)


FORK = """
    import gc, signal
    key = MemoryLockedKey(bytes(range(32)))
    cipher = SecureEncryption(key)
    message = cipher.encrypt(b"x")
    large = SecureBuffer(10_000)
    large.write(b"y" * 10_000)
    small = SecureBuffer(10)
    small.write(b"0123456789")
    view = small.view()

    def child():
        for use in (key.get, key.view, small.read, small.view, large.read, small.clear,
                    lambda: small.write(b"1"), lambda: cipher.encrypt(b"x"),
                    lambda: cipher.decrypt(message)):
            try:
                use()
            except KeyStateError as error:
                assert "fork" in str(error)
            else:
                raise AssertionError("used in the child")
        own = MemoryLockedKey(bytes(range(32)))
        assert SecureEncryption(own).decrypt(message) == b"x"
        before = memory_status()
        assert before.secrets >= 1
        more = [SecureBuffer(5000) for _ in range(50)]
        globals().update(key=None, cipher=None, large=None)
        small.close()
        gc.collect()
        assert memory_status().secrets >= 51
        del more, own
        gc.collect()
        assert memory_status().secrets == 0
        # A child of the child, which never used what its parent made.
        if sys.argv[1] == "1":
            sys.argv[1] = "0"
            pid = os.fork()
            if pid == 0:
                assert SecureEncryption(bytes(32)).encrypt(b"")
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7

    pid = os.fork()
    if pid == 0:
        child()
        sys.exit(5)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    assert key.get() == bytes(range(32)) and cipher.decrypt(message) == b"x"
    assert small.read() == bytes(view) == b"0123456789" and large.read() == b"y" * 10_000

    # A view that was made before the fork passes by every check.
    pid = os.fork()
    if pid == 0:
        SecureBuffer(5000), SecureBuffer(32), bytearray(1 << 22)
        os._exit(1 if any(view) else 0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("again", [0, 1])
def test_fork(backend, again):
    done = run(FORK, again, STRONGROOM_MEMORY_BACKEND=backend)
    assert done.stderr == ""
    # memfd_secret's pages are not there at all in a child, mlock's are zeros.
    assert done.stdout == (f"{-signal.SIGSEGV}\n" if backend == "memfd_secret" else "0\n")


def _nonce_of_child(_):
    return [SecureEncryption(bytes(32)).encrypt(b"")[20:44] for _ in range(1000)]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_nonces_differ_in_children(method):
    cipher = SecureEncryption(bytes(32))
    seen = [cipher.encrypt(b"")[20:44] for _ in range(1000)]
    with multiprocessing.get_context(method).Pool(8) as pool:
        for nonces in pool.map(_nonce_of_child, range(8), chunksize=1):
            seen += nonces
    seen += [cipher.encrypt(b"")[20:44] for _ in range(1000)]
    assert len(set(seen)) == len(seen) == 10_000


def test_reseed_and_fork_in_a_generation():
    cipher = SecureEncryption(bytes(32))
    cipher.encrypt(b"")
    told = [in_child(lambda: cipher_in_child().hex()) for _ in range(4)]
    strongroom.reseed()
    assert len(set(told)) == 4
    assert all(isinstance(nonce, str) and len(nonce) == 48 for nonce in told)


def cipher_in_child():
    return SecureEncryption(bytes(32)).encrypt(b"")[20:44]


def test_key_of_the_parent_in_a_child_is_an_error():
    key = MemoryLockedKey.generate()
    told = in_child(lambda: key.get().hex())
    assert isinstance(told, str)
    assert told.startswith(KeyStateError.__name__)
    assert len(key.get()) == 32


def _use_in_child(_):
    told = []
    for use in (INHERITED[0].read, INHERITED[1].get, INHERITED[2].encrypt):
        try:
            use(*[b""] * (use == INHERITED[2].encrypt))
        except KeyStateError as error:
            told.append("fork" in str(error))
    own = SecureBuffer(4)
    own.write(b"mine")
    return told, bytes(own.read())


INHERITED: list = []


def test_workers_of_multiprocessing_do_without_the_secrets_of_the_parent():
    key = MemoryLockedKey.generate()
    INHERITED[:] = [SecureBuffer(16), key, SecureEncryption(key)]
    INHERITED[0].write(b"0123456789abcdef")
    try:
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(_use_in_child, range(4)) == [([True, True, True], b"mine")] * 4
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            for secret in INHERITED:
                with pytest.raises(TypeError, match="pickled"):
                    pool.apply(len, (secret,))
        assert INHERITED[0].read() == b"0123456789abcdef"
        assert len(key.get()) == 32
    finally:
        INHERITED.clear()


def test_children_do_not_disturb_the_status():
    buffers = [SecureBuffer(100) for _ in range(10)]
    # What earlier tests left in cycles goes now or in between.
    gc.collect()
    before = memory_status().secrets
    assert in_child(lambda: str(memory_status().secrets)) == "0"
    assert memory_status().secrets == before
    assert len(buffers) == 10
