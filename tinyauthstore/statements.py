"""Every SQL statement about records, made from a schema and the models that a store was opened with.

An adapter asks for them by what they do, and hands over keys, groups and records; only this module, ``schema.py``
and ``layouts.py`` know the name of a column. A key's *place* are the values under which its row is found.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from .clock import FIRST, LAST, plain
from .encodings import CODECS, Codec, codec_of, codec_of_members, to_microseconds
from .errors import InvalidFieldError, warn
from .models import (
    ACCOUNT, ENTITIES, MAX_KEY_LENGTH, NORMAL_FORMS, SESSION, USER, VERIFICATION_TOKEN,
    Entity, Field, Record, SessionAndUser, dump_json, fields_of, filler, session_id,
)
from .schema import APPLICATION_ID, OURS, PREFIX, USER_VERSION, Column, Schema, Table, braced, names_in, quoted

EMPTY = "''"
"""An empty string, as an SQL literal."""

KNOWN = ("session_token", "user_id", "id")
"""Fields of a session that a look-up by token need not read: token, digest, and user give them."""

_new_tuple: Any = tuple.__new__  # three times as fast as the constructor of a NamedTuple


SOME_TIME = plain(2026, 1, 1)
"""A time whose encoding has the shape of all those of this century and the next."""

_left_out: set[str] = set()
"""What providers sent that had no column: of each name, one warning in a process."""


def _anywhere(text: str) -> str:
    """The pattern for LIKE, with "!" as its escape, of what has the text anywhere."""
    return "%" + re.sub("[!%_]", r"!\g<0>", text) + "%"


def _beyond_ascii(column: str) -> str:
    """The condition that a text has characters outside ASCII (or a NUL)."""
    return f"length({column}) != length(CAST({column} AS BLOB))"


def beyond(prefix: str) -> str | bytes:
    """What is greater, as SQLite compares, than every text that begins with ``prefix``, and than no other one
    that is greater than these."""
    while prefix:
        prefix, last = prefix[:-1], ord(prefix[-1]) + 1
        if last <= 0x10FFFF:
            return prefix + chr(0xE000 if 0xD800 <= last < 0xE000 else last)  # UTF-8 has no surrogates
    return b""  # any text is less than any blob


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


def makes_numbers(declared: str) -> bool:
    """Whether a column of that type, in upper case, makes numbers of texts that look so. Source: sqlite.org/datatype3.html."""
    if "INT" in declared:
        return True
    return declared not in ("", "ANY") and not any(part in declared for part in ("CHAR", "CLOB", "TEXT", "BLOB"))


def kind_of(f: Field) -> str:
    """What a field's column holds, as files record it: the kind, and the only values if there are such."""
    if f.kind.members is None:
        return f.kind.name
    return f"{f.kind.name} {dump_json([f.kind.to_json(member) for member in f.kind.members.values()])}"


def token_part(tokens: str, token: str, secret: bytes | None) -> bytes | str:
    """What a table with such ``tokens``, but for digests, has of a token."""
    data = token.encode("utf-8", "surrogatepass")
    if tokens == "authjs":
        return hashlib.sha256(data + (secret or b"")).hexdigest()
    return token if data.decode("utf-8", "replace") == token else data  # a BLOB, which equals no text


def _text(cell: Any) -> str:
    """The cell. TypeError if it is no text: nothing else has a normal form."""
    if not isinstance(cell, str):
        raise TypeError("no text")
    return cell


class Stored(NamedTuple):
    """A column of ours as a model wants it; ``custom`` is its field if that is not one of our own."""

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


class Statements:
    """The statements about one kind of record, and how its rows become records.

    ``users`` are those of the users' table, to whose ids this table may refer; None if this is it. ``kinds`` is
    the name of the table ``custom_fields``.
    """

    def __init__(
        self, entity: Entity, model: type[Record], table: Table, users: Statements | None, kinds: str
    ) -> None:
        self.entity, self.model, self.table = entity, model, table
        self.name, self.ours, self.tokens = table.name, table.ours, table.tokens
        self._users = users or self
        self._kinds = kinds
        fields = fields_of(model)
        self._refuse_unknown([f.name for f in fields])
        self.stored = [f for f in fields if f.name not in entity.withheld]
        self._columns = {f.name: self._column(f) for f in fields if f.name not in ("id",) or entity is USER}
        self._codecs = {f.name: self._codec(f) for f in fields}
        self._refuse_clashes()
        # The parts of a key: the column, and the codec of what it has in the place of the field.
        self._parts = [self._part(name) for name in entity.key]
        self.key = [name for name, _ in self._parts]
        self.indirect = any(name in NORMAL_FORMS and name not in table.normal for name in entity.key)
        self._encodes_keys = any(codec.encode is not None for _, codec in self._parts)
        self._key_length = len(self.key)
        self._keys_are_stored = not (self.indirect or any(codec.decode is not None for _, codec in self._parts))
        self.group, self._group_codec = self._part(entity.group)
        # Whether what a query finds must be compared by ``entity.group_of``.
        self.scans_group = entity.group in NORMAL_FORMS and entity.group not in table.normal
        self._extra_group = self.group if entity.group in table.normal and self.group not in self.key else None
        self._written = [
            (f, column.name, self._codecs[f.name], column.required)
            for f in self.stored
            if (column := self._columns[f.name]) is not None and column.name and column.name not in self.key
        ]
        self._absent = [f for f in self.stored if self._columns[f.name] is None]
        self._fill = table.filled()
        self._dates_birth = entity is SESSION and not self.ours and self.holds("created_at")
        self.exact = not (
            table.makes_ids
            or self._absent
            or any(column is not None and column.read for column in self._columns.values())
            or not all(self._codecs[f.name].exact for f in self.stored)
        )
        # A row that is read has one cell for each field of the model, in the model's order.
        self.cells = self.cells_of("")
        decoders = {f.name: decode for f in fields if (decode := self._decoder(f)) is not None}
        self.fill = filler(model, decoders)
        self._make_statements()

    # -- what lies where

    def _column(self, f: Field) -> Column | None:
        column = self.table.column(f.name)
        if column is None and f.name not in self.table.columns:
            if self.ours and f.name not in self.entity.withheld:
                return Column(f.name)
            if f.name not in {known.name for known in fields_of(self.entity.record)}:
                raise InvalidFieldError(
                    f"{self.model.__name__}.{f.name} has no column in the table {self.name}, which is not ours to"
                    " extend: name one in the schema's columns, or leave the field out",
                    model=self.model.__name__,
                    field=f.name,
                    expected="a field that the schema has a column for",
                )
        return column

    def _refuse_unknown(self, fields: list[str]) -> None:
        """InvalidFieldError if the schema has a column for a field that the model does not have."""
        known = [name for name in fields if name != "id" or self.entity is USER]
        for name in self.table.columns:
            if name not in known:
                raise InvalidFieldError(
                    f"{self.model.__name__} has no field {name!r} that the table {self.name} could have a column"
                    f" for; it has {', '.join(known)} (more by a custom model: {self.entity.name}=)",
                    model=self.model.__name__,
                    field=name,
                    expected="a field of the model",
                )

    def _codec(self, f: Field) -> Codec:
        column = self._columns.get(f.name)
        if column is not None and column.codec is not None:
            return codec_of_members(f.kind, column.codec)
        if f.name == self.entity.group == "user_id":
            return self._users._codecs["id"]
        codec = codec_of(f.kind)
        if f.kind.name == "real" and not self.ours:  # RETURNING gives 3 where SELECT gives 3.0
            return codec._replace(decode=float)
        return codec

    def _part(self, name: str) -> tuple[str, Codec]:
        """The column by which a field is looked up, and what it has there."""
        if name in self.table.normal:
            return self.table.normal[name], CODECS["text"]
        column = self._columns[name]
        assert column is not None
        if name in self.entity.withheld:
            return column.name, column.codec or CODECS["bytes" if self.tokens == "digest" else "text"]
        return column.name, self._codecs[name]

    def cells_of(self, alias: str) -> list[str]:
        """What is selected for each field, from a table with that alias: "" for a token, its own column for a
        session's id, which is made of it, and the default for a field that has no column."""
        prefix = f"{alias}." if alias else ""
        cells = []
        for f in fields_of(self.model):
            column = self._columns.get(f.name)
            if f.name in self.entity.withheld:
                cells.append(f"{prefix}{quoted(self._part('session_token')[0])}" if f.name == "id" else EMPTY)
            elif column is None:
                default = None if f.default is None else self._codecs[f.name].stored(f.check(f.default()))
                cells.append(literal(default))
            elif column.read:
                cells.append(braced(column.read, lambda name: prefix + quoted(name)))
            else:
                cells.append(prefix + quoted(column.name))
        return cells

    def condition(self, sql: str = "", alias: str = "") -> str:
        """The condition, and that a row is a record at all; "1" if there is none."""
        prefix = f"{alias}." if alias else ""
        where = braced(self.table.where, lambda name: prefix + quoted(name))
        return " AND ".join(filter(None, [sql, where])) or "1"

    def exactly(self, column: str, alias: str = "") -> str:
        """The condition that a column has a value. In somebody else's table it may ignore case: COLLATE NOCASE."""
        return f"{alias}{'.' if alias else ''}{quoted(column)} = ?{'' if self.ours else ' COLLATE BINARY'}"

    def _make_statements(self) -> None:
        # The key's parts come first in all of them.
        name = quoted(self.name)
        key = self.condition(" AND ".join(map(self.exactly, self.key)))
        keys = ", ".join(map(quoted, self.key))
        written = [*filter(None, [self._extra_group]), *(column for _, column, _, _ in self._written)]
        always = [column for column, fill in self._fill.items() if fill.always]
        inserted = [*self.key, *written, *self._fill]
        cells = ", ".join(self.cells)
        returning = "" if self.exact else f" RETURNING {keys}, {cells}"
        self.select = f"SELECT {cells} FROM {name} WHERE {key}"
        group = f"{quoted(self.group)} = ?" if self.scans_group else self.exactly(self.group)
        self.select_group = f"SELECT {keys}, {cells} FROM {name} WHERE {self.condition(group)} ORDER BY {keys}"
        # Keys are texts, though somebody else may store numbers: "10" comes before "9".
        texts = keys if self.ours else ", ".join(f"CAST({quoted(part)} AS TEXT) COLLATE BINARY" for part in self.key)
        self.select_all = f"SELECT {keys}, {cells} FROM {name} WHERE {self.condition()} ORDER BY {texts}"
        self.insert = self._insert(inserted) + returning
        self.insert_without_key = self._insert(inserted[len(self.key) :]) + returning
        changed = ", ".join(f"{quoted(column)} = ?" for column in (*written, *always))
        self.update = f"UPDATE {name} SET {changed} WHERE {key}{returning}"
        times = [column for column, fill in self._fill.items() if fill.always and fill.codec is not None]
        moved = ", ".join(f"{quoted(column)} = ?" for column in (*self.key, *times))
        self.rekey = f"UPDATE {name} SET {moved} WHERE {key}"
        self.delete = f"DELETE FROM {name} WHERE {key} RETURNING {cells}"
        self.delete_group = f"DELETE FROM {name} WHERE {self.condition(group)} RETURNING {keys}"
        self.delete_all = f"DELETE FROM {name} WHERE {self.condition()}"
        expires = self._columns.get("expires")
        self.purge = self.due = ""
        if expires is not None:
            due = quoted(expires.name)
            self.purge = (
                f"DELETE FROM {name} WHERE ({keys}) IN"
                f" (SELECT {keys} FROM {name} WHERE {due} <= ? ORDER BY {due} LIMIT ?) RETURNING {keys}"
            )
            # Where SQL cannot compare: all that is not certainly live. Texts can be compared if they are alike.
            live, self._times_in_due = f"typeof({due}) = typeof(?) AND {due} > ?", 2
            if isinstance(sample := self.stored_time(SOME_TIME), str):
                moment, plus, zone = sample.partition("+")
                alike = re.sub(r"\d", "[0-9]", moment) + plus + zone
                live += f" AND length({due}) = length(?) AND {due} GLOB {literal(alike)}"
                self._times_in_due = 3
            self.due = f"SELECT {keys}, {due} FROM {name} WHERE {self.condition(f'NOT ({live})')}"

    def _insert(self, columns: Sequence[str]) -> str:
        values = f"({', '.join(map(quoted, columns))}) VALUES ({', '.join('?' * len(columns))})"
        return f"INSERT INTO {quoted(self.name)} {values if columns else 'DEFAULT VALUES'}"

    # -- finding rows

    def place(self, key: Sequence[Any]) -> Sequence[Any] | None:
        """The values by which the key's row is found; None if no row can have them. Not for ``indirect``."""
        if not self._encodes_keys:
            return key
        try:
            return [codec.stored(part) for (_, codec), part in zip(self._parts, key)]
        except (TypeError, ValueError):
            return None

    def candidates(self, key: Sequence[Any]) -> tuple[str, Sequence[Any]] | None:
        """The query for rows, key and cells, among which an ``indirect`` key's row is; None if it cannot exist.

        The record's normal form tells which it is. A verification token alone finds few.
        """
        column, codec = self._parts[-1]
        try:
            part = codec.stored(key[-1])
        except (TypeError, ValueError):
            return None
        keys = ", ".join([*map(quoted, self.key), *self.cells])
        return f"SELECT {keys} FROM {quoted(self.name)} WHERE {self.condition(self.exactly(column))}", (part,)

    def ways_to_group(self, group: str) -> Iterator[tuple[str, Sequence[Any]]]:
        """The queries for the rows of a group, the cheapest first, each for key and cells.

        Where the file has no normal forms, a query finds more rows than the group has, or not all: the records'
        own normal form decides. Addresses are mostly stored in their normal form, by an index; looking through
        all of the others comes last.
        """
        try:
            value = self._group_codec.stored(group)
        except (TypeError, ValueError):
            return
        if not self.scans_group or self.entity is USER:
            yield self.select_group, (value,)
        if self.scans_group:
            column, parameters = quoted(self.group), [group]
            if self._group_codec.decode is not None and self._group_codec.encode is not None:
                where, parameters = "", []
            elif group.isascii():
                # Its normal form is what is stored, but for blanks around it and the case of letters in ASCII:
                # nothing else becomes a part of it. LIKE takes a seventh of the time of lower(trim(...)).
                where = f"{column} LIKE ? ESCAPE '!'"
                parameters = [_anywhere(group)]
            else:
                where = f"({column} = ? OR {_beyond_ascii(column)})"
            keys = ", ".join([*map(quoted, self.key), *self.cells])
            yield f"SELECT {keys} FROM {quoted(self.name)} WHERE {self.condition(where)}", parameters

    def page(self, after: Sequence[Any] | None, limit: int, prefix: str | None) -> tuple[str, list[Any]]:
        """The query for ``BaseAdapter._page``, each row with key and cells; and its parameters.

        ``after`` is a key's place. Where the file has no normal forms, a ``prefix`` finds more rows than it
        should, without a limit.
        """
        keys = ", ".join(map(quoted, self.key))
        conditions: list[str] = []
        given: list[Any] = []
        if after is not None:
            # With a plus, SQLite goes by the index over the group, and not through all records in the key's order.
            compared = ", ".join(f"+{quoted(part)}" if prefix else quoted(part) for part in self.key)
            conditions.append(f"({compared}) > ({', '.join('?' * len(self.key))})")
            given += after
        group = quoted(self.group)
        if prefix == "":
            conditions.append(f"{group} IS NOT NULL")
        elif prefix is not None and not self.scans_group:
            conditions.append(f"{group} >= ? AND {group} < ?")
            given += [prefix, beyond(prefix)]
        elif prefix is not None and self._group_codec.decode is None:
            conditions.append(f"{group} LIKE ? ESCAPE '!'" if prefix.isascii() else _beyond_ascii(group))
            given += [_anywhere(prefix)] if prefix.isascii() else []
        where = self.condition(" AND ".join(conditions))
        limit = -1 if prefix is not None and self.scans_group else limit
        sql = f"SELECT {keys}, {', '.join(self.cells)} FROM {quoted(self.name)} WHERE {where}"
        return f"{sql} ORDER BY {keys} LIMIT ?", [*given, limit]

    def count(self, later: Mapping[str, datetime]) -> tuple[str, list[Any]]:
        """The query for ``BaseAdapter._count``, and its parameters."""
        conditions, given = [], []
        for name, moment in later.items():
            if (column := self._columns[name]) is not None:
                may_be_null = next(f.optional for f in self.stored if f.name == name)
                later_than = f"{quoted(column.name)} > ?"
                conditions.append(f"({later_than} OR {quoted(column.name)} IS NULL)" if may_be_null else later_than)
                given.append(self._codecs[name].stored(moment))
        where = self.condition(" AND ".join(conditions))
        return f"SELECT count(*) FROM {quoted(self.name)} WHERE {where}", given

    def group_parameters(self, group: str) -> Sequence[Any] | None:
        """The parameters of ``delete_group``; None if no row can have that group."""
        try:
            return (self._group_codec.stored(group),)
        except (TypeError, ValueError):
            return None

    def key_of(self, row: Sequence[Any], record: Any) -> tuple[Any, ...]:
        """The key of a row that begins with the key's columns, as the rules made it."""
        if self._keys_are_stored:
            return tuple(row[: len(self.key)])
        parts = []
        for name, (_, codec), cell in zip(self.entity.key, self._parts, row):
            if name in NORMAL_FORMS and name not in self.table.normal:
                parts.append(self.entity.group_of(record))
            else:
                parts.append(cell if codec.decode is None else codec.decode(cell))
        return tuple(parts)

    def pair(self, row: Sequence[Any]) -> tuple[tuple[Any, ...], Any]:
        """Key and record of a row that begins with the key's columns."""
        parts = self._key_length
        record = self.fill(*row[parts:])
        if self._keys_are_stored:
            return row[:parts], record  # type: ignore[return-value]
        return self.key_of(row, record), record

    # -- rows

    def _decoder(self, f: Field) -> Callable[[Any], Any] | None:
        if f.name == "id" and f.name in self.entity.withheld:
            decode = self._part("session_token")[1].decode
            return session_id if decode is None else lambda cell: session_id(decode(cell))
        codec = self._codecs[f.name]
        return _text if codec.decode is None and f.name in NORMAL_FORMS and not self.ours else codec.decode

    def record(self, row: Sequence[Any]) -> Any:
        """The record made of a row of ``cells``; its token, if it has one, is ""."""
        return self.fill(*row)

    def row(self, key: Sequence[Any], record: Any, now: Callable[[], datetime]) -> list[Any]:
        """The parameters of ``insert``; of ``insert_without_key``, if the key is empty.

        A session of which nobody knows when it began, copied from elsewhere, begins now: the column may be NOT NULL.
        """
        if self._dates_birth and record.created_at is None:
            record = dataclasses.replace(record, created_at=now())
        place = []
        for name, (_, codec), part in zip(self.entity.key, self._parts, key):
            if self.indirect and name in NORMAL_FORMS:
                part = getattr(record, name)
            place.append(part if codec.encode is None else self._encoded(name, codec, part))
        values = self._values(record)
        return [*place, *values, *self._filled(record, now)] if self._fill else [*place, *values]

    def changes(self, place: Sequence[Any], record: Any, now: Callable[[], datetime]) -> list[Any]:
        """The parameters of ``update``."""
        values = self._values(record)
        return [*values, *self._filled(record, now, always=True), *place] if self._fill else [*values, *place]

    def moved(self, place: Sequence[Any], new: Sequence[Any], now: Callable[[], datetime]) -> list[Any]:
        """The parameters of ``rekey``."""
        times = (fill for fill in self._fill.values() if fill.always and fill.codec is not None)
        return [*new, *(fill.codec.stored(now()) for fill in times if fill.codec is not None), *place]

    def _encoded(self, name: str, codec: Codec, value: Any) -> Any:
        try:
            return codec.stored(value)
        except (TypeError, ValueError, OverflowError):
            pass  # raised below, outside ``except``, so that no __context__ holds the value
        raise self._refused(name, "it cannot be stored in that column")

    def _refused(self, name: str, why: str) -> InvalidFieldError:
        column = self._columns.get(name)
        where = f"{self.name}.{column.name}" if column is not None else self.name
        return InvalidFieldError(
            f"{self.model.__name__}.{name} does not fit the table {where}: {why}",
            model=self.model.__name__,
            field=name,
            expected=f"what {where} can hold",
        )

    def _values(self, record: Any) -> list[Any]:
        row = []
        if self._extra_group is not None:
            row.append(self.entity.group_of(record))
        for f, _, codec, required in self._written:
            value = getattr(record, f.name)
            if value is None:
                if required:
                    raise self._refused(f.name, "the column must be filled")
                row.append(codec.blank)
            elif codec.encode is None:
                row.append(value)
            else:
                row.append(self._encoded_field(f, codec, value, required))
        for f in self._absent:
            self._leave_out(f, getattr(record, f.name))
        return row

    def _encoded_field(self, f: Field, codec: Codec, value: Any, required: bool) -> Any:
        """The value as it is stored; nothing, if a provider sent what the column cannot hold, and None fits."""
        if self.entity is ACCOUNT and f.optional and not required:
            try:
                return codec.stored(value)
            except (TypeError, ValueError, OverflowError):
                self._leave_out(f, value)
                return codec.blank
        return self._encoded(f.name, codec, value)

    def _leave_out(self, f: Field, value: Any) -> None:
        """Accept that a value is lost, or refuse it. What a provider sends must not keep anybody from signing in."""
        if value is None or f.name == "created_at" or (f.default is not None and value == f.default()):
            return
        if self.entity is not ACCOUNT:
            raise self._refused(f.name, "it has no column for it")
        for name in value if f.name == "extra" else [f.name]:
            if name not in _left_out:
                _left_out.add(name)
                warn(
                    "%s has no column that can hold %r, which a provider sent: it is left out", self.name, name
                )

    def _filled(self, record: Any, now: Callable[[], datetime], *, always: bool = False) -> Iterator[Any]:
        for fill in self._fill.values():
            if fill.always or not always:
                value = fill.make(record, now())
                yield value if fill.codec is None else fill.codec.stored(value)

    def expired(self, cell: Any, now: datetime) -> datetime | None:
        """When a row of ``due`` expired; None if it has not, or cannot be read."""
        decode = self._codecs["expires"].decode
        try:
            expires = cell if decode is None else decode(cell)
            return expires if expires <= now else None
        except (TypeError, ValueError, OverflowError):
            return None

    def due_parameters(self, now: datetime) -> Sequence[Any]:
        """The parameters of ``due``."""
        return [self.stored_time(now)] * self._times_in_due

    def stored_time(self, moment: datetime) -> Any:
        """A time as the column ``expires`` has it."""
        return self._codecs["expires"].stored(moment)

    @property
    def ordered(self) -> bool:
        """Whether SQL may compare what is in the column ``expires``."""
        return self._codecs["expires"].ordered and self.ours

    def holds(self, name: str) -> bool:
        """Whether a field of the model has a column."""
        return self._columns.get(name) is not None

    def dump(self, columns: Sequence[str]) -> str:
        """The statement that reads these columns of all rows."""
        return f"SELECT {', '.join(map(quoted, columns))} FROM {quoted(self.name)} WHERE {self.condition()}"

    def load(self, columns: Sequence[str]) -> str:
        """The statement that puts back a row with these columns."""
        return self._insert(columns)

    # -- check()

    @functools.cached_property
    def suspects(self) -> str:
        """The query for rows that may be wrong: all that are, and few others. Each has key, group and cells.

        SQLite examines a million rows in the time that Python takes to decode a tenth of them. Rows of somebody
        else's table are all suspect.
        """
        columns = ", ".join([*map(quoted, self.key), quoted(self.group), *self.cells])
        if not self.ours:
            return f"SELECT {columns} FROM {quoted(self.name)} WHERE {self.condition()}"
        doubts = [doubt for f in self.stored for doubt in self._doubts(f)]
        doubts += [f"length({quoted(name)}) != 32" for name in self.key if name == "token_digest"]
        return f"SELECT {columns} FROM {quoted(self.name)} WHERE {' OR '.join(doubts)}"

    @property
    def orphans(self) -> str | None:
        """The query for rows, as in ``suspects``, whose user does not exist; None if records have no user.

        The index gives each user once, so that a user with many sessions is looked for once.
        """
        if self.entity.group != "user_id":
            return None
        columns = ", ".join([*map(quoted, self.key), quoted(self.group), *self.cells])
        name, user = quoted(self.name), quoted(self.group)
        users, key = quoted(self._users.name), quoted(self._users.key[0])
        absent = (
            f"SELECT {user} FROM (SELECT DISTINCT {user} FROM {name}) WHERE {user} NOT IN (SELECT {key} FROM {users})"
        )
        return f"SELECT {columns} FROM {name} WHERE {self.condition(f'{user} IN ({absent})')}"

    @property
    def doubles(self) -> Iterator[tuple[str, str]]:
        """What must be unique, where a table is somebody else's, and the query for how often it is not."""
        if self.ours:
            return
        name, where = quoted(self.name), self.condition()
        keys = " and ".join("token" if part in self.entity.withheld else part for part in self.entity.key)
        found = "SELECT count(*) FROM (SELECT count(*) AS n FROM {} WHERE {} GROUP BY {} HAVING n > 1)"
        yield keys, found.format(name, where, ", ".join(map(quoted, self.key)))

    @property
    def addresses(self) -> str | None:
        """The query for all addresses, if nothing in the file keeps their normal forms apart; else None."""
        if self.ours or self.entity is not USER or not self.scans_group:
            return None
        return f"SELECT {quoted(self.group)} FROM {quoted(self.name)} WHERE {self.condition()}"

    def normal_address(self, cell: Any) -> str | None:
        """The normal form of what ``addresses`` found; None if there is none, or if it is no address."""
        try:
            address = cell if self._group_codec.decode is None or cell is None else self._group_codec.decode(cell)
            return NORMAL_FORMS["email"](address) if isinstance(address, str) else None
        except (TypeError, ValueError):
            return None

    def index_sums(self) -> Iterator[tuple[str, str]]:
        """Each index's name, and the query for two numbers, of the index and of the table, that must be equal.

        ``PRAGMA integrity_check`` looks each row up in each index, which takes fifteen times as long.
        """
        if not self.ours:
            return
        name = quoted(self.name)
        primary = quoted(f"sqlite_autoindex_{self.name}_1")  # the table itself: it has no rowid
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
            yield f"{column} NOT BETWEEN {0 if f.name == 'counter' else 1} AND {2**32 - 1}"  # COUNTER, ATTEMPTS

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

    # -- tables of ours

    @functools.cached_property
    def columns(self) -> list[Stored]:
        """The columns of a table of ours, in order: those that are no fields, then the fields'."""
        return [*self._filed_columns(), *(self._field_column(f) for f in self.stored)]

    def create(self) -> list[str]:
        """The statements that make this table and its indexes."""
        if not self.ours:
            return self._create_theirs()
        key = ", ".join(map(quoted, self.key))
        return [
            f"CREATE TABLE {quoted(self.name)} ("
            + ", ".join(column.definition for column in self.columns)
            + f", PRIMARY KEY ({key})) STRICT, WITHOUT ROWID",
            *self.indexes().values(),
            *(self.record_kind(column.custom) for column in self.columns if column.custom is not None),
        ]

    def record_kind(self, f: Field) -> str:
        """The statement that says in the file what a custom field's column holds."""
        values = ", ".join(map(literal, (self.name, f.name, kind_of(f))))
        return f"REPLACE INTO {quoted(self._kinds)} VALUES ({values})"

    def indexes(self) -> dict[str, str]:
        """The statement that makes each index of a table of ours, by the index's name."""
        kind = "UNIQUE INDEX" if self.entity is USER else "INDEX"
        return {
            index: f"CREATE {kind} {quoted(index)} ON {quoted(self.name)} ({quoted(column)})"
            for index, column in self._indexed().items()
        }

    def _indexed(self) -> dict[str, str]:
        """The column of each index, by the index's name. The primary key serves as the index of its first part."""
        expiring = ["expires"] * (self.entity in (SESSION, VERIFICATION_TOKEN))
        columns = [column for column in (self.group, *expiring) if column != self.key[0]]
        return {f"{self.name}_{column}": column for column in columns}

    def add_column(self, column: Stored) -> str:
        """The statement that adds a column to an existing table; its rows get the default."""
        return f"ALTER TABLE {quoted(self.name)} ADD COLUMN {column.definition}"

    def _filed_columns(self) -> Iterable[Stored]:
        """The columns that are not fields: normal forms and digests."""
        names = (*self.entity.key, self.entity.group)
        filed = [name for name in names if name in self.table.normal or name in self.entity.withheld]
        for column, codec in dict.fromkeys(map(self._part, filed)):
            yield Stored(column, codec.sql_type, not_null=column in self.key)

    def _field_column(self, f: Field) -> Stored:
        codec, default = self._codecs[f.name], None
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
            users, key = self._users.name, self._users.key[0]
            users = users if re.fullmatch("[a-z_]+", users) else quoted(users)  # as every file of ours has it
            key = key if re.fullmatch("[a-z_]+", key) else quoted(key)
            references = f" REFERENCES {users} ({key}) ON DELETE CASCADE"
        return Stored(f.name, codec.sql_type, not_null, default, references, f if own else None)

    def _refuse_clashes(self) -> None:
        """InvalidFieldError if two columns have names that differ in case only."""
        seen = {column: column for column in self._filed_names()}
        for f in fields_of(self.model) if self.ours else ():
            if (other := seen.get(f.name.lower())) is not None:
                raise InvalidFieldError(
                    f"{self.model.__name__}.{f.name} clashes with the column {other}: SQLite's names"
                    " ignore case; rename the field",
                    model=self.model.__name__,
                    field=f.name,
                    expected="a name that no other column has",
                )
            seen[f.name.lower()] = f.name

    @staticmethod
    def _filed_names() -> Iterable[str]:
        """The columns of our tables that are no fields. No field of any model may be called so."""
        normal = {column for table in OURS.tables.values() for column in table.normal.values()}
        return {*normal, "token_digest"}

    # -- tables of somebody else

    def names(self) -> list[str]:
        """The columns that we read or write."""
        read = [column for column in self._columns.values() if column is not None]
        found = [column.name for column in read if column.name]
        for column in read:
            found += names_in(column.read)
        found += names_in(self.table.where)
        return [*dict.fromkeys([*self.key, *found, *self._fill])]

    def exact_texts(self) -> list[str]:
        """The columns of keys and owners that are stored as the text they are, and must come back as that text."""
        names = {*self.entity.key, self.entity.group} - {*self.entity.withheld, *NORMAL_FORMS}
        texts = [name for name in names if (codec := self._codecs[name]).sql_type == "TEXT" and codec.encode is None]
        return [column.name for name in sorted(texts) if (column := self._columns[name]) is not None and column.name]

    def dates_as_text(self) -> list[str]:
        """The columns of dates that are stored as text."""
        dates = [f.name for f in self.stored if f.kind.name == "datetime" and self._codecs[f.name].sql_type == "TEXT"]
        return [column.name for name in dates if (column := self._columns[name]) is not None and column.name]

    def field_of(self, column: str) -> str:
        """The field that lies in a column; the column itself if none does."""
        return next((name for name, found in self._columns.items() if found and found.name == column), column)

    def unfilled(self, present: Iterable[tuple[str, bool]]) -> list[str]:
        """Which of the columns, given with whether they must be filled, would stay empty."""
        written = self._columns_written()
        return [name for name, needed in present if needed and name.lower() not in written]

    def _columns_written(self) -> set[str]:
        written = {column.name.lower() for column in self._columns.values() if column is not None and column.name}
        return written | {column.lower() for column in (*self.key, *self._fill, *self.table.normal.values())}

    def known_columns(self) -> set[str]:
        """The columns that we read or write, in lower case."""
        return self._columns_written() | {name.lower() for name in self.names()}

    def _create_theirs(self) -> list[str]:
        """The statements that make the table as its application would, in a new file."""
        table, definitions, keys = self.table, [], []
        for f in fields_of(self.model):
            if (column := self._columns.get(f.name)) is not None and column.name:
                references = ""
                if column.references is not None:
                    users = f"{quoted(self._users.name)} ({quoted(self._users.key[0])})"
                    references = f" REFERENCES {users} {column.references}"
                if column.foreign_key:
                    key = f"CONSTRAINT {quoted(column.foreign_key)} FOREIGN KEY ({quoted(column.name)})"
                    keys.append(f"{key}{references}")
                    references = ""
                definitions.append(f"{quoted(column.name)} {column.declared}{references}")
        definitions += [f"{quoted(name)} {fill.declared}" for name, fill in self._fill.items()]
        definitions += [f"{quoted(name)} {declared}" for name, declared in table.declared.items()]
        definitions += [braced(text, quoted) for text in table.constraints]
        definitions += keys
        indexes = [
            f"CREATE {kind} {quoted(index)} ON {quoted(self.name)} ({braced(columns, quoted)})"
            for index, (kind, columns) in ((index, text.split(" ON ", 1)) for index, text in table.indexes.items())
        ]
        return [f"CREATE TABLE {quoted(self.name)} ({', '.join(definitions)})", *indexes]


class Compiled:
    """The statements of a schema for a set of models, and those that span two tables."""

    def __init__(self, schema: Schema, models: Iterable[type[Record]]) -> None:
        self.schema = schema
        self.foreign = schema.foreign
        self.kinds = f"{PREFIX}custom_fields" if self.foreign else "custom_fields"
        self.create_kinds = (
            f"CREATE TABLE {self.kinds} (table_name TEXT NOT NULL, field TEXT NOT NULL COLLATE NOCASE,"
            " kind TEXT NOT NULL, PRIMARY KEY (table_name, field)) STRICT, WITHOUT ROWID"
        )
        self.select_kinds = f"SELECT table_name, field, kind FROM {self.kinds}"
        self.tables: dict[Entity, Statements] = {}
        for entity, model in zip(ENTITIES, models):
            if (table := schema.tables.get(entity)) is not None:
                users = self.tables.get(USER)
                self.tables[entity] = Statements(entity, model, table, users, self.kinds)
        some = any(table.ours for table in self.tables.values())
        self.create = [
            *([self.create_kinds] if some else []),
            *(sql for table in self.tables.values() for sql in table.create()),
        ]
        self.pages: bytes | None = None
        """The bytes of an empty database with these tables, set by the first store in memory; None before
        that, and if SQLite was built without ``serialize``."""
        user = self.tables[USER]
        theirs = ", ".join(user.cells_of("u"))
        self.session_and_user = self.user_by_account = ""
        if (session := self.tables.get(SESSION)) is not None:
            cells = zip(fields_of(session.model), session.cells_of("s"))
            read = [cell for f, cell in cells if f.name not in KNOWN]
            where = session.condition(session.exactly(session.key[0], "s"), "s")
            self.session_and_user = f"SELECT {', '.join(read)}, {theirs} {self._join(session, 's')} WHERE {where}"
            self._read = len(read)
            self._fill_session = session.fill
        if (account := self.tables.get(ACCOUNT)) is not None:
            where = account.condition(" AND ".join(account.exactly(part, "a") for part in account.key), "a")
            self.user_by_account = f"SELECT {theirs} {self._join(account, 'a')} WHERE {where}"
        self._fill_user = user.fill

    def _join(self, table: Statements, alias: str) -> str:
        user = self.tables[USER]
        # Where the two columns are declared with unlike types (Kysely: varchar, uuid), a "+" lets SQLite use the
        # index of users all the same: it takes the type from one side.
        plus = "" if table.ours else "+"
        on = user.condition(f"u.{quoted(user.key[0])} = {plus}{alias}.{quoted(table.group)}", "u")
        return f"FROM {quoted(table.name)} {alias} JOIN {quoted(user.name)} u ON {on}"

    def holds(self, entity: Entity, name: str) -> bool:
        """Whether that field of the records has a column."""
        return entity in self.tables and self.tables[entity].holds(name)

    def found(self, row: Sequence[Any], session_token: str, part: Any) -> SessionAndUser[Any, Any]:
        """The records made of a row of ``session_and_user``, the token presented, and what is stored of it."""
        read = self._read
        user = self._fill_user(*row[read:])
        session = self._fill_session(session_token, row[read], row[0], row[1], part, *row[2:read])
        found: SessionAndUser[Any, Any] = _new_tuple(SessionAndUser, (session, user))
        return found


COLUMNS = "SELECT name FROM pragma_table_info(?)"
"""The columns that a table has in the file, in the file's order, including those that no model names."""

COLUMN = 'SELECT "notnull", dflt_value FROM pragma_table_info(?) WHERE name = ? COLLATE NOCASE'
"""Whether a column must be filled, and its default."""

DEFAULT = "SELECT {}"
"""The value of a column's default, which is in braces."""

DATA_VERSION = "PRAGMA data_version"
"""A number that changes when another connection has committed to the file."""

TABLES = "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite~_%' ESCAPE '~'"
"""The tables of a file."""

MUST_BE_FILLED = (
    'SELECT name, "notnull" AND dflt_value IS NULL AND NOT (pk AND upper(type) = \'INTEGER\'), upper(type)'
    " FROM pragma_table_info(?)"
)
"""The columns of a table, each with whether a new row must have a value for it, and its declared type."""

NOT_OUR_SHAPE = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND NOT (strict AND wr)"
"""The tables that cannot be ours, which are all STRICT and WITHOUT ROWID."""

REFERRED_TO = (
    "SELECT m.name FROM sqlite_schema m, pragma_foreign_key_list(m.name) f"
    " WHERE m.type = 'table' AND lower(f.\"table\") = lower(?)"
)
"""The tables that refer to a table."""


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
def compiled(schema: Schema, models: tuple[type[Record], ...]) -> Compiled:
    """The statements, made once in a process: test suites open a fresh store for each test."""
    return Compiled(schema, models)
