"""Daraja's client against the simulator, over real sockets: a phone is asked once, and every answer is a value."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog

from app import logs
from clients.http import open_session
from clients.wire import Wire
from engine.charging import NotSent, Unknown
from engine.errors import AmountRefused
from engine.money import Money
from engine.pushes import CannotTell, NotPaid, Paid, PushAnswer, PushRefused, PushStatus, PushTaken, StillWaiting
from simulators.daraja import MERCHANT, DarajaSim
from simulators.daraja_phones import RESULTS
from tests.daraja_support import PAYS, PUSH, QUERY, Daraja, Line, a_push, daraja, phone
from tests.simulators.helpers import eventually
from tests.support import free_port

SHORT_S = 0.5
"""The patience of tests in which nobody answers."""


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    async with open_session(client_id="payment-service") as opened:
        yield opened


@pytest.fixture
async def sim() -> AsyncIterator[Daraja]:
    async with daraja() as running:
        yield running


@pytest.fixture
async def line(wire: Wire, sim: Daraja) -> Line:
    return Line(wire, sim.base)


def taken(answer: PushAnswer) -> str:
    assert isinstance(answer, PushTaken), answer
    return answer.checkout_id


async def test_a_push_is_taken_by_the_strict_simulator_and_is_paid(sim: Daraja, line: Line) -> None:
    checkout = taken(await line.client.push(a_push(sim)))
    [push] = await sim.pushes()
    assert (push["checkout"], push["phone"], push["amount_minor"]) == (checkout, PAYS, 150_000)
    assert (push["reference"], push["description"]) == ("PKG-20260128", "Internet pack")
    assert await line.client.query(checkout) == Paid()
    assert line.failures == 0 and line.guard.in_flight == 0


async def test_a_push_to_a_till_names_store_and_till(wire: Wire, sim: Daraja) -> None:
    line = Line(wire, sim.base, changes={"transaction_type": "CustomerBuyGoodsOnline", "till": "5123456"})
    taken(await line.client.push(a_push(sim)))
    assert [row["receiver"] for row in await sim.pushes()] == ["5123456"]


@pytest.mark.parametrize("text", ["", "   ", "é ü", "\r\n", "𝟘🙂", "<script>"])
async def test_odd_words_for_the_payer_are_made_speakable(sim: Daraja, line: Line, text: str) -> None:
    taken(await line.client.push(a_push(sim, reference=text, description=text)))
    [push] = await sim.pushes()
    assert push["reference"] and push["reference"].isascii() and "<" not in push["reference"]


@pytest.mark.parametrize("code", [code for code in RESULTS if code])
async def test_every_result_but_0_is_not_paid_with_its_raw_code(sim: Daraja, line: Line, code: int) -> None:
    checkout = taken(await line.client.push(a_push(sim, phone(f"{code:04}"))))
    assert await line.client.query(checkout) == NotPaid(str(code), RESULTS[code])
    assert line.failures == 0


async def test_still_being_processed_is_waiting_and_no_failure(sim: Daraja, line: Line) -> None:
    checkout = taken(await line.client.push(a_push(sim, phone("7002"))))
    for _ in range(12):
        assert await line.client.query(checkout) == StillWaiting()
    assert line.guard.status().state == "closed" and line.failures == 0
    await sim.hook("/_decide", checkout_id=checkout, result_code=1032)
    assert await line.client.query(checkout) == NotPaid("1032", "Request cancelled by user")


@pytest.mark.parametrize("last", ["7003", "7004"])
async def test_a_push_without_a_good_answer_is_unknown_and_was_sent_once(wire: Wire, sim: Daraja, last: str) -> None:
    line = Line(wire, sim.base, timeout_s=SHORT_S if last == "7003" else 10.0, tries_max=5)
    answer = await line.client.push(a_push(sim, phone(last)))
    assert isinstance(answer, Unknown), answer
    assert len(await sim.pushes()) == len(await sim.effects()) == 1
    assert line.failures == 1


@pytest.mark.parametrize("kind", ["silence_after", "error_after", "reset_after", "wrong_json", "reset", "error_before"])
async def test_whatever_happens_to_the_answer_a_push_is_not_repeated(wire: Wire, sim: Daraja, kind: str) -> None:
    line = Line(wire, sim.base, timeout_s=2.0 if kind.startswith("silence") else 10.0, tries_max=5)
    await sim.fault(kind, path_contains=PUSH)
    assert isinstance(await line.client.push(a_push(sim)), Unknown)
    fired = (await sim.get("/_faults"))["fired"]
    assert fired[kind] == 1 and len(await sim.pushes()) == (0 if kind in ("reset", "error_before") else 1)


@pytest.mark.parametrize(
    ("last", "refusal"),
    [("7101", PushRefused("400.002.02", "Bad Request - Invalid PhoneNumber")),
     ("7102", PushRefused("500.001.1001", RESULTS[1001]))],
)  # fmt: skip
async def test_a_push_that_reached_no_phone_is_refused(
    sim: Daraja, line: Line, last: str, refusal: PushRefused
) -> None:
    assert await line.client.push(a_push(sim, phone(last))) == refusal
    assert await sim.pushes() == [] and line.failures == 0


async def test_too_many_requests_are_not_sent_and_not_tried_again_at_once(wire: Wire, sim: Daraja) -> None:
    line = Line(wire, sim.base, tries_max=5)
    answer = await line.client.push(a_push(sim, phone("7103")))
    assert isinstance(answer, NotSent) and answer.retry_after_s >= 1
    await sim.fault("status", status=500, code="500.003.02", message="System is busy", path_contains=QUERY)
    told = await line.client.query("ws_CO_1")
    assert isinstance(told, CannotTell) and told.retry_after_s >= 1
    assert (await sim.get("/_faults"))["fired"]["status"] == 1 and line.failures == 2


async def test_nobody_there_is_not_sent(wire: Wire) -> None:
    line = Line(wire, f"http://127.0.0.1:{free_port()}", tries_max=1)
    assert isinstance(await line.client.push(a_push()), NotSent)
    assert isinstance(await line.client.query("ws_CO_1"), CannotTell)


async def test_an_open_circuit_says_when_to_come_again(sim: Daraja, line: Line) -> None:
    line.guard.force_open()
    answers: list[PushAnswer | PushStatus] = [await line.client.push(a_push(sim)), await line.client.query("ws_CO_1")]
    assert [type(answer) for answer in answers] == [NotSent, CannotTell]
    assert all(isinstance(answer, (NotSent, CannotTell)) and answer.retry_after_s > 1 for answer in answers)
    assert await sim.tokens_issued() == 0


@pytest.mark.parametrize("kind", ["silence", "error_before", "reset", "wrong_json"])
async def test_without_a_token_nothing_is_sent(wire: Wire, sim: Daraja, kind: str) -> None:
    line = Line(wire, sim.base, timeout_s=SHORT_S if kind == "silence" else 10.0, tries_max=1)
    await sim.fault(kind, path_contains="/oauth")
    assert isinstance(await line.client.push(a_push(sim)), NotSent)
    assert await sim.pushes() == []


async def test_a_query_is_repeated_where_it_may_be(wire: Wire, sim: Daraja) -> None:
    line = Line(wire, sim.base, tries_max=3)
    checkout = taken(await line.client.push(a_push(sim)))
    await sim.fault("error_after", times=1, path_contains=QUERY)
    assert await line.client.query(checkout) == Paid()
    await sim.fault("wrong_json", path_contains=QUERY)
    assert isinstance(await line.client.query(checkout), CannotTell)


async def test_fifty_pushes_at_once_fetch_one_token(sim: Daraja, line: Line) -> None:
    await sim.hook("/_timing", latency_s=0.05)
    answers = await asyncio.gather(*(line.client.push(a_push(sim)) for _ in range(50)))
    assert len({taken(answer) for answer in answers}) == 50
    assert await sim.tokens_issued() == 1


async def test_a_token_that_ended_is_renewed_once_for_all_and_every_push_is_sent(sim: Daraja, line: Line) -> None:
    taken(await line.client.push(a_push(sim)))
    await sim.hook("/_tokens", "DELETE")
    answers = await asyncio.gather(*(line.client.push(a_push(sim)) for _ in range(50)))
    assert len({taken(answer) for answer in answers}) == 50
    assert await sim.tokens_issued() == 2 and len(await sim.pushes()) == 51


@pytest.mark.parametrize("code", ["404.001.03", "401.003.01"])
async def test_a_token_that_is_refused_again_and_again_is_renewed_but_once(sim: Daraja, line: Line, code: str) -> None:
    await sim.fault("status", status=int(code[:3]), code=code, message="Invalid Access Token", path_contains="/mpesa")
    assert isinstance(await line.client.push(a_push(sim)), NotSent)
    assert (await sim.get("/_faults"))["fired"]["status"] == 2 == await sim.tokens_issued()
    assert isinstance(await line.client.query("ws_CO_1"), CannotTell)
    assert (await sim.get("/_faults"))["fired"]["status"] == 4 and line.failures == 0


async def test_a_token_is_renewed_before_it_ends_and_used_on_if_that_fails(wire: Wire) -> None:
    now = 1000.0
    async with daraja(DarajaSim(None, token_s=3600)) as sim:
        line = Line(wire, sim.base, token_clock=lambda: now, tries_max=1)
        tokens = line.client._tokens
        first = await tokens.get()
        now += 3539
        assert await tokens.get() == first
        now += 1
        await sim.fault("error_before", path_contains="/oauth", times=1)
        assert await tokens.get() == first
        now += 4
        assert await tokens.get() == first and await sim.tokens_issued() == 1
        now += 1
        assert await tokens.get() != first and await sim.tokens_issued() == 2


async def test_a_late_complaint_about_the_old_token_does_not_end_the_new_one(sim: Daraja, line: Line) -> None:
    tokens = line.client._tokens
    old = await tokens.get()
    tokens.forget(old)
    new = await tokens.get()
    tokens.forget(old)
    assert await tokens.get() == new != old and await sim.tokens_issued() == 2


async def test_who_leads_may_be_cancelled_and_the_others_still_get_a_token(sim: Daraja, line: Line) -> None:
    await sim.fault("delay", path_contains="/oauth", times=1, delay_s=30)
    tokens = line.client._tokens
    leader = asyncio.create_task(tokens.get())

    async def under_way() -> bool:
        return bool((await sim.get("/_faults"))["fired"]["delay"])

    await eventually(under_way, within_s=20)
    others = [asyncio.create_task(tokens.get()) for _ in range(5)]
    await asyncio.sleep(0)
    leader.cancel()
    assert len(set(await asyncio.gather(*others))) == 1
    with pytest.raises(asyncio.CancelledError):
        await leader
    assert tokens._fetching is None


@pytest.mark.parametrize("amount", [Money(150, "KES"), Money(0, "KES"), Money(-100, "KES"), Money(100, "USD")])
def test_an_amount_that_is_not_whole_shillings_makes_no_request(amount: Money) -> None:
    with pytest.raises(AmountRefused):
        a_push(amount=amount)


async def test_no_secret_and_no_phone_is_in_logs_reprs_and_answers(
    wire: Wire, sim: Daraja, caplog: pytest.LogCaptureFixture
) -> None:
    written = io.StringIO()
    caplog.set_level(logging.DEBUG)
    before = structlog.get_config()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    buffer = logs.configure("debug", written)
    line = Line(wire, sim.base, tries_max=2)
    said: list[Any] = []
    try:
        checkout = taken(await line.client.push(a_push(sim)))
        tokens = [await line.client._tokens.get()]
        # It quotes the token.
        for path in (PUSH, QUERY, "/oauth"):
            for status, code in ((401, "401.003.01"), (500, "500.001.1001"), (400, "400.002.02"), (400, "400.008.01")):
                message = f"Wrong - {tokens[0]} {PAYS} {MERCHANT.passkey} {MERCHANT.consumer_secret}"
                await sim.fault("status", status=status, code=code, message=message, path_contains=path)
                line.client._tokens.forget(tokens[-1])
                said += [await line.client.push(a_push(sim)), await line.client.query(checkout)]
                await sim.hook("/_faults", "DELETE")
                tokens.append(await line.client._tokens.get())
        said += [line.settings, line.client, line.client._tokens._kept, a_push(sim), MERCHANT, line.guard]
    finally:
        buffer.flush_now()
        structlog.configure(**before)
        root.handlers[:] = handlers
        root.setLevel(level)
    everything = written.getvalue() + caplog.text + "".join(f"{thing!r} {thing}" for thing in said)
    assert "refuses our settings" in everything and "refuses our consumer key" in everything
    forms = line.client._forms._signed()
    secrets = [MERCHANT.consumer_key, MERCHANT.consumer_secret, MERCHANT.passkey, str(forms["Password"])[:40], *tokens]
    assert [secret for secret in [*secrets, PAYS, "712345678", "callback/secret"] if secret in everything] == []
