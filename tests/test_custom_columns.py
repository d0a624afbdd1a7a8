"""Custom models in SQLite: real columns, added to a file without touching its data, and never lost."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from support import run_python
from tinyauthstore import InvalidFieldError, Session, SQLiteAdapter, StorageError, User, VerificationToken
from tinyauthstore.encodings import from_microseconds, to_microseconds
from tinyauthstore.testing import (
    CREATE,
    CUSTOM,
    DEFAULTS,
    FAR,
    GIVEN,
    READ,
    RECORDS,
    SURROGATE,
    FrozenClock,
    Household,
    fields,
    link,
    register,
)

TABLES = [f"{name}s" for name in RECORDS]
SQL_TYPES = {
    "word": "TEXT", "count": "INTEGER", "ratio": "REAL", "flag": "INTEGER",
    "blob": "BLOB", "moment": "INTEGER", "mapping": "TEXT", "items": "TEXT",
}
ANOTHER = {
    "account": {"account_id": "2"},
    "verification_token": {"token": "2"},
    "authenticator": {"credential_id": "2"},
}
"""What a second record of a kind needs, besides its custom fields."""


@dataclass(frozen=True, slots=True)
class Member(User):
    """A custom user."""

    plan: str = "free"
    visits: int | None = None


@dataclass(frozen=True, slots=True)
class Device(Session):
    """A custom session."""

    device: str = "unknown"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the store of a test lies."""
    return tmp_path / "auth.db"


def query(path: Path, sql: str) -> list[Any]:
    """Rows, as any SQLite tool reads them."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def columns(path: Path, table: str) -> dict[str, tuple[Any, ...]]:
    """Each column's type, whether it is NOT NULL, and its default."""
    return {row[1]: row[2:5] for row in query(path, f"PRAGMA table_info({table})")}


def contents(path: Path) -> list[Any]:
    """The whole file: every statement of the schema, every row of every table."""
    schema = query(path, "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name")
    return [schema, [query(path, f"SELECT * FROM {name}") for kind, name, *_ in schema if kind == "table"]]


def model(record: type[Any] = User, **given: Any) -> type[Any]:
    """A custom model with the fields ``given``, as pairs of a type and a default (or a ``field()``)."""
    listed = [(name, *pair) for name, pair in given.items()]
    return dataclasses.make_dataclass("Custom", listed, bases=(record,), frozen=True, slots=True)


# --- real columns -----------------------------------------------------------------------------


def test_a_custom_field_is_a_column_of_its_type(file: Path) -> None:
    """With its default, NOT NULL where None does not fit; so that other tools can read and write it."""
    with SQLiteAdapter(file, user=CUSTOM["user"]):
        found = columns(file, "users")
    for name, sql_type in SQL_TYPES.items():
        assert found[name][:2] == (sql_type, 1)
        assert found[name][2] is not None
        assert found[f"maybe_{name}"] == (sql_type, 0, None)


def test_a_custom_field_is_stored_as_other_tools_expect(file: Path) -> None:
    """Microseconds since 1970, 0 or 1, JSON text: no pickles, no blobs of everything."""
    with SQLiteAdapter(file, user=CUSTOM["user"]) as store:
        moment = datetime(1970, 1, 1, 0, 0, 1, 5, timezone.utc)
        store.create_user(moment=moment, flag=True, mapping={"é": [1]})
        [row] = query(file, "SELECT moment, typeof(moment), flag, typeof(flag), mapping FROM users")
    assert row == (1_000_005, "integer", 1, "integer", '{"\\u00e9":[1]}')


def test_a_moment_comes_back_to_the_microsecond_whenever_it_is() -> None:
    chance, rim = random.Random(0), 2**32 * 10**6
    ends = [to_microseconds(end.replace(tzinfo=timezone.utc)) for end in (datetime.min, datetime.max)]
    numbers = [*ends, *(rim + i for i in range(-9, 9)), *range(-9, 9)]
    numbers += [chance.randint(*ends) for _ in range(10_000)] + [chance.randrange(rim) for _ in range(10_000)]
    assert [to_microseconds(from_microseconds(number)) for number in numbers] == numbers


@pytest.mark.skipif(not Path("/usr/share/zoneinfo/right/UTC").exists(), reason="no time zones with leap seconds here")
def test_a_moment_comes_back_exactly_where_the_c_library_counts_leap_seconds(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "right/UTC")
    script = "from tinyauthstore.encodings import from_microseconds; print(from_microseconds(1893456000 * 10**6))"
    assert run_python(script) == "2030-01-01 00:00:00+00:00\n"


def test_a_row_written_by_another_tool_reads_with_the_defaults(file: Path) -> None:
    """The columns' defaults are the model's."""
    with SQLiteAdapter(file, user=CUSTOM["user"]) as store:
        with contextlib.closing(sqlite3.connect(file)) as connection, connection:
            connection.execute("INSERT INTO users (id) VALUES ('ada')")
        assert fields(store.get_user("ada")) == DEFAULTS
        assert store.check() == []


@pytest.mark.parametrize("name", ["order", "group", "select", "values", "null", "größe", "rowid", "key"])
def test_a_field_may_be_called_like_a_word_of_sql(file: Path, name: str) -> None:
    """Names are quoted."""
    for synchronized in (User, model(**{name: (str, "x")})):
        with SQLiteAdapter(file, user=synchronized) as store:
            store.create_user()
    with SQLiteAdapter(file, user=synchronized) as store:
        user = store.create_user(**{name: "y"})
        assert getattr(store.update_user(user.id, **{name: "z"}), name) == "z"
        assert getattr(store.get_user(user.id), name) == "z"


@pytest.mark.parametrize("name", ["token", "row", "digest", "user", "session", "datetime", "session_id", "token_"])
def test_a_field_may_be_called_like_what_reads_the_rows(file: Path, name: str) -> None:
    custom = {"user": model(**{name: (str, "x")}), "session": model(Session, **{name: (str, "x")})}
    with SQLiteAdapter(file, cache_size=0, **custom) as store:
        ada = store.create_user(**{name: "hers"})
        session = store.create_session(user_id=ada.id, **{name: "its"})
        assert store.get_session_and_user(session.session_token) == (session, ada)
        assert [getattr(listed, name) for listed in store.list_sessions(ada.id)] == ["its"]


@pytest.mark.parametrize(
    "kind, default",
    [
        (str, "it's \"quoted\" \\ -- ; 🦄"),
        (str, ""),
        (int, -(2**63)),
        (int, 2**63 - 1),
        (float, 0.1),
        (float, -5e-324),
        (float, 1e300),
        (float, math.inf),
        (float, -math.inf),
        (bool, True),
        (bytes, bytes(range(256))),
        (datetime, datetime.min.replace(tzinfo=timezone.utc)),
        (datetime, FAR),
    ],
)
def test_a_default_reaches_existing_rows_exactly(file: Path, kind: Any, default: Any) -> None:
    """Through an SQL literal, as no parameter may stand in DEFAULT."""
    with SQLiteAdapter(file) as store:
        store.create_user(id="ada")
    with SQLiteAdapter(file, user=model(odd=(kind, default))) as store:
        value = store.get_user("ada").odd
    assert (repr(value), type(value)) == (repr(default), kind)


def test_a_default_of_json_reaches_existing_rows_exactly(file: Path) -> None:
    """Escapes included, and as a list of each row's own."""
    default = ["it's", {"half": SURROGATE, "nul": "\0"}]
    with SQLiteAdapter(file) as store:
        store.create_user(id="ada")
    odd = dataclasses.field(default_factory=lambda: default)
    with SQLiteAdapter(file, user=model(odd=(list, odd))) as store:
        store.get_user("ada").odd.append("changed")
        assert store.get_user("ada").odd == default


def test_a_default_that_sql_cannot_write_is_refused_by_name(file: Path) -> None:
    """No literal holds a NUL; nothing is created."""
    with pytest.raises(InvalidFieldError) as caught:
        SQLiteAdapter(file, user=model(odd=(str, "a\0b")))
    assert (caught.value.model, caught.value.field) == ("Custom", "odd")
    assert not file.exists()


@pytest.mark.parametrize(
    "record, names",
    [
        (User, ["Email"]),
        (User, ["email_key"]),
        (User, ["EMAIL_KEY"]),
        (User, ["plan", "Plan"]),
        (Session, ["token_digest"]),
        (VerificationToken, ["identifier_key"]),
    ],
    ids=repr,
)
def test_a_column_name_that_is_taken_is_refused(file: Path, record: Any, names: list[str]) -> None:
    """SQLite's names ignore case, and some columns are no fields."""
    option = next(name for name, one in RECORDS.items() if one is record)
    with pytest.raises(InvalidFieldError) as caught:
        SQLiteAdapter(file, **{option: model(record, **{name: (str, "") for name in names})})
    assert (caught.value.model, caught.value.field) == ("Custom", names[-1])
    assert not file.exists()


@pytest.mark.parametrize("option", ["user", "verification_token"])
def test_a_custom_field_called_user_id_is_an_ordinary_column(file: Path, option: str) -> None:
    """Only accounts, sessions and authenticators belong to a user; this one is the application's."""
    custom = model(RECORDS[option], user_id=(str | None, None))
    with SQLiteAdapter(file, **{option: custom}) as store:
        create = {"user": store.create_user, "verification_token": store.create_verification_token}[option]
        given = {"user": {}, "verification_token": {"identifier": "x"}}[option]
        for value in (None, "ada", "somebody elsewhere"):
            made = create(**given, user_id=value)
            store.delete_user(store.create_user(id="ada").id)
            assert READ[option](store, made).user_id == value
            assert store.check() == []


# --- adding columns ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECORDS)
def test_opening_a_file_adds_the_columns_of_a_custom_model(file: Path, name: str) -> None:
    """Existing records read the defaults, and take values from then on."""
    with SQLiteAdapter(file) as store:
        made = CREATE[name](store, store.create_user().id)
    with SQLiteAdapter(file, **{name: CUSTOM[name]}) as store:
        found = READ[name](store, made)
        assert type(found) is CUSTOM[name]
        assert fields(found) == DEFAULTS
        assert all(getattr(found, f.name) == getattr(made, f.name) for f in dataclasses.fields(made))
        again = CREATE[name](store, store.create_user().id, **ANOTHER.get(name, {}), **GIVEN)
        assert READ[name](store, again) == again
        assert store.check() == []


@pytest.mark.parametrize(("kind", "default"), [(datetime, FAR), (bool, True), (int, 1), (dict, None)])
def test_what_was_left_empty_gets_the_default_where_the_model_is_no_longer_optional(
    file: Path, kind: Any, default: Any
) -> None:
    """Rows of before must not keep anybody from signing in."""
    demanding = (kind, default) if default is not None else (kind, dataclasses.field(default_factory=dict))
    with SQLiteAdapter(file, user=model(odd=(kind | None, None))) as store:
        token = store.create_session(user_id=store.create_user().id).session_token
    with SQLiteAdapter(file, user=model(odd=demanding)) as store:
        assert store.get_session_and_user(token).user.odd == ({} if default is None else default)


def test_adding_columns_touches_no_data(file: Path) -> None:
    """Every column that was there, in every row of every table, is as it was."""
    with SQLiteAdapter(file) as store:
        home = Household(store)
        before = home.state()
    selects = [f"SELECT {', '.join(columns(file, table))} FROM {table}" for table in TABLES]
    rows = [query(file, select) for select in selects]
    with SQLiteAdapter(file, **CUSTOM):
        pass
    assert [query(file, select) for select in selects] == rows
    with SQLiteAdapter(file) as store:
        home.store = home.ada.store = home.grace.store = store
        assert home.state() == before


def test_opening_a_file_a_second_time_changes_nothing(file: Path) -> None:
    """Not even its schema."""
    with SQLiteAdapter(file, **CUSTOM) as store:
        store.create_user(id="ada")
        before = contents(file)
    with SQLiteAdapter(file, **CUSTOM):
        assert contents(file) == before


def test_without_synchronize_missing_columns_are_reported_precisely(file: Path) -> None:
    """Each by table, name and definition, nothing else; the file stays as it was."""
    with SQLiteAdapter(file) as store:
        store.create_user()
    before = contents(file)
    with pytest.raises(StorageError) as caught:
        SQLiteAdapter(file, user=Member, session=Device, synchronize=False)
    said = str(caught.value)
    assert caught.value.path == str(file) and str(file) in said
    for column in ("users.plan", "users.visits", "sessions.device", "DEFAULT 'free'", "synchronize=True"):
        assert column in said
    for other in ("users.email", "sessions.expires", "accounts", "authenticators", "tokens", "index"):
        assert other not in said
    assert contents(file) == before


def test_without_synchronize_a_file_that_lacks_nothing_opens(file: Path) -> None:
    """Verified, and as good as with it."""
    with SQLiteAdapter(file, user=Member, session=Device) as store:
        store.create_user(id="ada", plan="pro")
    with SQLiteAdapter(file, user=Member, session=Device, synchronize=False) as store:
        assert store.get_user("ada").plan == "pro"


@pytest.mark.parametrize("synchronize", [True, False])
def test_a_column_of_another_type_is_reported(file: Path, synchronize: bool) -> None:
    """With both types, as adding cannot mend it; the file stays as it was."""
    with SQLiteAdapter(file, user=model(plan=(str, "free"))) as store:
        store.create_user()
    before = contents(file)
    with pytest.raises(StorageError) as caught:
        SQLiteAdapter(file, user=model(plan=(int, 0), extra=(str, "")), synchronize=synchronize)
    said = str(caught.value)
    assert caught.value.path == str(file)
    assert all(part in said for part in ("users.plan", "TEXT", "INTEGER", str(file)))
    assert "users.email" not in said
    assert contents(file) == before


# --- stores with different models on one file -------------------------------------------------

UPDATES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "update_user": ("user", lambda a: a.update_user("ada", name="new")),
    "update_user, e-mail": ("user", lambda a: a.update_user("ada", email="new@example.com")),
    "link_account": ("account", lambda a: link(a, "ada", access_token="new")),
    "update_session": ("session", lambda a: a.update_session("token", expires=FAR)),
    "touch_session": ("session", lambda a: a.touch_session("token")),
    "rotate_session": ("session", lambda a: a.rotate_session("token")),
    "update_authenticator_counter": (
        "authenticator",
        lambda a: a.update_authenticator_counter("credential", 9),
    ),
}
"""How a store rewrites a row, and whose row."""


@pytest.mark.parametrize("update", UPDATES)
def test_a_store_without_a_field_keeps_its_values(file: Path, update: str) -> None:
    """An older version of an application, or another one, must not reset what it does not know."""
    name, rewrite = UPDATES[update]
    clock = FrozenClock()
    with SQLiteAdapter(file, clock=clock, **CUSTOM) as store:
        store.create_user(id="ada", **GIVEN)
        store.create_session(user_id="ada", session_token="token", **GIVEN)
        link(store, "ada", **GIVEN)
        register(store, "ada", **GIVEN)
    clock.tick(days=2)
    with SQLiteAdapter(file, clock=clock) as store:
        rewritten = rewrite(store)
    with SQLiteAdapter(file, clock=clock, **CUSTOM) as store:
        assert fields(READ[name](store, rewritten)) == GIVEN


def test_a_snapshot_keeps_the_columns_of_other_models(file: Path) -> None:
    """The whole state, not only what this store knows of it."""
    with SQLiteAdapter(file, user=Member) as store:
        store.create_user(id="ada", plan="pro", visits=3)
    with SQLiteAdapter(file) as store:
        snapshot = store.snapshot()
        store.delete_user("ada")
        store.restore(snapshot)
    with SQLiteAdapter(file, user=Member) as store:
        assert (store.get_user("ada").plan, store.get_user("ada").visits) == ("pro", 3)


@pytest.mark.parametrize("name", RECORDS)
def test_a_store_without_a_field_creates_records_with_its_default(file: Path, name: str) -> None:
    """Also where the column is NOT NULL."""
    with SQLiteAdapter(file, **CUSTOM):
        pass
    with SQLiteAdapter(file) as store:
        made = CREATE[name](store, store.create_user().id)
    with SQLiteAdapter(file, **CUSTOM) as store:
        assert fields(READ[name](store, made)) == DEFAULTS


def test_two_stores_with_different_models_share_a_file(file: Path) -> None:
    """Live, each with its own fields."""
    with (
        SQLiteAdapter(file, user=model(plan=(str, "free"))) as first,
        SQLiteAdapter(file, user=model(team=(str, "none"))) as second,
    ):
        ada = first.create_user(email="ada@example.com", plan="pro")
        assert second.update_user(ada.id, team="red").team == "red"
        assert first.update_user(ada.id, name="Ada").plan == "pro"
        assert second.get_user(ada.id).team == "red"
        assert first.get_user(ada.id).plan == "pro"


def test_a_rolled_back_update_by_a_store_without_a_field_keeps_its_values(file: Path) -> None:
    """What it wrote, and what it could not see."""
    with SQLiteAdapter(file, user=Member) as store:
        store.create_user(id="ada", plan="pro")
    with SQLiteAdapter(file) as store, contextlib.suppress(KeyError), store.transaction():
        store.update_user("ada", name="new")
        raise KeyError
    with SQLiteAdapter(file, user=Member) as store:
        assert (store.get_user("ada").plan, store.get_user("ada").name) == ("pro", None)
