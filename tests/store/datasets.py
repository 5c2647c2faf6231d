"""A dataset under test: the store's parts on one client, and a look at everything that is written."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio.cluster import RedisCluster

from engine.store.batch import Batcher, RedisClient
from engine.store.connect import RedisSettings, connect, is_cluster
from engine.store.due import RedisDue
from engine.store.jobs import RedisJobs
from engine.store.keys import Keys, ShardKeys
from engine.store.leases import ShardLeases
from engine.store.outbox import RedisOutbox
from engine.store.payments import RedisPayments
from metrics.instruments import Instruments

KINDS: Final = ("redis", "redis-6.2", "cluster", "fakeredis")
"""Every implementation that the contract is run over."""

BOTH_PROTOCOLS: Final = (*KINDS, "redis-resp2")
"""For what reads replies that look different in RESP2 and in RESP3, which is redis-py's default."""

TOPIC: Final = "payments.events"


def only(*kinds: str, why: str) -> pytest.MarkDecorator:
    """Run a test over these implementations alone; the reason is part of the claim."""
    assert why
    assert set(kinds) <= set(BOTH_PROTOCOLS)
    return pytest.mark.parametrize("kind", kinds)


def servers_only(why: str) -> pytest.MarkDecorator:
    """Run a test over all implementations but fakeredis."""
    return only(*(kind for kind in KINDS if kind != "fakeredis"), why=why)


class Dataset:
    """The parts of the store, as one process has them, on a batcher that is running."""

    def __init__(
        self, client: RedisClient, *, shards: int, waiting_max: int, batch_max: int, pipelines_max: int
    ) -> None:
        self.client = client
        self.instruments = Instruments(CollectorRegistry())
        self.keys = Keys(shards)
        self.batcher = Batcher(
            client, self.instruments, waiting_max=waiting_max, batch_max=batch_max, pipelines_max=pipelines_max
        )

    @property
    def shard(self) -> ShardKeys:
        """One shard, for tests that need no second."""
        return self.keys.shards[0]

    def payments(self, *, jobs_max: int = 100_000, outbox_max: int = 100_000, cvv_ttl_s: int = 600) -> RedisPayments:
        return RedisPayments(
            self.batcher, self.keys, jobs_max=jobs_max, outbox_max=outbox_max, cvv_ttl_s=cvv_ttl_s, sleep=_no_pause
        )

    def jobs(self, consumer: str) -> RedisJobs:
        return RedisJobs(
            self.batcher, self.keys, self.instruments, consumer=consumer, one_by_one=is_cluster(self.client)
        )

    def outbox(self) -> RedisOutbox:
        return RedisOutbox(self.batcher, self.keys, topics={"core": TOPIC}, one_by_one=is_cluster(self.client))

    def due(self, *, jobs_max: int = 100_000) -> RedisDue:
        return RedisDue(self.batcher, self.keys, jobs_max=jobs_max)

    def leases(self, owner: str, *, ttl_s: float = 6.0, role: str = "relay") -> ShardLeases:
        return ShardLeases(self.batcher, self.keys, role=role, owner=owner, ttl_s=ttl_s)

    def metric(self, name: str, **labels: str) -> float:
        """The value of one of our instruments now."""
        return self.instruments.registry.get_sample_value(name, labels) or 0.0

    async def ask(self, *command: str | bytes | int) -> Any:
        """One command, past the batcher."""
        return await self.client.execute_command(*command)

    async def everywhere(self, *command: str) -> None:
        """One command on every primary. A command of two words is given as one text."""
        if is_cluster(self.client):
            await self.client.execute_command(*command, target_nodes=RedisCluster.PRIMARIES)
        else:
            await self.ask(*command)

    async def names(self) -> set[str]:
        """The name of every key."""
        nodes = {"target_nodes": RedisCluster.PRIMARIES} if is_cluster(self.client) else {}
        found = await self.client.execute_command("KEYS", "*", **nodes)
        pages = found.values() if isinstance(found, dict) else [found]
        return {name.decode() for page in pages for name in page}

    async def dump(self) -> dict[str, tuple[bytes, bool]]:
        """Everything that is written: each key's serialized value, and whether it will expire."""
        return {name: (await self.ask("DUMP", name), await self.ask("PTTL", name) >= 0) for name in await self.names()}

    async def blocked(self) -> bool:
        """Whether a client waits inside a command now, on any primary."""
        nodes = {"target_nodes": RedisCluster.PRIMARIES} if is_cluster(self.client) else {}
        found: dict[str, Any] = await self.client.execute_command("INFO", "clients", **nodes)
        return any(facts["blocked_clients"] for facts in (found.values() if nodes else [found]))

    async def version(self) -> tuple[int, ...]:
        """The server's version; fakeredis plays a 7.0."""
        if type(self.client).__module__.startswith("fakeredis"):
            return (7, 0)
        facts: dict[str, Any] = await self.client.info()
        # A cluster's nodes are all of one version here.
        one: dict[str, Any] = facts if "redis_version" in facts else next(iter(facts.values()))
        return tuple(int(part) for part in str(one["redis_version"]).split("."))


@contextlib.asynccontextmanager
async def running(
    client: RedisClient, *, shards: int = 16, waiting_max: int = 4096, batch_max: int = 128, pipelines_max: int = 2
) -> AsyncIterator[Dataset]:
    """A dataset whose batcher runs; closes the client at the end."""
    dataset = Dataset(client, shards=shards, waiting_max=waiting_max, batch_max=batch_max, pipelines_max=pipelines_max)
    try:
        async with batching(dataset.batcher):
            yield dataset
    finally:
        await client.aclose()


@contextlib.asynccontextmanager
async def batching(batcher: Batcher) -> AsyncIterator[None]:
    """A batcher that runs until the end of the block."""
    task = asyncio.create_task(batcher.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled(), "the batcher ended by itself"


async def eventually(holds: Callable[[], Awaitable[bool]], *, timeout_s: float = 30) -> None:
    """Wait for something that other tasks do."""
    ends_at = time.monotonic() + timeout_s
    while not await holds():
        assert time.monotonic() < ends_at, f"waited {timeout_s} s in vain"
        await asyncio.sleep(0.01)


def connected(url: str, *, timeout_s: float = 60.0) -> RedisClient:
    """A client as the application makes it, but patient: a slow machine is no trouble with the store."""
    return connect(RedisSettings(url=url, timeout_s=timeout_s))


class Places:
    """Where the datasets of one test are: an emptied server or cluster, or a fake one."""

    def __init__(self, kind: str, url: str, fake: RedisClient | None) -> None:
        self.kind = kind
        self.url = url
        self._fake = fake

    def client(self) -> RedisClient:
        """One more client on the same data."""
        if self._fake is None:
            return connected(self.url)
        pool: Any = self._fake.connection_pool  # type: ignore[union-attr]
        return type(self._fake)(connection_pool=pool)  # type: ignore[call-arg]

    def running(self, **bounds: int) -> contextlib.AbstractAsyncContextManager[Dataset]:
        """One more process on the same data."""
        return running(self.client(), **bounds)


async def _no_pause(_seconds: float) -> None:
    await asyncio.sleep(0)
