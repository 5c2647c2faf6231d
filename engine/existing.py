"""Whether the user and the order of a payment exist, as the gateway tells."""

from __future__ import annotations

import asyncio
from typing import Protocol

from engine.errors import OrderNotFound, UserNotFound
from engine.recording import RecordPayment


class Lookup(Protocol):
    """Tells whether something exists."""

    def known(self, identifier: str) -> bool:
        """Whether it was there a moment ago."""
        ...

    async def exists(self, identifier: str) -> bool:
        """Whether it is there. Raises a `TryLater` when nobody can tell."""
        ...


class ExistenceChecks:
    """Asks for the user and for the order at once."""

    def __init__(self, users: Lookup, orders: Lookup) -> None:
        self._users = users
        self._orders = orders

    async def check(self, wanted: RecordPayment) -> None:
        """Raises `UserNotFound` or `OrderNotFound`."""
        user_id, order_id = str(wanted.user_id), str(wanted.order_id)
        if self._users.known(user_id):
            user, order = True, await self._orders.exists(order_id)
        else:
            user, order = await self._ask_both(user_id, order_id)
        if not user:
            raise UserNotFound("User not found", userId=wanted.user_id)
        if not order:
            raise OrderNotFound("Order not found", orderId=wanted.order_id)

    async def _ask_both(self, user_id: str, order_id: str) -> tuple[bool, bool]:
        try:
            async with asyncio.TaskGroup() as both:
                user = both.create_task(self._users.exists(user_id))
                order = both.create_task(self._orders.exists(order_id))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        return user.result(), order.result()
