"""One engine process for most of the folder."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.orders.world import OrdersWorld, orders_world


@pytest_asyncio.fixture(loop_scope="package", scope="package")
async def world() -> AsyncIterator[OrdersWorld]:
    """The engine with its defaults, a Redis and a gateway of its own."""
    async with orders_world() as running:
        yield running
