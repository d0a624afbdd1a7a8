"""Every way to look something up, in every store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from tinyauthstore import Adapter, MemoryAdapter, SQLiteAdapter

from .. import bars, floors
from ..measure import Contender, Sample, Section, looking_up, ns_per_call, race, theirs
from ..workshop import (
    MEMORY,
    SHELVE,
    SPLIT,
    SQLITE_FILE,
    SQLITE_MEMORY,
    STORES,
    Keys,
    Workshop,
    email,
    expired_of,
    fill,
    keys_of,
    shuffled,
    token,
    user_id,
    users_of,
)


def sections(shop: Workshop) -> Iterator[Section]:
    """Sessions by token (warm, cold, unknown, expired); users by id, e-mail address and account."""
    plan = shop.plan
    keys = keys_of(shuffled(plan.sessions, plan.look_ups))
    file = shop.filled(SQLITE_FILE, plan.sessions)
    connection = shop.stack.enter_context(floors.opened(file))
    join = theirs(floors.BARE_JOIN, lambda: looking_up(floors.select(connection, floors.JOIN), keys.digests))
    plain = _plain_mappings(shop, keys)

    yield race(
        f"Session by token, warm: {len(keys.tokens):,} tokens of {plan.sessions:,}, again and again",
        [
            join,
            *plain,
            theirs(
                "bare SELECT of the session, file",
                lambda: looking_up(floors.select(connection, floors.SESSION), keys.digests),
            ),
            theirs("bare PRAGMA data_version, file", lambda: _validating(connection, keys)),
            theirs("bare SELECT ... JOIN, :memory:", lambda: _in_memory(shop, connection, keys)),
            Contender("SQLite file, warm", lambda: _session(shop, SQLITE_FILE, keys.tokens), bars.WARM),
            Contender("SQLite file, cache_size=0", lambda: _uncached(shop, keys), bars.COLD),
            Contender("SQLite :memory:", lambda: _session(shop, SQLITE_MEMORY, keys.tokens)),
            Contender("memory", lambda: _session(shop, MEMORY, keys.tokens), bars.IN_MEMORY),
            Contender("memory, cache_size=0", lambda: _uncached_memory(shop, keys)),
            Contender("shelve", lambda: _session(shop, SHELVE, keys.tokens), bars.IN_MEMORY),
            Contender("split: users in file", lambda: _session(shop, SPLIT, keys.tokens)),
            Contender(
                "SQLite file, touch, nothing due",
                lambda: looking_up(shop.store(SQLITE_FILE).touch_session, keys.tokens),
            ),
        ],
        rounds=plan.rounds,
        chart="ratios",
    )

    everybody = keys_of(shuffled(plan.sessions))
    yield race(
        f"Session by token, warm: all {plan.sessions:,} tokens in turn, again and again",
        [
            theirs(
                floors.BARE_JOIN,
                lambda: looking_up(floors.select(connection, floors.JOIN), everybody.digests, passes=2),
            ),
            *(
                Contender(kind, partial(_session, shop, kind, everybody.tokens, passes=2), bar)
                for kind, bar in (
                    (SQLITE_FILE, bars.WARM),
                    (MEMORY, bars.IN_MEMORY),
                    (SHELVE, bars.IN_MEMORY),
                )
            ),
        ],
        rounds=plan.few_rounds,
    )
    yield race(
        f"Session by token, cold: {plan.sessions:,} tokens, each for the first time",
        [
            theirs(floors.BARE_JOIN, lambda: cold_select(file, everybody)),
            Contender("SQLite file, cold", lambda: cold(file, everybody), bars.COLD),
            Contender(
                "SQLite file, cold, cache_size=0", lambda: cold(file, everybody, cache_size=0), bars.COLD
            ),
        ],
        rounds=plan.few_rounds,
        chart="ratios",
    )

    first_unknown = plan.sessions + expired_of(plan.sessions)
    unknown = [token(first_unknown + number) for number in range(plan.look_ups)]
    expired = [token(number) for number in range(plan.sessions, first_unknown)][: plan.look_ups]
    for what, tokens in (("unknown", unknown), ("expired", expired)):
        yield race(
            f"Session by token, {what}",
            [join, *(Contender(kind, partial(_session, shop, kind, tokens, found=False)) for kind in STORES)],
            rounds=plan.rounds,
        )

    yield race(
        "Session by token, shelve against memory",
        [
            Contender("memory", lambda: _session(shop, MEMORY, keys.tokens)),
            Contender("shelve", lambda: _session(shop, SHELVE, keys.tokens), bars.SHELF_TO_MEMORY),
            *plain,
        ],
        rounds=plan.rounds,
    )

    people = shuffled(users_of(plan.sessions), plan.look_ups)
    for path in USER_PATHS:
        yield race(
            f"User by {path.key}",
            [
                theirs("bare SELECT, file", partial(path.bare, connection, people)),
                *(Contender(kind, partial(path.ours, shop, kind, people)) for kind in STORES),
            ],
            rounds=plan.rounds,
        )


# --- sessions ---------------------------------------------------------------------------------


def _session(shop: Workshop, kind: str, tokens: Sequence[str], **options: Any) -> Sample:
    return looking_up(shop.store(kind).get_session_and_user, tokens, **options)


def _validating(connection: Any, keys: Keys) -> Sample:
    """What it costs alone to ask whether another connection has written: no coherent cache can cost less."""
    execute = connection.execute
    return looking_up(lambda _: execute(floors.VALIDATION).fetchone(), keys.digests)


def _uncached(shop: Workshop, keys: Keys) -> Sample:
    file = shop.filled(SQLITE_FILE, shop.plan.sessions)
    store = shop.stack.enter_context(SQLiteAdapter(file, purge_interval=None, cache_size=0))
    return looking_up(store.get_session_and_user, keys.tokens)


def _uncached_memory(shop: Workshop, keys: Keys) -> Sample:
    store = shop.stack.enter_context(MemoryAdapter(purge_interval=None, cache_size=0))
    fill(store, shop.plan.sessions)
    return looking_up(store.get_session_and_user, keys.tokens)


def _in_memory(shop: Workshop, connection: Any, keys: Keys) -> Sample:
    copy = shop.stack.enter_context(floors.opened(":memory:"))
    connection.backup(copy)
    return looking_up(floors.select(copy, floors.JOIN), keys.digests)


def _plain_mappings(shop: Workshop, keys: Keys) -> list[Contender]:
    """The same data in a dict, and in bare shelves on every backend that this Python has: for two tables."""

    def in_dict() -> Sample:
        return looking_up(floors.dictionary(shop.plan.sessions).get, [digest for (digest,) in keys.digests])

    def in_shelf(backend: str) -> Sample:
        path = shop.path("shelf")
        shop.tell(f"filling a bare shelf on dbm.{backend}")
        floors.write_shelf(path, shop.plan.sessions, backend)
        shelf = shop.stack.enter_context(floors.shelf(path, backend))
        return looking_up(shelf.get, [digest.hex() for (digest,) in keys.digests])

    return [
        theirs("dict", cache(in_dict)),
        *(theirs(f"bare shelve, dbm.{name}", cache(partial(in_shelf, name))) for name in floors.backends()),
    ]


def cold(file: Path, keys: Keys, **options: Any) -> Sample:
    """A round is a fresh adapter that looks up each session once."""

    def sample() -> float:
        with SQLiteAdapter(file, purge_interval=None, **options) as store:
            return ns_per_call(store.get_session_and_user, keys.tokens)

    return sample


def cold_select(file: Path, keys: Keys) -> Sample:
    """The same on a fresh bare connection."""

    def sample() -> float:
        with floors.opened(file) as connection:
            return ns_per_call(floors.select(connection, floors.JOIN), keys.digests)

    return sample


# --- users ------------------------------------------------------------------------------------


class UserPath(NamedTuple):
    """A way to a user: the bare query and its parameters, our method and its argument."""

    key: str
    sql: str
    parameters: Callable[[int], tuple[str, ...]]
    method: Callable[[Adapter], Callable[[str], Any]]
    argument: Callable[[int], str]

    def bare(self, connection: Any, people: Sequence[int]) -> Sample:
        """The query, for those people."""
        return looking_up(floors.select(connection, self.sql), [self.parameters(number) for number in people])

    def ours(self, shop: Workshop, kind: str, people: Sequence[int]) -> Sample:
        """The method of that kind of store, for those people."""
        return looking_up(self.method(shop.store(kind)), [self.argument(number) for number in people])


def _by_account(store: Adapter) -> Callable[[str], Any]:
    return lambda number: store.get_user_by_account(provider="example", provider_account_id=number)


USER_PATHS = (
    UserPath("id", floors.USER, lambda n: (user_id(n),), lambda store: store.get_user, user_id),
    UserPath(
        "e-mail", floors.USER_BY_EMAIL, lambda n: (email(n),), lambda store: store.get_user_by_email, email
    ),
    UserPath("account", floors.USER_BY_ACCOUNT, lambda n: ("example", str(n)), _by_account, str),
)
