"""The adapters: ``SQLiteAdapter``; from ``memory.py``, ``MemoryAdapter`` and ``ShelveAdapter``; ``connect``.

``BaseAdapter`` has the rules that they share. Each adapter implements the storage methods that it asks for.
"""

from __future__ import annotations

import functools
import heapq
import math
import os
import random
import re
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from threading import get_ident
from typing import TYPE_CHECKING, Any, Literal

from . import forks, paths
from .base import AT_ONCE, MODEL_OPTIONS, BaseAdapter, Key, brief, naming_options
from .clock import monotonic
from .contract import Adapter
from .encodings import CODECS
from .errors import AuthStoreError, BusyError, ConflictError, StorageError, warn
from .kept import Watch
from .memory import MemoryAdapter as MemoryAdapter
from .memory import ShelveAdapter as ShelveAdapter
from .models import (
    ACCOUNT, NORMAL_FORMS, SESSION, USER, AccountT, AuthenticatorT, Entity,
    SessionAndUser, SessionT, UserT, VerificationTokenT,
)
from .recorded import Recorded
from .reshape import Changes, Collision
from .schema import APPLICATION_ID, MINIMUM_SQLITE, OURS, USER_VERSION, Schema
from .statements import (
    COLUMN, COLUMNS, DATA_VERSION, DEFAULT, FOREIGN_TABLES, MARK, MUST_BE_FILLED, REFERRED_TO, TABLES, Statements,
    compiled, in_words, makes_numbers, token_part,
)
from .transactions import Turn, about_to_wait, innermost

try:
    import sqlite3
except ImportError:  # this Python was built without it; everything but SQLiteAdapter still works
    sqlite3 = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from typing import Unpack

    from .base import Options


# --- SQLite -----------------------------------------------------------------------------------


class SQLiteAdapter(BaseAdapter[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]):
    """A store in one SQLite file, or in memory for ``":memory:"``.

    Safe for any number of threads and processes. One connection, guarded by a lock, does the work; while it
    is busy, other threads read a file through a second connection, so no look-up waits for a write.
    """

    _answers_at_once = True

    @naming_options
    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronize: bool = True,
        durability: Literal["full", "normal"] = "full",
        schema: Schema | None = None,
        **options: Unpack[Options[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]],
    ) -> None:
        """Open ``path``, creating the file (mode 0600) unless it exists.

        A link is followed once: its target is the store, beside which SQLite puts its other files.
        ``synchronize``: create and convert what the models need, as ``reshape.py`` says; False only verifies.
        ``durability``: with ``"full"``, every acknowledged write survives a power cut; with
        ``"normal"``, it survives the process, but a power cut may undo the last few writes. ``schema``: how
        records lie in the file, if it is another application's: one of ``layouts.py``, or your own; None: as in
        all files of ours.
        ``BaseAdapter`` explains the other options.

        StorageError if the file is not one of our stores, is damaged, was written by a newer version, cannot
        be opened, does not fit the models, or (without ``synchronize``) lacks a table or column; the file is
        left as it was. ValueError for an option that the schema has no column for.
        """
        super().__init__(**options)
        if sqlite3 is None or sqlite3.sqlite_version_info < MINIMUM_SQLITE:
            found = "none" if sqlite3 is None else f"SQLite {sqlite3.sqlite_version}"
            raise StorageError(
                f"SQLiteAdapter needs SQLite {'.'.join(map(str, MINIMUM_SQLITE))} or newer, and this Python"
                f" has {found}; ShelveAdapter (a directory) and MemoryAdapter need none"
            )
        if durability not in ("full", "normal"):
            raise ValueError(f'durability must be "full" or "normal"; got {durability!r}')
        path = os.fspath(path)
        if not isinstance(path, str) or not path or path.startswith("file:"):
            raise ValueError(f"path must name a file, or be ':memory:'; got {path!r}")
        self._in_memory = path == ":memory:"
        self._path = path if self._in_memory else paths.resolved(path)
        self._synchronous = durability.upper()
        self._synchronize = synchronize
        schema = OURS if schema is None else schema
        if not isinstance(schema, Schema):
            raise TypeError(f"schema= takes a Schema, such as layouts.prisma; got {type(schema).__name__}")
        self._schema = compiled(schema, tuple(self._models.values()))
        self._check_options()
        self._connection: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._reader_turn = Turn()
        self._watch: Watch | None = None  # None in memory, and while there is no connection
        self._file_meant: paths.Opened | None = None  # None in memory
        self._look_at = math.inf  # the monotonic() from which on a look-up looks whether it is there
        self._usual_cache: int | None = None  # what cache_size was before a transaction that adds many records
        self._refusal = ""  # why nothing may be written until the file is opened again
        try:
            if not self._in_memory:
                self._reach_file(create=synchronize and (schema.new_file or not self._schema.foreign))
            self._open_connection(lambda: self._prepare(synchronize))
        except BaseException:
            self._let_go()
            raise
        self._opened()

    def __repr__(self) -> str:
        schema = self._schema.schema
        return f"SQLiteAdapter({self._path!r}{'' if schema is OURS else f', schema={schema!r}'})"

    @property
    def path(self) -> str:
        """Where the file lies, absolute; ``":memory:"`` if there is none."""
        return self._path

    # -- opening

    def _check_options(self) -> None:
        """ValueError for options that the schema cannot do justice to; a warning if its tokens are in the clear."""
        compiled_for, schema = self._schema, self._schema.schema
        if self._absolute_age is not None and not compiled_for.holds(SESSION, "created_at"):
            raise ValueError(
                f"session_absolute_age= needs to know when a session was created, and {schema.name} has no column"
                " for created_at: name one in the schema, or leave the option out"
            )
        for table in compiled_for.tables.values():
            if table.tokens == "authjs" and self._secret is None:
                raise ValueError(
                    f"{schema.name} stores tokens hashed as Auth.js does it: secret= must be its AUTH_SECRET"
                )
        self._makes_user_ids = schema.user.makes_ids
        if schema.in_the_clear and repr(schema) not in _warned:
            _warned.add(repr(schema))
            warn(
                "%s keeps tokens in the clear (%s): whoever can read such a file can sign in as anybody",
                schema.name, ", ".join(schema.in_the_clear),
            )  # fmt: skip

    def _part(self, entity: Entity, token: str) -> Any:
        table = self._schema.tables.get(entity)
        if table is None or table.tokens == "digest":
            return self._digest(token)
        return token_part(table.tokens, token, self._secret)

    def _token_storage(self, entity: Entity) -> str:
        table = self._schema.tables.get(entity)
        return "digest" if table is None else table.tokens

    def _statements(self, entity: Entity) -> Statements:
        """The statements for a kind of record. StorageError if the schema has no table for it."""
        try:
            return self._schema.tables[entity]
        except KeyError:
            pass
        raise self._trouble(
            f"has no table for {entity.plural} ({self._schema.schema.name}); give the schema one, such as"
            f" {entity.name}=schema.ours(...), or keep them in another store (SplitAdapter)"
        )

    def _reach_file(self, *, create: bool) -> None:
        """Make sure that there is a file which SQLite can use. StorageError if there is none.

        An existing file is not opened: closing any descriptor of a database file drops the POSIX locks that
        this process's other connections hold on it.
        """
        try:
            if create:
                # 0600 before SQLite sees it: -wal and -shm inherit the mode, so a later chmod is too late.
                try:
                    os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
                except FileExistsError:
                    pass
            found = os.stat(self._path)
            if not stat.S_ISREG(found.st_mode):
                raise self._trouble("is not a file; give the path of a file, which may be new")
            if (found.st_dev, found.st_ino) in _inherited:
                raise self._trouble(
                    "cannot be opened in this process, which was forked while a transaction was open in its"
                    " parent and inherited SQLite's locks with it; start a fresh process instead"
                    ' (multiprocessing: "spawn")'
                )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            if isinstance(error, FileNotFoundError):
                folder = os.path.dirname(self._path)
                reason = f"the directory {folder} does not exist; create it first"
                if os.path.isdir(folder):
                    reason = (
                        "no file can be made there"
                        if create
                        else "it does not exist; synchronize=True would create it"
                    )
            raise self._trouble(f"cannot be opened: {reason}") from error
        if not (
            os.access(self._path, os.R_OK | os.W_OK) and os.access(os.path.dirname(self._path), os.W_OK)
        ):
            raise self._trouble("is not writable for this user, or its directory is not (SQLite needs both)")
        paths.refuse_a_strangers_file(self._path, found)

    def _connect(self, *, reader: bool = False) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(
                self._path,
                timeout=0,  # _run does the waiting
                isolation_level=None,
                check_same_thread=False,
                cached_statements=256,
            )
        except sqlite3.Error as error:
            raise self._translated(error) from error
        try:
            ours = not self._schema.foreign
            if not (self._in_memory or reader) and paths.stale_wal(self._path, ours=ours):  # before SQLite reads it
                raise self._trouble(paths.STALE_WAL)
            for pragma in (
                "foreign_keys = ON",
                "secure_delete = ON",
                "temp_store = MEMORY",
                "trusted_schema = OFF",
                f"journal_size_limit = {WAL_LIMIT}",
                f"synchronous = {self._synchronous}",
                f"query_only = {'ON' if reader else 'OFF'}",
            ):
                self._run(f"PRAGMA {pragma}", connection=connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_connection(self, prepare: Callable[[], object] = lambda: None) -> None:
        """Make the first connection, and watch from then on whether any other connection commits."""
        if self._file_meant is not None and (moved := self._file_meant.moved()):
            raise self._trouble(moved)
        file = self._file()
        self._connection = self._connect()
        prepare()
        if not self._in_memory:
            open_files = paths.open_files()
            self._file_meant = paths.Opened(self._path, open_files, ours=not self._schema.foreign)
            self._look_at = monotonic() + LOOK_EVERY
            # If the path names another file by now, the -shm beside it may not belong to our connection.
            same = file is not None and file == self._file_meant.identity
            shm = f"{self._path}-shm" if same else None
            self._watch = Watch(self._data_version, shm, self._kept.doubt, open_files)

    def _data_version(self) -> int:
        version: int = self._row(DATA_VERSION, ())[0]
        return version

    def _file(self) -> tuple[int, int] | None:
        """The device and inode of the file that the path names now. None if there is none."""
        return paths.identity(self._path)

    def _look(self) -> None:
        """StorageError if the file is no longer the one that its path names, or not what it was.

        For look-ups; a write looks for itself. While somebody writes, only the path is looked at, because the
        connection may be closed and opened again meanwhile.
        """
        me, meant = get_ident(), self._file_meant
        if meant is None:
            return
        try:
            trouble = meant.trouble(thorough=True) if self._turn.claim(me) else meant.moved()
        finally:
            self._turn.claims.pop(me, None)
            if self._turn.waiting:
                self._turn.wake()
        if trouble:
            self._require_open()
            self._kept.clear()
            raise self._trouble(trouble)
        self._look_at = monotonic() + LOOK_EVERY

    def _prepare(self, synchronize: bool) -> None:
        """Check whose file this is before touching it, then verify or create the tables."""
        if self._in_memory:  # new and ours alone: nothing to check
            self._make_tables()
            return
        if self._schema.foreign:
            self._prepare_theirs(synchronize)
            return
        self._run("BEGIN")  # one snapshot: another process may be creating the tables right now
        application_id, user_version = (
            self._run(f"PRAGMA {pragma}")[0][0] for pragma in ("application_id", "user_version")
        )
        ours = application_id == APPLICATION_ID
        tables = [] if ours else [name for (name,) in self._run(FOREIGN_TABLES)]
        changes = None
        if ours and user_version <= USER_VERSION or not (user_version or tables):
            changes = Changes(self._schema, self._run)
        self._run("COMMIT")
        if not ours and (application_id or user_version or tables):
            raise self._trouble(
                f"is the database of another application (application_id {application_id},"
                f" tables: {', '.join(tables) or 'none'}); choose another path"
            )
        if user_version > USER_VERSION:
            raise self._trouble(
                f"was written by a newer tinyauthstore (schema {user_version}, this one knows"
                f" {USER_VERSION}); upgrade the package"
            )
        assert changes is not None
        if changes.wrong:
            raise self._unfit(changes)
        if changes.missing and not synchronize:
            raise self._lacks(changes)
        self._enter_wal_mode()
        if changes.steps and synchronize:
            self._run("BEGIN IMMEDIATE")
            # Another process may have been faster: only under the lock is it certain what is missing.
            changes = Changes(self._schema, self._run)
            if changes.wrong:
                raise self._unfit(changes)
            try:
                changes.make()
            except Collision as error:
                raise self._trouble(str(error)) from None
            for statement in (*MARK, "COMMIT"):
                self._run(statement)
            changes.tell(self._path)

    def _prepare_theirs(self, synchronize: bool) -> None:
        """Verify another application's file. Tables of ours in it are made and extended; its own are not, unless
        the file is empty and the schema knows how they are made."""
        schema = self._schema.schema
        if self._run("PRAGMA application_id")[0][0] == APPLICATION_ID:
            raise self._trouble("is a store of tinyauthstore's own; open it without schema=")
        if synchronize and schema.new_file and not self._run(TABLES):
            self._run("PRAGMA journal_mode = WAL")
            self._run("BEGIN IMMEDIATE")
            for statement in self._schema.create if not self._run(TABLES) else ():
                self._run(statement)
            self._run("COMMIT")
        self._run("BEGIN")
        wrong = [text for table in self._schema.tables.values() if not table.ours for text in self._misfits(table)]
        changes = Changes(self._schema, self._run)
        tables = ", ".join(name for (name,) in self._run(FOREIGN_TABLES))
        self._run("COMMIT")
        if wrong:
            raise self._trouble(
                f"does not fit {schema.name}: {'; '.join(wrong)}; it has the tables {tables or 'none'}. Tables that"
                " another application manages are never altered here: let it make them, or mend the schema"
            )
        if changes.wrong:
            raise self._unfit(changes)
        if changes.missing and not synchronize:
            raise self._lacks(changes)
        if changes.steps and synchronize:
            self._run("BEGIN IMMEDIATE")
            Changes(self._schema, self._run).make()
            self._run("COMMIT")

    def _misfits(self, table: Statements) -> Iterator[str]:
        """What somebody else's table lacks, in words, and which of its columns nothing would fill."""
        found = self._run(MUST_BE_FILLED, (table.name,))
        present = {name.lower(): (name, bool(needed)) for name, needed, _ in found}
        if not present:
            yield f"there is no table {table.name}"
            return
        for name in table.names():
            if name.lower() not in present:
                yield f"there is no column {table.name}.{name}"
        types = {name.lower(): declared for name, _, declared in found}
        for name in table.exact_texts():
            if makes_numbers(types.get(name.lower(), "")):
                yield (
                    f"column {table.name}.{name} is {types[name.lower()]}, so SQLite makes 7 of '007' there: give it a"
                    " codec, such as integer_id or text_id"
                )
        for name in table.dates_as_text():
            if "INT" in types.get(name.lower(), ""):
                yield f"column {table.name}.{name} is {types[name.lower()]}, and would get dates as text"
        for name in table.unfilled(present.values()):
            yield f"column {table.name}.{name} must be filled, and the schema's fill= does not say with what"

    def _lacks(self, changes: Changes) -> StorageError:
        error = self._trouble(
            f"lacks {'; '.join(changes.missing)}; open it once with synchronize=True to add that"
        )
        error.missing = tuple(changes.missing)
        return error

    def _unfit(self, changes: Changes) -> StorageError:
        return self._trouble(
            f"does not fit the models: {'; '.join(changes.wrong)}; rename the field or convert the column"
        )

    def _make_tables(self) -> None:
        """Make the tables of a new store in memory.

        The first store with given models executes the DDL; later ones copy its pages, in a third of the
        time, which matters to a suite that opens a store for each test.
        """
        connection: Any = self._connection
        schema = self._schema
        if schema.pages is None:
            for statement in ("BEGIN", *schema.create, "COMMIT"):
                self._run(statement)
            if hasattr(connection, "serialize"):  # SQLite may be built without it
                schema.pages = connection.serialize()
            return
        try:
            # Not deserialized into our own connection: writing to a deserialized database takes a fifth
            # longer, and it cannot grow beyond 1 GiB.
            with closing(sqlite3.connect(":memory:")) as first:
                first.deserialize(schema.pages)
                first.backup(connection)
        except sqlite3.Error as error:
            raise self._translated(error) from error

    def _recorded(self) -> dict[str, dict[str, Recorded]]:
        """What the file says of the custom fields in tables of ours, by the plural of the record's name."""
        found: dict[str, dict[str, Recorded]] = {}
        if (self._schema.kinds,) not in self._run(TABLES):
            return found
        plurals = {table.name: entity.plural for entity, table in self._schema.tables.items() if table.ours}
        for name, field, kind in self._run(self._schema.select_kinds):
            if name not in plurals:
                continue
            for not_null, default in self._run(COLUMN, (name, field)):
                value = None if default is None else self._run(DEFAULT.format(default))[0][0]
                decode = codec.decode if (codec := CODECS.get(kind.partition(" ")[0])) is not None else None
                value = value if value is None or decode is None else decode(value)
                found.setdefault(plurals[name], {})[field] = Recorded(kind, not not_null, value)
        return found

    def _unread(self) -> list[str]:
        """The columns of the tables that have records, which no field is read from and nothing here fills."""
        return [
            f"{table.name}.{column}"
            for table in self._schema.tables.values()
            for (column,) in self._run(COLUMNS, (table.name,))
            if column.lower() not in table.known_columns()
        ]

    # -- executing SQL

    def _run(
        self,
        sql: str,
        parameters: Sequence[Any] = (),
        connection: sqlite3.Connection | None = None,
        patience: float | None = None,
    ) -> list[Any]:
        """All rows of a statement, on the first connection by default. The caller must hold its turn.

        BusyError after waiting ``patience`` seconds (None: ``timeout``) for another process that writes;
        StorageError for any other error of SQLite's. The waiting is not left to SQLite, whose busy handler is
        unfair under load (a writer was measured to starve for seconds); short random sleeps are fair.
        """
        used = connection or self._connection or self._reconnected()
        deadline = None
        while True:
            try:
                return self._rows(used, sql, parameters)
            except UnicodeDecodeError:
                break
            except sqlite3.Error as error:
                if str(error).startswith("Could not decode"):
                    break
                now = monotonic()
                deadline = deadline or now + (self._timeout if patience is None else patience)
                if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY or now >= deadline:
                    raise self._translated(error) from error
            about_to_wait()
            time.sleep(random.uniform(0, 0.002))
        # Raised outside ``except``: SQLite's message, kept in __context__, quotes the text, maybe a token.
        raise self._trouble("is damaged (it holds text that is not UTF-8); restore a backup")

    def _rows(self, connection: sqlite3.Connection, sql: str, parameters: Sequence[Any]) -> list[Any]:
        cursor = None
        try:
            cursor = connection.execute(sql, parameters)
            rows = cursor.fetchmany(AT_ONCE + 1)
            if len(rows) > AT_ONCE:
                about_to_wait()
                rows += cursor.fetchall()
            return rows
        finally:
            # The frames of an exception would keep the cursor alive, and as long as it is open, the
            # connection goes on reading an old snapshot.
            cursor = None

    def _run_all(self, sql: str, rows: Iterator[Sequence[Any]]) -> None:
        """Run a statement that returns nothing with each of these parameters, inside a transaction. StorageError."""
        try:
            (self._connection or self._reconnected()).executemany(sql, rows)
        except sqlite3.Error as error:
            raise self._translated(error) from error

    def _row(self, sql: str, parameters: Sequence[Any]) -> Any:
        """The first row of a query on the first connection, or None. ``_run``, but cheaper."""
        try:
            return (self._connection or self._reconnected()).execute(sql, parameters).fetchone()
        except sqlite3.Error:
            pass  # run again below, outside ``except``, so that no __context__ holds a value
        return next(iter(self._run(sql, parameters)), None)

    def _translated(self, error: sqlite3.Error) -> AuthStoreError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_CONSTRAINT and self._schema.foreign:
            return self._violated(str(error))
        if code == sqlite3.SQLITE_BUSY:
            return BusyError(
                f"{self._path} stayed locked by another process for {self._timeout} seconds; nothing was"
                " changed. Keep its transactions short, or give a longer timeout=",
                path=self._path,
            )
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return self._trouble(
                f"is damaged or no SQLite database ({error}); restore a backup, or choose another path"
            )
        return self._trouble(f"could not be used: {error}")

    def _violated(self, what: str) -> AuthStoreError:
        """The error for a constraint of somebody else's table that a write would break."""
        for table in self._schema.tables.values():
            taken = what.removeprefix(f"UNIQUE constraint failed: {table.name}.")
            if taken != what:
                field = table.field_of(taken.partition(f", {table.name}.")[0])
                model = table.model.__name__
                return ConflictError(f"{model}.{field} is taken", model=model, field=field)
        if what.startswith("FOREIGN KEY"):
            what += ": rows of other tables refer to the record; remove them first"
        return self._trouble(f"does not take it ({what}); nothing was changed")

    def _trouble(self, what: str) -> StorageError:
        return StorageError(f"{self._path} {what}", path=self._path)

    def _reconnected(self) -> sqlite3.Connection:
        """The first connection, opened again after fork() had closed it. ClosedError if the store is."""
        self._require_open()
        self._open_connection()
        assert self._connection is not None
        return self._connection

    def _read(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        """The rows of a query.

        Inside a transaction, they are as it sees them. While another thread uses the first connection to a
        file, they are read through the second one.
        """
        if monotonic() >= self._look_at:
            self._look()
        block = innermost(self) if self._turn.claims else None
        me, turn = get_ident(), block or self._turn
        try:
            turn.claims[me] = None
            if [*turn.claims][0] != me and (block is not None or self._in_memory):
                self._take(turn, me)
            if [*turn.claims][0] == me or turn.claim(me):
                if block is not None:
                    self._require_whole()
                return self._run(sql, parameters)
            turn = self._reader_turn
            self._take(turn, me)
            self._require_open()
            if self._reader is None:
                self._open_reader()
            return self._run(sql, parameters, self._reader)
        finally:
            turn.claims.pop(me, None)
            if turn.waiting:
                turn.wake()

    def _open_reader(self) -> None:
        if self._file_meant is not None and (moved := self._file_meant.moved()):
            raise self._trouble(moved)
        self._reader = self._connect(reader=True)

    # -- look-ups

    def _get(self, entity: Entity, key: Key) -> Any:
        table = self._schema.tables.get(entity)
        if table is None or (place := self._place(table, key)) is None:
            return None
        rows = self._read(table.select, place)
        return self._decoded(table.record, rows[0], entity) if rows else None

    def _place(self, table: Statements, key: Key) -> Sequence[Any] | None:
        """The values by which the key's row is found; None if it is certain that there is none."""
        if not table.indirect:
            return table.place(key)
        if (query := table.candidates(key)) is None:
            return None
        for row in self._read(*query):
            record = self._decoded(table.record, row[len(table.key) :], table.entity)
            if table.entity.group_of(record) == key[0]:
                place: Sequence[Any] = row[: len(table.key)]
                return place
        return None

    def _find(self, entity: Entity, group: str) -> dict[Key, Any]:
        found: dict[Key, Any] = {}
        if (table := self._schema.tables.get(entity)) is None:
            return found

        def decode(rows: Sequence[Any]) -> dict[Key, Any]:
            return dict(map(table.pair, rows))

        for query in table.ways_to_group(group):
            found = self._decoded(decode, self._read(*query), entity)
            if table.scans_group:
                found = {key: record for key, record in found.items() if entity.group_of(record) == group}
            if found:
                break
        return found

    def _page(
        self, entity: Entity, after: Key | None, limit: int, prefix: str | None = None
    ) -> list[tuple[Key, Any]]:
        if (table := self._schema.tables.get(entity)) is None:
            return []
        if table.indirect:  # the file's order is not that of the normal forms in the keys
            pairs = sorted((self._decoded(table.pair, row, entity) for row in self._read(table.select_all, ())), key=lambda one: one[0])
            return [pair for pair in pairs if after is None or pair[0] > after][:limit]
        place = None if after is None else table.place(after) or after  # a row may have what we would not write
        pairs = [self._decoded(table.pair, row, entity) for row in self._read(*table.page(place, limit, prefix))]
        if prefix is not None and table.scans_group:
            groups = ((entity.group_of(record), (key, record)) for key, record in pairs)
            pairs = [pair for group, pair in groups if group is not None and group.startswith(prefix)]
        return pairs[:limit]

    def _count(self, entity: Entity, later: Mapping[str, datetime]) -> int:
        if (table := self._schema.tables.get(entity)) is None:
            return 0
        if later and not table.ordered:
            return super()._count(entity, later)
        [(count,)] = self._read(*table.count(later))
        return count  # type: ignore[no-any-return]

    @contextmanager
    def _view(self) -> Iterator[Callable[[Entity], Iterator[tuple[Key, Any]]]]:
        with self._one_view() as connection:

            def walk(entity: Entity) -> Iterator[tuple[Key, Any]]:
                if (table := self._schema.tables.get(entity)) is not None:
                    rows = self._stream(connection, table.select_all)
                    pairs = (self._decoded(table.pair, row, entity) for row in rows)
                    # The file's order is not that of the normal forms in the keys.
                    yield from sorted(pairs, key=lambda pair: pair[0]) if table.indirect else pairs

            yield walk

    def _get_owner(self, account: Key) -> UserT | None:
        table = self._schema.tables.get(ACCOUNT)
        if table is None or (place := table.place(account)) is None:
            return None
        rows = self._read(self._schema.user_by_account, place)
        return self._decoded(self._schema.tables[USER].record, rows[0], USER) if rows else None

    def _get_session_and_user(self, session_token: str) -> SessionAndUser[SessionT, UserT] | None:
        # Every request of an application comes here: each line was measured, and nothing is factored out.
        kept, watch, turn = self._kept, self._watch, self._turn
        place = kept.places.get(session_token)
        if turn.claims and innermost(self) is not None:
            place = None  # inside a transaction, which SQLite may have undone: read what it sees
        if place is not None and (
            watch.quiet() and monotonic() < self._look_at if watch is not None else self._in_memory
        ):
            # In this order: a commit from before the watch was quiet has already cast doubt on the cache.
            found = kept.served(place)
            if found is not None:
                return found
        if monotonic() >= self._look_at:
            self._look()
        part = self._part(SESSION, session_token) if self._schema.foreign else self._digest(session_token)
        me = get_ident()
        try:
            turn.claims[me] = None
            if [*turn.claims][0] != me and not turn.claim(me):
                rows = self._read(self._schema.session_and_user, (part,))  # not kept
                return self._found(rows[0], session_token, part) if rows else None
            if (
                place is not None
                and watch is not None
                and kept.served(place) is not None
                and watch.unchanged()
            ):
                found = kept.served(place)
                if found is not None:
                    return found
            # If another connection has committed since ``unchanged`` was asked, the next look-up notices.
            row = self._row(self._schema.session_and_user, (part,))
            if row is None:
                kept.evict((part,))
                return None
            if place is not None and place.row == row and (found := kept.renewed(place)) is not None:
                return found
            found = self._found(row, session_token, part)
            kept.keep(session_token, (part,), found, row)
            return found
        finally:
            turn.claims.pop(me, None)
            if turn.waiting:
                turn.wake()

    def _found(self, row: Sequence[Any], session_token: str, part: Any) -> SessionAndUser[Any, Any]:
        try:
            return self._schema.found(row, session_token, part)
        except NOT_OURS as error:
            what = type(error).__name__
        raise self._not_ours("sessions or users", what)

    def _decoded(self, decode: Callable[[Any], Any], row: Sequence[Any], entity: Entity) -> Any:
        try:
            return decode(row)
        except NOT_OURS as error:
            what = type(error).__name__
        raise self._not_ours(entity.plural, what)

    def _not_ours(self, where: str, what: str) -> StorageError:
        """The error for a row that cannot be decoded.

        To be raised outside ``except``: no __context__ may hold the value, which may be a token.
        """
        if self._schema.foreign:
            name = self._schema.schema.name
            return self._trouble(f"holds a value in {where} that {name} cannot read ({what}); check() names all such")
        return self._trouble(f"holds a value in {where} that is not ours ({what}); restore a backup")

    # -- writes

    def revoke_sessions(self, user_id: str, *, keep: str | None = None) -> int:
        with self.transaction():
            table = self._schema.tables.get(SESSION)
            if table is not None and not table.ours and (owner := self._asked("user_id", user_id)) is not None:
                for query in table.ways_to_group(owner):
                    for row in self._read(*query):
                        try:
                            self._decoded(table.pair, row, SESSION)
                        except StorageError:  # as in _remove: what cannot be read here may sign somebody in over there
                            self._run(table.delete, row[: len(table.key)])
            return super().revoke_sessions(user_id, keep=keep)

    def _add(self, entity: Entity, key: Key, record: Any) -> Any:
        table = self._statements(entity)
        rows = self._run(table.insert if key else table.insert_without_key, table.row(key, record, self._now))
        return self._as_stored(table, rows)

    def _add_all(self, entity: Entity, records: Sequence[tuple[Key, Any]]) -> int:
        table = self._statements(entity)
        if not (table.exact and table.ours):  # it may lack the constraints that find what is taken
            return super()._add_all(entity, records)
        if self._usual_cache is None:
            self._usual_cache = self._run("PRAGMA cache_size")[0][0]
            self._run(f"PRAGMA cache_size = {BULK_CACHE}")
        number = 0

        def rows() -> Iterator[Sequence[Any]]:
            nonlocal number
            for number, (key, record) in enumerate(records):
                yield table.row(key, record, self._now)

        try:
            self._run_all(table.insert, rows())
        except StorageError as error:
            # The rows before it stay. Undoing them would take a savepoint, for which SQLite copies each page that is
            # written to: that took as long as the writing.
            if isinstance(error.__cause__, sqlite3.IntegrityError):
                return number
            raise
        return len(records)

    def _change(self, entity: Entity, key: Key, record: Any) -> Any:
        table = self._statements(entity)
        self._forget(entity, key)
        place = self._place(table, key)
        if place is None:
            return None
        return self._as_stored(table, self._run(table.update, table.changes(place, record, self._now)))

    def _as_stored(self, table: Statements, rows: Sequence[Any]) -> Any:
        """The record that a write returned; None if the table keeps all of a record, and the write returns none."""
        return self._decoded(table.record, rows[0][len(table.key) :], table.entity) if rows else None

    def _rekey(self, entity: Entity, key: Key, new: Key) -> None:
        table = self._statements(entity)
        self._forget(entity, key)
        place, moved = self._place(table, key), table.place(new)
        if place is not None and moved is not None:
            self._run(table.rekey, table.moved(place, moved, self._now))

    def _remove(self, entity: Entity, key: Key) -> Any:
        table = self._schema.tables.get(entity)
        if table is None or (place := self._place(table, key)) is None:
            return None
        self._forget(entity, key)
        rows = self._run(table.delete, place)
        try:
            return self._decoded(table.record, rows[0], entity) if rows else None
        except StorageError:
            if table.ours or not entity.withheld:
                raise
            return None  # what cannot be read must be possible to end: it may sign somebody in over there

    def _remove_group(self, entity: Entity, group: str) -> None:
        table = self._schema.tables.get(entity)
        if table is None:
            return
        if table.scans_group:
            for key in self._find(entity, group):
                self._remove(entity, key)
        elif (parameters := table.group_parameters(group)) is not None:
            for row in self._run(table.delete_group, parameters):
                self._forget(entity, table.key_of(row, None))

    def _purge(self, entity: Entity, now: datetime, limit: int) -> int:
        table = self._schema.tables.get(entity)
        if table is None:
            return 0
        if table.ordered:
            gone = self._run(table.purge, (table.stored_time(now), limit))
            for key in gone:
                self._forget(entity, key)
            return len(gone)
        count = 0
        # Of the rows that SQL cannot rule out, those that have expired.
        due = ((table.expired(row[-1], now), row[:-1]) for row in self._run(table.due, table.due_parameters(now)))
        expired = ((expires, place) for expires, place in due if expires is not None)
        for _, place in heapq.nsmallest(limit, expired, key=lambda one: one[0]):
            rows = self._run(table.delete, place)
            if entity is SESSION:
                self._forget(entity, table.key_of(place, None))
            count += len(rows)
        return count

    def _forget(self, entity: Entity, key: Key) -> None:
        """Serve nothing from memory that a write to this record makes stale."""
        if entity is SESSION:
            self._kept.evict(key)
        elif entity is USER:
            self._kept.doubt()

    # -- transactions

    def _begin(self, depth: int, patience: float) -> None:
        if depth:
            self._require_whole()
            self._run(f"SAVEPOINT s{depth}")
            return
        if self._refusal:
            raise self._trouble(self._refusal)
        if self._connection is not None and self._connection.in_transaction:
            self._run("ROLLBACK")  # of a transaction that was interrupted, and whose rollback was too
        self._run("BEGIN IMMEDIATE", patience=patience)
        if self._usual_cache is not None:
            self._run(f"PRAGMA cache_size = {self._usual_cache}")
            self._usual_cache = None

    def _require_whole(self) -> None:
        """StorageError if SQLite has rolled the transaction back by itself: the disk is full, or fails."""
        self._require_open()
        if self._connection is None or not self._connection.in_transaction:
            raise self._trouble(
                "has undone all of this transaction, because a write failed inside it (is the disk full?);"
                " nothing in it can succeed any more: leave it, and begin another"
            )

    def _commit(self, depth: int) -> None:
        self._require_whole()
        if depth:
            self._run(f"RELEASE s{depth}")
            return
        if self._file_meant is not None and (trouble := self._file_meant.trouble()):
            self._look_at = 0.0
            raise self._trouble(trouble)
        try:
            self._run("COMMIT")
        except StorageError as error:
            if getattr(error.__cause__, "sqlite_errorcode", 0) in SYNC_FAILED:
                self._refusal = (
                    "could not be synced to the disk, so it is unknown whether the last transaction survives:"
                    " nothing more can be written until the store is opened again"
                )
                raise self._trouble(self._refusal) from error.__cause__
            raise

    def _rollback(self, depth: int) -> None:
        if self._connection is None or not self._connection.in_transaction:
            return  # the store was closed inside the transaction, or SQLite itself has rolled it back
        if depth == 0:
            self._run("ROLLBACK")
            return
        try:
            self._run(f"ROLLBACK TO s{depth}")
            self._run(f"RELEASE s{depth}")
        except StorageError as error:
            if "no such savepoint" not in str(error.__cause__):  # already released when Ctrl-C struck
                raise

    def _dump(self) -> Any:
        state = {}
        for entity, table in self._schema.tables.items():
            columns = [name for (name,) in self._run(COLUMNS, (table.name,))]
            state[entity.plural] = columns, self._run(table.dump(columns))
        return state

    def _load(self, state: Any) -> None:
        self._kept.clear()
        if self._schema.foreign:
            self._require_unreferenced()
        for table in reversed(self._schema.tables.values()):
            self._run(table.delete_all)
        for entity, table in self._schema.tables.items():
            columns, rows = state[entity.plural]
            here = {name for (name,) in self._run(COLUMNS, (table.name,))}
            shared = [i for i, name in enumerate(columns) if name in here]  # no model has any other column
            load = table.load([columns[i] for i in shared])
            for row in rows:
                self._run(load, [row[i] for i in shared])

    def _require_unreferenced(self) -> None:
        """StorageError if another table refers to the users: what deleting them would do there is not ours."""
        known = {table.name for table in self._schema.tables.values()}
        for (name,) in self._run(REFERRED_TO, (self._schema.tables[USER].name,)):
            if name not in known:
                raise self._trouble(f"cannot be set back: its table {name}, which the schema does not know, refers to users")

    # -- check()

    @contextmanager
    def _one_view(self) -> Iterator[sqlite3.Connection]:
        """A connection on which the whole block reads one state of the store.

        Reading a file outside a transaction keeps nobody waiting; in memory or inside one, others wait.
        """
        if self._in_memory or innermost(self) is not None:
            me, turn = get_ident(), innermost(self) or self._turn
            try:
                self._take(turn, me)
                if turn is not self._turn:
                    self._require_whole()
                yield self._connection or self._reconnected()
            finally:
                turn.claims.pop(me, None)
                if turn.waiting:
                    turn.wake()
            return
        self._require_open()
        self._look()
        with closing(self._connect(reader=True)) as connection:
            self._run("BEGIN", connection=connection)
            yield connection

    def _stream(
        self, connection: sqlite3.Connection, sql: str, parameters: Sequence[Any] = ()
    ) -> Iterator[Any]:
        """The rows of a query, one at a time, so that any number of them takes the same memory."""
        try:
            yield from connection.execute(sql, parameters)
            return
        except UnicodeDecodeError:
            pass
        except sqlite3.Error as error:
            if not str(error).startswith("Could not decode"):
                raise self._translated(error) from error
        raise self._trouble("is damaged (it holds text that is not UTF-8); restore a backup")

    def _check_storage(self) -> list[str]:
        with self._one_view() as connection:
            answers = self._run("PRAGMA quick_check", (), connection)
            found = [in_words(text) for (text,) in answers if text != "ok"]
            for entity, table in self._schema.tables.items():
                try:
                    for index, query in table.index_sums():
                        [(in_index, in_table)] = self._run(query, (), connection)
                        if in_index != in_table:
                            found.append(f"index {index} differs from its table {table.name}: REINDEX mends that")
                    for what, query in table.doubles:
                        if count := self._run(query, (), connection)[0][0]:
                            found.append(f"{table.name}: {count} times, several rows have the same {what}")
                    if table.addresses is not None:
                        addresses = Counter(
                            table.normal_address(cell) for (cell,) in self._stream(connection, table.addresses)
                        )
                        del addresses[None]
                        if count := sum(n > 1 for n in addresses.values()):
                            found.append(f"{table.name}: {count} times, several rows have the same e-mail address")
                    for row in self._stream(connection, table.suspects):
                        found += self._check_row(entity, row)
                    for row in self._stream(connection, table.orphans) if table.orphans else ():
                        record = self._decoded(table.record, row[len(table.key) + 1 :], entity)
                        found.append(self._orphaned(entity, record))
                except StorageError as error:
                    found.append(str(error))
            return found

    def _check_row(self, entity: Entity, row: Sequence[Any]) -> Iterator[str]:
        """What is wrong with a row that ``suspects`` selected."""
        table = self._schema.tables[entity]
        *key, group = row[: len(table.key) + 1]
        try:
            record = self._decoded(table.record, row[len(table.key) + 1 :], entity)
        except StorageError as error:
            yield str(error)
            return
        yield from self._check_record(entity, record)
        for name, part in zip(table.key, key):
            if isinstance(part, bytes) and len(part) != 32:
                yield f"{self._named(entity, record)}: its {name} has {len(part)} bytes, not 32"
        if entity.group in NORMAL_FORMS and not table.scans_group and group != entity.group_of(record):
            yield f"{self._named(entity, record)}: {brief(group)} is not its {table.group}"

    def _check_records(self, entity: Entity) -> Iterator[str]:
        return iter(())  # _check_storage has checked them already

    # -- backups

    def compact(self) -> None:
        """Rewrite the file so that it takes no more room than it needs; others wait meanwhile.

        Pages that records left are used again anyway; it is worth it after many are gone. RuntimeError inside a
        transaction; BusyError if another one outlasts ``timeout``.
        """
        self._require_outside("compact")
        for statement in ("VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"):
            self._in_turn(functools.partial(self._run, statement))

    def backup(self, path: str | os.PathLike[str]) -> None:
        """Write the committed state to a new file (mode 0600), while other threads and processes go on.

        It is checked before this returns. StorageError if ``path`` exists or cannot be written, or if the
        store is damaged; no half file is left. RuntimeError inside a transaction.
        """
        from . import backups

        self._require_outside("backup")
        with backups.drafted(path) as draft, backups.about(os.path.abspath(path), draft, "the backup"):
            os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            with closing(sqlite3.connect(draft, isolation_level=None)) as target, self._one_view() as source:
                self._copy(source, target)
                for statement in MARK if self._in_memory and not self._schema.foreign else ():  # there, nobody would look for it
                    target.execute(statement)
            with self._twin(draft, synchronize=False) as copy:
                copy._require_sound()
                # So that SQLite and we can tell it from the store: it would not notice if the file was
                # copied over a store whose -wal is still there.
                copy._leave_wal_mode()

    def restore_backup(self, path: str | os.PathLike[str]) -> None:
        """Replace all that the store holds by what ``backup`` wrote to ``path``, in one transaction.

        Threads and other processes that have the store open see it at once. StorageError, and nothing is
        changed, if the file is not a backup of ours, is damaged, or does not fit the models (``synchronize``
        holds for it as for the store). BusyError if another transaction outlasts ``timeout``; RuntimeError
        inside a transaction. Sign-ins since the backup are forgotten, and sign-outs are, too.
        """
        from . import backups

        self._require_outside("restore_backup")
        source = backups.source_of(path, exists=os.path.isfile)
        if os.path.exists(f"{source}-wal") and os.path.getsize(f"{source}-wal"):
            raise backups.trouble(source, "is no backup, but in use or not closed: a -wal lies beside it")
        with backups.aside("" if self._in_memory else self._path) as folder:
            draft = os.path.join(folder, "backup.db")
            with backups.about(source, draft, "it is no backup for this store; nothing was changed"):
                backups.copied(source, draft)
                with open(draft, "rb") as file:  # a database without tables would become a store
                    if not self._schema.foreign and file.read(72)[68:] != paths.APPLICATION_IDS[1]:
                        raise backups.trouble(source, "is not one of our stores")
                with self._twin(draft, synchronize=self._synchronize) as copy:
                    copy._require_sound()
                    copy._leave_wal_mode()
                    self._take_over(copy)

    def _require_outside(self, name: str) -> None:
        self._require_open()
        if innermost(self) is not None:
            raise RuntimeError(f"{name}() works on committed states; call it outside of transaction()")

    def _twin(self, path: str, *, synchronize: bool) -> SQLiteAdapter[Any, Any, Any, Any, Any]:
        """Another store with the same models, which this thread alone knows."""
        models: dict[str, Any] = dict(zip(MODEL_OPTIONS, self._models.values()))
        schema = self._schema.schema
        secret = self._secret  # a schema may need it
        return SQLiteAdapter(
            path, synchronize=synchronize, timeout=self._timeout, schema=schema, secret=secret, **models
        )

    def _require_sound(self) -> None:
        problems = [text for (text,) in self._run("PRAGMA integrity_check(3)") if text != "ok"]
        if problems:
            raise self._trouble(f"is damaged: {'; '.join(map(in_words, problems))}")

    def _enter_wal_mode(self) -> None:
        self._run("PRAGMA journal_mode = WAL")

    def _leave_wal_mode(self) -> None:
        self._file_meant, self._look_at = None, math.inf  # the -wal goes
        self._run("PRAGMA journal_mode = DELETE")

    def _take_over(self, copy: SQLiteAdapter[Any, Any, Any, Any, Any]) -> None:
        source = copy._connection
        assert source is not None
        me = get_ident()
        try:
            self._take(self._turn, me)
            self._require_open()
            if self._refusal:
                raise self._trouble(self._refusal)
            target = self._connection or self._reconnected()
            if self._file_meant is not None and (found := self._file_meant.trouble()):
                raise self._trouble(found)
            size = self._run("PRAGMA page_size")[0][0]
            if copy._run("PRAGMA page_size")[0][0] != size:  # SQLite copies only between equal ones
                copy._run(f"PRAGMA page_size = {size}")
                copy._run("VACUUM")
            if target.in_transaction:
                self._run("ROLLBACK")
            self._kept.clear()
            self._copy(source, target)
            self._purged_at = None
        finally:
            self._kept.clear()
            self._turn.claims.pop(me, None)
            if self._turn.waiting:
                self._turn.wake()

    def _copy(self, source: sqlite3.Connection, target: sqlite3.Connection) -> None:
        """Copy all in one step, which is atomic. BusyError if the target stays locked for ``timeout``."""
        deadline = monotonic() + self._timeout

        def progress(status: int, remaining: int, total: int) -> None:
            if status & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and monotonic() >= deadline:
                raise BusyError(
                    f"{self._path} stayed locked by another process for {self._timeout} seconds; nothing was"
                    " changed. Keep its transactions short, or give a longer timeout=",
                    path=self._path,
                )

        try:
            source.backup(target, pages=-1, progress=progress, sleep=0.002)
        except sqlite3.Error as error:
            raise self._translated(error) from error

    # -- fork()

    def _turns(self) -> tuple[Turn, ...]:
        return (self._turn, self._reader_turn)

    def before_fork(self) -> None:
        super().before_fork()
        if not self._in_memory:
            self._whole_in_child = all(turn.holder is forks for turn in self._turns())
            if self._whole_in_child:
                self._let_go()

    def after_fork_in_child(self) -> None:
        super().after_fork_in_child()
        if self._lost and not self._in_memory:
            _never_close((self._connection, self._reader))
            if (file := self._file()) is not None:
                _inherited.add(file)
        if self._lost:
            self._connection = self._reader = self._watch = None

    def _let_go(self) -> None:
        """Close the connections; unless the store is closed, the next use opens them again."""
        if self._watch is not None:
            self._watch.stop()
            self._watch = None
        self._kept.clear()  # data_version cannot be compared between connections
        connections = [one for one in (self._reader, self._connection) if one is not None]
        self._reader = self._connection = None
        if self._file_meant is not None and connections and not self._file_meant.may_close():
            for connection in connections:
                with suppress(sqlite3.Error):
                    connection.rollback()
            _never_close(connections)
        else:
            for connection in connections:
                connection.close()
        if self._file_meant is not None:
            self._file_meant.let_go()

    def _release(self) -> None:
        me = get_ident()
        try:
            self._take(self._reader_turn, me)
            self._let_go()
        finally:
            self._reader_turn.claims.pop(me, None)
            if self._reader_turn.waiting:
                self._reader_turn.wake()


WAL_LIMIT = 8 << 20
"""Bytes to which the -wal shrinks when a reader that had kept it from being reused is gone. It is twice what
it has without such readers, so that it is not cut and extended again all the time."""

BULK_CACHE = -64_000
"""SQLite's page cache, in KiB, while many records are added: with the usual 2 MB, the pages of the indexes are written
out and read back again and again, which takes twice the time."""

LOOK_EVERY = 1.0
"""Seconds after which a look-up looks again whether the file is still there."""

NOT_OURS = (ValueError, TypeError, OverflowError, RecursionError)
"""What decoding raises for a row that this package did not write."""

SYNC_FAILED = (1034, 1290)  # SQLITE_IOERR_FSYNC, SQLITE_IOERR_DIR_FSYNC
"""SQLite's error codes after which it is unknown what is on the disk."""

_warned: set[str] = set()
"""The schemas of which the log of this process says that their tokens are in the clear."""

_never_closed: list[Any] = []

_inherited: set[tuple[int, int]] = set()
"""The device and inode of every file to which this process inherited connections that it must not touch."""


def _never_close(connections: Any) -> None:
    """Keep connections from ever being closed, even when the process exits.

    In a child, they are its parent's. Closing rolls back, and SQLite would do that in the -shm memory that
    the parent goes on using, which was measured to destroy the parent's transaction. A reference too many
    survives even the clearing of modules at exit; only the C API can add one.
    """
    _never_closed.append(connections)
    try:
        import ctypes  # here, because some Pythons lack it, and few processes need it

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connections))
    except (ImportError, AttributeError):  # without ctypes, safe until modules are cleared at exit
        pass


# --- connect ----------------------------------------------------------------------------------

TARGETS = """\
  "sqlite:///auth.db"            a file, relative to the current directory
  "sqlite:////var/lib/auth.db"   a file, absolute (four slashes)
  "sqlite:///:memory:"           SQLite in memory
  "shelve:auth"                  a directory, relative to the current one
  "shelve:///var/lib/app/auth"   a directory, absolute
  "memory:"                      plain dictionaries in memory
  {"type": "sqlite", "database": "auth.db", "synchronize": True}"""
"""The forms that ``connect`` takes, as help and error messages show them."""


def connect(target: str | Mapping[str, Any], **options: Any) -> Adapter:
    """Open the store that ``target`` names; ``options`` go to the adapter's constructor.

    It is a URL, or a mapping with ``type``, ``database`` and options (TypeORM's spelling). ValueError,
    listing the good forms, for anything else; StorageError if the file cannot be used.
    """
    if isinstance(target, Mapping):
        given = dict(target)
        kind, database = given.pop("type", None), given.pop("database", None)
        options = {**given, **options}
        if isinstance(kind, str) and kind in _WITH_PATH and isinstance(database, str):
            return _WITH_PATH[kind](database, **options)
        if kind == "memory" and database is None:
            return MemoryAdapter(**options)
    elif isinstance(target, str):
        if target in ("memory:", "memory://"):
            return MemoryAdapter(**options)
        if path := path_in(target):
            return _WITH_PATH[target.partition(":")[0]](path, **options)
    # Leave out what may be a password: a mapping's options, a URL's query, all but the scheme if it has an @.
    shown = str({"type": kind, "database": database} if isinstance(target, Mapping) else target)
    shown = re.match(r"([\w+.-]+:)?" if "@" in shown else "[^?=;]*", shown)[0]  # type: ignore[index]
    raise ValueError(f"cannot connect to {shown!r}; good forms are\n{TARGETS}")


_WITH_PATH: dict[Any, Callable[..., Adapter]] = {"sqlite": SQLiteAdapter, "shelve": ShelveAdapter}


def path_in(target: str) -> str:
    """The path, or ``":memory:"``, that a URL for ``connect`` names; ``""`` if there is none."""
    if "?" in target:
        return ""
    if target.startswith("sqlite:///"):
        return target.removeprefix("sqlite:///")
    path = target.removeprefix("shelve:") if target.startswith("shelve:") else ""
    if path.startswith("//"):  # a host follows, and only an empty one makes sense
        path = path.removeprefix("//") if path.startswith("///") else ""
    return path
