"""The schedule and the reconciler: whatever became of its job, a payment without an outcome gets another one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from engine.errors import Overloaded, StoreUnavailable
from engine.facts import AttemptState
from engine.ids import PaymentId
from engine.payment import Payment
from engine.reconciler import Reconciler
from engine.store.batch import Batcher, RedisClient
from engine.store.due import RedisDue
from engine.store.step import Refusal, Step
from metrics.instruments import Instruments
from tests.store.datasets import Dataset, Places, batching, eventually
from tests.store.making import NOW, SEALED, accepted, completed, left_open, order_in, sending

AGAIN = NOW + 60_000
ALL = range(16)


class Interrupted(Batcher):
    """Somebody else comes first, each time."""

    def __init__(
        self, client: RedisClient, instruments: Instruments, *, before_each_step: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(client, instruments)
        self._before_each_step = before_each_step

    async def step(self, step: Step) -> list[Any] | Refusal:
        await self._before_each_step()
        return await super().step(step)


async def _due(store: Dataset, order_id: str, *, due_ms: int) -> Payment:
    """A payment that is due then and has no job: its worker took it and died."""
    payment = accepted(order_id)
    await store.payments().create(payment, SEALED, due_ms=due_ms)
    await store.ask("DEL", store.keys.of(payment.id).jobs)
    return payment


async def _jobs(store: Dataset) -> list[PaymentId]:
    """The payments of all jobs in the streams."""
    found = []
    for shard in store.keys.shards:
        found += [fields[b"p"].decode() for _, fields in await store.ask("XRANGE", shard.jobs, "-", "+")]
    return found


async def _due_at(store: Dataset, payment: Payment) -> float | None:
    score = await store.ask("ZSCORE", store.keys.of(payment.id).due, payment.id)
    return None if score is None else float(score)


async def test_a_payment_that_is_due_gets_a_job_and_is_due_again_later(store: Dataset) -> None:
    payment = await _due(store, order_in(3), due_ms=NOW)
    assert await store.due().redrive(ALL, now_ms=NOW, again_ms=AGAIN) == 1
    assert await _jobs(store) == [payment.id]
    assert await _due_at(store, payment) == AGAIN
    assert await store.due().redrive(ALL, now_ms=NOW, again_ms=AGAIN) == 0
    assert await store.due().redrive(ALL, now_ms=AGAIN, again_ms=AGAIN + 1) == 1


async def test_a_payment_is_left_alone_before_it_is_due(store: Dataset) -> None:
    payment = await _due(store, order_in(3), due_ms=NOW)
    assert await store.due().redrive(ALL, now_ms=NOW - 1, again_ms=AGAIN) == 0
    assert await _jobs(store) == []
    assert await _due_at(store, payment) == NOW


async def test_only_the_shards_asked_for_are_looked_at(store: Dataset) -> None:
    ours, other = await _due(store, order_in(3), due_ms=NOW), await _due(store, order_in(4), due_ms=NOW)
    assert await store.due().redrive([3], now_ms=NOW, again_ms=AGAIN) == 1
    assert await _jobs(store) == [ours.id]
    assert await _due_at(store, other) == NOW
    assert await store.due().redrive([], now_ms=NOW, again_ms=AGAIN) == 0


async def test_the_job_lets_a_worker_read_the_record_anew(store: Dataset) -> None:
    payment = await _due(store, order_in(3), due_ms=NOW)
    await store.due().redrive(ALL, now_ms=NOW, again_ms=AGAIN)
    jobs = store.jobs("w")
    await jobs.open()
    (job,) = await jobs.read(16)
    assert (job.payment_id, job.hint) == (payment.id, None)


async def test_many_due_payments_of_a_shard_are_taken_in_pages_and_none_is_missed(store: Dataset) -> None:
    payments = [await _due(store, order_in(3), due_ms=NOW + number % 3) for number in range(230)]
    counts = [await store.due().redrive([3], now_ms=NOW + 9, again_ms=AGAIN) for _ in range(4)]
    assert counts == [100, 100, 30, 0]
    assert sorted(await _jobs(store)) == sorted(payment.id for payment in payments)


async def test_with_a_full_queue_a_payment_stays_due(store: Dataset) -> None:
    """Half of the queue is left to new payments."""
    due = store.due(jobs_max=4 * 16)
    payment = await _due(store, order_in(3), due_ms=NOW)
    for _ in range(2):
        await store.ask("XADD", store.keys.shards[3].jobs, "*", "p", "pay-other")
    before = await store.dump()
    assert await due.redrive(ALL, now_ms=NOW, again_ms=AGAIN) == 0
    assert await store.dump() == before
    await store.ask("DEL", store.keys.shards[3].jobs)
    assert await due.redrive(ALL, now_ms=NOW, again_ms=AGAIN) == 1
    assert await _jobs(store) == [payment.id]


async def test_a_full_queue_of_one_shard_does_not_hold_up_the_others(store: Dataset) -> None:
    due = store.due(jobs_max=2 * 16)
    await _due(store, order_in(3), due_ms=NOW)
    payment = await _due(store, order_in(4), due_ms=NOW)
    await store.ask("XADD", store.keys.shards[3].jobs, "*", "p", "pay-other")
    assert await due.redrive(ALL, now_ms=NOW, again_ms=AGAIN) == 1
    assert payment.id in await _jobs(store)


async def test_a_payment_that_ends_while_it_is_redriven_is_not_due_again(store: Dataset) -> None:
    """It ended between the question who is due and the step: a job for it does no harm, a date for it would stay."""
    payment = await _due(store, order_in(3), due_ms=NOW)
    intent = sending(payment)
    await store.payments().begin(intent, due_ms=NOW)

    async def end() -> None:
        assert await store.payments().apply(completed(intent)) is None

    batcher = Interrupted(store.client, store.instruments, before_each_step=end)
    async with batching(batcher):
        due = RedisDue(batcher, store.keys, jobs_max=100_000)
        assert await due.redrive([3], now_ms=NOW, again_ms=AGAIN) == 1
    assert await _due_at(store, payment) is None


async def test_a_payment_without_an_outcome_stays_scheduled_whatever_its_state(store: Dataset) -> None:
    payment = await _due(store, order_in(3), due_ms=NOW)
    intent = sending(payment)
    await store.payments().begin(intent, due_ms=NOW + 1)
    assert await store.due().redrive(ALL, now_ms=NOW + 1, again_ms=NOW + 2) == 1
    opened = left_open(intent, AttemptState.UNKNOWN, due_ms=NOW + 3)
    await store.payments().apply(opened)
    assert await store.due().redrive(ALL, now_ms=NOW + 3, again_ms=NOW + 4) == 1
    await store.payments().apply(completed(opened.payment))
    assert await store.due().redrive(ALL, now_ms=NOW + 999_999, again_ms=NOW + 5) == 0


# The reconciler


@pytest.fixture
async def two(places: Places) -> AsyncIterator[tuple[Dataset, Dataset]]:
    """Two processes on one dataset."""
    async with places.running() as one, places.running() as other:
        yield one, other


def _reconciler(store: Dataset, owner: str) -> Reconciler:
    leases = store.leases(owner, role="reconcile")
    return Reconciler(store.due(), leases, lambda: NOW, redrive_after_s=60.0, every_s=0.005)


async def test_two_reconcilers_redrive_what_is_due_once_and_give_their_shards_back(
    two: tuple[Dataset, Dataset],
) -> None:
    one, other = two
    payments = [await _due(one, order_in(shard), due_ms=NOW) for shard in ALL]
    tasks = [asyncio.create_task(_reconciler(store, owner).run()) for store, owner in ((one, "a"), (other, "b"))]

    async def all_have_one() -> bool:
        return len(await _jobs(one)) >= len(payments)

    await eventually(all_have_one)
    await asyncio.sleep(0.05)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert sorted(await _jobs(one)) == sorted(payment.id for payment in payments)
    assert {await _due_at(one, payment) for payment in payments} == {float(AGAIN)}
    assert not [name for name in await one.names() if ":lease:" in name]


class TroubledDue:
    """Fails the first time."""

    def __init__(self, trouble: Exception) -> None:
        self.asked = 0
        self._trouble = trouble

    async def redrive(self, shards: Sequence[int], *, now_ms: int, again_ms: int) -> int:
        self.asked += 1
        if self.asked == 1:
            raise self._trouble
        return len(shards) * 0


class NoLeases:
    """Holds nothing and needs nobody."""

    def held(self) -> list[int]:
        return []

    async def renew(self) -> None:
        return

    async def release(self) -> None:
        return


@pytest.mark.parametrize("trouble", [StoreUnavailable("gone"), Overloaded("store_waiting")], ids=type)
async def test_a_reconciler_goes_on_after_trouble_with_the_store(trouble: Exception) -> None:
    due = TroubledDue(trouble)
    running = asyncio.create_task(Reconciler(due, NoLeases(), lambda: NOW, redrive_after_s=1, every_s=0.001).run())

    async def asked_again() -> bool:
        return due.asked > 1

    await eventually(asked_again)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
