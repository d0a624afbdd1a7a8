"""Session by token through the layouts of other libraries' files, to our own layout."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from tinyauthstore import SQLiteAdapter, layouts

from .. import bars
from ..measure import Contender, Sample, Section, looking_up, race
from ..workshop import Keys, Workshop, fill, keys_of, shuffled

OURS = "our own file"


def sections(shop: Workshop) -> Iterator[Section]:
    """With nothing kept, where rows are decoded; and warm, where they are not."""
    keys = keys_of(shuffled(shop.plan.sessions, shop.plan.look_ups))
    stores = {name: _filled(shop, name) for name in (OURS, *layouts.NAMES)}
    for what, options, bar in (
        ("cache_size=0", {"cache_size": 0}, bars.LAYOUT),
        ("warm", {}, bars.LAYOUT_WARM),
    ):
        yield race(
            f"Session by token through other libraries' layouts, {what}",
            [
                Contender(name, partial(_looked_up, shop, name, path, options, keys), bar if name != OURS else None)
                for name, path in stores.items()
            ],
            rounds=shop.plan.rounds,
            floor=OURS,
        )


def _filled(shop: Workshop, name: str) -> Any:
    path = shop.path(f"{name}.db")
    with _opened(path, name, durability="normal") as store:
        fill(store, shop.plan.sessions)
    return path


def _opened(path: Any, name: str, **options: Any) -> SQLiteAdapter[Any, Any, Any, Any, Any]:
    schema = None if name == OURS else getattr(layouts, name)
    return SQLiteAdapter(path, schema=schema, purge_interval=None, **options)


def _looked_up(shop: Workshop, name: str, path: Any, options: dict[str, Any], keys: Keys) -> Sample:
    store = shop.stack.enter_context(_opened(path, name, **options))
    return looking_up(store.get_session_and_user, keys.tokens)
