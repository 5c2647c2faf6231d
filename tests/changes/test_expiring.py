"""Authorizations do not last: what is not captured in time is released, by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from engine.ids import from_rfc3339, now_ms
from tests.api.world import payment_body
from tests.changes.shop import Shop, not_authorized, running_shop, unknown

pytestmark = pytest.mark.asyncio(loop_scope="module")

AUTHORIZED_FOR_S = 2.5


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shop() -> AsyncIterator[Shop]:
    """An engine, and an acquirer that holds money for a moment only."""
    async with running_shop(authorized_for_s=AUTHORIZED_FOR_S) as running:
        yield running
        await running.audit_is_clean()


async def test_an_authorization_that_expires_is_cancelled_by_itself(shop: Shop) -> None:
    """Not before its time; the acquirer is told; the order is free again; then it cannot be captured any more."""
    order = await shop.world.order()
    payment = await shop.authorized(order=order)
    ended = await shop.until(payment["id"], not_authorized)
    assert ended["status"] == "cancelled"
    assert from_rfc3339(ended["cancelledAt"]) >= from_rfc3339(payment["authorizedUntil"])
    told = (await shop.published(payment["id"], 2))[1]["value"]
    assert (told["event_type"], told["data"]["reason"]) == ("payment_cancelled", "authorization expired")
    decision = await shop.decision("voids", f"{payment['id']}-a2")
    assert decision is not None
    assert decision["status"] == "approved"
    shop.world.refused(await shop.ask("capture", payment["id"]), 409, "ILLEGAL_MOVE")
    assert (await shop.world.pay(payment_body(order), wait_s=20)).json["status"] == "completed"


async def test_a_capture_that_comes_too_late_is_declined_and_then_the_authorization_expires(shop: Shop) -> None:
    """The first try is lost on its way, the second finds the hold gone. No money moves, and nobody is told it did."""
    payment = await shop.authorized()
    await shop.sims.fault(shop.sims.acquirer, "silence", path_contains="/captures", method="POST", times=1)
    await shop.sims.fault(shop.sims.acquirer, "status", status=503, path_contains="/captures", method="GET")
    assert (await shop.ask("capture", payment["id"])).status == 202
    await shop.until(payment["id"], unknown)
    await shop.until(payment["id"], lambda payment: _is_over(payment["authorizedUntil"]))
    await shop.sims.clear_faults(shop.sims.acquirer)
    refused = await shop.until(payment["id"], lambda payment: bool(payment["attempts"][-1]["outcome"] == "rejected"))
    assert (refused["status"], refused["outcome"]) == ("authorized", "succeeded")
    assert len(refused["attempts"]) == 2
    assert await shop.effects(payment["id"]) == []
    assert shop.balance(payment["id"]) == {}
    shop.look_again_at(payment["id"], 0)
    ended = await shop.until(payment["id"], not_authorized)
    assert ended["status"] == "cancelled"
    assert [each["kind"] for each in ended["attempts"]] == ["authorize", "capture", "void"]
    lines = await shop.published(payment["id"], 2)
    assert [line["value"]["event_type"] for line in lines] == ["payment_authorized", "payment_cancelled"]


async def test_what_was_captured_in_time_does_not_expire(shop: Shop) -> None:
    for _ in range(5):
        payment = await shop.authorized()
        answer = await shop.ask("capture", payment["id"], Prefer="wait=20")
        if now_ms() < from_rfc3339(payment["authorizedUntil"]):
            break
        # This machine was too busy: the authorization may have been over before it was captured.
    else:
        pytest.fail("a capture never ended within the time of its authorization")
    captured = answer.json
    assert captured["status"] == "completed"
    await shop.until(payment["id"], lambda _: _is_over(payment["authorizedUntil"], grace_ms=600))
    assert (await shop.payment(payment["id"])) == captured
    await shop.published(payment["id"], 2)


def _is_over(until: str, grace_ms: int = 0) -> bool:
    return now_ms() > from_rfc3339(until) + grace_ms
