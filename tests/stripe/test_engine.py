"""The whole engine with Stripe as its acquirer and localstripe behind it: what users see, and what really moved."""

from __future__ import annotations

import hmac
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import sha256
from typing import Any, Final

import pytest
import pytest_asyncio

from simulators.acquirer import AcquirerSim
from simulators.server import serve
from tests.api.world import PAYMENTS, Answer, eventually, payment_body, shown
from tests.changes.shop import FAR_MS, Shop, running_shop, status, unknown
from tests.stripe.door import OWNER_NEEDED, Door, Fault
from tests.stripe.local import localstripe

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY: Final = "sk_test_canary40097300000009"
SECRET: Final = "whsec_canary40097300000008"
HOOK: Final = "/api/webhooks/stripe"
CARD: Final = "4716048293501702"
CANARIES: Final = (CARD, OWNER_NEEDED, "4000000000009995", KEY, SECRET)
CVV: Final = re.compile(r"(?i)cv[vc]\W{0,5}973\b|\"973\"")


class Till:
    """A shop that charges at Stripe, with a second acquirer of our own kind behind it."""

    def __init__(self, shop: Shop, door: Door, backup: str) -> None:
        self.shop, self.door, self.backup = shop, door, backup
        self.answers: list[Answer] = []

    async def pay(self, *, capture: str = "automatic", **card: str) -> dict[str, Any]:
        """A payment, as it is when the engine has done what it could at once."""
        order = await self.shop.world.order()
        body = payment_body(order, **{"cardNumber": CARD, "cvv": "973", **card}) | {"capture": capture}
        answer = await self.shop.world.pay(body, wait_s=20 if not self.door.faults else None)
        self.answers.append(answer)
        assert answer.status == 201, answer
        return dict(answer.json)

    async def charged(self, payment_id: str) -> list[int]:
        """What localstripe has charged for a payment."""
        intents = await self.door.all("payment_intents")
        ours = [intent["id"] for intent in intents if intent["metadata"]["payment_id"] == payment_id]
        charges = await self.door.all("charges")
        return [each["amount"] for each in charges if each["payment_intent"] in ours and each["paid"]]

    async def refunded(self, payment_id: str) -> list[int]:
        """What localstripe has given back, by our refunds."""
        refunds = await self.door.all("refunds")
        return [each["amount"] for each in refunds if each["metadata"].get("payment_id") == payment_id]

    async def at_backup(self, payment_id: str) -> int:
        """How often the second acquirer has moved money for a payment."""
        async with self.shop.sims.session.get(f"{self.backup}/journal") as response:
            effects = (await response.json())["effects"]
        return sum(effect["reference"] == payment_id for effect in effects)

    async def hint(self, attempt: str, *, secret: str = SECRET, kind: str = "payment_intent.succeeded") -> Answer:
        """An event about an attempt."""
        event = {"id": "evt_1", "type": kind, "data": {"object": {"id": "pi_1", "metadata": {"attempt_id": attempt}}}}
        body, at_s = json.dumps(event).encode(), int(time.time())
        signature = hmac.new(secret.encode(), b"%d.%s" % (at_s, body), sha256).hexdigest()
        headers = {"Content-Type": "application/json", "Stripe-Signature": f"t={at_s},v1={signature}"}
        return await self.shop.world.send("POST", HOOK, body=body, auth=None, headers=headers)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def till() -> AsyncIterator[Till]:
    """One engine for all tests; at the end its books must be clean, and no secret may stand anywhere."""
    with localstripe() as local:
        door = Door(local)
        async with serve(door) as url, serve(AcquirerSim(None)) as backup:
            settings = {
                "PAYMENTS__ACQUIRER__KIND": "stripe", "PAYMENTS__ACQUIRER__URL": url,
                "PAYMENTS__ACQUIRER__API_KEY": KEY, "PAYMENTS__ACQUIRER__WEBHOOK_SECRET": SECRET,
                "PAYMENTS__ACQUIRER__GUARD__TIMEOUT_S": "2.0", "PAYMENTS__ACQUIRER__GUARD__DEADLINE_S": "5.0",
                "PAYMENTS__WORKER__LEASE_S": "10", "PAYMENTS__WORKER__CLAIM_IDLE_S": "10",
                "PAYMENTS__FALLBACKS__BACKUP__URL": backup, "PAYMENTS__FALLBACKS__BACKUP__GUARD__DEADLINE_S": "5.0",
                "PAYMENTS__FALLBACKS__BACKUP__GUARD__TIMEOUT_S": "2.0", "PAYMENTS__SERVER__LOG_LEVEL": "debug",
            }  # fmt: skip
            async with running_shop(settings) as shop:
                till = Till(shop, door, backup)
                yield till
                await shop.audit_is_clean()
                await _no_secret_anywhere(till)


async def _no_secret_anywhere(till: Till) -> None:
    world = till.shop.world
    config = await till.shop.run("check-config")
    await world.log_lines()
    places = {
        "the log": world.engine.log.read_text(), "the events": world.engine.events_file.read_text(),
        "the records": repr(world.written()), "the metrics": (await world.get("/metrics")).text,
        "the configuration": config.out + config.err, "the document": (await world.get("/openapi.json")).text,
        "the answers": "\n".join(answer.text for answer in till.answers),
    }  # fmt: skip
    assert "attempt settled" in places["the log"] and '"kind": "stripe"' in places["the configuration"]
    for name, text in places.items():
        assert not [canary for canary in CANARIES if shown(canary, text)], f"a secret stands in {name}"
        assert not CVV.search(text), f"the code stands in {name}"
    sent = {value for seen in till.door.seen for value in seen.form.values()}
    assert "973" in sent or not till.answers, "Stripe alone has seen the cards"


async def test_a_card_is_paid_once(till: Till) -> None:
    payment = await till.pay()
    assert (payment["status"], payment["outcome"]) == ("completed", "succeeded")
    assert await till.charged(payment["id"]) == [7548] and await till.at_backup(payment["id"]) == 0


async def test_a_card_without_money_is_declined_in_the_contracts_words(till: Till) -> None:
    payment = await till.pay(cardNumber="4000000000009995")
    assert (payment["status"], payment["failureCode"]) == ("failed", "PAY_002")
    assert await till.charged(payment["id"]) == [] and await till.at_backup(payment["id"]) == 0


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_card_that_wants_3d_secure_is_declined(till: Till, at_once: bool) -> None:
    till.door.fails_when_owner_needed = at_once
    payment = await till.pay(cardNumber=OWNER_NEEDED)
    assert (payment["status"], payment["failureCode"]) == ("failed", "AUTHENTICATION_REQUIRED")
    assert await till.charged(payment["id"]) == []


async def test_an_authorization_is_captured_in_part_and_refunded_in_part(till: Till) -> None:
    payment = await till.pay(capture="manual")
    assert payment["status"] == "authorized"
    captured = await till.shop.ask("capture", payment["id"], {"amount": 50.00}, Prefer="wait=20")
    assert (captured.status, captured.json["status"]) == (200, "completed")
    refund = await till.shop.refunded(payment["id"], {"amount": 12.34})
    assert refund["status"] == "completed" and await till.refunded(payment["id"]) == [1234]
    assert (await till.shop.payment(payment["id"]))["status"] == "partially_refunded"


async def test_an_authorization_is_cancelled(till: Till) -> None:
    payment = await till.pay(capture="manual")
    cancelled = await till.shop.ask("cancel", payment["id"], Prefer="wait=20")
    assert (cancelled.status, cancelled.json["status"]) == (200, "cancelled")
    intents = await till.door.all("payment_intents")
    assert [i["status"] for i in intents if i["metadata"]["payment_id"] == payment["id"]] == ["canceled"]


@pytest.mark.parametrize("lost", [0, -1, 500])
async def test_a_lost_answer_is_found_again_and_nobody_pays_twice(till: Till, lost: int) -> None:
    till.door.faults.append(Fault("/confirm", acts=True, status=lost))
    payment = await till.shop.until((await till.pay())["id"], status("completed"))
    assert await till.charged(payment["id"]) == [7548] and await till.at_backup(payment["id"]) == 0
    assert [attempt["outcome"] for attempt in payment["attempts"]] == ["approved"]


async def test_a_charge_that_was_lost_on_the_way_is_sent_again(till: Till) -> None:
    till.door.faults.append(Fault("/confirm", acts=False, status=-1))
    payment = await till.shop.until((await till.pay())["id"], status("completed"))
    assert await till.charged(payment["id"]) == [7548] and await till.at_backup(payment["id"]) == 0


async def test_a_lost_refund_is_found_again_and_given_once(till: Till) -> None:
    payment = await till.pay()
    till.door.faults.append(Fault("/refunds", acts=True, status=500))
    await till.shop.ask("refund", payment["id"], {"amount": 10})
    await till.shop.until_refunds(payment["id"], "completed")
    assert await till.refunded(payment["id"]) == [1000]


async def test_another_acquirer_is_tried_when_stripe_cannot_begin(till: Till) -> None:
    """No card was sent to Stripe, so it is certain that nothing moved there."""
    till.door.faults += [Fault(r"POST .*payment_intents\Z", acts=True, status=500)] * 3
    payment = await till.shop.until((await till.pay())["id"], status("completed"))
    till.door.faults.clear()
    assert await till.charged(payment["id"]) == [] and await till.at_backup(payment["id"]) == 1


async def test_an_event_makes_an_open_payment_be_looked_at_now(till: Till) -> None:
    till.door.faults.append(Fault("/confirm", acts=True, status=500))
    till.door.faults += [Fault("GET .*payment_intents/pi_", acts=False, status=429)] * 3
    payment = await till.shop.until((await till.pay())["id"], unknown)
    till.shop.look_again_at(payment["id"], FAR_MS)
    till.door.faults.clear()
    assert (await till.hint(payment["attempts"][-1]["id"])).json == {"received": True}
    assert (await till.shop.until(payment["id"], status("completed")))["attempts"][-1]["outcome"] == "approved"


async def test_the_events_that_localstripe_signs_are_taken(till: Till) -> None:
    """Another hand than ours has made these signatures."""
    world = till.shop.world

    async def taken() -> float:
        return await world.metric("http_requests_total", route=HOOK, status="200")

    before = await taken()
    await till.door.tell(world.engine.base + HOOK, SECRET)
    await till.pay()
    assert await eventually(lambda: _more_than(before, taken), within_s=25)


async def _more_than(before: float, count: Callable[[], Awaitable[float]]) -> bool | None:
    return await count() > before or None


async def test_events_that_say_nothing_of_use_change_nothing(till: Till) -> None:
    """Said of a payment that has failed here, or of none: 200, so that it is not sent for days; nothing is written."""
    payment = await till.pay(cardNumber="4000000000009995")
    async with till.shop.world.nothing_written():
        for attempt in (f"{payment['id']}-a1", f"{payment['id'][:-2]}ff-a1", "pay-1-a1", "", "x" * 60_000):
            assert (await till.hint(attempt)).status == 200
        assert (await till.hint(f"{payment['id']}-a1", kind="payment_intent.created")).status == 200


async def test_events_that_are_not_signed_are_refused(till: Till) -> None:
    send = till.shop.world.send
    json_type = {"Content-Type": "application/json"}
    forged = await till.hint("pay-1-a1", secret="whsec_other")
    unsigned = await send("POST", HOOK, body=b"{}", auth=None, headers=json_type)
    for answer in (forged, unsigned):
        till.shop.world.refused(answer, 400, "BAD_SIGNATURE")
    large = await send("POST", HOOK, body=b"x" * 70_000, auth=None, headers=json_type)
    till.shop.world.refused(large, 413, "BODY_TOO_LARGE")
    till.shop.world.refused(await send("POST", HOOK, body=b"{}", auth=None), 415)


async def test_without_a_secret_there_is_no_such_path() -> None:
    async with running_shop() as shop:
        answer = await shop.world.send("POST", HOOK, body=b"{}", headers={"Content-Type": "application/json"})
        assert answer.status == 404
        assert HOOK not in (await shop.world.get("/openapi.json")).json["paths"]
        assert PAYMENTS in (await shop.world.get("/openapi.json")).json["paths"]
