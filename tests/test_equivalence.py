"""SQLite and memory give the same answer to every question: seeded random sequences, compared step by step.

Each trial does the same things to three stores: look-ups, writes with good and bad values, transactions
that nest, commit and roll back, snapshots and restores, while time goes on. Ids, tokens and e-mail
addresses come from small pools, so that records meet, clash and come back from the dead often. A
trial that fails prints its seed and everything that it had done, as statements.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from tinyauthstore import (
    Account,
    Authenticator,
    AuthStoreError,
    MemoryAdapter,
    Session,
    Snapshot,
    SQLiteAdapter,
    User,
    VerificationToken,
    base,
)
from tinyauthstore.testing import FrozenClock, Undo

STEPS = 500
SEEDS = range(16)
UTC = timezone.utc


# --- custom models, with a field of every type ------------------------------------------------


@dataclass(frozen=True, slots=True)
class Member(User):
    plan: str = "free"
    age: int | None = None
    score: float = 0.5
    admin: bool = False
    avatar: bytes = b"\0"
    seen: datetime | None = None
    settings: dict[str, Any] = field(default_factory=dict, hash=False)
    tags: list[Any] | None = field(default=None, hash=False)


@dataclass(frozen=True, slots=True)
class Identity(Account):
    login: str | None = None
    is_admin: bool = False


@dataclass(frozen=True, slots=True)
class Device(Session):
    agent: str = ""
    facts: dict[str, Any] | None = field(default=None, hash=False)


@dataclass(frozen=True, slots=True)
class Link(VerificationToken):
    purpose: str | None = None


@dataclass(frozen=True, slots=True)
class Passkey(Authenticator):
    label: str = "key"


MODELS: dict[str, Any] = {
    "user": Member,
    "account": Identity,
    "session": Device,
    "verification_token": Link,
    "authenticator": Passkey,
}


# --- values -----------------------------------------------------------------------------------

IDS = ["ada", "grace", "a:b", "zoë", "nul\0", "id 0", "id 1"]
EMAILS = [
    "ada@example.com",
    "Ada@Example.COM",
    " grace@example.com",
    "ＡＤＡ@example.com",
    "\u212aim@example.com",
    "ada @example.com",
    "zoë@example.com",
    "ZOË@example.com",
]
PREFIXES = ["", "A", "z", "ZO\u00cb", "ada@", " ", "\u212a", "zoe"]
IDENTIFIERS = [*EMAILS[:3], "reset:ada", "Reset:ada"]
TOKENS = ["link", "nul\0", "zoë", *(f"token {i}" for i in range(5))]
PROVIDERS = ["github", "GitHub"]
ACCOUNTS = ["1", "1:2", "zoë"]
CREDENTIALS = ["cred-a", "cred-b", "zoë"]

STRANGE: list[Any] = [
    None, 0, -1, 2**63, 1.5, float("nan"), True, b"bytes", [], {}, {"a": {1: 2}}, object, "",
    " ", "\ud800", "a" * 5000, "' OR 1=1 --", datetime(2026, 1, 2), datetime.max.replace(tzinfo=UTC),
    "unheard of", "@", "zoe\u0308@example.com",
]  # fmt: skip
"""What a caller may give by mistake, or a stranger on purpose. Some of it is fine in some fields."""


class Dice:
    """A seeded source of arguments, most of them good."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock = FrozenClock()
        self.sessions: list[Session] = []
        self.links: list[VerificationToken] = []

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def pick(self, pool: list[Any]) -> Any:
        return self.random.choice(STRANGE) if self.chance(0.04) else self.random.choice(pool)

    def moment(self) -> datetime:
        """Something near the present, often the same one twice, so that records expire together."""
        return self.clock.now + timedelta(hours=self.random.choice([-1, 0, 1, 1, 30, 1000, 1000]))

    def some(self, **pools: list[Any] | Callable[[], Any]) -> dict[str, Any]:
        """A few of the fields, each with a value from its pool."""
        few = self.random.choice([0.1, 0.4, 0.9])
        chosen = {name: pool for name, pool in pools.items() if self.chance(few)}
        given = {n: self.pick(pool) if isinstance(pool, list) else pool() for n, pool in chosen.items()}
        if self.chance(0.03):
            given[self.random.choice(["colour", "id", "user_id", "created_at"])] = "blue"
        return given

    # -- the arguments of each method

    def profile(self) -> dict[str, Any]:
        return self.some(
            email=[*EMAILS, None], name=["Ada", "A\0da", None], image=["portrait.png"],
            email_verified=self.moment, plan=["pro", "free"], age=[36, -1, None],
            score=[1, -0.0, 2.5, 1e300], admin=[True, False],
            avatar=[b"", b"\xff\0", bytearray(b"x")], seen=self.moment,
            settings=[{}, {"theme": "dark", "deep": [{"a": None}, 1.5]}], tags=[[], ["a", 1, True], None],
        )  # fmt: skip

    def account(self) -> dict[str, Any]:
        return {"provider": self.pick(PROVIDERS), "provider_account_id": self.pick(ACCOUNTS)}

    def oauth(self) -> dict[str, Any]:
        return self.some(
            access_token=["a", "b", None], refresh_token=["r"], expires_at=[1, 2**40, "soon", 7.5, "8"],
            token_type=["bearer"], scope=["read", 5, ["read", "write"]], id_token=["i"],
            login=["octocat", None], is_admin=[True, "yes"], claims=[{"a": [1]}, None], extra=[{"b": 2}, {"scope": "mine"}, "none", 5],
        )  # fmt: skip

    def response(self) -> list[Any]:
        if self.chance(0.7):
            return []
        return [self.pick([{}, {"user_id": "theirs", "type": 1, "scope": "all"}, {"provider": "p", "team": 2}])]

    # -- what was made lately, undone or gone since or not, is asked about more often than chance would

    def remember(self, answer: Any) -> None:
        if isinstance(answer, Session):
            self.sessions = [*self.sessions[-3:], answer]
        elif isinstance(answer, VerificationToken):
            self.links = [*self.links[-3:], answer]

    def token(self) -> Any:
        if self.sessions and self.chance(0.5):
            return self.random.choice(self.sessions).session_token
        return self.pick(TOKENS)

    def device(self) -> list[Any]:
        if self.sessions and self.chance(0.7):
            session = self.random.choice(self.sessions)
            return [session.user_id, session.id]
        return [self.pick(IDS), self.pick(["0" * 32])]

    def verification(self) -> dict[str, Any]:
        if self.links and self.chance(0.5):
            link = self.random.choice(self.links)
            return {"identifier": link.identifier, "token": link.token}
        return {"identifier": self.pick(IDENTIFIERS), "token": self.pick(TOKENS)}


Arguments = Callable[[Dice], tuple[list[Any], dict[str, Any]]]


def only(pool: list[Any]) -> Arguments:
    return lambda dice: ([dice.pick(pool)], {})


METHODS: dict[str, Arguments] = {
    "create_user": lambda d: ([], d.profile() | d.some(id=IDS)),
    "get_user": only(IDS),
    "get_user_by_email": only(EMAILS),
    "get_user_by_account": lambda d: ([], d.account()),
    "update_user": lambda d: ([d.pick(IDS)], d.profile()),
    "delete_user": only(IDS),
    "link_account": lambda d: (
        d.response(),
        {"user_id": d.pick(IDS), "type": d.pick(["oauth", "oidc"]), **d.account(), **d.oauth()},
    ),
    "unlink_account": lambda d: ([], d.account()),
    "get_account": lambda d: ([], d.account()),
    "list_accounts": only(IDS),
    "create_session": lambda d: (
        [],
        {"user_id": d.pick(IDS)}
        | d.some(session_token=TOKENS, expires=d.moment, agent=["curl", ""], facts=[{"ip": "::1"}, None]),
    ),
    "get_session_and_user": lambda d: ([d.token()], {}),
    "update_session": lambda d: (
        [d.token()], d.some(expires=d.moment, agent=["wget", ""], facts=[{}, {"ip": None}])
    ),
    "touch_session": lambda d: (
        [d.token()], d.some(max_age=[60, 7200.5, timedelta(days=365), timedelta(0), True, -1])
    ),
    "rotate_session": lambda d: ([d.token()], {}),
    "delete_session": lambda d: ([d.token()], {}),
    "list_sessions": only(IDS),
    "revoke_session": lambda d: (d.device(), {}),
    "revoke_sessions": lambda d: ([d.pick(IDS)], d.some(keep=d.token)),
    "create_verification_token": lambda d: (
        [], {"identifier": d.pick(IDENTIFIERS)} | d.some(token=TOKENS, expires=d.moment, purpose=["reset"], attempts=[1, 2, 3, 0, None])
    ),
    "use_verification_token": lambda d: ([], d.verification()),
    "delete_verification_tokens": only(IDENTIFIERS),
    "create_authenticator": lambda d: (
        [],
        {
            "user_id": d.pick(IDS),
            "credential_id": d.pick(CREDENTIALS), "provider_account_id": d.pick(ACCOUNTS),
            "credential_public_key": d.pick(["key"]), "counter": d.pick([0, 1, 5]),
            "credential_device_type": d.pick(["singleDevice"]), "credential_backed_up": d.pick([True, False]),
        }
        | d.some(transports=["usb", None], label=["mine"]),
    ),
    "get_authenticator": only(CREDENTIALS),
    "list_authenticators_by_user_id": only(IDS),
    "update_authenticator_counter": lambda d: ([d.pick(CREDENTIALS), d.pick([0, 1, 5, 6, 2**32 - 1])], {}),
    "update_authenticator": lambda d: (
        [d.pick(CREDENTIALS)], d.some(counter=[0, 1, 5, 6], transports=["nfc", None], label=["mine", "yours"])
    ),
    "delete_authenticator": only(CREDENTIALS),
    "list_users": lambda d: (
        [], d.some(limit=[0, 1, 2, 3, 100], after=[*IDS, "", "b", "i"], email_prefix=[*PREFIXES, *EMAILS])
    ),
    "count": lambda d: ([], {}),
    "purge_expired": lambda d: ([], d.some(limit=[0, 1, 2, None])),
    "check": lambda d: ([], {}),
}  # fmt: skip

WEIGHTS = {
    "create_user": 6, "create_session": 6, "link_account": 4,
    "create_verification_token": 6, "create_authenticator": 4,
    "update_session": 2, "delete_user": 0.2, "revoke_sessions": 0.5,
    "delete_verification_tokens": 0.3, "unlink_account": 0.5, "delete_session": 0.3, "check": 0.1,
    "delete_authenticator": 0.5,
}  # fmt: skip
"""How often a method is called, if not as often as the others: so that there is something to ask about."""


# --- answers ----------------------------------------------------------------------------------


def plain(answer: Any) -> Any:
    """An answer in a form that shows every difference: types, secrets, order and evidence."""
    if dataclasses.is_dataclass(answer):
        fields = {f.name: plain(getattr(answer, f.name)) for f in dataclasses.fields(answer)}
        return type(answer).__name__, fields
    if isinstance(answer, AuthStoreError):
        return type(answer).__name__, vars(answer)
    if isinstance(answer, Exception):
        return type(answer).__name__
    if isinstance(answer, (list, tuple)):
        return type(answer).__name__, [plain(item) for item in answer]
    if isinstance(answer, dict):
        return [(key, plain(value)) for key, value in answer.items()]
    return type(answer).__name__, answer


def attempt(method: Callable[..., Any], positional: list[Any], named: dict[str, Any]) -> Any:
    """What a call returned, or raised."""
    try:
        return method(*positional, **named)
    except Exception as error:
        return error


def state(store: Any) -> dict[str, Any]:
    """Everything that a store can be asked about the pools; it is left as it was."""
    assert store.check() == []
    answers: dict[str, Any] = {"count": store.count(), "list_users": store.list_users()}
    answers |= {prefix: store.list_users(limit=2, email_prefix=prefix) for prefix in PREFIXES}
    for name, pool in {
        "get_user": IDS, "list_accounts": IDS, "list_sessions": IDS, "list_authenticators_by_user_id": IDS,
        "get_user_by_email": EMAILS, "get_session_and_user": TOKENS, "get_authenticator": CREDENTIALS,
    }.items():  # fmt: skip
        answers[name] = [getattr(store, name)(one) for one in pool]
    for name in ("get_account", "get_user_by_account"):
        keys = itertools.product(PROVIDERS, ACCOUNTS)
        answers[name] = [getattr(store, name)(provider=p, provider_account_id=a) for p, a in keys]
    with pytest.raises(Undo), store.transaction():
        pairs = itertools.product(IDENTIFIERS, TOKENS)
        answers["use"] = [store.use_verification_token(identifier=i, token=t) for i, t in pairs]
        answers["purge_expired"] = store.purge_expired()
        raise Undo
    return answers


BAD = {"TypeError", "InvalidFieldError"}
EXPECTED: dict[str, set[str]] = {
    "create_user": {"Member", "ConflictError"} | BAD,
    "get_user": {"Member", "NoneType"},
    "get_user_by_email": {"Member", "NoneType"},
    "get_user_by_account": {"Member", "NoneType"},
    "update_user": {"Member", "NotFoundError", "ConflictError"} | BAD,
    "delete_user": {"Member", "NoneType"},
    "link_account": {"Identity", "NotFoundError", "ConflictError"} | BAD,
    "unlink_account": {"Identity", "NoneType"},
    "get_account": {"Identity", "NoneType"},
    "list_accounts": {"list", "empty list"},
    "create_session": {"Device", "NotFoundError", "ConflictError"} | BAD,
    "get_session_and_user": {"SessionAndUser", "NoneType"},
    "update_session": {"Device", "NoneType"} | BAD,
    "touch_session": {"Device", "NoneType", "ValueError", "TypeError"},
    "rotate_session": {"Device", "NoneType", "ConflictError"},
    "delete_session": {"Device", "NoneType"},
    "list_sessions": {"list", "empty list"},
    "revoke_session": {"bool", "empty bool"},
    "revoke_sessions": {"int", "empty int"},
    "create_verification_token": {"Link"} | BAD,
    "use_verification_token": {"Link", "NoneType"},
    "delete_verification_tokens": {"int", "empty int"},
    "create_authenticator": {"Passkey", "NotFoundError", "ConflictError"} | BAD,
    "get_authenticator": {"Passkey", "NoneType"},
    "list_authenticators_by_user_id": {"list", "empty list"},
    "update_authenticator_counter": {"Passkey", "NotFoundError", "CounterRegressionError"} | BAD,
    "update_authenticator": {"Passkey", "NotFoundError", "CounterRegressionError"} | BAD,
    "delete_authenticator": {"Passkey", "NoneType"},
    "list_users": {"list", "empty list", "ValueError"},
    "count": {"Counts"},
    "purge_expired": {"Purged", "ValueError"},
    "check": {"empty list"},
}
"""What each method must have answered, or raised, at least once: else the trials prove little."""


# --- a trial ----------------------------------------------------------------------------------


class Trial:
    """The same random acts on several stores, which must not be told apart."""

    def __init__(self, seed: int, *makers: Callable[..., Any]) -> None:
        self.seed = seed
        self.makers = makers
        self.dice = Dice(seed)
        choose = self.dice.random.choice
        self.options: dict[str, Any] = {
            "session_max_age": choose([7200, 30 * 86400]), "session_update_age": choose([0, 600]),
            "session_absolute_age": choose([None, 9000]), "verification_max_age": choose([600, 86400]),
            "purge_interval": choose([None, 0, 1800]), "secret": choose([None, "pepper"]), **MODELS,
        }  # fmt: skip
        self.done: list[str] = []
        self.seen: Counter[str] = Counter()
        self.open: list[list[Any]] = []
        self.snapshots: list[list[Snapshot]] = []

    def own(self) -> dict[str, Any]:
        """Options for one store; ids and tokens repeat after a while, as if by a broken generator."""
        ids, tokens = itertools.count(), itertools.count()
        return self.options | {
            "clock": self.dice.clock,
            "new_id": lambda: f"id {next(ids) % 2}",
            "new_token": lambda: f"token {next(tokens) % 5}",
        }

    def run(self, steps: int) -> dict[str, Any]:
        """The state in which the stores agree after that many acts."""
        with ExitStack() as stack:
            self.stores = [stack.enter_context(make(**self.own())) for make in self.makers]
            for step in range(steps):
                self.act()
                if step % 20 == 19:
                    self.agree("state(store)", [state(store) for store in self.stores])
            while self.open:
                self.leave()
            return state(self.stores[0])

    def act(self) -> None:
        dice, depth = self.dice, len(self.open)
        if dice.chance(0.2):
            hours = dice.random.choice([0, 0, 0, 0.1, 0.1, 0.1, 0.5, 1, 20])
            self.done.append(f"clock.tick(hours={hours}, microseconds=1)")
            dice.clock.tick(hours=hours, microseconds=1)
        if depth < 3 and dice.chance(0.05):
            self.enter()
        elif depth and dice.chance(0.2):
            self.leave()
        elif dice.chance(0.01):
            self.done.append(f"snapshots.append(store.snapshot())  # {len(self.snapshots)}")
            self.snapshots.append([store.snapshot() for store in self.stores])
        elif self.snapshots and dice.chance(0.005):
            number = dice.random.randrange(len(self.snapshots))
            self.done.append(f"store.restore(snapshots[{number}])")
            for store, snapshot in zip(self.stores, self.snapshots[number]):
                store.restore(snapshot)
        else:
            weights = [WEIGHTS.get(method, 1) for method in METHODS]
            self.call(dice.random.choices(list(METHODS), weights)[0])

    def enter(self) -> None:
        self.done.append("transaction = store.transaction(); transaction.__enter__()")
        self.open.append([store.transaction() for store in self.stores])
        for transaction in self.open[-1]:
            transaction.__enter__()

    def leave(self) -> None:
        raised = Undo() if self.dice.chance(0.3) else None
        kind = type(raised) if raised else None
        self.done.append(f"transaction.__exit__({kind and kind.__name__})")
        self.agree(self.done[-1], [t.__exit__(kind, raised, None) for t in self.open.pop()])

    def call(self, method: str) -> None:
        positional, named = METHODS[method](self.dice)
        shown = [repr(value) for value in positional] + [f"{name}={value!r}" for name, value in named.items()]
        self.done.append(f"store.{method}({', '.join(shown)})")
        answers = [attempt(getattr(store, method), positional, named) for store in self.stores]
        self.agree(self.done[-1], answers)
        nothing = "empty " if answers[0] in ([], 0, False) else ""
        self.seen[f"{method}: {nothing}{type(answers[0]).__name__}"] += 1
        self.dice.remember(answers[0])

    def agree(self, question: str, answers: list[Any]) -> None:
        """AssertionError, with all that led there, unless the answers are one and the same."""
        first, *others = (plain(answer) for answer in answers)
        for store, other in zip(self.stores[1:], others):
            if other != first:
                history = "\n".join(self.done)
                pytest.fail(
                    f"seed {self.seed}, step {len(self.done)}, options {self.options}:\n{history}\n\n"
                    f"{question}\n"
                    f"{self.stores[0]!r} answered\n  {first}\n{store!r}\n  {other}",
                    pytrace=False,
                )


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Purging comes to its limits with a handful of records."""
    monkeypatch.setattr(base, "PURGE_BATCH", 2)


def compare(seed: int, steps: int, path: Path) -> None:
    def in_a_file(**options: Any) -> SQLiteAdapter[Any, Any, Any, Any, Any]:
        return SQLiteAdapter(path, durability="normal", **options)

    trial = Trial(seed, MemoryAdapter, lambda **options: SQLiteAdapter(":memory:", **options), in_a_file)
    last = trial.run(steps)
    with in_a_file(synchronize=False, **trial.own()) as reopened:
        trial.agree("state(store) after reopening", [last, state(reopened)])


@pytest.mark.parametrize("seed", [*SEEDS][::2])
def test_sqlite_and_memory_answer_alike_whatever_is_done(tmp_path: Path, seed: int) -> None:
    compare(seed, STEPS, tmp_path / "auth.db")


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 200))
def test_sqlite_and_memory_answer_alike_for_hours(tmp_path: Path, seed: int) -> None:
    compare(seed, STEPS, tmp_path / "auth.db")


def test_the_trials_reach_every_kind_of_answer() -> None:
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        trial = Trial(seed, MemoryAdapter)
        trial.run(STEPS)
        seen += trial.seen
    wanted = {f"{method}: {kind}" for method, kinds in EXPECTED.items() for kind in kinds}
    assert wanted - seen.keys() == set()
    assert {answer for answer in seen.keys() - wanted if answer.split(": ")[1] not in BAD} == set()
