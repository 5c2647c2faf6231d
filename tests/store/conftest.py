"""The implementations that the store's contract is run over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from app.embedded import fake_client
from tests.store.datasets import KINDS, Dataset, Places
from tests.store.servers import Cluster, cluster_of, one_server, wheel_server
from tests.support import RedisServer


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The implementation; `only` narrows it for one test."""
    return str(request.param)


@pytest.fixture(scope="session")
def old_redis() -> Iterator[RedisServer]:
    """The oldest version that is supported."""
    with one_server(wheel_server()) as server:
        yield server


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Three primaries."""
    with cluster_of(3) as nodes:
        yield nodes


@pytest.fixture
async def places(kind: str, request: pytest.FixtureRequest) -> AsyncIterator[Places]:
    """Where the data is, and nothing is in it."""
    match kind:
        case "fakeredis":
            fake = fake_client()
            yield Places(kind, "", fake)
            await fake.aclose()
        case "cluster":
            nodes: Cluster = request.getfixturevalue("cluster")
            nodes.flush()
            yield Places(kind, nodes.url, None)
        case _:
            server: RedisServer = request.getfixturevalue("old_redis" if kind == "redis-6.2" else "shared_redis")
            client = server.client()
            client.flushall()
            client.close()
            yield Places(kind, server.url + ("?protocol=2" if kind == "redis-resp2" else ""), None)


@pytest.fixture
async def store(places: Places) -> AsyncIterator[Dataset]:
    """An empty dataset of sixteen shards."""
    async with places.running() as dataset:
        yield dataset
