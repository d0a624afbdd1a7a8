"""Turns, the transactions and savepoints ("blocks") that take them, and look-ups that must not wait for one.

A transaction belongs to the context that opened it (a thread, an asyncio task or a greenlet, by a
``ContextVar``), and to the contexts started inside it. Transactions take turns at the store. Inside a block,
savepoints and look-ups take turns at that block, so a block whose savepoint is open waits for its end.

Which blocks are open is not recorded anywhere else: a block is open while it holds the turn that it took.
"""
from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

RECHECK = 0.05
"""Seconds after which a thread that waits for a turn looks again, even if nobody has woken it."""


# --- look-ups that must not wait --------------------------------------------------------------


class WouldWait(Exception):
    """A look-up called by ``at_once`` would have to wait, or to read much. It never leaves the package."""


_hurry: ContextVar[bool] = ContextVar("tinyauthstore_hurry", default=False)


def at_once(method: Callable[P, T], /, *arguments: P.args, **fields: P.kwargs) -> T:
    """What a look-up returns, for an event loop. WouldWait, and nothing was done, if it would wait."""
    before = _hurry.set(True)
    try:
        return method(*arguments, **fields)
    finally:
        _hurry.reset(before)


def about_to_wait() -> None:
    """To be called before waiting for anything: raises WouldWait inside ``at_once``, else does nothing."""
    if _hurry.get():
        raise WouldWait


# --- turns ------------------------------------------------------------------------------------


class Turn:
    """A lock. The oldest claim in ``claims`` holds it, and any thread may drop a claim that another made.

    A claim is made by one operation on a dict and dropped by another, so an exception that a signal's handler
    raises between any two lines (Ctrl-C) leaves a whole claim or none. A ``threading.Lock`` would stay locked
    for ever if the exception came just after it was acquired.

    A claim is a block or, for a single look-up, the number of its thread (``threading.get_ident()``). The
    code that makes a claim drops it in a ``finally``: ``turn.claims.pop(me, None)``, then ``turn.wake()`` if
    ``turn.waiting``.
    """

    __slots__ = ("claims", "waiting", "_freed")

    def __init__(self) -> None:
        self.claims: dict[Any, None] = {}
        self.waiting = 0
        self._freed: SimpleQueue[None] | None = None  # made when a thread first waits

    @property
    def holder(self) -> Any:
        """The claim that holds the turn; None if there is none."""
        for claim in [*self.claims]:
            return claim
        return None

    def claim(self, me: object) -> bool:
        """Whether ``me`` holds the turn from now on. If not, no claim is left behind."""
        claims = self.claims
        claims[me] = None
        if [*claims][0] == me:
            return True
        if [*claims][0] == threading.get_ident():  # Ctrl-C kept a look-up of this thread from dropping it
            claims.pop(threading.get_ident(), None)
            if [*claims][0] == me:
                return True
        claims.pop(me, None)
        if not claims:  # the holder has gone meanwhile, and a later claim may have given way to this one
            self.wake()
        return False

    def wait(self, seconds: float) -> None:
        """Wait until woken, for ``seconds`` or ``RECHECK`` at most. The turn need not be free then."""
        freed = self._freed = self._freed or SimpleQueue()
        try:
            self.waiting += 1
            freed.get(timeout=min(seconds, RECHECK))
        except Empty:
            pass
        finally:
            self.waiting -= 1

    def wake(self) -> None:
        """Wake one of the threads that wait."""
        if self._freed is not None and self._freed.empty():
            self._freed.put(None)

    def start_over(self) -> None:
        """In a forked child, drop every claim except that of a block which the forking context was inside."""
        holder, self.waiting, self._freed = self.holder, 0, None
        for claim in [*self.claims]:
            if not (claim is holder and isinstance(claim, Block) and innermost(claim.store) is not None):
                self.claims.pop(claim, None)


# --- blocks -----------------------------------------------------------------------------------


class Owner(Protocol):
    """What a block needs of its store; ``BaseAdapter`` explains each method."""

    _turn: Turn

    def _take(self, turn: Turn, me: object) -> float: ...

    def _require_open(self) -> None: ...

    def _begin(self, depth: int, patience: float) -> None: ...

    def _commit(self, depth: int) -> None: ...

    def _rollback(self, depth: int) -> None: ...


_innermost: ContextVar[Block | None] = ContextVar("tinyauthstore_block", default=None)


class Block(Turn):
    """A transaction, or a savepoint in one; and the turn taken by savepoints and look-ups inside it."""

    __slots__ = ("store", "outer", "depth", "thread", "_place", "_around", "_dropped")

    def __init__(self, store: Owner, manager: Transaction[Any]) -> None:
        """The block ends when ``manager`` is garbage, at the latest: Ctrl-C may prevent its ``__exit__``."""
        self.claims, self.waiting, self._freed = {}, 0, None  # super().__init__() takes three times as long
        self.store: Owner | None = store
        self._around = around = _not_ended()
        self.outer = outer = None if around is None else innermost(store)
        self.depth: int = 0 if outer is None else outer.depth + 1
        self.thread = threading.get_ident()
        self._place = store._turn if outer is None else outer
        # Not a __del__, which would run at the end of every block: a Ctrl-C that comes inside one is lost.
        self._dropped: object = weakref.ref(manager, self._end_without_manager)

    @property
    def is_here(self) -> bool:
        """Whether the block was begun in this thread."""
        return self.thread == threading.get_ident()

    @property
    def open(self) -> bool:
        """Whether the block, and every one around it, has begun and not ended."""
        claims = [*self._place.claims]
        return claims != [] and claims[0] is self and (self.outer is None or self.outer.open)

    def begin(self) -> None:
        """BusyError, ClosedError, StorageError. If anything is raised, ``end_in_any_case``."""
        store = self.store
        assert store is not None
        about_to_wait()  # even a turn that is free is followed by writing to a disk
        patience = store._take(self._place, self)
        store._require_open()
        store._begin(self.depth, patience)
        _innermost.set(self)

    def commit(self) -> None:
        """RuntimeError if a block around this one has ended. If anything is raised, ``end_in_any_case``."""
        store = self.store
        if store is not None:
            store._require_open()
        if store is None or not self.open:
            raise RuntimeError("the transaction around this one has ended already; end the inner one first")
        store._commit(self.depth)
        self._let_others_go_on()

    def end(self) -> None:
        """Undo what was not committed, and drop the claim. If this is interrupted, call it again."""
        if self.store is not None and self.open:
            self.store._rollback(self.depth)
        self._let_others_go_on()

    def end_in_any_case(self) -> None:
        """``end``, and drop the claim even if undoing raises."""
        try:
            self.end()
        finally:
            self._let_others_go_on()

    def _end_without_manager(self, _: object) -> None:
        self.end_in_any_case()

    def _let_others_go_on(self) -> None:
        if self.store is not None:
            self._place.claims.pop(self, None)
            if self._place.waiting:
                self._place.wake()
            if _innermost.get() is self:
                _innermost.set(self._around)
            self._dropped = None
            self.store = None  # contexts that were copied inside the block may keep it in memory for long


def _not_ended() -> Block | None:
    """The innermost block of any store in this context. One that was ended elsewhere may still be noted here."""
    block = _innermost.get()
    while block is not None and block.store is None:
        block = block._around
    return block


def innermost(store: Owner | None) -> Block | None:
    """The innermost open block of that store that this context is inside, or None."""
    block = _not_ended()
    while block is not None and not (block.store is store and block.open):
        block = block._around
    return block


def tasks_share_this_thread() -> bool:
    """Whether an event loop or a greenlet runs in this thread, so that waiting would stop other tasks."""
    asyncio, greenlet = sys.modules.get("asyncio"), sys.modules.get("greenlet")
    if asyncio is not None:
        with suppress(RuntimeError):
            return asyncio.get_running_loop() is not None
    return greenlet is not None and greenlet.getcurrent().parent is not None


StoreT = TypeVar("StoreT", bound=Any)


class Transaction(Generic[StoreT]):
    """What ``transaction()`` returns. It rolls back if it becomes garbage before it was left."""

    __slots__ = ("_store", "_block", "__weakref__")

    def __init__(self, store: StoreT) -> None:
        self._store = store
        self._block: Block | None = None

    def __enter__(self) -> StoreT:
        if self._block is not None:
            raise RuntimeError("a transaction() is entered once; call transaction() again")
        self._block = Block(self._store, self)
        try:
            self._block.begin()
            return self._store
        except BaseException:
            self._block.end_in_any_case()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        block = self._block
        if block is None:
            return
        try:
            if kind is None:
                block.commit()
            else:
                block.end()
        except BaseException:
            block.end_in_any_case()  # the commit failed, or Ctrl-C came before it was done
            raise
