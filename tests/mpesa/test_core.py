"""`mobile_money` on the core surface: the same engine, the same phones."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.api.world import PAYMENTS, Answer, eventually, running_world
from tests.mpesa.world import Mpesa
from tests.support import USER, service_token

pytestmark = pytest.mark.asyncio(loop_scope="package")


def _body(order_id: str, phone: str, amount: Any = 1500, **changes: Any) -> dict[str, Any]:
    body = {"orderId": order_id, "userId": USER, "amount": amount, "currency": "KES"}
    return {**body, "paymentMethod": {"type": "mobile_money", "phoneNumber": f"+{phone}"}, **changes}


async def _pay(mpesa: Mpesa, phone: str, **changes: Any) -> Answer:
    order = await mpesa.world.order(price=1500, currency="KES")
    return await mpesa.world.pay(_body(order, phone, **changes))


async def test_a_phone_pays_an_order(mpesa: Mpesa) -> None:
    phone = mpesa.phone()
    answer = await _pay(mpesa, phone)
    assert answer.status == 201, answer
    assert answer.json["paymentMethod"] == {"type": "mobile_money", "last4": phone[-4:]}
    payment = await mpesa.world.ended(answer.json["id"])
    assert (payment["status"], payment["amount"], payment["currency"]) == ("completed", 1500, "KES")
    assert await mpesa.paid(phone) == [150_000]
    assert not answer.shows(phone)


async def test_a_payer_who_cancels_fails_the_payment_with_the_raw_code(mpesa: Mpesa) -> None:
    answer = await _pay(mpesa, mpesa.phone("1032"))
    payment = await mpesa.world.ended(answer.json["id"])
    assert (payment["status"], payment["failureCode"]) == ("failed", "MPESA_1032")


async def test_while_the_payer_thinks_it_is_processing_and_the_attempt_is_waiting(mpesa: Mpesa) -> None:
    phone = mpesa.phone("7002")
    payment_id = (await _pay(mpesa, phone)).json["id"]

    async def waiting() -> bool:
        payment = (await mpesa.world.get(f"{PAYMENTS}/{payment_id}")).json
        return [attempt["outcome"] for attempt in payment["attempts"]] == ["waiting"]

    await eventually(waiting)
    (push,) = await mpesa.pushes(phone)
    mpesa.refused(await mpesa.status(push["checkout"]), 404, "PAYMENT_NOT_FOUND")
    await mpesa.decide(push["checkout"])
    assert (await mpesa.world.ended(payment_id))["status"] == "completed"


async def test_a_refund_is_refused_clearly_and_frees_what_it_had_reserved(mpesa: Mpesa) -> None:
    phone = mpesa.phone()
    payment_id = (await _pay(mpesa, phone)).json["id"]
    await mpesa.world.ended(payment_id)
    headers = {"Content-Type": "application/json"}
    made = await mpesa.world.send("POST", f"{PAYMENTS}/{payment_id}/refund", body=b"{}", headers=headers)
    assert made.status == 201, made

    async def failed() -> dict[str, Any] | None:
        (refund,) = (await mpesa.world.get(f"{PAYMENTS}/{payment_id}/refunds")).json["refunds"]
        return refund if refund["status"] == "failed" else None

    refund = await eventually(failed)
    assert refund["failureCode"] == "NOT_SUPPORTED"
    assert refund["failureReason"] == "M-Pesa payments are given back outside of this engine"
    assert (await mpesa.world.get(f"{PAYMENTS}/{payment_id}")).json["status"] == "completed"
    assert len(await mpesa.pushes(phone)) == 1


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"amount": 15.5}, "INVALID_AMOUNT"),
        ({"currency": "USD"}, "INVALID_AMOUNT"),
        ({"capture": "manual"}, "PAY_001"),
        ({"paymentMethod": {"type": "mobile_money", "phoneNumber": "+14155550123"}}, "PAY_001"),
        ({"paymentMethod": {"type": "mobile_money", "phoneNumber": ""}}, "PAY_001"),
        ({"paymentMethod": {"type": "mobile_money"}}, None),
        ({"paymentMethod": {"type": "mobile_money", "phoneNumber": 254712345678}}, None),
    ],
)
async def test_what_no_phone_can_pay_is_refused(mpesa: Mpesa, changes: dict[str, Any], code: str | None) -> None:
    phone = mpesa.phone()
    mpesa.world.refused(await _pay(mpesa, phone, **changes), 422, code)
    assert await mpesa.pushes(phone) == []


async def test_one_key_is_one_push_and_another_phone_is_another_request(mpesa: Mpesa) -> None:
    phone = mpesa.phone()
    order = await mpesa.world.order(price=1500, currency="KES")
    answers = await asyncio.gather(*(mpesa.world.pay(_body(order, phone), key=phone) for _ in range(10)))
    assert {answer.status for answer in answers} == {201}
    await mpesa.world.ended(answers[0].json["id"])
    assert len(await mpesa.pushes(phone)) == 1
    error = mpesa.world.refused(await mpesa.world.pay(_body(order, mpesa.phone()), key=phone), 422)
    assert error["details"]["field"] == "paymentMethod.phoneNumber"


async def test_the_document_shows_it(mpesa: Mpesa) -> None:
    schemas = (await mpesa.world.send("GET", "/openapi.json", auth=None)).json["components"]["schemas"]
    assert "phoneNumber" in schemas["MobileMoney"]["properties"]


async def test_without_mpesa_it_is_refused_with_a_clear_text() -> None:
    async with running_world() as world:
        order = await world.order(price=1500, currency="KES")
        error = world.refused(await world.pay(_body(order, "254712345678"), auth=service_token()), 422, "PAY_001")
        assert error["message"] == "mobile_money is not offered here"
