"""When a worker reads jobs: at once when it has nothing to do and one is made here, else with its next look."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from engine.changes import Job
from engine.worker import Worker
from tests.engine.making import PAYMENT_ID

LONG_S = 3600.0
"""Nobody waits for this: a test in which it is waited for does not end in time."""
SOON_S = 60.0


class Stream:
    """Jobs that wait, and how often somebody has looked."""

    def __init__(self) -> None:
        self.waiting: list[Job] = []
        self.looks = 0
        self.looked = asyncio.Event()

    async def read(self, count: int) -> list[Job]:
        self.looks += 1
        self.looked.set()
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        return taken

    async def claim(self, *, idle_ms: int) -> list[Job]:
        return []

    async def forget_gone_consumers(self) -> None:
        return


class Bench:
    """Where jobs are worked on, as long as the test likes."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[str] = asyncio.Queue()
        self.go_on = asyncio.Event()

    async def process(self, job: Job) -> None:
        self.begun.put_nowait(job.entry_id)
        await self.go_on.wait()


@contextlib.asynccontextmanager
async def working(stream: Stream, bench: Bench, made: asyncio.Event, *, poll_s: float) -> AsyncIterator[None]:
    """A worker that has looked once and found nothing."""
    worker = Worker(
        stream, bench, made, concurrency=4, claim_idle_s=30, poll_s=poll_s, poll_idle_max_s=LONG_S, claim_every_s=LONG_S
    )  # fmt: skip
    running = asyncio.create_task(worker.run())
    try:
        async with asyncio.timeout(SOON_S):
            await stream.looked.wait()
            yield
            bench.go_on.set()
            worker.stop()
            await running
    finally:
        running.cancel()


async def test_an_idle_worker_begins_a_job_that_is_made_here_at_once() -> None:
    stream, bench, made = Stream(), Bench(), asyncio.Event()
    async with working(stream, bench, made, poll_s=LONG_S):
        stream.waiting.append(Job(PAYMENT_ID, None, "1-0"))
        made.set()
        assert await bench.begun.get() == "1-0"


async def test_a_job_that_another_process_has_made_is_seen_with_the_next_look() -> None:
    stream, bench, made = Stream(), Bench(), asyncio.Event()
    async with working(stream, bench, made, poll_s=0.01):
        stream.waiting.append(Job(PAYMENT_ID, None, "1-0"))
        assert await bench.begun.get() == "1-0"


async def test_a_busy_worker_reads_jobs_together() -> None:
    """Each job that is made would cost a look of its own."""
    stream, bench, made = Stream(), Bench(), asyncio.Event()
    async with working(stream, bench, made, poll_s=LONG_S):
        stream.waiting.append(Job(PAYMENT_ID, None, "1-0"))
        made.set()
        await bench.begun.get()
        looks = stream.looks
        for number in range(2, 5):
            stream.waiting.append(Job(PAYMENT_ID, None, f"{number}-0"))
            made.set()
            await asyncio.sleep(0.01)
        assert stream.looks == looks
