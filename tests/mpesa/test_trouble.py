"""Lost answers, refusals, a Safaricom that is down, and an engine that dies: nobody is asked to pay twice."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from simulators.daraja import DarajaSim
from tests.api.counterparts import Stoppable
from tests.api.world import eventually
from tests.mpesa.world import PUSH, QUERY, Mpesa, mpesa_around, running_mpesa, told
from tests.support import simulators

pytestmark = pytest.mark.asyncio(loop_scope="package")

UNSURE = "Safaricom has not confirmed yet that the phone is being asked"


@pytest.mark.parametrize("last", ["7003", "7004"])
async def test_a_lost_answer_is_202_and_its_callback_brings_the_name_to_ask_by(mpesa: Mpesa, last: str) -> None:
    phone = mpesa.phone(last)
    answer = await mpesa.initiate(phone)
    assert answer.status == 202, answer
    shown = answer.json
    assert (shown["status"], shown["message"]) == ("pending", UNSURE)
    record = await mpesa.ended(phone)
    assert record["captured"] == 150_000, "asked about, by the name that the callback brought"
    (push,) = await mpesa.pushes(phone)
    assert shown["checkout_id"] in ("", push["checkout"]), "its callback may have come before the answer was given up"
    status = (await mpesa.status(push["checkout"])).json
    assert (status["status"], status["transaction_id"]) == ("completed", shown["transaction_id"])
    assert await mpesa.paid(phone) == [150_000]
    await mpesa.events(phone)


async def test_without_answer_and_callback_it_stays_pending_and_is_never_pushed_again(mpesa: Mpesa) -> None:
    phone = mpesa.phone("7005")
    await mpesa.fault("silence_after", path_contains=PUSH, times=1)
    answer = await mpesa.initiate(phone)
    assert (answer.status, answer.json["checkout_id"], answer.json["message"]) == (202, "", UNSURE)
    seen = mpesa.record(phone)["v"]
    for _ in range(3):
        # Time goes by, as far as the reconciler can tell.
        mpesa.make_due(phone)

        async def looked_at(before: int = seen) -> int:
            version = int(mpesa.record(phone)["v"])
            return version if version > before else 0

        seen = await eventually(looked_at)
    assert not mpesa.record(phone).get("ended")
    assert len(await mpesa.pushes(phone)) == 1
    # Safaricom tells at last, a day later.
    (push,) = await mpesa.pushes(phone)
    assert (await mpesa.callback(told(push["checkout"], phone=phone), mpesa.attempt(phone))).status == 200
    assert (await mpesa.ended(phone))["captured"] == 150_000
    assert await mpesa.paid(phone) == [150_000]


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        ("7101", "Bad Request - Invalid PhoneNumber"),
        ("7102", "Unable to lock subscriber, a transaction is already in process for the current subscriber"),
        ("7103", "mpesa: answered 500.003.02: too many requests"),
    ],
)
async def test_a_push_that_is_refused_is_told_so_and_not_pushed_later(mpesa: Mpesa, last: str, reason: str) -> None:
    phone = mpesa.phone(last)
    error = mpesa.refused(await mpesa.initiate(phone), 500, "PUSH_FAILED")
    assert error["error"] == f"failed to initiate STK push: {reason}"
    assert mpesa.record(phone).get("ended"), "nothing is left to do, so nobody comes back to it"
    await mpesa.events(phone)
    assert await mpesa.pushes(phone) == []


async def test_two_refusals_of_one_key_are_the_same_refusal(mpesa: Mpesa) -> None:
    phone = mpesa.phone("7101")
    for _ in range(2):
        mpesa.refused(await mpesa.initiate(phone, key=f"refused-{phone}"), 500, "PUSH_FAILED")
    assert len(mpesa.records(phone)) == 1


async def test_when_safaricom_is_down_initiate_says_so_status_is_stale_and_nothing_is_pushed_later() -> None:
    daraja = Stoppable(DarajaSim(None))
    async with simulators() as sims:
        await sims.user()
        await daraja.start()
        async with mpesa_around(sims, daraja.base) as mpesa:
            asked = mpesa.phone("7002")
            checkout = (await mpesa.initiated(asked))["checkout_id"]
            assert "stale" not in (await mpesa.status(checkout)).json
            await daraja.stop()
            late = mpesa.phone()
            error = mpesa.refused(await mpesa.initiate(late), 500, "PUSH_FAILED")
            assert error["error"].startswith("failed to initiate STK push: ")
            for _ in range(2):
                answer = await mpesa.status(checkout)
                assert (answer.status, answer.json["status"], answer.json["stale"]) == (200, "pending", True)
            assert mpesa.record(late).get("ended")
            await daraja.start()

            async def fresh() -> bool:
                return "stale" not in (await mpesa.status(checkout)).json

            await eventually(fresh)
            assert await mpesa.pushes(late) == []
            await mpesa.audit_is_clean()
        await daraja.stop()


async def test_an_open_breaker_makes_the_status_stale_and_the_push_refused_until_it_closes() -> None:
    breaker = {"FAILURES_TO_OPEN": "2", "OPEN_S": "5", "TRIALS": "1", "TRIES_MAX": "1"}
    async with running_mpesa(**{f"PAYMENTS__MPESA__GUARD__{name}": value for name, value in breaker.items()}) as mpesa:
        phone = mpesa.phone("7002")
        checkout = (await mpesa.initiated(phone))["checkout_id"]
        await mpesa.fault("status", status=503, path_contains=QUERY)
        await mpesa.fault("status", status=503, path_contains=PUSH)

        async def is_open(name: str) -> bool:
            states = (await mpesa.world.get("/api/circuit-breaker/status")).json
            return bool(states[name]["state"].lower() == "open")

        async def stale_and_open() -> bool:
            assert (await mpesa.status(checkout)).json.get("stale") is True
            return await is_open("mpesa_queries")

        await eventually(stale_and_open)
        for _ in range(2):
            assert (await mpesa.initiate(mpesa.phone())).status == 202, "what a 503 has done nobody knows"
        assert await is_open("mpesa")
        refused = mpesa.phone()
        error = mpesa.refused(await mpesa.initiate(refused), 500, "PUSH_FAILED")
        assert error["error"].startswith("failed to initiate STK push: ")
        await mpesa.clear_faults()
        await mpesa.decide(checkout)

        async def completed() -> bool:
            shown = (await mpesa.status(checkout)).json
            return shown["status"] == "completed" and "stale" not in shown

        await eventually(completed)
        assert await mpesa.pushes(refused) == []


async def test_an_engine_that_is_killed_between_push_and_record_never_pushes_again() -> None:
    """One payer's callback comes when the engine is there again; without one the payment waits, and says so."""
    async with running_mpesa() as mpesa:
        told_of, silent = mpesa.phone("7002"), mpesa.phone("7002")
        await mpesa.fault("silence_after", path_contains=PUSH, times=2)
        asking = [asyncio.ensure_future(mpesa.initiate(phone)) for phone in (told_of, silent)]

        async def pushed() -> bool:
            return [len(await mpesa.pushes(phone)) for phone in (told_of, silent)] == [1, 1]

        await eventually(pushed)
        mpesa.world.engine.kill()
        for each in asking:
            with pytest.raises(aiohttp.ClientError):
                await each
        await mpesa.world.engine.start()
        (push,) = await mpesa.pushes(told_of)
        await mpesa.decide(push["checkout"])
        assert (await mpesa.ended(told_of))["captured"] == 150_000

        async def given_up_waiting() -> bool:
            return bool(mpesa.record(silent)["attempts"][-1][2] == "unknown")

        await eventually(given_up_waiting, within_s=40)
        assert not mpesa.record(silent).get("ended")
        assert [len(await mpesa.pushes(phone)) for phone in (told_of, silent)] == [1, 1]
        await mpesa.audit_is_clean()
