"""From a payment to somebody's webhook: engine and worker in their own processes, a real receiver."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook

from simulators.server import serve
from tests.faults.world import eventually
from tests.notify.process import NotifyProcess
from tests.support import CARD_KEYS, USER, EngineProcess, RedisServer, Sims, payment_body, token


class Receiver:
    """Keeps what it is sent; refuses the first."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []

    def app(self) -> web.Application:
        """What is served."""
        application = web.Application()
        application.router.add_post("/hook", self._hook)
        return application

    async def _hook(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        return web.Response(status=503 if len(self.got) == 1 else 204)


async def test_an_event_arrives_signed_at_an_endpoint_and_again_when_it_was_not_taken(
    redis_server: RedisServer, sims: Sims, tmp_path: Path
) -> None:
    hooks = {
        "PAYMENTS__WEBHOOKS__ENABLED": "true",
        "PAYMENTS__WEBHOOKS__ALLOW_HTTP": "true",
        "PAYMENTS__WEBHOOKS__ALLOW_PRIVATE": "true",
        "PAYMENTS__WEBHOOKS__RETRY_S": "[0.2, 0.2]",
    }
    receiver = Receiver()
    engine = EngineProcess(redis_server.url, sims, tmp_path, **hooks)
    worker = NotifyProcess(redis_server, tmp_path, PAYMENTS__CARDS__KEYS=CARD_KEYS, **hooks)
    async with serve(receiver) as url, worker:
        await asyncio.gather(engine.start(), sims.user(), sims.order("order-1"))
        try:
            await worker.start()
            secret = await an_endpoint(engine, sims, f"{url}/hook")
            answer = await engine.post(payment_body("order-1"), wait_s=20)
            payment_id = (await answer.json())["id"]
            await eventually(lambda: len(receiver.got) >= 2)
            await worker.counts("webhook_deliveries_total", 1, outcome="delivered")
            assert await worker.stop() == 0
        finally:
            await engine.close()
    (first, body), (second, again) = receiver.got
    assert body == again
    assert first["webhook-id"] == second["webhook-id"]
    told: Any = Webhook(secret).verify(body, second)
    assert told["type"] == "payment_completed"
    assert told["data"]["payment_id"] == payment_id
    assert told["data"]["user_id"] == USER
    assert [line["type"] for line in worker.lines()] == ["payment_completed"], "and by its line"
    assert json.loads(body) == told


async def an_endpoint(engine: EngineProcess, sims: Sims, url: str) -> str:
    """The secret of a new endpoint of the user."""
    headers = {"Authorization": f"Bearer {token()}"}
    body = {"url": url, "eventTypes": ["payment_completed"]}
    path = f"{engine.base}/api/webhook-endpoints"
    async with sims.session.post(path, json=body, headers=headers) as response:
        assert response.status == 201, await response.text()
        return str((await response.json())["secret"])
