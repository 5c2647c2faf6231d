"""One engine process for most of the folder: starting one costs more than most tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.api.bad_input import ORDER
from tests.api.world import World, running_world


@pytest_asyncio.fixture(loop_scope="package", scope="package")
async def world() -> AsyncIterator[World]:
    """The engine with its defaults, a Redis and simulators of its own, and one user."""
    async with running_world() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="package", scope="package")
async def good_order(world: World) -> str:
    """The order of the bad requests: it could be paid, were they not bad."""
    await world.sims.order(ORDER)
    return ORDER


@pytest_asyncio.fixture(loop_scope="package")
async def unwritten(world: World, good_order: str) -> AsyncIterator[None]:
    """Sees to it that one test leaves nothing in Redis and moves no money."""
    async with world.nothing_written():
        yield


@pytest_asyncio.fixture(loop_scope="package", scope="module")
async def all_unwritten(world: World, good_order: str) -> AsyncIterator[None]:
    """The same for a whole file, for hundreds of small tests."""
    async with world.nothing_written():
        yield
