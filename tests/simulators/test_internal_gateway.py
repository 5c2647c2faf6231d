"""The gateway simulator: users 1 to 100, orders 1 to 1000, and the faults that all simulators have."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from simulators.internal_gateway import InternalGatewaySim
from simulators.server import serve


@pytest.fixture
async def base() -> AsyncIterator[str]:
    """A gateway that serves."""
    async with serve(InternalGatewaySim(None)) as url:
        yield url


async def ask(url: str) -> tuple[int, object]:
    """GET: status and JSON."""
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.json(content_type=None)


@pytest.mark.parametrize(("path", "last"), [("users", 100), ("orders", 1000)])
async def test_it_knows_the_first_and_the_last_and_none_beyond(base: str, path: str, last: int) -> None:
    for number in (1, last):
        status, body = await ask(f"{base}/internal/{path}/{number}")
        assert status == 200
        assert isinstance(body, dict)
        assert body["id"] == number
    for text in ("0", str(last + 1), "abc", "-1", "1.0", "9" * 30):
        status, body = await ask(f"{base}/internal/{path}/{text}")
        assert (status, body) == (404, {"error": f"{path[:-1].capitalize()} not found", "code": "NOT_FOUND"})


async def test_it_can_be_broken_and_mended(base: str) -> None:
    async with aiohttp.ClientSession() as session:
        fault = {"kind": "status", "status": 503, "path_contains": "/internal/users"}
        async with session.post(f"{base}/_faults", json=fault) as answer:
            assert answer.status == 201
        assert (await ask(f"{base}/internal/users/1"))[0] == 503
        assert (await ask(f"{base}/internal/orders/1"))[0] == 200
        async with session.delete(f"{base}/_faults"):
            pass
        assert (await ask(f"{base}/internal/users/1"))[0] == 200
