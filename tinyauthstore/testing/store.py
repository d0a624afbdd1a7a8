"""The store as a whole: transactions, lifecycle, threads; and the whole contract."""

from __future__ import annotations

import copy
import dataclasses
import gc
import threading
import time
import warnings
from datetime import timedelta
from types import NoneType
from typing import Any

import pytest

from ..errors import AuthStoreError, ClosedError, ConflictError, CounterRegressionError, NotFoundError
from ..models import Account, Counts, Purged, User, VerificationToken
from .border import (
    CALLS,
    CONFLICTS,
    CREATE,
    CUSTOM,
    GIVEN,
    READ,
    WRITES,
    CustomModelContract,
    StrangerContract,
    TimeContract,
)
from .records import AccountContract, AuthenticatorContract, UserContract
from .tokens import SessionContract, VerificationContract
from .tools import (
    DAY,
    FAR,
    NAIVE,
    START,
    SURROGATE,
    Call,
    Contract,
    FrozenClock,
    Household,
    Resident,
    Undo,
    each,
    key,
    link,
    problems,
    race,
    register,
    undone,
    use,
)

# --- the whole store --------------------------------------------------------------------------


class TransactionContract(Contract):
    """All or nothing, nesting as savepoints."""

    group = "transactions"

    def test_what_happens_inside_stays(self, store: Any) -> None:
        """And is seen inside; ``with ... as`` gives the store."""
        with store.transaction() as same:
            assert same is store
            ada = store.create_user(email="ada@example.com")
            assert store.get_user_by_email("ada@example.com") == ada
        assert store.get_user(ada.id) == ada

    @pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), Undo()], ids=repr)
    def test_any_exception_rolls_back_and_comes_through(self, store: Any, error: BaseException) -> None:
        """The very same object, for the caller to handle."""
        with pytest.raises(type(error)) as caught, store.transaction():
            ada = store.create_user()
            raise error
        assert caught.value is error
        assert store.get_user(ada.id) is None

    @each(
        {
            "create_user": lambda a: a.create_user(email="new@example.com"),
            "update_user": lambda a: a.update_user("ada", email="new@example.com", email_verified=None),
            "delete_user": lambda a: a.delete_user("ada"),
            "link_account, new": lambda a: link(a, "ada", "new"),
            "link_account, again": lambda a: link(a, "ada", "ada-1", access_token="x", team="x"),
            "unlink_account": lambda a: a.unlink_account(provider="github", provider_account_id="ada-1"),
            "create_session": lambda a: a.create_session(user_id="ada"),
            "update_session": lambda a: a.update_session("ada-1-session", expires=FAR),
            "rotate_session": lambda a: a.rotate_session("ada-1-session"),
            "delete_session": lambda a: a.delete_session("ada-1-session"),
            "revoke_sessions": lambda a: a.revoke_sessions("ada"),
            "create_verification_token": lambda a: a.create_verification_token(identifier="ada@example.com"),
            "create_verification_token, a code": lambda a: a.create_verification_token(
                identifier="ada@example.com", token="123456", attempts=5
            ),
            "delete_verification_tokens": lambda a: a.delete_verification_tokens("ada@example.com"),
            "create_authenticator": lambda a: register(a, "ada"),
            "update_authenticator_counter": lambda a: a.update_authenticator_counter("ada-1", 9),
            "update_authenticator": lambda a: a.update_authenticator("ada-1", transports="nfc"),
            "delete_authenticator": lambda a: a.delete_authenticator("ada-1"),
            "restore": lambda a: [a.delete_user("ada"), a.restore(a.snapshot())],
        }
    )
    def test_every_write_can_be_rolled_back(self, home: Household, case: Any) -> None:
        """To exactly what was there before."""
        before = home.state()
        assert undone(home.store, lambda: case(home.store)), "the write did something"
        assert home.state() == before

    def test_a_purge_can_be_rolled_back(self, timed: Any, clock: FrozenClock) -> None:
        """And comes to the same when it is done again."""
        timed.create_session(user_id=timed.create_user().id)
        timed.create_verification_token(identifier="x")
        clock.tick(days=31)
        for _ in range(2):
            assert undone(timed, timed.purge_expired) == Purged(1, 1)
        assert timed.purge_expired() == Purged(1, 1)

    def test_an_inner_failure_leaves_the_outer_work(self, store: Any) -> None:
        """A transaction inside is a savepoint."""
        with store.transaction():
            first = store.create_user()
            lost = undone(store, store.create_user)
            last = store.create_user()
        assert [store.get_user(user.id) for user in (first, lost, last)] == [first, None, last]

    def test_an_outer_failure_takes_the_inner_work_along(self, store: Any) -> None:
        """However deep, and however successful in there."""
        made = []
        with pytest.raises(Undo), store.transaction():
            for _ in range(3):
                with store.transaction(), store.transaction():
                    made.append(store.create_user())
            raise Undo
        assert [store.get_user(user.id) for user in made] == [None] * 3

    @each(CONFLICTS)
    def test_work_goes_on_after_a_conflict_that_was_caught(self, home: Household, case: Any) -> None:
        """The refused write undid itself and nothing else."""
        before = home.state()
        with home.store.transaction():
            first = home.store.create_user()
            with pytest.raises(ConflictError):
                WRITES[case[0]](home.store, **case[1])
            last = home.store.create_user()
        assert home.store.get_user(first.id) == first
        assert home.store.get_user(last.id) == last
        assert home.state() == before

    def test_a_transaction_can_be_followed_by_another(self, store: Any) -> None:
        """Nothing is left behind by either end."""
        for _ in range(3):
            with store.transaction():
                kept = store.create_user()
            lost = undone(store, store.create_user)
            assert [store.get_user(kept.id), store.get_user(lost.id)] == [kept, None]

    def test_a_rolled_back_address_is_free(self, store: Any) -> None:
        """What is unique is rolled back with its record."""
        undone(store, lambda: store.create_user(email="ada@example.com"))
        assert store.create_user(email="ada@example.com")

    def test_nobody_sees_unfinished_work(self, store: Any, ada: User) -> None:
        """Another thread waits, or sees what was there before; never what is rolled back later."""
        store.transaction()  # skips if there is none, before the other thread waits for it
        changed, looked = threading.Event(), threading.Event()

        def look(_: int) -> Any:
            changed.wait(10)
            name = store.get_user(ada.id).name
            looked.set()
            return name

        def change() -> None:
            with pytest.raises(Undo), store.transaction():
                store.update_user(ada.id, name="unfinished")
                changed.set()
                looked.wait(0.05)  # times out if the store makes readers wait
                raise Undo

        assert race(2, lambda i: look(i) if i else change())[1] == "Ada"

    def test_a_rollback_takes_no_other_threads_work_along(self, store: Any, ada: User) -> None:
        """A write of another thread is no part of this thread's transaction."""
        store.transaction()  # skips if there is none, before the other thread waits for it
        begun, created = threading.Event(), threading.Event()

        def roll_back() -> None:
            with pytest.raises(Undo), store.transaction():
                store.update_user(ada.id, name="unfinished")
                begun.set()
                created.wait(0.05)  # times out if the store makes writers wait
                raise Undo

        def create() -> Any:
            begun.wait(10)
            user = store.create_user()
            created.set()
            return user

        made = race(2, lambda i: create() if i else roll_back())[1]
        assert store.get_user(made.id) == made
        assert store.get_user(ada.id) == ada


class LifecycleContract(Contract):
    """Purging, snapshots, ``check`` and ``close``."""

    group = "lifecycle"

    @pytest.fixture
    def aging(self, timed: Any, clock: FrozenClock) -> Any:
        """Six sessions and six tokens, of which four each have expired by now."""
        user_id = timed.create_user(id="ada").id
        for minutes in range(6):
            expires = START + timedelta(minutes=minutes)
            timed.create_session(user_id=user_id, session_token=str(minutes), expires=expires)
            timed.create_verification_token(identifier="x", token=str(minutes), expires=expires)
        clock.tick(minutes=3)
        return timed

    def test_a_purge_removes_the_expired_and_nothing_else(self, aging: Any, clock: FrozenClock) -> None:
        """What expires at this very moment included; the counts tell, and live ones live on."""
        purged = aging.purge_expired()
        assert (purged.sessions, purged.verification_tokens) == purged == (4, 4)
        assert isinstance(purged, Purged)
        assert aging.purge_expired() == (0, 0)
        clock.now = START - DAY
        assert len(aging.list_sessions("ada")) == aging.delete_verification_tokens("x") == 2

    def test_a_purge_can_be_limited(self, aging: Any) -> None:
        """At most that many of each kind, for callers who cannot wait long."""
        counts = [aging.purge_expired(limit=limit) for limit in (0, 3, 3, 3)]
        assert counts == [(0, 0), (3, 3), (1, 1), (0, 0)]

    def test_a_limited_purge_takes_the_oldest_first(self, aging: Any, clock: FrozenClock) -> None:
        """So that every expired record has its turn."""
        aging.purge_expired(limit=3)
        clock.now = START - DAY
        assert {token for token in "012345" if aging.get_session_and_user(token)} == set("345")

    @pytest.mark.parametrize("limit", [-1, 1.5, "1"])
    def test_a_limit_that_is_no_count_is_refused(self, aging: Any, limit: Any) -> None:
        """Nothing is purged."""
        with pytest.raises((ValueError, TypeError)):
            aging.purge_expired(limit=limit)
        assert aging.purge_expired() == (4, 4)

    def test_an_extended_session_is_not_purged_at_its_old_end(self, aging: Any, clock: FrozenClock) -> None:
        """What counts is ``expires`` as it is now."""
        aging.update_session("4", expires=FAR)
        clock.tick(days=365)
        assert aging.purge_expired().sessions == 5
        assert aging.get_session_and_user("4").session.expires == FAR

    def test_a_store_that_only_creates_stays_bounded(self, build: Call, clock: FrozenClock) -> None:
        """Without a cron job: creating purges. [next-auth#6821, #7759; better-auth#1280]"""
        store = build(clock=clock, session_max_age=60, verification_max_age=60, purge_interval=60)
        user_id = store.create_user().id
        for _ in range(150):
            clock.tick(seconds=10)
            store.create_session(user_id=user_id)
            store.create_verification_token(identifier="x")
        clock.tick(days=1)
        left = store.purge_expired()
        # Of each kind, 6 are live at a time, and about as many more expire between two purges.
        assert left.sessions <= 20 and left.verification_tokens <= 20

    def test_purging_at_writes_can_be_switched_off(self, timed: Any, clock: FrozenClock) -> None:
        """``purge_interval=None``: only ``purge_expired`` purges."""
        user_id = timed.create_user().id
        for _ in range(20):
            clock.tick(days=31)
            timed.create_session(user_id=user_id)
            timed.create_verification_token(identifier="x")
        assert timed.purge_expired() == (19, 19)

    def test_a_write_purges_at_most_once_in_an_interval(self, build: Call, clock: FrozenClock) -> None:
        """Within ``purge_interval`` by the clock nothing is spent on it; after it, it goes on."""
        store = build(clock=clock, session_max_age=10, purge_interval=60)
        user_id = store.create_user().id
        store.create_session(user_id=user_id)
        clock.tick(seconds=59)
        store.create_session(user_id=user_id)
        assert undone(store, store.purge_expired).sessions == 1
        clock.tick(seconds=1)
        store.create_session(user_id=user_id)
        assert undone(store, store.purge_expired).sessions == 0

    def test_a_single_write_does_bounded_work(self, build: Call, clock: FrozenClock) -> None:
        """Whoever signs in does not wait for a thousand deletions; the following writes go on with them."""
        store = build(clock=clock, session_max_age=60, purge_interval=60)
        user_id = store.create_user().id
        with store.transaction():
            for _ in range(1000):
                store.create_session(user_id=user_id)
        clock.tick(days=1)
        store.create_session(user_id=user_id)
        assert 0 < undone(store, store.purge_expired).sessions < 1000
        for _ in range(100):
            store.create_session(user_id=user_id)
        assert undone(store, store.purge_expired).sessions == 0

    def test_an_empty_store_counts_zeros(self, store: Any) -> None:
        """By name and by position."""
        counts = store.count()
        assert counts == (0, 0, 0, 0, 0)
        assert isinstance(counts, Counts)

    def test_each_kind_is_counted(self, store: Any, home: Household) -> None:
        """What was deleted is not."""
        link(store, "ada", "another"), register(store, "ada", "one more"), register(store, "ada", "another")
        store.create_session(user_id="grace")
        assert store.count() == Counts(
            users=2, accounts=7, sessions=7, verification_tokens=6, authenticators=8
        )
        store.delete_user("grace")
        assert store.count() == (1, 4, 3, 3, 5)

    def test_what_is_counted_is_live(self, aging: Any) -> None:
        """What has expired, at this very moment too, is absent, whether it was purged or not."""
        assert aging.count() == (1, 0, 2, 2, 0)
        aging.purge_expired()
        assert aging.count() == (1, 0, 2, 2, 0)

    def test_sessions_beyond_the_absolute_age_are_not_counted(self, build: Call, clock: FrozenClock) -> None:
        """Nor are they anywhere else, whatever ``expires`` says."""
        store = build(clock=clock, session_absolute_age=DAY)
        user_id = store.create_user().id
        store.create_session(user_id=user_id)
        clock.tick(hours=1)
        store.create_session(user_id=user_id)
        clock.tick(hours=23, microseconds=-1)
        assert store.count().sessions == 2
        clock.tick(microseconds=1)
        assert store.count().sessions == len(store.list_sessions(user_id)) == 1

    def test_a_count_inside_a_transaction_sees_its_writes(self, store: Any, home: Household) -> None:
        """And the pages of users do."""
        assert undone(store, lambda: [store.delete_user("ada"), store.count()])[1] == (1, 3, 3, 3, 3)
        assert [user.id for user in undone(store, lambda: [store.delete_user("ada"), store.list_users()])[1]] == ["grace"]
        assert store.count() == (2, 6, 6, 6, 6)
        assert len(store.list_users()) == 2

    def test_a_snapshot_brings_everything_back(self, store: Any, home: Household) -> None:
        """Exactly, as often as one likes, and tokens still sign in."""
        before, snapshot = home.state(), store.snapshot()
        for _ in range(2):
            store.delete_user(home.ada.id)
            store.update_user(home.grace.id, email="new@example.com")
            use(store, home.grace.tokens[0])
            link(store, home.grace.id, "grace-1", access_token="new", team="new")
            store.create_user(email="ada@example.com", id="new")
            store.restore(snapshot)
            assert home.state() == before
            assert store.get_user("new") is None
            assert problems(store) == []

    def test_an_empty_snapshot_empties(self, store: Any) -> None:
        """The fresh store that a test fixture wants."""
        snapshot = store.snapshot()
        home = Household(store)
        store.restore(snapshot)
        assert store.get_user(home.ada.id) is None
        assert [store.get_session_and_user(one.session_token) for one in home.ada.sessions] == [None] * 3
        Household(store)  # every address, account and credential is free

    def test_a_snapshot_keeps_custom_fields(self, build: Call) -> None:
        """Of every model."""
        store = build(**CUSTOM)
        user_id = store.create_user().id
        made = {name: create(store, user_id, **copy.deepcopy(GIVEN)) for name, create in CREATE.items()}
        snapshot = store.snapshot()
        store.delete_user(made["user"].id)
        store.delete_user(user_id)
        store.restore(snapshot)
        assert {name: READ[name](store, record) for name, record in made.items()} == made

    @each({"nothing": None, "dict": {}, "object": object()})
    def test_what_is_no_snapshot_is_a_type_error(self, store: Any, home: Household, case: Any) -> None:
        """And nothing is changed."""
        before = home.state()
        with pytest.raises(TypeError):
            store.restore(case)
        assert home.state() == before

    def test_a_sound_store_has_no_problems(self, store: Any, home: Household) -> None:
        """Nor has an empty one, nor one after much has gone."""
        assert problems(store) == []
        store.delete_user(home.ada.id)
        store.update_user(home.grace.id, email=None)
        assert problems(store) == []

    def test_checking_changes_nothing(self, store: Any, home: Household) -> None:
        """It only looks."""
        before = home.state()
        store.check()
        assert home.state() == before

    def test_closing_twice_is_harmless(self, store: Any) -> None:
        """Also after ``with``, which closes too."""
        with store as same:
            assert same is store
        store.close()
        store.close()

    @pytest.mark.parametrize("name", CALLS)
    def test_use_after_close_is_a_closed_error(self, store: Any, name: str) -> None:
        """In every method, whatever it was asked for."""
        store.close()
        with pytest.raises(ClosedError) as caught:
            CALLS[name](store)
        assert isinstance(caught.value, AuthStoreError)

    def test_a_closed_store_restores_nothing(self, store: Any) -> None:
        """Not even a valid snapshot."""
        snapshot = store.snapshot()
        store.close()
        with pytest.raises(ClosedError):
            store.restore(snapshot)

    def test_with_closes_also_after_an_exception(self, store: Any) -> None:
        """Which comes through."""
        with pytest.raises(Undo), store:
            raise Undo
        with pytest.raises(ClosedError):
            store.get_user("x")

    @each({"empty": "", "half a character": SURROGATE, "too long": "x" * 10_000})
    def test_a_closed_adapter_says_so_whatever_is_asked(self, store: Any, case: Any) -> None:
        """Also where the answer could only be nothing: it is a programmer's mistake all the same."""
        store.close()
        looks = (store.get_user, store.get_user_by_email, store.get_session_and_user, store.list_accounts)
        for look in looks:
            with pytest.raises(ClosedError):
                look(case)
        with pytest.raises(ClosedError):
            store.purge_expired(limit=0)

    def test_an_adapter_left_open_warns(self, make_adapter: Call, wrap: Call) -> None:
        """So that leaks show in tests, before they fail on Windows. [cpython#135333]"""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()  # what other tests left behind does not matter here
        with pytest.warns(ResourceWarning):
            wrap(make_adapter())
            gc.collect()

    @pytest.mark.filterwarnings("error::ResourceWarning", "error::pytest.PytestUnraisableExceptionWarning")
    def test_a_closed_adapter_does_not_warn(self, make_adapter: Call, wrap: Call) -> None:
        """Nor does one whose construction failed."""
        wrap(make_adapter()).close()
        with pytest.raises((TypeError, ValueError)):
            wrap(make_adapter(session_max_age="long"))
        gc.collect()

    @each(
        {
            "negative age": {"session_max_age": -1},
            "age in words": {"session_update_age": "1 day"},
            "age not shorter than the one it updates": {"session_update_age": DAY, "session_max_age": DAY},
            "negative limit": {"session_absolute_age": -DAY},
            "age that is a truth": {"verification_max_age": True},
            "negative interval": {"purge_interval": -1},
            "empty secret": {"secret": ""},
            "secret of another type": {"secret": 5},
            "naive clock": {"clock": lambda: NAIVE},
            "clock without datetimes": {"clock": time.time},
            "unknown option": {"session_age": 5},
        }
    )
    def test_a_wrong_option_is_refused_at_construction(self, build: Call, case: Any) -> None:
        """By name, not at the first sign-in."""
        with pytest.raises((TypeError, ValueError), match=next(iter(case))):
            build(**case)


# --- threads ----------------------------------------------------------------------------------

CROWD = 32

RACES: dict[str, tuple[Call, type[Any]]] = {
    "sign-up, e-mail": (
        lambda a, i: a.create_user(email=("New@example.com", "new@example.com ")[i % 2]), ConflictError
    ),
    "sign-up, id": (lambda a, i: a.create_user(id="new", name=str(i)), ConflictError),
    "change of e-mail": (lambda a, i: a.update_user(f"user-{i}", email="new@example.com"), ConflictError),
    "link": (lambda a, i: link(a, f"user-{i}", "new"), ConflictError),
    "session token": (lambda a, i: a.create_session(user_id=f"user-{i}", session_token="new"), ConflictError),
    "passkey": (lambda a, i: register(a, f"user-{i}", "new"), ConflictError),
    "counter": (lambda a, i: a.update_authenticator_counter("ada-1", 9), CounterRegressionError),
    "magic link": (lambda a, i: use(a, VerificationToken("ada@example.com", "ada-1-token", FAR)), NoneType),
    "rotation": (lambda a, i: a.rotate_session("ada-1-session"), NoneType),
    "sign-out": (lambda a, i: a.delete_session("ada-1-session"), NoneType),
    "revocation": (lambda a, i: a.revoke_sessions("ada") or None, NoneType),
    "unlinking": (lambda a, i: a.unlink_account(provider="github", provider_account_id="ada-1"), NoneType),
    "deletion": (lambda a, i: a.delete_user("ada"), NoneType),
}
"""What only one of many can win, and how the others are answered."""


class ConcurrencyContract(Contract):
    """Real threads on one store."""

    group = "concurrency"

    @each(RACES)
    def test_one_wins_and_the_others_get_the_documented_answer(self, home: Household, case: Any) -> None:
        """Thirty-two at once. Select-then-delete gave 8 winners of 8. [better-auth#9572]"""
        for i in range(CROWD):
            home.store.create_user(id=f"user-{i}")
        call, lost = case
        answers = race(CROWD, lambda i: call(home.store, i))
        winners = [answer for answer in answers if not isinstance(answer, lost)]
        assert len(winners) == 1, f"of {CROWD} one wins, the others get {lost.__name__}; not so {winners}"
        assert not isinstance(winners[0], Exception), winners
        assert problems(home.store) == []

    def test_every_guess_at_a_code_is_counted(self, store: Any) -> None:
        """Thirty-two at once; or each thread that reads "four left" has four guesses. [better-auth#2146]"""
        code = store.create_verification_token(identifier="x", token="123456", attempts=CROWD + 1)
        guess = {"identifier": "x", "token": "wrong"}
        assert race(CROWD, lambda i: store.use_verification_token(**guess)) == [None] * CROWD
        assert use(store, code) == dataclasses.replace(code, attempts=1)

    def test_a_raced_account_belongs_to_the_winner(self, store: Any) -> None:
        """One provider account, one owner, whoever came second."""
        ids = [store.create_user().id for _ in range(CROWD)]
        answers = race(CROWD, lambda i: link(store, ids[i], "new", access_token=ids[i]))
        [account] = [answer for answer in answers if isinstance(answer, Account)]
        assert store.get_account(**key(account)) == account
        assert account.access_token == account.user_id
        assert [one for user_id in ids for one in store.list_accounts(user_id)] == [account]

    def test_a_session_rotated_by_many_is_one_session(self, store: Any, home: Household) -> None:
        """Two tokens for one sign-in would be one too many."""
        race(CROWD, lambda i: store.rotate_session(home.ada.sessions[0].session_token))
        assert len(store.list_sessions(home.ada.id)) == 3

    @each(
        {
            "update_user": (
                lambda a, r: a.update_user(r.id, name="new"), lambda a, r: a.delete_user(r.id),
                lambda a, r: a.get_user(r.id),
            ),
            "update_session": (
                lambda a, r: a.update_session(r.sessions[0].session_token, expires=FAR),
                lambda a, r: a.delete_session(r.sessions[0].session_token),
                lambda a, r: a.get_session_and_user(r.sessions[0].session_token),
            ),
            "create_session": (
                lambda a, r: a.create_session(user_id=r.id), lambda a, r: a.delete_user(r.id),
                lambda a, r: a.list_sessions(r.id) or None,
            ),
            "link_account": (
                lambda a, r: link(a, r.id, "again"), lambda a, r: a.delete_user(r.id),
                lambda a, r: a.get_account(provider="github", provider_account_id="again"),
            ),
        }
    )
    def test_a_write_that_races_a_delete_resurrects_nothing(self, store: Any, case: Any) -> None:
        """Whichever comes first, in the end it is gone. [django#5950]"""
        write, delete, look = case
        for i in range(10):
            resident = Resident(store, f"user{i}")
            answers = race(8, lambda i: (delete if i == 0 else write)(store, resident))
            assert look(store, resident) is None
            assert all(isinstance(a, NotFoundError) for a in answers if isinstance(a, Exception)), answers
        assert problems(store) == []

    def test_eight_threads_on_one_store_get_their_own_records(self, store: Any) -> None:
        """An unguarded connection returned other people's rows on Python 3.12: signed in as somebody else."""
        residents = [Resident(store, f"user{i}") for i in range(8)]

        def visit(i: int) -> list[str]:
            resident, wrong = residents[i], []
            for n in range(60):
                session = resident.sessions[n % 3]
                if store.get_session_and_user(session.session_token) != (session, resident.user):
                    wrong.append(f"{i}: session")
                if store.get_user_by_email(resident.user.email) != resident.user:
                    wrong.append(f"{i}: user")
                if n % 10 == 0:
                    token = store.create_session(user_id=resident.id).session_token
                    if store.delete_session(token).user_id != resident.id:
                        wrong.append(f"{i}: created session")
            return wrong

        assert race(8, visit) == [[]] * 8

    def test_reading_and_writing_in_a_transaction_loses_no_update(self, store: Any, ada: User) -> None:
        """Eight threads that count to ten count to eighty."""
        store.update_user(ada.id, name="0")

        def count(_: int) -> None:
            for _ in range(10):
                with store.transaction():
                    store.update_user(ada.id, name=str(int(store.get_user(ada.id).name) + 1))

        assert race(8, count) == [None] * 8
        assert store.get_user(ada.id).name == "80"


class AdapterContract(
    UserContract,
    AccountContract,
    SessionContract,
    VerificationContract,
    AuthenticatorContract,
    StrangerContract,
    TimeContract,
    CustomModelContract,
    TransactionContract,
    LifecycleContract,
    ConcurrencyContract,
):
    """The whole contract."""
