"""The rounds of the vault surface: checkouts paid with stored cards."""

from __future__ import annotations

import json
import urllib.request
from typing import Final

from bench import processes
from bench.engines import engine, token
from bench.rounds import Bench, Case, Measured
from bench.surface import booked, surface_round

_WARM_UP_S: Final = 1
_CARDS: Final = 256
_MONEY: Final = 9_000_000_000
_AMOUNT_MINOR: Final = 7548
_ACCOUNT: Final = "merchant:vault|USD"
_USER: Final = "user-1"


def vault_round(bench: Bench, case: Case) -> Measured:
    """Measure the vault surface. Raises `Wrong` when a payment is missing, twice, or not booked."""
    port = processes.free_port()
    base = f"http://127.0.0.1:{port}"
    told = case.path == "vault told"
    with processes.redis_server(bench.folder) as store, processes.upstreams(bench.folder) as nobody:
        settings = {
            "PAYMENTS__VAULT__ENABLED": "true",
            "PAYMENTS__VAULT__PORT": str(port),
            "PAYMENTS__REDIS__OUTBOX_MAX": "10000000",
        }
        with engine(
            bench.folder, store, nobody, nobody, full=told, processes_count=1, kafka=bench.kafka, more=settings
        ) as started:
            cards = [_add_card(base, number) for number in range(_CARDS)]
            bench.loader.run_vault(base, cards, _USER, seconds=_WARM_UP_S)
            return surface_round(
                case, started, nobody,
                lambda: bench.loader.run_vault(base, cards, _USER, seconds=bench.seconds),
                lambda: booked(store, _ACCOUNT, _AMOUNT_MINOR),
                told=told,
            )  # fmt: skip


def _add_card(base: str, number: int) -> str:
    digits = f"4{number:014d}"
    doubled = [int(d) * 2 - 9 * (int(d) > 4) if at % 2 == 0 else int(d) for at, d in enumerate(reversed(digits))]
    body = {
        "cardUserId": _USER, "cardHolderName": "Jo Doe", "cardNumber": f"{digits}{-sum(doubled) % 10}",
        "expireDate": "12/40", "cvv": "123", "money": _MONEY,
    }  # fmt: skip
    request = urllib.request.Request(
        f"{base}/api/payment/add",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {token()}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(json.load(answer)["card"]["id"])
