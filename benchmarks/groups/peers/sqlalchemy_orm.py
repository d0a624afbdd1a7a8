"""SQLAlchemy's ORM: https://docs.sqlalchemy.org/en/20/orm/quickstart.html"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, create_engine, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from ...floors import new_sessions
from ...measure import looking_up, ns_per_call
from ...workshop import MONTH, NOW, Workshop, digest, email, user_id, users_of
from .common import Samples, sessions_looked_up, sync_as_ours, users_signed_in


class Base(DeclarativeBase):
    """The registry of the two tables."""


class User(Base):
    """The user's fields, as ours."""

    __tablename__ = "users"
    id: Mapped[str] = mapped_column(primary_key=True)
    email: Mapped[str | None] = mapped_column(unique=True)
    name: Mapped[str | None]
    image: Mapped[str | None]
    email_verified: Mapped[datetime | None]


class SignIn(Base):
    """The session's fields, as ours: the token's digest, not the token."""

    __tablename__ = "sessions"
    token_digest: Mapped[bytes] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    expires: Mapped[datetime] = mapped_column(index=True)
    created_at: Mapped[datetime]
    user: Mapped[User] = relationship()


def samples(shop: Workshop) -> Samples:
    """A look-up and a sign-in, each in a Session of its own, as a request has one."""
    engine = create_engine(f"sqlite:///{shop.path('sqlalchemy.db')}")
    shop.stack.callback(engine.dispose)
    sync_as_ours(engine)
    Base.metadata.create_all(engine)
    users = range(users_of(shop.plan.sessions))
    with Session(engine) as session:
        session.execute(
            insert(User),
            [
                {"id": user_id(n), "email": email(n), "name": f"User {n}", "email_verified": NOW}
                for n in users
            ],
        )
        session.execute(
            insert(SignIn),
            [
                {
                    "token_digest": digest(n),
                    "user_id": user_id(n % len(users)),
                    "expires": NOW + MONTH,
                    "created_at": NOW,
                }
                for n in range(shop.plan.sessions)
            ],
        )
        session.commit()

    def look_up(key: bytes) -> Any:
        with Session(engine) as session:
            statement = select(SignIn, User).join(SignIn.user).where(SignIn.token_digest == key)
            return session.execute(statement).one_or_none()

    def create(row: tuple[Any, ...]) -> None:
        with Session(engine) as session:
            session.add(SignIn(token_digest=row[0], user_id=row[1], expires=NOW + MONTH, created_at=NOW))
            session.commit()

    count = len(users_signed_in(shop))
    return Samples(
        looking_up(look_up, [digest(number) for number in sessions_looked_up(shop)]),
        lambda: ns_per_call(create, new_sessions(shop.plan.sessions, count)),
    )
