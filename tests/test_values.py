"""What stores make of values that arrive from outside: ages, addresses, providers' answers, Auth.js's objects."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tinyauthstore import (
    Account, InvalidFieldError, MemoryAdapter, ShelveAdapter, SplitAdapter, SQLiteAdapter, User,
)
from tinyauthstore.models import MAX_DEPTH
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


@dataclass(frozen=True, slots=True)
class Prefers(User):
    """With a field that holds JSON."""

    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OddAccount(Account):
    """Fields named as parameters are, here or there on their way."""

    entity: str = ""
    custom: str = ""
    fixed: str = ""
    values: str = ""
    self: str = ""
    response: str = ""
    given: str = ""
    key: str = ""


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


# --- what providers send ----------------------------------------------------------------------

KEY = {"provider": "github", "provider_account_id": "1"}
FIXED: dict[str, Any] = {"user_id": "ada", "type": "oauth", **KEY}


@pytest.mark.parametrize(
    "given, expected", [(7.9, 7), (-0.5, -1), ("007", 7), (2.0**62, 2**62)], ids=repr
)
def test_a_time_in_a_providers_form_becomes_whole_seconds(store: Any, given: Any, expected: int) -> None:
    account = store.link_account(**FIXED, expires_at=given)
    assert (account.expires_at, account.extra) == (expected, {})


@pytest.mark.parametrize("given", ["", "1e9", "+7", "٧", "9" * 19, "9" * 5000, 1e300, -(2.0**64), True], ids=ascii)
def test_what_is_no_time_stays_in_extra(store: Any, given: Any) -> None:
    account = store.link_account(**FIXED, expires_at=given)
    assert (account.expires_at, account.extra) == (None, {"expires_at": given})


def test_a_number_of_more_digits_than_python_writes_is_not_fatal(store: Any) -> None:
    assert store.link_account(**FIXED, big=-(2**20_000)).extra["big"].startswith("-0x1000")


def test_deep_json_is_read_from_deep_in_calls(store: Any) -> None:
    """What a shallow caller wrote: an application's stack is a hundred calls deep before it begins."""
    deep: Any = {}
    for _ in range(3000):
        deep = {"a": deep}
    account = store.link_account(**FIXED, deep=deep)

    def descend(levels: int) -> Any:
        return descend(levels - 1) if levels else store.get_account(**KEY)

    assert descend(400) == account


def test_a_container_that_holds_itself_is_cut(store: Any) -> None:
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    assert "loop" in store.link_account(**FIXED, loop=loop).extra


@pytest.mark.parametrize("levels, fits", [(MAX_DEPTH, True), (MAX_DEPTH + 1, False)])
def test_a_custom_field_is_nested_at_most_so_deep(make: Callable[..., Any], levels: int, fits: bool) -> None:
    deep: Any = {}
    for _ in range(levels - 1):
        deep = {"a": deep}
    store = make(user=Prefers)
    if fits:
        store.create_user(id="ada", settings=deep)
        assert store.get_user("ada").settings == deep
    else:
        with pytest.raises(InvalidFieldError, match=f"at most {MAX_DEPTH} deep"):
            store.create_user(settings=deep)


def test_custom_account_fields_may_have_the_names_of_parameters(make: Callable[..., Any]) -> None:
    store = make(account=OddAccount)
    store.create_user(id="ada")
    odd = dict.fromkeys(["entity", "custom", "fixed", "values", "self", "response", "given", "key"], "kept")
    account = store.link_account(odd, **FIXED)
    assert account == OddAccount(**FIXED, **odd) == store.get_account(**KEY)
    assert store.link_account(**FIXED, **dict.fromkeys(odd, "new")).entity == "new"


def test_a_transferred_account_is_the_same(store: Any) -> None:
    store.create_user(id="grace")
    account = store.link_account({"user_id": "x", "type": 1, "scope": ["a"]}, **FIXED, locale="en")
    store.unlink_account(**KEY)
    moved = store.link_account(**{**dataclasses.asdict(account), "user_id": "grace"})
    assert moved == dataclasses.replace(account, user_id="grace")
