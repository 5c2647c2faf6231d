"""Several processes of the engine on one port: started, watched, restarted, stopped together."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from typing import Final

import structlog
from prometheus_client import multiprocess

from app.wiring import MULTIPROCESS_DIR

_RESTART_PAUSE_S: Final = 1.0


class Supervisor:
    """Runs `processes` children with the same arguments until `stop` is set.

    A child that ends by itself is started again after a pause. The parent does no work of the engine; the
    kernel spreads connections over the children (SO_REUSEPORT), and their metrics meet in one folder.
    """

    def __init__(self, arguments: Sequence[str], environment: dict[str, str], *, processes: int, stop_s: float) -> None:
        self._arguments = arguments
        self._environment = environment
        self._processes = processes
        self._stop_s = stop_s

    async def run(self, stop: asyncio.Event) -> None:
        """Supervise until stopped; returns when all children have ended."""
        metrics = tempfile.mkdtemp(prefix="payments-metrics-")
        try:
            async with asyncio.TaskGroup() as children:
                for number in range(self._processes):
                    children.create_task(self._keep_up(number, metrics, stop))
        finally:
            shutil.rmtree(metrics, ignore_errors=True)

    async def _keep_up(self, number: int, metrics: str, stop: asyncio.Event) -> None:
        environment = {**os.environ, **self._environment, MULTIPROCESS_DIR: metrics}
        stopping = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                # In a session of its own: Ctrl-C comes to the parent alone, which stops everybody in order.
                child = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "app", *self._arguments, env=environment, start_new_session=True
                )
                ended = asyncio.ensure_future(child.wait())
                await asyncio.wait((ended, stopping), return_when=asyncio.FIRST_COMPLETED)
                if stop.is_set():
                    await self._end(child, ended)
                else:
                    structlog.get_logger().error("process ended by itself", number=number, code=child.returncode)
                    await asyncio.wait((stopping,), timeout=_RESTART_PAUSE_S)
                multiprocess.mark_process_dead(child.pid, metrics)  # type: ignore[no-untyped-call]
        finally:
            stopping.cancel()

    async def _end(self, child: asyncio.subprocess.Process, ended: asyncio.Future[int]) -> None:
        if child.returncode is None:
            child.terminate()
        try:
            await asyncio.wait_for(asyncio.shield(ended), self._stop_s + 2.0)
        except TimeoutError:
            child.kill()
            await ended
