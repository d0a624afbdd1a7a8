"""The models that a file was written with, as far as it tells: for tools that look into any store.

Our files say of each custom field what kind of value it has, and its default. A model made of that reads and writes
all of the file, though it lacks whatever else the application's own class does. Above all, files do not say which fields
the application keeps out of a ``repr``: here, those are hidden whose names sound like secrets.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import re
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

from .models import ENTITIES, KINDS, Record

SOUNDS_SECRET = re.compile(
    r"(?:^|_)(?:passw(?:or)?d|passphrase|pw|hash(?:ed)?|salt|secrets?|tokens?|otp|totp|pin|codes?|keys?|credentials?)(?:_|$)|password",
    re.IGNORECASE,
)
"""The names of fields that a tool does not show. It is better to hide a colour code than to show a recovery code."""


class Recorded(NamedTuple):
    """What a file says of a custom field: the kind as ``kind_of`` writes it, whether it may be None, and the default,
    None if there is none."""

    kind: str
    optional: bool
    default: Any = None


def models(recorded: Mapping[str, Mapping[str, Recorded]]) -> dict[str, type[Record]]:
    """A model for each kind of record with custom fields, by the option that a store takes it by.

    ``recorded``: the fields by the plural of the record's name, then by their own.
    """
    return {
        entity.name: _model(entity.record, found) for entity in ENTITIES if (found := recorded.get(entity.plural))
    }


def _model(record: type[Record], recorded: Mapping[str, Recorded]) -> type[Record]:
    fields: list[Any] = []
    for name, found in recorded.items():
        kind, _, values = found.kind.partition(" ")
        hint = next((python for python, known in KINDS.items() if known.name == kind), None)
        if hint is None:
            raise ValueError(f"{record.__name__}.{name} holds values of a kind that this version does not know: {kind}")
        if values:
            hint = typing.Literal[tuple(KINDS[hint].from_json(value) for value in json.loads(values))]
        hint = hint | None if found.optional and not values else typing.Optional[hint] if found.optional else hint
        options: dict[str, Any] = {"repr": SOUNDS_SECRET.search(name) is None}
        if isinstance(found.default, (dict, list)):
            options["default_factory"] = functools.partial(copy.deepcopy, found.default)
        else:
            options["default"] = found.default
        fields.append((name, hint, dataclasses.field(**options)))
    made: Any = dataclasses.make_dataclass(
        record.__name__, fields, bases=(record,), frozen=True, slots=True, kw_only=True
    )
    return made  # type: ignore[no-any-return]
