"""Two engines behind the balancer that compose.yaml ships: each is restarted under load, and no client notices."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple, cast

import aiohttp
import pytest

from tests.faults.side_by_side import side_by_side
from tests.faults.world import Engine, Shop, eventually, world
from tests.support import ROOT, free_port

UNREADY_S = "4"
"""The balancer looks every second and believes the second look; a loaded machine may be late by another."""


class Balancer(NamedTuple):
    """What a shop needs to know of an engine: where it is."""

    base: str


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="no haproxy on this machine")
@side_by_side
async def test_a_rolling_restart_under_load_fails_no_request(folder: Path) -> None:
    """Also none that the client would have to repeat: every single answer is a payment."""
    async with world(folder, {"PAYMENTS__SERVER__UNREADY_S": UNREADY_S}) as w:
        other = w.another_engine()
        await other.start()
        async with _balancer(folder, w.engines) as balancer:
            shop = w.shop = Shop(lambda: cast(list[Engine], [balancer]), w.session, w.sims)
            async with shop.buying(customers=4):
                for engine in (w.engine, other):
                    await _more(shop, 50)
                    restarting = asyncio.create_task(engine.stop())
                    await _more(shop, 50)
                    assert await restarting == 0
                    await _more(shop, 50)
                    await engine.start()
                    await eventually(functools.partial(_serves, engine))
        assert [posted for posted in shop.posted if posted.outcome != "ok"] == []
        await w.judge()


@contextlib.asynccontextmanager
async def _balancer(folder: Path, engines: list[Engine]) -> AsyncIterator[Balancer]:
    """HAProxy with the shipped configuration, but for names: Docker's are addresses here."""
    port = free_port()
    sections = re.split(r"\n(?=frontend |backend )", (ROOT / "compose/haproxy.cfg").read_text())
    # The other surfaces have doors of their own; one is enough to see whether anybody notices.
    kept = [each for each in sections if re.match(r"(?!frontend |backend )|\w+ core\n", each)]
    shipped = "\n".join([*kept, ""])
    own = re.sub(r"resolvers docker\n(?:    .*\n)+", "", shipped).replace(" resolvers docker init-addr none", "")
    own = own.replace("bind :3003", f"bind 127.0.0.1:{port}")
    servers = "\n".join(f"    server engine-{each.port} 127.0.0.1:{each.port}" for each in engines)
    own, replaced = re.subn(r"    server-template .*", servers, own)
    assert replaced == 1
    (folder / "haproxy.cfg").write_text(own)
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen(
            ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        await _opened(f"http://127.0.0.1:{port}/health")
        yield Balancer(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 10)


async def _opened(url: str) -> None:
    """Until it listens, its refusals are not the engines'."""
    ends_at = time.monotonic() + 60
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < ends_at:
            with contextlib.suppress(aiohttp.ClientConnectorError):
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.05)
    raise AssertionError("the balancer found no engine")


async def _more(shop: Shop, count: int) -> None:
    """Wait until so many more payments were accepted."""
    await shop.until_accepted(len(shop.accepted) + count)


async def _serves(engine: Engine) -> bool:
    """Whether the balancer sends payments here."""
    return await engine.metric("http_requests_total", route="/api/payments", method="POST", status="201") > 0
