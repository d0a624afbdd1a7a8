"""What the benchmarks work on: how much of it, the data, and filled stores that are made once.

The data is the same everywhere and follows from numbers: session ``i`` belongs to user ``i % users``, has a
token as long as real ones, and lives for another month. Every user has a linked account.
"""

from __future__ import annotations

import base64
import hashlib
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from tinyauthstore import Adapter, MemoryAdapter, ShelveAdapter, SplitAdapter, SQLiteAdapter

SESSIONS_PER_USER = 5

SQLITE_FILE = "SQLite file"
SQLITE_MEMORY = "SQLite :memory:"
MEMORY = "memory"
SHELVE = "shelve"
SPLIT = "split"
STORES = (SQLITE_FILE, SQLITE_MEMORY, MEMORY, SHELVE, SPLIT)
"""Every kind of store; "split" has its users in a SQLite file and its sessions in memory."""

NOW = datetime.now(UTC)
MONTH = timedelta(days=30)


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int
    few_rounds: int
    """Rounds of what takes long: fresh interpreters, threads, processes, cold stores."""
    sessions: int
    """Sessions in the store, unless a row says otherwise."""
    look_ups: int
    """Keys that are looked up again and again."""
    writes: int
    """Writes in a round."""
    window: float
    """Seconds of a round in which other processes or threads are at work too."""
    sizes: tuple[int, ...]
    """Sessions in a SQLite file, where cost is set against size."""
    small_sizes: tuple[int, ...]
    """The same for memory and shelve, which fill more slowly."""
    writers: tuple[int, ...]
    """Processes that write at once."""


FULL = Plan(
    rounds=21,
    few_rounds=7,
    sessions=10_000,
    look_ups=500,
    writes=200,
    window=0.3,
    sizes=(1_000, 10_000, 100_000, 1_000_000),
    small_sizes=(1_000, 10_000, 100_000),
    writers=(1, 2, 4, 8),
)
QUICK = Plan(
    rounds=5,
    few_rounds=3,
    sessions=10_000,
    look_ups=300,
    writes=40,
    window=0.1,
    sizes=(1_000, 10_000, 100_000),
    small_sizes=(1_000, 10_000),
    writers=(1, 4),
)


# --- the data ---------------------------------------------------------------------------------


def token(number: int) -> str:
    """43 URL-safe characters, like ``secrets.token_urlsafe(32)``, but the same in every run."""
    return base64.urlsafe_b64encode(hashlib.sha256(b"token %d" % number).digest()).decode().rstrip("=")


def digest(number: int) -> bytes:
    """What a store keeps of ``token(number)``."""
    return hashlib.sha256(token(number).encode()).digest()


def user_id(number: int) -> str:
    """As long as a UUID."""
    return f"{number:08x}-0000-4000-8000-000000000000"


def email(number: int) -> str:
    """An address in lower case, so that it is its own normal form."""
    return f"user{number}@example.com"


def users_of(sessions: int) -> int:
    """How many users there are for so many sessions."""
    return sessions // SESSIONS_PER_USER


def expired_of(sessions: int) -> int:
    """How many expired sessions lie beside so many live ones; their numbers follow."""
    return sessions // 10


def expiry(number: int, sessions: int) -> datetime:
    """When session ``number`` expires: those past the first ``sessions`` have done so a month ago."""
    return NOW + (MONTH if number < sessions else -MONTH) + timedelta(microseconds=number)


def shuffled(population: int, count: int | None = None) -> list[int]:
    """``count`` different numbers below ``population`` (all if fewer), always in the same disorder."""
    return random.Random(population).sample(range(population), min(population, count or population))


class Keys(NamedTuple):
    """What sessions are looked up by: tokens in the stores, ready digests in the bare queries."""

    tokens: list[str]
    digests: list[tuple[bytes]]


def keys_of(numbers: Iterable[int]) -> Keys:
    """The keys of sessions by number."""
    numbers = list(numbers)
    return Keys([token(number) for number in numbers], [(digest(number),) for number in numbers])


def microseconds(moment: datetime) -> int:
    """Since 1970, as the SQLite files hold times."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def fill(store: Adapter, sessions: int) -> None:
    """Fill a store through its own methods, in one transaction."""
    users = users_of(sessions)
    with store.transaction():
        for number in range(users):
            store.create_user(
                id=user_id(number), email=email(number), name=f"User {number}", email_verified=NOW
            )
            store.link_account(
                user_id=user_id(number), type="oidc", provider="example", provider_account_id=str(number)
            )
        for number in range(sessions + expired_of(sessions)):
            store.create_session(
                user_id=user_id(number % users), session_token=token(number), expires=expiry(number, sessions)
            )


def fill_file(path: Path, sessions: int) -> None:
    """Create a SQLite store and fill its tables in one go: a million sessions in seconds.

    In the order in which an application would have added them, so the tables have grown as theirs do.
    """
    SQLiteAdapter(path).close()
    users = users_of(sessions)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -500000"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        connection.execute("BEGIN")
        _insert(
            connection,
            "users (id, email_key, email, name, email_verified)",
            ((user_id(n), email(n), email(n), f"User {n}", microseconds(NOW)) for n in range(users)),
        )
        _insert(
            connection,
            "accounts (provider, provider_account_id, user_id, type, extra)",
            (("example", str(n), user_id(n), "oidc", "{}") for n in range(users)),
        )
        alive, dead = microseconds(expiry(0, sessions)), microseconds(expiry(0, 0))
        _insert(
            connection,
            "sessions (token_digest, user_id, expires, created_at)",
            (
                (digest(n), user_id(n % users), (alive if n < sessions else dead) + n, microseconds(NOW))
                for n in range(sessions + expired_of(sessions))
            ),
        )
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL").fetchall()


def _insert(connection: sqlite3.Connection, columns: str, rows: Iterable[Sequence[Any]]) -> None:
    places = ", ".join("?" * (columns.count(",") + 1))
    connection.executemany(f"INSERT INTO {columns} VALUES ({places})", rows)


# --- the stores -------------------------------------------------------------------------------


class Workshop:
    """A folder, and the stores in it. Leaving a ``with`` closes them; the filled files serve the next one."""

    def __init__(self, plan: Plan, folder: Path, tell: Callable[[str], None] = lambda step: None) -> None:
        self.plan = plan
        self.folder = folder
        self.tell = tell
        self.stack = ExitStack()
        self._files: dict[tuple[str, int], Path] = {}
        self._stores: dict[tuple[str, int], Adapter] = {}
        self._made = 0

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *error: object) -> None:
        self._stores.clear()
        self.stack.close()

    def path(self, ending: str) -> Path:
        """A path in the folder where nothing is yet."""
        self._made += 1
        return self.folder / f"{self._made}-{ending}"

    def filled(self, kind: str, sessions: int) -> Path:
        """A closed, filled file (or folder) of that kind. It is shared: copy it before writing to it."""
        if (kind, sessions) not in self._files:
            self.tell(f"filling {kind} with {sessions:,} sessions")
            path = self.path("auth")
            if kind == SQLITE_FILE:
                fill_file(path, sessions)
            else:
                with shelve_store(path, purge_interval=None) as store:
                    fill(store, sessions)
            self._files[kind, sessions] = path
        return self._files[kind, sessions]

    def copy(self, kind: str, sessions: int) -> Path:
        """A copy of ``filled``, to write to."""
        source, path = self.filled(kind, sessions), self.path("copy")
        (shutil.copytree if source.is_dir() else shutil.copy)(source, path)
        return path

    def store(self, kind: str, sessions: int | None = None) -> Adapter:
        """A filled, open store of that kind, for look-ups. It is shared, and closed with the workshop."""
        sessions = sessions or self.plan.sessions
        if (kind, sessions) not in self._stores:
            self._stores[kind, sessions] = self.stack.enter_context(self._open(kind, sessions))
        return self._stores[kind, sessions]

    def _open(self, kind: str, sessions: int) -> Adapter:
        if kind == SQLITE_FILE:
            return SQLiteAdapter(self.filled(kind, sessions), purge_interval=None)
        if kind == SHELVE:
            return shelve_store(self.filled(kind, sessions), purge_interval=None)
        self.tell(f"filling {kind} with {sessions:,} sessions")
        store: Adapter
        if kind == SQLITE_MEMORY:
            store = SQLiteAdapter(":memory:", purge_interval=None)
        elif kind == MEMORY:
            store = MemoryAdapter(purge_interval=None)
        else:
            users = SQLiteAdapter(self.path("users"), purge_interval=None)
            store = SplitAdapter(users=users, sessions=MemoryAdapter(purge_interval=None))
        fill(store, sessions)
        return store


def shelve_store(path: Path, **options: Any) -> ShelveAdapter:
    """An open shelf, on the backend that every Python has."""
    return ShelveAdapter(path, dbm="dumb", **options)
