"""Tokens under threads and forks: no crash, no hang, no wrong result, on both tokens."""

from __future__ import annotations

import pytest
from hsm_help import Backend, label
from hsm_help import backend as backend

THREADS = """
threads, count, thread_safe = int(arguments[1]), int(arguments[2]), arguments[3] == "pool"
with open_manager(thread_safe=thread_safe) as hsm:
    data, master = hsm.generate_key(arguments[0]), hsm.generate_key("master:" + arguments[0])
    key = MemoryLockedKey.generate()
    wrapped = hsm.wrap_key(master, key)
    wrong, nonces = [], []
    def work(number):
        own = []
        try:
            for step in range(count // 2):
                plaintext = b"%d %d" % (number, step)
                message = hsm.encrypt(data, plaintext, b"ad")
                own.append(message[20:32])
                if hsm.decrypt(data, message, b"ad") != plaintext: wrong.append((number, step))
                if step % 100 == 0:
                    back = hsm.unwrap_key(master, wrapped, key.key_id)
                    if back.key_id != key.key_id: wrong.append((number, step))
                if step % 500 == 0: hsm.find(arguments[0])
        except BaseException as error:
            wrong.append(repr(error))
        nonces.extend(own)
    every = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in every: thread.start()
    for thread in every: thread.join()
    assert not wrong, wrong[:5]
    assert len(set(nonces)) == len(nonces) == threads * (count // 2)
"""


def test_eight_threads(backend: Backend) -> None:
    backend.python(THREADS, label(), 8, 5000, "one session")


def test_eight_threads_with_a_session_each() -> None:
    Backend("kryoptic").python(THREADS, label(), 8, 2000, "pool")


FORKS = """
import signal
forks, thread_safe = int(arguments[1]), arguments[2] == "pool"
hsm = open_manager(pin=lambda: PIN, thread_safe=thread_safe)
data = hsm.generate_key(arguments[0])
before = hsm.encrypt(data, b"before")
stop, wrong = threading.Event(), []
def work():
    try:
        while not stop.is_set():
            if hsm.decrypt(data, hsm.encrypt(data, b"thread")) != b"thread": wrong.append("result")
    except BaseException as error:
        wrong.append(repr(error))
every = [threading.Thread(target=work) for _ in range(8)]
for thread in every: thread.start()
nonces = set()
for number in range(forks):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        # Far more than a child needs on a busy machine; without one a hang would last for ever.
        signal.alarm(30)
        code = 1
        try:
            message = hsm.encrypt(data, b"child")
            right = hsm.decrypt(data, message) == b"child"
            right = right and hsm.decrypt(data, before) == b"before"
            os.write(write, message[20:32])
            if number % 3 == 0:
                with open_manager() as own: right = right and bool(own.find(arguments[0]))
            if number % 5 == 0:
                # A fork in the fork.
                grandchild = os.fork()
                if grandchild == 0:
                    os._exit(0 if hsm.decrypt(data, before) == b"before" else 1)
                right = right and os.waitpid(grandchild, 0)[1] == 0
            code = 0 if right else 2
        except BaseException as error:
            print("child", repr(error), flush=True)
        finally:
            os._exit(code)
    os.close(write)
    nonces.add(os.read(read, 12))
    os.close(read)
    status = os.waitpid(child, 0)[1]
    if status: wrong.append(("child", number, status))
stop.set()
for thread in every: thread.join()
assert not wrong, wrong[:5]
assert len(nonces) == forks
assert hsm.decrypt(data, before) == b"before"
hsm.close()
"""


def test_forks_while_eight_threads_are_at_work(backend: Backend) -> None:
    assert backend.python(FORKS, label(), 30, "one session") == ""


def test_forks_while_eight_threads_have_a_session_each() -> None:
    assert Backend("kryoptic").python(FORKS, label(), 30, "pool") == ""


def test_a_pin_is_not_inherited(backend: Backend) -> None:
    program = """
hsm = open_manager()
data = hsm.generate_key(arguments[0])
message = hsm.encrypt(data, b"x")
if os.fork() == 0:
    try: hsm.decrypt(data, message)
    except HSMError as error: assert "fork" in str(error), error
    else: os._exit(1)
    # Whoever gives it again opens the token for all that the child inherited.
    with open_manager() as own: assert own.decrypt(data, message) == b"x"
    assert hsm.decrypt(data, message) == b"x"
    os._exit(0)
assert os.wait()[1] == 0
assert hsm.decrypt(data, message) == b"x"
"""
    backend.python(program, label())


def test_a_child_that_closes_leaves_the_parent_alone(backend: Backend) -> None:
    program = """
hsm = open_manager(pin=lambda: PIN)
data = hsm.generate_key(arguments[0])
for use in (True, False):
    if os.fork() == 0:
        if use: hsm.encrypt(data, b"x")
        hsm.close()
        sys.exit()  # An ordinary end, with all destructors.
    assert os.wait()[1] == 0
    assert hsm.decrypt(data, hsm.encrypt(data, b"x")) == b"x"
"""
    backend.python(program, label())


def test_a_child_killed_in_the_middle(backend: Backend) -> None:
    program = """
import random, signal
hsm = open_manager(pin=lambda: PIN)
data = hsm.generate_key(arguments[0])
before = hsm.encrypt(data, b"before")
seed = random.SystemRandom().randrange(2**32)
choose = random.Random(seed)
for _ in range(10):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        while True:
            hsm.encrypt(data, b"child")
            os.write(write, b".")
    os.close(write)
    for _ in range(choose.randrange(1, 60)): os.read(read, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(read)
    assert hsm.decrypt(data, before) == b"before", seed
    assert hsm.decrypt(data, hsm.encrypt(data, b"after")) == b"after", seed
"""
    backend.python(program, label())


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(backend: Backend, method: str) -> None:
    program = """
import multiprocessing
if __name__ == "__main__":
    with open_manager() as hsm:
        data = hsm.generate_key(arguments[0])
        message = hsm.encrypt(data, b"x")
        from hsm_help import open_in_worker
        with multiprocessing.get_context(arguments[1]).Pool(2) as pool:
            found = pool.map(open_in_worker, [(path, data, message)] * 6)
        assert found == [b"x"] * 6, found
"""
    backend.python(program, label(), method)


ROTATORS = """
from collections import Counter
name, count = arguments[0], int(arguments[1])
if os.fork() == 0:
    with open_manager() as hsm: hsm.generate_key(name)
    os._exit(0)
assert os.wait()[1] == 0
messages, out = os.pipe()
for _ in range(4):
    if os.fork() == 0:
        done = Counter()
        with open_manager() as hsm:
            for step in range(count):
                # A collision is an error of the one that lost, and a key may be rotated under one.
                try: hsm.rotate(name); done["rotated"] += 1
                except HSMError: pass
                try: message = hsm.encrypt(hsm.find(name), b"x"); done["written"] += 1
                except (KeyStateError, HSMError): continue
                os.write(out, message)
        os.write(1, b"%d %d\\n" % (done["rotated"], done["written"]))
        os._exit(0)
for _ in range(4): assert os.wait()[1] == 0
os.close(out)
with os.fdopen(messages, "rb") as pipe: written = pipe.read()
with open_manager() as hsm:
    primary = hsm.find(name)
    # One that was made at the same time may encrypt still, until the next rotation.
    active = [key for key in hsm.list_keys(name) if key.active]
    assert max(active, key=lambda key: key.version).id == primary
    for at in range(0, len(written), 49):
        assert hsm.decrypt(primary, written[at:at + 49]) == b"x"
    before = hsm.get_key(primary).version
    last = hsm.rotate(name)
    assert [key.id for key in hsm.list_keys(name) if key.active] == [last]
    assert hsm.get_key(last).version > before
"""


def test_four_processes_rotate_one_label(backend: Backend) -> None:
    lines = backend.python(ROTATORS, label(), 6).splitlines()
    rotated, written = (sum(int(line.split()[i]) for line in lines) for i in (0, 1))
    assert rotated >= 1
    assert written >= 4


def test_what_can_not_be_closed_now_stays_open(backend: Backend) -> None:
    program = """
one, two = open_manager(timeout=0.1), open_manager()
data = one.generate_key(arguments[0])
held, done = threading.Event(), threading.Event()
def hold():
    with one._module.locked(5):
        held.set()
        done.wait()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
try: one.close()
except HSMError as error: assert error.retryable and "busy" in str(error), error
else: raise AssertionError
done.set()
thread.join()
assert not one.closed and one.encrypt(data, b"x")
closing = [threading.Thread(target=one.close) for _ in range(8)]
for thread in closing: thread.start()
for thread in closing: thread.join()
# The login of the other one stands.
assert one.closed and two.decrypt(data, two.encrypt(data, b"x")) == b"x"
"""
    backend.python(program, label())


KILLED = """
import signal, subprocess
from hsm_help import PRELUDE
from strongroom.hsm import keys
name = arguments[0]
if os.fork() == 0:
    with open_manager() as hsm: hsm.generate_key(name)
    os._exit(0)
assert os.wait()[1] == 0
if os.fork() == 0:
    new_id, make_key = keys.new_id, keys.make_key
    def meanwhile(version):
        # This one has looked at the versions; another process is quicker.
        other = PRELUDE + "with open_manager() as hsm: print(hsm.rotate(arguments[0]))"
        subprocess.run([sys.executable, "-c", other, path, name], check=True)
        return new_id(version)
    def killed(*args, **options):
        make_key(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)
    keys.new_id, keys.make_key = meanwhile, killed
    with open_manager() as hsm: hsm.rotate(name)
    os._exit(1)
assert os.wait()[1] == signal.SIGKILL
with open_manager() as hsm:
    one, two, three = hsm.list_keys(name)
    assert [key.version for key in (one, two, three)] == [1, 2, 2]
    (primary,) = [key.id for key in (one, two, three) if key.active]
    print(primary)
    assert hsm.find(name) == primary
    message = hsm.encrypt(primary, b"x")
    last = hsm.rotate(name)
    assert hsm.get_key(last).version == 3 and hsm.find(name) == last
    assert hsm.decrypt(last, message) == b"x"
"""


def test_two_of_one_version_after_one_of_two_that_rotate_is_killed(backend: Backend) -> None:
    made, found = backend.python(KILLED, label()).split()
    assert made == found
