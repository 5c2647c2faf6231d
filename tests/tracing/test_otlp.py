"""The tracer and a real collector on a real socket, the bad ones too: a payment never waits for either."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import structlog.testing
from prometheus_client import CollectorRegistry

from app.traced import TracedPublisher, TracedWire, traced_handle
from clients.http import HttpCounterparty, open_session
from clients.otlp import OtlpTracer
from clients.otlp_settings import TracingSettings
from clients.wire import parse_url
from engine import context
from engine.events import Answer, OutgoingEvent
from engine.messages import Message
from engine.tracing import spanning
from engine.vault_refunds import Done
from handlers.vault_listeners import VaultListeners
from metrics.instruments import Instruments
from resilience.guard import Guard, GuardSettings
from tests.clients.test_wire import server
from tests.faults.world import eventually
from tests.support import free_port
from tests.tracing.collector import Collector, collecting

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
UNSAMPLED = PARENT[:-2] + "00"


class Tracing:
    """A tracer that runs, and its counts."""

    def __init__(self, **settings: Any) -> None:
        self.registry = CollectorRegistry()
        self.instruments = Instruments(self.registry)
        self.tracer = OtlpTracer(
            TracingSettings(enabled=True, **settings), self.instruments, instance="test-1", version="0", every_s=0.05
        )

    def count(self, outcome: str) -> float:
        """So many spans."""
        return self.registry.get_sample_value("trace_spans_total", {"outcome": outcome}) or 0.0

    def spans(self, count: int, parent: str = PARENT) -> None:
        """Begin and end so many."""
        for _ in range(count):
            self.tracer.begin("work", "internal", {}, parent).end()


@contextlib.asynccontextmanager
async def tracing(endpoint: str, *, within_s: float = 10.0, **settings: Any) -> AsyncIterator[Tracing]:
    """From start to close."""
    running = Tracing(endpoint=endpoint, **settings)
    running.tracer.start()
    try:
        yield running
    finally:
        await running.tracer.close(within_s=within_s)


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    """One that behaves, until it is told otherwise."""
    async with collecting() as running:
        yield running


@pytest.fixture(autouse=True)
def _nobody() -> None:
    """Each test begins outside of any request."""
    context.set_current("", "")


@pytest.fixture
def logged() -> Any:
    """What is logged meanwhile."""
    with structlog.testing.capture_logs() as lines:
        yield lines


async def test_closing_sends_what_waits(collector: Collector) -> None:
    async with tracing(collector.url) as t:
        t.spans(3)
    assert len(collector.spans) == 3
    assert {(each.trace_id, each.parent_id) for each in collector.spans} == {(TRACE, PARENT[36:52])}


async def test_an_error_is_kept_by_its_type_only(collector: Collector) -> None:
    """Its text may quote a card."""
    async with tracing(collector.url) as t:
        with pytest.raises(ValueError), spanning(t.tracer, "work", "internal", parent=PARENT):
            raise ValueError("4242424242424242")
        with pytest.raises(asyncio.CancelledError), spanning(t.tracer, "work", "internal", parent=PARENT):
            raise asyncio.CancelledError
    assert [(each.failed, each.attributes) for each in collector.spans] == [
        (True, {"error.type": "ValueError"}), (True, {"error.type": "CancelledError"}),
    ]  # fmt: skip
    assert b"4242424242424242" not in b"".join(collector.raw)


async def test_a_block_works_for_its_span_and_then_for_who_was_before(collector: Collector) -> None:
    async with tracing(collector.url) as t:
        before = context.set_current("req-1", PARENT)
        with spanning(t.tracer, "outer", "internal") as outer:
            with spanning(t.tracer, "inner", "internal") as inner:
                assert context.current() == ("req-1", inner.traceparent)
                context.enter("req-1", PARENT)
                assert context.current().traceparent == inner.traceparent, "it is a span of that trace already"
            assert context.current() == ("req-1", outer.traceparent)
        assert context.current() is before
    inner_one, outer_one = collector.spans
    assert (inner_one.parent_id, outer_one.parent_id) == (outer_one.span_id, PARENT[36:52])


def test_outside_of_a_span_the_request_that_is_entered_counts() -> None:
    """Two requests of one trace have different parents, and a worker's task goes from one to the other."""
    other = PARENT.replace("b7ad6b7169203331", "1" * 16)
    context.enter("req-1", PARENT)
    context.enter("req-1", other)
    assert context.current() == ("req-1", other)


async def test_the_ratio_decides_about_new_traces_only(collector: Collector) -> None:
    async with tracing(collector.url, sample_ratio=0.0) as t:
        serving = spanning(t.tracer, "root", "server", parent="")
        with serving as root, spanning(t.tracer, "below", "internal") as below:
            assert below.traceparent == root.traceparent
        assert context.trace_id_of(root.traceparent) and root.traceparent.endswith("-00"), "others are told"
        t.spans(1, UNSAMPLED)
        t.spans(1, PARENT)
    assert [each.trace_id for each in collector.spans] == [TRACE]


async def test_a_ratio_in_between_takes_some(collector: Collector) -> None:
    """Of 400 at a half, none or all would be a miracle."""
    async with tracing(collector.url, sample_ratio=0.5) as t:
        t.spans(400, "")
    assert 100 < len(collector.spans) < 300


async def test_a_counterparty_is_told_the_span_of_its_own_try(collector: Collector) -> None:
    seen: list[bytes] = []

    async def fails_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            seen.append(head)
            status = b"503 Service Unavailable" if len(seen) == 1 else b"200 OK"
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")

    async with server(fails_first) as url, open_session(client_id="tests") as wire, tracing(collector.url) as t:
        guard = Guard("users", GuardSettings(), t.instruments)
        users = HttpCounterparty(TracedWire(wire, "users", t.tracer), guard, timeout_s=5)
        context.set_current("req-1", PARENT)
        assert await users.call("GET", parse_url(url + "?card=1"), lambda status, _: status, idempotent=True) == 200
        context.set_current("", "")
        await users.call("GET", parse_url(url), lambda status, _: status, idempotent=True)
    first, second = sorted(collector.spans, key=lambda each: -each.attributes["http.response.status_code"])
    assert (first.name, first.kind, first.parent_id, first.failed) == ("GET users", "client", PARENT[36:52], True)
    assert first.attributes["error.type"] == "503" and first.attributes["server.address"] == "127.0.0.1"
    assert (second.parent_id, second.failed) == (PARENT[36:52], False)
    assert b"card=1" not in b"".join(collector.raw)
    for head, span in zip(seen, (first, second), strict=False):
        assert f"traceparent: 00-{TRACE}-{span.span_id}-01\r\n".encode() in head
        assert head.count(b"traceparent") == 1
    assert b"traceparent" not in seen[2], "a call for nobody's request"


class HalfABroker:
    """Acknowledges every other event."""

    def __init__(self) -> None:
        self.got: list[OutgoingEvent] = []

    async def publish(self, events: Sequence[OutgoingEvent]) -> list[Answer]:
        self.got += events
        return [place % 2 == 0 for place in range(len(events))]


async def test_what_is_published_stays_as_it_is(collector: Collector) -> None:
    broker = HalfABroker()
    headers = (("ce_id", "pay-1-1"), ("ce_type", "payment_completed"))
    events = [
        OutgoingEvent("topic", "pay-1", b"{}", (*headers, ("traceparent", traceparent)))
        for traceparent in (PARENT, PARENT, UNSAMPLED, "nonsense")
    ]
    async with tracing(collector.url) as t:
        publisher = TracedPublisher(broker, t.tracer)
        assert await publisher.publish(events) == [True, False, True, False]
        assert await publisher.publish([]) == []
    assert broker.got == events
    assert [(each.name, each.kind, each.failed) for each in collector.spans] == [
        ("send topic", "producer", False), ("send topic", "producer", True),
    ]  # fmt: skip
    assert collector.spans[0].attributes["messaging.message.id"] == "pay-1-1"


async def test_messages_that_were_not_handled_are_failed_spans(collector: Collector) -> None:
    """What they hold is not in them: anybody may have written it."""

    async def breaks(_: Sequence[Message]) -> None:
        raise RuntimeError("4242424242424242")

    message = Message("topic", 1, 7, b"4242424242424242", (("ce_id", b"4242424242424242"), ("traceparent", b"\xff")))
    async with tracing(collector.url) as t:
        with pytest.raises(RuntimeError):
            await traced_handle(breaks, t.tracer)([message, message._replace(headers=())])
    first, second = collector.spans
    assert first.failed and second.failed and first.trace_id != second.trace_id
    assert (first.parent_id, first.attributes["messaging.kafka.offset"]) == ("", 7)
    assert b"4242424242424242" not in b"".join(collector.raw)


async def test_each_message_is_worked_on_in_its_own_trace() -> None:
    """Log lines name it; beside it, others of the same batch are worked on."""

    class Refunds:
        def __init__(self) -> None:
            self.traces: dict[str, str] = {}

        async def refund(self, wanted: Any, refund_id: str) -> Done:
            await asyncio.sleep(0)
            self.traces[wanted.payment_id] = context.current().trace_id
            return Done.REPEATED

    refunds: Any = Refunds()
    instruments = Instruments(CollectorRegistry())
    listeners = VaultListeners(refunds, HalfABroker(), instruments, order_topic="orders", product_topic="products")
    headers = {"pay-1": PARENT, "pay-2": PARENT.replace(TRACE, "2" * 32), "pay-3": "nonsense"}
    await listeners.handle(
        [
            Message(
                "orders", 0, place, b'{"refunded":true,"totalPrice":1,"paymentId":"%s"}' % payment_id.encode(),
                (("traceparent", traceparent.encode()),),
            )
            for place, (payment_id, traceparent) in enumerate(headers.items())
        ]
    )  # fmt: skip
    assert refunds.traces == {"pay-1": TRACE, "pay-2": "2" * 32, "pay-3": ""}
    assert context.current() == ("", "")


async def test_beyond_its_bound_spans_are_dropped_and_counted(collector: Collector, logged: Any) -> None:
    collector.behave = "hang"
    async with tracing(collector.url, queue_max=10, timeout_s=30, within_s=0.1) as t:
        t.spans(25)
        assert t.count("dropped") == 15
    assert {"event": "spans lost", "spans": 10, "log_level": "warning"} in logged


@pytest.mark.parametrize("behave", ["refuse", "redirect", "away"])
async def test_what_a_collector_does_not_take_is_counted_and_said_once(
    collector: Collector, logged: Any, behave: str
) -> None:
    """A redirect too: who follows it shows the headers to somebody else."""
    url = f"http://127.0.0.1:{free_port()}/v1/traces" if behave == "away" else collector.url
    collector.behave = behave
    async with tracing(url, timeout_s=0.2) as t:
        for failed in (3, 6):
            t.spans(3)
            await eventually(lambda: t.count("failed") == failed, timeout_s=30)  # noqa: B023
        if behave != "away":
            collector.behave = "well"
            t.spans(2)
            await eventually(lambda: t.count("exported") == 2, timeout_s=30)
    said = [line["event"] for line in logged]
    assert said == ["spans not exported"] + (["spans are exported again"] if behave != "away" else [])


async def test_an_answer_without_an_end_is_not_read(collector: Collector) -> None:
    """Read whole, as the library would, it takes all memory there is."""
    collector.behave = "endless"
    async with tracing(collector.url) as t:
        t.spans(2)
        await eventually(lambda: t.count("exported") == 2, timeout_s=30)
        t.spans(1)
        await eventually(lambda: t.count("exported") == 3, timeout_s=30)
