"""Which store a command is about, and how it is opened: without making anything, unless that is the command."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from .. import adapters, backups, layouts, recorded
from ..adapters import SQLiteAdapter, connect, path_in
from ..errors import BusyError, StorageError
from ..journal import is_store, remove
from ..memory import ShelveAdapter
from ..paths import identity
from ..schema import OURS, Schema

URL = "TINYAUTHSTORE_URL"
SECRET = "TINYAUTHSTORE_SECRET"
"""Environment variables: the store, and the ``secret=`` that its application gives it."""

FORMS = """\
TARGET is a path, or what connect() takes:
  auth.db                        a SQLite file: ours, Auth.js's or Better Auth's
  /var/lib/app/auth              a shelf, which is a directory
  sqlite:///auth.db, shelve:auth, memory:
It may stand in $TINYAUTHSTORE_URL instead. If the application gives its store
a secret=, put that into $TINYAUTHSTORE_SECRET."""

BUSY, NOT_WRITABLE = 5, (8, 14)
"""Codes of SQLite's errors: SQLITE_BUSY; SQLITE_READONLY, SQLITE_CANTOPEN."""


class Wrong(ValueError):
    """A command was used wrongly; the message says what to do."""


class LookedAtFile(SQLiteAdapter[Any, Any, Any, Any, Any]):
    """A file that a command only looks at: a backup, which is in no WAL mode, stays so."""

    def _enter_wal_mode(self) -> None:
        pass


class LookedAtShelf(ShelveAdapter[Any, Any, Any, Any, Any]):
    """A shelf that a command only looks at: it is not brought up to date, and nothing is written when it is closed."""

    def _record_changes(self) -> None:
        pass

    def _release(self) -> None:
        self._files.close()


# --- names ------------------------------------------------------------------------------------


def target_of(given: str | None) -> str:
    """The target that was given, or the environment's. Wrong if there is none."""
    target = given or os.environ.get(URL)
    if not target:
        raise Wrong(f"which store? Say -s TARGET, such as -s auth.db, or set ${URL}")
    return target


def place(target: str) -> tuple[str, str]:
    """The kind, ``"sqlite"`` or ``"shelve"``, and the path; ``"memory"`` and ``""`` for a store without one.

    Wrong, which shows no password, if it is neither a URL for ``connect`` nor a plain path.
    """
    if target in ("memory:", "memory://", "sqlite:///:memory:"):
        return "memory", ""
    if path := path_in(target):
        return target.partition(":")[0], path
    if not os.path.lexists(target) and ("?" in target or ":" in os.path.basename(target) or "://" in target):
        try:
            connect(target)
        except ValueError as error:
            said = str(error).partition(";")[0]
        raise Wrong(f"{said}; a TARGET is a path, sqlite:///FILE, shelve:DIRECTORY or memory:")
    return "shelve" if target.endswith("/") or os.path.isdir(target) else "sqlite", target


def there(kind: str, path: str) -> bool:
    """Whether something has that path already; an empty directory may become a shelf. StorageError if it cannot be
    told."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return os.path.islink(path)
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be reached: {getattr(error, 'strerror', error)}", path=path) from None
    return not (kind == "shelve" and os.path.isdir(path) and not os.listdir(path))


def same(one: Any, target: str) -> bool:
    """Whether a target is the very file, or directory, of a store."""
    path = place(target)[1]
    return bool(path) and identity(path) is not None and identity(path) == identity(getattr(one, "path", ""))


# --- opening ----------------------------------------------------------------------------------


def opened(target: str, *, writing: bool = True, synchronize: bool = False) -> Any:
    """The store, as its file says: its layout, and models with the custom fields that it has.

    StorageError if there is none. Unless ``synchronize``, no table is made or changed; unless ``writing``, nothing is.
    """
    kind, path = place(target)
    if kind == "memory":
        return connect(target, secret=_secret())
    if not there(kind, path):
        raise StorageError(f"{path}: there is no store; `tinyauthstore init -s {target}` makes one", path=path)
    if kind == "sqlite" and os.path.isdir(path):
        raise StorageError(f"{path} is a directory, and no SQLite file; a shelf is shelve:{path}", path=path)
    if kind == "shelve" and os.path.isdir(path) and not is_store(path):
        raise StorageError(f"{path} is a directory, but no shelf: there is no store of ours in it", path=path)
    schema = layout_of(path) if kind == "sqlite" else OURS
    try:
        if synchronize:
            _open(kind, path, schema, synchronize=True).close()
        store = _open(kind, path, schema, writing=False)
        try:
            models = recorded.models(store._recorded())
        except (ValueError, TypeError) as error:
            store.close()
            raise StorageError(f"{path}: {error}", path=path) from None
        if not (writing or models):
            return store
        store.close()
        return _open(kind, path, schema, writing, synchronize, models)
    except StorageError as error:
        if error.missing:
            what = f"{error.missing[0]}{f' and {len(error.missing) - 1} more' if error.missing[1:] else ''}"
            said = StorageError(f"{path} lacks {what}; `tinyauthstore migrate -s {target}` adds that", path=path)
            said.missing = error.missing
            raise said from None
        raise


def _open(
    kind: str, path: str, schema: Schema, writing: bool = True, synchronize: bool = False, models: Mapping[str, Any] = {}
) -> Any:
    if kind == "shelve":
        return (ShelveAdapter if writing else LookedAtShelf)(path, secret=_secret(), **models)
    adapters._warned.add(repr(schema))  # `stats` and `layouts` say it; a log before each table says it too often
    adapter: Any = SQLiteAdapter if writing else LookedAtFile
    return adapter(path, secret=_secret(), schema=schema, synchronize=synchronize, **models)


def _secret() -> str | None:
    return os.environ.get(SECRET) or None


def layout_of(path: str) -> Schema:
    """The layout of a SQLite file; that of our own for an empty one. StorageError as from ``layouts.detect``."""
    try:
        return OURS if os.path.getsize(path) == 0 else layouts.detect(path)
    except StorageError as error:
        code = getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF
        if code == BUSY:
            raise BusyError(f"{path} stayed locked", path=path) from None
        if code in NOT_WRITABLE:
            what = "is not readable and writable for this user, or its directory is not (SQLite needs both)"
            raise StorageError(f"{path} {what}", path=path) from None
        raise


@contextmanager
def made(target: str, schema: Schema = OURS, **models: Any) -> Iterator[Any]:
    """A new store, which has its name only when the block ends: if it raises, nothing is left. Wrong if it exists."""
    kind, path = place(target)
    if kind == "memory":
        raise Wrong("a store in memory ends with the command; name a file")
    path = path.rstrip("/") or path
    if there(kind, path):
        raise Wrong(f"{path} exists already; `tinyauthstore migrate -s {target}` brings an older store up to date")
    if kind == "shelve" and os.path.isdir(path):  # it is empty, and whoever made it chose its owner
        try:
            with closing(_open(kind, path, schema, models=models)) as store:
                yield store
        except BaseException:
            for name in os.listdir(path):
                remove(os.path.join(path, name))
            raise
        return
    with backups.drafted(path) as draft:
        try:
            with closing(_open(kind, draft, schema, synchronize=True, models=models)) as store:
                yield store
        except StorageError as error:
            raise StorageError(str(error).replace(draft, path), path=path) from None
