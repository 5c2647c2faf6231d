"""Refunds over HTTP: how much may go back, and what happens to what is on its way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from engine.ids import from_rfc3339
from simulators import cards
from tests.api.world import PAYMENTS, TIME, eventually, payment_body, service_token, token
from tests.changes.shop import QUICK, Shop, at_once, running_shop, unknown

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shop() -> AsyncIterator[Shop]:
    """An engine that gives up on the acquirer early; at the end its books must be clean."""
    async with running_shop() as running:
        yield running
        await running.audit_is_clean()


async def test_a_refund_without_a_body_gives_back_all_and_is_told_to_the_world(shop: Shop) -> None:
    """The contract's 201, the same under its Location and in the list; event, ledger rows, acquirer."""
    payment = await shop.paid()
    answer = await shop.ask("refund", payment["id"], Prefer="wait=20")
    refund = answer.json
    assert answer.status == 201
    assert answer.headers["Location"] == f"{PAYMENTS}/{payment['id']}/refunds/{refund['id']}"
    assert answer.headers["Preference-Applied"] == "wait=20"
    assert set(refund) == {
        "id", "paymentId", "amount", "currency", "reason", "status", "outcome", "createdAt", "transactionId",
        "completedAt",
    }  # fmt: skip
    assert (refund["paymentId"], refund["amount"], refund["currency"]) == (payment["id"], 75.48, "USD")
    assert (refund["reason"], refund["status"], refund["outcome"]) == (
        "requested_by_customer",
        "completed",
        "succeeded",
    )
    assert TIME.fullmatch(refund["createdAt"])
    assert refund["createdAt"] <= refund["completedAt"]
    assert (await shop.world.get(answer.headers["Location"])).json == refund
    assert await shop.refunds(payment["id"]) == [refund]
    after = await shop.payment(payment["id"])
    assert (after["status"], after["refundedAmount"], after["outcome"]) == ("refunded", 75.48, "succeeded")
    assert await shop.effects(payment["id"]) == [("charge", 7548), ("refund", 7548)]
    assert set(shop.balance(payment["id"]).values()) == {0}
    _, told = await shop.published(payment["id"], 2)
    assert told["value"] == {
        "event_type": "payment_refunded",
        "payment_id": payment["id"],
        "order_id": payment["orderId"],
        "user_id": payment["userId"],
        "data": {
            "refund_id": refund["id"], "amount": 75.48, "currency": "USD", "transaction_id": refund["transactionId"],
            "refunded_at": refund["completedAt"],
        },
    }  # fmt: skip
    assert told["headers"]["ce_time"] == refund["completedAt"]


async def test_a_refund_is_answered_at_once_while_it_is_on_its_way(shop: Shop) -> None:
    payment = await shop.paid()
    answer = await shop.ask("refund", payment["id"], {"reason": "Order cancelled"})
    assert answer.status == 201
    assert "Preference-Applied" not in answer.headers
    assert (answer.json["status"], answer.json["outcome"]) == ("pending", "none")
    assert answer.json["reason"] == "Order cancelled"
    await shop.until_refunds(payment["id"], "completed")


async def test_partial_refunds_add_up_until_nothing_is_left(shop: Shop) -> None:
    """Each one its own id, event and rows; the last one, without an amount, takes the rest."""
    payment = await shop.paid()
    seen = []
    for body in ({"amount": 20}, {"amount": 5.48}, {"amount": None}):
        refund = await shop.refunded(payment["id"], body)
        after = await shop.payment(payment["id"])
        seen.append((refund["amount"], after["status"], after["refundedAmount"]))
    assert seen == [(20.0, "partially_refunded", 20.0), (5.48, "partially_refunded", 25.48), (50.0, "refunded", 75.48)]
    effects = await shop.effects(payment["id"])
    assert effects == [("charge", 7548), ("refund", 2000), ("refund", 548), ("refund", 5000)]
    refunds = await shop.refunds(payment["id"])
    assert len({refund["id"] for refund in refunds}) == 3
    lines = await shop.published(payment["id"], 4)
    assert [line["value"]["data"].get("refund_id") for line in lines[1:]] == [refund["id"] for refund in refunds]
    assert set(shop.balance(payment["id"]).values()) == {0}


@pytest.mark.parametrize(
    ("amount", "left"), [("75.49", "75.48"), ("0.01", "0.00"), ("999999999", "75.48")], ids=["cent", "nothing", "huge"]
)
async def test_more_than_is_left_is_refused_naming_what_is_left(shop: Shop, amount: str, left: str) -> None:
    payment = await shop.paid()
    if left == "0.00":
        # All of it is reserved by a refund that waits for its answer.
        await shop.block("/refunds")
        assert (await shop.ask("refund", payment["id"])).status == 201
    answer = await shop.ask("refund", payment["id"], f'{{"amount": {amount}}}'.encode())
    error = shop.world.refused(answer, 422, "PAY_004")
    assert error["details"] == {"status": "completed", "allowed": "partially_refunded, refunded", "left": left}
    await shop.sims.clear_faults(shop.sims.acquirer)
    if left == "0.00":
        await shop.until_refunds(payment["id"], "completed")
    assert len(await shop.refunds(payment["id"])) == (left == "0.00")


async def test_what_was_never_captured_or_has_gone_back_cannot_be_refunded(shop: Shop) -> None:
    """409 with status and allowed moves, and no trace of the wish."""
    failed = (await shop.world.pay(_body(await shop.world.order(), cards.DECLINED), wait_s=20)).json
    authorized = await shop.authorized()
    refunded = await shop.paid()
    await shop.refunded(refunded["id"])
    for payment, status, allowed in (
        (failed, "failed", ""),
        (authorized, "authorized", "completed, cancelled"),
        (refunded, "refunded", ""),
    ):
        error = shop.world.refused(await shop.ask("refund", payment["id"], {"amount": 1}), 409, "PAY_004")
        assert error["details"] == {"status": status, "allowed": allowed}
        assert error["retry"] == "never"
    assert await shop.refunds(failed["id"]) == await shop.refunds(authorized["id"]) == []


BAD_BODIES = {
    "zero": (b'{"amount": 0}', 422), "negative": (b'{"amount": -1}', 422), "decimals": (b'{"amount": 1.005}', 422),
    "text": (b'{"amount": "10"}', 422), "true": (b'{"amount": true}', 422), "list": (b'{"amount": [1]}', 422),
    "object": (b'{"amount": {}}', 422), "exponent": (b'{"amount": 1e400}', 422), "NaN": (b'{"amount": NaN}', 400),
    "reason a number": (b'{"reason": 1}', 422), "reason empty": (b'{"reason": ""}', 422),
    "reason long": (b'{"reason": "' + b"x" * 256 + b'"}', 422), "not an object": (b"[]", 422), "not JSON": (b"{", 400),
}  # fmt: skip


async def test_amounts_and_reasons_of_the_wrong_kind_are_refused_and_nothing_is_written(shop: Shop) -> None:
    """An idempotency key of a refused request may be left; a payment, a job, an event may not."""
    payment = await shop.paid()
    written, effects = await shop.world.at_rest(), await shop.sims.effects()
    for name, (body, status) in BAD_BODIES.items():
        answer = await shop.ask("refund", payment["id"], body, Idempotency_Key=f"bad {name}")
        error = shop.world.refused(answer, status)
        if name in {"zero", "negative", "decimals", "text", "true", "list", "object", "exponent"}:
            assert (error["code"], error["details"]["field"]) == ("INVALID_AMOUNT", "amount"), name
    answer = await shop.ask("refund", payment["id"], b"amount=1", Content_Type="text/plain")
    shop.world.refused(answer, 415, "UNSUPPORTED_MEDIA_TYPE")
    assert shop.world.written() == written
    assert await shop.sims.effects() == effects


async def test_somebody_elses_payment_is_not_there_for_refunds(shop: Shop) -> None:
    """Asking, listing, reading and every other change: 404, as for a payment that never was. A service may."""
    payment = await shop.paid()
    refund = await shop.refunded(payment["id"], {"amount": 1})
    stranger = token("somebody-else")
    for payment_id, auth in ((payment["id"], stranger), ("pay-00000000000000000000000000" + "00", "")):
        for what in ("refund", "capture", "cancel"):
            answer = await shop.ask(what, payment_id, {}, auth=auth, Idempotency_Key=f"{what} of a stranger")
            shop.world.refused(answer, 404, "PAYMENT_NOT_FOUND")
        for path in ("refunds", f"refunds/{refund['id']}"):
            shop.world.refused(await shop.world.get(f"{PAYMENTS}/{payment_id}/{path}", auth=auth), 404)
    path = f"{PAYMENTS}/{payment['id']}/refunds/ref-00000000000000000000000000"
    shop.world.refused(await shop.world.get(path), 404, "REFUND_NOT_FOUND")
    assert len(await shop.refunds(payment["id"])) == 1
    assert (await shop.ask("refund", payment["id"], {"amount": 1}, auth=service_token())).status == 201


async def test_fifty_racing_refunds_never_give_back_more_than_was_captured(shop: Shop) -> None:
    """Seven of them fit. The others hear 422 (or, when all is back, 409); the acquirer has seen seven."""
    payment = await shop.paid()
    answers = await at_once([shop.ask("refund", payment["id"], {"amount": 10}) for _ in range(50)])
    assert Counter(answer.status for answer in answers) == {201: 7, 422: 43}
    assert {answer.json["error"]["details"]["left"] for answer in answers if answer.status == 422} == {"5.48"}
    await shop.until_refunds(payment["id"], *["completed"] * 7)
    assert await shop.effects(payment["id"]) == [("charge", 7548), *[("refund", 1000)] * 7]
    assert set(shop.balance(payment["id"]).values()) == {548, -548}
    await shop.published(payment["id"], 8)


async def test_a_refund_that_is_asked_while_another_is_on_its_way_delays_neither(shop: Shop) -> None:
    """The second wish changes the record under the first one's answer, which must be kept: not asked for again."""
    payment = await shop.paid()
    await shop.sims.fault(shop.sims.acquirer, "delay", delay_s=0.4, path_contains="/refunds", times=1)
    assert (await shop.ask("refund", payment["id"], {"amount": 10})).status == 201
    await eventually(lambda: _sent(shop, payment["id"]))
    assert (await shop.ask("refund", payment["id"], {"amount": 20})).status == 201
    first, second = await shop.until_refunds(payment["id"], "completed", "completed")
    for refund in (first, second):
        took_ms = from_rfc3339(refund["completedAt"]) - from_rfc3339(refund["createdAt"])
        assert took_ms < float(QUICK["PAYMENTS__WORKER__LEASE_S"]) * 1000, "it has waited for a lease to end"


async def _sent(shop: Shop, payment_id: str) -> bool:
    return len(await shop.effects(payment_id)) == 2


async def test_a_declined_refund_is_failed_and_its_reservation_is_free_again(shop: Shop) -> None:
    """The simulator declines amounts that end in 13. No row, an event of its own, and the whole may still go back."""
    payment = await shop.paid()
    refund = await shop.refunded(payment["id"], {"amount": 10.13, "reason": "too small"})
    assert (refund["status"], refund["outcome"]) == ("failed", "failed")
    assert (refund["failureCode"], refund["failureReason"]) == ("REFUND_DECLINED", "Refund declined")
    assert "transactionId" not in refund
    assert "completedAt" not in refund
    after = await shop.payment(payment["id"])
    assert (after["status"], after["refundedAmount"]) == ("completed", 0)
    _, told = await shop.published(payment["id"], 2)
    assert told["headers"]["ce_type"] == "payment_refund_failed"
    assert told["value"]["user_id"] == payment["userId"]
    assert told["value"]["data"] == {
        "refund_id": refund["id"], "amount": 10.13, "currency": "USD", "reason": "Refund declined",
        "error_code": "REFUND_DECLINED", "failed_at": refund["failedAt"],
    }  # fmt: skip
    assert (await shop.refunded(payment["id"]))["amount"] == 75.48
    assert await shop.effects(payment["id"]) == [("charge", 7548), ("refund", 7548)]


async def test_a_refund_of_unknown_outcome_keeps_its_reservation_and_the_next_one_waits(shop: Shop) -> None:
    """The acquirer gives back and is silent. Until it can be asked, nothing else is sent; then each is done once."""
    payment = await shop.paid()
    await shop.block("/refunds")
    first = (await shop.ask("refund", payment["id"], {"amount": 40})).json
    await shop.until(payment["id"], unknown)
    seen = (await shop.world.get(f"{PAYMENTS}/{payment['id']}/refunds/{first['id']}")).json
    assert (seen["status"], seen["outcome"]) == ("pending", "unknown")
    error = shop.world.refused(await shop.ask("refund", payment["id"], {"amount": 40}), 422, "PAY_004")
    assert error["details"]["left"] == "35.48"
    second = await shop.ask("refund", payment["id"], {"amount": 30}, Prefer="wait=1")
    assert (second.status, second.json["status"], second.json["outcome"]) == (201, "pending", "none")
    assert await shop.effects(payment["id"]) == [("charge", 7548), ("refund", 4000)]
    await shop.sims.clear_faults(shop.sims.acquirer)
    await shop.until_refunds(payment["id"], "completed", "completed")
    assert await shop.effects(payment["id"]) == [("charge", 7548), ("refund", 4000), ("refund", 3000)]
    view = await shop.payment(payment["id"])
    assert [(each["kind"], each["outcome"]) for each in view["attempts"]] == [
        ("charge", "approved"), ("refund", "approved"), ("refund", "approved")
    ]  # fmt: skip
    assert [each["id"] for each in view["attempts"]] == [f"{payment['id']}-a{number}" for number in (1, 2, 3)]


async def test_a_refund_that_never_arrived_is_sent_again_under_the_same_id(shop: Shop) -> None:
    payment = await shop.paid()
    await shop.sims.fault(shop.sims.acquirer, "reset", path_contains="/refunds", method="POST", times=1)
    refund = await shop.refunded(payment["id"], {"amount": 3})
    assert refund["status"] == "completed"
    assert [each["id"] for each in (await shop.payment(payment["id"]))["attempts"]] == [
        f"{payment['id']}-a1", f"{payment['id']}-a2"
    ]  # fmt: skip
    assert await shop.effects(payment["id"]) == [("charge", 7548), ("refund", 300)]


async def test_the_same_key_and_refund_is_the_same_refund_however_often_and_at_once(shop: Shop) -> None:
    payment = await shop.paid()
    body, key = {"amount": 10, "reason": "twice"}, f"refund-{payment['id']}"
    racing = await at_once([shop.ask("refund", payment["id"], body, Idempotency_Key=key) for _ in range(8)])
    assert {(answer.status, answer.json["id"]) for answer in racing} == {(201, racing[0].json["id"])}
    assert Counter(answer.headers.get("Idempotent-Replayed") for answer in racing) == {None: 1, "true": 7}
    await shop.until_refunds(payment["id"], "completed")
    again = await shop.ask("refund", payment["id"], b'{"reason": "twice", "amount": 10.00}', Idempotency_Key=key)
    assert (again.json["status"], again.headers["Idempotent-Replayed"]) == ("completed", "true")
    assert await shop.effects(payment["id"]) == [("charge", 7548), ("refund", 1000)]


async def test_a_key_stands_for_one_request_only(shop: Shop) -> None:
    """Another amount, reason, payment, or another route: 422 naming what differs, and nothing goes back."""
    payment, other = await shop.paid(), await shop.paid()
    key = f"one-{payment['id']}"
    assert (await shop.ask("refund", payment["id"], {"amount": 10}, Idempotency_Key=key)).status == 201
    for target, what, body, field in (
        (payment, "refund", {"amount": 11}, "amount"),
        (payment, "refund", {}, "amount"),
        (payment, "refund", {"amount": 10, "reason": "another"}, "reason"),
        (other, "refund", {"amount": 10}, "paymentId"),
        (payment, "capture", {"amount": 10}, "route"),
        (payment, "cancel", {}, "route"),
    ):
        answer = await shop.ask(what, target["id"], body, Idempotency_Key=key)
        error = shop.world.refused(answer, 422, "IDEMPOTENCY_KEY_REUSED")
        assert (error["details"]["field"], error["retry"]) == (field, "new_key")
    body_of_another = payment_body(await shop.world.order())
    shop.world.refused(await shop.world.pay(body_of_another, key=key), 422, "IDEMPOTENCY_KEY_REUSED")
    paying = f"paying-{payment['id']}"
    assert (await shop.world.pay(body_of_another, key=paying)).status == 201
    answer = await shop.ask("refund", payment["id"], {"amount": 10}, Idempotency_Key=paying)
    assert shop.world.refused(answer, 422, "IDEMPOTENCY_KEY_REUSED")["details"]["field"] == "route"
    await shop.until_refunds(payment["id"], "completed")
    assert await shop.refunds(other["id"]) == []


async def test_a_refusal_leaves_the_key_for_what_is_possible(shop: Shop) -> None:
    payment, key = await shop.paid(), "too much, then less"
    too_much = await shop.ask("refund", payment["id"], {"amount": 80}, Idempotency_Key=key)
    shop.world.refused(too_much, 422, "PAY_004")
    known = await shop.world.get(f"/api/idempotency-keys/{quote(key)}")
    shop.world.refused(known, 404, "IDEMPOTENCY_KEY_NOT_FOUND")
    less = await shop.ask("refund", payment["id"], {"amount": 5}, Idempotency_Key=key)
    assert (less.status, less.headers.get("Idempotent-Replayed")) == (201, None)
    used = await shop.world.get(f"/api/idempotency-keys/{quote(key)}")
    assert (used.json["state"], used.json["paymentId"]) == ("used", payment["id"])


async def test_refunds_of_many_payments_at_once_all_end(shop: Shop) -> None:
    """Each by itself: no payment waits for another's refund."""
    payments = await asyncio.gather(*(shop.paid() for _ in range(12)))
    refunds = await asyncio.gather(*(shop.refunded(payment["id"], {"amount": 7}) for payment in payments))
    assert {refund["status"] for refund in refunds} == {"completed"}


def _body(order: str, number: str) -> dict[str, Any]:
    return payment_body(order, cardNumber=number)
