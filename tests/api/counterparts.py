"""Counterparties for the API tests: one that writes down what it hears and may lie, and one that can be stopped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple, Self

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from simulators.server import HasApp, serve
from simulators.wire import reset
from tests.support import free_port

Lie = Callable[[Any], object]


class Heard(NamedTuple):
    """A request that arrived."""

    method: str
    path: str
    headers: CIMultiDictProxy[str]


class Witness:
    """Stands before a simulator, hands every request on, and writes it down.

    `lie` turns the simulator's JSON into what is said instead; bytes are said as they are.
    """

    def __init__(self, upstream: str, session: aiohttp.ClientSession) -> None:
        self._upstream, self._session = upstream, session
        self.heard: list[Heard] = []
        self.lie: Lie | None = None

    def app(self) -> web.Application:
        """What `simulators.server.serve` serves."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._hand_on)
        return app

    async def _hand_on(self, request: web.Request) -> web.Response:
        self.heard.append(Heard(request.method, request.path, request.headers))
        headers = CIMultiDict(request.headers)
        headers.popall("Host", None)
        url = self._upstream + request.path_qs
        try:
            async with self._session.request(
                request.method, url, data=await request.read(), headers=headers, allow_redirects=False
            ) as answer:
                said: object = await answer.read()
                if self.lie is not None:
                    said = self.lie(await answer.json())
        except aiohttp.ClientError:
            return reset(request)
        if isinstance(said, bytes):
            return web.Response(status=answer.status, body=said, content_type="application/json")
        return web.json_response(said, status=answer.status)


class Stoppable:
    """A simulator on a port of its own, that can be stopped and started again there."""

    def __init__(self, sim: HasApp) -> None:
        self._sim = sim
        self._port = free_port()
        self.base = f"http://127.0.0.1:{self._port}"
        self._running: contextlib.AsyncExitStack | None = None

    @property
    def running(self) -> bool:
        """Whether it answers."""
        return self._running is not None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Answer again. Safe to call twice."""
        if self._running is None:
            self._running = contextlib.AsyncExitStack()
            await self._running.enter_async_context(serve(self._sim, port=self._port))

    async def stop(self) -> None:
        """Close the port and every connection. Safe to call twice."""
        if self._running is not None:
            running, self._running = self._running, None
            await running.aclose()

    @contextlib.asynccontextmanager
    async def only_listening(self) -> AsyncIterator[list[str]]:
        """Instead of the service, somebody who only writes down who knocks at its port."""
        assert self._running is None
        knocks: list[str] = []

        async def knocked(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            knocks.append(str(writer.get_extra_info("peername")))
            writer.close()

        server = await asyncio.start_server(knocked, "127.0.0.1", self._port)
        try:
            yield knocks
        finally:
            server.close()
            await server.wait_closed()
