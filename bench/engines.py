"""The engine under test, with its settings, and what everybody around it has counted."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import jwt
import redis

from bench import processes
from bench.checking import Counts
from bench.processes import Server, counter, fetch, stats

_SECRET: Final = "bench-secret-bench-secret-bench-secret"
_KEY: Final = base64.b64encode(b"bench-bench-bench-bench-bench-32").decode()
_ACCOUNT: Final = "merchant:core|USD"


def token() -> str:
    """A service's token: it may pay for every user."""
    return jwt.encode({"sub": "bench", "role": "service", "exp": time.time() + 86_400}, _SECRET, algorithm="HS256")


class Engine(NamedTuple):
    """A running engine and what it works with."""

    server: Server
    store: redis.Redis
    services: Server
    acquirer: Server
    events: Path | None

    def counts(self) -> Counts:
        """What the engine, the store, the acquirer and the event file say by now."""
        page = fetch(self.server.base + "/metrics")
        acquirer = stats(self.acquirer)
        events, distinct = _events_in(self.events) if self.events else (None, None)
        return Counts(
            accepted=counter(page, "http_requests_total", route="/api/payments", status="201"),
            settled=counter(page, "payments_processed_total", status="completed"),
            published=counter(page, "events_published_total", event_type="payment_completed"),
            booked_minor=self._booked_minor(),
            attempts=acquirer.attempts,
            attempts_twice=acquirer.attempts_twice,
            questions=acquirer.questions,
            events=events,
            events_distinct=distinct,
        )

    def _booked_minor(self) -> int:
        with self.store.pipeline(transaction=False) as pipeline:
            for shard in range(16):
                pipeline.hget(f"{{p{shard:02x}}}:balances", _ACCOUNT)
            return -sum(int(balance or 0) for balance in pipeline.execute())


@contextlib.contextmanager
def engine(
    folder: Path, store: redis.Redis, services: Server, acquirer: Server,
    *, full: bool, processes_count: int, kafka: str, more: Mapping[str, str] | None = None,
) -> Iterator[Engine]:  # fmt: skip
    """Run the engine: all of it, or only its HTTP side, which then takes payments that nobody charges.

    `more` are further settings.
    """
    port = processes.free_port()
    events = None if kafka else folder / f"events-{port}.jsonl"
    settings = {
        "JWT_SEC": _SECRET,
        "PAYMENTS__CORE__PORT": str(port),
        "PAYMENTS__REDIS__URL": processes.redis_url(store),
        "PAYMENTS__CARDS__KEYS": f"bench:{_KEY}",
        "PAYMENTS__CARDS__FINGERPRINT_SECRET": _KEY,
        "PAYMENTS__USERS__URL": services.base + "/api/users/{id}",
        "PAYMENTS__ORDERS__URL": services.base + "/api/orders/{id}",
        "PAYMENTS__ACQUIRER__URL": acquirer.base,
        # Without a worker the jobs only pile up, and that must not be refused.
        "PAYMENTS__REDIS__JOBS_MAX": "100000" if full else "10000000",
        **({"KAFKA_BROKER": kafka} if kafka else {"PAYMENTS__EVENTS__FILE": str(events)}),
        **(more or {}),
    }
    arguments = () if full else ("--roles", "http")
    many = ("--processes", str(processes_count)) if processes_count > 1 else ()
    with processes.engine(folder, port, (*arguments, *many), settings) as server:
        server.wait_for_all(processes_count)
        yield Engine(server, store, services, acquirer, events)


def _events_in(path: Path) -> tuple[int, int]:
    if not path.exists():
        return 0, 0
    with path.open("rb") as file:
        ids = [line.partition(b'"ce_id":"')[2].partition(b'"')[0] for line in file]
    return len(ids), len(set(ids))
