"""Serve an acquirer from a process of its own, for a test to kill: `python -m tests.simulators.serving FILE`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from simulators.acquirer import AcquirerSim
from simulators.server import serve


async def main() -> None:
    """Print the base URL and serve until killed."""
    async with serve(AcquirerSim(Path(sys.argv[1]))) as base:
        sys.stdout.write(f"{base}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
