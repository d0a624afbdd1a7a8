"""Look-ups through ``AsyncAdapter``, against the same look-up called directly, and in a thread each time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from tinyauthstore import Adapter, MemoryAdapter, SplitAdapter, SQLiteAdapter
from tinyauthstore.aio import AsyncAdapter

from .. import bars
from ..measure import PASSES, Contender, Sample, Section, looking_up, ns_per_await, race, theirs, verify
from ..workshop import MEMORY, SPLIT, SQLITE_FILE, Workshop, fill, keys_of, shuffled


def sections(shop: Workshop) -> Iterator[Section]:
    """A SQLite file, memory and both as one: called, awaited, handed to a thread."""
    runner = shop.stack.enter_context(asyncio.Runner())
    for kind in (SQLITE_FILE, MEMORY, SPLIT):
        yield _section(shop, runner, kind)


def _section(shop: Workshop, runner: asyncio.Runner, kind: str) -> Section:
    tokens = keys_of(shuffled(shop.plan.sessions, shop.plan.look_ups)).tokens
    sync = shop.store(kind)
    store = AsyncAdapter(_same(shop, kind))
    shop.stack.callback(lambda: runner.run(store.close()))

    def threaded(token: str) -> Coroutine[Any, Any, Any]:
        return asyncio.to_thread(sync.get_session_and_user, token)

    return race(
        f"Session by token from asyncio, {kind}",
        [
            Contender("called directly", lambda: looking_up(sync.get_session_and_user, tokens)),
            Contender(
                "AsyncAdapter",
                lambda: awaiting(runner, store.get_session_and_user, tokens * PASSES),
                bars.AWAITED,
            ),
            theirs("asyncio.to_thread of each call", lambda: awaiting(runner, threaded, tokens)),
        ],
        rounds=shop.plan.few_rounds,
    )


def _same(shop: Workshop, kind: str) -> Any:
    """Another store with the same data, for the AsyncAdapter to close."""
    if kind == SQLITE_FILE:
        return SQLiteAdapter(shop.filled(kind, shop.plan.sessions))
    store: Adapter = MemoryAdapter()
    if kind == SPLIT:
        store = SplitAdapter(users=SQLiteAdapter(shop.path("users")), sessions=store)
    fill(store, shop.plan.sessions)
    return store


def awaiting(
    runner: asyncio.Runner, call: Callable[[Any], Coroutine[Any, Any, Any]], keys: Sequence[Any]
) -> Sample:
    """A round of look-ups, one after the other in one task, once it is sure that they find something."""
    verify(lambda key: runner.run(call(key)), keys)
    return lambda: runner.run(ns_per_await(call, keys))
