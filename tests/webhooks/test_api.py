"""Webhook endpoints over HTTP: what is answered, to whom, and what is refused with nothing written."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from aiohttp import web

from engine.notifications import TYPES
from engine.webhooks import ENDPOINT_DISABLED, EVENT_TYPES
from tests.api.world import TIME, Answer, World, running_world, token
from tests.store.datasets import connected, running
from tests.webhooks.world import Clock, Got, Hooks, notice, receiving

PATH = "/api/webhook-endpoints"
ADMIN = token("operator", role="admin")
URL = "https://shop.example.com/hooks"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world() -> AsyncIterator[World]:
    """An engine that takes endpoints, with the limits of production but for their number."""
    settings = {"PAYMENTS__WEBHOOKS__ENABLED": "true", "PAYMENTS__WEBHOOKS__ENDPOINTS_MAX": "3"}
    async with running_world(**settings) as running_one:
        yield running_one


async def post(world: World, path: str, body: Any = None, *, auth: str = "") -> Answer:
    """POST below `PATH`."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    if body is None:
        return await world.send("POST", PATH + path, auth=auth)
    return await world.send("POST", PATH + path, body=raw, auth=auth, headers={"Content-Type": "application/json"})


async def made(world: World, owner: str, **fields: Any) -> dict[str, Any]:
    """A new endpoint of a new owner."""
    answer = await post(world, "", {"url": URL, **fields}, auth=token(owner))
    assert answer.status == 201, answer
    endpoint: dict[str, Any] = answer.json
    return endpoint


def without(view: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The view without some fields."""
    return {name: value for name, value in view.items() if name not in names}


async def moved(hooks: Hooks, endpoint_id: str, url: str) -> None:
    """Let the endpoint's name lead to the test's own receiver, whose address the surface would refuse."""
    endpoint = await hooks.store.get(endpoint_id)
    assert endpoint is not None
    assert await hooks.store.change(msgspec.structs.replace(endpoint, url=url, version=endpoint.version + 1))


def gone(_: Got) -> web.Response:
    """The endpoint is no more."""
    return web.Response(status=410)


async def test_a_new_endpoint_shows_its_secret_only_then(world: World) -> None:
    answer = await post(world, "", {"url": URL, "eventTypes": ["payment_failed"], "description": "Books"})
    assert answer.status == 201
    endpoint = answer.json
    assert answer.headers["Location"] == f"{PATH}/{endpoint['id']}"
    assert TIME.fullmatch(endpoint["createdAt"])
    assert endpoint["secret"].startswith("whsec_")
    assert without(endpoint, "id", "secret", "createdAt") == {
        "url": URL, "eventTypes": ["payment_failed"], "description": "Books", "payments": "own", "status": "enabled",
    }  # fmt: skip
    got = await world.get(f"{PATH}/{endpoint['id']}")
    assert got.json == without(endpoint, "secret")
    listed = await world.get(PATH)
    assert listed.json == {"endpoints": [without(endpoint, "secret")]}
    assert endpoint["secret"] not in got.text + listed.text + world.engine.log.read_text()
    assert endpoint["id"] in got.text


async def test_the_list_is_one_s_own_the_latest_first(world: World) -> None:
    first, second = [await made(world, "lister") for _ in range(2)]
    listed = (await world.get(PATH, auth=token("lister"))).json["endpoints"]
    assert [each["id"] for each in listed] == [second["id"], first["id"]]
    assert (await world.get(PATH, auth=token("nobody"))).json == {"endpoints": []}


async def test_one_owner_has_a_bounded_number(world: World) -> None:
    endpoints = [await made(world, "collector") for _ in range(3)]
    refused = await post(world, "", {"url": URL}, auth=token("collector"))
    error = world.refused(refused, 409, "TOO_MANY_WEBHOOK_ENDPOINTS")
    assert error["details"] == {"maximum": 3}
    gone = await world.send("DELETE", f"{PATH}/{endpoints[1]['id']}", auth=token("collector"))
    assert (gone.status, gone.json) == (200, {"id": endpoints[1]["id"], "deleted": True})
    await made(world, "collector")


async def test_whatever_is_told_can_be_asked_for_by_its_name() -> None:
    """Who names no types is told of all that people are told of, and of endpoints; no such name must be refused."""
    assert sorted(EVENT_TYPES) == sorted([*TYPES, ENDPOINT_DISABLED])


async def test_somebody_else_s_endpoint_is_not_there_and_an_operator_sees_it(world: World) -> None:
    endpoint = await made(world, "owner")
    one = f"/{endpoint['id']}"
    for auth, seen in ((token("thief"), False), (token("owner"), True), (ADMIN, True)):
        answers = [
            await world.get(PATH + one, auth=auth),
            await world.get(f"{PATH}{one}/deliveries", auth=auth),
            await post(world, f"{one}/enable", auth=auth),
            await post(world, f"{one}/rotate-secret", auth=auth),
        ]
        assert [answer.status for answer in answers] == [200 if seen else 404] * 4
        if not seen:
            answers.append(await world.send("DELETE", PATH + one, auth=auth))
            answers.append(await post(world, f"{one}/deliveries/x/resend", auth=auth))
            for answer in answers:
                world.refused(answer, 404, "WEBHOOK_ENDPOINT_NOT_FOUND")
    assert (await post(world, "", {"url": URL}, auth=ADMIN)).json["payments"] == "all"
    assert endpoint["id"] not in (await world.get(PATH, auth=ADMIN)).text


@pytest.mark.parametrize(
    "endpoint_id", ["x", "we_", "we_" + "0" * 26 + "ff", "we_" + "0" * 26 + "00", "%00", "a" * 3000]
)
async def test_an_endpoint_that_there_is_not_is_404(world: World, endpoint_id: str) -> None:
    world.refused(await world.get(f"{PATH}/{endpoint_id}"), 404, "WEBHOOK_ENDPOINT_NOT_FOUND")


async def test_a_rotated_secret_is_new_and_the_old_one_has_an_end(world: World) -> None:
    endpoint = await made(world, "rotator")
    rotated = (await post(world, f"/{endpoint['id']}/rotate-secret", auth=token("rotator"))).json
    assert rotated["secret"] != endpoint["secret"]
    assert TIME.fullmatch(rotated["previousSecretUntil"])
    assert without(rotated, "secret", "previousSecretUntil") == without(endpoint, "secret")


BAD: Mapping[str, Any] = {
    "no JSON": b"{",
    "no object": [],
    "no url": {},
    "a number": {"url": 1},
    "empty": {"url": ""},
    "too long": {"url": "https://a.example/" + "a" * 2048},
    "unknown type": {"url": URL, "eventTypes": ["payment_complete"]},
    "a type that is none": {"url": URL, "eventTypes": [1]},
    "too many types": {"url": URL, "eventTypes": [*EVENT_TYPES, EVENT_TYPES[0]]},
    "a long description": {"url": URL, "description": "x" * 256},
}
BAD_URLS = (
    "http://shop.example.com/", "ftp://shop.example.com/", "https://user:hunter2@shop.example.com/", "https://a.example/#x",
    "https://127.0.0.1/", "https://2130706433/", "https://0x7f.1/", "https://[::1]/", "https://[::ffff:10.0.0.1]/",
    "https://localhost/", "https://169.254.169.254/latest/meta-data", "https://１２７.0.0.1/", "https://a.example:0/",
    "not a URL", "https://", "https://a b/", "https://a.example/\r\nX: 1",
)  # fmt: skip


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
async def test_a_bad_wish_is_refused_and_nothing_is_written(world: World, body: Any) -> None:
    before = world.written()
    answer = await post(world, "", body, auth=token("careless"))
    world.refused(answer, 400 if isinstance(body, bytes) else 422)
    assert world.written() == before


@pytest.mark.parametrize("url", BAD_URLS)
async def test_a_bad_url_is_refused_by_its_field_and_nothing_is_written(world: World, url: str) -> None:
    before = world.written()
    answer = await post(world, "", {"url": url}, auth=token("careless"))
    error = world.refused(answer, 422, "WEBHOOK_URL_REFUSED")
    assert error["details"] == {"field": "url"}
    assert "hunter2" not in answer.text
    assert world.written() == before


async def test_without_a_token_nobody_does_anything(world: World) -> None:
    endpoint = await made(world, "careful")
    one = f"{PATH}/{endpoint['id']}"
    for method, path in (
        ("POST", PATH), ("GET", PATH), ("GET", one), ("DELETE", one), ("POST", f"{one}/rotate-secret"),
        ("POST", f"{one}/enable"), ("GET", f"{one}/deliveries"), ("POST", f"{one}/deliveries/x/resend"),
    ):  # fmt: skip
        world.refused(await world.send(method, path, auth=None), 401, "UNAUTHORIZED")
    assert (await world.get(one, auth=token("careful"))).status == 200


async def test_deliveries_are_listed_in_pages_with_every_try_and_can_be_resent(world: World) -> None:
    """What a worker beside the engine has done is seen through the surface."""
    endpoint = await made(world, "watcher")
    one, auth = f"{PATH}/{endpoint['id']}", token("watcher")
    async with running(connected(world.redis.url)) as data, receiving() as receiver:
        hooks = Hooks(data, clock=Clock())
        await hooks.told(*(notice(number, user="watcher") for number in range(1, 6)))
        page = (await world.get(f"{one}/deliveries?limit=2", auth=auth)).json
        rest = (await world.get(f"{one}/deliveries?limit=3&cursor={page['next_cursor']}", auth=auth)).json
        assert [each["id"] for each in page["deliveries"] + rest["deliveries"]] == [
            f"pay-1-{n}" for n in (5, 4, 3, 2, 1)
        ]
        assert rest["next_cursor"] is None
        assert without(page["deliveries"][0], "createdAt") == {
            "id": "pay-1-5", "eventType": "payment_completed", "subject": "pay-1", "status": "waiting", "attempts": [],
        }  # fmt: skip
        await moved(hooks, endpoint["id"], receiver.url)
        await hooks.sent()
        listed = (await world.get(f"{one}/deliveries", auth=auth)).json["deliveries"]
        assert {each["status"] for each in listed} == {"delivered"}
        attempt = listed[0]["attempts"][0]
        assert attempt["statusCode"] == 200
        assert set(attempt) == {"at", "durationMs", "statusCode"}
        again = await post(world, f"/{endpoint['id']}/deliveries/pay-1-2/resend", auth=auth)
        assert (again.status, again.json["status"]) == (200, "waiting")
        hooks.clock.move(60)  # the engine's own has gone on
        await hooks.sent()
        assert receiver.ids().count("pay-1-2") == 2
        world.refused(
            await post(world, f"/{endpoint['id']}/deliveries/pay-9/resend", auth=auth),
            404,
            "WEBHOOK_DELIVERY_NOT_FOUND",
        )


async def test_a_disabled_endpoint_says_why_is_not_resent_to_and_can_be_enabled(world: World) -> None:
    endpoint = await made(world, "returner")
    one, auth = f"/{endpoint['id']}", token("returner")
    async with running(connected(world.redis.url)) as data, receiving() as receiver:
        hooks = Hooks(data, clock=Clock())
        await moved(hooks, endpoint["id"], receiver.url + "/410")
        receiver.answer = gone
        await hooks.told(notice(1, user="returner"))
        await hooks.sent()
    shown = (await world.get(PATH + one, auth=auth)).json
    assert (shown["status"], shown["disabledReason"]) == ("disabled", "gone")
    assert TIME.fullmatch(shown["disabledAt"])
    refused = await post(world, f"{one}/deliveries/pay-1-1/resend", auth=auth)
    world.refused(refused, 409, "WEBHOOK_ENDPOINT_DISABLED")
    enabled = (await post(world, f"{one}/enable", auth=auth)).json
    assert enabled["status"] == "enabled"
    assert "disabledReason" not in enabled
    assert (await post(world, f"{one}/enable", auth=auth)).json == enabled


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "cursor=x", "cursor=MTIzNDU2Nzg5MDEyMzQ1Njc4OQ==", "cursor="]
)
async def test_a_bad_page_is_refused(world: World, query: str) -> None:
    endpoint = await made(world, f"reader-{query}")
    answer = await world.get(f"{PATH}/{endpoint['id']}/deliveries?{query}", auth=token(f"reader-{query}"))
    world.refused(answer, 422, "INVALID_REQUEST")
