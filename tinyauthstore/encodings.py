"""How one value is stored in a SQLite column: codecs, two functions each.

Our own files use ``CODECS``, by the kind of a field: datetimes are INTEGER microseconds since 1970 UTC, booleans
INTEGER 0/1, dicts and lists JSON TEXT. The others are for columns that another application reads and writes,
too. What they store is exactly what that application reads back, with its precision; what they read is any
encoding of the value that is found in such columns: a date may be a number, its digits, or ISO 8601 text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, NamedTuple

from .clock import EPOCH, UTC, from_iso, from_timestamp, in_utc, plain
from .models import NORMAL_FORMS, Kind, dump_json, load_json

_MICROSECOND = timedelta(microseconds=1)


def to_microseconds(moment: datetime) -> int:
    """Microseconds since 1970 UTC, exactly: a float of seconds would lose the last digits."""
    return (moment - EPOCH) // _MICROSECOND


_EXACT = 2**32 * 10**6
"""Microseconds. Up to here (2106) ``fromtimestamp`` rounds a float of seconds to the right microsecond."""

if from_timestamp(1893456000, UTC) != plain(2030, 1, 1):
    _EXACT = 0  # under TZ=right/... the C library counts leap seconds, which POSIX and our files do not


def from_microseconds(number: int) -> datetime:
    """The aware UTC datetime of which ``to_microseconds`` made the number."""
    if 0 <= number < _EXACT:
        return from_timestamp(number / 1e6, UTC)  # takes half the time of the sum; a look-up makes three
    return EPOCH + timedelta(0, 0, number)


class Codec(NamedTuple):
    """How a kind of value is stored: the column's type, functions to SQLite and back (None: unchanged).

    ``encode`` raises ValueError for what the column cannot hold; ``decode`` raises ValueError or TypeError for
    what it cannot read. ``blank`` is stored in the place of None. ``exact``: what is read is what was written.
    ``ordered``: SQL compares what is stored as Python compares the values.
    """

    sql_type: str
    encode: Callable[[Any], Any] | None = None
    decode: Callable[[Any], Any] | None = None
    blank: Any = None
    exact: bool = True
    ordered: bool = True

    def stored(self, value: Any) -> Any:
        """The value as SQLite gets it."""
        if value is None:
            return self.blank
        return value if self.encode is None else self.encode(value)


def _container(kind: type) -> Callable[[str], Any]:
    def decode(text: str) -> Any:
        value = load_json(text)
        if not isinstance(value, kind):
            raise TypeError(f"not a {kind.__name__}")
        return value

    return decode


CODECS = {
    "text": Codec("TEXT"),
    "integer": Codec("INTEGER"),
    "real": Codec("REAL"),
    "boolean": Codec("INTEGER", int, bool),
    "bytes": Codec("BLOB"),
    "datetime": Codec("INTEGER", to_microseconds, from_microseconds),
    "object": Codec("TEXT", dump_json, _container(dict)),
    "array": Codec("TEXT", dump_json, _container(list)),
}
"""How our own files store each kind of value."""


def codec_of(kind: Kind) -> Codec:
    """How our own files store the values of a kind; those of an ``Enum`` by their value."""
    return codec_of_members(kind, CODECS[kind.name])


def codec_of_members(kind: Kind, codec: Codec) -> Codec:
    """``codec``, for a kind that may have few values only, ``Enum`` members or literals."""
    if (members := kind.members) is None:
        return codec
    encode, decode = codec.encode, codec.decode

    def stored(member: Any) -> Any:
        value = member.value if isinstance(member, Enum) else member
        return value if encode is None else encode(value)

    def member(cell: Any) -> Any:
        value = cell if decode is None else decode(cell)
        if value not in members:
            raise ValueError("none of the field's values")
        return members[value]

    return codec._replace(encode=stored, decode=member)


# --- dates in columns of other applications ---------------------------------------------------


_DIGITS = re.compile(r"-?[0-9]{1,19}(\.[0-9]{0,9})?")
"""A number as text; a fraction is there if SQLite made the text of a REAL."""


def _reader(microseconds: int) -> Callable[[Any], datetime]:
    """A function that reads any encoding of a date; numbers count units of so many microseconds."""

    def read(cell: Any) -> datetime:
        if not isinstance(cell, str):
            if isinstance(cell, bool) or not isinstance(cell, (int, float)):
                raise TypeError("no date")
            return from_microseconds(round(cell * microseconds))
        if cell[4:5] != "-":  # asked first: Python reads some digits as a date without hyphens
            if len(cell) == 13 and cell.isdecimal():  # as TypeORM writes a time since 2001
                return from_microseconds(int(cell) * microseconds)
            if _DIGITS.fullmatch(cell) is None:
                raise ValueError("no date")
            number = float(cell) if "." in cell else int(cell)
            return from_microseconds(round(number * microseconds))
        if cell[-7:] == " +00:00":  # as Sequelize writes it, and Python does not read it
            cell = cell[:-7] + "+00:00"
        try:
            moment = from_iso(cell)
        except ValueError:
            moment = from_iso(cell.replace(" +", "+").replace(" -", "-").replace(" Z", "Z"))
        return moment if moment.tzinfo is UTC else _understood(moment)

    return read


def _understood(moment: datetime) -> datetime:
    """Without an offset it is UTC, as SQLite's CURRENT_TIMESTAMP is."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else in_utc(moment)


def _date(sql_type: str, encode: Callable[[datetime], Any], unit: int) -> Codec:
    return Codec(sql_type, encode, _reader(unit), exact=False, ordered=False)


seconds = _date("INTEGER", lambda moment: to_microseconds(moment) // 10**6, 10**6)
"""A date as INTEGER seconds since 1970 UTC. Like all of these, it cuts off what is more exact."""

milliseconds = _date("INTEGER", lambda moment: to_microseconds(moment) // 1000, 1000)
"""A date as INTEGER milliseconds since 1970 UTC, JavaScript's ``Date.now()``."""

microseconds = _date("INTEGER", to_microseconds, 1)
"""A date as INTEGER microseconds since 1970 UTC."""

def _float(unit: int) -> Callable[[datetime], float]:
    """A function that encodes dates as floats, none of which is later than its date: no session lives longer."""

    def encode(moment: datetime) -> float:
        whole = to_microseconds(moment)
        number = whole / unit
        return number if round(number * unit) <= whole else math.nextafter(number, -math.inf)

    return encode


float_seconds = _date("REAL", _float(10**6), 10**6)
"""A date as REAL seconds since 1970 UTC, Python's ``time.time()``; exact to the microsecond until 2106."""

float_milliseconds = _date("REAL", _float(1000), 1000)
"""A date as REAL milliseconds since 1970 UTC."""

milliseconds_as_text = _date("TEXT", lambda moment: str(to_microseconds(moment) // 1000), 1000)
"""A date as the digits of its milliseconds since 1970 UTC."""

_SHAPE = re.compile(r"\d{4}-\d\d-\d\d(?:([T ])\d\d:\d\d(:\d\d(?:\.(\d{3}|\d{6}))?)?( ?(?:Z|\+00:?00))?)?")


def iso(example: str) -> Codec:
    """A date as ISO 8601 text in UTC, in the shape of an example, such as ``"2026-02-01T03:04:05.678Z"``.

    ValueError if it is no such text: a date, then a "T" or blank and a time to the minute, second, millisecond
    or microsecond, then "Z", "+00:00", "+0000" or nothing, perhaps after a blank.
    """
    if (shape := _SHAPE.fullmatch(example)) is None:
        raise ValueError(
            f"iso() takes a date in UTC as the column has it, like '2026-02-01T03:04:05.678Z'; got {example!r}"
        )
    between, to_seconds, fraction, zone = shape.groups()
    if between is None:
        return _date("TEXT", lambda moment: moment.isoformat()[:10], 1000)
    spec = {3: "milliseconds", 6: "microseconds", 0: "seconds"}[len(fraction or "")] if to_seconds else "minutes"
    zone = zone or ""
    return _date("TEXT", lambda moment: moment.isoformat(between, spec)[:-6] + zone, 1000)


# --- other values in columns of other applications --------------------------------------------


def _digits(text: str) -> int:
    if re.fullmatch("0|-?[1-9][0-9]{0,18}", text) is None or not -(2**63) <= int(text) < 2**63:
        raise ValueError("not an integer in digits")
    return int(text)


integer_id = Codec("INTEGER", _digits, lambda cell: _whole(cell), exact=False)
"""An INTEGER id, which is a ``str`` of digits outside the file."""

_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*", re.IGNORECASE | re.ASCII)


def _no_number(text: str) -> str:
    if _NUMBER.fullmatch(text):
        raise ValueError("SQLite would store a number")
    return text


text_id = Codec("TEXT", _no_number, lambda cell: cell if isinstance(cell, str) else _whole(cell))
"""A text id in a column that SQLite does not declare as text (``uuid``): it would make 42 of '00042'."""


def _whole(cell: Any) -> str:
    if isinstance(cell, bool) or not isinstance(cell, int):
        raise TypeError("not an integer")
    return str(cell)


def _truth(cell: Any) -> bool:
    if cell not in (0, 1, "0", "1"):
        raise ValueError("neither 0 nor 1")
    return bool(int(cell))


flag = Codec("INTEGER", int, _truth, exact=False)
"""A bool as INTEGER 0/1."""

json_text = Codec("TEXT", dump_json, load_json)
"""A dict or list as JSON text."""

address = Codec("TEXT", lambda text: NORMAL_FORMS["email"](text) or text, exact=False)
"""An e-mail address in its normal form, for applications that look for it in lower case only."""

identifier = Codec("TEXT", lambda text: NORMAL_FORMS["identifier"](text) or text, exact=False)
"""A verification token's identifier in its normal form: an address as in ``address``, all else unchanged."""


def blank(codec: Codec = CODECS["text"]) -> Codec:
    """``codec`` for a column that is NOT NULL: "" stands for None."""
    decode = codec.decode

    def read(cell: Any) -> Any:
        return None if cell == "" else cell if decode is None else decode(cell)

    return codec._replace(decode=read, blank="", exact=False)
