"""Small broken adapters, each with one defect that real stores have had, and the test meant to see it.

What this proves is about the kit, not about these classes: a contract test that no wrong adapter fails
claims nothing. Run as tests, this module fails by design; ``test_bug_zoo`` does so and looks at how.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any

import pytest

from tinyauthstore import (
    ClosedError,
    ConflictError,
    CounterRegressionError,
    MemoryAdapter,
    NotFoundError,
    Purged,
    Session,
    SQLiteAdapter,
)
from tinyauthstore.aio import AsyncAdapter
from tinyauthstore.models import ACCOUNT, AUTHENTICATOR, SESSION, USER, VERIFICATION_TOKEN
from tinyauthstore.testing import UTC, AdapterContract

ZOO: dict[type[Any], tuple[str, ...]] = {}
"""The specimens, each with the tests meant for it: a name, or how that of the right cases begins."""

ENDINGS: dict[type[Any], str] = {}
"""How the meant tests end, if not by their own assertions: by the error that the specimen raises."""


def caught_by(*tests: str, raising: str = "") -> Callable[[type[Any]], type[Any]]:
    """Into the zoo."""

    def admit(specimen: type[Any]) -> type[Any]:
        ZOO[specimen], ENDINGS[specimen] = tests, raising
        return specimen

    return admit


class SQLiteInMemory(SQLiteAdapter):
    """Sound; made like ``MemoryAdapter``."""

    def __init__(self, **options: Any) -> None:
        super().__init__(":memory:", **options)


class AsyncMemory(AsyncAdapter[Any, Any, Any, Any, Any]):
    """Sound; made like ``MemoryAdapter``."""

    def __init__(self, **options: Any) -> None:
        super().__init__(MemoryAdapter(**options))


SOUND: list[type[Any]] = [MemoryAdapter, SQLiteInMemory, AsyncMemory]


# --- users ------------------------------------------------------------------------------------


class RememberingAddresses(MemoryAdapter):
    """An index of addresses of its own, from normal form to id. Whole as long as ``normal`` is."""

    normal = staticmethod(lambda email: email)

    def get_user_by_email(self, email: str) -> Any:
        users = dict(self._walk(USER)).values()
        wanted = self.normal(email)
        return next((user for user in users if user.email and self.normal(user.email) == wanted), None)


@caught_by("test_spellings_of_one_address_are_one_user[case]")
class CaseOfAddressesCounts(RememberingAddresses):
    """Compares addresses as they are typed. [langfuse#393]"""


@caught_by("test_spellings_of_one_address_are_one_user[capital beyond ASCII]")
class FoldsAsciiOnly(RememberingAddresses):
    """As SQLite's lower() and NOCASE do."""

    normal = staticmethod(lambda email: re.sub("[A-Z]", lambda letter: letter[0].lower(), email.strip()))


@caught_by("test_other_addresses_are_other_users[tag]")
class FoldsTags(RememberingAddresses):
    """Takes ada+news@ for ada@, and signs in somebody else."""

    normal = staticmethod(lambda email: re.sub(r"\+[^@]*", "", email.strip().lower()))


@caught_by("test_pages_of_users_join_without_a_gap[3]")
class PagesOverlap(MemoryAdapter):
    """>= for >: the last of each page is also the first of the next one."""

    def list_users(self, *, after: str | None = None, **options: Any) -> Any:
        if after is None or self.get_user(after) is None:
            return super().list_users(after=after, **options)
        return [self.get_user(after), *super().list_users(after=after, **options)][: options.get("limit", 100)]


@caught_by("test_users_are_listed_by_how_their_address_begins[any]")
class PrefixIsAPattern(MemoryAdapter):
    """LIKE with what was typed: "%" lists everybody."""

    def list_users(self, *, email_prefix: str | None = None, **options: Any) -> Any:
        return super().list_users(email_prefix=(email_prefix or "").strip("%") or None, **options)


@caught_by("test_users_are_listed_by_id")
class SortsAsUtf16(MemoryAdapter):
    """As JavaScript and Windows do: an emoji comes before what UTF-8 and Python sort before it."""

    def list_users(self, **options: Any) -> Any:
        return sorted(super().list_users(**options), key=lambda user: user.id.encode("utf-16-be"))


@caught_by("test_what_is_counted_is_live")
class CountsTheDead(MemoryAdapter):
    """What waits to be purged counts as signed in."""

    def count(self) -> Any:
        return super().count()._replace(sessions=len(self._records[SESSION].by_key))


@caught_by("test_a_changed_address_frees_the_old_one")
class OldAddressResolves(MemoryAdapter):
    """Writes the new key of its e-mail index and leaves the old one. [Upstash, Unstorage]"""

    def update_user(self, user_id: str, **changes: Any) -> Any:
        if (user := self.get_user(user_id)) is not None:
            self._former = {**getattr(self, "_former", {}), user.email: user_id}
        return super().update_user(user_id, **changes)

    def get_user_by_email(self, email: str) -> Any:
        return super().get_user_by_email(email) or self.get_user(getattr(self, "_former", {}).get(email, ""))


@caught_by("test_an_update_changes_only_the_fields_named")
class PartialUpdateNulls(MemoryAdapter):
    """Writes every column, given or not. [nextauthjs/adapters#165]"""

    def update_user(self, user_id: str, **changes: Any) -> Any:
        return super().update_user(user_id, **{"name": None, "image": None, **changes})


@caught_by("test_none_clears_a_field")
class NoneDoesNotClear(MemoryAdapter):
    """Leaves out what is None, as ``if value:`` does."""

    def update_user(self, user_id: str, **changes: Any) -> Any:
        return super().update_user(user_id, **{k: v for k, v in changes.items() if v is not None})


@caught_by("test_a_write_to_nobody_names_the_key_and_leaves_nothing_half_done[update_user]")
class UpdateInserts(SQLiteInMemory):
    """INSERT OR REPLACE for an update."""

    def update_user(self, user_id: str, **changes: Any) -> Any:
        with suppress(NotFoundError):
            return super().update_user(user_id, **changes)
        return self.create_user(id=user_id, **changes)


@caught_by("test_deleting_returns_the_user_once", raising="NotFoundError")
class SecondDeleteRaises(MemoryAdapter):
    """As Prisma's delete does. [next-auth#7936]"""

    def delete_user(self, user_id: str) -> Any:
        if (user := super().delete_user(user_id)) is None:
            raise NotFoundError("no such user", model="User", key=user_id)
        return user


class Leaving(MemoryAdapter):
    """Deletes users, but not their records of one kind."""

    left: Any

    def _remove_group(self, entity: Any, group: str) -> None:
        if entity is not self.left:
            super()._remove_group(entity, group)

    def get_session_and_user(self, session_token: str) -> Any:
        with suppress(KeyError):  # as a JOIN: a session without a user is not found this way
            return super().get_session_and_user(session_token)


@caught_by("test_a_deleted_user_leaves_no_trace", "test_a_user_created_anew_inherits_nothing")
class DeleteLeavesSessions(Leaving):
    """No foreign keys: signed in for ever, for whoever gets that id next."""

    left = SESSION


@caught_by("test_a_deleted_user_leaves_no_trace")
class DeleteLeavesAccounts(Leaving):
    """The GitHub account can never be linked again."""

    left = ACCOUNT


@caught_by("test_a_deleted_user_leaves_no_trace")
class DeleteLeavesAuthenticators(Leaving):
    """The passkey can never be registered again."""

    left = AUTHENTICATOR


@caught_by("test_a_deleted_users_pending_tokens_go_however_the_address_is_spelt")
class DeleteLeavesTokens(Leaving):
    """A magic link that was under way brings the deleted user back."""

    left = VERIFICATION_TOKEN


# --- accounts ---------------------------------------------------------------------------------


@caught_by("test_a_conflict_names_the_field_and_leaves_nothing_half_done[account of another]")
class LinkMovesAccounts(MemoryAdapter):
    """An upsert that sets the owner too: the account changes hands silently. [next-auth#13416]"""

    def link_account(self, *, provider: str, provider_account_id: str, **fields: Any) -> Any:
        with suppress(ConflictError):
            return super().link_account(provider=provider, provider_account_id=provider_account_id, **fields)
        self.unlink_account(provider=provider, provider_account_id=provider_account_id)
        return super().link_account(provider=provider, provider_account_id=provider_account_id, **fields)


@caught_by("test_a_conflict_names_the_field_and_leaves_nothing_half_done[account of another]")
class ConflictHalfApplied(MemoryAdapter):
    """Stores the tokens first and looks whose account it is afterwards. [better-auth#10208]"""

    def link_account(self, *, user_id: str, provider: str, provider_account_id: str, **fields: Any) -> Any:
        key = {"provider": provider, "provider_account_id": provider_account_id}
        if (account := self.get_account(**key)) is not None:
            super().link_account(user_id=account.user_id, **key, **fields)
        return super().link_account(user_id=user_id, **key, **fields)


@caught_by("test_what_no_field_names_is_kept_in_extra")
class LinkDropsUnknownKeys(MemoryAdapter):
    """Keeps only the columns it knows. [next-auth#6708]"""

    known = "refresh_token access_token expires_at token_type scope id_token session_state".split()

    def link_account(
        self, /, *, user_id: str, type: str, provider: str, provider_account_id: str, **tokens: Any
    ) -> Any:
        tokens = {name: value for name, value in tokens.items() if name in self.known}
        key = {"provider": provider, "provider_account_id": provider_account_id}
        return super().link_account(user_id=user_id, type=type, **key, **tokens)


@caught_by("test_linking_again_refreshes_what_is_given_and_keeps_the_rest")
class LinkDoesNotRefresh(MemoryAdapter):
    """INSERT OR IGNORE: the tokens of the first sign-in stay for ever. [next-auth#3599]"""

    def link_account(self, *, provider: str, provider_account_id: str, **fields: Any) -> Any:
        found = self.get_account(provider=provider, provider_account_id=provider_account_id)
        if found is not None and found.user_id == fields["user_id"]:
            return found
        return super().link_account(provider=provider, provider_account_id=provider_account_id, **fields)


@caught_by("test_linking_again_refreshes_what_is_given_and_keeps_the_rest")
class LinkForgetsRefreshToken(MemoryAdapter):
    """REPLACE: most sign-ins bring no new refresh token, and the old one is lost. [next-auth#9721]"""

    def link_account(self, **fields: Any) -> Any:
        return super().link_account(**{"refresh_token": None, **fields})


@caught_by("test_provider_and_account_id_are_not_joined")
class JoinsKeys(MemoryAdapter):
    """One key, ``provider:id``. [Upstash]"""

    @staticmethod
    def _account_key(provider: str, provider_account_id: str) -> Any:
        return tuple(f"{provider}:{provider_account_id}".rsplit(":", 1))


# --- sessions ---------------------------------------------------------------------------------


@caught_by("test_a_session_is_dead_from_expires_on")
class ExpiredSessionServed(MemoryAdapter):
    """Leaves expiry to whoever purges."""

    def get_session_and_user(self, session_token: str) -> Any:
        return self._get_session_and_user(session_token)


@caught_by("test_a_session_is_dead_from_expires_on[at expires-unpurged-delete_session]")
class OffByOneExpiry(SQLiteInMemory):
    """``>=`` where the contract says ``>``."""

    def _live(self, record: Any) -> Any:
        return record if record is not None and record.expires >= self._clock() else None


@caught_by("test_a_deleted_session_stays_dead", "test_a_write_that_races_a_delete_resurrects_nothing")
class UpdateResurrects(MemoryAdapter):
    """Saves the session it once read, signed out meanwhile or not. [django#5950]"""

    def create_session(self, **fields: Any) -> Any:
        session = super().create_session(**fields)
        self._seen = {**getattr(self, "_seen", {}), session.session_token: session}
        return session

    def update_session(self, session_token: str, **changes: Any) -> Any:
        updated = super().update_session(session_token, **changes)
        if updated is None and (seen := getattr(self, "_seen", {}).get(session_token)):
            return super().create_session(user_id=seen.user_id, session_token=session_token, **changes)
        return updated


@caught_by("test_an_update_by_what_python_calls_equal_is_an_update")
class UpdateSkipsWhatIsEqual(MemoryAdapter):
    """Nothing has changed, it thinks: 1 == True."""

    def update_session(self, session_token: str, **changes: Any) -> Any:
        found = self.get_session_and_user(session_token)
        if found is not None and dataclasses.replace(found.session, **changes) == found.session:
            return found.session
        return super().update_session(session_token, **changes)


@caught_by("test_an_update_without_expires_keeps_the_session")
class UpdateWithoutExpiresLoses(MemoryAdapter):
    """As Auth.js's adapter for D1 did."""

    def update_session(self, session_token: str, **changes: Any) -> Any:
        if not changes:
            return self.delete_session(session_token)
        return super().update_session(session_token, **changes)


@caught_by("test_revoking_all_says_how_many_went")
class LastSessionOnly(MemoryAdapter):
    """``user:ada:session`` names the last session, and every sign-in overwrites it. [Upstash]"""

    def _find(self, entity: Any, group: str) -> Any:
        found = super()._find(entity, group)
        return dict([*found.items()][-1:]) if entity is SESSION else found


@caught_by("test_any_text_is_safe_to_look_up[get_session_and_user]")
class DigestSignsIn(MemoryAdapter):
    """Takes what is stored for what was presented: whoever reads the file is signed in."""

    def _digest(self, token: str) -> bytes:
        return bytes.fromhex(token) if re.fullmatch("[0-9a-f]{64}", token) else super()._digest(token)


@caught_by("test_a_sessions_id_is_steady_and_no_token")
class IdSignsIn(MemoryAdapter):
    """One look-up for both, and the id stands in every list of devices."""

    def get_session_and_user(self, session_token: str) -> Any:
        sessions = dict(self._walk(SESSION)).values()
        found = next((one for one in sessions if one.id == session_token), None)
        return (found, self.get_user(found.user_id)) if found else super().get_session_and_user(session_token)


@caught_by("test_a_made_session_token_has_256_bits")
class ShortTokens(MemoryAdapter):
    """A time and a counter."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"new_token": lambda: f"{time.time_ns():x}", **options})


@caught_by("test_a_rotated_away_token_is_dead")
class RotateKeepsOldToken(MemoryAdapter):
    """The attacker who planted the old token is promoted too."""

    def rotate_session(self, session_token: str) -> Any:
        found = self.get_session_and_user(session_token)
        return found and self.create_session(user_id=found.user.id, expires=found.session.expires)


@caught_by("test_rotating_keeps_the_custom_fields")
class RotateDropsCustomFields(MemoryAdapter):
    """Delete and create, with the columns of the record alone."""

    def rotate_session(self, session_token: str) -> Any:
        session = self.delete_session(session_token)
        return session and self.create_session(user_id=session.user_id, expires=session.expires)


@caught_by("test_no_session_outlives_session_absolute_age")
class TouchPastAbsoluteAge(MemoryAdapter):
    """Use keeps a stolen session alive for ever."""

    def _within_absolute_age(self, session: Any) -> Any:
        return session


@caught_by("test_a_touch_never_shortens_a_session")
class TouchShrinks(MemoryAdapter):
    """``expires = now + max_age``, whatever it was."""

    def touch_session(self, session_token: str, *, max_age: Any = None) -> Any:
        return self.update_session(session_token, expires=self._now() + timedelta(days=30))


@caught_by("test_a_touch_within_update_age_changes_nothing[almost a day]")
class TouchAlwaysWrites(MemoryAdapter):
    """A write for every page view."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "session_update_age": 0})


class Telling(MemoryAdapter):
    """Keeps tokens, by the session's id."""

    def create_session(self, **fields: Any) -> Any:
        session = super().create_session(**fields)
        self._tokens = {**getattr(self, "_tokens", {}), session.id: session.session_token}
        return session


@caught_by("test_sessions_are_listed_newest_first_without_their_tokens")
class ListShowsTokens(Telling):
    """The page of devices holds the keys to all of them."""

    def list_sessions(self, user_id: str) -> Any:
        listed = super().list_sessions(user_id)
        return [dataclasses.replace(one, session_token=self._tokens[one.id]) for one in listed]


@caught_by("test_one_cannot_revoke_anothers_session")
class RevokesAnybodys(Telling):
    """DELETE ... WHERE id = ?, without the user."""

    def revoke_session(self, user_id: str, session_id: str) -> bool:
        return self.delete_session(getattr(self, "_tokens", {}).get(session_id, "")) is not None


@caught_by("test_revoking_all_others_keeps_the_one")
class KeepIsIgnored(MemoryAdapter):
    """Whoever signs out everywhere else is signed out here too."""

    def revoke_sessions(self, user_id: str, *, keep: str | None = None) -> int:
        return super().revoke_sessions(user_id)


@caught_by("test_a_write_to_nobody_names_the_key_and_leaves_nothing_half_done[create_session]")
class SessionsOfNobody(MemoryAdapter):
    """No foreign key; the user comes later, or never did exist."""

    def _require_user(self, user_id: str) -> None:
        pass


# --- verification tokens ----------------------------------------------------------------------


@caught_by("test_a_token_is_returned_once")
class TokenWorksTwice(MemoryAdapter):
    """Looks up and forgets to delete: mail scanners and browser histories sign in too."""

    def use_verification_token(self, *, identifier: str, token: str) -> Any:
        used = super().use_verification_token(identifier=identifier, token=token)
        if used is not None:
            self.create_verification_token(identifier=identifier, token=token, expires=used.expires)
        return used


class Redeeming(MemoryAdapter):
    """``use_verification_token`` by ``chosen(...)``, the keys among which any fits."""

    def use_verification_token(self, *, identifier: str, token: str) -> Any:
        wanted = self._identifier_group(identifier), self._digest(token)
        with self.transaction():
            for key in [*dict(self._walk(VERIFICATION_TOKEN))]:
                if self.fits(key, wanted):
                    return dataclasses.replace(self._remove(VERIFICATION_TOKEN, key), token=token)
        return None


@caught_by("test_identifier_and_token_must_both_fit")
class AnyTokenWillDo(Redeeming):
    """Checks that a token was sent, not which. [CVE-2022-39263]"""

    def fits(self, key: Any, wanted: Any) -> bool:
        return key[0] == wanted[0]


@caught_by("test_identifier_and_token_must_both_fit")
class AnyIdentifierWillDo(Redeeming):
    """Grace's link, opened with Ada's address, signs in as Ada."""

    def fits(self, key: Any, wanted: Any) -> bool:
        return key[1] == wanted[1]


@caught_by("test_a_token_is_dead_from_expires_on")
class ExpiredTokenAccepted(Redeeming):
    """Last year's mailbox signs in."""

    def fits(self, key: Any, wanted: Any) -> bool:
        return key == wanted


@caught_by("test_an_expired_token_is_consumed_by_its_use")
class ExpiredTokenIsKept(MemoryAdapter):
    """DELETE ... WHERE expires > now: set the clock back, and it works."""

    def use_verification_token(self, *, identifier: str, token: str) -> Any:
        key = (self._identifier_group(identifier), self._digest(token))
        if self._live(self._get(VERIFICATION_TOKEN, key)) is None:
            return None
        return super().use_verification_token(identifier=identifier, token=token)


@caught_by("test_one_wins_and_the_others_get_the_documented_answer[magic link]")
class CheckThenAct(MemoryAdapter):
    """SELECT, then DELETE: 8 of 8 at once were signed in. [better-auth#9572]"""

    def use_verification_token(self, *, identifier: str, token: str) -> Any:
        key = (self._identifier_group(identifier), self._digest(token))
        found = self._live(self._get(VERIFICATION_TOKEN, key))
        time.sleep(0.02)  # the way to a database and back, on a busy machine
        super().use_verification_token(identifier=identifier, token=token)
        return found and dataclasses.replace(found, token=token)


class Guessing(MemoryAdapter):
    """``use_verification_token`` that does not count, but calls ``missed`` for a wrong token."""

    def use_verification_token(self, *, identifier: str, token: str) -> Any:
        group = self._identifier_group(identifier)
        if not self._fits("token", token) or group is None:
            return None
        used = self._live(self._remove_used((group, self._digest(token))))
        if used is None:
            self.missed(group)
        return None if used is None else dataclasses.replace(used, token=token)

    def _remove_used(self, key: Any) -> Any:
        with self.transaction():
            return self._remove(VERIFICATION_TOKEN, key)

    def missed(self, group: str) -> None:
        """Each specimen has its own."""

    def take_one(self, key: Any, code: Any) -> None:
        with self.transaction():
            if code.attempts is not None and code.attempts > 1:
                self._change(VERIFICATION_TOKEN, key, dataclasses.replace(code, attempts=code.attempts - 1))
            else:
                self._remove(VERIFICATION_TOKEN, key)


@caught_by("test_a_code_dies_of_so_many_wrong_tokens")
class CodesAreGuessedAtLeisure(Guessing):
    """Nobody counts, and a million tries are soon made. [better-auth#5116]"""


@caught_by("test_wrong_tokens_are_no_harm_to_a_token_that_is_no_code")
class GuessesKillLinks(Guessing):
    """Whoever knows an address keeps its owner from signing in."""

    def missed(self, group: str) -> None:
        for key, token in self._find(VERIFICATION_TOKEN, group).items():
            self.take_one(key, token)


@caught_by("test_every_guess_at_a_code_is_counted")
class GuessesAtOnceCountOnce(Guessing):
    """SELECT attempts, then UPDATE: all who read the same number have a guess each."""

    def missed(self, group: str) -> None:
        codes = {key: code for key, code in self._find(VERIFICATION_TOKEN, group).items() if code.attempts}
        time.sleep(0.02)
        for key, code in codes.items():
            self.take_one(key, code)


@caught_by("test_the_newest_code_replaces_the_identifiers_others")
class OldCodesLiveOn(MemoryAdapter):
    """Ask for fifty codes, and each guess has fifty chances. [better-auth#2146]"""

    def _codes(self, group: str | None) -> Any:
        return {}


# --- authenticators ---------------------------------------------------------------------------


@caught_by("test_a_counter_that_does_not_grow_is_refused")
class CounterMayShrink(MemoryAdapter):
    """A cloned passkey is not noticed. WebAuthn § 6.1.1"""

    def update_authenticator_counter(self, credential_id: str, counter: int) -> Any:
        with suppress(CounterRegressionError):
            return super().update_authenticator_counter(credential_id, counter)
        with self.transaction():
            updated = dataclasses.replace(self.get_authenticator(credential_id), counter=counter)
            self._change(AUTHENTICATOR, (credential_id,), updated)
        return updated


@caught_by("test_a_change_beside_it_is_no_way_around_the_counter")
class CounterMayShrinkBesides(MemoryAdapter):
    """The general update does not know what the special one knows."""

    def update_authenticator(self, credential_id: str, /, **changes: Any) -> Any:
        if "transports" not in changes:
            return super().update_authenticator(credential_id, **changes)
        with self.transaction():
            updated = dataclasses.replace(self.get_authenticator(credential_id), **changes)
            self._change(AUTHENTICATOR, (credential_id,), updated)
        return updated


@caught_by("test_a_counter_that_grows_is_stored[0-0]", raising="CounterRegressionError")
class ZeroToZeroRefused(MemoryAdapter):
    """Locks out every iPhone, which does not count."""

    def update_authenticator_counter(self, credential_id: str, counter: int) -> Any:
        if counter == 0 and self.get_authenticator(credential_id) is not None:
            raise CounterRegressionError("it must grow")
        return super().update_authenticator_counter(credential_id, counter)


# --- strangers and secrets --------------------------------------------------------------------


@caught_by("test_any_text_is_safe_to_look_up[get_user_by_email]", raising="UnicodeEncodeError")
class SurrogateRaises(MemoryAdapter):
    """UnicodeEncodeError, a page of status 500 for whoever cares to send one."""

    def get_user_by_email(self, email: str) -> Any:
        email.encode()
        return super().get_user_by_email(email)


@caught_by("test_any_text_is_safe_to_look_up[get_user]")
class WildcardsMatch(MemoryAdapter):
    """LIKE for =."""

    def get_user(self, user_id: str) -> Any:
        pattern = re.escape(user_id).replace("%", ".*").replace("_", ".")
        return next((user for (key,), user in dict(self._walk(USER)).items() if re.fullmatch(pattern, key)), None)


@caught_by("test_what_is_no_text_is_a_type_error[get_user]")
class NumbersAreUnknown(MemoryAdapter):
    """``user.id`` of another library's user is an int: everybody is a stranger, and nobody sees why."""

    def get_user(self, user_id: str) -> Any:
        return super().get_user(user_id) if isinstance(user_id, str) else None


@caught_by("test_an_unknown_field_is_a_type_error_that_lists_the_known_ones[create_user-nickname-")
class UnknownFieldsAreLost(MemoryAdapter):
    """``nmae="Ada"`` is taken and forgotten."""

    def create_user(self, **fields: Any) -> Any:
        known = {"email", "name", "image", "email_verified", "id"}
        return super().create_user(**{name: value for name, value in fields.items() if name in known})


@caught_by("test_no_secret_shows_in_a_repr")
class ReprShowsToken(MemoryAdapter):
    """A dataclass as it comes: ``log.info(session)`` is a sign-in."""

    class Session(Session):
        def __repr__(self) -> str:
            return f"Session(session_token={self.session_token!r}, user_id={self.user_id!r})"

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"session": self.Session, **options})


@caught_by("test_no_secret_shows_in_an_error[taken session_token]")
class ErrorShowsToken(MemoryAdapter):
    """As a database's message does: Key (session_token)=(...) already exists."""

    def create_session(self, **fields: Any) -> Any:
        try:
            return super().create_session(**fields)
        except ConflictError as error:
            text = f"session_token={fields['session_token']!r} exists"
            raise ConflictError(text, model=error.model, field=error.field) from error


# --- values -----------------------------------------------------------------------------------


@caught_by("test_an_unstorable_value_is_refused_by_name[create_session-Session-expires-")
class NaiveTimesAccepted(MemoryAdapter):
    """Takes local time for UTC: sessions live hours too long or end before they begin."""

    def create_session(self, *, expires: datetime | None = None, **fields: Any) -> Any:
        if isinstance(expires, datetime) and expires.tzinfo is None:
            expires = expires.replace(tzinfo=UTC)
        return super().create_session(expires=expires, **fields)


@caught_by("test_every_microsecond_comes_back")
class MillisecondsOnly(MemoryAdapter):
    """As a JavaScript Date."""

    def create_session(self, *, expires: datetime | None = None, **fields: Any) -> Any:
        if isinstance(expires, datetime):
            expires = expires.replace(microsecond=expires.microsecond // 1000 * 1000)
        return super().create_session(expires=expires, **fields)


@caught_by("test_extra_is_no_alias_of_what_is_stored")
class RecordsAreAliases(MemoryAdapter):
    """Hands out its own dict, and whoever changes that has changed the store."""

    def get_account(self, **key: str) -> Any:
        return self._records[ACCOUNT].by_key.get(self._account_key(**key))


# --- the whole store --------------------------------------------------------------------------


@caught_by("test_any_exception_rolls_back_and_comes_through")
class NoRollback(MemoryAdapter):
    """A ``with`` block for show."""

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        error = None
        with super().transaction():
            try:
                yield self
            except BaseException as raised:
                error = raised
        if error is not None:
            raise error


@caught_by("test_any_exception_rolls_back_and_comes_through")
class AsyncNoRollback(AsyncMemory):
    """The same for asyncio."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        yield self


@caught_by("test_a_rollback_takes_no_other_threads_work_along")
class AsyncTransactionOfAll(AsyncMemory):
    """Whatever any task writes meanwhile falls into the open transaction."""

    def _current(self) -> Any:
        return self._open[-1] if self._open else None


@caught_by("test_any_exception_rolls_back_and_comes_through")
class TransactionSwallows(SQLiteInMemory):
    """Rolls back, and lets nobody know."""

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        with suppress(ValueError), super().transaction():
            yield self


@caught_by("test_an_inner_failure_leaves_the_outer_work")
class InnerRollsBackAll(MemoryAdapter):
    """No savepoints: ROLLBACK is ROLLBACK."""

    def _rollback(self, depth: int) -> None:
        self._marks[:] = [0] * len(self._marks)
        super()._rollback(depth)


@caught_by("test_a_purge_removes_the_expired_and_nothing_else")
class PurgeTakesTheLiving(MemoryAdapter):
    """Reckons in local time, a few hours ahead."""

    def _purge(self, entity: Any, now: datetime, limit: int) -> int:
        return super()._purge(entity, now + timedelta(hours=2), limit)


@caught_by("test_a_store_that_only_creates_stays_bounded")
class NeverPurges(MemoryAdapter):
    """Leaves it to a cron job that nobody set up. [next-auth#6821]"""

    def _purge_some(self, now: datetime) -> None:
        pass


@caught_by("test_a_purge_removes_the_expired_and_nothing_else")
class PurgeMiscounts(MemoryAdapter):
    """Tells how many there are, not how many went."""

    def purge_expired(self, *, limit: int | None = None) -> Purged:
        counts = [len(dict(self._walk(entity))) for entity in (SESSION, VERIFICATION_TOKEN)]
        super().purge_expired(limit=limit)
        return Purged(*counts)


@caught_by("test_a_snapshot_brings_everything_back")
class RestoreForgets(MemoryAdapter):
    """The table that came last was never added to ``restore``."""

    def _load(self, state: Any) -> None:
        super()._load({**state, AUTHENTICATOR.plural: {}})


@caught_by("test_use_after_close_is_a_closed_error[get_user]")
class AnswersWhenClosed(MemoryAdapter):
    """Serves on, from what it still remembers."""

    def get_user(self, user_id: str) -> Any:
        with suppress(ClosedError):
            return super().get_user(user_id)


@caught_by("test_an_adapter_left_open_warns")
class LeftOpenSilently(MemoryAdapter):
    """Leaks, until Windows cannot delete the file."""

    def __del__(self) -> None:
        self.close()


# --- the cages --------------------------------------------------------------------------------

TESTS = [name for name in dir(AdapterContract) if name.startswith("test_")]


def cage(adapter: type[Any], tests: tuple[str, ...]) -> type[AdapterContract]:
    """The kit for that adapter, with these tests alone."""
    members = dict.fromkeys({*TESTS} - {test.partition("[")[0] for test in tests})
    members |= {"make_adapter": pytest.fixture(lambda self: adapter), "cases": tests}
    return type(f"Test{adapter.__name__}", (AdapterContract,), members)


MEANT = tuple(dict.fromkeys(test for tests in ZOO.values() for test in tests))
globals().update({f"Test{adapter.__name__}": cage(adapter, MEANT) for adapter in SOUND})
globals().update({f"Test{specimen.__name__}": cage(specimen, tests) for specimen, tests in ZOO.items()})
