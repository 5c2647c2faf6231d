"""A real Prometheus with our rules, which scrapes one engine, and its notification worker, four times a second."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.faults.world import eventually
from tests.support import ROOT, free_port

SCRAPE_S = 0.25
RATE_INTERVAL = "2s"
"""What Grafana would make of such scrapes: some times the interval."""


class NotUnderstood(Exception):
    """Prometheus refuses the expression."""


class Prometheus:
    """Asks it. Time ranges begin when it was started."""

    def __init__(self, base: str, session: aiohttp.ClientSession) -> None:
        self.base, self._session = base, session
        self._began_s = time.time()

    async def now(self, expression: str) -> list[float]:
        """The values as of now; NaN is a value too. Raises `NotUnderstood`."""
        found = await self._ask("query", {"query": _plain(expression)})
        return [float(series["value"][1]) for series in found["result"]]

    async def ever(self, expression: str) -> list[float]:
        """All values that are numbers, of all series, since the start. Raises `NotUnderstood`."""
        now_s = time.time()
        # Steps are counted from the start: so the last one is now.
        start_s = now_s - math.ceil((now_s - self._began_s) / SCRAPE_S) * SCRAPE_S
        asked = {"query": _plain(expression), "start": start_s, "end": now_s, "step": SCRAPE_S}
        found = await self._ask("query_range", asked)
        values = [float(value) for series in found["result"] for _, value in series["values"]]
        return [value for value in values if math.isfinite(value)]

    async def rules(self) -> dict[str, dict[str, Any]]:
        """Every alert rule, as Prometheus has loaded and evaluated it."""
        groups = (await self._ask("rules", {}))["groups"]
        return {rule["name"]: rule for group in groups for rule in group["rules"]}

    async def _ask(self, what: str, parameters: dict[str, Any]) -> dict[str, Any]:
        asked = {name: str(value) for name, value in parameters.items()}
        async with self._session.get(f"{self.base}/api/v1/{what}", params=asked) as response:
            body = await response.json()
        if body["status"] != "success":
            raise NotUnderstood(body["error"])
        data: dict[str, Any] = body["data"]
        return data


def _plain(expression: str) -> str:
    return expression.replace("$__rate_interval", RATE_INTERVAL)


def executable() -> str:
    """Where it is installed; without it the test fails if it must be there, else it is skipped."""
    found = shutil.which("prometheus")
    if found is None:
        reason = "no prometheus on this machine (Debian package prometheus)"
        if os.environ.get("REQUIRE_PROMTOOL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@contextlib.asynccontextmanager
async def prometheus(folder: Path, **ports: int) -> AsyncIterator[Prometheus]:
    """Start it, with the alert rules as they are stored. `ports`: what each job scrapes."""
    program = executable()
    shutil.copy(ROOT / "metrics/alerts.yml", folder)
    every = {"scrape_interval": f"{SCRAPE_S * 1000:.0f}ms", "scrape_timeout": f"{SCRAPE_S * 1000:.0f}ms"}
    config = {
        "global": {**every, "evaluation_interval": "1s"},
        "rule_files": ["alerts.yml"],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]} for job, port in ports.items()
        ],
    }
    path = folder / "prometheus.yml"
    path.write_text(json.dumps(config))
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    arguments = (
        f"--config.file={path}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([program, *arguments, "--log.level=warn"], cwd=folder, stdout=log, stderr=log)
    try:
        async with aiohttp.ClientSession() as session:

            async def ready() -> bool:
                assert process.poll() is None, (folder / "prometheus.log").read_text()
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{base}/-/ready") as response:
                        return response.status == 200
                return False

            await eventually(ready)
            yield Prometheus(base, session)
    finally:
        process.terminate()
        process.wait(30)
