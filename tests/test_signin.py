"""``signin.py``: its rules, over every kind of store, and what attackers try.

Ada is the victim, Mallory the attacker. What "before they came" means is from Sudhodanan and Paverd, "Pre-hijacked
accounts" (USENIX Security 2022), whose five attacks are tried here.
"""

from __future__ import annotations

import asyncio
import itertools
import pickle
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from guests import Partial
from support import ANY_STORE, Crew, link, register

from tinyauthstore import (
    AccountNotLinkedError, AuthStoreError, ConflictError, CounterRegressionError, InvalidFieldError,
    MemoryAdapter, Session, SplitAdapter, SQLiteAdapter, User,
)
from tinyauthstore.aio import AsyncAdapter
from tinyauthstore.signin import (
    SignedIn, confirm_email_change, link_account_to, request_email_change, sign_in_by_account, sign_in_by_email,
    sign_in_by_passkey,
)
from tinyauthstore.testing import FAR, METHODS, START, UTC, FrozenClock, race

CROWD = 32
ADA = "ada@example.com"
HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Device(Session):
    agent: str = ""


class Guest(Partial):
    """An adapter of somebody else's: the contract's methods, and nothing that only ours have."""

    def __init__(self, **options: Any) -> None:
        super().__init__(METHODS | {"__enter__", "__exit__"}, MemoryAdapter(**options))


def split(folder: Path, **options: Any) -> SplitAdapter:
    """Users in a file, all else in memory."""
    return SplitAdapter(
        users=SQLiteAdapter(folder / "users.db", durability="normal", **options),
        sessions=MemoryAdapter(**options), verification=MemoryAdapter(**options),
    )


STORES: dict[str, Callable[..., Any]] = {
    **ANY_STORE,
    "file": lambda folder, **options: SQLiteAdapter(folder / "auth.db", durability="normal", **options),
    "split": split,
    "guest": lambda folder, **options: Guest(**options),
}


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: FrozenClock) -> Iterator[Any]:
    store = STORES[request.param](tmp_path, clock=clock, session=Device)
    yield store
    store.close()


# --- what the tests say -----------------------------------------------------------------------


def mailed(store: Any, address: str = ADA) -> dict[str, str]:
    """What a link holds that was mailed to that address."""
    made = store.create_verification_token(identifier=address)
    return {"identifier": made.identifier, "token": made.token}


def by_email(store: Any, address: str = ADA, **given: Any) -> Any:
    """Whoever reads the mail of that address signs in."""
    return sign_in_by_email(store, **mailed(store, address), **given)


def at(provider: str, number: str = "1", **tokens: Any) -> dict[str, Any]:
    return {"type": "oauth", "provider": provider, "provider_account_id": number, **tokens}


def by_account(store: Any, account: dict[str, Any] | None = None, **given: Any) -> Any:
    """Sign in at GitHub as 1, whose profile may be given field by field."""
    names = ("proves_email", "session_token", "expires", "agent")
    options = {name: given.pop(name) for name in names if name in given}
    return sign_in_by_account(store, account=account or at("github"), profile=given, **options)


def live(store: Any, signed_in: Any) -> bool:
    """Whether that sign-in's session goes on."""
    return store.get_session_and_user(signed_in.session.session_token) is not None


def portrait(store: Any, *user_ids: str) -> list[Any]:
    """All that the store shows of these users."""
    return [
        (
            store.get_user(one), [*store.list_accounts(one)], [*store.list_sessions(one)],
            [*store.list_authenticators_by_user_id(one)],
        )
        for one in user_ids
    ]


def proven(store: Any, id: str = "ada", email: str = ADA) -> Any:
    return store.create_user(id=id, email=email, email_verified=START - HOUR)


def signed_in(store: Any, user_id: str) -> str:
    token: str = store.create_session(user_id=user_id).session_token
    return token


# --- by e-mail --------------------------------------------------------------------------------


def test_a_new_address_becomes_a_user_whose_address_is_proven(store: Any) -> None:
    answer = by_email(store, "Ada@Example.com")
    assert isinstance(answer, SignedIn) and answer.is_new_user
    assert (answer.user.email, answer.user.email_verified) == ("Ada@Example.com", START)
    assert store.get_session_and_user(answer.session.session_token) == (answer.session, answer.user)


def test_an_address_is_kept_without_the_blanks_around_it(store: Any, clock: FrozenClock) -> None:
    """A line break at its end would end a mail's header."""
    assert by_email(store, " ada@example.com\n").user.email == ADA
    account = by_account(store, email="\tgrace@example.com ")
    assert account.user.email == "grace@example.com"
    token = account.session.session_token
    assert confirmed(store, token, requested(store, token, " new@example.com\n"), NEW + "\r").user.email == NEW


@pytest.mark.parametrize("address", [ADA, "ADA@Example.com", " ada@example.com\n"])
def test_a_known_address_is_its_user_however_it_is_spelt(store: Any, address: str) -> None:
    ada = proven(store)
    answer = by_email(store, address)
    assert (answer.user, answer.is_new_user) == (ada, False)
    assert answer.session.user_id == "ada" and live(store, answer)


def test_the_first_proof_of_an_address_is_the_one_that_is_kept(store: Any, clock: FrozenClock) -> None:
    by_email(store)
    clock.tick(days=1)
    assert by_email(store).user.email_verified == START


def test_a_link_signs_in_once(store: Any) -> None:
    link = mailed(store)
    assert sign_in_by_email(store, **link) and sign_in_by_email(store, **link) is None
    assert len(store.list_sessions(store.get_user_by_email(ADA).id)) == 1


def test_a_link_that_has_expired_signs_nobody_in(store: Any, clock: FrozenClock) -> None:
    link = mailed(store)
    clock.tick(minutes=10)
    assert sign_in_by_email(store, **link) is None
    assert store.get_user_by_email(ADA) is None


def test_a_link_is_good_for_its_own_address_only(store: Any) -> None:
    proven(store)
    link = mailed(store, "mallory@example.com")
    assert sign_in_by_email(store, identifier=ADA, token=link["token"]) is None
    assert store.list_sessions("ada") == []


def test_who_fails_to_sign_in_stays_who_they_were(store: Any) -> None:
    before = by_email(store)
    token = before.session.session_token
    assert sign_in_by_email(store, identifier=ADA, token="guessed", session_token=token) is None
    assert live(store, before)


@pytest.mark.parametrize(
    "identifier", ["reset:ada", "ada", "ada＠example.com", "", " ", "a da@example.com", "\ud800@"]
)
def test_a_token_for_anything_but_an_address_signs_nobody_in_and_is_not_used_up(store: Any, identifier: str) -> None:
    """An application has other purposes; to whom such a token was given is for it to know."""
    token = "token"
    try:
        store.create_verification_token(identifier=identifier, token=token)
    except InvalidFieldError:
        assert sign_in_by_email(store, identifier=identifier, token=token) is None
        return
    assert sign_in_by_email(store, identifier=identifier, token=token) is None
    assert store.use_verification_token(identifier=identifier, token=token)


@pytest.mark.parametrize(
    "text", ["\0", "\ud800", "x" * 10_000_000, "' OR '1'='1", "@", "%@%"], ids=lambda text: ascii(text[:9])
)
def test_whatever_a_stranger_sends_signs_nobody_in(store: Any, text: str) -> None:
    proven(store)
    token = signed_in(store, "ada")
    before = portrait(store, "ada")
    assert sign_in_by_email(store, identifier=text, token=text, session_token=text) is None
    assert sign_in_by_email(store, identifier=ADA, token=text, session_token=text) is None
    assert sign_in_by_passkey(store, credential_id=text, counter=1, session_token=text) is None
    assert link_account_to(store, session_token=text, account=at("github")) is None
    assert request_email_change(store, session_token=text, email="new@example.com") is None
    for session_token, email in ((text, "new@example.com"), (token, text), (token, "new@example.com")):
        assert confirm_email_change(store, session_token=session_token, email=email, token=text) is None
    assert portrait(store, "ada") == before


@pytest.mark.parametrize("wrong", [5, b"x", None])
def test_what_is_no_text_is_a_programmers_mistake(store: Any, wrong: Any) -> None:
    proven(store)
    token = signed_in(store, "ada")
    calls: list[Callable[[], Any]] = [
        lambda: sign_in_by_email(store, identifier=wrong, token="x"),
        lambda: sign_in_by_email(store, identifier=ADA, token=wrong),
        lambda: sign_in_by_passkey(store, credential_id=wrong, counter=1),
        lambda: link_account_to(store, session_token=wrong, account=at("github")),
        lambda: confirm_email_change(store, session_token=token, email=wrong, token="x"),
        lambda: confirm_email_change(store, session_token=token, email=ADA, token=wrong),
    ]
    for call in calls:
        with pytest.raises(TypeError):
            call()


def test_a_code_signs_in_until_it_was_guessed_at_too_often(store: Any) -> None:
    """Sign-ins that fail are counted, though nothing else of them stays."""
    for wrong, answer in ((4, SignedIn), (5, type(None))):
        store.create_verification_token(identifier=ADA, token="123456", attempts=5)
        for i in range(wrong):
            assert sign_in_by_email(store, identifier=ADA, token=f"guess {i}") is None
        assert type(sign_in_by_email(store, identifier=ADA, token="123456")) is answer


# --- what somebody left who registered the address first ----------------------------------------


@pytest.fixture
def prepared(store: Any) -> Any:
    """What Mallory left with Ada's address, never proven: a session, an account, a passkey, a pending change."""
    store.create_user(id="ada", email=ADA, name="Mallory's")
    token = signed_in(store, "ada")
    link(store, "ada", "mallory")
    register(store, "ada", "mallory")
    change = request_email_change(store, session_token=token, email="mallory@example.com")
    return {"session": token, "change": change.token}


def test_the_first_proof_of_an_address_keeps_the_user_and_drops_every_way_in(store: Any, prepared: Any) -> None:
    answer = by_email(store)
    assert (answer.user.id, answer.user.email_verified, answer.is_new_user) == ("ada", START, False)
    [(user, accounts, [session], passkeys)] = portrait(store, "ada")
    assert (user, accounts, session.id, passkeys) == (answer.user, [], answer.session.id, [])


def test_an_unexpired_session_is_no_way_in(store: Any, prepared: Any) -> None:
    by_email(store)
    assert store.get_session_and_user(prepared["session"]) is None


def test_a_trojan_account_or_passkey_is_no_way_in(store: Any, prepared: Any) -> None:
    """The account comes back as somebody who has it, and not as Ada."""
    by_email(store)
    assert sign_in_by_passkey(store, credential_id="mallory", counter=9) is None
    assert by_account(store, at("github", "mallory")).user.id != "ada"
    with pytest.raises(AccountNotLinkedError):
        by_account(store, at("github", "mallory again"), email=ADA, email_verified=True)


def test_an_unexpired_change_of_address_is_no_way_in(store: Any, prepared: Any) -> None:
    """Even from a session of Ada's own, into which she may have been lured to follow the link."""
    answer = by_email(store)
    given = {"email": "mallory@example.com", "token": prepared["change"]}
    for token in (prepared["session"], answer.session.session_token):
        assert confirm_email_change(store, session_token=token, **given) is None
    assert store.get_user("ada").email == ADA


def test_a_classic_federated_merge_is_refused(store: Any, prepared: Any) -> None:
    """Mallory registered by the address, Ada comes by a provider that is trusted."""
    before = portrait(store, "ada")
    with pytest.raises(AccountNotLinkedError):
        by_account(store, at("google"), email=ADA, email_verified=True, proves_email=True)
    assert portrait(store, "ada") == before


def test_a_provider_that_verifies_nothing_proves_nothing(store: Any) -> None:
    """Mallory names Ada's address there. When Ada proves it, his account is not in her way, nor in her user."""
    mallory = by_account(store, at("lax"), email=ADA, email_verified=True)
    assert mallory.user.email_verified is None
    ada = by_email(store)
    assert not live(store, mallory) and store.list_accounts(ada.user.id) == []
    with pytest.raises(AccountNotLinkedError):
        by_account(store, at("lax"), email=ADA, email_verified=True)


@pytest.mark.parametrize("claim", [True, START])
def test_without_trust_a_new_users_address_is_unproven_whatever_the_profile_says(store: Any, claim: Any) -> None:
    assert by_account(store, email=ADA, email_verified=claim).user.email_verified is None


def test_what_is_proven_already_keeps_its_ways_in(store: Any) -> None:
    proven(store)
    signed_in(store, "ada")
    link(store, "ada")
    register(store, "ada")
    [(*before, passkeys)] = portrait(store, "ada")
    by_email(store)
    [(user, accounts, sessions, passkeys_after)] = portrait(store, "ada")
    assert ([user, accounts], passkeys_after) == (before[:2], passkeys)
    assert len(sessions) == 2


# --- by account -------------------------------------------------------------------------------


def test_an_unknown_account_becomes_a_new_user(store: Any) -> None:
    account = at("github", access_token="a", team="red")
    answer = by_account(store, account, email="Ada@example.com", name="Ada", image="ada.png")
    assert answer.is_new_user and live(store, answer)
    expected = User(answer.user.id, email="Ada@example.com", name="Ada", image="ada.png")
    assert answer.user == expected == store.get_user(answer.user.id)
    [linked] = store.list_accounts(answer.user.id)
    assert (linked.type, linked.provider, linked.provider_account_id) == ("oauth", "github", "1")
    assert (linked.access_token, linked.extra) == ("a", {"team": "red"})


def test_a_known_account_is_its_user_with_fresh_tokens(store: Any) -> None:
    first = by_account(store, at("github", access_token="old", refresh_token="kept"))
    again = by_account(store, at("github", access_token="new"))
    assert (again.user, again.is_new_user) == (first.user, False)
    [linked] = store.list_accounts(first.user.id)
    assert (linked.access_token, linked.refresh_token) == ("new", "kept")


def test_an_address_that_changes_at_the_provider_changes_nothing_here(store: Any) -> None:
    """Nor does it lead to the user who has it: the account decides."""
    grace = by_account(store, email="grace@example.com")
    proven(store)
    for address in ("new@example.com", ADA, None):
        answer = by_account(store, email=address, email_verified=True, proves_email=True, name="new")
        assert (answer.user, answer.is_new_user) == (grace.user, False)


def test_a_known_account_proves_no_address_that_was_unproven(store: Any) -> None:
    """What came in beside it since then, nobody knows; a mail to the address settles that."""
    first = by_account(store, email=ADA)
    again = by_account(store, email=ADA, email_verified=True, proves_email=True)
    assert again.user == first.user and again.user.email_verified is None


@pytest.mark.parametrize(
    "verified, since",
    [(True, START), (START - HOUR, START - HOUR), (datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC))],
)
def test_a_trusted_provider_proves_a_new_users_address(store: Any, verified: Any, since: datetime) -> None:
    answer = by_account(store, email=ADA, email_verified=verified, proves_email=True)
    assert answer.user.email_verified == since == store.get_user(answer.user.id).email_verified


@pytest.mark.parametrize(
    "claim", ["true", "false", "True", 1, 1.0, [True], {"a": 1}, "2026-01-01", None, False, datetime(2026, 1, 1)]
)
def test_only_true_and_an_aware_datetime_prove_an_address(store: Any, claim: Any) -> None:
    """``bool("false")`` is True, and a naive datetime is no moment."""
    assert by_account(store, email=ADA, email_verified=claim, proves_email=True).user.email_verified is None
    proven(store, "grace", "grace@example.com")
    with pytest.raises(AccountNotLinkedError):
        by_account(store, at("github", "2"), email="grace@example.com", email_verified=claim, proves_email=True)


@pytest.mark.parametrize(
    "trusted, claimed, known", [case for case in itertools.product([True, False], repeat=3) if not all(case)]
)
def test_a_taken_address_is_refused_unless_everybody_has_proven_it(
    store: Any, trusted: bool, claimed: bool, known: bool
) -> None:
    store.create_user(id="ada", email=ADA, email_verified=START if known else None)
    browser = signed_in(store, "ada")
    before = portrait(store, "ada")
    with pytest.raises(AccountNotLinkedError) as caught:
        by_account(store, email=ADA, email_verified=claimed, proves_email=trusted, session_token=browser)
    assert portrait(store, "ada") == before
    assert store.get_account(provider="github", provider_account_id="1") is None
    assert caught.value.provider == "github"


@pytest.mark.parametrize("address", [ADA, "ADA@EXAMPLE.COM", " ada@example.com "])
def test_an_account_is_linked_where_everybody_has_proven_the_address(store: Any, address: str) -> None:
    ada = proven(store)
    answer = by_account(store, email=address, email_verified=True, proves_email=True, name="Mallory")
    assert (answer.user, answer.is_new_user) == (ada, False)
    assert [one.user_id for one in store.list_accounts("ada")] == ["ada"]


@pytest.mark.parametrize("address", ["\uff41da@example.com", "ada+1@example.com", "ada@example.org"])
def test_a_look_alike_of_an_address_is_somebody_else(store: Any, address: str) -> None:
    proven(store)
    answer = by_account(store, email=address, email_verified=True, proves_email=True)
    assert answer.is_new_user and answer.user.id != "ada"


def test_the_refusal_withholds_the_address_and_survives_pickle(store: Any) -> None:
    proven(store)
    with pytest.raises(AccountNotLinkedError) as caught:
        by_account(store, email=ADA, email_verified=True)
    error = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(error, ConflictError)
    assert (error.model, error.field, error.provider) == ("User", "email", "github")
    assert "ada" not in f"{error} {error!r} {vars(error)}" and "'github'" in str(error)


def test_whoever_is_signed_in_is_not_linked_to_an_account_that_signs_in(store: Any) -> None:
    """Mallory may have forged the request that came back to Ada's browser."""
    ada = by_email(store)
    mallory = by_account(store, session_token=ada.session.session_token)
    assert mallory.user.id != ada.user.id and store.list_accounts(ada.user.id) == []
    assert not live(store, ada)


def test_an_account_whose_user_was_deleted_is_unknown(store: Any) -> None:
    first = by_account(store)
    store.delete_user(first.user.id)
    again = by_account(store)
    assert again.is_new_user and again.user.id != first.user.id


def test_the_same_number_at_two_providers_is_two_accounts(store: Any) -> None:
    assert by_account(store, at("github")).user.id != by_account(store, at("gitlab")).user.id


@pytest.mark.parametrize(
    "unfit",
    [5, "", " ", "a b@example.com", "no-at-sign", "\ud800@example.com", ["ada@example.com"], "x@" * 9000],
    ids=lambda unfit: ascii(unfit)[:20],
)
def test_no_profile_keeps_anybody_from_signing_in(store: Any, unfit: Any) -> None:
    answer = by_account(store, email=unfit, name=5, image="\ud800", email_verified=True, proves_email=True)
    assert answer.user == User(answer.user.id)
    assert live(store, answer)


def test_an_account_without_its_names_is_a_type_error_that_lists_them(store: Any) -> None:
    for name in ("type", "provider", "provider_account_id"):
        account = {key: value for key, value in at("github").items() if key != name}
        with pytest.raises(TypeError, match=f"lacks {name}$"):
            sign_in_by_account(store, account=account, profile={})
    with pytest.raises(TypeError, match="provider_account_id must be a str"):
        sign_in_by_account(store, account=at("github") | {"provider_account_id": 1}, profile={})


def test_what_a_provider_sends_as_user_id_does_not_decide_who_it_is(store: Any) -> None:
    proven(store)
    answer = by_account(store, at("github", user_id="ada", userId="ada"))
    assert answer.user.id != "ada" and store.list_accounts("ada") == []


# --- linking ----------------------------------------------------------------------------------


def test_an_account_is_linked_to_who_is_signed_in(store: Any) -> None:
    ada = by_email(store)
    token = ada.session.session_token
    account = link_account_to(store, session_token=token, account=at("github", access_token="a"))
    assert (account.user_id, account.access_token) == (ada.user.id, "a")
    assert by_account(store).user == ada.user
    assert link_account_to(store, session_token=token, account=at("github", access_token="b")).access_token == "b"


def test_an_account_is_linked_to_nobody_whose_session_has_ended(store: Any) -> None:
    ada = by_email(store)
    store.delete_session(ada.session.session_token)
    assert link_account_to(store, session_token=ada.session.session_token, account=at("github")) is None
    assert store.get_account(provider="github", provider_account_id="1") is None


def test_another_users_account_is_a_conflict(store: Any) -> None:
    grace = by_account(store, at("github", access_token="hers"))
    ada = by_email(store)
    before = portrait(store, ada.user.id, grace.user.id)
    with pytest.raises(ConflictError):
        link_account_to(store, session_token=ada.session.session_token, account=at("github", access_token="new"))
    assert portrait(store, ada.user.id, grace.user.id) == before


# --- by passkey -------------------------------------------------------------------------------


@pytest.mark.parametrize("told, kept", [(True, True), (False, False), (None, False)])
def test_a_passkey_signs_its_user_in_and_its_state_is_stored(store: Any, told: Any, kept: bool) -> None:
    ada = proven(store)
    register(store, "ada", counter=4, credential_backed_up=False)
    answer = sign_in_by_passkey(store, credential_id="1", counter=5, backed_up=told)
    assert (answer.user, answer.is_new_user) == (ada, False) and live(store, answer)
    passkey = store.get_authenticator("1")
    assert (passkey.counter, passkey.credential_backed_up) == (5, kept)


def test_a_passkey_that_does_not_count_signs_in(store: Any) -> None:
    proven(store)
    register(store, "ada", counter=0)
    assert sign_in_by_passkey(store, credential_id="1", counter=0).user.id == "ada"


@pytest.mark.parametrize("counter", [0, 4, 5])
def test_a_passkey_that_may_be_a_clone_changes_nothing(store: Any, counter: int) -> None:
    proven(store)
    register(store, "ada", counter=5)
    browser = signed_in(store, "ada")
    before = portrait(store, "ada")
    with pytest.raises(CounterRegressionError):
        sign_in_by_passkey(store, credential_id="1", counter=counter, backed_up=True, session_token=browser)
    assert portrait(store, "ada") == before


# --- every sign-in ----------------------------------------------------------------------------


def by_passkey(store: Any, **given: Any) -> Any:
    if store.get_authenticator("1") is None:
        proven(store, "grace", "grace@example.com")
        register(store, "grace", counter=0)
    return sign_in_by_passkey(store, credential_id="1", counter=0, **given)


each_way = pytest.mark.parametrize("sign_in", [by_email, by_account, by_passkey])


@each_way
def test_a_sign_in_ends_the_browsers_session_and_no_other(store: Any, sign_in: Callable[..., Any]) -> None:
    """Whosever it was, and under a new token: whoever planted the cookie has none to use."""
    proven(store, "other", "other@example.com")
    old, other = signed_in(store, "other"), signed_in(store, "other")
    answer = sign_in(store, session_token=old)
    assert store.get_session_and_user(old) is None and store.get_session_and_user(other) is not None
    assert answer.session.session_token not in (old, other)


@each_way
def test_a_session_that_is_none_is_no_hindrance(store: Any, sign_in: Callable[..., Any]) -> None:
    for token in ("", "unknown", "\ud800"):
        assert live(store, sign_in(store, session_token=token))


@each_way
def test_a_session_gets_the_fields_that_are_given(store: Any, sign_in: Callable[..., Any]) -> None:
    session = sign_in(store, expires=FAR, agent="curl").session
    assert (session.expires, session.agent) == (FAR, "curl")
    assert store.get_session_and_user(session.session_token).session == session


@each_way
@pytest.mark.parametrize("fields", [{"agent": 5}, {"expires": datetime(2026, 1, 1)}])
def test_a_sign_in_that_fails_at_its_end_has_done_nothing(
    store: Any, sign_in: Callable[..., Any], fields: dict[str, Any]
) -> None:
    by_passkey(store)
    store.create_user(id="ada", email=ADA)
    browser = signed_in(store, "ada")
    before = portrait(store, "ada", "grace")
    given = mailed(store)
    with pytest.raises(InvalidFieldError):
        if sign_in is by_email:
            sign_in_by_email(store, **given, session_token=browser, **fields)
        else:
            sign_in(store, session_token=browser, **fields)
    assert portrait(store, "ada", "grace") == before
    assert store.get_account(provider="github", provider_account_id="1") is None
    assert sign_in_by_email(store, **given)


@each_way
def test_a_sign_in_is_undone_with_the_transaction_around_it(store: Any, sign_in: Callable[..., Any]) -> None:
    with pytest.raises(ZeroDivisionError), store.transaction():
        answer = sign_in(store)
        raise ZeroDivisionError
    assert not live(store, answer) and store.get_user(answer.user.id) is None


@each_way
def test_a_sign_ins_answer_shows_no_token(store: Any, sign_in: Callable[..., Any]) -> None:
    answer = sign_in(store)
    assert answer.session.session_token not in repr(answer)


class Counting(MemoryAdapter):
    """It counts the transactions that were begun, and the look-ups of sessions outside of any."""

    begun = outside = 0

    def _begin(self, depth: int, patience: float) -> None:
        self.begun += depth == 0
        super()._begin(depth, patience)

    def get_session_and_user(self, session_token: str) -> Any:
        self.outside += not self._marks
        return super().get_session_and_user(session_token)


def test_each_function_is_one_transaction() -> None:
    """What it has looked up holds until it has written: the session has not ended meanwhile."""
    with Counting() as store:
        proven(store)
        register(store, "ada", counter=0)
        token, link = signed_in(store, "ada"), mailed(store)
        calls: list[Callable[[], Any]] = [
            lambda: sign_in_by_email(store, **link),
            lambda: sign_in_by_account(store, account=at("github"), profile={"email": "grace@example.com"}),
            lambda: link_account_to(store, session_token=token, account=at("gitlab")),
            lambda: sign_in_by_passkey(store, credential_id="1", counter=0),
            lambda: request_email_change(store, session_token=token, email=NEW),
            lambda: confirm_email_change(store, session_token=token, email=NEW, token=change.token),
        ]
        for number, call in enumerate(calls):
            change = request_email_change(store, session_token=token, email=NEW) if number == 5 else None
            store.begun = store.outside = 0
            assert call() is not None
            assert (store.begun, store.outside) == (1, 0)


# --- change of address ------------------------------------------------------------------------

NEW = "New@example.com"


@pytest.fixture
def browser(store: Any) -> str:
    """The token of the session in which Ada, whose address is proven, wants another one."""
    proven(store)
    return signed_in(store, "ada")


def requested(store: Any, browser: str, email: str = NEW) -> str:
    """The token that is mailed to the new address."""
    token: str = request_email_change(store, session_token=browser, email=email).token
    return token


def confirmed(store: Any, browser: str, token: str, email: str = NEW) -> Any:
    return confirm_email_change(store, session_token=browser, email=email, token=token)


def test_an_address_stays_until_the_new_one_is_proven(store: Any, browser: str) -> None:
    before = portrait(store, "ada")
    requested(store, browser)
    assert portrait(store, "ada") == before


def test_the_new_address_counts_once_it_is_proven(store: Any, browser: str, clock: FrozenClock) -> None:
    token = requested(store, browser)
    clock.tick(minutes=5)
    answer = confirmed(store, browser, token)
    assert (answer.user.email, answer.user.email_verified) == (NEW, START + timedelta(minutes=5))
    assert answer.user == store.get_user("ada") == store.get_user_by_email(NEW) and not answer.is_new_user
    assert store.get_user_by_email(ADA) is None


def test_the_address_may_be_spelt_in_another_way_when_it_is_confirmed(store: Any, browser: str) -> None:
    token = requested(store, browser, "New@Example.com")
    assert confirmed(store, browser, token, "new@example.com").user.email == "new@example.com"


def test_a_change_of_address_rotates_the_session_and_ends_the_others(store: Any, browser: str) -> None:
    other = signed_in(store, "ada")
    store.update_session(browser, agent="firefox")
    answer = confirmed(store, browser, requested(store, browser))
    assert [store.get_session_and_user(token) for token in (browser, other)] == [None, None]
    assert [one.id for one in store.list_sessions("ada")] == [answer.session.id]
    assert live(store, answer) and answer.session.agent == "firefox"


def test_what_was_mailed_to_the_old_address_works_no_more(store: Any, browser: str) -> None:
    links = [mailed(store, ADA), mailed(store, "ADA@example.com")]
    grace = mailed(store, "grace@example.com")
    confirmed(store, browser, requested(store, browser))
    assert [sign_in_by_email(store, **link) for link in links] == [None, None]
    assert sign_in_by_email(store, **grace)


def test_what_was_mailed_to_the_new_address_works_on(store: Any, browser: str) -> None:
    link = mailed(store, NEW)
    confirmed(store, browser, requested(store, browser))
    assert sign_in_by_email(store, **link).user.id == "ada"


def test_a_change_that_was_confirmed_once_is_over(store: Any, browser: str) -> None:
    token = requested(store, browser)
    answer = confirmed(store, browser, token)
    assert confirmed(store, answer.session.session_token, token) is None


def test_a_change_that_was_not_confirmed_in_time_is_over(store: Any, browser: str, clock: FrozenClock) -> None:
    token = requested(store, browser)
    clock.tick(minutes=10)
    assert confirmed(store, browser, token) is None


@pytest.mark.parametrize("email", [ADA, "victim@example.com", "new@example.org"])
def test_a_token_proves_no_address_but_that_to_which_it_was_mailed(store: Any, browser: str, email: str) -> None:
    token = requested(store, browser)
    assert confirmed(store, browser, token, email) is None
    assert confirmed(store, browser, token) is not None


def test_the_latest_request_counts(store: Any, browser: str) -> None:
    """Whether for another address, which may have been a slip, or for the same."""
    first = requested(store, browser, "slip@example.com")
    second, third = requested(store, browser), requested(store, browser)
    assert confirmed(store, browser, first, "slip@example.com") is None
    assert confirmed(store, browser, second) is None
    assert confirmed(store, browser, third)


def test_a_token_for_a_change_signs_nobody_in(store: Any, browser: str) -> None:
    made = request_email_change(store, session_token=browser, email=NEW)
    for identifier in (NEW, ADA, made.identifier):
        assert sign_in_by_email(store, identifier=identifier, token=made.token) is None
        assert store.use_verification_token(identifier=identifier, token=made.token) is None
    assert confirmed(store, browser, made.token)


def test_a_token_for_a_sign_in_changes_no_address(store: Any, browser: str) -> None:
    for address in (NEW, ADA):
        assert confirmed(store, browser, mailed(store, address)["token"]) is None


def test_no_address_is_the_identifier_of_a_change(store: Any, browser: str) -> None:
    made = request_email_change(store, session_token=browser, email=NEW)
    assert "@" not in made.identifier
    with pytest.raises(InvalidFieldError):
        store.create_user(email=made.identifier)


def test_a_change_needs_a_session_of_the_user_who_asked_for_it(store: Any, browser: str) -> None:
    proven(store, "mallory", "mallory@example.com")
    token = requested(store, browser)
    mallory = signed_in(store, "mallory")
    store.delete_session(browser)
    for session_token in (mallory, browser, ""):
        assert confirmed(store, session_token, token) is None
    assert confirmed(store, signed_in(store, "ada"), token)


@pytest.mark.parametrize("one, other", [("Ada@x", "ada@x"), ("ada", "ada "), ("a" * 4096, "a" * 4095)])
def test_users_with_similar_ids_have_changes_of_their_own(store: Any, one: str, other: str) -> None:
    for user_id in (one, other):
        store.create_user(id=user_id)
    ours, theirs = signed_in(store, one), signed_in(store, other)
    token = requested(store, ours)
    requested(store, theirs, "other@example.com")
    assert confirmed(store, theirs, token) is None
    assert confirmed(store, ours, token).user.id == one


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_an_address_that_is_taken_is_a_conflict_for_who_can_read_its_mail(store: Any, browser: str, when: str) -> None:
    """Nobody else learns that it is taken."""
    if when == "before":
        store.create_user(id="grace", email=NEW)
    token = requested(store, browser)
    if when == "meanwhile":
        store.create_user(id="grace", email=NEW.upper())
    before = portrait(store, "ada", "grace")
    with pytest.raises(ConflictError) as caught:
        confirmed(store, browser, token)
    assert (caught.value.model, caught.value.field) == ("User", "email")
    assert portrait(store, "ada", "grace") == before
    store.delete_user("grace")
    assert confirmed(store, browser, token), "the token was not used up"


def test_an_own_address_can_be_proven_where_one_is_signed_in(store: Any) -> None:
    ada = by_account(store, email=ADA)
    token = ada.session.session_token
    answer = confirmed(store, token, requested(store, token, ADA), ADA)
    assert (answer.user.id, answer.user.email_verified) == (ada.user.id, START)
    assert len(store.list_accounts(ada.user.id)) == 1


@pytest.mark.parametrize("email", ["", "ada", "a b@example.com", "x" * 4097, 5, None, "ada@example.com\r\nBcc: x@y.z"])
def test_what_is_no_address_is_refused_by_name(store: Any, browser: str, email: Any) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        request_email_change(store, session_token=browser, email=email)
    assert (caught.value.model, caught.value.field) == ("User", "email")


def test_the_longest_address_can_be_changed_to(store: Any, browser: str) -> None:
    email = "x" * 4090 + "@y.zz"
    assert confirmed(store, browser, requested(store, browser, email), email)


# --- many at once -----------------------------------------------------------------------------


def come(store: Any, number: int, links: list[dict[str, str]], *, trusted: bool = True) -> Any:
    """One of many sign-ins of the same person, by turns by e-mail and by account."""
    try:
        if number % 2:
            return sign_in_by_email(store, **links[number])
        profile = {"email": (ADA, ADA.upper())[number % 4 // 2], "email_verified": True}
        account = at("google", access_token=str(number))
        return sign_in_by_account(store, account=account, profile=profile, proves_email=trusted)
    except AuthStoreError as error:
        return error


def assert_one_person(store: Any, answers: list[Any]) -> None:
    """Everybody was signed in, as one user with one account; one of them was new."""
    assert {type(answer) for answer in answers} == {SignedIn}, Counter(map(repr, answers))
    [user_id] = {answer.user.id for answer in answers}
    assert [answer.is_new_user for answer in answers].count(True) == 1
    [(user, accounts, sessions, _)] = portrait(store, user_id)
    assert (store.get_user_by_email(ADA), user.email_verified) == (user, START)
    assert [(one.user_id, one.provider) for one in accounts] == [(user_id, "google")]
    assert {one.id for one in sessions} == {answer.session.id for answer in answers}
    assert store.check() == []


def test_of_many_sign_ins_at_once_one_makes_the_user_and_one_the_account(store: Any) -> None:
    links = [mailed(store) for _ in range(CROWD)]
    assert_one_person(store, race(CROWD, lambda i: come(store, i, links)))


def test_of_many_sign_ins_at_once_none_is_linked_that_proves_nothing(store: Any) -> None:
    """By a provider that is not trusted, the account is its own user's or nobody's, and never Ada's."""
    links = [mailed(store) for _ in range(CROWD)]
    answers = race(CROWD, lambda i: come(store, i, links, trusted=False))
    by_mail, by_provider = answers[1::2], answers[::2]
    assert {type(answer) for answer in by_mail} == {SignedIn}
    assert {type(answer) for answer in by_provider} <= {SignedIn, AccountNotLinkedError}
    [(user, accounts, sessions, _)] = portrait(store, store.get_user_by_email(ADA).id)
    assert user.email_verified == START and accounts == []
    assert {one.id for one in sessions} == {answer.session.id for answer in by_mail}


def test_of_many_sign_ins_at_once_by_one_account_one_makes_the_user(store: Any) -> None:
    answers = race(CROWD, lambda i: by_account(store, email=ADA))
    assert [answer.is_new_user for answer in answers].count(True) == 1
    [user_id] = {answer.user.id for answer in answers}
    assert len(store.list_sessions(user_id)) == CROWD and len(store.list_accounts(user_id)) == 1


def test_of_many_who_follow_one_link_at_once_one_is_signed_in(store: Any) -> None:
    link = mailed(store)
    answers = race(CROWD, lambda i: sign_in_by_email(store, **link))
    assert Counter(type(answer) for answer in answers) == {SignedIn: 1, type(None): CROWD - 1}


def test_of_many_confirmations_of_a_change_at_once_one_changes_the_address(store: Any, browser: str) -> None:
    token = requested(store, browser)
    answers = race(CROWD, lambda i: confirmed(store, browser, token))
    assert Counter(type(answer) for answer in answers) == {SignedIn: 1, type(None): CROWD - 1}


def test_of_two_who_change_to_one_address_at_once_one_gets_it(store: Any) -> None:
    tokens = []
    for name in map(str, range(8)):
        proven(store, name, f"{name}@example.com")
        tokens.append(signed_in(store, name))
    changes = [requested(store, token) for token in tokens]
    answers = race(8, lambda i: confirmed(store, tokens[i], changes[i]))
    assert Counter(type(answer) for answer in answers) == {SignedIn: 1, ConflictError: 7}


def test_of_many_sign_ins_at_once_in_tasks_one_makes_the_user(store: Any) -> None:
    async def main() -> None:
        async with AsyncAdapter(store) as awaited:
            links = [mailed(store) for _ in range(CROWD)]
            answers = await asyncio.gather(*(awaited.run(come, i, links) for i in range(CROWD)))
            assert_one_person(store, answers)

    asyncio.run(main())


# --- between processes ------------------------------------------------------------------------

PROCESSES = 8


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    crew = Crew(PROCESSES)
    yield crew
    crew.close()


def come_in_turn(process: int, path: str, links: list[dict[str, str]]) -> Generator[None, None, Any]:
    """Several of the crowd's sign-ins, by one process."""
    with SQLiteAdapter(path, durability="normal", clock=FrozenClock()) as store:
        yield
        return [come(store, number, links) for number in range(process, CROWD, PROCESSES)]


def come_in_threads(process: int, path: str, links: list[dict[str, str]]) -> Generator[None, None, Any]:
    """The same, each in a thread of its own."""
    with SQLiteAdapter(path, durability="normal", timeout=20, clock=FrozenClock()) as store:
        yield
        return race(CROWD // PROCESSES, lambda i: come(store, process + i * PROCESSES, links))


@pytest.mark.parametrize("task", [come_in_turn, come_in_threads])
def test_of_many_sign_ins_at_once_in_processes_one_makes_the_user(crew: Crew, tmp_path: Path, task: Any) -> None:
    path = str(tmp_path / "auth.db")
    with SQLiteAdapter(path, clock=FrozenClock()) as store:
        links = [mailed(store) for _ in range(CROWD)]
        answers = crew.race(PROCESSES, task, path, links)
        assert_one_person(store, [answer for some in answers for answer in some])
