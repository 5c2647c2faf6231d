"""Workers: bounded, undisturbed by one broken job, and finishing what they took."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from engine.changes import Job
from engine.errors import Overloaded, StoreUnavailable
from engine.ids import PaymentId
from engine.worker import Worker
from tests.engine.making import a_payment
from tests.engine.running import until


def a_job(number: int) -> Job:
    return Job(PaymentId(f"pay-{number}"), a_payment(), f"{number}-0")


class FakeJobs:
    """A stream of jobs, and jobs that somebody dead has left."""

    def __init__(self, *jobs: Job) -> None:
        self.stream = list(jobs)
        self.abandoned: list[Job] = []
        self.read_counts: list[int] = []
        self.claims: list[int] = []
        self.swept = 0
        self.error: Exception | None = None

    async def read(self, count: int) -> list[Job]:
        await asyncio.sleep(0)
        self.read_counts.append(count)
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        taken, self.stream = self.stream[:count], self.stream[count:]
        return taken

    async def claim(self, *, idle_ms: int) -> list[Job]:
        await asyncio.sleep(0)
        self.claims.append(idle_ms)
        taken, self.abandoned = self.abandoned, []
        return taken

    async def forget_gone_consumers(self) -> None:
        self.swept += 1


class FakeProcessor:
    """Works until it is told to finish, and counts how many it works on at once."""

    def __init__(self) -> None:
        self.done: list[Job] = []
        self.begun: list[Job] = []
        self.busy = self.busy_max = 0
        self.go = asyncio.Event()
        self.errors: dict[str, Exception] = {}

    async def process(self, job: Job) -> None:
        self.begun.append(job)
        self.busy += 1
        self.busy_max = max(self.busy, self.busy_max)
        try:
            await self.go.wait()
            if error := self.errors.get(job.payment_id):
                raise error
            self.done.append(job)
        finally:
            self.busy -= 1


def a_worker(jobs: FakeJobs, processor: FakeProcessor, *, concurrency: int = 2, claim_every_s: float = 5.0) -> Worker:
    return Worker(
        jobs, processor, concurrency=concurrency, claim_idle_s=30.0,
        poll_s=0.001, poll_idle_max_s=0.002, claim_every_s=claim_every_s,
    )  # fmt: skip


async def stopped(worker: Worker, running: asyncio.Task[None]) -> None:
    worker.stop()
    async with asyncio.timeout(5):
        await running


@pytest.fixture
async def processor() -> FakeProcessor:
    return FakeProcessor()


async def test_jobs_are_worked_on_so_many_at_once_and_twice_so_many_are_taken(processor: FakeProcessor) -> None:
    jobs = FakeJobs(*map(a_job, range(20)))
    worker = a_worker(jobs, processor)
    running = asyncio.create_task(worker.run())
    await until(lambda: len(jobs.stream) <= 16)
    await asyncio.sleep(0.02)
    assert len(processor.begun) == 2 and len(jobs.stream) == 16, "what is not taken is left for other processes"
    processor.go.set()
    await until(lambda: len(processor.done) == 20)
    assert processor.busy_max == 2 and max(jobs.read_counts) <= 2
    await stopped(worker, running)


async def test_a_stop_finishes_what_was_taken_and_takes_no_more(processor: FakeProcessor) -> None:
    jobs = FakeJobs(*map(a_job, range(20)))
    worker = a_worker(jobs, processor)
    running = asyncio.create_task(worker.run())
    await until(lambda: len(jobs.stream) == 16)
    worker.stop()
    await asyncio.sleep(0.01)
    assert not running.done() and not worker.idle
    processor.go.set()
    async with asyncio.timeout(5):
        await running
    assert len(processor.done) == 4 and len(jobs.stream) == 16 and worker.idle


async def test_a_stop_of_an_idle_worker_is_immediate(processor: FakeProcessor) -> None:
    worker = a_worker(FakeJobs(), processor)
    running = asyncio.create_task(worker.run())
    await asyncio.sleep(0.01)
    assert worker.idle
    await stopped(worker, running)


@pytest.mark.parametrize(
    ("error", "line"),
    [(StoreUnavailable("away"), "job left for later"), (Overloaded("jobs"), "job left for later"),
     (ZeroDivisionError(), "job broke")],
)  # fmt: skip
async def test_a_job_that_breaks_does_not_disturb_the_others(
    processor: FakeProcessor, error: Exception, line: str, log_lines: list[MutableMapping[str, Any]]
) -> None:
    jobs = FakeJobs(*map(a_job, range(6)))
    processor.errors = {"pay-0": error, "pay-3": error}
    processor.go.set()
    worker = a_worker(jobs, processor)
    running = asyncio.create_task(worker.run())
    await until(lambda: len(processor.done) == 4)
    await stopped(worker, running)
    assert [(entry["event"], entry["payment_id"]) for entry in log_lines] == [(line, "pay-0"), (line, "pay-3")]


async def test_jobs_of_the_dead_are_claimed_and_read_anew(processor: FakeProcessor) -> None:
    """Their hint is as old as their first worker."""
    jobs = FakeJobs()
    jobs.abandoned = [a_job(1)]
    processor.go.set()
    worker = a_worker(jobs, processor, claim_every_s=0.005)
    running = asyncio.create_task(worker.run())
    await until(lambda: bool(processor.done) and jobs.swept > 0)
    await stopped(worker, running)
    assert processor.done == [a_job(1)._replace(hint=None)] and set(jobs.claims) == {30_000}


async def test_a_store_that_does_not_answer_is_asked_again(
    processor: FakeProcessor, log_lines: list[MutableMapping[str, Any]]
) -> None:
    jobs = FakeJobs(a_job(1))
    jobs.error = StoreUnavailable("away")
    processor.go.set()
    worker = a_worker(jobs, processor)
    running = asyncio.create_task(worker.run())
    await until(lambda: bool(processor.done))
    await stopped(worker, running)
    assert log_lines[0]["event"] == "cannot read jobs"


async def test_a_cancelled_worker_cancels_its_jobs_at_once(processor: FakeProcessor) -> None:
    worker = a_worker(FakeJobs(*map(a_job, range(4))), processor)
    running = asyncio.create_task(worker.run())
    await until(lambda: len(processor.begun) == 2)
    running.cancel()
    await asyncio.wait([running], timeout=5)
    assert running.cancelled() and processor.busy == 0 and processor.done == []
