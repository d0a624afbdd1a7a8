"""Users, their accounts and their passkeys."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest

from ..errors import ConflictError, CounterRegressionError, NotFoundError
from ..models import Account, Authenticator, User
from .tools import (
    FAR,
    HUGE,
    NOBODY,
    OTHER_ADDRESS,
    SAME_ADDRESS,
    START,
    SURROGATE,
    Call,
    Contract,
    Household,
    each,
    key,
    link,
    register,
)

# --- users ------------------------------------------------------------------------------------


class UserContract(Contract):
    """Users, found by id and by e-mail address."""

    group = "users"

    def test_a_created_user_comes_back_as_it_was_returned(self, store: Any) -> None:
        """What ``create_user`` returns is what is stored, by id and by address."""
        given: dict[str, Any] = {"email": "Ada@Example.com", "name": "Ada 🦄", "email_verified": FAR}
        given["image"] = "https://example.com"
        ada = store.create_user(**given)
        assert ada == User(id=ada.id, **given)
        assert store.get_user(ada.id) == store.get_user_by_email("Ada@Example.com") == ada

    def test_a_user_needs_no_field_at_all(self, store: Any) -> None:
        """Guests and passkey-only users have no address; the id is generated."""
        guest = store.create_user()
        assert guest.id
        assert guest == User(id=guest.id)
        assert store.get_user(guest.id) == guest

    def test_an_unknown_user_is_none(self, store: Any, ada: User) -> None:
        """Absence is an answer, not an error."""
        assert store.get_user(NOBODY) is None
        assert store.get_user_by_email("nobody@example.com") is None
        assert store.delete_user(NOBODY) is None

    def test_a_given_id_is_kept_verbatim(self, store: Any) -> None:
        """An application that brings its own ids must find them again. [better-auth#2881]"""
        odd = "Ünïcode:'; DROP TABLE users; --\0"
        assert store.create_user(id=odd).id == odd
        assert store.get_user(odd).id == odd

    def test_ids_are_compared_exactly(self, store: Any) -> None:
        """Only addresses are folded: ids that look alike are two users."""
        alike = ["ada", "Ada", "ada ", "\u00e9", "e\u0301", "42", "042"]
        for user_id in alike:
            store.create_user(id=user_id, name=repr(user_id))
        assert [store.get_user(user_id).name for user_id in alike] == [*map(repr, alike)]

    def test_made_ids_differ(self, store: Any) -> None:
        """A hundred users, a hundred ids."""
        assert len({store.create_user().id for _ in range(100)}) == 100

    def test_ids_come_from_new_id_when_it_is_given(self, build: Call) -> None:
        """So that tests and applications decide what an id looks like."""
        assert build(new_id=iter(["one", "two"]).__next__).create_user().id == "one"

    def test_users_are_listed_by_id(self, store: Any) -> None:
        """In the order of code points everywhere, which is not that of UTF-16 or of a dictionary."""
        ids = ["B", "a", "a\0", "a b", "aa", "b", "z", "\u00e9", "\ud7ff", "\ue000", "\uffff", "\U0001f984"]
        for user_id in reversed(ids):
            store.create_user(id=user_id, name=repr(user_id))
        assert [user.id for user in store.list_users()] == ids
        assert [*store.list_users(limit=1)] == [store.get_user("B")]

    @pytest.mark.parametrize("limit", [1, 2, 3, 7, 100, 10**30])
    def test_pages_of_users_join_without_a_gap(self, store: Any, limit: int) -> None:
        """Each page begins after the last id of the one before it."""
        ids = sorted(f"{i}" for i in range(7))
        for user_id in ids:
            store.create_user(id=user_id)
        seen: list[str] = []
        while page := store.list_users(limit=limit, after=seen[-1] if seen else None):
            assert len(page) <= limit
            assert {user.id for user in page}.isdisjoint(seen), "a user is on two pages"
            seen += [user.id for user in page]
        assert seen == ids

    def test_a_page_begins_after_a_user_who_is_gone(self, store: Any) -> None:
        """What was the last of a page may be deleted before the next one is asked for."""
        for user_id in "abc":
            store.create_user(id=user_id)
        store.delete_user("b")
        assert [user.id for user in store.list_users(after="b")] == ["c"]
        assert [user.id for user in store.list_users(after="")] == ["a", "c"]
        assert store.list_users(after="c") == []

    def test_a_page_may_begin_after_what_is_longer_than_any_id(self, store: Any) -> None:
        """All of it counts, as far as an id may reach."""
        longest = "b" * 4096
        for user_id in ("ba", longest, "bc"):
            store.create_user(id=user_id)
        pages = [[user.id for user in store.list_users(after=after)] for after in ("ba", longest[1:], longest + "b")]
        assert pages == [[longest, "bc"], [longest, "bc"], ["bc"]]

    def test_a_page_shows_what_was_written_since_the_last_one(self, store: Any) -> None:
        """Who came after the last id is on the next page; who changed is shown as changed."""
        store.create_user(id="a"), store.create_user(id="c")
        assert [user.id for user in store.list_users()] == ["a", "c"]
        store.create_user(id="b"), store.update_user("c", name="new")
        assert [(user.id, user.name) for user in store.list_users(after="a")] == [("b", None), ("c", "new")]

    def test_no_users_are_an_empty_list(self, store: Any) -> None:
        """Absence is an answer; so is a page of nothing."""
        assert store.list_users() == []
        store.create_user()
        assert store.list_users(limit=0) == []

    @pytest.mark.parametrize("limit", [-1, 1.5, "1", None, True])
    def test_a_page_that_is_no_count_is_refused(self, store: Any, limit: Any) -> None:
        """It is a programmer's mistake."""
        with pytest.raises((ValueError, TypeError)):
            store.list_users(limit=limit)

    @each(
        {
            "spelling": ("Ada", "ada@example.com", True),
            "blanks around": (" ADA@example.com ", "ada@example.com", True),
            "composed and combining": ("zoe\u0308", "zo\u00eb@example.com", True),
            "capital beyond ASCII": ("\u00d6", "\u00f6@example.com", True),
            "whole address": ("ada@example.com", "Ada@Example.COM", True),
            "last code point": ("\U0010ffff", "\U0010ffff\U0010ffff@example.com", True),
            "before the surrogates": ("\ud7ff", "\ud7ff@example.com", True),
            "inside": ("da", "ada@example.com", False),
            "more than there is": ("ada@example.com.", "ada@example.com", False),
            "base of a composed letter": ("zoe", "zo\u00eb@example.com", False),
            "neighbour": ("ada", "adb@example.com", False),
            "neighbour of the last before the surrogates": ("\ud7ff", "\ue000@example.com", False),
            "neighbour of the last but one": ("\U0010fffe", "\U0010ffff@example.com", False),
            "full-width letter": ("a", "\uff41da@example.com", False),
            "any": ("%", "ada@example.com", False),
            "one": ("_", "ada@example.com", False),
            "several": ("*", "ada@example.com", False),
        }
    )
    def test_users_are_listed_by_how_their_address_begins(self, store: Any, case: Any) -> None:
        """Both in the normal form, by which addresses are looked up; no character stands for others."""
        prefix, email, found = case
        store.create_user(id="nobody")
        user = store.create_user(id="one", email=email)
        assert store.list_users(email_prefix=prefix) == [user] * found

    def test_pages_of_users_whose_address_begins_alike(self, store: Any) -> None:
        """By id, not by address, and no more than asked for."""
        for number in range(5):
            store.create_user(id=f"{number}", email=f"a{9 - number}@example.com")
            store.create_user(id=f"{number} other", email=f"b{number}@example.com")
        pages = [store.list_users(limit=2, after=after, email_prefix="A") for after in (None, "1", "3", "4")]
        assert [[user.id for user in page] for page in pages] == [["0", "1"], ["2", "3"], ["4"], []]

    @each({"half a character": SURROGATE, "NUL": "\0", "too long": "x" * 4097, "megabytes": "\u00e9" * HUGE})
    def test_whatever_a_stranger_asks_for_a_page_is_a_list(self, store: Any, ada: User, case: Any) -> None:
        """It comes from a URL; users after an id that nobody can have are those with greater ids."""
        assert [*store.list_users(email_prefix=case), *store.list_users(after=case, email_prefix=case)] == []
        greater = case != SURROGATE and ada.id > case
        assert store.list_users(after=case) == [ada] * greater

    @pytest.mark.parametrize("name", ["after", "email_prefix"])
    def test_a_page_is_asked_for_by_text(self, store: Any, name: str) -> None:
        """Anything else is a programmer's mistake."""
        for value in (5, b"x"):
            with pytest.raises(TypeError):
                store.list_users(**{name: value})

    @pytest.mark.parametrize("blank", ["", "  "])
    def test_a_blank_prefix_lists_who_has_an_address(self, store: Any, ada: User, blank: str) -> None:
        """Every address begins with nothing; who has none has no beginning."""
        store.create_user()
        assert store.list_users(email_prefix=blank) == [ada]

    @each(SAME_ADDRESS)
    def test_spellings_of_one_address_are_one_user(self, store: Any, case: Any) -> None:
        """Found and unique by the normal form: NFC, lower case, trimmed. [langfuse#393, better-auth#7806]"""
        for stored, asked in (case, case[::-1]):
            user = store.create_user(email=stored)
            assert user.email == stored, "the spelling is kept"
            assert store.get_user_by_email(asked) == user
            with pytest.raises(ConflictError):
                store.create_user(email=asked)
            store.delete_user(user.id)

    @each(OTHER_ADDRESS)
    def test_other_addresses_are_other_users(self, store: Any, case: Any) -> None:
        """Folding more than the normal form would sign people in as somebody else."""
        first, second = (store.create_user(email=email) for email in case)
        assert [store.get_user_by_email(email).id for email in case] == [first.id, second.id]

    def test_two_users_may_have_no_address(self, store: Any) -> None:
        """None is not an address: it can be neither taken nor looked up."""
        assert store.create_user(email=None).id != store.create_user(email=None).id
        assert store.get_user_by_email("None") is None
        assert store.get_user_by_email("") is None

    def test_an_update_changes_only_the_fields_named(self, store: Any) -> None:
        """A partial update that nulls the rest loses data. [nextauthjs/adapters#165, better-auth#394]"""
        ada = store.create_user(email="ada@example.com", name="Ada", image="i", email_verified=START)
        for change in ({"name": "A."}, {"image": "j"}, {"email_verified": FAR}, {"email": "ADA@example.com"}):
            ada = dataclasses.replace(ada, **change)
            assert store.update_user(ada.id, **change) == store.get_user(ada.id) == ada

    @pytest.mark.parametrize("field", ["email", "name", "image", "email_verified"])
    def test_none_clears_a_field(self, store: Any, field: str) -> None:
        """None is a value, not the absence of one."""
        ada = store.create_user(email="ada@example.com", name="Ada", image="i", email_verified=START)
        cleared = dataclasses.replace(ada, **{field: None})
        if field == "email":
            cleared = dataclasses.replace(cleared, email_verified=None)
        assert store.update_user(ada.id, **{field: None}) == store.get_user(ada.id) == cleared

    def test_an_update_keeps_all_that_belongs_to_the_user(self, store: Any, home: Household) -> None:
        """A row that is replaced instead of updated takes the user's sessions along."""
        before = home.state()
        for name in ("new", home.ada.user.name):
            store.update_user(home.ada.id, name=name)
        assert home.state() == before

    def test_an_update_of_nothing_changes_nothing(self, store: Any, ada: User) -> None:
        """The user as it is; an unknown one is still an error."""
        assert store.update_user(ada.id) == store.get_user(ada.id) == ada
        with pytest.raises(NotFoundError):
            store.update_user(NOBODY)

    def test_a_changed_address_frees_the_old_one(self, store: Any, ada: User) -> None:
        """The old address no longer resolves, and may be taken. [Upstash and Unstorage adapters]"""
        store.update_user(ada.id, email="countess@example.com")
        assert store.get_user_by_email("ada@example.com") is None
        assert store.get_user_by_email("COUNTESS@example.com").id == ada.id
        assert store.create_user(email="ada@example.com").id != ada.id

    def test_another_address_is_not_verified_yet(self, store: Any) -> None:
        """What proved the old address proves nothing of the new one."""
        ada = store.create_user(email="ada@example.com", email_verified=START)
        changed = dataclasses.replace(ada, email="countess@example.com", email_verified=None)
        assert store.update_user(ada.id, email="countess@example.com") == store.get_user(ada.id) == changed

    def test_another_address_may_come_verified(self, store: Any) -> None:
        """As where a link that went to it has just been followed."""
        ada = store.create_user(email="ada@example.com", email_verified=START)
        change = {"email": "countess@example.com", "email_verified": FAR}
        assert store.update_user(ada.id, **change) == dataclasses.replace(ada, **change)

    def test_a_respelt_address_stays_verified(self, store: Any) -> None:
        """It is the same address."""
        ada = store.create_user(email="ada@example.com", email_verified=START)
        assert store.update_user(ada.id, email="Ada@Example.com").email_verified == START

    def test_a_cleared_address_is_free(self, store: Any, ada: User) -> None:
        """As a changed one."""
        store.update_user(ada.id, email=None)
        assert store.get_user_by_email("ada@example.com") is None
        assert store.create_user(email="ada@example.com")

    def test_a_user_may_respell_the_own_address(self, store: Any, ada: User) -> None:
        """One does not conflict with oneself."""
        assert store.update_user(ada.id, email="ADA@example.com").email == "ADA@example.com"
        assert store.get_user_by_email("ada@example.com").email == "ADA@example.com"

    def test_deleting_returns_the_user_once(self, store: Any, ada: User, grace: User) -> None:
        """A second delete is harmless [next-auth#7936]; others stay, the address is free."""
        assert store.delete_user(ada.id) == ada
        assert store.delete_user(ada.id) is None
        assert store.get_user(ada.id) is store.get_user_by_email("ada@example.com") is None
        assert store.get_user(grace.id) == grace
        assert store.create_user(email="ada@example.com")

    def test_a_deleted_user_leaves_no_trace(self, store: Any, home: Household) -> None:
        """Three of each kind go: stores that index only the last one keep the others. [Upstash, Unstorage]"""
        assert store.delete_user(home.ada.id) == home.ada.user
        nothing = [None, None, [], [None] * 3, [None] * 3, [], [None] * 3, [], [None] * 3, [None] * 3]
        for seen, absent in zip(home.ada.state(), nothing):
            assert not seen or seen == absent, f"left behind by delete_user: {seen}"

    def test_a_deleted_user_takes_nothing_of_others_along(self, store: Any, home: Household) -> None:
        """All of Grace's stays, exactly."""
        before = home.grace.state()
        store.delete_user(home.ada.id)
        assert home.grace.state() == before

    def test_a_user_created_anew_inherits_nothing(self, store: Any, home: Household) -> None:
        """The same id and address later is a new user, with none of the old one's sessions."""
        store.delete_user(home.ada.id)
        again = store.create_user(id=home.ada.id, email=home.ada.user.email)
        assert [*home.ada.state()][:2] == [again, again]
        assert not any(map(any, filter(None, home.ada.state()[3:])))


# --- accounts ---------------------------------------------------------------------------------


class AccountContract(Contract):
    """Accounts at identity providers, linked to users."""

    group = "accounts"

    def test_a_linked_account_comes_back_as_it_was_returned(self, store: Any, ada: User) -> None:
        """Every field that OAuth knows, by its key and in the user's list."""
        tokens: dict[str, Any] = {
            "refresh_token": "r", "access_token": "a", "id_token": "i", "token_type": "bearer",
            "scope": "openid email", "session_state": "s", "expires_at": 1_900_000_000,
        }
        account = link(store, ada.id, "42", **tokens)
        assert account == Account(
            user_id=ada.id, type="oauth", provider="github", provider_account_id="42", **tokens
        )
        assert store.get_account(**key(account)) == account
        assert store.list_accounts(ada.id) == [account]
        assert store.get_user_by_account(**key(account)) == ada

    def test_an_unknown_account_is_none(self, store: Any, ada: User) -> None:
        """Both halves of the key must fit."""
        link(store, ada.id, "42", provider="github")
        for provider, account_id in (("github", "43"), ("gitlab", "42"), ("42", "github")):
            unknown = {"provider": provider, "provider_account_id": account_id}
            assert store.get_account(**unknown) is None
            assert store.get_user_by_account(**unknown) is None
            assert store.unlink_account(**unknown) is None
        assert store.list_accounts(NOBODY) == []

    def test_a_users_accounts_are_listed_by_provider(self, store: Any, ada: User, grace: User) -> None:
        """In one order everywhere, and only the user's own."""
        pairs = [("b", "1"), ("a", "2"), ("a", "10"), ("B", "1")]
        for provider, account_id in pairs:
            link(store, ada.id, account_id, provider)
        link(store, grace.id, "3", "a")
        listed = [(one.provider, one.provider_account_id) for one in store.list_accounts(ada.id)]
        assert listed == sorted(pairs)

    def test_linking_again_refreshes_what_is_given_and_keeps_the_rest(self, store: Any, ada: User) -> None:
        """Every sign-in brings new tokens, most of them no new refresh token. [next-auth#3599, #9721]"""
        first = link(store, ada.id, access_token="old", refresh_token="keep", scope="s", team="red", tier=1)
        again = link(store, ada.id, access_token="new", scope=None, team="blue")
        assert (again.access_token, again.refresh_token, again.scope) == ("new", "keep", None)
        assert again.extra == {"team": "blue", "tier": 1}
        assert store.list_accounts(ada.id) == [again] != [first]

    def test_what_no_field_names_is_kept_in_extra(self, store: Any, ada: User) -> None:
        """Unknown keys from a provider must not break a sign-in. [next-auth#6708, #5460]"""
        sent: dict[str, Any] = {
            "refresh_token_expires_in": 5184000, "not-before-policy": 0, "self": "s", "id": 7, "cls": "c",
            "user": {"names": ["Ada", None, True, 1.5]}, "half": SURROGATE, "email": "x", "": "empty",
            "created_at": 1_700_000_000, "name": "A", "args": [], "kwargs": {}, "tokens": "t", "__class__": 1,
        }
        account = link(store, ada.id, **copy.deepcopy(sent))
        assert account.extra == sent
        assert store.get_account(**key(account)).extra == sent

    def test_a_mapping_called_extra_is_the_extra(self, store: Any, ada: User) -> None:
        """So that an account read elsewhere can be linked as it is; unknown keys join it."""
        assert link(store, ada.id, extra={"team": "red"}, tier=1).extra == {"team": "red", "tier": 1}

    @each({"text": "soon", "number": 1, "list": [1], "none": None})
    def test_a_provider_may_send_a_key_called_extra(self, store: Any, ada: User, case: Any) -> None:
        """Whatever it is, it is kept under its name."""
        account = link(store, ada.id, extra=case)
        assert account.extra == {"extra": case}
        assert store.get_account(**key(account)) == account

    @each(
        {
            "text for a number": ("expires_at", "soon"),
            "endless number": ("expires_at", float("1e300")),
            "huge number": ("expires_at", 10**30),
            "truth for a number": ("expires_at", True),
            "list for a text": ("scope", ["openid", 5]),
            "empty list for a text": ("scope", []),
            "number for a text": ("session_state", 5),
            "half a character": ("access_token", SURROGATE),
        }
    )
    def test_a_value_of_the_wrong_type_is_kept_and_never_fatal(
        self, store: Any, ada: User, case: Any
    ) -> None:
        """Nothing that a provider sends is dropped or fatal: it is kept in ``extra``, the field is empty."""
        field, value = case
        account = link(store, ada.id, **{field: value})
        assert (getattr(account, field), account.extra) == (None, {field: value})
        assert store.get_account(**key(account)) == account

    @each(
        {
            "fraction": ("expires_at", 1_900_000_000.613, 1_900_000_000),
            "whole float": ("expires_at", 1_900_000_000.0, 1_900_000_000),
            "digits": ("expires_at", "1900000000", 1_900_000_000),
            "list of scopes": ("scope", ["openid", "email"], "openid email"),
            "a single scope": ("scope", ["openid"], "openid"),
        }
    )
    def test_a_value_in_a_providers_form_fits_its_field(self, store: Any, ada: User, case: Any) -> None:
        """As OAuth libraries and some providers have it."""
        field, given, expected = case
        account = link(store, ada.id, **{field: given})
        assert (getattr(account, field), account.extra) == (expected, {})
        assert store.get_account(**key(account)) == account

    def test_a_whole_response_is_taken(self, store: Any, ada: User) -> None:
        """Some providers name their user in it: that decides nothing, and is kept."""
        names = {"user_id": "9XYZ", "type": "t", "provider": "p", "provider_account_id": 7, "extra": {"a": 1}}
        response = {"access_token": "a", "expires_at": "7", "team": "red", **names}
        before = copy.deepcopy(response)
        account = store.link_account(
            response, user_id=ada.id, type="oauth", provider="fitbit", provider_account_id="1"
        )
        assert (account.user_id, account.type, account.provider) == (ada.id, "oauth", "fitbit")
        assert (account.access_token, account.expires_at) == ("a", 7)
        assert account.extra == {"team": "red", **names}
        assert store.get_account(**key(account)) == account
        assert response == before

    def test_a_response_refreshes_as_single_fields_do(self, store: Any, ada: User) -> None:
        """A field given by name comes first; what is not given is kept, the provider's own user too."""
        fields = {"user_id": ada.id, "type": "oauth", "provider": "fitbit", "provider_account_id": "1"}
        store.link_account({"access_token": "old", "refresh_token": "r", "user_id": "9XYZ"}, **fields)
        again = store.link_account({"access_token": "new", "scope": "a"}, **fields, scope="b")
        assert (again.access_token, again.refresh_token, again.scope) == ("new", "r", "b")
        assert again.extra == {"user_id": "9XYZ"}

    def test_a_response_that_is_no_mapping_is_a_mistake(self, store: Any, ada: User) -> None:
        """Such as the body of an answer that nobody has read as JSON."""
        fields = {"user_id": ada.id, "type": "oauth", "provider": "fitbit", "provider_account_id": "1"}
        for response in ('{"access_token": "a"}', b"{}", 5, ["a"]):
            with pytest.raises(TypeError):
                store.link_account(response, **fields)
        assert store.list_accounts(ada.id) == []

    def test_json_is_never_too_deep(self, store: Any, ada: User) -> None:
        """What is nested beyond all reason is cut, on writing and on reading alike."""
        deep: Any = "end"
        for _ in range(5000):
            deep = {"a": [deep]}
        account = link(store, ada.id, deep=deep, scope=deep, team="red")
        assert account.extra["team"] == "red" and {"deep", "scope"} <= account.extra.keys()
        assert store.get_account(**key(account)) == store.list_accounts(ada.id)[0] == account

    def test_a_number_that_json_lacks_is_never_fatal(self, store: Any, ada: User) -> None:
        """Python's ``json.loads`` reads NaN and Infinity, so a provider's answer may hold them."""
        account = link(store, ada.id, **json.loads('{"score": NaN, "limit": Infinity, "team": "red"}'))
        assert account.extra["team"] == "red"
        assert {"score", "limit"} <= account.extra.keys()

    def test_a_fitting_value_replaces_an_unfitting_one(self, store: Any, ada: User) -> None:
        """A field and its namesake in ``extra`` never contradict each other."""
        link(store, ada.id, expires_at=1, scope="s")
        unfitting = link(store, ada.id, expires_at="soon")
        assert (unfitting.expires_at, unfitting.extra) == (None, {"expires_at": "soon"})
        fitting = link(store, ada.id, expires_at=2)
        assert (fitting.expires_at, fitting.extra, fitting.scope) == (2, {}, "s")

    def test_unlinking_returns_the_account_once(self, store: Any, ada: User) -> None:
        """The second time there is none; the user and the other accounts stay."""
        account, other = link(store, ada.id, "1"), link(store, ada.id, "2")
        assert store.unlink_account(**key(account)) == account
        assert store.unlink_account(**key(account)) is None
        assert store.list_accounts(ada.id) == [other]
        assert store.get_user(ada.id) == ada

    def test_an_unlinked_account_may_go_to_another_user(self, store: Any, ada: User, grace: User) -> None:
        """It is free, and keeps nothing of its former link."""
        account = link(store, ada.id, access_token="old", team="red")
        store.unlink_account(**key(account))
        assert link(store, grace.id) == Account(grace.id, "oauth", "github", "1")
        assert store.get_user_by_account(**key(account)) == grace
        assert store.list_accounts(ada.id) == []

    def test_provider_and_account_id_are_not_joined(self, store: Any, ada: User, grace: User) -> None:
        """("a:b", "c") and ("a", "b:c") are two accounts, whatever the separator. [Upstash]"""
        for separator in ":/|\0\n":
            first = link(store, ada.id, "c", provider=f"a{separator}b")
            second = link(store, grace.id, f"b{separator}c", provider="a")
            assert store.get_user_by_account(**key(first)) == ada
            assert store.get_user_by_account(**key(second)) == grace


# --- authenticators ---------------------------------------------------------------------------


class AuthenticatorContract(Contract):
    """Passkeys (WebAuthn credentials) and their signature counters."""

    group = "authenticators"

    def test_an_authenticator_comes_back_as_it_was_returned(self, store: Any, ada: User) -> None:
        """Every field, by its credential id and in the user's list."""
        one = register(store, ada.id, "Y3JlZA==", counter=2**32 - 1, transports="usb,nfc")
        assert one == Authenticator(
            credential_id="Y3JlZA==", user_id=ada.id, provider_account_id="Y3JlZA==", transports="usb,nfc",
            credential_public_key="a2V5", counter=2**32 - 1, credential_device_type="multiDevice",
            credential_backed_up=True,
        )
        assert store.get_authenticator("Y3JlZA==") == one
        assert store.list_authenticators_by_user_id(ada.id) == [one]

    def test_an_unknown_authenticator_is_none(self, store: Any, ada: User) -> None:
        """Absence is an answer; credential ids are compared exactly."""
        register(store, ada.id, "Y3JlZA==")
        assert store.get_authenticator("y3jlza==") is None
        assert store.list_authenticators_by_user_id(NOBODY) == []

    def test_a_users_authenticators_are_listed_by_credential_id(
        self, store: Any, ada: User, grace: User
    ) -> None:
        """In one order everywhere, and only the user's own."""
        for credential_id in ("b", "a", "B", "aa"):
            register(store, ada.id, credential_id)
        register(store, grace.id, "g")
        listed = [one.credential_id for one in store.list_authenticators_by_user_id(ada.id)]
        assert listed == ["B", "a", "aa", "b"]

    @pytest.mark.parametrize("before, after", [(0, 0), (0, 1), (1, 2), (1, 2**32 - 1)])
    def test_a_counter_that_grows_is_stored(self, store: Any, ada: User, before: int, after: int) -> None:
        """And 0 → 0 is legal: many authenticators do not count. WebAuthn § 6.1.1"""
        one = register(store, ada.id, counter=before)
        grown = dataclasses.replace(one, counter=after)
        assert store.update_authenticator_counter("credential", after) == grown
        assert store.get_authenticator("credential") == grown

    @pytest.mark.parametrize("before, after", [(1, 1), (2, 1), (1, 0), (2**32 - 1, 2**32 - 1)])
    def test_a_counter_that_does_not_grow_is_refused(
        self, store: Any, ada: User, before: int, after: int
    ) -> None:
        """The passkey may have been cloned; the error names both, the stored one is kept. WebAuthn § 6.1.1"""
        one = register(store, ada.id, counter=before)
        with pytest.raises(CounterRegressionError) as caught:
            store.update_authenticator_counter("credential", after)
        assert (caught.value.stored, caught.value.given) == (before, after)
        assert store.get_authenticator("credential") == one

    def test_an_authenticator_is_changed_in_the_fields_named(self, store: Any, ada: User) -> None:
        """And in no other; None clears, nothing changes nothing."""
        one = register(store, ada.id, counter=5, transports="usb")
        changes: list[dict[str, Any]] = [
            {}, {"credential_backed_up": False}, {"transports": None}, {"credential_public_key": "bmV3"},
            {"provider_account_id": "new", "credential_device_type": "singleDevice"}, {"counter": 6},
        ]
        for change in changes:
            one = dataclasses.replace(one, **change)
            assert store.update_authenticator("credential", **change) == one
            assert store.get_authenticator("credential") == one
            assert store.list_authenticators_by_user_id(ada.id) == [one]

    @pytest.mark.parametrize("before, after", [(1, 1), (2, 1), (1, 0)])
    def test_a_change_beside_it_is_no_way_around_the_counter(
        self, store: Any, ada: User, before: int, after: int
    ) -> None:
        """A counter that does not grow tells a cloned passkey here, too; nothing else is changed."""
        one = register(store, ada.id, counter=before)
        with pytest.raises(CounterRegressionError) as caught:
            store.update_authenticator("credential", transports="nfc", counter=after)
        assert (caught.value.stored, caught.value.given) == (before, after)
        assert store.get_authenticator("credential") == one

    def test_an_authenticator_that_does_not_count_can_be_changed(self, store: Any, ada: User) -> None:
        """0 → 0 is legal. WebAuthn § 6.1.1"""
        register(store, ada.id, counter=0)
        assert store.update_authenticator("credential", counter=0, transports="nfc").transports == "nfc"

    def test_deleting_returns_the_authenticator_once(self, store: Any, ada: User) -> None:
        """The second time there is none; the user and the other passkeys stay; the credential is free."""
        one, other = register(store, ada.id, "1"), register(store, ada.id, "2")
        assert store.delete_authenticator("1") == one
        assert store.delete_authenticator("1") is store.get_authenticator("1") is None
        assert store.list_authenticators_by_user_id(ada.id) == [other]
        assert store.get_user(ada.id) == ada
        assert register(store, ada.id, "1") == one
