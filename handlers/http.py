"""What every surface shares of HTTP: reading bodies, writing answers, and turning errors into answers."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec
import structlog
from aiohttp import web
from multidict import CIMultiDict
from prometheus_client import Counter, Histogram

from engine import context
from engine.errors import EngineError, Overloaded, Retry, TryLater
from engine.idempotency import is_key
from engine.tracing import Tracer, spanning
from handlers.envelopes import NESTED, Envelope, ErrorInfo
from handlers.routes import ErrorTable, Handler
from handlers.security import security_headers
from metrics.instruments import Instruments

T = TypeVar("T")

Dresser = Callable[[web.Request, web.StreamResponse], None]
"""Adds headers to an answer."""

BODY_BYTES_MAX: Final = 64 * 1024
_BODY_TIMEOUT_S: Final = 10.0
UNTRACED: Final = frozenset({"/health", "/ready", "/metrics"})
"""Asked every few seconds by machines: their spans would bury the others."""
_UNMATCHED: Final = "unmatched"
_encode = msgspec.json.Encoder().encode
_COUNTED_WHERE_REACHED: Final = frozenset({"store_waiting", "logins"})
"""Bounds that others than requests reach too."""
_QUOTED_VALUE: Final = re.compile(r"Invalid (enum )?value .* - at ", re.DOTALL)
_REGEX: Final = re.compile(r"Expected `str` matching regex '.*'( - at |\Z)", re.DOTALL)
_AT: Final = re.compile(r"(?: - at `\$\.?([^`]*)`)?\Z")
_MISSING: Final = re.compile(r"missing required field `([^`]+)`")


class HttpRefused(Exception):
    """A request that does not get as far as the engine."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        retry: Retry = "never",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.details = details or {}
        self.headers = headers or {}
        self.retry = retry


def reply(status: int, value: object, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer."""
    response = web.Response(status=status, body=_encode(value), content_type="application/json")
    if headers:
        response.headers.update(headers)
    return response


def idempotency_key(request: web.Request) -> str | None:
    """The request's `Idempotency-Key`, if it has one. A malformed one is refused."""
    keys = request.headers.getall("Idempotency-Key", ())
    if not keys:
        return None
    if len(keys) > 1 or not is_key(keys[0]):
        raise HttpRefused(
            400, "INVALID_IDEMPOTENCY_KEY", "Idempotency-Key must be 1 to 255 printable ASCII characters, once"
        )
    return keys[0]


async def read_body(request: web.Request, *, optional: bool = False) -> bytes:
    """The JSON body's bytes: of the right media type, at most 64 KiB, and all there in time.

    An optional body that is not there is an empty object.
    """
    if optional and not request.body_exists:
        return b"{}"
    if request.content_type != "application/json":
        raise HttpRefused(415, "UNSUPPORTED_MEDIA_TYPE", "send the body as application/json")
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise HttpRefused(415, "UNSUPPORTED_MEDIA_TYPE", "send the body without a Content-Encoding")
    if (request.content_length or 0) > BODY_BYTES_MAX:
        raise _too_large()
    if request.content.is_eof():
        # Almost always: the body came with the head. Its length is looked at here, for it may not have been told.
        body = request.content.read_nowait()
        if len(body) > BODY_BYTES_MAX:
            raise _too_large()
        return body
    try:
        # aiohttp has no time limit for bodies: one slow client would hold its request for ever.
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise _too_large() from None
    except TimeoutError:
        raise HttpRefused(
            408, "REQUEST_TIMEOUT", "the body did not arrive in time", headers={"Connection": "close"}, retry="same_key"
        ) from None


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """The body as its type. Not JSON → 400; JSON of another shape → 422, naming the field, never quoting its value."""
    try:
        if not body.isascii():
            # Numbers are taken as they are written, unread, and a text that is no UTF-8 could stand in their place.
            body.decode()
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        problem = _QUOTED_VALUE.sub("Invalid value - at ", str(error))
        problem = _REGEX.sub(r"not of the right form\1", problem)
        raise HttpRefused(422, "INVALID_REQUEST", problem, details={"field": _field(problem)}) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise HttpRefused(400, "INVALID_JSON", "the body is not JSON") from None
    except RecursionError:
        raise HttpRefused(400, "INVALID_JSON", "the body is nested too deeply") from None


class Edge:
    """The one middleware of a surface: request ids, metrics, and errors in the surface's envelope."""

    def __init__(
        self,
        surface: str,
        errors: ErrorTable,
        instruments: Instruments,
        envelope: Envelope = NESTED,
        clock: Callable[[], float] = time.perf_counter,
        *,
        always: CIMultiDict[str] | None = None,
        dressers: Sequence[Dresser] = (),
        client_of: Callable[[web.Request], str] = lambda request: request.remote or "",
        tracer: Tracer | None = None,
    ) -> None:
        """`always` are headers of every answer that does not have them itself; `dressers` add what depends on both."""
        self._tracer = tracer
        self._always = security_headers() if always is None else always
        self._dressers = tuple(dressers)
        self._client_of = client_of
        self._surface = surface
        self._errors = errors
        self._instruments = instruments
        self._envelope = envelope
        self._clock = clock
        self._counters: dict[tuple[str, str, int], Counter] = {}
        self._histograms: dict[tuple[str, str], Histogram] = {}

    def middleware(self) -> Any:
        """The aiohttp middleware."""

        tracer = self._tracer

        @web.middleware
        async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
            headers = request.headers
            ids = context.accept(headers.get("X-Request-Id"), headers.get("traceparent"))
            return await self._answered(request, handler, ids)

        @web.middleware
        async def traced(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.path in UNTRACED or tracer is None:
                return await edge(request, handler)
            return await self._traced(request, handler, tracer)

        return edge if tracer is None else traced

    async def _answered(
        self, request: web.Request, handler: Handler, ids: context.RequestContext
    ) -> web.StreamResponse:
        started = self._clock()
        try:
            response = await handler(request)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            response = self._failed(error, ids.request_id, request)
        self._dress(response, ids)
        for dress in self._dressers:
            dress(request, response)
        # A stream lasts as long as somebody watches it: that is nobody's latency.
        streamed = type(response) is web.StreamResponse
        self._count(request, response.status, None if streamed else self._clock() - started)
        return response

    async def _traced(self, request: web.Request, handler: Handler, tracer: Tracer) -> web.StreamResponse:
        """The same in a span below the client's, or in a new trace. Neither path nor query: they name people."""
        headers = request.headers
        ids = context.accept(headers.get("X-Request-Id"), headers.get("traceparent"))
        theirs = ids.traceparent == headers.get("traceparent")
        method, route = _names(request)
        noted = {"http.request.method": method if method != "other" else "_OTHER", "payments.surface": self._surface}
        if route != _UNMATCHED:
            noted["http.route"] = route
        name = f"{method} {route}" if route != _UNMATCHED else method
        with spanning(tracer, name, "server", noted, parent=ids.traceparent if theirs else "") as span:
            # What the client sent comes back as it was; else it learns the name of its trace.
            response = await self._answered(request, handler, ids if theirs else context.current())
            span.note("http.response.status_code", response.status)
            if response.status >= 500:
                span.fail(str(response.status))
        return response

    def refuse_unparsed(self, status: int) -> web.Response:
        """The answer to bytes that are no request."""
        broken = HttpRefused(status, "INTERNAL" if status >= 500 else "BAD_REQUEST", "this is not an HTTP request")
        return self._refused_early(broken)

    async def expectation(self, request: web.Request) -> web.Response | None:
        """Answer an `Expect` header: go on with `100-continue`, refuse anything else."""
        if request.headers.get("Expect", "").lower() != "100-continue":
            refused = HttpRefused(417, "EXPECTATION_FAILED", "only 100-continue can be expected")
            return self._refused_early(refused)
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer itself has not begun
        return None

    def _refused_early(self, refused: HttpRefused) -> web.Response:
        """The answer to what does not get as far as the middleware."""
        ids = context.accept(None, None)
        response = self._failed(refused, ids.request_id, None)
        self._dress(response, ids)
        return response

    def _dress(self, response: web.StreamResponse, ids: context.RequestContext) -> None:
        headers = response.headers
        headers["X-Request-Id"] = ids.request_id
        headers["traceparent"] = ids.traceparent
        headers.merge(self._always)

    def _failed(self, error: Exception, request_id: str, request: web.Request | None) -> web.Response:
        match error:
            case EngineError():
                refused = self._refused(error)
            case HttpRefused():
                refused = error
            case web.HTTPException():
                refused = _from_aiohttp(error)
            case _:
                structlog.get_logger().exception("request broke", request_id=request_id)
                refused = HttpRefused(500, "INTERNAL", "something broke here; it is logged", retry="same_key")
        if refused.status >= 500:
            structlog.get_logger().warning(
                "request refused",
                request_id=request_id,
                status=refused.status,
                code=refused.code,
                client=self._client_of(request) if request is not None else "",
            )
        info = ErrorInfo(refused.code, str(refused), request_id, refused.retry, dict(refused.details))
        return reply(refused.status, self._envelope.dress(info), refused.headers)

    def _refused(self, error: EngineError) -> HttpRefused:
        headers = {}
        if isinstance(error, Overloaded) and error.bound not in _COUNTED_WHERE_REACHED:
            self._instruments.rejections.labels(error.bound).inc()
        if isinstance(error, TryLater):
            headers["Retry-After"] = str(max(1, round(error.retry_after_s + 0.499)))
        if self._errors[type(error)] == 401:
            headers["WWW-Authenticate"] = "Bearer"  # RFC 9110 §15.5.2: every 401 has a challenge
        details = {name: value for name, value in error.details.items() if value is not None}
        return HttpRefused(
            self._errors[type(error)], error.code, str(error), details=details, headers=headers, retry=error.retry
        )

    def _count(self, request: web.Request, status: int, seconds: float | None) -> None:
        method, route = _names(request)
        counter = self._counters.get((method, route, status))
        if counter is None:
            counter = self._instruments.http_requests.labels(self._surface, method, route, str(status))
            self._counters[method, route, status] = counter
        counter.inc()
        if seconds is None:
            return
        histogram = self._histograms.get((method, route))
        if histogram is None:
            histogram = self._instruments.http_duration.labels(self._surface, method, route)
            self._histograms[method, route] = histogram
        histogram.observe(seconds)


def _names(request: web.Request) -> tuple[str, str]:
    """The method and the route: few, whatever clients send."""
    resource = request.match_info.route.resource
    method = request.method if request.method in _METHODS else "other"
    return method, resource.canonical if resource is not None else _UNMATCHED


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _too_large() -> HttpRefused:
    # The rest of the body is not read: the connection cannot be used again.
    return HttpRefused(
        413, "BODY_TOO_LARGE", f"the body is larger than {BODY_BYTES_MAX} bytes", headers={"Connection": "close"}
    )


def _from_aiohttp(error: web.HTTPException) -> HttpRefused:
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    match error.status:
        case 404:
            return HttpRefused(404, "NOT_FOUND", "there is nothing at this path")
        case 405:
            return HttpRefused(405, "METHOD_NOT_ALLOWED", "this path has other methods, see Allow", headers=headers)
        case 413:
            return _too_large()
        case status:
            return HttpRefused(status, "BAD_REQUEST", error.reason or "bad request", headers=headers)


def _field(problem: str) -> str:
    at = _AT.search(problem)
    parent = at.group(1) if at and at.group(1) else ""
    missing = _MISSING.search(problem)
    return ".".join(part for part in (parent, missing.group(1) if missing else "") if part)
