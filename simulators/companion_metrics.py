"""The metrics of the user and order services, under the names of the contract, on a registry of their own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import prometheus_client
from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_STORE_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5)
_VALUES: Final = (1, 5, 10, 25, 50, 100, 250, 500, 1000, 5000, 10_000, 100_000)


class CompanionMetrics:
    """What both services have; `store_metric` is the promised name of their store's times."""

    def __init__(self, store_metric: str, store_text: str) -> None:
        self.registry = registry = CollectorRegistry()
        self.http_requests = Counter(
            "http_requests_total", "HTTP requests answered.", ["method", "route", "status"], registry=registry
        )
        self.http_duration = Histogram(
            "http_request_duration_seconds", "Seconds to the answer.", ["method", "route"], registry=registry
        )
        self.events_published = Counter(
            "events_published_total", "Events that the broker has acknowledged.", ["event_type"], registry=registry
        )
        self.events_refused = Counter(
            "events_refused_total", "Events that the broker will never take.", ["reason"], registry=registry
        )
        self.connections = Gauge("database_connections_active", "Connections to the store.", registry=registry)
        self._store = Histogram(store_metric, store_text, ["operation"], buckets=_STORE_SECONDS, registry=registry)

    @contextmanager
    def store(self, operation: str) -> Iterator[None]:
        """Take the time of an operation on the store."""
        with self._store.labels(operation).time():
            yield

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count a request; errors are answers by then."""
        began = time.perf_counter()
        answer = await handler(request)
        resource = request.match_info.route.resource
        # What anybody may write is no label.
        labels = (request.method, resource.canonical) if resource is not None else ("unknown", "unknown")
        self.http_requests.labels(*labels, str(answer.status)).inc()
        self.http_duration.labels(*labels).observe(time.perf_counter() - began)
        return answer

    def scrape(self) -> web.Response:
        """What Prometheus reads."""
        body = prometheus_client.generate_latest(self.registry)
        return web.Response(body=body, headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST})


class UserMetrics(CompanionMetrics):
    """Those of the user service."""

    def __init__(self) -> None:
        super().__init__("database_queries_duration_seconds", "Seconds of an operation on the store.")
        self.registrations = Counter("user_registrations_total", "Users created.", registry=self.registry)
        self.verifications = Counter("user_verifications_total", "Users verified.", registry=self.registry)


class OrderMetrics(CompanionMetrics):
    """Those of the order service. Its store has the name of the contract's database, whatever it is."""

    def __init__(self) -> None:
        super().__init__("mongo_operations_duration_seconds", "Seconds of an operation on the store.")
        self.created = Counter("orders_created_total", "Orders created.", registry=self.registry)
        self.value = Histogram(
            "order_value_histogram", "Totals of new orders, in units of their currency.",
            buckets=_VALUES, registry=self.registry,
        )  # fmt: skip
        self.heard = Counter(
            "payment_events_total", "Events of the engine, by what they changed here.", ["outcome"],
            registry=self.registry,
        )  # fmt: skip
        self.refunds = Counter(
            "order_refunds_total", "Refunds asked of the engine, by its answer.", ["answer"], registry=self.registry
        )
