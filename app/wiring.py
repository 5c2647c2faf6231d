"""The only place that builds long-lived things and knows who needs whom."""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import prometheus_client
import prometheus_client.multiprocess
from aiohttp import web
from prometheus_client import CollectorRegistry

from app import __version__
from app.observing import PaymentObserver
from app.readiness import OK, ReadinessBoard
from app.sampling import Sampler, SuccessRate
from app.settings import Settings, topics
from clients.acquirer import CardAcquirer
from clients.event_file import EventFile
from clients.http import HttpCounterparty
from clients.kafka import KafkaPublisher
from clients.kafka_consumer import KafkaListener
from clients.wire import Wire
from engine.charging import Acquirer, Acquirers, Charging
from engine.errors import StoreUnavailable
from engine.idempotency import Fingerprints
from engine.ids import PaymentIds, now_ms
from engine.reconciler import Reconciler
from engine.relay import Relay
from engine.sealing import AesGcmSealer, parse_fingerprint_secret, parse_keys
from engine.store.batch import Batcher, RedisClient
from engine.store.check import StoreReport
from engine.store.connect import is_cluster
from engine.store.depths import RedisDepths
from engine.store.due import RedisDue
from engine.store.jobs import RedisJobs
from engine.store.keys import Keys
from engine.store.leases import ShardLeases
from engine.store.outbox import RedisOutbox
from engine.store.payments import RedisPayments
from engine.store.vault import RedisVault
from engine.turns import Turns
from engine.vault_acquirer import VaultAcquirer
from engine.vault_card import ACQUIRER as VAULT
from engine.vault_card import CardMarks
from engine.vault_cards import VaultCards
from engine.vault_refunds import VaultRefunds
from engine.worker import Worker
from handlers.core_types import METHOD_TYPES
from handlers.docs import Docs
from handlers.http import BODY_BYTES_MAX, Edge
from handlers.openapi import openapi_document
from handlers.ops import HEALTH, Ops
from handlers.protocol import Refuse
from handlers.routes import Route, Surface
from handlers.vault_listeners import VaultListeners
from metrics.instruments import Instruments
from resilience.guard import Guard, GuardSettings
from resilience.status import BreakerStatus

_VARIABLE = re.compile(r"\{(\w+)\}")
MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"


class Guards:
    """The guards of all counterparties, by name."""

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments
        self._guards: dict[str, Guard] = {}

    def add(self, name: str, settings: GuardSettings) -> Guard:
        """A new guard."""
        self._guards[name] = Guard(name, settings, self._instruments)
        return self._guards[name]

    def statuses(self) -> Mapping[str, BreakerStatus]:
        """The breakers as of now."""
        return {name: guard.status() for name, guard in self._guards.items()}


class Door(NamedTuple):
    """A surface's application, and its answer to what is no request at all."""

    application: web.Application
    refuse: Refuse


class StoreCheck(Protocol):
    """Tells whether the store may be used."""

    async def report(self) -> StoreReport: ...


class Parts:
    """Everything one process is made of. Building it opens nothing."""

    def __init__(
        self,
        settings: Settings,
        roles: Sequence[str],
        client: RedisClient,
        wire: Wire,
        check: StoreCheck,
    ) -> None:
        self.settings = settings
        self.client = client
        self.wire = wire
        self.instruments = Instruments(CollectorRegistry())
        self.owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.readiness = ReadinessBoard(("store", "process"))
        self.success_rate = SuccessRate()
        self.observer = PaymentObserver(self.instruments, self.success_rate)
        self.guards = Guards(self.instruments)
        redis = settings.redis
        self.keys = Keys(redis.shards)
        self.batcher = Batcher(
            client,
            self.instruments,
            waiting_max=redis.steps_waiting_max,
            replicas=redis.replicas,
            replicas_timeout_s=redis.timeout_s / 2,
        )
        self.check = check
        self.payments = RedisPayments(
            self.batcher,
            self.keys,
            jobs_max=redis.jobs_max,
            outbox_max=redis.outbox_max,
            cvv_ttl_s=settings.cards.cvv_ttl_s,
        )
        self.vault = RedisVault(self.batcher, self.keys, outbox_max=redis.outbox_max)
        self.turns = Turns()
        self.jobs = RedisJobs(
            self.batcher, self.keys, self.instruments, consumer=self.owner, one_by_one=is_cluster(client)
        )
        self.sealer = AesGcmSealer(parse_keys(settings.cards.keys))
        self.sampler = Sampler(
            self.instruments, RedisDepths(self.batcher, self.keys), self.success_rate, self._connections, now_ms
        )
        self.fingerprints = Fingerprints(parse_fingerprint_secret(settings.cards.fingerprint_secret))
        self.ids = PaymentIds()
        self.stored_cards = self._stored_cards()
        self.worker = self._worker() if "worker" in roles else None
        self.dead_letters = KafkaPublisher(settings.kafka) if self._listens(roles) else None
        self.listener = self._listener(self.dead_letters) if self.dead_letters else None
        self.publisher = self._publisher() if "relay" in roles else None
        self.relay = self._relay(self.publisher) if self.publisher else None
        self.reconciler = self._reconciler() if "reconcile" in roles else None

    def door(self, surface: Surface) -> Door:
        """A surface with the ops endpoints and its documentation, on an application of its own."""
        edge = Edge(surface.name, surface.errors, self.instruments, surface.envelope)
        routes = [*surface.routes(), *self._ops(surface.health).routes()]
        docs = Docs(openapi_document(surface, routes, version=__version__))
        application = _application(edge, [*routes, *docs.routes()])
        docs.mount_files(application)
        return Door(application, edge.refuse_unparsed)

    def ops_door(self) -> Door:
        """The ops endpoints alone."""
        edge = Edge("ops", {}, self.instruments)
        return Door(_application(edge, self._ops(HEALTH).routes()), edge.refuse_unparsed)

    def admit(self) -> None:
        """Raises `StoreUnavailable` while no payment may be taken."""
        state = self.readiness.parts()["store"]
        if state != OK:
            raise StoreUnavailable("the store is not fit to take payments now")

    def counterparty(self, name: str, settings: GuardSettings) -> HttpCounterparty:
        """Somebody to be asked over HTTP, behind a guard of its own."""
        return HttpCounterparty(self.wire, self.guards.add(name, settings), timeout_s=settings.timeout_s)

    def _stored_cards(self) -> VaultCards:
        marks = CardMarks(parse_fingerprint_secret(self.settings.cards.fingerprint_secret))
        return VaultCards(self.vault, self.payments, self.sealer, marks, self.ids, self.turns, now_ms, self.admit)

    def _ops(self, health: Mapping[str, str]) -> Ops:
        return Ops(self.readiness, _scraper(self.instruments.registry), health)

    def _worker(self) -> Worker:
        worker = self.settings.worker
        charging = Charging(
            self.payments,
            self._acquirers(),
            self.sealer,
            self.observer,
            now_ms,
            lease_s=worker.lease_s,
        )
        return Worker(self.jobs, charging, concurrency=worker.concurrency, claim_idle_s=worker.claim_idle_s)

    def _acquirers(self) -> Acquirers:
        first, fallbacks = self.settings.acquirer, self.settings.fallbacks
        by_name: dict[str, Acquirer] = {first.name: self._acquirer(first.name, first.guard, first.url)}
        for name, fallback in fallbacks.items():
            by_name[name] = self._acquirer(name, fallback.guard, fallback.url)
        by_name[VAULT] = VaultAcquirer(self.vault, self.turns, now_ms)
        order = {
            method: [first.name, *(name for name, fallback in fallbacks.items() if method in fallback.methods)]
            for method in METHOD_TYPES.values()
        }
        order["vault_card"] = [VAULT]
        return Acquirers(by_name, order)

    def _acquirer(self, name: str, guard: GuardSettings, url: str) -> CardAcquirer:
        return CardAcquirer(self.counterparty(name, guard), url)

    def _relay(self, publisher: KafkaPublisher | EventFile) -> Relay:
        outbox = RedisOutbox(
            self.batcher,
            self.keys,
            topics=topics(self.settings),
            one_by_one=is_cluster(self.client),
        )
        leases = ShardLeases(self.batcher, self.keys, role="relay", owner=self.owner)
        return Relay(outbox, publisher, leases, self.instruments)

    def _listens(self, roles: Sequence[str]) -> bool:
        return "worker" in roles and self.settings.vault.enabled and bool(self.settings.kafka.brokers)

    def _listener(self, dead_letters: KafkaPublisher) -> KafkaListener:
        vault = self.settings.vault
        listeners = VaultListeners(
            VaultRefunds(self.vault, self.turns, self.observer, now_ms),
            dead_letters,
            self.instruments,
            order_topic=vault.order_refunded_topic,
            product_topic=vault.product_refunded_topic,
        )
        return KafkaListener(
            self.settings.kafka, listeners.topics, listeners.handle, group=vault.group, batch_max=vault.batch_max
        )

    def _reconciler(self) -> Reconciler:
        due = RedisDue(self.batcher, self.keys, jobs_max=self.settings.redis.jobs_max)
        leases = ShardLeases(self.batcher, self.keys, role="reconcile", owner=self.owner)
        return Reconciler(due, leases, now_ms, redrive_after_s=self.settings.worker.redrive_after_s)

    def _publisher(self) -> KafkaPublisher | EventFile:
        if self.settings.kafka.brokers:
            return KafkaPublisher(self.settings.kafka)
        return EventFile(Path(self.settings.events.file))

    def _connections(self) -> int:
        pool = getattr(self.client, "connection_pool", None)
        pools = [pool] if pool is not None else [self.client]
        return sum(count for pool in pools for count, _ in getattr(pool, "get_connection_count", list)())


def _application(edge: Edge, routes: Sequence[Route]) -> web.Application:
    application = web.Application(middlewares=[edge.middleware()], client_max_size=BODY_BYTES_MAX)
    for route in routes:
        # aiohttp's own idea of a path's variable has no braces in it, but a key may.
        path = _VARIABLE.sub(r"{\1:[^/]+}", route.path)
        if route.method == "GET":
            application.router.add_get(path, route.handler, expect_handler=edge.expectation)
        else:
            application.router.add_route(route.method, path, route.handler, expect_handler=edge.expectation)
    return application


def _scraper(registry: CollectorRegistry) -> Callable[[], bytes]:
    if MULTIPROCESS_DIR not in os.environ:
        return lambda: prometheus_client.generate_latest(registry)

    def scrape_all() -> bytes:
        every = CollectorRegistry()
        prometheus_client.multiprocess.MultiProcessCollector(every)  # type: ignore[no-untyped-call]
        return prometheus_client.generate_latest(every)

    return scrape_all
