"""A small surface on the real wiring, with the limits of the settings that a test gives it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry

from app.embedded import FakeCheck
from app.settings import Settings
from app.wiring import Parts
from clients.http import open_session
from engine.store.batch import Batcher, RedisClient
from engine.store.connect import connect
from engine.store.windows import RedisWindows
from handlers.auth import Authenticator
from handlers.core_api import ERRORS
from handlers.envelopes import NESTED, Envelope
from handlers.http import HttpRefused, reply
from handlers.limits import SurfaceLimits
from handlers.ops import HEALTH
from handlers.routes import Route
from metrics.instruments import Instruments
from tests.support import CARD_KEYS, FINGERPRINT_SECRET, SECRET

Client = TestClient[web.Request, web.Application]


class Clock:
    """A time that moves when it is told to."""

    def __init__(self, now: float = 1_790_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Shop:
    """A surface with a little of everything."""

    title = "Shop"
    errors = ERRORS
    health = HEALTH

    def __init__(self, name: str, envelope: Envelope, limits: SurfaceLimits) -> None:
        self.name = name
        self.envelope = envelope
        self._limits = limits

    def routes(self) -> list[Route]:
        """What it offers."""
        return [
            Route("GET", "/things", self.things, "Things", {200: dict[str, str]}, auth=False),
            Route("POST", "/things", self.things, "A thing", {200: dict[str, str]}, auth=False),
            Route("GET", "/things/{name}", self.things, "One", {200: dict[str, str]}, auth=False),
            Route("POST", "/callback", self.things, "Not counted", {200: dict[str, str]}, auth=False, counted=False),
            Route("GET", "/refused", self.refused, "Never there", {200: dict[str, str]}, auth=False),
            Route("GET", "/broken", self.broken, "Breaks", {200: dict[str, str]}, auth=False),
            Route(
                "POST", "/login/{account}", self.login, "In", {200: dict[str, str]}, auth=False,
                limits=("login_by_account", "login_by_address"),
            ),
        ]  # fmt: skip

    async def things(self, request: web.Request) -> web.Response:
        return reply(200, {"thing": "yes"})

    async def refused(self, request: web.Request) -> web.Response:
        raise HttpRefused(404, "NOT_FOUND", "not there", headers={"Vary": "Accept"})

    async def broken(self, request: web.Request) -> web.Response:
        raise RuntimeError("broken on purpose")

    async def login(self, request: web.Request) -> web.Response:
        await self._limits.check(request, "login_by_address")
        await self._limits.check(request, "login_by_account", request.match_info["account"])
        return reply(200, {"in": "yes"})


def settings_of(redis_url: str, **sections: Any) -> Settings:
    """The settings of a test: whole sections, over what is needed anyway."""
    given = {
        "redis": {"url": redis_url},
        "cards": {"keys": CARD_KEYS, "fingerprint_secret": FINGERPRINT_SECRET},
        "auth": {"secret": SECRET},
        **sections,
    }
    return msgspec.convert(given, Settings)


@contextlib.asynccontextmanager
async def shop(
    redis_url: str, *, name: str = "gateway", envelope: Envelope = NESTED, **sections: Any
) -> AsyncIterator[tuple[Client, Parts]]:
    """The surface on a socket, as a process serves it."""
    settings = settings_of(redis_url, **sections)
    client = connect(settings.redis)
    async with open_session(client_id="tests") as wire:
        parts = Parts(settings, ("http",), client, wire, FakeCheck())
        counting = asyncio.create_task(parts.limiting.run())
        await parts.limiting.open()
        door = parts.door(Shop(name, envelope, parts.limiting.of(name)), Authenticator(settings.auth).caller)
        try:
            async with TestClient(TestServer(door.application)) as served:
                yield served, parts
        finally:
            counting.cancel()
            await asyncio.wait([counting])
            await parts.limiting.aclose()
            await client.aclose()


@contextlib.asynccontextmanager
async def windows_on(client: RedisClient, clock: Clock) -> AsyncIterator[RedisWindows]:
    """Windows on a client, with a batcher that is running."""
    batcher = Batcher(client, Instruments(CollectorRegistry()), pipelines_max=1)
    sending = asyncio.create_task(batcher.run())
    try:
        yield RedisWindows(batcher, clock=clock)
    finally:
        sending.cancel()
        await asyncio.wait([sending])
