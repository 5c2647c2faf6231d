"""What the order service is told: the bodies of its requests, and the engine's events."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from simulators.order_moves import CANCELLED, CONFIRMED, PENDING, Item
from simulators.wire import Refusal

CENT: Final = Decimal("0.01")
LIMIT_DEFAULT: Final = 10
LIMIT_MAX: Final = 100
OFFSET_MAX: Final = 1_000_000
# At most two decimals and no exponent, as in the contract; read from the text, never through a float.
_PRICE: Final = re.compile(rb"[0-9]{1,10}(\.[0-9]{1,2})?")
_NUMBER: Final = re.compile(r"[0-9]{1,7}")
_STATUS: Final = re.compile(r"[a-z_]{1,32}")

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
OrderId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
PaymentId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,128}\Z")]
Status = Annotated[str, msgspec.Meta(pattern=r"^[a-z_]{1,32}\Z")]
Currency = Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}\Z")]
Quantity = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


class NewItem(msgspec.Struct, frozen=True, rename="camel"):
    """One line of a new order; the price still as its JSON text."""

    product_id: Text
    quantity: Quantity
    price: msgspec.Raw

    def item(self) -> Item:
        """The line with its price as a number."""
        text = bytes(self.price)
        if not _PRICE.fullmatch(text):
            raise Refusal(422, "INVALID_REQUEST", "price must be a number with at most two decimals")
        return Item(product_id=self.product_id, quantity=self.quantity, price=Decimal(text.decode()))


class NewOrder(msgspec.Struct, frozen=True, rename="camel"):
    """The body of `POST /api/orders`; the last three are for tests.

    User and items are checked by hand, because each has an error code of its own.
    """

    user_id: object = None
    items: list[NewItem] = []
    id: OrderId | None = None
    status: Status = PENDING
    currency: Currency = "USD"


class NewStatus(msgspec.Struct, frozen=True, rename="camel"):
    """The body of `PUT /api/orders/{id}/status`."""

    status: Literal["pending", "confirmed", "cancelled"]
    payment_id: PaymentId | None = None

    def __post_init__(self) -> None:
        if (self.payment_id is not None) != (self.status == CONFIRMED):
            raise ValueError(f"paymentId belongs to {CONFIRMED}, and only there")


class Edit(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The body of the test hook `POST /_orders/{id}`."""

    status: Status | UnsetType = UNSET
    payment_id: Text | UnsetType | None = UNSET


class Page(msgspec.Struct, frozen=True):
    """Which of a user's orders are asked for."""

    status: str | None
    limit: int
    offset: int


def page(query: dict[str, str]) -> Page:
    """The page that a query string asks for. Raises a 422."""
    status = query.get("status")
    if status is not None and not _STATUS.fullmatch(status):
        raise Refusal(422, "INVALID_REQUEST", f"status must be a status, {PENDING}, {CONFIRMED} or {CANCELLED} mostly")
    return Page(
        status, _number(query, "limit", LIMIT_DEFAULT, 1, LIMIT_MAX), _number(query, "offset", 0, 0, OFFSET_MAX)
    )


def _number(query: dict[str, str], name: str, default: int, low: int, high: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not (_NUMBER.fullmatch(text) and low <= int(text) <= high):
        raise Refusal(422, "INVALID_REQUEST", f"{name} must be {low} to {high}")
    return int(text)


class PaymentEvent(msgspec.Struct, frozen=True):
    """Any event of the engine."""

    event_type: str


class _Captured(msgspec.Struct, frozen=True):
    amount: Decimal
    currency: str


class PaymentCompleted(msgspec.Struct, frozen=True):
    """`payment_completed`: what was paid, by whom, and for which order if it was for one."""

    payment_id: PaymentId
    user_id: str
    data: _Captured
    order_id: str | None = None


class PaymentFailed(msgspec.Struct, frozen=True):
    """`payment_failed`."""

    payment_id: PaymentId
    order_id: str | None = None
