"""What a run found out: ratios within one cycle, and the numbers to reach."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import msgspec

from bench.console import UNWATCHED, WATCHED
from bench.limiter import LimiterCost
from bench.long import Sample
from bench.mpesa import OPEN_MIB, OPEN_RATE
from bench.operating import AUDITED, READY
from bench.rounds import Measured
from bench.scraping import ScrapeCost

_LIBRARIES: Final = ("aiohttp", "uvloop", "redis", "hiredis", "msgspec")
_CONSOLE: Final = "full, with one viewer / without"
_PAIRS: Final = {
    "accept / floor": ("accept", "floor"),
    "accept with keys / floor": ("accept, keys", "floor"),
    "full / floor": ("full", "floor"),
    "full with keys / floor": ("full, keys", "floor"),
    "orders create / floor": ("orders create", "floor"),
    "orders told / floor": ("orders told", "floor"),
    "orders read / floor": ("orders read", "floor"),
    "vault pay / floor": ("vault pay", "floor"),
    "vault told / floor": ("vault told", "floor"),
    "mpesa initiate / floor": ("mpesa initiate", "floor"),
    "accept, two processes / one": ("accept, two", "accept"),
    "full, two processes / one": ("full, two", "full"),
    _CONSOLE: (WATCHED, UNWATCHED),
    "full, with a console / without one": (UNWATCHED, "full"),
}
_LOGINS: Final = "full, p99 during 5 logins/s / without"


class Range(NamedTuple):
    """A median with its extremes."""

    median: float
    least: float
    most: float


class Target(msgspec.Struct, frozen=True):
    """A number to reach. `value` and `reached` are None where this run did not measure it."""

    name: str
    value: float | None
    wanted: str
    reached: bool | None


class Result(msgspec.Struct, frozen=True):
    """Everything that a run found out."""

    at: str
    machine: dict[str, str]
    settings: dict[str, str | int]
    rounds: list[Measured]
    long_run: list[Sample]
    operating: dict[str, Range]
    ratios: dict[str, Range]
    targets: list[Target]
    limiter: LimiterCost
    scrape: ScrapeCost


def machine(redis_version: str) -> dict[str, str]:
    """What the numbers depend on. No names of hosts, no paths."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "cpu": models[0].partition(":")[2].strip() if models else platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "redis-server": redis_version,
        "load at the start": f"{os.getloadavg()[0]:.2f}",
        **{name: version(name) for name in _LIBRARIES},
    }


def by_case(rounds: Sequence[Measured]) -> dict[str, list[Measured]]:
    """The rounds of each case, in order."""
    found: dict[str, list[Measured]] = {}
    for each in rounds:
        found.setdefault(each.case, []).append(each)
    return found


def spread(values: Sequence[float]) -> Range:
    """Median and extremes."""
    return Range(median(values), min(values), max(values))


def ratios(rounds: Sequence[Measured]) -> dict[str, Range]:
    """Rates as shares of another's, each within one cycle: the machine is not the same from one to the next."""
    cases = by_case(rounds)
    found: dict[str, Range] = {}
    for name, (above, below) in _PAIRS.items():
        pairs = list(zip(cases.get(above, []), cases.get(below, []), strict=False))
        if pairs:
            found[name] = spread([a.per_second / b.per_second for a, b in pairs])
        if pairs and (below in {"floor", UNWATCHED} or above == UNWATCHED):
            # What the rates would be if the engine never waited for a core: of use where the machine is not quiet.
            found[f"{name}, by CPU"] = spread([b.cpu_us / a.cpu_us for a, b in pairs])
    calm = list(zip(cases.get("full, logins", []), cases.get("full", []), strict=False))
    if calm:
        found[_LOGINS] = spread([busy.p99_ms / idle.p99_ms for busy, idle in calm])
    return found


def targets(
    shares: Mapping[str, Range],
    rounds: Sequence[Measured],
    long_run: Sequence[Sample],
    operating: Mapping[str, Range],
    limiter: LimiterCost,
    scrape: ScrapeCost,
) -> list[Target]:
    """The numbers to reach, and whether they are."""
    full, one_dead = by_case(rounds).get("full", []), by_case(rounds).get("webhooks, dead", [])
    told = by_case(rounds).get("notify", [])
    short_bytes = median(each.redis_bytes for each in full) if full else None
    halfway, end = (long_run[len(long_run) // 2], long_run[-1]) if long_run else (None, None)
    return [
        *(
            _at_least(name, shares[name].median if name in shares else None, least)
            for name, least in (
                ("accept / floor", 0.30),
                ("full / floor", 0.15),
                ("accept, two processes / one", 1.3),
                ("full, two processes / one", 1.3),
                ("orders create / floor", 0.20),
                ("orders read / floor", 0.5),
                ("vault pay / floor", 0.30),
                ("mpesa initiate / floor", 0.15),
                (_CONSOLE, 0.98),
            )
        ),
        *(
            _at_least(name, operating[name].median if name in operating else None, least)
            for name, least in (
                ("refund / payment, full path", 0.8),
                (f"audit of {AUDITED[-1]}, payments a second", 10_000),
                ("simulation, payments a second", 200),
                (OPEN_RATE, 0.9),
            )
        ),
        _at_least("notify, events a second", median(each.per_second for each in told) if told else None, 2_000),
        _at_most("webhooks, one dead, worst delay ms", max((each.worst_ms for each in one_dead), default=None), 1000),
        _at_most("audit, MiB more for five times as many", _gained(operating), 5),
        _at_most(READY, operating[READY].median if READY in operating else None, 5),
        _at_most(_LOGINS, shares[_LOGINS].median if _LOGINS in shares else None, 2.0),
        _at_most(OPEN_MIB, operating[OPEN_MIB].median if OPEN_MIB in operating else None, 60),
        _at_most("Redis bytes a settled payment", end.redis_bytes if end else short_bytes, 2048),
        _at_most("RSS MiB at the end of the long run", end.rss_mib if end else None, 120),
        _at_most("RSS MiB gained in its second half", end.rss_mib - halfway.rss_mib if end and halfway else None, 5),
        _at_most("rate limit, CPU us a request, alone", limiter.alone_us, 120),
        _at_most("rate limit, CPU us a request, of 32", limiter.together_us, 120),
        _at_most("scrape with all labels, CPU ms", scrape.one_ms, 20),
        _at_most("scrape of four processes, CPU ms", scrape.four_ms, 20),
    ]


def _gained(operating: Mapping[str, Range]) -> float | None:
    few, many = (operating.get(f"audit of {size}, peak RSS MiB") for size in AUDITED)
    return many.median - few.median if few and many else None


def _at_least(name: str, value: float | None, least: float) -> Target:
    return Target(name, value, f">= {least:g}", None if value is None else value >= least)


def _at_most(name: str, value: float | None, most: float) -> Target:
    return Target(name, value, f"<= {most:g}", None if value is None else value <= most)
