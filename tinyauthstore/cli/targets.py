"""Which store a command is about, and how it is opened: without making anything, unless that is the command."""

from __future__ import annotations

import os
from typing import Any

from .. import layouts, recorded
from ..adapters import SQLiteAdapter, connect, path_in
from ..contract import Adapter
from ..errors import StorageError
from ..memory import ShelveAdapter
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


class Wrong(ValueError):
    """A command was used wrongly; the message says what to do."""


def target_of(given: str | None) -> str:
    """The target that was given, or the environment's. Wrong if there is none."""
    target = given or os.environ.get(URL)
    if not target:
        raise Wrong(f"which store? Say -s TARGET, such as -s auth.db, or set {URL}")
    return target


def place(target: str) -> tuple[str, str]:
    """The kind, ``"sqlite"``, ``"shelve"`` or ``""`` for one that is new or in memory, and the path, ``""`` for none."""
    path = path_in(target)
    if target.startswith(("memory:", "sqlite:///:memory:")):
        return "", ""
    if path:
        return target.partition(":")[0], path
    if ":" in os.path.basename(target) or "://" in target:
        connect(target)  # for its error, which lists the good forms and shows no password
    return ("shelve" if os.path.isdir(target) else "sqlite" if os.path.exists(target) else ""), target


def opened(target: str, *, synchronize: bool = False) -> Adapter:
    """The store, as its file says: its layout, and models with the custom fields that it has.

    StorageError if there is none; unless ``synchronize``, nothing is made or changed.
    """
    kind, path = place(target)
    secret = os.environ.get(SECRET) or None
    if not path:
        return connect(target, secret=secret)
    if not os.path.exists(path) or (kind == "shelve" and not os.listdir(path)):
        raise StorageError(f"{path}: there is no store; `tinyauthstore init -s {target}` makes one", path=path)
    store = _open(kind, path, secret, synchronize, {})
    models: dict[str, Any] = recorded.models(store._recorded())
    if models:
        store.close()
        store = _open(kind, path, secret, synchronize, models)
    return store  # type: ignore[no-any-return]


def _open(kind: str, path: str, secret: str | None, synchronize: bool, models: dict[str, Any]) -> Any:
    if kind == "shelve":
        return ShelveAdapter(path, secret=secret, **models)
    schema = schema_of(path)
    return SQLiteAdapter(path, secret=secret, schema=schema, synchronize=synchronize, **models)


def schema_of(path: str) -> Schema:
    """The layout of a SQLite file; that of our own for an empty one."""
    return OURS if os.path.getsize(path) == 0 else layouts.detect(path)


def made(target: str, **models: Any) -> Adapter:
    """A new store. StorageError if there is one already."""
    kind, path = place(target)
    if not path:
        raise Wrong("a store in memory ends with the command; name a file")
    if os.path.exists(path) and not (kind == "shelve" and not os.listdir(path)):
        raise Wrong(f"{path} exists already; `tinyauthstore migrate -s {target}` brings an older store up to date")
    secret = os.environ.get(SECRET) or None
    if kind == "shelve":
        return ShelveAdapter(path, secret=secret, **models)
    return SQLiteAdapter(path, secret=secret, **models)
