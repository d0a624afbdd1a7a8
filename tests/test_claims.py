"""Claims that nothing else here holds: each was broken on purpose once, and no test noticed.

All from the outside (calls, files, processes, signals), so that it does not matter where the code lies.
"""

from __future__ import annotations

import asyncio
import dbm.dumb
import functools
import gc
import inspect
import itertools
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import traceback
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from support import PATIENCE, apart, every_connection, every_statement, exit_code, fork, furnish, link

import tinyauthstore
from tinyauthstore import (
    AuthStoreError, MemoryAdapter, Session, ShelveAdapter, SplitAdapter, SQLiteAdapter, StorageError, User,
    VerificationToken, connect,
)
from tinyauthstore.aio import AsyncAdapter
from tinyauthstore.cli import main
from tinyauthstore.testing import FAR, FrozenClock, undone

pytest_plugins = "pytester"

needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="only Linux shows what is open")

Store = Any


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "auth.db"


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


def raw(path: Path, *statements: str) -> list[Any]:
    """The rows of the last statement, run by a stranger's connection that waits for nobody."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as connection:
        return [connection.execute(statement).fetchall() for statement in statements][-1]


# --- every store ------------------------------------------------------------------------------

STORES: dict[str, Callable[..., Store]] = {
    "memory": lambda folder, **options: MemoryAdapter(**options),
    "sqlite": lambda folder, **options: SQLiteAdapter(":memory:", **options),
    "file": lambda folder, **options: SQLiteAdapter(folder / "auth.db", durability="normal", **options),
    "shelf": lambda folder, **options: ShelveAdapter(folder / "auth", durability="normal", **options),
    "split": lambda folder, **options: SplitAdapter(
        users=SQLiteAdapter(folder / "users.db", durability="normal", **options),
        sessions=MemoryAdapter(**options),
        verification=ShelveAdapter(folder / "tokens", durability="normal", **options),
    ),
}
each_store = pytest.mark.parametrize("kind", STORES)


class Undo(Exception):
    """Raised to have a transaction rolled back."""


# --- a verification token works once ----------------------------------------------------------


def use(store: Store) -> bool:
    """Whether somebody who follows the link now is let in."""
    return store.use_verification_token(identifier="ada@example.com", token="link") is not None


@each_store
def test_a_verification_token_works_once_inside_a_transaction_too(kind: str, tmp_path: Path) -> None:
    with STORES[kind](tmp_path) as store:
        store.create_verification_token(identifier="ada@example.com", token="link")
        with store.transaction():
            assert [use(store), use(store)] == [True, False]
        assert not use(store)


@each_store
def test_a_verification_token_whose_use_was_rolled_back_works_once_more(kind: str, tmp_path: Path) -> None:
    with STORES[kind](tmp_path) as store:
        store.create_verification_token(identifier="ada@example.com", token="link")
        with pytest.raises(Undo), store.transaction():
            assert use(store)
            raise Undo
        assert [use(store), use(store)] == [True, False]


@each_store
def test_a_verification_token_whose_use_was_undone_by_a_savepoint_works_once_more(
    kind: str, tmp_path: Path
) -> None:
    with STORES[kind](tmp_path) as store:
        store.create_verification_token(identifier="ada@example.com", token="link")
        with store.transaction():
            with pytest.raises(Undo), store.transaction():
                assert use(store)
                raise Undo
            assert [use(store), use(store)] == [True, False]
        assert not use(store)


# --- a token is what was handed out, to the last character ------------------------------------

ALMOST = {
    "abc": ["abc\ud800", "\udfffabc", "a\udc80bc"],
    "abc?": ["abc\ud800", "abc\udcff"],
    "abc\ufffd": ["abc\ud800", "abc\udcff"],
    "abc\ufffd\ufffd\ufffd": ["abc\ud800"],
    "abc\\ud800": ["abc\ud800"],
    "abc&#55296;": ["abc\ud800"],
    "abc\N{SNOWMAN}": ["abc\udce2\udc98\udc83"],
    "abc\N{GRINNING FACE}": ["abc\ud83d\ude00", "abc\ud83d"],
}
"""Tokens, and what a careless encoding makes the same of them: with halves of characters, which no UTF-8 holds."""

PAIRS = [(token, presented) for token, others in ALMOST.items() for presented in others]
each_secret = pytest.mark.parametrize("secret", [None, "pepper"], ids=["SHA-256", "HMAC"])


@each_secret
@each_store
def test_a_session_token_with_half_a_character_is_no_other_token(
    kind: str, secret: str | None, tmp_path: Path
) -> None:
    with STORES[kind](tmp_path, secret=secret) as store:
        store.create_user(id="ada")
        for token, presented in PAIRS:
            store.create_session(user_id="ada", session_token=token)
            for _ in range(3):  # from the second look-up on, it is kept
                assert store.get_session_and_user(token) is not None
                assert store.get_session_and_user(presented) is None
            for call in (store.touch_session, store.rotate_session, store.delete_session):
                assert call(presented) is None
            assert store.update_session(presented, expires=FAR) is None
            assert store.get_session_and_user(token) is not None
            assert store.revoke_sessions("ada", keep=presented) == 1


@each_secret
@each_store
def test_a_verification_token_with_half_a_character_is_no_other_token(
    kind: str, secret: str | None, tmp_path: Path
) -> None:
    with STORES[kind](tmp_path, secret=secret) as store:
        for token, presented in PAIRS:
            store.create_verification_token(identifier="ada@example.com", token=token)
            assert store.use_verification_token(identifier="ada@example.com", token=presented) is None
            assert store.use_verification_token(identifier="ada@example.com", token=token) is not None


@each_store
@pytest.mark.parametrize("secret", ["\ud800", "pepper\udfff", "pep\udc80per"], ids=ascii)
def test_a_secret_with_half_a_character_is_refused(kind: str, secret: str, tmp_path: Path) -> None:
    """As what would it count: with it left out, or a question mark in its place?"""
    with pytest.raises(ValueError, match="secret must be"):
        STORES[kind](tmp_path, secret=secret)


# --- purging ----------------------------------------------------------------------------------


def sign_in_often(store: Store, count: int, expires: datetime) -> None:
    """That many sessions and verification tokens."""
    with store.transaction():
        for _ in range(count):
            store.create_session(user_id="ada", expires=expires)
            store.create_verification_token(identifier="ada@example.com", expires=expires)


@each_store
def test_a_purge_of_thousands_counts_and_removes_each(kind: str, tmp_path: Path, clock: FrozenClock) -> None:
    """It goes in many short transactions, of which none may be the last one too early."""
    with STORES[kind](tmp_path, clock=clock, purge_interval=None) as store:
        store.create_user(id="ada")
        sign_in_often(store, 3, clock() + timedelta(hours=1))
        sign_in_often(store, 2500, clock())
        assert store.purge_expired(limit=1500) == (1500, 1500)
        sign_in_often(store, 1500, clock())
        assert store.purge_expired() == (2500, 2500)
        assert store.purge_expired() == (0, 0)
        assert len(store.list_sessions("ada")) == 3
        assert store.delete_verification_tokens("ada@example.com") == 3


@each_store
def test_purging_goes_on_after_the_clock_was_put_back(kind: str, tmp_path: Path, clock: FrozenClock) -> None:
    """Somebody mends a clock that was a month ahead: nobody waits a month for the next round."""
    with STORES[kind](tmp_path, clock=clock, session_max_age=60, verification_max_age=60, purge_interval=60) as store:
        store.create_user(id="ada")

        def sign_in() -> None:
            store.create_session(user_id="ada")
            store.create_verification_token(identifier="ada@example.com")

        clock.tick(days=30)
        sign_in()
        store.purge_expired()
        clock.tick(days=-30)
        for _ in range(10):
            sign_in()
        clock.tick(minutes=5)
        sign_in()
        assert undone(store, store.purge_expired) == (0, 0)


PURGES: dict[str, Callable[[Store], Any]] = {
    "purge_expired": lambda store: store.purge_expired(),
    "a limited purge": lambda store: store.purge_expired(limit=5),
    "create_session": lambda store: store.create_session(user_id="ada"),
    "create_verification_token": lambda store: store.create_verification_token(identifier="ada@example.com"),
}


@pytest.mark.parametrize("purge", PURGES)
def test_a_purge_finds_what_expired_by_an_index(purge: str, path: Path, clock: FrozenClock) -> None:
    """Else each of them would read every session that there is."""
    ran: list[str] = []
    with every_statement(ran.append), SQLiteAdapter(path, clock=clock, session_max_age=60) as store:
        furnish(store)
        clock.tick(days=1)
        ran.clear()
        PURGES[purge](store)
        deletions = [sql for sql in ran if sql.startswith("DELETE") and "expires\" <=" in sql]
        plans = [[row[3] for row in raw(path, f"EXPLAIN QUERY PLAN {sql}")] for sql in deletions]
    assert [sql.split()[2].strip('"') for sql in deletions] == ["sessions", "verification_tokens"]
    for plan in plans:
        assert any("INDEX" in step and "(expires<?)" in step for step in plan), plan
        assert [step for step in plan if step.startswith("SCAN")] == []


# --- how much a store in memory takes ---------------------------------------------------------


BUSY: dict[str, Callable[[Store, datetime], Any]] = {
    "touches": lambda store, soon: store.touch_session("laptop"),
    "extends": lambda store, soon: store.update_session("laptop", expires=soon),
    "signs in and out": lambda store, soon: store.delete_session(store.create_session(user_id="ada").session_token),
    "sends the same link": lambda store, soon: store.create_verification_token(identifier="ada", token="314159"),
}


@pytest.mark.parametrize("busy", BUSY)
def test_a_store_in_memory_does_not_grow_with_what_is_done_to_a_few_records(busy: str, clock: FrozenClock) -> None:
    """Each new expiry is one more entry in a queue; those that no longer hold must go before they are due."""
    with MemoryAdapter(clock=clock, session_update_age=0, purge_interval=None) as store:
        store.create_user(id="ada")
        store.create_session(user_id="ada", session_token="laptop")

        def work(times: int) -> int:
            for _ in range(times):
                clock.tick(microseconds=1)
                assert BUSY[busy](store, clock() + timedelta(days=1)) is not None
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            grown = -work(1000) + work(5_000)
        finally:
            tracemalloc.stop()
    assert grown < 4_000 * 10  # not even ten bytes for each


# --- what SQLite itself enforces --------------------------------------------------------------


def test_the_file_itself_refuses_a_second_user_with_the_same_address(path: Path) -> None:
    """Whoever writes into it by hand cannot make two people one."""
    with SQLiteAdapter(path) as store:
        furnish(store)
    with pytest.raises(sqlite3.IntegrityError, match=r"UNIQUE constraint failed: users\.email_key"):
        raw(path, "INSERT INTO users (id, email, email_key) SELECT 'eve', email, email_key FROM users")
    raw(path, "INSERT INTO users (id) VALUES ('eve')", "INSERT INTO users (id) VALUES ('mallory')")


@pytest.mark.parametrize(
    "column",
    [
        "users.email_verified", "accounts.expires_at", "sessions.expires", "verification_tokens.expires",
        "authenticators.counter",
    ],
)  # fmt: skip
def test_the_file_itself_refuses_a_value_of_another_type(column: str, path: Path) -> None:
    with SQLiteAdapter(path) as store:
        furnish(store)
    table, name = column.split(".")
    with pytest.raises(sqlite3.IntegrityError, match=f"cannot store TEXT value in INTEGER column {column}"):
        raw(path, f"UPDATE {table} SET {name} = 'soon'")


# --- what is on the disk ----------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="Windows syncs no directories, and need not")
@pytest.mark.parametrize("durability", ["full", "normal"])
def test_a_new_shelfs_first_journal_is_in_its_directory_for_good(
    tmp_path: Path, durability: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file's own sync keeps its bytes, not its name: with that gone, all that was acknowledged is gone."""
    folder = tmp_path / "auth"
    seen: list[list[str]] = []

    def fsync(file: int) -> None:
        if folder.is_dir() and os.path.samestat(os.fstat(file), os.stat(folder)):
            seen.append(sorted(os.listdir(folder)))

    monkeypatch.setattr(os, "fsync", fsync)
    with ShelveAdapter(folder, durability=durability) as store:
        store.create_user()
        assert seen and "journal-000000" in seen[-1]


STRAY = [b"\n", b"0", b"\0", b"garbage\n", b"00000000 2 []\n", b"%08x 2 []\n" % zlib.crc32(b"[]"), b"\0" * 4096]
"""The last but one is a whole line, as of a second writer."""



@pytest.mark.parametrize("stray", STRAY, ids=lambda stray: repr(stray[:16]))
@pytest.mark.parametrize("written", [False, True], ids=["new", "written"])
def test_check_finds_what_somebody_else_appended_to_an_open_journal(
    tmp_path: Path, stray: bytes, written: bool
) -> None:
    with ShelveAdapter(tmp_path / "auth", durability="normal") as store:
        if written:
            furnish(store)
        assert store.check() == []
        journal = tmp_path / "auth" / "journal-000000"
        sound = journal.stat().st_size
        with open(journal, "ab") as file:
            file.write(stray)
        [problem] = store.check()
        assert str(journal) in problem
        os.truncate(journal, sound)
        assert store.check() == []


@pytest.mark.parametrize(("options", "level"), [({}, 2), ({"durability": "full"}, 2), ({"durability": "normal"}, 1)])
def test_every_connection_syncs_as_the_durability_demands(options: Any, level: int, path: Path) -> None:
    """SQLite's own answer: 2 is FULL, a sync at each commit; 1 is NORMAL, at checkpoints only."""
    opened: list[sqlite3.Connection] = []

    class Known(sqlite3.Connection):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            opened.append(self)

    with every_connection(Known), SQLiteAdapter(path, **options) as store, ThreadPoolExecutor(1) as other:
        furnish(store)
        with store.transaction():  # so that the other thread reads by a connection of its own
            assert other.submit(store.get_user, "ada").result(PATIENCE) is not None
        store.create_user()
        levels = [connection.execute("PRAGMA synchronous").fetchone()[0] for connection in opened]
    assert levels == [level] * 2


ACKNOWLEDGE = """
import os, sys
from tinyauthstore import SQLiteAdapter

with SQLiteAdapter(sys.argv[1], durability=sys.argv[2]) as store:
    for i in range(5):
        os.write(1, b"begin\\n")
        store.create_user()
        os.write(1, b"acknowledged\\n")
"""


@functools.cache
def can_be_watched() -> bool:
    """Whether there is an strace, and the system lets it watch."""
    if (strace := shutil.which("strace")) is None:
        return False
    tried = subprocess.run([strace, "-o", os.devnull, "true"], capture_output=True, timeout=PATIENCE)
    return tried.returncode == 0


@pytest.mark.parametrize(("durability", "syncs"), [("full", [True] * 5), ("normal", [False] * 5)])
def test_only_full_durability_syncs_before_each_acknowledgement(
    durability: str, syncs: list[bool], tmp_path: Path
) -> None:
    """As the system's kernel sees it: SQLite calls the C library itself, and nothing in Python notices."""
    if not can_be_watched():
        pytest.skip("needs strace")
    calls = tmp_path / "calls"
    watched = ["strace", "-f", "-o", os.fspath(calls), "-e", "trace=write,fsync,fdatasync", sys.executable, "-c"]
    subprocess.run(
        [*watched, ACKNOWLEDGE, tmp_path / "auth.db", durability],
        check=True, capture_output=True, timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": os.fspath(Path(tinyauthstore.__file__).parents[1])},
    )  # fmt: skip
    writes = [text.partition('"acknowledged')[0] for text in calls.read_text().split('"begin\\n"')[1:]]
    assert ["sync(" in write for write in writes] == syncs


@needs_proc
@pytest.mark.parametrize("when", ["new", "reopened", "in a transaction"])
@apart
def test_a_forked_child_has_no_file_of_its_parents_shelf(tmp_path: Path, when: str) -> None:
    """Not the journal, into which it could write, nor the lock, which it would hold after its parent's end."""
    folder = tmp_path / "auth"

    def opened() -> set[str]:
        links = [os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
        found = [os.readlink(link) for link in links if os.path.islink(link)]
        return {os.path.basename(name) for name in found if name.startswith(f"{folder}/")}

    def look() -> None:
        assert opened() == set()

    if when == "reopened":
        with ShelveAdapter(folder, durability="normal") as store:
            furnish(store)
    with ShelveAdapter(folder, durability="normal") as store:
        with store.transaction() if when == "in a transaction" else nullcontext():
            store.create_user(id="grace")
            journal = "journal-000001" if when == "reopened" else "journal-000000"
            assert opened() == {"lock", journal}
            assert exit_code(fork(look)) == 0
            assert opened() == {"lock", journal}
        assert store.check() == []


# --- asyncio ----------------------------------------------------------------------------------


class CannotClose(MemoryAdapter):
    def close(self) -> None:
        super().close()
        raise StorageError("the disk is full")


@pytest.mark.parametrize("use", ["nothing", "a look-up", "a write", "a transaction", "a failing close"])
def test_a_closed_async_store_has_no_thread_left(use: str) -> None:
    """When close() has returned, not some time after it."""

    async def main() -> None:
        store = AsyncAdapter(CannotClose() if use == "a failing close" else MemoryAdapter())
        if use == "a look-up":
            await store.get_user("ada")
        elif use == "a write":
            await store.create_user(id="ada")
        elif use == "a transaction":
            async with store.transaction():
                await store.create_user(id="ada")
        assert len(threading.enumerate()) - len(before) == (use in ("a write", "a transaction"))
        with pytest.raises(StorageError) if use == "a failing close" else nullcontext():
            await store.close()
        assert threading.enumerate() == before

    before = threading.enumerate()
    for _ in range(20):
        asyncio.run(main())


@contextmanager
def locked_for_a_moment(path: Path) -> Iterator[None]:
    """A stranger's connection has the file locked when the body begins, and frees it a little later."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.1, connection.execute, ["COMMIT"])
        timer.start()
        try:
            yield
        finally:
            timer.join()


HASTY: dict[str, Callable[[Any], Any]] = {
    "answered at once": lambda store: store.get_user("ada"),
    "answered by the worker, having much to read": lambda store: store.list_sessions("grace"),
    "answered by the worker, having to write": lambda store: store.touch_session("laptop"),
    "a mistake": lambda store: store.get_user(5),
    "unreadable": lambda store: store.list_sessions("ada"),
    "another mistake": lambda store: store.get_session_and_user(b"laptop"),
}


@pytest.mark.parametrize("how", HASTY)
def test_only_a_look_up_on_the_event_loop_is_in_a_hurry(how: str, path: Path, clock: FrozenClock) -> None:
    """Whatever became of it, the same thread waits afterwards where it uses the plain store."""

    async def look() -> None:
        store = AsyncAdapter(adapter)
        try:
            with suppress(TypeError, StorageError):
                await HASTY[how](store)
            with locked_for_a_moment(path):
                assert adapter.update_user("ada", name="Lovelace").name == "Lovelace"
        finally:
            await store.close()

    with SQLiteAdapter(path, session=Named, clock=clock, session_update_age=0, timeout=PATIENCE) as adapter:
        adapter.create_user(id="ada")
        adapter.create_session(user_id="ada", session_token="laptop")
        adapter.create_session(user_id="ada", session_token="phone")
        adapter.create_user(id="grace")
        for _ in range(500):
            adapter.create_session(user_id="grace")
        if how == "unreadable":
            raw(path, f"UPDATE sessions SET agent = {GARBLED} WHERE user_id = 'ada'")
        clock.tick(minutes=1)
        asyncio.run(look())


@pytest.mark.parametrize("kind", ["memory", "sqlite", "shelf"])
def test_a_look_up_of_a_store_in_memory_that_found_it_busy_leaves_no_hurry_behind(kind: str, tmp_path: Path) -> None:
    async def look() -> None:
        store = AsyncAdapter(adapter)
        inside, free = threading.Event(), threading.Event()

        def sit() -> None:
            with adapter.transaction():
                inside.set()
                assert free.wait(PATIENCE)

        thread = threading.Thread(target=sit)
        thread.start()
        assert inside.wait(PATIENCE)
        looking = asyncio.create_task(store.get_user("ada"))
        await asyncio.sleep(0)
        threading.Timer(0.1, free.set).start()
        assert adapter.update_user("ada", name="Lovelace").name == "Lovelace"  # waits for that thread
        assert (await looking).name is not None
        assert adapter.update_user("ada", name="Byron").name == "Byron"
        thread.join()
        await store.close()

    with STORES[kind](tmp_path) as adapter:
        adapter.create_user(id="ada", name="Ada")
        asyncio.run(look())


# --- for other people's tests -----------------------------------------------------------------

DURABLE = """
import os, pytest

@pytest.mark.auth_store("sqlite-file", durability="full")
def test_full(auth_store): auth_store.create_user()

@pytest.mark.auth_store("sqlite-file", durability="normal")
def test_normal(auth_store): auth_store.create_user()

@pytest.mark.auth_store("sqlite-file")
def test_default(auth_store): auth_store.create_user()

def syncs(store, monkeypatch):
    calls = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", calls.append)
        store.create_user()
    return len(calls)

@pytest.mark.auth_store("shelve", durability="full")
def test_full_shelf(auth_store, monkeypatch): assert syncs(auth_store, monkeypatch) == 1

@pytest.mark.auth_store("shelve", durability="normal")
def test_normal_shelf(auth_store, monkeypatch): assert syncs(auth_store, monkeypatch) == 0
"""


def test_the_markers_durability_is_that_of_the_store(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where none is given, it is the faster one: no test outlives a power cut."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # an installed package's would be the same plugin twice
    pytester.makepyfile(test_suite=DURABLE)
    ran: list[str] = []
    with every_statement(ran.append):
        result = pytester.runpytest_inprocess("-p", "tinyauthstore.pytest_plugin", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=5)
    assert [sql.split()[-1] for sql in ran if "synchronous" in sql] == ["FULL", "NORMAL", "NORMAL"]


# --- what an error says -----------------------------------------------------------------------


def told(error: BaseException) -> str:
    """All that an error says, and those behind it: to a log, to a tool that collects errors."""
    texts, pending, seen = [], [error], set()
    while pending:
        one = pending.pop()
        if id(one) not in seen:
            seen.add(id(one))
            texts += [str(one), repr(one), repr(one.args), repr(getattr(one, "__dict__", ""))]
            texts += traceback.format_exception(one)
            pending += [other for other in (one.__cause__, one.__context__) if other is not None]
    return "\n".join(texts)


WITH_PASSWORD: list[Any] = [
    "postgres://user:hunter2@host/db",
    "postgres://:hunter2@host",
    "postgres://user:hunter2@host/db?sslmode=require",
    "postgres://user:one@hunter2@host/db",
    "postgres://user:what?hunter2@host/db",
    "postgres://host/db?user=ada&password=hunter2",
    "postgres://host/db;password=hunter2",
    "sqlite://user:hunter2@host/auth.db",
    "sqlite:///auth.db?password=hunter2",
    "sqlite:///auth.db?user=ada@home&password=hunter2",
    "sqlite:///auth.db?password=hunter2&user=ada@home",
    "sqlite:///auth.db?password=one@hunter2",
    "shelve:auth?password=hunter2",
    "memory:?password=hunter2",
    "host=localhost user=ada password=hunter2",
    b"postgres://user:hunter2@host/db",
    {"type": "postgres", "host": "localhost", "username": "ada", "password": "hunter2", "database": "auth"},
    {"type": "postgres", "url": "postgres://user:hunter2@host/db"},
    {"type": "postgres", "database": "postgres://user:hunter2@host/db"},
    {"type": "postgres://user:hunter2@host/db"},
    {"type": "sqlite", "password": "hunter2"},
    {"type": "sqlite", "database": ":memory:", "password": "hunter2"},
    {"type": "shelve", "database": "auth", "password": "hunter2"},
    {"type": "memory", "password": "hunter2"},
]


@pytest.mark.parametrize("target", WITH_PASSWORD, ids=str)
def test_what_connect_refuses_may_hold_a_password_which_it_does_not_tell(
    target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, TypeError)) as caught:
        connect(target)
    assert "hunter2" not in told(caught.value)
    if isinstance(target, str):
        assert main(["demo", target]) == 2
        assert "hunter2" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("target", ["postgresql://localhost/auth", "sqlite://auth.db", "auth.db"])
def test_what_connect_refuses_is_told_where_it_can_hold_no_password(target: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(target))):
        connect(target)


SECRET = "-".join(["not", "for", "your", "eyes"])  # never whole in a line of source that a traceback quotes
GARBLED = f"CAST(X'{SECRET.encode().hex()}ff' AS TEXT)"  # no UTF-8 any more


@dataclass(frozen=True, slots=True)
class Member(User):
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Device(Session):
    agent: str | None = None
    basket: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Invitation(VerificationToken):
    by: str | None = None
    rooms: list[Any] = field(default_factory=list)


MODELS: dict[str, Any] = {"user": Member, "session": Device, "verification_token": Invitation}

DAMAGE = {
    "an account's token is no text": f"UPDATE accounts SET access_token = {GARBLED}",
    "an account's extra is no JSON": f"""UPDATE accounts SET extra = '{{"id_token": "{SECRET}'""",
    "an account's extra is a list": f"""UPDATE accounts SET extra = '["{SECRET}"]'""",
    "an account's extra is too deep": f"""UPDATE accounts SET extra = '{"[" * 10**5}"{SECRET}"'""",
    "a session's agent is no text": f"UPDATE sessions SET agent = {GARBLED}",
    "a session's basket is no JSON": f"""UPDATE sessions SET basket = '["{SECRET}'""",
    "a session ends too late": f"UPDATE sessions SET expires = {2**62}, agent = '{SECRET}'",
    "a user's name is no text": f"UPDATE users SET name = {GARBLED}",
    "a user's notes are no JSON": f"""UPDATE users SET notes = '{{"{SECRET}'""",
    "a user's notes are a list": f"""UPDATE users SET notes = '["{SECRET}"]'""",
    "a link ends too late": f"UPDATE verification_tokens SET expires = {2**62}, by = '{SECRET}'",
    "a link's maker is no text": f"UPDATE verification_tokens SET by = {GARBLED}",
    "a link's rooms are no JSON": f"""UPDATE verification_tokens SET rooms = '["{SECRET}'""",
}
READS: list[Callable[[Store], Any]] = [
    lambda store: store.get_user("ada"),
    lambda store: store.get_user_by_email("ada@example.com"),
    lambda store: store.get_user_by_account(provider="github", provider_account_id="1"),
    lambda store: store.get_account(provider="github", provider_account_id="1"),
    lambda store: store.list_accounts("ada"),
    lambda store: store.get_session_and_user("session"),
    lambda store: store.list_sessions("ada"),
    lambda store: store.touch_session("session"),
]
CHANGES: list[Callable[[Store], Any]] = [
    lambda store: store.create_user(email="ada@example.com"),
    lambda store: store.update_user("ada", name="Lovelace"),
    lambda store: store.delete_user("ada"),
    lambda store: link(store, "ada", refresh_token="new"),
    lambda store: store.unlink_account(provider="github", provider_account_id="1"),
    lambda store: store.create_session(user_id="ada", session_token="session"),
    lambda store: store.update_session("session", expires=FAR),
    lambda store: store.rotate_session("session"),
    lambda store: store.delete_session("session"),
    lambda store: store.revoke_sessions("ada"),
    lambda store: store.use_verification_token(identifier="ada@example.com", token="token"),
    lambda store: store.delete_verification_tokens("ada@example.com"),
    lambda store: store.snapshot(),
]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("where", ["first", "second"], ids="by the {} connection".format)
def test_the_error_about_a_damaged_row_tells_no_value_of_it(damage: str, where: str, path: Path) -> None:
    """Nor does any error behind it: tools that collect errors follow ``__context__``, hidden or not."""
    with SQLiteAdapter(path, **MODELS) as store, ThreadPoolExecutor(1) as other:
        furnish(store)
        raw(path, DAMAGE[damage])
        errors = []
        for call in READS if where == "second" else READS + CHANGES:
            with suppress(Undo), store.transaction():  # whatever it changes, the damage stays
                try:
                    other.submit(call, store).result(PATIENCE) if where == "second" else call(store)
                except AuthStoreError as error:
                    errors.append(error)
                raise Undo
        problems = store.check()
        assert problems and SECRET not in "".join(problems)
    assert any(isinstance(error, StorageError) for error in errors) or (where == "second" and "link" in damage)
    assert [told(error) for error in errors if SECRET in told(error)] == []


def line(payload: str | bytes) -> bytes:
    """A whole line of a shelf's journal, whatever its payload is."""
    data = payload.encode() if isinstance(payload, str) else payload
    return b"%08x %d %b\n" % (zlib.crc32(data), len(data), data)


ACCOUNT = {"user_id": "ada", "type": "oauth", "access_token": SECRET, "extra": {}}
SESSION = {"user_id": "ada", "expires": "2030-01-01T00:00:00+00:00", "agent": SECRET}
ROWS: dict[str, Any] = {
    "a token of another type": ["accounts", ["github", "1"], ACCOUNT | {"access_token": [SECRET]}],
    "an expiry that is none": ["sessions", ["00" * 32], SESSION | {"expires": SECRET}],
    "an expiry without a zone": ["sessions", ["00" * 32], SESSION | {"expires": f"2030-01-01 {SECRET}"}],
    "no expiry": ["sessions", ["00" * 32], {"agent": SECRET}],
    "a digest that is none": ["sessions", [SECRET], SESSION],
    "a key that is none": ["sessions", [[SECRET]], SESSION],
    "fields that are none": ["sessions", ["00" * 32], SECRET],
    "no fields": ["sessions", [SECRET]],
    "no row": SECRET,
    "a number for text": ["accounts", ["github", "1"], ACCOUNT | {"provider_account_id": 1, "scope": 5}],
}


@pytest.mark.parametrize("row", ROWS)
def test_the_error_about_a_damaged_row_of_a_shelf_tells_no_value_of_it(row: str, tmp_path: Path) -> None:
    with ShelveAdapter(tmp_path / "auth", durability="normal", **MODELS) as store:
        furnish(store)
    with open(tmp_path / "auth" / "journal-000001", "ab") as file:
        file.write(line(json.dumps([ROWS[row]])))
    with pytest.raises(StorageError) as caught:
        ShelveAdapter(tmp_path / "auth", **MODELS)
    assert SECRET not in told(caught.value)


NO_JSON = [f'[["accounts", ["github", "1"], {{"access_token": "{SECRET}"', f'["{SECRET}\xff"]'.encode("latin-1")]


@pytest.mark.parametrize("payload", NO_JSON, ids=["torn", "no UTF-8"])
@pytest.mark.parametrize("where", ["journal", "shelf"])
def test_the_error_about_a_line_that_is_no_json_tells_nothing_of_it(
    where: str, payload: str | bytes, tmp_path: Path
) -> None:
    """json's own error holds the whole text."""
    with ShelveAdapter(tmp_path / "auth", durability="normal") as store:
        furnish(store)
    if where == "journal":
        with open(tmp_path / "auth" / "journal-000001", "ab") as file:
            file.write(line(payload))
    else:
        with closing(dbm.dumb.open(os.fspath(tmp_path / "auth" / "shelf-000001.dumb" / "shelf"), "w")) as shelf:
            shelf[b"accounts/000000"] = line(payload)
    with pytest.raises(StorageError) as caught:
        ShelveAdapter(tmp_path / "auth")
    assert SECRET not in told(caught.value)


# --- what is kept of look-ups -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Named(Session):
    agent: str | None = None


@pytest.mark.parametrize("damage", [f"agent = {GARBLED}", f"expires = {2**62}"], ids=["no text", "too late"])
@pytest.mark.parametrize("nested", [False, True], ids=["alone", "in a transaction"])
@pytest.mark.parametrize("write", ["update_user", "delete_user"])
def test_a_kept_session_is_not_stale_after_a_write_that_met_an_unreadable_one(
    write: str, nested: bool, damage: str, path: Path
) -> None:
    """Whose sessions a write concerns is looked up: where that fails, none that is kept can be trusted."""
    with SQLiteAdapter(path, session=Named) as store:
        for name in ("ada", "grace"):
            store.create_user(id=name, name=name.title())
            store.create_session(user_id=name, session_token=name)
        store.create_session(user_id="ada", session_token="phone")
        raw(path, f"UPDATE sessions SET {damage} WHERE token_digest = x'{sha256(b'phone').hexdigest()}'")
        with pytest.raises(StorageError):
            store.list_sessions("ada")
        looks = [store.get_session_and_user("ada") for _ in range(3)]
        assert looks[1] is looks[2]  # it is kept
        with store.transaction() if nested else nullcontext():
            if write == "update_user":
                store.update_user("ada", name="Lovelace")
            else:
                store.delete_user("ada")
            found = store.get_session_and_user("ada")
            assert (found and found.user.name) == ("Lovelace" if write == "update_user" else None)
        for _ in range(3):
            found = store.get_session_and_user("ada")
            assert (found and found.user.name) == ("Lovelace" if write == "update_user" else None)
            found = store.get_session_and_user("grace")
            assert found and found.user.name == "Grace"


# --- signals ----------------------------------------------------------------------------------

PACKAGE = os.path.dirname(tinyauthstore.__file__)


class Interrupted(BaseException):
    """As a signal's handler raises it."""


@contextmanager
def interrupted(at: int) -> Iterator[list[str]]:
    """Raises ``Interrupted`` at one of the moments at which Python runs a signal's handler while it is in our
    code, which are numbered: when a function begins, and when a call is over. Yields where.

    Python lets no signal in between the end of an ``__enter__`` and the body of its ``with``.
    """
    moments, where = itertools.count(), []

    def strike(frame: FrameType, event: str, function: Any) -> None:
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE) or event not in ("call", "return", "c_return"):
            return
        if event != "c_return" and code.co_flags & inspect.CO_GENERATOR:
            return  # raised there, it would end the generator without its finally
        if event == "return" and code.co_name == "__enter__":
            return
        if next(moments) == at:
            where.append(f"{code.co_qualname}, {event}")
            raise Interrupted

    sys.setprofile(strike)
    try:
        with suppress(Interrupted):
            yield where
    finally:
        sys.setprofile(None)


def in_another_thread(call: Callable[[], Any]) -> Any:
    """What ``call()`` returns there; AssertionError if it is stuck."""
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(call()), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    [answer] = answers
    return answer


@pytest.mark.parametrize("kind", ["memory", "sqlite", "file", "shelf"])
def test_a_signal_at_any_moment_of_a_write_leaves_nothing_behind(kind: str, tmp_path: Path) -> None:
    """No open transaction, no lock, no half of it; and it arrives as what the handler raised."""
    with STORES[kind](tmp_path) as store:
        store.create_user(id="ada")
        store.create_session(user_id="ada", session_token="laptop")
        for moment in itertools.count():
            store.update_user("ada", name="before")
            with interrupted(moment) as where, store.transaction():
                store.update_user("ada", name="half")
                store.update_user("ada", name="after")
            gc.collect()  # since Python 3.12, the generator of ``interrupted`` and its exception keep each other alive
            name = store.get_user("ada").name
            assert name in ("before", "after"), where
            if kind == "file":
                raw(tmp_path / "auth.db", "BEGIN IMMEDIATE", "COMMIT")
                assert raw(tmp_path / "auth.db", "SELECT name FROM users") == [(name,)], where
            assert in_another_thread(lambda: store.update_user("ada", name="there")).name == "there", where
            looks = [store.get_session_and_user("laptop") for _ in range(3)]
            assert looks[1] is looks[2] and looks[2].user.name == "there", where  # kept: no transaction is open
            if not where:
                break
        assert moment > 100
        assert store.check() == []
