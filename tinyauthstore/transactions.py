"""Whose transaction it is: turns, the blocks that take them, and look-ups that must not wait for one.

A transaction belongs to the context that opened it (a ``ContextVar``: a thread, an asyncio task, a greenlet), and to
what is started inside it. Each open block is itself the place where those inside it take turns, one block or one
look-up at a time, and the store is the place where whole transactions do. So there is one rule: whoever's innermost
block it is may go on, everybody else waits.

What is open is never written down a second time: a block is open while it has the turn that it took.
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
"""Seconds after which somebody who waits for a turn looks again, told or not."""


# --- look-ups that must not wait --------------------------------------------------------------


class WouldWait(Exception):
    """A look-up that was asked for at once would have had to wait, or to read much. It never leaves the package."""


_hurry: ContextVar[bool] = ContextVar("tinyauthstore_hurry", default=False)


def at_once(method: Callable[P, T], /, *arguments: P.args, **fields: P.kwargs) -> T:
    """The answer of a look-up, for an event loop. WouldWait, and nothing was done, if it had to wait."""
    before = _hurry.set(True)
    try:
        return method(*arguments, **fields)
    finally:
        _hurry.reset(before)


def about_to_wait() -> None:
    """WouldWait, inside of ``at_once``."""
    if _hurry.get():
        raise WouldWait


# --- turns ------------------------------------------------------------------------------------


class Turn:
    """Something that is used by one at a time. Any thread may end the turn that another began.

    The first claim has the turn. A claim is made by one operation on a dict, and dropped by another, so that an
    exception which a signal's handler raises between any two lines (Ctrl-C) leaves a whole claim or none. A
    ``threading.Lock`` would stay locked for ever if one came just after it was acquired.

    A claim is a block, or for a single look-up the number of its thread (``threading.get_ident()``). Whoever claims
    drops the claim in a ``finally`` of its own: ``turn.claims.pop(me, None)``, then ``turn.wake()`` if somebody is
    ``waiting``.
    """

    __slots__ = ("claims", "waiting", "_freed")

    def __init__(self) -> None:
        self.claims: dict[Any, None] = {}
        self.waiting = 0
        self._freed: SimpleQueue[None] | None = None  # until somebody waits

    @property
    def holder(self) -> Any:
        """Whose turn it is; None if it is nobody's."""
        for claim in [*self.claims]:
            return claim
        return None

    def claim(self, me: object) -> bool:
        """Whether it is my turn from now on."""
        claims = self.claims
        claims[me] = None
        if [*claims][0] == me:
            return True
        if [*claims][0] == threading.get_ident():  # a look-up of this thread was interrupted in dropping its claim
            claims.pop(threading.get_ident(), None)
            if [*claims][0] == me:
                return True
        claims.pop(me, None)
        if not claims:  # the holder has gone meanwhile, and whoever came second saw me before them
            self.wake()
        return False

    def wait(self, seconds: float) -> None:
        """Wait until the turn is perhaps free."""
        freed = self._freed = self._freed or SimpleQueue()
        try:
            self.waiting += 1
            freed.get(timeout=min(seconds, RECHECK))
        except Empty:
            pass
        finally:
            self.waiting -= 1

    def wake(self) -> None:
        """Tell one of those who wait that the turn is free."""
        if self._freed is not None and self._freed.empty():
            self._freed.put(None)

    def start_over(self) -> None:
        """In a forked child: of the claims, only that of a block which its one thread is in is left."""
        holder, self.waiting, self._freed = self.holder, 0, None
        for claim in [*self.claims]:
            if not (claim is holder and isinstance(claim, Block) and innermost(claim.store) is not None):
                self.claims.pop(claim, None)


# --- blocks -----------------------------------------------------------------------------------


class Owner(Protocol):
    """What a store does at the beginning and the end of its blocks. ``depth`` is 0 for the outermost."""

    _turn: Turn

    def _take(self, turn: Turn, me: object) -> float:
        """Claim a turn, waiting as long as the store may; the seconds that are left of that. BusyError."""

    def _require_open(self) -> None: ...

    def _begin(self, depth: int, patience: float) -> None: ...

    def _commit(self, depth: int) -> None: ...

    def _rollback(self, depth: int) -> None: ...


_innermost: ContextVar[Block | None] = ContextVar("tinyauthstore_block", default=None)


class Block(Turn):
    """A transaction, or a savepoint in one, and the turn of what happens inside it."""

    __slots__ = ("store", "outer", "depth", "thread", "_place", "_around", "_dropped")

    def __init__(self, store: Owner, manager: Transaction[Any]) -> None:
        """``manager`` ends it; at the latest when that is gone, for an exception may come before its ``__exit__``."""
        self.claims, self.waiting, self._freed = {}, 0, None  # as Turn does, for a third of the time
        self.store: Owner | None = store
        self.outer = outer = innermost(store)
        self.depth: int = 0 if outer is None else outer.depth + 1
        self.thread = threading.get_ident()
        self._place = store._turn if outer is None else outer
        self._around = _innermost.get()
        # Not by a __del__, which would run at the end of each block: Ctrl-C that comes in one is lost.
        self._dropped: object = weakref.ref(manager, self._end_without_manager)

    @property
    def is_here(self) -> bool:
        """Whether it was begun in this thread."""
        return self.thread == threading.get_ident()

    @property
    def open(self) -> bool:
        claims = [*self._place.claims]
        return claims != [] and claims[0] is self and (self.outer is None or self.outer.open)

    def begin(self) -> None:
        store = self.store
        assert store is not None
        about_to_wait()  # for a disk, if not for a turn
        patience = store._take(self._place, self)
        store._require_open()
        store._begin(self.depth, patience)
        _innermost.set(self)

    def commit(self) -> None:
        store = self.store
        if store is not None:
            store._require_open()
        if store is None or not self.open:
            raise RuntimeError("the transaction around this one has ended already; end the inner one first")
        store._commit(self.depth)
        self._let_others_go_on()

    def end(self) -> None:
        """Undo what was not committed, and let others go on. If it is interrupted, call it again."""
        if self.store is not None and self.open:
            self.store._rollback(self.depth)
        self._let_others_go_on()

    def end_in_any_case(self) -> None:
        """``end``, and let others go on even if nothing can be undone."""
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
            self.store = None  # a context that was left from elsewhere may keep this block for long


def innermost(store: Owner | None) -> Block | None:
    """The innermost open block of that store in this context, or None."""
    block = _innermost.get()
    while block is not None and not (block.store is store and block.open):
        block = block._around
    return block


def tasks_share_this_thread() -> bool:
    """Whether an event loop or greenlets run here: whoever waits keeps the other tasks from going on."""
    asyncio, greenlet = sys.modules.get("asyncio"), sys.modules.get("greenlet")
    if asyncio is not None:
        with suppress(RuntimeError):
            return asyncio.get_running_loop() is not None
    return greenlet is not None and greenlet.getcurrent().parent is not None


StoreT = TypeVar("StoreT", bound=Any)


class Transaction(Generic[StoreT]):
    """What ``transaction()`` returns. Dropped without having been left, it rolls back."""

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
        assert block is not None
        try:
            if kind is None:
                block.commit()
            else:
                block.end()
        except BaseException:
            block.end_in_any_case()  # a commit that failed, or Ctrl-C before it was done
            raise
