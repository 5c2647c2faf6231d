"""The only place that builds long-lived things and knows who needs whom."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from aiohttp import web
from prometheus_client import CollectorRegistry

from app import __version__
from app.activity import Activity
from app.circuits import Circuits, counterparties
from app.console import OpsConsole
from app.limiting import Limiting, inside_edge
from app.observing import PaymentObserver
from app.readiness import OK, ReadinessBoard
from app.sampling import Sampler, SuccessRate
from app.settings import AcquirerSettings, ConfigError, FallbackSettings, Settings, topics
from app.traced import TracedAcquirer, TracedPayments, TracedProcessor, TracedPublisher, TracedWire, traced_handle
from clients.acquirer import CardAcquirer
from clients.daraja import Daraja
from clients.event_file import EventFile
from clients.http import HttpCounterparty
from clients.kafka import KafkaPublisher
from clients.kafka_consumer import Handle, KafkaListener
from clients.otlp_settings import NOT_INSTALLED, installed
from clients.stripe import StripeAcquirer
from clients.stripe_line import ApiKey, StripeLine
from clients.wire import Wire
from engine.charging import Acquirer, Acquirers, Charging
from engine.errors import StoreUnavailable
from engine.idempotency import Fingerprints
from engine.ids import PaymentIds, now_ms
from engine.pushing import PushAcquirer
from engine.reconciler import Reconciler
from engine.relay import Relay
from engine.sealing import AesGcmSealer, parse_fingerprint_secret, parse_keys
from engine.store.batch import Batcher, RedisClient
from engine.store.check import StoreReport
from engine.store.circuits import RedisCircuits
from engine.store.connect import is_cluster
from engine.store.depths import RedisDepths
from engine.store.due import RedisDue
from engine.store.jobs import RedisJobs
from engine.store.keys import Keys
from engine.store.leases import ShardLeases
from engine.store.notifications import RedisNotifications
from engine.store.outbox import RedisOutbox
from engine.store.payments import RedisPayments
from engine.store.pushes import RedisPushes
from engine.store.sample import AuditSample
from engine.store.vault import RedisVault
from engine.turns import Turns
from engine.vault_acquirer import VaultAcquirer
from engine.vault_card import ACQUIRER as VAULT
from engine.vault_card import CardMarks
from engine.vault_cards import VaultCards
from engine.vault_refunds import VaultRefunds
from engine.waking import Changed
from engine.worker import Processor, Worker
from handlers.console.surface import ERRORS as CONSOLE_ERRORS
from handlers.core_types import CARD_METHODS
from handlers.docs import Docs
from handlers.envelopes import NESTED, Envelope
from handlers.http import BODY_BYTES_MAX, Dresser, Edge
from handlers.limits import Identify
from handlers.openapi import openapi_document
from handlers.ops import HEALTH, Ops
from handlers.protocol import Refuse
from handlers.routes import Drains, ErrorTable, Route, Surface
from handlers.security import security_headers
from handlers.vault_listeners import VaultListeners
from metrics.exposition import Exposition
from metrics.instruments import Instruments
from metrics.merging import MergedExposition
from resilience.guard import Guard, GuardSettings
from resilience.status import BreakerStatus

if TYPE_CHECKING:
    from clients.otlp import OtlpTracer

_VARIABLE = re.compile(r"\{(\w+)\}")
_DRAIN_S = 3.0
"""What a surface may take, at the stop, for what it has answered and not done."""
MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"


class Guards:
    """The guards of all counterparties, by name."""

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments
        self._guards: dict[str, Guard] = {}

    def add(self, name: str, settings: GuardSettings) -> Guard:
        """A new guard."""
        assert name not in self._guards, f"{name} has a guard: two counterparties would share one circuit"
        self._guards[name] = Guard(name, settings, self._instruments)
        return self._guards[name]

    def find(self, name: str) -> Guard | None:
        """The guard of this counterparty, if this process asks it."""
        return self._guards.get(name)

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
        self._scrape = _scraper(self.instruments.registry)
        self.owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.tracer = _tracer(settings, self.instruments, self.owner)
        self.readiness = ReadinessBoard(("store", "process"))
        self.success_rate = SuccessRate()
        activity = Activity() if settings.ops.console else None
        self.changed = Changed()
        self.observer = PaymentObserver(self.instruments, self.success_rate, self.changed, activity)
        self.guards = Guards(self.instruments)
        self.limiting = Limiting(settings, client, self.instruments)
        redis = settings.redis
        self.keys = Keys(redis.shards)
        self.batcher = Batcher(
            client,
            self.instruments,
            waiting_max=redis.steps_waiting_max,
            replicas=redis.replicas,
            replicas_timeout_s=redis.timeout_s / 2,
        )
        self.circuits = Circuits(self.guards, RedisCircuits(self.batcher), now_ms, configured=counterparties(settings))
        self.check = check
        self._job_made = asyncio.Event()
        made = RedisPayments if self.tracer is None else partial(TracedPayments, self.tracer)
        self.payments: RedisPayments = made(
            self.batcher,
            self.keys,
            jobs_max=redis.jobs_max,
            outbox_max=redis.outbox_max,
            cvv_ttl_s=settings.cards.cvv_ttl_s,
            job_made=self._job_made,
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
        self.notifications = RedisNotifications(
            self.batcher, self.keys, kept_s=round(settings.notify.keep_days * 86_400)
        )
        self.console = OpsConsole(self, roles, activity) if activity else None
        self.pushes = RedisPushes(self.batcher, self.keys)
        self.phones = self._phones() if settings.mpesa.base_url else None
        self.stored_cards = self._stored_cards()
        self.worker = self._worker() if "worker" in roles else None
        self.dead_letters = KafkaPublisher(settings.kafka) if self._listens(roles) else None
        self.listener = self._listener(self.dead_letters) if self.dead_letters else None
        self.publisher = self._publisher() if "relay" in roles else None
        self.relay = self._relay(self.publisher) if self.publisher else None
        self.reconciler: Reconciler | None = None
        self.audit_sample: AuditSample | None = None
        if "reconcile" in roles:
            leases = ShardLeases(self.batcher, self.keys, role="reconcile", owner=self.owner)
            self.reconciler = self._reconciler(leases)
            self.audit_sample = self._audit_sample(leases)

    def door(self, surface: Surface, identify: Identify | None = None) -> Door:
        """A surface with the ops endpoints and its documentation, on an application of its own."""
        limits = self.limiting.of(surface.name)
        routes = [*surface.routes(), *self._ops(surface.health).routes()]
        docs = Docs(openapi_document(surface, routes, version=__version__, rule=limits.rule))
        inner, dressers = inside_edge(self.settings, surface.name, limits, [*routes, *docs.routes()], docs, identify)
        edge = self._edge(surface.name, surface.errors, surface.envelope, dressers)
        application = _application(edge, [*routes, *docs.routes()], inner)
        docs.mount_files(application)
        if isinstance(surface, Drains):
            application.on_cleanup.append(_draining(surface))
        return Door(application, edge.refuse_unparsed)

    def ops_door(self) -> Door:
        """The ops endpoints, and the console if it is there."""
        edge = self._edge("ops", CONSOLE_ERRORS, NESTED, ())
        console = self.console.surface.routes() if self.console else []
        return Door(_application(edge, [*self._ops(HEALTH).routes(), *console]), edge.refuse_unparsed)

    def _edge(self, name: str, errors: ErrorTable, envelope: Envelope, dressers: Sequence[Dresser]) -> Edge:
        return Edge(
            name,
            errors,
            self.instruments,
            envelope,
            always=security_headers(hsts_max_age_s=self.settings.server.hsts_max_age_s),
            dressers=dressers,
            client_of=self.limiting.addresses.of,
            tracer=self.tracer,
        )

    def admit(self) -> None:
        """Raises `StoreUnavailable` while no payment may be taken."""
        state = self.readiness.parts()["store"]
        if state != OK:
            raise StoreUnavailable("the store is not fit to take payments now")

    def counterparty(self, name: str, settings: GuardSettings) -> HttpCounterparty:
        """Somebody to be asked over HTTP, behind a guard of its own."""
        wire = self.wire if self.tracer is None else TracedWire(self.wire, name, self.tracer)
        return HttpCounterparty(wire, self.guards.add(name, settings), timeout_s=settings.timeout_s)

    def traced(self, handle: Handle) -> Handle:
        """The same with a span for each message, where there is tracing."""
        return handle if self.tracer is None else traced_handle(handle, self.tracer)

    def _stored_cards(self) -> VaultCards:
        marks = CardMarks(parse_fingerprint_secret(self.settings.cards.fingerprint_secret))
        return VaultCards(self.vault, self.payments, self.sealer, marks, self.ids, self.turns, now_ms, self.admit)

    def _ops(self, health: Mapping[str, str]) -> Ops:
        return Ops(self.readiness, self._scrape, health)

    def charging(self, acquirers: Acquirers) -> Charging:
        """What the workers do with all acquirers, and a surface that wants to ask one of them now."""
        worker = self.settings.worker
        return Charging(
            self.payments,
            acquirers,
            self.sealer,
            self.observer,
            now_ms,
            lease_s=worker.lease_s,
            recheck_after_s=worker.recheck_after_s,
        )

    def _worker(self) -> Worker:
        worker = self.settings.worker
        processor: Processor = self.charging(self._acquirers())
        if self.tracer:
            processor = TracedProcessor(processor, self.payments, self.tracer)
        return Worker(
            self.jobs, processor, self._job_made, concurrency=worker.concurrency, claim_idle_s=worker.claim_idle_s
        )

    def _acquirers(self) -> Acquirers:
        first, fallbacks = self.settings.acquirer, self.settings.fallbacks
        by_name: dict[str, Acquirer] = {first.name: self._acquirer(first.name, first)}
        for name, fallback in fallbacks.items():
            by_name[name] = self._acquirer(name, fallback)
        by_name[VAULT] = VaultAcquirer(self.vault, self.turns, now_ms)
        order: dict[str, list[str]] = {
            method: [first.name, *(name for name, fallback in fallbacks.items() if method in fallback.methods)]
            for method in CARD_METHODS
        }
        order["vault_card"] = [VAULT]
        if self.phones is not None:
            by_name[self.phones.name], order["mobile_money"] = self.phones, [self.phones.name]
        if self.tracer:
            by_name = {name: TracedAcquirer(acquirer, self.tracer) for name, acquirer in by_name.items()}
        return Acquirers(by_name, order)

    def _phones(self) -> PushAcquirer:
        settings = self.settings.mpesa
        queries = self.counterparty("mpesa_queries", settings.guard)
        daraja = Daraja(self.counterparty("mpesa", settings.guard), settings, queries=queries)
        return PushAcquirer(daraja, self.pushes, settings.callback_url, now_ms, send_within_s=settings.send_within_s)

    def _acquirer(self, name: str, settings: AcquirerSettings | FallbackSettings) -> Acquirer:
        counterparty = self.counterparty(name, settings.guard)
        if settings.kind == "stripe":
            line = StripeLine(counterparty, settings.base_url, ApiKey(settings.api_key))
            return StripeAcquirer(line, now_ms, patience_s=settings.guard.deadline_s)
        return CardAcquirer(counterparty, settings.base_url)

    def _relay(self, publisher: KafkaPublisher | EventFile) -> Relay:
        outbox = RedisOutbox(
            self.batcher,
            self.keys,
            topics=topics(self.settings),
            one_by_one=is_cluster(self.client),
            parked_max=self.settings.redis.parked_max,
        )
        leases = ShardLeases(self.batcher, self.keys, role="relay", owner=self.owner)
        traced = publisher if self.tracer is None else TracedPublisher(publisher, self.tracer)
        return Relay(outbox, traced, leases, self.instruments)

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
        handle = self.traced(listeners.handle)
        return KafkaListener(
            self.settings.kafka, listeners.topics, handle, group=vault.group, batch_max=vault.batch_max
        )

    def _reconciler(self, leases: ShardLeases) -> Reconciler:
        due = RedisDue(self.batcher, self.keys, jobs_max=self.settings.redis.jobs_max)
        return Reconciler(due, leases, now_ms, redrive_after_s=self.settings.worker.redrive_after_s)

    def _audit_sample(self, leases: ShardLeases) -> AuditSample | None:
        per_s = self.settings.audit.payments_per_s
        parts = (self.client, self.batcher, self.keys, leases, self.instruments)
        return AuditSample(*parts, payments_per_s=per_s) if per_s else None

    def _publisher(self) -> KafkaPublisher | EventFile:
        if self.settings.kafka.brokers:
            return KafkaPublisher(self.settings.kafka)
        return EventFile(Path(self.settings.events.file))

    def _connections(self) -> int:
        # A cluster's client counts for itself.
        pools = [getattr(each, "connection_pool", each) for each in {self.client, self.limiting.client}]
        lent: int = sum(count for pool in pools for count, _ in getattr(pool, "get_connection_count", list)())
        return lent + self.batcher.connections + self.limiting.connections


def _tracer(settings: Settings, instruments: Instruments, owner: str) -> OtlpTracer | None:
    """What makes spans; none, and nothing of it loaded, where tracing is off. Raises `ConfigError`."""
    # OpenTelemetry's own switch too: it would make spans without ids, and those would travel on.
    if not settings.tracing.enabled or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if not installed():
        raise ConfigError(NOT_INSTALLED)
    from clients.otlp import OtlpTracer

    return OtlpTracer(settings.tracing, instruments, instance=owner, version=__version__)


def _draining(surface: Drains) -> Callable[[web.Application], Awaitable[None]]:
    async def drain(_: web.Application) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                await surface.drained()

    return drain


def _application(edge: Edge, routes: Sequence[Route], inner: Sequence[Any] = ()) -> web.Application:
    application = web.Application(middlewares=[edge.middleware(), *inner], client_max_size=BODY_BYTES_MAX)
    for route in routes:
        # aiohttp's own idea of a path's variable has no braces in it, but a key may.
        path = _VARIABLE.sub(r"{\1:[^/]+}", route.path)
        if route.method == "GET":
            application.router.add_get(path, route.handler, expect_handler=edge.expectation)
        else:
            application.router.add_route(route.method, path, route.handler, expect_handler=edge.expectation)
    return application


def _scraper(registry: CollectorRegistry) -> Callable[[], bytes]:
    folder = os.environ.get(MULTIPROCESS_DIR)
    return MergedExposition(Path(folder)).text if folder else Exposition(registry).text
