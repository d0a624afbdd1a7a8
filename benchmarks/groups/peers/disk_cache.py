"""diskcache: https://grantjenks.com/docs/diskcache/tutorial.html"""

from __future__ import annotations

import uuid
from typing import Any

from diskcache import Cache

from ...measure import looking_up, ns_per_call
from ...workshop import MONTH, NOW, Workshop, email, token, user_id, users_of
from .common import Samples, sessions_looked_up, users_signed_in

FULL = 2
"""SQLite's number for synchronous=FULL."""


def samples(shop: Workshop) -> Samples:
    """``get`` and ``set``, session and user in one value: it has no second table to ask."""
    cache = shop.stack.enter_context(Cache(str(shop.path("diskcache")), sqlite_synchronous=FULL))

    def value(number: int) -> dict[str, Any]:
        owner = number % users_of(shop.plan.sessions)
        user = {"id": user_id(owner), "email": email(owner), "name": f"User {owner}", "email_verified": NOW}
        return {"user": user, "expires": NOW + MONTH, "created_at": NOW}

    with cache.transact():
        for number in range(shop.plan.sessions):
            cache.set(token(number), value(number), expire=MONTH.total_seconds())

    def create(number: int) -> None:
        cache.set(uuid.uuid4().hex, value(number), expire=MONTH.total_seconds())

    users = users_signed_in(shop)
    return Samples(
        looking_up(cache.get, [token(number) for number in sessions_looked_up(shop)]),
        lambda: ns_per_call(create, users),
    )
