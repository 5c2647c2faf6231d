"""The floor: a bare aiohttp handler that reads a payment's JSON and answers as many bytes as the engine does.

    python -m bench.floor PORT

No store, no upstreams, no middleware: what is left is what aiohttp and uvloop cost.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import msgspec
import uvloop
from aiohttp import web

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


async def create(request: web.Request) -> web.Response:
    """`POST /api/payments`: the shape of the engine's answer, filled from the request."""
    wanted: dict[str, Any] = _decode(await request.read())
    answer = {
        "id": "pay-01kqxw3v5n8t2r7d9m4c6b1hzj2a",
        "orderId": wanted["orderId"],
        "userId": wanted["userId"],
        "amount": wanted["amount"],
        "currency": wanted["currency"],
        "status": "processing",
        "paymentMethod": {"type": "credit_card", "brand": "visa", "last4": "4242"},
        "createdAt": "2026-05-06T07:08:09.123Z",
    }
    return web.Response(status=201, body=_encode(answer), content_type="application/json")


async def ready(_: web.Request) -> web.Response:
    """`GET /ready`."""
    return web.Response(text="ok")


async def serve(port: int) -> None:
    """Serve until the process is ended."""
    application = web.Application()
    application.router.add_post("/api/payments", create)
    application.router.add_get("/ready", ready)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(serve(int(sys.argv[1])))
