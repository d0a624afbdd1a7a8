"""The contract for asyncio: ``AsyncAdapter(adapter)`` has the same names, awaited.

A look-up that can be answered without waiting runs at once, on the event loop: handing it to a thread
and back costs ten times the look-up. Whatever may wait (every write, and a look-up that finds the
store locked or has much to read) runs on one worker thread of the adapter's own, a whole method at a
time, so the event loop goes on while a disk syncs or another process holds the file.

``async with store.transaction():`` belongs to the task that opened it and to tasks started inside it.
Other tasks' writes wait until it ends; their look-ups see what was there before (those of a store in
memory wait too). So do not await, inside, a task that was started outside and writes.

Cancelling an ``await`` abandons the answer, not the work: a method either has not begun, and never
will, or runs to its end; a transaction is rolled back, or, if its commit had begun, is complete; no
lock stays behind. That rests on one fact: the worker thread takes its calls strictly in turn.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager
from contextvars import ContextVar
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast, overload

from .base import BaseAdapter
from .contract import Adapter, Snapshot
from .errors import ClosedError
from .models import (
    Account, AccountT, Authenticator, AuthenticatorT, Purged, Session, SessionAndUser, SessionT, User, UserT,
    VerificationToken, VerificationTokenT,
)
from .transactions import WouldWait, at_once

if TYPE_CHECKING:
    from typing import Self

P = ParamSpec("P")
T = TypeVar("T")


class _Transaction:
    """A transaction (or savepoint) of ``owner``, entered and left on the worker thread."""

    def __init__(self, owner: object, adapter: Adapter) -> None:
        self._owner = owner
        self._adapter = adapter
        self._process = os.getpid()
        self._manager: AbstractContextManager[Any] | None = None
        self.open = True
        # Held by whichever of the transaction's tasks uses the worker: nested ones must not interleave.
        self.turn = asyncio.Lock()
        self.around: _Transaction | None = _innermost.get()  # of whatever adapter
        while self.around is not None and not self.around.open:
            self.around = self.around.around

    def is_of(self, owner: object) -> bool:
        """Whether it is open, and that adapter's; in a forked child none is, the worker is gone there."""
        return self.open and self._owner is owner and self._process == os.getpid()

    def enter(self) -> None:
        manager = self._adapter.transaction()
        manager.__enter__()
        self._manager = manager

    def leave(self, error: BaseException | None) -> None:
        """Commit, or roll back for an error; nothing if ``enter`` never ran or failed."""
        if self._manager is not None:
            kind, trace = (None, None) if error is None else (type(error), error.__traceback__)
            self._manager.__exit__(kind, error, trace)


# The transaction that the running task is in. Links to those around it, which may be another adapter's.
_innermost: ContextVar[_Transaction | None] = ContextVar("tinyauthstore_transaction", default=None)


def _new_worker() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="tinyauthstore")


async def _finished(work: Future[Any]) -> None:
    """Wait until the worker is done with it. Giving up changes nothing about the work.

    Not ``asyncio.wrap_future``: that waits for ever if the work raised StopIteration, and drops a call
    that is still queued when the wait is cancelled, which must not happen to the end of a transaction.
    """
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def settle() -> None:
        if not done.done():
            done.set_result(None)

    def tell(_: object) -> None:
        try:
            loop.call_soon_threadsafe(settle)
        except RuntimeError:
            pass  # the loop was closed: nobody waits any longer

    work.add_done_callback(tell)
    await done


class AsyncAdapter(Generic[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]):
    """An adapter whose methods are awaited. What each one does stands at ``Adapter``.

    Any adapter will do; of one that is not this package's, every call goes through the worker thread.
    """

    @overload
    def __init__(
        self, adapter: BaseAdapter[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]
    ) -> None: ...
    @overload
    def __init__(
        self: AsyncAdapter[User, Account, Session, VerificationToken, Authenticator], adapter: Adapter
    ) -> None: ...
    def __init__(self, adapter: Any) -> None:
        """Wrap ``adapter``, which is then this object's to close.

        For one event loop at a time: several ``asyncio.run`` after each other are fine; RuntimeError if
        another loop that uses it is running.
        """
        self._adapter = cast("BaseAdapter[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]", adapter)
        self._answers_at_once = getattr(adapter, "_answers_at_once", False) is True
        self._worker = _new_worker()
        self._process = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()  # for tasks outside any transaction; one that is open holds it
        self._open: list[_Transaction] = []  # outermost first
        self._closing: Future[None] | None = None

    def __repr__(self) -> str:
        return f"AsyncAdapter({self._adapter!r})"

    # -- who runs where

    def _current(self) -> _Transaction | None:
        """The innermost transaction that the running task is in, if any; tasks started inside inherit it."""
        transaction = _innermost.get()
        while transaction is not None and not transaction.is_of(self):
            transaction = transaction.around
        return transaction

    async def _its_turn(self) -> asyncio.Lock:
        """Wait until the running task may use the worker. Returns the lock that it then holds."""
        while True:
            transaction = self._current()
            lock = self._lock_here() if transaction is None else transaction.turn
            await lock.acquire()
            if transaction is self._current():
                return lock
            lock.release()  # the transaction ended while a task of it was waiting: that one is now outside

    def _lock_here(self) -> asyncio.Lock:
        """The lock, in the running loop; a lock of asyncio is good for one loop only."""
        loop = asyncio.get_running_loop()
        if self._process != os.getpid():  # a forked child: no thread of the parent's came along
            self._process, self._worker, self._open = os.getpid(), _new_worker(), []
        elif loop is self._loop:
            return self._lock
        elif self._loop is not None and (
            self._loop.is_running() or (self._lock.locked() and not self._loop.is_closed())
        ):
            raise RuntimeError(f"{self!r} is in use by another event loop; give each loop one of its own")
        while self._open:  # left behind by tasks of a loop that was closed over their heads
            self._end(self._open[-1], asyncio.CancelledError())
        self._loop, self._lock = loop, asyncio.Lock()
        return self._lock

    def _require_open(self) -> None:
        if self._closing is not None:
            raise ClosedError(f"{self!r} is closed; create a new one")

    async def _on_worker(self, method: Callable[P, T], /, *arguments: P.args, **fields: P.kwargs) -> T:
        work = self._worker.submit(method, *arguments, **fields)
        try:
            await _finished(work)
            return work.result()
        finally:
            work.cancel()  # if the wait was, and the worker has not begun: then it never will
            del work  # it may hold an exception, whose traceback holds this frame

    async def _wait_for(self, method: Callable[P, T], /, *arguments: P.args, **fields: P.kwargs) -> T:
        """Run a whole method on the worker thread, when it is this task's turn."""
        lock = await self._its_turn()
        try:
            self._require_open()
            return await self._on_worker(method, *arguments, **fields)
        finally:
            lock.release()

    async def _look_up(self, method: Callable[P, T], /, *arguments: P.args, **fields: P.kwargs) -> T:
        """Run a look-up here and now if that needs no waiting, else on the worker thread."""
        if self._answers_at_once and self._current() is None:
            try:
                return at_once(method, *arguments, **fields)
            except WouldWait:
                pass
        return await self._wait_for(method, *arguments, **fields)

    # -- transactions, closing

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Self]:
        lock = await self._its_turn()
        try:
            self._require_open()
            transaction = _Transaction(self, self._adapter)
            self._open.append(transaction)
            error: BaseException | None = None
            try:
                await self._on_worker(transaction.enter)
                _innermost.set(transaction)
                yield self
            except BaseException as raised:
                error = raised
                raise
            finally:
                try:
                    await self._leave(transaction, error)
                finally:
                    del error  # its traceback holds this frame
        finally:
            lock.release()

    async def _leave(self, transaction: _Transaction, error: BaseException | None) -> None:
        """Commit or roll back, and wait for that; if the wait is cancelled, it happens all the same."""
        if not transaction.open:  # another loop has ended it
            return
        left = self._end(transaction, error)
        if isinstance(error, GeneratorExit):
            return  # a task that is being destroyed cannot wait
        await _finished(left)
        failure = left.exception()
        try:
            if failure is None or failure is error:
                return
            if error is None or isinstance(error, Exception):
                raise failure  # its __context__ is the error, as without asyncio
            error.add_note(f"Besides, the transaction could not be rolled back: {failure!r}")
        finally:
            del left, failure, error

    def _end(self, transaction: _Transaction, error: BaseException | None) -> Future[None]:
        """Have the worker leave the transaction before it does anything else."""
        transaction.open = False
        self._open.remove(transaction)
        if _innermost.get() is transaction:
            _innermost.set(transaction.around)
        left = self._worker.submit(transaction.leave, error)
        self._let_worker_go()
        return left

    def _let_worker_go(self) -> None:
        """After the last call of all: its thread ends when that is done."""
        if self._closing is not None and not self._open:
            self._worker.shutdown(wait=False)

    async def close(self) -> None:
        """Wait for what is under way, then close the adapter. A second call does nothing."""
        lock = await self._its_turn()
        try:
            first = self._closing is None
            if self._closing is None:
                self._closing = self._worker.submit(self._adapter.close)
                self._let_worker_go()
            await _finished(self._closing)
        finally:
            lock.release()
        if not self._open:
            self._worker.shutdown()  # the thread is past its last call: nothing to wait for
        if first:
            self._closing.result()

    async def __aenter__(self) -> Self:
        await self._look_up(self._adapter.__enter__)
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
