"""One engine process per file: starting one costs more than most tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.api.world import World, running_world


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world() -> AsyncIterator[World]:
    """The engine with its defaults, a Redis and simulators of its own, and one user."""
    async with running_world() as running:
        yield running
