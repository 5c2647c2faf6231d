"""`Idempotency-Key` on what makes something: the same key and request is the same thing, another request is refused."""

from __future__ import annotations

import pytest

from tests.gateway.world import Gateway, Person, payment_body

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_the_same_key_and_body_is_the_same_payment_as_it_stands_now(ada: Person) -> None:
    first = await ada.post("/api/payments", payment_body(), Idempotency_Key="k1")
    await ada.process(first.json["id"])
    again = await ada.post("/api/payments", payment_body(), Idempotency_Key="k1")
    assert (again.status, again.headers["Idempotent-Replayed"]) == (201, "true")
    assert again.json == {**first.json, "status": "completed"}


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"amount": 1}, "amount"),
        ({"currency": "EUR"}, "currency"),
        ({"payment_method": "debit_card"}, "payment_method"),
        ({"details": {**payment_body()["details"], "cardNumber": "5555555555554444"}}, "details.cardNumber"),
        ({"payment_method": "digital_wallet", "details": {"token": "tok_visa_4242"}}, "payment_method"),
    ],
)
async def test_the_same_key_with_another_body_is_refused_and_names_what_differs(
    gateway: Gateway, ada: Person, changed: dict[str, object], field: str
) -> None:
    await ada.post("/api/payments", payment_body(), Idempotency_Key="k1")
    answer = await ada.post("/api/payments", {**payment_body(), **changed}, Idempotency_Key="k1")
    error = gateway.refused(answer, 422, "IDEMPOTENCY_KEY_REUSED")
    assert (error["details"], error["retry"]) == ({"field": field}, "new_key")


async def test_anothers_equal_key_is_another_key(gateway: Gateway, ada: Person) -> None:
    first = await ada.post("/api/payments", payment_body(), Idempotency_Key="k1")
    other = await (await gateway.person()).post("/api/payments", payment_body(), Idempotency_Key="k1")
    assert (other.status, other.json["id"] != first.json["id"]) == (201, True)


async def test_a_refund_with_the_same_key_is_asked_for_once(gateway: Gateway, ada: Person) -> None:
    payment = await ada.paid()
    first = await ada.refund(payment["id"], {"amount": 20}, Idempotency_Key="r1")
    again = await ada.refund(payment["id"], {"amount": 20}, Idempotency_Key="r1")
    assert (again.status, again.headers["Idempotent-Replayed"], again.json) == (200, "true", first.json)
    other = await ada.refund(payment["id"], {"amount": 21}, Idempotency_Key="r1")
    gateway.refused(other, 422, "IDEMPOTENCY_KEY_REUSED")
    assert await gateway.charges(payment["id"]) == [("charge", 7548), ("refund", 2000)]


async def test_a_malformed_key_is_refused(gateway: Gateway, ada: Person) -> None:
    answer = await ada.post("/api/payments", payment_body(), Idempotency_Key="x" * 256)
    gateway.refused(answer, 400, "INVALID_IDEMPOTENCY_KEY")
