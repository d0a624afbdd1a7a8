"""The records that a store keeps, and the values that their fields accept.

The records carry Auth.js's fields under snake_case names; ``to_authjs`` and ``from_authjs``
translate. They are frozen and slotted, so a record that was handed out can be kept, compared and passed
between threads, and never changes what the store holds. Secrets (tokens of every kind) are left out of
every ``repr``.

A subclass with more fields is a custom model::

    @dataclass(frozen=True, slots=True)
    class Member(User):
        plan: str = "free"

Its fields may be ``str``, ``int``, ``float``, ``bool``, ``bytes``, ``datetime``, or ``dict`` / ``list``
(kept as JSON), or a ``Literal``, ``Enum`` (kept by value), ``NewType``, ``Annotated`` or ``Final`` of these,
each optional (``| None``) or with a default. ``fields_of`` reads these declarations;
``Field.check`` turns a value into the one form that every backend stores and returns.
"""

from __future__ import annotations

import base64
import copy
import dataclasses
import enum
import functools
import hashlib
import json
import math
import re
import types
import typing
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from .clock import PLAIN, UTC, from_iso, in_utc, is_datetime, stands_for_datetime
from .errors import InvalidFieldError

if TYPE_CHECKING:
    from typing import Self

MAX_KEY_LENGTH = 4096
"""Characters that an id, a token, an e-mail address or any other key may have. Writes refuse a longer one,
so a look-up knows without searching that it is absent."""


# --- what a valid value is --------------------------------------------------------------------


class Kind(NamedTuple):
    """A type that a field may have: what is accepted, and its JSON-ready form (ISO 8601, base64).

    ``members``, unless None, are the only values that it has, by the value that is stored.
    """

    name: str
    expected: str
    check: Callable[[Any], Any]
    to_json: Callable[[Any], Any]
    from_json: Callable[[Any], Any]
    members: Mapping[Any, Any] | None = None


def _is(kind: type) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if not isinstance(value, kind):
            raise TypeError
        return value

    return check


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    if not value.isascii():
        value.encode()  # a lone surrogate has no UTF-8 form, so no file could hold it
    return str.__str__(value)  # a str subclass (an enum, a lazy translation) becomes plain text


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError
    if not -(2**63) <= value < 2**63:
        raise ValueError
    return int(value)


def _real(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError
    number = float(value)
    if number != number:  # SQLite stores NaN as NULL
        raise ValueError
    return number + 0.0  # and -0.0 as 0.0


def _bytes(value: Any) -> bytes:
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError
    return bytes(value)


def moment_from_iso(text: Any) -> datetime:
    """The aware UTC datetime that an ISO 8601 text with an offset names.

    ValueError for any other text, TypeError for anything else.
    """
    if not isinstance(text, str):
        raise TypeError
    moment = from_iso(text)
    return moment if moment.tzinfo is UTC else in_utc(moment)


def dump_json(value: Any) -> str:
    """``value`` as compact, pure-ASCII JSON text; ValueError or TypeError for what JSON cannot represent.

    ASCII, because a provider may send half of a surrogate pair, which an escape can represent and UTF-8
    cannot. NaN and keys that are not ``str`` are refused: they would not come back the same. So is what is
    nested deeper than ``MAX_DEPTH``.
    """
    _only_text_keys(value)
    return _encode(value)


_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode  # json.dumps would make one at each call


def load_json(text: str) -> Any:
    """The value that ``dump_json`` wrote."""
    return json.loads(text)


MAX_DEPTH = 100
"""How deep a ``dict`` or ``list`` may be nested. Python copies, reads and writes what is nested with a few
calls for each level, so a deeper one would raise RecursionError somewhere, sooner the deeper in calls the
caller is."""

TOO_DEEP = "[nested too deep]"
"""What stands in ``Account.extra`` for what a provider sent that is nested deeper than ``MAX_DEPTH``."""


def as_json(value: Any, depth: int = 0) -> Any:
    """``value``, with ``str()`` of whatever JSON cannot represent (NaN, a date); nothing is refused.

    What is nested deeper than ``MAX_DEPTH`` becomes ``TOO_DEEP``.
    """
    if isinstance(value, (Mapping, list, tuple)):
        if depth == MAX_DEPTH:
            return TOO_DEEP
        if isinstance(value, Mapping):
            return {str(key): as_json(item, depth + 1) for key, item in value.items()}
        return [as_json(item, depth + 1) for item in value]
    if isinstance(value, int) and value.bit_length() > 10_000:
        return hex(value)  # Python refuses to write so many decimal digits
    if (
        value is None
        or isinstance(value, (str, bool, int))
        or (isinstance(value, float) and -_INFINITY < value < _INFINITY)
    ):
        return value
    return str(value)


_INFINITY = float("inf")


def _only_text_keys(value: Any, depth: int = 0) -> None:
    if isinstance(value, (dict, list, tuple)) and depth == MAX_DEPTH:
        raise ValueError
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return
    for item in value:
        _only_text_keys(item, depth + 1)


def from_provider(name: str, value: Any) -> Any:
    """``value``, which a provider sent for an account's field of that name, in the form that the field has.

    Any other value is returned as it is. ``expires_at``: OAuth libraries make it of ``time.time()``, a float;
    some providers send digits. ``scope``: RFC 6749 § 3.3 joins scopes by blanks, some providers send a list.
    """
    if name == "expires_at":
        if isinstance(value, float) and -_INFINITY < value < _INFINITY:
            return math.floor(value)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
            return int(value)
    elif name == "scope" and isinstance(value, (list, tuple)):
        if value and all(isinstance(scope, str) for scope in value):
            return " ".join(value)
    return value


def end_of(now: datetime, lifetime: Any) -> int | None:
    """The ``expires_at`` of tokens issued ``now`` for ``lifetime`` seconds: ``expires_in`` of RFC 6749 § 5.1.

    That is an int, a float or digits. None for anything else, and for an end that no ``expires_at`` could hold.
    """
    seconds = from_provider("expires_at", lifetime)
    if not isinstance(seconds, int) or isinstance(seconds, bool) or seconds < 0:
        return None
    end = math.floor(now.timestamp()) + seconds
    return end if end < 2**63 else None


def _json(container: type) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if not isinstance(value, container):
            raise TypeError
        return load_json(dump_json(value))  # a deep copy: the caller may still change the original

    return check


def _same(value: Any) -> Any:
    return value


def _to_base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _from_base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


KINDS: dict[Any, Kind] = {
    str: Kind("text", "a str without lone surrogates", _text, _same, _text),
    int: Kind("integer", "an int of at most 64 bits", _integer, _same, _integer),
    float: Kind("real", "a float that is a number", _real, _same, _real),
    bool: Kind("boolean", "a bool", _is(bool), _same, _is(bool)),
    bytes: Kind("bytes", "bytes", _bytes, _to_base64, _from_base64),
    PLAIN[0]: Kind(
        "datetime", "a timezone-aware datetime", in_utc, lambda value: value.isoformat(), moment_from_iso
    ),
    dict: Kind(
        "object", f"a dict that JSON can carry, at most {MAX_DEPTH} deep", _json(dict), _same, _json(dict)
    ),
    list: Kind(
        "array", f"a list that JSON can carry, at most {MAX_DEPTH} deep", _json(list), _same, _json(list)
    ),
}


def _one_of(values: Iterable[Any]) -> Kind | None:
    """The kind that has these values only, or members of an ``Enum`` with them; None if they make no kind."""
    values = list(values)
    stored = [value.value if isinstance(value, enum.Enum) else value for value in values]
    base = KINDS.get(type(stored[0])) if stored else None
    if base is None or base.name in ("object", "array") or {*map(type, stored)} != {type(stored[0])}:
        return None
    try:
        members = {base.check(value): member for value, member in zip(stored, values)}
    except ValueError:  # no store could hold it: a naive datetime, half of a surrogate pair
        return None
    classes = {type(member) for member in values if isinstance(member, enum.Enum)}

    def member(value: Any) -> Any:
        if value not in members:
            raise ValueError
        return members[value]

    def check(value: Any) -> Any:
        return member(base.check(value.value if type(value) in classes else value))

    def to_json(value: Any) -> Any:
        return base.to_json(value.value if type(value) in classes else value)

    expected = f"one of {', '.join(map(repr, members))}"
    return Kind(base.name, expected, check, to_json, lambda value: member(base.from_json(value)), members)


class Rule(NamedTuple):
    """A condition on a field's values, beyond their type."""

    expected: str
    holds: Callable[[Any], bool]


def _rule(expected: str, holds: Callable[[Any], bool]) -> Mapping[str, Rule]:
    return {"rule": Rule(expected, holds)}


KEY = _rule(f"a str of 1 to {MAX_KEY_LENGTH} characters", lambda text: 0 < len(text) <= MAX_KEY_LENGTH)
E_MAIL = _rule(
    f"an e-mail address of at most {MAX_KEY_LENGTH} characters, without blanks or control characters inside",
    lambda text: _is_address(text),
)
IDENTIFIER = _rule(
    f"a str of 1 to {MAX_KEY_LENGTH} characters, and so its normal form",
    lambda text: len(text) <= MAX_KEY_LENGTH and identifier_key(text) is not None,
)
COUNTER = _rule("an int from 0 to 2**32 - 1", lambda number: 0 <= number < 2**32)
ATTEMPTS = _rule("an int from 1 to 2**32 - 1", lambda number: 1 <= number < 2**32)


class Field(NamedTuple):
    """One field of a model: its name, its kind, and what makes its default (None: a value must be given).

    ``factory``: whether that is a ``default_factory``, which may make another value for each record.
    """

    model: type
    name: str
    kind: Kind
    optional: bool
    default: Callable[[], Any] | None
    rule: Rule | None
    keyword_only: bool
    factory: bool = False

    @property
    def expected(self) -> str:
        """What the field accepts, in words for an error message."""
        return (self.rule or self.kind).expected + (", or None" if self.optional else "")

    def shared_default(self) -> Any:
        """The default that all records have; None if there is none, or each has its own.

        Of what a ``default_factory`` makes, only a dict or list that is equal each time is everybody's.
        """
        if self.default is None or (value := self.default()) is None:
            return None
        if self.factory and not (self.kind.name in ("object", "array") and value == self.default()):
            return None
        return self.check(value)

    def check(self, value: Any) -> Any:
        """The value as every backend stores it. InvalidFieldError, without the value, if it does not fit."""
        if value is None and self.optional:
            return None
        try:
            value, given = self.kind.check(value), value
            if self.rule is None or self.rule.holds(value):
                return value
            value = given
        except (TypeError, ValueError, OverflowError, RecursionError):
            pass  # raised below, outside ``except``, so that no __context__ holds the refused value
        raise self.refusal(value)

    def refusal(self, value: Any) -> InvalidFieldError:
        """The error for a value that does not fit; it names the value's type, never the value."""
        naive = is_datetime(value) and value.utcoffset() is None
        got = "a naive datetime (give it a timezone)" if naive else f"{type(value).__name__}"
        if isinstance(value, str):
            got += f" of {len(value)} characters"
        return InvalidFieldError(
            f"{self.model.__name__}.{self.name}: expected {self.expected}; got {got}",
            model=self.model.__name__,
            field=self.name,
            expected=self.expected,
        )


def fields_of(model: Any) -> tuple[Field, ...]:
    """The fields of a record class, in order.

    InvalidFieldError names a field that cannot be stored; TypeError if the class is no such dataclass.
    """
    return _fields_of(model)


@functools.lru_cache(maxsize=256)
def _fields_of(model: Any) -> tuple[Field, ...]:

    def refuse(name: str, expected: str) -> InvalidFieldError:
        return InvalidFieldError(
            f"{model.__name__}.{name} cannot be stored: expected {expected}",
            model=model.__name__,
            field=name,
            expected=expected,
        )

    if not (isinstance(model, type) and dataclasses.is_dataclass(model) and issubclass(model, Record)):
        raise TypeError(f"a model must be a dataclass that extends a tinyauthstore record, not {model!r}")
    known = {f.name: f for f in dataclasses.fields(model)}
    for base in model.__mro__[: model.__mro__.index(Record)]:
        if "__dataclass_fields__" not in base.__dict__:
            for name, annotation in base.__dict__.get("__annotations__", {}).items():
                if "ClassVar" in str(annotation):
                    continue
                raise refuse(name, "the class decorated with @dataclass(frozen=True, slots=True)")
    try:
        hints = typing.get_type_hints(model)
    except NameError as error:
        guilty = next((name for name, f in known.items() if str(error.name) in str(f.type)), "?")
        raise refuse(guilty, f"a type that its module knows; {error}") from error
    for name, hint in hints.items():
        if isinstance(hint, dataclasses.InitVar):
            raise refuse(name, "a field that is kept, no InitVar")
    ours = next(base for base in RECORDS if issubclass(model, base))
    standard = {} if model is ours else {f.name: f for f in fields_of(ours)}
    result = []
    for name, f in known.items():
        kind, optional = _kind_of(hints[name])
        if kind is None:
            raise refuse(
                name,
                "str, int, float, bool, bytes, datetime, dict or list, or a Literal, Enum, NewType, Annotated"
                " or Final[...] of them, alone or with None",
            )
        default: Callable[[], Any] | None = None
        if f.default_factory is not MISSING:
            default = f.default_factory
        elif f.default is not MISSING:
            default = functools.partial(_same, f.default)
        elif optional:
            default = functools.partial(_same, None)
        if not f.init:
            raise refuse(name, "a field that __init__ takes")
        if model is not ours and default is None and name not in standard:
            raise refuse(name, "a default, or a type with None: existing rows have no value for it")
        if name in standard and (kind, optional) != (standard[name].kind, standard[name].optional):
            raise refuse(name, f"the type that {ours.__name__} gives it")
        rule = standard[name].rule if name in standard else f.metadata.get("rule")
        if not isinstance(rule, Rule):  # metadata is everybody's: another library's "rule" is none of ours
            rule = None
        factory = f.default_factory is not MISSING
        made = Field(model, name, kind, optional, default, rule, f.kw_only is True, factory)
        if default is not None:
            made.check(default())
        result.append(made)
    return tuple(result)


def _kind_of(hint: Any) -> tuple[Kind | None, bool]:
    """The kind that a type hint names, None if it names none; and whether None may stand instead."""
    kinds: set[Any] = set()
    values: list[Any] = []

    def unfold(hint: Any) -> None:
        while (meant := getattr(hint, "__supertype__", None) or getattr(hint, "__value__", None)) is not None:
            hint = meant  # of a NewType, of a ``type`` statement
        origin = typing.get_origin(hint)
        if origin in (typing.Union, types.UnionType):
            for one in typing.get_args(hint):
                unfold(one)
        elif origin in (typing.Annotated, typing.Final):  # in a dataclass, a Final is a field like any other
            unfold(typing.get_args(hint)[0])
        elif origin is typing.Literal:
            values.extend(typing.get_args(hint))
        elif isinstance(hint, type) and issubclass(hint, enum.Enum):
            values.extend(hint)
        else:
            kind = origin or hint
            kinds.add(None if hint is type(None) else PLAIN[0] if stands_for_datetime(kind) else kind)

    unfold(hint)
    optional = None in kinds or None in values
    kinds.discard(None)
    values = [value for value in values if value is not None]
    if values:
        return (None if kinds else _one_of(values)), optional
    return KINDS.get(kinds.pop()) if len(kinds) == 1 else None, optional


# --- normal forms -----------------------------------------------------------------------------


_UNLIKE_ASCII = re.compile("([\u037e\u1fef\u212a])")
"""The characters outside ASCII that NFC makes ``;``, a grave accent and ``K`` of."""

_MOST_MARKS = 30
"""Combining marks that may stand in a row, as in the Stream-Safe Text Format (UAX #15, § 13). Putting
thousands of them in order takes Python 20 ms."""


def email_key(email: str) -> str | None:
    """The form under which an address is unique and looked up; None if it has none.

    It has none if it is blank, not UTF-8, longer than ``MAX_KEY_LENGTH``, or has more combining marks in a row
    than any language.

    NFC, lower case, trimmed, so that ``Ada@Example.com`` and ``ada@example.com`` are one user, and so is
    ``zo\u00eb@example.com`` whether its "\u00eb" is one character or two. No character outside ASCII becomes
    one inside it: the four that NFC or lower case would change so (a Greek question mark and accent, the
    Kelvin sign, the dotted capital I) stay themselves.

    Not NFKC, which earlier releases used, as Auth.js does: it makes fullwidth ``\uff41da@example.com``,
    another mailbox, the same as ``ada@example.com``, and so hands Ada's account to whoever owns the other one
    (RFC 6532 § 3.1 advises against it for the same reason). Done here, because SQLite's NOCASE and lower()
    fold ASCII only.
    """
    if email.isascii():
        key = email.strip().lower()
    else:
        try:
            email.encode()
        except UnicodeEncodeError:
            return None
        if _too_many_marks(email):
            return None
        parts = _UNLIKE_ASCII.split(email)
        parts[::2] = map(_nfc_lower, parts[::2])
        key = "".join(parts).strip()
    return key if 0 < len(key) <= MAX_KEY_LENGTH else None


def _nfc_lower(text: str) -> str:
    capitals = unicodedata.normalize("NFC", text).split("\u0130")
    lower = "\u0130".join(part.lower() for part in capitals)
    return unicodedata.normalize("NFC", lower)  # "J" with a caron is two characters, in lower case it is one


def _too_many_marks(text: str) -> bool:
    marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks > _MOST_MARKS:
            return True
    return False


_UNFIT_INSIDE = re.compile(r"[\s\x00-\x1f\x7f-\x9f]")


def _is_address(text: str) -> bool:
    """Whether an address may be written: blanks and control characters would end it, or a mail's header."""
    if len(text) > MAX_KEY_LENGTH or email_key(text) is None:
        return False
    return _UNFIT_INSIDE.search(text.strip()) is None


def identifier_key(identifier: str) -> str | None:
    """The form under which a verification token's identifier is looked up; None if it has none.

    An identifier with an ``@`` (that of ASCII) is an e-mail address, and has the form of ``email_key``; any
    other (``"reset:aB3"``) is compared exactly, because folding its case could confuse two users' ids.
    """
    return email_key(identifier) if "@" in identifier else storable(identifier)


def storable(text: str) -> str | None:
    """``text``, or None if no store can hold it as a key, so that it is certain to be absent."""
    if not text or len(text) > MAX_KEY_LENGTH:
        return None
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return None
    return text


# --- the records ------------------------------------------------------------------------------

AUTHJS_NAMES = {
    "user_id": "userId",
    "email_verified": "emailVerified",
    "session_token": "sessionToken",
    "created_at": "createdAt",
    "provider_account_id": "providerAccountId",
    "credential_id": "credentialID",
    "credential_public_key": "credentialPublicKey",
    "credential_device_type": "credentialDeviceType",
    "credential_backed_up": "credentialBackedUp",
}
"""Auth.js mixes camelCase with the snake_case of OAuth's own parameters (``access_token``). Names that
are not listed, custom fields among them, are the same on both sides."""


NOT_IN_AUTHJS = {"session": ("id", "created_at"), "verification_token": ("attempts",)}
"""Fields that Auth.js's objects lack. Its databases' rows of sessions do have an ``id``, but one of their own."""


class Record:
    """The base of all records: translation to and from the objects that Auth.js passes around.

    Equal records have equal hashes, custom models' too, whatever types their fields have; a model that brings
    its own ``__eq__`` or ``__hash__`` keeps it.
    """

    __slots__ = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__hash__" not in cls.__dict__ and "__eq__" not in cls.__dict__:
            # @dataclass leaves a __hash__ that it finds; its own one fails for a dict or a list.
            cls.__hash__ = Record.__hash__  # type: ignore[method-assign]

    def __hash__(self) -> int:
        """Of the fields that the plain record has: custom ones may be compared or not, as their model
        says."""
        model: Any = type(self)
        return hash(tuple(getattr(self, name) for name in _hashed(model)))

    def to_authjs(self) -> dict[str, Any]:
        """A new JSON-ready dict with the fields that Auth.js's type has, and custom ones, under Auth.js's
        names.

        Dates are ISO 8601 UTC, bytes base64. In an ``Account``, absent fields are left out, and ``extra`` is
        spread over the top level, where Auth.js has it; what would pass for a field there stays in an
        ``extra``. A Session has no ``id`` and no ``createdAt``, a VerificationToken no ``attempts``. Except for
        these, ``from_authjs`` makes the same record of it.
        """
        account = isinstance(self, Account)
        result: dict[str, Any] = {}
        named = {}
        left_out = next((NOT_IN_AUTHJS.get(one.name, ()) for one in ENTITIES if isinstance(self, one.record)), ())
        for f in fields_of(type(self)):
            name, value = AUTHJS_NAMES.get(f.name, f.name), getattr(self, f.name)
            if account and f.name == "extra" or f.name in left_out:
                continue
            named[name] = f
            if value is not None:
                result[name] = f.kind.to_json(value)
            elif not account or f.default is None or f.default() is not None:
                result[name] = None
        if isinstance(self, Account):
            kept = {}
            for name, value in self.extra.items():
                if name == "extra" or name in named and not self._is_unfit(named[name], value):
                    kept[name] = value
                else:
                    result[name] = value
            if kept:
                result["extra"] = kept
        return result

    def _is_unfit(self, f: Field, value: Any) -> bool:
        """Whether ``from_authjs`` would put that value aside, as ``link_account`` did, and restore the
        field."""
        if f.default is None or getattr(self, f.name) != f.default():
            return False
        try:
            _from_authjs(f, value)
        except InvalidFieldError:
            return True
        return False

    @classmethod
    def from_authjs(cls, data: Mapping[str, Any]) -> Self:
        """The record that ``data`` describes under Auth.js's names, fit to be given to a store.

        Dates are aware datetimes, ISO 8601 texts with an offset, or milliseconds since 1970 (an int or
        digits), as Auth.js's databases have them; a flag may be 0 or 1. Absent fields take their defaults;
        the ``id`` of a row is ignored, except a User's. InvalidFieldError names a field that does not fit or
        is missing. TypeError lists the known names for an unknown one; an ``Account`` keeps it in ``extra``,
        and what does not fit a field, too.
        """
        rest = dict(data)
        values: dict[str, Any] = {}
        account, extra = issubclass(cls, Account), None
        if account and isinstance(rest.get("extra"), Mapping):
            extra = rest.pop("extra")
        for f in fields_of(cls):
            name = AUTHJS_NAMES.get(f.name, f.name)
            if account and name == "extra" or issubclass(cls, Session) and name == "id":
                continue
            if name not in rest:
                if f.default is None:
                    raise f.refusal(None)
                continue
            try:
                values[f.name] = _from_authjs(f, rest[name])
            except InvalidFieldError:
                if not account or f.default is None:
                    raise
                continue  # it stays in ``rest``
            del rest[name]
        if account:
            values["extra"] = EXTRA.check(as_json({**rest, **(extra or {})}))
        elif rest.keys() - {"id"}:
            rest.pop("id", None)
            known = ", ".join(AUTHJS_NAMES.get(f.name, f.name) for f in fields_of(cls))
            raise TypeError(f"{cls.__name__} has no {', '.join(map(repr, rest))}; it has {known}")
        return cls(**values)


def _from_authjs(f: Field, value: Any) -> Any:
    """The value of a field that Auth.js, or a row of its databases, has as ``value``. InvalidFieldError."""
    if value == "" and any(issubclass(f.model, one.record) and f.name in one.withheld for one in ENTITIES):
        return value  # a token that the store withheld
    if issubclass(f.model, Account):
        value = from_provider(f.name, value)
    found = value
    try:
        if f.kind.name == "datetime":
            if isinstance(value, str) and value.isascii() and value.isdigit():
                value = int(value)
            if isinstance(value, int) and not isinstance(value, bool):
                found = _EPOCH + timedelta(milliseconds=value)
            elif isinstance(value, str):
                found = moment_from_iso(value.replace(" +", "+").replace(" -", "-"))
        elif f.kind.name == "bytes" and isinstance(value, str):
            found = f.kind.from_json(value)
        elif f.kind.name == "boolean" and type(value) is int and value in (0, 1):
            found = bool(value)
    except (ValueError, OverflowError):
        pass  # it stays what it is, which check() refuses without quoting it
    return f.check(found)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@functools.lru_cache(maxsize=256)
def _hashed(model: Any) -> tuple[str, ...]:
    """The names of the fields that a record's hash is made of: all that every comparison of the model looks
    at."""
    ours = next(base for base in RECORDS if issubclass(model, base))
    compared = {f.name for f in dataclasses.fields(model) if f.compare}
    return tuple(f.name for f in fields_of(ours) if f.name in compared and f.kind.name != "object")


@dataclass(frozen=True, slots=True)
class User(Record):
    """Somebody who signs in. ``email`` keeps its spelling; ``email_verified`` is when (UTC), or None."""

    id: str = field(metadata=KEY)
    email: str | None = field(default=None, metadata=E_MAIL)
    name: str | None = None
    image: str | None = None
    email_verified: datetime | None = None


@dataclass(frozen=True, slots=True)
class Account(Record):
    """A user's account at an identity provider, with the tokens that the provider issued.

    ``expires_at`` is in whole seconds since 1970 (UTC), as OAuth libraries count. ``extra`` holds
    whatever the provider sent that no field names, or that did not fit its field; ``TOO_DEEP`` stands in it
    for what was nested deeper than ``MAX_DEPTH``.
    """

    user_id: str = field(metadata=KEY)
    type: str
    provider: str = field(metadata=KEY)
    provider_account_id: str = field(metadata=KEY)
    refresh_token: str | None = field(default=None, repr=False)
    access_token: str | None = field(default=None, repr=False)
    expires_at: int | None = None
    token_type: str | None = None
    scope: str | None = None
    id_token: str | None = field(default=None, repr=False)
    session_state: str | None = field(default=None, repr=False)
    extra: dict[str, Any] = field(default_factory=dict, repr=False, hash=False)


@dataclass(frozen=True, slots=True)
class Session(Record):
    """One signed-in device.

    ``session_token`` is the bearer secret for the cookie; it is ``""`` where it is withheld
    (``list_sessions``): the store itself only knows its digest. ``id`` is derived from that
    digest: safe to show in a list of devices, useless for signing in. ``expires`` and
    ``created_at`` are UTC; ``created_at`` is None only where a foreign file has no such column.
    """

    session_token: str = field(repr=False, metadata=KEY)
    user_id: str = field(metadata=KEY)
    expires: datetime
    created_at: datetime | None = None
    id: str = ""


@dataclass(frozen=True, slots=True)
class VerificationToken(Record):
    """A single-use token (a magic link, a code) for ``identifier``, usually an e-mail address.

    ``token`` is the secret; it is ``""`` where it is withheld. ``expires`` is UTC. ``attempts`` is how many more
    wrong tokens for the identifier it takes until a code is dead; None for a token that is too long to be guessed.
    """

    identifier: str = field(metadata=IDENTIFIER)
    token: str = field(repr=False, metadata=KEY)
    expires: datetime
    attempts: int | None = field(default=None, metadata=ATTEMPTS)


@dataclass(frozen=True, slots=True)
class Authenticator(Record):
    """A passkey (WebAuthn credential). Ids and keys are base64 text, as in Auth.js."""

    credential_id: str = field(metadata=KEY)
    user_id: str = field(metadata=KEY)
    provider_account_id: str = field(metadata=KEY)
    credential_public_key: str
    counter: int = field(metadata=COUNTER)
    credential_device_type: str
    credential_backed_up: bool
    transports: str | None = None


@dataclass(eq=False)  # compared and hashed by identity, which is fast: entities are keys of dictionaries
class Entity:
    """How stores organise one kind of record.

    ``key`` are the fields that identify a record, ``group`` is the field that records are listed by.
    ``withheld`` fields are never stored: of a secret, a store has only the digest, from which a session's
    ``id`` is derived. ``name`` appears in messages, ``plural`` names a table.
    """

    name: str
    plural: str
    record: type[Record]
    key: tuple[str, ...]
    group: str
    withheld: tuple[str, ...] = ()

    def group_of(self, record: Any) -> str | None:
        """The value, in its normal form, that the record is listed by; None if it is not listed."""
        value = getattr(record, self.group)
        normal = NORMAL_FORMS.get(self.group)
        return value if value is None or normal is None else normal(value)


NORMAL_FORMS: dict[str, Callable[[str], str | None]] = {"email": email_key, "identifier": identifier_key}
"""The fields that are looked up by a normal form, and the functions that make it."""

USER = Entity("user", "users", User, ("id",), "email")
ACCOUNT = Entity("account", "accounts", Account, ("provider", "provider_account_id"), "user_id")
SESSION = Entity("session", "sessions", Session, ("session_token",), "user_id", ("session_token", "id"))
VERIFICATION_TOKEN = Entity(
    "verification_token",
    "verification_tokens",
    VerificationToken,
    ("identifier", "token"),
    "identifier",
    ("token",),
)
AUTHENTICATOR = Entity("authenticator", "authenticators", Authenticator, ("credential_id",), "user_id")

ENTITIES = (USER, ACCOUNT, SESSION, VERIFICATION_TOKEN, AUTHENTICATOR)
RECORDS: tuple[type[Record], ...] = tuple(entity.record for entity in ENTITIES)

EXTRA = next(f for f in fields_of(Account) if f.name == "extra")


def filler(
    model: Any, decoders: Mapping[str, Callable[[Any], Any]] = types.MappingProxyType({})
) -> Callable[..., Any]:
    """A function that takes the values of a model's fields, in order, and returns the record.

    It first decodes the fields that ``decoders`` names, unless their value is None. Its source is generated,
    as the standard library generates a dataclass's ``__init__``. Our own models are filled field by field, in
    a third of the time that ``__init__`` takes, because in a frozen dataclass that calls
    ``object.__setattr__``. Custom models may do more in ``__init__``, so theirs is called.
    """
    fields = fields_of(model)
    scope: dict[str, Any] = {"model": model}
    values = []
    for i, f in enumerate(fields):
        values.append(f"v{i}")
        if f.name in decoders:
            scope[f"decode{i}"] = decoders[f.name]
            values[i] = f"None if v{i} is None else decode{i}(v{i})"
    if model in RECORDS:
        blank = type(model.__name__, (Record,), {"__slots__": model.__slots__})  # the model, but not frozen
        scope.update(new=object.__new__, blank=blank)
        made = [f"record.{f.name} = {value}" for f, value in zip(fields, values)]
        made = ["record = new(blank)", *made, "record.__class__ = model", "return record"]
    else:
        if any(f.keyword_only for f in fields):
            values = [f"{f.name}={value}" for f, value in zip(fields, values)]
        made = [f"return model({', '.join(values)})"]
    exec("\n    ".join([f"def fill({', '.join(f'v{i}' for i in range(len(fields)))}):", *made]), scope)
    return typing.cast("Callable[..., Any]", scope["fill"])


def fresh(record: Any) -> Any:
    """``record``, with copies of its dicts and lists: changing one must not change what the store holds."""
    model: Any = type(record)
    names = _containers(model)
    if not names:
        return record
    return dataclasses.replace(record, **{name: copy.deepcopy(getattr(record, name)) for name in names})


def containers(model: type) -> tuple[str, ...]:
    """The names of a model's fields that hold a dict or a list."""
    return _containers(model)


@functools.lru_cache(maxsize=256)
def _containers(model: Any) -> tuple[str, ...]:
    return tuple(f.name for f in fields_of(model) if f.kind.name in ("object", "array"))


def session_id(part: bytes | str) -> str:
    """A session's public id: 128 bits of its token's digest, in hex. The token cannot be computed from it.

    ``part`` is what the store has of the token: a digest, or in other people's files the token itself.
    """
    if isinstance(part, str):
        part = hashlib.sha256(part.encode("utf-8", "surrogatepass")).digest()
    return part[:16].hex()


# Each model is a type variable whose default is the plain record, so that `SQLiteAdapter` alone returns
# Users and `SQLiteAdapter[Member]` returns Members. Before Python 3.13, only type checkers know such
# defaults.
if TYPE_CHECKING:
    UserT = TypeVar("UserT", bound=User, default=User)
    AccountT = TypeVar("AccountT", bound=Account, default=Account)
    SessionT = TypeVar("SessionT", bound=Session, default=Session)
    VerificationTokenT = TypeVar("VerificationTokenT", bound=VerificationToken, default=VerificationToken)
    AuthenticatorT = TypeVar("AuthenticatorT", bound=Authenticator, default=Authenticator)
    SessionT_co = TypeVar("SessionT_co", bound=Session, default=Session, covariant=True)
    UserT_co = TypeVar("UserT_co", bound=User, default=User, covariant=True)
else:
    SessionT_co, UserT_co = TypeVar("SessionT_co", covariant=True), TypeVar("UserT_co", covariant=True)
    UserT, AccountT, SessionT, VerificationTokenT, AuthenticatorT = map(
        TypeVar, ("UserT", "AccountT", "SessionT", "VerificationTokenT", "AuthenticatorT")
    )


class SessionAndUser(NamedTuple, Generic[SessionT_co, UserT_co]):
    """A live session and its user; ``session, user = found`` unpacks it."""

    session: SessionT_co
    user: UserT_co


class Counts(NamedTuple):
    """How many records of each kind there are, those that have expired left out."""

    users: int
    accounts: int
    sessions: int
    verification_tokens: int
    authenticators: int


class Purged(NamedTuple):
    """How many expired records ``purge_expired`` removed."""

    sessions: int
    verification_tokens: int
