"""The contract for asyncio: ``AsyncAdapter(adapter)`` has the same names, awaited.

A look-up that can be answered without waiting runs at once, on the event loop: handing it to a thread
and back costs ten times the look-up. Whatever may wait (every write, and a look-up that finds the
store locked) runs on one worker thread of the adapter's own, a whole method at a time, so the event
loop goes on while a disk syncs or another process holds the file.

``async with store.transaction():`` belongs to the task that opened it and to tasks started inside it.
Other tasks' writes wait until it ends; their look-ups see what was there before.

Cancelling an ``await`` abandons the answer, not the work: a method either has not begun, and never
will, or is finished; a transaction is rolled back; no lock stays behind. That rests on one fact: the
worker thread takes its calls strictly in turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast

from .adapters import Adapter, Snapshot, WouldWait, _Store
from .models import (
    AccountT, AuthenticatorT, Purged, SessionAndUser, SessionT, UserT, VerificationTokenT,
)

if TYPE_CHECKING:
    from typing_extensions import Self

P = ParamSpec("P")
T = TypeVar("T")


class _Transaction:
    """An open transaction (or savepoint), entered and left on the worker thread."""

    def __init__(self, adapter: Adapter) -> None:
        self._manager = adapter.transaction()
        self._entered = False
        self.open = True
        # Held by whichever of the transaction's tasks uses the worker: nested ones must not interleave.
        self.turn = asyncio.Lock()

    def enter(self) -> None:
        self._manager.__enter__()
        self._entered = True

    def leave(self, error: BaseException | None) -> None:
        """Commit, or roll back for an error; nothing if ``enter`` never ran or failed."""
        if self._entered:
            self._manager.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)


class AsyncAdapter(Generic[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]):
    """An adapter whose methods are awaited. What each one does stands at ``Adapter``.

    Any adapter will do; of one that is not this package's, every call goes through the worker thread.
    """

    def __init__(
        self, adapter: _Store[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT] | Adapter
    ) -> None:
        """Wrap ``adapter``, which is then this object's to close. For use in one event loop."""
        self._adapter = cast("_Store[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]", adapter)
        self._can_hurry = hasattr(adapter, "_at_once")
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tinyauthstore")
        self._turn = asyncio.Lock()  # of tasks outside any transaction; one that is open holds it
        self._transaction: ContextVar[_Transaction | None] = ContextVar("transaction", default=None)
        self._closed = False

    def __repr__(self) -> str:
        return f"AsyncAdapter({self._adapter!r})"

    # -- who runs where

    def _current(self) -> _Transaction | None:
        """The transaction that the running task is in, if any; tasks started inside inherit it."""
        transaction = self._transaction.get()
        return transaction if transaction is not None and transaction.open else None

    async def _wait_for(self, method: Callable[P, T], /, *arguments: P.args, **fields: P.kwargs) -> T:
        """Run a whole method on the worker thread, when it is this task's turn."""
        transaction = self._current()
        async with self._turn if transaction is None else transaction.turn:
            if self._closed:
                return method(*arguments, **fields)  # which raises ClosedError
            return await self._on_worker(partial(method, *arguments, **fields))

    def _on_worker(self, call: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._worker, call)

    async def _look_up(self, method: Callable[P, T], /, *arguments: P.args, **fields: P.kwargs) -> T:
        """Run a look-up here and now if that needs no waiting, else on the worker thread."""
        if self._can_hurry and self._current() is None:
            try:
                return self._adapter._at_once(method, *arguments, **fields)
            except WouldWait:
                pass
        return await self._wait_for(method, *arguments, **fields)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Self]:
        outer = self._current()
        async with self._turn if outer is None else outer.turn:
            if self._closed:
                self._adapter.transaction().__enter__()  # which raises ClosedError
            transaction = _Transaction(self._adapter)
            self._transaction.set(transaction)
            error: BaseException | None = None
            try:
                await self._on_worker(transaction.enter)
                yield self
            except BaseException as raised:
                error = raised
                raise
            finally:
                transaction.open = False
                self._transaction.set(outer)
                # Shielded: even if this wait is cancelled too, the worker leaves before it does anything else.
                await asyncio.shield(self._on_worker(partial(transaction.leave, error)))

    async def close(self) -> None:
        """Wait for what is under way, then close the adapter. A second call does nothing."""
        async with self._turn:
            if not self._closed:
                self._closed = True
                await asyncio.shield(self._on_worker(self._adapter.close))
                self._worker.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        self._adapter.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- the contract: the names and signatures of Adapter

    async def create_user(
        self, /, *, email: str | None = None, name: str | None = None, image: str | None = None,
        email_verified: datetime | None = None, id: str | None = None, **custom: Any
    ) -> UserT:
        return await self._wait_for(
            self._adapter.create_user, email=email, name=name, image=image, email_verified=email_verified,
            id=id, **custom,
        )

    async def get_user(self, user_id: str) -> UserT | None:
        return await self._look_up(self._adapter.get_user, user_id)

    async def get_user_by_email(self, email: str) -> UserT | None:
        return await self._look_up(self._adapter.get_user_by_email, email)

    async def get_user_by_account(self, *, provider: str, provider_account_id: str) -> UserT | None:
        return await self._look_up(
            self._adapter.get_user_by_account, provider=provider, provider_account_id=provider_account_id,
        )

    async def update_user(self, user_id: str, **changes: Any) -> UserT:
        return await self._wait_for(self._adapter.update_user, user_id, **changes)

    async def delete_user(self, user_id: str) -> UserT | None:
        return await self._wait_for(self._adapter.delete_user, user_id)

    async def link_account(
        self, /, *, user_id: str, type: str, provider: str, provider_account_id: str, **tokens: Any
    ) -> AccountT:
        return await self._wait_for(
            self._adapter.link_account, user_id=user_id, type=type, provider=provider,
            provider_account_id=provider_account_id, **tokens,
        )

    async def unlink_account(self, *, provider: str, provider_account_id: str) -> AccountT | None:
        return await self._wait_for(
            self._adapter.unlink_account, provider=provider, provider_account_id=provider_account_id,
        )

    async def get_account(self, *, provider: str, provider_account_id: str) -> AccountT | None:
        return await self._look_up(
            self._adapter.get_account, provider=provider, provider_account_id=provider_account_id,
        )

    async def list_accounts(self, user_id: str) -> list[AccountT]:
        return await self._look_up(self._adapter.list_accounts, user_id)

    async def create_session(
        self, /, *, user_id: str, session_token: str | None = None, expires: datetime | None = None,
        **custom: Any
    ) -> SessionT:
        return await self._wait_for(
            self._adapter.create_session, user_id=user_id, session_token=session_token, expires=expires,
            **custom,
        )

    async def get_session_and_user(self, session_token: str) -> SessionAndUser[SessionT, UserT] | None:
        return await self._look_up(self._adapter.get_session_and_user, session_token)

    async def update_session(self, session_token: str, **changes: Any) -> SessionT | None:
        return await self._wait_for(self._adapter.update_session, session_token, **changes)

    async def touch_session(self, session_token: str) -> SessionT | None:
        return await self._look_up(self._adapter.touch_session, session_token)

    async def rotate_session(self, session_token: str) -> SessionT | None:
        return await self._wait_for(self._adapter.rotate_session, session_token)

    async def delete_session(self, session_token: str) -> SessionT | None:
        return await self._wait_for(self._adapter.delete_session, session_token)

    async def list_sessions(self, user_id: str) -> list[SessionT]:
        return await self._look_up(self._adapter.list_sessions, user_id)

    async def revoke_session(self, user_id: str, session_id: str) -> bool:
        return await self._wait_for(self._adapter.revoke_session, user_id, session_id)

    async def revoke_sessions(self, user_id: str, *, keep: str | None = None) -> int:
        return await self._wait_for(self._adapter.revoke_sessions, user_id, keep=keep)

    async def create_verification_token(
        self, /, *, identifier: str, token: str | None = None, expires: datetime | None = None, **custom: Any
    ) -> VerificationTokenT:
        return await self._wait_for(
            self._adapter.create_verification_token, identifier=identifier, token=token, expires=expires,
            **custom,
        )

    async def use_verification_token(self, *, identifier: str, token: str) -> VerificationTokenT | None:
        return await self._wait_for(self._adapter.use_verification_token, identifier=identifier, token=token)

    async def delete_verification_tokens(self, identifier: str) -> int:
        return await self._wait_for(self._adapter.delete_verification_tokens, identifier)

    async def create_authenticator(
        self, /, *, user_id: str, credential_id: str, provider_account_id: str, credential_public_key: str,
        counter: int, credential_device_type: str, credential_backed_up: bool, transports: str | None = None,
        **custom: Any
    ) -> AuthenticatorT:
        return await self._wait_for(
            self._adapter.create_authenticator, user_id=user_id, credential_id=credential_id,
            provider_account_id=provider_account_id, credential_public_key=credential_public_key,
            counter=counter, credential_device_type=credential_device_type,
            credential_backed_up=credential_backed_up, transports=transports, **custom,
        )

    async def get_authenticator(self, credential_id: str) -> AuthenticatorT | None:
        return await self._look_up(self._adapter.get_authenticator, credential_id)

    async def list_authenticators_by_user_id(self, user_id: str) -> list[AuthenticatorT]:
        return await self._look_up(self._adapter.list_authenticators_by_user_id, user_id)

    async def update_authenticator_counter(self, credential_id: str, counter: int) -> AuthenticatorT:
        return await self._wait_for(self._adapter.update_authenticator_counter, credential_id, counter)

    async def purge_expired(self, *, limit: int | None = None) -> Purged:
        return await self._wait_for(self._adapter.purge_expired, limit=limit)

    async def snapshot(self) -> Snapshot:
        return await self._wait_for(self._adapter.snapshot)

    async def restore(self, snapshot: Snapshot) -> None:
        return await self._wait_for(self._adapter.restore, snapshot)

    async def check(self) -> list[str]:
        return await self._wait_for(self._adapter.check)
