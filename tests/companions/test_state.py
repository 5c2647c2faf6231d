"""State in Redis: it survives, has one writer, and is never in doubt for longer than one answer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from engine.errors import StoreUnavailable
from engine.store.connect import RedisSettings, connect
from engine.store.records import RedisRecords
from simulators.orders import OrderServiceSim
from simulators.server import serve
from simulators.users import UserServiceSim
from tests.companions.world import completed, order, records
from tests.simulators.helpers import a_user, an_order, call
from tests.store.proxy import proxy_to
from tests.support import RedisServer


async def test_users_survive_a_restart_with_all_that_they_are(
    http: aiohttp.ClientSession, redis_server: RedisServer
) -> None:
    async with records(redis_server, "users") as state:
        async with serve(UserServiceSim(None, state=state)) as base:
            user = (await call(http, "POST", f"{base}/api/users", a_user(password="correct-horse"))).body["id"]
            token = (await call(http, "GET", f"{base}/_users/{user}/verification-token")).body
            await call(http, "PUT", f"{base}/api/users/{user}", {"profile": {"city": "Rome"}})
            await call(http, "POST", f"{base}/api/users/{user}/verify", token)
            before = [(await call(http, "GET", f"{base}/api/users/{user}{path}")).body for path in ("", "/events")]
        async with serve(UserServiceSim(None, state=state)) as base:
            after = [(await call(http, "GET", f"{base}/api/users/{user}{path}")).body for path in ("", "/events")]
            assert after == before
            assert (after[0]["is_verified"], after[0]["profile"]["city"]) == (True, "Rome")
            for taken, code in ((a_user(username="other"), "USER_001"), (a_user(email="o@example.com"), "USER_002")):
                answer = await call(http, "POST", f"{base}/api/users", taken)
                assert answer.body["error"]["code"] == code
        [kept] = await state.read()
        assert b"correct-horse" not in kept


async def test_orders_survive_a_restart_with_exact_amounts(
    http: aiohttp.ClientSession, redis_server: RedisServer
) -> None:
    async with records(redis_server) as state:
        sim = OrderServiceSim(None, state=state)
        async with serve(sim) as base:
            for number in range(30):
                await call(http, "POST", f"{base}/api/orders", an_order(id=f"order-{number}"))
            await sim.handle([completed("order-7")])
            before = [await order(http, base, f"order-{number}") for number in range(30)]
        async with serve(OrderServiceSim(None, state=state)) as base:
            assert [await order(http, base, f"order-{number}") for number in range(30)] == before
            response = await http.get(f"{base}/api/orders/order-7")
            assert '"totalAmount":75.48,' in await response.text()
            user = an_order()["userId"]
            assert (await call(http, "GET", f"{base}/api/orders/user/{user}?status=confirmed")).body["total"] == 1


async def test_whoever_starts_last_is_the_writer_and_the_other_says_so(
    http: aiohttp.ClientSession, redis_server: RedisServer
) -> None:
    """Two who each remember everything would write over each other."""
    async with (
        records(redis_server) as first,
        records(redis_server) as second,
        serve(OrderServiceSim(None, state=first)) as old,
    ):
        await call(http, "POST", f"{old}/api/orders", an_order(id="order-1"))
        assert (await call(http, "GET", f"{old}/ready")).status == 200
        async with serve(OrderServiceSim(None, state=second)) as new:
            refused = await call(http, "POST", f"{old}/api/orders/order-1/cancel")
            assert (refused.status, refused.body["error"]["code"]) == (503, "STORE_UNAVAILABLE")
            assert (await call(http, "GET", f"{old}/ready")).status == 503
            assert (await call(http, "GET", f"{old}/health")).status == 200
            assert (await call(http, "GET", f"{new}/ready")).status == 200
            assert (await order(http, new, "order-1"))["status"] == "pending"
            assert (await call(http, "POST", f"{new}/api/orders/order-1/cancel")).status == 200


async def test_a_change_whose_answer_was_lost_is_found_before_the_next(
    http: aiohttp.ClientSession, redis_server: RedisServer
) -> None:
    """The write was made and nobody was told: the same user must not be made twice."""
    async with proxy_to(redis_server.port) as proxy:
        client = connect(RedisSettings(url=f"redis://127.0.0.1:{proxy.port}/0", connections_max=2))
        try:
            async with serve(UserServiceSim(None, state=RedisRecords(client, "users"))) as base:
                proxy.lose_answers_to("user@example.com", times=1)
                doubtful = await call(http, "POST", f"{base}/api/users", a_user(id="user-1"))
                assert (doubtful.status, doubtful.body["error"]["code"]) == (503, "STORE_UNAVAILABLE")
                assert proxy.lost == 1
                again = await call(http, "POST", f"{base}/api/users", a_user())
                assert (again.status, again.body["error"]["code"]) == (409, "USER_001")
                assert (await call(http, "GET", f"{base}/api/users/user-1")).status == 200
        finally:
            await client.aclose()


async def test_without_its_store_it_is_not_ready_and_changes_nothing_and_comes_back(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    server = RedisServer(tmp_path, {"appendfsync": "always"})
    server.start()
    try:
        async with records(server) as state, serve(OrderServiceSim(None, state=state)) as base:
            await call(http, "POST", f"{base}/api/orders", an_order(id="order-1"))
            server.kill()
            refused = await call(http, "POST", f"{base}/api/orders/order-1/cancel")
            assert (refused.status, (await call(http, "GET", f"{base}/ready")).status) == (503, 503)
            await asyncio.to_thread(server.start)
            assert (await call(http, "GET", f"{base}/ready")).status == 200
            assert (await order(http, base, "order-1"))["status"] == "pending"
            assert (await call(http, "POST", f"{base}/api/orders/order-1/cancel")).status == 200
    finally:
        server.stop()


async def test_of_racing_requests_for_one_email_one_wins_in_redis_too(
    http: aiohttp.ClientSession, redis_server: RedisServer
) -> None:
    async with records(redis_server, "users") as state, serve(UserServiceSim(None, state=state)) as base:
        answers = await asyncio.gather(*(call(http, "POST", f"{base}/api/users", a_user()) for _ in range(10)))
        assert sorted(answer.status for answer in answers) == [201] + [409] * 9
        assert len(await state.read()) == 1


async def test_a_service_does_not_start_without_its_store() -> None:
    client = connect(RedisSettings(url="redis://127.0.0.1:1/0"))
    with pytest.raises(StoreUnavailable):
        async with serve(UserServiceSim(None, state=RedisRecords(client, "users"))):
            pass
    await client.aclose()


async def scraped(http: aiohttp.ClientSession, base: str) -> dict[str, Any]:
    """Every series by its name with labels."""
    async with http.get(f"{base}/metrics") as response:
        lines = [line for line in (await response.text()).splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


async def test_the_metrics_of_users_have_the_promised_names(
    http: aiohttp.ClientSession, redis_server: RedisServer
) -> None:
    async with records(redis_server, "users") as state, serve(UserServiceSim(None, state=state)) as base:
        user = (await call(http, "POST", f"{base}/api/users", a_user())).body["id"]
        await call(http, "POST", f"{base}/api/users", a_user())
        token = (await call(http, "GET", f"{base}/_users/{user}/verification-token")).body
        await call(http, "POST", f"{base}/api/users/{user}/verify", token)
        await call(http, "GET", f"{base}/made/up/path")
        found = await scraped(http, base)
    assert (found["user_registrations_total"], found["user_verifications_total"]) == (1, 1)
    assert found["database_connections_active"] >= 1
    assert found['database_queries_duration_seconds_count{operation="save"}'] == 2
    for status in (201, 409):
        assert found[f'http_requests_total{{method="POST",route="/api/users",status="{status}"}}'] == 1
    assert found['http_request_duration_seconds_count{method="POST",route="/api/users/{id}/verify"}'] == 1
    assert found['http_requests_total{method="unknown",route="unknown",status="404"}'] == 1


async def test_the_metrics_of_orders_have_the_promised_names(http: aiohttp.ClientSession) -> None:
    async with serve(OrderServiceSim(None)) as base:
        await call(http, "POST", f"{base}/api/orders", an_order())
        found = await scraped(http, base)
        async with http.get(f"{base}/metrics") as response:
            assert "# TYPE events_published_total counter" in await response.text()
    assert (found["orders_created_total"], found["database_connections_active"]) == (1, 0)
    assert (found["order_value_histogram_count"], found["order_value_histogram_sum"]) == (1, 75.48)
    assert found['mongo_operations_duration_seconds_count{operation="save"}'] == 1
