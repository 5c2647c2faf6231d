"""A result as people read it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from bench.long import Sample
from bench.results import Range, Result, Target, by_case, spread
from bench.rounds import Measured


class Column(NamedTuple):
    """A head, its width, and what stands under it for all rounds of a case."""

    head: str
    width: int
    cell: Callable[[list[Measured]], str]


def _median(value: Callable[[Measured], float], form: str = ".0f") -> Callable[[list[Measured]], str]:
    def cell(rounds: list[Measured]) -> str:
        middle = spread([value(each) for each in rounds]).median
        return format(middle, form) if middle else "-"

    return cell


def _extremes(rounds: list[Measured]) -> str:
    rates = spread([each.per_second for each in rounds])
    return f"{rates.least:.0f}-{rates.most:.0f}"


FOREIGN_MAX: Final = 0.1
"""Above this share of the machine for other programs, the numbers are about them too."""

COLUMNS: Final = (
    Column("req/s", 7, _median(lambda each: each.per_second)),
    Column("min-max", 13, _extremes),
    Column("p50 ms", 7, _median(lambda each: each.p50_ms, ".1f")),
    Column("p99 ms", 7, _median(lambda each: each.p99_ms, ".1f")),
    Column("CPU us", 7, _median(lambda each: each.cpu_us)),
    Column("Redis us", 8, _median(lambda each: each.redis_us)),
    Column("others us", 9, _median(lambda each: each.upstreams_us)),
    Column("RSS MiB", 7, _median(lambda each: each.rss_mib)),
    Column("Redis B", 7, _median(lambda each: each.redis_bytes)),
    Column("foreign", 7, _median(lambda each: each.foreign, ".0%")),
)


def table(result: Result) -> str:
    """Medians of the rounds, ratios, the long run, and the targets with their marks."""
    lines = [_row("", [f"{column.head:>{column.width}}" for column in COLUMNS])]
    for case, rounds in by_case(result.rounds).items():
        lines.append(_row(case, [f"{column.cell(rounds):>{column.width}}" for column in COLUMNS]))
    foreign = max((each.foreign for each in result.rounds), default=0.0)
    if foreign > FOREIGN_MAX:
        lines.append(f"NOISY: other programs took up to {foreign:.0%} of the machine; repeat this when it is quiet")
    lines.append("(full: charged and told, drain included; CPU and Redis bytes are per payment; others: the upstreams)")
    lines += ["", f"{'ratio of the rates, cycle by cycle':<38} {'median':>8}   min - max"]
    lines += [_ratio(name, ratio) for name, ratio in result.ratios.items()]
    if result.long_run:
        lines += ["", f"{'payments':>10} {'payments/s':>11} {'RSS MiB':>8} {'Redis B each':>13}"]
        lines += [_sample(sample) for sample in result.long_run]
    if result.operating:
        lines += ["", f"{'operating':<38} {'median':>8}   min - max"]
        lines += [_operating(name, values) for name, values in result.operating.items()]
    lines += ["", f"{'target':<38} {'wanted':>8} {'measured':>9}"]
    lines += [_target(target) for target in result.targets]
    return "\n".join(lines)


def _row(name: str, cells: list[str]) -> str:
    return " ".join([f"{name:<14}", *cells])


def _ratio(name: str, ratio: Range) -> str:
    return f"{name:<38} {ratio.median:>8.3f}   {ratio.least:.3f} - {ratio.most:.3f}"


def _operating(name: str, values: Range) -> str:
    form = ".2f" if values.median < 10 else ".0f"
    return f"{name:<38} {values.median:>8{form}}   {values.least:{form}} - {values.most:{form}}"


def _sample(sample: Sample) -> str:
    return f"{sample.payments:>10} {sample.per_second:>11.0f} {sample.rss_mib:>8.1f} {sample.redis_bytes:>13.0f}"


def _target(target: Target) -> str:
    mark = {True: "ok", False: "SHORT", None: "not measured"}[target.reached]
    value = "-" if target.value is None else f"{target.value:.{3 if target.value < 10 else 0}f}"
    return f"{target.name:<38} {target.wanted:>8} {value:>9}  {mark}"
