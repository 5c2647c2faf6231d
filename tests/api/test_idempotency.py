"""`Idempotency-Key`: the same request is the same payment, however often and however it is written."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

import pytest
from multidict import CIMultiDict

from tests.api.world import PAYMENTS, USER, World, as_json, payment_body, service_token, token

pytestmark = pytest.mark.asyncio(loop_scope="package")

# But the blank, which no header value can begin or end with, and the braces, which have a test of their own.
PRINTABLE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in "{}")


def key_path(key: str) -> str:
    """Where to ask what became of a key."""
    return f"/api/idempotency-keys/{quote(key, safe='')}"


async def test_the_same_request_again_is_the_same_payment(world: World) -> None:
    body = payment_body(await world.order())
    first = await world.pay(body, key="again-1")
    assert (first.status, first.headers.get("Idempotent-Replayed")) == (201, None)
    await world.ended(first.json["id"])
    for _ in range(3):
        again = await world.pay(body, key="again-1")
        assert (again.status, again.headers["Idempotent-Replayed"]) == (201, "true")
        assert again.headers["Location"] == first.headers["Location"]
        told = {"status": "completed", "outcome": "succeeded", "attempts": again.json["attempts"]}
        assert {name: again.json[name] for name in first.json} == {**first.json, **told}
        assert [attempt["outcome"] for attempt in again.json["attempts"]] == ["approved"]
    assert len(await world.effects_of([first.json["id"]])) == 1


async def test_a_payment_that_failed_is_replayed_not_tried_again(world: World) -> None:
    body = payment_body(await world.order(), cardNumber="4000000000000002")
    first = await world.pay(body, key="failed-1", wait_s=10)
    again = await world.pay(body, key="failed-1", wait_s=10)
    assert (first.json["status"], again.json) == ("failed", first.json)
    assert again.headers["Idempotent-Replayed"] == "true"


async def test_how_a_body_is_written_does_not_matter(world: World) -> None:
    body = payment_body(await world.order())
    first = await world.pay(body, key="written-1")
    method = dict(reversed(body["paymentMethod"].items()))
    turned = {"note": "unknown", **dict(reversed(body.items())), "paymentMethod": method}
    spaced = json.dumps(body, indent=8).replace(",", " ,\t").encode()
    escaped = as_json(body).replace(b"USD", b"\\u0055SD")
    for same in (as_json(turned), spaced, escaped, *(as_json(body, amount=text) for text in ("75.480", "7548e-2"))):
        again = await world.pay(same, key="written-1")
        assert (again.status, again.json["id"]) == (201, first.json["id"]), same
        assert again.headers["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"orderId": "order-other"}, "orderId"),
        ({"userId": "user-other"}, "userId"),
        ({"amount": 75.49}, "amount"),
        ({"currency": "EUR"}, "currency"),
        ({"cardNumber": "5555555555554444"}, "paymentMethod"),
        ({"expiryMonth": "11"}, "paymentMethod"),
        ({"expiryYear": "2031"}, "paymentMethod"),
        ({"type": "debit_card"}, "paymentMethod"),
        ({"amount": 1, "currency": "EUR"}, "amount"),
        ({"currency": "EUR", "cardNumber": "5555555555554444"}, "currency"),
    ],
)
async def test_a_key_with_another_body_is_refused_and_the_first_difference_named(
    world: World, change: dict[str, Any], field: str
) -> None:
    body = payment_body(await world.order())
    key = f"differs-{body['orderId']}"
    auth = token("shop", role="service")
    first = await world.pay(body, key=key, auth=auth, wait_s=10)
    method = {**body["paymentMethod"], **{name: value for name, value in change.items() if name not in body}}
    other = {**body, **{name: value for name, value in change.items() if name in body}, "paymentMethod": method}
    error = world.refused(await world.pay(other, key=key, auth=auth), 422, "IDEMPOTENCY_KEY_REUSED")
    assert error["details"]["field"].split(".")[0] == field
    assert error["retry"] == "new_key"
    assert len(await world.effects_of([first.json["id"]])) == 1


async def test_two_callers_may_use_the_same_key(world: World) -> None:
    other = await world.user()
    mine = await world.pay(payment_body(await world.order()), key="shared")
    order = await world.order(user_id=other)
    theirs = await world.pay(payment_body(order, user_id=other), key="shared", auth=token(other))
    assert (mine.status, theirs.status) == (201, 201)
    assert mine.json["id"] != theirs.json["id"]
    assert "Idempotent-Replayed" not in theirs.headers
    assert (await world.get(key_path("shared"))).json["paymentId"] == mine.json["id"]
    assert (await world.get(key_path("shared"), auth=token(other))).json["paymentId"] == theirs.json["id"]


async def test_thirty_requests_at_once_with_one_key_make_one_payment(world: World) -> None:
    body = payment_body(await world.order())
    answers = await asyncio.gather(*[world.pay(body, key="at-once", wait_s=10) for _ in range(30)])
    assert {answer.status for answer in answers} == {201}
    [payment_id] = {answer.json["id"] for answer in answers}
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
    assert len(await world.effects_of([payment_id])) == 1


async def test_of_different_requests_at_once_with_one_key_one_wins(world: World) -> None:
    orders = [await world.order() for _ in range(10)]
    answers = await asyncio.gather(*[world.pay(payment_body(order), key="race", wait_s=10) for order in orders])
    won = [answer for answer in answers if answer.status == 201]
    assert len(won) == 1
    for answer in answers:
        if answer is not won[0]:
            world.refused(answer, 422, "IDEMPOTENCY_KEY_REUSED")
    page = (await world.get(f"{PAYMENTS}/user/{USER}?limit=100")).json["payments"]
    assert [payment["id"] for payment in page if payment["orderId"] in orders] == [won[0].json["id"]]


async def test_without_a_key_nothing_is_replayed(world: World) -> None:
    body = payment_body(await world.order(), cardNumber="4000000000000002")
    first, second = [await world.pay(body, wait_s=10) for _ in range(2)]
    assert (first.status, second.status) == (201, 201)
    assert first.json["id"] != second.json["id"]


async def test_a_refused_request_does_not_use_up_its_key(world: World) -> None:
    """The caller may mend what was wrong, the body too, and use the same key."""
    world.refused(await world.pay(payment_body("order-not-yet"), key="mended"), 404)
    world.refused(await world.get(key_path("mended")), 404, "IDEMPOTENCY_KEY_NOT_FOUND")
    made = await world.pay(payment_body(await world.order()), key="mended")
    assert (made.status, made.headers.get("Idempotent-Replayed")) == (201, None)


@pytest.mark.parametrize("key", ["k", "x" * 255, PRINTABLE, "a b", "a/b/../c", "..", "%2F", "a?b=c#d", '"quoted"'])
async def test_any_printable_key_up_to_255_works_and_can_be_asked_about(world: World, key: str) -> None:
    body = payment_body(await world.order())
    made = await world.pay(body, key=key, wait_s=10)
    assert made.status == 201, made
    again = await world.pay(body, key=key)
    assert (again.json["id"], again.headers["Idempotent-Replayed"]) == (made.json["id"], "true")
    state = (await world.get(key_path(key))).json
    assert (state["key"], state["state"], state["paymentId"]) == (key, "used", made.json["id"])
    assert state["payment"] == made.json


async def test_a_key_with_braces_can_be_asked_about(world: World) -> None:
    made = await world.pay(payment_body(await world.order()), key="{order}-1")
    assert (await world.get(key_path("{order}-1"))).json["paymentId"] == made.json["id"]


@pytest.mark.parametrize("key", ["", "   ", "x" * 256, "x" * 5000, "caf\u00e9", "tab\there", "\U0001f4b3"])
async def test_a_key_that_is_empty_too_long_or_not_printable_is_refused(world: World, key: str) -> None:
    before = await world.at_rest()
    answer = await world.pay(payment_body(await world.order()), key=key)
    error = world.refused(answer, 400, "INVALID_IDEMPOTENCY_KEY")
    assert error["retry"] == "never"
    assert world.written() == before


async def test_two_different_keys_in_one_request_are_refused(world: World) -> None:
    headers = CIMultiDict({"Content-Type": "application/json"})
    headers.extend([("Idempotency-Key", "one"), ("Idempotency-Key", "two")])
    body = as_json(payment_body(await world.order()))
    answer = await world.send("POST", PAYMENTS, body=body, headers=headers)
    world.refused(answer, 400, "INVALID_IDEMPOTENCY_KEY")


async def test_an_unknown_key_is_404(world: World) -> None:
    for key in ("never-used", "x" * 256, "caf\u00e9", "\x00", "%"):
        world.refused(await world.get(key_path(key)), 404, "IDEMPOTENCY_KEY_NOT_FOUND")


async def test_nobody_else_learns_of_a_key_not_even_a_service(world: World) -> None:
    await world.pay(payment_body(await world.order()), key="private")
    for auth in (token("mallory"), service_token(), token("root", role="admin")):
        world.refused(await world.get(key_path("private"), auth=auth), 404, "IDEMPOTENCY_KEY_NOT_FOUND")
