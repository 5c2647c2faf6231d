"""An empty dataset on a real Redis, a clock, and a receiver."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.store.datasets import Dataset, connected, running
from tests.support import RedisServer
from tests.webhooks.world import Clock, Hooks, Receiver, receiving


@pytest.fixture
async def data(redis_server: RedisServer) -> AsyncIterator[Dataset]:
    """One process's parts of the store."""
    async with running(connected(redis_server.url)) as dataset:
        yield dataset


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as listening:
        yield listening


@pytest.fixture
def hooks(data: Dataset, clock: Clock) -> Hooks:
    return Hooks(data, clock)
