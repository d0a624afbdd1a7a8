"""The groups of rows, each a function that yields tables as it measures them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..measure import Section
from ..workshop import Workshop
from . import awaited, beside, foreign, lookups, moves, peers, setup, sizes, threads, writes

GROUPS: dict[str, Callable[[Workshop], Iterator[Section]]] = {
    "lookups": lookups.sections,
    "layouts": foreign.sections,
    "beside": beside.sections,
    "sizes": sizes.sections,
    "writes": writes.sections,
    "setup": setup.sections,
    "moves": moves.sections,
    "threads": threads.sections,
    "async": awaited.sections,
    "peers": peers.sections,
}
"""By the name that ``--only`` takes, in the order in which they run."""
