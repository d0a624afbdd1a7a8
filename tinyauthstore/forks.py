"""Tells stores before and after ``fork()``, in the order in which they were opened.

A child of ``fork()`` has one thread, and a copy of what the parent's other threads had half done. So
``fork()`` first waits for their calls to end, for at most ``PATIENCE`` seconds. A store with a call that has
not ended by then is usable in the parent only, and refuses to work in the child. One thread forks at a time.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
import weakref
from typing import Protocol

from .clock import monotonic

PATIENCE = 5.0
"""Seconds that ``fork()`` waits at most for calls in other threads."""

ROUND = 0.05
"""Seconds after which stores are resumed for a moment: a call in one may be waiting for a call in another."""


class Participant(Protocol):
    """What is told of each ``fork()``. Each method may be called at any time, and more than once."""

    def pause(self) -> bool:
        """Let no new call begin. Returns whether all calls under way have ended, but for transactions of this
        thread, which cannot end before the fork."""

    def resume(self) -> None:
        """Let calls begin again."""

    def before_fork(self) -> None:
        """Close what a child must not inherit, if that is possible. Called after ``pause``."""

    def after_fork_in_child(self) -> None:
        """Become usable in the child, or refuse to be used there."""


_participants: weakref.WeakValueDictionary[int, Participant] = weakref.WeakValueDictionary()  # oldest first
_numbers = itertools.count()

still = threading.RLock()
"""A thread that holds this keeps all other threads from forking."""


def register(participant: Participant) -> None:
    """Tell ``participant`` of every fork from now on, until it is garbage."""
    with still:
        _participants[next(_numbers)] = participant


def _before() -> None:
    still.acquire()
    everybody = list(_participants.values())
    deadline = monotonic() + PATIENCE
    while True:
        end_of_round = monotonic() + ROUND
        while not (paused := all([one.pause() for one in everybody])) and monotonic() < end_of_round:
            time.sleep(0.001)
        if paused or monotonic() >= deadline:
            break
        for one in everybody:
            one.resume()
        time.sleep(random.uniform(0, ROUND / 5))
    for one in everybody:
        one.before_fork()


def _after_in_parent() -> None:
    for one in list(_participants.values()):
        one.resume()
    _let_go()


def _after_in_child() -> None:
    for one in list(_participants.values()):
        one.after_fork_in_child()
    _let_go()


def _let_go() -> None:
    try:
        still.release()
    except RuntimeError:  # Ctrl-C came before it was acquired
        pass


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
