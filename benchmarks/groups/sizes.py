"""What look-ups, memory and files cost at 1,000 sessions, and at many more."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from tinyauthstore import MemoryAdapter, SQLiteAdapter

from .. import bars
from ..measure import Bar, Contender, Sample, Section, looking_up, race
from ..workshop import (
    MEMORY,
    SHELVE,
    SQLITE_FILE,
    Keys,
    Workshop,
    expired_of,
    fill,
    keys_of,
    shelve_store,
    shuffled,
    token,
)
from .lookups import cold, cold_select

At = Callable[[int], Sample]
"""What measures a round at that many sessions."""


def sections(shop: Workshop) -> Iterator[Section]:
    """Session by token, bytes of memory for each session, bytes of file for each session."""
    plan = shop.plan
    count = min(*plan.sizes, *plan.small_sizes)

    def keys(size: int) -> Keys:
        return keys_of(shuffled(size, count))

    def on_file(sample: Callable[..., Sample], **options: Any) -> At:
        return lambda size: sample(shop.filled(SQLITE_FILE, size), keys(size), **options)

    def warm(kind: str) -> At:
        return lambda size: looking_up(shop.store(kind, size).get_session_and_user, keys(size).tokens)

    for label, at, sizes, bar in (
        ("bare SELECT ... JOIN, file, cold", on_file(cold_select), plan.sizes, None),
        ("SQLite file, cold", on_file(cold), plan.sizes, bars.COLD_GROWTH),
        ("SQLite file, cold, cache_size=0", on_file(cold, cache_size=0), plan.sizes, bars.COLD_GROWTH),
        ("SQLite file, warm", warm(SQLITE_FILE), plan.sizes, bars.FLAT),
        ("memory", warm(MEMORY), plan.small_sizes, bars.FLAT),
        ("shelve", warm(SHELVE), plan.small_sizes, bars.FLAT),
    ):
        yield _growth(
            f"Session by token, by size: {label}",
            sizes,
            at,
            bar,
            rounds=plan.rounds,
            chart="sizes",
            label=label,
        )

    yield race(
        "check() of a file, by size",
        [
            Contender(
                f"{records:,} records",
                partial(_checking, shop, records),
                bars.CHECK if records == 1_000_000 else None,
                size=records,
            )
            for records in plan.sizes
        ],
        floor="the smallest",
        rounds=plan.few_rounds,
    )

    weigh = partial(_growth, rounds=1, warm_up=False, unit="bytes")
    for title, sizes, at in (
        ("Memory for each session: memory", plan.small_sizes, _memory_of_memory),
        ("Memory for each session: shelve", plan.small_sizes, partial(_memory_of_shelf, shop)),
        (
            "Memory in all that SQLite file keeps, every session looked up",
            plan.small_sizes,
            partial(_memory_kept, shop),
        ),
        ("Bytes on disk for each session: SQLite file", plan.sizes, partial(_on_disk, shop, SQLITE_FILE)),
        ("Bytes on disk for each session: shelve", plan.small_sizes, partial(_on_disk, shop, SHELVE)),
    ):
        yield weigh(title, sizes, at)


def _growth(title: str, sizes: Sequence[int], at: At, bar: Bar | None = None, **options: Any) -> Section:
    """The same at each size, against the smallest."""
    return race(
        title,
        [
            Contender(f"{size:,} sessions", partial(at, size), bar if size > sizes[0] else None, size=size)
            for size in sizes
        ],
        floor="the smallest",
        **options,
    )


def _checking(shop: Workshop, records: int) -> Sample:
    """A file of so many records: of three, two are sessions, and the others are users and accounts."""
    store = shop.stack.enter_context(SQLiteAdapter(shop.filled(SQLITE_FILE, records * 2 // 3)))

    def sample() -> float:
        start = perf_counter_ns()
        assert store.check() == []
        return perf_counter_ns() - start

    return sample


# --- bytes: a session with its share of users and accounts, a fifth of each --------------------


def _stored(size: int) -> int:
    """The sessions that a filled store holds, expired ones included."""
    return size + expired_of(size)


def _memory_of_memory(size: int) -> Sample:
    def filled() -> MemoryAdapter:
        store = MemoryAdapter(purge_interval=None)
        fill(store, size)
        return store

    return lambda: _held(filled) / _stored(size)


def _memory_of_shelf(shop: Workshop, size: int) -> Sample:
    path = shop.copy(SHELVE, size)
    return lambda: _held(partial(shelve_store, path)) / _stored(size)


def _memory_kept(shop: Workshop, size: int) -> Sample:
    """In all, not for each: it is bounded by ``cache_size``, whatever the store holds."""

    def warmed() -> SQLiteAdapter:
        store = SQLiteAdapter(shop.filled(SQLITE_FILE, size), purge_interval=None)
        for number in (*range(size), *range(size)):  # a session is kept from its second look-up on
            store.get_session_and_user(token(number))
        return store

    return lambda: _held(warmed)


def _held(opened: Callable[[], AbstractContextManager[Any]]) -> int:
    """Bytes of Python's memory while that store is open."""
    gc.collect()
    tracemalloc.start()
    try:
        with opened():
            gc.collect()
            return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def _on_disk(shop: Workshop, kind: str, size: int) -> Sample:
    def size_of(path: Path) -> int:
        return sum(map(size_of, path.iterdir())) if path.is_dir() else path.stat().st_size

    path = shop.filled(kind, size)
    return lambda: size_of(path) / _stored(size)
