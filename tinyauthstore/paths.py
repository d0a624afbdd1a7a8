"""Which file a path means, and whether it is still the same one."""

from __future__ import annotations

import os
from contextlib import suppress

from .errors import StorageError

Identity = tuple[int, int]
"""A file's device and inode."""


def resolved(path: str) -> str:
    """The absolute path of the file that is meant: links are followed, and it need not exist.

    It is asked for once, when a store is opened. From then on, neither a change of the working directory nor
    of a link makes the store use another file. StorageError if the working directory is gone, or if the
    system forbids following the link (Linux does, for a stranger's link in a directory like /tmp).
    """
    try:
        absolute = os.path.abspath(path)
    except OSError as error:
        raise StorageError(
            f"{path} is relative to the working directory, which cannot be used ({error.strerror}); give an"
            " absolute path, or call os.chdir() first",
            path=path,
        ) from error
    try:
        os.stat(absolute)  # realpath() reads links itself, and the system's rules would not apply
    except PermissionError as error:
        if os.path.islink(absolute):
            raise StorageError(
                f"{absolute} cannot be opened: it is a link that may not be followed ({error.strerror})",
                path=absolute,
            ) from error
    except (OSError, ValueError):
        pass  # opening it will say what is wrong
    with suppress(OSError, ValueError):
        return os.path.realpath(absolute)
    return absolute


def identity(path: str) -> Identity | None:
    """The identity of the file that the path names now. None if there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino
