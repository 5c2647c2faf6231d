"""A real haproxy before an engine."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support import free_port, temporary_folder

needs_haproxy = pytest.mark.skipif(shutil.which("haproxy") is None, reason="no haproxy on this machine")

_CONFIG = """\
global
    maxconn 100
defaults
    mode http
    option forwardfor
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend clients
    bind 127.0.0.1:{port}
    default_backend engine
backend engine
    server engine 127.0.0.1:{engine}
"""


@contextlib.contextmanager
def _started(port: int, engine_port: int) -> Iterator[None]:
    with temporary_folder() as folder:
        config = Path(folder) / "haproxy.cfg"
        config.write_text(_CONFIG.format(port=port, engine=engine_port))
        process = subprocess.Popen(["haproxy", "-q", "-f", str(config)])
        try:
            yield
        finally:
            process.terminate()
            process.wait(20)


@contextlib.asynccontextmanager
async def haproxy_before(engine_port: int) -> AsyncIterator[str]:
    """It adds the peer's address to `X-Forwarded-For`, in a header of its own. Gives its URL."""
    port = free_port()
    with _started(port, engine_port):
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                await asyncio.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
