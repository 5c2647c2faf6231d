"""One payment, three processes, a real Redis, a real Kafka and a real collector: one trace."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.faults.world import eventually
from tests.kafka_support import RealBroker, read_topic
from tests.notify.process import NotifyProcess
from tests.support import USER, EngineProcess, RedisServer, Sims, free_port, payment_body, simulators, temporary_folder
from tests.tracing.collector import Collector, Seen, collecting

pytestmark = pytest.mark.asyncio(loop_scope="module")
TRACE = "0af7651916cd43dd8448eb211c80319c"
CLIENT = "b7ad6b7169203331"


class Processes(NamedTuple):
    """One for HTTP, one that works and relays, one that notifies."""

    http: EngineProcess
    behind: EngineProcess
    notify: NotifyProcess
    sims: Sims
    collector: Collector
    bootstrap: str
    topic: str
    refunded: str

    async def paid(self, traceparent: str = "", **card: str) -> tuple[str, str]:
        """A payment that has ended: its id, and the `traceparent` of the answer."""
        order = f"order-{uuid.uuid4().hex[:8]}"
        await self.sims.order(order)
        headers: dict[str, Any] = {"traceparent": traceparent} if traceparent else {}
        answer = await self.http.post(payment_body(order, **card), **headers)
        assert answer.status == 201, await answer.text()
        payment_id: str = (await answer.json())["id"]
        await self.http.wait_status(payment_id)
        return payment_id, answer.headers["traceparent"]

    async def spans(self, trace_id: str, count: int) -> list[Seen]:
        """The trace, as soon as it has so many spans."""
        await eventually(lambda: len(self.collector.of(trace_id)) >= count, timeout_s=60)
        return self.collector.of(trace_id)

    async def told(self, payment_id: str) -> Any:
        """The payment's event in the topic."""
        found: list[Any] = []

        async def there() -> bool:
            found[:] = [each for each in await read_topic(self.bootstrap, self.topic) if each.key == payment_id]
            return bool(found)

        await eventually(there, timeout_s=60, every_s=0.2)
        return found[0]


@contextlib.asynccontextmanager
async def three_processes(broker: RealBroker) -> AsyncIterator[Processes]:
    """Started, with one user."""
    mark = uuid.uuid4().hex[:8]
    async with contextlib.AsyncExitStack() as stack:
        sims = await stack.enter_async_context(simulators())
        await sims.user()
        collector = await stack.enter_async_context(collecting())
        folder = stack.enter_context(temporary_folder())
        redis = RedisServer(folder)
        redis.start()
        stack.callback(redis.stop)
        await _make_topics(broker, f"events-{mark}", f"refunded-{mark}", f"product-{mark}")
        settings = {
            "KAFKA_URI": broker.bootstrap,
            "PAYMENTS__EVENTS__TOPIC": f"events-{mark}",
            "PAYMENTS__VAULT__ORDER_REFUNDED_TOPIC": f"refunded-{mark}",
            "PAYMENTS__VAULT__PRODUCT_REFUNDED_TOPIC": f"product-{mark}",
            "PAYMENTS__VAULT__GROUP": f"group-{mark}",
            "PAYMENTS__USERS__CACHE_S": "0",
            "PAYMENTS__TRACING__ENABLED": "true",
            "PAYMENTS__TRACING__ENDPOINT": collector.url,
            "PAYMENTS__TRACING__SERVICE_NAME": "shop-payments",
            "PAYMENTS__TRACING__HEADERS": "X-Team=secret-of-the-team",
        }
        http = _engine(redis, sims, folder / "http", settings)
        behind = _engine(redis, sims, folder / "behind", {**settings, "PAYMENTS__VAULT__ENABLED": "true"})
        notify = await stack.enter_async_context(NotifyProcess(redis, folder, **settings))
        # Without a surface of its own it is asked on the ops port whether it is ready.
        behind.environment["PAYMENTS__OPS__PORT"] = str(port := free_port())
        behind.base = f"http://127.0.0.1:{port}"
        for engine, roles in ((http, "http"), (behind, "worker,relay,reconcile")):
            stack.push_async_callback(engine.close)
            await engine.start("--roles", roles)
        await notify.start()
        yield Processes(http, behind, notify, sims, collector, broker.bootstrap, f"events-{mark}", f"refunded-{mark}")
        assert [await each.stop() for each in (http, behind, notify)] == [0, 0, 0]


async def _make_topics(broker: RealBroker, *names: str) -> None:
    """Now, so that nobody who listens has to find them first."""
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, 1, 1) for name in names])
    finally:
        await admin.close()


def _engine(redis: RedisServer, sims: Sims, folder: Path, settings: dict[str, str]) -> EngineProcess:
    folder.mkdir()
    return EngineProcess(redis.url, sims, folder, **settings)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def processes(kafka_broker: RealBroker) -> AsyncIterator[Processes]:
    """One for all tests here."""
    async with three_processes(kafka_broker) as running:
        yield running


def tree(spans: list[Seen], root: str) -> dict[str, Any]:
    """Names and kinds, below each other; what is twice under one parent has a number."""
    found: dict[str, Any] = {}
    for span in sorted((each for each in spans if each.parent_id == root), key=lambda each: each.name):
        name = f"{span.kind} {span.name}"
        while name in found:
            name += "'"
        found[name] = tree(spans, span.span_id)
    return found


def expected(topic: str, **calls: Any) -> dict[str, Any]:
    """The tree of a payment that was charged at the first try."""
    return {
        "server POST /api/payments": {
            "client GET user_service": {},
            "client GET order_service": {},
            "internal store create": {},
            "consumer process payment": {
                "internal store begin": {},
                "internal acquirer charge": {"client POST card_acquirer": {}},
                "internal store apply": {},
            },
            f"producer send {topic}": {},
            f"consumer process {topic}": {},
            **calls,
        }
    }


async def test_one_payment_is_one_trace_through_all_processes(processes: Processes) -> None:
    payment_id, traceparent = await processes.paid()
    trace_id, root = traceparent[3:35], traceparent[36:52]
    spans = await processes.spans(trace_id, 11)
    assert tree(spans, "") == expected(processes.topic)
    by_name = {span.name: span for span in spans}
    server, job = by_name["POST /api/payments"], by_name["process payment"]
    assert server.span_id == root, "the client is told which span is its own"
    assert server.attributes == {
        "http.request.method": "POST", "http.route": "/api/payments", "http.response.status_code": 201,
        "payments.surface": "core",
    }  # fmt: skip
    assert by_name["store create"].attributes["payments.payment_id"] == payment_id
    assert by_name["acquirer charge"].attributes["payments.outcome"] == "Approved"
    assert by_name["POST card_acquirer"].attributes["peer.service"] == "card_acquirer"
    assert {span.service for span in spans} == {"shop-payments"}
    told = by_name[f"process {processes.topic}"]
    assert len({server.instance, job.instance, told.instance}) == 3, "three processes"
    assert not any(span.failed for span in spans)
    assert processes.collector.headers[0]["X-Team"] == "secret-of-the-team"


async def test_the_event_carries_the_payments_own_traceparent_whoever_publishes_it(processes: Processes) -> None:
    """Published again it must be the same, byte for byte, so it cannot name the span of a publication."""
    payment_id, traceparent = await processes.paid()
    record = await processes.told(payment_id)
    assert dict(record.headers)["traceparent"] == traceparent


async def test_a_clients_trace_goes_on_and_its_header_comes_back(processes: Processes) -> None:
    theirs = f"00-{TRACE}-{CLIENT}-01"
    _, answered = await processes.paid(theirs)
    assert answered == theirs
    spans = await processes.spans(TRACE, 11)
    assert tree(spans, CLIENT) == expected(processes.topic) and tree(spans, "") == {}


async def test_every_try_is_a_span(processes: Processes) -> None:
    await processes.sims.fault(processes.sims.users, "error_before", times=1)
    _, traceparent = await processes.paid()
    spans = await processes.spans(traceparent[3:35], 12)
    assert tree(spans, "") == expected(processes.topic, **{"client GET user_service'": {}})
    tries = sorted(
        (each.attributes["http.response.status_code"], each.failed) for each in spans if each.name == "GET user_service"
    )
    assert tries == [(200, False), (500, True)]


async def test_silence_of_the_acquirer_is_a_failed_call_of_unknown_outcome(processes: Processes) -> None:
    await processes.sims.fault(processes.sims.acquirer, "reset", times=1, method="POST")
    _, traceparent = await processes.paid()
    spans = await processes.spans(traceparent[3:35], 15)
    charge, *_ = (each for each in spans if each.name == "acquirer charge")
    call = next(each for each in spans if each.parent_id == charge.span_id)
    assert charge.attributes["payments.outcome"] == "Unknown"
    assert (call.failed, call.attributes["error.type"]) == (True, "Broken")
    assert [each.kind for each in spans if each.name == "process payment"] == ["consumer"] * 2, "asked later"


async def test_what_the_client_does_not_want_sampled_is_not_sent(processes: Processes) -> None:
    """In no process: the payment keeps the decision for the worker and the relay."""
    unsampled = f"00-{'1' * 32}-{CLIENT}-00"
    payment_id, answered = await processes.paid(unsampled)
    assert answered == unsampled
    assert dict((await processes.told(payment_id)).headers)["traceparent"] == unsampled
    _, later = await processes.paid()
    await processes.spans(later[3:35], 11)
    assert processes.collector.of("1" * 32) == []


async def test_a_traceparent_that_is_none_is_ignored(processes: Processes) -> None:
    wrong = ("00-0-0-01", f"00-{'0' * 32}-{CLIENT}-01", f"00-{TRACE.upper()}-{CLIENT}-01", "x", "\xff" * 55)
    answers = [await processes.http.post({}, traceparent=each) for each in wrong]
    traces = {answer.headers["traceparent"][3:35] for answer in answers}
    assert len(traces) == len(wrong)
    for trace_id in traces:
        [span] = await processes.spans(trace_id, 1)
        assert (span.parent_id, span.attributes["http.response.status_code"], span.failed) == ("", 422, False)


async def test_probes_make_no_spans_and_paths_are_never_shown(processes: Processes) -> None:
    """A path may name a person, a query anything."""
    for path in ("/health", "/ready", "/metrics", f"/api/payments/user/{USER}?limit=7", "/no/such/path?q=7"):
        await processes.http.get(path)
    _, later = await processes.paid()
    await processes.spans(later[3:35], 11)
    names = {each.name for each in processes.collector.spans if each.kind == "server"}
    assert {"GET /api/payments/user/{user_id}", "GET"} <= names
    assert not [name for name in names if "health" in name or "ready" in name or "metrics" in name]
    everything = b"".join(processes.collector.raw)
    assert USER.encode() not in everything and b"limit=7" not in everything and b"no/such" not in everything


async def test_a_message_is_consumed_below_the_span_that_its_header_names(processes: Processes) -> None:
    trace = uuid.uuid4().hex
    producer = AIOKafkaProducer(bootstrap_servers=processes.bootstrap)
    await producer.start()
    try:
        value = json.dumps({"refunded": False, "totalPrice": 1, "paymentId": "pay-1"}).encode()
        headers = [("traceparent", f"00-{trace}-{CLIENT}-01".encode())]
        await producer.send_and_wait(processes.refunded, value, headers=headers)
        await producer.send_and_wait(processes.refunded, b"poison", headers=[("traceparent", b"\xff" * 55)])
    finally:
        await producer.stop()
    [span] = await processes.spans(trace, 1)
    assert (span.kind, span.name, span.parent_id) == ("consumer", f"process {processes.refunded}", CLIENT)
    await eventually(lambda: sum(each.name == span.name for each in processes.collector.spans) == 2, timeout_s=60)


async def test_log_lines_name_the_trace(processes: Processes) -> None:
    payment_id, traceparent = await processes.paid()

    def settled() -> bool:
        lines = [json.loads(line) for line in processes.behind.log.read_text().splitlines()]
        found = [line for line in lines if line.get("payment_id") == payment_id]
        return [line["trace_id"] for line in found if line["message"] == "attempt settled"] == [traceparent[3:35]]

    await eventually(settled, timeout_s=60)
    await eventually(lambda: traceparent[3:35] in [line["trace_id"] for line in processes.notify.lines()])


async def test_what_became_of_the_spans_is_counted(processes: Processes) -> None:
    async def counted() -> bool:
        text = await (await processes.http.get("/metrics")).text()
        return 'trace_spans_total{outcome="exported"} ' in text and 'trace_spans_total{outcome="failed"} 0.0' in text

    await processes.paid()
    await eventually(counted, timeout_s=60)
