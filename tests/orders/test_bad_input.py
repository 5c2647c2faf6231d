"""Bad input is refused with a code and a reason, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.api.raw import exchange
from tests.orders.world import ADMIN, PAYMENTS, OrdersWorld

pytestmark = pytest.mark.asyncio(loop_scope="package")


@pytest_asyncio.fixture(loop_scope="package", scope="module", autouse=True)
async def unwritten(world: OrdersWorld) -> AsyncIterator[None]:
    """Nothing in this file may write anything."""
    async with world.nothing_written():
        yield


NOT_NUMBERS = (
    '"1"', "1.0", "1.5", "1e2", "1E0", "true", "false", "[1]", "{}", '""', '"abc"', "0", "-1", "2147483648",
    "9223372036854775808", "1e400", "9" * 100, "9" * 5000,
)  # fmt: skip


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=lambda value: value[:20])
@pytest.mark.parametrize("field", ["userId", "orderId"])
async def test_what_is_no_positive_whole_number_is_refused_by_its_field(
    world: OrdersWorld, field: str, value: str
) -> None:
    values = {"userId": "1", "orderId": "1", "amount": "1"} | {field: value}
    body = "{" + ", ".join(f'"{name}": {text}' for name, text in values.items()) + "}"
    refused = world.refused(await world.create(body.encode()), 422, "INVALID_REQUEST")
    assert field in refused["details"]["field"]
    assert len(refused["error"]) < 200


BAD_AMOUNTS = (
    '"99.99"', "99.999", "0.001", "1e-3", "100000000.00", "1e10", "1e400", "true", "[1]", "{}", '""', "9" * 5000,
    "0." + "0" * 5000 + "1",
)  # fmt: skip


@pytest.mark.parametrize("amount", BAD_AMOUNTS, ids=lambda value: value[:20])
async def test_an_amount_that_cannot_be_taken_is_refused(world: OrdersWorld, amount: str) -> None:
    body = f'{{"userId": 1, "orderId": 1, "amount": {amount}}}'.encode()
    world.refused(await world.create(body), 400, "INVALID_AMOUNT")


NOT_JSON = (
    b"",
    b"{",
    b"nonsense",
    b'{"userId": 1',
    b"{'userId': 1}",
    b"\xff\xfe",
    b'{"userId": 1, "orderId": 1, "amount": "\xff"}',
    b'{"a": NaN}',
    b'{"a":' + b"[" * 20_000,
)


@pytest.mark.parametrize("body", NOT_JSON, ids=lambda body: repr(body[:16]))
async def test_what_is_not_json_is_refused(world: OrdersWorld, body: bytes) -> None:
    for answer in (await world.create(body), await world.put_status(1, body)):
        world.refused(answer, 400, "INVALID_JSON")


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"1", b"null", b"true"], ids=repr)
async def test_json_that_is_no_object_is_refused(world: OrdersWorld, body: bytes) -> None:
    world.refused(await world.create(body), 422, "INVALID_REQUEST")
    world.refused(await world.put_status(1, body), 400, "INVALID_STATUS")


async def test_of_a_field_that_stands_twice_the_last_one_counts(world: OrdersWorld) -> None:
    body = b'{"userId": 1, "userId": 2000000, "orderId": 1, "amount": -1, "amount": 1}'
    world.refused(await world.create(body), 404, "USER_004")
    body = b'{"userId": 2000000, "userId": "x", "orderId": 1, "amount": 1}'
    world.refused(await world.create(body), 422, "INVALID_REQUEST")


async def test_another_media_type_and_a_large_body_are_refused(world: OrdersWorld) -> None:
    good = b'{"userId": 1, "orderId": 1, "amount": 1}'
    answer = await world.send("POST", PAYMENTS, body=good, auth=ADMIN, headers={"Content-Type": "text/plain"})
    world.refused(answer, 415)
    world.refused(await world.create(good + b" " * 70_000), 413)


@pytest.mark.parametrize(
    "number", ["0", "-1", "abc", "1.0", "1e2", "01", "+1", "9" * 16, "9" * 400, "%D9%A3", "%20", "1%00", "a%2Fb"]
)
async def test_a_path_that_names_no_payment_leads_to_none(world: OrdersWorld, number: str) -> None:
    world.refused(await world.read(number), 404)
    world.refused(await world.put_status(number, "success"), 404)
    world.refused(await world.listed(number), 404)


async def test_unknown_paths_and_other_methods_are_refused_in_the_same_form(world: OrdersWorld) -> None:
    world.refused(await world.get("/api/nothing", auth=ADMIN), 404, "NOT_FOUND")
    answer = await world.send("DELETE", f"{PAYMENTS}/1", auth=ADMIN)
    world.refused(answer, 405, "METHOD_NOT_ALLOWED")
    assert "GET" in answer.headers["Allow"]


async def test_what_is_not_http_is_refused_in_the_same_form(world: OrdersWorld) -> None:
    port = int(world.engine.base.rpartition(":")[2])
    answer = await exchange(port, b"POST /api/payments HTTP/1.1\r\nHost: x\r\nbroken\r\n\r\n")
    assert (answer.status, answer.json["code"]) == (400, "BAD_REQUEST")
    assert isinstance(answer.json["error"], str)


@pytest.mark.parametrize("key", [" ", "é", "x" * 256, "a\tb"], ids=repr)
async def test_a_malformed_key_is_refused(world: OrdersWorld, key: str) -> None:
    answer = await world.create(b'{"userId": 1, "orderId": 1, "amount": 1}', key=key)
    world.refused(answer, 400, "INVALID_IDEMPOTENCY_KEY")
