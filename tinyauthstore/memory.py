"""The adapters whose records are in this process's memory.

``ShelveAdapter`` is a ``MemoryAdapter`` that writes every transaction to a journal before it is acknowledged.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import itertools
import os
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from heapq import heapify, heappop, heappush
from operator import attrgetter
from threading import get_ident
from typing import TYPE_CHECKING, Any, Literal

from . import paths
from .base import AT_ONCE, MODEL_OPTIONS, BaseAdapter, Key, brief, naming_options
from .errors import BusyError, LockedError, StorageError
from .models import (
    ACCOUNT, ENTITIES, KINDS, SESSION, USER, VERIFICATION_TOKEN, AccountT, AuthenticatorT, Entity,
    Record, SessionAndUser, SessionT, UserT, VerificationTokenT, fresh, session_id,
)
from .recorded import Recorded
from .reshape import Collision, email_key_of_version_1, tell_rekeyed
from .rows import Rows
from .transactions import about_to_wait, innermost

if TYPE_CHECKING:
    from typing import Unpack

    from .base import Options


# --- memory -----------------------------------------------------------------------------------


class _Records:
    """One entity's records in memory: by key, by group, and (where they expire) by time."""

    __slots__ = ("entity", "by_key", "groups", "due", "_order")

    def __init__(self, entity: Entity) -> None:
        self.entity = entity
        self.by_key: dict[Key, Any] = {}
        self.groups: dict[str, dict[Key, None]] = {}
        # A heap of (expires, key). An entry that no longer matches its record is skipped when it comes due;
        # removing it earlier would take a search.
        self.due: list[tuple[datetime, Key]] | None = [] if entity in (SESSION, VERIFICATION_TOKEN) else None
        self._order: list[Key] | None = None

    @property
    def order(self) -> list[Key]:
        """The keys, sorted; kept until a record comes or goes, so that only the first of many pages sorts."""
        if self._order is None:
            self._order = sorted(self.by_key)
        return self._order

    def fill(self, records: dict[Key, Any]) -> None:
        """Adopt these records, where there were none; ``records`` itself becomes ``by_key``."""
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
        """Put the record under ``key``; None removes it. Also works after an interrupted change."""
        if (record is None) == (key in self.by_key):
            self._order = None
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

    Plain dictionaries of immutable records, with an undo log for transactions. Tokens are stored as digests
    here, too.
    """

    _in_memory = True
    _answers_at_once = True

    @naming_options
    def __init__(
        self, **options: Unpack[Options[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]]
    ) -> None:
        """A new, empty store. ``BaseAdapter`` explains the options."""
        super().__init__(**options)
        self._records = {entity: _Records(entity) for entity in ENTITIES}
        self._undo: list[tuple[Entity, Key, Any]] = []
        self._marks: list[int] = []  # how long the undo log was when each open block began
        self._begun = 0  # transactions so far; a reader compares it, to notice one that began meanwhile
        self._opened()

    def __repr__(self) -> str:
        return "MemoryAdapter()"

    # -- look-ups

    def _get(self, entity: Entity, key: Key) -> Any:
        begun, by_key = self._begun, self._records[entity].by_key
        record = by_key.get(key)
        if (self._turn.claims or begun != self._begun) and innermost(self) is None:
            # Another thread's transaction may have changed the record, and may yet be rolled back.
            record = self._in_turn(lambda: by_key.get(key))
        return None if record is None else fresh(record)

    def _find(self, entity: Entity, group: str) -> dict[Key, Any]:
        records = self._records[entity]

        def read() -> list[tuple[Key, Any]]:
            keys = records.groups.get(group, ())
            if len(keys) > AT_ONCE:
                about_to_wait()
            return [(key, records.by_key[key]) for key in sorted(keys)]

        return {key: fresh(record) for key, record in self._in_turn(read)}

    def _page(
        self, entity: Entity, after: Key | None, limit: int, prefix: str | None = None
    ) -> list[tuple[Key, Any]]:
        records = self._records[entity]

        def read() -> Iterator[tuple[Key, Any]]:
            order = records.order
            keys = (order[i] for i in range(0 if after is None else bisect_right(order, after), len(order)))
            for key in keys:
                group = None if prefix is None else entity.group_of(records.by_key[key])
                if prefix is None or (group is not None and group.startswith(prefix)):
                    yield key, records.by_key[key]

        found = self._in_turn(lambda: list(itertools.islice(read(), min(limit, sys.maxsize))))
        return [(key, fresh(record)) for key, record in found]

    def _count(self, entity: Entity, later: Mapping[str, datetime]) -> int:
        by_key = self._records[entity].by_key
        conditions = [(attrgetter(name), moment) for name, moment in later.items()]

        def live(record: Any) -> bool:
            return all((found := value(record)) is None or found > moment for value, moment in conditions)

        return self._in_turn(lambda: sum(map(live, by_key.values())) if conditions else len(by_key))

    @contextmanager
    def _view(self) -> Iterator[Callable[[Entity], Iterator[tuple[Key, Any]]]]:
        # References to the records, which are never changed in place: less than waiting would cost the others.
        copies = self._in_turn(lambda: {entity: dict(self._records[entity].by_key) for entity in ENTITIES})
        yield lambda entity: ((key, copies[entity][key]) for key in sorted(copies[entity]))

    def _get_session_and_user(self, session_token: str) -> SessionAndUser[SessionT, UserT] | None:
        kept = self._kept
        place = kept.places.get(session_token)
        if place is not None and (found := kept.served(place)) is not None:
            return found
        key = (self._part(SESSION, session_token),)
        me, turn = get_ident(), self._turn
        try:
            if not turn.claim(me):
                turn = innermost(self) or turn
                self._take(turn, me)
            self._require_open()
            session: Any = self._records[SESSION].by_key.get(key)
            user: Any = None if session is None else self._records[USER].by_key.get((session.user_id,))
            if user is None:  # no session; or one without its user, in a shelf that was repaired by hand
                kept.evict(key)
                return None
            if place is not None and place.found is not None and place.row == (session, user):
                found = place.found
            else:
                with_token = dataclasses.replace(session, session_token=session_token)
                found = SessionAndUser(fresh(with_token), fresh(user))
            if turn is self._turn:  # what is read inside a transaction may be rolled back
                kept.keep(session_token, key, found, (session, user))
            return found
        finally:
            turn.claims.pop(me, None)
            if turn.waiting:
                turn.wake()

    def _get_owner(self, account: Key) -> UserT | None:
        begun, user = self._begun, self._linked_to(account)
        if self._turn.claims or begun != self._begun:
            user = self._in_turn(lambda: self._linked_to(account))
        return None if user is None else fresh(user)

    def _linked_to(self, account: Key) -> Any:
        linked = self._records[ACCOUNT].by_key.get(account)
        return None if linked is None else self._records[USER].by_key.get((linked.user_id,))

    # -- writes

    def _add(self, entity: Entity, key: Key, record: Any) -> None:
        self._set(entity, key, None, fresh(record))

    def _obstacle(self, entity: Entity, key: Key, record: Any) -> str | None:
        # As in BaseAdapter, but without copies of what is in the way: a million records are asked about.
        records = self._records[entity]
        if entity.group == "user_id" and (record.user_id,) not in self._records[USER].by_key:
            return "user_id"
        if key in records.by_key:
            return entity.key[-1]
        return "email" if entity is USER and entity.group_of(record) in records.groups else None

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
        # Logged first: if Ctrl-C strikes between the two lines, the rollback still undoes the change.
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
        # Only what differs: a record is never changed in place, so the same object means that nothing
        # changed. A test that touched three of a thousand records pays for three.
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
            with suppress(TypeError, AttributeError):  # a value of the wrong type, reported already
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
"""Fields of a row that its present model does not have: stored like records, but never handed out; they are
kept for the model that wrote them."""


_KINDS = "kinds"
"""What a shelf's first pages are called, and a journal's first rows: those of custom fields, each
``[[table], {name: [kind, default], ...}]``. Without a value, a row has that default, or one of its own."""


class ShelveAdapter(MemoryAdapter[UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT]):
    """A store in a directory of its own, by the standard library's ``shelve``; it needs no SQLite.

    The whole store is in memory: a look-up costs what it costs a ``MemoryAdapter``, and opening reads
    everything. Every transaction is appended to a journal before it is acknowledged; now and then, and by
    ``close()``, the whole state is written to a new shelf. ``journal.py`` documents the files.

    Any number of threads may use it, but one process at a time: a second process may not even read it, and
    a forked child is refused. Several processes can share a ``SQLiteAdapter``.
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
        """Open the directory ``path``, creating it (mode 0700) unless it exists. A link is followed once.

        ``durability``: with ``"full"``, every acknowledged write survives a power cut; with ``"normal"``, it
        survives the process, but a power cut may undo the last few writes. ``dbm``: the ``dbm`` backend that
        shelves are written with; None keeps the present one, or takes ``"dumb"`` for a new store, because
        every Python has it. A shelf of another backend is rewritten by ``close()`` at the latest.
        ``BaseAdapter`` explains the other options.

        LockedError, naming the process, if the store is open already; StorageError if the directory is not
        one of our stores, is damaged, was written by a newer version, cannot be opened, does not fit the
        models, or needs a backend that this Python lacks; the directory is left as it was.
        """
        from . import journal  # here, so that only those who use a shelf wait for the import

        if durability not in ("full", "normal"):
            raise ValueError(f'durability must be "full" or "normal"; got {durability!r}')
        if dbm is not None and dbm not in journal.BACKENDS:
            known = ", ".join(map(repr, journal.BACKENDS))
            raise ValueError(f"dbm must be one of {known}, or None; got {dbm!r}")
        path = os.fspath(path)
        if not isinstance(path, str) or not path:
            raise ValueError(f"path must name a directory; got {path!r}")
        self._path = paths.resolved(path)
        self._process = os.getpid()
        self._warn = journal.warn
        self._open = functools.partial(journal.Files, self._path, backend=dbm, sync=durability == "full")
        super().__init__(**options)

    def _opened(self) -> None:
        self._records[_LEFTOVERS] = _Records(_LEFTOVERS)
        self._rows = {entity.plural: Rows(entity, model) for entity, model in self._models.items()}
        self._kinds: dict[str, dict[str, Any]] = {}  # of custom fields, by table and name, as the files have them
        self._of_version_1 = False
        self._rekeyed: list[str] = []  # ids of users
        self._files = self._open(take=self._fill)
        self._journal_mark = 0
        try:
            self._record_changes()
        except BaseException:
            self._files.close()
            raise
        super()._opened()

    def __repr__(self) -> str:
        return f"ShelveAdapter({self._path!r})"

    @property
    def path(self) -> str:
        """Where the directory lies, absolute."""
        return self._path

    # -- records and rows

    def _fill(self, pages: Iterable[tuple[str, list[Any]]], version: int) -> None:
        # Nothing that is made here is garbage; the collector, looking for some, took a third of the time.
        collecting = gc.isenabled()
        gc.disable()
        try:
            for entity, records in self._read_rows(self._without_kinds(pages)).items():
                self._records[entity].fill(records)
        finally:
            if collecting:
                gc.enable()
        if version == 1:
            self._of_version_1, self._rekeyed = True, [*self._users_with_another_key()]

    def _users_with_another_key(self) -> Iterator[str]:
        """The ids of the users whose address version 1 looked up by another normal form.

        StorageError if two users have the same one now.
        """
        users = self._records[USER]
        for members in users.groups.values():
            if len(members) > 1:
                (one,), (other,) = sorted(members)[:2]
                raise StorageError(f"{self._path} {Collision(one, other)}", path=self._path)
        for (user_id,), user in users.by_key.items():
            if user.email is not None and not user.email.isascii():  # those of ASCII are what they were
                if USER.group_of(user) != email_key_of_version_1(user.email):
                    yield user_id

    def _without_kinds(self, pages: Iterable[tuple[str, list[Any]]]) -> Iterator[tuple[str, list[Any]]]:
        """These pages but those that say what kinds the fields have; they come first, and must fit the models."""
        for plural, rows in pages:
            if plural != _KINDS:
                yield plural, rows
                continue
            try:
                self._kinds = {name: kinds for (name,), kinds in rows}
                for name, kinds in self._kinds.items():
                    self._rows[name].kinds(kinds)
            except (TypeError, ValueError, KeyError, AttributeError) as error:
                raise StorageError(
                    f"{self._path} does not fit the models: {error}; rename the field", path=self._path
                ) from error

    def _record_changes(self) -> None:
        """Write what the models, or this version, changed, once and for good: the fields' kinds, and values that
        rows lacked.

        All of it in a new shelf, which replaces the old one at once; or in the first line of a new journal.
        """
        kinds = {name: rows.kinds(self._kinds.get(name, {})) for name, rows in self._rows.items()}
        kinds = {name: found for name, found in kinds.items() if found}
        if kinds != self._kinds or self._of_version_1 or any(rows.made for rows in self._rows.values()):
            self._kinds = kinds
            if self._files.generation == 0 and self._files.clean and not self._of_version_1:
                self._files.append([[_KINDS, [name], found] for name, found in kinds.items()])
            else:
                self._files.checkpoint(self._tables())
            tell_rekeyed(self._path, self._rekeyed)

    def _tables(self) -> dict[str, Iterable[list[Any]]]:
        return self._with_kinds({entity.plural: self._table(entity) for entity in ENTITIES})

    def _with_kinds(self, tables: dict[str, Iterable[list[Any]]]) -> dict[str, Iterable[list[Any]]]:
        kinds = [[[name], kinds] for name, kinds in self._kinds.items()]
        return {_KINDS: kinds, **tables} if kinds else tables

    def _read_rows(self, pages: Iterable[tuple[str, list[Any]]]) -> dict[Entity, dict[Any, Any]]:
        """All that these pages hold, by entity and key. StorageError for a row that does not fit."""
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
                    f"{self._path} holds, among its {plural}, a row that does not fit: {error}; open it with"
                    " the models that it was written with, or give a field another name",
                    path=self._path,
                ) from error
        return found

    def _row(self, entity: Entity, key: Key, record: Any) -> list[Any]:
        return self._rows[entity.plural].row(key, record, self._records[_LEFTOVERS].by_key.get((entity, key)))

    def _changes(self) -> list[list[Any]]:
        """One line of the journal: every record that this transaction touched, as it is now."""
        return [
            [entity.plural, *self._row(entity, key, self._records[entity].by_key.get(key))]
            for entity, key in {(entity, key): None for entity, key, _ in self._undo}
            if entity is not _LEFTOVERS  # they are written with their record
        ]

    def _table(self, entity: Entity) -> Iterator[list[Any]]:
        return (self._row(entity, key, record) for key, record in self._records[entity].by_key.items())

    # -- storage

    def _remove(self, entity: Entity, key: Key) -> Any:
        if entity is _LEFTOVERS:
            return self._set_leftovers(key, None)
        self._set_leftovers((entity, key), None)
        return super()._remove(entity, key)

    def _rekey(self, entity: Entity, key: Key, new: Key) -> None:
        leftovers = self._records[_LEFTOVERS].by_key.get((entity, key))
        super()._rekey(entity, key, new)
        self._set_leftovers((entity, new), leftovers)

    def _set_leftovers(self, key: Key, leftovers: dict[str, Any] | None) -> None:
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
            # Ctrl-C struck when the line was written, but the transaction was not acknowledged.
            self._files.journal.retract(self._journal_mark)
        super()._rollback(depth)

    def _checkpoint(self) -> None:
        """Write a new shelf. If that fails, nothing is lost: the journal has everything, and is continued."""
        try:
            self._files.checkpoint(self._tables())
        except StorageError as error:
            self._warn("%s; the journal goes on, nothing is lost", str(error))

    # -- backups

    def compact(self) -> None:
        """Write the whole state to a new shelf, so that the files take no more room than they need.

        Others wait meanwhile. RuntimeError inside a transaction.
        """
        self._require_outside("compact")
        self._in_turn(lambda: self._files.checkpoint(self._tables()))

    def _recorded(self) -> dict[str, dict[str, Recorded]]:
        """What the shelf says of custom fields, by the plural of the record's name."""
        return {
            plural: {name: Recorded(kind, True, self._from_json(kind, default)) for name, (kind, default) in kinds.items()}
            for plural, kinds in self._kinds.items()
        }

    @staticmethod
    def _from_json(kind: str, value: Any) -> Any:
        known = next((one for one in KINDS.values() if one.name == kind), None)
        return None if value is None or known is None else known.from_json(value)

    def backup(self, path: str | os.PathLike[str]) -> None:
        """Write the committed state to a new directory (mode 0700), a complete store, while threads go on.

        It is checked before this returns. StorageError if ``path`` exists or cannot be written, or if the
        store is damaged; no half directory is left. RuntimeError inside a transaction.
        """
        from . import backups, journal

        self._require_outside("backup")
        tables = self._in_turn(self._tables_now)
        with backups.drafted(path) as draft, backups.about(os.path.abspath(path), draft, "the backup"):
            os.mkdir(draft, 0o700)
            journal.write_store(draft, self._files.backend, tables)
            with self._twin(draft) as copy:
                if problems := copy.check():
                    raise self._damaged(problems)

    def restore_backup(self, path: str | os.PathLike[str]) -> None:
        """Replace all that the store holds by what ``backup`` wrote to ``path``, in one transaction.

        StorageError, and nothing is changed, if the directory is not a backup of ours, is damaged, or does
        not fit the models. RuntimeError inside a transaction. Sign-ins since the backup are forgotten, and
        sign-outs are, too.
        """
        from . import backups, journal

        self._require_outside("restore_backup")
        source = backups.source_of(path, exists=journal.is_store)
        if paths.identity(source) == paths.identity(self._path):
            raise backups.trouble(source, "is this store itself, and no backup of it")
        with backups.aside(self._path) as folder:
            draft = os.path.join(folder, "backup")
            with backups.about(source, draft, "it is no backup for this store; nothing was changed"):
                backups.copied(source, draft)
                with self._twin(draft) as copy:
                    if problems := copy.check():
                        raise self._damaged(problems)
                    state, kinds = copy._dump(), copy._kinds
        try:
            with self.transaction():
                self._load(state)
            if kinds != self._kinds:
                self._kinds = kinds
                with suppress(BusyError):  # restored it is; a later checkpoint will write them
                    self._in_turn(self._checkpoint)
        finally:
            self._kept.clear()
        self._purged_at = None

    def _require_outside(self, name: str) -> None:
        self._require_open()
        if innermost(self) is not None:
            raise RuntimeError(f"{name}() works on committed states; call it outside of transaction()")

    def _tables_now(self) -> dict[str, Iterable[list[Any]]]:
        """The rows of the present state, to be read when other threads go on."""
        self._require_open()
        leftovers = dict(self._records[_LEFTOVERS].by_key)

        def rows(entity: Entity, records: dict[Key, Any]) -> Iterator[list[Any]]:
            row = self._rows[entity.plural].row
            return (row(key, record, leftovers.get((entity, key))) for key, record in records.items())

        return self._with_kinds(
            {entity.plural: rows(entity, dict(self._records[entity].by_key)) for entity in ENTITIES}
        )

    def _twin(self, path: str) -> ShelveAdapter[Any, Any, Any, Any, Any]:
        """Another store with the same models, which this thread alone knows."""
        models: dict[str, Any] = dict(zip(MODEL_OPTIONS, self._models.values()))
        return ShelveAdapter(path, durability="normal", **models)

    def _damaged(self, problems: list[str]) -> StorageError:
        return StorageError(f"{self._path} is damaged: {'; '.join(problems[:3])}", path=self._path)

    def _check_storage(self) -> list[str]:
        try:
            return self._in_turn(lambda: list(self._check_files()))
        except BusyError:
            raise
        except StorageError as error:
            return [str(error)]

    def _check_files(self) -> Iterator[str]:
        """How the files differ from the committed state in memory."""
        uncommitted: dict[tuple[Entity, Any], Any] = {}
        for entity, key, old in reversed(self._undo):
            uncommitted[entity, key] = old
        right, wrong = dict.fromkeys(self._records, 0), dict.fromkeys(self._records, 0)
        for page in self._files.pages():
            if page[0] == _KINDS:
                continue
            for entity, written in self._read_rows([page]).items():
                for key, record in written.items():
                    known = self._records[entity].by_key.get(key)
                    same = uncommitted.get((entity, key), known) == record
                    (right if same else wrong)[entity] += 1
        for entity, records in self._records.items():
            undone = [(key, old) for (changed, key), old in uncommitted.items() if changed is entity]
            count = len(records.by_key)
            count += sum((old is not None) - int(key in records.by_key) for key, old in undone)
            if missing := wrong[entity] + max(count - right[entity] - wrong[entity], 0):
                yield f"{self._path}: {missing} {entity.plural} are not in its files as they are in memory"

    def _release(self) -> None:
        if self._lost is not None:
            return  # everything belongs to the parent
        if self._undo:  # closed inside a transaction, which is rolled back
            super()._rollback(0)
        try:
            # Not when the interpreter ends, which can import no dbm then; the journal has everything.
            if not (self._files.clean or self._files.lost or sys.is_finalizing()):
                self._checkpoint()
        finally:
            self._files.close()

    # -- fork(): nothing to wait for, because a child may not use the store anyway

    def pause(self) -> bool:
        return True

    def after_fork_in_child(self) -> None:
        self._lost = functools.partial(
            LockedError,
            f"{self._path} is open in process {self._process}, from which this one was forked: a shelf"
            " belongs to one process at a time. Use SQLiteAdapter, which processes may share",
            path=self._path,
        )
        self._kept.clear()
        self._turn.start_over()
        self._files.journal.close()
