"""The files of Auth.js's official adapters and of Better Auth: read, written, left alone; and what is refused."""

from __future__ import annotations

import copy
import itertools
import logging
import math
import pickle
import random
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support import Crew, apart, every_statement, exit_code, fork

from tinyauthstore import (
    Account, AuthStoreError, Authenticator, ConflictError, InvalidFieldError, Session, SQLiteAdapter,
    StorageError, User, encodings, layouts, statements,
)
from tinyauthstore import adapters as adapters_module
from tinyauthstore.encodings import (
    Codec, blank, float_milliseconds, float_seconds, integer_id, iso, microseconds, milliseconds,
    milliseconds_as_text, seconds, text_id,
)
from tinyauthstore.schema import OURS, Column, Schema, Table, new_id, now, ours
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
            {"email": "ada@example.com", "name": "Ada Löve", "image": "https://e.x/a.png", "email_verified": at("2026-01-02")},
            {"email": "bob@example.com", "name": "Bob"},
            {"email": "eve@example.com", "email_verified": at("2026-01-02", "03:04:05")},
        ),
    ):
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
    """Without what only Better Auth writes: accounts with a password, the name in a magic link's JSON, and
    when a passkey was made, which is optional."""
    kept = {kind: [dict(row) for row in found] for kind, found in rows.items()}
    kept["accounts"] = [row for row in kept["accounts"] if row.get("password") is None]
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
    before = stored(file, SAMPLES[name])
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
        for kind, rows in stored(file, SAMPLES[name]).items()
        for row, old in zip(rows, before[kind])
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
    """Under a new token."""
    token = "lf96TwmMd2XxPVkfNVm2hIi43X59NsJJ" if name == "better-auth" else "tok-1"
    before = stored(file, SAMPLES[name])["sessions"]
    rotated = store.rotate_session(token)
    key = "token" if name == "better-auth" else "session_token" if name == "sequelize" else "sessionToken"
    changed = [
        {column for column in row if row[column] != old[column]}
        for row, old in zip(sorted(stored(file, SAMPLES[name])["sessions"], key=str), sorted(before, key=str))
    ]
    found = [row[key] for row in stored(file, SAMPLES[name])["sessions"]]
    assert rotated.session_token in found and token not in found and len(found) == len(before)
    assert set().union(*changed) <= {key, "updatedAt", "userId", "expires"} or name != "prisma"


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
    """What Drizzle notes of its own migrations apart."""
    new(name, tmp_path).close()
    theirs, ours = structure(file), structure(tmp_path / f"new-{name}.sqlite")
    theirs.pop("__drizzle_migrations", None)
    assert ours.keys() == theirs.keys()
    for table, parts in theirs.items():
        for part, expected in parts.items():
            assert ours[table][part] == expected, f"{part} of {table}"
