"""What the tests of every group use: clocks, loops and threads, users to look at, and the fixtures."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import copy_context
from datetime import datetime, timedelta, timezone
from typing import Any, ClassVar

import pytest

from ..clock import START as START, UTC as UTC, FrozenClock as FrozenClock
from ..contract import Adapter, AuthenticatorStore, SessionStore, UserStore, VerificationStore
from ..models import Account, VerificationToken

DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)
NAIVE = datetime(2026, 1, 2, 3, 4, 5)
INDIA = timezone(timedelta(hours=5, minutes=30))
FAR = datetime(2286, 11, 20, 17, 46, 39, 999000, UTC)
SURROGATE = "\ud800"  # half a character: a str in Python, but no UTF-8
HUGE = 10_000_000
NOBODY = "nobody"
Call = Callable[..., Any]

NOTHING = {
    "list_accounts": [], "list_sessions": [], "list_authenticators_by_user_id": [],
    "revoke_session": False, "revoke_sessions": 0, "delete_verification_tokens": 0,
}
"""What the methods answer where there is nothing, if that is not None."""

SAME_ADDRESS = {
    "case": ("Ada@Example.COM", "ada@example.com"),
    "blanks around": ("\t ada@example.com \n", "ada@example.com"),
    "other blanks around": ("\u00a0ada@example.com\u3000", "ada@example.com"),
    "composed and combining": ("zo\u00eb@example.com", "zoe\u0308@example.com"),
    "Angstrom sign": ("\u212b@example.com", "\u00e5@example.com"),
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
    "full-width letter": ("\uff41da@example.com", "ada@example.com"),
    "full-width at sign": ("ada\uff20example.com", "ada@example.com"),
    "ligature": ("e\ufb03e@example.com", "effie@example.com"),
    "Kelvin sign": ("\u212a@example.com", "k@example.com"),
    "dotted capital I": ("\u0130@example.com", "i\u0307@example.com"),
    "Greek question mark": ("a\u037e@example.com", "a;@example.com"),
}


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
"""What an adapter may support, and the methods that each group adds."""

METHODS = frozenset[str]().union(*GROUPS.values())


PATIENCE = 60.0
"""Seconds after which an asynchronous call counts as stuck."""


class Loop:
    """An event loop on a thread of its own, started when it is first needed."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._caller = threading.local()
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, call: Call, /, *arguments: Any, **fields: Any) -> Any:
        """What ``call`` returns or raises, awaited if need be, as a task of the loop.

        All calls from one thread share a context: a ``ContextVar``, such as one that holds the open
        transaction, sees a thread of the tests as it sees a task of an application.
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
            self._tasks.add(begun)  # the loop itself keeps only a weak reference
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
    """A ``with`` block on an adapter, asynchronous or not: a transaction, or the adapter itself."""

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
    """An adapter as the tests see it: synchronous; a test that asks for a method it lacks is skipped."""

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
        """Close the adapter, if it has such a method."""
        if close := getattr(self._adapter, "close", None):
            self._call(close)

    def _lack(self, name: str) -> str | None:
        """Why tests that need this method are skipped; None if they run."""
        if self._capabilities is None:
            names = (name, name.replace("__", "__a", 1))  # __aenter__ for __enter__
            known = any(hasattr(self._adapter, one) for one in names)
            return None if known else f"{type(self._adapter).__name__} has no {name}()"
        group = next(group for group, methods in GROUPS.items() if name in methods)
        return None if group in self._capabilities else f"{name}() needs {group!r} in capabilities"


def offers(store: Any, name: str) -> bool:
    """Whether the store has this method; for tests that can do without it."""
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
    """What ``call()`` returns; its effects are rolled back. It shows what only a write can show."""
    result = None
    with pytest.raises(Undo), store.transaction():
        result = call()
        raise Undo
    return result


def register(store: Any, user_id: str, credential_id: str = "credential", **fields: Any) -> Any:
    """``create_authenticator`` with a value for every required field."""
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
    """The session, looked up so often that a store with a cache has cached it: it must notice every later
    write."""
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
        """For records that the store cannot create: asking for them skips the test, as the method does."""
        if name not in self.MADE_BY:
            raise AttributeError(name)
        return getattr(self.store, self.MADE_BY[name])

    def state(self) -> list[Any]:
        """Everything about this user that the contract shows."""
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
    """Those of ``GROUPS`` that the adapter supports; None: all whose methods it has."""

    @pytest.fixture
    def make_adapter(self) -> Call:
        """Override: a callable that takes an adapter's options and returns a new, empty adapter."""
        pytest.skip("override the fixture make_adapter to run what needs options, such as clock=")

    @pytest.fixture
    def adapter(self, make_adapter: Call) -> Any:
        """Override this if ``make_adapter`` is not overridden: one new, empty adapter."""
        return make_adapter()

    @pytest.fixture(autouse=True)
    def _capable(self, request: pytest.FixtureRequest) -> None:
        """Skip the groups that the class does not claim to support."""
        if self.capabilities is not None:
            if unknown := {*self.capabilities} - {*GROUPS}:
                pytest.fail(f"capabilities may be {', '.join(GROUPS)}; not {', '.join(unknown)}")
            test, kinds = request.function.__name__, reversed(type(self).__mro__)
            group = next(vars(kind).get("group") for kind in kinds if test in vars(kind))
            if group is not None and group not in self.capabilities:
                pytest.skip(f"{group!r} is not in capabilities")

    @pytest.fixture
    def wrap(self) -> Iterator[Call]:
        """A function that makes a ``Subject`` of an adapter, or of an awaitable that gives one."""
        loop = Loop()

        def wrap(made: Any) -> Subject:
            if inspect.isawaitable(made):
                made = loop.run(lambda: made)
            return Subject(made, loop, self.capabilities)

        yield wrap
        loop.close()

    @pytest.fixture
    def shut(self) -> Iterator[Call]:
        """A function that returns its argument, and has it closed after the test."""
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
        """A store on the frozen clock, with the ages that tests rely on, purging only when told to."""
        return build(
            clock=clock, session_max_age=30 * DAY, session_update_age=DAY, verification_max_age=600,
            purge_interval=None,
        )
