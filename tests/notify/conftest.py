"""An empty dataset for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.store.datasets import Dataset, connected, running
from tests.support import RedisServer


@pytest.fixture
async def dataset(redis_server: RedisServer) -> AsyncIterator[Dataset]:
    """On the shared Redis, emptied."""
    async with running(connected(redis_server.url)) as store:
        yield store
