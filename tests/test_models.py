"""The records: what they are, what a valid value is, their normal forms, and Auth.js's names."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
import sys
import unicodedata
from dataclasses import KW_ONLY, InitVar, dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any, ClassVar, Optional

import pytest

import tinyauthstore
from tinyauthstore import (
    Account,
    Authenticator,
    AuthStoreError,
    ConflictError,
    CounterRegressionError,
    InvalidFieldError,
    NotFoundError,
    Purged,
    Session,
    SessionAndUser,
    StorageError,
    User,
    VerificationToken,
)
from tinyauthstore.models import (
    filler,
    KINDS,
    MAX_KEY_LENGTH,
    dump_json,
    email_key,
    fields_of,
    identifier_key,
    load_json,
    session_id,
    storable,
)
from tinyauthstore.testing import (
    CUSTOM,
    FAR,
    GIVEN,
    INDIA,
    NAIVE,
    OTHER_ADDRESS,
    RECORDS,
    SAME_ADDRESS,
    START,
    SURROGATE,
    told,
)

USER = User("1", "Ada@example.com", "Ada", "https://example.com/a.png", START)
ACCOUNT = Account("1", "oauth", "github", "42", "r", "a", 7, "bearer", "openid", "i", "s", {"team": [1]})
SESSION = Session("secret", "1", FAR, START, "abc")
TOKEN = VerificationToken("ada@example.com", "secret", FAR)
AUTHENTICATOR = Authenticator("cred", "1", "cred", "a2V5", 7, "singleDevice", True, "usb")
EXAMPLES = [USER, ACCOUNT, SESSION, TOKEN, AUTHENTICATOR]
SECRETS = {"refresh_token", "access_token", "id_token", "session_state", "extra", "session_token", "token"}


def filled_in(record: Any) -> Any:
    """The same record, made by the same means as a look-up makes it."""
    return filler(type(record))(*(getattr(record, f.name) for f in fields_of(type(record))))


FILLED_IN = list(map(filled_in, EXAMPLES))

each_record = pytest.mark.parametrize(
    "record", EXAMPLES + FILLED_IN, ids=lambda record: type(record).__name__
)


# --- records ----------------------------------------------------------------------------------


def test_a_record_that_was_filled_in_is_none_other() -> None:
    """Same type, same fields."""
    assert FILLED_IN == EXAMPLES
    assert list(map(type, FILLED_IN)) == list(map(type, EXAMPLES))


@each_record
def test_a_record_cannot_be_changed(record: Any) -> None:
    """So it may be kept, and passed between threads."""
    for f in dataclasses.fields(record):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, f.name, None)


@each_record
def test_a_record_takes_no_attribute_of_other_names(record: Any) -> None:
    """A misspelt field must not seem to be set; slots also keep records small."""
    assert not hasattr(record, "__dict__")
    with pytest.raises((AttributeError, TypeError)):
        record.nickname = "A"


@each_record
def test_a_record_survives_pickle_and_copy(record: Any) -> None:
    """It crosses process boundaries."""
    assert pickle.loads(pickle.dumps(record)) == copy.deepcopy(record) == copy.copy(record) == record


@each_record
def test_equal_records_have_equal_hashes(record: Any) -> None:
    """So that sets of records work."""
    assert len({record, copy.deepcopy(record)}) == 1


@each_record
def test_a_records_repr_shows_all_but_its_secrets(record: Any) -> None:
    """Secrets are left out, not masked: their length tells too."""
    shown = {f.name for f in dataclasses.fields(record) if f"{f.name}=" in repr(record)}
    assert shown | SECRETS >= {f.name for f in dataclasses.fields(record)}
    assert not {name for name in SECRETS if f", {name}=" in repr(record) or f"({name}=" in repr(record)}


def test_a_found_session_unpacks() -> None:
    """``session, user = store.get_session_and_user(token)``"""
    session, user = found = SessionAndUser(SESSION, USER)
    assert (session, user) == (found.session, found.user) == (SESSION, USER)


def test_purge_counts_unpack() -> None:
    """And have names."""
    sessions, tokens = purged = Purged(1, 2)
    assert (sessions, tokens) == (purged.sessions, purged.verification_tokens) == (1, 2)


def test_a_sessions_id_is_made_of_the_first_half_of_the_digest() -> None:
    """128 bits, in hex: enough to be unique, too few to look a session up by."""
    assert session_id(bytes(range(32))) == "000102030405060708090a0b0c0d0e0f"


# --- fields -----------------------------------------------------------------------------------


def test_the_fields_of_a_model_are_read_in_order() -> None:
    """Names, kinds, optional or not, defaults; whatever way the type is spelt."""

    @dataclass(frozen=True, slots=True)
    class Member(User):
        plan: str = "free"
        visits: Optional[int] = None  # noqa: UP007, UP045: people write it
        note: Annotated[str, "shown"] = ""
        settings: dict[str, Any] = field(default_factory=dict)
        known: ClassVar[int] = 3

    fields = {f.name: f for f in fields_of(Member)}
    assert list(fields) == [*(f.name for f in fields_of(User)), "plan", "visits", "note", "settings"]
    assert [f.kind.name for f in fields.values()][5:] == ["text", "integer", "text", "object"]
    assert [f.optional for f in fields.values()] == [False, True, True, True, True, False, True, False, False]
    defaults = [f.default() for f in fields.values() if f.default]
    assert defaults == [None, None, None, None, "free", None, "", {}]
    assert fields["id"].default is None, "an id must be given"


@pytest.mark.parametrize("name", RECORDS)
def test_every_record_can_be_stored_itself(name: str) -> None:
    """The models that a store uses unless told otherwise."""
    assert [f.name for f in fields_of(RECORDS[name])] == [f.name for f in dataclasses.fields(RECORDS[name])]


def test_keyword_only_fields_are_fields() -> None:
    """``_: KW_ONLY`` is no field, only a mark."""

    @dataclass(frozen=True, slots=True)
    class Member(User):
        _: KW_ONLY
        plan: str = "free"

    assert fields_of(Member)[-1].name == "plan"


def test_a_subclass_of_a_custom_model_is_one_too() -> None:
    """With the fields of both."""

    @dataclass(frozen=True, slots=True)
    class Member(User):
        plan: str = "free"

    @dataclass(frozen=True, slots=True)
    class Staff(Member):
        desk: int = 0

    class Named(Staff):
        """Adds no field, so it needs no decorator."""

    assert [f.name for f in fields_of(Named)][-2:] == ["plan", "desk"]


def refused(model: Any) -> InvalidFieldError:
    """The error with which ``fields_of`` refuses the model; it says what its attributes say."""
    with pytest.raises(InvalidFieldError) as caught:
        fields_of(model)
    error = caught.value
    assert error.model == model.__name__
    assert all(part in str(error) for part in (error.model, error.field, error.expected))
    return error


def test_a_field_of_an_undecorated_class_is_refused() -> None:
    """It would be a class attribute, and silently lost."""

    class Member(User):
        plan: str = "free"

    error = refused(Member)
    assert error.field == "plan"
    assert "@dataclass" in error.expected


def test_a_field_whose_type_cannot_be_resolved_is_refused() -> None:
    """By the field's name, so that one finds it."""

    @dataclass(frozen=True, slots=True)
    class Member(User):
        plan: Nowhere | None = None  # type: ignore[name-defined]  # noqa: F821

    assert refused(Member).field == "plan"


def test_an_init_only_field_is_refused() -> None:
    """A record read back has no value for it."""

    @dataclass(frozen=True, slots=True)
    class Member(User):
        plan: InitVar[str] = "free"

    assert refused(Member).field == "plan"


def test_a_field_of_the_record_cannot_become_another_type() -> None:
    """The contract's methods rely on it."""

    @dataclass(frozen=True, slots=True)
    class Member(User):
        id: int = 0

    assert refused(Member).field == "id"


def test_a_field_given_another_default_keeps_its_rule() -> None:
    """What an address or a key must be does not depend on who declares it."""

    @dataclass(frozen=True, slots=True)
    class Member(User):
        email: str | None = "nobody@example.com"

    with pytest.raises(InvalidFieldError):
        fields_of(Member)[1].check("  ")


@pytest.mark.parametrize(
    "model", [object, int, User("1"), "User", None, dataclasses.make_dataclass("Other", ["x"])], ids=repr
)
def test_what_extends_no_record_is_no_model(model: Any) -> None:
    """A programmer's mistake."""
    with pytest.raises(TypeError, match="record"):
        fields_of(model)


def test_a_refusal_shows_the_type_and_never_the_value() -> None:
    """It may be a token in the wrong place; a naive datetime is called by its name."""
    expires = next(f for f in fields_of(Session) if f.name == "expires")
    for value, said in (("hunter2", "str of 7 characters"), (b"hunter2", "bytes"), (NAIVE, "naive")):
        error = expires.refusal(value)
        assert said in str(error)
        assert "hunter2" not in told(error)


class Moment(datetime):
    """As freezegun's and pendulum's."""


class Word(str):
    """As an enum's value or a lazy translation."""

    def __str__(self) -> str:
        return "something else"


@pytest.mark.parametrize(
    "kind, given, expected",
    [
        (str, Word("text"), "text"),
        (datetime, Moment(2026, 1, 2, 3, 4, 5, 678000, timezone.utc), START),
        (datetime, START.astimezone(INDIA), START),
        (bytes, bytearray(b"x"), b"x"),
        (float, 3, 3.0),
        (dict, {"t": (1, 2)}, {"t": [1, 2]}),
    ],
)
def test_a_value_is_kept_in_its_plain_type(kind: Any, given: Any, expected: Any) -> None:
    """Subclasses compare and pickle in ways of their own."""
    value = KINDS[kind].check(given)
    assert (value, type(value)) == (expected, kind)


def test_a_moment_is_converted_at_the_rim_of_the_calendar() -> None:
    """Where its UTC form has no date, it is refused like any other value."""
    expires = next(f for f in fields_of(Session) if f.name == "expires")
    latest = datetime.max.replace(tzinfo=timezone.utc)
    assert expires.check(latest) == latest
    for offset, rim in ((-1, datetime.max), (1, datetime.min)):
        with pytest.raises(InvalidFieldError):
            expires.check(rim.replace(tzinfo=timezone(timedelta(hours=offset))))


def test_json_is_pure_ascii_and_exact() -> None:
    """Half a surrogate pair has no UTF-8; the escape carries it."""
    value = {"half": SURROGATE, "nul": "\0", "big": 10**40, "deep": [[{"": None}]], "é": 1e-7}
    assert dump_json(value).isascii()
    assert load_json(dump_json(value)) == value


@pytest.mark.parametrize("value", [{1: 2}, [{"a": {None: 1}}], math.nan, [math.inf], {"a": {1}}, b"x"])
def test_what_would_not_come_back_the_same_is_no_json(value: Any) -> None:
    """``json`` would turn the key 1 into "1", and write NaN, which is no JSON."""
    with pytest.raises((TypeError, ValueError)):
        dump_json(value)


# --- normal forms -----------------------------------------------------------------------------


@pytest.mark.parametrize("one, other", list(SAME_ADDRESS.values()), ids=SAME_ADDRESS)
def test_spellings_of_one_address_have_one_key(one: str, other: str) -> None:
    """NFC, lower case, trimmed."""
    assert email_key(one) == email_key(other) is not None


@pytest.mark.parametrize("one, other", list(OTHER_ADDRESS.values()), ids=OTHER_ADDRESS)
def test_other_addresses_have_other_keys(one: str, other: str) -> None:
    """Nothing more is folded."""
    assert email_key(one) != email_key(other)


def test_a_normal_form_is_its_own_normal_form() -> None:
    """For every character whose form differs from itself, or one address would have two keys."""
    changing = [
        character
        for character in map(chr, [*range(0xD800), *range(0xE000, sys.maxunicode + 1)])
        if character.lower() != character or not unicodedata.is_normalized("NFC", character)
    ]
    keys = [email_key(f"a{character}b@example.com") for character in changing]
    assert len(keys) > 2000
    assert [key for key in keys if key is None or email_key(key) != key] == []


@pytest.mark.parametrize("text", ["", " ", "\t\n", "\u00a0", "\u3000", SURROGATE, "a" + SURROGATE])
def test_what_is_blank_or_no_utf8_has_no_normal_form(text: str) -> None:
    """So nobody can be found under it."""
    assert email_key(text) is None


def test_an_identifier_with_an_at_sign_is_an_address_and_no_other_is() -> None:
    """"reset:aB3" keeps its case, and a sign that only looks like an at sign is none."""
    assert identifier_key(" Ada@Example.com") == "ada@example.com"
    for lookalike in ("Ada＠Example.com", "Ada﹫Example.com"):
        assert identifier_key(lookalike) == lookalike
    assert identifier_key(" Reset:aB3 ") == " Reset:aB3 "
    assert identifier_key("") is identifier_key(SURROGATE) is identifier_key("@" + SURROGATE) is None


def test_only_what_can_be_a_key_is_storable() -> None:
    """Anything else is absent without looking."""
    longest = "é" * MAX_KEY_LENGTH
    assert [storable(text) for text in ("x", "\0", longest)] == ["x", "\0", longest]
    assert [storable(text) for text in ("", longest + "é", SURROGATE, "x" * 10**7)] == [None] * 4


# --- Auth.js ----------------------------------------------------------------------------------

EMAIL_VERIFIED = "2026-01-02T03:04:05.678000+00:00"
EXPIRES = "2286-11-20T17:46:39.999000+00:00"

AUTHJS = {
    "user": {
        "id": "1", "email": "Ada@example.com", "name": "Ada", "image": "https://example.com/a.png",
        "emailVerified": EMAIL_VERIFIED,
    },
    "account": {
        "userId": "1", "type": "oauth", "provider": "github", "providerAccountId": "42", "refresh_token": "r",
        "access_token": "a", "expires_at": 7, "token_type": "bearer", "scope": "openid",
        "id_token": "i", "session_state": "s", "team": [1],
    },
    "session": {
        "sessionToken": "secret", "userId": "1", "expires": EXPIRES,
    },
    "verification_token": {"identifier": "ada@example.com", "token": "secret", "expires": EXPIRES},
    "authenticator": {
        "credentialID": "cred", "userId": "1", "providerAccountId": "cred", "credentialPublicKey": "a2V5",
        "counter": 7, "credentialDeviceType": "singleDevice", "credentialBackedUp": True, "transports": "usb",
    },
}
"""The examples, as Auth.js has them."""


@pytest.mark.parametrize("record, authjs", list(zip(EXAMPLES, AUTHJS.values())), ids=AUTHJS)
def test_a_record_has_its_form_in_auth_js(record: Any, authjs: dict[str, Any]) -> None:
    """The names and values of @auth/core's adapter types, ready for JSON, there and back."""
    assert record.to_authjs() == json.loads(json.dumps(record.to_authjs())) == authjs
    assert type(record).from_authjs(authjs) == as_auth_js_has_it(record)


def as_auth_js_has_it(record: Any) -> Any:
    """Without what Auth.js's sessions lack."""
    return dataclasses.replace(record, id="", created_at=None) if isinstance(record, Session) else record


@pytest.mark.parametrize("name", RECORDS)
def test_custom_fields_go_to_auth_js_and_back(name: str) -> None:
    """Under their own names; bytes as base64, moments as ISO 8601, through real JSON."""
    example = dict(zip(RECORDS, EXAMPLES))[name]
    given = {f.name: getattr(example, f.name) for f in dataclasses.fields(example)}
    record = CUSTOM[name](**given, **copy.deepcopy(GIVEN))
    again = CUSTOM[name].from_authjs(json.loads(json.dumps(record.to_authjs())))
    assert again == as_auth_js_has_it(record)


def test_absent_fields_take_their_defaults() -> None:
    """Auth.js leaves out what it does not know."""
    assert User.from_authjs({"id": "1"}) == User("1")
    account = {"userId": "1", "type": "oauth", "provider": "p", "providerAccountId": "2"}
    assert Account.from_authjs(account) == Account("1", "oauth", "p", "2")


def test_a_form_from_auth_js_may_hold_datetimes_and_z() -> None:
    """What JavaScript's ``toISOString`` writes, and what a Python caller has."""
    session = {"sessionToken": "s", "userId": "1"}
    there = START.astimezone(INDIA)
    for expires in ("2026-01-02T03:04:05.678Z", "2026-01-02T08:34:05.678000+05:30", START, there):
        made = Session.from_authjs({**session, "expires": expires})
        assert (made.expires, made.expires.utcoffset()) == (START, timedelta(0))


def test_a_form_from_auth_js_is_left_as_it_was() -> None:
    """It is the caller's; and the record is no alias of it."""
    data = {**AUTHJS["account"], "team": {"members": [1]}}
    before = copy.deepcopy(data)
    Account.from_authjs(data)
    assert data == before


def test_extra_is_spread_and_cannot_pose_as_a_field() -> None:
    """A provider that sends "userId" must not change whose account it is."""
    account = Account("1", "oauth", "p", "2", extra={"userId": "evil", "extra": 1, "self": 2})
    spread = account.to_authjs()
    assert (spread["userId"], spread["extra"], spread["self"]) == ("1", {"userId": "evil", "extra": 1}, 2)
    assert Account.from_authjs(spread) == account


@pytest.mark.parametrize("name", [name for name in AUTHJS if name != "account"])
def test_an_unknown_name_from_auth_js_lists_the_known_ones(name: str) -> None:
    """Only an account has a place for it."""
    with pytest.raises(TypeError) as caught:
        RECORDS[name].from_authjs({**AUTHJS[name], "nickname": "A"})
    assert all(known in str(caught.value) for known in ("nickname", *AUTHJS[name]))


def test_what_auth_js_gets_of_a_code_has_no_attempts() -> None:
    """Its adapters refuse a column that their table lacks."""
    told = dataclasses.replace(TOKEN, attempts=5).to_authjs()
    assert [*told] == ["identifier", "token", "expires"]
    assert VerificationToken.from_authjs(told) == TOKEN


@pytest.mark.parametrize("name", AUTHJS)
def test_a_missing_field_from_auth_js_is_refused_by_name(name: str) -> None:
    """Whatever has no default must be there."""
    required = [f for f in fields_of(RECORDS[name]) if f.default is None]
    names = dict(zip([f.name for f in fields_of(RECORDS[name])], AUTHJS[name]))
    for f in required:
        data = {key: value for key, value in AUTHJS[name].items() if key != names[f.name]}
        with pytest.raises(InvalidFieldError) as caught:
            RECORDS[name].from_authjs(data)
        assert (caught.value.model, caught.value.field) == (RECORDS[name].__name__, f.name)


@pytest.mark.parametrize("expires", ["hunter2", "2026-01-02T03:04:05", "2026-01-02", NAIVE, 10**18, True, None])
def test_a_moment_from_auth_js_must_have_an_offset(expires: Any) -> None:
    """Naive ones are refused, and the error keeps no text that may be a token in the wrong place."""
    with pytest.raises(InvalidFieldError) as caught:
        Session.from_authjs({"sessionToken": "hunter2", "userId": "1", "expires": expires})
    assert caught.value.field == "expires"
    assert "hunter2" not in told(caught.value)


# --- errors -----------------------------------------------------------------------------------

ERRORS = [
    ConflictError("taken", model="User", field="email"),
    tinyauthstore.AccountNotLinkedError("not linked", provider="github"),
    NotFoundError("none", model="User", key="1"),
    InvalidFieldError("bad", model="User", field="email", expected="text"),
    CounterRegressionError("back", stored=2, given=1),
    StorageError("disk", path="auth.db"),
    tinyauthstore.BusyError("busy", path="auth.db"),
    tinyauthstore.LockedError("locked", path="auth.db"),
    tinyauthstore.ClosedError("closed"),
    tinyauthstore.TransferError("line 3 is damaged", line=3),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_belongs_to_the_family_and_survives_pickle(error: AuthStoreError) -> None:
    """One root to catch; text and evidence cross process boundaries."""
    assert isinstance(error, AuthStoreError)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_every_error_of_the_package_is_an_auth_store_error() -> None:
    """None escapes ``except AuthStoreError``."""
    exported = [getattr(tinyauthstore, name) for name in tinyauthstore.__all__ if name.endswith("Error")]
    assert {type(error) for error in ERRORS} | {AuthStoreError} == set(exported)
    assert issubclass(InvalidFieldError, ValueError)
