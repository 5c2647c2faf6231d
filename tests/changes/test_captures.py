"""Authorize, then capture or cancel: one of the two, once, and the acquirer's books agree."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from engine.ids import from_rfc3339, now_ms
from simulators import cards
from tests.api.world import TIME, payment_body
from tests.changes.shop import Shop, at_once, not_authorized, running_shop, status, unknown

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROUNDS = 20


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shop() -> AsyncIterator[Shop]:
    """An engine that gives up on the acquirer early; at the end its books must be clean."""
    async with running_shop() as running:
        yield running
        await running.audit_is_clean()


async def test_a_manual_payment_is_authorized_and_moves_no_money(shop: Shop) -> None:
    """It says until when; the event says so too; there is no ledger row and no effect at the acquirer."""
    payment = await shop.authorized()
    assert (payment["status"], payment["outcome"]) == ("authorized", "succeeded")
    assert TIME.fullmatch(payment["authorizedUntil"])
    days = (from_rfc3339(payment["authorizedUntil"]) - now_ms()) / 86_400_000
    assert 6.9 < days <= 7
    assert not {"completedAt", "capturedAmount", "cancelledAt"} & payment.keys()
    (told,) = await shop.published(payment["id"], 1)
    assert told["value"]["event_type"] == "payment_authorized"
    data = told["value"]["data"]
    assert (data["amount"], data["transaction_id"]) == (75.48, payment["transactionId"])
    assert data["expires_at"] == payment["authorizedUntil"]
    assert told["headers"]["ce_time"] == data["authorized_at"] == payment["attempts"][0]["endedAt"]
    assert await shop.effects(payment["id"]) == []
    assert shop.balance(payment["id"]) == {}


async def test_a_card_that_is_declined_is_not_authorized(shop: Shop) -> None:
    order = await shop.world.order()
    body = {**payment_body(order, cardNumber=cards.INSUFFICIENT_FUNDS), "capture": "manual"}
    payment = (await shop.world.pay(body, wait_s=20)).json
    assert (payment["status"], payment["failureCode"]) == ("failed", "PAY_002")
    assert [attempt["kind"] for attempt in payment["attempts"]] == ["authorize"]


async def test_a_capture_takes_all_by_default(shop: Shop) -> None:
    """200 with the completed payment, event, rows, and one effect."""
    payment = await shop.authorized()
    answer = await shop.ask("capture", payment["id"], Prefer="wait=20")
    assert (answer.status, answer.json["status"]) == (200, "completed")
    assert TIME.fullmatch(answer.json["completedAt"])
    assert not {"capturedAmount", "authorizedUntil"} & answer.json.keys()
    assert await shop.effects(payment["id"]) == [("capture", 7548)]
    assert shop.balance(payment["id"]) == {"acquirer:card_acquirer": 7548, "merchant:core": -7548}
    _, completed = await shop.published(payment["id"], 2)
    assert completed["value"]["event_type"] == "payment_completed"
    assert completed["value"]["data"] == {
        "amount": 75.48, "currency": "USD", "transaction_id": payment["transactionId"],
        "completed_at": answer.json["completedAt"],
    }  # fmt: skip


async def test_a_partial_capture_releases_the_rest_and_bounds_the_refunds(shop: Shop) -> None:
    payment = await shop.authorized()
    answer = await shop.ask("capture", payment["id"], {"amount": 50}, Prefer="wait=20")
    assert (answer.json["status"], answer.json["amount"], answer.json["capturedAmount"]) == ("completed", 75.48, 50.0)
    assert (await shop.published(payment["id"], 2))[1]["value"]["data"]["amount"] == 50.0
    error = shop.world.refused(await shop.ask("refund", payment["id"], {"amount": 50.01}), 422, "PAY_004")
    assert error["details"]["left"] == "50.00"
    assert (await shop.refunded(payment["id"]))["amount"] == 50.0
    assert (await shop.payment(payment["id"]))["status"] == "refunded"
    assert await shop.effects(payment["id"]) == [("capture", 5000), ("refund", 5000)]
    assert set(shop.balance(payment["id"]).values()) == {0}


async def test_a_second_capture_is_refused_naming_the_moves_that_are_left(shop: Shop) -> None:
    """Also for what is left over: a partial capture is allowed once."""
    payment = await shop.authorized()
    await shop.ask("capture", payment["id"], {"amount": 50}, Prefer="wait=20")
    for what, body in (("capture", {"amount": 25.48}), ("capture", {}), ("cancel", {})):
        error = shop.world.refused(await shop.ask(what, payment["id"], body), 409, "ILLEGAL_MOVE")
        assert error["details"] == {"status": "completed", "allowed": "partially_refunded, refunded"}
    assert await shop.effects(payment["id"]) == [("capture", 5000)]


async def test_amounts_that_cannot_be_captured_are_refused_and_nothing_is_written(shop: Shop) -> None:
    payment = await shop.authorized()
    written = await shop.world.at_rest()
    for amount in ("75.49", "0", "-1", "1.001", '"5"', "true", "[]"):
        answer = await shop.ask("capture", payment["id"], f'{{"amount": {amount}}}'.encode())
        shop.world.refused(answer, 422, "INVALID_AMOUNT")
    shop.world.refused(await shop.ask("capture", payment["id"], b"{"), 400, "INVALID_JSON")
    shop.world.refused(await shop.ask("cancel", payment["id"], {"reason": 1}), 422)
    assert shop.world.written() == written
    assert (await shop.payment(payment["id"]))["status"] == "authorized"


async def test_a_cancelled_payment_gives_the_order_free_and_is_cancelled_for_good(shop: Shop) -> None:
    """Event with the reason; no effect, no row; nothing else can be asked; the order can be paid again."""
    order = await shop.world.order()
    payment = await shop.authorized(order=order)
    shop.world.refused(await shop.world.pay(payment_body(order)), 409, "PAY_003")
    answer = await shop.ask("cancel", payment["id"], {"reason": "out of stock"}, Prefer="wait=20")
    assert (answer.status, answer.json["status"], answer.json["outcome"]) == (200, "cancelled", "none")
    assert "authorizedUntil" not in answer.json
    told = (await shop.published(payment["id"], 2))[1]["value"]
    assert (told["event_type"], told["user_id"]) == ("payment_cancelled", payment["userId"])
    assert told["data"] == {"reason": "out of stock", "cancelled_at": answer.json["cancelledAt"]}
    for what in ("capture", "cancel"):
        error = shop.world.refused(await shop.ask(what, payment["id"]), 409, "ILLEGAL_MOVE")
        assert error["details"] == {"status": "cancelled", "allowed": ""}
    shop.world.refused(await shop.ask("refund", payment["id"]), 409, "PAY_004")
    assert await shop.effects(payment["id"]) == []
    assert shop.balance(payment["id"]) == {}
    again = await shop.world.pay(payment_body(order), wait_s=20)
    assert (again.status, again.json["status"]) == (201, "completed")


async def test_a_payment_that_is_not_authorized_cannot_be_captured_or_cancelled(shop: Shop) -> None:
    """An automatic one that has ended, and a manual one whose authorization nobody knows of."""
    paid = await shop.paid()
    for what in ("capture", "cancel"):
        error = shop.world.refused(await shop.ask(what, paid["id"]), 409, "ILLEGAL_MOVE")
        assert error["details"]["status"] == "completed"
    await shop.block("/charges")
    body = {**payment_body(await shop.world.order()), "capture": "manual"}
    open_one = (await shop.world.pay(body)).json
    for what in ("capture", "cancel"):
        error = shop.world.refused(await shop.ask(what, open_one["id"]), 409, "ILLEGAL_MOVE")
        assert error["details"]["status"] == "processing"
    await shop.sims.clear_faults(shop.sims.acquirer)
    authorized = await shop.until(open_one["id"], lambda payment: bool(payment["status"] != "processing"))
    assert (authorized["status"], len(authorized["attempts"])) == ("authorized", 1)


async def test_without_a_wish_to_wait_the_answer_is_202_and_a_second_wish_is_refused(shop: Shop) -> None:
    """While the acquirer is being asked, the refusal says so."""
    for what, doing, path, wanted in (
        ("capture", "authorized and being captured", "/captures", "completed"),
        ("cancel", "authorized and being cancelled", "/voids", "cancelled"),
    ):
        payment = await shop.authorized()
        await shop.block(path)
        answer = await shop.ask(what, payment["id"])
        assert (answer.status, answer.json["status"]) == (202, "authorized")
        for second in ("capture", "cancel"):
            error = shop.world.refused(await shop.ask(second, payment["id"]), 409, "ILLEGAL_MOVE")
            assert error["details"] == {"status": doing, "allowed": ""}
        await shop.sims.clear_faults(shop.sims.acquirer)
        assert (await shop.until(payment["id"], status(wanted)))["attempts"]


async def test_racing_captures_and_cancellations_end_in_exactly_one_of_the_two(shop: Shop) -> None:
    """Each round: one is taken, the others are refused, and the acquirer has done just that one."""
    payments = await asyncio.gather(*(shop.authorized() for _ in range(ROUNDS)))

    async def race(number: int, payment_id: str) -> str:
        asked = ["capture", "cancel"] * 2 if number % 2 else ["cancel", "capture"] * 2
        answers = await at_once([shop.ask(what, payment_id) for what in asked])
        assert sorted(answer.status for answer in answers)[0] in (200, 202)
        assert Counter(answer.status for answer in answers)[409] == 3
        taken = next(what for what, answer in zip(asked, answers, strict=True) if answer.status != 409)
        ended = await shop.until(payment_id, not_authorized)
        assert ended["status"] == {"capture": "completed", "cancel": "cancelled"}[taken]
        assert [each["kind"] for each in ended["attempts"]] == ["authorize", {"cancel": "void"}.get(taken, taken)]
        assert await shop.effects(payment_id) == ([("capture", 7548)] if taken == "capture" else [])
        capture, void = [await shop.decision(path, f"{payment_id}-a2") for path in ("captures", "voids")]
        assert (capture is not None, void is not None) == (taken == "capture", taken == "cancel")
        return taken

    outcomes = Counter(await asyncio.gather(*(race(n, payment["id"]) for n, payment in enumerate(payments))))
    assert outcomes.total() == ROUNDS
    assert len(outcomes) == 2, "the race was none"


async def test_captures_and_voids_of_unknown_outcome_are_asked_about_and_done_once(shop: Shop) -> None:
    """The acquirer has done it, and says nothing. The payment stays authorized until somebody knows."""
    for what, path, wanted, kind in (
        ("capture", "/captures", "completed", "capture"),
        ("cancel", "/voids", "cancelled", "void"),
    ):
        payment = await shop.authorized()
        await shop.block(path)
        answer = await shop.ask(what, payment["id"])
        assert answer.status == 202
        seen = await shop.until(payment["id"], unknown)
        assert (seen["status"], seen["attempts"][-1]["outcome"]) == ("authorized", "unknown")
        for other in ("capture", "cancel"):
            shop.world.refused(await shop.ask(other, payment["id"]), 409, "ILLEGAL_MOVE")
        await shop.sims.clear_faults(shop.sims.acquirer)
        ended = await shop.until(payment["id"], status(wanted))
        assert [(each["kind"], each["outcome"]) for each in ended["attempts"]] == [
            ("authorize", "approved"), (kind, "approved")
        ]  # fmt: skip
        assert len(await shop.effects(payment["id"])) == (what == "capture")


async def test_the_same_key_captures_or_cancels_once_and_says_that_it_was_repeated(shop: Shop) -> None:
    for what, body, other in (("capture", {"amount": 5}, {"amount": 6}), ("cancel", {"reason": "a"}, {"reason": "b"})):
        payment = await shop.authorized()
        key = f"{what}-{payment['id']}"
        racing = await at_once([shop.ask(what, payment["id"], body, Idempotency_Key=key) for _ in range(4)])
        assert {answer.status for answer in racing} <= {200, 202}
        assert Counter(answer.headers.get("Idempotent-Replayed") for answer in racing) == {None: 1, "true": 3}
        error = shop.world.refused(await shop.ask(what, payment["id"], other, Idempotency_Key=key), 422)
        assert error["code"] == "IDEMPOTENCY_KEY_REUSED"
        await shop.until(payment["id"], not_authorized)
        again = await shop.ask(what, payment["id"], body, Idempotency_Key=key)
        assert (again.status, again.headers["Idempotent-Replayed"]) == (200, "true")
        assert await shop.effects(payment["id"]) == ([("capture", 500)] if what == "capture" else [])
