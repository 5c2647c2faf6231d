"""The world of the gateway's tests: an engine process with both doors open, seen as the gateway's customers see it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from tests.api.world import Answer, World, world_around
from tests.support import ROOT, Sims, free_port, simulators

PASSWORD = "correct horse battery"
CARD = {"cardNumber": "4242424242424242", "expiryMonth": "12", "expiryYear": "2030", "cvv": "123"}
# Hashes that cost nothing, so that the tests do not depend on the machine.
CHEAP = {
    "PAYMENTS__GATEWAY__ARGON2_PASSES": "1",
    "PAYMENTS__GATEWAY__ARGON2_MEMORY_KIB": "64",
    "PAYMENTS__GATEWAY__ARGON2_LANES": "1",
    "PAYMENTS__GATEWAY__LOGINS_WAITING_MAX": "200",
    # Limits have tests of their own.
    "PAYMENTS__LIMITS__GATEWAY__REQUESTS": "0",
    "PAYMENTS__LIMITS__LOGIN_BY_ACCOUNT__REQUESTS": "0",
    "PAYMENTS__LIMITS__LOGIN_BY_ADDRESS__REQUESTS": "0",
}


def payment_body(amount: Any = 75.48, *, method: str = "credit_card", **details: str) -> dict[str, Any]:
    """A valid request of the contract."""
    return {"amount": amount, "payment_method": method, "details": {**CARD, **details}}


class Person:
    """Somebody with an account, logged in."""

    def __init__(self, gateway: Gateway, email: str, token: str, account: dict[str, Any]) -> None:
        self._gateway = gateway
        self.email, self.token, self.account = email, token, account

    @property
    def id(self) -> str:
        """The account's id."""
        return str(self.account["id"])

    async def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        """`POST` with one's own token."""
        return await self._gateway.post(path, body, auth=self.token, **headers)

    async def get(self, path: str) -> Answer:
        """`GET` with one's own token."""
        return await self._gateway.send("GET", path, auth=self.token)

    async def create(self, amount: Any = 75.48, **details: str) -> dict[str, Any]:
        """A payment that waits to be processed."""
        answer = await self.post("/api/payments", payment_body(amount, **details))
        assert answer.status == 201, answer
        return dict(answer.json)

    async def process(self, payment_id: str) -> Answer:
        """Ask for its charge."""
        return await self.post("/api/payments/process", {"paymentId": payment_id})

    async def paid(self, amount: Any = 75.48, **details: str) -> dict[str, Any]:
        """A payment that is completed."""
        payment = await self.create(amount, **details)
        answer = await self.process(payment["id"])
        assert (answer.status, answer.json["status"]) == (200, "completed"), answer
        return dict(answer.json)

    async def refund(self, payment_id: str, body: Any = None, **headers: str) -> Answer:
        """Ask for money back."""
        return await self.post(f"/api/payments/{payment_id}/refund", body, **headers)

    async def status(self, payment_id: str) -> str:
        """Where it stands."""
        answer = await self.get(f"/api/payments/{payment_id}/status")
        assert answer.status == 200, answer
        return str(answer.json["status"])


class Gateway:
    """The gateway's door of a running engine."""

    def __init__(self, world: World, base: str, session: aiohttp.ClientSession) -> None:
        self.world, self.base = world, base
        self._session = session
        self._numbers = itertools.count(1)

    @property
    def sims(self) -> Sims:
        """The counterparties."""
        return self.world.sims

    async def send(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        auth: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send exactly this."""
        sent = CIMultiDict(headers or {})
        if auth is not None:
            sent["Authorization"] = f"Bearer {auth}"
        url = URL(self.base + path, encoded=True)
        skip = () if "Content-Type" in sent else ("Content-Type",)
        async with self._session.request(method, url, data=body, headers=sent, skip_auto_headers=skip) as response:
            return Answer(method, path, response.status, response.headers, await response.read())

    async def post(self, path: str, body: Any = None, *, auth: str | None = None, **headers: str) -> Answer:
        """`POST` a JSON body; bytes are sent as they are."""
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if raw is not None:
            sent.setdefault("Content-Type", "application/json")
        return await self.send("POST", path, body=raw, auth=auth, headers=sent)

    async def register(self, email: str, password: str = PASSWORD, name: str = "Ada Lovelace") -> Answer:
        """`POST /api/auth/register`."""
        return await self.post("/api/auth/register", {"name": name, "email": email, "password": password})

    async def login(self, email: str, password: str = PASSWORD) -> Answer:
        """`POST /api/auth/login`."""
        return await self.post("/api/auth/login", {"email": email, "password": password})

    async def person(self) -> Person:
        """Somebody new, logged in."""
        email = f"person-{next(self._numbers)}@example.com"
        registered = await self.register(email)
        assert registered.status == 201, registered
        logged_in = await self.login(email)
        assert logged_in.status == 200, logged_in
        return Person(self, email, logged_in.json["token"], registered.json)

    async def charges(self, payment_id: str) -> list[tuple[str, int]]:
        """What the acquirer did with the payment's money: kind and minor units, in order."""
        return [(effect["kind"], effect["amount_minor"]) for effect in await self.world.effects_of([payment_id])]

    def refused(self, answer: Answer, status: int, code: str) -> dict[str, Any]:
        """Assert that this is a refusal in the nested envelope."""
        return self.world.refused(answer, status, code)

    async def audit_is_clean(self) -> None:
        """Hold the dataset against the engine's invariants, at rest."""
        await self.world.at_rest()
        ran = subprocess.run(
            [sys.executable, "-m", "app", "audit"],
            env={**os.environ, **self.world.engine.environment}, cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (ran.returncode, json.loads(ran.stdout)["findings"]) == (0, []), ran


@contextlib.asynccontextmanager
async def gateway_around(sims: Sims, **settings: str) -> AsyncIterator[Gateway]:
    """An engine with counterparties that are there already."""
    port = free_port()
    ours = {"PAYMENTS__GATEWAY__ENABLED": "true", "PAYMENTS__GATEWAY__PORT": str(port), **CHEAP, **settings}
    async with world_around(sims, **ours) as world:
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            yield Gateway(world, f"http://127.0.0.1:{port}", session)


@contextlib.asynccontextmanager
async def running_gateway(**settings: str) -> AsyncIterator[Gateway]:
    """Start everything; `settings` are environment variables of the engine."""
    async with simulators() as sims:
        await sims.user()
        async with gateway_around(sims, **settings) as gateway:
            yield gateway
