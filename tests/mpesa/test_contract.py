"""Every example of the contract, as it is written there."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.api.world import eventually
from tests.mpesa.world import BASE, CLIENT, DESCRIPTION, INACTIVE, PACKAGE, TOPIC, UUID, Mpesa, wish

pytestmark = pytest.mark.asyncio(loop_scope="package")

CURL = """{
    "client_id": "550e8400-e29b-41d4-a716-446655440000",
    "package_id": "660e8400-e29b-41d4-a716-446655440001",
    "phone_number": "+254712345678",
    "description": "Internet package - Professional Plan"
  }"""
UNKNOWN = "550e8400-e29b-41d4-a716-4466554400ff"
REFERENCE = re.compile(r"PKG-20\d{12}-[0-9a-z]{6}")


async def test_initiate_answers_transaction_checkout_message_and_pending(mpesa: Mpesa) -> None:
    answer = await mpesa.post(f"{BASE}/initiate", CURL.encode())
    assert answer.status == 200, answer
    shown = answer.json
    assert UUID.fullmatch(shown.pop("transaction_id"))
    assert shown.pop("checkout_id").startswith("ws_CO_")
    assert shown == {"message": "Payment initiated successfully", "status": "pending"}


async def test_the_phone_is_asked_for_the_price_of_the_package(mpesa: Mpesa) -> None:
    phone = mpesa.phone("7002")
    shown = await mpesa.initiated(phone)
    (push,) = await mpesa.pushes(phone)
    assert push["checkout"] == shown["checkout_id"]
    assert (push["amount_minor"], push["currency"], push["phone"]) == (150_000, "KES", phone)


async def test_the_body_of_the_javascript_and_python_examples_is_taken(mpesa: Mpesa) -> None:
    body = {
        "client_id": CLIENT,
        "package_id": PACKAGE,
        "phone_number": "+254712345678",
        "description": "Internet Package Payment",
    }
    paid = await mpesa.post(f"{BASE}/initiate", body)
    assert paid.status == 200, paid
    asked = {"client_id": CLIENT, "checkout_id": paid.json["checkout_id"]}
    assert (await mpesa.post(f"{BASE}/status", asked)).json["status"] == "completed"


async def test_the_examples_without_a_phone_are_told_that_it_is_required(mpesa: Mpesa) -> None:
    """Postman's body, and that of the error handling: the contract says that the phone is required."""
    body = {"client_id": CLIENT, "package_id": PACKAGE, "description": "Test Payment"}
    mpesa.refused(
        await mpesa.post(f"{BASE}/initiate", body), 400, "FIELDS_REQUIRED", "Missing required fields: phone_number"
    )


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "Missing required fields: client_id, package_id, description"),
        ({"phone_number": "+254712345678"}, "Missing required fields: client_id, package_id, description"),
        ({"client_id": CLIENT, "package_id": PACKAGE}, "Missing required fields: description"),
        (wish(client_id=""), "Missing required fields: client_id"),
        (wish() | {"description": None}, "Missing required fields: description"),
        (wish(client_id="not-a-uuid"), "Invalid client_id format"),
        (wish(package_id="660e8400-e29b-41d4-a716"), "Invalid package_id format"),
        (wish(client_id=f"{{{CLIENT}}}"), "Invalid client_id format"),
        (wish(client_id=CLIENT.replace("-", "")), "Invalid client_id format"),
    ],
)
async def test_initiate_refuses_missing_and_invalid_fields_in_the_contracts_words(
    mpesa: Mpesa, body: dict[str, Any], text: str
) -> None:
    mpesa.refused(await mpesa.post(f"{BASE}/initiate", body), 400, text=text)


@pytest.mark.parametrize("client", [UNKNOWN, INACTIVE])
async def test_an_unknown_and_an_inactive_client_get_the_same_answer(mpesa: Mpesa, client: str) -> None:
    for answer in (await mpesa.initiate(client_id=client), await mpesa.status("abc123xyz456", client)):
        mpesa.refused(answer, 403, "INVALID_CLIENT", "Invalid or inactive client")


async def test_status_answers_a_completed_payment(mpesa: Mpesa) -> None:
    phone = mpesa.phone()
    started = await mpesa.initiated(phone)
    answer = await mpesa.status(started["checkout_id"])
    assert answer.status == 200, answer
    shown = answer.json
    assert REFERENCE.fullmatch(shown.pop("reference"))
    assert shown == {
        "transaction_id": started["transaction_id"],
        "checkout_id": started["checkout_id"],
        "status": "completed",
        "amount": 1500,
        "phone_number": f"+{phone}",
        "result_code": "0",
    }
    assert await mpesa.paid(phone) == [150_000]


async def test_status_answers_pending_until_the_payer_has_decided(mpesa: Mpesa) -> None:
    checkout = (await mpesa.initiated(mpesa.phone("7002")))["checkout_id"]
    for _ in range(3):
        shown = (await mpesa.status(checkout)).json
        assert (shown["status"], shown["amount"]) == ("pending", 1500)
        assert not {"stale", "result_code"} & set(shown)
    await mpesa.decide(checkout)
    assert (await mpesa.status(checkout)).json["status"] == "completed"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("1032", "cancelled"), ("0001", "failed"), ("1001", "failed"), ("1019", "failed"), ("1025", "failed"),
        ("1037", "failed"), ("2001", "failed"), ("9999", "failed"),
    ],
)  # fmt: skip
async def test_status_maps_every_result_and_keeps_safaricoms_own_code(mpesa: Mpesa, code: str, status: str) -> None:
    phone = mpesa.phone(code)
    shown = (await mpesa.status((await mpesa.initiated(phone))["checkout_id"])).json
    assert (shown["status"], shown["result_code"]) == (status, str(int(code)))
    assert await mpesa.paid(phone) == []


async def test_status_of_an_unknown_checkout_is_not_found(mpesa: Mpesa) -> None:
    mpesa.refused(await mpesa.status("abc123xyz456"), 404, "PAYMENT_NOT_FOUND", "Payment not found")


async def test_status_of_anothers_checkout_is_not_found(mpesa: Mpesa) -> None:
    checkout = (await mpesa.initiated(mpesa.phone()))["checkout_id"]
    answer = await mpesa.status(checkout, "550e8400-e29b-41d4-a716-44665544000a")
    mpesa.refused(answer, 404, "PAYMENT_NOT_FOUND", "Payment not found")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "Missing required fields: client_id, checkout_id"),
        ({"client_id": CLIENT}, "Missing required fields: checkout_id"),
        ({"client_id": "1", "checkout_id": "abc123xyz456"}, "Invalid client_id format"),
    ],
)
async def test_status_refuses_missing_and_invalid_fields_in_the_contracts_words(
    mpesa: Mpesa, body: dict[str, Any], text: str
) -> None:
    mpesa.refused(await mpesa.post(f"{BASE}/status", body), 400, text=text)


async def test_the_callback_alone_brings_the_result(mpesa: Mpesa) -> None:
    """Nobody asks for the status; the push would be asked about only half a minute later."""
    phone = mpesa.phone()
    await mpesa.initiated(phone)
    record = await mpesa.ended(phone, within_s=20)
    assert record["captured"] == 150_000


async def test_result_and_event_are_told_on_the_surfaces_own_topic(mpesa: Mpesa) -> None:
    phone = mpesa.phone()
    started = await mpesa.initiated(phone)
    assert (await mpesa.status(started["checkout_id"])).json["status"] == "completed"
    (event,) = await mpesa.events(phone)
    assert (event["topic"], event["value"]["event_type"]) == (TOPIC, "payment_completed")
    assert phone not in json.dumps(event)


@pytest.mark.parametrize("form", ["+{}", "{}", "0{}", "01{}"])
async def test_every_way_to_write_a_kenyan_number_reaches_the_same_phone(mpesa: Mpesa, form: str) -> None:
    phone = mpesa.phone("7002")
    if form == "01{}":
        phone = f"2541{phone[4:]}"
    written = {"+{}": f"+{phone}", "{}": phone}.get(form, f"0{phone[3:]}")
    await mpesa.initiated(phone, phone_number=written)
    assert [push["phone"] for push in await mpesa.pushes(phone)] == [phone]


async def test_a_payer_who_decides_before_the_answer_is_told_by_the_status_not_by_an_error(mpesa: Mpesa) -> None:
    """The push was taken; that its payer cancelled within the same moment is the payment's result."""
    for _ in range(5):
        answer = await mpesa.initiate(mpesa.phone("1032"))
        assert (answer.status, answer.json["status"]) == (200, "pending"), answer

        async def cancelled(checkout: str = answer.json["checkout_id"]) -> bool:
            return bool((await mpesa.status(checkout)).json["status"] == "cancelled")

        await eventually(cancelled)


async def test_a_description_in_other_scripts_and_a_long_one_are_taken(mpesa: Mpesa) -> None:
    for description in ("Huduma ya mtandao – kifurushi", "ኢንተርኔት", "x" * 255, DESCRIPTION * 3):
        phone = mpesa.phone("7002")
        await mpesa.initiated(phone, description=description)
        (push,) = await mpesa.pushes(phone)
        assert len(push["description"]) <= 13


@pytest.mark.parametrize("amount", [1, 0, -5, "1", 1e9, None, {"a": 1}])
async def test_an_amount_of_the_callers_and_other_unknown_fields_are_ignored(mpesa: Mpesa, amount: Any) -> None:
    phone = mpesa.phone("7002")
    body = wish(phone) | {"amount": amount, "price": amount, "status": "completed", "callback_url": "http://evil"}
    assert (await mpesa.post(f"{BASE}/initiate", body)).status == 200
    assert [push["amount_minor"] for push in await mpesa.pushes(phone)] == [150_000]
