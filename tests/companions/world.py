"""What the tests of the user and order services share: publishers, a pretend engine, messages, a Redis of one's own."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
from aiohttp import web

from engine.events import Answer, OutgoingEvent, Refused
from engine.messages import Message
from engine.store.connect import RedisSettings, connect
from engine.store.records import RedisRecords
from tests.simulators.helpers import call
from tests.support import RedisServer

USER = "550e8400-e29b-41d4-a716-446655440001"


class Broker:
    """Takes events, or not: `answer` is what it says of each."""

    def __init__(self, answer: Answer = True) -> None:
        self.answer = answer
        self.told: list[OutgoingEvent] = []

    async def publish(self, events: Sequence[OutgoingEvent]) -> list[Answer]:
        """Remember, and answer."""
        self.told += events
        return [self.answer] * len(events)

    @property
    def types(self) -> list[str]:
        """What it was told of."""
        return [event.event_type for event in self.told]


NEVER = Refused("message_too_large")


@contextlib.asynccontextmanager
async def records(server: RedisServer, name: str = "orders", **settings: Any) -> AsyncIterator[RedisRecords]:
    """Records in a real Redis."""
    client = connect(RedisSettings(url=server.url, **settings))
    try:
        yield RedisRecords(client, name)
    finally:
        await client.aclose()


class PretendEngine:
    """Payments of known orders, and refunds that it remembers by their keys. `lose` answers are lost after acting."""

    def __init__(self, payments: dict[str, str], *, lose: int = 0, status: int = 201, retry: str = "never") -> None:
        """`payments` are order ids by payment id."""
        self.payments = payments
        self.lose = lose
        self.status, self.retry = status, retry
        self.refunds: dict[str, str] = {}
        self.stands = "completed"
        self.looked = 0
        """How often it was asked for a payment."""
        self.asked: list[str] = []
        self.bearers: set[str] = set()

    def app(self) -> web.Application:
        """Its two paths."""
        app = web.Application()
        app.add_routes(
            [web.get("/api/payments/{id}", self._payment), web.post("/api/payments/{id}/refund", self._refund)]
        )
        return app

    async def _payment(self, request: web.Request) -> web.Response:
        payment_id = request.match_info["id"]
        if payment_id not in self.payments:
            return web.json_response({"error": {"code": "PAYMENT_NOT_FOUND", "retry": "never"}}, status=404)
        self.looked += 1
        return web.json_response({"id": payment_id, "orderId": self.payments[payment_id], "status": self.stands})

    async def _refund(self, request: web.Request) -> web.Response:
        key = request.headers["Idempotency-Key"]
        self.asked.append(key)
        self.bearers.add(request.headers.get("Authorization", ""))
        if self.status != 201 or self.stands != "completed":
            status = self.status if self.status != 201 else 409
            error = {"code": "PAY_004", **({"retry": self.retry} if self.retry else {})}
            return web.json_response({"error": error}, status=status)
        refund_id = self.refunds.setdefault(key, f"ref-{request.match_info['id']}")
        if self.lose:
            self.lose -= 1
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({"id": refund_id, "status": "pending"}, status=201)


def completed(order_id: Any, payment_id: str = "pay-456", **changes: Any) -> Message:
    """The engine's event, as in the contract."""
    data = {"amount": 75.48, "currency": "USD", "transaction_id": "txn-789", "completed_at": "2023-01-01T00:02:30Z"}
    body = {
        "event_type": "payment_completed", "payment_id": payment_id, "order_id": order_id, "user_id": USER,
        "data": {**data, **changes.pop("data", {})}, **changes,
    }  # fmt: skip
    return message(body)


def failed(order_id: str, payment_id: str = "pay-455") -> Message:
    """The engine's event, as in the contract."""
    data = {"reason": "Insufficient funds", "error_code": "INSUFFICIENT_FUNDS", "failed_at": "2023-01-01T00:02:30Z"}
    return message({"event_type": "payment_failed", "payment_id": payment_id, "order_id": order_id, "data": data})


def message(body: Any) -> Message:
    """A message with this body, JSON unless it is bytes."""
    value = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Message("payment-service-events", 0, 0, value)


async def order(http: aiohttp.ClientSession, base: str, order_id: str) -> Any:
    """An order as it is now."""
    answer = await call(http, "GET", f"{base}/api/orders/{order_id}")
    assert answer.status == 200, answer
    return answer.body


async def metric(http: aiohttp.ClientSession, base: str, line: str) -> float:
    """The value of a series, 0 when there is none."""
    async with http.get(f"{base}/metrics") as response:
        found = [each for each in (await response.text()).splitlines() if each.startswith(f"{line} ")]
    return float(found[0].split()[-1]) if found else 0.0
