"""What is particular to stores in PostgreSQL: a server that is away, slow, or breaks off."""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from keystore_help import Clock, PostgresPlace, clock
from strongroom import (
    FileMasterKey,
    Key,
    KeyStore,
    KeyStoreBusyError,
    KeyStoreError,
    VersionedEncryption,
)
from strongroom.keys import Policy

__all__ = ["clock"]


@pytest.fixture
def place(tmp_path: Path) -> PostgresPlace:
    return PostgresPlace(tmp_path)


class Proxy:
    """A way to the server that breaks off at a writer's COMMIT, before it or behind it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.at_commit = ""
        self.meanwhile: Callable[[], object] = lambda: None
        self.broken = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        writing = False
        with client, socket.create_connection(("127.0.0.1", self._port)) as server:
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    if source is client and b"BEGIN" in data:
                        writing = b"READ WRITE" in data
                    if source is client and writing and self.at_commit and b"COMMIT\0" in data:
                        when = self.at_commit
                        self.at_commit = "" if when != "always" else when
                        self.broken += 1
                        if when == "late":
                            # The client has given it up, and the server gets it all the same.
                            client.shutdown(socket.SHUT_RDWR)
                            self.meanwhile()
                            server.sendall(data)
                            server.recv(65536)
                        if when == "before":
                            # The server gives up what it was told, and only then hears of others.
                            server.close()
                            self.meanwhile()
                        if when == "after":
                            server.sendall(data)
                            # The server has committed when it answers, which no one hears.
                            server.recv(65536)
                            self.meanwhile()
                        return
                    (server if source is client else client).sendall(data)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def proxied(place: PostgresPlace) -> Iterator[tuple[Proxy, KeyStore]]:
    place.create().close()
    proxy = Proxy(place.server.port)
    url = place.url.replace(f":{place.server.port}/", f":{proxy.port}/")
    with KeyStore.open(url, place.master) as store:
        yield proxy, store
    proxy.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_answer_to_a_commit_is_lost(
    place: PostgresPlace, proxied: tuple[Proxy, KeyStore], when: str
) -> None:
    """It is looked up, and what was made is neither lost nor made twice."""
    proxy, store = proxied
    second = FileMasterKey.create(place.directory / "second.key")
    changes: list[tuple[Any, int]] = [
        (store.rotate, 2),
        (lambda: store.create_keyset("tenant"), 3),
        (store.generate_new_key, 4),
        (lambda: store.suspend_key(store.get_current_key().id), 4),
        (lambda: store.register_use(store.list_keys()[0].id, "archive"), 4),
        (lambda: store.set_policy("tenant", Policy(originator_seconds=60)), 4),
        (lambda: store.add_master(second), 4),
        (lambda: store.backup(place.directory / "backup.db"), 4),
    ]
    for number, (change, count) in enumerate(changes, 1):
        proxy.at_commit = when
        result = change()
        assert proxy.broken == number
        with place.open() as other:
            keys = other.list_keys()
            assert len(keys) == count
            if isinstance(result, Key):
                assert other.get_key(result.id).state == result.state
            other.check()
    with place.open() as other:
        assert other.uses_of(other.list_keys()[0].id) == ["archive"]
        assert other.get_policy("tenant").originator_seconds == 60
        assert second.key_id in [master.key_id for master in other.masters()]
        assert len(other.backups()) == 1


def test_the_commit_takes_place_after_it_was_looked_up(
    place: PostgresPlace, proxied: tuple[Proxy, KeyStore]
) -> None:
    """The same work waits for the lock of the first one then, and finds it done."""
    proxy, store = proxied
    second = FileMasterKey.create(place.directory / "second.key")

    def until_the_next_one_waits() -> None:
        # Not by the store: of its two sessions one waits for the other's row.
        with psycopg.connect(place.url, autocommit=True) as connection:
            while not connection.execute(
                "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
                "AND datname = current_database()"
            ).fetchall():
                pass

    proxy.meanwhile = until_the_next_one_waits
    changes: list[Callable[[], object]] = [
        store.rotate,
        store.generate_new_key,
        lambda: store.create_keyset("tenant"),
        lambda: store.compromise_key(store.get_current_key().id, rotate=True),
        lambda: store.set_policy("default", Policy(originator_seconds=60)),
        lambda: store.register_use(store.get_current_key().id, "archive"),
        lambda: store.add_master(second),
        lambda: store.rotate_master(second.key_id, FileMasterKey.create(place.directory / "3")),
    ]
    for number, change in enumerate(changes, 1):
        proxy.at_commit = "late"
        change()
        assert proxy.broken == number
        store.check()
    with place.open() as other:
        assert [key.generation for key in other.list_keys("default")] == [1, 2, 3, 4]
        assert other.get_current_key().generation == 4
        assert other.generation() == 1 + 2 + 5 + 1
        assert len(other.masters()) == 2
        assert other.uses_of(other.get_current_key().id) == ["archive"]


def test_a_connection_that_always_breaks_off(
    place: PostgresPlace, proxied: tuple[Proxy, KeyStore]
) -> None:
    proxy, _ = proxied
    url = place.url.replace(f":{place.server.port}/", f":{proxy.port}/")
    with KeyStore.open(url, place.master, busy_timeout=0.2) as store:
        proxy.at_commit = "always"
        with pytest.raises(KeyStoreError, match="whenever it committed"):
            store.rotate()
        assert proxy.broken > 1
        proxy.at_commit = ""
        assert store.rotate().generation == 2


def test_another_s_change_is_not_taken_for_the_one_that_was_lost(
    place: PostgresPlace, proxied: tuple[Proxy, KeyStore]
) -> None:
    """The generation has gone on, by another's hand."""
    proxy, store = proxied
    key = store.get_current_key()
    store.suspend_key(key.id)
    with place.open() as other:
        for change in (
            lambda: store.set_policy("default", Policy(originator_seconds=60)),
            lambda: store.resume_key(key.id),
        ):
            proxy.at_commit = "before"
            proxy.meanwhile = other.generate_new_key
            change()
        assert other.get_policy().originator_seconds == 60
        other.refresh()
        assert other.get_current_key() == key
        other.check()


def test_others_go_on_before_a_lost_answer_is_looked_up(
    place: PostgresPlace, proxied: tuple[Proxy, KeyStore]
) -> None:
    proxy, store = proxied
    with place.open() as other:
        proxy.at_commit, proxy.meanwhile = "after", other.rotate
        made = store.rotate()
        assert [key.generation for key in other.list_keys()] == [1, 2, 3]
        assert other.get_key(made.id).state == "deactivated"
        assert other.get_current_key().generation == 3
        store.refresh()
        assert store.get_current_key() == other.get_current_key()
        other.check()


def test_a_server_that_closed_idle_connections(place: PostgresPlace) -> None:
    with place.create() as store:
        place.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'strongroom' AND datname = current_database()"
        )
        assert store.rotate().generation == 2


def test_cached_keys_serve_while_the_server_is_away(place: PostgresPlace, clock: Clock) -> None:
    with place.create() as store:
        cipher = VersionedEncryption(store)
        message = cipher.encrypt(b"value")
        key = store.get_current_key()
        name = place.url.rpartition("/")[2]
        with psycopg.connect(place.server.url("postgres"), autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
            )
        assert store.get_current_key() == key
        assert cipher.decrypt(message) == b"value"
        with pytest.raises(KeyStoreError, match="can't be reached"):
            store.rotate()
        clock.seconds += 301
        with pytest.raises(KeyStoreError, match="can't be reached"):
            store.get_current_key()
        store.refresh()
        with pytest.raises(KeyStoreError, match="can't be reached"):
            cipher.decrypt(message)


def test_busy(place: PostgresPlace) -> None:
    place.create().close()
    with place.open(busy_timeout=0.1) as store, place.open(busy_timeout=0) as impatient:
        with psycopg.connect(place.url) as other:
            other.execute("SELECT * FROM strongroom_keysets FOR UPDATE")
            for busy in (store, impatient):
                with pytest.raises(KeyStoreBusyError, match="locked by another process"):
                    busy.rotate()
            # Reading goes on beside a writer.
            assert len(store.list_keys()) == 1
        assert impatient.rotate().generation == 2


def test_keysets_do_not_wait_for_each_other(place: PostgresPlace) -> None:
    with place.create(busy_timeout=0.1) as store:
        store.create_keyset("tenant")
        with psycopg.connect(place.url) as other:
            other.execute("SELECT * FROM strongroom_keysets WHERE name = 'default' FOR UPDATE")
            assert store.rotate("tenant").generation == 2


def test_settings_of_a_session(place: PostgresPlace) -> None:
    with place.create(busy_timeout=1.5) as store:

        def setting(name: str) -> Any:
            return store._database.read(lambda t: t.execute(f"SHOW {name}"))[0][0]

        assert setting("synchronous_commit") == "on"
        assert setting("lock_timeout") == "1500ms"
        assert setting("transaction_isolation") == "repeatable read"
    with place.open(read_only=True) as store:
        assert setting("default_transaction_read_only") == "on"


def test_no_password_shows(place: PostgresPlace) -> None:
    password = place.server.password
    with place.create() as store:
        assert password not in repr(store)
        assert store.url == place.shown
    texts = []
    for url in (
        place.url.replace(password, "secret7"),
        place.url.replace(f":{place.server.port}", ":1"),
        place.url + "?password=secret7&sslpassword=secret7",
        place.url + "_none",
    ):
        with pytest.raises(KeyStoreError) as caught:
            KeyStore.open(url, place.master)
        texts.append(f"{caught.value} {caught.value!r}")
    for text in texts:
        assert password not in text
        assert "secret7" not in text


def test_no_store_there(place: PostgresPlace) -> None:
    with pytest.raises(KeyStoreError, match="holds no key store"):
        place.open()
    place.create().close()
    with pytest.raises(KeyStoreError, match="holds a key store already"):
        place.create()


def test_creating_at_once(place: PostgresPlace) -> None:
    results: list[Any] = []
    start = threading.Barrier(4)

    def work() -> None:
        start.wait()
        try:
            with place.create():
                results.append("made")
        except KeyStoreError as error:
            results.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count("made") == 1
    assert all("already" in result for result in results if result != "made")
    with place.open() as store:
        store.check()


def test_without_psycopg(place: PostgresPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(KeyStoreError, match=r"strongroom\[postgres\]"):
        place.open()
    with pytest.raises(KeyStoreError, match=r"strongroom\[postgres\]"):
        place.create()


def test_a_destroyed_key_is_gone_from_its_table(place: PostgresPlace) -> None:
    with place.create() as store:
        first = store.get_current_key()
        store.rotate()
        ((wrapped,),) = place.sql(
            "SELECT wrapped FROM strongroom_wrapped WHERE key_id = ?", first.id
        )

        def found() -> bool:
            place.sql("CHECKPOINT")
            ((name,),) = place.sql("SELECT pg_relation_filepath('strongroom_wrapped')")
            return wrapped[45:77] in (place.server.data / name).read_bytes()

        assert found()
        store.destroy_key(first.id, force=True)
        assert not found()
        store.check()
