"""Callbacks are rumours: each is recorded, makes the payment be asked about at most, and moves nothing by itself."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.api.world import eventually
from tests.mpesa.world import CLIENT, PUSH, Json, Mpesa, running_mpesa, told

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def _settled(mpesa: Mpesa, phone: str, *, minor: int = 150_000) -> Json:
    """Hold a payment to be completed once: record, event, and Safaricom's own journal."""
    record = await mpesa.ended(phone)
    assert record.get("captured", 0) == minor
    await mpesa.events(phone)
    assert len(await mpesa.pushes(phone)) == 1
    return record


async def test_one_that_comes_twice_changes_nothing_the_second_time(mpesa: Mpesa) -> None:
    phone = mpesa.phone("7006")
    await mpesa.initiated(phone)
    record = await _settled(mpesa, phone)
    assert len(await mpesa.verdicts(phone, 2)) == 2
    checkout = (await mpesa.pushes(phone))[0]["checkout"]
    for _ in range(5):
        assert (await mpesa.callback(told(checkout, phone=phone), mpesa.attempt(phone))).json == {
            "ResultCode": 0,
            "ResultDesc": "Accepted",
        }
    assert (await mpesa.verdicts(phone, 7))[2:] == ["late"] * 5
    assert mpesa.record(phone) == record
    await mpesa.events(phone)


async def test_one_that_comes_late_changes_nothing(mpesa: Mpesa) -> None:
    phone = mpesa.phone("7005")
    checkout = (await mpesa.initiated(phone))["checkout_id"]
    assert (await mpesa.status(checkout)).json["status"] == "completed"
    record = await _settled(mpesa, phone)
    for report in (told(checkout, phone=phone), told(checkout, code=1032), told(checkout, code=1)):
        assert (await mpesa.callback(report)).status == 200
    assert await mpesa.verdicts(phone, 3) == ["late"] * 3
    assert mpesa.record(phone) == record
    assert (await mpesa.status(checkout)).json["status"] == "completed"


async def test_one_that_comes_before_the_pushs_own_answer_is_not_lost(mpesa: Mpesa) -> None:
    """The payment is asked about as soon as the answer is written, not only half a minute later."""
    phone = mpesa.phone("7008")
    await mpesa.initiated(phone)
    await asyncio.wait_for(_settled(mpesa, phone), 20)


@pytest.mark.parametrize(("last", "verdicts"), [("7009", {"forged"}), ("7010", {"forged"}), ("7011", {"unknown"})])
async def test_a_forged_amount_phone_or_checkout_is_recorded_and_the_true_one_still_counts(
    mpesa: Mpesa, last: str, verdicts: set[str]
) -> None:
    phone = mpesa.phone(last)
    before = {verdict: await mpesa.heard(verdict) for verdict in verdicts}
    await mpesa.initiated(phone)
    await _settled(mpesa, phone)
    found = set(await mpesa.verdicts(phone, 2))
    # A checkout that nobody knows yet is adopted when it comes before the push's own answer, which then replaces it.
    assert found & (verdicts | {"asked"})
    if last != "7011":
        assert await mpesa.heard("forged") > before["forged"]
    assert await mpesa.paid(phone) == [150_000]


async def test_one_that_says_paid_of_a_payer_who_cancelled_books_nothing(mpesa: Mpesa) -> None:
    phone = mpesa.phone("7012")
    checkout = (await mpesa.initiated(phone))["checkout_id"]
    record = await _settled(mpesa, phone, minor=0)
    assert record["failure"]
    shown = (await mpesa.status(checkout)).json
    assert (shown["status"], shown["result_code"]) == ("cancelled", "1032")
    assert await mpesa.paid(phone) == []


async def test_one_that_says_paid_or_cancelled_of_a_payer_who_has_not_decided_changes_nothing(mpesa: Mpesa) -> None:
    phone = mpesa.phone("7002")
    checkout = (await mpesa.initiated(phone))["checkout_id"]
    for report in (told(checkout, phone=phone), told(checkout, code=1032), told(checkout, code=1037)):
        await mpesa.callback(report, mpesa.attempt(phone))
    assert await mpesa.verdicts(phone, 3) == ["asked"] * 3
    version = mpesa.record(phone)["v"]
    mpesa.make_due(phone)

    async def asked() -> bool:
        return bool(mpesa.record(phone)["v"] > version)

    await eventually(asked)
    assert (await mpesa.status(checkout)).json["status"] == "pending"
    await mpesa.decide(checkout)
    await _settled(mpesa, phone)


async def test_one_about_an_unknown_checkout_is_counted_and_nothing_else(mpesa: Mpesa) -> None:
    before = await mpesa.heard("unknown")
    records = mpesa.all_records()
    for attempt in ("", "pay-01kqxw3v5n8t2r7d9m4c6b1hzj2a-a1", "nonsense", "-a1", "pay--a-a1", "%2e%2e%2f"):
        assert (await mpesa.callback(told("ws_CO_unknown", phone="254712345678"), attempt)).status == 200

    async def counted() -> bool:
        return await mpesa.heard("unknown") == before + 6

    await eventually(counted)
    assert mpesa.all_records() == records
    mpesa.refused(await mpesa.status("ws_CO_unknown"), 404)


async def test_the_checkout_of_another_payment_cannot_be_adopted(mpesa: Mpesa) -> None:
    """Else whoever has paid once could have a second payment settled by it."""
    rich, poor = mpesa.phone("7005"), mpesa.phone("7005")
    paid = (await mpesa.initiated(rich))["checkout_id"]
    await mpesa.fault("status", status=503, path_contains=PUSH, times=1)
    assert (await mpesa.initiate(poor)).status == 202
    await mpesa.callback(told(paid, phone=poor), mpesa.attempt(poor))
    await mpesa.callback(told(paid), mpesa.attempt(poor))
    assert (await mpesa.status(paid)).json["status"] == "completed"
    assert (await mpesa.verdicts(rich, 2))[0] == "forged", "it is about that other payment, whatever its URL says"
    mpesa.make_due(poor)
    version = mpesa.record(poor)["v"]

    async def asked() -> bool:
        return bool(mpesa.record(poor)["v"] > version)

    await eventually(asked)
    assert not mpesa.record(poor).get("ended")


async def test_a_lie_about_a_lost_push_cannot_keep_the_truth_out(mpesa: Mpesa) -> None:
    phone = mpesa.phone("7005")
    await mpesa.fault("silence_after", path_contains=PUSH, times=1)
    assert (await mpesa.initiate(phone)).status == 202
    attempt, (push,) = mpesa.attempt(phone), await mpesa.pushes(phone)
    lies = [told("ws_CO_lie_amount", phone=phone, shillings=1), told("ws_CO_lie_phone", phone="254712345678"),
            told("ws_CO_lie_checkout", phone=phone), told("ws_CO_lie_cancelled", code=1032)]  # fmt: skip
    for count, lie in enumerate(lies, start=1):
        await mpesa.callback(lie, attempt)
        await mpesa.verdicts(phone, count)
    assert await mpesa.verdicts(phone, 4) == ["forged", "forged", "asked", "asked"]
    assert not mpesa.record(phone).get("ended")
    await mpesa.callback(told(push["checkout"], phone=phone), attempt)
    await _settled(mpesa, phone)


async def test_an_attempt_that_is_not_the_payments_own_is_unknown(mpesa: Mpesa) -> None:
    phone = mpesa.phone("7005")
    await mpesa.fault("silence_after", path_contains=PUSH, times=1)
    assert (await mpesa.initiate(phone)).status == 202
    before = await mpesa.heard("unknown")
    for other in ("-a2", "-a01", "-a", "-a1-a1"):
        await mpesa.callback(told("ws_CO_other", phone=phone), mpesa.record(phone)["id"] + other)

    async def counted() -> bool:
        return await mpesa.heard("unknown") == before + 4

    await eventually(counted)
    mpesa.refused(await mpesa.status("ws_CO_other"), 404)


async def test_only_the_latest_twenty_are_kept(mpesa: Mpesa) -> None:
    phone = mpesa.phone("7002")
    checkout = (await mpesa.initiated(phone))["checkout_id"]
    before = await mpesa.heard("forged")
    await asyncio.gather(*(mpesa.callback(told(checkout, phone=phone, shillings=1)) for _ in range(40)))

    async def all_heard() -> bool:
        return await mpesa.heard("forged") == before + 40

    await eventually(all_heard)
    assert len(mpesa.hints(phone)) == 20


@pytest.mark.parametrize("last", ["7005", "1032"])
async def test_status_callbacks_and_reconciler_racing_write_result_and_event_once(mpesa: Mpesa, last: str) -> None:
    phones = [mpesa.phone(last) for _ in range(5)]
    started = await asyncio.gather(*(mpesa.initiated(phone) for phone in phones))
    code = 0 if last == "7005" else 1032

    async def race(phone: str, checkout: str) -> None:
        attempt = mpesa.attempt(phone)
        report = told(checkout, code=code, phone=phone if code == 0 else None)
        mpesa.make_due(phone)
        await asyncio.gather(
            *(mpesa.callback(report, attempt) for _ in range(5)),
            *(mpesa.status(checkout) for _ in range(5)),
            *(asyncio.to_thread(mpesa.make_due, phone) for _ in range(3)),
        )

    await asyncio.gather(*(race(phone, shown["checkout_id"]) for phone, shown in zip(phones, started, strict=True)))
    for phone in phones:
        await _settled(mpesa, phone, minor=150_000 if code == 0 else 0)


async def test_callbacks_from_elsewhere_find_nothing_there() -> None:
    sources = {"PAYMENTS__MPESA__CALLBACK_SOURCES": '["196.201.214.0/24"]'}
    proxied = {"PAYMENTS__SERVER__TRUSTED_PROXIES": '["127.0.0.0/8"]'}
    async with running_mpesa(**sources, **proxied) as mpesa:
        phone = mpesa.phone("7002")
        checkout = (await mpesa.initiated(phone))["checkout_id"]
        report = told(checkout, phone=phone)
        mpesa.refused(await mpesa.callback(report), 404, "NOT_FOUND")
        for address in ("8.8.8.8", "196.201.215.1", "196.201.214.1, 8.8.8.8", "nonsense"):
            mpesa.refused(await mpesa.callback(report, X_Forwarded_For=address), 404, "NOT_FOUND")
        assert mpesa.hints(phone) == []
        assert (await mpesa.callback(report, X_Forwarded_For="196.201.214.200")).status == 200
        assert await mpesa.verdicts(phone, 1) == ["asked"]


async def test_a_key_makes_one_transaction_and_one_push(mpesa: Mpesa) -> None:
    phone = mpesa.phone("7002")
    answers = await asyncio.gather(*(mpesa.initiate(phone, key=f"once-{phone}") for _ in range(20)))
    assert {answer.status for answer in answers} == {200}, [answer.text for answer in answers]
    assert len({json.dumps(answer.json) for answer in answers}) == 1
    assert len(await mpesa.pushes(phone)) == 1
    for changes in (
        {"description": "Something else"}, {"package_id": "660e8400-e29b-41d4-a716-44665544000c"},
        {"phone_number": "+254712345678"},
    ):  # fmt: skip
        error = mpesa.refused(await mpesa.initiate(phone, key=f"once-{phone}", **changes), 422)
        assert error["details"]["field"] == next(iter(changes)), error
    await mpesa.decide(answers[0].json["checkout_id"], 1032)
    await mpesa.ended(phone)
    again = await mpesa.initiate(phone, key=f"once-{phone}")
    assert (again.status, again.json) == (200, answers[0].json), "also when its payer has cancelled meanwhile"
    assert again.headers["Idempotent-Replayed"] == "true"


async def test_fifty_status_requests_at_once_are_all_answered(mpesa: Mpesa) -> None:
    phone = mpesa.phone("7002")
    checkout = (await mpesa.initiated(phone))["checkout_id"]
    answers = await asyncio.gather(*(mpesa.status(checkout) for _ in range(50)))
    assert {(answer.status, answer.json["status"], "stale" in answer.json) for answer in answers} == {
        (200, "pending", False)
    }
    await mpesa.decide(checkout)
    answers = await asyncio.gather(*(mpesa.status(checkout) for _ in range(50)))
    assert {(answer.status, answer.json["status"]) for answer in answers} == {(200, "completed")}
    await _settled(mpesa, phone)


async def test_fifty_clients_at_once_get_a_push_each(mpesa: Mpesa) -> None:
    """Clients and packages that are added while it runs are there at once."""
    numbers = range(50)
    clients = [f"{CLIENT[:24]}{number:012d}" for number in numbers]
    mpesa.add_clients({client: f"660e8400-e29b-41d4-a716-1{number:011d}" for number, client in enumerate(clients)})
    phones = [mpesa.phone("7002") for _ in numbers]
    answers = await asyncio.gather(
        *(
            mpesa.initiate(phone, client_id=client, package_id=f"660e8400-e29b-41d4-a716-1{number:011d}")
            for number, phone, client in zip(numbers, phones, clients, strict=True)
        )
    )
    assert {answer.status for answer in answers} == {200}, {answer.text for answer in answers}
    assert len({answer.json["checkout_id"] for answer in answers}) == 50
    for phone in phones:
        assert [push["amount_minor"] for push in await mpesa.pushes(phone)] == [90_000]
