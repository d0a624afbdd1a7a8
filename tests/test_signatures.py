"""How the methods are called: fields by name, keys by position, and a field may have any name."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import pytest
from support import make_any  # noqa: F401

from tinyauthstore import Adapter, MemoryAdapter, Session, ShelveAdapter, SplitAdapter, SQLiteAdapter, User
from tinyauthstore.aio import AsyncAdapter
from tinyauthstore.contract import by_name


BY_POSITION: dict[str, tuple[Callable[[Any], Any], str]] = {
    "create_user": (lambda store: store.create_user("a@b.c"), "create_user(email=...)"),
    "list_users": (lambda store: store.list_users(10), "list_users(limit=...)"),
    "create_session": (lambda store: store.create_session("ada"), "create_session(user_id=...)"),
    "create_verification_token": (
        lambda store: store.create_verification_token("a@b.c"),
        "create_verification_token(identifier=...)",
    ),
    "use_verification_token": (
        lambda store: store.use_verification_token("a@b.c", "t"),
        "use_verification_token(identifier=..., token=...)",
    ),
    "link_account": (
        lambda store: store.link_account("ada", "oauth", "github", "1"),
        "link_account(user_id=..., type=..., provider=..., provider_account_id=...)",
    ),
    **{
        name: (
            lambda store, name=name: getattr(store, name)("github", "1"),  # type: ignore[misc]
            f"{name}(provider=..., provider_account_id=...)",
        )
        for name in ("get_user_by_account", "get_account", "unlink_account")
    },
    "create_authenticator": (
        lambda store: store.create_authenticator("ada", "key"),
        "create_authenticator(user_id=..., credential_id=..., provider_account_id=...,"
        " credential_public_key=..., counter=..., credential_device_type=..., credential_backed_up=...)",
    ),
}


def test_every_method_that_takes_nothing_but_keywords_is_tried() -> None:
    kinds = {
        name: [p.kind for p in [*inspect.signature(getattr(Adapter, name)).parameters.values()][1:]]
        for name in dir(Adapter)
        if not name.startswith("_")
    }
    keywords = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    found = {name for name, given in kinds.items() if given and all(kind in keywords for kind in given)}
    # link_account takes the provider's whole response by position, and nothing else.
    assert found - {"purge_expired"} == {*BY_POSITION} - {"link_account"}


@pytest.mark.parametrize("method", BY_POSITION)
def test_a_field_given_by_position_is_a_type_error_that_names_the_remedy(
    make: Callable[..., Any], method: str
) -> None:
    call, remedy = BY_POSITION[method]
    store = make()
    store.create_user(id="ada")
    with pytest.raises(TypeError) as caught:
        call(store)
    assert str(caught.value) == f"{method}() takes its fields by name: {remedy}"


def test_the_same_error_arrives_when_it_is_awaited(make: Callable[..., Any]) -> None:
    async def main() -> None:
        async with AsyncAdapter(make()) as store:
            call: Callable[[Any], Coroutine[Any, Any, Any]] = BY_POSITION["create_user"][0]
            with pytest.raises(TypeError, match=r"create_user\(email=\.\.\.\)"):
                await call(store)

    asyncio.run(main())


def test_by_name_keeps_signature_docstring_and_name() -> None:
    def create(self: Any, /, *, user: str, name: str = "") -> tuple[Any, ...]:
        """What it does."""
        return self, user, name

    decorated = by_name(create)
    assert inspect.signature(decorated) == inspect.signature(create)
    assert (decorated.__name__, decorated.__doc__) == ("create", "What it does.")
    assert decorated(1, user="ada") == (1, "ada", "")
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'user'"):
        decorated(1)  # type: ignore[call-arg]


@pytest.mark.parametrize("cls", [MemoryAdapter, SQLiteAdapter, ShelveAdapter, SplitAdapter, AsyncAdapter])
def test_no_method_takes_a_field_of_any_name_beside_a_parameter_that_could_have_it(cls: type) -> None:
    """Or a custom field could not be called ``user_id``, or ``self``."""
    for name in dir(Adapter):
        if name.startswith("_"):
            continue
        found = inspect.signature(getattr(cls, name)).parameters.values()
        if any(p.kind is p.VAR_KEYWORD for p in found):
            assert not [p.name for p in found if p.kind is p.POSITIONAL_OR_KEYWORD], name


@dataclass(frozen=True, slots=True)
class Odd(User):
    """Fields named as parameters are, here or there on their way."""

    user_id: str = ""
    self: str = ""
    method: str = ""
    arguments: str = ""
    fields: str = ""


@dataclass(frozen=True, slots=True)
class OddSession(Session):
    self: str = ""
    session: str = ""
    method: str = ""


USER = dict.fromkeys(["user_id", "self", "method", "arguments", "fields"], "kept")
SESSION = dict.fromkeys(["self", "session", "method"], "kept")


def test_a_custom_field_may_have_the_name_of_a_parameter(make: Callable[..., Any]) -> None:
    store = make(user=Odd, session=OddSession)
    made = store.create_user(id="ada", **USER)
    assert made == Odd(id="ada", **USER) == store.get_user("ada")
    changed = store.update_user("ada", **dict.fromkeys(USER, "changed"))
    assert changed == Odd(id="ada", **dict.fromkeys(USER, "changed"))
    session = store.create_session(user_id="ada", session_token="token", **SESSION)
    updated = store.update_session("token", **dict.fromkeys(SESSION, "changed"))
    assert (session.self, updated.self, updated.session) == ("kept", "changed", "changed")


def test_a_custom_field_may_have_the_name_of_a_parameter_awaited(make: Callable[..., Any]) -> None:
    async def main() -> None:
        async with AsyncAdapter(make(user=Odd)) as store:
            await store.create_user(id="ada", **USER)
            changed = await store.update_user("ada", **dict.fromkeys(USER, "changed"))
            assert changed == Odd(id="ada", **dict.fromkeys(USER, "changed"))

    asyncio.run(main())
