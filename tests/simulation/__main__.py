"""`python -m tests.simulation --seed S --runs N`: run N seeds from S on; a seed alone tells its story again."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter

from tests.simulation.simulation import SOMETIMES, simulate


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Returns 1 when an invariant was broken, or when something that must happen sometimes never did."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10**9), help="the first seed (default: random)")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--trace", action="store_true", help="print everything that happened")
    given = parser.parse_args()
    say(f"seeds {given.seed} to {given.seed + given.runs - 1}")
    fired: Counter[str] = Counter()
    failed, payments, virtual_s = 0, 0, 0.0
    began, began_cpu = time.perf_counter(), time.process_time()
    for seed in range(given.seed, given.seed + given.runs):
        report = simulate(seed)
        fired += report.fired
        payments += report.payments
        virtual_s += report.virtual_s
        if given.trace:
            say("\n".join(report.trace))
        if report.violations:
            failed += 1
            say(f"\nseed {seed} ({report.digest}):")
            for violation in report.violations[:10]:
                say(f"  {violation}")
            say("\n".join(f"    {line}" for line in report.story_of(report.violations[0])))
    took_s, took_cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
    say(
        f"{given.runs} runs, {failed} failed; {payments} payments, {virtual_s / 3600:.1f} virtual hours in"
        f" {took_s:.1f} s: {payments / took_s:.0f} payments/s ({payments / took_cpu_s:.0f} per CPU second)"
    )
    say("happened: " + ", ".join(f"{what} {count}" for what, count in sorted(fired.items())))
    never = [what for what in SOMETIMES if not fired[what]]
    if never:
        say(f"NEVER happened: {', '.join(never)}")
    # A few seeds need not have met everything.
    return int(failed > 0 or (bool(never) and given.runs >= 50))


if __name__ == "__main__":
    sys.exit(main())
