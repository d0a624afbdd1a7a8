"""Our own adapters keep the contract: in memory, in SQLite, in a file, with and without a secret."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tinyauthstore.testing import (
    CALLS,
    DAY,
    NOTHING,
    ON_A_SESSION,
    AdapterContract,
    FrozenClock,
    Household,
    undone,
)

from tinyauthstore import Adapter, MemoryAdapter, Session, SQLiteAdapter


class TestMemory(AdapterContract):
    """Plain dictionaries."""

    @pytest.fixture
    def make_adapter(self) -> Callable[..., Any]:
        return MemoryAdapter


class TestSQLiteInMemory(AdapterContract):
    """``:memory:``."""

    @pytest.fixture
    def make_adapter(self) -> Callable[..., Any]:
        return functools.partial(SQLiteAdapter, ":memory:")


class TestSQLiteFile(AdapterContract):
    """A file, a new one for every store."""

    @pytest.fixture
    def make_adapter(self, tmp_path: Path) -> Callable[..., Any]:
        def make(**options: Any) -> Any:
            return SQLiteAdapter(tmp_path / f"{len([*tmp_path.iterdir()])}.db", **options)

        return make


def with_secret(make_adapter: Callable[..., Any]) -> Callable[..., Any]:
    """``make_adapter``, whose stores keep HMACs instead of plain digests."""
    return lambda **options: make_adapter(**{"secret": "a secret", **options})


class TestMemoryWithSecret(TestMemory):
    """The same answers where digests are keyed."""

    @pytest.fixture
    def make_adapter(self) -> Callable[..., Any]:
        return with_secret(MemoryAdapter)


class TestSQLiteFileWithSecret(TestSQLiteFile):
    """The same answers where digests are keyed."""

    @pytest.fixture
    def make_adapter(self, tmp_path: Path) -> Callable[..., Any]:
        return with_secret(functools.partial(SQLiteAdapter, tmp_path / "auth.db"))


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
        home.adapter = home.ada.adapter = home.grace.adapter = store
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
