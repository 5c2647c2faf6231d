"""The processes of the benchmark: started, waited for, and ended with everything else."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import redis

from bench.loading import Wrong
from bench.upstreams import Stats

ROOT: Final = Path(__file__).parent.parent
_START_S: Final = 30.0
_STOP_S: Final = 30.0


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def fetch(url: str) -> bytes:
    """The body of a `GET`. Raises `OSError` for anything but a 2xx."""
    with urllib.request.urlopen(url, timeout=10) as response:
        body: bytes = response.read()
        return body


class Server:
    """A process that serves HTTP on `base`, with its output in `log`."""

    def __init__(self, process: subprocess.Popen[bytes], base: str, log: Path) -> None:
        self.base = base
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def last_words(self) -> str:
        """The end of what it has written; a moment later, because it gathers its lines."""
        time.sleep(0.5)
        return "\n".join(self._log.read_text().splitlines()[-8:])

    def wait_for_all(self, count: int) -> None:
        """Wait until so many processes behind one port have started. `/ready` is answered by any one of them."""
        ends_at = time.monotonic() + _START_S
        while self._log.read_text().count('"message":"started"') < count:
            if time.monotonic() > ends_at:
                raise Wrong(f"{count} processes did not start, their last words:\n{self.last_words()}")
            time.sleep(0.05)
        for _ in range(10 * count):
            self.wait_for("/ready")

    def wait_for(self, path: str) -> None:
        """Wait until `GET path` is answered with 2xx. Raises `Wrong` when that takes too long."""
        ends_at = time.monotonic() + _START_S
        while time.monotonic() < ends_at and self._process.poll() is None:
            try:
                fetch(self.base + path)
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise Wrong(f"a process did not start, its last words:\n{self.last_words()}")


@contextlib.contextmanager
def server(
    arguments: Sequence[str], port: int, path: str, folder: Path, settings: Mapping[str, str]
) -> Iterator[Server]:
    """Run `python -m <arguments>` until the block ends."""
    log = folder / f"{arguments[0]}-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], env=environment(settings), cwd=folder, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
    try:
        started = Server(process, f"http://127.0.0.1:{port}", log)
        started.wait_for(path)
        yield started
    finally:
        _end(process)


@contextlib.contextmanager
def upstreams(folder: Path) -> Iterator[Server]:
    """Run the upstreams' process once; it is started twice, for the services and for the acquirer."""
    port = free_port()
    with server(("bench.upstreams", str(port)), port, "/stats", folder, {}) as started:
        yield started


def stats(upstream: Server) -> Stats:
    """What the upstream has counted."""
    return msgspec.json.decode(fetch(upstream.base + "/stats"), type=Stats)


@contextlib.contextmanager
def floor(folder: Path) -> Iterator[Server]:
    """Run the bare aiohttp server."""
    port = free_port()
    with server(("bench.floor", str(port)), port, "/ready", folder, {}) as started:
        yield started


@contextlib.contextmanager
def engine(folder: Path, port: int, arguments: Sequence[str], settings: Mapping[str, str]) -> Iterator[Server]:
    """Write the dataset marker and run the engine as `serve` with these arguments and settings."""
    made = subprocess.run(
        [sys.executable, "-m", "app", "init"],
        env=environment(settings), cwd=folder, check=False, capture_output=True, text=True,
    )  # fmt: skip
    if made.returncode:
        raise Wrong(f"the engine cannot be initialised: {made.stderr[-2000:]}")
    with server(("app", "serve", *arguments), port, "/ready", folder, settings) as started:
        yield started


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[redis.Redis]:
    """Run an empty Redis that writes its append-only file every second; gives a client to look into it."""
    port = free_port()
    data = folder / f"redis-{port}"
    data.mkdir()
    options = {
        "port": str(port), "bind": "127.0.0.1", "dir": str(data), "save": "", "appendonly": "yes",
        "appendfsync": "everysec", "maxmemory-policy": "noeviction", "logfile": str(data / "redis.log"),
    }  # fmt: skip
    arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
    process = subprocess.Popen(["redis-server", *arguments], start_new_session=True, stdin=subprocess.DEVNULL)
    client = redis.Redis(port=port)
    try:
        ends_at = time.monotonic() + _START_S
        while not _answers(client):
            if time.monotonic() > ends_at:
                raise Wrong("redis-server did not start")
            time.sleep(0.02)
        yield client
    finally:
        client.close()
        _end(process)


def redis_url(client: redis.Redis) -> str:
    """The URL of the server behind a client of `redis_server`."""
    return f"redis://127.0.0.1:{client.connection_pool.connection_kwargs['port']}/0"


def counter(metrics: bytes, name: str, **labels: str) -> int:
    """The sum of a counter over its children with these labels, from a Prometheus page."""
    total = 0.0
    for line in re.findall(rf"^{name}\{{.*$", metrics.decode(), re.MULTILINE):
        if all(f'{label}="{value}"' in line for label, value in labels.items()):
            total += float(line.rpartition(" ")[2])
    return int(total)


def info(client: redis.Redis, section: str) -> dict[str, Any]:
    """One section of `INFO`."""
    facts: dict[str, Any] = client.info(section)
    return facts


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """What a process of the benchmark is started with."""
    # Nothing else of ours: a setting in the shell of whoever runs this would change what is measured.
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
