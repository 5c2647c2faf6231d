"""The load: wrk with 32 connections, each sending the next payment as soon as the last one is answered."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

CONNECTIONS: Final = 32
USERS: Final = 1000
_SCRIPT: Final = Path(__file__).with_name("load.lua")
_REFUND_SCRIPT: Final = Path(__file__).with_name("refund.lua")
_ORDERS_SCRIPT: Final = _SCRIPT.with_name("orders.lua")
_VAULT_SCRIPT: Final = _SCRIPT.with_name("vault.lua")
_MPESA_SCRIPT: Final = _SCRIPT.with_name("mpesa.lua")
_MARK: Final = "RESULT "


class Wrong(Exception):
    """The benchmark ran, and what came out is not right. Its numbers mean nothing."""


class Load(msgspec.Struct, frozen=True):
    """What wrk saw. Latency is from sending a request to its whole answer."""

    requests: int
    duration_us: int
    p50_us: int
    p99_us: int
    status: int
    connect: int
    read: int
    write: int
    timeout: int

    @property
    def requests_a_second(self) -> float:
        """Answers by time."""
        return self.requests / (self.duration_us / 1e6)


class Loader:
    """Runs wrk. Order ids never repeat within one benchmark."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._runs = itertools.count(1)

    def run(self, base: str, *, seconds: int, keyed: bool) -> Load:
        """Payments for some seconds. Raises `Wrong` when anything but a 2xx came back."""
        prefix = f"order-{next(self._runs)}"
        return self._run(base, _SCRIPT, seconds, prefix, self._token, str(USERS), "keyed" if keyed else "plain")

    def refund(self, base: str, payments: Path, *, seconds: int) -> Load:
        """Refunds of the payments whose ids stand in the file, a line each, for some seconds. Raises `Wrong`."""
        return self._run(base, _REFUND_SCRIPT, seconds, str(payments), self._token)

    def run_orders(self, base: str, *, seconds: int, read: int) -> Load:
        """Load the orders surface: record payments or, of the first `read`, read one after the other."""
        what = ("read", str(read)) if read else ("create", "1")
        return self._run(base, _ORDERS_SCRIPT, seconds, str(next(self._runs)), self._token, str(USERS), *what)

    def run_vault(self, base: str, cards: Sequence[str], user: str, *, seconds: int) -> Load:
        """Load the vault surface: pay checkouts with the cards in turn."""
        return self._run(base, _VAULT_SCRIPT, seconds, str(next(self._runs)), self._token, user, ",".join(cards))

    def run_mpesa(self, base: str, client: str, package: str, *, seconds: int) -> Load:
        """Load the M-Pesa surface: ask phones, each for the price of the client's package."""
        return self._run(base, _MPESA_SCRIPT, seconds, str(next(self._runs)), client, package)

    def _run(self, base: str, script: Path, seconds: int, *arguments: str) -> Load:
        command = [
            "wrk", "--threads", "1", "--connections", str(CONNECTIONS), "--duration", f"{seconds}s",
            "--script", str(script), f"{base}/api/payments", "--", *arguments,
        ]  # fmt: skip
        ended = subprocess.run(command, capture_output=True, text=True, check=False, start_new_session=True)
        lines = [line for line in ended.stdout.splitlines() if line.startswith(_MARK)]
        if ended.returncode or not lines:
            raise Wrong(f"wrk failed: {ended.stdout[-500:]}{ended.stderr[-500:]}")
        load = msgspec.json.decode(lines[0].removeprefix(_MARK), type=Load)
        if load.status or load.connect or load.read or load.write or load.timeout or not load.requests:
            raise Wrong(f"not every request was answered with 2xx: {load}")
        return load
