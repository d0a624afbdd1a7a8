"""How records lie in SQLite: tables, columns, codecs, and every SQL statement there is.

One STRICT table per kind of record, keyed by what identifies it and stored in key order (WITHOUT
ROWID: one B-tree descent per look-up, measured 20 % faster and 40 % smaller at a million sessions).

=====================  ===========================================  =================================
table                  key                                          besides the record's fields
=====================  ===========================================  =================================
users                  id                                           email_key (unique): normal form
accounts               provider, provider_account_id
sessions               token_digest: SHA-256 or HMAC-SHA-256        no token; ``id`` is in the digest
verification_tokens    identifier_key, token_digest                 no token
authenticators         credential_id
=====================  ===========================================  =================================

Datetimes are INTEGER microseconds since 1970 UTC, booleans INTEGER 0/1, dicts and lists JSON TEXT.
A custom model's fields are ordinary columns with their default, so that any SQLite tool reads them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from .errors import InvalidFieldError
from .models import (
    ENTITIES,
    RECORDS,
    SESSION,
    USER,
    UTC,
    VERIFICATION_TOKEN,
    Entity,
    Field,
    Record,
    SessionAndUser,
    dump_json,
    fields_of,
    load_json,
    session_id,
    unfrozen,
)

APPLICATION_ID = 0x74415553
"""``tAUS``, in the SQLite header: the file is a tinyauthstore."""

USER_VERSION = 1
"""The schema's version, in the SQLite header. A file with a higher one is refused."""

MINIMUM_SQLITE = (3, 37, 0)
"""The first SQLite with STRICT tables."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_microseconds(moment: datetime) -> int:
    """Microseconds since 1970 UTC, exact; a float of seconds would lose the last digits."""
    return (moment - _EPOCH) // _MICROSECOND


_EXACT = 2**32 * 10**6
"""Up to here (2106) a float of seconds is near enough for ``fromtimestamp`` to round it to the right microsecond."""

_from_timestamp = datetime.fromtimestamp  # bound here: who freezes time in a test replaces the class in every module

if _from_timestamp(1893456000, UTC) != datetime(2030, 1, 1, tzinfo=UTC):
    _EXACT = 0  # TZ=right/...: the C library counts leap seconds, POSIX and our files do not


def from_microseconds(number: int) -> datetime:
    """The aware UTC datetime of ``to_microseconds``."""
    if 0 <= number < _EXACT:
        return _from_timestamp(number / 1e6, UTC)  # half the time of the sum below; three of them to a look-up
    return _EPOCH + timedelta(0, 0, number)


class Codec(NamedTuple):
    """A kind's SQL type, how its values become that, and how they come back: source, ``{0}`` being the value
    (None: as they are)."""

    sql_type: str
    encode: Callable[[Any], Any] | None = None
    decode: str | None = None


def _container(kind: type, text: str) -> Any:
    """The dict or list that JSON text holds; TypeError if it holds anything else."""
    value = load_json(text)
    if not isinstance(value, kind):
        raise TypeError(f"not a {kind.__name__}")
    return value


CODECS = {
    "text": Codec("TEXT"),
    "integer": Codec("INTEGER"),
    "real": Codec("REAL"),
    "boolean": Codec("INTEGER", int, "bool({0})"),
    "bytes": Codec("BLOB"),
    "datetime": Codec("INTEGER", to_microseconds, "from_microseconds({0})"),
    "object": Codec("TEXT", dump_json, "container(dict, {0})"),
    "array": Codec("TEXT", dump_json, "container(list, {0})"),
}

DERIVED = {"email_key": Codec("TEXT"), "identifier_key": Codec("TEXT"), "token_digest": Codec("BLOB")}
"""Columns that are no field of the record: normal forms and digests, which look-ups go by."""


def quoted(name: str) -> str:
    """An SQL identifier, safe whatever a custom field is called."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: Any) -> str:
    """An SQL literal, for the DEFAULT clause, which takes no parameters."""
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"X'{value.hex()}'"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return {"inf": "9e999", "-inf": "-9e999"}.get(repr(value), repr(value))


class Column(NamedTuple):
    """A column's name, its type, and its whole definition."""

    name: str
    sql_type: str
    definition: str


class Table:
    """One entity's table for one model: its columns, its codecs, its statements."""

    def __init__(self, entity: Entity, model: type[Record]) -> None:
        self.entity = entity
        self.model = model
        fields = fields_of(model)
        self._stored = [f for f in fields if f.name not in entity.withheld]
        self._refuse_clashes(fields)
        derived = [name for name in (*entity.key, entity.group) if name in DERIVED]
        self.columns = [
            *(self._derived_column(name) for name in dict.fromkeys(derived)),
            *(self._field_column(f) for f in self._stored),
        ]
        self._extra_group = entity.group if entity.group in DERIVED and entity.group not in entity.key else None
        self._written = [
            (f.name, CODECS[f.kind.name].encode) for f in self._stored if f.name not in entity.key
        ]
        self._fields = fields
        self._keyword_only = any(f.keyword_only for f in fields)
        # Every statement about this table. The key's parts come first in all of them.
        name = quoted(entity.plural)
        key = " AND ".join(f"{quoted(part)} = ?" for part in entity.key)
        keys = ", ".join(map(quoted, entity.key))
        written = [*entity.key, *filter(None, [self._extra_group]), *(n for n, _ in self._written)]
        selected = ", ".join(self.selected())
        self.select = f"SELECT {selected} FROM {name} WHERE {key}"
        self.select_group = f"SELECT {keys}, {selected} FROM {name} WHERE {quoted(entity.group)} = ? ORDER BY {keys}"
        self.select_all = f"SELECT {keys}, {selected} FROM {name} ORDER BY {keys}"
        self.put = (
            f"INSERT INTO {name} ({', '.join(map(quoted, written))})"
            f" VALUES ({', '.join('?' * len(written))}) ON CONFLICT ({keys}) DO UPDATE SET "
            + ", ".join(f"{quoted(n)} = excluded.{quoted(n)}" for n in written[len(entity.key) :])
        )
        self.rekey = f"UPDATE {name} SET {', '.join(f'{quoted(part)} = ?' for part in entity.key)} WHERE {key}"
        self.delete = f"DELETE FROM {name} WHERE {key} RETURNING {selected}"
        self.delete_group = f"DELETE FROM {name} WHERE {quoted(entity.group)} = ?"
        self.delete_all = f"DELETE FROM {name}"
        self.dump = f"SELECT * FROM {name}"
        self.purge = (
            f"DELETE FROM {name} WHERE ({keys}) IN"
            f" (SELECT {keys} FROM {name} WHERE expires <= ? ORDER BY expires LIMIT ?)"
            f" RETURNING {quoted(entity.key[-1])}"
        )

    def load(self, width: int) -> str:
        """The statement that puts back a row of ``dump``, of ``width`` columns."""
        return f"INSERT INTO {quoted(self.entity.plural)} VALUES ({', '.join('?' * width)})"

    # -- DDL

    def create(self) -> list[str]:
        """The statements that make this table and its indexes."""
        key = ", ".join(map(quoted, self.entity.key))
        return [
            f"CREATE TABLE {quoted(self.entity.plural)} ("
            + ", ".join(column.definition for column in self.columns)
            + f", PRIMARY KEY ({key})) STRICT, WITHOUT ROWID",
            *self.indexes().values(),
        ]

    def indexes(self) -> dict[str, str]:
        """The statement that makes each index, by the index's name."""
        wanted = {self.entity.group: "UNIQUE INDEX" if self.entity is USER else "INDEX"}
        if self.entity in (SESSION, VERIFICATION_TOKEN):
            wanted["expires"] = "INDEX"
        return {
            f"{self.entity.plural}_{column}": f"CREATE {kind} {quoted(f'{self.entity.plural}_{column}')}"
            f" ON {quoted(self.entity.plural)} ({quoted(column)})"
            for column, kind in wanted.items()
            if column != self.entity.key[0]  # the primary key serves as that index
        }

    def add_column(self, column: Column) -> str:
        """The statement that adds a column to an existing table; its rows get the default."""
        return f"ALTER TABLE {quoted(self.entity.plural)} ADD COLUMN {column.definition}"

    def _derived_column(self, name: str) -> Column:
        sql_type = DERIVED[name].sql_type
        not_null = " NOT NULL" if name in self.entity.key else ""
        return Column(name, sql_type, f"{quoted(name)} {sql_type}{not_null}")

    def _field_column(self, f: Field) -> Column:
        codec = CODECS[f.kind.name]
        definition = f"{quoted(f.name)} {codec.sql_type}"
        if not f.optional:
            definition += " NOT NULL"
        if f.default is not None and (default := f.default()) is not None:
            default = f.check(default)
            default = codec.encode(default) if codec.encode else default
            if isinstance(default, str) and "\0" in default:
                raise InvalidFieldError(
                    f"{self.model.__name__}.{f.name}: its default holds a NUL character, which SQL cannot"
                    " write; use default_factory or another default",
                    model=self.model.__name__,
                    field=f.name,
                    expected="a default without NUL",
                )
            definition += f" DEFAULT {literal(default)}"
        if f.name == self.entity.group == "user_id":
            definition += " REFERENCES users (id) ON DELETE CASCADE"
        return Column(f.name, codec.sql_type, definition)

    def _refuse_clashes(self, fields: Sequence[Field]) -> None:
        seen = {name: name for name in DERIVED}
        for f in fields:
            if (other := seen.get(f.name.lower())) is not None:
                raise InvalidFieldError(
                    f"{self.model.__name__}.{f.name} clashes with the column {other}: SQLite's names"
                    " ignore case; rename the field",
                    model=self.model.__name__,
                    field=f.name,
                    expected="a name that no other column has",
                )
            seen[f.name.lower()] = f.name

    # -- rows

    @functools.cached_property
    def record(self) -> Callable[[Sequence[Any]], Any]:
        """The record that a row of ``selected`` columns holds; a token in it is withheld."""
        return _compiled("row", self.cells(), self.made(), self.entity.name, [self])

    def selected(self, prefix: str = "", *, skip: Sequence[str] = ()) -> list[str]:
        """The columns of a row that ``record`` takes: the stored fields, and the digest that an id is made of."""
        return [prefix + quoted(name) for name in self._selected(skip)]

    def cells(self, *, skip: Sequence[str] = ()) -> list[str]:
        """The names in ``made`` for the values of ``selected``."""
        return [self.cell(name) for name in self._selected(skip)]

    def cell(self, column: str) -> str:
        """A name that is nothing else's in ``_compiled``, whatever a custom field is called."""
        return f"{self.entity.plural}_{column}"

    def _selected(self, skip: Sequence[str]) -> list[str]:
        names = [*(f.name for f in self._stored), *["token_digest"] * ("id" in self.entity.withheld)]
        return [name for name in names if name not in skip]

    @functools.cached_property
    def unfrozen(self) -> type | None:
        """What the model's records are filled in as; None for a model of somebody else's."""
        return unfrozen(self.model) if self.model in RECORDS else None

    def made(self, **given: str) -> list[str]:
        """Source: the lines that make a record of ``cells``, the fields ``given`` being taken from elsewhere.

        A model of somebody else's may do things of its own in ``__init__``. Ours are frozen dataclasses, which
        fill themselves in through ``object.__setattr__``, field by field: three times as slow as this.
        """
        values = {f.name: given.get(f.name) or self._decoded(f) for f in self._fields}
        record, model = self.entity.name, f"{self.entity.name}_model"
        if self.unfrozen is not None:
            filled = [f"{record}.{name} = {value}" for name, value in values.items()]
            return [f"{record} = new({model}_unfrozen)", *filled, f"{record}.__class__ = {model}"]
        arguments = [f"{name}={value}" if self._keyword_only else value for name, value in values.items()]
        return [f"{record} = {model}({', '.join(arguments)})"]

    def _decoded(self, f: Field) -> str:
        cell, codec = self.cell(f.name), CODECS[f.kind.name]
        if f.name in self.entity.withheld:
            return f"session_id({self.cell('token_digest')})" if f.name == "id" else "''"
        if codec.decode is None:
            return cell
        return f"None if {cell} is None else {codec.decode.format(cell)}"  # also where an older model was optional

    def row(self, key: Sequence[Any], record: Any) -> list[Any]:
        """The parameters of ``put``."""
        row = list(key)
        if self._extra_group is not None:
            row.append(self.entity.group_of(record))
        for name, encode in self._written:
            value = getattr(record, name)
            row.append(value if value is None or encode is None else encode(value))
        return row


def _compiled(
    parameters: str, cells: Sequence[str], body: Iterable[str], result: str, tables: Iterable[Table]
) -> Callable[..., Any]:
    """The function of ``row`` (and other ``parameters``) that names its cells, runs the ``body`` and returns
    the ``result``, all source.

    As the standard library makes the ``__init__`` of a dataclass. A loop over fields and decoders, with the
    records' own constructors, took twice as long, which made a look-up 20 % slower.
    """
    names: dict[str, Any] = {
        "new": object.__new__,
        "new_tuple": tuple.__new__,
        "SessionAndUser": SessionAndUser,
        "session_id": session_id,
        "container": _container,
        "from_microseconds": from_microseconds,
    }
    for table in tables:
        names[f"{table.entity.name}_model"] = table.model
        names[f"{table.entity.name}_model_unfrozen"] = table.unfrozen
    lines = [f"def read({parameters}):", f"{', '.join(cells)}, = row", *body, f"return {result}"]
    exec("\n    ".join(lines), names)
    read: Callable[..., Any] = names["read"]
    return read


class Schema:
    """The tables for a set of models, and the statements that span two of them."""

    _NOT_READ = ("token_digest", "user_id")  # of a session found by its digest, joined to its user

    def __init__(self, models: Iterable[type[Record]]) -> None:
        self.tables = {entity: Table(entity, model) for entity, model in zip(ENTITIES, models)}
        self.create = [statement for table in self.tables.values() for statement in table.create()]
        self.pages: bytes | None = None
        """An empty database with these tables, from the first store in memory; None before, and where SQLite cannot
        serialize."""
        session, user = self.tables[SESSION], self.tables[USER]
        self.session_and_user = (
            f"SELECT {', '.join([*session.selected('s.', skip=self._NOT_READ), *user.selected('u.')])}"
            " FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.token_digest = ?"
        )
        self.user_by_account = (
            f"SELECT {', '.join(user.selected('u.'))} FROM accounts a JOIN users u ON u.id = a.user_id"
            " WHERE a.provider = ? AND a.provider_account_id = ?"
        )

    @functools.cached_property
    def found(self) -> Callable[[Sequence[Any], str, bytes], SessionAndUser[Any, Any]]:
        """The records that a row of ``session_and_user`` holds, given the token presented and its digest."""
        session, user = self.tables[SESSION], self.tables[USER]
        return _compiled(
            "row, session_token, digest",
            [*session.cells(skip=self._NOT_READ), *user.cells()],
            [
                *session.made(session_token="session_token", id="session_id(digest)", user_id=user.cell("id")),
                *user.made(),
            ],
            "new_tuple(SessionAndUser, (session, user))",
            [session, user],
        )

    def differences(self, found: Iterable[tuple[str, str, str]]) -> tuple[list[str], list[str], list[str]]:
        """What a file lacks, given the rows of ``INSPECT``.

        Three lists: the statements that would add what is missing, the same in words, and what
        cannot be mended by adding (a column of another type), in words.
        """
        present = {(table, column): sql_type for table, column, sql_type in found}
        statements, missing, wrong = [], [], []
        for table in self.tables.values():
            name = table.entity.plural
            if not any(other == name for other, _ in present):
                statements += table.create()
                missing.append(f"table {name}")
                continue
            for column in table.columns:
                sql_type = present.get((name, column.name))
                if sql_type is None:
                    statements.append(table.add_column(column))
                    missing.append(f"column {name}.{column.name} ({column.definition})")
                elif sql_type != column.sql_type:
                    wrong.append(f"column {name}.{column.name} is {sql_type}, the model needs {column.sql_type}")
            for index, statement in table.indexes().items():
                if (name, f"index {index}") not in present:
                    statements.append(statement)
                    missing.append(f"index {index}")
        return statements, missing, wrong


INSPECT = (
    "SELECT m.name, c.name, c.type FROM sqlite_schema m, pragma_table_info(m.name) c WHERE m.type = 'table'"
    " UNION ALL SELECT tbl_name, 'index ' || name, '' FROM sqlite_schema WHERE type = 'index'"
)
"""Every table's columns with their types, and its indexes, in one query."""

DATA_VERSION = "PRAGMA data_version"
"""A number that differs as soon as another connection has committed to the file."""

STRAY_EMAIL_KEYS = "SELECT id FROM users WHERE email IS NULL AND email_key IS NOT NULL"

FOREIGN_TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name LIMIT 3"

MARK = (f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {USER_VERSION}")


@functools.lru_cache(maxsize=64)
def schema_for(models: tuple[type[Record], ...]) -> Schema:
    """The schema for these models, built once a process: a fresh store per test should cost little."""
    return Schema(models)
