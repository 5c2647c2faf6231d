"""Waking within a process: who waits for work, or for a payment to change, need not wait for the next look.

Only a hint. What is true stands in the store, and another process may have done it; so everybody who waits here looks
there too, from time to time.
"""

from __future__ import annotations

import asyncio

from engine.payment import Payment


class Changed:
    """Tells those who wait for a payment that this process has just changed it."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[asyncio.Future[Payment]]] = {}

    def tell(self, payment: Payment) -> None:
        """This is what the payment has become, and the store has it."""
        for waiting in self._waiting.pop(payment.id, ()):
            if not waiting.done():
                waiting.set_result(payment)

    async def next(self, payment_id: str, *, within_s: float) -> Payment | None:
        """The payment after its next change here. None: there was none in time."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[Payment] = loop.create_future()
        self._waiting.setdefault(payment_id, []).append(waiting)
        timer = loop.call_later(within_s, waiting.cancel)
        try:
            return await waiting
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not waiting.cancelled() or (task is not None and task.cancelling()):
                raise
            return None
        finally:
            timer.cancel()
            self._forget(payment_id, waiting)

    def _forget(self, payment_id: str, waiting: asyncio.Future[Payment]) -> None:
        others = self._waiting.get(payment_id, [])
        if waiting in others:
            others.remove(waiting)
            if not others:
                del self._waiting[payment_id]
