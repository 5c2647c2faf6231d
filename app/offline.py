"""A dataset for commands that look at it, or change it, without serving."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from typing import NamedTuple

import msgspec
from prometheus_client import CollectorRegistry

from app.settings import ConfigError, Settings
from engine.store.batch import Batcher, RedisClient
from engine.store.connect import connect
from engine.store.items import RedisItems
from engine.store.keys import DATASET, Keys
from engine.store.payments import RedisPayments
from engine.store.scan import RedisScan
from metrics.instruments import Instruments


class Dataset(NamedTuple):
    """An open dataset."""

    client: RedisClient
    batcher: Batcher
    keys: Keys
    payments: RedisPayments
    scan: RedisScan
    items: RedisItems


def print_line(value: object) -> None:
    """One JSON line on standard output, as all these commands answer."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


@contextlib.asynccontextmanager
async def dataset(settings: Settings) -> AsyncIterator[Dataset]:
    """Open the configured dataset. Raises `ConfigError` when there is none."""
    if not settings.redis.url:
        raise ConfigError("redis.url (PAYMENTS__REDIS__URL) is not set")
    redis = settings.redis
    client = connect(redis)
    batcher = Batcher(client, Instruments(CollectorRegistry()), replicas=redis.replicas)
    batching = asyncio.ensure_future(batcher.run())
    try:
        if not await client.exists(DATASET):
            raise ConfigError("this Redis has no dataset marker: there is nothing to work on")
        keys = Keys(redis.shards)
        payments = RedisPayments(
            batcher, keys, jobs_max=redis.jobs_max, outbox_max=redis.outbox_max, cvv_ttl_s=settings.cards.cvv_ttl_s
        )
        scan, items = RedisScan(client, batcher, keys), RedisItems(client, batcher, keys)
        yield Dataset(client, batcher, keys, payments, scan, items)
    finally:
        batching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await batching
        await client.aclose()
