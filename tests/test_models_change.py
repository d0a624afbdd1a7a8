"""Models that change over files that stay: what the file says is what the models mean, or the store says so.

Each row of the change is tried over a SQLite file and over a shelf, which decide alike.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import itertools
import logging
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NewType

import pytest

from tinyauthstore import InvalidFieldError, MemoryAdapter, ShelveAdapter, SQLiteAdapter, StorageError, User
from tinyauthstore.journal import line
from tinyauthstore.models import email_key
from tinyauthstore.testing import FAR, START

Stores: dict[str, Any] = {"sqlite": SQLiteAdapter, "shelf": ShelveAdapter}
NOTHING = object()


def model(**given: Any) -> type[Any]:
    """A model of users with the fields ``given``, as pairs of a type and a default (or a ``field()``)."""
    listed = [(name, *pair) for name, pair in given.items()]
    return dataclasses.make_dataclass("Member", listed, bases=(User,), frozen=True, slots=True)


def files(path: Path) -> dict[str, bytes]:
    """Everything that a store has on the disk, but for its lock."""
    places = [path, *path.rglob("*")] if path.is_dir() else [path]
    return {str(place): place.read_bytes() for place in places if place.is_file() and place.name != "lock"}


def query(path: Path, *statements: str) -> list[Any]:
    """The last statement's rows, as any SQLite tool reads them."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        return [connection.execute(sql).fetchall() for sql in statements][-1]


@pytest.fixture(params=Stores)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "auth"


@pytest.fixture
def opened(kind: str, path: Path) -> Any:
    """Opens the store with a model."""
    return lambda user=None, **options: Stores[kind](path, user=user, **options)


# --- another type -----------------------------------------------------------------------------

VALUES: dict[Any, Any] = {
    str: "5", int: 5, float: 0.5, bool: True, bytes: b"5", datetime: START, dict: {"a": 1}, list: ["a"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new"), [*itertools.permutations(VALUES, 2)], ids=lambda one: getattr(one, "__name__", "")
)
@pytest.mark.parametrize("filled", [True, False], ids=["filled", "empty"])
def test_a_field_of_another_type_is_refused(
    opened: Any, path: Path, old: Any, new: Any, filled: bool
) -> None:
    """By name, with the file and both types, and nothing is touched; the old model goes on."""
    with opened(model(f=(old | None, None))) as store:
        ada = store.create_user(id="ada", f=VALUES[old] if filled else None)
    before = files(path)
    for options in [{}] if path.is_dir() else [{}, {"synchronize": False}]:
        with pytest.raises(StorageError) as caught:
            opened(model(f=(new | None, None), more=(str, "")), **options)
        said = str(caught.value)
        assert caught.value.path == str(path)
        assert all(part in said for part in (str(path), "users.f", "Member.f", old.__name__, new.__name__))
        assert caught.value.__cause__ is None or "5" not in str(caught.value.__cause__)
    assert files(path) == before
    with opened(model(f=(old | None, None))) as store:
        assert dataclasses.asdict(store.get_user("ada")) == dataclasses.asdict(ada)


def test_the_type_of_a_field_taken_away_is_remembered(opened: Any) -> None:
    with opened(model(f=(int | None, None))) as store:
        store.create_user(id="ada", f=5)
    with opened() as store:
        store.update_user("ada", name="Ada")
    with pytest.raises(StorageError, match=r"users\.f holds int.*Member\.f is datetime"):
        opened(model(f=(datetime | None, None)))
    with opened(model(f=(int | None, None))) as store:
        assert store.get_user("ada").f == 5


# --- None, or no longer -----------------------------------------------------------------------

REQUIRED, OPTIONAL = model(plan=(str, "free")), model(plan=(str | None, None))


def test_a_required_field_becomes_optional(opened: Any) -> None:
    with opened(REQUIRED) as store:
        store.create_user(id="ada", plan="gold")
        store.create_session(user_id="ada", session_token="token")
    for _ in range(2):
        with opened(OPTIONAL) as store:
            assert store.get_user("ada").plan == "gold"
            grace = store.create_user()
            assert store.get_user(grace.id).plan is None
            assert store.get_session_and_user("token") is not None  # no cascade
            assert store.check() == []


def test_an_optional_field_becomes_required(opened: Any) -> None:
    """Who had none gets the default."""
    with opened(OPTIONAL) as store:
        store.create_user(id="ada")
        store.create_user(id="grace", plan="gold")
        store.create_session(user_id="ada", session_token="token")
    for default in ("free", "another"):
        with opened(model(plan=(str, default))) as store:
            assert [store.get_user(name).plan for name in ("ada", "grace")] == ["free", "gold"]
            assert store.create_user().plan == default
            assert store.get_session_and_user("token") is not None
            assert store.check() == []
    with opened() as store:
        late = store.create_user()
    with opened(model(plan=(str, "another"))) as store:
        assert store.get_user(late.id).plan == "another"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (REQUIRED, OPTIONAL, "room for None in column users.plan"),
        (OPTIONAL, REQUIRED, "NOT NULL in column users.plan"),
        (REQUIRED, model(plan=(str, "gold")), "the default 'gold' of column users.plan"),
        (model(), model(key=(str, dataclasses.field(default_factory=lambda: "x"))), "column users.key"),
    ],
    ids=["optional", "required", "default", "new"],
)
def test_without_synchronize_it_says_what_is_missing(path: Path, old: Any, new: Any, said: str) -> None:
    SQLiteAdapter(path, user=old).close()
    before = files(path)
    with pytest.raises(StorageError, match=f"lacks {said}.*synchronize=True"):
        SQLiteAdapter(path, user=new, synchronize=False)
    assert files(path) == before
    SQLiteAdapter(path, user=new).close()
    SQLiteAdapter(path, user=new, synchronize=False).close()


def test_what_others_made_of_the_table_stays(path: Path) -> None:
    """Columns that no model names, with their constraints; indexes, triggers, foreign keys."""
    SQLiteAdapter(path, user=REQUIRED).close()
    query(
        path,
        "ALTER TABLE users ADD COLUMN theirs TEXT NOT NULL DEFAULT 'x' CHECK (theirs != '') COLLATE NOCASE",
        "CREATE INDEX their_index ON users (plan, theirs)",
        "CREATE TABLE log (id TEXT)",
        "CREATE TRIGGER their_trigger AFTER INSERT ON users BEGIN INSERT INTO log VALUES (new.id); END",
    )
    with SQLiteAdapter(path, user=OPTIONAL) as store:
        store.create_user(id="ada")
        store.link_account(user_id="ada", type="o", provider="p", provider_account_id="1")
        store.delete_user("ada")
        assert store.list_accounts("ada") == []
        assert store.check() == []
    assert query(path, "SELECT id FROM log") == [("ada",)]
    names = {name for (name,) in query(path, "SELECT name FROM sqlite_schema")}
    assert {"their_index", "their_trigger", "users_email_key"} <= names
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        query(path, "INSERT INTO users (id, theirs) VALUES ('x', '')")


# --- a value of its own -----------------------------------------------------------------------


def counted() -> Any:
    numbers = itertools.count()
    return dataclasses.field(default_factory=lambda: f"key {next(numbers)} {os.urandom(4).hex()}")


@pytest.mark.parametrize("as_optional", [False, True], ids=["required", "optional"])
def test_each_row_gets_a_value_of_its_own_once(opened: Any, as_optional: bool) -> None:
    new = model(key=(str | None if as_optional else str, counted()))
    with opened() as store:
        names = [store.create_user().id for _ in range(5)]
    with opened(new) as store:
        keys = [store.get_user(name).key for name in names]
        assert store.check() == []
    assert len({*keys}) == 5 and None not in keys
    for _ in range(2):
        with opened(new) as store:
            assert [store.get_user(name).key for name in names] == keys


def test_a_row_from_a_store_without_the_field_gets_its_own_at_the_next_opening(opened: Any) -> None:
    new = model(key=(str, counted()))
    opened(new).close()
    with opened() as store:
        names = [store.create_user().id for _ in range(3)]
    with opened(new) as store:
        keys = [store.get_user(name).key for name in names]
        assert store.check() == []
    assert len({*keys}) == 3
    with opened(new) as store:
        assert [store.get_user(name).key for name in names] == keys


def test_an_optional_field_becomes_required_with_values_of_their_own(opened: Any) -> None:
    with opened(model(key=(str | None, None))) as store:
        names = [store.create_user().id for _ in range(3)]
        store.create_user(id="ada", key="hers")
    with opened(model(key=(str, counted()))) as store:
        keys = [store.get_user(name).key for name in [*names, "ada"]]
        assert len({*keys}) == 4 and keys[-1] == "hers" and None not in keys


# --- names that differ in case ----------------------------------------------------------------


def test_a_field_renamed_in_case_only_is_found(opened: Any) -> None:
    with opened(model(taxID=(str | None, None))) as store:
        store.create_user(id="ada", taxID="1")
    for name in ("taxId", "taxid", "taxID"):
        with opened(model(**{name: (str | None, None)})) as store:
            assert getattr(store.get_user("ada"), name) == "1"
            store.update_user("ada", **{name: "2"})
            assert getattr(store.update_user("ada", **{name: "1"}), name) == "1"
            assert store.check() == []
        with pytest.raises(StorageError, match="holds str"):
            opened(model(**{name.upper(): (int | None, None)}))
    with opened(model(TAXID=(str, "none"))) as store:
        assert store.get_user("ada").TAXID == "1"


# --- types of types ---------------------------------------------------------------------------


class Role(enum.Enum):
    """Plain, so that no member is equal to its value."""

    ADMIN = "admin"
    GUEST = "guest"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Day(enum.Enum):
    FIRST = datetime(2026, 1, 1, tzinfo=UTC)
    LAST = datetime(2026, 12, 31, tzinfo=UTC)


class Code(enum.Enum):
    A = b"\0a"
    B = b"'"


class Naive(enum.Enum):
    DAY = datetime(2026, 1, 1)


Name = NewType("Name", str)
Nested = NewType("Nested", Name)

TYPES: list[tuple[Any, Any, Any, Any, Any]] = [
    (Literal["free", "gold"], "free", "gold", "lead", str),
    (Literal[1, 2], 1, 2, 3, int),
    (Literal["it's", "a\0b"], "it's", "a\0b", "a", str),
    (Role, Role.GUEST, Role.ADMIN, "boss", str),
    (Level, Level.LOW, Level.HIGH, 3, int),
    (Day, Day.FIRST, Day.LAST, START, datetime),
    (Code, Code.A, Code.B, b"c", bytes),
    (Literal[Role.GUEST, Role.ADMIN], Role.GUEST, Role.ADMIN, "boss", str),
    (Name, "a", "b", 1, str),
    (Nested, "a", "b", 1, str),
    (Annotated[int, "of years"], 1, 2, "x", int),
    (Annotated[Literal["x", "y"], "axes"], "x", "y", "z", str),
]


@pytest.mark.parametrize(("hint", "default", "value", "wrong", "plain"), TYPES, ids=lambda one: str(one)[:40])
@pytest.mark.parametrize("store_kind", ["memory", "memory sqlite", *Stores])
def test_a_field_of_a_narrower_type(
    path: Path, store_kind: str, hint: Any, default: Any, value: Any, wrong: Any, plain: Any
) -> None:
    """Stored by value, checked, typed back; alone or with None."""
    both = model(f=(hint, default), maybe=(hint | None, None))
    kinds = {"memory": lambda _, user: MemoryAdapter(user=user)}
    kinds["memory sqlite"] = lambda _, user: SQLiteAdapter(":memory:", user=user)
    make = (kinds | Stores)[store_kind]
    with make(path, user=both) as store:
        store.create_user(id="ada")
        store.create_user(id="grace", f=value, maybe=getattr(value, "value", value))
        for field in ("f", "maybe"):
            with pytest.raises(InvalidFieldError):
                store.update_user("ada", **{field: wrong})
        found = [(store.get_user(name).f, store.get_user(name).maybe) for name in ("ada", "grace")]
        assert found == [(default, None), (value, value)]
        assert [type(one) for one in found[1]] == [type(value)] * 2
        assert store.check() == []
        assert both.from_authjs(store.get_user("grace").to_authjs()) == store.get_user("grace")
    if store_kind in Stores:
        with make(path, user=both) as store:
            again = [(store.get_user(name).f, store.get_user(name).maybe) for name in ("ada", "grace")]
            assert again == found and type(again[1][1]) is type(value)
        with make(path, user=model(f=(plain, getattr(default, "value", default)))) as store:
            assert store.get_user("grace").f == getattr(value, "value", value)


def test_values_that_a_narrower_field_has_not_are_refused(opened: Any, path: Path) -> None:
    with opened(model(plan=(str, "free"))) as store:
        store.create_user(id="ada", plan="gold")
    before = files(path)
    with pytest.raises(StorageError, match=r"one of 'free', 'lead'"):
        opened(model(plan=(Literal["free", "lead"], "free")))
    assert files(path) == before
    with opened(model(plan=(Literal["free", "gold"], "free"))) as store:
        assert store.get_user("ada").plan == "gold"
    with pytest.raises(StorageError, match=r"one of 'free'"):
        opened(model(plan=(Literal["free"], "free")))


@dataclasses.dataclass(frozen=True, slots=True)
class Settled(User):
    """All fields of a frozen dataclass are final; a model may say so."""

    plan: Final[str] = "free"
    role: Annotated[Final[Role | None], "if any"] = None


def test_a_final_field_is_one_of_the_type_inside(opened: Any) -> None:
    with opened(Settled) as store:
        store.create_user(id="ada")
        store.create_user(id="grace", plan="gold", role="admin")
        assert store.get_user("ada") == Settled(id="ada")
        assert store.get_user("grace").role is Role.ADMIN
        with pytest.raises(InvalidFieldError, match=r"Settled\.plan: expected a str"):
            store.create_user(plan=None)
    with opened(model(plan=(str, "free"))) as store:
        assert store.get_user("grace").plan == "gold"


def test_a_final_field_of_no_type_is_refused_by_name() -> None:
    with pytest.raises(InvalidFieldError, match=r"Member\.f cannot be stored: .*Final\[...\]"):
        MemoryAdapter(user=model(f=(Final, "free")))


MIXED = [Literal["a", 1], int | Literal["a"], Role | str, enum.Enum("Empty", {}), Literal["\ud800"], Naive]


@pytest.mark.parametrize("hint", MIXED)
def test_a_mixture_of_types_is_refused_by_name(hint: Any) -> None:
    with pytest.raises(InvalidFieldError, match=r"Member\.f cannot be stored"):
        MemoryAdapter(user=model(f=(hint | None, None)))


def test_another_librarys_metadata_is_none_of_ours() -> None:
    field = dataclasses.field(default="free", metadata={"rule": "required|max:10"})
    with MemoryAdapter(user=model(plan=(str, field))) as store:
        assert store.create_user().plan == "free"


# --- codes ------------------------------------------------------------------------------------


def test_what_is_left_of_a_codes_attempts_is_in_the_file(kind: str, path: Path) -> None:
    """Restarting the application gives nobody another five guesses."""
    with Stores[kind](path) as store:
        code = store.create_verification_token(identifier="x", token="1", attempts=3, expires=FAR)
    for _ in range(2):
        with Stores[kind](path) as store:
            assert store.use_verification_token(identifier="x", token="wrong") is None
    with Stores[kind](path) as store:
        used = store.use_verification_token(identifier="x", token="1")
        assert used == dataclasses.replace(code, attempts=1)


# --- files from before tokens had attempts ------------------------------------------------------


@pytest.fixture
def without_attempts(path: Path) -> Path:
    """A file of version 2 as it was then, with a link under way."""
    with SQLiteAdapter(path) as store:
        store.create_verification_token(identifier="ada@example.com", token="link", expires=FAR)
    query(path, "ALTER TABLE verification_tokens DROP COLUMN attempts")
    return path


def test_a_mere_look_names_the_column_of_attempts_and_leaves_the_file_alone(without_attempts: Path) -> None:
    columns = "SELECT name FROM pragma_table_info('verification_tokens')"
    before = query(without_attempts, columns)
    with pytest.raises(StorageError, match=r"lacks column verification_tokens\.attempts .*synchronize=True"):
        SQLiteAdapter(without_attempts, synchronize=False)
    assert query(without_attempts, columns) == before


def test_a_file_without_attempts_gets_them_and_its_links_are_no_codes(without_attempts: Path) -> None:
    with SQLiteAdapter(without_attempts) as store:
        assert store.check() == []
        for _ in range(3):
            assert store.use_verification_token(identifier="ada@example.com", token="wrong") is None
        link = store.use_verification_token(identifier="ada@example.com", token="link")
        assert link is not None and link.attempts is None
        code = store.create_verification_token(identifier="ada@example.com", token="1", attempts=2)
        assert store.use_verification_token(identifier="ada@example.com", token="wrong") is None
    with SQLiteAdapter(without_attempts, synchronize=False) as store:
        used = store.use_verification_token(identifier="ada@example.com", token="1")
        assert used == dataclasses.replace(code, attempts=1)


def test_what_a_store_without_attempts_writes_beside_one_with_them_is_a_link(path: Path) -> None:
    """It knows no codes, so it made none."""
    with SQLiteAdapter(path) as store:
        store.create_verification_token(identifier="ada@example.com", token="link", expires=FAR)
        query(
            path,
            "INSERT INTO verification_tokens (identifier_key, token_digest, identifier, expires)"
            " SELECT 'x', token_digest, 'x', expires FROM verification_tokens",
        )
        link = store.use_verification_token(identifier="x", token="link")
        assert link is not None and link.attempts is None


# --- files of version 1 -----------------------------------------------------------------------


def as_version_1(path: Path) -> None:
    query(path, "DROP TABLE custom_fields", "PRAGMA user_version = 1")


def shelf_of_version_1(path: Path, *changes: Any) -> None:
    """A shelf that was closed by no one: all that it holds stands in the journal."""
    path.mkdir(mode=0o700)
    header = line({"tinyauthstore": "journal", "version": 1, "generation": 0})
    (path / "journal-000000").write_bytes(header + b"".join(line([change]) for change in changes))
    (path / "journal-000000").chmod(0o600)


def versions(path: Path) -> set[bytes]:
    """What the files of a shelf say of their format."""
    found = [re.findall(rb'"version":([0-9]+)', content) for content in files(path).values()]
    return {version for one in found for version in one}


def test_a_file_of_version_1_takes_the_types_of_the_models_that_convert_it(path: Path) -> None:
    with SQLiteAdapter(path, user=model(f=(int | None, None))) as store:
        store.create_user(id="ada", f=5)
    as_version_1(path)
    before = files(path)
    with pytest.raises(StorageError, match=r"version 2.*version 1.*synchronize=True"):
        SQLiteAdapter(path, synchronize=False)
    with pytest.raises(StorageError, match=r"users\.f holds other values than Member\.f has"):
        SQLiteAdapter(path, user=model(f=(bool | None, None)))
    assert files(path) == before
    SQLiteAdapter(path, user=model(f=(int | None, None))).close()
    with pytest.raises(StorageError, match="holds int"):
        SQLiteAdapter(path, user=model(f=(datetime | None, None)))


ADDRESS = "Grüße@Exämple.de"


def test_addresses_of_version_1_are_found_under_their_new_normal_form(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with SQLiteAdapter(path) as store:
        store.create_user(id="ada", email="Ada@Example.com")
        store.create_user(id="grüße", email=ADDRESS)
        store.create_user(id="same", email="ñ@example.com")
        store.create_verification_token(identifier=ADDRESS, token="token")
    as_version_1(path)
    query(path, "UPDATE users SET email_key = 'old' WHERE id = 'grüße'")
    query(path, "UPDATE verification_tokens SET identifier_key = 'old'")
    with caplog.at_level(logging.WARNING, "tinyauthstore"), SQLiteAdapter(path) as store:
        assert store.get_user_by_email(ADDRESS.lower()).id == "grüße"
        assert store.use_verification_token(identifier=ADDRESS, token="token") is not None
        assert store.check() == []
    [record] = caplog.records
    assert "'grüße'" in record.getMessage() and "'ada'" not in record.getMessage()
    assert "'same'" not in record.getMessage() and ADDRESS not in record.getMessage()
    caplog.clear()
    SQLiteAdapter(path).close()
    assert caplog.records == []


def test_a_token_in_a_shelf_goes_by_todays_normal_form_and_works_once(path: Path) -> None:
    """Also when the process is killed right after."""
    with ShelveAdapter(path) as store:
        store.create_verification_token(identifier=ADDRESS, token="token")
        digest = store._digest("token").hex()
    [journal] = path.glob("journal-*")
    fields = {"identifier": ADDRESS, "expires": "9999-01-01T00:00:00+00:00"}
    with journal.open("ab") as file:
        key = str(email_key(ADDRESS))
        file.write(line([["verification_tokens", [key, digest], None]]))
        file.write(line([["verification_tokens", ["old", digest], fields]]))
    with ShelveAdapter(path) as store:
        assert store.check() == []
        assert store.use_verification_token(identifier=ADDRESS, token="token") is not None
        store._release = store._files.close  # killed: no checkpoint at the end
    with ShelveAdapter(path) as store:
        assert store.use_verification_token(identifier=ADDRESS, token="token") is None
        assert store.check() == []


def test_two_users_of_version_1_who_would_have_one_address_are_named(path: Path) -> None:
    with SQLiteAdapter(path) as store:
        store.create_user(id="first", email=ADDRESS)
        store.create_user(id="second", email="other@example.com")
    as_version_1(path)
    query(path, "UPDATE users SET email_key = 'old' WHERE id = 'first'")
    query(path, f"UPDATE users SET email_key = '{email_key(ADDRESS)}' WHERE id = 'second'")
    rows = query(path, "SELECT * FROM users")
    with pytest.raises(StorageError, match="'first'.*'second'|'second'.*'first'"):
        SQLiteAdapter(path)
    assert query(path, "SELECT * FROM users") == rows
    assert query(path, "PRAGMA user_version") == [(1,)]


WIDE = "\uff21da@example.com"
"""Ada's address to version 1, another one's to version 2."""


def row(user_id: str, email: str | None) -> Any:
    return ["users", [user_id], {"email": email, "name": None, "image": None, "email_verified": None}]


def test_addresses_in_a_shelf_of_version_1_are_told_of_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [row("ada", "Ada@Example.com"), row("wide", WIDE), row("same", "ñ@example.com"), row("none", None)]
    shelf_of_version_1(path, *rows)
    with caplog.at_level(logging.WARNING, "tinyauthstore"), ShelveAdapter(path) as store:
        assert store.get_user_by_email("ada@example.com").id == "ada"
        assert store.get_user_by_email(WIDE).id == "wide"
        assert store.check() == []
    [record] = caplog.records
    assert record.getMessage().endswith("version 2: the e-mail addresses of these users are looked up by another"
                                        " normal form than before: 'wide'")  # fmt: skip
    caplog.clear()
    ShelveAdapter(path).close()
    assert caplog.records == []


def test_two_users_in_a_shelf_of_version_1_who_would_have_one_address_are_named(path: Path) -> None:
    shelf_of_version_1(path, row("first", ADDRESS), row("second", ADDRESS.upper().replace("SS", "ß")))
    before = files(path)
    with pytest.raises(StorageError, match="version 2: the users 'first' and 'second' would have the same"):
        ShelveAdapter(path)
    assert files(path) == before


def test_a_token_of_version_1_that_nobody_can_ask_for_any_more_is_left_out(path: Path) -> None:
    """As in SQLite: its identifier has no normal form today."""
    fields = {"identifier": "a" + 40 * "\u0301" + "@example.com", "expires": "9999-01-01T00:00:00+00:00"}
    shelf_of_version_1(path, ["verification_tokens", ["old", 32 * "00"], fields])
    with ShelveAdapter(path) as store:
        assert store.check() == []
        assert store.snapshot().state["verification_tokens"] == {}


@pytest.mark.parametrize("user", [None, {"plan": (str, "free")}], ids=["plain", "custom"])
@pytest.mark.parametrize("rows", [[], [row("ada", "ada@example.com")]], ids=["empty", "not empty"])
def test_a_shelf_of_version_1_becomes_one_of_version_2_at_once(
    path: Path, user: dict[str, Any] | None, rows: list[Any]
) -> None:
    """An older package, which does not know kinds, then says that a newer one wrote it."""
    shelf_of_version_1(path, *rows)
    assert versions(path) == {b"1"}
    with ShelveAdapter(path, user=model(**user) if user else None):
        assert versions(path) == {b"2"}
    assert versions(path) == {b"2"}


# --- beside others, and interrupted -----------------------------------------------------------


def test_stores_that_are_open_go_on(path: Path) -> None:
    """With the old model, while a column is rebuilt; what the new one forbids is an error that names it."""
    with SQLiteAdapter(path, user=OPTIONAL) as old:
        ada = old.create_user(id="ada")
        token = old.create_session(user_id="ada").session_token
        for _ in range(3):
            assert old.get_session_and_user(token).user == ada
        with SQLiteAdapter(path, user=REQUIRED):
            assert old.get_session_and_user(token).user.plan == "free"
            assert old.update_user("ada", plan="gold").plan == "gold"
            with pytest.raises(StorageError, match=r"users\.plan"):
                old.create_user(id="grace")
        assert old.get_user("grace") is None
    with SQLiteAdapter(path, user=REQUIRED) as old, SQLiteAdapter(path, user=OPTIONAL) as new:
        new.update_user("ada", plan=None)
        assert old.get_user("ada").plan is None
        assert old.update_user("ada", plan="gold").plan == "gold"


def test_many_open_a_file_at_once_while_an_old_store_writes(path: Path) -> None:
    """One of them converts it; all see the same, and nothing that was written meanwhile is lost."""
    SQLiteAdapter(path, user=OPTIONAL).close()
    as_version_1(path)
    new = model(plan=(str, "free"), key=(str, counted()))
    begin, found = threading.Barrier(9), []

    def open_new() -> None:
        begin.wait()
        with SQLiteAdapter(path, user=new, timeout=30) as store:
            found.append({user: store.get_user(user).key for user in names})

    with SQLiteAdapter(path, user=OPTIONAL, timeout=30) as old:
        names = [old.create_user(plan="gold").id for _ in range(50)]
        as_version_1(path)
        threads = [threading.Thread(target=open_new) for _ in range(8)]
        for thread in threads:
            thread.start()
        begin.wait()
        late = [old.create_user(plan="gold").id for _ in range(100)]
        for thread in threads:
            thread.join()
    assert len(found) == 8 and all(one == found[0] for one in found) and len({*found[0].values()}) == 50
    with SQLiteAdapter(path, user=new) as store:
        assert {store.get_user(name).plan for name in names + late} == {"gold"}
        assert len({store.get_user(name).key for name in names + late}) == 150
        assert store.check() == []


CHANGE = """
import os, signal, sys
sys.path.insert(0, os.path.dirname({tests!r}))
sys.path.insert(0, {tests!r})
from test_models_change import Stores, model, counted
left = {left}
def stop(*_):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
if {kind!r} == "sqlite":
    from tinyauthstore import SQLiteAdapter
    run = SQLiteAdapter._run
    def slow(*a, **k):
        stop()
        return run(*a, **k)
    SQLiteAdapter._run = slow
else:
    events = ("open", "os.rename", "os.remove", "os.mkdir")
    sys.addaudithook(lambda event, _: stop() if event in events else None)
Stores[{kind!r}]({path!r}, user=model(plan=(str, "free"), key=(str, counted()))).close()
print("done")
"""


OFTEN, SELDOM = (0, 12, 16, 20, 28), (3, 8, 14, 18, 22, 25, 32, 40)
"""After so many steps it is killed: in each run, and in a soak."""


@pytest.mark.parametrize("left", [*OFTEN, *(pytest.param(left, marks=pytest.mark.soak) for left in SELDOM)])
def test_a_process_killed_in_the_middle_leaves_the_old_or_the_new(
    kind: str, opened: Any, path: Path, left: int
) -> None:
    with opened(OPTIONAL) as store:
        store.create_user(id="ada")
        store.create_user(id="grace", plan="gold")
        store.create_session(user_id="ada", session_token="token")
    script = CHANGE.format(tests=str(Path(__file__).parent), left=left, kind=kind, path=str(path))
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL or done.stdout == "done\n", done.stderr
    with opened(OPTIONAL) as store:
        assert [store.get_user(name).plan for name in ("ada", "grace")] in ([None, "gold"], ["free", "gold"])
        assert store.check() == []
    with opened(model(plan=(str, "free"), key=(str, counted()))) as store:
        assert [store.get_user(name).plan for name in ("ada", "grace")] == ["free", "gold"]
        assert len({store.get_user(name).key for name in ("ada", "grace")}) == 2
        assert store.get_session_and_user("token") is not None
        assert store.check() == []


# --- any models, in any order -----------------------------------------------------------------

NAMES = ["plan", "Plan", "when", "seen", "key"]
HINTS: dict[Any, Any] = {
    str: ["free", "gold"], int: [1, 2**40], bool: [True, False], datetime: [START], list: [["a"], []],
    dict: [{}], Literal["free", "gold"]: ["free", "gold"], Role: [*Role],
}  # fmt: skip
BASE = {Literal["free", "gold"]: str, Role: str}


def some_model(chance: random.Random) -> dict[str, tuple[Any, bool, Any]]:
    """Fields by name: the type, whether None may stand instead, the default (or ``counted``)."""
    names = chance.sample(NAMES, chance.randint(0, 3))
    if {"plan", "Plan"} <= {*names}:
        names.remove("Plan")
    fields = {}
    for name in names:
        hint = str if name == "key" else chance.choice([*HINTS, str, str])
        optional = chance.random() < 0.4
        default = counted if name == "key" else chance.choice(HINTS[hint])
        fields[name] = (hint, optional, None if optional else default)
    return fields


def build(fields: dict[str, tuple[Any, bool, Any]]) -> type[Any]:
    given: dict[str, tuple[Any, Any]] = {}
    for name, (hint, optional, default) in fields.items():
        if default is counted:
            default = counted()
        elif isinstance(default, (list, dict)):
            default = dataclasses.field(default_factory=default.copy)
        given[name] = (hint | None if optional else hint, default)
    return model(**given)


def seen(store: Any, names: list[str]) -> Iterator[dict[str, Any]]:
    for name in names:
        user = store.get_user(name)
        yield {f.name: getattr(user, f.name) for f in dataclasses.fields(user)}


@pytest.mark.parametrize("seed", range(12))
def test_any_models_in_any_order(tmp_path: Path, seed: int) -> None:
    """File and shelf decide alike, and hold alike, but for what is each row's own; what was written stays."""
    chance = random.Random(seed)
    paths = {kind: tmp_path / kind for kind in Stores}
    kinds: dict[str, Any] = {}
    users: list[str] = []
    own: dict[str, dict[tuple[str, str], str]] = {kind: {} for kind in Stores}
    for step in range(25):
        fields = some_model(chance)
        wanted = {name.lower(): BASE.get(hint, hint) for name, (hint, *_) in fields.items()}
        changed = [name for name, kind in wanted.items() if kinds.get(name, kind) is not kind]
        member, action = build(fields), chance.random()
        values = {
            name: chance.choice(HINTS[hint]) for name, (hint, *_) in fields.items() if chance.random() < 0.5
        }
        before = {kind: files(path) for kind, path in paths.items()}
        found, refused = {}, {}
        for kind, path in paths.items():
            try:
                with Stores[kind](path, user=member) as store:
                    found[kind] = [*seen(store, users)]
                    if action < 0.5 or not users:
                        store.create_user(id=f"user {step}", **values)
                    elif action < 0.8:
                        store.update_user(users[step % len(users)], **values)
                    assert store.check() == []
                    for user, name in itertools.product(users, fields):
                        if name == "key" and fields[name][2] is counted and name not in values:
                            key = store.get_user(user).key
                            assert own[kind].setdefault((user, name), key) == key
                        elif name == "key":
                            own[kind].pop((user, name), None)
            except StorageError as error:
                refused[kind] = str(error)
                assert files(path) == before[kind]
        assert len(refused) in (0, 2), refused
        assert bool(refused) >= bool(changed)
        if refused:
            assert changed or any(BASE.get(hint) for hint, *_ in fields.values()), refused
            continue
        kinds |= wanted
        for one, other in zip(found["sqlite"], found["shelf"]):
            different = {name for name in one if one[name] != other[name]}
            assert different <= {"key"}, (step, fields)
        if action < 0.5 or not users:
            users.append(f"user {step}")
