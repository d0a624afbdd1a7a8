"""The whole kit over the files of other libraries, and over two schemas written by hand."""

from __future__ import annotations

import fnmatch
import functools
import itertools
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
from test_contract import Ours

from tinyauthstore import InvalidFieldError, MemoryAdapter, SplitAdapter, SQLiteAdapter, User, layouts
from tinyauthstore.encodings import Codec, blank, codec_of, integer_id, iso, milliseconds
from tinyauthstore.models import ENTITIES, fields_of
from tinyauthstore.schema import Column, Schema, Table, now, ours
from tinyauthstore.testing import FAR, UTC, AdapterContract, FrozenClock


class Limit(NamedTuple):
    """Tests that some classes fail, all of them, because of what their files cannot hold."""

    classes: str
    tests: str
    reason: str
    strict: bool = True
    """Whether they fail always, and not by chance."""


AUTHJS = "Drizzle Prisma* TypeORM* Sequelize* Kysely D1"
LAYOUTS = f"{AUTHJS} BetterAuth*"
EXTRA = (
    "test_the_custom_model_of_an_account_is_returned_everywhere | test_extra_is_no_alias_of_what_is_stored"
    " | test_an_unfitting_provider_value_leaves_a_custom_field_at_its_default*"
    " | test_linking_again_refreshes_what_is_given_and_keeps_the_rest | test_what_no_field_names_is_kept_in_extra"
    " | test_a_mapping_called_extra_is_the_extra | test_a_provider_may_send_a_key_called_extra*"
    " | test_a_value_of_the_wrong_type_is_kept_and_never_fatal* | test_a_whole_response_is_taken"
    " | test_a_response_refreshes_as_single_fields_do | test_json_is_never_too_deep"
    " | test_a_number_that_json_lacks_is_never_fatal | test_a_fitting_value_replaces_an_unfitting_one"
)
ADDRESSES = (
    "test_spellings_of_one_address_are_one_user* | test_a_created_user_comes_back_as_it_was_returned"
    " | test_an_update_changes_only_the_fields_named | test_a_user_may_respell_the_own_address"
    " | test_a_deleted_users_pending_tokens_go_however_the_address_is_spelt[no at sign]"
    " | test_a_deleted_users_pending_tokens_go_however_the_address_is_spelt[full-width at sign]"
)
FINER = (
    "test_every_microsecond_comes_back* | test_a_touch_extends_a_session_from_update_age_on[in the last microsecond]"
    " | test_a_touch_may_give_this_session_an_age_of_its_own | test_an_update_age_of_zero_extends_at_every_touch"
)
BORN = (
    "test_another_timezone_is_converted | test_a_clock_in_another_timezone_is_converted"
    " | test_a_session_lives_for_session_max_age | test_a_touch_with_an_age_keeps_to_the_absolute_age"
    " | test_no_session_outlives_session_absolute_age | test_sessions_beyond_the_absolute_age_are_not_counted"
)
CODES = (
    "test_a_code_dies_of_so_many_wrong_tokens* | test_a_code_works_once | test_every_guess_at_a_code_is_counted"
    " | test_every_write_can_be_rolled_back[create_verification_token, a code]"
    " | test_a_wrong_token_counts_for_its_identifiers_code_only"
    " | test_wrong_tokens_are_no_harm_to_a_token_that_is_no_code | test_a_right_token_does_not_count_as_a_wrong_one"
    " | test_the_newest_code_replaces_the_identifiers_others | test_a_code_that_is_sent_again_has_all_its_attempts"
    " | test_an_expired_code_is_dead_however_many_attempts_are_left"
    " | test_what_is_too_long_to_be_a_token_is_no_guess"
)
NO_ADDRESS = (
    "test_a_sound_store_has_no_problems | test_a_user_needs_no_field_at_all | test_none_clears_a_field[email]"
    " | test_a_cleared_address_is_free"
)

LIMITS = [
    Limit(LAYOUTS, EXTRA, "accounts have no column for what no field names"),
    Limit(LAYOUTS, ADDRESSES, "an address is written in its normal form, the only one that JavaScript looks for"),
    Limit(AUTHJS, "test_a_token_is_returned_once", "an identifier is written in its normal form"),
    Limit(LAYOUTS, FINER, "dates have milliseconds"),
    Limit(LAYOUTS, CODES, "verification tokens have no column for the attempts that a code has left"),
    Limit(
        LAYOUTS, "test_sessions_are_listed_newest_first_without_their_tokens",
        "sessions of one millisecond, or without the time of their creation, are listed in any order", strict=False,
    ),
    Limit("Drizzle TypeORM* Sequelize* Kysely D1", BORN, "sessions have no column for the time of their creation"),
    Limit("Kysely BetterAuth*", NO_ADDRESS, "each user has an address"),
    Limit("Kysely BetterAuth* Django", "test_a_blank_prefix_lists_who_has_an_address*", "each user has an address"),
    Limit(
        "Sequelize* Kysely D1",
        "test_identifier_and_token_are_not_joined | test_one_token_may_belong_to_several_identifiers",
        "a token is unique by itself",
    ),
    Limit(
        "Sequelize* Kysely",
        "test_ids_are_compared_exactly | test_pages_of_users_join_without_a_gap*"
        " | test_pages_of_users_whose_address_begins_alike",
        "ids of digits are refused: the columns have NUMERIC affinity, and would make a number of them",
    ),
    Limit(
        "BetterAuth*",
        "test_another_address_may_come_verified | test_a_respelt_address_stays_verified"
        " | test_another_timezone_is_converted",
        "of the verification it is known that it was, not when",
    ),
    Limit(
        "BetterAuth*", "test_a_linked_account_comes_back_as_it_was_returned",
        "accounts have no columns for token_type and session_state",
    ),
    Limit(
        "AppUsers",
        "test_every_microsecond_comes_back* | test_another_timezone_is_converted"
        " | test_a_created_user_comes_back_as_it_was_returned | test_an_update_changes_only_the_fields_named"
        " | test_another_address_may_come_verified | test_a_respelt_address_stays_verified",
        "the dates of users have seconds",
    ),
    Limit(
        "AppUsers Django", "test_an_inner_failure_leaves_the_outer_work",
        "an id that the database made, and that was rolled back, is given to the next user",
    ),
    Limit(
        "Django",
        "test_every_microsecond_comes_back* | test_another_timezone_is_converted"
        " | test_a_created_user_comes_back_as_it_was_returned | test_an_update_changes_only_the_fields_named"
        " | test_another_address_may_come_verified | test_a_respelt_address_stays_verified"
        " | test_an_unstorable_value_is_refused_by_name[create_user-User-email_verified-*",
        "users have no columns for email_verified and image",
    ),
    Limit("Django", "test_a_user_needs_no_field_at_all", "the user name, which is unique, is made of the address"),
    Limit(
        "Django", "test_a_changed_address_frees_the_old_one | test_a_cleared_address_is_free",
        "the old address goes on being the user name",
    ),
    Limit("AppUsers Django", "test_ids_come_from_new_id_when_it_is_given", "the database makes the ids"),
    Limit(
        "AppUsers Django",
        "test_users_are_listed_by_id | test_a_page_begins_after_a_user_who_is_gone"
        " | test_a_page_may_begin_after_what_is_longer_than_any_id | test_a_page_shows_what_was_written_since_the_last_one"
        " | test_whatever_a_stranger_asks_for_a_page_is_a_list[megabytes]"
        " | test_whatever_a_stranger_asks_for_a_page_is_a_list[too long]",
        "ids are numbers, and in the order of numbers",
    ),
    Limit(
        "BetterAuth*", "test_an_authenticator_is_changed_in_the_fields_named",
        "passkeys have no column for provider_account_id",
    ),
]
"""What the files cannot hold. A test that stands here and passes is a failure, too."""


def test_every_test_that_the_table_names_exists() -> None:
    """Under a wrong name it would excuse nothing."""
    for limit in LIMITS:
        for one in limit.tests.split(" | "):
            assert hasattr(AdapterContract, one.partition("[")[0].rstrip("*")), one


def limit_of(cls: type, test: str) -> Limit | None:
    """Why the test fails for that class; None if it does not."""
    for limit in LIMITS:
        if any(fnmatch.fnmatchcase(cls.__name__, f"Test{one}") for one in limit.classes.split()):
            if any(fnmatch.fnmatchcase(test, one.replace("[", "[[]")) for one in limit.tests.split(" | ")):
                return limit
    return None


# --- the factories ----------------------------------------------------------------------------


def with_columns(schema: Schema, options: dict[str, Any]) -> Schema:
    """The schema with a column for each custom field, as its application might have made them; and with a table
    for passkeys, if it has none."""
    models = {entity.name: options[entity.name] for entity in ENTITIES if entity.name in options}
    try:
        return _with_columns(schema, tuple(models.items()))
    except TypeError:  # what is no model may not be hashable either
        return schema


@functools.cache  # a schema is compiled once, and another one with the same columns is another schema
def _with_columns(schema: Schema, given: tuple[tuple[str, Any], ...]) -> Schema:
    models = dict(given)
    for entity in ENTITIES:
        table, model = getattr(schema, entity.name), models.get(entity.name)
        if table is None:
            schema = schema.replace(**{entity.name: ours(entity, f"our_{entity.plural}")})
        elif model is not None and not table.ours:
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
    """A store over another library's file; what fails stands in ``LIMITS``."""

    schema: ClassVar[Schema]
    kind: ClassVar[type[SQLiteAdapter]] = SQLiteAdapter

    @classmethod
    def expected_failure(cls, test: str) -> Limit | None:
        return limit_of(cls, test)

    @classmethod
    def make(cls, folder: Path, **options: Any) -> Any:
        return cls.kind(":memory:", schema=with_columns(cls.schema, options), **options)


class Short(Laid):
    """Without what is refused, or done, before anything depends on a layout; and without the longest tests.

    Those run where a class is not ``Short``.
    """

    test_a_field_that_cannot_be_stored_is_refused_at_construction = None
    test_what_is_no_model_is_a_type_error = None
    test_use_after_close_is_a_closed_error = None
    test_what_is_no_text_is_a_type_error = None
    test_an_unknown_field_is_a_type_error_that_lists_the_known_ones = None
    test_a_wrong_option_is_refused_at_construction = None
    test_ten_megabytes_are_answered_quickly = None
    test_a_single_write_does_bounded_work = None
    test_an_adapter_left_open_warns = None
    test_a_closed_adapter_does_not_warn = None


class InAFile(Laid):
    """In a file that ``synchronize=True`` makes."""

    @classmethod
    def make(cls, folder: Path, **options: Any) -> Any:
        path = folder / f"{len([*folder.iterdir()])}.sqlite"
        schema = with_columns(cls.schema, options)
        return cls.kind(path, schema=schema, synchronize=True, durability="normal", **options)


class TestDrizzle(Laid, AdapterContract):
    schema = layouts.drizzle


@pytest.mark.soak
class TestPrisma(Short, AdapterContract):
    schema = layouts.prisma


@pytest.mark.soak
class TestTypeORM(InAFile, Short, AdapterContract):
    schema = layouts.typeorm


@pytest.mark.soak
class TestSequelize(Short, AdapterContract):
    schema = layouts.sequelize


@pytest.mark.soak
class TestKysely(Short, AdapterContract):
    schema = layouts.kysely
    kind = Addressed


@pytest.mark.soak
class TestD1(Short, AdapterContract):
    schema = layouts.d1


@pytest.mark.soak
class TestBetterAuth(Short, AdapterContract):
    schema = layouts.better_auth
    kind = Addressed


@pytest.mark.soak
class TestSequelizeFile(InAFile, AdapterContract):
    schema = layouts.sequelize


@pytest.mark.soak
class TestBetterAuthFile(InAFile, AdapterContract):
    schema = layouts.better_auth
    kind = Addressed


@pytest.mark.soak
class TestPrismaMilliseconds(Laid, AdapterContract):
    schema = layouts.prisma.with_dates(milliseconds)


@pytest.mark.soak
class TestTypeORMSnakeCase(Laid, AdapterContract):
    schema = layouts.typeorm.renamed(columns=layouts.snake_case)


# --- schemas written by hand ------------------------------------------------------------------

APP_USERS = """
CREATE TABLE app_users (
    no INTEGER PRIMARY KEY AUTOINCREMENT,
    login TEXT NOT NULL,
    mail TEXT UNIQUE,
    full_name TEXT NOT NULL,
    picture TEXT,
    confirmed TEXT,
    created TEXT NOT NULL
)"""

app_users = Schema(
    user=Table(
        "app_users",
        columns={
            "id": Column("no", integer_id),
            "email": "mail",
            "name": Column("full_name", blank()),
            "image": "picture",
            "email_verified": Column("confirmed", iso("2026-02-01 03:04:05")),
        },
        fill={"created": now(iso("2026-02-01 03:04:05")), "login": lambda user: user.email or "guest"},
        makes_ids=True,
    ),
    name="app_users",
)

AUTH_USER = """
CREATE TABLE "auth_user" (
    "id" integer NOT NULL PRIMARY KEY AUTOINCREMENT,
    "password" varchar(128) NOT NULL,
    "last_login" datetime NULL,
    "is_superuser" bool NOT NULL,
    "username" varchar(150) NOT NULL UNIQUE,
    "first_name" varchar(150) NOT NULL,
    "last_name" varchar(150) NOT NULL,
    "email" varchar(254) NOT NULL,
    "is_staff" bool NOT NULL,
    "is_active" bool NOT NULL,
    "date_joined" datetime NOT NULL
)"""

django = Schema(
    user=Table(
        "auth_user",
        columns={
            "id": Column("id", integer_id),
            "email": Column("email", blank()),
            "name": Column("first_name", blank()),
        },
        fill={
            "username": lambda user: user.email,
            "password": "!",
            "last_name": "",
            "is_superuser": False,
            "is_staff": False,
            "is_active": True,
            "date_joined": now(iso("2026-02-01 03:04:05.678901")),
        },
        makes_ids=True,
    ),
    name="django",
)


def _numbered() -> Codec:
    """``integer_id``, but each text that is no number gets one, below 0: the kit calls its users by name."""
    numbers: dict[str, int] = {}
    names: dict[int, str] = {}

    def encode(text: str) -> int:
        try:
            return integer_id.encode(text)  # type: ignore[misc]
        except ValueError:
            number = numbers.setdefault(text, -1 - len(numbers))
            names[number] = text
            return number

    def decode(cell: int) -> str:
        return names.get(cell) or integer_id.decode(cell)  # type: ignore[misc]

    return integer_id._replace(encode=encode, decode=decode)


NUMBERED = _numbered()


@functools.cache
def with_names(schema: Schema) -> Schema:
    """The schema with ids as the kit gives them."""
    column = schema.user.column("id")
    assert column is not None
    return schema.replace(user=schema.user.replace(columns={"id": Column(column.name, NUMBERED)}))


class ByHand(Laid):
    """Beside tables of ours, in a file that an application has made."""

    ddl: ClassVar[str]

    @classmethod
    def make(cls, folder: Path, **options: Any) -> Any:
        path = folder / f"{len([*folder.iterdir()])}.sqlite"
        schema = with_columns(with_names(cls.schema), options)
        user = schema.user
        extended = [name for name in user.columns if name not in cls.schema.user.columns]
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.executescript("PRAGMA synchronous = OFF; PRAGMA journal_mode = WAL")
            connection.execute(cls.ddl)
            for name in extended:
                column = schema.user.column(name)
                assert column is not None
                connection.execute(f"ALTER TABLE {user.name} ADD COLUMN {column.name} {column.declared}")
        return cls.kind(path, schema=schema, durability="normal", **options)


@pytest.mark.soak
class TestAppUsers(ByHand, AdapterContract):
    schema = app_users
    ddl = APP_USERS


class Unverified(Addressed):
    """Every user has an address, of which the user name is made, and none has what Django has no column for."""

    def create_user(self, /, *given: Any, **fields: Any) -> Any:
        for name in ("email_verified", "image"):
            fields.pop(name, None)
        return super().create_user(*given, **fields)


@pytest.mark.soak
class TestDjango(ByHand, Short, AdapterContract):
    schema = django
    kind = Unverified
    ddl = AUTH_USER


def test_a_legacy_row_is_read_and_a_new_one_is_as_the_application_writes_it(tmp_path: Path) -> None:
    """Numbers, dates with blanks, a login made of the record; columns that are no fields are left alone."""
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        connection.execute(APP_USERS)
        connection.execute(
            "INSERT INTO app_users VALUES (41, 'ada', 'Ada@Example.com', '', NULL, '2025-12-31 23:59:59',"
            " '2020-01-01 00:00:00')"
        )
        connection.commit()
    with SQLiteAdapter(tmp_path / "app.db", schema=app_users, clock=FrozenClock()) as store:
        ada = store.get_user_by_email("ada@example.com")
        assert ada == User("41", "Ada@Example.com", None, None, datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC))
        assert store.update_user("41", name="Ada").name == "Ada"
        bob = store.create_user(email="bob@example.com", email_verified=FAR)
        assert bob == User("42", "bob@example.com", None, None, FAR.replace(microsecond=0)) == store.get_user("42")
        session = store.create_session(user_id=bob.id)
        assert store.get_session_and_user(session.session_token) == (session, bob)
        assert store.check() == []
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        assert connection.execute("SELECT * FROM app_users").fetchall() == [
            (41, "ada", "Ada@Example.com", "Ada", None, "2025-12-31 23:59:59", "2020-01-01 00:00:00"),
            (42, "bob@example.com", "bob@example.com", "", None, "2286-11-20 17:46:39", "2026-01-02 03:04:05"),
        ]


def test_a_user_of_django_signs_in_and_a_new_one_is_a_row_that_django_reads(tmp_path: Path) -> None:
    """A password that fits nothing, no rights, and the flags as Django has them."""
    with closing(sqlite3.connect(tmp_path / "db.sqlite3")) as connection:
        connection.execute(AUTH_USER)
        connection.execute(
            "INSERT INTO auth_user VALUES (1, 'pbkdf2_sha256$1', NULL, 1, 'root', 'Ada', 'L', 'Ada@example.com', 1, 1,"
            " '2025-01-01 00:00:00')"
        )
        connection.commit()
    with SQLiteAdapter(tmp_path / "db.sqlite3", schema=django, clock=FrozenClock()) as store:
        ada = store.get_user_by_email("ada@example.com")
        assert ada == User("1", "Ada@example.com", "Ada")
        session = store.create_session(user_id=ada.id)
        assert store.get_session_and_user(session.session_token).user == ada
        assert store.create_user(email="bob@example.com", name="Bob").id == "2"
        with pytest.raises(InvalidFieldError):
            store.update_user("2", email_verified=FAR)
        assert store.check() == []
    with closing(sqlite3.connect(tmp_path / "db.sqlite3")) as connection:
        assert connection.execute("SELECT * FROM auth_user").fetchall() == [
            (1, "pbkdf2_sha256$1", None, 1, "root", "Ada", "L", "Ada@example.com", 1, 1, "2025-01-01 00:00:00"),
            (2, "!", None, 0, "bob@example.com", "Bob", "", "bob@example.com", 0, 1, "2026-01-02 03:04:05.678000"),
        ]


def test_users_of_another_application_and_sessions_elsewhere(tmp_path: Path) -> None:
    """By ``SplitAdapter``: the application's file has no table of ours then."""
    with closing(sqlite3.connect(tmp_path / "db.sqlite3")) as connection:
        connection.execute(AUTH_USER)
        connection.commit()
    users = django.replace(session=None, verification_token=None, authenticator=None, account=None, name="users only")
    with SplitAdapter(
        users=SQLiteAdapter(tmp_path / "db.sqlite3", schema=users),
        sessions=MemoryAdapter(),
        verification=MemoryAdapter(),
    ) as store:
        ada = store.create_user(email="ada@example.com")
        session = store.create_session(user_id=ada.id)
        assert ada.id == "1" and store.get_session_and_user(session.session_token).user == ada
        token = store.create_verification_token(identifier="ada@example.com")
        assert store.use_verification_token(identifier="Ada@example.com", token=token.token)
        assert store.delete_user("1") == ada
        assert store.get_session_and_user(session.session_token) is None
        assert store.check() == []
    with closing(sqlite3.connect(tmp_path / "db.sqlite3")) as connection:
        assert connection.execute("SELECT name FROM sqlite_schema WHERE name LIKE 'tiny%'").fetchall() == []
