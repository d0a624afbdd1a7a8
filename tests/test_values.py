"""What stores make of values from outside: ages, addresses, providers' answers, Auth.js's objects."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import random
import sqlite3
import sys
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support import make_any  # noqa: F401

from tinyauthstore import (
    Account, Authenticator, InvalidFieldError, MemoryAdapter, Session, ShelveAdapter, SQLiteAdapter, User, VerificationToken,
)
from tinyauthstore.models import MAX_DEPTH, MAX_KEY_LENGTH, VERIFICATION_TOKEN, email_key, fields_of
from tinyauthstore.rows import Rows
from tinyauthstore.testing import DAY, START, FrozenClock


@pytest.fixture
def store(make: Callable[..., Any]) -> Any:
    store = make(clock=FrozenClock())
    store.create_user(id="ada", email="ada@example.com")
    return store


@dataclass(frozen=True, slots=True)
class Prefers(User):
    """With a field that holds JSON."""

    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OddAccount(Account):
    """Fields named as parameters are, here or there on their way."""

    entity: str = ""
    custom: str = ""
    fixed: str = ""
    values: str = ""
    self: str = ""
    response: str = ""
    given: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Lasting(Account):
    """With a field for what providers send of a token's lifetime."""

    expires_in: int | None = None


# --- ages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_age", [60, 3600, timedelta(hours=2), 30 * DAY, 365 * DAY], ids=str)
def test_the_update_age_is_a_thirtieth_of_the_age(make: Callable[..., Any], max_age: Any) -> None:
    clock = FrozenClock()
    store = make(clock=clock, session_max_age=max_age)
    token = store.create_session(user_id=store.create_user().id).session_token
    age = max_age if isinstance(max_age, timedelta) else timedelta(seconds=max_age)
    clock.now += age / 30 - timedelta(microseconds=1)
    assert store.touch_session(token).expires == START + age
    clock.now += timedelta(microseconds=1)
    assert store.touch_session(token).expires == clock.now + age


@pytest.mark.parametrize("max_age, update_age", [(3600, 3600), (3600, DAY), (DAY, 90000.0), (0, 0)], ids=str)
def test_an_update_age_must_be_shorter_than_the_age(max_age: Any, update_age: Any) -> None:
    with pytest.raises(ValueError, match="session_update_age.*session_max_age") as caught:
        MemoryAdapter(session_max_age=max_age, session_update_age=update_age)
    assert repr(max_age) in str(caught.value) and repr(update_age) in str(caught.value)


def test_an_age_of_nothing_needs_no_update_age() -> None:
    """Sessions that never live are odd, but say what they do."""
    with MemoryAdapter(session_max_age=0) as store:
        token = store.create_session(user_id=store.create_user().id).session_token
        assert store.get_session_and_user(token) is None


@pytest.mark.parametrize("absolute_age", [timedelta(0), timedelta(hours=1), DAY, 30 * DAY, 31 * DAY], ids=str)
def test_an_absolute_age_may_be_shorter_than_the_others(absolute_age: timedelta) -> None:
    """It is a limit: a session then ends there, touched or not."""
    clock = FrozenClock()
    with MemoryAdapter(clock=clock, session_absolute_age=absolute_age) as store:
        token = store.create_session(user_id=store.create_user().id).session_token
        while (touched := store.touch_session(token)) is not None:
            assert touched.expires <= START + absolute_age
            clock.tick(minutes=30)
        assert clock.now == START + absolute_age


@pytest.mark.parametrize("absolute_age", [7 * DAY, 30 * DAY, 40 * DAY], ids=str)
def test_a_touch_at_the_absolute_end_writes_nothing(tmp_path: Path, absolute_age: timedelta) -> None:
    """Or every request of a session's last month would."""
    clock, path = FrozenClock(), tmp_path / "auth.db"
    with SQLiteAdapter(path, clock=clock, session_absolute_age=absolute_age) as store:
        token = store.create_session(user_id=store.create_user().id).session_token
        while clock.now < START + absolute_age - DAY:
            clock.tick(days=1)
            store.touch_session(token)
        watcher = sqlite3.connect(path)
        commits = []
        for _ in range(5):
            clock.tick(hours=4)
            assert store.touch_session(token).expires == START + absolute_age  # type: ignore[union-attr]
            commits.append(watcher.execute("PRAGMA data_version").fetchone())
        watcher.close()
        assert len({*commits}) == 1


def test_the_last_part_of_the_absolute_age_is_not_lost() -> None:
    """An extension that the absolute age cuts to less than an update age is made all the same."""
    clock = FrozenClock()
    with MemoryAdapter(clock=clock, session_absolute_age=30.5 * DAY) as store:
        token = store.create_session(user_id=store.create_user().id).session_token
        clock.tick(days=29)
        assert store.touch_session(token).expires == START + 30.5 * DAY  # type: ignore[union-attr]


# --- addresses that change --------------------------------------------------------------------


@pytest.mark.parametrize("email", ["countess@example.com", None])
def test_another_address_is_not_verified(store: Any, email: str | None) -> None:
    store.update_user("ada", email_verified=START)
    assert store.update_user("ada", email=email).email_verified is None
    assert store.get_user("ada").email_verified is None


def test_the_same_address_in_another_spelling_stays_verified(store: Any) -> None:
    store.update_user("ada", email_verified=START)
    assert store.update_user("ada", email=" ADA@example.com").email_verified == START
    assert store.get_user("ada").email_verified == START


# --- what providers send ----------------------------------------------------------------------

KEY = {"provider": "github", "provider_account_id": "1"}
FIXED: dict[str, Any] = {"user_id": "ada", "type": "oauth", **KEY}


@pytest.mark.parametrize(
    "given, expected", [(7.9, 7), (-0.5, -1), ("007", 7), (2.0**62, 2**62)], ids=repr
)
def test_a_time_in_a_providers_form_becomes_whole_seconds(store: Any, given: Any, expected: int) -> None:
    account = store.link_account(**FIXED, expires_at=given)
    assert (account.expires_at, account.extra) == (expected, {})


@pytest.mark.parametrize(
    "given", ["", "1e9", "+7", "\u0667", "9" * 19, "9" * 5000, 1e300, -(2.0**64), True], ids=range(9)
)
def test_what_is_no_time_stays_in_extra(store: Any, given: Any) -> None:
    account = store.link_account(**FIXED, expires_at=given)
    assert (account.expires_at, account.extra) == (None, {"expires_at": given})


@pytest.mark.parametrize(
    "given, seconds", [(28800, 28800), ("3600", 3600), (3599.5, 3599), (0, 0), (2**62, 2**62)], ids=repr
)
def test_a_lifetime_in_seconds_becomes_the_end_and_stays_in_extra(store: Any, given: Any, seconds: int) -> None:
    """RFC 6749 § 5.1: that is what token responses hold."""
    end = int(START.timestamp()) + seconds
    account = store.link_account({"access_token": "t", "expires_in": given}, **FIXED)
    assert (account.expires_at, account.extra) == (end, {"expires_in": given})
    assert Account.from_authjs(account.to_authjs()) == store.get_account(**KEY) == account
    store.unlink_account(**KEY)
    assert store.link_account(**FIXED, expires_in=given).expires_at == end


def test_a_token_that_is_refreshed_later_ends_later(make: Callable[..., Any]) -> None:
    clock = FrozenClock()
    store = make(clock=clock)
    store.create_user(id="ada")
    store.link_account({"expires_in": 3600}, **FIXED)
    clock.tick(hours=1)
    account = store.link_account({"expires_in": 60}, **FIXED)
    assert account.expires_at == int(START.timestamp()) + 3660
    assert store.link_account({"access_token": "t"}, **FIXED).expires_at == account.expires_at


@pytest.mark.parametrize("given", [5, None, "soon"])
def test_a_lifetime_changes_no_end_that_is_given(store: Any, given: Any) -> None:
    account = store.link_account({"expires_in": 3600, "expires_at": given}, **FIXED)
    assert account.expires_at == (5 if given == 5 else None)
    assert account.extra == {"expires_in": 3600} | ({"expires_at": given} if given == "soon" else {})
    account = store.link_account({"expires_in": 60}, **FIXED, expires_at=7)
    assert account.expires_at == 7
    store.unlink_account(**KEY)
    assert store.link_account(**FIXED, extra={"expires_in": 3600}).expires_at is None


@pytest.mark.parametrize("given", ["", "soon", True, None, -1, 1e300, 2**63, "9" * 19, [3600]], ids=range(9))
def test_what_is_no_lifetime_stays_in_extra_alone(store: Any, given: Any) -> None:
    account = store.link_account({"expires_in": given}, **FIXED)
    assert (account.expires_at, account.extra) == (None, {"expires_in": given})


def test_a_custom_field_for_the_lifetime_gets_it(make: Callable[..., Any]) -> None:
    store = make(account=Lasting, clock=FrozenClock())
    store.create_user(id="ada")
    account = store.link_account({"expires_in": 3600}, **FIXED)
    assert (account.expires_in, account.extra) == (3600, {})
    assert account.expires_at == int(START.timestamp()) + 3600


def test_a_number_of_more_digits_than_python_writes_is_not_fatal(store: Any) -> None:
    assert store.link_account(**FIXED, big=-(2**20_000)).extra["big"].startswith("-0x1000")


def test_deep_json_is_read_from_deep_in_calls(store: Any) -> None:
    """What a shallow caller wrote: an application's stack is a hundred calls deep before it begins."""
    deep: Any = {}
    for _ in range(3000):
        deep = {"a": deep}
    account = store.link_account(**FIXED, deep=deep)

    def descend(levels: int) -> Any:
        return descend(levels - 1) if levels else store.get_account(**KEY)

    assert descend(400) == account


def test_a_container_that_holds_itself_is_cut(store: Any) -> None:
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    assert "loop" in store.link_account(**FIXED, loop=loop).extra


@pytest.mark.parametrize("levels, fits", [(MAX_DEPTH, True), (MAX_DEPTH + 1, False)])
def test_a_custom_field_is_nested_at_most_so_deep(make: Callable[..., Any], levels: int, fits: bool) -> None:
    deep: Any = {}
    for _ in range(levels - 1):
        deep = {"a": deep}
    store = make(user=Prefers)
    if fits:
        store.create_user(id="ada", settings=deep)
        assert store.get_user("ada").settings == deep
    else:
        with pytest.raises(InvalidFieldError, match=f"at most {MAX_DEPTH} deep"):
            store.create_user(settings=deep)


def test_custom_account_fields_may_have_the_names_of_parameters(make: Callable[..., Any]) -> None:
    store = make(account=OddAccount)
    store.create_user(id="ada")
    odd = dict.fromkeys(["entity", "custom", "fixed", "values", "self", "response", "given", "key"], "kept")
    account = store.link_account(odd, **FIXED)
    assert account == OddAccount(**FIXED, **odd) == store.get_account(**KEY)
    assert store.link_account(**FIXED, **dict.fromkeys(odd, "new")).entity == "new"


def test_a_transferred_account_is_the_same(store: Any) -> None:
    store.create_user(id="grace")
    account = store.link_account({"user_id": "x", "type": 1, "scope": ["a"]}, **FIXED, locale="en")
    store.unlink_account(**KEY)
    moved = store.link_account(**{**dataclasses.asdict(account), "user_id": "grace"})
    assert moved == dataclasses.replace(account, user_id="grace")


# --- e-mail addresses -------------------------------------------------------------------------

EVERY_CHARACTER = [chr(point) for point in (*range(0xD800), *range(0xE000, sys.maxunicode + 1))]


def test_no_character_outside_ascii_becomes_one_inside() -> None:
    """Else ``\u212aate@example.com``, another mailbox, would be ``kate@example.com``. Every code point."""
    odd = [c for c in EVERY_CHARACTER if not c.isascii() and any(k.isascii() for k in email_key(c) or ())]
    assert odd == []


@pytest.mark.parametrize("character", ["\u0130", "\u037e", "\u1fef", "\u212a"], ids=ascii)
def test_a_character_that_would_become_ascii_stays_itself(character: str) -> None:
    assert email_key(f"A{character}\u0301B@Example.com") == f"a{character}\u0301b@example.com"


def test_normal_forms_are_steady_in_every_mixture() -> None:
    """A key that has another key would be two users, or none."""
    letters = "aAKI\u0131\u0130\u212aK;\u037e`\u1fef\u00d6O\u0308\u0307\u0323\u0301\u030cJ\u01f0"
    letters += "\u03a3\u03c2\u212b\u0345@ \u3000"
    dice = random.Random(1)
    for _ in range(20_000):
        key = email_key("".join(dice.choices(letters, k=dice.randint(1, 7))))
        assert key is None or email_key(key) == key, ascii(key)


def test_lookalike_addresses_are_different_users() -> None:
    with MemoryAdapter() as store:
        for email in ("\uff41da@b.c", "ada@b.c", "ada@b\u3002c", "\u212aate@b.c", "kate@b.c", "ada\uff20b.c"):
            assert store.create_user(email=email) == store.get_user_by_email(email)


def test_blanks_and_controls_are_refused_by_every_code_point() -> None:
    email = next(f for f in fields_of(User) if f.name == "email")
    unfit = [c for c in EVERY_CHARACTER if c.isspace() or unicodedata.category(c) == "Cc"]
    assert len(unfit) > 80
    for character in unfit:
        with pytest.raises(InvalidFieldError, match="without blanks or control characters"):
            email.check(f"ada{character}b@example.com")


def test_no_other_character_is_refused() -> None:
    email = next(f for f in fields_of(User) if f.name == "email")
    fit = [c for c in EVERY_CHARACTER if not c.isspace() and unicodedata.category(c) != "Cc"]
    for start in range(0, len(fit), 20):
        if not any(map(unicodedata.combining, fit[start : start + 20])):
            email.check(f"ada{''.join(fit[start : start + 20])}@example.com")


GROWS = "\U0001d160"
"""Three characters in its normal form."""


def test_a_normal_form_that_is_too_long_is_refused(store: Any) -> None:
    with pytest.raises(InvalidFieldError):
        store.create_user(email="@" + GROWS * 1366)
    with pytest.raises(InvalidFieldError):
        store.create_verification_token(identifier="@" + GROWS * 1366)


def test_a_normal_form_that_is_too_long_is_absent(store: Any) -> None:
    assert store.get_user_by_email("@" + GROWS * 1366) is None
    assert store.use_verification_token(identifier="@" + GROWS * 1366, token="x") is None
    assert store.delete_verification_tokens("@" + GROWS * 1366) == 0


def test_the_longest_normal_form_is_accepted(store: Any) -> None:
    email = "@" + GROWS * 1365
    assert store.create_user(email=email) == store.get_user_by_email(email)


MARKS = "\u0301\u0323" * 15
"""As many as are accepted in a row, in the order that takes longest to put right."""


@pytest.mark.parametrize(
    "email",
    [
        ("a" + MARKS) * 132 + "@b", ("\u00e9" + MARKS) * 132 + "@b", "\u212a" * 4096, "\u0130" * 4096,
        "\u0301\u0323" * 2048, "a" + "\u0301" * 2047 + "\u0323" * 2048, "\u0344" * 4096, "a" * 4096,
    ],
    ids=range(8),
)  # fmt: skip
def test_a_normal_form_takes_a_few_milliseconds_at_most(email: str) -> None:
    times = []
    for _ in range(5):
        began = time.thread_time()  # of the processor: other processes may have it meanwhile
        email_key(email)
        times.append(time.thread_time() - began)
    assert len(email) <= MAX_KEY_LENGTH and min(times) < 0.008


def test_more_marks_in_a_row_than_any_language_has_are_refused(store: Any) -> None:
    email = "a" + MARKS + "\u0301@example.com"
    with pytest.raises(InvalidFieldError):
        store.create_user(email=email)
    assert store.get_user_by_email(email) is None


@pytest.mark.parametrize("identifier", ["Ada\uff20example.com", "Ada\ufe6bexample.com"], ids=ascii)
def test_an_identifier_without_the_at_sign_of_ascii_is_compared_exactly(store: Any, identifier: str) -> None:
    token = store.create_verification_token(identifier=identifier).token
    assert store.use_verification_token(identifier=identifier.lower(), token=token) is None
    assert store.use_verification_token(identifier=identifier, token=token)


@pytest.mark.parametrize("email", ["ada@example.com\r\nBcc: grace@example.com", "ada lovelace@b.c"])
def test_an_old_address_that_is_refused_today_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, email: str
) -> None:
    """Written by a release that accepted it; it can be found, and mended."""
    for suffix, make in {".db": SQLiteAdapter, ".shelf": ShelveAdapter}.items():
        with monkeypatch.context() as patch, make(tmp_path / f"a{suffix}") as store:
            patch.setattr("tinyauthstore.models._is_address", lambda text: True)
            ada = store.create_user(email=email)
        with make(tmp_path / f"a{suffix}") as store:
            assert store.get_user(ada.id) == store.get_user_by_email(email.upper()) == ada
            assert store.update_user(ada.id, name="Ada").email == email
            assert store.update_user(ada.id, email="ada@example.com").email == "ada@example.com"


def test_a_shelfs_keys_follow_the_normal_form() -> None:
    """A pending link in an old shelf works, whatever its identifier was filed under."""
    rows = Rows(VERIFICATION_TOKEN, VerificationToken)
    fields = {"identifier": "\uff21da@example.com", "expires": START.isoformat()}
    ((key, record, _),) = rows.records([[["ada@example.com", "00" * 32], fields]])
    assert key == ("\uff41da@example.com", bytes(32))
    assert record.identifier == "\uff21da@example.com"


# --- Auth.js's objects ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rich(Account):
    """Custom fields that a provider's values may miss."""

    is_admin: bool = False
    since: datetime | None = None
    badge: bytes = b""
    plan: str | None = "free"
    facts: dict[str, Any] = field(default_factory=dict)


def test_sessions_have_what_auth_js_has() -> None:
    with MemoryAdapter() as store:
        session = store.create_session(user_id=store.create_user().id)
        assert session.to_authjs().keys() == {"sessionToken", "userId", "expires"}


def test_what_an_account_lacks_is_absent() -> None:
    named = {"userId": "ada", "type": "oauth", "provider": "github", "providerAccountId": "1"}
    assert Account(**FIXED).to_authjs() == named


@pytest.mark.parametrize("value", ["yes", None, [True]], ids=repr)
def test_a_value_that_did_not_fit_a_custom_field_goes_to_auth_js(value: Any) -> None:
    with MemoryAdapter(account=Rich) as store:
        store.create_user(id="ada")
        account = store.link_account(**FIXED, is_admin=value)
        assert account.to_authjs()["is_admin"] == value
        assert Rich.from_authjs(account.to_authjs()) == account


ODD: list[Any] = [
    None, "", "soon", "yes", 0, 1, 5, -1.5, 1e300, True, False, [], ["a", "b"], [1], {}, {"a": {"b": None}},
    "AAAA", "2026-01-02T03:04:05Z", "1767323045678", {"extra": {"extra": 1}}, "\ud800", START,
]  # fmt: skip
NAMES = [
    "expires_at", "scope", "id", "extra", "user_id", "userId", "type", "provider", "providerAccountId",
    "self", "provider_account_id", "is_admin", "since", "badge", "plan", "facts", "access_token",
    "session_state", "team",
]  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_every_account_goes_to_auth_js_and_back(seed: int) -> None:
    """Whatever a provider sent."""
    dice = random.Random(seed)
    with MemoryAdapter(account=Rich) as store:
        store.create_user(id="ada")
        for number in range(100):
            response, extra = (
                {name: dice.choice(ODD) for name in dice.sample(NAMES, dice.randint(0, 6))} for _ in range(2)
            )
            fixed = FIXED | {"provider_account_id": str(number % 20)}
            account = store.link_account(response, **fixed, extra=extra)
            told = json.loads(json.dumps(account.to_authjs()))
            assert Rich.from_authjs(told) == account, (response, extra)
            given = {f.name: getattr(account, f.name) for f in dataclasses.fields(account)}
            store.unlink_account(provider="github", provider_account_id=account.provider_account_id)
            assert store.link_account(**given) == account


def test_every_other_record_goes_to_auth_js_and_back(store: Any) -> None:
    """Those with withheld tokens, too."""
    user = store.update_user("ada", name="Ada", image="i.png", email_verified=START)
    token = store.create_session(user_id="ada").session_token
    link = store.create_verification_token(identifier="ada@example.com")
    passkey = store.create_authenticator(
        user_id="ada", credential_id="c", provider_account_id="c", credential_public_key="a2V5", counter=0,
        credential_device_type="singleDevice", credential_backed_up=False,
    )  # fmt: skip
    withheld = dataclasses.replace(link, token="")
    for record in (user, store.create_user(), link, withheld, passkey):
        assert type(record).from_authjs(json.loads(json.dumps(record.to_authjs()))) == record
    for session in (store.get_session_and_user(token).session, *store.list_sessions("ada")):
        made = Session.from_authjs(json.loads(json.dumps(session.to_authjs())))
        assert made == dataclasses.replace(session, id="", created_at=None)


@pytest.mark.parametrize(
    "expires",
    [
        START, START.isoformat(), "2026-01-02T03:04:05.678901Z", "2026-01-02 03:04:05.678901 +00:00",
        1767323045678, "1767323045678",
    ],
    ids=repr,
)  # fmt: skip
def test_a_row_of_auth_js_databases_is_a_session(store: Any, expires: Any) -> None:
    """Of Drizzle, Prisma, TypeORM, Sequelize, Kysely, D1; it can be given to a store."""
    row = {"id": "row 1", "sessionToken": "token", "userId": "ada", "expires": expires}
    session = Session.from_authjs(row)
    assert abs(session.expires - START) < timedelta(milliseconds=1) and session.id == ""
    made = store.create_session(session_token="token", user_id=session.user_id, expires=session.expires)
    assert made.expires == session.expires


def test_a_flag_of_a_row_is_zero_or_one() -> None:
    row = {
        "credentialID": "c", "userId": "ada", "providerAccountId": "c", "credentialPublicKey": "a2V5",
        "counter": 0, "credentialDeviceType": "singleDevice", "credentialBackedUp": 1, "id": "row 1",
    }  # fmt: skip
    assert Authenticator.from_authjs(row).credential_backed_up is True
    with pytest.raises(InvalidFieldError):
        Authenticator.from_authjs(row | {"credentialBackedUp": 2})


def test_extra_from_auth_js_is_what_a_store_would_keep(store: Any) -> None:
    named: dict[Any, Any] = {"userId": "ada", "type": "oauth", "provider": "github", "providerAccountId": "1"}
    account = Account.from_authjs({**named, "since": START, 5: (1, 2)})
    assert account.extra == {"since": str(START), "5": [1, 2]}
    given = {f.name: getattr(account, f.name) for f in dataclasses.fields(account)}
    assert store.link_account(**given) == account


# --- hashes, metadata, limits, floats ---------------------------------------------------------


@pytest.mark.parametrize("model", [Prefers, Rich, User, Account])
def test_equal_records_have_equal_hashes_whatever_their_fields_hold(model: Any) -> None:
    fields = {"id": "ada"} if issubclass(model, User) else FIXED
    one, other = model(**fields), model(**copy.deepcopy(fields))
    assert one == other and hash(one) == hash(other) and len({one, other}) == 1


def test_a_field_that_is_not_compared_is_not_hashed() -> None:
    @dataclass(frozen=True, slots=True)
    class Member(User):
        name: str | None = field(default=None, compare=False)
        seen: int = field(default=0, compare=False)

    assert Member("1", name="a", seen=1) == Member("1", name="b", seen=2)
    assert hash(Member("1", name="a", seen=1)) == hash(Member("1", name="b", seen=2))


def test_a_model_keeps_its_own_comparison() -> None:
    @dataclass(frozen=True, slots=True, eq=False)
    class Member(User):
        def __eq__(self, other: object) -> bool:
            return isinstance(other, Member)

        def __hash__(self) -> int:
            return 5

    assert Member("1") == Member("2") and hash(Member("1")) == 5


def test_another_librarys_metadata_is_ignored(make: Callable[..., Any]) -> None:
    @dataclass(frozen=True, slots=True)
    class Member(User):
        plan: str = field(default="free", metadata={"rule": "not ours"})

    assert make(user=Member).create_user(plan="gold").plan == "gold"


@pytest.mark.parametrize("limit", [True, False, -1, 1.0, "1"], ids=repr)
def test_a_limit_is_a_number(limit: Any) -> None:
    with MemoryAdapter() as store, pytest.raises(ValueError, match="limit"):
        store.purge_expired(limit=limit)


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinity_is_kept_in_every_store(tmp_path: Path, value: float) -> None:
    """In files, too, until they are opened again."""
    @dataclass(frozen=True, slots=True)
    class Scored(User):
        score: float = 0.0

    for make in (SQLiteAdapter, ShelveAdapter):
        with make(tmp_path / make.__name__, user=Scored) as store:
            ada = store.create_user(score=value)
        with make(tmp_path / make.__name__, user=Scored) as store:
            assert store.get_user(ada.id) == ada and ada.score == value
            assert store.check() == []
