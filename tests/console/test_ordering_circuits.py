"""Circuits by hand over HTTP: who may, what is refused, and that every process follows, a new one too."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.api.world import eventually, payment_body
from tests.console.world import OPERATOR, Operator
from tests.support import token

pytestmark = pytest.mark.asyncio(loop_scope="package")

ACTIONS = ("force-open", "close", "reset")


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(
    ("auth", "status", "code"),
    [("", 401, "UNAUTHORIZED"), (token(), 403, "FORBIDDEN"), (token("shop", role="service"), 403, "FORBIDDEN")],
)
async def test_only_an_administrator_may_touch_a_circuit(
    operator: Operator, action: str, auth: str, status: int, code: str
) -> None:
    before = operator.world.written()
    operator.world.refused(await operator.order("user_service", action, auth=auth), status, code)
    assert operator.world.written() == before


@pytest.mark.parametrize(
    ("name", "action", "reason", "status", "code"),
    [
        ("nobody", "force-open", "why not", 404, "CIRCUIT_NOT_FOUND"),
        ("vault", "force-open", "it has no circuit", 404, "CIRCUIT_NOT_FOUND"),
        ("user_service", "force-close", "no such action", 404, "NOT_FOUND"),
        ("user_service", "force-open", "", 422, "INVALID_REQUEST"),
        ("user_service", "force-open", " ", 422, "INVALID_REQUEST"),
        ("user_service", "force-open", "two\nlines", 422, "INVALID_REQUEST"),
        ("user_service", "force-open", "x" * 201, 422, "INVALID_REQUEST"),
        ("user_service", "force-open", None, 422, "INVALID_REQUEST"),
        ("user_service", "force-open", "card 4242 4242 4242 4242 was lost", 422, "INVALID_FIELD"),
    ],
)
async def test_bad_orders_are_refused_and_nothing_is_written(
    operator: Operator, name: str, action: str, reason: Any, status: int, code: str
) -> None:
    before = operator.world.written()
    operator.world.refused(await operator.order(name, action, reason), status, code)
    assert operator.world.written() == before
    assert set((await operator.states()).values()) == {"closed"}


async def test_a_body_is_needed(operator: Operator) -> None:
    operator.world.refused(await operator.order("user_service", "reset", body=b"{}"), 422, "INVALID_REQUEST")
    operator.world.refused(await operator.order("user_service", "reset", body=b"no"), 400, "INVALID_JSON")


async def test_an_order_is_in_force_here_at_once_and_in_the_other_process_soon(operator: Operator) -> None:
    answer = await operator.order("order_service", "force-open", "it double-books")
    assert answer.status == 200
    assert {name: answer.json[name] for name in ("counterparty", "action", "actor", "reason")} == {
        "counterparty": "order_service", "action": "force-open", "actor": OPERATOR, "reason": "it double-books",
    }  # fmt: skip
    assert (await operator.states())["order_service"] == "forced_open"
    refused = await operator.world.pay(payment_body(await operator.world.order()))
    operator.world.refused(refused, 503, "ORDER_SERVICE_UNAVAILABLE")

    async def followed() -> bool:
        return (await operator.states(operator.second))["order_service"] == "forced_open"

    assert await eventually(followed)
    body = payment_body(await operator.world.order())
    assert (await operator.second.post(body)).status == 503

    later = await operator.order("order_service", "reset", "mended")
    assert later.json["generation"] > answer.json["generation"]
    assert (await operator.world.pay(payment_body(await operator.world.order()))).status == 201

    async def followed_again() -> bool:
        return (await operator.second.post(body)).status == 201

    assert await eventually(followed_again)


async def test_a_circuit_that_is_held_closed_says_so_everywhere(operator: Operator) -> None:
    assert (await operator.order("card_acquirer", "close", "let them answer")).status == 200
    assert (await operator.states())["card_acquirer"] == "forced_closed"

    async def followed() -> bool:
        return (await operator.states(operator.second))["card_acquirer"] == "forced_closed"

    assert await eventually(followed)


async def test_an_order_survives_a_restart(operator: Operator) -> None:
    """From the first moment: the process that comes up must not make a single call that was forbidden."""
    assert (await operator.order("user_service", "force-open", "maintenance")).status == 200
    assert await operator.second.stop() == 0
    await operator.second.start()
    assert (await operator.states(operator.second))["user_service"] == "forced_open"


async def test_what_was_ordered_is_kept_and_logged_with_who_and_why(operator: Operator) -> None:
    reason = "the bank asked for it, ticket 17"
    assert (await operator.order("card_acquirer", "force-open", reason)).status == 200
    assert (await operator.order("card_acquirer", "reset", "done")).status == 200
    wanted = [("card_acquirer", "force-open", OPERATOR, reason), ("card_acquirer", "reset", OPERATOR, "done")]

    async def logged() -> bool:
        lines = [json.loads(line) for line in operator.world.engine.log.read_text().splitlines()]
        told = [line for line in lines if line["message"] == "circuit ordered by hand"]
        return [tuple(line[name] for name in ("counterparty", "action", "actor", "reason")) for line in told][
            -2:
        ] == wanted

    assert await eventually(logged)
    [log] = [value for name, value in operator.world.written().items() if name.endswith("{circuits}:log")]
    assert reason.encode() in log[1]
    assert OPERATOR.encode() in log[1]
