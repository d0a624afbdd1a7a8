"""The conformance kit itself: how it treats adapters that are not like ours."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from guests import Partial
from support import Ending, run_python, run_tests

from tinyauthstore import Adapter, MemoryAdapter, testing
from tinyauthstore.testing import GROUPS, METHODS, AdapterContract, Contract, Loop, Subject

MIXINS = [kind for kind in AdapterContract.__mro__ if "group" in vars(kind)]
TESTS = [name for name in dir(AdapterContract) if name.startswith("test_")]

# --- what it is made of -----------------------------------------------------------------------


def test_no_two_groups_share_the_name_of_a_test() -> None:
    """In the whole contract one would hide the other, which then never runs."""
    names = Counter(name for kind in MIXINS for name in vars(kind) if name.startswith("test_"))
    assert sum(names.values()) > 100
    assert [name for name, count in names.items() if count > 1] == []


def test_every_group_has_tests_and_every_method_a_group() -> None:
    """So that a skip can name what it is about."""
    assert {kind.group for kind in MIXINS} == {*GROUPS}
    assert METHODS >= {name for name in dir(Adapter) if not name.startswith("_")}
    assert sum(map(len, GROUPS.values())) == len(METHODS), "in one group only"


def test_every_test_says_why() -> None:
    """Its docstring stands in the report of a failure."""
    assert [name for name in TESTS if not getattr(AdapterContract, name).__doc__] == []


def test_the_public_names_exist() -> None:
    """And are the groups, the whole, and the clock."""
    groups = {kind.__name__ for kind in MIXINS}
    assert {*testing.__all__} == groups | {"AdapterContract", "FrozenClock", "GROUPS"}
    assert all(hasattr(testing, name) for name in testing.__all__)


def test_without_pytest_the_import_says_what_to_install() -> None:
    """The package itself needs no pytest."""
    script = """\
import sys
sys.modules["pytest"] = None
import tinyauthstore
try:
    import tinyauthstore.testing
except ImportError as error:
    print(error)
"""
    assert "pip install pytest" in run_python(script)


# --- guests -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def endings() -> list[Ending]:
    return run_tests("guests")


def of(endings: list[Ending], guest: str, group: type[Contract] = AdapterContract) -> list[Ending]:
    """How the tests of that group ended for that guest."""
    ended = [one for one in endings if one.suite == f"Test{guest}"]
    found = [one for one in ended if hasattr(group, one.test.partition("[")[0])]
    assert found, "they ran"
    return found


@pytest.mark.parametrize(
    "guest",
    [
        "UsersOnly", "MadeInALoop",
        *(pytest.param(one, marks=pytest.mark.soak) for one in ("WithoutTransactions", "ClaimsUsersOnly", "OneAsyncAdapter")),
    ],
)  # fmt: skip
def test_a_sound_guest_fails_nothing(endings: list[Ending], guest: str) -> None:
    """What it lacks is skipped, and all else passes."""
    assert {one.how for one in of(endings, guest)} <= {"passed", "Skipped"}


def test_a_skip_names_the_missing_method(endings: list[Ending]) -> None:
    """Or an adapter's author would not see what goes untested."""
    texts = {one.test: one.text for one in of(endings, "UsersOnly") if one.how == "Skipped"}
    assert texts["test_a_session_comes_back_with_its_user"] == "Partial has no create_session()"
    assert texts["test_what_happens_inside_stays"] == "Partial has no transaction()"
    assert "make_adapter" in texts["test_ids_come_from_new_id_when_it_is_given"]


def test_the_groups_that_are_there_are_tested(endings: list[Ending]) -> None:
    """Nothing about users is skipped where only users are, but for what needs options."""
    skipped = [one for one in of(endings, "UsersOnly", testing.UserContract) if one.how == "Skipped"]
    assert [one.text for one in skipped if "make_adapter" not in one.text] == []
    assert {one.test for one in skipped} == {"test_ids_come_from_new_id_when_it_is_given"}


def test_the_rest_is_tested_without_transactions(endings: list[Ending]) -> None:
    """Of users, accounts and passkeys, everything that needs no options."""
    for group in (testing.UserContract, testing.AccountContract, testing.AuthenticatorContract):
        skipped = [one for one in of(endings, "WithoutTransactions", group) if one.how == "Skipped"]
        assert [one.test for one in skipped if "make_adapter" not in one.text] == []


def test_an_asynchronous_adapter_may_be_made_in_the_loop(endings: list[Ending]) -> None:
    """By a coroutine function; nothing is skipped for that."""
    assert {one.how for one in of(endings, "MadeInALoop")} == {"passed"}


def test_what_is_no_adapter_is_refused(endings: list[Ending]) -> None:
    """Or it would lack everything, and every test would be skipped."""
    assert {one.how for one in of(endings, "NoAdapter") if "make_adapter" not in one.text} == {"Failed"}


def test_an_undeclared_group_is_skipped(endings: list[Ending]) -> None:
    """Whatever methods there are."""
    sessions = of(endings, "ClaimsUsersOnly", testing.SessionContract)
    assert {(one.how, one.text) for one in sessions} == {("Skipped", "'sessions' is not in capabilities")}
    assert {one.how for one in of(endings, "ClaimsUsersOnly", testing.UserContract)} == {"passed"}


def test_a_declared_group_must_be_whole(endings: list[Ending]) -> None:
    """A missing method is then no reason to skip, but a failure."""
    failed = {one.text for one in of(endings, "ClaimsTooMuch") if one.how not in ("passed", "Skipped")}
    assert failed == {"'Partial' object has no attribute 'delete_session'"}


def test_an_unknown_capability_is_refused_with_the_list_of_known_ones(endings: list[Ending]) -> None:
    """A misspelt one would skip what it was to demand."""
    seen = {(one.how, one.text) for one in of(endings, "ClaimsNonsense")}
    assert seen == {("Failed", f"capabilities may be {', '.join(GROUPS)}; not tokens")}


# --- the bridge -------------------------------------------------------------------------------


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


async def give(value: Any) -> Any:
    return value


def test_what_is_awaitable_is_awaited_and_what_is_not_is_returned(loop: Loop) -> None:
    """In the loop, both."""
    assert loop.run(give, 5) == loop.run(lambda: 5) == 5


def test_a_context_variable_set_in_one_call_is_set_in_the_threads_next(loop: Loop) -> None:
    """An open transaction is known by one; another thread's calls must not be in it."""
    variable = contextvars.ContextVar("variable", default="nothing")
    loop.run(variable.set, "set")
    elsewhere = []
    other = threading.Thread(target=lambda: elsewhere.append(loop.run(variable.get)))
    other.start()
    other.join()
    assert (loop.run(variable.get), elsewhere) == ("set", ["nothing"])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), ValueError()], ids=repr)
def test_any_exception_comes_through_and_the_loop_goes_on(loop: Loop, error: BaseException) -> None:
    """The very object."""

    async def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        loop.run(fail)
    assert caught.value is error
    assert loop.run(give, 5) == 5


def test_a_call_that_hangs_is_an_error(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a test run that never ends; and the loop can be closed all the same."""
    monkeypatch.setattr(testing.tools, "PATIENCE", 0.05)

    with pytest.raises(TimeoutError):
        loop.run(lambda: asyncio.Event().wait())


def test_closing_leaves_no_thread_behind() -> None:
    """And a loop that was never needed never had one."""
    before = threading.active_count()
    loop = Loop()
    assert threading.active_count() == before
    loop.run(give, 5)
    assert threading.active_count() == before + 1
    loop.close()
    assert threading.active_count() == before


def test_a_synchronous_adapter_needs_no_loop(loop: Loop) -> None:
    """Its methods are called as they are."""
    with MemoryAdapter() as adapter:
        assert Subject(adapter, loop).get_user == adapter.get_user


def test_what_an_adapter_lacks_skips(loop: Loop) -> None:
    """Whoever asks for it; a misspelt name is an error."""
    subject = Subject(Partial(GROUPS["users"]), loop)
    with pytest.raises(pytest.skip.Exception, match="create_session"):
        subject.create_session(user_id="ada")
    with pytest.raises(AttributeError):
        subject.create_sesion(user_id="ada")
    subject.close()
