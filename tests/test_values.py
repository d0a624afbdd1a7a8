"""What stores make of values that arrive from outside: ages, addresses, providers' answers, Auth.js's objects."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tinyauthstore import MemoryAdapter, ShelveAdapter, SplitAdapter, SQLiteAdapter
from tinyauthstore.testing import DAY, START, FrozenClock

STORES: dict[str, Callable[..., Any]] = {
    "memory": lambda folder, **options: MemoryAdapter(**options),
    "sqlite": lambda folder, **options: SQLiteAdapter(":memory:", **options),
    "shelve": lambda folder, **options: ShelveAdapter(folder / "shelf", durability="normal", **options),
    "split": lambda folder, **options: SplitAdapter(
        **{role: MemoryAdapter(**options) for role in ("users", "sessions", "verification")}
    ),
}


@pytest.fixture(params=STORES)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    made: list[Any] = []

    def make(**options: Any) -> Any:
        made.append(STORES[request.param](tmp_path, **options))
        return made[-1]

    yield make
    for store in made:
        store.close()


@pytest.fixture
def store(make: Callable[..., Any]) -> Any:
    store = make(clock=FrozenClock())
    store.create_user(id="ada", email="ada@example.com")
    return store


# --- ages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_age", [60, 3600, timedelta(hours=2), 30 * DAY, 365 * DAY], ids=str)
def test_the_update_age_is_a_thirtieth_of_the_age(make: Callable[..., Any], max_age: Any) -> None:
    clock = FrozenClock()
    store = make(clock=clock, session_max_age=max_age)
    token = store.create_session(user_id=store.create_user().id).session_token
    age = max_age if isinstance(max_age, timedelta) else timedelta(seconds=max_age)
    clock.now += age / 30 - timedelta(microseconds=1)
    assert store.touch_session(token).expires == START + age
    clock.now += timedelta(microseconds=1)
    assert store.touch_session(token).expires == clock.now + age


@pytest.mark.parametrize("max_age, update_age", [(3600, 3600), (3600, DAY), (DAY, 90000.0), (0, 0)], ids=str)
def test_an_update_age_must_be_shorter_than_the_age(max_age: Any, update_age: Any) -> None:
    with pytest.raises(ValueError, match="session_update_age.*session_max_age") as caught:
        MemoryAdapter(session_max_age=max_age, session_update_age=update_age)
    assert repr(max_age) in str(caught.value) and repr(update_age) in str(caught.value)


def test_an_age_of_nothing_needs_no_update_age() -> None:
    """Sessions that never live are odd, but say what they do."""
    with MemoryAdapter(session_max_age=0) as store:
        token = store.create_session(user_id=store.create_user().id).session_token
        assert store.get_session_and_user(token) is None


@pytest.mark.parametrize("absolute_age", [timedelta(0), timedelta(hours=1), DAY, 30 * DAY, 31 * DAY], ids=str)
def test_an_absolute_age_may_be_shorter_than_the_others(absolute_age: timedelta) -> None:
    """It is a limit: a session then ends there, touched or not."""
    clock = FrozenClock()
    with MemoryAdapter(clock=clock, session_absolute_age=absolute_age) as store:
        token = store.create_session(user_id=store.create_user().id).session_token
        while (touched := store.touch_session(token)) is not None:
            assert touched.expires <= START + absolute_age
            clock.tick(minutes=30)
        assert clock.now == START + absolute_age


@pytest.mark.parametrize("absolute_age", [7 * DAY, 30 * DAY, 40 * DAY], ids=str)
def test_a_touch_at_the_absolute_end_writes_nothing(tmp_path: Path, absolute_age: timedelta) -> None:
    """Or every request of a session's last month would."""
    clock, path = FrozenClock(), tmp_path / "auth.db"
    with SQLiteAdapter(path, clock=clock, session_absolute_age=absolute_age) as store:
        token = store.create_session(user_id=store.create_user().id).session_token
        while clock.now < START + absolute_age - DAY:
            clock.tick(days=1)
            store.touch_session(token)
        watcher = sqlite3.connect(path)
        commits = []
        for _ in range(5):
            clock.tick(hours=4)
            assert store.touch_session(token).expires == START + absolute_age  # type: ignore[union-attr]
            commits.append(watcher.execute("PRAGMA data_version").fetchone())
        watcher.close()
        assert len({*commits}) == 1


def test_the_last_part_of_the_absolute_age_is_not_lost() -> None:
    """An extension that the absolute age cuts to less than an update age is made all the same."""
    clock = FrozenClock()
    with MemoryAdapter(clock=clock, session_absolute_age=30.5 * DAY) as store:
        token = store.create_session(user_id=store.create_user().id).session_token
        clock.tick(days=29)
        assert store.touch_session(token).expires == START + 30.5 * DAY  # type: ignore[union-attr]


# --- addresses that change --------------------------------------------------------------------


@pytest.mark.parametrize("email", ["countess@example.com", None])
def test_another_address_is_not_verified(store: Any, email: str | None) -> None:
    store.update_user("ada", email_verified=START)
    assert store.update_user("ada", email=email).email_verified is None
    assert store.get_user("ada").email_verified is None


def test_the_same_address_in_another_spelling_stays_verified(store: Any) -> None:
    store.update_user("ada", email_verified=START)
    assert store.update_user("ada", email=" ADA@example.com").email_verified == START
    assert store.get_user("ada").email_verified == START
