"""A cache of sessions, and whether another connection has made it stale.

``Kept`` is the cache; ``Watch`` tells whether another connection has committed to the file. A session is
served from the cache only if it was not evicted, not doubted (marked as perhaps stale), and nobody else has
committed since.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from .models import SessionAndUser
from .paths import Identity, OpenFiles, identity

FEW_KEYS = 1000
"""The keys of at least so many sessions that were looked up once are remembered. If only ``cache_size`` were,
and that is small, sessions that are used in turn would never be kept."""

WAL_INDEX_HEADER = 96
"""Bytes of the two copies of SQLite's WAL-index header, at the start of the -shm file."""


class Place:
    """A session that is kept with its user."""

    __slots__ = ("token", "key", "doubts", "found", "row")

    def __init__(self, token: str, key: Any, doubts: int, found: SessionAndUser[Any, Any], row: Any) -> None:
        self.token = token
        self.key = key
        self.doubts = doubts
        self.found: SessionAndUser[Any, Any] | None = found
        """None once it was evicted."""
        self.row = row
        """What ``found`` was decoded from. A row that is equal need not be decoded again."""


class Kept:
    """Sessions that were looked up twice, with their users, by the token that was presented.

    A session is kept from its second look-up on: keeping one takes a twelfth of the time of a query, which
    would be wasted on an application that looks up each session once. Absence is never kept, nor what was
    read inside a transaction, which may be rolled back. When ``size`` sessions are kept, a new one replaces
    the oldest.

    The store evicts a session when it writes to it, and doubts all sessions when it writes to a user; a
    session that is doubted is read again before it is served. ``served`` needs no lock. Every other method is
    called with the store's turn held. An exception between any two of their lines leaves nothing stale to be
    served.
    """

    __slots__ = ("size", "places", "_by_key", "_doubts", "_once")

    def __init__(self, size: int) -> None:
        self.size = size
        self.places: OrderedDict[str, Place] = OrderedDict()
        """By token."""
        self._by_key: dict[Any, Place] = {}  # by the key under which the store files the session
        self._doubts = 0
        self._once: set[Any] = set()  # the keys of sessions that were looked up once

    def served(self, place: Place) -> SessionAndUser[Any, Any] | None:
        """The session and user kept there; None if they are doubted or evicted.

        Ask the ``Watch`` first: if another connection has committed, it doubts them.
        """
        return place.found if place.doubts == self._doubts else None

    def keep(self, token: str, key: Any, found: SessionAndUser[Any, Any], row: Any = None) -> None:
        """Keep ``found`` if it was looked up before. Nobody may have written since it was read."""
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
        self._by_key[key] = place  # first, so that whatever is in ``places`` can be evicted
        self.places[token] = place

    def renewed(self, place: Place) -> SessionAndUser[Any, Any] | None:
        """What is kept there, no longer doubted: it was read again, and is the same. None if it was evicted."""
        place.doubts = self._doubts
        return place.found

    def evict(self, key: Any) -> None:
        """Remove the session that is filed under ``key``; nothing if it is not kept."""
        if (place := self._by_key.get(key)) is not None:
            self._drop(place)

    def _drop(self, place: Place) -> None:
        place.found = None
        self.places.pop(place.token, None)
        self._by_key.pop(place.key, None)

    def doubt(self) -> None:
        """Mark everything kept as perhaps stale: each session is read again before it is served."""
        self._doubts += 1

    def clear(self) -> None:
        """Remove everything."""
        self._doubts += 1
        self.places.clear()
        self._by_key.clear()


class Watch:
    """Tells whether another connection has committed to a SQLite file since it was last asked.

    ``PRAGMA data_version`` tells, but takes a lock and drops it again: that would make a hit in the cache
    three times as expensive as reading what the pragma itself compares, the WAL-index header at the start of
    the -shm file, which every commit changes. The header is read through the descriptor that SQLite has open:
    closing one of our own would drop SQLite's locks. Source: SQLite, "WAL-mode File Format", 2.1 (two copies,
    equal unless one is being written).
    """

    def __init__(
        self,
        data_version: Callable[[], int],
        shm: str | None,
        changed: Callable[[], object],
        open_files: OpenFiles,
    ) -> None:
        """``data_version`` runs the pragma. ``shm`` is the path of SQLite's -shm file, or None if it is not
        certain. ``changed`` is called when another connection has committed, before the new version is
        stored: if it is interrupted, the next call finds the change again."""
        self._changed = changed
        self._data_version = data_version
        self._descriptor, self._file = (-1, None) if shm is None else _descriptor_of(shm, open_files)
        self._header = b""  # read before ``_version`` was; b"" if it is unknown
        self._version = data_version()

    def quiet(self) -> bool:
        """Whether it is certain that nobody has committed, this connection included. Needs no lock."""
        header = self._header
        try:
            return header != b"" and os.pread(self._descriptor, WAL_INDEX_HEADER, 0) == header
        except OSError:  # the application closed the descriptor, which is SQLite's
            return False

    def unchanged(self) -> bool:
        """Whether no other connection has committed."""
        header = self._read_header()
        version = self._data_version()
        unchanged = version == self._version
        if not unchanged:
            self._changed()
            self._version = version
        # Last, and read before the version: as long as the header is the same, so is the version.
        self._header = header
        return unchanged

    def stop(self) -> None:
        """To be called before the connection is closed: from then on, ``quiet`` returns False."""
        self._header, self._file, self._descriptor = b"", None, -1

    def _read_header(self) -> bytes:
        """The header; b"" if it cannot be read, or if the descriptor belongs to another file by now."""
        try:
            if self._file is not None and _identity(os.fstat(self._descriptor)) == self._file:
                return os.pread(self._descriptor, WAL_INDEX_HEADER, 0)
        except OSError:
            pass
        self._file = None
        return b""


def _identity(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino


def _descriptor_of(path: str, open_files: OpenFiles) -> tuple[int, Identity | None]:
    """The one descriptor that this process has open on a file, and the file's device and inode.

    ``(-1, None)`` if there is no such descriptor, or several, or they cannot be listed.
    """
    wanted = identity(path)
    found = open_files.get(wanted, ())
    return (found[0], wanted) if len(found) == 1 else (-1, None)
