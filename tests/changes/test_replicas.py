"""`durability = "wait:N"`: a step counts when so many replicas have it, and is applied once however often repeated."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from prometheus_client import CollectorRegistry

from engine.cards import SealedInstrument
from engine.errors import StoreUnavailable
from engine.facts import Status
from engine.ids import PaymentIds
from engine.payment import Payment
from engine.settling import settled
from engine.store.batch import Batcher
from engine.store.check import RedisCheck
from engine.store.connect import RedisSettings, connect
from engine.store.keys import Keys
from engine.store.payments import RedisPayments
from metrics.instruments import Instruments
from tests.changes.making import APPROVED
from tests.engine.making import NOW_MS, a_payment
from tests.store.servers import wait_until
from tests.support import RedisServer, temporary_folder


class Pair:
    """A primary, and a replica that follows it."""

    def __init__(self, primary: RedisServer, replica: RedisServer) -> None:
        self.primary, self.replica = primary, replica

    def follow(self) -> None:
        """Start the replica, and wait until it has everything."""
        self.replica.start()
        with contextlib.closing(self.replica.client()) as client:
            client.replicaof("127.0.0.1", self.primary.port)
            wait_until(lambda: _is_up(client), "the replica has everything")
        wait_until(lambda: self._state().get("state") == "online", "the primary knows it")

    def lose(self) -> None:
        """kill -9 the replica, and wait until the primary knows."""
        self.replica.kill()
        wait_until(lambda: not self._state(), "the primary sees that the replica is gone")

    def _state(self) -> dict[str, Any]:
        with contextlib.closing(self.primary.client()) as client:
            found: dict[str, Any] = client.info("replication").get("slave0", {})
            return found


def _is_up(client: redis.Redis) -> bool:
    return bool(client.info("replication").get("master_link_status") == "up")


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """One primary and one replica, following."""
    with temporary_folder() as folder:
        servers = []
        for name in ("primary", "replica"):
            (Path(folder) / name).mkdir()
            servers.append(RedisServer(Path(folder) / name, {"repl-diskless-sync-delay": "0"}))
        both = Pair(*servers)
        both.primary.start()
        both.follow()
        yield both
        for server in servers:
            server.stop()


@contextlib.asynccontextmanager
async def a_store(pair: Pair, replicas: int = 1, *, patience_s: float = 0.4) -> AsyncIterator[RedisPayments]:
    """Payments on the primary that wait for so many replicas, so long."""
    client = connect(RedisSettings(url=pair.primary.url, timeout_s=60))
    batcher = Batcher(client, Instruments(CollectorRegistry()), replicas=replicas, replicas_timeout_s=patience_s)
    batching = asyncio.create_task(batcher.run())
    try:
        yield RedisPayments(batcher, Keys(16), jobs_max=1000, outbox_max=1000, cvv_ttl_s=60)
    finally:
        batching.cancel()
        await asyncio.wait([batching])
        await client.aclose()


async def an_accepted_payment(store: RedisPayments, order: str) -> Payment:
    """A payment that is about to be settled."""
    fresh = a_payment(PaymentIds(lambda: NOW_MS).mint(store.shard_of(order)))
    payment = msgspec.structs.replace(fresh, order_id=order)
    assert await store.create(payment, SealedInstrument(b"card", None), due_ms=NOW_MS) == payment
    operation = payment.operation
    assert operation is not None
    sending = payment.begin(operation, "bank", now_ms=NOW_MS, lease_ms=1, token="t")
    await store.begin(sending, due_ms=NOW_MS)
    return sending


async def problems(pair: Pair, durability: str) -> str:
    """What the start-up check has to say."""
    settings = RedisSettings(url=pair.primary.url, durability=durability, timeout_s=60)
    client = connect(settings)
    try:
        return " ".join((await RedisCheck(client, settings).report()).problems)
    finally:
        await client.aclose()


async def test_a_step_counts_with_enough_replicas_and_without_them_nobody_says_yes(pair: Pair) -> None:
    """Gone replica: unknown, not success, and the check says so. Back again: the repeated step is found done, once."""
    async with a_store(pair, patience_s=30) as store, a_store(pair) as hasty:
        settling = settled(await an_accepted_payment(store, "order-1"), APPROVED, now_ms=NOW_MS + 5)
        assert await store.apply(settling) is None
        assert "are connected" not in await problems(pair, "wait:1")

        waiting = settled(await an_accepted_payment(store, "order-2"), APPROVED, now_ms=NOW_MS + 5)
        pair.lose()
        with pytest.raises(StoreUnavailable):
            await hasty.apply(waiting)
        with pytest.raises(StoreUnavailable):
            await an_accepted_payment(hasty, "order-3")
        assert "redis.durability is wait:1, but 0 are connected" in await problems(pair, "wait:1")
        assert "are connected" not in await problems(pair, "strict")

        pair.follow()
        assert await store.apply(waiting) is None, "the repeated step is its own conflict"
        found = await store.get(waiting.payment.id)
        assert found is not None
        assert (found.status, found.version) == (Status.COMPLETED, waiting.payment.version)
        shard = Keys(16).of(waiting.payment.id)
        for server in (pair.primary, pair.replica):
            with contextlib.closing(server.client()) as client:
                assert client.llen(shard.ledger(waiting.payment.id)) == 1
                assert client.llen(shard.events(waiting.payment.id)) == 1
                assert client.hget(shard.balances, "acquirer:bank|USD") == "7548"


async def test_more_replicas_than_there_are_is_never_enough(pair: Pair) -> None:
    async with a_store(pair, replicas=2) as store:
        with pytest.raises(StoreUnavailable):
            await an_accepted_payment(store, "order-4")
    assert "redis.durability is wait:2, but 1 are connected" in await problems(pair, "wait:2")
