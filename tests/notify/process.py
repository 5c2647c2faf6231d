"""`python -m app notify` as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.faults.world import eventually
from tests.support import ROOT, RedisServer, free_port


class NotifyProcess:
    """A worker on a dataset that is there. All that it logs is in one file, over restarts."""

    def __init__(self, server: RedisServer, folder: Path, **settings: str) -> None:
        self.log = folder / "notify.log"
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.environment = {
            "PAYMENTS__REDIS__URL": server.url,
            "PAYMENTS__NOTIFY__PORT": str(self.port),
            "PAYMENTS__EVENTS__FILE": str(folder / "events.jsonl"),
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start, and wait for `/ready`."""
        environment = {**os.environ, **self.environment}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "app", "notify"], env=environment, cwd=ROOT, stderr=log
            )
        ends_at = time.monotonic() + 60
        async with aiohttp.ClientSession() as session:
            while True:
                assert self._process.poll() is None, self.log.read_text()[-2000:]
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{self.base}/ready") as response:
                        if response.status == 200:
                            return
                assert time.monotonic() < ends_at, self.log.read_text()[-2000:]
                await asyncio.sleep(0.05)

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    async def stop(self) -> int:
        """SIGTERM, and wait. Returns the exit code."""
        assert self._process is not None
        process, self._process = self._process, None
        process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(process.wait, 60)

    async def __aenter__(self) -> NotifyProcess:
        """Not started: a block that leaves nothing running, however it ends."""
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None:
            self.kill()

    def lines(self) -> list[dict[str, Any]]:
        """The notifications in its log. Killed in the middle of a line, it leaves half a one."""
        found = []
        for line in self.log.read_text().splitlines():
            with contextlib.suppress(ValueError):
                read = json.loads(line)
                if read["message"] == "notification":
                    found.append(read)
        return found

    @property
    def ids(self) -> list[str]:
        """Which notifications were told by a line."""
        return [line["notification_id"] for line in self.lines()]

    async def counts(self, name: str, value: float, **labels: str) -> None:
        """Wait until a metric has this value; what is counted is counted after it was done."""

        async def there() -> bool:
            return await self.metric(name, **labels) == value

        await eventually(there)

    async def is_behind(self) -> bool:
        """Whether it says that what it had in hand lately was old."""
        return await self.metric("notifications_lag_seconds") > 300

    async def metric(self, name: str, **labels: str) -> float:
        """A metric, summed over all series that have these labels."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.base}/metrics") as response:
            families = text_string_to_metric_families(await response.text())
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(each.value for each in samples if labels.items() <= each.labels.items())
