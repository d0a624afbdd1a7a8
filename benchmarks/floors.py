"""The floors: what the same work costs when nothing is done but the work.

Look-ups are given a ready digest and return a bare row; writes are one statement, committed by itself.
Connections are opened with the adapter's own settings, so that "durable" means the same on both sides.
"""

from __future__ import annotations

import importlib
import os
import random
import shelve
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from .workshop import NOW, digest, email, microseconds, user_id, users_of

JOIN = (
    "SELECT s.user_id, s.expires, s.created_at, u.id, u.email, u.name, u.image, u.email_verified"
    " FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.token_digest = ?"
)
SESSION = "SELECT user_id, expires, created_at FROM sessions WHERE token_digest = ?"
USER = "SELECT id, email, name, image, email_verified FROM users WHERE id = ?"
USER_BY_EMAIL = "SELECT id, email, name, image, email_verified FROM users WHERE email_key = ?"
USER_BY_ACCOUNT = (
    "SELECT u.id, u.email, u.name, u.image, u.email_verified FROM accounts a JOIN users u ON u.id = a.user_id"
    " WHERE a.provider = ? AND a.provider_account_id = ?"
)
VALIDATION = "PRAGMA data_version"
INSERT = "INSERT INTO sessions (token_digest, user_id, expires, created_at) VALUES (?, ?, ?, ?)"

BARE_JOIN = "bare SELECT ... JOIN, file"
"""The floor of floors: its row in a table, and the 1 of the chart."""

RECORD = b"x" * 256
"""About what a journal must hold of a new session."""


def connect(path: Path | str, durability: str = "full", *, timeout: float = 30) -> sqlite3.Connection:
    """A connection with the adapter's pragmas, in autocommit, usable from any thread."""
    connection = sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
    for pragma in (
        "foreign_keys = ON",
        "secure_delete = ON",
        "temp_store = MEMORY",
        f"synchronous = {durability}",
    ):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def opened(path: Path | str, durability: str = "full") -> closing[sqlite3.Connection]:
    """The same for a ``with``, which closes it."""
    return closing(connect(path, durability))


def select(connection: sqlite3.Connection, sql: str) -> Callable[[tuple[Any, ...]], Any]:
    """The query as a look-up: ``sqlite3`` keeps the statement prepared."""
    execute = connection.execute

    def look_up(parameters: tuple[Any, ...]) -> Any:
        return execute(sql, parameters).fetchone()

    return look_up


def insert(connection: sqlite3.Connection) -> Callable[[tuple[Any, ...]], Any]:
    """The insert as a write: one statement in autocommit, so committed when it returns."""
    execute = connection.execute

    def write(row: tuple[Any, ...]) -> Any:
        return execute(INSERT, row)

    return write


def new_sessions(sessions: int, count: int, seed: Any = None) -> list[tuple[Any, ...]]:
    """Rows for ``insert``: new random digests, users that are there. Without a seed never the same twice."""
    chance = random.Random(seed)
    moment = microseconds(NOW)
    return [
        (
            chance.randbytes(32),
            user_id(chance.randrange(users_of(sessions))),
            moment + 30 * 86400 * 10**6,
            moment,
        )
        for _ in range(count)
    ]


def append(descriptor: int, durability: str) -> Callable[[Any], None]:
    """Appending a record to a file, synced if durability is full."""

    def write(_: Any) -> None:
        os.write(descriptor, RECORD)
        if durability == "full":
            os.fsync(descriptor)

    return write


@contextmanager
def log_file(path: Path) -> Iterator[int]:
    """A descriptor to append to."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def record(number: int, users: int) -> tuple[Any, ...]:
    """What a look-up of session ``number`` should give, as a bare tuple."""
    owner, moment = number % users, microseconds(NOW)
    return (user_id(owner), moment, moment, user_id(owner), email(owner), f"User {owner}", None, moment)


def dictionary(sessions: int) -> dict[bytes, tuple[Any, ...]]:
    """Sessions with their users in a plain dict, by the token's digest."""
    return {digest(number): record(number, users_of(sessions)) for number in range(sessions)}


def backends() -> list[str]:
    """The kinds of file under a shelf that this Python has: ``dumb`` always."""
    found = []
    for name in ("dumb", "gnu", "ndbm", "sqlite3"):
        with suppress(ImportError):
            importlib.import_module(f"dbm.{name}")
            found.append(name)
    return found


def shelf(path: Path, backend: str, flag: str = "r") -> closing[Any]:
    """The standard library's ``shelve`` on that backend, as it comes: pickles. For a ``with``."""
    return closing(shelve.Shelf(importlib.import_module(f"dbm.{backend}").open(str(path), flag)))


def write_shelf(path: Path, sessions: int, backend: str = "dumb") -> None:
    """Write sessions with their users to a new shelf, by the digest in hex."""
    with shelf(path, backend, "n") as made:
        if (connection := getattr(made.dict, "_cx", None)) is not None:
            connection.execute("PRAGMA synchronous = OFF")  # dbm.sqlite3 would sync every single record
        for number in range(sessions):
            made[digest(number).hex()] = record(number, users_of(sessions))


def read_shelf(path: Path, backend: str = "dumb") -> int:
    """Open a bare shelf and read every value; how many there were."""
    with shelf(path, backend) as found:
        return sum(1 for _ in found.values())
