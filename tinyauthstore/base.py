"""``BaseAdapter``: the contract's rules over a dozen storage verbs, which a backend of your own implements.

What must not differ between stores is here: defaults, validation, normal forms, digests, expiry, conflicts.
What does differ is left to the verbs at the end of the class. They receive valid records and return equal
ones, whose tokens are empty strings: a backend sees a token in ``_get_session_and_user`` only. Records are
filed under an opaque *key*, a tuple of str and bytes that the rules make.

Locks (``transactions.py`` explains turns):

- ``_begin``, ``_commit``, ``_rollback`` and every verb that writes are called with the store's turn held, the
  verbs after ``_begin``. So no other thread writes, and what the rules have read still holds when they write.
  A transaction may end in another thread than the one in which it began.
- ``_get``, ``_find``, ``_page``, ``_count``, ``_get_owner`` and ``_get_session_and_user`` are called from any thread,
  without a turn. A backend that cannot read while another thread writes, or that would show what is not
  committed yet, reads through ``_in_turn``. Inside a transaction (``innermost(self)``) these verbs see what
  was written there.

Errors: a backend raises StorageError, or BusyError after waiting in vain, with its library's exception as
``__cause__``. The rules find conflicts and missing records themselves. An exception that a signal's handler
raises (Ctrl-C) may come between any two lines; ``_rollback`` follows, and must leave the store sound.

A constructor calls ``super().__init__(**options)`` first and ``self._opened()`` last. Records may hold dicts and
lists: a store in memory copies them when it files a record and when it returns one. ``tests/test_own_backend.py``
is a whole backend in a hundred lines; ``tests/examples/postgres.py`` is one over a network.
"""

from __future__ import annotations

import dataclasses
import datetime as standard
import functools
import hashlib
import hmac
import inspect
import secrets
import uuid
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from threading import get_ident
from types import GenericAlias, TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from . import forks
from .clock import FIRST, LAST, PLAIN, UTC, is_datetime, monotonic, real_time
from .contract import Adapter, Snapshot, by_name, refuse_to_copy
from .errors import (
    BusyError, ClosedError, ConflictError, CounterRegressionError, InvalidFieldError, NotFoundError,
    StorageError,
)
from .kept import Kept
from .models import (
    ACCOUNT, AUTHENTICATOR, ENTITIES, MAX_KEY_LENGTH, SESSION, USER, VERIFICATION_TOKEN,
    AccountT, AuthenticatorT, Counts, Entity, Purged, Record, Session, SessionAndUser, SessionT,
    User, UserT, VerificationTokenT, as_json, containers, email_key, end_of, fields_of,
    from_provider, identifier_key, session_id, storable,
)
from .transactions import Block, Transaction, Turn, about_to_wait, innermost, tasks_share_this_thread

if TYPE_CHECKING:
    from typing import Self, TypedDict

T = TypeVar("T")

Key = tuple[Any, ...]
"""What a record is filed under: the values of ``entity.key``, with normal forms and digests in place of
fields that have them. The rules make keys; only a backend takes them apart."""

DAY = 24 * 60 * 60
"""Seconds."""

MOST = 2**63 - 1
"""Of records; no store has room for more, and SQLite counts no further."""

UPDATES = 30
"""How many times a session that is always in use is extended within its age, unless ``session_update_age``
says otherwise: Auth.js's ratio, which extends its 30 days at most once a day."""


PURGE_BATCH = 100
"""At most so many expired records of each kind are removed by a single write, besides its own work."""

PAGE = 1000
"""So many records are read at a time where all are: the rest stays where it is, and others write in between."""

MODEL_OPTIONS = ("user", "account", "session", "verification_token", "authenticator")
"""The options for ``ENTITIES``' models."""

AT_ONCE = 100
"""At most so many records are read by a look-up on an event loop: about a millisecond's worth."""


if TYPE_CHECKING:

    class Options(
        TypedDict, Generic[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT], total=False
    ):
        """The options that every store takes; ``BaseAdapter.__init__`` explains them."""

        user: type[UserT]
        account: type[AccountT]
        session: type[SessionT]
        verification_token: type[VerificationTokenT]
        authenticator: type[AuthenticatorT]
        session_max_age: float | timedelta
        session_update_age: float | timedelta | None
        session_absolute_age: float | timedelta | None
        verification_max_age: float | timedelta
        purge_interval: float | timedelta | None
        timeout: float
        secret: str | bytes | None
        cache_size: int
        clock: Callable[[], datetime] | None
        new_id: Callable[[], str] | None
        new_token: Callable[[], str] | None


Constructor = TypeVar("Constructor", bound=Callable[..., None])


def naming_options(constructor: Constructor) -> Constructor:
    """Add the options that every store takes to the signature that ``help()`` shows of a constructor."""
    shown = inspect.signature(constructor)
    own = [one for one in shown.parameters.values() if one.kind is not one.VAR_KEYWORD]
    shared = inspect.signature(BaseAdapter.__init__).parameters.values()
    options = [one for one in shared if one.kind is one.KEYWORD_ONLY and one.name not in shown.parameters]
    constructor.__signature__ = shown.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    return constructor


def _new_id() -> str:
    """A random UUID, as Auth.js's core makes for users."""
    return str(uuid.uuid4())


def _new_token() -> str:
    """256 random bits from the operating system, as URL-safe text."""
    return secrets.token_urlsafe(32)


def _age(name: str, value: float | timedelta) -> timedelta:
    """An age in seconds or as a timedelta, as a timedelta. ValueError if it is neither, or negative."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e13:
        value = timedelta(seconds=value)
    if not isinstance(value, timedelta) or value < timedelta(0):
        raise ValueError(f"{name} must be a number of seconds or a timedelta, not negative; got {value!r}")
    return value


def _later(moment: datetime, age: timedelta) -> datetime:
    """``moment + age``, or the last datetime there is: an application's "for ever" must not overflow."""
    try:
        return moment + age
    except OverflowError:
        return LAST


def _earlier(moment: datetime, age: timedelta) -> datetime:
    """``moment - age``, or the first datetime there is."""
    try:
        return moment - age
    except OverflowError:
        return FIRST


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    return value


def _limit(value: Any) -> int:
    """A ``limit``. ValueError if it is no count."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"limit must be an int of at least 0; got {value!r}")
    return min(value, MOST)


def _utf8(text: str | bytes) -> bool:
    """Whether ``text`` is bytes, or a str that UTF-8 can encode (one without lone surrogates)."""
    return isinstance(text, bytes) or text.isascii() or text.encode("utf-8", "ignore").decode() == text


def brief(value: Any) -> str:
    """An id for an error message: printable, and short even if somebody sent megabytes."""
    return ascii(value[:60] + "..." if isinstance(value, str) and len(value) > 60 else value)


class BaseAdapter(Adapter, Generic[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]):
    """The contract, written once over the storage verbs at the end of this class.

    Any number of threads may use a store. It is not to be called from a signal's handler, which may have
    interrupted a call of the same thread in the middle (sqlite3's own objects are not, either). A handler may
    raise an exception, as Ctrl-C does: that leaves the store sound, its locks free, and a transaction undone
    or complete.
    """

    if not TYPE_CHECKING:
        # A model left out is the plain one. Type checkers know that; Generic does not before Python 3.13.
        __class_getitem__ = classmethod(GenericAlias)

    def __init__(
        self,
        *,
        user: type[UserT] | None = None,
        account: type[AccountT] | None = None,
        session: type[SessionT] | None = None,
        verification_token: type[VerificationTokenT] | None = None,
        authenticator: type[AuthenticatorT] | None = None,
        session_max_age: float | timedelta = 30 * DAY,
        session_update_age: float | timedelta | None = None,
        session_absolute_age: float | timedelta | None = None,
        verification_max_age: float | timedelta = 600,
        purge_interval: float | timedelta | None = 60,
        timeout: float = 5.0,
        secret: str | bytes | None = None,
        cache_size: int = 10_000,
        clock: Callable[[], datetime] | None = None,
        new_id: Callable[[], str] | None = None,
        new_token: Callable[[], str] | None = None,
    ) -> None:
        """Options of every store; ages are seconds or timedeltas.

        ``user`` ... ``authenticator``: custom models, subclasses of the records. ``session_max_age``: how
        long an unused session lives. ``session_update_age``: how often ``touch_session`` writes at most;
        None: a thirtieth of ``session_max_age`` (a day of 30 days); less than ``session_max_age``, or
        sessions in use would end before they may be extended. ``session_absolute_age``: how long a session
        lives however much it is used; None: no limit. ``verification_max_age``: how long a magic link works.
        ``purge_interval``: how often creating a session or token also removes expired ones; None: only
        ``purge_expired`` does. ``timeout``: seconds that a call waits for another thread's or process's
        transaction before BusyError. ``secret``: turns digests of tokens into HMACs, so that a stolen file
        alone verifies no guess. ``cache_size``: how many sessions are kept in this process's memory, from
        their second look-up on; a session that may be stale is read again before it is served; 0: none are
        kept. ``clock``, ``new_id``, ``new_token``: where time (aware datetimes), ids and tokens come from.

        InvalidFieldError if a model has a field that cannot be stored, TypeError if a model is not a subclass
        of its record, ValueError for any other option that is not valid.
        """
        self._closed = True  # until ``_opened``: a store whose constructor failed needs no close()
        given = (user, account, session, verification_token, authenticator)
        self._models: dict[Entity, type[Record]] = {}
        for entity, chosen in zip(ENTITIES, given):
            model: Any = chosen or entity.record
            if not (isinstance(model, type) and issubclass(model, entity.record)):
                raise TypeError(f"{entity.name}= takes a subclass of {entity.record.__name__}, not {model!r}")
            fields_of(model)
            self._models[entity] = model
        self._max_age = _age("session_max_age", session_max_age)
        if session_update_age is None:
            self._update_age = self._max_age / UPDATES
        else:
            self._update_age = _age("session_update_age", session_update_age)
            if self._update_age >= self._max_age:
                raise ValueError(
                    "session_update_age must be shorter than session_max_age, or sessions in use would end;"
                    f" got session_update_age {session_update_age!r}, session_max_age {session_max_age!r}"
                )
        self._absolute_age = (
            None if session_absolute_age is None else _age("session_absolute_age", session_absolute_age)
        )
        self._verification_max_age = _age("verification_max_age", verification_max_age)
        self._purge_interval = None if purge_interval is None else _age("purge_interval", purge_interval)
        self._secret = secret.encode("utf-8", "replace") if isinstance(secret, str) else secret
        if secret is not None and (
            not isinstance(self._secret, bytes) or secret in ("", b"") or not _utf8(secret)
        ):
            raise ValueError(
                "secret must be bytes or a str that UTF-8 can hold, not empty; None goes without"
            )
        self._clock = clock or real_time
        self._quick_clock = clock or functools.partial(PLAIN[0].now, UTC)  # while nothing replaces datetime
        self._new_id = new_id or _new_id
        self._new_token = new_token or _new_token
        now = self._clock()
        if not is_datetime(now) or now.utcoffset() is None:
            raise ValueError(f"clock must return aware datetimes, such as datetime.now(UTC); got {now!r}")
        if (
            isinstance(timeout, bool)
            or not isinstance(timeout, (int, float))
            or not 0 <= timeout < float("inf")
        ):
            raise ValueError(
                f"timeout must be a number of seconds, neither negative nor infinite; got {timeout!r}"
            )
        self._timeout = timeout
        self._purged_at: datetime | None = None
        self._turn = Turn()
        self._lost: Callable[[], StorageError] | None = None  # why a forked child cannot use this store
        self._whole_in_child = False  # whether a child forked now could use the store; set by ``before_fork``
        if isinstance(cache_size, bool) or not isinstance(cache_size, int) or cache_size < 0:
            raise ValueError(f"cache_size must be an int, 0 to keep nothing; got {cache_size!r}")
        # A record with a dict or a list inside must not be returned to two callers, and copying one takes
        # longer than reading it.
        shareable = not (containers(self._models[SESSION]) or containers(self._models[USER]))
        self._kept = Kept(cache_size if shareable else 0)

    # -- users

    @by_name
    def create_user(
        self, /, *, email: str | None = None, name: str | None = None, image: str | None = None,
        email_verified: datetime | None = None, id: str | None = None, **custom: Any
    ) -> UserT:
        made_there = self._makes_user_ids and id is None
        user = self._build(
            USER,
            custom,
            {
                "id": "new" if made_there else self._new_id() if id is None else id,
                "email": email,
                "name": name,
                "image": image,
                "email_verified": email_verified,
            },
        )
        with self.transaction():
            if not made_there and self._get(USER, (user.id,)) is not None:
                raise self._conflict(USER, "id")
            self._refuse_taken_email(user)
            user = self._add(USER, () if made_there else (user.id,), user) or user
            if made_there:  # a database may give a deleted user's id again, and whoever deleted them left this behind
                for entity in (ACCOUNT, SESSION, AUTHENTICATOR):
                    self._remove_group(entity, user.id)
        return user  # type: ignore[no-any-return]

    def get_user(self, user_id: str) -> UserT | None:
        key = self._asked("user_id", user_id)
        return None if key is None else self._get(USER, (key,))

    def get_user_by_email(self, email: str) -> UserT | None:
        if not self._fits("email", email) or (key := email_key(email)) is None:
            return None
        return next(iter(self._find(USER, key).values()), None)

    @by_name
    def list_users(
        self, *, limit: int = 100, after: str | None = None, email_prefix: str | None = None
    ) -> list[UserT]:
        self._require_open()
        most, start, prefix = _limit(limit), None, None
        if after is not None:
            start = (_text("after", after)[:MAX_KEY_LENGTH],)  # no id is longer, so the rest cannot matter
            if not _utf8(start[0]):
                return []
        if email_prefix is not None:
            fits = self._fits("email_prefix", email_prefix)
            prefix = (email_key(email_prefix) if email_prefix.strip() else "") if fits else None
            if prefix is None:
                return []
        return [user for _, user in self._page(USER, start, most, prefix)]

    @by_name
    def get_user_by_account(self, *, provider: str, provider_account_id: str) -> UserT | None:
        key = self._account_key(provider, provider_account_id)
        return None if key is None else self._get_owner(key)

    def update_user(self, user_id: str, /, **changes: Any) -> UserT:
        changes = self._checked(USER, changes, fixed=("id",))
        key = self._asked("user_id", user_id)
        with self.transaction():
            user = None if key is None else self._get(USER, (key,))
            if user is None:
                raise self._not_found(USER, user_id)
            updated = dataclasses.replace(user, **changes)
            if "email" in changes:
                self._refuse_taken_email(updated)
                if "email_verified" not in changes and USER.group_of(updated) != USER.group_of(user):
                    updated = dataclasses.replace(updated, email_verified=None)  # that was the old address
            updated = self._change(USER, (user.id,), updated) or updated
        return updated  # type: ignore[no-any-return]

    def delete_user(self, user_id: str) -> UserT | None:
        if (key := self._asked("user_id", user_id)) is None:
            return None
        with self.transaction():
            for entity in (ACCOUNT, SESSION, AUTHENTICATOR):
                self._remove_group(entity, key)
            user: UserT | None = self._remove(USER, (key,))
            if user is not None and user.email is not None:
                # The address as an identifier, too: identifiers without an @ are compared exactly.
                for address in {email_key(user.email), identifier_key(user.email)}:
                    self._remove_group(VERIFICATION_TOKEN, address or "")
        return user

    def _refuse_taken_email(self, user: User) -> None:
        key = USER.group_of(user)
        if key is not None and any(other.id != user.id for other in self._find(USER, key).values()):
            raise self._conflict(USER, "email")

    # -- accounts

    @by_name
    def link_account(
        self, response: Mapping[str, Any] | None = None, /, *, user_id: str, type: str, provider: str,
        provider_account_id: str, **tokens: Any
    ) -> AccountT:
        if response is not None and not isinstance(response, Mapping):
            raise TypeError(
                "link_account() takes the provider's response as a mapping, and its own fields by name; got"
                f" {response.__class__.__name__}"
            )
        given = {"type": type, "provider": provider, "provider_account_id": provider_account_id}
        fixed = self._checked(ACCOUNT, given)
        values: dict[str, Any] = {}
        extra = tokens.pop("extra", {})
        extra = dict(extra) if isinstance(extra, Mapping) else {"extra": extra}
        sent: dict[str, Any] = {}
        for name, value in ({} if response is None else response).items():
            # The provider's "user_id" or "type" must not decide whose account it is, or what.
            (extra if name in fixed or name in ("user_id", "extra") else sent).setdefault(name, value)
        named = {f.name: f for f in fields_of(self._models[ACCOUNT])}
        sent |= tokens
        if "expires_in" in sent and "expires_at" not in sent:
            if (end := end_of(self._now(), sent["expires_in"])) is not None:
                sent["expires_at"] = end
        for name, value in sent.items():
            try:
                values[name] = named[name].check(from_provider(name, value))
            except KeyError:
                extra[name] = value
            except InvalidFieldError:  # what a provider sends must not keep a user from signing in
                values[name] = None if named[name].optional else self._default(named[name])
                extra[name] = value
        extra = named["extra"].check(as_json(extra))
        key = (fixed["provider"], fixed["provider_account_id"])
        with self.transaction():
            self._require_user(user_id)
            account = self._get(ACCOUNT, key)
            if account is None:
                account = self._build(ACCOUNT, {}, values | fixed | {"user_id": user_id, "extra": extra})
                account = self._add(ACCOUNT, key, account) or account
            elif account.user_id != user_id:
                raise self._conflict(ACCOUNT, "provider_account_id")
            else:
                kept = {name: value for name, value in account.extra.items() if name not in values}
                changes = values | fixed | {"extra": kept | extra}
                account = dataclasses.replace(account, **changes)
                account = self._change(ACCOUNT, key, account) or account
        return account  # type: ignore[no-any-return]

    @by_name
    def unlink_account(self, *, provider: str, provider_account_id: str) -> AccountT | None:
        if (key := self._account_key(provider, provider_account_id)) is None:
            return None
        with self.transaction():
            return self._remove(ACCOUNT, key)  # type: ignore[no-any-return]

    @by_name
    def get_account(self, *, provider: str, provider_account_id: str) -> AccountT | None:
        key = self._account_key(provider, provider_account_id)
        return None if key is None else self._get(ACCOUNT, key)

    def list_accounts(self, user_id: str) -> list[AccountT]:
        return self._list(ACCOUNT, user_id)

    def _account_key(self, provider: str, provider_account_id: str) -> Key | None:
        first = self._asked("provider", provider)
        second = self._asked("provider_account_id", provider_account_id)
        return None if first is None or second is None else (first, second)

    # -- sessions

    @by_name
    def create_session(
        self, /, *, user_id: str, session_token: str | None = None, expires: datetime | None = None,
        **custom: Any
    ) -> SessionT:
        now = self._now()
        session = self._build(
            SESSION,
            custom,
            {
                "session_token": self._new_token() if session_token is None else session_token,
                "user_id": user_id,
                "expires": _later(now, self._max_age) if expires is None else expires,
                "created_at": now,
            },
            fixed=("id", "created_at"),
        )
        part = self._part(SESSION, session.session_token)
        session = self._within_absolute_age(dataclasses.replace(session, id=session_id(part)))
        with self.transaction():
            self._require_user(user_id)
            self._make_room((part,))
            session = self._add_secret(SESSION, (part,), session, "session_token")
            self._purge_some(now)
        return session  # type: ignore[no-any-return]

    def get_session_and_user(self, session_token: str) -> SessionAndUser[SessionT, UserT] | None:
        if not isinstance(session_token, str) or len(session_token) > MAX_KEY_LENGTH:
            self._fits("session_token", session_token)  # for the errors that it raises
            return None
        found = self._get_session_and_user(session_token)
        if found is not None and self._absolute_age is not None:
            found = SessionAndUser(self._within_absolute_age(found.session), found.user)
        if found is None:
            return None
        now = self._quick_clock() if standard.datetime is PLAIN[0] else self._clock()
        return found if found.session.expires > now else None

    def update_session(self, session_token: str, /, **changes: Any) -> SessionT | None:
        fixed = ("session_token", "user_id", "created_at", "id")
        changes = self._checked(SESSION, changes, fixed=fixed)
        return self._rewrite_session(
            session_token, lambda session: dataclasses.replace(session, **changes) if changes else session
        )

    def touch_session(
        self, session_token: str, *, max_age: float | timedelta | None = None
    ) -> SessionT | None:
        age, update_age = self._max_age, self._update_age
        if max_age is not None:
            age = _age("max_age", max_age)
            update_age = min(update_age, age / UPDATES)

        def extended(session: Any) -> Any:
            expires = _later(self._now(), age)
            # Auth.js extends if expires - max_age + update_age <= now. Written like this, it cannot overflow.
            if expires == session.expires or expires < _later(session.expires, update_age):
                return session
            # Whether it is due does not depend on the absolute age, or the last part of that would be lost;
            # whether there is anything to write does.
            longer = self._within_absolute_age(dataclasses.replace(session, expires=expires))
            return session if longer.expires == session.expires else longer

        return self._rewrite_session(session_token, extended)

    def rotate_session(self, session_token: str) -> SessionT | None:
        if (key := self._session_key(session_token)) is None:
            return None
        token = fields_of(self._models[SESSION])[0].check(self._new_token())
        part = self._part(SESSION, token)
        with self.transaction():
            session = self._live(self._get(SESSION, key))
            if session is None:
                return None
            self._make_room((part,))
            self._rekey(SESSION, key, (part,))
        session = dataclasses.replace(session, id=session_id(part))
        return dataclasses.replace(session, session_token=token)  # type: ignore[no-any-return]

    def delete_session(self, session_token: str) -> SessionT | None:
        if (key := self._session_key(session_token)) is None:
            return None
        with self.transaction():
            session = self._live(self._remove(SESSION, key))
        return None if session is None else dataclasses.replace(session, session_token=session_token)

    def list_sessions(self, user_id: str) -> list[SessionT]:
        listed = map(self._live, self._list(SESSION, user_id))
        live = [session for session in listed if session is not None]
        return sorted(live, key=lambda session: (session.created_at or FIRST, session.id), reverse=True)

    def revoke_session(self, user_id: str, session_id: str) -> bool:
        _text("session_id", session_id)
        return self._revoke(user_id, lambda session: session.id == session_id) == 1

    def revoke_sessions(self, user_id: str, *, keep: str | None = None) -> int:
        kept = session_id(self._part(SESSION, keep)) if keep is not None and self._fits("keep", keep) else None
        return self._revoke(user_id, lambda session: session.id != kept)

    def _revoke(self, user_id: str, ends: Callable[[Any], bool]) -> int:
        """Remove the user's sessions for which ``ends`` is true. Returns how many of them were live."""
        if (owner := self._asked("user_id", user_id)) is None:
            return 0
        count = 0
        with self.transaction():
            for key, session in self._find(SESSION, owner).items():
                if ends(session):
                    self._remove(SESSION, key)
                    count += self._live(session) is not None
        return count

    def _rewrite_session(self, session_token: str, rewrite: Callable[[Any], Any]) -> SessionT | None:
        """Replace a live session by ``rewrite(session)`` and return that, with its token; None if none.

        Nothing is written if ``rewrite`` returns the object that it was given.
        """
        if not self._fits("session_token", session_token):
            return None
        # Most touches change nothing. A look-up finds that out without taking the file's write lock.
        found = self._get_session_and_user(session_token)
        session: Any = None if found is None else self._live(found.session)
        if session is None or self._within_absolute_age(rewrite(session)) is session:
            return session
        key = (self._part(SESSION, session_token),)
        with self.transaction():
            session = self._live(self._get(SESSION, key))
            if session is None:
                return None
            rewritten = self._within_absolute_age(rewrite(session))
            if rewritten is not session:  # else another thread or process has extended it meanwhile
                rewritten = self._change(SESSION, key, rewritten) or rewritten
            session = rewritten
        return dataclasses.replace(session, session_token=session_token)  # type: ignore[no-any-return]

    def _make_room(self, key: Key) -> None:
        """Remove an expired session that has this key. ConflictError if there is a live one."""
        if self._live(self._remove(SESSION, key)) is not None:
            raise self._conflict(SESSION, "session_token")

    def _session_key(self, session_token: str) -> Key | None:
        if not self._fits("session_token", session_token):
            return None
        return (self._part(SESSION, session_token),)

    def _within_absolute_age(self, session: Any) -> Any:
        """The session, with ``expires`` lowered to what ``session_absolute_age`` allows.

        Stored sessions are lowered too: the option may have been higher when they were written.
        """
        if self._absolute_age is None or session.created_at is None:
            return session
        end = _later(session.created_at, self._absolute_age)
        return session if session.expires <= end else dataclasses.replace(session, expires=end)

    # -- verification tokens

    @by_name
    def create_verification_token(
        self, /, *, identifier: str, token: str | None = None, expires: datetime | None = None,
        attempts: int | None = None, **custom: Any
    ) -> VerificationTokenT:
        now = self._now()
        made = self._build(
            VERIFICATION_TOKEN,
            custom,
            {
                "identifier": identifier,
                "token": self._new_token() if token is None else token,
                "expires": _later(now, self._verification_max_age) if expires is None else expires,
                "attempts": attempts,
            },
        )
        group = VERIFICATION_TOKEN.group_of(made)
        key = (group, self._part(VERIFICATION_TOKEN, made.token))
        with self.transaction():
            if attempts is not None:
                for code in self._codes(group):
                    self._remove(VERIFICATION_TOKEN, code)
            self._remove(VERIFICATION_TOKEN, key)
            made = self._add_secret(VERIFICATION_TOKEN, key, made, "token")
            self._purge_some(now)
        return made  # type: ignore[no-any-return]

    @by_name
    def use_verification_token(self, *, identifier: str, token: str) -> VerificationTokenT | None:
        group = self._identifier_group(identifier)
        if not self._fits("token", token) or group is None:
            return None
        with self.transaction():
            found = self._remove(VERIFICATION_TOKEN, (group, self._part(VERIFICATION_TOKEN, token)))
            if found is None:
                for key, code in self._codes(group).items():
                    if code.attempts > 1:
                        self._change(VERIFICATION_TOKEN, key, dataclasses.replace(code, attempts=code.attempts - 1))
                    else:
                        self._remove(VERIFICATION_TOKEN, key)
            used = self._live(found)
        return None if used is None else dataclasses.replace(used, token=token)

    def _codes(self, group: str | None) -> dict[Key, Any]:
        """The identifier's codes by key; ``{}`` if it has none. It has one at most, unless a file was merged."""
        tokens = {} if group is None else self._find(VERIFICATION_TOKEN, group)
        return {key: token for key, token in tokens.items() if token.attempts is not None}

    def delete_verification_tokens(self, identifier: str) -> int:
        if (group := self._identifier_group(identifier)) is None:
            return 0
        with self.transaction():
            live = [token for token in self._find(VERIFICATION_TOKEN, group).values() if self._live(token)]
            self._remove_group(VERIFICATION_TOKEN, group)
        return len(live)

    def _identifier_group(self, identifier: str) -> str | None:
        return identifier_key(identifier) if self._fits("identifier", identifier) else None

    # -- authenticators

    @by_name
    def create_authenticator(
        self, /, *, user_id: str, credential_id: str, provider_account_id: str, credential_public_key: str,
        counter: int, credential_device_type: str, credential_backed_up: bool, transports: str | None = None,
        **custom: Any
    ) -> AuthenticatorT:
        made = self._build(
            AUTHENTICATOR,
            custom,
            {
                "credential_id": credential_id,
                "user_id": user_id,
                "provider_account_id": provider_account_id,
                "credential_public_key": credential_public_key,
                "counter": counter,
                "credential_device_type": credential_device_type,
                "credential_backed_up": credential_backed_up,
                "transports": transports,
            },
        )
        with self.transaction():
            self._require_user(user_id)
            if self._get(AUTHENTICATOR, (made.credential_id,)) is not None:
                raise self._conflict(AUTHENTICATOR, "credential_id")
            made = self._add(AUTHENTICATOR, (made.credential_id,), made) or made
        return made  # type: ignore[no-any-return]

    def get_authenticator(self, credential_id: str) -> AuthenticatorT | None:
        key = self._asked("credential_id", credential_id)
        return None if key is None else self._get(AUTHENTICATOR, (key,))

    def list_authenticators_by_user_id(self, user_id: str) -> list[AuthenticatorT]:
        return self._list(AUTHENTICATOR, user_id)

    def update_authenticator_counter(self, credential_id: str, counter: int) -> AuthenticatorT:
        return self.update_authenticator(credential_id, counter=counter)

    def update_authenticator(self, credential_id: str, /, **changes: Any) -> AuthenticatorT:
        changes = self._checked(AUTHENTICATOR, changes, fixed=("credential_id", "user_id"))
        key = self._asked("credential_id", credential_id)
        with self.transaction():
            found = None if key is None else self._get(AUTHENTICATOR, (key,))
            if found is None:
                raise self._not_found(AUTHENTICATOR, credential_id)
            counter = changes.get("counter")
            if counter is not None and counter <= found.counter and (counter, found.counter) != (0, 0):
                raise CounterRegressionError(
                    f"the authenticator's counter must grow: {found.counter} is stored, {counter} was given;"
                    " the passkey may have been cloned",
                    stored=found.counter,
                    given=counter,
                )
            updated = dataclasses.replace(found, **changes)
            updated = self._change(AUTHENTICATOR, (found.credential_id,), updated) or updated
        return updated  # type: ignore[no-any-return]

    def delete_authenticator(self, credential_id: str) -> AuthenticatorT | None:
        if (key := self._asked("credential_id", credential_id)) is None:
            return None
        with self.transaction():
            return self._remove(AUTHENTICATOR, (key,))  # type: ignore[no-any-return]

    # -- the whole store

    def count(self) -> Counts:
        self._require_open()
        live = {"expires": self._now()}
        sessions = dict(live)
        if self._absolute_age is not None:
            sessions["created_at"] = _earlier(live["expires"], self._absolute_age)
        later = {SESSION: sessions, VERIFICATION_TOKEN: live}
        return Counts(*(self._count(entity, later.get(entity, {})) for entity in ENTITIES))

    def purge_expired(self, *, limit: int | None = None) -> Purged:
        limit = None if limit is None else _limit(limit)
        self._require_open()
        now = self._now()
        counts = []
        for entity in (SESSION, VERIFICATION_TOKEN):
            removed = 0
            # In many short transactions, so that other writers get their turn in between.
            while limit is None or removed < limit:
                batch = PURGE_BATCH * 10 if limit is None else min(PURGE_BATCH * 10, limit - removed)
                with self.transaction():
                    count = self._purge(entity, now, batch)
                removed += count
                if count < batch:
                    break
            counts.append(removed)
        return Purged(*counts)

    def _purge_some(self, now: datetime) -> None:
        """Remove at most ``PURGE_BATCH`` expired records of each kind, inside a write that adds one.

        A round begins at most once in ``purge_interval`` and goes on, a batch with each write, until nothing
        is left. A write adds one record and may remove many, so expired records cannot pile up.
        """
        interval = self._purge_interval
        if interval is None or (self._purged_at is not None and abs(now - self._purged_at) < interval):
            return
        counts = [self._purge(entity, now, PURGE_BATCH) for entity in (SESSION, VERIFICATION_TOKEN)]
        self._purged_at = None if PURGE_BATCH in counts else now

    def transaction(self) -> Transaction[Self]:
        return Transaction(self)

    def snapshot(self) -> Snapshot:
        with self.transaction():
            return Snapshot(self._kind(), self._dump())

    def restore(self, snapshot: Snapshot) -> None:
        if not isinstance(snapshot, Snapshot) or snapshot.made_by != self._kind():
            raise TypeError(
                "restore takes what snapshot() of a store of the same kind, with the same models and the same"
                " secret, returned"
            )
        with self.transaction():
            self._load(snapshot.state)
        self._purged_at = None  # expired records may be back

    def _kind(self) -> tuple[Any, ...]:
        """What two stores must have in common before one may restore the other's snapshot."""
        return (type(self), *self._models.values(), self._digest("tinyauthstore: which secret is this?"))

    def check(self) -> list[str]:
        self._require_open()
        try:
            return self._check_storage() or [
                problem for entity in ENTITIES for problem in self._check_records(entity)
            ]
        except BusyError:
            raise
        except StorageError as error:  # what cannot be read is itself the problem
            return [str(error)]

    def _check_records(self, entity: Entity) -> Iterator[str]:
        """The problems of all records of that kind, in words; nothing if there are none."""
        for key, record in self._walk(entity):
            yield from self._check_record(entity, record)
            if entity.group == "user_id" and self._get(USER, (record.user_id,)) is None:
                yield self._orphaned(entity, record)

    def _walk(self, entity: Entity) -> Iterator[tuple[Key, Any]]:
        """Every record with its key, sorted by key, a page at a time. Outside a transaction, others may write
        meanwhile: a record that comes or goes may be seen or not, and all others are seen once."""
        after: Key | None = None
        while page := self._page(entity, after, PAGE):
            yield from page
            after = page[-1][0]

    def _check_record(self, entity: Entity, record: Any) -> Iterator[str]:
        """The problems of one record's fields, in words; nothing if there are none."""
        for f in fields_of(type(record)):
            try:
                if f.name not in entity.withheld:
                    f.check(getattr(record, f.name))
            except InvalidFieldError as error:
                yield f"{self._named(entity, record)}: {error}"

    def _orphaned(self, entity: Entity, record: Any) -> str:
        return f"{self._named(entity, record)}: its user {brief(record.user_id)} does not exist"

    def _named(self, entity: Entity, record: Any) -> str:
        """How an error message names a record: never by a token."""
        shown = record.id if entity is SESSION else getattr(record, entity.key[0])
        return f"{entity.name} {brief(shown)}"

    def close(self) -> None:
        if self._closed:
            return
        me = get_ident()
        inside = innermost(self) is not None  # then this context has the turn, and its transaction is undone
        try:
            if not inside:
                self._take(self._turn, me)
            if not self._closed:
                self._closed = True
                self._kept.clear()
                self._release()
        finally:
            self._turn.claims.pop(me, None)
            if self._turn.waiting:
                self._turn.wake()

    def __enter__(self) -> Self:
        self._require_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and self._lost is None:
            try:
                warnings.warn(f"{self!r} was left open; close() it", ResourceWarning, source=self)
            finally:  # filters may turn the warning into an error
                self.close()

    __reduce_ex__ = refuse_to_copy

    def _opened(self) -> None:
        """To be called at the end of a constructor: the store is open, and is told of forks from now on."""
        self._closed = False
        forks.register(self)

    def _require_open(self) -> None:
        """ClosedError after ``close()``; StorageError in a forked child that cannot use the store."""
        if self._closed:
            raise ClosedError(f"{self!r} is closed; create a new one")
        if self._lost is not None:
            raise self._lost()

    _answers_at_once = False
    """Whether ``AsyncAdapter`` may run look-ups on the event loop. Set it only if each calls
    ``about_to_wait()`` before it waits or reads more than ``AT_ONCE`` records; ``_take`` and ``_in_turn`` do
    so before they wait."""

    # -- turns

    def _take(self, turn: Turn, me: object) -> float:
        """Claim a turn for ``me``; the caller must drop it. Returns the seconds of ``timeout`` that are left.

        BusyError if the turn is not free within ``timeout`` seconds; at once if it belongs to another task of
        this thread, which cannot go on while this one waits.
        """
        if turn.claim(me):
            return self._timeout
        about_to_wait()
        deadline = monotonic() + self._timeout
        while not turn.claim(me):
            holder, left = turn.holder, deadline - monotonic()
            if isinstance(holder, Block) and holder.is_here and tasks_share_this_thread():
                raise self._busy(
                    "has a transaction open in another task of this thread, which cannot end while this one"
                    " waits; nothing was changed. Use AsyncAdapter (tinyauthstore.aio): its tasks take turns"
                )
            if left <= 0:
                raise self._busy(
                    f"stayed in another transaction of this process for {self._timeout} seconds; nothing was"
                    " changed. Keep transactions short, or give a longer timeout="
                )
            turn.wait(left)
        return max(deadline - monotonic(), 0.0)

    def _in_turn(self, read: Callable[[], T]) -> T:
        """What ``read()`` returns, called in this context's turn: no other thread writes meanwhile. ``read`` must not
        call it again.

        BusyError as in ``_take``; WouldWait instead of waiting, if called by ``at_once``.
        """
        me, turn = get_ident(), self._turn
        if turn.claims:  # perhaps by a transaction that this context is inside
            turn = innermost(self) or turn
        try:
            turn.claims[me] = None
            if [*turn.claims][0] != me:
                self._take(turn, me)
            return read()
        finally:
            turn.claims.pop(me, None)
            if turn.waiting:
                turn.wake()

    def _busy(self, what: str) -> BusyError:
        return BusyError(f"{self!r} {what}", path=getattr(self, "_path", ""))

    # -- helpers

    def _now(self) -> datetime:
        """The time in UTC. In a zone with summer time, adding an age could be an hour off."""
        return self._clock().astimezone(UTC)

    def _live(self, record: Any) -> Any:
        """The record, or None if it is None or has expired, which it has at ``expires`` exactly."""
        if isinstance(record, Session):
            record = self._within_absolute_age(record)
        return record if record is not None and record.expires > self._clock() else None

    def _digest(self, token: str) -> bytes:
        """What is stored of a token: 32 bytes, from which it cannot be recovered. Source: ASVS 6.5.2."""
        data = token.encode("utf-8", "surrogatepass")  # a stranger may send lone surrogates
        if self._secret is None:
            return hashlib.sha256(data).digest()
        return hmac.digest(self._secret, data, "sha256")

    def _part(self, entity: Entity, token: str) -> Any:
        """What a key has in the place of a session's or verification token."""
        return self._digest(token)

    def _token_storage(self, entity: Entity) -> str:
        """How keys have the tokens of these records: ``"digest"``, ``"clear"`` or ``"authjs"`` (see ``schema.py``)."""
        return "digest"

    def _add_secret(self, entity: Entity, key: Key, record: Any, secret: str) -> Any:
        """Store a new record without its token. Returns it as it was stored, but with the token."""
        stored = self._add(entity, key, dataclasses.replace(record, **{secret: ""}))
        return record if stored is None else dataclasses.replace(stored, **{secret: getattr(record, secret)})

    def _list(self, entity: Entity, user_id: str) -> list[Any]:
        owner = self._asked("user_id", user_id)
        return [] if owner is None else list(self._find(entity, owner).values())

    def _fits(self, name: str, text: str) -> bool:
        """Whether ``text`` is short enough to be a key. TypeError if it is no str; ClosedError."""
        self._require_open()
        return len(_text(name, text)) <= MAX_KEY_LENGTH

    def _asked(self, name: str, text: str) -> str | None:
        """``text`` as part of a key; None if no store could hold it. TypeError if no str; ClosedError."""
        self._require_open()
        return storable(_text(name, text))

    def _require_user(self, user_id: str) -> None:
        key = self._asked("user_id", user_id)
        if key is None or self._get(USER, (key,)) is None:
            raise self._not_found(USER, user_id)

    def _default(self, f: Any) -> Any:
        return f.check(f.default())

    def _build(
        self, entity: Entity, custom: Mapping[str, Any], values: dict[str, Any], fixed: tuple[str, ...] = ()
    ) -> Any:
        """A record from the fields given and the defaults of the others. Errors as in ``_checked``."""
        values.update(self._checked(entity, custom, fixed=fixed))
        model = self._models[entity]
        for f in fields_of(model):
            values[f.name] = f.check(values[f.name]) if f.name in values else self._default(f)
        return model(**values)

    def _checked(
        self, entity: Entity, values: Mapping[str, Any], *, fixed: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """The values as they are stored. TypeError for an unknown or ``fixed`` name; InvalidFieldError."""
        known = {f.name: f for f in fields_of(self._models[entity]) if f.name not in fixed}
        if unknown := [name for name in values if name not in known]:
            names = ", ".join(known) or "none"
            raise TypeError(
                f"{self._models[entity].__name__} has no field {', '.join(map(repr, unknown))} that can be"
                f" given here; known: {names} (more by a custom model: {entity.name}=)"
            )
        return {name: known[name].check(value) for name, value in values.items()}

    def _obstacle(self, entity: Entity, key: Key, record: Any) -> str | None:
        """The field for which a new record cannot be stored: ``"user_id"`` if there is no such user, else one whose
        value is taken; None if it can be."""
        if entity.group == "user_id" and self._get(USER, (record.user_id,)) is None:
            return "user_id"
        if self._get(entity, key) is not None:
            return entity.key[-1]
        if entity is USER and (email := entity.group_of(record)) is not None and self._find(USER, email):
            return "email"
        return None

    def _home(self, entity: Entity) -> Self:
        """The store in which these records lie."""
        return self

    def _conflict(self, entity: Entity, field: str) -> ConflictError:
        model = self._models[entity].__name__
        return ConflictError(f"{model}.{field} is taken", model=model, field=field)

    def _not_found(self, entity: Entity, key: str) -> NotFoundError:
        model = self._models[entity].__name__
        return NotFoundError(f"there is no {model} {brief(key)}", model=model, key=key)

    # -- fork(): a child must inherit no open database, and no claim of a thread that does not exist there.
    #    It is not enough that the child opens a connection of its own: the SQLite library that it inherited
    #    believes that it holds locks which the kernel gave to the parent only, and writes would be lost.

    def _turns(self) -> tuple[Turn, ...]:
        """Every turn that callers of this store may wait for. ``fork()`` waits for all of them."""
        return (self._turn,)

    def pause(self) -> bool:
        settled = True
        for turn in self._turns():
            turn.claims.setdefault(forks)  # this claim comes next, and stays: no later one gets ahead of it
            holder = turn.holder
            settled = settled and (holder is forks or (isinstance(holder, Block) and holder.is_here))
        return settled

    def resume(self) -> None:
        self._whole_in_child = False
        for turn in self._turns():
            turn.claims.pop(forks, None)
            if turn.waiting:
                turn.wake()

    def before_fork(self) -> None:
        """Called in the parent before ``fork()``, after ``pause()``.

        Sets ``_whole_in_child``: whether no call is under way whose end the child would miss. A backend that
        holds what a child must not inherit (connections, locked files) extends this: after ``super()``, it
        closes them if ``_whole_in_child`` is true, and opens them again when they are next needed.
        """
        holder = self._turn.holder
        self._whole_in_child = holder is forks or (
            self._in_memory and isinstance(holder, Block) and holder.is_here
        )

    def after_fork_in_child(self) -> None:
        """Called in the child. Unless ``_whole_in_child``, sets ``_lost``, which ``_require_open`` raises.

        A backend extends this if the child must let go, without closing them, of connections or files that
        ``before_fork`` left open.
        """
        if not self._whole_in_child:
            self._lost = functools.partial(
                StorageError,
                "this process was forked while a transaction was open in its parent: only the parent can"
                " finish it; fork outside of transaction()",
            )
            self._kept.clear()
        self._whole_in_child = False
        for turn in self._turns():
            turn.start_over()

    # -- storage: what a backend implements. The module's docstring says which errors these verbs raise, and
    # which turn is held when they are called.

    _in_memory = False
    """Whether the whole store is in this process's memory, so that a forked child has a copy of its own."""

    @abstractmethod
    def _get(self, entity: Entity, key: Key) -> Any:
        """The record with that key; None if there is none."""

    @abstractmethod
    def _find(self, entity: Entity, group: str) -> dict[Key, Any]:
        """The records with ``entity.group_of(record) == group`` by key, sorted by key; ``{}`` for none."""

    @abstractmethod
    def _page(
        self, entity: Entity, after: Key | None, limit: int, prefix: str | None = None
    ) -> list[tuple[Key, Any]]:
        """At most ``limit`` records with their keys, sorted by key, those with keys after ``after``; ``[]`` for none.

        Text is in the order of its code points, which is that of its bytes in UTF-8. ``after`` need not be the
        key of a record. With a ``prefix``, only records whose ``entity.group_of`` is a text that begins with it.
        """

    def _add_all(self, entity: Entity, records: Sequence[tuple[Key, Any]]) -> int:
        """Store new records, and return how many: all, or those before the first that has an ``_obstacle``.

        Here, one by one; a backend that can store many at once does better.
        """
        for number, (key, record) in enumerate(records):
            if self._obstacle(entity, key, record) is not None:
                return number
            self._add(entity, key, record)
        return len(records)

    def _count(self, entity: Entity, later: Mapping[str, datetime]) -> int:
        """How many records there are whose fields named in ``later`` are None or later than these moments (UTC).

        Here, all are read; a backend that can count does better.
        """
        return sum(
            all((found := getattr(record, name)) is None or found > moment for name, moment in later.items())
            for _, record in self._walk(entity)
        )

    @contextmanager
    def _view(self) -> Iterator[Callable[[Entity], Iterator[tuple[Key, Any]]]]:
        """A block in which all records are read as they are at one moment, for copies of the whole store.

        It gives a function like ``_walk``; the records are not changed by whoever reads them. Nothing else is
        asked of the store inside the block. Here, others wait until it ends; a backend that can do without
        that does.
        """
        with self.transaction():
            yield self._walk

    @abstractmethod
    def _get_session_and_user(self, session_token: str) -> SessionAndUser[SessionT, UserT] | None:
        """The session, its ``session_token`` filled in, and its user; None if there is no such session.

        The session's key is ``(self._part(SESSION, session_token),)``. An expired session is returned, too: the
        rules compare the times. This verb must call ``_require_open()`` itself, for ClosedError, because the
        rules save that time in the look-up that every request makes.
        """

    @abstractmethod
    def _get_owner(self, account: Key) -> UserT | None:
        """The user to whom the account with that key is linked; None if there is no such account."""

    _makes_user_ids = False
    """Whether the storage makes the id of a new user who is given none; then ``_add`` gets an empty key."""

    @abstractmethod
    def _add(self, entity: Entity, key: Key, record: Any) -> Any:
        """Store a new record. The rules have made sure that the key is free.

        Returns None; or, if the storage keeps less of the record than it was given (dates of milliseconds), or
        makes its id, the record as ``_get`` returns it from now on.
        """

    @abstractmethod
    def _change(self, entity: Entity, key: Key, record: Any) -> Any:
        """Replace the record that has that key, which exists. The new one may belong to another group.

        Returns it like ``_add``.
        """

    @abstractmethod
    def _rekey(self, entity: Entity, key: Key, new: Key) -> None:
        """Move the session with that key to the free key ``new``; its id becomes ``session_id(new[0])``."""

    @abstractmethod
    def _remove(self, entity: Entity, key: Key) -> Any:
        """Remove and return the record with that key; None if there is none."""

    @abstractmethod
    def _remove_group(self, entity: Entity, group: str) -> None:
        """Remove the records that ``_find`` would return; nothing if there are none."""

    @abstractmethod
    def _purge(self, entity: Entity, now: datetime, limit: int) -> int:
        """Remove up to ``limit`` records with ``expires <= now``, oldest first. Returns how many; 0 for none.

        ``now`` is in UTC. Called for sessions and verification tokens only.
        """

    @abstractmethod
    def _begin(self, depth: int, patience: float) -> None:
        """Begin a transaction (``depth`` 0) or the savepoint number ``depth`` inside it.

        BusyError if another process still has the store after ``patience`` seconds. If this raises anything,
        ``_rollback(depth)`` is called.
        """

    @abstractmethod
    def _commit(self, depth: int) -> None:
        """Commit what was written since ``_begin(depth)``, all of it or nothing.

        When depth 0 returns, the transaction is acknowledged: it must be durable. A higher depth becomes a
        part of the block around it. If this raises anything, ``_rollback(depth)`` is called.
        """

    @abstractmethod
    def _rollback(self, depth: int) -> None:
        """Undo what was written since ``_begin(depth)``, including the savepoints inside that block.

        This must do nothing, and raise nothing, if the block never began or has ended: it is also called
        after ``_begin``, ``_commit`` or ``_rollback`` itself raised or was interrupted at any line, and after
        ``close()`` inside the block.
        """

    @abstractmethod
    def _dump(self) -> Any:
        """The whole state, as an object that can be pickled and that later writes do not change.

        Called inside a transaction.
        """

    @abstractmethod
    def _load(self, state: Any) -> None:
        """Replace the whole state by one that ``_dump`` returned. Called inside a transaction."""

    def _check_storage(self) -> list[str]:
        """The problems, in words, of what lies below the records (files, indexes); ``[]`` if there are none.

        If there are any, ``check()`` does not look at the records. Called from any thread, without a turn.
        """
        return []

    def _release(self) -> None:
        """Close files and connections for good, and undo an open transaction.

        Called once, by ``close()``, with the store's turn held, when ``_require_open()`` raises already.
        """
