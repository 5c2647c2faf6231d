"""Many requests at once: one account, one charge, never more refunded than was taken."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.gateway.world import Gateway, Person

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_of_fifty_registrations_of_one_address_in_many_spellings_one_has_an_account(gateway: Gateway) -> None:
    spellings = [
        "José.Straße@Example.com", "josé.straße@example.com", "JOSÉ.STRASSE@EXAMPLE.COM",
        "jose\u0301.strasse@example.com", "Ｊosé.straße@example.com",
    ]  # fmt: skip
    passwords = [f"password number {number}" for number in range(50)]
    answers = await asyncio.gather(
        *(gateway.register(spellings[at % len(spellings)], password) for at, password in enumerate(passwords))
    )
    assert Counter(answer.status for answer in answers) == {201: 1, 409: 49}
    for answer in answers:
        if answer.status == 409:
            gateway.refused(answer, 409, "EMAIL_TAKEN")
    winner = next(at for at, answer in enumerate(answers) if answer.status == 201)
    logins = [(await gateway.login(spelling, passwords[winner])).status for spelling in spellings]
    assert logins == [200] * len(spellings), "whoever was told so has the account"
    loser = (winner + 1) % 50
    assert (await gateway.login(spellings[0], passwords[loser])).status == 401
    held = [name for name in gateway.world.written() if ":account:" in name]
    claims = {value for name, value in gateway.world.written().items() if ":email:" in name}
    assert {name.rpartition(":")[2].encode() for name in held} == claims, "no account without its claim, or the reverse"


async def test_fifty_requests_to_process_one_payment_charge_it_once(gateway: Gateway, ada: Person) -> None:
    payment = await ada.create()
    answers = await asyncio.gather(*(ada.process(payment["id"]) for _ in range(50)))
    assert {(answer.status, answer.json["status"]) for answer in answers} == {(200, "completed")}
    assert await gateway.charges(payment["id"]) == [("charge", 7548)]


async def test_fifty_creations_with_one_key_make_one_payment(gateway: Gateway, ada: Person) -> None:
    body = {"amount": 1, "payment_method": "digital_wallet", "details": {"token": "tok_visa_4242"}}
    answers = await asyncio.gather(*(ada.post("/api/payments", body, Idempotency_Key="one-key") for _ in range(50)))
    assert {answer.status for answer in answers} == {201}
    assert len({answer.json["id"] for answer in answers}) == 1
    assert sum("Idempotent-Replayed" in answer.headers for answer in answers) == 49
    assert len((await ada.get("/api/transactions")).json["transactions"]) == 1


async def test_racing_refunds_never_exceed_what_was_taken(gateway: Gateway, ada: Person) -> None:
    payment = await ada.paid(100)
    answers = await asyncio.gather(*(ada.refund(payment["id"], {"amount": 30}) for _ in range(20)))
    assert Counter(answer.status for answer in answers) == {200: 3, 422: 17}
    for answer in answers:
        if answer.status == 422:
            gateway.refused(answer, 422, "PAY_004")
    assert await ada.status(payment["id"]) == "partially_refunded"
    refunds = [minor for kind, minor in await gateway.charges(payment["id"]) if kind == "refund"]
    assert refunds == [3000] * 3


async def test_racing_refunds_with_one_key_are_one(gateway: Gateway, ada: Person) -> None:
    payment = await ada.paid()
    answers = await asyncio.gather(
        *(ada.refund(payment["id"], {"amount": 20}, Idempotency_Key="once") for _ in range(20))
    )
    assert {answer.status for answer in answers} == {200}
    assert len({answer.json["refund"]["id"] for answer in answers}) == 1
    assert await gateway.charges(payment["id"]) == [("charge", 7548), ("refund", 2000)]


async def test_after_all_of_it_the_audit_is_clean(gateway: Gateway) -> None:
    await gateway.audit_is_clean()
