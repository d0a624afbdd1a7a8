"""What a token opens: sessions, and single-use tokens."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from ..errors import ConflictError
from ..models import Purged, Session, SessionAndUser, User, VerificationToken
from .tools import (
    DAY,
    FAR,
    HUGE,
    MICROSECOND,
    NOBODY,
    NOTHING,
    SAME_ADDRESS,
    START,
    SURROGATE,
    Call,
    Contract,
    FrozenClock,
    Household,
    each,
    looked_up,
    offers,
    undone,
    use,
)

# --- sessions ---------------------------------------------------------------------------------

ON_A_SESSION: dict[str, Call] = {
    "get_session_and_user": lambda a, s: a.get_session_and_user(s.session_token),
    "update_session": lambda a, s: a.update_session(s.session_token, expires=FAR),
    "touch_session": lambda a, s: a.touch_session(s.session_token),
    "rotate_session": lambda a, s: a.rotate_session(s.session_token),
    "delete_session": lambda a, s: a.delete_session(s.session_token),
    "list_sessions": lambda a, s: a.list_sessions(s.user_id),
    "revoke_session": lambda a, s: a.revoke_session(s.user_id, s.id),
    "revoke_sessions": lambda a, s: a.revoke_sessions(s.user_id),
}
"""The operations on a session."""

BY_TOKEN = [*ON_A_SESSION][:5]


class SessionContract(Contract):
    """Signed-in devices, found by a token that the store does not know."""

    group = "sessions"

    @pytest.fixture
    def session(self, timed: Any) -> Any:
        """A session of 30 days, and nothing else."""
        return looked_up(timed, timed.create_session(user_id=timed.create_user(email="ada@example.com").id))

    def test_a_session_comes_back_with_its_user(self, store: Any, ada: User) -> None:
        """What ``create_session`` returned, found by its token."""
        session = store.create_session(user_id=ada.id, expires=FAR)
        found = store.get_session_and_user(session.session_token)
        assert isinstance(found, SessionAndUser)
        assert found == (session, ada)
        assert (session.user_id, session.expires) == (ada.id, FAR)

    @pytest.mark.parametrize("method", ON_A_SESSION)
    def test_an_unknown_session_is_nothing(self, store: Any, method: str) -> None:
        """Absence is an answer, not an error."""
        assert ON_A_SESSION[method](store, Session(NOBODY, NOBODY, FAR, id=NOBODY)) == NOTHING.get(method)

    def test_a_session_lives_for_session_max_age(self, timed: Any, session: Session) -> None:
        """Counted from the clock's time, which is ``created_at``."""
        assert (session.created_at, session.expires) == (START, START + 30 * DAY)

    def test_an_age_may_be_seconds_or_a_timedelta(self, build: Call, clock: FrozenClock) -> None:
        """Both mean the same; fractions of seconds count."""
        for age in (1.5, timedelta(seconds=1.5)):
            store = build(clock=clock, session_max_age=age, verification_max_age=age)
            session = store.create_session(user_id=store.create_user().id)
            token = store.create_verification_token(identifier="x")
            assert session.expires == token.expires == START + timedelta(seconds=1.5)

    def test_an_endless_age_does_not_overflow(self, build: Call, clock: FrozenClock) -> None:
        """An application's "for ever" ends with the calendar, at creation and at every use."""
        store = build(clock=clock, session_max_age=timedelta.max, verification_max_age=timedelta.max)
        session = store.create_session(user_id=store.create_user().id)
        clock.tick(days=400)
        assert store.get_session_and_user(session.session_token)
        assert store.touch_session(session.session_token) == session
        assert use(store, store.create_verification_token(identifier="x"))

    def test_a_made_session_token_has_256_bits(self, store: Any, ada: User) -> None:
        """ASVS 7.2.3 demands 128; 256 random bits are 43 characters of base64, and never come twice."""
        tokens = {store.create_session(user_id=ada.id).session_token for _ in range(50)}
        assert len(tokens) == 50
        assert all(len(token) >= 43 for token in tokens)

    def test_tokens_come_from_new_token_when_it_is_given(self, build: Call) -> None:
        """For sessions, rotations and verification tokens."""
        store = build(new_token=iter(["one", "two", "three"]).__next__)
        assert store.create_session(user_id=store.create_user().id).session_token == "one"
        assert store.rotate_session("one").session_token == "two"
        assert store.create_verification_token(identifier="x").token == "three"

    def test_a_given_token_is_kept(self, store: Any, ada: User) -> None:
        """An Auth.js front end brings its own."""
        assert store.create_session(user_id=ada.id, session_token="naïve \0 token").user_id == ada.id
        assert store.get_session_and_user("naïve \0 token").session.session_token == "naïve \0 token"

    @pytest.mark.parametrize("method", ON_A_SESSION)
    def test_a_session_lives_until_its_last_microsecond(
        self, timed: Any, clock: FrozenClock, session: Session, method: str
    ) -> None:
        """One microsecond before ``expires`` every method still finds it."""
        clock.now = session.expires - MICROSECOND
        assert ON_A_SESSION[method](timed, session) not in (NOTHING.get(method), None)

    @pytest.mark.parametrize("method", ON_A_SESSION)
    @pytest.mark.parametrize("purged", [False, True], ids=["unpurged", "purged"])
    @pytest.mark.parametrize("late", [0, 1], ids=["at expires", "after expires"])
    def test_a_session_is_dead_from_expires_on(
        self, timed: Any, clock: FrozenClock, session: Session, method: str, late: int, purged: bool
    ) -> None:
        """In every method, at that very microsecond, whether purged or not; nothing revives it."""
        clock.now = session.expires + late * MICROSECOND
        if purged:
            assert timed.purge_expired() == Purged(1, 0)
        found = ON_A_SESSION[method](timed, session)
        assert found == NOTHING.get(method), f"to {method}, an expired session is absent; it gave {found!r}"
        assert timed.get_session_and_user(session.session_token) is None
        assert timed.list_sessions(session.user_id) == []

    def test_a_session_may_be_created_expired(self, timed: Any, session: Session) -> None:
        """It is absent at once."""
        dead = timed.create_session(user_id=session.user_id, expires=START)
        assert timed.get_session_and_user(dead.session_token) is None
        assert [one.id for one in timed.list_sessions(session.user_id)] == [session.id]

    @pytest.mark.parametrize("purged", [False, True], ids=["unpurged", "purged"])
    def test_an_expired_sessions_token_is_free(
        self, timed: Any, clock: FrozenClock, session: Session, purged: bool
    ) -> None:
        """Expired is absent, whether purging got there yet or not."""
        clock.now = session.expires
        if purged:
            timed.purge_expired()
        again = timed.create_session(user_id=session.user_id, session_token=session.session_token)
        assert timed.get_session_and_user(session.session_token).session == again

    def test_an_update_changes_expires_and_nothing_else(self, timed: Any, session: Session) -> None:
        """``expires`` may grow and shrink."""
        for expires in (FAR, START + DAY):
            changed = dataclasses.replace(session, expires=expires)
            assert timed.update_session(session.session_token, expires=expires) == changed
            assert timed.get_session_and_user(session.session_token).session == changed

    def test_an_update_without_expires_keeps_the_session(self, timed: Any, session: Session) -> None:
        """Auth.js's D1 adapter loses the session."""
        assert timed.update_session(session.session_token) == session
        found = timed.get_session_and_user(session.session_token)
        assert found and found.session == session, "it lives on, unchanged"

    def test_a_deleted_session_stays_dead(self, timed: Any, session: Session) -> None:
        """Deleting is idempotent, and no save resurrects a signed-out session. [django#5950]"""
        assert timed.delete_session(session.session_token) == session
        for method, call in ON_A_SESSION.items():
            assert call(timed, session) == NOTHING.get(method), method

    @each({"just made": timedelta(0), "almost a day": DAY - MICROSECOND})
    def test_a_touch_within_update_age_changes_nothing(
        self, timed: Any, clock: FrozenClock, session: Session, case: Any
    ) -> None:
        """At most one write in a day; the session is returned all the same."""
        clock.now += case
        assert timed.touch_session(session.session_token) == session

    @each({"at a day": DAY, "in the last microsecond": 30 * DAY - MICROSECOND})
    def test_a_touch_extends_a_session_from_update_age_on(
        self, timed: Any, clock: FrozenClock, session: Session, case: Any
    ) -> None:
        """By ``session_max_age`` from now, as Auth.js does; nothing else changes."""
        clock.now += case
        touched = dataclasses.replace(session, expires=clock.now + 30 * DAY)
        assert timed.touch_session(session.session_token) == touched
        assert timed.get_session_and_user(session.session_token).session == touched
        clock.now += DAY - MICROSECOND
        assert timed.touch_session(session.session_token) == touched, "not twice in session_update_age"

    def test_a_touch_never_shortens_a_session(self, timed: Any, clock: FrozenClock, session: Session) -> None:
        """One that was given longer than ``session_max_age`` keeps it."""
        given = timed.create_session(user_id=session.user_id, expires=START + 365 * DAY)
        clock.tick(days=100)
        assert timed.touch_session(given.session_token) == given

    def test_a_touch_may_give_this_session_an_age_of_its_own(
        self, timed: Any, clock: FrozenClock, session: Session
    ) -> None:
        """\"Remember me\", or not: two hours stay two hours, and a year stays a year."""
        for age in (timedelta(hours=2), 365 * DAY):
            made = timed.create_session(user_id=session.user_id, expires=clock.now + age)
            clock.now += age - MICROSECOND
            touched = dataclasses.replace(made, expires=clock.now + age)
            assert timed.touch_session(made.session_token, max_age=age) == touched
            assert timed.get_session_and_user(made.session_token).session == touched
            assert timed.touch_session(made.session_token, max_age=age.total_seconds()) == touched

    @each({"two hours": timedelta(hours=2), "a year": 365 * DAY})
    def test_a_touch_with_an_age_writes_once_in_its_update_age(
        self, timed: Any, clock: FrozenClock, session: Session, case: Any
    ) -> None:
        """In a thirtieth of the age, or in ``session_update_age`` if that is shorter."""
        made = timed.create_session(user_id=session.user_id, expires=clock.now + case)
        clock.now += min(case / 30, DAY) - MICROSECOND
        assert timed.touch_session(made.session_token, max_age=case) == made
        clock.now += MICROSECOND
        assert timed.touch_session(made.session_token, max_age=case).expires == clock.now + case

    def test_a_touch_with_an_age_keeps_to_the_absolute_age(self, build: Call, clock: FrozenClock) -> None:
        """Whoever is remembered for a year is asked to sign in again when the application says."""
        store = build(clock=clock, session_absolute_age=40 * DAY)
        token = store.create_session(user_id=store.create_user().id).session_token
        clock.tick(days=2)
        assert store.touch_session(token, max_age=365 * DAY).expires == START + 40 * DAY

    @each({"negative": -1, "in words": "1 day", "a truth": True, "endless": float("inf")})
    def test_a_touch_with_what_is_no_age_is_refused(self, timed: Any, session: Session, case: Any) -> None:
        """Whether the token is known or not: a stranger's must not hide the mistake."""
        for token in (session.session_token, "unknown"):
            with pytest.raises(ValueError, match="max_age"):
                timed.touch_session(token, max_age=case)

    def test_a_session_in_use_never_ends_by_itself(self, build: Call, clock: FrozenClock) -> None:
        """However short ``session_max_age`` is, if only that is given: the update age follows it."""
        store = build(clock=clock, session_max_age=3600)
        token = store.create_session(user_id=store.create_user().id).session_token
        for _ in range(100):
            clock.tick(minutes=20)
            assert store.touch_session(token) is not None

    def test_an_update_age_of_zero_extends_at_every_touch(self, build: Call, clock: FrozenClock) -> None:
        """The finest setting: every use counts."""
        store = build(clock=clock, session_max_age=60, session_update_age=0)
        token = store.create_session(user_id=store.create_user().id).session_token
        for _ in range(3):
            clock.tick(microseconds=1)
            assert store.touch_session(token).expires == clock.now + timedelta(seconds=60)

    def test_no_session_outlives_session_absolute_age(self, build: Call, clock: FrozenClock) -> None:
        """However it is created, updated, touched or rotated. ASVS 7.3.2"""
        store = build(
            clock=clock, session_max_age=30 * DAY, session_update_age=DAY, session_absolute_age=40 * DAY
        )
        end, user_id = START + 40 * DAY, store.create_user().id
        assert store.create_session(user_id=user_id, expires=FAR).expires == end
        token = store.create_session(user_id=user_id).session_token
        clock.tick(days=9)
        assert store.touch_session(token).expires == START + 39 * DAY, "within the limit it is extended"
        clock.tick(days=5)
        assert store.touch_session(token).expires == end
        token = store.rotate_session(token).session_token
        assert store.update_session(token, expires=FAR).expires == end
        clock.now = end - MICROSECOND
        assert store.touch_session(token).expires == end
        clock.now = end
        assert store.get_session_and_user(token) is None

    def test_rotating_changes_the_token_and_nothing_else(
        self, timed: Any, clock: FrozenClock, session: Session
    ) -> None:
        """ASVS 7.2.4: a new token, the old one ended; the same user, age and end."""
        clock.tick(days=3)
        rotated = timed.rotate_session(session.session_token)
        assert rotated.session_token != session.session_token
        assert rotated.id != session.id
        assert rotated == dataclasses.replace(session, session_token=rotated.session_token, id=rotated.id)
        assert timed.get_session_and_user(rotated.session_token).session == rotated
        assert [one.id for one in timed.list_sessions(session.user_id)] == [rotated.id]

    def test_a_rotated_away_token_is_dead(self, timed: Any, session: Session) -> None:
        """In every method that takes a token."""
        timed.rotate_session(session.session_token)
        answers = {method: ON_A_SESSION[method](timed, session) for method in BY_TOKEN}
        assert answers == dict.fromkeys(BY_TOKEN), "whoever planted the old token must not be promoted"
        assert timed.revoke_session(session.user_id, session.id) is False

    def test_rotating_to_an_expired_token_is_no_conflict(self, build: Call, clock: FrozenClock) -> None:
        """Expired is absent, whether purging got there yet or not."""
        store = build(clock=clock, new_token=lambda: "again", purge_interval=None)
        ada = store.create_user()
        store.create_session(user_id=ada.id, expires=START)
        store.create_session(user_id=ada.id, session_token="mine")
        assert store.rotate_session("mine").session_token == "again"
        assert store.get_session_and_user("again").user == ada

    def test_rotating_to_a_taken_token_changes_nothing(self, build: Call) -> None:
        """A conflict, and both sessions live on."""
        store = build(new_token=lambda: "taken")
        ada, grace = store.create_user(), store.create_user()
        store.create_session(user_id=grace.id)
        store.create_session(user_id=ada.id, session_token="mine")
        with pytest.raises(ConflictError) as caught:
            store.rotate_session("mine")
        assert (caught.value.model, caught.value.field) == ("Session", "session_token")
        assert store.get_session_and_user("mine").user == ada
        assert store.get_session_and_user("taken").user == grace

    def test_sessions_are_listed_newest_first_without_their_tokens(
        self, timed: Any, clock: FrozenClock, session: Session
    ) -> None:
        """The list is for show: all but the token, and of this user only."""
        sessions = [session]
        for _ in range(3):
            clock.tick(microseconds=1)
            sessions.insert(0, timed.create_session(user_id=session.user_id))
        timed.create_session(user_id=timed.create_user().id)
        withheld = [dataclasses.replace(one, session_token="") for one in sessions]
        assert timed.list_sessions(session.user_id) == withheld

    def test_a_sessions_id_is_steady_and_no_token(self, timed: Any, session: Session) -> None:
        """The same wherever the session is returned; useless for signing in."""
        token = session.session_token
        found = [timed.get_session_and_user(token).session, timed.touch_session(token)]
        found += [timed.update_session(token, expires=FAR), *timed.list_sessions(session.user_id)]
        assert session.id and {one.id for one in found} == {session.id}
        assert session.id not in token and token not in session.id
        presented = Session(session.id, session.user_id, FAR)
        answers = {method: ON_A_SESSION[method](timed, presented) for method in BY_TOKEN}
        assert answers == dict.fromkeys(BY_TOKEN), "the id is shown in lists: it must not do as a token"

    def test_revoking_ends_that_session_only(self, store: Any, home: Household) -> None:
        """Once; True says that one went. ASVS 7.4.5"""
        first, second, third = home.ada.sessions
        others = home.grace.state()
        assert store.revoke_session(home.ada.id, second.id) is True
        assert store.revoke_session(home.ada.id, second.id) is False
        assert store.get_session_and_user(second.session_token) is None
        assert {one.id for one in store.list_sessions(home.ada.id)} == {first.id, third.id}
        assert home.grace.state() == others

    def test_one_cannot_revoke_anothers_session(self, store: Any, home: Household) -> None:
        """The id comes from a request: it counts only with its own user."""
        before = home.state()
        assert store.revoke_session(home.ada.id, home.grace.sessions[0].id) is False
        assert store.revoke_session(home.ada.id, home.ada.sessions[0].session_token) is False
        assert home.state() == before

    def test_revoking_all_says_how_many_went(self, store: Any, home: Household) -> None:
        """Sign out everywhere. [next-auth#2993]"""
        others = home.grace.state()
        assert store.revoke_sessions(home.ada.id) == 3
        assert store.list_sessions(home.ada.id) == []
        assert store.revoke_sessions(home.ada.id) == 0
        assert home.grace.state() == others

    def test_revoking_all_others_keeps_the_one(self, store: Any, home: Household) -> None:
        """ASVS 7.4.3: after a factor changed, the others end."""
        kept = home.ada.sessions[1]
        assert store.revoke_sessions(home.ada.id, keep=kept.session_token) == 2
        assert [one.id for one in store.list_sessions(home.ada.id)] == [kept.id]
        assert store.get_session_and_user(kept.session_token).session == kept

    def test_keeping_what_is_not_there_keeps_nothing(self, store: Any, home: Household) -> None:
        """``keep`` takes a token; an id, a stranger's text or another's token spares no session."""
        for keep in (home.ada.sessions[0].id, "grace-1-session", "ada-1-token", "", SURROGATE, "x" * HUGE):
            assert undone(store, lambda: store.revoke_sessions(home.ada.id, keep=keep)) == 3

    def test_expired_sessions_are_not_counted_as_revoked(
        self, timed: Any, clock: FrozenClock, session: Session
    ) -> None:
        """One that expired did not go now."""
        timed.create_session(user_id=session.user_id, expires=START + DAY)
        clock.tick(days=1)
        assert timed.revoke_sessions(session.user_id) == 1


# --- verification tokens ----------------------------------------------------------------------


class VerificationContract(Contract):
    """Single-use tokens: magic links, e-mail codes."""

    group = "verification"

    def test_a_token_is_returned_once(self, store: Any) -> None:
        """As it was created; then it is gone."""
        token = store.create_verification_token(identifier="Ada@example.com", expires=FAR)
        assert isinstance(token, VerificationToken)
        assert (token.identifier, token.expires) == ("Ada@example.com", FAR)
        assert use(store, token) == token
        assert use(store, token) is None, "whoever finds a used link must not be signed in by it"

    def test_a_made_verification_token_has_256_bits(self, store: Any) -> None:
        """43 characters of base64, never twice."""
        tokens = {store.create_verification_token(identifier="x").token for _ in range(50)}
        assert len(tokens) == 50
        assert all(len(token) >= 43 for token in tokens)

    def test_a_token_lives_for_verification_max_age(self, timed: Any) -> None:
        """Counted from the clock's time. ASVS 6.5.5: ten minutes at most."""
        expires = START + timedelta(seconds=600)
        assert timed.create_verification_token(identifier="x").expires == expires

    def test_a_token_lives_until_its_last_microsecond(self, timed: Any, clock: FrozenClock) -> None:
        """One microsecond before ``expires`` it is good."""
        token = timed.create_verification_token(identifier="x")
        clock.now = token.expires - MICROSECOND
        assert use(timed, token) == token

    @pytest.mark.parametrize("purged", [False, True], ids=["unpurged", "purged"])
    @pytest.mark.parametrize("late", [0, 1], ids=["at expires", "after expires"])
    def test_a_token_is_dead_from_expires_on(
        self, timed: Any, clock: FrozenClock, late: int, purged: bool
    ) -> None:
        """At that very microsecond, whether purged or not; it was not deleted now either."""
        token = timed.create_verification_token(identifier="x")
        clock.now = token.expires + late * MICROSECOND
        if purged:
            assert timed.purge_expired() == Purged(0, 1)
        if offers(timed, "transaction"):
            assert undone(timed, lambda: timed.delete_verification_tokens("x")) == 0
        assert use(timed, token) is None, "a token whose end has come signs nobody in"

    def test_an_expired_token_is_consumed_by_its_use(self, timed: Any, clock: FrozenClock) -> None:
        """Should the clock be set back, it stays used."""
        token = timed.create_verification_token(identifier="x")
        clock.now = token.expires
        assert use(timed, token) is None
        clock.tick(seconds=-300)
        assert use(timed, token) is None

    def test_identifier_and_token_must_both_fit(self, store: Any) -> None:
        """A check of one of them signs anybody in [CVE-2022-39263]; a miss consumes nothing."""
        ada = store.create_verification_token(identifier="ada@example.com")
        grace = store.create_verification_token(identifier="grace@example.com")
        for one, other in ((ada, grace), (grace, ada)):
            crossed = store.use_verification_token(identifier=one.identifier, token=other.token)
            assert crossed is None, "a token is good for the identifier that it was made for, and no other"
            assert store.use_verification_token(identifier=one.identifier, token="") is None
            assert store.use_verification_token(identifier="", token=one.token) is None
            assert store.use_verification_token(identifier=one.token, token=one.identifier) is None
        assert (use(store, ada), use(store, grace)) == (ada, grace)

    @each(SAME_ADDRESS)
    def test_spellings_of_one_address_are_one_identifier(self, store: Any, case: Any) -> None:
        """The link was asked for as ``Ada@Example.com``, the user is ``ada@example.com``."""
        for stored, asked in (case, case[::-1]):
            token = store.create_verification_token(identifier=stored)
            assert store.use_verification_token(identifier=asked, token=token.token) == token
            store.create_verification_token(identifier=stored)
            assert store.delete_verification_tokens(asked) == 1

    def test_an_identifier_that_is_no_address_is_compared_exactly(self, store: Any) -> None:
        """Folding the case of "reset:aB3" could join two users' ids."""
        token = store.create_verification_token(identifier="reset:aB3")
        for other in ("reset:ab3", " reset:aB3", "reset:aB3 ", "reset:aB３"):
            assert store.use_verification_token(identifier=other, token=token.token) is None
            assert store.delete_verification_tokens(other) == 0
        assert use(store, token) == token

    def test_identifier_and_token_are_not_joined(self, store: Any) -> None:
        """("a:b", "c") and ("a", "b:c") are two tokens, whatever the separator. [Upstash]"""
        for separator in ":/|\0\n":
            store.create_verification_token(identifier=f"a{separator}b", token="c")
            assert store.use_verification_token(identifier="a", token=f"b{separator}c") is None

    def test_one_identifier_may_have_several_tokens(self, store: Any) -> None:
        """Whoever asks for a second link may still follow the first."""
        tokens = [store.create_verification_token(identifier="ada@example.com") for _ in range(3)]
        assert [use(store, token) for token in tokens] == tokens

    def test_one_token_may_belong_to_several_identifiers(self, store: Any) -> None:
        """Short codes repeat; each is used on its own."""
        tokens = [store.create_verification_token(identifier=name, token="123456") for name in "ab"]
        assert [use(store, token) for token in tokens] == tokens

    def test_the_same_pair_again_replaces_the_first(self, store: Any) -> None:
        """A code sent again lives for its new time, and is good once."""
        store.create_verification_token(identifier="x", token="123456", expires=START)
        again = store.create_verification_token(identifier="x", token="123456", expires=FAR)
        assert use(store, again) == again
        assert use(store, again) is None

    def test_a_code_works_once(self, store: Any) -> None:
        """As any other token does."""
        code = store.create_verification_token(identifier="ada@example.com", token="123456", attempts=5)
        assert code.attempts == 5
        assert use(store, code) == code
        assert use(store, code) is None

    @pytest.mark.parametrize("attempts", [1, 2, 5])
    def test_a_code_dies_of_so_many_wrong_tokens(self, store: Any, attempts: int) -> None:
        """A million codes are soon tried. The last but one leaves it alive, and it says what is left. ASVS 6.6.3"""
        for wrong in range(attempts + 1):
            code = store.create_verification_token(identifier="ada@example.com", token="123456", attempts=attempts)
            for i in range(wrong):
                assert store.use_verification_token(identifier="ADA@example.com", token=f"wrong {i}") is None
            left = dataclasses.replace(code, attempts=attempts - wrong) if wrong < attempts else None
            assert use(store, code) == left, f"after {wrong} wrong tokens of {attempts}"

    def test_a_wrong_token_counts_for_its_identifiers_code_only(self, store: Any) -> None:
        """Else one could have every code die by guesses at nobody's."""
        code = store.create_verification_token(identifier="ada@example.com", token="123456", attempts=1)
        for identifier in ("grace@example.com", "ada@example.org", "ada", ""):
            assert store.use_verification_token(identifier=identifier, token="wrong") is None
        assert use(store, code) == code

    def test_wrong_tokens_are_no_harm_to_a_token_that_is_no_code(self, store: Any) -> None:
        """Or anybody could make a link that is on its way useless."""
        token = store.create_verification_token(identifier="ada@example.com")
        code = store.create_verification_token(identifier="ada@example.com", token="123456", attempts=1)
        for _ in range(50):
            assert store.use_verification_token(identifier="ada@example.com", token="wrong") is None
        assert use(store, code) is None
        assert token.attempts is None and use(store, token) == token

    def test_a_right_token_does_not_count_as_a_wrong_one(self, timed: Any, clock: FrozenClock) -> None:
        """Neither a link, nor one that is followed too late."""
        late = timed.create_verification_token(identifier="x", expires=START)
        link = timed.create_verification_token(identifier="x")
        code = timed.create_verification_token(identifier="x", token="123456", attempts=1)
        assert use(timed, late) is None
        assert use(timed, link) == link
        assert use(timed, code) == code

    def test_the_newest_code_replaces_the_identifiers_others(self, store: Any) -> None:
        """However it is spelt: each that goes on living is another chance to guess. Links stay. [better-auth#2146]"""
        link = store.create_verification_token(identifier="ada@example.com")
        grace = store.create_verification_token(identifier="grace@example.com", token="1", attempts=1)
        old = store.create_verification_token(identifier="ada@example.com", token="1", attempts=9)
        new = store.create_verification_token(identifier="ADA@example.com", token="2", attempts=2)
        assert use(store, old) is None
        assert use(store, new) == dataclasses.replace(new, attempts=1)
        assert (use(store, link), use(store, grace)) == (link, grace)

    def test_a_code_that_is_sent_again_has_all_its_attempts(self, store: Any) -> None:
        """It is a new one, with the same digits by chance."""
        for _ in range(2):
            code = store.create_verification_token(identifier="x", token="123456", attempts=2)
            assert store.use_verification_token(identifier="x", token="wrong") is None
        assert use(store, code) == dataclasses.replace(code, attempts=1)

    def test_an_expired_code_is_dead_however_many_attempts_are_left(self, timed: Any, clock: FrozenClock) -> None:
        """And is counted by nobody."""
        code = timed.create_verification_token(identifier="x", token="123456", attempts=5)
        clock.now = code.expires
        assert use(timed, code) is None
        clock.tick(seconds=-300)
        assert use(timed, code) is None

    def test_what_is_too_long_to_be_a_token_is_no_guess(self, store: Any) -> None:
        """It costs nobody anything."""
        code = store.create_verification_token(identifier="x", token="123456", attempts=1)
        assert store.use_verification_token(identifier="x", token="x" * HUGE) is None
        assert use(store, code) == code

    def test_deleting_says_how_many_went(self, store: Any, home: Household) -> None:
        """All of the identifier's, none of another's; a second time none."""
        others = home.grace.state()
        assert store.delete_verification_tokens("ADA@example.com") == 3
        assert store.delete_verification_tokens("ada@example.com") == 0
        assert [use(store, token) for token in home.ada.tokens] == [None] * 3
        assert home.grace.state() == others

    def test_an_identifier_needs_no_user(self, store: Any) -> None:
        """Sign-up by magic link comes before the user; unknown identifiers have nothing."""
        assert use(store, store.create_verification_token(identifier="new@example.com"))
        assert store.delete_verification_tokens("unknown@example.com") == 0

    @each({"no at sign": "Ada", "full-width at sign": "Ada＠example.com", "blanks": " ada@example.com "})
    def test_a_deleted_users_pending_tokens_go_however_the_address_is_spelt(
        self, store: Any, case: Any
    ) -> None:
        """The user's address and the token's identifier are one and the same text."""
        user = store.create_user(email=case)
        token = store.create_verification_token(identifier=case)
        store.delete_user(user.id)
        assert use(store, token) is None
