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

from simulators.neighbours import Neighbours
from simulators.orders import OrderServiceSim
from simulators.server import serve
from simulators.users import UserServiceSim
from tests.simulators.helpers import HandClock, a_user, an_order, call, script

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


USER = "550e8400-e29b-41d4-a716-446655440001"
NOW = "2023-01-01T00:00:00.000Z"
PAID = {"status": "confirmed", "paymentId": "pay-456"}


async def an_id(http: aiohttp.ClientSession, base: str, **changes: Any) -> str:
    """The id of an order that was made."""
    answer = await call(http, "POST", f"{base}/api/orders", an_order(**changes))
    order_id: str = answer.body["id"]
    return order_id


async def test_a_confirmed_order_is_answered_as_in_the_contract(http: aiohttp.ClientSession, base: str) -> None:
    order_id = await an_id(http, base)
    answer = await call(http, "PUT", f"{base}/api/orders/{order_id}/status", PAID)
    assert answer.status == 200
    read = await call(http, "GET", f"{base}/api/orders/{order_id}")
    assert (
        read.body
        == answer.body
        == {
            "id": order_id,
            "userId": USER,
            "items": an_order()["items"],
            "status": "confirmed",
            "totalAmount": 75.48,
            "currency": "USD",
            "paymentId": "pay-456",
            "createdAt": NOW,
            "updatedAt": NOW,
        }
    )


@pytest.mark.parametrize("before", [[], [PAID]])
async def test_an_order_is_cancelled_as_in_the_contract_and_twice_is_the_same_answer(
    http: aiohttp.ClientSession, before: list[Any]
) -> None:
    clock = HandClock()
    async with serve(OrderServiceSim(None, clock=clock)) as base:
        order_id = await an_id(http, base)
        for move in before:
            await call(http, "PUT", f"{base}/api/orders/{order_id}/status", move)
        cancel = f"{base}/api/orders/{order_id}/cancel"
        first = await call(http, "POST", cancel)
        clock.forward(60)
        assert (first.status, first.body) == (
            200, {"id": order_id, "status": "cancelled", "cancelledAt": "2023-01-01T00:02:00.000Z"},
        )  # fmt: skip
        assert await call(http, "POST", cancel) == first


@pytest.mark.parametrize(
    ("before", "move", "status"),
    [
        ("pending", {"status": "pending"}, 200),
        ("pending", PAID, 200),
        ("pending", {"status": "cancelled"}, 200),
        ("confirmed", PAID, 200),
        ("confirmed", {"status": "cancelled"}, 200),
        ("confirmed", {**PAID, "paymentId": "pay-457"}, 409),
        ("confirmed", {"status": "pending"}, 409),
        ("cancelled", {"status": "cancelled"}, 200),
        ("cancelled", PAID, 409),
        ("cancelled", {"status": "pending"}, 409),
        ("shipped", PAID, 409),
        ("shipped", {"status": "cancelled"}, 409),
    ],
)
async def test_only_some_moves_are_allowed(
    http: aiohttp.ClientSession, base: str, before: str, move: dict[str, str], status: int
) -> None:
    order_id = await an_id(http, base)
    payment = {"paymentId": "pay-456"} if before == "confirmed" else {}
    kept = (await call(http, "POST", f"{base}/_orders/{order_id}", {"status": before, **payment})).body
    answer = await call(http, "PUT", f"{base}/api/orders/{order_id}/status", move)
    assert answer.status == status
    if status == 409:
        assert answer.body["error"]["code"] == "ORDER_004"
        assert (await call(http, "GET", f"{base}/api/orders/{order_id}")).body == kept
    else:
        assert answer.body["status"] == move["status"]


async def test_an_order_that_is_on_its_way_is_not_cancelled(http: aiohttp.ClientSession, base: str) -> None:
    order_id = await an_id(http, base, status="shipped")
    answer = await call(http, "POST", f"{base}/api/orders/{order_id}/cancel")
    assert (answer.status, answer.body["error"]["code"]) == (409, "ORDER_004")


@pytest.mark.parametrize(
    "move",
    [
        {}, {"status": "paid"}, {"status": 7}, {"status": "confirmed"}, {"status": "pending", "paymentId": "pay-1"},
        {**PAID, "paymentId": ""}, {**PAID, "paymentId": "../1"}, {**PAID, "paymentId": "p" * 129},
    ],
)  # fmt: skip
async def test_a_wrong_move_is_422(http: aiohttp.ClientSession, base: str, move: dict[str, Any]) -> None:
    order_id = await an_id(http, base)
    answer = await call(http, "PUT", f"{base}/api/orders/{order_id}/status", move)
    assert (answer.status, answer.body["error"]["code"]) == (422, "INVALID_REQUEST")


@pytest.mark.parametrize(
    ("method", "path", "body"), [("GET", "", None), ("PUT", "/status", PAID), ("POST", "/cancel", None)]
)
async def test_whatever_is_asked_about_an_unknown_order_is_404(
    http: aiohttp.ClientSession, base: str, method: str, path: str, body: Any
) -> None:
    answer = await call(http, method, f"{base}/api/orders/order-999{path}", body)
    assert (answer.status, answer.body) == (404, {"error": {"code": "ORDER_003", "message": "Order not found"}})


async def listed(http: aiohttp.ClientSession, base: str, query: str = "", user: str = USER) -> list[str]:
    """The ids of a user's orders."""
    answer = await call(http, "GET", f"{base}/api/orders/user/{user}{query}")
    assert answer.status == 200, answer
    return [order["id"] for order in answer.body["orders"]]


async def test_a_users_orders_are_listed_newest_first_ten_at_a_time(http: aiohttp.ClientSession) -> None:
    clock = HandClock()
    async with serve(OrderServiceSim(None, clock=clock)) as base:
        ids = []
        for number in range(12):
            clock.forward(1)
            ids.append(await an_id(http, base, id=f"order-{number}"))
        await an_id(http, base, userId="somebody-else")
        await call(http, "POST", f"{base}/api/orders/order-3/cancel")
        newest = ids[::-1]
        assert await listed(http, base) == newest[:10]
        assert await listed(http, base, "?offset=10") == newest[10:]
        assert await listed(http, base, "?limit=2&offset=1") == newest[1:3]
        assert await listed(http, base, "?limit=100") == newest
        assert await listed(http, base, "?status=cancelled") == ["order-3"]
        assert await listed(http, base, "?status=pending&limit=1&offset=8") == ["order-2"]
        assert await listed(http, base, "?status=confirmed") == []
        assert await listed(http, base, user="nobody") == []
        whole = (await call(http, "GET", f"{base}/api/orders/user/{USER}?limit=1")).body
        assert whole["orders"] == [(await call(http, "GET", f"{base}/api/orders/order-11")).body]
        assert {name: whole[name] for name in ("total", "limit", "offset")} == {"total": 12, "limit": 1, "offset": 0}


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "limit=-1", "offset=-1", "offset=1.5", "offset=9999999", "status=A B"]
)
async def test_a_wrong_page_is_422(http: aiohttp.ClientSession, base: str, query: str) -> None:
    answer = await call(http, "GET", f"{base}/api/orders/user/{USER}?{query}")
    assert (answer.status, answer.body["error"]["code"]) == (422, "INVALID_REQUEST")


async def test_with_a_user_service_only_its_users_may_order(http: aiohttp.ClientSession) -> None:
    async with serve(UserServiceSim(None)) as users:
        neighbours = Neighbours(users_url=users + "/api/users/{id}")
        async with serve(OrderServiceSim(None, neighbours=neighbours)) as base:
            known = (await call(http, "POST", f"{users}/api/users", a_user())).body["id"]
            assert (await call(http, "POST", f"{base}/api/orders", an_order(userId=known))).status == 201
            for unknown in ("nobody", "..", f"{known}/events", "x" * 65):
                answer = await call(http, "POST", f"{base}/api/orders", an_order(userId=unknown))
                assert (answer.status, answer.body["error"]["code"]) == (422, "ORDER_001")
            for kind in ("error_before", "wrong_json", "reset"):
                await script(http, users, kind=kind, times=2, path_contains="/api/users")
                answer = await call(http, "POST", f"{base}/api/orders", an_order(userId=known))
                assert (answer.status, answer.body["error"]["code"]) == (503, "USER_SERVICE_UNAVAILABLE")
                await call(http, "DELETE", f"{users}/_faults")
            assert (await call(http, "GET", f"{base}/api/orders/user/{known}")).body["total"] == 1


async def test_orders_of_an_older_journal_are_read_and_can_be_cancelled(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    path = tmp_path / "orders.jsonl"
    old = (
        '{"id":"order-1","userId":"u","items":[{"productId":"p","quantity":1,"price":1.10}],"status":"pending",'
        '"totalAmount":1.10,"currency":"USD","createdAt":"2023-01-01T00:00:00.000Z"}\n'
    )
    path.write_text(old)
    async with serve(OrderServiceSim(path)) as base:
        response = await http.get(f"{base}/api/orders/order-1")
        assert await response.text() + "\n" == old
        assert (await call(http, "POST", f"{base}/api/orders/order-1/cancel")).status == 200
    async with serve(OrderServiceSim(path)) as base:
        assert (await call(http, "GET", f"{base}/api/orders/order-1")).body["status"] == "cancelled"
