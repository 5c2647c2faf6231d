"""What is put around the parts of a process that traces. Without tracing none of this is there, and costs nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from clients.http import Exchanges
from clients.kafka_consumer import Handle
from clients.wire import Answer, Url
from engine import context
from engine.cards import SealedInstrument
from engine.changes import Change, Conflict, Job
from engine.charging import Acquirer, AcquirerRequest, NeverSeen, Outcome
from engine.events import Answer as Acknowledged
from engine.events import OutgoingEvent
from engine.facts import Kind
from engine.ids import PaymentId
from engine.messages import Message
from engine.money import Money
from engine.payment import Payment
from engine.relay import EventPublisher
from engine.store.payments import RedisPayments
from engine.tracing import Span, Tracer, spanning
from engine.worker import Processor

_TOO_MANY_REQUESTS = 429


class TracedWire:
    """Every try at a counterparty is a span of its own, so a call that was repeated shows as several."""

    def __init__(self, wire: Exchanges, name: str, tracer: Tracer) -> None:
        self._wire = wire
        self._name = name
        self._tracer = tracer

    async def exchange(
        self, method: str, url: Url, headers: Mapping[str, str], body: bytes | None, **limits: float
    ) -> Answer:
        """As the wire does it. A call for nobody's request, for a token for example, has no span."""
        if not (parent := headers.get("traceparent")):
            return await self._wire.exchange(method, url, headers, body, **limits)
        # Not the URL: its path names people, its query may name anything.
        noted: dict[str, str | int] = {
            "http.request.method": method,
            "server.address": url.origin.host,
            "server.port": url.origin.port,
            "peer.service": self._name,
        }
        with spanning(self._tracer, f"{method} {self._name}", "client", noted, parent=parent) as span:
            sent = {**headers, "traceparent": span.traceparent}
            answer = await self._wire.exchange(method, url, sent, body, **limits)
            span.note("http.response.status_code", answer.status)
            # As the breaker sees it: another 4xx is an answer like any other.
            if answer.status >= 500 or answer.status == _TOO_MANY_REQUESTS:
                span.fail(str(answer.status))
            return answer


class TracedPayments(RedisPayments):
    """The steps that make a payment last."""

    def __init__(self, tracer: Tracer, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._tracer = tracer

    async def create(self, payment: Payment, sealed: SealedInstrument, *, due_ms: int) -> Payment | None:
        with self._span("create", payment):
            return await super().create(payment, sealed, due_ms=due_ms)

    async def record(self, change: Change) -> Payment | None:
        with self._span("record", change.payment):
            return await super().record(change)

    async def begin(self, payment: Payment, *, due_ms: int) -> SealedInstrument | Conflict:
        with self._span("begin", payment):
            return await super().begin(payment, due_ms=due_ms)

    async def apply(self, change: Change, job: Job | None = None) -> Conflict | None:
        with self._span("apply", change.payment):
            return await super().apply(change, job)

    async def apply_and_enqueue(self, change: Change) -> Conflict | None:
        with self._span("apply_and_enqueue", change.payment):
            return await super().apply_and_enqueue(change)

    def _span(self, step: str, payment: Payment) -> contextlib.AbstractContextManager[object]:
        if not context.current().traceparent:
            return contextlib.nullcontext()
        noted = {"payments.payment_id": payment.id, "payments.status": payment.status.value}
        if payment.order_id:
            noted["payments.order_id"] = payment.order_id
        return spanning(self._tracer, f"store {step}", "internal", noted)


class Payments(Protocol):
    """Reads payments."""

    async def get(self, payment_id: PaymentId) -> Payment | None: ...


class TracedProcessor:
    """A worker's job is a span below the request that made the payment, whoever works on it, however much later."""

    def __init__(self, processor: Processor, payments: Payments, tracer: Tracer) -> None:
        self._processor = processor
        self._payments = payments
        self._tracer = tracer

    async def process(self, job: Job) -> None:
        """Raises what the processor raises, and `StoreUnavailable`."""
        payment = job.hint or await self._payments.get(job.payment_id)
        if payment is None or not payment.traceparent:
            return await self._processor.process(job)
        context.set_current(payment.request_id, payment.traceparent)
        noted = {"payments.payment_id": payment.id, "messaging.operation.type": "process"}
        with spanning(self._tracer, "process payment", "consumer", noted):
            # Just read, if it was not in the job: nobody needs to read it again.
            return await self._processor.process(job._replace(hint=payment))


class TracedAcquirer:
    """What was asked of an acquirer, and the outcome as we understood it; the calls that it took are below."""

    def __init__(self, acquirer: Acquirer, tracer: Tracer) -> None:
        self._acquirer = acquirer
        self._tracer = tracer

    @property
    def name(self) -> str:
        return self._acquirer.name

    async def send(self, request: AcquirerRequest) -> Outcome:
        noted = {"payments.attempt_id": request.attempt_id, "payments.acquirer": self.name}
        with spanning(self._tracer, f"acquirer {request.kind.value}", "internal", noted) as span:
            outcome = await self._acquirer.send(request)
            span.note("payments.outcome", type(outcome).__name__)
            return outcome

    async def find(self, kind: Kind, attempt_id: str, amount: Money, transaction_id: str) -> Outcome | NeverSeen:
        noted = {"payments.attempt_id": attempt_id, "payments.acquirer": self.name}
        with spanning(self._tracer, f"acquirer find {kind.value}", "internal", noted) as span:
            outcome = await self._acquirer.find(kind, attempt_id, amount, transaction_id)
            span.note("payments.outcome", type(outcome).__name__)
            return outcome


class TracedPublisher:
    """Every event of a batch has a span below the request that made the payment.

    What is published stays as it is, the header `traceparent` too: published again, an event must be the same.
    """

    def __init__(self, publisher: EventPublisher, tracer: Tracer) -> None:
        self._publisher = publisher
        self._tracer = tracer

    async def publish(self, events: Sequence[OutgoingEvent]) -> Sequence[Acknowledged]:
        """As the publisher does it."""
        spans: list[Span | None] = []
        for event in events:
            headers = dict(event.headers)
            noted = {
                "messaging.operation.type": "send",
                "messaging.destination.name": event.topic,
                "messaging.message.id": headers.get("ce_id", ""),
                "payments.payment_id": event.key,
            }
            parent = headers.get("traceparent", "")
            if context.trace_id_of(parent):
                spans.append(self._tracer.begin(f"send {event.topic}", "producer", noted, parent))
            else:
                spans.append(None)
        answers: Sequence[Acknowledged] = ()
        try:
            answers = await self._publisher.publish(events)
        finally:
            for place, span in enumerate(spans):
                if span is not None:
                    if place >= len(answers) or not answers[place]:
                        span.fail("not_acknowledged")
                    span.end()
        return answers


def traced_handle(handle: Handle, tracer: Tracer) -> Handle:
    """The same with a span for each message, below what its header `traceparent` names, while its batch is handled."""

    async def traced(messages: Sequence[Message]) -> None:
        spans = [_consuming(tracer, message) for message in messages]
        try:
            await handle(messages)
        except BaseException as error:
            for span in spans:
                span.fail(type(error).__name__)
            raise
        finally:
            for span in spans:
                span.end()

    return traced


def _consuming(tracer: Tracer, message: Message) -> Span:
    # By its place, not by its id: that, others have written.
    noted: dict[str, str | int] = {
        "messaging.operation.type": "process",
        "messaging.destination.name": message.topic,
        "messaging.destination.partition.id": str(message.partition),
        "messaging.kafka.offset": message.offset,
    }
    return tracer.begin(f"process {message.topic}", "consumer", noted, message.traceparent)
