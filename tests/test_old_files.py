"""Files of earlier versions: whatever comes later opens them, finds all that is in them, and goes on.

Those under ``files/`` were written by ``write`` below: ``*-v1`` by version 0.1.0 (commit db343cf; SQLite's
user_version 1, version 1 of journals and shelves), ``*-v2`` when version 2 of both had come (it records the types of
custom fields, and has other normal forms of addresses). They are never written again: a new format gets new
files beside them. Beside each stands one that is written now, so that ``write`` is known to work when its day
comes: ``python tests/test_old_files.py FOLDER`` writes them all.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support import run_python

from tinyauthstore import (
    Account,
    Adapter,
    Authenticator,
    Purged,
    Session,
    ShelveAdapter,
    SQLiteAdapter,
    StorageError,
    User,
    VerificationToken,
)
from tinyauthstore.testing import FrozenClock

FILES = Path(__file__).with_name("files")
NEW = [
    "plain.sqlite", "secret.sqlite", "custom.sqlite",
    "plain.shelf", "secret.shelf", "custom.shelf", "journal.shelf", "leftovers.shelf",
]
"""Plain models, a secret, custom models; a journal that no shelf has caught up with; the fields of custom
models, kept by a store that knew none of them."""

KEPT = [name.replace(".", f"-v{version}.") for version in (1, 2) for name in NEW]
CUSTOMS = re.compile(r"(custom|leftovers)(-v[2-9])?\.")
SECRET = "a secret"

# --- what they hold ---------------------------------------------------------------------------

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
START = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
"""When the files were made."""

NOW = START + DAY
"""When the files are opened."""

FAR = datetime(9999, 12, 31, 23, 59, 59, 999999, UTC)
EARLY = datetime(1969, 12, 31, 23, 59, 59, 999999, UTC)

PLAIN: dict[str, type[Any]] = {
    "user": User, "account": Account, "session": Session, "verification_token": VerificationToken,
    "authenticator": Authenticator,
}

KINDS: dict[str, tuple[Any, Any, Any]] = {
    "word": (str, "it's \"free\"", "naïve 🦄 '\" \0 \\ %s"),
    "number": (int, 7, -(2**63)),
    "ratio": (float, 0.5, 5e-324),
    "flag": (bool, True, False),
    "blob": (bytes, b"'\0", bytes(range(256))),
    "moment": (datetime, START, EARLY),
    "mapping": (dict, {"default": []}, {"a": [1, {"b": None}], "": "\ud800", "n": 10**30, "t": "2026-01-01"}),
    "items": (list, ["default"], [1.5, "x", [True, {}], None]),
}
"""The types that a custom field may have, each with its default and with another value."""

SOME: list[dict[str, Any]] = [
    {name: other for name, (_, _, other) in KINDS.items()}
    | {f"maybe_{name}": other for name, (_, _, other) in KINDS.items()},
    {},
    {f"maybe_{name}": default for name, (_, default, _) in KINDS.items()},
]
"""Values of the custom fields. Each kind's first record has the first of these, its second the second, ..."""


def custom(record: type[Any]) -> type[Any]:
    """``record`` with a field of every type, and an optional one of every type."""
    fields: list[Any] = []
    for name, (kind, default, _) in KINDS.items():
        given: Any = {"default": default}
        if isinstance(default, (dict, list)):
            given = {"default_factory": default.copy}
        fields.append((name, kind, dataclasses.field(**given)))
        fields.append((f"maybe_{name}", kind | None, None))
    return dataclasses.make_dataclass(
        f"Custom{record.__name__}", fields, bases=(record,), frozen=True, slots=True
    )


CUSTOM = {name: custom(record) for name, record in PLAIN.items()}

SESSION_IDS: dict[str | None, dict[str, str]] = {
    None: {
        "ada's laptop": "e6f9bdf2a9c37f122a2f1e6a373f5fbf",
        "ada's telephone": "1fef7e984ef1458e14bc43e3b1e7ff19",
        "ada's other telephone": "9ca55088b0046630c0e31b3b8cd043f3",
        "ada's old laptop": "ddd6cab14865031f91568a0903b30e6d",
        "Schlüssel 🗝 \0": "4083f1694d316d594299c43e47028cac",
        "t" * 4096: "30fba34a5972cd46f07f55ef6d5e5da6",
        "\u212a ": "f7ed4237c3d923e1902886f2bb0879d3",
        "odd": "990cb8ebd0afb7150da453a213036a92",
    },
    SECRET: {
        "ada's laptop": "3e57d953b127f0b7cf9c5b0cd4ad34c9",
        "ada's telephone": "7d344bb17a6888f072cdf5ad6b6a4e48",
        "ada's other telephone": "2d57e2c8dd09d47fc129e03499792ab4",
        "ada's old laptop": "856f3c40ab308c2128a1eee2a66ec0a1",
        "Schlüssel 🗝 \0": "ccbaa16e8a1377831b7c24be444f4f46",
        "t" * 4096: "e0bfb99e111c06729e8e20c8f042a769",
        "\u212a ": "057aad690f49e8734ef8aca71f7e09fd",
        "odd": "5f18b84d190c2b1c48323461dc1e61a0",
    },
}
"""By secret and token: what an application may have kept, or put into a page. It comes of the digest that the file
knows the token by."""

SPELLINGS = {
    "ada": ["Ada@Example.com", "ada@example.com", "\u00a0ADA@EXAMPLE.COM\n"],
    "grüße": ["Grüße@Exämple.de", "GRÜßE@EXÄMPLE.DE", "gru\u0308ße@exa\u0308mple.de"],
    "GRACE": ["GRACE@EXAMPLE.COM", "grace@example.com"],
    "wide": ["ＺＯＥ@example.com", "ｚｏｅ@example.com"],
}
"""How each user's address is looked up; the first is the one that is stored."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The records, as they were returned when they were made; ``ended`` and ``expired`` are over by ``NOW``."""

    users: list[Any]
    accounts: list[Any]
    sessions: list[Any]
    ended: list[Any]
    tokens: list[Any]
    expired: list[Any]
    authenticators: list[Any]


def contents(models: dict[str, type[Any]], secret: str | None = None, *, fresh: bool = False) -> Contents:
    """All that is in a file with those models. ``fresh``: the custom fields have their defaults, all of them."""
    made = dict.fromkeys(models, 0)

    def make(kind: str, **fields: Any) -> Any:
        if models is CUSTOM and not fresh:
            fields |= SOME[made[kind] % len(SOME)]
        made[kind] += 1
        return models[kind](**fields)

    def user(user_id: str, **fields: Any) -> Any:
        return make("user", id=user_id, **fields)

    def account(user_id: str, type: str, provider: str, account_id: str, **fields: Any) -> Any:
        fields |= {"user_id": user_id, "type": type, "provider": provider, "provider_account_id": account_id}
        return make("account", **fields)

    def session(user_id: str, token: str, after: timedelta, lives: timedelta) -> Any:
        began = START + after
        ends = FAR if lives == timedelta.max else began + lives
        fields = {"created_at": began, "expires": ends, "id": SESSION_IDS[secret][token]}
        return make("session", user_id=user_id, session_token=token, **fields)

    def token(identifier: str, token: str, expires: datetime) -> Any:
        return make("verification_token", identifier=identifier, token=token, expires=expires)

    def passkey(user_id: str, credential_id: str, counter: int, **fields: Any) -> Any:
        given = {"provider_account_id": credential_id, "credential_public_key": "a2V5+/=", "counter": counter}
        given |= {"credential_device_type": "multiDevice", "credential_backed_up": counter > 0}
        return make("authenticator", user_id=user_id, credential_id=credential_id, **given | fields)

    image = "https://example.com/ada.png?size=1&x=%00"
    return Contents(
        users=[
            user("ada", email=SPELLINGS["ada"][0], name="Ada 🦄", image=image, email_verified=START + HOUR),
            user("grüße", email=SPELLINGS["grüße"][0], name="\0 ☃", email_verified=EARLY),
            user("GRACE", email=SPELLINGS["GRACE"][0]),
            user("wide", email=SPELLINGS["wide"][0], email_verified=FAR),
            user("Ünï'; DROP TABLE users; --\0"),
            user("Ada", name=""),
        ],
        accounts=[
            account(
                "ada", "oidc", "github", "12345", refresh_token="refresh", access_token="access ☃",
                expires_at=2**63 - 1, token_type="bearer", scope="read:user", id_token="e.y.J", session_state="",
                extra={"refresh_token_expires_in": 15897600, "nested": {"list": [1, 2.5, None, True]}},
            ),
            account("ada", "email", "email", "Ada@Example.com"),
            account("ada", "oauth", "'; DROP TABLE accounts; --", "\0 ☃ %s", extra={"half a pair": "\ud800"}),
            account("GRACE", "oauth", "GitHub", "12345", expires_at=0),
            account("GRACE", "oauth", "github", " 12345", extra={"expires_at": "soon", "": {}}),
            account("Ada", "webauthn", "passkey", "p" * 4096),
        ],
        sessions=[
            session("ada", "ada's laptop", timedelta(0), 30 * DAY),
            session("ada", "ada's telephone", HOUR, 30 * DAY),
            session("ada", "ada's other telephone", HOUR, timedelta.max),
            session("grüße", "Schlüssel 🗝 \0", timedelta(microseconds=1), DAY),
            session("GRACE", "t" * 4096, 2 * HOUR, 365 * DAY),
            session("GRACE", "\u212a ", 2 * HOUR, 30 * DAY),
            session("Ünï'; DROP TABLE users; --\0", "odd", 3 * HOUR, 30 * DAY),
        ],
        ended=[session("ada", "ada's old laptop", timedelta(0), DAY)],
        tokens=[
            token("Ada@Example.com", "Ada's link", START + 2 * DAY),
            token("ada@example.com", "Ada's other link", START + 2 * DAY),
            token("GRÜßE@EXÄMPLE.DE", "Schlüssel 🗝 \0", FAR),
            token("reset:aB3 ☃", "123456", START + 2 * DAY),
            token("RESET:aB3 ☃", "123456", START + 3 * DAY),
            token("stranger@example.com", "\u212a ", START + 2 * DAY),
        ],
        expired=[token("ada@example.com", "Ada's old link", START + HOUR)],
        authenticators=[
            passkey("ada", "Y3JlZGVudGlhbA==", 5, transports="usb,nfc"),
            passkey("ada", "other ☃ \0", 2**32 - 1),
            passkey("GRACE", "y3JlZGVudGlhbA==", 0, credential_device_type="singleDevice"),
        ],
    )


# --- how they were written --------------------------------------------------------------------


def kind_of(name: str) -> str:
    return re.split("[-.]", name)[0]


def secret_of(name: str) -> str | None:
    return SECRET if kind_of(name) == "secret" else None


def models_of(name: str) -> dict[str, type[Any]]:
    return CUSTOM if kind_of(name) in ("custom", "leftovers") else PLAIN


def opened(path: Path, clock: FrozenClock, models: dict[str, type[Any]], **options: Any) -> Adapter:
    """The store in that file or directory; it purges only when it is told to."""
    options |= {**models, "clock": clock, "purge_interval": None, "durability": "normal"}
    if path.suffix == ".sqlite":
        return SQLiteAdapter(path, **options)
    return ShelveAdapter(path, dbm="dumb", **options)


def given(record: Any, *left_out: str) -> dict[str, Any]:
    return {f.name: getattr(record, f.name) for f in dataclasses.fields(record) if f.name not in left_out}


def put_account(store: Adapter, account: Any) -> Any:
    """A value that did not fit its field was kept in ``extra``."""
    fields = {name: value for name, value in given(account, "extra").items() if value is not None}
    return store.link_account(**fields | account.extra)


def put_session(store: Adapter, clock: FrozenClock, session: Any) -> Any:
    clock.now = session.created_at
    return store.create_session(**given(session, "created_at", "id"))


def fill(store: Adapter, clock: FrozenClock, held: Contents) -> None:
    for user in held.users:
        store.create_user(**given(user))
    for account in held.accounts:
        put_account(store, account)
    for session in held.ended + held.sessions:
        put_session(store, clock, session)
    for token in held.expired + held.tokens:
        store.create_verification_token(**given(token))
    for authenticator in held.authenticators:
        store.create_authenticator(**given(authenticator))


def write(path: Path) -> None:
    """The file, or the directory, of that name."""
    clock, models, secret = FrozenClock(START), models_of(path.name), secret_of(path.name)
    if kind_of(path.name) == "journal":
        run_python("import sys, pathlib, test_old_files as t; t.write_journal(pathlib.Path(sys.argv[1]))", path)
        return
    with opened(path, clock, models, secret=secret) as store:
        fill(store, clock, contents(models))
        if kind_of(path.name) == "leftovers":  # something for the next one to change
            store.update_user("ada", name="Augusta Ada")
    if kind_of(path.name) == "leftovers":
        with opened(path, clock, PLAIN) as store:
            store.update_user("ada", name="Ada 🦄")


def write_journal(path: Path) -> None:
    """A shelf, and everything that can happen to it in its journal; then the process ends, without any close."""
    clock, held = FrozenClock(START), contents(PLAIN)
    account, session, authenticator = held.accounts[0], held.sessions[0], held.authenticators[0]
    with opened(path, clock, PLAIN) as store:
        for user in held.users:
            store.create_user(id=user.id, name="as it was in the shelf")
        put_account(store, dataclasses.replace(account, access_token="as it was in the shelf", extra={}))
        put_session(store, clock, dataclasses.replace(session, session_token="not rotated yet"))
        store.create_authenticator(**given(authenticator) | {"counter": 1})
        gone = store.create_user(id="gone", email="gone@example.com").id
        store.link_account(user_id=gone, type="oauth", provider="github", provider_account_id="gone")
        store.create_session(user_id=gone, session_token="gone", expires=FAR)
        store.create_verification_token(identifier="gone@example.com", token="gone", expires=FAR)
    store = opened(path, clock, PLAIN, new_token=lambda: session.session_token)
    store.delete_user("gone")
    with store.transaction():
        for user in held.users:
            store.update_user(user.id, **given(user, "id"))
    for account in held.accounts:
        put_account(store, account)
    store.rotate_session("not rotated yet")
    for session in held.ended + held.sessions[1:]:
        put_session(store, clock, session)
    store.create_session(user_id="ada", session_token="over already")
    store.delete_session("over already")
    for token in held.expired + held.tokens:
        store.create_verification_token(**given(token))
    store.update_authenticator_counter(authenticator.credential_id, authenticator.counter)
    for authenticator in held.authenticators[1:]:
        store.create_authenticator(**given(authenticator))
    os._exit(0)


# --- what is found in them --------------------------------------------------------------------


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files that were written just now."""
    folder = tmp_path_factory.mktemp("new")
    for name in NEW:
        write(folder / name)
    return folder


@pytest.fixture(params=KEPT + NEW)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """One of the files, copied."""
    name: str = request.param
    source = FILES / name if name in KEPT else request.getfixturevalue("new") / name
    if source.is_file():
        return Path(shutil.copy(source, tmp_path))
    copy = shutil.copytree(source, tmp_path / name)
    for place in (copy, *copy.rglob("*")):  # git keeps no modes
        place.chmod(0o700 if place.is_dir() else 0o600)
    return copy


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(NOW)


@pytest.fixture
def held(path: Path) -> Contents:
    return contents(models_of(path.name), secret_of(path.name))


@pytest.fixture
def store(path: Path, clock: FrozenClock) -> Iterator[Adapter]:
    with opened(path, clock, models_of(path.name), secret=secret_of(path.name)) as store:
        yield store


def exact(records: Any) -> Any:
    """Records as they differ: in the types of values too, and in secrets."""
    if records is None or isinstance(records, list):
        return records and [exact(record) for record in records]
    values = {f.name: repr(getattr(records, f.name)) for f in dataclasses.fields(records)}
    return {"": type(records).__name__} | values


def key(account: Any) -> dict[str, str]:
    return {"provider": account.provider, "provider_account_id": account.provider_account_id}


def use(store: Adapter, token: Any) -> Any:
    return store.use_verification_token(identifier=token.identifier, token=token.token)


def seen(session: Any) -> Any:
    """A session as it is listed."""
    return dataclasses.replace(session, session_token="")


def holds(store: Adapter, held: Contents) -> None:
    """Everything that can be looked at, in every way."""
    assert store.check() == []
    users = {user.id: user for user in held.users}
    for user in held.users:
        assert exact(store.get_user(user.id)) == exact(user)
        for spelling in SPELLINGS.get(user.id, []):
            assert exact(store.get_user_by_email(spelling)) == exact(user)
        theirs = [account for account in held.accounts if account.user_id == user.id]
        theirs.sort(key=lambda account: (account.provider, account.provider_account_id))
        assert exact([*store.list_accounts(user.id)]) == exact(theirs)
        theirs = [session for session in held.sessions if session.user_id == user.id]
        theirs.sort(key=lambda session: (session.created_at, session.id), reverse=True)
        assert exact([*store.list_sessions(user.id)]) == exact([*map(seen, theirs)])
        theirs = [passkey for passkey in held.authenticators if passkey.user_id == user.id]
        theirs.sort(key=lambda passkey: passkey.credential_id)
        assert exact([*store.list_authenticators_by_user_id(user.id)]) == exact(theirs)
    for account in held.accounts:
        assert exact(store.get_account(**key(account))) == exact(account)
        assert exact(store.get_user_by_account(**key(account))) == exact(users[account.user_id])
    for session in held.sessions:
        for _ in range(3):  # from the file, and from memory
            found = store.get_session_and_user(session.session_token)
            assert found is not None
            assert exact([*found]) == exact([session, users[session.user_id]])
    for session in held.ended:
        assert store.get_session_and_user(session.session_token) is None
    for authenticator in held.authenticators:
        assert exact(store.get_authenticator(authenticator.credential_id)) == exact(authenticator)


def test_everything_is_found_in_every_way(store: Adapter, held: Contents) -> None:
    holds(store, held)


def test_a_token_works_once(store: Adapter, held: Contents) -> None:
    """That of a link that was sent before the new version came; what had expired does not work."""
    assert not any(use(store, token) for token in held.expired)
    for token in held.tokens:
        assert exact(use(store, token)) == exact(token)
    assert not any(use(store, token) for token in held.tokens)
    assert store.check() == []


def test_tokens_go_by_their_identifier(store: Adapter) -> None:
    """However an address is spelt; other identifiers are compared exactly."""
    assert store.delete_verification_tokens("ADA@EXAMPLE.COM") == 2
    assert store.delete_verification_tokens("grüße@exämple.de") == 1
    assert store.delete_verification_tokens("Reset:aB3 ☃") == 0
    assert store.delete_verification_tokens("reset:aB3 ☃") == 1


def test_what_is_over_is_purged(store: Adapter, held: Contents) -> None:
    """It was still in there."""
    assert store.purge_expired() == Purged(sessions=1, verification_tokens=1)
    assert store.purge_expired() == Purged(0, 0)
    holds(store, held)


def test_sessions_end_by_token_and_by_id(store: Adapter, held: Contents) -> None:
    """An id that an application has kept, or put into a page, still names the session."""
    laptop, telephone, other = held.sessions[:3]
    assert store.revoke_session("ada", telephone.id)
    assert exact(store.delete_session(other.session_token)) == exact(other)
    assert exact([*store.list_sessions("ada")]) == exact([seen(laptop)])
    assert store.revoke_sessions("ada", keep=laptop.session_token) == 0
    assert store.revoke_sessions("ada") == 1


@pytest.mark.parametrize("wrong", [None, "another secret"], ids=["none", "another"])
def test_tokens_are_bound_to_the_secret(
    path: Path, clock: FrozenClock, held: Contents, wrong: str | None
) -> None:
    """With another one the file holds no token that works, and one with the right one harms nothing."""
    if secret_of(path.name) == wrong:
        wrong = SECRET
    with opened(path, clock, models_of(path.name), secret=wrong) as store:
        assert not any(store.get_session_and_user(session.session_token) for session in held.sessions)
        assert not any(use(store, token) for token in held.tokens)
        assert exact([*store.list_sessions("grüße")]) == exact([seen(held.sessions[3])])
    with opened(path, clock, models_of(path.name), secret=secret_of(path.name)) as store:
        holds(store, held)


def test_it_can_be_written_to_and_opened_again(path: Path, clock: FrozenClock, held: Contents) -> None:
    """Each kind of write, on records that the other version made; and new ones beside them."""
    models, secret = models_of(path.name), secret_of(path.name)
    replace = dataclasses.replace
    users, accounts, sessions, authenticators = held.users, held.accounts, held.sessions, held.authenticators
    with opened(path, clock, models, secret=secret, new_token=lambda: "rotated") as store:
        users[0] = store.update_user("ada", name="Ada King", image=None)
        assert exact(users[0]) == exact(replace(contents(models).users[0], name="Ada King", image=None))
        accounts[0] = put_account(store, replace(accounts[0], access_token="refreshed", extra={"new": 1}))
        assert accounts[0].extra == contents(models).accounts[0].extra | {"new": 1}
        assert store.update_session(sessions[0].session_token, expires=FAR)
        sessions[0] = replace(sessions[0], expires=FAR)
        rotated = store.rotate_session(sessions[1].session_token)
        assert rotated is not None
        sessions[1] = replace(sessions[1], session_token="rotated", id=rotated.id)
        assert exact(rotated) == exact(sessions[1])
        authenticators[0] = store.update_authenticator_counter(authenticators[0].credential_id, 6)
        assert exact(store.delete_user("GRACE")) == exact(users.pop(2))
        for records in (accounts, sessions, authenticators):
            records[:] = [record for record in records if record.user_id != "GRACE"]
        users.append(store.create_user(id="new", email="Grace@Example.com"))
        sessions.append(store.create_session(user_id="new", session_token="new"))
        accounts.append(store.link_account(user_id="new", type="o", provider="GitHub", provider_account_id="12345"))
        assert store.check() == []
    for _ in range(2):
        with opened(path, clock, models, secret=secret) as store:
            holds(store, held)
            assert store.get_session_and_user("ada's telephone") is None
            assert store.get_user_by_email("grace@example.com") == users[-1]


def test_plain_models_see_the_plain_fields_and_keep_the_others(path: Path, clock: FrozenClock) -> None:
    """Through every rewriting of a record; whoever comes with the custom models again finds the values, or their
    defaults."""
    secret = secret_of(path.name)
    options: dict[str, Any] = {"secret": secret, "new_token": lambda: "rotated"}
    plain, whole = contents(PLAIN, secret), contents(CUSTOM, secret, fresh=models_of(path.name) is PLAIN)
    laptop = plain.sessions[0]
    with opened(path, clock, PLAIN, **options) as store:
        holds(store, plain)
        for image in ("new", plain.users[0].image):
            store.update_user("ada", image=image)
        for expires in (FAR, laptop.expires):
            store.update_session(laptop.session_token, expires=expires)
        put_account(store, plain.accounts[0])
        rotated = store.rotate_session(laptop.session_token)
        assert rotated is not None
        assert exact(rotated) == exact(dataclasses.replace(laptop, session_token="rotated", id=rotated.id))
    whole.sessions[0] = dataclasses.replace(whole.sessions[0], session_token="rotated", id=rotated.id)
    with opened(path, clock, CUSTOM, **options) as store:
        holds(store, whole)


@pytest.mark.parametrize("path", [name for name in KEPT if "-v1" in name], indirect=True)
def test_whose_address_is_looked_up_otherwise_than_by_version_1_is_told_once(
    path: Path, clock: FrozenClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a SQLite file and of a shelf alike."""
    with caplog.at_level(logging.WARNING, "tinyauthstore"):
        for _ in range(2):
            opened(path, clock, models_of(path.name)).close()
    said = f"{path} was converted to version 2: the e-mail addresses of these users are looked up by another"
    assert [record.getMessage() for record in caplog.records] == [f"{said} normal form than before: 'wide'"]


@pytest.mark.parametrize("path", [name for name in KEPT + NEW if CUSTOMS.match(name)], indirect=True)
def test_the_types_of_custom_fields_are_in_the_file(path: Path, clock: FrozenClock) -> None:
    """Since version 2; also of a field that the last store to write the file did not have."""
    other = dataclasses.make_dataclass(
        "Other", [("moment", int | None, None)], bases=(User,), frozen=True, slots=True
    )
    with pytest.raises(StorageError, match=r"users\.moment holds datetime.*Other\.moment is int"):
        opened(path, clock, PLAIN | {"user": other})
    with opened(path, clock, CUSTOM) as store:
        holds(store, contents(CUSTOM))


if __name__ == "__main__":
    for name in NEW:
        write(Path(sys.argv[1]) / name)
