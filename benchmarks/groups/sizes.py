"""What look-ups, memory and files cost at 1,000 sessions, and at many more."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from tinyauthstore import MemoryAdapter, SQLiteAdapter

from .. import bars
from ..measure import Bar, Contender, Sample, Section, looking_up, race
from ..workshop import (
    MEMORY,
    NO_CACHE,
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
        ("SQLite file, cold, cache_size=0", on_file(cold, **NO_CACHE), plan.sizes, bars.COLD_GROWTH),
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

    weigh = partial(_growth, rounds=1, warm_up=False, unit="bytes")
    for label, at in (
        ("memory", lambda size: _held(partial(_filled_memory, size), _all(size))),
        ("shelve", lambda size: _held(partial(shelve_store, shop.copy(SHELVE, size)), _all(size))),
        (
            "what SQLite file keeps",
            lambda size: _held(partial(_warmed, shop.filled(SQLITE_FILE, size), size), size),
        ),
    ):
        yield weigh(f"Memory for each session with its share of users: {label}", plan.small_sizes, at)
    for kind, sizes in ((SQLITE_FILE, plan.sizes), (SHELVE, plan.small_sizes)):
        yield weigh(
            f"Bytes on disk for each session with its share of users: {kind}", sizes, _on_disk(shop, kind)
        )


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


def _all(size: int) -> int:
    """The sessions that a filled store holds, expired ones included."""
    return size + expired_of(size)


def _held(opened: Callable[[], AbstractContextManager[Any]], sessions: int) -> Sample:
    """Bytes of Python's memory for each session, while that store is open."""

    def sample() -> float:
        gc.collect()
        tracemalloc.start()
        try:
            with opened():
                gc.collect()
                return tracemalloc.get_traced_memory()[0] / sessions
        finally:
            tracemalloc.stop()

    return sample


def _filled_memory(size: int) -> MemoryAdapter:
    store = MemoryAdapter(purge_interval=None)
    fill(store, size)
    return store


def _warmed(file: Path, size: int) -> SQLiteAdapter:
    """A store on a file that has looked up each of its sessions once."""
    store = SQLiteAdapter(file, purge_interval=None)
    for number in range(size):
        store.get_session_and_user(token(number))
    return store


def _on_disk(shop: Workshop, kind: str) -> At:
    def size_of(path: Path) -> int:
        return sum(map(size_of, path.iterdir())) if path.is_dir() else path.stat().st_size

    def make(size: int) -> Sample:
        path = shop.filled(kind, size)
        return lambda: size_of(path) / _all(size)

    return make
