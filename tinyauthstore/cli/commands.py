"""A function for each command. It gets the parsed arguments, and returns the exit status."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any, BinaryIO

from .. import backups, exports, layouts, portable
from ..adapters import path_in
from ..clock import is_datetime
from ..errors import NotFoundError, StorageError
from ..models import Session, User
from ..schema import OURS, Schema
from .output import Progress, agreed, clean, day, hidden, in_options, json_line, listing, plural, shown, table, tell, when
from .targets import SECRET, Wrong, layout_of, made, opened, place, same, target_of, there

FINE, FOUND = 0, 1
"""Exit statuses: all is well; something was found wrong, or what was asked for was not found."""


@contextmanager
def the_store(given: Namespace, *, writing: bool = True, synchronize: bool = False) -> Iterator[Any]:
    """The store that the command is about, closed in the end."""
    with closing(opened(target_of(given.store), writing=writing, synchronize=synchronize)) as store:
        yield store


def looked_at(given: Namespace) -> Any:
    """The same for a command that changes nothing."""
    return the_store(given, writing=False)


def schema_of(store: Any) -> Schema:
    """How its records lie in SQLite; ``OURS`` for a store elsewhere."""
    found: Schema = getattr(getattr(store, "_schema", None), "schema", OURS)
    return found


# --- making and changing ----------------------------------------------------------------------


def init(given: Namespace) -> int:
    target = target_of(given.store)
    with made(target):
        pass
    print(clean(f"made {os.path.abspath(place(target)[1])}"))
    return FINE


def migrate(given: Namespace) -> int:
    target = target_of(given.store)
    path, missing = place(target)[1], tuple[str, ...]()
    try:
        with closing(opened(target, writing=False)) as store:
            if getattr(store, "_of_version_1", False):
                missing = ("what version 2 added to version 1 (other normal forms of addresses)",)
    except StorageError as error:
        if not error.missing:
            raise
        missing = error.missing
    if given.json:
        for what in missing:
            json_line({"missing": what})
    elif not missing:
        print("nothing to change")
    else:
        print(clean(f"{path} lacks:"))
        for what in missing:
            print(clean(f"  {what}"))
    if not missing or given.dry_run:
        return FOUND if missing else FINE
    if not agreed("Add that now? Make a backup first.", given.yes, Wrong):
        return FINE
    with Progress("migrate"), closing(opened(target, synchronize=True)) as store:
        unread = unread_of(store)
    tell("done")
    if unread:
        tell(f"{unread} stay as they are: your application says what they hold when it opens the file next")
    return FINE


# --- looking ----------------------------------------------------------------------------------


def stats(given: Namespace) -> int:
    with looked_at(given) as store:
        counts, path, schema = store.count()._asdict(), getattr(store, "path", ""), schema_of(store)
        size, kind = _size(path), "SQLite" if hasattr(store, "_schema") else "shelf" if path else "memory"
        fields = [f"{entity.plural}.{name}" for entity, name in _custom(store)]
        clear = schema.in_the_clear
        if given.json:
            facts = {"path": path, "kind": kind, "layout": schema.name, "tokens_in_the_clear": clear}
            json_line(facts | {"custom_fields": fields, "bytes": size} | counts)
            return FINE
        facts = {"store": path} if path else {}
        facts |= {"kind": kind if schema is OURS else f"{kind}, {schema.name}"}
        facts |= {"bytes": f"{size:,}"} if size is not None else {}
        facts |= {"custom fields": ", ".join(fields)} if fields else {}
        facts |= {"tokens in the clear": ", ".join(clear)} if clear else {}
        listing([*facts.items(), *((name.replace("_", " "), f"{count:,}") for name, count in counts.items())])
    return FINE


def _custom(store: Any) -> Iterator[tuple[Any, str]]:
    for entity, model in store._models.items():
        ours = {*entity.record.__dataclass_fields__}
        yield from ((entity, name) for name in model.__dataclass_fields__ if name not in ours)


def _size(path: str) -> int | None:
    """Bytes of a file with its sidecars, or of a directory; None if there is neither."""
    if os.path.isdir(path):
        return sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names)
    sizes = [os.path.getsize(path + suffix) for suffix in ("", "-wal") if os.path.exists(path + suffix)]
    return sum(sizes) if sizes else None


def users(given: Namespace) -> int:
    with looked_at(given) as store:
        found = store.list_users(limit=given.limit + 1, after=given.after, email_prefix=given.prefix)
        more, found = found[given.limit :], found[: given.limit]
        if given.json:
            for user in found:
                json_line(user)
        elif found:
            # Whole ids, which other commands take, leave no room for times; `show` has these.
            table(("ID", "E-MAIL", "NAME"), [(u.id, u.email or "-", u.name or "-") for u in found], flexible=(1, 2))
        else:
            tell("no users")
        if more:
            tell(f"{plural(len(found), 'user')}; more: --after {found[-1].id}")
    return FINE


def user_of(store: Any, text: str) -> User:
    """The user with that id or address. NotFoundError if there is none."""
    user: User | None = store.get_user(text) or store.get_user_by_email(text)
    if user is None:
        raise NotFoundError(f"there is no user {text[:60]!r}; `tinyauthstore users` lists them", model="User", key=text)
    return user


def show(given: Namespace) -> int:
    with looked_at(given) as store:
        user = user_of(store, given.user)
        accounts = store.list_accounts(user.id)
        sessions = store.list_sessions(user.id)
        passkeys = store.list_authenticators_by_user_id(user.id)
        if given.json:
            parts = {"accounts": accounts, "sessions": sessions, "authenticators": passkeys}
            json_line(shown(user) | {name: [*map(shown, records)] for name, records in parts.items()})
            return FINE
        rows = [(name, _text(getattr(user, name), value)) for name, value in shown(user).items()]
        rows += [(name, "(not shown)") for name in sorted(hidden(user))]
        rows += [("account", f"{one.provider} {one.provider_account_id} ({one.type})") for one in accounts]
        rows += [("session", f"{one.id}  {when(one.expires)}") for one in sessions]
        rows += [("passkey", one.credential_id) for one in passkeys]
        listing((name.replace("_", " "), value) for name, value in rows)
    return FINE


def _text(value: Any, as_json: Any) -> str:
    if value is None or is_datetime(value):
        return when(value)
    return as_json if isinstance(as_json, str) else json.dumps(as_json, ensure_ascii=False)


def _each_session(store: Any, given: Namespace) -> Iterator[tuple[User, Session]]:
    for user in each_user(store) if given.user is None else [user_of(store, given.user)]:
        yield from ((user, session) for session in store.list_sessions(user.id))


def each_user(store: Any) -> Iterator[User]:
    """Every user, a page at a time."""
    after = None
    while found := store.list_users(limit=500, after=after):
        yield from found
        after = found[-1].id


def sessions(given: Namespace) -> int:
    with looked_at(given) as store:
        found = [*islice(_each_session(store, given), given.limit + 1)]
        more, found = found[given.limit :], found[: given.limit]
        if given.json:
            for _, session in found:
                json_line(session)
        elif found:
            rows = [(session.id, user.email or user.id, day(session.expires)) for user, session in found]
            table(("SESSION", "USER", "EXPIRES"), rows, flexible=(1,))
        else:
            tell("no sessions")
        if more:
            tell(f"{plural(len(found), 'session')}; more: --limit {given.limit * 10}, or name a user")
    return FINE


def check(given: Namespace) -> int:
    with looked_at(given) as store, Progress("check"):
        problems = store.check()
    for problem in problems:
        json_line({"problem": problem}) if given.json else print(clean(problem))
    if problems:
        tell(f"{plural(len(problems), 'problem')} found")
    elif not given.json:
        print("sound")
    return FOUND if problems else FINE


# --- ending -----------------------------------------------------------------------------------


def sign_in(given: Namespace) -> int:
    with the_store(given) as store:
        user, layout = user_of(store, given.user), schema_of(store).name
        secure = (given.site or "").startswith("https:")
        name, secret = given.name or _cookie_name(layout, secure), os.environ.get(SECRET)
        if layout.startswith("layouts.better_auth") and not secret:
            raise Wrong(f"Better Auth signs its cookie: put its secret into ${SECRET}")
        session = store.create_session(user_id=user.id)
        value = session.session_token
        if layout.startswith("layouts.better_auth") and secret:
            value = layouts.better_auth_cookie(value, secret)
        if given.json:
            json_line({"name": name, "value": value, "expires": session.expires, "user_id": user.id, "id": session.id})
        else:
            print(f"{name}={value}")
        tell(f"This token signs in as {user.email or user.id} until {when(session.expires)}.")
        tell(f"`tinyauthstore revoke {session.id}` ends it. Show it to nobody.")
        if given.site:
            tell(f"To set it, in a browser's console at {given.site}:")
            tell(f"  document.cookie = '{name}=...; path=/; samesite=lax{'; secure' if secure else ''}'")
    return FINE


def _cookie_name(layout: str, secure: bool) -> str:
    """What Auth.js and Better Auth call their cookies; for our own files, what the README's application does."""
    if layout.startswith("layouts."):
        name = "better-auth.session_token" if layout.startswith("layouts.better_auth") else "authjs.session-token"
        return f"__Secure-{name}" if secure else name
    return "__Host-session" if secure else "session"


def revoke(given: Namespace) -> int:
    with the_store(given) as store:
        user = store.get_user(given.what) or store.get_user_by_email(given.what)
        found = [(user, one) for one in store.list_sessions(user.id)] if user is not None else [
            (owner, one) for owner in each_user(store) for one in store.list_sessions(owner.id) if one.id == given.what
        ]  # fmt: skip
        if user is None and not found:
            raise NotFoundError(f"there is neither a user nor a session {given.what[:60]!r}", key=given.what)
        whom = user or found[0][0]
        if not agreed(f"End {plural(len(found), 'session')} of {whom.email or whom.id}?", given.yes, Wrong):
            return FINE
        if user is not None:
            ended = store.revoke_sessions(user.id)
        else:
            ended = sum(store.revoke_session(owner.id, one.id) for owner, one in found)
        json_line({"sessions": ended}) if given.json else print(f"ended {plural(ended, 'session')}")
    return FINE


def delete_user(given: Namespace) -> int:
    with the_store(given) as store:
        user = user_of(store, given.user)
        if not agreed(f"Delete {user.email or user.id}, with accounts, sessions and passkeys?", given.yes, Wrong):
            return FINE
        gone = store.delete_user(user.id)
        if gone is None:
            raise NotFoundError(f"somebody else has just deleted {user.id}", model="User", key=user.id)
        json_line(gone) if given.json else print(clean(f"deleted {gone.id}"))
    return FINE


def purge(given: Namespace) -> int:
    with the_store(given) as store:
        if not agreed("Remove all sessions and tokens that have expired?", given.yes, Wrong):
            return FINE
        with Progress("purge"):
            gone = store.purge_expired()
        if given.json:
            json_line(gone._asdict())
        else:
            counts = plural(gone.sessions, "session"), plural(gone.verification_tokens, "verification token")
            print(f"removed {', '.join(counts)}")
    return FINE


# --- files ------------------------------------------------------------------------------------


def backup(given: Namespace) -> int:
    _require_new(given.file)
    with looked_at(given) as store:
        if not getattr(store, "path", "").startswith(os.sep):
            raise Wrong("a store in memory has no backup")
        with Progress("backup"):
            store.backup(given.file)
    tell(f"wrote {given.file}")
    return FINE


def _require_new(path: str) -> None:
    if os.path.lexists(path):
        raise Wrong(f"{path} exists already; name a file that does not")


def restore(given: Namespace) -> int:
    target = target_of(given.store)
    if not there(*place(target)):
        return _restore_anew(given, target)
    with looked_at(given) as store:
        question = f"Replace {plural(store.count().users, 'user')} and all else by {given.file}?"
    if not agreed(question, given.yes, Wrong):
        return FINE
    with the_store(given, synchronize=True) as store, Progress("restore"):
        store.restore_backup(given.file)
        count = store.count().users
    tell(f"restored {given.file}: {plural(count, 'user')}")
    return FINE


def _restore_anew(given: Namespace, target: str) -> int:
    """Restore a backup where there is no store any more: nothing can be lost, so nobody is asked."""
    with closing(opened(given.file, writing=False)) as source:
        models = {entity.name: model for entity, model in source._models.items()}
        schema = schema_of(source)
    if place(given.file)[0] == "shelve" and not path_in(target):
        target = f"shelve:{target}"
    with made(target, schema, **models) as store, Progress("restore"):
        store.restore_backup(given.file)
        count = store.count().users
    tell(f"restored {given.file}, as a new store: {plural(count, 'user')}")
    return FINE


def compact(given: Namespace) -> int:
    with the_store(given) as store:
        if not hasattr(store, "compact"):
            raise Wrong("a store in memory has nothing to compact")
        before = _size(store.path)
        with Progress("compact"):
            store.compact()
        tell(f"{before or 0:,} bytes before, {_size(store.path) or 0:,} now")
    return FINE


class _Counting:
    """A file for bytes that tells how many there are."""

    def __init__(self, file: BinaryIO, progress: Progress) -> None:
        self._file, self._progress, self._count = file, progress, 0

    def write(self, data: bytes) -> int:
        self._count += len(data)
        self._progress(self._count)
        return self._file.write(data)


@contextmanager
def written(path: str) -> Iterator[Any]:
    """A file for bytes, mode 0600, that has its name only when it is complete; standard output for ``"-"``."""
    if path == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    _require_new(path)
    with backups.drafted(path) as draft:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())


def unread_of(store: Any) -> str:
    """The columns of a SQLite file that hold something for which records have no field."""
    found = store._unread() if hasattr(store, "_unread") else []
    more = f" and {len(found) - 4} more" if len(found) > 5 else ""
    return ", ".join(found[:4] if more else found) + more


def _moved(moved: Any, verb: str, unread: str = "", as_json: bool = False) -> None:
    """Say, beside the output, how many records went, and what did not, and why."""
    records = moved.records if isinstance(moved.records, dict) else moved.records._asdict()
    counts = ", ".join(plural(count, name[:-1].replace("_", " ")) for name, count in records.items() if count)
    left_out = {in_options(reason): count for reason, count in moved.left_out.items()}
    if as_json:
        json_line({"records": records, "left_out": left_out})
    tell(f"{verb} {counts or 'nothing'}")
    for reason, count in left_out.items():
        _left_out(f"{count:,} {reason}")
    if unread:
        _left_out(f"columns that no field here is read from: {unread}")


def dump(given: Namespace) -> int:
    with looked_at(given) as store, written(given.file) as file, Progress("dump", "records") as progress:
        options = {"oauth_tokens": given.oauth_tokens, "sessions": not given.no_sessions}
        moved, unread = portable.dump(store, file, progress=progress, **options), unread_of(store)
    _moved(moved, "dumped", unread)
    return FINE


def load(given: Namespace) -> int:
    with _input(given.file) as file, the_store(given) as store, Progress("load", "records") as progress:
        options = {"merge": given.merge, "sessions": not given.no_sessions}
        moved = portable.load(store, file, progress=progress, **options)
    _moved(moved, "loaded", as_json=given.json)
    return FINE


def _input(path: str) -> BinaryIO:
    if path != "-":
        return open(path, "rb")
    if sys.stdin is None:
        raise Wrong("standard input is closed; name a file")
    return open(sys.stdin.fileno(), "rb", closefd=False)


def copy(given: Namespace) -> int:
    options = {"merge": given.merge, "sessions": not given.no_sessions}
    with looked_at(given) as source:
        if same(source, given.target):
            raise Wrong(f"{given.target} is the store itself")
        if there(*place(given.target)) or place(given.target)[0] == "memory":
            target: Any = closing(opened(given.target))
        else:
            target = made(given.target, **{entity.name: model for entity, model in source._models.items()})
        with target as store, Progress("copy", "records") as progress:
            moved = portable.copy(source, store, progress=progress, **options)
        unread = unread_of(source)
    _moved(moved, "copied", unread, given.json)
    return FINE


def export(given: Namespace) -> int:
    with looked_at(given) as store, written(given.file) as file, Progress("export", "bytes") as progress:
        counting: Any = _Counting(file, progress)
        moved = exports.export(store, counting, given.format, tool=given.tool, into=given.into, warn=_left_out)
        unread = unread_of(store)
    _moved(moved._replace(left_out={}), "exported", unread)
    return FINE


def _left_out(what: str) -> None:
    tell(f"left out: {what}")


def list_layouts(given: Namespace) -> int:
    if given.file is not None:
        kind, path = place(given.file)
        if kind == "shelve" or not there(kind, path):
            raise StorageError(f"{path} is no SQLite file", path=path)
        found = [layout_of(path)]
    else:
        found = [getattr(layouts, name) for name in layouts.NAMES]
    for schema in found if given.json else ():
        tables = [one.name for one in schema.tables.values()]
        json_line({"name": schema.name, "tables": tables, "tokens_in_the_clear": schema.in_the_clear})
    if not given.json:
        table(("LAYOUT", "TABLES"), [(one.name, ", ".join(t.name for t in one.tables.values())) for one in found], (1,))
    if any(schema.in_the_clear for schema in found):
        tell("These files hold session tokens in the clear: who can read one can sign in.")
    return FINE
