"""Stopping and restarting on purpose: SIGTERM under load, a second signal, and several processes on one port."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections import Counter
from pathlib import Path

import aiohttp
from prometheus_client import CollectorRegistry

from app.process import _watch_store, stop_on_signals
from app.readiness import ReadinessBoard
from engine.store.check import StoreReport
from metrics.instruments import Instruments
from tests.faults.side_by_side import side_by_side
from tests.faults.world import World, eventually, world

STOP_S = 20.0
# A process that is not on time is late by its budget, or for ever; this much a slow machine may take to end one.
SLACK_S = 20.0


@side_by_side
async def test_sigterm_under_load_answers_what_it_took_and_leaves_nothing_undone(folder: Path) -> None:
    """Not ready first, then no new connections, then the rest; what is left is finished by the next process."""
    settings = {"PAYMENTS__SERVER__STOP_S": str(STOP_S), "PAYMENTS__SERVER__UNREADY_S": "5"}
    async with world(folder, settings) as w:
        slow = [await w.shop.wish() for _ in range(8)]
        late = await w.shop.wish()
        buying = asyncio.gather(*(_buy_until_the_door_is_closed(w) for _ in range(2)))
        await eventually(lambda: len(w.shop.posted) >= 150)
        w.engine.signal(signal.SIGTERM)
        started = time.monotonic()
        await eventually(lambda: _unready(w))
        assert (await w.shop.post(late)).outcome == "ok", "who is not ready still serves for a while"
        await w.sims.fault(w.sims.orders, "delay", times=len(slow), delay_s=2.0)
        in_flight = [asyncio.ensure_future(w.shop.post(wish)) for wish in slow]
        await eventually(lambda: _fired(w, len(slow)))
        assert await w.engine.ended(STOP_S + SLACK_S) == 0
        assert 5.0 <= time.monotonic() - started < STOP_S
        # Whoever was under way has an answer; the load's next requests have met a closed door.
        assert not [posted for posted in await asyncio.gather(*in_flight) if posted.outcome == "unknown"]
        await buying
        await w.restart()
        await w.judge()


@side_by_side
async def test_a_second_signal_ends_the_process_at_once(folder: Path) -> None:
    """Whoever presses Ctrl-C twice does not want to wait, and loses nothing."""
    async with world(folder, {"PAYMENTS__SERVER__UNREADY_S": "60", "PAYMENTS__SERVER__STOP_S": "120"}) as w:
        await w.sims.fault(w.sims.acquirer, "silence_after", times=1, method="POST")
        await w.shop.insist(await w.shop.wish())
        w.engine.signal(signal.SIGTERM)
        await eventually(lambda: _unready(w))
        await asyncio.sleep(0.4)  # `make` and a terminal may both pass the first one on
        started = time.monotonic()
        w.engine.signal(signal.SIGINT)
        code = await w.engine.ended(60)
        assert time.monotonic() - started < 30.0, "it has waited like after the first signal"
        assert code == 130
        w.engine.environment["PAYMENTS__SERVER__UNREADY_S"] = "0"
        await w.restart()
        await w.judge()


@side_by_side
async def test_sigterm_while_the_counterparties_are_silent_still_ends_within_the_budget(folder: Path) -> None:
    """Silent order service, silent acquirer, blocked sink: the budget holds, and the next process goes on."""
    async with world(folder, {"PAYMENTS__SERVER__STOP_S": "6"}) as w:
        await w.shop.insist(await w.shop.wish())
        await w.sims.fault(w.sims.acquirer, "silence", method="POST")
        await w.shop.insist(await w.shop.wish())
        await w.sims.fault(w.sims.orders, "silence", method="GET")
        hanging = asyncio.ensure_future(w.shop.post(await w.shop.wish()))
        await eventually(lambda: _silent(w))
        w.engine.signal(signal.SIGTERM)
        started = time.monotonic()
        assert await w.engine.ended(6 + SLACK_S) == 0
        assert time.monotonic() - started < 6 + SLACK_S
        await hanging
        for base in (w.sims.acquirer, w.sims.orders):
            await w.sims.clear_faults(base)
        await w.restart()
        await w.judge()


async def test_watching_the_store_ends_though_its_cancellation_was_swallowed() -> None:
    """`asyncio.wait_for` of Python 3.11, in which redis-py waits, does that now and then; the stop hung for ever."""
    instruments = Instruments(CollectorRegistry())
    watching = asyncio.create_task(_watch_store(Swallowing(), instruments, ReadinessBoard(("store",)), 0.01))
    await asyncio.sleep(0.03)
    watching.cancel()
    done, _ = await asyncio.wait([watching], timeout=30)
    assert done


class Swallowing:
    """A check that goes on when it is cancelled in the middle."""

    async def report(self) -> StoreReport:
        """Takes long enough to be cancelled here."""
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.1)
        return StoreReport(())


@side_by_side
async def test_two_processes_share_the_port_the_work_and_the_scrape_and_one_may_die(folder: Path) -> None:
    """Both serve; their metrics are one; a dead child is replaced; the parent's SIGTERM ends all."""
    async with world(folder, start=False) as w:
        await w.engine.start("--processes", "2")
        await eventually(lambda: len(_children(w)) == 2)
        first, second = _children(w)
        await eventually(lambda: _both_started(w))
        assert await _answers_while_stopped(w, first) > 0, "only the first child serves"
        assert await _answers_while_stopped(w, second) > 0, "only the second child serves"

        await w.shop.load(120, keys=True)
        await w.healed()
        evidence = await w.evidence()
        ended = Counter(payment["status"] for payment in evidence.shown.values())
        for status in ("completed", "failed"):
            assert await w.engine.metric("payments_processed_total", status=status) == ended[status]

        async with w.shop.buying():
            await w.shop.until_accepted(180)
            os.kill(first, signal.SIGKILL)
            await eventually(lambda: len(_children(w)) == 2 and first not in _children(w))
        await w.judge()
        assert await _processed(w) <= len(w.shop.accepted), "a scrape counts nothing twice"
        children = _children(w)
        assert second in children
        assert await w.engine.stop() == 0
        assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


@side_by_side
async def test_sighup_stops_in_order_one_process_and_several(folder: Path) -> None:
    """A closed terminal sends it; it ended the parent at once and left its children alone."""
    async with world(folder, {"PAYMENTS__SERVER__STOP_S": "6"}) as w:
        w.engine.signal(signal.SIGHUP)
        assert await w.engine.ended(6 + SLACK_S) == 0
        assert _stopped(w) == 1
        await w.engine.start("--processes", "2")
        await eventually(lambda: len(_children(w)) == 2)
        children = _children(w)
        w.engine.signal(signal.SIGHUP)
        assert await w.engine.ended(6 + SLACK_S) == 0
        assert not [pid for pid in children if _runs(pid)]


async def test_sighup_is_left_alone_under_nohup() -> None:
    """`nohup make run &` is meant to outlive its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = asyncio.Event()
    try:
        stop_on_signals(stop)
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0.05)
        assert not stop.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(stop.wait(), 5)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            asyncio.get_running_loop().remove_signal_handler(number)
        signal.signal(signal.SIGHUP, before)


@side_by_side
async def test_the_children_of_a_killed_parent_stop_and_free_the_ports(folder: Path) -> None:
    """They went on for ever, and shared the ports with whatever was started next."""
    async with world(folder, {"PAYMENTS__SERVER__STOP_S": "6"}, start=False) as w:
        await w.engine.start("--processes", "2")
        await eventually(lambda: _both_started(w))
        first, _ = _children(w)
        # One that was started later is tied to its parent in the same way.
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: len(_children(w)) == 2 and first not in _children(w))
        await eventually(lambda: w.engine.log.read_text().count('"started"') == 3)
        children = _children(w)
        try:
            w.engine.kill()
            await eventually(lambda: not [pid for pid in children if _runs(pid)], timeout_s=6 + SLACK_S)
        finally:
            for pid in filter(_runs, children):
                os.kill(pid, signal.SIGKILL)
        assert _stopped(w) == 2, "not in stages"
        with socket.socket() as alone:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind(("127.0.0.1", w.engine.port))
            alone.listen()


async def _buy_until_the_door_is_closed(w: World) -> None:
    while "ClientConnectorError" not in (await w.shop.post(await w.shop.wish(key=False))).detail:
        pass


async def _fired(w: World, count: int) -> bool:
    return bool((await w.sims.faults(w.sims.orders))["fired"]["delay"] >= count)


async def _silent(w: World) -> bool:
    return all([(await w.sims.faults(base))["fired"]["silence"] for base in (w.sims.orders, w.sims.acquirer)])


async def _unready(w: World) -> bool:
    return (await w.engine.ready_parts())[0] == 503


async def _processed(w: World) -> float:
    return await w.engine.metric("payments_processed_total")


def _children(w: World) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{w.engine.pid}/task/{w.engine.pid}/children").read_text().split()]


def _runs(pid: int) -> bool:
    """Whether it is there and no zombie, which nobody may collect in a container."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _stopped(w: World) -> int:
    return w.engine.log.read_text().count('"stopped"')


def _both_started(w: World) -> bool:
    return w.engine.log.read_text().count('"started"') == 2


async def _answers_while_stopped(w: World, pid: int) -> int:
    """How many of thirty new connections are answered while this process stands still."""
    timeout = aiohttp.ClientTimeout(4.0)
    os.kill(pid, signal.SIGSTOP)
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True), timeout=timeout) as session:
            answers = await asyncio.gather(*(_health(session, w.engine.base) for _ in range(30)))
    finally:
        os.kill(pid, signal.SIGCONT)
    return sum(answers)


async def _health(session: aiohttp.ClientSession, base: str) -> bool:
    try:
        async with session.get(base + "/health") as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False
