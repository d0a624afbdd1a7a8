"""The conformance kit: what ``tinyauthstore.Adapter`` promises, as tests that any adapter's author inherits::

    import pytest
    from tinyauthstore.testing import AdapterContract

    class TestMyAdapter(AdapterContract):
        @pytest.fixture
        def make_adapter(self):
            return MyAdapter  # called with options, such as clock=; makes a new, empty adapter

An adapter without options overrides the fixture ``adapter`` instead, with one new, empty adapter; tests
that need options are then skipped. To leave out a single option, call ``pytest.skip`` where it is given.
Either way the adapter is closed after the test.

It may be asynchronous: where its methods are coroutine functions, all that they return is awaited, and
``transaction()`` is entered by ``async with``. One that must be made inside a running event loop is made by
a coroutine function.

A test that needs a method which the adapter lacks is skipped, and says so (``pytest -rs``). So that nothing
is skipped by mistake, name what is kept, of ``GROUPS``: ``capabilities = {"users", "sessions"}`` in the
class skips all other groups, and makes a missing method of these a failure. ``test_... = None`` there
leaves out a single test.

A failing test's docstring gives the reason for the demand. Numbers such as [next-auth#6821] name the bug
report that it goes back to, "ASVS" is OWASP's Application Security Verification Standard 5.0. Times come
from ``FrozenClock``; nothing sleeps. Where the package is vendored, not installed, say
``pytest.register_assert_rewrite("tinyauthstore.testing")`` in ``conftest.py`` to see the values compared.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import dataclasses
import functools
import gc
import hashlib
import inspect
import json
import math
import re
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import copy_context
from datetime import date, datetime, timedelta, timezone, tzinfo
from types import NoneType
from typing import Any, ClassVar

try:
    import pytest
except ImportError as error:
    raise ImportError("tinyauthstore.testing needs pytest: pip install pytest") from error

from .contract import Adapter, AuthenticatorStore, SessionStore, UserStore, VerificationStore
from .errors import (
    AuthStoreError, ClosedError, ConflictError, CounterRegressionError, InvalidFieldError, NotFoundError,
)
from .models import Account, Authenticator, Purged, Session, SessionAndUser, User, VerificationToken

__all__ = [
    "GROUPS",
    "AccountContract",
    "AdapterContract",
    "AuthenticatorContract",
    "ConcurrencyContract",
    "CustomModelContract",
    "FrozenClock",
    "LifecycleContract",
    "SessionContract",
    "StrangerContract",
    "TimeContract",
    "TransactionContract",
    "UserContract",
    "VerificationContract",
]

UTC = timezone.utc
DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)
START = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
NAIVE = datetime(2026, 1, 2, 3, 4, 5)
INDIA = timezone(timedelta(hours=5, minutes=30))
FAR = datetime(2286, 11, 20, 17, 46, 39, 999999, UTC)
SURROGATE = "\ud800"  # half a character: a str in Python, but no UTF-8
NOBODY = "nobody"
Call = Callable[..., Any]

NOTHING = {
    "list_accounts": [], "list_sessions": [], "list_authenticators_by_user_id": [],
    "revoke_session": False, "revoke_sessions": 0, "delete_verification_tokens": 0,
}
"""What the methods answer where there is nothing, if that is not None."""


def _methods(protocol: type) -> frozenset[str]:
    """The names that a protocol itself demands."""
    demanded = vars(protocol).items()
    return frozenset(name for name, value in demanded if getattr(value, "__isabstractmethod__", False))


_ACCOUNTS = frozenset(name for name in _methods(UserStore) if "account" in name)

GROUPS: dict[str, frozenset[str]] = {
    "users": _methods(UserStore) - _ACCOUNTS,
    "accounts": _ACCOUNTS,
    "sessions": _methods(SessionStore),
    "verification": _methods(VerificationStore),
    "authenticators": _methods(AuthenticatorStore),
    "transactions": frozenset({"transaction"}),
    "lifecycle": _methods(Adapter) - {"transaction"},
    "strangers": frozenset(),
    "times": frozenset(),
    "custom models": frozenset(),
    "concurrency": frozenset(),
}
"""What an adapter may be capable of, and the methods that each of these adds."""

METHODS = frozenset[str]().union(*GROUPS.values())


# --- tools ------------------------------------------------------------------------------------


class FrozenClock:
    """A clock that stands still until it is told to tick. Calling it gives an aware UTC datetime."""

    def __init__(self, now: datetime = START) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def tick(self, **by: float) -> datetime:
        """Go on (or back) by what ``timedelta`` takes, such as ``days=31, microseconds=1``; the new time."""
        self.now += timedelta(**by)
        return self.now


PATIENCE = 60.0
"""Seconds after which an asynchronous call counts as stuck."""


class Loop:
    """An event loop on a thread of its own, begun when it is first needed."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._caller = threading.local()
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, call: Call, /, *arguments: Any, **fields: Any) -> Any:
        """What ``call`` returns or raises, awaited if need be, as a task of the loop.

        All calls from one thread share a context: to a ``ContextVar``, such as one that knows the open
        transaction, a thread of the tests is what a task is in an application.
        """
        self._start()
        if not hasattr(self._caller, "context"):
            self._caller.context = copy_context()
        context, answer = self._caller.context, Future[Any]()

        async def task() -> None:
            try:
                result = call(*arguments, **fields)
                answer.set_result(await result if inspect.isawaitable(result) else result)
            except BaseException as error:  # KeyboardInterrupt too, which would end the loop
                answer.set_exception(error)

        def begin() -> None:
            begun = self._loop.create_task(task(), context=context)
            self._tasks.add(begun)  # the loop itself keeps no hold on it
            begun.add_done_callback(self._tasks.discard)

        self._loop.call_soon_threadsafe(begin)
        return answer.result(PATIENCE)

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                begun = threading.Event()
                self._thread = threading.Thread(target=asyncio.run, args=(self._serve(begun),), daemon=True)
                self._thread.start()
                begun.wait()

    async def _serve(self, begun: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        begun.set()
        await self._stop.wait()

    def close(self) -> None:
        """End the loop, with whatever still runs there."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(PATIENCE)


class Block:
    """A ``with`` block of an adapter's, asynchronous or not: a transaction, or the adapter itself."""

    def __init__(self, subject: Subject, manager: Any) -> None:
        self._subject = subject
        self._enter = getattr(manager, "__aenter__", None) or manager.__enter__
        self._exit = getattr(manager, "__aexit__", None) or manager.__exit__

    def __enter__(self) -> Any:
        entered = self._subject._call(self._enter)
        return self._subject if entered is self._subject._adapter else entered

    def __exit__(self, *error: object) -> bool | None:
        handled: bool | None = self._subject._call(self._exit, *error)
        return handled


class Subject:
    """An adapter as the tests see it: synchronous, and what it lacks skips the test that asks for it."""

    def __init__(self, adapter: Any, loop: Loop, capabilities: Collection[str] | None = None) -> None:
        self._adapter = adapter
        self._capabilities = capabilities
        if not any(hasattr(adapter, name) for name in METHODS - GROUPS["lifecycle"]):
            pytest.fail(f"the fixture must give an adapter; this has none of its methods: {adapter!r}")
        awaited = any(inspect.iscoroutinefunction(getattr(adapter, name, None)) for name in METHODS)
        self._loop = loop if awaited else None

    def __repr__(self) -> str:
        return repr(self._adapter)

    def _demand(self, name: str) -> None:
        if lack := self._lack(name):
            pytest.skip(lack)

    def __getattr__(self, name: str) -> Any:
        if name in METHODS:
            self._demand(name)
        value = getattr(self._adapter, name)
        return value if self._loop is None else functools.partial(self._loop.run, value)

    def transaction(self) -> Block:
        return Block(self, self.__getattr__("transaction")())

    def __enter__(self) -> Any:
        self._demand("__enter__")
        return Block(self, self._adapter).__enter__()

    def __exit__(self, *error: object) -> bool | None:
        return Block(self, self._adapter).__exit__(*error)

    def _call(self, call: Call, *arguments: Any) -> Any:
        return call(*arguments) if self._loop is None else self._loop.run(call, *arguments)

    def _shut(self) -> None:
        """Close it, if that can be done."""
        if close := getattr(self._adapter, "close", None):
            self._call(close)

    def _lack(self, name: str) -> str | None:
        """Why the adapter is not asked for that method; None if it is."""
        if self._capabilities is None:
            names = (name, name.replace("__", "__a", 1))  # __aenter__ for __enter__
            known = any(hasattr(self._adapter, one) for one in names)
            return None if known else f"{type(self._adapter).__name__} has no {name}()"
        group = next(group for group, methods in GROUPS.items() if name in methods)
        return None if group in self._capabilities else f"{name}() needs {group!r} in capabilities"


def offers(store: Any, name: str) -> bool:
    """Whether the store has that method; for tests that can do without it."""
    return store._lack(name) is None if isinstance(store, Subject) else hasattr(store, name)


def problems(store: Any) -> list[str]:
    """What ``check()`` finds, if there is one."""
    return [*store.check()] if offers(store, "check") else []


def each(cases: dict[str, Any]) -> pytest.MarkDecorator:
    """Run the test once with each value of ``cases`` as ``case``, under the name of its key."""
    return pytest.mark.parametrize("case", list(cases.values()), ids=list(cases))


def race(count: int, call: Call) -> list[Any]:
    """What ``call(i)`` returned, or raised, in each of ``count`` threads that set off together."""
    start = threading.Barrier(count)

    def run(i: int) -> Any:
        start.wait()
        try:
            return call(i)
        except Exception as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


class Undo(Exception):
    """Raised inside a transaction to roll it back."""


def undone(store: Any, call: Call) -> Any:
    """What ``call()`` returns, its effects rolled back: a look at what only a write can show."""
    result = None
    with pytest.raises(Undo), store.transaction():
        result = call()
        raise Undo
    return result


def register(store: Any, user_id: str, credential_id: str = "credential", **fields: Any) -> Any:
    """``create_authenticator`` with something in every field that must be given."""
    given = dict(
        provider_account_id=credential_id, credential_public_key="a2V5", counter=1,
        credential_device_type="multiDevice", credential_backed_up=True,
    )
    return store.create_authenticator(user_id=user_id, credential_id=credential_id, **given | fields)


def link(store: Any, user_id: str, account_id: str = "1", provider: str = "github", **tokens: Any) -> Any:
    """``link_account`` for an OAuth account."""
    return store.link_account(
        user_id=user_id, type="oauth", provider=provider, provider_account_id=account_id, **tokens
    )


def looked_up(store: Any, session: Any) -> Any:
    """The session, looked up so often that a store which keeps what is asked for keeps this one: it must notice
    every write that follows."""
    for _ in range(3):
        store.get_session_and_user(session.session_token)
    return session


class Resident:
    """A user whose id is ``name``, with three accounts, sessions, authenticators and pending tokens."""

    MADE_BY = {
        "accounts": "link_account", "sessions": "create_session",
        "authenticators": "create_authenticator", "tokens": "create_verification_token",
    }

    def __init__(self, store: Any, name: str) -> None:
        self.store = store
        self.user = store.create_user(id=name, email=f"{name}@example.com", email_verified=START)
        self.id = name
        given = [f"{name}-{i}" for i in "123"]
        if offers(store, "link_account"):
            self.accounts = [link(store, name, one, access_token="access", is_admin=False) for one in given]
        if offers(store, "create_session"):
            tokens = (f"{one}-session" for one in given)
            made = (store.create_session(user_id=name, session_token=token) for token in tokens)
            self.sessions = [looked_up(store, session) for session in made]
        if offers(store, "create_authenticator"):
            self.authenticators = [register(store, name, one) for one in given]
        if offers(store, "create_verification_token"):
            pairs = ({"identifier": self.user.email, "token": f"{one}-token"} for one in given)
            self.tokens = [store.create_verification_token(**pair) for pair in pairs]

    def __getattr__(self, name: str) -> Any:
        """Records that the store does not make: the test that asks for them is skipped, as for the method."""
        if name not in self.MADE_BY:
            raise AttributeError(name)
        return getattr(self.store, self.MADE_BY[name])

    def state(self) -> list[Any]:
        """All that the contract lets one see of this user."""
        a = self.store
        accounts, sessions, authenticators, tokens = (vars(self).get(name, []) for name in self.MADE_BY)
        return [
            a.get_user(self.id),
            a.get_user_by_email(self.user.email),
            accounts and [*a.list_accounts(self.id)],
            [a.get_account(**key(account)) for account in accounts],
            [a.get_user_by_account(**key(account)) for account in accounts],
            sessions and [*a.list_sessions(self.id)],
            [a.get_session_and_user(session.session_token) for session in sessions],
            authenticators and [*a.list_authenticators_by_user_id(self.id)],
            [a.get_authenticator(one.credential_id) for one in authenticators],
            tokens and offers(a, "transaction") and undone(a, lambda: [use(a, token) for token in tokens]),
        ]


class Household:
    """Ada and Grace, each a ``Resident``, and what the store shows of both."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.ada, self.grace = Resident(store, "ada"), Resident(store, "grace")

    def state(self) -> list[Any]:
        return [self.ada.state(), self.grace.state()]


def key(account: Account) -> dict[str, str]:
    """The two arguments that name an account."""
    return {"provider": account.provider, "provider_account_id": account.provider_account_id}


def use(store: Any, token: VerificationToken) -> Any:
    """Redeem ``token``."""
    return store.use_verification_token(identifier=token.identifier, token=token.token)


class Contract:
    """The fixtures that all groups share. Override ``make_adapter`` or ``adapter``, and no other."""

    group: ClassVar[str]

    capabilities: ClassVar[Collection[str] | None] = None
    """Of ``GROUPS``, those that the adapter keeps; None: all, as far as it has the methods."""

    @pytest.fixture
    def make_adapter(self) -> Call:
        """Override: a callable that takes an adapter's options and returns a new, empty adapter."""
        pytest.skip("override the fixture make_adapter to run what needs options, such as clock=")

    @pytest.fixture
    def adapter(self, make_adapter: Call) -> Any:
        """Override, where ``make_adapter`` is not: one new, empty adapter."""
        return make_adapter()

    @pytest.fixture(autouse=True)
    def _capable(self, request: pytest.FixtureRequest) -> None:
        """Skip what the class does not claim to keep."""
        if self.capabilities is not None:
            if unknown := {*self.capabilities} - {*GROUPS}:
                pytest.fail(f"capabilities may be {', '.join(GROUPS)}; not {', '.join(unknown)}")
            test, kinds = request.function.__name__, reversed(type(self).__mro__)
            group = next(vars(kind).get("group") for kind in kinds if test in vars(kind))
            if group is not None and group not in self.capabilities:
                pytest.skip(f"{group!r} is not in capabilities")

    @pytest.fixture
    def wrap(self) -> Iterator[Call]:
        """Makes of an adapter, or of a coroutine that makes one, what tests can use."""
        loop = Loop()

        def wrap(made: Any) -> Subject:
            if inspect.isawaitable(made):
                made = loop.run(lambda: made)
            return Subject(made, loop, self.capabilities)

        yield wrap
        loop.close()

    @pytest.fixture
    def shut(self) -> Iterator[Call]:
        """Has what it is given closed after the test, and returns it."""
        with ExitStack() as stack:

            def shut(store: Subject) -> Subject:
                stack.callback(store._shut)
                return store

            yield shut

    @pytest.fixture
    def build(self, make_adapter: Call, wrap: Call, shut: Call) -> Call:
        """``make_adapter``, as tests can use it; whatever it makes is closed after the test."""
        return lambda **options: shut(wrap(make_adapter(**options)))

    @pytest.fixture
    def store(self, adapter: Any, wrap: Call, shut: Call) -> Any:
        """``adapter``, as tests can use it; closed after the test."""
        return shut(wrap(adapter))

    @pytest.fixture
    def ada(self, store: Any) -> Any:
        return store.create_user(email="ada@example.com", name="Ada")

    @pytest.fixture
    def grace(self, store: Any) -> Any:
        return store.create_user(email="grace@example.com", name="Grace")

    @pytest.fixture
    def home(self, store: Any) -> Household:
        return Household(store)

    @pytest.fixture
    def clock(self) -> FrozenClock:
        return FrozenClock()

    @pytest.fixture
    def timed(self, build: Call, clock: FrozenClock) -> Any:
        """A store on the frozen clock, with the ages that tests reckon with, purging only when told to."""
        return build(
            clock=clock, session_max_age=30 * DAY, session_update_age=DAY, verification_max_age=600,
            purge_interval=None,
        )


# --- users ------------------------------------------------------------------------------------

SAME_ADDRESS = {
    "case": ("Ada@Example.COM", "ada@example.com"),
    "blanks around": ("\t ada@example.com \n", "ada@example.com"),
    "other blanks around": ("\u00a0ada@example.com\u3000", "ada@example.com"),
    "full-width letters": ("ＡＤＡ@example.com", "ada@example.com"),
    "full-width at sign": ("ada＠example.com", "ada@example.com"),
    "ligature": ("e\ufb03e@example.com", "effie@example.com"),
    "composed and combining": ("zo\u00eb@example.com", "zoe\u0308@example.com"),
    "dotted capital I": ("\u0130@example.com", "i\u0307@example.com"),
    "Kelvin sign": ("\u212a@example.com", "k@example.com"),
    "capital beyond ASCII": ("Ö@example.com", "ö@example.com"),
    "capital without a composed form": ("J\u030c@example.com", "\u01f0@example.com"),
}

OTHER_ADDRESS = {
    "another domain": ("ada@example.com", "ada@example.org"),
    "tag": ("ada@example.com", "ada+news@example.com"),
    "dot": ("ada.l@example.com", "adal@example.com"),
    "sharp s": ("stra\u00dfe@example.com", "strasse@example.com"),
    "dotless i": ("\u0131@example.com", "i@example.com"),
    "accent": ("\u00e9@example.com", "e@example.com"),
}


class UserContract(Contract):
    """Users, found by id and by e-mail address."""

    group = "users"

    def test_a_created_user_comes_back_as_it_was_returned(self, store: Any) -> None:
        """What ``create_user`` returns is what is stored, by id and by address."""
        given: dict[str, Any] = {"email": "Ada@Example.com", "name": "Ada 🦄", "email_verified": FAR}
        given["image"] = "https://example.com"
        ada = store.create_user(**given)
        assert ada == User(id=ada.id, **given)
        assert store.get_user(ada.id) == store.get_user_by_email("Ada@Example.com") == ada

    def test_a_user_needs_no_field_at_all(self, store: Any) -> None:
        """Guests and passkey-only users have no address; the id is made."""
        guest = store.create_user()
        assert guest.id
        assert guest == User(id=guest.id)
        assert store.get_user(guest.id) == guest

    def test_an_unknown_user_is_none(self, store: Any, ada: User) -> None:
        """Absence is an answer, not an error."""
        assert store.get_user(NOBODY) is None
        assert store.get_user_by_email("nobody@example.com") is None
        assert store.delete_user(NOBODY) is None

    def test_a_given_id_is_kept_verbatim(self, store: Any) -> None:
        """An application that brings its own ids must find them again. [better-auth#2881]"""
        odd = "Ünïcode:'; DROP TABLE users; --\0"
        assert store.create_user(id=odd).id == odd
        assert store.get_user(odd).id == odd

    def test_ids_are_compared_exactly(self, store: Any) -> None:
        """Only addresses are folded: ids that look alike are two users."""
        alike = ["ada", "Ada", "ada ", "\u00e9", "e\u0301", "42", "042"]
        for user_id in alike:
            store.create_user(id=user_id, name=repr(user_id))
        assert [store.get_user(user_id).name for user_id in alike] == [*map(repr, alike)]

    def test_made_ids_differ(self, store: Any) -> None:
        """A hundred users, a hundred ids."""
        assert len({store.create_user().id for _ in range(100)}) == 100

    def test_ids_come_from_new_id_when_it_is_given(self, build: Call) -> None:
        """So that tests and applications decide what an id looks like."""
        assert build(new_id=iter(["one", "two"]).__next__).create_user().id == "one"

    @each(SAME_ADDRESS)
    def test_spellings_of_one_address_are_one_user(self, store: Any, case: Any) -> None:
        """Found and unique by the normal form: NFKC, lower case, trimmed. [langfuse#393, better-auth#7806]"""
        for stored, asked in (case, case[::-1]):
            user = store.create_user(email=stored)
            assert user.email == stored, "the spelling is kept"
            assert store.get_user_by_email(asked) == user
            with pytest.raises(ConflictError):
                store.create_user(email=asked)
            store.delete_user(user.id)

    @each(OTHER_ADDRESS)
    def test_other_addresses_are_other_users(self, store: Any, case: Any) -> None:
        """Folding more than the normal form would sign people in as somebody else."""
        first, second = (store.create_user(email=email) for email in case)
        assert [store.get_user_by_email(email).id for email in case] == [first.id, second.id]

    def test_two_users_may_have_no_address(self, store: Any) -> None:
        """No address is not an address that could be taken, nor one that could be looked up."""
        assert store.create_user(email=None).id != store.create_user(email=None).id
        assert store.get_user_by_email("None") is None
        assert store.get_user_by_email("") is None

    def test_an_update_changes_only_the_fields_named(self, store: Any) -> None:
        """A partial update that nulls the rest loses data. [nextauthjs/adapters#165, better-auth#394]"""
        ada = store.create_user(email="ada@example.com", name="Ada", image="i", email_verified=START)
        for change in ({"name": "A."}, {"image": "j"}, {"email_verified": FAR}, {"email": "a@example.com"}):
            ada = dataclasses.replace(ada, **change)
            assert store.update_user(ada.id, **change) == store.get_user(ada.id) == ada

    @pytest.mark.parametrize("field", ["email", "name", "image", "email_verified"])
    def test_none_clears_a_field(self, store: Any, field: str) -> None:
        """None is a value, not the absence of one."""
        ada = store.create_user(email="ada@example.com", name="Ada", image="i", email_verified=START)
        cleared = dataclasses.replace(ada, **{field: None})
        assert store.update_user(ada.id, **{field: None}) == store.get_user(ada.id) == cleared

    def test_an_update_keeps_all_that_belongs_to_the_user(self, store: Any, home: Household) -> None:
        """A row that is replaced instead of updated takes the user's sessions along."""
        before = home.state()
        for name in ("new", home.ada.user.name):
            store.update_user(home.ada.id, name=name)
        assert home.state() == before

    def test_an_update_of_nothing_changes_nothing(self, store: Any, ada: User) -> None:
        """The user as it is; an unknown one is still an error."""
        assert store.update_user(ada.id) == store.get_user(ada.id) == ada
        with pytest.raises(NotFoundError):
            store.update_user(NOBODY)

    def test_a_changed_address_frees_the_old_one(self, store: Any, ada: User) -> None:
        """The old address resolves no longer, and may be taken. [Upstash and Unstorage adapters]"""
        store.update_user(ada.id, email="countess@example.com")
        assert store.get_user_by_email("ada@example.com") is None
        assert store.get_user_by_email("COUNTESS@example.com").id == ada.id
        assert store.create_user(email="ada@example.com").id != ada.id

    def test_a_cleared_address_is_free(self, store: Any, ada: User) -> None:
        """As a changed one."""
        store.update_user(ada.id, email=None)
        assert store.get_user_by_email("ada@example.com") is None
        assert store.create_user(email="ada@example.com")

    def test_a_user_may_respell_the_own_address(self, store: Any, ada: User) -> None:
        """One does not conflict with oneself."""
        assert store.update_user(ada.id, email="ADA@example.com").email == "ADA@example.com"
        assert store.get_user_by_email("ada@example.com").email == "ADA@example.com"

    def test_deleting_returns_the_user_once(self, store: Any, ada: User, grace: User) -> None:
        """A second delete is harmless [next-auth#7936]; others stay, the address is free."""
        assert store.delete_user(ada.id) == ada
        assert store.delete_user(ada.id) is None
        assert store.get_user(ada.id) is store.get_user_by_email("ada@example.com") is None
        assert store.get_user(grace.id) == grace
        assert store.create_user(email="ada@example.com")

    def test_a_deleted_user_leaves_no_trace(self, store: Any, home: Household) -> None:
        """Three of each kind go: stores that index only the last one keep the others. [Upstash, Unstorage]"""
        assert store.delete_user(home.ada.id) == home.ada.user
        nothing = [None, None, [], [None] * 3, [None] * 3, [], [None] * 3, [], [None] * 3, [None] * 3]
        for seen, absent in zip(home.ada.state(), nothing):
            assert not seen or seen == absent, f"left behind by delete_user: {seen}"

    def test_a_deleted_user_takes_nothing_of_others_along(self, store: Any, home: Household) -> None:
        """All of Grace's stays, exactly."""
        before = home.grace.state()
        store.delete_user(home.ada.id)
        assert home.grace.state() == before

    def test_a_user_created_anew_inherits_nothing(self, store: Any, home: Household) -> None:
        """The same id and address later is a new user, with none of the old one's sessions."""
        store.delete_user(home.ada.id)
        again = store.create_user(id=home.ada.id, email=home.ada.user.email)
        assert [*home.ada.state()][:2] == [again, again]
        assert not any(map(any, filter(None, home.ada.state()[3:])))


# --- accounts ---------------------------------------------------------------------------------


class AccountContract(Contract):
    """Accounts at identity providers, linked to users."""

    group = "accounts"

    def test_a_linked_account_comes_back_as_it_was_returned(self, store: Any, ada: User) -> None:
        """Every field that OAuth knows, by its key and in the user's list."""
        tokens: dict[str, Any] = {
            "refresh_token": "r", "access_token": "a", "id_token": "i", "token_type": "bearer",
            "scope": "openid email", "session_state": "s", "expires_at": 1_900_000_000,
        }
        account = link(store, ada.id, "42", **tokens)
        assert account == Account(
            user_id=ada.id, type="oauth", provider="github", provider_account_id="42", **tokens
        )
        assert store.get_account(**key(account)) == account
        assert store.list_accounts(ada.id) == [account]
        assert store.get_user_by_account(**key(account)) == ada

    def test_an_unknown_account_is_none(self, store: Any, ada: User) -> None:
        """Both halves of the key must fit."""
        link(store, ada.id, "42", provider="github")
        for provider, account_id in (("github", "43"), ("gitlab", "42"), ("42", "github")):
            unknown = {"provider": provider, "provider_account_id": account_id}
            assert store.get_account(**unknown) is None
            assert store.get_user_by_account(**unknown) is None
            assert store.unlink_account(**unknown) is None
        assert store.list_accounts(NOBODY) == []

    def test_a_users_accounts_are_listed_by_provider(self, store: Any, ada: User, grace: User) -> None:
        """In one order everywhere, and only the user's own."""
        pairs = [("b", "1"), ("a", "2"), ("a", "10"), ("B", "1")]
        for provider, account_id in pairs:
            link(store, ada.id, account_id, provider)
        link(store, grace.id, "3", "a")
        listed = [(one.provider, one.provider_account_id) for one in store.list_accounts(ada.id)]
        assert listed == sorted(pairs)

    def test_linking_again_refreshes_what_is_given_and_keeps_the_rest(self, store: Any, ada: User) -> None:
        """Every sign-in brings new tokens, most of them no new refresh token. [next-auth#3599, #9721]"""
        first = link(store, ada.id, access_token="old", refresh_token="keep", scope="s", team="red", tier=1)
        again = link(store, ada.id, access_token="new", scope=None, team="blue")
        assert (again.access_token, again.refresh_token, again.scope) == ("new", "keep", None)
        assert again.extra == {"team": "blue", "tier": 1}
        assert store.list_accounts(ada.id) == [again] != [first]

    def test_what_no_field_names_is_kept_in_extra(self, store: Any, ada: User) -> None:
        """Unknown keys from a provider must not break a sign-in. [next-auth#6708, #5460]"""
        sent: dict[str, Any] = {
            "refresh_token_expires_in": 5184000, "not-before-policy": 0, "self": "s", "id": 7, "cls": "c",
            "user": {"names": ["Ada", None, True, 1.5]}, "half": SURROGATE, "email": "x", "": "empty",
            "created_at": 1_700_000_000, "name": "A", "args": [], "kwargs": {}, "tokens": "t", "__class__": 1,
        }
        account = link(store, ada.id, **copy.deepcopy(sent))
        assert account.extra == sent
        assert store.get_account(**key(account)).extra == sent

    def test_a_mapping_called_extra_is_the_extra(self, store: Any, ada: User) -> None:
        """So that an account read elsewhere can be linked as it is; unknown keys join it."""
        assert link(store, ada.id, extra={"team": "red"}, tier=1).extra == {"team": "red", "tier": 1}

    @each({"text": "soon", "number": 1, "list": [1], "none": None})
    def test_a_provider_may_send_a_key_called_extra(self, store: Any, ada: User, case: Any) -> None:
        """Whatever it is, it is kept under its name."""
        account = link(store, ada.id, extra=case)
        assert account.extra == {"extra": case}
        assert store.get_account(**key(account)) == account

    @each(
        {
            "text for a number": ("expires_at", "3600"),
            "fraction for a number": ("expires_at", 3599.5),
            "huge number": ("expires_at", 10**30),
            "truth for a number": ("expires_at", True),
            "list for a text": ("scope", ["openid", "email"]),
            "number for a text": ("session_state", 5),
            "half a character": ("access_token", SURROGATE),
        }
    )
    def test_a_value_of_the_wrong_type_is_kept_and_never_fatal(
        self, store: Any, ada: User, case: Any
    ) -> None:
        """Nothing that a provider sends is dropped or fatal: it lies in ``extra``, the field is empty."""
        field, value = case
        account = link(store, ada.id, **{field: value})
        assert (getattr(account, field), account.extra) == (None, {field: value})
        assert store.get_account(**key(account)) == account

    def test_a_number_that_json_lacks_is_never_fatal(self, store: Any, ada: User) -> None:
        """Python's ``json.loads`` reads NaN and Infinity, so a provider's answer may hold them."""
        account = link(store, ada.id, **json.loads('{"score": NaN, "limit": Infinity, "team": "red"}'))
        assert account.extra["team"] == "red"
        assert {"score", "limit"} <= account.extra.keys()

    def test_a_fitting_value_replaces_an_unfitting_one(self, store: Any, ada: User) -> None:
        """A field and its namesake in ``extra`` never contradict each other."""
        link(store, ada.id, expires_at=1, scope="s")
        unfitting = link(store, ada.id, expires_at="soon")
        assert (unfitting.expires_at, unfitting.extra) == (None, {"expires_at": "soon"})
        fitting = link(store, ada.id, expires_at=2)
        assert (fitting.expires_at, fitting.extra, fitting.scope) == (2, {}, "s")

    def test_unlinking_returns_the_account_once(self, store: Any, ada: User) -> None:
        """The second time there is none; the user and the other accounts stay."""
        account, other = link(store, ada.id, "1"), link(store, ada.id, "2")
        assert store.unlink_account(**key(account)) == account
        assert store.unlink_account(**key(account)) is None
        assert store.list_accounts(ada.id) == [other]
        assert store.get_user(ada.id) == ada

    def test_an_unlinked_account_may_go_to_another_user(self, store: Any, ada: User, grace: User) -> None:
        """It is free, and nothing of its former life sticks to it."""
        account = link(store, ada.id, access_token="old", team="red")
        store.unlink_account(**key(account))
        assert link(store, grace.id) == Account(grace.id, "oauth", "github", "1")
        assert store.get_user_by_account(**key(account)) == grace
        assert store.list_accounts(ada.id) == []

    def test_provider_and_account_id_are_not_joined(self, store: Any, ada: User, grace: User) -> None:
        """("a:b", "c") and ("a", "b:c") are two accounts, whatever the separator. [Upstash]"""
        for separator in ":/|\0\n":
            first = link(store, ada.id, "c", provider=f"a{separator}b")
            second = link(store, grace.id, f"b{separator}c", provider="a")
            assert store.get_user_by_account(**key(first)) == ada
            assert store.get_user_by_account(**key(second)) == grace


# --- sessions ---------------------------------------------------------------------------------

ON_A_SESSION: dict[str, Call] = {
    "get_session_and_user": lambda a, s: a.get_session_and_user(s.session_token),
    "update_session": lambda a, s: a.update_session(s.session_token, expires=FAR),
    "touch_session": lambda a, s: a.touch_session(s.session_token),
    "rotate_session": lambda a, s: a.rotate_session(s.session_token),
    "delete_session": lambda a, s: a.delete_session(s.session_token),
    "list_sessions": lambda a, s: a.list_sessions(s.user_id),
    "revoke_session": lambda a, s: a.revoke_session(s.user_id, s.id),
    "revoke_sessions": lambda a, s: a.revoke_sessions(s.user_id),
}
"""What can be done about a session."""

BY_TOKEN = [*ON_A_SESSION][:5]


class SessionContract(Contract):
    """Signed-in devices, found by a token that the store does not know."""

    group = "sessions"

    @pytest.fixture
    def session(self, timed: Any) -> Any:
        """A session of 30 days, and nothing else."""
        return looked_up(timed, timed.create_session(user_id=timed.create_user(email="ada@example.com").id))

    def test_a_session_comes_back_with_its_user(self, store: Any, ada: User) -> None:
        """What ``create_session`` returned, found by its token."""
        session = store.create_session(user_id=ada.id, expires=FAR)
        found = store.get_session_and_user(session.session_token)
        assert isinstance(found, SessionAndUser)
        assert found == (session, ada)
        assert (session.user_id, session.expires) == (ada.id, FAR)

    @pytest.mark.parametrize("method", ON_A_SESSION)
    def test_an_unknown_session_is_nothing(self, store: Any, method: str) -> None:
        """Absence is an answer, not an error."""
        assert ON_A_SESSION[method](store, Session(NOBODY, NOBODY, FAR, id=NOBODY)) == NOTHING.get(method)

    def test_a_session_lives_for_session_max_age(self, timed: Any, session: Session) -> None:
        """Counted from the clock's now; ``created_at`` is that now."""
        assert (session.created_at, session.expires) == (START, START + 30 * DAY)

    def test_an_age_may_be_seconds_or_a_timedelta(self, build: Call, clock: FrozenClock) -> None:
        """Both mean the same; fractions of seconds count."""
        for age in (1.5, timedelta(seconds=1.5)):
            store = build(clock=clock, session_max_age=age, verification_max_age=age)
            session = store.create_session(user_id=store.create_user().id)
            token = store.create_verification_token(identifier="x")
            assert session.expires == token.expires == START + timedelta(seconds=1.5)

    def test_an_endless_age_does_not_overflow(self, build: Call, clock: FrozenClock) -> None:
        """An application's "for ever" ends with the calendar, at creation and at every use."""
        store = build(clock=clock, session_max_age=timedelta.max, verification_max_age=timedelta.max)
        session = store.create_session(user_id=store.create_user().id)
        clock.tick(days=400)
        assert store.get_session_and_user(session.session_token)
        assert store.touch_session(session.session_token) == session
        assert use(store, store.create_verification_token(identifier="x"))

    def test_a_made_session_token_has_256_bits(self, store: Any, ada: User) -> None:
        """ASVS 7.2.3 demands 128; 256 random bits are 43 characters of base64, and never come twice."""
        tokens = {store.create_session(user_id=ada.id).session_token for _ in range(50)}
        assert len(tokens) == 50
        assert all(len(token) >= 43 for token in tokens)

    def test_tokens_come_from_new_token_when_it_is_given(self, build: Call) -> None:
        """For sessions, rotations and verification tokens."""
        store = build(new_token=iter(["one", "two", "three"]).__next__)
        assert store.create_session(user_id=store.create_user().id).session_token == "one"
        assert store.rotate_session("one").session_token == "two"
        assert store.create_verification_token(identifier="x").token == "three"

    def test_a_given_token_is_kept(self, store: Any, ada: User) -> None:
        """An Auth.js front end brings its own."""
        assert store.create_session(user_id=ada.id, session_token="naïve \0 token").user_id == ada.id
        assert store.get_session_and_user("naïve \0 token").session.session_token == "naïve \0 token"

    @pytest.mark.parametrize("method", ON_A_SESSION)
    def test_a_session_lives_until_its_last_microsecond(
        self, timed: Any, clock: FrozenClock, session: Session, method: str
    ) -> None:
        """One microsecond before ``expires`` every method still finds it."""
        clock.now = session.expires - MICROSECOND
        assert ON_A_SESSION[method](timed, session) not in (NOTHING.get(method), None)

    @pytest.mark.parametrize("method", ON_A_SESSION)
    @pytest.mark.parametrize("purged", [False, True], ids=["unpurged", "purged"])
    @pytest.mark.parametrize("late", [0, 1], ids=["at expires", "after expires"])
    def test_a_session_is_dead_from_expires_on(
        self, timed: Any, clock: FrozenClock, session: Session, method: str, late: int, purged: bool
    ) -> None:
        """In every method, at that very microsecond, whether purged or not; nothing revives it."""
        clock.now = session.expires + late * MICROSECOND
        if purged:
            assert timed.purge_expired() == Purged(1, 0)
        found = ON_A_SESSION[method](timed, session)
        assert found == NOTHING.get(method), f"to {method}, an expired session is absent; it gave {found!r}"
        assert timed.get_session_and_user(session.session_token) is None
        assert timed.list_sessions(session.user_id) == []

    def test_a_session_may_be_created_expired(self, timed: Any, session: Session) -> None:
        """It is absent at once."""
        dead = timed.create_session(user_id=session.user_id, expires=START)
        assert timed.get_session_and_user(dead.session_token) is None
        assert [one.id for one in timed.list_sessions(session.user_id)] == [session.id]

    @pytest.mark.parametrize("purged", [False, True], ids=["unpurged", "purged"])
    def test_an_expired_sessions_token_is_free(
        self, timed: Any, clock: FrozenClock, session: Session, purged: bool
    ) -> None:
        """Expired is absent, whether purging got there yet or not."""
        clock.now = session.expires
        if purged:
            timed.purge_expired()
        again = timed.create_session(user_id=session.user_id, session_token=session.session_token)
        assert timed.get_session_and_user(session.session_token).session == again

    def test_an_update_changes_expires_and_nothing_else(self, timed: Any, session: Session) -> None:
        """``expires`` may grow and shrink."""
        for expires in (FAR, START + DAY):
            changed = dataclasses.replace(session, expires=expires)
            assert timed.update_session(session.session_token, expires=expires) == changed
            assert timed.get_session_and_user(session.session_token).session == changed

    def test_an_update_without_expires_keeps_the_session(self, timed: Any, session: Session) -> None:
        """Auth.js's D1 adapter loses the session."""
        assert timed.update_session(session.session_token) == session
        found = timed.get_session_and_user(session.session_token)
        assert found and found.session == session, "it lives on, unchanged"

    def test_a_deleted_session_stays_dead(self, timed: Any, session: Session) -> None:
        """Deleting is idempotent, and no save resurrects a signed-out session. [django#5950]"""
        assert timed.delete_session(session.session_token) == session
        for method, call in ON_A_SESSION.items():
            assert call(timed, session) == NOTHING.get(method), method

    @each({"just made": timedelta(0), "almost a day": DAY - MICROSECOND})
    def test_a_touch_within_update_age_changes_nothing(
        self, timed: Any, clock: FrozenClock, session: Session, case: Any
    ) -> None:
        """At most one write in a day; the session is returned all the same."""
        clock.now += case
        assert timed.touch_session(session.session_token) == session

    @each({"at a day": DAY, "in the last microsecond": 30 * DAY - MICROSECOND})
    def test_a_touch_extends_a_session_from_update_age_on(
        self, timed: Any, clock: FrozenClock, session: Session, case: Any
    ) -> None:
        """By ``session_max_age`` from now, as Auth.js does; nothing else changes."""
        clock.now += case
        touched = dataclasses.replace(session, expires=clock.now + 30 * DAY)
        assert timed.touch_session(session.session_token) == touched
        assert timed.get_session_and_user(session.session_token).session == touched
        clock.now += DAY - MICROSECOND
        assert timed.touch_session(session.session_token) == touched, "not twice in session_update_age"

    def test_a_touch_never_shortens_a_session(self, timed: Any, clock: FrozenClock, session: Session) -> None:
        """One that was given longer than ``session_max_age`` keeps it."""
        given = timed.create_session(user_id=session.user_id, expires=START + 365 * DAY)
        clock.tick(days=100)
        assert timed.touch_session(given.session_token) == given

    def test_an_update_age_of_zero_extends_at_every_touch(self, build: Call, clock: FrozenClock) -> None:
        """The finest setting: every use counts."""
        store = build(clock=clock, session_max_age=60, session_update_age=0)
        token = store.create_session(user_id=store.create_user().id).session_token
        for _ in range(3):
            clock.tick(microseconds=1)
            assert store.touch_session(token).expires == clock.now + timedelta(seconds=60)

    def test_no_session_outlives_session_absolute_age(self, build: Call, clock: FrozenClock) -> None:
        """However it is created, updated, touched or rotated. ASVS 7.3.2"""
        store = build(
            clock=clock, session_max_age=30 * DAY, session_update_age=DAY, session_absolute_age=40 * DAY
        )
        end, user_id = START + 40 * DAY, store.create_user().id
        assert store.create_session(user_id=user_id, expires=FAR).expires == end
        token = store.create_session(user_id=user_id).session_token
        clock.tick(days=9)
        assert store.touch_session(token).expires == START + 39 * DAY, "within the limit it is extended"
        clock.tick(days=5)
        assert store.touch_session(token).expires == end
        token = store.rotate_session(token).session_token
        assert store.update_session(token, expires=FAR).expires == end
        clock.now = end - MICROSECOND
        assert store.touch_session(token).expires == end
        clock.now = end
        assert store.get_session_and_user(token) is None

    def test_rotating_changes_the_token_and_nothing_else(
        self, timed: Any, clock: FrozenClock, session: Session
    ) -> None:
        """ASVS 7.2.4: a new token, the old one ended; the same user, age and end."""
        clock.tick(days=3)
        rotated = timed.rotate_session(session.session_token)
        assert rotated.session_token != session.session_token
        assert rotated.id != session.id
        assert rotated == dataclasses.replace(session, session_token=rotated.session_token, id=rotated.id)
        assert timed.get_session_and_user(rotated.session_token).session == rotated
        assert [one.id for one in timed.list_sessions(session.user_id)] == [rotated.id]

    def test_a_rotated_away_token_is_dead(self, timed: Any, session: Session) -> None:
        """In every method that takes a token."""
        timed.rotate_session(session.session_token)
        answers = {method: ON_A_SESSION[method](timed, session) for method in BY_TOKEN}
        assert answers == dict.fromkeys(BY_TOKEN), "whoever planted the old token must not be promoted"
        assert timed.revoke_session(session.user_id, session.id) is False

    def test_rotating_to_an_expired_token_is_no_conflict(self, build: Call, clock: FrozenClock) -> None:
        """Expired is absent, whether purging got there yet or not."""
        store = build(clock=clock, new_token=lambda: "again", purge_interval=None)
        ada = store.create_user()
        store.create_session(user_id=ada.id, expires=START)
        store.create_session(user_id=ada.id, session_token="mine")
        assert store.rotate_session("mine").session_token == "again"
        assert store.get_session_and_user("again").user == ada

    def test_rotating_to_a_taken_token_changes_nothing(self, build: Call) -> None:
        """A conflict, and both sessions live on."""
        store = build(new_token=lambda: "taken")
        ada, grace = store.create_user(), store.create_user()
        store.create_session(user_id=grace.id)
        store.create_session(user_id=ada.id, session_token="mine")
        with pytest.raises(ConflictError) as caught:
            store.rotate_session("mine")
        assert (caught.value.model, caught.value.field) == ("Session", "session_token")
        assert store.get_session_and_user("mine").user == ada
        assert store.get_session_and_user("taken").user == grace

    def test_sessions_are_listed_newest_first_without_their_tokens(
        self, timed: Any, clock: FrozenClock, session: Session
    ) -> None:
        """The list is for show: all but the token, and of this user only."""
        sessions = [session]
        for _ in range(3):
            clock.tick(microseconds=1)
            sessions.insert(0, timed.create_session(user_id=session.user_id))
        timed.create_session(user_id=timed.create_user().id)
        withheld = [dataclasses.replace(one, session_token="") for one in sessions]
        assert timed.list_sessions(session.user_id) == withheld

    def test_a_sessions_id_is_steady_and_no_token(self, timed: Any, session: Session) -> None:
        """The same wherever the session is returned; useless for signing in."""
        token = session.session_token
        found = [timed.get_session_and_user(token).session, timed.touch_session(token)]
        found += [timed.update_session(token, expires=FAR), *timed.list_sessions(session.user_id)]
        assert session.id and {one.id for one in found} == {session.id}
        assert session.id not in token and token not in session.id
        presented = Session(session.id, session.user_id, FAR)
        answers = {method: ON_A_SESSION[method](timed, presented) for method in BY_TOKEN}
        assert answers == dict.fromkeys(BY_TOKEN), "the id is shown in lists: it must not do as a token"

    def test_revoking_ends_that_session_only(self, store: Any, home: Household) -> None:
        """Once; True says that one went. ASVS 7.4.5"""
        first, second, third = home.ada.sessions
        others = home.grace.state()
        assert store.revoke_session(home.ada.id, second.id) is True
        assert store.revoke_session(home.ada.id, second.id) is False
        assert store.get_session_and_user(second.session_token) is None
        assert {one.id for one in store.list_sessions(home.ada.id)} == {first.id, third.id}
        assert home.grace.state() == others

    def test_one_cannot_revoke_anothers_session(self, store: Any, home: Household) -> None:
        """The id comes from a request: it counts only with its own user."""
        before = home.state()
        assert store.revoke_session(home.ada.id, home.grace.sessions[0].id) is False
        assert store.revoke_session(home.ada.id, home.ada.sessions[0].session_token) is False
        assert home.state() == before

    def test_revoking_all_says_how_many_went(self, store: Any, home: Household) -> None:
        """Sign out everywhere. [next-auth#2993]"""
        others = home.grace.state()
        assert store.revoke_sessions(home.ada.id) == 3
        assert store.list_sessions(home.ada.id) == []
        assert store.revoke_sessions(home.ada.id) == 0
        assert home.grace.state() == others

    def test_revoking_all_others_keeps_the_one(self, store: Any, home: Household) -> None:
        """ASVS 7.4.3: after a factor changed, the others end."""
        kept = home.ada.sessions[1]
        assert store.revoke_sessions(home.ada.id, keep=kept.session_token) == 2
        assert [one.id for one in store.list_sessions(home.ada.id)] == [kept.id]
        assert store.get_session_and_user(kept.session_token).session == kept

    def test_keeping_what_is_not_there_keeps_nothing(self, store: Any, home: Household) -> None:
        """``keep`` takes a token; an id, a stranger's text or another's token spares no session."""
        for keep in (home.ada.sessions[0].id, "grace-1-session", "ada-1-token", "", SURROGATE, "x" * HUGE):
            assert undone(store, lambda: store.revoke_sessions(home.ada.id, keep=keep)) == 3

    def test_expired_sessions_are_not_counted_as_revoked(
        self, timed: Any, clock: FrozenClock, session: Session
    ) -> None:
        """One that expired did not go now."""
        timed.create_session(user_id=session.user_id, expires=START + DAY)
        clock.tick(days=1)
        assert timed.revoke_sessions(session.user_id) == 1


# --- verification tokens ----------------------------------------------------------------------


class VerificationContract(Contract):
    """Single-use tokens: magic links, e-mail codes."""

    group = "verification"

    def test_a_token_is_returned_once(self, store: Any) -> None:
        """As it was created; then it is gone."""
        token = store.create_verification_token(identifier="Ada@example.com", expires=FAR)
        assert isinstance(token, VerificationToken)
        assert (token.identifier, token.expires) == ("Ada@example.com", FAR)
        assert use(store, token) == token
        assert use(store, token) is None, "whoever finds a used link must not be signed in by it"

    def test_a_made_verification_token_has_256_bits(self, store: Any) -> None:
        """43 characters of base64, never twice."""
        tokens = {store.create_verification_token(identifier="x").token for _ in range(50)}
        assert len(tokens) == 50
        assert all(len(token) >= 43 for token in tokens)

    def test_a_token_lives_for_verification_max_age(self, timed: Any) -> None:
        """Counted from the clock's now. ASVS 6.5.5: ten minutes at most."""
        expires = START + timedelta(seconds=600)
        assert timed.create_verification_token(identifier="x").expires == expires

    def test_a_token_lives_until_its_last_microsecond(self, timed: Any, clock: FrozenClock) -> None:
        """One microsecond before ``expires`` it is good."""
        token = timed.create_verification_token(identifier="x")
        clock.now = token.expires - MICROSECOND
        assert use(timed, token) == token

    @pytest.mark.parametrize("purged", [False, True], ids=["unpurged", "purged"])
    @pytest.mark.parametrize("late", [0, 1], ids=["at expires", "after expires"])
    def test_a_token_is_dead_from_expires_on(
        self, timed: Any, clock: FrozenClock, late: int, purged: bool
    ) -> None:
        """At that very microsecond, whether purged or not; it was not deleted now either."""
        token = timed.create_verification_token(identifier="x")
        clock.now = token.expires + late * MICROSECOND
        if purged:
            assert timed.purge_expired() == Purged(0, 1)
        if offers(timed, "transaction"):
            assert undone(timed, lambda: timed.delete_verification_tokens("x")) == 0
        assert use(timed, token) is None, "a token whose end has come signs nobody in"

    def test_an_expired_token_is_consumed_by_its_use(self, timed: Any, clock: FrozenClock) -> None:
        """Should the clock be set back, it stays used."""
        token = timed.create_verification_token(identifier="x")
        clock.now = token.expires
        assert use(timed, token) is None
        clock.tick(seconds=-300)
        assert use(timed, token) is None

    def test_identifier_and_token_must_both_fit(self, store: Any) -> None:
        """A check of one of them signs anybody in [CVE-2022-39263]; a miss consumes nothing."""
        ada = store.create_verification_token(identifier="ada@example.com")
        grace = store.create_verification_token(identifier="grace@example.com")
        for one, other in ((ada, grace), (grace, ada)):
            crossed = store.use_verification_token(identifier=one.identifier, token=other.token)
            assert crossed is None, "a token is good for the identifier that it was made for, and no other"
            assert store.use_verification_token(identifier=one.identifier, token="") is None
            assert store.use_verification_token(identifier="", token=one.token) is None
            assert store.use_verification_token(identifier=one.token, token=one.identifier) is None
        assert (use(store, ada), use(store, grace)) == (ada, grace)

    @each(SAME_ADDRESS)
    def test_spellings_of_one_address_are_one_identifier(self, store: Any, case: Any) -> None:
        """The link was asked for as ``Ada@Example.com``, the user is ``ada@example.com``."""
        for stored, asked in (case, case[::-1]):
            token = store.create_verification_token(identifier=stored)
            assert store.use_verification_token(identifier=asked, token=token.token) == token
            store.create_verification_token(identifier=stored)
            assert store.delete_verification_tokens(asked) == 1

    def test_an_identifier_that_is_no_address_is_compared_exactly(self, store: Any) -> None:
        """Folding the case of "reset:aB3" could join two users' ids."""
        token = store.create_verification_token(identifier="reset:aB3")
        for other in ("reset:ab3", " reset:aB3", "reset:aB3 ", "reset:aB３"):
            assert store.use_verification_token(identifier=other, token=token.token) is None
            assert store.delete_verification_tokens(other) == 0
        assert use(store, token) == token

    def test_identifier_and_token_are_not_joined(self, store: Any) -> None:
        """("a:b", "c") and ("a", "b:c") are two tokens, whatever the separator. [Upstash]"""
        for separator in ":/|\0\n":
            store.create_verification_token(identifier=f"a{separator}b", token="c")
            assert store.use_verification_token(identifier="a", token=f"b{separator}c") is None

    def test_one_identifier_may_have_several_tokens(self, store: Any) -> None:
        """Whoever asks for a second link may still follow the first."""
        tokens = [store.create_verification_token(identifier="ada@example.com") for _ in range(3)]
        assert [use(store, token) for token in tokens] == tokens

    def test_one_token_may_belong_to_several_identifiers(self, store: Any) -> None:
        """Short codes repeat; each is used on its own."""
        tokens = [store.create_verification_token(identifier=name, token="123456") for name in "ab"]
        assert [use(store, token) for token in tokens] == tokens

    def test_the_same_pair_again_replaces_the_first(self, store: Any) -> None:
        """A code sent again lives for its new time, and is good once."""
        store.create_verification_token(identifier="x", token="123456", expires=START)
        again = store.create_verification_token(identifier="x", token="123456", expires=FAR)
        assert use(store, again) == again
        assert use(store, again) is None

    def test_deleting_says_how_many_went(self, store: Any, home: Household) -> None:
        """All of the identifier's, none of another's; a second time none."""
        others = home.grace.state()
        assert store.delete_verification_tokens("ADA@example.com") == 3
        assert store.delete_verification_tokens("ada@example.com") == 0
        assert [use(store, token) for token in home.ada.tokens] == [None] * 3
        assert home.grace.state() == others

    def test_an_identifier_needs_no_user(self, store: Any) -> None:
        """Sign-up by magic link comes before the user; unknown identifiers have nothing."""
        assert use(store, store.create_verification_token(identifier="new@example.com"))
        assert store.delete_verification_tokens("unknown@example.com") == 0

    @each({"no at sign": "Ada", "full-width at sign": "Ada＠example.com", "blanks": " ada@example.com "})
    def test_a_deleted_users_pending_tokens_go_however_the_address_is_spelt(
        self, store: Any, case: Any
    ) -> None:
        """The user's address and the token's identifier are one and the same text."""
        user = store.create_user(email=case)
        token = store.create_verification_token(identifier=case)
        store.delete_user(user.id)
        assert use(store, token) is None


# --- authenticators ---------------------------------------------------------------------------


class AuthenticatorContract(Contract):
    """Passkeys (WebAuthn credentials) and their signature counters."""

    group = "authenticators"

    def test_an_authenticator_comes_back_as_it_was_returned(self, store: Any, ada: User) -> None:
        """Every field, by its credential id and in the user's list."""
        one = register(store, ada.id, "Y3JlZA==", counter=2**32 - 1, transports="usb,nfc")
        assert one == Authenticator(
            credential_id="Y3JlZA==", user_id=ada.id, provider_account_id="Y3JlZA==", transports="usb,nfc",
            credential_public_key="a2V5", counter=2**32 - 1, credential_device_type="multiDevice",
            credential_backed_up=True,
        )
        assert store.get_authenticator("Y3JlZA==") == one
        assert store.list_authenticators_by_user_id(ada.id) == [one]

    def test_an_unknown_authenticator_is_none(self, store: Any, ada: User) -> None:
        """Absence is an answer; credential ids are compared exactly."""
        register(store, ada.id, "Y3JlZA==")
        assert store.get_authenticator("y3jlza==") is None
        assert store.list_authenticators_by_user_id(NOBODY) == []

    def test_a_users_authenticators_are_listed_by_credential_id(
        self, store: Any, ada: User, grace: User
    ) -> None:
        """In one order everywhere, and only the user's own."""
        for credential_id in ("b", "a", "B", "aa"):
            register(store, ada.id, credential_id)
        register(store, grace.id, "g")
        listed = [one.credential_id for one in store.list_authenticators_by_user_id(ada.id)]
        assert listed == ["B", "a", "aa", "b"]

    @pytest.mark.parametrize("before, after", [(0, 0), (0, 1), (1, 2), (1, 2**32 - 1)])
    def test_a_counter_that_grows_is_stored(self, store: Any, ada: User, before: int, after: int) -> None:
        """And 0 → 0 is legal: many authenticators do not count. WebAuthn § 6.1.1"""
        one = register(store, ada.id, counter=before)
        grown = dataclasses.replace(one, counter=after)
        assert store.update_authenticator_counter("credential", after) == grown
        assert store.get_authenticator("credential") == grown

    @pytest.mark.parametrize("before, after", [(1, 1), (2, 1), (1, 0), (2**32 - 1, 2**32 - 1)])
    def test_a_counter_that_does_not_grow_is_refused(
        self, store: Any, ada: User, before: int, after: int
    ) -> None:
        """The passkey may have been cloned; the error says both, the stored one is kept. WebAuthn § 6.1.1"""
        one = register(store, ada.id, counter=before)
        with pytest.raises(CounterRegressionError) as caught:
            store.update_authenticator_counter("credential", after)
        assert (caught.value.stored, caught.value.given) == (before, after)
        assert store.get_authenticator("credential") == one


# --- the border: what is refused, what is answered with nothing -------------------------------

WRITES: dict[str, Call] = {
    "create_user": lambda a, **f: a.create_user(**f),
    "update_user": lambda a, user_id="ada", **f: a.update_user(user_id, **f),
    "link_account": lambda a, **f: a.link_account(
        **{"user_id": "ada", "type": "oauth", "provider": "github", "provider_account_id": "new"} | f
    ),
    "create_session": lambda a, **f: a.create_session(**{"user_id": "ada"} | f),
    "update_session": lambda a, **f: a.update_session("ada-1-session", **f),
    "create_verification_token": lambda a, **f: a.create_verification_token(**{"identifier": "x"} | f),
    "create_authenticator": lambda a, **f: register(a, **{"user_id": "ada"} | f),
    "update_authenticator_counter": lambda a, credential_id="ada-1", counter=9: (
        a.update_authenticator_counter(credential_id, counter)
    ),
}
"""The methods that take fields, with something in those that must be given, in a ``Household``."""

CONFLICTS = {
    "e-mail of another": ("create_user", {"email": "ada@example.com"}, "User", "email"),
    "e-mail, respelt": ("create_user", {"email": " ＡDA@example.com"}, "User", "email"),
    "new e-mail": ("update_user", {"email": "Grace@example.com", "name": "new"}, "User", "email"),
    "id": ("create_user", {"id": "ada", "name": "new"}, "User", "id"),
    "account of another": (
        "link_account", {"provider_account_id": "grace-1", "access_token": "new", "team": "new"},
        "Account", "provider_account_id",
    ),
    "own token": ("create_session", {"session_token": "ada-1-session"}, "Session", "session_token"),
    "token of another": ("create_session", {"session_token": "grace-1-session"}, "Session", "session_token"),
    "own passkey": ("create_authenticator", {"credential_id": "ada-1"}, "Authenticator", "credential_id"),
    "passkey of another": (
        "create_authenticator", {"credential_id": "grace-1", "counter": 9}, "Authenticator", "credential_id"
    ),
}
"""Writes of what is taken, and the model and field that the error names."""

MISSING = {
    "update_user": ("update_user", {"user_id": NOBODY, "name": "new"}, "User"),
    "link_account": ("link_account", {"user_id": NOBODY}, "User"),
    "link_account, linked": ("link_account", {"user_id": NOBODY, "provider_account_id": "ada-1"}, "User"),
    "create_session": ("create_session", {"user_id": NOBODY}, "User"),
    "create_authenticator": ("create_authenticator", {"user_id": NOBODY}, "User"),
    "update_authenticator_counter": (
        "update_authenticator_counter", {"credential_id": NOBODY}, "Authenticator"
    ),
}
"""Writes to what is not there, and the model that the error names."""

KEYS = ("", "x" * 4097, SURROGATE, 5, b"x")
LATE = datetime.max.replace(tzinfo=timezone(-DAY / 2))  # in UTC it would be in the year 10000
MOMENTS = (NAIVE, "2026-01-02T03:04:05Z", date(2026, 1, 2), 1_700_000_000, LATE)
COUNTERS = (-1, 2**32, True, 1.0, "1", None)

UNSTORABLE = [
    ("create_user", "User", "id", KEYS),
    ("create_user", "User", "email", (*KEYS, "  ", "\u3000")),
    ("create_user", "User", "name", (5, b"x", SURROGATE)),
    ("create_user", "User", "email_verified", (*MOMENTS, True)),
    ("update_user", "User", "email", KEYS),
    ("update_user", "User", "image", (5, SURROGATE)),
    ("link_account", "Account", "type", (5, None, SURROGATE)),
    ("link_account", "Account", "provider", (*KEYS, None)),
    ("link_account", "Account", "provider_account_id", (*KEYS, None)),
    ("create_session", "Session", "session_token", KEYS),
    ("create_session", "Session", "expires", MOMENTS),
    ("update_session", "Session", "expires", (*MOMENTS, None)),
    ("create_verification_token", "VerificationToken", "identifier", (*KEYS, None, "@" + SURROGATE)),
    ("create_verification_token", "VerificationToken", "token", KEYS),
    ("create_verification_token", "VerificationToken", "expires", MOMENTS),
    ("create_authenticator", "Authenticator", "credential_id", (*KEYS, None)),
    ("create_authenticator", "Authenticator", "counter", COUNTERS),
    ("create_authenticator", "Authenticator", "credential_backed_up", (1, "yes", None)),
    ("update_authenticator_counter", "Authenticator", "counter", COUNTERS),
]
"""Writes, the model and field they concern, and values that these cannot hold."""

NOT_GIVEN = [
    ("create_user", "nickname", "id email name image email_verified"),
    ("update_user", "nickname", "email name image email_verified"),
    ("update_user", "id", "email name image email_verified"),
    ("create_session", "device", "user_id session_token expires"),
    ("create_session", "created_at", "user_id session_token expires"),
    ("create_session", "id", "user_id session_token expires"),
    ("update_session", "device", "expires"),
    ("update_session", "created_at", "expires"),
    ("update_session", "user_id", "expires"),
    ("update_session", "id", "expires"),
    ("create_verification_token", "purpose", "identifier token expires"),
    ("create_authenticator", "nickname", "user_id credential_id provider_account_id counter transports"),
]
"""Writes, a field that is unknown or cannot be given there, and those that can."""

LOOKUPS: dict[str, Call] = {
    "get_user": lambda a, x: a.get_user(x),
    "get_user_by_email": lambda a, x: a.get_user_by_email(x),
    "get_user_by_account, provider": lambda a, x: a.get_user_by_account(
        provider=x, provider_account_id="ada-1"
    ),
    "get_user_by_account, id": lambda a, x: a.get_user_by_account(provider="github", provider_account_id=x),
    "delete_user": lambda a, x: a.delete_user(x),
    "unlink_account, provider": lambda a, x: a.unlink_account(provider=x, provider_account_id="ada-1"),
    "unlink_account, id": lambda a, x: a.unlink_account(provider="github", provider_account_id=x),
    "get_account, provider": lambda a, x: a.get_account(provider=x, provider_account_id="ada-1"),
    "get_account, id": lambda a, x: a.get_account(provider="github", provider_account_id=x),
    "list_accounts": lambda a, x: a.list_accounts(x),
    "get_session_and_user": lambda a, x: a.get_session_and_user(x),
    "update_session": lambda a, x: a.update_session(x, expires=FAR),
    "touch_session": lambda a, x: a.touch_session(x),
    "rotate_session": lambda a, x: a.rotate_session(x),
    "delete_session": lambda a, x: a.delete_session(x),
    "list_sessions": lambda a, x: a.list_sessions(x),
    "revoke_session, user": lambda a, x: a.revoke_session(x, "id"),
    "revoke_session, session": lambda a, x: a.revoke_session("ada", x),
    "revoke_sessions": lambda a, x: a.revoke_sessions(x),
    "use_verification_token, identifier": lambda a, x: a.use_verification_token(
        identifier=x, token="ada-1-token"
    ),
    "use_verification_token, token": lambda a, x: a.use_verification_token(
        identifier="ada@example.com", token=x
    ),
    "delete_verification_tokens": lambda a, x: a.delete_verification_tokens(x),
    "get_authenticator": lambda a, x: a.get_authenticator(x),
    "list_authenticators_by_user_id": lambda a, x: a.list_authenticators_by_user_id(x),
}
"""Every argument that a stranger may choose, in a ``Household``."""

CALLS: dict[str, Call] = {
    **{name: (lambda a, call=call: call(a, "x")) for name, call in LOOKUPS.items()},
    **WRITES,
    "purge_expired": lambda a: a.purge_expired(),
    "transaction": lambda a: a.transaction().__enter__(),
    "snapshot": lambda a: a.snapshot(),
    "check": lambda a: a.check(),
    "__enter__": lambda a: a.__enter__(),
}
"""The whole contract, for what holds for every method; ``restore`` and ``close`` have tests of their own."""

HUGE = 10_000_000
MARKER = "hunter2"


def strange(home: Household) -> Iterator[str]:
    """Texts that name nothing, most of which once led a store astray."""
    yield from ("", " ", "\0", SURROGATE, "%", "_", "*", "None", "0", "🦄", "\u202e", "x" * 4096)
    yield from ("' OR '1'='1", "'; DELETE FROM users; --", '"', "\\", "$ne", "../../etc/passwd", "{}")
    ids = [session.id for session in vars(home.ada).get("sessions", [])]
    for known in ("ada", "ada@example.com", "ada-1", "ada-1-session", "ada-1-token", *ids[:1]):
        yield from (known + "\0", "\0" + known, known[:-1], known + SURROGATE, f"user:{known}", known + "%")
    yield from ("Ada", "ADA-1", "ADA-1-SESSION", "ADA-1-TOKEN", *map(str.upper, ids[:1]))
    yield from ("github:ada-1", "ada@example.com:ada-1-token")
    for secret in ("ada-1-session", "ada-1-token"):
        digest = hashlib.sha256(secret.encode()).digest()
        yield from (digest.hex(), digest.hex().upper(), digest.decode("latin-1"))
        yield base64.b64encode(digest).decode()
        yield base64.urlsafe_b64encode(digest).decode().rstrip("=")


def told(error: BaseException | None) -> str:
    """All that an error says: its text, its attributes, and those of every error behind it."""
    seen: list[str] = []
    while error is not None:
        seen += [repr(error), repr(error.args), repr(vars(error)), *traceback.format_exception_only(error)]
        error = error.__cause__ or error.__context__
    return "\n".join(seen)


class StrangerContract(Contract):
    """What strangers send is answered with nothing; what programmers get wrong is refused by name."""

    group = "strangers"

    @each(CONFLICTS)
    def test_a_conflict_names_the_field_and_leaves_nothing_half_done(
        self, home: Household, case: Any
    ) -> None:
        """Or an account moves silently to another user. [better-auth#10208, next-auth#13416]"""
        before = home.state()
        method, given, model, field = case
        with pytest.raises(ConflictError) as caught:
            WRITES[method](home.store, **given)
        assert (caught.value.model, caught.value.field) == (model, field)
        assert home.state() == before, f"the {method} that was refused changed something"

    @each(MISSING)
    def test_a_write_to_nobody_names_the_key_and_leaves_nothing_half_done(
        self, home: Household, case: Any
    ) -> None:
        """An update never inserts; nothing may hang on a user who is not there."""
        before = home.state()
        method, given, model = case
        with pytest.raises(NotFoundError) as caught:
            WRITES[method](home.store, **given)
        assert (caught.value.model, caught.value.key) == (model, NOBODY)
        assert home.state() == before
        assert home.store.get_user(NOBODY) is None

    @pytest.mark.parametrize("method, model, field, values", UNSTORABLE)
    def test_an_unstorable_value_is_refused_by_name(
        self, home: Household, method: str, model: str, field: str, values: tuple[Any, ...]
    ) -> None:
        """Model, field and what was expected, as attributes and in the text; nothing is changed."""
        before = home.state()
        for value in values:
            with pytest.raises(InvalidFieldError) as caught:
                WRITES[method](home.store, **{field: value})
            error = caught.value
            assert (error.model, error.field) == (model, field), f"{value!r:.40}"
            assert error.expected and error.expected in str(error)
            assert model in str(error) and field in str(error)
            assert isinstance(error, ValueError)
        assert home.state() == before

    @pytest.mark.parametrize("method, field, known", NOT_GIVEN)
    def test_an_unknown_field_is_a_type_error_that_lists_the_known_ones(
        self, home: Household, method: str, field: str, known: str
    ) -> None:
        """A misspelt keyword must not be lost."""
        before = home.state()
        with pytest.raises(TypeError) as caught:
            WRITES[method](home.store, **{field: "x"})
        assert {field, *known.split()} <= set(re.findall(r"\w+", str(caught.value)))
        assert home.state() == before

    @pytest.mark.parametrize("lookup", LOOKUPS)
    def test_any_text_is_safe_to_look_up(self, home: Household, lookup: str) -> None:
        """Nothing is found, raised or touched, whatever a stranger sends."""
        before = home.state()
        for text in strange(home):
            assert LOOKUPS[lookup](home.store, text) == NOTHING.get(lookup.partition(",")[0]), ascii(text)
        assert home.state() == before

    def test_ten_megabytes_are_answered_quickly(self, home: Household) -> None:
        """Without normalising, hashing or sending them anywhere: a look-up must not be a lever."""
        for text in ("x" * HUGE, "ẛ̣@" * (HUGE // 3), SURROGATE * HUGE, " " * HUGE):
            for lookup, call in LOOKUPS.items():
                method = lookup.partition(",")[0]
                if not offers(home.store, method):
                    continue
                took: list[float] = []
                while len(took) < 3 and min(took, default=1) > 0.25:  # a busy machine may stall once
                    before = time.perf_counter()
                    assert call(home.store, text) == NOTHING.get(method), lookup
                    took.append(time.perf_counter() - before)
                assert min(took) <= 0.25, f"{lookup} took {min(took):.2f} seconds for {text[:3]!a}..."

    @pytest.mark.parametrize("lookup", LOOKUPS)
    def test_what_is_no_text_is_a_type_error(self, home: Household, lookup: str) -> None:
        """A programmer's mistake is not a stranger's miss."""
        before = home.state()
        for value in (None, 5, True, b"x", home.ada.id.encode(), ["x"], object(), bytearray(b"x")):
            with pytest.raises(TypeError):
                LOOKUPS[lookup](home.store, value)
        assert home.state() == before

    def test_a_kept_token_that_is_no_text_is_a_type_error(self, store: Any, home: Household) -> None:
        """And no session ends."""
        with pytest.raises(TypeError):
            store.revoke_sessions(home.ada.id, keep=home.ada.sessions[0].session_token.encode())
        assert len(store.list_sessions(home.ada.id)) == 3

    def test_updates_of_strange_ids_find_nobody(self, store: Any, home: Household) -> None:
        """The two updates that must find their record say so, in a short text; non-text is a TypeError."""
        before = home.state()
        for text in (*strange(home), "x" * HUGE):
            with pytest.raises(NotFoundError) as caught:
                store.update_user(text, name="new")
            assert len(str(caught.value)) < 1000
            with pytest.raises(NotFoundError):
                store.update_authenticator_counter(text, 9)
        for value in (None, 5, b"x"):
            with pytest.raises(TypeError):
                store.update_user(value, name="new")
            with pytest.raises(TypeError):
                store.update_authenticator_counter(value, 9)
        assert home.state() == before

    def test_nothing_hangs_on_strange_user_ids(self, store: Any, home: Household) -> None:
        """Unknown or unstorable, either is refused as such."""
        before = home.state()
        for text in strange(home):
            for write in (link, register, lambda a, user_id: a.create_session(user_id=user_id)):
                with pytest.raises((NotFoundError, InvalidFieldError)):
                    write(store, text)
        assert home.state() == before

    def test_no_secret_shows_in_a_repr(self, store: Any, ada: User) -> None:
        """Records are logged; tokens of sessions, providers and magic links must not be."""
        names = ("refresh_token", "access_token", "id_token", "session_state")
        secrets: dict[str, Any] = dict.fromkeys(names, MARKER)
        account = link(store, ada.id, **secrets, api_key=MARKER)
        session = store.create_session(user_id=ada.id, session_token=MARKER)
        token = store.create_verification_token(identifier="x", token=MARKER)
        shown = [account, store.get_account(**key(account)), store.list_accounts(ada.id)]
        shown += [session, store.get_session_and_user(MARKER), store.list_sessions(ada.id)]
        shown += [store.touch_session(MARKER), store.update_session(MARKER, expires=FAR)]
        shown += [token, store.snapshot(), use(store, token), store.delete_session(MARKER), store]
        telling = [type(one).__name__ for one in shown if MARKER in repr(one) + str(one)]
        assert telling == [], "a token in a repr ends up in a log"

    @each(
        {
            "session_token": lambda a, v: a.create_session(user_id="ada", session_token=v),
            "token": lambda a, v: a.create_verification_token(identifier="x", token=v),
            "expires": lambda a, v: a.create_session(user_id="ada", expires=v),
            "updated expires": lambda a, v: a.update_session("token", expires=v),
            "email": lambda a, v: a.create_user(email=v),
            "email_verified": lambda a, v: a.update_user("ada", email_verified=v),
            "provider_account_id": lambda a, v: link(a, "ada", v),
            "taken session_token": lambda a, v: [
                a.create_session(user_id="ada", session_token=MARKER) for _ in range(2)
            ],
            "account of another": lambda a, v: [
                link(a, a.create_user().id, access_token=MARKER, api_key=MARKER) for _ in range(2)
            ],
        }
    )
    def test_no_secret_shows_in_an_error(self, store: Any, case: Any) -> None:
        """Neither in its text nor in its attributes, nor in an error behind it."""
        store.create_user(id="ada")
        with pytest.raises(AuthStoreError) as caught:
            case(store, MARKER + SURROGATE)
        assert MARKER not in told(caught.value), f"a secret is in the {type(caught.value).__name__}"


# --- values -----------------------------------------------------------------------------------

KINDS: dict[str, tuple[Any, Any, Any, tuple[Any, ...]]] = {
    "word": (str, "free", "naïve 🦄 '\" \0 \\ %s", (5, b"x", SURROGATE)),
    "count": (int, 7, -(2**63), (2**63, -(2**63) - 1, True, 1.0, "1")),
    "ratio": (float, 0.5, 5e-324, (math.nan, "1", True)),
    "flag": (bool, True, False, (1, 0, "yes")),
    "blob": (bytes, b"'\0", bytes(range(256)), ("text", 5)),
    "moment": (datetime, START, FAR, MOMENTS),
    "mapping": (
        dict, None, {"a": [1, {"b": None}], "": SURROGATE, "n": 10**30, "t": "2026-01-01T00:00:00Z"},
        ([], "{}", {1: 2}, {"a": {1}}, {"a": math.nan}, {"a": {"b": {2: 3}}}, {"a": START}),
    ),
    "items": (list, None, [1.5, "x", [True, {}]], ({}, (1,), [{1: 2}], [math.inf], [b"x"])),
}
"""The types that a custom field may have: a default, another value, values that do not fit."""

RECORDS = {
    "user": User, "account": Account, "session": Session, "verification_token": VerificationToken,
    "authenticator": Authenticator,
}


def custom(record: type[Any]) -> type[Any]:
    """A custom model: ``record`` with a field of every type, and an optional one of every type."""
    fields: list[Any] = []
    for name, (kind, default, _, _) in KINDS.items():
        given: Any = {"default_factory": kind} if default is None else {"default": default}
        fields.append((name, kind, dataclasses.field(**given)))
        fields.append((f"maybe_{name}", kind | None, None))
    return dataclasses.make_dataclass(
        f"Custom{record.__name__}", fields, bases=(record,), frozen=True, slots=True
    )


CUSTOM = {name: custom(record) for name, record in RECORDS.items()}
OTHERS = {name: other for name, (_, _, other, _) in KINDS.items()}
GIVEN = OTHERS | {f"maybe_{name}": other for name, other in OTHERS.items()}
EMPTY = {f"maybe_{name}": None for name in KINDS}
DEFAULTS = EMPTY | {
    name: kind() if default is None else default for name, (kind, default, _, _) in KINDS.items()
}

CREATE: dict[str, Call] = {
    "user": lambda a, user_id, **f: a.create_user(**f),
    "account": link,
    "session": lambda a, user_id, **f: a.create_session(user_id=user_id, **f),
    "verification_token": lambda a, user_id, **f: a.create_verification_token(identifier="x", **f),
    "authenticator": register,
}
READ: dict[str, Call] = {
    "user": lambda a, r: a.get_user(r.id),
    "account": lambda a, r: a.get_account(**key(r)),
    "session": lambda a, r: a.get_session_and_user(r.session_token).session,
    "verification_token": lambda a, r: undone(a, lambda: use(a, r)),
    "authenticator": lambda a, r: a.get_authenticator(r.credential_id),
}


def fields(record: Any) -> dict[str, Any]:
    """The custom fields of a record, by name."""
    return {name: getattr(record, name) for name in GIVEN}


class SummerTime(tzinfo):
    """Two hours ahead of UTC until the end of 25 October 2026, one hour from then on."""

    def utcoffset(self, moment: datetime | None) -> timedelta:
        summer = moment is not None and moment.replace(tzinfo=None) < datetime(2026, 10, 25)
        return timedelta(hours=2 if summer else 1)

    def dst(self, moment: datetime | None) -> timedelta:
        return self.utcoffset(moment) - timedelta(hours=1)

    def tzname(self, moment: datetime | None) -> str:
        return "summer" if self.dst(moment) else "winter"


class TimeContract(Contract):
    """Aware UTC datetimes, exact to the microsecond."""

    group = "times"

    @pytest.mark.parametrize(
        "moment",
        [
            datetime(1970, 1, 1, 0, 0, 0, 1, UTC),
            datetime(1969, 12, 31, 23, 59, 59, 999999, UTC),
            FAR,
            datetime(9000, 2, 28, 23, 59, 59, 999997, UTC),
            datetime.max.replace(tzinfo=UTC),
        ],
    )
    def test_every_microsecond_comes_back(self, build: Call, moment: datetime) -> None:
        """Floats of seconds lose the last digits after the year 2106; others read seconds as milliseconds."""
        store = build(clock=FrozenClock(datetime(1960, 1, 1, 0, 0, 0, 7, UTC)))
        user = store.create_user(email_verified=moment)
        session = store.create_session(user_id=user.id, expires=moment)
        token = store.create_verification_token(identifier="x", expires=moment)
        found = store.get_session_and_user(session.session_token)
        assert found.user.email_verified == found.session.expires == moment
        assert found.session.created_at == datetime(1960, 1, 1, 0, 0, 0, 7, UTC)
        assert use(store, token).expires == moment

    def test_another_timezone_is_converted(self, store: Any) -> None:
        """The same moment, told in UTC, at once and later."""
        there = FAR.astimezone(INDIA)
        user = store.create_user(email_verified=there)
        session = store.create_session(user_id=user.id, expires=there)
        token = store.create_verification_token(identifier="x", expires=there)
        found = store.get_session_and_user(session.session_token)
        moments = [user.email_verified, session.expires, session.created_at, token.expires]
        moments += [found.user.email_verified, found.session.expires, use(store, token).expires]
        moments += [store.update_user(user.id, email_verified=there).email_verified]
        moments += [store.update_session(session.session_token, expires=there).expires]
        assert {moment.utcoffset() for moment in moments} == {timedelta(0)}
        assert {moment for moment in moments if moment is not session.created_at} == {FAR}

    def test_a_clock_in_another_timezone_is_converted(self, build: Call) -> None:
        """What the store derives from its clock is UTC too."""
        clock = FrozenClock(START.astimezone(INDIA))
        store = build(clock=clock, session_max_age=30 * DAY, session_update_age=DAY)
        session = store.create_session(user_id=store.create_user().id)
        clock.tick(days=2)
        touched = store.touch_session(session.session_token)
        assert touched.expires == START + 32 * DAY
        moments = (session.created_at, session.expires, touched.expires)
        assert {moment.utcoffset() for moment in moments} == {timedelta(0)}

    def test_ages_are_not_bent_by_summer_time(self, build: Call) -> None:
        """Thirty days are 720 hours, though the clock's wall time skips one of them."""
        now = datetime(2026, 10, 20, 12, tzinfo=SummerTime())
        store = build(clock=lambda: now, session_max_age=30 * DAY)
        session = store.create_session(user_id=store.create_user().id)
        assert session.expires == datetime(2026, 10, 20, 10, tzinfo=UTC) + 30 * DAY


class CustomModelContract(Contract):
    """Subclasses of the records, with fields of an application's own."""

    group = "custom models"

    @pytest.fixture
    def rich(self, build: Call) -> Any:
        """A store with a custom model of everything."""
        return build(**CUSTOM)

    @pytest.mark.parametrize("name", RECORDS)
    def test_custom_fields_take_their_defaults(self, rich: Any, name: str) -> None:
        """Where nothing is given; optional ones are None."""
        record = CREATE[name](rich, rich.create_user().id)
        assert type(record) is CUSTOM[name]
        assert fields(record) == DEFAULTS
        assert READ[name](rich, record) == record

    @pytest.mark.parametrize("name", RECORDS)
    def test_custom_fields_come_back_exactly(self, rich: Any, name: str) -> None:
        """The same values of the same types, as returned at once."""
        record = CREATE[name](rich, rich.create_user().id, **copy.deepcopy(GIVEN))
        found = READ[name](rich, record)
        assert type(found) is CUSTOM[name]
        assert fields(record) == GIVEN
        assert found == record
        assert [type(value) for value in fields(found).values()] == [*map(type, GIVEN.values())]

    @pytest.mark.parametrize("name", ["user", "session", "authenticator"])
    def test_every_method_returns_the_custom_model(self, rich: Any, name: str) -> None:
        """Typed and whole, also in lists, updates and farewells."""
        a, user_id = rich, rich.create_user(**GIVEN).id
        a.create_session(user_id=user_id, session_token="one", **GIVEN)
        register(a, user_id, **GIVEN)
        returned = {
            "user": lambda: [
                a.get_user(user_id), a.get_session_and_user("one").user, a.update_user(user_id, email="a@b"),
                a.get_user_by_email("a@b"), a.delete_user(user_id),
            ],
            "session": lambda: [
                *a.list_sessions(user_id), a.touch_session("one"), a.update_session("one", expires=FAR),
                rotated := a.rotate_session("one"), a.delete_session(rotated.session_token),
            ],
            "authenticator": lambda: [
                *a.list_authenticators_by_user_id(user_id), a.update_authenticator_counter("credential", 9),
            ],
        }[name]()
        for record in returned:
            assert (type(record), fields(record)) == (CUSTOM[name], GIVEN)

    def test_the_custom_model_of_an_account_is_returned_everywhere(self, rich: Any) -> None:
        """Typed and whole; its fields are no longer ``extra``."""
        user = rich.create_user()
        account = link(rich, user.id, **GIVEN, other=1)
        assert (fields(account), account.extra) == (GIVEN, {"other": 1})
        assert rich.list_accounts(user.id) == [account]
        assert rich.get_user_by_account(**key(account)) == user
        assert link(rich, user.id) == account
        assert rich.unlink_account(**key(account)) == account

    @pytest.mark.parametrize("name", KINDS)
    def test_an_update_changes_one_custom_field(self, rich: Any, name: str) -> None:
        """And leaves all others, of users and of sessions."""
        user = rich.create_user(**EMPTY)
        session = rich.create_session(user_id=user.id)
        change = {f"maybe_{name}": OTHERS[name]}
        user, session = dataclasses.replace(user, **change), dataclasses.replace(session, **change)
        assert rich.update_user(user.id, **change) == user
        assert rich.update_session(session.session_token, **change) == session
        assert rich.get_session_and_user(session.session_token) == (session, user)

    def test_an_update_by_what_python_calls_equal_is_an_update(self, rich: Any) -> None:
        """True is not 1 in JSON."""
        user = rich.create_user(mapping={"admin": 1})
        session = rich.create_session(user_id=user.id, mapping={"admin": 1})
        rich.update_user(user.id, mapping={"admin": True})
        rich.update_session(session.session_token, mapping={"admin": True})
        found = rich.get_session_and_user(session.session_token)
        assert [type(record.mapping["admin"]) for record in found] == [bool, bool]

    @pytest.mark.parametrize("name", KINDS)
    def test_none_clears_an_optional_field_and_no_other(self, rich: Any, name: str) -> None:
        """Where None does not fit, it is refused."""
        user = rich.create_user(**GIVEN)
        assert getattr(rich.update_user(user.id, **{f"maybe_{name}": None}), f"maybe_{name}") is None
        with pytest.raises(InvalidFieldError) as caught:
            rich.update_user(user.id, **{name: None})
        assert caught.value.field == name
        assert fields(rich.get_user(user.id)) == GIVEN | {f"maybe_{name}": None}

    @pytest.mark.parametrize("name", KINDS)
    def test_a_custom_field_refuses_what_does_not_fit(self, rich: Any, name: str) -> None:
        """By name; nothing is stored."""
        user = rich.create_user(id="ada")
        for value in KINDS[name][3]:
            with pytest.raises(InvalidFieldError) as caught:
                rich.update_user(user.id, **{name: value})
            assert (caught.value.model, caught.value.field) == ("CustomUser", name)
            with pytest.raises(InvalidFieldError):
                rich.create_user(id="new", **{f"maybe_{name}": value})
        assert rich.get_user("new") is None
        assert rich.get_user("ada") == user

    def test_a_list_that_holds_itself_is_refused(self, rich: Any) -> None:
        """JSON cannot carry it, and nobody may hang on it."""
        loop: list[Any] = []
        loop.append(loop)
        with pytest.raises(InvalidFieldError):
            rich.create_user(items=loop)

    @pytest.mark.parametrize("name", [name for name in KINDS if name not in ("mapping", "items")])
    def test_an_unfitting_provider_value_leaves_a_custom_field_at_its_default(
        self, rich: Any, name: str
    ) -> None:
        """And lies in ``extra``: a provider's whim is not fatal."""
        for i, value in enumerate([SURROGATE, ["x"]]):
            sent: dict[str, Any] = {name: value, f"maybe_{name}": value}
            account = link(rich, rich.create_user().id, str(i), **sent)
            assert fields(account) == DEFAULTS
            assert account.extra == sent

    @each(
        {
            "int in a float field": ("ratio", 3, 3.0),
            "minus zero": ("ratio", -0.0, 0.0),
            "infinity": ("ratio", -math.inf, -math.inf),
            "bytearray": ("blob", bytearray(b"x"), b"x"),
            "memoryview": ("blob", memoryview(b"x"), b"x"),
            "another timezone": ("moment", FAR.astimezone(INDIA), FAR),
        }
    )
    def test_a_value_has_one_form(self, rich: Any, case: Any) -> None:
        """What is accepted in another form is returned, at once and later, in the one form."""
        name, given, expected = case
        user = rich.create_user(**{name: given})
        for value in (getattr(user, name), getattr(rich.get_user(user.id), name)):
            assert (repr(value), type(value)) == (repr(expected), type(expected))

    def test_an_unknown_field_lists_the_custom_ones(self, rich: Any) -> None:
        """They are known."""
        with pytest.raises(TypeError) as caught:
            rich.create_user(nickname="A")
        assert {"email", "word", "maybe_items"} <= set(re.findall(r"\w+", str(caught.value)))

    def test_rotating_keeps_the_custom_fields(self, rich: Any) -> None:
        """Same user, same custom fields."""
        session = rich.create_session(user_id=rich.create_user().id, **GIVEN)
        rotated = rich.rotate_session(session.session_token)
        assert fields(rotated) == fields(READ["session"](rich, rotated)) == GIVEN

    @pytest.mark.parametrize("name", RECORDS)
    def test_a_record_is_no_alias_of_what_is_stored(self, rich: Any, name: str) -> None:
        """Neither what was passed in nor what was handed out reaches the store."""
        given: dict[str, Any] = {"mapping": {"deep": [1]}, "items": [[1]]}
        record = CREATE[name](rich, rich.create_user().id, **given)
        for mine in (given, fields(record), fields(READ[name](rich, record))):
            mine["mapping"]["deep"].append("changed")
            mine["mapping"]["new"] = "changed"
            mine["items"][0].append("changed")
        found = READ[name](rich, record)
        assert (found.mapping, found.items) == ({"deep": [1]}, [[1]])

    def test_extra_is_no_alias_of_what_is_stored(self, store: Any, ada: User) -> None:
        """As with custom fields."""
        team: dict[str, Any] = {"name": "red", "members": [1]}
        account = link(store, ada.id, team=team)
        [listed] = store.list_accounts(ada.id)
        for mine in (team, account.extra["team"], store.get_account(**key(account)).extra["team"]):
            mine["members"].append("changed")
        listed.extra.clear()
        assert store.get_account(**key(account)).extra == {"team": {"name": "red", "members": [1]}}

    def test_defaults_are_not_shared(self, rich: Any) -> None:
        """A list that one user fills is not the next one's."""
        rich.create_user().items.append("changed")
        assert rich.create_user().items == []

    @each(
        {
            "type": (complex, None),
            "container": (set[str], dataclasses.field(default_factory=set)),
            "two types": (int | str, 0),
            "anything": (Any, None),
            "no default": (str, dataclasses.MISSING),
            "a default of another type": (int, "zero"),
            "a naive default": (datetime, NAIVE),
            "None as a default": (str, None),
            "not given to __init__": (int, dataclasses.field(default=0, init=False)),
        }
    )
    @pytest.mark.parametrize("name", RECORDS)
    def test_a_field_that_cannot_be_stored_is_refused_at_construction(
        self, build: Call, name: str, case: Any
    ) -> None:
        """By name, before anything is written."""
        kind, default = case
        # Keyword-only, so that a field without a default may follow those that have one.
        field = default if isinstance(default, dataclasses.Field) else dataclasses.field(default=default)
        field.kw_only = True
        model = dataclasses.make_dataclass(
            "Odd", [("odd", kind, copy.copy(field))], bases=(RECORDS[name],), frozen=True
        )
        with pytest.raises(InvalidFieldError) as caught:
            build(**{name: model})
        assert (caught.value.model, caught.value.field) == ("Odd", "odd")
        assert "odd" in str(caught.value)

    @each({"another record": Session, "no dataclass": int, "an instance": User("x"), "text": "User"})
    def test_what_is_no_model_is_a_type_error(self, build: Call, case: Any) -> None:
        """At construction."""
        with pytest.raises(TypeError):
            build(user=case)


# --- the whole store --------------------------------------------------------------------------


class TransactionContract(Contract):
    """All or nothing, nesting as savepoints."""

    group = "transactions"

    def test_what_happens_inside_stays(self, store: Any) -> None:
        """And is seen inside; ``with ... as`` gives the store."""
        with store.transaction() as same:
            assert same is store
            ada = store.create_user(email="ada@example.com")
            assert store.get_user_by_email("ada@example.com") == ada
        assert store.get_user(ada.id) == ada

    @pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), Undo()], ids=repr)
    def test_any_exception_rolls_back_and_comes_through(self, store: Any, error: BaseException) -> None:
        """The very same object, for the caller to handle."""
        with pytest.raises(type(error)) as caught, store.transaction():
            ada = store.create_user()
            raise error
        assert caught.value is error
        assert store.get_user(ada.id) is None

    @each(
        {
            "create_user": lambda a: a.create_user(email="new@example.com"),
            "update_user": lambda a: a.update_user("ada", email="new@example.com", email_verified=None),
            "delete_user": lambda a: a.delete_user("ada"),
            "link_account, new": lambda a: link(a, "ada", "new"),
            "link_account, again": lambda a: link(a, "ada", "ada-1", access_token="x", team="x"),
            "unlink_account": lambda a: a.unlink_account(provider="github", provider_account_id="ada-1"),
            "create_session": lambda a: a.create_session(user_id="ada"),
            "update_session": lambda a: a.update_session("ada-1-session", expires=FAR),
            "rotate_session": lambda a: a.rotate_session("ada-1-session"),
            "delete_session": lambda a: a.delete_session("ada-1-session"),
            "revoke_sessions": lambda a: a.revoke_sessions("ada"),
            "create_verification_token": lambda a: a.create_verification_token(identifier="ada@example.com"),
            "delete_verification_tokens": lambda a: a.delete_verification_tokens("ada@example.com"),
            "create_authenticator": lambda a: register(a, "ada"),
            "update_authenticator_counter": lambda a: a.update_authenticator_counter("ada-1", 9),
            "restore": lambda a: [a.delete_user("ada"), a.restore(a.snapshot())],
        }
    )
    def test_every_write_can_be_rolled_back(self, home: Household, case: Any) -> None:
        """To exactly what was there before."""
        before = home.state()
        assert undone(home.store, lambda: case(home.store)), "the write did something"
        assert home.state() == before

    def test_a_purge_can_be_rolled_back(self, timed: Any, clock: FrozenClock) -> None:
        """And comes to the same when it is done again."""
        timed.create_session(user_id=timed.create_user().id)
        timed.create_verification_token(identifier="x")
        clock.tick(days=31)
        for _ in range(2):
            assert undone(timed, timed.purge_expired) == Purged(1, 1)
        assert timed.purge_expired() == Purged(1, 1)

    def test_an_inner_failure_leaves_the_outer_work(self, store: Any) -> None:
        """A transaction inside is a savepoint."""
        with store.transaction():
            first = store.create_user()
            lost = undone(store, store.create_user)
            last = store.create_user()
        assert [store.get_user(user.id) for user in (first, lost, last)] == [first, None, last]

    def test_an_outer_failure_takes_the_inner_work_along(self, store: Any) -> None:
        """However deep, and however successful in there."""
        made = []
        with pytest.raises(Undo), store.transaction():
            for _ in range(3):
                with store.transaction(), store.transaction():
                    made.append(store.create_user())
            raise Undo
        assert [store.get_user(user.id) for user in made] == [None] * 3

    @each(CONFLICTS)
    def test_work_goes_on_after_a_conflict_that_was_caught(self, home: Household, case: Any) -> None:
        """The refused write undid itself and nothing else."""
        before = home.state()
        with home.store.transaction():
            first = home.store.create_user()
            with pytest.raises(ConflictError):
                WRITES[case[0]](home.store, **case[1])
            last = home.store.create_user()
        assert home.store.get_user(first.id) == first
        assert home.store.get_user(last.id) == last
        assert home.state() == before

    def test_a_transaction_can_be_followed_by_another(self, store: Any) -> None:
        """Nothing is left behind by either end."""
        for _ in range(3):
            with store.transaction():
                kept = store.create_user()
            lost = undone(store, store.create_user)
            assert [store.get_user(kept.id), store.get_user(lost.id)] == [kept, None]

    def test_a_rolled_back_address_is_free(self, store: Any) -> None:
        """What is unique is rolled back with its record."""
        undone(store, lambda: store.create_user(email="ada@example.com"))
        assert store.create_user(email="ada@example.com")

    def test_nobody_sees_unfinished_work(self, store: Any, ada: User) -> None:
        """Another thread waits, or sees what was there before; never what is rolled back later."""
        store.transaction()  # skips where there is none, before the other thread waits for it
        changed, looked = threading.Event(), threading.Event()

        def look(_: int) -> Any:
            changed.wait(10)
            name = store.get_user(ada.id).name
            looked.set()
            return name

        def change() -> None:
            with pytest.raises(Undo), store.transaction():
                store.update_user(ada.id, name="unfinished")
                changed.set()
                looked.wait(0.05)  # one that makes readers wait is not seen to end
                raise Undo

        assert race(2, lambda i: look(i) if i else change())[1] == "Ada"

    def test_a_rollback_takes_no_other_threads_work_along(self, store: Any, ada: User) -> None:
        """A write of another thread is no part of this thread's transaction."""
        store.transaction()  # skips where there is none, before the other thread waits for it
        begun, created = threading.Event(), threading.Event()

        def roll_back() -> None:
            with pytest.raises(Undo), store.transaction():
                store.update_user(ada.id, name="unfinished")
                begun.set()
                created.wait(0.05)  # one that makes writers wait is not seen to end
                raise Undo

        def create() -> Any:
            begun.wait(10)
            user = store.create_user()
            created.set()
            return user

        made = race(2, lambda i: create() if i else roll_back())[1]
        assert store.get_user(made.id) == made
        assert store.get_user(ada.id) == ada


class LifecycleContract(Contract):
    """Purging, snapshots, the check, and the end."""

    group = "lifecycle"

    @pytest.fixture
    def aging(self, timed: Any, clock: FrozenClock) -> Any:
        """Six sessions and six tokens, of which four each have expired by now."""
        user_id = timed.create_user(id="ada").id
        for minutes in range(6):
            expires = START + timedelta(minutes=minutes)
            timed.create_session(user_id=user_id, session_token=str(minutes), expires=expires)
            timed.create_verification_token(identifier="x", token=str(minutes), expires=expires)
        clock.tick(minutes=3)
        return timed

    def test_a_purge_removes_the_expired_and_nothing_else(self, aging: Any, clock: FrozenClock) -> None:
        """What expires at this very moment included; the counts tell, and live ones live on."""
        purged = aging.purge_expired()
        assert (purged.sessions, purged.verification_tokens) == purged == (4, 4)
        assert isinstance(purged, Purged)
        assert aging.purge_expired() == (0, 0)
        clock.now = START - DAY
        assert len(aging.list_sessions("ada")) == aging.delete_verification_tokens("x") == 2

    def test_a_purge_can_be_limited(self, aging: Any) -> None:
        """At most so many of each kind, for those who cannot wait long."""
        counts = [aging.purge_expired(limit=limit) for limit in (0, 3, 3, 3)]
        assert counts == [(0, 0), (3, 3), (1, 1), (0, 0)]

    def test_a_limited_purge_takes_the_oldest_first(self, aging: Any, clock: FrozenClock) -> None:
        """So that every expired record has its turn."""
        aging.purge_expired(limit=3)
        clock.now = START - DAY
        assert {token for token in "012345" if aging.get_session_and_user(token)} == set("345")

    @pytest.mark.parametrize("limit", [-1, 1.5, "1"])
    def test_a_limit_that_is_no_count_is_refused(self, aging: Any, limit: Any) -> None:
        """Nothing is purged."""
        with pytest.raises((ValueError, TypeError)):
            aging.purge_expired(limit=limit)
        assert aging.purge_expired() == (4, 4)

    def test_an_extended_session_is_not_purged_at_its_old_end(self, aging: Any, clock: FrozenClock) -> None:
        """What counts is ``expires`` as it is now."""
        aging.update_session("4", expires=FAR)
        clock.tick(days=365)
        assert aging.purge_expired().sessions == 5
        assert aging.get_session_and_user("4").session.expires == FAR

    def test_a_store_that_only_creates_stays_bounded(self, build: Call, clock: FrozenClock) -> None:
        """Without a cron job: creating purges. [next-auth#6821, #7759; better-auth#1280]"""
        store = build(clock=clock, session_max_age=60, verification_max_age=60, purge_interval=60)
        user_id = store.create_user().id
        for _ in range(150):
            clock.tick(seconds=10)
            store.create_session(user_id=user_id)
            store.create_verification_token(identifier="x")
        clock.tick(days=1)
        left = store.purge_expired()
        # 6 are live at a time, and as many more expire in an interval, the one in between included.
        assert left.sessions <= 20 and left.verification_tokens <= 20

    def test_purging_at_writes_can_be_switched_off(self, timed: Any, clock: FrozenClock) -> None:
        """``purge_interval=None``: only ``purge_expired`` purges."""
        user_id = timed.create_user().id
        for _ in range(20):
            clock.tick(days=31)
            timed.create_session(user_id=user_id)
            timed.create_verification_token(identifier="x")
        assert timed.purge_expired() == (19, 19)

    def test_a_write_purges_at_most_once_in_an_interval(self, build: Call, clock: FrozenClock) -> None:
        """Within ``purge_interval`` by the clock nothing is spent on it; after it, it goes on."""
        store = build(clock=clock, session_max_age=10, purge_interval=60)
        user_id = store.create_user().id
        store.create_session(user_id=user_id)
        clock.tick(seconds=59)
        store.create_session(user_id=user_id)
        assert undone(store, store.purge_expired).sessions == 1
        clock.tick(seconds=1)
        store.create_session(user_id=user_id)
        assert undone(store, store.purge_expired).sessions == 0

    def test_a_single_write_does_bounded_work(self, build: Call, clock: FrozenClock) -> None:
        """Whoever signs in does not wait for a thousand deletions; the following writes go on with them."""
        store = build(clock=clock, session_max_age=60, purge_interval=60)
        user_id = store.create_user().id
        with store.transaction():
            for _ in range(1000):
                store.create_session(user_id=user_id)
        clock.tick(days=1)
        store.create_session(user_id=user_id)
        assert 0 < undone(store, store.purge_expired).sessions < 1000
        for _ in range(100):
            store.create_session(user_id=user_id)
        assert undone(store, store.purge_expired).sessions == 0

    def test_a_snapshot_brings_everything_back(self, store: Any, home: Household) -> None:
        """Exactly, as often as one likes, and tokens still sign in."""
        before, snapshot = home.state(), store.snapshot()
        for _ in range(2):
            store.delete_user(home.ada.id)
            store.update_user(home.grace.id, email="new@example.com")
            use(store, home.grace.tokens[0])
            link(store, home.grace.id, "grace-1", access_token="new", team="new")
            store.create_user(email="ada@example.com", id="new")
            store.restore(snapshot)
            assert home.state() == before
            assert store.get_user("new") is None
            assert problems(store) == []

    def test_an_empty_snapshot_empties(self, store: Any) -> None:
        """The fresh store that a test fixture wants."""
        snapshot = store.snapshot()
        home = Household(store)
        store.restore(snapshot)
        assert store.get_user(home.ada.id) is None
        assert [store.get_session_and_user(one.session_token) for one in home.ada.sessions] == [None] * 3
        Household(store)  # every address, account and credential is free

    def test_a_snapshot_keeps_custom_fields(self, build: Call) -> None:
        """Of every model."""
        store = build(**CUSTOM)
        user_id = store.create_user().id
        made = {name: create(store, user_id, **copy.deepcopy(GIVEN)) for name, create in CREATE.items()}
        snapshot = store.snapshot()
        store.delete_user(made["user"].id)
        store.delete_user(user_id)
        store.restore(snapshot)
        assert {name: READ[name](store, record) for name, record in made.items()} == made

    @each({"nothing": None, "dict": {}, "object": object()})
    def test_what_is_no_snapshot_is_a_type_error(self, store: Any, home: Household, case: Any) -> None:
        """And nothing is changed."""
        before = home.state()
        with pytest.raises(TypeError):
            store.restore(case)
        assert home.state() == before

    def test_a_sound_store_has_no_problems(self, store: Any, home: Household) -> None:
        """Nor has an empty one, nor one after much has gone."""
        assert problems(store) == []
        store.delete_user(home.ada.id)
        store.update_user(home.grace.id, email=None)
        assert problems(store) == []

    def test_checking_changes_nothing(self, store: Any, home: Household) -> None:
        """It only looks."""
        before = home.state()
        store.check()
        assert home.state() == before

    def test_closing_twice_is_harmless(self, store: Any) -> None:
        """Also after ``with``, which closes too."""
        with store as same:
            assert same is store
        store.close()
        store.close()

    @pytest.mark.parametrize("name", CALLS)
    def test_use_after_close_is_a_closed_error(self, store: Any, name: str) -> None:
        """In every method, whatever it was asked for."""
        store.close()
        with pytest.raises(ClosedError) as caught:
            CALLS[name](store)
        assert isinstance(caught.value, AuthStoreError)

    def test_a_closed_store_restores_nothing(self, store: Any) -> None:
        """``restore`` with what it would have taken."""
        snapshot = store.snapshot()
        store.close()
        with pytest.raises(ClosedError):
            store.restore(snapshot)

    def test_with_closes_also_after_an_exception(self, store: Any) -> None:
        """Which comes through."""
        with pytest.raises(Undo), store:
            raise Undo
        with pytest.raises(ClosedError):
            store.get_user("x")

    @each({"empty": "", "half a character": SURROGATE, "too long": "x" * 10_000})
    def test_a_closed_adapter_says_so_whatever_is_asked(self, store: Any, case: Any) -> None:
        """Also where the answer could only be nothing: it is a programmer's mistake all the same."""
        store.close()
        for look in (store.get_user, store.get_user_by_email, store.get_session_and_user, store.list_accounts):
            with pytest.raises(ClosedError):
                look(case)
        with pytest.raises(ClosedError):
            store.purge_expired(limit=0)

    def test_an_adapter_left_open_warns(self, make_adapter: Call, wrap: Call) -> None:
        """So that leaks show in tests, before they fail on Windows. [cpython#135333]"""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()  # what other tests left behind is not what is looked for
        with pytest.warns(ResourceWarning):
            wrap(make_adapter())
            gc.collect()

    @pytest.mark.filterwarnings("error::ResourceWarning", "error::pytest.PytestUnraisableExceptionWarning")
    def test_a_closed_adapter_does_not_warn(self, make_adapter: Call, wrap: Call) -> None:
        """Nor does one whose construction failed."""
        wrap(make_adapter()).close()
        with pytest.raises((TypeError, ValueError)):
            wrap(make_adapter(session_max_age="long"))
        gc.collect()

    @each(
        {
            "negative age": {"session_max_age": -1},
            "age in words": {"session_update_age": "1 day"},
            "negative limit": {"session_absolute_age": -DAY},
            "age that is a truth": {"verification_max_age": True},
            "negative interval": {"purge_interval": -1},
            "empty secret": {"secret": ""},
            "secret of another type": {"secret": 5},
            "naive clock": {"clock": lambda: NAIVE},
            "clock without datetimes": {"clock": time.time},
            "unknown option": {"session_age": 5},
        }
    )
    def test_a_wrong_option_is_refused_at_construction(self, build: Call, case: Any) -> None:
        """By name, not at the first sign-in."""
        with pytest.raises((TypeError, ValueError), match=next(iter(case))):
            build(**case)


# --- threads ----------------------------------------------------------------------------------

CROWD = 32

RACES: dict[str, tuple[Call, type[Any]]] = {
    "sign-up, e-mail": (
        lambda a, i: a.create_user(email=("New@example.com", "new@example.com ")[i % 2]), ConflictError
    ),
    "sign-up, id": (lambda a, i: a.create_user(id="new", name=str(i)), ConflictError),
    "change of e-mail": (lambda a, i: a.update_user(str(i), email="new@example.com"), ConflictError),
    "link": (lambda a, i: link(a, str(i), "new"), ConflictError),
    "session token": (lambda a, i: a.create_session(user_id=str(i), session_token="new"), ConflictError),
    "passkey": (lambda a, i: register(a, str(i), "new"), ConflictError),
    "counter": (lambda a, i: a.update_authenticator_counter("ada-1", 9), CounterRegressionError),
    "magic link": (lambda a, i: use(a, VerificationToken("ada@example.com", "ada-1-token", FAR)), NoneType),
    "rotation": (lambda a, i: a.rotate_session("ada-1-session"), NoneType),
    "sign-out": (lambda a, i: a.delete_session("ada-1-session"), NoneType),
    "revocation": (lambda a, i: a.revoke_sessions("ada") or None, NoneType),
    "unlinking": (lambda a, i: a.unlink_account(provider="github", provider_account_id="ada-1"), NoneType),
    "deletion": (lambda a, i: a.delete_user("ada"), NoneType),
}
"""What only one of many can win, and how the others are answered."""


class ConcurrencyContract(Contract):
    """Real threads on one store."""

    group = "concurrency"

    @each(RACES)
    def test_one_wins_and_the_others_get_the_documented_answer(self, home: Household, case: Any) -> None:
        """Thirty-two at once. Select-then-delete gave 8 winners of 8. [better-auth#9572]"""
        for i in range(CROWD):
            home.store.create_user(id=str(i))
        call, lost = case
        answers = race(CROWD, lambda i: call(home.store, i))
        winners = [answer for answer in answers if not isinstance(answer, lost)]
        assert len(winners) == 1, f"of {CROWD} one wins, the others get {lost.__name__}; not so {winners}"
        assert not isinstance(winners[0], Exception), winners
        assert problems(home.store) == []

    def test_a_raced_account_belongs_to_the_winner(self, store: Any) -> None:
        """One provider account, one owner, whoever came second."""
        ids = [store.create_user().id for _ in range(CROWD)]
        answers = race(CROWD, lambda i: link(store, ids[i], "new", access_token=ids[i]))
        [account] = [answer for answer in answers if isinstance(answer, Account)]
        assert store.get_account(**key(account)) == account
        assert account.access_token == account.user_id
        assert [one for user_id in ids for one in store.list_accounts(user_id)] == [account]

    def test_a_session_rotated_by_many_is_one_session(self, store: Any, home: Household) -> None:
        """Two tokens for one sign-in would be one too many."""
        race(CROWD, lambda i: store.rotate_session(home.ada.sessions[0].session_token))
        assert len(store.list_sessions(home.ada.id)) == 3

    @each(
        {
            "update_user": (
                lambda a, r: a.update_user(r.id, name="new"), lambda a, r: a.delete_user(r.id),
                lambda a, r: a.get_user(r.id),
            ),
            "update_session": (
                lambda a, r: a.update_session(r.sessions[0].session_token, expires=FAR),
                lambda a, r: a.delete_session(r.sessions[0].session_token),
                lambda a, r: a.get_session_and_user(r.sessions[0].session_token),
            ),
            "create_session": (
                lambda a, r: a.create_session(user_id=r.id), lambda a, r: a.delete_user(r.id),
                lambda a, r: a.list_sessions(r.id) or None,
            ),
            "link_account": (
                lambda a, r: link(a, r.id, "again"), lambda a, r: a.delete_user(r.id),
                lambda a, r: a.get_account(provider="github", provider_account_id="again"),
            ),
        }
    )
    def test_a_write_that_races_a_delete_resurrects_nothing(self, store: Any, case: Any) -> None:
        """Whichever comes first, in the end it is gone. [django#5950]"""
        write, delete, look = case
        for i in range(10):
            resident = Resident(store, f"user{i}")
            answers = race(8, lambda i: (delete if i == 0 else write)(store, resident))
            assert look(store, resident) is None
            assert all(isinstance(a, NotFoundError) for a in answers if isinstance(a, Exception)), answers
        assert problems(store) == []

    def test_eight_threads_on_one_store_get_their_own_records(self, store: Any) -> None:
        """An unguarded connection returned other people's rows on Python 3.12: signed in as somebody else."""
        residents = [Resident(store, f"user{i}") for i in range(8)]

        def visit(i: int) -> list[str]:
            resident, wrong = residents[i], []
            for n in range(60):
                session = resident.sessions[n % 3]
                if store.get_session_and_user(session.session_token) != (session, resident.user):
                    wrong.append(f"{i}: session")
                if store.get_user_by_email(resident.user.email) != resident.user:
                    wrong.append(f"{i}: user")
                if n % 10 == 0:
                    token = store.create_session(user_id=resident.id).session_token
                    if store.delete_session(token).user_id != resident.id:
                        wrong.append(f"{i}: created session")
            return wrong

        assert race(8, visit) == [[]] * 8

    def test_reading_and_writing_in_a_transaction_loses_no_update(self, store: Any, ada: User) -> None:
        """Eight threads that count to ten count to eighty."""
        store.update_user(ada.id, name="0")

        def count(_: int) -> None:
            for _ in range(10):
                with store.transaction():
                    store.update_user(ada.id, name=str(int(store.get_user(ada.id).name) + 1))

        assert race(8, count) == [None] * 8
        assert store.get_user(ada.id).name == "80"


class AdapterContract(
    UserContract,
    AccountContract,
    SessionContract,
    VerificationContract,
    AuthenticatorContract,
    StrangerContract,
    TimeContract,
    CustomModelContract,
    TransactionContract,
    LifecycleContract,
    ConcurrencyContract,
):
    """The whole contract."""
