"""What time it is, and what a datetime is, whatever a test has put in their place.

freezegun puts a class of its own in the place of ``datetime.datetime``, in that module and in every other one
that has the name, and functions of its own in the place of ``time.monotonic`` and its like. A module that is
first imported meanwhile gets these, too. Hence nothing here is looked up by a name that it replaces, but for
the present time: that is whatever ``datetime.datetime.now`` says when it is asked.
"""

from __future__ import annotations

import datetime as standard
import functools
import time
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from types import ModuleType
from typing import Any

UTC = timezone.utc

PLAIN: tuple[type[datetime]] = ([kind for kind in datetime.__mro__ if kind not in date.__mro__][-1],)
"""The class that all others extend, the last before ``date``. In a tuple, where nobody replaces it."""


def plain(
    year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0, microsecond: int = 0
) -> datetime:
    """A ``datetime.datetime`` in UTC, of no other class."""
    return PLAIN[0](year, month, day, hour, minute, second, microsecond, UTC)


EPOCH, FIRST, LAST = plain(1970, 1, 1), plain(1, 1, 1), plain(9999, 12, 31, 23, 59, 59, 999999)

from_timestamp = PLAIN[0].fromtimestamp
from_iso = PLAIN[0].fromisoformat


def is_datetime(value: object) -> bool:
    return isinstance(value, PLAIN)


def in_utc(value: Any) -> datetime:
    """An aware datetime as a plain one in UTC. TypeError if it is no datetime, ValueError if it is naive."""
    if not isinstance(value, PLAIN):
        raise TypeError
    if value.utcoffset() is None:
        raise ValueError
    value = value.astimezone(UTC)
    # A plain datetime: subclasses (freezegun's, pendulum's) compare and pickle in ways of their own.
    return plain(
        value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond
    )


def stands_for_datetime(kind: Any) -> bool:
    """Whether an annotation with this class means ``datetime``, as freezegun's does, and pendulum's does not.

    Such a class says of any datetime that it is an instance; or it is in datetime's place at the moment.
    """
    if not (isinstance(kind, type) and issubclass(kind, PLAIN)):
        return False
    return isinstance(EPOCH, kind) or kind is standard.datetime


# Its parameters are constants: looking those up is quicker than globals, and each look-up asks for the time.
def real_time(standard: ModuleType = standard, utc: timezone = UTC) -> datetime:
    """The clock of a store that is given none: the time, or what freezegun or time-machine make of it."""
    now: datetime = standard.datetime.now(utc)
    return now


monotonic: Callable[[], float] = time.monotonic
"""Seconds, for timeouts: they end though a test has frozen the time. (Where there is no ``clock_gettime``,
on Windows, they do not.)"""
if hasattr(time, "clock_gettime"):
    monotonic = functools.partial(time.clock_gettime, time.CLOCK_MONOTONIC)

START = plain(2026, 1, 2, 3, 4, 5, 678000)


class FrozenClock:
    """A clock that stands still until it is told to tick. Calling it gives an aware UTC datetime."""

    def __init__(self, now: datetime = START) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def tick(self, **by: float) -> datetime:
        """The new time, after moving by ``timedelta``'s arguments, such as ``days=31, microseconds=-1``."""
        self.now += timedelta(**by)
        return self.now
