"""What an order is, and how its status may move.

| from | to | what comes with it |
|---|---|---|
| `pending` | `confirmed` | its payment, `order_confirmed` |
| `pending` | `cancelled` | `order_cancelled` |
| `confirmed` | `cancelled` | `order_cancelled`, and its payment is to be refunded |
| `cancelled` | `cancelled` | a payment that completed nevertheless is to be refunded |

Each function gives the order as it is then, or the same one when nothing changes.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

from simulators.telling import Event, Record, event
from simulators.wire import Refusal

PENDING: Final = "pending"
CONFIRMED: Final = "confirmed"
CANCELLED: Final = "cancelled"

ORDER_CREATED: Final = "order_created"
ORDER_CONFIRMED: Final = "order_confirmed"
ORDER_CANCELLED: Final = "order_cancelled"


class Item(msgspec.Struct, frozen=True, rename="camel"):
    """One line of an order."""

    product_id: str
    quantity: int
    price: Decimal


class Refund(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A payment that goes back. `pending`: the engine is to be asked; `asked`: it has taken it up; or it `refused`."""

    payment_id: str
    status: Literal["pending", "asked", "refused"] = msgspec.field(default_factory=lambda: PENDING)
    refund_id: str | None = None
    code: str | None = None
    """Why it refused."""


class Order(Record, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An order as kept; shown without its events."""

    user_id: str
    items: tuple[Item, ...]
    status: str
    total_amount: Decimal
    currency: str
    created_at: str
    payment_id: str | None = None
    updated_at: str | None = None
    cancelled_at: str | None = None
    refunds: tuple[Refund, ...] = ()

    def view(self) -> Order:
        """The order as shown."""
        return replace(self, events=(), published=0)

    @property
    def owed(self) -> tuple[Refund, ...]:
        """What the engine is still to be asked for."""
        return tuple(refund for refund in self.refunds if refund.status == PENDING)


def created(order: Order) -> Order:
    """A new order, with the event that tells of it."""
    data = {"total_amount": order.total_amount, "items": order.items, "created_at": order.created_at}
    body = {"order_id": order.id, "user_id": order.user_id, "data": data}
    return replace(order, events=(event(ORDER_CREATED, order.created_at, body),))


def confirmed(order: Order, payment_id: str, at: str) -> Order:
    """The order, paid. Raises `ORDER_004` when it is cancelled, or paid by another payment."""
    if order.status == CONFIRMED and order.payment_id == payment_id:
        return order
    if order.status != PENDING:
        raise _not_modifiable(order, CONFIRMED)
    body = {"order_id": order.id, "data": {"payment_id": payment_id, "confirmed_at": at}}
    return _moved(order, CONFIRMED, at, event(ORDER_CONFIRMED, at, body), payment_id=payment_id)


def cancelled(order: Order, at: str) -> Order:
    """The order, cancelled, and its payment to be refunded if it has one. Raises `ORDER_004`."""
    if order.status == CANCELLED:
        return order
    if order.status not in {PENDING, CONFIRMED}:
        raise _not_modifiable(order, CANCELLED)
    refunds = (Refund(order.payment_id),) if order.payment_id else ()
    body = {"order_id": order.id, "user_id": order.user_id, "data": {"cancelled_at": at}}
    told = event(ORDER_CANCELLED, at, body)
    return _moved(order, CANCELLED, at, told, cancelled_at=at, refunds=refunds)


def paid_too_late(order: Order, payment_id: str, at: str) -> Order:
    """A cancelled order whose payment completed nevertheless: that is to be refunded, once."""
    if any(refund.payment_id == payment_id for refund in order.refunds):
        return order
    return replace(
        order, payment_id=order.payment_id or payment_id, refunds=(*order.refunds, Refund(payment_id)), updated_at=at
    )


def answered(order: Order, refund: Refund) -> Order:
    """The order with the engine's word on one of its refunds."""
    refunds = tuple(refund if each.payment_id == refund.payment_id else each for each in order.refunds)
    return replace(order, refunds=refunds)


def _moved(order: Order, status: str, at: str, told: Event, **more: object) -> Order:
    return replace(order, status=status, updated_at=at, events=(*order.events, told), **more)


def _not_modifiable(order: Order, to: str) -> Refusal:
    return Refusal(409, "ORDER_004", f"Order cannot be modified: it is {order.status} and cannot become {to}")
