"""Two engine processes for the folder: starting one costs more than most tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.console.world import Operator, running_operator


@pytest_asyncio.fixture(loop_scope="package", scope="package")
async def running() -> AsyncIterator[Operator]:
    """Both processes."""
    async with running_operator() as operator:
        yield operator


@pytest_asyncio.fixture(loop_scope="package")
async def operator(running: Operator) -> AsyncIterator[Operator]:
    """Both processes, with every circuit left to itself afterwards."""
    yield running
    await running.reset_all()
