"""The whole kit over the files of other libraries, and over two schemas written by hand."""

from __future__ import annotations

import fnmatch
import itertools
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
from test_contract import Ours

from tinyauthstore import SQLiteAdapter, layouts
from tinyauthstore.encodings import Codec, blank, codec_of, integer_id, iso, milliseconds
from tinyauthstore.models import AUTHENTICATOR, ENTITIES, fields_of
from tinyauthstore.schema import Column, Schema, Table, now, ours
from tinyauthstore.testing import AdapterContract


class Limit(NamedTuple):
    """Tests that some classes fail, all of them, because of what their files cannot hold."""

    classes: str
    tests: str
    reason: str


AUTHJS = "Drizzle Prisma* TypeORM* Sequelize* Kysely D1"
LAYOUTS = f"{AUTHJS} BetterAuth*"
LIMITS: list[Limit] = []


def limit_of(cls: type, test: str) -> str | None:
    """Why the test fails for that class; None if it does not."""
    for limit in LIMITS:
        if any(fnmatch.fnmatchcase(cls.__name__, f"Test{one}") for one in limit.classes.split()):
            if any(fnmatch.fnmatchcase(test, one.replace("[", "[[]")) for one in limit.tests.split(" | ")):
                return limit.reason
    return None


# --- the factories ----------------------------------------------------------------------------


def with_columns(schema: Schema, models: dict[str, Any]) -> Schema:
    """The schema with a column for each custom field, as its application might have made them; and with a table
    for passkeys, if it has none."""
    for entity in ENTITIES:
        table, model = getattr(schema, entity.name), models.get(entity.name)
        if table is None:
            schema = schema.replace(**{entity.name: ours(entity, f"our_{entity.plural}")})
        elif model is not None and not table.ours:
            standard = {f.name for f in fields_of(entity.record)}
            custom = {
                f.name: Column(f.name, declared=codec_of(f.kind).sql_type)
                for f in fields_of(model)
                if f.name not in standard
            }
            schema = schema.replace(**{entity.name: table.replace(columns=custom)})
    return schema


class Addressed(SQLiteAdapter):
    """Every user has an address, because the file says NOT NULL."""

    numbers = itertools.count()

    def create_user(self, /, *given: Any, **fields: Any) -> Any:
        if not given and fields.get("email") is None:
            fields["email"] = f"somebody-{next(self.numbers)}@example.org"
        return super().create_user(*given, **fields)


class Laid(Ours):
    """A store over another library's file; what fails stands in ``LIMITS``."""

    schema: ClassVar[Schema]
    kind: ClassVar[type[SQLiteAdapter]] = SQLiteAdapter

    @pytest.fixture(autouse=True)
    def limit(self, request: pytest.FixtureRequest) -> None:
        if reason := limit_of(type(self), request.node.name):
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))

    @classmethod
    def make(cls, folder: Path, **options: Any) -> Any:
        return cls.kind(":memory:", schema=with_columns(cls.schema, options), **options)


class InAFile(Laid):
    """In a file that ``synchronize=True`` makes."""

    @classmethod
    def make(cls, folder: Path, **options: Any) -> Any:
        path = folder / f"{len([*folder.iterdir()])}.sqlite"
        schema = with_columns(cls.schema, options)
        return cls.kind(path, schema=schema, synchronize=True, durability="normal", **options)


class TestDrizzle(Laid, AdapterContract):
    schema = layouts.drizzle


class TestPrisma(Laid, AdapterContract):
    schema = layouts.prisma


class TestTypeORM(Laid, AdapterContract):
    schema = layouts.typeorm


class TestSequelize(Laid, AdapterContract):
    schema = layouts.sequelize


class TestKysely(Laid, AdapterContract):
    schema = layouts.kysely
    kind = Addressed


class TestD1(Laid, AdapterContract):
    schema = layouts.d1


class TestBetterAuth(Laid, AdapterContract):
    schema = layouts.better_auth
    kind = Addressed


class TestSequelizeFile(InAFile, AdapterContract):
    schema = layouts.sequelize


@pytest.mark.soak
class TestBetterAuthFile(InAFile, AdapterContract):
    schema = layouts.better_auth
    kind = Addressed


@pytest.mark.soak
class TestPrismaMilliseconds(Laid, AdapterContract):
    schema = layouts.prisma.with_dates(milliseconds)


@pytest.mark.soak
class TestTypeORMSnakeCase(Laid, AdapterContract):
    schema = layouts.typeorm.renamed(columns=layouts.snake_case)


# --- schemas written by hand ------------------------------------------------------------------

APP_USERS = """
CREATE TABLE app_users (
    no INTEGER PRIMARY KEY AUTOINCREMENT,
    login TEXT NOT NULL UNIQUE,
    mail TEXT UNIQUE,
    full_name TEXT NOT NULL,
    picture TEXT,
    confirmed TEXT,
    created TEXT NOT NULL
)"""

app_users = Schema(
    user=Table(
        "app_users",
        columns={
            "id": Column("no", integer_id),
            "email": "mail",
            "name": Column("full_name", blank()),
            "image": "picture",
            "email_verified": Column("confirmed", iso("2026-02-01 03:04:05")),
        },
        fill={"created": now(iso("2026-02-01 03:04:05")), "login": lambda user: user.email or f"guest {id(user)}"},
        makes_ids=True,
    ),
    name="app_users",
)

AUTH_USER = """
CREATE TABLE "auth_user" (
    "id" integer NOT NULL PRIMARY KEY AUTOINCREMENT,
    "password" varchar(128) NOT NULL,
    "last_login" datetime NULL,
    "is_superuser" bool NOT NULL,
    "username" varchar(150) NOT NULL UNIQUE,
    "first_name" varchar(150) NOT NULL,
    "last_name" varchar(150) NOT NULL,
    "email" varchar(254) NOT NULL,
    "is_staff" bool NOT NULL,
    "is_active" bool NOT NULL,
    "date_joined" datetime NOT NULL
)"""

django = Schema(
    user=Table(
        "auth_user",
        columns={
            "id": Column("id", integer_id),
            "email": Column("email", blank()),
            "name": Column("first_name", blank()),
        },
        fill={
            "username": lambda user: user.email or f"guest {id(user)}",
            "password": "!",
            "last_name": "",
            "is_superuser": False,
            "is_staff": False,
            "is_active": True,
            "date_joined": now(iso("2026-02-01 03:04:05.678901")),
        },
        makes_ids=True,
    ),
    name="django",
)


def _numbered() -> Codec:
    """``integer_id``, but each text that is no number gets one, below 0: the kit calls its users by name."""
    numbers: dict[str, int] = {}
    names: dict[int, str] = {}

    def encode(text: str) -> int:
        try:
            return integer_id.encode(text)  # type: ignore[misc]
        except ValueError:
            number = numbers.setdefault(text, -1 - len(numbers))
            names[number] = text
            return number

    return integer_id._replace(encode=encode, decode=lambda cell: names.get(cell) or integer_id.decode(cell))  # type: ignore[misc]


NUMBERED = _numbered()


class ByHand(Laid):
    """Beside tables of ours, in a file that an application has made."""

    ddl: ClassVar[str]

    @classmethod
    def make(cls, folder: Path, **options: Any) -> Any:
        path = folder / f"{len([*folder.iterdir()])}.sqlite"
        user = cls.schema.user
        id_column = user.column("id")
        assert id_column is not None
        named = user.replace(columns={"id": Column(id_column.name, NUMBERED)})
        schema = with_columns(cls.schema.replace(user=named), options)
        extended = [name for name in schema.user.columns if name not in named.columns]
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.executescript("PRAGMA synchronous = OFF; PRAGMA journal_mode = WAL")
            connection.execute(cls.ddl)
            for name in extended:
                column = schema.user.column(name)
                assert column is not None
                connection.execute(f"ALTER TABLE {user.name} ADD COLUMN {column.name} {column.declared}")
        return cls.kind(path, schema=schema, durability="normal", **options)


class TestAppUsers(ByHand, AdapterContract):
    schema = app_users
    ddl = APP_USERS


class TestDjango(ByHand, AdapterContract):
    schema = django
    ddl = AUTH_USER
