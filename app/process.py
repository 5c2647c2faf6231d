"""One process of the engine: staged start, staged stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import structlog
from aiohttp import web

from app.embedded import FAKE_URL, FakeCheck, fake_client
from app.notifying import Notifier, notifier
from app.readiness import ReadinessBoard
from app.settings import Settings
from app.surfaces import Mounted, surfaces
from app.wiring import Door, Parts, StoreCheck
from clients.http import open_session
from engine.store.check import RedisCheck, StoreReport
from engine.store.connect import connect
from handlers.protocol import EnvelopeProtocol
from metrics.instruments import Instruments

_KEEPALIVE_S = 75.0
_LAST_PASSES_S = 3.0
_SAME_SIGNAL_S = 0.2
"""A shell or `make` may pass the same Ctrl-C on a second time."""


class StartRefused(Exception):
    """The process cannot start as it is configured; the message says what to change."""


async def run(
    settings: Settings, roles: Sequence[str], *, stop: asyncio.Event, reuse_port: bool = False, create: bool = False
) -> None:
    """Run the engine until `stop` is set, then stop in stages within `server.stop_s`.

    `create` writes the dataset marker into an empty Redis first. Raises `StartRefused`.
    """
    fake = settings.redis.url == FAKE_URL
    client = fake_client() if fake else connect(settings.redis)
    async with contextlib.AsyncExitStack() as resources:
        resources.push_async_callback(client.aclose)
        redis = RedisCheck(client, settings.redis)
        if create and not fake:
            await _create_dataset(redis)
        check: StoreCheck = FakeCheck() if fake else redis
        report = await _fit(check)
        _log_report(report)
        wire = await resources.enter_async_context(open_session(client_id=settings.kafka.client_id))
        parts = Parts(settings, roles, client, wire, check)
        resources.push_async_callback(parts.limiting.aclose)
        # Just checked: else the first requests would be refused until the watch has looked for itself.
        parts.readiness.report("store")
        _show(report, parts.instruments)
        await _serve(parts, surfaces(parts, roles), notifier(parts, roles), stop=stop, reuse_port=reuse_port)


def stop_on_signals(stop: asyncio.Event) -> None:
    """SIGTERM, SIGINT and SIGHUP ask for a staged stop; a second one ends the process at once.

    SIGHUP, which a closed terminal sends, is left alone where it is ignored: that is what `nohup` asks for.
    """
    loop = asyncio.get_running_loop()
    first_at = 0.0

    def asked() -> None:
        nonlocal first_at
        if not stop.is_set():
            first_at = loop.time()
            stop.set()
        elif loop.time() - first_at > _SAME_SIGNAL_S:
            os._exit(130)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            loop.add_signal_handler(number, asked)


def stop_at_eof(stop: asyncio.Event, pipe: int) -> None:
    """Ask for a staged stop when nobody holds the other end of the pipe any more, as after the parent's kill -9."""
    loop = asyncio.get_running_loop()

    def ended() -> None:
        if os.read(pipe, 1):
            return
        loop.remove_reader(pipe)
        os.close(pipe)
        if not stop.is_set():
            structlog.get_logger().error("supervisor is gone")
            stop.set()

    os.set_inheritable(pipe, False)
    loop.add_reader(pipe, ended)


async def _serve(
    parts: Parts, mounted: Sequence[Mounted], notifying: Notifier | None, *, stop: asyncio.Event, reuse_port: bool
) -> None:
    async with asyncio.TaskGroup() as tasks:
        if parts.tracer:
            parts.tracer.start()
        batching = tasks.create_task(parts.batcher.run())
        counting = tasks.create_task(parts.limiting.run())
        # Before the first call to anybody: what was held open by hand stays so through a restart.
        await parts.circuits.follow()
        if parts.worker:
            await parts.jobs.open()
        watching = [
            tasks.create_task(
                _watch_store(parts.check, parts.instruments, parts.readiness, parts.settings.redis.check_every_s)
            ),
            tasks.create_task(parts.sampler.run()),
            tasks.create_task(parts.circuits.run()),
        ]
        if parts.console:
            watching.append(tasks.create_task(parts.console.run()))
        if parts.audit_sample:
            watching.append(tasks.create_task(parts.audit_sample.run()))
        working = tasks.create_task(parts.worker.run()) if parts.worker else None
        relaying = tasks.create_task(parts.relay.run()) if parts.relay else None
        reconciling = tasks.create_task(parts.reconciler.run()) if parts.reconciler else None
        listening = tasks.create_task(parts.listener.run()) if parts.listener else None
        if notifying:
            notifying.start(tasks)
        async with _listening_ops(parts, reuse_port), contextlib.AsyncExitStack() as listeners:
            # Without a limit there is no connection for it either.
            if any(parts.limiting.of(each.surface.name).rule for each in mounted):
                await parts.limiting.open()
            doors = [
                await listeners.enter_async_context(
                    _listening(parts, parts.door(each.surface, each.identify), each.port, reuse_port)
                )
                for each in mounted
            ]
            # What start-up made stays: looking through it again and again costs some 5 % of the work.
            gc.collect()
            gc.freeze()
            parts.readiness.report("process")
            structlog.get_logger().info("started", ports={each.surface.name: each.port for each in mounted})
            await stop.wait()
            await _stop(
                parts,
                doors,
                working=working,
                relaying=relaying,
                reconciling=reconciling,
                listening=listening,
                notifying=notifying,
            )
        for task in (*watching, batching, counting):
            task.cancel()
    structlog.get_logger().info("stopped")


async def _stop(
    parts: Parts,
    doors: Sequence[_Listening],
    *,
    working: asyncio.Task[None] | None,
    relaying: asyncio.Task[None] | None,
    reconciling: asyncio.Task[None] | None,
    listening: asyncio.Task[None] | None,
    notifying: Notifier | None,
) -> None:
    """The stages, under one budget. What does not finish is in Redis, and is taken up by whoever starts next."""
    ends_at = time.monotonic() + parts.settings.server.stop_s
    structlog.get_logger().info("stopping", budget_s=parts.settings.server.stop_s)
    parts.readiness.report("process", "stopping")
    if parts.console:
        parts.console.close()
    await asyncio.sleep(min(parts.settings.server.unready_s, parts.settings.server.stop_s / 2))
    await _cancelled(reconciling)
    if parts.listener and listening:
        parts.listener.stop()
        await asyncio.wait([listening], timeout=parts.settings.server.stop_s / 3)
        await _cancelled(listening)
    if notifying:
        await notifying.stop(within_s=parts.settings.server.stop_s / 3)
    for door in doors:
        door.listener.close()
    # Requests under way are finished here; aiohttp cancels what is left after its own shutdown timeout.
    await asyncio.gather(*(door.runner.cleanup() for door in doors))
    if parts.worker and working:
        parts.worker.stop()
        await asyncio.wait([working], timeout=max(0.1, ends_at - time.monotonic() - 3.0))
        await _cancelled(working)
    if parts.relay:
        # With a dead broker there is no use in waiting: the events are in the outbox.
        await _last_passes(parts, min(ends_at - 2.0, time.monotonic() + _LAST_PASSES_S))
    await _cancelled(relaying)
    if parts.dead_letters:
        await parts.dead_letters.close()
    if parts.publisher:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.5, ends_at - time.monotonic())):
                await parts.publisher.close()
    if parts.tracer:
        await parts.tracer.close(within_s=min(_LAST_PASSES_S, max(0.5, ends_at - time.monotonic())))


async def _last_passes(parts: Parts, ends_at: float) -> None:
    """Let the relay empty the outbox of its shards while there is time."""
    assert parts.relay is not None
    while time.monotonic() < ends_at:
        if not await parts.relay.waiting():
            return
        await asyncio.sleep(0.05)


async def _cancelled(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait([task])


class _Listening(NamedTuple):
    """A port that is open."""

    listener: asyncio.Server
    runner: web.AppRunner


@contextlib.asynccontextmanager
async def _listening(parts: Parts, door: Door, port: int, reuse_port: bool) -> AsyncIterator[_Listening]:
    loop = asyncio.get_running_loop()
    runner = web.AppRunner(
        door.application, handler_cancellation=False, shutdown_timeout=max(1.0, parts.settings.server.stop_s / 3)
    )
    await runner.setup()
    server = runner.server
    assert server is not None, "the runner is set up"

    def connection() -> EnvelopeProtocol:
        # aiohttp's own keep-alive for runners is an hour; this one also bounds the time for headers.
        return EnvelopeProtocol(
            server, door.refuse, loop=loop, access_log=None, keepalive_timeout=_KEEPALIVE_S, auto_decompress=False
        )

    host = parts.settings.server.host
    try:
        listener = await loop.create_server(connection, host, port, reuse_port=reuse_port or None)
    except OSError as error:
        await runner.cleanup()
        raise StartRefused(f"cannot listen on {host}:{port}: {error.strerror}") from None
    try:
        yield _Listening(listener, runner)
    finally:
        listener.close()
        await runner.cleanup()


@contextlib.asynccontextmanager
async def _listening_ops(parts: Parts, reuse_port: bool) -> AsyncIterator[None]:
    if not parts.settings.ops.port:
        yield
        return
    async with _listening(parts, parts.ops_door(), parts.settings.ops.port, reuse_port):
        yield


async def _fit(check: StoreCheck) -> StoreReport:
    report = await check.report()
    if not report.ok:
        raise StartRefused("\n".join(report.problems))
    return report


async def _create_dataset(check: RedisCheck) -> None:
    try:
        await check.create_dataset()
    except ValueError as error:
        raise StartRefused(str(error)) from None


async def _watch_store(check: StoreCheck, instruments: Instruments, readiness: ReadinessBoard, every_s: float) -> None:
    """Repeat the start-up check while running."""
    before: StoreReport | None = None
    task = asyncio.current_task()
    assert task is not None
    # Not for ever: redis-py waits within `asyncio.wait_for`, which on Python 3.11 may swallow a cancellation, and
    # then the process would never end.
    while not task.cancelling():
        report = await check.report()
        _show(report, instruments)
        readiness.report("store", "ok" if report.ok else "; ".join(report.problems))
        if before is not None and report != before:
            _log_report(report)
        before = report
        await asyncio.sleep(every_s)


def _show(report: StoreReport, instruments: Instruments) -> None:
    instruments.store_fit.set(report.ok)
    if report.durable is not None:
        instruments.store_durable.set(report.durable)


def _log_report(report: StoreReport) -> None:
    log = structlog.get_logger()
    for problem in report.problems:
        log.error("store is not fit", problem=problem)
    for warning in report.warnings:
        log.warning("store is doubtful", warning=warning)
