"""One owner for each transaction: all or nothing, whatever happens in between, and nobody waits without a bound."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import itertools
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, apart, every_connection, exit_code, fork, furnish, run_python

import tinyauthstore
from tinyauthstore import (
    BusyError, MemoryAdapter, ShelveAdapter, SplitAdapter, SQLiteAdapter, StorageError,
)
from tinyauthstore.aio import AsyncAdapter

PACKAGE = str(Path(tinyauthstore.__file__).parent)
MAKERS: dict[str, Callable[..., Any]] = {
    "memory": lambda folder, **options: MemoryAdapter(**options),
    "sqlite": lambda folder, **options: SQLiteAdapter(":memory:", **options),
    "file": lambda folder, **options: SQLiteAdapter(folder / "auth.db", durability="normal", **options),
    "shelf": lambda folder, **options: ShelveAdapter(folder / "shelf", durability="normal", **options),
    "split": lambda folder, **options: SplitAdapter(
        users=SQLiteAdapter(folder / "users.db", durability="normal", **options),
        sessions=MemoryAdapter(**options),
        verification=ShelveAdapter(folder / "verification", durability="normal", **options),
    ),
}
LASTING = ("file", "shelf")
each_store = pytest.mark.parametrize("kind", MAKERS)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")


# --- what SQLite undoes by itself -------------------------------------------------------------


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file may grow beyond that many bytes."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


@needs_fork
@pytest.mark.parametrize("nested", [False, True], ids=["flat", "in a block of its own"])
@apart
def test_after_a_disk_was_full_nothing_of_the_transaction_can_succeed(tmp_path: Path, nested: bool) -> None:
    with SQLiteAdapter(tmp_path / "auth.db") as store:
        furnish(store)
        kept = store.create_session(user_id="ada").session_token
        assert all(store.get_session_and_user(kept) for _ in range(3))
        with pytest.raises(StorageError, match="undone"):
            with store.transaction():
                store.delete_session("session")
                with pytest.raises(StorageError), full_disk(1 << 20):
                    if nested:
                        with store.transaction():
                            store.update_user("ada", image="x" * (8 << 20))
                    else:
                        store.update_user("ada", image="x" * (8 << 20))
                for call in (
                    lambda: store.create_user(id="grace"),
                    lambda: store.get_user("ada"),
                    lambda: store.get_session_and_user("session"),
                    lambda: store.list_accounts("ada"),
                    lambda: store.get_session_and_user(kept),
                    lambda: store.touch_session(kept),
                    lambda: store.transaction().__enter__(),
                ):
                    with pytest.raises(StorageError, match="undone"):
                        call()
        assert store.get_session_and_user("session") is not None and store.get_user("grace") is None
        assert store.create_user(id="edith") == store.get_user("edith")
        assert store.check() == []


@needs_fork
@apart
def test_the_error_that_leaves_a_block_which_sqlite_undid_is_the_applications_own(tmp_path: Path) -> None:
    with SQLiteAdapter(tmp_path / "auth.db") as store:
        furnish(store)
        with pytest.raises(LookupError), store.transaction():
            with suppress(StorageError), full_disk(1 << 20):
                store.update_user("ada", image="x" * (8 << 20))
            raise LookupError
        assert store.update_user("ada", name="Lovelace").name == "Lovelace"


class Unsynced(sqlite3.Connection):
    """The disk fails in the fsync of a commit."""

    failing = False

    def execute(self, sql: str, *given: Any) -> sqlite3.Cursor:
        if sql == "COMMIT" and Unsynced.failing:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = 1034  # SQLITE_IOERR_FSYNC
            raise error
        return super().execute(sql, *given)


def test_a_commit_that_could_not_be_synced_is_unknown_and_the_last_until_the_file_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with every_connection(Unsynced), SQLiteAdapter(tmp_path / "auth.db") as store:
        furnish(store)
        monkeypatch.setattr(Unsynced, "failing", True)
        with pytest.raises(StorageError, match="unknown"):
            store.create_user(id="grace")
        monkeypatch.setattr(Unsynced, "failing", False)
        with pytest.raises(StorageError, match="unknown.*opened again"):
            store.create_user(id="edith")
        assert store.get_user("ada") is not None
    with SQLiteAdapter(tmp_path / "auth.db") as store:
        assert store.create_user(id="edith") and store.check() == []


def test_a_shelfs_write_that_could_not_be_synced_is_unknown_and_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with ShelveAdapter(tmp_path / "shelf") as store:
        furnish(store)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fails)
            with pytest.raises(StorageError, match="unknown"):
                store.create_user(id="grace")
        with pytest.raises(StorageError, match="opened again"):
            store.create_user(id="edith")
        assert store.get_user("ada") is not None
    with ShelveAdapter(tmp_path / "shelf") as store:
        assert store.create_user(id="edith") and store.check() == []


# --- exceptions raised between any two lines --------------------------------------------------


class Timeout(Exception):
    """As a worker's time limit raises it, from a signal's handler."""


def struck(number: int, events: tuple[str, ...], call: Callable[[], object]) -> bool:
    """Whether ``call`` was struck by a ``Timeout``: at the event with that number of all in code of the package."""
    count = itertools.count()

    def trace(frame: Any, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event in events and next(count) == number:
            sys.settrace(None)
            raise Timeout
        return trace

    sys.settrace(trace)
    try:
        call()
    except Timeout:
        return True
    finally:
        sys.settrace(None)
    return False


def nested_blocks(store: Any) -> None:
    with store.transaction():
        store.update_user("ada", name="Lovelace")
        with suppress(LookupError), store.transaction():
            store.create_user(id="undone")
            raise LookupError
        with store.transaction():
            store.delete_session("session")


def seen(store: Any) -> tuple[Any, ...]:
    return (
        store.get_user("ada").name, store.get_session_and_user("session") is None,
        store.get_user("undone"), store.get_user("late") is not None,
    )  # fmt: skip


BEFORE, AFTER = ("Ada", False, None), ("Lovelace", True, None)


@each_store
@pytest.mark.parametrize("events", [("line",), ("call", "return")], ids="/".join)
def test_an_exception_at_any_point_of_nested_blocks_leaves_all_or_nothing_and_no_block(
    kind: str, events: tuple[str, ...], tmp_path: Path
) -> None:
    """Whatever is acknowledged afterwards lasts, at once and after reopening."""
    # All points of one store are a minute's work: every 61st, and others for each store.
    for number in range(list(MAKERS).index(kind), 10_000, 61):
        folder = tmp_path / str(number)
        folder.mkdir()
        with MAKERS[kind](folder, timeout=0.05) as store:
            furnish(store)
            hit = struck(number, events, lambda: nested_blocks(store))
            state = seen(store)
            assert state[:3] in (BEFORE, AFTER) or kind == "split", (number, state)
            assert hit or state[:3] == AFTER
            assert store.create_user(id="late") and store.check() == [], number
            with ThreadPoolExecutor(1) as pool:  # no turn stays behind for anybody else
                pool.submit(store.update_user, "late", name="other thread").result(PATIENCE)
            after = seen(store)
            assert after[:3] == state[:3] or kind == "split"
        if kind in LASTING:
            with MAKERS[kind](folder) as store:
                assert seen(store) == after, number
                assert store.get_user("late").name == "other thread"
        if not hit:
            break
    assert number > 80


@each_store
def test_a_block_that_is_dropped_without_being_left_is_undone(kind: str, tmp_path: Path) -> None:
    with MAKERS[kind](tmp_path, timeout=0.05) as store:
        furnish(store)
        manager = store.transaction()
        manager.__enter__()
        store.update_user("ada", name="Lovelace")
        del manager
        assert store.get_user("ada").name == "Ada"
        assert store.update_user("ada", name="Byron").name == "Byron"


@pytest.mark.parametrize("kind", ["memory", "sqlite", "file", "shelf"])
def test_blocks_that_end_in_the_wrong_order_say_so_and_leave_nothing(kind: str, tmp_path: Path) -> None:
    with MAKERS[kind](tmp_path, timeout=0.05) as store:
        outer, inner = store.transaction(), store.transaction()
        outer.__enter__()
        inner.__enter__()
        store.create_user(id="ada")
        outer.__exit__(None, None, None)
        with pytest.raises(RuntimeError, match="end the inner one first"):
            inner.__exit__(None, None, None)
        assert store.create_user(id="grace") == store.get_user("grace")


# --- who owns it ------------------------------------------------------------------------------


@pytest.fixture
def pools() -> Iterator[tuple[ThreadPoolExecutor, ...]]:
    """Three threads, as those among which a framework hands a generator around."""
    made = tuple(ThreadPoolExecutor(1) for _ in range(3))
    yield made
    for pool in made:
        pool.shutdown()


@each_store
def test_a_transaction_may_be_left_in_another_thread_than_it_was_entered_in(
    kind: str, pools: tuple[ThreadPoolExecutor, ...], tmp_path: Path
) -> None:
    first, second, third = pools
    with MAKERS[kind](tmp_path, timeout=0.05) as store:
        for ending in ((None, None, None), (LookupError, LookupError(), None)):
            manager = store.transaction()
            first.submit(manager.__enter__).result(PATIENCE)
            first.submit(store.create_user, id="ada").result(PATIENCE)
            second.submit(manager.__exit__, *ending).result(PATIENCE)
            assert (third.submit(store.delete_user, "ada").result(PATIENCE) is not None) == (ending[0] is None)
            first.submit(store.create_user, id="grace").result(PATIENCE)
            assert third.submit(store.delete_user, "grace").result(PATIENCE) is not None


def test_blocks_that_were_left_in_other_threads_do_not_pile_up(pools: tuple[ThreadPoolExecutor, ...]) -> None:
    """A thread's context keeps noting the block that was entered there, until the next one begins."""

    def blocks() -> int:
        return sum(type(one).__name__ == "Block" for one in gc.get_objects())

    with MemoryAdapter() as store:
        before = blocks()
        for _ in range(100):
            manager = store.transaction()
            pools[0].submit(manager.__enter__).result(PATIENCE)
            pools[1].submit(manager.__exit__, None, None, None).result(PATIENCE)
        assert blocks() - before < 5


@each_store
def test_a_thread_that_is_handed_the_context_of_a_transaction_is_inside_it(
    kind: str, pools: tuple[ThreadPoolExecutor, ...], tmp_path: Path
) -> None:
    """As FastAPI does for a ``def`` endpoint whose ``async def`` dependency has opened one."""
    first, second, _ = pools
    with MAKERS[kind](tmp_path, timeout=0.05) as store:
        with pytest.raises(LookupError), store.transaction():
            context = contextvars.copy_context()
            first.submit(context.run, lambda: store.create_user(id="ada")).result(PATIENCE)
            assert store.get_user("ada") is not None
            raise LookupError
        assert second.submit(store.get_user, "ada").result(PATIENCE) is None


@each_store
def test_another_thread_waits_at_most_timeout_and_then_is_told(
    kind: str, pools: tuple[ThreadPoolExecutor, ...], tmp_path: Path
) -> None:
    with MAKERS[kind](tmp_path, timeout=0.05) as store, store.transaction():
        begun = time.monotonic()
        with pytest.raises(BusyError, match="0.05 seconds"):
            pools[0].submit(store.create_user).result(PATIENCE)
        assert 0.05 <= time.monotonic() - begun < 2


@each_store
def test_another_thread_goes_on_as_soon_as_the_transaction_ends(
    kind: str, pools: tuple[ThreadPoolExecutor, ...], tmp_path: Path
) -> None:
    with MAKERS[kind](tmp_path, timeout=PATIENCE) as store:
        with store.transaction():
            waiting = pools[0].submit(store.create_user, id="ada")
            time.sleep(0.05)
            assert not waiting.done()
        assert waiting.result(5).id == "ada"


def test_each_of_many_waiting_threads_waits_no_longer_than_its_own_timeout(tmp_path: Path) -> None:
    """For the other process that holds the file, and for each other, together."""
    took = []

    def write(_: int) -> None:
        begun = time.monotonic()
        with pytest.raises(BusyError):
            store.create_user()
        took.append(time.monotonic() - begun)

    with SQLiteAdapter(tmp_path / "auth.db", timeout=0.5) as store, ThreadPoolExecutor(8) as pool:
        with closing(sqlite3.connect(tmp_path / "auth.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            list(pool.map(write, range(8)))
            other.execute("ROLLBACK")
    assert len(took) == 8 and max(took) < 1.2 and min(took) >= 0.5


@each_store
def test_another_task_of_the_thread_is_refused_and_told_what_to_use(kind: str, tmp_path: Path) -> None:
    """Its acknowledged write would be undone by a rollback that is not its own."""

    async def sign_up(store: Any) -> None:
        with store.transaction():
            store.create_user(id="ada")
            await asyncio.sleep(0.05)
            raise LookupError

    async def sign_in(store: Any) -> None:
        await asyncio.sleep(0.01)
        begun = time.monotonic()
        with pytest.raises(BusyError, match="AsyncAdapter"):
            store.create_user(id="grace")
        assert time.monotonic() - begun < 1

    async def main(store: Any) -> list[Any]:
        return await asyncio.gather(sign_up(store), sign_in(store), return_exceptions=True)

    with MAKERS[kind](tmp_path) as store:
        first, second = asyncio.run(main(store))
        assert isinstance(first, LookupError) and second is None
        assert store.get_user("ada") is None and store.create_user(id="grace") == store.get_user("grace")


@each_store
def test_a_task_started_inside_a_transaction_belongs_to_it_until_it_ends(kind: str, tmp_path: Path) -> None:
    async def main(store: Any) -> None:
        async def late() -> None:
            await ended.wait()
            store.create_user(id="late")

        ended = asyncio.Event()
        with suppress(LookupError), store.transaction():
            await asyncio.create_task(asyncio.to_thread(store.create_user, id="inside"))  # type: ignore[arg-type]
            task = asyncio.create_task(late())
            raise LookupError
        ended.set()
        await task

    with MAKERS[kind](tmp_path, timeout=0.5) as store:
        asyncio.run(main(store))
        assert store.get_user("inside") is None and store.get_user("late") is not None


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_another_greenlet_is_refused_and_told_what_to_use(kind: str, tmp_path: Path) -> None:
    greenlet = pytest.importorskip("greenlet")

    def sign_up() -> None:
        with suppress(LookupError), store.transaction():
            store.create_user(id="ada")
            greenlet.getcurrent().parent.switch()
            raise LookupError

    def sign_in() -> None:
        with pytest.raises(BusyError, match="AsyncAdapter"):
            store.create_user(id="grace")

    with MAKERS[kind](tmp_path) as store:
        first = greenlet.greenlet(sign_up)
        first.switch()
        greenlet.greenlet(sign_in).switch()
        first.switch()
        assert store.get_user("ada") is None and store.create_user(id="grace")


@pytest.mark.parametrize("kind", ["memory", "sqlite", "shelf"])
def test_a_look_up_in_memory_waits_for_another_threads_transaction_and_no_longer_than_timeout(
    kind: str, pools: tuple[ThreadPoolExecutor, ...], tmp_path: Path
) -> None:
    with MAKERS[kind](tmp_path, timeout=0.05) as store, store.transaction():
        store.create_user(id="ada")
        for look_up in (store.get_user, store.list_sessions, store.get_session_and_user):
            with pytest.raises(BusyError):
                pools[0].submit(look_up, "ada").result(PATIENCE)


def test_closing_waits_for_another_threads_transaction_and_no_longer_than_timeout(
    pools: tuple[ThreadPoolExecutor, ...]
) -> None:
    with MemoryAdapter(timeout=0.05) as store:
        with store.transaction():
            store.create_user(id="ada")
            with pytest.raises(BusyError):
                pools[0].submit(store.close).result(PATIENCE)
        assert store.get_user("ada") is not None


@pytest.mark.parametrize("timeout", [True, -1, float("inf"), float("nan"), "1", None])
@pytest.mark.parametrize("kind", ["memory", "file", "shelf"])
def test_a_timeout_that_is_no_bound_is_refused(kind: str, timeout: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="timeout"):
        MAKERS[kind](tmp_path, timeout=timeout)


# --- fork() -----------------------------------------------------------------------------------


FORKING = """
import os, sys, threading, time
from tinyauthstore import MemoryAdapter, SQLiteAdapter

sys.setswitchinterval(1e-5)
folder, kind = sys.argv[1:]
stores = [SQLiteAdapter(f"{folder}/{i}.db", durability="normal") if kind == "file" else MemoryAdapter() for i in range(3)]
for store in stores:
    store.create_user(id="ada")
token = stores[0].create_session(user_id="ada").session_token
end, slowest, failed = time.monotonic() + 1, [0.0], []

def forks():
    while time.monotonic() < end:
        begun = time.monotonic()
        if (child := os.fork()) == 0:
            os._exit(stores[0].get_session_and_user(token) is None or stores[1].get_user("ada") is None)
        slowest[0] = max(slowest[0], time.monotonic() - begun)
        if os.waitpid(child, 0)[1]:
            failed.append(child)

def writes():
    while time.monotonic() < end:
        for store in stores:
            store.update_user("ada", name=str(time.monotonic()))

threads = [threading.Thread(target=target) for target in (forks, forks, forks, forks, writes, writes)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for store in stores:
    store.update_user("ada", name="afterwards")
    store.close()
assert not failed, failed
assert slowest[0] < 2, slowest
"""


@needs_fork
@pytest.mark.parametrize("kind", ["file", pytest.param("memory", marks=pytest.mark.soak)])
def test_several_threads_may_fork_at_once(kind: str, tmp_path: Path) -> None:
    run_python(FORKING, tmp_path, kind)


@needs_fork
@apart
def test_a_fork_beside_transactions_that_span_stores_waits_for_them_to_end(tmp_path: Path) -> None:
    """The other thread has the one store and is about to want the other, which the fork would have by then."""
    users, sessions = SQLiteAdapter(tmp_path / "users.db"), SQLiteAdapter(tmp_path / "sessions.db")
    split = SplitAdapter(users=users, sessions=sessions)
    split.create_user(id="ada")
    stop = threading.Event()

    def look_up() -> None:
        assert split.get_user("ada") is not None and split.list_sessions("ada") == []

    def write() -> None:
        while not stop.is_set():
            with sessions.transaction():
                time.sleep(0.01)
                with users.transaction():
                    users.update_user("ada", name="Lovelace")
            with split.transaction():
                time.sleep(0.01)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        try:
            for _ in range(5):
                begun = time.monotonic()
                child = fork(look_up)
                assert time.monotonic() - begun < 4
                assert exit_code(child) == 0
        finally:
            stop.set()
        writing.result(PATIENCE)
    split.close()


@needs_fork
@apart
def test_a_child_that_was_forked_inside_a_transaction_cannot_open_the_file_again(tmp_path: Path) -> None:
    """SQLite's library believes there that it holds its parent's locks: what it served would be out of date."""
    path, link = tmp_path / "auth.db", tmp_path / "link.db"
    link.symlink_to(path)

    def body() -> None:
        for name in (path, link):
            with pytest.raises(StorageError, match="fresh process"):
                SQLiteAdapter(name)
        with SQLiteAdapter(tmp_path / "other.db") as other:
            other.create_user(id="ada")

    with SQLiteAdapter(path) as store:
        with store.transaction():
            store.create_user(id="ada")
            child = fork(body)
        assert exit_code(child) == 0
        assert store.get_user("ada") is not None


# --- asyncio ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_an_async_adapter_has_the_timeout_of_its_store(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncAdapter(MAKERS[kind](tmp_path, timeout=0.05)) as store:
            with ThreadPoolExecutor(1) as pool:
                manager = store._adapter.transaction()
                pool.submit(manager.__enter__).result(PATIENCE)
                with pytest.raises(BusyError):
                    await store.create_user()
                pool.submit(manager.__exit__, None, None, None).result(PATIENCE)
            await store.create_user(id="ada")

    asyncio.run(main())
