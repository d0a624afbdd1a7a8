"""What a type checker infers; ``test_typing`` runs mypy on this and compares each comment with what it reveals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinyauthstore import (
    Adapter, MemoryAdapter, SessionStore, SplitAdapter, SQLiteAdapter, User, UserStore, VerificationStore,
)
from tinyauthstore.aio import AsyncAdapter
from tinyauthstore.signin import sign_in_by_email

if TYPE_CHECKING:
    from typing import reveal_type


@dataclass(frozen=True, slots=True)
class Member(User):
    team: str = ""


async def awaited(anybodys: Adapter) -> None:
    store = AsyncAdapter(SQLiteAdapter("auth.db", user=Member))
    reveal_type(store)  # AsyncAdapter[Member, Account, Session, VerificationToken, Authenticator]
    reveal_type(await store.create_user(email="ada@example.com", team="red"))  # Member
    reveal_type(await store.get_user("ada"))  # Member | None
    reveal_type(await store.update_user("ada", user_id="a custom field"))  # Member
    reveal_type(await store.list_accounts("ada"))  # list[Account]
    reveal_type(await store.create_session(user_id="ada"))  # Session
    found = await store.get_session_and_user("token")
    assert found is not None
    reveal_type(found.user)  # Member
    reveal_type(await store.revoke_sessions("ada", keep="token"))  # int
    async with store.transaction() as same:
        reveal_type(await same.get_user("ada"))  # Member | None
    reveal_type(await AsyncAdapter(MemoryAdapter()).get_user("ada"))  # User | None
    reveal_type(await AsyncAdapter(anybodys).get_user("ada"))  # User | None
    reveal_type(await AsyncAdapter(SplitAdapter(users=MemoryAdapter())).check())  # list[str]
    reveal_type(await store.run(sign_in_by_email, identifier="a", token="b"))  # tuple[User, Session, bool, fallback=SignedIn] | None
    await store.run(sign_in_by_email, identifier="a")  # error: Missing named argument "token" for "run" of "AsyncAdapter"
    await store.get_user(1)  # error: Argument 1 has incompatible type "int"; expected "str"  [arg-type]
    await store.create_user("ada@example.com")  # error: Too many positional arguments  [call-arg]
    await store.create_session()  # error: Missing named argument "user_id"  [call-arg]


def split(users: UserStore, sessions: SessionStore, verification: VerificationStore) -> None:
    store = SplitAdapter(users=users, sessions=sessions, verification=verification)
    reveal_type(store.create_user(email="ada@example.com"))  # User
    reveal_type(store.get_user("ada"))  # User | None
    reveal_type(store.create_session(user_id="ada"))  # Session
    reveal_type(store.update_session("token", session_token="a custom field"))  # Session | None
    reveal_type(store.use_verification_token(identifier="a", token="b"))  # VerificationToken | None
    with store.transaction() as same:
        reveal_type(same)  # SplitAdapter
    adapter: Adapter = store
    adapter.check()
    SplitAdapter(users=sessions)  # error: Argument "users" to "SplitAdapter" has incompatible type "SessionStore"; expected "UserStore"  [arg-type]
    store.create_user("ada@example.com")  # error: Too many positional arguments for "create_user" of "SplitAdapter"  [call-arg]
    store.link_account(provider="p")  # error: Missing named argument "user_id"


def by_name(store: MemoryAdapter[Member]) -> None:
    reveal_type(store.create_user(email="ada@example.com"))  # Member
    reveal_type(store.get_user_by_account(provider="p", provider_account_id="1"))  # Member | None
