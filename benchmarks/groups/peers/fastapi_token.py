"""fastapi-users' database strategy, configured as its documentation shows:

https://fastapi-users.github.io/fastapi-users/latest/configuration/authentication/strategies/database/
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from fastapi_users import BaseUserManager, UUIDIDMixin
from fastapi_users.authentication.strategy.db import DatabaseStrategy
from fastapi_users.db import SQLAlchemyBaseUserTableUUID, SQLAlchemyUserDatabase
from fastapi_users_db_sqlalchemy.access_token import (
    SQLAlchemyAccessTokenDatabase,
    SQLAlchemyBaseAccessTokenTableUUID,
)
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from ...workshop import MONTH, NOW, Workshop, email, token, user_id, users_of
from ..awaited import awaiting
from .common import Samples, sessions_looked_up, sync_as_ours, users_signed_in


class Base(DeclarativeBase):
    """The registry of the two tables."""


class User(SQLAlchemyBaseUserTableUUID, Base):
    """Its own user."""


class AccessToken(SQLAlchemyBaseAccessTokenTableUUID, Base):
    """Its own session: a token in the clear."""


class UserManager(UUIDIDMixin, BaseUserManager[User, uuid.UUID]):
    """Its own user manager, with nothing added."""


def samples(shop: Workshop) -> Samples:
    """``read_token`` and ``write_token``, each in a database session of its own, as a request has one."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{shop.path('fastapi-users.db')}")
    sync_as_ours(engine.sync_engine)
    session_maker = async_sessionmaker(engine, expire_on_commit=False)
    users = range(users_of(shop.plan.sessions))

    def row(number: int) -> dict[str, Any]:
        return {
            "id": uuid.UUID(user_id(number)),
            "email": email(number),
            "hashed_password": "!",
            "is_active": True,
            "is_superuser": False,
            "is_verified": True,
        }

    async def fill() -> None:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
            await connection.execute(insert(User), [row(number) for number in users])
            await connection.execute(
                insert(AccessToken),
                [
                    {"token": token(n), "user_id": uuid.UUID(user_id(n % len(users))), "created_at": NOW}
                    for n in range(shop.plan.sessions)
                ],
            )

    def strategy(session: Any) -> DatabaseStrategy[User, uuid.UUID, AccessToken]:
        tokens = SQLAlchemyAccessTokenDatabase(session, AccessToken)
        return DatabaseStrategy(tokens, lifetime_seconds=int(MONTH.total_seconds()))

    async def look_up(key: str) -> Any:
        async with session_maker() as session:
            manager = UserManager(SQLAlchemyUserDatabase(session, User))
            return await strategy(session).read_token(key, manager)

    async def create(user: User) -> Any:
        async with session_maker() as session:
            return await strategy(session).write_token(user)

    runner = shop.stack.enter_context(asyncio.Runner())
    runner.run(fill())
    shop.stack.callback(lambda: runner.run(engine.dispose()))
    new = [User(**row(number)) for number in users_signed_in(shop)]
    return Samples(
        awaiting(runner, look_up, [token(number) for number in sessions_looked_up(shop)]),
        awaiting(runner, create, new),
    )
