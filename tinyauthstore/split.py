"""Several stores as one: users in a file, sessions in memory, or any other mix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .contract import (
    Adapter,
    AuthenticatorStore,
    Method,
    SessionStore,
    Snapshot,
    UserStore,
    VerificationStore,
    by_name,
    like,
    refuse_to_copy,
)
from .errors import NotFoundError
from .models import (
    SESSION, VERIFICATION_TOKEN, Counts, Entity, Purged, Session, SessionAndUser, User, email_key,
)
from .transactions import Transaction

if TYPE_CHECKING:
    from typing import Self

T = TypeVar("T")


def _has(store: Any, name: str) -> bool:
    return callable(getattr(store, name, None))


def _method_of(store: Any, name: str) -> Any:
    """The store's method of that name. TypeError if there is none."""
    method = getattr(store, name, None)
    if not callable(method):
        raise TypeError(f"{store!r} has no {name}()")
    return method


def _of(role: str, method: Method) -> Method:
    """A method that calls ``method`` of the store in the attribute ``role``."""
    name = method.__name__

    @like(method)
    def forward(self: Any, /, *keys: Any, **fields: Any) -> Any:
        return _method_of(getattr(self, role), name)(*keys, **fields)

    return forward


def _if_there_is_a_user(method: Method) -> Method:
    """A method that calls ``method`` of the session store, and returns None if the session's user is gone."""
    name = method.__name__

    @like(method)
    def forward(self: Any, /, *keys: Any, **fields: Any) -> Any:
        session = getattr(self._sessions, name)(*keys, **fields)
        return session if session is not None and self._has_user(session.user_id) else None

    return forward


class SplitAdapter(Adapter):
    """Users, sessions and verification tokens in stores of their own: users in a file, sessions in memory.

    A store needs only the methods of its role: a ``SessionStore`` of your own, on Redis say, works beside a
    SQLite file. Accounts and authenticators are stored with the users. A method that a store lacks
    (authenticators' in the users' store, ``snapshot`` or ``restore`` in any) raises a TypeError that names
    the store.

    Each method is as atomic as the store that answers it. What spans stores (``delete_user``,
    ``transaction()``, ``restore()``) is one transaction in each. They are committed one after the other:
    verification tokens first, then sessions, then users. An error inside rolls all of them back, but after a
    crash (or a full disk) between two commits the first one stays. So after an interrupted ``delete_user``
    the user is still there, signed out; after an interrupted sign-up there is no user, and the link is used
    up. A session whose user is gone counts as absent.

    Several processes may share the users' file while each keeps sessions in its own memory: a user whom one
    process deletes is signed out in all. But the sessions stay in memory until they expire, so never give a
    deleted user's id to another one (ids that the store makes are never used twice); ``count()`` counts them.

    A session store that has users too, as all of this package's do, is given a user with the same id for each
    session's user, and nothing else: it learns no address and no name. A store that has only sessions is
    given no user, and the user that its ``get_session_and_user`` returns is ignored.

    It has neither ``path`` nor ``backup``, as it may lie in several places: ask the stores that it was given.
    """

    def __init__(
        self, *, users: UserStore, sessions: SessionStore | None = None,
        verification: VerificationStore | None = None,
    ) -> None:
        """``sessions`` and ``verification`` default to the store of ``users``. ``close()`` closes them all.

        TypeError if a store lacks methods of its role; it names both.
        """
        self._users: Any = users
        self._sessions: Any = users if sessions is None else sessions
        self._verification: Any = users if verification is None else verification
        roles: dict[str, tuple[Any, Any]] = {
            "users": (self._users, UserStore),
            "sessions": (self._sessions, SessionStore),
            "verification": (self._verification, VerificationStore),
        }
        for role, (store, protocol) in roles.items():
            if missing := [name for name in sorted(protocol.__abstractmethods__) if not _has(store, name)]:
                raise TypeError(f"{role}= takes a {protocol.__name__}; {store!r} has no {', '.join(missing)}")
        self._apart = self._sessions is not self._users
        self._introduces = all(
            _has(self._sessions, name) for name in ("get_user", "create_user", "delete_user")
        )
        self._stores = list({id(store): store for store, _ in roles.values()}.values())
        self._answers_at_once = all(
            getattr(store, "_answers_at_once", False) is True for store in self._stores
        )
        self._kind = (SplitAdapter, *(self._stores.index(store) for store, _ in roles.values()))

    def __repr__(self) -> str:
        return f"SplitAdapter({', '.join(map(repr, self._stores))})"

    __reduce_ex__ = refuse_to_copy

    # -- users: one store answers, but a user is deleted from all stores

    @by_name
    @like(UserStore.create_user)
    def create_user(self, /, **fields: Any) -> User:
        made_there = self._apart and getattr(self._users, "_makes_user_ids", False) and fields.get("id") is None
        with self.transaction() if made_there else nullcontext():
            user: User = _method_of(self._users, "create_user")(**fields)
            if made_there:  # as in BaseAdapter: the id may be that of a deleted user
                (self._sessions.delete_user if self._introduces else self._sessions.revoke_sessions)(user.id)
        return user

    get_user = _of("_users", UserStore.get_user)
    list_users = by_name(_of("_users", UserStore.list_users))
    get_user_by_email = _of("_users", UserStore.get_user_by_email)
    get_user_by_account = by_name(_of("_users", UserStore.get_user_by_account))
    update_user = _of("_users", UserStore.update_user)
    link_account = by_name(_of("_users", UserStore.link_account))
    unlink_account = by_name(_of("_users", UserStore.unlink_account))
    get_account = by_name(_of("_users", UserStore.get_account))
    list_accounts = _of("_users", UserStore.list_accounts)

    def delete_user(self, user_id: str) -> User | None:
        with self.transaction():
            user = self._users.get_user(user_id)
            if self._apart and self._introduces:
                self._sessions.delete_user(user_id)
            elif self._apart:
                self._sessions.revoke_sessions(user_id)
            if user is not None and user.email is not None and self._verification is not self._users:
                for address in {user.email, email_key(user.email) or user.email}:  # as in BaseAdapter
                    self._verification.delete_verification_tokens(address)
            return self._users.delete_user(user_id)  # type: ignore[no-any-return]

    # -- sessions: one without a user is absent

    @by_name
    @like(SessionStore.create_session)
    def create_session(self, /, **fields: Any) -> Session:
        if self._apart and isinstance(user_id := fields.get("user_id"), str):  # else: the store's TypeError
            self._introduce(user_id)
        return self._sessions.create_session(**fields)  # type: ignore[no-any-return]

    def _introduce(self, user_id: str) -> None:
        """Make sure that the session store, if it has users, has this one exactly if the users' store does.

        NotFoundError for an unknown user if the session store has no users, and so would not raise it itself.
        """
        if not self._introduces:
            if self._users.get_user(user_id) is None:
                raise NotFoundError(f"there is no User {ascii(user_id[:60])}", model="User", key=user_id)
        elif self._differ(user_id):
            # In a transaction, so that nobody creates or deletes the user meanwhile.
            with self._users.transaction() if _has(self._users, "transaction") else nullcontext():
                if self._differ(user_id) and self._sessions.delete_user(user_id) is None:
                    self._sessions.create_user(id=user_id)

    def _differ(self, user_id: str) -> bool:
        """Whether one of the users' and the session store has the user and the other has not."""
        return (self._users.get_user(user_id) is None) != (self._sessions.get_user(user_id) is None)

    def get_session_and_user(self, session_token: str) -> SessionAndUser[Session, User] | None:
        found: SessionAndUser[Session, User] | None = self._sessions.get_session_and_user(session_token)
        if found is None or not self._apart:
            return found
        user = self._users.get_user(found.session.user_id)
        return None if user is None else SessionAndUser(found.session, user)

    update_session = _if_there_is_a_user(SessionStore.update_session)
    touch_session = _if_there_is_a_user(SessionStore.touch_session)
    rotate_session = _if_there_is_a_user(SessionStore.rotate_session)
    delete_session = _if_there_is_a_user(SessionStore.delete_session)

    def list_sessions(self, user_id: str) -> Sequence[Session]:
        return self._sessions.list_sessions(user_id) if self._has_user(user_id) else []

    def revoke_session(self, user_id: str, session_id: str) -> bool:
        return self._sessions.revoke_session(user_id, session_id) and self._has_user(user_id)

    def revoke_sessions(self, user_id: str, *, keep: str | None = None) -> int:
        count = self._sessions.revoke_sessions(user_id, keep=keep)
        return count if self._has_user(user_id) else 0

    def _has_user(self, user_id: str) -> bool:
        return not self._apart or self._users.get_user(user_id) is not None

    # -- verification tokens, authenticators

    create_verification_token = by_name(_of("_verification", VerificationStore.create_verification_token))
    use_verification_token = by_name(_of("_verification", VerificationStore.use_verification_token))
    delete_verification_tokens = _of("_verification", VerificationStore.delete_verification_tokens)

    create_authenticator = by_name(_of("_users", AuthenticatorStore.create_authenticator))
    get_authenticator = _of("_users", AuthenticatorStore.get_authenticator)
    list_authenticators_by_user_id = _of("_users", AuthenticatorStore.list_authenticators_by_user_id)
    update_authenticator_counter = _of("_users", AuthenticatorStore.update_authenticator_counter)
    update_authenticator = _of("_users", AuthenticatorStore.update_authenticator)
    delete_authenticator = _of("_users", AuthenticatorStore.delete_authenticator)

    def _home(self, entity: Entity) -> Any:
        """The ``BaseAdapter`` in which these records lie; None if it is something else."""
        store = {SESSION: self._sessions, VERIFICATION_TOKEN: self._verification}.get(entity, self._users)
        home = getattr(store, "_home", None)
        return None if home is None else home(entity)

    # -- all stores, or those that have the method

    def _with(self, name: str) -> list[Any]:
        return [store for store in self._stores if _has(store, name)]

    def count(self) -> Counts:
        # A session whose user another process has deleted is counted until it expires: to tell, all would have to
        # be read.
        users, sessions, verification = (
            _method_of(store, "count")() for store in (self._users, self._sessions, self._verification)
        )
        return Counts(
            users.users, users.accounts, sessions.sessions, verification.verification_tokens, users.authenticators
        )

    def purge_expired(self, *, limit: int | None = None) -> Purged:
        # Each kind of record is in one store, so each store may remove as many as the limit allows.
        purged = [store.purge_expired(limit=limit) for store in self._with("purge_expired")]
        return Purged(sum(one.sessions for one in purged), sum(one.verification_tokens for one in purged))

    def transaction(self) -> AbstractContextManager[Self]:
        """A transaction in each store that has ``transaction()``; inside another one, a savepoint in each.

        If the block raises, it is undone in all of these stores. What was written to any other store stays.
        """
        return _Together(self, self._with("transaction"))

    def snapshot(self) -> Snapshot:
        methods = [_method_of(store, "snapshot") for store in self._stores]
        with self.transaction():
            return Snapshot(self._kind, [snapshot() for snapshot in methods])

    def restore(self, snapshot: Snapshot) -> None:
        if not isinstance(snapshot, Snapshot) or snapshot.made_by != self._kind:
            raise TypeError("restore takes what snapshot() of a SplitAdapter of the same stores returned")
        methods = [_method_of(store, "restore") for store in self._stores]
        with self.transaction():
            for restore, part in zip(methods, snapshot.state):
                restore(part)

    def check(self) -> list[str]:
        return [f"{store!r}: {problem}" for store in self._with("check") for problem in store.check()]

    def close(self) -> None:
        with ExitStack() as stack:  # one that fails to close must not keep the others open
            for store in self._with("close"):
                stack.callback(store.close)

    def __enter__(self) -> Self:
        for store in self._with("__enter__"):
            store.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Together(Generic[T]):
    """A transaction in each of several stores, begun in their order and ended in the reverse one.

    Not an ExitStack: its frames and an exception that comes in one keep each other alive, and with them a
    transaction of ours that was interrupted before its ``__exit__`` began.
    """

    def __init__(self, result: T, stores: Iterable[Any]) -> None:
        self._result = result
        self._stores = stores
        self._entered: list[AbstractContextManager[Any]] = []

    def __enter__(self) -> T:
        try:
            for store in self._stores:
                manager = store.transaction()
                ours = isinstance(manager, Transaction)
                self._entered += [manager] * ours  # already: it may be left without having been entered
                manager.__enter__()
                self._entered += [manager] * (not ours)
            return self._result
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failure: BaseException | None = None
        try:
            for manager in reversed(self._entered):
                try:
                    manager.__exit__(kind, error, trace)
                except BaseException as raised:  # the stores that are left are rolled back
                    failure, kind, error, trace = raised, type(raised), raised, raised.__traceback__
                    if isinstance(manager, Transaction):
                        manager.__exit__(kind, error, trace)  # again, if it had not begun
            if failure is not None:
                raise failure
        finally:
            del failure, error, trace  # the traceback holds this frame
