"""What else people use for this, each as its own documentation shows, with the same data, synced as ours is.

Nothing here is needed: a peer that is not installed is skipped. No web framework takes part: what is
measured starts with the token in hand and ends with the user.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Iterator
from functools import cache, partial
from typing import NamedTuple

from tinyauthstore import SQLiteAdapter

from ... import bars, floors
from ...measure import Bar, Contender, Sample, Section, Skipped, looking_up, ns_per_call, race, theirs
from ...workshop import SQLITE_FILE, Workshop, keys_of, shuffled, user_id, users_of
from .common import Samples


class Peer(NamedTuple):
    """A peer: its name, its distribution, the module here that uses it, and its bar as a multiple of ours."""

    name: str
    distribution: str
    module: str
    bar: Bar

    @property
    def title(self) -> str:
        """Its name and, if it is installed, its version."""
        try:
            return f"{self.name} {importlib.metadata.version(self.distribution)}"
        except importlib.metadata.PackageNotFoundError:
            return self.name


PEERS = (
    Peer("SQLAlchemy ORM", "sqlalchemy", "sqlalchemy_orm", bars.PEER),
    Peer("Django session + user", "django", "django_session", bars.PEER),
    Peer("diskcache", "diskcache", "disk_cache", bars.LEVEL_PEER),
    Peer("fastapi-users", "fastapi-users", "fastapi_token", bars.PEER),
)


def sections(shop: Workshop) -> Iterator[Section]:
    """Session with its user by token, and creating a session durably; ours is the floor."""
    plan = shop.plan
    keys = keys_of(shuffled(plan.sessions, plan.look_ups))
    file = shop.copy(SQLITE_FILE, plan.sessions)
    store = shop.stack.enter_context(SQLiteAdapter(file))
    uncached = shop.stack.enter_context(SQLiteAdapter(file, cache_size=0))
    connection = shop.stack.enter_context(floors.opened(shop.copy(SQLITE_FILE, plan.sessions)))

    @cache
    def samples(peer: Peer) -> Samples:
        try:
            module = importlib.import_module(f".{peer.module}", __package__)
        except ModuleNotFoundError:
            raise Skipped("not installed") from None
        shop.tell(f"filling {peer.name}")
        return module.samples(shop)  # type: ignore[no-any-return]

    def look_up(peer: Peer) -> Sample:
        return samples(peer).look_up

    def create(peer: Peer) -> Sample:
        return samples(peer).create

    yield race(
        "Session with its user by token, beside others",
        [
            Contender("SQLite file, warm", lambda: looking_up(store.get_session_and_user, keys.tokens)),
            Contender(
                "SQLite file, cache_size=0", lambda: looking_up(uncached.get_session_and_user, keys.tokens)
            ),
            theirs(
                floors.BARE_JOIN, lambda: looking_up(floors.select(connection, floors.JOIN), keys.digests)
            ),
            *(theirs(peer.title, partial(look_up, peer), peer.bar) for peer in PEERS),
        ],
        rounds=plan.few_rounds,
        chart="ratios",
    )
    users = [user_id(number) for number in shuffled(users_of(plan.sessions), plan.writes)]
    write = floors.insert(connection)
    yield race(
        "Create a session, durable, beside others",
        [
            Contender(
                "SQLite file",
                lambda: lambda: ns_per_call(lambda user: store.create_session(user_id=user), users),
            ),
            theirs(
                "bare INSERT + commit",
                lambda: lambda: ns_per_call(write, floors.new_sessions(plan.sessions, plan.writes)),
            ),
            *(theirs(peer.title, partial(create, peer)) for peer in PEERS),
        ],
        rounds=plan.few_rounds,
    )
