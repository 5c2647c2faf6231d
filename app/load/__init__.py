"""`python -m app load`: customers for a running demo, so that dashboards have something to show."""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Final

import aiohttp

from app.load.asking import NO_ANSWER, Asker, Doors, doors_of
from app.load.core import CoreCustomer
from app.load.others import OtherCustomer
from app.settings import Settings
from app.tokens import make_token

USER: Final = "550e8400-e29b-41d4-a716-446655440001"
"""The user that `make run` makes."""
UNDER_WAY_MAX: Final = 500
"""Customers at the same time; beyond it new ones wait, and the rate drops."""
_TOKEN_HOURS: Final = 2.0

Errand = Callable[[], Awaitable[None]]


async def load(settings: Settings, given: argparse.Namespace) -> int:
    """Send customers for `given.seconds`, `given.rate` a second; prints what came back.

    Returns 0, or 1 when nobody answers. Raises `ConfigError` for any address but loopback.
    """
    doors = doors_of(settings, given.host)
    async with aiohttp.ClientSession() as session:
        if not await _answers(session, doors.core):
            print(f"payments: nobody answers at {doors.core}: start `make run` first")
            return 1
        asker = Asker(session)
        errands = _errands(settings, asker, doors, await _open_doors(session, doors))
        began_s = time.monotonic()
        sent = await _send(errands, seconds=given.seconds, per_second=given.rate)
        print(_summary(asker, sent, time.monotonic() - began_s))
    return 0 if asker.seconds else 1


def _errands(settings: Settings, asker: Asker, doors: Doors, are_open: frozenset[str]) -> list[tuple[Errand, int]]:
    """What customers do, and how many of them in relation to the others."""
    chance = random.Random()  # noqa: S311
    token = _token(settings, None)
    service = _token(settings, "service")
    core = CoreCustomer(asker, doors, chance, user=USER, token=token, service=service)
    other = OtherCustomer(asker, doors, chance, user=USER, service=service)
    by_door: list[tuple[str, Errand, int]] = [
        (doors.core, core.approved, 50),
        (doors.core, core.declined, 7),
        (doors.core, core.insufficient_funds, 7),
        (doors.core, core.told_nothing, 2),
        (doors.core, core.in_two_steps, 8),
        (doors.core, core.twice, 4),
        (doors.core, core.mistaken, 6),
        (doors.core, core.looking, 6),
        (doors.orders, other.recorded, 8),
        (doors.vault, other.stored_card, 8),
        (doors.gateway, other.account, 2),
        (doors.mpesa, other.phone, 3),
    ]
    return [(errand, weight) for door, errand, weight in by_door if door in are_open]


async def _send(errands: list[tuple[Errand, int]], *, seconds: float, per_second: float) -> int:
    """One customer after the other begins, however long those before take. Returns how many there were."""
    every_s = 1 / per_second
    chosen, weights = zip(*errands, strict=True)
    chance = random.Random()  # noqa: S311
    places = asyncio.Semaphore(UNDER_WAY_MAX)
    # Everybody comes once before chance decides: a short load has something of everything.
    first = list(chosen)
    loop = asyncio.get_running_loop()
    begin_s = loop.time()
    sent = 0

    async def run(errand: Errand) -> None:
        try:
            await errand()
        finally:
            places.release()

    async with asyncio.TaskGroup() as tasks:
        while loop.time() < begin_s + seconds:
            await places.acquire()
            tasks.create_task(run(first.pop() if first else chance.choices(chosen, weights)[0]))
            sent += 1
            await asyncio.sleep(max(0.0, begin_s + sent * every_s - loop.time()))
    return sent


async def _open_doors(session: aiohttp.ClientSession, doors: Doors) -> frozenset[str]:
    """The surfaces that are there."""
    surfaces = doors[:-1]
    are_open = await asyncio.gather(*(_answers(session, base) for base in surfaces))
    return frozenset(base for base, is_open in zip(surfaces, are_open, strict=True) if is_open)


async def _answers(session: aiohttp.ClientSession, base: str) -> bool:
    try:
        timeout = aiohttp.ClientTimeout(5)
        async with session.get(f"{base}/ready", timeout=timeout, allow_redirects=False) as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


def _token(settings: Settings, role: str | None) -> str:
    if settings.auth.mode == "none":
        return "none-needed"
    return make_token(settings.auth, subject=USER, role=role, hours=_TOKEN_HOURS)


def _summary(asker: Asker, customers: int, took_s: float) -> str:
    lines = [f"{customers} customers in {took_s:.0f} s, {len(asker.seconds)} answers"]
    for kind, statuses in sorted(asker.statuses.items()):
        counted = "  ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
        lines.append(f"  {kind:<26} {counted}")
    lost = sum(statuses[NO_ANSWER] for statuses in asker.statuses.values())
    if len(asker.seconds) > 1:
        cuts = statistics.quantiles(asker.seconds, n=100)
        lines.append(f"  answered within {cuts[49] * 1000:.0f} ms (half), {cuts[98] * 1000:.0f} ms (99 of 100)")
    if lost:
        lines.append(f"  {lost} requests were not answered")
    return "\n".join(lines)
