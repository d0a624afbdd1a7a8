"""Data out and in: a store as JSON Lines (``dump``, ``load``), and from one store into another (``copy``).

A dump is ASCII text, one JSON object a line, which any language reads line by line::

    {"tinyauthstore": 1, "digests": {"sessions": {"digest": "sha256"}, ...}, "oauth_tokens": false}
    {"kind": "users", "key": ["ada"], "fields": {"email": "ada@example.com", ...}}
    ...
    {"end": {"users": 1, "accounts": 0, ...}}

A record has the form of ``rows.py``: what it is filed under in ``key`` (digests in hexadecimal), all other fields in
``fields`` (datetimes in ISO 8601, bytes in base64). Records come in the order of ``ENTITIES`` and, within a kind, of
their keys. So the same records make the same bytes, and a line that was repeated or moved is noticed; one that is
missing is noticed by the last line, which counts the others.

No dump contains the token of a session or a link: it has the digests that the store has, and another store recognises
these tokens if it makes its digests in the same way. If that takes a secret, the header has four bytes of a slow hash
of it: enough to refuse the wrong store, and next to nothing for somebody who guesses secrets.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import json
import secrets
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import fields as dataclass_fields, replace
from itertools import islice
from typing import Any, NamedTuple

from .contract import Adapter
from .errors import InvalidFieldError, TransferError
from .models import (
    ACCOUNT, AUTHENTICATOR, ENTITIES, SESSION, USER, VERIFICATION_TOKEN, Counts, Entity, fields_of,
    session_id,
)
from .rows import Rows

VERSION = 1

BATCH = 100
"""At most so many records are in memory at a time. More are no faster, for they leave the processor's caches."""

LONGEST = 8 << 20
"""Characters that a line may have, so that a hostile one does not fill the memory. No longer one is written."""

SHORT = 1 << 20
"""Characters after which a batch of lines ends, however few they are."""

ROUNDS = 100_000
"""Of PBKDF2, for the check value of a secret: some 30 ms, for us and for each guess."""

SECRET = (SESSION, VERIFICATION_TOKEN)
"""The kinds of records whose keys are digests of tokens."""

DAMAGED = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError)
"""What comes of reading something that is no record."""

INFINITY = secrets.token_hex()
"""What stands for an infinite float until a line is made: JSON has no word for it, but a number that is too large."""

NOT_EMPTY = "the store is not empty; give an empty one, or merge=True"
ORPHANS = "records whose user is not there"
KEPT = "records that the store has already"
OAUTH = "OAuth tokens (and extra) of accounts"
IN_THE_CLEAR = {"digest": "none"}
"""What stands for the digests of a store whose keys are the tokens themselves."""

NOT_ASKED_FOR = "sessions and verification tokens, by sessions=False"
UNUSABLE = "sessions and verification tokens: a token and a digest cannot stand for each other"
UNKNOWN = "sessions and verification tokens: the contract tells neither tokens nor digests"
NO_PLACE = "passkeys: the target has no place for them"


class Moved(NamedTuple):
    """How many records ``dump``, ``load`` or ``copy`` moved, and how many things it left out, by the reason."""

    records: Counts
    left_out: Mapping[str, int]


Progress = Callable[[int], object]
"""Is called now and then with the number of records so far."""


# --- dump -------------------------------------------------------------------------------------


def dump(
    store: Adapter, file: Any, *, oauth_tokens: bool = False, sessions: bool = True,
    progress: Progress | None = None,
) -> Moved:
    """Write all that ``store`` holds, as it is at one moment, to a file that is open for writing text or bytes.

    Nobody who uses the same SQLite file or memory waits for it. Expired records are written, too, so that the same
    state makes the same bytes at any time. ``oauth_tokens``: without it, accounts lack what their ``repr`` hides: the
    provider's tokens and ``extra``, which may hold more of them. ``sessions``: without it, sessions and verification
    tokens are left out. What the file holds of fields that the models do not name is not written.

    A dump holds addresses and digests: make the file as private as the store. TypeError if the store, or a part of a
    ``SplitAdapter``, is no ``BaseAdapter``: ``copy`` it into one first. TransferError if a record needs more than
    ``LONGEST`` characters. What was written until an error came has no last line, and is refused by ``load``.
    """
    homes, left_out = _homes(store), Counter[str]()
    digests = {}
    for entity in SECRET:
        how = _digests_of(homes[entity], entity) if sessions else None
        if how is not None:
            digests[entity.plural] = how
        else:
            left_out[UNUSABLE if sessions else NOT_ASKED_FOR] += homes[entity]._count(entity, {})

    def write(lines: list[str]) -> None:
        text = "\n".join([*lines, ""])
        file.write(text if hasattr(file, "encoding") else text.encode("ascii"))

    counts = {entity.plural: 0 for entity in ENTITIES}
    write([_encoded({"tinyauthstore": VERSION, "digests": digests, "oauth_tokens": bool(oauth_tokens)})])
    kinds = [entity for entity in ENTITIES if entity not in SECRET or entity.plural in digests]
    with closing(_batches(homes, kinds, oauth_tokens, left_out)) as batches:
        for entity, pairs in batches:
            kind, row = entity.plural, _rows(entity, homes[entity]._models[entity]).row
            rows = (row(key, record, None) for key, record in pairs)
            lines = [_line({"kind": kind, "key": key, "fields": fields}) for key, fields in rows]
            if max(map(len, lines)) > LONGEST:
                raise TransferError(f"one of the {kind} needs a line of more than {LONGEST} characters")
            write(lines)
            counts[kind] += len(lines)
            if progress is not None:
                progress(sum(counts.values()))
    write([_encoded({"end": counts})])
    return Moved(Counts(**counts), +left_out)


_encoded = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def _line(record: dict[str, Any]) -> str:
    try:
        return _encoded(record)
    except ValueError:  # an infinite float, which only a field of its own can hold
        fields = record["fields"]
        infinite = {name: value for name, value in fields.items() if value in (float("inf"), float("-inf"))}
        marks = {name: INFINITY if value > 0 else f"-{INFINITY}" for name, value in infinite.items()}
        line = _encoded({**record, "fields": fields | marks})
        return line.replace(f'"{INFINITY}"', "1e999").replace(f'"-{INFINITY}"', "-1e999")


def _batches(
    homes: Mapping[Entity, Any], kinds: Sequence[Entity], oauth_tokens: bool, left_out: Counter[str]
) -> Generator[tuple[Entity, list[Any]], None, None]:
    """Keys and records of these kinds in their order, all of one moment."""
    with ExitStack() as stack:
        walks = {home: stack.enter_context(home._view()) for home in {homes[entity]: 0 for entity in kinds}}
        for entity in kinds:
            home = homes[entity]
            hidden = _hidden(home._models[entity]) if entity is ACCOUNT and not oauth_tokens else None
            with closing(walks[home](entity)) as records:
                while pairs := [*islice(records, BATCH)]:
                    if hidden is not None:
                        left_out[OAUTH] += sum(any(getattr(account, name) for name in hidden) for _, account in pairs)
                        pairs = [(key, replace(account, **hidden)) for key, account in pairs]
                    yield entity, pairs


def _hidden(model: Any) -> dict[str, Any]:
    """The fields of an account that its ``repr`` hides, with their defaults."""
    shown = {f.name for f in dataclass_fields(model) if f.repr}
    return {f.name: f.default and f.default() for f in fields_of(model) if f.name not in shown}


# --- load -------------------------------------------------------------------------------------


def load(
    store: Adapter, file: Any, *, merge: bool = False, sessions: bool = True, progress: Progress | None = None
) -> Moved:
    """Read what ``dump`` wrote, from a file open for reading text or bytes, into an empty store: all or nothing.

    ``merge``: into a store that need not be empty. What it has stays as it is. A user of the dump is one of the store
    if both the id and the address (in its normal form) are the same; if only one of them is, or if an account, a
    passkey or a session belongs to another user, it is not certain who these people are, and nothing is loaded.
    ``sessions``: without it, the dump's sessions and verification tokens are left out. Records whose user is neither
    in the dump nor in the store are left out, too. Whoever writes meanwhile waits, or gets BusyError if it takes longer
    than their ``timeout``: some ten seconds for a million records.

    TransferError, which names the line, if this is not a whole dump whose values fit the models; nothing is changed
    then. The same if the store makes digests in another way, or with another secret, than the dump says: everybody
    would be signed out, which ``sessions=False`` accepts. TypeError as in ``dump``; errors as in ``transaction()``.
    """
    taker, dumped = _Taker(store, merge), _Dumped(file)
    with _uncollected(), store.transaction():
        taker.require_room()
        taker.agree(dumped.digests(), sessions)
        for first, entity, rows in dumped.batches():
            try:
                taker.take(entity, rows)
            except _Unfit as error:
                raise dumped.refusal(str(error), first + error.number) from None
            if progress is not None:
                progress(taker.done)
    return taker.moved()


class _Dumped:
    """The lines of a dump. ``batches`` raises TransferError for any that cannot be where it is."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._number = self._length = 0

    def refusal(self, why: str, number: int | None = None) -> TransferError:
        line = self._number if number is None else number
        return TransferError(f"line {line} {why}; nothing was loaded", line=line)

    def digests(self) -> Mapping[str, Any]:
        """What the header says about digests."""
        header = self._next("is missing: the file is empty")
        version, digests = header.get("tinyauthstore"), header.get("digests")
        if type(version) is not int or not isinstance(digests, dict):
            raise self.refusal("is not the first line of a dump")
        if version != VERSION:
            raise self.refusal(f"says that this dump has version {version}, and this package reads {VERSION}")
        return digests

    def batches(self) -> Iterator[tuple[int, Entity, list[Any]]]:
        """Rows of one kind, with the number of the first one's line."""
        counts, rows, length = [0] * len(ENTITIES), list[Any](), 0
        before: tuple[int, list[str]] = (-1, [])
        while "end" not in (found := self._next("is missing: the dump was cut off")):
            row = [found.pop("key", None), found.pop("fields", None)]
            number, parts = _KINDS.get(str(found.pop("kind", None)), (-1, 0))
            if found or type(row[0]) is not list or type(row[1]) is not dict or len(row[0]) != parts:
                raise self.refusal("is damaged: it is no record")
            for part in row[0]:
                if type(part) is not str:
                    raise self.refusal("is damaged: a part of its key is no text")
            place = (number, row[0])
            if place <= before:
                raise self.refusal("is out of order, or there twice")
            if rows and (number != before[0] or len(rows) == BATCH or length > SHORT):
                yield self._number - len(rows), ENTITIES[before[0]], rows
                rows, length = [], 0
            rows.append(row)
            length += self._length
            counts[number] += 1
            before = place
        if rows:
            yield self._number - len(rows), ENTITIES[before[0]], rows
        if found != {"end": {entity.plural: count for entity, count in zip(ENTITIES, counts)}}:
            raise self.refusal("counts other records than there are: lines were lost, or added")
        if self._file.readline(1):
            raise self.refusal("should be the last one, and something follows", self._number)

    def _next(self, if_missing: str) -> dict[str, Any]:
        """The object in the next line."""
        self._number += 1
        found = text = None
        try:
            text = self._file.readline(LONGEST + 2)  # with its line feed, and one more if it is too long
            self._length = len(text)
            if isinstance(text, bytes):
                text = text.decode()
            if self._length <= LONGEST + 1:
                found, end = _decoder.raw_decode(text)
                if type(found) is dict and text[end:] in ("\n", "", "\r\n"):
                    return found
        except (ValueError, RecursionError):
            pass  # raised below, outside ``except``: a __context__ would hold the line
        if text == "":
            raise self.refusal(if_missing)
        if self._length > LONGEST + 1:
            raise self.refusal(f"has more than {LONGEST} characters")
        raise self.refusal("is damaged: it is no JSON object")


_decoder = json.JSONDecoder()

_KINDS = {entity.plural: (number, len(entity.key)) for number, entity in enumerate(ENTITIES)}
"""The number of each kind in their order, and of the parts of its key."""


# --- what load and copy write -----------------------------------------------------------------


class _Unfit(Exception):
    """A row, by its number in its batch, that cannot be stored. The text names no value."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(why)
        self.number = number


class _Taker:
    """Puts rows into a store, inside a transaction of its caller."""

    def __init__(self, store: Any, merge: bool) -> None:
        self._store, self._merge, self._homes = store, merge, _homes(store)
        self._left_out, self._counts = Counter[str](), dict.fromkeys(ENTITIES, 0)
        self._skipped: dict[Entity, str] = {}
        models = {entity: home._models[entity] for entity, home in self._homes.items()}
        self._rows = {entity: Rows(entity, model) for entity, model in models.items()}
        self._checks = {  # of what ``Rows`` does not look at: keys, and conditions beside the type
            entity: [(f.name, f.check) for f in fields_of(model) if f.rule and f.name not in entity.withheld]
            for entity, model in models.items()
        }

    @property
    def done(self) -> int:
        """How many rows were taken or left out."""
        return sum(self._counts.values()) + sum(self._left_out.values())

    def moved(self) -> Moved:
        return Moved(Counts(*self._counts.values()), +self._left_out)

    def require_room(self) -> None:
        """TransferError unless the store is empty, or may have something."""
        if not self._merge and any(home._page(entity, None, 1) for entity, home in self._homes.items()):
            raise TransferError(NOT_EMPTY)

    def home(self, entity: Entity) -> Any:
        """The store in which these records are to lie."""
        return self._homes[entity]

    def agree(self, digests: Mapping[str, Any], sessions: bool) -> None:
        """TransferError if these digests are not as the store makes its own, unless they are left out anyway."""
        for entity in SECRET:
            ours, theirs = _digests_of(self._homes[entity], entity), digests.get(entity.plural)
            if not sessions:
                self._skipped[entity] = NOT_ASKED_FOR
            elif theirs is IN_THE_CLEAR and self._homes[entity]._token_storage(entity) == "clear":
                pass  # by copy() alone: no dump has such keys, whatever its first line says
            elif ours is None or theirs is None:
                self._skipped[entity] = UNUSABLE
            elif theirs != ours:
                raise TransferError(
                    f"the {entity.plural} have digests that this store makes in another way, or with another secret="
                    " (it would not recognise one of them); open it with that one, or give sessions=False"
                )

    def take_from(self, entity: Entity, model: Any, pairs: list[tuple[Any, Any]]) -> None:
        """Store these records of that model, or leave them out as ``load`` says. _Unfit."""
        if model is self._homes[entity]._models[entity]:
            self._take(entity, pairs, lambda: pairs)
        else:
            row = _rows(entity, model).row
            self._take(entity, pairs, lambda: self._read(entity, [row(key, record, None) for key, record in pairs]))

    def take(self, entity: Entity, rows: list[Any]) -> None:
        """The same for rows."""
        self._take(entity, rows, lambda: self._read(entity, rows))

    def _take(self, entity: Entity, batch: list[Any], read: Callable[[], list[tuple[Any, Any]]]) -> None:
        if entity in self._skipped:
            self._left_out[self._skipped[entity]] += len(batch)
            return
        pairs, home = read(), self._homes[entity]
        if entity.group == "user_id" and home is not self._homes[USER]:
            for user_id in {record.user_id for _, record in pairs}:
                self._store._introduce(user_id)
        stored = home._add_all(entity, pairs)
        self._counts[entity] += stored
        for number, (key, record) in enumerate(pairs[stored:], stored):
            obstacle = home._obstacle(entity, key, record)
            if obstacle is None:
                home._add(entity, key, record)
                self._counts[entity] += 1
            elif obstacle == "user_id":
                self._left_out[ORPHANS] += 1
            elif self._merge and _is_same(entity, home._get(entity, key), record):
                self._left_out[KEPT] += 1
            else:
                model = home._models[entity].__name__
                raise _Unfit(number, f"is a {model} whose {obstacle} is that of another one")

    def _read(self, entity: Entity, rows: list[Any]) -> list[tuple[Any, Any]]:
        """Keys and records. _Unfit for the first row that does not fit the model."""
        try:
            return self._decoded(entity, rows)
        except DAMAGED:
            pass  # which one it was takes a second look; raised outside ``except``, as in ``_Dumped``
        for number, row in enumerate(rows):
            why = None
            try:
                self._decoded(entity, [row])
            except InvalidFieldError as error:
                why = f"does not fit: {error}"
            except DAMAGED:
                why = "is damaged: it is no record of its kind"
            if why is not None:
                raise _Unfit(number, why)
        raise _Unfit(0, "or one of the next ones does not fit")  # a model that changes its mind

    def _decoded(self, entity: Entity, rows: list[Any]) -> list[tuple[Any, Any]]:
        pairs, checks = [], self._checks[entity]
        copies = [[key, dict(fields)] for key, fields in rows]  # which ``records`` takes apart
        for key, record, unknown in self._rows[entity].records(copies):
            for name, check in checks:
                check(getattr(record, name))
            if unknown:
                model, names = type(record).__name__, ", ".join(ascii(name[:60]) for name in unknown)
                raise InvalidFieldError(
                    f"{model} has no field {names}: open the store with a model that has", model=model,
                    expected="a custom model",
                )
            if entity.withheld and len(key[-1]) != 32:
                raise ValueError("no digest")
            pairs.append((key, record))
        if len(pairs) != len(rows):
            raise ValueError("an identifier that nobody can ask for")  # ``records`` leaves such a row out
        return pairs


@contextmanager
def _uncollected() -> Iterator[None]:
    """Meanwhile, the garbage collector rests. What is made here is no garbage, or no cycle; looking for some takes a
    third of the time where the records stay in memory."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


_rows = functools.lru_cache(maxsize=16)(Rows)


def _is_same(entity: Entity, stored: Any, record: Any) -> bool:
    """Whether a stored record is the one that the other is about, as ``load`` says."""
    return stored is not None and entity.group_of(stored) == entity.group_of(record)


def _homes(store: Any) -> dict[Entity, Any]:
    """The ``BaseAdapter`` in which each kind of record lies. TypeError if it lies in something else."""
    homes = {entity: home(entity) if (home := getattr(store, "_home", None)) else None for entity in ENTITIES}
    if None in homes.values():
        raise TypeError(f"{store!r} is no BaseAdapter, or a part of it is none; copy() it into one of this package's")
    return homes


def _digests_of(home: Any, entity: Entity) -> dict[str, str] | None:
    """How a store makes the digests of tokens that are its keys; None if its keys are tokens, not digests.

    Here it is decided whether a digest may go from one store into another: if both have the same answer, and it is not
    None.
    """
    if home._token_storage(entity) != "digest":
        return None
    return {"digest": "sha256"} if home._secret is None else {"digest": "hmac-sha256", "secret": _check_of(home._secret)}


@functools.lru_cache(maxsize=8)
def _check_of(secret: bytes) -> str:
    return hashlib.pbkdf2_hmac("sha256", secret, b"tinyauthstore: which secret is this?", ROUNDS, 4).hex()


# --- copy -------------------------------------------------------------------------------------


def copy(
    source: Adapter, target: Adapter, *, merge: bool = False, oauth_tokens: bool = True, sessions: bool = True,
    progress: Progress | None = None,
) -> Moved:
    """Put all that ``source`` holds into ``target``, in one transaction there; the source stays as it is.

    The options are those of ``load`` and ``dump``; but OAuth tokens go along unless told otherwise, because they leave
    no store for a file. Between stores of this package, digests are copied, or made of the tokens in another library's
    file: whoever is signed in stays so. What has digests cannot become such a file's tokens: left out. Any other
    adapter is read and written through the contract alone: users, accounts and passkeys. What it keeps of sessions and
    of verification tokens it does not tell, so these are left out. It needs ``list_users`` to be read.

    TransferError, and nothing is copied, as in ``load``; it names the record. From a target of another kind comes
    ConflictError instead, and what it has no ``transaction()`` to undo stays. ValueError if the two have a part in
    common.
    """
    if not (hasattr(source, "_home") and hasattr(target, "_home")):
        return _copy_by_contract(source, target, merge, oauth_tokens, progress)
    homes, taker, left_out = _homes(source), _Taker(target, merge), Counter[str]()
    if {*homes.values()} & {*_homes(target).values()}:
        raise ValueError("copy() takes two stores that have no part in common")
    digests = {entity.plural: _digests_of(homes[entity], entity) for entity in SECRET}
    readable = [entity for entity in SECRET if homes[entity]._token_storage(entity) == "clear"]
    for entity in readable:
        digests[entity.plural] = _digests_of(taker.home(entity), entity) or IN_THE_CLEAR
    with _uncollected(), target.transaction(), closing(_batches(homes, ENTITIES, oauth_tokens, left_out)) as batches:
        taker.require_room()
        taker.agree(digests, sessions)
        for entity, pairs in batches:
            if entity in readable:
                pairs = [*_filed(taker.home(entity), entity, pairs)]
            try:
                taker.take_from(entity, homes[entity]._models[entity], pairs)
            except _Unfit as error:
                which = "one of them" if entity in SECRET else ascii(pairs[error.number][0])[:100]
                raise TransferError(f"{entity.plural}: {which} {error}; nothing was copied") from None
            except InvalidFieldError as error:  # the target has no place for such a value
                raise TransferError(f"{entity.plural}: {error}; nothing was copied") from error
            if progress is not None:
                progress(taker.done)
    moved = taker.moved()
    return Moved(moved.records, +(left_out + Counter(moved.left_out)))


def _filed(home: Any, entity: Entity, pairs: list[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
    """Records whose keys are tokens in the clear, under the keys that the store makes of these."""
    for (*rest, token), record in pairs:
        part = home._part(entity, token)
        yield (*rest, part), replace(record, id=session_id(part)) if entity is SESSION else record


def _copy_by_contract(
    source: Any, target: Any, merge: bool, oauth_tokens: bool, progress: Progress | None
) -> Moved:
    """``copy`` by the methods of the contract, of which both may lack those about passkeys."""
    copied, left_out, after = Counter[str](), Counter[str](), None
    if not merge and [*target.list_users(limit=1)]:
        raise TransferError(NOT_EMPTY)
    if hasattr(source, "count"):
        counts = source.count()
        left_out[UNKNOWN] = counts.sessions + counts.verification_tokens

    def put(entity: Entity, record: Any, there: Any, create: Callable[..., object]) -> None:
        if merge and there is not None and _is_same(entity, there, record):
            left_out[KEPT] += 1
            return
        given = {f.name: getattr(record, f.name) for f in fields_of(type(record))}
        if entity is ACCOUNT and not oauth_tokens:
            left_out[OAUTH] += any([given.pop(name) for name in _hidden(type(record))])
        create(**given)  # ConflictError for what belongs to somebody else
        copied[entity.plural] += 1

    with target.transaction() if hasattr(target, "transaction") else nullcontext():
        while users := [*source.list_users(limit=BATCH, after=after)]:
            for user in users:
                put(USER, user, target.get_user(user.id), target.create_user)
                for account in source.list_accounts(user.id):
                    key = {name: getattr(account, name) for name in ACCOUNT.key}
                    put(ACCOUNT, account, target.get_account(**key), target.link_account)
                passkeys = getattr(source, "list_authenticators_by_user_id", lambda _: ())(user.id)
                if not hasattr(target, "create_authenticator"):
                    left_out[NO_PLACE] += len(passkeys)
                    continue
                for passkey in passkeys:
                    there = target.get_authenticator(passkey.credential_id)
                    put(AUTHENTICATOR, passkey, there, target.create_authenticator)
            after = users[-1].id
            if progress is not None:
                progress(sum(copied.values()) + left_out[KEPT])
    return Moved(Counts(*(copied[entity.plural] for entity in ENTITIES)), +left_out)
