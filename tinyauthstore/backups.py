"""What the backups of ``SQLiteAdapter`` and ``ShelveAdapter`` have in common: they are made aside.

That is, in a directory ``NAME.********.tinyauthstore.tmp``, which its process keeps locked. If that process is
killed, the directory stays; the next one to be made beside it removes it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from .errors import BusyError, LockedError, StorageError
from .journal import NOFOLLOW, sync_directory
from .paths import absolute, identity

if sys.platform != "win32":
    import fcntl

SUFFIX = ".tinyauthstore.tmp"


def trouble(path: str, what: str) -> StorageError:
    return StorageError(f"{path} {what}", path=path)


@contextmanager
def drafted(path: str | os.PathLike[str]) -> Iterator[str]:
    """The name under which a backup is to be written; when the block ends, it becomes ``path``.

    If the block raises, nothing is left. StorageError if something with that name exists, or if the backup
    cannot be written; then the error says so, whatever the block raised about its draft.
    """
    target = _absolute(path)
    if os.path.lexists(target):
        raise _exists(target)
    try:
        with aside(target) as folder:
            draft = os.path.join(folder, os.path.basename(target))
            yield draft
            _publish(draft, target)
        sync_directory(os.path.dirname(target))
    except FileExistsError as error:
        raise _exists(target) from error
    except OSError as error:
        raise trouble(target, f"could not be written: {error.strerror or error}") from error


@contextmanager
def aside(path: str) -> Iterator[str]:
    """A private directory beside ``path`` ("": where temporary files are), removed in the end."""
    name, beside = os.path.basename(path)[:50], os.path.dirname(path) or tempfile.gettempdir()
    try:
        with suppress(OSError):  # it may not even be listed
            _sweep(beside)
        folder, lock = _made(name, beside)
    except OSError as error:
        reason = error.strerror or str(error)
        if not os.path.isdir(beside):
            reason = f"the directory {beside} does not exist; create it first"
        raise trouble(path, f"could not be written: {reason}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _made(name: str, beside: str) -> tuple[str, int | None]:
    """A new directory, and the descriptor that keeps it locked; None where directories cannot be locked."""
    for _ in range(10):
        folder = tempfile.mkdtemp(prefix=f"{name}.", suffix=SUFFIX, dir=beside)
        try:
            lock = _locked(folder)
        except (BlockingIOError, FileNotFoundError):
            continue  # another process took it for a killed one's
        except OSError:
            return folder, None
        found = os.fstat(lock)
        if identity(folder) == (found.st_dev, found.st_ino):
            return folder, lock
        os.close(lock)
    raise OSError(errno.EAGAIN, "whatever is made there is removed at once")


def _sweep(beside: str) -> None:
    """Remove the directories that processes of this user left in ``beside`` when they were killed."""
    for name in os.listdir(beside):
        if not re.fullmatch(rf".*\.[a-z0-9_]{{8}}{re.escape(SUFFIX)}", name, re.DOTALL):
            continue
        folder = os.path.join(beside, name)
        with suppress(OSError):  # it is in use, or not ours, or gone
            lock = _locked(folder)
            try:
                if _is_ours(os.fstat(lock)):
                    shutil.rmtree(folder)
            finally:
                os.close(lock)


def _is_ours(found: os.stat_result) -> bool:
    return sys.platform != "win32" and (found.st_uid, stat.S_IMODE(found.st_mode)) == (os.geteuid(), 0o700)


def _locked(folder: str) -> int:
    """A descriptor that locks a directory as long as it is open. BlockingIOError if another one does.

    OSError if it is no directory, or cannot be locked: on Windows, and on some network file systems.
    """
    if sys.platform == "win32":
        raise OSError("directories cannot be locked")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def source_of(path: str | os.PathLike[str], *, exists: Callable[[str], bool]) -> str:
    """The absolute path of a backup. StorageError if there is none."""
    source = _absolute(path)
    if not exists(source):
        raise trouble(source, "is no backup of this kind of store: there is nothing like that")
    return source


def copied(source: str, draft: str) -> None:
    """Copy a file, or a directory. StorageError if it cannot be read, or its copy cannot be written."""
    try:
        if os.path.isdir(source):
            shutil.copytree(source, draft, symlinks=True, copy_function=_copy_file)
            for folder, _, _ in os.walk(draft):
                os.chmod(folder, 0o700)
        else:
            _copy_file(source, draft)
    except OSError as error:  # shutil.Error is one
        raise trouble(source, f"cannot be read, or not be copied: {error}") from error


def _copy_file(source: str, copy: str, *, follow_symlinks: bool = True) -> None:
    shutil.copyfile(source, copy, follow_symlinks=follow_symlinks)
    if not os.path.islink(copy):
        os.chmod(copy, 0o600)


@contextmanager
def about(path: str, draft: str, what: str) -> Iterator[None]:
    """Errors about a draft, which nobody knows, become errors about ``path``."""
    try:
        yield
    except (BusyError, LockedError):
        raise
    except StorageError as error:
        said = str(error).replace(draft, path)
        raise StorageError(f"{said} ({what})", path=path) from error.__cause__


def _absolute(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    if not isinstance(text, str) or not text or "\0" in text:
        raise ValueError(f"path must name a file or a directory; got {path!r}")
    return absolute(text)


def _exists(target: str) -> StorageError:
    return trouble(target, "exists already; give a backup a name of its own")


def _publish(draft: str, target: str) -> None:
    """Give a complete draft its name. FileExistsError if that is taken."""
    if os.path.isfile(draft):
        with suppress(OSError, AttributeError):  # not every file system has hard links
            os.link(draft, target)
            return
    if os.path.lexists(target):
        raise FileExistsError(target)
    os.rename(draft, target)
