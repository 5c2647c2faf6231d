"""What every port offers to operators: health, readiness, metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

import msgspec
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from handlers.http import reply
from handlers.routes import Route

HEALTH: Final[Mapping[str, str]] = {"status": "ok"}
"""What `/health` answers where the contract asks for nothing else."""


class Readiness(Protocol):
    """Which parts of the process can do their work."""

    def parts(self) -> Mapping[str, str]:
        """Each part with `ok`, or what is wrong with it."""
        ...

    def ready(self) -> bool:
        """Whether requests should come here."""
        ...


class ReadyView(msgspec.Struct):
    """Whether requests should come here, and part by part why not."""

    status: str
    parts: dict[str, str]


class Ops:
    """`/health`, `/ready` and `/metrics`, the same on every port."""

    def __init__(self, readiness: Readiness, scrape: Callable[[], bytes], health: Mapping[str, str]) -> None:
        self._readiness = readiness
        self._scrape = scrape
        self._health = dict(health)

    def routes(self) -> list[Route]:
        """What it offers."""
        return [
            Route(
                "GET", "/health", self.health, "The process lives",
                {200: dict[str, str]}, auth=False, tag="operations", counted=False,
            ),
            Route(
                "GET", "/ready", self.ready, "Whether requests should come here",
                {200: ReadyView, 503: ReadyView}, auth=False, tag="operations", counted=False,
            ),
            Route(
                "GET", "/metrics", self.metrics, "Prometheus metrics",
                {200: None}, auth=False, tag="operations", counted=False, media_type="text/plain",
            ),
        ]  # fmt: skip

    async def health(self, request: web.Request) -> web.Response:
        """`GET /health`."""
        return reply(200, self._health)

    async def ready(self, request: web.Request) -> web.Response:
        """`GET /ready`."""
        ready = self._readiness.ready()
        view = ReadyView("ready" if ready else "not_ready", dict(self._readiness.parts()))
        return reply(200 if ready else 503, view)

    async def metrics(self, request: web.Request) -> web.Response:
        """`GET /metrics`."""
        return web.Response(body=self._scrape(), headers={"Content-Type": CONTENT_TYPE_LATEST})
