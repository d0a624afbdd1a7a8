"""Look-ups from several threads of one process, on one store; and what a writer's fsyncs do to them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from statistics import quantiles
from time import perf_counter_ns
from typing import Any, NamedTuple

from tinyauthstore import SQLiteAdapter

from .. import floors
from ..measure import Row, Section, compared, interleaved, latencies
from ..workshop import SQLITE_FILE, Workshop, keys_of, shuffled, user_id

READERS = (1, 2, 4, 8)

Call = Callable[[Any], Any]


class Reading(NamedTuple):
    """A round: nanoseconds for each look-up of all threads together, and how long single ones took."""

    each: float
    p50: float
    p95: float
    p99: float


def sections(shop: Workshop) -> Iterator[Section]:
    """1, 2, 4, 8 readers, alone and beside a thread that writes durably without a pause.

    The floor has a bare connection for each thread: what somebody would write who knows SQLite well.
    """
    plan = shop.plan
    file = shop.copy(SQLITE_FILE, plan.sessions)
    keys = keys_of(shuffled(plan.sessions, plan.look_ups) * 2)
    with ExitStack() as stack:
        store = stack.enter_context(SQLiteAdapter(file))
        connections = [stack.enter_context(floors.opened(file)) for _ in range(max(READERS) + 1)]
        selects = [floors.select(connection, floors.JOIN) for connection in connections]
        insert = floors.insert(connections[-1])

        def bare_write() -> None:
            insert(*floors.new_sessions(plan.sessions, 1))

        def write() -> None:
            store.create_session(user_id=user_id(0))

        for where, ours_writes, bare_writes in (
            ("alone", None, None),
            ("beside one that writes durably", write, bare_write),
        ):
            tables: dict[str, list[Row]] = {figure: [] for figure in Reading._fields}
            for readers in READERS:
                shop.tell(f"{readers} threads reading {where}")
                bare, ours = interleaved(
                    [
                        partial(_read, selects[:readers], keys.digests, bare_writes),
                        partial(_read, [store.get_session_and_user] * readers, keys.tokens, ours_writes),
                    ],
                    plan.few_rounds,
                )
                row = Row(f"{readers} reader{'s' if readers > 1 else ''}")
                for figure, table in tables.items():
                    table.append(
                        compared(row, *([getattr(one, figure) for one in them] for them in (ours, bare)))
                    )
            for figure, table in tables.items():
                if figure != "each" and ours_writes is None:
                    continue  # without a writer nobody waits
                what = "throughput, as time for each" if figure == "each" else f"{figure} of a look-up"
                yield Section(f"Threads reading {where}: {what}", "as many bare connections", table)


def _read(calls: Sequence[Call], keys: Sequence[Any], write: Callable[[], None] | None) -> Reading:
    """All keys by each of the calls, in a thread of its own, while another goes on writing."""
    taken: list[list[int]] = [[] for _ in calls]
    gate = threading.Barrier(len(calls) + 1)

    def reader(number: int) -> None:
        gate.wait()
        taken[number] = latencies(calls[number], keys)

    threads = [threading.Thread(target=reader, args=(number,)) for number in range(len(calls))]
    with _writer(write):
        for thread in threads:
            thread.start()
        gate.wait()
        start = perf_counter_ns()
        for thread in threads:
            thread.join()
        wall = perf_counter_ns() - start
    everything = list(chain.from_iterable(taken))
    percents = quantiles(everything, n=100)
    return Reading(wall / len(everything), percents[49], percents[94], percents[98])


@contextmanager
def _writer(write: Callable[[], None] | None) -> Iterator[None]:
    """A thread that writes until the block ends."""
    if write is None:
        yield
        return
    stop = threading.Event()

    def go_on() -> None:
        while not stop.is_set():
            write()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
