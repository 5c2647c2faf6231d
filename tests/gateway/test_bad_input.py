"""What is refused, each with its code, and with nothing written."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.api.bad_input import BAD_AMOUNTS, NOT_JSON_AMOUNTS
from tests.gateway.world import CARD, PASSWORD, Gateway, Person, payment_body

pytestmark = pytest.mark.asyncio(loop_scope="package")

PAN = "4539578763621486"
GOOD = {"name": "Bob", "email": "bob@example.com", "password": PASSWORD}
NO_EMAILS = (
    "", " ", "bob", "bob@", "@example.com", "bob@example", "bob example@example.com", "bob@exam ple.com",
    "bob@@example.com", "bob@example..com", ".bob@example.com", "bob.@example.com", "bo..b@example.com",
    "bob@-example.com", "bob@example-.com", "bob@example.com.", "bob@example.com\n", "bob\x00@example.com",
    "bob@example.com,eve@example.com", "<bob@example.com>", "bob@[127.0.0.1]", '"bob"@example.com',
    "bob\uff20example.com", "b\uff20ob@example.com", "bob@exam_ple.com",
    "bob\u202e@example.com", "bo\u200bb@example.com", "bob\u00a0@example.com", "b" * 65 + "@example.com",
    "bob@" + "x" * 64 + ".com", "bob@" + "example." * 32 + "com",
)  # fmt: skip
NO_TEXTS: tuple[Any, ...] = (None, True, 12, 1.5, [], {}, ["bob@example.com"])


@pytest_asyncio.fixture(loop_scope="package", scope="module")
async def bob(gateway: Gateway) -> Person:
    """Whoever sends all this; registered before anything is compared."""
    return await gateway.person()


@pytest_asyncio.fixture(loop_scope="package", scope="module")
async def paid(bob: Person) -> dict[str, Any]:
    """What bob has paid."""
    return await bob.paid()


@pytest_asyncio.fixture(loop_scope="package", scope="module", autouse=True)
async def all_unwritten(gateway: Gateway, paid: dict[str, Any]) -> AsyncIterator[None]:
    """Nothing of this file is written, charged, or breaks anything inside."""
    async with gateway.world.nothing_written():
        yield


@pytest.mark.parametrize("email", NO_EMAILS)
async def test_what_is_no_email_is_refused(gateway: Gateway, email: str) -> None:
    answer = await gateway.register(email)
    assert answer.status == 422, answer
    assert answer.json["error"]["code"] in {"INVALID_EMAIL", "INVALID_REQUEST"}
    assert answer.json["error"]["details"] == {"field": "email"}


@pytest.mark.parametrize("length", [0, 1, 7, 129, 10_000])
async def test_a_password_of_another_length_is_refused_without_being_quoted(gateway: Gateway, length: int) -> None:
    password = ("Zq9!" * length)[:length]
    answer = await gateway.register("bob@example.com", password)
    error = gateway.refused(answer, 422, "INVALID_REQUEST")
    assert error["details"] == {"field": "password"}
    assert not password or not answer.shows(password)


@pytest.mark.parametrize("field", ["name", "email", "password"])
@pytest.mark.parametrize("value", NO_TEXTS)
async def test_wrong_types_are_refused(gateway: Gateway, field: str, value: Any) -> None:
    answer = await gateway.post("/api/auth/register", {**GOOD, field: value})
    assert gateway.refused(answer, 422, "INVALID_REQUEST")["details"] == {"field": field}
    if field != "name":
        answer = await gateway.post("/api/auth/login", {**GOOD, field: value})
        gateway.refused(answer, 422, "INVALID_REQUEST")


@pytest.mark.parametrize("path", ["/api/auth/register", "/api/auth/login"])
@pytest.mark.parametrize("field", ["email", "password"])
async def test_missing_fields_are_refused_by_name(gateway: Gateway, path: str, field: str) -> None:
    answer = await gateway.post(path, {name: value for name, value in GOOD.items() if name != field})
    assert gateway.refused(answer, 422, "INVALID_REQUEST")["details"] == {"field": field}


@pytest.mark.parametrize("name", ["", "x" * 101, "Bob\n", "B\x00b", "B\x1bob"])
async def test_a_name_that_is_none_is_refused(gateway: Gateway, name: str) -> None:
    gateway.refused(await gateway.register("bob@example.com", name=name), 422, "INVALID_REQUEST")


@pytest.mark.parametrize("amount", (*BAD_AMOUNTS, "1e2", "1E2", "0.1e1"))
async def test_an_amount_that_is_none_is_refused(gateway: Gateway, bob: Person, amount: str) -> None:
    body = json.dumps(payment_body("@")).replace('"@"', amount).encode()
    gateway.refused(await bob.post("/api/payments", body), 422, "INVALID_AMOUNT")


@pytest.mark.parametrize("amount", NOT_JSON_AMOUNTS)
async def test_an_amount_that_is_no_json_is_refused(gateway: Gateway, bob: Person, amount: str) -> None:
    body = json.dumps(payment_body("@")).replace('"@"', amount).encode()
    gateway.refused(await bob.post("/api/payments", body), 400, "INVALID_JSON")


@pytest.mark.parametrize(
    ("changed", "code", "field"),
    [
        ({"payment_method": "cheque"}, "PAY_001", "payment_method"),
        ({"payment_method": 1}, "PAY_001", "payment_method"),
        ({"payment_method": None}, "PAY_001", "payment_method"),
        ({"details": None}, "PAY_001", "details"),
        ({"details": []}, "PAY_001", "details"),
        ({"details": PAN}, "PAY_001", "details"),
        ({"details": {}}, "PAY_001", "details.cardNumber"),
        ({"details": {**CARD, "cardNumber": "4242424242424241"}}, "PAY_001", "details.cardNumber"),
        ({"details": {**CARD, "cardNumber": int(PAN)}}, "PAY_001", "details.cardNumber"),
        ({"details": {**CARD, "expiryMonth": "13"}}, "PAY_001", "details.expiryMonth"),
        ({"details": {**CARD, "expiryYear": "2020"}}, "PAY_001", "details.expiryYear"),
        ({"details": {**CARD, "cvv": "12"}}, "PAY_001", "details.cvv"),
        ({"payment_method": "digital_wallet"}, "PAY_001", "details.token"),
        ({"payment_method": "digital_wallet", "details": {"token": "short"}}, "PAY_001", "details.token"),
        ({"currency": "usd"}, "INVALID_REQUEST", "currency"),
        ({"currency": "XXX"}, "INVALID_AMOUNT", "currency"),
        ({"currency": None}, "INVALID_REQUEST", "currency"),
        ({"amount": 75.485}, "INVALID_AMOUNT", "amount"),
    ],
)
async def test_a_payment_that_cannot_be_right_is_refused_in_this_surfaces_words(
    gateway: Gateway, bob: Person, changed: dict[str, Any], code: str, field: str
) -> None:
    answer = await bob.post("/api/payments", {**payment_body(cardNumber=PAN), **changed})
    assert gateway.refused(answer, 422, code)["details"]["field"] == field
    assert not answer.shows(PAN)


@pytest.mark.parametrize("field", ["amount", "payment_method", "details"])
async def test_a_payment_without_a_field_is_refused(gateway: Gateway, bob: Person, field: str) -> None:
    body = {name: value for name, value in payment_body().items() if name != field}
    answer = await bob.post("/api/payments", body)
    assert answer.status == 422
    assert answer.json["error"]["details"]["field"] == field


@pytest.mark.parametrize(
    "body", [b'{"paymentId": "a", "paymentId": "b"}', b'{"paymentId": "a", "x": {"y": 1, "y": 2}}']
)
async def test_a_name_that_stands_twice_is_refused(gateway: Gateway, bob: Person, body: bytes) -> None:
    gateway.refused(await bob.post("/api/payments/process", body), 422, "INVALID_REQUEST")


async def test_a_name_that_stands_twice_is_refused_everywhere(gateway: Gateway, bob: Person) -> None:
    payment = json.dumps(payment_body()).encode().replace(b"{", b'{"amount": 1, ', 1)
    register = json.dumps(GOOD).encode().replace(b"{", b'{"email": "eve@example.com", ', 1)
    for path, body in (("/api/payments", payment), ("/api/auth/register", register), ("/api/auth/login", register)):
        gateway.refused(await bob.post(path, body), 422, "INVALID_REQUEST")


@pytest.mark.parametrize("payment_id", [None, 1, [], {}, "x" * 129])
async def test_a_payment_id_that_is_none_is_refused(gateway: Gateway, bob: Person, payment_id: Any) -> None:
    gateway.refused(await bob.process(payment_id), 422, "INVALID_REQUEST")


@pytest.mark.parametrize(
    "payment_id", ["", "pay-1", "../../etc", "pay-01kqxw3v5n8t2r7d9m4c6b1hzj2a", "pay-" + "z" * 26 + "ff"]
)
async def test_an_unknown_payment_is_not_found(gateway: Gateway, bob: Person, payment_id: str) -> None:
    gateway.refused(await bob.process(payment_id), 404, "PAYMENT_NOT_FOUND")


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=-1", "limit=ten", "limit=1e1", "cursor=x", "cursor=%00"]
)
async def test_a_page_that_is_none_is_refused(gateway: Gateway, bob: Person, query: str) -> None:
    gateway.refused(await bob.get(f"/api/transactions?{query}"), 422, "INVALID_REQUEST")


async def test_what_is_no_json_object_is_refused_by_status(gateway: Gateway, bob: Person) -> None:
    for body, status in ((b"[]", 422), (b"{", 400), (b"\xff", 400), (b'{"paymentId": "a", "x": "\xff"}', 400)):
        assert (await bob.post("/api/payments/process", body)).status == status
    assert (await bob.post("/api/payments", b" " * 66_000)).status == 413
    assert (await bob.post("/api/payments", payment_body(), Content_Type="text/plain")).status == 415
    assert (await bob.get("/api/nowhere")).status == 404
    wrong = await bob.get("/api/payments")
    assert (wrong.status, wrong.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize("amount", ["0", "-1", "1e1", "0.001", '"1"', "true", "[]", "1e400"])
async def test_a_refund_of_no_amount_is_refused(
    gateway: Gateway, bob: Person, paid: dict[str, Any], amount: str
) -> None:
    answer = await bob.refund(paid["id"], f'{{"amount": {amount}}}'.encode())
    gateway.refused(answer, 422, "INVALID_AMOUNT")


@pytest.mark.parametrize("amount", ["75.49", "100", "999999999.99"])
async def test_a_refund_of_more_than_was_paid_is_refused(
    gateway: Gateway, bob: Person, paid: dict[str, Any], amount: str
) -> None:
    answer = await bob.refund(paid["id"], f'{{"amount": {amount}}}'.encode())
    assert gateway.refused(answer, 422, "PAY_004")["details"]["left"] == "75.48"
