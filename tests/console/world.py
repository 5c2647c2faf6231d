"""The world of the console's tests: two engine processes on one Redis, seen as an operator sees them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from tests.api.world import Answer, World, world_around
from tests.support import EngineProcess, Sims, simulators, temporary_folder, token

OPERATOR = "ada"


def admin_token() -> str:
    """A token with the role that may touch circuits."""
    return token(OPERATOR, role="admin")


class Operator:
    """Somebody who looks at two processes of one engine, and may touch their circuits."""

    def __init__(self, world: World, second: EngineProcess) -> None:
        self.world, self.second = world, second

    async def order(
        self, name: str, action: str, reason: Any = "tests", *, auth: str | None = None, body: bytes | None = None
    ) -> Answer:
        """`POST /api/circuit-breaker/{name}/{action}` at the first process."""
        raw = json.dumps({"reason": reason}).encode() if body is None else body
        return await self.world.send(
            "POST",
            f"/api/circuit-breaker/{name}/{action}",
            body=raw,
            auth=admin_token() if auth is None else auth or None,
            headers={"Content-Type": "application/json"},
        )

    async def states(self, engine: EngineProcess | None = None) -> dict[str, str]:
        """The state of each circuit in a process, the first by default."""
        response = await (engine or self.world.engine).get("/api/circuit-breaker/status")
        assert response.status == 200
        return {name: circuit["state"] for name, circuit in (await response.json()).items()}

    async def reset_all(self) -> None:
        """Leave every circuit to itself."""
        for name in await self.states():
            assert (await self.order(name, "reset")).status == 200


@contextlib.asynccontextmanager
async def operator_around(sims: Sims, first: dict[str, str], second: dict[str, str]) -> AsyncIterator[Operator]:
    """Two processes with settings of their own."""
    async with world_around(sims, **first) as world:
        with temporary_folder() as folder:
            other = EngineProcess(world.redis.url, sims, folder, **second)
            try:
                await other.start()
                yield Operator(world, other)
            finally:
                await other.close()


@contextlib.asynccontextmanager
async def running_operator(first: dict[str, str], second: dict[str, str]) -> AsyncIterator[Operator]:
    """Start everything."""
    async with simulators() as sims:
        await sims.user()
        async with operator_around(sims, first, second) as operator:
            yield operator
