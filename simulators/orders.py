"""A pretend order service: real orders with exact totals, kept in a journal, over the order service's contract."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from simulators.base import Clock, Simulator, coded_error, timestamp, utc_now
from simulators.wire import Refusal, decode, reply

CENT = Decimal("0.01")
# At most two decimals and no exponent, as in the contract; read from the text, never through a float.
_PRICE = re.compile(rb"[0-9]{1,10}(\.[0-9]{1,2})?")

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
OrderId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
Status = Annotated[str, msgspec.Meta(pattern=r"^[a-z_]{1,32}\Z")]
Currency = Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}\Z")]
Quantity = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


class NewItem(msgspec.Struct, frozen=True, rename="camel"):
    """One line of a new order; the price still as its JSON text."""

    product_id: Text
    quantity: Quantity
    price: msgspec.Raw


class NewOrder(msgspec.Struct, frozen=True, rename="camel"):
    """The body of `POST /api/orders`; the last three are for tests.

    User and items are checked by hand, because each has an error code of its own.
    """

    user_id: object = None
    items: list[NewItem] = []
    id: OrderId | None = None
    status: Status = "pending"
    currency: Currency = "USD"


class Item(msgspec.Struct, frozen=True, rename="camel"):
    """One line of an order."""

    product_id: str
    quantity: int
    price: Decimal


class Order(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """An order as kept and shown."""

    id: str
    user_id: str
    items: list[Item]
    status: str
    total_amount: Decimal
    currency: str
    created_at: str
    payment_id: str | None = None
    updated_at: str | None = None


class Edit(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The body of the test hook `POST /_orders/{id}`."""

    status: Status | UnsetType = UNSET
    payment_id: Text | UnsetType | None = UNSET


def _item(wanted: NewItem) -> Item:
    text = bytes(wanted.price)
    if not _PRICE.fullmatch(text):
        raise Refusal(422, "INVALID_REQUEST", "price must be a number with at most two decimals")
    return Item(product_id=wanted.product_id, quantity=wanted.quantity, price=Decimal(text.decode()))


def _new_order_id() -> str:
    return f"order-{secrets.token_hex(8)}"


class OrderServiceSim(Simulator[Order]):
    """The order service: create an order, read it, and a hook to change it behind the engine's back."""

    def __init__(
        self, journal_path: Path | None, *, clock: Clock = utc_now, new_id: Callable[[], str] = _new_order_id
    ) -> None:
        super().__init__(journal_path, Order, coded_error)
        self._clock, self._new_id = clock, new_id
        self._new_order = msgspec.json.Decoder(NewOrder)
        self._edit = msgspec.json.Decoder(Edit)
        self._orders: dict[str, Order] = {}

    def _routes(self) -> list[web.RouteDef]:
        return [
            web.post("/api/orders", self._create),
            web.get("/api/orders/{id}", self._read),
            web.get("/internal/orders/{id}", self._read),
            web.post("/_orders/{id}", self._change),
        ]

    def _restore(self, records: list[Order]) -> None:
        self._orders = {order.id: order for order in records}

    def _keep(self, order: Order) -> Order:
        self._journal.append(order)
        self._orders[order.id] = order
        return order

    async def _create(self, request: web.Request) -> web.Response:
        wanted = await decode(request, self._new_order)
        if not isinstance(wanted.user_id, str) or not wanted.user_id:
            raise Refusal(422, "ORDER_001", "Invalid user ID")
        if not wanted.items:
            raise Refusal(422, "ORDER_002", "Empty order items")
        items = [_item(item) for item in wanted.items]
        order = Order(
            id=wanted.id or self._new_id(),
            user_id=wanted.user_id,
            items=items,
            status=wanted.status,
            total_amount=sum((item.price * item.quantity for item in items), Decimal(0)).quantize(CENT),
            currency=wanted.currency,
            created_at=timestamp(self._clock()),
        )
        if order.id in self._orders:
            raise Refusal(409, "ID_TAKEN", "Id already exists")
        return reply(201, self._keep(order))

    async def _read(self, request: web.Request) -> web.Response:
        return reply(200, self._find(request))

    async def _change(self, request: web.Request) -> web.Response:
        edit = await decode(request, self._edit)
        order = self._find(request)
        changed = Order(
            id=order.id,
            user_id=order.user_id,
            items=order.items,
            status=order.status if edit.status is UNSET else edit.status,
            total_amount=order.total_amount,
            currency=order.currency,
            created_at=order.created_at,
            payment_id=order.payment_id if edit.payment_id is UNSET else edit.payment_id,
            updated_at=timestamp(self._clock()),
        )
        return reply(200, self._keep(changed))

    def _find(self, request: web.Request) -> Order:
        order = self._orders.get(request.match_info["id"])
        if order is None:
            raise Refusal(404, "ORDER_003", "Order not found")
        return order
