"""The stores that keep the contract: ``SQLiteAdapter``, ``MemoryAdapter``, ``ShelveAdapter``; and ``connect``.

``BaseAdapter`` has the rules that they share. Each of them says how records are stored, in the verbs that it asks
for; ``ShelveAdapter`` is a ``MemoryAdapter`` that journals what it commits.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import itertools
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, Literal

from .base import AT_ONCE, FORK_PATIENCE, BaseAdapter, _brief
from .contract import Adapter
from .errors import BusyError, LockedError, StorageError
from .models import (
    ACCOUNT, ENTITIES, SESSION, USER, VERIFICATION_TOKEN, AccountT, AuthenticatorT, Entity, Record,
    SessionAndUser, SessionT, UserT, VerificationTokenT, fields_of, fresh, session_id,
)
from .schema import (
    APPLICATION_ID, DATA_VERSION, FOREIGN_TABLES, INSPECT, MARK, MINIMUM_SQLITE, STRAY_EMAIL_KEYS, USER_VERSION,
    Table, schema_for, to_microseconds,
)
from .transactions import turn

try:
    import sqlite3
except ImportError:  # a Python built without it: everything but SQLiteAdapter works
    sqlite3 = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from typing import Unpack

    from .base import Options

WAL_INDEX_HEADER = 96
"""Bytes: SQLite's two copies of it, at the start of the -shm file."""

MANY_DESCRIPTORS = 1000
"""More are not searched: each takes about 3 microseconds, and somebody may be waiting."""

# --- SQLite -----------------------------------------------------------------------------------


class SQLiteAdapter(BaseAdapter[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]):
    """A store in one SQLite file, or in memory for ``":memory:"``.

    Safe for any number of threads and processes. One connection, guarded by a lock; while that is
    busy, other threads read a file through a second connection, so no look-up waits for a write.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronize: bool = True,
        durability: Literal["full", "normal"] = "full",
        timeout: float = 5.0,
        **options: Unpack[Options[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]],
    ) -> None:
        """Open ``path``, creating the file (mode 0600) unless it exists. Further options: see ``BaseAdapter``.

        ``synchronize``: create tables and add a custom model's columns where they are missing; False
        only verifies. ``durability``: ``"full"``, what was acknowledged survives a power cut;
        ``"normal"``, it survives the process but the last moments may not survive a power cut.
        ``timeout``: seconds to wait for another process's write before BusyError.

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
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0:
            raise ValueError(f"timeout must be a number of seconds, not negative; got {timeout!r}")
        path = os.fspath(path)
        if not isinstance(path, str) or not path or path.startswith("file:"):
            raise ValueError(f"path must name a file, or be ':memory:'; got {path!r}")
        self._copied_by_fork = path == ":memory:"
        self._path = path if path == ":memory:" else os.path.abspath(path)
        self._timeout = timeout
        self._synchronous = durability.upper()
        self._schema = schema_for(tuple(self._models.values()))
        self._connection: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._version: Any = None  # of the data, before anything was read that is kept and not doubted
        self._header = b""  # of the WAL index, before the version was asked for
        self._shm = -1  # SQLite's descriptor of it; -1: none that is surely SQLite's
        self._midway = False  # between a statement's first step and its last; read and written under the lock
        self._reader_lock = threading.Lock()
        try:
            if not self._copied_by_fork:
                self._reach_file(create=synchronize)
            file = self._file()
            self._connection = self._connect()
            self._prepare(synchronize)
            self._watch(file)
        except BaseException:
            self._suspend(really=True)
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
            if not stat.S_ISREG(os.stat(self._path).st_mode):
                raise self._trouble("is not a file; give the path of a file, which may be new")
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

    def _file(self) -> tuple[int, int] | None:
        """What the path means just now: a device and an inode. None for a store in memory, or if it means nothing."""
        if self._copied_by_fork:
            return None
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _watch(self, file: tuple[int, int] | None) -> None:
        """From here on be able to tell whether another connection has committed. ``file``: what the path meant
        before the connection was made; if it means another one by now, its -shm may not be SQLite's."""
        self._header = b""
        version = self._row(DATA_VERSION)
        self._recent.doubt()  # what a signal's handler has read before
        self._version = version
        shm = -1 if file is None else _descriptor_of(f"{os.path.realpath(self._path)}-shm")
        self._shm = shm if file == self._file() else -1

    def _prepare(self, synchronize: bool) -> None:
        """Check whose file this is before touching it, then see that the tables are there."""
        if self._copied_by_fork:  # new and ours alone: nothing to look at
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
        self, sql: str, parameters: Sequence[Any] = (), connection: sqlite3.Connection | None = None
    ) -> list[Any]:
        """All rows of a statement. Waits while another process writes; translates every error.

        SQLite's own waiting is unfair under load (a writer was measured to starve for seconds):
        short random sleeps are not.
        """
        deadline = None
        while True:
            used = self._connection
            try:
                return self._rows(sql, parameters, connection)
            except UnicodeDecodeError:
                garbled = True
            except sqlite3.Error as error:
                if connection is None and used is not self._connection:
                    continue  # a signal's handler called fork(), for which it was closed
                # The message quotes the value, which may be a token: neither it nor the cause is passed on.
                garbled = str(error).startswith("Could not decode")
                now = time.monotonic()
                deadline = deadline or now + self._timeout
                busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
                if not garbled and (not busy or now >= deadline):
                    raise self._translated(error) from error
            if garbled:
                raise self._trouble("is damaged (it holds text that is not UTF-8); restore a backup")
            self._about_to_wait()
            import random

            time.sleep(random.uniform(0, 0.002))

    def _rows(
        self, sql: str, parameters: Sequence[Any], connection: sqlite3.Connection | None
    ) -> list[Any]:
        """One attempt of ``_run``, with SQLite's own errors."""
        if connection is not None:  # the second one, which another lock guards
            return self._fetched(connection, sql, parameters)
        outer, self._midway = self._midway, True
        try:
            return self._fetched(self._connection or self._ready(), sql, parameters)
        finally:
            self._midway = outer

    def _fetched(self, connection: sqlite3.Connection, sql: str, parameters: Sequence[Any]) -> list[Any]:
        cursor = None
        try:
            cursor = connection.execute(sql, parameters)
            rows = cursor.fetchmany(AT_ONCE + 1)
            if len(rows) > AT_ONCE:
                self._about_to_wait()
                rows += cursor.fetchall()
            return rows
        finally:
            cursor = None  # kept by the frames of an exception, it would show the connection the past for as long

    def _row(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """The first row of a query on the first connection, or None: ``_run`` without its overhead."""
        outer, self._midway = self._midway, True
        try:
            return (self._connection or self._ready()).execute(sql, parameters).fetchone()
        except sqlite3.Error:
            return next(iter(self._run(sql, parameters)), None)
        finally:
            self._midway = outer

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

    def _ready(self) -> sqlite3.Connection:
        """The first connection, made anew if it was closed before a fork(). ClosedError."""
        self._require_open()
        if self._connection is None:
            file = self._file()
            self._connection = self._connect()
            self._watch(file)
        return self._connection

    def _read(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        """Rows of a query, from the second connection where the first is busy in another thread."""
        lock, other = self._lock, self._reader_lock
        mine = lock.acquire(blocking=False)
        if not mine and self._copied_by_fork:
            self._about_to_wait()
            mine = lock.acquire()
        if not mine:
            if not other.acquire(blocking=False):
                self._about_to_wait()
                other.acquire()
            try:
                self._require_open()
                if self._reader is None:
                    self._reader = self._connect(reader=True)
                return self._run(sql, parameters, self._reader)
            finally:
                other.release()
        try:
            self._ready()
            return self._run(sql, parameters)
        finally:
            lock.release()

    # -- storage

    def _get(self, entity: Entity, key: tuple[Any, ...]) -> Any:
        table = self._schema.tables[entity]
        rows = self._read(table.select, key)
        return self._record(table, rows[0]) if rows else None

    def _find(self, entity: Entity, group: str) -> dict[tuple[Any, ...], Any]:
        return self._keyed(entity, self._read(self._schema.tables[entity].select_group, (group,)))

    def _all(self, entity: Entity) -> dict[tuple[Any, ...], Any]:
        return self._keyed(entity, self._read(self._schema.tables[entity].select_all, ()))

    def _keyed(self, entity: Entity, rows: list[Any]) -> dict[tuple[Any, ...], Any]:
        table, parts = self._schema.tables[entity], len(entity.key)
        return {row[:parts]: self._record(table, row[parts:]) for row in rows}

    def _get_owner(self, account: tuple[str, str]) -> UserT | None:
        rows = self._read(self._schema.user_by_account, account)
        return self._record(self._schema.tables[USER], rows[0]) if rows else None

    def _get_session_and_user(self, session_token: str) -> SessionAndUser[SessionT, UserT] | None:
        # The hot path of every application: no generality that costs, each line measured.
        lock = self._lock
        if not lock.acquire(False):  # busy
            if not self._copied_by_fork:  # the second connection, which keeps nothing
                digest = self._digest(session_token)
                rows = self._read(self._schema.session_and_user, (digest,))
                return self._found(rows[0], session_token, digest) if rows else None
            self._about_to_wait()
            lock.acquire()
        try:
            recent = self._recent
            place, known = recent.places.get(session_token), None
            if place is not None:
                found, known = place.read
                if found is not None and place.doubts == recent.doubts and recent.valid.get(place.id) is place:
                    # Asked twice: a signal's handler may have used up the news of a commit in between.
                    if (self._copied_by_fork or self._still_true()) and place.doubts == recent.doubts:
                        return found
            digest = self._digest(session_token)
            keeping = recent.size and self._depth == 0
            place = recent.reserve(session_token, digest) if keeping else None
            # Read after the version under which all is kept: had another connection committed in
            # between, the next hit would see that. So a miss need not ask for the version.
            row = self._row(self._schema.session_and_user, (digest,))
            if row is None:
                if place is not None:
                    recent.evict(place.id)
                return None
            if row != known:
                found = self._found(row, session_token, digest)
            if place is not None:
                place.read = found, row
            elif keeping:
                recent.remember(digest)
            return found
        finally:
            lock.release()

    def _still_true(self) -> bool:
        """Whether no other connection has committed since; if one has, all that was kept is doubted."""
        if self._midway:  # in a signal's handler, amid a statement that shows the connection the past
            return False
        header = self._wal_index_header()
        if header == self._header and header:
            return True
        version = self._row(DATA_VERSION)
        true: bool = version == self._version
        if not true:
            self._recent.doubt()
            self._version = version
        # Last, for a signal's handler may raise between any two lines. It was read before the version was
        # asked for: while the header stays, so does the version.
        self._header = header
        return true

    def _wal_index_header(self) -> bytes:
        """What ``PRAGMA data_version`` goes by: the start of the -shm file, which every commit changes; b"" if
        it is not to be had.

        Read through the descriptor that SQLite itself has open. To open another would be fatal: closing it
        drops SQLite's locks. The pragma takes and drops a lock besides, which makes a hit three times as
        expensive. Source: SQLite, "WAL-mode File Format", 2.1 (two copies, equal unless one is being written).
        """
        try:
            return os.pread(self._shm, WAL_INDEX_HEADER, 0) if self._shm >= 0 else b""
        except OSError:  # somebody closed it behind SQLite's back
            return b""

    def _found(self, row: Sequence[Any], session_token: str, digest: bytes) -> SessionAndUser[Any, Any]:
        try:
            return self._schema.found(row, session_token, digest)
        except NOT_OURS as error:
            what = type(error).__name__
        raise self._not_ours("sessions or users", what)

    def _record(self, table: Table, row: Sequence[Any]) -> Any:
        try:
            return table.record(row)
        except NOT_OURS as error:
            what = type(error).__name__
        raise self._not_ours(table.entity.plural, what)

    def _not_ours(self, where: str, what: str) -> StorageError:
        """The error for a row that cannot be decoded. Raised outside of ``except``: no __context__ may hold
        the value, which may be a token."""
        return self._trouble(f"holds a value in {where} that is not ours ({what}); restore a backup")

    def _put(self, entity: Entity, key: tuple[Any, ...], record: Any) -> None:
        table = self._schema.tables[entity]
        self._forget(entity, key)
        self._run(table.put, table.row(key, record))

    def _rekey(self, entity: Entity, key: tuple[Any, ...], new: tuple[Any, ...]) -> None:
        self._forget(entity, key)
        self._run(self._schema.tables[entity].rekey, (*new, *key))

    def _remove(self, entity: Entity, key: tuple[Any, ...]) -> Any:
        table = self._schema.tables[entity]
        self._forget(entity, key)
        rows = self._run(table.delete, key)
        return self._record(table, rows[0]) if rows else None

    def _remove_group(self, entity: Entity, group: str) -> None:
        if entity is SESSION:
            self._forget(USER, (group,))
        self._run(self._schema.tables[entity].delete_group, (group,))

    def _purge(self, entity: Entity, now: datetime, limit: int) -> int:
        gone = self._run(self._schema.tables[entity].purge, (to_microseconds(now), limit))
        for digest in gone:
            self._forget(entity, digest)
        return len(gone)

    def _underway(self) -> int:
        return int(self._beginning and self._connection is not None and self._connection.in_transaction)

    def _begin(self, depth: int) -> None:
        self._ready()
        if depth:
            self._run(f"SAVEPOINT s{depth}")
            return
        if self._connection is not None and self._connection.in_transaction:
            self._run("ROLLBACK")  # of a transaction whose owner was interrupted when it was about to do so
        self._beginning = True
        self._run("BEGIN IMMEDIATE")

    def _commit(self, depth: int) -> None:
        self._run("COMMIT" if depth == 0 else f"RELEASE s{depth}")

    def _rollback(self, depth: int) -> None:
        if self._connection is None or not self._connection.in_transaction:
            return  # closed inside the transaction, or undone by SQLite itself (disk full)
        self._run("ROLLBACK" if depth == 0 else f"ROLLBACK TO s{depth}")
        if depth:
            self._run(f"RELEASE s{depth}")

    def _dump(self) -> Any:
        return {entity: self._run(table.dump) for entity, table in self._schema.tables.items()}

    def _load(self, state: Any) -> None:
        self._recent.clear()
        for table in self._schema.tables.values():
            self._run(table.delete_all)
        for entity, rows in state.items():
            for row in rows:
                self._run(self._schema.tables[entity].load(len(row)), row)

    def _check_storage(self) -> list[str]:
        try:
            found = [text for (text,) in self._run("PRAGMA integrity_check") if text != "ok"]
            broken = self._run("PRAGMA foreign_key_check")
            stray = self._run(STRAY_EMAIL_KEYS)
        except StorageError as error:
            return [str(error)]
        found += [f"table {row[0]}: a row refers to a missing one in {row[2]}" for row in broken]
        return found + [f"user {_brief(user_id)}: an email_key, but no email" for (user_id,) in stray]

    def _before_fork(self) -> None:
        super()._before_fork()  # the two locks in the order in which close() takes them
        # Held for a query at the most, but perhaps by this thread, below a signal's handler.
        self._reader_locked_for_fork = self._reader_lock.acquire(timeout=FORK_PATIENCE)
        connection = self._connection
        amid = connection is not None and connection.in_transaction  # which begins before _depth says so
        if self._locked_for_fork and self._reader_locked_for_fork and self._depth == 0 and not amid:
            self._suspend()

    def _holds_what_a_child_must_not(self) -> bool:
        return self._connection is not None and not self._copied_by_fork

    def _after_fork_in_parent(self) -> None:
        if self._reader_locked_for_fork:
            self._reader_lock.release()
        super()._after_fork_in_parent()

    def _after_fork_in_child(self) -> None:
        super()._after_fork_in_child()
        self._reader_lock = threading.Lock()
        if self._lost:
            _never_close((self._connection, self._reader))
            self._connection = self._reader = None

    def _suspend(self, *, really: bool = False) -> None:
        """Let go of what a child process must not inherit; taken up again at the next use."""
        if really or not self._copied_by_fork:
            for connection in (self._reader, self._connection):
                if connection is not None:
                    connection.close()
            self._reader = self._connection = None
            self._recent.clear()  # another connection's data_version is no measure for it
            self._version, self._header, self._shm = None, b"", -1

    def _release(self) -> None:
        with self._reader_lock:
            self._suspend(really=True)


def _descriptor_of(path: str) -> int:
    """The one descriptor that this process has open on a file; -1 if there is none, or several, or no telling.

    Linux only: there, whatever is written to a mapped file is at once what every read of it gives.
    """
    found = []
    try:
        wanted = os.stat(path)
        names = os.listdir("/proc/self/fd") if sys.platform == "linux" else []
    except OSError:
        return -1
    for name in names if len(names) <= MANY_DESCRIPTORS else ():
        try:
            if os.path.samestat(os.fstat(int(name)), wanted):
                found.append(int(name))
        except OSError:  # the one that listed the directory
            pass
    return found[0] if len(found) == 1 else -1


_never_closed: list[Any] = []

NOT_OURS = (ValueError, TypeError, OverflowError, RecursionError)
"""What decoding a row raises that this package did not write."""


def _never_close(connections: Any) -> None:
    """Keep a parent's connections from being closed in the child, its end included.

    Closing rolls back, and SQLite would do that in the -shm memory that the parent goes on using:
    its transaction was measured to be destroyed. One reference too many outlives even the clearing
    of modules at exit; nothing but the C API gives it.
    """
    _never_closed.append(connections)
    try:
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connections))
    except (ImportError, AttributeError):  # a Python without ctypes: safe until its very end
        pass


# --- memory -----------------------------------------------------------------------------------


class _Shelf:
    """One entity's records in memory: by key, by group, and (where they expire) by time."""

    __slots__ = ("entity", "records", "groups", "due")

    def __init__(self, entity: Entity) -> None:
        self.entity = entity
        self.records: dict[tuple[Any, ...], Any] = {}
        self.groups: dict[str, dict[tuple[Any, ...], None]] = {}
        # A heap of (expires, key). An entry whose record has changed since is passed over when it is
        # due; removing it earlier would cost a search.
        self.due: list[tuple[datetime, tuple[Any, ...]]] | None = (
            [] if entity in (SESSION, VERIFICATION_TOKEN) else None
        )

    def fill(self, records: dict[tuple[Any, ...], Any]) -> None:
        """Take over all the records of an empty shelf."""
        self.records = records
        for key, record in records.items():
            if (group := self.entity.group_of(record)) is not None:
                self.groups.setdefault(group, {})[key] = None
        self._sort_due()

    def _sort_due(self) -> None:
        if self.due is not None:
            self.due = [(record.expires, key) for key, record in self.records.items()]
            heapify(self.due)

    def change(self, key: tuple[Any, ...], record: Any) -> None:
        """Put the record there, or nothing if it is None; also where an earlier change was interrupted."""
        old = self.records.pop(key, None)
        if old is not None and (group := self.entity.group_of(old)) is not None:
            members = self.groups.get(group, {})
            members.pop(key, None)
            if not members:
                self.groups.pop(group, None)
        if record is not None:
            self.records[key] = record
            if (group := self.entity.group_of(record)) is not None:
                self.groups.setdefault(group, {})[key] = None
            if self.due is not None:
                heappush(self.due, (record.expires, key))
                if len(self.due) > 2 * len(self.records) + 64:
                    self._sort_due()


class MemoryAdapter(BaseAdapter[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]):
    """A store in this process's memory: the same answers, nothing on disk.

    Plain dictionaries of immutable records, guarded by one lock, with an undo log for
    transactions. Tokens are kept as digests here too.
    """

    def __init__(
        self, **options: Unpack[Options[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]]
    ) -> None:
        """A fresh, empty store. Options: see ``BaseAdapter``."""
        super().__init__(**options)
        self._shelves = {entity: _Shelf(entity) for entity in ENTITIES}
        self._undo: list[tuple[Entity, tuple[Any, ...], Any]] = []
        self._marks: list[int] = []
        self._opened()

    def __repr__(self) -> str:
        return "MemoryAdapter()"

    # -- storage

    def _get(self, entity: Entity, key: tuple[Any, ...]) -> Any:
        with turn(self._lock):
            self._require_open()
            record = self._shelves[entity].records.get(key)
        return None if record is None else fresh(record)

    def _find(self, entity: Entity, group: str) -> dict[tuple[Any, ...], Any]:
        with turn(self._lock):
            self._require_open()
            shelf = self._shelves[entity]
            keys = shelf.groups.get(group, ())
            if len(keys) > AT_ONCE:
                self._about_to_wait()
            found = {key: shelf.records[key] for key in sorted(keys)}
        return {key: fresh(record) for key, record in found.items()}

    def _all(self, entity: Entity) -> dict[tuple[Any, ...], Any]:
        with turn(self._lock):
            self._require_open()
            return dict(self._shelves[entity].records)

    def _get_session_and_user(self, session_token: str) -> SessionAndUser[SessionT, UserT] | None:
        with turn(self._lock):
            self._require_open()
            recent = self._recent
            place = recent.places.get(session_token)
            if place is not None and place.read[0] is not None and recent.valid.get(place.id) is place:
                return place.read[0]
            digest = self._digest(session_token)
            keeping = recent.size and self._depth == 0
            place = recent.reserve(session_token, digest) if keeping else None
            session = self._shelves[SESSION].records.get((digest,))
            if session is None:
                return None
            user = self._shelves[USER].records.get((session.user_id,))
            if user is None:  # in a shelf that somebody mended by hand
                return None
            session = dataclasses.replace(session, session_token=session_token)
            found = SessionAndUser(fresh(session), fresh(user))
            if place is not None:
                place.read = found, None
            elif keeping:
                recent.remember(digest)
        return found

    def _get_owner(self, account: tuple[str, str]) -> UserT | None:
        with turn(self._lock):
            self._require_open()
            linked = self._shelves[ACCOUNT].records.get(account)
            return None if linked is None else self._get(USER, (linked.user_id,))

    def _put(self, entity: Entity, key: tuple[Any, ...], record: Any) -> None:
        self._change(entity, key, self._shelves[entity].records.get(key), fresh(record))

    def _rekey(self, entity: Entity, key: tuple[Any, ...], new: tuple[Any, ...]) -> None:
        self._put(entity, new, dataclasses.replace(self._remove(entity, key), id=session_id(new[0])))

    def _remove(self, entity: Entity, key: tuple[Any, ...]) -> Any:
        old = self._shelves[entity].records.get(key)
        if old is None:
            return None
        self._change(entity, key, old, None)
        return fresh(old)

    def _change(self, entity: Entity, key: tuple[Any, ...], old: Any, new: Any) -> None:
        self._forget(entity, key)
        # In this order: Ctrl-C may strike in between, as it may after _commit, and a rollback follows.
        self._undo.append((entity, key, old))
        self._shelves[entity].change(key, new)

    def _remove_group(self, entity: Entity, group: str) -> None:
        for key in list(self._shelves[entity].groups.get(group, ())):
            self._remove(entity, key)

    def _purge(self, entity: Entity, now: datetime, limit: int) -> int:
        shelf, count = self._shelves[entity], 0
        while count < limit and shelf.due and shelf.due[0][0] <= now:
            expires, key = heappop(shelf.due)
            record = shelf.records.get(key)
            if record is not None and record.expires == expires:
                self._remove(entity, key)
                count += 1
        return count

    def _begin(self, depth: int) -> None:
        self._marks[depth:] = [len(self._undo)]

    def _commit(self, depth: int) -> None:
        if depth == 0:
            self._undo.clear()

    def _rollback(self, depth: int) -> None:
        while len(self._undo) > self._marks[depth]:
            entity, key, old = self._undo.pop()
            self._shelves[entity].change(key, old)

    def _dump(self) -> Any:
        return {entity: dict(shelf.records) for entity, shelf in self._shelves.items()}

    def _load(self, state: Any) -> None:
        # Only what differs: a record is never changed in place, so where the same object lies, nothing
        # happened. A test that touched three of a thousand records pays for three.
        for entity, records in state.items():
            shelf = self._shelves[entity]
            for key in [key for key, record in shelf.records.items() if records.get(key) is not record]:
                self._remove(entity, key)
            if len(shelf.records) < len(records):
                for key in records.keys() - shelf.records.keys():
                    self._change(entity, key, None, records[key])


# --- shelve -----------------------------------------------------------------------------------


_LEFTOVERS = Entity("leftovers", "leftovers", Record, ("entity", "key"), "", lambda fields: None)
"""Filed like records, but not handed out: a row's fields that no field of its model names, for the model that
wrote them."""

_ABSENT = object()


class _Rows:
    """One entity's records as rows of JSON: ``[key, fields]``, the parts of the key and the other stored fields."""

    def __init__(self, entity: Entity, model: type[Record]) -> None:
        self.entity = entity
        own = {f.name for f in fields_of(entity.record)}
        self._in_key = [(name, i) for i, name in enumerate(entity.key) if name in own]
        self._digest = entity.key.index("token_digest") if "token_digest" in entity.key else None
        self._names = [f.name for f in fields_of(model)]
        self._make: Any = model
        if any(f.keyword_only for f in fields_of(model)):
            self._make = lambda *values: model(**dict(zip(self._names, values)))
        elsewhere = {*entity.withheld, *(name for name, _ in self._in_key)}
        self._fields = [(f.name, f) for f in fields_of(model) if f.name not in elsewhere]

    def row(self, key: tuple[Any, ...], record: Any, leftovers: dict[str, Any] | None) -> list[Any]:
        """The row that holds a record; ``null`` in the place of the fields if it is None."""
        parts = [part.hex() if isinstance(part, bytes) else part for part in key]
        if record is None:
            return [parts, None]
        fields = {} if leftovers is None else dict(leftovers)
        for name, f in self._fields:
            value = getattr(record, name)
            fields[name] = None if value is None else f.kind.to_json(value)
        return [parts, fields]

    def records(self, rows: list[Any]) -> Iterator[tuple[tuple[Any, ...], Any, dict[str, Any]]]:
        """Key, record, and the fields that the model does not name, of each row. ValueError if one does not fit.

        By columns, which takes half the time of going row by row.
        """
        keys, fields = zip(*rows)
        parts: list[Any] = list(zip(*keys, strict=True))
        columns: dict[str, Any] = {name: itertools.repeat("") for name in self.entity.withheld}
        if self._digest is not None:
            parts[self._digest] = list(map(bytes.fromhex, parts[self._digest]))
            columns["id"] = map(session_id, parts[self._digest])
        for name, i in self._in_key:
            columns[name] = parts[i]
        for name, f in self._fields:
            columns[name] = self._column(f, [row.pop(name, _ABSENT) for row in fields])
        return zip(zip(*parts), map(self._make, *(columns[name] for name in self._names)), fields)

    def _column(self, f: Any, column: list[Any]) -> list[Any]:
        from_json, optional, values = f.kind.from_json, f.optional, []
        for value in column:
            if value is _ABSENT:
                if f.default is None:
                    raise ValueError(f"{f.model.__name__}.{f.name} is missing")
                values.append(f.check(f.default()))
                continue
            try:
                values.append(None if value is None and optional else from_json(value))
                continue
            except (TypeError, ValueError, RecursionError):
                pass  # raised below, outside, so that no __context__ keeps the value alive
            raise f.refusal(value)
        return values


class ShelveAdapter(MemoryAdapter[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]):
    """A store in a directory of its own, by the standard library's ``shelve``; it needs no SQLite.

    All of it is in memory, so look-ups cost what they cost there, and opening it reads it all. Every
    transaction is appended to a journal before it is acknowledged; now and then, and by ``close()``,
    the whole state is written to a new shelf. ``journal.py`` tells how that lies on the disk.

    One process at a time, any number of threads. Reading it beside the process that has it open is not
    offered, and a forked child is refused: for several processes, there is ``SQLiteAdapter``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Literal["full", "normal"] = "full",
        dbm: Literal["dumb", "gnu", "ndbm", "sqlite3"] | None = None,
        **options: Unpack[Options[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]],
    ) -> None:
        """Open the directory ``path``, creating it (mode 0700) unless it exists. Further options: see ``BaseAdapter``.

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
        self._shelves[_LEFTOVERS] = _Shelf(_LEFTOVERS)
        self._rows = {entity.plural: _Rows(entity, model) for entity, model in self._models.items()}
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
            for entity, records in self._records(pages).items():
                self._shelves[entity].fill(records)
        finally:
            if collecting:
                gc.enable()

    def _records(self, pages: Iterable[tuple[str, list[Any]]]) -> dict[Entity, dict[Any, Any]]:
        """The state that pages of rows describe, shelf by shelf. StorageError for a row that does not fit."""
        found: dict[Entity, dict[Any, Any]] = {entity: {} for entity in self._shelves}
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

    def _row(self, entity: Entity, key: tuple[Any, ...], record: Any) -> list[Any]:
        return self._rows[entity.plural].row(key, record, self._shelves[_LEFTOVERS].records.get((entity, key)))

    def _changes(self) -> list[list[Any]]:
        """What this transaction touched, as it is now: one line of the journal."""
        return [
            [entity.plural, *self._row(entity, key, self._shelves[entity].records.get(key))]
            for entity, key in dict.fromkeys((entity, key) for entity, key, _ in self._undo)
            if entity is not _LEFTOVERS  # they go with their record
        ]

    def _table(self, entity: Entity) -> Iterator[list[Any]]:
        return (self._row(entity, key, record) for key, record in self._shelves[entity].records.items())

    # -- storage

    def _remove(self, entity: Entity, key: tuple[Any, ...]) -> Any:
        if entity is _LEFTOVERS:
            return self._leave(key, None)
        self._leave((entity, key), None)
        return super()._remove(entity, key)

    def _rekey(self, entity: Entity, key: tuple[Any, ...], new: tuple[Any, ...]) -> None:
        leftovers = self._shelves[_LEFTOVERS].records.get((entity, key))
        super()._rekey(entity, key, new)
        self._leave((entity, new), leftovers)

    def _leave(self, key: tuple[Any, ...], leftovers: dict[str, Any] | None) -> None:
        old = self._shelves[_LEFTOVERS].records.get(key)
        if old is not leftovers:
            self._change(_LEFTOVERS, key, old, leftovers)

    def _begin(self, depth: int) -> None:
        super()._begin(depth)
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
            written = self._records(self._files.pages())
        except StorageError as error:
            return [str(error)]
        problems = []
        for entity, shelf in self._shelves.items():
            known = dict(shelf.records)
            for changed, key, old in reversed(self._undo):  # what was not committed yet is not in the files
                if changed is entity:
                    known.pop(key, None) if old is None else known.update({key: old})
            if known != written[entity]:
                wrong = sum(known.get(key) != written[entity].get(key) for key in known.keys() | written[entity])
                problems.append(f"{self._path}: {wrong} {entity.plural} are not in its files as they are in memory")
        return problems

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

    def _before_fork(self) -> None:
        pass

    def _after_fork_in_child(self) -> None:
        self._lost = functools.partial(
            LockedError,
            f"{self._path} is open in process {self._process}, from which this one was forked: a shelf belongs to one"
            " process at a time. Use SQLiteAdapter, which processes may share",
            path=self._path,
        )
        self._lock = threading.RLock()
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
    # Without what may be a password: the options, or what stands before the @ of a URL.
    shown = {"type": kind, "database": database} if isinstance(target, Mapping) else str(target).rpartition("@")[2]
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
