"""Server-sent events: the newest picture to every viewer, once a second.

Each event is the whole picture, so a viewer who has missed some has missed nothing; nothing is kept for anybody.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple

from aiohttp import web

from handlers.http import HttpRefused

VIEWERS_MAX: Final = 20
_HEARTBEAT: Final = b": alive\n\n"
_RETRY_MS: Final = 2000
_SEND_BUFFER_BYTES: Final = 64 * 1024
"""What may lie in the kernel and in this process for a viewer who does not read."""


class Frame(NamedTuple):
    """A picture as JSON, under an id that grows."""

    id: str
    body: bytes


class _Viewer:
    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.news = asyncio.Event()
        self.writing = False


class Stream:
    """Looks only while somebody watches. `run` must be running."""

    def __init__(
        self,
        look: Callable[[], Awaitable[Frame | None]],
        headers: Mapping[str, str],
        *,
        every_s: float = 1.0,
        heartbeat_s: float = 10.0,
        patience_s: float = 5.0,
        viewers_max: int = VIEWERS_MAX,
    ) -> None:
        """`look` must not raise; None is no news.

        `patience_s`: how long a viewer may take for what it is sent, before it is hung up on.
        """
        self._look = look
        self._headers = headers
        self._every_s = every_s
        self._heartbeat_s = heartbeat_s
        self._patience_s = patience_s
        self._viewers_max = viewers_max
        self._viewers: set[_Viewer] = set()
        self._watched = asyncio.Event()
        self._frame: Frame | None = None
        self._closed = False

    @property
    def viewers(self) -> int:
        """How many watch now."""
        return len(self._viewers)

    async def run(self) -> None:
        """Look and tell, until cancelled."""
        while True:
            await self._watched.wait()
            self._frame = await self._look() or self._frame
            for viewer in self._viewers:
                viewer.news.set()
            await asyncio.sleep(self._every_s)

    def close(self) -> None:
        """End every stream at once, and begin no more."""
        self._closed = True
        for viewer in self._viewers:
            viewer.news.set()
            if viewer.writing:
                viewer.transport.abort()

    async def serve(self, request: web.Request, may: Callable[[], bool]) -> web.StreamResponse:
        """Send pictures until the viewer goes, is too slow, may not see more, or the process stops."""
        if self._closed or len(self._viewers) >= self._viewers_max:
            raise HttpRefused(
                503, "OVERLOADED", "console_viewers is full", headers={"Retry-After": "5"}, retry="after",
                details={"bound": "console_viewers"},
            )  # fmt: skip
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **self._headers})
        response.force_close()
        transport = request.transport
        if transport is None or request.method == "HEAD":
            return response
        _bound(transport)
        viewer = _Viewer(transport)
        self._viewers.add(viewer)
        self._watched.set()
        try:
            await response.prepare(request)
            await self._tell(viewer, response, request.headers.get("Last-Event-ID", ""), may)
        except ConnectionError:
            pass
        finally:
            self._viewers.discard(viewer)
            if not self._viewers:
                self._watched.clear()
        return response

    async def _tell(self, viewer: _Viewer, response: web.StreamResponse, seen: str, may: Callable[[], bool]) -> None:
        await self._send(viewer, response, f"retry: {_RETRY_MS}\n\n".encode())
        while not self._closed and may():
            viewer.news.clear()
            frame = self._frame
            if frame is not None and frame.id != seen:
                seen = frame.id
                await self._send(viewer, response, b"id: %b\ndata: %b\n\n" % (frame.id.encode(), frame.body))
            try:
                async with asyncio.timeout(self._heartbeat_s):
                    await viewer.news.wait()
            except TimeoutError:
                await self._send(viewer, response, _HEARTBEAT)

    async def _send(self, viewer: _Viewer, response: web.StreamResponse, text: bytes) -> None:
        viewer.writing = True
        try:
            async with asyncio.timeout(self._patience_s):
                await response.write(text)
        except TimeoutError:
            # Not closed but cut: what it was to be sent would lie here until it reads.
            viewer.transport.abort()
            raise ConnectionAbortedError from None
        finally:
            viewer.writing = False


def _bound(transport: asyncio.Transport) -> None:
    transport.set_write_buffer_limits(high=_SEND_BUFFER_BYTES)
    wire = transport.get_extra_info("socket")
    if wire is not None:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
