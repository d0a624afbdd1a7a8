"""``SplitAdapter``: what spans its stores, in which order, and what an interruption leaves.

That it keeps the contract while nothing is interrupted is tested by the kit.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import pydoc
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, apart, exit_code, fork, run_python

from tinyauthstore import (
    Adapter,
    ClosedError,
    MemoryAdapter,
    NotFoundError,
    Purged,
    Session,
    SessionAndUser,
    SessionStore,
    SplitAdapter,
    SQLiteAdapter,
    StorageError,
    User,
    UserStore,
    VerificationStore,
)
from tinyauthstore.aio import AsyncAdapter
from tinyauthstore.testing import CALLS, DAY, NOTHING, ON_A_SESSION, FrozenClock, Household, link, race, undone
from tinyauthstore.transactions import innermost

ADA = "ada@example.com"
ROLES = ("users", "sessions", "verification")


class Broken(StorageError):
    """What a disk does."""


class Hooked:
    """Mixed into a store: what a test sets here is called before the next outermost begin or commit."""

    before_begin: Callable[[], object] | None = None
    before_commit: Callable[[], object] | None = None

    def _call(self, hook: str, depth: int) -> None:
        call = getattr(self, hook)
        if depth == 0 and call is not None:
            setattr(self, hook, None)
            call()

    def transaction(self) -> Any:
        self._call("before_begin", 0 if innermost(self) is None else 1)  # type: ignore[arg-type]
        return super().transaction()  # type: ignore[misc]

    def _commit(self, depth: int) -> None:
        self._call("before_commit", depth)
        super()._commit(depth)  # type: ignore[misc]


class HookedSQLite(Hooked, SQLiteAdapter): ...


class Logging(Hooked, MemoryAdapter):
    """A store that logs its outermost commits, and what happens to all of it."""

    def __init__(self, name: str, log: list[str], **options: Any) -> None:
        super().__init__(**options)
        self.name, self.log = name, log

    def _commit(self, depth: int) -> None:
        super()._commit(depth)
        if depth == 0:
            self.log.append(self.name)

    def check(self) -> list[str]:
        self.log.append(f"{self.name} checked")
        return super().check()

    def _release(self) -> None:
        self.log.append(f"{self.name} closed")
        super()._release()


def no_space() -> None:
    """For ``Hooked.before_commit``."""
    raise Broken("no")


class Stores(dict[str, Any]):
    """The three stores of ``split``, by role, and the order of their commits."""

    def __init__(self, **options: Any) -> None:
        self.log: list[str] = []
        super().__init__({role: Logging(role, self.log, **options) for role in ROLES})
        self.clock = options.get("clock")
        self.split = SplitAdapter(**self)


@pytest.fixture
def stores() -> Iterator[Stores]:
    stores = Stores(clock=FrozenClock(), purge_interval=None)
    yield stores
    stores.split.close()


def signed_in(split: Adapter) -> tuple[User, Session]:
    """Ada, with a session and a pending link."""
    ada = split.create_user(id="ada", email=ADA, name="Ada")
    split.create_verification_token(identifier=ADA, token="link")
    return ada, split.create_session(user_id="ada", session_token="token")


# --- what lies where --------------------------------------------------------------------------


def test_each_kind_of_record_lies_in_its_store_alone(stores: Stores) -> None:
    Household(stores.split)
    users, sessions, verification = (stores[role] for role in ROLES)
    assert len(users.list_accounts("ada")) == len(users.list_authenticators_by_user_id("ada")) == 3
    assert [len(store.list_sessions("ada")) for store in stores.values()] == [0, 3, 0]
    assert [store.delete_verification_tokens(ADA) for store in stores.values()] == [0, 0, 3]
    assert sessions.list_accounts("ada") == sessions.list_authenticators_by_user_id("ada") == []
    assert verification.get_user("ada") is None


def test_the_session_store_learns_no_address_and_no_name(stores: Stores) -> None:
    ada, _ = signed_in(stores.split)
    stores.split.update_user("ada", image="ada.png")
    assert stores["sessions"].get_user("ada") == User(id="ada")


def test_a_session_comes_with_the_user_of_the_user_store(stores: Stores) -> None:
    _, session = signed_in(stores.split)
    changed = stores.split.update_user("ada", name="Ada L.")
    assert stores.split.get_session_and_user("token") == (session, changed)


@pytest.mark.parametrize("missing", [("sessions",), ("verification",), ("sessions", "verification")])
def test_a_role_that_is_not_given_falls_to_the_users_store(stores: Stores, missing: tuple[str, ...]) -> None:
    split = SplitAdapter(**{role: store for role, store in stores.items() if role not in missing})
    Household(split)
    assert bool(stores["users"].list_sessions("ada")) is ("sessions" in missing)
    assert bool(stores["users"].delete_verification_tokens(ADA)) is ("verification" in missing)


def test_a_store_that_is_given_twice_is_used_once() -> None:
    log: list[str] = []
    with SplitAdapter(**dict.fromkeys(ROLES, Logging("one", log))) as split:
        with split.transaction():
            signed_in(split)
        assert split.check() == []
    assert log == ["one", "one checked", "one closed"]


def test_a_store_for_two_roles_is_asked_once(stores: Stores) -> None:
    both = stores["sessions"]
    split = SplitAdapter(users=stores["users"], sessions=both, verification=both)
    with split.transaction():
        split.create_user(id="ada", email=ADA)
        split.create_session(user_id="ada")
        split.create_verification_token(identifier=ADA)
    assert stores.log[-2:] == ["sessions", "users"]
    stores.clock.tick(days=31)  # type: ignore[union-attr]
    assert split.purge_expired() == Purged(1, 1)


# --- what spans stores ------------------------------------------------------------------------


def test_deleting_a_user_ends_the_sessions_and_links_in_the_other_stores(stores: Stores) -> None:
    home = Household(stores.split)
    before = home.grace.state()
    assert stores.split.delete_user("ada") == home.ada.user
    assert stores["sessions"].list_sessions("ada") == []
    assert stores["sessions"].get_user("ada") is None
    assert stores["verification"].delete_verification_tokens(ADA) == 0
    assert home.grace.state() == before and stores.split.check() == []


@pytest.mark.parametrize("address, identifier", [("Ada", "Ada"), ("Ada", "ada"), (ADA.upper(), ADA)])
def test_deleting_a_user_deletes_the_links_that_one_store_would(address: str, identifier: str) -> None:
    left = []
    for store in (MemoryAdapter(), SplitAdapter(users=MemoryAdapter(), verification=MemoryAdapter())):
        with store:
            store.create_user(id="ada", email=address)
            store.create_verification_token(identifier=identifier)
            store.delete_user("ada")
            left.append(store.delete_verification_tokens(identifier))
    assert left == [0, 0]


def test_the_users_store_commits_last(stores: Stores) -> None:
    signed_in(stores.split)
    stores.log.clear()
    stores.split.delete_user("ada")
    assert stores.log == ["verification", "sessions", "users"]


def parts(split: Any) -> tuple[bool, bool, bool]:
    """Whether Ada, her session and her link are there."""
    user, session = split.get_user("ada"), split.get_session_and_user("token")
    link = undone(split, lambda: split.use_verification_token(identifier=ADA, token="link"))
    return user is not None, session is not None, link is not None


@pytest.mark.parametrize(
    "role, left",
    [
        ("verification", (True, True, True)),
        ("sessions", (True, True, False)),
        ("users", (True, False, False)),
    ],
)
def test_a_deletion_that_is_interrupted_leaves_the_user_and_what_was_not_committed(
    stores: Stores, role: str, left: tuple[bool, bool, bool]
) -> None:
    signed_in(stores.split)
    stores[role].before_commit = no_space
    with pytest.raises(Broken):
        stores.split.delete_user("ada")
    assert parts(stores.split) == left and stores.split.check() == []
    stores.split.delete_user("ada")
    assert parts(stores.split) == (False, False, False)


@pytest.mark.parametrize("role", ROLES)
def test_a_sign_up_that_is_interrupted_leaves_nobody(stores: Stores, role: str) -> None:
    split = stores.split
    split.create_verification_token(identifier=ADA, token="link")
    stores[role].before_commit = no_space
    with pytest.raises(Broken), split.transaction():
        split.use_verification_token(identifier=ADA, token="link")
        split.create_user(id="ada", email=ADA)
        split.create_session(user_id="ada", session_token="token")
    assert parts(split) == (False, False, role == "verification")
    assert split.create_session(user_id=split.create_user(email=ADA).id)


@apart
def test_a_process_killed_between_two_commits_leaves_the_user_signed_out(tmp_path: Path) -> None:
    paths = {role: tmp_path / f"{role}.db" for role in ROLES}
    with SplitAdapter(**{role: SQLiteAdapter(path) for role, path in paths.items()}) as split:
        signed_in(split)

    def child() -> None:
        opened = {role: HookedSQLite(path) for role, path in paths.items()}
        opened["users"].before_commit = lambda: os._exit(3)
        SplitAdapter(**opened).delete_user("ada")

    assert exit_code(fork(child)) == 3
    with SplitAdapter(**{role: SQLiteAdapter(path) for role, path in paths.items()}) as split:
        assert parts(split) == (True, False, False) and split.check() == []
        split.create_session(user_id="ada", session_token="token")
        split.delete_user("ada")
        assert parts(split) == (False, False, False)


def test_an_error_inside_a_transaction_rolls_back_all_stores(stores: Stores) -> None:
    home = Household(stores.split)
    before = home.state()
    with pytest.raises(LookupError), stores.split.transaction() as same:
        assert same is stores.split
        stores.split.delete_user("ada")
        stores.split.revoke_sessions("grace")
        stores.split.create_verification_token(identifier=ADA)
        raise LookupError
    assert home.state() == before


def test_a_transaction_that_cannot_begin_everywhere_begins_nowhere(stores: Stores) -> None:
    stores["sessions"].close()
    with pytest.raises(ClosedError), stores.split.transaction():
        raise AssertionError("not reached")
    assert race(1, lambda i: stores["users"].create_user(id="ada"))[0].id == "ada"  # no lock left behind


# --- sessions whose user vanished -------------------------------------------------------------


@pytest.mark.parametrize("method", ON_A_SESSION)
def test_a_session_whose_user_vanished_is_absent(stores: Stores, method: str) -> None:
    """As by another process, which cannot reach the sessions in this one's memory."""
    _, session = signed_in(stores.split)
    assert undone(stores.split, lambda: ON_A_SESSION[method](stores.split, session)) not in (
        NOTHING.get(method),
        None,
    )
    stores["users"].delete_user("ada")
    assert ON_A_SESSION[method](stores.split, session) == NOTHING.get(method)


def test_nobody_signs_in_as_a_user_who_vanished(stores: Stores) -> None:
    signed_in(stores.split)
    stores["users"].delete_user("ada")
    with pytest.raises(NotFoundError) as caught:
        stores.split.create_session(user_id="ada")
    assert (caught.value.model, caught.value.key) == ("User", "ada")
    assert stores["sessions"].get_user("ada") is None and stores["sessions"].list_sessions("ada") == []


def test_a_user_deleted_while_signing_in_has_no_session_afterwards(tmp_path: Path) -> None:
    """The deletion has committed the sessions' store, not yet the users', when the sign-in comes."""
    users, sessions = HookedSQLite(tmp_path / "auth.db"), MemoryAdapter()
    answers: list[Any] = []

    def sign_in() -> None:
        try:
            answers.append(split.create_session(user_id="ada", session_token="late"))
        except NotFoundError as error:
            answers.append(error)

    def meanwhile() -> None:
        thread.start()
        assert sessions.get_user("ada") is None
        thread.join(0.05)  # until it waits for the users' store

    thread = threading.Thread(target=sign_in)
    with SplitAdapter(users=users, sessions=sessions) as split:
        signed_in(split)
        users.before_commit = meanwhile
        split.delete_user("ada")
        thread.join(PATIENCE)
        assert [type(answer) for answer in answers] == [NotFoundError]
        assert sessions.get_user("ada") is None and sessions.get_session_and_user("late") is None


def test_two_first_sign_ins_of_a_user_keep_each_others_session(stores: Stores) -> None:
    """The second has its session while the first is about to introduce the user to the session store."""
    split = stores.split
    split.create_user(id="ada")
    stores["users"].before_begin = lambda: split.create_session(user_id="ada", session_token="second")
    split.create_session(user_id="ada", session_token="first")
    assert all(split.get_session_and_user(token) for token in ("first", "second"))


def test_the_first_sign_ins_of_a_user_at_once_all_succeed(tmp_path: Path) -> None:
    with SplitAdapter(users=SQLiteAdapter(tmp_path / "auth.db"), sessions=MemoryAdapter()) as split:
        split.create_user(id="ada")
        made = race(16, lambda i: split.create_session(user_id="ada"))
        assert {type(one) for one in made} == {Session}
        assert {one.id for one in split.list_sessions("ada")} == {one.id for one in made}


def test_signing_in_again_does_not_write_to_the_users_store(stores: Stores) -> None:
    signed_in(stores.split)
    stores.log.clear()
    stores.split.create_session(user_id="ada")
    stores.split.touch_session("token")
    assert "users" not in stores.log


# --- all stores -------------------------------------------------------------------------------


def test_check_names_the_store_that_has_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    with SplitAdapter(users=MemoryAdapter(), sessions=SQLiteAdapter(path)) as split:
        signed_in(split)
        assert split.check() == []
        run_python(SPOIL, path)
        [problem, *_] = split.check()
        assert problem.startswith(f"SQLiteAdapter({str(path)!r}): ")


SPOIL = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1]) as connection:
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute("DELETE FROM users")
connection.close()
"""


def test_purging_counts_what_went_from_all_stores(stores: Stores) -> None:
    for store in stores.values():  # as from the time before they were split
        store.create_session(user_id=store.create_user().id)
        store.create_verification_token(identifier=ADA)
    stores.clock.tick(days=31)  # type: ignore[union-attr]
    assert stores.split.purge_expired() == Purged(3, 3)
    assert stores.split.purge_expired() == Purged(0, 0)


def test_purging_with_a_limit_takes_so_many_of_each_kind_from_each_store(stores: Stores) -> None:
    for store in stores.values():
        for _ in range(2):
            store.create_verification_token(identifier=ADA)
    stores.clock.tick(days=31)  # type: ignore[union-attr]
    assert [stores.split.purge_expired(limit=1).verification_tokens for _ in range(3)] == [3, 3, 0]


def test_restoring_a_snapshot_restores_all_stores(stores: Stores) -> None:
    home = Household(stores.split)
    before, snapshot = home.state(), stores.split.snapshot()
    stores.split.delete_user("ada")
    stores.split.revoke_sessions("grace")
    stores.split.restore(snapshot)
    assert home.state() == before and stores.split.check() == []


def test_a_restore_that_fails_in_one_store_changes_none(stores: Stores) -> None:
    signed_in(stores.split)
    snapshot = stores.split.snapshot()
    with SQLiteAdapter(":memory:") as other:
        snapshot.state[-1] = other.snapshot()
    stores.split.delete_user("ada")
    with pytest.raises(TypeError):
        stores.split.restore(snapshot)
    assert parts(stores.split) == (False, False, False)


@pytest.mark.parametrize("roles", [("users", "sessions"), ("users", "verification"), ("users",)])
def test_a_snapshot_of_another_split_is_refused(stores: Stores, roles: tuple[str, ...]) -> None:
    split = SplitAdapter(**{role: stores[role] for role in roles})
    two = SplitAdapter(users=stores["users"], **dict.fromkeys(ROLES[1:], stores["sessions"]))
    for other in (stores.split, two):
        with pytest.raises(TypeError):
            split.restore(other.snapshot())


def test_closing_closes_every_store(stores: Stores) -> None:
    with stores.split:
        pass
    stores.split.close()
    assert sorted(stores.log) == sorted(f"{role} closed" for role in ROLES)


@pytest.mark.parametrize("role", ROLES)
def test_a_store_that_fails_to_close_does_not_keep_the_others_open(role: str) -> None:
    class Stuck(MemoryAdapter):
        def close(self) -> None:
            super().close()
            raise Broken("no")

    given = {other: (Stuck if other == role else MemoryAdapter)() for other in ROLES}
    with pytest.raises(Broken):
        SplitAdapter(**given).close()
    for store in given.values():
        with pytest.raises(ClosedError):
            store.get_user("ada")


@pytest.mark.parametrize("call", CALLS)
def test_use_after_close_is_a_closed_error(call: str) -> None:
    split = SplitAdapter(users=MemoryAdapter(), sessions=MemoryAdapter(), verification=MemoryAdapter())
    split.close()
    with pytest.raises(ClosedError):
        CALLS[call](split)


# --- several processes, several tasks ---------------------------------------------------------


@apart
def test_three_processes_share_three_files(tmp_path: Path) -> None:
    def opened() -> SplitAdapter:
        return SplitAdapter(**{role: SQLiteAdapter(tmp_path / f"{role}.db") for role in ROLES})

    def child(i: int) -> None:
        with opened() as split:
            for j in range(5):
                with split.transaction():
                    name = f"{i}-{j}"
                    split.create_user(id=name, email=f"{name}@example.com")
                    split.create_session(user_id=name, session_token=name)
                    split.create_verification_token(identifier=name)
                if j % 2:
                    split.delete_user(name)

    opened().close()
    children = [fork(lambda i=i: child(i)) for i in range(3)]  # type: ignore[misc]
    assert [exit_code(process) for process in children] == [0, 0, 0]
    with opened() as split:
        assert split.check() == []
        found = {f"{i}-{j}": split.get_session_and_user(f"{i}-{j}") for i in range(3) for j in range(5)}
        kept = {f"{i}-{j}" for i in range(3) for j in (0, 2, 4)}
        assert {name for name, one in found.items() if one} == kept


def test_a_user_deleted_in_one_process_is_signed_out_in_all(tmp_path: Path) -> None:
    """Each with the users' file and sessions in a memory of its own."""
    first, second = (
        SplitAdapter(users=SQLiteAdapter(tmp_path / "auth.db"), sessions=MemoryAdapter()) for _ in range(2)
    )
    with first, second:
        _, session = signed_in(first)
        other = second.create_session(user_id="ada").session_token
        assert second.delete_user("ada") is not None
        assert first.get_session_and_user(session.session_token) is None
        assert second.get_session_and_user(other) is None


def test_it_works_behind_an_async_adapter(stores: Stores) -> None:
    async def main() -> None:
        async with AsyncAdapter(stores.split) as store:

            async def sign_in(i: int) -> bool:
                async with store.transaction():
                    used = await store.use_verification_token(identifier=ADA, token="link")
                    if used is not None:
                        await store.create_user(id="ada", email=ADA)
                        await store.create_session(user_id="ada", session_token="token")
                    return used is not None

            await store.create_verification_token(identifier=ADA, token="link")
            assert sum(await asyncio.gather(*(sign_in(i) for i in range(20)))) == 1
            found = await store.get_session_and_user("token")
            assert found is not None and found.user.email == ADA

    asyncio.run(main())


def test_linking_and_counting_fall_to_the_users_store(stores: Stores) -> None:
    stores.split.create_user(id="ada")
    account = link(stores.split, "ada", team="red")
    assert stores["users"].list_accounts("ada") == [account]


# --- stores that keep their role and no more --------------------------------------------------


class Bare:
    """Somebody's own store: the methods of some protocols, and those named."""

    def __init__(self, whole: Any, *protocols: Any, also: tuple[str, ...] = ()) -> None:
        for name in {name for protocol in protocols for name in protocol.__abstractmethods__} | {*also}:
            setattr(self, name, getattr(whole, name))

    def __repr__(self) -> str:
        return "Bare()"


class InRedis:
    """Sessions and no users: it demands none, and what it calls a user is the id of one."""

    def __init__(self) -> None:
        self.kept: dict[str, Session] = {}

    def __repr__(self) -> str:
        return "InRedis()"

    def create_session(
        self, /, *, user_id: str, session_token: str | None = None, expires: datetime | None = None, **custom: Any
    ) -> Session:
        token, now = session_token or f"{len(self.kept)}", FrozenClock().now
        made = Session(session_token=token, user_id=user_id, expires=expires or now + DAY, id=token[::-1])
        return self.kept.setdefault(token, made)

    def get_session_and_user(self, session_token: str) -> SessionAndUser[Session, User] | None:
        session = self.kept.get(session_token)
        return None if session is None else SessionAndUser(session, User(id=session.user_id))

    def update_session(self, session_token: str, /, **changes: Any) -> Session | None:
        if session_token not in self.kept:
            return None
        self.kept[session_token] = replace(self.kept[session_token], **changes)
        return self.kept[session_token]

    def touch_session(self, session_token: str, *, max_age: Any = None) -> Session | None:
        return self.kept.get(session_token)

    def rotate_session(self, session_token: str) -> Session | None:
        old = self.kept.pop(session_token, None)
        return None if old is None else self.create_session(user_id=old.user_id, session_token="rotated")

    def delete_session(self, session_token: str) -> Session | None:
        return self.kept.pop(session_token, None)

    def list_sessions(self, user_id: str) -> list[Session]:
        return [session for session in self.kept.values() if session.user_id == user_id]

    def revoke_session(self, user_id: str, session_id: str) -> bool:
        ended = [s for s in self.list_sessions(user_id) if s.id == session_id]
        return any([self.kept.pop(session.session_token) for session in ended])

    def revoke_sessions(self, user_id: str, *, keep: str | None = None) -> int:
        ended = [s.session_token for s in self.list_sessions(user_id) if s.session_token != keep]
        return len([self.kept.pop(token) for token in ended])


@pytest.fixture
def mixed(tmp_path: Path) -> Iterator[SplitAdapter]:
    """Users in a file beside the sessions of somebody's own store."""
    with SplitAdapter(users=SQLiteAdapter(tmp_path / "auth.db"), sessions=InRedis()) as split:
        yield split


def test_sessions_may_be_in_a_store_that_has_nothing_else(mixed: SplitAdapter) -> None:
    ada, session = signed_in(mixed)
    assert mixed.get_session_and_user("token") == (session, ada)
    assert mixed.touch_session("token") == session and mixed.list_sessions("ada") == [session]
    later = session.expires + DAY
    updated = mixed.update_session("token", expires=later)
    assert updated is not None and updated.expires == later
    rotated = mixed.rotate_session("token")
    assert rotated is not None and mixed.get_session_and_user("token") is None
    assert mixed.revoke_session("ada", rotated.id) and mixed.revoke_sessions("ada") == 0
    assert mixed.purge_expired() == Purged(0, 0) and mixed.check() == []


def test_a_user_deleted_loses_the_sessions_in_a_store_that_has_nothing_else(mixed: SplitAdapter) -> None:
    signed_in(mixed)
    mixed.create_user(id="grace")
    kept = mixed.create_session(user_id="grace", session_token="hers")
    assert mixed.delete_user("ada") is not None
    assert mixed.get_session_and_user("token") is None and mixed.list_sessions("ada") == []
    found = mixed.get_session_and_user("hers")
    assert found is not None and found.session == kept


def test_a_session_in_a_store_that_demands_no_user_has_one(mixed: SplitAdapter) -> None:
    with pytest.raises(NotFoundError) as caught:
        mixed.create_session(user_id="nobody", session_token="token")
    assert (caught.value.model, caught.value.key) == ("User", "nobody")
    assert mixed.get_session_and_user("token") is None


@pytest.mark.parametrize("method", ON_A_SESSION)
def test_a_session_whose_user_vanished_is_absent_from_a_store_that_has_nothing_else(
    tmp_path: Path, method: str
) -> None:
    with SQLiteAdapter(tmp_path / "auth.db") as users:
        split = SplitAdapter(users=users, sessions=InRedis())
        _, session = signed_in(split)
        users.delete_user("ada")
        assert ON_A_SESSION[method](split, session) == NOTHING.get(method)


def test_a_transaction_spans_the_stores_that_have_them(mixed: SplitAdapter) -> None:
    mixed.create_user(id="ada")
    with pytest.raises(LookupError), mixed.transaction():
        mixed.create_user(id="grace")
        mixed.create_session(user_id="ada", session_token="token")
        raise LookupError
    assert mixed.get_user("grace") is None and mixed.get_session_and_user("token") is not None


def test_verification_tokens_may_be_in_a_store_that_has_nothing_else() -> None:
    with MemoryAdapter() as users, MemoryAdapter() as whole:
        split = SplitAdapter(users=users, verification=Bare(whole, VerificationStore))
        signed_in(split)
        assert users.delete_verification_tokens(ADA) == 0
        split.delete_user("ada")
        assert split.use_verification_token(identifier=ADA, token="link") is None
        split.close()  # the users; the other cannot be
        split.close()


@pytest.mark.parametrize("apart", [False, True])
def test_users_may_be_in_a_store_that_has_nothing_else(apart: bool) -> None:
    with MemoryAdapter() as whole, MemoryAdapter() as other:
        users = Bare(whole, UserStore) if apart else Bare(whole, UserStore, SessionStore, VerificationStore)
        split = SplitAdapter(users=users, **dict.fromkeys(ROLES[1:], other) if apart else {})
        ada, session = signed_in(split)
        assert split.get_session_and_user("token") == (session, ada)
        with pytest.raises(TypeError, match=r"Bare\(\) has no get_authenticator\(\)"):
            split.get_authenticator("key")
        assert split.delete_user("ada") == ada and split.list_sessions("ada") == []


@pytest.mark.parametrize(
    "role, given, missing",
    [
        ("users", {"users": InRedis()}, "UserStore; InRedis() has no create_user, delete_user, get_account,"),
        ("sessions", {"sessions": "redis://"}, "SessionStore; 'redis://' has no create_session, delete_session,"),
        ("sessions", {"users": "bare"}, "SessionStore; Bare() has no create_session,"),
        ("verification", {"verification": InRedis()}, "VerificationStore; InRedis() has no create_verification_to"),
    ],
)
def test_a_store_that_lacks_methods_of_its_role_is_refused_by_name(
    role: str, given: dict[str, Any], missing: str
) -> None:
    with MemoryAdapter() as whole, pytest.raises(TypeError) as caught:
        SplitAdapter(**{"users": whole} | {k: Bare(whole, UserStore) if v == "bare" else v for k, v in given.items()})
    assert str(caught.value).startswith(f"{role}= takes a {missing}")


@pytest.mark.parametrize("method", ["snapshot", "restore"])
def test_a_state_that_a_store_cannot_give_or_take_is_a_type_error_that_names_the_store(method: str) -> None:
    with MemoryAdapter() as users, MemoryAdapter() as whole:
        also = ("snapshot",) if method == "restore" else ()
        split = SplitAdapter(users=users, sessions=Bare(whole, SessionStore, also=also))
        users.create_user(id="ada")
        with pytest.raises(TypeError, match=rf"^Bare\(\) has no {method}\(\)$"):
            split.restore(split.snapshot())
        assert users.get_user("ada") is not None


@pytest.mark.parametrize("method", ["purge_expired", "check", "close", "__enter__", "transaction"])
def test_what_some_stores_cannot_do_the_others_do(stores: Stores, method: str) -> None:
    also = {"purge_expired", "check", "close", "__enter__", "__exit__", "transaction"} - {method}
    sessions = Bare(stores["sessions"], SessionStore, also=tuple(also))
    split = SplitAdapter(users=stores["users"], sessions=sessions, verification=stores["verification"])
    with split:
        stores["verification"].create_verification_token(identifier=ADA)
        stores.clock.tick(days=31)  # type: ignore[union-attr]
        with split.transaction():
            split.create_user(id="ada")
        assert split.purge_expired().verification_tokens == 1 and split.check() == []
    with pytest.raises(ClosedError):
        stores["users"].check()


def test_each_kind_is_counted_in_its_store() -> None:
    """The session store has users, too, whom nobody asked it about."""
    users, sessions, verification = MemoryAdapter(), MemoryAdapter(), MemoryAdapter()
    with SplitAdapter(users=users, sessions=sessions, verification=verification) as split:
        split.create_user(id="grace")
        split.create_session(user_id=split.create_user(id="ada").id)
        split.create_verification_token(identifier="x")
        assert split.count() == (2, 0, 1, 1, 0)
        assert [user.id for user in split.list_users()] == ["ada", "grace"]


def test_its_methods_have_the_names_signatures_and_docstrings_of_the_contract() -> None:
    for name in dir(Adapter):
        if not name.startswith("_"):
            ours, contract = getattr(SplitAdapter, name), getattr(Adapter, name)
            assert ours.__name__ == name and inspect.getdoc(ours)
            assert str(inspect.signature(ours)).partition(" ->")[0] == (
                str(inspect.signature(contract)).partition(" ->")[0]
            )
            if name != "transaction":
                assert inspect.getdoc(ours) == inspect.getdoc(contract)
    assert pydoc.render_doc(SplitAdapter.create_session, renderer=pydoc.plaintext).count("session_absolute_age")
