"""Whoever is told by webhooks: what stands on port 9000 in the examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from aiohttp import web


class Got(NamedTuple):
    """A message as it came."""

    path: str
    headers: Mapping[str, str]
    body: bytes


class Receiver:
    """Keeps what it is sent. `/gone` wants to be told of nothing any more."""

    def __init__(self) -> None:
        self.got: list[Got] = []

    def app(self) -> web.Application:
        """What is served."""
        application = web.Application()
        application.router.add_post("/hooks", self._hooks)
        application.router.add_post("/gone", self._gone)
        return application

    async def _hooks(self, request: web.Request) -> web.Response:
        self.got.append(Got(request.path, request.headers.copy(), await request.read()))
        return web.Response(status=204)

    async def _gone(self, _: web.Request) -> web.Response:
        return web.Response(status=410)
