"""Whether the calling thread may wait.

A look-up on an event loop must not: ``at_once`` marks the thread for as long as the look-up lasts, and every store
calls ``about_to_wait`` before it waits. The mark belongs to the thread, not to one store, so that a look-up that
several stores answer (``SplitAdapter``) need not tell each of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class WouldWait(Exception):
    """A look-up asked for at once would have had to wait, or to read much. Never leaves the package."""


class _Thread(threading.local):
    must_not_wait = False


_this_thread = _Thread()


def at_once(method: Callable[P, T], /, *arguments: P.args, **fields: P.kwargs) -> T:
    """What the look-up returns. WouldWait, and nothing done, if it would have had to wait."""
    before = _this_thread.must_not_wait
    _this_thread.must_not_wait = True
    try:
        return method(*arguments, **fields)
    finally:
        _this_thread.must_not_wait = before


def about_to_wait() -> None:
    """WouldWait in a thread that must not wait."""
    if _this_thread.must_not_wait:
        raise WouldWait


def turn(lock: Any) -> AbstractContextManager[Any]:
    """The lock to hold in a ``with``; in a thread that must not wait, WouldWait if somebody else holds it.

    Elsewhere it is the lock itself: no line of Python runs between taking it and the body of the ``with``, so that
    an exception from a signal's handler (Ctrl-C) cannot leave it locked.
    """
    return _AtOnce(lock) if _this_thread.must_not_wait else lock


class _AtOnce:
    __slots__ = ("_lock",)

    def __init__(self, lock: Any) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        if not self._lock.acquire(False):
            raise WouldWait

    def __exit__(self, *error: object) -> None:
        self._lock.release()
