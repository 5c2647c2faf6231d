"""The world of the orders tests: an engine process with both surfaces, a Redis, and a gateway that can be broken."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
from multidict import CIMultiDict

from simulators.internal_gateway import InternalGatewaySim
from tests.api.counterparts import Stoppable
from tests.api.world import PAYMENTS, RETRIES, Answer, World, eventually
from tests.support import ROOT, EngineProcess, RedisServer, Sims, free_port, simulators, temporary_folder, token

ADMIN = token("operator", role="admin")
TOPIC = "payment-events"
_DATASET_ORDERS = 1_000_000


def of(user_id: int) -> str:
    """A token of this user's own."""
    return token(str(user_id))


class FlatWorld(World):
    """A running engine, seen through a surface with the flat envelope."""

    def refused(self, answer: Answer, status: int, code: str | None = None) -> dict[str, Any]:
        """Assert that this is a refusal in the surface's flat envelope; gives all of it."""
        assert answer.status == status, (answer.status, answer.text)
        error: dict[str, Any] = answer.json
        assert (
            {"error", "code", "request_id", "retry"}
            <= set(error)
            <= {"error", "code", "request_id", "retry", "details"}
        )
        assert error["request_id"] == answer.headers["X-Request-Id"]
        assert error["retry"] in RETRIES
        assert code is None or error["code"] == code, error
        return error

    def bodies(self) -> list[bytes]:
        """The events' bodies in the file, byte for byte."""
        lines = self.engine.events_file.read_bytes().splitlines() if self.engine.events_file.exists() else []
        return [line.partition(b'"value":')[2].removesuffix(b"}") for line in lines]

    def audit(self) -> dict[str, Any]:
        """`python -m app audit`."""
        done = subprocess.run(
            [sys.executable, "-m", "app", "audit"],
            env=self.engine.environment, cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        report: dict[str, Any] = json.loads(done.stdout)
        assert (done.returncode == 0) is report["ok"]
        return report


class OrdersWorld(FlatWorld):
    """One running engine, seen through its orders surface."""

    def __init__(
        self,
        server: RedisServer,
        sims: Sims,
        engine: EngineProcess,
        session: aiohttp.ClientSession,
        gateway: Stoppable,
    ) -> None:
        super().__init__(server, sims, engine, session)
        self.gateway = gateway
        self._orders = itertools.count(10_000)

    def new_order(self) -> int:
        """An order that nobody has paid."""
        return next(self._orders)

    async def create(self, body: Mapping[str, Any] | bytes, *, auth: str = ADMIN, key: str | None = None) -> Answer:
        """`POST /api/payments`."""
        headers = CIMultiDict({"Content-Type": "application/json"})
        if key is not None:
            headers["Idempotency-Key"] = key
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.send("POST", PAYMENTS, body=raw, auth=auth, headers=headers)

    async def created(self, *, user_id: int = 1, order_id: int | None = None, amount: float = 99.99) -> dict[str, Any]:
        """A payment that was made."""
        answer = await self.create({"userId": user_id, "orderId": order_id or self.new_order(), "amount": amount})
        assert answer.status == 201, answer
        payment: dict[str, Any] = answer.json["payment"]
        return payment

    async def put_status(self, number: int | str, status: Any, *, auth: str = ADMIN) -> Answer:
        """`PUT /api/payments/:id/status`."""
        body = status if isinstance(status, bytes) else json.dumps({"status": status}).encode()
        headers = {"Content-Type": "application/json"}
        return await self.send("PUT", f"{PAYMENTS}/{number}/status", body=body, auth=auth, headers=headers)

    async def read(self, number: int | str, *, auth: str = ADMIN) -> Answer:
        """`GET /api/payments/:id`."""
        return await self.get(f"{PAYMENTS}/{number}", auth=auth)

    async def listed(self, user_id: int | str, *, auth: str = ADMIN) -> Answer:
        """`GET /api/payments/user/:userId`."""
        return await self.get(f"{PAYMENTS}/user/{user_id}", auth=auth)

    async def published(self, number: int, count: int) -> list[dict[str, Any]]:
        """The lines of the event file about this payment, as soon as there are so many; never more."""

        async def lines() -> list[dict[str, Any]] | None:
            path = self.engine.events_file
            everything = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
            mine = [line for line in everything if line["value"].get("data", {}).get("paymentId") == number]
            return mine if len(mine) >= count else None

        found = await eventually(lines)
        assert len(found) == count
        return found


@contextlib.asynccontextmanager
async def orders_world(orders_max: int = _DATASET_ORDERS, /, **settings: str) -> AsyncIterator[OrdersWorld]:
    """Start everything; `settings` are environment variables of the engine."""
    gateway = Stoppable(InternalGatewaySim(None, orders_max=orders_max))
    async with simulators() as sims, contextlib.AsyncExitStack() as stack:
        await sims.user()
        await gateway.start()
        stack.push_async_callback(gateway.stop)
        folder = stack.enter_context(temporary_folder())
        server = RedisServer(folder)
        server.start()
        stack.callback(server.stop)
        engine = engine_at(server.url, sims, folder, gateway.base, **settings)
        stack.push_async_callback(engine.close)
        await engine.start()
        session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=30), connector=aiohttp.TCPConnector(limit=0)
        )
        await stack.enter_async_context(session)
        yield OrdersWorld(server, sims, engine, session, gateway)


def engine_at(redis_url: str, sims: Sims, folder: Any, gateway: str, **settings: str) -> EngineProcess:
    """An engine with the orders surface too, which is where its `base` leads."""
    port = free_port()
    engine = EngineProcess(
        redis_url, sims, folder,
        PAYMENTS__ORDERS_API__ENABLED="true",
        PAYMENTS__ORDERS_API__PORT=str(port),
        PAYMENTS__ORDERS_API__USERS_URL=gateway + "/internal/users/{id}",
        PAYMENTS__ORDERS_API__ORDERS_URL=gateway + "/internal/orders/{id}",
        **settings,
    )  # fmt: skip
    engine.base = f"http://127.0.0.1:{port}"
    return engine


__all__ = ["ADMIN", "PAYMENTS", "TOPIC", "OrdersWorld", "engine_at", "eventually", "of", "orders_world", "token"]
