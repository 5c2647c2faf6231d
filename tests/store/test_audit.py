"""The audit over a whole dataset: what lies there without a payment, and sums that do not add up."""

from __future__ import annotations

import pytest

from engine.store.audit import Audit
from tests.store.datasets import BOTH_PROTOCOLS, Dataset
from tests.store.making import NOW, SEALED, accepted, completed, failed, order_in, sending

GHOST = "pay-0000000000000000000000000003"


@pytest.fixture(params=BOTH_PROTOCOLS)
def kind(request: pytest.FixtureRequest) -> str:
    """What is tested here reads replies of either form."""
    return str(request.param)


async def _filled(store: Dataset, count: int = 40) -> None:
    for number in range(count):
        payment = accepted(order_in(number % 16))
        await store.payments().create(payment, SEALED, due_ms=NOW)
        if number % 3:
            intent = sending(payment)
            await store.payments().begin(intent, due_ms=NOW)
            await store.payments().apply(completed(intent) if number % 2 else failed(intent))


async def _found(store: Dataset) -> tuple[Audit, set[tuple[int, str, str]]]:
    audit = Audit(store.client, store.batcher, store.keys)
    return audit, {(each.invariant, each.key, each.problem) async for each in audit.findings()}


async def test_a_sound_dataset_has_no_findings_and_every_payment_was_seen(store: Dataset) -> None:
    await _filled(store)
    audit, found = await _found(store)
    assert found == set() and audit.balances_compared
    assert audit.payments == {"processing": 14, "completed": 13, "failed": 13}


async def test_what_belongs_to_no_payment_is_found_by_its_name(store: Dataset) -> None:
    await _filled(store)
    shard = store.keys.shards[3]
    await store.ask("SET", shard.card(GHOST), "sealed")
    await store.ask("RPUSH", shard.ledger("not-an-id"), "x")
    await store.ask("RPUSH", shard.events(GHOST), "x")
    await store.ask("SET", shard.order("order-of-nobody"), GHOST)
    await store.ask("ZADD", shard.due, NOW, GHOST)
    await store.ask("SET", "{p7f}:payment:x", "{}")
    _, found = await _found(store)
    assert found == {
        (11, shard.card(GHOST), "its payment does not exist"),
        (3, shard.ledger("not-an-id"), "its payment does not exist"),
        (4, shard.events(GHOST), "its payment does not exist"),
        (1, shard.order("order-of-nobody"), f"is claimed by {GHOST}, which does not exist"),
        (1, shard.due, f"{GHOST} is due, but does not exist"),
        (1, "{p7f}:payment:x", "belongs to no shard of this dataset"),
    }


async def test_a_balance_that_is_not_the_sum_of_its_rows_is_found(store: Dataset) -> None:
    await _filled(store)
    await store.ask("HINCRBY", store.shard.balances, "merchant:core|USD", 5)
    _, found = await _found(store)
    assert {(invariant, key) for invariant, key, _ in found} == {(3, "balances")}
    assert any("accounts sum to 5, not to 0" in problem for _, _, problem in found)
