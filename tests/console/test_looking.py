"""What the console shows of payments, processes and circuits, and how payments are found."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from engine.notifications import Notification
from engine.store.batch import Batcher
from engine.store.connect import RedisSettings, connect
from engine.store.keys import Keys
from engine.store.notifications import RedisNotifications
from metrics.instruments import Instruments
from tests.api.world import USER, eventually, payment_body, shown
from tests.console.world import Operator
from tests.support import token

pytestmark = pytest.mark.asyncio(loop_scope="package")

CARD = "5555555555554444"
CVV = "737"


async def find(operator: Operator, by: str, text: str, subject: str = "") -> list[str]:
    more = f"&subject={subject}" if subject else ""
    answer = await operator.ask("GET", f"/console/search?by={by}&q={text}{more}")
    assert answer.status == 200, answer
    return [line["id"] for line in answer.json["payments"]]


async def paid(operator: Operator, **card: str) -> dict[str, Any]:
    made = await operator.world.paid(wait_s=None, headers=None, **card)
    return await operator.world.ended(made["id"])


async def test_payments_of_every_process_show_with_what_became_of_them(operator: Operator) -> None:
    good, bad = await paid(operator), await paid(operator, cardNumber="4000000000009995")

    def both(picture: dict[str, Any]) -> bool:
        ended = {line["id"] for line in picture["recents"] if line["status"] != "processing"}
        return {good["id"], bad["id"]} <= ended

    lines = {line["id"]: line for line in (await operator.seen(both))["recents"]}
    line = lines[good["id"]]
    assert (line["status"], line["amount"], line["currency"], line["last4"]) == ("completed", "75.48", "USD", "4242")
    assert (line["order"], line["user"], line["acquirer"]) == (good["orderId"], USER, "card_acquirer")
    assert (lines[bad["id"]]["status"], lines[bad["id"]]["failure"]) == ("failed", "PAY_002")


async def test_outcomes_are_counted_over_all_processes(operator: Operator) -> None:
    def total(picture: dict[str, Any]) -> dict[str, int]:
        return dict(zip(picture["outcomes"], map(sum, zip(*picture["seconds"], strict=True)), strict=True))

    # What was counted before this leaves the two minutes meanwhile at the earliest.
    for _ in range(4):
        await paid(operator)
    picture = await operator.seen(lambda shown: total(shown)["completed"] >= 4)
    assert len(picture["seconds"]) == 120


async def test_every_process_is_there_with_its_roles_and_what_waits(operator: Operator) -> None:
    picture = await operator.seen(lambda shown: len(shown["processes"]) == 2)
    assert {each["pid"] for each in picture["processes"]} == {operator.world.engine.pid, operator.second.pid}
    for each in picture["processes"]:
        assert set(each["roles"]) == {"http", "worker", "relay", "reconcile"}
        assert each["unfit"] == {}
    assert {"jobs", "outbox", "unknown", "items", "parked"} == set(picture["depths"])
    assert not picture["stale"]


async def test_a_circuit_that_opens_by_itself_shows_when_it_will_be_tried(operator: Operator) -> None:
    await operator.world.sims.fault(operator.world.sims.orders, "error_before", method="GET")
    try:
        for number in range(5):
            await operator.world.pay(payment_body(f"order-of-nobody-{number}"))

        def is_open(picture: dict[str, Any]) -> bool:
            return bool(circuit(picture, "order_service")["state"] == "open")

        seen = await operator.seen(is_open)
        assert circuit(seen, "order_service")["retry_at_ms"] > seen["at_ms"] - 60_000
        assert circuit(seen, "order_service")["window_failure_rate"] > 0
    finally:
        await operator.world.sims.clear_faults(operator.world.sims.orders)


async def test_an_order_from_the_console_is_done_everywhere_and_shown_with_who_and_why(operator: Operator) -> None:
    body = {"actor": "Ada L.", "reason": "<b>it</b> double-books"}
    path = "/console/circuits/order_service/force-open"
    answer = await operator.ask("POST", path, body=body, headers=operator.own())
    assert (answer.status, answer.json["actor"]) == (200, "console: Ada L.")
    seen = await operator.seen(lambda shown: circuit(shown, "order_service")["states"] == {"forced_open": 2})
    held = circuit(seen, "order_service")["held"]
    assert (held["actor"], held["reason"], held["action"]) == ("console: Ada L.", body["reason"], "force-open")
    assert seen["orders"][0] == held


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("nobody/force-open", {}, 404, "CIRCUIT_NOT_FOUND"),
        ("user_service/explode", {}, 404, "NOT_FOUND"),
        ("user_service/force-open", {"reason": ""}, 422, "INVALID_REQUEST"),
        ("user_service/force-open", {"actor": ""}, 422, "INVALID_REQUEST"),
        ("user_service/force-open", {"actor": "x" * 61}, 422, "INVALID_REQUEST"),
        ("user_service/force-open", {"actor": "two\nlines"}, 422, "INVALID_REQUEST"),
        ("user_service/force-open", {"reason": "card 4242424242424242"}, 422, "INVALID_FIELD"),
        ("user_service/force-open", {"actor": "4242 4242 4242 4242"}, 422, "INVALID_FIELD"),
    ],
)
async def test_bad_orders_are_refused(
    operator: Operator, path: str, body: dict[str, str], status: int, code: str
) -> None:
    sent = {"actor": "ada", "reason": "tests", **body}
    refused = await operator.ask("POST", f"/console/circuits/{path}", body=sent, headers=operator.own())
    operator.world.refused(refused, status, code)
    assert set((await operator.states()).values()) == {"closed"}


async def test_a_payment_shows_its_life_in_order(operator: Operator) -> None:
    payment = await paid(operator)
    refund = f"/api/payments/{payment['id']}/refund"
    asked = await operator.world.send(
        "POST", refund, body=b'{"amount": 20, "reason": "broken cup"}', headers={"Content-Type": "application/json"}
    )
    assert asked.status == 201, asked

    async def refunded() -> dict[str, Any] | None:
        page: dict[str, Any] = (await operator.ask("GET", f"/console/payments/{payment['id']}")).json
        return page if page["line"]["status"] == "partially_refunded" else None

    page = await eventually(refunded)
    timeline = page["timeline"]
    assert [(each["kind"], each["title"], each["state"]) for each in timeline] == [
        ("payment", "accepted", ""), ("attempt", "charge", "approved"), ("event", "payment_completed", ""),
        ("refund", "refund asked for", "completed"), ("attempt", "refund", "approved"),
        ("event", "payment_refunded", ""),
    ]  # fmt: skip
    assert [each["at"] for each in timeline] == sorted(each["at"] for each in timeline)
    assert timeline[1]["facts"]["acquirer"] == "card_acquirer"
    assert timeline[2]["facts"]["amount"] == "75.48"
    assert timeline[5]["facts"]["amount"] == "20.00"
    assert page["payment"]["id"] == payment["id"]


async def test_what_people_were_told_of_a_payment_stands_in_its_life(operator: Operator) -> None:
    payment = await paid(operator)
    event_id = f"{payment['id']}-1"
    client = connect(RedisSettings(url=operator.world.redis.url))
    batcher = Batcher(client, Instruments(CollectorRegistry()))
    batching = asyncio.create_task(batcher.run())
    try:
        store = RedisNotifications(batcher, Keys(16), kept_s=600)
        told = Notification(
            event_id, USER, "payment_completed", payment["id"], payment["completedAt"], "Payment completed",
            "We received 75.48 USD.", ("log", "mail"),
        )  # fmt: skip
        await store.take([told])
        await store.note(event_id, "log", "told")
    finally:
        batching.cancel()
        await asyncio.wait([batching])
        await client.aclose()
    page = (await operator.ask("GET", f"/console/payments/{payment['id']}")).json
    [shown] = [each for each in page["timeline"] if each["kind"] == "notification"]
    assert shown["title"] == "Payment completed"
    assert shown["facts"] == {"text": "We received 75.48 USD.", "log": "told", "mail": "waiting"}
    kinds = [each["kind"] for each in page["timeline"]]
    assert kinds.index("event") < kinds.index("notification")


async def test_an_attempt_without_an_answer_shows_as_unknown(operator: Operator) -> None:
    await operator.world.sims.fault(operator.world.sims.acquirer, "error_after", times=1, method="POST")
    payment = await operator.world.paid(wait_s=None)

    async def asked() -> list[dict[str, Any]] | None:
        page = (await operator.ask("GET", f"/console/payments/{payment['id']}")).json
        attempts = [each for each in page["timeline"] if each["kind"] == "attempt"]
        return attempts if attempts and attempts[0]["state"] in {"unknown", "approved"} else None

    [attempt] = await eventually(asked)
    assert attempt["facts"].get("asked") == "1", "it was left open once"
    await operator.world.sims.clear_faults(operator.world.sims.acquirer)
    await operator.world.ended(payment["id"])


async def test_payments_are_found_by_their_id_order_user_and_key(operator: Operator) -> None:
    user = await operator.world.user()
    body = payment_body(await operator.world.order(user_id=user), user_id=user)
    answer = await operator.world.pay(body, key="the key of 2026", auth=token(user))
    payment_id = answer.json["id"]
    assert await find(operator, "payment", payment_id) == [payment_id]
    assert await find(operator, "order", body["orderId"]) == [payment_id]
    assert await find(operator, "user", user) == [payment_id]
    assert await find(operator, "key", "the%20key%20of%202026", user) == [payment_id]
    assert await find(operator, "key", "the%20key%20of%202026", "somebody-else") == []


@pytest.mark.parametrize("by", ["payment", "order", "user"])
async def test_what_is_not_there_is_not_found(operator: Operator, by: str) -> None:
    assert await find(operator, by, "nothing-of-this-name") == []
    assert await find(operator, by, "%3Cscript%3E%7B%7D*") == []


@pytest.mark.parametrize(
    ("query", "field"),
    [("", "q"), ("by=order", "q"), ("by=order&q=", "q"), (f"by=order&q={'x' * 256}", "q"), ("by=order&q=%00", "q"),
     ("by=card&q=4242", "by"), ("q=order-1", "by"), ("by=key&q=key-1", "subject"),
     (f"by=key&q=key-1&subject={'x' * 256}", "subject")],
)  # fmt: skip
async def test_a_search_without_sense_is_refused(operator: Operator, query: str, field: str) -> None:
    refused = operator.world.refused(await operator.ask("GET", f"/console/search?{query}"), 422, "INVALID_FIELD")
    assert refused["details"]["field"] == field


@pytest.mark.parametrize(
    "name", ["pay-1", "pay-01kqxw3v5n8t2r7d9m4c6b1hzj2a", "pay-01kqxw3v5n8t2r7d9m4c6b1hzjff", "%00"]
)
async def test_a_payment_that_is_not_there_is_refused(operator: Operator, name: str) -> None:
    operator.world.refused(await operator.ask("GET", f"/console/payments/{name}"), 404, "PAYMENT_NOT_FOUND")


async def test_no_card_number_and_no_cvv_is_ever_shown(operator: Operator) -> None:
    payment = await paid(operator, cardNumber=CARD, cvv=CVV)
    picture = await operator.seen(lambda shown: payment["id"] in {line["id"] for line in shown["recents"]})
    page = await operator.ask("GET", f"/console/payments/{payment['id']}")
    found = await operator.ask("GET", f"/console/search?by=payment&q={payment['id']}")
    written = {name: value for name, value in operator.world.written().items() if "console" in name}
    for text in (str(picture), page.text, found.text, str(written)):
        assert not shown(CARD, text)
        assert not shown(CVV, text)
    assert page.json["line"]["last4"] == CARD[-4:]


def circuit(picture: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [each for each in picture["circuits"] if each["name"] == name]
    return dict(found)
