"""Whether the calling thread may wait.

A look-up on an event loop must not: ``at_once`` marks the thread while the look-up runs, and every store calls
``about_to_wait`` before it waits. The mark belongs to the thread, not to one store, because several stores may
answer one look-up (``SplitAdapter``).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from threading import get_ident
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class WouldWait(Exception):
    """A look-up asked for at once would have had to wait, or to read much. Never leaves the package."""


_marked: set[int] = set()
"""The threads that must not wait. A ``threading.local`` takes four times as long to ask, which every look-up in
memory would pay."""

if hasattr(os, "register_at_fork"):  # other threads do not exist in the child, where new ones may get their ids
    os.register_at_fork(after_in_child=lambda: _marked.intersection_update([get_ident()]))


def at_once(method: Callable[P, T], /, *arguments: P.args, **fields: P.kwargs) -> T:
    """Run a look-up that must not wait. WouldWait, and nothing done, if it would have to."""
    thread = get_ident()
    if thread in _marked:  # by an outer call, which unmarks it
        return method(*arguments, **fields)
    try:
        _marked.add(thread)
        return method(*arguments, **fields)
    finally:
        _marked.discard(thread)


def about_to_wait() -> None:
    """WouldWait in a thread that must not wait."""
    if get_ident() in _marked:
        raise WouldWait


def turn(lock: Any) -> AbstractContextManager[Any]:
    """The lock, for a ``with`` statement. In a thread that must not wait, WouldWait if another thread holds it.

    Any other thread gets the lock itself. No line of Python then runs between acquiring it and the body of the
    ``with``, so an exception from a signal's handler (Ctrl-C) cannot leave it locked.
    """
    return _AtOnce(lock) if _marked and get_ident() in _marked else lock


class _AtOnce:
    __slots__ = ("_lock",)

    def __init__(self, lock: Any) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        if not self._lock.acquire(False):
            raise WouldWait

    def __exit__(self, *error: object) -> None:
        self._lock.release()
