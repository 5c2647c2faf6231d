"""The long run: one engine, many payments, and whether its memory stays flat."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from bench.rounds import Bench, Case, load_and_measure, running

SAMPLE_EVERY = 20_000
_FIRST_S = 5


class Sample(msgspec.Struct, frozen=True):
    """The engine at rest after so many payments. `redis_bytes`: a payment's share of all that was added."""

    payments: int
    per_second: float
    rss_mib: float
    rss_peak_mib: float
    redis_bytes: float


def long_run(bench: Bench, payments: int, tell: Callable[[str], None]) -> list[Sample]:
    """Load one engine until it has settled so many payments; look at it, at rest, about every `SAMPLE_EVERY`."""
    case = Case("long", "full")
    samples: list[Sample] = []
    total, added, seconds = 0, 0.0, _FIRST_S
    with running(bench, case) as started:
        while total < payments:
            part = load_and_measure(bench, case, started, seconds=seconds)
            total += part.payments
            added += part.redis_bytes * part.payments
            samples.append(Sample(total, part.per_second, part.rss_mib, part.rss_peak_mib, added / total))
            tell(f"{total} payments, RSS {part.rss_mib:.1f} MiB")
            # wrk counts seconds, not requests.
            seconds = max(1, round(min(SAMPLE_EVERY, payments - total) * seconds / part.payments))
    return samples
