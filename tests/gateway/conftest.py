"""One engine process for most of the folder: starting one costs more than most tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.gateway.world import Gateway, Person, running_gateway


@pytest_asyncio.fixture(loop_scope="package", scope="package")
async def gateway() -> AsyncIterator[Gateway]:
    """The engine with its defaults, but cheap hashes."""
    async with running_gateway() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="package")
async def ada(gateway: Gateway) -> Person:
    """Somebody with a new account, logged in."""
    return await gateway.person()
