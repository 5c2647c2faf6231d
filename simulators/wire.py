"""What every simulator says and hears on the wire: JSON answers, refusals, waits, and rude endings."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Callable
from http import HTTPStatus
from typing import TypeVar

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

T = TypeVar("T")

BODY_BYTES_MAX = 64 * 1024

# How soon a silent request notices that its client has left, so that silence does not pile up tasks.
_GONE_CHECK_S = 0.2
_RST_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, zero seconds

ErrorBody = Callable[[str, str], object]
"""Makes a simulator's own error envelope from a code and a message."""

log = logging.getLogger(__name__)

# Decimals stay exact JSON numbers: 75.48, never 75.480000000000004 and never "75.48".
_ENCODER = msgspec.json.Encoder(decimal_format="number")


class Refusal(Exception):
    """A request that the simulator refuses, with the status and the code of its contract."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def reply(status: int, body: object) -> web.Response:
    """Answer with JSON."""
    return web.Response(status=status, body=_ENCODER.encode(body), content_type="application/json")


async def decode(request: web.Request, decoder: msgspec.json.Decoder[T], *, invalid_status: int = 422) -> T:
    """Read the body into a type; not JSON is refused with 400, a wrong shape with `invalid_status`."""
    body = await request.read()
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise Refusal(invalid_status, "INVALID_REQUEST", str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, "NOT_JSON", "the body is not JSON") from error


def errors_as_json(error_body: ErrorBody) -> Middleware:
    """Turn refusals, unknown routes and our own bugs into the simulator's error envelope."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refusal as refusal:
            return reply(refusal.status, error_body(refusal.code, refusal.message))
        except web.HTTPException as error:
            answer = reply(error.status, error_body(HTTPStatus(error.status).name, error.reason))
            if "Allow" in error.headers:
                answer.headers["Allow"] = error.headers["Allow"]
            return answer
        except Exception:
            log.exception("simulator failed on %s %s", request.method, request.path)
            return reply(500, error_body("INTERNAL_SERVER_ERROR", "the simulator failed"))

    return middleware


def hang_up(request: web.Request) -> web.Response:
    """Close the connection politely; the response returned goes nowhere."""
    if request.transport is not None:
        request.transport.close()
    return web.Response(status=500)


def reset(request: web.Request) -> web.Response:
    """Close the connection with a TCP RST; the response returned goes nowhere."""
    transport = request.transport
    if transport is not None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
        transport.abort()
    return web.Response(status=500)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


class Pauses:
    """Waits of any length that all end when the server stops."""

    def __init__(self) -> None:
        self._stopping = asyncio.Event()
        self._releasing = asyncio.Event()

    def begin(self) -> None:
        """Start afresh: an event belongs to one loop, and a simulator may be served again in another."""
        self._stopping = asyncio.Event()
        self._releasing = asyncio.Event()

    def end(self) -> None:
        """Wake everybody who waits. Safe to call twice."""
        self._stopping.set()
        self._releasing.set()

    def release(self) -> None:
        """Wake everybody who is in `delay` now."""
        self._releasing.set()
        self._releasing = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        """Wait, but not beyond the stop of the server."""
        await _wait(self._stopping, seconds)

    async def delay(self, seconds: float) -> None:
        """Wait, but not beyond the next `release` or the stop of the server."""
        await _wait(self._releasing, seconds)

    async def silence(self, request: web.Request) -> web.Response:
        """Say nothing until the client leaves or the server stops, then hang up without an answer."""
        while request.transport is not None and not self._stopping.is_set():
            await self.sleep(_GONE_CHECK_S)
        return hang_up(request)
