"""The stores that keep the contract: ``SQLiteAdapter``, ``MemoryAdapter``, ``ShelveAdapter``; and ``connect``.

``BaseAdapter`` has the rules that they share. Each of them says how records are stored, in the verbs that it asks
for; ``ShelveAdapter`` is a ``MemoryAdapter`` that journals what it commits.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import os
import random
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from heapq import heapify, heappop, heappush
from threading import get_ident
from typing import TYPE_CHECKING, Any, Literal

from . import forks
from .base import AT_ONCE, BaseAdapter, Key, brief, naming_options
from .contract import Adapter
from .errors import BusyError, LockedError, StorageError
from .kept import Watch
from .models import (
    ACCOUNT, ENTITIES, NORMAL_FORMS, SESSION, USER, VERIFICATION_TOKEN, AccountT, AuthenticatorT, Entity, Record,
    SessionAndUser, SessionT, UserT, VerificationTokenT, fresh, session_id,
)
from .rows import Rows
from .schema import (
    APPLICATION_ID, COLUMNS, DATA_VERSION, FOREIGN_TABLES, INSPECT, MARK, MINIMUM_SQLITE, USER_VERSION, in_words,
    schema_for, to_microseconds,
)
from .transactions import Turn, about_to_wait, innermost

try:
    import sqlite3
except ImportError:  # a Python built without it: everything but SQLiteAdapter works
    sqlite3 = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from typing import Unpack

    from .base import Options


# --- SQLite -----------------------------------------------------------------------------------


class SQLiteAdapter(BaseAdapter[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]):
    """A store in one SQLite file, or in memory for ``":memory:"``.

    Safe for any number of threads and processes. One connection, guarded by a lock; while that is
    busy, other threads read a file through a second connection, so no look-up waits for a write.
    """

    _answers_at_once = True

    @naming_options
    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronize: bool = True,
        durability: Literal["full", "normal"] = "full",
        **options: Unpack[Options[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]],
    ) -> None:
        """Open ``path``, creating the file (mode 0600) unless it exists. ``BaseAdapter`` explains the other options.

        ``synchronize``: create tables and add a custom model's columns where they are missing; False
        only verifies. ``durability``: ``"full"``, what was acknowledged survives a power cut;
        ``"normal"``, it survives the process but the last moments may not survive a power cut.

        StorageError if the file is no store of ours, damaged, newer, out of reach, or (without
        ``synchronize``) lacks something; the file is left as it was.
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
        self._path = path if self._in_memory else os.path.abspath(path)
        self._synchronous = durability.upper()
        self._schema = schema_for(tuple(self._models.values()))
        self._connection: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._reader_turn = Turn()
        self._watch: Watch | None = None  # None for a store in memory, and while there is no connection
        self._unsure = ""  # why nothing may be written until the file is opened again
        try:
            if not self._in_memory:
                self._reach_file(create=synchronize)
            self._open_connection(lambda: self._prepare(synchronize))
        except BaseException:
            self._let_go()
            raise
        self._opened()

    def __repr__(self) -> str:
        return f"SQLiteAdapter({self._path!r})"

    # -- opening

    def _reach_file(self, *, create: bool) -> None:
        """Make sure that there is a file which SQLite can use, without opening one that exists:
        closing any descriptor of a database drops the locks of this process's other connections."""
        try:
            if create:
                # 0600 before SQLite sees it: -wal and -shm inherit the mode, chmod later would be late.
                try:
                    os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
                except FileExistsError:
                    pass
            found = os.stat(self._path)
            if not stat.S_ISREG(found.st_mode):
                raise self._trouble("is not a file; give the path of a file, which may be new")
            if (found.st_dev, found.st_ino) in _inherited:
                raise self._trouble(
                    "cannot be opened in this process, which was forked while a transaction was open in its parent and"
                    " inherited SQLite's locks with it; start a fresh process instead (multiprocessing: \"spawn\")"
                )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            if isinstance(error, FileNotFoundError):
                folder = os.path.dirname(self._path)
                reason = f"the directory {folder} does not exist; create it first"
                if os.path.isdir(folder):
                    reason = "no file can be made there" if create else "it does not exist; synchronize=True would create it"
            raise self._trouble(f"cannot be opened: {reason}") from error
        if not os.access(self._path, os.R_OK | os.W_OK) or not os.access(os.path.dirname(self._path), os.W_OK):
            raise self._trouble("is not writable for this user, or its directory is not (SQLite needs both)")

    def _connect(self, *, reader: bool = False) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(
                self._path,
                timeout=0,  # the waiting is done in _run
                isolation_level=None,
                check_same_thread=False,
                cached_statements=256,
            )
        except sqlite3.Error as error:
            raise self._translated(error) from error
        try:
            for pragma in (
                "foreign_keys = ON",
                "secure_delete = ON",
                "temp_store = MEMORY",
                "trusted_schema = OFF",
                f"synchronous = {self._synchronous}",
                f"query_only = {'ON' if reader else 'OFF'}",
            ):
                self._run(f"PRAGMA {pragma}", connection=connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_connection(self, prepare: Callable[[], object] = lambda: None) -> None:
        """Make the first connection, and from then on be able to tell whether another one has committed."""
        file = self._file()
        self._connection = self._connect()
        prepare()
        if not self._in_memory:
            # If the path means another file by now, what lies beside it is not surely our connection's.
            shm = f"{os.path.realpath(self._path)}-shm" if file is not None and file == self._file() else None
            self._watch = Watch(self._data_version, shm, self._kept.doubt)

    def _data_version(self) -> int:
        version: int = self._run(DATA_VERSION)[0][0]
        return version

    def _file(self) -> tuple[int, int] | None:
        """What the path means just now: a device and an inode. None if it means nothing."""
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _prepare(self, synchronize: bool) -> None:
        """Check whose file this is before touching it, then see that the tables are there."""
        if self._in_memory:  # new and ours alone: nothing to look at
            self._make_tables()
            return
        self._run("BEGIN")  # one look: another process may be making the file right now
        application_id, user_version = (
            self._run(f"PRAGMA {pragma}")[0][0] for pragma in ("application_id", "user_version")
        )
        tables = [name for (name,) in self._run(FOREIGN_TABLES)]
        found = self._run(INSPECT)
        self._run("COMMIT")
        if application_id != APPLICATION_ID and (application_id or user_version or tables):
            raise self._trouble(
                f"is the database of another application (application_id {application_id},"
                f" tables: {', '.join(tables) or 'none'}); choose another path"
            )
        if user_version > USER_VERSION:
            raise self._trouble(
                f"was written by a newer tinyauthstore (schema {user_version}, this one knows {USER_VERSION});"
                " upgrade the package"
            )
        _, missing, wrong = self._schema.differences(found)
        if wrong:
            raise self._trouble(
                f"does not fit the models: {'; '.join(wrong)}; rename the field or convert the column"
            )
        if missing and not synchronize:
            raise self._trouble(f"lacks {'; '.join(missing)}; open it once with synchronize=True to add that")
        self._run("PRAGMA journal_mode = WAL")
        if missing:
            self._run("BEGIN IMMEDIATE")
            # Somebody else may have been faster: what is missing counts under the lock only.
            for statement in (*self._schema.differences(self._run(INSPECT))[0], *MARK, "COMMIT"):
                self._run(statement)

    def _make_tables(self) -> None:
        """Make the tables of a new store in memory: the first for its models by DDL, the others as copies of its
        pages. That takes a third of the time, which every test with such a store would wait for."""
        connection: Any = self._connection
        schema = self._schema
        if schema.pages is None:
            for statement in ("BEGIN", *schema.create, "COMMIT"):
                self._run(statement)
            if hasattr(connection, "serialize"):  # SQLite may be built without
                schema.pages = connection.serialize()
            return
        try:
            # By way of another: a database that was itself deserialized takes a fifth longer to write, and ends
            # at 1 GiB.
            with closing(sqlite3.connect(":memory:")) as first:
                first.deserialize(schema.pages)
                first.backup(connection)
        except sqlite3.Error as error:
            raise self._translated(error) from error

    # -- the one door to SQLite

    def _run(
        self,
        sql: str,
        parameters: Sequence[Any] = (),
        connection: sqlite3.Connection | None = None,
        patience: float | None = None,
    ) -> list[Any]:
        """All rows of a statement, on the first connection if no other is named. Its turn must be the caller's.

        Waits while another process writes, for ``patience`` seconds (None: ``timeout``). Translates every error.
        SQLite's own waiting is unfair under load (a writer was measured to starve for seconds): short random
        sleeps are not.
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
                now = time.monotonic()
                deadline = deadline or now + (self._timeout if patience is None else patience)
                if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY or now >= deadline:
                    raise self._translated(error) from error
            about_to_wait()
            time.sleep(random.uniform(0, 0.002))
        # Raised here, outside of ``except``: SQLite's message quotes the text, which may be a token.
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
            cursor = None  # kept by the frames of an exception, it would show the connection the past for as long

    def _row(self, sql: str, parameters: Sequence[Any]) -> Any:
        """The first row of a query on the first connection, or None: ``_run`` without what it costs."""
        try:
            return (self._connection or self._reconnected()).execute(sql, parameters).fetchone()
        except sqlite3.Error:
            pass  # run again below, outside, so that no __context__ holds a value
        return next(iter(self._run(sql, parameters)), None)

    def _translated(self, error: sqlite3.Error) -> StorageError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_BUSY:
            return BusyError(
                f"{self._path} stayed locked by another process for {self._timeout} seconds; nothing was changed."
                " Keep its transactions short, or give a longer timeout=",
                path=self._path,
            )
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return self._trouble(
                f"is damaged or no SQLite database ({error}); restore a backup, or choose another path"
            )
        return self._trouble(f"could not be used: {error}")

    def _trouble(self, what: str) -> StorageError:
        return StorageError(f"{self._path} {what}", path=self._path)

    def _reconnected(self) -> sqlite3.Connection:
        """The first connection, made anew: it was closed before a fork(). ClosedError."""
        self._require_open()
        self._open_connection()
        assert self._connection is not None
        return self._connection

    def _read(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        """Rows of a query: inside a transaction as it sees them; beside one, by the second connection."""
        me, turn = get_ident(), self._turn
        try:
            if turn.claim(me):
                return self._run(sql, parameters)
            if (block := innermost(self)) is not None:
                turn = block
                self._take(turn, me)
                self._require_whole()
                return self._run(sql, parameters)
            if self._in_memory:
                self._take(turn, me)
                return self._run(sql, parameters)
            turn = self._reader_turn
            self._take(turn, me)
            self._require_open()
            if self._reader is None:
                self._reader = self._connect(reader=True)
            return self._run(sql, parameters, self._reader)
        finally:
            turn.claims.pop(me, None)
            if turn.waiting:
                turn.wake()

    # -- look-ups

    def _get(self, entity: Entity, key: Key) -> Any:
        table = self._schema.tables[entity]
        rows = self._read(table.select, key)
        return self._decoded(table.record, rows[0], entity) if rows else None

    def _find(self, entity: Entity, group: str) -> dict[Key, Any]:
        table = self._schema.tables[entity]
        rows, parts = self._read(table.select_group, (group,)), len(table.key)
        return {row[:parts]: self._decoded(table.record, row[parts:], entity) for row in rows}

    def _walk(self, entity: Entity) -> Iterator[tuple[Key, Any]]:
        table = self._schema.tables[entity]
        parts = len(table.key)
        with self._one_view() as connection:
            for row in self._run_through(connection, table.select_all):
                yield row[:parts], self._decoded(table.record, row[parts:], entity)

    def _get_owner(self, account: Key) -> UserT | None:
        rows = self._read(self._schema.user_by_account, account)
        return self._decoded(self._schema.tables[USER].record, rows[0], USER) if rows else None

    def _get_session_and_user(self, session_token: str) -> SessionAndUser[SessionT, UserT] | None:
        # The hot path of every application: no generality that costs, each line measured.
        kept, watch = self._kept, self._watch
        place = kept.places.get(session_token)
        if place is not None and (watch.quiet() if watch is not None else self._in_memory):
            # In this order: had somebody committed before it was quiet, what is kept would be doubted by now.
            found = kept.served(place)
            if found is not None:
                return found
        digest = self._digest(session_token)
        me, turn = get_ident(), self._turn
        try:
            turn.claims[me] = None
            if [*turn.claims][0] != me and not turn.claim(me):
                rows = self._read(self._schema.session_and_user, (digest,))  # nothing of it is kept
                return self._found(rows[0], session_token, digest) if rows else None
            if place is not None and watch is not None and kept.served(place) is not None and watch.unchanged():
                found = kept.served(place)
                if found is not None:
                    return found
            # Had another connection committed since this was asked, the next look-up would see that.
            row = self._row(self._schema.session_and_user, (digest,))
            if row is None:
                kept.evict((digest,))
                return None
            if place is not None and place.row == row and place.found is not None:
                found = place.found
            else:
                found = self._found(row, session_token, digest)
            kept.keep(session_token, (digest,), found, row)
            return found
        finally:
            turn.claims.pop(me, None)
            if turn.waiting:
                turn.wake()

    def _found(self, row: Sequence[Any], session_token: str, digest: bytes) -> SessionAndUser[Any, Any]:
        try:
            return self._schema.found(row, session_token, digest)
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
        """The error for a row that cannot be decoded. Raised outside of ``except``: no __context__ may hold
        the value, which may be a token."""
        return self._trouble(f"holds a value in {where} that is not ours ({what}); restore a backup")

    # -- writes

    def _add(self, entity: Entity, key: Key, record: Any) -> None:
        table = self._schema.tables[entity]
        self._run(table.insert, table.row(key, record))

    def _change(self, entity: Entity, key: Key, record: Any) -> None:
        table = self._schema.tables[entity]
        self._forget(entity, key)
        self._run(table.update, table.changes(key, record))

    def _rekey(self, entity: Entity, key: Key, new: Key) -> None:
        self._forget(entity, key)
        self._run(self._schema.tables[entity].rekey, (*new, *key))

    def _remove(self, entity: Entity, key: Key) -> Any:
        table = self._schema.tables[entity]
        self._forget(entity, key)
        rows = self._run(table.delete, key)
        return self._decoded(table.record, rows[0], entity) if rows else None

    def _remove_group(self, entity: Entity, group: str) -> None:
        for key in self._run(self._schema.tables[entity].delete_group, (group,)):
            self._forget(entity, key)

    def _purge(self, entity: Entity, now: datetime, limit: int) -> int:
        gone = self._run(self._schema.tables[entity].purge, (to_microseconds(now), limit))
        for key in gone:
            self._forget(entity, key)
        return len(gone)

    def _forget(self, entity: Entity, key: Key) -> None:
        """Serve nothing that was kept of a record which is being written to."""
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
        if self._unsure:
            raise self._trouble(self._unsure)
        if self._connection is not None and self._connection.in_transaction:
            self._run("ROLLBACK")  # of somebody who was interrupted twice, the second time in undoing it
        self._run("BEGIN IMMEDIATE", patience=patience)

    def _require_whole(self) -> None:
        """StorageError if SQLite has undone the transaction by itself, as it does when a disk is full or fails."""
        self._require_open()
        if self._connection is None or not self._connection.in_transaction:
            raise self._trouble(
                "has undone all of this transaction, because a write failed inside it (is the disk full?); nothing"
                " in it can succeed any more: leave it, and begin another"
            )

    def _commit(self, depth: int) -> None:
        self._require_whole()
        if depth:
            self._run(f"RELEASE s{depth}")
            return
        try:
            self._run("COMMIT")
        except StorageError as error:
            if getattr(error.__cause__, "sqlite_errorcode", 0) in SYNC_FAILED:
                self._unsure = (
                    "could not be synced to the disk, so it is unknown whether the last transaction survives:"
                    " nothing more can be written until the store is opened again"
                )
                raise self._trouble(self._unsure) from error.__cause__
            raise

    def _rollback(self, depth: int) -> None:
        if self._connection is None or not self._connection.in_transaction:
            return  # closed inside the transaction, or undone by SQLite itself
        if depth == 0:
            self._run("ROLLBACK")
            return
        try:
            self._run(f"ROLLBACK TO s{depth}")
            self._run(f"RELEASE s{depth}")
        except StorageError as error:
            if "no such savepoint" not in str(error.__cause__):  # it was released before it was interrupted
                raise

    def _dump(self) -> Any:
        state = {}
        for entity, table in self._schema.tables.items():
            columns = [name for (name,) in self._run(COLUMNS, (entity.plural,))]
            state[entity.plural] = columns, self._run(table.dump(columns))
        return state

    def _load(self, state: Any) -> None:
        self._kept.clear()
        for table in self._schema.tables.values():
            self._run(table.delete_all)
        for entity, table in self._schema.tables.items():
            columns, rows = state[entity.plural]
            here = {name for (name,) in self._run(COLUMNS, (entity.plural,))}
            shared = [i for i, name in enumerate(columns) if name in here]  # others are no model's, in both stores
            load = table.load([columns[i] for i in shared])
            for row in rows:
                self._run(load, [row[i] for i in shared])

    # -- check()

    @contextmanager
    def _one_view(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one state of the store for as long as the block lasts, and keeps nobody waiting."""
        if self._in_memory or innermost(self) is not None:
            me, turn = get_ident(), innermost(self) or self._turn
            try:
                self._take(turn, me)
                yield self._connection or self._reconnected()
            finally:
                turn.claims.pop(me, None)
                if turn.waiting:
                    turn.wake()
            return
        self._require_open()
        with closing(self._connect(reader=True)) as connection:
            self._run("BEGIN", connection=connection)
            yield connection

    def _run_through(self, connection: sqlite3.Connection, sql: str, parameters: Sequence[Any] = ()) -> Iterator[Any]:
        """The rows of a query, some at a time, so that any number takes the same memory."""
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
            found = [in_words(text) for (text,) in self._run("PRAGMA integrity_check", (), connection) if text != "ok"]
            for entity, table in self._schema.tables.items():
                try:
                    for row in self._run_through(connection, table.suspects):
                        found += self._check_row(entity, row)
                    for row in self._run_through(connection, table.orphans) if table.orphans else ():
                        found.append(self._orphaned(entity, self._decoded(table.record, row[len(table.key) + 1 :], entity)))
                except StorageError as error:
                    found.append(str(error))
            return found

    def _check_row(self, entity: Entity, row: Sequence[Any]) -> Iterator[str]:
        """What is wrong with a row of ``suspects``."""
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
        if entity.group in NORMAL_FORMS and group != entity.group_of(record):
            yield f"{self._named(entity, record)}: {brief(group)} is not its {table.group}"

    def _check_records(self, entity: Entity) -> Iterator[str]:
        return iter(())  # all of that has been done by SQLite

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
        self._kept.clear()  # another connection's data_version is no measure for it
        for connection in (self._reader, self._connection):
            if connection is not None:
                connection.close()
        self._reader = self._connection = None

    def _release(self) -> None:
        me = get_ident()
        try:
            self._take(self._reader_turn, me)
            self._let_go()
        finally:
            self._reader_turn.claims.pop(me, None)
            if self._reader_turn.waiting:
                self._reader_turn.wake()


NOT_OURS = (ValueError, TypeError, OverflowError, RecursionError)
"""What decoding a row raises that this package did not write."""

SYNC_FAILED = (1034, 1290)  # SQLITE_IOERR_FSYNC, SQLITE_IOERR_DIR_FSYNC
"""SQLite's errors after which nobody knows what is on the disk."""

_never_closed: list[Any] = []

_inherited: set[tuple[int, int]] = set()
"""Files, by device and inode, of which this process has inherited connections that it may neither use nor close."""


def _never_close(connections: Any) -> None:
    """Keep a parent's connections from being closed in the child, its end included.

    Closing rolls back, and SQLite would do that in the -shm memory that the parent goes on using:
    its transaction was measured to be destroyed. One reference too many outlives even the clearing
    of modules at exit; nothing but the C API gives it.
    """
    _never_closed.append(connections)
    try:
        import ctypes  # here: many Pythons lack it, and few processes come this way

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connections))
    except (ImportError, AttributeError):  # a Python without ctypes: safe until its very end
        pass


# --- memory -----------------------------------------------------------------------------------


class _Records:
    """One entity's records in memory: by key, by group, and (where they expire) by time."""

    __slots__ = ("entity", "by_key", "groups", "due")

    def __init__(self, entity: Entity) -> None:
        self.entity = entity
        self.by_key: dict[Key, Any] = {}
        self.groups: dict[str, dict[Key, None]] = {}
        # A heap of (expires, key). An entry whose record has changed since is passed over when it is
        # due; removing it earlier would cost a search.
        self.due: list[tuple[datetime, Key]] | None = [] if entity in (SESSION, VERIFICATION_TOKEN) else None

    def fill(self, records: dict[Key, Any]) -> None:
        """Take over all the records, where there were none."""
        self.by_key = records
        for key, record in records.items():
            if (group := self.entity.group_of(record)) is not None:
                self.groups.setdefault(group, {})[key] = None
        self._sort_due()

    def _sort_due(self) -> None:
        if self.due is not None:
            self.due = [(record.expires, key) for key, record in self.by_key.items()]
            heapify(self.due)

    def set(self, key: Key, record: Any) -> None:
        """Put the record there, or nothing if it is None; also where an earlier change was interrupted."""
        old = self.by_key.pop(key, None)
        if old is not None and (group := self.entity.group_of(old)) is not None:
            members = self.groups.get(group, {})
            members.pop(key, None)
            if not members:
                self.groups.pop(group, None)
        if record is not None:
            self.by_key[key] = record
            if (group := self.entity.group_of(record)) is not None:
                self.groups.setdefault(group, {})[key] = None
            if self.due is not None:
                heappush(self.due, (record.expires, key))
                if len(self.due) > 2 * len(self.by_key) + 64:
                    self._sort_due()


class MemoryAdapter(BaseAdapter[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]):
    """A store in this process's memory: the same answers, nothing on disk.

    Plain dictionaries of immutable records, with an undo log for transactions. Tokens are kept as digests here too.
    """

    _in_memory = True
    _answers_at_once = True

    @naming_options
    def __init__(
        self, **options: Unpack[Options[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]]
    ) -> None:
        """A fresh, empty store. ``BaseAdapter`` explains the options."""
        super().__init__(**options)
        self._records = {entity: _Records(entity) for entity in ENTITIES}
        self._undo: list[tuple[Entity, Key, Any]] = []
        self._marks: list[int] = []  # how long the undo log was when each open block began
        self._begun = 0  # transactions so far: between two looks at the same number, nothing was changed
        self._opened()

    def __repr__(self) -> str:
        return "MemoryAdapter()"

    # -- look-ups

    def _get(self, entity: Entity, key: Key) -> Any:
        begun, by_key = self._begun, self._records[entity].by_key
        record = by_key.get(key)
        if (self._turn.claims or begun != self._begun) and innermost(self) is None:
            record = self._in_turn(lambda: by_key.get(key))  # a transaction of somebody else's may be rolled back
        return None if record is None else fresh(record)

    def _find(self, entity: Entity, group: str) -> dict[Key, Any]:
        records = self._records[entity]

        def read() -> list[tuple[Key, Any]]:
            keys = records.groups.get(group, ())
            if len(keys) > AT_ONCE:
                about_to_wait()
            return [(key, records.by_key[key]) for key in sorted(keys)]

        return {key: fresh(record) for key, record in self._in_turn(read)}

    def _walk(self, entity: Entity) -> Iterator[tuple[Key, Any]]:
        by_key = self._records[entity].by_key
        yield from self._in_turn(lambda: list(by_key.items()))

    def _get_session_and_user(self, session_token: str) -> SessionAndUser[SessionT, UserT] | None:
        kept = self._kept
        place = kept.places.get(session_token)
        if place is not None and (found := kept.served(place)) is not None:
            return found
        key = (self._digest(session_token),)
        me, turn = get_ident(), self._turn
        try:
            if not turn.claim(me):
                turn = innermost(self) or turn
                self._take(turn, me)
            self._require_open()
            session: Any = self._records[SESSION].by_key.get(key)
            user: Any = None if session is None else self._records[USER].by_key.get((session.user_id,))
            if user is None:  # or it is nobody's, in a shelf that somebody mended by hand
                kept.evict(key)
                return None
            if place is not None and place.found is not None and place.row == (session, user):
                found = place.found
            else:
                found = SessionAndUser(fresh(dataclasses.replace(session, session_token=session_token)), fresh(user))
            if turn is self._turn:  # what is read inside a transaction may be rolled back
                kept.keep(session_token, key, found, (session, user))
            return found
        finally:
            turn.claims.pop(me, None)
            if turn.waiting:
                turn.wake()

    def _get_owner(self, account: Key) -> UserT | None:
        def read() -> Any:
            linked = accounts.get(account)
            return None if linked is None else users.get((linked.user_id,))

        begun, accounts, users = self._begun, self._records[ACCOUNT].by_key, self._records[USER].by_key
        user = read()
        if self._turn.claims or begun != self._begun:
            user = self._in_turn(read)
        return None if user is None else fresh(user)

    # -- writes

    def _add(self, entity: Entity, key: Key, record: Any) -> None:
        self._set(entity, key, None, fresh(record))

    def _change(self, entity: Entity, key: Key, record: Any) -> None:
        self._set(entity, key, self._records[entity].by_key[key], fresh(record))

    def _rekey(self, entity: Entity, key: Key, new: Key) -> None:
        self._add(entity, new, dataclasses.replace(self._remove(entity, key), id=session_id(new[0])))

    def _remove(self, entity: Entity, key: Key) -> Any:
        old = self._records[entity].by_key.get(key)
        if old is None:
            return None
        self._set(entity, key, old, None)
        return fresh(old)

    def _remove_group(self, entity: Entity, group: str) -> None:
        for key in list(self._records[entity].groups.get(group, ())):
            self._remove(entity, key)

    def _purge(self, entity: Entity, now: datetime, limit: int) -> int:
        records, count = self._records[entity], 0
        while count < limit and records.due and records.due[0][0] <= now:
            expires, key = heappop(records.due)
            record = records.by_key.get(key)
            if record is not None and record.expires == expires:
                self._remove(entity, key)
                count += 1
        return count

    def _set(self, entity: Entity, key: Key, old: Any, new: Any) -> None:
        if entity is SESSION:
            self._kept.evict(key)
        elif entity is USER and old is not None:
            self._kept.doubt()
        # In this order: Ctrl-C may strike in between, as it may after _commit, and a rollback follows.
        self._undo.append((entity, key, old))
        self._records[entity].set(key, new)

    # -- transactions

    def _begin(self, depth: int, patience: float) -> None:
        self._begun += depth == 0
        self._marks[depth:] = [len(self._undo)]

    def _commit(self, depth: int) -> None:
        del self._marks[depth:]
        if depth == 0:
            self._undo.clear()

    def _rollback(self, depth: int) -> None:
        if depth < len(self._marks):
            while len(self._undo) > self._marks[depth]:
                entity, key, old = self._undo[-1]
                self._records[entity].set(key, old)
                self._undo.pop()
            del self._marks[depth:]

    def _dump(self) -> Any:
        return {entity.plural: dict(records.by_key) for entity, records in self._records.items()}

    def _load(self, state: Any) -> None:
        # Only what differs: a record is never changed in place, so where the same object lies, nothing
        # happened. A test that touched three of a thousand records pays for three.
        for entity, records in self._records.items():
            wanted, by_key = state[entity.plural], records.by_key
            for key in [key for key, record in by_key.items() if wanted.get(key) is not record]:
                self._remove(entity, key)
            if len(by_key) < len(wanted):
                for key in wanted.keys() - by_key.keys():
                    self._set(entity, key, None, wanted[key])

    # -- check()

    def _check_records(self, entity: Entity) -> Iterator[str]:
        records, users = self._records[entity], self._records[USER].by_key
        groups: dict[Any, set[Key]] = {}
        for key, record in self._walk(entity):
            yield from self._check_record(entity, record)
            if entity.group == "user_id" and (record.user_id,) not in users:
                yield self._orphaned(entity, record)
            with suppress(TypeError, AttributeError):  # of a value that is no text, and was just named
                if (group := entity.group_of(record)) is not None:
                    groups.setdefault(group, set()).add(key)
                if entity.group in entity.key and key[entity.key.index(entity.group)] != group:
                    yield f"{self._named(entity, record)}: it is filed under {brief(key[0])}"
        for group, keys in groups.items():
            for key in keys ^ set(records.groups.get(group, ())):
                yield f"{entity.name} {brief(key[0])}: {brief(group)} is not its {entity.group}"


# --- shelve -----------------------------------------------------------------------------------


class _Unlisted(Entity):
    def group_of(self, record: Any) -> None:
        return None


_LEFTOVERS = _Unlisted("leftovers", "leftovers", Record, ("entity", "key"), "")
"""Filed like records, but not handed out: a row's fields that no field of its model names, for the model that
wrote them."""


class ShelveAdapter(MemoryAdapter[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]):
    """A store in a directory of its own, by the standard library's ``shelve``; it needs no SQLite.

    All of it is in memory, so look-ups cost what they cost there, and opening it reads it all. Every
    transaction is appended to a journal before it is acknowledged; now and then, and by ``close()``,
    the whole state is written to a new shelf. ``journal.py`` tells how that lies on the disk.

    One process at a time, any number of threads. Reading it beside the process that has it open is not
    offered, and a forked child is refused: for several processes, there is ``SQLiteAdapter``.
    """

    @naming_options
    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Literal["full", "normal"] = "full",
        dbm: Literal["dumb", "gnu", "ndbm", "sqlite3"] | None = None,
        **options: Unpack[Options[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]],
    ) -> None:
        """Open the directory ``path``, creating it (mode 0700) unless it exists. ``BaseAdapter`` explains the other options.

        ``durability``: ``"full"``, what was acknowledged survives a power cut; ``"normal"``, it survives
        the process but the last moments may not survive a power cut. ``dbm``: which of ``dbm``'s
        backends shelves are written with; None: as it was, ``"dumb"`` for a new store, because every
        Python has it. A store with another backend's shelf is rewritten at the latest by ``close()``.

        LockedError if the store is open already, here or in another process (named); StorageError if the
        directory is no store of ours, damaged, newer, out of reach, does not fit the models, or needs a
        backend that this Python lacks; it is left as it was.
        """
        from . import journal  # here: not part of the import time of those who use no shelf

        if durability not in ("full", "normal"):
            raise ValueError(f'durability must be "full" or "normal"; got {durability!r}')
        if dbm is not None and dbm not in journal.BACKENDS:
            raise ValueError(f"dbm must be one of {', '.join(map(repr, journal.BACKENDS))}, or None; got {dbm!r}")
        path = os.fspath(path)
        if not isinstance(path, str) or not path:
            raise ValueError(f"path must name a directory; got {path!r}")
        self._path = os.path.abspath(path)
        self._process = os.getpid()
        self._warn = journal.warn
        self._open = functools.partial(journal.Files, self._path, backend=dbm, sync=durability == "full")
        super().__init__(**options)

    def _opened(self) -> None:
        self._records[_LEFTOVERS] = _Records(_LEFTOVERS)
        self._rows = {entity.plural: Rows(entity, model) for entity, model in self._models.items()}
        self._files = self._open(take=self._fill)
        self._journal_mark = 0
        super()._opened()

    def __repr__(self) -> str:
        return f"ShelveAdapter({self._path!r})"

    # -- records and rows

    def _fill(self, pages: Iterable[tuple[str, list[Any]]]) -> None:
        # Nothing of what is made here is garbage: looking for some, again and again, took a third of the time.
        collecting = gc.isenabled()
        gc.disable()
        try:
            for entity, records in self._read_rows(pages).items():
                self._records[entity].fill(records)
        finally:
            if collecting:
                gc.enable()

    def _read_rows(self, pages: Iterable[tuple[str, list[Any]]]) -> dict[Entity, dict[Any, Any]]:
        """The state that pages of rows describe, shelf by shelf. StorageError for a row that does not fit."""
        found: dict[Entity, dict[Any, Any]] = {entity: {} for entity in self._records}
        for plural, rows in pages:
            try:
                entity = self._rows[plural].entity
                records, leftovers = found[entity], found[_LEFTOVERS]
                for key, record, rest in self._rows[plural].records(rows):
                    records[key] = record
                    if rest:
                        leftovers[entity, key] = rest
            except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
                raise StorageError(
                    f"{self._path} holds, among its {plural}, a row that does not fit: {error}; open it with the"
                    " models that it was written with, or give a field another name",
                    path=self._path,
                ) from error
        return found

    def _row(self, entity: Entity, key: Key, record: Any) -> list[Any]:
        return self._rows[entity.plural].row(key, record, self._records[_LEFTOVERS].by_key.get((entity, key)))

    def _changes(self) -> list[list[Any]]:
        """What this transaction touched, as it is now: one line of the journal."""
        return [
            [entity.plural, *self._row(entity, key, self._records[entity].by_key.get(key))]
            for entity, key in dict.fromkeys((entity, key) for entity, key, _ in self._undo)
            if entity is not _LEFTOVERS  # they go with their record
        ]

    def _table(self, entity: Entity) -> Iterator[list[Any]]:
        return (self._row(entity, key, record) for key, record in self._records[entity].by_key.items())

    # -- storage

    def _remove(self, entity: Entity, key: Key) -> Any:
        if entity is _LEFTOVERS:
            return self._leave(key, None)
        self._leave((entity, key), None)
        return super()._remove(entity, key)

    def _rekey(self, entity: Entity, key: Key, new: Key) -> None:
        leftovers = self._records[_LEFTOVERS].by_key.get((entity, key))
        super()._rekey(entity, key, new)
        self._leave((entity, new), leftovers)

    def _leave(self, key: Key, leftovers: dict[str, Any] | None) -> None:
        old = self._records[_LEFTOVERS].by_key.get(key)
        if old is not leftovers:
            self._set(_LEFTOVERS, key, old, leftovers)

    def _begin(self, depth: int, patience: float) -> None:
        super()._begin(depth, patience)
        if depth == 0:
            self._journal_mark = self._files.journal.size

    def _commit(self, depth: int) -> None:
        if depth == 0 and self._undo:
            self._files.append(self._changes())
        super()._commit(depth)
        if depth == 0 and self._files.due:
            self._checkpoint()

    def _rollback(self, depth: int) -> None:
        if depth == 0 and self._undo and self._files.journal.size > self._journal_mark:
            self._files.journal.retract(self._journal_mark)  # interrupted when it was written, not acknowledged
        super()._rollback(depth)

    def _checkpoint(self) -> None:
        """Write a new shelf. If that fails, the journal, which has everything, simply goes on."""
        try:
            self._files.checkpoint({entity.plural: self._table(entity) for entity in ENTITIES})
        except StorageError as error:
            self._warn("%s; the journal goes on, nothing is lost", str(error))

    def _check_storage(self) -> list[str]:
        try:
            return self._in_turn(lambda: list(self._check_files()))
        except BusyError:
            raise
        except StorageError as error:
            return [str(error)]

    def _check_files(self) -> Iterator[str]:
        """How the files differ from what is in memory and committed."""
        uncommitted: dict[tuple[Entity, Any], Any] = {}
        for entity, key, old in reversed(self._undo):
            uncommitted[entity, key] = old
        right, wrong = dict.fromkeys(self._records, 0), dict.fromkeys(self._records, 0)
        for page in self._files.pages():
            for entity, written in self._read_rows([page]).items():
                for key, record in written.items():
                    known = self._records[entity].by_key.get(key)
                    same = uncommitted.get((entity, key), known) == record
                    (right if same else wrong)[entity] += 1
        for entity, records in self._records.items():
            undone = [(key, old) for (changed, key), old in uncommitted.items() if changed is entity]
            count = len(records.by_key) + sum((old is not None) - int(key in records.by_key) for key, old in undone)
            if missing := wrong[entity] + max(count - right[entity] - wrong[entity], 0):
                yield f"{self._path}: {missing} {entity.plural} are not in its files as they are in memory"

    def _release(self) -> None:
        if self._lost is not None:
            return  # all of it is the parent's
        if self._undo:  # closed inside a transaction: what was not committed never happened
            super()._rollback(0)
        try:
            if not self._files.clean:
                self._checkpoint()
        finally:
            self._files.close()

    # -- fork(): nothing to wait for, because the child is refused in any case

    def pause(self) -> bool:
        return True

    def after_fork_in_child(self) -> None:
        self._lost = functools.partial(
            LockedError,
            f"{self._path} is open in process {self._process}, from which this one was forked: a shelf belongs to one"
            " process at a time. Use SQLiteAdapter, which processes may share",
            path=self._path,
        )
        self._kept.clear()
        self._turn.start_over()
        self._files.journal.close()


# --- connect ----------------------------------------------------------------------------------

TARGETS = """\
  "sqlite:///auth.db"            a file, relative to the current directory
  "sqlite:////var/lib/auth.db"   a file, absolute (four slashes)
  "sqlite:///:memory:"           SQLite in memory
  "shelve:auth"                  a directory, relative to the current one
  "shelve:///var/lib/app/auth"   a directory, absolute
  "memory:"                      plain dictionaries in memory
  {"type": "sqlite", "database": "auth.db", "synchronize": True}"""
"""The forms that ``connect`` takes, for people to read."""


def connect(target: str | Mapping[str, Any], **options: Any) -> Adapter:
    """Open the store that ``target`` names; ``options`` go to the adapter's constructor.

    A URL, or a mapping with ``type``, ``database`` and options (TypeORM's spelling). ValueError, with the
    list of good forms, for anything else; StorageError if the file cannot be used.
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
    # Without what may be a password: a mapping's other options; all but the scheme of a URL with an @; a query.
    shown = str({"type": kind, "database": database} if isinstance(target, Mapping) else target)
    shown = re.match(r"([\w+.-]+:)?" if "@" in shown else "[^?=;]*", shown)[0]  # type: ignore[index]
    raise ValueError(f"cannot connect to {shown!r}; good forms are\n{TARGETS}")


_WITH_PATH: dict[Any, Callable[..., Adapter]] = {"sqlite": SQLiteAdapter, "shelve": ShelveAdapter}


def path_in(target: str) -> str:
    """The path that a URL for ``connect`` names, or ``":memory:"``; ``""`` if it is no such URL."""
    if "?" in target:
        return ""
    if target.startswith("sqlite:///"):
        return target.removeprefix("sqlite:///")
    path = target.removeprefix("shelve:") if target.startswith("shelve:") else ""
    if path.startswith("//"):  # of a URL: what follows is a host, which is nobody unless empty
        path = path.removeprefix("//") if path.startswith("///") else ""
    return path
