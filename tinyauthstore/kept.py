"""Sessions kept in memory, and whether somebody has committed since.

Two objects, a question each: ``Kept`` knows what is kept, ``Watch`` whether another connection has written to the
file. What is kept is served only while it has not been evicted, nothing was doubted, and nobody else has committed.
"""

from __future__ import annotations

import os
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from .models import SessionAndUser

FEW_KEYS = 1000
"""How many sessions that were looked up once are remembered at least. With as few as a small cache_size, sessions
that are used in turn would never be kept."""

WAL_INDEX_HEADER = 96
"""Bytes: SQLite's two copies of the header, at the start of the -shm file."""

MANY_DESCRIPTORS = 1000
"""If a process has more of them open, they are not searched: each takes about 3 microseconds."""


class Place:
    """A session that is kept with its user."""

    __slots__ = ("token", "key", "doubts", "found", "row")

    def __init__(self, token: str, key: Any, doubts: int, found: SessionAndUser[Any, Any], row: Any) -> None:
        self.token = token
        self.key = key
        self.doubts = doubts
        self.found: SessionAndUser[Any, Any] | None = found
        """None from the moment when it is evicted."""
        self.row = row
        """What ``found`` was decoded from: what reads the same need not be decoded again."""


class Kept:
    """Sessions that were looked up twice, with their users, by the token that was presented.

    A session is kept from its second look-up on: keeping one costs a twelfth of a query, for which an application
    that looks up each session once would get nothing. Absence is never kept, nor what was read inside a
    transaction, which may be rolled back. When ``size`` sessions are kept, a new one takes the place of the oldest.

    Its owner evicts a session when it writes to it, and doubts all of them when it writes to a user; what is doubted
    is read again before it is served. ``served`` needs no lock. Everything else is called by one thread at a time,
    and leaves nothing that could be served wrongly if an exception is raised between any two of its lines.
    """

    __slots__ = ("size", "places", "_by_key", "_doubts", "_once")

    def __init__(self, size: int) -> None:
        self.size = size
        self.places: OrderedDict[str, Place] = OrderedDict()
        """By token."""
        self._by_key: dict[Any, Place] = {}  # by what the session is filed under
        self._doubts = 0
        self._once: set[Any] = set()  # the keys of sessions that were looked up once

    def served(self, place: Place) -> SessionAndUser[Any, Any] | None:
        """What is kept there, if it may be served: ask first whether somebody else has committed."""
        return place.found if place.doubts == self._doubts else None

    def keep(self, token: str, key: Any, found: SessionAndUser[Any, Any], row: Any = None) -> None:
        """Keep what was just read, if it is the second time. Nobody may have written since it was read."""
        if not self.size:
            return
        if key not in self._once and token not in self.places:
            if len(self._once) >= max(self.size, FEW_KEYS):
                self._once.clear()
            self._once.add(key)
            return
        self.evict(key)
        if len(self.places) >= self.size:
            self._drop(next(iter(self.places.values())))
        place = Place(token, key, self._doubts, found, row)
        self._by_key[key] = place  # first: whatever is in ``places`` can be evicted
        self.places[token] = place

    def evict(self, key: Any) -> None:
        """From now on, do not serve the session that is filed under ``key``."""
        if (place := self._by_key.get(key)) is not None:
            self._drop(place)

    def _drop(self, place: Place) -> None:
        place.found = None
        self.places.pop(place.token, None)
        self._by_key.pop(place.key, None)

    def doubt(self) -> None:
        """From now on, serve nothing of what is kept until it was read again."""
        self._doubts += 1

    def clear(self) -> None:
        """Keep nothing of what was kept so far."""
        self._doubts += 1
        self.places.clear()
        self._by_key.clear()


class Watch:
    """Whether another connection has committed to a SQLite file since this was asked last.

    ``PRAGMA data_version`` tells. But it takes a lock and drops it again, which makes a hit three times as expensive
    as reading what the pragma itself goes by: the header of the WAL index, at the start of the -shm file, which
    every commit changes. It is read through the descriptor that SQLite has open; closing one of our own would
    drop SQLite's locks. Source: SQLite, "WAL-mode File Format", 2.1 (two copies, equal unless one is being written).
    """

    def __init__(self, data_version: Callable[[], int], shm: str | None, changed: Callable[[], object]) -> None:
        """``data_version`` runs the pragma. ``shm`` is the path of SQLite's -shm file, None where that is not sure.
        ``changed`` is called when somebody has committed, before anything is remembered of it."""
        self._changed = changed
        self._data_version = data_version
        self._descriptor, self._file = (-1, None) if shm is None else _descriptor_of(shm)
        self._header = b""  # of a time before the version was asked for
        self._version = data_version()

    def quiet(self) -> bool:
        """Whether it is sure, at little cost, that nobody has committed, not even this connection. Needs no lock."""
        header = self._header
        try:
            return header != b"" and os.pread(self._descriptor, WAL_INDEX_HEADER, 0) == header
        except OSError:  # somebody closed it behind SQLite's back
            return False

    def unchanged(self) -> bool:
        """Whether no other connection has committed."""
        header = self._read_header()
        version = self._data_version()
        unchanged = version == self._version
        if not unchanged:
            self._changed()
            self._version = version
        self._header = header  # last, and older than the version: while the header stays, so does the version
        return unchanged

    def stop(self) -> None:
        """The connection is about to be closed: nothing is sure any more."""
        self._header, self._file, self._descriptor = b"", None, -1

    def _read_header(self) -> bytes:
        """b"" if it is not to be had, or if the descriptor has come to mean another file."""
        try:
            if self._file is not None and _identity(os.fstat(self._descriptor)) == self._file:
                return os.pread(self._descriptor, WAL_INDEX_HEADER, 0)
        except OSError:
            pass
        self._file = None
        return b""


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _descriptor_of(path: str) -> tuple[int, tuple[int, int] | None]:
    """The one descriptor that this process has open on a file, and the file's device and inode. ``(-1, None)`` if
    there is no such descriptor, or several, or no telling.

    Linux only: there, whatever is written to a mapped file is at once what every read of it gives.
    """
    found = []
    try:
        wanted = _identity(os.stat(path))
        names = os.listdir("/proc/self/fd") if sys.platform == "linux" else []
    except OSError:
        return -1, None
    for name in names if len(names) <= MANY_DESCRIPTORS else ():
        try:
            if _identity(os.fstat(int(name))) == wanted:
                found.append(int(name))
        except OSError:  # the one that listed the directory
            pass
    return (found[0], wanted) if len(found) == 1 else (-1, None)
