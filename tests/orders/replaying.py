"""`python -m app events replay` into a file of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.orders.world import FlatWorld
from tests.support import ROOT, temporary_folder


async def replayed(world: FlatWorld) -> list[dict[str, Any]]:
    """Everything that was ever told, told again."""
    with temporary_folder() as folder:
        path = folder / "again.jsonl"
        environment = {**world.engine.environment, "PAYMENTS__EVENTS__FILE": str(path)}
        span = ("--from", "2000-01-01T00:00:00Z", "--to", "2999-01-01T00:00:00Z")
        subprocess.run(
            [sys.executable, "-m", "app", "events", "replay", *span],
            env=environment, cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        return [json.loads(line) for line in path.read_text().splitlines()]
