"""A backend of one's own, written as ``base.py`` says, keeps the whole contract.

``DictAdapter`` is the example that the README means: every verb of ``BaseAdapter``, and nothing else of it.
"""

from __future__ import annotations

import copy
import dataclasses
import pickle
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any

import pytest
from support import furnish

from tinyauthstore import BaseAdapter, ConflictError, SessionAndUser
from tinyauthstore.aio import AsyncAdapter
from tinyauthstore.models import ACCOUNT, ENTITIES, SESSION, USER, Entity, session_id
from tinyauthstore.testing import (
    AdapterContract, TransactionContract,
)

Key = tuple[Any, ...]


class DictAdapter(BaseAdapter):
    """All records in plain dictionaries, of which each transaction begins with a copy: simple, and slow for many."""

    _in_memory = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._records: dict[str, dict[Key, Any]] = {entity.plural: {} for entity in ENTITIES}
        self._saved: list[dict[str, dict[Key, Any]]] = []  # the state at the beginning of each open block
        self._opened()

    def __repr__(self) -> str:
        return "DictAdapter()"

    # -- look-ups: from any thread at any time, so they take turns

    def _get(self, entity: Entity, key: Key) -> Any:
        return self._in_turn(lambda: copy.deepcopy(self._records[entity.plural].get(key)))

    def _find(self, entity: Entity, group: str) -> dict[Key, Any]:
        return self._in_turn(lambda: {key: copy.deepcopy(record) for key, record in self._members(entity, group)})

    def _members(self, entity: Entity, group: str) -> list[tuple[Key, Any]]:
        records = self._records[entity.plural]
        return [(key, records[key]) for key in sorted(records) if entity.group_of(records[key]) == group]

    def _page(
        self, entity: Entity, after: Key | None, limit: int, prefix: str | None = None
    ) -> list[tuple[Key, Any]]:
        def wanted(key: Key, record: Any) -> bool:
            group = None if prefix is None else entity.group_of(record)
            begins_so = prefix is None or (group is not None and group.startswith(prefix))
            return begins_so and (after is None or key > after)

        def read() -> list[tuple[Key, Any]]:
            records = sorted(self._records[entity.plural].items())
            return copy.deepcopy([(key, record) for key, record in records if wanted(key, record)][:limit])

        return self._in_turn(read)

    def _get_session_and_user(self, session_token: str) -> Any:
        def read() -> Any:
            self._require_open()
            session = self._records["sessions"].get((self._digest(session_token),))
            user = None if session is None else self._records["users"].get((session.user_id,))
            if user is None:
                return None
            return copy.deepcopy(SessionAndUser(dataclasses.replace(session, session_token=session_token), user))

        return self._in_turn(read)

    def _get_owner(self, account: Key) -> Any:
        def read() -> Any:
            linked = self._records["accounts"].get(account)
            return None if linked is None else copy.deepcopy(self._records["users"].get((linked.user_id,)))

        return self._in_turn(read)

    # -- writes: inside a transaction, by one caller at a time

    def _add(self, entity: Entity, key: Key, record: Any) -> None:
        self._records[entity.plural][key] = copy.deepcopy(record)

    def _change(self, entity: Entity, key: Key, record: Any) -> None:
        self._add(entity, key, record)

    def _rekey(self, entity: Entity, key: Key, new: Key) -> None:
        self._add(entity, new, dataclasses.replace(self._remove(entity, key), id=session_id(new[0])))

    def _remove(self, entity: Entity, key: Key) -> Any:
        return copy.deepcopy(self._records[entity.plural].pop(key, None))  # a rollback may bring it back

    def _remove_group(self, entity: Entity, group: str) -> None:
        for key, _ in self._members(entity, group):
            self._remove(entity, key)

    def _purge(self, entity: Entity, now: datetime, limit: int) -> int:
        records = self._records[entity.plural]
        expired = sorted((record.expires, key) for key, record in records.items() if record.expires <= now)
        for _, key in expired[:limit]:
            self._remove(entity, key)
        return len(expired[:limit])

    # -- transactions

    def _begin(self, depth: int, patience: float) -> None:
        self._saved[depth:] = [{plural: dict(records) for plural, records in self._records.items()}]

    def _commit(self, depth: int) -> None:
        del self._saved[depth:]

    def _rollback(self, depth: int) -> None:
        if depth < len(self._saved):
            self._records = self._saved[depth]
            del self._saved[depth:]

    def _dump(self) -> Any:
        return {plural: dict(records) for plural, records in self._records.items()}

    def _load(self, state: Any) -> None:
        self._records = {plural: dict(records) for plural, records in state.items()}


# --- the kit over it --------------------------------------------------------------------------


class TestOwnBackend(AdapterContract):
    @pytest.fixture
    def make_adapter(self) -> Callable[..., Any]:
        return DictAdapter


class TestOwnBackendAwaited(TransactionContract):
    @pytest.fixture
    def make_adapter(self) -> Callable[..., Any]:
        return lambda **options: AsyncAdapter(DictAdapter(**options))


# --- what the kit leaves to each backend ------------------------------------------------------


def test_several_threads_share_it() -> None:
    with DictAdapter() as store:
        won = []

        def sign_up(mine: str) -> None:
            for i in range(20):
                session = store.create_session(user_id=store.create_user(id=f"{mine}-{i}").id)
                assert store.get_session_and_user(session.session_token) is not None
                with suppress(ConflictError):
                    won.append(store.create_user(email=f"{i}@example.com"))

        threads = [threading.Thread(target=sign_up, args=(str(i),)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(user.email for user in won) == sorted(f"{i}@example.com" for i in range(20))
        assert sum(len(store.list_sessions(f"{mine}-{i}")) for mine in range(4) for i in range(20)) == 80
        assert store.check() == []


def test_its_snapshot_goes_through_pickle() -> None:
    with DictAdapter() as store:
        furnish(store)
        kept = pickle.dumps(store.snapshot())
        store.delete_user("ada")
        store.restore(pickle.loads(kept))
        assert store.get_session_and_user("session") is not None
        assert store.check() == []


def test_check_finds_a_session_without_its_user() -> None:
    with DictAdapter() as store:
        furnish(store)
        store._records[USER.plural].clear()
        assert len([one for one in store.check() if "does not exist" in one]) == 3
        assert (len(store._records[SESSION.plural]), len(store._records[ACCOUNT.plural])) == (1, 1)
