"""A busy engine: every surface open, Kafka behind it, customers before it, and trouble with some counterparties.
Beside it the notification worker, and receivers of webhooks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from aiohttp import web
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from app.load.others import CLIENT, PACKAGE
from simulators import cards
from simulators.daraja import MERCHANT, DarajaSim
from simulators.internal_gateway import InternalGatewaySim
from simulators.server import serve
from tests.faults.world import Engine, eventually
from tests.kafka_support import RealBroker
from tests.metrics.prometheus import Prometheus, prometheus
from tests.notify.process import NotifyProcess
from tests.support import (
    CARD_KEYS,
    ROOT,
    USER,
    EngineProcess,
    RedisServer,
    Sims,
    free_port,
    payment_body,
    service_token,
    simulators,
    temporary_folder,
)

SECONDS = 3


class Hooks:
    """Receivers of webhooks: one that takes everything, and one that is gone."""

    def app(self) -> web.Application:
        """What is served."""
        application = web.Application()
        application.router.add_post("/{status}", self._answer)
        return application

    async def _answer(self, request: web.Request) -> web.Response:
        return web.Response(status=int(request.match_info["status"]))


class Busy(NamedTuple):
    """What has happened, and who has watched."""

    engine: Engine
    redis: RedisServer
    prometheus: Prometheus
    load: subprocess.CompletedProcess[str]
    notify: str
    endpoint: str


def _settings(daraja: str, gateway: str, broker: RealBroker) -> dict[str, str]:
    """Every door open on a free port; guards that give up soon, so that trouble shows within the test."""
    mark = uuid.uuid4().hex[:8]
    mpesa_port = str(free_port())
    ours = {
        "ORDERS_API__ENABLED": "true", "ORDERS_API__PORT": str(free_port()),
        "ORDERS_API__USERS_URL": gateway + "/internal/users/{id}",
        "ORDERS_API__ORDERS_URL": gateway + "/internal/orders/{id}",
        "VAULT__ENABLED": "true", "VAULT__PORT": str(free_port()), "VAULT__GROUP": f"group-{mark}",
        "VAULT__ORDER_REFUNDED_TOPIC": f"order-{mark}", "VAULT__PRODUCT_REFUNDED_TOPIC": f"product-{mark}",
        "GATEWAY__ENABLED": "true", "GATEWAY__PORT": str(free_port()),
        "MPESA__ENABLED": "true", "MPESA__PORT": mpesa_port, "MPESA__BASE_URL": daraja,
        **{f"MPESA__{name.upper()}": value for name, value in MERCHANT._asdict().items()},
        "MPESA__CALLBACK_BASE_URL": f"http://127.0.0.1:{mpesa_port}", "MPESA__CALLBACK_SECRET": "callback-0123456789",
        f"MPESA__CLIENTS__{CLIENT}__NAME": "Demo",
        f"MPESA__PACKAGES__{PACKAGE}__CLIENT": CLIENT, f"MPESA__PACKAGES__{PACKAGE}__NAME": "Plan",
        f"MPESA__PACKAGES__{PACKAGE}__PRICE": "1500",
        "LIMITS__ORDERS__REQUESTS": "5",
        "WEBHOOKS__ENABLED": "true", "WEBHOOKS__ALLOW_HTTP": "true", "WEBHOOKS__ALLOW_PRIVATE": "true",
        "NOTIFY__GROUP": f"notify-{mark}", "NOTIFY__TOPICS": f'["others-{mark}"]',
        "USERS__CACHE_S": "0", "USERS__GUARD__FAILURES_TO_OPEN": "3",
        "ACQUIRER__GUARD__FAILURES_TO_OPEN": "100000", "ACQUIRER__GUARD__WINDOW_CALLS_MIN": "100000",
    }  # fmt: skip
    return {f"PAYMENTS__{name}": value for name, value in ours.items()} | {"KAFKA_BROKER": broker.bootstrap}


@contextlib.asynccontextmanager
async def busy_engine(broker: RealBroker) -> AsyncIterator[Busy]:
    """Start everything, let it happen, and wait until Prometheus has seen it."""
    async with (
        simulators() as sims,
        serve(DarajaSim(None)) as daraja,
        serve(InternalGatewaySim(None)) as gateway,
        serve(Hooks()) as hooks,
        contextlib.AsyncExitStack() as stack,
    ):
        folder = stack.enter_context(temporary_folder())
        redis = RedisServer(folder)
        settings = _settings(daraja, gateway, broker)
        engine = Engine(redis.url, sims, folder, **settings)
        worker = NotifyProcess(redis, folder, PAYMENTS__CARDS__KEYS=CARD_KEYS, **settings)
        # First of all: it takes five seconds to begin with its scrapes.
        watching = await stack.enter_async_context(prometheus(folder, payments=engine.port, notify=worker.port))
        redis.start()
        stack.callback(redis.stop)
        await _make_topics(broker, settings)
        stack.push_async_callback(engine.close)
        await sims.user()
        await EngineProcess.start(engine)
        await stack.enter_async_context(worker)
        await worker.start()
        endpoint = await _listen(engine, hooks)
        await eventually(lambda: _positive(watching, "min(up)"))
        load = await asyncio.to_thread(_load, engine, sims)
        await _refund_by_message(engine, broker)
        await _tell_nonsense(engine, worker, broker)
        await _give_back(engine, sims, watching)
        await _hold_up(engine, sims, broker, watching)
        await _lose_an_outcome(engine, sims)
        await _ask_too_often(engine, watching)
        await _open_a_breaker(engine, sims, watching)
        await eventually(lambda: _positive(watching, "sum(unknown_attempts)"))
        yield Busy(engine, redis, watching, load, worker.base, endpoint)


async def _listen(engine: Engine, hooks: str) -> str:
    """Two endpoints of a service, which is told of everybody's payments; the id of one."""
    headers = {"Authorization": f"Bearer {service_token()}"}
    for status in (204, 410):
        body = {"url": f"{hooks}/{status}"}
        path = f"{engine.base}/api/webhook-endpoints"
        async with engine._sims.session.post(path, json=body, headers=headers) as response:
            assert response.status == 201, await response.text()
            made = await response.json()
    return str(made["id"])


async def _tell_nonsense(engine: Engine, worker: NotifyProcess, broker: RealBroker) -> None:
    """An event that nobody understands, when the others have been told."""
    (topic,) = json.loads(engine.environment["PAYMENTS__NOTIFY__TOPICS"])
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap)
    await producer.start()
    try:
        await producer.send_and_wait(topic, b"no event at all")
    finally:
        await producer.stop()
    await eventually(lambda: worker.metric("notifications_parked_total"))
    await eventually(lambda: worker.metric("webhook_deliveries_total", outcome="delivered"))
    await eventually(lambda: worker.metric("webhook_endpoints_disabled_total"))


async def _make_topics(broker: RealBroker, settings: dict[str, str]) -> None:
    names = [settings[f"PAYMENTS__VAULT__{which}_REFUNDED_TOPIC"] for which in ("ORDER", "PRODUCT")]
    names += json.loads(settings["PAYMENTS__NOTIFY__TOPICS"])
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, 1, 1) for each in names for name in (each, f"{each}.dead")])
    finally:
        await admin.close()


def _load(engine: Engine, sims: Sims) -> subprocess.CompletedProcess[str]:
    """`python -m app load`, as `make demo-load` runs it."""
    command = ("load", "--seconds", str(SECONDS), "--rate", "25")
    environment = {**os.environ, **engine.environment}
    return subprocess.run(
        [sys.executable, "-m", "app", *command],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


async def _refund_by_message(engine: Engine, broker: RealBroker) -> None:
    """A message that is obeyed, and one that can never be."""
    payment = await _checkout(engine)
    topic = engine.environment["PAYMENTS__VAULT__ORDER_REFUNDED_TOPIC"]
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap)
    await producer.start()
    try:
        wanted = {"refunded": True, "totalPrice": payment["totalPrice"], "paymentId": payment["id"]}
        await producer.send_and_wait(topic, json.dumps(wanted).encode())
        await producer.send_and_wait(topic, b"no message at all")
    finally:
        await producer.stop()
    await eventually(lambda: engine.metric("listener_messages_total", outcome="refunded"))
    await eventually(lambda: engine.metric("listener_messages_total", outcome="dead"))


async def _give_back(engine: Engine, sims: Sims, watching: Prometheus) -> None:
    """Refunds, until their number has been seen to grow: the load makes some, perhaps all between two scrapes."""
    await sims.order("order-returned")
    paid = await engine.post(payment_body("order-returned"), wait_s=20)
    url = f"{engine.base}/api/payments/{(await paid.json())['id']}/refund"
    headers = {"Authorization": f"Bearer {service_token()}"}
    growing = 'rate(payment_attempts_total{kind="refund"}[$__rate_interval])'

    async def seen() -> bool:
        async with engine._sims.session.post(url, json={"amount": 0.01}, headers=headers) as response:
            assert response.status == 201
        return await _positive(watching, f"sum({growing})")

    await eventually(seen, every_s=0.5)


async def _checkout(engine: Engine) -> dict[str, Any]:
    """A payment with a stored card."""
    base = f"http://127.0.0.1:{engine.environment['PAYMENTS__VAULT__PORT']}/api/payment"
    headers = {"Authorization": f"Bearer {service_token()}"}
    card = {
        "cardUserId": USER, "cardHolderName": "Jo Doe", "cardNumber": int(cards.APPROVED_MASTERCARD),
        "expireDate": "12/30", "cvv": 123, "money": 500,
    }  # fmt: skip
    session = engine._sims.session
    async with session.post(f"{base}/add", json=card, headers=headers) as response:
        card_id = (await response.json())["card"]["id"]
    wanted = {
        "userId": USER, "basketId": "basket-1", "creditCardId": card_id, "shipmentId": "shipment-1",
        "products": [{"productId": "prod-1", "quantity": 1, "price": 75.48}],
        "address": "1 High Street", "isGift": False, "totalPrice": 75.48,
    }  # fmt: skip
    async with session.post(f"{base}/pay/checkout-1", json=wanted, headers=headers) as response:
        payment: dict[str, Any] = (await response.json())["payment"]
    return payment


async def _hold_up(engine: Engine, sims: Sims, broker: RealBroker, watching: Prometheus) -> None:
    """An event waits for a Kafka that stands still, and a job for a slow acquirer, until both have been seen."""
    for order in ("order-untold", "order-slow"):
        await sims.order(order)
    broker.pause()
    try:
        assert (await engine.post(payment_body("order-untold"), wait_s=20)).status == 201
        await sims.fault(sims.acquirer, "delay", delay_s=3600, method="POST")
        assert (await engine.post(payment_body("order-slow"))).status == 201
        await eventually(lambda: _positive(watching, "outbox_depth * outbox_oldest_seconds"))
        await eventually(lambda: _positive(watching, "job_queue_depth * job_queue_oldest_seconds"))
    finally:
        broker.resume()
        await sims.clear_faults(sims.acquirer)


async def _lose_an_outcome(engine: Engine, sims: Sims) -> None:
    """A charge whose answer was lost, at an acquirer that tells nobody what became of it."""
    await sims.fault(sims.acquirer, "status", method="GET", status=503)
    await sims.order("order-unknown")
    answer = await engine.post(payment_body("order-unknown", cardNumber=cards.ERROR_AFTER_CHARGE), key="unknown")
    assert answer.status == 201
    await eventually(lambda: engine.metric("unknown_attempts_oldest_seconds"))


async def _ask_too_often(engine: Engine, watching: Prometheus) -> None:
    """More requests than the orders surface takes from one caller."""
    url = f"http://127.0.0.1:{engine.environment['PAYMENTS__ORDERS_API__PORT']}/api/payments/user/1"
    headers = {"Authorization": f"Bearer {service_token()}"}

    async def limited() -> bool:
        async with engine._sims.session.get(url, headers=headers):
            return await _positive(watching, "sum(rate(rate_limited_total[$__rate_interval]))")

    await eventually(limited)


async def _open_a_breaker(engine: Engine, sims: Sims, watching: Prometheus) -> None:
    """Nobody hears from the user service any more, and soon nobody asks."""
    await sims.fault(sims.users, "error_before")
    await sims.order("order-refused")
    refusals = 'rate(circuit_breaker_calls_total{outcome="refused_open"}[$__rate_interval])'
    errors = 'rate(http_requests_total{status=~"5.."}[$__rate_interval])'

    async def refused() -> bool:
        answer = await engine.post(payment_body("order-refused"))
        assert answer.status >= 500
        return await _positive(watching, f"sum({refusals}) > 0 and sum({errors}) > 0")

    await eventually(refused)


async def _positive(watching: Prometheus, expression: str) -> bool:
    return any(value > 0 for value in await watching.now(expression))
