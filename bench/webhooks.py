"""The round of the webhooks: a thousand endpoints are told of events, with one of them dead."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from statistics import quantiles
from typing import Final

import redis
from aiohttp import web
from prometheus_client import CollectorRegistry

from bench import processes
from bench.loading import Wrong
from bench.measuring import Others, used
from bench.processes import info
from bench.rounds import Bench, Case, Measured
from clients.webhooks import WebhookPoster
from engine.accepting import Caller
from engine.ids import PaymentIds, now_ms
from engine.notifying import Notice
from engine.sealing import AesGcmSealer
from engine.store.batch import Batcher
from engine.store.connect import RedisSettings, connect
from engine.store.deliveries import Deliveries
from engine.store.endpoints import RedisEndpoints
from engine.store.keys import Keys
from engine.webhook_endpoints import WebhookEndpoints, WebhookSecrets
from engine.webhook_sender import Retrying, WebhookSender
from engine.webhook_sink import WebhookSink
from metrics.instruments import Instruments

ENDPOINTS: Final = 1000
DEAD: Final = "webhooks, dead"
_DEAD: Final = 0
_EACH: Final = 3
"""Events for an endpoint; the dead one gets as many payments of them as all others have together."""
_A_SECOND: Final = 300
"""Events that come in a second: so many that the machine is not busy, for what is measured is waiting, not work."""
_WITHIN_S: Final = 120.0


def webhooks_round(bench: Bench, case: Case) -> Measured:
    """Measure from an event's coming in to its arrival, with or without a dead endpoint.

    Raises `Wrong` when something does not arrive, or arrives twice.
    """
    with processes.redis_server(bench.folder) as store:
        return asyncio.run(_round(store, case))


class _Receivers:
    """All endpoints in one server. The dead one takes the connection and never answers."""

    def __init__(self) -> None:
        self.arrived: dict[str, float] = {}
        self.twice = 0
        self._over = asyncio.Event()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        application = web.Application()
        application.router.add_post("/{number}", self._take)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            self._over.set()
            await runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        await request.read()
        if request.match_info["number"] == "dead":
            await self._over.wait()
            return web.Response(status=500)
        message = request.headers["webhook-id"]
        self.twice += message in self.arrived
        self.arrived[message] = time.perf_counter()
        return web.Response()


async def _round(store: redis.Redis, case: Case) -> Measured:
    instruments, keys = Instruments(CollectorRegistry()), Keys(16)
    client = connect(RedisSettings(url=processes.redis_url(store)))
    batcher = Batcher(client, instruments)
    batching = asyncio.create_task(batcher.run())
    receivers = _Receivers()
    async with receivers.listening() as url:
        endpoints = RedisEndpoints(batcher, keys)
        deliveries = Deliveries(
            batcher, keys, queue="webhooks", each_max=4, lease_ms=30_000, waiting_max=100_000, kept_max=1000,
            keep_ms=86_400_000, remember_ms=86_400_000,
        )  # fmt: skip
        secrets = WebhookSecrets(AesGcmSealer({"bench": os.urandom(32)}))
        managing = WebhookEndpoints(
            endpoints, deliveries, secrets, PaymentIds().mint_endpoint, now_ms, lambda: None,
            endpoints_max=1, overlap_s=0, allow_http=True, allow_private=True,
        )  # fmt: skip
        dead = case.path == DEAD
        for number in range(ENDPOINTS):
            path = "dead" if dead and number == _DEAD else str(number)
            owner = Caller(f"user-{number}", privileged=False)
            await managing.create(owner, url=f"{url}/{path}", event_types=(), description="")
        sink = WebhookSink(endpoints, deliveries, instruments, now_ms, disabled_keep_s=86_400)
        poster = WebhookPoster(now_ms, timeout_s=10, allow_http=True, allow_private=True)
        retrying = Retrying((5, 300), 86_400, 86_400, 86_400)
        sender = WebhookSender(
            deliveries, endpoints, sink, poster, secrets, instruments, now_ms, retrying, at_once=256, longest_s=10
        )
        sending = asyncio.create_task(sender.run())
        try:
            return await _measure(store, case, sink, receivers, dead=dead)
        finally:
            for task in (sending, batching):
                task.cancel()
                await asyncio.wait([task])
            await client.aclose()


async def _measure(store: redis.Redis, case: Case, sink: WebhookSink, receivers: _Receivers, *, dead: bool) -> Measured:
    redis_pid = info(store, "server")["process_id"]
    pid, others = os.getpid(), Others(redis_pid)
    before, redis_before, began_at = used(pid), used(redis_pid), time.perf_counter()
    came: dict[str, float] = {}
    numbers = [number for _ in range(_EACH) for number in range(ENDPOINTS)]
    for at, number in enumerate(numbers):
        due_at = began_at + at / _A_SECOND
        if (pause_s := due_at - time.perf_counter()) > 0:
            await asyncio.sleep(pause_s)
        notices = [_notice(f"pay-{at}", number)]
        if dead:
            notices.append(_notice(f"dead-{at}", _DEAD))
        if not (dead and number == _DEAD):
            came[f"pay-{at}-1"] = time.perf_counter()
        await sink.take(notices)
    while len(receivers.arrived) < len(came):
        if time.perf_counter() > began_at + _WITHIN_S:
            raise Wrong(f"{len(receivers.arrived)} of {len(came)} webhooks arrived")
        await asyncio.sleep(0.01)
    if receivers.twice or receivers.arrived.keys() != came.keys():
        raise Wrong("webhooks arrived twice, or were not asked for")
    took_s = time.perf_counter() - began_at
    delays_ms = sorted((receivers.arrived[name] - at) * 1000 for name, at in came.items())
    after = used(pid)
    return Measured(
        case=case.name,
        payments=len(came),
        per_second=len(came) / took_s,
        p50_ms=quantiles(delays_ms, n=100)[49],
        p99_ms=quantiles(delays_ms, n=100)[98],
        cpu_us=(after.cpu_s - before.cpu_s) * 1e6 / len(came),
        redis_us=(used(redis_pid).cpu_s - redis_before.cpu_s) * 1e6 / len(came),
        upstreams_us=0.0,
        rss_mib=after.rss_mib,
        rss_peak_mib=after.rss_peak_mib,
        redis_bytes=0.0,
        drain_s=0.0,
        foreign=others.share(),
        worst_ms=delays_ms[-1],
    )


def _notice(subject: str, number: int) -> Notice:
    return Notice(
        id=f"{subject}-1",
        type="payment_completed",
        source="/payments/core",
        subject=subject,
        user_id=f"user-{number}",
        time="2026-01-01T00:00:00.000Z",
        body=b'{"event_type":"payment_completed","payment_id":"%s"}' % subject.encode(),
    )
