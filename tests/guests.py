"""Adapters that are not like ours, and what the kit does with them; ``test_kit`` runs this and looks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tinyauthstore import MemoryAdapter
from tinyauthstore.aio import AsyncAdapter
from tinyauthstore.testing import (
    GROUPS,
    METHODS,
    AdapterContract,
    SessionContract,
    UserContract,
    VerificationContract,
)


class Partial:
    """A sound adapter, without options, that has some of the methods and no others."""

    def __init__(self, names: frozenset[str], whole: Any = None) -> None:
        whole = whole or MemoryAdapter()
        for name in names | {"close"}:
            setattr(self, name, getattr(whole, name))


class TestUsersOnly(AdapterContract):
    """As with sessions in JSON web tokens: nothing but users."""

    @pytest.fixture
    def adapter(self) -> Any:
        return Partial(GROUPS["users"])


class TestWithoutTransactions(AdapterContract):
    """Where each method is atomic, and no more."""

    @pytest.fixture
    def adapter(self) -> Any:
        return Partial(METHODS - GROUPS["transactions"] - {"__enter__", "__exit__"})


class TestClaimsUsersOnly(AdapterContract):
    """It could do more, and does not want to be asked."""

    capabilities = {"users"}

    @pytest.fixture
    def make_adapter(self) -> Any:
        return MemoryAdapter


class TestNoAdapter(UserContract):
    """A fixture that forgot its ``return``."""

    @pytest.fixture
    def adapter(self) -> Any:
        pass


class TestClaimsTooMuch(SessionContract):
    """It claims sessions and cannot delete them."""

    capabilities = {"users", "sessions"}

    @pytest.fixture
    def adapter(self) -> Any:
        return Partial(GROUPS["users"] | GROUPS["sessions"] - {"delete_session"})


class TestClaimsNonsense(VerificationContract):
    """A group that does not exist, or is misspelt."""

    capabilities = {"tokens"}

    @pytest.fixture
    def make_adapter(self) -> Any:
        return MemoryAdapter


class TestMadeInALoop(UserContract):
    """Its constructor, as that of a pool of connections, needs the running loop."""

    @pytest.fixture
    def make_adapter(self) -> Callable[..., Any]:
        async def make(**options: Any) -> Any:
            asyncio.get_running_loop()
            return AsyncAdapter(MemoryAdapter(**options))

        return make


class TestOneAsyncAdapter(UserContract):
    """The same, without options."""

    @pytest.fixture
    def adapter(self) -> Any:
        return AsyncAdapter(MemoryAdapter())
