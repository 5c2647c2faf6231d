"""Depths: how much waits, over all shards, and since when."""

from __future__ import annotations

import pytest

from engine.facts import AttemptState
from engine.store.depths import Depth, Depths, RedisDepths
from tests.store.datasets import BOTH_PROTOCOLS, Dataset
from tests.store.making import NOW, SEALED, accepted, completed, left_open, order_in, sending


@pytest.fixture(params=BOTH_PROTOCOLS)
def kind(request: pytest.FixtureRequest) -> str:
    """What is tested here reads replies of either form."""
    return str(request.param)


async def test_an_empty_dataset_has_nothing_waiting(store: Dataset) -> None:
    nothing = Depth(0, 0)
    assert await RedisDepths(store.batcher, store.keys).now() == Depths(nothing, nothing, nothing, nothing, nothing)


async def test_jobs_events_and_unknown_outcomes_are_counted_over_all_shards(store: Dataset) -> None:
    payments = store.payments()
    began_at = [NOW + 3000, NOW + 1000, NOW + 2000]
    for shard, at_ms in enumerate(began_at):
        payment = accepted(order_in(shard))
        await payments.create(payment, SEALED, due_ms=NOW)
        intent = sending(payment, at_ms=at_ms)
        await payments.begin(intent, due_ms=NOW)
        await payments.apply(left_open(intent, AttemptState.UNKNOWN))
    payment = accepted(order_in(9))
    await payments.create(payment, SEALED, due_ms=NOW)
    intent = sending(payment)
    await payments.begin(intent, due_ms=NOW)
    await payments.apply(completed(intent))
    depths = await RedisDepths(store.batcher, store.keys).now()
    assert (depths.jobs.waiting, depths.outbox.waiting) == (4, 1)
    assert depths.unknown == Depth(3, NOW + 1000)


async def test_the_age_of_a_stream_is_its_oldest_entry_s(store: Dataset) -> None:
    for shard, at_ms in ((2, NOW + 5), (7, NOW), (8, NOW + 9)):
        await store.ask("XADD", store.keys.shards[shard].jobs, f"{at_ms}-1", "p", "pay-1")
        await store.ask("XADD", store.keys.shards[shard].outbox, f"{at_ms + 50}-1", "p", "pay-1")
    depths = await RedisDepths(store.batcher, store.keys).now()
    assert (depths.jobs, depths.outbox) == (Depth(3, NOW), Depth(3, NOW + 50))
