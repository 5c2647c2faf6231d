"""localstripe in a process of its own, on loopback: `python -m tests.stripe.local PORT`."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from tests.support import ROOT, free_port


@contextlib.contextmanager
def localstripe() -> Iterator[str]:
    """Run it until the block ends; gives its URL."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.stripe.local", str(port)], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        ends_at = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, "localstripe ended"
            assert time.monotonic() < ends_at, "localstripe did not start"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def main(port: int) -> None:
    """Serve. Its own command listens on all addresses and keeps its data in a fixed file that runs would share."""
    from aiohttp import web
    from localstripe import resources
    from localstripe.server import app

    resources.Store.dump_to_disk = lambda self: None
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


if __name__ == "__main__":
    main(int(sys.argv[1]))
