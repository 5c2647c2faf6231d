"""Finding payments for an operator, on whatever surface they were made."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from engine.errors import FieldRefused, PaymentNotFound
from engine.events import history
from engine.idempotency import KEY_LENGTH_MAX, KeyRecord
from engine.ids import PaymentId, qualified
from engine.notifications import Notification
from engine.payment import Payment
from handlers.console.snapshot import PaymentLine, payment_line
from handlers.console.timeline import PaymentPage, payment_page

FOUND_MAX: Final = 50
WAYS: Final = ("payment", "order", "user", "key")


class Payments(Protocol):
    """Where payments are."""

    async def get(self, payment_id: PaymentId) -> Payment | None: ...
    async def events_of(self, payment_id: PaymentId) -> list[bytes]: ...
    async def holder_of(self, order_key: str) -> PaymentId | None: ...
    async def of_user(self, user_key: str, *, limit: int, before: PaymentId | None) -> list[Payment]: ...
    async def key(self, digest: str) -> KeyRecord | None: ...


class Notifications(Protocol):
    """What people were told of events."""

    async def get(self, event_id: str) -> tuple[Notification, dict[str, str]] | None:
        """What was told of an event, and the state of each channel."""
        ...


class Digests(Protocol):
    """How a caller's idempotency key is called in the store."""

    def key_digest(self, caller: str, key: str) -> str: ...


class Lookup:
    """Reads only. Raises `StoreUnavailable` and `Overloaded` when it cannot."""

    def __init__(
        self, payments: Payments, notifications: Notifications, digests: Digests, surfaces: Sequence[str]
    ) -> None:
        self._payments = payments
        self._notifications = notifications
        self._digests = digests
        self._surfaces = tuple(surfaces)

    async def page(self, payment_id: str) -> PaymentPage:
        """A payment with its timeline. Raises `PaymentNotFound`."""
        payment = await self._payments.get(PaymentId(payment_id))
        if payment is None:
            raise PaymentNotFound("payment not found")
        events = history(payment, await self._payments.events_of(payment.id))
        told = await asyncio.gather(*(self._notifications.get(event.id) for event in events))
        return payment_page(payment, events, [each for each in told if each is not None])

    async def search(self, by: str, text: str, subject: str) -> list[PaymentLine]:
        """The payments of this id, order, user, or of this idempotency key of `subject`. Raises `FieldRefused`.

        An order shows the payment that holds it; one that has failed has let go of it.
        """
        _check("q", text)
        match by:
            case "payment":
                found = [await self._payments.get(PaymentId(text))]
            case "order":
                found = await self._of_order(text)
            case "user":
                found = await self._of_user(text)
            case "key":
                _check("subject", subject)
                found = [await self._of_key(subject, text)]
            case _:
                raise FieldRefused(f"by must be one of {', '.join(WAYS)}", field="by")
        lines = [payment_line(payment) for payment in found if payment is not None]
        return sorted(lines, key=lambda line: line.id, reverse=True)[:FOUND_MAX]

    async def _of_order(self, order_id: str) -> list[Payment | None]:
        names = (qualified(surface, order_id) for surface in self._surfaces)
        holders = await asyncio.gather(*(self._payments.holder_of(name) for name in names))
        return await asyncio.gather(*(self._payments.get(holder) for holder in holders if holder is not None))

    async def _of_user(self, user_id: str) -> list[Payment | None]:
        found: list[Payment | None] = []
        # One after the other: each asks every shard.
        for surface in self._surfaces:
            found += await self._payments.of_user(qualified(surface, user_id), limit=FOUND_MAX, before=None)
        return found

    async def _of_key(self, subject: str, key: str) -> Payment | None:
        record = await self._payments.key(self._digests.key_digest(subject, key))
        return await self._payments.get(record.payment_id) if record else None


def _check(field: str, text: str) -> None:
    if not 1 <= len(text) <= KEY_LENGTH_MAX or not text.isprintable():
        raise FieldRefused(f"{field} must have 1 to {KEY_LENGTH_MAX} printable characters", field=field)
