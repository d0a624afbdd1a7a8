"""The files of a ``ShelveAdapter``: a shelf, the journal that continues it, and a lock.

No ``dbm`` backend survives a crash by itself (``dbm.dumb`` can lose the whole file between two system
calls), so no shelf is ever changed in place: it is written once, under a temporary name, and renamed when
complete. Each later transaction is appended to a journal, as one line, before it is acknowledged.

A store is one directory (mode 0700) of files (0600); ``000007`` is the *generation*, which only grows::

    lock                 locked by the one process that has the store open; contains that process's id
    shelf-000007.dumb/   the whole state at one moment: the files of the dbm backend that its name ends with
    journal-000007       the transactions since then; generation 0 has no shelf: its store began empty
    journal-000007.torn  the unfinished end of a journal whose process was killed, cut off: for you to
                         inspect and delete. There is at most one, and no store reads it.
    shelf-000008.dumb.tmp/   a shelf that is being written, or was never completed

A *line*, in the journal as in the shelf, is ``CRC-32 of the payload in 8 hex digits, its length in bytes,
the payload`` and a newline. The payload is ASCII JSON, never a pickle: opening a hostile file runs no code.

* A journal's first line is ``{"tinyauthstore": "journal", "version": 2, "generation": 7}``, every other one
  is a transaction: a list of ``[plural, key, fields]``, where ``null`` fields mark a removed record.
* A shelf (a ``shelve.Shelf`` whose values are such lines) has the key ``manifest``: ``{"version": 2,
  "generation": 7, "page": 500, "counts": {"users": 1200, ...}}``, and pages ``users/000000``,
  ``users/000001``, ... of up to 500 ``[key, fields]`` each, because ``dbm.dumb`` reads its whole index
  whenever it is opened. A value too long for the backend is continued under ``users/000000+1``, ``+2``, ...
* ``key`` lists the parts of the key (for a session: its token's digest, in hex), ``fields`` are the record's
  other fields by name, dates in ISO 8601, bytes in base64. Fields that the models no longer have are kept.

A checkpoint writes ``shelf-000008.dumb.tmp`` and ``journal-000008`` and syncs both to the disk, renames the
shelf to ``shelf-000008.dumb``, which makes it the current one, and removes generation 7. Opening reads
the newest shelf without ``.tmp``, applies the journal of the same number, and removes the rest.

**To recover by hand**: copy the directory first. Take the newest shelf without ``.tmp``, or none if there is
none; read each page's JSON after the second space; apply the journal's lines in order. A damaged line
in the middle of a journal is refused, not skipped: to keep only what precedes it, cut the file there
(``truncate -s OFFSET``); to keep what follows as well, delete that one line, and let ``check()`` find out
whether later changes depended on it.

The lock is ``flock``, not ``lockf``: a ``lockf`` lock is dropped when anything in the same process, such as a
backup, opens the file and closes it, and a second writer gets in unnoticed. A ``flock`` would stay with a
forked child after its parent's death, so a child closes the descriptor first of all.
"""

from __future__ import annotations

import errno
import importlib
import itertools
import json
import logging
import os
import re
import shelve
import shutil
import stat
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from types import ModuleType
from typing import Any, NamedTuple

from . import forks
from .errors import LockedError, StorageError
from .paths import FINE

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

VERSION = 2
"""The version of the format, written into every journal and shelf. A higher one is refused, a lower one converted at
opening: version 1 recorded no kinds, and had other normal forms of addresses."""

BACKENDS = ("dumb", "gnu", "ndbm", "sqlite3")
"""The submodules of ``dbm``."""

PAGE = 500
"""Rows in one value of a shelf."""

PIECE = {"ndbm": 500}
"""The most bytes that a backend holds in one value, where that is limited: some ndbm libraries corrupt the
file if key and value exceed 1 kB together."""

SMALLEST_LIMIT = 1 << 20
"""Bytes that a journal may grow to before a checkpoint is due, however small the shelf is."""

Row = list[Any]
"""``[key, fields]``."""

Page = tuple[str, list[Row]]
"""A table's name, and some of its rows."""

warn = logging.getLogger("tinyauthstore").warning


def _trouble(path: str, what: str) -> StorageError:
    return StorageError(f"{path} {what}", path=path)


# --- lines ------------------------------------------------------------------------------------

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_HEAD = re.compile(rb"([0-9a-f]{8}) ([0-9]{1,15}) ")
_HEADS = re.compile(rb"(?=([0-9a-f]{8} ([0-9]{1,15}) ))")  # those that overlap, too

MANY_HEADS = 8
"""So many beginnings are tried in what may be one damaged line and a whole one after it."""


def line(value: Any) -> bytes:
    """``value`` as JSON, with checksum and length."""
    payload = _encode(value).encode("ascii")
    return b"%08x %d %b\n" % (zlib.crc32(payload), len(payload), payload)


def _decode(text: bytes) -> Any:
    """The value of a payload. ValueError, but not json's own, which keeps the whole text, tokens included."""
    try:
        return json.loads(text)
    except ValueError as error:
        reason = str(error) if isinstance(error, json.JSONDecodeError) else type(error).__name__
    raise ValueError(reason)


def payload(data: bytes, start: int = 0) -> tuple[bytes, int] | None:
    """The payload of the line at ``start``, and where the next one begins; None if no whole line is there."""
    if (head := _HEAD.match(data, start)) is None:
        return None
    end = head.end() + int(head[2])
    if data[end : end + 1] != b"\n":
        return None
    found = data[head.end() : end]
    return (found, end + 1) if zlib.crc32(found) == int(head[1], 16) else None


# --- directories ------------------------------------------------------------------------------


NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)

CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)
"""How file systems that cannot sync a directory answer: FUSE, SMB, some container layers."""


def sync_directory(path: str) -> None:
    """Make the names in a directory survive a power cut, where the file system can do that.

    Windows has no such call, and needs none.
    """
    if sys.platform != "win32":
        try:
            _sync(path, os.O_RDONLY)
        except OSError as error:
            if error.errno not in CANNOT_SYNC:
                raise


def sync_files(path: str) -> None:
    """Make a directory's files and their names survive a power cut."""
    for name in os.listdir(path):
        _sync(os.path.join(path, name), os.O_RDWR | NOFOLLOW)
    sync_directory(path)


def _sync(path: str, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: str) -> None:
    """Remove a file or a directory. What cannot be removed is logged, and left for the next time."""
    try:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        warn("%s is no longer needed, and could not be removed: %s", path, error)


LOST = (
    "was deleted, moved or replaced while the store had it open, or its lock or journal was: nothing was"
    " changed. Put it back, or a backup in its place, and open the store again"
)


def require_ours(path: str, kind: Callable[[int], bool] | None = None) -> None:
    """StorageError if a file or directory is a link, or if somebody else owns it or may write to it.

    Such a person could have us write where a link points, or read what we write. Root may do that anyway.
    ``kind``: a function of ``stat``, such as ``stat.S_ISREG``, that must accept the mode. Nothing is raised
    if nothing is there.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if stat.S_ISLNK(found.st_mode):
        raise _trouble(path, "is a link, which a shelf never has; remove it, or restore a backup")
    if kind is not None and not kind(found.st_mode):
        raise _trouble(path, "is not what a shelf has under that name; remove it, or restore a backup")
    if sys.platform == "win32":
        return
    if found.st_uid not in (os.geteuid(), 0):
        raise _trouble(
            path,
            f"belongs to another user (id {found.st_uid}), who could read or change what is written there;"
            " open the shelf as that user, give it to this one (chown -R), or choose another path",
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _trouble(
            path,
            f"may be written by other users (its mode is {stat.S_IMODE(found.st_mode):04o}); take that right"
            " away (chmod -R go-w)",
        )


# --- the lock ---------------------------------------------------------------------------------

class Lock:
    """A store's lock, held from construction until ``release``, or until the process ends in any way."""

    def __init__(self, path: str) -> None:
        """LockedError, naming the process that has the lock, if it is taken. Readers need it, too."""
        with forks.still:  # no fork() in between: a child must know every descriptor that it inherits
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | NOFOLLOW, 0o600)
            try:
                self._take(descriptor)
            except OSError as error:
                holder = os.read(descriptor, 20).decode("ascii", "replace").strip()
                os.close(descriptor)
                if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                    raise
                folder, who = os.path.dirname(path), f"process {holder}" if holder else "another process"
                if holder == str(os.getpid()):
                    who = "this very process"
                raise LockedError(
                    f"{folder} is open in {who}; a shelf belongs to one process at a time, and cannot be read"
                    " beside it either. Close it there, or use SQLiteAdapter, which processes may share",
                    path=folder,
                ) from error
            self._descriptor = descriptor
            found = os.fstat(descriptor)
            self._path, self._file = path, (found.st_dev, found.st_ino)
            forks.register(self)
        self._sign(b"%d\n" % os.getpid())

    def lost(self) -> bool:
        """Whether the path means another file by now, or none: then somebody else can get in."""
        try:
            found = os.stat(self._path)
        except OSError:
            return True
        return (found.st_dev, found.st_ino) != self._file

    def _sign(self, text: bytes) -> None:
        with suppress(OSError):  # on a full disk the process is not named, but has the lock all the same
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, text)

    @staticmethod
    def _take(descriptor: int) -> None:
        if sys.platform == "win32":
            os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # a locked byte cannot be read, but the id must be
            try:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            finally:
                os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self) -> None:
        """Release the lock. The file stays: otherwise two processes could lock two files of that name."""
        with forks.still:
            if self._descriptor >= 0:
                self._sign(b"")
                self._drop()

    def _drop(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1

    def pause(self) -> bool:
        return True

    def resume(self) -> None: ...

    def before_fork(self) -> None: ...

    def after_fork_in_child(self) -> None:
        """Close the descriptor: a ``flock`` would stay with the child after its parent's death."""
        if self._descriptor >= 0:
            self._drop()


# --- the journal ------------------------------------------------------------------------------


class Contents(NamedTuple):
    """A journal's contents.

    ``changes`` are the last fields (None: removed) by table and key, ``size`` the bytes of its whole lines,
    ``torn`` the unfinished line after them, ``version`` what its header says (``VERSION`` if it has none).
    """

    changes: dict[str, dict[tuple[str, ...], dict[str, Any] | None]]
    size: int
    torn: bytes
    version: int = VERSION


def read_journal(path: str, generation: int) -> Contents:
    """The journal's contents; none if it does not exist. StorageError if it is damaged.

    An unfinished line at its end is no damage: it is a write that a killed process never acknowledged.
    """
    try:
        with open(os.open(path, os.O_RDONLY | NOFOLLOW | getattr(os, "O_BINARY", 0)), "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return Contents({}, 0, b"")
    except OSError as error:
        raise _trouble(path, f"cannot be read: {error}") from error
    payloads, end = [], 0
    while (found := payload(data, end)) is not None:
        text, end = found
        payloads.append(text)
    headers = {version: _header(generation, version) for version in range(1, VERSION + 1)}
    after = _lines_after(data, end)
    if after or not (payloads or any(header.startswith(data) for header in headers.values())):
        before = max(len(payloads) - 1, 0)
        raise _trouble(
            path,
            f"is damaged at byte {end}: {before} transactions before that and {after} lines after it are"
            " whole. Restore a backup; or copy the directory, and keep those before it with"
            f" `truncate -s {end}`, or those after it too by deleting the damaged line (see"
            " tinyauthstore/journal.py)",
        )
    changes: dict[str, dict[tuple[str, ...], dict[str, Any] | None]] = {}
    version = VERSION
    try:
        for number, text in enumerate(payloads):
            transaction = _decode(text)
            if number == 0:
                _refuse_newer(path, transaction)
                version = next((known for known, header in headers.items() if data.startswith(header)), 0)
                if not version:
                    raise ValueError(f"it is not that of generation {generation}")
                continue
            for plural, key, fields in transaction:
                changes.setdefault(plural, {})[tuple(key)] = fields
    except (TypeError, ValueError, RecursionError) as error:
        raise _trouble(path, f"cannot be read as a journal of ours ({error}); restore a backup") from error
    return Contents(changes, end, data[end:], version)


def _header(generation: int, version: int = VERSION) -> bytes:
    return line({"tinyauthstore": "journal", "version": version, "generation": generation})


def _refuse_newer(path: str, header: Any) -> None:
    version = header.get("version") if isinstance(header, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise _trouble(
            path,
            f"was written by a newer tinyauthstore (format {version}, this one knows {VERSION}); upgrade the"
            " package",
        )


def _lines_after(data: bytes, start: int) -> int:
    """The number of whole lines after ``start``, even where the newline before one is damaged.

    In linear time, whatever the data is. No payload has a newline in it, so a line ends at the next one.
    """
    count = 0
    while (end := data.find(b"\n", start)) >= 0:
        tried = 0
        for head in _HEADS.finditer(data, start, end):
            if head.end(1) + int(head[2]) == end:
                tried += 1
                if payload(data, head.start()) is not None:
                    count += 1
                    break
                if tried == MANY_HEADS:
                    break
        start = end + 1
    return count


class Journal:
    """A journal that is open for appending. ``size`` is where its last whole line ends."""

    def __init__(self, path: str, size: int, *, sync: bool) -> None:
        """Continue the journal at ``path`` from ``size``, in bytes; whatever follows is cut off.

        ``sync``: each line is synced to the disk, so that it survives a power cut, and not only the process.
        """
        self.path = path
        self.size = size
        self.refusal = ""  # why nothing may be appended any more
        self._sync = sync
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | NOFOLLOW | getattr(os, "O_BINARY", 0)
        self._file = os.open(path, flags, 0o600)
        try:
            os.ftruncate(self._file, size)
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, path: str, generation: int, *, sync: bool) -> Journal:
        """A new journal that has only its header, synced to the disk."""
        journal = cls(path, 0, sync=sync)
        try:
            journal._write(header := _header(generation))
            os.fsync(journal._file)
        except BaseException:
            journal.close()
            raise
        journal.size = len(header)
        return journal

    @property
    def deleted(self) -> bool:
        """Whether the file has no name any more."""
        return os.fstat(self._file).st_nlink == 0

    def append(self, transaction: Any) -> None:
        """Add a line. StorageError if the disk is full or fails; then the line is removed again."""
        if self.refusal:
            raise _trouble(self.path, self.refusal)
        data = line(transaction)
        try:
            self._write(data)
            if self._sync:
                self._fsync()
            self.size += len(data)
        except BaseException as error:
            self.retract(self.size)
            if isinstance(error, OSError):
                raise _trouble(
                    self.path, self.refusal or f"could not grow, and nothing was changed: {error}"
                ) from error
            raise

    def retract(self, size: int) -> None:
        """Remove what was appended after ``size``; if that fails, nothing more can be appended."""
        try:
            os.ftruncate(self._file, size)
            self.size = size
        except OSError as error:
            self.refuse(f"could not be cut back after a write that failed ({error})")

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def refuse(self, reason: str) -> None:
        """Append nothing from now on, because it is no longer known what the disk holds."""
        if not self.refusal:
            self.refusal = f"{reason}: nothing more can be written until the store is opened again"

    def _write(self, data: bytes) -> None:
        written = os.write(self._file, data)
        while written < len(data):  # a nearly full disk may take only a part
            written += os.write(self._file, data[written:])

    def _fsync(self) -> None:
        try:
            os.fsync(self._file)
        except OSError as error:  # the system may have dropped the data, and report that only once
            self.refuse(
                f"could not be synced to the disk ({error}), so it is unknown whether the last change"
                " survives"
            )
            raise


# --- the shelf --------------------------------------------------------------------------------


class Shelf(shelve.Shelf[Any]):
    """A ``shelve.Shelf`` whose values are lines of JSON; ValueError for any other value."""

    def __init__(self, folder: str, backend: str, flag: str) -> None:
        module = backend_module(backend, folder)
        self.dict = module.open(os.path.join(folder, "shelf"), flag, 0o600)
        super().__init__(self.dict)
        self._piece = PIECE.get(backend, sys.maxsize)

    def __setitem__(self, key: str, value: Any) -> None:
        data = line(value)
        for i, start in enumerate(range(0, len(data), self._piece)):
            self.dict[self._name(key, i)] = data[start : start + self._piece]

    def __getitem__(self, key: str) -> Any:
        data = piece = self.dict[self._name(key, 0)]
        for i in itertools.count(1):
            if len(piece) < self._piece:
                break
            piece = self.dict.get(self._name(key, i), b"")
            data += piece
        if (found := payload(data)) is None or found[1] != len(data):
            raise ValueError(f"{key} is damaged")
        return _decode(found[0])

    def sync(self) -> None:
        """Nothing: ``close`` syncs; if this failed first, ``dbm.dumb`` would write again when collected."""

    @staticmethod
    def _name(key: str, piece: int) -> bytes:
        return (f"{key}+{piece}" if piece else key).encode()


def backend_module(name: str, path: str) -> ModuleType:
    """``dbm.<name>``. StorageError if this Python lacks it."""
    try:
        return importlib.import_module(f"dbm.{name}")
    except ImportError as error:
        raise _trouble(
            path,
            f"needs dbm.{name}, which this Python lacks ({error}): install it (Debian has python3-gdbm for"
            ' gnu and ndbm), or open the store once with dbm="dumb" under a Python that has both, which'
            " rewrites it",
        ) from error


def write_shelf(folder: str, backend: str, generation: int, tables: Mapping[str, Iterable[Row]]) -> None:
    """Write a shelf into a new directory, the manifest last."""
    os.mkdir(folder, 0o700)
    counts = {}
    with closing(Shelf(folder, backend, "n")) as shelf:
        for plural, rows in tables.items():
            counts[plural], remaining = 0, iter(rows)
            while page := list(itertools.islice(remaining, PAGE)):
                shelf[_page(plural, counts[plural], PAGE)] = page
                counts[plural] += len(page)
        shelf["manifest"] = {"version": VERSION, "generation": generation, "page": PAGE, "counts": counts}


def read_shelf(folder: str, backend: str, generation: int) -> Iterator[Page]:
    """Every page of the shelf. StorageError if anything is missing or damaged."""
    try:
        with closing(Shelf(folder, backend, "r")) as shelf:
            manifest = shelf["manifest"]
            _refuse_newer(folder, manifest)
            if manifest["version"] not in range(1, VERSION + 1) or manifest["generation"] != generation:
                raise ValueError("its manifest is another shelf's")
            for plural, count in manifest["counts"].items():
                for start in range(0, count, manifest["page"]):
                    page = shelf[_page(plural, start, manifest["page"])]
                    if len(page) != min(manifest["page"], count - start):
                        raise ValueError(f"rows are missing from its {plural}")
                    yield plural, page
    except StorageError:
        raise
    except Exception as error:  # dbm's backends raise anything for a file that they did not write
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
        raise _trouble(
            folder,
            f"cannot be read as a shelf of ours ({reason}): it is damaged, or the disk is; restore a backup"
            " of the whole store",
        ) from error


def _page(plural: str, start: int, size: int) -> str:
    return f"{plural}/{start // size:06d}"


def write_store(path: str, backend: str, tables: Mapping[str, Iterable[Row]]) -> None:
    """Write a whole store of generation 1 into a directory that is empty, and sync it to the disk."""
    shelf = os.path.join(path, f"shelf-{1:06d}.{backend}")
    try:
        write_shelf(shelf, backend, 1, tables)
        sync_files(shelf)
        Journal.create(os.path.join(path, f"journal-{1:06d}"), 1, sync=True).close()
        sync_directory(path)
    except Exception as error:
        if isinstance(error, (StorageError, OSError)):
            raise
        raise _trouble(shelf, f"could not be written: {error}") from error  # dbm's backends raise anything


def is_store(path: str) -> bool:
    """Whether a directory has a shelf or a journal of ours."""
    try:
        return any(_SHELF.fullmatch(name) or _JOURNAL.fullmatch(name) for name in os.listdir(path))
    except OSError:
        return False


# --- a store's directory ----------------------------------------------------------------------

_SHELF = re.compile(rf"shelf-([0-9]{{6,}})\.({'|'.join(BACKENDS)})")
_JOURNAL = re.compile(r"journal-([0-9]{6,})")
_OURS = re.compile(rf"lock|{_SHELF.pattern}(\.tmp)?|{_JOURNAL.pattern}(\.torn)?")


class Files:
    """A store's directory, locked from construction until ``close``.

    The store must ``append`` each transaction, and call ``checkpoint`` when one is ``due``.
    """

    def __init__(
        self, path: str, *, backend: str | None, sync: bool, take: Callable[[Iterator[Page], int], object]
    ) -> None:
        """Lock the directory, creating it unless it exists, and pass all its pages to ``take``.

        ``take`` is also given the version that wrote them. A store of an older one must ``checkpoint`` before it
        is written to.

        ``backend``: the one that new shelves are written with; None keeps the present shelf's, at first
        ``dumb``. ``sync``: see ``Journal``. StorageError if the directory is not ours or is damaged; then,
        and if ``take`` raises, no shelf or journal is changed.
        """
        if backend is not None:
            backend_module(backend, path)
        self.path = path
        self.backend = backend or "dumb"  # the present shelf's
        self.generation = 0
        self._wanted_backend = backend
        self._sync = sync
        self._limit = SMALLEST_LIMIT
        self._seen: tuple[int, int, int] | None = None  # the directory, when nothing was missing in it
        try:
            self._reach()
            self._require_ours()
            self._lock = Lock(os.path.join(path, "lock"))
        except (OSError, ValueError) as error:
            raise self._unreachable(error) from error
        try:
            self._find_generation()
            found = read_journal(self._journal(self.generation), self.generation)
            take(self._pages(found), found.version)
            self.journal = self._continued(found)
            self._sweep()
        except BaseException as error:
            self._lock.release()
            if isinstance(error, OSError):
                raise self._unreachable(error) from error
            raise

    # -- opening

    def _reach(self) -> None:
        try:
            os.mkdir(self.path, 0o700)
            sync_directory(os.path.dirname(self.path))
        except FileExistsError:
            names = os.listdir(self.path)
            if any(_SHELF.fullmatch(name) or _JOURNAL.fullmatch(name) for name in names):
                return
            if foreign := [name for name in sorted(names) if not self._is_our_lock(name)]:
                raise _trouble(
                    self.path,
                    f"is a directory of something else (it has {foreign[0]}, and no shelf of ours); choose"
                    " another path, which may be new",
                ) from None
            with suppress(PermissionError):  # another user's, who is refused below
                os.chmod(self.path, 0o700)

    def _is_our_lock(self, name: str) -> bool:
        """Whether it is our lock file: the only file, if a process was killed while creating the store."""
        if name != "lock":
            return False
        path = os.path.join(self.path, name)
        require_ours(path, stat.S_ISREG)
        with open(os.open(path, os.O_RDONLY | NOFOLLOW), "rb") as file:
            return re.fullmatch(rb"([0-9]+\n)?", file.read(32)) is not None

    def _require_ours(self) -> None:
        """StorageError if the directory, or anything of ours in it, is somebody else's to change."""
        require_ours(self.path)
        for name in os.listdir(self.path):
            if not _OURS.fullmatch(name):
                continue
            path = os.path.join(self.path, name)
            if not name.startswith("shelf-"):
                require_ours(path, stat.S_ISREG)
                continue
            require_ours(path, stat.S_ISDIR)
            for part in os.listdir(path):
                require_ours(os.path.join(path, part), stat.S_ISREG)

    def _unreachable(self, error: Exception) -> StorageError:
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, NotADirectoryError):
            reason = "it is a file; a shelf is a directory, which may be new"
        elif not os.path.isdir(os.path.dirname(self.path)):
            reason = f"the directory {os.path.dirname(self.path)} does not exist; create it first"
        return _trouble(self.path, f"cannot be opened: {reason}")

    def _find_generation(self) -> None:
        """Find the current generation. StorageError if its shelf is missing."""
        names = os.listdir(self.path)
        shelves = [(int(match[1]), match[2]) for match in map(_SHELF.fullmatch, names) if match]
        if shelves:
            self.generation, self.backend = max(shelves)
            self._limit = max(SMALLEST_LIMIT, _size(self._shelf(self.generation, self.backend)))
        journals = {int(match[1]) for match in map(_JOURNAL.fullmatch, names) if match}
        newest = max(journals, default=0)
        if newest > self.generation:  # a checkpoint was interrupted before its rename, or its shelf is gone
            begun = newest == self.generation + 1 and self.generation in journals
            if not begun or os.path.getsize(self._journal(newest)) > len(_header(newest)):
                raise _trouble(
                    self._journal(newest),
                    "continues a shelf that is not there; restore it, or a backup of both",
                )

    def _pages(self, found: Contents) -> Iterator[Page]:
        if self.generation:
            shelf = self._shelf(self.generation, self.backend)
            for plural, page in read_shelf(shelf, self.backend, self.generation):
                if changed := found.changes.get(plural):
                    page = [row for row in page if tuple(row[0]) not in changed]
                if page:
                    yield plural, page
        for plural, changed in found.changes.items():
            if page := [[list(key), fields] for key, fields in changed.items() if fields is not None]:
                yield plural, page

    def _continued(self, found: Contents) -> Journal:
        """The journal, open for appending after its last whole line."""
        path = self._journal(self.generation)
        if found.torn:
            self._keep_torn(path, found)
        if found.size:
            return Journal(path, found.size, sync=self._sync)
        if self.generation and not os.path.exists(path):
            warn("%s is missing: what happened since its shelf was written is lost", path)
        journal = Journal.create(path, self.generation, sync=self._sync)
        sync_directory(self.path)
        return journal

    def _keep_torn(self, path: str, found: Contents) -> None:
        for name in os.listdir(self.path):
            if name.endswith(".torn"):
                remove(os.path.join(self.path, name))
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | NOFOLLOW
        with open(os.open(f"{path}.torn", flags, 0o600), "wb") as file:
            file.write(found.torn)
        warn(
            "%s ended, from byte %d on, in %d bytes that are no whole line: what a killed process leaves of a"
            " write that it did not acknowledge. They were cut off, and are kept in %s.torn",
            path, found.size, len(found.torn), path,
        )  # fmt: skip

    # -- checkpoints

    @property
    def due(self) -> bool:
        """Whether the journal has outgrown the shelf.

        Then a checkpoint costs no more than all that was written since the last one.
        """
        return self.journal.size > self._limit

    @property
    def clean(self) -> bool:
        """Whether a checkpoint would change nothing."""
        as_wanted = self._wanted_backend in (None, self.backend)
        return self.journal.size == len(_header(self.generation)) and as_wanted and not self.journal.refusal

    def checkpoint(self, tables: Mapping[str, Iterable[Row]]) -> None:
        """Write the whole state to a new shelf. StorageError if that fails; then the journal is continued.

        But if it fails after the rename, whose survival is then unknown, nothing more can be written.
        """
        if self.lost:  # the new shelf would come into somebody else's directory
            raise _trouble(self.path, LOST)
        number, backend = self.generation + 1, self._wanted_backend or self.backend
        shelf = self._shelf(number, backend)
        draft = f"{shelf}.tmp"
        try:
            remove(draft)
            write_shelf(draft, backend, number, tables)
            sync_files(draft)
            limit = max(SMALLEST_LIMIT, _size(draft))
            journal = Journal.create(self._journal(number), number, sync=self._sync)
            try:
                publish(draft, shelf)
                sync_directory(self.path)
            except BaseException:
                journal.close()
                raise
            self._take_up(number, backend, journal, limit)
        except BaseException as error:
            if self.generation != number:
                self._abandon_checkpoint(shelf, draft, number, error)
            if isinstance(error, Exception):
                raise _trouble(shelf, f"could not be written: {error}") from error
            raise
        self._sweep()

    def _take_up(self, number: int, backend: str, journal: Journal, limit: int) -> None:
        old, self.journal = self.journal, journal
        self.generation, self.backend, self._limit = number, backend, limit
        old.close()

    def _abandon_checkpoint(self, shelf: str, draft: str, number: int, error: BaseException) -> None:
        if os.path.lexists(shelf):
            self.journal.refuse(f"is superseded by {shelf}, which is perhaps not on the disk yet ({error})")
        else:
            remove(draft)
            remove(self._journal(number))
            self._limit += self.journal.size  # try again later, not after every write

    def _sweep(self) -> None:
        """Remove what belongs to other generations."""
        keep = [self._shelf(self.generation, self.backend), self.journal.path]
        try:
            names = os.listdir(self.path)
        except OSError as error:
            warn("%s could not be swept: %s", self.path, error)
            return
        for name in names:
            path = os.path.join(self.path, name)
            if path not in keep and _OURS.fullmatch(name) and name != "lock" and not name.endswith(".torn"):
                remove(path)

    # -- reading, writing, closing

    @property
    def lost(self) -> bool:
        """Whether the directory, or its lock, is no longer the one that was opened."""
        return self._lock.lost()

    def append(self, changes: list[list[Any]]) -> None:
        """Add a transaction to the journal: ``[plural, key, fields]`` for each record, None if removed."""
        try:
            found = os.stat(self.path)
        except OSError as error:
            raise _trouble(self.path, LOST) from error
        seen = (found.st_dev, found.st_ino, found.st_mtime_ns)
        if seen != self._seen:
            if self.lost or self.journal.deleted:
                raise _trouble(self.path, LOST)
            if found.st_mtime_ns < time.time_ns() - FINE:
                self._seen = seen
        self.journal.append(changes)

    def pages(self) -> Iterator[Page]:
        """Every row, read from the disk again. StorageError if somebody else has changed the journal."""
        if self.journal.refusal:
            raise _trouble(self.journal.path, self.journal.refusal)
        if self.lost:
            raise _trouble(self.path, LOST)
        found = read_journal(self.journal.path, self.generation)
        if found.size != self.journal.size or found.torn:
            raise _trouble(self.journal.path, "was changed, or removed, by somebody else")
        return self._pages(found)

    def close(self) -> None:
        """Close the journal and release the lock."""
        self.journal.close()
        self._lock.release()

    def _shelf(self, generation: int, backend: str) -> str:
        return os.path.join(self.path, f"shelf-{generation:06d}.{backend}")

    def _journal(self, generation: int) -> str:
        return os.path.join(self.path, f"journal-{generation:06d}")


def publish(draft: str, shelf: str) -> None:
    """Rename a complete draft, which makes it the current shelf."""
    os.rename(draft, shelf)


def _size(folder: str) -> int:
    return sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder))
