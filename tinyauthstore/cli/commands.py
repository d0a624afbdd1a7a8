"""A function for each command. It gets the parsed arguments, and returns the exit status."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

from .. import exports, layouts, portable
from ..errors import StorageError
from ..models import Session, User
from ..schema import OURS
from .output import Progress, agreed, cut, json_line, plural, shown, table, tell, when
from .targets import Wrong, made, opened, place, target_of

FINE, FOUND = 0, 1
"""Exit statuses: all is well; something was found wrong, or what was asked for was not found."""


@contextmanager
def the_store(given: Namespace, *, synchronize: bool = False) -> Iterator[Any]:
    """The store that the command is about, closed in the end."""
    with closing(opened(target_of(given.store), synchronize=synchronize)) as store:
        yield store


# --- making and changing ----------------------------------------------------------------------


def init(given: Namespace) -> int:
    with closing(made(target_of(given.store))) as store:
        print(f"made {store!r}")
    return FINE


def migrate(given: Namespace) -> int:
    target = target_of(given.store)
    missing: tuple[str, ...] = ()
    try:
        opened(target).close()
    except StorageError as error:
        if not error.missing:
            raise
        missing = error.missing
    if not missing:
        print("nothing to change")
        return FINE
    print(f"{place(target)[1]} lacks:")
    for what in missing:
        print(f"  {cut(what, 76)}")
    if given.dry_run:
        return FOUND
    if not agreed("Add that now? Make a backup first.", given.yes, Wrong):
        print("nothing was changed")
        return FINE
    opened(target, synchronize=True).close()
    print("done")
    return FINE


# --- looking ----------------------------------------------------------------------------------


def stats(given: Namespace) -> int:
    with the_store(given) as store:
        counts = store.count()._asdict()
        path = getattr(store, "path", "")
        size = _size(path)
        if given.json:
            json_line({"store": repr(store), "path": path, "bytes": size, **counts})
            return FINE
        print(f"store                {cut(repr(store), 59)}")
        if size is not None:
            print(f"bytes                {size:,}")
        for name, count in counts.items():
            print(f"{name.replace('_', ' '):20} {count:,}")
    return FINE


def _size(path: str) -> int | None:
    """Bytes of a file with its sidecars, or of a directory; None if there is neither."""
    if os.path.isdir(path):
        return sum(entry.stat().st_size for entry in os.scandir(path) if entry.is_file())
    sizes = [os.path.getsize(path + suffix) for suffix in ("", "-wal") if os.path.exists(path + suffix)]
    return sum(sizes) if sizes else None


def users(given: Namespace) -> int:
    with the_store(given) as store:
        found = store.list_users(limit=given.limit, after=given.after, email_prefix=given.prefix)
        if given.json:
            for user in found:
                json_line(user)
            return FINE
        rows = [(user.id, user.email or "-", user.name or "-", when(user.email_verified)) for user in found]
        table(("ID", "E-MAIL", "NAME", "VERIFIED"), rows, flexible=(1, 2, 0, 3))
        if len(found) == given.limit and found:
            tell(f"{plural(len(found), 'user')}; more: --after {found[-1].id}")
    return FINE


def user_of(store: Any, text: str) -> User:
    """The user with that id or address. NotFound if there is none."""
    user = store.get_user(text) or store.get_user_by_email(text)
    if user is None:
        raise NotFound(f"there is no user {cut(text, 40)!r}; `tinyauthstore users` lists them")
    return user  # type: ignore[no-any-return]


class NotFound(LookupError):
    """What a command was to show or end is not there."""


def show(given: Namespace) -> int:
    with the_store(given) as store:
        user = user_of(store, given.user)
        accounts = store.list_accounts(user.id)
        sessions = store.list_sessions(user.id)
        passkeys = store.list_authenticators_by_user_id(user.id)
        if given.json:
            parts = {"accounts": accounts, "sessions": sessions, "authenticators": passkeys}
            json_line(shown(user) | {name: [*map(shown, records)] for name, records in parts.items()})
            return FINE
        for name, value in shown(user).items():
            moment = getattr(user, name)
            text = when(moment) if name == "email_verified" else "-" if value is None else str(value)
            print(f"{name.replace('_', ' '):16} {cut(text, 63)}")
        for account in accounts:
            print(f"{'account':16} {cut(f'{account.provider} {account.provider_account_id} ({account.type})', 63)}")
        for session in sessions:
            print(f"{'session':16} {session.id}  {when(session.expires)}")
        for passkey in passkeys:
            print(f"{'passkey':16} {cut(passkey.credential_id, 63)}")
    return FINE


def _each_session(store: Any, given: Namespace) -> Iterator[tuple[User, Session]]:
    if given.user is not None:
        user = user_of(store, given.user)
        yield from ((user, session) for session in store.list_sessions(user.id))
        return
    for user in each_user(store):
        yield from ((user, session) for session in store.list_sessions(user.id))


def each_user(store: Any) -> Iterator[User]:
    """Every user, a page at a time."""
    after = None
    while found := store.list_users(limit=500, after=after):
        yield from found
        after = found[-1].id


def sessions(given: Namespace) -> int:
    with the_store(given) as store:
        pairs = _each_session(store, given)
        found = [pair for pair, _ in zip(pairs, range(given.limit))]
        if given.json:
            for user, session in found:
                json_line(session)
            return FINE
        rows = [(session.id, user.email or user.id, when(session.expires)) for user, session in found]
        table(("SESSION", "USER", "EXPIRES"), rows, flexible=(1,))
        if next(pairs, None) is not None:
            tell(f"{plural(len(found), 'session')}; more: --limit {given.limit * 10}, or name a user")
    return FINE


def check(given: Namespace) -> int:
    with the_store(given) as store:
        problems = store.check()
        for problem in problems:
            json_line({"problem": problem}) if given.json else print(problem)
        if problems:
            tell(f"{plural(len(problems), 'problem')} found")
            return FOUND
        if not given.json:
            print("sound")
    return FINE


# --- ending -----------------------------------------------------------------------------------


def sign_in(given: Namespace) -> int:
    with the_store(given) as store:
        user = user_of(store, given.user)
        schema = getattr(getattr(store, "_schema", None), "schema", OURS)
        session = store.create_session(user_id=user.id)
        name, value = given.name, session.session_token
        if schema.name.startswith("layouts.better_auth"):
            secret = os.environ.get("TINYAUTHSTORE_SECRET")
            if not secret:
                store.delete_session(session.session_token)
                raise Wrong("Better Auth signs its cookie: put its secret into $TINYAUTHSTORE_SECRET")
            value = layouts.better_auth_cookie(value, secret)
        secure = (given.site or "").startswith("https:")
        if name is None:
            name = {"layouts.better_auth": "better-auth.session_token"}.get(
                schema.name, "session_token" if schema is OURS else "authjs.session-token"
            )
            name = f"__Secure-{name}" if secure and schema is not OURS else name
        print(f"{name}={value}")
        tell(f"This signs in as {user.email or user.id} until {when(session.expires)}: show it to nobody.")
        if given.site:
            options = f"path=/; samesite=lax{'; secure' if secure else ''}"
            tell(f"At {given.site}, in the browser's console: document.cookie = '{name}=...; {options}'")
    return FINE


def revoke(given: Namespace) -> int:
    with the_store(given) as store:
        user = store.get_user(given.what) or store.get_user_by_email(given.what)
        if user is not None:
            count = len(store.list_sessions(user.id))
            if not agreed(f"End {plural(count, 'session')} of {user.email or user.id}?", given.yes, Wrong):
                return FINE
            print(f"ended {plural(store.revoke_sessions(user.id), 'session')}")
            return FINE
        for owner in each_user(store):
            for session in store.list_sessions(owner.id):
                if session.id == given.what:
                    if agreed(f"End this session of {owner.email or owner.id}?", given.yes, Wrong):
                        store.revoke_session(owner.id, session.id)
                        print("ended 1 session")
                    return FINE
    raise NotFound(f"there is neither a user nor a session {cut(given.what, 40)!r}")


def delete_user(given: Namespace) -> int:
    with the_store(given) as store:
        user = user_of(store, given.user)
        if not agreed(f"Delete {user.email or user.id}, with accounts, sessions and passkeys?", given.yes, Wrong):
            return FINE
        store.delete_user(user.id)
        print(f"deleted {user.id}")
    return FINE


def purge(given: Namespace) -> int:
    with the_store(given) as store:
        if not agreed("Remove all sessions and tokens that have expired?", given.yes, Wrong):
            return FINE
        gone = store.purge_expired()
        print(f"removed {plural(gone.sessions, 'session')}, {plural(gone.verification_tokens, 'verification token')}")
    return FINE


# --- files ------------------------------------------------------------------------------------


def backup(given: Namespace) -> int:
    with the_store(given) as store:
        if not hasattr(store, "backup"):
            raise Wrong("a store in memory has no backup; dump it")
        store.backup(given.file)
        tell(f"wrote {given.file}")
    return FINE


def restore(given: Namespace) -> int:
    with the_store(given, synchronize=True) as store:
        counts = store.count()
        question = f"Replace {plural(counts.users, 'user')} and all else by {given.file}?"
        if not agreed(question, given.yes, Wrong):
            return FINE
        store.restore_backup(given.file)
        tell(f"restored {given.file}: {plural(store.count().users, 'user')}")
    return FINE


def compact(given: Namespace) -> int:
    with the_store(given) as store:
        before = _size(store.path)
        store.compact()
        tell(f"{before or 0:,} bytes before, {_size(store.path) or 0:,} now")
    return FINE


@contextmanager
def written(path: str) -> Iterator[Any]:
    """A file for bytes, mode 0600, that has its name only when it is complete; standard output for ``"-"``."""
    if path == "-":
        yield sys.stdout.buffer
        return
    if os.path.exists(path):
        raise Wrong(f"{path} exists already; name a file that does not")
    descriptor, draft = tempfile.mkstemp(prefix=".tinyauthstore-", dir=os.path.dirname(os.path.abspath(path)))
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(draft)
        raise


def _moved(moved: Any, verb: str) -> None:
    """Say, beside the output, how many records went, and what did not, and why."""
    records = moved.records if isinstance(moved.records, dict) else moved.records._asdict()
    counts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in records.items() if count)
    tell(f"{verb} {counts or 'nothing'}")
    for reason, count in moved.left_out.items():
        tell(f"left out: {count:,} {reason}")


@contextmanager
def _counting(what: str) -> Iterator[Callable[[int], None]]:
    progress = Progress(what)
    try:
        yield progress
    finally:
        progress.done()


def dump(given: Namespace) -> int:
    with the_store(given) as store, written(given.file) as file, _counting("records") as progress:
        moved = portable.dump(store, file, oauth_tokens=given.oauth_tokens, progress=progress)
    _moved(moved, "dumped")
    return FINE


def load(given: Namespace) -> int:
    with the_store(given) as store, _counting("records") as progress:
        with closing(_input(given.file)) as file:
            moved = portable.load(store, file, merge=given.merge, progress=progress)
    _moved(moved, "loaded")
    return FINE


def _input(path: str) -> io.BufferedIOBase:
    return open(sys.stdin.fileno(), "rb", closefd=False) if path == "-" else open(path, "rb")  # noqa: SIM115


def copy(given: Namespace) -> int:
    kind, path = place(given.target)
    with the_store(given) as source, _counting("records") as progress:
        new = bool(path) and not os.path.exists(path)
        with closing(_target(given.target, new, source)) as target:
            moved = portable.copy(source, target, merge=given.merge, progress=progress)
    _moved(moved, "copied")
    return FINE


def _target(target: str, new: bool, source: Any) -> Any:
    """The store to copy into: one that is there, or a new one with the source's models."""
    if not new:
        return opened(target)
    models = {entity.name: model for entity, model in getattr(source, "_models", {}).items()}
    return made(target, **models)


def export(given: Namespace) -> int:
    with the_store(given) as store, written(given.file) as file:
        moved = exports.export(store, file, given.format, tool=given.tool, into=given.into)
    _moved(moved, "exported")
    return FINE


def list_layouts(given: Namespace) -> int:
    if given.file is not None:
        print(layouts.detect(given.file))
        return FINE
    for name in layouts.NAMES:
        print(getattr(layouts, name))
    return FINE
