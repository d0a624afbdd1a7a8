"""Our own adapters keep the contract: in memory, in SQLite, in a file, split, awaited, with a secret."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tinyauthstore import Adapter, MemoryAdapter, Session, ShelveAdapter, SplitAdapter, SQLiteAdapter
from tinyauthstore.aio import AsyncAdapter
from tinyauthstore.testing import (
    CALLS,
    DAY,
    NOTHING,
    ON_A_SESSION,
    AdapterContract,
    ConcurrencyContract,
    Contract,
    FrozenClock,
    Household,
    SessionContract,
    TransactionContract,
    VerificationContract,
    undone,
)

Make = Callable[..., Any]

MEMORY_DISK = "/dev/shm"
"""Where Linux has it."""


def memory(folder: Path, **options: Any) -> Adapter:
    return MemoryAdapter(**options)


def sqlite(folder: Path, **options: Any) -> Adapter:
    return SQLiteAdapter(":memory:", **options)


def sqlite_file(folder: Path, **options: Any) -> Adapter:
    """A new file every time."""
    return SQLiteAdapter(folder / f"{len([*folder.iterdir()])}.db", durability="normal", **options)


def shelve(folder: Path, **options: Any) -> Adapter:
    """A new directory every time."""
    return ShelveAdapter(folder / f"{len([*folder.iterdir()])}.shelf", durability="normal", **options)


def split(folder: Path, **options: Any) -> Adapter:
    """Users in a file, all else in memory."""
    users, sessions, verification = (make(folder, **options) for make in (sqlite_file, memory, memory))
    return SplitAdapter(users=users, sessions=sessions, verification=verification)


def awaited(make: Make) -> Make:
    """The same adapter for asyncio."""
    return lambda folder, **options: AsyncAdapter(make(folder, **options))


def with_secret(make: Make) -> Make:
    """The same adapter, keeping HMACs instead of plain digests."""
    return lambda folder, **options: make(folder, **{"secret": "a secret", **options})


class Ours(Contract):
    """An adapter of this package, made by ``make``."""

    make: ClassVar[Make]

    @pytest.fixture
    def folder(self) -> Iterator[Path]:
        """Not on a disk, if possible: surviving a power cut is not claimed here, and costs minutes."""
        place = MEMORY_DISK if os.access(MEMORY_DISK, os.W_OK) else None
        with tempfile.TemporaryDirectory(dir=place) as folder:
            yield Path(folder)

    @pytest.fixture
    def make_adapter(self, folder: Path) -> Make:
        return lambda **options: type(self).make(folder, **options)


class TestMemory(Ours, AdapterContract):
    make = memory


class TestSQLiteInMemory(Ours, AdapterContract):
    make = sqlite


class TestSQLiteFile(Ours, AdapterContract):
    make = sqlite_file


class TestShelve(Ours, AdapterContract):
    make = shelve


class TestSplit(Ours, SessionContract, VerificationContract, TransactionContract):
    """Where several stores must agree; the whole contract is soaked."""

    make = split


@pytest.mark.soak
class TestWholeSplit(Ours, AdapterContract):
    make = split


@pytest.mark.soak
class TestAsyncMemory(Ours, AdapterContract):
    make = awaited(memory)


class TestAsyncSQLiteFile(Ours, SessionContract, TransactionContract, ConcurrencyContract):
    """Where it matters most whose turn it is; the whole contract is soaked."""

    make = awaited(sqlite_file)


@pytest.mark.soak
class TestWholeAsyncSQLiteFile(Ours, AdapterContract):
    make = awaited(sqlite_file)


@pytest.mark.soak
class TestAsyncSplit(Ours, AdapterContract):
    make = awaited(split)


class TestMemoryWithSecret(Ours, SessionContract, VerificationContract):
    """Where digests matter."""

    make = with_secret(memory)


class TestSQLiteFileWithSecret(Ours, SessionContract, VerificationContract):
    """Where digests matter."""

    make = with_secret(sqlite_file)


def test_the_contracts_tables_name_every_method() -> None:
    """Or what holds for every method would not be tested for a new one."""
    methods = {name for name in dir(Adapter) if name == "__enter__" or not name.startswith("_")}
    assert {name.partition(",")[0] for name in CALLS} == methods - {"restore", "close"}


def test_what_was_stored_is_there_after_reopening(tmp_path: Path) -> None:
    """All of a household, exactly."""
    with SQLiteAdapter(tmp_path / "auth.db") as store:
        home = Household(store)
        before = home.state()
    with SQLiteAdapter(tmp_path / "auth.db") as store:
        home.store = home.ada.store = home.grace.store = store
        assert home.state() == before
        assert store.check() == []


@pytest.mark.parametrize("other", ["another secret", None])
def test_a_file_under_another_secret_knows_no_token(tmp_path: Path, other: str | None) -> None:
    """Who has the file and not the secret can neither present nor guess a token."""
    with SQLiteAdapter(tmp_path / "auth.db", secret="a secret") as store:
        Household(store)
    link = {"identifier": "ada@example.com", "token": "ada-1-token"}
    with SQLiteAdapter(tmp_path / "auth.db", secret=other) as store:
        assert store.get_session_and_user("ada-1-session") is None
        assert store.use_verification_token(**link) is None
    with SQLiteAdapter(tmp_path / "auth.db", secret=b"a secret") as store:
        assert store.get_session_and_user("ada-1-session")
        assert store.use_verification_token(**link)


@pytest.fixture
def lowered(tmp_path: Path) -> Iterator[tuple[SQLiteAdapter, FrozenClock, Session]]:
    """A store whose ``session_absolute_age`` of ten days is younger than its only session, of thirty."""
    clock = FrozenClock()
    with SQLiteAdapter(tmp_path / "auth.db", clock=clock) as store:
        session = store.create_session(user_id=store.create_user().id)
    with SQLiteAdapter(tmp_path / "auth.db", clock=clock, session_absolute_age=10 * DAY) as store:
        yield store, clock, session


@pytest.mark.parametrize("method", ON_A_SESSION)
def test_a_lowered_absolute_age_ends_sessions_that_are_older(
    lowered: tuple[SQLiteAdapter, FrozenClock, Session], method: str
) -> None:
    """They live until the new limit, and are dead in every method from then on."""
    store, clock, session = lowered
    clock.tick(days=10, microseconds=-1)
    assert undone(store, lambda: ON_A_SESSION[method](store, session)) not in (NOTHING.get(method), None)
    clock.tick(microseconds=1)
    assert ON_A_SESSION[method](store, session) == NOTHING.get(method)


def test_a_lowered_absolute_age_shows_wherever_a_session_is_returned(
    lowered: tuple[SQLiteAdapter, FrozenClock, Session],
) -> None:
    """What is shown as the end of a session is its end."""
    store, clock, session = lowered
    shown = [store.get_session_and_user(session.session_token).session, *store.list_sessions(session.user_id)]
    shown += [store.touch_session(session.session_token), store.delete_session(session.session_token)]
    assert {one.expires for one in shown} == {clock.now + 10 * DAY}


def test_a_lowered_absolute_age_shows_in_the_count(
    lowered: tuple[SQLiteAdapter, FrozenClock, Session],
) -> None:
    """What is absent everywhere else is not counted, although it could still be stored for weeks."""
    store, clock, session = lowered
    clock.tick(days=10, microseconds=-1)
    assert store.count().sessions == len(store.list_sessions(session.user_id)) == 1
    clock.tick(microseconds=1)
    assert store.count().sessions == len(store.list_sessions(session.user_id)) == 0
