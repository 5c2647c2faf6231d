"""The pretend Daraja: as strict as the real one, as odd as its worst days, and honest in its journal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from simulators.daraja import DarajaSim
from simulators.daraja_phones import RESULTS
from tests.daraja_support import PAYS, PUSH, QUERY, Daraja, daraja, hours_off, phone, signed
from tests.simulators.helpers import Answer, HandClock, call, eventually

WRONG_KEYS = "Basic bm9ib2R5Om5vdGhpbmc="


@pytest.fixture
async def sim() -> AsyncIterator[Daraja]:
    async with daraja() as running:
        yield running


def error(answer: Answer) -> tuple[int, str, str]:
    assert set(answer.body) == {"requestId", "errorCode", "errorMessage"}
    return answer.status, answer.body["errorCode"], answer.body["errorMessage"]


async def test_the_default_phone_pays_and_is_told_about(sim: Daraja) -> None:
    answer = await sim.push()
    assert answer.status == 200 and answer.body["ResponseCode"] == "0"
    checkout = answer.body["CheckoutRequestID"]
    assert checkout.startswith("ws_CO_")
    told = json.loads((await sim.have_told(1))[0])["Body"]["stkCallback"]
    items = {item["Name"]: item.get("Value") for item in told["CallbackMetadata"]["Item"]}
    [effect] = await sim.effects()
    assert (told["CheckoutRequestID"], told["ResultCode"]) == (checkout, 0)
    assert (items["Amount"], items["PhoneNumber"], items["Balance"]) == (1500.0, int(PAYS), None)
    assert items["MpesaReceiptNumber"] == effect["id"]
    assert (effect["checkout"], effect["amount_minor"], effect["currency"]) == (checkout, 150_000, "KES")
    assert (effect["phone"], effect["reference"]) == (PAYS, "PKG-1")
    result = (await sim.query(checkout)).body
    assert (result["ResultCode"], result["CheckoutRequestID"]) == ("0", checkout)


@pytest.mark.parametrize("code", [code for code in RESULTS if code])
async def test_a_phone_that_ends_with_a_result_code_has_that_result(sim: Daraja, code: int) -> None:
    checkout = (await sim.push(phone(f"{code:04}"))).body["CheckoutRequestID"]
    told = json.loads((await sim.have_told(1))[0])["Body"]["stkCallback"]
    assert told["ResultCode"] == code and "CallbackMetadata" not in told
    assert (await sim.query(checkout)).body["ResultCode"] == str(code)
    assert await sim.effects() == [] and [row["result_code"] for row in await sim.pushes()] == [code]


@pytest.mark.parametrize(
    ("field", "value"),
    [("Amount", value) for value in (0, -1, 1.5, "1.0", "", True, None, "1e3", 250_001, [1])]
    + [("PhoneNumber", value) for value in ("+254712345678", "0712345678", "255712345678", "25471234567", 7, None)]
    + [("PartyA", "254712345679"), ("PartyB", "600000"), ("PartyB", "x"), ("TransactionType", "Pay")]
    + [("CallBackURL", value) for value in ("", "ftp://x/", "/relative", "http://", "http://u@h/", "http://h:x/", 1)]
    + [("AccountReference", "x" * 13), ("AccountReference", ""), ("TransactionDesc", "x" * 14), ("Timestamp", "now")]
    + [("Timestamp", "20261399000000"), ("BusinessShortCode", "x")],
)
async def test_a_push_with_a_wrong_field_is_refused_by_its_name(sim: Daraja, field: str, value: Any) -> None:
    status, code, message = error(await sim.push(**{field: value}))
    assert (status, code) == (400, "400.002.02")
    # A list is no field's value at all, so the whole form is wrong.
    assert message == f"Bad Request - Invalid {'Payload' if isinstance(value, list) else field}"
    assert await sim.pushes() == []


@pytest.mark.parametrize("hours", [-3, 3, -0.5])
async def test_a_timestamp_of_another_zone_or_an_old_one_is_refused(sim: Daraja, hours: float) -> None:
    answer = await sim.push(**signed(hours_off(hours)))
    assert error(answer) == (400, "400.002.02", "Bad Request - Invalid Timestamp")


@pytest.mark.parametrize("path", [PUSH, QUERY])
async def test_a_wrong_password_and_an_unknown_shortcode_have_the_code_of_pending(sim: Daraja, path: str) -> None:
    body = sim.push_body() | {"CheckoutRequestID": "ws_CO_1"}
    assert error(await sim.send(path, body | {"Password": "eA=="})) == (500, "500.001.1001", "Wrong credentials")
    assert error(await sim.send(path, body | {"BusinessShortCode": 600000}))[1:] == (
        "500.001.1001",
        "Merchant does not exist",
    )


async def test_tokens_are_for_the_right_key_only_and_end(sim: Daraja) -> None:
    url = f"{sim.base}/oauth/v1/generate?grant_type="
    for headers in ({}, {"Authorization": WRONG_KEYS}, {"Authorization": "Bearer x"}, {"Authorization": "Basic %"}):
        assert error(await call(sim.http, "GET", url + "client_credentials", headers=headers))[1] == "400.008.01"
    assert error(await call(sim.http, "GET", url + "password"))[1] == "400.008.02"
    token = await sim.token()
    headers = {"Authorization": f"Bearer {token}"}
    assert (await call(sim.http, "POST", sim.base + PUSH, sim.push_body(), headers=headers)).status == 200
    assert (await sim.hook("/_tokens", "DELETE")).body == {"issued": 1}
    for path in (PUSH, QUERY):
        ended = await call(sim.http, "POST", sim.base + path, sim.push_body(), headers=headers)
        assert error(ended) == (404, "404.001.03", "Invalid Access Token")
        unknown = await call(sim.http, "POST", sim.base + path, sim.push_body(), headers={"Authorization": "Bearer x"})
        assert error(unknown)[:2] == (401, "401.003.01")
    assert len(await sim.pushes()) == 1


async def test_a_token_ends_by_the_clock() -> None:
    clock = HandClock()
    async with daraja(DarajaSim(None, token_s=10, clock=clock)) as sim:
        token = await sim.token()
        headers = {"Authorization": f"Bearer {token}"}
        clock.forward(10)
        ended = await call(sim.http, "POST", sim.base + QUERY, {}, headers=headers)
        assert error(ended)[1] == "404.001.03"


async def test_a_query_is_pending_until_the_payer_decides_and_then_it_stays_decided(sim: Daraja) -> None:
    checkout = (await sim.push(phone("7002"))).body["CheckoutRequestID"]
    assert error(await sim.query(checkout)) == (500, "500.001.1001", "The transaction is being processed")
    assert (await sim.hook("/_decide", checkout_id=checkout, result_code=1032)).status == 200
    assert (await sim.hook("/_decide", checkout_id=checkout)).status == 409
    assert (await sim.query(checkout)).body["ResultCode"] == "1032"
    assert await sim.effects() == [] and len(await sim.have_told(1)) == 1
    assert error(await sim.query("ws_CO_404"))[1] == "400.002.02"
    assert (await sim.hook("/_decide", checkout_id="ws_CO_404")).status == 404


async def test_a_payer_may_take_a_moment(sim: Daraja) -> None:
    await sim.hook("/_timing", moment_s=0.05)
    await sim.push(phone("7001"))
    assert len(await sim.have_told(1)) == 1 and len(await sim.effects()) == 1


async def test_a_push_is_never_answered_and_the_phone_pays() -> None:
    async with daraja() as sim:
        waiting = asyncio.create_task(sim.push(phone("7003")))
        await sim.have_told(1)
        assert not waiting.done() and len(await sim.effects()) == 1
        waiting.cancel()
        # Its connection closes while the loop still runs.
        await asyncio.wait([waiting])


async def test_a_push_is_answered_with_500_and_the_phone_pays(sim: Daraja) -> None:
    assert error(await sim.push(phone("7004")))[:2] == (500, "500.003.1001")
    assert len(await sim.effects()) == len(await sim.pushes()) == 1


@pytest.mark.parametrize(("last", "code"), [("7101", "400.002.02"), ("7102", "500.001.1001"), ("7103", "500.003.02")])
async def test_some_pushes_are_turned_away_and_are_none(sim: Daraja, last: str, code: str) -> None:
    assert error(await sim.push(phone(last)))[1] == code
    assert await sim.pushes() == []


async def test_a_late_callback_comes_later_than_the_answer_to_a_query(sim: Daraja) -> None:
    await sim.hook("/_timing", late_s=3600)
    checkout = (await sim.push(phone("7007"))).body["CheckoutRequestID"]
    never = (await sim.push(phone("7005"))).body["CheckoutRequestID"]
    assert {(await sim.query(name)).body["ResultCode"] for name in (checkout, never)} == {"0"}
    assert sim.receiver.bodies == []
    await sim.hook("/_timing", late_s=0)
    await sim.push(phone("7007"))
    assert len(await sim.have_told(1)) == 1


async def test_a_callback_may_be_there_before_the_pushs_own_answer(sim: Daraja) -> None:
    checkout = (await sim.push(phone("7008"))).body["CheckoutRequestID"]
    # Nobody waited for it: it was there when the answer came.
    assert [checkout.encode() in body for body in sim.receiver.bodies] == [True]


@pytest.mark.parametrize("last", ["7006", "7009", "7010", "7011", "7012"])
async def test_of_two_callbacks_one_is_true(sim: Daraja, last: str) -> None:
    checkout = (await sim.push(phone(last), Amount=100)).body["CheckoutRequestID"]
    told = [json.loads(body)["Body"]["stkCallback"] for body in await sim.have_told(2)]
    claims = {
        (
            callback["CheckoutRequestID"] == checkout,
            callback["ResultCode"],
            *(items.get("Amount"), items.get("PhoneNumber") == int(phone(last))),
        )
        for callback in told
        for items in (
            {item["Name"]: item.get("Value") for item in callback.get("CallbackMetadata", {}).get("Item", [])},
        )
    }
    paid = (True, 0, 100, True)
    assert (
        claims
        == {
            "7006": {paid},
            "7009": {paid, (True, 0, 101, True)},
            "7010": {paid, (True, 0, 100, False)},
            "7011": {paid, (False, 0, 100, True)},
            "7012": {paid, (True, 1032, None, False)},
        }[last]
    )
    assert len(await sim.effects()) == (0 if last == "7012" else 1)


async def test_a_callback_is_sent_once_and_follows_no_redirect(sim: Daraja) -> None:
    sim.receiver.status = 302
    await sim.push()
    await sim.push(CallBackURL="http://127.0.0.1:1/nobody")
    await sim.have_told(1)

    async def both_noted() -> bool:
        counts: dict[str, int] = (await sim.get("/journal/summary"))["callbacks"]
        return counts == {"delivered": 0, "refused": 1, "lost": 1}

    await eventually(both_noted, within_s=20)
    assert len(sim.receiver.bodies) == 1
    assert {row["outcome"] for row in (await sim.get("/_callbacks"))["callbacks"]} == {"refused", "lost"}


async def test_two_equal_pushes_are_two_and_the_summary_names_them(sim: Daraja) -> None:
    for _ in range(2):
        await sim.push()
    summary = await sim.get("/journal/summary")
    assert summary["references_with_more_than_one_push"] == ["PKG-1"]
    assert summary["references_with_more_than_one_effect"] == ["PKG-1"]
    assert summary["amount_minor_by_currency"] == {"KES": 300_000} and summary["result_codes"] == {"0": 2}
    assert [row["seq"] for row in (await sim.get("/journal?after=1"))["effects"]] == [2]
    assert (await call(sim.http, "GET", f"{sim.base}/journal?after=x")).status == 400


async def test_faults_can_speak_darajas_language(sim: Daraja) -> None:
    await sim.fault("status", status=500, code="500.003.02", message="Spike arrest", path_contains="stkpush/")
    assert error(await sim.push()) == (500, "500.003.02", "Spike arrest")
    assert await sim.pushes() == []


async def test_a_restart_keeps_pushes_money_and_payers_who_have_not_decided(tmp_path: Path) -> None:
    journal = tmp_path / "daraja.jsonl"
    async with daraja(DarajaSim(journal, moment_s=3600)) as sim:
        paid = (await sim.push()).body["CheckoutRequestID"]
        waiting = (await sim.push(phone("7001"))).body["CheckoutRequestID"]
        before = await sim.effects()
    async with daraja(DarajaSim(journal, moment_s=0)) as sim:
        assert before == (await sim.effects())[:1]

        async def decided() -> bool:
            return (await sim.query(waiting)).status == 200

        await eventually(decided, within_s=20)
        assert (await sim.query(paid)).body["ResultCode"] == "0"
        assert [row["checkout"] for row in await sim.effects()] == [paid, waiting]


async def test_a_stop_waits_neither_for_silence_nor_for_callbacks() -> None:
    async with daraja(DarajaSim(None, late_s=3600, moment_s=3600)) as sim:
        waiting = asyncio.create_task(sim.push(phone("7003")))
        await sim.have_told(1)
        await sim.push(phone("7007"))
        await sim.push(phone("7001"))
    await asyncio.wait([waiting])
    assert waiting.exception() is not None
