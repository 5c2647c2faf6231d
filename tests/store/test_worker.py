"""Workers: so many jobs at once and no more, none lost by what happens to another, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import pytest
from structlog.testing import capture_logs

from engine.changes import Job
from engine.errors import Overloaded, StoreUnavailable
from engine.ids import PaymentId
from engine.payment import Payment
from engine.worker import Worker
from tests.store.datasets import Places, eventually
from tests.store.making import NOW, SEALED, accepted

CONCURRENCY: Final = 4


class FakeJobs:
    """A stream in memory: what was read and not ended is pending."""

    def __init__(self, count: int = 0, hint: Payment | None = None) -> None:
        self.waiting = [Job(PaymentId(f"pay-{number}"), hint, f"{number}-0") for number in range(count)]
        self.to_claim: list[Job] = []
        self.pending: list[Job] = []
        self.reads = 0
        self.claims = 0
        self.forgets = 0
        self.troubles: list[Exception] = []
        self.claim_troubles: list[Exception] = []

    async def read(self, count: int) -> list[Job]:
        await asyncio.sleep(0)
        self.reads += 1
        if self.troubles:
            raise self.troubles.pop(0)
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        self.pending += taken
        return taken

    async def claim(self, *, idle_ms: int) -> list[Job]:
        await asyncio.sleep(0)
        self.claims += 1
        if self.claim_troubles:
            raise self.claim_troubles.pop(0)
        taken, self.to_claim = self.to_claim, []
        self.pending += taken
        return taken

    async def forget_gone_consumers(self) -> None:
        self.forgets += 1


class FakeProcessor:
    """Works on a job until told otherwise, and remembers."""

    def __init__(self, jobs: FakeJobs, work: Callable[[Job], Awaitable[None]]) -> None:
        self._jobs = jobs
        self._work = work
        self.begun: list[Job] = []
        self.ended: list[Job] = []
        self.now = 0
        self.most = 0

    async def process(self, job: Job) -> None:
        self.begun.append(job)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self._work(job)
        finally:
            self.now -= 1
        self._jobs.pending.remove(job)
        self.ended.append(job)


async def _briefly(_job: Job) -> None:
    await asyncio.sleep(0.002)


def _worker(jobs: FakeJobs, processor: FakeProcessor, *, concurrency: int = CONCURRENCY) -> Worker:
    return Worker(
        jobs, processor, asyncio.Event(),
        concurrency=concurrency, claim_idle_s=30.0, poll_s=0.001, poll_idle_max_s=0.005, claim_every_s=0.01,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def _running(worker: Worker) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(worker.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _stopped(worker: Worker, task: asyncio.Task[None]) -> None:
    worker.stop()
    await asyncio.wait_for(task, 20)


def _all_begun(processor: FakeProcessor, count: int) -> Callable[[], Awaitable[bool]]:
    async def holds() -> bool:
        return len(processor.begun) >= count

    return holds


def _all_ended(processor: FakeProcessor, count: int) -> Callable[[], Awaitable[bool]]:
    async def holds() -> bool:
        return len(processor.ended) >= count

    return holds


async def test_no_more_jobs_are_worked_on_at_once_than_allowed_and_all_of_them_in_the_end() -> None:
    jobs = FakeJobs(40)
    processor = FakeProcessor(jobs, _briefly)
    async with _running(_worker(jobs, processor)):
        await eventually(_all_ended(processor, 40))
    assert processor.most == CONCURRENCY
    assert len({job.entry_id for job in processor.ended}) == 40


async def test_no_more_jobs_are_taken_than_can_be_worked_on_soon() -> None:
    """What waits in one process is out of reach of all others."""
    jobs = FakeJobs(100)
    processor = FakeProcessor(jobs, lambda _job: asyncio.sleep(60))
    worker = _worker(jobs, processor)
    async with _running(worker):
        await eventually(_all_begun(processor, CONCURRENCY))
        await asyncio.sleep(0.1)  # for a read too many
        assert processor.now == CONCURRENCY
        # Some are worked on, as many wait, and one read may be on its way into the channel.
        assert len(jobs.pending) <= 3 * CONCURRENCY
        assert not worker.idle


@pytest.mark.parametrize(
    "trouble", [ValueError("a bug"), KeyError("x"), StoreUnavailable("gone"), Overloaded("store_waiting")], ids=repr
)
async def test_a_job_that_raises_does_not_stop_the_others(trouble: Exception) -> None:
    async def work(job: Job) -> None:
        if int(job.entry_id.partition("-")[0]) % 3 == 0:
            raise trouble

    jobs = FakeJobs(30)
    processor = FakeProcessor(jobs, work)
    with capture_logs() as logs:
        async with _running(_worker(jobs, processor)) as task:
            await eventually(_all_ended(processor, 20))
            assert not task.done()
    assert len(processor.begun) == 30
    assert len(jobs.pending) == 10, "and its entry stays, for whoever claims it"
    assert sorted(line["payment_id"] for line in logs) == sorted(job.payment_id for job in jobs.pending)


async def test_stop_finishes_what_was_taken_and_takes_nothing_new() -> None:
    release = asyncio.Event()

    async def work(_job: Job) -> None:
        await release.wait()

    jobs = FakeJobs(100)
    processor = FakeProcessor(jobs, work)
    worker = _worker(jobs, processor)
    async with _running(worker) as task:
        await eventually(_all_begun(processor, CONCURRENCY))
        under_way = list(processor.begun)
        worker.stop()
        for _ in range(100):  # its tasks hear of it in some passes of the loop, which no clock counts
            await asyncio.sleep(0)
        reads, left = jobs.reads, len(jobs.waiting)
        await asyncio.sleep(0.05)
        assert not task.done(), "it waits for what is under way"
        release.set()
        await asyncio.wait_for(task, 20)
    assert len(under_way) == CONCURRENCY
    assert set(processor.ended) == set(processor.begun) >= set(under_way), "nothing was broken off"
    assert jobs.pending == [], "nor left to be claimed by another"
    assert (jobs.reads, len(jobs.waiting)) == (reads, left)
    assert worker.idle


async def test_a_job_that_ends_in_the_moment_of_the_stop_does_not_break_off_the_next_one() -> None:
    worker: Worker

    async def work(job: Job) -> None:
        if job.entry_id == "0-0":
            await asyncio.sleep(0.02)
            worker.stop()
        else:
            await asyncio.sleep(0.02)

    jobs = FakeJobs(3)
    processor = FakeProcessor(jobs, work)
    worker = _worker(jobs, processor, concurrency=1)
    async with _running(worker) as task:
        await asyncio.wait_for(asyncio.shield(task), 20)
    assert processor.ended == processor.begun


async def test_stop_with_nothing_to_do_ends_at_once() -> None:
    jobs = FakeJobs()
    worker = _worker(jobs, FakeProcessor(jobs, _briefly))
    async with _running(worker) as task:
        await asyncio.sleep(0.01)
        await _stopped(worker, task)


async def test_a_cancelled_worker_breaks_off_and_leaves_the_jobs_pending() -> None:
    jobs = FakeJobs(4)
    processor = FakeProcessor(jobs, lambda _job: asyncio.sleep(60))
    async with _running(_worker(jobs, processor)):
        await eventually(_all_begun(processor, 4))
    assert processor.now == 0
    assert len(jobs.pending) == 4


@pytest.mark.parametrize("trouble", [StoreUnavailable("gone"), Overloaded("store_waiting")], ids=type)
async def test_trouble_with_reading_and_claiming_is_survived(trouble: Exception) -> None:
    jobs = FakeJobs(8)
    jobs.troubles = [trouble]
    jobs.claim_troubles = [trouble, trouble]
    processor = FakeProcessor(jobs, _briefly)
    async with _running(_worker(jobs, processor)):
        await eventually(_all_ended(processor, 8))
        assert jobs.reads >= 2

        async def claims_again() -> bool:
            return jobs.claims > 2

        await eventually(claims_again)


async def test_claimed_jobs_are_worked_on_from_the_record_and_not_from_their_old_hint() -> None:
    payment = accepted()
    jobs = FakeJobs()
    jobs.to_claim = [Job(payment.id, payment, "1-0")]
    seen: list[Job] = []

    async def work(job: Job) -> None:
        seen.append(job)

    jobs.pending = [Job(payment.id, None, "1-0")]
    processor = FakeProcessor(jobs, work)
    async with _running(_worker(jobs, processor)):
        await eventually(_all_ended(processor, 1))

        async def has_looked_for_gone_consumers() -> bool:
            return jobs.forgets > 0

        await eventually(has_looked_for_gone_consumers)
    assert seen == [Job(payment.id, None, "1-0")]


async def test_a_read_job_keeps_its_hint() -> None:
    payment = accepted()
    jobs = FakeJobs(1, payment)
    processor = FakeProcessor(jobs, _briefly)
    async with _running(_worker(jobs, processor)):
        await eventually(_all_ended(processor, 1))
    assert processor.begun[0].hint is payment


async def test_two_workers_on_one_store_work_on_every_job_once(places: Places) -> None:
    """The real stream: each of them ends its jobs as it goes."""
    async with places.running() as one, places.running() as other:
        payments = [accepted(f"ord-{number}") for number in range(60)]
        await asyncio.gather(*(one.payments().create(payment, SEALED, due_ms=NOW) for payment in payments))
        worked_on: list[PaymentId] = []

        class Ending:
            """Ends each job."""

            async def process(self, job: Job) -> None:
                await asyncio.sleep(0.001)
                worked_on.append(job.payment_id)
                await one.payments().end_job(job)

        await one.jobs("a").open()
        workers = [
            Worker(
                store.jobs(name), Ending(), asyncio.Event(), concurrency=CONCURRENCY, claim_idle_s=30.0, poll_s=0.002
            )
            for store, name in ((one, "a"), (other, "b"))
        ]
        tasks = [asyncio.create_task(worker.run()) for worker in workers]

        async def all_done() -> bool:
            return len(worked_on) >= len(payments)

        await eventually(all_done)
        for worker in workers:
            worker.stop()
        await asyncio.wait_for(asyncio.gather(*tasks), 20)
        assert sorted(worked_on) == sorted(payment.id for payment in payments)
        assert sum([await one.ask("XLEN", shard.jobs) for shard in one.keys.shards]) == 0
