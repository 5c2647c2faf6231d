"""After load, trouble and rest, the process holds what it held before: files, sockets, threads, memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import aiohttp

from simulators import cards
from tests.faults.proxy import Proxy, proxy_to
from tests.faults.side_by_side import side_by_side
from tests.faults.world import World, world
from tests.support import token

ROUNDS = 3
REDIS_CONNECTIONS_MAX = 8
LISTEN, CLOSE_WAIT = "0A", "08"  # the kernel's numbers


class Socket(NamedTuple):
    """A TCP socket as the kernel lists it."""

    to_port: int
    state: str
    inode: str


class Held(NamedTuple):
    """What a process holds. Sockets by who is at the other end; of our own clients only those that have left."""

    files: int
    threads: int
    listening: int
    to_redis: int
    to_users: int
    to_orders: int
    to_acquirer: int
    clients_gone: int
    resident_mib: float


@side_by_side
async def test_files_connections_and_threads_return_to_their_baseline_after_each_round_of_load(folder: Path) -> None:
    """Clients that leave early, declines, an acquirer that is silent, cut connections: nothing is kept of them."""
    async with (
        world(folder, redis_proxy=True, acquirer_proxy=True, start=False) as w,
        proxy_to(w.sims.orders) as (orders_proxy, orders_url),
    ):
        assert w.acquirer_proxy is not None
        w.engine.environment["PAYMENTS__ORDERS__URL"] = orders_url + "/api/orders/{id}"
        await w.engine.start()
        rounds: list[Held] = []
        for number in range(1 + ROUNDS):
            await _round(w, cut=number == ROUNDS)
            await w.healed()
            # Kept-alive connections may stay for half a minute; the counterparty may as well end them now.
            cut = orders_proxy.cut_now() + w.acquirer_proxy.cut_now()
            assert cut > 0
            rounds.append(await _at_rest(w, orders_proxy))
        warm = rounds[0]
        for held in rounds:
            assert (held.files, held.threads, held.listening) == (warm.files, warm.threads, 1)
            assert held.to_orders == held.to_acquirer == held.clients_gone == 0
            assert 0 < held.to_redis <= REDIS_CONNECTIONS_MAX
            assert held.to_users <= 1  # one user, asked for by one request at a time
        # What a leak of whole requests would cost in three rounds is more than this.
        assert rounds[-1].resident_mib < warm.resident_mib + 10
        await w.judge()


async def _round(w: World, *, cut: bool) -> None:
    """Some of everything; with `cut`, the connections to Redis break in the middle."""
    await w.sims.fault(w.sims.acquirer, "silence_after", times=3, method="POST")
    buying = asyncio.ensure_future(w.shop.load(120, concurrency=32))
    leaving = [asyncio.ensure_future(_leave_early(w)) for _ in range(10)]
    await asyncio.sleep(0.2)
    if cut:
        assert w.proxy.cut_now() > 0
    await asyncio.gather(buying, *leaving)
    await w.shop.insist(await w.shop.wish({"cardNumber": cards.ERROR_AFTER_CHARGE}))


async def _leave_early(w: World) -> None:
    """Ask for a payment, wait for its end, and leave before."""
    wish = await w.shop.wish({"cardNumber": cards.LATE})
    timeout = aiohttp.ClientTimeout(0.3)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            headers = {"Authorization": f"Bearer {token()}", "Idempotency-Key": str(wish.key), "Prefer": "wait=3"}
            async with session.post(f"{w.engine.base}/api/payments", json=wish.body(), headers=headers):
                pass
    except TimeoutError:
        pass
    await w.shop.insist(wish)


async def _at_rest(w: World, orders_proxy: Proxy) -> Held:
    """What the engine holds as soon as that stays the same for a second."""
    same = 0
    held = _held(w, orders_proxy)
    while same < 20:
        await asyncio.sleep(0.05)
        before, held = held, _held(w, orders_proxy)
        same = same + 1 if held[:-1] == before[:-1] else 0
    return held


def _held(w: World, orders_proxy: Proxy) -> Held:
    process = Path(f"/proc/{w.engine.pid}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    opened = []
    for file in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            opened.append(os.readlink(file))  # noqa: PTH115 (it is no path)
    inodes = {name[len("socket:[") : -1] for name in opened if name.startswith("socket:[")}
    sockets = [socket for socket in _tcp_sockets(process) if socket.inode in inodes]
    assert w.acquirer_proxy is not None
    to = Counter(socket.to_port for socket in sockets)
    return Held(
        files=sum(not name.startswith("socket:[") for name in opened),
        threads=int(status["Threads"]),
        listening=sum(socket.state == LISTEN for socket in sockets),
        to_redis=to[w.proxy.port],
        to_users=to[int(w.sims.users.rpartition(":")[2])],
        to_orders=to[orders_proxy.port],
        to_acquirer=to[w.acquirer_proxy.port],
        clients_gone=sum(socket.state == CLOSE_WAIT for socket in sockets),
        resident_mib=int(status["VmRSS"].split()[0]) / 1024,
    )


def _tcp_sockets(process: Path) -> list[Socket]:
    lines = [line.split() for line in (process / "net" / "tcp").read_text().splitlines()[1:]]
    return [Socket(int(line[2].rpartition(":")[2], 16), line[3], line[9]) for line in lines]
