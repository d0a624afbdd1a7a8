"""A store's state as a whole: put back, refused, looked over, and left without a trace of what has ended.

All of it is seen from outside: through the contract, the files, and what runs on SQLite's connections.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import pickle
import sqlite3
import sys
import time
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import abandon, every_statement, furnish

from tinyauthstore import (
    AuthStoreError, MemoryAdapter, ShelveAdapter, SplitAdapter, SQLiteAdapter, StorageError, User, journal,
)
from tinyauthstore.aio import AsyncAdapter

MAKERS: dict[str, Callable[..., Any]] = {
    "memory": lambda folder, **options: MemoryAdapter(**options),
    "sqlite": lambda folder, **options: SQLiteAdapter(":memory:", **options),
    "file": lambda folder, **options: SQLiteAdapter(folder / "auth.db", durability="normal", **options),
    "shelf": lambda folder, **options: ShelveAdapter(folder / "auth", durability="normal", **options),
}
each_store = pytest.mark.parametrize("kind", MAKERS)


def split(**options: Any) -> SplitAdapter:
    return SplitAdapter(users=SQLiteAdapter(":memory:", **options), sessions=MemoryAdapter(**options))


def folder(path: Path, name: str) -> Path:
    (path / name).mkdir()
    return path / name


def crowd(path: Path, sessions: int) -> None:
    """Add so many sessions of one user's to a file. Nothing about them is plain ASCII, so none is passed over."""
    with SQLiteAdapter(path, durability="normal") as store:
        user = store.create_user(id="\N{LATIN SMALL LETTER A WITH ACUTE}da")
        store.create_session(user_id=user.id)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "WITH RECURSIVE n(i) AS (VALUES (2) UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            " INSERT INTO sessions (token_digest, user_id, expires, created_at)"
            " SELECT randomblob(32), user_id, expires, created_at FROM sessions, n",
            (sessions,),
        )


# --- snapshot() and restore() -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Nicknamed(User):
    nickname: str = "none"


@dataclass(frozen=True, slots=True)
class Member(User):
    plan: str = "free"
    nickname: str = "none"


def test_restore_puts_each_column_back_by_its_name(tmp_path: Path) -> None:
    """Two files of one model, whose columns came into being in different orders."""
    SQLiteAdapter(tmp_path / "later.db", user=Nicknamed).close()
    with SQLiteAdapter(tmp_path / "later.db", user=Member) as later:
        with SQLiteAdapter(tmp_path / "at_once.db", user=Member) as at_once:
            made = at_once.create_user(id="ada", plan="gold", nickname="Countess")
            other = later.create_user(id="grace", plan="silver", nickname="Amazing")
            ours, theirs = at_once.snapshot(), later.snapshot()
            later.restore(ours)
            at_once.restore(theirs)
            assert (later.get_user("ada"), at_once.get_user("grace")) == (made, other)
            assert later.check() == at_once.check() == []


@each_store
def test_a_snapshot_that_went_through_pickle_restores(kind: str, tmp_path: Path) -> None:
    with MAKERS[kind](folder(tmp_path, "one")) as store, MAKERS[kind](folder(tmp_path, "other")) as other:
        furnish(store)
        kept = pickle.dumps(store.snapshot())
        store.delete_user("ada")
        for one in (store, other):
            one.restore(pickle.loads(kept))
            assert one.get_session_and_user("session").user.email == "ada@example.com"
            assert one.get_account(provider="github", provider_account_id="1").extra == {"claims": {"nested": [1, 2]}}
            assert one.use_verification_token(identifier="ada@example.com", token="token") is not None
            assert one.check() == []


@each_store
@pytest.mark.parametrize(
    "theirs", [{"secret": "another"}, {"secret": None}, {"secret": "pepper", "user": Member}], ids=repr
)
def test_restore_refuses_what_means_something_else_here(kind: str, theirs: dict[str, Any], tmp_path: Path) -> None:
    """Under another secret every restored token would be unknown, and nothing would say why."""
    with MAKERS[kind](folder(tmp_path, "one"), secret="pepper") as store:
        furnish(store)
        kept = store.snapshot()
    with MAKERS[kind](folder(tmp_path, "other"), **theirs) as other:
        other.create_user(id="grace")
        with pytest.raises(TypeError, match="same kind, with the same models and the same secret"):
            other.restore(kept)
        assert (other.get_user("grace") is None, other.get_user("ada")) == (False, None)


KINDS = [pair for pair in itertools.permutations(MAKERS, 2) if {*pair} != {"sqlite", "file"}]


@pytest.mark.parametrize("pair", KINDS, ids="->".join)
def test_restore_refuses_another_kind_of_stores_snapshot(pair: tuple[str, str], tmp_path: Path) -> None:
    with MAKERS[pair[0]](folder(tmp_path, "one")) as one, MAKERS[pair[1]](folder(tmp_path, "other")) as other:
        with pytest.raises(TypeError, match="same kind"):
            other.restore(one.snapshot())


def test_a_split_store_refuses_a_snapshot_under_another_secret_and_stays_as_it_was() -> None:
    with split(secret="pepper") as store, split(secret="another") as other:
        furnish(store)
        furnish(other)
        other.create_user(id="grace")
        with pytest.raises(TypeError, match="the same secret"):
            other.restore(store.snapshot())
        assert other.get_user("grace") is not None
        assert other.get_session_and_user("session") is not None


# --- a store is no data -----------------------------------------------------------------------

COPYING: dict[str, Callable[[Any], object]] = {
    "copy.copy": copy.copy, "copy.deepcopy": copy.deepcopy, "pickle.dumps": pickle.dumps,
}  # fmt: skip


def refuses(store: Any, copying: str) -> None:
    with pytest.raises(TypeError, match=r"cannot be copied or pickled.*snapshot\(\)") as caught:
        COPYING[copying](store)
    assert repr(store) in str(caught.value)


@each_store
@pytest.mark.parametrize("copying", COPYING)
def test_a_store_can_be_neither_copied_nor_pickled(kind: str, copying: str, tmp_path: Path) -> None:
    with MAKERS[kind](tmp_path) as store:
        refuses(store, copying)
        assert store.create_user(id="ada") == store.get_user("ada")


@pytest.mark.parametrize("copying", COPYING)
def test_nor_can_a_split_or_an_awaited_one(copying: str) -> None:
    async def awaited() -> None:
        async with AsyncAdapter(MemoryAdapter()) as store:
            refuses(store, copying)

    with split() as store:
        refuses(store, copying)
    asyncio.run(awaited())


# --- check() ----------------------------------------------------------------------------------


def test_check_lets_others_write_at_any_moment_of_it(tmp_path: Path) -> None:
    """Whenever a statement of it begins, another connection can write, and waits for nobody."""
    path = tmp_path / "auth.db"
    crowd(path, 20_000)
    outcomes: list[str] = []

    def write(statement: str) -> None:
        if checking and not writing:
            writing.append(True)
            try:
                writer.create_user()
                outcomes.append("written")
            except AuthStoreError as error:
                outcomes.append(f"{statement}: {error}")
            finally:
                writing.clear()

    writing: list[bool] = []
    checking = False
    with SQLiteAdapter(path, timeout=0.1) as writer, every_statement(write), SQLiteAdapter(path) as store:
        checking = True
        assert store.check() == []
        checking = False
    assert len(outcomes) > 5
    assert {*outcomes} == {"written"}


def statements_of(call: Callable[[Any], object], path: Path) -> list[str]:
    """What runs on SQLite while ``call`` is given a store on that file."""
    ran: list[str] = []
    with every_statement(ran.append), SQLiteAdapter(path) as store:
        call(store)  # what has run once is prepared
        ran.clear()
        call(store)
        return [*ran]


def test_check_runs_as_many_statements_for_many_records_as_for_few(tmp_path: Path) -> None:
    counts = []
    for size in (2, 2000):
        crowd(tmp_path / f"{size}.db", size)
        counts.append(len(statements_of(lambda store: store.check(), tmp_path / f"{size}.db")))
    assert counts[0] == counts[1]


def test_check_takes_as_much_memory_for_many_records_as_for_few(tmp_path: Path) -> None:
    peaks = []
    for size in (2_000, 20_000):
        crowd(tmp_path / f"{size}.db", size)
        with SQLiteAdapter(tmp_path / f"{size}.db") as store:
            assert store.check() == []
            tracemalloc.start()
            store.check()
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


NO_TEXT: list[Any] = [5, None, True, 1.5, [], {"a": 1}, ["ada"]]


@pytest.mark.parametrize("part", NO_TEXT, ids=repr)
@pytest.mark.parametrize("plural", ["users", "accounts", "sessions", "verification_tokens", "authenticators"])
def test_a_shelfs_key_that_is_no_text_is_a_finding(plural: str, part: Any, tmp_path: Path) -> None:
    """At the opening, or of check(): never an error that is none of ours."""
    store = ShelveAdapter(tmp_path / "auth")
    furnish(store)
    abandon(store)
    path = tmp_path / "auth" / "journal-000000"
    written = [journal.json.loads(one.split(b" ", 2)[2]) for one in path.read_bytes().splitlines()]
    [key, fields] = next(row[1:] for change in written[1:] for row in change if row[0] == plural)
    with path.open("ab") as file:
        file.write(journal.line([[plural, [part, *key[1:]], fields]]))
    try:
        store = ShelveAdapter(tmp_path / "auth")
    except StorageError as error:
        assert str(tmp_path / "auth") in str(error)
        return
    try:
        assert [one for one in store.check() if plural[:-1] in one] != []
    finally:
        abandon(store)


def test_a_verification_token_that_lies_under_another_address_is_filed_under_its_own(tmp_path: Path) -> None:
    """As the normal form of an earlier release may have been: else nobody could use it, or delete it."""
    with ShelveAdapter(tmp_path / "auth") as store:
        furnish(store)
        path = tmp_path / "auth" / "journal-000000"
        abandon(store)
    text = path.read_bytes().splitlines(keepends=True)
    [[plural, key, fields]] = journal.json.loads(text[-1].split(b" ", 2)[2])
    moved = journal.line([[plural, ["eve@example.com", key[1]], fields]])
    path.write_bytes(b"".join(text[:-1]) + moved)
    with ShelveAdapter(tmp_path / "auth") as store:
        assert store.check() == []
        assert store.delete_verification_tokens("eve@example.com") == 0
        assert store.delete_verification_tokens("ada@example.com") > 0


@pytest.mark.parametrize(
    "column, value, words",
    [
        ("created_at", "'yesterday'", "table sessions: a value in column created_at is no INT"),
        ("expires", "NULL", "table sessions: a value in column expires is missing"),
        ("user_id", "x'00'", "table sessions: a value in column user_id is no TEXT"),
    ],
)
def test_check_says_in_words_that_a_value_is_of_a_wrong_type(
    column: str, value: str, words: str, tmp_path: Path
) -> None:
    """What a STRICT table refuses, put there while the file said that the table was none."""
    path = tmp_path / "auth.db"
    with SQLiteAdapter(path) as store:
        furnish(store)

    def run(*statements: str) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            for statement in ("PRAGMA writable_schema = ON", *statements):
                connection.execute(statement)

    with closing(sqlite3.connect(path)) as connection:
        [(sql,)] = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'sessions'").fetchall()
    loose = sql.replace(") STRICT,", ")").replace(" NOT NULL", "")
    for wanted, then in ((loose, f"UPDATE sessions SET {column} = {value}"), (sql, "SELECT 1")):
        run("UPDATE sqlite_schema SET sql = '{}' WHERE name = 'sessions'".format(wanted.replace("'", "''")))
        run(then)
    with SQLiteAdapter(path) as store:
        assert [one for one in store.check() if words in one] != [], store.check()


# --- what has ended leaves no trace -----------------------------------------------------------

ENDINGS: dict[str, Callable[[Any, str], object]] = {
    "signing out": lambda store, token: store.delete_session(token),
    "rotation": lambda store, token: store.rotate_session(token),
    "revocation": lambda store, token: store.revoke_sessions("ada"),
    "the end of the account": lambda store, token: store.delete_user("ada"),
}


@each_store
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("cache_size", [10_000, 1, 0])
def test_no_store_keeps_the_token_of_a_session_that_has_ended(
    kind: str, ending: str, cache_size: int, tmp_path: Path
) -> None:
    """Nor takes it up again when a browser goes on to send the old cookie."""
    token = "-".join(["a token", kind, ending, str(cache_size)])
    with MAKERS[kind](tmp_path, cache_size=cache_size) as store:
        store.create_user(id="ada")
        before = sys.getrefcount(token)
        store.create_session(user_id="ada", session_token=token)
        for _ in range(3):
            assert store.get_session_and_user(token) is not None
        store.touch_session(token)
        ENDINGS[ending](store, token)
        assert sys.getrefcount(token) == before
        for _ in range(3):
            assert store.get_session_and_user(token) is None
            assert store.touch_session(token) is None
        assert sys.getrefcount(token) == before


# --- what a change costs ----------------------------------------------------------------------


def with_sessions(store: Any, count: int) -> None:
    """Ada, with so many sessions, each looked up often enough to be kept in memory."""
    with store.transaction():
        store.create_user(id="ada", name="Ada")
        for i in range(count):
            store.create_session(user_id="ada", session_token=f"token {i}")
    for i in range(count):
        for _ in range(3):
            assert store.get_session_and_user(f"token {i}") is not None


def test_changing_a_user_runs_no_more_statements_for_one_with_many_sessions(tmp_path: Path) -> None:
    counts = []
    for size in (1, 2000):
        ran: list[str] = []
        with every_statement(ran.append), SQLiteAdapter(tmp_path / f"{size}.db", durability="normal") as store:
            with_sessions(store, size)
            ran.clear()
            store.update_user("ada", name="Lovelace")
            counts.append(len(ran))
            assert store.get_session_and_user("token 0").user.name == "Lovelace"
    assert counts[1] <= counts[0]


def test_changing_a_user_in_memory_takes_as_long_for_one_with_many_sessions() -> None:
    def change(store: Any) -> float:
        start = time.perf_counter()
        for i in range(50):
            store.update_user("ada", name=f"Ada {i}")
        return time.perf_counter() - start

    with MemoryAdapter() as few, MemoryAdapter() as many:
        with_sessions(few, 1)
        with_sessions(many, 2000)
        times = [(change(few), change(many)) for _ in range(7)]  # in turns: machines vary
        assert min(many for _, many in times) < 3 * min(few for few, _ in times)
