"""What a run says: medians, ratios, targets; as a table, and as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import msgspec

from bench.long import Sample
from bench.rounds import Measured

_LIBRARIES: Final = ("aiohttp", "uvloop", "redis", "hiredis", "msgspec")


class Range(NamedTuple):
    """A median with its extremes."""

    median: float
    least: float
    most: float


class Target(msgspec.Struct, frozen=True):
    """A number to reach. `reached` is None where this run did not measure it."""

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
    ratios: dict[str, Range]
    targets: list[Target]


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


def ratios(rounds: Sequence[Measured]) -> dict[str, Range]:
    """Rates as shares of another's rate, each taken within one cycle: the machine is not the same from one to the next."""
    by_case = _by_case(rounds)
    pairs = {
        "accept / floor": ("accept", "floor"),
        "accept with key / floor": ("accept, key", "floor"),
        "full / floor": ("full", "floor"),
        "full with key / floor": ("full, key", "floor"),
        "accept, two processes / one": ("accept, 2 processes", "accept"),
        "full, two processes / one": ("full, 2 processes", "full"),
    }
    found = {}
    for name, (above, below) in pairs.items():
        if above in by_case and below in by_case:
            shares = [a.per_second / b.per_second for a, b in zip(by_case[above], by_case[below], strict=False)]
            found[name] = _range(shares)
    return found


def targets(shares: Mapping[str, Range], rounds: Sequence[Measured], long_run: Sequence[Sample]) -> list[Target]:
    """The numbers to reach, and whether they are."""

    def share(name: str, least: float) -> Target:
        value = shares[name].median if name in shares else None
        return Target(name, value, f">= {least:g}", None if value is None else value >= least)

    def most(name: str, value: float | None, limit: float) -> Target:
        return Target(name, value, f"<= {limit:g}", None if value is None else value <= limit)

    full = _by_case(rounds).get("full", [])
    bytes_each = (
        long_run[-1].redis_bytes if long_run else median(each.redis_bytes for each in full) if full else None
    )
    return [
        share("accept / floor", 0.30),
        share("full / floor", 0.15),
        share("accept, two processes / one", 1.3),
        share("full, two processes / one", 1.3),
        most("Redis bytes a settled payment", bytes_each, 2048),
        most("RSS MiB after the long run", long_run[-1].rss_mib if long_run else None, 120),
        most("RSS growth MiB, second half of the long run", _growth_mib(long_run), 5),
    ]


def table(result: Result) -> str:
    """The result for people."""
    lines = [" ".join((*_CORNER, *(f"{head:>{width}}" for head, width, _ in _COLUMNS)))]
    for case, rounds in _by_case(result.rounds).items():
        cells = [f"{show(_range([value(each) for each in rounds])):>{width}}" for value, width, show in _CELLS]
        lines.append(" ".join((f"{case:<20}", *cells)))
    lines += ["", f"{'ratio of the rates':<46} {'median':>8} {'min - max':>15}"]
    lines += [f"{name:<46} {r.median:>8.3f} {r.least:>7.3f} -{r.most:>6.3f}" for name, r in result.ratios.items()]
    if result.long_run:
        lines += ["", f"{'payments':>10} {'payments/s':>11} {'RSS MiB':>8} {'Redis B each':>13}"]
        lines += [f"{s.payments:>10} {s.per_second:>11.0f} {s.rss_mib:>8.1f} {s.redis_bytes:>13.0f}" for s in result.long_run]
    lines += ["", f"{'target':<46} {'wanted':>8} {'measured':>9}"]
    lines += [_target_line(target) for target in result.targets]
    return "\n".join(lines)


def _target_line(target: Target) -> str:
    mark = {True: "ok", False: "SHORT", None: "not measured (--long)"}[target.reached]
    value = "" if target.value is None else f"{target.value:.3g}" if target.value < 10 else f"{target.value:.0f}"
    return f"{target.name:<46} {target.wanted:>8} {value:>9}  {mark}"


def _whole(r: Range) -> str:
    return f"{r.median:.0f}" if r.median else "-"


def _tenths(r: Range) -> str:
    return f"{r.median:.1f}"


def _spread(r: Range) -> str:
    return f"{r.least:.0f}-{r.most:.0f}"


_CORNER: Final = (f"{'':<20}",)
_COLUMNS: Final[list[tuple[str, int, None]]] = []
_CELLS: Final[list[tuple[Callable[[Measured], float], int, Callable[[Range], str]]]] = []


def _range(values: Sequence[float]) -> Range:
    return Range(median(values), min(values), max(values))


def _by_case(rounds: Sequence[Measured]) -> dict[str, list[Measured]]:
    found: dict[str, list[Measured]] = {}
    for each in rounds:
        found.setdefault(each.case, []).append(each)
    return found


def _growth_mib(long_run: Sequence[Sample]) -> float | None:
    return long_run[-1].rss_mib - long_run[len(long_run) // 2].rss_mib if len(long_run) >= 4 else None
