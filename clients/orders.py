"""The order service. Orders change, so they are asked for every time."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from clients.http import HttpCounterparty, url_for
from engine.checking import Order
from engine.errors import BadUpstreamAnswer, OrderServiceUnavailable
from resilience.errors import BadAnswer, CounterpartyError, Refused

_NOT_FOUND: Final = 404
_OK: Final = 200
# A sum of money as a JSON number: a text, null or a negative one is the service's mistake, not the payer's.
_SUM: Final = re.compile(rb"(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,18})?(?:[eE][+-]?[0-9]{1,2})?")


class _OrderBody(msgspec.Struct, rename="camel"):
    """What we read of the contract's order. The amount stays text: a float would change it."""

    id: str | int
    user_id: str | int
    status: str
    total_amount: msgspec.Raw
    currency: str | None = None
    payment_id: str | int | None = None


_decode = msgspec.json.Decoder(_OrderBody).decode


class OrderService:
    """Orders by id."""

    def __init__(self, counterparty: HttpCounterparty, url_template: str) -> None:
        self._counterparty = counterparty
        self._url_template = url_template

    async def get(self, order_id: str) -> Order | None:
        """The order, or None if unknown. Raises `OrderServiceUnavailable` or `BadUpstreamAnswer`."""

        def read(status: int, body: bytes) -> Order | None:
            if status == _NOT_FOUND:
                return None
            order = _decode(body) if status == _OK else None
            if order is None or str(order.id) != order_id:
                raise ValueError("not the order that was asked for")
            if not _SUM.fullmatch(order.total_amount):
                raise ValueError("its total is not a sum of money")
            return Order(
                id=order_id,
                user_id=str(order.user_id),
                status=order.status,
                total=bytes(order.total_amount).decode(),
                currency=order.currency,
                payment_id=None if order.payment_id is None else str(order.payment_id),
            )

        try:
            url = url_for(self._url_template, order_id)
            return await self._counterparty.call("GET", url, read, idempotent=True)
        except Refused as error:
            raise OrderServiceUnavailable(
                "the order service is not asked now", retry_after_s=error.retry_after_s, counterparty="order_service"
            ) from error
        except BadAnswer as error:
            raise BadUpstreamAnswer("the order service gave no usable answer", counterparty="order_service") from error
        except CounterpartyError as error:
            raise OrderServiceUnavailable("the order service does not answer", counterparty="order_service") from error
