"""Serve one simulator on a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from aiohttp import web

# Every wait of a simulator ends at once on stop, so this is only for a client that stalls half-way in its body.
SHUTDOWN_TIMEOUT_S = 0.5
KEEPALIVE_TIMEOUT_S = 75.0


class HasApp(Protocol):
    """Anything that can make an aiohttp application."""

    def app(self) -> web.Application:
        """A fresh application."""


@asynccontextmanager
async def serve(
    sim: HasApp, host: str = "127.0.0.1", port: int = 0, *, shutdown_timeout_s: float = SHUTDOWN_TIMEOUT_S
) -> AsyncIterator[str]:
    """Serve until the block ends; gives the base URL, with the real port when 0 was asked."""
    runner = web.AppRunner(
        sim.app(),
        access_log=None,
        # A client that leaves must not undo half of a charge: the handler runs on.
        handler_cancellation=False,
        keepalive_timeout=KEEPALIVE_TIMEOUT_S,
        shutdown_timeout=shutdown_timeout_s,
    )
    try:
        await runner.setup()
        await web.TCPSite(runner, host, port).start()
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
