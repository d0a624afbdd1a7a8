"""Whole stores out and in: a dump of a SQLite file, loading it, and copies between stores."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from tinyauthstore import MemoryAdapter, SQLiteAdapter
from tinyauthstore.models import RECORDS
from tinyauthstore.portable import copy, dump, load
from tinyauthstore.schema import OURS
from tinyauthstore.statements import compiled

from .. import bars, floors
from ..measure import Contender, Sample, Section, race, theirs
from ..workshop import SQLITE_FILE, Workshop

MOVE_ROUNDS = 3
"""Rounds of moving whole stores: a million records take ten seconds and more."""


def sections(shop: Workshop) -> Iterator[Section]:
    """Rates, and what a move takes of Python's memory."""
    smallest, largest = sizes = shop.plan.small_sizes[-2:]
    yield _rates(shop, largest)
    yield race(
        "Python's memory at the peak of a dump and a load of a SQLite file: constant",
        [
            Contender(f"{size:,} sessions", partial(_peak, shop, size), bars.CONSTANT if size > smallest else None,
                      size=size)
            for size in sizes
        ],
        rounds=1, warm_up=False, floor="the smallest", unit="bytes",
    )  # fmt: skip


def _rates(shop: Workshop, size: int) -> Section:
    file, text = shop.filled(SQLITE_FILE, size), shop.path("dump.jsonl")
    with SQLiteAdapter(file) as store, text.open("w") as out:
        count = sum(dump(store, out).records)

    def timed(prepare: Callable[[], Any], move: Callable[[Any], Any]) -> Sample:
        def sample() -> float:
            with closing(prepare()) as store:
                start = perf_counter_ns()
                move(store)
                return (perf_counter_ns() - start) / count

        return sample

    def dumping(store: Any) -> None:
        with shop.path("again.jsonl").open("w") as out:
            dump(store, out)

    def loading(store: Any) -> None:
        with text.open() as lines:
            load(store, lines)

    def copying(target: Any) -> None:
        with SQLiteAdapter(file) as source:
            copy(source, target)

    def new_file() -> Any:
        return SQLiteAdapter(shop.path("new"), durability="full")

    return race(
        f"Moving {count:,} records, {size:,} of them live sessions: time for each",
        [
            theirs("bare INSERT, executemany", lambda: _bare(shop, file, count)),
            Contender("dump of a SQLite file", lambda: timed(lambda: SQLiteAdapter(file), dumping), bars.MOVE),
            Contender("load into a SQLite file", lambda: timed(new_file, loading), bars.MOVE),
            Contender("load into memory", lambda: timed(MemoryAdapter, loading), bars.MOVE),
            Contender("copy, file into file", lambda: timed(new_file, copying), bars.MOVE),
        ],
        rounds=MOVE_ROUNDS,
        warm_up=False,
    )


def _bare(shop: Workshop, file: Path, count: int) -> Sample:
    """The rows are in memory; tables, indexes and pragmas are the store's, with its page cache while it loads."""
    tables = [*compiled(OURS, RECORDS).tables.values()]
    with SQLiteAdapter(file) as store:
        rows = [[table.row(*pair, store._now) for pair in store._walk(table.entity)] for table in tables]

    def sample() -> float:
        path = shop.path("bare")
        SQLiteAdapter(path).close()
        with floors.opened(path) as connection:
            connection.execute("PRAGMA cache_size = -64000")
            start = perf_counter_ns()
            connection.execute("BEGIN IMMEDIATE")
            for table, those in zip(tables, rows):
                connection.executemany(table.insert, those)
            connection.execute("COMMIT")
            return (perf_counter_ns() - start) / count

    return sample


def _peak(shop: Workshop, size: int) -> Sample:
    def sample() -> float:
        text = shop.path("peak.jsonl")
        with SQLiteAdapter(shop.filled(SQLITE_FILE, size)) as source, SQLiteAdapter(shop.path("peak")) as target:
            gc.collect()
            tracemalloc.start()
            try:
                with text.open("w") as out:
                    dump(source, out)
                with text.open() as lines:
                    load(target, lines)
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    return sample
