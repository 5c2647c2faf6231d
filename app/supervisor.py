"""Several processes of the engine on one port: started, watched, restarted, stopped together."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Sequence
from typing import Final, Literal

import structlog
from prometheus_client import multiprocess

from app.wiring import MULTIPROCESS_DIR

_RESTART_PAUSE_S: Final = 1.0


class Supervisor:
    """Runs `processes` children of one command until `stop` is set.

    A child that ends by itself is started again after a pause. The parent does no work of the engine; the
    kernel spreads connections over the children (SO_REUSEPORT), and their metrics meet in one folder.

    Each child is given `--stop-at-eof FD`, the end of a pipe that nobody writes to. Only the parent holds the
    other end, so the pipe ends when the parent does, however it does: else its children would keep the ports.
    """

    def __init__(self, command: Sequence[str], environment: dict[str, str], *, processes: int, stop_s: float) -> None:
        self._command = command
        self._environment = environment
        self._processes = processes
        self._stop_s = stop_s

    async def run(self, stop: asyncio.Event) -> None:
        """Supervise until stopped; returns when all children have ended."""
        metrics = tempfile.mkdtemp(prefix="payments-metrics-")
        # Both are closed by `exec`; a child inherits only what it is passed, so never the end that we hold.
        alive, held = os.pipe()
        try:
            async with asyncio.TaskGroup() as children:
                for number in range(self._processes):
                    children.create_task(self._keep_up(number, metrics, alive, stop))
        finally:
            os.close(alive)
            os.close(held)
            shutil.rmtree(metrics, ignore_errors=True)

    async def _keep_up(self, number: int, metrics: str, alive: int, stop: asyncio.Event) -> None:
        stopping = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                try:
                    child = await self._start(metrics, alive)
                except OSError as error:
                    # No memory or no process to be had for a moment: no reason to take the others down.
                    structlog.get_logger().error("process not started", number=number, reason=str(error))
                else:
                    await self._watch(child, number, metrics, stopping)
                await asyncio.wait((stopping,), timeout=_RESTART_PAUSE_S)
        finally:
            stopping.cancel()

    async def _start(self, metrics: str, alive: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self._command,
            "--stop-at-eof",
            str(alive),
            env={**os.environ, **self._environment, MULTIPROCESS_DIR: metrics},
            pass_fds=(alive,),
            # In a session of its own: Ctrl-C comes to the parent alone, which stops everybody in order.
            start_new_session=True,
        )

    async def _watch(
        self, child: asyncio.subprocess.Process, number: int, metrics: str, stopping: asyncio.Future[Literal[True]]
    ) -> None:
        ended = asyncio.ensure_future(child.wait())
        try:
            await asyncio.wait((ended, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not stopping.done():
                structlog.get_logger().error("process ended by itself", number=number, code=child.returncode)
        finally:
            # Also when we are cancelled: nobody else knows this child.
            await self._end(child, ended)
            multiprocess.mark_process_dead(child.pid, metrics)  # type: ignore[no-untyped-call]

    async def _end(self, child: asyncio.subprocess.Process, ended: asyncio.Future[int]) -> None:
        if child.returncode is None:
            child.terminate()
        try:
            await asyncio.wait_for(asyncio.shield(ended), self._stop_s + 2.0)
        except TimeoutError:
            child.kill()
            await ended
