"""The rounds of the M-Pesa surface: phones asked, and what it costs that many have been asked and have not answered.

Safaricom is the simulator, which answers at once. Nobody who is asked decides, so there are no callbacks: what is
measured is a request that makes a payment, waits for a worker to push it, and tells what the push is called.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import msgspec

from bench import processes
from bench.engines import Engine, engine
from bench.loading import Wrong
from bench.measuring import used
from bench.processes import Server, fetch
from bench.rounds import Bench, Case, Measured, drained, load_and_measure
from bench.surface import surface_round
from simulators.daraja import MERCHANT

OPEN: Final = 10_000
OPEN_MIB: Final = f"MiB for {OPEN} open pushes"
OPEN_RATE: Final = f"core with {OPEN} open pushes / without"
OPEN_CPU: Final = f"{OPEN_RATE}, by CPU"
_CLIENT: Final = "550e8400-e29b-41d4-a716-446655440000"
_PACKAGE: Final = "660e8400-e29b-41d4-a716-446655440001"
_WARM_UP_S: Final = 1
_ROUNDS_MAX: Final = 60
"""Seconds of load within which the pushes must be open."""


class Phones(NamedTuple):
    """An engine that asks phones, and who asks them for it."""

    engine: Engine
    base: str
    daraja: Server

    def pushes(self) -> int:
        """How many pushes Safaricom has taken. Raises `Wrong` when one payment has more than one."""
        found: dict[str, Any] = msgspec.json.decode(fetch(self.daraja.base + "/journal/summary"))
        if twice := found["references_with_more_than_one_push"]:
            raise Wrong(f"{len(twice)} payments were pushed more than once")
        return int(found["pushes"])


def mpesa_round(bench: Bench, case: Case) -> Measured:
    """Measure `initiate`. Raises `Wrong` when a phone was not asked, or asked twice."""
    with _phones(bench) as phones:
        bench.loader.run_mpesa(phones.base, _CLIENT, _PACKAGE, seconds=_WARM_UP_S)
        return surface_round(
            case, phones.engine, phones.daraja,
            lambda: bench.loader.run_mpesa(phones.base, _CLIENT, _PACKAGE, seconds=bench.seconds), phones.pushes,
            told=False,
        )  # fmt: skip


def open_pushes(bench: Bench, rounds: int, tell: Callable[[str], None]) -> dict[str, list[float]]:
    """What so many open pushes cost the engine's process in memory, and the core surface's full path in rate.

    Both rates are of one engine, one after the other. The second is measured before the first push is asked about, 30 s
    after it was taken, unless opening them takes as long.
    """
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, value in _with_open_pushes(bench).items():
            found.setdefault(name, []).append(value)
            tell(f"{name:<38} {value:>9.3f}")
    return found


def _with_open_pushes(bench: Bench) -> dict[str, float]:
    case = Case("open pushes", "full")
    with _phones(bench) as phones:
        started = phones.engine
        bench.loader.run_mpesa(phones.base, _CLIENT, _PACKAGE, seconds=_WARM_UP_S)
        drained(started.store)
        load_and_measure(bench, case, started, seconds=_WARM_UP_S)
        without = load_and_measure(bench, case, started, seconds=bench.seconds)
        before = used(started.server.pid)
        _open(bench, phones)
        after = used(started.server.pid)
        with_them = load_and_measure(bench, case, started, seconds=bench.seconds)
    return {
        OPEN_MIB: after.rss_mib - before.rss_mib,
        OPEN_RATE: with_them.per_second / without.per_second,
        OPEN_CPU: without.cpu_us / with_them.cpu_us,
    }


def _open(bench: Bench, phones: Phones) -> None:
    there = phones.pushes()
    for _ in range(_ROUNDS_MAX):
        bench.loader.run_mpesa(phones.base, _CLIENT, _PACKAGE, seconds=1)
        if phones.pushes() - there >= OPEN:
            drained(phones.engine.store)
            return
    raise Wrong(f"only {phones.pushes() - there} pushes are open after {_ROUNDS_MAX} s of load")


@contextlib.contextmanager
def _phones(bench: Bench) -> Iterator[Phones]:
    port, daraja_port = processes.free_port(), processes.free_port()
    with (
        processes.redis_server(bench.folder) as store,
        processes.upstreams(bench.folder) as services,
        processes.upstreams(bench.folder) as acquirer,
        processes.server(
            ("app", "simulate", "daraja", "--port", str(daraja_port)), daraja_port, "/journal/summary", bench.folder, {}
        ) as daraja,
        engine(
            bench.folder, store, services, acquirer,
            full=True, processes_count=1, kafka=bench.kafka, more=_settings(port, daraja),
        ) as started,
    ):  # fmt: skip
        yield Phones(started, f"http://127.0.0.1:{port}", daraja)


def _settings(port: int, daraja: Server) -> dict[str, str]:
    section = {
        "ENABLED": "true",
        "PORT": str(port),
        "BASE_URL": daraja.base,
        "CONSUMER_KEY": MERCHANT.consumer_key,
        "CONSUMER_SECRET": MERCHANT.consumer_secret,
        "SHORTCODE": MERCHANT.shortcode,
        "PASSKEY": MERCHANT.passkey,
        "CALLBACK_SECRET": "bench-callback-secret",
        "CALLBACK_BASE_URL": f"http://127.0.0.1:{port}",
        f"CLIENTS__{_CLIENT}__NAME": "A client",
        f"PACKAGES__{_PACKAGE}__CLIENT": _CLIENT,
        f"PACKAGES__{_PACKAGE}__NAME": "A plan",
        f"PACKAGES__{_PACKAGE}__PRICE": "1500",
    }
    # What asking costs is measured, not how often it is allowed.
    return {f"PAYMENTS__MPESA__{key}": value for key, value in section.items()} | {
        "PAYMENTS__LIMITS__MPESA__REQUESTS": "0"
    }
