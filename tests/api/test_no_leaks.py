"""A card that was sent is seen by the acquirer alone: in no answer, log line, event, metric or record does it stand."""

from __future__ import annotations

import pytest

from tests.api.bad_input import ALL_CASES, CVV, ORDER, PAN, SECRETS, good
from tests.api.raw import exchange, head
from tests.api.world import PAYMENTS, USER, Answer, World, as_json, running_world, shown, token

pytestmark = pytest.mark.asyncio(loop_scope="module")

DECLINED, UNANSWERED = "4000000000000002", "4009730000000302"
CANARIES = (*SECRETS, DECLINED, UNANSWERED)


async def everything_that_can_happen_to_a_card(world: World) -> list[Answer]:
    """Every bad request there is, a good one, and cards that are declined or never answered for."""
    await world.sims.order(ORDER)
    answers = [await world.pay(case.body) for case in ALL_CASES]
    answers += [
        await world.pay(as_json(good()), auth="a.b.c"),
        await world.pay(as_json(good()), auth=token("mallory")),
        await world.pay(as_json(good()), key="x" * 256),
        await world.pay(as_json(good() | {"orderId": "order-unknown"})),
        await world.pay(as_json(good(), amount="75.47")),
        await world.get(f"/{PAN}?cvv={CVV}"),
        await world.get(f"{PAYMENTS}/{PAN}"),
    ]
    await exchange(world.engine.port, head(length=10) + as_json(good()))
    await world.sims.fault(world.sims.orders, "wrong_json", times=3, method="GET")
    answers.append(await world.pay(as_json(good())))
    await world.sims.fault(world.sims.acquirer, "reset", times=1)
    answers.append(await world.pay(as_json(good()), key="canary"))
    answers.append(await world.pay(as_json(good()), key="canary"))
    answers.append(await world.pay(as_json(good())))
    await world.paid(cardNumber=UNANSWERED, cvv=CVV, wait_s=None)
    assert (await world.paid(cardNumber=DECLINED, cvv=CVV))["status"] == "failed"
    answers += [
        await world.get(path) for path in (f"{PAYMENTS}/user/{USER}", "/api/idempotency-keys/canary", "/metrics")
    ]
    return answers


async def test_no_card_stands_anywhere_it_was_not_sent() -> None:
    async with running_world() as world:
        answers = await everything_that_can_happen_to_a_card(world)
        records = repr(world.written())
        await world.engine.stop()
        places = {
            "the log": world.engine.log.read_text(),
            "the events": world.engine.events_file.read_text(),
            "the records": records,
            "the acquirer's journal": repr(await world.sims.effects()),
        }
    assert {answer.status for answer in answers} >= {200, 201, 400, 401, 403, 404, 409, 422, 502}
    assert "settled" in places["the log"]
    assert [answer for answer in answers if any(answer.shows(canary) for canary in CANARIES)] == []
    for name, text in places.items():
        assert not [canary for canary in CANARIES if shown(canary, text)], f"a card stands in {name}"
