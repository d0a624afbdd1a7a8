"""Records as rows of JSON values, and back."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from .models import KINDS, NORMAL_FORMS, Entity, Field, Record, fields_of, filler, session_id

Key = tuple[Any, ...]

_ABSENT = object()

IN_PYTHON: dict[str | None, str] = {kind.name: python.__name__ for python, kind in KINDS.items()}
"""What a field's type is called, by the name of its kind."""


_compiled: Callable[[Any], Callable[..., Any]] = functools.lru_cache(maxsize=256)(filler)
"""Once for each model: a suite that opens a fresh shelf for each test would wait for it each time."""


class Rows:
    """One entity's records as rows ``[key, fields]``: a list of the key's parts, a dict of all other fields.

    A digest in a key is written in hexadecimal. Fields that the model does not name ("leftovers") are kept.
    ``made`` counts what rows lacked, and what was made here instead: defaults, today's normal forms.
    """

    def __init__(self, entity: Entity, model: type[Record]) -> None:
        self.entity = entity
        self.made = 0
        parts = list(enumerate(entity.key))
        self._in_key = [(f, i) for i, f in parts if f not in entity.withheld and f not in NORMAL_FORMS]
        self._normal = [(i, f, NORMAL_FORMS[f]) for i, f in parts if f in NORMAL_FORMS]
        self._digest = next((i for i, f in parts if f in entity.withheld), None)
        self._names = [f.name for f in fields_of(model)]
        self._make = _compiled(model)
        elsewhere = {*entity.withheld, *(name for name, _ in self._in_key)}
        self._fields = [(f.name, f) for f in fields_of(model) if f.name not in elsewhere]
        self._written = [(name, f.kind.to_json) for name, f in self._fields]
        ours = {f.name for f in fields_of(entity.record)}
        self._defaults: dict[str, Any] = {}
        self._custom = [f for f in fields_of(model) if f.name not in ours]

    def row(self, key: Key, record: Any, leftovers: dict[str, Any] | None) -> list[Any]:
        """The row for a record; ``[key, None]`` if it is None, for a record that was removed."""
        parts = [part.hex() if isinstance(part, bytes) else part for part in key]
        if record is None:
            return [parts, None]
        fields = {} if leftovers is None else dict(leftovers)
        for name, to_json in self._written:
            value = getattr(record, name)
            fields[name] = None if value is None else to_json(value)
        return [parts, fields]

    def records(self, rows: list[Any]) -> Iterator[tuple[Key, Any, dict[str, Any]]]:
        """Key, record and leftovers of each row. ValueError if a row does not fit, or if there are none.

        Decodes column by column, which takes half the time of going row by row.
        """
        keys, fields = zip(*rows)
        parts: list[Any] = list(zip(*keys, strict=True))
        columns: dict[str, Any] = {name: itertools.repeat("") for name in self.entity.withheld}
        if any({*map(type, part)} != {str} for part in parts):
            raise ValueError("a part of its key is no text")
        if self._digest is not None:
            parts[self._digest] = list(map(bytes.fromhex, parts[self._digest]))
            columns["id"] = map(session_id, parts[self._digest])
        for name, i in self._in_key:
            columns[name] = parts[i]
        for name, f in self._fields:
            columns[name] = self._column(f, [row.pop(name, _ABSENT) for row in fields], fields)
        for i, name, normal in self._normal:
            parts[i] = [self._filed(*pair, normal) for pair in zip(parts[i], columns[name])]
        found = zip(zip(*parts), map(self._make, *(columns[name] for name in self._names)), fields)
        return (one for one in found if None not in one[0]) if self._normal else found

    def _filed(self, old: str, value: str, normal: Callable[[str], str | None]) -> str | None:
        """What a row goes by, whose key has the normal form of a value; an earlier version had another.

        None if there is none any more: nobody can ask for such a row, so it is left out.
        """
        new = normal(value)
        self.made += new != old
        return new

    def kinds(self, recorded: dict[str, Any]) -> dict[str, Any]:
        """What is to be recorded of custom fields, the present model's and others: kind and default.

        ``recorded`` is what was; its defaults are those of rows that a store without the field wrote.
        ValueError if a field was recorded with another kind.
        """
        kept, self._defaults = dict(recorded), {}
        for f in self._custom:
            name = self._spelt(f.name, recorded)
            kind, default = kept.pop(name, (f.kind.name, _ABSENT))
            if kind != f.kind.name:
                raise ValueError(
                    f"{self.entity.plural}.{name} holds {IN_PYTHON.get(kind, kind)},"
                    f" {f.model.__name__}.{f.name} is {IN_PYTHON[f.kind.name]}"
                )
            if default is not _ABSENT:
                self._defaults[f.name] = default
            shared = f.shared_default()
            kept[f.name] = [kind, None if shared is None else f.kind.to_json(shared)]
        return kept

    def _spelt(self, name: str, names: Iterable[str]) -> str:
        """The one of these that a field goes by: itself, or what differs in case only, as in SQLite."""
        if name in names:
            return name
        known = {*self._names}
        return next((one for one in names if one.lower() == name.lower() and one not in known), name)

    def _column(self, f: Field, column: list[Any], rest: Sequence[dict[str, Any]]) -> list[Any]:
        from_json, optional, values = f.kind.from_json, f.optional, []
        try:  # most columns are whole, and need no second look at each value
            if _ABSENT not in column:
                if None not in column:
                    return list(map(from_json, column))
                if optional:
                    return [None if value is None else from_json(value) for value in column]
        except (TypeError, ValueError, RecursionError):
            pass
        for value, others in zip(column, rest):
            if value is _ABSENT and others:
                value = others.pop(self._spelt(f.name, others), _ABSENT)
            if value is _ABSENT and f.name in self._defaults:
                value = copy.deepcopy(self._defaults[f.name])
                self.made += 1
            if value is _ABSENT or (value is None and not optional and f in self._custom and f.default):
                if f.default is None:
                    raise ValueError(f"{f.model.__name__}.{f.name} is missing")
                values.append(f.check(f.default()))
                self.made += 1
                continue
            try:
                values.append(None if value is None and optional else from_json(value))
                continue
            except (TypeError, ValueError, RecursionError):
                pass  # raised below, outside of ``except``: a __context__ would hold the value
            raise f.refusal(value)
        return values
