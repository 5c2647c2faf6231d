"""Requests to change a payment: the wish and the job for it are written together, and never more than is there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from engine.changes import Change, Conflict
from engine.errors import EngineError, Overloaded
from engine.payment import Payment
from engine.store.payments import RedisPayments
from tests.store.datasets import Dataset, Places, connected, only, running
from tests.store.making import NOW, SEALED, accepted, completed, order_in, sending
from tests.store.proxy import proxy_to

LATER = NOW + 120_000


@pytest.fixture
async def processes(places: Places) -> AsyncIterator[list[Dataset]]:
    """Several processes on one dataset, each with connections of its own."""
    async with contextlib.AsyncExitStack() as opened:
        yield [await opened.enter_async_context(places.running()) for _ in range(3)]


async def _completed(store: Dataset, *, minor: int = 1000) -> Payment:
    """A payment that was captured; its job is gone."""
    payments, payment = store.payments(), accepted(order_in(3), minor=minor)
    await payments.create(payment, SEALED, due_ms=NOW)
    intent = sending(payment)
    await payments.begin(intent, due_ms=NOW)
    change = completed(intent)
    await payments.apply(change)
    await store.ask("DEL", store.keys.of(payment.id).jobs)
    return change.payment


def _refund(payment: Payment, refund_id: str = "rfd-1", minor: int = 100) -> Payment:
    return payment.ask_refund(refund_id, minor, "asked for", now_ms=NOW)


def _asking(payment: Payment) -> Change:
    return Change(payment, LATER)


async def test_a_request_is_written_with_its_job_and_its_date(store: Dataset) -> None:
    payment = await _completed(store)
    asked = _refund(payment)
    assert await store.payments().apply_and_enqueue(_asking(asked)) is None
    assert await store.payments().get(payment.id) == asked
    assert float(await store.ask("ZSCORE", store.keys.of(payment.id).due, payment.id)) == LATER
    jobs = store.jobs("w")
    await jobs.open()
    (job,) = await jobs.read(16)
    assert (job.payment_id, job.hint) == (payment.id, asked)


async def test_a_request_that_is_repeated_is_recognised_and_makes_one_job(store: Dataset) -> None:
    asked = _refund(await _completed(store))
    assert await store.payments().apply_and_enqueue(_asking(asked)) is None
    before = await store.dump()
    assert await store.payments().apply_and_enqueue(_asking(asked)) is None
    assert await store.dump() == before


async def test_a_request_on_an_older_version_writes_nothing_and_is_shown_what_stands(store: Dataset) -> None:
    payment = await _completed(store)
    first, second = _refund(payment, "rfd-1"), _refund(payment, "rfd-2")
    await store.payments().apply_and_enqueue(_asking(first))
    before = await store.dump()
    assert await store.payments().apply_and_enqueue(_asking(second)) == Conflict(first)
    assert await store.dump() == before


async def test_a_request_for_a_payment_that_is_not_there_writes_nothing(store: Dataset) -> None:
    payment = await _completed(store)
    await store.everywhere("FLUSHALL")
    assert await store.payments().apply_and_enqueue(_asking(_refund(payment))) == Conflict(None)
    assert await store.dump() == {}


@pytest.mark.parametrize("bound", ["jobs", "outbox"])
async def test_a_full_stream_refuses_a_request_and_nothing_is_written(store: Dataset, bound: str) -> None:
    payment = await _completed(store)
    shard = store.keys.of(payment.id)
    for name in (shard.jobs, shard.outbox):
        await store.ask("DEL", name)
    await store.ask("XADD", shard.jobs if bound == "jobs" else shard.outbox, "*", "p", "pay-other")
    before = await store.dump()
    with pytest.raises(Overloaded) as refused:
        await store.payments(jobs_max=16, outbox_max=16).apply_and_enqueue(_asking(_refund(payment)))
    assert refused.value.bound == bound
    assert await store.dump() == before


async def test_racing_refunds_never_ask_for_more_than_was_captured(processes: list[Dataset]) -> None:
    """Thirty of a tenth each, from several processes, each trying again on what stands: ten of them fit."""
    payment = await _completed(processes[0], minor=1000)

    async def refund(payments: RedisPayments, refund_id: str) -> bool:
        current = payment
        while True:
            try:
                asked = _refund(current, refund_id, 100)
            except EngineError:
                return False
            conflict = await payments.apply_and_enqueue(_asking(asked))
            if conflict is None:
                return True
            assert conflict.current is not None
            assert conflict.current.version > current.version
            current = conflict.current

    taken = await asyncio.gather(*(refund(processes[number % 3].payments(), f"rfd-{number}") for number in range(30)))
    assert sum(taken) == 10
    stands = await processes[0].payments().get(payment.id)
    assert stands is not None
    assert stands.refund_pending_minor == 1000
    assert sorted(refund.id for refund in stands.refunds) == sorted(
        f"rfd-{number}" for number, was_taken in enumerate(taken) if was_taken
    )
    assert await processes[0].ask("XLEN", processes[0].keys.of(payment.id).jobs) == 10


@only("redis", "redis-6.2", why="the proxy stands before one server")
async def test_a_request_whose_answer_was_lost_is_written_once(places: Places) -> None:
    port = int(places.url.rpartition(":")[2].partition("/")[0])
    async with proxy_to(port) as proxy, running(connected(f"redis://127.0.0.1:{proxy.port}/0")) as store:
        asked = _refund(await _completed(store))
        proxy.lose_answers_to("rfd-1", times=1)
        assert await store.payments().apply_and_enqueue(_asking(asked)) is None
        assert proxy.lost == 1
        assert await store.ask("XLEN", store.keys.of(asked.id).jobs) == 1
