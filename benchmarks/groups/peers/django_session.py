"""Django: https://docs.djangoproject.com/en/stable/topics/http/sessions/#using-sessions-out-of-views"""

from __future__ import annotations

from typing import Any

import django
from django.conf import settings

from ...measure import looking_up, ns_per_call
from ...workshop import MONTH, NOW, Workshop, email, token, users_of
from .common import Samples, sessions_looked_up, users_signed_in


def samples(shop: Workshop) -> Samples:
    """What SessionMiddleware and AuthenticationMiddleware do for a request, and what ``login()`` stores."""
    settings.configure(
        SECRET_KEY="for benchmarks only",
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": str(shop.path("django.db")),
                "OPTIONS": {"init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL"},
            }
        },
    )
    django.setup()
    from django.contrib import auth  # these need the settings
    from django.contrib.sessions.backends.db import SessionStore
    from django.contrib.sessions.models import Session
    from django.core.management import call_command
    from django.db import connections
    from django.http import HttpRequest

    shop.stack.callback(connections.close_all)
    call_command("migrate", verbosity=0)
    model = auth.get_user_model()
    users = model.objects.bulk_create(
        model(username=email(n), email=email(n), first_name=f"User {n}", password="!")
        for n in range(users_of(shop.plan.sessions))
    )

    def key(number: int) -> str:
        return token(number)[:32].lower()

    def contents(number: int) -> dict[str, str]:
        user = users[number % len(users)]
        return {
            auth.SESSION_KEY: str(user.pk),
            auth.BACKEND_SESSION_KEY: "django.contrib.auth.backends.ModelBackend",
            auth.HASH_SESSION_KEY: user.get_session_auth_hash(),
        }

    Session.objects.bulk_create(
        Session(session_key=key(n), session_data=SessionStore().encode(contents(n)), expire_date=NOW + MONTH)
        for n in range(shop.plan.sessions)
    )

    def look_up(session_key: str) -> Any:
        request = HttpRequest()
        request.session = SessionStore(session_key=session_key)
        user = auth.get_user(request)
        return user if user.is_authenticated else None

    def create(data: dict[str, str]) -> None:
        session = SessionStore()
        session.update(data)
        session.create()

    new = [contents(number) for number in users_signed_in(shop)]
    return Samples(
        looking_up(look_up, [key(number) for number in sessions_looked_up(shop)]),
        lambda: ns_per_call(create, new),
    )
