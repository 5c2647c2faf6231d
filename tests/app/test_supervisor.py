"""The supervisor over small scripts: what one child does to the others, and who ends whom."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

from app.supervisor import Supervisor
from tests.faults.world import eventually

SCRIPT = """#!/bin/sh
echo $$ >> {pids}
exec sleep 600
"""


class Children:
    """A command that notes its process id and then sleeps."""

    def __init__(self, folder: Path) -> None:
        self.command = folder / "child"
        self._pids = folder / "pids"
        self._pids.touch()
        self.command.write_text(SCRIPT.format(pids=self._pids))
        self.command.chmod(0o755)

    @property
    def running(self) -> list[int]:
        """Those that are alive; the supervisor collects those that ended."""
        return [pid for pid in map(int, self._pids.read_text().split()) if Path(f"/proc/{pid}").exists()]


@contextlib.asynccontextmanager
async def supervised(children: Children, stop: asyncio.Event) -> AsyncIterator[asyncio.Task[None]]:
    """Two children that run; none is left when the test fails."""
    task = asyncio.create_task(Supervisor((str(children.command),), {}, processes=2, stop_s=5.0).run(stop))
    try:
        await eventually(lambda: len(children.running) == 2, timeout_s=30)
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        for pid in children.running:
            os.kill(pid, signal.SIGKILL)


async def test_a_restart_that_fails_is_tried_again_and_the_others_go_on(tmp_path: Path) -> None:
    """For a moment there may be no memory for a new process; that took all of them down."""
    children, stop = Children(tmp_path), asyncio.Event()
    away = tmp_path / "away"
    async with supervised(children, stop) as task:
        first, second = children.running
        children.command.rename(away)
        os.kill(first, signal.SIGKILL)
        await asyncio.sleep(2.5)  # one restart has failed, and perhaps a second one
        assert children.running == [second]
        away.rename(children.command)
        await eventually(lambda: len(children.running) == 2, timeout_s=30)
        assert second in children.running
        stop.set()
        await asyncio.wait_for(task, 30)
        assert not children.running


async def test_a_cancelled_supervisor_ends_its_children_before_it_returns(tmp_path: Path) -> None:
    children = Children(tmp_path)
    async with supervised(children, asyncio.Event()) as task:
        task.cancel()
        await asyncio.wait([task], timeout=30)
        assert task.cancelled()
        assert not children.running
