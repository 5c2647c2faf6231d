"""The order service over its contract, with money that is exact to the cent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from simulators.orders import OrderServiceSim
from simulators.server import serve
from tests.simulators.helpers import an_order, call

MOMENT = datetime(2023, 1, 1, tzinfo=UTC)


@pytest.fixture
async def base() -> AsyncIterator[str]:
    """A served order service whose clock stands still."""
    async with serve(OrderServiceSim(None, clock=lambda: MOMENT)) as url:
        yield url


async def test_a_new_order_is_answered_as_in_the_contract(http: aiohttp.ClientSession, base: str) -> None:
    answer = await call(http, "POST", f"{base}/api/orders", an_order())
    assert answer.status == 201
    assert answer.body["id"].startswith("order-")
    assert {**answer.body, "id": ""} == {
        "id": "",
        "userId": "550e8400-e29b-41d4-a716-446655440001",
        "items": an_order()["items"],
        "status": "pending",
        "totalAmount": 75.48,
        "currency": "USD",
        "createdAt": "2023-01-01T00:00:00.000Z",
    }


@pytest.mark.parametrize(
    ("items", "total"),
    [
        ([(2, "29.99"), (1, "15.50")], "75.48"),
        ([(1, "0.10"), (1, "0.20")], "0.30"),
        ([(3, "0.1")], "0.30"),
        ([(1, "9007199254.99"), (1, "0.01")], "9007199255.00"),
        ([(999_999, "9999999999.99")], "9999989999990000.01"),
        ([(1, "10")], "10.00"),
        ([(1, "0")], "0.00"),
    ],
)
async def test_the_total_is_exact_and_has_two_decimals_on_the_wire(
    http: aiohttp.ClientSession, base: str, items: list[tuple[int, str]], total: str
) -> None:
    lines = ",".join(f'{{"productId":"p","quantity":{count},"price":{price}}}' for count, price in items)
    response = await http.post(f"{base}/api/orders", data=f'{{"userId":"u","items":[{lines}]}}')
    text = await response.text()
    assert response.status == 201
    assert f'"totalAmount":{total},' in text
    assert f'"price":{items[0][1]}' in text
    assert Decimal(total) == sum(count * Decimal(price) for count, price in items)


async def test_ids_are_unique(http: aiohttp.ClientSession, base: str) -> None:
    answers = await asyncio.gather(*(call(http, "POST", f"{base}/api/orders", an_order()) for _ in range(20)))
    assert len({answer.body["id"] for answer in answers}) == 20


@pytest.mark.parametrize("path", ["api", "internal"])
async def test_an_order_is_read_back(http: aiohttp.ClientSession, base: str, path: str) -> None:
    created = (await call(http, "POST", f"{base}/api/orders", an_order())).body
    answer = await call(http, "GET", f"{base}/{path}/orders/{created['id']}")
    assert (answer.status, answer.body) == (200, created)


@pytest.mark.parametrize("path", ["api", "internal"])
async def test_an_unknown_order_is_404(http: aiohttp.ClientSession, base: str, path: str) -> None:
    answer = await call(http, "GET", f"{base}/{path}/orders/order-123")
    assert (answer.status, answer.body) == (404, {"error": {"code": "ORDER_003", "message": "Order not found"}})


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"userId": None}, "ORDER_001"),
        ({"userId": ""}, "ORDER_001"),
        ({"userId": 7}, "ORDER_001"),
        ({"items": []}, "ORDER_002"),
        ({"items": {}}, "INVALID_REQUEST"),
        ({"items": [{"productId": "p", "quantity": 0, "price": 1}]}, "INVALID_REQUEST"),
        ({"items": [{"productId": "p", "quantity": 1.5, "price": 1}]}, "INVALID_REQUEST"),
        ({"items": [{"productId": "p", "quantity": 1, "price": "1.00"}]}, "INVALID_REQUEST"),
        ({"items": [{"productId": "p", "quantity": 1, "price": -1}]}, "INVALID_REQUEST"),
        ({"items": [{"productId": "p", "quantity": 1, "price": 1.005}]}, "INVALID_REQUEST"),
        ({"items": [{"productId": "p", "quantity": 1, "price": None}]}, "INVALID_REQUEST"),
        ({"items": [{"productId": "p", "quantity": 1}]}, "INVALID_REQUEST"),
        ({"currency": "usd"}, "INVALID_REQUEST"),
        ({"id": "a b"}, "INVALID_REQUEST"),
    ],
)
async def test_a_wrong_order_is_422(http: aiohttp.ClientSession, base: str, changes: dict[str, Any], code: str) -> None:
    answer = await call(http, "POST", f"{base}/api/orders", an_order(**changes))
    assert (answer.status, answer.body["error"]["code"]) == (422, code)


@pytest.mark.parametrize(("missing", "code"), [("userId", "ORDER_001"), ("items", "ORDER_002")])
async def test_a_missing_field_is_422(http: aiohttp.ClientSession, base: str, missing: str, code: str) -> None:
    body = an_order()
    del body[missing]
    answer = await call(http, "POST", f"{base}/api/orders", body)
    assert (answer.status, answer.body["error"]["code"]) == (422, code)


async def test_a_test_may_choose_id_status_and_currency(http: aiohttp.ClientSession, base: str) -> None:
    wanted = an_order(id="order-123", status="cancelled", currency="KES")
    created = (await call(http, "POST", f"{base}/api/orders", wanted)).body
    assert (created["id"], created["status"], created["currency"]) == ("order-123", "cancelled", "KES")
    again = await call(http, "POST", f"{base}/api/orders", wanted)
    assert (again.status, again.body["error"]["code"]) == (409, "ID_TAKEN")


async def test_the_hook_sets_status_and_payment_each_alone(http: aiohttp.ClientSession, base: str) -> None:
    created = (await call(http, "POST", f"{base}/api/orders", an_order(id="order-123"))).body
    hook, read = f"{base}/_orders/order-123", f"{base}/api/orders/order-123"
    changed = {**created, "status": "confirmed", "updatedAt": "2023-01-01T00:00:00.000Z"}

    assert (await call(http, "POST", hook, {"status": "confirmed"})).body == changed
    assert (await call(http, "POST", hook, {"paymentId": "pay-456"})).body == {**changed, "paymentId": "pay-456"}
    assert (await call(http, "GET", read)).body == {**changed, "paymentId": "pay-456"}
    assert (await call(http, "POST", hook, {"paymentId": None})).body == changed


async def test_the_hook_refuses_what_it_does_not_know(http: aiohttp.ClientSession, base: str) -> None:
    await call(http, "POST", f"{base}/api/orders", an_order(id="order-123"))
    assert (await call(http, "POST", f"{base}/_orders/order-123", {"totalAmount": 1})).status == 422
    assert (await call(http, "POST", f"{base}/_orders/order-999", {"status": "confirmed"})).status == 404


async def test_orders_and_their_changes_survive_a_restart(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    path = tmp_path / "orders.jsonl"
    async with serve(OrderServiceSim(path)) as base:
        kept = (await call(http, "POST", f"{base}/api/orders", an_order())).body
        other = (await call(http, "POST", f"{base}/api/orders", an_order())).body
        hook = f"{base}/_orders/{other['id']}"
        changed = (await call(http, "POST", hook, {"status": "confirmed", "paymentId": "pay-456"})).body
    async with serve(OrderServiceSim(path)) as base:
        for order in (kept, changed):
            response = await http.get(f"{base}/api/orders/{order['id']}")
            assert '"totalAmount":75.48,' in await response.text()
            assert await response.json() == order
