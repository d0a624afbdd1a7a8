"""``AsyncAdapter``: what asyncio adds to the contract. (That it keeps the contract is tested by the kit.)

Where a test must catch the worker thread in the middle of a call, ``Held`` stops it there; nothing sleeps.
Only the gaps of the event loop are measured in time.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import random
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from support import PATIENCE, apart, every_connection, exit_code, fork, run_python, start_python

from tinyauthstore import (
    Adapter,
    ClosedError,
    ConflictError,
    MemoryAdapter,
    NotFoundError,
    SplitAdapter,
    SQLiteAdapter,
    StorageError,
    aio,
    forks,
)
from tinyauthstore.aio import AsyncAdapter
from tinyauthstore.base import AT_ONCE, BaseAdapter
from tinyauthstore.testing import CALLS, FrozenClock, Household
from tinyauthstore.transactions import WouldWait

T = TypeVar("T")
METHODS = [name for name in dir(Adapter) if not name.startswith("_")]
WORKER = "tinyauthstore"


def run(main: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run``, for at most ``PATIENCE`` seconds."""

    async def limited() -> T:
        async with asyncio.timeout(PATIENCE):
            return await main

    return asyncio.run(limited())


async def turns(count: int = 20) -> None:
    """Let the other tasks go as far as they get without waiting for a thread."""
    for _ in range(count):
        await asyncio.sleep(0)


def outside(call: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task that belongs to no transaction, wherever it was started."""
    return asyncio.create_task(call, context=contextvars.Context())


async def abandoned(task: asyncio.Task[Any]) -> None:
    """Cancel a task and see that it ends so."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


class Held:
    """Mixed into a store: its thread stops before the storage verb that a test names, until let go."""

    _verb = ""

    def hold(self, verb: str) -> None:
        self._verb, self._reached, self._free = verb, threading.Event(), threading.Event()

    async def reached(self) -> None:
        assert await asyncio.to_thread(self._reached.wait, PATIENCE)

    def let_go(self) -> None:
        self._free.set()

    def _stop_at(self, verb: str) -> None:
        if verb == self._verb:
            self._verb = ""
            self._reached.set()
            assert self._free.wait(PATIENCE)

    def _begin(self, depth: int, patience: float) -> None:
        self._stop_at("savepoint" if depth else "begin")
        super()._begin(depth, patience)  # type: ignore[misc]

    def _add(self, *given: Any) -> None:
        self._stop_at("put")
        super()._add(*given)  # type: ignore[misc]

    def _change(self, *given: Any) -> None:
        self._stop_at("put")
        super()._change(*given)  # type: ignore[misc]

    def _remove(self, *given: Any) -> Any:
        self._stop_at("remove")
        return super()._remove(*given)  # type: ignore[misc]

    def _commit(self, depth: int) -> None:
        self._stop_at("release" if depth else "commit")
        super()._commit(depth)  # type: ignore[misc]

    def _rollback(self, depth: int) -> None:
        self._stop_at("undo" if depth else "rollback")
        super()._rollback(depth)  # type: ignore[misc]

    def _release(self) -> None:
        self._stop_at("close")
        super()._release()  # type: ignore[misc]


class HeldMemory(Held, MemoryAdapter): ...


class HeldSQLite(Held, SQLiteAdapter): ...


def noting(base: type) -> type:
    """A subclass of a store that keeps, in ``names``, the thread on which each method gave its answer."""

    def noted(name: str) -> Callable[..., Any]:
        def method(self: Any, /, *arguments: Any, **fields: Any) -> Any:
            try:
                answer = getattr(super(cls, self), name)(*arguments, **fields)
            except WouldWait:
                raise
            except NotFoundError:
                self.names[name] = threading.current_thread().name
                raise
            self.names[name] = threading.current_thread().name
            return answer

        return method

    cls = type("Noting", (base,), {"names": {}, **{name: noted(name) for name in METHODS}})
    return cls


class Proxy:
    """An adapter of somebody else's: no base class of ours, and it notes the thread of every call."""

    def __init__(self, adapter: Any) -> None:
        self.adapter, self.names = adapter, {}

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **fields: Any) -> Any:
            self.names[name] = threading.current_thread().name
            return getattr(self.adapter, name)(*arguments, **fields)

        return call

    def __enter__(self) -> Any:
        return self.__getattr__("__enter__")()


MakeStore = Callable[..., Any]
FILE = {"timeout": PATIENCE, "durability": "normal"}
"""Options: no test waits for a disk, and none for less than ``PATIENCE`` on a lock."""


@pytest.fixture(params=["memory", "file"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeStore]:
    """Makes stores in memory, or in a file of its own each; ``make(mixin, option=...)``."""
    made: list[Any] = []

    def make(change: Callable[[type], type] = lambda base: base, **options: Any) -> Any:
        if request.param == "memory":
            made.append(change(MemoryAdapter)(**options))
        else:
            made.append(change(SQLiteAdapter)(tmp_path / f"{len(made)}.db", **FILE | options))
        return made[-1]

    yield make
    for adapter in made:
        adapter.close()


def held(base: type) -> type:
    """For ``make``."""
    return HeldMemory if base is MemoryAdapter else HeldSQLite


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until that is so, which it is once a worker thread has come to its end; fails if it never is."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.fixture(autouse=True)
def nothing_left_behind(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """After every test: no thread of ours, no complaint of the event loop or of a forgotten future."""
    yield
    eventually(lambda: [thread.name for thread in threading.enumerate() if thread.name.startswith(WORKER)] == [])
    assert [record.getMessage() for record in caplog.get_records("call")] == []


# --- names and signatures ---------------------------------------------------------------------


def parameters(function: Any) -> list[tuple[str, Any, Any, Any]]:
    """Name, kind, default and annotation of every parameter."""
    found = inspect.signature(function).parameters.values()
    return [(p.name, p.kind, p.default, p.annotation) for p in found]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_the_signature_of_the_contract(name: str) -> None:
    assert parameters(getattr(AsyncAdapter, name)) == parameters(getattr(Adapter, name))
    assert parameters(getattr(AsyncAdapter, name)) == parameters(getattr(BaseAdapter, name))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_returns_what_the_stores_does(name: str) -> None:
    ours, theirs = (
        inspect.signature(getattr(cls, name)).return_annotation for cls in (AsyncAdapter, BaseAdapter)
    )
    assert ours == theirs.replace("Transaction", "AsyncIterator")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_a_coroutine_function_with_the_name_and_docstring_of_the_contract(name: str) -> None:
    method = getattr(AsyncAdapter, name)
    assert (method.__name__, method.__qualname__) == (name, f"AsyncAdapter.{name}")
    assert method.__module__ == "tinyauthstore.aio"
    if name in ("transaction", "close"):  # which say more than the contract
        assert inspect.getdoc(method)
    else:
        assert inspect.getdoc(method) == inspect.getdoc(getattr(Adapter, name))
    if name == "transaction":
        assert inspect.isasyncgenfunction(inspect.unwrap(method))
    else:
        assert inspect.iscoroutinefunction(method)


def test_a_call_that_nobody_awaits_is_named_in_the_warning() -> None:
    with MemoryAdapter() as adapter, pytest.warns(RuntimeWarning) as warned:
        AsyncAdapter(adapter).create_user(email="ada@example.com")
        gc.collect()
    assert "coroutine 'AsyncAdapter.create_user' was never awaited" in str(warned[0].message)


def test_it_has_no_public_name_but_those_of_the_contract_of_files_and_run() -> None:
    names = [name for name in dir(AsyncAdapter) if not name.startswith("_")]
    assert names == sorted([*METHODS, "backup", "path", "restore_backup", "run"])


def test_importing_the_package_does_not_import_asyncio() -> None:
    script = "import sys, tinyauthstore; print({'asyncio', 'tinyauthstore.aio'} & {*sys.modules})"
    assert run_python(script) == "set()\n"


# --- a function of the wrapped store ----------------------------------------------------------


def admit(store: Any, email: str, *, then: Callable[[], Any] = lambda: None) -> Any:
    """Two writes and something after them."""
    user = store.create_user(email=email)
    store.create_session(user_id=user.id, session_token=f"{email}'s")
    then()
    return user, threading.current_thread().name


def as_it_is(base: type) -> type:
    """For ``make``."""
    return base


def fail() -> None:
    raise StopIteration("mine")


def test_run_calls_a_function_with_the_wrapped_store_on_the_worker(make: MakeStore) -> None:
    async def main() -> None:
        async with AsyncAdapter(make(as_it_is)) as store:
            user, thread = await store.run(admit, email="ada@example.com")
            assert await store.get_user_by_email("ada@example.com") == user
            assert thread.startswith(WORKER)

    run(main())


def test_run_is_one_trip_to_the_worker(make: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with AsyncAdapter(make(as_it_is)) as store:
            trips: list[Any] = []
            submit = store._worker.submit
            monkeypatch.setattr(store._worker, "submit", lambda *call: trips.append(call) or submit(*call))
            await store.run(admit, "ada@example.com")
            assert len(trips) == 1

    run(main())


def test_run_undoes_a_function_that_raises_and_passes_its_exception_on(make: MakeStore) -> None:
    async def main() -> None:
        async with AsyncAdapter(make(as_it_is)) as store:
            caught = None
            try:
                await store.run(admit, "ada@example.com", then=fail)
            except (StopIteration, RuntimeError) as error:  # a coroutine may not raise StopIteration
                caught = error.__cause__ or error
            assert str(caught) == "mine"
            assert await store.get_user_by_email("ada@example.com") is None
            assert await store.get_session_and_user("ada@example.com's") is None

    run(main())


def test_run_inside_a_transaction_is_a_savepoint(make: MakeStore) -> None:
    async def main() -> None:
        async with AsyncAdapter(make(as_it_is)) as store:
            async with store.transaction():
                await store.run(admit, "ada@example.com")
                with suppress(ZeroDivisionError):
                    await store.run(admit, "grace@example.com", then=lambda: 1 / 0)
            assert await store.get_user_by_email("ada@example.com")
            assert await store.get_user_by_email("grace@example.com") is None
            with suppress(ZeroDivisionError):
                async with store.transaction():
                    await store.run(admit, "grace@example.com")
                    raise ZeroDivisionError
            assert await store.get_user_by_email("grace@example.com") is None

    run(main())


def test_run_refuses_what_is_to_be_awaited(make: MakeStore) -> None:
    async def function(store: Any) -> None: ...

    async def main() -> None:
        async with AsyncAdapter(make(as_it_is)) as store:
            with pytest.raises(TypeError, match="plain function"):
                await store.run(function)

    run(main())


def test_run_after_closing_raises_closed_error(make: MakeStore) -> None:
    async def main() -> None:
        async with AsyncAdapter(make(as_it_is)) as store:
            pass
        with pytest.raises(ClosedError):
            await store.run(admit, "ada@example.com")

    run(main())


# --- who runs where ---------------------------------------------------------------------------

AT_ONCE_METHODS = {
    "get_user", "get_user_by_email", "get_user_by_account", "get_account", "list_accounts",
    "get_session_and_user", "touch_session", "list_sessions", "get_authenticator",
    "list_authenticators_by_user_id",
}  # fmt: skip
LOOK_UPS = [call for call in CALLS if call.partition(",")[0] in AT_ONCE_METHODS]
OTHERS = [call for call in CALLS if call not in LOOK_UPS and call not in ("transaction", "__enter__")]


@pytest.mark.parametrize("call", LOOK_UPS)
def test_a_look_up_runs_on_the_event_loop(make: MakeStore, call: str) -> None:
    adapter = make(noting)

    async def main() -> None:
        async with AsyncAdapter(adapter) as store:
            await CALLS[call](store)
            assert threading.active_count() == 1

    run(main())
    assert adapter.names[call.partition(",")[0]] == "MainThread"


@pytest.mark.parametrize("call", OTHERS)
def test_everything_else_runs_on_the_worker(make: MakeStore, call: str) -> None:
    adapter = make(noting)

    async def main() -> None:
        async with AsyncAdapter(adapter) as store:
            with suppress(NotFoundError):
                await CALLS[call](store)

    run(main())
    assert {*adapter.names} >= {call.partition(",")[0], "close"}
    assert all(name.startswith(WORKER) for name in adapter.names.values())


@contextmanager
def busy_in_another_thread(adapter: Any) -> Iterator[Callable[[], None]]:
    """Meanwhile, another thread of this process sits in a transaction; call what is given to end it."""
    inside, free = threading.Event(), threading.Event()

    def sit() -> None:
        with adapter.transaction():
            inside.set()
            assert free.wait(PATIENCE)

    thread = threading.Thread(target=sit)
    thread.start()
    assert inside.wait(PATIENCE)
    try:
        yield free.set
    finally:
        free.set()
        thread.join()


def test_a_look_up_that_would_wait_runs_on_the_worker() -> None:
    adapter = noting(MemoryAdapter)()

    async def main() -> None:
        async with AsyncAdapter(adapter) as store:
            await store.create_user(id="ada")
            with busy_in_another_thread(adapter) as end:
                waiting = asyncio.create_task(store.get_user("ada"))
                await turns()
                assert not waiting.done()
                end()
                assert (await waiting).id == "ada"

    run(main())
    assert adapter.names["get_user"].startswith(WORKER)


def test_a_look_up_in_a_file_does_not_wait_for_a_transaction_of_another_thread(tmp_path: Path) -> None:
    adapter = noting(SQLiteAdapter)(tmp_path / "auth.db")

    async def main() -> None:
        async with AsyncAdapter(adapter) as store:
            await store.create_user(id="ada")
            with busy_in_another_thread(adapter):
                assert (await store.get_user("ada")).id == "ada"

    run(main())
    assert adapter.names["get_user"] == "MainThread"


def test_a_look_up_in_a_file_does_not_wait_for_another_threads_either(tmp_path: Path) -> None:
    """The first connection is busy with a transaction, the second with somebody's look-up."""
    adapter = noting(SQLiteAdapter)(tmp_path / "auth.db")
    reading, read = threading.Event(), threading.Event()

    def read_slowly() -> None:
        assert adapter._reader_turn.claim("somebody")
        reading.set()
        read.wait(1)  # that long would the event loop be blocked
        adapter._reader_turn.claims.clear()
        adapter._reader_turn.wake()

    async def main() -> None:
        async with AsyncAdapter(adapter) as store:
            await store.create_user(id="ada")
            with busy_in_another_thread(adapter):
                thread = threading.Thread(target=read_slowly)
                thread.start()
                assert reading.wait(PATIENCE)
                waiting = asyncio.create_task(store.get_user("ada"))
                await turns()
                assert not waiting.done()
                read.set()
                assert (await waiting).id == "ada"
                thread.join()

    run(main())
    assert adapter.names["get_user"].startswith(WORKER)


def noted_split(tmp_path: Path, **stores: Any) -> Any:
    """Users in a file, all else in memory; ``names`` has the threads."""
    if "users" not in stores:
        stores["users"] = SQLiteAdapter(tmp_path / "auth.db", **FILE)  # type: ignore[arg-type]
    return noting(SplitAdapter)(**stores)


@pytest.mark.parametrize("call", LOOK_UPS)
def test_a_look_up_in_a_split_of_our_stores_runs_on_the_event_loop(tmp_path: Path, call: str) -> None:
    split = noted_split(tmp_path, sessions=MemoryAdapter(), verification=MemoryAdapter())

    async def main() -> None:
        async with AsyncAdapter(split) as store:
            await CALLS[call](store)
            assert threading.active_count() == 1

    run(main())
    assert split.names[call.partition(",")[0]] == "MainThread"


@pytest.mark.parametrize("busy", ["users", "sessions"])
def test_a_look_up_in_a_split_waits_on_the_worker_for_a_locked_part(busy: str) -> None:
    parts = {"users": MemoryAdapter(), "sessions": MemoryAdapter()}
    split = noting(SplitAdapter)(**parts)

    async def main() -> None:
        async with AsyncAdapter(split) as store:
            await store.create_user(id="ada")
            await store.create_session(user_id="ada", session_token="token")
            with busy_in_another_thread(parts[busy]) as end:
                waiting = asyncio.create_task(store.get_session_and_user("token"))
                await turns()
                assert not waiting.done()
                end()
                assert (await waiting).user.id == "ada"

    run(main())
    assert split.names["get_session_and_user"].startswith(WORKER)


@pytest.mark.parametrize("role", ["users", "sessions", "verification"])
def test_a_split_with_a_store_that_is_not_ours_runs_on_the_worker(tmp_path: Path, role: str) -> None:
    split = noted_split(tmp_path, **{role: Proxy(MemoryAdapter())})

    async def main() -> None:
        async with AsyncAdapter(split) as store:
            for call in LOOK_UPS:
                await CALLS[call](store)

    run(main())
    assert all(name.startswith(WORKER) for name in split.names.values())


LENGTHS = [(AT_ONCE, "MainThread"), (AT_ONCE + 1, WORKER), (3 * AT_ONCE, WORKER)]


@pytest.mark.parametrize("count, where", LENGTHS)
def test_a_long_list_is_read_by_the_worker(make: MakeStore, count: int, where: str) -> None:
    adapter = make(noting)
    with adapter.transaction():
        adapter.create_user(id="ada")
        tokens = {adapter.create_session(user_id="ada").id for _ in range(count)}

    async def main() -> None:
        async with AsyncAdapter(adapter) as store:
            assert {session.id for session in await store.list_sessions("ada")} == tokens

    run(main())
    assert adapter.names["list_sessions"].startswith(where)


@pytest.mark.parametrize("age, where", [(timedelta(hours=23), "MainThread"), (timedelta(hours=25), WORKER)])
def test_touching_a_session_goes_to_the_worker_only_when_it_writes(
    make: MakeStore, age: timedelta, where: str
) -> None:
    clock = FrozenClock()
    adapter = make(noting, clock=clock)
    session = adapter.create_session(user_id=adapter.create_user().id)
    clock.now += age

    async def main() -> None:
        async with AsyncAdapter(adapter) as store:
            touched = await store.touch_session(session.session_token)
            assert (touched.expires > session.expires) is (where == WORKER)

    run(main())
    assert adapter.names["touch_session"].startswith(where)


@pytest.mark.parametrize("call", [*LOOK_UPS, *OTHERS])
def test_every_call_of_an_adapter_that_is_not_ours_runs_on_the_worker(call: str) -> None:
    proxy = Proxy(MemoryAdapter())

    async def main() -> None:
        async with AsyncAdapter(proxy) as store:
            async with store.transaction():
                with suppress(NotFoundError):
                    await CALLS[call](store)
            with suppress(NotFoundError, ConflictError):
                await CALLS[call](store)

    run(main())
    assert {*proxy.names} == {"__enter__", "transaction", call.partition(",")[0], "close"}
    assert all(name.startswith(WORKER) for name in proxy.names.values())


# --- the event loop is never blocked ----------------------------------------------------------

TRIES = 3
WINDOW = 0.25
LONGEST = 0.1
"""Seconds. Of the tries' widest gaps the narrowest is judged: what a store does it does in every try, what
a machine that is busy otherwise does to us it does in some. (On one that is not, they are a few ms.)"""


@asynccontextmanager
async def ticking() -> AsyncIterator[list[float]]:
    """Meanwhile, a task wakes every millisecond; the list gets the seconds between its turns."""
    gaps: list[float] = []
    last = time.perf_counter()

    def note() -> None:
        nonlocal last
        now = time.perf_counter()
        gaps.append(now - last)
        last = now

    async def tick() -> None:
        while True:
            await asyncio.sleep(0.001)
            note()

    task = asyncio.create_task(tick())
    try:
        yield gaps
    finally:
        note()
        await abandoned(task)


def judge(what: str, widest: list[float], longest: float = LONGEST) -> None:
    """Print the widest gap of each try, and assert that they are not all too wide."""
    print(f"\nwidest gaps of the event loop, {what}:", *(f"{gap * 1000:.1f} ms" for gap in widest))
    assert len(widest) == TRIES and min(widest) < longest


def test_the_gauge_sees_a_blocked_loop() -> None:
    async def main() -> float:
        async with ticking() as gaps:
            await turns()
            threading.Event().wait(2 * LONGEST)
        return max(gaps)

    assert run(main()) > LONGEST


ELSEWHERE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
for order in sys.stdin:
    connection.execute(order)
    print("done", flush=True)
"""


@contextmanager
def another_process(path: Path) -> Iterator[Callable[[str], None]]:
    """Another process that has the file open; the function has it execute a statement."""
    with start_python(ELSEWHERE, path) as process:
        assert process.stdin is not None and process.stdout is not None

        def execute(order: str) -> None:
            process.stdin.write(order + "\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            assert process.stdout.readline() == "done\n"  # type: ignore[union-attr]

        yield execute
        process.stdin.close()
        assert process.wait(PATIENCE) == 0


async def look_up_often(store: Any, token: str) -> None:
    while True:
        assert await store.get_session_and_user(token) is not None
        await asyncio.sleep(0.001)


async def while_locked(
    store: Any, token: str, lock: Callable[[], Any], free: Callable[[], Any]
) -> list[float]:
    """The widest gap of each try: locked for a while, a write and many look-ups under way."""
    widest = []
    for i in range(TRIES):
        lock()
        async with ticking() as gaps:
            write = asyncio.create_task(store.update_user("ada", name=f"Ada {i}"))
            looking = asyncio.create_task(look_up_often(store, token))
            await asyncio.sleep(WINDOW)
            assert not write.done() and not looking.done()
        widest.append(max(gaps))
        free()
        assert (await write).name == f"Ada {i}"
        await abandoned(looking)
    return widest


def test_a_file_locked_by_another_processs_write_does_not_block_the_loop(tmp_path: Path) -> None:
    adapter = SQLiteAdapter(tmp_path / "auth.db", timeout=PATIENCE)
    token = adapter.create_session(user_id=adapter.create_user(id="ada").id).session_token

    async def main() -> list[float]:
        async with AsyncAdapter(adapter) as store:
            with another_process(tmp_path / "auth.db") as execute:
                lock, free = (lambda: execute("BEGIN IMMEDIATE")), (lambda: execute("COMMIT"))
                return await while_locked(store, token, lock, free)

    judge("another process writes", run(main()))


class RollbackJournal(sqlite3.Connection):
    """Without WAL a writer locks readers out, too: as on some file systems, or in other people's files."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        return super().execute(sql.replace("journal_mode = WAL", "journal_mode = DELETE"), *parameters)


def test_a_file_that_cannot_even_be_read_does_not_block_the_loop(tmp_path: Path) -> None:
    with every_connection(RollbackJournal):
        adapter = noting(SQLiteAdapter)(tmp_path / "auth.db", timeout=PATIENCE)
    token = adapter.create_session(user_id=adapter.create_user(id="ada").id).session_token

    async def main() -> list[float]:
        async with AsyncAdapter(adapter) as store:
            with another_process(tmp_path / "auth.db") as execute:
                lock, free = (lambda: execute("BEGIN EXCLUSIVE")), (lambda: execute("COMMIT"))
                lock()
                waiting = asyncio.create_task(store.get_user("ada"))
                await turns()
                assert not waiting.done()
                free()
                assert (await waiting).id == "ada" and adapter.names["get_user"].startswith(WORKER)
                return await while_locked(store, token, lock, free)

    judge("another process locks readers out", run(main()))


def test_a_transaction_of_another_thread_does_not_block_the_loop(make: MakeStore) -> None:
    adapter = make()
    token = adapter.create_session(user_id=adapter.create_user(id="ada").id).session_token

    async def main() -> list[float]:
        async with AsyncAdapter(adapter) as store:
            sitting: list[Any] = []

            def lock() -> None:
                sitting.append(busy_in_another_thread(adapter))
                sitting[-1].__enter__()

            return await while_locked(store, token, lock, lambda: sitting.pop().__exit__(None, None, None))

    judge(f"another thread is in a transaction of {type(adapter).__name__}", run(main()))


def test_a_big_purge_does_not_block_the_loop(make: MakeStore) -> None:
    clock, count = FrozenClock(), 30_000
    adapter = make(clock=clock, purge_interval=None)
    token = adapter.create_session(user_id=adapter.create_user().id).session_token
    with adapter.transaction():
        for i in range(count):
            adapter.create_verification_token(identifier=f"{i}@example.com")
    full = adapter.snapshot()
    clock.tick(days=1)

    durations, widest = [], []

    async def main() -> None:
        async with AsyncAdapter(adapter) as store:
            for _ in range(TRIES):
                await store.restore(full)
                async with ticking() as gaps:
                    looking = asyncio.create_task(look_up_often(store, token))
                    await turns()
                    start = time.perf_counter()
                    assert (await store.purge_expired()).verification_tokens == count
                    durations.append(time.perf_counter() - start)
                    await abandoned(looking)
                widest.append(max(gaps))

    run(main())
    what = f"{count} tokens are purged in {type(adapter).__name__}"
    judge(what, widest, min(durations) / 2)  # blocked, it would be as long as the purge


# --- transactions -----------------------------------------------------------------------------


def test_a_transaction_keeps_other_tasks_writes_out(make: MakeStore) -> None:
    async def main() -> None:
        async with AsyncAdapter(make()) as store:
            other = None
            with pytest.raises(LookupError):
                async with store.transaction():
                    await store.create_user(id="ada")
                    other = outside(store.create_user(id="grace"))
                    await turns()
                    await store.get_user("ada")
                    assert not other.done()
                    raise LookupError
            assert (await other).id == "grace"
            assert await store.get_user("ada") is None
            assert await store.get_user("grace") is not None

    run(main())


def test_other_tasks_look_ups_see_the_file_as_it_was_before_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncAdapter(SQLiteAdapter(tmp_path / "auth.db")) as store:
            inside, seen = asyncio.Event(), asyncio.Event()

            async def look() -> None:
                await inside.wait()
                assert await store.get_user("ada") is None
                seen.set()

            looking = asyncio.create_task(look())
            async with store.transaction():
                await store.create_user(id="ada")
                inside.set()
                await seen.wait()  # while the transaction is open
                assert (await store.get_user("ada")).id == "ada"
            await looking

    run(main())


def test_other_tasks_look_ups_in_memory_wait_for_the_transaction() -> None:
    async def main() -> None:
        async with AsyncAdapter(MemoryAdapter()) as store:
            inside = asyncio.Event()

            async def look() -> Any:
                await inside.wait()
                return await store.get_user("ada")

            looking = asyncio.create_task(look())
            async with store.transaction():
                await store.create_user(id="ada")
                inside.set()
                await turns()
                await store.get_user("ada")
                assert not looking.done()
            assert (await looking).id == "ada"

    run(main())


def test_an_inner_transaction_is_undone_alone(make: MakeStore) -> None:
    async def main() -> None:
        async with AsyncAdapter(make()) as store, store.transaction() as same:
            assert same is store
            await store.create_user(id="ada")
            with pytest.raises(LookupError):
                async with store.transaction():
                    await store.create_user(id="grace")
                    raise LookupError
            assert await store.get_user("grace") is None
            assert await store.get_user("ada") is not None

    run(main())


@pytest.mark.parametrize(
    "start",
    [lambda call: asyncio.gather(call), lambda call: asyncio.wait_for(call, PATIENCE), asyncio.create_task],
    ids=["gather", "wait_for", "create_task"],
)
def test_tasks_started_inside_belong_to_the_transaction(
    make: MakeStore, start: Callable[[Any], Awaitable[Any]]
) -> None:
    async def main() -> None:
        async with AsyncAdapter(make()) as store:
            with pytest.raises(LookupError):
                async with store.transaction():
                    await start(store.create_user(id="ada"))
                    assert await store.get_user("ada") is not None
                    raise LookupError
            assert await store.get_user("ada") is None

    run(main())


def test_transactions_of_sibling_tasks_do_not_interleave(make: MakeStore) -> None:
    async def main() -> None:
        async with AsyncAdapter(make()) as store, store.transaction():
            log: list[str] = []

            async def sibling(name: str, error: type[Exception] | None) -> None:
                async with store.transaction():
                    for step in "12":
                        await store.create_user(id=name + step)
                        log.append(name)
                    if error:
                        raise error

            siblings = [sibling("ada", LookupError), sibling("grace", None), sibling("mary", LookupError)]
            await asyncio.gather(*siblings, return_exceptions=True)
            assert log == ["ada", "ada", "grace", "grace", "mary", "mary"]
            found = [name for name in log for step in "12" if await store.get_user(name + step)]
            assert {*found} == {"grace"}

    run(main())


def test_a_task_that_outlives_an_inner_transaction_belongs_to_the_outer(make: MakeStore) -> None:
    async def main() -> None:
        async with AsyncAdapter(make()) as store:
            go = asyncio.Event()

            async def later() -> None:
                await go.wait()
                await store.create_user(id="ada")

            with pytest.raises(LookupError):
                async with store.transaction():
                    async with store.transaction():
                        task = asyncio.create_task(later())
                    go.set()
                    await task
                    assert await store.get_user("ada") is not None
                    raise LookupError
            assert await store.get_user("ada") is None

    run(main())


def test_tasks_that_outlive_their_transaction_do_not_write_into_the_next_one(make: MakeStore) -> None:
    adapter, names = make(held), [*"abcdef"]

    async def main() -> None:
        async with AsyncAdapter(adapter) as store:

            async def next_one() -> None:
                async with store.transaction():
                    for name in names:
                        await store.get_user(name)
                    raise LookupError

            async with store.transaction():
                adapter.hold("put")
                late = [asyncio.create_task(store.create_user(id=name)) for name in names]
                await adapter.reached()
                after = outside(next_one())
                await turns()
                adapter.let_go()
            results = await asyncio.gather(*late, after, return_exceptions=True)
            assert [user.id for user in results[:-1]] == names and isinstance(results[-1], LookupError)
            assert [(await store.get_user(name)).id for name in names] == names

    run(main())


def test_a_transaction_of_one_adapter_leaves_another_alone() -> None:
    async def main() -> None:
        async with AsyncAdapter(MemoryAdapter()) as first, AsyncAdapter(MemoryAdapter()) as second:
            with pytest.raises(LookupError):
                async with first.transaction(), second.transaction():
                    await first.create_user(id="ada")
                    await second.create_user(id="ada")
                    raise LookupError
            async with second.transaction():
                with pytest.raises(LookupError):
                    async with first.transaction():
                        await first.create_user(id="ada")
                        await second.create_user(id="ada")
                        raise LookupError
            assert (await first.get_user("ada"), (await second.get_user("ada")).id) == (None, "ada")

    run(main())


def test_transactions_may_end_in_another_order_than_they_began() -> None:
    async def main() -> None:
        async with AsyncAdapter(MemoryAdapter()) as first, AsyncAdapter(MemoryAdapter()) as second:
            one, two = first.transaction(), second.transaction()
            await one.__aenter__()
            await two.__aenter__()
            await first.create_user(id="ada")
            await second.create_user(id="ada")
            await one.__aexit__(None, None, None)
            await second.create_user(id="grace")  # still inside: it would wait for ever otherwise
            await two.__aexit__(LookupError, LookupError(), None)
            assert await first.get_user("ada") is not None
            assert [await second.get_user(name) for name in ("ada", "grace")] == [None, None]

    run(main())


@pytest.mark.parametrize("apart", [False, True], ids=["here", "in another task"])
def test_transactions_that_have_ended_are_not_kept(apart: bool) -> None:
    def kept() -> int:
        gc.collect()
        return sum(isinstance(found, aio._Transaction) for found in gc.get_objects())

    async def main() -> None:
        async with AsyncAdapter(MemoryAdapter()) as store:
            for _ in range(10):
                transaction = store.transaction()
                await transaction.__aenter__()
                ending = transaction.__aexit__(None, None, None)
                await (asyncio.create_task(ending) if apart else ending)
            del transaction, ending
            # A context that nobody came back to keeps the last one; the worker may take a moment to forget it.
            await asyncio.to_thread(eventually, lambda: kept() == apart)

    run(main())


class Broken(StorageError):
    """What a disk does."""


def failing(verb: str) -> Callable[[type], type]:
    """A change for ``make``: a store whose storage verb fails."""

    def change(base: type) -> type:
        def fail(self: Any, *given: Any) -> None:
            raise Broken("no")

        return type("Failing", (base,), {verb: fail})

    return change


def test_a_commit_that_fails_arrives_and_the_adapter_goes_on(make: MakeStore) -> None:
    async def main() -> None:
        async with AsyncAdapter(make(failing("_commit"))) as store:
            for _ in range(2):
                with pytest.raises(Broken):
                    async with store.transaction():
                        pass

    run(main())


def test_a_rollback_that_fails_does_not_hide_what_the_body_raised(make: MakeStore) -> None:
    async def main() -> None:
        async with AsyncAdapter(make(failing("_rollback"))) as store:
            error = LookupError()
            with pytest.raises(Broken) as caught:
                async with store.transaction():
                    raise error
            assert caught.value.__context__ is error

    run(main())


def test_a_cancelled_task_stays_cancelled_when_the_rollback_fails(make: MakeStore) -> None:
    async def main() -> None:
        async with AsyncAdapter(make(failing("_rollback"))) as store:
            with pytest.raises(asyncio.CancelledError) as caught:
                async with store.transaction():
                    raise asyncio.CancelledError
            assert "Broken" in caught.value.__notes__[0]

    run(main())


# --- cancelling -------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["begin", "remove", "commit"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_write_that_is_cancelled_while_it_runs_is_completed(make: MakeStore, verb: str, times: int) -> None:
    adapter = make(held)
    Household(adapter)

    async def main() -> None:
        async with AsyncAdapter(adapter) as store:
            adapter.hold(verb)
            task = asyncio.create_task(store.delete_user("ada"))
            await adapter.reached()
            for _ in range(times):
                task.cancel()
            await abandoned(task)
            other = asyncio.create_task(store.update_user("grace", name="Grace"))
            await turns()
            assert not other.done()
            adapter.let_go()
            assert (await other).name == "Grace"
            assert await store.get_user("ada") is None
            assert [await store.list_accounts("ada"), await store.list_sessions("ada")] == [[], []]
            assert await store.check() == []

    run(main())


def test_a_write_that_is_cancelled_before_its_turn_never_happens(make: MakeStore) -> None:
    adapter = make(held)
    Household(adapter)

    async def main() -> None:
        async with AsyncAdapter(adapter) as store:
            adapter.hold("put")
            first = asyncio.create_task(store.update_user("grace", name="Grace"))
            await adapter.reached()
            queued = asyncio.create_task(store.delete_user("ada"))
            await turns()
            await abandoned(queued)
            adapter.let_go()
            await first
            assert await store.get_user("ada") is not None and await store.check() == []

    run(main())


def test_a_write_that_is_cancelled_behind_an_abandoned_one_never_happens(make: MakeStore) -> None:
    adapter = make(held)
    Household(adapter)

    async def main() -> None:
        async with AsyncAdapter(adapter) as store:
            adapter.hold("put")
            first = asyncio.create_task(store.update_user("grace", name="Grace"))
            await adapter.reached()
            await abandoned(first)
            queued = asyncio.create_task(store.delete_user("ada"))
            await turns()  # the worker has it in its queue
            await abandoned(queued)
            adapter.let_go()
            assert (await store.update_user("grace", image="new")).name == "Grace"
            assert await store.get_user("ada") is not None and await store.check() == []

    run(main())


async def sign_up(store: Any, name: str, then: Callable[[], Any] = turns) -> None:
    """A user, an account and a session, or none of them."""
    async with store.transaction():
        await store.create_user(id=name)
        async with store.transaction():
            await store.link_account(user_id=name, type="oauth", provider="p", provider_account_id=name)
        await store.create_session(user_id=name, session_token=name)
        await then()


async def parts(store: Any, name: str) -> int:
    """How many parts of a sign-up are there."""
    user = await store.get_user(name)
    account = await store.get_account(provider="p", provider_account_id=name)
    return len([part for part in (user, account, await store.get_session_and_user(name)) if part is not None])


TIMES = pytest.mark.parametrize("times", [1, 2])


@TIMES
@pytest.mark.parametrize("verb", ["begin", "put", "savepoint", "release"])
def test_a_transaction_that_is_cancelled_is_rolled_back(make: MakeStore, verb: str, times: int) -> None:
    adapter = make(held)

    async def main() -> None:
        async with AsyncAdapter(adapter) as store:
            adapter.hold(verb)
            task = asyncio.create_task(sign_up(store, "ada"))
            await adapter.reached()
            for _ in range(times):
                task.cancel()
                await turns()
            other = asyncio.create_task(sign_up(store, "grace"))
            await turns()
            adapter.let_go()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled()
            await other
            assert (await parts(store, "ada"), await parts(store, "grace")) == (0, 3)
            assert await store.check() == []

    run(main())


def test_a_transaction_that_is_cancelled_between_two_calls_is_rolled_back(make: MakeStore) -> None:
    async def main() -> None:
        async with AsyncAdapter(make()) as store:
            inside = asyncio.Event()

            async def wait() -> None:
                inside.set()
                await asyncio.Event().wait()

            task = asyncio.create_task(sign_up(store, "ada", wait))
            await inside.wait()
            await abandoned(task)
            assert await parts(store, "ada") == 0
            await sign_up(store, "ada")
            assert await parts(store, "ada") == 3

    run(main())


def test_a_transaction_that_is_cancelled_before_its_turn_never_begins(make: MakeStore) -> None:
    async def main() -> None:
        async with AsyncAdapter(make()) as store:
            async with store.transaction():
                task = outside(sign_up(store, "ada"))
                await turns()
                await abandoned(task)
            await sign_up(store, "grace")
            assert (await parts(store, "ada"), await parts(store, "grace")) == (0, 3)

    run(main())


@TIMES
def test_a_transaction_that_is_cancelled_while_it_commits_is_complete(make: MakeStore, times: int) -> None:
    adapter = make(held)

    async def main() -> None:
        async with AsyncAdapter(adapter) as store:
            adapter.hold("commit")
            task = asyncio.create_task(sign_up(store, "ada"))
            await adapter.reached()
            for _ in range(times):
                task.cancel()
            await abandoned(task)
            other = asyncio.create_task(sign_up(store, "grace"))
            await turns()
            assert not other.done()
            adapter.let_go()
            await other
            assert (await parts(store, "ada"), await parts(store, "grace")) == (3, 3)
            assert await store.check() == []

    run(main())


@TIMES
def test_a_rollback_that_is_cancelled_happens_all_the_same(make: MakeStore, times: int) -> None:
    adapter = make(held)

    async def main() -> None:
        async with AsyncAdapter(adapter) as store:

            async def fail() -> None:
                raise LookupError

            adapter.hold("rollback")
            task = asyncio.create_task(sign_up(store, "ada", fail))
            await adapter.reached()
            for _ in range(times):
                task.cancel()
            await abandoned(task)
            adapter.let_go()
            await sign_up(store, "grace")
            assert (await parts(store, "ada"), await parts(store, "grace")) == (0, 3)
            assert await store.check() == []

    run(main())


def test_a_timeout_inside_a_transaction_leaves_the_transaction_usable(make: MakeStore) -> None:
    adapter = make(held)

    async def main() -> None:
        async with AsyncAdapter(adapter) as store:
            async with store.transaction():
                adapter.hold("put")
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0):
                        await store.create_user(id="ada")
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(store.create_user(id="grace"), 0)
                adapter.let_go()
                await store.create_user(id="mary")
            names = [name for name in ("ada", "grace", "mary") if await store.get_user(name)]
            assert names[-1] == "mary" and "grace" not in names
            assert await store.check() == []

    run(main())


@pytest.mark.parametrize("seed", range(5))
def test_tasks_cancelled_anywhere_leave_all_or_nothing(make: MakeStore, seed: int) -> None:
    chance = random.Random(seed)

    async def main() -> None:
        async with AsyncAdapter(make()) as store:
            tasks = [asyncio.create_task(sign_up(store, str(i))) for i in range(30)]
            for task in chance.sample(tasks, 20):
                await turns(chance.randrange(200))
                task.cancel()
                if chance.random() < 0.5:
                    await turns(chance.randrange(10))
                    task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            counts = [await parts(store, str(i)) for i in range(len(tasks))]
            assert {*counts} <= {0, 3}
            assert all(counts[i] == 3 for i, task in enumerate(tasks) if not task.cancelled())
            await sign_up(store, "ada")
            assert await parts(store, "ada") == 3 and await store.check() == []

    run(main())


# --- closing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [*CALLS, "restore"])
def test_use_after_close_is_a_closed_error(make: MakeStore, call: str) -> None:
    adapter = make()
    snapshot = adapter.snapshot()

    async def main() -> None:
        async with AsyncAdapter(adapter) as store:
            pass
        with pytest.raises(ClosedError):
            if call in ("transaction", "__enter__"):
                async with store.transaction() if call == "transaction" else store:
                    pass
            else:
                await (store.restore(snapshot) if call == "restore" else CALLS[call](store))

    run(main())


def test_use_after_close_is_a_closed_error_whatever_the_adapter_says() -> None:
    class Careless(Proxy):
        def close(self) -> None:
            pass

    async def main() -> None:
        with MemoryAdapter() as adapter:
            store = AsyncAdapter(Careless(adapter))
            await store.close()
            with pytest.raises(ClosedError):
                await store.get_user("ada")

    run(main())


def test_closing_twice_is_harmless_also_at_once(make: MakeStore) -> None:
    async def main() -> None:
        async with AsyncAdapter(make()) as store:
            await store.create_user(id="ada")
            await asyncio.gather(*(store.close() for _ in range(3)))
            assert threading.active_count() == 1
            await store.close()

    run(main())


def test_closing_waits_for_a_call_that_nobody_waits_for_any_more(make: MakeStore) -> None:
    adapter = make(held)

    async def main() -> None:
        store = AsyncAdapter(adapter)
        await store.create_user(id="ada")
        adapter.hold("put")
        task = asyncio.create_task(store.create_user(id="grace"))
        await adapter.reached()
        await abandoned(task)
        closing = asyncio.create_task(store.close())
        await turns()
        assert not closing.done()
        adapter.let_go()
        await closing

    run(main())
    with pytest.raises(ClosedError):
        adapter.get_user("ada")


def test_closing_waits_for_another_tasks_transaction(tmp_path: Path) -> None:
    async def main() -> None:
        store = AsyncAdapter(SQLiteAdapter(tmp_path / "auth.db"))
        async with store.transaction():
            closing = outside(store.close())
            await turns()
            await store.create_user(id="ada")
            assert not closing.done()
        await closing

    run(main())
    with SQLiteAdapter(tmp_path / "auth.db") as adapter:
        assert adapter.get_user("ada") is not None


def test_calls_that_wait_while_it_closes_find_it_closed(make: MakeStore) -> None:
    adapter = make(held)

    async def main() -> None:
        store = AsyncAdapter(adapter)
        adapter.hold("close")
        closing = asyncio.create_task(store.close())
        await adapter.reached()
        waiting = (store.create_user(), store.get_user("x"), store.check())
        calls = [asyncio.create_task(call) for call in waiting]
        await turns()
        await abandoned(closing)
        await turns()
        again = asyncio.create_task(store.close())
        await turns()
        assert not again.done()
        adapter.let_go()
        await again
        for call in calls:
            with pytest.raises(ClosedError):
                await call

    run(main())


def the_worker_ends() -> bool:
    for thread in threading.enumerate():
        if thread.name.startswith(WORKER):
            thread.join(PATIENCE)
    return threading.active_count() == 1


def test_the_worker_ends_also_if_nobody_waits_for_the_closing_any_more(make: MakeStore) -> None:
    adapter = make(held)
    store = AsyncAdapter(adapter)

    async def main() -> None:
        adapter.hold("close")
        closing = asyncio.create_task(store.close())
        await adapter.reached()
        await abandoned(closing)

    run(main())
    adapter.let_go()
    assert the_worker_ends() and repr(adapter) in repr(store)


def test_closing_inside_a_transaction_undoes_it(tmp_path: Path) -> None:
    async def main() -> None:
        store = AsyncAdapter(SQLiteAdapter(tmp_path / "auth.db"))
        with pytest.raises(ClosedError):
            async with store.transaction(), store.transaction():
                await store.create_user(id="ada")
                await store.close()
        assert the_worker_ends()
        with pytest.raises(ClosedError):
            await store.get_user("ada")

    run(main())
    with SQLiteAdapter(tmp_path / "auth.db") as adapter:
        assert adapter.get_user("ada") is None


def test_an_error_of_closing_arrives_once() -> None:
    class Stuck(MemoryAdapter):
        def close(self) -> None:
            super().close()
            raise Broken("no")

    async def main() -> None:
        store = AsyncAdapter(Stuck())
        with pytest.raises(Broken):
            await store.close()
        await store.close()

    run(main())


def test_leaving_the_with_closes_also_after_an_exception(make: MakeStore) -> None:
    async def main() -> None:
        with pytest.raises(LookupError):
            async with AsyncAdapter(make()) as store:
                raise LookupError
        with pytest.raises(ClosedError):
            await store.get_user("ada")

    run(main())


@pytest.mark.filterwarnings("default::ResourceWarning")
def test_an_adapter_left_open_warns_and_leaves_no_thread() -> None:
    async def main() -> None:
        await AsyncAdapter(MemoryAdapter()).create_user()

    with pytest.warns(ResourceWarning) as warned:
        run(main())
        eventually(lambda: gc.collect() >= 0 and len(warned) > 0)


# --- arguments and exceptions pass through ----------------------------------------------------


def test_fields_of_a_provider_with_awkward_names_arrive(make: MakeStore) -> None:
    given = dict.fromkeys(["self", "method", "arguments", "fields", "call", "fn", "func", "loop"], "kept")

    async def main() -> None:
        async with AsyncAdapter(make()) as store:
            ada = await store.create_user()
            account = await store.link_account(
                user_id=ada.id, type="oauth", provider="p", provider_account_id="1", **given
            )
            assert account.extra == given
            assert await store.get_account(provider="p", provider_account_id="1") == account

    run(main())


@pytest.mark.parametrize("method", ["get_user", "delete_user"])
def test_what_the_adapter_raises_arrives_as_itself(method: str) -> None:
    error = Broken("no")

    class Failing(MemoryAdapter):
        def get_user(self, user_id: str) -> Any:
            raise error

        delete_user = get_user

    async def main() -> None:
        async with AsyncAdapter(Failing()) as store:
            with pytest.raises(Broken) as caught:
                await getattr(store, method)("ada")
            assert caught.value is error and error.__cause__ is None

    run(main())


def test_stop_iteration_does_not_hang_the_caller(make: MakeStore) -> None:
    """No coroutine can raise it (PEP 479), and ``run_in_executor`` would never answer."""

    async def main() -> None:
        async with AsyncAdapter(make(new_id=iter(["ada"]).__next__)) as store:
            await store.create_user()
            with pytest.raises(RuntimeError) as caught:
                await store.create_user()
            assert isinstance(caught.value.__cause__, StopIteration)

    run(main())


def test_a_keyboard_interrupt_in_a_transaction_rolls_it_back(make: MakeStore) -> None:
    store = AsyncAdapter(make())

    async def main() -> None:
        async with store.transaction():
            await store.create_user(id="ada")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(main())

    async def later() -> None:
        async with store:
            assert await store.get_user("ada") is None
            await store.create_user(id="ada")

    run(later())


@pytest.mark.parametrize("where", ["a write", "a transaction", "its beginning", "its end"])
def test_an_error_leaves_no_cycle_that_keeps_frames_alive(make: MakeStore, where: str) -> None:
    """What a frame holds, such as a token, goes when the error was dealt with, not when a collector comes."""
    verb = {"its beginning": "_begin", "its end": "_commit"}.get(where)

    async def main() -> None:
        async with AsyncAdapter(make(failing(verb)) if verb else make()) as store:
            try:
                async with nullcontext() if where == "a write" else store.transaction():
                    if where != "its end":
                        await store.update_user("nobody")
            except (NotFoundError, Broken):
                pass
            await store.close()  # the worker, too, is done with it
            assert errors() == before

    def errors() -> int:
        return sum(isinstance(found, (NotFoundError, Broken)) for found in gc.get_objects())

    gc.collect()
    gc.disable()
    before = errors()
    try:
        run(main())
    finally:
        gc.enable()


# --- event loops and processes ----------------------------------------------------------------


def test_several_runs_after_each_other_may_share_one_adapter(make: MakeStore) -> None:
    adapter = make()
    store = AsyncAdapter(adapter)

    async def crowd(prefix: str) -> None:  # they wait for each other: the lock is bound to this loop
        await asyncio.gather(*(sign_up(store, f"{prefix}{i}") for i in range(5)))

    for prefix in "abc":
        run(crowd(prefix))
    run(store.close())


def test_a_second_loop_that_runs_meanwhile_is_refused() -> None:
    async def main() -> None:
        async with AsyncAdapter(MemoryAdapter()) as store:
            await store.create_user(id="ada")
            with pytest.raises(RuntimeError, match="another event loop"):
                await asyncio.to_thread(asyncio.run, store.create_user())
            assert await store.check() == []

    run(main())


@contextmanager
def destroyed_task(store: Any, caplog: pytest.LogCaptureFixture) -> Iterator[asyncio.AbstractEventLoop]:
    """A task that is in a transaction when its loop stops. Afterwards it is gone, loop and all."""
    loop = asyncio.new_event_loop()

    async def main() -> None:
        async with store.transaction(), store.transaction():
            await store.create_user(id="ada")
            loop.stop()
            await asyncio.Event().wait()

    task = loop.create_task(main())
    loop.run_forever()
    yield loop
    loop.close()
    del task
    gc.collect()
    assert [record.getMessage().partition("\n")[0] for record in caplog.records] == [
        "Task was destroyed but it is pending!"
    ]
    caplog.clear()


def test_a_task_destroyed_in_a_transaction_rolls_it_back(
    make: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = make()
    store = AsyncAdapter(adapter)
    with destroyed_task(store, caplog):
        pass
    assert adapter.create_user(id="ada").id == "ada"  # free, and no lock in the way
    run(store.close())


def test_a_loop_that_was_closed_in_the_middle_of_a_transaction_leaves_nothing_of_it_to_the_next(
    make: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    store = AsyncAdapter(make())
    with destroyed_task(store, caplog) as loop:
        with pytest.raises(RuntimeError, match="another event loop"):
            run(store.create_user(id="grace"))  # that loop is only stopped: its task may go on
        loop.close()
        run(sign_up(store, "ada"))
    run(sign_up(store, "grace"))  # the destroyed task did not end its transaction a second time
    run(store.close())


def test_a_loop_closed_while_the_worker_runs_changes_nothing_for_the_call(make: MakeStore) -> None:
    adapter = make(held)
    store = AsyncAdapter(adapter)

    async def main() -> None:
        adapter.hold("commit")
        tasks.append(asyncio.create_task(sign_up(store, "ada")))
        await adapter.reached()

    tasks: list[Any] = []
    run(main())  # cancels the task and closes the loop
    adapter.let_go()

    async def later() -> None:
        async with store:
            await sign_up(store, "grace")
            assert (await parts(store, "ada"), await parts(store, "grace")) == (3, 3)

    run(later())
    assert tasks[0].cancelled()


@apart
def test_a_forked_child_gets_a_worker_of_its_own(tmp_path: Path) -> None:
    store = AsyncAdapter(SQLiteAdapter(tmp_path / "auth.db"))
    run(sign_up(store, "ada"))

    def child() -> None:
        async def main() -> None:
            async with store:
                await sign_up(store, "grace")

        run(main())

    async def forks() -> int:  # also out of a running loop
        await store.get_user("ada")
        return fork(child)

    async def found() -> None:
        async with store:
            assert (await parts(store, "ada"), await parts(store, "grace")) == (3, 3)

    assert exit_code(run(forks())) == 0
    run(found())


@apart
def test_a_child_forked_inside_a_transaction_is_told_so(tmp_path: Path) -> None:
    forks.PATIENCE = 0.05
    store = AsyncAdapter(SQLiteAdapter(tmp_path / "auth.db"))

    def child() -> None:
        with pytest.raises(StorageError, match="forked while a transaction was open"):
            run(store.create_user(id="grace"))

    async def main() -> None:
        async with store:
            async with store.transaction():
                await store.create_user(id="ada")
                assert exit_code(fork(child)) == 0
            assert await store.get_user("ada") is not None

    run(main())


# --- one winner -------------------------------------------------------------------------------


def test_one_of_a_hundred_tasks_uses_a_link(make: MakeStore) -> None:
    async def main() -> None:
        async with AsyncAdapter(make()) as store:
            link = await store.create_verification_token(identifier="ada@example.com")
            given = {"identifier": link.identifier, "token": link.token}
            used = await asyncio.gather(*(store.use_verification_token(**given) for _ in range(100)))
            assert [one for one in used if one is not None] == [link]

    run(main())


def test_one_of_a_hundred_tasks_gets_the_address(make: MakeStore) -> None:
    async def main() -> None:
        async with AsyncAdapter(make()) as store:
            calls = [store.create_user(email="ada@example.com") for _ in range(100)]
            made = await asyncio.gather(*calls, return_exceptions=True)
            assert sorted(type(one).__name__ for one in made) == ["ConflictError"] * 99 + ["User"]

    run(main())


def test_a_split_adapter_works_behind_it(tmp_path: Path) -> None:
    split = SplitAdapter(users=SQLiteAdapter(tmp_path / "auth.db"), sessions=MemoryAdapter())

    async def main() -> None:
        async with AsyncAdapter(split) as store:
            await asyncio.gather(*(sign_up(store, name) for name in "abc"))
            with pytest.raises(LookupError):
                async with store.transaction():
                    assert (await store.delete_user("a")).id == "a"
                    raise LookupError
            assert [await parts(store, name) for name in "abc"] == [3, 3, 3]

    run(main())
