"""Which file a path means, and whether it is still the same one."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from .clock import monotonic
from .errors import StorageError, warn
from .schema import APPLICATION_ID

Identity = tuple[int, int]
"""A file's device and inode."""


def resolved(path: str) -> str:
    """The absolute path of the file that is meant: links are followed, and it need not exist.

    It is asked for once, when a store is opened. From then on, neither a change of the working directory nor
    of a link makes the store use another file. StorageError if the working directory is gone, or if the
    system forbids following the link (Linux does, for a stranger's link in a directory like /tmp).
    """
    place = absolute(path)
    try:
        os.stat(place)  # realpath() reads links itself, and the system's rules would not apply
    except PermissionError as error:
        if os.path.islink(place):
            raise StorageError(
                f"{place} cannot be opened: it is a link that may not be followed ({error.strerror})",
                path=place,
            ) from error
    except (OSError, ValueError):
        pass  # opening it will say what is wrong
    with suppress(OSError, ValueError):
        return os.path.realpath(place)
    return place


def absolute(path: str) -> str:
    """The absolute path; links are left alone. StorageError if it needs a working directory that is gone."""
    try:
        return os.path.abspath(path)
    except OSError as error:
        raise StorageError(
            f"{path} is relative to the working directory, which cannot be used ({error.strerror}); give an"
            " absolute path, or call os.chdir() first",
            path=path,
        ) from error


def identity(path: str) -> Identity | None:
    """The identity of the file that the path names now. None if there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def refuse_a_strangers_file(path: str, found: os.stat_result) -> None:
    """StorageError if another user owns a SQLite file which everybody may write; ours is only told of.

    Such a user could have put it there to read, and make up, everybody's sessions. A file that a group may
    write is fine: programs of several users share it. Root may do everything anyway.
    """
    if sys.platform == "win32" or not found.st_mode & stat.S_IWOTH:
        return
    what = f"may be written by every user of this machine (its mode is {stat.S_IMODE(found.st_mode):04o})"
    if found.st_uid not in (os.geteuid(), 0):
        raise StorageError(
            f"{path} belongs to another user (id {found.st_uid}), and {what}: anybody may have put it there. If"
            " it is yours to use, take that right away (chmod o-w), and share the file by a group",
            path=path,
        )
    warn("%s %s; take that right away (chmod o-w)", path, what)


FINE = 100_000_000
"""Nanoseconds after which a second change surely gives a file or directory another time of modification."""

CONTENT_EVERY = 0.01
"""Seconds."""

MAGIC = b"SQLite format 3\0"

APPLICATION_IDS = (b"\0\0\0\0", APPLICATION_ID.to_bytes(4, "big"))

MANY_DESCRIPTORS = 1000
"""If a process has more file descriptors open, they are not searched: each takes about 3 microseconds."""


# --- a SQLite file that is open ---------------------------------------------------------------

DELETED = (
    "was deleted or moved while the store had it open, and what is written now would go with it: nothing was"
    " changed. Put it back, or a backup in its place, and open the store again"
)
REPLACED = (
    "was replaced by another file while the store had it open: nothing was changed. Open the store again, in"
    " every process; restore_backup() restores a backup without that"
)
COPIED_OVER = (
    "was overwritten by something else while the store had it open: nothing was changed. End every process"
    " that has it open, remove its -wal and -shm, copy the backup once more, and open the store again;"
    " restore_backup() restores a backup without that"
)
WITHOUT_WAL = (
    "has lost its -wal file while the store had it open: nothing was changed. End every process that has it"
    " open, and open it again. Something deleted the -wal; or this process opened and closed the file itself,"
    " which drops SQLite's locks"
)
STALE_WAL = (
    "cannot be opened: the -wal file beside it belongs to another file, in whose place this one was put (a"
    " backup that was copied over it?), and would damage it. End every process that has the old file open,"
    " and move -wal and -shm away; they may hold the old file's last commits. Then open it again"
)


class Opened:
    """A SQLite file that is open: whether its path still names it, and its content is still its own."""

    def __init__(self, path: str, open_files: OpenFiles, *, ours: bool = True) -> None:
        """To be made when a connection has read the file: it then has the file and its -wal open.

        Unless it is ``ours``, its content is not looked at: others may change even its journal mode.
        """
        self.path = path
        self.wal = f"{path}-wal"
        self.identity = identity(path)
        self._identity_of_wal = identity(self.wal)
        self._folder = os.path.dirname(path)
        self._seen: tuple[int, int, int] | None = None  # the directory, when nothing was missing in it
        self._look_at = 0.0  # the monotonic() from which on the content is looked at again
        self._descriptor = -1
        for descriptor in open_files.get(self.identity, ()) if ours else ():
            with suppress(OSError):
                if _in_wal_mode(os.pread(descriptor, 72, 0)):  # or it cannot be told from a copy
                    self._descriptor = descriptor

    def let_go(self) -> None:
        """From now on no connection is open, so that the -wal may go."""
        self._identity_of_wal, self._descriptor, self._seen = None, -1, None

    def moved(self) -> str:
        """What became of the path, in words; "" if it still names the file."""
        try:
            found = os.stat(self.path)
            if (found.st_dev, found.st_ino) == self.identity:
                return ""
        except OSError:
            return DELETED
        return REPLACED

    def trouble(self, *, thorough: bool = False) -> str:
        """What happened to the path, the content or the -wal, in words; "" if nothing that can be told.

        To be called while the connection is in nobody else's use. The content is recognized as foreign if it
        is no database in WAL mode (which ``backup`` and ``VACUUM INTO`` do not write), or another
        application's; a copy of a file in WAL mode is not, nor is anything where there is no /proc. Unless
        ``thorough``, it is looked at once in ``CONTENT_EVERY``, and the names of the files only if something
        in their directory has changed.
        """
        now = monotonic()
        try:
            folder = os.stat(self._folder)
        except OSError:
            return DELETED
        seen = (folder.st_dev, folder.st_ino, folder.st_mtime_ns)
        if seen != self._seen:
            if moved := self.moved():
                return moved
            if self._identity_of_wal not in (None, identity(self.wal)):
                return WITHOUT_WAL
            if folder.st_mtime_ns < time.time_ns() - FINE:
                self._seen = seen
        if self._descriptor >= 0 and (thorough or now >= self._look_at):
            try:
                if not _in_wal_mode(os.pread(self._descriptor, 72, 0)):
                    found = os.fstat(self._descriptor)
                    if (found.st_dev, found.st_ino) == self.identity:
                        return COPIED_OVER
                    self._descriptor = -1  # the application closed it, and opened something else
            except OSError:  # the application closed it
                self._descriptor = -1
            self._look_at = now + CONTENT_EVERY
        return ""

    def may_close(self) -> bool:
        """Whether a connection may be closed: SQLite then copies the -wal into the file that it has open, and
        deletes whatever has the -wal's name by then, which may be somebody else's."""
        trouble = self.trouble()
        return not trouble or (
            trouble in (DELETED, WITHOUT_WAL) and identity(self.wal) in (None, self._identity_of_wal)
        )


def stale_wal(path: str, *, ours: bool = True) -> bool:
    """Whether it is certain that the -wal beside a file belongs to another one.

    A file's header says that it is in WAL mode before a -wal is made. The file must be open in this process:
    its header is read through a descriptor that exists, because closing one of our own would drop SQLite's
    locks. False where there is no /proc.
    """
    try:
        if os.stat(f"{path}-wal").st_size == 0:
            return False
    except OSError:
        return False
    for descriptor in open_files().get(identity(path), ()):
        with suppress(OSError):
            header = os.pread(descriptor, 72, 0)
            return header != b"" and not _in_wal_mode(header, ours=ours)
    return False


def _in_wal_mode(header: bytes, *, ours: bool = True) -> bool:
    """Source: SQLite, "Database File Format", 1.3. An application's id may still be in the -wal only."""
    known = header[68:72] in APPLICATION_IDS or not ours
    return header[18:20] == b"\2\2" and known and header.startswith(MAGIC)


OpenFiles = Mapping[Identity | None, Sequence[int]]
"""The descriptors that this process has open on a file; None is no file's identity."""


def open_files() -> OpenFiles:
    """The descriptors that this process has open on each file.

    ``{}`` if they cannot be listed, or are more than ``MANY_DESCRIPTORS``. On Linux only: there, what is
    written to a mapped file is at once visible to every read.
    """
    found: dict[Identity | None, list[int]] = {}
    try:
        names = os.listdir("/proc/self/fd") if sys.platform == "linux" else []
    except OSError:
        return found
    for name in names if len(names) <= MANY_DESCRIPTORS else ():
        try:
            status = os.fstat(int(name))
            found.setdefault((status.st_dev, status.st_ino), []).append(int(name))
        except OSError:  # the descriptor that listdir() itself used
            pass
    return found
