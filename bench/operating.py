"""What operators wait for: the audit, a restart with a full queue, and the simulation."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import redis

from bench import processes
from bench.engines import settings_for
from bench.loading import Wrong
from bench.refunds import refund_round
from bench.rounds import Bench

AUDITED: Final = (20_000, 100_000)
"""Two sizes, so that memory that grows shows."""
WAITING: Final = 100_000
READY: Final = f"s to ready with {WAITING} jobs waiting"
SIMULATED: Final = 60
_RATE: Final = re.compile(r"(\d+) payments/s")


class Audited(NamedTuple):
    """One audit as whoever calls it sees it: the start of the process included."""

    payments: int
    per_second: float
    cpu_us: float
    peak_mib: float


def operate(bench: Bench, rounds: int, tell: Callable[[str], None]) -> dict[str, list[float]]:
    """Measure everything here, each `rounds` times. Raises `Wrong`."""
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)
        tell(f"{name:<38} {value:>9.{3 if value < 10 else 0}f}")

    for _ in range(rounds):
        rates = refund_round(bench)
        note("refunds a second", rates.refunds)
        note("refund / payment, full path", rates.refunds / rates.payments)
    for size in AUDITED:
        for audited in _audits(bench.folder, size, rounds):
            note(f"audit of {size}, payments a second", audited.per_second)
            note(f"audit of {size}, CPU us a payment", audited.cpu_us)
            note(f"audit of {size}, peak RSS MiB", audited.peak_mib)
    for seconds in _restarts(bench.folder, rounds):
        note(READY, seconds)
    for number in range(rounds):
        note("simulation, payments a second", _simulation(1 + number * SIMULATED))
    return found


def _audits(folder: Path, size: int, times: int) -> list[Audited]:
    with processes.redis_server(folder) as store:
        _fill(store, size, "settled")
        return [_audit(store, size) for _ in range(times)]


def _audit(store: redis.Redis, size: int) -> Audited:
    began_at = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "audit"],
        env=processes.environment({"PAYMENTS__REDIS__URL": processes.redis_url(store)}),
        cwd=processes.ROOT, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    report = msgspec.json.decode(process.stdout.read() or b"{}")
    # Not `wait`: only this tells how much memory the process had at most.
    _, status, used = os.wait4(process.pid, 0)
    took_s = time.monotonic() - began_at
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.returncode or report.get("payments") != {"completed": size}:
        raise Wrong(f"the audit of {size} sound payments says: {report}")
    return Audited(size, size / took_s, (used.ru_utime + used.ru_stime) * 1e6 / size, used.ru_maxrss / 1024)


def _restarts(folder: Path, times: int) -> list[float]:
    found = []
    for _ in range(times):
        # Anew each time: the engine begins to work off what waits.
        with processes.redis_server(folder) as store, processes.upstreams(folder) as services:
            _fill(store, WAITING, "waiting")
            found.append(_restart(folder, store, services))
    return found


def _restart(folder: Path, store: redis.Redis, services: processes.Server) -> float:
    """From the start of the process to a `/ready` that says yes. It stops before the queue is worked off."""
    port = processes.free_port()
    settings = {
        **settings_for(port, store, services, services, full=True),
        "PAYMENTS__EVENTS__FILE": str(folder / f"events-{port}.jsonl"),
    }
    jobs = sum(store.xlen(f"{{p{shard:02x}}}:jobs") for shard in range(16))
    if jobs < WAITING * 0.9:
        raise Wrong(f"only {jobs} jobs wait at the restart")
    began_at = time.monotonic()
    with processes.server(("app", "serve"), port, "/ready", folder, settings):
        return time.monotonic() - began_at


def _simulation(seed: int) -> float:
    arguments = ["-m", "tests.simulation", "--seed", str(seed), "--runs", str(SIMULATED)]
    ended = subprocess.run(
        [sys.executable, *arguments], cwd=processes.ROOT, capture_output=True, text=True, check=False
    )
    rate = _RATE.search(ended.stdout)
    if ended.returncode or rate is None:
        raise Wrong(f"the simulation broke: {ended.stdout[-1000:]}{ended.stderr[-500:]}")
    return float(rate.group(1))


def _fill(store: redis.Redis, count: int, state: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "bench.filling", processes.redis_url(store), str(count), state],
        env=processes.environment({}), cwd=processes.ROOT, check=True,
    )  # fmt: skip
