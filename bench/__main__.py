"""`make bench`: a bare aiohttp POST, the engine's accept path and its full path, interleaved, with ratios.

Every round starts its processes anew: the engine, a real Redis with an append-only file, the user and order
services in one process and the acquirer in another, and wrk. Then what operators wait for: refunds against payments,
the audit at two sizes, a restart with a full queue, the simulation. Ends with 0 when what came out is right, whatever
the targets say; 1 when a payment was lost, charged twice or refused; 2 when something to run it is missing.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from bench import processes
from bench.console import CASE as CONSOLE
from bench.console import console_round
from bench.engines import token
from bench.limiter import limiter_cost
from bench.loading import CONNECTIONS, USERS, Loader, Wrong
from bench.long import Sample, long_run
from bench.mpesa import mpesa_round, open_pushes
from bench.notifying import notify_round
from bench.operating import operate
from bench.orders import orders_round
from bench.results import Result, machine, ratios, spread, targets
from bench.rounds import Bench, Case, Measured, engine_round, floor_round
from bench.scraping import scrape_cost
from bench.table import table
from bench.vault import vault_round
from bench.webhooks import DEAD, webhooks_round

CASES: Final = (
    Case("floor", "floor"),
    Case("accept", "accept"),
    Case("full", "full"),
    Case("accept, keys", "accept", keyed=True),
    Case("full, keys", "full", keyed=True),
    Case("accept, two", "accept", processes=2),
    Case("full, two", "full", processes=2),
    Case("orders create", "record"),
    Case("orders told", "recorded"),
    Case("orders read", "read"),
    Case("full, logins", "full", logins=5),
    Case("vault pay", "vault"),
    Case("vault told", "vault told"),
    Case("mpesa initiate", "push"),
    Case("notify", "notify"),
    Case("webhooks", "webhooks"),
    Case(DEAD, DEAD),
    CONSOLE,
)
_OPERATING: Final = "operating"
_OPEN_PUSHES: Final = "open pushes"
_ROUNDS: Final = {"floor": floor_round, "record": orders_round, "recorded": orders_round, "read": orders_round,
          "vault": vault_round, "vault told": vault_round, "push": mpesa_round, "notify": notify_round,
          "webhooks": webhooks_round, DEAD: webhooks_round}  # fmt: skip
_RESULTS: Final = Path(__file__).parent / "results"
_NEEDED: Final = {"wrk": "the load generator (Debian: apt-get install wrk)",
                  "redis-server": "6.2 or newer (Debian: apt-get install redis-server)"}  # fmt: skip


def main() -> int:
    """Run the benchmark. Returns the exit code."""
    given = _parser().parse_args()
    missing = [f"{name} is not on the PATH: {what}" for name, what in _NEEDED.items() if shutil.which(name) is None]
    if missing:
        print("bench: cannot run:\n  " + "\n  ".join(missing), file=sys.stderr)
        return 2
    try:
        with tempfile.TemporaryDirectory(prefix="payments-bench-") as folder:
            bench = Bench(Path(folder), Loader(token()), given.seconds, given.kafka)
            result = _run(bench, given)
    except (Wrong, TimeoutError) as wrong:
        print(f"bench: the result is wrong, so no numbers: {wrong}", file=sys.stderr)
        return 1
    _RESULTS.mkdir(exist_ok=True)
    path = _RESULTS / f"{result.at}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    print(f"\n{table(result)}\n\nkept in bench/results/{path.name}")
    return 0


def _run(bench: Bench, given: argparse.Namespace) -> Result:
    at = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    facts = machine(_redis_version(bench.folder))
    cases = [case for case in CASES if not given.only or case.name in ("floor", *given.only)]
    rounds: list[Measured] = []
    for cycle in range(given.rounds):
        for case in cases:
            found = [_ROUNDS.get(case.path, engine_round)(bench, case)] if case != CONSOLE else console_round(bench)
            for measured in found:
                rounds.append(measured)
                _tell(f"cycle {cycle + 1} of {given.rounds}  {measured.case:<14} {measured.per_second:>8.0f} a second")
    limiter = limiter_cost(bench.folder)
    scrape = scrape_cost(bench.folder)
    samples: list[Sample] = long_run(bench, given.payments, _tell) if given.payments else []
    operated = operate(bench, given.rounds, _tell) if not given.only or _OPERATING in given.only else {}
    if not given.only or _OPEN_PUSHES in given.only:
        operated |= open_pushes(bench, given.rounds, _tell)
    operating = {name: spread(values) for name, values in operated.items()}
    shares = ratios(rounds)
    settings: dict[str, str | int] = {
        "seconds": given.seconds, "cycles": given.rounds, "connections": CONNECTIONS, "users": USERS,
        "events": "kafka" if given.kafka else "file", "store": "one Redis, append-only file synced every second",
    }  # fmt: skip
    marks = targets(shares, rounds, samples, operating, limiter, scrape)
    return Result(at, facts, settings, rounds, samples, operating, shares, marks, limiter, scrape)


def _redis_version(folder: Path) -> str:
    with processes.redis_server(folder) as client:
        return str(processes.info(client, "server")["redis_version"])


def _tell(text: str) -> None:
    print(text, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench", description="What a payment costs, against bare aiohttp.")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="cycles over all cases (default: 3)")
    parser.add_argument("--seconds", type=int, default=4, metavar="N", help="load of one round (default: 4)")
    parser.add_argument(
        "--only", action="append", choices=[*(case.name for case in CASES), _OPERATING, _OPEN_PUSHES],
        help="just this and the floor",
    )  # fmt: skip
    parser.add_argument("--kafka", default="", metavar="HOST:PORT", help="events go to this broker, not to a file")
    parser.add_argument(
        "--long", action="store_const", const=200_000, dest="payments", default=0,
        help="then 200,000 payments through one engine, with its memory",
    )  # fmt: skip
    parser.add_argument("--payments", type=int, metavar="N", help="as --long, with another number")
    return parser


if __name__ == "__main__":
    sys.exit(main())
