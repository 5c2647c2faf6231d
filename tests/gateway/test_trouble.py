"""Lost answers, refusals of the acquirer, payments that nobody processes, too many logins, and a killed engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.api.world import Answer, eventually
from tests.changes.shop import QUICK
from tests.gateway.world import Gateway, Person, running_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def gateway() -> AsyncIterator[Gateway]:
    """An engine that gives up on an answer early, and waits for an outcome even less."""
    async with running_gateway(**QUICK, PAYMENTS__GATEWAY__PROCESS_WAIT_S="0.3") as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def ada(gateway: Gateway) -> AsyncIterator[Person]:
    """Somebody new; afterwards the acquirer works again."""
    yield await gateway.person()
    await gateway.sims.clear_faults(gateway.sims.acquirer)


async def _until(person: Person, payment_id: str, status: str) -> None:
    async def has() -> bool:
        return await person.status(payment_id) == status

    await eventually(has, within_s=25)


async def _silence(gateway: Gateway, path: str) -> None:
    """The acquirer acts on the next request at this path, but answers neither it nor any question about it."""
    acquirer = gateway.sims.acquirer
    await gateway.sims.fault(acquirer, "silence_after", path_contains=path, method="POST", times=1)
    await gateway.sims.fault(acquirer, "status", status=503, path_contains=path, method="GET")


async def test_a_charge_whose_answer_is_lost_is_processing_and_never_failed(gateway: Gateway, ada: Person) -> None:
    payment = await ada.create()
    await _silence(gateway, "/charges")
    for _ in range(6):
        answer = await ada.process(payment["id"])
        assert (answer.status, answer.json["status"]) == (202, "processing"), answer
        assert await ada.status(payment["id"]) == "processing"
    await gateway.sims.clear_faults(gateway.sims.acquirer)
    await _until(ada, payment["id"], "completed")
    answer = await ada.process(payment["id"])
    assert (answer.status, answer.json["status"]) == (200, "completed")
    assert await gateway.charges(payment["id"]) == [("charge", 7548)]


async def test_a_charge_that_never_arrived_is_sent_again_once(gateway: Gateway, ada: Person) -> None:
    payment = await ada.create()
    await gateway.sims.fault(gateway.sims.acquirer, "reset", path_contains="/charges", method="POST", times=1)
    assert (await ada.process(payment["id"])).json["status"] == "processing"
    await _until(ada, payment["id"], "completed")
    assert await gateway.charges(payment["id"]) == [("charge", 7548)]


async def test_a_refund_whose_answer_is_lost_is_pending_and_keeps_its_amount(gateway: Gateway, ada: Person) -> None:
    payment = await ada.create()
    await ada.process(payment["id"])
    await _until(ada, payment["id"], "completed")
    await _silence(gateway, "/refunds")
    answer = await ada.refund(payment["id"], {"amount": 40}, Idempotency_Key="r1")
    assert (answer.status, answer.json["status"], answer.json["refund"]["status"]) == (202, "completed", "pending")
    gateway.refused(await ada.refund(payment["id"], {"amount": 40}), 422, "PAY_004")
    await gateway.sims.clear_faults(gateway.sims.acquirer)
    await _until(ada, payment["id"], "partially_refunded")
    again = await ada.refund(payment["id"], {"amount": 40}, Idempotency_Key="r1")
    assert (again.status, again.json["refund"]["status"]) == (200, "completed")
    assert again.json["refund"]["id"] == answer.json["refund"]["id"]
    assert await gateway.charges(payment["id"]) == [("charge", 7548), ("refund", 4000)]


async def test_a_refund_that_the_acquirer_refuses_is_refused_and_may_be_tried_anew(
    gateway: Gateway, ada: Person
) -> None:
    payment = await ada.create()
    await ada.process(payment["id"])
    await _until(ada, payment["id"], "completed")

    async def told() -> Answer | None:
        answer = await ada.refund(payment["id"], {"amount": 10.13}, Idempotency_Key="r1")
        return answer if answer.status != 202 else None

    error = gateway.refused(await eventually(told), 409, "PAY_004")
    assert "Refund declined" in error["message"]
    assert await ada.status(payment["id"]) == "completed"
    assert (await ada.refund(payment["id"])).status in {200, 202}
    await _until(ada, payment["id"], "refunded")


async def test_what_nobody_processes_is_cancelled_with_its_card_forgotten() -> None:
    async with running_gateway(PAYMENTS__GATEWAY__HOLD_S="1") as gateway:
        ada = await gateway.person()
        payment = await ada.create()
        assert any(":card:" in name for name in gateway.world.written())
        await _until(ada, payment["id"], "cancelled")
        error = gateway.refused(await ada.process(payment["id"]), 409, "ILLEGAL_MOVE")
        assert error["details"] == {"status": "cancelled", "allowed": ""}
        gateway.refused(await ada.refund(payment["id"]), 409, "PAY_004")
        assert not any(":card:" in name or ":cvv:" in name for name in gateway.world.written())
        assert await gateway.charges(payment["id"]) == []
        await gateway.audit_is_clean()


async def test_more_logins_than_may_wait_are_told_when_to_come_again() -> None:
    dear = {"ARGON2_PASSES": "3", "ARGON2_MEMORY_KIB": "65536", "LOGINS_AT_ONCE": "1", "LOGINS_WAITING_MAX": "0"}
    async with running_gateway(**{f"PAYMENTS__GATEWAY__{name}": value for name, value in dear.items()}) as gateway:
        answers = await asyncio.gather(*(gateway.login(f"{number}@example.com") for number in range(20)))
        assert {answer.status for answer in answers} == {401, 503}
        for answer in answers:
            if answer.status == 503:
                error = gateway.refused(answer, 503, "OVERLOADED")
                assert (error["retry"], int(answer.headers["Retry-After"])) == ("after", 2)
            else:
                gateway.refused(answer, 401, "INVALID_CREDENTIALS")
                assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert await gateway.world.metric("rejections_total", bound="logins") > 0
        answer = await gateway.register("ada@example.com")
        assert answer.status == 201, "and there is room again"


async def test_an_engine_that_is_killed_among_registrations_leaves_no_half_of_one() -> None:
    """Each address has its account or is free; whoever was answered is registered."""
    async with running_gateway(PAYMENTS__GATEWAY__LOGINS_WAITING_MAX="1000") as gateway:
        emails = [f"person-{number}@example.com" for number in range(600)]
        answered: dict[str, Any] = {}
        enough = asyncio.Event()

        async def register(email: str) -> None:
            try:
                answered[email] = (await gateway.register(email)).status
            except (aiohttp.ClientError, OSError):
                answered[email] = None
            if len(answered) >= 60:
                enough.set()

        async with asyncio.TaskGroup() as registering:
            for email in emails:
                registering.create_task(register(email))
            await enough.wait()
            gateway.world.engine.kill()
        assert set(answered.values()) == {201, None}, "killed in the middle of it"

        await gateway.world.engine.start()
        written = gateway.world.written()
        claimed = {value.decode() for name, value in written.items() if ":email:" in name}
        assert claimed == {name.rpartition(":")[2] for name in written if ":account:" in name}
        for email in emails:
            again = await gateway.register(email)
            assert again.status == (409 if answered[email] == 201 else again.status)
            assert again.status in {201, 409}
            assert (await gateway.login(email)).status == 200
        assert sum(":account:" in name for name in gateway.world.written()) == len(emails)


async def test_an_engine_that_is_killed_while_it_charges_charges_once() -> None:
    async with running_gateway(**QUICK) as other:
        ada = await other.person()
        payment = await ada.create()
        await other.sims.fault(other.sims.acquirer, "delay", delay_s=0.5, path_contains="/charges", times=1)
        processing = asyncio.ensure_future(ada.process(payment["id"]))

        async def fired() -> bool:
            return bool((await other.sims.faults(other.sims.acquirer))["fired"].get("delay"))

        await eventually(fired)
        other.world.engine.kill()
        with pytest.raises(aiohttp.ClientError):
            await processing
        await other.world.engine.start()
        await _until(ada, payment["id"], "completed")
        assert (await ada.process(payment["id"])).json["status"] == "completed"
        assert await other.charges(payment["id"]) == [("charge", 7548)]
        await other.audit_is_clean()


async def test_after_all_of_it_the_audit_is_clean(gateway: Gateway) -> None:
    await gateway.audit_is_clean()
