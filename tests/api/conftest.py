"""One engine process per file: starting one costs more than most tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.api.bad_input import ORDER
from tests.api.world import World, running_world


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world() -> AsyncIterator[World]:
    """The engine with its defaults, a Redis and simulators of its own, and one user."""
    async with running_world() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def good_order(world: World) -> str:
    """The order of the bad requests: it could be paid, were they not bad."""
    await world.sims.order(ORDER)
    return ORDER


@pytest_asyncio.fixture(loop_scope="module")
async def unwritten(world: World, good_order: str) -> AsyncIterator[None]:
    """Sees to it that the test leaves nothing in Redis, moves no money, and breaks nothing inside."""
    written, effects = await world.at_rest(), await world.sims.effects()
    yield
    assert await world.at_rest() == written
    assert await world.sims.effects() == effects
    assert await world.metric("http_requests_total", status="500") == 0
