"""What the figures should reach: section 4 of the design, and two issues where they are named."""

from __future__ import annotations

from .measure import Bar

MICROSECOND = 1e3
SECOND = 1e9

WARM = Bar(0.5)
"""Session by token, SQLite file, warm, coherent across processes, to the bare SELECT ... JOIN."""

COLD = Bar(2.1)
"""The same with nothing kept, also with ``cache_size=0``, and the worst that other writers may make of it."""

IN_MEMORY = Bar(0.3)
"""Session by token, memory and shelve, to the bare SELECT ... JOIN on a file."""

PEER = Bar(10, at_least=True)
"""SQLAlchemy's ORM, Django's sessions, fastapi-users, to ours."""

LEVEL_PEER = Bar(1, at_least=True)
"""diskcache, to ours."""

CREATE = Bar(1.5)
"""Create a session, durable (``durability="full"``), to the bare INSERT + commit under the same pragmas."""

FLAT = Bar(1.2)
"""Warm look-ups against size: "flat", read as at most a fifth more at any size than at the smallest."""

COLD_GROWTH = Bar(2)
"""Cold look-ups at any size, to those at the smallest."""

FRESH_MEMORY = Bar(50 * MICROSECOND, "time")
FRESH_SQLITE = Bar(200 * MICROSECOND, "time")
"""A fresh store for one test."""

CHECK = Bar(2 * SECOND, "time")
"""``check()`` of a file with 1,000,000 records."""

MOVE = Bar(10 * MICROSECOND, "time")
"""dump, load, copy: 100,000 records a second."""

CONSTANT = Bar(1.2)
"""Memory at the peak of a dump and a load, to that of the smallest: "constant", read as in ``FLAT``."""

AWAITED = Bar(3)
"""A warm look-up through ``AsyncAdapter``, to the same called directly."""

OPEN_SHELF = Bar(1.5 * SECOND, "time")
"""Opening a shelf of 100,000 sessions with their users."""

SHELF_TO_MEMORY = Bar(1.2)
"""ShelveAdapter's look-up, to MemoryAdapter's (from the shelf's own issue)."""

SHELF_WRITE = Bar(2)
"""ShelveAdapter's acknowledged durable write, to the bare append + fsync (the same)."""

BASELINE = Bar(100 * MICROSECOND, "time")
"""Back to a test suite's baseline: what the fixtures may cost each test (from the fixtures' own issue)."""

LAYOUT = Bar(1.2)
"""Session by token through another library's layout with ``cache_size=0``, to our own layout."""

LAYOUT_WARM = Bar(1.1)
"""The same warm: "the same", read as at most a tenth more."""
