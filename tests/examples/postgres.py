"""A store in PostgreSQL, for any number of hosts: copy this file into your application, and make it yours.

It needs psycopg 3.2 or newer (``pip install "psycopg[binary]"``) and PostgreSQL 13 or newer (it is tested with 15)::

    with PostgresAdapter("postgresql://app@db.example.com/app", session=Device) as store:
        store.create_all()

``BaseAdapter`` has the rules; here is how they are stored. Three decisions:

- **Writes take turns**, on all hosts together, by one advisory lock, which waits for no disk (see ``DURABLE``).
  The rules read before they write ("is this address free?"), and what they have read must still hold when they write.
  SERIALIZABLE transactions promise that, too, but fail with a demand to be run again, and nobody but the application
  can run its ``with store.transaction():`` again.
- **Reads wait for nobody**: each takes a connection of its own, and PostgreSQL shows it what is committed. Nothing is
  kept in memory, so a session that one host revokes is dead on all others at their next look-up.
- **Columns have the names that Auth.js's pg adapter expects**, so that adapter can read the users and accounts. It
  cannot add any, because the normal form of an address (``email_key``) is made in Python; and it cannot read the
  sessions, because only digests of their tokens are stored.

Fields of custom models are stored in one JSON column, ``custom``; saving a record drops those that the model does not
name. So add a field to the model on every host before anything is stored in it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from tinyauthstore import BaseAdapter, InvalidFieldError, SessionAndUser, StorageError
from tinyauthstore.models import (
    ACCOUNT,
    AUTHENTICATOR,
    AUTHJS_NAMES,
    ENTITIES,
    SESSION,
    USER,
    VERIFICATION_TOKEN,
    Entity,
    fields_of,
    session_id,
)
from tinyauthstore.transactions import innermost

Key = tuple[Any, ...]

# COLLATE "C": the contract lists users by the code points of their ids, whatever the database's own language is.
TABLES = """
CREATE TABLE IF NOT EXISTS users (
    id text COLLATE "C" PRIMARY KEY, email text, email_key text COLLATE "C" UNIQUE, name text, image text,
    "emailVerified" timestamptz, custom json NOT NULL
);
CREATE TABLE IF NOT EXISTS accounts (
    provider text COLLATE "C", "providerAccountId" text COLLATE "C",
    "userId" text COLLATE "C" NOT NULL REFERENCES users ON DELETE CASCADE, type text NOT NULL,
    refresh_token text, access_token text, expires_at bigint, token_type text, scope text, id_token text,
    session_state text, extra json NOT NULL, custom json NOT NULL, PRIMARY KEY (provider, "providerAccountId")
);
CREATE INDEX IF NOT EXISTS accounts_of_user ON accounts ("userId");
CREATE TABLE IF NOT EXISTS sessions (
    digest bytea PRIMARY KEY, "userId" text COLLATE "C" NOT NULL REFERENCES users ON DELETE CASCADE,
    expires timestamptz NOT NULL, "createdAt" timestamptz, custom json NOT NULL
);
CREATE INDEX IF NOT EXISTS sessions_of_user ON sessions ("userId");
CREATE INDEX IF NOT EXISTS sessions_by_end ON sessions (expires);
CREATE TABLE IF NOT EXISTS verification_tokens (
    identifier_key text COLLATE "C", digest bytea, identifier text NOT NULL, expires timestamptz NOT NULL,
    attempts bigint, custom json NOT NULL, PRIMARY KEY (identifier_key, digest)
);
CREATE INDEX IF NOT EXISTS verification_tokens_by_end ON verification_tokens (expires);
CREATE TABLE IF NOT EXISTS authenticators (
    "credentialID" text COLLATE "C" PRIMARY KEY, "userId" text COLLATE "C" NOT NULL REFERENCES users ON DELETE CASCADE,
    "providerAccountId" text NOT NULL, "credentialPublicKey" text NOT NULL, counter bigint NOT NULL,
    "credentialDeviceType" text NOT NULL, "credentialBackedUp" boolean NOT NULL, transports text, custom json NOT NULL
);
CREATE INDEX IF NOT EXISTS authenticators_of_user ON authenticators ("userId");
"""

KEYS = {  # the columns of each key, and the column that records are listed by
    USER: (("id",), "email_key"),
    ACCOUNT: (("provider", "providerAccountId"), "userId"),
    SESSION: (("digest",), "userId"),
    VERIFICATION_TOKEN: (("identifier_key", "digest"), "identifier_key"),
    AUTHENTICATOR: (("credentialID",), "userId"),
}

# A commit returns the lock before it is on the disk (synchronous_commit = off), so that others can write meanwhile, and
# then waits until this later one is: then so are all before it. One wait for the disk serves many hosts at once.
DURABLE = "SELECT pg_logical_emit_message(true, 'tinyauthstore', '')"

LOCK = 0x74696E79  # the advisory lock that writers take; any number, as long as nothing else in the database uses it
IDLE = 8  # so many connections for reading are kept open; more are opened while more threads read at once
LONGEST = 60_000  # ms after which the server ends a statement, or the transaction of a host that has gone silent


def escaped(text: str) -> str:
    """``text`` without NUL, which PostgreSQL cannot store; the order of code points, and prefixes, stay as they are."""
    return text.replace("\1", "\1\2").replace("\0", "\1\1") if "\1" in text or "\0" in text else text


def unescaped(text: str) -> str:
    """The text that ``escaped`` was given."""
    return text.replace("\1\1", "\0").replace("\1\2", "\1") if "\1" in text else text


class Table:
    """Where one kind of record is stored: its SQL, and records as rows and back."""

    def __init__(self, entity: Entity, model: type[Any]) -> None:
        self.entity, self.model = entity, model
        self.keys, group = KEYS[entity]
        named = {f.name for f in fields_of(entity.record)}
        self.fields = [f for f in fields_of(model) if f.name in named and f.name not in entity.withheld]
        self.custom = [f for f in fields_of(model) if f.name not in named]
        self.read = [*self.keys, *(AUTHJS_NAMES.get(f.name, f.name) for f in self.fields), "custom"]
        self.written = [*dict.fromkeys([*self.keys, group, *self.read])]
        self.name, self.columns, key = entity.plural, self.listed(self.read), self.listed(self.keys)
        self.where = f"({key}) = ({self.marks(self.keys)})"
        self.insert = f"INSERT INTO {self.name} ({self.listed(self.written)}) VALUES ({self.marks(self.written)})"
        self.update = f"UPDATE {self.name} SET ({self.listed(self.written)}) = ROW ({self.marks(self.written)})"
        self.select = f"SELECT {self.columns} FROM {self.name}"
        self.after, self.ordered = f"({key}) > ({self.marks(self.keys)})", f"ORDER BY {key}"
        self.group = f'"{group}"'

    @staticmethod
    def listed(columns: Sequence[str], of: str = "") -> str:
        return ", ".join(f'{of}"{column}"' for column in columns)

    @staticmethod
    def marks(columns: Sequence[str]) -> str:
        return ", ".join(["%s"] * len(columns))

    def row(self, key: Key, record: Any) -> list[Any]:
        """The values of the columns ``written``."""
        values = dict(zip(self.keys, key)) | {self.group[1:-1]: self.entity.group_of(record)}
        for f in self.fields:
            value = getattr(record, f.name)
            # ASCII, into a column of type json: jsonb refuses NUL and the halves of characters that providers send.
            values[AUTHJS_NAMES.get(f.name, f.name)] = json.dumps(value) if f.kind.name == "object" else value
        custom = {}
        for f in self.custom:
            value = getattr(record, f.name)
            value = None if value is None else f.kind.to_json(value)
            custom[f.name] = str(value) if isinstance(value, float) and math.isinf(value) else value
        return [*values.values(), json.dumps(custom)]

    def entry(self, row: Sequence[Any]) -> tuple[Key, Any]:
        """The key and the record of a row with the columns ``read``."""
        row = [unescaped(value) if type(value) is str else value for value in row]
        key, custom = tuple(row[: len(self.keys)]), row[-1]
        values: dict[str, Any] = dict.fromkeys(self.entity.withheld, "")
        if self.entity is SESSION:
            values["id"] = session_id(key[0])
        values |= {f.name: value for f, value in zip(self.fields, row[len(self.keys) :])}
        for f in self.custom:
            value = custom.get(f.name)
            if f.name not in custom and f.default is not None:  # stored before the model had this field
                values[f.name] = f.check(f.default())
            else:
                value = float(value) if f.kind.name == "real" and value is not None else value
                values[f.name] = None if value is None and f.optional else f.kind.from_json(value)
        return key, self.model(**values)


class PostgresAdapter(BaseAdapter):
    """The contract over PostgreSQL. ``conninfo`` is libpq's URL or ``host=... dbname=...``.

    A call waits ``timeout`` seconds for other writers, here or on other hosts, before BusyError. The server ends a
    transaction whose host has been silent for a minute (``LONGEST``), so that no frozen host keeps everybody out.
    ``lock``: two stores in one database, in schemas of their own, write at the same time if they have two numbers.
    There are as many connections as threads that read at the same time, and one to write with. They have settings of
    their own: between this and the server, a pooler must pool sessions, not transactions.
    """

    def __init__(self, conninfo: str, *, lock: int = LOCK, **options: Any) -> None:
        super().__init__(**options)
        known = conninfo_to_dict(conninfo)
        self._conninfo, self._lock = conninfo, lock
        self._path = f"postgresql://{known.get('host') or ''}/{known.get('dbname') or ''}"  # no user, no password
        self._tables = {entity: Table(entity, self._models[entity]) for entity in ENTITIES}
        self._idle: list[psycopg.Connection[Any]] = []  # for reading; append and pop are atomic
        self._writer: psycopg.Connection[Any] | None = None  # whoever has the turn may use it
        self._savepoints = 0
        self._idle.append(self._connect())
        self._opened()

    def __repr__(self) -> str:
        return f"PostgresAdapter({self._path!r})"

    def create_all(self) -> None:
        """Create the tables and indexes that are missing. Any number of hosts may call this at once."""
        with self.transaction():
            self._write(TABLES)

    # -- connections: one to write with, some to read with

    def _connect(self) -> psycopg.Connection[Any]:
        given: dict[str, Any] = {"connect_timeout": max(2, math.ceil(self._timeout))} | conninfo_to_dict(self._conninfo)
        with self._translated():
            connection = psycopg.connect(**given, autocommit=True, client_encoding="utf8")
            connection.execute(
                f"SET timezone = 'UTC'; SET lock_timeout = {self._milliseconds(self._timeout)};"
                f"SET statement_timeout = {LONGEST}; SET idle_in_transaction_session_timeout = {LONGEST}"
            )
        return connection

    @staticmethod
    def _milliseconds(seconds: float) -> int:
        return min(max(1, int(seconds * 1000)), 2**31 - 1)  # 0 would mean for ever

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raises StorageError or BusyError in the place of psycopg's errors, without the values that these quote."""
        try:
            yield
        except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled) as error:
            raise self._busy(
                "was kept waiting by another transaction, perhaps of another host, for too long; nothing was changed."
                " Keep transactions short, or give a longer timeout="
            ) from error
        except psycopg.Error as error:
            kind = f"{type(error).__name__}{f', SQLSTATE {error.sqlstate}' if error.sqlstate else ''}"
            raise StorageError(f"{self!r} failed ({kind})", path=self._path) from error

    def _run(self, connection: Any, sql: str, values: Sequence[Any] = ()) -> Any:
        """The one door to the database."""
        with self._translated():
            return connection.execute(sql, [escaped(v) if type(v) is str else v for v in values] or None)

    def _write(self, sql: str, values: Sequence[Any] = ()) -> Any:
        return self._run(self._writer, sql, values)

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """What a SELECT finds: inside a transaction with what was written there, else with what is committed."""
        if innermost(self) is not None:
            return self._in_turn(lambda: self._write(sql, values).fetchall())
        while True:
            try:
                connection, fresh = self._idle.pop(), False
            except IndexError:
                connection, fresh = self._connect(), True
            try:
                rows: list[Any] = self._run(connection, sql, values).fetchall()
            except StorageError:
                if fresh or not connection.closed:
                    raise
                continue  # it was lost while it was idle, as when the server is restarted; the next one may live
            finally:
                if self._closed or len(self._idle) >= IDLE or not self._rests(connection):
                    connection.close()
                else:
                    self._idle.append(connection)
            return rows

    @staticmethod
    def _rests(connection: psycopg.Connection[Any]) -> bool:
        """Whether it is alive and in no transaction."""
        return connection.info.transaction_status == TransactionStatus.IDLE

    # -- look-ups

    def _get(self, entity: Entity, key: Key) -> Any:
        table = self._tables[entity]
        rows = self._rows(f"{table.select} WHERE {table.where}", key)
        return table.entry(rows[0])[1] if rows else None

    def _find(self, entity: Entity, group: str) -> dict[Key, Any]:
        table = self._tables[entity]
        return dict(map(table.entry, self._rows(f"{table.select} WHERE {table.group} = %s {table.ordered}", [group])))

    def _page(
        self, entity: Entity, after: Key | None, limit: int, prefix: str | None = None
    ) -> list[tuple[Key, Any]]:
        table, conditions = self._tables[entity], ["true"]
        values: list[Any] = []
        if after is not None:
            conditions.append(table.after)
            values += after
        if prefix is not None:
            conditions.append(f"starts_with({table.group}, %s)")
            values.append(prefix)
        sql = f"{table.select} WHERE {' AND '.join(conditions)} {table.ordered} LIMIT %s"
        return [*map(table.entry, self._rows(sql, [*values, limit]))]

    def _count(self, entity: Entity, later: Any) -> int:
        columns = [f'"{AUTHJS_NAMES.get(name, name)}"' for name in later]
        conditions = ["true", *(f"({column} IS NULL OR {column} > %s)" for column in columns)]
        sql = f"SELECT count(*) FROM {entity.plural} WHERE {' AND '.join(conditions)}"
        return int(self._rows(sql, [*later.values()])[0][0])

    def _with_user(self, entity: Entity, key: Key) -> tuple[Any, Any] | None:
        """The record with that key and its user, in one round trip; None if there is none."""
        table, users = self._tables[entity], self._tables[USER]
        mine, theirs = table.listed(table.read, "r."), users.listed(users.read, "u.")
        rows = self._rows(
            f'SELECT {mine}, {theirs} FROM {table.name} r JOIN users u ON u.id = r."userId" WHERE {table.where}', key
        )
        if not rows:
            return None
        width = len(table.read)
        return table.entry(rows[0][:width])[1], users.entry(rows[0][width:])[1]

    def _get_session_and_user(self, session_token: str) -> Any:
        self._require_open()
        found = self._with_user(SESSION, (self._part(SESSION, session_token),))
        if found is None:
            return None
        return SessionAndUser(dataclasses.replace(found[0], session_token=session_token), found[1])

    def _get_owner(self, account: Key) -> Any:
        found = self._with_user(ACCOUNT, account)
        return None if found is None else found[1]

    @contextmanager
    def _view(self) -> Iterator[Callable[[Entity], Iterator[tuple[Key, Any]]]]:
        if innermost(self) is not None:
            with super()._view() as walk:
                yield walk
            return
        with closing(self._connect()) as connection:
            self._run(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")

            def walk(entity: Entity) -> Iterator[tuple[Key, Any]]:
                table = self._tables[entity]
                with connection.cursor(name="walk") as cursor:  # on the server, which sends a thousand rows at a time
                    cursor.itersize = 1000
                    with self._translated():
                        cursor.execute(f"{table.select} {table.ordered}")
                        yield from map(table.entry, cursor)

            yield walk

    # -- writes: inside a transaction, by one caller at a time

    def _add(self, entity: Entity, key: Key, record: Any) -> None:
        self._store(entity, self._tables[entity].insert, self._tables[entity].row(key, record))

    def _change(self, entity: Entity, key: Key, record: Any) -> None:
        table = self._tables[entity]
        self._store(entity, f"{table.update} WHERE {table.where}", [*table.row(key, record), *key])

    def _store(self, entity: Entity, sql: str, values: Sequence[Any]) -> None:
        try:
            self._write(sql, values)
        except StorageError as error:
            if not isinstance(error.__cause__, psycopg.errors.ProgramLimitExceeded):
                raise
            expected = "a key of at most 2,700 bytes when compressed, the most that PostgreSQL's indexes take"
            model = self._models[entity].__name__
            raise InvalidFieldError(
                f"{model}: expected {expected}", model=model, field=entity.key[-1], expected=expected
            ) from error

    def _add_all(self, entity: Entity, records: Sequence[tuple[Key, Any]]) -> int:
        table = self._tables[entity]
        self._write("SAVEPOINT all_at_once")
        try:
            assert self._writer is not None
            with self._translated(), self._writer.cursor() as cursor:
                with cursor.copy(f"COPY {table.name} ({table.listed(table.written)}) FROM STDIN") as lines:
                    for key, record in records:
                        row = table.row(key, record)
                        lines.write_row([escaped(value) if type(value) is str else value for value in row])
        except StorageError as error:
            if not isinstance(error.__cause__, psycopg.IntegrityError):
                raise
            self._write("ROLLBACK TO all_at_once")  # something is taken, or has no user: find out what
            return super()._add_all(entity, records)
        self._write("RELEASE all_at_once")
        return len(records)

    def _rekey(self, entity: Entity, key: Key, new: Key) -> None:
        self._write("UPDATE sessions SET digest = %s WHERE digest = %s", [*new, *key])

    def _remove(self, entity: Entity, key: Key) -> Any:
        table = self._tables[entity]
        rows = self._write(f"DELETE FROM {table.name} WHERE {table.where} RETURNING {table.columns}", key).fetchall()
        return table.entry(rows[0])[1] if rows else None

    def _remove_group(self, entity: Entity, group: str) -> None:
        self._write(f"DELETE FROM {entity.plural} WHERE {self._tables[entity].group} = %s", [group])

    def _purge(self, entity: Entity, now: datetime, limit: int) -> int:
        expired = f"SELECT ctid FROM {entity.plural} WHERE expires <= %s ORDER BY expires LIMIT %s"
        sql = f"DELETE FROM {entity.plural} WHERE ctid = ANY(ARRAY({expired}))"
        return int(self._write(sql, [now, limit]).rowcount)

    # -- transactions

    def _begin(self, depth: int, patience: float) -> None:
        if depth:
            self._write(f"SAVEPOINT s{depth}")
            self._savepoints = depth
            return
        self._savepoints = 0
        lost = self._writer is not None
        if self._writer is None or self._writer.closed:
            self._writer, lost = self._connect(), False
        # READ COMMITTED: at any higher level, what was committed while this waited for the lock would not be seen.
        begin = (
            f"BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {self._milliseconds(patience)};"
            f"SET LOCAL synchronous_commit = off; SELECT pg_advisory_xact_lock({self._lock})"
        )
        try:
            self._write(begin)
        except StorageError:
            if not (lost and self._writer.closed):
                raise
            self._writer = self._connect()  # the old connection was lost while nothing was being written
            self._write(begin)

    def _commit(self, depth: int) -> None:
        if depth:
            self._write(f"RELEASE s{depth}")
            self._savepoints = depth - 1
            return
        # The SELECT is refused after a statement that failed. COMMIT alone would be answered by ROLLBACK, as no error.
        [wrote] = self._write("SELECT pg_current_xact_id_if_assigned() IS NOT NULL; COMMIT").fetchone()
        if wrote:
            self._write(DURABLE)

    def _rollback(self, depth: int) -> None:
        writer = self._writer
        if writer is None or writer.closed or self._rests(writer):
            return
        try:
            if depth == 0:
                writer.execute("ROLLBACK")
            elif depth <= self._savepoints:
                writer.execute(f"ROLLBACK TO s{depth}; RELEASE s{depth}")
                self._savepoints = depth - 1
        except psycopg.Error:
            writer.close()  # the server undoes what is left open

    def _dump(self) -> Any:
        return {entity.plural: [*self._walk(entity)] for entity in ENTITIES}

    def _load(self, state: Any) -> None:
        for entity in reversed(ENTITIES):
            self._write(f"DELETE FROM {entity.plural}")
        for entity in ENTITIES:
            self._add_all(entity, state[entity.plural])

    # -- the end, and fork()

    def _release(self) -> None:
        for connection in [*self._idle, self._writer]:
            if connection is not None:
                connection.close()
        self._idle, self._writer = [], None

    def after_fork_in_child(self) -> None:
        super().after_fork_in_child()
        # The parent goes on with its connections. The child neither uses nor closes them, and opens its own.
        _left_to_parent.extend([self._idle, self._writer])
        self._idle, self._writer = [], None


_left_to_parent: list[Any] = []
