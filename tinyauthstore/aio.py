"""The contract for asyncio: ``AsyncAdapter(adapter)`` has the same methods, awaited.

A look-up that can be answered without waiting runs at once, on the event loop: handing it to a thread and
back takes ten times as long. Whatever may wait (every write, and a look-up that finds the store locked or has
much to read) runs on the adapter's own worker thread, one whole method at a time, so the event loop goes on
while a disk syncs or another process holds the file.

``async with store.transaction():`` belongs to the task that opened it and to tasks started inside it. Other
tasks' writes wait until it ends. So do their look-ups in a store in memory; in a file, they see the state
before it. So never await, inside it, a task that was started outside and writes.

Cancelling an ``await`` gives up the answer, not the work: a method that has begun runs to its end, and one
that has not begun never will. A transaction is then rolled back or, if its commit had begun, complete, and no
lock stays held. All of this holds because the worker thread runs its calls strictly in order.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from .adapters import SQLiteAdapter
from .base import BaseAdapter
from .contract import Adapter, like, refuse_to_copy
from .errors import ClosedError
from .models import (
    Account, AccountT, Authenticator, AuthenticatorT, Session, SessionT, User, UserT, VerificationToken,
    VerificationTokenT,
)
from .transactions import WouldWait, at_once

if TYPE_CHECKING:
    from typing import Self

P = ParamSpec("P")
T = TypeVar("T")
StoreT = TypeVar("StoreT")
Function = TypeVar("Function", bound=Callable[..., Any])
Sync = Callable[Concatenate[StoreT, P], T]
Async = Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]


class _Transaction:
    """A transaction (or savepoint) of ``owner``, entered and left on the worker thread."""

    def __init__(self, owner: object, adapter: Adapter) -> None:
        self._owner = owner
        self._adapter = adapter
        self._process = os.getpid()
        self._manager: AbstractContextManager[Any] | None = None
        self.open = True
        # Held by the task of this transaction that is using the worker: savepoints must not interleave.
        self.turn = asyncio.Lock()
        self.around: _Transaction | None = _innermost.get()  # it may be another adapter's
        while self.around is not None and not self.around.open:
            self.around = self.around.around

    def is_of(self, owner: object) -> bool:
        """Whether it is open and ``owner``'s. Never in a forked child, where the worker does not exist."""
        return self.open and self._owner is owner and self._process == os.getpid()

    def enter(self) -> None:
        manager = self._adapter.transaction()
        manager.__enter__()
        self._manager = manager

    def leave(self, error: BaseException | None) -> None:
        """Commit, or roll back if there is an error. Nothing happens if ``enter`` never ran or failed."""
        if self._manager is not None:
            kind, trace = (None, None) if error is None else (type(error), error.__traceback__)
            self._manager.__exit__(kind, error, trace)


# The innermost transaction of the running task, linked to those around it, which may be another adapter's.
_innermost: ContextVar[_Transaction | None] = ContextVar("tinyauthstore_transaction", default=None)


def _new_worker() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="tinyauthstore")


async def _finished(work: Future[Any]) -> None:
    """Wait until the worker has finished the work. Cancelling the wait does not cancel the work.

    ``asyncio.wrap_future`` would wait for ever if the work raised StopIteration. And when the wait is
    cancelled, it cancels a call that is still queued, which might be the end of a transaction.
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
            pass  # the loop was closed: nobody is waiting any more

    work.add_done_callback(tell)
    await done


def _awaited(method: Sync[StoreT, P, T]) -> Async[P, T]:
    """A method of ``AsyncAdapter`` that runs the adapter's ``method`` on the worker thread."""
    name = method.__name__

    @_like(method)
    async def call(self: Any, /, *keys: Any, **fields: Any) -> Any:
        return await self._wait_for(getattr(self._adapter, name), *keys, **fields)

    return call


def _looked_up(method: Sync[StoreT, P, T]) -> Async[P, T]:
    """A method of ``AsyncAdapter`` that runs ``method`` at once, or on the worker thread if it would wait."""
    name = method.__name__

    @_like(method)
    async def call(self: Any, /, *keys: Any, **fields: Any) -> Any:
        if self._answers_at_once and self._current() is None:
            try:
                return at_once(getattr(self._adapter, name), *keys, **fields)
            except WouldWait:
                pass
        return await self._wait_for(getattr(self._adapter, name), *keys, **fields)

    return call


def _like(method: Callable[..., Any]) -> Callable[[Function], Function]:
    """A decorator that gives a function the name, signature and docstring of ``method``."""

    def decorate(function: Function) -> Function:
        like(method)(function)
        function.__module__, function.__qualname__ = __name__, f"AsyncAdapter.{method.__name__}"
        return function

    return decorate


class AsyncAdapter(Generic[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]):
    """An adapter whose methods are awaited. ``Adapter`` documents each of them.

    Any adapter can be wrapped. Look-ups run on the event loop only if the adapter (for a ``SplitAdapter``,
    each of its stores) says that they never wait there, as this package's do; otherwise every call goes to
    the worker thread.
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
        """Wrap ``adapter``; closing this object closes it.

        It works in one event loop at a time: several ``asyncio.run`` one after the other are fine. A call
        raises RuntimeError while another event loop uses it.
        """
        self._adapter = adapter
        self._answers_at_once = getattr(adapter, "_answers_at_once", False) is True
        self._worker = _new_worker()
        self._process = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()  # for tasks outside any transaction; the outermost transaction holds it
        self._open: list[_Transaction] = []  # outermost first
        self._closing: Future[None] | None = None

    def __repr__(self) -> str:
        return f"AsyncAdapter({self._adapter!r})"

    __reduce_ex__ = refuse_to_copy

    # -- who runs where

    def _current(self) -> _Transaction | None:
        """The innermost open transaction in which the running task is, or was started; or None."""
        transaction = _innermost.get()
        while transaction is not None and not transaction.is_of(self):
            transaction = transaction.around
        return transaction

    async def _its_turn(self) -> asyncio.Lock:
        """Wait until the running task may use the worker. Returns the lock that the task then holds."""
        while True:
            transaction = self._current()
            lock = self._lock_here() if transaction is None else transaction.turn
            await lock.acquire()
            if transaction is self._current():
                return lock
            lock.release()  # the transaction ended while this task waited: the task is outside of it now

    def _lock_here(self) -> asyncio.Lock:
        """The lock for the running loop: an ``asyncio.Lock`` works in one loop only.

        RuntimeError if another loop is using this object.
        """
        loop = asyncio.get_running_loop()
        if self._process != os.getpid():  # in a forked child the parent's worker thread does not exist
            self._process, self._worker, self._open = os.getpid(), _new_worker(), []
        elif loop is self._loop:
            return self._lock
        elif self._loop is not None and (
            self._loop.is_running() or (self._lock.locked() and not self._loop.is_closed())
        ):
            raise RuntimeError(f"{self!r} is in use by another event loop; give each loop one of its own")
        while self._open:  # left open by tasks whose loop was closed before they ended
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
            work.cancel()  # does nothing unless the wait was cancelled before the worker began the work
            del work  # it may hold an exception, whose traceback holds this frame: a cycle

    async def _wait_for(self, method: Callable[P, T], /, *arguments: P.args, **fields: P.kwargs) -> T:
        """Run a method on the worker thread when it is this task's turn. ClosedError, and what it raises."""
        lock = await self._its_turn()
        try:
            self._require_open()
            return await self._on_worker(method, *arguments, **fields)
        finally:
            lock.release()

    async def run(
        self, function: Callable[Concatenate[Any, P], T], /, *arguments: P.args, **fields: P.kwargs
    ) -> T:
        """What ``function(store, *arguments, **fields)`` returns, or raises, on the worker thread.

        ``store`` is the adapter that this one wraps. The function is a plain one, TypeError otherwise. It is one
        transaction (inside ``transaction()``, a savepoint) and one trip to the thread, however many methods it
        calls: ``await store.run(sign_in_by_email, identifier=..., token=...)``.
        """
        if inspect.iscoroutinefunction(function):
            raise TypeError(f"run() takes a plain function of the wrapped store; {function!r} is to be awaited")

        def run() -> T:
            with self._adapter.transaction():
                return function(self._adapter, *arguments, **fields)

        return await self._wait_for(run)

    # -- transactions, closing

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Self]:
        """A block whose writes all happen or, if it raises, do not; inside another one, it is a savepoint.

        It belongs to this task and to tasks started inside it. Other tasks' writes wait until it ends.
        """
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
        """Commit or roll back, and wait for that. If the wait is cancelled, it is done nevertheless."""
        if not transaction.open:  # a later event loop has ended it already, in ``_lock_here``
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
                raise failure  # its __context__ is ``error``, as it would be without asyncio
            error.add_note(f"Besides, the transaction could not be rolled back: {failure!r}")
        finally:
            del left, failure, error

    def _end(self, transaction: _Transaction, error: BaseException | None) -> Future[None]:
        """Have the worker leave the transaction, before any call that is submitted later."""
        transaction.open = False
        self._open.remove(transaction)
        if _innermost.get() is transaction:
            _innermost.set(transaction.around)
        left = self._worker.submit(transaction.leave, error)
        self._let_worker_go()
        return left

    def _let_worker_go(self) -> None:
        """Let the worker thread end if the last call has been submitted."""
        if self._closing is not None and not self._open:
            self._worker.shutdown(wait=False)

    async def close(self) -> None:
        """Wait for the calls under way, then close the adapter. A second call does nothing."""
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
            self._worker.shutdown()  # this does not block: the thread has finished its last call
        if first:
            self._closing.result()

    def _dismiss(self) -> None:
        """End this object, outside its event loop; roll back what is left open. The adapter stays open."""
        while self._open:
            self._end(self._open[-1], asyncio.CancelledError())
        if self._closing is None:
            self._answers_at_once = False
            self._closing = Future()
            self._closing.set_result(None)
        self._worker.shutdown()

    async def __aenter__(self) -> Self:
        await self._enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- the contract: names, signatures and types are those of BaseAdapter

    _of: type[BaseAdapter[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]] = cast(
        Any, BaseAdapter
    )

    create_user = _awaited(_of.create_user)
    get_user = _looked_up(_of.get_user)
    list_users = _awaited(_of.list_users)
    get_user_by_email = _looked_up(_of.get_user_by_email)
    get_user_by_account = _looked_up(_of.get_user_by_account)
    update_user = _awaited(_of.update_user)
    delete_user = _awaited(_of.delete_user)

    link_account = _awaited(_of.link_account)
    unlink_account = _awaited(_of.unlink_account)
    get_account = _looked_up(_of.get_account)
    list_accounts = _looked_up(_of.list_accounts)

    create_session = _awaited(_of.create_session)
    get_session_and_user = _looked_up(_of.get_session_and_user)
    update_session = _awaited(_of.update_session)
    touch_session = _looked_up(_of.touch_session)
    rotate_session = _awaited(_of.rotate_session)
    delete_session = _awaited(_of.delete_session)
    list_sessions = _looked_up(_of.list_sessions)
    revoke_session = _awaited(_of.revoke_session)
    revoke_sessions = _awaited(_of.revoke_sessions)

    create_verification_token = _awaited(_of.create_verification_token)
    use_verification_token = _awaited(_of.use_verification_token)
    delete_verification_tokens = _awaited(_of.delete_verification_tokens)

    create_authenticator = _awaited(_of.create_authenticator)
    get_authenticator = _looked_up(_of.get_authenticator)
    list_authenticators_by_user_id = _looked_up(_of.list_authenticators_by_user_id)
    update_authenticator_counter = _awaited(_of.update_authenticator_counter)
    update_authenticator = _awaited(_of.update_authenticator)
    delete_authenticator = _awaited(_of.delete_authenticator)

    count = _awaited(_of.count)
    purge_expired = _awaited(_of.purge_expired)
    snapshot = _awaited(_of.snapshot)
    restore = _awaited(_of.restore)
    check = _awaited(_of.check)

    # -- beside the contract: only a store that can lie on a disk has these; others raise AttributeError

    @property
    def path(self) -> str:
        """Where the store lies, as it says itself. Not awaited: it was settled when the store was opened."""
        return self._adapter.path  # type: ignore[no-any-return]

    backup = _awaited(SQLiteAdapter.backup)
    restore_backup = _awaited(SQLiteAdapter.restore_backup)

    _enter: Any = _looked_up(_of.__enter__)
