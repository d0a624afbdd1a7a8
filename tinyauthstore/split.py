"""Several stores as one: users in a file, sessions in memory, or any other mix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .contract import Adapter, Snapshot
from .models import (
    Account, Authenticator, Purged, Session, SessionAndUser, User, VerificationToken, email_key,
)

if TYPE_CHECKING:
    from typing import Self


class SplitAdapter(Adapter):
    """Users, sessions and verification tokens in stores of their own: users in a file, sessions in memory.

    Each method is as atomic as the store it falls to. What spans stores (``delete_user``,
    ``transaction()``, ``restore()``) is a transaction in each, committed in turn: verification tokens',
    sessions', users' last. An error inside rolls all of them back, but a crash (or a full disk) between
    two commits keeps the first. So after an interrupted ``delete_user`` the user is still there, signed
    out; after an interrupted sign-up nobody is there, and the link is used up. A session whose user is
    gone counts as absent.

    Several processes may share the users' file and have each their own sessions in memory: a user
    deleted by one is signed out in all. But their sessions lie there until they expire, so never
    give a deleted user's id to somebody else (ids that the store makes are never used twice).

    A session store that demands a user for each session (ours do) is given one with the same id and
    nothing else: it learns no address and no name.
    """

    def __init__(
        self, *, users: Adapter, sessions: Adapter | None = None, verification: Adapter | None = None
    ) -> None:
        """``sessions`` and ``verification`` default to the store of ``users``. All are closed with this one.

        Accounts and authenticators lie with the users.
        """
        self._users = users
        self._sessions = users if sessions is None else sessions
        self._verification = users if verification is None else verification
        self._apart = self._sessions is not self._users
        roles = (self._users, self._sessions, self._verification)
        self._stores = list({id(store): store for store in roles}.values())
        self._answers_at_once = all(getattr(store, "_answers_at_once", False) is True for store in self._stores)
        self._kind = (SplitAdapter, *(self._stores.index(store) for store in roles))

    def __repr__(self) -> str:
        return f"SplitAdapter({', '.join(map(repr, self._stores))})"

    # -- users: all of it falls to one store, but for what a user's deletion takes along

    def create_user(
        self, /, *, email: str | None = None, name: str | None = None, image: str | None = None,
        email_verified: datetime | None = None, id: str | None = None, **custom: Any
    ) -> User:
        return self._users.create_user(
            email=email, name=name, image=image, email_verified=email_verified, id=id, **custom
        )

    def get_user(self, user_id: str) -> User | None:
        return self._users.get_user(user_id)

    def get_user_by_email(self, email: str) -> User | None:
        return self._users.get_user_by_email(email)

    def get_user_by_account(self, *, provider: str, provider_account_id: str) -> User | None:
        return self._users.get_user_by_account(provider=provider, provider_account_id=provider_account_id)

    def update_user(self, user_id: str, **changes: Any) -> User:
        return self._users.update_user(user_id, **changes)

    def delete_user(self, user_id: str) -> User | None:
        with self.transaction():
            user = self._users.get_user(user_id)
            if self._apart:
                self._sessions.delete_user(user_id)
            if user is not None and user.email is not None and self._verification is not self._users:
                for address in {user.email, email_key(user.email) or user.email}:  # as in BaseAdapter
                    self._verification.delete_verification_tokens(address)
            return self._users.delete_user(user_id)

    def link_account(
        self, /, *, user_id: str, type: str, provider: str, provider_account_id: str, **tokens: Any
    ) -> Account:
        return self._users.link_account(
            user_id=user_id, type=type, provider=provider, provider_account_id=provider_account_id, **tokens
        )

    def unlink_account(self, *, provider: str, provider_account_id: str) -> Account | None:
        return self._users.unlink_account(provider=provider, provider_account_id=provider_account_id)

    def get_account(self, *, provider: str, provider_account_id: str) -> Account | None:
        return self._users.get_account(provider=provider, provider_account_id=provider_account_id)

    def list_accounts(self, user_id: str) -> Sequence[Account]:
        return self._users.list_accounts(user_id)

    # -- sessions

    def create_session(
        self, /, *, user_id: str, session_token: str | None = None, expires: datetime | None = None,
        **custom: Any
    ) -> Session:
        if self._apart and isinstance(user_id, str):  # anything else is refused below
            self._introduce(user_id)
        return self._sessions.create_session(
            user_id=user_id, session_token=session_token, expires=expires, **custom
        )

    def _introduce(self, user_id: str) -> None:
        """See that the session store knows the user if there is one, and does not if there is none."""
        if self._differ(user_id):
            with self._users.transaction():  # meanwhile nobody deletes the user, or creates it
                if self._differ(user_id):
                    if self._sessions.delete_user(user_id) is None:
                        self._sessions.create_user(id=user_id)

    def _differ(self, user_id: str) -> bool:
        return (self._users.get_user(user_id) is None) != (self._sessions.get_user(user_id) is None)

    def get_session_and_user(self, session_token: str) -> SessionAndUser[Session, User] | None:
        found = self._sessions.get_session_and_user(session_token)
        if found is None or not self._apart:
            return found
        user = self._users.get_user(found.session.user_id)
        return None if user is None else SessionAndUser(found.session, user)

    def update_session(self, session_token: str, **changes: Any) -> Session | None:
        return self._of_a_user(self._sessions.update_session(session_token, **changes))

    def touch_session(self, session_token: str) -> Session | None:
        return self._of_a_user(self._sessions.touch_session(session_token))

    def rotate_session(self, session_token: str) -> Session | None:
        return self._of_a_user(self._sessions.rotate_session(session_token))

    def delete_session(self, session_token: str) -> Session | None:
        return self._of_a_user(self._sessions.delete_session(session_token))

    def list_sessions(self, user_id: str) -> Sequence[Session]:
        return self._sessions.list_sessions(user_id) if self._has_user(user_id) else []

    def revoke_session(self, user_id: str, session_id: str) -> bool:
        return self._sessions.revoke_session(user_id, session_id) and self._has_user(user_id)

    def revoke_sessions(self, user_id: str, *, keep: str | None = None) -> int:
        count = self._sessions.revoke_sessions(user_id, keep=keep)
        return count if self._has_user(user_id) else 0

    def _has_user(self, user_id: str) -> bool:
        return not self._apart or self._users.get_user(user_id) is not None

    def _of_a_user(self, session: Session | None) -> Session | None:
        return session if session is not None and self._has_user(session.user_id) else None

    # -- verification tokens

    def create_verification_token(
        self, /, *, identifier: str, token: str | None = None, expires: datetime | None = None, **custom: Any
    ) -> VerificationToken:
        return self._verification.create_verification_token(
            identifier=identifier, token=token, expires=expires, **custom
        )

    def use_verification_token(self, *, identifier: str, token: str) -> VerificationToken | None:
        return self._verification.use_verification_token(identifier=identifier, token=token)

    def delete_verification_tokens(self, identifier: str) -> int:
        return self._verification.delete_verification_tokens(identifier)

    # -- authenticators

    def create_authenticator(
        self, /, *, user_id: str, credential_id: str, provider_account_id: str, credential_public_key: str,
        counter: int, credential_device_type: str, credential_backed_up: bool, transports: str | None = None,
        **custom: Any
    ) -> Authenticator:
        return self._users.create_authenticator(
            user_id=user_id, credential_id=credential_id, provider_account_id=provider_account_id,
            credential_public_key=credential_public_key, counter=counter,
            credential_device_type=credential_device_type, credential_backed_up=credential_backed_up,
            transports=transports, **custom,
        )

    def get_authenticator(self, credential_id: str) -> Authenticator | None:
        return self._users.get_authenticator(credential_id)

    def list_authenticators_by_user_id(self, user_id: str) -> Sequence[Authenticator]:
        return self._users.list_authenticators_by_user_id(user_id)

    def update_authenticator_counter(self, credential_id: str, counter: int) -> Authenticator:
        return self._users.update_authenticator_counter(credential_id, counter)

    # -- all stores

    def purge_expired(self, *, limit: int | None = None) -> Purged:
        # Each kind lies in one store, so that each may take the whole limit.
        return Purged(*map(sum, zip(*(store.purge_expired(limit=limit) for store in self._stores))))

    @contextmanager
    def transaction(self) -> Iterator[Self]:
        with ExitStack() as stack:
            for store in self._stores:  # left, and committed, in the reverse order
                stack.enter_context(store.transaction())
            yield self

    def snapshot(self) -> Snapshot:
        with self.transaction():
            return Snapshot(self._kind, [store.snapshot() for store in self._stores])

    def restore(self, snapshot: Snapshot) -> None:
        if not isinstance(snapshot, Snapshot) or snapshot.made_by != self._kind:
            raise TypeError("restore takes what snapshot() of a SplitAdapter of the same stores returned")
        with self.transaction():
            for store, part in zip(self._stores, snapshot.state):
                store.restore(part)

    def check(self) -> list[str]:
        return [f"{store!r}: {problem}" for store in self._stores for problem in store.check()]

    def close(self) -> None:
        with ExitStack() as stack:  # one that fails to close must not keep the others open
            for store in self._stores:
                stack.callback(store.close)

    def __enter__(self) -> Self:
        for store in self._stores:
            store.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
