"""The whole kit over the files of other libraries."""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
from typing import Any

import pytest
from test_contract import Ours

from tinyauthstore import SQLiteAdapter, layouts
from tinyauthstore.encodings import codec_of
from tinyauthstore.models import AUTHENTICATOR, ENTITIES, fields_of
from tinyauthstore.schema import Column, Schema, ours
from tinyauthstore.testing import AdapterContract


def with_columns(schema: Schema, models: dict[str, Any]) -> Schema:
    """The schema with a column for each custom field, as its application might have made them; and with a table for
    passkeys, if it has none."""
    for entity in ENTITIES:
        table, model = getattr(schema, entity.name), models.get(entity.name)
        if table is None:
            schema = schema.replace(**{entity.name: ours(entity, f"our_{entity.plural}")})
        elif model is not None:
            standard = {f.name for f in fields_of(entity.record)}
            custom = {
                f.name: Column(f.name, declared=codec_of(f.kind).sql_type)
                for f in fields_of(model)
                if f.name not in standard
            }
            schema = schema.replace(**{entity.name: table.replace(columns=custom)})
    return schema


class Addressed(SQLiteAdapter):
    """Every user has an address, because the file says NOT NULL."""

    numbers = itertools.count()

    def create_user(self, /, *given: Any, **fields: Any) -> Any:
        if not given and fields.get("email") is None:
            fields["email"] = f"somebody-{next(self.numbers)}@example.org"
        return super().create_user(*given, **fields)


class Laid(Ours):
    kind = SQLiteAdapter


def make(schema, kind):
    def factory(folder, **options):
        return kind(":memory:", schema=with_columns(schema, options), **options)
    return staticmethod(factory)


for _n in ("drizzle", "prisma", "typeorm", "sequelize", "kysely", "d1", "better_auth"):
    _s = getattr(layouts, _n)
    _k = Addressed if _n in ("kysely", "better_auth") else SQLiteAdapter
    globals()[f"Test_{_n}"] = type(f"Test_{_n}", (Laid, AdapterContract), {"make": make(_s, _k)})
