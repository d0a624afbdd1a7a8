"""Writes, acknowledged one by one: each store and durability, then several processes at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import takewhile
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, NamedTuple

from tinyauthstore import Adapter, MemoryAdapter, SQLiteAdapter

from .. import bars, floors
from ..measure import (
    Bar,
    Contender,
    Row,
    Sample,
    Section,
    compared,
    interleaved,
    latencies,
    ns_per_call,
    race,
    theirs,
)
from ..processes import helper
from ..workshop import (
    MEMORY,
    SHELVE,
    SQLITE_FILE,
    SQLITE_MEMORY,
    Workshop,
    fill,
    shelve_store,
    shuffled,
    token,
    user_id,
    users_of,
)

Durability = Literal["full", "normal"]
DURABILITIES: tuple[Durability, ...] = ("full", "normal")

ROWS = 20_000
"""What a process has at hand to write in a window: more than it can."""

Write = Callable[[Any], Any]


def sections(shop: Workshop) -> Iterator[Section]:
    """Create, touch, rotate, revoke a session; use a token."""
    for durability in DURABILITIES:
        yield _sqlite(shop, durability)
    for durability in DURABILITIES:
        yield _shelve(shop, durability)
    yield _in_memory(shop)
    for durability in DURABILITIES:
        yield from _processes(shop, durability)


# --- one process ------------------------------------------------------------------------------


def _create(store: Adapter, sessions: int, count: int) -> tuple[Write, Sequence[Any]]:
    users = shuffled(users_of(sessions), count)
    return lambda user: store.create_session(user_id=user), [user_id(number) for number in users]


def _touch(store: Adapter, sessions: int, count: int) -> tuple[Write, Sequence[Any]]:
    return store.touch_session, [token(number) for number in shuffled(sessions, count)]


def _rotate(store: Adapter, sessions: int, count: int) -> tuple[Write, Sequence[Any]]:
    return store.rotate_session, [
        session.session_token for session in _fresh_sessions(store, sessions, count)
    ]


def _revoke(store: Adapter, sessions: int, count: int) -> tuple[Write, Sequence[Any]]:
    return lambda session: store.revoke_session(session.user_id, session.id), _fresh_sessions(
        store, sessions, count
    )


def _fresh_sessions(store: Adapter, sessions: int, count: int) -> list[Any]:
    create, users = _create(store, sessions, count)
    with store.transaction():
        return [create(user) for user in users]


def _use(store: Adapter, sessions: int, count: int) -> tuple[Write, Sequence[Any]]:
    with store.transaction():
        tokens = [store.create_verification_token(identifier=user_id(number)) for number in range(count)]
    return lambda made: store.use_verification_token(identifier=made.identifier, token=made.token), tokens


OPERATIONS = {
    "create a session": _create,
    "touch, when due": _touch,
    "rotate": _rotate,
    "revoke": _revoke,
    "use a token": _use,
}
"""Each prepares what it is to be done to, untimed, and returns it with the call."""

WRITING: dict[str, Any] = {"session_update_age": 0}
"""Options of the stores here: every touch is due."""


def _operations(
    shop: Workshop, name: str, opened: Callable[[], Adapter], bar: Bar | None = None
) -> list[Contender]:
    """A contender for each operation, all on one store; ``bar`` is for creating."""
    store: list[Adapter] = []

    def make(operation: Callable[..., tuple[Write, Sequence[Any]]]) -> Sample:
        if not store:
            store.append(shop.stack.enter_context(opened()))
        return lambda: ns_per_call(*operation(store[0], shop.plan.sessions, shop.plan.writes))

    return [
        Contender(f"{name}{what}", partial(make, operation), bar if operation is _create else None)
        for what, operation in OPERATIONS.items()
    ]


def _bare_insert(shop: Workshop, connection: Any) -> Sample:
    write = floors.insert(connection)
    return lambda: ns_per_call(write, floors.new_sessions(shop.plan.sessions, shop.plan.writes))


def _bare_append(shop: Workshop, durability: Durability) -> Sample:
    write = floors.append(shop.stack.enter_context(floors.log_file(shop.path("log"))), durability)
    return lambda: ns_per_call(write, range(shop.plan.writes))


def _appended(durability: Durability) -> str:
    return "bare append + fsync" if durability == "full" else "bare append"


def _sqlite(shop: Workshop, durability: Durability) -> Section:
    sessions = shop.plan.sessions
    connection = shop.stack.enter_context(floors.opened(shop.copy(SQLITE_FILE, sessions), durability))
    return race(
        f"Writes, SQLite file, durability {durability}",
        [
            theirs("bare INSERT + commit", lambda: _bare_insert(shop, connection)),
            theirs(_appended(durability), lambda: _bare_append(shop, durability)),
            *_operations(
                shop,
                "",
                lambda: SQLiteAdapter(shop.copy(SQLITE_FILE, sessions), durability=durability, **WRITING),
                bars.CREATE if durability == "full" else None,
            ),
        ],
        rounds=shop.plan.rounds,
    )


def _shelve(shop: Workshop, durability: Durability) -> Section:
    return race(
        f"Writes, shelve, durability {durability}",
        [
            theirs(_appended(durability), lambda: _bare_append(shop, durability)),
            *_operations(
                shop,
                "",
                lambda: shelve_store(shop.copy(SHELVE, shop.plan.sessions), durability=durability, **WRITING),
                bars.SHELF_WRITE if durability == "full" else None,
            ),
        ],
        rounds=shop.plan.rounds,
    )


def _in_memory(shop: Workshop) -> Section:
    def filled(store: Adapter) -> Adapter:
        fill(store, shop.plan.sessions)
        return store

    connection = shop.stack.enter_context(floors.opened(":memory:"))
    with floors.opened(shop.filled(SQLITE_FILE, shop.plan.sessions)) as source:
        source.backup(connection)
    return race(
        "Writes, in memory",
        [
            theirs("bare INSERT + commit, :memory:", lambda: _bare_insert(shop, connection)),
            *_operations(shop, f"{SQLITE_MEMORY}, ", lambda: filled(SQLiteAdapter(":memory:", **WRITING))),
            *_operations(shop, f"{MEMORY}, ", lambda: filled(MemoryAdapter(**WRITING))),
        ],
        rounds=shop.plan.rounds,
    )


# --- several processes ------------------------------------------------------------------------


class Work(NamedTuple):
    """What one process, or all together, got done in so many seconds."""

    seconds: float
    writes: int
    slowest: float
    """Nanoseconds that the slowest write took."""

    @property
    def each(self) -> float:
        """Nanoseconds for each write."""
        return self.seconds * 1e9 / self.writes


def write_when_told(pipe: Connection, path: Path, durability: Durability, sessions: int) -> None:
    """For each (whether bare, seconds) that comes in: write for that long and send back the Work."""
    with SQLiteAdapter(path, durability=durability) as store, floors.opened(path, durability) as connection:
        insert = floors.insert(connection)
        pipe.send("ready")
        while True:
            rows = iter(floors.new_sessions(sessions, ROWS))
            if (order := pipe.recv()) is None:
                return
            bare, seconds = order
            write = insert if bare else lambda row: store.create_session(user_id=row[1])
            start = perf_counter()
            taken = latencies(write, _until(start + seconds, rows))
            pipe.send(Work(perf_counter() - start, len(taken), max(taken)))


def _until(end: float, rows: Iterator[Any]) -> Iterator[Any]:
    """The rows, while there is time."""
    return takewhile(lambda _: perf_counter() < end, rows)


def _processes(shop: Workshop, durability: Durability) -> Iterator[Section]:
    """Writers at once, all on one file: what a write costs all of them together, and the slowest one."""
    plan = shop.plan
    file = shop.copy(SQLITE_FILE, plan.sessions)
    with ExitStack() as stack:
        pipes = [
            stack.enter_context(helper(write_when_told, file, durability, plan.sessions))
            for _ in range(max(plan.writers))
        ]

        def together(writers: int, bare: bool) -> Work:
            for pipe in pipes[:writers]:
                pipe.send((bare, plan.window))
            works = [pipe.recv() for pipe in pipes[:writers]]
            seconds, writes, slowest = zip(*works)
            return Work(max(seconds), sum(writes), max(slowest))

        means, slowest = [], []
        for writers in plan.writers:
            shop.tell(f"{writers} processes writing, durability {durability}")
            bare, ours = interleaved(
                [partial(together, writers, True), partial(together, writers, False)], plan.few_rounds
            )
            row = Row(f"{writers} process{'es' if writers > 1 else ''}")
            means.append(compared(row, [work.each for work in ours], [work.each for work in bare]))
            slowest.append(compared(row, [work.slowest for work in ours], [work.slowest for work in bare]))
    floor = "as many processes, bare INSERTs"
    yield Section(
        f"Processes creating sessions, durability {durability}: throughput, as time for each", floor, means
    )
    yield Section(f"Processes creating sessions, durability {durability}: the slowest write", floor, slowest)
