"""Before the first look-up: importing, a fresh store for one test, opening stores that exist."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from statistics import fmean
from time import perf_counter_ns
from typing import Any

import tinyauthstore
from tinyauthstore import Adapter, MemoryAdapter, SQLiteAdapter

from .. import bars, floors
from ..measure import Contender, Sample, Section, ns_per_call, race, theirs, verify
from ..workshop import SHELVE, SQLITE_FILE, Workshop, digest, email, fill, shelve_store, token, user_id

FRESH = 20
"""Fresh stores in a round."""

SHELF_ROUNDS = 3
"""Rounds of reading and writing whole shelves: of 100,000 sessions, that takes seconds."""


def sections(shop: Workshop) -> Iterator[Section]:
    """Importing; a store for each test; opening and checkpointing."""
    plan = shop.plan
    importing = partial(_importing, shop.path("pycache"))
    yield race(
        "Import, in a fresh interpreter",
        [
            theirs("sqlite3, dataclasses, shelve", lambda: importing("sqlite3, dataclasses, shelve")),
            Contender("tinyauthstore", lambda: importing("tinyauthstore.adapters")),
        ],
        rounds=plan.rounds,
    )

    yield race(
        "A fresh, empty store for one test, opened and closed",
        [
            theirs("bare :memory:, the same tables", lambda: _bare_tables(shop)),
            Contender("memory", lambda: _again(lambda: MemoryAdapter().close()), bars.FRESH_MEMORY),
            Contender(
                "SQLite :memory:",
                lambda: _again(lambda: SQLiteAdapter(":memory:").close()),
                bars.FRESH_SQLITE,
            ),
            Contender("SQLite file", lambda: _again(lambda: SQLiteAdapter(shop.path("fresh")).close())),
            Contender("shelve", lambda: _again_shelve(shop)),
        ],
        rounds=plan.few_rounds,
    )
    yield race(
        "Back to 10 users and 50 sessions, after a test that added one of each",
        [
            theirs("a dict of as many, copied", lambda: _again(dict(enumerate(range(65))).copy, 1_000)),
            Contender("memory", lambda: _restoring(shop, MemoryAdapter()), bars.BASELINE),
            Contender("SQLite :memory:", lambda: _restoring(shop, SQLiteAdapter(":memory:"))),
        ],
        rounds=plan.rounds,
    )

    for size in plan.sizes:
        yield _opening_file(shop, size)
    for size in plan.small_sizes:
        yield _opening_shelf(shop, size)
        yield _checkpointing_shelf(shop, size)


def _again(call: Callable[[], Any], times: int = FRESH) -> Sample:
    return lambda: ns_per_call(lambda _: call(), range(times))


def _importing(pycache: Path, modules: str) -> Sample:
    """Importing, timed inside the new interpreter: isolated, its start not counted, bytecode at hand."""
    root = str(Path(tinyauthstore.__file__).parent.parent)
    code = (
        f"import sys, time; sys.path.insert(0, {root!r}); start = time.perf_counter_ns(); import {modules};"
        " print(time.perf_counter_ns() - start)"
    )
    command = [sys.executable, "-I", "-S", "-X", f"pycache_prefix={pycache}", "-c", code]
    return lambda: float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def _bare_tables(shop: Workshop) -> Sample:
    with floors.opened(shop.filled(SQLITE_FILE, shop.plan.sizes[0])) as connection:
        tables = [sql for (sql,) in connection.execute("SELECT sql FROM sqlite_schema WHERE sql NOT NULL")]
    script = ";".join(["BEGIN", *tables, "COMMIT"])

    def create() -> None:
        with floors.opened(":memory:") as connection:
            connection.executescript(script)

    return _again(create)


def _again_shelve(shop: Workshop) -> Sample:
    shelve_store(shop.path("fresh")).close()
    return _again(lambda: shelve_store(shop.path("fresh")).close())


def _restoring(shop: Workshop, store: Adapter) -> Sample:
    """Putting back a small baseline; the test's own writes in between are not counted."""
    shop.stack.callback(store.close)
    fill(store, 50)
    baseline = store.snapshot()

    def sample() -> float:
        total = 0
        for number in range(FRESH):
            user = store.create_user(email=email(1_000 + number))
            store.create_session(user_id=user.id)
            start = perf_counter_ns()
            store.restore(baseline)
            total += perf_counter_ns() - start
        return total / FRESH

    return sample


# --- stores that exist ------------------------------------------------------------------------


def _opening_file(shop: Workshop, size: int) -> Section:
    file = shop.filled(SQLITE_FILE, size)
    return race(
        f"Opening a SQLite file of {size:,} sessions, with the first look-up",
        [
            theirs("bare connection", lambda: _opening(partial(floors.opened, file), _first_select)),
            Contender("SQLite file", lambda: _opening(partial(SQLiteAdapter, file), _first_look_up)),
        ],
        rounds=shop.plan.few_rounds,
    )


def _opening(
    opened: Callable[[], AbstractContextManager[Any]], use: Callable[[Any], Any], times: int = FRESH
) -> Sample:
    """Opening and using it for the first time; closing is not counted."""

    def once() -> int:
        start = perf_counter_ns()
        with opened() as store:
            use(store)
            return perf_counter_ns() - start

    return lambda: fmean(once() for _ in range(times))


def _first_select(connection: Any) -> None:
    verify(floors.select(connection, floors.JOIN), [(digest(0),)])


def _first_look_up(store: Adapter) -> None:
    verify(store.get_session_and_user, [token(0)])


def _opening_shelf(shop: Workshop, size: int) -> Section:
    """Beside what a bare shelf takes to be read as a whole."""
    bare = shop.path("bare")
    floors.write_shelf(bare, size)

    def ours() -> Sample:
        return _opening(partial(shelve_store, shop.copy(SHELVE, size)), _first_look_up, 1)

    return race(
        f"Opening a shelf of {size:,} sessions with their users, dbm.dumb",
        [
            theirs("bare shelve, all sessions read", lambda: _again(lambda: floors.read_shelf(bare), 1)),
            Contender("shelve", ours, bars.OPEN_SHELF),
        ],
        rounds=SHELF_ROUNDS,
        warm_up=False,
    )


def _checkpointing_shelf(shop: Workshop, size: int) -> Section:
    """Beside what a bare shelf takes to be written as a whole."""
    bare = shop.path("bare")

    def ours() -> Sample:
        return partial(_checkpointing, shop.copy(SHELVE, size))

    return race(
        f"Checkpointing a shelf of {size:,} sessions with their users, dbm.dumb",
        [
            theirs(
                "bare shelve, all written",
                lambda: _again(lambda: floors.write_shelf(bare, size), 1),
            ),
            Contender("shelve, close() after a write", ours),
        ],
        rounds=SHELF_ROUNDS,
        warm_up=False,
    )


def _checkpointing(path: Path) -> float:
    store = shelve_store(path)
    store.create_session(user_id=user_id(0))
    start = perf_counter_ns()
    store.close()
    return perf_counter_ns() - start
