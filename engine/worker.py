"""Workers: take jobs from the stream into a bounded channel, and process them at most so many at once."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

import structlog

from engine.changes import Job
from engine.errors import Overloaded, StoreUnavailable


class Jobs(Protocol):
    """Where jobs come from."""

    async def read(self, count: int) -> list[Job]: ...
    async def claim(self, *, idle_ms: int) -> list[Job]: ...
    async def forget_gone_consumers(self) -> None: ...


class Processor(Protocol):
    """What is done with a job. Ending it is part of that."""

    async def process(self, job: Job) -> None: ...


class Worker:
    """Reads, claims and processes jobs until `stop()`; then finishes what it has begun.

    `made` is set by whoever makes a job in this process: an idle worker then reads at once. Jobs of other processes are
    seen with the next look.
    """

    def __init__(
        self,
        jobs: Jobs,
        processor: Processor,
        made: asyncio.Event,
        *,
        concurrency: int,
        claim_idle_s: float,
        poll_s: float = 0.01,
        poll_idle_max_s: float = 0.05,
        claim_every_s: float = 5.0,
    ) -> None:
        self._jobs = jobs
        self._processor = processor
        self._made = made
        self._concurrency = concurrency
        self._claim_idle_ms = int(claim_idle_s * 1000)
        self._poll_s = poll_s
        self._poll_idle_max_s = poll_idle_max_s
        self._claim_every_s = claim_every_s
        # As many may wait as are worked on: enough to keep everybody busy, too few to grow old.
        self._channel: asyncio.Queue[Job] = asyncio.Queue(maxsize=concurrency)
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._busy = 0

    @property
    def idle(self) -> bool:
        """Whether nothing is being worked on or waiting here."""
        return self._busy == 0 and self._channel.empty()

    def stop(self) -> None:
        """Take no more jobs from the stream."""
        self._stopping.set()

    async def run(self) -> None:
        """Work until stopped and drained, or cancelled (then what was under way is asked about later)."""
        async with asyncio.TaskGroup() as tasks:
            hands = [tasks.create_task(self._work()) for _ in range(self._concurrency)]
            reading = tasks.create_task(self._read_for_ever())
            claiming = tasks.create_task(self._claim_for_ever())
            await self._stopping.wait()
            reading.cancel()
            claiming.cancel()
            # What was taken from the stream is finished too: left there, it would wait for another to claim it.
            await self._drained()
            for hand in hands:
                hand.cancel()

    async def _drained(self) -> None:
        while not self.idle:
            self._ended.clear()
            await self._ended.wait()

    async def _work(self) -> None:
        while True:
            job = await self._channel.get()
            self._busy += 1
            try:
                await self._processor.process(job)
            except (StoreUnavailable, Overloaded) as error:
                structlog.get_logger().warning("job left for later", payment_id=job.payment_id, reason=str(error))
            except Exception:
                # A bug must not stop the others; the payment is looked at again when its lease is over.
                structlog.get_logger().exception("job broke", payment_id=job.payment_id)
            finally:
                self._busy -= 1
                self._ended.set()

    async def _read_for_ever(self) -> None:
        pause_s = self._poll_s
        while True:
            free = self._channel.maxsize - self._channel.qsize()
            try:
                jobs = await self._jobs.read(free) if free else []
            except (StoreUnavailable, Overloaded) as error:
                structlog.get_logger().warning("cannot read jobs", reason=str(error))
                await asyncio.sleep(1.0)
                continue
            for job in jobs:
                await self._channel.put(job)
            pause_s = self._poll_s if jobs or not free else min(pause_s * 1.5, self._poll_idle_max_s)
            await self._pause(pause_s)

    async def _pause(self, pause_s: float) -> None:
        if not self.idle:
            # Under load jobs are better read together.
            await asyncio.sleep(pause_s)
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._made.wait()
        self._made.clear()

    async def _claim_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._claim_every_s)
            try:
                for job in await self._jobs.claim(idle_ms=self._claim_idle_ms):
                    # The hint is as old as its first worker: the record is read anew.
                    await self._channel.put(job._replace(hint=None))
                await self._jobs.forget_gone_consumers()
            except (StoreUnavailable, Overloaded) as error:
                structlog.get_logger().warning("cannot claim jobs", reason=str(error))
