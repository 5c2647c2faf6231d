"""The audit's sample: it finds what is broken, round and round, and accuses nobody who is only being changed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from engine.auditing import RULES
from engine.changes import Change
from engine.events import REFUNDED, with_event
from engine.ledger import refund_of
from engine.payment import Payment
from engine.store.sample import AuditSample
from tests.engine.test_relay import FakeLeases
from tests.store.datasets import BOTH_PROTOCOLS, Dataset, Places, only
from tests.store.making import NOW, SEALED, accepted, completed, order_in, sending


@pytest.fixture(params=BOTH_PROTOCOLS)
def kind(request: pytest.FixtureRequest) -> str:
    """What is tested here reads replies of either form."""
    return str(request.param)


def _sample(store: Dataset, *shards: int, per_s: int = 1000, every_s: float = 1.0) -> AuditSample:
    leases = FakeLeases(*(shards or range(16)))
    return AuditSample(
        store.client, store.batcher, store.keys, leases, store.instruments, payments_per_s=per_s, every_s=every_s
    )


async def _paid(store: Dataset, shard: int = 0) -> Payment:
    payment = accepted(order_in(shard))
    await store.payments().create(payment, SEALED, due_ms=NOW)
    intent = sending(payment)
    await store.payments().begin(intent, due_ms=NOW)
    change = completed(intent)
    assert await store.payments().apply(change) is None
    return change.payment


async def test_sound_payments_are_counted_and_nothing_is_found(store: Dataset) -> None:
    for shard in range(16):
        await _paid(store, shard)
    waiting = accepted(order_in(3))
    await store.payments().create(waiting, SEALED, due_ms=NOW)
    assert await _sample(store).pass_once() == []
    assert store.metric("audit_payments_checked_total") == 17
    assert {store.metric("audit_violations_total", rule=rule) for rule in RULES.values()} == {0}


@pytest.mark.parametrize(
    ("rule", "command", "kind_of_key", "arguments"),
    [
        ("lifecycle", "ZADD", "due", (NOW, "{id}")),
        ("ledger", "DEL", "ledger", ()),
        ("events", "RPOP", "events", ()),
        ("order", "DEL", "order", ()),
        ("unknown", "ZADD", "unknown", (NOW, "{id}")),
        ("card", "SET", "card", ("sealed",)),
    ],
)
async def test_what_is_broken_is_counted_by_rule_and_logged_with_the_payment(
    store: Dataset, rule: str, command: str, kind_of_key: str, arguments: tuple[Any, ...]
) -> None:  # fmt: skip
    sound, broken = await _paid(store), await _paid(store)
    shard = store.shard
    keys = {
        "due": shard.due, "unknown": shard.unknown, "ledger": shard.ledger(broken.id), "card": shard.card(broken.id),
        "events": shard.events(broken.id), "order": shard.order(broken.order_id),
    }  # fmt: skip
    filled = [text.format(id=broken.id) if isinstance(text, str) else text for text in arguments]
    await store.ask(command, keys[kind_of_key], *filled)
    with capture_logs() as log_lines:
        found = await _sample(store).pass_once()
    assert {(RULES[finding.invariant], finding.key) for finding in found} == {(rule, shard.payment(broken.id))}
    assert store.metric("audit_violations_total", rule=rule) == len(found) > 0
    assert {(line["event"], line["rule"], line["key"]) for line in log_lines} == {
        ("audit failed", rule, shard.payment(broken.id))
    }
    assert sound.id not in str(log_lines)


@pytest.mark.parametrize("record", [b"{", b"[]", b'{"v":"x"}'])
async def test_a_record_that_is_none_is_a_finding_and_not_the_end(store: Dataset, record: bytes) -> None:
    payment = await _paid(store)
    await store.ask("SET", store.shard.payment(payment.id), record)
    (finding,) = await _sample(store).pass_once()
    assert (finding.invariant, finding.problem.startswith("cannot be read")) == (3, True)


async def test_only_shards_under_our_lease_are_looked_at(store: Dataset) -> None:
    for shard in range(16):
        await _paid(store, shard)
    sample = _sample(store, 2, 5)
    await sample.pass_once()
    assert store.metric("audit_payments_checked_total") == 2
    await _sample(store, 99).pass_once()
    assert store.metric("audit_payments_checked_total") == 2


@only("redis", "cluster", why="the order of a scan is the server's own")
async def test_each_pass_takes_so_many_and_a_round_takes_everyone(store: Dataset) -> None:
    payments = [await _paid(store, number % 16) for number in range(50)]
    for payment in payments:
        await store.ask("DEL", store.keys.of(payment.id).ledger(payment.id))
    sample = _sample(store, per_s=20, every_s=0.5)
    passes = [[finding.key for finding in await sample.pass_once()] for _ in range(10)]
    assert max(map(len, passes)) == 10
    named = [key for page in passes for key in page]
    assert set(named) == {store.keys.of(payment.id).payment(payment.id) for payment in payments}
    assert len(named) > len(set(named)), "and then the next round begins"


@only("redis", "cluster", why="what is at stake is what a server does between two commands")
async def test_payments_that_are_being_changed_all_the_time_are_never_accused(store: Dataset, places: Places) -> None:
    """Create, charge and refund without pause, while every payment is looked at as often as possible.

    The looking process sends two commands at a time, so that whatever is not one step is interrupted by the other.
    """
    enough = asyncio.Event()
    async with places.running(batch_max=2) as looking:
        sample = _sample(looking, per_s=40)
        running = [asyncio.create_task(_live(store, number, enough)) for number in range(16)]
        found = [finding for _ in range(30) for finding in await sample.pass_once()]
        enough.set()
        await asyncio.gather(*running)
        assert found == [] and looking.metric("audit_payments_checked_total") > 500


async def _live(store: Dataset, number: int, enough: asyncio.Event) -> None:
    """Whole lives of payments, each change a step of its own."""
    while not enough.is_set():
        payment = await _paid(store, number % 16)
        for refund in range(5):
            asked = payment.ask_refund(f"ref-{payment.id}-{refund}", 10, "", now_ms=NOW)
            assert await store.payments().apply_and_enqueue(Change(asked, NOW)) is None
            intent = sending(asked)
            await store.payments().begin(intent, due_ms=NOW)
            ended = intent.refund_ended("tx", None, now_ms=NOW)
            told, event = with_event(ended, REFUNDED, ended.refunds[-1])
            rows = refund_of(told, told.refunds[-1])
            change = Change(told, None, transactions=(rows,), events=(event,))
            assert await store.payments().apply(change) is None
            payment = told


@only("redis", why="the answer to a wrong type is the same everywhere")
async def test_trouble_with_the_store_is_no_violation_and_the_sample_goes_on(store: Dataset) -> None:
    """Here the schedule is of a wrong type for a while, as an error that Redis answers with."""
    payment = await _paid(store)
    await store.ask("SET", store.shard.due, "not a set")
    running = asyncio.create_task(_sample(store, every_s=0.01).run())
    await asyncio.sleep(0.1)
    assert store.metric("audit_payments_checked_total") == 0
    await store.ask("DEL", store.shard.due)
    await store.ask("DEL", store.shard.ledger(payment.id))
    async with asyncio.timeout(10):
        while not store.metric("audit_violations_total", rule="ledger"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
