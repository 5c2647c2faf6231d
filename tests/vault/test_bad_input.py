"""What must not get in, and the spellings that must."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.vault.world import ADMIN, BASE, PAN, VaultWorld, luhn

pytestmark = pytest.mark.asyncio(loop_scope="package")


@pytest.mark.parametrize("spelling", ["12/30", "12/2030", "1230", "2030-12"])
async def test_four_spellings_of_an_expiry_are_one(world: VaultWorld, spelling: str) -> None:
    assert (await world.added(expireDate=spelling))["expireDate"] == "12/30"


@pytest.mark.parametrize(
    "expiry",
    ["", "13/30", "00/30", "12/19", "2019-12", "1/30", "12-30", "2030/12", "12/20300", "123", "12345", "soon",
     "12 / 30", "１２/30", "12/30\n", "2030-13", "12/0030", 1230, None, ["12/30"]],
)  # fmt: skip
async def test_any_other_expiry_is_refused(world: VaultWorld, expiry: Any) -> None:
    error = world.refused(await world.post("/add", world.card(expireDate=expiry)), 422)
    assert error["details"]["field"] == "expireDate"


@pytest.mark.parametrize("spell", [int, str], ids=["number", "text"])
@pytest.mark.parametrize("length", [13, 16, 19])
async def test_numbers_and_texts_of_13_to_19_digits_are_taken(world: VaultWorld, spell: Any, length: int) -> None:
    pan = luhn(world.new_pan()[3:12].replace("0", "5", 1) + "7", length)
    assert (await world.added(cardNumber=spell(pan)))["cardNumber"] == "************" + pan[-4:]


@pytest.mark.parametrize(
    "number",
    ["4242 4242 4242 4242", "4242-4242-4242-4242", "4242x24242424242", "", luhn("4", 12), luhn("4", 20),
     int(luhn("4", 12)), int(luhn("4", 20)), "4242424242424241", 4242424242424241, 4242424242424242.0,
     -4242424242424242, "4" * 64, "４" * 16, True, None, [PAN], {"n": PAN}, "42424242424242\\u00002"],
)  # fmt: skip
async def test_any_other_number_is_refused_and_never_quoted(world: VaultWorld, number: Any) -> None:
    answer = await world.post("/add", world.card(cardNumber=number))
    error = world.refused(answer, 422, "PAY_001")
    assert error["details"]["field"] == "cardNumber"
    assert not answer.shows(str(number)) or len(str(number)) < 10


@pytest.mark.parametrize("name", ["4242424242424242", "Jo 4242 4242 4242 4242", "", "x" * 101, None, 5])
async def test_a_holder_has_a_name(world: VaultWorld, name: Any) -> None:
    answer = await world.post("/add", world.card(cardHolderName=name))
    assert world.refused(answer, 422)["details"]["field"] == "cardHolderName"


@pytest.mark.parametrize("cvv", [123, "123", "012", "000", 12, 0])
async def test_three_digits_are_a_cvv(world: VaultWorld, cvv: Any) -> None:
    await world.added(cvv=cvv)


@pytest.mark.parametrize("cvv", [1234, "1234", "12", "", "12a", -12, 12.3, 1e2, " 123", "123\n", None, [123], True])
async def test_any_other_cvv_is_refused(world: VaultWorld, cvv: Any) -> None:
    error = world.refused(await world.post("/add", world.card(cvv=cvv)), 422, "PAY_001")
    assert error["details"]["field"] == "cvv"


@pytest.mark.parametrize("money", ["0", "0.00", "0e3", "-0", "0.01", "1e2", "9999999999.99"])
async def test_money_of_nothing_or_more_is_taken(world: VaultWorld, money: str) -> None:
    body = json.dumps(world.card(money="@")).replace('"@"', money).encode()
    assert (await world.post("/add", body)).json["card"]["money"] == float(money)


@pytest.mark.parametrize(
    "money", ["-1", "-0.01", "0.001", '"5"', "null", "1e30", "99999999999.99", "[]", "true", "1e-99999"]
)
async def test_any_other_money_is_refused(world: VaultWorld, money: str) -> None:
    body = json.dumps(world.card(money="@")).replace('"@"', money).encode()
    error = world.refused(await world.post("/add", body), 422, "INVALID_AMOUNT")
    assert error["details"]["field"] == "money"


@pytest.mark.parametrize("field", ["cardUserId", "cardHolderName", "cardNumber", "expireDate", "cvv", "money"])
async def test_a_card_without_one_of_its_fields_is_refused(world: VaultWorld, field: str) -> None:
    body = world.card()
    del body[field]
    assert world.refused(await world.post("/add", body), 422, "INVALID_REQUEST")["details"]["field"] == field


@pytest.mark.parametrize("spell", [int, str], ids=["number", "text"])
async def test_a_card_that_is_there_is_refused_in_any_spelling(world: VaultWorld, spell: Any) -> None:
    pan = world.new_pan()
    card = await world.added(cardNumber=pan)
    for fields in ({}, {"expireDate": "2031-01", "cvv": "999"}, {"cardUserId": "somebody"}):
        body = world.card(cardNumber=spell(pan), **fields)
        refused = world.refused(await world.post("/add", body, auth=ADMIN), 409, "CARD_EXISTS")
        known = {} if "cardUserId" in fields else {"details": {"cardId": card["id"]}}
        assert {name: value for name, value in refused.items() if name == "details"} == known


@pytest.mark.parametrize(
    "field", ["userId", "basketId", "creditCardId", "shipmentId", "products", "address", "totalPrice"]
)
async def test_a_payment_without_one_of_its_fields_is_refused(world: VaultWorld, field: str) -> None:
    body = world.wanted("card-1")
    del body[field]
    assert world.refused(await world.post("/pay/c", body), 422, "INVALID_REQUEST")["details"]["field"] == field


@pytest.mark.parametrize("total", [75.47, 75.49, 60.98, 0.01])
async def test_a_total_that_is_not_the_sum_is_refused_with_the_sum(world: VaultWorld, total: float) -> None:
    card = await world.added()
    async with world.nothing_written():
        error = world.refused(await world.pays(card["id"], totalPrice=total), 422, "TOTAL_MISMATCH")
    assert error["error"] == "totalPrice must be the sum of the products, 75.48"


@pytest.mark.parametrize(
    "changed",
    [{"totalPrice": 0}, {"totalPrice": -1}, {"totalPrice": "75.48"}, {"totalPrice": 75.481}, {"products": []},
     {"products": [{"productId": "p", "price": -1}]}, {"products": [{"productId": "p", "price": 1, "quantity": 0}]},
     {"products": [{"productId": "p", "price": 1, "quantity": 1.5}]}, {"products": [{"productId": "p"}]},
     {"products": [{"price": 1}]}, {"products": {"productId": "p"}}, {"isGift": "yes"}, {"address": ""},
     {"products": [{"productId": "p", "price": 1, "quantity": 10_001}]},
     {"products": [{"productId": "p", "price": 1}] * 201}],
)  # fmt: skip
async def test_a_payment_of_the_wrong_shape_is_refused(world: VaultWorld, changed: dict[str, Any]) -> None:
    card = await world.added()
    async with world.nothing_written():
        world.refused(await world.pays(card["id"], **changed), 422)


async def test_the_callers_word_on_what_was_refunded_or_paid_counts_for_nothing(world: VaultWorld) -> None:
    card = await world.added()
    lie = [{"productId": "p", "price": 75.48, "isRefunded": True, "refundedQuantity": 1}]
    payment = await world.bought(card["id"], products=lie, status="Refunded", paymentStatus=False, refunded=True)
    assert (payment["status"], payment["refunded"], payment["paymentStatus"]) == ("Completed", False, True)
    assert (payment["products"][0]["isRefunded"], payment["products"][0]["refundedQuantity"]) == (False, 0)


@pytest.mark.parametrize("path", ["/add", "/pay/checkout"])
async def test_what_is_no_request_is_refused_in_the_surfaces_envelope(world: VaultWorld, path: str) -> None:
    headers = {"Content-Type": "application/json"}
    world.refused(await world.post(path, b"{"), 400, "INVALID_JSON")
    world.refused(await world.post(path, b"[]"), 422, "INVALID_REQUEST")
    world.refused(await world.post(path, b"{" + b" " * 65_536), 413, "BODY_TOO_LARGE")
    world.refused(await world.send("POST", BASE + path, body=b"{}"), 415, "UNSUPPORTED_MEDIA_TYPE")
    answer = await world.send("PUT", BASE + path, body=b"{}", headers=headers)
    world.refused(answer, 405, "METHOD_NOT_ALLOWED")
    assert answer.headers["Allow"] == "POST"
    world.refused(await world.get(BASE + "/nothing"), 404, "NOT_FOUND")


@pytest.mark.parametrize("checkout", ["x" * 129, "a%0Ab", "%00"])
async def test_a_checkout_of_an_odd_name_is_refused(world: VaultWorld, checkout: str) -> None:
    card = await world.added()
    assert world.refused(await world.pays(card["id"], checkout), 422)["details"]["field"] == "checkoutId"


async def test_names_that_mean_something_to_redis_are_just_names(world: VaultWorld) -> None:
    card = await world.added()
    first = await world.pays(card["id"], "%7Bp00%7D:*%20%3F")
    assert first.status == 201
    assert first.json["payment"]["checkoutId"] == "{p00}:* ?"
    assert (await world.pays(card["id"], "%7Bp00%7D:*%20%3F")).json == first.json


async def test_afterwards_the_audit_finds_nothing(world: VaultWorld) -> None:
    await world.sound()
