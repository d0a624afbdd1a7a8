"""How records are stored in SQLite: tables, columns, codecs, and every SQL statement about records.

One STRICT table per kind of record, whose primary key is the record's key. It is stored in the key's order
(WITHOUT ROWID: one B-tree descent per look-up, measured 20 % faster and 40 % smaller at a million sessions).

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
A custom model's fields are ordinary columns with their default, so that any SQLite tool reads them; what
their INTEGER or TEXT means is in the table ``custom_fields``: a model that reads it otherwise is refused.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, NamedTuple

from .clock import EPOCH, FIRST, LAST, UTC, from_timestamp, plain
from .errors import InvalidFieldError
from .models import (
    ENTITIES,
    MAX_KEY_LENGTH,
    SESSION,
    USER,
    VERIFICATION_TOKEN,
    Entity,
    Field,
    Kind,
    Record,
    SessionAndUser,
    dump_json,
    fields_of,
    filler,
    load_json,
    session_id,
)

APPLICATION_ID = 0x74415553
"""``tAUS``, in the SQLite header: the file is a tinyauthstore."""

USER_VERSION = 2
"""The schema's version, in the SQLite header. A file with a higher one is refused, one with a lower one
converted: version 1 recorded no kinds, and had other normal forms of addresses."""

MINIMUM_SQLITE = (3, 37, 0)
"""The first SQLite with STRICT tables."""

_MICROSECOND = timedelta(microseconds=1)


def to_microseconds(moment: datetime) -> int:
    """Microseconds since 1970 UTC, exactly: a float of seconds would lose the last digits."""
    return (moment - EPOCH) // _MICROSECOND


_EXACT = 2**32 * 10**6
"""Microseconds. Up to here (2106) ``fromtimestamp`` rounds a float of seconds to the right microsecond."""

if from_timestamp(1893456000, UTC) != plain(2030, 1, 1):
    _EXACT = 0  # under TZ=right/... the C library counts leap seconds, which POSIX and our files do not


def from_microseconds(number: int) -> datetime:
    """The aware UTC datetime of which ``to_microseconds`` made the number."""
    if 0 <= number < _EXACT:
        return from_timestamp(number / 1e6, UTC)  # takes half the time of the sum; a look-up makes three
    return EPOCH + timedelta(0, 0, number)


class Codec(NamedTuple):
    """How a kind of value is stored: the column's type, functions to SQLite and back (None: unchanged)."""

    sql_type: str
    encode: Callable[[Any], Any] | None = None
    decode: Callable[[Any], Any] | None = None


def _container(kind: type) -> Callable[[str], Any]:
    def decode(text: str) -> Any:
        value = load_json(text)
        if not isinstance(value, kind):
            raise TypeError(f"not a {kind.__name__}")
        return value

    return decode


CODECS = {
    "text": Codec("TEXT"),
    "integer": Codec("INTEGER"),
    "real": Codec("REAL"),
    "boolean": Codec("INTEGER", int, bool),
    "bytes": Codec("BLOB"),
    "datetime": Codec("INTEGER", to_microseconds, from_microseconds),
    "object": Codec("TEXT", dump_json, _container(dict)),
    "array": Codec("TEXT", dump_json, _container(list)),
}

FILED_AS = {
    "email": ("email_key", "TEXT"),
    "identifier": ("identifier_key", "TEXT"),
    "session_token": ("token_digest", "BLOB"),
    "token": ("token_digest", "BLOB"),
}
"""The columns, with their types, that stand for these fields in look-ups: normal forms and digests."""


def codec_of(kind: Kind) -> Codec:
    """How the values of a kind are stored; those of an ``Enum`` by their value."""
    sql_type, encode, decode = CODECS[kind.name]
    if (members := kind.members) is None:
        return CODECS[kind.name]

    def stored(member: Any) -> Any:
        value = member.value if isinstance(member, Enum) else member
        return value if encode is None else encode(value)

    def member(cell: Any) -> Any:
        value = cell if decode is None else decode(cell)
        if value not in members:
            raise ValueError("none of the field's values")
        return members[value]

    return Codec(sql_type, stored, member)


def filed_as(name: str) -> str:
    """The column that look-ups by a field use."""
    return FILED_AS.get(name, (name, ""))[0]


KNOWN = ("session_token", "user_id", "id")
"""Fields of a session that a look-up by token need not read: token, digest, and user give them."""

_new_tuple: Any = tuple.__new__  # three times as fast as the constructor of a NamedTuple

EMPTY = "''"
"""An empty string, as an SQL literal."""


def beyond(prefix: str) -> str | bytes:
    """What is greater, as SQLite compares, than every text that begins with ``prefix``, and than no other one
    that is greater than these."""
    while prefix:
        prefix, last = prefix[:-1], ord(prefix[-1]) + 1
        if last <= 0x10FFFF:
            return prefix + chr(0xE000 if 0xD800 <= last < 0xE000 else last)  # UTF-8 has no surrogates
    return b""  # any text is less than any blob


def quoted(name: str) -> str:
    """The name as an SQL identifier, safe whatever a custom field is called."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: Any) -> str:
    """The value in SQL, for the DEFAULT clause, which takes no parameters."""
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"X'{value.hex()}'"
    if isinstance(value, str):
        if "\0" in value:
            return f"CAST(X'{value.encode().hex()}' AS TEXT)"
        return "'" + value.replace("'", "''") + "'"
    return {"inf": "9e999", "-inf": "-9e999"}.get(repr(value), repr(value))


CUSTOM_FIELDS = (
    "CREATE TABLE custom_fields (table_name TEXT NOT NULL, field TEXT NOT NULL COLLATE NOCASE,"
    " kind TEXT NOT NULL, PRIMARY KEY (table_name, field)) STRICT, WITHOUT ROWID"
)
"""The table that says what the columns of custom fields hold, as ``kind_of`` writes it."""


def kind_of(f: Field) -> str:
    """What a field's column holds, as files record it: the kind, and the only values if there are such."""
    if f.kind.members is None:
        return f.kind.name
    return f"{f.kind.name} {dump_json([f.kind.to_json(member) for member in f.kind.members.values()])}"


class Column(NamedTuple):
    """A column as a model wants it; ``custom`` is its field if that is not one of our own."""

    name: str
    sql_type: str
    not_null: bool = False
    default: str | None = None
    references: str = ""
    custom: Field | None = None

    @property
    def definition(self) -> str:
        """What CREATE TABLE and ALTER TABLE say of it."""
        not_null = " NOT NULL" if self.not_null else ""
        default = "" if self.default is None else f" DEFAULT {self.default}"
        return f"{quoted(self.name)} {self.sql_type}{not_null}{default}{self.references}"

    @property
    def each_its_own(self) -> bool:
        """Whether each row gets a value from the model's ``default_factory``, so that SQL has no default."""
        return self.custom is not None and self.custom.factory and self.default is None


class Table:
    """One entity's table for one model: its columns, its codecs, its statements."""

    def __init__(self, entity: Entity, model: type[Record]) -> None:
        self.entity = entity
        self.model = model
        self._refuse_clashes()
        fields = fields_of(model)
        self.stored = [f for f in fields if f.name not in entity.withheld]
        self.key = [filed_as(name) for name in entity.key]
        self.group = filed_as(entity.group)
        self.columns = [*self._filed_columns(), *(self._field_column(f) for f in self.stored)]
        self._extra_group = self.group if self.group not in self.key and entity.group in FILED_AS else None
        self._written = [(f.name, codec_of(f.kind).encode) for f in self.stored if f.name not in self.key]
        # A row that is read has one cell for each field of the model, in the model's order.
        self.cells = [self._cell(f) for f in fields]
        decoders = {f.name: decode for f in fields if (decode := self._decoder(f)) is not None}
        self.fill = filler(model, decoders)
        # Every statement about this table. The key's parts come first in all of them.
        name = quoted(entity.plural)
        key = " AND ".join(f"{quoted(part)} = ?" for part in self.key)
        keys = ", ".join(map(quoted, self.key))
        written = [*filter(None, [self._extra_group]), *(n for n, _ in self._written)]
        inserted = [*self.key, *written]
        cells = ", ".join(self.cells)
        self.select = f"SELECT {cells} FROM {name} WHERE {key}"
        group = f"{quoted(self.group)} = ?"
        self.select_group = f"SELECT {keys}, {cells} FROM {name} WHERE {group} ORDER BY {keys}"
        self.select_all = f"SELECT {keys}, {cells} FROM {name} ORDER BY {keys}"
        self.insert = (
            f"INSERT INTO {name} ({', '.join(map(quoted, inserted))})"
            f" VALUES ({', '.join('?' * len(inserted))})"
        )
        self.update = f"UPDATE {name} SET {', '.join(f'{quoted(n)} = ?' for n in written)} WHERE {key}"
        self.rekey = f"UPDATE {name} SET {', '.join(f'{quoted(part)} = ?' for part in self.key)} WHERE {key}"
        self.delete = f"DELETE FROM {name} WHERE {key} RETURNING {cells}"
        self.delete_group = f"DELETE FROM {name} WHERE {group} RETURNING {keys}"
        self.delete_all = f"DELETE FROM {name}"
        self.purge = (
            f"DELETE FROM {name} WHERE ({keys}) IN"
            f" (SELECT {keys} FROM {name} WHERE expires <= ? ORDER BY expires LIMIT ?)"
            f" RETURNING {keys}"
        )

    def dump(self, columns: Sequence[str]) -> str:
        """The statement that reads these columns of all rows."""
        return f"SELECT {', '.join(map(quoted, columns))} FROM {quoted(self.entity.plural)}"

    def load(self, columns: Sequence[str]) -> str:
        """The statement that puts back a row with these columns."""
        names, values = ", ".join(map(quoted, columns)), ", ".join("?" * len(columns))
        return f"INSERT INTO {quoted(self.entity.plural)} ({names}) VALUES ({values})"

    def page(self, after: Sequence[Any] | None, limit: int, prefix: str | None) -> tuple[str, list[Any]]:
        """The query for ``BaseAdapter._page``, each row with key and cells; and its parameters."""
        keys = ", ".join(map(quoted, self.key))
        conditions: list[str] = []
        given: list[Any] = []
        if after is not None:
            # With a plus, SQLite goes by the index over the group, and not through all records in the key's order.
            compared = ", ".join(f"+{quoted(part)}" if prefix else quoted(part) for part in self.key)
            conditions.append(f"({compared}) > ({', '.join('?' * len(self.key))})")
            given += after
        if prefix == "":
            conditions.append(f"{quoted(self.group)} IS NOT NULL")
        elif prefix is not None:
            conditions.append(f"{quoted(self.group)} >= ? AND {quoted(self.group)} < ?")
            given += [prefix, beyond(prefix)]
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        sql = f"SELECT {keys}, {', '.join(self.cells)} FROM {quoted(self.entity.plural)}{where}"
        return f"{sql} ORDER BY {keys} LIMIT ?", [*given, limit]

    def count(self, later: Mapping[str, datetime]) -> tuple[str, list[Any]]:
        """The query for ``BaseAdapter._count``, and its parameters."""
        columns = {column.name: column for column in self.columns}
        conditions = [
            f"{quoted(name)} > ?" if columns[name].not_null else f"({quoted(name)} > ? OR {quoted(name)} IS NULL)"
            for name in later
        ]
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        return f"SELECT count(*) FROM {quoted(self.entity.plural)}{where}", [*map(to_microseconds, later.values())]

    # -- check()

    @functools.cached_property
    def suspects(self) -> str:
        """The query for rows that may be wrong: all that are, and few others. Each has key, group and cells.

        SQLite examines a million rows in the time that Python takes to decode a tenth of them.
        """
        doubts = [doubt for f in self.stored for doubt in self._doubts(f)]
        doubts += [f"length({quoted(name)}) != 32" for name in self.key if name == "token_digest"]
        columns = ", ".join([*map(quoted, self.key), quoted(self.group), *self.cells])
        return f"SELECT {columns} FROM {quoted(self.entity.plural)} WHERE {' OR '.join(doubts)}"

    @property
    def orphans(self) -> str | None:
        """The query for rows, as in ``suspects``, whose user does not exist; None if records have no user.

        The index gives each user once, so that a user with many sessions is looked for once.
        """
        if self.group != "user_id":
            return None
        columns = ", ".join([*map(quoted, self.key), quoted(self.group), *self.cells])
        name = quoted(self.entity.plural)
        return (
            f"SELECT {columns} FROM {name} WHERE user_id IN"
            f" (SELECT user_id FROM (SELECT DISTINCT user_id FROM {name}) WHERE user_id NOT IN (SELECT id FROM users))"
        )

    def index_sums(self) -> Iterator[tuple[str, str]]:
        """Each index's name, and the query for two numbers, of the index and of the table, that must be equal.

        ``PRAGMA integrity_check`` looks each row up in each index, which takes fifteen times as long.
        """
        name = quoted(self.entity.plural)
        primary = quoted(f"sqlite_autoindex_{self.entity.plural}_1")  # the table itself: it has no rowid
        types = {column.name: column.sql_type for column in self.columns}
        for index, column in self._indexed().items():
            value = f"{quoted(column)} % 1000003" if types[column] == "INTEGER" else f"length({quoted(column)})"
            sums = f"SELECT count({quoted(column)}) * 1000003 + total({value}) FROM {name}"
            yield index, f"SELECT ({sums} INDEXED BY {quoted(index)}), ({sums} INDEXED BY {primary})"

    def _doubts(self, f: Field) -> Iterable[str]:
        """SQL conditions, at least one of which is true of each row whose value for the field is wrong."""
        column, kind = quoted(f.name), f.kind.name
        if not f.optional:
            yield f"{column} IS NULL"
        if f.name == "user_id":
            pass  # it is some user's id, or the row is an orphan
        elif (misfit := self.misfit(f)) is not None:
            yield misfit
        elif kind == "text":
            # Printable ASCII is right. Text is suspect if its length() (characters, up to a NUL) is not its
            # number of bytes, or if it has a control character.
            yield f"length({column}) != length(CAST({column} AS BLOB))"
            yield f"{column} GLOB '*[^ -~]*'"
            if f.rule is not None:
                yield f"length({column}) NOT BETWEEN 1 AND {MAX_KEY_LENGTH}"
            if f.name == "email":
                yield f"{quoted(self.group)} IS NOT lower(trim({column})) OR trim({column}) = ''"
            elif f.name == "identifier":
                address = f"CASE WHEN instr({column}, '@') THEN lower(trim({column})) ELSE {column} END"
                yield f"{quoted(self.group)} IS NOT {address}"
        elif f.rule is not None:
            yield f"{column} NOT BETWEEN 0 AND {2**32 - 1}"

    def misfit(self, f: Field) -> str | None:
        """The SQL condition that a value, of the right SQL type, is none of the field's; None if all are."""
        column, kind = quoted(f.name), f.kind.name
        if f.kind.members is not None:
            encode = CODECS[kind].encode or (lambda value: value)
            return f"{column} NOT IN ({', '.join(literal(encode(value)) for value in f.kind.members)})"
        if kind == "datetime":
            return f"{column} NOT BETWEEN {to_microseconds(FIRST)} AND {to_microseconds(LAST)}"
        if kind == "boolean":
            return f"{column} NOT IN (0, 1)"
        if kind in ("object", "array"):
            return (
                f"CASE WHEN json_valid({column}) THEN json_type({column}) != '{kind}'"
                f" ELSE {column} IS NOT NULL END"
            )
        return None

    # -- DDL

    def create(self) -> list[str]:
        """The statements that make this table and its indexes."""
        key = ", ".join(map(quoted, self.key))
        return [
            f"CREATE TABLE {quoted(self.entity.plural)} ("
            + ", ".join(column.definition for column in self.columns)
            + f", PRIMARY KEY ({key})) STRICT, WITHOUT ROWID",
            *self.indexes().values(),
            *(self.record_kind(column.custom) for column in self.columns if column.custom is not None),
        ]

    def record_kind(self, f: Field) -> str:
        """The statement that says in the file what a custom field's column holds."""
        values = ", ".join(map(literal, (self.entity.plural, f.name, kind_of(f))))
        return f"REPLACE INTO custom_fields VALUES ({values})"

    def indexes(self) -> dict[str, str]:
        """The statement that makes each index, by the index's name."""
        kind = "UNIQUE INDEX" if self.entity is USER else "INDEX"
        return {
            index: f"CREATE {kind} {quoted(index)} ON {quoted(self.entity.plural)} ({quoted(column)})"
            for index, column in self._indexed().items()
        }

    def _indexed(self) -> dict[str, str]:
        """The column of each index, by the index's name. The primary key serves as the index of its first part."""
        expiring = ["expires"] * (self.entity in (SESSION, VERIFICATION_TOKEN))
        columns = [column for column in (self.group, *expiring) if column != self.key[0]]
        return {f"{self.entity.plural}_{column}": column for column in columns}

    def add_column(self, column: Column) -> str:
        """The statement that adds a column to an existing table; its rows get the default."""
        return f"ALTER TABLE {quoted(self.entity.plural)} ADD COLUMN {column.definition}"

    def _filed_columns(self) -> Iterable[Column]:
        """The columns that are not fields: normal forms and digests."""
        names = (*self.entity.key, self.entity.group)
        filed = dict.fromkeys(FILED_AS[name] for name in names if name in FILED_AS)
        for name, sql_type in filed:
            yield Column(name, sql_type, not_null=name in self.key)

    def _field_column(self, f: Field) -> Column:
        codec, default = codec_of(f.kind), None
        own = f.name not in {known.name for known in fields_of(self.entity.record)}
        if (value := f.shared_default()) is not None:
            if isinstance(value, str) and "\0" in value:
                raise InvalidFieldError(
                    f"{self.model.__name__}.{f.name}: its default holds a NUL character, which SQL cannot"
                    " write; use default_factory or another default",
                    model=self.model.__name__,
                    field=f.name,
                    expected="a default without NUL",
                )
            default = literal(codec.encode(value) if codec.encode else value)
        # Rows that a store without the field writes are empty there until a store with it gives them a value.
        not_null = not f.optional and not (own and default is None)
        references = ""
        if f.name == self.entity.group == "user_id":
            references = " REFERENCES users (id) ON DELETE CASCADE"
        return Column(f.name, codec.sql_type, not_null, default, references, f if own else None)

    def _refuse_clashes(self) -> None:
        """InvalidFieldError if two columns have names that differ in case only."""
        seen = {column: column for column, _ in FILED_AS.values()}
        for f in fields_of(self.model):
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

    def _cell(self, f: Field) -> str:
        """What is selected for a field: "" for a token, and the token's digest for a session's id."""
        if f.name not in self.entity.withheld:
            return quoted(f.name)
        return quoted("token_digest") if f.name == "id" else EMPTY

    def _decoder(self, f: Field) -> Callable[[Any], Any] | None:
        return session_id if f.name == "id" and f.name in self.entity.withheld else codec_of(f.kind).decode

    def record(self, row: Sequence[Any]) -> Any:
        """The record made of a row of ``cells``; its token, if it has one, is ""."""
        return self.fill(*row)

    def row(self, key: Sequence[Any], record: Any) -> list[Any]:
        """The parameters of ``insert``."""
        return [*key, *self._values(record)]

    def changes(self, key: Sequence[Any], record: Any) -> list[Any]:
        """The parameters of ``update``."""
        return [*self._values(record), *key]

    def _values(self, record: Any) -> list[Any]:
        row = []
        if self._extra_group is not None:
            row.append(self.entity.group_of(record))
        for name, encode in self._written:
            value = getattr(record, name)
            row.append(value if value is None or encode is None else encode(value))
        return row


class Schema:
    """The tables for a set of models, and the statements that span two of them."""

    def __init__(self, models: Iterable[type[Record]]) -> None:
        self.tables = {entity: Table(entity, model) for entity, model in zip(ENTITIES, models)}
        self.create = [CUSTOM_FIELDS, *(sql for table in self.tables.values() for sql in table.create())]
        self.pages: bytes | None = None
        """The bytes of an empty database with these tables, set by the first store in memory; None before
        that, and if SQLite was built without ``serialize``."""
        session, user = self.tables[SESSION], self.tables[USER]
        read = [cell for f, cell in zip(fields_of(session.model), session.cells) if f.name not in KNOWN]
        theirs = ", ".join(f"u.{cell}" for cell in user.cells)
        self.session_and_user = (
            f"SELECT {', '.join(f's.{cell}' for cell in read)}, {theirs}"
            " FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.token_digest = ?"
        )
        self.user_by_account = (
            f"SELECT {theirs} FROM accounts a JOIN users u ON u.id = a.user_id"
            " WHERE a.provider = ? AND a.provider_account_id = ?"
        )
        self._read = len(read)
        self._fill_session, self._fill_user = session.fill, user.fill

    def found(self, row: Sequence[Any], session_token: str, digest: bytes) -> SessionAndUser[Any, Any]:
        """The records made of a row of ``session_and_user``, the token presented, and its digest."""
        read = self._read
        user = self._fill_user(*row[read:])
        session = self._fill_session(session_token, row[read], row[0], row[1], digest, *row[2:read])
        found: SessionAndUser[Any, Any] = _new_tuple(SessionAndUser, (session, user))
        return found


COLUMNS = "SELECT name FROM pragma_table_info(?)"
"""The columns that a table has in the file, in the file's order, including those that no model names."""

DATA_VERSION = "PRAGMA data_version"
"""A number that changes when another connection has committed to the file."""


def in_words(finding: str) -> str:
    """A finding of ``PRAGMA quick_check`` for people who do not know SQLite."""
    if (broken := re.fullmatch(r"(?:(NULL)|non-(\w+)) value in (\w+)\.(\w+)", finding)) is not None:
        what = "is missing" if broken[1] else f"is no {broken[2]}"
        return f"table {broken[3]}: a value in column {broken[4]} {what}"
    return f"SQLite finds: {finding}"


FOREIGN_TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name LIMIT 3"
"""Some tables, to be named when the file turns out to be another application's."""

MARK = (f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {USER_VERSION}")
"""The statements that make a file ours."""


@functools.lru_cache(maxsize=64)
def schema_for(models: tuple[type[Record], ...]) -> Schema:
    """The schema for these models, built once per process: test suites open a fresh store for each test."""
    return Schema(models)
