"""Every example of the orders contract, sent as it is written there, gets the answer that is shown there."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.api.world import TIME
from tests.orders.world import PAYMENTS, OrdersWorld, of, orders_world

pytestmark = pytest.mark.asyncio(loop_scope="module")

CURL_BODY = b'{"userId": 1, "orderId": 1, "amount": 99.99}'
PRINTED_BODY = b'{\n  "userId": 1,\n  "orderId": 1,\n  "amount": 99.99\n}'
JSON = {"Content-Type": "application/json"}
SHOWN = {
    "paymentId": 1,
    "userId": 1,
    "orderId": 1,
    "amount": 99.99,
    "status": "success",
    "createdAt": "2024-01-01T12:00:00.000Z",
    "updatedAt": "2024-01-01T12:00:00.000Z",
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def fresh() -> AsyncIterator[OrdersWorld]:
    """An engine on an empty Redis, with the users and the orders of `make run`."""
    async with orders_world(1000) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def first(fresh: OrdersWorld) -> dict[str, Any]:
    """The payment of the contract, made by its own curl line's body."""
    answer = await fresh.send("POST", PAYMENTS, body=CURL_BODY, auth=of(1), headers=JSON)
    assert answer.status == 201, answer.text
    body: dict[str, Any] = answer.json
    return body


def same(payment: dict[str, Any], **changed: Any) -> None:
    """Assert that a payment is the contract's but for its times."""
    assert list(payment) == list(SHOWN), "the same fields in the same order"
    for time in ("createdAt", "updatedAt"):
        assert TIME.fullmatch(payment[time])
    expected = SHOWN | {"createdAt": payment["createdAt"], "updatedAt": payment["updatedAt"]} | changed
    assert payment == expected


async def test_the_first_payment_is_created_as_shown(first: dict[str, Any]) -> None:
    assert list(first) == ["message", "payment"]
    assert first["message"] == "Payment created successfully"
    same(first["payment"])
    assert first["payment"]["createdAt"] == first["payment"]["updatedAt"]


async def test_the_amount_is_a_number_with_its_decimals(fresh: OrdersWorld, first: dict[str, Any]) -> None:
    answer = await fresh.read(1, auth=of(1))
    assert b'"amount":99.99,' in answer.body


async def test_the_body_printed_over_several_lines_is_the_same_request(
    fresh: OrdersWorld, first: dict[str, Any]
) -> None:
    answer = await fresh.send("POST", PAYMENTS, body=PRINTED_BODY, auth=of(1), headers=JSON)
    assert fresh.refused(answer, 400)["error"] == "Payment for this order already exists"


async def test_a_payment_is_read_as_shown(fresh: OrdersWorld, first: dict[str, Any]) -> None:
    answer = await fresh.send("GET", f"{PAYMENTS}/1", auth=of(1))
    assert answer.status == 200
    assert list(answer.json) == ["payment"]
    assert answer.json["payment"] == first["payment"]


async def test_a_users_payments_are_listed_as_shown(fresh: OrdersWorld, first: dict[str, Any]) -> None:
    answer = await fresh.send("GET", f"{PAYMENTS}/user/1", auth=of(1))
    assert answer.status == 200
    assert list(answer.json) == ["payments"]
    assert answer.json["payments"][-1] == first["payment"]


async def test_the_status_is_put_as_shown(fresh: OrdersWorld, first: dict[str, Any]) -> None:
    answer = await fresh.send("PUT", f"{PAYMENTS}/1/status", body=b'{"status": "success"}', auth=of(1), headers=JSON)
    assert answer.status == 200
    assert list(answer.json) == ["payment"]
    same(answer.json["payment"])


@pytest.mark.parametrize("missing", ["userId", "orderId", "amount"])
async def test_a_field_that_is_missing_is_refused_as_written(fresh: OrdersWorld, missing: str) -> None:
    body = {name: value for name, value in json.loads(CURL_BODY).items() if name != missing}
    for sent in (body, body | {missing: None}, {}):
        refused = fresh.refused(await fresh.create(sent, auth=of(1)), 400)
        assert refused["error"] == "userId, orderId, and amount are required"


@pytest.mark.parametrize("amount", ["0", "0.00", "-1", "-0.01", "0e5", "-0", "-99999999999999999999999"])
async def test_an_amount_that_is_not_above_zero_is_refused_as_written(fresh: OrdersWorld, amount: str) -> None:
    body = f'{{"userId": 1, "orderId": 2, "amount": {amount}}}'.encode()
    assert fresh.refused(await fresh.create(body, auth=of(1)), 400)["error"] == "Amount must be greater than 0"


async def test_a_second_payment_for_an_order_is_refused_as_written(fresh: OrdersWorld, first: dict[str, Any]) -> None:
    refused = fresh.refused(await fresh.create(CURL_BODY, auth=of(1)), 400)
    assert refused["error"] == "Payment for this order already exists"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", PAYMENTS, CURL_BODY),
        ("GET", f"{PAYMENTS}/1", None),
        ("GET", f"{PAYMENTS}/user/1", None),
        ("PUT", f"{PAYMENTS}/1/status", b'{"status": "success"}'),
    ],
)
async def test_without_a_token_nothing_is_answered(
    fresh: OrdersWorld, method: str, path: str, body: bytes | None
) -> None:
    answer = await fresh.send(method, path, body=body, auth=None, headers=JSON if body else None)
    assert fresh.refused(answer, 401)["error"] == "Access token required"


async def test_an_unknown_user_is_refused_as_written(fresh: OrdersWorld) -> None:
    refused = fresh.refused(await fresh.create({"userId": 101, "orderId": 1, "amount": 1}), 404)
    assert refused["error"] == "User not found"


async def test_an_unknown_order_is_refused_as_written(fresh: OrdersWorld) -> None:
    refused = fresh.refused(await fresh.create({"userId": 1, "orderId": 1001, "amount": 1}), 404)
    assert refused["error"] == "Order not found"


async def test_an_unknown_payment_is_refused_as_written(fresh: OrdersWorld) -> None:
    for answer in (await fresh.read(4711), await fresh.put_status(4711, "success")):
        assert fresh.refused(answer, 404)["error"] == "Payment not found"


@pytest.mark.parametrize("status", ["paid", "SUCCESS", "", None, 1, ["success"], "completed"])
async def test_an_unknown_status_is_refused_as_written(fresh: OrdersWorld, first: dict[str, Any], status: Any) -> None:
    refused = fresh.refused(await fresh.put_status(1, status), 400)
    assert refused["error"] == "Invalid payment status"


async def test_health_is_as_shown(fresh: OrdersWorld) -> None:
    answer = await fresh.send("GET", "/health", auth=None)
    assert (answer.status, answer.json) == (200, {"status": "OK", "service": "payment-service"})


async def test_the_events_are_the_contracts_byte_for_byte(fresh: OrdersWorld, first: dict[str, Any]) -> None:
    payment = await fresh.created(user_id=2, order_id=2)
    cancelled = (await fresh.put_status(payment["paymentId"], "cancelled")).json["payment"]
    number = payment["paymentId"]
    created, updated = await fresh.published(number, 2)
    assert [created["topic"], updated["topic"]] == ["payment-events", "payment-events"]
    assert [body for body in fresh.bodies() if b'"paymentId":%d,' % number in body] == [
        b'{"eventType":"payment.created","timestamp":"%b","data":{"paymentId":%d,"userId":2,"orderId":2,'
        b'"amount":99.99,"status":"success"}}' % (payment["createdAt"].encode(), number),
        b'{"eventType":"payment.status.updated","timestamp":"%b","data":{"paymentId":%d,"userId":2,"orderId":2,'
        b'"status":"cancelled"}}' % (cancelled["updatedAt"].encode(), number),
    ]


async def test_the_first_event_is_the_contracts_example(fresh: OrdersWorld, first: dict[str, Any]) -> None:
    [event] = await fresh.published(1, 1)
    shown = {"paymentId": 1, "userId": 1, "orderId": 1, "amount": 99.99, "status": "success"}
    timestamp = first["payment"]["createdAt"]
    assert event["value"] == {"eventType": "payment.created", "timestamp": timestamp, "data": shown}
    assert re.fullmatch(r"pay-\w{28}-1", event["headers"]["ce_id"])
    assert (event["headers"]["ce_type"], event["headers"]["ce_source"]) == ("payment.created", "/payments/orders")


async def test_afterwards_the_audit_finds_nothing(fresh: OrdersWorld, first: dict[str, Any]) -> None:
    report = fresh.audit()
    assert report["findings"] == []
