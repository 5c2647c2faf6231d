"""The implementations that the store's contract is run over."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.embedded import fake_client
from tests.store.datasets import KINDS, Dataset, Places
from tests.store.servers import Cluster, cluster_of, cluster_with_a_replica, one_server, wheel_server
from tests.support import RedisServer, free_port


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The implementation; `only` narrows it for one test."""
    return str(request.param)


@pytest.fixture(scope="session")
def old_redis() -> Iterator[RedisServer]:
    """The oldest version that is supported."""
    with one_server(wheel_server()) as server:
        yield server


class Clusters:
    """All clusters that tests need. Each takes seconds to come up by itself, so they come up side by side."""

    def __init__(self, opened: contextlib.ExitStack, pool: ThreadPoolExecutor) -> None:
        self.port_announced = free_port()
        self.of_three = pool.submit(opened.enter_context, cluster_of(3))
        self.of_one = pool.submit(opened.enter_context, cluster_of(1))
        self.announcing = pool.submit(
            opened.enter_context, cluster_of(1, cluster_announce_port=str(self.port_announced))
        )
        self.with_a_replica = pool.submit(opened.enter_context, cluster_with_a_replica())


@pytest.fixture(scope="session")
def clusters() -> Iterator[Clusters]:
    """They are coming up."""
    with contextlib.ExitStack() as opened, ThreadPoolExecutor() as pool:
        yield Clusters(opened, pool)


@pytest.fixture(scope="session")
def cluster(clusters: Clusters) -> Cluster:
    """Three primaries."""
    return clusters.of_three.result()


@pytest.fixture(scope="session")
def lone_primary(clusters: Clusters) -> Cluster:
    """A cluster of one, the smallest there is."""
    return clusters.of_one.result()


@pytest.fixture(scope="session")
def cluster_elsewhere(clusters: Clusters) -> tuple[Cluster, int]:
    """A cluster of one that tells everybody to come to another port, and that port, where nobody listens yet."""
    return clusters.announcing.result(), clusters.port_announced


@pytest.fixture(scope="session")
def primary_and_replica(clusters: Clusters) -> tuple[Cluster, RedisServer]:
    """A cluster whose only primary one test may kill, and its replica."""
    return clusters.with_a_replica.result()


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
