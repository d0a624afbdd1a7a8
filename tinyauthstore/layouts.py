"""Ready-made schemas for the SQLite files of other libraries, and ``detect``, which names a file's.

::

    from tinyauthstore import SQLiteAdapter, layouts

    store = SQLiteAdapter("app.db", schema=layouts.drizzle)

``drizzle``, ``prisma``, ``typeorm``, ``sequelize``, ``kysely`` and ``d1`` are the files of Auth.js's official
adapters as their documentation has them made, ``better_auth`` those of Better Auth 1.7. Node and Python may both
have such a file open, and read and write it. Names that differ: ``layouts.typeorm.renamed(columns=snake_case)``;
another encoding of dates: ``layouts.prisma.with_dates(milliseconds)``; other columns:
``layouts.prisma.replace(user=layouts.prisma.user.replace(columns={"plan": "plan"}))``.

**These files hold session tokens in the clear**, because their libraries look sessions up by the plain value of
the cookie: whoever can read the file, or a backup of it, can sign in as anybody. Files of our own hold digests.

Addresses are written in their normal form, because Auth.js and Better Auth look for lower case only. What a column
cannot hold is refused, or, where a provider sent it, left out. Facts: each library's adapter was run, and what
it wrote was read; ``tests/files/authjs`` has those files.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import json
import os
import re
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote, unquote

from .clock import EPOCH
from .encodings import Codec, address, blank, flag, identifier, iso, milliseconds, milliseconds_as_text, text_id
from .errors import StorageError
from .schema import APPLICATION_ID, OURS, Column, Schema, Table, new_id, now, quoted

iso_z = iso("2026-02-01T03:04:05.678Z")
"""What JavaScript's ``toISOString`` writes."""

iso_offset = iso("2026-02-01T03:04:05.678+00:00")
"""What Prisma writes."""

iso_sequelize = iso("2026-02-01 03:04:05.678 +00:00")
"""What Sequelize writes."""


def snake_case(name: str) -> str:
    """``"sessionToken"`` as ``"session_token"``, as ORMs' naming strategies write it."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


# --- Auth.js ----------------------------------------------------------------------------------

_TOKENS = ("refresh_token", "access_token", "token_type", "scope", "id_token", "session_state")

_CASCADE = "ON DELETE CASCADE"


def _authjs(
    name: str,
    tables: tuple[str, ...],
    dates: Codec,
    *,
    text: str = "TEXT",
    date: str = "",
    number: str = "INTEGER",
    user_id: str = "",
    owner_id: str = "",
    id_token: str = "",
    boolean: str = "INTEGER",
    references: str | None = _CASCADE,
    ids: Codec | None = None,
    email: str = "",
    named: Callable[[str], str] = lambda column: column,
    fill: dict[str, dict[str, Any]] | None = None,
    created_at: str = "",
    keys: tuple[tuple[str, ...], ...] = ((), (), (), (), ()),
    indexes: dict[str, dict[str, str]] | None = None,
    foreign_keys: dict[str, str] | None = None,
    tail: dict[str, str] | None = None,
) -> Schema:
    """An Auth.js adapter's schema.

    ``tables``: four names, or five with authenticators. ``text``, ``date``, ``number``, ``id_token``, ``boolean``:
    the types that a new file's columns are declared with; ``user_id`` and ``owner_id``: all that is declared of the
    id of a user, and of a column that refers to it; ``keys``: the constraints; ``indexes``, by table;
    ``foreign_keys``: the names of those to the user, by table. ``named``: what becomes of a column's name in
    camelCase. ``fill``: columns besides, by table. ``tail``: columns of accounts that nobody fills.
    """
    date = date or dates.sql_type
    filled, required = fill or {}, f"{text} NOT NULL"

    def owner(i: int) -> Column:
        key = (foreign_keys or {}).get(tables[i], "") if i < len(tables) else ""
        return Column("userId", ids, declared=owner_id or required, references=references, foreign_key=key)

    def table(i: int, columns: dict[str, str | Column | None]) -> Table | None:
        if i >= len(tables):
            return None
        made = Table(
            tables[i], columns, fill=filled.get(tables[i], {}), constraints=keys[i], tokens="clear",
            declared=(tail or {}) if i == 1 else {}, indexes=(indexes or {}).get(tables[i], {}),
        )  # fmt: skip
        return made.renamed(tables[i], named)

    user = table(
        0,
        {
            "id": Column("id", ids, declared=user_id or f"{text} PRIMARY KEY NOT NULL"),
            "name": Column("name", declared=text),
            "email": Column("email", address, required="NOT NULL" in email, declared=f"{text}{email}"),
            "email_verified": Column("emailVerified", dates, declared=date),
            "image": Column("image", declared=text),
        },
    )
    assert user is not None
    return Schema(
        user,
        table(
            1,
            {
                "user_id": owner(1),
                "type": Column("type", declared=required),
                "provider": Column("provider", declared=required),
                "provider_account_id": Column("providerAccountId", declared=required),
                **{token: Column(token, declared=text) for token in _TOKENS},
                "id_token": Column("id_token", declared=id_token or text),
                "expires_at": Column("expires_at", declared=number),
            },
        ),
        table(
            2,
            {
                "session_token": Column("sessionToken", declared=required),
                "user_id": owner(2),
                "expires": Column("expires", dates, declared=f"{date} NOT NULL"),
                "created_at": Column("createdAt", dates, declared=created_at) if created_at else None,
            },
        ),
        table(
            3,
            {
                "identifier": Column("identifier", identifier, declared=required),
                "token": Column("token", declared=required),
                "expires": Column("expires", dates, declared=f"{date} NOT NULL"),
            },
        ),
        table(
            4,
            {
                "credential_id": Column("credentialID", declared=required),
                "user_id": owner(4),
                "provider_account_id": Column("providerAccountId", declared=required),
                "credential_public_key": Column("credentialPublicKey", declared=required),
                "counter": Column("counter", declared="INTEGER NOT NULL"),
                "credential_device_type": Column("credentialDeviceType", declared=required),
                "credential_backed_up": Column("credentialBackedUp", flag, declared=f"{boolean} NOT NULL"),
                "transports": Column("transports", declared=text),
            },
        ),
        name=f"layouts.{name}",
        new_file=True,
    )


_PASSKEYS = ("PRIMARY KEY ({userId}, {credentialID})",)

# Constraints are indexes of a name, where the application's own tool makes them so: drizzle-kit, Prisma and TypeORM
# compare names, and would make a second index, or the table anew.

drizzle = _authjs(
    "drizzle",
    ("user", "account", "session", "verificationToken", "authenticator"),
    milliseconds,
    indexes={
        "user": {"user_email_unique": "UNIQUE INDEX ON {email}"},
        "authenticator": {"authenticator_credentialID_unique": "UNIQUE INDEX ON {credentialID}"},
    },
    keys=(
        (),
        ("PRIMARY KEY ({provider}, {providerAccountId})",),
        ("PRIMARY KEY ({sessionToken})",),
        ("PRIMARY KEY ({identifier}, {token})",),
        _PASSKEYS,
    ),
)
"""``@auth/drizzle-adapter``: dates are INTEGER milliseconds."""

_PRISMA_TIMES = {
    "createdAt": now(iso_offset, declared="DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP"),
    "updatedAt": now(iso_offset, always=True, declared="DATETIME NOT NULL"),
}

prisma = _authjs(
    "prisma",
    ("User", "Account", "Session", "VerificationToken", "Authenticator"),
    iso_offset,
    date="DATETIME",
    boolean="BOOLEAN",
    references="ON DELETE CASCADE ON UPDATE CASCADE",
    fill={
        "User": _PRISMA_TIMES,
        "Account": {"id": new_id(), **_PRISMA_TIMES},
        "Session": {"id": new_id(), "updatedAt": _PRISMA_TIMES["updatedAt"]},
    },
    created_at="DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP",
    keys=((), (), (), (), _PASSKEYS),
    indexes={
        "User": {"User_email_key": "UNIQUE INDEX ON {email}"},
        "Account": {"Account_provider_providerAccountId_key": "UNIQUE INDEX ON {provider}, {providerAccountId}"},
        "Session": {"Session_sessionToken_key": "UNIQUE INDEX ON {sessionToken}"},
        "VerificationToken": {"VerificationToken_identifier_token_key": "UNIQUE INDEX ON {identifier}, {token}"},
        "Authenticator": {"Authenticator_credentialID_key": "UNIQUE INDEX ON {credentialID}"},
    },
    foreign_keys={table: f"{table}_userId_fkey" for table in ("Account", "Session", "Authenticator")},
)
"""``@auth/prisma-adapter``, Prisma 7: dates are ISO text. ``with_dates(milliseconds)`` for those of other set-ups."""


def _typeorm_name(kind: str, table: str, column: str) -> str:
    """What TypeORM calls a constraint; under a naming strategy it would hash other names, and make tables anew."""
    return f"{kind}_{hashlib.sha1(f'{table}_{column}'.encode(), usedforsecurity=False).hexdigest()[:27]}"


typeorm = _authjs(
    "typeorm",
    ("users", "accounts", "sessions", "verification_tokens"),
    milliseconds_as_text,
    text="varchar",
    date="varchar",
    number="bigint",
    references="ON DELETE NO ACTION ON UPDATE NO ACTION",
    fill={table: {"id": new_id("varchar PRIMARY KEY NOT NULL")} for table in ("accounts", "sessions", "verification_tokens")},
    keys=(
        (f'CONSTRAINT "{_typeorm_name("UQ", "users", "email")}" UNIQUE ({{email}})',),
        (),
        (f'CONSTRAINT "{_typeorm_name("UQ", "sessions", "sessionToken")}" UNIQUE ({{sessionToken}})',),
        (),
        (),
    ),
    foreign_keys={table: _typeorm_name("FK", table, "userId") for table in ("accounts", "sessions")},
)
"""``@auth/typeorm-adapter``: dates are milliseconds as digits."""

sequelize = _authjs(
    "sequelize",
    ("users", "accounts", "sessions", "verification_tokens"),
    iso_sequelize,
    text="VARCHAR(255)",
    date="DATETIME",
    user_id="UUID PRIMARY KEY",
    owner_id="UUID",
    id_token="TEXT",
    email=" UNIQUE",
    references="ON DELETE CASCADE ON UPDATE CASCADE",
    ids=text_id,
    named=snake_case,
    fill={table: {"id": new_id("UUID PRIMARY KEY")} for table in ("accounts", "sessions")},
    keys=((), (), ("UNIQUE ({session_token})",), ("PRIMARY KEY ({token})",), ()),
)
"""``@auth/sequelize-adapter``: snake_case, dates are ISO text with blanks."""

kysely = _authjs(
    "kysely",
    ("User", "Account", "Session", "VerificationToken"),
    iso_z,
    text="text",
    date="timestamptz",
    number="bigint",
    user_id="varchar PRIMARY KEY",
    owner_id="uuid NOT NULL",
    email=" NOT NULL UNIQUE",
    references="ON DELETE CASCADE",
    ids=text_id,
    keys=((), (), ("UNIQUE ({sessionToken})",), ("UNIQUE ({token})",), ()),
    indexes={"Account": {"Account_userId_index": "INDEX ON {userId}"}},
)
"""``@auth/kysely-adapter``: dates are ISO text, an e-mail address is required."""

d1 = _authjs(
    "d1",
    ("users", "accounts", "sessions", "verification_tokens"),
    iso_z,
    text="text",
    date="datetime",
    number="number",
    references=None,
    fill={"accounts": {"id": new_id("text PRIMARY KEY NOT NULL")}, "sessions": {"id": new_id("text NOT NULL")}},
    keys=((), (), ("PRIMARY KEY ({sessionToken})",), ("PRIMARY KEY ({token})",), ()),
    tail={"oauth_token_secret": "text DEFAULT NULL", "oauth_token": "text DEFAULT NULL"},
)
"""``@auth/d1-adapter``: dates are ISO text, there are no foreign keys."""


def authjs_token(token: str, secret: str) -> str:
    """The token as Auth.js stores it: what stands in a link's URL, and the application's AUTH_SECRET, hashed.

    ``create_verification_token(identifier=address, token=authjs_token(token, secret))`` makes a link that Auth.js
    accepts; ``use_verification_token`` with the same accepts one that Auth.js sent. Source: ``@auth/core``'s
    e-mail sign-in, SHA-256 in hexadecimal of the token followed by the secret.
    """
    return hashlib.sha256(f"{token}{secret}".encode()).hexdigest()


# --- Better Auth ------------------------------------------------------------------------------

LINK = "magic-link:"
"""How ``verification.identifier`` begins where it holds the token of a magic link."""


def better_auth_cookie(token: str, secret: str) -> str:
    """The value of Better Auth's cookie for a session token: the token, and its signature under the secret."""
    return quote(f"{token}.{_signature(token, secret)}", safe="-_.!~*'()")


def better_auth_token(cookie: str, secret: str) -> str | None:
    """The session token in the value of Better Auth's cookie; None if the signature is not the secret's."""
    token, _, given = unquote(cookie, errors="replace").rpartition(".")
    good = hmac.compare_digest(given.encode("utf-8", "replace"), _signature(token, secret).encode())
    return token if token and good else None


def _signature(token: str, secret: str) -> str:
    mac = hmac.digest(secret.encode(), token.encode("utf-8", "replace"), "sha256")
    return base64.b64encode(mac).decode()


def better_auth_link(token: str, email: str, name: str | None = None, *, hashed: bool = False) -> tuple[str, str]:
    """``identifier`` and ``value`` of the row that Better Auth's magic link plugin keeps for a token.

    ``hashed``: as with its option ``storeToken: "hashed"``.
    """
    value = {"type": "magic-link", "email": email} | ({} if name is None else {"name": name})
    if hashed:
        token = base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).decode().rstrip("=")
    return LINK + token, json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def better_auth_email(value: str) -> str:
    """The address in the ``value`` of a magic link's row. ValueError if it is none."""
    found = json.loads(value)
    if not (isinstance(found, dict) and found.get("type") == "magic-link" and isinstance(found.get("email"), str)):
        raise ValueError("no magic link")
    return str(found["email"])


def _token_in(text: str) -> str:
    return text.removeprefix(LINK)


def _seconds(text: Any) -> int:
    moment: datetime = iso_z.decode(text)  # type: ignore[misc]
    return int((moment - EPOCH).total_seconds() // 1)


_seconds_as_iso = Codec(
    "TEXT", lambda seconds: iso_z.stored(EPOCH + timedelta(seconds=seconds)), _seconds, exact=False, ordered=False
)
"""Seconds since 1970, which are a date in the file."""

_scopes = Codec("TEXT", lambda scope: scope.replace(" ", ","), lambda text: text.replace(",", " "), exact=False)

_ID = "text NOT NULL PRIMARY KEY"
_TIMES = {
    "createdAt": now(iso_z, declared="date NOT NULL"),
    "updatedAt": now(iso_z, always=True, declared="date NOT NULL"),
}
_OWNER = Column("userId", declared="text NOT NULL", references="ON DELETE CASCADE")

better_auth = Schema(
    user=Table(
        "user",
        {
            "id": Column("id", declared=_ID),
            "name": Column("name", blank(), declared="text NOT NULL"),
            "email": Column("email", address, required=True, declared="text NOT NULL UNIQUE"),
            "email_verified": Column(
                "emailVerified",
                Codec("INTEGER", lambda moment: 1, iso_z.decode, blank=0, exact=False),
                read="CASE WHEN {emailVerified} THEN {createdAt} END",
                declared="integer NOT NULL",
            ),
            "image": Column("image", declared="text"),
        },
        fill=_TIMES,
        tokens="clear",
    ),
    account=Table(
        "account",
        {
            "user_id": _OWNER,
            "type": Column("", read="CASE {providerId} WHEN 'credential' THEN 'credential' ELSE 'oauth' END"),
            "provider": Column("providerId", declared="text NOT NULL"),
            "provider_account_id": Column("accountId", declared="text NOT NULL"),
            "access_token": Column("accessToken", declared="text"),
            "refresh_token": Column("refreshToken", declared="text"),
            "id_token": Column("idToken", declared="text"),
            "expires_at": Column("accessTokenExpiresAt", _seconds_as_iso, declared="date"),
            "scope": Column("scope", _scopes, declared="text"),
        },
        fill={"id": new_id(_ID), **_TIMES},
        declared={"refreshTokenExpiresAt": "date", "password": "text"},
        indexes={"account_userId_idx": "INDEX ON {userId}"},
    ),
    session=Table(
        "session",
        {
            "session_token": Column("token", declared="text NOT NULL UNIQUE"),
            "user_id": _OWNER,
            "expires": Column("expiresAt", iso_z, declared="date NOT NULL"),
            "created_at": Column("createdAt", iso_z, declared="date NOT NULL"),
        },
        fill={"id": new_id(_ID), "updatedAt": _TIMES["updatedAt"]},
        tokens="clear",
        declared={"ipAddress": "text", "userAgent": "text"},
        indexes={"session_userId_idx": "INDEX ON {userId}"},
    ),
    verification_token=Table(
        "verification",
        {
            "identifier": Column(
                "value",
                Codec("TEXT", lambda email: better_auth_link("", email)[1], better_auth_email, exact=False),
                declared="text NOT NULL",
            ),
            "token": Column(
                "identifier",
                Codec("TEXT", lambda token: LINK + token, _token_in),
                declared="text NOT NULL",
            ),
            "expires": Column("expiresAt", iso_z, declared="date NOT NULL"),
        },
        fill={"id": new_id(_ID), **_TIMES},
        tokens="clear",
        where=(
            "{identifier} GLOB 'magic-link:*' AND CASE WHEN json_valid({value}) THEN json_type({value}, '$.email') = 'text'"
            " AND json_extract({value}, '$.type') = 'magic-link' END"
        ),
        indexes={"verification_identifier_idx": "INDEX ON {identifier}"},
    ),
    authenticator=Table(
        "passkey",
        {
            "credential_id": Column("credentialID", declared="text NOT NULL"),
            "user_id": _OWNER,
            "provider_account_id": Column("", read="{credentialID}"),
            "credential_public_key": Column("publicKey", declared="text NOT NULL"),
            "counter": Column("counter", declared="integer NOT NULL"),
            "credential_device_type": Column("deviceType", declared="text NOT NULL"),
            "credential_backed_up": Column("backedUp", flag, declared="integer NOT NULL"),
            "transports": Column("transports", declared="text"),
        },
        fill={"id": new_id(_ID), "createdAt": now(iso_z, declared="date")},
        declared={"name": "text", "aaguid": "text"},
        indexes={
            "passkey_userId_idx": "INDEX ON {userId}",
            "passkey_credentialID_idx": "INDEX ON {credentialID}",
        },
    ),
    name="layouts.better_auth",
    new_file=True,
)
"""Better Auth 1.7 with its own adapter; magic links and passkeys are its plugins'."""


NAMES = ("drizzle", "prisma", "typeorm", "sequelize", "kysely", "d1", "better_auth")
"""The ready-made schemas of this module."""


# --- whose file is it? ------------------------------------------------------------------------


def _candidates() -> list[Schema]:
    """Every layout, the more particular before those that the same file would fit, too."""
    plain_prisma = _without_times(prisma)
    return [
        better_auth,
        better_auth.replace(authenticator=None),
        drizzle,
        prisma,
        prisma.replace(authenticator=None),
        plain_prisma,
        plain_prisma.replace(authenticator=None),
        kysely,
        typeorm.renamed(columns=snake_case),
        sequelize,
        d1,
        typeorm,
    ]


def _without_times(schema: Schema) -> Schema:
    """Prisma's schema as the documentation had it before ``createdAt`` and ``updatedAt``."""
    bare = {"createdAt": None, "updatedAt": None}
    assert schema.session is not None and schema.account is not None
    return schema.replace(
        user=schema.user.replace(fill=bare),
        account=schema.account.replace(fill=bare),
        session=schema.session.replace(fill=bare, columns={"created_at": None}),
    )


def detect(path: str | os.PathLike[str]) -> Schema:
    """The schema for a SQLite file: a layout of this module, a variant of one, or that of our own files.

    Tables and columns tell, and the form of the dates that are there. The file is only read. StorageError, which
    says what was seen, if it is none of them, or no SQLite database.
    """
    import sqlite3

    path = os.fspath(path)
    # Read only, SQLite would leave a -wal behind that was not there; else it would put one that is into the file.
    mode = "ro" if any(os.path.exists(f"{path}{end}") for end in ("-wal", "-journal")) else "rw"
    try:
        uri = f"file:{quote(os.path.abspath(path))}?mode={mode}"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            connection.execute("PRAGMA query_only = ON")

            def run(sql: str, *parameters: Any) -> list[Any]:
                return connection.execute(sql, parameters).fetchall()

            if run("PRAGMA application_id") == [(APPLICATION_ID,)]:
                return OURS
            columns: dict[str, dict[str, str]] = {}
            for table, column, declared in run(
                "SELECT m.name, c.name, c.type FROM sqlite_schema m, pragma_table_info(m.name) c WHERE m.type = 'table'"
            ):
                columns.setdefault(table, {})[column] = declared
            for schema in _candidates():
                if _fits(schema, columns):
                    return _as_dated(schema, run)
    except sqlite3.Error as error:
        raise StorageError(f"{path} cannot be read as a SQLite database: {error}", path=path) from error
    seen = "; ".join(f"{table} ({', '.join(names)})" for table, names in columns.items()) or "no tables"
    raise StorageError(
        f"{path} has no layout that is known here; it has {seen}. Write a Schema for it, or name the layout that"
        " was renamed: layouts.prisma.renamed(...)",
        path=path,
    )


def _fits(schema: Schema, columns: dict[str, dict[str, str]]) -> bool:
    """Whether the tables are there with all columns that the schema names; which of d1 and typeorm it is, only
    the columns' types tell."""
    for table in schema.tables.values():
        named = {table.column(field).name for field in table.columns if table.column(field) is not None}  # type: ignore[union-attr]
        if not {*filter(None, named), *table.fill, *table.declared} <= columns.get(table.name, {}).keys():
            return False
    if schema.name == "layouts.d1":
        return columns["accounts"]["expires_at"].lower() == "number"
    return True


def _as_dated(schema: Schema, run: Callable[..., list[Any]]) -> Schema:
    """The schema, or its variant with dates in milliseconds, if that is what the file has."""
    table = schema.session
    assert table is not None
    column = table.column("expires")
    assert column is not None and column.codec is not None
    if column.codec.sql_type == "TEXT" and schema.name != "layouts.typeorm":
        found = run(f"SELECT typeof({quoted(column.name)}), count(*) FROM {quoted(table.name)} GROUP BY 1 ORDER BY 2 DESC")
        if found and found[0][0] == "integer":
            return dataclasses.replace(schema.with_dates(milliseconds), name=schema.name)
    return schema
