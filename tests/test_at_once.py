"""``at_once``: a look-up that must not wait says so instead, whichever store it falls to."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, apart, exit_code, fork

from tinyauthstore import ClosedError, MemoryAdapter, ShelveAdapter, SplitAdapter, SQLiteAdapter
from tinyauthstore.transactions import WouldWait, about_to_wait, at_once

MAKERS: dict[str, Callable[[], Any]] = {
    "memory": MemoryAdapter,
    "sqlite": lambda: SQLiteAdapter(":memory:"),
    "split": lambda: SplitAdapter(users=SQLiteAdapter(":memory:"), sessions=MemoryAdapter()),
}
LOOK_UPS: dict[str, Callable[[Any], object]] = {
    "get_user": lambda store: store.get_user("ada"),
    "get_user_by_email": lambda store: store.get_user_by_email("ada@example.com"),
    "get_user_by_account": lambda store: store.get_user_by_account(provider="p", provider_account_id="1"),
    "get_account": lambda store: store.get_account(provider="p", provider_account_id="1"),
    "list_accounts": lambda store: store.list_accounts("ada"),
    "get_session_and_user": lambda store: store.get_session_and_user("token"),
    "touch_session": lambda store: store.touch_session("token"),
    "list_sessions": lambda store: store.list_sessions("ada"),
    "get_authenticator": lambda store: store.get_authenticator("key"),
    "list_authenticators_by_user_id": lambda store: store.list_authenticators_by_user_id("ada"),
}


@pytest.fixture(params=MAKERS)
def store(request: pytest.FixtureRequest) -> Iterator[Any]:
    with MAKERS[request.param]() as store:
        store.create_user(id="ada", email="ada@example.com")
        store.create_session(user_id="ada", session_token="token")
        yield store


@contextmanager
def locked(store: Any) -> Iterator[None]:
    """Meanwhile another thread is in a transaction of it."""
    inside, free = threading.Event(), threading.Event()

    def sit() -> None:
        with store.transaction():
            inside.set()
            assert free.wait(PATIENCE)

    with ThreadPoolExecutor(1) as pool:
        sitting = pool.submit(sit)
        assert inside.wait(PATIENCE)
        try:
            yield
        finally:
            free.set()
            sitting.result()


def waits(*given: object, **named: object) -> Any:
    about_to_wait()
    return given, named


def test_waiting_is_refused_at_once_and_nowhere_else() -> None:
    with pytest.raises(WouldWait):
        at_once(waits)
    assert waits() == ((), {})


def test_arguments_and_fields_of_any_name_arrive() -> None:
    def method(*given: object, **named: object) -> Any:
        return given, named

    assert at_once(method, 1, method=2, self=3) == ((1,), {"method": 2, "self": 3})


def test_an_exception_ends_it_too() -> None:
    with pytest.raises(ZeroDivisionError):
        at_once(lambda: 1 / 0)
    waits()


def test_one_inside_another_does_not_end_the_outer_one() -> None:
    def outer() -> None:
        at_once(int)
        about_to_wait()

    with pytest.raises(WouldWait):
        at_once(outer)


def test_other_threads_may_wait_meanwhile() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert at_once(lambda: pool.submit(waits, 1).result()) == ((1,), {})


@apart
def test_a_forked_child_knows_nothing_of_its_parents_other_threads(tmp_path: Path) -> None:
    """Their ids may be those of its own threads."""
    warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads, which is the point here

    def child() -> None:
        with ThreadPoolExecutor(8) as pool:
            assert len([*pool.map(waits, range(100))]) == 100

    inside, free = threading.Event(), threading.Event()

    def sit() -> None:
        inside.set()
        assert free.wait(PATIENCE)

    with ThreadPoolExecutor(1) as pool:
        sitting = pool.submit(at_once, sit)
        assert inside.wait(PATIENCE)
        process = fork(child)
        free.set()
        sitting.result()
    assert exit_code(process) == 0


@pytest.mark.parametrize("look_up", LOOK_UPS)
def test_a_look_up_is_answered_at_once(store: Any, look_up: str) -> None:
    call = LOOK_UPS[look_up]
    assert at_once(call, store) == call(store)


@pytest.mark.parametrize("look_up", LOOK_UPS)
def test_a_look_up_at_once_does_not_wait_for_a_transaction_of_another_thread(store: Any, look_up: str) -> None:
    call = LOOK_UPS[look_up]
    with locked(store), pytest.raises(WouldWait):
        at_once(call, store)
    at_once(call, store)  # and no lock was left behind


def test_a_look_up_at_once_sees_what_the_transaction_of_its_own_thread_did(store: Any) -> None:
    with store.transaction():
        store.create_user(id="grace")
        assert at_once(store.get_user, "grace").id == "grace"


def test_a_write_at_once_writes_nothing(store: Any) -> None:
    with pytest.raises(WouldWait):
        at_once(store.create_user, id="grace")
    assert store.get_user("grace") is None


@pytest.mark.parametrize("make", [MemoryAdapter, SQLiteAdapter, ShelveAdapter])
def test_closing_at_once_closes(make: Callable[..., Any], tmp_path: Path) -> None:
    """As the garbage collector does, in the middle of anybody's look-up, with a store that was left open."""
    store = make(*[tmp_path / "auth"][: make is not MemoryAdapter])
    store.create_user(id="ada")
    at_once(store.close)
    with pytest.raises(ClosedError):
        store.get_user("ada")
    if make is not MemoryAdapter:
        with make(tmp_path / "auth") as again:
            assert again.get_user("ada").id == "ada" and again.check() == []
