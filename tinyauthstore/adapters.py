"""The stores that keep the contract, and ``connect``.

They share a base: ``_Store`` holds everything that must not differ between them (defaults,
validation, normal forms, digests, expiry, conflicts). What differs is storage, said in a dozen verbs
(``_get``, ``_find``, ``_put``, ``_remove``, ... ``_begin``, ``_commit``, ``_rollback``), which
``SQLiteAdapter`` and ``MemoryAdapter`` implement side by side; ``ShelveAdapter`` is a ``MemoryAdapter``
that journals what it commits. Every write runs inside a transaction
that holds the store's lock, so the shared code may read, decide and write.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import itertools
import os
import stat
import sys
import threading
import time
import warnings
import weakref
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timedelta
from heapq import heapify, heappop, heappush
from types import GenericAlias, TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeVar

from .contract import Adapter, Snapshot
from .errors import (
    BusyError, ClosedError, ConflictError, CounterRegressionError, InvalidFieldError, LockedError,
    NotFoundError, StorageError,
)
from .models import (
    ACCOUNT, AUTHENTICATOR, ENTITIES, MAX_KEY_LENGTH, SESSION, USER, UTC, VERIFICATION_TOKEN, AccountT, AuthenticatorT, Entity, Purged, Record, Session, SessionAndUser, SessionT,
    User, UserT, VerificationTokenT, as_json, containers, email_key, fields_of, fresh,
    identifier_key, session_id, storable,
)
from .schema import (
    APPLICATION_ID, DATA_VERSION, FOREIGN_TABLES, INSPECT, MARK, MINIMUM_SQLITE, STRAY_EMAIL_KEYS, USER_VERSION,
    Table, schema_for,
    to_microseconds,
)

try:
    import sqlite3
except ImportError:  # a Python built without it: everything but SQLiteAdapter works
    sqlite3 = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from typing import Self, TypedDict, Unpack

P = ParamSpec("P")
T = TypeVar("T")

DAY = 24 * 60 * 60
"""Seconds."""

_LONG_AGO = datetime.min.replace(tzinfo=UTC)

PURGE_BATCH = 100
"""Expired records of one kind that a single write removes at most, besides its own work."""

AT_ONCE = 100
"""Records that a look-up on an event loop reads at most: about a millisecond's worth."""

WAL_INDEX_HEADER = 96
"""Bytes: SQLite's two copies of it, at the start of the -shm file."""

MANY_DESCRIPTORS = 1000
"""More are not searched: each takes about 3 microseconds, and somebody may be waiting."""

FEW_DIGESTS = 1000
"""Those of tokens looked up once are remembered, and more only if more sessions are to be kept. With as few as a
small cache_size, sessions used in turn would never be kept."""

FORK_PATIENCE = 5.0
"""Seconds that ``fork()`` waits for calls in other threads, so that the child inherits no half of one."""


if TYPE_CHECKING:

    class Options(TypedDict, Generic[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT], total=False):
        """The options that every store takes; ``_Store.__init__`` explains them."""

        user: type[UserT]
        account: type[AccountT]
        session: type[SessionT]
        verification_token: type[VerificationTokenT]
        authenticator: type[AuthenticatorT]
        session_max_age: float | timedelta
        session_update_age: float | timedelta
        session_absolute_age: float | timedelta | None
        verification_max_age: float | timedelta
        purge_interval: float | timedelta | None
        secret: str | bytes | None
        cache_size: int
        clock: Callable[[], datetime] | None
        new_id: Callable[[], str] | None
        new_token: Callable[[], str] | None


# --- what all our stores share ----------------------------------------------------------------


def _new_id() -> str:
    """A random UUID, as Auth.js's core makes for users."""
    import uuid  # with secrets below, 3 ms that those who only look up never pay

    return str(uuid.uuid4())


def _new_token() -> str:
    """256 bits from the operating system's generator, URL-safe."""
    import secrets

    return secrets.token_urlsafe(32)


def _age(name: str, value: float | timedelta) -> timedelta:
    """An age given in seconds or as a timedelta, as a timedelta. ValueError if it is neither or negative."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e13:
        value = timedelta(seconds=value)
    if not isinstance(value, timedelta) or value < timedelta(0):
        raise ValueError(f"{name} must be a number of seconds or a timedelta, not negative; got {value!r}")
    return value


def _later(moment: datetime, age: timedelta) -> datetime:
    """``moment + age``, or the end of time: an application's "for ever" must not overflow."""
    try:
        return moment + age
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    return value


def _utf8(text: str | bytes) -> bool:
    """Whether it is bytes, or text without lone surrogates."""
    return isinstance(text, bytes) or text.isascii() or text.encode("utf-8", "ignore").decode() == text


def _brief(text: str) -> str:
    """An id for an error message: printable, and short even if somebody sent megabytes."""
    return ascii(text if len(text) <= 60 else text[:60] + "...")


class _Place:
    """Room in ``_Recent`` for one session with its user: reserved before they are read, filled afterwards."""

    __slots__ = ("token", "id", "doubts", "read")

    def __init__(self, token: str, id: str, doubts: int) -> None:
        self.token = token
        self.id = id
        self.doubts = doubts
        self.read: tuple[SessionAndUser[Any, Any] | None, Any] = (None, None)
        """What was found, and the bare row, if there was one."""


class _Recent:
    """Sessions that were looked up twice, with their users, by the token that was presented.

    Its owner evicts what its own writes touch, keeps nothing read inside a transaction (it may be
    rolled back), and doubts all when somebody else has written: what is doubted is read again, and
    decoded again only if it reads differently. Absence is never kept. When full, the oldest place makes room.

    Not what is looked up for the first time: to keep it takes a twelfth of a query more (1.67 of the bare one
    instead of 1.61 on Python 3.11, 1.69 instead of 1.60 on 3.13), which who looks up each session once would pay
    for nothing.
    """

    __slots__ = ("size", "places", "valid", "doubts", "once")

    # A signal's handler may look up, write and raise between any two lines. So one operation on one dict
    # decides: a place counts only while it is the one in ``valid``, and with as many ``doubts`` as there are.
    # It has both before it is read: what was evicted or doubted meanwhile is filled in to no effect.

    def __init__(self, size: int) -> None:
        self.size = size
        self.places: OrderedDict[str, _Place] = OrderedDict()  # by the token
        self.valid: dict[str, _Place] = {}  # by the session's id
        self.doubts = 0
        self.once: set[bytes] = set()  # digests, for a token is a secret, and most of these sessions end unseen

    def reserve(self, token: str, digest: bytes) -> _Place | None:
        """A place for what is about to be read; None the first time."""
        if digest not in self.once and token not in self.places:
            return None
        place = _Place(token, session_id(digest), self.doubts)
        if len(self.places) >= self.size and token not in self.places:
            with suppress(KeyError):  # cleared since
                _, oldest = self.places.popitem(last=False)
                self.valid.pop(oldest.id, None)
        self.valid[place.id] = place
        self.places[token] = place
        return place

    def remember(self, digest: bytes) -> None:
        """It was looked up ``once``: the next time is the second."""
        if len(self.once) >= max(self.size, FEW_DIGESTS):
            self.once.clear()
        self.once.add(digest)

    def evict(self, session_id: str) -> None:
        if (place := self.valid.pop(session_id, None)) is not None:
            self.places.pop(place.token, None)

    def doubt(self) -> None:
        """From now on, what is kept must be read again before it is served."""
        self.doubts += 1

    def clear(self) -> None:
        self.valid.clear()
        self.places.clear()


class WouldWait(Exception):
    """A look-up asked for at once would have had to wait, or to read much. Never leaves the package."""


class _Store(Adapter, Generic[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]):
    """The contract, written once over the storage verbs at the end of this class."""

    if not TYPE_CHECKING:
        # Type checkers know that the missing models are the plain ones; Generic before 3.13 does not.
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
        session_update_age: float | timedelta = DAY,
        session_absolute_age: float | timedelta | None = None,
        verification_max_age: float | timedelta = 600,
        purge_interval: float | timedelta | None = 60,
        secret: str | bytes | None = None,
        cache_size: int = 10_000,
        clock: Callable[[], datetime] | None = None,
        new_id: Callable[[], str] | None = None,
        new_token: Callable[[], str] | None = None,
    ) -> None:
        """Options of every store; ages are seconds or timedeltas.

        ``user`` ... ``authenticator``: custom models, subclasses of the records. ``session_max_age``: how
        long an unused session lives. ``session_update_age``: how often ``touch_session`` writes.
        ``session_absolute_age``: how long a session lives however much it is used; None: no limit.
        ``verification_max_age``: how long a magic link works. ``purge_interval``: how often creating
        a session or token also removes expired ones; None: only ``purge_expired`` does. ``secret``:
        turns digests of tokens into HMACs, so that a stolen file alone verifies no guess.
        ``cache_size``: how many sessions are kept in this process's memory, from their second look-up on,
        and served only while nobody has written since (else they are read again); 0: none.
        ``clock``, ``new_id``, ``new_token``: where time (aware datetimes), ids and tokens come from.

        InvalidFieldError names a model's field that cannot be stored; ValueError an option that is off.
        """
        self._closed = True  # until the constructor has succeeded: nothing to warn about
        given = (user, account, session, verification_token, authenticator)
        self._models: dict[Entity, type[Record]] = {}
        for entity, chosen in zip(ENTITIES, given):
            model: Any = chosen or entity.record
            if not (isinstance(model, type) and issubclass(model, entity.record)):
                raise TypeError(f"{entity.name}= takes a subclass of {entity.record.__name__}, not {model!r}")
            fields_of(model)
            self._models[entity] = model
        self._max_age = _age("session_max_age", session_max_age)
        self._update_age = _age("session_update_age", session_update_age)
        self._absolute_age = (
            None if session_absolute_age is None else _age("session_absolute_age", session_absolute_age)
        )
        self._verification_max_age = _age("verification_max_age", verification_max_age)
        self._purge_interval = None if purge_interval is None else _age("purge_interval", purge_interval)
        self._secret = secret.encode("utf-8", "replace") if isinstance(secret, str) else secret
        if secret is not None and (not isinstance(self._secret, bytes) or secret in ("", b"") or not _utf8(secret)):
            raise ValueError("secret must be bytes or a str that UTF-8 can hold, not empty; None goes without")
        import hashlib  # 3 ms (libcrypto) that whoever only imports this module need not wait

        self._sha256 = hashlib.sha256
        self._clock = clock or functools.partial(datetime.now, UTC)
        self._new_id = new_id or _new_id
        self._new_token = new_token or _new_token
        now = self._clock()
        if not isinstance(now, datetime) or now.utcoffset() is None:
            raise ValueError(f"clock must return aware datetimes, such as datetime.now(UTC); got {now!r}")
        self._purged_at: datetime | None = None
        self._lock = threading.RLock()
        self._depth = 0  # of nested transactions; read and written only under the lock
        self._beginning = False  # the outermost of them, or in it: it has an owner who will end it
        self._hurry = threading.local()  # .on in a thread that must not wait
        self._lost: Callable[[], StorageError] | None = None  # why a forked child cannot use this store
        self._locked_for_fork = False
        if isinstance(cache_size, bool) or not isinstance(cache_size, int) or cache_size < 0:
            raise ValueError(f"cache_size must be an int, 0 to keep nothing; got {cache_size!r}")
        # Records with a dict or a list inside cannot be handed out twice, and copying costs more than reading.
        shareable = not (containers(self._models[SESSION]) or containers(self._models[USER]))
        self._recent = _Recent(cache_size if shareable else 0)

    # -- users

    def create_user(
        self, /, *, email: str | None = None, name: str | None = None, image: str | None = None,
        email_verified: datetime | None = None, id: str | None = None, **custom: Any
    ) -> UserT:
        user = self._build(
            USER,
            custom,
            id=self._new_id() if id is None else id,
            email=email,
            name=name,
            image=image,
            email_verified=email_verified,
        )
        with self.transaction():
            if self._get(USER, (user.id,)) is not None:
                raise self._conflict(USER, "id")
            self._refuse_taken_email(user)
            self._put(USER, (user.id,), user)
        return user  # type: ignore[no-any-return]

    def get_user(self, user_id: str) -> UserT | None:
        key = self._asked("user_id", user_id)
        return None if key is None else self._get(USER, (key,))

    def get_user_by_email(self, email: str) -> UserT | None:
        if not self._fits("email", email) or (key := email_key(email)) is None:
            return None
        return next(iter(self._find(USER, key).values()), None)

    def get_user_by_account(self, *, provider: str, provider_account_id: str) -> UserT | None:
        key = self._account_key(provider, provider_account_id)
        return None if key is None else self._get_owner(key)

    def update_user(self, user_id: str, **changes: Any) -> UserT:
        changes = self._checked(USER, changes, fixed=("id",))
        key = self._asked("user_id", user_id)
        with self.transaction():
            user = None if key is None else self._get(USER, (key,))
            if user is None:
                raise self._not_found(USER, user_id)
            updated = dataclasses.replace(user, **changes)
            if "email" in changes:
                self._refuse_taken_email(updated)
            self._put(USER, (user.id,), updated)
        return updated  # type: ignore[no-any-return]

    def delete_user(self, user_id: str) -> UserT | None:
        if (key := self._asked("user_id", user_id)) is None:
            return None
        with self.transaction():
            for entity in (ACCOUNT, SESSION, AUTHENTICATOR):
                self._remove_group(entity, key)
            user: UserT | None = self._remove(USER, (key,))
            if user is not None and user.email is not None:
                # The address as an identifier too: without an @ it is one that is compared exactly.
                for address in {email_key(user.email), identifier_key(user.email)}:
                    self._remove_group(VERIFICATION_TOKEN, address or "")
        return user

    def _refuse_taken_email(self, user: User) -> None:
        key = USER.group_of(user)
        if key is not None and any(other != (user.id,) for other in self._find(USER, key)):
            raise self._conflict(USER, "email")

    # -- accounts

    def link_account(
        self, /, *, user_id: str, type: str, provider: str, provider_account_id: str, **tokens: Any
    ) -> AccountT:
        values = self._checked(
            ACCOUNT,
            {"type": type, "provider": provider, "provider_account_id": provider_account_id},
        )
        extra = tokens.pop("extra", {})
        extra = dict(extra) if isinstance(extra, Mapping) else {"extra": extra}
        named = {f.name: f for f in fields_of(self._models[ACCOUNT])}
        for name, value in tokens.items():
            try:
                values[name] = named[name].check(value)
            except KeyError:
                extra[name] = value
            except InvalidFieldError:  # a provider's whim must not keep somebody from signing in
                values[name] = None if named[name].optional else self._default(named[name])
                extra[name] = value
        extra = named["extra"].check(as_json(extra))
        key = (values["provider"], values["provider_account_id"])
        with self.transaction():
            self._require_user(user_id)
            account = self._get(ACCOUNT, key)
            if account is None:
                account = self._build(ACCOUNT, {}, user_id=user_id, extra=extra, **values)
            elif account.user_id != user_id:
                raise self._conflict(ACCOUNT, "provider_account_id")
            else:
                kept = {name: value for name, value in account.extra.items() if name not in values}
                account = dataclasses.replace(account, **values, extra=kept | extra)
            self._put(ACCOUNT, key, account)
        return account  # type: ignore[no-any-return]

    def unlink_account(self, *, provider: str, provider_account_id: str) -> AccountT | None:
        if (key := self._account_key(provider, provider_account_id)) is None:
            return None
        with self.transaction():
            return self._remove(ACCOUNT, key)  # type: ignore[no-any-return]

    def get_account(self, *, provider: str, provider_account_id: str) -> AccountT | None:
        key = self._account_key(provider, provider_account_id)
        return None if key is None else self._get(ACCOUNT, key)

    def list_accounts(self, user_id: str) -> list[AccountT]:
        return self._list(ACCOUNT, user_id)

    def _account_key(self, provider: str, provider_account_id: str) -> tuple[str, str] | None:
        first = self._asked("provider", provider)
        second = self._asked("provider_account_id", provider_account_id)
        return None if first is None or second is None else (first, second)

    # -- sessions

    def create_session(
        self, /, *, user_id: str, session_token: str | None = None, expires: datetime | None = None,
        **custom: Any
    ) -> SessionT:
        now = self._now()
        session = self._build(
            SESSION,
            custom,
            fixed=("id", "created_at"),
            session_token=self._new_token() if session_token is None else session_token,
            user_id=user_id,
            expires=_later(now, self._max_age) if expires is None else expires,
            created_at=now,
        )
        digest = self._digest(session.session_token)
        session = self._within_absolute_age(dataclasses.replace(session, id=session_id(digest)))
        with self.transaction():
            self._require_user(user_id)
            self._make_room(digest)
            self._put(SESSION, (digest,), dataclasses.replace(session, session_token=""))
            self._purge_some(now)
        return session  # type: ignore[no-any-return]

    def get_session_and_user(self, session_token: str) -> SessionAndUser[SessionT, UserT] | None:
        if not isinstance(session_token, str) or len(session_token) > MAX_KEY_LENGTH:
            self._fits("session_token", session_token)  # for its errors
            return None
        found = self._get_session_and_user(session_token)
        if found is not None and self._absolute_age is not None:
            found = SessionAndUser(self._within_absolute_age(found.session), found.user)
        return found if found is not None and found.session.expires > self._clock() else None

    def update_session(self, session_token: str, **changes: Any) -> SessionT | None:
        fixed = ("session_token", "user_id", "created_at", "id")
        changes = self._checked(SESSION, changes, fixed=fixed)
        return self._rewrite_session(
            session_token, lambda session: dataclasses.replace(session, **changes) if changes else session
        )

    def touch_session(self, session_token: str) -> SessionT | None:
        def extended(session: Any) -> Any:
            now = self._now()
            extended = _later(now, self._max_age)
            # Auth.js's rule, expires - max_age + update_age > now, in terms that cannot overflow.
            if extended == session.expires or extended < _later(session.expires, self._update_age):
                return session
            return dataclasses.replace(session, expires=extended)

        return self._rewrite_session(session_token, extended)

    def rotate_session(self, session_token: str) -> SessionT | None:
        if (key := self._session_key(session_token)) is None:
            return None
        token = fields_of(self._models[SESSION])[0].check(self._new_token())
        digest = self._digest(token)
        with self.transaction():
            session = self._live(self._get(SESSION, key))
            if session is None:
                return None
            self._make_room(digest)
            self._rekey(SESSION, key, (digest,))
        session = dataclasses.replace(session, id=session_id(digest))
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
        return sorted(live, key=lambda session: (session.created_at or _LONG_AGO, session.id), reverse=True)

    def revoke_session(self, user_id: str, session_id: str) -> bool:
        _text("session_id", session_id)
        return self._revoke(user_id, lambda key, session: session.id == session_id) == 1

    def revoke_sessions(self, user_id: str, *, keep: str | None = None) -> int:
        kept = None if keep is None else self._session_key(keep)
        return self._revoke(user_id, lambda key, session: key != kept)

    def _revoke(self, user_id: str, ends: Callable[[Any, Any], bool]) -> int:
        """Remove the user's sessions for which ``ends(key, session)``; how many of them were live."""
        if (owner := self._asked("user_id", user_id)) is None:
            return 0
        count = 0
        with self.transaction():
            for key, session in self._find(SESSION, owner).items():
                if ends(key, session):
                    self._remove(SESSION, key)
                    count += self._live(session) is not None
        return count

    def _rewrite_session(self, session_token: str, rewrite: Callable[[Any], Any]) -> SessionT | None:
        """Replace a live session by ``rewrite(session)`` and return it with its token; None if there is none.

        Nothing is written if that is the very same session.
        """
        if not self._fits("session_token", session_token):
            return None
        # Most touches change nothing: find that out as cheaply as a look-up does, without the file's write lock.
        found = self._get_session_and_user(session_token)
        session: Any = None if found is None else self._live(found.session)
        if session is None or self._within_absolute_age(rewrite(session)) is session:
            return session
        key = (self._digest(session_token),)
        with self.transaction():
            session = self._live(self._get(SESSION, key))
            if session is None:
                return None
            session = self._within_absolute_age(rewrite(session))
            self._put(SESSION, key, session)
        return dataclasses.replace(session, session_token=session_token)  # type: ignore[no-any-return]

    def _make_room(self, digest: bytes) -> None:
        """ConflictError for a taken token; an expired session is absent, whether purged yet or not."""
        if self._live(self._remove(SESSION, (digest,))) is not None:
            raise self._conflict(SESSION, "session_token")

    def _session_key(self, session_token: str) -> tuple[bytes] | None:
        if not self._fits("session_token", session_token):
            return None
        return (self._digest(session_token),)

    def _within_absolute_age(self, session: Any) -> Any:
        """The session, expiring no later than the absolute age demands, which may be lower than it once was."""
        if self._absolute_age is None or session.created_at is None:
            return session
        end = _later(session.created_at, self._absolute_age)
        return session if session.expires <= end else dataclasses.replace(session, expires=end)

    # -- verification tokens

    def create_verification_token(
        self, /, *, identifier: str, token: str | None = None, expires: datetime | None = None, **custom: Any
    ) -> VerificationTokenT:
        now = self._now()
        made = self._build(
            VERIFICATION_TOKEN,
            custom,
            identifier=identifier,
            token=self._new_token() if token is None else token,
            expires=_later(now, self._verification_max_age) if expires is None else expires,
        )
        key = (VERIFICATION_TOKEN.group_of(made), self._digest(made.token))
        with self.transaction():
            self._put(VERIFICATION_TOKEN, key, dataclasses.replace(made, token=""))
            self._purge_some(now)
        return made  # type: ignore[no-any-return]

    def use_verification_token(self, *, identifier: str, token: str) -> VerificationTokenT | None:
        group = self._identifier_group(identifier)
        if not self._fits("token", token) or group is None:
            return None
        with self.transaction():
            used = self._live(self._remove(VERIFICATION_TOKEN, (group, self._digest(token))))
        return None if used is None else dataclasses.replace(used, token=token)

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

    def create_authenticator(
        self, /, *, user_id: str, credential_id: str, provider_account_id: str, credential_public_key: str,
        counter: int, credential_device_type: str, credential_backed_up: bool, transports: str | None = None,
        **custom: Any
    ) -> AuthenticatorT:
        made = self._build(
            AUTHENTICATOR,
            custom,
            credential_id=credential_id,
            user_id=user_id,
            provider_account_id=provider_account_id,
            credential_public_key=credential_public_key,
            counter=counter,
            credential_device_type=credential_device_type,
            credential_backed_up=credential_backed_up,
            transports=transports,
        )
        with self.transaction():
            self._require_user(user_id)
            if self._get(AUTHENTICATOR, (made.credential_id,)) is not None:
                raise self._conflict(AUTHENTICATOR, "credential_id")
            self._put(AUTHENTICATOR, (made.credential_id,), made)
        return made  # type: ignore[no-any-return]

    def get_authenticator(self, credential_id: str) -> AuthenticatorT | None:
        key = self._asked("credential_id", credential_id)
        return None if key is None else self._get(AUTHENTICATOR, (key,))

    def list_authenticators_by_user_id(self, user_id: str) -> list[AuthenticatorT]:
        return self._list(AUTHENTICATOR, user_id)

    def update_authenticator_counter(self, credential_id: str, counter: int) -> AuthenticatorT:
        changes = self._checked(AUTHENTICATOR, {"counter": counter})
        key = self._asked("credential_id", credential_id)
        with self.transaction():
            found = None if key is None else self._get(AUTHENTICATOR, (key,))
            if found is None:
                raise self._not_found(AUTHENTICATOR, credential_id)
            if counter <= found.counter and (counter, found.counter) != (0, 0):
                raise CounterRegressionError(
                    f"the authenticator's counter must grow: {found.counter} is stored, {counter} was given;"
                    " the passkey may have been cloned",
                    stored=found.counter,
                    given=counter,
                )
            updated = dataclasses.replace(found, **changes)
            self._put(AUTHENTICATOR, (key,), updated)
        return updated  # type: ignore[no-any-return]

    # -- the whole store

    def purge_expired(self, *, limit: int | None = None) -> Purged:
        if limit is not None and (not isinstance(limit, int) or limit < 0):
            raise ValueError(f"limit must be an int of at least 0, or None; got {limit!r}")
        self._require_open()
        now = self._now()
        counts = []
        for entity in (SESSION, VERIFICATION_TOKEN):
            removed = 0
            # In many short transactions: whoever waits to write gets a turn in between.
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
        """A bounded share of purging, inside a write that adds a record; the rest is for the next ones.

        A round begins at most once in an interval and goes on, a batch with each write, until nothing
        is left: a write adds one record and may remove many, so a store cannot outgrow it.
        """
        interval = self._purge_interval
        if interval is None or (self._purged_at is not None and abs(now - self._purged_at) < interval):
            return
        counts = [self._purge(entity, now, PURGE_BATCH) for entity in (SESSION, VERIFICATION_TOKEN)]
        self._purged_at = None if PURGE_BATCH in counts else now

    @contextmanager
    def transaction(self) -> Iterator[Self]:
        self._about_to_wait()  # for a disk, for another writer
        with self._lock:
            self._require_open()
            depth = self._depth or self._underway()
            begun = False
            try:
                self._begin(depth)
                begun = True
                self._depth = depth + 1  # in here: an interrupt must not leave it behind
                yield self
                self._require_open()
                self._commit(depth)
            except BaseException:
                if begun or (depth == 0 and self._underway()):
                    self._rollback(depth)
                raise
            finally:
                self._depth = depth
                if depth == 0:
                    self._beginning = False  # not in _rollback, which another signal may keep from being called

    def snapshot(self) -> Snapshot:
        with self.transaction():
            return Snapshot(self._kind(), self._dump())

    def restore(self, snapshot: Snapshot) -> None:
        if not isinstance(snapshot, Snapshot) or snapshot.made_by != self._kind():
            raise TypeError("restore takes what snapshot() of a store of the same kind and models returned")
        with self.transaction():
            self._load(snapshot.state)
        self._purged_at = None  # what was purged since may be back

    def _kind(self) -> tuple[Any, ...]:
        return (type(self), *self._models.values())

    def check(self) -> list[str]:
        self._require_open()
        try:
            with self.transaction():
                problems = self._check_storage()
                return problems or [problem for entity in ENTITIES for problem in self._check_entity(entity)]
        except BusyError:
            raise
        except StorageError as error:  # what cannot be read cannot be judged
            return [str(error)]

    def _check_entity(self, entity: Entity) -> Iterator[str]:
        try:
            records = self._all(entity)
        except StorageError as error:
            yield str(error)
            return
        groups: dict[str, set[Any]] = {}
        for key, record in records.items():
            where = f"{entity.name} {_brief(record.id if entity is SESSION else key[0])}"
            for f in fields_of(type(record)):
                try:
                    if f.name not in entity.withheld:
                        f.check(getattr(record, f.name))
                except InvalidFieldError as error:
                    yield f"{where}: {error}"
            if entity.group == "user_id" and self._get(USER, (record.user_id,)) is None:
                yield f"{where}: its user {_brief(record.user_id)} does not exist"
            if (group := entity.group_of(record)) is not None:
                groups.setdefault(group, set()).add(key)
        for group, keys in groups.items():
            for key in keys ^ set(self._find(entity, group)):
                yield f"{entity.name} {_brief(str(key[0]))}: {_brief(group)} is not its {entity.group}"

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._release()

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
            finally:  # a warning may be an error
                self.close()

    def _opened(self) -> None:
        """The constructor's last step: from here on the store must be closed, and survives fork()."""
        self._closed = False
        _open_stores.add(self)

    def _require_open(self) -> None:
        if self._closed:
            raise ClosedError(f"{self!r} is closed; create a new one")
        if self._lost is not None:
            raise self._lost()

    def _at_once(self, method: Callable[P, T], /, *arguments: P.args, **fields: P.kwargs) -> T:
        """The answer of a look-up, for an event loop. WouldWait, and nothing done, if it had to wait."""
        lock = self._lock  # which a child forked meanwhile, in a signal's handler, has replaced
        if self._copied_by_fork and not lock.acquire(blocking=False):
            raise WouldWait
        try:
            self._hurry.on = True
            return method(*arguments, **fields)
        finally:
            self._hurry.on = False
            if self._copied_by_fork:
                lock.release()

    def _about_to_wait(self) -> None:
        """WouldWait, in a thread that must not."""
        if getattr(self._hurry, "on", False):
            raise WouldWait

    # -- small change

    def _forget(self, entity: Entity, key: tuple[Any, ...]) -> None:
        """Evict from ``_recent`` what a write to that record touches: a session, or all of a user's."""
        if entity is SESSION:
            self._recent.evict(session_id(key[0]))
        elif entity is USER:
            try:
                sessions = self._find(SESSION, key[0]) if self._recent.valid else {}
            except StorageError:  # what cannot be read can still be written, or deleted
                self._recent.clear()
                return
            for (digest,) in sessions:
                self._recent.evict(session_id(digest))

    def _now(self) -> datetime:
        """The time, in UTC: arithmetic in a zone with summer time would be an hour off."""
        return self._clock().astimezone(UTC)

    def _live(self, record: Any) -> Any:
        """``record`` unless it is None or expired (at ``expires`` exactly it is)."""
        if isinstance(record, Session):
            record = self._within_absolute_age(record)
        return record if record is not None and record.expires > self._clock() else None

    def _digest(self, token: str) -> bytes:
        """What is stored of a token: 32 bytes, of which nothing leads back. Source: ASVS 6.5.2."""
        data = token.encode("utf-8", "surrogatepass")  # any str a stranger sends has a digest
        if self._secret is None:
            return self._sha256(data).digest()
        import hmac

        return hmac.digest(self._secret, data, "sha256")

    def _list(self, entity: Entity, user_id: str) -> list[Any]:
        owner = self._asked("user_id", user_id)
        return [] if owner is None else list(self._find(entity, owner).values())

    def _fits(self, name: str, text: str) -> bool:
        """Whether a store could hold so long a text as a key. TypeError if it is none; ClosedError."""
        self._require_open()
        return len(_text(name, text)) <= MAX_KEY_LENGTH

    def _asked(self, name: str, text: str) -> str | None:
        """``text`` as a key to look for; None if no store could hold it. TypeError, ClosedError."""
        self._require_open()
        return storable(_text(name, text))

    def _require_user(self, user_id: str) -> None:
        key = self._asked("user_id", user_id)
        if key is None or self._get(USER, (key,)) is None:
            raise self._not_found(USER, user_id)

    def _default(self, f: Any) -> Any:
        return f.check(f.default())

    def _build(
        self, entity: Entity, custom: Mapping[str, Any], *, fixed: tuple[str, ...] = (), **values: Any
    ) -> Any:
        """A valid record from the fields given and the defaults of the others."""
        values.update(self._checked(entity, custom, fixed=fixed))
        model = self._models[entity]
        for f in fields_of(model):
            values[f.name] = f.check(values[f.name]) if f.name in values else self._default(f)
        return model(**values)

    def _checked(
        self, entity: Entity, values: Mapping[str, Any], *, fixed: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """The values as they are stored. TypeError for a name that is unknown or ``fixed``."""
        known = {f.name: f for f in fields_of(self._models[entity]) if f.name not in fixed}
        if unknown := [name for name in values if name not in known]:
            names = ", ".join(known) or "none"
            raise TypeError(
                f"{self._models[entity].__name__} has no field {', '.join(map(repr, unknown))} that can be"
                f" given here; known: {names} (more by a custom model: {entity.name}=)"
            )
        return {name: known[name].check(value) for name, value in values.items()}

    def _conflict(self, entity: Entity, field: str) -> ConflictError:
        model = self._models[entity].__name__
        return ConflictError(f"{model}.{field} is taken", model=model, field=field)

    def _not_found(self, entity: Entity, key: str) -> NotFoundError:
        model = self._models[entity].__name__
        return NotFoundError(f"there is no {model} {_brief(key)}", model=model, key=key)

    # -- fork(): a child must inherit no open database (SQLite loses writes even if the child opens its
    #    own: the inherited library believes to hold locks that the kernel never gave the child), and no
    #    lock of a thread that does not exist there.

    def _before_fork(self) -> None:
        self._locked_for_fork = self._lock.acquire(timeout=FORK_PATIENCE)

    def _after_fork_in_parent(self) -> None:
        if self._locked_for_fork:
            self._locked_for_fork = False
            self._lock.release()

    def _after_fork_in_child(self) -> None:
        if not self._locked_for_fork or self._holds_what_a_child_must_not():
            self._lost = functools.partial(
                StorageError,
                "this process was forked while a transaction was open in its parent: only the parent can"
                " finish it; fork outside of transaction()",
            )
            self._recent.clear()
        self._locked_for_fork = False
        self._lock = threading.RLock()

    def _holds_what_a_child_must_not(self) -> bool:
        """Whether fork() found a transaction that only the parent can finish."""
        return self._depth > 0 and not self._copied_by_fork

    # -- storage: what differs between the stores

    _copied_by_fork = True  # the state lives in this process's memory alone

    @abstractmethod
    def _get(self, entity: Entity, key: tuple[Any, ...]) -> Any:
        """The record with that key, or None."""

    @abstractmethod
    def _find(self, entity: Entity, group: str) -> dict[tuple[Any, ...], Any]:
        """The records of that group by their keys, in the order of the keys."""

    @abstractmethod
    def _all(self, entity: Entity) -> dict[tuple[Any, ...], Any]:
        """Every record by its key."""

    @abstractmethod
    def _get_session_and_user(self, session_token: str) -> SessionAndUser[SessionT, UserT] | None:
        """The session, token filled in, with its user, expired or not; None if there is none."""

    @abstractmethod
    def _get_owner(self, account: tuple[str, str]) -> UserT | None:
        """The user of the account with that key, or None."""

    @abstractmethod
    def _put(self, entity: Entity, key: tuple[Any, ...], record: Any) -> None:
        """Insert the record, or replace the one with that key."""

    @abstractmethod
    def _rekey(self, entity: Entity, key: tuple[Any, ...], new: tuple[Any, ...]) -> None:
        """File the record with that key under a new one that is free."""

    @abstractmethod
    def _remove(self, entity: Entity, key: tuple[Any, ...]) -> Any:
        """Remove and return the record with that key, or None."""

    @abstractmethod
    def _remove_group(self, entity: Entity, group: str) -> None:
        """Remove the records of that group."""

    @abstractmethod
    def _purge(self, entity: Entity, now: datetime, limit: int) -> int:
        """Remove at most ``limit`` records that expired by ``now``, oldest first; how many."""

    def _underway(self) -> int:
        """1 if a transaction has begun, though the line that counts it in ``_depth`` has not run: for a signal's
        handler in between, whose own is one inside of it. 0 where nothing begins that would be in its way."""
        return 0

    @abstractmethod
    def _begin(self, depth: int) -> None:
        """Open a transaction (``depth`` 0) or a savepoint in it."""

    @abstractmethod
    def _commit(self, depth: int) -> None:
        """Make what happened since ``_begin(depth)`` last."""

    @abstractmethod
    def _rollback(self, depth: int) -> None:
        """Undo what happened since ``_begin(depth)``."""

    @abstractmethod
    def _dump(self) -> Any:
        """The whole state, for ``_load``."""

    @abstractmethod
    def _load(self, state: Any) -> None:
        """Replace the whole state."""

    def _check_storage(self) -> list[str]:
        """Problems below the level of records."""
        return []

    def _release(self) -> None:
        """Let go of everything, for good."""


_open_stores: weakref.WeakSet[_Store[Any, Any, Any, Any, Any]] = weakref.WeakSet()

if hasattr(os, "register_at_fork"):

    _forking: list[_Store[Any, Any, Any, Any, Any]] = []  # those that were told before; others may open meanwhile

    def _before_fork() -> None:
        for store in list(_open_stores):
            store._before_fork()
            _forking.append(store)

    def _after_fork_in_parent() -> None:
        while _forking:
            _forking.pop()._after_fork_in_parent()

    def _after_fork_in_child() -> None:
        _forking.clear()
        for store in list(_open_stores):  # one that opened in between was not told: it refuses from now on
            store._after_fork_in_child()

    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )


# --- SQLite -----------------------------------------------------------------------------------


class SQLiteAdapter(_Store[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]):
    """A store in one SQLite file, or in memory for ``":memory:"``.

    Safe for any number of threads and processes. One connection, guarded by a lock; while that is
    busy, other threads read a file through a second connection, so no look-up waits for a write.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronize: bool = True,
        durability: Literal["full", "normal"] = "full",
        timeout: float = 5.0,
        **options: Unpack[Options[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]],
    ) -> None:
        """Open ``path``, creating the file (mode 0600) unless it exists. Further options: see ``_Store``.

        ``synchronize``: create tables and add a custom model's columns where they are missing; False
        only verifies. ``durability``: ``"full"``, what was acknowledged survives a power cut;
        ``"normal"``, it survives the process but the last moments may not survive a power cut.
        ``timeout``: seconds to wait for another process's write before BusyError.

        StorageError if the file is no store of ours, damaged, newer, out of reach, or (without
        ``synchronize``) lacks something; the file is left as it was.
        """
        super().__init__(**options)
        if sqlite3 is None or sqlite3.sqlite_version_info < MINIMUM_SQLITE:
            found = "none" if sqlite3 is None else f"SQLite {sqlite3.sqlite_version}"
            raise StorageError(
                f"SQLiteAdapter needs SQLite {'.'.join(map(str, MINIMUM_SQLITE))} or newer, and this Python"
                f" has {found}; ShelveAdapter (a directory) and MemoryAdapter need none"
            )
        if durability not in ("full", "normal"):
            raise ValueError(f'durability must be "full" or "normal"; got {durability!r}')
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0:
            raise ValueError(f"timeout must be a number of seconds, not negative; got {timeout!r}")
        path = os.fspath(path)
        if not isinstance(path, str) or not path or path.startswith("file:"):
            raise ValueError(f"path must name a file, or be ':memory:'; got {path!r}")
        self._copied_by_fork = path == ":memory:"
        self._path = path if path == ":memory:" else os.path.abspath(path)
        self._timeout = timeout
        self._synchronous = durability.upper()
        self._schema = schema_for(tuple(self._models.values()))
        self._connection: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._version: Any = None  # of the data, before anything was read that is kept and not doubted
        self._header = b""  # of the WAL index, before the version was asked for
        self._shm = -1  # SQLite's descriptor of it; -1: none that is surely SQLite's
        self._midway = False  # between a statement's first step and its last; read and written under the lock
        self._reader_lock = threading.Lock()
        try:
            if not self._copied_by_fork:
                self._reach_file(create=synchronize)
            file = self._file()
            self._connection = self._connect()
            self._prepare(synchronize)
            self._watch(file)
        except BaseException:
            self._suspend(really=True)
            raise
        self._opened()

    def __repr__(self) -> str:
        return f"SQLiteAdapter({self._path!r})"

    # -- opening

    def _reach_file(self, *, create: bool) -> None:
        """Make sure that there is a file which SQLite can use, without opening one that exists:
        closing any descriptor of a database drops the locks of this process's other connections."""
        try:
            if create:
                # 0600 before SQLite sees it: -wal and -shm inherit the mode, chmod later would be late.
                try:
                    os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
                except FileExistsError:
                    pass
            if not stat.S_ISREG(os.stat(self._path).st_mode):
                raise self._trouble("is not a file; give the path of a file, which may be new")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            if isinstance(error, FileNotFoundError):
                folder = os.path.dirname(self._path)
                reason = f"the directory {folder} does not exist; create it first"
                if os.path.isdir(folder):
                    reason = "no file can be made there" if create else "it does not exist; synchronize=True would create it"
            raise self._trouble(f"cannot be opened: {reason}") from error
        if not os.access(self._path, os.R_OK | os.W_OK) or not os.access(os.path.dirname(self._path), os.W_OK):
            raise self._trouble("is not writable for this user, or its directory is not (SQLite needs both)")

    def _connect(self, *, reader: bool = False) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(
                self._path,
                timeout=0,  # the waiting is done in _run
                isolation_level=None,
                check_same_thread=False,
                cached_statements=256,
            )
        except sqlite3.Error as error:
            raise self._translated(error) from error
        try:
            for pragma in (
                "foreign_keys = ON",
                "secure_delete = ON",
                "temp_store = MEMORY",
                "trusted_schema = OFF",
                f"synchronous = {self._synchronous}",
                f"query_only = {'ON' if reader else 'OFF'}",
            ):
                self._run(f"PRAGMA {pragma}", connection=connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _file(self) -> tuple[int, int] | None:
        """What the path means just now: a device and an inode. None for a store in memory, or if it means nothing."""
        if self._copied_by_fork:
            return None
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _watch(self, file: tuple[int, int] | None) -> None:
        """From here on be able to tell whether another connection has committed. ``file``: what the path meant
        before the connection was made; if it means another one by now, its -shm may not be SQLite's."""
        self._header = b""
        version = self._row(DATA_VERSION)
        self._recent.doubt()  # what a signal's handler has read before
        self._version = version
        shm = -1 if file is None else _descriptor_of(f"{os.path.realpath(self._path)}-shm")
        self._shm = shm if file == self._file() else -1

    def _prepare(self, synchronize: bool) -> None:
        """Check whose file this is before touching it, then see that the tables are there."""
        if self._copied_by_fork:  # new and ours alone: nothing to look at
            self._make_tables()
            return
        self._run("BEGIN")  # one look: another process may be making the file right now
        application_id, user_version = (
            self._run(f"PRAGMA {pragma}")[0][0] for pragma in ("application_id", "user_version")
        )
        tables = [name for (name,) in self._run(FOREIGN_TABLES)]
        found = self._run(INSPECT)
        self._run("COMMIT")
        if application_id != APPLICATION_ID and (application_id or user_version or tables):
            raise self._trouble(
                f"is the database of another application (application_id {application_id},"
                f" tables: {', '.join(tables) or 'none'}); choose another path"
            )
        if user_version > USER_VERSION:
            raise self._trouble(
                f"was written by a newer tinyauthstore (schema {user_version}, this one knows {USER_VERSION});"
                " upgrade the package"
            )
        _, missing, wrong = self._schema.differences(found)
        if wrong:
            raise self._trouble(
                f"does not fit the models: {'; '.join(wrong)}; rename the field or convert the column"
            )
        if missing and not synchronize:
            raise self._trouble(f"lacks {'; '.join(missing)}; open it once with synchronize=True to add that")
        self._run("PRAGMA journal_mode = WAL")
        if missing:
            self._run("BEGIN IMMEDIATE")
            # Somebody else may have been faster: what is missing counts under the lock only.
            for statement in (*self._schema.differences(self._run(INSPECT))[0], *MARK, "COMMIT"):
                self._run(statement)

    def _make_tables(self) -> None:
        """Make the tables of a new store in memory: the first for its models by DDL, the others as copies of its
        pages. That takes a third of the time, which every test with such a store would wait for."""
        connection: Any = self._connection
        schema = self._schema
        if schema.pages is None:
            for statement in ("BEGIN", *schema.create, "COMMIT"):
                self._run(statement)
            if hasattr(connection, "serialize"):  # SQLite may be built without
                schema.pages = connection.serialize()
            return
        try:
            # By way of another: a database that was itself deserialized takes a fifth longer to write, and ends
            # at 1 GiB.
            with closing(sqlite3.connect(":memory:")) as first:
                first.deserialize(schema.pages)
                first.backup(connection)
        except sqlite3.Error as error:
            raise self._translated(error) from error

    # -- the one door to SQLite

    def _run(
        self, sql: str, parameters: Sequence[Any] = (), connection: sqlite3.Connection | None = None
    ) -> list[Any]:
        """All rows of a statement. Waits while another process writes; translates every error.

        SQLite's own waiting is unfair under load (a writer was measured to starve for seconds):
        short random sleeps are not.
        """
        deadline = None
        while True:
            used = self._connection
            try:
                return self._rows(sql, parameters, connection)
            except UnicodeDecodeError:
                garbled = True
            except sqlite3.Error as error:
                if connection is None and used is not self._connection:
                    continue  # a signal's handler called fork(), for which it was closed
                # The message quotes the value, which may be a token: neither it nor the cause is passed on.
                garbled = str(error).startswith("Could not decode")
                now = time.monotonic()
                deadline = deadline or now + self._timeout
                busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
                if not garbled and (not busy or now >= deadline):
                    raise self._translated(error) from error
            if garbled:
                raise self._trouble("is damaged (it holds text that is not UTF-8); restore a backup")
            self._about_to_wait()
            import random

            time.sleep(random.uniform(0, 0.002))

    def _rows(
        self, sql: str, parameters: Sequence[Any], connection: sqlite3.Connection | None
    ) -> list[Any]:
        """One attempt of ``_run``, with SQLite's own errors."""
        if connection is not None:  # the second one, which another lock guards
            return self._fetched(connection, sql, parameters)
        outer, self._midway = self._midway, True
        try:
            return self._fetched(self._connection or self._ready(), sql, parameters)
        finally:
            self._midway = outer

    def _fetched(self, connection: sqlite3.Connection, sql: str, parameters: Sequence[Any]) -> list[Any]:
        cursor = None
        try:
            cursor = connection.execute(sql, parameters)
            rows = cursor.fetchmany(AT_ONCE + 1)
            if len(rows) > AT_ONCE:
                self._about_to_wait()
                rows += cursor.fetchall()
            return rows
        finally:
            cursor = None  # kept by the frames of an exception, it would show the connection the past for as long

    def _row(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """The first row of a query on the first connection, or None: ``_run`` without its overhead."""
        outer, self._midway = self._midway, True
        try:
            return (self._connection or self._ready()).execute(sql, parameters).fetchone()
        except sqlite3.Error:
            return next(iter(self._run(sql, parameters)), None)
        finally:
            self._midway = outer

    def _translated(self, error: sqlite3.Error) -> StorageError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_BUSY:
            return BusyError(
                f"{self._path} stayed locked by another process for {self._timeout} seconds; nothing was changed."
                " Keep its transactions short, or give a longer timeout=",
                path=self._path,
            )
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return self._trouble(
                f"is damaged or no SQLite database ({error}); restore a backup, or choose another path"
            )
        return self._trouble(f"could not be used: {error}")

    def _trouble(self, what: str) -> StorageError:
        return StorageError(f"{self._path} {what}", path=self._path)

    def _ready(self) -> sqlite3.Connection:
        """The first connection, made anew if it was closed before a fork(). ClosedError."""
        self._require_open()
        if self._connection is None:
            file = self._file()
            self._connection = self._connect()
            self._watch(file)
        return self._connection

    def _read(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        """Rows of a query, from the second connection where the first is busy in another thread."""
        lock, other = self._lock, self._reader_lock
        if not lock.acquire(blocking=self._copied_by_fork):
            if not other.acquire(blocking=False):
                self._about_to_wait()
                other.acquire()
            try:
                self._require_open()
                if self._reader is None:
                    self._reader = self._connect(reader=True)
                return self._run(sql, parameters, self._reader)
            finally:
                other.release()
        try:
            self._ready()
            return self._run(sql, parameters)
        finally:
            lock.release()

    # -- storage

    def _get(self, entity: Entity, key: tuple[Any, ...]) -> Any:
        table = self._schema.tables[entity]
        rows = self._read(table.select, key)
        return self._record(table, rows[0]) if rows else None

    def _find(self, entity: Entity, group: str) -> dict[tuple[Any, ...], Any]:
        return self._keyed(entity, self._read(self._schema.tables[entity].select_group, (group,)))

    def _all(self, entity: Entity) -> dict[tuple[Any, ...], Any]:
        return self._keyed(entity, self._read(self._schema.tables[entity].select_all, ()))

    def _keyed(self, entity: Entity, rows: list[Any]) -> dict[tuple[Any, ...], Any]:
        table, parts = self._schema.tables[entity], len(entity.key)
        return {row[:parts]: self._record(table, row[parts:]) for row in rows}

    def _get_owner(self, account: tuple[str, str]) -> UserT | None:
        rows = self._read(self._schema.user_by_account, account)
        return self._record(self._schema.tables[USER], rows[0]) if rows else None

    def _get_session_and_user(self, session_token: str) -> SessionAndUser[SessionT, UserT] | None:
        # The hot path of every application: no generality that costs, each line measured.
        lock = self._lock
        if not lock.acquire(self._copied_by_fork):  # busy: the second connection, which keeps nothing
            digest = self._digest(session_token)
            rows = self._read(self._schema.session_and_user, (digest,))
            return self._found(rows[0], session_token, digest) if rows else None
        try:
            recent = self._recent
            place, known = recent.places.get(session_token), None
            if place is not None:
                found, known = place.read
                if found is not None and place.doubts == recent.doubts and recent.valid.get(place.id) is place:
                    # Asked twice: a signal's handler may have used up the news of a commit in between.
                    if (self._copied_by_fork or self._still_true()) and place.doubts == recent.doubts:
                        return found
            digest = self._digest(session_token)
            keeping = recent.size and self._depth == 0
            place = recent.reserve(session_token, digest) if keeping else None
            # Read after the version under which all is kept: had another connection committed in
            # between, the next hit would see that. So a miss need not ask for the version.
            row = self._row(self._schema.session_and_user, (digest,))
            if row is None:
                if place is not None:
                    recent.evict(place.id)
                return None
            if row != known:
                found = self._found(row, session_token, digest)
            if place is not None:
                place.read = found, row
            elif keeping:
                recent.remember(digest)
            return found
        finally:
            lock.release()

    def _still_true(self) -> bool:
        """Whether no other connection has committed since; if one has, all that was kept is doubted."""
        if self._midway:  # in a signal's handler, amid a statement that shows the connection the past
            return False
        header = self._wal_index_header()
        if header == self._header and header:
            return True
        version = self._row(DATA_VERSION)
        true: bool = version == self._version
        if not true:
            self._recent.doubt()
            self._version = version
        # Last, for a signal's handler may raise between any two lines. It was read before the version was
        # asked for: while the header stays, so does the version.
        self._header = header
        return true

    def _wal_index_header(self) -> bytes:
        """What ``PRAGMA data_version`` goes by: the start of the -shm file, which every commit changes; b"" if
        it is not to be had.

        Read through the descriptor that SQLite itself has open. To open another would be fatal: closing it
        drops SQLite's locks. The pragma takes and drops a lock besides, which makes a hit three times as
        expensive. Source: SQLite, "WAL-mode File Format", 2.1 (two copies, equal unless one is being written).
        """
        try:
            return os.pread(self._shm, WAL_INDEX_HEADER, 0) if self._shm >= 0 else b""
        except OSError:  # somebody closed it behind SQLite's back
            return b""

    def _found(self, row: Sequence[Any], session_token: str, digest: bytes) -> SessionAndUser[Any, Any]:
        try:
            return self._schema.found(row, session_token, digest)
        except NOT_OURS as error:
            what = type(error).__name__
        raise self._not_ours("sessions or users", what)

    def _record(self, table: Table, row: Sequence[Any]) -> Any:
        try:
            return table.record(row)
        except NOT_OURS as error:
            what = type(error).__name__
        raise self._not_ours(table.entity.plural, what)

    def _not_ours(self, where: str, what: str) -> StorageError:
        """The error for a row that cannot be decoded. Raised outside of ``except``: no __context__ may hold
        the value, which may be a token."""
        return self._trouble(f"holds a value in {where} that is not ours ({what}); restore a backup")

    def _put(self, entity: Entity, key: tuple[Any, ...], record: Any) -> None:
        table = self._schema.tables[entity]
        self._forget(entity, key)
        self._run(table.put, table.row(key, record))

    def _rekey(self, entity: Entity, key: tuple[Any, ...], new: tuple[Any, ...]) -> None:
        self._forget(entity, key)
        self._run(self._schema.tables[entity].rekey, (*new, *key))

    def _remove(self, entity: Entity, key: tuple[Any, ...]) -> Any:
        table = self._schema.tables[entity]
        self._forget(entity, key)
        rows = self._run(table.delete, key)
        return self._record(table, rows[0]) if rows else None

    def _remove_group(self, entity: Entity, group: str) -> None:
        if entity is SESSION:
            self._forget(USER, (group,))
        self._run(self._schema.tables[entity].delete_group, (group,))

    def _purge(self, entity: Entity, now: datetime, limit: int) -> int:
        gone = self._run(self._schema.tables[entity].purge, (to_microseconds(now), limit))
        for digest in gone:
            self._forget(entity, digest)
        return len(gone)

    def _underway(self) -> int:
        return int(self._beginning and self._connection is not None and self._connection.in_transaction)

    def _begin(self, depth: int) -> None:
        self._ready()
        if depth:
            self._run(f"SAVEPOINT s{depth}")
            return
        if self._connection is not None and self._connection.in_transaction:
            self._run("ROLLBACK")  # of a transaction whose owner was interrupted when it was about to do so
        self._beginning = True
        self._run("BEGIN IMMEDIATE")

    def _commit(self, depth: int) -> None:
        self._run("COMMIT" if depth == 0 else f"RELEASE s{depth}")

    def _rollback(self, depth: int) -> None:
        if self._connection is None or not self._connection.in_transaction:
            return  # closed inside the transaction, or undone by SQLite itself (disk full)
        self._run("ROLLBACK" if depth == 0 else f"ROLLBACK TO s{depth}")
        if depth:
            self._run(f"RELEASE s{depth}")

    def _dump(self) -> Any:
        return {entity: self._run(table.dump) for entity, table in self._schema.tables.items()}

    def _load(self, state: Any) -> None:
        self._recent.clear()
        for table in self._schema.tables.values():
            self._run(table.delete_all)
        for entity, rows in state.items():
            for row in rows:
                self._run(self._schema.tables[entity].load(len(row)), row)

    def _check_storage(self) -> list[str]:
        try:
            found = [text for (text,) in self._run("PRAGMA integrity_check") if text != "ok"]
            broken = self._run("PRAGMA foreign_key_check")
            stray = self._run(STRAY_EMAIL_KEYS)
        except StorageError as error:
            return [str(error)]
        found += [f"table {row[0]}: a row refers to a missing one in {row[2]}" for row in broken]
        return found + [f"user {_brief(user_id)}: an email_key, but no email" for (user_id,) in stray]

    def _before_fork(self) -> None:
        super()._before_fork()  # the two locks in the order in which close() takes them
        # Held for a query at the most, but perhaps by this thread, below a signal's handler.
        self._reader_locked_for_fork = self._reader_lock.acquire(timeout=FORK_PATIENCE)
        connection = self._connection
        amid = connection is not None and connection.in_transaction  # which begins before _depth says so
        if self._locked_for_fork and self._reader_locked_for_fork and self._depth == 0 and not amid:
            self._suspend()

    def _holds_what_a_child_must_not(self) -> bool:
        return self._connection is not None and not self._copied_by_fork

    def _after_fork_in_parent(self) -> None:
        if self._reader_locked_for_fork:
            self._reader_lock.release()
        super()._after_fork_in_parent()

    def _after_fork_in_child(self) -> None:
        super()._after_fork_in_child()
        self._reader_lock = threading.Lock()
        if self._lost:
            _never_close((self._connection, self._reader))
            self._connection = self._reader = None

    def _suspend(self, *, really: bool = False) -> None:
        """Let go of what a child process must not inherit; taken up again at the next use."""
        if really or not self._copied_by_fork:
            for connection in (self._reader, self._connection):
                if connection is not None:
                    connection.close()
            self._reader = self._connection = None
            self._recent.clear()  # another connection's data_version is no measure for it
            self._version, self._header, self._shm = None, b"", -1

    def _release(self) -> None:
        with self._reader_lock:
            self._suspend(really=True)


def _descriptor_of(path: str) -> int:
    """The one descriptor that this process has open on a file; -1 if there is none, or several, or no telling.

    Linux only: there, whatever is written to a mapped file is at once what every read of it gives.
    """
    found = []
    try:
        wanted = os.stat(path)
        names = os.listdir("/proc/self/fd") if sys.platform == "linux" else []
    except OSError:
        return -1
    for name in names if len(names) <= MANY_DESCRIPTORS else ():
        try:
            if os.path.samestat(os.fstat(int(name)), wanted):
                found.append(int(name))
        except OSError:  # the one that listed the directory
            pass
    return found[0] if len(found) == 1 else -1


_never_closed: list[Any] = []

NOT_OURS = (ValueError, TypeError, OverflowError, RecursionError)
"""What decoding a row raises that this package did not write."""


def _never_close(connections: Any) -> None:
    """Keep a parent's connections from being closed in the child, its end included.

    Closing rolls back, and SQLite would do that in the -shm memory that the parent goes on using:
    its transaction was measured to be destroyed. One reference too many outlives even the clearing
    of modules at exit; nothing but the C API gives it.
    """
    _never_closed.append(connections)
    try:
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connections))
    except (ImportError, AttributeError):  # a Python without ctypes: safe until its very end
        pass


# --- memory -----------------------------------------------------------------------------------


class _Shelf:
    """One entity's records in memory: by key, by group, and (where they expire) by time."""

    __slots__ = ("entity", "records", "groups", "due")

    def __init__(self, entity: Entity) -> None:
        self.entity = entity
        self.records: dict[tuple[Any, ...], Any] = {}
        self.groups: dict[str, dict[tuple[Any, ...], None]] = {}
        # A heap of (expires, key). An entry whose record has changed since is passed over when it is
        # due; removing it earlier would cost a search.
        self.due: list[tuple[datetime, tuple[Any, ...]]] | None = (
            [] if entity in (SESSION, VERIFICATION_TOKEN) else None
        )

    def fill(self, records: dict[tuple[Any, ...], Any]) -> None:
        """Take over all the records of an empty shelf."""
        self.records = records
        for key, record in records.items():
            if (group := self.entity.group_of(record)) is not None:
                self.groups.setdefault(group, {})[key] = None
        self._sort_due()

    def _sort_due(self) -> None:
        if self.due is not None:
            self.due = [(record.expires, key) for key, record in self.records.items()]
            heapify(self.due)

    def change(self, key: tuple[Any, ...], record: Any) -> None:
        """Put the record there, or nothing if it is None; also where an earlier change was interrupted."""
        old = self.records.pop(key, None)
        if old is not None and (group := self.entity.group_of(old)) is not None:
            members = self.groups.get(group, {})
            members.pop(key, None)
            if not members:
                self.groups.pop(group, None)
        if record is not None:
            self.records[key] = record
            if (group := self.entity.group_of(record)) is not None:
                self.groups.setdefault(group, {})[key] = None
            if self.due is not None:
                heappush(self.due, (record.expires, key))
                if len(self.due) > 2 * len(self.records) + 64:
                    self._sort_due()


class MemoryAdapter(_Store[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]):
    """A store in this process's memory: the same answers, nothing on disk.

    Plain dictionaries of immutable records, guarded by one lock, with an undo log for
    transactions. Tokens are kept as digests here too.
    """

    def __init__(
        self, **options: Unpack[Options[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]]
    ) -> None:
        """A fresh, empty store. Options: see ``_Store``."""
        super().__init__(**options)
        self._shelves = {entity: _Shelf(entity) for entity in ENTITIES}
        self._undo: list[tuple[Entity, tuple[Any, ...], Any]] = []
        self._marks: list[int] = []
        self._opened()

    def __repr__(self) -> str:
        return "MemoryAdapter()"

    # -- storage

    def _get(self, entity: Entity, key: tuple[Any, ...]) -> Any:
        with self._lock:
            self._require_open()
            record = self._shelves[entity].records.get(key)
        return None if record is None else fresh(record)

    def _find(self, entity: Entity, group: str) -> dict[tuple[Any, ...], Any]:
        with self._lock:
            self._require_open()
            shelf = self._shelves[entity]
            keys = shelf.groups.get(group, ())
            if len(keys) > AT_ONCE:
                self._about_to_wait()
            found = {key: shelf.records[key] for key in sorted(keys)}
        return {key: fresh(record) for key, record in found.items()}

    def _all(self, entity: Entity) -> dict[tuple[Any, ...], Any]:
        with self._lock:
            self._require_open()
            return dict(self._shelves[entity].records)

    def _get_session_and_user(self, session_token: str) -> SessionAndUser[SessionT, UserT] | None:
        with self._lock:
            self._require_open()
            recent = self._recent
            place = recent.places.get(session_token)
            if place is not None and place.read[0] is not None and recent.valid.get(place.id) is place:
                return place.read[0]
            digest = self._digest(session_token)
            keeping = recent.size and self._depth == 0
            place = recent.reserve(session_token, digest) if keeping else None
            session = self._shelves[SESSION].records.get((digest,))
            if session is None:
                return None
            user = self._shelves[USER].records.get((session.user_id,))
            if user is None:  # in a shelf that somebody mended by hand
                return None
            session = dataclasses.replace(session, session_token=session_token)
            found = SessionAndUser(fresh(session), fresh(user))
            if place is not None:
                place.read = found, None
            elif keeping:
                recent.remember(digest)
        return found

    def _get_owner(self, account: tuple[str, str]) -> UserT | None:
        with self._lock:
            self._require_open()
            linked = self._shelves[ACCOUNT].records.get(account)
            return None if linked is None else self._get(USER, (linked.user_id,))

    def _put(self, entity: Entity, key: tuple[Any, ...], record: Any) -> None:
        self._change(entity, key, self._shelves[entity].records.get(key), fresh(record))

    def _rekey(self, entity: Entity, key: tuple[Any, ...], new: tuple[Any, ...]) -> None:
        self._put(entity, new, dataclasses.replace(self._remove(entity, key), id=session_id(new[0])))

    def _remove(self, entity: Entity, key: tuple[Any, ...]) -> Any:
        old = self._shelves[entity].records.get(key)
        if old is None:
            return None
        self._change(entity, key, old, None)
        return fresh(old)

    def _change(self, entity: Entity, key: tuple[Any, ...], old: Any, new: Any) -> None:
        self._forget(entity, key)
        # In this order: Ctrl-C may strike in between, as it may after _commit, and a rollback follows.
        self._undo.append((entity, key, old))
        self._shelves[entity].change(key, new)

    def _remove_group(self, entity: Entity, group: str) -> None:
        for key in list(self._shelves[entity].groups.get(group, ())):
            self._remove(entity, key)

    def _purge(self, entity: Entity, now: datetime, limit: int) -> int:
        shelf, count = self._shelves[entity], 0
        while count < limit and shelf.due and shelf.due[0][0] <= now:
            expires, key = heappop(shelf.due)
            record = shelf.records.get(key)
            if record is not None and record.expires == expires:
                self._remove(entity, key)
                count += 1
        return count

    def _begin(self, depth: int) -> None:
        self._marks[depth:] = [len(self._undo)]

    def _commit(self, depth: int) -> None:
        if depth == 0:
            self._undo.clear()

    def _rollback(self, depth: int) -> None:
        while len(self._undo) > self._marks[depth]:
            entity, key, old = self._undo.pop()
            self._shelves[entity].change(key, old)

    def _dump(self) -> Any:
        return {entity: dict(shelf.records) for entity, shelf in self._shelves.items()}

    def _load(self, state: Any) -> None:
        # Only what differs: a record is never changed in place, so where the same object lies, nothing
        # happened. A test that touched three of a thousand records pays for three.
        for entity, records in state.items():
            shelf = self._shelves[entity]
            for key in [key for key, record in shelf.records.items() if records.get(key) is not record]:
                self._remove(entity, key)
            if len(shelf.records) < len(records):
                for key in records.keys() - shelf.records.keys():
                    self._change(entity, key, None, records[key])


# --- shelve -----------------------------------------------------------------------------------


_LEFTOVERS = Entity("leftovers", "leftovers", Record, ("entity", "key"), "", lambda fields: None)
"""Filed like records, but not handed out: a row's fields that no field of its model names, for the model that
wrote them."""

_ABSENT = object()


class _Rows:
    """One entity's records as rows of JSON: ``[key, fields]``, the parts of the key and the other stored fields."""

    def __init__(self, entity: Entity, model: type[Record]) -> None:
        self.entity = entity
        own = {f.name for f in fields_of(entity.record)}
        self._in_key = [(name, i) for i, name in enumerate(entity.key) if name in own]
        self._digest = entity.key.index("token_digest") if "token_digest" in entity.key else None
        self._names = [f.name for f in fields_of(model)]
        self._make: Any = model
        if any(f.keyword_only for f in fields_of(model)):
            self._make = lambda *values: model(**dict(zip(self._names, values)))
        elsewhere = {*entity.withheld, *(name for name, _ in self._in_key)}
        self._fields = [(f.name, f) for f in fields_of(model) if f.name not in elsewhere]

    def row(self, key: tuple[Any, ...], record: Any, leftovers: dict[str, Any] | None) -> list[Any]:
        """The row that holds a record; ``null`` in the place of the fields if it is None."""
        parts = [part.hex() if isinstance(part, bytes) else part for part in key]
        if record is None:
            return [parts, None]
        fields = {} if leftovers is None else dict(leftovers)
        for name, f in self._fields:
            value = getattr(record, name)
            fields[name] = None if value is None else f.kind.to_json(value)
        return [parts, fields]

    def records(self, rows: list[Any]) -> Iterator[tuple[tuple[Any, ...], Any, dict[str, Any]]]:
        """Key, record, and the fields that the model does not name, of each row. ValueError if one does not fit.

        By columns, which takes half the time of going row by row.
        """
        keys, fields = zip(*rows)
        parts: list[Any] = list(zip(*keys, strict=True))
        columns: dict[str, Any] = {name: itertools.repeat("") for name in self.entity.withheld}
        if self._digest is not None:
            parts[self._digest] = list(map(bytes.fromhex, parts[self._digest]))
            columns["id"] = map(session_id, parts[self._digest])
        for name, i in self._in_key:
            columns[name] = parts[i]
        for name, f in self._fields:
            columns[name] = self._column(f, [row.pop(name, _ABSENT) for row in fields])
        return zip(zip(*parts), map(self._make, *(columns[name] for name in self._names)), fields)

    def _column(self, f: Any, column: list[Any]) -> list[Any]:
        from_json, optional, values = f.kind.from_json, f.optional, []
        for value in column:
            if value is _ABSENT:
                if f.default is None:
                    raise ValueError(f"{f.model.__name__}.{f.name} is missing")
                values.append(f.check(f.default()))
                continue
            try:
                values.append(None if value is None and optional else from_json(value))
                continue
            except (TypeError, ValueError, RecursionError):
                pass  # raised below, outside, so that no __context__ keeps the value alive
            raise f.refusal(value)
        return values


class ShelveAdapter(MemoryAdapter[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]):
    """A store in a directory of its own, by the standard library's ``shelve``; it needs no SQLite.

    All of it is in memory, so look-ups cost what they cost there, and opening it reads it all. Every
    transaction is appended to a journal before it is acknowledged; now and then, and by ``close()``,
    the whole state is written to a new shelf. ``journal.py`` tells how that lies on the disk.

    One process at a time, any number of threads. Reading it beside the process that has it open is not
    offered, and a forked child is refused: for several processes, there is ``SQLiteAdapter``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Literal["full", "normal"] = "full",
        dbm: Literal["dumb", "gnu", "ndbm", "sqlite3"] | None = None,
        **options: Unpack[Options[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]],
    ) -> None:
        """Open the directory ``path``, creating it (mode 0700) unless it exists. Further options: see ``_Store``.

        ``durability``: ``"full"``, what was acknowledged survives a power cut; ``"normal"``, it survives
        the process but the last moments may not survive a power cut. ``dbm``: which of ``dbm``'s
        backends shelves are written with; None: as it was, ``"dumb"`` for a new store, because every
        Python has it. A store with another backend's shelf is rewritten at the latest by ``close()``.

        LockedError if the store is open already, here or in another process (named); StorageError if the
        directory is no store of ours, damaged, newer, out of reach, does not fit the models, or needs a
        backend that this Python lacks; it is left as it was.
        """
        from . import journal  # here: not part of the import time of those who use no shelf

        if durability not in ("full", "normal"):
            raise ValueError(f'durability must be "full" or "normal"; got {durability!r}')
        if dbm is not None and dbm not in journal.BACKENDS:
            raise ValueError(f"dbm must be one of {', '.join(map(repr, journal.BACKENDS))}, or None; got {dbm!r}")
        path = os.fspath(path)
        if not isinstance(path, str) or not path:
            raise ValueError(f"path must name a directory; got {path!r}")
        self._path = os.path.abspath(path)
        self._process = os.getpid()
        self._warn = journal.warn
        self._open = functools.partial(journal.Files, self._path, backend=dbm, sync=durability == "full")
        super().__init__(**options)

    def _opened(self) -> None:
        self._shelves[_LEFTOVERS] = _Shelf(_LEFTOVERS)
        self._rows = {entity.plural: _Rows(entity, model) for entity, model in self._models.items()}
        self._files = self._open(take=self._fill)
        self._journal_mark = 0
        super()._opened()

    def __repr__(self) -> str:
        return f"ShelveAdapter({self._path!r})"

    # -- records and rows

    def _fill(self, pages: Iterable[tuple[str, list[Any]]]) -> None:
        # Nothing of what is made here is garbage: looking for some, again and again, took a third of the time.
        collecting = gc.isenabled()
        gc.disable()
        try:
            for entity, records in self._records(pages).items():
                self._shelves[entity].fill(records)
        finally:
            if collecting:
                gc.enable()

    def _records(self, pages: Iterable[tuple[str, list[Any]]]) -> dict[Entity, dict[Any, Any]]:
        """The state that pages of rows describe, shelf by shelf. StorageError for a row that does not fit."""
        found: dict[Entity, dict[Any, Any]] = {entity: {} for entity in self._shelves}
        for plural, rows in pages:
            try:
                entity = self._rows[plural].entity
                records, leftovers = found[entity], found[_LEFTOVERS]
                for key, record, rest in self._rows[plural].records(rows):
                    records[key] = record
                    if rest:
                        leftovers[entity, key] = rest
            except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
                raise StorageError(
                    f"{self._path} holds, among its {plural}, a row that does not fit: {error}; open it with the"
                    " models that it was written with, or give a field another name",
                    path=self._path,
                ) from error
        return found

    def _row(self, entity: Entity, key: tuple[Any, ...], record: Any) -> list[Any]:
        return self._rows[entity.plural].row(key, record, self._shelves[_LEFTOVERS].records.get((entity, key)))

    def _changes(self) -> list[list[Any]]:
        """What this transaction touched, as it is now: one line of the journal."""
        return [
            [entity.plural, *self._row(entity, key, self._shelves[entity].records.get(key))]
            for entity, key in dict.fromkeys((entity, key) for entity, key, _ in self._undo)
            if entity is not _LEFTOVERS  # they go with their record
        ]

    def _table(self, entity: Entity) -> Iterator[list[Any]]:
        return (self._row(entity, key, record) for key, record in self._shelves[entity].records.items())

    # -- storage

    def _remove(self, entity: Entity, key: tuple[Any, ...]) -> Any:
        if entity is _LEFTOVERS:
            return self._leave(key, None)
        self._leave((entity, key), None)
        return super()._remove(entity, key)

    def _rekey(self, entity: Entity, key: tuple[Any, ...], new: tuple[Any, ...]) -> None:
        leftovers = self._shelves[_LEFTOVERS].records.get((entity, key))
        super()._rekey(entity, key, new)
        self._leave((entity, new), leftovers)

    def _leave(self, key: tuple[Any, ...], leftovers: dict[str, Any] | None) -> None:
        old = self._shelves[_LEFTOVERS].records.get(key)
        if old is not leftovers:
            self._change(_LEFTOVERS, key, old, leftovers)

    def _begin(self, depth: int) -> None:
        super()._begin(depth)
        if depth == 0:
            self._journal_mark = self._files.journal.size

    def _commit(self, depth: int) -> None:
        if depth == 0 and self._undo:
            self._files.append(self._changes())
        super()._commit(depth)
        if depth == 0 and self._files.due:
            self._checkpoint()

    def _rollback(self, depth: int) -> None:
        if depth == 0 and self._undo and self._files.journal.size > self._journal_mark:
            self._files.journal.retract(self._journal_mark)  # interrupted when it was written, not acknowledged
        super()._rollback(depth)

    def _checkpoint(self) -> None:
        """Write a new shelf. If that fails, the journal, which has everything, simply goes on."""
        try:
            self._files.checkpoint({entity.plural: self._table(entity) for entity in ENTITIES})
        except StorageError as error:
            self._warn("%s; the journal goes on, nothing is lost", str(error))

    def _check_storage(self) -> list[str]:
        try:
            written = self._records(self._files.pages())
        except StorageError as error:
            return [str(error)]
        problems = []
        for entity, shelf in self._shelves.items():
            known = dict(shelf.records)
            for changed, key, old in reversed(self._undo):  # what was not committed yet is not in the files
                if changed is entity:
                    known.pop(key, None) if old is None else known.update({key: old})
            if known != written[entity]:
                wrong = sum(known.get(key) != written[entity].get(key) for key in known.keys() | written[entity])
                problems.append(f"{self._path}: {wrong} {entity.plural} are not in its files as they are in memory")
        return problems

    def _release(self) -> None:
        if self._lost is not None:
            return  # all of it is the parent's
        if self._undo:  # closed inside a transaction: what was not committed never happened
            super()._rollback(0)
        try:
            if not self._files.clean:
                self._checkpoint()
        finally:
            self._files.close()

    # -- fork(): nothing to wait for, because the child is refused in any case

    def _before_fork(self) -> None:
        pass

    def _after_fork_in_child(self) -> None:
        self._lost = functools.partial(
            LockedError,
            f"{self._path} is open in process {self._process}, from which this one was forked: a shelf belongs to one"
            " process at a time. Use SQLiteAdapter, which processes may share",
            path=self._path,
        )
        self._lock = threading.RLock()
        self._files.journal.close()


# --- connect ----------------------------------------------------------------------------------

TARGETS = """\
  "sqlite:///auth.db"            a file, relative to the current directory
  "sqlite:////var/lib/auth.db"   a file, absolute (four slashes)
  "sqlite:///:memory:"           SQLite in memory
  "shelve:auth"                  a directory, relative to the current one
  "shelve:///var/lib/app/auth"   a directory, absolute
  "memory:"                      plain dictionaries in memory
  {"type": "sqlite", "database": "auth.db", "synchronize": True}"""
"""The forms that ``connect`` takes, for people to read."""


def connect(target: str | Mapping[str, Any], **options: Any) -> Adapter:
    """Open the store that ``target`` names; ``options`` go to the adapter's constructor.

    A URL, or a mapping with ``type``, ``database`` and options (TypeORM's spelling). ValueError, with the
    list of good forms, for anything else; StorageError if the file cannot be used.
    """
    if isinstance(target, Mapping):
        given = dict(target)
        kind, database = given.pop("type", None), given.pop("database", None)
        options = {**given, **options}
        if isinstance(kind, str) and kind in _WITH_PATH and isinstance(database, str):
            return _WITH_PATH[kind](database, **options)
        if kind == "memory" and database is None:
            return MemoryAdapter(**options)
    elif isinstance(target, str):
        if target in ("memory:", "memory://"):
            return MemoryAdapter(**options)
        if path := path_in(target):
            return _WITH_PATH[target.partition(":")[0]](path, **options)
    # Without what may be a password: the options, or what stands before the @ of a URL.
    shown = {"type": kind, "database": database} if isinstance(target, Mapping) else str(target).rpartition("@")[2]
    raise ValueError(f"cannot connect to {shown!r}; good forms are\n{TARGETS}")


_WITH_PATH: dict[Any, Callable[..., Adapter]] = {"sqlite": SQLiteAdapter, "shelve": ShelveAdapter}


def path_in(target: str) -> str:
    """The path that a URL for ``connect`` names, or ``":memory:"``; ``""`` if it is no such URL."""
    if "?" in target:
        return ""
    if target.startswith("sqlite:///"):
        return target.removeprefix("sqlite:///")
    path = target.removeprefix("shelve:") if target.startswith("shelve:") else ""
    if path.startswith("//"):  # of a URL: what follows is a host, which is nobody unless empty
        path = path.removeprefix("//") if path.startswith("///") else ""
    return path
