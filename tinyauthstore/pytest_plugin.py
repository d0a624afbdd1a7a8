"""Fixtures for the tests of an application that keeps its users and sessions in a store of this package.

pytest finds them by itself where the package is installed. A suite that uses none of them is not affected,
and imports nothing but this module. ``-p no:tinyauthstore`` disables them.

``auth_store``: a store for this test alone, in memory unless ``--auth-store``, the ini option
``auth_store`` or ``@pytest.mark.auth_store("sqlite", session_max_age=3600)`` says otherwise; the marker's
keywords are the store's options. ``async_auth_store``: the same store, awaited. ``auth_clock``: the frozen
clock that the store follows, which begins at the real time unless the ini option ``auth_clock`` or
``@pytest.mark.auth_clock("2031-05-06T07:08:09Z")`` says otherwise. ``auth_user``, ``make_user``,
``make_session``, ``signed_in``, ``sign_in``: users and their sessions. ``auth_baseline``: override it to fill
a store once for many tests.

Ids and tokens count up: ``user-1``, ``token-1``. Anybody can guess them, so they are for tests only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from . import __all__ as public_names

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from datetime import datetime

    from . import Adapter, Session, User
    from .aio import AsyncAdapter
    from .clock import FrozenClock

    Fill = Callable[[Adapter], object]

ON_DISK = {"sqlite-file": "SQLiteAdapter", "shelve": "ShelveAdapter"}
KINDS = ["memory", "sqlite", *(kind for kind, adapter in ON_DISK.items() if adapter in public_names)]
"""What ``--auth-store`` takes."""

SAME_START = 600
"""Seconds for which tests with a baseline begin at the same time, so that it need not be filled again. After
that, it is the real time again, lest a long run's cookies have expired when they are set."""

_kind = pytest.StashKey[str]()
_given_start = pytest.StashKey["datetime | None"]()
_real_start = pytest.StashKey["datetime"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    text = f"where the fixture auth_store keeps its records: {', '.join(KINDS)}"
    parser.getgroup("tinyauthstore").addoption("--auth-store", metavar="KIND", help=text)
    parser.addini("auth_store", text, default="memory")
    parser.addini("auth_clock", "when the fixture auth_clock begins (ISO 8601 with an offset); now, if empty")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "auth_store(kind, **options): the kind and the options of this test's auth_store."
    )
    config.addinivalue_line("markers", "auth_clock(start): when this test's auth_clock begins.")
    kind = config.getoption("auth_store") or config.getini("auth_store")
    if kind not in KINDS:
        raise pytest.UsageError(_refusal(kind))
    config.stash[_kind] = kind
    text = config.getini("auth_clock")
    try:
        config.stash[_given_start] = _moment(text) if text else None
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


def _refusal(*given: object) -> str:
    given_here = ", ".join(map(repr, given))
    return f"auth_store (--auth-store, ini option or marker) is one of {', '.join(KINDS)}; got {given_here}"


def _moment(given: object) -> datetime:
    """A start as a datetime in UTC. ValueError if it is neither that nor its text."""
    from .clock import from_iso, in_utc

    try:
        return in_utc(from_iso(given) if isinstance(given, str) else given)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            "auth_clock (ini option or marker) is an aware datetime, or its text, such as"
            f" 2031-05-06T07:08:09+00:00; got {given!r}"
        ) from None


# --- the store --------------------------------------------------------------------------------


class _Numbered:
    """A callable that returns ``user-1``, ``user-2``, ..., never the same to two threads."""

    def __init__(self, name: str) -> None:
        self._name, self._first = name, 1
        self.rewind()

    def __call__(self) -> str:
        return f"{self._name}-{next(self._numbers)}"

    def mark(self) -> None:
        """Make ``rewind`` return to this point."""
        self._first = next(self._numbers)
        self.rewind()

    def rewind(self) -> None:
        self._numbers = count(self._first)


class _Wanted:
    """The kind and the options of a test's store. A closer marker takes precedence over the others."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request
        self.kind, self.options = request.config.stash[_kind], dict[str, Any]()
        for mark in reversed([*request.node.iter_markers("auth_store")]):
            if mark.args:
                if len(mark.args) > 1 or mark.args[0] not in KINDS:
                    pytest.fail(_refusal(*mark.args), pytrace=False)
                self.kind = mark.args[0]
            self.options |= mark.kwargs

    def open(self, **defaults: Any) -> Adapter:
        from . import adapters

        options = defaults | self.options
        if self.kind == "memory":
            return adapters.MemoryAdapter(**options)
        if self.kind == "sqlite":
            return adapters.SQLiteAdapter(":memory:", **options)
        # Not in tmp_path, which a test may expect to be empty. pytest-xdist's workers have separate folders.
        folder = self._request.getfixturevalue("tmp_path_factory").mktemp("auth-store")
        options = {"durability": "normal"} | options  # no test needs to survive a power cut
        store: Adapter = getattr(adapters, ON_DISK[self.kind])(folder / "auth.db", **options)
        return store


class _Shared:
    """A store that was filled once, and is restored to that state whenever it is lent to a test."""

    def __init__(self, wanted: _Wanted, fill: Fill, clock: FrozenClock) -> None:
        if not callable(fill):
            pytest.fail(
                "auth_baseline must return a function that takes a store and fills it, or None; it returned"
                f" {fill!r}", pytrace=False,
            )  # fmt: skip
        self._made_for = (wanted.kind, wanted.options)
        self._fill, self._clock, self._start = fill, clock, clock()
        self._numbers = {"new_id": _Numbered("user"), "new_token": _Numbered("token")}
        self._store = wanted.open(clock=lambda: self._clock(), **self._numbers)
        try:
            fill(self._store)
            self._snapshot = self._store.snapshot()
        except BaseException:
            self._store.close()
            raise
        for numbered in self._numbers.values():
            numbered.mark()

    def suits(self, wanted: _Wanted) -> bool:
        return self._made_for == (wanted.kind, wanted.options)

    def lend(self, fill: Fill, clock: FrozenClock) -> Adapter | None:
        """The store as it was filled. None if it was closed, or ``fill`` or the starting time differs."""
        from . import ClosedError

        if self._fill is not fill or self._start != clock():
            return None
        self._clock = clock
        for numbered in self._numbers.values():
            numbered.rewind()
        try:
            self._store.restore(self._snapshot)
        except ClosedError:  # the application closed it
            return None
        return self._store

    def close(self) -> None:
        self._store.close()


@pytest.fixture
def auth_clock(request: pytest.FixtureRequest, auth_baseline: Fill | None) -> FrozenClock:
    """auth_store's frozen clock: auth_clock() is an aware UTC datetime, auth_clock.tick(days=31) moves it."""
    from .clock import FrozenClock, in_utc, real_time

    stash, mark = request.config.stash, request.node.get_closest_marker("auth_clock")
    if mark is not None:
        if len(mark.args) != 1 or mark.kwargs:
            pytest.fail("@pytest.mark.auth_clock takes one argument: when the clock begins", pytrace=False)
        try:
            return FrozenClock(_moment(mark.args[0]))
        except ValueError as error:
            pytest.fail(str(error), pytrace=False)
    if (start := stash[_given_start]) is None:
        # Whole seconds, as cookies and many tokens have them: what was sent through one compares as equal.
        now = start = in_utc(real_time()).replace(microsecond=0)
        if auth_baseline is not None:
            start = stash.get(_real_start, now)
            if abs((now - start).total_seconds()) >= SAME_START:
                start = now
            stash[_real_start] = start
    return FrozenClock(start)


@pytest.fixture(scope="session")
def auth_baseline() -> Fill | None:
    """Override it to return a function that fills a store; every auth_store then begins in that state."""
    return None


@pytest.fixture(scope="session")
def _auth_shared() -> Iterator[list[_Shared]]:
    """The stores with a baseline: one for each combination of kind and options that the tests ask for."""
    found: list[_Shared] = []
    yield found
    for shared in found:
        shared.close()


@pytest.fixture
def auth_store(
    request: pytest.FixtureRequest, auth_clock: FrozenClock, auth_baseline: Fill | None
) -> Iterator[Adapter]:
    """A store for this test alone: empty, or as auth_baseline filled it."""
    wanted = _Wanted(request)
    if auth_baseline is None:
        with wanted.open(clock=auth_clock, new_id=_Numbered("user"), new_token=_Numbered("token")) as store:
            yield store
        return
    pool: list[_Shared] = request.getfixturevalue("_auth_shared")
    found = next((shared for shared in pool if shared.suits(wanted)), None)
    lent = None if found is None else found.lend(auth_baseline, auth_clock)
    if lent is None:
        if found is not None:
            pool.remove(found)
            found.close()
        pool.append(_Shared(wanted, auth_baseline, auth_clock))
        lent = pool[-1].lend(auth_baseline, auth_clock)
        assert lent is not None
    yield lent


@pytest.fixture
def async_auth_store(auth_store: Adapter) -> Iterator[AsyncAdapter]:
    """auth_store, awaited: an AsyncAdapter for this test, whatever runs the event loop."""
    from .aio import AsyncAdapter

    store = AsyncAdapter(auth_store)
    yield store
    store._dismiss()


# --- users and their sessions -----------------------------------------------------------------


def _parts(url: str) -> SplitResult:
    from urllib.parse import urlsplit  # 2 ms, which only a test that signs somebody in should pay

    return urlsplit(url)


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A user with a session, whose token a browser sends to ``url`` in the cookie ``cookie_name``."""

    user: User
    session: Session
    cookie_name: str
    url: str

    @property
    def cookie(self) -> str:
        """The value of a ``Cookie`` header."""
        return f"{self.cookie_name}={self.session.session_token}"

    @property
    def cookies(self) -> dict[str, str]:
        """Name and value, as test clients take them."""
        return {self.cookie_name: self.session.session_token}

    @property
    def storage_state(self) -> dict[str, Any]:
        """What Playwright's ``browser.new_context(storage_state=...)`` takes.

        The cookie has no expiry of its own (-1): the browser does not follow the frozen clock, and the store
        decides how long a session lives.
        """
        url = _parts(self.url)
        cookie = {
            "name": self.cookie_name,
            "value": self.session.session_token,
            "domain": url.hostname,
            "path": "/",
            "expires": -1,
            "httpOnly": True,
            # Browsers require it for these prefixes, and send such a cookie to http://localhost, too.
            "secure": url.scheme == "https" or self.cookie_name.startswith(("__Host-", "__Secure-")),
            "sameSite": "Lax",
        }
        return {"cookies": [cookie], "origins": []}


@pytest.fixture
def make_user(auth_store: Adapter) -> Callable[..., User]:
    """make_user(**fields): a new user, with the address ID@example.com unless email= (even None) is given."""

    def make_user(**fields: Any) -> User:
        if "email" in fields:
            return auth_store.create_user(**fields)
        with auth_store.transaction():
            user = auth_store.create_user(**fields)
            return auth_store.update_user(user.id, email=f"{user.id}@example.com")

    return make_user


@pytest.fixture
def auth_user(make_user: Callable[..., User]) -> User:
    """The user of this test, whom the other fixtures use unless another one is given."""
    return make_user()


@pytest.fixture
def make_session(request: pytest.FixtureRequest, auth_store: Adapter) -> Callable[..., Session]:
    """make_session(user=None, **fields): a new session of that user, or of auth_user."""

    def make_session(user: User | None = None, **fields: Any) -> Session:
        owner: User = request.getfixturevalue("auth_user") if user is None else user
        return auth_store.create_session(user_id=owner.id, **fields)

    return make_session


@pytest.fixture
def sign_in(request: pytest.FixtureRequest, make_session: Callable[..., Session]) -> Callable[..., SignedIn]:
    """sign_in(user=None, *, cookie_name="session", url="http://localhost:8000", **fields): a SignedIn."""

    def sign_in(
        user: User | None = None, *, cookie_name: str = "session", url: str = "http://localhost:8000",
        **fields: Any
    ) -> SignedIn:
        if not (url.startswith(("http://", "https://")) and _parts(url).hostname):
            raise ValueError(f'url must be like "http://localhost:8000"; got {url!r}')
        owner: User = request.getfixturevalue("auth_user") if user is None else user
        return SignedIn(owner, make_session(owner, **fields), cookie_name, url)

    return sign_in


@pytest.fixture
def signed_in(sign_in: Callable[..., SignedIn]) -> SignedIn:
    """auth_user with a session: .user, .session, .cookie, .cookies, .storage_state."""
    return sign_in()
