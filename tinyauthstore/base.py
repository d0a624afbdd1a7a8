"""The contract's rules, written once over a dozen storage verbs.

``BaseAdapter`` holds everything that must not differ between stores: defaults, validation, normal forms, digests,
expiry, conflicts. What differs is storage, said in the verbs at its end (``_get``, ``_find``, ``_put``, ``_remove``,
... ``_begin``, ``_commit``, ``_rollback``). Every write runs inside a transaction that holds the store's lock, so the
shared code may read, decide and write.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import threading
import warnings
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from types import GenericAlias, TracebackType
from typing import TYPE_CHECKING, Any, Generic

from .contract import Adapter, Snapshot, by_name
from .errors import (
    BusyError, ClosedError, ConflictError, CounterRegressionError, InvalidFieldError, NotFoundError, StorageError,
)
from .kept import Recent
from .models import (
    ACCOUNT, AUTHENTICATOR, ENTITIES, MAX_KEY_LENGTH, SESSION, USER, UTC, VERIFICATION_TOKEN,
    AccountT, AuthenticatorT, Entity, Purged, Record, Session, SessionAndUser, SessionT,
    User, UserT, VerificationTokenT, as_json, containers, email_key, fields_of, identifier_key, session_id, storable,
)
from .transactions import about_to_wait

if TYPE_CHECKING:
    from typing import Self, TypedDict

DAY = 24 * 60 * 60
"""Seconds."""

_LONG_AGO = datetime.min.replace(tzinfo=UTC)

PURGE_BATCH = 100
"""Expired records of one kind that a single write removes at most, besides its own work."""

AT_ONCE = 100
"""Records that a look-up on an event loop reads at most: about a millisecond's worth."""

FORK_PATIENCE = 5.0
"""Seconds that ``fork()`` waits for calls in other threads, so that the child inherits no half of one."""


if TYPE_CHECKING:

    class Options(TypedDict, Generic[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT], total=False):
        """The options that every store takes; ``BaseAdapter.__init__`` explains them."""

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


class BaseAdapter(Adapter, Generic[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]):
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
        self._lost: Callable[[], StorageError] | None = None  # why a forked child cannot use this store
        self._locked_for_fork = False
        if isinstance(cache_size, bool) or not isinstance(cache_size, int) or cache_size < 0:
            raise ValueError(f"cache_size must be an int, 0 to keep nothing; got {cache_size!r}")
        # Records with a dict or a list inside cannot be handed out twice, and copying costs more than reading.
        shareable = not (containers(self._models[SESSION]) or containers(self._models[USER]))
        self._recent = Recent(cache_size if shareable else 0)

    # -- users

    @by_name
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

    @by_name
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

    def _account_key(self, provider: str, provider_account_id: str) -> tuple[str, str] | None:
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

    def update_session(self, session_token: str, /, **changes: Any) -> SessionT | None:
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

    @by_name
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

    @by_name
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

    @by_name
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

    _answers_at_once = True
    """Whether look-ups call ``_about_to_wait`` before they wait, so that ``AsyncAdapter`` may run them at once."""

    def _about_to_wait(self) -> None:
        """WouldWait, in a thread that must not wait."""
        about_to_wait()

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


_open_stores: weakref.WeakSet[BaseAdapter[Any, Any, Any, Any, Any]] = weakref.WeakSet()

if hasattr(os, "register_at_fork"):

    _forking: list[BaseAdapter[Any, Any, Any, Any, Any]] = []  # those that were told before; others may open meanwhile

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
