"""The circuit of a counterparty that is down: it opens, refuses without asking, tries, and closes, as configured."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from simulators.orders import OrderServiceSim
from simulators.users import UserServiceSim
from tests.api.counterparts import Stoppable
from tests.api.world import TIME, Answer, World, eventually, payment_body, token, world_around
from tests.support import Sims, simulators

pytestmark = pytest.mark.asyncio(loop_scope="module")

FAILURES_TO_OPEN, TRIALS, OPEN_S = 4, 3, 1.0
CODES = {"user_service": "USER_SERVICE_UNAVAILABLE", "order_service": "ORDER_SERVICE_UNAVAILABLE"}
CLOSED, HALF_OPEN, OPEN = 0, 1, 2


def settings(section: str) -> dict[str, str]:
    """One guard's numbers; one try a payment, so that each refused payment is one failure."""
    numbers = {
        "FAILURES_TO_OPEN": FAILURES_TO_OPEN, "TRIALS": TRIALS, "OPEN_S": OPEN_S, "TRIES_MAX": 1, "TIMEOUT_S": 30,
        "SLOW_CALL_S": 30, "DEADLINE_S": 30, "WINDOW_CALLS_MIN": 100_000,
    }  # fmt: skip
    return {f"PAYMENTS__{section}__GUARD__{name}": str(value) for name, value in numbers.items()}


class Circuit:
    """A counterparty that can be stopped, and the engine's circuit to it."""

    def __init__(self, name: str, world: World, service: Stoppable) -> None:
        self.name, self.world, self.service = name, world, service
        self.first: dict[str, Any] = {}

    async def status(self) -> dict[str, Any]:
        """What the status endpoint shows."""
        status: dict[str, Any] = (await self.world.get("/api/circuit-breaker/status")).json
        circuit: dict[str, Any] = status[self.name]
        return circuit

    async def metric(self) -> float:
        """What Prometheus scrapes."""
        return await self.world.metric("circuit_breaker_state", counterparty=self.name)

    async def pay(self, count: int = 1) -> list[Answer]:
        """Payments at once, each of another user, so that none profits from what another has asked."""
        if not self.service.running:
            bodies = [payment_body(f"order-{number}", user_id=f"user-of-{number}") for number in range(count)]
        else:
            users = [await self.world.user() for _ in range(count)]
            bodies = [payment_body(await self.world.order(user_id=user), user_id=user) for user in users]
        return await asyncio.gather(*[self.world.pay(body, auth=token(body["userId"])) for body in bodies])

    def refused(self, answer: Answer) -> dict[str, Any]:
        """Assert that this counterparty could not be asked."""
        error = self.world.refused(answer, 503, CODES[self.name])
        assert error["retry"] == "after"
        return error

    async def break_it(self) -> None:
        """Stop the service and pay until the circuit is open."""
        await self.service.stop()
        for _ in range(FAILURES_TO_OPEN):
            [answer] = await self.pay()
            self.refused(answer)
        assert (await self.status())["state"] == "open"

    async def heal(self) -> None:
        """Start the service again and pay until the circuit is closed."""
        await self.service.start()
        await self.world.sims.clear_faults(self.service.base)

        async def closed() -> bool:
            await self.pay()
            return bool((await self.status())["state"] == "closed")

        assert await eventually(closed, within_s=20)

    async def slow_down(self) -> None:
        """The service answers from now on when its faults are cleared; they count who asked."""
        await self.world.sims.fault(self.service.base, "delay", delay_s=3600, method="GET")

    async def asked(self, kind: str = "delay") -> int:
        """How many requests a fault of this kind has seen."""
        fired: dict[str, int] = (await self.world.sims.faults(self.service.base))["fired"]
        return fired[kind]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def circuits() -> AsyncIterator[dict[str, Circuit]]:
    """Both services, stoppable."""
    users, orders = Stoppable(UserServiceSim(None)), Stoppable(OrderServiceSim(None))
    async with simulators() as other, users, orders:
        sims = Sims(users.base, orders.base, other.acquirer, other.session)
        await sims.user()
        async with world_around(sims, **settings("USERS"), **settings("ORDERS")) as world:
            both = [Circuit("user_service", world, users), Circuit("order_service", world, orders)]
            for one in both:
                one.first = await one.status()
            yield {one.name: one for one in both}


# One is enough where nothing depends on which of the two it is.
one_of_them = pytest.mark.parametrize("circuit", ["user_service"], indirect=True)


@pytest_asyncio.fixture(loop_scope="module", params=["user_service", "order_service"])
async def circuit(request: pytest.FixtureRequest, circuits: dict[str, Circuit]) -> AsyncIterator[Circuit]:
    """Each of the two in turn, closed before and after."""
    one = circuits[request.param]
    yield one
    await one.heal()


async def test_the_circuit_of_a_counterparty_that_was_never_asked_is_closed(circuits: dict[str, Circuit]) -> None:
    for circuit in circuits.values():
        first_three = dict(list(circuit.first.items())[:3])
        assert first_three == {"state": "closed", "failure_count": 0, "last_failure": None}


async def test_the_circuit_opens_after_the_configured_failures_and_shows_it(
    circuit: Circuit, circuits: dict[str, Circuit]
) -> None:
    await circuit.service.stop()
    written = await circuit.world.at_rest()
    for failure in range(1, FAILURES_TO_OPEN + 1):
        assert ((await circuit.status())["state"], await circuit.metric()) == ("closed", CLOSED)
        [answer] = await circuit.pay()
        circuit.refused(answer)
        status = await circuit.status()
        assert status["failure_count"] == failure
        assert TIME.fullmatch(status["last_failure"])
    assert ((await circuit.status())["state"], await circuit.metric()) == ("open", OPEN)
    assert await circuit.world.at_rest() == written
    others = [other for other in circuits.values() if other is not circuit]
    assert [((await other.status())["state"], await other.metric()) for other in others] == [("closed", CLOSED)]
    assert (await circuit.world.send("GET", "/ready", auth=None)).status == 200


@one_of_them
async def test_an_open_circuit_refuses_at_once_and_nobody_is_asked(circuit: Circuit) -> None:
    for _ in range(5):
        await circuit.break_it()
        opened = time.monotonic()
        async with circuit.service.only_listening() as knocks:
            answers = [*await circuit.pay(), *await circuit.pay(10)]
        if time.monotonic() - opened < OPEN_S:
            break
        # This machine was too busy: a trial may have been due before the last of them.
    else:
        pytest.fail("eleven refusals never came within the time that the circuit stays open")
    assert knocks == []
    for answer in answers:
        circuit.refused(answer)
        assert 1 <= int(answer.headers["Retry-After"]) <= math.ceil(OPEN_S)


@one_of_them
async def test_a_half_open_circuit_lets_exactly_the_configured_trials_pass_and_closes(circuit: Circuit) -> None:
    await circuit.break_it()
    await circuit.service.start()
    users = [await circuit.world.user() for _ in range(30)]
    bodies = [payment_body(await circuit.world.order(user_id=user), user_id=user) for user in users]
    await circuit.slow_down()
    before = await circuit.asked()
    await asyncio.sleep(OPEN_S + 0.1)
    paying = [
        asyncio.create_task(circuit.world.pay(body, auth=token(body["userId"])))
        for body in bodies
    ]  # fmt: skip

    async def all_but_the_trials() -> bool:
        return sum(task.done() for task in paying) == len(paying) - TRIALS

    # Who is not a trial is refused at once, while the trials wait for their answers.
    assert await eventually(all_but_the_trials, within_s=20)
    assert (await circuit.status())["state"] == "half_open"
    assert await circuit.metric() == HALF_OPEN
    assert await circuit.asked() - before == TRIALS
    await circuit.world.sims.clear_faults(circuit.service.base)
    answers = await asyncio.gather(*paying)
    assert sum(answer.status == 201 for answer in answers) == TRIALS
    for answer in answers:
        if answer.status != 201:
            circuit.refused(answer)
    status = await circuit.status()
    assert (status["state"], status["failure_count"], await circuit.metric()) == ("closed", 0, CLOSED)
    assert {answer.status for answer in await circuit.pay(10)} == {201}


@one_of_them
async def test_a_trial_that_fails_opens_the_circuit_again(circuit: Circuit) -> None:
    await circuit.break_it()
    await circuit.service.start()
    users = [await circuit.world.user() for _ in range(2)]
    bodies = [payment_body(await circuit.world.order(user_id=user), user_id=user) for user in users]
    await circuit.world.sims.fault(circuit.service.base, "error_before", method="GET")
    for _ in range(5):
        before = await circuit.asked("error_before")
        await asyncio.sleep(OPEN_S + 0.1)
        tried = time.monotonic()
        first = await circuit.world.pay(bodies[0], auth=token(users[0]))
        circuit.world.refused(first, 502, "BAD_UPSTREAM_ANSWER")
        assert ((await circuit.status())["state"], await circuit.metric()) == ("open", OPEN)
        second = await circuit.world.pay(bodies[1], auth=token(users[1]))
        if time.monotonic() - tried < OPEN_S:
            break
        # This machine was too busy: the second may have been a trial as well.
    else:
        pytest.fail("two answers never came within the time that the circuit stays open")
    circuit.refused(second)
    assert await circuit.asked("error_before") - before == 1


async def test_a_user_who_was_just_paid_for_can_pay_although_the_user_service_is_down(
    circuits: dict[str, Circuit],
) -> None:
    users = circuits["user_service"]
    user = await users.world.user()
    await users.world.paid(user_id=user)
    order = await users.world.order(user_id=user)
    await users.break_it()
    assert (await users.world.pay(payment_body(order, user_id=user), auth=token(user))).status == 201
    await users.heal()


async def test_a_healthy_no_is_no_failure(circuits: dict[str, Circuit]) -> None:
    world = circuits["user_service"].world
    for number in range(FAILURES_TO_OPEN * 2):
        stranger = f"unknown-{number}"
        body = payment_body(f"order-unknown-{number}", user_id=stranger)
        world.refused(await world.pay(body, auth=token(stranger)), 404)
    for circuit in circuits.values():
        status = await circuit.status()
        assert (status["state"], status["failure_count"]) == ("closed", 0)
