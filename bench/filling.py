"""Fills an empty Redis with payments, by the store's own steps: settled and told, or waiting for a worker.

python -m bench.filling URL COUNT settled|waiting
"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from prometheus_client import CollectorRegistry

from engine.cards import SealedInstrument
from engine.changes import Change
from engine.events import COMPLETED, with_event
from engine.facts import Method
from engine.ids import PaymentIds, now_ms
from engine.ledger import capture_of
from engine.money import Money
from engine.payment import Payment
from engine.store.batch import Batcher
from engine.store.check import RedisCheck
from engine.store.connect import RedisSettings, connect
from engine.store.keys import Keys
from engine.store.payments import RedisPayments
from metrics.instruments import Instruments

_AT_ONCE = 500
# As long as a real one. Nobody opens it here.
_SEALED = SealedInstrument(b"bench:" + b"x" * 60, b"bench:" + b"x" * 36)


async def fill(url: str, count: int, *, settled: bool) -> None:
    """Write so many payments. Raises `ValueError` when the Redis is not empty."""
    settings = RedisSettings(url=url)
    client = connect(settings)
    batcher = Batcher(client, Instruments(CollectorRegistry()))
    keys = Keys(settings.shards)
    payments = RedisPayments(batcher, keys, jobs_max=10**9, outbox_max=10**9, cvv_ttl_s=900)
    await RedisCheck(client, settings).create_dataset()
    batching = asyncio.create_task(batcher.run())
    ids = PaymentIds()
    for first in range(0, count, _AT_ONCE):
        numbers = range(first, min(count, first + _AT_ONCE))
        await asyncio.gather(*(_payment(payments, ids, number, settled=settled) for number in numbers))
    if settled:
        # Done and told: nothing waits.
        for shard in keys.shards:
            await client.delete(shard.jobs, shard.outbox)
    batching.cancel()
    await asyncio.wait([batching])
    await client.aclose()


async def _payment(payments: RedisPayments, ids: PaymentIds, number: int, *, settled: bool) -> None:
    order_id, now = f"order-{number}", now_ms()
    payment = Payment(
        version=1,
        id=ids.mint(payments.shard_of(order_id)),
        order_id=order_id,
        user_id=f"user-{number % 1000}",
        amount=Money(7548, "USD"),
        method=Method("credit_card", "visa", "4242"),
        created_ms=now,
        request_id=f"req-{number}",
    )
    # Not due within this benchmark: what is measured is the queue.
    await payments.create(payment, _SEALED, due_ms=now + 3_600_000)
    if not settled:
        return
    operation = payment.operation
    assert operation is not None, "a new payment is to be charged"
    sending = payment.begin(operation, "card_acquirer", now_ms=now, lease_ms=20_000)
    await payments.begin(sending, due_ms=now + 20_000)
    ended, event = with_event(sending.charged(f"ch-{number}", now_ms=now), COMPLETED)
    await payments.apply(
        Change(ended, None, transactions=(capture_of(ended),), events=(event,), forget_instrument=True)
    )


if __name__ == "__main__":
    uvloop.run(fill(sys.argv[1], int(sys.argv[2]), settled=sys.argv[3] == "settled"))
