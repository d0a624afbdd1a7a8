"""Sessions kept in memory, so that the next request need not read them again."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from typing import Any

from .models import SessionAndUser, session_id

FEW_DIGESTS = 1000
"""Those of tokens looked up once are remembered, and more only if more sessions are to be kept. With as few as a
small cache_size, sessions used in turn would never be kept."""


class Place:
    """Room in ``Recent`` for one session with its user: reserved before they are read, filled afterwards."""

    __slots__ = ("token", "id", "doubts", "read")

    def __init__(self, token: str, id: str, doubts: int) -> None:
        self.token = token
        self.id = id
        self.doubts = doubts
        self.read: tuple[SessionAndUser[Any, Any] | None, Any] = (None, None)
        """What was found, and the bare row, if there was one."""


class Recent:
    """Sessions that were looked up twice, with their users, by the token that was presented.

    Its owner evicts what its own writes touch, keeps nothing read inside a transaction (it may be
    rolled back), and doubts all when somebody else has written: what is doubted is read again, and
    decoded again only if it reads differently. Absence is never kept. When full, the oldest place makes room.

    Not what is looked up for the first time: to keep it takes a twelfth of a query more (1.67 of the bare one
    instead of 1.61 on Python 3.11, 1.69 instead of 1.60 on 3.13), which who looks up each session once would pay
    for nothing.
    """

    __slots__ = ("size", "places", "valid", "doubts", "once")

    # A signal's handler may look up, write and raise between any two lines. So one operation on one dict
    # decides: a place counts only while it is the one in ``valid``, and with as many ``doubts`` as there are.
    # It has both before it is read: what was evicted or doubted meanwhile is filled in to no effect.

    def __init__(self, size: int) -> None:
        self.size = size
        self.places: OrderedDict[str, Place] = OrderedDict()  # by the token
        self.valid: dict[str, Place] = {}  # by the session's id
        self.doubts = 0
        self.once: set[bytes] = set()  # digests, for a token is a secret, and most of these sessions end unseen

    def reserve(self, token: str, digest: bytes) -> Place | None:
        """A place for what is about to be read; None the first time."""
        if digest not in self.once and token not in self.places:
            return None
        place = Place(token, session_id(digest), self.doubts)
        if len(self.places) >= self.size and token not in self.places:
            with suppress(KeyError):  # cleared since
                _, oldest = self.places.popitem(last=False)
                self.valid.pop(oldest.id, None)
        self.valid[place.id] = place
        self.places[token] = place
        return place

    def remember(self, digest: bytes) -> None:
        """It was looked up ``once``: the next time is the second."""
        if len(self.once) >= max(self.size, FEW_DIGESTS):
            self.once.clear()
        self.once.add(digest)

    def evict(self, session_id: str) -> None:
        if (place := self.valid.pop(session_id, None)) is not None:
            self.places.pop(place.token, None)

    def doubt(self) -> None:
        """From now on, what is kept must be read again before it is served."""
        self.doubts += 1

    def clear(self) -> None:
        self.valid.clear()
        self.places.clear()
