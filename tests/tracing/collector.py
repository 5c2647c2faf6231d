"""A collector for tests: takes OTLP over a real socket, and says what came; or behaves as badly as it is told to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from aiohttp import web
from multidict import CIMultiDictProxy
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
ERROR = 2


class Seen(NamedTuple):
    """A span as it came."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    failed: bool
    service: str
    instance: str


class Collector:
    """Keeps spans. `behave` decides about the answer: `well`, `refuse`, `hang`, `redirect`, `endless`."""

    def __init__(self) -> None:
        self.url = ""
        self.behave = "well"
        self.spans: list[Seen] = []
        self.raw: list[bytes] = []
        self.headers: list[CIMultiDictProxy[str]] = []
        self.asked = 0

    def of(self, trace_id: str) -> list[Seen]:
        """The spans of one trace."""
        return [span for span in self.spans if span.trace_id == trace_id]

    async def take(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/traces`."""
        self.asked += 1
        body = await request.read()
        match self.behave:
            case "refuse":
                return web.Response(status=503, headers={"Retry-After": "0"})
            case "hang":
                await asyncio.Event().wait()
            case "redirect":
                raise web.HTTPTemporaryRedirect(self.url.replace("/v1/traces", "/elsewhere"))
        self.raw.append(body)
        self.headers.append(request.headers)
        self.spans += spans_of(body)
        return await _without_end(request) if self.behave == "endless" else web.Response()

    async def elsewhere(self, _: web.Request) -> web.Response:
        """Where nobody may be sent."""
        raise AssertionError("a redirect was followed")


async def _without_end(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        while True:
            await response.write(b"x" * 65_536)
    return response


def spans_of(body: bytes) -> list[Seen]:
    """The spans in a request."""
    message = ExportTraceServiceRequest.FromString(body)
    found = []
    for group in message.resource_spans:
        resource = _plain(group.resource.attributes)
        for span in (span for scope in group.scope_spans for span in scope.spans):
            assert span.end_time_unix_nano >= span.start_time_unix_nano > 0
            found.append(
                Seen(
                    span.name,
                    KINDS[span.kind],
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    _plain(span.attributes),
                    span.status.code == ERROR,
                    str(resource["service.name"]),
                    str(resource["service.instance.id"]),
                )
            )
    return found


def _plain(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@contextlib.asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """A collector that listens."""
    collector = Collector()
    application = web.Application(client_max_size=64 * 1024 * 1024)
    application.router.add_post("/v1/traces", collector.take)
    application.router.add_route("*", "/elsewhere", collector.elsewhere)
    # What hangs on purpose is cut off at the end.
    runner = web.AppRunner(application, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/traces"
    try:
        yield collector
    finally:
        await runner.cleanup()
