"""The files of Auth.js's official adapters and of Better Auth: read, written, left alone; and what is refused."""

from __future__ import annotations

import copy
import itertools
import logging
import pickle
import random
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support import Crew, apart, every_statement, exit_code, fork

from tinyauthstore import (
    Account, Authenticator, AuthStoreError, ConflictError, InvalidFieldError, MemoryAdapter, Session, SplitAdapter,
    SQLiteAdapter, StorageError, User, encodings, layouts, statements,
)
from tinyauthstore import adapters as adapters_module
from tinyauthstore.encodings import (
    Codec, float_milliseconds, float_seconds, integer_id, iso, microseconds, milliseconds,
    milliseconds_as_text, seconds, text_id,
)
from tinyauthstore.models import ACCOUNT, AUTHENTICATOR, SESSION
from tinyauthstore.schema import OURS, Column, Schema, Table, ours
from tinyauthstore.testing import UTC, FrozenClock, race

FILES = Path(__file__).with_name("files") / "authjs"

AUTHJS = {
    "drizzle": layouts.drizzle,
    "prisma": layouts.prisma,
    "prisma-unixms": layouts.prisma.with_dates(milliseconds),
    "typeorm": layouts.typeorm,
    "sequelize": layouts.sequelize,
    "kysely": layouts.kysely,
    "d1": layouts.d1,
}
SAMPLES = AUTHJS | {"better-auth": layouts.better_auth}
"""The schema of each file that another library wrote."""

SECRET = "made-up-secret-0123456789-abcdefghijklmnop"
"""Better Auth's, of the sample."""

ADA_COOKIE = "lf96TwmMd2XxPVkfNVm2hIi43X59NsJJ.InBYwBlwYDT1dFh%2Fc%2Bt0d%2FShpit2vGtMqrO7ORqkhb4%3D"
"""What Better Auth sent to Ada's browser."""

each_sample = pytest.mark.parametrize("name", SAMPLES)
each_authjs = pytest.mark.parametrize("name", AUTHJS)


def at(day: str, time: str = "03:04:05.678") -> datetime:
    """A moment in UTC."""
    return datetime.fromisoformat(f"{day}T{time}+00:00")


def sample(name: str, folder: Path) -> Path:
    """A copy of the sample."""
    path = folder / f"{name}.sqlite"
    shutil.copyfile(FILES / f"{name}.sqlite", path)
    return path


def opened(path: Path, schema: Schema, **options: Any) -> SQLiteAdapter[Any, Any, Any, Any, Any]:
    """A store, on a clock at the time of the samples, that purges only when it is told to."""
    given: dict[str, Any] = {"clock": FrozenClock(), "purge_interval": None, "durability": "normal"} | options
    return SQLiteAdapter(path, schema=schema, **given)


def sql(path: Path, statement: str, *parameters: Any) -> list[Any]:
    """The rows of a statement, executed on a connection of its own and committed."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(statement, parameters).fetchall()


@pytest.fixture
def file(name: str, tmp_path: Path) -> Path:
    return sample(name, tmp_path)


@pytest.fixture
def store(name: str, file: Path) -> Iterator[Any]:
    with opened(file, SAMPLES[name]) as store:
        yield store


def new(name: str, tmp_path: Path, **options: Any) -> Any:
    """A store in a file that we made as the other library would."""
    return opened(tmp_path / f"new-{name}.sqlite", SAMPLES[name], **options)


# --- what the other library wrote -------------------------------------------------------------


@each_authjs
def test_every_user_of_a_sample_is_read(store: Any) -> None:
    """By address and by id, with dates to the millisecond."""
    ada, bob, eve = (store.get_user_by_email(f"{who}@example.com") for who in ("ada", "bob", "eve"))
    assert ada == User(ada.id, "ada@example.com", "Ada Löve", "https://e.x/a.png", at("2026-01-02"))
    assert bob == User(bob.id, "bob@example.com", "Bob", None, at("2026-01-09"))
    assert eve == User(eve.id, "eve@example.com", None, None, at("2026-01-02", "03:04:05"))
    assert [store.get_user(user.id) for user in (ada, bob, eve)] == [ada, bob, eve]


@each_authjs
def test_every_account_of_a_sample_is_read(store: Any) -> None:
    """``expires_at`` in seconds; nothing where nothing is."""
    ada = store.get_user_by_email("ada@example.com")
    google, passkey = store.list_accounts(ada.id)
    assert google == Account(
        ada.id, "oidc", "google", "1234567890", "rt", "at", 1767323045, "bearer", "openid email", "eyJ.x.y", "ss"
    )
    assert type(google.expires_at) is int
    assert passkey == Account(ada.id, "webauthn", "passkey", "Y3JlZA==")
    assert store.get_user_by_account(provider="google", provider_account_id="1234567890") == ada
    assert store.get_account(provider="passkey", provider_account_id="Y3JlZA==") == passkey


@each_authjs
def test_every_session_of_a_sample_is_read(store: Any, name: str) -> None:
    """By its token, in the clear."""
    (ada, of_ada), (bob, of_bob) = (
        (found.user, found.session) for found in map(store.get_session_and_user, ("tok-1", "tok-2"))
    )
    assert (ada.name, bob.name) == ("Ada Löve", "Bob")
    assert (of_ada.user_id, of_bob.user_id) == (ada.id, bob.id)
    assert (of_ada.expires, of_bob.expires) == (at("2026-02-01"), at("2026-03-01", "03:04:05.009"))
    born = at("2026-11-22", "00:44:57.426") if name == "prisma" else of_ada.created_at
    assert of_ada.created_at == born and (born is None) == (not name.startswith("prisma"))
    assert store.list_sessions(ada.id) == [replace(of_ada, session_token="")]


@each_authjs
def test_the_token_of_a_sample_is_used_once(store: Any) -> None:
    """By what Auth.js stores, since this schema takes tokens as they come."""
    link = {"identifier": "ada@example.com", "token": "ab" * 32}
    assert store.use_verification_token(**link).expires == at("2026-01-03")
    assert store.use_verification_token(**link) is None


@pytest.mark.parametrize("name", ["drizzle", "prisma", "prisma-unixms"])
def test_every_passkey_of_a_sample_is_read(store: Any) -> None:
    """A bool is a bool."""
    ada = store.get_user_by_email("ada@example.com")
    first, second = store.list_authenticators_by_user_id(ada.id)
    assert first == Authenticator(
        "Y3JlZA==", ada.id, "Y3JlZA==", "cHVi", 7, "multiDevice", True, "usb,ble"
    )
    assert second == Authenticator("Y3JlZDI=", ada.id, "Y3JlZDI=", "cHVi", 0, "singleDevice", False, None)
    assert second.credential_backed_up is False
    assert store.get_authenticator("Y3JlZDI=") == second


@pytest.mark.parametrize("name", ["better-auth"])
def test_every_record_of_better_auths_sample_is_read(store: Any, file: Path) -> None:
    """Verified since the user was made; scopes with blanks; the address out of the JSON."""
    ada, bob, eve = (store.get_user_by_email(f"{who}@example.com") for who in ("ada", "bob", "eve"))
    [[made]] = sql(file, "SELECT createdAt FROM user WHERE id = ?", ada.id)
    assert ada == User(
        "306sPxN0b3dIwuI9v0h724FIIWzkCg3U", "ada@example.com", "Ada Löve", "https://e.x/a.png",
        datetime.fromisoformat(made),
    )  # fmt: skip
    assert (bob.email_verified, eve.email_verified, eve.image) == (None, None, None)
    google = store.get_account(provider="google", provider_account_id="1234567890")
    assert google == Account(
        ada.id, "oauth", "google", "1234567890", "rt", "at", 1769915045, None, "openid email", "eyJ.x.y"
    )
    assert [account.type for account in store.list_accounts(bob.id)] == ["credential"]
    assert store.get_account(provider="github", provider_account_id="77").scope == "read:user user:email"
    found = store.get_session_and_user("lf96TwmMd2XxPVkfNVm2hIi43X59NsJJ")
    assert (found.user, found.session.expires) == (ada, at("2026-12-05", "17:25:44.988"))
    [[made]] = sql(file, "SELECT createdAt FROM session WHERE token LIKE 'lf96%'")
    assert found.session.created_at == datetime.fromisoformat(made)
    assert len(store.list_sessions(bob.id)) == 3
    first, second = store.list_authenticators_by_user_id(ada.id)
    assert first == Authenticator("Y3JlZA", ada.id, "Y3JlZA", "cHVi", 7, "multiDevice", True, "usb,ble")
    assert (second.credential_id, second.credential_backed_up, second.transports) == ("Y3JlZDI", False, None)


@pytest.mark.parametrize("name", ["better-auth"])
def test_a_magic_link_of_better_auth_is_used_once(store: Any, file: Path) -> None:
    """With or without a name in its JSON, or hashed; rows that are no magic links stay."""
    others = "SELECT identifier FROM verification WHERE identifier NOT LIKE 'magic-link:%'"
    before = sql(file, others)
    for address, token in (
        ("ada@example.com", "GLwtZIcnxnNSUlGcdAFaQlpXpAQyZcNu"),
        ("new@example.com", "rTfgozDnRNneiFmnjYdjqDKUePrpqqyN"),
        ("ada@example.com", layouts.better_auth_link("YyfNYtecEFZCSBVazJDIWTpVSXFSmNyT", "", hashed=True)[0][11:]),
    ):
        assert store.use_verification_token(identifier="eve@example.com", token=token) is None
        used = store.use_verification_token(identifier=address, token=token)
        assert (used.identifier, used.token) == (address, token)
        assert store.use_verification_token(identifier=address, token=token) is None
    assert store.delete_verification_tokens("ada@example.com") == 0
    assert sql(file, others) == before != []


@each_sample
def test_a_sample_is_sound(store: Any) -> None:
    """Nothing that the other library wrote is a problem."""
    assert store.check() == []


# --- what we write ----------------------------------------------------------------------------


def write_authjs(store: Any, rows: dict[str, list[dict[str, Any]]]) -> None:
    """What the official adapter was told to write, with the ids of its users."""
    ids = [row["id"] for row in rows["users"]]
    ada, bob, eve = ids
    for user_id, fields in zip(
        ids,
        (
            {"email": "ada@example.com", "name": "Ada Löve", "image": "https://e.x/a.png",
             "email_verified": at("2026-01-02")},
            {"email": "bob@example.com", "name": "Bob"},
            {"email": "eve@example.com", "email_verified": at("2026-01-02", "03:04:05")},
        ),
        strict=True,
    ):  # fmt: skip
        store.create_user(id=user_id, **fields)
    store.update_user(bob, email_verified=at("2026-01-09"))
    store.link_account(
        {"refresh_token": "rt", "access_token": "at", "expires_at": 1767323045, "token_type": "bearer",
         "scope": "openid email", "id_token": "eyJ.x.y", "session_state": "ss"},
        user_id=ada, type="oidc", provider="google", provider_account_id="1234567890",
    )  # fmt: skip
    store.link_account(user_id=ada, type="webauthn", provider="passkey", provider_account_id="Y3JlZA==")
    store.create_session(user_id=ada, session_token="tok-1", expires=at("2026-02-01"))
    store.create_session(user_id=bob, session_token="tok-2", expires=at("2026-02-01", "03:04:05"))
    store.update_session("tok-2", expires=at("2026-03-01", "03:04:05.009"))
    store.create_verification_token(identifier="ada@example.com", token="ab" * 32, expires=at("2026-01-03"))
    if rows["authenticators"]:
        for key, counter, device, backed_up, transports in (
            ("Y3JlZA==", 7, "multiDevice", True, "usb,ble"), ("Y3JlZDI=", 0, "singleDevice", False, None)
        ):  # fmt: skip
            store.create_authenticator(
                user_id=ada, credential_id=key, provider_account_id=key, credential_public_key="cHVi",
                counter=counter, credential_device_type=device, credential_backed_up=backed_up,
                transports=transports,
            )  # fmt: skip


def write_better_auth(store: Any, rows: dict[str, list[dict[str, Any]]]) -> None:
    """The records that are not made by a plugin or with a password."""
    for row in rows["users"]:
        verified = at("2026-01-02") if row["emailVerified"] else None
        store.create_user(
            id=row["id"], email=row["email"], name=row["name"], image=row["image"], email_verified=verified
        )
    for row in rows["accounts"]:
        expires = row["accessTokenExpiresAt"]
        store.link_account(
            {"refresh_token": row["refreshToken"], "access_token": row["accessToken"], "id_token": row["idToken"],
             "scope": row["scope"] and row["scope"].replace(",", " "),
             "expires_at": expires and int(datetime.fromisoformat(expires).timestamp())},
            user_id=row["userId"], type="oauth", provider=row["providerId"], provider_account_id=row["accountId"],
        )  # fmt: skip
    for row in rows["sessions"]:
        expires = datetime.fromisoformat(row["expiresAt"])
        store.create_session(user_id=row["userId"], session_token=row["token"], expires=expires)
    for row in rows["verification_tokens"]:
        store.create_verification_token(
            identifier=layouts.better_auth_email(row["value"]),
            token=row["identifier"].removeprefix("magic-link:"),
            expires=datetime.fromisoformat(row["expiresAt"]),
        )
    for row in rows["authenticators"]:
        store.create_authenticator(
            user_id=row["userId"], credential_id=row["credentialID"], provider_account_id=row["credentialID"],
            credential_public_key=row["publicKey"], counter=row["counter"], transports=row["transports"],
            credential_device_type=row["deviceType"], credential_backed_up=bool(row["backedUp"]),
        )  # fmt: skip


def stored(path: Path, schema: Schema) -> dict[str, list[dict[str, Any]]]:
    """Every record's row, by kind, in an order that does not depend on what is generated."""
    found: dict[str, list[dict[str, Any]]] = {"authenticators": []}
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        for entity, table in schema.tables.items():
            where = table.where.replace("{", '"').replace("}", '"') or "1"
            rows = connection.execute(f'SELECT * FROM "{table.name}" WHERE {where}')
            found[entity.plural] = [dict(row) for row in rows]
    return found


MADE = {"id", "createdAt", "updatedAt"}
"""Columns in which each writer has values of its own. They must be of the same form."""

NEITHER = {"refreshTokenExpiresAt", "password", "ipAddress", "userAgent", "name", "aaguid"}
"""Columns of Better Auth for which we have no fields: they stay empty."""


def form(value: Any) -> Any:
    """What is left of a generated value: its type, and its punctuation if it is a date."""
    date = isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\d", value)
    return re.sub(r"\d", "0", value) if date else type(value)


def comparable(rows: dict[str, list[dict[str, Any]]]) -> dict[str, list[Any]]:
    """The rows as they must be, whoever writes them."""
    shown = {}
    for kind, found in rows.items():
        made, theirs = MADE - {"id"} if kind == "users" else MADE, NEITHER - {"name"} if kind == "users" else NEITHER
        shown[kind] = sorted(
            sorted(
                (column, repr(form(value) if column in made else value))
                for column, value in row.items()
                if column not in theirs
            )
            for row in found
        )
    return shown


def writable(rows: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Without what only Better Auth writes: accounts with a password, milliseconds of an access token's end, the
    name in a magic link's JSON, and when a passkey was made, which is optional."""
    kept = {kind: [dict(row) for row in found] for kind, found in rows.items()}
    kept["accounts"] = [row for row in kept["accounts"] if row.get("password") is None]
    for row in kept["accounts"]:
        if row.get("accessTokenExpiresAt"):
            row["accessTokenExpiresAt"] = row["accessTokenExpiresAt"].replace(".678Z", ".000Z")
    for row in kept["verification_tokens"]:
        if "value" in row:
            row["value"] = row["value"].replace(',"name":"New"', "")
    for row in kept["authenticators"]:
        if "createdAt" in row:
            row["createdAt"] = "2026-01-02T03:04:05.678Z"
    return kept


@each_sample
@pytest.mark.parametrize("where", ["new", "sample"])
def test_what_we_write_is_what_the_official_adapter_writes(
    name: str, where: str, file: Path, tmp_path: Path
) -> None:
    """Column by column, value and type, into a new file and into the sample once it is empty."""
    schema = SAMPLES[name]
    theirs = writable(stored(file, schema))
    path = file if where == "sample" else tmp_path / "new.sqlite"
    with opened(path, schema) as store:
        for row in theirs["users"] if where == "sample" else ():
            store.delete_user(row["id"])
            store.delete_verification_tokens(row["email"])
        store.delete_verification_tokens("new@example.com")
        assert not any(stored(path, schema).values())
        (write_better_auth if name == "better-auth" else write_authjs)(store, theirs)
    assert comparable(writable(stored(path, schema))) == comparable(theirs)


@each_sample
def test_an_update_leaves_every_column_alone_that_it_does_not_mean(name: str, file: Path, store: Any) -> None:
    """Ids, passwords, addresses of browsers: what is not ours survives. ``updatedAt`` tells."""
    before = writable(stored(file, SAMPLES[name]))
    ada = store.get_user_by_email("ada@example.com")
    token = "lf96TwmMd2XxPVkfNVm2hIi43X59NsJJ" if name == "better-auth" else "tok-1"
    store.update_user(ada.id, name="Ada")
    for account in store.list_accounts(ada.id):
        store.link_account(
            user_id=ada.id, type=account.type, provider=account.provider,
            provider_account_id=account.provider_account_id, access_token="new",
        )  # fmt: skip
    store.update_session(token, expires=at("2026-12-31"))
    if "authenticators" in before and before["authenticators"]:
        store.update_authenticator_counter(store.list_authenticators_by_user_id(ada.id)[0].credential_id, 8)
    changed = {
        (kind, column)
        for kind, rows in writable(stored(file, SAMPLES[name])).items()
        for row, old in zip(rows, before[kind], strict=True)
        for column in row
        if row[column] != old[column]
    }
    meant = {
        ("users", "name"), ("accounts", "access_token"), ("accounts", "accessToken"), ("sessions", "expires"),
        ("sessions", "expiresAt"), ("authenticators", "counter"),
    }  # fmt: skip
    assert {column for _, column in changed - meant} <= {"updatedAt"}
    if name in ("prisma", "better-auth"):
        assert {kind for kind, column in changed if column == "updatedAt"} == {"users", "accounts", "sessions"}
    assert len(changed & meant) == (4 if before["authenticators"] else 3)


@each_sample
def test_a_rotated_session_is_the_same_row(name: str, file: Path, store: Any) -> None:
    """Under a new token, and changed just now."""
    token = "lf96TwmMd2XxPVkfNVm2hIi43X59NsJJ" if name == "better-auth" else "tok-1"
    before = stored(file, SAMPLES[name])["sessions"]
    rotated = store.rotate_session(token).session_token
    after = stored(file, SAMPLES[name])["sessions"]
    [old] = [row for row in before if token in row.values()]
    [row] = [row for row in after if rotated in row.values()]
    assert {key for key in row if row[key] != old[key] and key != "updatedAt"} == {
        key for key in row if row[key] == rotated
    }
    assert row.get("updatedAt", "new") != old.get("updatedAt")
    assert [row for row in before if row != old] == [other for other in after if other != row]


def structure(path: Path) -> dict[str, Any]:
    """Tables, with columns, types, NOT NULL, what is unique, indexes, and foreign keys."""
    found: dict[str, Any] = {}
    with closing(sqlite3.connect(path)) as connection:
        run = lambda sql, *given: connection.execute(sql, given).fetchall()  # noqa: E731
        for (table,) in run("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'"):
            columns = run('SELECT name, upper(type), "notnull" FROM pragma_table_info(?)', table)
            indexes = run('SELECT name, "unique" FROM pragma_index_list(?)', table)
            keys = run('SELECT "from", "table", "to", on_update, on_delete FROM pragma_foreign_key_list(?)', table)
            found[table] = {
                "columns": sorted(columns),
                "key": [name for (name,) in run("SELECT name FROM pragma_table_info(?) WHERE pk ORDER BY pk", table)],
                "indexes": sorted(
                    (unique, *(name for (name,) in run("SELECT name FROM pragma_index_info(?)", index)))
                    for index, unique in indexes
                ),
                "foreign keys": sorted(keys),
            }
    return found


@each_sample
def test_a_file_that_we_make_has_the_structure_of_the_sample(name: str, file: Path, tmp_path: Path) -> None:
    """What Drizzle notes of its own migrations apart, and that Sequelize's primary key allows NULL: we never
    write that, and a token that is NULL could never be used."""
    new(name, tmp_path).close()
    theirs, made = structure(file), structure(tmp_path / f"new-{name}.sqlite")
    theirs.pop("__drizzle_migrations", None)
    if name == "sequelize":
        columns = theirs["verification_tokens"]["columns"]
        columns[columns.index(("token", "VARCHAR(255)", 0))] = ("token", "VARCHAR(255)", 1)
    assert made.keys() == theirs.keys()
    for table, parts in theirs.items():
        for part, expected in parts.items():
            assert made[table][part] == expected, f"{part} of {table}"


# --- encodings --------------------------------------------------------------------------------

PRECISION: dict[str, tuple[Codec, int]] = {
    "seconds": (seconds, 10**6),
    "milliseconds": (milliseconds, 1000),
    "microseconds": (microseconds, 1),
    "milliseconds as text": (milliseconds_as_text, 1000),
    "JavaScript": (layouts.iso_z, 1000),
    "Prisma": (layouts.iso_offset, 1000),
    "Sequelize": (layouts.iso_sequelize, 1000),
    "Python": (iso("2026-02-01T03:04:05.678901+00:00"), 1),
    "SQLite": (iso("2026-02-01 03:04:05"), 10**6),
    "to the minute": (iso("2026-02-01 03:04"), 60 * 10**6),
    "a day": (iso("2026-02-01"), 86400 * 10**6),
    "another zone": (iso("2026-02-01T03:04:05.678 +0000"), 1000),
    "a blank and Z": (iso("2026-02-01 03:04:05 Z"), 10**6),
}
"""Every encoding of a date that is exact to some unit, and that unit in microseconds."""

EDGES = [
    datetime(1, 1, 1, tzinfo=UTC), datetime(1, 1, 1, 0, 0, 0, 1, UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999999, UTC),
    datetime(1970, 1, 1, tzinfo=UTC), at("2026-02-01", "03:04:05.678901"), datetime(2106, 2, 7, 6, 28, 15, 999999, UTC),
    datetime(2106, 2, 7, 6, 28, 16, 1, UTC), datetime.max.replace(tzinfo=UTC),
]  # fmt: skip


def moments(count: int = 300) -> Iterator[datetime]:
    """The edges, and moments of all years, always the same."""
    yield from EDGES
    chance = random.Random(12)
    span = (EDGES[-1] - EDGES[0]) // timedelta(microseconds=1)
    for _ in range(count):
        yield EDGES[0] + timedelta(microseconds=chance.randrange(span))
        yield at("2026-02-01") + timedelta(microseconds=chance.randrange(10**15))


@pytest.mark.parametrize("name", PRECISION)
def test_a_date_is_cut_to_the_units_of_its_encoding(name: str) -> None:
    """In any year, never rounded up: no session lives longer than it was meant to. What was cut stays as it is."""
    codec, unit = PRECISION[name]
    for moment in moments():
        found = codec.decode(codec.stored(moment))  # type: ignore[misc]
        whole = encodings.to_microseconds(moment)
        assert encodings.to_microseconds(found) == whole // unit * unit, moment
        assert found.tzinfo is UTC
        assert codec.stored(found) == codec.stored(moment)


@pytest.mark.parametrize("codec", [float_seconds, float_milliseconds])
def test_a_float_is_exact_for_a_century_and_never_late(codec: Codec) -> None:
    """To the microsecond until 2106; later to its own precision. The last moment of all comes back, too."""
    for moment in moments():
        found = codec.decode(codec.stored(moment))  # type: ignore[misc]
        early = encodings.to_microseconds(moment) - encodings.to_microseconds(found)
        exact = 1970 <= moment.year < 2106
        assert early == 0 if exact else 0 <= early < 100, moment


@pytest.mark.parametrize(
    "example",
    ["", "2026", "2026-02-01T03:04:05.67Z", "2026-02-01T03:04:05+01:00", "03:04:05", "20260201", None, 5],
)
def test_what_is_no_example_of_a_date_is_refused(example: Any) -> None:
    """In words that show a good one."""
    with pytest.raises((ValueError, TypeError)):
        iso(example)


@pytest.mark.parametrize(
    "text", ["01", "+1", "-0", "-01", "", " 1", "1 ", "a", "1.0", "١", "9223372036854775808", "9" * 30]
)
def test_an_integer_id_has_one_spelling(text: str) -> None:
    """Or two texts would name one user."""
    with pytest.raises(ValueError):
        integer_id.stored(text)


def test_an_integer_id_comes_back_as_its_digits() -> None:
    """And nothing else is one."""
    for number in (0, 1, -42, -(2**63), 2**63 - 1):
        assert integer_id.decode(integer_id.stored(str(number))) == str(number)  # type: ignore[misc]
    for cell in (1.0, "1", True, b"1"):
        with pytest.raises(TypeError):
            integer_id.decode(cell)  # type: ignore[misc]


@pytest.mark.parametrize("text", ["00042", "42", " 42", "1e3", ".5", "-1.", "+7 ", "0"])
def test_a_text_id_is_no_number(text: str) -> None:
    """A column of NUMERIC affinity would store another value; what it leaves alone comes back."""
    with pytest.raises(ValueError):
        text_id.stored(text)
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE t (id UUID)")
        for kept in ("0x10", "1e", "e5", "4-2", "1_000", "ada", "1e3e", "infinity", "nan", "٣"):
            connection.execute("REPLACE INTO t VALUES (?)", (text_id.stored(kept),))
            assert (kept,) in connection.execute("SELECT id FROM t").fetchall()


MILLISECONDS = 1769915045678
ENCODED = {
    "integer": MILLISECONDS,
    "digits": str(MILLISECONDS),
    "float": float(MILLISECONDS),
    "Z": "2026-02-01T03:04:05.678Z",
    "offset": "2026-02-01T03:04:05.678+00:00",
    "offset after a blank": "2026-02-01 03:04:05.678 +00:00",
    "microseconds": "2026-02-01T03:04:05.678000Z",
    "another zone": "2026-02-01T08:34:05.678+05:30",
    "CURRENT_TIMESTAMP": "2026-02-01 03:04:05",
}
"""One moment as adapters, and people at a prompt, write it."""


def meddle(path: Path, schema: Schema, field: str, value: Any, where: str = "1") -> None:
    """Put another value into the column of a session's field."""
    table = schema.session
    assert table is not None
    column = table.column(field)
    assert column is not None
    sql(path, f'UPDATE "{table.name}" SET "{column.name}" = ? WHERE {where}', value)


@each_sample
def test_every_encoding_of_a_date_is_read_in_every_layout(name: str, tmp_path: Path) -> None:
    """Mixed in one column, by each look-up; and purging decides by the moment, not by its encoding."""
    clock = FrozenClock()
    with new(name, tmp_path, clock=clock) as store:
        user = store.create_user(email="ada@example.com")
        for kind in ENCODED:
            store.create_session(user_id=user.id, session_token=kind)
        for kind, value in ENCODED.items():
            table = SAMPLES[name].session
            assert table is not None
            token = table.column("session_token").name  # type: ignore[union-attr]
            meddle(Path(store.path), SAMPLES[name], "expires", value, f"\"{token}\" = '{kind}'")
        exact = at("2026-02-01")
        for kind in ENCODED:
            end = at("2026-02-01", "03:04:05") if kind == "CURRENT_TIMESTAMP" else exact
            assert store.get_session_and_user(kind).session.expires == end, kind
        assert len(store.list_sessions(user.id)) == len(ENCODED)
        assert store.check() == []
        for clock.now in (at("2026-01-31", "23:00:00"), at("2026-02-01", "00:00:00"), at("2026-02-01", "03:04:04")):
            assert store.purge_expired().sessions == 0
        clock.now = exact - timedelta(milliseconds=1)
        assert store.purge_expired().sessions == 1, "CURRENT_TIMESTAMP has no milliseconds"
        clock.now = exact
        assert [store.get_session_and_user(kind) for kind in ENCODED] == [None] * len(ENCODED)
        assert store.purge_expired().sessions == len(ENCODED) - 1


@each_sample
@pytest.mark.parametrize("garbage", ["soon", "", "--5", "2026-13-01T00:00:00Z", b"\0", 1e300])
def test_a_date_that_is_none_is_an_error_that_does_not_show_it(name: str, file: Path, garbage: Any) -> None:
    """Auth.js would keep that user signed in for ever. ``check`` says where it is; purging leaves it alone."""
    token = "lf96TwmMd2XxPVkfNVm2hIi43X59NsJJ" if name == "better-auth" else "tok-1"
    meddle(file, SAMPLES[name], "expires", garbage)
    with opened(file, SAMPLES[name]) as store:
        for call in (store.get_session_and_user, store.touch_session):
            with pytest.raises(StorageError) as caught:
                call(token)
            assert "soon" not in str(caught.value) and token not in str(caught.value)
            assert caught.value.__cause__ is caught.value.__context__ is None
        assert store.purge_expired().sessions == 0
        problems = store.check()
        assert problems and all("session" in problem and token not in problem for problem in problems)
        assert store.delete_session(token) is None, "it can be ended"
        assert store.get_session_and_user(token) is None


# --- what is returned is what is stored -------------------------------------------------------

FINE = at("2026-03-04", "05:06:07.891234")


@each_sample
def test_what_a_write_returns_is_what_a_look_up_returns(name: str, tmp_path: Path) -> None:
    """Cut to the file's precision, in its spelling."""
    clock = FrozenClock(at("2026-01-02", "03:04:05.678901"))
    with new(name, tmp_path, clock=clock) as store:
        user = store.create_user(email=" Ada@Example.com", name="Ada", email_verified=FINE)
        assert user == store.get_user(user.id) == store.get_user_by_email("ADA@example.com")
        clock.tick(seconds=1.0000011)
        user = store.update_user(user.id, email="ADA@example.org", name="A", email_verified=FINE)
        assert user == store.get_user(user.id)
        given = {"user_id": user.id, "type": "oauth", "provider": "google", "provider_account_id": "1"}
        account = store.link_account({"expires_at": 1767323045, "scope": "a b", "unknown": 1}, **given)
        assert account == store.get_account(provider="google", provider_account_id="1")
        account = store.link_account({"access_token": "x"}, **given)
        assert account == store.get_account(provider="google", provider_account_id="1")
        session = store.create_session(user_id=user.id)
        assert session == store.get_session_and_user(session.session_token).session
        session = store.update_session(session.session_token, expires=FINE)
        assert session == store.get_session_and_user(session.session_token).session
        clock.now = at("2026-02-20", "03:04:05.678901")
        session = store.touch_session(session.session_token)
        assert session == store.get_session_and_user(session.session_token).session
        session = store.rotate_session(session.session_token)
        assert session == store.get_session_and_user(session.session_token).session
        token = store.create_verification_token(identifier=" Ada@Example.com", expires=FINE)
        used = store.use_verification_token(identifier="ada@example.com", token=token.token)
        assert used == token
        if SAMPLES[name].authenticator is not None:
            passkey = store.create_authenticator(
                user_id=user.id, credential_id="c", provider_account_id="c", credential_public_key="k", counter=1,
                credential_device_type="singleDevice", credential_backed_up=True,
            )  # fmt: skip
            assert passkey == store.get_authenticator("c")
            assert store.update_authenticator_counter("c", 2) == store.get_authenticator("c")


# --- names ------------------------------------------------------------------------------------

STRANGE = {
    "blanks": lambda name: f" {name}  x ",
    "quotes": lambda name: f"{name}\"'`]",
    "keyword": lambda name: {"User": "select", "Session": "table", "expires": "order", "id": "group"}.get(name, name),
    "Unicode": lambda name: f"{name}ß☃é",
    "injection": lambda name: f'{name}"; DROP TABLE x; --',
    "dots and clauses": lambda name: f"{name}.a, b ON c?",
}  # fmt: skip


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("name", ["prisma", "better-auth"])
def test_tables_and_columns_may_have_any_name(name: str, kind: str, tmp_path: Path) -> None:
    """Every method works, and nothing in a name is SQL."""
    rename: Callable[[str], str] = STRANGE[kind]
    schema = SAMPLES[name]
    schema = schema.renamed({table.name: rename(table.name) for table in schema.tables.values()}, rename)
    path = tmp_path / "x.sqlite"
    with opened(path, schema) as store:
        user = store.create_user(email="ada@example.com", name="Ada", email_verified=at("2026-01-02"))
        other = store.create_user(email="grace@example.com")
        account = {"provider": "google", "provider_account_id": "1"}
        store.link_account({"expires_at": 5}, user_id=user.id, type="oauth", **account)
        store.link_account({"expires_at": 6}, user_id=user.id, type="oauth", **account)
        assert store.get_account(**account).expires_at == 6
        assert store.get_user_by_account(**account) == user == store.get_user_by_email("ADA@example.com")
        with pytest.raises(ConflictError):
            store.update_user(other.id, email="Ada@example.com")
        with pytest.raises(ConflictError) as caught, store.transaction():
            for _ in range(2):  # past the rules, for what SQLite says
                store._add(SESSION, ("one",), Session("", user.id, FINE, FINE))
        assert (caught.value.model, caught.value.field) == ("Session", "session_token")
        session = store.create_session(user_id=user.id)
        assert store.touch_session(session.session_token).user_id == user.id
        session = store.rotate_session(session.session_token)
        assert [one.id for one in store.list_sessions(user.id)] == [session.id]
        assert store.revoke_session(user.id, session.id)
        token = store.create_verification_token(identifier="ada@example.com")
        assert store.use_verification_token(identifier="ada@example.com", token=token.token)
        store.create_authenticator(
            user_id=user.id, credential_id="c", provider_account_id="c", credential_public_key="k", counter=1,
            credential_device_type="singleDevice", credential_backed_up=True,
        )  # fmt: skip
        assert store.update_authenticator_counter("c", 2).counter == 2
        assert store.list_accounts(user.id) and store.list_authenticators_by_user_id(user.id)
        assert store.check() == []
        snapshot = store.snapshot()
        assert store.delete_user(user.id)
        store.restore(snapshot)
        assert store.get_user(user.id) == user
        assert store.unlink_account(**account)
        assert store.purge_expired() == (0, 0)
        store.backup(tmp_path / "backup")
    # SQLite takes a quoted name that is no column's for a text, and makes an index of that, without a word.
    indexed = "SELECT i.name FROM sqlite_schema m, pragma_index_info(m.name) i WHERE m.type = 'index'"
    columns = "SELECT c.name FROM sqlite_schema m, pragma_table_info(m.name) c WHERE m.type = 'table'"
    assert {*sql(path, indexed)} <= {*sql(path, columns)}
    names = {name for (name,) in sql(path, "SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert names == {table.name for table in schema.tables.values()}
    with opened(path, schema) as store:
        assert store.get_user(user.id) == user


# --- whose file it is -------------------------------------------------------------------------


@each_sample
@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_file_that_was_only_read_is_unchanged(name: str, mode: str, file: Path) -> None:
    """To the byte; nothing is left beside it."""
    if mode == "wal":
        assert sql(file, "PRAGMA journal_mode = wal") == [("wal",)]
    before = file.read_bytes()
    with opened(file, SAMPLES[name]) as store:
        ada = store.get_user_by_email("Ada@Example.com")
        assert store.get_user(ada.id) == ada and store.get_user_by_email("nobody@example.com") is None
        assert store.list_accounts(ada.id) and store.list_sessions(ada.id)
        assert store.get_user_by_account(provider="google", provider_account_id="1234567890") == ada
        assert store.get_session_and_user("unknown") is None
        assert store.list_authenticators_by_user_id(ada.id) is not None
        assert store.touch_session("unknown") is store.delete_session("unknown") is None
        assert store.check() == []
    assert layouts.detect(file).name == SAMPLES[name].name
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@each_sample
def test_somebody_elses_file_sees_no_ddl(name: str, file: Path, tmp_path: Path) -> None:
    """Whatever is done with the store; and its journal mode stays as it was found."""
    seen: list[str] = []
    with every_statement(seen.append), opened(file, SAMPLES[name], synchronize=True) as store:
        rows = writable(stored(file, SAMPLES[name]))
        for row in rows["users"]:
            store.delete_user(row["id"])
            store.delete_verification_tokens(row["email"])
        store.delete_verification_tokens("new@example.com")
        (write_better_auth if name == "better-auth" else write_authjs)(store, rows)
        store.purge_expired()
        store.restore(store.snapshot())
        store.check()
        store.backup(tmp_path / "backup")
    assert len(seen) > 50
    writes = [one for one in seen if re.match(r"(?i)\s*(create|alter|drop|reindex|vacuum)", one)]
    assert writes == []
    assert sql(file, "PRAGMA journal_mode") == [("delete",)]
    assert sql(file, "PRAGMA user_version") == sql(file, "PRAGMA application_id") == [(0,)]


def refused(file: Path, schema: Schema, error: type[Exception] = StorageError, **options: Any) -> str:
    """What opening the file says; AssertionError if it opens, or changes the file."""
    before = file.read_bytes()
    with pytest.raises(error) as caught:
        opened(file, schema, **options)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    return str(caught.value)


@pytest.mark.parametrize("name", ["drizzle"])
@pytest.mark.parametrize(
    "change, said",
    [
        ("DROP TABLE session", "there is no table session"),
        ("ALTER TABLE account DROP COLUMN scope", "there is no column account.scope"),
        ("ALTER TABLE user RENAME COLUMN email TO mail", "there is no column user.email"),
        ("ALTER TABLE user ADD COLUMN plan TEXT NOT NULL DEFAULT 'free'", ""),
        ("ALTER TABLE user ADD COLUMN note TEXT", ""),
        ("CREATE TABLE other (x TEXT NOT NULL)", ""),
    ],
)
def test_what_a_file_lacks_is_said_and_not_mended(file: Path, change: str, said: str) -> None:
    """Tables and columns; what others add and fill is no matter."""
    sql(file, change)
    if said:
        assert said in refused(file, layouts.drizzle, synchronize=True)
        assert said in refused(file, layouts.drizzle, synchronize=False)
    else:
        with opened(file, layouts.drizzle) as store:
            assert store.create_user(email="new@example.com")


def test_a_column_that_must_be_filled_and_is_not_is_named(tmp_path: Path) -> None:
    """At opening, not at the first sign-up."""
    file = tmp_path / "app.db"
    columns = "id TEXT PRIMARY KEY, mail TEXT, born TEXT NOT NULL, town TEXT NOT NULL DEFAULT 'x'"
    sql(file, f"CREATE TABLE people ({columns})")
    people = Schema(Table("people", {"id": "id", "email": "mail"}), name="people")
    assert "people.born must be filled" in refused(file, people)
    filled = people.replace(user=people.user.replace(fill={"born": "long ago"}))
    with opened(file, filled) as store:
        assert store.create_user(email="ada@example.com")
    assert sql(file, "SELECT mail, born, town FROM people") == [("ada@example.com", "long ago", "x")]


@dataclass(frozen=True)
class Member(User):
    plan: str | None = None


@pytest.mark.parametrize("name", ["drizzle"])
def test_a_custom_field_without_a_column_is_refused_by_name(file: Path) -> None:
    """At opening; with a column it is as any other."""
    assert "Member.plan" in refused(file, layouts.drizzle, InvalidFieldError, user=Member)
    planned = layouts.drizzle.replace(user=layouts.drizzle.user.replace(columns={"plan": "plan"}))
    assert "user.plan" in refused(file, planned, user=Member)
    sql(file, "ALTER TABLE user ADD COLUMN plan TEXT")
    with opened(file, planned, user=Member) as store:
        made = store.create_user(email="new@example.com", plan="free")
        assert store.get_user(made.id) == made and made.plan == "free"
    assert sql(file, "SELECT plan FROM user WHERE plan IS NOT NULL") == [("free",)]


@pytest.mark.parametrize("name", ["drizzle"])
def test_options_that_a_layout_cannot_honour_are_refused_by_name(file: Path) -> None:
    """An absolute age needs the time of creation, Auth.js's hashes its secret."""
    said = refused(file, layouts.drizzle, ValueError, session_absolute_age=60)
    assert "session_absolute_age" in said and "created_at" in said
    assert layouts.drizzle.verification_token is not None
    hashed = layouts.drizzle.replace(
        verification_token=replace(layouts.drizzle.verification_token, tokens="authjs"), name="hashed"
    )
    said = refused(file, hashed, ValueError)
    assert "secret=" in said and "AUTH_SECRET" in said


@pytest.mark.parametrize("name", ["prisma"])
def test_a_layout_with_the_time_of_creation_has_an_absolute_age(file: Path) -> None:
    """And only then."""
    clock = FrozenClock(at("2026-11-23"))
    with opened(file, layouts.prisma, session_absolute_age=60, clock=clock) as store:
        user = store.get_user_by_email("ada@example.com")
        assert store.create_session(user_id=user.id).expires == at("2026-11-23", "03:05:05.678")


@pytest.mark.parametrize("name", ["drizzle"])
def test_what_a_provider_sends_and_no_column_takes_is_left_out_with_one_warning(
    store: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each name in a process: sign-in must not fail for it, nor the log fill up. No value is in it."""
    monkeypatch.setattr(statements, "_left_out", set())
    ada = store.get_user_by_email("ada@example.com")
    for i in range(3):
        sent = {"team": "secret-red", "not_before_policy": 0, "scope": "a"}
        account = store.link_account(sent, user_id=ada.id, type="oauth", provider="x", provider_account_id=str(i))
        assert (account.extra, account.scope) == ({}, "a")
    said = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(said) == 2
    assert "'team'" in said[0] and "'not_before_policy'" in said[1] and "secret-red" not in str(said)


@pytest.mark.parametrize("name", ["better-auth"])
@pytest.mark.parametrize("seconds", [1767323045678, 10**17, 2**63 - 1, -(2**63), -(10**14)])
def test_seconds_that_are_no_date_keep_nobody_from_signing_in(store: Any, file: Path, seconds: int) -> None:
    """Better Auth has a date there. Some providers send milliseconds."""
    ada = store.get_user_by_email("ada@example.com")
    given = {"user_id": ada.id, "type": "oauth", "provider": "x", "provider_account_id": "1"}
    account = store.link_account({"expires_at": seconds, "access_token": "at"}, **given)
    assert (account.expires_at, account.access_token) == (None, "at")
    assert account == store.get_account(provider="x", provider_account_id="1")
    assert store.link_account({"expires_at": 1767323045}, **given).expires_at == 1767323045
    assert sql(file, "SELECT accessTokenExpiresAt FROM account WHERE providerId = 'x'") == [
        ("2026-01-02T03:04:05.000Z",)
    ]


def test_any_other_value_without_a_column_is_refused_by_name(tmp_path: Path) -> None:
    """Nothing that the application itself gives is lost in silence."""
    file = tmp_path / "app.db"
    sql(file, "CREATE TABLE people (id TEXT PRIMARY KEY, mail TEXT)")
    with opened(file, Schema(Table("people", {"id": "id", "email": "mail"}), name="people")) as store:
        for fields in ({"name": "Ada"}, {"image": "x"}, {"email_verified": FINE}):
            with pytest.raises(InvalidFieldError) as caught:
                store.create_user(**fields)
            assert (caught.value.model, caught.value.field) == ("User", *fields)
        user = store.create_user(email="ada@example.com")
        with pytest.raises(InvalidFieldError):
            store.update_user(user.id, name="Ada")
        assert store.get_user(user.id) == user
    assert sql(file, "SELECT count(*) FROM people") == [(1,)]


# --- what the file demands, and what it does not ----------------------------------------------

LOGINS = """
CREATE TABLE people (no INTEGER PRIMARY KEY, mail TEXT, login TEXT NOT NULL UNIQUE);
CREATE TABLE orders (id INTEGER PRIMARY KEY, person INTEGER NOT NULL REFERENCES people (no));
"""

people = Schema(
    Table(
        "people", {"id": Column("no", integer_id), "email": "mail"},
        fill={"login": lambda user: (user.email or "").partition("@")[0]}, makes_ids=True,
    ),
    name="people",
)  # fmt: skip


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Any]:
    with closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
        connection.executescript(LOGINS)
    with opened(tmp_path / "shop.db", people) as store:
        yield store


def test_a_unique_column_that_is_no_field_is_a_conflict_that_names_it(shop: Any) -> None:
    """Nothing is written."""
    shop.create_user(email="ada@example.com")
    with pytest.raises(ConflictError) as caught:
        shop.create_user(email="ada@example.org")
    assert (caught.value.model, caught.value.field) == ("User", "login")
    assert "ada" not in str(caught.value)
    assert shop.get_user_by_email("ada@example.org") is None


def test_rows_of_another_table_keep_their_user(shop: Any) -> None:
    """A clear error; sessions and all else are still there."""
    user = shop.create_user(email="ada@example.com")
    session = shop.create_session(user_id=user.id)
    sql(Path(shop.path), "INSERT INTO orders (person) VALUES (?)", int(user.id))
    with pytest.raises(StorageError) as caught:
        shop.delete_user(user.id)
    assert "other tables" in str(caught.value)
    assert shop.get_session_and_user(session.session_token).user == user
    sql(Path(shop.path), "DELETE FROM orders")
    assert shop.delete_user(user.id) == user


def test_a_store_is_not_set_back_where_other_tables_refer_to_users(shop: Any, tmp_path: Path) -> None:
    """Deleting and inserting users would delete, or orphan, what is not ours. It names the table."""
    shop.create_user(email="ada@example.com")
    snapshot = shop.snapshot()
    shop.create_user(email="bob@example.com")
    with pytest.raises(StorageError) as caught:
        shop.restore(snapshot)
    assert "orders" in str(caught.value)
    assert shop.get_user_by_email("bob@example.com")


def test_a_made_id_is_text_and_no_other_text_names_it(shop: Any) -> None:
    """Everything that hangs on a user takes it."""
    user = shop.create_user(email="ada@example.com")
    assert user.id == "1" and shop.get_user("1") == user
    for other in ("01", "1.0", " 1", "1 ", "+1", "one", "9" * 30, "-0"):
        assert shop.get_user(other) is None
        assert shop.list_sessions(other) == []
        with pytest.raises(InvalidFieldError):
            shop.create_user(id=other, email="x@example.com")
    assert shop.create_session(user_id="1").user_id == "1"
    assert shop.create_user(id="7", email="bob@example.com").id == "7"
    assert shop.create_user(email="eve@example.com").id == "8"


@pytest.mark.parametrize(
    "stored, asked",
    [
        ("Ada@Example.COM", "ada@example.com"),
        (" ada@example.com\t", "ADA@example.com"),
        ("\u00a0ada@example.com\u3000", "ada@example.com"),
        ("\u2028ada@example.com\u0085", "ada@example.com"),
        ("Ö@example.com", "ö@example.com"),
        ("zoe\u0308@example.com", "ZO\u00cb@example.com"),
    ],
)
@pytest.mark.parametrize("name", ["d1", "drizzle"])
def test_an_address_that_others_spelt_is_found_and_taken(
    store: Any, file: Path, name: str, stored: str, asked: str
) -> None:
    """By its normal form, which the file knows nothing of."""
    table = SAMPLES[name].user.name
    sql(file, f"UPDATE {table} SET email = ? WHERE email = 'bob@example.com'", stored)
    sql(file, f"UPDATE {table} SET email = 'x@example.com' WHERE email = 'ada@example.com'")
    assert store.get_user_by_email(asked).name == "Bob"
    with pytest.raises(ConflictError):
        store.create_user(email=asked)


KYSELY_WITH_PASSKEYS = layouts.kysely.replace(authenticator=ours(AUTHENTICATOR, "tinyauthstore_passkeys"))


class TestRaces:
    """What the file does not keep unique, d1's least of all, is kept unique by the write transaction."""

    def test_one_of_eight_threads_has_the_address_and_one_the_account(self, tmp_path: Path) -> None:
        """The others are told."""
        with new("d1", tmp_path) as store:

            def enter(i: int) -> Any:
                return store.create_user(email="Ada@Example.com" if i % 2 else "ada@example.com").id

            assert sorted(type(answer) is str for answer in race(8, attempt(enter))) == [False] * 7 + [True]
            ids = [store.create_user(email=f"{i}@example.com").id for i in range(8)]
            owners = race(8, attempt(lambda i: link_to(store, ids[i])))
            assert sorted(type(owner) is str for owner in owners) == [False] * 7 + [True]
            assert store.check() == []

    def test_one_of_eight_processes_has_the_address_the_account_and_the_token(self, tmp_path: Path) -> None:
        """Each with a connection of its own."""
        path = tmp_path / "new-d1.sqlite"
        crew = Crew(8)
        try:
            with new("d1", tmp_path) as store:
                ids = [store.create_user(email=f"{i}@example.com").id for i in range(8)]
                link = store.create_verification_token(identifier="ada@example.com", token="once")
                for task in (racing_address, racing_account, racing_token):
                    answers = crew.race(8, task, str(path), ids, link.expires)
                    assert sorted(answer is True for answer in answers) == [False] * 7 + [True], answers
                    assert {type(answer) for answer in answers if answer is not True} <= {ConflictError, bool}
                assert crew.race(8, racing_opening, str(path), ids, link.expires) == [True] * 8
                assert store.check() == []
        finally:
            crew.close()


def attempt(call: Callable[[int], Any]) -> Callable[[int], Any]:
    def tried(i: int) -> Any:
        try:
            return call(i)
        except ConflictError as error:
            return error

    return tried


def link_to(store: Any, user_id: str) -> str:
    owner: str = store.link_account(user_id=user_id, type="oauth", provider="x", provider_account_id="1").user_id
    return owner


def racing_address(i: int, path: str, ids: list[str], expires: datetime) -> Any:
    with SQLiteAdapter(path, schema=layouts.d1, durability="normal", clock=FrozenClock()) as store:
        yield
        store.create_user(email="Ada@Example.com" if i % 2 else "ada@example.com")
        return True


def racing_account(i: int, path: str, ids: list[str], expires: datetime) -> Any:
    with SQLiteAdapter(path, schema=layouts.d1, durability="normal", clock=FrozenClock()) as store:
        yield
        link_to(store, ids[i])
        return True


def racing_opening(i: int, path: str, ids: list[str], expires: datetime) -> Any:
    yield
    with SQLiteAdapter(f"{path}.new", schema=KYSELY_WITH_PASSKEYS, durability="normal") as store:
        return store.check() == []


def racing_token(i: int, path: str, ids: list[str], expires: datetime) -> Any:
    with SQLiteAdapter(path, schema=layouts.d1, durability="normal", clock=FrozenClock()) as store:
        yield
        return store.use_verification_token(identifier="ada@example.com", token="once") is not None


@pytest.mark.parametrize("name", ["d1"])
def test_what_is_wrong_already_is_reported(store: Any, file: Path) -> None:
    """Two users of an account, two addresses that are one, a record whose user is gone."""
    sql(file, "UPDATE users SET email = ' ADA@example.com' WHERE name = 'Bob'")
    sql(file, "INSERT INTO users (id, email) VALUES ('o1', 'Ö@example.com'), ('o2', 'ö@example.com')")
    sql(file, "INSERT INTO accounts SELECT 'new', 'o1', type, provider, providerAccountId, 0, 0, 0, 0, 0, 0, 0, 0, 0"
              " FROM accounts WHERE provider = 'google'")  # fmt: skip
    sql(file, "INSERT INTO sessions VALUES ('s', 'tok-9', 'ghost', '2026-02-01T03:04:05.678Z')")
    problems = store.check()
    assert any("users: 2 times" in problem and "address" in problem for problem in problems), problems
    assert any("accounts: 1 times" in problem for problem in problems)
    assert any("'ghost' does not exist" in problem for problem in problems)
    assert len(problems) == 3 and "tok-9" not in str(problems)


@pytest.mark.parametrize("name", ["typeorm"])
def test_tokens_that_are_there_twice_are_reported(store: Any, file: Path) -> None:
    """TypeORM's table allows it."""
    sql(file, "INSERT INTO verification_tokens SELECT 'again', token, identifier, expires FROM verification_tokens")
    [problem] = store.check()
    assert problem.startswith("verification_tokens: 1 times") and "abab" not in problem


# --- detect -----------------------------------------------------------------------------------


def same(one: Schema, other: Schema) -> bool:
    """Whether two schemas mean the same tables, columns and encodings."""

    def shown(schema: Schema) -> Any:
        return [
            (table.name, *sorted((f, c.name, c.codec) for f in table.columns if (c := table.column(f)) is not None))
            for table in schema.tables.values()
        ]

    return shown(one) == shown(other)


@each_sample
def test_detect_names_the_layout_of_each_sample(name: str, file: Path) -> None:
    """The very schema; the file is not touched."""
    before = file.read_bytes()
    assert same(layouts.detect(file), SAMPLES[name])
    assert layouts.detect(str(file)).name == SAMPLES[name].name
    assert file.read_bytes() == before and [*file.parent.iterdir()] == [file]


@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "prisma-unixms"])
def test_detect_names_the_layout_of_a_file_that_we_made(name: str, tmp_path: Path) -> None:
    """With tables of ours, or none, it is the other library's."""
    new(name, tmp_path).close()
    assert same(layouts.detect(tmp_path / f"new-{name}.sqlite"), SAMPLES[name])


VARIANTS: dict[str, tuple[str, list[str], Callable[[Schema], bool]]] = {
    "Prisma without times": (
        "prisma",
        [f'ALTER TABLE "{table}" DROP COLUMN "{column}"' for table in ("User", "Account", "Session")
         for column in ("createdAt", "updatedAt")],
        lambda schema: schema.session.column("created_at") is None and not schema.user.fill,  # type: ignore[union-attr]
    ),
    "Prisma without passkeys": (
        "prisma", ['DROP TABLE "Authenticator"'], lambda schema: schema.authenticator is None
    ),
    "Prisma in milliseconds, without passkeys": (
        "prisma-unixms", ['DROP TABLE "Authenticator"'],
        lambda schema: schema.session.column("expires").codec is milliseconds,  # type: ignore[union-attr]
    ),
    "Better Auth without passkeys": (
        "better-auth", ["DROP TABLE passkey"], lambda schema: schema.authenticator is None
    ),
    "TypeORM in snake case": (
        "typeorm",
        [f'ALTER TABLE {table} RENAME COLUMN "{column}" TO {layouts.snake_case(column)}' for table, column in (
            ("users", "emailVerified"), ("accounts", "userId"), ("accounts", "providerAccountId"),
            ("sessions", "sessionToken"), ("sessions", "userId"),
        )],
        lambda schema: schema.user.column("email_verified").name == "email_verified",  # type: ignore[union-attr]
    ),
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_detect_names_the_variants(variant: str, tmp_path: Path) -> None:
    """And what it names opens the file, reads and writes it."""
    name, changes, expected = VARIANTS[variant]
    file = sample(name, tmp_path)
    for change in changes:
        sql(file, change)
    schema = layouts.detect(file)
    assert schema.name == SAMPLES[name].name and expected(schema)
    with opened(file, schema) as store:
        ada = store.get_user_by_email("ada@example.com")
        session = store.create_session(user_id=ada.id)
        assert store.get_session_and_user(session.session_token) == (session, ada)
        assert store.check() == []


def test_detect_knows_our_own_files(tmp_path: Path) -> None:
    """Also while they are open."""
    with SQLiteAdapter(tmp_path / "auth.db") as store:
        store.create_user()
        assert layouts.detect(tmp_path / "auth.db") is OURS
    before = (tmp_path / "auth.db").read_bytes()
    assert layouts.detect(tmp_path / "auth.db") is OURS
    assert (tmp_path / "auth.db").read_bytes() == before and len([*tmp_path.iterdir()]) == 1


@pytest.mark.parametrize(
    "content, said",
    [(b"", "no tables"), (b"hello" * 1000, "not a database"), (None, "cannot be read"), ("wine", "wine (year, grape)")],
)
def test_detect_says_what_it_saw_instead(tmp_path: Path, content: Any, said: str) -> None:
    """An empty file, no database, no file, a stranger's; none is touched."""
    file = tmp_path / "some file?.db"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        sql(file, f"CREATE TABLE {content} (year INTEGER, grape TEXT)")
    before = file.read_bytes() if file.exists() else None
    with pytest.raises(StorageError) as caught:
        layouts.detect(file)
    assert said in str(caught.value) and caught.value.path == str(file)
    assert (file.read_bytes() if file.exists() else None) == before and len([*tmp_path.iterdir()]) <= 1


# --- an address among many --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["drizzle", "prisma", "typeorm", "sequelize", "kysely", "better-auth"])
def test_the_look_up_of_an_address_uses_the_files_index(store: Any, file: Path) -> None:
    """Where it stands in its normal form, as Auth.js and we write it. At 100,000 users of Drizzle's layout that
    takes 10 microseconds; what is not found there is looked for in all rows, which takes 7 milliseconds."""
    seen: list[str] = []
    store._connection.set_trace_callback(seen.append)
    assert store.get_user_by_email("Ada@Example.com").name == "Ada Löve"
    store._connection.set_trace_callback(None)
    [statement] = seen
    plan = " ".join(str(row[3]) for row in sql(file, f"EXPLAIN QUERY PLAN {statement}"))
    assert "INDEX" in plan and "SCAN" not in plan


# --- helpers ----------------------------------------------------------------------------------


def test_better_auths_cookie_is_made_byte_for_byte() -> None:
    """And read."""
    token = ADA_COOKIE.partition(".")[0]
    assert layouts.better_auth_cookie(token, SECRET) == ADA_COOKIE
    assert layouts.better_auth_token(ADA_COOKIE, SECRET) == token


@pytest.mark.parametrize("token", ["a", "a.b", "x" * 200, "é☃", "-_~. ", "100%", "a+b/c="])
def test_any_token_comes_back_from_its_cookie(token: str) -> None:
    """Better Auth takes them, too."""
    cookie = layouts.better_auth_cookie(token, SECRET)
    assert cookie.isascii() and not set(cookie) & set(' ;,"')
    assert layouts.better_auth_token(cookie, SECRET) == token


@pytest.mark.parametrize(
    "cookie",
    [
        "", ".", "..", "%", "%ff.%ff", ADA_COOKIE[:-3], ADA_COOKIE[:-1], "m" + ADA_COOKIE[1:], ADA_COOKIE + "x",
        ADA_COOKIE.partition(".")[0], ADA_COOKIE.partition(".")[0] + ".", "." + ADA_COOKIE.partition(".")[2],
        ADA_COOKIE.replace("InB", "Inb"), ADA_COOKIE.replace(".", "%00."), "\ud800.\ud800",
        layouts.better_auth_cookie("", SECRET), layouts.better_auth_cookie(ADA_COOKIE.partition(".")[0], "another"),
    ],
)
def test_a_cookie_that_was_tampered_with_is_nothing(cookie: str) -> None:
    """Whatever a browser sends."""
    assert layouts.better_auth_token(cookie, SECRET) is None


@pytest.mark.parametrize("name", ["better-auth"])
def test_the_links_of_the_sample_are_what_the_helper_makes(file: Path) -> None:
    """In the clear, and hashed; and the address is in them."""
    rows = dict(sql(file, "SELECT identifier, value FROM verification"))
    for token, hashed in (
        ("GLwtZIcnxnNSUlGcdAFaQlpXpAQyZcNu", False), ("YyfNYtecEFZCSBVazJDIWTpVSXFSmNyT", True),
    ):  # fmt: skip
        identifier, value = layouts.better_auth_link(token, "ada@example.com", hashed=hashed)
        assert rows[identifier] == value
        assert layouts.better_auth_email(value) == "ada@example.com"
    identifier, value = layouts.better_auth_link("rTfgozDnRNneiFmnjYdjqDKUePrpqqyN", "new@example.com", "New")
    assert rows[identifier] == value


@pytest.mark.parametrize("value", ["", "{}", "[]", "5", "a-pending-value", '{"email":"a@b"}', '{"type":"magic-link"}',
                                   '{"type":"magic-link","email":5}'])  # fmt: skip
def test_what_is_no_magic_link_has_no_address(value: str) -> None:
    """Such as the id of a user who resets a password."""
    with pytest.raises(ValueError):
        layouts.better_auth_email(value)


def hashed_links(schema: Schema) -> Schema:
    assert schema.verification_token is not None
    return schema.replace(verification_token=replace(schema.verification_token, tokens="authjs"))


@each_authjs
def test_tokens_hashed_as_auth_js_does_are_used_raw(name: str, file: Path) -> None:
    """Those that we make, and those that Auth.js made; the file never has one in the clear."""
    schema = hashed_links(SAMPLES[name])
    assert schema.verification_token is not None
    with opened(file, schema, secret="AUTH_SECRET's value") as store:
        made = store.create_verification_token(identifier="ada@example.com", token="raw")
        assert made.token == "raw"
        hashed = layouts.authjs_token("raw", "AUTH_SECRET's value")
        tokens = sql(file, f'SELECT token FROM "{schema.verification_token.name}"')
        assert sorted(tokens) == sorted([("ab" * 32,), (hashed,)]) and re.fullmatch("[0-9a-f]{64}", hashed)
        for token in (hashed, "ab" * 32, ""):
            assert store.use_verification_token(identifier="ada@example.com", token=token) is None
        assert store.use_verification_token(identifier="ada@example.com", token="raw") == made
        theirs = layouts.authjs_token("sent by Auth.js", "AUTH_SECRET's value")
        sql(file, f'UPDATE "{schema.verification_token.name}" SET token = ?', theirs)
        used = store.use_verification_token(identifier="Ada@Example.com", token="sent by Auth.js")
        assert (used.identifier, used.token, used.expires) == ("ada@example.com", "sent by Auth.js", at("2026-01-03"))
    with opened(file, SAMPLES[name]) as store:  # the same, by the helper
        store.create_verification_token(identifier="a@b", token=layouts.authjs_token("raw", "s"))
        assert store.use_verification_token(identifier="a@b", token=layouts.authjs_token("raw", "s"))


# --- the store as an object -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["prisma"])
def test_the_repr_says_which_tokens_are_in_the_clear(store: Any) -> None:
    """Of the schema, and of the store."""
    assert repr(layouts.prisma) == (
        "<layouts.prisma: User, Account, Session, VerificationToken, Authenticator;"
        " tokens in the clear in Session, VerificationToken>"
    )
    assert repr(layouts.prisma) in repr(store)
    assert "VerificationToken>" not in repr(hashed_links(layouts.prisma)).partition("clear")[2]
    assert "clear" not in repr(people) and "clear" not in repr(OURS)


def test_tokens_in_the_clear_are_warned_of_once_in_a_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each layout; for one with digests never."""
    monkeypatch.setattr(adapters_module, "_warned", set())
    for name in ("drizzle", "drizzle", "typeorm", "better-auth"):
        new(name, tmp_path).close()
    said = [record.getMessage() for record in caplog.records if "in the clear" in record.getMessage()]
    assert [text.split()[0] for text in said] == ["layouts.drizzle", "layouts.typeorm", "layouts.better_auth"]
    assert all(record.name == "tinyauthstore" and record.levelno == logging.WARNING for record in caplog.records)
    caplog.clear()
    sql(tmp_path / "app.db", "CREATE TABLE people (no INTEGER PRIMARY KEY, mail TEXT, login TEXT)")
    opened(tmp_path / "app.db", people).close()
    SQLiteAdapter(":memory:").close()
    assert caplog.records == []


@pytest.mark.parametrize("name", ["better-auth"])
def test_records_and_schemas_are_copied_and_stores_are_not(store: Any, file: Path) -> None:
    """As with files of our own."""
    ada = store.get_user_by_email("ada@example.com")
    assert pickle.loads(pickle.dumps(ada)) == copy.deepcopy(ada) == ada
    for refuse in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            refuse(store)
    for kopy in (copy.copy(layouts.better_auth), copy.deepcopy(layouts.better_auth)):
        with opened(file, kopy) as again:
            assert again.get_user(ada.id) == ada


@each_sample
@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_backup_of_somebody_elses_file_is_restored(name: str, mode: str, file: Path, tmp_path: Path) -> None:
    """All of its tables; it is the other library's file, and no mark of ours is in it."""
    sql(file, f"PRAGMA journal_mode = {mode}")
    sql(file, "CREATE TABLE notes (text TEXT)")
    sql(file, "INSERT INTO notes VALUES ('kept')")
    with opened(file, SAMPLES[name]) as store:
        ada = store.get_user_by_email("ada@example.com")
        store.backup(tmp_path / "backup")
        assert same(layouts.detect(tmp_path / "backup"), SAMPLES[name])
        assert sql(tmp_path / "backup", "PRAGMA application_id") == [(0,)]
        store.delete_user(ada.id)
        sql(file, "DELETE FROM notes")
        store.restore_backup(tmp_path / "backup")
        assert store.get_user(ada.id) == ada
        assert store.check() == []
    assert sql(file, "SELECT text FROM notes") == [("kept",)]
    assert sql(file, "PRAGMA journal_mode") == [(mode,)]
    assert sql(file, "PRAGMA application_id") == [(0,)]


@pytest.mark.parametrize("name", ["drizzle"])
def test_a_backup_of_another_layout_is_refused(store: Any, tmp_path: Path) -> None:
    """Nothing is changed."""
    for other in ("typeorm", "better-auth"):
        with pytest.raises(StorageError):
            store.restore_backup(sample(other, tmp_path))
    SQLiteAdapter(tmp_path / "ours").close()
    with pytest.raises(StorageError):
        store.restore_backup(tmp_path / "ours")
    assert store.get_user_by_email("ada@example.com")


@each_sample
def test_a_snapshot_of_somebody_elses_file_is_restored(name: str, store: Any, file: Path) -> None:
    """Every column, also those that we know nothing of."""
    before = stored(file, SAMPLES[name])
    snapshot = store.snapshot()
    ada = store.get_user_by_email("ada@example.com")
    store.delete_user(ada.id)
    store.create_user(email="new@example.com")
    assert stored(file, SAMPLES[name]) != before
    store.restore(snapshot)
    after = stored(file, SAMPLES[name])
    assert {kind: sorted(map(str, rows)) for kind, rows in after.items()} == {
        kind: sorted(map(str, rows)) for kind, rows in before.items()
    }


@apart
def test_a_forked_child_goes_on(tmp_path: Path) -> None:
    """Both read and write the same file, which SQLite was told of in time."""
    logging.getLogger("tinyauthstore").addHandler(logging.NullHandler())  # tokens in the clear are no surprise
    with new("d1", tmp_path) as store:
        user = store.create_user(email="ada@example.com")

        def child() -> None:
            assert store.get_user(user.id) == user
            store.create_session(user_id=user.id, session_token="child's")

        assert exit_code(fork(child)) == 0
        store.create_session(user_id=user.id, session_token="parent's")
        assert store.get_session_and_user("child's").user == user
        assert len(store.list_sessions(user.id)) == 2
        assert store.check() == []


# --- a schema's mistakes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "record, columns, missing",
    [
        ("user", {"email": "mail"}, "id"),
        ("account", {"provider": "p", "provider_account_id": "a", "type": "t"}, "user_id"),
        ("account", {"user_id": "u", "provider": "p", "provider_account_id": "a"}, "type"),
        ("session", {"user_id": "u", "expires": "e"}, "session_token"),
        ("session", {"user_id": "u", "session_token": "s"}, "expires"),
        ("verification_token", {"identifier": "i", "expires": "e"}, "token"),
        ("verification_token", {"identifier": "i", "token": "t"}, "expires"),
        ("authenticator", {"credential_id": "c", "user_id": "u"}, "counter"),
    ],
)
def test_a_column_that_a_record_cannot_do_without_is_named(record: str, columns: dict[str, Any], missing: str) -> None:
    """When the schema is written."""
    tables = {"user": Table("people", {"id": "id", "email": "mail"})} | {record: Table("t", columns)}
    with pytest.raises(ValueError) as caught:
        Schema(**tables, name="mine")  # type: ignore[arg-type]
    assert missing in str(caught.value) and "mine" in str(caught.value)


def test_a_misspelt_field_is_refused_by_name(tmp_path: Path) -> None:
    """Or nobody would ever have an address. The message names those that there are."""
    schema = Schema(Table("people", {"id": "id", "e_mail": "mail"}), name="mine")
    sql(tmp_path / "app.db", "CREATE TABLE people (id TEXT PRIMARY KEY, mail TEXT)")
    said = refused(tmp_path / "app.db", schema, InvalidFieldError)
    assert "'e_mail'" in said and "email" in said and "people" in said
    assert layouts.drizzle.session is not None
    for name in ("id", "token"):
        odd = layouts.drizzle.replace(session=layouts.drizzle.session.replace(columns={name: name}))
        with pytest.raises(InvalidFieldError):
            SQLiteAdapter(":memory:", schema=odd)


def test_a_session_token_takes_no_codec() -> None:
    """It is looked up as it is at every request; ``tokens`` says how it is stored."""
    assert layouts.drizzle.session is not None
    session = layouts.drizzle.session.replace(columns={"session_token": Column("sessionToken", text_id)})
    with pytest.raises(ValueError, match="tokens="):
        layouts.drizzle.replace(session=session)


def test_a_column_is_filled_by_a_field_or_by_fill() -> None:
    """Not by both."""
    with pytest.raises(ValueError, match="people.Mail"):
        Schema(Table("people", {"id": "id", "email": "mail"}, fill={"Mail": ""}), name="mine")


@pytest.mark.parametrize("schema", ["prisma", layouts, Table("t", {})])
def test_what_is_no_schema_is_a_type_error(tmp_path: Path, schema: Any) -> None:
    """No file is made."""
    with pytest.raises(TypeError):
        SQLiteAdapter(tmp_path / "auth.db", schema=schema)
    assert [*tmp_path.iterdir()] == []


def test_a_record_without_a_table_is_nothing_to_find_and_refused_by_name(tmp_path: Path) -> None:
    """Kysely has no passkeys."""
    with new("kysely", tmp_path) as store:
        user = store.create_user(email="ada@example.com")
        assert store.get_authenticator("x") is None
        assert store.list_authenticators_by_user_id(user.id) == []
        with pytest.raises(StorageError) as caught:
            store.create_authenticator(
                user_id=user.id, credential_id="c", provider_account_id="c", credential_public_key="k", counter=1,
                credential_device_type="singleDevice", credential_backed_up=True,
            )  # fmt: skip
        assert "authenticators" in str(caught.value) and "layouts.kysely" in str(caught.value)
        assert store.delete_user(user.id) == user
        store.restore(store.snapshot())
        assert store.check() == []


def test_our_own_file_is_not_opened_by_a_layout(tmp_path: Path) -> None:
    """It says how; and an empty file is nothing that a schema written by hand could fill."""
    SQLiteAdapter(tmp_path / "auth.db").close()
    assert "without schema=" in refused(tmp_path / "auth.db", layouts.drizzle)
    (tmp_path / "auth.db").write_bytes(b"")
    assert "there is no table people" in refused(tmp_path / "auth.db", people)


# --- both sides at once -----------------------------------------------------------------------


@each_sample
@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_session_that_the_other_side_ends_is_over_at_once(name: str, mode: str, file: Path) -> None:
    """Though it was kept in memory; and what the other side changes is seen."""
    sql(file, f"PRAGMA journal_mode = {mode}")
    schema = SAMPLES[name]
    with opened(file, schema) as store:
        assert schema.session is not None
        token = "lf96TwmMd2XxPVkfNVm2hIi43X59NsJJ" if name == "better-auth" else "tok-1"
        for _ in range(3):
            assert store.get_session_and_user(token).user.name == "Ada Löve"
        sql(file, f'UPDATE "{schema.user.name}" SET name = ?', "Countess")
        assert store.get_session_and_user(token).user.name == "Countess"
        sql(file, f'DELETE FROM "{schema.session.name}"')
        assert store.get_session_and_user(token) is None


def test_records_of_ours_beside_another_applications_users_are_there_after_reopening(tmp_path: Path) -> None:
    """In tables of ours, whose user ids are the application's integers; without ``synchronize``, too."""
    with closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
        connection.executescript(LOGINS)
    with opened(tmp_path / "shop.db", people) as store:
        user = store.create_user(email="ada@example.com")
        session = store.create_session(user_id=user.id)
        account = store.link_account({"team": 1}, user_id=user.id, type="oauth", provider="x", provider_account_id="1")
    with opened(tmp_path / "shop.db", people, synchronize=False) as store:
        assert store.get_session_and_user(session.session_token) == (session, user)
        assert store.list_accounts(user.id) == [account] and account.extra == {"team": 1}
        assert store.check() == []
    assert sql(tmp_path / "shop.db", "SELECT typeof(user_id) FROM tinyauthstore_sessions") == [("integer",)]
    assert session.session_token not in (tmp_path / "shop.db").read_text("latin-1"), "tables of ours have digests"


def test_tables_of_ours_are_made_only_by_synchronize(tmp_path: Path) -> None:
    """It says which are missing."""
    with closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
        connection.executescript(LOGINS)
    said = refused(tmp_path / "shop.db", people, synchronize=False)
    assert "tinyauthstore_sessions" in said and "synchronize=True" in said


def test_a_table_of_theirs_with_the_name_of_one_of_ours_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    """``ours(ACCOUNT)`` is called as TypeORM's table is: it must not get our columns."""
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(f"{LOGINS}; CREATE TABLE accounts (provider TEXT, provider_account_id TEXT, user_id INTEGER)")
    before = sql(path, "SELECT name, sql FROM sqlite_schema ORDER BY name")
    assert "table accounts lacks type" in refused(path, people.replace(account=ours(ACCOUNT)))
    assert sql(path, "SELECT name, sql FROM sqlite_schema ORDER BY name") == before


@pytest.mark.parametrize("declared", ["INTEGER PRIMARY KEY", "UUID", "STRING", "NUMERIC", "REAL"])
def test_an_id_in_a_column_that_makes_numbers_of_texts_needs_a_codec(tmp_path: Path, declared: str) -> None:
    """Else "007", " 7" and "7.0" would all be the user 7."""
    path = tmp_path / "app.db"
    sql(path, f"CREATE TABLE people (id {declared}, mail TEXT)")
    assert "codec" in refused(path, Schema(Table("people", {"id": "id", "email": "mail"})))
    opened(path, Schema(Table("people", {"id": Column("id", text_id), "email": "mail"}))).close()


def test_a_new_user_gets_nothing_that_was_left_of_a_deleted_one_with_the_same_id(tmp_path: Path) -> None:
    """SQLite gives the highest id again, and other programs may delete users without their sessions."""
    path = tmp_path / "app.db"
    sql(path, "CREATE TABLE people (id INTEGER PRIMARY KEY, mail TEXT)")
    table = Table("people", {"id": Column("id", integer_id), "email": "mail"}, makes_ids=True)
    with opened(path, Schema(table)) as store:
        ada = store.create_user(email="ada@example.com")
        session = store.create_session(user_id=ada.id)
        store.link_account(user_id=ada.id, type="oidc", provider="google", provider_account_id="1")
        sql(path, "DELETE FROM people")
        bob = store.create_user(email="bob@example.com")
        assert bob.id == ada.id
        assert store.get_session_and_user(session.session_token) is None
        assert store.get_user_by_account(provider="google", provider_account_id="1") is None
    with SplitAdapter(users=opened(path, Schema(table)), sessions=MemoryAdapter(clock=FrozenClock())) as split:
        eve = split.create_user(email="eve@example.com")
        session = split.create_session(user_id=eve.id)
        assert split.get_session_and_user(session.session_token) is not None
        sql(path, "DELETE FROM people WHERE id = ?", int(eve.id))
        assert split.create_user(email="eva@example.com").id == eve.id
        assert split.get_session_and_user(session.session_token) is None


def test_ids_and_tokens_are_compared_exactly_where_a_column_ignores_case(tmp_path: Path) -> None:
    """Else whoever is "abc" at a provider would sign in as "ABC", and a session could be ended beside the cache."""
    path, date = tmp_path / "app.db", iso("2026-02-01T03:04:05.678Z")
    for table in ("people (id, mail)", "accounts (provider, number, person, kind)", "sessions (token, person, until)"):
        sql(path, "CREATE TABLE " + re.sub(r"(\w+)([,)])", r"\1 TEXT COLLATE NOCASE\2", table))
    account = {"provider": "provider", "provider_account_id": "number", "user_id": "person", "type": "kind"}
    session = {"session_token": "token", "user_id": "person", "expires": Column("until", date)}
    schema = Schema(
        Table("people", {"id": "id", "email": "mail"}), Table("accounts", account),
        Table("sessions", session, tokens="clear"), None, None,
    )  # fmt: skip
    with opened(path, schema) as store:
        store.create_user(id="Ada", email="ada@example.com")
        store.link_account(user_id="Ada", type="oidc", provider="idp", provider_account_id="ABC")
        token = store.create_session(user_id="Ada", session_token="Token" * 9).session_token
        assert store.get_user("ADA") is None and store.list_accounts("ADA") == []
        assert store.get_user_by_account(provider="idp", provider_account_id="abc") is None
        assert store.get_account(provider="IDP", provider_account_id="ABC") is None
        assert store.get_session_and_user(token.lower()) is store.delete_session(token.lower()) is None
        assert store.get_session_and_user(token) is not None


def test_drizzles_file_is_not_taken_for_kyselys(tmp_path: Path) -> None:
    """SQLite's names ignore case, so all tables and columns are there; but Drizzle reads no dates that are text."""
    opened(tmp_path / "app.db", layouts.drizzle).close()
    assert "would get dates as text" in refused(tmp_path / "app.db", layouts.kysely)


@pytest.mark.parametrize(
    ("identifier", "value"),
    [
        ("magic-link:a", "no JSON"),
        ("magic-link:a", '{"email":"ada@example.com"}'),
        ("magic-link:a", '{"type":"magic-link","email":7}'),
        ("MAGIC-LINK:a", '{"type":"magic-link","email":"ada@example.com"}'),
    ],
)
def test_what_is_no_magic_link_is_no_record_and_in_nobodys_way(tmp_path: Path, identifier: str, value: str) -> None:
    """One such row kept all users from being deleted."""
    path, then = tmp_path / "app.db", "2099-02-01T03:04:05.678Z"
    with opened(path, layouts.better_auth) as store:
        user = store.create_user(email="ada@example.com")
        row = ("1", value, identifier, then, then, then)
        columns = "id, value, identifier, expiresAt, createdAt, updatedAt"
        sql(path, f"INSERT INTO verification ({columns}) VALUES (?, ?, ?, ?, ?, ?)", *row)
        assert store.use_verification_token(identifier="ada@example.com", token="a") is None
        assert store.delete_verification_tokens("ada@example.com") == 0
        assert store.delete_user(user.id) == user
    assert sql(path, "SELECT value FROM verification") == [(value,)]


def test_a_session_that_cannot_be_read_keeps_nobody_from_ending_all(tmp_path: Path) -> None:
    """Whatever its date is, the library whose file it is may take it."""
    path = tmp_path / "app.db"
    with opened(path, layouts.drizzle) as store:
        user = store.create_user(email="ada@example.com")
        kept, ended = (store.create_session(user_id=user.id).session_token for _ in range(2))
        sql(path, "INSERT INTO session VALUES ('unreadable', ?, 'tomorrow')", user.id)
        assert store.revoke_sessions(user.id, keep=kept) == 1
        assert sql(path, "SELECT sessionToken FROM session") == [(kept,)]
        assert store.get_session_and_user(ended) is None


def test_pages_go_on_after_an_id_that_we_would_not_write(tmp_path: Path) -> None:
    """Others may have written it."""
    with opened(tmp_path / "app.db", layouts.kysely) as store:
        for user_id in ("1", "2", "b"):
            sql(tmp_path / "app.db", "INSERT INTO User (id, email) VALUES (?, ?)", user_id, f"{user_id}@example.com")
        assert [user.id for user in store.list_users(after="1", limit=1)] == ["2"]
        assert [user.id for user in store.list_users(after="2")] == ["b"]


@pytest.mark.parametrize("name", ["d1", "drizzle"])
@pytest.mark.parametrize("cell", [b"bob@example.com", b"\xff", b""])
def test_an_address_that_is_no_text_is_a_storage_error(store: Any, name: str, file: Path, cell: bytes) -> None:
    """In every method that meets it, and for nobody else; ``check`` says so."""
    bob = store.get_user_by_email("bob@example.com")
    sql(file, f"UPDATE {SAMPLES[name].user.name} SET email = ? WHERE name = 'Bob'", cell)
    for call in (
        lambda: store.get_user(bob.id),
        lambda: store.get_session_and_user("tok-2"),
        lambda: store.update_user(bob.id, name="Bobby"),
        lambda: store.delete_user(bob.id),
    ):
        with pytest.raises(StorageError):
            call()
    assert store.get_user_by_email("ada@example.com").name == "Ada Löve"
    assert store.get_user_by_email("bob@example.com") is None
    assert any("users" in problem for problem in store.check())


GARBAGE = (b"\xff", 10**18, "soon", "")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.soak] * (name not in ("drizzle", "better-auth"))) for name in SAMPLES]
)
def test_no_value_in_any_column_raises_anything_but_our_own_errors(name: str, file: Path, store: Any) -> None:
    """Whatever somebody put there. What is said shows no value, and ``check`` goes on."""
    schema = SAMPLES[name]
    ada = store.get_user_by_email("ada@example.com").id
    [account, *_] = store.list_accounts(ada)
    key = {"provider": account.provider, "provider_account_id": account.provider_account_id}
    token = "lf96TwmMd2XxPVkfNVm2hIi43X59NsJJ" if name == "better-auth" else "tok-1"
    calls: list[Callable[[], Any]] = [
        lambda: store.get_user(ada),
        lambda: store.get_user_by_email("ada@example.com"),
        lambda: store.get_user_by_email("unknown@example.com"),
        lambda: store.get_user_by_account(**key),
        lambda: store.get_account(**key),
        lambda: store.list_accounts(ada),
        lambda: store.list_sessions(ada),
        lambda: store.list_authenticators_by_user_id(ada),
        lambda: store.get_session_and_user(token),
        lambda: store.touch_session(token),
        lambda: store.rotate_session(token),
        lambda: store.delete_session(token),
        lambda: store.revoke_sessions(ada),
        lambda: store.use_verification_token(identifier="ada@example.com", token="ab" * 32),
        lambda: store.delete_verification_tokens("ada@example.com"),
        lambda: store.update_user(ada, name="A"),
        lambda: store.update_user(ada, email="new@example.com"),
        lambda: store.create_user(email="new@example.com"),
        lambda: store.link_account(user_id=ada, type="oauth", **key),
        lambda: store.purge_expired(),
        lambda: store.delete_user(ada),
    ]
    connection = sqlite3.connect(file, isolation_level=None)
    tried = 0
    with closing(connection):
        for table in schema.tables.values():
            columns = [row[1] for row in connection.execute(f'PRAGMA table_info("{table.name}")')]
            before = connection.execute(f'SELECT rowid, * FROM "{table.name}"').fetchall()
            for (i, column), value in itertools.product(enumerate(columns, 1), GARBAGE):
                change = f'UPDATE "{table.name}" SET "{column}" = ? WHERE rowid = ?'
                try:
                    connection.execute(change, (value, before[0][0]))
                except sqlite3.IntegrityError:
                    continue
                tried += 1
                for call in calls:
                    with suppress(Undone, AuthStoreError), store.transaction():
                        call()
                        raise Undone
                assert all(isinstance(problem, str) for problem in store.check())
                connection.execute(change, (before[0][i], before[0][0]))
    assert tried > 50
    assert store.check() == []


class Undone(Exception):
    """Rolls back what was tried."""


@pytest.mark.parametrize("name", ["d1", "drizzle"])
def test_users_are_listed_by_how_an_address_begins_that_others_spelt(store: Any, file: Path, name: str) -> None:
    """By its normal form, as everywhere; what LIKE takes for a pattern is text."""
    table = SAMPLES[name].user.name
    for who, spelt in (("Ada Löve", "\u00a0BO_a@Example.com\u3000"), ("Bob", " Bo%b@example.com")):
        sql(file, f"UPDATE {table} SET email = ? WHERE name = ?", spelt, who)
    for prefix, found in (
        ("bo", {"Ada Löve", "Bob"}), ("BO_", {"Ada Löve"}), ("bo%", {"Bob"}), ("o", set()), ("bö", set()),
    ):  # fmt: skip
        assert {user.name for user in store.list_users(email_prefix=prefix)} == found, prefix
