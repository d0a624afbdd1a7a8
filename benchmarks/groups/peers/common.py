"""What the peers share."""

from __future__ import annotations

from typing import Any, NamedTuple

from ...measure import Sample
from ...workshop import Workshop, shuffled, users_of

FEW = 5
"""Peers get a fifth of the operations in a round: they take long enough."""


class Samples(NamedTuple):
    """What is measured of each peer."""

    look_up: Sample
    create: Sample


def sessions_looked_up(shop: Workshop) -> list[int]:
    """The numbers of the sessions that are looked up."""
    return shuffled(shop.plan.sessions, max(10, shop.plan.look_ups // FEW))


def users_signed_in(shop: Workshop) -> list[int]:
    """The numbers of the users for whom sessions are created."""
    return shuffled(users_of(shop.plan.sessions), max(1, shop.plan.writes // FEW))


def sync_as_ours(engine: Any) -> None:
    """WAL, and an fsync for every commit, set as SQLAlchemy's page on SQLite shows."""
    from sqlalchemy import event

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()
