"""A user or order service that is down, slow or lying: 503 or 502 with a code and a time, and nothing written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from simulators.server import serve
from tests.api.counterparts import Lie, Witness
from tests.api.world import World, eventually, payment_body, token, world_around
from tests.support import simulators

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Short patience, two tries, users not remembered for long, and a breaker that stays out of the way.
GUARD = {
    "TIMEOUT_S": "2.5", "SLOW_CALL_S": "2.4", "DEADLINE_S": "7", "TRIES_MAX": "2", "RETRY_BUDGET_MIN": "100000",
    "FAILURES_TO_OPEN": "100000", "WINDOW_CALLS_MIN": "100000",
}  # fmt: skip
SETTINGS = {
    "PAYMENTS__USERS__CACHE_S": "4",
    **{f"PAYMENTS__{name}__GUARD__{key}": value for name in ("USERS", "ORDERS") for key, value in GUARD.items()},
}
UNAVAILABLE = {"users": "USER_SERVICE_UNAVAILABLE", "orders": "ORDER_SERVICE_UNAVAILABLE"}
NAMES = {"users": "user_service", "orders": "order_service"}
both = pytest.mark.parametrize("service", ["users", "orders"])


class Watched:
    """An engine whose three counterparties are watched."""

    def __init__(self, world: World, users: Witness, orders: Witness, acquirer: Witness) -> None:
        self.world, self.users, self.orders, self.acquirer = world, users, orders, acquirer

    def witness(self, service: str) -> Witness:
        """The one before this service."""
        return self.users if service == "users" else self.orders

    def mend(self) -> None:
        """From now on only the truth."""
        self.users.lie = self.orders.lie = None


async def refused_until_mended(
    world: World, status: int, code: str, service: str, mend: Callable[[], None] = lambda: None
) -> None:
    """A payment is refused, which leaves nothing behind; when all is well again, the same request is taken."""
    user = await world.user()
    body = payment_body(await world.order(user_id=user), user_id=user)
    written, effects = await world.at_rest(), await world.sims.effects()
    answer = await world.pay(body, auth=token(user), key="same")
    mend()
    await world.sims.clear_faults(getattr(world.sims, service))
    error = world.refused(answer, status, code)
    assert error["retry"] == "after"
    assert error["details"]["counterparty"] == NAMES[service]
    assert int(answer.headers["Retry-After"]) >= 1
    assert (await world.at_rest(), await world.sims.effects()) == (written, effects)
    assert (await world.pay(body, auth=token(user), key="same")).status == 201


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def watched() -> AsyncIterator[Watched]:
    """The engine asks the witnesses, the tests drive the simulators behind them."""
    async with simulators() as sims:
        await sims.user()
        users, orders, acquirer = (Witness(url, sims.session) for url in (sims.users, sims.orders, sims.acquirer))
        async with serve(users) as users_url, serve(orders) as orders_url, serve(acquirer) as acquirer_url:
            urls = {
                "PAYMENTS__USERS__URL": users_url + "/api/users/{id}",
                "PAYMENTS__ORDERS__URL": orders_url + "/internal/orders/{id}",
                "PAYMENTS__ACQUIRER__URL": acquirer_url,
            }
            async with world_around(sims, **SETTINGS, **urls) as world:
                yield Watched(world, users, orders, acquirer)


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def mended(watched: Watched) -> AsyncIterator[None]:
    """No test inherits the trouble of another."""
    yield
    watched.mend()
    for service in (watched.world.sims.users, watched.world.sims.orders):
        await watched.world.sims.clear_faults(service)


@pytest.mark.parametrize(
    ("kind", "service"), [("silence", "users"), ("delay", "orders"), ("reset", "users"), ("reset", "orders")]
)
async def test_a_service_that_does_not_answer_in_time_is_503(watched: Watched, service: str, kind: str) -> None:
    sims = watched.world.sims
    await sims.fault(getattr(sims, service), kind, delay_s=3600, method="GET")
    # Were there no limit, the client's own would end it: `refused_until_mended` wants an answer.
    await refused_until_mended(watched.world, 503, UNAVAILABLE[service], service)


@both
@pytest.mark.parametrize("status", [500, 502, 503, 429, 401, 403, 301, 204, 202])
async def test_a_service_that_answers_with_a_useless_status_is_502(watched: Watched, service: str, status: int) -> None:
    await watched.world.sims.fault(getattr(watched.world.sims, service), "status", status=status, method="GET")
    await refused_until_mended(watched.world, 502, "BAD_UPSTREAM_ANSWER", service)


LIES: dict[str, Lie] = {
    "not JSON": lambda _: b"<html>please log in</html>",
    "nothing": lambda _: b"",
    "half of it": lambda _: b'{"id": "order-1", ',
    "not UTF-8": lambda _: b'{"id": "\xff"}',
    "a list": lambda said: [said],
    "null": lambda _: None,
    "an empty object": lambda _: {},
    "an envelope": lambda said: {"data": said},
    "another id": lambda said: said | {"id": "somebody-else"},
    "no id": lambda said: {name: value for name, value in said.items() if name != "id"},
    "the id as null": lambda said: said | {"id": None},
    "too much": lambda said: said | {"junk": "x" * 300_000},
    "deep": lambda _: b'{"id":' * 30_000,
}
USER_LIES: dict[str, Lie] = {
    "no is_active": lambda said: {name: value for name, value in said.items() if name != "is_active"},
    "is_active in words": lambda said: said | {"is_active": "false"},
    "is_active as a number": lambda said: said | {"is_active": 1},
    "is_active as null": lambda said: said | {"is_active": None},
}
ORDER_LIES: dict[str, Lie] = {
    "no userId": lambda said: {name: value for name, value in said.items() if name != "userId"},
    "no status": lambda said: {name: value for name, value in said.items() if name != "status"},
    "no total": lambda said: {name: value for name, value in said.items() if name != "totalAmount"},
    "a total in words": lambda said: said | {"totalAmount": "a lot"},
    "a total as text": lambda said: said | {"totalAmount": "75.48"},
    "a total as null": lambda said: said | {"totalAmount": None},
    "a total below nothing": lambda said: said | {"totalAmount": -75.48},
    "a total beyond floats": lambda said: json.dumps(said | {"totalAmount": "!"}).replace('"!"', "1e400").encode(),
    "a total that is true": lambda said: said | {"totalAmount": True},
    "a total that is no JSON": lambda said: said | {"totalAmount": float("nan")},
    "a currency as a number": lambda said: said | {"currency": 840},
}


@both
@pytest.mark.parametrize("lie", LIES)
async def test_a_service_that_answers_nonsense_is_502(watched: Watched, service: str, lie: str) -> None:
    watched.witness(service).lie = LIES[lie]
    await refused_until_mended(watched.world, 502, "BAD_UPSTREAM_ANSWER", service, watched.mend)


@pytest.mark.parametrize("lie", USER_LIES)
async def test_a_user_who_may_or_may_not_be_active_is_502(watched: Watched, lie: str) -> None:
    watched.users.lie = USER_LIES[lie]
    await refused_until_mended(watched.world, 502, "BAD_UPSTREAM_ANSWER", "users", watched.mend)


@pytest.mark.parametrize("lie", ORDER_LIES)
async def test_an_order_that_cannot_be_understood_is_502(watched: Watched, lie: str) -> None:
    watched.orders.lie = ORDER_LIES[lie]
    await refused_until_mended(watched.world, 502, "BAD_UPSTREAM_ANSWER", "orders", watched.mend)


async def test_an_order_as_the_contract_shows_it_has_no_currency(watched: Watched) -> None:
    watched.orders.lie = lambda said: {name: value for name, value in said.items() if name != "currency"}
    assert (await watched.world.paid())["status"] == "completed"


async def test_one_bad_answer_is_asked_for_again(watched: Watched) -> None:
    for service in (watched.world.sims.users, watched.world.sims.orders):
        user = await watched.world.user()
        order = await watched.world.order(user_id=user)
        await watched.world.sims.fault(service, "error_before", times=1, method="GET")
        assert (await watched.world.pay(payment_body(order, user_id=user), auth=token(user))).status == 201
        assert (await watched.world.sims.faults(service))["fired"]["error_before"] == 1


async def test_request_id_and_trace_reach_every_counterparty(watched: Watched) -> None:
    user = await watched.world.user()
    body = payment_body(await watched.world.order(user_id=user), user_id=user)
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"X-Request-Id": "trace-me", "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    answer = await watched.world.pay(body, auth=token(user), wait_s=10, headers=headers)
    assert answer.json["status"] == "completed"
    for witness in (watched.users, watched.orders, watched.acquirer):
        [heard] = [heard for heard in witness.heard if heard.headers["X-Request-Id"] == "trace-me"]
        assert heard.headers["traceparent"].split("-")[1] == trace


async def test_no_counterparty_hears_the_callers_token(watched: Watched) -> None:
    await watched.world.paid()
    heard = [*watched.users.heard, *watched.orders.heard, *watched.acquirer.heard]
    assert heard
    assert not any("Authorization" in one.headers for one in heard)


async def test_fifty_payments_at_once_ask_for_their_user_once_and_for_every_order(watched: Watched) -> None:
    user = await watched.world.user()
    orders = [await watched.world.order(user_id=user) for _ in range(50)]
    watched.users.heard.clear()
    watched.orders.heard.clear()
    bodies = [payment_body(order, user_id=user) for order in orders]
    answers = await asyncio.gather(*[watched.world.pay(body, auth=token(user)) for body in bodies])
    assert {answer.status for answer in answers} == {201}
    assert [heard.path for heard in watched.users.heard] == [f"/api/users/{user}"]
    assert sorted(heard.path for heard in watched.orders.heard) == sorted(
        f"/internal/orders/{order}" for order in orders
    )


async def test_a_user_is_remembered_only_shortly(watched: Watched) -> None:
    user = await watched.world.user()
    await watched.world.paid(user_id=user)
    watched.users.lie = lambda said: said | {"is_active": False}

    async def no_longer_active() -> bool:
        order = await watched.world.order(user_id=user)
        answer = await watched.world.pay(payment_body(order, user_id=user), auth=token(user))
        return answer.status == 422

    assert await eventually(no_longer_active, within_s=60)


async def test_an_inactive_user_is_not_remembered(watched: Watched) -> None:
    user = await watched.world.user()
    body = payment_body(await watched.world.order(user_id=user), user_id=user)
    watched.users.lie = lambda said: said | {"is_active": False}
    watched.world.refused(await watched.world.pay(body, auth=token(user)), 422, "USER_INACTIVE")
    watched.mend()
    assert (await watched.world.pay(body, auth=token(user))).status == 201


async def test_an_order_is_asked_for_anew_every_time(watched: Watched) -> None:
    world = watched.world
    order = await world.order()
    failed = await world.pay(payment_body(order, cardNumber="4000000000000002"), wait_s=10)
    assert failed.json["status"] == "failed"
    await world.change_order(order, status="cancelled")
    world.refused(await world.pay(payment_body(order)), 409, "PAY_003")
    await world.change_order(order, status="pending")
    assert (await world.pay(payment_body(order))).status == 201


async def test_an_id_reaches_the_services_quoted_and_cannot_choose_another_path(watched: Watched) -> None:
    watched.orders.heard.clear()
    for order in ("..", "a.b:c@d", "order-1.", "order@evil:80"):
        await watched.world.pay(payment_body(order))
    asked = {heard.path for heard in watched.orders.heard}
    assert all(path.startswith("/internal/orders/") for path in asked)


async def test_both_services_down_is_one_refusal(watched: Watched) -> None:
    for service in (watched.world.sims.users, watched.world.sims.orders):
        await watched.world.sims.fault(service, "reset", method="GET")
    user = await watched.world.user()
    order = await watched.world.order(user_id=user)
    answer = await watched.world.pay(payment_body(order, user_id=user), auth=token(user))
    assert answer.json["error"]["code"] in UNAVAILABLE.values()
    watched.world.refused(answer, 503)
    for service in (watched.world.sims.users, watched.world.sims.orders):
        await watched.world.sims.clear_faults(service)
