"""Whether an order may be paid: its user and the order itself, as the services that own them tell."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

import msgspec

from engine.accepting import AcceptPayment
from engine.errors import AlreadyProcessed, AmountRefused, OrderMismatch, OrderNotFound, UserInactive, UserNotFound
from engine.money import parse_amount

_PAYABLE: Final = "pending"


class User(msgspec.Struct, frozen=True):
    """What the engine needs to know of a user."""

    id: str
    active: bool


class Order(msgspec.Struct, frozen=True):
    """What the engine needs to know of an order. `total` is a JSON number's text; `currency` may be left open."""

    id: str
    user_id: str
    status: str
    total: str
    currency: str | None
    payment_id: str | None


class Users(Protocol):
    """The user service."""

    def cached(self, user_id: str) -> User | None:
        """A user that was asked for a moment ago."""
        ...

    async def get(self, user_id: str) -> User | None:
        """The user, or None if unknown. Raises `UserServiceUnavailable` or `BadUpstreamAnswer`."""
        ...


class Orders(Protocol):
    """The order service."""

    async def get(self, order_id: str) -> Order | None:
        """The order, or None if unknown. Raises `OrderServiceUnavailable` or `BadUpstreamAnswer`."""
        ...


class OrderChecks:
    """Asks the user service and the order service at once."""

    def __init__(self, users: Users, orders: Orders) -> None:
        self._users = users
        self._orders = orders

    async def check(self, wanted: AcceptPayment) -> None:
        """Raises a refusal when the user may not pay, or not this order, or not this amount."""
        user = self._users.cached(wanted.user_id)
        if user is None:
            user, order = await self._ask_both(wanted)
        else:
            order = await self._orders.get(wanted.order_id)
        if user is None:
            raise UserNotFound("user not found", userId=wanted.user_id)
        if not user.active:
            raise UserInactive("the user is not active", userId=wanted.user_id)
        _check_order(order, wanted)

    async def _ask_both(self, wanted: AcceptPayment) -> tuple[User | None, Order | None]:
        try:
            async with asyncio.TaskGroup() as both:
                user = both.create_task(self._users.get(wanted.user_id))
                order = both.create_task(self._orders.get(wanted.order_id))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        return user.result(), order.result()


def _check_order(order: Order | None, wanted: AcceptPayment) -> None:
    if order is None or order.user_id != wanted.user_id:
        raise OrderNotFound("order not found", orderId=wanted.order_id)
    if order.status != _PAYABLE or order.payment_id:
        raise AlreadyProcessed("the order cannot be paid", orderId=order.id, orderStatus=order.status)
    if order.currency is not None and order.currency != wanted.amount.currency:
        raise OrderMismatch("currency is not the order's", field="currency")
    try:
        total = parse_amount(order.total, wanted.amount.currency)
    except AmountRefused:
        total = None
    if total != wanted.amount:
        raise OrderMismatch("amount is not the order's", field="amount")
