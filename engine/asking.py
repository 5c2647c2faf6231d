"""Asking about one payment for many at once: a hundred browsers that poll are one question at the counterparty."""

from __future__ import annotations

import asyncio
from typing import Protocol

from engine.changes import Job
from engine.ids import PaymentId


class Asking(Protocol):
    """Takes payments an attempt further."""

    async def process(self, job: Job) -> None: ...


class TogetherAsking:
    """Whoever asks about a payment that is being asked about waits for that answer. For one event loop."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._under_way: dict[PaymentId, asyncio.Task[None]] = {}

    async def process(self, job: Job) -> None:
        """Ask, or wait for who does. Raises what the question raised."""
        payment_id = job.payment_id
        task = self._under_way.get(payment_id)
        if task is None:
            task = asyncio.create_task(self._asking.process(job))
            self._under_way[payment_id] = task
            task.add_done_callback(lambda done: self._over(payment_id, done))
        # Shielded: one who goes away must not take the answer from the others.
        await asyncio.shield(task)

    def _over(self, payment_id: PaymentId, done: asyncio.Task[None]) -> None:
        del self._under_way[payment_id]
        if not done.cancelled():
            done.exception()  # seen, also when nobody waits any more
