"""The rate limits of one process, on a connection of their own: neither they nor the payments wait for the other."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from app.embedded import FAKE_URL
from app.settings import Settings
from engine.errors import EngineError
from engine.store.batch import Batcher, RedisClient
from engine.store.connect import connect
from engine.store.windows import RedisWindows
from handlers.address import ClientAddresses
from handlers.cors import Cors
from handlers.docs import Docs
from handlers.http import Dresser
from handlers.limits import Identify, SurfaceLimits
from handlers.routes import Route
from metrics.instruments import Instruments
from resilience.limit_settings import Rule
from resilience.limiter import Limiter

_WAITING_MAX: Final = 2048
_CONNECTIONS_MAX: Final = 2
_TIMEOUT_S: Final = 1.0
"""Longer than a request waits for the limiter, so that a connection which takes its time still comes up."""


class Limiting:
    """Builds the limits of each surface. `run` must be running; the owner calls `aclose`."""

    def __init__(self, settings: Settings, client: RedisClient, instruments: Instruments) -> None:
        """`client` is used only where there is no real Redis to connect to."""
        self._own = None if settings.redis.url == FAKE_URL else _connect(settings)
        self.client = self._own or client
        # One pipeline: the answer to `how many are in the window` belongs after the request that was counted.
        self._batcher = Batcher(self.client, instruments, waiting_max=_WAITING_MAX, pipelines_max=1)
        self._windows = RedisWindows(self._batcher)
        self._limiter = Limiter(self._windows, settings.limits, instruments)
        self._rules = settings.limits.rules()
        self._instruments = instruments
        self.addresses = ClientAddresses(settings.server.trusted_proxies)

    async def run(self) -> None:
        """Send what is counted, until cancelled."""
        await self._batcher.run()

    async def open(self) -> None:
        """Connect, if Redis answers in time. It need not."""
        with contextlib.suppress(EngineError):
            await self._windows.open()

    def of(self, surface: str, own: Sequence[Rule] = ()) -> SurfaceLimits:
        """The limits of a surface, for its requests and for its handlers; `own` are rules that nobody configures."""
        rules = {**self._rules, **{rule.name: rule for rule in own}}
        return SurfaceLimits(surface, self._limiter, rules, self.addresses, self._instruments)

    @property
    def connections(self) -> int:
        """Open connections to Redis, beside those of the client's pool."""
        return self._batcher.connections

    async def aclose(self) -> None:
        """Close the connection."""
        if self._own is not None:
            await self._own.aclose()


def inside_edge(
    settings: Settings,
    surface: str,
    limits: SurfaceLimits,
    routes: Sequence[Route],
    docs: Docs,
    identify: Identify | None,
) -> tuple[list[Any], list[Dresser]]:
    """What a surface's requests pass behind its edge, and what dresses its answers. Nothing that is not configured."""
    middlewares: list[Any] = []
    dressers: list[Dresser] = [limits.dress]
    cors = settings.cors.surface(surface)
    if cors.origins:
        # Before the limit: a preflight request is the browser's own, and a page must be able to read a 429.
        middlewares.append(Cors(cors).middleware())
        dressers.append(Cors(cors).dress)
    rule = settings.limits.surface(surface)
    if limits.rule is not None and rule is not None:
        free = {(route.method, route.path) for route in routes if not route.counted}
        free.update(("GET", path) for path in docs.files())
        middlewares.append(limits.middleware(identify if rule.per == "caller" else None, free))
    return middlewares, dressers


def _connect(settings: Settings) -> RedisClient:
    return connect(msgspec.structs.replace(settings.redis, connections_max=_CONNECTIONS_MAX, timeout_s=_TIMEOUT_S))
