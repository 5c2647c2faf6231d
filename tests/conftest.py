"""Fixtures that every test may use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from tests.support import EngineProcess, RedisServer, Sims, simulators, temporary_folder

pytest_plugins = ["tests.kafka_support"]

# An example that takes 200 ms says something of the machine, not of the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


class ByFolder(LoadScopeScheduling):  # type: ignore[misc]
    """A folder's tests share servers, so they stay in one process, in their order."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0].rpartition("/")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFolder:
    """Of the processes of `-n`, each takes the next folder."""
    return ByFolder(config, log)


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    """One real Redis for all tests that only need an empty one."""
    with temporary_folder() as folder:
        server = RedisServer(folder)
        server.start()
        yield server
        server.stop()


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> RedisServer:
    """The shared Redis, emptied."""
    client = shared_redis.client()
    client.flushall()
    client.close()
    return shared_redis


@pytest.fixture
async def sims() -> AsyncIterator[Sims]:
    """The three simulators, without memory of other tests."""
    async with simulators() as running:
        yield running


@pytest.fixture
async def engine(redis_server: RedisServer, sims: Sims, tmp_path: Path) -> AsyncIterator[EngineProcess]:
    """The engine, running, with the shared Redis and the simulators, and one user."""
    process = EngineProcess(redis_server.url, sims, tmp_path)
    await process.start()
    await sims.user()
    yield process
    await process.close()
