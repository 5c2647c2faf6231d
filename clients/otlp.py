"""Spans by OpenTelemetry, sent to a collector by OTLP over HTTP. Loaded only where tracing is enabled.

A thread of the library's sends them; only it ever waits for the collector. Between it and the payments stands a gate
with room for so many spans, so a collector that is away, slow or lying costs memory up to a bound, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import requests
import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as OtelSpan

from clients.otlp_settings import TracingSettings
from engine.tracing import Attributes, Kind, Span
from metrics.instruments import Instruments

_BATCH_MAX: Final = 512
_ATTRIBUTES_MAX: Final = 32
_VALUE_CHARACTERS_MAX: Final = 256
_KINDS: Final = {kind.name.lower(): kind for kind in SpanKind}
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
Heard = Callable[[bool, int], None]
"""Is told whether so many spans have reached the collector."""


class OtlpTracer:
    """Makes spans from `start` to `close`, in one event loop."""

    def __init__(
        self,
        settings: TracingSettings,
        instruments: Instruments,
        *,
        instance: str,
        version: str,
        every_s: float = 0.5,
    ) -> None:
        self._settings = settings
        self._every_s = every_s
        self._counts = {name: instruments.trace_spans.labels(name) for name in ("exported", "failed", "dropped")}
        self._counting = threading.Lock()
        """Spans come in the event loop and leave in the library's thread."""
        self._waiting = 0
        self._failing = False
        # All said here: the library asks the environment (OTEL_…) for what is left to it.
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)),
            resource=Resource(
                {
                    "service.name": settings.service_name,
                    "service.version": version,
                    "service.instance.id": instance,
                    "telemetry.sdk.language": "python",
                    "telemetry.sdk.name": "opentelemetry",
                }
            ),
            span_limits=SpanLimits(max_attributes=_ATTRIBUTES_MAX, max_span_attribute_length=_VALUE_CHARACTERS_MAX),
            shutdown_on_exit=False,
        )
        self._tracer = self._provider.get_tracer("payments", version)

    def start(self) -> None:
        """Begin to send. Spans that end before are not sent."""
        # Its lines come with every batch, and quote what the collector says; ours come once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)
        loop = asyncio.get_running_loop()

        def heard(taken: bool, count: int) -> None:
            # From the sending thread; at the very end there may be no loop any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._heard, taken, count)

        self._provider.add_span_processor(self._gate(_Exporter(self._settings, heard)))

    def begin(self, name: str, kind: Kind, attributes: Attributes, parent: str) -> Span:
        """A span below `parent`. Without a parent the ratio decides whether the new trace is sampled."""
        if not parent:
            context = Context()
        elif int(parent[53:55], 16) & TraceFlags.SAMPLED:
            above = SpanContext(int(parent[3:35], 16), int(parent[36:52], 16), is_remote=True, trace_flags=_SAMPLED)
            context = set_span_in_context(NonRecordingSpan(above), Context())
        else:
            return _Unsampled(parent)
        return _Recorded(self._tracer.start_span(name, context, _KINDS[kind], attributes))

    async def close(self, *, within_s: float) -> None:
        """Send what waits, for so long at most. What is left then is lost with the process."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def flush() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(done.set)

        # Nobody waits for this thread: neither the loop's end nor the process's.
        threading.Thread(target=flush, name="spans-flush", daemon=True).start()
        try:
            async with asyncio.timeout(within_s):
                await done.wait()
        except TimeoutError:
            structlog.get_logger().warning("spans lost", spans=self._waiting)

    def _gate(self, exporter: SpanExporter) -> SpanProcessor:
        batches = BatchSpanProcessor(
            exporter,
            max_queue_size=max(self._settings.queue_max, _BATCH_MAX),
            schedule_delay_millis=self._every_s * 1000,
            max_export_batch_size=_BATCH_MAX,
            export_timeout_millis=self._settings.timeout_s * 1000,
        )
        return _Gate(batches, self._enter)

    def _enter(self) -> bool:
        with self._counting:
            if self._waiting < self._settings.queue_max:
                self._waiting += 1
                return True
        self._counts["dropped"].inc()
        return False

    def _heard(self, taken: bool, count: int) -> None:
        with self._counting:
            self._waiting -= count
        self._counts["exported" if taken else "failed"].inc(count)
        if taken == self._failing:
            self._failing = not taken
            if taken:
                structlog.get_logger().info("spans are exported again")
            else:
                structlog.get_logger().warning("spans not exported", endpoint=self._settings.endpoint)


class _Gate(SpanProcessor):
    """Lets spans in while there is room. The library's own queue drops without counting."""

    def __init__(self, batches: SpanProcessor, enter: Callable[[], bool]) -> None:
        self._batches = batches
        self._enter = enter

    def on_end(self, span: ReadableSpan) -> None:
        """Runs in the event loop, where spans end."""
        if span.context is not None and span.context.trace_flags.sampled and self._enter():
            self._batches.on_end(span)

    def shutdown(self) -> None:
        """Send what is there, and stop."""
        self._batches.shutdown()


class _Exporter(SpanExporter):
    """Tells what became of each batch."""

    def __init__(self, settings: TracingSettings, heard: Heard) -> None:
        self._heard = heard
        self._exporter = OTLPSpanExporter(
            settings.endpoint,
            headers=settings.header_pairs(),
            timeout=settings.timeout_s,
            compression=Compression.NoCompression,
            session=_Line(),
        )

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Runs in the library's thread."""
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            self._heard(result is SpanExportResult.SUCCESS, len(spans))
        return result

    def shutdown(self) -> None:
        """Give up what is being repeated."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]


class _Line(requests.Session):
    """The way to the collector, trusted with nothing: its answers' bodies, which may never end, are not read."""

    def __init__(self) -> None:
        super().__init__()
        # Neither a proxy nor a password of somebody else's.
        self.trust_env = False

    def request(self, *given: Any, **named: Any) -> requests.Response:
        """Send. A redirect is no success, and is not followed: the headers are for this collector only."""
        response = super().request(*given, **{**named, "stream": True, "allow_redirects": False})
        response.close()
        if 300 <= response.status_code < 400:
            raise requests.RequestException("redirected")
        return response


class _Recorded:
    """A span that will be sent."""

    def __init__(self, span: OtelSpan) -> None:
        self._span = span
        own = span.get_span_context()
        self.traceparent = f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags & TraceFlags.SAMPLED:02x}"

    def note(self, name: str, value: str | int) -> None:
        self._span.set_attribute(name, value)

    def fail(self, error_type: str) -> None:
        self._span.set_attribute("error.type", error_type)
        self._span.set_status(Status(StatusCode.ERROR))

    def end(self) -> None:
        self._span.end()


class _Unsampled:
    """A span of a trace that nobody wants to see."""

    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent

    def note(self, name: str, value: str | int) -> None:
        pass

    def fail(self, error_type: str) -> None:
        pass

    def end(self) -> None:
        pass
