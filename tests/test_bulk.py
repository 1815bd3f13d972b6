"""Trees: there and back, what is reported, and what a second run finds."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import strongroom
from file_help import leftovers, make_tree, seeded, small_disk, snapshot, store, work
from strongroom import DecryptionError, FormatError, KeyNotFoundError
from strongroom.bulk import ItemResult, decrypt_tree, encrypt_tree, rewrap_tree, verify_tree

__all__ = ["store", "work"]


class Items(list[ItemResult]):
    """Collects results, and looks at one by the name of its file."""

    def __call__(self, item: ItemResult) -> None:
        assert threading.current_thread() is threading.main_thread()
        self.append(item)

    def by_name(self) -> dict[str, ItemResult]:
        return {os.path.basename(os.fsdecode(item.path)): item for item in self}

    def failures(self) -> list[tuple[str, str]]:
        return [(str(item.path), str(item.error or item.reason)) for item in self if bad(item)]


def bad(item: ItemResult) -> bool:
    return item.status in ("failed", "skipped")


def test_there_and_back(store, work):
    rng = seeded()
    source, sealed, back = work / "source", work / "sealed", work / "back"
    make_tree(source, rng)
    before = snapshot(source)
    regular = [path for path in source.rglob("*") if path.is_file() and not path.is_symlink()]
    items = Items()
    report = encrypt_tree(source, sealed, store, associated_data=b"ad", on_item=items)
    assert items.failures() == []
    assert (report.ok, report.failed, report.skipped) == (len(regular), 0, 0)
    assert report.bytes_in == sum(path.stat().st_size for path in regular)
    assert report.bytes_out == sum(item.bytes_out for item in items)
    primary = store.get_current_key().id
    for item in items:
        assert (item.status, item.key_ids, item.kind) == ("ok", [primary], "envelope")
        assert os.lstat(str(item.target)).st_size == item.bytes_out
        assert item.target == str(sealed / os.path.relpath(item.path, source)) + ".srm"

    # The mapping, and modes and mtimes of files, directories and links.
    expected = {
        name if kept[2] is None or os.path.islink(source / name) else f"{name}.srm": kept[:2]
        for name, kept in before.items()
    }
    assert {name: kept[:2] for name, kept in snapshot(sealed).items()} == expected

    assert verify_tree(sealed, store, associated_data=b"ad").ok == len(regular)
    report = decrypt_tree(sealed, back, store, associated_data=b"ad")
    assert (report.ok, report.failed, report.skipped) == (len(regular), 0, 0)
    assert snapshot(back) == before
    assert snapshot(source) == before
    assert not leftovers(work)


def test_target_that_is_there_and_several_sources(store, work):
    for name in ("a", "b"):
        (work / name / "sub").mkdir(parents=True)
        (work / name / "sub" / "file").write_text(name)
    (work / "single").write_text("single")
    target = work / "target"
    target.mkdir(mode=0o711)
    (target / "other").write_text("stays")
    encrypt_tree(work / "a", target, store)
    assert (target / "sub" / "file.srm").exists()
    assert (target / "other").read_text() == "stays"
    encrypt_tree([work / "a", str(work / "b") + "/", os.fsencode(work / "single")], target, store)
    assert (target / "a" / "sub" / "file.srm").exists()
    assert (target / "b" / "sub" / "file.srm").exists()
    assert strongroom.verify_file(target / "single.srm", store) == 6
    shutil.rmtree(target / "sub")
    (target / "other").unlink()
    decrypt_tree(target, work / "back", store)
    assert (work / "back" / "b" / "sub" / "file").read_text() == "b"
    decrypt_tree([target / "single.srm"], work / "one", store)
    assert (work / "one" / "single").read_text() == "single"


def test_a_second_run_finds_a_passphrase_beside_the_key(store, work):
    source, sealed = work / "source", work / "sealed"
    source.mkdir()
    (source / "file").write_bytes(b"data")
    for _ in range(2):
        report = encrypt_tree(source, sealed, store, passphrase="word")
    assert (report.current, report.failed) == (1, 0)
    assert encrypt_tree(source, sealed, store).current == 1
    assert encrypt_tree(source, sealed, None, passphrase="word").current == 1
    assert encrypt_tree(source, sealed, store, passphrase="other").failed == 1


def test_what_a_second_run_finds(store, work):
    rng = seeded()
    source, sealed = work / "source", work / "sealed"
    make_tree(source, rng)
    first = encrypt_tree(source, sealed, store)
    inodes = {path: path.lstat().st_ino for path in sealed.rglob("*.srm")}
    second = encrypt_tree(source, sealed, store)
    assert (second.current, second.ok, second.failed) == (first.ok, 0, 0)
    assert inodes == {path: path.lstat().st_ino for path in sealed.rglob("*.srm")}

    # What opens in one of two ways that are asked for is not what is asked for.
    for store_too in (store, None):
        report = encrypt_tree(source, sealed, store_too, passphrase="word")
        assert (report.current, report.failed) == (0, first.ok)

    # What differs in any way is not taken for current, and not replaced unasked.
    (source / "new").write_text("new")
    (source / "touched").write_text("touched")
    encrypt_tree(source, sealed, store)
    os.utime(source / "touched")
    os.truncate(sealed / "new.srm", (sealed / "new.srm").stat().st_size - 1)
    when = (source / "new").stat().st_mtime_ns
    os.utime(sealed / "new.srm", ns=(when, when))
    items = Items()
    report = encrypt_tree(source, sealed, store, on_item=items)
    assert (report.current, report.failed) == (first.ok, 2)
    for name in ("touched", "new"):
        error = items.by_name()[name].error
        assert isinstance(error, FileExistsError)
        assert error.filename == str(sealed / f"{name}.srm")
    for settings in ({"associated_data": b"other"}, {"keyset": "other"}):
        if "keyset" in settings:
            store.create_keyset("other")
        report = encrypt_tree(source, sealed, store, **settings)
        assert (report.ok, report.current, report.failed) == (0, 0, first.ok + 2)
    report = encrypt_tree(source, sealed, store, overwrite=True)
    assert (report.ok, report.failed) == (first.ok + 2, 0)

    decrypted = decrypt_tree(sealed, work / "back", store)
    again = decrypt_tree(sealed, work / "back", store)
    assert (again.current, again.ok, again.failed) == (decrypted.ok, 0, 0)
    (work / "back" / "new").write_text("edited")
    assert decrypt_tree(sealed, work / "back", store).failed == 1
    assert (work / "back" / "new").read_text() == "edited"


def test_special_files_are_skipped_and_reported(store, work):
    source = work / "source"
    make_tree(source, seeded(), files=10, special=True)
    items = Items()
    report = encrypt_tree(source, work / "sealed", store, on_item=items)
    assert (report.ok, report.skipped, report.failed) == (10, 2, 0)
    assert items.by_name()["fifo"].reason == "a FIFO"
    assert items.by_name()["socket"].reason == "a socket"
    assert verify_tree(source, store).skipped == 2
    (work / "sealed" / "plain").write_text("x")
    (work / "sealed" / ".srm").write_text("x")
    items = Items()
    report = decrypt_tree(work / "sealed", work / "back", store, on_item=items)
    assert (report.ok, report.skipped, report.failed) == (10, 2, 0)
    assert "does not end in .srm" in str(items.by_name()["plain"].reason)


def test_names_that_do_not_fit(store, work):
    source = work / "source"
    source.mkdir()
    for name in ("x" * 255, "y" * 251, "z" * 252):
        (source / name).write_text(name)
    (source / "taken").write_text("a file")
    (source / "taken.srm").mkdir()
    items = Items()
    report = encrypt_tree(source, work / "sealed", store, on_item=items)
    failed: dict[int, Any] = {
        len(name): item.error for name, item in items.by_name().items() if item.error
    }
    assert (report.ok, report.failed) == (1, 3)
    assert [error.errno for length, error in sorted(failed.items()) if length > 200] == [
        errno.ENAMETOOLONG
    ] * 2
    assert isinstance(failed[5], IsADirectoryError)
    assert not leftovers(work)


def test_hard_links_become_files(store, work):
    source = work / "source"
    source.mkdir()
    (source / "a").write_text("data")
    os.link(source / "a", source / "b")
    assert encrypt_tree(source, work / "sealed", store).ok == 2
    assert decrypt_tree(work / "sealed", work / "back", store).ok == 2
    assert (work / "back" / "a").read_text() == (work / "back" / "b").read_text() == "data"


def test_hard_links_are_rewrapped_once(store, work):
    """The second name of a file meets the lock of the first, and must not wait for it."""
    sealed = work / "sealed"
    sealed.mkdir()
    cipher = strongroom.VersionedEncryption(store)
    for number in range(20):
        file = sealed / f"a{number}"
        file.write_bytes(cipher.encrypt(bytes(70_000)))
        os.link(file, sealed / f"b{number}")
    # Written anew, for there is no room for another slot: the links part. Then in place.
    store.rotate()
    report = rewrap_tree(sealed, store)
    assert (report.ok, report.failed) == (40, 0)
    for number in range(20):
        (sealed / f"b{number}").unlink()
        os.link(sealed / f"a{number}", sealed / f"b{number}")
    store.rotate()
    report = rewrap_tree(sealed, store)
    assert (report.ok, report.current, report.failed) == (20, 20, 0)
    assert verify_tree(sealed, store).ok == 40


def test_damage_is_reported_and_the_others_go_on(store, work):
    source, sealed, back = work / "source", work / "sealed", work / "back"
    make_tree(source, seeded())
    total = encrypt_tree(source, sealed, store).ok
    files = [path for path in sealed.rglob("*.srm") if path.is_file() and not path.is_symlink()]
    damaged, cut, foreign = sorted(files)[:3]
    with damaged.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    os.truncate(cut, 200)
    foreign.chmod(0o600)
    foreign.write_text("not a message")
    for run in (
        lambda on_item: verify_tree(sealed, store, on_item=on_item),
        lambda on_item: decrypt_tree(sealed, back, store, on_item=on_item),
    ):
        items = Items()
        report = run(items)
        assert (report.ok, report.failed) == (total - 3, 3)
        errors = {str(item.path): item.error for item in items if item.error is not None}
        assert isinstance(errors[str(damaged)], DecryptionError)
        assert isinstance(errors[str(cut)], FormatError)
        assert isinstance(errors[str(foreign)], FormatError)
    for path in (damaged, cut, foreign):
        assert not os.path.lexists(back / str(path.relative_to(sealed)).removesuffix(".srm"))
    assert not leftovers(work)


def test_rewrap(store, work):
    source, sealed = work / "source", work / "sealed"
    make_tree(source, seeded())
    total = encrypt_tree(source, sealed, store).ok
    inodes = {path: path.lstat().st_ino for path in sealed.rglob("*.srm")}
    for copy in (False, True):
        old, new = store.get_current_key().id, store.rotate().id
        assert rewrap_tree(sealed, store, copy=copy, dry_run=True).ok == total
        items = Items()
        report = rewrap_tree(sealed, store, copy=copy, on_item=items)
        assert items.failures() == []
        assert (report.ok, report.current, report.failed) == (total, 0, 0)
        assert {item.key_ids[0] for item in items} == {new}
        again = {path: path.lstat().st_ino for path in sealed.rglob("*.srm")}
        assert (again == inodes) is not copy
        report = rewrap_tree(sealed, store, copy=copy)
        assert (report.ok, report.current, report.failed) == (0, total, 0)
        store.destroy_key(old, force=True)
        assert verify_tree(sealed, store).ok == total
    # A mix: one more key, a file whose slots have no room, one that does not open, one locked.
    old = store.get_current_key().id
    cipher = strongroom.VersionedEncryption(store)
    (sealed / "roomless.srm").write_bytes(cipher.encrypt(bytes(100_000)))
    (sealed / "foreign.srm").write_text("not a message")
    new = store.rotate().id
    store.compromise_key(old)
    report = rewrap_tree(sealed, store)
    assert (report.ok, report.failed) == (total + 1, 1)
    (sealed / "foreign.srm").unlink()
    items = Items()
    verify_tree(sealed, store, on_item=items)
    assert {tuple(item.key_ids) for item in items} == {(new,)}
    assert not leftovers(work)


def test_passphrase_runs_argon2_once_for_a_tree(store, work, monkeypatch):
    from strongroom.masters import passphrase

    runs = []
    derive = passphrase._derive

    def counted(*arguments: Any) -> Any:
        runs.append(arguments)
        return derive(*arguments)

    monkeypatch.setattr(passphrase, "_derive", counted)
    make_tree(work / "source", seeded(), files=20)
    assert encrypt_tree(work / "source", work / "sealed", passphrase="secret").ok == 20
    assert decrypt_tree(work / "sealed", work / "back", passphrase="secret").ok == 20
    assert len(runs) == 2
    assert verify_tree(work / "sealed", passphrase="wrong").failed == 20
    assert snapshot(work / "back") == snapshot(work / "source")


def test_what_is_refused_before_anything_is_done(store, work):
    (work / "source").mkdir()
    (work / "source" / "file").write_text("x")
    (work / "link").symlink_to("source")
    (work / "other").mkdir()
    (work / "other" / "source").mkdir()
    target = work / "target"
    for sources, error in [
        (work / "missing", FileNotFoundError),
        ([work / "source", work / "missing"], FileNotFoundError),
        (work / "link", ValueError),
        ([work / "source", work / "other" / "source"], ValueError),
    ]:
        with pytest.raises(error):
            encrypt_tree(sources, target, store)
    for suffix in ("", "a/b"):
        with pytest.raises(ValueError, match="suffix"):
            encrypt_tree(work / "source", target, store, suffix=suffix)
    with pytest.raises(KeyNotFoundError):
        encrypt_tree(work / "source", target, store, keyset="nobody")
    with pytest.raises(ValueError, match="jobs"):
        encrypt_tree(work / "source", target, store, jobs=0)
    assert not target.exists()
    with pytest.raises(FileNotFoundError):
        encrypt_tree(work / "source", work / "no" / "target", store)
    with pytest.raises(NotADirectoryError):
        encrypt_tree(work / "other", work / "source" / "file", store)
    with pytest.raises(ValueError, match="at once"):
        encrypt_tree(work / "source", work / "source", store)
    assert os.listdir(work / "source") == ["file"]


def test_target_inside_the_source(store, work):
    source = work / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "file").write_text("x")
    items = Items()
    report = encrypt_tree(source, source / "sealed", store, on_item=items)
    assert (report.ok, report.skipped) == (1, 1)
    assert items.by_name()["sealed"].reason == "it is the target"
    assert (source / "sealed" / "sub" / "file.srm").exists()


def test_dry_run(store, work):
    make_tree(work / "source", seeded(), files=20, special=True)
    before = snapshot(work)
    items = Items()
    report = encrypt_tree(work / "source", work / "sealed", store, dry_run=True, on_item=items)
    assert (report.ok, report.skipped, report.failed) == (20, 2, 0)
    assert snapshot(work) == before
    encrypt_tree(work / "source", work / "sealed", store)
    before = snapshot(work)
    report = encrypt_tree(work / "source", work / "sealed", store, dry_run=True)
    assert (report.ok, report.current, report.skipped) == (0, 20, 2)
    assert snapshot(work) == before


def test_links_that_are_there(store, work):
    source, sealed = work / "source", work / "sealed"
    source.mkdir()
    (source / "link").symlink_to("text")
    encrypt_tree(source, sealed, store)
    (sealed / "link").unlink()
    (sealed / "link").symlink_to("other")
    items = Items()
    assert encrypt_tree(source, sealed, store, on_item=items).failed == 1
    assert isinstance(items[0].error, FileExistsError)
    assert os.readlink(sealed / "link") == "other"
    assert encrypt_tree(source, sealed, store, overwrite=True).failed == 0
    assert os.readlink(sealed / "link") == "text"
    assert not leftovers(work)


def test_an_exception_in_a_callback_stops_the_run(store, work):
    make_tree(work / "source", seeded())

    def stop(*_: object) -> None:
        raise LookupError("enough")

    with pytest.raises(LookupError):
        encrypt_tree(work / "source", work / "sealed", store, on_item=stop)
    assert not leftovers(work)
    assert encrypt_tree(work / "source", work / "sealed", store).failed == 0
    assert decrypt_tree(work / "sealed", work / "back", store).failed == 0
    assert snapshot(work / "back") == snapshot(work / "source")


def test_a_full_disk(store, work):
    """R16: what fits is whole, what doesn't is reported, nothing partial is left."""
    source = work / "source"
    source.mkdir()
    for number in range(40):
        (source / f"f{number}").write_bytes(os.urandom(300_000))
    before = snapshot(source)
    with small_disk(work / "disk", "6m") as disk:
        items = Items()
        report = encrypt_tree(source, disk / "sealed", store, on_item=items)
        assert report.ok > 0
        assert report.failed > 0
        assert report.ok + report.failed == 40
        for item in items:
            if item.status == "failed":
                assert isinstance(item.error, OSError)
                assert item.error.errno == errno.ENOSPC
                assert not os.path.lexists(str(item.target))
        assert not leftovers(disk)
        assert verify_tree(disk / "sealed", store).ok == report.ok
        # With room made, a second run does the rest.
        subprocess.run(["mount", "-o", "remount,size=40m", disk], check=True)
        again = encrypt_tree(source, disk / "sealed", store)
        assert (again.current, again.ok, again.failed) == (report.ok, report.failed, 0)
    assert snapshot(source) == before


def test_a_very_deep_tree_uses_up_descriptors_and_says_so(store, work):
    import resource

    source = work / "source"
    source.mkdir()
    here = os.open(source, os.O_RDONLY)
    for _ in range(150):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
        file = os.open("f", os.O_WRONLY | os.O_CREAT, dir_fd=here)
        os.close(file)
    os.close(here)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        items = Items()
        report = encrypt_tree(source, work / "sealed", store, on_item=items)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert report.ok == 49
    errors: list[Any] = [item.error for item in items if bad(item)]
    assert [(type(error), error.errno) for error in errors] == [(OSError, errno.EMFILE)]
    assert not leftovers(work / "sealed")
    assert encrypt_tree(source, work / "sealed", store).failed == 0
    assert decrypt_tree(work / "sealed", work / "back", store).ok == 150
    assert len(list(Path(work / "back").rglob("f"))) == 150


def test_a_rewrap_that_waits_for_a_lock_holds_none(store, work):
    # Else two runs that took locks in another order would wait for each other for ever.
    (work / "plain").write_bytes(b"data")
    first, second = work / "first", work / "second"
    for path in (first, second):
        strongroom.encrypt_file(work / "plain", path, store)
    new = store.rotate().id
    run = threading.Thread(target=rewrap_tree, args=([first, second], store))
    with first.open("rb") as held, second.open("rb") as other:
        fcntl.flock(held, fcntl.LOCK_EX)
        run.start()
        deadline = time.monotonic() + 60
        while strongroom.inspect(second).key_ids != (new,) or not free(other):
            assert time.monotonic() < deadline
        assert strongroom.inspect(first).key_ids != (new,)
    run.join()
    assert strongroom.inspect(first).key_ids == (new,)


def free(file) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(file, fcntl.LOCK_UN)
    return True
